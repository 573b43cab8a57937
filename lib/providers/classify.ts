/**
 * What an upstream's answer means and whose fault it was; where each provider lives and how its key goes.
 * Pure: facts and `now` in, a verdict out.
 *
 * A status code is judged here, once, and nowhere else. The rest of the program only knows verdicts. What is known
 * of each provider is data, in `lib/providers/catalog.ts`; this file applies it.
 */
import {
  type Answer,
  type JsonObject,
  type StreamEvent,
  field,
  fieldText,
  isObject,
  parseJson,
  readAnswer,
  readEvent,
} from "./answer.ts";
import {
  PROVIDERS,
  type Proof,
  type Provider,
  type RefusalRule,
  type Ruling,
  type Wait,
  asNamed,
  sharedRules,
} from "./catalog.ts";
import { namedWaitMs } from "./retry-hints.ts";
import { DIALECTS, type Dialect, type Evidence, type Verdict } from "./verdict.ts";

export { DIALECTS };
export type { Dialect, Evidence, Pause, Scope, Verdict } from "./verdict.ts";

// ---------------------------------------------------------------- catalogue

/** The provider's address; null where it depends on the account (azure, vertex, cloudflare) or is unknown. */
export function defaultBaseUrl(dialect: Dialect): string | null {
  return PROVIDERS[dialect].baseUrl;
}

/** The IANA zone in which the provider's daily quotas start anew. */
export function resetZone(dialect: Dialect): string {
  return PROVIDERS[dialect].resetZone;
}

/** Whose address this is, by its host; `generic` where nobody's we know. */
export function dialectFromUrl(url: URL): Dialect {
  const host = url.hostname.replace(/\.$/, "");
  const knows = (pattern: string) =>
    host === pattern || host.endsWith(pattern.startsWith("-") ? pattern : `.${pattern}`);
  return DIALECTS.find((dialect) => PROVIDERS[dialect].hosts.some(knows)) ?? "generic";
}

/** The header that carries the key. Runs for every attempt: no pattern matching, nothing kept. */
export function authHeader(
  dialect: Dialect,
  baseUrl: URL,
  upstreamPath: string,
  key: string,
): [name: string, value: string] {
  switch (PROVIDERS[dialect].keyHeader) {
    case "bearer":
      return bearer(key);
    case "anthropic":
      // OAuth tokens, and the OpenAI-compatible path, go as everywhere else.
      if (key.startsWith("sk-ant-oat") || upstreamPath.includes("/chat/completions")) return bearer(key);
      return ["x-api-key", key];
    case "azure":
      // An Entra token is a JWT.
      return key.startsWith("eyJ") ? bearer(key) : ["api-key", key];
    case "google":
      // So do OAuth tokens and the OpenAI-compatible path here.
      if (key.startsWith("ya29.")) return bearer(key);
      if (isCompatPath(upstreamPath) || isCompatPath(baseUrl.pathname)) return bearer(key);
      return ["x-goog-api-key", key];
  }
}

function bearer(key: string): [name: string, value: string] {
  return ["authorization", `Bearer ${key}`];
}

/** Gemini's OpenAI-compatible path, `/v1beta/openai/…`. */
function isCompatPath(path: string): boolean {
  return path.includes("/openai/") || path.endsWith("/openai");
}

/** A request that tells a live key from a dead one, as `Proof`, with its address made whole. */
export interface Probe {
  method: Proof["method"];
  url: URL;
  headers: Readonly<Record<string, string>>;
  proves: Proof["proves"];
}

/** The cheapest proof of a key, or null where none is known that is free and certain. The key goes on as always. */
export function probeFor(dialect: Dialect, baseUrl: URL): Probe | null {
  const { proof, baseUrl: usual } = PROVIDERS[dialect];
  if (proof === null) return null;
  const { method, target, proves, headers = {} } = proof;
  if (target.startsWith("https:")) return { method, url: new URL(target), headers, proves };
  if (target.startsWith("origin:")) {
    return { method, url: new URL(target.slice("origin:".length), baseUrl), headers, proves };
  }
  // A base that is only an origin gets whole paths from its clients: the API's root is the usual one.
  const root = baseUrl.pathname === "/" ? new URL(usual ?? "https://host/v1").pathname : baseUrl.pathname;
  return { method, url: new URL(root.replace(/\/+$/, "") + target, baseUrl), headers, proves };
}

// ----------------------------------------------------------------- verdicts

/** What an answer with a status means. */
export function classify(dialect: Dialect, evidence: Evidence, now: number): Verdict {
  if (evidence.status < 400) return { kind: "served" };
  return judge(dialect, readAnswer(evidence.status, evidence.headers, evidence.body), now);
}

/** Fits every first event worth reading: most streams begin with an event that has none of these. */
const MAYBE_ERROR =
  /"errors?"\s*:(?!\s*(?:null|false|""|\{\s*\}|\[\s*\]))|"(?:type|object)"\s*:\s*"(?:error|response\.failed)"|"(?:code|title)"\s*:|^event: ?error/m;

const NO_HEADERS = new Headers();

/**
 * What an error means that came as the first event of a 200 stream, or as bare JSON in place of one; null where it
 * is none. `event` is that event's text, framing and all.
 */
export function classifyStreamError(dialect: Dialect, event: string, now: number): Verdict | null {
  if (!MAYBE_ERROR.test(event)) return null;
  const { name, data, status } = readFirstEvent(event);
  if (name !== "error" && !saysError(parseJson(data))) return null;
  const answer = readAnswer(0, NO_HEADERS, data);
  return judge(dialect, { ...answer, status: status ?? impliedStatus(answer) }, now);
}

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
  const error = field(value, "error");
  if (isObject(error)) return Object.keys(error).length > 0;
  return typeof error === "string" ? error !== "" : isBareError(value);
}

const ERROR_TYPES: ReadonlySet<string> = new Set(["error", "response.failed"]);

/** An error without `error`: NVIDIA's `{status, title}`, DashScope's and SiliconFlow's `{code, message}`. */
function isBareError(value: JsonObject): boolean {
  if (ANSWER_FIELDS.some((name) => fieldText(value, name) !== "")) return false;
  const status = field(value, "status");
  if (typeof status === "number" && status >= 400 && fieldText(value, "title") !== "") return true;
  return fieldText(value, "message") !== "" && !GOOD_CODES.has(fieldText(value, "code"));
}

const ANSWER_FIELDS = ["choices", "candidates", "output", "content", "response", "delta", "done", "data"];
const GOOD_CODES: ReadonlySet<string> = new Set(["", "0", "200", "20000"]);

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

const STATUS_FIELDS = ["code", "http_status", "status", "status_code", "raw_status_code"];

/** Order matters: OpenAI's `invalid_request_error` is the type of half of all codes. */
const STATUS_OF_CODE: readonly (readonly [RegExp, number])[] = [
  [/overloaded|slow_down|unavailable|capacity|server_busy/, 503],
  [/rate_?limit|too_many_requests|resource[_-]exhausted|throttl|quota|usage_limit/, 429],
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
  [/\brate.?limit|\btoo many requests\b|\busage limit\b/i, 429],
  [/\boverloaded\b|\bcapacity\b|\btoo busy\b|\bunavailable\b/i, 503],
];

/** The first rule that holds decides: the provider's own, then the shared ones, then the status alone. */
function judge(dialect: Dialect, answer: Answer, now: number): Verdict {
  const provider = PROVIDERS[dialect];
  const namedMs = namedWaitMs(answer, provider.clockOffset, now);
  const holdsHere = (rule: RefusalRule) => holds(rule, answer, namedMs);
  const rule = provider.rules().find(holdsHere) ?? sharedRules().find(holdsHere);
  return verdictOf(rule?.then ?? byStatus(answer.status), provider, answer, namedMs, now);
}

function byStatus(status: number): Ruling {
  return status >= 500 ? { kind: "overloaded" } : { kind: "rejected" };
}

function holds(rule: RefusalRule, answer: Answer, namedMs: number | null): boolean {
  const { status, code, text, field: wanted, header, page, namedAtLeastMs } = rule;
  if (status !== undefined && ![status].flat().includes(answer.status)) return false;
  if (page !== undefined && !answer.isPage) return false;
  if (header !== undefined && !header[1].test(answer.headers.get(header[0]) ?? "")) return false;
  if (namedAtLeastMs !== undefined && (namedMs ?? -1) < namedAtLeastMs) return false;
  if (wanted !== undefined && !answer.layers.some((layer) => says(layer, ...wanted))) return false;
  if (code !== undefined && !answer.codes.some((word) => code.test(word))) return false;
  return text === undefined || [text].flat().some((pattern) => pattern.test(answer.text));
}

function says(layer: JsonObject, name: string, value: RegExp): boolean {
  return value.test(fieldText(layer, name));
}

/** Failures after which the provider may have done the work, and may charge for it. */
const MAYBE_BILLED: ReadonlySet<number> = new Set([500, 502, 504, 520, 524]);

function verdictOf(
  ruling: Ruling,
  provider: Provider,
  answer: Answer,
  namedMs: number | null,
  now: number,
): Verdict {
  const { said, status } = answer;
  const pauseAfter = (wait: Wait) => wait(namedMs, now, provider.resetZone);
  switch (ruling.kind) {
    case "rejected":
      return { kind: "rejected", said };
    case "rate_limited": {
      const wait = ruling.wait ?? provider.limitWait ?? asNamed;
      const scope = ruling.scope ?? provider.limitScope;
      return { kind: "rate_limited", scope, pause: pauseAfter(wait), reason: ruling.reason, said };
    }
    case "exhausted": {
      const scope = ruling.scope ?? provider.limitScope;
      return { kind: "exhausted", scope, pause: pauseAfter(ruling.wait), reason: ruling.reason, said };
    }
    case "revoked":
      return { kind: "revoked", certain: ruling.certain, said };
    case "unsuited":
      return { kind: "unsuited", scope: ruling.scope, said };
    case "overloaded":
      return {
        kind: "overloaded",
        refusesAll: ruling.refusesAll === true,
        pauseMs: namedMs ?? ruling.elseMs ?? null,
        maybeBilled: MAYBE_BILLED.has(status),
        said,
      };
  }
}
