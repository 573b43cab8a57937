/**
 * When a key (or a model on it) may be asked once more without being refused: what is known of its limits, and what
 * it has used of them.
 *
 * Three things are known from three sources. A rate, requests in any 60 s: set by `RPM=n`, or found out by refusals
 * (`Bound`). How many at once: found out likewise. A budget: announced by the provider in the headers of its answers.
 * Usage is counted in slots of a quarter of a second, so that a count costs nothing to keep, and a window is never
 * shorter than the provider's own.
 */
import { Bound } from "./bound.ts";
import type { BoundState } from "./bound.ts";
import type { Budget } from "./budget.ts";

/** Nothing but the end of an attempt under way makes the key ready. */
export const AFTER_AN_EVENT = Number.MAX_SAFE_INTEGER;

const WINDOW_MS = 60_000;
const SLOT_MS = 250;
/** A power of two, above the slots of the longest window. */
const RING = 256;
/** A request counts from the beginning of its slot, and may have been sent at the end of it. */
const MARGIN_SLOTS = 1;
const LONGEST_WINDOW_MS = (RING - 2 * MARGIN_SLOTS - 1) * SLOT_MS;
/** How far back refusals are explained from. */
const HISTORY_MS = WINDOW_MS;
/** A share from which on a limit counts as reached. */
const NEARLY = 0.9;
/** A refusal after fewer requests than these tells nothing of a rate by itself. */
const TELLING = 4;
/** So many refusals in a row with the same number under way are no chance. */
const SAME_IN_FLIGHT = 3;
/** A reset that is told in whole seconds may have been rounded down, and clocks differ. */
const RESET_MARGIN_MS = 250;
/** Announced windows that differ by less are the same one. */
const SAME_WINDOW_MS = 1500;
/** What goes out within this time is a burst. */
const BURST_MS = 2000;
/** How long a key that was refused for a burst is not tried with a larger one. */
const BURST_FORGOTTEN_AFTER_MS = 30 * 60_000;

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
  /** Requests sent and not refused, by quarter seconds; null: none yet. */
  #sent: Uint16Array | null = null;
  /** The latest slot written, since the epoch. */
  #slot = 0;
  /** What is in the window that ends with `#slot`, and how long that is. */
  #inWindow = 0;
  #windowMs = WINDOW_MS;
  #windowSlots = WINDOW_MS / SLOT_MS + MARGIN_SLOTS;
  /** The last refusal, how many were under way then, and how often in a row it was as many. */
  #refusedAt = 0;
  #refusedInFlight = 0;
  #lastCount = 0;
  #repeats = 0;
  inFlight = 0;
  /** How many may go out together at once after a rest; Infinity: as many as the rate allows. */
  #burst = Infinity;
  #burstSetAt = 0;
  /** Where bursts are limited: epoch ms at which all that was sent is paid for, at `#intervalMs` each. */
  #paidAt = 0;
  #intervalMs = 0;
  /** The announced budget: how many are left until `#resetAt`. */
  #left = Infinity;
  #resetAt = 0;
  #announcedLimit = 0;
  /** The longest way to a reset that was seen: how long the announced window is, at least. */
  #widestMs = 0;

  constructor(rule: RateRule) {
    this.#rule = rule;
    if (rule.kind === "fixed") this.rate.value = rule.perMinute;
  }

  /** From now on this rule holds; what was learnt stays where learning does. */
  follow(rule: RateRule): void {
    if (rule.kind === "fixed" || rule.kind === "none" || this.#rule.kind === "fixed") this.#forgetRate();
    if (rule.kind === "fixed") this.rate.value = rule.perMinute;
    this.#rule = rule;
    this.#paceBursts();
  }

  /** The requests a minute that are known to pass; null: not known. */
  get perMinute(): number | null {
    return this.rate.isKnown ? Math.round((this.rate.value * WINDOW_MS) / this.#windowMs) : null;
  }

  /** A request goes out. */
  sends(now: number): void {
    this.#turnTo(now);
    this.#sent ??= new Uint16Array(RING);
    const at = this.#slot & (RING - 1);
    this.#sent[at] = (this.#sent[at] ?? 0) + 1;
    this.#inWindow += 1;
    this.inFlight += 1;
    this.#left -= 1;
    if (this.#intervalMs > 0) this.#paidAt = Math.max(this.#paidAt, now) + this.#intervalMs;
  }

  /** A request has ended. */
  ends(): void {
    this.inFlight = Math.max(0, this.inFlight - 1);
  }

  /** A request that the provider did not count. */
  uncounts(sentAt: number, now: number): void {
    this.#turnTo(now);
    const slot = Math.floor(sentAt / SLOT_MS);
    if (this.#sent === null || slot <= this.#slot - RING) return;
    const at = slot & (RING - 1);
    if (this.#sent[at] === 0) return;
    this.#sent[at] = (this.#sent[at] ?? 0) - 1;
    if (slot > this.#slot - this.#windowSlots) this.#inWindow -= 1;
  }

  /** Epoch ms from which one more may be sent; `AFTER_AN_EVENT`: when one of those under way ends. */
  nextAt(now: number): number {
    if (this.inFlight >= this.concurrency.value && !this.concurrency.presses(now)) return AFTER_AN_EVENT;
    let at = 0;
    if (this.rate.value !== Infinity) {
      this.#turnTo(now);
      if (this.#inWindow >= this.rate.value && !this.#raises(now)) at = this.#roomAt();
    }
    if (this.#left <= 0 && this.#resetAt > now) at = Math.max(at, this.#resetAt + RESET_MARGIN_MS);
    if (this.#intervalMs > 0) at = Math.max(at, this.#paidAt - (this.#burst - 1) * this.#intervalMs);
    return at;
  }

  #raises(now: number): boolean {
    if (this.#rule.kind !== "learnt" || !this.rate.presses(now)) return false;
    this.#paceBursts();
    return this.#inWindow < this.rate.value;
  }

  /** When the oldest requests leave the window, so that one more has room. */
  #roomAt(): number {
    let over = this.#inWindow - this.rate.value;
    for (let slot = this.#slot - this.#windowSlots + 1; slot <= this.#slot; slot++) {
      over -= this.#sent?.[slot & (RING - 1)] ?? 0;
      if (over < 0) return (slot + this.#windowSlots) * SLOT_MS;
    }
    return 0;
  }

  /** Whether the key has come so near to a limit of its own that a refusal is no surprise. `unknown`: what counts as near where none is known. */
  isNearLimit(now: number, unknown: number): boolean {
    this.#turnTo(now);
    if (this.inFlight >= this.concurrency.value || (this.#left <= 0 && this.#resetAt > now)) return true;
    return this.#inWindow >= (this.rate.isKnown ? 0.8 * this.rate.value : unknown);
  }

  /** Learns from a refusal; the refused request has been uncounted and ended already. */
  refused(refusal: RateRefusal, now: number): void {
    const { sentAt, restMs, reason, namedMs } = refusal;
    this.#turnTo(now);
    const isToldSo = reason === "concurrency" || namedMs === 0; // "now" can only mean: when another has ended
    if (isToldSo || this.#repeatsInFlight(sentAt)) {
      if (this.inFlight > 0) this.concurrency.refused(this.inFlight, sentAt, restMs, now);
      if (!isToldSo) this.#forgetRate();
      return;
    }
    if (this.#rule.kind !== "learnt") return;
    if (namedMs === null) this.#learnUnhinted(sentAt, restMs, now);
    else this.#learnHinted(sentAt, namedMs, now);
    if (sentAt <= this.#burstSetAt || this.#burst === Infinity) this.#limitBurst(this.rate.value, now);
    this.#paceBursts();
    this.#refusedAt = now;
  }

  /** Refused three times with just as many under way, whatever the rate: so it is that which is limited. */
  #repeatsInFlight(sentAt: number): boolean {
    if (sentAt <= this.#refusedAt) return false;
    const isSame = this.inFlight > 0 && this.inFlight === this.#refusedInFlight;
    this.#refusedInFlight = this.inFlight;
    this.#repeats = isSame ? this.#repeats + 1 : 1;
    return this.#repeats >= SAME_IN_FLIGHT && this.inFlight < this.rate.value / 2;
  }

  /**
   * The provider named when one more fits. Where n in a window are allowed, that is when the n-th last leaves it: so
   * the window is as long as that one is old, and the rest besides. A bucket looks the same, from refusal to refusal.
   */
  #learnHinted(sentAt: number, namedMs: number, now: number): void {
    const { rate } = this;
    const reachMs = Math.min(
      HISTORY_MS,
      Math.max(namedMs, rate.isKnown ? 1.25 * this.#windowMs : 0, SLOT_MS),
    );
    const within = this.#countSince(now - reachMs);
    if (!this.#tells(within, sentAt)) return;
    const bearing = Math.max(1, rate.isKnown ? Math.min(rate.value, within) : within);
    const isSameBurst = rate.isKnown && sentAt <= rate.changedAt;
    if (!isSameBurst) this.#setWindow(namedMs + this.#ageOf(bearing, now));
    rate.measured(bearing, sentAt, now);
  }

  /** Nothing was named: what went out in the time that the key rests for it is what it bears, until more proves to be. */
  #learnUnhinted(sentAt: number, restMs: number, now: number): void {
    const { rate } = this;
    if (!rate.isKnown) this.#setWindow(Math.min(restMs, WINDOW_MS));
    const used = this.#inWindow;
    if (!this.#tells(used, sentAt)) return;
    const isBelowRate = rate.isKnown && used < rate.value * NEARLY;
    const recent = this.#countSince(now - BURST_MS);
    const isBurst = isBelowRate && this.#burst > 1 && recent > 1 && recent >= used / 2;
    if (!isBurst || sentAt <= rate.changedAt) rate.refused(used, sentAt, restMs, now);
    else if (sentAt > this.#burstSetAt) this.#limitBurst(Math.min(recent, this.#burst - 1), now);
  }

  /** A refusal after next to nothing may be about something else than the rate: it has to come twice. */
  #tells(count: number, sentAt: number): boolean {
    if (this.rate.isKnown || count >= TELLING) return true;
    const isTwice = count > 0 && count === this.#lastCount && sentAt > this.#refusedAt;
    this.#lastCount = count;
    return isTwice;
  }

  /** How old the `count`-th last request is, in ms, to the quarter second. */
  #ageOf(count: number, now: number): number {
    let left = count;
    for (let slot = this.#slot; slot > this.#slot - RING; slot--) {
      left -= this.#sent?.[slot & (RING - 1)] ?? 0;
      if (left <= 0) return Math.max(0, now - slot * SLOT_MS);
    }
    return 0;
  }

  #countSince(at: number): number {
    let count = 0;
    for (let slot = this.#slot; slot >= Math.floor(at / SLOT_MS) && slot > this.#slot - RING; slot--) {
      count += this.#sent?.[slot & (RING - 1)] ?? 0;
    }
    return count;
  }

  #setWindow(ms: number): void {
    this.#windowMs = Math.min(Math.max(ms, SLOT_MS), LONGEST_WINDOW_MS);
    this.#windowSlots = Math.ceil(this.#windowMs / SLOT_MS) + MARGIN_SLOTS;
    this.#inWindow = this.#countSince((this.#slot - this.#windowSlots + 1) * SLOT_MS);
  }

  #limitBurst(burst: number, now: number): void {
    this.#burst = Math.max(1, burst);
    this.#burstSetAt = now;
  }

  /** The limit turned out to be another one. */
  #forgetRate(): void {
    this.rate.forget();
    this.#burst = Infinity;
    this.#setWindow(WINDOW_MS);
    this.#paceBursts();
  }

  /** A burst that is smaller than what the window takes is a bucket's: it fills at the rate. */
  #paceBursts(): void {
    this.#intervalMs = this.#burst < this.rate.value ? this.#windowMs / this.rate.value : 0;
  }

  /** What an answer announced. `undecided`: others of this key that are under way, and may not be counted in it. */
  announced(budget: Budget, undecided: number, now: number): void {
    const { limit, remaining, resetAt, kind } = budget;
    if (budget.span !== "minute") return;
    if (kind === "leaky") {
      if (limit === null || limit <= remaining) return;
      this.#intervalMs = Math.max(0, resetAt - now) / (limit - remaining);
      this.#burst = limit;
      this.#paidAt = resetAt + undecided * this.#intervalMs;
      return;
    }
    this.#widestMs = Math.max(this.#widestMs, resetAt - now);
    if (limit !== null && limit !== this.#announcedLimit && this.#widestMs > 0.75 * WINDOW_MS) {
      this.#announcedLimit = limit;
      if (this.#rule.kind === "learnt") {
        this.#setWindow(WINDOW_MS);
        this.rate.announced(limit, now);
      }
    }
    const isNew = now >= this.#resetAt || resetAt > this.#resetAt + SAME_WINDOW_MS;
    this.#left = isNew ? remaining - undecided : Math.min(this.#left, remaining);
    this.#resetAt = Math.max(this.#resetAt, resetAt);
  }

  /** Keys of one provider mostly have the same limits. */
  adopt(other: Pacer): void {
    if (this.#rule.kind === "learnt" && this.#windowMs === other.#windowMs) this.rate.adopt(other.rate);
    this.concurrency.adopt(other.concurrency);
  }

  /** What was used of the key so far holds for the model too, whose limit shows itself only now. */
  copyUsage(other: Pacer): void {
    this.#sent = other.#sent?.slice() ?? null;
    this.#slot = other.#slot;
    this.#setWindow(WINDOW_MS);
  }

  #turnTo(now: number): void {
    const slot = Math.floor(now / SLOT_MS);
    if (slot <= this.#slot) return;
    if (this.#sent !== null && this.#inWindow > 0) {
      // Slots that leave the window, and those that are to be written again.
      const steps = Math.min(slot - this.#slot, this.#windowSlots);
      for (let step = 0; step < steps; step++) {
        const leaving = this.#slot - this.#windowSlots + 1 + step;
        this.#inWindow -= this.#sent[leaving & (RING - 1)] ?? 0;
      }
    }
    if (this.#sent !== null) {
      if (slot - this.#slot >= RING) this.#sent.fill(0);
      else for (let at = this.#slot + 1; at <= slot; at++) this.#sent[at & (RING - 1)] = 0;
    }
    this.#slot = slot;
    if (
      this.#burst !== Infinity &&
      this.#rule.kind === "learnt" &&
      now > this.#burstSetAt + BURST_FORGOTTEN_AFTER_MS
    ) {
      this.#burst = Infinity;
      this.#paceBursts();
    }
  }

  state(): PacerState {
    const rate = this.#rule.kind === "learnt" ? this.rate.state() : null;
    return { rate, windowMs: this.#windowMs, concurrency: this.concurrency.state() };
  }

  restore({ rate, windowMs, concurrency }: PacerState): void {
    if (rate !== null && this.#rule.kind === "learnt") {
      this.#setWindow(windowMs);
      this.rate.restore(rate);
    }
    if (concurrency !== null) this.concurrency.restore(concurrency);
  }
}
