/**
 * How long a refusal rests a key. Pure.
 *
 * Where the provider named a time, that is believed (up to `MAX_COOLDOWN_SEC`); where it did not, a ladder by
 * reason: each refusal in a row without a success in between is one rung.
 */
import { HOUR_MS, untilMidnight } from "../core/clock.ts";
import type { KeyReason } from "../core/events.ts";
import type { Scope, Verdict } from "../providers/verdict.ts";

/** A key, or a model on a key, that may not be asked before `until`. Instants are those of `Clock.now()`. */
export interface Cooldown {
  until: number;
  beganAt: number;
  reason: KeyReason;
  /** Refusals in a row before this one. */
  strikes: number;
  /** When an answer last began since then; 0: never. */
  answeredAt: number;
}

export interface CooldownRules {
  /** After a first rate refusal without a hint. */
  cooldownMs: number;
  /** Longest believed hint. */
  maxCooldownMs: number;
  /** IANA zone of the daily reset; null: the provider's own. */
  timezone: string | null;
  /** The provider's own zone. */
  resetZone: string;
}

export type KeyRefusal = Extract<Verdict, { kind: "rate_limited" | "exhausted" }>;

/** What is known of the key when it is refused. */
export interface Refused {
  /** The date (epoch ms by the wall clock): midnight goes by it. */
  wall: number;
  previous: Cooldown | null;
  /** Epoch ms when the refused request was sent. */
  sentAt: number;
  /** Epoch ms when an answer of this key (for a model's limit: with this model) last began; 0: never. */
  admittedAt: number;
}

const RATE_LADDER_FACTOR = 5;
const RATE_LADDER_LONGEST_MS = HOUR_MS;
const BILLING_LADDER_MS = [5 * HOUR_MS, 10 * HOUR_MS, 20 * HOUR_MS, 24 * HOUR_MS] as const;
/** Too many at once and no time named: some of the others will be done by then. */
const CONCURRENCY_PAUSE_MS = 1000;

/** Cooldowns of a key's models, by model. */
type ModelCooldowns = Iterable<readonly [model: string, limits: { readonly cooldown: Cooldown | null }]>;

/**
 * What a refusal of `model` holds for. One that does not say that it means this model alone holds for the whole key
 * once another model rests for the same reason (P40).
 */
export function scopeOf(refusal: KeyRefusal, model: string, models: ModelCooldowns, now: number): Scope {
  if (refusal.kind !== "exhausted" || !refusal.widens) return refusal.scope;
  for (const [other, { cooldown }] of models) {
    if (other !== model && cooldown !== null && cooldown.until > now && cooldown.reason === refusal.reason)
      return "key";
  }
  return refusal.scope;
}

/** The cooldown after a refusal; its end only ever moves outwards. `jitter` is a random number from 0 up to 1. */
export function cooldownAfter(
  refusal: KeyRefusal,
  refused: Refused,
  rules: CooldownRules,
  now: number,
  jitter: number,
): Cooldown {
  const { previous, wall } = refused;
  const strikes = strikesOf(refused);
  const pauseMs = pauseAfter(refusal, strikes, rules, wall, jitter);
  const until = now + Math.min(Math.max(0, pauseMs), rules.maxCooldownMs);
  if (previous !== null && previous.until > until)
    return { ...previous, beganAt: now, strikes, answeredAt: 0 };
  return { until, beganAt: now, reason: refusal.reason, strikes, answeredAt: 0 };
}

function pauseAfter(
  refusal: KeyRefusal,
  strikes: number,
  rules: CooldownRules,
  wall: number,
  jitter: number,
): number {
  const { pause, reason } = refusal;
  switch (pause.kind) {
    case "for":
      return pause.ms;
    case "until_midnight":
      return untilMidnight(rules.timezone ?? pause.zone, wall);
    case "unknown":
      switch (reason) {
        case "quota_day":
          return untilMidnight(rules.timezone ?? rules.resetZone, wall);
        case "billing":
          return BILLING_LADDER_MS[Math.min(strikes, 3) as 0 | 1 | 2 | 3];
        case "concurrency":
          return CONCURRENCY_PAUSE_MS;
        case "rate_limit":
          return ratePause(strikes, rules.cooldownMs, jitter);
      }
  }
}

/** The first is exactly what was configured; longer ones are spread by a tenth either way. */
function ratePause(strikes: number, firstMs: number, jitter: number): number {
  if (strikes === 0) return firstMs;
  const longest = Math.max(firstMs, RATE_LADDER_LONGEST_MS);
  return Math.min(firstMs * RATE_LADDER_FACTOR ** strikes, longest) * (0.9 + 0.2 * jitter);
}

/**
 * Which refusal in a row this is. One that was sent before the running cooldown began tells nothing new (a burst
 * is refused as a burst), and an answer since then starts the count again.
 */
function strikesOf({ previous, sentAt, admittedAt }: Refused): number {
  if (previous === null || admittedAt > previous.beganAt) return 0;
  return sentAt <= previous.beganAt ? previous.strikes : previous.strikes + 1;
}
