/**
 * What to do about a setback: the whole retry policy, as one pure function.
 */
import type { Setback } from "../providers/verdict.ts";

/** What was spent on a request so far. */
export interface Progress {
  attempts: number;
  /** Attempts repeated although the provider may have done, and billed, the work. */
  maybeBilledReplays: number;
  /** Failures of this upstream so far: the exponent of the backoff. */
  upstreamFaults: number;
}

export interface Policy {
  maxAttempts: number;
  /** Epoch ms: no wait goes beyond it. */
  waitUntil: number;
  /** Another target stands behind this one. */
  hasFallback: boolean;
  /** The retry budget has room for a retry of this upstream's faults (P7). */
  mayRetry: boolean;
}

export type Decision =
  /** Another key at once; one that was tried already not before `reuseAt` (epoch ms). */
  | { do: "rotate"; reuseAt: number }
  /** The same upstream again, after this long. */
  | { do: "back_off"; pauseMs: number; replaysMaybeBilled: boolean }
  /** The next target at once. */
  | { do: "fall_back"; replaysMaybeBilled: boolean }
  | { do: "give_up" };

const BACKOFF_FIRST_MS = 250;
const BACKOFF_LONGEST_MS = 4000;
/** A failure that may have been billed is repeated this often for one request. */
const MAYBE_BILLED_REPLAYS = 1;
/** Where another target stands behind, an upstream that failed this often is taken to be down. */
const FAULTS_BEFORE_FALLBACK = 2;

/** What to do about a setback. `jitter` is a random number from 0 up to 1, `now` epoch ms. */
export function decide(
  setback: Setback,
  progress: Progress,
  policy: Policy,
  now: number,
  jitter: number,
): Decision {
  const { hasFallback } = policy;
  const isSpent = progress.attempts >= policy.maxAttempts;
  switch (setback.kind) {
    case "abandoned": // nobody is left to answer
      return { do: "give_up" };
    case "no_key": // the pool has waited already, or knows that waiting is in vain
      return hasFallback && !isSpent ? { do: "fall_back", replaysMaybeBilled: false } : { do: "give_up" };
    case "rate_limited":
    case "exhausted":
    case "revoked":
    case "unsuited":
      if (isSpent) return { do: "give_up" };
      return { do: "rotate", reuseAt: now + backoffMs(progress.attempts, jitter) };
    case "overloaded":
    case "unreachable": {
      const replaysMaybeBilled = setback.maybeBilled;
      if (isSpent) return { do: "give_up" };
      if (replaysMaybeBilled && progress.maybeBilledReplays >= MAYBE_BILLED_REPLAYS) return { do: "give_up" };
      // The one replay that may be billed twice goes where it is likelier to be answered.
      const isDown = replaysMaybeBilled || progress.upstreamFaults + 1 >= FAULTS_BEFORE_FALLBACK;
      if (hasFallback && (isDown || !policy.mayRetry)) return { do: "fall_back", replaysMaybeBilled };
      if (!policy.mayRetry) return { do: "give_up" };
      const hintMs = setback.kind === "overloaded" ? (setback.pauseMs ?? 0) : 0;
      const pauseMs = Math.max(hintMs, backoffMs(progress.upstreamFaults + 1, jitter));
      if (now + pauseMs <= policy.waitUntil) return { do: "back_off", pauseMs, replaysMaybeBilled };
      return hasFallback ? { do: "fall_back", replaysMaybeBilled } : { do: "give_up" };
    }
  }
}

/** Exponential, between half and the whole of its step, so that retries of many requests do not fall together. */
function backoffMs(step: number, jitter: number): number {
  return Math.min(BACKOFF_FIRST_MS * 2 ** (step - 1), BACKOFF_LONGEST_MS) * (0.5 + jitter / 2);
}

// ---- the retry budget

/*
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
