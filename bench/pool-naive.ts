/**
 * Pools to compare with: the one that most rotators have, and one that knows everything.
 *
 * Both give keys in turn to whoever came first, and differ in when they take a key to be ready. The naive one asks a
 * key until it is refused and lets it rest then. The all-knowing one is told the limit; it shows what could be had at
 * all, and that the limits of the bench are what they say.
 */
import type { Clock } from "../lib/core/clock.ts";
import { type LimitPlan } from "./pool-upstream.ts";
import type { NoKey } from "../lib/providers/verdict.ts";
import { MINUTE_MS } from "../lib/core/clock.ts";

/** The right to use a key for one attempt. */
export interface PlainLease {
  readonly kind: "lease";
  readonly key: { readonly index: number };
}

/** Who waits, as far as these pools look. */
export interface PlainNeed {
  /** Epoch ms. */
  readonly waitUntil: number;
  readonly signal: AbortSignal;
}

/** When a key is ready. Instants are epoch ms; keys are told by their index. */
export interface Policy {
  /** In the past: now. Infinity: when a request under way has ended. */
  readyAt(key: number, now: number): number;
  sends(key: number, now: number): void;
  /** `restMs`: what the provider named; null: nothing. */
  refused(key: number, restMs: number | null, now: number): void;
  ended(key: number): void;
}

interface Waiter {
  readonly resolve: (result: PlainLease | NoKey) => void;
  isGone: boolean;
}

/** Keys in turn, requests in the order in which they ask; one that was refused asks anew, behind the others. */
export class PlainPool {
  readonly #leases: readonly PlainLease[];
  readonly #policy: Policy;
  readonly #clock: Clock;
  #cursor = 0;
  /** Those from `#first` on wait still, save who has gone. */
  #waiters: Waiter[] = [];
  #first = 0;
  #wakeAt = Infinity;
  #cancelWake = () => {};

  constructor(keys: number, policy: Policy, clock: Clock) {
    this.#leases = Array.from({ length: keys }, (_, index) => ({ kind: "lease", key: { index } }));
    this.#policy = policy;
    this.#clock = clock;
  }

  acquire(need: PlainNeed): PlainLease | NoKey | Promise<PlainLease | NoKey> {
    const now = this.#clock.now();
    if (now >= this.#wakeAt) this.#serveWaiters(now);
    const lease = this.#foremost() === null ? this.#take(now) : null;
    if (lease !== null) return lease;
    if (now >= need.waitUntil) return nothing(now);
    return this.#enqueue(need, now);
  }

  /** A lease has ended. `restMs`: it was refused, and this is the rest that was named; null: without one. */
  refused({ key }: PlainLease, restMs: number | null, now: number): void {
    this.#policy.ended(key.index);
    this.#policy.refused(key.index, restMs, now);
    this.#serveWaiters(now);
  }

  /** A lease has ended, well or because the client left. */
  ended({ key }: PlainLease, now: number): void {
    this.#policy.ended(key.index);
    this.#serveWaiters(now);
  }

  #enqueue(need: PlainNeed, now: number): Promise<PlainLease | NoKey> {
    const { promise, resolve } = Promise.withResolvers<PlainLease | NoKey>();
    const leave = () => waiter.resolve(nothing(this.#clock.now()));
    const cancel = this.#clock.after(need.waitUntil - now, leave);
    const waiter: Waiter = {
      resolve: (result) => {
        waiter.isGone = true;
        cancel();
        need.signal.removeEventListener("abort", leave);
        resolve(result);
      },
      isGone: false,
    };
    need.signal.addEventListener("abort", leave);
    this.#waiters.push(waiter);
    this.#setWake(now);
    return promise;
  }

  #serveWaiters(now: number): void {
    for (let waiter = this.#foremost(); waiter !== null; waiter = this.#foremost()) {
      const lease = this.#take(now);
      if (lease === null) break;
      waiter.resolve(lease);
    }
    this.#setWake(now);
  }

  #foremost(): Waiter | null {
    while (this.#waiters[this.#first]?.isGone === true) this.#first += 1;
    if (this.#first > 1024 && this.#first * 2 > this.#waiters.length) {
      this.#waiters = this.#waiters.slice(this.#first);
      this.#first = 0;
    }
    return this.#waiters[this.#first] ?? null;
  }

  /** The next key in turn that is ready; null: none is. */
  #take(now: number): PlainLease | null {
    const count = this.#leases.length;
    for (let step = 0; step < count; step++) {
      const index = (this.#cursor + step) % count;
      if (this.#policy.readyAt(index, now) > now) continue;
      this.#cursor = index + 1;
      this.#policy.sends(index, now);
      return this.#leases[index]!;
    }
    return null;
  }

  #setWake(now: number): void {
    this.#cancelWake();
    this.#wakeAt = Infinity;
    if (this.#foremost() === null) return;
    for (const { key } of this.#leases)
      this.#wakeAt = Math.min(this.#wakeAt, this.#policy.readyAt(key.index, now));
    if (this.#wakeAt === Infinity) return;
    this.#cancelWake = this.#clock.after(this.#wakeAt - now, () => this.#serveWaiters(this.#clock.now()));
  }
}

function nothing(now: number): NoKey {
  return { kind: "no_key", readyAt: now, why: "cooling" };
}

/** Rests a key as long as the provider says, and a minute where it says nothing. */
export class NaivePolicy implements Policy {
  readonly #restsUntil: Float64Array;

  constructor(keys: number) {
    this.#restsUntil = new Float64Array(keys);
  }

  readyAt(key: number): number {
    return this.#restsUntil[key]!;
  }

  sends(): void {}

  refused(key: number, restMs: number | null, now: number): void {
    this.#restsUntil[key] = now + (restMs ?? MINUTE_MS);
  }

  ended(): void {}
}

/**
 * Knows the limit and how long requests are on their way, from `least` to `most` ms, but not how long this one will
 * be: so it leaves the difference between requests that must not come too close, which costs a little.
 */
export function allKnowing(plan: LimitPlan, keys: number, wayMs: { least: number; most: number }): Policy {
  const marginMs = wayMs.most - wayMs.least;
  const paces = Array.from({ length: keys }, (): Pace => {
    switch (plan.kind) {
      case "fixed":
        return new FixedPace(plan.requests, plan.windowMs, wayMs);
      case "sliding":
        return new SlidingPace(plan.stages[0]!, plan.windowMs + marginMs);
      case "bucket":
        return new BucketPace(plan.capacity, MINUTE_MS / plan.perMinute, marginMs);
      case "concurrency":
        return new ConcurrencyPace(plan.atOnce);
    }
  });
  return {
    readyAt: (key, now) => paces[key]!.readyAt(now),
    sends: (key, now) => paces[key]!.sends(now),
    refused: () => {},
    ended: (key) => paces[key]!.ended(),
  };
}

interface Pace {
  readyAt(now: number): number;
  sends(now: number): void;
  ended(): void;
}

/** Sends nothing that could arrive in either of two windows. */
class FixedPace implements Pace {
  #window = -1;
  #sent = 0;

  constructor(
    readonly requests: number,
    readonly windowMs: number,
    readonly wayMs: { least: number; most: number },
  ) {}

  readyAt(now: number): number {
    const first = this.#windowAt(now + this.wayMs.least);
    const last = this.#windowAt(now + this.wayMs.most);
    if (first !== last) return last * this.windowMs - this.wayMs.least;
    if (last !== this.#window || this.#sent < this.requests) return now;
    return (last + 1) * this.windowMs - this.wayMs.least;
  }

  sends(now: number): void {
    const window = this.#windowAt(now + this.wayMs.least);
    this.#sent = window === this.#window ? this.#sent + 1 : 1;
    this.#window = window;
  }

  ended(): void {}

  #windowAt(at: number): number {
    return Math.floor(at / this.windowMs);
  }
}

class SlidingPace implements Pace {
  readonly #sentAt: Float64Array;
  #next = 0;

  constructor(
    requests: number,
    readonly windowMs: number,
  ) {
    this.#sentAt = new Float64Array(requests).fill(-Infinity);
  }

  readyAt(): number {
    return this.#sentAt[this.#next]! + this.windowMs;
  }

  sends(now: number): void {
    this.#sentAt[this.#next] = now;
    this.#next = (this.#next + 1) % this.#sentAt.length;
  }

  ended(): void {}
}

class BucketPace implements Pace {
  /** When all that was sent is paid for, at one `intervalMs` each. */
  #paidAt = 0;

  constructor(
    readonly capacity: number,
    readonly intervalMs: number,
    readonly marginMs: number,
  ) {}

  readyAt(): number {
    return this.#paidAt - (this.capacity - 1) * this.intervalMs + this.marginMs;
  }

  sends(now: number): void {
    this.#paidAt = Math.max(this.#paidAt, now) + this.intervalMs;
  }

  ended(): void {}
}

class ConcurrencyPace implements Pace {
  #underWay = 0;

  constructor(readonly atOnce: number) {}

  readyAt(): number {
    return this.#underWay < this.atOnce ? 0 : Infinity;
  }

  sends(): void {
    this.#underWay += 1;
  }

  ended(): void {
    this.#underWay -= 1;
  }
}
