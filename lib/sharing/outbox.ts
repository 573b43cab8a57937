/**
 * What goes to the server behind the path of requests: what happens together is sent together, one batch at a time. A
 * batch of which nobody knows whether it was carried out goes again, under its number, before the next.
 */
import type { CancelTimer, Clock } from "../core/clock.ts";
import type { HashChange } from "./usage-side.ts";

/** What happens together is sent together. */
const GATHER_MS = 20;

/** Changes with the number by which the server knows whether it has them. */
export interface Batch {
  readonly number: number;
  readonly news: string;
  readonly changes: string;
}

/** What goes into a batch besides what has changed; `batch.ts` explains the two. */
export interface BatchOptions {
  readonly first: readonly HashChange[];
  readonly isAll: boolean;
  readonly isFilling: boolean;
}

export interface OutboxParts {
  readonly clock: Clock;
  /** Nothing is sent now. */
  readonly isMuted: () => boolean;
  /** Takes what has changed, for a batch of this number; null: nothing has. */
  readonly gather: (options: BatchOptions, number: number) => Omit<Batch, "number"> | null;
  /** Returns whether the server has it. */
  readonly deliver: (batch: Batch) => Promise<boolean>;
  readonly onFailed: () => void;
}

const WHAT_CHANGED: BatchOptions = { first: [], isAll: false, isFilling: false };

export class Outbox {
  readonly #parts: OutboxParts;
  #number = 0;
  /** A batch that was sent, and may not have been carried out. */
  #unconfirmed: Batch | null = null;
  #isHeard = false;
  #cancel: CancelTimer | null = null;
  #isSending = false;
  #idle: Promise<void> = Promise.resolve();
  #hasMore = false;
  #isUrgent = false;

  constructor(parts: OutboxParts) {
    this.#parts = parts;
  }

  /** Something has changed. `isUrgent`: it goes out once all is settled that is being settled. */
  sendSoon(isUrgent = false): void {
    if (this.#parts.isMuted()) return;
    if (isUrgent) {
      this.#isUrgent = true;
      this.#cancel?.();
      this.#cancel = () => {};
      queueMicrotask(() => void this.#sendNow());
    } else this.#cancel ??= this.#parts.clock.after(GATHER_MS, () => void this.#sendNow());
  }

  async #sendNow(): Promise<void> {
    this.#cancel = null;
    if (!(await this.send())) this.#parts.onFailed();
  }

  /** Returns whether the server has it, or nothing was to be sent. */
  async send(options = WHAT_CHANGED): Promise<boolean> {
    while (this.#isSending && options !== WHAT_CHANGED) await this.#idle;
    if (this.#isSending) {
      this.#hasMore = true;
      return true;
    }
    this.#isUrgent = false;
    const release = this.#occupy();
    try {
      if (!(await this.#deliverAgain())) return false;
      const number = this.#number + 1;
      const gathered = this.#parts.gather(options, number);
      if (gathered === null) return true;
      this.#number = number;
      this.#unconfirmed = { number, ...gathered };
      this.#isHeard = false;
      return await this.#deliver(this.#unconfirmed);
    } finally {
      release();
    }
  }

  /** Until this is called nothing else is sent. */
  #occupy(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#isSending = true;
    this.#idle = promise;
    return () => {
      this.#isSending = false;
      resolve();
      if (!this.#hasMore) return;
      this.#hasMore = false;
      this.sendSoon(this.#isUrgent);
    };
  }

  /**
   * Does this while nothing is on its way, and the server has all that was taken so far. Returns false where it has
   * not.
   */
  async whileIdle(work: () => Promise<boolean>): Promise<boolean> {
    while (this.#isSending) await this.#idle;
    const release = this.#occupy();
    try {
      return (await this.#deliverAgain()) && (await work());
    } finally {
      release();
    }
  }

  async #deliverAgain(): Promise<boolean> {
    return this.#unconfirmed === null || (await this.#deliver(this.#unconfirmed));
  }

  async #deliver(batch: Batch): Promise<boolean> {
    if (!(await this.#parts.deliver(batch))) return false;
    if (this.#unconfirmed === batch) this.#unconfirmed = null;
    return true;
  }

  /** The last batch that the server has for certain. */
  get confirmed(): number {
    return this.#unconfirmed === null ? this.#number : this.#unconfirmed.number - 1;
  }

  /** The news of it came back: the server has it. */
  onHeard(number: number): void {
    if (number >= (this.#unconfirmed?.number ?? Infinity)) this.#isHeard = true;
  }

  /** The server has lost what it had: what was on its way, and was not carried out before, is to be written anew. */
  forget(): Batch | null {
    const undone = this.#isHeard ? null : this.#unconfirmed;
    this.#unconfirmed = null;
    return undone;
  }

  close(): void {
    this.#cancel?.();
  }
}
