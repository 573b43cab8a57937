/**
 * What an error answer says, however it is wrapped: JSON with and without `error`, an array around it, JSON in its
 * message, a bare string, a server-sent event, a page of HTML. Reads any body without failing.
 */

/** A JSON object of unknown shape. */
export interface JsonObject {
  readonly [name: string]: unknown;
}

export interface Answer {
  status: number;
  headers: Headers;
  /** The JSON objects of the body, outermost first: the envelope, the error in it, its details, a quoted error. */
  layers: readonly JsonObject[];
  /** Its code-like words in lower case: `code`, `type`, `status`, `reason`, names of quotas. */
  codes: readonly string[];
  /** Its sentences, one a line, so that `^` and `$` of a multi-line pattern mean a whole sentence. */
  text: string;
  /** Written by an edge or a web server, not by the provider's API: then it has no codes and no text to judge by. */
  isPage: boolean;
  /** The most telling sentence, for people: one line, at most 300 characters. */
  said: string;
}

const LONGEST_SAID = 300;
/** Bodies echo prompts; what matters stands before that. */
const LONGEST_TEXT = 8192;
/** Hostile nesting ends here; the richest real answer has some 20 values (Google, quoted in a gateway's message). */
const MOST_VALUES = 256;

/** Fields that hold a nested part of the error. */
const NESTED_FIELDS = [
  "error",
  "errors", // Cloudflare
  "response", // OpenAI Responses API: `response.failed`
  "metadata", // OpenRouter, Google ErrorInfo
  "availability", // OpenRouter
  "details", // Google, Anthropic
  "detail",
  "violations", // Google QuotaFailure
  "innererror", // Azure
];

/** Fields whose text may itself be JSON: an SDK's error as the message of the next gateway, OpenRouter's `raw`. */
const QUOTING_FIELDS = ["error", "message", "raw", "detail", "details"];

/** Fields with a sentence, the most telling first. */
const SENTENCE_FIELDS = ["message", "error", "detail", "details", "msg", "raw", "error_description", "title"];

/** Fields with a word that a program is meant to read. */
const CODE_FIELDS = [
  "code",
  "type",
  "status",
  "reason",
  "param",
  "error_type",
  "error_code",
  "limit_source",
  "quotaId",
  "quotaMetric",
];

/** Headers that say why. */
const SENTENCE_HEADERS = ["x-error-message", "x-ratelimit-type"];

export function readAnswer(status: number, headers: Headers, body: string): Answer {
  const value = readBody(body);
  const layers = layersOf(value);
  const isPage = value === undefined ? PAGE.test(body) : isEdgeJson(layers[0]);
  const fromHeaders = SENTENCE_HEADERS.map((name) => oneLine(headers.get(name) ?? ""));
  const sentences = [
    ...sentencesOf(value, layers),
    ...(value === undefined ? [plainText(body)] : []),
    ...fromHeaders,
  ];
  const codes = codesOf(layers);
  const told = sentences.filter((sentence) => sentence !== "");
  return {
    status,
    headers,
    layers,
    codes: isPage ? [] : codes,
    text: isPage ? "" : told.join("\n").slice(0, LONGEST_TEXT),
    isPage,
    said: shorten(told.find((sentence) => !SAYS_NOTHING.test(sentence)) ?? told[0] ?? codes[0] ?? ""),
  };
}

/** HTML or XML, or the line that Cloudflare sends to clients that are no browsers. */
const PAGE = /^\s*(?:<|error code: \d)/;

/** Cloudflare's page for clients that ask for JSON, seen May 2026: RFC 9457, with `error_code: 1015`. */
function isEdgeJson(envelope: JsonObject | undefined): boolean {
  return envelope !== undefined && field(envelope, "cloudflare_error") === true;
}

/** OpenRouter's wrapper around what the provider behind it said. */
const SAYS_NOTHING = /^Provider returned error\.?$/;

/** The JSON of a body, also of one that is a server-sent event (DashScope answers 4xx that way). */
function readBody(body: string): unknown {
  return (
    parseJson(body) ?? (/^\s*(?:data|event|id|:)/.test(body) ? parseJson(readEvent(body).data) : undefined)
  );
}

/** The value, or undefined where `text` is not JSON. */
export function parseJson(text: string): unknown {
  if (!/^\s*["[{]/.test(text)) return undefined;
  try {
    const value: unknown = JSON.parse(text.trimStart()); // A byte order mark counts as white space here only.
    return value;
  } catch {
    return undefined; // Not JSON, or nested deeper than the parser's stack: both say nothing readable.
  }
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A field of the object itself: a body's `__proto__` or `toString` is data like any other. */
export function field(object: JsonObject, name: string): unknown {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

/** All objects that are part of the error, outermost first. */
function layersOf(root: unknown): JsonObject[] {
  const layers: JsonObject[] = [];
  const values: unknown[] = [root];
  for (let visited = 0; visited < Math.min(values.length, MOST_VALUES); visited += 1) {
    const value = values[visited];
    if (Array.isArray(value)) values.push(...value.slice(0, MOST_VALUES));
    if (!isObject(value)) continue;
    layers.push(value);
    const nested = NESTED_FIELDS.map((name) => field(value, name));
    const quotes = QUOTING_FIELDS.map((name) => quoted(field(value, name)));
    values.push(...[...nested, ...quotes].filter((part) => typeof part === "object"));
  }
  return layers;
}

/** The JSON that a text is, if it is. */
function quoted(value: unknown): unknown {
  return typeof value === "string" ? parseJson(value) : undefined;
}

function sentencesOf(root: unknown, layers: readonly JsonObject[]): string[] {
  const sentences = layers.flatMap((layer) =>
    SENTENCE_FIELDS.map((name) => field(layer, name)).filter((value) => typeof value === "string"),
  );
  if (typeof root === "string") sentences.push(root); // SiliconFlow: the whole body is a JSON string.
  return [...new Set(sentences.filter((sentence) => !isObject(quoted(sentence))).map(oneLine))];
}

function codesOf(layers: readonly JsonObject[]): string[] {
  const codes = layers.flatMap((layer) => CODE_FIELDS.map((name) => fieldText(layer, name)));
  return [...new Set(codes.filter((code) => code !== "").map((code) => code.toLowerCase()))];
}

/** A field as text to match: a string, number or boolean; `present` for a list or an object; empty for nothing. */
export function fieldText(layer: JsonObject, name: string): string {
  const value = field(layer, name);
  if (typeof value === "string") return value;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return value == null ? "" : "present";
}

/** The readable line of a body that is not JSON: an edge's line, a page's title. */
function plainText(body: string): string {
  if (!/^\s*</.test(body)) return oneLine(body);
  return oneLine(/<title[^>]{0,99}>([^<]{0,300})/i.exec(body)?.[1] ?? "");
}

/** White space and control characters (terminal escapes, lone surrogates) collapsed. */
function oneLine(text: string): string {
  return text
    .slice(0, LONGEST_TEXT)
    .replace(/[\s\p{Cc}\p{Cf}\p{Cs}]+/gu, " ")
    .trim();
}

function shorten(line: string): string {
  if (line.length <= LONGEST_SAID) return line;
  return `${line.slice(0, LONGEST_SAID - 1).replace(/[\uD800-\uDBFF]$/, "")}…`;
}

/** One server-sent event. */
export interface StreamEvent {
  /** The `event:` field; empty where there is none. */
  name: string;
  data: string;
  /** DashScope sends the status of a failed stream as a comment: `:HTTP_STATUS/429`. */
  status: number | null;
}

/** The first event that has data; comments before it (`: keep-alive`) are passed over. */
export function readEvent(text: string): StreamEvent {
  const event: StreamEvent = { name: "", data: "", status: null };
  const lines: string[] = [];
  for (const line of text.split(/\r\n|\n|\r/)) {
    if (line === "" && lines.length > 0) break;
    const [, name = "", value = ""] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (name === "event") event.name = value;
    if (name === "data") lines.push(value);
    if (name === "" && value.startsWith("HTTP_STATUS/")) event.status = Number(value.slice(12)) || null;
  }
  event.data = lines.join("\n");
  return event;
}
