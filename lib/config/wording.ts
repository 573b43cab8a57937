/**
 * How what a person wrote is named back to them: shown without giving a credential away, and with the word
 * they probably meant. Pure.
 */

/** Longer values are cut: a message is one line. */
const LONGEST_SHOWN = 60;

/**
 * `text` as it may stand in a message. A key that was put into the wrong variable, and anything that may hold
 * a password (`user:password@host`, a query), is not shown, not even a part of it.
 */
export function shown(text: string): string {
  if (looksLikeKey(text)) return "[hidden: it looks like a key]";
  if (/[@?]/.test(text)) return "[hidden: it may hold a credential]";
  const cut = text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}…` : text;
  return /^[\x21-\x7e…]+$/.test(cut) ? cut : JSON.stringify(cut);
}

/** A path as it may stand in a message: whole, unless it is none and may be the key itself. */
export function shownPath(path: string): string {
  const isPath = /^(?:~|\.{0,2})[/\\]|^[A-Za-z]:[/\\]/.test(path);
  return isPath ? path.replace(/[\x00-\x1f\x7f]/g, "?") : shown(path);
}

/** `a, b or c`. There is at least one word. */
export function alternatives(words: readonly string[]): string {
  const last = words.at(-1) ?? "";
  return words.length < 2 ? last : `${words.slice(0, -1).join(", ")} or ${last}`;
}

/** How providers begin their keys. */
const KEY_PREFIX =
  /(?<![A-Za-z0-9])(?:sk-|nvapi-|gsk_|csk-|xai-|pplx-|hf_|fw_|ms-|gh[pousr]_|github_pat_|AIza|ya29\.)\S{4}/i;

/** Such a beginning, or a long run in which letters and digits are mixed. */
export function looksLikeKey(text: string): boolean {
  const runs = text.match(/[A-Za-z0-9_-]{20,}/g) ?? [];
  return KEY_PREFIX.test(text) || runs.some((run) => /\d/.test(run) && /[A-Za-z]/.test(run));
}

/** Letters and digits only, in one case: `Api-Keys` and `API_KEYS` are the same word written in two ways. */
export function folded(word: string): string {
  return word.replace(/[^A-Za-z0-9]/g, "").toUpperCase();
}

/** Words that may be meant, by their folded form. */
export type Vocabulary = ReadonlyMap<string, string>;

export function vocabularyOf(words: readonly string[]): Vocabulary {
  return new Map(words.map((word) => [folded(word), word]));
}

const MOST_SLIPS = 2;

/** How far apart two words are that `nearest` still takes for one another: the shorter, the closer. */
export function slipsAllowed(word: string): number {
  if (word.length < 6) return 0;
  return word.length < 8 ? 1 : MOST_SLIPS;
}

/**
 * The known word that `written` was probably meant to be, or null. Of several equally near the first.
 * `slips`: how many slips of the finger (at most 2) may lie between the two, by the length of the known word. Two
 * neighbours changed places (`PROT`) and a different spelling of the same letters always count.
 */
export function nearest(
  written: string,
  known: Vocabulary,
  slips: (word: string) => number = slipsAllowed,
): string | null {
  const same = known.get(folded(written));
  if (same !== undefined) return same;
  let best: string | null = null;
  let bestDistance = Infinity;
  for (const word of known.values()) {
    // Most words are told apart by their length alone, and this runs for every variable at every start.
    if (Math.abs(word.length - written.length) > MOST_SLIPS) continue;
    const allowed = slips(word);
    const distance = distanceBetween(written, word, Math.max(1, allowed));
    const near = distance <= allowed || (distance === 1 && isTransposition(written, word));
    if (near && distance < bestDistance) [best, bestDistance] = [word, distance];
  }
  return best;
}

function isTransposition(a: string, b: string): boolean {
  return a.length === b.length && [...a].sort().join("") === [...b].sort().join("");
}

/**
 * Damerau-Levenshtein distance, in its "optimal string alignment" form: letters added, dropped, replaced, or two
 * neighbours that changed places. Infinity where it is more than `most`, which is soon found out: only cells
 * that near to the diagonal are looked at, and every start compares all names with all settings.
 */
export function distanceBetween(a: string, b: string, most: number): number {
  if (Math.abs(a.length - b.length) > most) return Infinity;
  let beforeLast: number[] = [];
  let last: number[] = [];
  for (let j = 0; j <= most; j += 1) last[j] = j;
  for (let i = 1; i <= a.length; i += 1) {
    const row: number[] = [];
    let least = Infinity;
    if (i <= most) least = row[0] = i;
    for (let j = Math.max(1, i - most); j <= Math.min(b.length, i + most); j += 1) {
      let cell = (last[j - 1] ?? Infinity) + (a.charCodeAt(i - 1) === b.charCodeAt(j - 1) ? 0 : 1);
      cell = Math.min(cell, (last[j] ?? Infinity) + 1, (row[j - 1] ?? Infinity) + 1);
      if (i > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cell = Math.min(cell, (beforeLast[j - 2] ?? Infinity) + 1);
      }
      row[j] = cell;
      least = Math.min(least, cell);
    }
    if (least > most) return Infinity;
    [beforeLast, last] = [last, row];
  }
  const distance = last[b.length] ?? Infinity;
  return distance <= most ? distance : Infinity;
}
