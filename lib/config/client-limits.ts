/**
 * What `CLIENT_LIMITS` says: what each named client may use. Pure.
 *
 * `name = limit, limit, …` is a line, `;` ends it. A limit is `20/min`, `1000/day`, `2M tokens/day`, or `models` and
 * the patterns of those that may be used, with `|` between them. `*` is the line of every client that has none.
 * Whatever is wrong is said at once, one line a mistake.
 */
import { shown } from "./key-shapes.ts";
import { alternatives } from "./parsers.ts";
import { nearest, vocabularyOf } from "./settings.ts";

/** What a client may use. Where a field is null it is not limited so. */
export interface ClientLimit {
  /** As in `PROXY_API_KEY`; `*`: whoever has no line, each by itself. */
  client: string;
  /** Requests in any 60 s. */
  perMinute: number | null;
  perDay: number | null;
  /** Of input and output together. */
  tokensPerDay: number | null;
  /** Names of models, with `*` for any text. */
  models: string[] | null;
}

export interface ClientLimitList {
  limits: ClientLimit[];
  problems: string[];
}

/** The line of whoever has no line. */
export const ANY_CLIENT = "*";

const EXAMPLE = "20/min, 1000/day, 2M tokens/day, models llama-*|qwen-*";
/** Each request of the last minute is remembered. */
export const MOST_PER_MINUTE = 100_000;
/** Longer names of models are not looked at when a request names one. */
const LONGEST_PATTERN = 200;

/** Reads `name = limit, limit; …`. `clients`: the names in `PROXY_API_KEY`. */
export function parseClientLimits(text: string, clients: ReadonlySet<string>): ClientLimitList {
  const list: ClientLimitList = { limits: [], problems: [] };
  const lines = text.split(";").filter((line) => line.trim() !== "");
  for (const [index, line] of lines.entries()) {
    const equals = line.indexOf("=");
    const client = line.slice(0, Math.max(0, equals)).trim();
    const fault =
      equals < 0 || client === ""
        ? `CLIENT_LIMITS: line ${index + 1} names no client. Write name = ${EXAMPLE}, and ; between two clients.`
        : faultOfName(client, clients, list.limits);
    if (fault !== null) list.problems.push(fault);
    list.limits.push(parseLine(client, line.slice(equals + 1), list.problems));
  }
  if (lines.length === 0)
    list.problems.push("CLIENT_LIMITS holds no line. Write one, or remove the setting.");
  return list;
}

function faultOfName(
  client: string,
  clients: ReadonlySet<string>,
  before: readonly ClientLimit[],
): string | null {
  if (before.some((line) => line.client === client))
    return `CLIENT_LIMITS has two lines of ${shown(client)}. Write one of both.`;
  if (client === ANY_CLIENT || clients.has(client)) return null;
  const unknown = `CLIENT_LIMITS names the client ${shown(client)}, of which there is no key`;
  if (clients.size === 0)
    return `${unknown}: no key in PROXY_API_KEY has a name. Write name=key there, or use * for every client.`;
  const meant = nearest(client, vocabularyOf([...clients]));
  if (meant !== null) return `${unknown}. Did you mean ${meant}?`;
  return `${unknown}. Use ${alternatives([...clients, ANY_CLIENT])}, or write name=key in PROXY_API_KEY.`;
}

function parseLine(client: string, text: string, problems: string[]): ClientLimit {
  const limit: ClientLimit = { client, perMinute: null, perDay: null, tokensPerDay: null, models: null };
  const place = `CLIENT_LIMITS: the line of ${shown(client === "" ? "nobody" : client)}`;
  const items = text
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== "");
  if (items.length === 0) problems.push(`${place} limits nothing. Write ${EXAMPLE}, or remove it.`);
  for (const item of items) {
    const read = parseItem(item);
    if (typeof read === "string") problems.push(`${place} has ${shown(item)}, ${read}`);
    else if (limit[read.kind] !== null)
      problems.push(`${place} has ${WORDS[read.kind]} twice. Write one of both.`);
    else Object.assign(limit, { [read.kind]: read.value });
  }
  return limit;
}

type Item =
  { kind: "perMinute" | "perDay" | "tokensPerDay"; value: number } | { kind: "models"; value: string[] };

const WORDS: Record<Item["kind"], string> = {
  perMinute: "a limit of requests a minute",
  perDay: "a limit of requests a day",
  tokensPerDay: "a limit of tokens a day",
  models: "models",
};

const AMOUNT = /^(\d+(?:\.\d+)?) ?([kmg]?)(?: ?(tokens?|requests?|reqs?))? ?(?:\/|per) ?([a-z]+)$/i;
const FACTORS: Readonly<Record<string, number>> = { "": 1, k: 1e3, m: 1e6, g: 1e9 };

/** A limit, or what is wrong with it, as the end of a sentence. */
function parseItem(item: string): Item | string {
  const [, patterns] = /^models?(?:\s+|\s*[:=]\s*)(.*)$/is.exec(item) ?? [];
  if (patterns !== undefined) return parseModels(patterns);
  if (/^models?$/i.test(item)) return "which names no model. Write models llama-*|qwen-*.";
  const [, digits, factor = "", what = "", unit = ""] = AMOUNT.exec(item.replace(/\s+/g, " ")) ?? [];
  if (digits === undefined) return `which is no limit. Write ${EXAMPLE}, with | between two models.`;
  const value = Math.round(Number(digits) * (FACTORS[factor.toLowerCase()] ?? 1) * 1e6) / 1e6;
  const isOfTokens = what.toLowerCase().startsWith("token");
  const isOfMinute = /^(?:m|min|mins|minutes?)$/i.test(unit);
  if (!isOfMinute && !/^(?:d|days?)$/i.test(unit))
    return isOfTokens
      ? "but tokens are counted by the day. Write 2M tokens/day."
      : "but requests are counted by the minute and the day. Write 20/min or 1000/day.";
  if (isOfTokens && isOfMinute) return "but tokens are counted by the day. Write 2M tokens/day.";
  const most = isOfMinute ? MOST_PER_MINUTE : Number.MAX_SAFE_INTEGER;
  if (!Number.isInteger(value) || value < 1 || value > most)
    return `but it has to be a whole number from 1 ${isOfMinute ? `to ${most}` : "up"}.`;
  return { kind: isOfTokens ? "tokensPerDay" : isOfMinute ? "perMinute" : "perDay", value };
}

function parseModels(text: string): Item | string {
  const patterns = text.split("|").map((pattern) => pattern.trim());
  if (patterns.some((pattern) => pattern === ""))
    return "in which there is nothing before or after a |. Write models llama-*|qwen-*.";
  if (patterns.some((pattern) => /\s/.test(pattern)))
    return "in which a name holds white space. Write | between two models, and a comma before the next limit.";
  if (patterns.some((pattern) => pattern.length > LONGEST_PATTERN))
    return `in which a name has more than ${LONGEST_PATTERN} characters. Shorten it.`;
  return { kind: "models", value: [...new Set(patterns)] };
}
