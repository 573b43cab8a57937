/**
 * What keys look like, and what is plainly none; and how a text that may hold one is shown in a message. Pure.
 */

/** How providers begin their keys. */
const KEY_PREFIX =
  /(?<![A-Za-z0-9])(?:sk-|nvapi-|gsk_|csk-|xai-|pplx-|hf_|fw_|ms-|gh[pousr]_|github_pat_|AIza|ya29\.)\S{4}/i;

/** Such a beginning, or a long run in which letters and digits are mixed. */
export function looksLikeKey(text: string): boolean {
  const runs = text.match(/[A-Za-z0-9_-]{20,}/g) ?? [];
  return KEY_PREFIX.test(text) || runs.some((run) => /\d/.test(run) && /[A-Za-z]/.test(run));
}

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

/** What the documentation of other programs, and ours, writes where a key belongs. */
const PLACEHOLDER =
  /\.\.\.|[<>]|(?:^|[-_])your[-_]|key[-_]here|change[-_]?me|replace[-_]?(?:me|this|with)|placeholder|^(?:[a-z]+[-_])*[x*]{3,}$/i;

/** What is wrong with a key, or null. A placeholder is looked for only where a key could be one otherwise. */
export function faultOfKey(key: string): string | null {
  if (/^["'`]|["'`]$/.test(key)) {
    return "begins or ends with a quotation mark. Remove it: some tools (docker --env-file) pass quotation marks on.";
  }
  const fault = faultOfCharacters(key);
  if (fault !== null) return fault;
  if (PLACEHOLDER.test(key))
    return "is a placeholder. Put a real key in its place; keywheel --demo needs none.";
  return null;
}

export function faultOfCharacters(text: string): string | null {
  if (/^[\x21-\x7e]+$/.test(text)) return null;
  return "holds a space, a control character or a letter outside ASCII, which no key has. Copy it again.";
}
