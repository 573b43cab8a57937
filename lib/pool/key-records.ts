/**
 * What of keys is kept over a restart: told to the keeper whenever a key has changed, and taken over at the start.
 */
import { wallOffset } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import { fromDates, inDates, readKeyState, stateOf } from "./key.ts";
import type { Keeper, Key, KeyState } from "./key.ts";
import type { Penalties } from "./penalties.ts";
import type { QuotaDay } from "./quota-day.ts";
import type { KeySelector } from "./selection.ts";

export class KeyRecords {
  readonly #provider: string;
  readonly #keeper: Keeper;
  readonly #clock: Clock;
  readonly #selector: KeySelector;
  readonly #day: QuotaDay;
  /** By key: what makes the record when it is written; made once. */
  readonly #snapshots = new Map<Key, () => KeyState>();

  constructor(provider: string, keeper: Keeper, clock: Clock, selector: KeySelector, day: QuotaDay) {
    this.#provider = provider;
    this.#keeper = keeper;
    this.#clock = clock;
    this.#selector = selector;
    this.#day = day;
  }

  /** Has what is known of the key kept. */
  save(key: Key): void {
    if (key.index < 0) return;
    let snapshot = this.#snapshots.get(key);
    if (snapshot === undefined) {
      snapshot = () => {
        const state = stateOf(
          key,
          this.#selector.limitsOf(key.account),
          this.#day.endDate,
          this.#clock.now(),
        );
        return inDates(state, wallOffset(this.#clock));
      };
      this.#snapshots.set(key, snapshot);
    }
    this.#keeper.saveKey(this.#provider, key.secret.id, snapshot);
  }

  /** Lets go of keys that are there no more. */
  forget(keys: Iterable<Key>): void {
    for (const key of keys) this.#snapshots.delete(key);
  }

  /** Takes over what was stored of keys in an earlier run. */
  restore(keeper: Keeper, keys: readonly Key[], penalties: Penalties): void {
    const now = this.#clock.now();
    const stored = keeper.keyStates(this.#provider);
    for (const key of keys) {
      const dated = readKeyState(stored.get(key.secret.id));
      if (dated === null) continue;
      const state = fromDates(dated, wallOffset(this.#clock), now, penalties.rules.maxCooldownMs);
      const { cooldown, limiter, models, dayEndsAt, today, ...counted } = state;
      const { account } = key;
      Object.assign(key, counted);
      if (this.#day.goesOn(dayEndsAt)) key.today = today;
      if ((cooldown?.until ?? 0) > (account.cooldown?.until ?? 0)) account.cooldown = cooldown;
      if (limiter !== null) account.limiter.restore(limiter, now);
      for (const [model, known] of Object.entries(models)) {
        const limits = this.#selector.openLimits(model, account, now);
        limits.cooldown = known.cooldown;
        limits.deniedUntil = known.deniedUntil;
        if (known.limiter !== null) penalties.limiterOf(limits, account)?.restore(known.limiter, now);
      }
    }
  }
}
