/** What the engine needs of its runtime, by Bun's own means: native, and without loading anything. */
import type { Runtime } from "./runtime.ts";

export const sha256: Runtime["sha256"] = (text) => new Bun.CryptoHasher("sha256").update(text).digest();

export const hash32: Runtime["hash32"] = (data, seed) => Bun.hash.xxHash32(data, seed);

/** (To make a Buffer of the bytes first would cost more than this.) */
export const textBetween: Runtime["textBetween"] = (bytes, start, end) =>
  Buffer.prototype.toString.call(bytes, "utf8", start, end);

export const gunzip: Runtime["gunzip"] = (bytes) => Bun.gunzipSync(bytes);

export const decompressor: Runtime["decompressor"] = (format) => new DecompressionStream(format);

/** What is sent or written was copied by then (1.4.5). */
export const free: Runtime["free"] = (bytes) => void bytes.buffer.transfer(0);

/** So much of a stream is handed out at once. */
const PIECE_BYTES = 64 * 1024;

export const inPieces: Runtime["inPieces"] = (parts, onOver) => {
  let part = 0;
  let at = 0;
  return new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      pull(controller) {
        while (part < parts.length && at >= parts[part]!.length) {
          part += 1;
          at = 0;
        }
        if (part === parts.length) {
          controller.close();
          return onOver();
        }
        controller.enqueue(parts[part]!.subarray(at, at + PIECE_BYTES));
        at += PIECE_BYTES;
      },
      cancel: onOver,
    },
    { highWaterMark: 0 },
  );
};
