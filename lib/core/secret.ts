/**
 * Values that can be used but not printed.
 *
 * A key lives in a private field, so no template, JSON, inspector or crash report can show it by accident.
 * `reveal()` is the one way out, and therefore the one word a leak review has to search for.
 */

import { sha256 } from "#runtime";

/** First 8 hex digits of the SHA-256 of `text`: names a key in logs, state and health without telling it. */
export function fingerprint(text: string): string {
  return Buffer.from(sha256(text)).toString("hex", 0, 4);
}

/** Of a shorter secret four characters are too much. */
const SHORTEST_WITH_LAST_FOUR = 20;

/** A credential. Prints as `[secret 3e23e816]` wherever it is printed. */
export class Secret {
  readonly #value: string;
  /** Hash of the value, safe to show and stable across restarts. */
  readonly id: string;

  constructor(value: string) {
    this.#value = value;
    this.id = fingerprint(value);
  }

  /** The credential itself. Only for putting it on an upstream request or comparing a login. */
  reveal(): string {
    return this.#value;
  }

  /** How long it is: tells cheaply that a text is another one. */
  get length(): number {
    return this.#value.length;
  }

  /** The last four characters, for the operator to tell keys apart; null: it is too short to show any part of it. */
  get lastFour(): string | null {
    return this.#value.length >= SHORTEST_WITH_LAST_FOUR ? this.#value.slice(-4) : null;
  }

  toString(): string {
    return `[secret ${this.id}]`;
  }

  toJSON(): string {
    return this.toString();
  }

  [Symbol.toPrimitive](): string {
    return this.toString();
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }
}

/**
 * Whether two texts are equal, in a time that does not depend on where they differ.
 * Both are hashed first, so not even the length of the expected one can be measured; a hash is compared to its last
 * byte. (`node:crypto` has this too, but loading it costs 1.7 MB of memory.)
 */
export function equalInConstantTime(presented: string, expected: string): boolean {
  const left = sha256(presented);
  const right = sha256(expected);
  let difference = 0;
  for (let at = 0; at < left.length; at++) difference |= (left[at] ?? 0) ^ (right[at] ?? 0);
  return difference === 0;
}

/** What stands where a key stood in an upstream's error answer. */
export const REDACTED = "[redacted]";

/** `text` without the given secrets: see `Redactor`, which is for those who look for the same ones again. */
export function redact(text: string, secrets: Iterable<Secret>): string {
  return new Redactor(secrets).redact(text);
}

/** A part of a text, from its first character to the one behind its last. */
type Span = readonly [start: number, end: number];

/** No form of a secret that is shorter is looked for: it may stand anywhere by chance. */
const GRAM = 4;
/** Fewer digits of base64 than these may stand anywhere by chance. */
const TELLING_DIGITS = 8;
/** The search structure has so many places for each form: few texts then lead to one by chance. */
const PLACES_PER_FORM = 8;

/**
 * Takes secrets out of texts: in capital or small letters, with any of their characters escaped as in URLs, JSON, C or
 * HTML, broken over lines, in hexadecimal digits, and inside base64.
 *
 * Built once for a set of secrets, however large. A text is walked through once (twice where it holds escapes or line
 * breaks): at each place the last four characters lead to the few forms that end with them.
 */
export class Redactor {
  /** All forms one after the other, in small letters. */
  readonly #forms: Uint8Array;
  /** Where each form ends in `#forms`; it begins where the one before ends. */
  readonly #ends: Uint32Array;
  /** By the hash of its last characters: the number of a form; and of the next one with the same hash. -1: none. */
  readonly #heads: Int32Array;
  readonly #next: Int32Array;
  /** No text that is shorter holds one of the secrets. */
  readonly shortest: number;
  /** Fits what has a word that is long enough. */
  readonly #longWord: RegExp;

  constructor(secrets: Iterable<Secret>) {
    const forms = [...secrets].flatMap((secret) => formsOf(secret.reveal()));
    const lengths = forms.map(({ length }) => length);
    this.shortest = lengths.length === 0 ? Infinity : lengths.reduce((one, other) => Math.min(one, other));
    this.#longWord = new RegExp(`[^\\s,;"'<>(){}]{${Number.isFinite(this.shortest) ? this.shortest : 1}}`);
    this.#forms = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0));
    this.#ends = new Uint32Array(forms.length);
    this.#next = new Int32Array(forms.length);
    this.#heads = new Int32Array(2 ** Math.ceil(Math.log2(PLACES_PER_FORM * (forms.length + 1)))).fill(-1);
    let end = 0;
    for (const [number, form] of forms.entries()) {
      for (const byte of form) this.#forms[end++] = FOLDED[byte]!;
      this.#ends[number] = end;
      let gram = 0;
      for (let at = end - GRAM; at < end; at += 1) gram = (gram << 8) | this.#forms[at]!;
      const place = this.#placeOf(gram);
      this.#next[number] = this.#heads[place]!;
      this.#heads[place] = number;
    }
  }

  /** The text without them. The same string object where there is none, so that a caller can tell by identity. */
  redact(text: string): string {
    if (text.length < this.shortest) return text;
    const spans = this.#spansIn(asGiven(text));
    // Where each character stood is only asked where there is something to cut out.
    if (HAS_ESCAPES.test(text) && this.#spansIn(unescaped(text, false)).length > 0)
      spans.push(...this.#spansIn(unescaped(text, true)));
    return spans.length === 0 ? text : withoutSpans(text, spans);
  }

  /**
   * The value of a header field without them. Every good answer has some fields, so this is quick: what stands in a
   * field is one word, and few are as long as a key.
   */
  redactField(value: string): string {
    return value.length < this.shortest || !this.#longWord.test(value) ? value : this.redact(value);
  }

  #placeOf(gram: number): number {
    return (Math.imul(gram, 0x9e3779b1) >>> 8) & (this.#heads.length - 1);
  }

  #spansIn({ bytes, length, starts, stops }: Reading): Span[] {
    const spans: Span[] = [];
    const heads = this.#heads;
    const mask = heads.length - 1;
    let gram = 0;
    for (let at = 0; at < length; at += 1) {
      gram = (gram << 8) | FOLDED[bytes[at]!]!;
      let form = heads[(Math.imul(gram, 0x9e3779b1) >>> 8) & mask]!;
      for (; form >= 0; form = this.#next[form]!) {
        const start = this.#startOf(form, bytes, at);
        if (start >= 0) spans.push([starts?.[start] ?? start, stops?.[at] ?? at + 1]);
      }
    }
    return spans;
  }

  /** Where the form begins that ends at `last`; -1: it is another text. */
  #startOf(form: number, bytes: Uint8Array, last: number): number {
    const begin = form === 0 ? 0 : this.#ends[form - 1]!;
    let at = last;
    for (let index = this.#ends[form]! - 1; index >= begin; index -= 1, at -= 1) {
      if (at < 0 || FOLDED[bytes[at]!] !== this.#forms[index]) return -1;
    }
    return at + 1;
  }
}

/** Small letters, and the digits of base64url as those of base64: a form is found however it was written. */
const FOLDED = Uint8Array.from({ length: 256 }, (_, byte) => {
  if (byte >= 0x41 && byte <= 0x5a) return byte + 0x20;
  if (byte === 0x2d /* - */) return 0x2b; /* + */
  return byte === 0x5f /* _ */ ? 0x2f /* / */ : byte;
});

/**
 * A secret as it is, in hexadecimal digits, and as base64. Base64 depends on what stood before the value: at each of
 * the three byte offsets only the digits that are made of the value's own bytes are looked for.
 */
function formsOf(value: string): Buffer[] {
  const digits = [0, 1, 2].map((offset) => {
    const shifted = Buffer.concat([Buffer.alloc(offset), Buffer.from(value)]);
    const firstDigit = Math.ceil((offset * 8) / 6);
    const endDigit = Math.floor((shifted.length * 8) / 6);
    return Buffer.from(shifted.toString("base64").slice(firstDigit, endDigit));
  });
  digits.push(Buffer.from(Buffer.from(value).toString("hex")));
  const forms = digits.filter((form) => form.length >= TELLING_DIGITS);
  return value.length < GRAM ? forms : [Buffer.from(value, "latin1"), ...forms];
}

/** A text with spans of it replaced, which may overlap: a key may be the beginning of another. */
function withoutSpans(text: string, spans: Span[]): string {
  spans.sort(([one], [other]) => one - other);
  let clean = "";
  let end = 0;
  for (const [start, spanEnd] of spans) {
    if (start >= end) clean += text.slice(end, start) + REDACTED;
    end = Math.max(end, spanEnd);
  }
  return clean + text.slice(end);
}

/** One way to read a text: its characters, and where each of them begins and ends in the text that was given. */
interface Reading {
  /** A character a byte: what is no Latin letter is never part of a secret. */
  readonly bytes: Uint8Array;
  readonly length: number;
  /** null: where they stand here. */
  readonly starts: Uint32Array | null;
  readonly stops: Uint32Array | null;
}

function asGiven(text: string): Reading {
  return { bytes: Buffer.from(text, "latin1"), length: text.length, starts: null, stops: null };
}

const HAS_ESCAPES = /[%\\&\t\r\n]/;
const BEGINS_ESCAPE = Uint8Array.from({ length: 256 }, (_, byte) =>
  Number(HAS_ESCAPES.test(String.fromCharCode(byte))),
);

/** The text without its escapes, each of which is a character, and without line breaks. */
function unescaped(text: string, hasPlaces: boolean): Reading {
  const bytes = Buffer.from(text, "latin1");
  const starts = hasPlaces ? new Uint32Array(text.length) : null;
  const stops = hasPlaces ? new Uint32Array(text.length) : null;
  let length = 0;
  let isIndented = false;
  for (let at = 0; at < bytes.length;) {
    const byte = bytes[at]!;
    if (starts === null && BEGINS_ESCAPE[byte] === 0 && !isIndented) {
      bytes[length++] = byte;
      at += 1;
      continue;
    }
    const escape = escapeAt(bytes, at);
    const stop = at + escape.length;
    const isBreak = escape.character === LINE_BREAK;
    if (!isBreak && !(isIndented && escape.character === 0x20)) {
      bytes[length] = escape.character; // behind what was read
      if (starts !== null && stops !== null) {
        starts[length] = at;
        stops[length] = stop;
      }
      length += 1;
      isIndented = false;
    }
    isIndented ||= isBreak;
    at = stop;
  }
  return { bytes, length, starts, stops };
}

/** In place of a character: it only breaks a line, and is no part of what is written. */
const LINE_BREAK = -1;
/** One object for all characters: a text has many. */
const found = { character: 0, length: 1 };

/**
 * The character that is written at a place, and how long it is written. In URLs `%2F`, and `%252F` in those that hold
 * others; in JSON `\u002F` and `\/`, in C `\x2F`, in JSON in JSON with more backslashes; in HTML `&#47;` and `&#x2f;`.
 */
function escapeAt(bytes: Uint8Array, at: number): typeof found {
  const byte = bytes[at]!;
  found.character = byte;
  found.length = 1;
  if (byte === 0x25 /* % */) percentAt(bytes, at);
  else if (byte === 0x5c /* \ */) backslashAt(bytes, at);
  else if (byte === 0x26 /* & */ && bytes[at + 1] === 0x23 /* # */) entityAt(bytes, at);
  else if (byte === 0x0a || byte === 0x0d || byte === 0x09) found.character = LINE_BREAK;
  return found;
}

/** So often an URL is put into another at most. */
const MOST_LAYERS = 8;

function percentAt(bytes: Uint8Array, at: number): void {
  let digits = at + 1;
  const end = digits + 2 * MOST_LAYERS;
  while (
    digits < end &&
    bytes[digits] === 0x32 &&
    bytes[digits + 1] === 0x35 &&
    hexAt(bytes, digits + 2, 2) >= 0
  )
    digits += 2;
  const code = hexAt(bytes, digits, 2);
  if (code >= 0) escapes(code, digits + 2 - at);
}

/** A run of backslashes is looked at once, however long it is. */
function backslashAt(bytes: Uint8Array, at: number): void {
  let behind = at + 1;
  while (bytes[behind] === 0x5c) behind += 1;
  const letter = bytes[behind];
  const digits = letter === 0x75 /* u */ || letter === 0x55 ? 4 : letter === 0x78 /* x */ ? 2 : 0;
  const code = digits === 0 ? -1 : hexAt(bytes, behind + 1, digits);
  if (code >= 0) escapes(code, behind + 1 + digits - at);
  else if (letter === 0x2f /* / */) escapes(0x2f, behind + 1 - at);
  else if (letter === 0x6e /* n */ || letter === 0x72 /* r */ || letter === 0x74 /* t */)
    escapes(LINE_BREAK, behind + 1 - at);
  else found.length = behind - at; // one of them stands for all
}

function entityAt(bytes: Uint8Array, at: number): void {
  const isHex = bytes[at + 2] === 0x78 /* x */ || bytes[at + 2] === 0x58;
  const begin = isHex ? at + 3 : at + 2;
  let digit = begin;
  let code = 0;
  for (; digit < begin + MOST_DIGITS; digit += 1) {
    const value = HEX[bytes[digit] ?? 0]!;
    if (value < 0 || (!isHex && value > 9)) break;
    code = code * (isHex ? 16 : 10) + value;
  }
  if (digit > begin && bytes[digit] === 0x3b /* ; */) escapes(code, digit + 1 - at);
}

/** No number of a character is written with more. */
const MOST_DIGITS = 12;

function escapes(character: number, length: number): void {
  found.character = character;
  found.length = length;
}

/** The number that stands there in hexadecimal digits; -1: there are fewer. */
function hexAt(bytes: Uint8Array, at: number, digits: number): number {
  let value = 0;
  for (let index = at; index < at + digits; index += 1) {
    const digit = HEX[bytes[index] ?? 0]!;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

const HEX = Int8Array.from({ length: 256 }, (_, byte) => {
  const digit = parseInt(String.fromCharCode(byte), 16);
  return Number.isNaN(digit) ? -1 : digit;
});

/** Keys that a provider has masked itself: `sk-proj-****WXYZ` still tells a part. */
export function unmask(text: string): string {
  return text.replace(/[^\s"'`:]*\*{3,}[^\s"'`]*/g, REDACTED);
}
