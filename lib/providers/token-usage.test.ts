import { describe, expect, test } from "bun:test";
import type { TokenUsage } from "../core/events.ts";
import { usageOfBody, usageOfEvents } from "./token-usage.ts";

/** `[input, output, cached, cache write, reasoning]`; null: the answer names none. */
type Counts = [number, number, number?, number?, number?] | null;

const expected = (counts: Counts): TokenUsage | null => {
  if (counts === null) return null;
  const [input, output, cached = 0, cacheWrite = 0, reasoning = 0] = counts;
  return { input, output, cached, cacheWrite, reasoning };
};

const bytes = (text: string) => new TextEncoder().encode(text);
const ofBody = (body: unknown) => usageOfBody(bytes(typeof body === "string" ? body : JSON.stringify(body)));
const NOTHING = new Uint8Array();
const events = (...list: unknown[]) =>
  list.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`).join("");
const ofEvents = (text: string, first = "") =>
  usageOfEvents(bytes(text), first === "" ? NOTHING : bytes(first));

const chatAnswer = (usage: unknown) => ({
  id: "chatcmpl-1",
  object: "chat.completion",
  choices: [{ index: 0, message: { role: "assistant", content: "Good day." }, finish_reason: "stop" }],
  usage,
  service_tier: "default",
});

// Shapes: the types of openai 6.49 (npm, November 2026), @anthropic-ai/sdk 1.14, @google/genai 2.32, cohere-ai 8.1 and
// groq-sdk 1.6 of the same month; others as their row says.
const BODIES: [what: string, body: unknown, counts: Counts][] = [
  [
    "a chat answer with all its details",
    chatAnswer({
      prompt_tokens: 2006,
      completion_tokens: 300,
      total_tokens: 2306,
      prompt_tokens_details: { cached_tokens: 1920, audio_tokens: 0, cache_write_tokens: 12 },
      completion_tokens_details: { reasoning_tokens: 192, audio_tokens: 0, accepted_prediction_tokens: 0 },
    }),
    [2006, 300, 1920, 12, 192],
  ],
  [
    "a chat answer without details",
    chatAnswer({ prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 }),
    [9, 12],
  ],
  [
    "a chat answer whose details are null",
    chatAnswer({ prompt_tokens: 9, completion_tokens: 12, prompt_tokens_details: null }),
    [9, 12],
  ],
  [
    "an answer of Responses, with what the request asked for behind its tokens",
    {
      id: "resp_1",
      object: "response",
      output: [{ type: "message", content: [{ type: "output_text", text: "Good day." }] }],
      usage: {
        input_tokens: 328,
        input_tokens_details: { cached_tokens: 256, cache_write_tokens: 64 },
        output_tokens: 52,
        output_tokens_details: { reasoning_tokens: 32 },
        total_tokens: 380,
      },
      user: null,
      metadata: Object.fromEntries(Array.from({ length: 16 }, (_, n) => [`key-${n}`, "x".repeat(512)])),
    },
    [328, 52, 256, 64, 32],
  ],
  [
    "embeddings",
    {
      object: "list",
      data: [{ object: "embedding", index: 0, embedding: [0.0023, -0.0093] }],
      model: "text-embedding-3-small",
      usage: { prompt_tokens: 8, total_tokens: 8 },
    },
    [8, 0],
  ],
  ["embeddings that name only a sum (Voyage, 2026)", { data: [], usage: { total_tokens: 14 } }, [14, 0]],
  [
    "a picture (OpenAI Images)",
    {
      created: 1,
      data: [{ b64_json: "A".repeat(100_000) }],
      usage: {
        total_tokens: 100,
        input_tokens: 50,
        output_tokens: 50,
        input_tokens_details: { text_tokens: 10, image_tokens: 40 },
      },
    },
    [50, 50],
  ],
  ["a transcript that counts seconds", { text: "hello", usage: { type: "duration", seconds: 12 } }, null],
  [
    "a message of Anthropic: what caches held is counted beside its input, and here within",
    {
      id: "msg_1",
      type: "message",
      content: [{ type: "text", text: "Hi" }],
      stop_reason: "end_turn",
      usage: {
        input_tokens: 21,
        cache_creation_input_tokens: 188,
        cache_read_input_tokens: 4096,
        cache_creation: { ephemeral_5m_input_tokens: 100, ephemeral_1h_input_tokens: 88 },
        output_tokens: 393,
        output_tokens_details: { thinking_tokens: 120 },
        service_tier: "standard",
      },
    },
    [4305, 393, 4096, 188, 120],
  ],
  [
    "a message of Anthropic whose writes are told by their life only",
    {
      type: "message",
      usage: {
        input_tokens: 1,
        cache_creation: { ephemeral_5m_input_tokens: 5, ephemeral_1h_input_tokens: 6 },
        output_tokens: 2,
      },
    },
    [12, 2, 0, 11],
  ],
  [
    "an answer of OpenAI's shape from a gateway in front of Anthropic (LiteLLM, 2026): its input is whole",
    chatAnswer({
      prompt_tokens: 4305,
      completion_tokens: 9,
      total_tokens: 4314,
      cache_read_input_tokens: 4096,
      cache_creation_input_tokens: 188,
    }),
    [4305, 9, 4096, 188],
  ],
  [
    "an answer of Gemini: thoughts are output, results of tools are input",
    {
      candidates: [
        { content: { parts: [{ text: "Hi", thoughtSignature: "x".repeat(3000) }] }, finishReason: "STOP" },
      ],
      usageMetadata: {
        promptTokenCount: 1000,
        candidatesTokenCount: 20,
        totalTokenCount: 1150,
        cachedContentTokenCount: 800,
        promptTokensDetails: [{ modality: "TEXT", tokenCount: 1000 }],
        thoughtsTokenCount: 100,
        toolUsePromptTokenCount: 30,
      },
      modelVersion: "gemini-3-pro",
      responseId: "abc",
    },
    [1030, 120, 800, 0, 100],
  ],
  [
    "an answer of Gemini that was all thought",
    { candidates: [{}], usageMetadata: { promptTokenCount: 5, thoughtsTokenCount: 64 } },
    [5, 64, 0, 0, 64],
  ],
  [
    "an answer of Gemini that was blocked",
    { promptFeedback: { blockReason: "SAFETY" }, usageMetadata: { promptTokenCount: 5, totalTokenCount: 5 } },
    [5, 0],
  ],
  [
    "an answer of Gemini that is one of a list",
    [
      { usageMetadata: { promptTokenCount: 1 } },
      { usageMetadata: { promptTokenCount: 5, candidatesTokenCount: 7 } },
    ],
    [5, 7],
  ],
  [
    "an answer of Gemini in Code Assist's wrapper",
    {
      response: { candidates: [], usageMetadata: { promptTokenCount: 5, candidatesTokenCount: 7 } },
      traceId: "1",
    },
    [5, 7],
  ],
  [
    "an interaction of Gemini",
    {
      id: "1",
      outputs: [],
      usage: {
        total_input_tokens: 7,
        total_output_tokens: 23,
        total_thought_tokens: 49,
        total_cached_tokens: 3,
        total_tool_use_tokens: 0,
        total_tokens: 79,
      },
    },
    [7, 72, 3, 0, 49],
  ],
  [
    "a chat answer of Cohere: what it added itself counts",
    {
      id: "1",
      message: {},
      usage: {
        billed_units: { input_tokens: 5, output_tokens: 418 },
        tokens: { input_tokens: 71, output_tokens: 419 },
        cached_tokens: 64,
      },
    },
    [71, 419, 64],
  ],
  [
    "an answer of Cohere's first version",
    {
      text: "Hi",
      meta: { api_version: { version: "1" }, billed_units: { input_tokens: 5, output_tokens: 18 } },
    },
    [5, 18],
  ],
  ["embeddings of Cohere", { embeddings: {}, meta: { billed_units: { input_tokens: 5 } } }, [5, 0]],
  ["a ranking of Cohere", { results: [], meta: { billed_units: { search_units: 1 } } }, null],
  [
    "an answer of Ollama, with its context between",
    {
      model: "qwen3",
      done: true,
      context: Array.from({ length: 900 }, (_, n) => n),
      total_duration: 5,
      prompt_eval_count: 26,
      prompt_eval_duration: 1,
      eval_count: 298,
    },
    [26, 298],
  ],
  [
    "an answer of DeepSeek (2026-10)",
    chatAnswer({
      prompt_tokens: 100,
      completion_tokens: 7,
      total_tokens: 107,
      prompt_cache_hit_tokens: 64,
      prompt_cache_miss_tokens: 36,
    }),
    [100, 7, 64],
  ],
  [
    "an answer of Moonshot (2026-07)",
    chatAnswer({ prompt_tokens: 2989, completion_tokens: 7, total_tokens: 2996, cached_tokens: 2989 }),
    [2989, 7, 2989],
  ],
  [
    "an answer of xAI (2026-07), which counts thoughts beside the output",
    chatAnswer({
      prompt_tokens: 32,
      completion_tokens: 9,
      total_tokens: 135,
      completion_tokens_details: { reasoning_tokens: 94 },
    }),
    [32, 103, 0, 0, 94],
  ],
  [
    "an answer of Cloudflare, in its envelope",
    {
      result: { response: "Hi", usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 } },
      success: true,
      errors: [],
    },
    [3, 4],
  ],
  [
    "an answer of Bedrock's Converse",
    {
      output: {},
      stopReason: "end_turn",
      usage: {
        inputTokens: 30,
        outputTokens: 4,
        totalTokens: 34,
        cacheReadInputTokens: 100,
        cacheWriteInputTokens: 7,
      },
    },
    [137, 4, 100, 7],
  ],
  [
    "an answer over many lines",
    JSON.stringify(chatAnswer({ prompt_tokens: 9, completion_tokens: 12 }), null, 2),
    [9, 12],
  ],
  [
    "an answer that begins with its tokens",
    {
      usage: { prompt_tokens: 9, completion_tokens: 12 },
      choices: [{ message: { content: "x".repeat(9000) } }],
    },
    [9, 12],
  ],
  [
    "an answer that used none",
    chatAnswer({ prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 }),
    [0, 0],
  ],
  ["an answer without tokens", { id: "1", choices: [] }, null],
  ["an answer whose tokens are null", chatAnswer(null), null],
  ["a count of tokens, which uses none", { input_tokens: 14 }, null],
  ["an answer that talks of tokens in its text", chatAnswer(null).choices, null],
  [
    "text that looks like tokens",
    { content: '{"usage":{"prompt_tokens":5}}', more: ',"usage":{"prompt_tokens":6}' },
    null,
  ],
  [
    "text that looks like tokens behind the tokens",
    { usage: { prompt_tokens: 1, completion_tokens: 2 }, note: '\\"usage":{"prompt_tokens":5}} "usage' },
    [1, 2],
  ],
  [
    "arguments of a tool that look like tokens",
    {
      content: [{ type: "tool_use", input: { usage: { input_tokens: 5, output_tokens: 6 } } }],
      stop_reason: "tool_use",
    },
    null,
  ],
  [
    "arguments of a tool behind the tokens",
    {
      usage: { input_tokens: 1, output_tokens: 2 },
      content: [{ type: "tool_use", input: { usage: { input_tokens: 5 } } }],
    },
    [1, 2],
  ],
  ["nothing", "", null],
  ["no JSON", '"usage', null],
  ["JSON that was cut within its tokens", '{"id":"1","usage":{"prompt_tokens":5,', null],
];

const HOSTILE: [what: string, usage: unknown, counts: Counts][] = [
  ["negative numbers", { prompt_tokens: -5, completion_tokens: 7 }, [0, 7]],
  ["fractions", { prompt_tokens: 1.5, completion_tokens: 7 }, [0, 7]],
  ["a number that no answer reaches", { prompt_tokens: 1e300, completion_tokens: 7 }, [0, 7]],
  [
    "one more than the most",
    { prompt_tokens: 1_000_000_001, completion_tokens: 1_000_000_000 },
    [0, 1_000_000_000],
  ],
  ["text for numbers", { prompt_tokens: "12", completion_tokens: "7" }, null],
  ["lists for numbers", { prompt_tokens: [1], completion_tokens: { a: 1 } }, null],
  ["nothing that is known", { tokens_used: 5 }, null],
  ["names of an object's own", { constructor: { prompt_tokens: 1 }, toString: 5 }, null],
  [
    "more from a cache than there was",
    { prompt_tokens: 5, completion_tokens: 1, prompt_tokens_details: { cached_tokens: 9 } },
    [9, 1, 9],
  ],
  [
    "more thought than there was",
    { prompt_tokens: 5, completion_tokens: 1, completion_tokens_details: { reasoning_tokens: 4 } },
    [5, 5, 0, 0, 4],
  ],
  [
    "details that are text",
    { prompt_tokens: 5, completion_tokens: 1, prompt_tokens_details: "none" },
    [5, 1],
  ],
  ["an object that is too long", { prompt_tokens: 5, completion_tokens: 1, note: "x".repeat(5000) }, null],
];

const delta = (text: string) => ({ choices: [{ index: 0, delta: { content: text } }] });
const messageStart = (usage: unknown) => ({
  type: "message_start",
  message: { id: "msg_1", content: [], usage },
});
const messageDelta = (usage: unknown) => ({
  type: "message_delta",
  delta: { stop_reason: "end_turn" },
  usage,
});
const STOP = { type: "message_stop" };

const STREAMS: [what: string, end: string, start: string, counts: Counts][] = [
  [
    "a chat stream that names them at its end",
    events(
      { ...delta("Hi"), usage: null },
      { choices: [], usage: { prompt_tokens: 9, completion_tokens: 12 } },
      "[DONE]",
    ),
    "",
    [9, 12],
  ],
  [
    "one that was not asked for them",
    events(delta("Hi"), { choices: [{ delta: {}, finish_reason: "stop" }] }, "[DONE]"),
    "",
    null,
  ],
  [
    "one that names them with its finish",
    events(
      { choices: [{ delta: {}, finish_reason: "stop" }], usage: { prompt_tokens: 1, completion_tokens: 2 } },
      "[DONE]",
    ),
    "",
    [1, 2],
  ],
  [
    "one that names them with every event, ever more (vLLM)",
    events(
      { ...delta("a"), usage: { prompt_tokens: 9, completion_tokens: 1 } },
      { ...delta("b"), usage: { prompt_tokens: 9, completion_tokens: 2 } },
      "[DONE]",
    ),
    "",
    [9, 2],
  ],
  [
    "one that names them twice",
    events(
      { ...delta(""), usage: { prompt_tokens: 9, completion_tokens: 2 } },
      { choices: [], usage: { prompt_tokens: 9, completion_tokens: 2 } },
      "[DONE]",
    ),
    "",
    [9, 2],
  ],
  [
    "one whose last word is zero",
    events(
      { ...delta(""), usage: { prompt_tokens: 9, completion_tokens: 2 } },
      { choices: [], usage: { prompt_tokens: 0, completion_tokens: 0 } },
      "[DONE]",
    ),
    "",
    [9, 2],
  ],
  [
    "one of zeros only",
    events({ choices: [], usage: { prompt_tokens: 0, completion_tokens: 0 } }, "[DONE]"),
    "",
    [0, 0],
  ],
  [
    "a stream of Groq",
    events(
      {
        ...delta(""),
        x_groq: {
          id: "req_1",
          usage: {
            prompt_tokens: 16,
            completion_tokens: 3,
            prompt_time: 0.1,
            prompt_tokens_details: { cached_tokens: 8 },
          },
        },
      },
      "[DONE]",
    ),
    "",
    [16, 3, 8],
  ],
  [
    "a stream of Moonshot (2026-03), in its choice",
    events(
      {
        choices: [
          {
            index: 0,
            delta: {},
            finish_reason: "stop",
            usage: { prompt_tokens: 5, completion_tokens: 6, cached_tokens: 4 },
          },
        ],
      },
      "[DONE]",
    ),
    "",
    [5, 6, 4],
  ],
  [
    "a stream of Responses",
    `event: response.completed\n${events({ type: "response.completed", response: { id: "resp_1", output: [], usage: { input_tokens: 37, input_tokens_details: { cached_tokens: 1 }, output_tokens: 11, output_tokens_details: { reasoning_tokens: 5 }, total_tokens: 48 }, metadata: {} } })}`,
    "",
    [37, 11, 1, 0, 5],
  ],
  [
    "the end of a long last event of Responses",
    `lo"}]}],"usage":{"input_tokens":37,"output_tokens":11},"user":null,"metadata":{}},"sequence_number":9}\n\n`,
    "",
    [37, 11],
  ],
  [
    "a stream of Anthropic: the input first, the output last",
    events(messageDelta({ output_tokens: 15 }), STOP),
    events(
      messageStart({
        input_tokens: 25,
        cache_creation_input_tokens: 10,
        cache_read_input_tokens: 100,
        output_tokens: 1,
      }),
    ),
    [135, 15, 100, 10],
  ],
  [
    "a stream of Anthropic that repeats the input at its end, after searches of its own",
    events(
      messageDelta({
        input_tokens: 400,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: 100,
        output_tokens: 15,
      }),
      STOP,
    ),
    events(
      messageStart({
        input_tokens: 25,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: 100,
        output_tokens: 1,
      }),
    ),
    [500, 15, 100],
  ],
  [
    "a stream of Anthropic that repeats only the input without caches",
    events(messageDelta({ input_tokens: 25, output_tokens: 15, cache_read_input_tokens: null }), STOP),
    events(messageStart({ input_tokens: 25, cache_read_input_tokens: 100, output_tokens: 1 })),
    [125, 15, 100],
  ],
  [
    "one in Anthropic's words that knows the input only at its end",
    events(messageDelta({ input_tokens: 31, output_tokens: 15 }), STOP),
    events(messageStart({ input_tokens: 0, output_tokens: 0 })),
    [31, 15],
  ],
  [
    "one in Anthropic's words whose end says zero",
    events(messageDelta({ input_tokens: 0, output_tokens: 15 }), STOP),
    events(messageStart({ input_tokens: 25, output_tokens: 1 })),
    [25, 15],
  ],
  [
    "a stream of Anthropic that broke off",
    events({ type: "content_block_delta", delta: { text: "Hi" } }),
    events(messageStart({ input_tokens: 25, output_tokens: 1 })),
    [25, 1],
  ],
  [
    "a short stream of Anthropic that is all there twice",
    events(messageStart({ input_tokens: 25, output_tokens: 1 }), messageDelta({ output_tokens: 15 }), STOP),
    events(messageStart({ input_tokens: 25, output_tokens: 1 })),
    [25, 15],
  ],
  [
    "a stream of Gemini",
    events(
      { candidates: [{}], usageMetadata: { promptTokenCount: 5, totalTokenCount: 5 } },
      {
        candidates: [{ finishReason: "STOP" }],
        usageMetadata: { promptTokenCount: 5, candidatesTokenCount: 7, thoughtsTokenCount: 9 },
      },
    ),
    "",
    [5, 16, 0, 0, 9],
  ],
  [
    "a stream of Cohere",
    events({
      type: "message-end",
      delta: {
        finish_reason: "COMPLETE",
        usage: { billed_units: { input_tokens: 4 }, tokens: { input_tokens: 40, output_tokens: 50 } },
      },
    }),
    "",
    [40, 50],
  ],
  [
    "lines of Cohere's first version",
    `${JSON.stringify({ is_finished: true, event_type: "stream-end", response: { text: "Hi", meta: { billed_units: { input_tokens: 4, output_tokens: 6 } } } })}\n`,
    "",
    [4, 6],
  ],
  [
    "lines of Ollama",
    '{"message":{"content":"Hi"},"done":false}\n{"done":true,"prompt_eval_count":26,"eval_count":298}\n',
    "",
    [26, 298],
  ],
  [
    "lines that end with CR alone",
    events({ choices: [], usage: { prompt_tokens: 1, completion_tokens: 2 } }, "[DONE]").replaceAll(
      "\n",
      "\r",
    ),
    "",
    [1, 2],
  ],
  [
    "lines that end with CR and LF",
    events({ choices: [], usage: { prompt_tokens: 1, completion_tokens: 2 } }, "[DONE]").replaceAll(
      "\n",
      "\r\n",
    ),
    "",
    [1, 2],
  ],
  [
    "a last line that was cut",
    events({ ...delta(""), usage: { prompt_tokens: 1, completion_tokens: 2 } }) +
      'data: {"choices":[],"usage":{"prompt',
    "",
    [1, 2],
  ],
  [
    "text that looks like tokens",
    events(delta('"usage":{"prompt_tokens":5,"completion_tokens":6}')),
    "",
    null,
  ],
  ["nothing", "", "", null],
];

describe("the tokens that an answer names", () => {
  test.each(BODIES)("are read from %s", (_, body, counts) => {
    expect(ofBody(body)).toEqual(expected(counts));
  });

  test.each(HOSTILE)("are bounded where it says %s", (_, usage, counts) => {
    expect(ofBody(chatAnswer(usage))).toEqual(expected(counts));
    expect(ofEvents(events({ choices: [], usage }))).toEqual(expected(counts));
  });

  test.each(STREAMS)("are read from %s", (_, end, start, counts) => {
    expect(ofEvents(end, start)).toEqual(expected(counts));
  });

  test("are those of the end, however long the answer is", () => {
    const vectors = Array.from({ length: 200 }, () => Array.from({ length: 1536 }, () => -0.0123456));
    expect(ofBody({ data: vectors, usage: { prompt_tokens: 77, total_tokens: 77 } })).toEqual(
      expected([77, 0]),
    );
  });

  test.each([
    ["places that are none", '"usage'],
    ["fields without an end", ',"usage":{'],
    ["fields that hold fields", ',"usage":{"a":'],
    ["brackets", "[{".repeat(4) + ',"usage":{}'],
    ["quotation marks", '"\\"usage\\"'],
    ["lines", '\n{"usage":{}}'],
    ["deep lists", ',"usage":{"prompt_tokens":' + "[".repeat(1000)],
  ])("P42 cost little to look for in an answer full of %s", (_, piece) => {
    const body = bytes(`{${piece.repeat(Math.ceil(1_000_000 / piece.length))}`);
    const tail = body.subarray(-128 * 1024);
    const since = performance.now();
    for (let time = 0; time < 5; time += 1) {
      usageOfBody(body);
      usageOfEvents(tail, tail);
    }
    expect(performance.now() - since).toBeLessThan(250);
  });
});
