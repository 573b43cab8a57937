/**
 * Settings that change while the proxy runs: read again when their files change or somebody asks, taken over when
 * they are in order, and refused with their problems when they are not (P32).
 */
import type { CancelTimer, Clock } from "../core/clock.ts";
import { loadConfig } from "./config.ts";
import type { Config, LoadedConfig, Places, ProviderConfig } from "./config.ts";
import type { Log } from "../core/events.ts";
import { Secret } from "../core/secret.ts";

/** An editor may write a file in several steps: it is read when it has been quiet for so long. */
const QUIET_MS = 200;

export type Reloaded =
  | { ok: true; changes: string[]; needRestart: string[]; warnings: string[] }
  | { ok: false; problems: string[] };

export interface ReloaderOptions {
  places: Places;
  /** What the program started with. */
  loaded: LoadedConfig & { ok: true };
  clock: Clock;
  log: Log;
  /** Goes by the configuration from now on. */
  apply(config: Config): void;
}

export class Reloader {
  readonly #options: ReloaderOptions;
  readonly #watch: FileWatch;
  #config: Config;
  #envFile: string | null;
  #warnings: string[];
  /** Why the files as they are now are not in use; empty: they are. */
  #problems: string[] = [];
  #running: Promise<Reloaded> = Promise.resolve({ ok: true, changes: [], needRestart: [], warnings: [] });

  constructor(options: ReloaderOptions) {
    const { loaded, clock } = options;
    this.#options = options;
    this.#config = loaded.config;
    this.#envFile = loaded.envFile;
    this.#warnings = loaded.warnings;
    this.#watch = new FileWatch(clock, () => clock.after(QUIET_MS, () => void this.reload()));
    void this.#watch.watch(loaded.watched);
  }

  get envFile(): string | null {
    return this.#envFile;
  }

  get warnings(): readonly string[] {
    return this.#warnings;
  }

  get problems(): readonly string[] {
    return this.#problems;
  }

  /** Reads the files again. One at a time: the last one asked for sees the files as they are after all others. */
  reload(): Promise<Reloaded> {
    this.#running = this.#running.then(() => this.#reload());
    return this.#running;
  }

  async #reload(): Promise<Reloaded> {
    const { places, log, apply } = this.#options;
    const loaded = await loadConfig(places);
    await this.#watch.watch(loaded.watched);
    const problems = loaded.ok ? movedKeys(this.#config, loaded.config) : loaded.problems;
    if (!loaded.ok || problems.length > 0) {
      this.#problems = problems;
      for (const problem of problems) log.line("error", "reload_refused", { problem });
      return { ok: false, problems };
    }
    const { lines, needRestart } = changesOf(this.#config, loaded.config);
    const isNews = (warning: string) => !this.#warnings.includes(warning);
    for (const warning of loaded.warnings.filter(isNews)) log.line("warn", "reload_warning", { warning });
    this.#problems = [];
    this.#warnings = loaded.warnings;
    this.#envFile = loaded.envFile;
    apply(loaded.config);
    this.#config = loaded.config;
    if (lines.length > 0) log.line("info", "reloaded", { changes: lines.join("; ") });
    for (const setting of needRestart) log.line("warn", "restart_needed", { setting });
    return { ok: true, changes: lines, needRestart, warnings: loaded.warnings };
  }

  close(): void {
    this.#watch.close();
  }
}

/**
 * Keys that would go to another host than before, which no setting names: half of a file may have been read, and its
 * address be still to come. A problem for each provider.
 */
function movedKeys(before: Config, after: Config): string[] {
  return after.providers.flatMap(({ name, baseUrl, keys, recognisedBy, isAssumed }) => {
    const old = before.providers.find((provider) => provider.name === name);
    const isNamed = recognisedBy === null && !isAssumed;
    const wasNamed = old !== undefined && old.recognisedBy === null && !old.isAssumed;
    if (isNamed || !wasNamed || old.baseUrl.host === baseUrl.host) return [];
    const ids = new Set(old.keys.map(({ secret }) => secret.id));
    if (!keys.some(({ secret }) => ids.has(secret.id))) return [];
    return [
      `No setting says any more where the keys in API_KEYS belong: they would go from ${old.baseUrl.host} to ${baseUrl.host}. Set TARGET_BASE_URL or PROVIDER, or restart the proxy.`,
    ];
  });
}

// ------------------------------------------------------------------- what is other than before

/** What takes effect only when the program starts. */
const AT_START = [
  "listen",
  "logFormat",
  "logDir",
  "logRetentionDays",
  "statePath",
  "stateServer",
  "webhookUrl",
  "certificateFiles",
] as const;
type AtStart = (typeof AT_START)[number];

const VARIABLES: Record<AtStart, string> = {
  listen: "HOST and PORT",
  logFormat: "LOG_FORMAT",
  logDir: "LOG_DIR",
  logRetentionDays: "LOG_RETENTION_DAYS",
  statePath: "STATE",
  stateServer: "STATE and STATE_PREFIX",
  webhookUrl: "WEBHOOK_URL",
  certificateFiles: "NODE_EXTRA_CA_CERTS and SSL_CERT_FILE",
};

export interface Changes {
  /** What is other than before, one line each; empty: nothing. */
  lines: string[];
  /** What was changed and has no effect until a restart. */
  needRestart: string[];
}

export function changesOf(before: Config, after: Config): Changes {
  const names = Object.keys(after).filter((name): name is keyof Config => name in before);
  const changed = names.filter((name) => name !== "providers" && !isSame(before[name], after[name]));
  const isAtStart = (name: keyof Config): name is AtStart => AT_START.some((other) => other === name);
  return {
    lines: [
      ...providerLines(before.providers, after.providers),
      ...changed.filter((name) => !isAtStart(name)).map((name) => `${variableOf(name)} changed`),
    ],
    needRestart: changed.filter(isAtStart).map((name) => VARIABLES[name]),
  };
}

function providerLines(before: readonly ProviderConfig[], after: readonly ProviderConfig[]): string[] {
  const lines: string[] = [];
  for (const provider of after) {
    const old = before.find(({ name }) => name === provider.name);
    if (old === undefined) lines.push(`provider ${provider.name} added with ${provider.keys.length} keys`);
    else lines.push(...linesOf(old, provider));
  }
  for (const { name } of before) {
    if (!after.some((provider) => provider.name === name)) lines.push(`provider ${name} removed`);
  }
  if (before[0]?.name !== after[0]?.name) lines.push(`the default provider is ${after[0]?.name}`);
  return lines;
}

function linesOf(before: ProviderConfig, after: ProviderConfig): string[] {
  const { name } = after;
  const ids = (provider: ProviderConfig) => provider.keys.map(({ secret }) => secret.id);
  const [old, now] = [ids(before), ids(after)];
  const added = now.flatMap((id, index) => (old.includes(id) ? [] : [`[${index}]`]));
  const removed = old.flatMap((id, index) => (now.includes(id) ? [] : [`[${index}]`]));
  const stayed = (list: string[], other: string[]) => list.filter((id) => other.includes(id)).join();
  const lines: string[] = [];
  if (added.length > 0) lines.push(`${name}: keys added: ${added.join(" ")}`);
  if (removed.length > 0) lines.push(`${name}: keys removed (as they were numbered): ${removed.join(" ")}`);
  if (stayed(old, now) !== stayed(now, old)) lines.push(`${name}: keys reordered`);
  const settings = Object.keys(after).filter(
    // How an address came about is no change of its own.
    (field): field is keyof ProviderConfig =>
      field !== "keys" && field !== "recognisedBy" && field !== "isAssumed",
  );
  const others = settings.filter((field) => !isSame(before[field], after[field]));
  if (others.length > 0) lines.push(`${name}: ${others.map(variableOf).join(", ")} changed`);
  const limits = (provider: ProviderConfig) =>
    provider.keys
      .filter(({ secret }) => old.includes(secret.id) && now.includes(secret.id))
      .map(({ secret, account, dailyLimit }) => `${secret.id} ${account} ${dailyLimit}`)
      .sort()
      .join();
  if (limits(before) !== limits(after)) lines.push(`${name}: accounts or daily limits of keys changed`);
  return lines;
}

/** `maxWaitMs` as it is written in the settings, near enough for a person: `max wait`. */
function variableOf(field: string): string {
  return field.replace(/(?:Ms|Bytes)$/, "").replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

function isSame(left: unknown, right: unknown): boolean {
  return JSON.stringify(left, plain) === JSON.stringify(right, plain);
}

/** Secrets become their fingerprints, sets their members. */
function plain(_name: string, value: unknown): unknown {
  if (value instanceof Set) return [...value];
  return value instanceof Secret ? value.id : value;
}

// ------------------------------------------------------------------------------ the files

const LOOK_EVERY_MS = 2000;

/**
 * Tells when one of some files has changed, appeared or gone. It looks every two seconds: that finds an editor's
 * replace-by-rename, a mounted secret that is swapped and a file on a network alike, costs a few system calls, and
 * no memory for a watcher of the kernel.
 */
export class FileWatch {
  readonly #clock: Clock;
  readonly #changed: () => void;
  #seen = new Map<string, string>();
  #cancel: CancelTimer = () => {};
  #isClosed = false;

  /** `changed` is called after a look that found something else than the one before. */
  constructor(clock: Clock, changed: () => void) {
    this.#clock = clock;
    this.#changed = changed;
  }

  /** Looks at these files from now on; what they are like now is not a change. */
  async watch(paths: readonly string[]): Promise<void> {
    this.#seen = await look(paths);
    this.#cancel();
    this.#lookLater();
  }

  #lookLater(): void {
    if (this.#isClosed) return;
    this.#cancel = this.#clock.after(LOOK_EVERY_MS, () => void this.#look());
  }

  async #look(): Promise<void> {
    const before = this.#seen;
    const now = await look([...before.keys()]);
    if (this.#isClosed || before !== this.#seen) return; // others are watched meanwhile
    this.#seen = now;
    this.#lookLater();
    if ([...now].some(([path, mark]) => before.get(path) !== mark)) this.#changed();
  }

  close(): void {
    this.#isClosed = true;
    this.#cancel();
  }
}

/** What tells one state of a file from another. */
async function look(paths: readonly string[]): Promise<Map<string, string>> {
  const marks = await Promise.all(
    paths.map(async (path): Promise<[string, string]> => {
      try {
        const { mtimeMs, size, ino } = await Bun.file(path).stat();
        return [path, `${mtimeMs} ${size} ${ino}`];
      } catch {
        return [path, "absent"]; // or unreadable: that too is a state
      }
    }),
  );
  return new Map(marks);
}
