/**
 * What is known of one key, and what follows from it at an instant: from when on it may be asked, what `/health` shows,
 * what is kept over a restart. And what passes between a request and the pool: what the request needs, the right to
 * use a key, or why there is none.
 *
 * A limit belongs to an account, which may have several keys; a key without an account is one of its own. Death, pause
 * and the day's count belong to the key.
 */
import { hash32 } from "#runtime";
import type { Clock } from "../core/clock.ts";
import type { ConfiguredKey, ProviderConfig } from "../config/config.ts";
import type { KeyReason, Observer } from "../core/events.ts";
import { isObject } from "../core/json.ts";
import type { Secret } from "../core/secret.ts";
import type { Budgets } from "../providers/rate-limit-headers.ts";
import type { NoKey, Outcome, Verdict } from "../providers/verdict.ts";
import type { CircuitBreaker } from "./circuit-breaker.ts";
import type { Patience, Place } from "./exact-limits.ts";
import type { RetryBudget } from "./retry-policy.ts";
import { AFTER_AN_EVENT, RateLimiter } from "./rate-limiter.ts";
import type { RateLimiterState, RateRule } from "./rate-limiter.ts";
import { SlowStart } from "./slow-start.ts";

/** Everything that is known of one key. Instants are those of `Clock.now()`; 0 means never. */
export interface Key {
  readonly secret: Secret;
  /** Stands for it where conversations are assigned to keys. */
  readonly seed: number;
  /** Place in the configuration; -1: it is not there any more. */
  index: number;
  account: Account;
  /** Requests a day; null: any number. */
  dailyLimit: number | null;
  disabled: Disabled | null;
  /** Taken out by the operator. */
  isPaused: boolean;
  /** It was found dead, and is tried again by a real request. */
  isOnTrial: boolean;
  inFlight: number;
  /** The same with other instances that share the pool. */
  inFlightElsewhere: number;
  /** No request that counts goes out before: other instances have taken all places; 0: they have not. */
  fullUntil: number;
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

/** A key, or a model on a key, that may not be asked before `until`. Instants are those of `Clock.now()`. */
export interface Cooldown {
  until: number;
  beganAt: number;
  reason: KeyReason;
  /** Refusals in a row before this one. */
  strikes: number;
  /** When a response last started since then; 0: never. */
  answeredAt: number;
}

/** What may keep an account, or a model with it, from being asked. */
abstract class Limits {
  cooldown: Cooldown | null = null;
  readonly slowStart = new SlowStart();
  /** null: no limit is known. */
  abstract limiter: RateLimiter | null;

  /**
   * From when on it may be asked; `AFTER_AN_EVENT`: when an attempt under way has ended. `isUncounted`: for what counts
   * against no limit that was set.
   */
  readyAt(now: number, isUncounted = false): number {
    const limiterAt = this.limiter?.readyAt(now, isUncounted) ?? 0;
    return Math.max(this.cooldown?.until ?? 0, this.slowStart.readyAt, limiterAt);
  }

  /** The same, were there no limits but those that are set or announced. */
  get readyAtIfNotLearnt(): number {
    const limiterAt = this.limiter?.readyAtIfNotLearnt ?? 0;
    return Math.max(this.cooldown?.until ?? 0, this.slowStart.readyAt, limiterAt);
  }

  /** Whether instances that share the pool take turns with it: one would be refused for what another has sent. */
  isTight(now: number, instances: number): boolean {
    return this.slowStart.isOn || (this.limiter?.isTight(now, instances) ?? false);
  }

  /** A request has to wait for it: a learnt limit in its way may be raised. Returns whether one was. */
  onBlocked(now: number): boolean {
    return (this.cooldown?.until ?? 0) <= now && (this.limiter?.onBlocked(now) ?? false);
  }
}

/** What keys of one account share. */
export class Account extends Limits {
  readonly limiter: RateLimiter;
  /** When a response last started. */
  answeredAt = 0;
  /** Failures of the upstream in a row, which are not held against its keys. */
  faultsInRow = 0;

  constructor(
    /** As it was configured; null: the account of a single key. */
    readonly name: string | null,
    rule: RateRule,
  ) {
    super();
    this.limiter = new RateLimiter(rule);
  }
}

/** What holds for one model with one account. */
export class ModelLimits extends Limits {
  limiter: RateLimiter | null = null;
  /** Until when it is known that the account may not use the model (P16): others are asked first. */
  deniedUntil = 0;
}

/** What of a request decides which keys may serve it. */
export interface KeyNeed {
  /** Looked up only where a model has limits of its own; null: none is named. */
  readonly model: string | null;
  /** Names the conversation, for a strategy that keeps it with one key; null: nothing to tell by. */
  readonly conversation: number | null;
  /** Keys that were asked already: again only when no other is ready, and not before `reuseAt` (epoch ms). */
  readonly tried: ReadonlySet<Key>;
  readonly reuseAt: number;
  /** Keys that cannot serve this request at all. */
  readonly unsuited: ReadonlySet<Key>;
  /** The account that alone has what the request refers to (P35); null: any. */
  readonly boundTo: string | null;
  /** It only asks (GET, HEAD, OPTIONS), which counts against no daily cap and no `RPM=n`. */
  readonly isUncounted: boolean;
}

/** What the pool must know of a request to choose a key for it, and when. */
export interface Need extends KeyNeed {
  /** Place in the queue: the number of the request. */
  readonly arrival: number;
  /** The path that it is for, as its client sent it. */
  readonly path?: string;
  /** It does not wait for a key beyond this. */
  readonly waitUntil: number;
  /** When the upstream failed it and there was no room for a retry: it waits for that; 0: there was. */
  readonly deferredAt: number;
  readonly signal: AbortSignal;
}

/** The right to use a key for one attempt. It ends once, by `KeyPool.settle`. */
export interface Lease {
  readonly kind: "lease";
  readonly key: Key;
  readonly need: Need;
  /** Epoch ms. */
  readonly at: number;
  /** What is known of its model with this key's account; null: nothing. */
  readonly limits: ModelLimits | null;
  /** The day on which it counts, by the date of its end. */
  readonly dayEndsOn: number;
  /** This attempt finds out whether the upstream is back. */
  readonly isTrial: boolean;
  /** When its response started; 0: it has not. */
  startedAt: number;
  /** What `answeredAt` of the account was before: it counts again if this response breaks off. */
  answeredBefore: number;
  /** The answer is a 404, which counts against no daily cap and no `RPM=n` either. */
  isNotFound: boolean;
  /** Its place among all instances that share the pool; null: nobody was asked. */
  place: Place | null;
  settled: boolean;
}

/** What a pool needs from outside. */
export interface PoolDependencies {
  readonly clock: Clock;
  /** From 0 up to 1. */
  readonly random: () => number;
  readonly observer: Observer;
  /** null: nothing outlives the program. */
  readonly keeper: Keeper | null;
}

/** The keys of one provider, as the rest of the program knows them. `Pool` is the one there is. */
export interface KeyPool {
  readonly keys: readonly Key[];
  /** Opened by failures of the upstream. */
  readonly breaker: CircuitBreaker;
  /** How many of its faults may be answered by another attempt (P7). */
  readonly retryBudget: RetryBudget;
  /** How many requests wait for a key. */
  readonly waiting: number;
  /** Epoch ms until which the provider is left alone; in the past where it is not. */
  readonly pausedUntil: number;
  /** What upstream said, or why it could not be asked, when it was last left alone; empty: nothing, or it is up. */
  readonly pauseSaid: string;
  /** Whether it is left alone because it refuses everybody, and not because it fails. */
  isRefusedByAll(now: number): boolean;
  /** Whether the provider is left alone for this request: as a whole, or only its model. */
  isPausedFor(need: Need, now: number): boolean;
  /** A key now, or in this request's turn, or why there will be none in time. Resolves when the client leaves. */
  acquire(need: Need): Lease | NoKey | Promise<Lease | NoKey>;
  /** A key now, or why there is none. `account`: only a key of this one; else of the one that `need` is bound to. */
  lease(need: Need, now: number, account?: string): Lease | NoKey;
  /** Why this request gets no key now, and until when: for its answer when its attempts are spent. */
  noKeyFor(need: Need, now: number): NoKey;
  /**
   * Whether all instances that share the pool leave a place for this lease; null: nobody need be asked. Where they
   * leave none, the lease has been given back, and the request needs another.
   */
  confirm(lease: Lease, patience: Patience): Promise<boolean> | null;
  /** `budgets`: what the response announced of limits; null: nothing. */
  responseStarted(lease: Lease, outcome: Verdict, now: number, budgets: Budgets | null): void;
  /**
   * Ends a lease. A second call for the same one does nothing. Returns the keys that were refused alike, where that may
   * be about the request: ask a check before one of them is taken out of use (P36).
   */
  settle(lease: Lease, outcome: Outcome, now: number, budgets?: Budgets | null): readonly Key[];
  /** A key of a provider that has no check is tried again by a real request; refused once more, it is out again. */
  tryAgain(key: Key, now: number): void;
  /** Takes a key out of use: the provider said that it is dead. */
  disable(key: Key, said: string, now: number): void;
  /** A check found that the key lives: refusals of it until now confirm nothing. */
  vouchFor(key: Key): void;
  /** Brings a key back at once, whatever it cools or was taken out for. */
  revive(key: Key, now: number): void;
  /** Takes a key out by hand, or puts it back in. */
  setPaused(key: Key, isPaused: boolean, now: number): void;
  /** The keys as they are shown. */
  report(now: number): KeyReport[];
  /** Takes over what was stored of keys in an earlier run. */
  restore(keeper: Keeper): void;
  /** Other settings from now on. Keys that stay keep all that is known of them; requests under way go on. */
  reconfigure(config: ProviderConfig, maxCooldownMs: number): void;
}

export function newKey(
  { secret, dailyLimit }: ConfiguredKey,
  index: number,
  config: Pick<ProviderConfig, "dailyLimit">,
  account: Account,
): Key {
  return {
    secret,
    seed: seedOf(secret.id),
    index,
    account,
    dailyLimit: dailyLimit ?? config.dailyLimit,
    disabled: null,
    isPaused: false,
    isOnTrial: false,
    inFlight: 0,
    inFlightElsewhere: 0,
    fullUntil: 0,
    requests: 0,
    rateLimited: 0,
    errors: 0,
    today: 0,
    lastUsedAt: 0,
  };
}

/** Whether the key is in use: neither dead nor taken out by hand. */
export function isInUse(key: Key): boolean {
  return key.disabled === null && !key.isPaused;
}

/** Epoch ms from which the key itself may be asked, whatever its account allows; Infinity: nobody knows. */
export function keyReadyAt(key: Key, dayEndsAt: number, isUncounted = false): number {
  if (!isInUse(key)) return Infinity;
  if (isUncounted) return 0;
  return isSpent(key) ? dayEndsAt : key.fullUntil;
}

/** Whether the key has had its day's requests. */
function isSpent(key: Key): boolean {
  return key.dailyLimit !== null && key.today >= key.dailyLimit;
}

/** The accounts that some key in use belongs to, in the order of the configuration. */
export function accountNames(keys: readonly Key[]): string[] {
  return [...new Set(keys.filter(({ disabled }) => disabled === null).map(accountName))];
}

/** What an account is called where resources are remembered: its name, or its only key. */
export function accountName(key: Key): string {
  return key.account.name ?? key.secret.id;
}

/** The number that stands for a key in `rendezvous`. `id` names it, and is the same after a restart. */
export function seedOf(id: string): number {
  return hash32(id);
}

// ---- what is shown

/** A key as it is shown, at this moment: `ready` means that a request would go out with it now. */
export interface KeyReport {
  index: number;
  id: string;
  account: string | null;
  state: "ready" | "cooling" | "disabled" | "paused";
  reason: KeyReason | null;
  /** 0: it does not cool, or until an attempt under way ends. */
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

/** The one view of a key. `models`: what is known of single models with its account. */
export function reportOf(
  key: Key,
  models: Iterable<readonly [model: string, limits: ModelLimits]>,
  dayEndsAt: number,
  now: number,
): KeyReport {
  const { account } = key;
  const cooling = isInUse(key) ? coolingOf(account, isSpent(key) ? dayEndsAt : 0, now, key.fullUntil) : null;
  const shown: KeyReport["models"] = {};
  let modelRpm: number | null = null;
  for (const [model, limits] of models) {
    const perMinute = limits.limiter?.perMinute ?? null;
    if (perMinute !== null) modelRpm = Math.min(modelRpm ?? Infinity, perMinute);
    const { deniedUntil } = limits;
    const coolingModel = coolingOf(limits, 0, now);
    if (coolingModel !== null) shown[model] = coolingModel;
    else if (deniedUntil > now) shown[model] = { coolingMs: deniedUntil - now, reason: "no_access" };
  }
  return {
    index: key.index,
    id: key.secret.id,
    account: account.name,
    state:
      key.disabled !== null ? "disabled" : key.isPaused ? "paused" : cooling !== null ? "cooling" : "ready",
    reason: key.disabled?.reason ?? (key.isPaused ? "manual" : (cooling?.reason ?? null)),
    coolingMs: cooling?.coolingMs ?? 0,
    models: shown,
    requests: key.requests,
    rateLimited: key.rateLimited,
    errors: key.errors,
    today: key.today,
    dailyLimit: key.dailyLimit,
    rpmLimit: account.limiter.perMinute ?? modelRpm, // where only models have limits, the narrowest of theirs
    inFlight: key.inFlight + key.inFlightElsewhere,
    lastUsedAt: key.lastUsedAt,
    said: key.disabled?.said ?? "",
  };
}

/** What keeps an account, or a model with it, from being asked for longest; null: nothing does. */
function coolingOf(
  { cooldown, limiter, slowStart }: Limits,
  spentUntil: number,
  now: number,
  fullUntil = 0,
): { coolingMs: number; reason: KeyReason } | null {
  const pacedUntil = Math.max(slowStart.readyAt, limiter?.readyAt(now) ?? 0, fullUntil);
  const isFull = pacedUntil >= AFTER_AN_EVENT; // an attempt under way has to end, and nobody knows when
  const coolingUntil = Math.max(cooldown?.until ?? 0, spentUntil, isFull ? 0 : pacedUntil);
  if (coolingUntil <= now) return isFull ? { coolingMs: 0, reason: "pacing" } : null;
  const coolingMs = coolingUntil - now;
  if (coolingUntil === cooldown?.until) return { coolingMs, reason: cooldown.reason };
  return { coolingMs, reason: coolingUntil === spentUntil ? "quota_day" : "pacing" };
}

// ---- what is kept

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
  const { disabled, isPaused, today, requests, rateLimited, errors, lastUsedAt, account } = key;
  const limiter = account.limiter.state();
  return {
    cooldown: account.cooldown,
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
      limiter: readLimiter(limits["limiter"]),
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
    limiter: readLimiter(stored["limiter"]),
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
 * cooldown is longer than it was when it began, or than `maxCooldownMs` (P47).
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
  const ofLimit = (limit: RateLimiterState["rate"]) => limit && { ...limit, retryAt: move(limit.retryAt) };
  const ofLimiter = (limiter: RateLimiterState | null) =>
    limiter && { ...limiter, rate: ofLimit(limiter.rate), concurrency: ofLimit(limiter.concurrency) };
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
  pacing: true,
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

function readLimiter(stored: unknown): RateLimiterState | null {
  if (!isObject(stored)) return null;
  const windowMs = readNumber(stored["windowMs"]);
  const rate = windowMs > 0 ? readLimit(stored["rate"]) : null;
  const concurrency = readLimit(stored["concurrency"]);
  const intervalMs = readNumber(stored["intervalMs"]);
  return { rate, windowMs, concurrency, intervalMs, burst: Math.floor(readNumber(stored["burst"])) };
}

function readLimit(stored: unknown): RateLimiterState["rate"] {
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

/** The accounts of these keys, each once, in their order. */
export function accountsOf(keys: readonly Key[]): Account[] {
  return [...new Set(keys.map(({ account }) => account))];
}
