/**
 * Whether bytes of an answer may belong to an error: looked for in every piece of every stream, so by a few bytes only.
 */
import { indexOfBytes } from "./body.ts";

/** So much of an error is held back, as a key may stand where it was cut. Keys are shorter in every form. */
export const OVERLAP_BYTES = 8 * 1024;

/**
 * No error is said without one of these ends of words; hardly another event holds one: `error`, `Error`, `[ERROR]`,
 * `{"code", "message"}`, `{"msg"}`, `{"success": false}`, `{"detail"}`. Each is four bytes long.
 */
const ERROR_WORDS = `rror RROR ode" msg" ess" ail"`.split(" ").map((word) => new TextEncoder().encode(word));

/** Whether one of these words is in it. */
export function holdsError(bytes: Uint8Array): boolean {
  for (const word of ERROR_WORDS) if (indexOfBytes(bytes, word) >= 0) return true;
  return false;
}

/** The bytes around the place where two chunks meet, in which a word may have been split. */
export function seam(previous: Uint8Array, chunk: Uint8Array): Uint8Array {
  return Buffer.concat([previous.slice(-4), chunk.slice(0, 3)]);
}

/** The last four bytes of what has come. */
export function tail(previous: Uint8Array, chunk: Uint8Array): Uint8Array {
  return Buffer.concat([previous.slice(-4), chunk]).subarray(-4);
}
