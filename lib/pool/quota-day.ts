/**
 * The day that daily limits count in: it ends at midnight by the machine's date, whatever happens to that date.
 *
 * A day never begins again: where the date is set back, or the machine started without one, what was counted today
 * stays counted (P47). Where the date cannot be right for long, a day still ends when its length is over.
 */
import { untilMidnight } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";

/** So often at most the date is looked at, to find out whether it was set. */
const LOOK_EVERY_MS = 1000;
/** A date that moved by less goes as clocks do. */
const DRIFT_MS = 500;

/** A clock that shows an earlier date was never set. */
const NO_DATE_BEFORE = Date.UTC(2025, 0);

/** What a question about the day finds: `set`: the day is the same, but ends at another instant. */
export type DayChange = "same" | "set" | "new";

export class QuotaDay {
  readonly #clock: Clock;
  /** When it ends, by `Clock.now()`. */
  endsAt = 0;
  /** When it ends, as a date: what is stored with counts. 0: no day has begun. */
  endDate = 0;
  #offset = 0;
  #lookAt = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Brings the day up to date. `zone`: the IANA zone whose midnight ends it. */
  look(zone: string, now: number): DayChange {
    if (now < this.#lookAt) return "same";
    const wall = this.#clock.wall();
    const isOver = now >= this.endsAt;
    const isSet = Math.abs(wall - now - this.#offset) > DRIFT_MS;
    this.#lookAt = Math.min(now + LOOK_EVERY_MS, isOver || isSet ? Infinity : this.endsAt);
    if (!isOver && !isSet) return "same";
    const leftMs = untilMidnight(zone, wall);
    const endDate = wall + leftMs;
    // The machine had no date until now, so this day is the one that it counted in.
    const isFirstDate = !isOver && this.endDate < NO_DATE_BEFORE && endDate > NO_DATE_BEFORE;
    const isNew = isOver || (endDate > this.endDate && !isFirstDate);
    this.#offset = wall - now;
    this.endsAt = now + leftMs;
    this.#lookAt = Math.min(now + LOOK_EVERY_MS, this.endsAt);
    if (isNew || isFirstDate) this.endDate = endDate;
    return isNew ? "new" : "set";
  }

  /** Whether what was counted in a day that ended at this date counts on: it is this day, or the date is behind. */
  goesOn(endDate: number): boolean {
    if (endDate < this.endDate) return false;
    this.endDate = endDate;
    return true;
  }
}
