/**
 * The most of something that a provider lets pass, found out by being refused. Pure.
 *
 * Nobody tells what a key bears, so what was borne when it was refused is taken for the bound. From there it is raised
 * a step at a time, only where it is in the way and has held for a while: by growing steps while nothing is known
 * above it, by halves between what held and what was refused, and after that more and more seldom, because each try
 * costs a refusal.
 */
import { HOUR_MS, MINUTE_MS } from "../core/clock.ts";

/** A level that held this long while it was in the way has proven itself. */
const HOLDS_AFTER_MS = 60_000;
/** How long a level that was refused is not tried again; doubled each time it is refused again. */
const FIRST_PATIENCE_MS = 2 * MINUTE_MS;
const LONGEST_PATIENCE_MS = 4 * HOUR_MS;
/** A rest after a refusal costs capacity: it is risked again only after this many times its length. */
const RESTS_PER_PATIENCE = 16;
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

/** What is kept of a bound over a restart. Instants are epoch ms. */
export interface AdaptiveLimitState {
  value: number;
  /** null: none. */
  ceiling: number | null;
  retryAt: number;
  patienceMs: number;
}

export class AdaptiveLimit {
  /** How many may be; Infinity: nothing is known. */
  value = Infinity;
  /** Epoch ms of the last change. */
  changedAt = 0;
  /** Epoch ms of the last change by a refusal. */
  #loweredAt = 0;
  /** What held; less than the value while more is being tried; 0: nothing has yet. */
  #proven = 0;
  /** The least that is known to be refused. */
  #ceiling = Infinity;
  #step = 1;
  /** Epoch ms from which more may be tried. */
  #trialAt = 0;
  /** Epoch ms from which the ceiling itself may be tried again. */
  #retryAt = 0;
  #patienceMs = FIRST_PATIENCE_MS;
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

  /** It stands in the way of a request: where it has held for a while, it is raised a step. Says whether it was. */
  presses(now: number): boolean {
    if (this.value === Infinity || now < this.#trialAt) return false;
    this.#proven = this.value;
    if (this.#isClose(this.value)) {
      if (now < this.#retryAt) return false;
      this.value += 1; // what was refused once more, in case it passes now
    } else if (this.#ceiling === Infinity) {
      this.value += this.#step;
      this.#step *= STEP_FACTOR;
    } else {
      this.value = Math.floor((this.value + this.#ceiling) / 2);
    }
    this.#trialAt = now + HOLDS_AFTER_MS;
    this.changedAt = now;
    this.#follows = false;
    return true;
  }

  /** Whether what is known to be refused is too close above a level to try anything between. */
  #isClose(level: number): boolean {
    if (level > this.#ceiling) this.#ceiling = Infinity;
    return this.#ceiling - level <= Math.max(1, level * CLOSE_ENOUGH);
  }

  /**
   * Refused while `level` were let through, or not decided yet. `sentAt`: when the refused request went out;
   * `restMs`: what the refusal costs. `estimate`: what it bears by what passed while more was tried.
   */
  refused(level: number, sentAt: number, restMs: number, now: number, estimate = NO_ESTIMATE): void {
    if (this.isOld(sentAt)) return this.#follow(level);
    const before = this.value;
    const { proven } = this;
    const wasOnTrial = this.isOnTrial && level >= proven;
    this.changedAt = now;
    this.#loweredAt = now;
    this.#step = 1;
    this.#follows = !wasOnTrial;
    this.#trialAt = now + restMs + HOLDS_AFTER_MS;
    if (before === Infinity) {
      this.value = Math.max(1, level);
      return;
    }
    // The same place once more: it is tried again only after twice the time.
    const isConfirmed =
      this.#ceiling !== Infinity && Math.abs(before - this.#ceiling) <= Math.max(1, before * 0.1);
    this.#patienceMs = Math.max(this.#patienceMs, restMs * RESTS_PER_PATIENCE);
    if (isConfirmed) this.#patienceMs = Math.min(this.#patienceMs * 2, LONGEST_PATIENCE_MS);
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
    this.#retryAt = now + restMs + this.#patienceMs;
  }

  /** It was refused, and `value` is by measure what it bears. */
  measured(value: number, sentAt: number, now: number): void {
    if (this.isOld(sentAt)) return this.#follow(value);
    this.value = Math.max(1, value);
    this.#proven = this.value;
    this.#ceiling = Infinity;
    this.#step = 1;
    this.#trialAt = now + HOLDS_AFTER_MS;
    this.changedAt = now;
    this.#loweredAt = now;
    this.#follows = true;
  }

  /** The provider says itself how many may be: nothing has to be found out. */
  announced(value: number, now: number): void {
    this.value = Math.max(1, value);
    this.#proven = this.value;
    this.#ceiling = this.value + 1;
    this.#retryAt = now + LONGEST_PATIENCE_MS;
    this.#trialAt = now;
    this.changedAt = now;
    this.#follows = false;
  }

  forget(): void {
    this.value = Infinity;
    this.#proven = 0;
    this.#ceiling = Infinity;
    this.#step = 1;
  }

  /** A burst is refused as a burst: each refusal of it tells that one fewer got through. */
  #follow(level: number): void {
    if (this.#follows) this.#lowerTo(Math.min(this.value, level));
  }

  #lowerTo(value: number): void {
    this.value = Math.max(1, value);
    this.#proven = Math.min(this.#proven, this.value);
  }

  /** null: nothing is known. */
  state(): AdaptiveLimitState | null {
    if (this.value === Infinity) return null;
    const { proven: value } = this;
    const ceiling = this.#ceiling === Infinity ? null : this.#ceiling;
    return { value, ceiling, retryAt: this.#retryAt, patienceMs: this.#patienceMs };
  }

  restore({ value, ceiling, retryAt, patienceMs }: AdaptiveLimitState): void {
    this.value = value;
    this.#proven = value;
    this.#ceiling = ceiling ?? Infinity;
    this.#retryAt = retryAt;
    this.#patienceMs = Math.max(FIRST_PATIENCE_MS, patienceMs);
  }
}
