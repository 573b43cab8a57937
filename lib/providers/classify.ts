/**
 * What an upstream's answer means and whose fault it was.
 * Pure: facts and `now` in, a verdict out.
 *
 * A status code is judged here, once, and nowhere else. The rest of the program only knows verdicts. What is known
 * of each provider is data, in `lib/providers/catalog.ts`; this file applies it.
 */
import { field, fieldText, isObject, parseJson } from "../core/json.ts";
import type { JsonObject } from "../core/json.ts";
import { PROVIDERS } from "./catalog.ts";
import type { Provider } from "./catalog.ts";
import { asNamed, saysBusy, sharedRules } from "./refusal-rules.ts";
import type { RefusalRule, Ruling, Wait } from "./refusal-rules.ts";
import { namesModel, withoutQuotes } from "./quoted-words.ts";
import type { RequestWords } from "./quoted-words.ts";
import { namedWaitMs, writtenAt } from "./retry-hints.ts";
import type { Dialect, Evidence, Verdict } from "./verdict.ts";

// ----------------------------------------------------------------- verdicts

/** Where nothing is known of the request. */
const NO_REQUEST: RequestWords = { model: null, body: null };

/** What an answer with a status means. `request`: what the answer may quote, which is not evidence. */
export function classify(
  dialect: Dialect,
  evidence: Evidence,
  now: number,
  request: RequestWords = NO_REQUEST,
): Verdict {
  if (evidence.status < 400) return { kind: "served" };
  return judgeAnswer(dialect, readAnswer(evidence.status, evidence.headers, evidence.body), now, request);
}

/** Fits every first event worth reading: most streams begin with an event that has none of these. */
const MAYBE_ERROR =
  /"(?:errors?|err|fault|detail)"\s*:(?!\s*(?:null|false|""|\{\s*\}|\[\s*\]))|"(?:type|object)"\s*:\s*"(?:error|response\.failed)"|"(?:code|title|base_resp|err(?:or)?_?(?:code|no|msg|message)|msg)"\s*:|"(?:success|ok)"\s*:\s*false|"status"\s*:\s*"(?:error|fail|failure)"|"finish_reason"\s*:\s*"error"|^event: ?error|^data: ?\[?ERROR\b/im;

const NO_HEADERS = new Headers();

/**
 * What an error means that came as the first event of a 200 stream, or as bare JSON in place of one; null where it
 * is none. `event` is that event's text, framing and all.
 */
export function classifyStreamError(
  dialect: Dialect,
  event: string,
  now: number,
  request: RequestWords = NO_REQUEST,
): Verdict | null {
  if (!MAYBE_ERROR.test(event)) return null;
  const { name, data, status } = readFirstEvent(event);
  if (name !== "error" && !BARE_LINE.test(data) && !saysError(parseJson(data))) return null;
  const answer = readAnswer(0, NO_HEADERS, data);
  return judgeAnswer(dialect, { ...answer, status: status ?? impliedStatus(answer) }, now, request);
}

/** `data: [ERROR] rate limit exceeded`: no JSON, and no text that a model wrote. */
const BARE_LINE = /^\s*(?:\[ERROR\]|ERROR:)/i;

/** A server-sent event, or bare JSON: pretty-printed over many lines (Gemini), or one object a line (Ollama). */
function readFirstEvent(event: string): StreamEvent {
  if (!/^\s*[[{]/.test(event)) return readEvent(event);
  const isWhole = parseJson(event) !== undefined;
  const data = isWhole ? event : (event.trimStart().split("\n", 1)[0] ?? "");
  return { name: "", data, status: null };
}

/** Whether the JSON is an error and nothing else; Google puts an array around it. */
function saysError(value: unknown): boolean {
  if (Array.isArray(value)) return value.some((item) => isObject(item) && saysError(item));
  if (!isObject(value)) return false;
  const object = fieldText(value, "object");
  if (object === "error" || ERROR_TYPES.has(fieldText(value, "type"))) return true;
  // A resource that tells how it fares, such as a failed response or job that a client asks about, is an answer.
  if (object !== "" && fieldText(value, "status") !== "") return false;
  const errors = field(value, "errors");
  if (Array.isArray(errors) && errors.length > 0) return true;
  for (const name of ERROR_FIELDS) {
    const error = field(value, name);
    if (isObject(error)) return Object.keys(error).length > 0;
    if (typeof error === "string") return error !== "";
  }
  return saysMiniMaxError(value) || isBrokenOff(value) || isBareError(value);
}

/** The second is Apigee's. */
const ERROR_FIELDS = ["error", "fault", "err"];
const ERROR_TYPES: ReadonlySet<string> = new Set(["error", "response.failed"]);

/** MiniMax: every answer has a `base_resp`, whose number is 0 where all is well. */
function saysMiniMaxError(value: JsonObject): boolean {
  const base = field(value, "base_resp");
  return isObject(base) && !GOOD_CODES.has(fieldText(base, "status_code"));
}

/** A chunk that ends before it began: `finish_reason: "error"` and not a word (OpenRouter and gateways). */
function isBrokenOff(value: JsonObject): boolean {
  const choices = field(value, "choices");
  const choice: unknown = Array.isArray(choices) ? choices[0] : null;
  if (!isObject(choice) || fieldText(choice, "finish_reason") !== "error") return false;
  const said = [choice, field(choice, "delta"), field(choice, "message")].filter(isObject);
  return said.every((part) => CONTENT_FIELDS.every((name) => fieldText(part, name) === ""));
}

const CONTENT_FIELDS = ["content", "text", "tool_calls", "reasoning", "reasoning_content"];

/**
 * An error without `error`: NVIDIA's `{status, title}`, DashScope's and SiliconFlow's `{code, message}`, Zhipu's
 * `{code, msg}`, Baidu's `{error_code, error_msg}`, `{errcode, errmsg}`, `{success: false, message}`, `{ok: false}`,
 * `{status: "error", message}`, FastAPI's `{detail}`.
 */
function isBareError(value: JsonObject): boolean {
  if (ANSWER_FIELDS.some((name) => fieldText(value, name) !== "")) return false;
  const status = field(value, "status");
  if (typeof status === "number" && status >= 400 && fieldText(value, "title") !== "") return true;
  if (fieldText(value, "error_msg") !== "" || fieldText(value, "error_message") !== "") return true;
  if (fieldText(value, "detail") !== "") return Object.keys(value).length <= MOST_BESIDE_DETAIL;
  const isSaid = SAID_FIELDS.some((name) => fieldText(value, name) !== "");
  if (!isSaid) return false;
  if (field(value, "success") === false || field(value, "ok") === false) return true;
  if (FAILED_STATUS.has(fieldText(value, "status")) && fieldText(value, "id") === "") return true;
  return BARE_CODES.some((name) => !GOOD_CODES.has(fieldText(value, name).toLowerCase()));
}

const ANSWER_FIELDS = ["choices", "candidates", "output", "content", "response", "delta", "done", "data"];
const SAID_FIELDS = ["message", "msg", "errmsg", "description"];
const BARE_CODES = ["code", "errcode", "errno"];
const FAILED_STATUS: ReadonlySet<string> = new Set(["error", "fail", "failure"]);
const GOOD_CODES: ReadonlySet<string> = new Set(["", "0", "200", "20000", "ok", "success", "succeeded"]);
/**
 * `{detail}` alone, or with a type, a title, a status, a code and an id: in richer objects it is a detail of theirs.
 */
const MOST_BESIDE_DETAIL = 6;

/** The status an error in a stream would have had: a number it carries, else what its words stand for. */
function impliedStatus(answer: Answer): number {
  for (const layer of answer.layers) {
    for (const name of STATUS_FIELDS) {
      const status = Number(fieldText(layer, name));
      if (Number.isInteger(status) && status >= 400 && status <= 599) return status;
    }
  }
  const byCode = STATUS_OF_CODE.find(([pattern]) => answer.codes.some((code) => pattern.test(code)));
  const byText = STATUS_OF_TEXT.find(([pattern]) => pattern.test(answer.text));
  return (byCode ?? byText)?.[1] ?? 500;
}

const STATUS_FIELDS = ["code", "http_status", "status", "status_code", "raw_status_code", "errcode", "errno"];

/** Order matters: OpenAI's `invalid_request_error` is the type of half of all codes. */
const STATUS_OF_CODE: readonly (readonly [RegExp, number])[] = [
  [/overloaded|slow_down|unavailable|capacity|server_busy/, 503],
  [/rate_?limit|limit_?exceeded|too_many_requests|resource[_-]exhausted|throttl|quota|usage_limit/, 429],
  [/billing|payment|insufficient_(?:balance|credits?|funds)/, 402],
  [/authentication|unauthenticated|unauthorized|api_?key/, 401],
  [/permission|forbidden|access_?denied/, 403],
  [/not_found/, 404],
  [/too_large/, 413],
  [/timeout|deadline/, 504],
  [/server_error|internal|^api_error$/, 500],
  [/invalid|bad_request|precondition|context_length|content_|policy|inspection|arrearage|validation/, 400],
];

const STATUS_OF_TEXT: readonly (readonly [RegExp, number])[] = [
  [
    /\brate.?limit|\btoo many requests\b|\busage limit\b|\b(?:request|qps|qpm|rpm|tpm) limit\b|\btoo fast\b|\btoo frequent|\bquota exceeded\b/i,
    429,
  ],
  [/速率限制|限流|频率|频繁|请求过多|超限|上限/, 429],
  [/\boverloaded\b|\bcapacity\b|\btoo busy\b|\bunavailable\b/i, 503],
];

/**
 * The first rule that holds decides: the provider's own, then the shared ones, then the status alone. Where words
 * decided against a key or a provider, the case is heard once more without the words that are the request's own.
 */
function judgeAnswer(dialect: Dialect, answer: Answer, now: number, request: RequestWords): Verdict {
  const provider = PROVIDERS[dialect];
  const first = ruleFor(provider, answer, now);
  if (!isHarmful(first.ruling) || !(first.isByWords || first.namedMs !== null))
    return verdictOf(first, provider, answer, request, now);
  const text = withoutQuotes(answer.text, request);
  const codes = answer.codes.filter((code) => code !== request.model?.toLowerCase());
  if (text === answer.text && codes.length === answer.codes.length)
    return verdictOf(first, provider, answer, request, now);
  const heard = ruleFor(provider, { ...answer, text, codes }, now);
  return verdictOf(heard, provider, answer, request, now);
}

/** Whether a ruling rests, retires or pauses anybody. */
function isHarmful({ kind }: Ruling): boolean {
  return kind !== "rejected";
}

/** What is known of an answer once a rule was found for it. */
interface Found {
  readonly ruling: Ruling;
  readonly namedMs: number | null;
  /** By a sentence or a code of the answer, not by its status, headers or form alone. */
  readonly isByWords: boolean;
}

function ruleFor(provider: Provider, answer: Answer, now: number): Found {
  const namedMs = namedWaitMs(answer, provider.clockOffset, now);
  const holdsHere = (rule: RefusalRule) => holds(rule, answer, namedMs) && !isBesideBusy(rule, answer);
  const rule = provider.rules().find(holdsHere) ?? sharedRules().find(holdsHere);
  const isByWords = rule?.text !== undefined || rule?.code !== undefined;
  return { ruling: rule?.then ?? byStatus(answer.status), namedMs, isByWords };
}

/** Whether a rule finds money in what is no sentence, while the sentence says that somebody is busy (P40). */
function isBesideBusy({ text, then }: RefusalRule, answer: Answer): boolean {
  return (
    text === undefined && then.kind === "exhausted" && then.reason === "billing" && saysBusy(answer.text)
  );
}

function byStatus(status: number): Ruling {
  return status >= 500 ? { kind: "overloaded" } : { kind: "rejected" };
}

function holds(rule: RefusalRule, answer: Answer, namedMs: number | null): boolean {
  const { status, code, text, unless, field: wanted, header, page, namedAtLeastMs } = rule;
  if (status !== undefined && ![status].flat().includes(answer.status)) return false;
  if (page !== undefined && !answer.isPage) return false;
  if (header !== undefined && !header[1].test(answer.headers.get(header[0]) ?? "")) return false;
  if (namedAtLeastMs !== undefined && (namedMs ?? -1) < namedAtLeastMs) return false;
  if (wanted !== undefined && !answer.layers.some((layer) => fieldMatches(layer, ...wanted))) return false;
  if (code !== undefined && !answer.codes.some((word) => code.test(word))) return false;
  if (unless?.test(answer.text) === true) return false;
  return text === undefined || [text].flat().some((pattern) => pattern.test(answer.text));
}

function fieldMatches(layer: JsonObject, name: string, value: RegExp): boolean {
  return value.test(fieldText(layer, name));
}

/** Failures after which the provider may have done the work, and may charge for it. */
const MAYBE_BILLED: ReadonlySet<number> = new Set([500, 502, 504, 520, 524]);

function verdictOf(
  { ruling, namedMs }: Found,
  provider: Provider,
  answer: Answer,
  request: RequestWords,
  now: number,
): Verdict {
  const { said, status } = answer;
  const ofModel = namesModel(answer.text, request.model);
  const at = writtenAt(answer.headers, now);
  const pauseAfter = (wait: Wait) => wait(namedMs, at, provider.resetZone);
  switch (ruling.kind) {
    case "rejected":
      return { kind: "rejected", said };
    case "rate_limited": {
      const { reason } = ruling;
      const wait = ruling.wait ?? provider.limitWait ?? asNamed;
      const usual = reason === "concurrency" ? "key" : provider.limitScope;
      const scope = ruling.scope ?? (ofModel ? "key+model" : usual);
      const limit = { kind: "rate_limited", scope, pause: pauseAfter(wait), reason, said } as const;
      return ofModel ? { ...limit, ofModel } : limit;
    }
    case "exhausted": {
      const ofLimit = ofModel ? "key+model" : provider.limitScope;
      const usual = ruling.reason === "billing" ? provider.moneyScope : ofLimit;
      const scope = ruling.scope ?? usual;
      const widens = ruling.scope === undefined && ruling.reason === "billing" && scope === "key+model";
      return {
        kind: "exhausted",
        scope,
        widens,
        pause: pauseAfter(ruling.wait),
        reason: ruling.reason,
        said,
      };
    }
    case "revoked":
      return { kind: "revoked", certain: ruling.certain, said };
    case "unsuited":
      return { kind: "unsuited", scope: ruling.scope, said };
    case "overloaded":
      return {
        kind: "overloaded",
        scope: ruling.scope ?? "provider",
        refusesAll: ruling.refusesAll === true,
        pauseMs: namedMs ?? ruling.elseMs ?? null,
        maybeBilled: MAYBE_BILLED.has(status),
        said,
      };
  }
}

// ------------------------------------------------- what an error answer says

/**
 * What an error answer says, however it is wrapped: JSON with and without `error`, an array around it, JSON in its
 * message, a bare string, a server-sent event, a page of HTML. Any body can be read without failing.
 */
interface Answer {
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
  "err",
  "fault", // Apigee
  "errors", // Cloudflare
  "response", // OpenAI Responses API: `response.failed`
  "metadata", // OpenRouter, Google ErrorInfo
  "availability", // OpenRouter
  "details", // Google, Anthropic
  "detail",
  "violations", // Google QuotaFailure
  "innererror", // Azure
  "data", // gateways
  "retryInfo", // Google's detail, renamed by gateways
  "base_resp", // MiniMax
  "rate_limit", // gateways, from here on
  "rateLimit",
  "quota",
  "meta",
  "info",
];

/** Fields whose text may itself be JSON: an SDK's error as the message of the next gateway, OpenRouter's `raw`. */
const QUOTING_FIELDS = ["error", "message", "raw", "detail", "details"];

/** Fields with a sentence, the most telling first. */
const SENTENCE_FIELDS = [
  "message",
  "error",
  "detail",
  "details",
  "msg",
  "error_msg",
  "errorMsg",
  "errorMessage",
  "errmsg",
  "faultstring",
  "description",
  "status_msg", // MiniMax
  "raw",
  "error_description",
  "title",
];

/** Fields with a word that a program is meant to read. */
const CODE_FIELDS = [
  "code",
  "type",
  "status",
  "reason",
  "error_type",
  "error_code",
  "limit_source",
  "errorCode",
  "errorcode",
  "errcode",
  "errno",
  "quotaId",
  "quotaMetric",
];

/** Headers that say why. */
const SENTENCE_HEADERS = ["x-error-message", "x-ratelimit-type"];

export function readAnswer(status: number, headers: Headers, body: string): Answer {
  const value = readBody(body);
  const layers = layersOf(value);
  const isPage = value === undefined ? PAGE.test(body) : isEdgeJson(layers[0]);
  const fromHeaders = SENTENCE_HEADERS.map((name) => singleLine(headers.get(name) ?? ""));
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
    text: isPage ? "" : told.join("\n").slice(0, LONGEST_TEXT).replace(PRICE, " "),
    isPage,
    said: shorten(told.find((sentence) => !SAYS_NOTHING.test(sentence)) ?? told[0] ?? codes[0] ?? ""),
  };
}

/** "Upgrade for $20 a month" speaks of no limit of a month. */
const PRICE = /[$€£¥] ?\d[\d.,]{0,9}(?: ?\/ ?| per | an? | each )(?:day|week|month|year|mo|yr)\b/gi;

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
    const quotes = QUOTING_FIELDS.map((name) => jsonIn(field(value, name)));
    values.push(...[...nested, ...quotes].filter((part) => typeof part === "object"));
  }
  return layers;
}

/** The JSON that a text is, if it is. */
function jsonIn(value: unknown): unknown {
  return typeof value === "string" ? parseJson(value) : undefined;
}

function sentencesOf(root: unknown, layers: readonly JsonObject[]): string[] {
  const sentences = layers.flatMap((layer) =>
    SENTENCE_FIELDS.map((name) => field(layer, name)).filter((value) => typeof value === "string"),
  );
  if (typeof root === "string") sentences.push(root); // SiliconFlow: the whole body is a JSON string.
  return [...new Set(sentences.filter((sentence) => !isObject(jsonIn(sentence))).map(singleLine))];
}

function codesOf(layers: readonly JsonObject[]): string[] {
  const codes = layers.flatMap((layer) => CODE_FIELDS.map((name) => fieldText(layer, name)));
  return [...new Set(codes.filter((code) => code !== "").map((code) => code.toLowerCase()))];
}

/** The readable line of a body that is not JSON: an edge's line, a page's title. */
function plainText(body: string): string {
  if (!/^\s*</.test(body)) return singleLine(body);
  return singleLine(/<title[^>]{0,99}>([^<]{0,300})/i.exec(body)?.[1] ?? "");
}

/** White space and control characters (terminal escapes, lone surrogates) collapsed. */
function singleLine(text: string): string {
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
interface StreamEvent {
  /** The `event:` field; empty where there is none. */
  name: string;
  data: string;
  /** DashScope sends the status of a failed stream as a comment: `:HTTP_STATUS/429`. */
  status: number | null;
}

/** The first event that has data; comments before it (`: keep-alive`) are passed over. */
function readEvent(text: string): StreamEvent {
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
