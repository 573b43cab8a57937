/**
 * What passes between a request and the pool: what the request needs, the right to use a key, and how that ended.
 */
import type { KeyNeed } from "./selection.ts";
import type { Key, ModelLimits } from "./key.ts";
import type { NoKey, Outcome } from "../providers/verdict.ts";

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
