/**
 * What is sent to the admin API, read: queries, keys, settings, providers. What is wrong with it is a refusal that says
 * what to send instead. Nothing of a key is in a refusal.
 */
import {
  type ConfiguredKey,
  readPoolKeys,
  splitKeyFile,
  splitKeys,
  type WrittenKey,
} from "../config/keys.ts";
import type { RequestRecord } from "../core/events.ts";
import { field, isObject, type JsonObject, parseJson } from "../core/json.ts";
import { type ProxyError, proxyError } from "../http/error-responses.ts";
import { TRAFFIC_RANGES, type TrafficRange } from "../observability/usage.ts";
import type { Admitted } from "./auth.ts";
import { EDITABLE, type SettingChanges } from "./views.ts";

export function isRefusal(value: unknown): value is ProxyError {
  return isObject(value) && value["kind"] === "refused" && "type" in value;
}

// ── The query ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** A whole number of the query, from 1 to `most`. */
export function countIn(
  query: URLSearchParams,
  name: string,
  unless: number,
  most: number,
): number | ProxyError {
  const text = query.get(name);
  if (text === null) return unless;
  const count = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  return count >= 1 && count <= most
    ? count
    : badRequest(`${name} must be a whole number from 1 to ${most}.`);
}

/** The range of time that is asked for. */
export function rangeIn(query: URLSearchParams): TrafficRange | ProxyError {
  const text = query.get("range") ?? "1h";
  const range = TRAFFIC_RANGES.find((known) => known === text);
  return range ?? badRequest(`range must be one of ${TRAFFIC_RANGES.join(", ")}.`);
}

/** What a query's `status` may ask for. */
const STATUS_FILTERS: Readonly<Record<string, (record: RequestRecord) => boolean>> = {
  ok: ({ status, isTruncated }) => status < 400 && !isTruncated,
  failed: ({ status, isTruncated }) => status >= 400 || isTruncated,
  waited: ({ waitedMs }) => waitedMs > 0,
  rotated: ({ attempts }) => attempts.length > 1,
};

/** Which requests are asked for: all that `status`, `provider`, `model`, `client`, `key` and `q` allow. */
export function requestFilterIn(query: URLSearchParams): ((record: RequestRecord) => boolean) | ProxyError {
  const conditions: ((record: RequestRecord) => boolean)[] = [];
  const status = query.get("status") ?? "";
  if (status !== "") {
    const filter = Object.hasOwn(STATUS_FILTERS, status) ? STATUS_FILTERS[status] : undefined;
    const [, digits = "", hundred] = /^(\d)(\d\d|xx)$/i.exec(status) ?? [];
    if (filter !== undefined) conditions.push(filter);
    else if (digits === "") {
      return badRequest(`status must be ${Object.keys(STATUS_FILTERS).join(", ")}, 404 or 5xx.`);
    } else if (hundred?.toLowerCase() === "xx") {
      conditions.push((record) => Math.floor(record.status / 100) === Number(digits));
    } else conditions.push((record) => record.status === Number(status));
  }
  const is = (name: string, of: (record: RequestRecord) => string | null) => {
    const wanted = query.get(name) ?? "";
    if (wanted !== "") conditions.push((record) => of(record) === wanted);
  };
  is("provider", ({ provider }) => provider);
  is("model", ({ model }) => model);
  is("client", ({ client }) => client);
  const key = query.get("key") ?? "";
  if (key !== "") {
    conditions.push((record) => record.keyId === key || record.attempts.some(({ keyId }) => keyId === key));
  }
  const words = (query.get("q") ?? "").toLowerCase().slice(0, LONGEST_SEARCH);
  if (words !== "") conditions.push((record) => searchedText(record).includes(words));
  return (record) => conditions.every((isSo) => isSo(record));
}

const LONGEST_SEARCH = 200;

/** What a search looks through. */
function searchedText(record: RequestRecord): string {
  const { method, path, provider, model, status, outcome, keyId, account, client, reason, attempts } = record;
  const said = attempts.flatMap((attempt) => [attempt.keyId, attempt.account, attempt.verdict, attempt.said]);
  return [method, path, provider, model, status, outcome, keyId, account, client, reason, ...said]
    .filter((word) => word !== null && word !== "")
    .join(" ")
    .toLowerCase();
}

// ── The body ──────────────────────────────────────────────────────────────────────────────────────────────────────

const LONGEST_NEW_KEY = 4096;

/** `{"key", "account", "daily_limit"}`: read by the rules of the setting it will stand in. */
export function readNewKey(body: JsonObject): ConfiguredKey | ProxyError {
  const text = field(body, "key");
  const account = field(body, "account") ?? "";
  const dailyLimit = field(body, "daily_limit") ?? "";
  if (typeof text !== "string" || text === "") return badRequest('Send {"key": "…"}.');
  if (typeof account !== "string") return invalid("account must be text, or left out.");
  if (!/^(?:[1-9]\d{0,14})?$/.test(String(dailyLimit))) {
    return invalid("daily_limit must be a whole number from 1 up, or left out.");
  }
  // Every character counts: a line break would begin a setting of its own, a comma a key of its own.
  const written = `${account === "" ? "" : `${account}@`}${text}${dailyLimit === "" ? "" : `:${dailyLimit}`}`;
  if (written.length > LONGEST_NEW_KEY)
    return invalid(`The key is longer than ${LONGEST_NEW_KEY} characters.`);
  if (/[\s,\p{Cc}]/u.test(written)) {
    return invalid(
      "The key holds white space, a comma or a control character. Send one key, and nothing around it.",
    );
  }
  const { keys, problems } = readPoolKeys(splitKeys("The new key", written));
  const [key] = keys;
  return key ?? invalid(`${problems.join("\n").replace(/^The new key: key 1/, "The new key")}`);
}

/** One line of a text of keys: a key, or what is wrong with it. */
export interface KeyTextLine {
  /** `line 3`, or `key 2 in line 3`. */
  place: string;
  key: ConfiguredKey | null;
  /** Why it is none, or why it is left out; empty: it is one. */
  problem: string;
}

/** Keys in any number, one or more a line, each with what is wrong with it. */
export function readKeyLines(text: string): KeyTextLine[] {
  const seen = new Set<string>();
  return splitKeyFile(KEY_TEXT, text).map((item): KeyTextLine => {
    const place = item.place.replace(`${KEY_TEXT}: `, "").replace(/^the key in /, "");
    const { keys, problems } = readPoolKeys([item]);
    const [key = null] = keys;
    if (key === null) return { place, key, problem: sentenceOf(item, problems[0] ?? "is no key.") };
    if (seen.has(key.secret.id)) return { place, key: null, problem: "It is there twice, and taken once." };
    seen.add(key.secret.id);
    return { place, key, problem: "" };
  });
}

const KEY_TEXT = "The text";

function sentenceOf({ place }: WrittenKey, problem: string): string {
  return `It ${problem.replace(`${place} `, "")}`;
}

/** The keys of `{"keys": "…"}` or `{"keys": ["…", …]}`. */
export function readKeyText(body: JsonObject): string | ProxyError {
  const keys = field(body, "keys");
  if (typeof keys === "string" && keys.trim() !== "") return keys;
  if (Array.isArray(keys) && keys.length > 0 && keys.every((key) => typeof key === "string"))
    return keys.join("\n");
  return badRequest(
    'Send {"keys": "…"}: one or more a line, each as account@key:daily, of which only the key is needed.',
  );
}

/** `name`, `base_url` and `dialect` of a provider that is to be made; null: left out. */
export function readNewProvider(
  body: JsonObject,
): { name: string | null; baseUrl: string | null; dialect: string | null } | ProxyError {
  const texts: (string | null)[] = [];
  for (const name of ["name", "base_url", "dialect"]) {
    const value = field(body, name) ?? "";
    if (typeof value !== "string" || value.length > 1000 || /\p{Cc}/u.test(value)) {
      return invalid(`${name} must be one short line of text, or left out.`);
    }
    texts.push(value.trim() === "" ? null : value.trim());
  }
  const [name = null, baseUrl = null, dialect = null] = texts;
  return { name, baseUrl, dialect };
}

export function readChanges(body: JsonObject): SettingChanges | ProxyError {
  const changes = new Map<(typeof EDITABLE)[number], string | null>();
  for (const name of Object.keys(body)) {
    const setting = EDITABLE.find((known) => known === name);
    if (setting === undefined) {
      return invalid(`Only these can be changed from here: ${EDITABLE.join(", ")}.`);
    }
    const value = field(body, name);
    if (value !== null && !["string", "number", "boolean"].includes(typeof value)) {
      return invalid(`${setting} must be text, a number, true, false or null.`);
    }
    const text = value === null ? "" : String(value).trim();
    if (text.length > 1000 || /\p{Cc}/u.test(text))
      return invalid(`${setting} cannot be so. Use one short line.`);
    changes.set(setting, text === "" ? null : text);
  }
  if (changes.size === 0) return badRequest(`Send at least one of ${EDITABLE.join(", ")}.`);
  return changes;
}

/** Of who is known to be the operator, and of everybody else. */
const MOST_BODY_BYTES = 1024 * 1024;
const MOST_LOGIN_BYTES = 16 * 1024;
export const NO_BODY: JsonObject = {};

/** The body of a change: a JSON object, or nothing. */
export async function readJsonBody(
  request: Request,
  operator: Admitted | null,
): Promise<JsonObject | ProxyError> {
  const { headers } = request;
  const type = headers.get("content-type");
  const isJson = type !== null && /^application\/json\s*(?:;|$)/i.test(type);
  // A form of another site can be sent without asking, JSON cannot. A script has shown the password, which no
  // other site knows, and may leave the type out where there is nothing to send.
  if (!isJson && (type !== null || operator?.by !== "password")) return WRONG_TYPE;
  const text = await readBodyText(request, operator === null ? MOST_LOGIN_BYTES : MOST_BODY_BYTES);
  if (typeof text !== "string") return text;
  if (text.trim() === "") return NO_BODY;
  const body = isJson ? parseJson(text) : undefined;
  if (body === undefined && !isJson) return WRONG_TYPE;
  return isObject(body) ? body : badRequest("The body is not a JSON object.");
}

async function readBodyText(request: Request, mostBytes: number): Promise<string | ProxyError> {
  if (Number(request.headers.get("content-length") ?? 0) > mostBytes) return tooLarge(mostBytes);
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  let bytes = 0;
  try {
    for await (const chunk of request.body ?? []) {
      bytes += chunk.length;
      if (bytes > mostBytes) return tooLarge(mostBytes);
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  } catch {
    return badRequest("The body broke off, or is not UTF-8."); // who broke it off does not read this
  }
}

export function badRequest(message: string): ProxyError {
  return proxyError(400, "bad_request", message);
}

export function invalid(message: string): ProxyError {
  return proxyError(422, "invalid_value", message);
}

const WRONG_TYPE = proxyError(
  415,
  "unsupported_media_type",
  "Send JSON, with content-type: application/json.",
);

function tooLarge(mostBytes: number): ProxyError {
  const message = `The request body is larger than ${mostBytes / 1024} KB, which nothing here needs.`;
  return proxyError(413, "body_too_large", message);
}
