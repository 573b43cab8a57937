/**
 * How usage is shared, as far as a shared pool knows: what to send, and whom to tell of what was heard. Types only.
 */

/** What is to be changed of a hash in the server. */
export interface HashChange {
  readonly name: string;
  readonly set?: Record<string, string>;
  readonly unset?: readonly string[];
  readonly add?: Record<string, number>;
  /** To no less than these. */
  readonly raise?: Record<string, number>;
  readonly keepMs: number;
}

export interface UsageSide {
  /** Called when there is something to take. */
  onChange: () => void;
  /** What has come since the last time, for the server and for the others. `now`: a date. */
  take(prefix: string, now: number): { changes: HashChange[]; records: readonly unknown[] };
  /** Another instance tells of a finished request; whatever it is, it is checked. */
  hear(record: unknown): void;
  /** The hashes of so many days, which are read at the start and when the server is back. */
  names(prefix: string, days: number, now: number): string[];
  /** What is in one of them. It may be less than what is known here, and includes nothing that was not taken yet. */
  load(name: string, stored: ReadonlyMap<string, string>, now: number): void;
  /** What is known of these days and was taken: the server may have lost it. */
  fill(prefix: string, days: number, now: number): HashChange[];
}
