/**
 * What keys a text holds: those of a pool, and those that clients present. Pure.
 *
 * A key is never shown, not even a part of it: a message names it by its place.
 */
import { Secret } from "../core/secret.ts";
import { faultOfCharacters, faultOfKey, looksLikeKey } from "./key-shapes.ts";

export interface ConfiguredKey {
  secret: Secret;
  /** Keys of one account share its limits. */
  account: string | null;
  /** Requests a day; null: no cap of its own. */
  dailyLimit: number | null;
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
}

/** The keys that were understood, their texts (to compare with other keys), and what is wrong. */
export interface KeyList<Key> {
  keys: Key[];
  texts: Set<string>;
  problems: string[];
  warnings: string[];
}

/** Items separated by commas or white space. */
export function splitKeys(name: string, text: string): WrittenKey[] {
  return text
    .split(/[\s,]+/)
    .filter((item) => item !== "")
    .map((item, index) => ({ text: item, place: `${name}: key ${index + 1}` }));
}

/** One key a line, `#` comments. Several on a line are understood too. */
export function splitKeyFile(name: string, text: string): WrittenKey[] {
  const lines = text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/);
  return lines.flatMap((line, index) =>
    splitKeys(name, line.replace(/(?:^|\s)#.*$/s, "")).map((item, ofLine, all) => ({
      text: item.text,
      place: `${name}: ${all.length > 1 ? `key ${ofLine + 1}` : "the key"} in line ${index + 1}`,
    })),
  );
}

/** Reads `[account@]key[:daily]`. The same key twice is used once. */
export function readPoolKeys(items: readonly WrittenKey[]): KeyList<ConfiguredKey> {
  const list: KeyList<ConfiguredKey> = { keys: [], texts: new Set(), problems: [], warnings: [] };
  const placeOf = new Map<string, string>();
  for (const { text, place } of items) {
    const parts = splitPoolKey(text);
    if (typeof parts === "string") {
      list.problems.push(`${place} ${parts}`);
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
    list.keys.push({ secret: new Secret(parts.key), account, dailyLimit });
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
  const fault = faultOfKey(key) ?? (account === null ? null : faultOfCharacters(account));
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
  const list: KeyList<ClientKey> = { keys: [], texts: new Set(), problems: [], warnings: [] };
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
