/**
 * Lines for the operator: one a finished request, one a thing that happened. Text on a terminal, JSON elsewhere.
 *
 * Lines are gathered and written together a few times a second: a write a request would cost a small machine more
 * than the request. Nothing here is ever handed a key or a prompt.
 */
import { visible } from "../core/text.ts";
import { formatDuration, instantText } from "../core/clock.ts";
import { keyName } from "../core/events.ts";
import { codeOf } from "../core/json.ts";
import type { CancelTimer, Clock } from "../core/clock.ts";
import type {
  AttemptRecord,
  KeyEvent,
  Log,
  LogFields,
  LogLevel,
  Observer,
  RequestRecord,
  TokenUsage,
} from "../core/events.ts";

const RANK: Record<LogLevel, number> = { debug: 0, info: 1, warn: 2, error: 3 };

/** How long a line may wait for others before all are written, and how much may wait: much costs the collector. */
const FLUSH_AFTER_MS = 200;
const MOST_GATHERED = 64 * 1024;

type LogFormat = "text" | "json";

interface LogOptions {
  level: LogLevel;
  format: LogFormat;
  clock: Clock;
  /** Lines go to the journal of systemd: each begins with its severity. Left out: they do not. */
  toJournal?: boolean;
  write(text: string): void;
}

/** As the journal reads it at the beginning of a line, and takes it away (sd-daemon(3)): `journalctl -p warning`. */
const SEVERITY: Record<LogLevel, string> = { debug: "<7>", info: "<6>", warn: "<4>", error: "<3>" };

export function createLog(options: LogOptions): Log {
  const { format, clock, write, toJournal = false } = options;
  let least = RANK[options.level];
  let gathered = "";
  let cancelFlush: CancelTimer | null = null;
  const flush = () => {
    cancelFlush?.();
    cancelFlush = null;
    const text = gathered;
    gathered = "";
    if (text !== "") write(text);
  };
  const gather = (level: LogLevel, line: string) => {
    if (cancelFlush === null) cancelFlush = clock.after(FLUSH_AFTER_MS, flush);
    if (toJournal) gathered += SEVERITY[level];
    gathered += line;
    if (gathered.length >= MOST_GATHERED) flush();
  };
  return {
    enabled: (asked) => RANK[asked] >= least,
    line(asked, event, fields = {}) {
      if (RANK[asked] >= least) gather(asked, logLine(format, clock.wall(), asked, event, fields));
    },
    request(record) {
      const level = levelOf(record);
      if (RANK[level] < least) return;
      const at = clock.wall();
      if (format === "json") gather(level, requestLine(record, at));
      else gather(level, logLine(format, at, level, "request", requestFields(record)));
    },
    flush,
    setLevel(level) {
      least = RANK[level];
    },
  };
}

/** One line as it is written, with its line break. `at`: epoch ms. */
export function logLine(
  format: LogFormat,
  at: number,
  level: LogLevel,
  event: string,
  fields: LogFields,
): string {
  if (format === "json") return jsonLine(at, level, event, fields);
  const said =
    event === "request"
      ? (level === "info" ? "" : `${level} `) + requestText(fields)
      : eventText(level, event, fields);
  return `${instantText(at).slice(11, 19)} ${said}\n`;
}

/** A line in JSON. What all lines have is not put into the object: copying that cost as much as making text of it. */
export function jsonLine(at: number, level: LogLevel, event: string, fields: object): string {
  const rest = visible(JSON.stringify(fields).slice(1));
  const comma = rest === "}" ? "" : ",";
  return `{"time":"${timeOf(at)}","level":"${level}","event":"${event}"${comma}${rest}\n`;
}

let lastTime = { at: NaN, text: "" };

/** An instant as it is written; many lines of a busy proxy are of the same one. */
function timeOf(at: number): string {
  if (lastTime.at !== at) lastTime = { at, text: instantText(at) };
  return lastTime.text;
}

/** The last request of which a line was made: log and log files write the same one. */
let lately: { record: RequestRecord | null; line: string } = { record: null, line: "" };

/** A finished request as a line in JSON; made once for all who write it. `at`: epoch ms at which it finished. */
export function requestLine(record: RequestRecord, at: number): string {
  if (lately.record !== record) {
    lately = { record, line: jsonLine(at, levelOf(record), "request", requestFields(record)) };
  }
  return lately.line;
}

/** Writes a line for every finished request and every change of a key. Below the log's level it costs a comparison. */
export function logObserver(log: Log): Observer {
  return {
    finished(record) {
      log.request(record);
    },
    keyChanged(change) {
      const { level, event, fields } = keyEventFields(change);
      log.line(level, event, fields);
    },
  };
}

/**
 * `warn` where a client got no good answer and somebody may want to know why. What a client did itself, by leaving or
 * by a request that upstream does not take, is `info`.
 */
function levelOf({ status, outcome, isTruncated }: RequestRecord): LogLevel {
  const isOwnDoing = outcome === "rejected" || outcome === "abandoned";
  return (status >= 400 && !isOwnDoing) || isTruncated ? "warn" : "info";
}

/** A finished request as the fields of its line. What is not out of the ordinary is left out. */
export function requestFields(record: RequestRecord): LogFields {
  const { attempts } = record;
  return {
    method: record.method,
    path: record.path,
    status: record.status,
    outcome: record.outcome,
    reason: record.reason === "" ? undefined : record.reason,
    provider: record.provider,
    model: record.model,
    key_id: record.keyId,
    account: record.account ?? undefined,
    attempts: attempts.length,
    trail: attempts.length > 1 ? attempts.map(step).join(" ") : undefined,
    waited_ms: record.waitedMs > 0 ? record.waitedMs : undefined,
    first_byte_ms: record.firstByteMs,
    total_ms: record.totalMs,
    bytes: record.bytes,
    truncated: record.isTruncated ? true : undefined,
    maybe_billed_replays: record.maybeBilledReplays > 0 ? record.maybeBilledReplays : undefined,
    client: record.client,
    ...tokenFields(record.tokens ?? null),
  };
}

function tokenFields(tokens: TokenUsage | null): LogFields | null {
  if (tokens === null) return null;
  return {
    input_tokens: tokens.input,
    output_tokens: tokens.output,
    cached_tokens: tokens.cached,
    cache_write_tokens: tokens.cacheWrite,
    reasoning_tokens: tokens.reasoning,
  };
}

/** One attempt of a trail: `3e23e816:rate_limited`, `groq/alice@3e23e816:served`. */
function step({ provider, account, keyId, verdict }: AttemptRecord): string {
  const name = keyName(account, keyId);
  return `${provider === "default" ? name : `${provider}/${name}`}:${verdict}`;
}

/** What is logged of a change: `said` is upstream's own words, already redacted. */
export function keyEventFields(change: KeyEvent): { level: LogLevel; event: string; fields: LogFields } {
  const { at, provider, keyId, account, kind, model, reason, until, said } = change;
  const fields: LogFields = {
    provider,
    key_id: keyId ?? undefined,
    account: account ?? undefined,
    model: model ?? undefined,
    reason: reason ?? undefined,
    for: until === null ? undefined : formatDuration(Math.max(0, until - at)),
    until: until === null ? undefined : instantText(until),
    said: said === "" ? undefined : said,
  };
  const { level, event } = EVENTS[kind];
  return { level, event, fields };
}

/** How each change is named in the log. A warning is what somebody may have to do something about. */
const EVENTS: Record<KeyEvent["kind"], { level: LogLevel; event: string }> = {
  cooled: { level: "info", event: "key_cooled" },
  disabled: { level: "warn", event: "key_disabled" },
  doubted: { level: "warn", event: "key_doubted" },
  back: { level: "info", event: "key_back" },
  paused_by_hand: { level: "info", event: "paused_by_hand" },
  resumed_by_hand: { level: "info", event: "resumed_by_hand" },
  provider_paused: { level: "warn", event: "provider_paused" },
  provider_up: { level: "info", event: "provider_up" },
  pool_dry: { level: "warn", event: "pool_dry" },
  pool_recovered: { level: "info", event: "pool_recovered" },
};

/** Fields for machines: on a terminal they say nothing that the others do not. */
const FOR_MACHINES: ReadonlySet<string> = new Set(["account", "until"]);

function eventText(level: LogLevel, event: string, fields: LogFields): string {
  let line = level === "info" ? event : `${level} ${event}`;
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || value === null || FOR_MACHINES.has(name)) continue;
    if (name === "key_id") line += ` key=${asWord(keyOf(fields))}`;
    else line += ` ${name}=${typeof value === "string" ? asWord(value) : value}`;
  }
  return line;
}

/** The key that a line is about, by account and id; `-`: none. */
function keyOf(fields: LogFields): string {
  const keyId = fields["key_id"];
  const account = fields["account"];
  if (typeof keyId !== "string") return "-";
  return keyName(typeof account === "string" ? account : null, keyId);
}

/**
 * A request for people, what is always there in columns, what is out of the ordinary behind it:
 * `200   1.2s [alice@3e23e816] POST /v1/chat/completions gpt-4o-mini, first byte 410ms, 12.3 kB`.
 */
function requestText(fields: LogFields): string {
  const { status, outcome, reason, provider, attempts, trail, method, path, model, client } = fields;
  const totalMs = Number(fields["total_ms"] ?? 0);
  const firstByteMs = fields["first_byte_ms"] ?? null;
  const bytes = Number(fields["bytes"] ?? 0);
  const name = keyOf(fields);
  const key = typeof provider === "string" && provider !== "default" ? `${provider}/${name}` : name;
  const columns = `${status} ${duration(totalMs).padStart(6)} [${key}]`;
  let line = `${columns} ${method} ${asWord(String(path ?? ""))}`;
  if (typeof model === "string") line += ` ${asWord(model)}`;
  if (outcome !== "served") line += `, ${outcome}`;
  if (typeof reason === "string") line += `: ${asWord(reason)}`;
  if (typeof trail === "string") line += `, tried ${trail}`;
  else if (typeof attempts === "number" && attempts > 1) line += `, ${attempts} attempts`;
  if (fields["waited_ms"]) line += `, waited ${duration(Number(fields["waited_ms"]))}`;
  if (firstByteMs !== null) line += `, first byte ${duration(Number(firstByteMs))}`;
  if (bytes > 0) line += `, ${size(bytes)}`;
  if (typeof fields["input_tokens"] === "number")
    line += `, ${fields["input_tokens"]} tokens in and ${fields["output_tokens"]} out`;
  if (fields["truncated"] === true) line += ", cut short";
  if (typeof client === "string") line += `, for ${asWord(client)}`;
  return line;
}

/** A tenth of a second tells more than a rounded one while a person would still wait for it. */
function duration(durationMs: number): string {
  return durationMs > 999 && durationMs < 99_950
    ? `${(durationMs / 1000).toFixed(1)}s`
    : formatDuration(durationMs);
}

function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 999_950 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/** A value as one word: quoted where it holds anything that would end the word or the line. */
function asWord(value: string): string {
  if (/^[\w./:@,+*()[\]-]+$/.test(value)) return value;
  return visible(JSON.stringify(value));
}

// ── Standard output ───────────────────────────────────────────────────────────────────────────────────────────────
//
// It never holds up the proxy: what nobody reads waits up to a bound, then lines are dropped, and how many is said
// once reading goes on. `console.log` waits for a full pipe, and with it every request (Bun 1.4.5). A file sink on
// descriptor 1 does not; on a terminal it does (Ctrl-S), so there each write goes through a thread. `process.stdout`
// would do for both, for 2 MB of memory.

/** Text on its way out in the background. */
interface BoundedWriter {
  /** Never waits and never throws. */
  write(text: string): void;
  /** Resolves when nothing is pending; at once where the reader is gone for good. */
  flushed(): Promise<void>;
}

/** Takes a text; a promise where it takes its time. Rejects or throws where the text was not (wholly) written. */
export type Send = (text: string) => void | Promise<unknown>;

/** What may be pending, the write under way included, in UTF-16 units: mostly bytes. */
const MOST_PENDING = 1_000_000;

/** The reader, or the terminal, is gone: nothing that is written will ever be read. */
const GONE: ReadonlySet<string> = new Set(["EPIPE", "EIO", "EBADF", "ECONNRESET", "ENXIO"]);

/**
 * Writes in order, one write at a time, what came meanwhile together. `sayDropped` makes the line that tells how
 * many lines were dropped. `mostPending` bounds the memory.
 */
export function createBoundedWriter(
  send: Send,
  sayDropped: (lines: number) => string,
  mostPending = MOST_PENDING,
): BoundedWriter {
  let pending: string[] = [];
  /** Of what is pending and what is being sent. */
  let length = 0;
  let dropped = 0;
  let sending: Promise<void> | null = null;
  let isGone = false;

  const next = () => {
    if (dropped > 0) pending.push(sayDropped(dropped));
    const text = pending.join("");
    pending = [];
    length = text.length;
    dropped = 0;
    return text;
  };
  const failed = (text: string, error: unknown) => {
    if (GONE.has(codeOf(error))) isGone = true;
    else dropped += lineCount(text); // a full disk may have room again
  };
  const sendOn = async (first: string, underWay: Promise<unknown>) => {
    let text = first;
    let written = underWay;
    for (;;) {
      const isWritten = await written.then(
        () => true,
        (error) => (failed(text, error), false),
      );
      if (isGone || (pending.length === 0 && !(isWritten && dropped > 0))) break;
      text = next();
      written = attemptToSend(send, text);
    }
    pending = [];
    sending = null;
  };

  return {
    write(text) {
      if (isGone || text === "") return;
      if (sending !== null && length + text.length > mostPending) {
        dropped += lineCount(text);
        return;
      }
      pending.push(text);
      length += text.length;
      if (sending !== null) return;
      const whole = next();
      try {
        const written = send(whole);
        if (written instanceof Promise) sending = sendOn(whole, written);
      } catch (error) {
        failed(whole, error);
      }
    },
    flushed: () => sending ?? Promise.resolve(),
  };
}

/** As a promise, whether it throws or rejects. */
async function attemptToSend(send: Send, text: string): Promise<void> {
  await send(text);
}

function lineCount(text: string): number {
  return text.split("\n").length - 1;
}

/** Sends to descriptor 1, by the way that does not wait. `isTerminal`: see `writesToTerminal`. */
export function sendToStdout(isTerminal: boolean): Send {
  return isTerminal ? sendByThread() : sendBySink();
}

/** Pipes, sockets (the journal's) and files. The sink makes pipes and sockets non-blocking. */
function sendBySink(): Send {
  let sink: Bun.FileSink | null = null;
  return (text) => {
    const current = (sink ??= Bun.file(1).writer());
    // After a failure a sink takes everything and writes nothing: the next write opens another.
    const failed = (error: unknown) => {
      if (sink === current) sink = null;
      throw error;
    };
    try {
      const written = current.write(text);
      const flushed = current.flush();
      // Both must be listened to: each rejects.
      if (written instanceof Promise || flushed instanceof Promise) {
        return Promise.all([written, flushed]).catch(failed);
      }
    } catch (error) {
      failed(error);
    }
  };
}

/** A terminal, which may be stopped or far away. `node:fs` costs 1.2 MB: somebody watches, so it is worth it. */
function sendByThread(): Send {
  return async (text) => {
    const { write } = await import("node:fs");
    const bytes = Buffer.from(text);
    const writeFrom = (at: number) =>
      new Promise<number>((resolve, reject) => {
        write(1, bytes, at, bytes.length - at, null, (error, count) =>
          error === null ? resolve(count) : reject(error),
        );
      });
    for (let at = 0; at < bytes.length;) at += await writeFrom(at);
  };
}
