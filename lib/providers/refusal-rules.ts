/**
 * What a refusal can mean, and the rules that hold whoever the provider is. Data only: `lib/providers/classify.ts`
 * applies it, after the provider's own rules in `lib/providers/catalog.ts`.
 */
import { DAY_MS, MINUTE_MS, SECOND_MS } from "../core/clock.ts";
import type { FaultScope, Pause, Scope } from "./verdict.ts";

/** What a refusal is, before the answer's own time, scope and reason are filled in. */
export type Ruling =
  | { readonly kind: "rejected" }
  /** Without a scope or a wait: the provider's usual one. */
  | {
      readonly kind: "rate_limited";
      readonly reason: "rate_limit" | "concurrency";
      readonly scope?: Scope;
      readonly wait?: Wait;
    }
  | {
      readonly kind: "exhausted";
      readonly reason: "quota_day" | "billing";
      readonly scope?: Scope;
      /** As in `Verdict`. */
      readonly widens?: true;
      readonly wait: Wait;
    }
  | { readonly kind: "revoked"; readonly certain: boolean }
  | { readonly kind: "unsuited"; readonly scope: Scope }
  /**
   * `scope`: without it every model's. `refusesAll`: our address is refused, whatever the key. `elseMs`: for how long
   * where no time is named.
   */
  | {
      readonly kind: "overloaded";
      readonly scope?: FaultScope;
      readonly refusesAll?: true;
      readonly elseMs?: number;
    };

/** Turns the time that the answer named (null: none) into a pause. */
export type Wait = (namedMs: number | null, now: number, resetZone: string) => Pause;

/** One thing known. Every condition that is written must hold; the first rule that holds decides. */
export interface RefusalRule {
  readonly status?: number | readonly number[];
  /** One of the answer's code-like words, which are in lower case. */
  readonly code?: RegExp;
  /** The answer's sentences, one a line; of several patterns one. Under a 400 anchored: a body may echo the prompt. */
  readonly text?: RegExp | readonly RegExp[];
  /** A field of any of the answer's JSON objects; lists and objects read as `present`. */
  readonly field?: readonly [name: string, value: RegExp];
  readonly header?: readonly [name: string, value: RegExp];
  /** HTML or an edge's line instead of the provider's own answer. */
  readonly page?: true;
  /** The answer names a wait, and at least this long a one. */
  readonly namedAtLeastMs?: number;
  readonly then: Ruling;
}

// ------------------------------------------------------------------ waits

export const forMs = (ms: number): Pause => ({ kind: "for", ms });

/** As the answer says, else unknown. */
export const asNamed: Wait = (namedMs) => (namedMs === null ? { kind: "unknown" } : forMs(namedMs));

/** To the end of the provider's day, whatever the answer says. */
export const untilMidnight: Wait = (_namedMs, _now, resetZone) => ({
  kind: "until_midnight",
  zone: resetZone,
});

export const namedOrMidnight: Wait = (namedMs, now, resetZone) =>
  namedMs === null ? untilMidnight(null, now, resetZone) : forMs(namedMs);

export const namedOr =
  (elseMs: number): Wait =>
  (namedMs) =>
    forMs(namedMs ?? elseMs);

/** A wait that only makes sense when it is short: longer ones are lies. */
export const namedUpTo =
  (longestMs: number): Wait =>
  (namedMs) =>
    namedMs === null ? { kind: "unknown" } : forMs(Math.min(namedMs, longestMs));

/** A cap on requests at once frees up when one ends: `retry-after: 0` and 1 mean "soon", not "in a storm". */
const namedSoon: Wait = (namedMs) =>
  namedMs === null ? { kind: "unknown" } : forMs(Math.max(namedMs, SECOND_MS));

/** An empty account does not fill up in seconds: a short wait beside it is the server's boilerplate. */
const namedIfLong: Wait = (namedMs) =>
  namedMs !== null && namedMs >= 5 * MINUTE_MS ? forMs(namedMs) : { kind: "unknown" };

/** To the end of the wall-clock minute; at least a second, as our clock is not theirs. */
export const namedOrEndOfMinute: Wait = (namedMs, now) =>
  forMs(namedMs ?? Math.max(SECOND_MS, MINUTE_MS - (now % MINUTE_MS)));

/** To Monday 00:00 UTC. 1 January 1970 was a Thursday. */
export const untilMonday: Wait = (_namedMs, now) => forMs(7 * DAY_MS - ((now + 3 * DAY_MS) % (7 * DAY_MS)));

/** To the first of the next month, 00:00 UTC. */
export const untilNextMonth: Wait = (_namedMs, now) => {
  const today = new Date(now);
  return forMs(Date.UTC(today.getUTCFullYear(), today.getUTCMonth() + 1) - now);
};

// ---------------------------------------------------------------- rulings

export const REJECTED: Ruling = { kind: "rejected" };
/** Upstream is short of capacity, whoever asks. */
export const CAPACITY: Ruling = { kind: "overloaded" };
/** A limit on our address: no key and no model gets through. */
export const TOO_FAST_FOR_ALL: Ruling = { kind: "overloaded", refusesAll: true, elseMs: 30 * SECOND_MS };
export const TOO_FAST: Ruling = { kind: "rate_limited", reason: "rate_limit" };
export const TOO_FAST_KEY: Ruling = { ...TOO_FAST, scope: "key" };
export const TOO_FAST_MODEL: Ruling = { ...TOO_FAST, scope: "key+model" };
export const TOO_MANY_AT_ONCE: Ruling = {
  kind: "rate_limited",
  reason: "concurrency",
  scope: "key",
  wait: namedSoon,
};
/** The day (or another long window) is used up. */
export const DAY: Ruling = { kind: "exhausted", reason: "quota_day", wait: namedOrMidnight };
export const DAY_KEY: Ruling = { ...DAY, scope: "key" };
export const DAY_MODEL: Ruling = { ...DAY, scope: "key+model" };
export const NO_MONEY: Ruling = { kind: "exhausted", reason: "billing", scope: "key", wait: namedIfLong };
export const NO_MONEY_MODEL: Ruling = { ...NO_MONEY, scope: "key+model" };
export const DEAD: Ruling = { kind: "revoked", certain: true };
/** Refused, but the same answer was seen on good keys. */
export const DOUBTED: Ruling = { kind: "revoked", certain: false };
export const UNSUITED_MODEL: Ruling = { kind: "unsuited", scope: "key+model" };
export const UNSUITED_KEY: Ruling = { kind: "unsuited", scope: "key" };

/** "…does not exist or you do not have access to it": absent or gated, another account may have it. */
export const GATED_MODEL: RefusalRule = {
  status: 404,
  text: /\bmodel\b.{0,160}\b(?:access|permission denied|inaccessible)\b/i,
  then: UNSUITED_MODEL,
};

// ------------------------------------------------------------ rules for all

/** After the provider's own rules, the same for all; where none of these holds either, the status decides. */
export const sharedRules = (): readonly RefusalRule[] => [
  // Edge pages are about our address or their server, never about a key. Cloudflare's 1015 counts per IP.
  { status: 429, page: true, then: TOO_FAST_FOR_ALL },
  // The same in words: "Too many requests from this IP, please try again later".
  {
    status: 429,
    text: /\b(?:from|for|by|per|of) (?:(?:this|your|the|client|same|an|each) )*IP(?: address\w*)?\b|\bIP(?: address)?(?:-based)? (?:rate )?limit/i,
    then: TOO_FAST_FOR_ALL,
  },
  { status: 403, page: true, then: REJECTED },
  { status: 403, header: ["cf-mitigated", /./], then: REJECTED },

  // Money, in words that no rate limit uses: a 429 of Gemini speaks of "plan and billing details", too.
  { status: 402, then: NO_MONEY },
  { status: [401, 403, 429], code: /^insufficient_(?:quota|balance|credits?|funds)$/, then: NO_MONEY },
  {
    status: [401, 403, 429],
    text: [
      /\binsufficient (?:account )?(?:balance|credits?|funds)\b/i,
      /\b(?:balance|credits?) (?:is |are |has been )?(?:too low|insufficient|exhausted|depleted|used up)\b/i,
      /\bdepleted your\b|\bout of credits?\b|\bused all (?:available|your) credits\b/i,
      /\bspend(?:ing)? limit\b|\bbilling (?:hard )?limit\b/i,
      /\baccount is not active\b|\b(?:past due|in arrears|overdue payment)\b/i,
      /余额不足|欠费/,
    ],
    then: NO_MONEY,
  },

  // Refused for where we ask from, not for the key.
  {
    status: [401, 403],
    code: /^(?:unsupported_country_region_territory|region_restricted|ip_not_authorized)$/,
    then: REJECTED,
  },
  {
    status: [401, 403],
    text: [
      /\bnot (?:available|supported|allowed) in your (?:region|country|location|territory)\b/i,
      /\b(?:country|region|territory|location)\b[^.]{0,40}\bnot (?:available|supported)\b/i,
      /\bIP(?: address)?\b.{0,60}\bnot (?:allowed|authorized|in )|\bIP allow ?list\b/i,
    ],
    then: REJECTED,
  },
  // It came without a key: a fault of ours, no key's.
  {
    status: 401,
    text: /\b(?:no|missing|didn't provide|did not provide)\s+(?:an?\s+|any\s+|bearer or basic\s+)?(?:api[ _-]?key|auth\w*|credentials?|bearer)\b(?! or\b)/i,
    then: REJECTED,
  },

  // The key itself is said to be bad.
  {
    status: [401, 403],
    code: /^(?:(?:invalid|incorrect|wrong|expired|revoked|disabled)_?api_?key|api_?key_?(?:invalid|expired|revoked|disabled|deleted)|account_deactivated|organization_deactivated|access_terminated)$/,
    then: DEAD,
  },
  {
    status: [401, 403],
    text: [
      /\b(?:invalid|incorrect|wrong|expired|revoked|disabled|deactivated)\s+(?:[\w-]+\s+)?(?:x-)?(?:api[ _-]?key|api[ _-]?token|access token)\b/i,
      /\bapi[ _-]?(?:key|token)\b(?::?(?:(?!\. )[^:;,]){0,50}\b(?:is|was|has been|has)\b)? (?:currently |reported as )?(?:not valid|no longer valid|invalid|expired|revoked|disabled|deactivated|leaked|blocked)\b/i,
    ],
    then: DEAD,
  },

  // 403 for the prompt, and 403 for something that another account may have.
  { status: 403, code: /moderation|content_(?:policy|filter)|inspection|safety/, then: REJECTED },
  {
    status: 403,
    text: /\b(?:moderation|moderated|flagged|content policy|usage (?:guidelines|policy|policies)|safety[ _]check|guardrail)/i,
    then: REJECTED,
  },
  {
    status: 403,
    text: /\b(?:model|permissions?|access to|subscription|entitled|entitlement)\b/i,
    then: UNSUITED_MODEL,
  },
  { status: [401, 403], then: DOUBTED },

  // One request larger than the whole window never passes, whatever the wait. It is the one 429 of an upstream that
  // goes to the client as it is: it speaks of the client's request, and a status of ours would hide what to change.
  { status: 429, text: /^Request too large\b/m, then: REJECTED },
  { status: 429, text: /\bconcurren(?:t|cy)\b|\bin flight\b|并发/i, then: TOO_MANY_AT_ONCE },
  { status: 429, code: /overloaded|capacity|slow_down|server_busy/, then: CAPACITY },
  {
    status: 429,
    text: [
      /\boverloaded\b|\b(?:over|at) capacity\b|\bcapacity (?:temporarily )?exceeded\b/i,
      /\bhigh (?:demand|traffic|load)\b|\bpeak load\b|\btoo busy\b|\brate-limited upstream\b/i,
    ],
    then: CAPACITY,
  },
  // OpenAI's words: limits per model; a daily one that says "try again in" is a bucket that leaks.
  { status: 429, code: /^(?:tokens|requests)$/, namedAtLeastMs: 0, then: TOO_FAST_MODEL },
  { status: 429, header: ["x-ratelimit-remaining-requests-day", /^0$/], then: DAY_MODEL },
  { status: 429, text: /\bper day\b|\bdaily\b|\bper 86400s|\b[RT]PD\b|\btoday's quota\b|今日/i, then: DAY },
  { status: 429, code: /^(?:tokens|requests)$/, then: TOO_FAST_MODEL },
  { status: 429, then: TOO_FAST },
];
