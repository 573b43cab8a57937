/**
 * A steady pace, with some requests together where there was a pause before: the generic cell rate algorithm
 * (ITU-T I.371), which is a bucket of tokens seen from outside.
 */
export class TokenBucket {
  /** Between two requests at the steady pace; 0: there is no pace to keep. */
  intervalMs = 0;
  /** How many may go out together after a pause. */
  burst = 1;
  /** Epoch ms at which all that went out is paid for, at `intervalMs` each. */
  #paidAt = 0;

  get isOn(): boolean {
    return this.intervalMs > 0;
  }

  sends(now: number): void {
    if (this.intervalMs > 0) this.#paidAt = Math.max(this.#paidAt, now) + this.intervalMs;
  }

  /** One that went out was not counted. */
  uncounts(): void {
    this.#paidAt -= this.intervalMs;
  }

  /** Epoch ms from which one more may go out; in the past where it may now. */
  nextAt(): number {
    return this.intervalMs > 0 ? this.#paidAt - (this.burst - 1) * this.intervalMs : 0;
  }

  /** Whether nothing was owed for longer than one interval: all of a burst may go out. */
  isFull(now: number): boolean {
    return now > this.#paidAt + this.intervalMs;
  }

  /** Another pace, or other bursts; when the next one may go out stays as it was. */
  follow(intervalMs: number, burst: number): void {
    const nextAt = this.nextAt();
    this.intervalMs = intervalMs;
    this.burst = burst;
    this.knows(nextAt);
  }

  /** It is known that the next one fits at `at` (epoch ms), and no other before it. */
  knows(at: number): void {
    this.#paidAt = at + (this.burst - 1) * this.intervalMs;
  }

  /** It is known that what went out will not all be paid for before `at` (epoch ms). */
  owesUntil(at: number): void {
    this.#paidAt = Math.max(this.#paidAt, at);
  }

  stop(): void {
    this.intervalMs = 0;
    this.#paidAt = 0;
  }
}
