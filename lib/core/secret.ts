/**
 * Values that can be used but not printed.
 *
 * A key lives in a private field, so no template, JSON, inspector or crash report can show it by accident.
 * `reveal()` is the one way out, and therefore the one word a leak review has to search for.
 */

/** First 8 hex digits of the SHA-256 of `text`: names a key in logs, state and health without telling it. */
export function fingerprint(text: string): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 8);
}

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

  toString(): string {
    return `[secret ${this.id}]`;
  }

  toJSON(): string {
    return this.toString();
  }

  [Symbol.toPrimitive](): string {
    return this.toString();
  }

  [Bun.inspect.custom](): string {
    return this.toString();
  }
}

/**
 * Whether two texts are equal, in a time that does not depend on where they differ.
 * Both are hashed first, so not even the length of the expected one can be measured; a hash is compared to its last
 * byte. (`node:crypto` has this too, but loading it costs 1.7 MB of memory.)
 */
export function equalInConstantTime(presented: string, expected: string): boolean {
  const left = digest(presented);
  const right = digest(expected);
  let difference = 0;
  for (let at = 0; at < left.length; at++) difference |= (left[at] ?? 0) ^ (right[at] ?? 0);
  return difference === 0;
}

function digest(text: string): Uint8Array {
  return new Bun.CryptoHasher("sha256").update(text).digest();
}

/** What stands where a key stood in an upstream's error answer. */
export const REDACTED = "[redacted]";

/**
 * `text` with every form of the given secrets replaced: in capital or small letters, with any of its characters
 * escaped as in URLs, JSON or HTML, and inside base64. Returns the same string object when none of them occurs, so a
 * caller can tell by identity. Quick where there is none: every refusal comes this way, field by field.
 */
export function redact(text: string, secrets: Iterable<Secret>): string {
  const search = new Search(text);
  const spans = [...secrets].flatMap((secret) => search.formsOf(secret.reveal()));
  return spans.length === 0 ? text : withoutSpans(text, spans);
}

/** A part of a text, from its first character to the one behind its last. */
type Span = readonly [start: number, end: number];

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

/** One way to read a text, and where its characters stand in the text that was given. */
interface Reading {
  readonly text: string;
  placeOf(index: number): number;
}

/** Looks for values in a text, as it is and without its escapes. */
class Search {
  readonly #text: string;
  #readings: readonly Reading[] | null = null;

  constructor(text: string) {
    this.#text = text;
  }

  /** Where a value stands in the text, in whatever form. */
  formsOf(value: string): Span[] {
    if (value === "" || this.#text.length < value.length) return []; // no form is shorter
    this.#readings ??= readingsOf(this.#text);
    return this.#readings.flatMap((reading) => [
      ...places(value.toLowerCase(), inSmall(reading.text), reading),
      ...placesInBase64(value, reading),
    ]);
  }
}

function readingsOf(text: string): Reading[] {
  const asGiven: Reading = { text, placeOf: (index) => index };
  return /[%\\&]/.test(text) ? [asGiven, unescaped(text)] : [asGiven];
}

function places(form: string, text: string, { placeOf }: Reading): Span[] {
  const spans: Span[] = [];
  for (let at = text.indexOf(form); at >= 0; at = text.indexOf(form, at + form.length))
    spans.push([placeOf(at), placeOf(at + form.length)]);
  return spans;
}

/** In small letters, and as long as it was: some letters outside ASCII become two. */
function inSmall(text: string): string {
  const small = text.toLowerCase();
  return small.length === text.length ? small : text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}

/** In URLs `%2F`, and `%252F` in those that hold others; in JSON `\u002F` and `\/`, in JSON in JSON with more backslashes. */
const ESCAPE = /%(?:25)*([0-9a-f]{2})|\\+u([0-9a-f]{4})|\\+(\/)|&#(?:x0*([0-9a-f]{1,4})|0*([0-9]{1,5}));/gi;

/** The text without its escapes, each of which is a character. */
function unescaped(text: string): Reading {
  // Runs of characters: where they begin in the reading, and in the text.
  const begins = [0];
  const places = [0];
  let reading = "";
  let end = 0;
  for (const escape of text.matchAll(ESCAPE)) {
    reading += text.slice(end, escape.index);
    end = escape.index + escape[0].length;
    begins.push(reading.length, reading.length + 1);
    places.push(escape.index, end);
    reading += characterOf(escape);
  }
  reading += text.slice(end);
  const placeOf = (index: number) => {
    const run = lastUpTo(index, begins);
    return (places[run] ?? 0) + index - (begins[run] ?? 0);
  };
  return { text: reading, placeOf };
}

function characterOf([, percent, json, slash, hex, decimal]: RegExpExecArray): string {
  if (slash !== undefined) return slash;
  const digits = percent ?? json ?? hex;
  return String.fromCharCode(digits === undefined ? Number(decimal) : parseInt(digits, 16));
}

/** Which of ascending numbers is the last that is not above `most`. */
function lastUpTo(most: number, numbers: readonly number[]): number {
  let low = 0;
  for (let high = numbers.length; high - low > 1;) {
    const middle = (low + high) >> 1;
    if ((numbers[middle] ?? 0) <= most) low = middle;
    else high = middle;
  }
  return low;
}

/** Fewer digits of base64 than these may stand anywhere by chance. */
const TELLING_DIGITS = 8;

function placesInBase64(value: string, reading: Reading): Span[] {
  const fewest = Math.max(TELLING_DIGITS, Math.floor((value.length * 8) / 6) - 2);
  if (!new RegExp(`[\\w+/-]{${fewest}}`).test(reading.text)) return [];
  const digits = reading.text.replaceAll("-", "+").replaceAll("_", "/"); // base64url
  return base64FormsOf(value).flatMap((form) => places(form, digits, reading));
}

/**
 * Base64 depends on what stood before the value: at each of the three byte offsets only the digits that are made of
 * the value's own bytes are looked for.
 */
function base64FormsOf(value: string): string[] {
  const forms = [0, 1, 2].map((offset) => {
    const shifted = Buffer.concat([Buffer.alloc(offset), Buffer.from(value)]);
    const firstDigit = Math.ceil((offset * 8) / 6);
    const endDigit = Math.floor((shifted.length * 8) / 6);
    return shifted.toString("base64").slice(firstDigit, endDigit);
  });
  return forms.filter((form) => form.length >= TELLING_DIGITS);
}

/** Keys that a provider has masked itself: `sk-proj-****WXYZ` still tells a part. */
export function unmask(text: string): string {
  return text.replace(/[^\s"'`:]*\*{3,}[^\s"'`]*/g, REDACTED);
}
