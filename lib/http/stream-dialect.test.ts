import { describe, expect, test } from "bun:test";
import { dialectOfLine, errorEvent, isPreamble, markOfLine, streamDialectOf } from "./stream-dialect.ts";
import type { Mark, StreamDialect } from "./stream-dialect.ts";

const data = (value: unknown) => `data: ${JSON.stringify(value)}`;
const choice = (delta: object, finish_reason: unknown = null) => ({
  choices: [{ index: 0, delta, finish_reason }],
});
const candidate = (more: object) => ({ candidates: [{ index: 0, ...more }] });

describe("the dialect of a path", () => {
  test.each<[path: string, dialect: StreamDialect]>([
    ["/v1/chat/completions", "chat"],
    ["/v1/chat/completions/", "chat"],
    ["/v1/completions//", "chat"],
    ["/openai/deployments/x/chat/completions", "chat"],
    ["/anthropic/v1/messages", "anthropic"],
    ["/v1/messages/", "anthropic"],
    ["/v1/projects/p/locations/l/publishers/anthropic/models/c:streamRawPredict", "anthropic"],
    ["/v1/projects/p/locations/l/publishers/mistralai/models/m:streamRawPredict", "other"],
    ["/v1/responses", "responses"],
    ["/v1/responses/", "responses"],
    ["/v1beta/models/g:streamGenerateContent", "gemini"],
    ["/v1internal:streamGenerateContent", "gemini"],
    ["/v2/chat", "cohere"],
    ["/api/chat", "ollama"],
    ["/api/generate/", "ollama"],
    ["/v1/chat", "other"],
    ["/", "other"],
  ])("%s: %s", (path, dialect) => {
    expect(streamDialectOf(path)).toBe(dialect);
  });
});

describe("P17 a line of a stream says of its end", () => {
  test.each<[sentence: string, line: string, mark: Mark | null, dialect?: StreamDialect]>([
    ["nothing in a chunk of chat", data(choice({ content: "a" })), null],
    ["nothing where a finish is empty", data(choice({ content: "a" }, "")), null],
    ["that a finish is stated", data(choice({}, "length")), "finished"],
    ["that a finish is stated in a list", data([choice({}, "stop")]), "finished"],
    ["that a finish is stated in a wrapper", data({ response: choice({}, "stop") }), "finished"],
    ["that a finish is stated in two wrappers", data({ result: { response: choice({}, "stop") } }), "finished"],
    ["that a finish of error is none", data(choice({}, "error")), "failed"],
    ["that a finish is stated by DashScope", data({ output: { text: "", finish_reason: "stop" } }), "finished"],
    ["nothing where DashScope's finish is its word for none", data({ output: { text: "a", finish_reason: "null" } }), null],
    ["that DashScope's choice is finished", data({ output: { choices: [{ finish_reason: "stop" }] } }), "finished"],
    ["that text-generation-inference has finished", data({ token: {}, details: { finish_reason: "length" } }), "finished"],
    ["that llama.cpp has finished", data({ content: "", stop: true }), "over"],
    ["nothing where llama.cpp goes on", data({ content: "a", stop: false }), null],
    ["that Gemini has finished", data(candidate({ finishReason: "MAX_TOKENS" })), "finished"],
    ["nothing where Gemini's finish is unspecified", data(candidate({ finishReason: "FINISH_REASON_UNSPECIFIED" })), null],
    ["that Gemini refuses the prompt", data({ promptFeedback: { blockReason: "SAFETY" } }), "finished"],
    ["that Gemini refuses it in a wrapper", data({ response: { promptFeedback: { blockReason: "OTHER" } } }), "finished"],
    ["nothing where Gemini only rates the prompt", data({ promptFeedback: { safetyRatings: [] } }), null],
    ["that Anthropic has finished", data({ type: "message_delta", delta: { stop_reason: "end_turn" } }), "finished"],
    ["nothing where Anthropic's stop_reason is not known yet", data({ type: "message_delta", delta: { stop_reason: null } }), null],
    ["that Anthropic is done", data({ type: "message_stop" }), "over"],
    ["nothing of a block that stops", data({ type: "content_block_stop", index: 0 }), null],
    ["that Responses is done by another name", data({ type: "response.done", response: { status: "completed" } }), "over"],
    ["that Responses is done and has failed", data({ type: "response.done", response: { status: "failed" } }), "over_failed"],
    ["that Responses was cancelled", data({ type: "response.cancelled", response: {} }), "over"],
    ["that Responses has failed", data({ type: "response.failed", response: { error: { code: "x" } } }), "over_failed"],
    ["nothing where a part of Responses is done", data({ type: "response.output_text.done", text: "done" }), null],
    ["nothing where a call in Responses failed", data({ type: "response.mcp_call.failed", item_id: "a" }), null],
    ["nothing where Responses tells of an error of a tool", data({ type: "response.output_item.done", item: { error: "no" } }), null],
    ["that Cohere is done", data({ type: "message-end", delta: { finish_reason: "COMPLETE" } }), "over"],
    ["that Cohere has failed", data({ type: "message-end", delta: { finish_reason: "ERROR", error: "x" } }), "over_failed"],
    ["nothing where a part of Cohere ends", data({ type: "content-end", index: 0 }), null],
    ["that Cohere's older API is done", data({ event_type: "stream-end", finish_reason: "COMPLETE" }), "over"],
    ["that Ollama is done", JSON.stringify({ message: { content: "" }, done: true }), "over"],
    ["that an image is done", data({ type: "image_generation.completed", b64_json: "" }), "over"],
    ["nothing of a part of an image", data({ type: "image_generation.partial_image" }), null],
    ["that speech is done", data({ type: "speech.audio.done" }), "over"],
    ["that a transcript is done", data({ type: "transcript.text.done", text: "" }), "over"],
    ["that it is done by its name", "event: done", "over"],
    ["that it is done by a shorter name", "event:end", "over"],
    ["that chat is done", "data: [DONE]", "over"],
    ["that a stream of nobody is done", "data:[DONE]", "over", "other"],
    ["nothing where Anthropic's gateway says that chat is done", "data: [DONE]", null, "anthropic"],
    ["that it failed, by its name", "event: error", "failed"],
    ["that it failed", data({ error: { message: "x" } }), "failed"],
    ["that it failed in a wrapper", data({ response: { error: { code: 500 } } }), "failed"],
    ["that it failed in a list", data([{ error: { code: 500 } }]), "failed"],
    ["nothing where an error is null", data({ ...choice({ content: "a" }), error: null }), null],
    ["nothing where the model speaks of ends", data(choice({ content: '"finish_reason":"stop" [DONE]' })), null],
    ["nothing where a tool is called with an end", data(candidate({ content: { parts: [{ functionCall: { args: { done: true, finishReason: "x" } } }] } })), null],
    ["nothing where the JSON was cut", 'data: {"choices":[{"finish_reason":"stop"', null],
    ["nothing in a comment", ": [DONE]", null],
    ["nothing where the nesting has no end", `data: ${'{"response":'.repeat(9)}{"done":true}${"}".repeat(9)}`, null],
  ])("%s", (_, line, mark, dialect = "chat") => {
    expect(markOfLine(line, dialect)).toBe(mark);
  }); // prettier-ignore
});

describe("P20 an event that holds no content", () => {
  const event = (value: Record<string, unknown>) =>
    `${"type" in value ? `event: ${String(value["type"])}\n` : ""}data: ${JSON.stringify(value)}\n\n`;
  const message = { id: "msg_1", type: "message", role: "assistant", content: [], stop_reason: null };
  const item = (fields: object) => event({ type: "response.output_item.added", item: fields });
  const block = (content_block: object) => event({ type: "content_block_start", index: 0, content_block });

  test.each<[sentence: string, event: string]>([
    ["says that a response was made", event({ type: "response.created", response: { status: "queued" } })],
    ["says that a response is on its way", event({ type: "response.in_progress", response: {} })],
    ["says that a response waits", event({ type: "response.queued", response: {} })],
    ["begins an empty item", item({ type: "message", role: "assistant", status: "in_progress", content: [] })],
    ["begins to reason without a word", item({ type: "reasoning", summary: [], encrypted_content: "" })],
    ["begins a message", event({ type: "message_start", message })],
    ["begins an empty block", block({ type: "text", text: "" })],
    ["begins a thought", block({ type: "thinking", thinking: "", signature: "" })],
    ["is a sign of life", event({ type: "ping" })],
    ["is a sign of life without data to speak of", "event: ping\ndata: {}\n\n"],
    ["holds a role only", event(choice({ role: "assistant" }))],
    ["holds a role and an empty text", event(choice({ role: "assistant", content: "", refusal: null }))],
    ["holds a role, CRLF", event(choice({ role: "assistant", content: "" })).replaceAll("\n", "\r\n")],
    ["holds Azure's ratings of the prompt", event({ choices: [], prompt_filter_results: [{ prompt_index: 0 }] })],
    ["holds an empty legacy text", event({ choices: [{ text: "", index: 0, finish_reason: null }] })],
    ["is Gemini's, without a word", event(candidate({ content: { role: "model", parts: [{ text: "" }] } }))],
    ["is Gemini's in a wrapper, without a word", event({ response: candidate({ content: { role: "model", parts: [{ text: "" }] } }) })],
    ["begins Cohere's message", event({ type: "message-start", id: "1", delta: { message: { role: "assistant", content: [] } } })],
    ["begins Cohere's content", event({ type: "content-start", index: 0, delta: { message: { content: { type: "text", text: "" } } } })],
    ["is Ollama's, without a word", JSON.stringify({ model: "m", message: { role: "assistant", content: "" }, done: false })],
  ])("%s", (_, text) => {
    expect(isPreamble(text)).toBe(true);
  }); // prettier-ignore

  test.each<[sentence: string, event: string]>([
    ["a word", event(choice({ role: "assistant", content: "a" }))],
    ["a thought", event(choice({ role: "assistant", content: "", reasoning_content: "hm" }))],
    ["a call of a tool", event(choice({ role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments: "" } }] }))],
    ["an end", event(choice({ role: "assistant", content: "" }, "stop"))],
    ["the usage", event({ choices: [], usage: { total_tokens: 3 } })],
    ["a call in Responses", item({ type: "function_call", name: "f", arguments: "" })],
    ["a delta of Responses", event({ type: "response.output_text.delta", delta: "a" })],
    ["a call in Anthropic's", block({ type: "tool_use", name: "f", input: {} })],
    ["a delta of Anthropic's", event({ type: "content_block_delta", delta: { text: "a" } })],
    ["Gemini's word", event(candidate({ content: { role: "model", parts: [{ text: "a" }] } }))],
    ["Gemini's refusal", event({ promptFeedback: { blockReason: "SAFETY" }, candidates: [] })],
    ["Ollama's word", JSON.stringify({ message: { role: "assistant", content: "a" }, done: false })],
    ["Ollama's end", JSON.stringify({ message: { role: "assistant", content: "" }, done: true })],
    ["what nobody knows", event({ progress: 0.5 })],
    ["no JSON", 'data: "role": hello\n\n'],
    ["the last mark of chat", "data: [DONE]\n\n"],
  ])("is not one that holds %s", (_, text) => {
    expect(isPreamble(text)).toBe(false);
  }); // prettier-ignore
});

test.each<[line: string, dialect: StreamDialect | null]>([
  [data(choice({ content: "a" })), "chat"],
  [data(candidate({})), "gemini"],
  [data({ response: candidate({}) }), "gemini"],
  [data([candidate({})]), "gemini"],
  [data({ type: "content_block_delta", delta: {} }), "anthropic"],
  [data({ type: "response.output_text.delta" }), "responses"],
  [data({ type: "content-delta", delta: {} }), "cohere"],
  [data({ type: "progress" }), null],
  [JSON.stringify({ is_finished: false, event_type: "text-generation", text: "a" }), "ollama"],
  [JSON.stringify({ event_type: "click", text: "a" }), null],
  [data({ type: "image_generation.partial_image", b64_json: "" }), "chat"],
  [data({ type: "image_edit.partial_image", b64_json: "" }), "chat"],
  [data({ type: "speech.audio.delta", audio: "" }), "chat"],
  [data({ type: "transcript.text.delta", delta: "a" }), "chat"],
  [data({ token: { text: "a" }, generated_text: null, details: null }), "chat"],
  [data({ token: "a" }), null],
  [data({ output: { text: "a", finish_reason: "null" }, request_id: "r" }), "chat"],
  [data({ output: { choices: [{ message: {}, finish_reason: "null" }] } }), "chat"],
  [data({ output: "a" }), null],
  ["data: text", null],
  [": choices", null],
])("a stream on an unknown path shows what it is: %s", (line, dialect) => {
  expect(dialectOfLine(line)).toBe(dialect);
});

test.each<StreamDialect>(["chat", "anthropic", "responses", "gemini", "cohere", "ollama", "other"])(
  "P17 an error in the words of %s is understood as one",
  (dialect) => {
    const lines = errorEvent(dialect, "upstream_protocol_error", "It broke.").trimEnd().split("\n");
    const marks = lines.map((line) => markOfLine(line, dialect));
    expect(marks.some((mark) => mark === "failed" || mark === "over_failed")).toBe(true);
  },
);
