/**
 * The most of something that a provider lets pass, found out by being refused. Pure.
 *
 * Nobody tells what a key bears, so what was borne when it was refused is taken for the bound. From there it is raised
 * a step at a time, only where it is in the way and has held for a while: by growing steps while nothing is known
 * above it, by halves between what held and what was refused, and after that more and more seldom, because each try
 * costs a refusal.
 */

/** A level that held this long while it was in the way has proven itself. */
const HOLDS_AFTER_MS = 60_000;
/** How long nothing higher is tried after a try was refused; doubled each time. */
const FIRST_PATIENCE_MS = 2 * 60_000;
const LONGEST_PATIENCE_MS = 4 * 3_600_000;
/** A rest after a refusal costs capacity: it is risked again only after this many times its length. */
const RESTS_PER_PATIENCE = 8;
/** Closer than this share the levels that held and that were refused are not told apart. */
const CLOSE_ENOUGH = 0.03;
/** A level that held, and does not any more, is lowered a little where it was used up, and to this share at most. */
const GENTLE_CUT = 0.95;
const DEEPEST_CUT = 0.5;

/** What is kept of a bound over a restart. Instants are epoch ms. */
export interface BoundState {
  value: number;
  /** null: none. */
  ceiling: number | null;
  trialAt: number;
  patienceMs: number;
}

export class Bound {
  /** How many may be; Infinity: nothing is known. */
  value = Infinity;
  /** Epoch ms of the last change. */
  changedAt = 0;
  /** What held; less than the value while more is being tried; 0: nothing has yet. */
  #proven = 0;
  /** The least that is known to be refused. */
  #ceiling = Infinity;
  #step = 1;
  /** Epoch ms from which more may be tried. */
  #trialAt = 0;
  #patienceMs = FIRST_PATIENCE_MS;
  /** The last change took it down to what was let through: later refusals of the same burst correct it. */
  #follows = false;

  get isKnown(): boolean {
    return this.value !== Infinity;
  }

  get isOnTrial(): boolean {
    return this.#proven > 0 && this.value > this.#proven;
  }

  /** It stands in the way of a request: where it has held for a while, it is raised a step. Says whether it was. */
  presses(now: number): boolean {
    if (this.value === Infinity || now < this.#trialAt) return false;
    if (this.isOnTrial) this.#patienceMs = FIRST_PATIENCE_MS;
    this.#proven = this.value;
    if (this.#ceiling - this.value <= Math.max(1, this.value * CLOSE_ENOUGH)) this.#ceiling = Infinity;
    this.value =
      this.#ceiling === Infinity ? this.value + this.#step : Math.floor((this.value + this.#ceiling) / 2);
    this.#step *= 2;
    this.#trialAt = now + HOLDS_AFTER_MS;
    this.changedAt = now;
    this.#follows = false;
    return true;
  }

  /**
   * Refused while `level` were let through, or not decided yet. `sentAt`: when the refused request went out;
   * `restMs`: what the refusal costs.
   */
  refused(level: number, sentAt: number, restMs: number, now: number): void {
    if (this.isKnown && sentAt <= this.changedAt) return this.#follow(level);
    const before = this.value;
    this.changedAt = now;
    this.#step = 1;
    this.#follows = true;
    if (before === Infinity) {
      this.value = Math.max(1, level);
      this.#trialAt = now + restMs + HOLDS_AFTER_MS;
      return;
    }
    if (this.isOnTrial && level >= this.#proven) {
      this.#ceiling = before;
      this.value = this.#proven;
      this.#follows = false;
      this.#losesPatience(restMs);
    } else {
      const gentle = Math.min(Math.floor(before * GENTLE_CUT), before - 1);
      this.#lowerTo(level >= gentle ? gentle : Math.max(level, Math.floor(before * DEEPEST_CUT)));
      this.#ceiling = Math.max(before, this.value + 1);
    }
    this.#trialAt = now + restMs + this.#patienceMs;
  }

  /** It was refused, and `value` is by measure what it bears. */
  measured(value: number, sentAt: number, now: number): void {
    if (this.isKnown && sentAt <= this.changedAt) return this.#follow(value);
    if (this.isOnTrial) this.#losesPatience(0);
    const restMs = this.isKnown ? this.#patienceMs : HOLDS_AFTER_MS;
    this.value = Math.max(1, value);
    this.#proven = this.value;
    this.#ceiling = Infinity;
    this.#step = 1;
    this.#trialAt = now + restMs;
    this.changedAt = now;
    this.#follows = true;
  }

  /** The provider says itself how many may be: nothing has to be found out. */
  announced(value: number, now: number): void {
    this.value = Math.max(1, value);
    this.#proven = this.value;
    this.#ceiling = this.value + 1;
    this.#trialAt = now + LONGEST_PATIENCE_MS;
    this.changedAt = now;
    this.#follows = false;
  }

  /** Another way to count was found: so many times more in a window that is so many times longer. */
  scale(factor: number): void {
    this.value = Math.max(1, Math.round(this.value * factor));
    this.#proven = Math.min(this.value, Math.round(this.#proven * factor));
    this.#ceiling = Math.max(this.value + 1, Math.round(this.#ceiling * factor));
  }

  forget(): void {
    this.value = Infinity;
    this.#proven = 0;
    this.#ceiling = Infinity;
    this.#step = 1;
  }

  /** Another key of the same kind found its bound at the same place: it need not be found out once more. */
  adopt(other: Bound): void {
    if (other.#ceiling === Infinity || this.isOnTrial) return;
    if (Math.abs(other.#proven - this.value) > Math.max(1, this.value * 0.05)) return;
    this.value = other.#proven;
    this.#proven = other.#proven;
    this.#ceiling = other.#ceiling;
    this.#trialAt = Math.max(this.#trialAt, other.#trialAt);
    this.#patienceMs = Math.max(this.#patienceMs, other.#patienceMs);
  }

  /** A burst is refused as a burst: each refusal of it tells that one fewer got through. */
  #follow(level: number): void {
    if (this.#follows) this.#lowerTo(Math.min(this.value, level));
  }

  #lowerTo(value: number): void {
    this.value = Math.max(1, value);
    this.#proven = Math.min(this.#proven, this.value);
  }

  #losesPatience(restMs: number): void {
    const doubled = Math.max(this.#patienceMs * 2, restMs * RESTS_PER_PATIENCE);
    this.#patienceMs = Math.min(doubled, LONGEST_PATIENCE_MS);
  }

  /** null: nothing is known. */
  state(): BoundState | null {
    if (this.value === Infinity) return null;
    const value = this.#proven > 0 ? Math.min(this.#proven, this.value) : this.value;
    const ceiling = this.#ceiling === Infinity ? null : this.#ceiling;
    return { value, ceiling, trialAt: this.#trialAt, patienceMs: this.#patienceMs };
  }

  restore({ value, ceiling, trialAt, patienceMs }: BoundState): void {
    this.value = value;
    this.#proven = value;
    this.#ceiling = ceiling ?? Infinity;
    this.#trialAt = trialAt;
    this.#patienceMs = Math.max(FIRST_PATIENCE_MS, patienceMs);
  }
}
