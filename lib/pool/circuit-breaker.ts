/**
 * Whether a provider is left alone for a while: a circuit breaker.
 *
 * It stands open for a moment, then one attempt goes through, and what comes of that decides. One breaker watches for
 * failures of the upstream, which say nothing about keys; another for refusals of everybody, which say nothing about
 * keys either.
 */

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
const PROBE_DECIDES_WITHIN_MS = 3000;

export class CircuitBreaker {
  readonly #rules: BreakerRules;
  #failuresInRow = 0;
  #openMs = 0;
  #openUntil = 0;
  #probing = false;
  /** Epoch ms from which another attempt may try beside a probe that is long in deciding. */
  #probeUntil = Infinity;

  constructor(rules: BreakerRules = FAULTS) {
    this.#rules = rules;
  }

  /** Epoch ms until which nobody is sent; in the past where the way is free. */
  get openUntil(): number {
    return this.#openUntil;
  }

  /** Nothing is wrong: the way is free without asking for the time. */
  get isQuiet(): boolean {
    return this.#failuresInRow < this.#rules.opensAfter;
  }

  /** `open` until `openUntil`; `half_open`: one attempt may try; `probing`: it is under way. */
  state(now: number): "closed" | "open" | "half_open" | "probing" {
    if (this.#failuresInRow < this.#rules.opensAfter) return "closed";
    if (now < this.#openUntil) return "open";
    return this.#probing && now < this.#probeUntil ? "probing" : "half_open";
  }

  get probeUntil(): number {
    return this.#probeUntil;
  }

  /** The one attempt of a half-open breaker is on its way. A good answer may take minutes: others need not wait. */
  probe(now = Infinity): void {
    this.#probing = true;
    this.#probeUntil = now + PROBE_DECIDES_WITHIN_MS;
  }

  /** The probe ended without saying anything about the upstream: the next one may try. */
  probeAbandoned(): void {
    this.#probing = false;
  }

  /** The upstream answered, whatever it said. */
  answered(): void {
    this.#failuresInRow = 0;
    this.#openMs = 0;
    this.#openUntil = 0;
    this.#probing = false;
  }

  /**
   * The upstream failed. `leastMs`: it asked to be left alone for at least so long. Returns for how many ms that opens
   * the breaker; 0 where it does not.
   */
  failed(now: number, wasProbe: boolean, leastMs = 0): number {
    this.#failuresInRow += 1;
    if (wasProbe) this.#probing = false;
    // Attempts that were under way when it opened fail too; they do not open it again.
    if (this.#failuresInRow !== this.#rules.opensAfter && !wasProbe) return 0;
    const { firstOpenMs, longestOpenMs } = this.#rules;
    this.#openMs = Math.min(this.#openMs === 0 ? firstOpenMs : this.#openMs * 2, longestOpenMs);
    const openMs = Math.max(this.#openMs, leastMs);
    this.#openUntil = Math.max(this.#openUntil, now + openMs);
    return openMs;
  }
}
