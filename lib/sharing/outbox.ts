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
  /** Takes what has changed; null: nothing has. */
  readonly gather: (options: BatchOptions) => Omit<Batch, "number"> | null;
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
  #cancel: CancelTimer | null = null;
  #isSending = false;
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
    if (this.#isSending) {
      this.#hasMore = true;
      return true;
    }
    this.#isSending = true;
    this.#isUrgent = false;
    try {
      if (this.#unconfirmed !== null && !(await this.#deliver(this.#unconfirmed))) return false;
      const gathered = this.#parts.gather(options);
      if (gathered === null) return true;
      this.#number += 1;
      this.#unconfirmed = { number: this.#number, ...gathered };
      return await this.#deliver(this.#unconfirmed);
    } finally {
      this.#isSending = false;
      if (this.#hasMore) {
        this.#hasMore = false;
        this.sendSoon(this.#isUrgent);
      }
    }
  }

  async #deliver(batch: Batch): Promise<boolean> {
    if (!(await this.#parts.deliver(batch))) return false;
    if (this.#unconfirmed === batch) this.#unconfirmed = null;
    return true;
  }

  /** What was on its way is written otherwise. */
  forget(): void {
    this.#unconfirmed = null;
  }

  close(): void {
    this.#cancel?.();
  }
}
