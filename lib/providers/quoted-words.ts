/**
 * What an error quotes from the request. Providers put the prompt or the model into their sentences (`flagged: "the
 * api key was revoked"`), and those words judge nobody (P37). But a sentence of the provider's own may stand in the
 * request by chance: a user asks what an error means, an agent passes one on. Whoever quotes says something first, so
 * words that begin a sentence are the provider's own.
 *
 * The words of the error are few: they go into a table, and the request is walked over once, word by word, to see
 * which runs of three it holds. So the work is linear in the request, which is looked at up to a bound.
 */

/** What of a request an error may quote. */
export interface RequestWords {
  /** The model that was asked for; null: none is known. */
  readonly model: string | null;
  /** The body as it can be read, not packed; null: none. */
  readonly body: Uint8Array | null;
  /** There was one, which is not kept any more: then all that stands in quotation marks may be of it. */
  readonly isBodyGone?: boolean;
  /** What stands in its path, its query and its fields, without percent-encoding. */
  readonly head?: string;
}

/** A run of so many words that stands in the request is a quotation; within quotation marks single words are. */
const RUN = 3;
/** The beginning and the end of a larger body are looked at, so much of each. */
const LOOKED_AT_BYTES = 1024 * 1024;
/** Shorter models are words of any sentence. */
const SHORTEST_MODEL = 3;

const encoder = new TextEncoder();

/** The text with what it quotes from the request blanked, of the same length; the same text where it quotes nothing. */
export function withoutQuotes(
  text: string,
  { model, body, isBodyGone = false, head = "" }: RequestWords,
): string {
  const unquoted = isBodyGone ? withoutHtmlEscapes(text).replace(QUOTATION, blank) : text;
  const plain =
    model === null || model.length < SHORTEST_MODEL ? unquoted : withoutModelName(unquoted, model);
  const sources = [encoder.encode(head), ...(body === null ? [] : [body])];
  return plain.trim() === "" ? plain : withoutRuns(plain, sources);
}

const blank = (part: string) => " ".repeat(part.length);

/** Escapes of HTML, which some servers write in JSON too: of double marks, of single ones, of anything. */
const HTML_ESCAPE = /&(?:(quot|#34|#x22)|(apos|#39|#x27)|#?\w{2,8});/gi;

/** The text with escapes of HTML undone or blanked, of the same length. */
function withoutHtmlEscapes(text: string): string {
  return text.replace(HTML_ESCAPE, (escape, double?: string, single?: string) =>
    (double ? '"' : single ? "'" : " ").padEnd(escape.length),
  );
}

/** Where the model stands as a word of its own. */
function withoutModelName(text: string, model: string): string {
  const [lowerText, lowerModel] = [text.toLowerCase(), model.toLowerCase()];
  if (lowerText.length !== text.length) return text;
  const parts: string[] = [];
  let from = 0;
  for (;;) {
    const at = lowerText.indexOf(lowerModel, from);
    if (at < 0) break;
    const end = at + lowerModel.length;
    const isWord = !isWordChar(text[at - 1]) && !isWordChar(text[end]);
    parts.push(text.slice(from, at), isWord ? " ".repeat(end - at) : text.slice(at, end));
    from = end;
  }
  return from === 0 ? text : parts.join("") + text.slice(from);
}

function isWordChar(char: string | undefined): boolean {
  return char !== undefined && /[\p{L}\p{N}_]/u.test(char);
}

/** "for this model", also where its name is not said. */
const THIS_MODEL =
  /\b(?:specific to|for|on|of) (?:this|the|your|requested|that) model\b|(?:该|此|当前|本)模型/i;
/** What stands before a model where a sentence is about it: "for gpt-x", "model `gpt-x`", "limit_rpm/gpt-x". */
const ABOUT =
  /(?:^|\n|\b(?:for|of|on|to|by|with|using)\b|\bmodel(?: name| id)?\b|模型|\w\/)[^\p{L}\p{N}\n]{0,3}$/iu;
const LONGEST_BEFORE = 16;

/** Whether an error says that it is about the model that was asked for. */
export function namesModel(text: string, model: string | null): boolean {
  if (THIS_MODEL.test(text)) return true;
  if (model === null || model === "") return false;
  const [lowerText, lowerModel] = [text.toLowerCase(), model.toLowerCase()];
  for (let at = lowerText.indexOf(lowerModel); at >= 0; at = lowerText.indexOf(lowerModel, at + 1)) {
    const before = lowerText.slice(Math.max(0, at - LONGEST_BEFORE), at);
    const isWord = !isWordChar(before.at(-1)) && !isWordChar(lowerText[at + lowerModel.length]);
    if (isWord && ABOUT.test(before)) return true;
  }
  return false;
}

interface Word {
  readonly start: number;
  readonly end: number;
  readonly hash: number;
}

function withoutRuns(text: string, sources: readonly Uint8Array[]): string {
  const plain = withoutHtmlEscapes(text);
  const words = [...plain.matchAll(WORD)].map((match): Word => {
    const start = match.index;
    return { start, end: start + match[0].length, hash: wordHash(match[0]) };
  });
  const marked = quotationsIn(plain, words);
  /** Hashes of runs, and of words within quotation marks; those that were found are in `found`. */
  const wanted = new Set<number>();
  for (let index = 0; index < words.length; index += 1) {
    if (index + RUN <= words.length) wanted.add(runHash(words, index));
    if (marked.has(index)) wanted.add(hashAt(words, index));
  }
  if (wanted.size === 0) return text;
  const found = new Set<number>();
  for (const source of sources) findIn(source, wanted, found);
  if (found.size === 0) return text;
  const isQuoted = words.map(() => false);
  for (let index = 0; index + RUN <= words.length; index += 1)
    if (found.has(runHash(words, index))) isQuoted.fill(true, index, index + RUN);
  leaveOwnSentences(plain, words, isQuoted);
  for (const quotation of new Set(marked.values()))
    if (quotation.every((index) => found.has(hashAt(words, index))))
      for (const index of quotation) isQuoted[index] = true;
  const chars = text.split("");
  words.forEach(({ start, end }, index) => {
    if (isQuoted[index] === true) chars.fill(" ", start, end);
  });
  return chars.join("");
}

/** Takes runs that begin a sentence out of what is quoted, unless something was quoted before them in their line. */
function leaveOwnSentences(text: string, words: readonly Word[], isQuoted: boolean[]): void {
  /** What stands before a word, back to the word before it. */
  const before = (index: number) =>
    text.slice(words[index - 1]?.end ?? 0, words[index]?.start ?? text.length);
  let hasQuoted = false;
  let isFirstLine = true;
  for (let index = 0, end = 0; index < words.length; index = Math.max(end, index + 1)) {
    const gap = before(index);
    if (gap.includes("\n")) hasQuoted = isFirstLine = false;
    if (isQuoted[index] !== true) continue;
    for (end = index + 1; isQuoted[end] === true && !before(end).includes("\n");) end += 1;
    // A line that is nothing but words of the request, beside the error's sentence, repeats the request.
    const goesOn = end < words.length && !before(end).includes("\n");
    const isOwn = (index === 0 || SENTENCE_ENDS.test(gap)) && !OPENS.test(gap) && (isFirstLine || goesOn);
    hasQuoted ||= !isOwn;
    if (!hasQuoted) isQuoted.fill(false, index, end);
  }
}

const SENTENCE_ENDS = /\n|[.!?]\s|[。！？]/;
/** What stands before a quotation. */
const OPENS = /[:："'`“„«「([{<>|=*_~-]/;

/** Letters and digits; a sign of the scripts without blanks between words is a word of its own. */
const WORD =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]|(?:(?![\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}])[\p{L}\p{M}\p{N}])+/gu;
const QUOTATION = /"([^"\n]{1,400})"|'([^'\n]{1,400})'|`([^`\n]{1,400})`|[“„«「]([^”“»」\n]{1,400})[”“»」]/g;

/** The words that stand within quotation marks, by their index, each with all of its quotation. */
function quotationsIn(text: string, words: readonly Word[]): Map<number, readonly number[]> {
  const marked = new Map<number, readonly number[]>();
  let at = 0;
  for (const match of text.matchAll(QUOTATION)) {
    const end = match.index + match[0].length;
    while (at < words.length && (words[at]?.start ?? 0) < match.index) at += 1;
    const quotation: number[] = [];
    while (at < words.length && (words[at]?.end ?? Infinity) <= end) {
      quotation.push(at);
      at += 1;
    }
    for (const index of quotation) marked.set(index, quotation);
  }
  return marked;
}

// ------------------------------------------------------------------ hashes

const HASH_START = 0x811c9dc5;

/** FNV-1a over the signs of a word. */
function hashStep(hash: number, sign: number): number {
  return Math.imul(hash ^ sign, 0x01000193);
}

function wordHash(word: string): number {
  let hash = HASH_START;
  for (const char of word) hash = hashStep(hash, signOf(char.codePointAt(0) ?? 0));
  return hash;
}

function hashAt(words: readonly Word[], index: number): number {
  return words[index]?.hash ?? 0;
}

/** Of a run of three. Never the hash of a single word but by chance. */
function mixedRun(first: number, second: number, third: number): number {
  return Math.imul(Math.imul(first, 31) ^ second, 37) ^ third ^ 0x5bd1e995;
}

function runHash(words: readonly Word[], index: number): number {
  return mixedRun(hashAt(words, index), hashAt(words, index + 1), hashAt(words, index + 2));
}

/**
 * Adds those of the wanted hashes that the body holds. Escapes of JSON are undone, and those of forms and addresses.
 */
function findIn(body: Uint8Array, wanted: ReadonlySet<number>, found: Set<number>): void {
  const isLong = body.length > 2 * LOOKED_AT_BYTES;
  const parts = isLong ? [body.subarray(0, LOOKED_AT_BYTES), body.subarray(-LOOKED_AT_BYTES)] : [body];
  for (const part of parts) {
    walk(part, wanted, found);
    const plain = withoutPercents(part);
    if (plain !== part) walk(plain, wanted, found);
  }
}

/** The bytes with `%20` and its like undone; the very same where there are none. */
function withoutPercents(bytes: Uint8Array): Uint8Array {
  const first = bytes.indexOf(0x25 /* % */);
  if (first < 0) return bytes;
  const plain = bytes.slice();
  let length = first;
  for (let at = first; at < bytes.length; at += 1) {
    const code = bytes[at] === 0x25 ? hexAt(bytes, at + 1, 2) : -1;
    plain[length] = code < 0 ? (bytes[at] ?? 0) : code;
    if (code >= 0) at += 2;
    length += 1;
  }
  return length === bytes.length ? bytes : plain.subarray(0, length);
}

/** One walk over bytes of UTF-8. */
function walk(body: Uint8Array, wanted: ReadonlySet<number>, found: Set<number>): void {
  let hash = HASH_START;
  let isWithin = false;
  let previous = 0;
  let beforePrevious = 0;
  const end = () => {
    if (!isWithin) return;
    if (wanted.has(hash)) found.add(hash);
    const run = mixedRun(beforePrevious, previous, hash);
    if (wanted.has(run)) found.add(run);
    beforePrevious = previous;
    previous = hash;
    hash = HASH_START;
    isWithin = false;
  };
  for (let at = 0; at < body.length; at += 1) {
    const byte = body[at] ?? 0;
    let code = byte;
    if (byte >= 0x80) {
      const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
      code = byte & (0x7f >> length);
      for (let part = 1; part < length; part += 1) code = (code << 6) | ((body[at + part] ?? 0) & 0x3f);
      at += length - 1;
    } else if (byte === 0x5c /* \ */) {
      while (body[at + 1] === 0x5c) at += 1; // JSON in JSON, such as the arguments of a tool
      // A sign may stand as \u4f60: some serializers write all but ASCII so.
      code = body[at + 1] === 0x75 /* u */ ? hexAt(body, at + 2, 4) : -1;
      at += code < 0 ? 1 : 5;
    }
    const sign = code < 0 ? 0 : signOf(code);
    const isWhole = sign > 0x2fff && isOwnWord(sign);
    if (sign === 0 || isWhole) end();
    if (sign === 0) continue;
    hash = hashStep(hash, sign);
    isWithin = true;
    if (isWhole) end();
  }
  end();
}

/**
 * What a sign counts as in a word: a letter in lower case, whatever its script, a full-width one as the usual one; 0:
 * it stands between words.
 */
function signOf(code: number): number {
  const usual = code > 0xff00 && code < 0xff5f ? code - 0xfee0 : code;
  if (usual < TABLED) return (signs ??= newSigns())[usual] ?? 0;
  return isMark(usual) ? 0 : usual;
}

/** Up to here go the letters that have two cases, but for a few. */
const TABLED = 0x800;
let signs: Uint16Array | null = null;

function newSigns(): Uint16Array {
  return Uint16Array.from({ length: TABLED }, (_, code) => {
    const char = String.fromCharCode(code);
    if (!/[\p{L}\p{M}\p{N}]/u.test(char)) return 0;
    const lower = char.toLowerCase();
    return lower.length === 1 ? lower.charCodeAt(0) : code;
  });
}

/** Hiragana, Katakana, Han and Hangul. */
function isOwnWord(code: number): boolean {
  return (
    (code >= 0x3041 && code <= 0x30ff && code !== 0x30fb) ||
    (code >= 0x3400 && code <= 0x9fff) ||
    (code >= 0xac00 && code <= 0xd7a3) ||
    code >= 0x20000
  );
}

/** Quotation marks, dashes, brackets, emoji; the full stop of Hindi. */
function isMark(code: number): boolean {
  return (
    (code >= 0x2000 && code <= 0x2bff) ||
    (code >= 0x3000 && code <= 0x303f) ||
    (code >= 0xff00 && code <= 0xffff) ||
    (code >= 0x1f000 && code <= 0x1ffff) ||
    code === 0x964
  );
}

/** So many hexadecimal digits as a number; -1 where they are not there. */
function hexAt(bytes: Uint8Array, at: number, digits: number): number {
  let value = 0;
  for (let index = at; index < at + digits; index += 1) {
    const byte = bytes[index] ?? 0;
    const lower = byte | 0x20;
    const digit =
      byte >= 0x30 && byte <= 0x39 ? byte - 0x30 : lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}
