/** How requests begin again after a refusal. Pure. */

/** A provider that refuses does so at once; one that serves may take its time. */
const REFUSAL_COMES_WITHIN_MS = 3000;
/** So many at once without a refusal: nothing is limited any more. */
const SLOW_START_ENDS_AT = 64;

/**
 * What comes back after a refusal is asked once, then twice, then four times: else all who waited for it would get it
 * refused again at once.
 */
export class SlowStart {
  /** How many attempts may be undecided at once; 0: any number. */
  #allowed = 0;
  #lastAt = 0;
  /** Attempts whose answer has not begun. */
  undecided = 0;

  /** It has not ended. */
  get isOn(): boolean {
    return this.#allowed > 0;
  }

  get readyAt(): number {
    if (this.#allowed === 0 || this.undecided < this.#allowed) return 0;
    return this.#lastAt + REFUSAL_COMES_WITHIN_MS;
  }

  onSent(now: number): void {
    this.undecided += 1;
    this.#lastAt = now;
  }

  /** A response has started: one attempt more, which from round to round is twice as many. */
  onResponseStarted(): void {
    this.undecided -= 1;
    if (this.#allowed > 0) this.#allowed = this.#allowed + 1 < SLOW_START_ENDS_AT ? this.#allowed + 1 : 0;
  }

  /** An attempt ended before any response. */
  onFailed(): void {
    this.undecided -= 1;
  }

  /** It was refused: begin again with one. */
  restart(): void {
    this.#allowed = 1;
  }
}
