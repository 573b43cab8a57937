/**
 * When one may ask again: every field, sentence, unit and order in which providers say so.
 *
 * The answer is a time from now, or null where there is none to believe: garbage and the past count as nothing
 * said. Which provider lies about it is not known here; that stands with the provider, in `lib/providers/catalog.ts`.
 */
import { HOUR_MS, MINUTE_MS, SECOND_MS, parseDuration } from "../core/clock.ts";
import { fieldText, isObject } from "../core/json.ts";
import type { JsonObject } from "../core/json.ts";
import { amountsOf, instantOf, waitFromProse } from "./wait-text.ts";
import type { ClockOffset } from "./wait-text.ts";

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

/**
 * How long upstream asks us to wait, in milliseconds.
 *
 * Explicit beats inferred: "retry" (header, field, sentence) says when *one request* fits, "reset" says when the
 * bucket is *full again*. Anthropic: `retry-after: 16` beside a reset 63 s away; Groq: a retry after 2 s beside the
 * daily bucket's reset in 3m6s.
 */
export function namedWaitMs(source: HintSource, clockOffset: ClockOffset, now: number): number | null {
  const at = writtenAt(source.headers, now);
  const copies = source.layers.flatMap(copiedHeaders);
  const namedMs =
    retryHeaderMs(source.headers, at) ??
    firstFound(copies, (fields) => retryHeaderMs(fields, at)) ??
    retryInBodyMs(source, clockOffset, at) ??
    emptyBucketMs(source.headers, at) ??
    firstFound(copies, (fields) => emptyBucketMs(fields, at));
  return namedMs === null ? null : Math.ceil(namedMs); // Never too early.
}

/** Clocks that differ by less are taken to agree: `Date` has whole seconds, and the answer was on its way. */
const SAME_CLOCK_MS = 3 * SECOND_MS;
/** A `Date` outside of these years is a clock that was never set. */
const SANE_FROM = Date.UTC(2025, 0);
const SANE_UNTIL = Date.UTC(2100, 0);

/**
 * When the answer was written, by upstream's own clock: its instants are meant against that one, and ours may be
 * hours off (a small computer without a clock of its own). Ours where the two agree, or upstream does not tell.
 */
export function writtenAt(headers: HeaderFields, now: number): number {
  const date = headers.get("date");
  if (date == null || date.length > LONGEST_VALUE || !DATE_SHAPE.test(date)) return now;
  const ageSec = decimalIn(headers.get("age")) ?? 0; // It may come from a cache.
  const at = Date.parse(inUtc(date)) + ageSec * SECOND_MS;
  const isSane = at >= SANE_FROM && at < SANE_UNTIL && Math.abs(at - now) > SAME_CLOCK_MS;
  return isSane ? at : now;
}

/** `retry-after-ms` (Azure, OpenAI), `retry-after` (0 is valid and means now), their kin, GitHub's seconds left. */
function retryHeaderMs(fields: HeaderFields, now: number): number | null {
  const named =
    decimalIn(fields.get("retry-after-ms")) ??
    largestWaitMs(fields.get("retry-after"), now) ??
    waitUntilMs(fields.get("x-ratelimit-timeremaining"), now);
  if (named !== null) return named;
  const kin: (number | null)[] = [];
  for (const [name, value] of fields) {
    if (name.includes("retry-after") && name !== "retry-after") kin.push(waitByName(name, value, now));
  }
  return longest(kin);
}

/** A field that a gateway on the way sent once more, or several at once (`5, 10`): the longest that can be read. */
function largestWaitMs(value: string | null | undefined, now: number): number | null {
  const items = (value ?? "").slice(0, LONGEST_VALUE).split(LIST_COMMA);
  return longest(items.map((item) => waitUntilMs(item, now)));
}

/** A comma between two values, not the one behind the weekday of a date. */
const LIST_COMMA = /(?<!day|Mon|Tue|Wed|Thu|Fri|Sat|Sun)\s*,/;

/**
 * What the body asks for, in a field or a sentence. The longest counts: several Google violations come with one
 * delay each, and its `retryDelay` is cut down to whole seconds while the sentence has the fraction.
 */
function retryInBodyMs(source: HintSource, clockOffset: ClockOffset, now: number): number | null {
  const waits = source.layers.flatMap((layer) =>
    Object.entries(layer).map(([name, value]) => waitFromField(name, value, now)),
  );
  return longest([...waits, waitFromProse(source.text, clockOffset, now)]);
}

/**
 * Fields of error bodies that name a wait or an instant, however they are spelt (`retry_after`, `retryAfter`). Seen:
 * Google's `retryDelay`, Code Assist's `quotaResetDelay` and `quotaResetTimeStamp`, OpenRouter's `retry_after`, OpenAI
 * subscriptions' `resets_in_seconds` and `resets_at`; of gateways `reset_at`, `resetTime`, `reset_seconds`,
 * `retryAfterSeconds`, `wait_seconds`, `cooldown_until` (public issues, Nov 2026).
 */
const RETRY_FIELD =
  /^(?:quota|rate|ratelimit|limit|window|next|time)?(?:(?:resets?|retry|wait|cooldown|available|unlock(?:s|ed)?|block(?:ed)?|lock(?:ed)?|banned)(?:at|after|in|delay|until|on|time|timestamp|date|for)|resets?|waittime|cooldown|wait)(?:ms|millis|milliseconds|s|sec|secs|seconds|minutes|mins|hours)?$|^(?:seconds|secs|ms|time)?until(?:reset|retry)(?:ms|seconds)?$/;
const LONGEST_FIELD_NAME = 40;

function waitFromField(name: string, value: unknown, now: number): number | null {
  if (name.length > LONGEST_FIELD_NAME) return null;
  const plainName = name.replaceAll(/[_-]/g, "").toLowerCase();
  if (!RETRY_FIELD.test(plainName)) return null;
  if (isObject(value)) return partsMs(value);
  return typeof value === "string" || typeof value === "number"
    ? waitByName(plainName, String(value), now)
    : null;
}

/**
 * A duration of protobuf that was not written as one word: `{seconds: 10, nanos: 500000000}`, or `"10"` for 10; or
 * `{value: 10, unit: "seconds"}`.
 */
function partsMs(parts: JsonObject): number | null {
  const unit = fieldText(parts, "unit").slice(0, LONGEST_FIELD_NAME);
  if (unit !== "") return amountsOf(`${fieldText(parts, "value").slice(0, LONGEST_FIELD_NAME)} ${unit}`);
  const secondsMs = decimalIn(fieldText(parts, "seconds") || "0");
  const nanos = decimalIn(fieldText(parts, "nanos") || "0");
  const ms = (secondsMs ?? NaN) * SECOND_MS + (nanos ?? NaN) / 1e6;
  return ms > 0 ? ms : null;
}

/** A value whose unit the name tells (`…_ms`, `…Minutes`); else by its magnitude. */
function waitByName(name: string, value: string, now: number): number | null {
  const unitMs = UNIT_OF_NAME.find(([unit]) => unit.test(name))?.[1];
  const number = unitMs === undefined ? null : decimalIn(value);
  return number === null || unitMs === undefined
    ? waitUntilMs(value, now)
    : notPastInstant(number, unitMs, now);
}

const UNIT_OF_NAME: readonly (readonly [RegExp, number])[] = [
  [/ms$|millis$|milliseconds$/, 1],
  [/min(?:ute)?s$/, MINUTE_MS],
  [/hours$/, HOUR_MS],
];

/** `resetMs` may hold an instant. */
function notPastInstant(number: number, unitMs: number, now: number): number | null {
  return number >= EPOCH_SEC_FROM ? waitUntilMs(String(number), now) : number * unitMs;
}

/** OpenRouter, until 2026: `error.metadata.headers` instead of response headers. */
function copiedHeaders(layer: { readonly [name: string]: unknown }): HeaderFields[] {
  const copy = Object.hasOwn(layer, "headers") ? layer["headers"] : null;
  if (typeof copy !== "object" || copy === null || Array.isArray(copy)) return [];
  return [new Map(Object.entries(copy).map(([name, value]) => [name.toLowerCase(), String(value)]))];
}

/**
 * The reset of the bucket that is empty: only a `remaining` of 0 tells which of several resets matters. The longest
 * where several are empty. Azure's -1 means "unknown" and is not empty. Where nothing tells which bucket is empty, the
 * nearest reset: a try that is too early costs one refusal.
 */
function emptyBucketMs(fields: HeaderFields, now: number): number | null {
  const waits: (number | null)[] = [];
  const resets: (number | null)[] = [];
  let isTold = false;
  const resetOf = (name: string, left: RegExp) =>
    RESET_NAMES.map((reset) => waitUntilMs(fields.get(name.replace(left, reset)), now)).find(
      (ms) => ms !== null,
    );
  for (const [name, value] of fields) {
    if (name === "ratelimit") waits.push(ietfWaitMs(value));
    if (name.includes("remaining")) {
      isTold = true;
      if (decimalIn(value) === 0) waits.push(resetOf(name, /remaining/) ?? null);
    } else if (name.endsWith("-status")) {
      // Anthropic subscription keys: `anthropic-ratelimit-unified-status: rejected`.
      isTold ||= name.includes("ratelimit");
      if (value === "rejected") waits.push(resetOf(name, /status$/) ?? null);
    } else if (name.endsWith("-used-percent")) {
      // OpenAI subscription keys: `x-codex-primary-used-percent: 100`.
      isTold = true;
      if ((decimalIn(value) ?? 0) >= 100) waits.push(resetOf(name, /used-percent$/) ?? null);
    } else if (RESET_HEADER.test(name)) resets.push(waitByName(name, value, now));
  }
  // A bucket that is empty and resets in 0 s contradicts itself: nothing said.
  const isSaid = (ms: number | null) => ms !== null && ms > 0;
  return longest(waits.filter(isSaid)) ?? (isTold ? null : shortest(resets.filter(isSaid)));
}

/** What stands in the name of a reset in the place of `remaining`. */
const RESET_NAMES = ["reset", "reset-after", "reset-after-seconds", "reset-at"] as const;
/** `x-ratelimit-reset`, `ratelimit-reset`, `x-rate-limit-reset-after`, `x-ratelimit-reset-requests`, … */
const RESET_HEADER = /(?:rate-?limit|quota|throttl)[a-z-]{0,32}reset/;

/** The IETF field: `"api";r=0;t=112` (draft 9, Hugging Face), `limit=9, remaining=0, reset=17` (draft 6). */
function ietfWaitMs(value: string): number | null {
  const remaining = /\br(?:emaining)?=(\d+)/.exec(value)?.[1];
  const resetSec = /\b(?:t|reset)=(\d+)/.exec(value)?.[1];
  return remaining === "0" && resetSec !== undefined ? Number(resetSec) * SECOND_MS : null;
}

/** At or above these a number is no longer a count of seconds but an instant. */
const EPOCH_MS_FROM = 1e12;
const EPOCH_SEC_FROM = 1e9;
/** No value that means a time is longer; a longer one is not looked at. */
const LONGEST_VALUE = 512;

/**
 * One value of a header or field: a number (unit by magnitude), a duration (`1h2m3.4s`, `30 seconds`), an HTTP date,
 * a date and time with or without a zone. `parseInt("6m0s")` is 6: a number is only what is nothing but a number.
 */
export function waitUntilMs(value: string | null | undefined, now: number): number | null {
  const text = value == null || value.length > LONGEST_VALUE ? "" : value.trim();
  const number = decimalIn(text);
  if (number !== null) {
    if (number >= EPOCH_MS_FROM) return notPast(number - now);
    if (number >= EPOCH_SEC_FROM) return notPast(number * SECOND_MS - now);
    return number * SECOND_MS;
  }
  const durationMs = parseDuration(text) ?? amountsOf(text);
  if (durationMs !== null) return finite(durationMs);
  return DATE_SHAPE.test(text) ? notPast(Date.parse(inUtc(text)) - now) : instantOf(text, now);
}

/**
 * The three HTTP dates (RFC 9110 5.6.7): `Sun, 06 Nov 1994 …`, `Sunday, 06-Nov-94 …`, `Sun Nov  6 08:49:37 1994`.
 * `Date.parse` alone takes far more for a date than anyone meant as one.
 */
const DATE_SHAPE = /^(?:[A-Z][a-z]{2,8},? \d{1,2}[ -]|[A-Z][a-z]{2} [A-Z][a-z]{2} {1,2}\d{1,2} )/;

/** An HTTP date that names no zone is in UTC; `Date.parse` would take it for ours. */
function inUtc(date: string): string {
  return /(?:GMT|UTC|[+-]\d{2}:?\d{2})$/.test(date) ? date : `${date} GMT`;
}

/** A plain decimal number, or null: no sign, no exponent, no hexadecimal, no blank. */
function decimalIn(text: string | null | undefined): number | null {
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

function shortest(waits: readonly (number | null)[]): number | null {
  const named = waits.filter((ms) => ms !== null);
  return named.length === 0 ? null : Math.min(...named);
}

function firstFound<Item>(items: readonly Item[], read: (item: Item) => number | null): number | null {
  for (const item of items) {
    const ms = read(item);
    if (ms !== null) return ms;
  }
  return null;
}
