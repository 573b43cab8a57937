/**
 * What a pool tells of its keys and its provider: each change once, with dates instead of instants of our clock.
 */
import type { Clock } from "../core/clock.ts";
import { wallOffset } from "../core/clock.ts";
import type { KeyEvent, Observer } from "../core/events.ts";
import type { NoKey } from "../providers/verdict.ts";
import type { Key } from "./key.ts";
import type { ProviderListener } from "./provider-state.ts";

/** An event without what every event has. `until`: epoch ms of our clock; null: not a matter of time. */
export type PoolEvent = Pick<KeyEvent, "kind" | "reason" | "until" | "said"> & {
  readonly model?: string | null;
};

export class PoolEvents implements ProviderListener {
  readonly #provider: string;
  readonly #clock: Clock;
  readonly #observer: Observer;
  #isDry = false;

  constructor(provider: string, clock: Clock, observer: Observer) {
    this.#provider = provider;
    this.#clock = clock;
    this.#observer = observer;
  }

  /** Tells of a key; null: of the provider as a whole. */
  tell(event: PoolEvent, key: Key | null, now: number): void {
    const offset = wallOffset(this.#clock);
    this.#observer.keyChanged?.({
      at: now + offset,
      provider: this.#provider,
      key: key?.index ?? null,
      keyId: key?.secret.id ?? null,
      account: key?.account.name ?? null,
      model: null,
      ...event,
      until: event.until === null ? null : event.until + offset,
    });
  }

  /** A request goes without a key. That none can serve any more is told once, until one is served again. */
  onGivenUp({ why, readyAt }: NoKey, now: number): void {
    if (this.#isDry || why === "unsuited" || why === "paused") return;
    this.#isDry = true;
    const until = Number.isFinite(readyAt) ? readyAt : null;
    this.tell({ kind: "pool_dry", reason: null, until, said: "" }, null, now);
  }

  /** A request got a key. */
  onLeased(now: number): void {
    if (!this.#isDry) return;
    this.#isDry = false;
    this.tell({ kind: "pool_recovered", reason: null, until: null, said: "" }, null, now);
  }

  onPaused(reason: "upstream_faults" | "common_cause", forMs: number, said: string, now: number): void {
    this.tell({ kind: "provider_paused", reason, until: now + forMs, said }, null, now);
  }

  onUp(now: number): void {
    this.tell({ kind: "provider_up", reason: null, until: null, said: "" }, null, now);
  }
}
