/**
 * What is known of one key, and what follows from it at an instant: from when on it may be asked, what `/health` shows,
 * what is kept over a restart.
 *
 * A limit belongs to an account, which may have several keys; a key without an account is one of its own. Death, pause
 * and the day's count belong to the key.
 */
import { isObject } from "../core/json.ts";
import type { ConfiguredKey, ProviderConfig } from "../config/config.ts";
import type { Cooldown } from "./penalties.ts";
import { AFTER_AN_EVENT, RateLimiter } from "./rate-limiter.ts";
import type { RateLimiterState, RateRule } from "./rate-limiter.ts";
import type { KeyReason } from "../core/events.ts";

/** Everything that is known of one key. Instants are those of `Clock.now()`; 0 means never. */
export interface Key extends ConfiguredKey {
  /** Place in the configuration; -1: it is not there any more. */
  index: number;
  owner: Account;
  disabled: Disabled | null;
  /** Taken out by the operator. */
  isPaused: boolean;
  inFlight: number;
  requests: number;
  rateLimited: number;
  errors: number;
  /** Requests of the running day, which the pool ends. */
  today: number;
  lastUsedAt: number;
}

export interface Disabled {
  reason: KeyReason;
  /** Epoch ms. */
  at: number;
  said: string;
}

/** What keys of one account share. */
export class Account {
  /** Place among the accounts of the pool. */
  index = 0;
  cooldown: Cooldown | null = null;
  limiter: RateLimiter;
  /** When an answer last began. */
  admittedAt = 0;
  readonly slowStart = new SlowStart();

  constructor(rule: RateRule) {
    this.limiter = new RateLimiter(rule);
  }

  /** Epoch ms from which it may be asked; `AFTER_AN_EVENT`: when an attempt under way has ended. */
  readyAt(now: number): number {
    return Math.max(this.cooldown?.until ?? 0, this.slowStart.readyAt, this.limiter.nextAt(now));
  }
}

/** What holds for one model with one account. */
export class ModelLimits {
  cooldown: Cooldown | null = null;
  limiter: RateLimiter | null = null;
  /** Until when it is known that the account may not use the model (P16): others are asked first. */
  deniedUntil = 0;
  readonly slowStart = new SlowStart();

  readyAt(now: number): number {
    return Math.max(this.cooldown?.until ?? 0, this.slowStart.readyAt, this.limiter?.nextAt(now) ?? 0);
  }
}

/** A provider that refuses does so at once; one that serves may take its time. */
const REFUSAL_COMES_WITHIN_MS = 3000;
/** What was asked this many times at once without a refusal has proven itself. */
const PROBATION_ENDS_AT = 64;

/**
 * What wakes after a refusal is asked once, then twice, then four times: else all who waited for it would get it
 * refused again at once.
 */
export class SlowStart {
  /** How many attempts may be undecided at once; 0: any number. */
  #allowed = 0;
  #lastAt = 0;
  /** Attempts whose answer has not begun. */
  undecided = 0;

  get readyAt(): number {
    if (this.#allowed === 0 || this.undecided < this.#allowed) return 0;
    return this.#lastAt + REFUSAL_COMES_WITHIN_MS;
  }

  sends(now: number): void {
    this.undecided += 1;
    this.#lastAt = now;
  }

  decided(): void {
    this.undecided -= 1;
  }

  /** An answer has begun: one attempt more, which from round to round is twice as many. */
  grows(): void {
    if (this.#allowed > 0) this.#allowed = this.#allowed + 1 < PROBATION_ENDS_AT ? this.#allowed + 1 : 0;
  }

  isLost(): void {
    this.#allowed = 1;
  }
}

export function newKey(
  configured: ConfiguredKey,
  index: number,
  config: ProviderConfig,
  owner: Account,
): Key {
  return {
    ...configured,
    dailyLimit: configured.dailyLimit ?? config.dailyLimit,
    index,
    owner,
    disabled: null,
    isPaused: false,
    inFlight: 0,
    requests: 0,
    rateLimited: 0,
    errors: 0,
    today: 0,
    lastUsedAt: 0,
  };
}

/** Epoch ms from which the key itself may be asked, whatever its account allows; Infinity: nobody knows. */
export function keyReadyAt(key: Key, dayEndsAt: number): number {
  if (key.disabled !== null || key.isPaused) return Infinity;
  return isSpent(key) ? dayEndsAt : 0;
}

/** Whether the key has had its day's requests. */
function isSpent(key: Key): boolean {
  return key.dailyLimit !== null && key.today >= key.dailyLimit;
}

/** A key as it is shown. */
export interface KeyReport {
  index: number;
  id: string;
  account: string | null;
  state: "ready" | "cooling" | "disabled" | "paused";
  reason: KeyReason | null;
  coolingMs: number;
  models: Record<string, { coolingMs: number; reason: KeyReason }>;
  requests: number;
  rateLimited: number;
  errors: number;
  today: number;
  dailyLimit: number | null;
  rpmLimit: number | null;
  inFlight: number;
  /** Epoch ms; 0: never. */
  lastUsedAt: number;
  /** What upstream said of a key that is out of use; empty: nothing, or it is in use. */
  said: string;
}

/** A provider as it is shown. */
export interface ProviderReport {
  name: string;
  dialect: string;
  baseUrl: string;
  /** For how long the provider as a whole is left alone; 0: it is not. */
  pausedMs: number;
  /** Requests that wait for a key. */
  waiting: number;
  keys: readonly KeyReport[];
}

/** The key as `/health` shows it. `models`: what is known of single models with its account. */
export function reportOf(
  key: Key,
  models: Iterable<readonly [model: string, limits: ModelLimits]>,
  dayEndsAt: number,
  now: number,
): KeyReport {
  const { owner } = key;
  const isOut = key.disabled !== null || key.isPaused;
  const spentMs = isSpent(key) ? dayEndsAt - now : 0;
  const restMs = Math.max(0, (owner.cooldown?.until ?? 0) - now);
  const coolingMs = isOut ? 0 : Math.max(spentMs, restMs);
  const resting = spentMs > restMs ? "quota_day" : (owner.cooldown?.reason ?? null);
  const shown: KeyReport["models"] = {};
  let modelRpm: number | null = null;
  for (const [model, { cooldown, deniedUntil, limiter }] of models) {
    const perMinute = limiter?.perMinute ?? null;
    if (perMinute !== null) modelRpm = Math.min(modelRpm ?? Infinity, perMinute);
    if (cooldown !== null && cooldown.until > now)
      shown[model] = { coolingMs: cooldown.until - now, reason: cooldown.reason };
    else if (deniedUntil > now) shown[model] = { coolingMs: deniedUntil - now, reason: "no_access" };
  }
  return {
    index: key.index,
    id: key.secret.id,
    account: key.account,
    state: key.disabled !== null ? "disabled" : key.isPaused ? "paused" : coolingMs > 0 ? "cooling" : "ready",
    reason: key.disabled?.reason ?? (key.isPaused ? "manual" : coolingMs > 0 ? resting : null),
    coolingMs,
    models: shown,
    requests: key.requests,
    rateLimited: key.rateLimited,
    errors: key.errors,
    today: key.today,
    dailyLimit: key.dailyLimit,
    rpmLimit: owner.limiter.perMinute ?? modelRpm, // where only models have limits, the narrowest of theirs
    inFlight: key.inFlight,
    lastUsedAt: key.lastUsedAt,
    said: key.disabled?.said ?? "",
  };
}

/** Told what of a key has to outlive the program. The store fits. */
export interface Keeper {
  /** What was stored in an earlier run, by the keys' ids; anything at all. */
  keyStates(provider: string): ReadonlyMap<string, unknown>;
  /** `snapshot` is called when it is written. */
  saveKey(provider: string, keyId: string, snapshot: () => KeyState): void;
}

/** What of a key survives a restart: the stored row, and the only second shape of it. */
export interface KeyState {
  cooldown: Cooldown | null;
  models: Record<
    string,
    { cooldown: Cooldown | null; deniedUntil: number; limiter: RateLimiterState | null }
  >;
  disabled: Disabled | null;
  isPaused: boolean;
  today: number;
  /** End of the day that `today` counts: a date. */
  dayEndsAt: number;
  requests: number;
  rateLimited: number;
  errors: number;
  lastUsedAt: number;
  limiter: RateLimiterState | null;
}

export function stateOf(
  key: Key,
  models: Iterable<readonly [model: string, limits: ModelLimits]>,
  dayEndsAt: number,
  now: number,
): KeyState {
  const kept: KeyState["models"] = {};
  for (const [model, { cooldown, deniedUntil, limiter }] of models) {
    const running = cooldown !== null && cooldown.until > now ? cooldown : null;
    const learnt = limiter?.state() ?? null;
    if (running !== null || deniedUntil > now || learnt !== null)
      kept[model] = { cooldown: running, deniedUntil, limiter: learnt };
  }
  const { disabled, isPaused, today, requests, rateLimited, errors, lastUsedAt, owner } = key;
  const limiter = owner.limiter.state();
  return {
    cooldown: owner.cooldown,
    models: kept,
    disabled,
    isPaused,
    today,
    dayEndsAt,
    requests,
    rateLimited,
    errors,
    lastUsedAt,
    limiter,
  };
}

/** Reads a stored row, which may be anything; null: it is no such row. Every number is checked. */
export function readKeyState(stored: unknown): KeyState | null {
  if (!isObject(stored)) return null;
  const models: KeyState["models"] = {};
  for (const [model, limits] of Object.entries(isObject(stored["models"]) ? stored["models"] : {})) {
    if (!isObject(limits)) continue;
    models[model] = {
      cooldown: readCooldown(limits["cooldown"]),
      deniedUntil: readNumber(limits["deniedUntil"]),
      limiter: readPacer(limits["limiter"]),
    };
  }
  const disabled = stored["disabled"];
  const reason = isObject(disabled) ? readReason(disabled["reason"]) : null;
  return {
    cooldown: readCooldown(stored["cooldown"]),
    models,
    disabled:
      isObject(disabled) && reason !== null
        ? { reason, at: readNumber(disabled["at"]), said: readText(disabled["said"]) }
        : null,
    isPaused: stored["isPaused"] === true,
    today: readNumber(stored["today"]),
    dayEndsAt: readNumber(stored["dayEndsAt"]),
    requests: readNumber(stored["requests"]),
    rateLimited: readNumber(stored["rateLimited"]),
    errors: readNumber(stored["errors"]),
    lastUsedAt: readNumber(stored["lastUsedAt"]),
    limiter: readPacer(stored["limiter"]),
  };
}

/**
 * A state as it is stored, its instants as dates. The clock that everything is measured with begins anew with the
 * program, and dates are all that two runs have in common.
 */
export function inDates(state: KeyState, offset: number): KeyState {
  return shifted(state, (instant) => (instant === 0 ? 0 : instant + offset));
}

/**
 * A state that was read, its dates as instants again. The date may be wrong now, or have been when it was stored: no
 * rest is longer than it was when it began, or than `maxCooldownMs` (P47).
 */
export function fromDates(state: KeyState, offset: number, now: number, maxCooldownMs: number): KeyState {
  const latest = now + maxCooldownMs;
  const instants = shifted(state, (date) => (date === 0 ? 0 : Math.min(Math.max(1, date - offset), latest)));
  const bounded = (read: Cooldown | null, stored: Cooldown | null) => {
    if (read === null || stored === null) return null;
    const longestMs = Math.max(0, stored.until - stored.beganAt);
    return {
      ...read,
      until: Math.min(read.until, now + longestMs),
      beganAt: Math.min(read.beganAt, now),
      answeredAt: Math.min(read.answeredAt, now),
    };
  };
  const models = Object.entries(instants.models).map(([model, limits]) => {
    const cooldown = bounded(limits.cooldown, state.models[model]?.cooldown ?? null);
    return [model, { ...limits, cooldown }] as const;
  });
  return {
    ...instants,
    cooldown: bounded(instants.cooldown, state.cooldown),
    models: Object.fromEntries(models),
    lastUsedAt: Math.min(instants.lastUsedAt, now),
  };
}

/** The state with each of its instants moved. */
function shifted(state: KeyState, move: (instant: number) => number): KeyState {
  const ofCooldown = (cooldown: Cooldown | null) =>
    cooldown && {
      ...cooldown,
      until: move(cooldown.until),
      beganAt: move(cooldown.beganAt),
      answeredAt: move(cooldown.answeredAt),
    };
  const ofBound = (bound: RateLimiterState["rate"]) => bound && { ...bound, retryAt: move(bound.retryAt) };
  const ofLimiter = (limiter: RateLimiterState | null) =>
    limiter && { ...limiter, rate: ofBound(limiter.rate), concurrency: ofBound(limiter.concurrency) };
  const models = Object.entries(state.models).map(([model, { cooldown, deniedUntil, limiter }]) => {
    const limits = { cooldown: ofCooldown(cooldown), deniedUntil: move(deniedUntil) };
    return [model, { ...limits, limiter: ofLimiter(limiter) }] as const;
  });
  return {
    ...state,
    cooldown: ofCooldown(state.cooldown),
    models: Object.fromEntries(models),
    disabled: state.disabled && { ...state.disabled, at: move(state.disabled.at) },
    lastUsedAt: move(state.lastUsedAt),
    limiter: ofLimiter(state.limiter),
  };
}

function readCooldown(stored: unknown): Cooldown | null {
  if (!isObject(stored)) return null;
  const reason = readReason(stored["reason"]);
  if (reason === null) return null;
  return {
    until: readNumber(stored["until"]),
    beganAt: readNumber(stored["beganAt"]),
    reason,
    strikes: Math.floor(readNumber(stored["strikes"])),
    answeredAt: readNumber(stored["answeredAt"]),
  };
}

const REASONS: Record<KeyReason, true> = {
  rate_limit: true,
  concurrency: true,
  quota_day: true,
  billing: true,
  unconfirmed: true,
  invalid_key: true,
  no_access: true,
  manual: true,
};

function readReason(stored: unknown): KeyReason | null {
  return Object.keys(REASONS).find((reason): reason is KeyReason => reason === stored) ?? null;
}

function readPacer(stored: unknown): RateLimiterState | null {
  if (!isObject(stored)) return null;
  const windowMs = readNumber(stored["windowMs"]);
  const rate = windowMs > 0 ? readBound(stored["rate"]) : null;
  const concurrency = readBound(stored["concurrency"]);
  const intervalMs = readNumber(stored["intervalMs"]);
  return { rate, windowMs, concurrency, intervalMs, burst: Math.floor(readNumber(stored["burst"])) };
}

function readBound(stored: unknown): RateLimiterState["rate"] {
  if (!isObject(stored)) return null;
  const value = readNumber(stored["value"]);
  if (value < 1) return null;
  const ceiling = readNumber(stored["ceiling"]);
  return {
    value,
    ceiling: ceiling > value ? ceiling : null,
    retryAt: readNumber(stored["retryAt"]),
    patienceMs: readNumber(stored["patienceMs"]),
  };
}

/** No instant is later (ECMA-262, section 21.4.1.1). */
const LATEST_DATE = 8.64e15;

function readNumber(stored: unknown): number {
  return typeof stored === "number" && stored >= 0 && stored <= LATEST_DATE ? stored : 0;
}

function readText(stored: unknown): string {
  return typeof stored === "string" ? stored.slice(0, 300) : "";
}

export { AFTER_AN_EVENT };
