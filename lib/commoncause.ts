/**
 * Whether several keys were refused for one reason that is nobody's own: a limit on our address, not on keys (P11);
 * and how fast all of them together may go on then.
 *
 * One refusal without a hint says little. When three different keys get one within seconds although none of them was
 * near a limit of its own, it is not about keys: the rest of the pool is not walked into it, and what the three were
 * charged with is taken back. From then on all keys share what such a limit lets through, as if they were one.
 */
import { Trust } from "./keystate.ts";
import { Pacer } from "./pacing.ts";

const WITHIN_MS = 10_000;
const DISTINCT_KEYS = 3;
/** Limits on addresses count in minutes, like others. */
const WINDOW_MS = 60_000;
/** What nobody met for so long is over, or never was. */
const FORGOTTEN_AFTER_MS = 3_600_000;

interface Suspicion {
  account: object;
  at: number;
  /** Takes back what the refusal did to the key. */
  undo: () => void;
}

export class CommonCause {
  #suspicions: Suspicion[] = [];
  #pacer: Pacer | null = null;
  #trust = new Trust();
  /** What was sent before counts for nothing here; epoch ms. */
  #since = 0;
  /** When somebody last was refused for it, or had to wait; epoch ms. */
  #metAt = 0;

  /** Whether all keys together have shown a limit. */
  get isKnown(): boolean {
    return this.#pacer !== null;
  }

  /** Epoch ms from which one more may be sent with any key; 0 where there is no common limit. */
  readyAt(now: number): number {
    if (this.#pacer === null) return 0;
    const readyAt = Math.max(this.#pacer.nextAt(now), this.#trust.readyAt);
    if (readyAt > now) this.#metAt = now;
    if (now <= this.#metAt + FORGOTTEN_AFTER_MS) return readyAt;
    this.#pacer = null;
    this.#trust = new Trust();
    return 0;
  }

  sends(now: number): void {
    if (this.#pacer === null) return;
    this.#pacer.sends(now);
    this.#trust.sends(now);
  }

  /** The answer to a request that was sent at `sentAt` has begun. */
  bears(sentAt: number, now: number): void {
    if (this.#pacer === null || sentAt < this.#since) return;
    this.#pacer.bears(now);
    this.#trust.decided();
    this.#trust.grows();
  }

  /** A request that was sent at `sentAt` is over. */
  ends(
    sentAt: number,
    { hadBegun, isCounted }: { hadBegun: boolean; isCounted: boolean },
    now: number,
  ): void {
    if (this.#pacer === null || sentAt < this.#since) return;
    this.#pacer.ends({ hadBegun }, now);
    if (!hadBegun) this.#trust.decided();
    if (!isCounted) this.#pacer.uncounts(sentAt);
  }

  /**
   * A rate refusal without a hint, of a key that was not near its limit. `accounts`: how many there are to compare.
   * Says whether it is for a common cause; then what was done to the keys has been undone. Once such a cause is
   * known, one refusal is enough.
   */
  suspects(account: object, accounts: number, undo: () => void, now: number): boolean {
    this.#suspicions = this.#suspicions.filter((other) => other.at > now - WITHIN_MS);
    this.#suspicions.push({ account, at: now, undo });
    const distinct = new Set(this.#suspicions.map((suspicion) => suspicion.account)).size;
    const enough = this.isKnown ? 1 : Math.min(DISTINCT_KEYS, accounts);
    if (accounts < 2 || distinct < enough) return false;
    for (const suspicion of this.#suspicions) suspicion.undo();
    this.#suspicions = [];
    return true;
  }

  /** Everybody was refused: a request that was sent at `sentAt`, which has ended. */
  refused(sentAt: number, now: number): void {
    if (this.#pacer === null) {
      this.#pacer = new Pacer({ kind: "learnt" });
      this.#since = now;
    }
    this.#metAt = now;
    this.#trust.isLost();
    if (sentAt < this.#since) return;
    this.#pacer.refused({ sentAt, namedMs: null, restMs: WINDOW_MS, reason: "rate_limit" }, now);
  }
}
