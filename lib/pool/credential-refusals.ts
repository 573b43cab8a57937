/**
 * Whether a 401 or 403 is about the key or about the request (P36).
 *
 * A request that is refused with one account's key and served with another's shows that the key is to blame. One that
 * two accounts are refused for alike shows nothing of the keys: it may ask for what no key may do. Then what was done
 * to the keys is taken back, and only a check, or a request of another kind, takes a key out of use.
 */
import { MINUTE_MS, SECOND_MS } from "../core/clock.ts";
import type { Verdict } from "../providers/verdict.ts";
import type { Account, Key, Lease, Need } from "./key.ts";
import type { Penalties, Unsuited } from "./penalties.ts";

type Revoked = Extract<Verdict, { kind: "revoked" }>;

/** Requests of several clients that are refused in the same words within this time are alike. */
const ALIKE_WITHIN_MS = 10 * SECOND_MS;
/** So long a refusal is remembered, to be confirmed or taken back. */
const REMEMBERED_MS = 10 * MINUTE_MS;
const MOST_REMEMBERED = 256;

/** A key that was refused with 401 or 403. */
export interface CredentialRefusal {
  readonly key: Key;
  readonly account: Account;
  readonly need: Need;
  /** The provider's words; empty: it gave none. */
  readonly said: string;
  /** It said that the key is invalid, and nothing has shown since that it lives. */
  certain: boolean;
  /** Epoch ms. */
  readonly at: number;
  /** Takes back what the refusal did to the key. */
  readonly undo: () => void;
}

/** An account that may not use what was asked for, as its refusal says. */
interface Denial {
  readonly refusal: Unsuited;
  readonly lease: Lease;
  /** Epoch ms. */
  readonly at: number;
  readonly undo: () => void;
}

/** No keys were refused alike. */
export const NONE_REFUSED: readonly Key[] = [];

export class CredentialRefusals {
  readonly #penalties: Penalties;
  readonly #disable: (key: Key, said: string, now: number) => void;
  #remembered: CredentialRefusal[] = [];
  #denials: Denial[] = [];

  constructor(penalties: Penalties, disable: (key: Key, said: string, now: number) => void) {
    this.#penalties = penalties;
    this.#disable = disable;
  }

  /** A key was refused. Returns the keys of which a check has to say whether they are to blame; none: it is decided. */
  onRefused({ certain, said }: Revoked, lease: Lease, now: number): readonly Key[] {
    const { key, need } = lease;
    if (certain && key.isOnTrial) {
      this.#disable(key, said, now);
      return NONE_REFUSED;
    }
    const hasOther = this.#penalties.hasOtherReady(lease, now);
    const undo = this.#penalties.doubt(lease, said, !certain, now);
    const refusal = { key, account: key.account, need, said, certain, at: now, undo };
    const isConfirmed = this.#isConfirmed(refusal);
    const alike = this.#note(refusal);
    if (isConfirmed) this.#disable(key, said, now);
    else if (alike.length > 0) return alike;
    // What the last key was refused for without a reason may be the request's own fault, too.
    const isLast = certain ? !hasOther && !isConfirmed : !this.#penalties.hasOther(lease);
    return isLast ? [key] : NONE_REFUSED;
  }

  /**
   * An account may not use the model. Where a second one was refused alike, that is taken back: it may be what was
   * asked for. It holds again for those of them that were refused what another account is served.
   */
  onUnsuited(refusal: Unsuited, lease: Lease, now: number): void {
    const denial = { refusal, lease, at: now, undo: this.#penalties.deny(refusal, lease, now) };
    const { account } = lease.key;
    const kept = this.#denials.filter(({ at }) => at > now - REMEMBERED_MS).slice(-MOST_REMEMBERED);
    const alike = kept.filter((other) => isAlike(factsOf(other), factsOf(denial)));
    this.#denials = [...kept, denial];
    if (alike.some((other) => other.lease.key.account !== account))
      for (const { undo } of [...alike, denial].toReversed()) undo();
  }

  /** A request was served with this key: to accounts that were refused it something is denied. Each is told of once. */
  proveUnsuited({ key, need }: Lease, now: number): void {
    if (this.#denials.length === 0) return;
    const isProven = ({ lease }: Denial) => lease.need === need;
    for (const { refusal, lease } of this.#denials.filter(isProven))
      if (lease.key.account !== key.account) this.#penalties.deny(refusal, lease, now);
    this.#denials = this.#denials.filter((denial) => !isProven(denial));
  }

  /** A request was let in with this key: keys of other accounts that were refused as invalid for it are to blame. */
  proveInvalid({ key, need, at }: Lease, now: number): void {
    if (this.#remembered.length === 0) return;
    this.vouchFor(key, at);
    for (const refusal of this.#takeProven(need, key.account)) this.#disable(refusal.key, refusal.said, now);
  }

  /** The key lives: what it was refused for until then (epoch ms) was not for its own sake, and confirms nothing. */
  vouchFor(key: Key, until = Infinity): void {
    for (const refusal of this.#remembered)
      if (refusal.key === key && refusal.at <= until) refusal.certain = false;
  }

  /**
   * Remembers a refusal. Where another account was refused alike, what was done to all of them has been taken back, and
   * these keys are returned; else none.
   */
  #note(refusal: CredentialRefusal): readonly Key[] {
    const { account, at } = refusal;
    this.#remembered = this.#remembered
      .filter((other) => other.at > at - REMEMBERED_MS)
      .slice(-MOST_REMEMBERED);
    const alike = this.#remembered.filter((other) => isAlike(other, refusal));
    this.#remembered.push(refusal);
    if (!alike.some((other) => other.account !== account)) return NONE_REFUSED;
    for (const { undo } of [...alike, refusal].toReversed()) undo();
    return [...new Set([...alike, refusal].map(({ key }) => key))];
  }

  /** Whether the key was refused as invalid before, for a request of another kind. */
  #isConfirmed({ key, need, certain, at }: CredentialRefusal): boolean {
    const isOther = (other: CredentialRefusal) =>
      other.key === key && other.certain && other.need !== need && kindOf(other.need) !== kindOf(need);
    return certain && this.#remembered.some((other) => isOther(other) && other.at < at - SECOND_MS);
  }

  /** This request was served with another account: those refused as invalid for it are. Each is told of once. */
  #takeProven(need: Need, account: Account): readonly CredentialRefusal[] {
    const isProven = (refusal: CredentialRefusal) => refusal.need === need && refusal.account !== account;
    const proven = this.#remembered.filter(isProven);
    if (proven.length > 0) this.#remembered = this.#remembered.filter((refusal) => !isProven(refusal));
    return proven.filter(({ certain }) => certain);
  }
}

type Facts = Pick<CredentialRefusal, "need" | "said" | "at">;

function factsOf({ lease: { need }, refusal: { said }, at }: Denial): Facts {
  return { need, said, at };
}

/** The same request, or one that was refused in the same words at the same time. */
function isAlike(one: Facts, other: Facts): boolean {
  if (one.need === other.need) return true;
  return one.said !== "" && one.said === other.said && Math.abs(one.at - other.at) < ALIKE_WITHIN_MS;
}

function kindOf({ path, model }: Need): string {
  return `${path ?? ""} ${model ?? ""}`;
}
