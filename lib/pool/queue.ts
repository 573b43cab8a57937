/**
 * Who waits for a key, and in which order each gets one.
 *
 * In order of arrival, and nobody stands in the way of those behind: requests for a model with limits of its own wait
 * in a line of their own, and one whose own history keeps it from the keys that are ready stands aside. One timer
 * looks after all of them.
 */
import type { ModelState } from "./selection.ts";
import type { CancelTimer, Clock } from "../core/clock.ts";
import { isHopeless } from "./lease.ts";
import type { Lease, Need } from "./lease.ts";
import { Line, Place } from "./line.ts";
import type { NoKey } from "../providers/verdict.ts";

/** What hands out keys, as the queue needs it. */
export interface Counter {
  lease(need: Need, now: number): Lease | NoKey;
  /** The line of its own that a request belongs to; null: that of all. */
  modelStateOf(need: Need): ModelState | null;
  /** After a request got none: from when on another one for the same model may get one; epoch ms. */
  othersReadyAt(): number;
  /** A request goes without a key. */
  goesWithout(result: NoKey, now: number): void;
}

export class Queue {
  readonly #clock: Clock;
  readonly #counter: Counter;
  /** Who waits for any key, for one that may serve a model, and for something of their own. */
  readonly #line = new Line<Waiter>();
  readonly #lines = new Map<ModelState, Line<Waiter>>();
  readonly #aside = new Line<Waiter>();
  /** How many wait. */
  size = 0;
  #wakeAt = Infinity;
  #cancelWake: CancelTimer = () => {};

  constructor(clock: Clock, counter: Counter) {
    this.#clock = clock;
    this.#counter = counter;
  }

  /** Epoch ms at which the waiting are looked after next. */
  get wakeAt(): number {
    return this.#wakeAt;
  }

  /** Waits for a turn; `readyAt`: when there may be a key. Resolves when the client leaves. */
  join(need: Need, readyAt: number, now: number): Promise<Lease | NoKey> {
    const { promise, resolve } = Promise.withResolvers<Lease | NoKey>();
    const leave = () => waiter.resolve({ kind: "no_key", readyAt: Infinity, why: "cooling" });
    const waiter = new Waiter(need, (result) => {
      need.signal.removeEventListener("abort", leave);
      this.#leaves(waiter);
      resolve(result);
    });
    const line = this.#lineFor(need);
    // One that may wait less long than the last before it would be let go too late: those aside are all looked after.
    const { last } = line;
    const isHasty = last !== null && last.arrival < need.arrival && last.need.waitUntil > need.waitUntil;
    this.#joins(waiter, isHasty ? this.#aside : line);
    need.signal.addEventListener("abort", leave);
    if (need.signal.aborted) leave();
    else this.#wakeBy(Math.min(need.waitUntil, futureOf(readyAt, now)), now);
    return promise;
  }

  #joins(waiter: Waiter, line: Line<Waiter>): void {
    line.insert(waiter);
    waiter.line = line;
    this.size += 1;
  }

  #leaves(waiter: Waiter): void {
    if (waiter.line === null) return;
    waiter.line.remove(waiter);
    waiter.line = null;
    this.size -= 1;
  }

  /** Requests for a model with limits of its own wait in a line of its own: they must not stand before others. */
  #lineFor(need: Need): Line<Waiter> {
    const modelState = this.#counter.modelStateOf(need);
    if (modelState === null) return this.#line;
    const line = this.#lines.get(modelState) ?? new Line<Waiter>();
    this.#lines.set(modelState, line);
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
      else if (this.#moves(waiter, this.#lineFor(need))) continue;
      const result = this.#counter.lease(need, now);
      if (result.kind === "lease" || isHopeless(result, need, now)) {
        if (result.kind === "no_key") this.#counter.goesWithout(result, now);
        waiter.resolve(result);
        continue;
      }
      wakeAt = Math.min(wakeAt, futureOf(result.readyAt, now), need.waitUntil);
      if (line === null || line === this.#aside) continue;
      // One whose own history stands in its way must not stand in the way of those behind it.
      const others = this.#counter.othersReadyAt();
      const isOwnTrouble = result.why === "cooling" && (others <= now || others < result.readyAt);
      if (!isOwnTrouble) blocked.push(line);
      else this.#moves(waiter, this.#aside);
    }
    for (const [modelState, line] of this.#lines) if (line.size === 0) this.#lines.delete(modelState);
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

  #moves(waiter: Waiter, line: Line<Waiter>): boolean {
    if (waiter.line === line) return false;
    this.#leaves(waiter);
    this.#joins(waiter, line);
    return true;
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

/** An instant that is still to come; Infinity where what is waited for is no matter of time. */
function futureOf(at: number, now: number): number {
  return at > now ? at : Infinity;
}
