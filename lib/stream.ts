/**
 * Whether a stream said that it was complete, and how to say in its own dialect that it was not.
 *
 * A stream is complete when its dialect's last event was seen; a clean end of the connection is not enough (a
 * gateway that times out ends cleanly too). The watch keeps only what it needs to judge at the end: the last few
 * kilobytes and the beginning of the last event. Per chunk it looks at two bytes.
 */

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

/**
 * What marks the last event. Text that a model wrote cannot look like one: inside JSON its quotes are escaped and
 * it holds no line break.
 */
const LAST_EVENT: Record<StreamDialect, RegExp | null> = {
  chat: /(?:^|[\r\n])data: ?\[DONE\]|"finish_reason" ?: ?"/,
  anthropic: /(?:^|[\r\n])event: ?message_stop|"type" ?: ?"message_stop"/,
  responses:
    /(?:^|[\r\n])event: ?response\.(?:completed|incomplete|failed)|"type" ?: ?"response\.(?:completed|incomplete|failed)"/,
  gemini: /"finishReason" ?: ?"/,
  ollama: /"done" ?: ?true/,
  other: null,
};

/** An error that upstream itself sent inside the stream: it has said how it ended. */
const ERROR_EVENT = /(?:^|[\r\n])(?:event: ?error|data: ?\{ ?"(?:error|type" ?: ?"error)")/;

/** At least this much of a stream's end is kept: a last chunk with its usage and the end mark fit in. */
const TAIL_BYTES = 4096;

/** How much of an event's beginning is looked at: its name and its type stand there. */
const EVENT_HEAD_BYTES = 512;

/** How a stream ended, by its own words. */
export type StreamEnd = "complete" | "failed" | "cut";

const LF = 10;
const CR = 13;

/** Watches a stream go by and says at its end whether it was complete. */
export interface StreamFollower {
  /** Whether the bytes are the events themselves, so that an event of our own can be added. */
  readonly isPlain: boolean;
  /** Whether the last chunk ended with a whole event. */
  readonly atEdge: boolean;
  push(chunk: Uint8Array<ArrayBuffer>): void;
  /** How the stream ended, asked once it has. */
  end(): StreamEnd | Promise<StreamEnd>;
}

/** A follower for an answer, or null where the framing alone tells whether its body is whole. */
export function followerOf(dialect: StreamDialect, headers: Headers): StreamFollower | null {
  const type = headers.get("content-type") ?? "";
  if (!type.startsWith("text/event-stream") && !type.startsWith("application/x-ndjson")) return null;
  const encoding = headers.get("content-encoding");
  if (encoding === null || encoding === "identity") return new PlainFollower(dialect);
  return dialect === "other" ? null : PackedFollower.of(encoding, dialect);
}

/** Follows a stream that is not compressed. Chunks are kept by reference, never copied, and at most `TAIL_BYTES` and one chunk more. */
class PlainFollower implements StreamFollower {
  readonly isPlain = true;
  readonly #dialect: StreamDialect;
  #tail: Uint8Array[] = [];
  #tailBytes = 0;
  /** The chunk in which the last event began, from there on; only where that event spans chunks. */
  #eventHead: Uint8Array | null = null;
  #atEdge = true;

  constructor(dialect: StreamDialect) {
    this.#dialect = dialect;
  }

  get atEdge(): boolean {
    return this.#atEdge;
  }

  push(chunk: Uint8Array<ArrayBuffer>): void {
    if (chunk.length === 0) return;
    const startsEvent = this.#atEdge;
    this.#atEdge = endsEvent(chunk);
    if (!this.#atEdge) {
      const lastBoundary = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length).lastIndexOf("\n\n");
      if (lastBoundary >= 0) this.#eventHead = chunk.subarray(lastBoundary + 2);
      else if (startsEvent) this.#eventHead = chunk;
    }
    this.#tail.push(chunk);
    this.#tailBytes += chunk.length;
    let first = this.#tail[0];
    while (first && this.#tailBytes - first.length >= TAIL_BYTES) {
      this.#tailBytes -= first.length;
      this.#tail.shift();
      first = this.#tail[0];
    }
  }

  end(): StreamEnd {
    const lastEvent = LAST_EVENT[this.#dialect];
    if (lastEvent === null) return "complete";
    const head = this.#eventHead?.subarray(0, EVENT_HEAD_BYTES) ?? new Uint8Array();
    const decoder = new TextDecoder();
    const text = `${decoder.decode(head)}\n${decoder.decode(Buffer.concat(this.#tail))}`;
    if (lastEvent.test(text)) return "complete";
    return ERROR_EVENT.test(text) ? "failed" : "cut";
  }
}

/** Follows a compressed stream by unpacking a copy of it. Rare: hardly a provider compresses its streams. */
class PackedFollower implements StreamFollower {
  readonly isPlain = false;
  readonly atEdge = true;
  readonly #plain: PlainFollower;
  readonly #writer: { write(chunk: Uint8Array<ArrayBuffer>): Promise<void>; close(): Promise<void> };
  readonly #unpacked: Promise<void>;

  /** Null for an encoding that cannot be unpacked here. */
  static of(encoding: string, dialect: StreamDialect): PackedFollower | null {
    const format = PACKED_FORMATS[encoding.trim().toLowerCase()];
    return format === undefined ? null : new PackedFollower(format, dialect);
  }

  private constructor(format: Bun.CompressionFormat, dialect: StreamDialect) {
    this.#plain = new PlainFollower(dialect);
    const unpacking = new DecompressionStream(format);
    this.#writer = unpacking.writable.getWriter();
    this.#unpacked = this.#follow(unpacking.readable);
  }

  async #follow(unpacked: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    try {
      for await (const chunk of unpacked) this.#plain.push(chunk);
    } catch {
      // Cut in the middle, or not what it says it is: what was seen until here is judged.
    }
  }

  push(chunk: Uint8Array<ArrayBuffer>): void {
    this.#writer.write(chunk).catch(() => {});
  }

  async end(): Promise<StreamEnd> {
    this.#writer.close().catch(() => {});
    await this.#unpacked;
    return this.#plain.end();
  }
}

const PACKED_FORMATS: Record<string, Bun.CompressionFormat> = {
  gzip: "gzip",
  "x-gzip": "gzip",
  deflate: "deflate",
  br: "brotli",
  zstd: "zstd",
};

/** Whether the bytes end with a blank line, as every whole event does. */
function endsEvent(bytes: Uint8Array): boolean {
  const last = bytes[bytes.length - 1];
  if (last !== LF && last !== CR) return false;
  const before = bytes[bytes.length - 2];
  return before === LF || before === CR ? before === last || bytes[bytes.length - 3] === LF : false;
}

/** Where the first event that is not a comment begins in a stream's first bytes, or -1 while there is none. */
export function firstEventStart(bytes: Uint8Array): number {
  let lineStart = 0;
  while (lineStart < bytes.length) {
    const first = bytes[lineStart];
    if (first === LF || first === CR) {
      lineStart += 1;
      continue;
    }
    if (first !== 0x3a /* : */) return lineStart;
    const lineEnd = bytes.indexOf(LF, lineStart);
    if (lineEnd < 0) return -1;
    lineStart = lineEnd + 1;
  }
  return -1;
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

/** Fields that errors begin with, and hardly any answer. */
const ERROR_BEGINNING =
  /^(?:event: ?(?:error|response\.failed)|(?:data: ?)?[\s[]*\{\s*"(?:error|code|message|detail|status|type" ?: ?"error|object" ?: ?"error))/;
const ERROR_BEGINNING_BYTES = 64;

/**
 * Whether what begins at `start` could be an error in place of an answer: an `error` event, or JSON whose first
 * field is one that only errors begin with. Nearly every answer begins with its `id`, which costs a few bytes.
 */
export function beginsLikeError(bytes: Uint8Array, start: number): boolean {
  if (bytes[start] === 0x7b /* { */ && bytes[start + 1] === 0x22 /* " */ && bytes[start + 2] === 0x69 /* i */)
    return false;
  const end = Math.min(bytes.length, start + ERROR_BEGINNING_BYTES);
  return ERROR_BEGINNING.test(
    Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString("latin1"),
  );
}
