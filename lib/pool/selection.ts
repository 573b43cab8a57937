/**
 * Which key serves a request now, and from when on one can.
 *
 * When a key may be asked is kept as a number for each account and each key, brought up to date by whoever changes
 * one. So a choice is a walk over numbers that ends at the first that will do, and no walk at all while it is known
 * that none is ready.
 */
import type { Strategy } from "../config/config.ts";
import { AFTER_AN_EVENT, keyReadyAt } from "./key.ts";
import type { Account, Key, ModelLimits } from "./key.ts";

/** What of a request decides which keys may serve it. */
export interface KeyNeed {
  /** Looked up only where a model has limits of its own. */
  readonly model: string | null;
  /** Names the conversation, for a strategy that keeps it with one key; null: nothing to tell by. */
  readonly conversation: number | null;
  /** Keys that were asked already: again only when no other is ready, and not before `reuseAt`. */
  readonly tried: ReadonlySet<Key>;
  readonly reuseAt: number;
  /** Keys that cannot serve this request at all. */
  readonly unsuited: ReadonlySet<Key>;
  /** The account that alone has what the request refers to (P35); null: any. */
  readonly boundTo: string | null;
}

/** What a walk in vain found, which holds for every request that nothing of its own stands in the way of. */
interface InVain {
  /** No key is ready before this (epoch ms), as long as `version` of the choice is the same. */
  before: number;
  version: number;
  /** The end of an attempt under way may make one ready. */
  depends: boolean;
  /** There is a key that could serve at some time. */
  anyUsable: boolean;
}

/** What is known of one model with the accounts of a pool. */
export class ModelState {
  readonly inVain: InVain = { before: 0, version: 0, depends: false, anyUsable: false };
  readonly limits = new Map<Account, ModelLimits>();
  /** By account: epoch ms from which the model may be asked for. */
  readyAt = new Float64Array(0);
  deniedUntil = new Float64Array(0);
  /** Whether some account may not use the model, as far as is known. */
  hasDenied = false;
}

/** Models with limits of their own that are kept at most: names come from clients. */
const LANES = 256;

export class KeySelector {
  keys: readonly Key[] = [];
  accounts: readonly Account[] = [];
  strategy: Strategy;
  readonly #modelStates = new Map<string, ModelState>();
  #accountOf = new Uint32Array(0);
  #seeds = new Uint32Array(0);
  #keyAt = new Float64Array(0);
  #accountAt = new Float64Array(0);
  /** By key: what the strategy prefers, the higher the better. */
  #ranks = new Float64Array(0);
  #cursor = 0;
  readonly #inVain: InVain = { before: 0, version: 0, depends: false, anyUsable: false };
  /** Counts the changes by which some key may be ready earlier than was known. */
  #version = 0;
  /** After `next` found none: the earliest time at which one is ready; Infinity: none ever by time alone. */
  readyAt = Infinity;
  /** After `next` found none: the end of an attempt under way may make one ready. */
  dependsOnOthers = false;
  /** After `next` found none: whether there was any key that could serve this at some time. */
  hasSuited = false;

  /** After `next` found none: the earliest time at which another request for the same model can be served. */
  othersReadyAt = Infinity;

  constructor(strategy: Strategy) {
    this.strategy = strategy;
  }

  /** Takes these keys from now on, in this order. */
  arrange(keys: readonly Key[], dayEndsAt: number, now: number): void {
    const accounts = [...new Set(keys.map((key) => key.owner))];
    accounts.forEach((account, index) => (account.index = index));
    for (const key of this.keys) key.index = -1;
    keys.forEach((key, index) => (key.index = index));
    this.keys = keys;
    this.accounts = accounts;
    this.#accountOf = Uint32Array.from(keys, (key) => key.owner.index);
    this.#seeds = Uint32Array.from(keys, (key) => seedOf(key.secret.id));
    this.#keyAt = new Float64Array(keys.length);
    this.#ranks = new Float64Array(keys.length);
    for (const key of keys) this.ranked(key);
    this.#accountAt = new Float64Array(accounts.length);
    this.#cursor = 0;
    for (const modelState of this.#modelStates.values()) {
      for (const account of modelState.limits.keys())
        if (!accounts.includes(account)) modelState.limits.delete(account);
      modelState.readyAt = new Float64Array(accounts.length);
      modelState.deniedUntil = new Float64Array(accounts.length);
      for (const account of modelState.limits.keys()) this.#refreshLane(modelState, account, now);
    }
    for (const key of keys) this.refreshKey(key, dayEndsAt);
    for (const account of accounts) this.refresh(account, null, now);
  }

  /** Something about the key itself has changed. */
  refreshKey(key: Key, dayEndsAt: number): void {
    if (key.index < 0) return;
    this.#keyAt[key.index] = keyReadyAt(key, dayEndsAt);
    this.ranked(key);
    this.#version += 1;
  }

  /** Something about an account has changed, and about the model with it. */
  refresh(account: Account, modelState: ModelState | null, now: number): void {
    if (this.accounts[account.index] !== account) return;
    const readyAt = account.readyAt(now);
    // Earlier than was known, or put off: what a walk in vain found holds no more.
    const knownAt = this.#accountAt[account.index]!;
    if (readyAt < knownAt || (knownAt > now && readyAt > knownAt)) this.#version += 1;
    this.#accountAt[account.index] = readyAt;
    if (modelState !== null) this.#refreshLane(modelState, account, now);
  }

  #refreshLane(modelState: ModelState, account: Account, now: number): void {
    const limits = modelState.limits.get(account);
    const readyAt = limits?.readyAt(now) ?? 0;
    const knownAt = modelState.readyAt[account.index]!;
    if (readyAt < knownAt || (knownAt > now && readyAt > knownAt)) modelState.inVain.before = 0;
    modelState.readyAt[account.index] = readyAt;
    modelState.deniedUntil[account.index] = limits?.deniedUntil ?? 0;
    if (limits !== undefined && limits.deniedUntil > now) modelState.hasDenied = true;
  }

  /** What is known of the model that a request asks for; null: nothing is known of it, or of any. */
  modelStateOf(need: Pick<KeyNeed, "model">): ModelState | null {
    if (this.#modelStates.size === 0 || need.model === null) return null;
    return this.#modelStates.get(need.model) ?? null;
  }

  get modelStates(): Iterable<readonly [model: string, modelState: ModelState]> {
    return this.#modelStates;
  }

  /** The lane of a model, made where there is none. What is over is forgotten, and beyond the bound the oldest. */
  openModelState(model: string, now: number): ModelState {
    const known = this.#modelStates.get(model);
    if (known !== undefined) return known;
    if (this.#modelStates.size >= LANES) this.#forgetLanes(now);
    const modelState = new ModelState();
    modelState.readyAt = new Float64Array(this.accounts.length);
    modelState.deniedUntil = new Float64Array(this.accounts.length);
    this.#modelStates.set(model, modelState);
    return modelState;
  }

  #forgetLanes(now: number): void {
    const isOver = (modelState: ModelState) =>
      modelState.readyAt.every((at) => at <= now) && modelState.deniedUntil.every((at) => at <= now);
    for (const [model, modelState] of this.#modelStates)
      if (isOver(modelState)) this.#modelStates.delete(model);
    const [oldest] = this.#modelStates.keys();
    if (this.#modelStates.size >= LANES && oldest !== undefined) this.#modelStates.delete(oldest);
  }

  /** The limits that a model has with an account of its own, as long as there are any. */
  *limitsOf(account: Account): Generator<readonly [model: string, limits: ModelLimits]> {
    for (const [model, modelState] of this.#modelStates) {
      const limits = modelState.limits.get(account);
      if (limits !== undefined) yield [model, limits];
    }
  }

  /** The key that serves this now, or null: then the fields above tell why, and when. `account`: only one of it. */
  next(
    need: KeyNeed,
    modelState: ModelState | null,
    now: number,
    account: string | null = need.boundTo,
  ): Key | null {
    const { before, version, depends, anyUsable } = modelState?.inVain ?? this.#inVain;
    if (now < before && version === this.#version && account === null && need.unsuited.size === 0) {
      this.readyAt = before < AFTER_AN_EVENT ? before : Infinity;
      this.dependsOnOthers = depends;
      this.hasSuited = anyUsable;
      this.othersReadyAt = before;
      return null;
    }
    const isPlain = account === null && need.tried.size === 0 && need.unsuited.size === 0;
    const quick = isPlain && !(modelState?.hasDenied ?? false) ? this.#quick(need, modelState, now) : -1;
    if (quick < 0) return this.#walk(need, modelState, now, account);
    this.#cursor = this.strategy === "sticky" ? quick : (quick + 1) % this.keys.length;
    return this.keys[quick] ?? null;
  }

  /** For a request that has to wait for others, and must not keep them waiting. `readyAt`: until when (epoch ms). */
  standsAside(readyAt: number): { kind: "no_key"; readyAt: number; why: "cooling" } {
    this.othersReadyAt = 0;
    return { kind: "no_key", readyAt, why: "cooling" };
  }

  /** The index of the key for a request that any key may serve, by numbers alone; -1: none is ready. */
  #quick(need: KeyNeed, modelState: ModelState | null, now: number): number {
    switch (this.strategy) {
      case "round-robin":
      case "sticky":
        return this.#firstReady(modelState, now);
      case "lru":
      case "quota":
        return this.#bestReady(this.#ranks, modelState, now);
      case "affinity":
        if (need.conversation === null) return this.#firstReady(modelState, now);
        for (let index = 0; index < this.keys.length; index++)
          this.#ranks[index] = rendezvous(need.conversation, this.#seeds[index]!);
        return this.#bestReady(this.#ranks, modelState, now);
    }
  }

  #firstReady(modelState: ModelState | null, now: number): number {
    const count = this.keys.length;
    const keyAt = this.#keyAt;
    const accountOf = this.#accountOf;
    const accountAt = this.#accountAt;
    const laneAt = modelState?.readyAt ?? accountAt;
    const cursor = this.#cursor;
    for (let index = cursor; index < count; index++) {
      const account = accountOf[index]!;
      if (accountAt[account]! <= now && keyAt[index]! <= now && laneAt[account]! <= now) return index;
    }
    for (let index = 0; index < cursor; index++) {
      const account = accountOf[index]!;
      if (accountAt[account]! <= now && keyAt[index]! <= now && laneAt[account]! <= now) return index;
    }
    return -1;
  }

  /** Of the ready keys the one with the highest rank; of equals the next in turn. */
  #bestReady(ranks: Float64Array, modelState: ModelState | null, now: number): number {
    const count = this.keys.length;
    const keyAt = this.#keyAt;
    const accountOf = this.#accountOf;
    const accountAt = this.#accountAt;
    const laneAt = modelState?.readyAt ?? accountAt;
    const cursor = this.#cursor;
    let best = -1;
    let bestRank = -Infinity;
    for (let index = 0; index < count; index++) {
      const rank = ranks[index]!;
      if (rank < bestRank || (rank === bestRank && (best >= cursor || index < cursor))) continue;
      const account = accountOf[index]!;
      if (accountAt[account]! > now || keyAt[index]! > now || laneAt[account]! > now) continue;
      best = index;
      bestRank = rank;
    }
    return best;
  }

  /** A key was taken, or given back its day: where that decides who is next, it is noted. */
  ranked(key: Key): void {
    if (key.index < 0) return;
    if (this.strategy === "lru") this.#ranks[key.index] = -key.lastUsedAt;
    // The most of its day left; without a limit it never runs out.
    if (this.strategy === "quota")
      this.#ranks[key.index] = key.dailyLimit === null ? 2 : 1 - key.today / key.dailyLimit;
  }

  #walk(need: KeyNeed, modelState: ModelState | null, now: number, account: string | null): Key | null {
    const { keys } = this;
    const count = keys.length;
    const { strategy } = this;
    const isAffine = strategy === "affinity" && need.conversation !== null;
    const takesFirst = !isAffine && strategy !== "lru" && strategy !== "quota";
    const laneAt = modelState?.readyAt ?? this.#accountAt;
    let best: Key | null = null;
    let bestRank = -Infinity;
    let second: Key | null = null;
    let secondIsDenied = true;
    let earliest = Infinity;
    let anyEarliest = Infinity;
    let anyDepends = false;
    let anyUsable = false;
    let isEvent = false;
    let hasSuited = false;
    for (let step = 0; step < count; step++) {
      let index = this.#cursor + step;
      if (index >= count) index -= count;
      const place = this.#accountOf[index]!;
      const ownAt = this.#keyAt[index]!;
      if (ownAt === Infinity) continue;
      anyUsable = true;
      let at = Math.max(ownAt, this.#accountAt[place]!, laneAt[place]!);
      if (at < anyEarliest) anyEarliest = at;
      if (at >= AFTER_AN_EVENT) anyDepends = true;
      const key = keys[index]!;
      if (account !== null && accountName(key) !== account) continue;
      if (need.unsuited.size > 0 && need.unsuited.has(key)) continue;
      hasSuited = true;
      const wasTried = need.tried.size > 0 && need.tried.has(key);
      if (wasTried && at <= now) at = Math.max(at, need.reuseAt);
      if (at > now) {
        if (at >= AFTER_AN_EVENT) isEvent = true;
        else if (at < earliest) earliest = at;
        continue;
      }
      const isDenied = modelState !== null && modelState.deniedUntil[place]! > now;
      if (wasTried || isDenied) {
        // What may not have the model is asked last of all, to learn whether that is still so.
        if (second === null || (secondIsDenied && !isDenied)) {
          second = key;
          secondIsDenied = isDenied;
        }
        continue;
      }
      if (takesFirst) {
        best = key;
        break;
      }
      const rank = isAffine ? rendezvous(need.conversation ?? 0, this.#seeds[index]!) : this.#ranks[index]!;
      if (rank > bestRank) {
        best = key;
        bestRank = rank;
      }
    }
    const found = best ?? second;
    if (found !== null) {
      this.#cursor = strategy === "sticky" ? found.index : (found.index + 1) % count;
      return found;
    }
    this.readyAt = earliest;
    this.dependsOnOthers = isEvent;
    this.hasSuited = hasSuited;
    this.othersReadyAt = anyEarliest;
    const inVain = modelState?.inVain ?? this.#inVain;
    inVain.before = anyEarliest;
    inVain.version = this.#version;
    inVain.depends = anyDepends;
    inVain.anyUsable = anyUsable;
    return null;
  }
}

/** Whether a key may serve a request that refers to what one account alone has. */
export function isBoundTo(key: Key, { boundTo }: Pick<KeyNeed, "boundTo">): boolean {
  return boundTo === null || accountName(key) === boundTo;
}

/** The accounts that some key in use belongs to, in the order of the configuration. */
export function accountNames(keys: readonly Key[]): string[] {
  return [...new Set(keys.filter(({ disabled }) => disabled === null).map(accountName))];
}

/** What an account is called where resources are remembered: its label, or its only key. */
export function accountName(key: Key): string {
  return key.account ?? key.secret.id;
}

/** How well `conversation` goes with the key of this seed: it belongs to the key where this is highest. */
export function rendezvous(conversation: number, keySeed: number): number {
  // MurmurHash3's finalizer: every bit of both numbers reaches every bit of the result.
  let mixed = conversation ^ Math.imul(keySeed, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** The number that stands for a key in `rendezvous`. `id` names it, and is the same after a restart. */
export function seedOf(id: string): number {
  return Bun.hash.xxHash32(id);
}
