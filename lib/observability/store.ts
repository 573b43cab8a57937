/**
 * What survives a restart and `kill -9` (P33): states of keys, who owns which resource, the last requests, usage.
 *
 * One SQLite file, written about once a second in one transaction, off the path of requests; nothing is written, and
 * no timer runs, while nothing changes. Where the file cannot be written, it is read all the same, and writing is tried
 * again until it works: a disk that takes nothing costs the memory of cooldowns, never an answer. A key is named by its
 * fingerprint; its text is never stored, nor is anything that a client said.
 */
import { keepNewest } from "../core/bounded.ts";
import { instantText, type CancelTimer, type Clock } from "../core/clock.ts";
import type { AttemptRecord, Log, Observer, RequestRecord } from "../core/events.ts";
import { codeOf } from "../core/json.ts";
import {
  KEPT_REQUESTS,
  TRAFFIC_STEPS,
  type TrafficPoint,
  type TrafficStep,
  type Usage,
  type UsageRow,
} from "./usage.ts";
import type { Database } from "bun:sqlite";

/** At most one writing in this time: SD cards wear out. */
const WRITE_EVERY_MS = 1000;
/** What happens together is written together. */
const GATHER_WRITES_MS = 100;
/** How long a disk that failed is left alone. */
const WRITE_AGAIN_MS = 30_000;
/** A file of an earlier layout is brought to this one; a file of a later one is set aside. */
const LAYOUT_VERSION = 3;
/** Days of usage that are kept: the last ones that there are, wherever the clock stands. */
const USAGE_DAYS = 366;
/** Points of traffic that are kept of each step. */
const TRAFFIC_POINTS = 800;

/** Rows of a kind that may wait for a disk that takes none; of more the oldest are not written. */
const MOST_PENDING_ROWS = 20_000;

/** Which account made a resource of a provider. */
interface ResourceRow {
  provider: string;
  id: string;
  account: string;
  /** Epoch ms. */
  at: number;
}

interface StoreOptions {
  path: string;
  clock: Clock;
  log: Log;
  /** Filled with what is stored, and read when it is written. */
  usage: Usage;
}

const USAGE_TABLE = `
  CREATE TABLE usage (day TEXT, provider TEXT, key_id TEXT, model TEXT, client TEXT, requests INTEGER NOT NULL,
    rate_limited INTEGER NOT NULL, errors INTEGER NOT NULL,
    PRIMARY KEY (day, provider, key_id, model, client)) WITHOUT ROWID;`;
const TRAFFIC_TABLE = `
  CREATE TABLE traffic (step TEXT, at INTEGER, requests INTEGER NOT NULL, absorbed INTEGER NOT NULL,
    hidden_429 INTEGER NOT NULL, errors INTEGER NOT NULL, PRIMARY KEY (step, at)) WITHOUT ROWID;`;
/** As they were added: a file of the second layout has none of them. */
const TOKEN_COLUMNS = ["input", "output", "cached", "cache_write", "reasoning"]
  .map((kind) => `ALTER TABLE usage ADD COLUMN ${kind}_tokens INTEGER NOT NULL DEFAULT 0;`)
  .join("\n  ");
const LAYOUT = `
  CREATE TABLE keys (provider TEXT, id TEXT, state TEXT NOT NULL, PRIMARY KEY (provider, id)) WITHOUT ROWID;
  CREATE TABLE resources (provider TEXT, id TEXT, account TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (provider, id)) WITHOUT ROWID;
  CREATE TABLE requests (slot INTEGER PRIMARY KEY, at INTEGER NOT NULL, record TEXT NOT NULL);
  ${USAGE_TABLE}${TRAFFIC_TABLE}
  ${TOKEN_COLUMNS}
`;

const TABLES = ["keys", "resources", "requests", "usage", "traffic"];

/** From the layout of this version to the next. */
const UPGRADES: Record<number, string> = {
  1: `
    ALTER TABLE usage RENAME TO old_usage;
    ALTER TABLE traffic RENAME TO old_traffic;
    ${USAGE_TABLE}${TRAFFIC_TABLE}
    INSERT INTO usage SELECT day, provider, key_id, model, '', requests, rate_limited, errors FROM old_usage;
    INSERT INTO traffic SELECT 'minute', at, requests, absorbed, 0, errors FROM old_traffic;
    DROP TABLE old_usage;
    DROP TABLE old_traffic;
  `,
  2: TOKEN_COLUMNS,
};

/**
 * Opens the file, or makes it. One that cannot be read is set aside under another name. Where none can be written now
 * (a full disk, no such directory, another keywheel has it), what is stored is read as far as that goes, the log says
 * why, and it is tried again until it works.
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  const store = new Store(options);
  await store.open();
  return store;
}

/** Opens the file to write; throws where it is broken, or cannot be used now. */
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
    bringUpToDate(database);
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

/** Takes the lock, and makes the tables what they have to be. */
function bringUpToDate(database: Database): void {
  database.run("BEGIN IMMEDIATE");
  let version = layoutVersionOf(database);
  if (version > LAYOUT_VERSION) throw new Unreadable(`it is of a later version (${version})`);
  if (version === 0) database.run(LAYOUT);
  else for (; version < LAYOUT_VERSION; version += 1) database.run(UPGRADES[version] ?? "");
  // A full disk would take not even this.
  if (layoutVersionOf(database) !== LAYOUT_VERSION) database.run(`PRAGMA user_version = ${LAYOUT_VERSION}`);
  database.run("COMMIT");
  expectSound(database);
}

function layoutVersionOf(database: Database): number {
  return database.query<{ user_version: number }, []>("PRAGMA user_version").get()?.user_version ?? 0;
}

/** Throws where the file is broken, or a table is missing. */
function expectSound(database: Database): void {
  for (const table of TABLES) database.query(`SELECT 1 FROM ${table} LIMIT 1`).get();
  const check = database.query<{ quick_check: string }, []>("PRAGMA quick_check(1)").get();
  if (check?.quick_check !== "ok") throw new Unreadable("its check failed");
}

/**
 * What is stored in a file that cannot be opened to write, as a database in memory; null where that cannot be read
 * either. Changes that SQLite had not put into the file itself when the program was killed are not in it.
 */
async function openImage(path: string): Promise<Database | null> {
  const { Database } = await import("bun:sqlite");
  try {
    const image = await Bun.file(path).bytes();
    image.fill(ROLLBACK_JOURNAL, JOURNAL_BYTES, JOURNAL_BYTES + 2); // what is in memory has no write-ahead log
    const database = Database.deserialize(image, { readonly: true, strict: true });
    if (layoutVersionOf(database) > LAYOUT_VERSION || layoutVersionOf(database) === 0)
      throw new Unreadable("not ours");
    expectSound(database);
    return database;
  } catch {
    return null; // absent, or not to be read: why it cannot be used is said by whoever opens it to write
  }
}

/** Where a file says by which journal it is written, and in which of two ways (sqlite.org/fileformat, 1.3). */
const JOURNAL_BYTES = 18;
const ROLLBACK_JOURNAL = 1;

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
  readonly #path: string;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #usage: Usage;
  /** null: the file cannot be used now. */
  #database: Database | null = null;
  /** What could be read of a file that cannot be written; null: nothing, or it is not needed any more. */
  #image: Database | null = null;
  /** Whether what is stored was read. */
  #isRead = false;
  /** By provider and key. */
  readonly #keys = new Map<string, Map<string, () => unknown>>();
  readonly #resources = new Map<string, ResourceRow | { provider: string; id: string; account: null }>();
  #requests: RequestRecord[] = [];
  #slot = 0;
  readonly #points = new Map<TrafficPoint, TrafficStep>();
  /** Rows of requests that are not kept any more. */
  readonly #rows = new Set<UsageRow>();
  #cancel: CancelTimer | null = null;
  /** When something was last written, by `now()`. */
  #writtenAt = 0;
  #isFailing = false;
  #isClosed = false;

  constructor({ path, clock, log, usage }: StoreOptions) {
    this.#path = path;
    this.#clock = clock;
    this.#log = log;
    this.#usage = usage;
  }

  /** Opens the file; where that fails, reads what can be read of it, and tries again later. */
  async open(): Promise<void> {
    try {
      this.#database = await this.#openOrSetAside();
    } catch (error) {
      await this.#cannotOpen(error);
      return;
    }
    if (this.#isClosed) return this.#database.close();
    this.#image?.close();
    this.#image = null;
    this.#forgetOld();
    this.#readOnce(this.#database);
    if (!this.#isFailing) return;
    if (this.#hasChanges()) this.flush();
    else this.#sayKeptAgain();
  }

  async #cannotOpen(error: unknown): Promise<void> {
    if (!this.#isFailing) {
      const hint =
        "cooldowns and counts will not survive a restart until it works, which is tried again; set STATE to a file that can be written, or to off";
      this.#log.line("warn", "state_not_kept", { file: this.#path, fault: storeFault(error), hint });
      this.#isFailing = true;
      this.#image = await openImage(this.#path);
      if (this.#image !== null) this.#readOnce(this.#image);
    }
    if (this.#isClosed) return;
    this.#cancel?.();
    this.#cancel = this.#clock.after(WRITE_AGAIN_MS, () => {
      this.#cancel = null;
      void this.open();
    });
  }

  async #openOrSetAside(): Promise<Database> {
    const path = this.#path;
    try {
      return await openDatabase(path);
    } catch (error) {
      if (!isUnreadable(error)) throw error;
      const aside = `${path}.corrupt-${instantText(this.#clock.wall()).replace(/[:.]/g, "-")}`;
      const hint = "begun anew, cooldowns are forgotten";
      this.#log.line("warn", "state_set_aside", { file: path, to: aside, fault: storeFault(error), hint });
      const { rename } = await import("node:fs/promises");
      for (const suffix of ["", "-wal", "-shm", "-journal"]) {
        await rename(path + suffix, aside + suffix).catch((problem: unknown) => {
          if (suffix === "") throw problem; // the others need not be there
        });
      }
      return openDatabase(path);
    }
  }

  /** What was stored of a provider's keys, by their ids; whatever it is, its reader checks it. */
  keyStates(provider: string): Map<string, unknown> {
    const rows =
      (this.#database ?? this.#image)
        ?.query<{ id: string; state: string }, { provider: string }>(
          "SELECT id, state FROM keys WHERE provider = $provider",
        )
        .all({ provider }) ?? [];
    return new Map(rows.map(({ id, state }) => [id, parsed(state)]));
  }

  resources(): ResourceRow[] {
    const database = this.#database ?? this.#image;
    return (
      database?.query<ResourceRow, []>("SELECT provider, id, account, at FROM resources ORDER BY at").all() ??
      []
    );
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
    this.#setResource(row);
  }

  dropResource(provider: string, id: string): void {
    this.#setResource({ provider, id, account: null });
  }

  #setResource(row: ResourceRow | { provider: string; id: string; account: null }): void {
    this.#resources.set(`${row.provider} ${row.id}`, row);
    keepNewest(this.#resources, MOST_PENDING_ROWS);
    this.#writeSoon();
  }

  /** After `usage` has counted it. */
  finished(record: RequestRecord): void {
    this.#requests.push(record);
    if (this.#requests.length >= 2 * KEPT_REQUESTS) {
      this.#noteRows(this.#requests.splice(0, KEPT_REQUESTS)); // one by one costs more
    }
    const at = record.at + record.totalMs;
    this.#points.set(this.#usage.pointAt("minute", at), "minute");
    this.#points.set(this.#usage.pointAt("hour", at), "hour");
    keepNewest(this.#points, MOST_PENDING_ROWS);
    this.#writeSoon();
  }

  /** The rows in which these requests were counted have changed. */
  #noteRows(records: readonly RequestRecord[]): void {
    for (const record of records) {
      for (const attempt of record.attempts) {
        const row = this.#usage.rowFor(record.at, attempt, record);
        if (row !== null) this.#rows.add(row);
      }
    }
    keepNewest(this.#rows, MOST_PENDING_ROWS);
  }

  #writeSoon(leastMs = GATHER_WRITES_MS): void {
    if (this.#cancel !== null || this.#isClosed || this.#database === null) return;
    const afterMs = Math.max(leastMs, this.#writtenAt + WRITE_EVERY_MS - this.#clock.now());
    this.#cancel = this.#clock.after(afterMs, () => {
      this.#cancel = null;
      this.flush();
    });
  }

  /** Writes what has changed. What cannot be written is tried again later. */
  flush(): void {
    const database = this.#database;
    if (this.#isClosed || database === null) return;
    this.#cancel?.();
    this.#cancel = null;
    if (!this.#hasChanges()) return;
    this.#writtenAt = this.#clock.now();
    try {
      database.transaction(() => this.#write(database))();
    } catch (error) {
      this.#failed(error);
      return;
    }
    this.#keys.clear();
    this.#resources.clear();
    this.#requests = [];
    this.#points.clear();
    this.#rows.clear();
    if (this.#isFailing) this.#sayKeptAgain();
  }

  #hasChanges(): boolean {
    return this.#keys.size + this.#resources.size + this.#requests.length > 0;
  }

  #sayKeptAgain(): void {
    this.#isFailing = false;
    this.#log.line("info", "state_kept_again", {});
  }

  #failed(error: unknown): void {
    if (!this.#isFailing) {
      const hint = "cooldowns and counts may not survive a restart; make room, or set STATE to another file";
      this.#log.line("warn", "state_not_saved", { fault: storeFault(error), hint });
    }
    this.#isFailing = true;
    this.#writeSoon(WRITE_AGAIN_MS);
  }

  #write(database: Database): void {
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
    this.#writeCounts(database);
    this.#slot = slot;
  }

  #writeCounts(database: Database): void {
    this.#noteRows(this.#requests);
    const saveRow = database.query(
      `INSERT OR REPLACE INTO usage VALUES ($day, $provider, $keyId, $model, $client, $requests, $rateLimited, $errors,
        $inputTokens, $outputTokens, $cachedTokens, $cacheWriteTokens, $reasoningTokens)`,
    );
    for (const row of this.#rows) saveRow.run({ ...row, model: row.model ?? "", client: row.client ?? "" });
    const savePoint = database.query(
      "INSERT OR REPLACE INTO traffic VALUES ($step, $at, $requests, $absorbed, $hidden429, $errors)",
    );
    for (const [point, step] of this.#points) savePoint.run({ step, ...point });
  }

  /** By what there is, not by the date: a clock that was set must cost nothing (P47). */
  #forgetOld(): void {
    const database = this.#database;
    try {
      database?.run(
        `DELETE FROM usage WHERE day NOT IN (SELECT DISTINCT day FROM usage ORDER BY day DESC LIMIT ${USAGE_DAYS})`,
      );
      for (const step of Object.keys(TRAFFIC_STEPS)) {
        database
          ?.query(
            `DELETE FROM traffic WHERE step = $step AND at NOT IN (SELECT at FROM traffic WHERE step = $step ORDER BY at DESC LIMIT ${TRAFFIC_POINTS})`,
          )
          .run({ step });
      }
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Reads what is stored into `usage`, which may have counted something already. */
  #readOnce(database: Database): void {
    if (this.#isRead) return;
    this.#isRead = true;
    const requests = database
      .query<{ slot: number; record: string }, []>("SELECT slot, record FROM requests ORDER BY at, slot")
      .all();
    const counted = this.#usage.recent(KEPT_REQUESTS).reverse();
    for (const { record } of requests) {
      const read = readRecord(parsed(record));
      if (read !== null) this.#usage.keep(read);
    }
    for (const record of counted) this.#usage.keep(record); // they come last again
    this.#slot = ((requests.at(-1)?.slot ?? -1) + 1) % KEPT_REQUESTS;
    const rows = database.query<StoredUsage, []>("SELECT * FROM usage ORDER BY day DESC").all();
    for (const { day, provider, key_id: keyId, model, client, ...counts } of rows) {
      const row = this.#usage.rowOf({ day, provider, keyId, model: model || null, client: client || null });
      if (row === null) continue;
      row.requests += counts.requests;
      row.rateLimited += counts.rate_limited;
      row.errors += counts.errors;
      row.inputTokens += counts.input_tokens ?? 0;
      row.outputTokens += counts.output_tokens ?? 0;
      row.cachedTokens += counts.cached_tokens ?? 0;
      row.cacheWriteTokens += counts.cache_write_tokens ?? 0;
      row.reasoningTokens += counts.reasoning_tokens ?? 0;
    }
    for (const { step, at, ...counts } of database.query<StoredPoint, []>("SELECT * FROM traffic").all()) {
      const point = this.#usage.pointAt(step === "hour" ? "hour" : "minute", at);
      point.requests += counts.requests;
      point.absorbed += counts.absorbed;
      point.hidden429 += counts.hidden_429 ?? 0;
      point.errors += counts.errors;
    }
  }

  /** Writes what is left, and lets the file go. */
  close(): void {
    this.flush();
    this.#isClosed = true;
    this.#cancel?.();
    this.#database?.close();
    this.#image?.close();
  }
}

/** (A file of an earlier layout that cannot be brought up to date has not all of these.) */
interface StoredUsage {
  day: string;
  provider: string;
  key_id: string;
  model: string;
  client?: string;
  requests: number;
  rate_limited: number;
  errors: number;
  input_tokens?: number;
  output_tokens?: number;
  cached_tokens?: number;
  cache_write_tokens?: number;
  reasoning_tokens?: number;
}

interface StoredPoint {
  step?: string;
  at: number;
  requests: number;
  absorbed: number;
  hidden_429?: number;
  errors: number;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not ours, or cut: its reader takes it for nothing
  }
}

/** A stored request, as far as it is one; null: it is none. What an earlier version did not store is filled in. */
export function readRecord(stored: unknown): RequestRecord | null {
  if (!isRecord(stored)) return null;
  const attempts = stored.attempts.map((attempt) => ({ ...attempt, account: attempt.account ?? null }));
  return { ...stored, attempts, account: stored.account ?? null, reason: stored.reason ?? "" };
}

/** A request as an earlier version may have stored it. */
type StoredRecord = Omit<RequestRecord, "account" | "reason" | "attempts"> & {
  readonly account?: string | null;
  readonly reason?: string;
  readonly attempts: readonly (Omit<AttemptRecord, "account"> & { readonly account?: string | null })[];
};

function isRecord(stored: unknown): stored is StoredRecord {
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
