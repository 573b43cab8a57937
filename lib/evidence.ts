/**
 * Reading an answer far enough to judge it: bounded, decompressed, and without the key it may echo.
 */
import { redact } from "./secret.ts";
import type { Secret } from "./secret.ts";

export type Bytes = Uint8Array<ArrayBuffer>;

/** What is read of a body: the standard's reader, as far as it is used. */
export interface ByteReader {
  read(): Promise<ReadResult>;
  cancel(): Promise<void>;
}

export type ReadResult = { done: false; value: Bytes } | { done: true; value?: Bytes | undefined };

/** How much of an error answer is looked at. */
const EVIDENCE_BYTES = 64 * 1024;
/** A compressed error may be a bomb: more than this is not unpacked. */
const DECODED_BYTES = 1024 * 1024;

const decoder = new TextDecoder();

export function textOf(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** The part of an error body that is judged, as text. */
export function evidenceOf(plain: Uint8Array): string {
  return textOf(plain.subarray(0, EVIDENCE_BYTES));
}

export function isJson(bytes: Uint8Array): boolean {
  try {
    JSON.parse(textOf(bytes));
    return true;
  } catch {
    return false;
  }
}

/** Reads until more than `limit` bytes are there or the body ends; `isWhole`: it ended. */
export async function readUpTo(
  reader: ByteReader,
  limit: number,
): Promise<{ bytes: Bytes; isWhole: boolean }> {
  const chunks: Bytes[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (value !== undefined) chunks.push(value);
    length += value?.length ?? 0;
    if (done || length > limit) return { bytes: joined(chunks), isWhole: done };
  }
}

export function joined(chunks: readonly Bytes[]): Bytes {
  const [only] = chunks;
  return chunks.length === 1 && only !== undefined ? only : Uint8Array.from(Buffer.concat(chunks));
}

/** A reader of an answer's body, or null where it has none. */
export function readerOf(response: Response): ByteReader | null {
  const body: ReadableStream<Bytes> | null = response.body;
  return body === null ? null : body.getReader();
}

/** Closes an answer nobody will read: unread, it would hold its socket until the garbage collector came by. */
export function discard(reader: ByteReader): void {
  reader.cancel().catch(() => {}); // closed or cut already: the same to us
}

/** A body without its `content-encoding`; empty where it cannot be unpacked, which is no evidence. */
export async function decoded(bytes: Bytes, encoding: string | null): Promise<Bytes> {
  if (encoding === null || encoding === "identity") return bytes;
  const zlib = await import("node:zlib"); // loaded when the first compressed error comes
  const options = { maxOutputLength: DECODED_BYTES };
  try {
    switch (encoding.trim().toLowerCase()) {
      case "gzip":
      case "x-gzip":
        return new Uint8Array(zlib.gunzipSync(bytes, options));
      case "deflate":
        return new Uint8Array(zlib.inflateSync(bytes, options));
      case "br":
        return new Uint8Array(zlib.brotliDecompressSync(bytes, options));
      case "zstd":
        return new Uint8Array(zlib.zstdDecompressSync(bytes, options));
      default:
        return new Uint8Array();
    }
  } catch {
    return new Uint8Array(); // not what it says it is
  }
}

/**
 * An error answer without the key that upstream may have echoed, in its fields or its body. The very same bytes
 * where there is none; where there is one, the body goes out decoded.
 */
export function withoutSecret(bytes: Bytes, plain: Bytes, headers: Headers, secret: Secret): Bytes {
  for (const [name, value] of [...headers]) {
    const clean = redact(value, [secret]);
    if (clean !== value) headers.set(name, clean);
  }
  const text = textOf(plain);
  const clean = redact(text, [secret]);
  if (clean === text) return bytes;
  headers.delete("content-encoding");
  headers.delete("content-length");
  return new TextEncoder().encode(clean);
}
