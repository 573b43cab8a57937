/**
 * How limits are found out that nobody tells: from what passed and from what was refused. Pure.
 *
 * `AdaptiveLimit`: how many pass, in a window or at once, where a refusal names no time. `WindowTrial`: how long a
 * window is. `PaceEstimator`: how fast a limit lets requests through that fills up steadily. They keep to what has held
 * and try a little more when a `Trial` is due. What they count with is in `counters.ts`.
 *
 * A question changes nothing. More is tried only by `onBlocked`, which is called when a request had to wait.
 */
import { HOUR_MS, MINUTE_MS } from "../core/clock.ts";
import type { TokenBucket } from "./counters.ts";

/** What has held this long while requests waited for it has proven itself. */
const HOLDS_AFTER_MS = MINUTE_MS;

/**
 * When a little more may be tried than what has held. Each try may cost a refusal, so the patience before the next one
 * doubles whenever it does.
 */
export class Trial {
  /** How long what was refused is not tried again; in ms. */
  patienceMs: number;
  readonly #firstMs: number;
  readonly #longestMs: number;
  #dueAt = 0;

  constructor(firstMs: number, longestMs: number) {
    this.#firstMs = firstMs;
    this.#longestMs = longestMs;
    this.patienceMs = firstMs;
  }

  /** Epoch ms from which it may be tried. */
  get dueAt(): number {
    return this.#dueAt;
  }

  isDue(now: number): boolean {
    return now >= this.#dueAt;
  }

  scheduleAt(dueAt: number): void {
    this.#dueAt = dueAt;
  }

  /** It was refused again. */
  doublePatience(): void {
    this.patienceMs = Math.min(this.patienceMs * 2, this.#longestMs);
  }

  resetPatience(): void {
    this.patienceMs = this.#firstMs;
  }
}

// ---- how many

/** How long a level that was refused is not tried again, at first and at most. */
const LIMIT_PATIENCE_MS = [2 * MINUTE_MS, 4 * HOUR_MS] as const;
/** A cooldown after a refusal costs capacity: it is risked again only after this many times its length. */
const COOLDOWNS_PER_PATIENCE = 16;
/** Closer than this share the levels that held and that were refused are not told apart. */
const CLOSE_ENOUGH = 0.03;
/** A level that held, and does not any more, is lowered a little where it was used up, and to this share at most. */
const GENTLE_CUT = 0.95;
const DEEPEST_CUT = 0.5;
/** One that never held is lowered to this share: another refusal would cost more than some time below the bound. */
const UNPROVEN_CUT = 0.65;
const NO_ESTIMATE = { most: Infinity, likely: 0 };
/** Of what it is estimated to bear, so much is tried next. */
const ESTIMATE_SHARE = 0.9;
/** Where nothing is known above, each step is so many times the last. */
const STEP_FACTOR = 3;

/** What is kept of an adaptive limit over a restart. Instants are epoch ms. */
export interface AdaptiveLimitState {
  value: number;
  /** null: none. */
  ceiling: number | null;
  retryAt: number;
  patienceMs: number;
}

/**
 * The most of something that a provider lets pass, found out by being refused.
 *
 * What had passed when it was refused is taken for the limit. From there it is raised a step at a time, only where it
 * is in the way and has held for a while: by growing steps while nothing is known above it, by halves between what
 * held and what was refused, and after that more and more rarely, because each try costs a refusal.
 */
export class AdaptiveLimit {
  /** How many may be; Infinity: nothing is known. */
  value = Infinity;
  /** Epoch ms of the last change. */
  changedAt = 0;
  /** From when on what passes tells of the limit: since the last change, and after the cooldown that came with it. */
  measuredFrom = 0;
  /** Epoch ms of the last change by a refusal. */
  #loweredAt = 0;
  /** What held; less than the value while more is being tried; 0: nothing has yet. */
  #proven = 0;
  /** The least that is known to be refused. */
  #ceiling = Infinity;
  #step = 1;
  /** When more may be tried, and when the ceiling itself may be tried again. */
  readonly #next = new Trial(HOLDS_AFTER_MS, HOLDS_AFTER_MS);
  readonly #ceilingTrial = new Trial(...LIMIT_PATIENCE_MS);
  /** The last change took it down to what was let through: later refusals of the same burst correct it. */
  #follows = false;

  get isKnown(): boolean {
    return this.value !== Infinity;
  }

  /** Whether a request went out before the last change (epoch ms), and so tells nothing of what holds now. */
  isOld(sentAt: number): boolean {
    return this.isKnown && (sentAt < this.changedAt || sentAt <= this.#loweredAt);
  }

  get isOnTrial(): boolean {
    return this.#proven > 0 && this.value > this.#proven;
  }

  /** What held; the value itself as long as nothing else did. */
  get proven(): number {
    return this.#proven > 0 ? Math.min(this.#proven, this.value) : this.value;
  }

  /** A request has to wait for it: where it has held for a while, it is raised a step. Returns whether it was. */
  onBlocked(now: number): boolean {
    if (this.value === Infinity || !this.#next.isDue(now)) return false;
    this.#proven = this.value;
    if (this.value > this.#ceiling) this.#ceiling = Infinity;
    if (this.#isCloseToCeiling()) {
      if (!this.#ceilingTrial.isDue(now)) return false;
      this.value += 1; // what was refused once more, in case it passes now
    } else if (this.#ceiling === Infinity) {
      this.value += this.#step;
      this.#step *= STEP_FACTOR;
    } else {
      this.value = Math.floor((this.value + this.#ceiling) / 2);
    }
    this.#next.scheduleAt(now + HOLDS_AFTER_MS);
    this.changedAt = now;
    this.measuredFrom = now;
    this.#follows = false;
    return true;
  }

  /** Whether what is known to be refused is too close above to try anything between. */
  #isCloseToCeiling(): boolean {
    return this.#ceiling - this.value <= Math.max(1, this.value * CLOSE_ENOUGH);
  }

  /**
   * Refused while `level` had passed, or were not decided yet. `sentAt`: when the refused request went out;
   * `restMs`: how long the key cools for it. `estimate`: what passes by what passed while more was tried.
   */
  onRefused(level: number, sentAt: number, restMs: number, now: number, estimate = NO_ESTIMATE): void {
    if (this.isOld(sentAt)) return this.#follow(level);
    const before = this.value;
    const { proven } = this;
    const wasOnTrial = this.isOnTrial && level >= proven;
    this.changedAt = now;
    this.measuredFrom = now + restMs;
    this.#loweredAt = now;
    this.#step = 1;
    this.#follows = !wasOnTrial;
    this.#next.scheduleAt(now + restMs + HOLDS_AFTER_MS);
    if (before === Infinity) {
      this.value = Math.max(1, level);
      return;
    }
    // The same place once more: it is tried again only after twice the time.
    const isConfirmed =
      this.#ceiling !== Infinity && Math.abs(before - this.#ceiling) <= Math.max(1, before * 0.1);
    const trial = this.#ceilingTrial;
    trial.patienceMs = Math.max(trial.patienceMs, restMs * COOLDOWNS_PER_PATIENCE);
    if (isConfirmed) trial.doublePatience();
    if (wasOnTrial) {
      this.#ceiling = Math.max(proven + 1, Math.min(before, estimate.most));
      const likely = Math.min(this.#ceiling, estimate.likely);
      this.value = Math.max(proven, Math.floor(likely * ESTIMATE_SHARE));
    } else {
      const cut = this.#proven > 0 ? GENTLE_CUT : UNPROVEN_CUT;
      const gentle = Math.min(Math.floor(before * cut), before - 1);
      this.#lowerTo(level >= gentle ? gentle : Math.max(level, Math.floor(before * DEEPEST_CUT)));
      this.#ceiling = Math.max(this.value + 1, Math.min(before, level + 1));
    }
    trial.scheduleAt(now + restMs + trial.patienceMs);
  }

  /** It was refused, and by measure `value` is what passes. */
  onMeasured(value: number, sentAt: number, now: number): void {
    if (this.isOld(sentAt)) return this.#follow(value);
    this.value = Math.max(1, value);
    this.#proven = this.value;
    this.#ceiling = Infinity;
    this.#step = 1;
    this.#next.scheduleAt(now + HOLDS_AFTER_MS);
    this.changedAt = now;
    this.#loweredAt = now;
    this.#follows = true;
  }

  /** The provider says itself how many may pass: nothing has to be found out. */
  onAnnounced(value: number, now: number): void {
    this.value = Math.max(1, value);
    this.#proven = this.value;
    this.#ceiling = this.value + 1;
    this.#ceilingTrial.scheduleAt(now + LIMIT_PATIENCE_MS[1]);
    this.#next.scheduleAt(now);
    this.changedAt = now;
    this.#follows = false;
  }

  forget(): void {
    this.value = Infinity;
    this.#proven = 0;
    this.#ceiling = Infinity;
    this.#step = 1;
  }

  /** The requests of a burst are refused together: each refusal tells that one fewer got through. */
  #follow(level: number): void {
    if (this.#follows) this.#lowerTo(Math.min(this.value, level));
  }

  #lowerTo(value: number): void {
    this.value = Math.max(1, value);
    this.#proven = Math.min(this.#proven, this.value);
  }

  /** Another instance tells of one more, or one fewer, that passed before a first refusal. */
  recount(by: number): void {
    if (!this.#follows || this.#ceiling !== Infinity || this.value === Infinity) return;
    this.value = Math.max(1, this.value + by);
    if (this.#proven > 0) this.#proven = this.value;
  }

  /** It was taken over from another instance just now: what was sent before, and is refused, has been counted there. */
  onHeard(now: number): void {
    this.changedAt = now;
    this.#loweredAt = now;
    this.#follows = false;
  }

  /** null: nothing is known. */
  state(): AdaptiveLimitState | null {
    if (this.value === Infinity) return null;
    const { proven: value } = this;
    const ceiling = this.#ceiling === Infinity ? null : this.#ceiling;
    const { dueAt: retryAt, patienceMs } = this.#ceilingTrial;
    return { value, ceiling, retryAt, patienceMs };
  }

  /** Begins with what is known from an earlier run, or of another key. */
  restore({ value, ceiling, retryAt, patienceMs }: AdaptiveLimitState, now: number): void {
    this.value = value;
    this.#proven = value;
    this.#ceiling = ceiling ?? Infinity;
    this.#next.scheduleAt(now + HOLDS_AFTER_MS);
    this.#ceilingTrial.scheduleAt(retryAt);
    this.#ceilingTrial.patienceMs = Math.max(LIMIT_PATIENCE_MS[0], patienceMs);
  }
}

// ---- the length of a window

/**
 * A refusal that names a time costs little, so a shorter window is tried more often than a rate that is only guessed.
 */
const WINDOW_PATIENCE_MS = [2 * MINUTE_MS, 10 * MINUTE_MS] as const;
/** Shorter by this share: what is tried first, and the bounds of what is tried. */
const FIRST_SHARE = 0.1;
const LEAST_SHARE = 0.02;
const MOST_SHARE = 0.4;

/** Whether a window that was measured is shorter in truth: times are named in whole seconds, and limits change. */
export class WindowTrial {
  /** The window that held; 0: none was measured. */
  provenMs = 0;
  /** Epoch ms of the last change that a refusal made. */
  changedAt = 0;
  #share = FIRST_SHARE;
  #isOnTrial = false;
  #triedAt = 0;
  readonly #next = new Trial(...WINDOW_PATIENCE_MS);

  get isMeasured(): boolean {
    return this.provenMs > 0;
  }

  /** A window was measured. One that is much longer than the last may be too long. */
  onMeasured(windowMs: number, now: number): void {
    const isSurprise = this.provenMs === 0 || windowMs > this.provenMs * 1.1;
    this.#next.scheduleAt(now + (isSurprise ? HOLDS_AFTER_MS : this.#next.patienceMs));
    this.changedAt = now;
    this.provenMs = windowMs;
    this.#isOnTrial = false;
  }

  forget(): void {
    this.provenMs = 0;
    this.#isOnTrial = false;
  }

  /** A request has to wait for the window. Returns the length to go by from now on: a shorter one where that is due. */
  onBlocked(windowMs: number, now: number): number {
    if (!this.#next.isDue(now)) return windowMs;
    if (this.#isOnTrial) {
      this.#next.resetPatience();
      this.#share = Math.min(this.#share * 2, MOST_SHARE);
    }
    this.provenMs = windowMs;
    this.#isOnTrial = true;
    this.#triedAt = now;
    this.#next.scheduleAt(now + Math.max(HOLDS_AFTER_MS, 2 * windowMs));
    return windowMs * (1 - this.#share);
  }

  /** A refusal. Returns whether it ends the trial: then the window is `provenMs` again. */
  onRefused(sentAt: number, now: number): boolean {
    if (!this.#isOnTrial || sentAt < this.#triedAt) return false;
    this.#isOnTrial = false;
    this.changedAt = now;
    this.#share = Math.max(this.#share / 2, LEAST_SHARE);
    this.#next.doublePatience();
    this.#next.scheduleAt(now + this.#next.patienceMs);
    return true;
  }
}

// ---- a pace

/** The times that refusals name are rounded to this. */
const ROUNDING_MS = 1000;
/** A time this long is measured well enough. */
const TELLING_MS = 30_000;
/** What was measured over a longer time may hold no more. */
const LONGEST_SPAN_MS = 300_000;
/** A pace that went on for so many requests has held before `HOLDS_AFTER_MS`; not for fewer than the second number. */
const HOLDS_AFTER_REQUESTS = 20;
const HOLDS_AFTER_LEAST = 8;
const PACE_PATIENCE_MS = [MINUTE_MS, 20 * MINUTE_MS] as const;
/** Faster by this share: what is tried first, and the most that is tried at once. */
const FIRST_STEP = 0.01;
const LARGEST_STEP = 0.32;
/** A limit that lets through so much more has been raised. */
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

/**
 * How fast a limit lets requests through, measured by the times that its refusals name.
 *
 * A refusal that names a time says when one more fits. So between two of them the limit let through exactly what went
 * out, and took for it the time from one such instant to the other: whatever kind of limit it is, and the more exactly
 * the longer the time between. Times are named in whole seconds, so a short one is not believed at once. A limit may
 * have been idle in between, or may have been raised: so a little more than what was measured is tried whenever it has
 * held for a while, and likewise with how many go out together. Each try costs a short cooldown at most.
 */
export class PaceEstimator {
  readonly #bucket: TokenBucket;
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
  readonly #paceTrial = new Trial(...PACE_PATIENCE_MS);
  #step = FIRST_STEP;
  /** The pace that held before the one that is being tried; 0: none is. */
  #provenMs = 0;
  /** When last a whole burst could go out, and what had gone out by then. */
  #fullAt = -Infinity;
  #fullCount = 0;
  readonly #burstTrial = new Trial(...PACE_PATIENCE_MS);

  /** `bucket` is what keeps the pace; it is set by what is measured here. */
  constructor(bucket: TokenBucket) {
    this.#bucket = bucket;
  }

  get isOn(): boolean {
    return this.#marks.length > 0;
  }

  /** Whether a request went out (epoch ms) before it began to measure: of the burst that was refused first. */
  isBefore(sentAt: number): boolean {
    return sentAt <= this.#begunAt;
  }

  /** A request goes out; told before the bucket is. */
  onSent(now: number): void {
    if (this.#bucket.isFull(now)) {
      this.#fullAt = now;
      this.#fullCount = this.#count;
    }
    this.#idleMs += Math.max(0, now - this.#bucket.readyAt);
    this.#count += 1;
  }

  /** One that went out at `sentAt` (epoch ms) was not counted. */
  refund(sentAt: number): void {
    if (sentAt >= this.#begunAt) this.#count -= 1;
  }

  /** A first refusal. `intervalMs`: the pace it suggests; `freeAt`: when one more fits (epoch ms). */
  start(intervalMs: number, burst: number, freeAt: number, now: number): void {
    this.#begunAt = now;
    this.#slowedAt = now;
    this.#marks = [{ at: freeAt, count: this.#count, idleMs: this.#idleMs }];
    this.#change(intervalMs, burst, now);
    this.#bucket.fitsAt(freeAt);
    this.#paceTrial.scheduleAt(now + this.#holdsAfterMs);
    this.#burstTrial.scheduleAt(now + PACE_PATIENCE_MS[0]);
  }

  stop(): void {
    if (!this.isOn) return;
    this.#marks = [];
    this.#begunAt = Infinity;
    this.#bucket.stop();
  }

  /** A request has to wait for the pace: what has held for a while is raised. Returns whether it was. */
  onBlocked(now: number): boolean {
    const { intervalMs, burst } = this.#bucket;
    if (this.#isInBurst(now)) {
      if (!this.#burstTrial.isDue(now)) return false;
      this.#bucket.follow(intervalMs, burst + Math.ceil(burst / 4));
      this.#burstTrial.scheduleAt(now + HOLDS_AFTER_MS);
      return true;
    }
    if (!this.#paceTrial.isDue(now)) return false;
    if (this.#provenMs > 0) this.#step = Math.min(this.#step * 2, LARGEST_STEP);
    if (this.#step > SURPRISING_STEP) this.#paceTrial.resetPatience();
    this.#provenMs = intervalMs;
    this.#change(intervalMs * (1 - this.#step), burst, now);
    this.#paceTrial.scheduleAt(now + this.#holdsAfterMs);
    return true;
  }

  /** Whether what goes out at `at` follows a pause so closely that it is how many at once that counts. */
  #isInBurst(at: number): boolean {
    return at <= this.#fullAt + this.#bucket.burst * this.#bucket.intervalMs;
  }

  get #holdsAfterMs(): number {
    const { intervalMs } = this.#bucket;
    return Math.max(
      Math.min(HOLDS_AFTER_MS, intervalMs * HOLDS_AFTER_REQUESTS),
      intervalMs * HOLDS_AFTER_LEAST,
    );
  }

  #change(intervalMs: number, burst: number, now: number): void {
    this.#bucket.follow(intervalMs, burst);
    this.#changedAt = now;
  }

  /** Another refusal, of a request sent at `sentAt`; one more fits at `freeAt`. All epoch ms. */
  onRefused(sentAt: number, freeAt: number, now: number): void {
    const { burst, intervalMs } = this.#bucket;
    if (burst > 1 && this.#isInBurst(sentAt)) {
      const passed = this.#count - this.#fullCount;
      this.#bucket.follow(intervalMs, Math.max(1, Math.min(passed, burst - 1)));
      this.#burstTrial.doublePatience();
      this.#burstTrial.scheduleAt(now + this.#burstTrial.patienceMs);
    } else if (sentAt > this.#slowedAt && (sentAt >= this.#changedAt || this.#provenMs > 0)) {
      this.#slowDown(freeAt, now);
    }
    this.#bucket.fitsAt(freeAt);
  }

  #slowDown(freeAt: number, now: number): void {
    const mark = { at: freeAt, count: this.#count, idleMs: this.#idleMs };
    const since = this.#marks.find((other) => isBusy(other, mark)) ?? mark;
    const wasTrial = this.#provenMs > 0;
    this.#slowedAt = now;
    if (wasTrial) this.#paceTrial.doublePatience();
    this.#step = FIRST_STEP;
    this.#change(this.#slower(since, mark), this.#bucket.burst, now);
    this.#provenMs = 0;
    const isYoung = freeAt - this.#begunAt < TELLING_MS;
    const leastMs = isYoung ? 0 : this.#paceTrial.patienceMs;
    this.#paceTrial.scheduleAt(now + Math.max(leastMs, this.#holdsAfterMs));
    if (this.#marks.length === MARKS) this.#marks.splice(1, 1);
    this.#marks.push(mark);
    while (this.#marks[1] !== undefined && this.#marks[1].at < freeAt - LONGEST_SPAN_MS) this.#marks.shift();
  }

  /** The pace after a refusal: what was measured, and at least a little slower than what was refused. */
  #slower(since: Mark, until: Mark): number {
    const { intervalMs } = this.#bucket;
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

/** Whether somebody nearly always waited between two refusals, and long enough for a time that is told in seconds. */
function isBusy(since: Mark, until: Mark): boolean {
  const spanMs = until.at - since.at;
  return spanMs >= ROUNDING_MS && until.idleMs - since.idleMs <= MOST_IDLE * spanMs;
}
