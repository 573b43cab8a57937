/**
 * Which key serves a request now; or why none does, and from when on one can.
 *
 * A choice looks at each key in turn: those that may serve the request and are ready are compared, first by how the
 * request stands to them, then by the strategy. A choice changes nothing.
 */
import type { Strategy } from "../config/config.ts";
import type { NoKey } from "../providers/verdict.ts";
import { accountName, isInUse, keyReadyAt, ModelLimits } from "./key.ts";
import type { Account, Key, KeyNeed } from "./key.ts";
import { AFTER_AN_EVENT } from "./rate-limiter.ts";

/** What is known of one model with the accounts of a pool. */
export class ModelState {
  readonly limits = new Map<Account, ModelLimits>();
}

/** Models with limits of their own that are kept at most: names come from clients. */
const MOST_MODELS = 256;
/** An account with so many failed attempts in a row is known to fail; for a request that tried it, one is enough. */
const FAILS_AFTER = 2;

/** How a request stands to a key that is ready: the lowest is chosen. */
const FRESH = 0;
const TRIED = 1;
/** Its account may not use the model: asked last of all, to learn whether that is still so. */
const DENIED = 2;
const NONE = 3;

/** The turns of instances that share a pool. */
export interface Turns {
  readonly instances: number;
  /** When it is the turn of this one; in the past: now. */
  turnAt(seed: number, now: number): number;
}

export class KeySelector {
  keys: readonly Key[] = [];
  strategy: Strategy;
  /** Epoch ms when the running day ends. */
  dayEndsAt = 0;
  /** When it is this instance's turn with a key that several share; null: no other shares the pool. */
  turns: Turns | null = null;
  /** Whether what goes out is a trial, of which instances send one at a time whatever the turns of keys are. */
  isOnTrial: (need: KeyNeed) => boolean = () => false;
  readonly #models = new Map<string, ModelState>();
  /** Where the next walk begins. */
  #cursor = 0;

  constructor(strategy: Strategy) {
    this.strategy = strategy;
  }

  /** Takes these keys from now on, in this order. */
  arrange(keys: readonly Key[]): void {
    for (const key of this.keys) key.index = -1;
    keys.forEach((key, index) => (key.index = index));
    this.keys = keys;
    this.#cursor = 0;
    const accounts = new Set(keys.map(({ account }) => account));
    for (const { limits } of this.#models.values())
      for (const account of limits.keys()) if (!accounts.has(account)) limits.delete(account);
  }

  /** The key that serves this now; or why there is none, and until when. `account`: only one of it; null: of any. */
  choose(need: KeyNeed, now: number, account: string | null = need.boundTo): Key | NoKey {
    const { keys } = this;
    const model = this.modelStateOf(need);
    const isFirstBest = !this.#hasPreference(need);
    let best: Key | null = null;
    let bestStanding = NONE;
    let bestPreference = -Infinity;
    let isGood = false; // some key is ready that is not known to fail
    let readyAt = Infinity;
    let anyReadyAt = Infinity;
    let maybeSooner = false;
    let isPaced = false;
    let hasUsable = false;
    let hasSuited = false;
    for (let step = 0; step < keys.length; step++) {
      const key = this.#inTurn(step);
      if (!isInUse(key)) continue;
      hasUsable = true;
      const limits = model?.limits.get(key.account);
      const keyAt = this.#readyAt(key, limits, need, now);
      if (keyAt < anyReadyAt) anyReadyAt = keyAt;
      if (!isSuited(key, need, account)) continue;
      hasSuited = true;
      const wasTried = need.tried.size > 0 && need.tried.has(key);
      const isFailing = key.account.faultsInRow >= (wasTried ? 1 : FAILS_AFTER);
      const isDenied = limits !== undefined && limits.deniedUntil > now;
      const at = wasTried ? Math.max(keyAt, need.reuseAt) : keyAt;
      if (at > now) {
        if (at >= AFTER_AN_EVENT) maybeSooner = true;
        else if (at < readyAt) readyAt = at;
        isPaced ||= (key.account.cooldown?.until ?? 0) <= now && (limits?.cooldown?.until ?? 0) <= now;
        continue;
      }
      const standing = isDenied ? DENIED : wasTried ? TRIED : FRESH;
      if (!isFailing) isGood = true;
      if (standing > bestStanding) continue;
      const preference = isFirstBest ? 0 : this.#preference(key, need);
      if (standing === bestStanding && preference <= bestPreference) continue;
      best = key;
      bestStanding = standing;
      bestPreference = preference;
      if (isFirstBest && standing === FRESH && !isFailing) break;
    }
    if (best !== null) return isGood ? best : (this.#heldBack(need, now, account) ?? best);
    if (!hasUsable) return { kind: "no_key", readyAt: Infinity, why: "none_usable" };
    if (!hasSuited) return { kind: "no_key", readyAt: Infinity, why: "unsuited" };
    const isOwn = anyReadyAt < (maybeSooner ? Math.min(readyAt, AFTER_AN_EVENT) : readyAt);
    return { kind: "no_key", readyAt, maybeSooner, isPaced, isOwn, why: "cooling" };
  }

  /** The key goes out with a request: the next walk begins behind it. */
  onTaken({ index }: Key): void {
    this.#cursor = this.strategy === "sticky" ? index : (index + 1) % this.keys.length;
  }

  /**
   * No key was ready for a request: of the learnt limits in its way, the first that has held for a while is raised.
   * Returns whether one was.
   */
  onBlocked(need: KeyNeed, now: number): boolean {
    const model = this.modelStateOf(need);
    for (let step = 0; step < this.keys.length; step++) {
      const key = this.#inTurn(step);
      if (keyReadyAt(key, this.dayEndsAt, need.isUncounted) > now || !isSuited(key, need, need.boundTo))
        continue;
      // Another instance sends with it now: that one tries more.
      if (this.turns !== null && this.turns.instances > 1 && this.turns.turnAt(key.seed, now) > now) continue;
      const isRaised = key.account.onBlocked(now);
      const isModelRaised = model?.limits.get(key.account)?.onBlocked(now) ?? false;
      if (isRaised || isModelRaised) return true;
    }
    return false;
  }

  #inTurn(step: number): Key {
    const place = this.#cursor + step;
    return this.keys[place < this.keys.length ? place : place - this.keys.length]!;
  }

  /** Epoch ms from which a key in use may be asked; `AFTER_AN_EVENT`: when an attempt under way has ended. */
  #readyAt(key: Key, limits: ModelLimits | undefined, need: KeyNeed, now: number): number {
    const { isUncounted } = need;
    const keyAt = keyReadyAt(key, this.dayEndsAt, isUncounted);
    const accountAt = Math.max(keyAt, key.account.readyAt(now, isUncounted));
    const at = limits === undefined ? accountAt : Math.max(accountAt, limits.readyAt(now));
    if (this.turns === null || at > now || this.isOnTrial(need)) return at;
    return this.#turnAt(this.turns, key, limits, now);
  }

  /** Instances that share the pool take turns where a limit that is not exact is nearly used up. */
  #turnAt(turns: Turns, { account, seed }: Key, limits: ModelLimits | undefined, now: number): number {
    const { instances } = turns;
    const isTight = account.isTight(now, instances) || (limits?.isTight(now, instances) ?? false);
    return instances > 1 && isTight ? turns.turnAt(seed, now) : 0;
  }

  /**
   * A key that only a learnt limit holds back, and that is not known to fail; null: there is none. While the others
   * fail, such a limit is a preference, not a wall.
   */
  #heldBack(need: KeyNeed, now: number, boundTo: string | null): Key | null {
    for (let step = 0; step < this.keys.length; step++) {
      const key = this.#inTurn(step);
      const { account } = key;
      if (need.tried.has(key) || account.faultsInRow >= FAILS_AFTER || !isSuited(key, need, boundTo))
        continue;
      const limits = this.limitsFor(need, account);
      if (limits !== null && Math.max(limits.deniedUntil, limits.readyAtIfNotLearnt) > now) continue;
      if (Math.max(keyReadyAt(key, this.dayEndsAt), account.readyAtIfNotLearnt) <= now) return key;
    }
    return null;
  }

  /** The conversation is asked for only where the strategy goes by it: to find it, the body has to be looked into. */
  #hasPreference(need: KeyNeed): boolean {
    const { strategy } = this;
    return (
      strategy === "lru" || strategy === "quota" || (strategy === "affinity" && need.conversation !== null)
    );
  }

  /** What the strategy prefers: the higher, the better. Of equals it is the next in turn. */
  #preference(key: Key, need: KeyNeed): number {
    switch (this.strategy) {
      case "round-robin":
      case "sticky":
        return 0;
      case "lru":
        return -key.lastUsedAt;
      case "quota": // the most of its day left; without a limit it never runs out
        return key.dailyLimit === null ? 2 : 1 - key.today / key.dailyLimit;
      case "affinity":
        return need.conversation === null ? 0 : rendezvous(need.conversation, key.seed);
    }
  }

  /** What is known of the model that a request asks for; null: nothing is known of it, or of any. */
  modelStateOf(need: Pick<KeyNeed, "model">): ModelState | null {
    if (this.#models.size === 0 || need.model === null) return null;
    return this.#models.get(need.model) ?? null;
  }

  /** What is known of a model with an account, and null as long as nothing is. */
  limitsFor(need: Pick<KeyNeed, "model">, account: Account): ModelLimits | null {
    return this.modelStateOf(need)?.limits.get(account) ?? null;
  }

  /** The limits of a model with an account, made where there are none. */
  openLimits(model: string, account: Account, now: number): ModelLimits {
    let state = this.#models.get(model);
    if (state === undefined) {
      if (this.#models.size >= MOST_MODELS) this.#forgetModels(now);
      state = new ModelState();
      this.#models.set(model, state);
    }
    let limits = state.limits.get(account);
    if (limits === undefined) state.limits.set(account, (limits = new ModelLimits()));
    return limits;
  }

  /** Forgets the models of which all is over, and the oldest where that is not enough. */
  #forgetModels(now: number): void {
    const isOver = (limits: ModelLimits) => limits.readyAt(now) <= now && limits.deniedUntil <= now;
    for (const [model, state] of this.#models)
      if ([...state.limits.values()].every(isOver)) this.#models.delete(model);
    const [oldest] = this.#models.keys();
    if (this.#models.size >= MOST_MODELS && oldest !== undefined) this.#models.delete(oldest);
  }

  /** The limits that models have with an account. */
  *limitsOf(account: Account): Generator<readonly [model: string, limits: ModelLimits]> {
    for (const [model, state] of this.#models) {
      const limits = state.limits.get(account);
      if (limits !== undefined) yield [model, limits];
    }
  }
}

/** Whether the key may serve the request at all. `account`: only a key of this one; null: of any. */
function isSuited(key: Key, { unsuited }: KeyNeed, account: string | null): boolean {
  if (account !== null && accountName(key) !== account) return false;
  return unsuited.size === 0 || !unsuited.has(key);
}

/** How well `conversation` goes with the key of this seed: it belongs to the key where this is highest. */
export function rendezvous(conversation: number, keySeed: number): number {
  // MurmurHash3's finalizer: every bit of both numbers reaches every bit of the result.
  let mixed = conversation ^ Math.imul(keySeed, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
