/**
 * Which settings there are, what each is when it is not set, and which of them somebody probably meant. Pure.
 *
 * A default is written here as a person would write it, and read by the same rule: there is no second place that
 * states it. `.env.example` is compared with these tables by a test.
 */
import { DIALECTS } from "../providers/verdict.ts";
import { shown } from "./key-shapes.ts";
import type { Parser } from "./parsers.ts";

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
  MAX_BUFFERED_MB: null,
  DRAIN_SEC: "30",
  FALLBACK: null,
  FALLBACK_AFTER_SEC: "2",
  ROUTES: null,
  UPSTREAM_PROXY: null,
  NODE_EXTRA_CA_CERTS: null,
  SSL_CERT_FILE: null,
  MODELS: "default",
  CLIENT_LIMITS: null,
  STATE: "keywheel.db",
  STATE_PREFIX: "keywheel",
  ADMIN_PASSWORD: null,
  CORS_ORIGINS: null,
  LOG_LEVEL: "info",
  LOG_FORMAT: null,
  LOG_DIR: null,
  LOG_RETENTION_DAYS: "14",
  WEBHOOK_URL: null,
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
  "UPSTREAM_PROXY",
  "DISABLED",
] as const;

/** Any setting, by its name without a prefix. */
export type Setting = SettingName | (typeof PROVIDER_SETTINGS)[number];

/** Path segments that mean something else. */
const RESERVED_PROVIDERS = new Set(["v1", "health", "metrics", "admin", "default"]);

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

/** Letters and digits only, in one case: `Api-Keys` and `API_KEYS` are the same word written in two ways. */
export function folded(word: string): string {
  return word.replace(/[^A-Za-z0-9]/g, "").toUpperCase();
}

/** Words that may be meant, by their folded form. */
export type Vocabulary = ReadonlyMap<string, string>;

export function vocabularyOf(words: readonly string[]): Vocabulary {
  return new Map(words.map((word) => [folded(word), word]));
}

const MOST_SLIPS = 2;

/** How far apart two words are that `nearest` still takes for one another: the shorter, the closer. */
export function slipsAllowed(word: string): number {
  if (word.length < 6) return 0;
  return word.length < 8 ? 1 : MOST_SLIPS;
}

/**
 * The known word that `written` was probably meant to be, or null. Of several equally near the first.
 * `slips`: how many slips of the finger (at most 2) may lie between the two, by the length of the known word. Two
 * neighbours changed places (`PROT`) and a different spelling of the same letters always count.
 */
export function nearest(
  written: string,
  known: Vocabulary,
  slips: (word: string) => number = slipsAllowed,
): string | null {
  const same = known.get(folded(written));
  if (same !== undefined) return same;
  let best: string | null = null;
  let bestDistance = Infinity;
  for (const word of known.values()) {
    // Most words are told apart by their length alone, and this runs for every variable at every start.
    if (Math.abs(word.length - written.length) > MOST_SLIPS) continue;
    const allowed = slips(word);
    const distance = distanceBetween(written, word, Math.max(1, allowed));
    const near = distance <= allowed || (distance === 1 && isTransposition(written, word));
    if (near && distance < bestDistance) [best, bestDistance] = [word, distance];
  }
  return best;
}

function isTransposition(a: string, b: string): boolean {
  return a.length === b.length && [...a].sort().join("") === [...b].sort().join("");
}

/**
 * Damerau-Levenshtein distance, in its "optimal string alignment" form: letters added, dropped, replaced, or two
 * neighbours that changed places. Infinity where it is more than `most`, which is soon found out: only cells
 * that near to the diagonal are looked at, and every start compares all names with all settings.
 */
export function distanceBetween(a: string, b: string, most: number): number {
  if (Math.abs(a.length - b.length) > most) return Infinity;
  let beforeLast: number[] = [];
  let last: number[] = [];
  for (let j = 0; j <= most; j += 1) last[j] = j;
  for (let i = 1; i <= a.length; i += 1) {
    const row: number[] = [];
    let least = Infinity;
    if (i <= most) least = row[0] = i;
    for (let j = Math.max(1, i - most); j <= Math.min(b.length, i + most); j += 1) {
      let cell = (last[j - 1] ?? Infinity) + (a.charCodeAt(i - 1) === b.charCodeAt(j - 1) ? 0 : 1);
      cell = Math.min(cell, (last[j] ?? Infinity) + 1, (row[j - 1] ?? Infinity) + 1);
      if (i > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cell = Math.min(cell, (beforeLast[j - 2] ?? Infinity) + 1);
      }
      row[j] = cell;
      least = Math.min(least, cell);
    }
    if (least > most) return Infinity;
    [beforeLast, last] = [last, row];
  }
  const distance = last[b.length] ?? Infinity;
  return distance <= most ? distance : Infinity;
}

/** Variables of the process. On Linux read them from /proc/self/environ: Bun mixes `./.env` into its own. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** The settings as they were written, and what was found wrong with them. The same line is kept once. */
export class SettingsReader {
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
