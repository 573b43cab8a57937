/**
 * What the events of a stream say: whether the answer is finished, has failed, or has not begun; and how an error is
 * said in the words of each API.
 *
 * Everything here looks at one event at a time, and goes by what stands in it rather than by where it came from:
 * gateways wrap events, rename paths and leave last events out. A stated finish is a finish in every dialect.
 */
import { field, isObject, parseJson } from "../core/json.ts";
import type { JsonObject } from "../core/json.ts";

/** Which API a stream speaks; `other`: none that is known. */
export type StreamDialect = "chat" | "anthropic" | "responses" | "gemini" | "cohere" | "ollama" | "other";

/** Told by the path as far as it can be: it names the API, whoever the provider is. */
export function streamDialectOf(path: string): StreamDialect {
  const end = path.endsWith("/") ? path.replace(/\/+$/, "") : path;
  if (end.endsWith("/completions")) return "chat";
  if (end.endsWith("/messages")) return "anthropic";
  if (end.endsWith("/responses")) return "responses";
  if (end.endsWith(":streamGenerateContent")) return "gemini";
  if (end.endsWith("/v2/chat")) return "cohere";
  if (end.endsWith("/api/chat") || end.endsWith("/api/generate")) return "ollama";
  // Vertex AI hands the request to the model's own API, which the publisher in the path names.
  if (end.endsWith(":streamRawPredict"))
    return end.includes("/publishers/anthropic/") ? "anthropic" : "other";
  return "other";
}

/** What one event says about the end of its stream. */
export type Mark =
  /** It is the last one. */
  | "over"
  /** The model has finished: complete, if the connection then ends cleanly. */
  | "finished"
  /** It is the last one, and says that upstream failed. */
  | "over_failed"
  /** Upstream failed, and says nothing of an end. */
  | "failed";

/** What is known after an event, given what was before: an upstream's word that it failed is not taken back. */
export function laterMark(before: Mark | null, mark: Mark | null): Mark | null {
  if (mark === null || before === "failed" || before === "over_failed") return before;
  return before === "over" && mark === "finished" ? before : mark;
}

/** What one line of a stream says about its end; null: nothing. A line that was cut is no JSON, so it says nothing. */
export function markOfLine(line: string, dialect: StreamDialect): Mark | null {
  if (line.startsWith("{") || line.startsWith("[")) return markOfJson(line);
  const [, name, value = ""] = FIELD.exec(line) ?? [];
  if (name === "event") return NAMED_END.test(value) ? "over" : value === "error" ? "failed" : null;
  if (name !== "data") return null;
  if (value.trim() === "[DONE]") return dialect === "chat" || dialect === "other" ? "over" : null;
  return markOfJson(value);
}

const FIELD = /^(event|data): ?(.*)$/s;
/** Names of last events that may come without data that says so. */
const NAMED_END = /^(?:done|end|message_stop|message-end|stream-end)$/;
/** Words without one of which an event says nothing about the end: spares parsing the others. */
const MAY_END = /error|fail|finish|stop|done|end"|complete|cancel|block_?reason/i;

function markOfJson(text: string): Mark | null {
  return MAY_END.test(text) ? markOf(parseJson(text)) : null;
}

/** Types of last events. */
const OVER_TYPES: ReadonlySet<string> = new Set([
  "message_stop", // Anthropic
  "response.completed", // OpenAI Responses
  "response.incomplete",
  "response.failed",
  "response.cancelled",
  "response.done", // OpenAI Realtime, and gateways for Responses
  "image_generation.completed", // OpenAI Images
  "image_edit.completed",
  "speech.audio.done", // OpenAI Audio
  "transcript.text.done",
  "conversation.response.done", // Mistral
  "interaction.complete", // Gemini Interactions
  "message-end", // Cohere v2
  "stream-end", // Cohere v1
]);

const FAILED_TYPES: ReadonlySet<string> = new Set(["error", "response.error", "conversation.response.error"]);

/** Fields in which a finish is stated, whoever's event it is. */
const FINISH_FIELDS = ["finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason"];
/** Fields that are true in a last event: Ollama, Cohere v1, llama.cpp. */
const END_FIELDS = ["done", "is_finished", "stop"];
/** Parts of an event in which a finish may stand: one answer of several, a change of the message. */
const PARTS = ["choices", "candidates", "delta", "details"];
/** Wrappers around an event: Code Assist and Responses, DashScope, Cloudflare and JSON-RPC, and gateways. */
const WRAPPERS = ["response", "output", "result", "data", "chunk"];
/** Nobody wraps more often. */
const MOST_LAYERS = 3;

/** What a parsed event says about the end; through wrappers, and of a list what its items say. */
function markOf(value: unknown, layer = 0): Mark | null {
  if (Array.isArray(value)) {
    let mark: Mark | null = null;
    for (const item of value) mark = laterMark(mark, markOf(item, layer));
    return mark;
  }
  if (!isObject(value)) return null;
  const type = String(field(value, "type") ?? field(value, "event_type") ?? "");
  const inner = layer < MOST_LAYERS ? WRAPPERS.map((name) => field(value, name)) : [];
  if (OVER_TYPES.has(type)) return hasFailed(value, type, inner) ? "over_failed" : "over";
  if (FAILED_TYPES.has(type) || isSaid(field(value, "error"))) return "failed";
  if (type.startsWith("response.")) return null; // what they hold is on its way, whatever its parts say
  let mark = finishOf(value);
  for (const name of PARTS) {
    for (const part of [field(value, name)].flat())
      if (isObject(part)) mark = laterMark(mark, finishOf(part));
  }
  if (END_FIELDS.some((name) => field(value, name) === true)) mark = laterMark(mark, "over");
  if (blockReasonOf(value)) mark = laterMark(mark, "finished");
  for (const wrapped of inner) {
    if (isObject(wrapped)) mark = laterMark(mark, markOf(wrapped, layer + 1));
  }
  return mark;
}

/** A last event may still say that it was none: Responses in the response, Cohere in the finish. */
function hasFailed(event: JsonObject, type: string, inner: readonly unknown[]): boolean {
  if (type === "response.failed" || finishOf(event) === "failed") return true;
  const delta = field(event, "delta");
  if (isObject(delta) && finishOf(delta) === "failed") return true;
  return inner.some((part) => isObject(part) && field(part, "status") === "failed");
}

function finishOf(part: JsonObject): Mark | null {
  let mark: Mark | null = null;
  for (const name of FINISH_FIELDS) {
    const reason = field(part, name);
    // "null" is DashScope's word for none, and Google's numbers begin with one for none.
    if (!isSaid(reason) || reason === "null" || reason === "FINISH_REASON_UNSPECIFIED") continue;
    mark = laterMark(mark, /^error$/i.test(String(reason)) ? "failed" : "finished");
  }
  return mark;
}

/** Gemini refuses a prompt without a candidate: that is its whole answer. */
function blockReasonOf(event: JsonObject): boolean {
  const feedback = field(event, "promptFeedback");
  return isObject(feedback) && isSaid(field(feedback, "blockReason"));
}

function isSaid(value: unknown): boolean {
  return value !== undefined && value !== null && value !== "" && value !== false;
}

/** Which API an event is of, where it shows; of a stream on a path that does not tell. */
export function dialectOfLine(line: string): StreamDialect | null {
  const data = FIELD.exec(line)?.[2] ?? line;
  if (!MAY_SHOW.test(data)) return null;
  const value = parseJson(data);
  const [event] = Array.isArray(value) ? value : [value];
  return isObject(event) ? dialectOfEvent(event) : null;
}

const MAY_SHOW = /"(?:choices|candidates|(?:event_)?type|response|output|generated_text)"\s*:/;

/** Events of OpenAI's images and audio on their way; their errors are told as chat's are. */
const MEDIA_PART = /\.partial_image$|\.audio\.delta$|^transcript\./;

function dialectOfEvent(event: JsonObject): StreamDialect | null {
  if (Array.isArray(field(event, "choices"))) return "chat";
  if (Array.isArray(field(event, "candidates"))) return "gemini";
  const type = String(field(event, "type") ?? "");
  if (/^(?:message_(?:start|delta|stop)|content_block_(?:start|delta|stop))$/.test(type)) return "anthropic";
  if (type.startsWith("response.")) return "responses";
  if (/^(?:message-start|content-(?:start|delta|end)|tool-call-(?:start|delta|end))$/.test(type))
    return "cohere";
  // Cohere's older API: JSON a line, as Ollama's is.
  if (field(event, "event_type") === "text-generation") return "ollama";
  if (MEDIA_PART.test(type) || holdsFinishLater(event)) return "chat";
  const wrapped = field(event, "response");
  return isObject(wrapped) ? dialectOfEvent(wrapped) : null;
}

/** Events of text-generation-inference, and of DashScope's own API: each has the place of what the last one says. */
function holdsFinishLater(event: JsonObject): boolean {
  const output = field(event, "output");
  const place = isObject(output) ? (field(output, "choices") ?? field(output, "finish_reason")) : undefined;
  return (place ?? field(event, "generated_text")) !== undefined;
}

// ------------------------------------------------------------- before the content

/** Fits every event that may hold nothing yet: spares parsing the others. */
const MAY_BE_EMPTY =
  /"(?:response\.(?:created|in_progress|queued|output_item\.added|content_part\.added)|message_start|message-start|ping|content_block_start|content-start|stream-start)"|"role"\s*:|"(?:content|text|response)"\s*:\s*""|"(?:choices|candidates)"\s*:\s*(?:null|\[\s*\])|^event: ?ping/m;

/**
 * Whether an event comes before the content: it says that an answer is being made, and holds nothing of it. An error
 * may still stand behind it. `event`: its text, framing and all.
 */
export function isPreamble(event: string): boolean {
  if (!MAY_BE_EMPTY.test(event)) return false;
  const data = event.startsWith("{") ? event : dataOf(event);
  if (/^event: ?ping/m.test(event)) return true;
  const value = parseJson(data);
  return isObject(value) && isEmptyEvent(value);
}

function dataOf(event: string): string {
  return [...event.matchAll(/^data: ?(.*)$/gm)].map(([, data]) => data).join("\n");
}

/** Types of events that begin something and hold nothing of it. */
const BEGINNINGS: ReadonlySet<string> = new Set([
  "response.created",
  "response.in_progress",
  "response.queued",
  "message_start",
  "message-start",
  "stream-start",
  "ping",
]);

/** Those that hold a part, which may be empty. */
const PART_BEGINNINGS: ReadonlySet<string> = new Set([
  "response.output_item.added",
  "response.content_part.added",
  "content_block_start",
  "content-start",
]);

function isEmptyEvent(event: JsonObject): boolean {
  if (markOf(event) !== null) return false;
  const type = String(field(event, "type") ?? field(event, "event_type") ?? "");
  if (BEGINNINGS.has(type)) return true;
  if (PART_BEGINNINGS.has(type)) {
    const part = field(event, "item") ?? field(event, "part") ?? field(event, "content_block");
    return part === undefined ? type === "content-start" && isBare(event) : isBare(part);
  }
  if (type !== "") return false;
  const wrapped = field(event, "response");
  if (isObject(wrapped)) return isEmptyEvent(wrapped);
  for (const name of ["choices", "candidates"]) {
    const answers = field(event, name);
    if (answers === null || Array.isArray(answers)) return !isSaid(field(event, "usage")) && isBare(answers);
  }
  // Ollama: a message without content, or a response without a character.
  if (field(event, "done") === false)
    return isBare(field(event, "message")) && isBare(field(event, "response"));
  return false;
}

/** What a part is called, which tells nothing of the answer itself. */
const LABELS: ReadonlySet<string> = new Set([
  ...["id", "type", "event_type", "index", "role", "status", "object", "logprobs", "output_index"],
  ...[
    "content_index",
    "item_id",
    "sequence_number",
    "content_filter_results",
    "safetyRatings",
    "annotations",
  ],
  ...["phase", "native_finish_reason"],
]);

/** Whether nothing is in it but labels, empty texts and empty lists. */
function isBare(value: unknown, layer = 0): boolean {
  if (value === undefined || value === null || value === "") return true;
  if (layer > 2 * MOST_LAYERS) return false;
  if (Array.isArray(value)) return value.length < 16 && value.every((item) => isBare(item, layer + 1));
  if (!isObject(value)) return false;
  // A call of a tool is content: its name stands in its beginning.
  return Object.entries(value).every(([name, part]) => LABELS.has(name) || isBare(part, layer + 1));
}

// ------------------------------------------------------------------------ errors

/** The event with which a stream that cannot go on is ended, in its own dialect. */
export function errorEvent(dialect: StreamDialect, type: string, message: string): string {
  switch (dialect) {
    case "chat":
    case "other":
      return `data: ${JSON.stringify({ error: { type, code: type, message, param: null } })}\n\n`;
    case "anthropic":
      return `event: error\ndata: ${JSON.stringify({ type: "error", error: { type, message } })}\n\n`;
    case "responses":
      return `event: error\ndata: ${JSON.stringify({ type: "error", code: type, message, param: null })}\n\n`;
    case "gemini":
      return `data: ${JSON.stringify({ error: { code: 502, message, status: "UNAVAILABLE" } })}\n\n`;
    case "cohere": {
      const end = { type: "message-end", delta: { finish_reason: "ERROR", error: message } };
      return `event: message-end\ndata: ${JSON.stringify(end)}\n\n`;
    }
    case "ollama":
      return `${JSON.stringify({ error: message })}\n`;
  }
}
