/**
 * Whether a provider is left alone for a while, because it fails or refuses everybody.
 *
 * `CircuitBreaker`: open for a moment, then one attempt goes through as a trial, and what comes of that decides. One
 * breaker watches for failures of the upstream, another for refusals of everybody; neither says anything about keys.
 * `ModelBreakers`: one for each model that fails, so that a broken model keeps nobody from the others (P40).
 * `SharedLimit`: a rate that all keys together have to keep to, such as a limit on our address.
 */
import { HOUR_MS, MINUTE_MS, SECOND_MS } from "../core/clock.ts";
import { RateLimiter } from "./rate-limiter.ts";
import { SlowStart } from "./slow-start.ts";

export interface BreakerRules {
  /** Failures in a row that open it. */
  opensAfter: number;
  /** How long it stands open the first time; doubled while it goes on. */
  firstOpenMs: number;
  longestOpenMs: number;
}

/** P10: failures of the upstream. */
export const FAULTS: BreakerRules = { opensAfter: 5, firstOpenMs: 2000, longestOpenMs: 15_000 };
/** P11: the upstream refuses everybody. */
export const REFUSES_ALL: BreakerRules = { opensAfter: 1, firstOpenMs: 5000, longestOpenMs: 60_000 };

/** An upstream that is still down mostly says so within this time. */
const TRIAL_DECIDES_WITHIN_MS = 3000;

export class CircuitBreaker {
  readonly #rules: BreakerRules;
  #failuresInRow = 0;
  #hasOpened = false;
  #openMs = 0;
  #openUntil = 0;
  #isOnTrial = false;
  /** Epoch ms from which another attempt may try beside a trial that takes long. */
  #nextTrialAt = Infinity;

  constructor(rules: BreakerRules = FAULTS) {
    this.#rules = rules;
  }

  /** Epoch ms until which nobody is sent; in the past where the way is free. */
  get openUntil(): number {
    return this.#openUntil;
  }

  /** Nothing is wrong: the way is free without asking for the time. */
  get isQuiet(): boolean {
    return !this.#hasOpened;
  }

  /** `open` until `openUntil`; `half_open`: one attempt may try; `trial`: it is under way. */
  state(now: number): "closed" | "open" | "half_open" | "trial" {
    if (this.isQuiet) return "closed";
    if (now < this.#openUntil) return "open";
    return this.#isOnTrial && now < this.#nextTrialAt ? "trial" : "half_open";
  }

  /** Epoch ms from which it lets an attempt through; in the past where it does now. */
  readyAt(now: number): number {
    const state = this.state(now);
    if (state === "open") return this.#openUntil;
    return state === "trial" ? this.#nextTrialAt : 0;
  }

  /** The one attempt of a half-open breaker goes out. A good answer may take minutes: others need not wait for it. */
  startTrial(now = Infinity): void {
    this.#isOnTrial = true;
    this.#nextTrialAt = now + TRIAL_DECIDES_WITHIN_MS;
  }

  /** The trial ended without saying anything about the upstream: the next one may try. */
  abandonTrial(): void {
    this.#isOnTrial = false;
  }

  /** Another instance that shares the pool found it open until then. */
  openElsewhere(until: number): void {
    this.#hasOpened = true;
    this.#openUntil = Math.max(this.#openUntil, until);
  }

  /** The upstream answered, whatever it said. */
  onAnswered(): void {
    this.#failuresInRow = 0;
    this.#hasOpened = false;
    this.#openMs = 0;
    this.#openUntil = 0;
    this.#isOnTrial = false;
  }

  /**
   * The upstream failed. `leastMs`: it asked to be left alone for at least so long. Not `mayOpen`: it counts, and does
   * not open the breaker by itself. Returns for how many ms that opens the breaker; 0 where it does not.
   */
  onFailed(now: number, wasTrial: boolean, { leastMs = 0, mayOpen = true } = {}): number {
    this.#failuresInRow += 1;
    if (wasTrial) this.#isOnTrial = false;
    // Attempts that were under way when it opened fail too; they do not open it again.
    const opens = mayOpen && !this.#hasOpened && this.#failuresInRow >= this.#rules.opensAfter;
    if (!opens && !wasTrial) return 0;
    const { firstOpenMs, longestOpenMs } = this.#rules;
    this.#hasOpened = true;
    this.#openMs = Math.min(this.#openMs === 0 ? firstOpenMs : this.#openMs * 2, longestOpenMs);
    const openMs = Math.max(this.#openMs, leastMs);
    this.#openUntil = Math.max(this.#openUntil, now + openMs);
    return openMs;
  }
}

// ---- models that fail

/** Failing models that are remembered at most: names come from clients. */
const MOST_MODELS = 64;
/** So long after an answer of another model it is known that not the provider fails. */
const OTHERS_SHOW_MS = MINUTE_MS;

/** The models of a provider that fail, each with its breaker. One that answers again is forgotten. */
export class ModelBreakers {
  readonly #failing = new Map<string, CircuitBreaker>();
  /** The model that answered last, and when; and when another one last did. Epoch ms. */
  #lastAnswered: string | null = null;
  #lastAnsweredAt = -Infinity;
  #otherAnsweredAt = -Infinity;

  /** The breaker of the model that a request asks for; null: it does not fail. */
  of(need: { readonly model: string | null }): CircuitBreaker | null {
    if (this.#failing.size === 0 || need.model === null) return null; // the model is not looked for in vain
    return this.#failing.get(need.model) ?? null;
  }

  /** Those that are left alone, or on trial, and until when. */
  *open(): Generator<readonly [model: string, until: number]> {
    for (const [model, breaker] of this.#failing) if (!breaker.isQuiet) yield [model, breaker.openUntil];
  }

  forget(model: string): void {
    this.#failing.delete(model);
  }

  /** Whether another model fails as well. */
  hasOther(model: string): boolean {
    return this.#failing.size > (this.#failing.has(model) ? 1 : 0);
  }

  /** Whether no other model has answered lately, so that nothing tells whether the provider or the model fails. */
  isAlone(model: string, now: number): boolean {
    const at = this.#lastAnswered === model ? this.#otherAnsweredAt : this.#lastAnsweredAt;
    return now > at + OTHERS_SHOW_MS;
  }

  /** Epoch ms until which the only model that is asked for is left alone; 0: another one answers, or none is. */
  aloneUntil(now: number): number {
    if (this.#failing.size !== 1) return 0;
    for (const [model, breaker] of this.#failing) if (this.isAlone(model, now)) return breaker.openUntil;
    return 0;
  }

  /** A request for this model failed. Returns for how many ms that opens its breaker; 0 where it does not. */
  onFailed(model: string, now: number, wasTrial: boolean): number {
    return this.opened(model).onFailed(now, wasTrial);
  }

  /** The breaker of a model, made where there is none. */
  opened(model: string): CircuitBreaker {
    let breaker = this.#failing.get(model);
    if (breaker !== undefined) return breaker;
    const [oldest] = this.#failing.keys();
    if (this.#failing.size >= MOST_MODELS && oldest !== undefined) this.#failing.delete(oldest);
    breaker = new CircuitBreaker(FAULTS);
    this.#failing.set(model, breaker);
    return breaker;
  }

  /** A request for this model was answered. */
  onAnswered(model: string | null, now: number): void {
    if (model === null) return;
    if (this.#failing.size > 0) this.#failing.delete(model);
    if (model !== this.#lastAnswered) {
      this.#otherAnsweredAt = this.#lastAnsweredAt;
      this.#lastAnswered = model;
    }
    this.#lastAnsweredAt = now;
  }
}

// ---- a limit that all keys share

/** Refusals so far apart have nothing to do with each other. */
const WITHIN_MS = 10 * SECOND_MS;
/** So many keys refused alike have one cause, where a pool has so many. */
export const DISTINCT_KEYS = 3;
/** Limits on addresses count in minutes, like others. */
const WINDOW_MS = MINUTE_MS;
/** What nobody met for so long is over, or never was. */
const FORGOTTEN_AFTER_MS = HOUR_MS;

/** A rate refusal without a hint. */
export interface Suspicion {
  readonly account: object;
  /** What was refused: the client's request. */
  readonly request: object;
  /** The key may have been at a limit of its own. */
  readonly isNear: boolean;
  /** Epoch ms. */
  readonly at: number;
  /** Takes back what the refusal did to the key. */
  readonly undo: () => void;
}

/**
 * Whether several keys were refused for one reason that is no key's own, such as a limit on our address (P11), and how
 * fast all of them together may go on then.
 *
 * One refusal without a hint says little. When three different keys get one within seconds although none of them was
 * near a limit of its own, it is not about keys: the other keys are not asked, and what was done to the three is taken
 * back. From then on all keys share what such a limit lets through, as if they were one.
 */
export class SharedLimit {
  #suspicions: Suspicion[] = [];
  #limiter: RateLimiter | null = null;
  #slowStart = new SlowStart();
  /** What was sent before counts for nothing here; epoch ms. */
  #since = 0;
  /** When somebody last was refused for it, or had to wait; epoch ms. */
  #metAt = 0;

  /** Whether all keys together have shown a limit that still holds. */
  isKnown(now: number): boolean {
    return this.#limiter !== null && now <= this.#metAt + FORGOTTEN_AFTER_MS;
  }

  /** Epoch ms from which one more may be sent with any key; 0 where there is no common limit. */
  readyAt(now: number): number {
    if (this.#limiter === null) return 0;
    const readyAt = Math.max(this.#limiter.readyAt(now), this.#slowStart.readyAt);
    return readyAt > now || this.isKnown(now) ? readyAt : 0;
  }

  /** A request has to wait for it: what has held for a while is raised. Returns whether it was. */
  onBlocked(now: number): boolean {
    if (this.#limiter === null) return false;
    this.#metAt = now;
    return this.#limiter.onBlocked(now);
  }

  onSent(now: number): void {
    if (!this.isKnown(now)) this.#limiter = null;
    if (this.#limiter === null) return;
    this.#limiter.onSent(now);
    this.#slowStart.onSent(now);
  }

  /** Another instance that shares the pool sent one. */
  onSentElsewhere(now: number): void {
    if (this.isKnown(now)) this.#limiter?.onSentElsewhere(now, false);
  }

  /** The response to a request that was sent at `sentAt` (epoch ms) has started. */
  onResponseStarted(sentAt: number, now: number): void {
    if (this.#limiter === null || sentAt < this.#since) return;
    this.#limiter.onResponseStarted(now);
    this.#slowStart.onResponseStarted();
  }

  /** A request that was sent at `sentAt` (epoch ms) is over. */
  onEnded(
    sentAt: number,
    { hasStarted, isCounted }: { hasStarted: boolean; isCounted: boolean },
    now: number,
  ): void {
    if (this.#limiter === null || sentAt < this.#since) return;
    this.#limiter.onEnded({ hasStarted }, now);
    if (!hasStarted) this.#slowStart.onFailed();
    if (!isCounted) this.#limiter.refund(sentAt);
  }

  /**
   * One key was refused. Returns whether that makes it a common cause; then what was done to the keys has been undone.
   * `accounts`: how many there are to compare. Keys that were near their limits count only where one and the same
   * request was refused by several, and go on cooling: it may be their own after all. Once such a limit is known, and
   * nearly used up, one refusal is enough.
   */
  onRefusedOne(suspicion: Suspicion, accounts: number): boolean {
    const { request, isNear, at } = suspicion;
    this.#suspicions = this.#suspicions.filter((other) => other.at > at - WITHIN_MS);
    this.#suspicions.push(suspicion);
    const distinct = (suspicions: readonly Suspicion[]) =>
      new Set(suspicions.map(({ account }) => account)).size;
    const surprising = distinct(this.#suspicions.filter((other) => !other.isNear));
    const ofRequest = distinct(this.#suspicions.filter((other) => other.request === request));
    const several = Math.min(DISTINCT_KEYS, accounts);
    const enough = !isNear && this.#limiter?.isNearlyUsedUp(at) ? 1 : several;
    if (accounts < 2 || (surprising < enough && ofRequest < several)) return false;
    for (const { isNear, undo } of this.#suspicions.toReversed()) if (!isNear) undo();
    this.#suspicions = [];
    return true;
  }

  /** Everybody was refused: a request that was sent at `sentAt`, which has ended. */
  onRefusedAll(sentAt: number, now: number): void {
    if (this.#limiter === null || !this.isKnown(now)) {
      this.#limiter = new RateLimiter({ kind: "learnt" });
      this.#slowStart = new SlowStart();
      this.#since = now;
    }
    this.#metAt = now;
    this.#slowStart.restart();
    if (sentAt < this.#since) return;
    this.#limiter.onRefused({ sentAt, namedMs: null, restMs: WINDOW_MS, reason: "rate_limit" }, now);
  }
}
