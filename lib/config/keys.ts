/**
 * What keys a text holds: those of a pool, and those that clients present. Pure.
 *
 * A key is never shown, not even a part of it: a message names it by its place.
 */
import { Secret } from "../core/secret.ts";
import { type KeyOrigin, originOf } from "../providers/catalog.ts";
import {
  faultOfCharacters,
  faultOfItem,
  faultOfKey,
  faultOfParts,
  isTableHead,
  looksLikeKey,
} from "./key-shapes.ts";

export interface ConfiguredKey {
  secret: Secret;
  /** Keys of one account share its limits. */
  account: string | null;
  /** Requests a day; null: no cap of its own. */
  dailyLimit: number | null;
  /** Whose key it is by how it begins; null: it begins like nobody's we know. */
  origin: KeyOrigin | null;
}

/** A key that a client presents. */
export interface ClientKey {
  /** null: not named. */
  name: string | null;
  secret: Secret;
}

/** One item of a list of keys, and the words that name it: `API_KEYS: key 2`. */
export interface WrittenKey {
  text: string;
  place: string;
  /** What was seen to be wrong with it already. */
  fault?: string;
}

/** The keys that were understood, their texts (to compare with other keys), and what is wrong. */
export interface KeyList<Key> {
  keys: Key[];
  /** The words that name each of `keys`, in the same order. */
  places: string[];
  texts: Set<string>;
  problems: string[];
  warnings: string[];
}

/** Items separated by commas or white space. */
export function splitKeys(name: string, text: string): WrittenKey[] {
  const lines = linesOf(text);
  const items = lines.flatMap((line, index) => itemsOf(line).map((text) => ({ text, line: index + 1 })));
  const head = tableHead(name, lines);
  if (head !== null) return [head];
  return items.map(({ text, line }, index) => ({
    text,
    place: `${name}: key ${index + 1}${lines.length > 1 ? ` (in line ${line})` : ""}`,
  }));
}

/** One key a line, `#` comments. Several on a line are understood too. */
export function splitKeyFile(name: string, text: string): WrittenKey[] {
  const lines = linesOf(text.replace(/^\uFEFF/, "")).map((line) => line.replace(/(?:^|\s)#.*$/s, ""));
  const head = tableHead(name, lines);
  if (head !== null) return [head];
  return lines.flatMap((line, index) =>
    itemsOf(line).map((text, ofLine, all) => ({
      text,
      place: `${name}: ${all.length > 1 ? `key ${ofLine + 1}` : "the key"} in line ${index + 1}`,
    })),
  );
}

function linesOf(text: string): string[] {
  return text.split(/\r\n|\n|\r/);
}

function itemsOf(line: string): string[] {
  return line.split(/[\s,]+/).filter((item) => item !== "");
}

/** The first line, where it names the columns of a table: then nothing tells which column is which. */
function tableHead(name: string, lines: readonly string[]): WrittenKey | null {
  const index = lines.findIndex((line) => line.trim() !== "");
  const line = lines[index] ?? "";
  // A word such as key, with nothing below it, is a key that somebody made up.
  const hasRows = lines.slice(index + 1).some((row) => row.trim() !== "");
  if (!isTableHead(line) || (!hasRows && itemsOf(line).length < 2)) return null;
  const fault =
    "names the columns of a table (CSV). Write one key a line, as account@key:daily, of which only the key is needed.";
  return { text: line, place: `${name}: line ${index + 1}`, fault };
}

/** So many keys with the same fault are named one by one. */
export const MOST_NAMED = 3;

/** Reads `[account@]key[:daily]`. The same key twice is used once. */
export function readPoolKeys(items: readonly WrittenKey[]): KeyList<ConfiguredKey> {
  const list: KeyList<ConfiguredKey> = { keys: [], places: [], texts: new Set(), problems: [], warnings: [] };
  const placeOf = new Map<string, string>();
  const faults = new Map<string, number>();
  for (const { text, place, fault } of items) {
    const parts = fault ?? splitPoolKey(text);
    if (typeof parts === "string") {
      const count = (faults.get(parts) ?? 0) + 1;
      faults.set(parts, count);
      if (count <= MOST_NAMED) list.problems.push(`${place} ${parts}`);
      continue;
    }
    const first = placeOf.get(parts.key);
    if (first !== undefined) {
      list.warnings.push(`${place} is the same as ${first}. It is used once, as the first one says.`);
      continue;
    }
    placeOf.set(parts.key, place);
    list.texts.add(parts.key);
    const { account, dailyLimit } = parts;
    list.places.push(place);
    list.keys.push({ secret: new Secret(parts.key), account, dailyLimit, origin: originOf(parts.key) });
  }
  for (const [fault, count] of faults) {
    if (count > MOST_NAMED) list.problems.push(`${count - MOST_NAMED} more like that: each ${fault}`);
  }
  return list;
}

interface PoolKeyParts {
  account: string | null;
  key: string;
  dailyLimit: number | null;
}

/** The parts, or what is wrong with them. */
function splitPoolKey(text: string): PoolKeyParts | string {
  const noKey = faultOfItem(text);
  if (noKey !== null) return noKey;
  // An account may be a mail address, so the key begins after the last @.
  const at = text.lastIndexOf("@");
  const account = at === -1 ? null : text.slice(0, at);
  if (account === "") return "has nothing before the @. Write account@key, or remove the @.";
  let key = text.slice(at + 1);
  let dailyLimit: number | null = null;
  const colon = key.lastIndexOf(":");
  const suffix = colon === -1 ? null : key.slice(colon + 1);
  // A key may hold a colon itself; only a suffix that is empty or reads as a short number is meant as a limit.
  if (suffix !== null && /^(?:|\d+|[-+]?[\d.]\S{0,7})$/.test(suffix)) {
    dailyLimit = Number(/^\d+$/.test(suffix) ? suffix : NaN);
    if (!Number.isSafeInteger(dailyLimit) || dailyLimit < 1) {
      return "has a daily limit that is not a whole number from 1 up. Write key:50, or remove the colon.";
    }
    key = key.slice(0, colon);
  }
  // An account is shown in /health. Written the wrong way round (key@account) it would be the key.
  if (account !== null && account.length > key.length && looksLikeKey(account)) {
    return "seems to have the key before the @. Write account@key.";
  }
  if (key === "") return "is empty. Write account@key:daily, of which only the key is needed.";
  const fault =
    faultOfKey(key) ?? faultOfParts(key) ?? (account === null ? null : faultOfCharacters(account));
  return fault ?? { account, key, dailyLimit };
}

/** Below this a client key can be guessed. */
const SHORTEST_CLIENT_KEY = 8;

/** Reads `key` and `name=key`, separated by commas. `poolKeys`: keys that no client should know. */
export function readClientKeys(
  name: string,
  text: string,
  poolKeys: ReadonlySet<string>,
): KeyList<ClientKey> {
  const list: KeyList<ClientKey> = { keys: [], places: [], texts: new Set(), problems: [], warnings: [] };
  const items = text.split(",").map((item) => item.trim());
  for (const [index, item] of items.filter((item) => item !== "").entries()) {
    const place = `${name}: key ${index + 1}`;
    const client = splitClientKey(item);
    const fault = client.key.toLowerCase() === "off" ? "is off, which stands alone." : faultOfKey(client.key);
    if (fault !== null) {
      list.problems.push(`${place} ${fault}`);
      continue;
    }
    if (list.texts.has(client.key)) {
      list.warnings.push(`${place} stands there twice. The first one counts.`);
      continue;
    }
    if (client.key.length < SHORTEST_CLIENT_KEY) {
      list.warnings.push(
        `${place} is shorter than ${SHORTEST_CLIENT_KEY} characters and can be guessed. Use a longer one.`,
      );
    }
    if (poolKeys.has(client.key)) {
      list.warnings.push(
        `${place} is one of the pool's own keys. Clients should not know those: use another one.`,
      );
    }
    list.texts.add(client.key);
    list.places.push(place);
    list.keys.push({ name: client.name, secret: new Secret(client.key) });
  }
  return list;
}

/** A key in base64 may end in `=`: only with something else behind the first `=` is what precedes it a name. */
function splitClientKey(text: string): { name: string | null; key: string } {
  const [, name, key] = /^([A-Za-z0-9_.-]+)=(.*[^=].*)$/s.exec(text) ?? [];
  return name === undefined || key === undefined ? { name: null, key: text } : { name, key: key.trim() };
}

/** Below this a password can be found by trying, however long each wrong one delays the next. */
const SHORTEST_PASSWORD = 8;

/** Passwords that stand in examples, or are tried first. */
const FIRST_GUESSES =
  /^(?:<[^<>]*>|(?:change|replace)[-_ ]?(?:me|this)\W*|(?:(?:my|your|the|admin|secret|keywheel)[-_ ]?)*pass(?:word|wort)[\W\d_]*|(.)\1*|12345678\d*)$/i;

/** What is wrong with a password of the operator, and what to do, as the end of a sentence; null: nothing. */
export function faultOfPassword(
  password: string,
  known: { poolKeys: ReadonlySet<string>; clientKeys: ReadonlySet<string> },
): string | null {
  if ([...password].length < SHORTEST_PASSWORD) {
    return `is shorter than ${SHORTEST_PASSWORD} characters and can be guessed. Use a longer one`;
  }
  if (/[\x00-\x1f\x7f]/.test(password)) return "holds a control character. Use one that can be typed";
  if (FIRST_GUESSES.test(password)) return "is one that everybody would try. Use one of your own";
  if (known.poolKeys.has(password)) return "is one of the pool's own keys. Use another one";
  return known.clientKeys.has(password) ? "is one of the keys in PROXY_API_KEY. Use another one" : null;
}
