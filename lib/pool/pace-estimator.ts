/**
 * How fast a limit lets requests through, measured by the rests that its refusals name.
 *
 * A refusal that names a rest says when one more fits. So between two of them the limit let through exactly what went
 * out, and took for it the time from one such instant to the other: whatever kind of limit it is, and the more
 * exactly the longer the time between. Rests are told in whole seconds, so a short time is not believed at once. A
 * limit may have been idle in between, or may have been raised: so a little more than what was measured is tried
 * whenever it has held for a while, and likewise with how many go out together. Each try costs a short rest at most.
 */
import type { TokenBucket } from "./token-bucket.ts";

/** Rests are rounded to this. */
const ROUNDING_MS = 1000;
/** A time this long is measured well enough. */
const TELLING_MS = 30_000;
/** What was measured over a longer time may hold no more. */
const LONGEST_SPAN_MS = 300_000;
/** A pace that went on this long, or for so many requests, has held; not for fewer than the last. */
const HOLDS_AFTER_MS = 60_000;
const HOLDS_AFTER_REQUESTS = 20;
const HOLDS_AFTER_LEAST = 8;
const FIRST_PATIENCE_MS = 60_000;
const LONGEST_PATIENCE_MS = 1_200_000;
/** Faster by this share: what is tried first, and the most that is tried at once. */
const FIRST_STEP = 0.01;
const LARGEST_STEP = 0.32;
/** A limit that bears so much more has been raised. */
const SURPRISING_STEP = 0.05;
/** Slower by this share than what was refused, where nothing better is known. */
const SLOWER = 0.004;
const SLOWER_WHERE_UNKNOWN = 0.1;

/** What had gone out when a refusal said that one more fits at `at` (epoch ms). */
interface Mark {
  readonly at: number;
  readonly count: number;
  readonly idleMs: number;
}
/** So many refusals are remembered. */
const MARKS = 8;
/** A time of which more was idle tells nothing of a pace. */
const MOST_IDLE = 0.15;

export class PaceEstimator {
  readonly #drip: TokenBucket;
  /** What went out before is not counted. */
  #begunAt = Infinity;
  /** Earlier refusals, from which on is measured: the oldest, and the last few. */
  #marks: Mark[] = [];
  /** What has gone out, and how long nothing stood in the way of it, in ms. */
  #count = 0;
  #idleMs = 0;
  /** The last change, and the last by a refusal: what went out before tells nothing of what holds now. */
  #changedAt = 0;
  #slowedAt = 0;
  #trialAt = 0;
  #step = FIRST_STEP;
  #patienceMs = FIRST_PATIENCE_MS;
  /** The pace that held before the one that is being tried; 0: none is. */
  #provenMs = 0;
  /** When last a whole burst could go out, and what had gone out by then. */
  #fullAt = -Infinity;
  #fullCount = 0;
  #burstTrialAt = 0;
  #burstPatienceMs = FIRST_PATIENCE_MS;

  constructor(drip: TokenBucket) {
    this.#drip = drip;
  }

  get isOn(): boolean {
    return this.#marks.length > 0;
  }

  /** Whether a request went out (epoch ms) before it began to measure: of the burst that was refused first. */
  isBefore(sentAt: number): boolean {
    return sentAt <= this.#begunAt;
  }

  /** A request goes out; told before the drip is. */
  sends(now: number): void {
    if (this.#drip.isFull(now)) {
      this.#fullAt = now;
      this.#fullCount = this.#count;
    }
    this.#idleMs += Math.max(0, now - this.#drip.nextAt());
    this.#count += 1;
  }

  /** One that went out at `sentAt` (epoch ms) was not counted. */
  uncounts(sentAt: number): void {
    if (sentAt >= this.#begunAt) this.#count -= 1;
  }

  /** A first refusal. `intervalMs`: the pace it suggests; `freeAt`: when one more fits (epoch ms). */
  begins(intervalMs: number, burst: number, freeAt: number, now: number): void {
    this.#begunAt = now;
    this.#slowedAt = now;
    this.#marks = [{ at: freeAt, count: this.#count, idleMs: this.#idleMs }];
    this.#changes(intervalMs, burst, now);
    this.#drip.knows(freeAt);
    this.#trialAt = now + this.#holdsAfterMs;
    this.#burstTrialAt = now + FIRST_PATIENCE_MS;
  }

  stop(): void {
    if (!this.isOn) return;
    this.#marks = [];
    this.#begunAt = Infinity;
    this.#drip.stop();
  }

  /** The pace stands in the way of a request: what has held for a while is raised. Says whether it was. */
  presses(now: number): boolean {
    const { intervalMs, burst } = this.#drip;
    if (this.#isInBurst(now)) {
      if (now < this.#burstTrialAt) return false;
      this.#drip.follow(intervalMs, burst + Math.ceil(burst / 4));
      this.#burstTrialAt = now + HOLDS_AFTER_MS;
      return true;
    }
    if (now < this.#trialAt) return false;
    if (this.#provenMs > 0) this.#step = Math.min(this.#step * 2, LARGEST_STEP);
    if (this.#step > SURPRISING_STEP) this.#patienceMs = FIRST_PATIENCE_MS;
    this.#provenMs = intervalMs;
    this.#changes(intervalMs * (1 - this.#step), burst, now);
    this.#trialAt = now + this.#holdsAfterMs;
    return true;
  }

  /** Whether what goes out at `at` follows a pause so closely that it is how many at once that counts. */
  #isInBurst(at: number): boolean {
    return at <= this.#fullAt + this.#drip.burst * this.#drip.intervalMs;
  }

  get #holdsAfterMs(): number {
    const { intervalMs } = this.#drip;
    return Math.max(
      Math.min(HOLDS_AFTER_MS, intervalMs * HOLDS_AFTER_REQUESTS),
      intervalMs * HOLDS_AFTER_LEAST,
    );
  }

  #changes(intervalMs: number, burst: number, now: number): void {
    this.#drip.follow(intervalMs, burst);
    this.#changedAt = now;
  }

  /** Another refusal, of a request sent at `sentAt`; one more fits at `freeAt`. All epoch ms. */
  refused(sentAt: number, freeAt: number, now: number): void {
    const { burst, intervalMs } = this.#drip;
    if (burst > 1 && this.#isInBurst(sentAt)) {
      const passed = this.#count - this.#fullCount;
      this.#drip.follow(intervalMs, Math.max(1, Math.min(passed, burst - 1)));
      this.#burstPatienceMs = Math.min(this.#burstPatienceMs * 2, LONGEST_PATIENCE_MS);
      this.#burstTrialAt = now + this.#burstPatienceMs;
    } else if (sentAt > this.#slowedAt && (sentAt >= this.#changedAt || this.#provenMs > 0)) {
      this.#slowsDown(freeAt, now);
    }
    this.#drip.knows(freeAt);
  }

  #slowsDown(freeAt: number, now: number): void {
    const mark = { at: freeAt, count: this.#count, idleMs: this.#idleMs };
    const since = this.#marks.find((other) => isBusy(other, mark)) ?? mark;
    const wasTrial = this.#provenMs > 0;
    this.#slowedAt = now;
    if (wasTrial) this.#patienceMs = Math.min(this.#patienceMs * 2, LONGEST_PATIENCE_MS);
    this.#step = FIRST_STEP;
    this.#changes(this.#slower(since, mark), this.#drip.burst, now);
    this.#provenMs = 0;
    const isYoung = freeAt - this.#begunAt < TELLING_MS;
    this.#trialAt = now + (isYoung ? this.#holdsAfterMs : Math.max(this.#patienceMs, this.#holdsAfterMs));
    if (this.#marks.length === MARKS) this.#marks.splice(1, 1);
    this.#marks.push(mark);
    while (this.#marks[1] !== undefined && this.#marks[1].at < freeAt - LONGEST_SPAN_MS) this.#marks.shift();
  }

  /** The pace after a refusal: what was measured, and at least a little slower than what was refused. */
  #slower(since: Mark, until: Mark): number {
    const { intervalMs } = this.#drip;
    const leastMs = intervalMs * (1 + SLOWER);
    const spanMs = until.at - since.at;
    if (spanMs === 0) return leastMs;
    const busyMs = spanMs - (until.idleMs - since.idleMs);
    const measuredMs = busyMs / Math.max(1, until.count - since.count);
    // Where even the smallest difference counts, refusals come by chance, and each makes what is measured too slow.
    if (spanMs >= TELLING_MS) return Math.max((measuredMs + leastMs) / 2, leastMs);
    return Math.min(Math.max(measuredMs, intervalMs * (1 + SLOWER_WHERE_UNKNOWN)), 2 * intervalMs);
  }
}

/** Whether somebody nearly always waited between two refusals, and long enough for a rest that is told in seconds. */
function isBusy(since: Mark, until: Mark): boolean {
  const spanMs = until.at - since.at;
  return spanMs >= ROUNDING_MS && until.idleMs - since.idleMs <= MOST_IDLE * spanMs;
}
