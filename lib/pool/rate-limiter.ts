/**
 * When a key (or a model on it) may be asked once more without being refused: what is known of its limits, and what
 * it has used of them.
 *
 * Known are, from four sources: a rate that is set (`RPM=n`); a budget that the provider announces in the headers of
 * its answers; what the times tell that it names with refusals (`PaceEstimator` for a limit that fills up within
 * seconds, `WindowTrial` for a long window); and where it names none, what had passed when it refused, raised from
 * there by trial (`AdaptiveLimit`): of how many go out in a window, or of how many are under way at once.
 *
 * `readyAt` changes nothing. What was learnt is raised by `onBlocked` only, when a request had to wait for it.
 */
import type { ProviderConfig } from "../config/provider-settings.ts";
import { MINUTE_MS } from "../core/clock.ts";
import type { Budget } from "../providers/rate-limit-headers.ts";
import { AdaptiveLimit, PaceEstimator, WindowTrial } from "./limit-learning.ts";
import type { AdaptiveLimitState } from "./limit-learning.ts";
import { LONGEST_HISTORY, SlidingLog, TokenBucket } from "./counters.ts";

/** No time makes the key ready, only the end of an attempt under way. */
export const AFTER_AN_EVENT = Number.MAX_SAFE_INTEGER;

/** What was sent a window ago may have arrived later than what is sent now will: a window is so much longer here. */
const JITTER_MS = 100;
/** A reset that is told in whole seconds may have been rounded down, and clocks differ. */
const RESET_MARGIN_MS = 250;
/** Announced windows whose ends differ by less are the same one. */
const SAME_WINDOW_MS = 1500;
/** The slowest pace that an announced bucket showed is believed for a while: with each answer so much less. */
const LEAKY_DECAY = 0.998;
/** A limit that lets more in within this time is a pace rather than a window. */
const LONGEST_PACE_MS = 10_000;
/** What goes out within this time is a burst. */
const BURST_MS = 2000;
/** What passes so much more slowly than a window would let it is no window. */
const SLOWER_THAN_WINDOW = 1.25;
/**
 * Of what passed before a refusal without a named rest so much may go out at once; what was refused as a burst less.
 */
const BURST_SHARE = 0.5;
const REFUSED_BURST_SHARE = 0.8;
/** A refusal after fewer requests than these tells nothing of a rate by itself. */
const LEAST_SENT = 4;
/** So many refusals in a row with the same number under way are no chance; with the same count too, twice as many. */
const SAME_DEPTH_HINTED = 3;
const SAME_DEPTH = 2;
/** Counts of which one is so many times the other are not the same. */
const OTHER_COUNT = 1.3;
/** From this share of a limit on, instances that share it take turns. */
const TIGHT_FROM = 0.75;
/** What others sent before a refusal, and what of it was refused, is heard within this time. */
const HEARD_WITHIN_MS = 2000;
/** What an instance sends becomes known to the others within this time. */
const NEWS_WITHIN_MS = 150;
/** From this share of a limit on, a refusal is no surprise. */
const NEARLY = 0.8;
/** A refusal of what is tried beyond the known comes within this time. */
const BEYOND_EVERY_MS = 1000;
/** How long it is remembered that more were under way at once without a refusal. */
const MOST_HOLDS_FOR_MS = 10 * MINUTE_MS;
/** Ends that are remembered, to tell how many were under way when a request went out. */
const ENDS = 16;
/** Who was asked this lately before may have met a limit of so many in a second, the way there and back included. */
const AT_ONCE_MS = 1500;

/** How the rate of a key is known. */
export type RateRule = { kind: "fixed"; perMinute: number } | { kind: "learnt" } | { kind: "none" };

/** What is kept over a restart. */
export interface RateLimiterState {
  rate: AdaptiveLimitState | null;
  /** Length of the window that `rate` counts in, in ms. */
  windowMs: number;
  concurrency: AdaptiveLimitState | null;
  /** Ms between two requests at a pace that was measured; 0: none was. And how many may go out together. */
  intervalMs: number;
  burst: number;
}

/** What a refusal says of limits. */
export interface RateRefusal {
  /** When the refused request was sent; epoch ms. */
  sentAt: number;
  /** How long the provider named; null: no time. */
  namedMs: number | null;
  /** How long the key cools for it. */
  restMs: number;
  reason: "rate_limit" | "concurrency";
}

export class RateLimiter {
  readonly rate = new AdaptiveLimit();
  readonly concurrency = new AdaptiveLimit();
  readonly #bucket = new TokenBucket();
  readonly #pace = new PaceEstimator(this.#bucket);
  readonly #windowTrial = new WindowTrial();
  #rule: RateRule;
  /** Requests sent and not refused. */
  #sent: SlidingLog;
  /** `rate` is how many of them may be in any window of this length. */
  #windowMs = MINUTE_MS;
  inFlight = 0;
  /** The same with other instances that share the pool. */
  inFlightElsewhere = 0;
  /** Answers under way; the most that were at once, and when. And when the last ones ended. */
  #answering = 0;
  #mostAnswering = 0;
  #mostAt = 0;
  readonly #ended = new SlidingLog(ENDS);
  /** That the number under way is limited was said, or shown more than once. */
  #isDepthCertain = false;
  /** When it was found out how many may go out together, where no rest is named. */
  #burstSetAt = 0;
  /** When a request last went out that was more than had held before; epoch ms. */
  #beyondAt = 0;
  /** The announced budget: how many are left until `#resetAt`. */
  #left = Infinity;
  #resetAt = 0;
  #announcedLimit = 0;
  /** A bucket is announced, which `#bucket` follows; and how fast it fills when it is empty, in ms; 0: not seen yet. */
  #isLeaky = false;
  #leakyMs = 0;
  /** The longest way to a reset that was seen: how long the announced window is, at least. */
  #widestMs = 0;
  /** The last refusal, how many were in the window and under way then, and how often in a row it was as many. */
  #refusedAt = 0;
  /** Until when others may still tell what they sent before a first refusal; epoch ms. */
  #hearsUntil = 0;
  /** When one more was to fit after the last refusal that named a rest; epoch ms. */
  #fitsAt = 0;
  #refusedCount = 0;
  #refusedDepth = 0;
  #repeats = 0;
  #fewest = 0;
  #most = 0;

  constructor(rule: RateRule) {
    this.#rule = rule;
    this.#sent = historyFor(rule);
    if (rule.kind === "fixed") this.rate.value = rule.perMinute;
  }

  /** From now on this rule holds; what was learnt stays where learning does. */
  follow(rule: RateRule): void {
    if (rule.kind !== "learnt" || this.#rule.kind === "fixed") this.#forgetRate();
    if (rule.kind === "fixed" || this.#rule.kind === "fixed") {
      const before = this.#sent;
      this.#sent = historyFor(rule);
      this.#sent.copyFrom(before);
    }
    if (rule.kind === "fixed") this.rate.value = rule.perMinute;
    this.#rule = rule;
  }

  /** The requests a minute that are known to pass; null: not known. */
  get perMinute(): number | null {
    if (this.#pace.isOn) return Math.round(MINUTE_MS / this.#bucket.intervalMs);
    return this.rate.isKnown ? Math.round((this.rate.value * MINUTE_MS) / this.#windowMs) : null;
  }

  /** Whether anything is known of its limits that was not set. */
  get hasLearnt(): boolean {
    return (
      this.concurrency.isKnown || (this.#rule.kind === "learnt" && (this.rate.isKnown || this.#pace.isOn))
    );
  }

  /** A request goes out. `isUncounted`: it counts against no rate that was set. */
  onSent(now: number, isUncounted = false): void {
    if (this.#rule.kind === "learnt" && this.rate.isKnown && now < this.#heldAt()) this.#beyondAt = now;
    const isLogged = this.#rule.kind === "learnt" || (this.#rule.kind === "fixed" && !isUncounted);
    if (isLogged) this.#sent.add(now, now - MINUTE_MS);
    this.inFlight += 1;
    this.#left -= 1;
    if (this.#pace.isOn) this.#pace.onSent(now);
    this.#bucket.onSent(now);
  }

  /** Another instance that shares the pool sent one. `isUncounted` as in `onSent`. */
  onSentElsewhere(now: number, isUncounted: boolean): void {
    this.onSent(now, isUncounted);
    this.inFlight -= 1; // `inFlightElsewhere` counts it
    if (this.isRecounting(now)) this.rate.recount(1); // sent before others knew of the refusal
  }

  /** One that another instance sent was refused. */
  refundElsewhere(now: number): void {
    if (this.#sent.size === 0) return;
    this.refund(this.#sent.last(1));
    if (this.isRecounting(now)) this.rate.recount(-1);
  }

  /** Whether what others tell still changes what was learnt from a first refusal. */
  isRecounting(now: number): boolean {
    return now < this.#hearsUntil;
  }

  /** An answer has begun. */
  onResponseStarted(now: number): void {
    this.#answering += 1;
    if (this.#answering < this.#mostAnswering && now < this.#mostAt + MOST_HOLDS_FOR_MS) return;
    this.#mostAnswering = this.#answering;
    this.#mostAt = now;
  }

  /** A request has ended, one whose answer had begun or another. */
  onEnded({ hasStarted }: { hasStarted: boolean }, now: number): void {
    if (this.inFlight > 0) this.inFlight -= 1;
    if (!hasStarted || this.#answering === 0) return;
    this.#answering -= 1;
    if (this.#rule.kind === "learnt") this.#ended.add(now, now - MINUTE_MS);
  }

  /** A request that the provider did not count. */
  refund(sentAt: number): void {
    if (this.#rule.kind === "fixed") return; // who sets a number means what is sent, whatever comes of it
    this.#sent.remove(sentAt);
    this.#pace.refund(sentAt);
    this.#bucket.refund();
  }

  /** A request that was sent turned out to count against no rate that was set. */
  uncount(sentAt: number): void {
    if (this.#rule.kind === "fixed") this.#sent.remove(sentAt);
  }

  /**
   * Epoch ms from which one more may be sent; `AFTER_AN_EVENT`: when one of those under way ends. `isUncounted`: for
   * what counts against no rate that was set.
   */
  readyAt(now: number, isUncounted = false): number {
    if (this.inFlight + this.inFlightElsewhere >= this.concurrency.value) return AFTER_AN_EVENT;
    const isUnlimited = this.rate.value === Infinity || (isUncounted && this.#rule.kind === "fixed");
    let at = isUnlimited ? 0 : this.#windowAt(now);
    // More at once than has held goes out by itself: a burst would be refused as a burst.
    if (this.concurrency.isOnTrial && this.inFlight >= this.concurrency.proven)
      at = Math.max(at, this.#sent.last(1) + BURST_MS);
    at = Math.max(at, this.#announcedAt);
    return this.#bucket.isOn ? Math.max(at, this.#bucket.readyAt) : at;
  }

  /** The same by what is set or announced alone, whatever was learnt from refusals. */
  get readyAtIfNotLearnt(): number {
    const ruleAt = this.#rule.kind === "fixed" ? this.#roomAt() : 0;
    return Math.max(ruleAt, this.#announcedAt, this.#isLeaky ? this.#bucket.readyAt : 0);
  }

  /** When the announced window begins anew, where nothing is left of it. */
  get #announcedAt(): number {
    return this.#left <= 0 ? this.#resetAt + RESET_MARGIN_MS : 0;
  }

  /** A request has to wait for this: what was learnt, and has held for a while, is raised. Returns whether it was. */
  onBlocked(now: number): boolean {
    const isFull = this.inFlight >= this.concurrency.value;
    if (isFull && !this.concurrency.onBlocked(now)) return false;
    const isUsedUp = this.#rule.kind === "learnt" && this.rate.isKnown && this.#isFilled(now);
    const isRateRaised = isUsedUp && this.#raiseRate(now);
    const isPaceRaised = this.#pace.isOn && this.#bucket.readyAt > now && this.#pace.onBlocked(now);
    return isFull || isRateRaised || isPaceRaised;
  }

  /** Whether the window has no room, and is not about to have some: then a trial would say nothing. */
  #isFilled(now: number): boolean {
    const roomAt = this.#roomAt();
    return roomAt > now && (roomAt > now + BURST_MS || this.#sent.last(1) > now - BURST_MS);
  }

  #raiseRate(now: number): boolean {
    if (this.#windowTrial.isMeasured) {
      const shorterMs = this.#windowTrial.onBlocked(this.#windowMs, now);
      if (shorterMs === this.#windowMs) return false;
      this.#windowMs = shorterMs;
    } else if (!this.rate.onBlocked(now)) {
      return false;
    }
    this.#spreadBursts();
    return true;
  }

  /** When the window has room for one more. */
  #windowAt(now: number): number {
    const at = this.#roomAt();
    // What goes beyond what held goes one by one: a burst would be refused as a burst.
    return at <= now && this.#rule.kind !== "fixed" ? Math.min(this.#heldAt(), this.#beyondFrom()) : at;
  }

  /** When the window has room for one more: the n-th last request has left it. */
  #roomAt(): number {
    return this.#sent.last(this.rate.value) + this.#windowMs + JITTER_MS;
  }

  /** When the next of what is beyond the known may go out: after the refusal of the one before would have come. */
  #beyondFrom(): number {
    return this.#beyondAt + Math.min(BEYOND_EVERY_MS, this.#windowMs / this.rate.value / 2);
  }

  /** When there is room by what has held so far; no later than by what is being tried. */
  #heldAt(): number {
    const windowMs = this.#windowTrial.isMeasured ? this.#windowTrial.provenMs : this.#windowMs;
    return this.#sent.last(this.rate.proven) + windowMs + JITTER_MS;
  }

  /**
   * Whether the key has come so near to a limit of its own that a refusal is no surprise. `unknown`: what counts as
   * near where none is known.
   */
  isNearLimit(now: number, unknown: number): boolean {
    if (this.inFlight >= this.concurrency.value || (this.#left <= 0 && this.#resetAt > now)) return true;
    if (this.#sent.last(1) > now - AT_ONCE_MS) return true;
    return this.rate.isKnown
      ? this.isNearlyUsedUp(now)
      : this.#sent.countSince(now - this.#windowMs) >= unknown;
  }

  /** Whether the rate that is known to pass has nearly been used; false where none is known. */
  isNearlyUsedUp(now: number): boolean {
    if (!this.rate.isKnown) return false;
    return this.#sent.countSince(now - this.#windowMs) >= NEARLY * this.rate.proven;
  }

  /**
   * Whether so little is left of a limit that is not exact that instances which share it have to take turns, because
   * what each of them sends becomes known to the others only a moment later.
   */
  isTight(now: number, instances: number): boolean {
    if (this.#rule.kind === "fixed") return false;
    // Others may have sent as much lately, of which nothing has been heard.
    const unheard = (instances - 1) * this.#sent.countSince(now - NEWS_WITHIN_MS);
    const spare = instances + unheard;
    if (this.#resetAt > now && this.#left <= Math.max(spare, this.#announcedLimit * (1 - TIGHT_FROM)))
      return true;
    if (this.concurrency.isKnown && this.inFlight + this.inFlightElsewhere >= this.concurrency.value - spare)
      return true;
    if (this.#bucket.isOn) return true;
    if (!this.rate.isKnown) return false;
    const used = this.#sent.countSince(now - this.#windowMs);
    return used + unheard >= TIGHT_FROM * this.rate.value;
  }

  /** What is left of the announced window, and until when; null: nothing is announced, or it is over. */
  announcedLeft(now: number): { left: number; resetAt: number } | null {
    if (this.#left === Infinity || this.#resetAt <= now) return null;
    return { left: Math.max(0, this.#left), resetAt: this.#resetAt };
  }

  /** Another instance was told what is left of the announced window. */
  hearAnnounced(left: number, resetAt: number): void {
    const isNew = resetAt > this.#resetAt + SAME_WINDOW_MS;
    this.#left = isNew ? left : Math.min(this.#left, left);
    this.#resetAt = Math.max(this.#resetAt, resetAt);
  }

  /** Learns from a refusal; the refused request has been refunded and has ended already. */
  onRefused(refusal: RateRefusal, now: number): void {
    const { sentAt, restMs, reason, namedMs } = refusal;
    const isFirst = !this.rate.isKnown;
    const isToldSo = reason === "concurrency" || namedMs === 0; // "now" can only mean: when another has ended
    const isRepeated = this.#isRepeatedly(sentAt, namedMs !== null, now);
    if (isToldSo || isRepeated || this.#isTooDeep(sentAt, namedMs !== null, now)) {
      this.#isDepthCertain ||= isToldSo || isRepeated;
      if (this.inFlight > 0) this.concurrency.onRefused(this.inFlight, sentAt, restMs, now);
      if (isRepeated && !isToldSo && this.#rule.kind === "learnt") this.#forgetRate();
    } else if (this.#rule.kind === "learnt") {
      if (!this.#isDepthCertain) this.concurrency.forget(); // refused with fewer under way
      if (namedMs === null) this.#learnUnhinted(sentAt, restMs, now);
      else this.#learnHinted(sentAt, namedMs, now);
    }
    if (isFirst && this.rate.isKnown) this.#hearsUntil = now + Math.min(restMs, HEARD_WITHIN_MS);
    this.#refusedAt = now;
  }

  /**
   * Whether more were under way when it was sent than ever passed, and that is known to be the reason, or taken for
   * it: where no rest is named, and what went out in the last minute tells nothing, because it is all still under way
   * or is less than what passed before. If that was not the reason, the next refusal comes with fewer under way.
   */
  #isTooDeep(sentAt: number, isHinted: boolean, now: number): boolean {
    const deep = this.#depthOf(sentAt);
    const { concurrency, rate } = this;
    if (concurrency.isKnown) return deep >= concurrency.proven || concurrency.isOld(sentAt);
    if (isHinted || deep === 0 || deep < this.#mostAnswering) return false;
    const used = this.#sent.countSince(now - this.#windowMs) - this.#sent.countSince(sentAt + 1);
    if (!rate.isKnown) return used <= OTHER_COUNT * deep;
    return used < NEARLY * rate.proven && !this.#isBurst(used, now);
  }

  /**
   * Refused several times with just as many under way, and never with more, while the count of the last minute was
   * this time one and that time another: so it is not the count that is limited.
   */
  #isRepeatedly(sentAt: number, isHinted: boolean, now: number): boolean {
    if (sentAt <= this.#refusedAt) return false;
    const deep = this.#depthOf(sentAt);
    const used = this.#sent.countSince(now - MINUTE_MS);
    const isMost = deep > 0 && deep >= this.#mostAnswering;
    if (!isMost || deep !== this.#refusedDepth) {
      this.#repeats = 0;
      this.#fewest = used;
      this.#most = used;
    }
    this.#repeats += 1;
    this.#fewest = Math.min(this.#fewest, used);
    this.#most = Math.max(this.#most, used);
    this.#refusedDepth = deep;
    if (!isMost) return false;
    const enough = isHinted ? SAME_DEPTH_HINTED : SAME_DEPTH;
    return this.#repeats >= (this.#most > this.#fewest * OTHER_COUNT ? enough : 2 * enough);
  }

  /** How many others were under way when a request was sent, of those that have not been refused by now. */
  #depthOf(sentAt: number): number {
    return this.inFlight + this.#ended.countSince(sentAt + 1) - this.#sent.countSince(sentAt + 1);
  }

  /**
   * The provider named when one more fits. Where n in a window are allowed, that is when the n-th last leaves it: so
   * the window is as long as that one is old, and the rest besides.
   */
  #learnHinted(sentAt: number, namedMs: number, now: number): void {
    const { rate } = this;
    if (this.#pace.isOn && !this.#pace.isBefore(sentAt))
      return this.#pace.onRefused(sentAt, now + namedMs, now);
    if (this.#isLeaky) return this.#bucket.fitsAt(now + namedMs);
    const reachMs = Math.min(MINUTE_MS, Math.max(namedMs, rate.isKnown ? 1.25 * this.#windowMs : 0));
    const within = this.#sent.countSince(now - reachMs);
    const count = Math.max(1, rate.isKnown ? Math.min(rate.value, within) : within);
    const oldest = this.#sent.last(count);
    const windowMs = Math.min(namedMs + (oldest > 0 ? now - oldest : 0), MINUTE_MS);
    const isSameBurst = rate.isOld(sentAt) || (rate.isKnown && sentAt <= this.#windowTrial.changedAt);
    const passedMs = isSameBurst ? 0 : this.#intervalSinceRefusal(namedMs, now);
    this.#fitsAt = now + namedMs;
    if (windowMs <= LONGEST_PACE_MS) return this.#followPace(windowMs / count, namedMs, now);
    if (rate.isKnown && passedMs > (SLOWER_THAN_WINDOW * this.#windowMs) / rate.value)
      return this.#followPace(passedMs, namedMs, now);
    if (!this.#tells(within, sentAt)) return;
    if (count === 1) return this.#followPace(windowMs, namedMs, now);
    if (isSameBurst) rate.onMeasured(count, sentAt, now);
    else if (this.#windowTrial.onRefused(sentAt, now)) this.#windowMs = this.#windowTrial.provenMs;
    else {
      this.#windowMs = windowMs;
      this.#windowTrial.onMeasured(windowMs, now);
      rate.onMeasured(count, sentAt, now);
    }
  }

  /** The limit fills up steadily: it is measured as a pace. */
  #followPace(intervalMs: number, namedMs: number, now: number): void {
    this.rate.forget();
    this.#windowTrial.forget();
    this.#pace.start(intervalMs, this.#burstAt(intervalMs, now), now + namedMs, now);
  }

  /**
   * Ms between two that passed since the last refusal, from when one more fitted then to when one fits now; 0: unknown.
   */
  #intervalSinceRefusal(namedMs: number, now: number): number {
    if (this.#fitsAt === 0 || this.#refusedAt < now - MINUTE_MS) return 0;
    return (now + namedMs - this.#fitsAt) / Math.max(1, this.#sent.countSince(this.#refusedAt));
  }

  /** How many went out together beyond a pace before they were refused: so many fit after a pause, at least. */
  #burstAt(intervalMs: number, now: number): number {
    let most = 1;
    for (let nth = 1; nth <= this.#sent.size; nth++) {
      const ageMs = now - this.#sent.last(nth);
      if (ageMs > MINUTE_MS) break;
      most = Math.max(most, nth - ageMs / intervalMs);
    }
    return Math.floor(most);
  }

  /** No time was named: what went out in the time that the key cools for is what passes, until more proves to. */
  #learnUnhinted(sentAt: number, restMs: number, now: number): void {
    const { rate } = this;
    this.#pace.stop();
    if (!rate.isKnown) this.#windowMs = Math.min(restMs, MINUTE_MS);
    const used = this.#sent.countSince(now - this.#windowMs);
    if (!this.#tells(used, sentAt)) return;
    if (rate.isKnown && !rate.isOld(sentAt) && this.#isBurst(used, now)) {
      const { burst } = this.#bucket;
      const recent = this.#sent.countSince(now - BURST_MS);
      const isNew = sentAt > this.#burstSetAt;
      this.#limitBurst(REFUSED_BURST_SHARE * Math.min(recent, isNew ? burst - 1 : burst), now);
      if (isNew) this.#burstSetAt = now;
      return;
    }
    this.#windowTrial.forget();
    rate.onRefused(used, sentAt, restMs, now, this.#estimate(now));
    if (!this.#bucket.isOn) this.#limitBurst(BURST_SHARE * rate.value, now);
    else this.#spreadBursts();
  }

  /**
   * What went out at once tells of bursts, whatever the rate: what is tried beyond the rate does not go out at once.
   */
  #isBurst(used: number, now: number): boolean {
    const recent = this.#sent.countSince(now - BURST_MS);
    return this.#bucket.burst > 1 && recent > 0 && recent >= used / 2;
  }

  /** The rate at which requests passed while more than the known was tried. A pause before may have left some over. */
  #estimate(now: number): { most: number; likely: number } {
    const { measuredFrom } = this.rate;
    const passed = this.#sent.countSince(measuredFrom);
    const perWindow = this.#windowMs / Math.max(1, now - measuredFrom);
    const spare = this.#bucket.isOn ? this.#bucket.burst : 0;
    return { most: Math.ceil(passed * perWindow), likely: Math.floor((passed - spare) * perWindow) };
  }

  /** A refusal after next to nothing may be about something else than the rate: it has to come twice. */
  #tells(count: number, sentAt: number): boolean {
    if (this.rate.isKnown || count >= LEAST_SENT) return true;
    const isTwice = count > 0 && count === this.#refusedCount && sentAt > this.#refusedAt;
    this.#refusedCount = count;
    return isTwice;
  }

  #limitBurst(burst: number, now: number): void {
    this.#bucket.burst = Math.max(1, Math.floor(burst));
    this.#burstSetAt = Math.max(this.#burstSetAt, now);
    this.#spreadBursts();
  }

  /** The limit turned out to be another one. */
  #forgetRate(): void {
    this.rate.forget();
    this.#windowTrial.forget();
    this.#pace.stop();
    this.#bucket.stop();
    this.#isLeaky = false;
    this.#windowMs = MINUTE_MS;
  }

  /** A burst that is smaller than what the window takes fills up again at the rate. */
  #spreadBursts(): void {
    if (this.#burstSetAt === 0) return;
    const { burst } = this.#bucket;
    const intervalMs = burst < this.rate.value ? this.#windowMs / this.rate.value : 0;
    this.#bucket.stop();
    if (intervalMs === 0) return;
    this.#bucket.follow(intervalMs, burst);
    for (let nth = Math.min(burst + 1, this.#sent.size); nth > 0; nth--)
      this.#bucket.onSent(this.#sent.last(nth));
  }

  /** What an answer announced. `undecided`: others of this key that are under way, and may not be counted in it. */
  onAnnounced(budget: Budget, undecided: number, now: number): void {
    const { limit, remaining, resetAt, kind } = budget;
    if (kind === "leaky") {
      if (limit === null || limit <= remaining) return;
      this.#pace.stop();
      this.#bucket.follow(this.#leakyInterval(Math.max(0, resetAt - now), limit, limit - remaining), limit);
      this.#isLeaky = true;
      this.#bucket.owesUntil(resetAt + undecided * this.#bucket.intervalMs);
      return;
    }
    this.#widestMs = Math.max(this.#widestMs, resetAt - now);
    if (limit !== null && limit !== this.#announcedLimit && this.#widestMs > 0.75 * MINUTE_MS) {
      this.#announcedLimit = limit;
      this.#forgetRate();
      this.rate.onAnnounced(limit, now);
    }
    const isNew = now >= this.#resetAt || resetAt > this.#resetAt + SAME_WINDOW_MS;
    this.#left = isNew ? remaining - undecided : Math.min(this.#left, remaining);
    this.#resetAt = Math.max(this.#resetAt, resetAt);
  }

  /**
   * Ms in which an announced bucket gains one. What remains is told in whole requests: that matters least when next to
   * nothing does, and makes the pace look faster than it is; so then the slowest is believed. A window that ends, and
   * is announced as if it were a bucket, looks slower the less of it is used.
   */
  #leakyInterval(fullMs: number, limit: number, missing: number): number {
    const intervalMs = fullMs / missing;
    const known = this.#leakyMs;
    if (missing < limit) return known > 0 ? known : intervalMs;
    this.#leakyMs = Math.max(intervalMs, known * LEAKY_DECAY);
    return this.#leakyMs;
  }

  /** What was used of the key so far holds for the model too, whose limit shows itself only now. */
  copyUsage(other: RateLimiter): void {
    this.#sent.copyFrom(other.#sent);
    this.inFlight = other.inFlight;
  }

  state(): RateLimiterState {
    const rate = this.#rule.kind === "learnt" ? this.rate.state() : null;
    const { intervalMs, burst } = this.#bucket;
    return {
      rate,
      windowMs: this.#windowMs,
      concurrency: this.concurrency.state(),
      intervalMs: this.#pace.isOn ? intervalMs : 0,
      burst,
    };
  }

  /** Another instance has learnt this. Where both were refused just now, each counts what went out by itself. */
  hear(told: RateLimiterState, now: number): void {
    if (this.rate.isKnown && this.isRecounting(now)) return;
    this.restore(told, now);
    this.rate.onHeard(now);
  }

  restore({ rate, windowMs, concurrency, intervalMs, burst }: RateLimiterState, now: number): void {
    if (concurrency !== null) this.concurrency.restore(concurrency, now);
    if (this.#rule.kind !== "learnt") return;
    if (intervalMs > 0)
      return this.#pace.start(Math.min(intervalMs, MINUTE_MS), Math.max(1, burst), now, now);
    if (rate === null) return;
    this.#windowMs = Math.min(Math.max(1, windowMs), MINUTE_MS);
    this.rate.restore(rate, now);
  }
}

/** Of a number that is set no more than so many need be remembered. */
function historyFor(rule: RateRule): SlidingLog {
  return new SlidingLog(rule.kind === "fixed" ? rule.perMinute : LONGEST_HISTORY);
}

/** How the rate of a provider's keys is known, as `RPM` says. */
export function rateRule({ rpm }: Pick<ProviderConfig, "rpm">): RateRule {
  if (rpm === "auto") return { kind: "learnt" };
  return rpm === "off" ? { kind: "none" } : { kind: "fixed", perMinute: rpm };
}
