/**
 * What a pool asks of other instances that share it, and what it tells them. Types only, so that a
 * proxy that is alone loads nothing: `sharing/` is what stands behind them.
 */
import type { Meter, Patience } from "./exact-limits.ts";
import type { Penalties } from "./penalties.ts";
import type { ProviderState } from "./provider-state.ts";
import type { QuotaDay } from "./quota-day.ts";
import type { Key, KeyState, Lease, PoolDependencies } from "./key.ts";
import type { Secret } from "../core/secret.ts";
import type { Clock } from "../core/clock.ts";
import type { KeySelector, Turns } from "./selection.ts";

/** The parts of a pool that are shared. */
export interface PoolParts {
  readonly provider: string;
  readonly selector: KeySelector;
  readonly state: ProviderState;
  readonly penalties: Penalties;
  readonly day: QuotaDay;
  readonly clock: Clock;
  /** Begins the day where it has not begun. */
  readonly turnDay: () => void;
  readonly wake: () => void;
  /** A lease has got no place: what it took is given back. */
  readonly takeBack: (lease: Lease, now: number) => void;
  readonly hasWaiting: () => boolean;
}

/** What is shared of a key: also what is left of an announced limit, and until when. */
export type SharedKeyState = KeyState & {
  readonly announced: { readonly left: number; readonly resetAt: number } | null;
};

/** What several instances share of a provider. Instants; 0: it is not left alone. */
export interface SharedProvider {
  readonly breaker: number;
  readonly refusesAll: number;
  /** By model. */
  readonly models: Record<string, number>;
  /** What upstream said that made it be left alone. */
  readonly said: string;
}

/** One pool, as what it shares with others. Dates are those of `Clock.wall()`. */
export interface PoolSide {
  readonly provider: string;
  readonly keys: readonly Key[];
  /** What is known of a key; dates. */
  stateOf(key: Key): SharedKeyState;
  /** Takes over parts of a state that another instance has told; each is checked. */
  apply(key: Key, told: Record<string, unknown>): void;
  /**
   * Others sent so many requests with a key, and so many were refused. `model`: that was asked for. Returns whether
   * that may have changed what is told of the key.
   */
  sentElsewhere(key: Key, model: string | null, counted: number, uncounted: number, refused: number): boolean;
  providerState(): SharedProvider;
  /** `before`: what this instance told, or was told, last. */
  applyProvider(told: SharedProvider, before: SharedProvider): void;
  /** From now on it takes turns where a limit is nearly used up. */
  shareTurns(turns: Turns): void;
  maxCooldownMs(): number;
  /** When the running day ends: a date. */
  dayEndsOn(): number;
  /** Something has changed that requests may wait for. */
  wake(): void;
  hasWaiting(): boolean;
}

/** The way from a pool to the other instances. */
export interface PoolLink {
  /** Whether the lease may be used; null: it may, and nobody has to be asked. `perMinute` null: no exact rate. */
  confirm(lease: Lease, perMinute: number | null, patience: Patience): Promise<boolean> | null;
  meterOf(key: Key): Meter;
  /** A request goes out with a key. */
  sent(key: Key, model: string | null, isUncounted: boolean): void;
  /** One of them was refused, and counts against no limit that is learnt. */
  unsent(key: Key, model: string | null): void;
  /** Other keys are configured. */
  keysChanged(): void;
  /** A day has begun. */
  dayTurned(): void;
}

/** The pool of all instances. */
export interface Sharing {
  readonly instances: readonly Instance[];
  /** `alone`: the server is not reached, or too slow. */
  readonly state: "ok" | "alone";
  share(parts: PoolParts): PoolLink;
  /** `client`: its name, or what stands for its key. */
  meterOfClient(client: string): Meter;
  /** Which key's account has these; asked of the server where nobody here knows. */
  lookUpOwners(provider: string, ids: readonly string[], patience: Patience): Promise<void>;
  /** Waits until what was told of owners is with the server. */
  ownersSaved(patience: Patience): Promise<void>;
  /** Where it is known here whose things are. */
  keepOwners(shelf: OwnerShelf): void;
  /** Full name of a key in the server. */
  nameOf(secret: Secret): string;
}

/** Which keys an account has; and which account one of these keys belongs to, which is then known as an owner. */
export interface OwnerShelf {
  /** Made by the hundred with every conversation. */
  isOfTurn(id: string): boolean;
  keysOf(provider: string, account: string): readonly Secret[];
  /** `keys`: their full names. */
  found(provider: string, id: string, keys: readonly string[]): void;
}

/** A proxy that shares the pool. */
export interface Instance {
  readonly id: string;
  /** Dates by the server's clock. */
  readonly since: number;
  readonly seenAt: number;
}

/** What a pool needs from outside, other instances included. */
export interface SharedPoolDependencies extends PoolDependencies {
  /** Other instances that share the pool; null: there is none. */
  readonly sharing?: Sharing | null;
}
