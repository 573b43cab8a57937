/**
 * What may stand in a setting: a rule reads the text, and says in a sentence what it would have understood. Pure.
 */
import { urlOrNull } from "../core/language.ts";
import { looksLikeKey } from "./key-shapes.ts";

/** How one kind of setting is read. */
export interface Parser<T> {
  /** What to write instead: completes a message, so it begins with a capital and has no full stop. */
  says: string;
  /** null: not understood. */
  read(text: string): T | null;
}

/** `least` to `most`, both included. */
export function wholeNumber(least: number, most: number): Parser<number> {
  return {
    says: `Use a whole number from ${least} ${most >= 10_000_000 ? "up" : `to ${most}`}`,
    read(text) {
      const number = /^\d+$/.test(text) ? Number(text) : NaN;
      return number >= least && number <= most ? number : null;
    },
  };
}

/** Ten years: a time so far away can still be printed as a date. */
const LONGEST_SEC = 315_360_000;

/** Seconds as they are written, milliseconds as they are used. */
export const SECONDS: Parser<number> = {
  says: "Use seconds from 0 up, such as 60 or 0.5, without a unit",
  read(text) {
    const sec = decimal(text);
    return sec !== null && sec <= LONGEST_SEC ? Math.round(sec * 1000) : null;
  },
};

const BYTES_PER_MB = 1024 * 1024;

/** Megabytes (of 1024 × 1024) as they are written, bytes as they are used. */
export const MEGABYTES: Parser<number> = {
  says: "Use megabytes, more than 0 and at most 65536, such as 32 or 0.5, without a unit",
  read(text) {
    const bytes = Math.round((decimal(text) ?? 0) * BYTES_PER_MB);
    return bytes >= 1 && bytes <= 65_536 * BYTES_PER_MB ? bytes : null;
  },
};

function decimal(text: string): number | null {
  return /^(?:\d+(?:\.\d*)?|\.\d+)$/.test(text) ? Number(text) : null;
}

/** One of a few words, in any case. */
export function oneOf<const Word extends string>(words: readonly Word[]): Parser<Word> {
  return {
    says: `Use ${alternatives(words)}`,
    read: (text) => words.find((word) => word === text.toLowerCase()) ?? null,
  };
}

export const YES_OR_NO: Parser<boolean> = {
  says: "Use true or false",
  read(text) {
    if (/^(?:true|yes|on|1)$/i.test(text)) return true;
    return /^(?:false|no|off|0)$/i.test(text) ? false : null;
  },
};

/** Each key remembers that many requests; no provider allows so many, and who wants no limit writes off. */
const MOST_RPM = 100_000;

/** Requests per key in any 60 s. */
export const RPM: Parser<number | "auto" | "off"> = {
  says: `Use a whole number from 1 to ${MOST_RPM}, auto or off`,
  read: (text) => oneOf(["auto", "off"]).read(text) ?? wholeNumber(1, MOST_RPM).read(text),
};

/** Requests a day; `off` lifts, for one provider, a limit that is set for all. */
export const DAILY_LIMIT: Parser<number | "off"> = {
  says: "Use a whole number from 1 up, or off",
  read: (text) => oneOf(["off"]).read(text) ?? wholeNumber(1, Number.MAX_SAFE_INTEGER).read(text),
};

export const TIMEZONE: Parser<string> = {
  says: "Use the name of an IANA time zone, such as UTC or America/Los_Angeles",
  read(text) {
    try {
      return new Intl.DateTimeFormat("en", { timeZone: text }).resolvedOptions().timeZone;
    } catch {
      return null; // RangeError is how Intl says that it knows no such zone.
    }
  },
};

/** A client may send this list in a header, so what it costs is bounded. */
const LONGEST_STATUS_LIST = 1000;

export const STATUS_LIST: Parser<ReadonlySet<number>> = {
  says: "Use statuses and ranges between 100 and 599, separated by commas, such as 429,500,502-504",
  read: parseStatusList,
};

/** Statuses and ranges, both ends included (`429,500,502-504`), or null where the text is anything else. */
export function parseStatusList(text: string): ReadonlySet<number> | null {
  if (text.length > LONGEST_STATUS_LIST) return null;
  const statuses = new Set<number>();
  for (const item of text.split(",").map((item) => item.trim())) {
    if (item === "") continue; // RFC 9110 5.6.1: empty elements of a list do not count.
    const [, first, last = first] = /^(\d{3})(?:\s*-\s*(\d{3}))?$/.exec(item) ?? [];
    const [from, to] = [Number(first), Number(last)];
    if (!(from >= 100 && from <= to && to <= 599)) return null;
    for (let status = from; status <= to; status += 1) statuses.add(status);
  }
  return statuses.size === 0 ? null : statuses;
}

/** Browser origins, as browsers write them in `Origin`. */
export const ORIGINS: Parser<string[]> = {
  says: "Use origins (scheme://host or scheme://host:port, no path), separated by commas, or a single *",
  read(text) {
    const items = text.split(/[\s,]+/).filter((item) => item !== "");
    if (items.length === 1 && items[0] === "*") return ["*"];
    const origins = items.map(parseOrigin).filter((origin) => origin !== null);
    return origins.length === items.length && items.length > 0 ? [...new Set(origins)] : null;
  },
};

/** chrome-extension:// and app:// are origins too, though the URL standard gives them none ("null"). */
function parseOrigin(text: string): string | null {
  if (!/^[a-z][a-z0-9+.-]*:\/\/[^\s/?#@*\\]+\/?$/i.test(text)) return null;
  const url = urlOrNull(text);
  if (url === null) return null;
  return /^https?:$/.test(url.protocol) ? url.origin : text.replace(/\/$/, "").toLowerCase();
}

/** The kernel's `sun_path`, without the final zero. */
const LONGEST_SOCKET_PATH_BYTES = 107;

/** What `HOST` may say. */
export type Host = { kind: "tcp"; hostname: string } | { kind: "unix"; path: string };

export const HOST: Parser<Host> = {
  says: "Use an address or a host name without scheme and port, such as 127.0.0.1, or unix:/path/of/socket",
  read(text) {
    if (text.startsWith("unix:")) {
      const path = text.slice("unix:".length);
      const fits = path.startsWith("/") && Buffer.byteLength(path) <= LONGEST_SOCKET_PATH_BYTES;
      return fits && !path.includes("\0") ? { kind: "unix", path } : null;
    }
    const hostname = text.replace(/^\[(.*)\]$/, "$1");
    const named = /^[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?\.?$/i.test(hostname);
    // A colon makes it IPv6 or a mistake (127.0.0.1:3000); a zone (fe80::1%eth0) belongs to the address.
    const address = hostname.includes(":") && URL.canParse(`http://[${hostname.replace(/%.*$/, "")}]`);
    return named || address ? { kind: "tcp", hostname } : null;
  },
};

/** The endpoint of one call: what newcomers copy where the root of the API belongs. */
const ENDPOINT = /\/(?:chat\/completions|completions|responses|messages|embeddings)\/*$/;

/** The root of an API. Understood, or the sentence that says what is wrong; that sentence shows no part of it. */
export function parseBaseUrl(text: string): URL | string {
  const url = urlOrNull(text);
  if (url === null || !/^https?:\/\/[^/]/i.test(text)) {
    return "is not an address. Use one such as https://api.example.com/v1";
  }
  if (url.username !== "" || url.password !== "" || text.includes("@")) {
    return "has a user name or a password in it. Put keys into API_KEYS, and leave the part before the @ off";
  }
  if (/[?#]/.test(text)) return "has a query or a fragment. Leave off everything from the ? or # on";
  if (/[{}<>]|\$\(|\.\.\./.test(text))
    return "still has a placeholder in it. Put your own value in its place";
  if (ENDPOINT.test(url.pathname)) {
    return "is the address of one endpoint. Use the root of the API, such as https://api.example.com/v1";
  }
  url.pathname = url.pathname.replace(/\/+$/, "");
  return url;
}

/** Where a file is to be, or `off`. */
export const STATE: Parser<string> = {
  says: "Use the path of a file, such as ./keywheel.db, or off",
  read: (text) => oneOf(["off"]).read(text) ?? (isPath(text) && !text.endsWith("/") ? text : null),
};

export const DIRECTORY_PATH: Parser<string> = {
  says: "Use the path of a directory, such as /var/log/keywheel",
  read: (text) => (isPath(text) ? text : null),
};

/** A key that was put here by mistake would become the name of a file for all to see. */
function isPath(text: string): boolean {
  if (/[\x00-\x1f\x7f]|^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return false;
  return /[./\\]/.test(text) || !looksLikeKey(text);
}

/** An address to which a message is posted. It mostly holds a token, so whoever reads it makes it a secret. */
export const WEB_ADDRESS: Parser<string> = {
  says: "Use an address that begins with https:// or http://",
  read(text) {
    const url = urlOrNull(text);
    const isWhole = /^https?:\/\/[^/\s][^\s<>]*$/i.test(text) && !text.includes("...");
    return url !== null && isWhole ? url.href : null;
  },
};

/** `a, b or c`. There is at least one word. */
export function alternatives(words: readonly string[]): string {
  const last = words.at(-1) ?? "";
  return words.length < 2 ? last : `${words.slice(0, -1).join(", ")} or ${last}`;
}

/** `a, b and c`. There is at least one word. */
export function enumeration(words: readonly string[]): string {
  return alternatives(words).replace(/ or (?=\S+$)/, " and ");
}

/** `path` as it is seen from `directory`. (`node:path` has this too, but loading it costs memory for ever.) */
export function absolutePath(directory: string, path: string): string {
  return path.startsWith("/") ? path : `${directory.replace(/\/+$/, "")}/${path.replace(/^\.\//, "")}`;
}
