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

export const sendsInPieces: Runtime["sendsInPieces"] = true;
