/**
 * Text to `Config`, or the full list of problems.
 *
 * `parseConfig` is pure: the environment, the env file and the texts of the key files go in, a configuration or
 * every mistake at once comes out, one line each. `loadConfig` finds and reads the files. An empty value counts as
 * not set, everywhere. No message shows a key or a part of one.
 */
import { codeOf } from "../core/json.ts";
import { parseEnvFile } from "./env-file.ts";
import {
  type ClientKey,
  type ConfiguredKey,
  faultOfPassword,
  readClientKeys,
  readPoolKeys,
  splitKeyFile,
  splitKeys,
} from "./keys.ts";
import { type KnownProvider, parseFallback, parseRoutes, type Route, type RouteTarget } from "./routes.ts";
import {
  DAILY_LIMIT,
  DIRECTORY_PATH,
  HOST,
  MEGABYTES,
  oneOf,
  ORIGINS,
  parseBaseUrl,
  RPM,
  type Parser,
  SECONDS,
  STATE,
  STATUS_LIST,
  TIMEZONE,
  WEB_ADDRESS,
  wholeNumber,
  YES_OR_NO,
} from "./rules.ts";
import { Secret } from "../core/secret.ts";
import {
  type DefaultedSetting,
  notYet,
  providerPrefix,
  SETTINGS,
  settingOf,
  type SettingName,
  spellingOf,
  whyNotPrefix,
} from "./settings.ts";
import { nearest, shown, shownPath, vocabularyOf } from "./wording.ts";

export type { ClientKey, ConfiguredKey } from "./keys.ts";
export type { Route, RouteTarget } from "./routes.ts";
export { parseStatusList } from "./rules.ts";
import { DIALECTS, type Dialect } from "../providers/verdict.ts";
import { defaultBaseUrl, dialectFromUrl } from "../providers/catalog.ts";

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

/** Who gets in. `protected`: loopback only. */
export type Access = { mode: "protected" } | { mode: "keys"; clients: ClientKey[] } | { mode: "open" };

export interface Config {
  /** The first is the default. */
  providers: [ProviderConfig, ...ProviderConfig[]];
  listen: Listen;
  access: Access;
  /** As browsers write them in `Origin`, or a single `*`. */
  corsOrigins: string[];
  maxCooldownMs: number;
  /** null: 10, or keys + 2 where that is more. */
  maxAttempts: number | null;
  maxWaitMs: number;
  exhaustedStatus: number;
  /** 0: off. */
  connectTimeoutMs: number;
  /** 0: off. */
  firstByteTimeoutMs: number;
  /** 0: off. */
  streamIdleTimeoutMs: number;
  maxBodyBytes: number;
  maxInFlight: number;
  maxBufferedBytes: number;
  drainMs: number;
  logLevel: "debug" | "info" | "warn" | "error";
  /** null: text on a terminal, else JSON. */
  logFormat: "text" | "json" | null;
  /** null: no log files. A relative one begins at the working directory. */
  logDir: string | null;
  /** So many days before today are kept. */
  logRetentionDays: number;
  /** Model names of the user's own; each has a model in every target. */
  routes: Route[];
  /** Where a request goes when its provider cannot serve it, in this order. */
  fallback: RouteTarget[];
  /** The file that outlives a restart; null: off. A relative one begins at the working directory. */
  statePath: string | null;
  /** null: there is no /admin. */
  adminPassword: Secret | null;
  /** An http or https address, which may hold a token; null: nobody is told. */
  webhookUrl: Secret | null;
}

/** Lines for people. A warning never stops the start. */
export type ParsedConfig =
  { ok: true; config: Config; warnings: string[] } | { ok: false; problems: string[]; warnings: string[] };

export type FileText = { ok: true; text: string } | { ok: false; reason: string };

/** The text of the file at `path`, as it is written in the setting. */
export type FileOf = (path: string) => FileText;

/** Variables of the process. On Linux read them from /proc/self/environ: Bun mixes `./.env` into its own. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** The whole configuration. A variable of the environment wins over one of the file. */
export function parseConfig(
  environment: Environment,
  file: ReadonlyMap<string, string> = new Map(),
  fileOf: FileOf = () => ({ ok: false, reason: "no file can be read here" }),
): ParsedConfig {
  const sheet = new SettingsReader(environment, file);
  const listen = readListen(sheet);
  const { providers, known } = readProviders(sheet, listen, fileOf);
  const [first, ...others] = providers;
  const settings = {
    listen,
    access: readAccess(sheet),
    corsOrigins: sheet.readOptional("CORS_ORIGINS", ORIGINS) ?? [],
    maxCooldownMs: sheet.read("MAX_COOLDOWN_SEC", SECONDS),
    maxAttempts: sheet.readOptional("MAX_ATTEMPTS", wholeNumber(1, Number.MAX_SAFE_INTEGER)),
    maxWaitMs: sheet.read("MAX_WAIT_SEC", SECONDS),
    exhaustedStatus: sheet.read("EXHAUSTED_STATUS", wholeNumber(400, 599)),
    connectTimeoutMs: sheet.read("CONNECT_TIMEOUT_SEC", SECONDS),
    firstByteTimeoutMs: sheet.read("FIRST_BYTE_TIMEOUT_SEC", SECONDS),
    streamIdleTimeoutMs: sheet.read("STREAM_IDLE_TIMEOUT_SEC", SECONDS),
    ...readBodyLimits(sheet),
    maxInFlight: sheet.read("MAX_IN_FLIGHT", wholeNumber(1, Number.MAX_SAFE_INTEGER)),
    drainMs: sheet.read("DRAIN_SEC", SECONDS),
    logLevel: sheet.read("LOG_LEVEL", oneOf(["debug", "info", "warn", "error"])),
    logFormat: sheet.readOptional("LOG_FORMAT", oneOf(["text", "json"])),
    logDir: sheet.readOptional("LOG_DIR", DIRECTORY_PATH),
    logRetentionDays: sheet.read("LOG_RETENTION_DAYS", wholeNumber(1, 36_500)),
    ...readRoutes(sheet, known),
    statePath: readStatePath(sheet, environment.STATE_DIRECTORY),
    adminPassword: readAdminPassword(sheet),
    webhookUrl: readWebhookUrl(sheet),
  };
  if (settings.corsOrigins.includes("*") && settings.access.mode !== "keys") {
    sheet.warnings.add(
      "CORS_ORIGINS is * and no client key is asked for: every web page you open can use your keys. Name the origins, or set PROXY_API_KEY.",
    );
  }
  warnOfNoEffect(sheet);
  const warnings = [...sheet.warnings];
  if (first === undefined || sheet.problems.size > 0) {
    return { ok: false, problems: [...sheet.problems], warnings };
  }
  return { ok: true, config: { providers: [first, ...others], ...settings }, warnings };
}

/** Where `loadConfig` looks. */
export interface Places {
  environment: Environment;
  /** The PATH of `--env-file PATH`, or null. */
  envFile: string | null;
  workingDirectory: string;
  /** Where the executable is. */
  programDirectory: string;
}

export type LoadedConfig = ParsedConfig & {
  /** The env file that was read, or null where there is none. */
  envFile: string | null;
  /** Every file whose appearance or change would change the configuration: what a watcher watches. */
  watched: string[];
};

/** Finds and reads the files: the env file that was named, else ./.env, else .env beside the executable. */
export async function loadConfig(places: Places): Promise<LoadedConfig> {
  const { environment, workingDirectory, programDirectory } = places;
  const named = places.envFile === null ? null : absolutePath(workingDirectory, places.envFile);
  const candidates =
    named === null
      ? [absolutePath(workingDirectory, ".env"), absolutePath(programDirectory, ".env")]
      : [named];
  const watched = new Set<string>();
  const read = (path: string): Promise<FileText> => {
    watched.add(path);
    return readText(path);
  };

  let envFile: { path: string; text: string } | null = null;
  for (const path of candidates) {
    const file = await read(path);
    // Only a file that was named has to exist; one that exists has to be readable.
    if (!file.ok && file.reason === ABSENT && named === null) continue;
    if (!file.ok) {
      const problem = `${path}: ${file.reason}. Correct the path or the file's permissions.`;
      return { ok: false, problems: [problem], warnings: [], envFile: null, watched: [...watched] };
    }
    envFile = { path, text: file.text };
    break;
  }

  const parsedFile = parseEnvFile(envFile?.text ?? "");
  const texts = new Map<string, FileText>();
  for (const path of keyFilesOf(environment, parsedFile.values)) {
    texts.set(path, await read(absolutePath(workingDirectory, path)));
  }
  const fileOf = (path: string): FileText => texts.get(path) ?? { ok: false, reason: ABSENT };
  const parsed = parseConfig(environment, parsedFile.values, fileOf);
  const warnings = [...parsedFile.warnings.map((line) => `${envFile?.path}: ${line}`), ...parsed.warnings];
  const problems = parsedFile.problems.map((line) => `${envFile?.path}: ${line}`);
  if (!parsed.ok) problems.push(...parsed.problems);
  const outcome: ParsedConfig =
    parsed.ok && problems.length === 0 ? { ...parsed, warnings } : { ok: false, problems, warnings };
  return { ...outcome, envFile: envFile?.path ?? null, watched: [...watched] };
}

/** The paths that `API_KEYS_FILE` and `X_API_KEYS_FILE` hold, as they are written. */
function keyFilesOf(environment: Environment, file: ReadonlyMap<string, string>): Set<string> {
  const variables = [...file, ...Object.entries(environment)];
  const paths = variables
    .filter(([name]) => /(?:^|_)API_KEYS_FILE$/.test(name))
    .map(([, path]) => path?.trim());
  return new Set(paths.filter((path): path is string => path !== undefined && path !== ""));
}

/** (`node:path` has this too, but loading it costs memory for ever.) */
function absolutePath(directory: string, path: string): string {
  return path.startsWith("/") ? path : `${directory.replace(/\/+$/, "")}/${path.replace(/^\.\//, "")}`;
}

const ABSENT = "there is no such file";

/** (By `Bun.file`, not by `node:fs`, which would take 0.6 MB of memory for one read at the start.) */
async function readText(path: string): Promise<FileText> {
  try {
    return { ok: true, text: await Bun.file(path).text() };
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR") return { ok: false, reason: ABSENT };
    if (code === "EACCES" || code === "EPERM") return { ok: false, reason: "it may not be read" };
    if (code === "EISDIR") return { ok: false, reason: "it is a directory" };
    return { ok: false, reason: `it cannot be read (${code})` };
  }
}

/** The providers, and the names of all that are meant, those with mistakes in them too. */
interface Providers {
  providers: ProviderConfig[];
  known: KnownProvider[];
}

/** The default provider, then the named ones in the order of environment and file. */
function readProviders(sheet: SettingsReader, listen: Listen, fileOf: FileOf): Providers {
  const prefixes = new Set<string>();
  for (const name of sheet.values.keys()) {
    const prefix = providerPrefix(name);
    if (prefix === null) continue;
    const because = whyNotPrefix(prefix);
    if (because === null) prefixes.add(prefix);
    else sheet.problems.add(`${name} names a provider that cannot be: ${because}. Use another name.`);
  }
  const all: (string | null)[] = [...prefixes];
  if (sheet.has("API_KEYS") || sheet.has("API_KEYS_FILE")) {
    all.unshift(null);
  } else if (prefixes.size === 0) {
    sheet.problems.add(
      "There are no API keys. Set API_KEYS=key1,key2 in the environment or in .env (see .env.example), or try keywheel --demo, which needs none.",
    );
    all.push(null); // For the problems in its other settings.
  } else {
    for (const name of ["TARGET_BASE_URL", "PROVIDER"].filter((name) => sheet.has(name))) {
      sheet.warnings.add(`${name} has no effect without API_KEYS: the first named provider is the default.`);
    }
  }
  const providers = all.map((prefix) => readProvider(sheet, prefix, listen, fileOf));
  const known = all.map((prefix) => ({ name: providerName(prefix), disabled: isDisabled(sheet, prefix) }));
  return { providers: providers.filter((provider) => provider !== null), known };
}

function providerName(prefix: string | null): string {
  return prefix?.toLowerCase() ?? "default";
}

function isDisabled(sheet: SettingsReader, prefix: string | null): boolean {
  return prefix !== null && (sheet.readOwn(`${prefix}_DISABLED`, YES_OR_NO) ?? false);
}

/** The provider under this prefix; null: the default one. Answers null where it has no usable address. */
function readProvider(
  sheet: SettingsReader,
  prefix: string | null,
  listen: Listen,
  fileOf: FileOf,
): ProviderConfig | null {
  const keys = readKeys(sheet, prefix, fileOf);
  const upstream = readUpstream(sheet, prefix, listen);
  const dailyLimit = sheet.readOptional("DAILY_LIMIT", DAILY_LIMIT, prefix);
  const settings = {
    cooldownMs: sheet.read("COOLDOWN_SEC", SECONDS, prefix),
    rpm: sheet.read("RPM", RPM, prefix),
    dailyLimit: dailyLimit === "off" ? null : dailyLimit,
    timezone: sheet.readOptional("TIMEZONE", TIMEZONE, prefix),
    strategy: sheet.read("STRATEGY", oneOf(STRATEGIES), prefix),
    retryStatus: sheet.read("RETRY_STATUS", STATUS_LIST, prefix),
    disabled: isDisabled(sheet, prefix),
  };
  return upstream && { name: providerName(prefix), ...upstream, keys, ...settings };
}

/** The keys of `API_KEYS` and `API_KEYS_FILE` (under the prefix) together, in this order. */
function readKeys(sheet: SettingsReader, prefix: string | null, fileOf: FileOf): ConfiguredKey[] {
  const listName = under(prefix, "API_KEYS");
  const fileName = under(prefix, "API_KEYS_FILE");
  const items = splitKeys(listName, sheet.text(listName) ?? "");
  const path = sheet.text(fileName);
  const file = path === null ? null : fileOf(path);
  if (file?.ok) items.push(...splitKeyFile(fileName, file.text));
  if (path !== null && file?.ok === false) {
    sheet.problems.add(
      `${fileName} is ${shownPath(path)}: ${file.reason}. Correct the path or the file's permissions.`,
    );
  } else if (items.length === 0 && (path !== null || sheet.has(listName))) {
    const empty = path === null ? listName : fileName;
    sheet.problems.add(`${empty} holds no key. Put at least one there, or remove the setting.`);
  }
  const list = readPoolKeys(items);
  for (const problem of list.problems) sheet.problems.add(problem);
  for (const warning of list.warnings) sheet.warnings.add(warning);
  for (const text of list.texts) sheet.poolKeys.add(text);
  return list.keys;
}

/** Where the provider is and how it speaks; null where that cannot be told, which is then a problem. */
function readUpstream(
  sheet: SettingsReader,
  prefix: string | null,
  listen: Listen,
): { dialect: Dialect; baseUrl: URL } | null {
  const dialectName = under(prefix, "PROVIDER");
  const chosen = sheet.readOwn(dialectName, oneOf(DIALECTS));
  // A dialect that is none must not hide what is wrong with the address, nor be blamed on it.
  const isMisread = chosen === null && sheet.has(dialectName);
  const named = DIALECTS.find((dialect) => dialect.toUpperCase() === prefix) ?? null;

  const urlName = prefix === null ? "TARGET_BASE_URL" : `${prefix}_BASE_URL`;
  // The name comes before X_PROVIDER: keys called GROQ_API_KEYS go to Groq, unless an address is written.
  const catalogued = [named, chosen].map((dialect) => dialect && defaultBaseUrl(dialect)).find(Boolean);
  const fallback = prefix === null && chosen === null ? SETTINGS.TARGET_BASE_URL : null;
  const text = sheet.text(urlName) ?? catalogued ?? fallback;
  if (text === null) {
    if (!isMisread) sheet.problems.add(noAddress(prefix, urlName, chosen ?? named));
    return null;
  }
  const baseUrl = readBaseUrl(sheet, urlName, text, listen);
  if (baseUrl === null || isMisread) return null;
  const byHost = dialectFromUrl(baseUrl);
  return { dialect: chosen ?? (byHost === "generic" ? (named ?? byHost) : byHost), baseUrl };
}

function readBaseUrl(sheet: SettingsReader, name: string, text: string, listen: Listen): URL | null {
  const baseUrl = parseBaseUrl(text);
  if (typeof baseUrl === "string") {
    sheet.problems.add(`${name} ${baseUrl}.`);
    return null;
  }
  if (!isOwnAddress(baseUrl, listen)) return baseUrl;
  sheet.problems.add(
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

function readListen(sheet: SettingsReader): Listen {
  const host = sheet.read("HOST", HOST);
  const port = sheet.read("PORT", wholeNumber(0, 65_535));
  return host.kind === "unix" ? host : { ...host, port };
}

/** After the providers: their keys are what no client should know. */
function readAccess(sheet: SettingsReader): Access {
  const text = sheet.text("PROXY_API_KEY");
  if (text === null) return { mode: "protected" };
  if (text.toLowerCase() === "off") return { mode: "open" };
  const list = readClientKeys("PROXY_API_KEY", text, sheet.poolKeys);
  for (const problem of list.problems) sheet.problems.add(problem);
  for (const warning of list.warnings) sheet.warnings.add(warning);
  for (const key of list.texts) sheet.clientKeys.add(key);
  if (list.keys.length === 0 && list.problems.length === 0) {
    sheet.problems.add(
      "PROXY_API_KEY holds no key. Put one there, or remove the setting for protected mode.",
    );
  }
  return { mode: "keys", clients: list.keys };
}

function readBodyLimits(sheet: SettingsReader): Pick<Config, "maxBodyBytes" | "maxBufferedBytes"> {
  const maxBodyBytes = sheet.read("MAX_BODY_MB", MEGABYTES);
  const maxBufferedBytes = sheet.read("MAX_BUFFERED_MB", MEGABYTES);
  if (maxBufferedBytes >= maxBodyBytes) return { maxBodyBytes, maxBufferedBytes };
  // A body over the one and under the other would be told to come back later, for ever.
  if (!sheet.has("MAX_BUFFERED_MB")) return { maxBodyBytes, maxBufferedBytes: maxBodyBytes };
  sheet.warnings.add(
    "MAX_BUFFERED_MB is less than MAX_BODY_MB: a body between the two is always refused. Raise the one or lower the other.",
  );
  return { maxBodyBytes, maxBufferedBytes };
}

/** After the providers, by whose names targets are found. */
function readRoutes(
  sheet: SettingsReader,
  known: readonly KnownProvider[],
): Pick<Config, "routes" | "fallback"> {
  const routes = sheet.text("ROUTES");
  const fallback = sheet.text("FALLBACK");
  const routeList = routes === null ? null : parseRoutes(routes, known);
  const targetList = fallback === null ? null : parseFallback(fallback, known);
  for (const list of [routeList, targetList]) {
    for (const problem of list?.problems ?? []) sheet.problems.add(problem);
    for (const warning of list?.warnings ?? []) sheet.warnings.add(warning);
  }
  return { routes: routeList?.routes ?? [], fallback: targetList?.targets ?? [] };
}

/** `directories`: what systemd says in `STATE_DIRECTORY`, several separated by `:`. */
function readStatePath(sheet: SettingsReader, directories: string | undefined): string | null {
  if (/^rediss?:/i.test(sheet.text("STATE") ?? "")) {
    sheet.problems.add(
      `STATE is the address of a Redis server, which is not supported yet. ${STATE.says}, or remove it for the default, ${SETTINGS.STATE}.`,
    );
    return null;
  }
  const path = sheet.read("STATE", STATE);
  if (path === "off") return null;
  const [directory = ""] = directories?.trim().split(":") ?? [];
  return directory === "" ? path : absolutePath(directory, path);
}

/** After the keys: whoever holds one of them must not hold the password too. Never shown. */
function readAdminPassword(sheet: SettingsReader): Secret | null {
  const text = sheet.text("ADMIN_PASSWORD");
  if (text === null) return null;
  const fault = faultOfPassword(text, sheet);
  if (fault !== null) sheet.problems.add(`ADMIN_PASSWORD ${fault}, or remove it for no /admin.`);
  return new Secret(text);
}

/** Its address mostly holds a token, so it is never shown. */
function readWebhookUrl(sheet: SettingsReader): Secret | null {
  const text = sheet.text("WEBHOOK_URL");
  if (text === null) return null;
  const address = WEB_ADDRESS.read(text);
  if (address !== null) return new Secret(address);
  sheet.problems.add(`WEBHOOK_URL is not a web address. ${WEB_ADDRESS.says}, or remove it.`);
  return null;
}

/** Warns of what is written but has no effect: not supported yet, or misspelt. */
function warnOfNoEffect(sheet: SettingsReader): void {
  const prefixes = new Set([...sheet.values.keys()].map(providerPrefix).filter((prefix) => prefix !== null));
  const meantSetting = spellingOf(prefixes);
  for (const name of sheet.values.keys()) {
    const setting = settingOf(name, prefixes);
    const source = sheet.fromFile.has(name) ? "file" : "environment";
    if (setting !== null) {
      const warning = notYet(setting);
      if (warning !== null) sheet.warnings.add(warning);
      continue;
    }
    const meant = meantSetting(name, source);
    // In the environment API_KEY may well belong to another program once API_KEYS is there.
    if (meant === null || (source === "environment" && sheet.has(meant))) continue;
    sheet.warnings.add(`${name} is not a setting and has no effect. Did you mean ${meant}?`);
  }
}

/** The name of a provider's setting: `GROQ_RPM`; without a prefix the default provider's. */
function under(prefix: string | null, setting: string): string {
  return prefix === null ? setting : `${prefix}_${setting}`;
}

/** The settings as they were written, and what was found wrong with them. The same line is kept once. */
class SettingsReader {
  /** Trimmed, and only what is not empty; the environment before the file. */
  readonly values = new Map<string, string>();
  readonly fromFile = new Set<string>();
  readonly problems = new Set<string>();
  readonly warnings = new Set<string>();
  /** Texts of all pool keys: a client key is compared with them. Lives as long as the parsing. */
  readonly poolKeys = new Set<string>();
  /** Likewise those of all client keys. */
  readonly clientKeys = new Set<string>();

  constructor(environment: Environment, file: ReadonlyMap<string, string>) {
    for (const [name, value = ""] of Object.entries(environment)) {
      if (value.trim() !== "") this.values.set(name, value.trim());
    }
    for (const [name, value] of file) {
      if (value.trim() === "" || this.values.has(name)) continue;
      this.values.set(name, value.trim());
      this.fromFile.add(name);
    }
  }

  has(name: string): boolean {
    return this.values.has(name);
  }

  text(name: string): string | null {
    return this.values.get(name) ?? null;
  }

  /** A setting with a default. Under a prefix (`GROQ_RPM`), else without it (`RPM`), else the default. */
  read<T>(name: DefaultedSetting, rule: Parser<T>, prefix: string | null = null): T {
    const value = this.readOptional(name, rule, prefix) ?? rule.read(SETTINGS[name]);
    if (value === null) throw new Error(`the default of ${name} does not follow its own rule`);
    return value;
  }

  /** A setting that need not be there: null where it is not set, or not understood (then that is a problem). */
  readOptional<T>(name: SettingName, rule: Parser<T>, prefix: string | null = null): T | null {
    const prefixed = `${prefix}_${name}`;
    const written = prefix !== null && this.has(prefixed) ? prefixed : name;
    return this.readOwn(written, rule, SETTINGS[name]);
  }

  /** A setting under exactly this name. */
  readOwn<T>(name: string, rule: Parser<T>, fallback: string | null = null): T | null {
    const text = this.text(name);
    if (text === null) return null;
    const value = rule.read(text);
    if (value !== null) return value;
    const remedy = fallback === null ? "or remove it" : `or remove it for the default, ${fallback}`;
    this.problems.add(`${name} is ${shown(text)}. ${rule.says}, ${remedy}.`);
    return null;
  }
}
