/**
 * Whether several keys were refused for one reason that is nobody's own: a limit on our address, not on keys (P11);
 * and how fast all of them together may go on then.
 *
 * One refusal without a hint says little. When three different keys get one within seconds although none of them was
 * near a limit of its own, it is not about keys: the rest of the pool is not walked into it, and what the three were
 * charged with is taken back. From then on all keys share what such a limit lets through, as if they were one.
 */
import { HOUR_MS } from "../core/clock.ts";
import { SlowStart } from "./key.ts";
import { RateLimiter } from "./rate-limiter.ts";

const WITHIN_MS = 10_000;
/** So many keys of a pool, where it has so many. */
export const DISTINCT_KEYS = 3;
/** Limits on addresses count in minutes, like others. */
const WINDOW_MS = 60_000;
/** What nobody met for so long is over, or never was. */
const FORGOTTEN_AFTER_MS = HOUR_MS;

/** A rate refusal without a hint. */
export interface Suspicion {
  readonly account: object;
  /** What was refused: the client's request. */
  readonly request: object;
  /** The key may have been at a limit of its own. */
  readonly isNear: boolean;
  /** Epoch ms. */
  readonly at: number;
  /** Takes back what the refusal did to the key. */
  readonly undo: () => void;
}

export class SharedLimit {
  #suspicions: Suspicion[] = [];
  #limiter: RateLimiter | null = null;
  #slowStart = new SlowStart();
  /** What was sent before counts for nothing here; epoch ms. */
  #since = 0;
  /** When somebody last was refused for it, or had to wait; epoch ms. */
  #metAt = 0;

  /** Whether all keys together have shown a limit. */
  get isKnown(): boolean {
    return this.#limiter !== null;
  }

  /** Epoch ms from which one more may be sent with any key; 0 where there is no common limit. */
  readyAt(now: number): number {
    if (this.#limiter === null) return 0;
    const readyAt = Math.max(this.#limiter.nextAt(now), this.#slowStart.readyAt);
    if (readyAt > now) this.#metAt = now;
    if (now <= this.#metAt + FORGOTTEN_AFTER_MS) return readyAt;
    this.#limiter = null;
    this.#slowStart = new SlowStart();
    return 0;
  }

  sends(now: number): void {
    if (this.#limiter === null) return;
    this.#limiter.sends(now);
    this.#slowStart.sends(now);
  }

  /** The answer to a request that was sent at `sentAt` has begun. */
  bears(sentAt: number, now: number): void {
    if (this.#limiter === null || sentAt < this.#since) return;
    this.#limiter.bears(now);
    this.#slowStart.decided();
    this.#slowStart.grows();
  }

  /** A request that was sent at `sentAt` is over. */
  ends(
    sentAt: number,
    { hadBegun, isCounted }: { hadBegun: boolean; isCounted: boolean },
    now: number,
  ): void {
    if (this.#limiter === null || sentAt < this.#since) return;
    this.#limiter.ends({ hadBegun }, now);
    if (!hadBegun) this.#slowStart.decided();
    if (!isCounted) this.#limiter.uncounts(sentAt);
  }

  /**
   * Whether this refusal makes it a common cause; then what was done to the keys has been undone. `accounts`: how many
   * there are to compare. Keys that were near their limits count only where one and the same request was refused by
   * several, and go on resting: it may be their own after all. Once such a limit is known, and nearly used up, one
   * refusal is enough.
   */
  suspects(suspicion: Suspicion, accounts: number): boolean {
    const { request, isNear, at } = suspicion;
    this.#suspicions = this.#suspicions.filter((other) => other.at > at - WITHIN_MS);
    this.#suspicions.push(suspicion);
    const distinct = (suspicions: readonly Suspicion[]) =>
      new Set(suspicions.map(({ account }) => account)).size;
    const surprising = distinct(this.#suspicions.filter((other) => !other.isNear));
    const ofRequest = distinct(this.#suspicions.filter((other) => other.request === request));
    const several = Math.min(DISTINCT_KEYS, accounts);
    const enough = !isNear && this.#limiter?.isNearlyUsedUp(at) ? 1 : several;
    if (accounts < 2 || (surprising < enough && ofRequest < several)) return false;
    for (const { isNear, undo } of this.#suspicions.toReversed()) if (!isNear) undo();
    this.#suspicions = [];
    return true;
  }

  /** Everybody was refused: a request that was sent at `sentAt`, which has ended. */
  refused(sentAt: number, now: number): void {
    if (this.#limiter === null) {
      this.#limiter = new RateLimiter({ kind: "learnt" });
      this.#since = now;
    }
    this.#metAt = now;
    this.#slowStart.isLost();
    if (sentAt < this.#since) return;
    this.#limiter.refused({ sentAt, namedMs: null, restMs: WINDOW_MS, reason: "rate_limit" }, now);
  }
}
