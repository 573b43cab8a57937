/**
 * Asks after keys that are out of use or in doubt: confirms a death, and brings back early what lives (P12).
 *
 * A refusal that does not say why is no proof, so a doubted key is put on the provider's cheapest question at once. A
 * dead one is asked after again, more and more seldom: accounts are revived, and providers err. One whose money ran
 * out is asked after where the question tells the balance. A timer runs only while there is such a key.
 */
import { MINUTE_MS } from "../core/clock.ts";
import type { CheckedKey } from "./key-health.ts";
import type { CancelTimer, Clock } from "../core/clock.ts";
import type { KeyEvent, Observer } from "../core/events.ts";

const DEAD_FIRST_MS = 10 * MINUTE_MS;
const DEAD_LONGEST_MS = 24 * 60 * MINUTE_MS;
const POOR_EVERY_MS = 15 * MINUTE_MS;
/** A doubted key is not asked after more often than this. */
const DOUBT_EVERY_MS = MINUTE_MS;

/** What the prober needs of the engine. Keys that are not there any more are ignored. */
export interface Patients {
  /** Asks the provider about the key; null: there is no such key, or no free question that would tell. */
  ask(provider: string, keyId: string): Promise<Pick<CheckedKey, "standing" | "detail"> | null>;
  /** Whether the provider's question tells if the account can pay. */
  tellsBalance(provider: string): boolean;
  /** It is alive: back into use at once. */
  revive(provider: string, keyId: string): void;
  /** It is dead, as the provider says in so many words. */
  bury(provider: string, keyId: string, said: string): void;
}

export class Prober implements Observer {
  readonly #clock: Clock;
  readonly #patients: Patients;
  /** By provider and key: the next question. */
  readonly #pending = new Map<string, CancelTimer>();
  readonly #askedAt = new Map<string, number>();

  constructor(clock: Clock, patients: Patients) {
    this.#clock = clock;
    this.#patients = patients;
  }

  keyChanged({ at, provider, keyId, kind, reason, until, model }: KeyEvent): void {
    if (keyId === null) return;
    switch (kind) {
      case "doubted":
        this.#askAtOnce(provider, keyId);
        return;
      case "disabled":
        this.#askLater(provider, keyId, DEAD_FIRST_MS);
        return;
      case "cooled":
        if (reason === "billing" && model === null && this.#patients.tellsBalance(provider))
          this.#askPoor(provider, keyId, this.#clock.now() + ((until ?? at) - at));
        return;
      case "back":
        this.#forget(provider, keyId);
        return;
      case "paused_by_hand":
      case "resumed_by_hand":
      case "provider_paused":
      case "provider_up":
      case "pool_dry":
      case "pool_recovered":
        return;
    }
  }

  /** Asks after nobody any more. */
  close(): void {
    for (const cancel of this.#pending.values()) cancel();
    this.#pending.clear();
  }

  #askAtOnce(provider: string, keyId: string): void {
    const name = nameOf(provider, keyId);
    const now = this.#clock.now();
    if (now < (this.#askedAt.get(name) ?? -Infinity) + DOUBT_EVERY_MS) return;
    this.#askedAt.set(name, now);
    void this.#ask(provider, keyId);
  }

  /** A dead key: once more after `delayMs`, and after twice that. */
  #askLater(provider: string, keyId: string, delayMs: number): void {
    this.#schedule(provider, keyId, delayMs, async () => {
      const isBack = await this.#ask(provider, keyId);
      if (!isBack) this.#askLater(provider, keyId, Math.min(delayMs * 2, DEAD_LONGEST_MS));
    });
  }

  #askPoor(provider: string, keyId: string, until: number): void {
    if (until < this.#clock.now() + POOR_EVERY_MS) return;
    this.#schedule(provider, keyId, POOR_EVERY_MS, async () => {
      const isBack = await this.#ask(provider, keyId);
      if (!isBack) this.#askPoor(provider, keyId, until);
    });
  }

  #schedule(provider: string, keyId: string, delayMs: number, action: () => Promise<void>): void {
    const name = nameOf(provider, keyId);
    this.#pending.get(name)?.();
    const cancel = this.#clock.after(delayMs, () => {
      this.#pending.delete(name);
      void action();
    });
    this.#pending.set(name, cancel);
  }

  /** Whether that brought the key back, or there is nothing to ask after any more. */
  async #ask(provider: string, keyId: string): Promise<boolean> {
    const found = await this.#patients.ask(provider, keyId);
    if (found === null) return true;
    switch (found.standing) {
      case "works":
        this.#patients.revive(provider, keyId);
        return true;
      case "dead":
        this.#patients.bury(provider, keyId, found.detail);
        return false;
      case "limited":
      case "doubtful":
      case "unreachable":
      case "unknown":
        return false;
    }
  }

  #forget(provider: string, keyId: string): void {
    const name = nameOf(provider, keyId);
    this.#pending.get(name)?.();
    this.#pending.delete(name);
    this.#askedAt.delete(name);
  }
}

function nameOf(provider: string, keyId: string): string {
  return `${provider}/${keyId}`;
}
