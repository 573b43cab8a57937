/**
 * Text to `Config`, or the full list of problems.
 *
 * `parseConfig` is pure: the environment, the env file and the texts of the key files go in, a configuration or
 * every mistake at once comes out, one line each. `loadConfig` finds and reads the files. An empty value counts as
 * not set, everywhere. No message shows a key or a part of one.
 */
import { codeOf } from "../core/json.ts";
import { parseEnvFile } from "./env-file.ts";
import { shownPath } from "./key-shapes.ts";
import { usableMemoryBytes } from "./memory.ts";
import { readClientKeys } from "./keys.ts";
import { absolutePath, HOST, MEGABYTES, oneOf, SECONDS, wholeNumber } from "./parsers.ts";
import {
  type FileOf,
  type FileText,
  type Listen,
  type ProviderConfig,
  readProviders,
} from "./provider-settings.ts";
import {
  type KnownProvider,
  parseFallback,
  parseRoutes,
  type RouteRule,
  type RouteTarget,
} from "./routes.ts";
import {
  type Access,
  CERTIFICATE_SETTINGS,
  readServerSettings,
  type ServerSettings,
} from "./server-settings.ts";
import { type Environment, providerPrefix, SettingsReader, settingOf, spellingOf } from "./settings.ts";

export type { ClientKey, ConfiguredKey } from "./keys.ts";
export { absolutePath, parseStatusList } from "./parsers.ts";
export type { FileOf, Listen, ProviderConfig, Strategy } from "./provider-settings.ts";
export type { RouteRule, RouteTarget } from "./routes.ts";
export type { Access } from "./server-settings.ts";
export type { Environment } from "./settings.ts";

export interface Config extends ServerSettings {
  /** The first is the default. */
  providers: [ProviderConfig, ...ProviderConfig[]];
  listen: Listen;
  access: Access;
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
  /** Model names of the user's own; each has a model in every target. */
  routes: RouteRule[];
  /** Where a request goes when its provider cannot serve it, in this order. */
  fallback: RouteTarget[];
  /** How long a request waits for a key where another target stands behind. */
  fallbackAfterMs: number;
  /** `all`: the list of models is that of every provider. */
  models: "default" | "all";
}

/** Lines for people. A warning never stops the start. */
export type ParsedConfig =
  { ok: true; config: Config; warnings: string[] } | { ok: false; problems: string[]; warnings: string[] };

/**
 * The whole configuration. A variable of the environment wins over one of the file. `memoryBytes`: what the process
 * may use; null: not known.
 */
export function parseConfig(
  environment: Environment,
  file: ReadonlyMap<string, string> = new Map(),
  fileOf: FileOf = () => ({ ok: false, reason: "no file can be read here" }),
  memoryBytes: number | null = null,
): ParsedConfig {
  const reader = new SettingsReader(environment, file);
  const settings = readAll(reader, fileOf, memoryBytes, (access) =>
    readServerSettings(reader, access, environment.STATE_DIRECTORY),
  );
  return parsed(reader, settings);
}

/** The configuration of a pool without a server, whose settings have no server's among them. */
export function parsePoolConfig(environment: Environment, server: ServerSettings): ParsedConfig {
  const reader = new SettingsReader(environment, new Map());
  const noFile: FileOf = () => ({ ok: false, reason: "no file can be read here" });
  return parsed(
    reader,
    readAll(reader, noFile, null, () => server),
  );
}

/** What was read, or everything that was wrong with it. */
function parsed(reader: SettingsReader, { providers, ...settings }: AllSettings): ParsedConfig {
  warnOfMisspelling(reader);
  const warnings = [...reader.warnings];
  const [first, ...others] = providers;
  if (first === undefined || reader.problems.size > 0) {
    return { ok: false, problems: [...reader.problems], warnings };
  }
  return { ok: true, config: { providers: [first, ...others], ...settings }, warnings };
}

type AllSettings = Omit<Config, "providers"> & { readonly providers: readonly ProviderConfig[] };

function readAll(
  reader: SettingsReader,
  fileOf: FileOf,
  memoryBytes: number | null,
  readServer: (access: Access) => ServerSettings,
): AllSettings {
  const listen = readListen(reader);
  const { providers, known } = readProviders(reader, listen, fileOf);
  const access = readAccess(reader);
  return {
    providers,
    listen,
    access,
    maxCooldownMs: reader.read("MAX_COOLDOWN_SEC", SECONDS),
    maxAttempts: reader.readOptional("MAX_ATTEMPTS", wholeNumber(1, Number.MAX_SAFE_INTEGER)),
    maxWaitMs: reader.read("MAX_WAIT_SEC", SECONDS),
    exhaustedStatus: reader.read("EXHAUSTED_STATUS", wholeNumber(400, 599)),
    connectTimeoutMs: reader.read("CONNECT_TIMEOUT_SEC", SECONDS),
    firstByteTimeoutMs: reader.read("FIRST_BYTE_TIMEOUT_SEC", SECONDS),
    streamIdleTimeoutMs: reader.read("STREAM_IDLE_TIMEOUT_SEC", SECONDS),
    ...readBodyLimits(reader, memoryBytes),
    maxInFlight: reader.read("MAX_IN_FLIGHT", wholeNumber(1, Number.MAX_SAFE_INTEGER)),
    ...readServer(access),
    ...readRoutes(reader, known),
    fallbackAfterMs: reader.read("FALLBACK_AFTER_SEC", SECONDS),
    models: reader.read("MODELS", oneOf(["default", "all"])),
  };
}

/** Where `loadConfig` looks. */
export interface Places {
  environment: Environment;
  /** The PATH of `--env-file PATH`, or null. */
  envFile: string | null;
  workingDirectory: string;
  /** Where the executable is. */
  programDirectory: string;
  /** The file of the installed service, looked for last; left out: there is none. */
  systemEnvFile?: string;
}

export type LoadedConfig = ParsedConfig & {
  /** The env file that was read, or null where there is none. */
  envFile: string | null;
  /** Every file whose appearance or change would change the configuration: what a watcher watches. */
  watched: string[];
};

/**
 * Finds and reads the files: the env file that was named, else ./.env, else .env beside the executable, else that of
 * the installed service.
 */
export async function loadConfig(places: Places): Promise<LoadedConfig> {
  const { environment, workingDirectory } = places;
  const watched = new Set<string>();
  const read = (path: string): Promise<FileText> => {
    watched.add(path);
    return readFileText(path);
  };
  const found = await findEnvFile(places, read);
  if (found.kind === "problem") {
    return { ok: false, problems: [found.problem], warnings: [], envFile: null, watched: [...watched] };
  }
  const { path: envFile, text } = found;
  const parsedFile = parseEnvFile(text);
  const texts = new Map<string, FileText>();
  for (const path of keyFilesOf(environment, parsedFile.values)) {
    texts.set(path, await read(absolutePath(workingDirectory, path)));
  }
  const fileOf = (path: string): FileText => texts.get(path) ?? { ok: false, reason: ABSENT };
  const memoryBytes = await usableMemoryBytes(async (path) => {
    const file = await readFileText(path);
    return file.ok ? file.text : null;
  });
  const parsed = parseConfig(environment, parsedFile.values, fileOf, memoryBytes);
  const warnings = [...parsedFile.warnings.map((line) => `${envFile}: ${line}`), ...parsed.warnings];
  const problems = parsedFile.problems.map((line) => `${envFile}: ${line}`);
  if (!parsed.ok) problems.push(...parsed.problems);
  problems.push(...(await certificateProblems(environment, parsedFile.values, workingDirectory)));
  const holdsSecrets = [...parsedFile.values.keys()].some((name) => /KEY|PASSWORD|WEBHOOK|PROXY/.test(name));
  if (envFile !== null && holdsSecrets && (await isOpenToAll(envFile))) {
    warnings.push(
      `${envFile} can be read by everybody on this machine, and holds keys: chmod 600 ${envFile}`,
    );
  }
  const outcome: ParsedConfig =
    parsed.ok && problems.length === 0 ? { ...parsed, warnings } : { ok: false, problems, warnings };
  return { ...outcome, envFile, watched: [...watched] };
}

/** The env file and its text; no path and no text where there is none. */
type FoundEnvFile =
  { kind: "found"; path: string | null; text: string } | { kind: "problem"; problem: string };

async function findEnvFile(
  { environment, envFile, workingDirectory, programDirectory, systemEnvFile }: Places,
  read: (path: string) => Promise<FileText>,
): Promise<FoundEnvFile> {
  const named = envFile === null ? null : absolutePath(workingDirectory, envFile);
  const usual = [absolutePath(workingDirectory, ".env"), absolutePath(programDirectory, ".env")];
  const candidates =
    named === null ? [...usual, systemEnvFile].filter((path) => path !== undefined) : [named];
  for (const path of candidates) {
    const file = await read(path);
    if (file.ok) return { kind: "found", path, text: file.text };
    // Only a file that was named has to exist; one that exists has to be readable.
    if (file.reason === ABSENT && named === null) continue;
    const isService = path === systemEnvFile && file.reason === FORBIDDEN;
    // Somebody who only looks need not read the keys of the service: the rest may be in the environment.
    if (isService && hasKeys(environment)) continue;
    const remedy = isService
      ? "It holds the settings of the installed service: use sudo, or name another file with --env-file PATH."
      : "Correct the path or the file's permissions.";
    return { kind: "problem", problem: `${path}: ${file.reason}. ${remedy}` };
  }
  return { kind: "found", path: null, text: "" };
}

/** The certificate files that the env file names and the environment does not, by their variables. Absolute paths. */
export async function certificateFiles(places: Places): Promise<Map<string, string>> {
  const found = await findEnvFile(places, readFileText);
  const files = new Map<string, string>();
  if (found.kind === "problem") return files;
  const { values } = parseEnvFile(found.text);
  for (const name of CERTIFICATE_SETTINGS) {
    const path = values.get(name)?.trim() ?? "";
    if (path === "" || places.environment[name]?.trim()) continue;
    files.set(name, absolutePath(places.workingDirectory, path));
  }
  return files;
}

/** Without them every connection would fail later, and for a reason that names no file. */
async function certificateProblems(
  environment: Environment,
  file: ReadonlyMap<string, string>,
  workingDirectory: string,
): Promise<string[]> {
  const problems: string[] = [];
  for (const name of CERTIFICATE_SETTINGS) {
    const path = environment[name]?.trim() || file.get(name)?.trim() || "";
    if (path === "") continue;
    const text = await readFileText(absolutePath(workingDirectory, path));
    const reason = !text.ok
      ? text.reason
      : text.text.includes("-----BEGIN")
        ? null
        : "it holds no certificate (-----BEGIN CERTIFICATE-----)";
    if (reason !== null) {
      problems.push(
        `${name} is ${shownPath(path)}: ${reason}. Name a PEM file with the certificate of the CA, or remove the setting.`,
      );
    }
  }
  return problems;
}

/** Whether anybody on this machine may read the file. A device or a pipe keeps nothing that could be read. */
async function isOpenToAll(path: string): Promise<boolean> {
  try {
    const stat = await Bun.file(path).stat();
    return stat.isFile() && (stat.mode & 0o004) !== 0;
  } catch {
    return false; // it is gone, or whoever asks may not know
  }
}

function hasKeys(environment: Environment): boolean {
  return Object.entries(environment).some(
    ([name, value = ""]) => /(?:^|_)API_KEYS(?:_FILE)?$/.test(name) && value.trim() !== "",
  );
}

/** The paths that `API_KEYS_FILE` and `X_API_KEYS_FILE` hold, as they are written. */
export function keyFilesOf(environment: Environment, file: ReadonlyMap<string, string>): Set<string> {
  const variables = [...file, ...Object.entries(environment)];
  const paths = variables
    .filter(([name]) => /(?:^|_)API_KEYS_FILE$/.test(name))
    .map(([, path]) => path?.trim());
  return new Set(paths.filter((path): path is string => path !== undefined && path !== ""));
}

const ABSENT = "there is no such file";
const FORBIDDEN = "it may not be read";

/** (By `Bun.file`, not by `node:fs`, which would take 0.6 MB of memory for one read at the start.) */
async function readFileText(path: string): Promise<FileText> {
  try {
    return { ok: true, text: await Bun.file(path).text() };
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR") return { ok: false, reason: ABSENT };
    if (code === "EACCES" || code === "EPERM") return { ok: false, reason: FORBIDDEN };
    if (code === "EISDIR") return { ok: false, reason: "it is a directory" };
    return { ok: false, reason: `it cannot be read (${code})` };
  }
}

function readListen(reader: SettingsReader): Listen {
  const host = reader.read("HOST", HOST);
  const port = reader.read("PORT", wholeNumber(0, 65_535));
  return host.kind === "unix" ? host : { ...host, port };
}

/** After the providers: their keys are what no client should know. */
function readAccess(reader: SettingsReader): Access {
  const text = reader.text("PROXY_API_KEY");
  if (text === null) return { mode: "protected" };
  if (text.toLowerCase() === "off") return { mode: "open" };
  const list = readClientKeys("PROXY_API_KEY", text, reader.poolKeys);
  for (const problem of list.problems) reader.problems.add(problem);
  for (const warning of list.warnings) reader.warnings.add(warning);
  for (const key of list.texts) reader.clientKeys.add(key);
  if (list.keys.length === 0 && list.problems.length === 0) {
    reader.problems.add(
      "PROXY_API_KEY holds no key. Put one there, or remove the setting for protected mode.",
    );
  }
  return { mode: "keys", clients: list.keys };
}

/** Bodies under way together may take so much of the memory, and no more than so many bytes. */
const BODIES_SHARE = 1 / 4;
const MOST_BUFFERED_BYTES = 256 * 1024 * 1024;

function readBodyLimits(
  reader: SettingsReader,
  memoryBytes: number | null,
): Pick<Config, "maxBodyBytes" | "maxBufferedBytes"> {
  const maxBodyBytes = reader.read("MAX_BODY_MB", MEGABYTES);
  const share = Math.floor((memoryBytes ?? Infinity) * BODIES_SHARE);
  const written = reader.readOptional("MAX_BUFFERED_MB", MEGABYTES);
  // A body over the one and under the other would be told to come back later, for ever.
  if (written === null) {
    return { maxBodyBytes, maxBufferedBytes: Math.max(maxBodyBytes, Math.min(share, MOST_BUFFERED_BYTES)) };
  }
  if (written < maxBodyBytes) {
    reader.warnings.add(
      "MAX_BUFFERED_MB is less than MAX_BODY_MB: a body between the two is always refused. Raise the one or lower the other.",
    );
  }
  return { maxBodyBytes, maxBufferedBytes: written };
}

/** After the providers, by whose names targets are found. */
function readRoutes(
  reader: SettingsReader,
  known: readonly KnownProvider[],
): Pick<Config, "routes" | "fallback"> {
  const routes = reader.text("ROUTES");
  const fallback = reader.text("FALLBACK");
  const routeList = routes === null ? null : parseRoutes(routes, known);
  const targetList = fallback === null ? null : parseFallback(fallback, known);
  for (const list of [routeList, targetList]) {
    for (const problem of list?.problems ?? []) reader.problems.add(problem);
    for (const warning of list?.warnings ?? []) reader.warnings.add(warning);
  }
  return { routes: routeList?.routes ?? [], fallback: targetList?.targets ?? [] };
}

/** Warns of variables that have no effect, because their name is misspelt. */
function warnOfMisspelling(reader: SettingsReader): void {
  const prefixes = new Set([...reader.values.keys()].map(providerPrefix).filter((prefix) => prefix !== null));
  const meantSetting = spellingOf(prefixes);
  for (const name of reader.values.keys()) {
    const setting = settingOf(name, prefixes);
    const source = reader.fromFile.has(name) ? "file" : "environment";
    if (setting !== null) continue;
    const meant = meantSetting(name, source);
    // In the environment API_KEY may well belong to another program once API_KEYS is there.
    if (meant === null || (source === "environment" && reader.has(meant))) continue;
    reader.warnings.add(`${name} is not a setting and has no effect. Did you mean ${meant}?`);
  }
}
