/**
 * What the engine needs of its runtime, by the standard's means and those modules of Node that Deno and Bun have too.
 * Only the npm package is built with it: what stands here costs the executable nothing.
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import * as zlib from "node:zlib";
import type { Decompressor, Runtime } from "./runtime.ts";

export const sha256: Runtime["sha256"] = (text) => createHash("sha256").update(text).digest();

export const textBetween: Runtime["textBetween"] = (bytes, start, end) =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("utf8", start, end);

export const gunzip: Runtime["gunzip"] = (bytes) => {
  // Not `gunzipSync`: what stands behind the end is an error to that of some runtimes.
  const { buffer, byteOffset, length } = zlib.inflateRawSync(bytes.subarray(gzipHeaderBytes(bytes)));
  return new Uint8Array(buffer, byteOffset, length);
};

/** The length of a gzip's header (RFC 1952, 2.3). Throws where it is none. */
function gzipHeaderBytes(bytes: Uint8Array): number {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b || bytes[2] !== 8) throw new Error("this is no gzip");
  const flags = bytes[3] ?? 0;
  let at = 10;
  if (flags & 4) at += 2 + (bytes[at] ?? 0) + 256 * (bytes[at + 1] ?? 0); // more fields
  for (const text of [8, 16]) if (flags & text) at = bytes.indexOf(0, at) + 1; // a name, a comment
  return flags & 2 ? at + 2 : at;
}

/** Node writes to its sockets what it is given, without a copy: it may be reading them yet. */
export const free: Runtime["free"] = () => {};

/** Node's `fetch` sends a stream in chunks, which not every provider takes. */
export const inPieces: Runtime["inPieces"] = null;

export const decompressor: Runtime["decompressor"] = (format) => {
  switch (format) {
    case "gzip":
    case "deflate":
    case "deflate-raw":
      return new DecompressionStream(format);
    case "brotli":
      return standardStream(zlib.createBrotliDecompress());
    case "zstd": // from Node 22.15 on
      return "createZstdDecompress" in zlib ? standardStream(zlib.createZstdDecompress()) : null;
  }
};

/** (Not by `Duplex.toWeb`: Deno's ends the process where a stream is cancelled that has still something to say.) */
function standardStream(codec: zlib.BrotliDecompress): Decompressor {
  let isOver = false;
  const readable = new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      start(controller) {
        codec.on("data", (part: Uint8Array) => {
          if (isOver) return;
          codec.pause();
          controller.enqueue(new Uint8Array(part));
        });
        codec.on("end", () => {
          if (isOver) return;
          isOver = true;
          controller.close();
        });
        codec.on("error", (error) => {
          if (isOver) return;
          isOver = true;
          controller.error(error);
        });
        codec.pause();
      },
      pull: () => void codec.resume(),
      cancel() {
        isOver = true;
        codec.destroy();
      },
    },
    { highWaterMark: 0 },
  );
  const writable = new WritableStream<Uint8Array<ArrayBuffer>>({
    write: (piece) => called((done) => codec.write(piece, done)),
    close: () => called((done) => codec.end(done)),
    abort: () => void codec.destroy(),
  });
  return { readable, writable };
}

/** Resolves when `call` calls back. */
function called(call: (done: (error?: Error | null) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => call((error) => (error ? reject(error) : resolve())));
}

// ── xxHash32 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md) ───────────────────────────────────────────────────

const PRIME_1 = 0x9e3779b1;
const PRIME_2 = 0x85ebca77;
const PRIME_3 = 0xc2b2ae3d;
const PRIME_4 = 0x27d4eb2f;
const PRIME_5 = 0x165667b1;
const STRIPE_BYTES = 16;

export const hash32: Runtime["hash32"] = (data, seed = 0) => {
  const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
  const { length } = bytes;
  let at = 0;
  let hash: number;
  if (length >= STRIPE_BYTES) {
    let first = (seed + PRIME_1 + PRIME_2) | 0;
    let second = (seed + PRIME_2) | 0;
    let third = seed | 0;
    let fourth = (seed - PRIME_1) | 0;
    for (; at <= length - STRIPE_BYTES; at += STRIPE_BYTES) {
      first = lane(first, wordAt(bytes, at));
      second = lane(second, wordAt(bytes, at + 4));
      third = lane(third, wordAt(bytes, at + 8));
      fourth = lane(fourth, wordAt(bytes, at + 12));
    }
    hash = rotated(first, 1) + rotated(second, 7) + rotated(third, 12) + rotated(fourth, 18);
  } else {
    hash = seed + PRIME_5;
  }
  hash = (hash + length) | 0;
  for (; at <= length - 4; at += 4)
    hash = Math.imul(rotated((hash + Math.imul(wordAt(bytes, at), PRIME_3)) | 0, 17), PRIME_4);
  for (; at < length; at += 1)
    hash = Math.imul(rotated((hash + Math.imul(bytes[at]!, PRIME_5)) | 0, 11), PRIME_1);
  hash = Math.imul(hash ^ (hash >>> 15), PRIME_2);
  hash = Math.imul(hash ^ (hash >>> 13), PRIME_3);
  return (hash ^ (hash >>> 16)) >>> 0;
};

function lane(sum: number, word: number): number {
  return Math.imul(rotated((sum + Math.imul(word, PRIME_2)) | 0, 13), PRIME_1);
}

function rotated(value: number, by: number): number {
  return (value << by) | (value >>> (32 - by));
}

/** Four bytes, the lowest first. */
function wordAt(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
}
