/**
 * When one may ask again: every field, sentence, unit and order in which providers say so.
 *
 * The answer is a time from now, or null where there is none to believe: garbage and the past count as nothing
 * said. Which provider lies about it is not known here; that stands with the provider, in `lib/providers/catalog.ts`.
 */
import { DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, parseDuration } from "../core/clock.ts";

/** Fields by lower-case name: response headers, or the copy of them that OpenRouter puts into the body. */
export interface HeaderFields {
  get(name: string): string | null | undefined;
  [Symbol.iterator](): IterableIterator<[string, string]>;
}

export interface HintSource {
  headers: HeaderFields;
  /** The JSON objects of the body, outermost first. */
  layers: readonly { readonly [name: string]: unknown }[];
  /** What the body says in sentences. */
  text: string;
}

/** The zone of a written time without one: `Z`, or `+08:00` for the providers that write Beijing time. */
export type ClockOffset = "Z" | "+08:00";

/**
 * How long upstream asks us to wait, in milliseconds.
 *
 * Explicit beats inferred: "retry" (header, field, sentence) says when *one request* fits, "reset" says when the
 * bucket is *full again*. Anthropic: `retry-after: 16` beside a reset 63 s away; Groq: a retry after 2 s beside the
 * daily bucket's reset in 3m6s.
 */
export function namedWaitMs(source: HintSource, clockOffset: ClockOffset, now: number): number | null {
  const copies = source.layers.flatMap(copiedHeaders);
  const namedMs =
    retryHeaderMs(source.headers, now) ??
    firstOf(copies, (fields) => retryHeaderMs(fields, now)) ??
    retryInBodyMs(source, clockOffset, now) ??
    emptyBucketMs(source.headers, now) ??
    firstOf(copies, (fields) => emptyBucketMs(fields, now));
  return namedMs === null ? null : Math.ceil(namedMs); // Never too early.
}

/** `retry-after-ms` (Azure, OpenAI), `retry-after` (0 is valid and means now), GitHub's seconds left. */
function retryHeaderMs(fields: HeaderFields, now: number): number | null {
  return (
    decimal(fields.get("retry-after-ms")) ??
    largestWaitMs(fields.get("retry-after"), now) ??
    waitUntilMs(fields.get("x-ratelimit-timeremaining"), now)
  );
}

/** A field that a gateway on the way sent once more, or several at once (`5, 10`): the longest that can be read. */
function largestWaitMs(value: string | null | undefined, now: number): number | null {
  return longest((value ?? "").split(LIST_COMMA).map((item) => waitUntilMs(item, now)));
}

/** A comma between two values, not the one behind the weekday of a date. */
const LIST_COMMA = /(?<!day|Mon|Tue|Wed|Thu|Fri|Sat|Sun)\s*,/;

/**
 * What the body asks for, in a field or a sentence. The longest counts: several Google violations come with one
 * delay each, and its `retryDelay` is cut down to whole seconds while the sentence has the fraction.
 */
function retryInBodyMs(source: HintSource, clockOffset: ClockOffset, now: number): number | null {
  const waits = source.layers.flatMap((layer) => RETRY_FIELDS.map((name) => waitFromField(layer, name, now)));
  return longest([...waits, waitFromProse(source.text, clockOffset, now)]);
}

/** Fields of error bodies that name a wait or an instant; the unit follows from the name and the magnitude. */
const RETRY_FIELDS = [
  "retryDelay", // Google RetryInfo: protobuf Duration, "34s" or "34.074824224s"
  "quotaResetDelay", // Code Assist: Go duration, "161h39m41.3s"
  "quotaResetTimeStamp", // Code Assist: RFC 3339
  "retry_after", // OpenRouter availability, gateways: seconds
  "retryAfter",
  "retry_after_seconds",
  "retry_after_ms",
  "retryAfterMs",
  "resets_in_seconds", // OpenAI subscription accounts
  "resets_at", // the same, epoch seconds
] as const;

function waitFromField(
  layer: { readonly [name: string]: unknown },
  name: string,
  now: number,
): number | null {
  if (!Object.hasOwn(layer, name)) return null;
  const value = layer[name];
  if (typeof value !== "string" && typeof value !== "number") return null;
  return /ms$/i.test(name) ? decimal(String(value)) : waitUntilMs(String(value), now);
}

/** OpenRouter, until 2026: `error.metadata.headers` instead of response headers. */
function copiedHeaders(layer: { readonly [name: string]: unknown }): HeaderFields[] {
  const copy = Object.hasOwn(layer, "headers") ? layer["headers"] : null;
  if (typeof copy !== "object" || copy === null || Array.isArray(copy)) return [];
  return [new Map(Object.entries(copy).map(([name, value]) => [name.toLowerCase(), String(value)]))];
}

/**
 * The reset of the bucket that is empty: only a `remaining` of 0 tells which of several resets matters. The longest
 * where several are empty. Azure's -1 means "unknown" and is not empty.
 */
function emptyBucketMs(fields: HeaderFields, now: number): number | null {
  const waits: (number | null)[] = [];
  let hasRemaining = false;
  for (const [name, value] of fields) {
    if (name.includes("remaining")) {
      hasRemaining = true;
      if (decimal(value) === 0) waits.push(waitUntilMs(fields.get(name.replace("remaining", "reset")), now));
    }
    // Anthropic subscription keys: `anthropic-ratelimit-unified-status: rejected`.
    if (name.endsWith("-status") && value === "rejected") {
      waits.push(waitUntilMs(fields.get(name.replace(/status$/, "reset")), now));
    }
    if (name === "ratelimit") waits.push(ietfWaitMs(value));
  }
  if (!hasRemaining) {
    waits.push(
      waitUntilMs(fields.get("x-ratelimit-reset"), now),
      waitUntilMs(fields.get("ratelimit-reset"), now),
    );
  }
  // A bucket that is empty and resets in 0 s contradicts itself: nothing said.
  return longest(waits.filter((ms) => ms !== 0));
}

/** The IETF field: `"api";r=0;t=112` (draft 9, Hugging Face), `limit=9, remaining=0, reset=17` (draft 6). */
function ietfWaitMs(value: string): number | null {
  const remaining = /\br(?:emaining)?=(\d+)/.exec(value)?.[1];
  const resetSec = /\b(?:t|reset)=(\d+)/.exec(value)?.[1];
  return remaining === "0" && resetSec !== undefined ? Number(resetSec) * 1000 : null;
}

/** At or above these a number is no longer a count of seconds but an instant. */
const EPOCH_MS_FROM = 1e12;
const EPOCH_SEC_FROM = 1e9;

/**
 * One value of a header or field: a number (unit by magnitude), a Go duration, an HTTP date, RFC 3339.
 * `parseInt("6m0s")` is 6: a number is only what is nothing but a number.
 */
export function waitUntilMs(value: string | null | undefined, now: number): number | null {
  const text = value?.trim() ?? "";
  const number = decimal(text);
  if (number !== null) {
    if (number >= EPOCH_MS_FROM) return notPast(number - now);
    if (number >= EPOCH_SEC_FROM) return notPast(number * 1000 - now);
    return number * 1000;
  }
  const durationMs = parseDuration(text);
  if (durationMs !== null) return finite(durationMs);
  return DATE_SHAPE.test(text) ? notPast(Date.parse(inUtc(text)) - now) : null;
}

/**
 * RFC 3339 or one of the three HTTP dates (RFC 9110 5.6.7: `Sun, 06 Nov 1994 …`, `Sunday, 06-Nov-94 …`,
 * `Sun Nov  6 08:49:37 1994`). `Date.parse` alone takes far more for a date than anyone meant as one.
 */
const DATE_SHAPE =
  /^(?:\d{4}-\d{2}-\d{2}T\d{2}:\d{2}|[A-Z][a-z]{2,8},? \d{1,2}[ -]|[A-Z][a-z]{2} [A-Z][a-z]{2} {1,2}\d{1,2} )/;

/** A date that names no zone is in UTC, as all of these are; `Date.parse` would take it for ours. */
function inUtc(date: string): string {
  if (/(?:GMT|UTC|Z|[+-]\d{2}:?\d{2})$/.test(date)) return date;
  return date.includes("T") && /^\d/.test(date) ? `${date}Z` : `${date} GMT`;
}

const UNIT_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: SECOND_MS,
  m: MINUTE_MS,
  h: HOUR_MS,
  d: DAY_MS,
};
const AMOUNT = String.raw`(\d+(?:\.\d+)?)\s*(milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])`;
const EACH_AMOUNT = new RegExp(AMOUNT, "gi");

/** "try again in 7m12s", "Retry after 40 seconds", "Please wait 5631 seconds", "will reset after 1h 30m". */
const WAIT_PROSE = new RegExp(
  String.raw`\b(?:try again|retry(?:ing)?|wait|resets?|available)` +
    String.raw`(?:\s+(?:again|in|after|for|at least|about|approximately|another))*[\s:~]*` +
    `((?:${AMOUNT}(?:\\s*,)?\\s*(?:and\\s+)?)+)`,
  "i",
);

/** "will reset at 2026-11-20 23:59:59", "regain access on 2026-12-01 at 00:00 UTC", Zhipu's 将在 … 重置. */
const INSTANT_PROSE = new RegExp(
  String.raw`(?:resets?|regain access|available|try again|retry|until|将在)[^\d\n]{0,24}` +
    String.raw`(\d{4}-\d{2}-\d{2})(?:(?:T| at | )(\d{2}:\d{2}(?::\d{2})?)(?:\.\d+)?)?\s*(Z|UTC|GMT|[+-]\d{2}:\d{2})?`,
  "i",
);

/** A wait or an instant told in a sentence. */
export function waitFromProse(text: string, clockOffset: ClockOffset, now: number): number | null {
  const amounts = WAIT_PROSE.exec(text)?.[1];
  if (amounts !== undefined) return sumOfAmounts(amounts);
  const [, day, time = "00:00", zone = clockOffset] = INSTANT_PROSE.exec(text) ?? [];
  if (day === undefined) return null;
  const offset = /^[+-]/.test(zone) ? zone : "Z";
  return notPast(Date.parse(`${day}T${time}${offset}`) - now);
}

function sumOfAmounts(amounts: string): number | null {
  let totalMs = 0;
  for (const [, amount, unit] of amounts.matchAll(EACH_AMOUNT)) {
    totalMs += Number(amount) * (UNIT_MS[shortUnit(unit ?? "")] ?? 0);
  }
  return finite(totalMs);
}

/** `minutes` to `m`, but milliseconds (`ms`, `msec`, `milliseconds`) to `ms`. */
function shortUnit(unit: string): string {
  const lower = unit.toLowerCase();
  return lower.startsWith("ms") || lower.startsWith("milli") ? "ms" : lower.slice(0, 1);
}

/** A plain decimal number, or null: no sign, no exponent, no hexadecimal, no blank. */
function decimal(text: string | null | undefined): number | null {
  if (text == null || !/^\s*\d+(?:\.\d+)?\s*$/.test(text)) return null;
  return finite(Number(text));
}

function finite(ms: number): number | null {
  return Number.isFinite(ms) ? ms : null;
}

/** A date that has passed is no hint: clocks differ, and 0 would mean "at once". */
function notPast(ms: number): number | null {
  return Number.isFinite(ms) && ms > 0 ? ms : null;
}

function longest(waits: readonly (number | null)[]): number | null {
  const named = waits.filter((ms) => ms !== null);
  return named.length === 0 ? null : Math.max(...named);
}

function firstOf<Item>(items: readonly Item[], read: (item: Item) => number | null): number | null {
  for (const item of items) {
    const ms = read(item);
    if (ms !== null) return ms;
  }
  return null;
}
