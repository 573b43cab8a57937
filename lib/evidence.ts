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
const DECODED_BYTES = 16 * 1024 * 1024;

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
  return encoding === null || encoding === "identity" ? bytes : unpack(bytes, encoding, "whole");
}

/** The part of a compressed body that can be read when only these first bytes of it are here. */
export function decodedSoFar(bytes: Bytes, encoding: string): Promise<Bytes> {
  return unpack(bytes, encoding, "beginning");
}

async function unpack(bytes: Bytes, encoding: string, extent: "whole" | "beginning"): Promise<Bytes> {
  const zlib = await import("node:zlib"); // loaded when the first compressed error comes
  const {
    Z_FINISH,
    Z_SYNC_FLUSH,
    BROTLI_OPERATION_FINISH,
    BROTLI_OPERATION_FLUSH,
    ZSTD_e_end,
    ZSTD_e_flush,
  } = zlib.constants;
  const isWhole = extent === "whole";
  const maxOutputLength = DECODED_BYTES;
  try {
    switch (encoding.trim().toLowerCase()) {
      case "gzip":
      case "x-gzip":
        return Uint8Array.from(
          zlib.gunzipSync(bytes, { maxOutputLength, finishFlush: isWhole ? Z_FINISH : Z_SYNC_FLUSH }),
        );
      case "deflate":
        return Uint8Array.from(
          zlib.inflateSync(bytes, { maxOutputLength, finishFlush: isWhole ? Z_FINISH : Z_SYNC_FLUSH }),
        );
      case "br": {
        const finishFlush = isWhole ? BROTLI_OPERATION_FINISH : BROTLI_OPERATION_FLUSH;
        return Uint8Array.from(zlib.brotliDecompressSync(bytes, { maxOutputLength, finishFlush }));
      }
      case "zstd": {
        const finishFlush = isWhole ? ZSTD_e_end : ZSTD_e_flush;
        return Uint8Array.from(zlib.zstdDecompressSync(bytes, { maxOutputLength, finishFlush }));
      }
      default:
        return new Uint8Array();
    }
  } catch {
    return new Uint8Array(); // not what it says it is
  }
}

/**
 * Takes the key that upstream may have echoed out of an error answer: out of its fields, which are changed in place,
 * and its body. Returns the very same bytes where there is none; where there is one, the body goes out decoded.
 */
export function withoutSecret(bytes: Bytes, plain: Bytes, headers: Headers, secret: Secret): Bytes {
  cleanFields(headers, secret);
  const text = textOf(plain);
  const clean = redact(text, [secret]);
  if (clean === text) return bytes;
  headers.delete("content-encoding");
  headers.delete("content-length");
  return new TextEncoder().encode(clean);
}

function cleanFields(headers: Headers, secret: Secret): void {
  const cookies = headers.getSetCookie();
  for (const [name, value] of [...headers]) {
    const clean = redact(value, [secret]);
    if (name !== "set-cookie" && clean !== value) headers.set(name, clean);
  }
  const cleanCookies = cookies.map((cookie) => redact(cookie, [secret]));
  if (cleanCookies.every((cookie, index) => cookie === cookies[index])) return;
  headers.delete("set-cookie");
  for (const cookie of cleanCookies) headers.append("set-cookie", cookie);
}
