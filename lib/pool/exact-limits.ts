/**
 * Limits that hold over all instances that share a pool, and how a request asks for a place in them. Types only:
 * `sharing/meters.ts` is what stands behind them.
 */

/** What is left of the time that one request may wait for the server, in ms. */
export interface Patience {
  serverMs: number;
}

/** Limits that hold over all instances; null: there is none. */
export interface ExactLimits {
  readonly perMinute: number | null;
  /** How long the minute is, in ms. */
  readonly windowMs: number;
  readonly perDay: number | null;
  readonly tokensPerDay: number | null;
  /** End of the running day: a date, by `Clock.wall()`. */
  readonly dayEndsOn: number;
}

/** A place of a limit that a request has taken. */
export interface Place {
  readonly kind: "place";
  /** It turned out to count against no rate: takes it out of the minute. */
  uncountMinute(): void;
}

/** There is no place. */
export interface Full {
  readonly kind: "full";
  readonly what: "minute" | "day" | "tokens";
  /** Instant from which it is worth asking again. */
  readonly readyAt: number;
}

/** What a key or a client used, over all instances. */
export interface Meter {
  /** Of the running day: by this instance, and by the others. */
  readonly requests: number;
  readonly othersRequests: number;
  readonly tokens: number;
  readonly othersTokens: number;
  /**
   * How many went out within the last minute with any instance, as far as was heard; and when the oldest of so many
   * did.
   */
  usedOfMinute(windowMs: number): number;
  oldestOfMinute(windowMs: number): number;
  /** Begins a day, unless it is the one that runs. `dayEndsOn`: a date. */
  turnDay(dayEndsOn: number): void;
  /** Counts without asking; a negative number gives back. */
  count(requests: number, tokens: number): void;
  /** Asks for a place. Never fails, and waits no longer than there is patience. */
  ask(limits: ExactLimits, others: readonly Meter[], patience: Patience): Promise<Place | Full>;
}
