/**
 * Finds a field of a JSON body without parsing the body.
 *
 * A long conversation is hundreds of kilobytes; parsing it costs more than everything else a request costs. The
 * scanner walks the bytes of the top level only, jumps over strings, and stops at the field: SDKs send `model`
 * first, so it usually looks at a few bytes.
 */

/** A string value at the top level of a body, and the bytes it occupies with its quotes. */
export interface FoundString {
  value: string;
  /** Offset of the opening quote. */
  start: number;
  /** Offset after the closing quote. */
  end: number;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** The string that the top-level field `name` holds, or null: no JSON object, no such field, not a string. */
export function findTopLevelString(body: Uint8Array, name: string): FoundString | null {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.length);
  let at = skipSpace(bytes, 0);
  if (bytes[at] !== 0x7b /* { */) return null;
  at += 1;
  while (at < bytes.length) {
    at = skipSpace(bytes, at);
    if (bytes[at] === 0x2c /* , */) {
      at += 1;
      continue;
    }
    if (bytes[at] !== QUOTE) return null;
    const nameEnd = stringEnd(bytes, at);
    if (nameEnd < 0) return null;
    const isWanted = bytes.toString("utf8", at + 1, nameEnd - 1) === name;
    at = skipSpace(bytes, nameEnd);
    if (bytes[at] !== 0x3a /* : */) return null;
    at = skipSpace(bytes, at + 1);
    const end = valueEnd(bytes, at);
    if (end < 0) return null;
    if (isWanted) return bytes[at] === QUOTE ? foundString(bytes, at, end) : null;
    at = end;
  }
  return null;
}

function foundString(bytes: Buffer, start: number, end: number): FoundString | null {
  try {
    const value: unknown = JSON.parse(bytes.toString("utf8", start, end));
    return typeof value === "string" ? { value, start, end } : null;
  } catch {
    return null; // an escape that is none: not JSON, so nobody's model
  }
}

function skipSpace(bytes: Buffer, from: number): number {
  let at = from;
  while (bytes[at] === 0x20 || bytes[at] === 0x0a || bytes[at] === 0x0d || bytes[at] === 0x09) at += 1;
  return at;
}

/** Offset after the string that begins at `start`, or -1 where it never ends. */
function stringEnd(bytes: Buffer, start: number): number {
  let quote = bytes.indexOf(QUOTE, start + 1);
  while (quote >= 0) {
    let backslashes = 0;
    while (bytes[quote - 1 - backslashes] === BACKSLASH) backslashes += 1;
    if (backslashes % 2 === 0) return quote + 1;
    quote = bytes.indexOf(QUOTE, quote + 1);
  }
  return -1;
}

/** Offset after the value that begins at `start`, or -1 where it never ends. */
function valueEnd(bytes: Buffer, start: number): number {
  let depth = 0;
  let at = start;
  while (at < bytes.length) {
    switch (bytes[at]) {
      case QUOTE:
        at = stringEnd(bytes, at);
        if (at < 0) return -1;
        if (depth === 0) return at;
        continue;
      case 0x7b /* { */:
      case 0x5b /* [ */:
        depth += 1;
        break;
      case 0x7d /* } */:
      case 0x5d /* ] */:
        if (depth === 0) return at;
        depth -= 1;
        if (depth === 0) return at + 1;
        break;
      case 0x2c /* , */:
        if (depth === 0) return at;
        break;
    }
    at += 1;
  }
  return -1;
}
export function replaceTopLevelString(body: Uint8Array<ArrayBuffer>, found: FoundString, value: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(Buffer.concat([body.subarray(0, found.start), Buffer.from(JSON.stringify(value)), body.subarray(found.end)]));
}
