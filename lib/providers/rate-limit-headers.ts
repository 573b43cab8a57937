/**
 * What the headers of an answer, good or refused, announce of request limits: how many are left, and until when.
 *
 * No two providers agree: the reset may be seconds, milliseconds, an instant or a Go duration; it is the end of a
 * window here, and there the time at which a bucket that fills steadily is full again; the window may be a minute or
 * a day under the same name. So each dialect has its table. What contradicts itself is not believed, as headers may
 * lie: Azure's -1/-1/0 means "unknown", and GitHub tells a limit of 20,000 where a user may ask 5 at once.
 *
 * Pure. Runs on every answer, most of which announce nothing: then it costs a look-up or two.
 */
import { DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import { PROVIDERS } from "./catalog.ts";
import { waitUntilMs, writtenAt } from "./retry-hints.ts";
import type { Dialect, Scope } from "./verdict.ts";

/** What an answer announced of a request limit. */
export interface Budget {
  /** Requests per window; null: not told, or known to be told wrongly. */
  readonly limit: number | null;
  /** Requests left when the answer was made. */
  readonly remaining: number;
  /** Epoch ms when the window ends (`window`) or the bucket is full again (`leaky`). */
  readonly resetAt: number;
  readonly kind: "window" | "leaky";
  /** `minute` for short windows (seconds to minutes), `day` for long ones (hours, days). */
  readonly span: "minute" | "day";
  readonly scope: Scope;
}

/** The tightest limit of each span that was announced. */
export interface Budgets {
  readonly minute: Budget | null;
  readonly day: Budget | null;
}

/** What an answer that came at `now` announces of request limits; null: nothing that can be believed. */
export function readBudgets(dialect: Dialect, headers: Headers, now: number): Budgets | null {
  const { requests, tokens } = ANNOUNCED[dialect] ?? COMMON_LIMITS;
  let found: Budget[] | null = null;
  for (const limit of requests) {
    const left = headers.get(limit.remaining);
    if (left === null) continue;
    found ??= tokens.flatMap((bucket) => readEmptyTokens(bucket, dialect, headers, now) ?? []);
    const budget = (limit.read ?? readOneLimit)(left, limit, dialect, headers, now);
    if (budget !== null) found.push(budget);
  }
  if (found === null || found.length === 0) return null;
  return { minute: tightest(found, "minute"), day: tightest(found, "day") };
}

/** From so many requests on that are left, none of them matters before other answers have told of fewer. */
const PLENTY = 1000;

/** Whether nothing that is announced is anywhere near its end: a cheap look at what is left, and at nothing else. */
export function announcesPlenty(dialect: Dialect, headers: Headers): boolean {
  const { requests, tokens } = ANNOUNCED[dialect] ?? COMMON_LIMITS;
  let isAnnounced = false;
  for (const { remaining } of requests) {
    const left = headers.get(remaining);
    if (left === null) continue;
    if (!(Number(left) >= PLENTY)) return false;
    isAnnounced = true;
  }
  if (!isAnnounced) return false;
  for (const { remaining } of tokens) {
    const left = headers.get(remaining);
    if (left !== null && !(Number(left) > 0)) return false;
  }
  return true;
}

// ---------------------------------------------------------------- sampling

/** A provider that announced nothing so many times in a row is only asked now and then. */
const SILENT_AFTER = 8;
const LOOK_EVERY = 32;

/** What of a provider's settings tells how its answers are read. */
interface Listener {
  readonly dialect: Dialect;
  readonly rpm: number | "auto" | "off";
}

/** The announcements of one provider. */
export class HeaderSampler {
  #silent = 0;
  #seen = 0;

  /**
   * What an answer announces; null: nothing, nothing that is near, or nobody looked. Refusals are always looked at;
   * good answers where limits are learnt or kept at all.
   */
  read(
    { dialect, rpm }: Listener,
    { status, headers }: Pick<Response, "status" | "headers">,
    clock: Clock,
  ): Budgets | null {
    if (status < 400) {
      if (rpm === "off") return null;
      this.#seen += 1;
      const isTurn = this.#seen % LOOK_EVERY === 0;
      if (!isTurn && (this.#silent >= SILENT_AFTER || announcesPlenty(dialect, headers))) return null;
    }
    const wall = clock.wall(); // announced dates are dates
    const budgets = onClock(readBudgets(dialect, headers, wall), clock.now() - wall);
    // Some announce on good answers only: that a refusal tells of none is no silence.
    if (budgets !== null) this.#silent = 0;
    else if (status < 400) this.#silent += 1;
    return budgets;
  }
}

/** What was read by the machine's date, by the clock that everything is measured with. */
function onClock(budgets: Budgets | null, offset: number): Budgets | null {
  if (budgets === null || offset === 0) return budgets;
  const shifted = (budget: Budget | null) => budget && { ...budget, resetAt: budget.resetAt + offset };
  return { minute: shifted(budgets.minute), day: shifted(budgets.day) };
}

// -------------------------------------------------------- reading a limit

/** A limit and the headers in which it is announced. */
interface Limit {
  /** Tells how many are left, and by its presence that this limit is announced at all. */
  readonly remaining: string;
  /** Without it the limit is not told. */
  readonly limit?: string;
  /** The way to the reset in ms; null: not told. */
  readonly resetMs: (headers: Headers, now: number) => number | null;
  readonly kind: Budget["kind"];
  /** Without it the length of the window decides. */
  readonly span?: Budget["span"];
  /** Without it the provider's usual one. */
  readonly scope?: Scope;
  /** Where the one field holds more than a number. */
  readonly read?: typeof readOneLimit;
}

/** The limits a provider announces: of requests, and those of tokens that matter when they are used up. */
interface Announced {
  readonly requests: readonly Limit[];
  readonly tokens: readonly Limit[];
}

/** No provider announces a window longer than a day; an hour more for clocks that differ. */
const LONGEST_RESET_MS = DAY_MS + HOUR_MS;
/** Windows that are longer, as far as can be told, are no short ones. */
const LONGEST_SHORT_MS = 10 * MINUTE_MS;
/** An empty bucket of tokens serves an ordinary request before it is full: once this share of it is back. */
const SERVING_SHARE = 0.25;

function readOneLimit(
  left: string,
  limit: Limit,
  dialect: Dialect,
  headers: Headers,
  now: number,
): Budget | null {
  const remaining = wholeIn(left);
  const most = limit.limit === undefined ? null : firstOfList(headers.get(limit.limit));
  const resetMs = limit.resetMs(headers, now);
  const budget = budgetOf({ remaining, limit: most, resetMs, kind: limit.kind }, dialect, now);
  return budget && { ...budget, span: limit.span ?? budget.span, scope: limit.scope ?? budget.scope };
}

/** A limit of tokens counts only when none are left: then no request passes, however few there were. */
function readEmptyTokens(limit: Limit, dialect: Dialect, headers: Headers, now: number): Budget | null {
  const left = headers.get(limit.remaining);
  if (left === null || wholeIn(left) !== 0) return null;
  const budget = readOneLimit(left, limit, dialect, headers, now);
  if (budget === null) return null;
  const fullMs = budget.resetAt - now;
  const servesMs = budget.kind === "leaky" ? fullMs * SERVING_SHARE : fullMs;
  return { ...budget, limit: null, kind: "window", resetAt: now + Math.ceil(servesMs) };
}

/** Numbers as they were read; null: not there, or not a number. */
interface Told {
  readonly remaining: number | null;
  readonly limit: number | null;
  readonly resetMs: number | null;
  readonly kind: Budget["kind"];
}

/** The budget where the numbers make sense together. */
function budgetOf({ remaining, limit, resetMs, kind }: Told, dialect: Dialect, now: number): Budget | null {
  if (remaining === null || resetMs === null || resetMs <= 0 || resetMs > LONGEST_RESET_MS) return null;
  if (limit !== null && (limit === 0 || remaining > limit)) return null;
  return {
    limit,
    remaining,
    resetAt: now + Math.ceil(resetMs),
    kind,
    span: windowMs(remaining, limit, resetMs, kind) > LONGEST_SHORT_MS ? "day" : "minute",
    scope: PROVIDERS[dialect].limitScope,
  };
}

/**
 * How long the window is, as far as can be told. Of a leaky bucket it is known exactly: 1 of 200 used and full again
 * in 7m12s is a day. Of others only that it is no shorter than the way to its end.
 */
function windowMs(remaining: number, limit: number | null, resetMs: number, kind: Budget["kind"]): number {
  if (kind === "window" || limit === null || limit <= remaining) return resetMs;
  return (resetMs * limit) / (limit - remaining);
}

/** Fewest left; of two that are as few, the one that stays so longer. */
function tightest(budgets: readonly Budget[], span: Budget["span"]): Budget | null {
  let tight: Budget | null = null;
  for (const budget of budgets) {
    if (budget.span !== span) continue;
    const isTighter =
      tight === null ||
      budget.remaining < tight.remaining ||
      (budget.remaining === tight.remaining && budget.resetAt > tight.resetAt);
    if (isTighter) tight = budget;
  }
  return tight;
}

/**
 * A whole number that is not negative; null: anything else, also two of them, as gateways on the way may add theirs.
 */
function wholeIn(text: string | null): number | null {
  return text !== null && /^\d{1,15}$/.test(text.trim()) ? Number(text) : null;
}

/** The limit may be followed by its policies: `20, 20;w=60`. */
function firstOfList(text: string | null): number | null {
  return wholeIn(text?.split(",", 1)[0] ?? null);
}

// ------------------------------------------------------------------ resets

/** A value so short is no instant: then upstream's own clock need not be looked for. */
const SHORTEST_INSTANT = 10;

function resetIn(value: string | null, headers: Headers, now: number): number | null {
  if (value === null) return null;
  return waitUntilMs(value, value.length < SHORTEST_INSTANT ? now : writtenAt(headers, now));
}

/** From a header in whatever unit. */
const told =
  (name: string): Limit["resetMs"] =>
  (headers, now) =>
    resetIn(headers.get(name), headers, now);

/** From a header, else the whole length of the window, which is told in seconds: never too early. */
const toldOrPeriod =
  (reset: string, period: string): Limit["resetMs"] =>
  (headers, now) => {
    const resetMs = resetIn(headers.get(reset), headers, now);
    if (resetMs !== null && resetMs > 0) return resetMs;
    const seconds = wholeIn(headers.get(period));
    return seconds === null ? null : seconds * SECOND_MS;
  };

/** The window is the minute on the wall. */
const endOfMinute: Limit["resetMs"] = (_headers, now) => MINUTE_MS - (now % MINUTE_MS);

/** Midnight in China, which knows no summer time. */
const endOfChinasDay: Limit["resetMs"] = (_headers, now) => DAY_MS - ((now + 8 * HOUR_MS) % DAY_MS);

// ------------------------------------------------------------------ tables

/** `x-ratelimit-limit-requests` and so on, as OpenAI began it. `unit`: `requests`, `tokens-day`, … */
function limitNamed(unit: string, kind: Budget["kind"], span?: Budget["span"]): Limit {
  return {
    remaining: `x-ratelimit-remaining-${unit}`,
    limit: `x-ratelimit-limit-${unit}`,
    resetMs: told(`x-ratelimit-reset-${unit}`),
    kind,
    ...(span && { span }),
  };
}

/** The bucket's reset is the time at which it is full again, in RFC 3339. */
function anthropicLimit(unit: string): Limit {
  const prefix = `anthropic-ratelimit-${unit}`;
  return {
    remaining: `${prefix}-remaining`,
    limit: `${prefix}-limit`,
    resetMs: told(`${prefix}-reset`),
    kind: "leaky",
  };
}

function mistralLimit(unit: string): Limit {
  return { ...limitNamed(unit, "window", "minute"), resetMs: endOfMinute };
}

function modelscopeLimit(of: string, scope: Scope): Limit {
  const prefix = `modelscope-ratelimit-${of}`;
  return {
    remaining: `${prefix}-remaining`,
    limit: `${prefix}-limit`,
    resetMs: endOfChinasDay,
    kind: "window",
    span: "day",
    scope,
  };
}

const WITHOUT_UNIT: Limit = {
  remaining: "x-ratelimit-remaining",
  limit: "x-ratelimit-limit",
  resetMs: told("x-ratelimit-reset"),
  kind: "window",
};

/** The IETF's one field for all, of which there are two generations. */
const IETF: Limit = { remaining: "ratelimit", resetMs: () => null, kind: "window", read: readIetf };

/** Azure's gateways tell the length of the window, besides a reset in whole seconds that may be 0. */
function azureLimit(unit: string): Limit {
  const resetMs = toldOrPeriod(`x-ratelimit-reset-${unit}`, `x-ratelimit-renewalperiod-${unit}`);
  return { ...limitNamed(unit, "window"), resetMs };
}

/** What any server may send. */
const COMMON_LIMITS: Announced = {
  requests: [limitNamed("requests", "window"), WITHOUT_UNIT, IETF],
  tokens: [limitNamed("tokens", "window")],
};

/** Who announces something else than what is common. Cohere's counter has neither limit nor reset: it is no budget. */
const ANNOUNCED: Partial<Record<Dialect, Announced>> = {
  // Go durations until full (openai-node#1477: `/v1/responses` sends none). A daily limit comes under the same name.
  openai: { requests: [limitNamed("requests", "leaky")], tokens: [limitNamed("tokens", "leaky")] },
  // Requests are per day, refilled one by one; tokens are per minute. Requests per minute are never announced.
  groq: { requests: [limitNamed("requests", "leaky", "day")], tokens: [limitNamed("tokens", "leaky")] },
  azure: { requests: [azureLimit("requests")], tokens: [azureLimit("tokens")] },
  // The limit of 20,000 is that of the whole service, not of a user: it is left out.
  github: {
    requests: [withoutLimit(azureLimit("requests"))],
    tokens: [azureLimit("tokens")],
  },
  anthropic: {
    requests: [anthropicLimit("requests")],
    tokens: [anthropicLimit("input-tokens"), anthropicLimit("output-tokens"), anthropicLimit("tokens")],
  },
  // The wall-clock minute, without a reset; not on streams.
  mistral: { requests: [mistralLimit("req-minute")], tokens: [mistralLimit("tokens-minute")] },
  // On good answers only. Resets are seconds with a fraction, to the end of the wall-clock minute, hour and day.
  cerebras: {
    requests: [
      limitNamed("requests-minute", "window", "minute"),
      limitNamed("requests-day", "window", "day"),
      limitNamed("requests-hour", "window", "day"),
    ],
    tokens: [
      limitNamed("tokens-minute", "window", "minute"),
      limitNamed("tokens-hour", "window", "day"),
      limitNamed("tokens-day", "window", "day"),
    ],
  },
  // The unit of the resets is not documented, and was seen to differ.
  sambanova: {
    requests: [limitNamed("requests", "window", "minute"), limitNamed("requests-day", "window", "day")],
    tokens: [limitNamed("tokens-day", "window", "day")],
  },
  together: {
    requests: [WITHOUT_UNIT],
    tokens: [
      {
        remaining: "x-tokenlimit-remaining",
        limit: "x-tokenlimit-limit",
        resetMs: told("x-tokenlimit-reset"),
        kind: "window",
      },
    ],
  },
  openrouter: { requests: [WITHOUT_UNIT], tokens: [] }, // On refusals only; the reset is epoch milliseconds.
  huggingface: { requests: [IETF, WITHOUT_UNIT], tokens: [] },
  modelscope: {
    requests: [modelscopeLimit("requests", "key"), modelscopeLimit("model-requests", "key+model")],
    tokens: [],
  },
};

function withoutLimit({ limit: _limit, ...rest }: Limit): Limit {
  return rest;
}

// -------------------------------------------------------------------- IETF

/**
 * `"api";r=0;t=112` beside `RateLimit-Policy: "api";q=1000;w=300` (draft-ietf-httpapi-ratelimit-headers-08 and later,
 * Hugging Face), or `limit=100, remaining=50, reset=50` (up to 07). Of several policies the tightest.
 */
function readIetf(
  value: string,
  _limit: Limit,
  dialect: Dialect,
  headers: Headers,
  now: number,
): Budget | null {
  const isOld = /\bremaining=/.test(value);
  const items = isOld ? [value] : value.split(",");
  const policies = headers.get("ratelimit-policy") ?? "";
  let tight: Budget | null = null;
  for (const item of items) {
    const told = {
      remaining: parameter(item, isOld ? "remaining" : "r"),
      limit: isOld ? parameter(item, "limit") : quotaOf(item, policies),
      resetMs: secondsOf(parameter(item, isOld ? "reset" : "t")),
      kind: "window",
    } as const;
    const budget = budgetOf(told, dialect, now);
    if (budget !== null && budget.remaining < (tight?.remaining ?? Infinity)) tight = budget;
  }
  return tight;
}

/** `q` of the policy that an item names; null: there is none, or it counts something else than requests. */
function quotaOf(item: string, policies: string): number | null {
  const name = /"[^"]*"/.exec(item)?.[0];
  const policy = policies.split(",").find((candidate) => name !== undefined && candidate.includes(name));
  if (policy === undefined || /;\s*qu="?(?!requests)/.test(policy)) return null;
  return parameter(policy, "q");
}

function parameter(item: string, name: string): number | null {
  const digits = new RegExp(`(?:^|[;,\\s])${name}=(\\d{1,15})\\b`).exec(item)?.[1];
  return digits === undefined ? null : Number(digits);
}

function secondsOf(seconds: number | null): number | null {
  return seconds === null ? null : seconds * SECOND_MS;
}
