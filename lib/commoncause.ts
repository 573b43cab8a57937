/**
 * Whether several keys were refused for one reason that is nobody's own: a limit on our address, not on keys (P11).
 *
 * One refusal without a hint says little. When three different keys get one within seconds although none of them was
 * near a limit of its own, it is not about keys: the rest of the pool is not walked into it, and what the three were
 * charged with is taken back.
 */

const WITHIN_MS = 10_000;
const DISTINCT_KEYS = 3;

interface Suspicion {
  account: object;
  at: number;
  /** Takes back what the refusal did to the key. */
  undo: () => void;
}

export class CommonCause {
  #suspicions: Suspicion[] = [];

  /**
   * A rate refusal without a hint, of a key that was not near its limit. `accounts`: how many there are to compare.
   * Says whether this makes it a common cause; then what was done to the keys has been undone.
   */
  suspects(account: object, accounts: number, undo: () => void, now: number): boolean {
    this.#suspicions = this.#suspicions.filter(
      (other) => other.at > now - WITHIN_MS && other.account !== account,
    );
    this.#suspicions.push({ account, at: now, undo });
    if (accounts < 2 || this.#suspicions.length < Math.min(DISTINCT_KEYS, accounts)) return false;
    for (const suspicion of this.#suspicions) suspicion.undo();
    this.#suspicions = [];
    return true;
  }
}
