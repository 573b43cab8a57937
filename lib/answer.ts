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
  /** Written by an edge or a web server, not by the provider's API: HTML, or `error code: 1015`. */
  isPage: boolean;
  /** The most telling sentence, for people: one line, at most 300 characters. */
  said: string;
}

const LONGEST_SAID = 300;
/** Bodies echo prompts; what matters stands before that. */
const LONGEST_TEXT = 8192;
/** Hostile or absurd nesting ends here; the deepest real answer has 12 objects (Google, quoted in a message). */
const MOST_VALUES = 64;

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
  const isPage = value === undefined && /^\s*(?:<|error code: \d)/.test(body);
  const layers = layersOf(value);
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
    codes,
    // The title of an edge's page is for `said` only: nothing is decided by what stands on a page.
    text: isPage ? "" : told.join("\n").slice(0, LONGEST_TEXT),
    isPage,
    said: shorten(told.find((sentence) => !SAYS_NOTHING.test(sentence)) ?? told[0] ?? codes[0] ?? ""),
  };
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
  if (!/^[\s\uFEFF]*["[{]/.test(text)) return undefined;
  try {
    const value: unknown = JSON.parse(text);
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
  for (const value of values) {
    if (Array.isArray(value)) values.push(...value.slice(0, MOST_VALUES));
    if (isObject(value)) {
      layers.push(value);
      values.push(
        ...NESTED_FIELDS.map((name) => field(value, name)).filter((part) => typeof part === "object"),
      );
      values.push(...QUOTING_FIELDS.map((name) => quoted(field(value, name))));
    }
    if (layers.length === MOST_VALUES || values.length > MOST_VALUES * MOST_VALUES) break;
  }
  return layers;
}

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
  if (!/^\s*</.test(body)) return oneLine(body.slice(0, LONGEST_TEXT));
  return oneLine(/<title[^>]{0,99}>([^<]{0,300})/i.exec(body)?.[1] ?? "");
}

/** White space and control characters (terminal escapes, lone surrogates) collapsed. */
function oneLine(text: string): string {
  return text.replace(/[\s\p{Cc}\p{Cf}\p{Cs}]+/gu, " ").trim();
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
