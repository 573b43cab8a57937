/**
 * Who waits for a key, and in which order each gets one.
 *
 * In order of arrival, and no request delays those behind it for reasons of its own: requests for a model with limits
 * of its own wait in a line of their own, and one that only its own history keeps from the keys that are ready stands
 * aside. A request that comes back after a refusal takes its old place. One timer looks after all of them.
 */
import { deferred } from "../core/language.ts";
import type { CancelTimer, Clock } from "../core/clock.ts";
import type { NoKey } from "../providers/verdict.ts";
import type { Lease, Need } from "./key.ts";

/** What the queue asks for, and whom it tells. */
interface QueueOptions {
  readonly lease: (need: Need, now: number) => Lease | NoKey;
  /** Names the line of its own that a request belongs to; null: that of all. */
  readonly lineOf: (need: Need) => object | null;
  /** A request goes without a key. */
  readonly onGivenUp: (reason: NoKey, now: number) => void;
}

/** Whether waiting cannot help: no key comes free before this request has to be answered. */
export function isHopeless({ readyAt, maybeSooner }: NoKey, { waitUntil }: Need, now: number): boolean {
  return now >= waitUntil || (readyAt > waitUntil && maybeSooner !== true);
}

export class Queue {
  readonly #clock: Clock;
  readonly #options: QueueOptions;
  /** Who waits for any key, for one that may serve a model, and for something of their own. */
  readonly #line = new Line<Waiter>();
  readonly #lines = new Map<object, Line<Waiter>>();
  readonly #aside = new Line<Waiter>();
  /** How many wait. */
  size = 0;
  #wakeAt = Infinity;
  #cancelWake: CancelTimer = () => {};

  constructor(clock: Clock, options: QueueOptions) {
    this.#clock = clock;
    this.#options = options;
  }

  /** Epoch ms at which the waiting are looked after next. */
  get wakeAt(): number {
    return this.#wakeAt;
  }

  /** Waits for a turn; `readyAt`: when there may be a key. Resolves when the client leaves. */
  join(need: Need, readyAt: number, now: number): Promise<Lease | NoKey> {
    const { promise, resolve } = deferred<Lease | NoKey>();
    const leave = () => waiter.resolve({ kind: "no_key", readyAt: Infinity, why: "cooling" });
    const waiter = new Waiter(need, (result) => {
      need.signal.removeEventListener("abort", leave);
      this.#takeOut(waiter);
      resolve(result);
    });
    const line = this.#lineFor(need);
    // In a line only the first is looked after. One that may wait less long than the last before it would be let go too
    // late there; those aside are all looked after.
    const { last } = line;
    const isHasty = last !== null && last.arrival < need.arrival && last.need.waitUntil > need.waitUntil;
    this.#putInto(isHasty ? this.#aside : line, waiter);
    need.signal.addEventListener("abort", leave);
    if (need.signal.aborted) leave();
    else this.#wakeBy(Math.min(need.waitUntil, futureOf(readyAt, now)), now);
    return promise;
  }

  #putInto(line: Line<Waiter>, waiter: Waiter): void {
    line.insert(waiter);
    waiter.line = line;
    this.size += 1;
  }

  #takeOut(waiter: Waiter): void {
    if (waiter.line === null) return;
    waiter.line.remove(waiter);
    waiter.line = null;
    this.size -= 1;
  }

  #lineFor(need: Need): Line<Waiter> {
    const name = this.#options.lineOf(need);
    if (name === null) return this.#line;
    const line = this.#lines.get(name) ?? new Line<Waiter>();
    this.#lines.set(name, line);
    return line;
  }

  /** Hands out what is ready, in order of arrival, and sets the one timer to when that may change. */
  serve(now: number): void {
    const blocked: Line<Waiter>[] = [];
    let wakeAt = Infinity;
    let aside = this.#aside.first;
    for (
      let waiter = this.#foremost(blocked, aside);
      waiter !== null;
      waiter = this.#foremost(blocked, aside)
    ) {
      const { need, line } = waiter;
      if (waiter === aside) aside = waiter.behind;
      else if (line !== this.#lineFor(need)) {
        this.#move(waiter, this.#lineFor(need)); // its model has got limits of its own, or has none any more
        continue;
      }
      const result = this.#options.lease(need, now);
      if (result.kind === "lease" || isHopeless(result, need, now)) {
        if (result.kind === "no_key") this.#options.onGivenUp(result, now);
        waiter.resolve(result);
        continue;
      }
      wakeAt = Math.min(wakeAt, futureOf(result.readyAt, now), need.waitUntil);
      if (line === null || line === this.#aside) continue;
      if (result.isOwn === true) this.#move(waiter, this.#aside);
      else blocked.push(line);
    }
    for (const [name, line] of this.#lines) if (line.size === 0) this.#lines.delete(name);
    if (wakeAt === this.#wakeAt) return;
    this.#wakeAt = Infinity;
    this.#cancelWake();
    this.#wakeBy(wakeAt, now);
  }

  /** Who has waited longest among the first of each line, and those who stand aside. */
  #foremost(blocked: readonly Line<Waiter>[], aside: Waiter | null): Waiter | null {
    let foremost = aside;
    const isEarlier = ({ arrival }: Waiter) => foremost === null || arrival < foremost.arrival;
    if (this.#line.first !== null && !blocked.includes(this.#line) && isEarlier(this.#line.first))
      foremost = this.#line.first;
    for (const line of this.#lines.values()) {
      if (line.first !== null && !blocked.includes(line) && isEarlier(line.first)) foremost = line.first;
    }
    return foremost;
  }

  #move(waiter: Waiter, line: Line<Waiter>): void {
    this.#takeOut(waiter);
    this.#putInto(line, waiter);
  }

  /** Sees to it that the waiting are looked after at `at` (epoch ms) at the latest. */
  #wakeBy(at: number, now: number): void {
    if (at >= this.#wakeAt) return;
    this.#cancelWake();
    this.#wakeAt = at;
    const clock = this.#clock;
    this.#cancelWake = clock.after(at - now, () => {
      this.#wakeAt = Infinity;
      this.serve(clock.now());
    });
  }
}

/** An instant that is still to come; Infinity where what is waited for is no matter of time. */
function futureOf(at: number, now: number): number {
  return at > now ? at : Infinity;
}

// ---- a line

/** Someone who can stand in a line; in one at a time. */
export abstract class Place {
  /** Number of the request: the lower, the earlier. */
  abstract readonly arrival: number;
  before: this | null = null;
  behind: this | null = null;
}

/** Requests in order of arrival. One that leaves costs nothing to take out. */
export class Line<T extends Place> {
  first: T | null = null;
  last: T | null = null;
  size = 0;

  /** Most come last; one that comes back is mostly among the first. */
  insert(item: T): void {
    let before = this.last;
    if (before !== null && before.arrival > item.arrival) {
      let later = this.first;
      while (later !== null && later.arrival < item.arrival) later = later.behind;
      before = later === null ? this.last : later.before;
    }
    const behind = before === null ? this.first : before.behind;
    item.before = before;
    item.behind = behind;
    if (before === null) this.first = item;
    else before.behind = item;
    if (behind === null) this.last = item;
    else behind.before = item;
    this.size += 1;
  }

  /** Takes out one that stands here. */
  remove(item: T): void {
    if (item.before === null) this.first = item.behind;
    else item.before.behind = item.behind;
    if (item.behind === null) this.last = item.before;
    else item.behind.before = item.before;
    item.before = null;
    item.behind = null;
    this.size -= 1;
  }
}

class Waiter extends Place {
  line: Line<Waiter> | null = null;

  constructor(
    readonly need: Need,
    readonly resolve: (result: Lease | NoKey) => void,
  ) {
    super();
  }

  get arrival(): number {
    return this.need.arrival;
  }
}
