/**
 * When a key (or a model on it) may be asked once more without being refused: what is known of its limits, and what
 * it has used of them.
 *
 * Three things are known from three sources. A rate, so many requests in any window: set by `RPM=n` for 60 s, or found
 * out from refusals. How many at once: found out likewise. A budget: announced by the provider in the headers of its
 * answers. Where the provider names a rest with its refusals, that tells how long its window is; where it does not,
 * the rate is what had passed when it refused, raised from there by trial (`Bound`).
 */
import { Bound } from "./bound.ts";
import type { BoundState } from "./bound.ts";
import type { Budget } from "./budget.ts";
import { History, LONGEST_HISTORY } from "./history.ts";

/** Nothing but the end of an attempt under way makes the key ready. */
export const AFTER_AN_EVENT = Number.MAX_SAFE_INTEGER;

const MINUTE_MS = 60_000;
/** What was sent a window ago may have arrived later than what is sent now will: so much is added to a learnt one. */
const JITTER_MS = 100;
/** A reset that is told in whole seconds may have been rounded down, and clocks differ. */
const RESET_MARGIN_MS = 250;
/** Announced windows whose ends differ by less are the same one. */
const SAME_WINDOW_MS = 1500;
/** What goes out within this time is a burst. */
const BURST_MS = 2000;
/** How long a key that was refused for a burst is not tried with a larger one. */
const BURST_FORGOTTEN_AFTER_MS = 30 * 60_000;
/** Behind a burst it is quiet for this part of the window, where bursts may be what is limited. */
const QUIET_PART = 6;
/** A refusal after fewer requests than these tells nothing of a rate by itself. */
const TELLING = 4;
/** So many refusals in a row with the same number under way are no chance. */
const SAME_IN_FLIGHT = 3;
/** Counts of which one is so many times the other are not the same. */
const OTHER_COUNT = 1.3;
/** A refusal of what is tried beyond the known comes within this time. */
const BEYOND_EVERY_MS = 1000;
/** How long it is remembered that more were under way at once without a refusal. */
const BORNE_FOR_MS = 10 * 60_000;

/** How the rate of a key is known. */
export type RateRule = { kind: "fixed"; perMinute: number } | { kind: "learnt" } | { kind: "none" };

/** What is kept over a restart. */
export interface PacerState {
  rate: BoundState | null;
  /** Length of the window that `rate` counts in, in ms. */
  windowMs: number;
  concurrency: BoundState | null;
}

/** What a refusal says of limits. */
export interface RateRefusal {
  /** When the refused request was sent; epoch ms. */
  sentAt: number;
  /** The rest the provider named; null: none. */
  namedMs: number | null;
  /** How long the key rests for it. */
  restMs: number;
  reason: "rate_limit" | "concurrency";
}

export class Pacer {
  readonly rate = new Bound();
  readonly concurrency = new Bound();
  #rule: RateRule;
  /** Requests sent and not refused. */
  #sent: History;
  /** `rate` is how many of them may be in any window of this length. */
  #windowMs = MINUTE_MS;
  readonly #squeeze = new Squeeze();
  inFlight = 0;
  /** Answers under way; the most that were at once, and when. */
  #bearing = 0;
  #borne = 0;
  #borneAt = 0;
  /** How many may go out together at once after a rest; Infinity: as many as the rate allows. */
  #burst = Infinity;
  #burstSetAt = 0;
  /** Where bursts are limited: epoch ms at which all that was sent is paid for, at `#intervalMs` each. */
  #paidAt = 0;
  #intervalMs = 0;
  /** When a request last went out that was more than had held before; epoch ms. */
  #beyondAt = 0;
  /** The announced budget: how many are left until `#resetAt`. */
  #left = Infinity;
  #resetAt = 0;
  #announcedLimit = 0;
  /** The longest way to a reset that was seen: how long the announced window is, at least. */
  #widestMs = 0;
  /** The last refusal, how many were in the window and under way then, and how often in a row it was as many. */
  #refusedAt = 0;
  #refusedCount = 0;
  #refusedInFlight = 0;
  #repeats = 0;
  #fewest = 0;
  #most = 0;

  constructor(rule: RateRule) {
    this.#rule = rule;
    this.#sent = new History(rule.kind === "fixed" ? rule.perMinute : LONGEST_HISTORY);
    if (rule.kind === "fixed") this.rate.value = rule.perMinute;
  }

  /** From now on this rule holds; what was learnt stays where learning does. */
  follow(rule: RateRule): void {
    if (rule.kind !== "learnt" || this.#rule.kind === "fixed") this.#forgetRate();
    if (rule.kind === "fixed") {
      const sent = new History(rule.perMinute);
      for (let nth = Math.min(this.#sent.size, rule.perMinute); nth > 0; nth--)
        sent.add(this.#sent.last(nth), 0);
      this.#sent = sent;
      this.rate.value = rule.perMinute;
    }
    this.#rule = rule;
  }

  /** The requests a minute that are known to pass; null: not known. */
  get perMinute(): number | null {
    return this.rate.isKnown ? Math.round((this.rate.value * MINUTE_MS) / this.#windowMs) : null;
  }

  /** A request goes out. */
  sends(now: number): void {
    if (this.#rule.kind === "learnt" && this.rate.isKnown && now < this.#heldAt()) this.#beyondAt = now;
    if (this.#rule.kind !== "none") this.#sent.add(now, now - MINUTE_MS);
    this.inFlight += 1;
    this.#left -= 1;
    if (this.#intervalMs > 0) this.#paidAt = Math.max(this.#paidAt, now) + this.#intervalMs;
  }

  /** An answer has begun. */
  bears(now: number): void {
    this.#bearing += 1;
    if (this.#bearing < this.#borne && now < this.#borneAt + BORNE_FOR_MS) return;
    this.#borne = this.#bearing;
    this.#borneAt = now;
  }

  /** A request has ended, one whose answer had begun or another. */
  ends({ hadBegun }: { hadBegun: boolean }): void {
    if (this.inFlight > 0) this.inFlight -= 1;
    if (hadBegun && this.#bearing > 0) this.#bearing -= 1;
  }

  /** A request that the provider did not count. */
  uncounts(sentAt: number): void {
    this.#sent.remove(sentAt);
    if (this.#intervalMs > 0) this.#paidAt -= this.#intervalMs;
  }

  /** Epoch ms from which one more may be sent; `AFTER_AN_EVENT`: when one of those under way ends. */
  nextAt(now: number): number {
    if (this.inFlight >= this.concurrency.value && !this.concurrency.presses(now)) return AFTER_AN_EVENT;
    let at = 0;
    if (this.rate.value !== Infinity) {
      at = this.#roomAt();
      if (at > now && this.#rule.kind === "learnt" && this.#isRaised(now)) {
        this.#paceBursts();
        at = this.#roomAt();
      }
      // What goes beyond what held goes one by one: a burst would be refused as a burst.
      if (at <= now && this.#rule.kind === "learnt") at = Math.min(this.#heldAt(), this.#beyondFrom());
    }
    if (this.#left <= 0 && this.#resetAt > now) at = Math.max(at, this.#resetAt + RESET_MARGIN_MS);
    if (this.#intervalMs > 0) {
      at = Math.max(at, this.#paidAt - (this.#burst - 1) * this.#intervalMs);
      // Where a burst is a good part of the rate, what comes right behind it would again tell of the burst only.
      if (this.#burst * 4 >= this.rate.value)
        at = Math.max(at, this.#sent.last(this.#burst) + this.#windowMs / QUIET_PART);
    }
    return at;
  }

  /** The rate stands in the way: after a while a little more is tried. */
  #isRaised(now: number): boolean {
    if (!this.#squeeze.isMeasured) return this.rate.presses(now);
    const shorterMs = this.#squeeze.presses(this.#windowMs, now);
    if (shorterMs === this.#windowMs) return false;
    this.#windowMs = shorterMs;
    return true;
  }

  /** When the window has room for one more: the n-th last request has left it. */
  #roomAt(): number {
    return this.#sent.last(this.rate.value) + this.#windowMs + (this.#rule.kind === "fixed" ? 0 : JITTER_MS);
  }

  /**
   * When the next of what is beyond the known may go out: after the refusal of the one before would have come, and,
   * where a refusal names no rest, not right behind a burst, which may be what is refused.
   */
  #beyondFrom(): number {
    const next = this.#beyondAt + Math.min(BEYOND_EVERY_MS, this.#windowMs / this.rate.value / 2);
    if (this.#squeeze.isMeasured) return next;
    return Math.max(next, this.#sent.last(Math.ceil(this.rate.value / 4) + 1) + this.#windowMs / QUIET_PART);
  }

  /** When there is room by what has held so far; no later than by what is being tried. */
  #heldAt(): number {
    const windowMs = this.#squeeze.isMeasured ? this.#squeeze.provenMs : this.#windowMs;
    return this.#sent.last(this.rate.proven) + windowMs + JITTER_MS;
  }

  /**
   * Whether the key has come so near to a limit of its own that a refusal is no surprise. `unknown`: what counts as
   * near where none is known.
   */
  isNearLimit(now: number, unknown: number): boolean {
    if (this.inFlight >= this.concurrency.value || (this.#left <= 0 && this.#resetAt > now)) return true;
    const used = this.#sent.countSince(now - this.#windowMs);
    if (!this.rate.isKnown) return used >= unknown;
    return used >= 0.8 * this.rate.value || this.#sent.countSince(now - BURST_MS) >= 0.8 * this.#burst;
  }

  /** Learns from a refusal; the refused request has been uncounted and has ended already. */
  refused(refusal: RateRefusal, now: number): void {
    const { sentAt, restMs, reason, namedMs } = refusal;
    const isToldSo = reason === "concurrency" || namedMs === 0; // "now" can only mean: when another has ended
    if (isToldSo || this.#isAtConcurrency() || this.#repeatsInFlight(sentAt, now)) {
      if (this.inFlight > 0) this.concurrency.refused(this.inFlight, sentAt, restMs, now);
      if (!isToldSo) this.#forgetRate();
      this.#refusedAt = now;
      return;
    }
    if (this.#rule.kind !== "learnt") return;
    if (namedMs === null) this.#learnUnhinted(sentAt, restMs, now);
    else this.#learnHinted(sentAt, namedMs, now);
    this.#refusedAt = now;
    this.#paceBursts();
  }

  /** As many were under way as are known to be too many, or nearly. */
  #isAtConcurrency(): boolean {
    return this.concurrency.isKnown && this.inFlight >= this.concurrency.value - 1;
  }

  /**
   * Refused several times with just as many under way, and never with more, while the count of the last minute was
   * this time one and that time another: so it is not the count that is limited.
   */
  #repeatsInFlight(sentAt: number, now: number): boolean {
    if (sentAt <= this.#refusedAt) return false;
    const { inFlight } = this;
    const used = this.#sent.countSince(now - MINUTE_MS);
    // One that has just ended there may still be under way here.
    const isMost = inFlight > 0 && inFlight + 1 >= this.#borne;
    if (!isMost || inFlight !== this.#refusedInFlight) {
      this.#repeats = 0;
      this.#fewest = used;
      this.#most = used;
    }
    this.#repeats += 1;
    this.#fewest = Math.min(this.#fewest, used);
    this.#most = Math.max(this.#most, used);
    this.#refusedInFlight = inFlight;
    return isMost && this.#repeats >= SAME_IN_FLIGHT && this.#most > this.#fewest * OTHER_COUNT;
  }

  /**
   * The provider named when one more fits. Where n in a window are allowed, that is when the n-th last leaves it: so
   * the window is as long as that one is old, and the rest besides. A bucket looks the same, from refusal to refusal.
   */
  #learnHinted(sentAt: number, namedMs: number, now: number): void {
    const { rate } = this;
    const reachMs = Math.min(MINUTE_MS, Math.max(namedMs, rate.isKnown ? 1.25 * this.#windowMs : 0));
    const within = this.#sent.countSince(now - reachMs);
    if (!this.#tells(within, sentAt)) return;
    const bearing = Math.max(1, rate.isKnown ? Math.min(rate.value, within) : within);
    const isSameBurst = rate.isKnown && sentAt < Math.max(rate.changedAt, this.#squeeze.changedAt);
    if (!isSameBurst && this.#squeeze.fails(sentAt, now)) {
      this.#windowMs = this.#squeeze.provenMs;
    } else if (!isSameBurst) {
      const oldest = this.#sent.last(bearing);
      this.#windowMs = Math.min(namedMs + (oldest > 0 ? now - oldest : 0), MINUTE_MS);
      this.#squeeze.begins(this.#windowMs, now);
      rate.measured(bearing, sentAt, now);
    } else rate.measured(bearing, sentAt, now);
    if (this.#burst === Infinity || sentAt <= this.#burstSetAt) this.#limitBurst(rate.value, now);
  }

  /** Nothing was named: what went out in the time that the key rests for it is what it bears, until more proves to be. */
  #learnUnhinted(sentAt: number, restMs: number, now: number): void {
    const { rate } = this;
    if (!rate.isKnown) this.#windowMs = Math.min(restMs, MINUTE_MS);
    const used = this.#sent.countSince(now - this.#windowMs);
    if (!this.#tells(used, sentAt)) return;
    const recent = this.#sent.countSince(now - BURST_MS);
    // What went out at once tells of a burst, whatever the rate; what is tried beyond the rate does not go out at once.
    const isBurst = rate.isKnown && this.#burst > 1 && recent > 1 && recent >= used / 2;
    if (isBurst && sentAt >= rate.changedAt) {
      if (sentAt > this.#burstSetAt) this.#limitBurst(Math.min(recent, this.#burst - 1, rate.value), now);
      else this.#limitBurst(Math.min(recent, this.#burst), this.#burstSetAt);
      return;
    }
    this.#squeeze.ends();
    rate.refused(used, sentAt, restMs, now);
    if (this.#burst === Infinity || sentAt <= this.#burstSetAt) this.#limitBurst(rate.value, now);
  }

  /** A refusal after next to nothing may be about something else than the rate: it has to come twice. */
  #tells(count: number, sentAt: number): boolean {
    if (this.rate.isKnown || count >= TELLING) return true;
    const isTwice = count > 0 && count === this.#refusedCount && sentAt > this.#refusedAt;
    this.#refusedCount = count;
    return isTwice;
  }

  #limitBurst(burst: number, now: number): void {
    this.#burst = Math.max(1, burst);
    this.#burstSetAt = now;
  }

  /** The limit turned out to be another one. */
  #forgetRate(): void {
    this.rate.forget();
    this.#squeeze.ends();
    this.#burst = Infinity;
    this.#windowMs = MINUTE_MS;
    this.#paceBursts();
  }

  /** A burst that is smaller than what the window takes is a bucket's: it fills at the rate. */
  #paceBursts(): void {
    const before = this.#intervalMs;
    this.#intervalMs = this.#burst < this.rate.value ? this.#windowMs / this.rate.value : 0;
    if (this.#intervalMs === 0 || this.#intervalMs === before) return;
    this.#paidAt = 0;
    for (let nth = Math.min(this.#burst + 1, this.#sent.size); nth > 0; nth--)
      this.#paidAt = Math.max(this.#paidAt, this.#sent.last(nth)) + this.#intervalMs;
  }

  /** What an answer announced. `undecided`: others of this key that are under way, and may not be counted in it. */
  announced(budget: Budget, undecided: number, now: number): void {
    const { limit, remaining, resetAt, kind } = budget;
    if (this.#burst !== Infinity && now > this.#burstSetAt + BURST_FORGOTTEN_AFTER_MS) this.#burst = Infinity;
    if (kind === "leaky") {
      if (limit === null || limit <= remaining) return;
      this.#intervalMs = Math.max(0, resetAt - now) / (limit - remaining);
      this.#burst = limit;
      this.#paidAt = resetAt + undecided * this.#intervalMs;
      return;
    }
    this.#widestMs = Math.max(this.#widestMs, resetAt - now);
    if (limit !== null && limit !== this.#announcedLimit && this.#widestMs > 0.75 * MINUTE_MS) {
      this.#announcedLimit = limit;
      this.#windowMs = MINUTE_MS;
      this.rate.announced(limit, now);
      this.#burst = Infinity;
      this.#paceBursts();
    }
    const isNew = now >= this.#resetAt || resetAt > this.#resetAt + SAME_WINDOW_MS;
    this.#left = isNew ? remaining - undecided : Math.min(this.#left, remaining);
    this.#resetAt = Math.max(this.#resetAt, resetAt);
  }

  /** What was used of the key so far holds for the model too, whose limit shows itself only now. */
  copyUsage(other: Pacer): void {
    this.#sent.copyFrom(other.#sent);
    this.inFlight = other.inFlight;
  }

  state(): PacerState {
    const rate = this.#rule.kind === "learnt" ? this.rate.state() : null;
    return { rate, windowMs: this.#windowMs, concurrency: this.concurrency.state() };
  }

  restore({ rate, windowMs, concurrency }: PacerState): void {
    if (rate !== null && this.#rule.kind === "learnt") {
      this.#windowMs = Math.min(Math.max(1, windowMs), MINUTE_MS);
      this.rate.restore(rate);
    }
    if (concurrency !== null) this.concurrency.restore(concurrency);
  }
}

const HOLDS_AFTER_MS = 60_000;
const FIRST_PATIENCE_MS = 2 * 60_000;
const LONGEST_PATIENCE_MS = 3_600_000;
const FIRST_SQUEEZE = 0.1;
const LEAST_SQUEEZE = 0.02;
const MOST_SQUEEZE = 0.4;

/**
 * Tries whether a window that was measured is shorter in truth: rests are named in whole seconds, and limits change.
 * A refusal with a named rest costs little, so it is tried more often than a rate that is only guessed.
 */
class Squeeze {
  /** The window that held; 0: none was measured. */
  provenMs = 0;
  /** Epoch ms of the last change that a refusal made. */
  changedAt = 0;
  #share = FIRST_SQUEEZE;
  #isOnTrial = false;
  #triedAt = 0;
  #trialAt = 0;
  #patienceMs = FIRST_PATIENCE_MS;

  get isMeasured(): boolean {
    return this.provenMs > 0;
  }

  /** A window was measured. One that is much longer than the last may be too long. */
  begins(windowMs: number, now: number): void {
    const isSurprise = this.provenMs === 0 || windowMs > this.provenMs * 1.1;
    this.#trialAt = now + (isSurprise ? HOLDS_AFTER_MS : this.#patienceMs);
    this.changedAt = now;
    this.provenMs = windowMs;
    this.#isOnTrial = false;
  }

  ends(): void {
    this.provenMs = 0;
    this.#isOnTrial = false;
  }

  /** The window to go by now. */
  presses(windowMs: number, now: number): number {
    if (now < this.#trialAt) return windowMs;
    if (this.#isOnTrial) {
      this.#patienceMs = FIRST_PATIENCE_MS;
      this.#share = Math.min(this.#share * 2, MOST_SQUEEZE);
    }
    this.provenMs = windowMs;
    this.#isOnTrial = true;
    this.#triedAt = now;
    this.#trialAt = now + Math.max(HOLDS_AFTER_MS, 2 * windowMs);
    return windowMs * (1 - this.#share);
  }

  /** A refusal: whether it answers the trial. Then the window is `provenMs` again. */
  fails(sentAt: number, now: number): boolean {
    if (!this.#isOnTrial || sentAt < this.#triedAt) return false;
    this.#isOnTrial = false;
    this.changedAt = now;
    this.#share = Math.max(this.#share / 2, LEAST_SQUEEZE);
    this.#patienceMs = Math.min(this.#patienceMs * 2, LONGEST_PATIENCE_MS);
    this.#trialAt = now + this.#patienceMs;
    return true;
  }
}
