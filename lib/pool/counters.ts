/** What limits are counted with: a bucket of tokens, and a log of when the last requests went out. Pure. */

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

  onSent(now: number): void {
    if (this.intervalMs > 0) this.#paidAt = Math.max(this.#paidAt, now) + this.intervalMs;
  }

  /** One that went out was not counted. */
  refund(): void {
    this.#paidAt -= this.intervalMs;
  }

  /** Epoch ms from which one more may go out; in the past where it may now. */
  get readyAt(): number {
    return this.intervalMs > 0 ? this.#paidAt - (this.burst - 1) * this.intervalMs : 0;
  }

  /** Whether nothing was owed for longer than one interval: all of a burst may go out. */
  isFull(now: number): boolean {
    return now > this.#paidAt + this.intervalMs;
  }

  /** Another pace, or other bursts; when the next one may go out stays as it was. */
  follow(intervalMs: number, burst: number): void {
    const { readyAt } = this;
    this.intervalMs = intervalMs;
    this.burst = burst;
    this.fitsAt(readyAt);
  }

  /** It is known that the next one fits at `at` (epoch ms), and no other before it. */
  fitsAt(at: number): void {
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

const FIRST_LENGTH = 16;
/** What went out before the last so many is not remembered. */
export const LONGEST_HISTORY = 2048;

/** When the last requests went out, exactly: a ring of instants that is as long as it has to be. */
export class SlidingLog {
  #times = new Float64Array(0);
  /** Where the next one goes. */
  #next = 0;
  size = 0;
  readonly #longest: number;

  /** `longest`: how many it has to remember at most. */
  constructor(longest = LONGEST_HISTORY) {
    this.#longest = longest;
  }

  /** `at`: epoch ms, no earlier than the last. `keptFromAt`: what is older need not be remembered. */
  add(at: number, keptFromAt: number): void {
    if (this.size === this.#times.length && (this.size === 0 || this.last(this.size) >= keptFromAt))
      this.#grow();
    if (this.#times.length === 0) return;
    this.#times[this.#next] = at;
    this.#next = (this.#next + 1) % this.#times.length;
    if (this.size < this.#times.length) this.size += 1;
  }

  #grow(): void {
    const length = Math.min(Math.max(FIRST_LENGTH, this.#times.length * 2), this.#longest);
    if (length === this.#times.length) return;
    const times = new Float64Array(length);
    for (let nth = 0; nth < this.size; nth++) times[nth] = this.last(this.size - nth);
    this.#times = times;
    this.#next = this.size;
  }

  /** When the `nth` last went out, counted from 1; -Infinity: there were not so many. */
  last(nth: number): number {
    if (nth < 1 || nth > this.size) return -Infinity;
    const { length } = this.#times;
    return this.#times[(this.#next - nth + length) % length] ?? -Infinity;
  }

  /** How many went out at `at` or later. */
  countSince(at: number): number {
    let low = 0;
    let high = this.size;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.last(middle) >= at) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Takes out one that went out at exactly `at`, where it is still remembered. */
  remove(at: number): void {
    const nth = this.countSince(at);
    if (nth === 0 || this.last(nth) !== at) return;
    const { length } = this.#times;
    for (let moved = nth; moved > 1; moved--) {
      this.#times[(this.#next - moved + length) % length] = this.last(moved - 1);
    }
    this.#next = (this.#next - 1 + length) % length;
    this.size -= 1;
  }

  copyFrom(other: SlidingLog): void {
    this.#times = new Float64Array(0);
    this.#next = 0;
    this.size = 0;
    for (let nth = Math.min(other.size, this.#longest); nth > 0; nth--) this.add(other.last(nth), -Infinity);
  }
}
