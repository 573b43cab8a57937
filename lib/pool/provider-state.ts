/**
 * Whether a provider as a whole is up: what keeps a request from all of its keys alike.
 *
 * One breaker watches for failures of the upstream, one for refusals of everybody, and one for each model that fails.
 * Beside them stand the rate that all keys share, and the budget for retries of the upstream's faults.
 */
import type { NoKey, Outcome, Verdict } from "../providers/verdict.ts";
import {
  CircuitBreaker,
  DISTINCT_KEYS,
  FAULTS,
  ModelBreakers,
  REFUSES_ALL,
  SharedLimit,
} from "./circuit-breaker.ts";
import type { Lease, Need } from "./key.ts";
import { saidBy } from "./penalties.ts";
import { AFTER_AN_EVENT } from "./rate-limiter.ts";
import { RetryBudget } from "./retry-policy.ts";

/** Who is told that the provider is left alone for `forMs`, and that it is up again. */
export interface ProviderListener {
  onPaused(reason: "upstream_faults" | "common_cause", forMs: number, said: string, now: number): void;
  onUp(now: number): void;
}

/** A request that several keys refused waits so long for others to find out whether everybody is refused. */
const OTHERS_FIRST_MS = 3000;

type Fault = Extract<Outcome, { kind: "overloaded" | "unreachable" }>;

/** When it is the turn of this instance to try what may fail for all; in the past: now. */
export type TurnAt = (seed: number, now: number) => number;

export class ProviderState {
  /** null: no other instance shares the pool. */
  turnAt: TurnAt | null = null;
  /** Opened by failures of the upstream. */
  readonly breaker = new CircuitBreaker(FAULTS);
  /** Opened where the upstream refuses everybody. */
  readonly refusesAll = new CircuitBreaker(REFUSES_ALL);
  readonly retryBudget = new RetryBudget();
  readonly sharedLimit = new SharedLimit();
  readonly modelBreakers = new ModelBreakers();
  readonly #listener: ProviderListener;
  /** What upstream said that made it be left alone; empty: nothing, or it is not. */
  pauseSaid = "";
  /** It was told that the provider is paused, and not yet that it is up again. */
  isDown = false;
  /** When it was last up again; epoch ms. */
  #upAgainAt = 0;

  constructor(listener: ProviderListener) {
    this.#listener = listener;
  }

  /** Epoch ms until which the provider is left alone; in the past where it is not. */
  pausedUntil(now: number): number {
    return Math.max(this.breaker.openUntil, this.refusesAll.openUntil, this.modelBreakers.aloneUntil(now));
  }

  /** Whether nobody asks it for what this request asks for. */
  isPausedFor(need: Need, now: number): boolean {
    const modelUntil = this.modelBreakers.of(need)?.openUntil ?? 0;
    return Math.max(this.breaker.openUntil, this.refusesAll.openUntil, modelUntil) > now;
  }

  /** What keeps this request from all keys alike; null: nothing does. Changes nothing. */
  pauseFor(need: Need, now: number): NoKey | null {
    const { breaker, refusesAll, retryBudget, sharedLimit } = this;
    const { tried, deferredAt } = need;
    const closedUntil = Math.max(breaker.readyAt(now), refusesAll.readyAt(now));
    if (closedUntil > now) return { kind: "no_key", readyAt: closedUntil, why: "paused" };
    const turnAt = this.turnAt === null ? 0 : this.#trialTurn(need, this.turnAt, now);
    if (turnAt > now) return { kind: "no_key", readyAt: turnAt, maybeSooner: true, why: "paused" };
    const modelUntil = this.modelBreakers.of(need)?.readyAt(now) ?? 0;
    if (modelUntil > now) return { kind: "no_key", readyAt: modelUntil, why: "paused", isOwn: true };
    // It may be refused for what it asks for: whether everybody still is, others find out before it does.
    const asideUntil =
      tried.size >= DISTINCT_KEYS && !refusesAll.isQuiet ? refusesAll.openUntil + OTHERS_FIRST_MS : 0;
    if (asideUntil > now) return { kind: "no_key", readyAt: asideUntil, why: "cooling", isOwn: true };
    const retryAt = this.#isRetry(deferredAt) ? retryBudget.readyAt : 0;
    if (retryAt > now)
      return { kind: "no_key", readyAt: retryAt, maybeSooner: true, isOwn: true, why: "paused" };
    const sharedAt = sharedLimit.readyAt(now);
    if (sharedAt <= now) return null;
    const isEvent = sharedAt >= AFTER_AN_EVENT;
    return { kind: "no_key", readyAt: isEvent ? Infinity : sharedAt, maybeSooner: isEvent, why: "paused" };
  }

  /** Of instances that share the pool one at a time finds out whether the upstream is back. */
  #trialTurn(need: Need, turnAt: TurnAt, now: number): number {
    return this.isOnTrial(need) ? turnAt(0, now) : 0;
  }

  /** Whether a request for this finds out whether the upstream is back. */
  isOnTrial(need: Pick<Need, "model">): boolean {
    if (!this.breaker.isQuiet || !this.refusesAll.isQuiet) return true;
    return !(this.modelBreakers.of(need)?.isQuiet ?? true);
  }

  /**
   * Whether a request that was deferred still needs room for a retry: not as a trial, nor once the upstream is back.
   */
  #isRetry(deferredAt: number): boolean {
    return deferredAt > this.#upAgainAt && this.breaker.isQuiet && this.refusesAll.isQuiet;
  }

  /** A request goes out. Returns whether it is a trial, which finds out whether the upstream is back. */
  onSent(need: Need, now: number): boolean {
    const { breaker, refusesAll } = this;
    const isTrial = this.isOnTrial(need);
    if (this.#isRetry(need.deferredAt)) this.retryBudget.spend(now);
    this.sharedLimit.onSent(now);
    if (!isTrial) return false;
    breaker.startTrial(now);
    refusesAll.startTrial(now);
    this.modelBreakers.of(need)?.startTrial(now);
    return true;
  }

  onResponseStarted(lease: Lease, outcome: Verdict, now: number): void {
    this.sharedLimit.onResponseStarted(lease.at, now);
    if (outcome.kind !== "overloaded") this.#onAnswered(lease, now);
  }

  /** An attempt has ended. `maxPauseMs`: the longest pause that the upstream may ask for. */
  onEnded(lease: Lease, outcome: Outcome, maxPauseMs: number, now: number): void {
    const { breaker, refusesAll } = this;
    const { account } = lease.key;
    const isTrial = lease.isTrial && lease.startedAt === 0;
    switch (outcome.kind) {
      case "overloaded":
      case "unreachable":
        account.faultsInRow += 1;
        if (outcome.kind === "unreachable" || !outcome.refusesAll)
          this.#onFault(outcome, lease, isTrial, now);
        else this.#onRefusedAll(Math.min(outcome.pauseMs ?? 0, maxPauseMs), outcome.said, isTrial, now);
        return;
      case "abandoned":
        if (!isTrial) return;
        breaker.abandonTrial();
        refusesAll.abandonTrial();
        this.modelBreakers.of(lease.need)?.abandonTrial();
        return;
      case "rate_limited": // may be everybody's: `Penalties.limit` finds out
        account.faultsInRow = 0;
        breaker.onAnswered();
        this.modelBreakers.onAnswered(lease.need.model, now);
        if (isTrial) refusesAll.abandonTrial();
        return;
      case "served":
      case "rejected":
      case "exhausted":
      case "revoked":
      case "unsuited":
        this.#onAnswered(lease, now);
    }
  }

  #onRefusedAll(leastMs: number, said: string, isTrial: boolean, now: number): void {
    const openMs = this.refusesAll.onFailed(now, isTrial, { leastMs });
    this.refusesAll.abandonTrial();
    if (openMs > 0) this.onPaused("common_cause", openMs, said, now);
  }

  /** A fault is the model's, unless the connection itself failed, or two models fail (P10, P40). */
  #onFault(fault: Fault, { need }: Lease, isTrial: boolean, now: number): void {
    const { breaker } = this;
    const { model } = need;
    const isModels = model !== null && !isOfConnection(fault);
    const wasTrialOfModel = isTrial && !(this.modelBreakers.of(need)?.isQuiet ?? true);
    const modelMs = isModels ? this.modelBreakers.onFailed(model, now, wasTrialOfModel) : 0;
    const isOneModels = isModels && !this.modelBreakers.hasOther(model);
    const isScopeModel = fault.kind === "overloaded" && fault.scope === "model";
    const openMs = isScopeModel
      ? 0
      : breaker.onFailed(now, isTrial && !breaker.isQuiet, { mayOpen: !isOneModels });
    if (isTrial) this.refusesAll.abandonTrial();
    if (isTrial && isScopeModel) breaker.abandonTrial();
    const isAlone = modelMs > 0 && isOneModels && this.modelBreakers.isAlone(model, now);
    const pausedMs = Math.max(openMs, isAlone ? modelMs : 0);
    if (pausedMs > 0) this.onPaused("upstream_faults", pausedMs, saidBy(fault), now);
  }

  /** The upstream answered, and does not refuse everybody. */
  #onAnswered({ key, isTrial, at, need }: Lease, now: number): void {
    const { breaker, refusesAll } = this;
    key.account.faultsInRow = 0;
    breaker.onAnswered();
    this.modelBreakers.onAnswered(need.model, now);
    // What was sent before everybody was refused says nothing about now.
    if (isTrial || at >= refusesAll.openUntil) refusesAll.onAnswered();
    if (!this.isDown || !refusesAll.isQuiet) return;
    this.isDown = false;
    this.pauseSaid = "";
    this.#upAgainAt = now;
    this.#listener.onUp(now);
  }

  /** From now on the provider is left alone for `forMs`. */
  onPaused(reason: "upstream_faults" | "common_cause", forMs: number, said: string, now: number): void {
    this.isDown = true;
    this.pauseSaid = said;
    this.#listener.onPaused(reason, forMs, said, now);
  }
}

/** Whether the connection itself failed, which is the same for every model. */
function isOfConnection(fault: Fault): boolean {
  return (
    fault.kind === "unreachable" &&
    (fault.type === "upstream_unreachable" || fault.type === "connect_timeout")
  );
}
