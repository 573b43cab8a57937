/**
 * What the settings say of each provider: where it is, how it speaks, its keys and limits. Pure.
 */
import { defaultBaseUrl, dialectFromUrl } from "../providers/catalog.ts";
import { DIALECTS, type Dialect } from "../providers/verdict.ts";
import { shownPath } from "./key-shapes.ts";
import { type ConfiguredKey, readPoolKeys, splitKeyFile, splitKeys } from "./keys.ts";
import {
  DAILY_LIMIT,
  oneOf,
  parseBaseUrl,
  RPM,
  SECONDS,
  STATUS_LIST,
  TIMEZONE,
  YES_OR_NO,
} from "./parsers.ts";
import type { KnownProvider } from "./routes.ts";
import {
  nearest,
  providerPrefix,
  SETTINGS,
  type SettingsReader,
  vocabularyOf,
  whyNotPrefix,
} from "./settings.ts";

/** How the next key is chosen. */
export type Strategy = (typeof STRATEGIES)[number];

const STRATEGIES = ["round-robin", "sticky", "lru", "quota", "affinity"] as const;

export interface ProviderConfig {
  /** "default", or the path segment of a named provider. */
  name: string;
  dialect: Dialect;
  /** No trailing slash, no credentials, no query. */
  baseUrl: URL;
  keys: ConfiguredKey[];
  cooldownMs: number;
  rpm: number | "auto" | "off";
  /** For keys that have none of their own; null: no cap. */
  dailyLimit: number | null;
  /** IANA zone of the daily reset; null: the provider's own. */
  timezone: string | null;
  strategy: Strategy;
  retryStatus: ReadonlySet<number>;
  disabled: boolean;
}

export type Listen = { kind: "tcp"; hostname: string; port: number } | { kind: "unix"; path: string };

export type FileText = { ok: true; text: string } | { ok: false; reason: string };

/** The text of the file at `path`, as it is written in the setting. */
export type FileOf = (path: string) => FileText;

/** The providers, and the names of all that are meant, those with mistakes in them too. */
export interface Providers {
  providers: ProviderConfig[];
  known: KnownProvider[];
}

/** The default provider, then the named ones in the order of environment and file. */
export function readProviders(reader: SettingsReader, listen: Listen, fileOf: FileOf): Providers {
  const prefixes = new Set<string>();
  for (const name of reader.values.keys()) {
    const prefix = providerPrefix(name);
    if (prefix === null) continue;
    const because = whyNotPrefix(prefix);
    if (because === null) prefixes.add(prefix);
    else reader.problems.add(`${name} names a provider that cannot be: ${because}. Use another name.`);
  }
  const all: (string | null)[] = [...prefixes];
  if (reader.has("API_KEYS") || reader.has("API_KEYS_FILE")) {
    all.unshift(null);
  } else if (prefixes.size === 0) {
    reader.problems.add(
      "There are no API keys. Set API_KEYS=key1,key2 in the environment or in .env (see .env.example), or try keywheel --demo, which needs none.",
    );
    all.push(null); // For the problems in its other settings.
  } else {
    for (const name of ["TARGET_BASE_URL", "PROVIDER"].filter((name) => reader.has(name))) {
      reader.warnings.add(`${name} has no effect without API_KEYS: the first named provider is the default.`);
    }
  }
  const providers = all.map((prefix) => readProvider(reader, prefix, listen, fileOf));
  const known = all.map((prefix) => ({ name: providerName(prefix), disabled: isDisabled(reader, prefix) }));
  return { providers: providers.filter((provider) => provider !== null), known };
}

function providerName(prefix: string | null): string {
  return prefix?.toLowerCase() ?? "default";
}

function isDisabled(reader: SettingsReader, prefix: string | null): boolean {
  return prefix !== null && (reader.readOwn(`${prefix}_DISABLED`, YES_OR_NO) ?? false);
}

/** The provider under this prefix; null: the default one. Answers null where it has no usable address. */
function readProvider(
  reader: SettingsReader,
  prefix: string | null,
  listen: Listen,
  fileOf: FileOf,
): ProviderConfig | null {
  const keys = readKeys(reader, prefix, fileOf);
  const upstream = readUpstream(reader, prefix, listen);
  const dailyLimit = reader.readOptional("DAILY_LIMIT", DAILY_LIMIT, prefix);
  const settings = {
    cooldownMs: reader.read("COOLDOWN_SEC", SECONDS, prefix),
    rpm: reader.read("RPM", RPM, prefix),
    dailyLimit: dailyLimit === "off" ? null : dailyLimit,
    timezone: reader.readOptional("TIMEZONE", TIMEZONE, prefix),
    strategy: reader.read("STRATEGY", oneOf(STRATEGIES), prefix),
    retryStatus: reader.read("RETRY_STATUS", STATUS_LIST, prefix),
    disabled: isDisabled(reader, prefix),
  };
  return upstream && { name: providerName(prefix), ...upstream, keys, ...settings };
}

/** The keys of `API_KEYS` and `API_KEYS_FILE` (under the prefix) together, in this order. */
function readKeys(reader: SettingsReader, prefix: string | null, fileOf: FileOf): ConfiguredKey[] {
  const listName = under(prefix, "API_KEYS");
  const fileName = under(prefix, "API_KEYS_FILE");
  const items = splitKeys(listName, reader.text(listName) ?? "");
  const path = reader.text(fileName);
  const file = path === null ? null : fileOf(path);
  if (file?.ok) items.push(...splitKeyFile(fileName, file.text));
  if (path !== null && file?.ok === false) {
    reader.problems.add(
      `${fileName} is ${shownPath(path)}: ${file.reason}. Correct the path or the file's permissions.`,
    );
  } else if (items.length === 0 && (path !== null || reader.has(listName))) {
    const empty = path === null ? listName : fileName;
    reader.problems.add(`${empty} holds no key. Put at least one there, or remove the setting.`);
  }
  const list = readPoolKeys(items);
  for (const problem of list.problems) reader.problems.add(problem);
  for (const warning of list.warnings) reader.warnings.add(warning);
  for (const text of list.texts) reader.poolKeys.add(text);
  return list.keys;
}

/** Where the provider is and how it speaks; null where that cannot be told, which is then a problem. */
function readUpstream(
  reader: SettingsReader,
  prefix: string | null,
  listen: Listen,
): { dialect: Dialect; baseUrl: URL } | null {
  const dialectName = under(prefix, "PROVIDER");
  const chosen = reader.readOwn(dialectName, oneOf(DIALECTS));
  // A dialect that is none must not hide what is wrong with the address, nor be blamed on it.
  const isMisread = chosen === null && reader.has(dialectName);
  const named = DIALECTS.find((dialect) => dialect.toUpperCase() === prefix) ?? null;

  const urlName = prefix === null ? "TARGET_BASE_URL" : `${prefix}_BASE_URL`;
  // The name comes before X_PROVIDER: keys called GROQ_API_KEYS go to Groq, unless an address is written.
  const catalogued = [named, chosen].map((dialect) => dialect && defaultBaseUrl(dialect)).find(Boolean);
  const fallback = prefix === null && chosen === null ? SETTINGS.TARGET_BASE_URL : null;
  const text = reader.text(urlName) ?? catalogued ?? fallback;
  if (text === null) {
    if (!isMisread) reader.problems.add(noAddress(prefix, urlName, chosen ?? named));
    return null;
  }
  const baseUrl = readBaseUrl(reader, urlName, text, listen);
  if (baseUrl === null || isMisread) return null;
  const byHost = dialectFromUrl(baseUrl);
  return { dialect: chosen ?? (byHost === "generic" ? (named ?? byHost) : byHost), baseUrl };
}

function readBaseUrl(reader: SettingsReader, name: string, text: string, listen: Listen): URL | null {
  const baseUrl = parseBaseUrl(text);
  if (typeof baseUrl === "string") {
    reader.problems.add(`${name} ${baseUrl}.`);
    return null;
  }
  if (!isOwnAddress(baseUrl, listen)) return baseUrl;
  reader.problems.add(
    `${name} is the address on which keywheel itself listens. Use the provider's, or another PORT.`,
  );
  return null;
}

function noAddress(prefix: string | null, urlName: string, dialect: Dialect | null): string {
  if (dialect !== null)
    return `${urlName} is not set, and ${dialect} has no address common to all. Set ${urlName}.`;
  const listName = under(prefix, "API_KEYS");
  const catalogue = DIALECTS.map((known) => `${known.toUpperCase()}_API_KEYS`);
  const meant = nearest(listName, vocabularyOf(["PROXY_API_KEY", ...catalogue]));
  const question = meant === null ? "" : ` Or is ${meant} meant?`;
  return `${urlName} is not set, and ${prefix?.toLowerCase()} is not in the catalogue of providers. Set ${urlName} to its address, or remove ${listName}.${question}`;
}

/** A proxy that forwards to itself goes round until nothing is left. */
function isOwnAddress(url: URL, listen: Listen): boolean {
  if (listen.kind === "unix" || listen.port === 0) return false;
  const port = Number(url.port || (url.protocol === "https:" ? 443 : 80));
  const local = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::]"];
  const own = listen.hostname.includes(":") ? `[${listen.hostname}]` : listen.hostname;
  return port === listen.port && (local.includes(own) ? local : [own]).includes(url.hostname);
}

/** The name of a provider's setting: `GROQ_RPM`; without a prefix the default provider's. */
function under(prefix: string | null, setting: string): string {
  return prefix === null ? setting : `${prefix}_${setting}`;
}
