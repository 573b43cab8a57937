/**
 * JSON of others: values of unknown shape, and fields of a body that are found and replaced without parsing it.
 *
 * A long conversation is hundreds of kilobytes; parsing it costs more than everything else a request costs. The
 * scanner walks the bytes of one object or array only, jumps over strings, and stops at what was looked for: SDKs
 * send `model` first, so it usually looks at a few bytes. It does not check what it jumps over: that is upstream's.
 */

import { textBetween } from "#runtime";

// ------------------------------------------------ values of unknown shape

/** A JSON object of unknown shape. */
export interface JsonObject {
  readonly [name: string]: unknown;
}

/** The value, or undefined where `text` is not JSON. */
export function parseJson(text: string): unknown {
  if (!/^\s*["[{]/.test(text)) return undefined;
  try {
    const value: unknown = JSON.parse(text.trimStart()); // A byte order mark counts as white space here only.
    return value;
  } catch {
    return undefined; // Not JSON, or nested deeper than the parser's stack: both say nothing readable.
  }
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A field of the object itself: a body's `__proto__` or `toString` is data like any other. */
export function field(object: JsonObject, name: string): unknown {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

/** A field as text to match: a string, number or boolean; `present` for a list or an object; empty for nothing. */
export function fieldText(layer: JsonObject, name: string): string {
  const value = field(layer, name);
  if (typeof value === "string") return value;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return value == null ? "" : "present";
}

/** The code of a system error (`ENOENT`), or that of its cause; empty where there is none. */
export function codeOf(error: unknown): string {
  if (typeof error !== "object" || error === null) return "";
  if ("code" in error) return String(error.code);
  return error instanceof Error ? codeOf(error.cause) : "";
}

// ------------------------------------------------------- bytes of a body

/** A string value at the top level of a body, and the bytes it occupies with its quotes. */
export interface FoundString {
  /** Of the field. */
  name: string;
  value: string;
  /** Offset of the opening quote. */
  start: number;
  /** Offset after the closing quote. */
  end: number;
}

export const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/**
 * The string that the top-level field `name` holds, or null: no JSON object, no such field, not a string.
 * Of a field that is there twice this is the first; most JSON parsers take the last.
 */
export function findTopLevelString(body: Uint8Array, name: string): FoundString | null {
  const fields = JsonCursor.ofObject(body, 0);
  while (fields?.next()) {
    if (!fields.isNamed(name)) continue;
    const value = fields.text();
    return value === null ? null : { name, value, start: fields.valueStart, end: fields.valueEnd() };
  }
  return null;
}

/**
 * A body in which the field that was found there says `value` instead, and every other byte is as it was: in parts that
 * belong one after another, those of `body` without a copy. Where the field is repeated at the top level all of them
 * say it, whatever they held: no parser must find the old value. Null: it has more fields than anybody looks at.
 */
export function replaceTopLevelString(
  body: Uint8Array<ArrayBuffer>,
  found: FoundString,
  value: string,
): Uint8Array<ArrayBuffer>[] | null {
  const written = new TextEncoder().encode(JSON.stringify(value));
  const parts = [body.subarray(0, found.start), written];
  let from = found.end;
  const rest = new JsonCursor(body, found.end, OBJECT_END);
  const isRepeated = mayHold(body, found.end, found.name);
  while (isRepeated && rest.next()) {
    const end = rest.isNamed(found.name) ? rest.valueEnd() : -1;
    if (end < 0) continue;
    parts.push(body.subarray(from, rest.valueStart), written);
    from = end;
  }
  if (rest.hasGivenUp) return null;
  parts.push(body.subarray(from));
  return parts;
}

/**
 * Whether a field of this name may stand behind `at`: most bodies name their model once, and need not be walked over.
 */
function mayHold(body: Uint8Array, at: number, name: string): boolean {
  const bytes = asBuffer(body);
  // An escape of an ASCII letter begins with these: nobody writes one for its own sake.
  return bytes.indexOf(`"${name}"`, at) >= 0 || bytes.indexOf("\\u00", at) >= 0;
}

const OBJECT_START = 0x7b;
export const OBJECT_END = 0x7d;
const ARRAY_START = 0x5b;
const ARRAY_END = 0x5d;

/** More fields than any object of a request has that means well. Each costs more than the bytes it is made of. */
const MOST_FIELDS = 10_000;

/** The same bytes, with Buffer's searches. */
export function asBuffer(body: Uint8Array): Buffer {
  return Buffer.from(body.buffer, body.byteOffset, body.length);
}

/**
 * Walks over the fields of an object or the elements of an array: `next()` until it is false. A value is looked
 * over only where somebody asks for its end, or for what comes after it.
 */
export class JsonCursor {
  readonly #bytes: Uint8Array;
  readonly #closing: number;
  #at: number;
  #nameStart = 0;
  #nameEnd = 0;
  /** Offset of the present value. */
  valueStart = -1;
  /** -1: not looked for yet, or it never ends. */
  #valueEnd = -1;
  #fields = 0;

  /** From `at` on, between two members, until the `closing` bracket. */
  constructor(bytes: Uint8Array, at: number, closing: number) {
    this.#bytes = bytes;
    this.#closing = closing;
    this.#at = at;
  }

  /** The fields of the object that begins at `start` (white space aside), or null where none does. */
  static ofObject(bytes: Uint8Array, start: number): JsonCursor | null {
    const at = skipSpace(bytes, start);
    return bytes[at] === OBJECT_START ? new JsonCursor(bytes, at + 1, OBJECT_END) : null;
  }

  /** The elements of the array that begins at `start` (white space aside), or null where none does. */
  static ofArray(bytes: Uint8Array, start: number): JsonCursor | null {
    const at = skipSpace(bytes, start);
    return bytes[at] === ARRAY_START ? new JsonCursor(bytes, at + 1, ARRAY_END) : null;
  }

  /** Whether the object has more fields than are looked at: nobody can tell what stands behind. */
  get hasGivenUp(): boolean {
    return this.#fields > MOST_FIELDS;
  }

  /** Goes on to the next member; false at the end, where the bytes are no JSON, and behind too many fields. */
  next(): boolean {
    const bytes = this.#bytes;
    let at = this.valueStart < 0 ? this.#at : this.valueEnd();
    if (at < 0) return false;
    at = skipSpace(bytes, at);
    while (bytes[at] === 0x2c /* , */) at = skipSpace(bytes, at + 1);
    if (at >= bytes.length || bytes[at] === this.#closing) return false;
    if (this.#closing === OBJECT_END) {
      this.#fields += 1;
      if (bytes[at] !== QUOTE || this.hasGivenUp) return false;
      this.#nameStart = at + 1;
      this.#nameEnd = stringEnd(bytes, at) - 1;
      if (this.#nameEnd < 0) return false;
      at = skipSpace(bytes, this.#nameEnd + 1);
      if (bytes[at] !== 0x3a /* : */) return false;
      at = skipSpace(bytes, at + 1);
    }
    this.valueStart = at;
    this.#valueEnd = -1;
    return true;
  }

  /** The name of the present field; null: no JSON. Empty for an element. */
  name(): string | null {
    const [start, end] = [this.#nameStart, this.#nameEnd];
    const written = textBetween(this.#bytes, start, end);
    // "mod\u0065l" is the same name to every parser.
    return written.includes("\\") ? parseString(this.#bytes, start - 1, end + 1) : written;
  }

  /** Whether the present field has this name, which is plain ASCII. Makes no text of most others. */
  isNamed(name: string): boolean {
    const length = this.#nameEnd - this.#nameStart;
    if (length > name.length) return this.name() === name; // may be written with escapes
    if (length < name.length) return false;
    for (let index = 0; index < length; index++)
      if (this.#bytes[this.#nameStart + index] !== name.charCodeAt(index)) return false;
    return true;
  }

  /** Offset after the present value, or -1 where it never ends. */
  valueEnd(): number {
    if (this.#valueEnd < 0) this.#valueEnd = valueEnd(this.#bytes, this.valueStart);
    return this.#valueEnd;
  }

  /** The present value where it is a string, else null. */
  text(): string | null {
    if (this.#bytes[this.valueStart] !== QUOTE || this.valueEnd() < 0) return null;
    return parseString(this.#bytes, this.valueStart, this.valueEnd());
  }
}

/** The string that stands there with its quotes, or null where it is none to a parser. */
function parseString(bytes: Uint8Array, start: number, end: number): string | null {
  const written = textBetween(bytes, start, end);
  if (!NEEDS_PARSER.test(written)) return written.slice(1, -1);
  try {
    const value: unknown = JSON.parse(written);
    return typeof value === "string" ? value : null;
  } catch {
    return null; // an escape that is none: not JSON, so nobody's model
  }
}

/** What has to be undone in a string, or must not be in it (RFC 8259, section 7). */
const NEEDS_PARSER = /[\\\u0000-\u001f]/;

function skipSpace(bytes: Uint8Array, from: number): number {
  let at = from;
  while (bytes[at] === 0x20 || bytes[at] === 0x0a || bytes[at] === 0x0d || bytes[at] === 0x09) at += 1;
  return at;
}

/** So far a quotation mark is looked for here before it is worth a call into native code. */
const NEAR_BYTES = 48;

/** Offset after the string that begins at `start`, or -1 where it never ends. */
export function stringEnd(bytes: Uint8Array, start: number): number {
  let at = start + 1;
  let nearEnd = Math.min(at + NEAR_BYTES, bytes.length);
  for (;;) {
    while (at < nearEnd) {
      const byte = bytes[at];
      if (byte === QUOTE) return at + 1;
      at += byte === BACKSLASH ? 2 : 1;
    }
    // Nothing near: native code finds the next mark, and the backslashes before it tell whether it is escaped.
    const quote = bytes.indexOf(QUOTE, at);
    if (quote < 0) return -1;
    let backslashes = 0;
    while (quote - 1 - backslashes >= at && bytes[quote - 1 - backslashes] === BACKSLASH) backslashes += 1;
    if (backslashes % 2 === 0) return quote + 1;
    at = quote + 1;
    nearEnd = Math.min(at + NEAR_BYTES, bytes.length);
  }
}

/** Offset after the value that begins at `start`, or -1 where it never ends, or never begins. */
function valueEnd(bytes: Uint8Array, start: number): number {
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
        if (depth === 0) return at > start ? at : -1;
        depth -= 1;
        if (depth === 0) return at + 1;
        break;
      case 0x2c /* , */:
        if (depth === 0) return at > start ? at : -1;
        break;
    }
    at += 1;
  }
  return -1;
}
