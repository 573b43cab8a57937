/**
 * How many failures of an upstream may be answered by another attempt (P7): when it is in trouble, retries must not
 * multiply what it has to bear.
 *
 * Over any 10 s they are at most 3, or a fifth of the requests of these 10 s where that is more. "Any" is meant: also
 * over the 10 s that begin with an earlier retry, of which only the requests up to now are certain. So the retries
 * and requests since each of them are compared, not those of a trailing window, in which the requests before a
 * failure would let a whole burst of retries come after it.
 *
 * Let retries be numbered, and `c` be how many requests came before retry `i`. The retries from `i` to a new one `n`
 * are too many unless `requests - c >= 5 * (n - i + 1)`, which is `requests - 5 * (n + 1) >= c - 5 * i`. The right
 * side is a number that `i` never changes: of each second only the largest is kept, and nothing grows.
 */

/** Beyond the three that are always allowed, one retry is allowed for so many requests. */
const REQUESTS_PER_RETRY = 5;
const WINDOW_MS = 10_000;
const SLOT_MS = 1000;
/** Seconds of which a window of 10 s may touch a part. */
const SLOTS = WINDOW_MS / SLOT_MS + 1;

/** The budget of one upstream. */
export class RetryBudget {
  #requests = 0;
  /** How many of them came before this very millisecond. */
  #requestsBefore = 0;
  #retries = 0;
  /** Epoch ms of the latest call: a clock that is set back a little must not move a retry out of its window. */
  #latest = -Infinity;
  /** The last two retries are not among the marks: with a new one they make three, which are always allowed. */
  #lastAt = -Infinity;
  #lastMark = 0;
  #lastButOneAt = -Infinity;
  #lastButOneMark = 0;
  /** Of each second, in turn: which second, and the largest mark of a retry in it. */
  readonly #seconds = new Float64Array(SLOTS).fill(-Infinity);
  readonly #marks = new Float64Array(SLOTS);

  /** A request is about to be sent upstream for the first time. */
  countRequest(now: number): void {
    this.#turn(now);
    this.#requests += 1;
  }

  /** Whether another retry is allowed now. */
  hasRoom(now: number): boolean {
    this.#turn(now);
    const least = this.#requests - REQUESTS_PER_RETRY * (this.#retries + 1);
    const firstSecond = Math.floor((this.#latest - WINDOW_MS) / SLOT_MS);
    for (let slot = 0; slot < SLOTS; slot++) {
      if (this.#seconds[slot]! >= firstSecond && this.#marks[slot]! > least) return false;
    }
    return true;
  }

  /** A retry is about to be made. */
  spend(now: number): void {
    this.#turn(now);
    this.#keep(this.#lastButOneAt, this.#lastButOneMark);
    this.#lastButOneAt = this.#lastAt;
    this.#lastButOneMark = this.#lastMark;
    this.#lastAt = this.#latest;
    this.#lastMark = this.#requestsBefore - REQUESTS_PER_RETRY * this.#retries;
    this.#retries += 1;
  }

  /** Takes a retry where one is allowed. */
  tryRetry(now: number): boolean {
    const isAllowed = this.hasRoom(now);
    if (isAllowed) this.spend(now);
    return isAllowed;
  }

  #turn(now: number): void {
    if (now < this.#latest - WINDOW_MS) this.#setBack(now);
    if (now <= this.#latest) return;
    this.#latest = now;
    this.#requestsBefore = this.#requests;
  }

  /** The clock was set back, who knows by how much: all that is kept counts as if it were of this moment. */
  #setBack(now: number): void {
    const marks = this.#marks.filter((_, slot) => this.#seconds[slot]! > -Infinity);
    this.#seconds.fill(-Infinity);
    this.#latest = now;
    this.#requestsBefore = this.#requests;
    for (const mark of marks) this.#keep(now, mark);
    if (this.#lastAt > now) this.#lastAt = now;
    if (this.#lastButOneAt > now) this.#lastButOneAt = now;
  }

  #keep(at: number, mark: number): void {
    if (at < this.#latest - WINDOW_MS) return;
    const second = Math.floor(at / SLOT_MS);
    const slot = second % SLOTS;
    const isSame = this.#seconds[slot] === second;
    this.#marks[slot] = isSame ? Math.max(mark, this.#marks[slot]!) : mark;
    this.#seconds[slot] = second;
  }
}
