/**
 * Whether a stream said that it was complete, and how to say in its own dialect that it was not.
 *
 * A stream is complete when its dialect's last event was seen; a clean end of the connection is not enough (a
 * gateway that times out ends cleanly too). A follower keeps only what it needs to judge at the end: the last few
 * kilobytes, and the last event. Per chunk it looks at the last bytes.
 */

import { isObject } from "../core/json.ts";
import type { Transform } from "node:stream";
import type { Verdict } from "../providers/verdict.ts";

/** Which API a stream speaks; `other`: not one whose last event is known, its framing is believed. */
export type StreamDialect = "chat" | "anthropic" | "responses" | "gemini" | "ollama" | "other";

/** Told by the path: it names the API, whoever the provider is. */
export function streamDialectOf(path: string): StreamDialect {
  if (path.endsWith("/completions")) return "chat";
  if (path.endsWith("/messages")) return "anthropic";
  if (path.endsWith("/responses")) return "responses";
  if (path.endsWith(":streamGenerateContent")) return "gemini";
  if (path.endsWith("/api/chat") || path.endsWith("/api/generate")) return "ollama";
  return "other";
}

/** How a stream whose connection ended cleanly has ended, by its own words. */
export type StreamEnd = "complete" | "failed" | "cut";

/** What comes of one that `failed`: the client was told so by the stream itself, and the key is not credited. */
export const STREAM_FAILED: Verdict = {
  kind: "overloaded",
  scope: "provider",
  refusesAll: false,
  pauseMs: null,
  maybeBilled: true,
  said: "",
};

/** Watches a stream go by and says at its end whether it was complete. */
export interface StreamFollower {
  /** Whether the bytes are the events themselves, so that an event of our own can be added. */
  readonly isPlain: boolean;
  /** Whether the last chunk ended with a whole event. */
  readonly atEdge: boolean;
  push(chunk: Uint8Array<ArrayBuffer>): void;
  /** Asked once, when nothing more comes. `failed`: upstream itself said so in the stream. */
  end(): StreamEnd | Promise<StreamEnd>;
  /** Asked instead when the connection broke: whether the dialect's last event had come all the same. */
  isOver(): boolean | Promise<boolean>;
}

/** A follower for an answer, or null where the framing alone tells whether its body is whole. */
export function followerOf(dialect: StreamDialect, headers: Headers): StreamFollower | null {
  const type = headers.get("content-type") ?? "";
  const isFramed = headers.has("content-length") || headers.has("transfer-encoding");
  if (type.startsWith("application/json") && !isFramed) return new JsonFollower();
  if (!isStream(type)) return null;
  const encoding = headers.get("content-encoding");
  if (encoding === null || encoding === "identity") return new PlainFollower(dialect);
  return dialect === "other" ? null : PackedFollower.of(encoding, dialect);
}

/** Whether a content type is that of a stream of events, or of lines of JSON. */
export function isStream(contentType: string): boolean {
  return contentType.startsWith("text/event-stream") || contentType.startsWith("application/x-ndjson");
}

/** At least this much of a stream's end is kept: a last chunk with its usage and the end mark fit in. */
const TAIL_BYTES = 2048;
/** A last event is kept whole up to this length; of a longer one its beginning tells what it is. */
const LAST_EVENT_BYTES = 128 * 1024;
/** How much of such an event's beginning is kept: its name and its type stand there. */
const EVENT_HEAD_BYTES = 512;

const LF = 10;
const CR = 13;

/**
 * Follows a stream that is not compressed. Chunks are kept by reference, never copied: the last few, and those that
 * the last event is made of.
 */
class PlainFollower implements StreamFollower {
  readonly isPlain = true;
  readonly #dialect: StreamDialect;
  #kept: Uint8Array<ArrayBuffer>[] = [];
  #keptBytes = 0;
  /** Whether what is kept begins at the beginning of a line. */
  #keptFromLine = true;
  /** In which of the kept chunks the last event began. */
  #lastEventAt = 0;
  /** The beginning of a last event that is too long to be kept whole. */
  #longEventHead: Uint8Array | null = null;
  #atEdge = true;

  constructor(dialect: StreamDialect) {
    this.#dialect = dialect;
  }

  get atEdge(): boolean {
    return this.#atEdge;
  }

  push(chunk: Uint8Array<ArrayBuffer>): void {
    if (chunk.length === 0 || this.#dialect === "other") return this.#pushUnknown(chunk);
    const previous = this.#kept.at(-1);
    const beginsEvent = this.#atEdge;
    this.#atEdge = this.#endsEvent(previous, chunk);
    this.#kept.push(chunk);
    this.#keptBytes += chunk.length;
    if (beginsEvent || (!this.#atEdge && this.#holdsBoundary(previous, chunk))) {
      this.#lastEventAt = this.#kept.length - 1;
      this.#longEventHead = null;
    }
    while (this.#lastEventAt > 0 && this.#keptBytes - (this.#kept[0]?.length ?? 0) >= TAIL_BYTES)
      this.#drop();
    if (this.#keptBytes > LAST_EVENT_BYTES) this.#shortenLastEvent();
  }

  /** Of a stream whose last event is not known only its edges matter. */
  #pushUnknown(chunk: Uint8Array<ArrayBuffer>): void {
    if (chunk.length === 0) return;
    this.#atEdge = this.#endsEvent(this.#kept[0], chunk);
    this.#kept = [chunk.length > 4 ? chunk.slice(-4) : chunk];
  }

  #drop(): void {
    const first = this.#kept.shift();
    if (first === undefined) return;
    this.#keptBytes -= first.length;
    this.#keptFromLine = isLineEnd(first.at(-1));
    this.#lastEventAt = Math.max(0, this.#lastEventAt - 1);
  }

  #shortenLastEvent(): void {
    this.#longEventHead ??= headOfLastEvent(this.#kept);
    while (this.#kept.length > 1 && this.#keptBytes - (this.#kept[0]?.length ?? 0) >= TAIL_BYTES)
      this.#drop();
  }

  #endsEvent(previous: Uint8Array | undefined, chunk: Uint8Array): boolean {
    const last = chunk[chunk.length - 1];
    if (!isLineEnd(last)) return false;
    if (this.#dialect === "ollama") return true; // one line is one event
    if (chunk.length < 4) return EVENT_END.test(lastCharacters(previous, chunk));
    const before = chunk[chunk.length - 2];
    if (before === last) return true;
    return before === CR && chunk[chunk.length - 3] === LF && chunk[chunk.length - 4] === CR;
  }

  /** Whether an event ends within the chunk (or with its first bytes), so that another begins in it. */
  #holdsBoundary(previous: Uint8Array | undefined, chunk: Uint8Array): boolean {
    const text = lastCharacters(undefined, previous ?? NOTHING) + Buffer.from(chunk).toString("latin1");
    return this.#dialect === "ollama" ? text.includes("\n") : EVENT_BOUNDARY.test(text);
  }

  end(): StreamEnd {
    if (this.#dialect === "other") return "complete";
    const mark = this.#lastMark();
    if (mark === null) return "cut";
    return mark === "failed" ? "failed" : "complete";
  }

  isOver(): boolean {
    return this.#lastMark() === "over";
  }

  #lastMark(): Mark | null {
    const text = new TextDecoder().decode(Buffer.concat(this.#kept));
    const lines = text.split(/\r\n|\n|\r/);
    if (!this.#keptFromLine) lines.shift();
    let mark: Mark | null = null;
    for (const line of lines) mark = later(mark, markOfLine(line, this.#dialect));
    if (this.#longEventHead !== null && this.#atEdge) {
      const head = new TextDecoder().decode(this.#longEventHead);
      mark = later(mark, LONG_LAST_EVENT.test(head) ? "over" : null);
      mark = later(mark, LONG_FINISH.test(text) ? "finished" : null);
    }
    return mark;
  }
}

/** The beginning of the last event in these chunks, the first of which holds where it began. */
function headOfLastEvent(chunks: readonly Uint8Array[]): Uint8Array {
  const bytes = Buffer.concat(chunks);
  const inFirst = bytes.toString("latin1", 0, (chunks[0]?.length ?? 0) + 4);
  const begin = inFirst.length - (inFirst.split(EVENT_BOUNDARY).at(-1)?.length ?? 0);
  return bytes.subarray(begin, begin + EVENT_HEAD_BYTES);
}

const NOTHING = new Uint8Array();
const EVENT_END = /(?:\n\n|\r\r|\r\n\r\n)$/;
const EVENT_BOUNDARY = /\n\n|\r\r|\r\n\r\n/;

/** Only Responses ends with an event that repeats the whole answer. */
const LONG_LAST_EVENT =
  /^\s*(?:(?:event|id|retry):[^\n]*\n)*data: ?\{ ?"type" ?: ?"response\.(?:completed|incomplete|failed)"/;

/** A finish in the last kilobytes of an event that is too long to be parsed. */
const LONG_FINISH = /"finish_?[rR]eason" ?: ?"(?!error")\w/;

/** The last four characters (of bytes) of what has come. */
function lastCharacters(previous: Uint8Array | undefined, chunk: Uint8Array): string {
  const last = String.fromCharCode(...chunk.subarray(-4));
  return chunk.length >= 4 || previous === undefined
    ? last
    : String.fromCharCode(...previous.subarray(-4)) + last;
}

function isLineEnd(byte: number | undefined): boolean {
  return byte === LF || byte === CR;
}

/** What an event says about the end of its stream. */
type Mark =
  /** It is the dialect's last event. */
  | "over"
  /** The model has finished: complete, if the connection then ends cleanly. */
  | "finished"
  /** Upstream failed. */
  | "failed";

/** What is known after an event, given what was before: an upstream's word that it failed is not taken back. */
function later(before: Mark | null, mark: Mark | null): Mark | null {
  if (mark === null || before === "failed") return before;
  return before === "over" && mark === "finished" ? before : mark;
}

/** What one line of a stream says about its end; null: nothing. A line that was cut is no JSON, so it says nothing. */
function markOfLine(line: string, dialect: StreamDialect): Mark | null {
  if (dialect === "ollama") return markOfJson(line, dialect);
  if (/^event: ?error$/.test(line)) return "failed";
  if (!line.startsWith("data:")) return null;
  const data = line.slice(5).trim();
  return dialect === "chat" && data === "[DONE]" ? "over" : markOfJson(data, dialect);
}

function markOfJson(text: string, dialect: StreamDialect): Mark | null {
  if (!MAY_END.test(text)) return null;
  let event: unknown;
  try {
    event = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isObject(event)) return null;
  if (event["type"] === "error" || isSaid(event["error"])) return "failed";
  switch (dialect) {
    case "chat":
      return markOfChoices(event["choices"], "finish_reason");
    case "gemini":
      return markOfChoices(event["candidates"], "finishReason");
    case "anthropic":
      return event["type"] === "message_stop" ? "over" : null;
    case "responses":
      return /^response\.(?:completed|incomplete|failed)$/.test(String(event["type"])) ? "over" : null;
    case "ollama":
      return event["done"] === true ? "over" : null;
    case "other":
      return null;
  }
}

/** Words without which a line says nothing about the end: spares parsing the others. */
const MAY_END = /error|finish|message_stop|response\.|"done"/;

function markOfChoices(choices: unknown, field: string): Mark | null {
  if (!Array.isArray(choices)) return null;
  const reasons = choices.filter(isObject).map((choice) => choice[field]);
  if (reasons.includes("error")) return "failed";
  return reasons.some(isSaid) ? "finished" : null;
}

function isSaid(value: unknown): boolean {
  return value !== undefined && value !== null && value !== "" && value !== false;
}

/** Follows a compressed stream by unpacking a copy of it. Rare: hardly a provider compresses its streams. */
class PackedFollower implements StreamFollower {
  readonly isPlain = false;
  readonly atEdge = true;
  readonly #plain: PlainFollower;
  readonly #unpacker: Promise<Transform>;
  /** Settles when all that was pushed has been unpacked. */
  #pushed: Promise<void> = Promise.resolve();
  #isBroken = false;

  /** Null for an encoding that cannot be unpacked here. */
  static of(encoding: string, dialect: StreamDialect): PackedFollower | null {
    const name = encoding.trim().toLowerCase();
    return /^(?:x-gzip|gzip|deflate|br|zstd)$/.test(name) ? new PackedFollower(name, dialect) : null;
  }

  private constructor(encoding: string, dialect: StreamDialect) {
    this.#plain = new PlainFollower(dialect);
    this.#unpacker = this.#start(encoding);
  }

  async #start(encoding: string): Promise<Transform> {
    const zlib = await import("node:zlib"); // loaded when the first compressed stream comes
    const unpacker =
      encoding === "br"
        ? zlib.createBrotliDecompress()
        : encoding === "zstd"
          ? zlib.createZstdDecompress()
          : zlib.createUnzip();
    unpacker.on("data", (chunk: Buffer) => this.#plain.push(Uint8Array.from(chunk)));
    unpacker.on("error", () => (this.#isBroken = true)); // cut, or not what it says it is
    return unpacker;
  }

  push(chunk: Uint8Array<ArrayBuffer>): void {
    this.#pushed = this.#pushed.then(async () => {
      const unpacker = await this.#unpacker;
      if (this.#isBroken) return;
      // What is not packed as it says calls nobody back: it fails, and that is all.
      const { promise, resolve } = Promise.withResolvers<void>();
      unpacker.once("error", resolve);
      unpacker.write(chunk, () => resolve());
      await promise;
      unpacker.off("error", resolve);
    });
  }

  async end(): Promise<StreamEnd> {
    await this.#pushed;
    const unpacker = await this.#unpacker;
    if (!this.#isBroken) {
      await new Promise<void>((resolve) => {
        unpacker
          .once("end", resolve)
          .once("error", () => resolve())
          .once("close", resolve);
        unpacker.end();
      });
    }
    return this.#isBroken ? "cut" : this.#plain.end();
  }

  async isOver(): Promise<boolean> {
    await this.#pushed;
    return this.#plain.isOver();
  }
}

/**
 * Follows JSON that only the connection's end frames, so that a reset looks like an end: JSON that is whole ends
 * with a bracket.
 */
class JsonFollower implements StreamFollower {
  readonly isPlain = false;
  readonly atEdge = true;
  #last = 0;

  push(chunk: Uint8Array<ArrayBuffer>): void {
    this.#last = chunk.findLast((byte) => byte > 0x20) ?? this.#last;
  }

  end(): StreamEnd {
    return this.#last === 0x7d /* } */ || this.#last === 0x5d /* ] */ ? "complete" : "cut";
  }

  isOver(): boolean {
    return false;
  }
}

/** The event with which a stream that cannot go on is ended, in its own dialect. */
export function errorEvent(dialect: StreamDialect, type: string, message: string): string {
  switch (dialect) {
    case "chat":
    case "other":
      return `data: ${JSON.stringify({ error: { type, code: type, message, param: null } })}\n\n`;
    case "anthropic":
      return `event: error\ndata: ${JSON.stringify({ type: "error", error: { type, message } })}\n\n`;
    case "responses":
      return `event: error\ndata: ${JSON.stringify({ type: "error", code: type, message, param: null })}\n\n`;
    case "gemini":
      return `data: ${JSON.stringify({ error: { code: 502, message, status: "UNAVAILABLE" } })}\n\n`;
    case "ollama":
      return `${JSON.stringify({ error: message })}\n`;
  }
}
