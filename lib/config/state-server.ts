/**
 * `STATE=redis://…`: the server by which several proxies are one pool, and the name of that pool.
 * Pure.
 */
import { urlOrNull } from "../core/language.ts";
import { Secret } from "../core/secret.ts";
import type { Parser } from "./parsers.ts";

/** A Redis or Valkey server. */
export interface StateServer {
  /** As Bun's client takes it; it may hold a password. */
  readonly url: Secret;
  /** The same for people, without a password. */
  readonly shown: string;
  /** Number of the database. */
  readonly database: number;
  /** Names the pool there. */
  readonly prefix: string;
}

export const STATE_PREFIX: Parser<string> = {
  says: "Use letters, digits, dots, dashes and underscores, 64 at most",
  read: (text) => (/^[A-Za-z0-9._-]{1,64}$/.test(text) ? text : null),
};

const EXAMPLES = "Use redis://host:6379, rediss://user:password@host:6380/0 or unix:///run/redis/redis.sock";
/** Databases of a server have numbers; 16 is what most have. */
const MOST_DATABASES = 10_000;

/** Whether a `STATE` is an address rather than the path of a file. */
export function isServerAddress(text: string): boolean {
  return /^(?:redis|rediss|valkey|valkeys|unix)(?:[+-][a-z]+)*:/i.test(text);
}

/** The server of an address, or the sentence that says what is wrong with it, which shows no part of it. */
export function parseStateServer(text: string, prefix: string): StateServer | string {
  const [, scheme = "", rest = ""] = /^([a-z+-]+):(.*)$/is.exec(text) ?? [];
  if (/sentinel|cluster/i.test(scheme) || /^\/\/[^/?#]*,/.test(rest))
    return "names Sentinel, a cluster or several servers, which cannot share a pool: exact limits need one server. Use the address of one server, or of the proxy or name that always leads to its primary";
  if (!/^\/\/./.test(rest)) return `is not an address. ${EXAMPLES}`;
  if (/[\s<>{}]|\.\.\./.test(text)) return `has a placeholder or a space in it. ${EXAMPLES}`;
  switch (scheme.toLowerCase()) {
    case "redis":
    case "valkey":
      return overNetwork("redis", rest, prefix);
    case "rediss":
    case "valkeys":
      return overNetwork("rediss", rest, prefix);
    case "unix":
      return overSocket(rest, prefix);
    default:
      return `begins with ${scheme}://, which is not known. ${EXAMPLES}`;
  }
}

function overNetwork(scheme: string, rest: string, prefix: string): StateServer | string {
  const url = urlOrNull(`${scheme}:${rest}`);
  if (url === null || url.hostname === "" || /@.*@/.test(rest) || url.hash !== "") return UNREADABLE;
  const database = databaseOf(url.pathname.slice(1), url.searchParams);
  if (database === null) return `has no number of a database after the host. ${EXAMPLES}`;
  const { username, password, host } = url;
  if (!canDecode(username + password)) return UNREADABLE;
  const credentials = username === "" && password === "" ? "" : `${username}:${password}@`;
  return {
    url: new Secret(`${scheme}://${credentials}${host}`), // the database is chosen once connected, to hear a refusal
    shown: `${scheme}://${host}/${database}`,
    database,
    prefix,
  };
}

const UNREADABLE = `cannot be read. ${EXAMPLES}; in a user name or password write @ as %40, : as %3A, / as %2F, # as %23 and % as %25`;

/** `unix:///path`, `unix://:password@/path?db=1`. */
function overSocket(rest: string, prefix: string): StateServer | string {
  const [, credentials = "", path = "", query = ""] =
    /^\/\/(?:([^/@]*)@)?(\/[^?#]*)(?:\?([^#]*))?$/.exec(rest) ?? [];
  if (path === "" || path.endsWith("/") || !canDecode(credentials) || !canDecode(path)) return UNREADABLE;
  const database = databaseOf("", new URLSearchParams(query));
  if (database === null) return `has no number after db=. ${EXAMPLES}`;
  const access =
    credentials === "" ? "" : `${credentials.includes(":") ? credentials : `${credentials}:`}@localhost`;
  return {
    url: new Secret(`redis+unix://${access}${path}`), // Bun 1.4.5 reads a password only where a host follows
    shown: `unix://${path}${database === 0 ? "" : `?db=${database}`}`,
    database,
    prefix,
  };
}

/** In the path or as `?db=`; null: it is no number. */
function databaseOf(path: string, query: URLSearchParams): number | null {
  const names = [...query.keys()];
  if (names.some((name) => name !== "db")) return null;
  const text = path === "" ? (query.get("db") ?? "0") : path.replace(/\/$/, "");
  const database = Number(text);
  return /^\d{1,5}$/.test(text) && database < MOST_DATABASES ? database : null;
}

function canDecode(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}
