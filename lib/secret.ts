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
 * `text` with every form of the given secrets replaced: as it is, percent-encoded, with slashes escaped as in JSON,
 * and inside base64. Returns the same string object when none of them occurs, so a caller can tell by identity.
 */
export function redact(text: string, secrets: Iterable<Secret>): string {
  // The longest first: a key may be the beginning of another.
  const forms = [...secrets]
    .flatMap((secret) => formsOf(secret.reveal()))
    .sort((a, b) => b.length - a.length);
  let clean = text;
  for (const form of forms) clean = clean.replace(new RegExp(form, "gi"), REDACTED);
  return clean;
}

/** The spellings under which a value can be found again, as patterns. */
function formsOf(value: string): string[] {
  const characters = [...value].map((character) => {
    const escaped = character.replace(/[\\^$.*+?()[\]{}|/-]/, "\\$&");
    const encoded = encodeURIComponent(character);
    const percent = encoded === character ? `%${hexOf(character)}` : encoded;
    const inJson = character === "/" ? "|\\\\/" : "";
    return `(?:${escaped}|${percent.replace(/[A-F]/gi, (digit) => `[${digit.toUpperCase()}${digit.toLowerCase()}]`)}${inJson})`;
  });
  return [characters.join(""), ...base64FormsOf(value)];
}

function hexOf(character: string): string {
  return character.charCodeAt(0).toString(16).padStart(2, "0");
}

/**
 * Base64 depends on what stood before the value: at each of the three byte offsets only the digits that are made of
 * the value's own bytes are looked for.
 */
function base64FormsOf(value: string): string[] {
  const forms = new Set<string>();
  for (const offset of [0, 1, 2]) {
    const shifted = Buffer.concat([Buffer.alloc(offset), Buffer.from(value)]);
    const firstDigit = Math.ceil((offset * 8) / 6);
    const endDigit = Math.floor((shifted.length * 8) / 6);
    const digits = shifted.toString("base64").slice(firstDigit, endDigit);
    if (digits.length < 8) continue; // too short to be no chance hit
    forms.add(digits.replace(/[+/]/g, (digit) => (digit === "+" ? "[-+]" : "(?:[/_]|\\\\/)")));
  }
  return [...forms];
}

/** Keys that a provider has masked itself: `sk-proj-****WXYZ` still tells a part. */
export function unmask(text: string): string {
  return text.replace(/[^\s"'`:]*\*{3,}[^\s"'`]*/g, REDACTED);
}
