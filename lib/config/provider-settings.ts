/**
 * What the settings say of each provider: where it is, how it speaks, its keys and limits. Pure.
 */
import { defaultBaseUrl, dialectFromUrl } from "../providers/catalog.ts";
import { DIALECTS, type Dialect } from "../providers/verdict.ts";
import { shownPath } from "./key-shapes.ts";
import {
  type ConfiguredKey,
  type KeyList,
  MOST_NAMED,
  readPoolKeys,
  splitKeyFile,
  splitKeys,
} from "./keys.ts";
import {
  DAILY_LIMIT,
  enumeration,
  oneOf,
  parseBaseUrl,
  RPM,
  SECONDS,
  STATUS_LIST,
  TIMEZONE,
  YES_OR_NO,
} from "./parsers.ts";
import type { KnownProvider } from "./routes.ts";
import { isThisMachine, readUpstreamProxy, type UpstreamProxy } from "./upstream-proxy.ts";
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
  /** How the keys begin, where that told whose they are (and nothing else was set); null: it did not have to. */
  recognisedBy: string | null;
  /** Nothing tells whose the keys are: the default address was taken. */
  isAssumed: boolean;
  /** Through which requests, checks and connect tests go; null: none. */
  upstreamProxy: UpstreamProxy | null;
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

/** The problem of a configuration without any key. */
export const NO_KEYS =
  "There are no API keys. keywheel init asks for them; or set API_KEYS=key1,key2 in the environment or in .env (see .env.example), or try keywheel --demo, which needs none.";

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
    reader.problems.add(NO_KEYS);
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
  const list = readKeys(reader, prefix, fileOf);
  const { keys } = list;
  const upstream = readUpstream(reader, prefix, keys, listen);
  if (upstream !== null) refuseForeignKeys(reader, prefix, list, upstream.baseUrl);
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
  if (upstream === null) return null;
  const upstreamProxy = readUpstreamProxy(reader, under(prefix, "UPSTREAM_PROXY"), upstream.baseUrl);
  return { name: providerName(prefix), ...upstream, upstreamProxy, keys, ...settings };
}

/** The keys of `API_KEYS` and `API_KEYS_FILE` (under the prefix) together, in this order. */
function readKeys(reader: SettingsReader, prefix: string | null, fileOf: FileOf): KeyList<ConfiguredKey> {
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
  return list;
}

/** Where a provider is and how it speaks. */
type WhereItIs = Pick<ProviderConfig, "dialect" | "baseUrl" | "recognisedBy" | "isAssumed">;

/** Null where it cannot be told, which is then a problem. */
function readUpstream(
  reader: SettingsReader,
  prefix: string | null,
  keys: readonly ConfiguredKey[],
  listen: Listen,
): WhereItIs | null {
  const dialectName = under(prefix, "PROVIDER");
  const chosen = reader.readOwn(dialectName, oneOf(DIALECTS));
  // A dialect that is none must not hide what is wrong with the address, nor be blamed on it.
  const isMisread = chosen === null && reader.has(dialectName);
  const named = DIALECTS.find((dialect) => dialect.toUpperCase() === prefix) ?? null;

  const urlName = baseUrlName(prefix);
  if (prefix === null && chosen === null && !isMisread && !reader.has(urlName)) {
    const recognised = recognise(reader, keys);
    if (recognised !== "unknown") return recognised;
  }
  // The name comes before X_PROVIDER: keys called GROQ_API_KEYS go to Groq, unless an address is written.
  const catalogued = [named, chosen].map((dialect) => dialect && defaultBaseUrl(dialect)).find(Boolean);
  const fallback = prefix === null && chosen === null ? SETTINGS.TARGET_BASE_URL : null;
  const text = reader.text(urlName) ?? catalogued ?? fallback;
  if (text === null) {
    if (!isMisread) reader.problems.add(noAddress(prefix, urlName, chosen ?? named, keys));
    return null;
  }
  const baseUrl = readBaseUrl(reader, urlName, text, listen);
  if (baseUrl === null || isMisread) return null;
  const byHost = dialectFromUrl(baseUrl);
  const dialect = chosen ?? (byHost === "generic" ? (named ?? byHost) : byHost);
  const isAssumed = fallback !== null && !reader.has(urlName);
  return { dialect, baseUrl, recognisedBy: null, isAssumed };
}

/** Whose the keys are by how they begin, where nothing else says it. Null: of several providers, which is a problem. */
function recognise(reader: SettingsReader, keys: readonly ConfiguredKey[]): WhereItIs | "unknown" | null {
  const origins = keys.flatMap(({ origin }) => origin ?? []);
  const issuers = new Set(origins.map(({ issuers }) => issuers[0]));
  const [dialect, other] = issuers;
  if (dialect === undefined) {
    // Of a list with mistakes in it nothing is sent anywhere.
    if (keys.length > 0 && reader.problems.size === 0) {
      reader.warnings.add(
        `The keys in API_KEYS begin like those of no provider that keywheel knows, so they are sent to NVIDIA (${SETTINGS.TARGET_BASE_URL}). If they are another provider's, set TARGET_BASE_URL or PROVIDER.`,
      );
    }
    return "unknown";
  }
  if (other !== undefined) {
    const names = [...issuers];
    reader.problems.add(
      `API_KEYS holds keys of ${enumeration(names)}, and each provider has its own list. Put them into ${enumeration(names.map(listOf))}.`,
    );
    return null;
  }
  const address = defaultBaseUrl(dialect);
  const prefix = origins[0]?.prefix;
  if (address === null || prefix === undefined) return "unknown";
  const strangers = keys.length - origins.length;
  if (strangers > 0) {
    reader.warnings.add(
      `API_KEYS: ${strangers} of ${keys.length} keys ${strangers === 1 ? "does" : "do"} not begin with ${prefix}, and all are sent to ${dialect}. If that is right, set PROVIDER=${dialect}; else put the others into a list of their own (NAME_API_KEYS).`,
    );
  }
  return { dialect, baseUrl: new URL(address), recognisedBy: prefix, isAssumed: false };
}

/** A key goes to no company that it is not from (P39). What is behind an unknown host (a gateway) cannot be told. */
function refuseForeignKeys(
  reader: SettingsReader,
  prefix: string | null,
  { keys, places }: KeyList<ConfiguredKey>,
  baseUrl: URL,
): void {
  const foreign = keys.flatMap((key, index) => {
    const issuer = foreignIssuer(key, baseUrl);
    return issuer === null ? [] : [{ issuer, place: places[index] ?? "" }];
  });
  for (const { issuer, place } of foreign.slice(0, MOST_NAMED)) {
    const address = reader.has(baseUrlName(prefix)) ? `correct ${baseUrlName(prefix)}` : "set its address";
    reader.problems.add(
      `${place} begins like a key of ${issuer}, but ${baseUrl.host} is ${dialectFromUrl(baseUrl)}. A key is sent to no other company: put it into ${listOf(issuer)}, or ${address}.`,
    );
  }
  if (foreign.length > MOST_NAMED) {
    reader.problems.add(
      `${foreign.length - MOST_NAMED} more keys of ${under(prefix, "API_KEYS")} are of another company than ${baseUrl.host}.`,
    );
  }
}

/** Whose key this is, where it is plainly not of the company behind `baseUrl`; null: nothing speaks against it. */
export function foreignIssuer({ origin }: ConfiguredKey, baseUrl: URL): Dialect | null {
  const host = dialectFromUrl(baseUrl);
  return origin === null || host === "generic" || origin.issuers.includes(host) ? null : origin.issuers[0];
}

/** `GROQ_API_KEYS` */
function listOf(dialect: Dialect): string {
  return `${dialect.toUpperCase()}_API_KEYS`;
}

function baseUrlName(prefix: string | null): string {
  return prefix === null ? "TARGET_BASE_URL" : `${prefix}_BASE_URL`;
}

function readBaseUrl(reader: SettingsReader, name: string, text: string, listen: Listen): URL | null {
  const baseUrl = parseBaseUrl(text);
  if (typeof baseUrl === "string") {
    reader.problems.add(`${name} ${baseUrl}.`);
    return null;
  }
  if (!isOwnAddress(baseUrl, listen)) {
    if (baseUrl.protocol === "http:" && !isThisMachine(baseUrl.hostname)) {
      reader.warnings.add(
        `${name} begins with http://, so keys and texts go to ${baseUrl.host} for all on the way to read. Use https:// where it is served.`,
      );
    }
    return baseUrl;
  }
  reader.problems.add(
    `${name} is the address on which keywheel itself listens. Use the provider's, or another PORT.`,
  );
  return null;
}

function noAddress(
  prefix: string | null,
  urlName: string,
  dialect: Dialect | null,
  keys: readonly ConfiguredKey[],
): string {
  if (dialect !== null)
    return `${urlName} is not set, and ${dialect} has no address common to all. Set ${urlName}.`;
  const listName = under(prefix, "API_KEYS");
  const meant = nearest(listName, vocabularyOf(["PROXY_API_KEY", ...DIALECTS.map(listOf)]));
  const question = meant === null ? "" : ` Or is ${meant} meant?`;
  const issuer = keys[0]?.origin?.issuers[0];
  const guess =
    issuer === undefined
      ? ""
      : ` The keys begin like those of ${issuer}: for its own address set ${under(prefix, "PROVIDER")}=${issuer}.`;
  return `${urlName} is not set, and ${prefix?.toLowerCase()} is not in the catalogue of providers. Set ${urlName} to its address, or remove ${listName}.${guess}${question}`;
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
