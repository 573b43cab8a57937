/**
 * Undoing the compression of answers that have to be read: piece by piece, or as far as it goes.
 *
 * Done by the platform's `DecompressionStream`, which hands out what it unpacks in parts of 64 KiB and only when asked
 * for more, so that a few bytes that stand for gigabytes (a bomb) never take up more than is wanted of them; and
 * which costs 0.3 MB of memory, where `node:zlib` costs 2 to 2.5.
 */
import { joined } from "./body.ts";
import type { ByteReader, Bytes, ReadResult } from "./body.ts";

/** More than this of an answer is not unpacked. */
const LONGEST_PLAIN_BYTES = 16 * 1024 * 1024;
/** At most so much is unpacked of one piece of a stream. */
const LONGEST_PIECE_BYTES = 256 * 1024;
/** How often a body may be packed, more often than it says. */
const MOST_LAYERS = 4;
/** gzip unpacks to a thousandfold at most: this much of it can do no harm in one go. */
const HARMLESS_GZIP_BYTES = 16 * 1024;

const NO_BYTES: Bytes = new Uint8Array();

/** The names in `content-encoding` (RFC 9110 8.4.1, RFC 8878). */
const FORMATS: Readonly<Record<string, Bun.CompressionFormat>> = {
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

const UNREADABLE: Unpacked = { plain: NO_BYTES, extent: "none" };

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
    if (format === null) return isAsClaimed || isText(plain) ? unpackedAlready(plain) : UNREADABLE;
    const inner = await unpackLayer(plain, format);
    if (inner.extent !== "whole") return inner;
    plain = inner.plain;
  }
  return UNREADABLE;
}

function isText(bytes: Bytes): boolean {
  try {
    return !new TextDecoder("utf-8", { fatal: true }).decode(bytes).includes("\0");
  } catch {
    return false; // not UTF-8
  }
}

/** How bytes are packed, as their first ones tell; null: not in a way that shows. */
function formatOf([first, second, third, fourth]: Bytes): Bun.CompressionFormat | null {
  if (first === 0x1f && second === 0x8b) return "gzip";
  return first === 0x28 && second === 0xb5 && third === 0x2f && fourth === 0xfd ? "zstd" : null;
}

async function unpackLayer(bytes: Bytes, format: Bun.CompressionFormat | null): Promise<Unpacked> {
  if (format === null) return UNREADABLE;
  const unpacked = await unpackAs(bytes, format);
  if (unpacked.extent !== "none") return unpacked;
  if (format === "deflate") return unpackAs(bytes, "deflate-raw"); // Some servers leave its frame away.
  if (format === "gzip" && bytes.length <= HARMLESS_GZIP_BYTES) return unpackBeforeJunk(bytes);
  return unpacked;
}

async function unpackAs(bytes: Bytes, format: Bun.CompressionFormat): Promise<Unpacked> {
  const stream = new DecompressionStream(format);
  const writer = stream.writable.getWriter();
  const reader = stream.readable.getReader();
  writer.write(bytes).catch(() => {}); // the reader gets to know it
  writer.close().catch(() => {});
  const parts: Bytes[] = [];
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return unpackedAlready(joined(parts));
      parts.push(value);
      length += value.length;
      if (length > LONGEST_PLAIN_BYTES) return UNREADABLE;
    }
  } catch {
    return { plain: joined(parts), extent: length > 0 ? "part" : "none" }; // cut short, or something else
  } finally {
    void reader.cancel().catch(() => {});
  }
}

/** Something stands behind the end of the gzip, for which the stream refuses all of it. */
function unpackBeforeJunk(bytes: Bytes): Unpacked {
  try {
    return { plain: Bun.gunzipSync(bytes), extent: "part" };
  } catch {
    return UNREADABLE;
  }
}

/** Unpacks a stream piece by piece. */
export class Unpacker {
  readonly #writer: { write(piece: Bytes): Promise<void> };
  readonly #reader: ByteReader;
  #reading: Promise<ReadResult> | null = null;

  /** Null where it is packed in a way that cannot be undone here. */
  static of(encodings: readonly string[]): Unpacker | null {
    const format = FORMATS[encodings[0] ?? ""];
    return encodings.length === 1 && format !== undefined ? new Unpacker(format) : null;
  }

  private constructor(format: Bun.CompressionFormat) {
    const stream = new DecompressionStream(format);
    this.#writer = stream.writable.getWriter();
    this.#reader = stream.readable.getReader();
  }

  /**
   * What can be read now that this piece is there, at most some 256 KiB of it. Null: it is not what it says it is, or
   * unpacks to more; then nothing more can be had.
   */
  async push(piece: Bytes): Promise<Bytes | null> {
    const parts: Bytes[] = [];
    let length = 0;
    let taken: Promise<null> = this.#writer.write(piece).then(() => null);
    let isTaken = false;
    try {
      for (;;) {
        this.#reading ??= this.#reader.read();
        const read = await Promise.race([this.#reading, taken]);
        if (read === null) {
          if (isTaken) return joined(parts);
          isTaken = true; // what it came to is there to be read by now, if it came to anything
          taken = Promise.resolve(null);
          continue;
        }
        this.#reading = null;
        if (read.value !== undefined) parts.push(read.value);
        length += read.value?.length ?? 0;
        if (read.done || length > LONGEST_PIECE_BYTES) return null;
      }
    } catch {
      return null;
    }
  }

  /** Lets go of it. */
  close(): void {
    this.#reading?.catch(() => {});
    this.#reader.cancel().catch(() => {});
  }
}
