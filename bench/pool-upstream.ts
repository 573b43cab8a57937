/**
 * The world around a pool that is measured in virtual time: a clock that jumps, chance that repeats itself, a provider
 * whose limits the pool is not told, and the clients.
 *
 * A limit counts what it lets in when that arrives, not when it was sent, and does not count what it refuses. What it
 * says of itself is a matter of its own (`Hint`): many providers say nothing, or only how long to rest. For each
 * request of a client `Traffic` does what `tryKeys` of proxy.ts does, in the same order, with events in place of
 * sockets.
 */
import type { Budget, Budgets } from "../lib/providers/rate-limit-headers.ts";
import type { KeyNeed } from "../lib/pool/key.ts";
import { MINUTE_MS, SECOND_MS } from "../lib/core/clock.ts";
import type { CancelTimer, Clock } from "../lib/core/clock.ts";
import { decide } from "../lib/pool/retry-policy.ts";
import type { Progress } from "../lib/pool/retry-policy.ts";
import type { Key } from "../lib/pool/key.ts";
import type { NoKey, Setback, Verdict } from "../lib/providers/verdict.ts";

// ---- time

interface Timer {
  readonly at: number;
  /** Of timers that fall due at the same instant, the one that was set first fires first. */
  readonly order: number;
  /** null: it was cancelled. */
  action: (() => void) | null;
}

/** A real timer is never on time for less than this, and no longer than a month. */
const SHORTEST_TIMER_MS = 1;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A clock that jumps from event to event. Like the real one it knows whole milliseconds only. */
export class VirtualTime implements Clock {
  #now: number;
  #order = 0;
  /** A heap: the children of `n`, at `2n + 1` and `2n + 2`, fall due no earlier than `n`. */
  readonly #timers: Timer[] = [];

  constructor(now: number) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  wall(): number {
    return this.#now;
  }

  after(delayMs: number, action: () => void): CancelTimer {
    const timer = this.#add(Math.max(SHORTEST_TIMER_MS, Math.ceil(delayMs)), action);
    return () => (timer.action = null);
  }

  /** Like `after`, for what is never cancelled; `delayMs` is a whole number and may be 0. */
  in(delayMs: number, action: () => void): void {
    this.#add(delayMs, action);
  }

  /** Jumps to the next event and lets it happen; false: there is none. */
  step(): boolean {
    for (;;) {
      const timer = this.#pop();
      if (timer === null) return false;
      if (timer.action === null) continue;
      this.#now = timer.at;
      timer.action();
      return true;
    }
  }

  #add(delayMs: number, action: () => void): Timer {
    const timer = { at: this.#now + Math.min(delayMs, LONGEST_TIMER_MS), order: this.#order++, action };
    const timers = this.#timers;
    let index = timers.length;
    timers.push(timer);
    while (index > 0) {
      const above = (index - 1) >> 1;
      const other = timers[above]!;
      if (!isEarlier(timer, other)) break;
      timers[index] = other;
      index = above;
    }
    timers[index] = timer;
    return timer;
  }

  #pop(): Timer | null {
    const timers = this.#timers;
    const first = timers[0];
    const last = timers.pop();
    if (first === undefined || last === undefined) return null;
    const count = timers.length;
    if (count === 0) return first;
    let index = 0;
    for (;;) {
      let below = 2 * index + 1;
      if (below >= count) break;
      if (below + 1 < count && isEarlier(timers[below + 1]!, timers[below]!)) below += 1;
      const other = timers[below]!;
      if (!isEarlier(other, last)) break;
      timers[index] = other;
      index = below;
    }
    timers[index] = last;
    return first;
  }
}

function isEarlier(one: Timer, other: Timer): boolean {
  return one.at < other.at || (one.at === other.at && one.order < other.order);
}

// ---- chance

/** Random numbers that are the same in every run with the same name (sfc32, by Chris Doty-Humphrey). */
export class Chance {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(name: string) {
    this.#a = Bun.hash.xxHash32(name, 1) | 0;
    this.#b = Bun.hash.xxHash32(name, 2) | 0;
    this.#c = Bun.hash.xxHash32(name, 3) | 0;
    for (let round = 0; round < 12; round++) this.next();
  }

  /** From 0 up to 1. */
  next(): number {
    const mixed = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (this.#c << 21) | (this.#c >>> 11);
    this.#c = (this.#c + mixed) | 0;
    return (mixed >>> 0) / 2 ** 32;
  }

  /** A whole number, both ends included. */
  between(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  /** The time to the next of events that come independently of each other, `mean` apart. */
  exponential(mean: number): number {
    return -Math.log(1 - this.next()) * mean;
  }

  /** Half of them below `median`; `spread` is the standard deviation of the logarithm. */
  logNormal(median: number, spread: number): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.next()));
    return median * Math.exp(spread * radius * Math.cos(2 * Math.PI * this.next()));
  }
}

// ---- limits

/** What a provider lets through, for each key or for all together. */
export type LimitPlan =
  /** So many in each window of the clock on the wall. */
  | { readonly kind: "fixed"; readonly requests: number; readonly windowMs: number }
  /** So many in any stretch of time of that length; where several numbers stand, each holds for its part of the run. */
  | { readonly kind: "sliding"; readonly stages: readonly number[]; readonly windowMs: number }
  /** A bucket of tokens that fills steadily; each request takes one. */
  | { readonly kind: "bucket"; readonly capacity: number; readonly perMinute: number }
  /** So many under way at once. */
  | { readonly kind: "concurrency"; readonly atOnce: number };

/**
 * Requests that one limit lets through in `lengthMs`. `meanHoldingMs`: how long each keeps its place among those under
 * way, as who sends them sees it: until it hears that one has ended, it cannot know that there is room.
 */
export function capacityOf(plan: LimitPlan, lengthMs: number, meanHoldingMs: number): number {
  switch (plan.kind) {
    case "fixed":
      return (plan.requests * lengthMs) / plan.windowMs;
    case "sliding": {
      const mean = plan.stages.reduce((sum, requests) => sum + requests, 0) / plan.stages.length;
      return (mean * lengthMs) / plan.windowMs;
    }
    case "bucket":
      return plan.capacity + (plan.perMinute * lengthMs) / MINUTE_MS;
    case "concurrency":
      return (plan.atOnce * lengthMs) / meanHoldingMs;
  }
}

const FIRE_EVERY_MS = 10;
const FIRE_HOLDS_MS = SECOND_MS;

/**
 * What a limit lets through of requests that come without end, as a share of what it should. Throws where it does not
 * keep to a rest that it named.
 */
export function capacityUnderFire(plan: LimitPlan, lengthMs: number): number {
  const limit = limitOf(plan, BEGINS_AT, lengthMs);
  const namesRests = plan.kind !== "concurrency" && (plan.kind !== "sliding" || plan.stages.length === 1);
  const endsAt: number[] = [];
  let ended = 0;
  let readyAt = BEGINS_AT;
  for (let now = BEGINS_AT; now < BEGINS_AT + lengthMs; now += FIRE_EVERY_MS) {
    for (; endsAt[ended] !== undefined && endsAt[ended]! <= now; ended++) limit.ends();
    for (; limit.waitMs(now) === 0; limit.takes(now)) {
      if (namesRests && Math.abs(now - readyAt) > FIRE_EVERY_MS && endsAt.length > 0)
        throw new Error(
          `a ${plan.kind} limit let one in ${now - readyAt} ms after the time that it had named`,
        );
      endsAt.push(now + FIRE_HOLDS_MS);
    }
    readyAt = now + limit.waitMs(now);
  }
  return endsAt.length / capacityOf(plan, lengthMs, FIRE_HOLDS_MS);
}

interface Limit {
  /** Ms until it would let one more in; 0: now. */
  waitMs(now: number): number;
  /** It lets one in. */
  takes(now: number): void;
  /** One that was let in has ended. */
  ends(): void;
  /** What it would announce at `now`, to be read `readInMs` later. */
  budget(now: number, readInMs: number): Pick<Budget, "limit" | "remaining" | "resetAt" | "kind"> | null;
}

/** `startedAt` and `lengthMs` of the run tell which stage of a limit holds. */
function limitOf(plan: LimitPlan, startedAt: number, lengthMs: number): Limit {
  switch (plan.kind) {
    case "fixed":
      return new FixedWindow(plan.requests, plan.windowMs);
    case "sliding":
      return new SlidingWindow(plan.stages, plan.windowMs, startedAt, lengthMs / plan.stages.length);
    case "bucket":
      return new Bucket(plan.capacity, plan.perMinute / MINUTE_MS);
    case "concurrency":
      return new Concurrency(plan.atOnce);
  }
}

class FixedWindow implements Limit {
  #window = -1;
  #used = 0;

  constructor(
    readonly requests: number,
    readonly windowMs: number,
  ) {}

  waitMs(now: number): number {
    this.#turn(now);
    return this.#used < this.requests ? 0 : (this.#window + 1) * this.windowMs - now;
  }

  takes(now: number): void {
    this.#turn(now);
    this.#used += 1;
  }

  ends(): void {}

  /** The reset is an instant, in whole seconds. */
  budget(now: number) {
    this.#turn(now);
    const resetAt = (this.#window + 1) * this.windowMs;
    const remaining = this.requests - this.#used;
    return { limit: this.requests, remaining, resetAt: wholeSeconds(resetAt), kind: "window" } as const;
  }

  #turn(now: number): void {
    const window = Math.floor(now / this.windowMs);
    if (window === this.#window) return;
    this.#window = window;
    this.#used = 0;
  }
}

class SlidingWindow implements Limit {
  /** When those in the window were let in, from `#oldest` on, in a ring. */
  readonly #times: Float64Array;
  #oldest = 0;
  #count = 0;

  constructor(
    readonly stages: readonly number[],
    readonly windowMs: number,
    readonly startedAt: number,
    readonly stageMs: number,
  ) {
    this.#times = new Float64Array(Math.max(...stages));
  }

  waitMs(now: number): number {
    this.#forget(now);
    const excess = this.#count - this.#requestsAt(now);
    return excess < 0 ? 0 : this.#time(excess) + this.windowMs - now;
  }

  takes(now: number): void {
    this.#forget(now);
    this.#times[(this.#oldest + this.#count) % this.#times.length] = now;
    this.#count += 1;
  }

  ends(): void {}

  /** The reset is when the oldest leaves the window, as libraries of moving windows tell it; in whole seconds. */
  budget(now: number) {
    this.#forget(now);
    const limit = this.#requestsAt(now);
    const resetAt = this.#count === 0 ? now : this.#time(0) + this.windowMs;
    const remaining = Math.max(0, limit - this.#count);
    return { limit, remaining, resetAt: wholeSeconds(resetAt), kind: "window" } as const;
  }

  #requestsAt(now: number): number {
    const stage = Math.floor((now - this.startedAt) / this.stageMs);
    return this.stages[Math.min(stage, this.stages.length - 1)]!;
  }

  #time(index: number): number {
    return this.#times[(this.#oldest + index) % this.#times.length]!;
  }

  #forget(now: number): void {
    while (this.#count > 0 && this.#time(0) <= now - this.windowMs) {
      this.#oldest = (this.#oldest + 1) % this.#times.length;
      this.#count -= 1;
    }
  }
}

class Bucket implements Limit {
  #tokens: number;
  #filledAt = 0;

  constructor(
    readonly capacity: number,
    readonly perMs: number,
  ) {
    this.#tokens = capacity;
  }

  waitMs(now: number): number {
    this.#fill(now);
    return this.#tokens >= 1 ? 0 : (1 - this.#tokens) / this.perMs;
  }

  takes(now: number): void {
    this.#fill(now);
    this.#tokens -= 1;
  }

  ends(): void {}

  /** The reset is told as a duration, to when the bucket is full: who reads it later takes it to be later. */
  budget(now: number, readInMs: number) {
    this.#fill(now);
    const fullAt = now + (this.capacity - this.#tokens) / this.perMs;
    const remaining = Math.floor(this.#tokens);
    return { limit: this.capacity, remaining, resetAt: Math.ceil(fullAt + readInMs), kind: "leaky" } as const;
  }

  #fill(now: number): void {
    this.#tokens = Math.min(this.capacity, this.#tokens + (now - this.#filledAt) * this.perMs);
    this.#filledAt = now;
  }
}

class Concurrency implements Limit {
  #underWay = 0;

  constructor(readonly atOnce: number) {}

  /** Nobody knows when one ends: those that name a time say a second. */
  waitMs(): number {
    return this.#underWay < this.atOnce ? 0 : SECOND_MS;
  }

  takes(): void {
    this.#underWay += 1;
  }

  ends(): void {
    this.#underWay -= 1;
  }

  budget() {
    return null;
  }
}

function wholeSeconds(at: number): number {
  return Math.ceil(at / SECOND_MS) * SECOND_MS;
}

// ---- the provider

/** What a provider says of its limits. */
export type Hint =
  /** Nothing at all. */
  | "none"
  /** With a refusal, how long to rest: in whole seconds, rounded up. */
  | "retry-after"
  /** With a refusal the same, and with every answer what is left, and until when. */
  | "headers";

/** How a request is met that arrives at the provider. */
export interface Ruling {
  readonly isLetIn: boolean;
  /** The rest that a refusal names; null: none. */
  readonly restMs: number | null;
  /** null: nothing is announced. */
  readonly budgets: Budgets | null;
}

const LET_IN: Ruling = { isLetIn: true, restMs: null, budgets: null };
const REFUSED: Ruling = { isLetIn: false, restMs: null, budgets: null };

/** A provider with one limit for each key, or one for them all: what sits behind one address may share it. */
export class Provider {
  readonly #limits: Limit[];
  readonly #hint: Hint;

  constructor(
    plan: LimitPlan,
    { hint, keys, isShared }: { hint: Hint; keys: number; isShared: boolean },
    startedAt: number,
    lengthMs: number,
  ) {
    const shared = limitOf(plan, startedAt, lengthMs);
    this.#limits = Array.from({ length: keys }, () =>
      isShared ? shared : limitOf(plan, startedAt, lengthMs),
    );
    this.#hint = hint;
  }

  /** A request arrives. `firstByteMs`, `backMs`: how long an answer takes to begin, and to come back. */
  meets(key: number, now: number, firstByteMs: number, backMs: number): Ruling {
    const limit = this.#limits[key]!;
    const waitMs = limit.waitMs(now);
    if (waitMs === 0) {
      limit.takes(now);
      if (this.#hint !== "headers") return LET_IN;
      return { isLetIn: true, restMs: null, budgets: announcedBy(limit, now, firstByteMs + backMs) };
    }
    if (this.#hint === "none") return REFUSED;
    const restMs = Math.ceil(waitMs / SECOND_MS) * SECOND_MS;
    const budgets = this.#hint === "headers" ? announcedBy(limit, now, backMs) : null;
    return { isLetIn: false, restMs, budgets };
  }

  /** A request that was let in has ended. */
  ends(key: number): void {
    this.#limits[key]!.ends();
  }
}

/** Null too where the reset is over when it is read. */
function announcedBy(limit: Limit, now: number, readInMs: number): Budgets | null {
  const budget = limit.budget(now, readInMs);
  if (budget === null || budget.resetAt <= now + readInMs) return null;
  return { minute: { ...budget, span: "minute", scope: "key" }, day: null };
}

// ---- the clients

/** How many come, and how. */
export interface Load {
  readonly keys: number;
  readonly plan: LimitPlan;
  readonly hint: Hint;
  /** All keys share one limit. */
  readonly isShared: boolean;
  /** Requests that come, as a share of what the limits let through. */
  readonly share: number;
  /** So many come at once. */
  readonly burst: number;
  /** A client leaves after this long, wherever its request is then; null: it waits for the end. */
  readonly patienceMs: number | null;
}

/** The way to the provider, or back: in whole ms. */
export const WAY_MS = { least: 20, most: 80 };
/** How long an answer takes, from its request's arrival to its last byte. */
const SERVICE_MEDIAN_MS = 4000;
const SERVICE_SPREAD = 0.5;
const FIRST_BYTE_SHARE = 0.2;
/** As `MAX_WAIT_SEC` and `MAX_ATTEMPTS` are where they are not set. */
const MAX_WAIT_MS = 100 * SECOND_MS;
const LEAST_ATTEMPTS = 10;
/** So long after the last has come, all must have got their answers. */
const OVER_AFTER_MS = 10 * MINUTE_MS;
/** Noon, and the beginning of a minute. */
const BEGINS_AT = Date.UTC(2026, 10, 20, 12);

/** How long a request keeps its place among those under way, for who sends it, on average. */
const MEAN_HOLDING_MS = SERVICE_MEDIAN_MS * Math.exp(SERVICE_SPREAD ** 2 / 2) + WAY_MS.least + WAY_MS.most;

/** What all the keys together let through in `lengthMs`. */
export function poolCapacity(
  { plan, keys, isShared }: Load,
  lengthMs: number,
  meanHoldingMs: number,
): number {
  return (isShared ? 1 : keys) * capacityOf(plan, lengthMs, meanHoldingMs);
}

/** The right to use a key for one attempt, as far as the traffic looks. */
export interface Grant {
  readonly kind: "lease";
  readonly key: { readonly index: number };
}

/** A pool, as the traffic drives it: all that depends on the shape of one is behind this. */
export interface Contender<Taken extends Grant> {
  acquire(visit: Visit): Taken | NoKey | Promise<Taken | NoKey>;
  /** The answer has begun. */
  begins(taken: Taken, ruling: Ruling, now: number): void;
  /** The answer is over. */
  ends(taken: Taken, now: number): void;
  /** The provider refused it, as `verdict` and `ruling` say. */
  refused(taken: Taken, visit: Visit, verdict: Verdict, ruling: Ruling, now: number): void;
  /** The client has left. */
  left(taken: Taken, now: number): void;
}

export const NO_KEYS: ReadonlySet<Key> = new Set();
/** The signal of a client that never leaves. A real one costs as much as the rest of a request here. */
const STAYS: AbortSignal = {
  aborted: false,
  reason: undefined,
  onabort: null,
  throwIfAborted() {},
  addEventListener() {},
  removeEventListener() {},
  dispatchEvent: () => true,
};

/** One request of a client, from its arrival to its end; what a pool must know of it besides. */
export class Visit implements KeyNeed {
  readonly model = "some-model";
  readonly conversation = null;
  readonly boundTo = null;
  readonly unsuited = NO_KEYS;
  readonly isUncounted = false;
  readonly progress: Progress = { attempts: 0, maybeBilledReplays: 0, upstreamFaults: 0 };
  reuseAt = 0;
  readonly deferredAt = 0;
  hasLeft = false;
  isOver = false;
  /** What its leaving does to the attempt that is under way. */
  breaksOff: (() => void) | null = null;
  /** Since when it waits for a key: epoch ms, and how many had got one by then. */
  waitsSince = 0;
  waitsSinceGrant = 0;
  #tried: Set<Key> | null = null;
  readonly #controller: AbortController | null;

  constructor(
    /** Its number: the lower, the earlier. */
    readonly arrival: number,
    readonly arrivedAt: number,
    readonly serviceMs: number,
    mayLeave: boolean,
  ) {
    this.#controller = mayLeave ? new AbortController() : null;
  }

  get waitUntil(): number {
    return this.arrivedAt + MAX_WAIT_MS;
  }

  get tried(): ReadonlySet<Key> {
    return this.#tried ?? NO_KEYS;
  }

  get signal(): AbortSignal {
    return this.#controller?.signal ?? STAYS;
  }

  notes(key: Key): void {
    (this.#tried ??= new Set()).add(key);
  }

  leaves(): void {
    if (this.isOver) return;
    this.hasLeft = true;
    this.#controller?.abort();
    this.breaksOff?.();
  }
}

/** What came of one run. */
export interface Measured {
  lengthMs: number;
  asked: number;
  /** Requests that went to the provider, and those of them that it refused. */
  calls: number;
  refused: number;
  /** Requests that the provider let in, and those of them that it did before the run was over. */
  letIn: number;
  letInInTime: number;
  letInByKey: Uint32Array;
  /** Requests that were answered to the end: their clients had not left. */
  answered: number;
  /** Requests that got no answer: the pool said so at once, or after they had waited, or all attempts were spent. */
  turnedAway: { atOnce: number; afterWaiting: number; attemptsSpent: number };
  left: number;
  /** From arrival to the sending of the attempt that was let in. */
  waits: Waits;
  /**
   * The longest time by which a later request got a key before an earlier one that was waiting then. It counts too
   * where the earlier one got none at all in the end, save where its client left.
   */
  overtakenMs: number;
  /** Sum of the time that requests which were let in kept their places, for who sent them. */
  holdingMs: number;
  /** Of real time. */
  tookMs: number;
}

/** How often something took so many ms: exact, and cheap for millions. */
export class Waits {
  readonly #counts = new Uint32Array(MAX_WAIT_MS + 2 * SECOND_MS);
  #total = 0;
  longestMs = 0;

  add(ms: number): void {
    this.#counts[Math.min(ms, this.#counts.length - 1)]! += 1;
    this.#total += 1;
    this.longestMs = Math.max(this.longestMs, ms);
  }

  get medianMs(): number {
    let before = 0;
    for (let ms = 0; ms < this.#counts.length; ms++) {
      before += this.#counts[ms]!;
      if (before * 2 >= this.#total) return ms;
    }
    return 0;
  }
}

/** Some hours of requests to one pool. Once `run`, it is used up. */
export class Traffic<Taken extends Grant> {
  readonly #load: Load;
  readonly #lengthMs: number;
  readonly #time = new VirtualTime(BEGINS_AT);
  readonly #arrivals: Chance;
  readonly #ways: Chance;
  readonly #jitter: Chance;
  readonly #provider: Provider;
  readonly #contender: Contender<Taken>;
  readonly #grants = new Grants();
  readonly #measured: Measured;
  readonly #perMs: number;
  /** When the next client comes, and whether there is one. */
  #nextAt = BEGINS_AT;
  #isComing = true;
  /** Requests that have not ended. */
  #open = 0;
  /** How many wait for a promise of the pool, and how often such a promise was kept. */
  #waiting = 0;
  #resumed = 0;
  /** What happens in this event does not touch the pool: no promise can have been kept. */
  #asksNobody = false;

  /** `name` decides all that is left to chance: the same name, the same clients. */
  constructor(
    name: string,
    load: Load,
    lengthMs: number,
    contender: (clock: Clock, random: () => number) => Contender<Taken>,
  ) {
    this.#load = load;
    this.#lengthMs = lengthMs;
    this.#arrivals = new Chance(`${name}, arrivals`);
    this.#ways = new Chance(`${name}, ways`);
    this.#jitter = new Chance(`${name}, jitter`);
    this.#provider = new Provider(load.plan, load, BEGINS_AT, lengthMs);
    const ofPool = new Chance(`${name}, pool`);
    this.#contender = contender(this.#time, () => ofPool.next());
    this.#perMs = (load.share * poolCapacity(load, lengthMs, MEAN_HOLDING_MS)) / lengthMs;
    this.#measured = {
      lengthMs,
      asked: 0,
      calls: 0,
      refused: 0,
      letIn: 0,
      letInInTime: 0,
      letInByKey: new Uint32Array(load.keys),
      answered: 0,
      turnedAway: { atOnce: 0, afterWaiting: 0, attemptsSpent: 0 },
      left: 0,
      waits: new Waits(),
      overtakenMs: 0,
      holdingMs: 0,
      tookMs: 0,
    };
  }

  async run(): Promise<Measured> {
    const beganAt = performance.now();
    this.#awaitNext();
    while (this.#open > 0 || this.#isComing) {
      this.#asksNobody = false;
      if (!this.#time.step() || this.#time.now() > BEGINS_AT + this.#lengthMs + OVER_AFTER_MS)
        throw new Error(`${this.#open} requests were never answered`);
      if (this.#asksNobody) continue;
      // Whoever was given a key in this event goes on before the next. A pool may hand its promise through another
      // one or two: so it takes several turns without anybody going on until it is sure that all have.
      let idleTurns = 0;
      while (this.#waiting > 0 && idleTurns < 3) {
        const before = this.#resumed;
        await null;
        idleTurns = this.#resumed === before ? idleTurns + 1 : 0;
      }
    }
    this.#measured.tookMs = performance.now() - beganAt;
    return this.#measured;
  }

  #awaitNext(): void {
    this.#nextAt += this.#arrivals.exponential(this.#load.burst / this.#perMs);
    this.#isComing = this.#nextAt < BEGINS_AT + this.#lengthMs;
    if (!this.#isComing) return;
    this.#time.in(Math.round(this.#nextAt) - this.#time.now(), () => {
      this.#awaitNext();
      for (let nth = 0; nth < this.#load.burst; nth++) this.#arrives();
    });
  }

  #arrives(): void {
    const serviceMs = Math.round(this.#arrivals.logNormal(SERVICE_MEDIAN_MS, SERVICE_SPREAD));
    const { patienceMs } = this.#load;
    const visit = new Visit(this.#measured.asked, this.#time.now(), serviceMs, patienceMs !== null);
    this.#measured.asked += 1;
    this.#open += 1;
    if (patienceMs !== null) this.#time.in(patienceMs, () => visit.leaves());
    this.#asks(visit);
  }

  /** The head of the loop of `tryKeys`. */
  #asks(visit: Visit): void {
    if (visit.hasLeft) return this.#decides(visit, { kind: "abandoned" });
    visit.waitsSince = this.#time.now();
    visit.waitsSinceGrant = this.#grants.count;
    const result = this.#contender.acquire(visit);
    if (!(result instanceof Promise)) return this.#gets(visit, result);
    this.#waiting += 1;
    void result.then((late) => {
      this.#waiting -= 1;
      this.#resumed += 1;
      this.#gets(visit, late);
    });
  }

  #gets(visit: Visit, result: Taken | NoKey): void {
    const now = this.#time.now();
    if (visit.waitsSince < now && !visit.hasLeft)
      this.#measured.overtakenMs = Math.max(this.#measured.overtakenMs, now - this.#grants.overtaking(visit));
    if (result.kind === "no_key") return this.#decides(visit, visit.hasLeft ? { kind: "abandoned" } : result);
    this.#grants.add(visit.arrival, now);
    visit.progress.attempts += 1;
    const outMs = this.#ways.between(WAY_MS.least, WAY_MS.most);
    const backMs = this.#ways.between(WAY_MS.least, WAY_MS.most);
    const attempt = { visit, lease: result, sentAt: now, outMs, backMs, isOver: false, isUnderWay: false };
    if (visit.hasLeft) return this.#breaksOff(attempt); // it left in the very instant
    if (this.#load.patienceMs !== null) visit.breaksOff = () => this.#breaksOff(attempt);
    this.#time.in(outMs, () => this.#meets(attempt));
  }

  /** The request is at the provider. */
  #meets(attempt: Attempt<Taken>): void {
    this.#asksNobody = true;
    const { visit, lease, sentAt, backMs } = attempt;
    const { serviceMs } = visit;
    const measured = this.#measured;
    const now = this.#time.now();
    const firstByteMs = Math.round(serviceMs * FIRST_BYTE_SHARE);
    const ruling = this.#provider.meets(lease.key.index, now, firstByteMs, backMs);
    measured.calls += 1;
    if (!ruling.isLetIn) {
      measured.refused += 1;
      this.#time.in(backMs, () => attempt.isOver || this.#isRefused(attempt, ruling));
      return;
    }
    measured.letIn += 1;
    if (now < BEGINS_AT + this.#lengthMs) measured.letInInTime += 1;
    measured.letInByKey[lease.key.index]! += 1;
    measured.waits.add(sentAt - visit.arrivedAt);
    attempt.isUnderWay = true;
    // Who has left by now has broken the connection off: that arrives too.
    if (attempt.isOver) return this.#frees(attempt);
    this.#time.in(serviceMs, () => {
      this.#asksNobody = true;
      this.#frees(attempt);
    });
    this.#time.in(firstByteMs + backMs, () => {
      if (!attempt.isOver) this.#contender.begins(lease, ruling, this.#time.now());
    });
    this.#time.in(serviceMs + backMs, () => attempt.isOver || this.#isServed(attempt));
  }

  /** The provider has nothing to do for it any more; who sent it hears of that a little later. */
  #frees(attempt: Attempt<Taken>): void {
    if (!attempt.isUnderWay) return;
    attempt.isUnderWay = false;
    this.#provider.ends(attempt.lease.key.index);
    this.#measured.holdingMs += this.#time.now() + attempt.backMs - attempt.sentAt;
  }

  #isServed(attempt: Attempt<Taken>): void {
    attempt.isOver = true;
    this.#measured.answered += 1;
    this.#contender.ends(attempt.lease, this.#time.now());
    this.#ends(attempt.visit);
  }

  #isRefused(attempt: Attempt<Taken>, ruling: Ruling): void {
    const { visit, lease } = attempt;
    const { restMs } = ruling;
    attempt.isOver = true;
    visit.breaksOff = null;
    const pause = restMs === null ? ({ kind: "unknown" } as const) : ({ kind: "for", ms: restMs } as const);
    const verdict = { kind: "rate_limited", scope: "key", pause, reason: "rate_limit", said: "" } as const;
    this.#contender.refused(lease, visit, verdict, ruling, this.#time.now());
    this.#decides(visit, verdict);
  }

  /** The client leaves while its request is on its way or being answered. */
  #breaksOff(attempt: Attempt<Taken>): void {
    attempt.isOver = true;
    this.#time.in(attempt.outMs, () => this.#frees(attempt));
    this.#contender.left(attempt.lease, this.#time.now());
    this.#decides(attempt.visit, { kind: "abandoned" });
  }

  /** The foot of the loop of `tryKeys`. No limit here is the provider's fault, so nothing backs off. */
  #decides(visit: Visit, setback: Setback): void {
    const { progress, waitUntil } = visit;
    const maxAttempts = Math.max(LEAST_ATTEMPTS, this.#load.keys + 2);
    const policy = { maxAttempts, waitUntil, hasFallback: false, mayRetry: true };
    const decision = decide(setback, progress, policy, this.#time.now(), this.#jitter.next());
    switch (decision.do) {
      case "rotate":
        visit.reuseAt = decision.reuseAt;
        return this.#asks(visit);
      case "give_up":
        this.#countsLost(visit, setback);
        return this.#ends(visit);
      case "back_off":
      case "wait":
      case "fall_back":
        throw new Error(`${decision.do} after ${setback.kind}: the provider of this bench gives no cause`);
    }
  }

  #countsLost({ waitsSince, hasLeft }: Visit, setback: Setback): void {
    const { turnedAway } = this.#measured;
    if (hasLeft) this.#measured.left += 1;
    else if (setback.kind !== "no_key") turnedAway.attemptsSpent += 1;
    else if (waitsSince === this.#time.now()) turnedAway.atOnce += 1;
    else turnedAway.afterWaiting += 1;
  }

  #ends(visit: Visit): void {
    if (visit.isOver) throw new Error("a request was answered twice");
    visit.isOver = true;
    this.#open -= 1;
  }
}

interface Attempt<Taken extends Grant> {
  readonly visit: Visit;
  readonly lease: Taken;
  readonly sentAt: number;
  readonly outMs: number;
  readonly backMs: number;
  /** For the client: it was served or refused, or has left. */
  isOver: boolean;
  /** For the provider: it was let in, and has not ended. */
  isUnderWay: boolean;
}

/** More than any pool grants in the longest wait. */
const REMEMBERED_GRANTS = 2 ** 18;

/** Who got a key when, to tell who was overtaken. */
class Grants {
  count = 0;
  /** The last ones, in a ring. */
  readonly #arrivals = new Float64Array(REMEMBERED_GRANTS);
  readonly #times = new Float64Array(REMEMBERED_GRANTS);
  /** Those that came later than all who had got a key before them: numbers and times only grow. */
  readonly #records: { arrival: number; at: number }[] = [];

  add(arrival: number, at: number): void {
    const slot = this.count % REMEMBERED_GRANTS;
    this.#arrivals[slot] = arrival;
    this.#times[slot] = at;
    this.count += 1;
    const last = this.#records.at(-1);
    if (last === undefined || arrival > last.arrival) this.#records.push({ arrival, at });
  }

  /** When somebody who came later first got a key while this one was waiting; Infinity: never. */
  overtaking({ arrival, waitsSinceGrant, progress }: Visit): number {
    // Whoever asks for the first time came after all that had got a key by then.
    if (progress.attempts === 0) return this.#firstBeyond(arrival);
    const from = Math.max(waitsSinceGrant, this.count - REMEMBERED_GRANTS);
    for (let nth = from; nth < this.count; nth++) {
      const slot = nth % REMEMBERED_GRANTS;
      if (this.#arrivals[slot]! > arrival) return this.#times[slot]!;
    }
    return Infinity;
  }

  #firstBeyond(arrival: number): number {
    const records = this.#records;
    let low = 0;
    let high = records.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (records[middle]!.arrival > arrival) high = middle;
      else low = middle + 1;
    }
    return records[low]?.at ?? Infinity;
  }
}
