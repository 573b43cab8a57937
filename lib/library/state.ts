/**
 * What of a pool outlives the program, as one JSON text that somebody else keeps: the states of keys, and which account
 * owns which files and threads. Keys are named by their fingerprints.
 *
 * Written at most once a second, and only while something changes. Whatever goes wrong is told, and stops no call.
 */
import { readFileSync, renameSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { instantText } from "../core/clock.ts";
import type { CancelTimer, Clock } from "../core/clock.ts";
import { codeOf, field, fieldText, isObject, parseJson } from "../core/json.ts";
import { deferred } from "../core/language.ts";
import type { Keeper } from "../pool/key.ts";
import type { OwnedId, OwnerKeeper } from "../routing/resource-owners.ts";
import type { StateStorage } from "./public.ts";

const SAVE_EVERY_MS = 1000;
/** How long calls wait for what was stored. */
const LOAD_WITHIN_MS = 5000;
/** How long `close` waits for the last saving. */
const SAVE_WITHIN_MS = 5000;
/** The layout of the text: one of a later layout is not understood. */
const LAYOUT = 1;

/** A storage that can put away what nobody understands. */
export interface KeepingStorage extends StateStorage {
  /** Returns where it went, for people. Throws where it must stay. */
  setAside?(now: string): string;
}

/**
 * A file as a storage: there is never half of one, and nobody else may read it. `tell`: told once where another pool
 * writes it, too.
 */
export function fileStorage(path: string, tell: (message: string) => void): KeepingStorage {
  /** As it was read or written last; null: it is not there. */
  let known: string | null = null;
  let isTold = false;
  const read = () => {
    try {
      return readFileSync(path, "utf8");
    } catch (error) {
      if (codeOf(error) === "ENOENT") return null;
      throw error;
    }
  };
  return {
    load: () => (known = read()),
    async save(json) {
      const found = read();
      if (found !== known && found !== null && !isTold) {
        isTold = true;
        tell(
          `The file ${path} is written by another pool, too, and each undoes what the other has kept. Give each a file of its own.`,
        );
      }
      await writeFile(`${path}.new`, json, { mode: 0o600 });
      await rename(`${path}.new`, path);
      known = json;
    },
    setAside(now) {
      // A proxy may be at work with it.
      if (readFileSync(path, "latin1").startsWith("SQLite format 3"))
        throw new Error(`${path} is a database of the proxy's: name another file`);
      const aside = `${path}.corrupt-${now.replace(/[:.]/g, "-")}`;
      renameSync(path, aside);
      return `It was renamed to ${aside}.`;
    },
  };
}

/** By provider and key. */
type Snapshots = Map<string, Map<string, () => unknown>>;

export class KeptState implements Keeper, OwnerKeeper {
  readonly #storage: KeepingStorage;
  readonly #clock: Clock;
  /** Told what went wrong. */
  readonly #tell: (message: string) => void;
  /** What was stored and what has changed since: called when it is written. */
  readonly #keys: Snapshots = new Map();
  readonly #resources = new Map<string, OwnedId>();
  #cancel: CancelTimer | null = null;
  #hasChanged = false;
  /** The saving that is under way, and the next one behind it. */
  #saving: Promise<void> | null = null;
  #isClosed = false;
  /** What was stored is not ours, and must stay. */
  #isForeign = false;

  constructor(storage: KeepingStorage, clock: Clock, tell: (message: string) => void) {
    this.#storage = storage;
    this.#clock = clock;
    this.#tell = tell;
  }

  /** Reads what was stored; null: it is here already. The promise is kept in time, whatever comes. */
  load(): Promise<void> | null {
    let stored: unknown;
    try {
      stored = this.#storage.load();
    } catch (error) {
      this.#tell(`The state could not be read: ${wordsOf(error)}. The pool begins anew.`);
      return null;
    }
    if (!isPromise(stored)) {
      this.#take(stored);
      return null;
    }
    const { promise, resolve } = deferred<void>();
    let isOver = false;
    const end = (message: string | null) => {
      if (isOver) return;
      isOver = true;
      cancel();
      if (message !== null) this.#tell(message);
      resolve();
    };
    const cancel = this.#clock.after(LOAD_WITHIN_MS, () =>
      end(`The state was not there within ${LOAD_WITHIN_MS / 1000} s. The pool begins anew.`),
    );
    stored.then(
      (text) => {
        if (!isOver) this.#take(text);
        end(null);
      },
      (error: unknown) => end(`The state could not be read: ${wordsOf(error)}. The pool begins anew.`),
    );
    return promise;
  }

  #take(text: unknown): void {
    if (text === null || text === undefined || text === "") return;
    const stored = typeof text === "string" ? parseJson(text) : undefined;
    if (!isObject(stored) || field(stored, "keywheel") !== LAYOUT) {
      return this.#setAside();
    }
    const providers = field(stored, "keys");
    for (const [provider, states] of Object.entries(isObject(providers) ? providers : {})) {
      for (const [id, state] of Object.entries(isObject(states) ? states : {}))
        this.#snapshotsOf(provider).set(id, () => state);
    }
    const resources = field(stored, "resources");
    for (const entry of Array.isArray(resources) ? resources : []) {
      if (!isObject(entry)) continue;
      const [provider, id, account] = ["provider", "id", "account"].map((name) => fieldText(entry, name));
      const at = Number(field(entry, "at"));
      if (provider && id && account && Number.isFinite(at))
        this.#resources.set(`${provider} ${id}`, { provider, id, account, at });
    }
  }

  #setAside(): void {
    let where: string;
    try {
      where = this.#storage.setAside?.(instantText(this.#clock.wall())) ?? "";
    } catch (error) {
      this.#isForeign = true;
      where = `Nothing is kept: ${wordsOf(error)}.`;
    }
    this.#tell(`The state that was stored cannot be read. The pool begins anew. ${where}`.trimEnd());
  }

  #snapshotsOf(provider: string): Map<string, () => unknown> {
    let snapshots = this.#keys.get(provider);
    if (snapshots === undefined) this.#keys.set(provider, (snapshots = new Map()));
    return snapshots;
  }

  keyStates(provider: string): ReadonlyMap<string, unknown> {
    const snapshots = this.#keys.get(provider) ?? new Map<string, () => unknown>();
    return new Map([...snapshots].map(([id, snapshot]) => [id, snapshot()]));
  }

  saveKey(provider: string, id: string, snapshot: () => unknown): void {
    this.#snapshotsOf(provider).set(id, snapshot);
    this.#saveSoon();
  }

  resources(): readonly OwnedId[] {
    return [...this.#resources.values()];
  }

  saveResource(owned: OwnedId): void {
    this.#resources.set(`${owned.provider} ${owned.id}`, owned);
    this.#saveSoon();
  }

  dropResource(provider: string, id: string): void {
    if (this.#resources.delete(`${provider} ${id}`)) this.#saveSoon();
  }

  #saveSoon(): void {
    this.#hasChanged = true;
    if (this.#isClosed) void this.flush();
    else
      this.#cancel ??= this.#clock.after(SAVE_EVERY_MS, () => {
        this.#cancel = null;
        void this.flush();
      });
  }

  /** Saves what has changed. One saving at a time: a slow one must not overtake the next. */
  async flush(): Promise<void> {
    if (this.#saving !== null) await this.#saving;
    if (!this.#hasChanged || this.#saving !== null || this.#isForeign) return;
    this.#hasChanged = false;
    this.#saving = this.#save();
    await this.#saving;
    this.#saving = null;
    if (this.#isClosed && this.#hasChanged) await this.flush();
  }

  async #save(): Promise<void> {
    try {
      const keys = Object.fromEntries(
        [...this.#keys.keys()].map((provider) => [provider, Object.fromEntries(this.keyStates(provider))]),
      );
      await this.#storage.save(JSON.stringify({ keywheel: LAYOUT, keys, resources: this.resources() }));
    } catch (error) {
      this.#hasChanged = !this.#isClosed; // it is written with the next change
      this.#tell(`The state could not be saved: ${wordsOf(error)}.`);
    }
  }

  /** Saves what is left, if that can be done in time. What changes later (answers that go on) is saved at once. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#cancel?.();
    const { promise: isLate, resolve } = deferred<"late">();
    const cancel = this.#clock.after(SAVE_WITHIN_MS, () => resolve("late"));
    const ending = await Promise.race([this.flush(), isLate]);
    cancel();
    if (ending === "late") this.#tell(`The state was not saved within ${SAVE_WITHIN_MS / 1000} s.`);
  }
}

function isPromise(value: unknown): value is Promise<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}

/** What was thrown, in one line. */
function wordsOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).slice(0, 300);
}
