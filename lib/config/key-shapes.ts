/**
 * What keys look like, and what is plainly none; and how a text that may hold one is shown in a message. Pure.
 *
 * No message shows a key or a part of one. Every pattern here reads a text in one pass.
 */
import { PROVIDERS } from "../providers/catalog.ts";

let keyPrefix: RegExp | null = null;

/** How keys begin: at the providers of the catalogue, and `sk-` at many others. */
function keyBeginning(): RegExp {
  if (keyPrefix !== null) return keyPrefix;
  const known = Object.values(PROVIDERS).flatMap(({ keyPrefixes = [] }) => keyPrefixes);
  const all = [...new Set(["sk-", ...known])].map((prefix) => prefix.replace(/\W/g, "\\$&"));
  keyPrefix = new RegExp(`(?<![A-Za-z0-9])(?:${all.join("|")})\\S{4}`, "i");
  return keyPrefix;
}

/** Such a beginning, or a long run in which letters and digits are mixed. */
export function looksLikeKey(text: string): boolean {
  const runs = text.match(/[A-Za-z0-9_-]{20,}/g) ?? [];
  return keyBeginning().test(text) || runs.some((run) => /\d/.test(run) && /[A-Za-z]/.test(run));
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

// ---------------------------------------------------------------------------- what is plainly no key

/** What the documentation of other programs, and ours, writes where a key belongs. */
const PLACEHOLDER =
  /\.\.\.|[<>]|(?:^|[-_])your[-_]|key[-_]here|change[-_]?me|replace[-_]?(?:me|this|with)|placeholder|^(?:insert|paste|enter|put)[-_]|^(?:my[-_]?)?(?:api|secret|access)[-_]?key$|^(?:[a-z]+[-_])*[x*]{3,}(?:[-_][x*]{3,})*$/i;

/** What is wrong with a key of a client or of a provider, or null. */
export function faultOfKey(key: string): string | null {
  if (/^["'`]|["'`]$/.test(key)) {
    return "begins or ends with a quotation mark. Remove it: some tools (docker --env-file) pass quotation marks on.";
  }
  const fault = faultOfCharacters(key);
  if (fault !== null) return fault;
  // Only where a key could be one otherwise.
  if (PLACEHOLDER.test(key)) {
    return "is a placeholder. Put a real key in its place; keywheel --demo needs none.";
  }
  return null;
}

/** Characters outside ASCII that get between keys and programs, and what to do about each. */
const STRANGE_CHARACTERS: readonly (readonly [RegExp, string])[] = [
  [/[，、､،﹐；﹔]/, "a comma or semicolon that is no plain one. Write a plain comma (,) between keys."],
  [/[“”„‟‘’‚‛«»‹›「」『』＂＇]/, "a typographic quotation mark. Remove it, and write keys without any."],
  [/[‐‑‒–—―−]/, "a dash where keys have a hyphen (-): a word processor changed it. Copy the key again."],
  [/[…•●∗＊]/, "what stands for hidden characters. Copy the whole key: most providers show it only once."],
  [
    /[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]/,
    "a character that cannot be seen. Copy the key again, or type its ends anew.",
  ],
  [/[！-～]/, "a full-width letter or sign. Write it in ASCII."],
];

/** What is wrong with the characters of a key or an account, or null. */
export function faultOfCharacters(text: string): string | null {
  if (/^[\x21-\x7e]+$/.test(text)) return null;
  const strange = STRANGE_CHARACTERS.find(([characters]) => characters.test(text));
  const which = strange === undefined ? "" : ` This one holds ${strange[1]}`;
  return `holds a space, a control character or a letter outside ASCII, which no key has.${which || " Copy it again."}`;
}

/** Longer than the longest token in use; a header of this length is refused by most servers. */
const LONGEST_KEY = 8192;

const ALONE = "Write the key alone";

/**
 * What gives away that one item of a list, as it is written, is no `[account@]key[:daily]`. The first that fits counts.
 */
const NO_KEY: readonly (readonly [RegExp, string])[] = [
  [/^#|^\/\/(?![\w-])/, "begins a comment. Comments may stand in a file of keys (API_KEYS_FILE), not here."],
  [/^bearer$/i, `is a word of the Authorization header. ${ALONE}, without Bearer before it.`],
  [/^(?:bearer|basic)(?:%20|[:=+])/i, `begins with Bearer, which belongs to a header. ${ALONE}.`],
  [/^(?:export|setx)$|^\$env:/i, `is a command of the shell. ${ALONE}, without the name of a variable.`],
  [
    /^(?:null|undefined|nan)$|^\[object$/i,
    "is what a program writes for nothing. Whoever fills this in has no key.",
  ],
  [
    /^\$\{?\w+\}?$|^\$\(|^%\w+%$/,
    "is the name of a variable, and nothing is expanded here. Put the key itself.",
  ],
  [
    /^-{4,}/,
    "is the beginning of a PEM or SSH file, which holds no API key. Copy the key from the provider's page.",
  ],
  [
    /^(?:[-=:*|>+]|-{2,3}|\d{1,3}[.)])$/,
    `is a sign of a list or of an assignment. ${ALONE}, with commas between keys.`,
  ],
  [
    /^["'`]?[A-Za-z_][\w.-]*["'`]?=+[^=]/,
    `has a name and = before the key (NAME=key). ${ALONE}; a provider's own keys go into NAME_API_KEYS.`,
  ],
  [
    /^["'`]?(?:[\w-]*[-_])?(?:api[-_]?keys?|keys?|tokens?|secrets?|authorization|bearer|password|account|name)["'`]?:(?!\d)/i,
    `has a name and : before the key. ${ALONE}.`,
  ],
  [
    /^[a-z][a-z0-9+.-]*:\/\/|^(?:[a-z0-9-]+\.)+[a-z]{2,}\/(?:v\d|api|openai)/i,
    "is an address, not a key. Addresses go into TARGET_BASE_URL or NAME_BASE_URL.",
  ],
  [
    /^(?:\/(?:run|etc|home|root|var|opt|mnt|data|usr|tmp|srv)\/|~\/|\.{1,2}\/|[A-Za-z]:\\|file:)|\.(?:txt|env|csv|jsonl?|ya?ml|conf|keys)$/i,
    "is the path of a file, not a key. Paths go into API_KEYS_FILE.",
  ],
  [/;/, "holds a semicolon. Write a comma between two keys."],
  [
    /^\$?[[{(]|^[^[{(]*[\])}]$/,
    `holds a bracket. ${ALONE}: no JSON, no list in brackets, only commas between keys.`,
  ],
  [/.["'`]./, `holds a quotation mark. ${ALONE}, without quotation marks, and a comma between two keys.`],
  [/\\[nrt]/, "holds \\n or \\t as text. Write a comma between two keys."],
  [/\*{3}|[^*]\*{2,}$/, "is masked (***). Copy the whole key: most providers show it only once."],
];

/** What shows that an item of a list of provider keys, as it is written, is none; null: it may be one. */
export function faultOfItem(item: string): string | null {
  if (item.length > LONGEST_KEY)
    return `is longer than ${LONGEST_KEY} characters, which no key is. Write a comma between two keys.`;
  const fault = NO_KEY.find(([shape]) => shape.test(item))?.[1];
  if (fault !== undefined) return fault;
  if (/^[^@\s]+@(?:[a-z0-9-]+\.)+(?:com|org|net|io|dev|de|fr|uk|cn|ru|jp|edu|gov|me|co|ai|eu)$/i.test(item)) {
    return "is a mail address without a key. Write the key behind it: me@example.com@key.";
  }
  return null;
}

/** What shows that a text where a key should be is more than one, or a key and its name; null: it may be a key. */
export function faultOfParts(key: string): string | null {
  const beginning = keyBeginning();
  const [before, ...behind] = key.split(/[|/+&:]/);
  if (beginning.test(before ?? "") && behind.some((part) => beginning.test(part))) {
    return "seems to be two keys with a sign between them. Write a comma between two keys.";
  }
  const colon = key.indexOf(":");
  if (colon === -1) return null;
  const [head, tail] = [key.slice(0, colon), key.slice(colon + 1)];
  if (beginning.test(head) && /^(?:sk-|nvapi-|gsk_|csk-|xai-|AIza|hf_|pplx-|fw_)/.test(head)) {
    return "has a : behind it with what is no number. Write account@key, and key:50 for 50 requests a day.";
  }
  return beginning.test(tail) && !beginning.test(head)
    ? "has a name and : before it. Write account@key, where account is the name."
    : null;
}

const COLUMNS =
  /^(?:api[-_ ]?keys?|keys?|secrets?|tokens?|values?|names?|labels?|accounts?|users?|e-?mails?|providers?|services?|ids?|limits?|daily(?:[-_ ]?limit)?|notes?|status|created(?:[-_ ]?at)?|models?)$/i;

/** Whether this is the first line of a table: two names of columns or more, or one that is plainly a column of keys. */
export function isTableHead(line: string): boolean {
  const cells = line.split(/[,;\t|]/).map((cell) => cell.trim().replace(/^["']|["']$/g, ""));
  const filled = cells.filter((cell) => cell !== "");
  if (filled.length === 0 || !filled.every((cell) => COLUMNS.test(cell))) return false;
  return filled.length > 1 || /^(?:api[-_ ]?keys?|keys?|tokens?|secrets?)$/i.test(filled[0] ?? "");
}
