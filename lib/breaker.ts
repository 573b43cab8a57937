/**
 * Whether a provider is left alone for a while: the circuit breaker of one upstream.
 *
 * Failures of an upstream say nothing about keys. After a few in a row nobody is sent there for a moment, then one
 * attempt is, and what comes of that decides.
 */

const OPENS_AFTER_FAILURES = 5;
const FIRST_OPEN_MS = 2000;
const LONGEST_OPEN_MS = 15_000;
/** An upstream that is still down mostly says so within this time. */
const PROBE_DECIDES_WITHIN_MS = 3000;

export class Breaker {
  #failuresInRow = 0;
  #openMs = 0;
  #openUntil = 0;
  #probing = false;
  /** Epoch ms from which another attempt may try beside a probe that is long in deciding. */
  #probeUntil = Infinity;

  /** Epoch ms until which nobody is sent; in the past where the way is free. */
  get openUntil(): number {
    return this.#openUntil;
  }

  /** `open` until `openUntil`; `half_open`: one attempt may try; `probing`: it is under way. */
  state(now: number): "closed" | "open" | "half_open" | "probing" {
    if (now < this.#openUntil) return "open";
    if (this.#failuresInRow < OPENS_AFTER_FAILURES) return "closed";
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

  /** The upstream failed. Returns for how many ms that opens the breaker; 0 where it does not. */
  failed(now: number, wasProbe: boolean): number {
    this.#failuresInRow += 1;
    if (wasProbe) this.#probing = false;
    // Attempts that were under way when it opened fail too; they do not open it again.
    if (this.#failuresInRow !== OPENS_AFTER_FAILURES && !wasProbe) return 0;
    this.#openMs = Math.min(this.#openMs === 0 ? FIRST_OPEN_MS : this.#openMs * 2, LONGEST_OPEN_MS);
    this.#openUntil = now + this.#openMs;
    return this.#openMs;
  }
}
