/**
 * Which settings there are, what each is when it is not set, and which of them somebody probably meant. Pure.
 *
 * A default is written here as a person would write it, and read by the same rule: there is no second place that
 * states it. `.env.example` is compared with these tables by a test.
 */
import { folded, nearest, slipsAllowed, vocabularyOf } from "./wording.ts";
import { DIALECTS } from "../providers/verdict.ts";

/** Every setting and its default; null: there is none, or it depends on something else. */
export const SETTINGS = {
  API_KEYS: null,
  API_KEYS_FILE: null,
  TARGET_BASE_URL: "https://integrate.api.nvidia.com/v1",
  PROVIDER: null,
  PORT: "3000",
  HOST: "0.0.0.0",
  PROXY_API_KEY: null,
  COOLDOWN_SEC: "60",
  MAX_COOLDOWN_SEC: "86400",
  RPM: "auto",
  DAILY_LIMIT: null,
  TIMEZONE: null,
  STRATEGY: "round-robin",
  MAX_ATTEMPTS: "10",
  MAX_WAIT_SEC: "100",
  EXHAUSTED_STATUS: "503",
  RETRY_STATUS: "429,500,502-504,520-524,529",
  CONNECT_TIMEOUT_SEC: "10",
  FIRST_BYTE_TIMEOUT_SEC: "300",
  STREAM_IDLE_TIMEOUT_SEC: "120",
  MAX_BODY_MB: "32",
  MAX_IN_FLIGHT: "2048",
  MAX_BUFFERED_MB: "256",
  DRAIN_SEC: "30",
  FALLBACK: null,
  ROUTES: null,
  STATE: "keywheel.db",
  ADMIN_PASSWORD: null,
  CORS_ORIGINS: null,
  LOG_LEVEL: "info",
  LOG_FORMAT: null,
  LOG_DIR: null,
  LOG_RETENTION_DAYS: "14",
  WEBHOOK_URL: null,
  TELEGRAM_BOT_TOKEN: null,
  TELEGRAM_ALLOWED_USERS: null,
} as const satisfies Record<string, string | null>;

export type SettingName = keyof typeof SETTINGS;

/** The settings that have a default. */
export type DefaultedSetting = {
  [Name in SettingName]: (typeof SETTINGS)[Name] extends string ? Name : never;
}[SettingName];

/** What a named provider may set under its prefix: `GROQ_RPM`. */
export const PROVIDER_SETTINGS = [
  "API_KEYS",
  "API_KEYS_FILE",
  "BASE_URL",
  "PROVIDER",
  "RPM",
  "DAILY_LIMIT",
  "TIMEZONE",
  "STRATEGY",
  "COOLDOWN_SEC",
  "RETRY_STATUS",
  "DISABLED",
] as const;

/** Any setting, by its name without a prefix. */
export type Setting = SettingName | (typeof PROVIDER_SETTINGS)[number];

/** Path segments that mean something else. */
const RESERVED_PROVIDERS = new Set(["v1", "health", "metrics", "admin", "default"]);

/** What this version does not do yet, and what happens instead. Delete a row, and the setting takes effect. */
const NOT_YET: ReadonlyMap<Setting, string> = new Map<Setting, string>([
  ["TELEGRAM_BOT_TOKEN", "there is no Telegram bot"],
  ["TELEGRAM_ALLOWED_USERS", "there is no Telegram bot"],
]);

/** The warning that `setting` has no effect yet, or null. Its value may be a secret, and is not needed. */
export function notYet(setting: Setting): string | null {
  const instead = NOT_YET.get(setting);
  if (instead === undefined) return null;
  return `${setting} is not supported yet: ${instead}. It has no effect in this version.`;
}

/** The prefix under which `name` gives keys to a named provider (`GROQ_API_KEYS` to `GROQ`), or null. */
export function providerPrefix(name: string): string | null {
  return /^([A-Z0-9][A-Z0-9_]*)_API_KEYS(?:_FILE)?$/.exec(name)?.[1] ?? null;
}

/** Why no provider can have this prefix, or null. */
export function whyNotPrefix(prefix: string): string | null {
  const segment = prefix.toLowerCase();
  if (RESERVED_PROVIDERS.has(segment)) return `the path /${segment}/ is taken`;
  // MAX_COOLDOWN_SEC and TARGET_BASE_URL would each mean two things.
  const clash = settingsUnder(prefix).find((name) => Object.hasOwn(SETTINGS, name));
  return clash === undefined ? null : `${clash} is a setting of its own`;
}

/** Which setting `name` is, as it stands or under the prefix of a configured provider; null: none of ours. */
export function settingOf(name: string, prefixes: ReadonlySet<string>): Setting | null {
  if (isSettingName(name)) return name;
  for (const prefix of prefixes) {
    const setting = PROVIDER_SETTINGS.find((setting) => name === `${prefix}_${setting}`);
    if (setting !== undefined) return setting;
  }
  return null;
}

function isSettingName(name: string): name is SettingName {
  return Object.hasOwn(SETTINGS, name);
}

function settingsUnder(prefix: string): string[] {
  return PROVIDER_SETTINGS.map((setting) => `${prefix}_${setting}`);
}

/** Where a variable stands: the file is ours, the environment belongs to everyone. */
export type Source = "environment" | "file";

/** Names (without separators) that many programs use: in the environment they are not about us. */
const COMMON = new Set(["HOST", "PORT", "STATE", "RPM", "LOGLEVEL", "LOGDIR", "LOGFORMAT", "TIMEZONE"]);

/**
 * Tells which setting an unknown variable was probably meant to be, or null.
 * `prefixes` are those of the named providers that are configured.
 */
export function spellingOf(prefixes: ReadonlySet<string>): (name: string, source: Source) => string | null {
  const known = [...Object.keys(SETTINGS), ...[...prefixes].flatMap(settingsUnder)];
  const catalogue = DIALECTS.map((dialect) => dialect.toUpperCase());
  const inEnvironment = vocabularyOf(known);
  const inFile = vocabularyOf([...known, ...catalogue.map((prefix) => `${prefix}_API_KEYS`)]);
  return (name, source) => {
    if (source === "environment") {
      // OPENAI_API_KEY is set on many machines, for other programs.
      if (COMMON.has(folded(name)) || /._API_KEY$/.test(name)) return null;
      return nearest(name, inEnvironment, (word) => Math.min(1, slipsAllowed(word)));
    }
    // OPENAI_BASE_URL in a file without OPENAI_API_KEYS is for another program, not a slip.
    const prefix = catalogue.find((prefix) => name.startsWith(`${prefix}_`));
    if (prefix !== undefined && settingsUnder(prefix).includes(name)) return null;
    return nearest(name, inFile);
  };
}
