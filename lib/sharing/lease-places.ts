/**
 * Whether a lease may be used where several instances share the keys (P48). The pool gives a lease by what it knows; a
 * key with an exact limit is then asked for a place in it, which all instances count together.
 */
import type { Meter, Patience } from "../pool/exact-limits.ts";
import type { Lease } from "../pool/key.ts";
import type { PoolLink, PoolParts } from "../pool/sharing.ts";

/**
 * A minute of `RPM=n` where several instances share the keys, and 100 ms more: requests of different instances may
 * reach the provider in another order than they were sent.
 */
const EXACT_MINUTE_MS = 60_100;
/** Instances that share a key whose day is used up ask again after this time: one may have given a place back. */
const FULL_FOR_MS = 2000;

export class LeasePlaces {
  readonly #link: PoolLink;
  readonly #parts: PoolParts;

  constructor(link: PoolLink, parts: PoolParts) {
    this.#link = link;
    this.#parts = parts;
  }

  /** Whether the lease may be used; null: it may, and nobody has to be asked. `perMinute` null: no exact rate. */
  confirm(lease: Lease, perMinute: number | null, patience: Patience): Promise<boolean> | null {
    const link = this.#link;
    const { key, need } = lease;
    if (!need.isUncounted && (perMinute !== null || key.dailyLimit !== null))
      return this.#ask(lease, perMinute, patience);
    link.sent(key, need.model, need.isUncounted);
    if (!need.isUncounted) link.meterOf(key).count(1, 0);
    return null;
  }

  async #ask(lease: Lease, perMinute: number | null, patience: Patience): Promise<boolean> {
    const link = this.#link;
    const { day, clock, selector, takeBack, wake } = this.#parts;
    const { key, dayEndsOn } = lease;
    const siblings = selector.keys.filter((other) => other !== key && other.account === key.account);
    const others: Meter[] = perMinute === null ? [] : siblings.map((other) => link.meterOf(other));
    const limits = {
      perMinute,
      windowMs: EXACT_MINUTE_MS,
      perDay: key.dailyLimit,
      tokensPerDay: null,
      dayEndsOn,
    };
    const meter = link.meterOf(key);
    const answer = await meter.ask(limits, others, patience);
    const now = clock.now();
    if (dayEndsOn === day.endDate) key.today = meter.requests + meter.othersRequests;
    if (answer.kind === "place") {
      lease.place = answer;
      link.sent(key, lease.need.model, false);
      return true;
    }
    takeBack(lease, now);
    const isOfKey = answer.what === "day";
    const fullUntil = isOfKey ? Math.min(answer.readyAt, now + FULL_FOR_MS) : answer.readyAt;
    key.fullUntil = Math.max(key.fullUntil, fullUntil);
    if (!isOfKey) for (const other of siblings) other.fullUntil = Math.max(other.fullUntil, answer.readyAt);
    wake();
    return false;
  }
}
