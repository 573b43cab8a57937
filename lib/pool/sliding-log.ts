/**
 * When the last requests went out, exactly: a ring of instants that is as long as it has to be.
 */

const FIRST_LENGTH = 16;
/** What went out before the last so many is not remembered. */
export const LONGEST_HISTORY = 2048;

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
