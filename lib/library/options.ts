/**
 * The options of a pool as the settings that they are, read by the same rules: `maxWaitSec` is `MAX_WAIT_SEC`, and what
 * is wrong with it is said in the same words, with the name that was written. Pure.
 */
import { parsePoolConfig } from "../config/config.ts";
import type { Config } from "../config/config.ts";
import type { ServerSettings } from "../config/server-settings.ts";
import { nearest, PROVIDER_SETTINGS, SETTINGS, vocabularyOf } from "../config/settings.ts";
import { isObject } from "../core/json.ts";
import type { JsonObject } from "../core/json.ts";
import type { Fetch, PoolEvent, StateStorage } from "./public.ts";

/** What the options say. */
export interface ReadOptions {
  readonly config: Config;
  /** Lines for people; nothing is stopped by them. */
  readonly warnings: readonly string[];
  readonly state: "off" | { readonly file: string } | StateStorage;
  /** null: nobody wants to know. */
  readonly onEvent: ((event: PoolEvent) => unknown) | null;
  /** null: the global one. */
  readonly fetch: Fetch | null;
}

/** Settings of the proxy that are no options here, and what to do instead. */
const NO_OPTIONS: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    ["PORT", "HOST", "PROXY_API_KEY", "CORS_ORIGINS", "CLIENT_LIMITS", "DRAIN_SEC", "ADMIN_PASSWORD"].map(
      (name) => [name, "is a setting of the proxy's server, and a library has none. Remove it"],
    ),
  ),
  ...Object.fromEntries(
    ["LOG_LEVEL", "LOG_FORMAT", "LOG_DIR", "LOG_RETENTION_DAYS", "WEBHOOK_URL"].map((name) => [
      name,
      "is a setting of the proxy. Use onEvent to log or to notify",
    ]),
  ),
  ...Object.fromEntries(
    ["UPSTREAM_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"].map((name) => [
      name,
      "is a setting of the proxy. Set it up in the runtime, or give a fetch that goes that way",
    ]),
  ),
  API_KEYS_FILE: "is a setting of the proxy. Read the file yourself, and give its text as apiKeys",
  STATE_PREFIX: "is a setting of the proxy, for a Redis server. Remove it",
};

/** What a pool without a server has in the place of a server's settings. */
const NO_SERVER: ServerSettings = {
  corsOrigins: [],
  drainMs: 0,
  logLevel: "info",
  logFormat: null,
  logDir: null,
  logRetentionDays: 0,
  clientLimits: [],
  clientZone: "UTC",
  statePath: null,
  stateServer: null,
  certificateFiles: [],
  adminPassword: null,
  webhookUrl: null,
};

const isOption = (setting: string) => !Object.hasOwn(NO_OPTIONS, setting) && setting !== "STATE";

/** Options that are settings, by the names of both. */
const POOL_OPTIONS = byOption(Object.keys(SETTINGS).filter(isOption));
const PROVIDER_OPTIONS = byOption(PROVIDER_SETTINGS.filter(isOption));
const REFUSED_OPTIONS = byOption(Object.keys(NO_OPTIONS));
/** Options that are none. */
const OTHER_OPTIONS = ["providers", "state", "onEvent", "fetch"];

function byOption(settings: readonly string[]): ReadonlyMap<string, string> {
  return new Map(settings.map((setting) => [optionOf(setting), setting]));
}

/** `maxWaitSec` for `MAX_WAIT_SEC`. */
function optionOf(setting: string): string {
  return setting.toLowerCase().replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
}

/** Throws one `TypeError` that names all mistakes, a line each. */
export function readOptions(options: unknown): ReadOptions {
  const problems: string[] = [];
  const given = isObject(options) ? options : {};
  if (!isObject(options)) problems.push('The options are no object. Give { apiKeys: ["…"] }.');
  const settings = new Map<string, string>();
  addSettings(given, "", POOL_OPTIONS, settings, problems);
  const names = addProviders(given["providers"], settings, problems);
  const state = readState(given["state"], problems);
  const onEvent = readFunction<(event: PoolEvent) => unknown>(given, "onEvent", problems);
  const fetch = readFunction<Fetch>(given, "fetch", problems);
  // A pool has no port that a base URL could be the address of, and no clients but its own process.
  const environment = { ...Object.fromEntries(settings), PORT: "0", PROXY_API_KEY: "off" };
  const parsed = parsePoolConfig(environment, NO_SERVER);
  const inOptions = (line: string) => (NO_KEYS_PROBLEM.test(line) ? GIVE_KEYS : withOptionNames(line, names));
  if (!parsed.ok) problems.push(...parsed.problems.map(inOptions));
  if (!parsed.ok || problems.length > 0) {
    throw new TypeError(
      `createPooledFetch cannot use its options:\n${problems.map((line) => `- ${line}`).join("\n")}`,
    );
  }
  return { config: parsed.config, warnings: parsed.warnings.map(inOptions), state, onEvent, fetch };
}

const NO_KEYS_PROBLEM = /^There are no API keys\./;
const GIVE_KEYS =
  'There are no API keys. Give apiKeys: ["key1", "key2"], or providers: { name: { apiKeys: ["key1"] } }.';

/** Writes options into `settings`. `path`: `providers.groq.` within a named provider. */
function addSettings(
  given: JsonObject,
  path: string,
  known: ReadonlyMap<string, string>,
  settings: Map<string, string>,
  problems: string[],
  prefix = "",
): void {
  for (const [option, value] of Object.entries(given)) {
    if (path === "" && OTHER_OPTIONS.includes(option)) continue;
    const setting = known.get(option);
    if (setting === undefined) {
      problems.push(notAnOption(option, path, known));
      continue;
    }
    if (value === undefined) continue;
    const text = textOf(value, setting);
    if (text === null)
      problems.push(`${path}${option} is ${kindOf(value)}. ${WANTED[setting] ?? "Use a number or a text"}.`);
    else settings.set(prefix + setting, text);
  }
}

function notAnOption(option: string, path: string, known: ReadonlyMap<string, string>): string {
  const refused = REFUSED_OPTIONS.get(option);
  if (refused !== undefined) return `${path}${option} ${NO_OPTIONS[refused]}.`;
  const names = [...known.keys(), ...(path === "" ? OTHER_OPTIONS : [])];
  const meant = nearest(option, vocabularyOf(names));
  return `${path}${option} is not an option.${meant === null ? " Remove it." : ` Did you mean ${path}${meant}?`}`;
}

/** What an option has to be that is no number and no text alone. */
const WANTED: Readonly<Record<string, string>> = {
  API_KEYS: "Use a list of keys, or a text with commas between them",
  RETRY_STATUS: 'Use a text such as "429,500-504", or a list of statuses',
  DISABLED: "Use true or false",
};

/** A value as it would be written in the environment; null: it cannot be one. */
function textOf(value: unknown, setting: string): string | null {
  if (typeof value === "string") return value;
  if (typeof value === "number") return String(value);
  if (typeof value === "boolean") return setting === "DISABLED" ? String(value) : null;
  if (!Array.isArray(value) || (setting !== "API_KEYS" && setting !== "RETRY_STATUS")) return null;
  const isItem = (item: unknown) =>
    typeof item === "string" || (setting === "RETRY_STATUS" && typeof item === "number");
  return value.every(isItem) ? value.join(",") : null;
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list that holds something else";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

/** The providers' names by the prefix of their settings. */
function addProviders(
  providers: unknown,
  settings: Map<string, string>,
  problems: string[],
): Map<string, string> {
  const names = new Map<string, string>();
  if (providers === undefined) return names;
  if (!isObject(providers)) {
    problems.push(`providers is ${kindOf(providers)}. Use { groq: { apiKeys: ["…"] } }.`);
    return names;
  }
  for (const [name, provider] of Object.entries(providers)) {
    const path = `providers.${name}`;
    const prefix = name.toUpperCase();
    if (provider === undefined) continue;
    if (!/^[A-Z0-9][A-Z0-9_]*$/.test(prefix)) {
      problems.push(`${path} cannot be a name. Use letters, digits and _.`);
    } else if (names.has(prefix)) {
      problems.push(
        `${path} is the same name as providers.${names.get(prefix)}. Capitals make no difference: use another one.`,
      );
    } else if (!isObject(provider)) {
      problems.push(`${path} is ${kindOf(provider)}. Use { apiKeys: ["…"] }.`);
    } else {
      names.set(prefix, name);
      addSettings(provider, `${path}.`, PROVIDER_OPTIONS, settings, problems, `${prefix}_`);
      if ((settings.get(`${prefix}_API_KEYS`) ?? "").trim() === "") {
        // What is said of the rest of it needs a provider with a key.
        if (provider["apiKeys"] === undefined || textOf(provider["apiKeys"], "API_KEYS") !== null)
          problems.push(`${path}.apiKeys holds no key. Put at least one there, or remove ${path}.`);
        settings.set(`${prefix}_API_KEYS`, "in-place-of-a-key");
      }
    }
  }
  return names;
}

function readState(state: unknown, problems: string[]): ReadOptions["state"] {
  if (state === undefined || state === "off") return "off";
  if (typeof state === "string" && state.trim() !== "" && !/^\w+:\/\//.test(state)) return { file: state };
  if (isStorage(state)) return state;
  problems.push(
    'state is none of "off", the path of a file, and an object with the functions load() and save(json).',
  );
  return "off";
}

function isStorage(state: unknown): state is StateStorage {
  return (
    typeof state === "object" &&
    state !== null &&
    "load" in state &&
    "save" in state &&
    typeof state.load === "function" &&
    typeof state.save === "function"
  );
}

function readFunction<F>(given: JsonObject, name: string, problems: string[]): F | null {
  const value = given[name];
  if (value === undefined) return null;
  if (isFunction<F>(value)) return value;
  problems.push(`${name} is ${kindOf(value)}. Use a function.`);
  return null;
}

function isFunction<F>(value: unknown): value is F {
  return typeof value === "function";
}

/** A line of the settings' parser, with the names of options where settings are named. */
function withOptionNames(line: string, names: ReadonlyMap<string, string>): string {
  return line.replace(/\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*\b/g, (word) => {
    if (Object.hasOwn(SETTINGS, word)) return optionOf(word);
    const own = PROVIDER_SETTINGS.find((setting) => word.endsWith(`_${setting}`));
    if (own === undefined) return word;
    const prefix = word.slice(0, -own.length - 1);
    return `providers.${names.get(prefix) ?? prefix.toLowerCase()}.${optionOf(own)}`;
  });
}
