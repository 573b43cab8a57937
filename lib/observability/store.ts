/**
 * What survives a restart and `kill -9` (P33): states of keys, who owns which resource, the last requests, usage.
 *
 * One SQLite file, written about once a second in one transaction, off the path of requests; nothing is written, and
 * no timer runs, while nothing changes. A disk that takes nothing costs the memory of cooldowns, never an answer. A key
 * is named by its fingerprint; its text is never stored, nor is anything that a client said.
 */
import { DAY_MS, HOUR_MS } from "../core/clock.ts";
import { codeOf } from "../core/json.ts";
import type { Database } from "bun:sqlite";
import { type CancelTimer, type Clock, utcDay } from "../core/clock.ts";
import { KEPT_REQUESTS, type Usage } from "./usage.ts";
import type { Log, Observer, RequestRecord } from "../core/events.ts";

/** At most one writing in this time: SD cards wear out. */
const WRITE_EVERY_MS = 1000;
/** What happens together is written together. */
const GATHER_WRITES_MS = 100;
/** How long a disk that failed is left alone. */
const WRITE_AGAIN_MS = 30_000;
/** Written over a layout of this version; a file of a later one is set aside. */
const LAYOUT_VERSION = 1;
const USAGE_DAYS = 90;

/** Which account made a resource of a provider. */
export interface ResourceRow {
  provider: string;
  id: string;
  account: string;
  /** Epoch ms. */
  at: number;
}

export interface StoreOptions {
  path: string;
  clock: Clock;
  log: Log;
  /** Filled with what is stored, and read when it is written. */
  usage: Usage;
}

const LAYOUT = `
  CREATE TABLE keys (provider TEXT, id TEXT, state TEXT NOT NULL, PRIMARY KEY (provider, id)) WITHOUT ROWID;
  CREATE TABLE resources (provider TEXT, id TEXT, account TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (provider, id)) WITHOUT ROWID;
  CREATE TABLE requests (slot INTEGER PRIMARY KEY, at INTEGER NOT NULL, record TEXT NOT NULL);
  CREATE TABLE usage (day TEXT, provider TEXT, key_id TEXT, model TEXT, requests INTEGER NOT NULL,
    rate_limited INTEGER NOT NULL, errors INTEGER NOT NULL, PRIMARY KEY (day, provider, key_id, model)) WITHOUT ROWID;
  CREATE TABLE traffic (at INTEGER PRIMARY KEY, requests INTEGER NOT NULL, absorbed INTEGER NOT NULL,
    errors INTEGER NOT NULL);
`;

/**
 * Opens the file, or makes it. One that cannot be read is set aside under another name; where none can be used at all
 * (no such directory, another keywheel has it) the answer is null, and the log says why.
 */
export async function openStore(options: StoreOptions): Promise<Store | null> {
  const { path, log, clock } = options;
  try {
    return new Store(await openDatabase(path), options);
  } catch (error) {
    if (!isUnreadable(error)) return notKept(path, error, log);
    const aside = `${path}.corrupt-${new Date(clock.wall()).toISOString().replace(/[:.]/g, "-")}`;
    const fault = storeFault(error);
    log.line("warn", "state_set_aside", {
      file: path,
      to: aside,
      fault,
      hint: "begun anew, cooldowns are forgotten",
    });
    try {
      const { rename } = await import("node:fs/promises");
      for (const suffix of ["", "-wal", "-shm", "-journal"]) {
        await rename(path + suffix, aside + suffix).catch((error: unknown) => {
          if (suffix === "") throw error; // the others need not be there
        });
      }
      return new Store(await openDatabase(path), options);
    } catch (again) {
      return notKept(path, again, log);
    }
  }
}

function notKept(path: string, error: unknown, log: Log): null {
  const hint =
    "cooldowns and counts will not survive a restart; set STATE to a file that can be written, or to off";
  log.line("warn", "state_not_kept", { file: path, fault: storeFault(error), hint });
  return null;
}

async function openDatabase(path: string): Promise<Database> {
  const { Database } = await import("bun:sqlite");
  const maskBefore = process.umask(0o077); // nobody else need read it; what SQLite adds beside it follows its mode
  let database: Database;
  try {
    database = new Database(path, { readwrite: true, create: true, strict: true });
  } finally {
    process.umask(maskBefore);
  }
  try {
    // Held as long as we run: a second keywheel on the same file is told so, and there is no shared memory to map.
    database.run("PRAGMA locking_mode = EXCLUSIVE");
    database.run("PRAGMA journal_mode = WAL");
    database.run("PRAGMA synchronous = NORMAL"); // a power cut may cost the last seconds, never the file
    database.run("PRAGMA cache_size = -128");
    database.run("PRAGMA wal_autocheckpoint = 100");
    database.run("BEGIN IMMEDIATE");
    const { user_version: version } = database
      .query<{ user_version: number }, []>("PRAGMA user_version")
      .get() ?? {
      user_version: 0,
    };
    if (version > LAYOUT_VERSION) throw new Unreadable(`it is of a later version (${version})`);
    if (version === 0) database.run(LAYOUT);
    database.run(`PRAGMA user_version = ${LAYOUT_VERSION}`);
    database.run("COMMIT");
    const check = database.query<{ quick_check: string }, []>("PRAGMA quick_check(1)").get();
    if (check?.quick_check !== "ok") throw new Unreadable("its check failed");
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

class Unreadable extends Error {}

/** Whether the file is none of ours or broken, as opposed to one that cannot be used just now. */
function isUnreadable(error: unknown): boolean {
  return error instanceof Unreadable || /^SQLITE_(?:CORRUPT|NOTADB|ERROR)/.test(codeOf(error));
}

/** SQLite's own words or the system's; there is no key in them. */
function storeFault(error: unknown): string {
  if (codeOf(error) === "SQLITE_BUSY") return "another keywheel uses it";
  return error instanceof Error ? error.message : "not an Error";
}

export class Store implements Observer {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #usage: Usage;
  /** By provider and key. */
  readonly #keys = new Map<string, Map<string, () => unknown>>();
  readonly #resources = new Map<string, ResourceRow | { provider: string; id: string; account: null }>();
  #requests: RequestRecord[] = [];
  #slot = 0;
  #minutes = new Set<number>();
  #cancel: CancelTimer | null = null;
  /** When something was last written; epoch ms. */
  #writtenAt = 0;
  #isFailing = false;
  #isClosed = false;

  constructor(database: Database, { clock, log, usage }: StoreOptions) {
    this.#database = database;
    this.#clock = clock;
    this.#log = log;
    this.#usage = usage;
    this.#forgetOld();
    this.#load();
  }

  /** What was stored of a provider's keys, by their ids; whatever it is, its reader checks it. */
  keyStates(provider: string): Map<string, unknown> {
    const rows = this.#database
      .query<{ id: string; state: string }, { provider: string }>(
        "SELECT id, state FROM keys WHERE provider = $provider",
      )
      .all({ provider });
    return new Map(rows.map(({ id, state }) => [id, parsed(state)]));
  }

  resources(): ResourceRow[] {
    return this.#database
      .query<ResourceRow, []>("SELECT provider, id, account, at FROM resources ORDER BY at")
      .all();
  }

  /** A key has changed: `snapshot` is called once, when all that changed is written. */
  saveKey(provider: string, id: string, snapshot: () => unknown): void {
    let changed = this.#keys.get(provider);
    if (changed === undefined) this.#keys.set(provider, (changed = new Map()));
    if (changed.has(id)) return;
    changed.set(id, snapshot);
    this.#writeSoon();
  }

  saveResource(row: ResourceRow): void {
    this.#resources.set(`${row.provider} ${row.id}`, row);
    this.#writeSoon();
  }

  dropResource(provider: string, id: string): void {
    this.#resources.set(`${provider} ${id}`, { provider, id, account: null });
    this.#writeSoon();
  }

  /** After `usage` has counted it. */
  finished(record: RequestRecord): void {
    this.#requests.push(record);
    if (this.#requests.length >= 2 * KEPT_REQUESTS) this.#requests.splice(0, KEPT_REQUESTS); // one by one costs more
    this.#minutes.add(this.#usage.minuteAt(record.at + record.totalMs).at);
    this.#writeSoon();
  }

  #writeSoon(leastMs = GATHER_WRITES_MS): void {
    if (this.#cancel !== null || this.#isClosed) return;
    const afterMs = Math.max(leastMs, this.#writtenAt + WRITE_EVERY_MS - this.#clock.now());
    this.#cancel = this.#clock.after(afterMs, () => {
      this.#cancel = null;
      this.flush();
    });
  }

  /** Writes what has changed. What cannot be written is tried again later. */
  flush(): void {
    if (this.#isClosed) return;
    this.#cancel?.();
    this.#cancel = null;
    if (this.#keys.size + this.#resources.size + this.#requests.length === 0) return;
    this.#writtenAt = this.#clock.now();
    try {
      this.#database.transaction(() => this.#write())();
    } catch (error) {
      this.#failed(error);
      return;
    }
    this.#keys.clear();
    this.#resources.clear();
    this.#requests = [];
    this.#minutes.clear();
    if (this.#isFailing) this.#log.line("info", "state_kept_again", {});
    this.#isFailing = false;
  }

  #failed(error: unknown): void {
    if (!this.#isFailing) {
      const hint = "cooldowns and counts may not survive a restart; make room, or set STATE to another file";
      this.#log.line("warn", "state_not_saved", { fault: storeFault(error), hint });
    }
    this.#isFailing = true;
    this.#writeSoon(WRITE_AGAIN_MS);
  }

  #write(): void {
    const database = this.#database;
    const saveKey = database.query("INSERT OR REPLACE INTO keys VALUES ($provider, $id, $state)");
    for (const [provider, changed] of this.#keys) {
      for (const [id, snapshot] of changed) saveKey.run({ provider, id, state: JSON.stringify(snapshot()) });
    }
    const saveResource = database.query(
      "INSERT OR REPLACE INTO resources VALUES ($provider, $id, $account, $at)",
    );
    const dropResource = database.query("DELETE FROM resources WHERE provider = $provider AND id = $id");
    for (const row of this.#resources.values()) {
      if (row.account === null) dropResource.run({ provider: row.provider, id: row.id });
      else saveResource.run({ ...row });
    }
    const saveRequest = database.query("INSERT OR REPLACE INTO requests VALUES ($slot, $at, $record)");
    let slot = this.#slot;
    for (const record of this.#requests.slice(-KEPT_REQUESTS)) {
      saveRequest.run({ slot, at: record.at, record: JSON.stringify(record) });
      slot = (slot + 1) % KEPT_REQUESTS;
    }
    this.#writeCounts();
    this.#slot = slot;
  }

  #writeCounts(): void {
    const database = this.#database;
    if (this.#requests.length === 0) return;
    const saveUsage = database.query(
      "INSERT OR REPLACE INTO usage VALUES ($day, $provider, $keyId, $model, $requests, $rateLimited, $errors)",
    );
    const used = new Set(
      this.#requests.flatMap((record) =>
        record.attempts.map(({ provider, keyId }) =>
          this.#usage.usedRow(record.at, provider, keyId, record.model),
        ),
      ),
    );
    for (const row of used) if (row !== null) saveUsage.run({ ...row, model: row.model ?? "" });
    const saveMinute = database.query(
      "INSERT OR REPLACE INTO traffic VALUES ($at, $requests, $absorbed, $errors)",
    );
    for (const at of this.#minutes) saveMinute.run({ ...this.#usage.minuteAt(at) });
  }

  #forgetOld(): void {
    const now = this.#clock.wall();
    const day = utcDay(now - USAGE_DAYS * DAY_MS);
    try {
      this.#database.query("DELETE FROM usage WHERE day < $day").run({ day });
      this.#database.query("DELETE FROM traffic WHERE at < $at").run({ at: now - 2 * HOUR_MS });
    } catch (error) {
      this.#failed(error);
    }
  }

  #load(): void {
    const database = this.#database;
    const requests = database
      .query<{ slot: number; record: string }, []>("SELECT slot, record FROM requests ORDER BY at, slot")
      .all();
    for (const { record } of requests) {
      const read = readRecord(parsed(record));
      if (read !== null) this.#usage.keep(read);
    }
    this.#slot = ((requests.at(-1)?.slot ?? -1) + 1) % KEPT_REQUESTS;
    const rows = database
      .query<
        {
          day: string;
          provider: string;
          key_id: string;
          model: string;
          requests: number;
          rate_limited: number;
          errors: number;
        },
        []
      >("SELECT * FROM usage ORDER BY day DESC")
      .all();
    for (const { day, provider, key_id: keyId, model, requests, rate_limited: rateLimited, errors } of rows) {
      const row = this.#usage.rowOf(day, provider, keyId, model === "" ? null : model);
      if (row !== null) Object.assign(row, { requests, rateLimited, errors });
    }
    const minutes = database
      .query<{ at: number; requests: number; absorbed: number; errors: number }, []>("SELECT * FROM traffic")
      .all();
    for (const minute of minutes) Object.assign(this.#usage.minuteAt(minute.at), minute);
  }

  /** Writes what is left, and lets the file go. */
  close(): void {
    this.flush();
    this.#isClosed = true;
    this.#cancel?.();
    this.#database.close();
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not ours, or cut: its reader takes it for nothing
  }
}

/** A stored request, as far as it is one; null: it is none. */
function readRecord(stored: unknown): RequestRecord | null {
  return isRecord(stored) ? stored : null;
}

function isRecord(stored: unknown): stored is RequestRecord {
  if (typeof stored !== "object" || stored === null) return false;
  const fields = new Map(Object.entries(stored));
  const isA = (type: string, ...names: string[]) => names.every((name) => typeof fields.get(name) === type);
  return (
    isA("number", "id", "at", "status", "waitedMs", "totalMs", "bytes", "maybeBilledReplays") &&
    isA("string", "method", "path", "outcome") &&
    isA("boolean", "isTruncated") &&
    Array.isArray(fields.get("attempts"))
  );
}
