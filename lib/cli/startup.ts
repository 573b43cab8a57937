/**
 * How the program starts and ends: the banner, the environment and limits of the process, signals, and what the work
 * is written to. Nothing that is printed holds a key.
 */
import type { StateServer } from "../config/state-server.ts";
import type { Config, Environment, Listen, Places, ProviderConfig, RouteTarget } from "../config/config.ts";
import { codeOf } from "../core/json.ts";
import { formatDuration, nextTurn } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import type { Log, Observer } from "../core/events.ts";
import type { Secret } from "../core/secret.ts";
import type { LogFiles } from "../observability/log-files.ts";
import { createBoundedWriter, createLog, logLine, sendToStdout } from "../observability/log.ts";
import type { Store } from "../observability/store.ts";
import type { SharedUsage } from "../observability/shared-usage.ts";
import type { SharedPool } from "../sharing/shared-pool.ts";
import { Usage } from "../observability/usage.ts";
import { EXIT_FINE, EXIT_USAGE } from "./args.ts";

export interface Running {
  version: string;
  /** Where it listens. */
  url: string;
}

/** The first lines of a run. `envFile`: the file the settings came from, null where there was none. */
export function banner(
  config: Config,
  { version, url, envFile, addresses }: Running & { envFile: string | null; addresses: readonly string[] },
): string {
  const reached = reachableUrls(config, url, addresses);
  return [
    `keywheel ${version}`,
    ...config.providers.map((provider, index) => providerLine(provider, index === 0)),
    ...chainLines(config),
    `  settings   ${envFile ?? "from the environment"}`,
    `  open to    ${whoMayConnect(config)}`,
    `  dashboard  ${config.adminPassword === null ? "off (set ADMIN_PASSWORD)" : dashboardUrl(reached)}`,
    `  give this base URL to your agent:  ${baseUrl(url)}${agentKey(config)}`,
    ...reached.slice(1).map((other) => `  from another machine:              ${baseUrl(other)}`),
  ].join("\n");
}

/** Where it is reached: here, and from other machines where they may connect. `addresses`: of this machine. */
function reachableUrls({ access, listen }: Config, url: string, addresses: readonly string[]): string[] {
  const isForOthers =
    listen.kind === "tcp" && access.mode !== "protected" && hostOf(listen.hostname) !== listen.hostname;
  if (!isForOthers || listen.hostname.includes(":")) return [url];
  const { port } = new URL(url);
  return [url, ...addresses.map((address) => `http://${address}:${port}`)];
}

/** Whoever sits elsewhere needs the address that others use. */
function dashboardUrl([here = "", other]: readonly string[]): string {
  if (here.startsWith("unix:")) return `/admin at ${here}`;
  return other === undefined ? `${here}/admin` : `${here}/admin or ${other}/admin`;
}

/** More are not shown: bridges of containers have addresses too. */
const MOST_ADDRESSES = 2;

/** The IPv4 addresses by which other machines reach this one, best first. */
export async function localAddresses(): Promise<string[]> {
  const read = (path: string) =>
    Bun.file(path)
      .text()
      .catch(() => ""); // no Linux, or no /proc
  return addressesIn(await read("/proc/net/fib_trie"), await read("/proc/net/route"));
}

/**
 * This machine's addresses in what the kernel tells of its networks; those of the network that leads out come first.
 * (`node:os` has this too, for 1 MB of memory.) Pure.
 */
export function addressesIn(fibTrie: string, routes: string): string[] {
  const own = [...fibTrie.matchAll(/\|-- (\d+\.\d+\.\d+\.\d+)\n\s*\/32 host LOCAL/g)].map(
    ([, address = ""]) => address,
  );
  const table = routes.split("\n").map((line) => line.split(/\s+/));
  const [outward = ""] = table.find(([, destination]) => destination === "00000000") ?? [];
  const isOutward = (address: string) =>
    table.some(([name, destination = "", , , , , , mask = ""]) => {
      const bits = Number.parseInt(mask, 16);
      return (
        name === outward &&
        bits !== 0 &&
        (littleEndian(address) & bits) >>> 0 === Number.parseInt(destination, 16)
      );
    });
  const addresses = [...new Set(own)].filter((address) => !address.startsWith("127."));
  return addresses.toSorted((a, b) => Number(isOutward(b)) - Number(isOutward(a))).slice(0, MOST_ADDRESSES);
}

/** An address as `/proc/net/route` has it. */
function littleEndian(address: string): number {
  return address.split(".").reduce((sum, part, at) => (sum | (Number(part) << (8 * at))) >>> 0, 0);
}

/** Nothing is configured: what to do, on one screen. */
export const NO_SETTINGS = `There are no API keys yet, so there is nothing to serve. One of these:

  keywheel init      asks for your keys and writes the settings
                     (keywheel init --system: of the installed service)
  keywheel --demo    shows what it does, without any key

Or write them yourself, into .env here or into the environment:

  API_KEYS=first-key,second-key

Then start keywheel again, and give your tools http://127.0.0.1:3000/v1 as their
base URL. keywheel help shows the rest.
`;

/** What the first lines of `--demo` tell. */
interface RunningDemo extends Running {
  /** Of the dashboard. */
  password: string;
  /** Requests of a key in each window. */
  limit: number;
  windowMs: number;
}

/** The first lines of `--demo`: what it is, and a command that works when pasted. */
export function demoBanner(config: Config, { version, url, password, limit, windowMs }: RunningDemo): string {
  const [{ keys }] = config.providers;
  const window = `${windowMs / 1000} seconds`;
  const curl = `curl -s ${baseUrl(url)}/chat/completions -H 'content-type: application/json' -d '{"model":"demo","messages":[{"role":"user","content":"hello"}]}'`;
  return `keywheel ${version} demo: ${keys.length} keys of a built-in fake provider, ${limit} requests in ${window} each.
Nothing leaves this machine, and no real key is needed.

  base URL   ${baseUrl(url)}   (any API key, any model name)
  dashboard  ${url}/admin   password: ${password}

Paste this into another terminal, a few times in a row. The keys take turns, which is told below; when all are full, a
request waits some seconds for a key instead of failing:

  ${curl}

All that at once, as agents do it:

  for n in $(seq ${keys.length * limit + 3}); do ${curl}; echo; done

Ctrl-C ends it.
`;
}

function providerLine(
  { name, dialect, baseUrl: target, recognisedBy, keys, cooldownMs, disabled }: ProviderConfig,
  isDefault: boolean,
): string {
  const label = isDefault ? "target" : `/${name}`;
  const count = keys.length === 1 ? "1 key" : `${keys.length} keys`;
  const state = disabled ? ", switched off" : "";
  const speaks = recognisedBy === null ? dialect : `${dialect}, as the keys begin with ${recognisedBy}`;
  return `  ${label.padEnd(10)} ${target.href.replace(/\/$/, "")} (${speaks}), ${count}, cooldown ${formatDuration(cooldownMs)} after a 429 without a hint${state}`;
}

/** Where requests may go besides: model names to ask for, and what stands in when the default provider is out. */
function chainLines({ routes, fallback }: Config): string[] {
  const lines: string[] = [];
  if (routes.length > 0) lines.push(`  routes     ${routes.map(({ name }) => name).join(", ")}`);
  if (fallback.length > 0) lines.push(`  fallback   ${fallback.map(targetText).join(" > ")}`);
  return lines;
}

function targetText({ provider, model }: RouteTarget): string {
  return model === null ? provider : `${provider}/${model}`;
}

function whoMayConnect({ access, listen }: Config): string {
  const where = listen.kind === "unix" ? "whoever may open the socket" : `whoever reaches ${listen.hostname}`;
  switch (access.mode) {
    case "protected":
      return listen.kind === "unix"
        ? where
        : "this machine only (protected mode; set PROXY_API_KEY to let others in)";
    case "keys":
      return `${where} with ${access.clients.length === 1 ? "the client key" : `one of ${access.clients.length} client keys`}`;
    case "open":
      return `${where}, without a key (PROXY_API_KEY=off)`;
  }
}

function agentKey({ access }: Config): string {
  return access.mode === "keys" ? "   API key: one of PROXY_API_KEY" : "   API key: anything";
}

function baseUrl(url: string): string {
  return url.startsWith("unix:") ? url : `${url}/v1`;
}

/** Where it is reached: `http://127.0.0.1:3000`, or `unix:/path`. `port`: the one that was taken. */
export function urlOf(listen: Listen, port: number | undefined): string {
  return listen.kind === "unix" ? `unix:${listen.path}` : `http://${hostOf(listen.hostname)}:${port}`;
}

/** The host to write into a URL for an address that is listened on: all addresses include this machine's own. */
function hostOf(hostname: string): string {
  if (hostname === "0.0.0.0" || hostname === "::") return "127.0.0.1";
  return hostname.includes(":") ? `[${hostname}]` : hostname;
}

/** Why the address cannot be listened on, and what to do. */
export function whyNotListening(listen: Listen, error: unknown): string {
  const code = codeOf(error) || "unknown failure";
  if (listen.kind === "unix") {
    return `Cannot listen on ${listen.path} (${code}). If no other keywheel uses it, remove the file; else choose another HOST=unix:/path.`;
  }
  const { hostname, port } = listen;
  switch (code) {
    case "EADDRINUSE":
      return `Port ${port} is taken by another program. Stop it, or choose another port: PORT=${port + 1} (PORT=0 picks a free one).`;
    case "EACCES":
      return `Port ${port} may not be used without special rights. Choose one from 1024 up: PORT=3000.`;
    case "EADDRNOTAVAIL":
      return `HOST is ${hostname}, which is no address of this machine. Use 0.0.0.0 for all of its addresses, or 127.0.0.1.`;
    default:
      return `Cannot listen on ${hostname} port ${port} (${code}). Check HOST and PORT.`;
  }
}

// ── The process ───────────────────────────────────────────────────────────────────────────────────────────────────

/** The environment of this process. */
interface GivenEnvironment {
  /** What was given to it from outside. */
  readonly given: Record<string, string>;
  /** What it runs with: `renewProcess` may have added to it. */
  readonly actual: Record<string, string>;
}

/**
 * Replaces this process by itself, once, where the runtime needs another environment than the one that was given,
 * which it reads only at its start (Bun 1.4.5). Returns where there is no need to; the exit code of a refusal where
 * it cannot be done and would not be safe.
 *
 * What a server wants is in `SERVER_RUNTIME`. Certificates of the settings file are trusted. Certificates are checked,
 * whatever NODE_TLS_REJECT_UNAUTHORIZED says: keys would go to whoever answers. The environment that is passed on is
 * the one that was given: from source, Bun has mixed the working directory's `.env` into its own copy.
 */
export function renewProcess(
  { given, actual }: GivenEnvironment,
  certificates: ReadonlyMap<string, string>,
  { isServer }: { isServer: boolean },
): number | null {
  const { [FETCH_TRACE]: _, [TLS_CHECK]: tlsCheck, ...others } = given;
  const wanted: Record<string, string> = {
    ...(isServer ? SERVER_RUNTIME : {}),
    ...others,
    ...Object.fromEntries(certificates),
    ...(certificates.size === 0 ? {} : { [ADDED]: [...certificates.keys()].join() }),
  };
  const decisive = [...Object.keys(SERVER_RUNTIME), FETCH_TRACE, TLS_CHECK, ADDED, ...certificates.keys()];
  if (decisive.every((name) => actual[name] === wanted[name])) return null;
  const isCheckOff = /^(?:0|false)$/i.test(tlsCheck ?? "");
  if (isCheckOff) {
    console.error(
      `warning: ${TLS_CHECK}=${tlsCheck} is ignored: without checking certificates, keys would go to whoever answers. Remove it; to trust a CA of your own, set NODE_EXTRA_CA_CERTS to its file.`,
    );
  }
  const own = Bun.isStandaloneExecutable
    ? process.argv.slice(2)
    : ["--no-env-file", ...process.argv.slice(1)];
  try {
    process.execve?.(process.execPath, [process.argv0, ...own], wanted);
  } catch {
    // Told below: it goes on as it is.
  }
  if (isCheckOff) return EXIT_USAGE;
  console.error(
    `warning: this process could not start anew: at most 256 requests at a time go through, and certificates of the settings file are not trusted. Set ${[FETCH_LIMIT, ...certificates.keys()].join(", ")} in the environment.`,
  );
  return null;
}

const FETCH_LIMIT = "BUN_CONFIG_MAX_HTTP_REQUESTS";
/** How a server wants the runtime; what the operator has set is kept. The unit and the Dockerfile say the same. */
export const SERVER_RUNTIME = {
  /** Of requests under way at once: the 257th stream would hang otherwise. */
  [FETCH_LIMIT]: "65535",
  /** The address of a name is kept so long: half a minute would be long where the name has moved. */
  BUN_CONFIG_DNS_TIME_TO_LIVE_SECONDS: "5",
  /**
   * The last stage of the JIT compiler costs more, in time and memory, than it saves a proxy (.github/decisions.md).
   */
  BUN_JSC_useFTLJIT: "0",
};
/** Has Bun print every request with its fields to stderr: keys among them. */
const FETCH_TRACE = "BUN_CONFIG_VERBOSE_FETCH";
const TLS_CHECK = "NODE_TLS_REJECT_UNAUTHORIZED";
/** Names what `renewProcess` has added from the settings file: that is not from outside, and the file may change. */
const ADDED = "KEYWHEEL_ADDED";

/** The environment as the process was given it. */
export async function givenEnvironment(): Promise<GivenEnvironment> {
  const actual = await readEnvironment();
  const added = actual[ADDED]?.split(",") ?? [];
  const given = Object.entries(actual).filter(([name]) => name !== ADDED && !added.includes(name));
  return { given: Object.fromEntries(given), actual };

  async function readEnvironment(): Promise<Record<string, string>> {
    try {
      const text = await Bun.file("/proc/self/environ").text();
      const variables = text.split("\0").map((variable): [string, string] => {
        const equals = variable.indexOf("=");
        return [variable.slice(0, equals), variable.slice(equals + 1)];
      });
      return Object.fromEntries(variables.filter(([name]) => name !== ""));
    } catch {
      // No /proc.
      return Object.fromEntries(Object.entries(process.env).map(([name, value]) => [name, value ?? ""]));
    }
  }
}

/** Where the installed service has its settings; the commands look there too. */
export const SYSTEM_ENV_FILE = "/etc/keywheel/.env";

/** Where settings are looked for. `envFile`: the PATH of `--env-file PATH`, or null. */
export function placesOf(environment: Record<string, string>, envFile: string | null): Places {
  const program = Bun.isStandaloneExecutable ? process.execPath : Bun.main;
  const programDirectory = program.slice(0, program.lastIndexOf("/"));
  return {
    environment,
    envFile,
    workingDirectory: process.cwd(),
    programDirectory,
    systemEnvFile: SYSTEM_ENV_FILE,
  };
}

/**
 * Whether stdout is a terminal: its device is one of the kernel's majors for consoles (4, 5) and pseudo-terminals
 * (136 to 143; Documentation/admin-guide/devices.txt). `process.stdout` would tell too, for 2 MB of memory.
 */
export async function writesToTerminal(): Promise<boolean> {
  try {
    const { rdev } = await Bun.file(1).stat();
    const major = (rdev >> 8) & 0xfff;
    return major === 4 || major === 5 || (major >= 136 && major <= 143);
  } catch {
    return false;
  }
}

/** Whether stdout is the journal of systemd, which names it by device and inode (systemd.exec(5), `JOURNAL_STREAM`). */
async function writesToJournal({ JOURNAL_STREAM: named }: Environment): Promise<boolean> {
  if (named === undefined) return false;
  try {
    const { dev, ino } = await Bun.file(1).stat();
    return named === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

// ── Signals ───────────────────────────────────────────────────────────────────────────────────────────────────────
//
// Those that end the proxy, and the one that has it read its settings again (P31, P32).

/** What runs until a signal comes. */
export interface Run {
  readonly proxy: {
    readonly engine: {
      readonly clock: Clock;
      readonly log: Log;
      /** As they are now: a reload may put others here. */
      readonly config: { readonly drainMs: number };
      readonly inFlight: number;
    };
    /** Takes no new requests, and ends when those in flight are over, or their time is. */
    drain(): Promise<void>;
  };
  /** What its work is written to: closed last, so that the last request is in it. */
  readonly outputs: { close(): Promise<void> };
  /** null: there are no settings to be read again. */
  readonly reloader: { reload(): Promise<unknown>; close(): void } | null;
}

/** Two SIGINTs within this time are one Ctrl-C. */
const SAME_CTRL_C_MS = 100;

/**
 * Serves until SIGTERM or SIGINT, then drains, and resolves with the exit code; a second signal ends the process at
 * once. SIGHUP reads the settings again.
 */
export function untilSignalled({ proxy, outputs, reloader }: Run): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  let drainingSince = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    const { inFlight, config, log, clock } = proxy.engine;
    // Ctrl-C under `bun run` comes twice: from the terminal, and passed on by the parent a moment later.
    if (signal === "SIGINT" && clock.now() < drainingSince + SAME_CTRL_C_MS) return;
    if (drainingSince > 0) process.exit(EXIT_FINE);
    drainingSince = clock.now();
    reloader?.close();
    log.line("info", "draining", { in_flight: inFlight, at_most: formatDuration(config.drainMs) });
    log.flush();
    void proxy
      .drain()
      .then(() => outputs.close())
      .then(() => resolve(EXIT_FINE));
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  process.on("SIGHUP", () => void reloader?.reload());
  return promise;
}

// ── What the work is written to ───────────────────────────────────────────────────────────────────────────────────
//
// Log, log files, state file, webhook: each is opened, and its module loaded, only where a setting asks for it.

/** Everything that is told of the work. */
export interface Outputs {
  readonly log: Log;
  /** null: nobody asks for it. */
  readonly usage: Usage | null;
  /** null: nothing outlives the program, or a server keeps it. */
  readonly store: Store | null;
  /** The pool of several instances; null: this one is by itself. */
  readonly sharing: SharedPool | null;
  /** Why it cannot start with these settings, as a server says; null: it can. */
  readonly problem: string | null;
  readonly observers: readonly Observer[];
  /** Writes what is still to be written; takes a second at most. */
  close(): Promise<void>;
}

/** How long the last lines may take to be written. */
const LAST_WORDS_MS = 1000;

/** What everything that runs goes by. `random`: from 0 up to 1. */
interface TimeAndChance {
  readonly clock: Clock;
  readonly random: () => number;
  /** A name that nobody else has. */
  readonly newToken: () => string;
}

/** Opens what the settings ask for. */
export async function openOutputs(
  config: Config,
  environment: Environment,
  timeAndChance: TimeAndChance,
): Promise<Outputs> {
  const { clock } = timeAndChance;
  const isTerminal = await writesToTerminal();
  const format = config.logFormat ?? (isTerminal ? "text" : "json");
  const sayDropped = (lines: number) =>
    logLine(format, clock.wall(), "warn", "log_lines_dropped", { lines, hint: "nobody reads fast enough" });
  const output = createBoundedWriter(sendToStdout(isTerminal), sayDropped);
  const log = createLog({
    level: config.logLevel,
    format,
    clock,
    toJournal: await writesToJournal(environment),
    write: (text) => output.write(text),
  });
  const { statePath, stateServer, logDir, webhookUrl, adminPassword } = config;
  const usage = statePath === null && adminPassword === null ? null : new Usage();
  const files = logDir === null ? null : await openLogFiles(logDir, config, log, timeAndChance);
  const notifier = webhookUrl === null ? null : await openNotifier(webhookUrl, log, timeAndChance);
  const store =
    statePath === null || usage === null ? null : await openState(statePath, usage, log, timeAndChance);
  const shared =
    stateServer === null ? null : await openShared(stateServer, config, usage, log, timeAndChance);
  const sharing = typeof shared === "string" ? null : (shared?.pool ?? null);
  const sharedUsage = typeof shared === "string" ? null : (shared?.usage ?? null);
  return {
    log,
    usage,
    store,
    sharing,
    problem: typeof shared === "string" ? shared : null,
    observers: [usage, store, sharedUsage, files, notifier].filter((observer) => observer !== null),
    async close() {
      await sharing?.close();
      store?.close();
      log.flush();
      await Promise.race([Promise.all([output.flushed(), files?.close()]), nextTurn(LAST_WORDS_MS)]);
    },
  };
}

async function openState(
  path: string,
  usage: Usage,
  log: Log,
  { clock }: TimeAndChance,
): Promise<Store | null> {
  const { openStore } = await import("../observability/store.ts");
  return openStore({ path, clock, log, usage });
}

/** The pool of several instances, and their usage; or why the settings do not fit the server. */
async function openShared(
  server: StateServer,
  { providers }: Config,
  usage: Usage | null,
  log: Log,
  { clock, newToken }: TimeAndChance,
): Promise<{ pool: SharedPool; usage: SharedUsage | null } | string> {
  const { openSharedPool, ServerRefusal } = await import("../sharing/shared-pool.ts");
  const { SharedUsage } = await import("../observability/shared-usage.ts");
  const shared = usage && new SharedUsage(usage);
  try {
    const pool = await openSharedPool({ server, clock, log, newToken, usage: shared }, providers);
    return { pool, usage: shared };
  } catch (error) {
    if (!(error instanceof ServerRefusal)) throw error;
    return `STATE: the server at ${server.shown} cannot be used: ${error.message}.`;
  }
}

async function openLogFiles(
  directory: string,
  { logRetentionDays }: Config,
  log: Log,
  { clock }: TimeAndChance,
): Promise<LogFiles> {
  const { LogFiles } = await import("../observability/log-files.ts");
  return new LogFiles({ directory, retentionDays: logRetentionDays, clock, log });
}

async function openNotifier(url: Secret, log: Log, { clock, random }: TimeAndChance): Promise<Observer> {
  const { Webhook } = await import("../observability/webhook.ts");
  return new Webhook({ url, clock, random, fetch, log });
}
