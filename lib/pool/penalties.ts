/**
 * What a verdict does to an account, or to a model with it: it cools for a while, learns a limit, may not have the
 * model, or is forgiven.
 *
 * How long it cools: where the provider named a time, that is believed (up to `MAX_COOLDOWN_SEC`); where it did not, a
 * ladder by reason: each refusal in a row without a success in between is one rung.
 */
import type { ProviderConfig } from "../config/provider-settings.ts";
import { HOUR_MS, untilMidnight } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import type { KeyEvent } from "../core/events.ts";
import { resetZone } from "../providers/catalog.ts";
import type { Budget, Budgets } from "../providers/rate-limit-headers.ts";
import type { Outcome, Scope, Verdict } from "../providers/verdict.ts";
import { DISTINCT_KEYS } from "./circuit-breaker.ts";
import type { CircuitBreaker, SharedLimit } from "./circuit-breaker.ts";
import { accountName, isInUse } from "./key.ts";
import type { Account, Cooldown, Key, Lease, ModelLimits } from "./key.ts";
import { RateLimiter } from "./rate-limiter.ts";
import type { KeySelector } from "./selection.ts";

/** A provider whose model one account may not use is asked again after this long. */
const DENIED_FOR_MS = 6 * HOUR_MS;
/** A key that was asked this often in a minute may be at a limit of its own, where none is known yet. */
const NEAR_WHERE_UNKNOWN = 10;

export interface PenaltyRules extends CooldownRules {
  /** Limits are learnt from refusals and headers. */
  learnsLimits: boolean;
}

/** What a pool's penalties go by and act on. */
interface PenaltyContext {
  readonly selector: KeySelector;
  /** Opened where the upstream refuses everybody. */
  readonly refusesAll: CircuitBreaker;
  readonly sharedLimit: SharedLimit;
  readonly clock: Clock;
  /** From 0 up to 1. */
  readonly random: () => number;
  readonly tell: (event: PenaltyEvent, key: Key, now: number) => void;
  /** A request was refused, and counts against no limit that is learnt. */
  readonly onRefunded: (lease: Lease) => void;
  /** What is known of a key has changed, outside of the end of a lease. */
  readonly save: (key: Key) => void;
}

type PenaltyEvent = Pick<KeyEvent, "kind" | "model" | "reason" | "until" | "said">;
export type Unsuited = Extract<Verdict, { kind: "unsuited" }>;
type RateLimited = Extract<Verdict, { kind: "rate_limited" }>;

/** The penalties of one pool. */
export class Penalties {
  rules: PenaltyRules;
  readonly #context: PenaltyContext;

  constructor(rules: PenaltyRules, context: PenaltyContext) {
    this.rules = rules;
    this.#context = context;
  }

  /**
   * A rate refusal: the key's own, or everybody's. Returns for how many ms it pauses the provider; 0: it does not.
   */
  limit(refusal: RateLimited, lease: Lease, now: number): number {
    const { selector, refusesAll, sharedLimit } = this.#context;
    const { key, need } = lease;
    const { account } = key;
    const isHinted =
      refusal.pause.kind !== "unknown" || refusal.reason !== "rate_limit" || refusal.ofModel === true;
    // Sent before the key was refused already: of the same burst, and nothing new.
    const model = selector.limitsFor(need, account);
    const refusedAt = Math.max(account.cooldown?.beganAt ?? 0, model?.cooldown?.beganAt ?? 0);
    const limiter = this.modelLimiter(lease) ?? account.limiter;
    const isNear = limiter.isNearLimit(now, NEAR_WHERE_UNKNOWN);
    // Three keys refused this very request, while others are served: it is about what it asks for.
    const isAboutModel = need.tried.size >= DISTINCT_KEYS && refusesAll.isQuiet;
    if (isHinted || lease.at < refusedAt || isAboutModel) {
      this.cool(isAboutModel && !isNear ? { ...refusal, scope: "key+model" } : refusal, lease, now);
      return 0;
    }
    // Sent before everybody was refused, or to find out whether they still are: nothing new about this key.
    const isKnown = !refusesAll.isQuiet && (lease.isTrial || lease.at < refusesAll.openUntil);
    const undo = isKnown ? () => {} : this.cool(refusal, lease, now);
    if (isKnown && isNear) this.#learn(refusal, lease, lease.limits, this.rules.cooldownMs, now);
    const inUse = selector.keys.filter((other) => other.disabled === null);
    const accounts = new Set(inUse.map((other) => other.account)).size;
    const suspicion = { account, request: need, isNear, undo, at: now };
    if (!isKnown && !sharedLimit.onRefusedOne(suspicion, accounts)) return 0;
    if (!isNear) sharedLimit.onRefusedAll(lease.at, now);
    return refusesAll.onFailed(now, lease.isTrial);
  }

  /** Cools the account, or the model with it. Returns what takes that back. */
  cool(refusal: KeyRefusal, lease: Lease, now: number): () => void {
    const { selector, clock, random, tell, save } = this.#context;
    const { key, need } = lease;
    const { account } = key;
    const models = selector.limitsOf(account);
    const scope = need.model === null ? "key" : scopeOf(refusal, need.model, models, now);
    const limits = this.#limitsOf(scope, lease, now);
    const cooled = limits ?? account;
    const previous = cooled.cooldown;
    const answeredAt = limits === null ? account.answeredAt : (previous?.answeredAt ?? 0);
    const facts = { previous, sentAt: lease.at, answeredAt, wall: clock.wall() };
    const cooldown = cooldownAfter(refusal, facts, this.rules, now, random());
    const { until } = cooldown;
    cooled.cooldown = cooldown;
    cooled.slowStart.restart();
    if (refusal.kind === "rate_limited") this.#learn(refusal, lease, limits, until - now, now);
    const { reason, said } = refusal;
    tell({ kind: "cooled", model: limits === null ? null : need.model, reason, until, said }, key, now);
    return () => {
      if (cooled.cooldown !== cooldown) return;
      cooled.cooldown = previous;
      save(key);
    };
  }

  /** What a rate refusal tells of the limit that it met. `restMs`: how long the key cools for it. */
  #learn(refusal: RateLimited, lease: Lease, limits: ModelLimits | null, restMs: number, now: number): void {
    const { account } = lease.key;
    const limiter = limits === null ? account.limiter : this.limiterOf(limits, account);
    if (limiter === null) return;
    const namedMs = refusal.pause.kind === "for" ? Math.min(refusal.pause.ms, restMs) : null;
    limiter.onRefused({ sentAt: lease.at, namedMs, restMs, reason: refusal.reason }, now);
  }

  /** Takes over what an answer announced of limits. */
  announce({ minute, day }: Budgets, lease: Lease, now: number): void {
    if (minute !== null && this.rules.learnsLimits) {
      const { account } = lease.key;
      const limits = this.#limitsOf(minute.scope, lease, now);
      const limiter = limits === null ? account.limiter : this.limiterOf(limits, account);
      limiter?.onAnnounced(minute, Math.max(0, (limits ?? account).slowStart.undecided - 1), now);
    }
    if (day !== null && day.remaining === 0) this.#endDay(day, lease, now);
  }

  /** Nothing is left of the day. */
  #endDay(day: Budget, lease: Lease, now: number): void {
    const { key, need } = lease;
    const limits = this.#limitsOf(day.scope, lease, now);
    const cooled = limits ?? key.account;
    const untilNextMs = (day.resetAt - now) / (day.kind === "leaky" ? (day.limit ?? 1) : 1);
    const until = now + Math.min(untilNextMs, this.rules.maxCooldownMs);
    if ((cooled.cooldown?.until ?? 0) >= until) return;
    const strikes = cooled.cooldown?.strikes ?? 0;
    cooled.cooldown = { until, beganAt: now, reason: "quota_day", strikes, answeredAt: 0 };
    const model = limits === null ? null : need.model;
    this.#context.tell({ kind: "cooled", model, reason: "quota_day", until, said: "" }, key, now);
  }

  /** This account may not use the model: for some hours others are asked first. Returns what takes that back. */
  deny({ scope }: Unsuited, lease: Lease, now: number): () => void {
    const { key } = lease;
    const limits = this.#limitsOf(scope, lease, now);
    if (limits === null) return () => {};
    const previous = limits.deniedUntil;
    const until = now + DENIED_FOR_MS;
    limits.deniedUntil = until;
    return () => {
      if (limits.deniedUntil !== until) return;
      limits.deniedUntil = previous;
      this.#context.save(key);
    };
  }

  /**
   * A key that may be invalid cools until it is known, unless no other is ready. `isTold`: others are told, so that it
   * is checked. Returns what takes that back.
   */
  doubt(lease: Lease, said: string, isTold: boolean, now: number): () => void {
    const { key } = lease;
    const { selector, tell } = this.#context;
    if (!this.hasOtherReady(lease, now)) return () => {};
    const { account } = key;
    const { cooldown } = account;
    const { cooldownMs, maxCooldownMs } = this.rules;
    const until = Math.max(cooldown?.until ?? 0, now + Math.min(cooldownMs, maxCooldownMs));
    const strikes = cooldown?.strikes ?? 0;
    const doubted: Cooldown = { until, beganAt: now, reason: "unconfirmed", strikes, answeredAt: 0 };
    account.cooldown = doubted;
    if (isTold) tell({ kind: "doubted", model: null, reason: "unconfirmed", until, said }, key, now);
    return () => {
      if (account.cooldown !== doubted) return;
      account.cooldown = cooldown;
      for (const other of selector.keys) if (other.account === account) this.#context.save(other);
    };
  }

  /** Whether a key of another account could be asked for the same. */
  hasOtherReady({ key: { account }, need }: Lease, now: number): boolean {
    const { selector } = this.#context;
    const isReady = (other: Key) => {
      const limits = selector.limitsFor(need, other.account);
      const readyAt = Math.max(
        other.account.cooldown?.until ?? 0,
        limits?.cooldown?.until ?? 0,
        limits?.deniedUntil ?? 0,
      );
      return isInUse(other) && readyAt <= now;
    };
    return selector.keys.some((other) => other.account !== account && isReady(other));
  }

  /** Whether a key is in use that this request has not been refused with, though it may not be ready. */
  hasOther({ key, need: { unsuited, boundTo } }: Lease): boolean {
    const isOther = (other: Key) => other !== key && isInUse(other) && !unsuited.has(other);
    const mayServe = (other: Key) => boundTo === null || accountName(other) === boundTo;
    return this.#context.selector.keys.some((other) => isOther(other) && mayServe(other));
  }

  /** A lease was never used: all that it took is given back, also its place in the minute. */
  takeBack(lease: Lease, now: number): void {
    const { key, limits, at } = lease;
    lease.settled = true;
    key.requests -= 1;
    key.inFlight -= 1;
    key.account.limiter.onEnded({ hasStarted: false }, now);
    key.account.limiter.uncount(at);
    key.account.slowStart.onFailed();
    limits?.limiter?.onEnded({ hasStarted: false }, now);
    limits?.slowStart.onFailed();
    this.#context.sharedLimit.onEnded(at, { hasStarted: false, isCounted: false }, now);
  }

  /** Gives back what an attempt took, from every ending. `dayEndsOn`: the day of now, by the date of its end. */
  giveBack(lease: Lease, outcome: Outcome, dayEndsOn: number, now: number): void {
    const { key, limits, at } = lease;
    const { account } = key;
    const modelLimiter = this.modelLimiter(lease);
    const hasStarted = lease.startedAt > 0;
    const isCharged = isCounted(lease, outcome);
    key.inFlight -= 1;
    account.limiter.onEnded({ hasStarted }, now);
    modelLimiter?.onEnded({ hasStarted }, now);
    if (!hasStarted) {
      account.slowStart.onFailed();
      limits?.slowStart.onFailed();
    }
    this.#context.sharedLimit.onEnded(at, { hasStarted, isCounted: isCharged }, now);
    if (!lease.need.isUncounted) {
      const isOfToday = lease.dayEndsOn === dayEndsOn;
      if (isOfToday && key.today > 0 && (!isCharged || lease.isNotFound)) key.today -= 1;
      if (lease.isNotFound) account.limiter.uncount(at);
    }
    if (isCharged) return;
    // What a client left was sent all the same: the day's reservation comes back, the minute's may have been used.
    if (outcome.kind !== "abandoned") {
      account.limiter.refund(at);
      modelLimiter?.refund(at);
      this.#context.onRefunded(lease);
    }
  }

  /** A success ends the streak of refusals of this key (and model), save one that began after it was sent. */
  forgive({ key: { account }, limits, at }: Lease): void {
    if (account.cooldown !== null && account.cooldown.beganAt < at) account.cooldown = null;
    if (limits === null) return;
    if (limits.cooldown !== null && limits.cooldown.beganAt < at) limits.cooldown = null;
    limits.deniedUntil = 0;
  }

  /** Ends all that the account cools for: a check proved the key, or the operator knows. */
  pardon(account: Account): void {
    account.cooldown = null;
    for (const [, limits] of this.#context.selector.limitsOf(account)) {
      limits.cooldown = null;
      limits.deniedUntil = 0;
    }
  }

  /** A new account begins with what the limits of another one have taught. */
  inherit(account: Account, from: Account, now: number): void {
    const { selector } = this.#context;
    account.limiter.restore(from.limiter.state(), now);
    for (const [model, { limiter }] of selector.limitsOf(from)) {
      if (limiter === null || !limiter.hasLearnt) continue;
      this.limiterOf(selector.openLimits(model, account, now), account)?.restore(limiter.state(), now);
    }
  }

  /** Whether there is something that a new account could begin with. */
  hasTaught(account: Account): boolean {
    if (account.limiter.hasLearnt) return true;
    for (const [, { limiter }] of this.#context.selector.limitsOf(account))
      if (limiter?.hasLearnt) return true;
    return false;
  }

  /** What the scope names: the model that was asked for with the account; null: the account itself. */
  #limitsOf(scope: Scope, { key, need }: Lease, now: number): ModelLimits | null {
    if (scope !== "key+model" || need.model === null) return null;
    return this.#context.selector.openLimits(need.model, key.account, now);
  }

  /** Of the model that was asked for: also one that began while this lease was out, with what was used until then. */
  modelLimiter({ key, need, limits }: Lease): RateLimiter | null {
    return (limits ?? this.#context.selector.limitsFor(need, key.account))?.limiter ?? null;
  }

  /** The model's own limiter, made where limits are to be learnt; null: they are not. */
  limiterOf(limits: ModelLimits, account: Account): RateLimiter | null {
    if (limits.limiter === null && this.rules.learnsLimits) {
      limits.limiter = new RateLimiter({ kind: "learnt" });
      limits.limiter.copyUsage(account.limiter);
    }
    return limits.limiter;
  }
}

/** Whether the provider counts an attempt against the key's day: not one that it refused, or that never began. */
export function isCounted({ startedAt }: Lease, outcome: Outcome): boolean {
  switch (outcome.kind) {
    case "served":
    case "rejected":
      return true;
    case "overloaded":
    case "unreachable":
      return startedAt > 0 || outcome.maybeBilled;
    case "abandoned":
      return startedAt > 0;
    case "rate_limited":
    case "exhausted":
    case "revoked":
    case "unsuited":
      return false;
  }
}

/** What upstream gave as its reason; a text of ours where nothing came from there. */
export function saidBy(outcome: Outcome): string {
  switch (outcome.kind) {
    case "served":
    case "abandoned":
      return "";
    case "unreachable":
      return outcome.message;
    case "rejected":
    case "rate_limited":
    case "exhausted":
    case "revoked":
    case "unsuited":
    case "overloaded":
      return outcome.said;
  }
}

// ---- how long

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
  /** Epoch ms when a response of this key (for a model's limit: with this model) last started; 0: never. */
  answeredAt: number;
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
 * once another model cools for the same reason (P40).
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
function strikesOf({ previous, sentAt, answeredAt }: Refused): number {
  if (previous === null || answeredAt > previous.beganAt) return 0;
  return sentAt <= previous.beganAt ? previous.strikes : previous.strikes + 1;
}

/** The rules of a provider, as its settings and its dialect say. */
export function rulesOf(config: ProviderConfig, maxCooldownMs: number): PenaltyRules {
  const { cooldownMs, timezone, dialect, rpm } = config;
  return { cooldownMs, maxCooldownMs, timezone, resetZone: resetZone(dialect), learnsLimits: rpm === "auto" };
}
