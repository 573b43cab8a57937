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
 * `text` with every form of the given secrets replaced: as it is, percent-encoded, and inside base64.
 * Returns the same string object when none of them occurs, so a caller can tell by identity.
 */
export function redact(text: string, secrets: Iterable<Secret>): string {
  let clean = text;
  for (const secret of secrets) {
    for (const form of formsOf(secret.reveal())) {
      if (clean.includes(form)) clean = clean.replaceAll(form, REDACTED);
    }
  }
  return clean;
}

/**
 * The spellings under which a value can be found again.
 * Base64 depends on what stood before the value: at each of the three byte offsets only the digits that are
 * made of the value's own bytes are looked for.
 */
function formsOf(value: string): string[] {
  const forms = new Set([value, encodeURIComponent(value)]);
  for (const offset of [0, 1, 2]) {
    const shifted = Buffer.concat([Buffer.alloc(offset), Buffer.from(value)]);
    const bits = shifted.length * 8;
    const firstDigit = Math.ceil((offset * 8) / 6);
    const endDigit = Math.floor(bits / 6);
    for (const alphabet of ["base64", "base64url"] as const) {
      const digits = shifted.toString(alphabet).slice(firstDigit, endDigit);
      if (digits.length >= 8) forms.add(digits);
    }
  }
  return [...forms].sort((a, b) => b.length - a.length);
}
