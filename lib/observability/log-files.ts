/**
 * `LOG_DIR`: what happened as daily files of JSON lines, for those who ask days later.
 *
 * Three files a day (UTC): every request, the requests that went wrong, what became of keys. Lines are gathered and
 * appended about once a second; each time the file is opened anew, so one that was rotated or removed is simply begun
 * again. A disk that does not take them costs no request anything: it is said once, and tried again.
 */
import { codeOf } from "../core/json.ts";
import type { FileHandle } from "node:fs/promises";
import { DAY_MS, untilMidnight, utcDay, type CancelTimer, type Clock } from "../core/clock.ts";
import { jsonLine, keyEventFields, requestFields, requestLine } from "./log.ts";
import type { AttemptRecord, KeyEvent, Observer, RequestRecord } from "../core/events.ts";
import { type Log } from "../core/events.ts";

/** How long a line may wait for others. */
const GATHER_LINES_MS = 1000;
/** What waits beyond this is written at once: more in memory would cost the collector. */
const GATHER_LENGTH = 128 * 1024;
/** How long a disk that failed is left alone. */
const APPEND_AGAIN_MS = 10_000;
/** What may wait for a disk, in UTF-16 units: mostly bytes. Lines beyond are dropped, and counted. */
const MOST_PENDING_LINES = 4_000_000;

type Kind = "requests" | "errors" | "keys";

/** Ours, and nobody else's: only such files are ever deleted. */
const OUR_NAME = /^(?:requests|errors|keys)-(\d{4}-\d\d-\d\d)\.jsonl$/;

interface LogFilesOptions {
  /** `LOG_DIR`; created where it is missing. */
  directory: string;
  /** `LOG_RETENTION_DAYS`: files of so many days before today are kept. */
  retentionDays: number;
  clock: Clock;
  /** Where trouble with the files is said. */
  log: Log;
}

export class LogFiles implements Observer {
  readonly #directory: string;
  readonly #retentionDays: number;
  readonly #clock: Clock;
  readonly #log: Log;
  /** By the name of the file. */
  #pending = new Map<string, string[]>();
  #pendingLength = 0;
  /** Of the last line, in UTC: its number since the epoch, and its name in file names. */
  #day = { number: -1, name: "" };
  #dropped = 0;
  /** Why the last writing failed; null: it did not. */
  #trouble: string | null = null;
  #writing: Promise<void> | null = null;
  #cancelWriting: CancelTimer | null = null;
  #cancelMidnight: CancelTimer = () => {};
  #isClosed = false;

  /** Deletes what is too old, and from then on at every midnight (UTC). */
  constructor({ directory, retentionDays, clock, log }: LogFilesOptions) {
    this.#directory = directory;
    this.#retentionDays = retentionDays;
    this.#clock = clock;
    this.#log = log;
    this.#turnDay();
  }

  finished(record: RequestRecord): void {
    const now = this.#clock.wall();
    this.#gather("requests", now, requestLine(record, now));
    if (record.status < 400 && record.outcome === "served") return;
    const fields = { ...requestFields(record), tries: record.attempts.map(shownTry) };
    this.#gather("errors", now, jsonLine(now, "warn", "request", fields));
  }

  keyChanged(change: KeyEvent): void {
    const { level, event, fields } = keyEventFields(change);
    const now = this.#clock.wall();
    this.#gather("keys", now, jsonLine(now, level, event, fields));
  }

  /** Writes what is gathered. Resolves when that is done, or has failed. */
  flush(): Promise<void> {
    this.#cancelWriting?.();
    this.#cancelWriting = null;
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = null;
      if (this.#pending.size > 0) this.#writeSoon();
    });
    return this.#writing;
  }

  /** Writes what is gathered, one last time. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#cancelMidnight();
    await this.#writing;
    await this.flush();
  }

  #gather(kind: Kind, at: number, line: string): void {
    if (this.#pendingLength + line.length > MOST_PENDING_LINES) {
      this.#dropped += 1;
      return;
    }
    const day = Math.floor(at / DAY_MS);
    if (this.#day.number !== day) this.#day = { number: day, name: utcDay(at) };
    const name = `${kind}-${this.#day.name}.jsonl`;
    const lines = this.#pending.get(name);
    if (lines === undefined) this.#pending.set(name, [line]);
    else lines.push(line);
    this.#pendingLength += line.length;
    const isMuch = this.#pendingLength >= GATHER_LENGTH && this.#trouble === null && this.#writing === null;
    if (isMuch) void this.flush();
    else this.#writeSoon();
  }

  #writeSoon(): void {
    if (this.#cancelWriting !== null || this.#writing !== null || this.#isClosed) return;
    const delayMs = this.#trouble === null ? GATHER_LINES_MS : APPEND_AGAIN_MS;
    this.#cancelWriting = this.#clock.after(delayMs, () => void this.flush());
  }

  async #writeAll(): Promise<void> {
    for (const [name, lines] of this.#pending) {
      const text = lines.join("");
      const count = lines.length;
      try {
        await appendTo(this.#directory, name, text);
      } catch (error) {
        return this.#failed(error);
      }
      lines.splice(0, count); // more may have come meanwhile
      this.#pendingLength -= text.length;
      if (lines.length === 0) this.#pending.delete(name);
    }
    this.#recovered();
  }

  #failed(error: unknown): void {
    const code = codeOf(error) || "unknown";
    if (code === this.#trouble) return;
    this.#trouble = code;
    this.#log.line("error", "log_files_stuck", {
      directory: this.#directory,
      error: code,
      hint: "LOG_DIR cannot be written. Make room or correct its permissions: it is tried again by itself, and requests are answered as before.",
    });
  }

  #recovered(): void {
    if (this.#trouble === null && this.#dropped === 0) return;
    this.#log.line("warn", "log_files_back", { directory: this.#directory, dropped_lines: this.#dropped });
    this.#trouble = null;
    this.#dropped = 0;
  }

  #turnDay(): void {
    const now = this.#clock.wall();
    this.#cancelMidnight = this.#clock.after(untilMidnight("UTC", now), () => this.#turnDay());
    void this.#deleteBefore(utcDay(now - this.#retentionDays * DAY_MS));
  }

  /** A directory that cannot be read is said when it cannot be written; one that is not there has nothing to delete. */
  async #deleteBefore(day: string): Promise<void> {
    const { readdir, unlink } = await files();
    const names = await readdir(this.#directory).catch(() => []);
    for (const name of names) {
      if ((OUR_NAME.exec(name)?.[1] ?? day) >= day) continue;
      await unlink(`${this.#directory}/${name}`).catch((error) => {
        this.#log.line("warn", "log_file_not_deleted", { file: name, error: codeOf(error) || "unknown" });
      });
    }
  }
}

/** (Loaded late: a plain import would load it with the executable, for 0.5 MB, whether there is a `LOG_DIR` or not.) */
const files = () => import("node:fs/promises");

/** An attempt as a line of the errors shows it. */
function shownTry({ provider, keyId, account, verdict, status, ms, said }: AttemptRecord): object {
  return { provider, key_id: keyId, account, verdict, status, ms, said };
}

/** Appends all of it or, as far as that can be done, nothing: half a line would spoil the next one. */
async function appendTo(directory: string, name: string, text: string): Promise<void> {
  const file = await openToAppend(directory, name);
  try {
    const { size } = await file.stat();
    await file.writeFile(text).catch(async (error) => {
      await file.truncate(size).catch(() => {});
      throw error;
    });
  } finally {
    await file.close();
  }
}

async function openToAppend(directory: string, name: string): Promise<FileHandle> {
  const { mkdir, open } = await files();
  const path = `${directory}/${name}`;
  try {
    return await open(path, "a", 0o600);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    return open(path, "a", 0o600);
  }
}
