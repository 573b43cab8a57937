/**
 * Reading a body far enough to judge it, and never further than is good; and undoing its compression, piece by piece
 * or as far as it goes.
 *
 * Unpacking is done by the platform's `DecompressionStream`, which hands out what it unpacks in parts of 64 KiB and
 * only when asked for more, so that a few bytes that stand for gigabytes (a bomb) never take up more than is wanted of
 * them; and which costs 0.3 MB of memory, where `node:zlib` costs 2 to 2.5.
 */

import { decompressor, free, gunzip } from "#runtime";
import { nextTurn } from "../core/clock.ts";
import type { CompressionName, Decompressor, UpstreamResponse } from "../core/runtime.ts";

export type Bytes = Uint8Array<ArrayBuffer>;
export const NO_BYTES: Bytes = new Uint8Array();

/** What is read of a body: the standard's reader, as far as it is used. */
export interface ByteReader {
  read(): Promise<ReadResult>;
  cancel(): Promise<void>;
}

export type ReadResult = { done: false; value: Bytes } | { done: true; value?: Bytes | undefined };

/** How much of an error answer is looked at. */
const EVIDENCE_BYTES = 64 * 1024;

const decoder = new TextDecoder();

/** The text of some bytes. `charset`: as `charsetOf` tells. */
export function textOf(bytes: Uint8Array, charset: string | null = null): string {
  return charset === null ? decoder.decode(bytes) : new TextDecoder(charset as Bun.Encoding).decode(bytes);
}

/** The character set of a body, where it is not UTF-8 or a part of that: null. */
export function charsetOf(headers: Headers, bytes: Uint8Array): string | null {
  const [first, second, third, fourth] = bytes;
  if (first === 0xff && second === 0xfe) return "utf-16le";
  if (first === 0xfe && second === 0xff) return "utf-16be";
  const named = /charset="?([\w-]{1,40})/i.exec(headers.get("content-type") ?? "")?.[1]?.toLowerCase();
  if (named?.startsWith("utf-16") === true) return named === "utf-16be" ? named : "utf-16le";
  // JSON and English in UTF-16: every other byte is zero.
  if (first !== 0 && second === 0 && third !== 0 && fourth === 0) return "utf-16le";
  return first === 0 && second !== 0 && third === 0 && fourth !== 0 ? "utf-16be" : null;
}

/** The part of an error body that is judged, as text. */
export function evidenceOf(plain: Uint8Array, charset: string | null = null): string {
  return textOf(plain.subarray(0, EVIDENCE_BYTES), charset);
}

export function isJson(bytes: Uint8Array): boolean {
  try {
    JSON.parse(textOf(bytes));
    return true;
  } catch {
    return false;
  }
}

/** Where some bytes stand in others; -1: nowhere. The search of Buffers: to make one would cost more than to search. */
export function indexOfBytes(bytes: Uint8Array, wanted: Uint8Array): number {
  return INDEX_OF.call(bytes, wanted);
}

const INDEX_OF = Buffer.prototype.indexOf;

/** Reads on from `first` until more than `limit` bytes are there or the body ends; `isWhole`: it ended. */
export async function readUpTo(
  reader: ByteReader,
  limit: number,
  first: Bytes | null = null,
): Promise<{ bytes: Bytes; isWhole: boolean }> {
  const chunks: Bytes[] = first === null ? [] : [first];
  let length = first?.length ?? 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (value !== undefined) chunks.push(value);
    length += value?.length ?? 0;
    if (done || length > limit) return { bytes: joined(chunks), isWhole: done };
  }
}

/** Pieces as one. A single one is returned as it is. */
export function joined(chunks: readonly Bytes[]): Bytes {
  const [only] = chunks;
  if (chunks.length === 1 && only !== undefined) return only;
  const bytes = new Uint8Array(lengthOf(chunks));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** The length of pieces together. */
export function lengthOf(chunks: readonly Bytes[]): number {
  let length = 0;
  for (const chunk of chunks) length += chunk.length;
  return length;
}

/** A whole body. Cheaper than its buffer and a view of that; Bun's types leave open what the bytes are in (1.4.5). */
export function bytesOf(message: { bytes(): Promise<Uint8Array> }): Promise<Bytes> {
  return message.bytes() as Promise<Bytes>;
}

/** A reader of an answer's body, or null where it has none. */
export function readerOf({ body }: Pick<UpstreamResponse, "body">): ByteReader | null {
  return body === null ? null : body.getReader();
}

/** Closes an answer nobody will read: unread, it would hold its socket until the garbage collector came by. */
export function discard(reader: ByteReader): void {
  reader.cancel().catch(() => {}); // closed or cut already: the same to us
}

/** Bytes that come in pieces, as one: grows by doubling, so that small pieces do not cost their square. */
export class Gathering {
  /** The first piece alone is kept as it is, not copied. */
  #bytes: Bytes = new Uint8Array();
  length = 0;

  push(piece: Bytes): void {
    const before = this.length;
    this.length += piece.length;
    if (before === 0) this.#bytes = piece;
    if (before === 0) return;
    if (this.length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.length, 2 * this.#bytes.length));
      larger.set(this.#bytes.subarray(0, before));
      this.#bytes = larger;
    }
    this.#bytes.set(piece, before);
  }

  /** All of it. Good until the next piece comes. */
  get bytes(): Bytes {
    return this.#bytes.subarray(0, this.length);
  }
}

/** A stream of what is here already. */
export function streamOf(bytes: Bytes): ReadableStream<Bytes> {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(bytes);
      controller.close();
    },
  });
}

/** A body of unknown length that is longer gets at once the room for all that one may be: copies cost more. */
const GROWING_BYTES = 4 * 1024 * 1024;

/**
 * Bytes of a long body that come in pieces, each of which is copied into one place and let go. What is not written to
 * takes no memory.
 */
export class BodyBuffer {
  readonly #most: number;
  #room: Bytes;
  length = 0;

  /** `announced`: how many will come; 0: nobody knows. `most`: no more than these. */
  constructor(announced: number, most: number) {
    this.#room = new Uint8Array(announced);
    this.#most = most;
  }

  /** Takes a piece, which is nobody else's. Together they must not be more than announced, or than the most. */
  push(piece: Bytes): void {
    const at = this.length;
    this.length += piece.length;
    if (this.length > this.#room.length) this.#grow(at);
    this.#room.set(piece, at);
    if (piece.length === piece.buffer.byteLength) free(piece);
  }

  #grow(length: number): void {
    const larger = new Uint8Array(this.length > GROWING_BYTES ? this.#most : 2 * this.length);
    larger.set(this.#room.subarray(0, length));
    free(this.#room);
    this.#room = larger;
  }

  get bytes(): Bytes {
    return this.#room.subarray(0, this.length);
  }

  /** Gives its memory back. Nobody may read `bytes` any more. */
  free(): void {
    free(this.#room);
  }
}

// ---------------------------------------------------------------- compression

/** More than this of a body that is judged is not unpacked. */
const LONGEST_PLAIN_BYTES = 1024 * 1024;
/** At most so much is unpacked of one piece of a stream that is only followed. */
const LONGEST_FED_BYTES = 16 * 1024 * 1024;
/** At most so much is unpacked of one piece of a stream. */
const LONGEST_PIECE_BYTES = 256 * 1024;
/** After so much that was unpacked the others have their turn: several long bodies may be unpacked at once. */
const TURN_BYTES = 1024 * 1024;
/** How often a body may be packed, more often than it says. */
const MOST_LAYERS = 4;
/** gzip unpacks to a thousandfold at most: this much of it can do no harm in one go. */
const HARMLESS_GZIP_BYTES = 2 * 1024;

/** The names in `content-encoding` (RFC 9110 8.4.1, RFC 8878). */
const FORMATS: Readonly<Record<string, CompressionName>> = {
  gzip: "gzip",
  "x-gzip": "gzip",
  deflate: "deflate",
  br: "brotli",
  zstd: "zstd",
};

/** How a body is packed, in the order in which it was done; empty: not at all. */
export function encodingsOf(headers: Headers): readonly string[] {
  const field = headers.get("content-encoding");
  if (field === null) return NONE;
  const names = field.split(",").map((name) => name.trim().toLowerCase());
  return names.filter((name) => name !== "" && name !== "identity");
}

const NONE: readonly string[] = [];

/** A body as it can be read. */
export interface Unpacked {
  readonly plain: Bytes;
  /**
   * `whole`: it is what it says it is. `part`: it is not, but this much could be made out. `none`: nobody can tell
   * what stands in it.
   */
  readonly extent: "whole" | "part" | "none";
}

const UNREADABLE: Unpacked = { plain: new Uint8Array(), extent: "none" };

/** It unpacks to more than anybody looks at: a bomb, for all we know. */
const TOO_LONG: Unpacked = { ...UNREADABLE };

/** A body that is not packed. */
export function unpackedAlready(bytes: Bytes): Unpacked {
  return { plain: bytes, extent: "whole" };
}

/**
 * What a whole body says, however it is packed: as it claims, twice over (a gateway may pack what is packed already),
 * or not at all in spite of its claim.
 */
export async function unpack(bytes: Bytes, encodings: readonly string[]): Promise<Unpacked> {
  let plain = bytes;
  let isAsClaimed = true;
  for (const encoding of encodings.slice(-MOST_LAYERS).toReversed()) {
    if (plain.length === 0) break;
    const inner = await unpackLayer(plain, FORMATS[encoding] ?? null);
    if (inner.extent === "part") return inner;
    isAsClaimed = inner.extent === "whole";
    if (!isAsClaimed) break;
    plain = inner.plain;
  }
  for (let layer = 0; layer < MOST_LAYERS; layer += 1) {
    const format = formatOf(plain);
    if (format === null) {
      if (isText(plain)) return unpackedAlready(plain);
      return (await unpackUnnamed(plain)) ?? (isAsClaimed ? unpackedAlready(plain) : UNREADABLE);
    }
    const inner = await unpackLayer(plain, format);
    if (inner.extent !== "whole") return inner;
    plain = inner.plain;
  }
  return UNREADABLE;
}

/**
 * What a body says that is packed as it claims; null: it is not, or somebody does not want to have more of it.
 * It is at most `most` bytes. `mayTake` is told of every piece that is unpacked, in between too, and says whether to go
 * on.
 */
export async function unpackWhile(
  bytes: Bytes,
  encodings: readonly string[],
  most: number,
  mayTake: (bytes: number) => boolean,
): Promise<Bytes | null> {
  if (encodings.length > MOST_LAYERS) return null;
  let plain = bytes;
  for (const encoding of encodings.toReversed()) {
    const format = FORMATS[encoding];
    if (format === undefined) return null;
    const asNamed = await unpackAs(plain, format, most, mayTake);
    const isFrameless = format === "deflate" && asNamed.extent !== "whole" && asNamed !== TOO_LONG;
    const inner = isFrameless ? await unpackAs(plain, "deflate-raw", most, mayTake) : asNamed;
    if (inner.extent !== "whole") return null;
    plain = inner.plain;
  }
  return plain;
}

/** A text that is packed in a way that its first bytes do not show, and nobody said so; null: it is none. */
async function unpackUnnamed(bytes: Bytes): Promise<Unpacked | null> {
  const [first = 0, second = 0] = bytes;
  const mayBeDeflate = (first & 0x0f) === 8 && (first * 256 + second) % 31 === 0; // RFC 1950 2.2
  for (const format of mayBeDeflate ? UNNAMED : UNNAMED.slice(1)) {
    const inner = await unpackAs(bytes, format);
    if (inner.extent === "whole" && inner.plain.length > 0 && isText(inner.plain)) return inner;
  }
  return null;
}

const UNNAMED: readonly CompressionName[] = ["deflate", "brotli", "deflate-raw"];

function isText(bytes: Bytes): boolean {
  try {
    return !new TextDecoder("utf-8", { fatal: true }).decode(bytes).includes("\0");
  } catch {
    return false; // not UTF-8
  }
}

/** How bytes are packed, as their first ones tell; null: not in a way that shows. */
function formatOf([first, second, third, fourth]: Bytes): CompressionName | null {
  if (first === 0x1f && second === 0x8b) return "gzip";
  return first === 0x28 && second === 0xb5 && third === 0x2f && fourth === 0xfd ? "zstd" : null;
}

async function unpackLayer(bytes: Bytes, format: CompressionName | null): Promise<Unpacked> {
  if (format === null) return UNREADABLE;
  const unpacked = await unpackAs(bytes, format);
  if (unpacked.extent !== "none" || unpacked === TOO_LONG) return unpacked;
  if (format === "deflate") return unpackAs(bytes, "deflate-raw"); // Some servers leave its frame away.
  if (format === "gzip" && bytes.length <= HARMLESS_GZIP_BYTES) return unpackBeforeJunk(bytes);
  return unpacked;
}

async function unpackAs(
  bytes: Bytes,
  format: CompressionName,
  most = LONGEST_PLAIN_BYTES,
  mayTake: (bytes: number) => boolean = () => true,
): Promise<Unpacked> {
  const stream = decompressor(format);
  if (stream === null) return UNREADABLE;
  const writer = stream.writable.getWriter();
  const reader = stream.readable.getReader();
  writer.write(bytes).catch(() => {}); // the reader gets to know it
  writer.close().catch(() => {});
  const plain = new BodyBuffer(0, most);
  let turnAt = TURN_BYTES;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return unpackedAlready(plain.bytes);
      if (plain.length >= turnAt) {
        await nextTurn();
        turnAt = plain.length + TURN_BYTES;
      }
      if (!mayTake(value.length) || plain.length + value.length > most) {
        plain.free();
        return TOO_LONG;
      }
      plain.push(value);
    }
  } catch {
    return { plain: plain.bytes, extent: plain.length > 0 ? "part" : "none" }; // cut short, or something else
  } finally {
    void reader.cancel().catch(() => {});
  }
}

/** Something stands behind the end of the gzip, for which the stream refuses all of it. */
function unpackBeforeJunk(bytes: Bytes): Unpacked {
  try {
    const plain = gunzip(bytes);
    return plain.length > LONGEST_PLAIN_BYTES ? TOO_LONG : { plain, extent: "part" };
  } catch {
    return UNREADABLE;
  }
}

/** Unpacks a stream piece by piece. */
export class Unpacker {
  readonly #writer: { write(piece: Bytes): Promise<void>; close(): Promise<void> };
  readonly #reader: ByteReader;
  #reading: Promise<ReadResult> | null = null;

  /** Null where it is packed in a way that cannot be undone here. */
  static of(encodings: readonly string[]): Unpacker | null {
    const format = FORMATS[encodings[0] ?? ""];
    const stream = encodings.length === 1 && format !== undefined ? decompressor(format) : null;
    return stream && new Unpacker(stream);
  }

  private constructor(stream: Decompressor) {
    this.#writer = stream.writable.getWriter();
    this.#reader = stream.readable.getReader();
  }

  /**
   * What can be read now that this piece is there, at most some 256 KiB of it. Null: it is not what it says it is, or
   * unpacks to more; then nothing more can be had.
   */
  async push(piece: Bytes): Promise<Bytes | null> {
    const parts: Bytes[] = [];
    const state = await this.feed(piece, (part) => void parts.push(part), LONGEST_PIECE_BYTES);
    return state === "fine" ? joined(parts) : null;
  }

  /**
   * Hands on what can be read now that this piece is there, part by part. `broken`: it is not what it says it is, or
   * it was over before; `too_much`: it unpacks to more than `limit` bytes. Then nothing more can be had.
   */
  async feed(
    piece: Bytes,
    take: (part: Bytes) => void,
    limit = LONGEST_FED_BYTES,
  ): Promise<"fine" | "broken" | "too_much"> {
    let length = 0;
    let taken: Promise<null> = this.#writer.write(piece).then(() => null);
    let isTaken = false;
    try {
      for (;;) {
        this.#reading ??= this.#reader.read();
        const read = await Promise.race([this.#reading, taken]);
        if (read === null) {
          if (isTaken) return "fine";
          isTaken = true; // what it came to is there to be read by now, if it came to anything
          taken = Promise.resolve(null);
          continue;
        }
        this.#reading = null;
        if (read.done) return "broken";
        length += read.value.length;
        if (length > limit) return "too_much";
        take(read.value);
      }
    } catch {
      return "broken";
    }
  }

  /** Hands on what is left when no more pieces come. `broken`: it was not at its end. */
  async finish(take: (part: Bytes) => void): Promise<"fine" | "broken" | "too_much"> {
    let length = 0;
    try {
      this.#writer.close().catch(() => {}); // the reader gets to know it
      for (;;) {
        const read = await (this.#reading ?? this.#reader.read());
        this.#reading = null;
        if (read.done) return "fine";
        length += read.value.length;
        if (length > LONGEST_FED_BYTES) return "too_much";
        take(read.value);
      }
    } catch {
      return "broken";
    }
  }

  /** Lets go of it. */
  close(): void {
    this.#reading?.catch(() => {});
    this.#reader.cancel().catch(() => {});
  }
}
