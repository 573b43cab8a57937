/**
 * What passes between a request and the pool: what the request needs, the right to use a key, and how that ended.
 */
import type { ProviderConfig } from "../config/config.ts";
import type { Budgets } from "../providers/rate-limit-headers.ts";
import type { NoKey, Outcome, Verdict } from "../providers/verdict.ts";
import type { CircuitBreaker } from "./circuit-breaker.ts";
import type { Key, KeyReport, ModelLimits } from "./key.ts";
import type { KeyNeed } from "./selection.ts";

/** The keys of one provider, as everybody but the pool itself sees them. Instants are epoch milliseconds. */
export interface KeyPool {
  /** In the order of the configuration. */
  readonly keys: readonly Key[];
  /** Opened by failures of the upstream. */
  readonly breaker: CircuitBreaker;
  /** How many requests wait for a key. */
  readonly waiting: number;
  /** Until when the provider is left alone; in the past where it is not. */
  readonly pausedUntil: number;
  /** Other settings from now on. Keys that stay keep all that is known of them; requests under way go on. */
  reconfigure(config: ProviderConfig, maxCooldownMs: number): void;
  /** A key now, or in this request's turn, or why there will be none in time. Resolves when the client leaves. */
  acquire(need: Need): Lease | NoKey | Promise<Lease | NoKey>;
  /** A key now, or why there is none. `account`: only a key of this one; else of the one that `need` is bound to. */
  lease(need: Need, now: number, account?: string): Lease | NoKey;
  /** The answer has started: the key's limit does not stand in its way. `limits`: what the answer announced. */
  responseStarted(lease: Lease, outcome: Verdict, now: number, limits: Budgets | null): void;
  /** Ends a lease with what came of it. A second call for the same lease does nothing. */
  settle(lease: Lease, outcome: Outcome, now: number, limits?: Budgets | null): void;
  /** Why this need gets no key any more: when the first is free again, or that none ever is. */
  forecast(need: Need, now: number): NoKey;
  /** The keys as `/health` shows them. */
  report(now: number): KeyReport[];
  /** Takes a key out by hand, or puts it back in. */
  setPaused(key: Key, isPaused: boolean, now: number): void;
  /** Brings a key back at once, whatever it rests or was taken out for. */
  revive(key: Key, now: number): void;
  /** Takes a key out of use: upstream said that it is dead, or a check found it so. */
  disable(key: Key, said: string, now: number): void;
}

/** The right to use a key for one attempt. It ends once, by `Pool.settle`. */
export interface Lease {
  readonly kind: "lease";
  readonly key: Key;
  readonly need: Need;
  readonly at: number;
  /** What is known of its model with this key's account; null: nothing. */
  readonly limits: ModelLimits | null;
  /** The day on which it counts, by the date of its end. */
  readonly dayEndsOn: number;
  /** This attempt tries whether the upstream is back. */
  readonly isProbe: boolean;
  /** When its answer began; 0: it has not. */
  admittedAt: number;
  /** What `admittedAt` of the account was before: it counts again if this answer breaks off. */
  admittedBefore: number;
  settled: boolean;
}

/** What the pool must know of a request to choose a key for it, and when. */
export interface Need extends KeyNeed {
  /** Place in the queue: the number of the request. */
  readonly arrival: number;
  /** It does not wait for a key beyond this. */
  readonly waitUntil: number;
  readonly signal: AbortSignal;
}

/** Whether waiting cannot help: no key comes free before this request has to be answered. */
export function isHopeless(result: NoKey, need: Need, now: number): boolean {
  return now >= need.waitUntil || result.readyAt > need.waitUntil;
}

/** Whether the provider counts an attempt against the key's day: not one that it refused, or that never began. */
export function isCounted(lease: Lease, outcome: Outcome): boolean {
  switch (outcome.kind) {
    case "served":
    case "rejected":
      return true;
    case "overloaded":
    case "unreachable":
      return lease.admittedAt > 0 || outcome.maybeBilled;
    case "abandoned":
      return lease.admittedAt > 0;
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
