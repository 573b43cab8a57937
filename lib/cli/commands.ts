/**
 * `check`, `status` and `keys`: what a person at a terminal, or a script, asks of a proxy that may run or not.
 *
 * Whatever can be is asked of the running proxy, which knows the truth; keys are added and removed where they are
 * written down, so that both work without one. No command ever shows a key.
 */
import { type CheckedKey, type CheckResult, checkKeys } from "../pool/key-health.ts";
import {
  EXIT_FAILED,
  EXIT_FINE,
  EXIT_USAGE,
  type KeyAction,
  type KeyName,
  type OperatorCommand,
} from "./args.ts";
import { type Clock, formatDuration, systemClock } from "../core/clock.ts";
import { type Config, loadConfig, type LoadedConfig, type Places } from "../config/config.ts";
import type { ChangeOutcome } from "../admin/views.ts";
import { type ConfiguredKey, readPoolKeys, splitKeys } from "../config/keys.ts";
import { SettingsFiles, planAddKeys, planRemoveKey } from "../admin/settings-editor.ts";
import {
  AdminClient,
  type Change,
  type Fetch,
  type Overview,
  type ShownKey,
  type ShownProvider,
} from "./admin-client.ts";
import { oneLine, openTerminal, table, type Column, type Terminal } from "./terminal.ts";
import { placesOf } from "./startup.ts";

/** What a command needs from outside. */
export interface CommandContext {
  readonly terminal: Terminal;
  readonly clock: Clock;
  /** Must obey no proxy of the environment: it carries keys, and the operator's password. */
  readonly fetch: Fetch;
  /** Where the configuration is looked for; `envFile`: the PATH of `--env-file`. */
  placesOf(envFile: string | null): Places;
}

/** Runs a command at this process's own terminal. Resolves with the exit code. */
export function operate(command: OperatorCommand, environment: Record<string, string>): Promise<number> {
  const { fetch } = new Bun.FetchSession({ proxy: false });
  return runCommand(command, {
    terminal: openTerminal(),
    clock: systemClock,
    fetch,
    placesOf: (envFile) => placesOf(environment, envFile),
  });
}

/** Runs a command to its end. Resolves with the exit code. */
export async function runCommand(command: OperatorCommand, context: CommandContext): Promise<number> {
  const places = context.placesOf(command.envFile);
  const loaded = await loadConfig(places);
  const files = () => settingsFiles(places, loaded);
  if (command.kind === "keys" && command.action === "add") return addKeys(command, loaded, files(), context);
  if (!loaded.ok) {
    for (const problem of loaded.problems) context.terminal.writeError(`${problem}\n`);
    return EXIT_USAGE;
  }
  const { config } = loaded;
  switch (command.kind) {
    case "check":
      return checkCommand(command, config, context);
    case "status":
      return status(command, config, context);
    case "keys":
      if (command.action === "list") return listKeys(command, config, context);
      return changeKeys(command, config, files(), context);
  }
}

// ---------------------------------------------------------------- check

const WORDS: Record<CheckResult, string> = {
  alive: "works",
  limited: "works, at its limit",
  dead: "dead",
  unreachable: "not reached",
  unknown: "not known",
};

/** Exit code 1 where a key is dead, or its provider could not be asked. */
async function checkCommand(
  { provider, json }: Extract<OperatorCommand, { kind: "check" }>,
  config: Config,
  { terminal, clock, fetch }: CommandContext,
): Promise<number> {
  const providers = config.providers.filter(({ name }) => provider === null || name === provider);
  if (providers.length === 0) return noSuchProvider(provider ?? "", config, terminal);
  const onProgress = (done: number, total: number) => {
    if (terminal.showsProgress) terminal.writeError(`\r\u001b[Kasked about ${done} of ${total} keys`);
  };
  const checked = await checkKeys(providers, { fetch, clock, onProgress });
  if (terminal.showsProgress) terminal.writeError("\r\u001b[K");
  if (json) {
    const keys = checked.map(({ result, ...key }) => ({
      ...key,
      result: result === "alive" ? "works" : result,
    }));
    terminal.write(`${JSON.stringify({ keys }, null, 2)}\n`);
  } else {
    const severalProviders = config.providers.length > 1;
    const columns: Column<CheckedKey>[] = [
      { title: "PROVIDER", of: (key) => (severalProviders ? key.provider : "") },
      { title: "KEY", of: (key) => String(key.index), align: "right" },
      { title: "ID", of: (key) => key.id, expendable: 1 },
      { title: "ACCOUNT", of: (key) => key.account ?? "", expendable: 2 },
      { title: "RESULT", of: (key) => WORDS[key.result] },
      { title: "WHY", of: (key) => key.detail },
    ];
    terminal.write(`${table(columns, checked, terminal.columns)}\n`);
  }
  return checked.some(({ result }) => result === "dead" || result === "unreachable")
    ? EXIT_FAILED
    : EXIT_FINE;
}

// ---------------------------------------------------------------- status

async function status(
  { json }: Extract<OperatorCommand, { kind: "status" }>,
  config: Config,
  context: CommandContext,
): Promise<number> {
  const { terminal, clock } = context;
  const operator = operatorOf(config, context);
  const overview = await overviewOrSay(operator, terminal);
  if (overview === null) {
    if (json)
      terminal.write(`${JSON.stringify({ status: "not_running", url: operator.address }, null, 2)}\n`);
    return EXIT_FAILED;
  }
  if (json) {
    terminal.write(`${JSON.stringify({ url: operator.address, ...overview.json }, null, 2)}\n`);
  } else {
    const up = formatDuration(overview.uptimeSec * 1000);
    terminal.write(`keywheel ${overview.version} at ${operator.address}: ${overview.status}, up ${up}\n`);
    const { providers } = overview;
    if (providers === null) terminal.writeError(`${HIDDEN}\n`);
    else terminal.write(`${providers.map(statusLineOf).join("")}\n${keyTable(providers, terminal, clock)}`);
  }
  return overview.status === "down" ? EXIT_FAILED : EXIT_FINE;
}

const HIDDEN =
  "It shows its keys only to this machine's own address (127.0.0.1) and to the operator. Set ADMIN_PASSWORD, or HOST=0.0.0.0.";

function statusLineOf({ name, dialect, baseUrl, state, pausedSec, waiting }: ShownProvider): string {
  const paused = state === "paused" ? ` for ${formatDuration(pausedSec * 1000)}` : "";
  const queue = waiting === 0 ? "" : `, ${waiting} waiting`;
  return `  ${oneLine(`${name} (${dialect}) ${baseUrl}: ${state}${paused}${queue}`)}\n`;
}

// ---------------------------------------------------------------- keys

async function listKeys(
  { provider, json }: Extract<OperatorCommand, { action: "list" }>,
  config: Config,
  context: CommandContext,
): Promise<number> {
  const { terminal, clock } = context;
  const operator = operatorOf(config, context);
  const found = await operator.find();
  const live = found.kind === "running" ? (await overviewOrSay(operator, terminal))?.providers : null;
  const all = live ?? config.providers.map(asConfigured);
  const providers = all.filter(({ name }) => provider === null || name === provider);
  if (providers.length === 0) return noSuchProvider(provider ?? "", config, terminal);
  if (json) {
    const keys = providers.flatMap(({ name, keys }) =>
      keys.map((key) => ({ provider: name, ...jsonOf(key) })),
    );
    terminal.write(`${JSON.stringify({ keys }, null, 2)}\n`);
    return EXIT_FINE;
  }
  if (live === null || live === undefined) {
    terminal.writeError(
      `No running proxy at ${operator.address} shows its keys: these are the configured ones.\n`,
    );
  }
  terminal.write(keyTable(providers, terminal, clock));
  return EXIT_FINE;
}

/** A provider as it would be shown before its proxy has started. */
function asConfigured({ name, dialect, baseUrl, keys }: Config["providers"][number]): ShownProvider {
  return {
    name,
    dialect,
    baseUrl: baseUrl.href,
    state: "",
    pausedSec: 0,
    waiting: 0,
    keys: keys.map(({ secret, account, dailyLimit }, index) => ({
      index,
      id: secret.id,
      account,
      state: "",
      reason: null,
      cooldownSec: 0,
      restingModels: 0,
      requests: 0,
      rateLimited: 0,
      errors: 0,
      today: 0,
      dailyLimit,
      rpmLimit: null,
      lastUsedAt: null,
      said: null,
    })),
  };
}

/** With the names of `/health`. */
function jsonOf(key: ShownKey): object {
  return {
    index: key.index,
    id: key.id,
    account: key.account,
    state: key.state === "" ? null : key.state,
    reason: key.reason,
    cooldown_sec: key.cooldownSec,
    requests: key.requests,
    rate_limited: key.rateLimited,
    errors: key.errors,
    today: key.today,
    daily_limit: key.dailyLimit,
    rpm_limit: key.rpmLimit,
    last_used: key.lastUsedAt === null ? null : `${new Date(key.lastUsedAt).toISOString().slice(0, 19)}Z`,
    said: key.said,
  };
}

function keyTable(providers: readonly ShownProvider[], terminal: Terminal, clock: Clock): string {
  const rows = providers.flatMap(({ name, keys }) => keys.map((key) => ({ provider: name, ...key })));
  const shownProvider = (name: string) => (providers.length > 1 ? name : "");
  const counted = (count: number) => (rows.some(({ state }) => state !== "") ? String(count) : "");
  const columns: Column<(typeof rows)[number]>[] = [
    { title: "PROVIDER", of: (key) => shownProvider(key.provider) },
    { title: "KEY", of: (key) => String(key.index), align: "right" },
    { title: "ID", of: (key) => key.id },
    { title: "ACCOUNT", of: (key) => key.account ?? "", expendable: 2 },
    { title: "STATE", of: stateText },
    { title: "TODAY", of: (key) => counted(key.today), align: "right", expendable: 1 },
    { title: "A DAY", of: (key) => String(key.dailyLimit ?? ""), align: "right", expendable: 3 },
    { title: "A MINUTE", of: (key) => String(key.rpmLimit ?? ""), align: "right", expendable: 6 },
    { title: "REQUESTS", of: (key) => counted(key.requests), align: "right", expendable: 5 },
    { title: "REFUSED", of: (key) => counted(key.rateLimited), align: "right", expendable: 5 },
    { title: "ERRORS", of: (key) => counted(key.errors), align: "right", expendable: 5 },
    { title: "LAST USED", of: (key) => lastUsed(key.lastUsedAt, clock.wall()), expendable: 4 },
  ];
  const said = rows
    .filter(({ said }) => said !== null)
    .map(({ provider, index, said }) => {
      const name = providers.length > 1 ? `${provider}/${index}` : String(index);
      return `upstream said of key ${name}: ${oneLine(said ?? "")}\n`;
    });
  return `${table(columns, rows, terminal.columns)}\n${said.join("")}`;
}

function stateText({ state, reason, cooldownSec, restingModels }: ShownKey): string {
  const because = reason === null ? "" : ` (${reason})`;
  if (state === "cooling") return `cooling ${formatDuration(cooldownSec * 1000)}${because}`;
  if (state !== "ready" || restingModels === 0) return `${state}${because}`;
  return `ready, but for ${restingModels === 1 ? "1 model" : `${restingModels} models`}`;
}

function lastUsed(at: number | null, now: number): string {
  return at === null ? "" : `${formatDuration(Math.max(0, Math.floor((now - at) / 1000)) * 1000)} ago`;
}

/** `keys add`: works before there is a configuration, too: a first key makes one. */
async function addKeys(
  command: Extract<OperatorCommand, { action: "add" }>,
  loaded: LoadedConfig,
  files: SettingsFiles,
  context: CommandContext,
): Promise<number> {
  const { terminal } = context;
  const provider = command.provider ?? (loaded.ok ? loaded.config.providers[0].name : "default");
  const { keys, problems, texts } = readPoolKeys(await writtenKeys(command, provider, terminal));
  for (const problem of problems) terminal.writeError(`${problem}\n`);
  if (problems.length > 0) return EXIT_USAGE;
  if (keys.length === 0) {
    terminal.writeError("No key was given. Type or paste it, or pipe it in.\n");
    return EXIT_USAGE;
  }
  const operator = loaded.ok ? await runningOperator(loaded.config, context) : null;
  let code = EXIT_FINE;
  for (const [index, text] of [...texts].entries()) {
    const key = keys[index]!;
    const change =
      operator === null
        ? changeOf(await files.change((sources) => planAddKeys(sources, provider, [key])))
        : await operator.change("POST", `/providers/${provider}/keys`, bodyOf(text, key));
    code = Math.max(code, tell(change, terminal));
  }
  return code;
}

/** The keys as they are given: one on the command line, or a line of several, as a setting may hold them. */
async function writtenKeys(
  { key }: Extract<OperatorCommand, { action: "add" }>,
  provider: string,
  terminal: Terminal,
): Promise<{ text: string; place: string }[]> {
  if (key !== null) {
    terminal.writeError(
      "warning: a key on the command line stays in the shell's history. Without it, keywheel keys add asks for it.\n",
    );
    return [{ text: key.reveal(), place: "The key" }];
  }
  const whose = provider === "default" ? "the default provider" : provider;
  const line = (await terminal.readSecret(`Key for ${whose} (it is not shown): `)) ?? "";
  const keys = splitKeys("The line", line);
  return keys.length === 1 ? keys.map(({ text }) => ({ text, place: "The key" })) : keys;
}

/** A key as the admin API takes it. */
function bodyOf(text: string, { account, dailyLimit }: ConfiguredKey): object {
  return {
    key: text,
    ...(account === null ? {} : { account }),
    ...(dailyLimit === null ? {} : { daily_limit: dailyLimit }),
  };
}

async function changeKeys(
  command: Extract<OperatorCommand, { action: KeyAction }>,
  config: Config,
  files: SettingsFiles,
  context: CommandContext,
): Promise<number> {
  const { terminal } = context;
  const { action } = command;
  const operator = await runningOperator(config, context);
  if (operator === null && action !== "remove") {
    const { address, hasPassword } = operatorOf(config, context);
    terminal.writeError(
      hasPassword
        ? `No keywheel answers at ${address}, and keys ${action} needs a running one. Start it, or correct HOST and PORT.\n`
        : `keys ${action} is asked of the running proxy, as its operator. Set ADMIN_PASSWORD, and try again.\n`,
    );
    return EXIT_FAILED;
  }
  const overview = operator === null ? null : await operator.overview();
  if (overview !== null && "isDone" in overview) return tell(overview, terminal);
  const providers = overview?.providers ?? config.providers.map(asConfigured);
  const named = keysNamed(command, providers);
  if (typeof named === "string") {
    terminal.writeError(`${named}\n`);
    return EXIT_FAILED;
  }
  let code = EXIT_FINE;
  for (const { provider, id } of named) {
    const path = `/providers/${provider}/keys/${id}`;
    const change =
      operator === null
        ? changeOf(await files.change((sources) => planRemoveKey(sources, provider, id)))
        : action === "remove"
          ? await operator.change("DELETE", path)
          : await operator.change("POST", `${path}/${action}`);
    code = Math.max(code, tell(change, terminal));
  }
  return code;
}

/** The keys that a command is about, or why there are none. Pure. */
function keysNamed(
  { provider, key }: { provider: string | null; key: KeyName | null },
  providers: readonly ShownProvider[],
): { provider: string; id: string }[] | string {
  const [first] = providers;
  // An id is one among all; a number is one of the default provider's.
  const isMeant = ({ name }: ShownProvider) =>
    provider !== null ? name === provider : key?.kind === "id" || name === first?.name;
  const meant = providers.filter(isMeant);
  if (meant.length === 0) return unknownProvider(provider ?? "", providers);
  const isNamed = ({ index, id }: ShownKey) =>
    key === null || (key.kind === "index" ? index === key.index : id === key.id);
  const named = meant.flatMap(({ name, keys }) =>
    keys.filter(isNamed).map(({ id }) => ({ provider: name, id })),
  );
  if (named.length > 0) return named;
  const asked = key === null ? "" : key.kind === "index" ? ` ${key.index}` : ` ${key.id}`;
  return `There is no key${asked}. keywheel keys list shows those that are there.`;
}

// ---------------------------------------------------------------- tools

/** Where keys are written. A first key makes the file that was named, else `.env` in the working directory. */
function settingsFiles(
  { environment, workingDirectory, envFile }: Places,
  loaded: LoadedConfig,
): SettingsFiles {
  const name = envFile ?? ".env";
  return new SettingsFiles({
    environment,
    workingDirectory,
    envFile: () => loaded.envFile,
    newEnvFile: name.startsWith("/") ? name : `${workingDirectory.replace(/\/+$/, "")}/${name}`,
  });
}

function changeOf({ kind, message }: ChangeOutcome): Change {
  return { isDone: kind === "done", message };
}

function operatorOf({ listen, adminPassword }: Config, { fetch, clock }: CommandContext): AdminClient {
  return new AdminClient({ listen, password: adminPassword, fetch, clock });
}

/** The running proxy where it can be asked for changes; null: it does not run, or has no password. */
async function runningOperator(config: Config, context: CommandContext): Promise<AdminClient | null> {
  const operator = operatorOf(config, context);
  if (!operator.hasPassword) return null;
  const found = await operator.find();
  return found.kind === "running" ? operator : null;
}

/** What the running proxy shows; null, and the reason is said, where there is none. */
async function overviewOrSay(operator: AdminClient, terminal: Terminal): Promise<Overview | null> {
  const found = await operator.find();
  switch (found.kind) {
    case "not_running":
      terminal.writeError(
        `No keywheel answers at ${operator.address}. Start it, or correct HOST and PORT.\n`,
      );
      return null;
    case "stranger":
      terminal.writeError(`What answers at ${operator.address} is no keywheel. Check HOST and PORT.\n`);
      return null;
    case "running": {
      if (!operator.hasPassword) return found.overview;
      const overview = await operator.overview();
      if (!("isDone" in overview)) return overview;
      terminal.writeError(`warning: ${oneLine(overview.message)}\n`);
      return found.overview;
    }
  }
}

/** Says what came of a change, and makes it an exit code. */
function tell({ isDone, message }: Change, terminal: Terminal): number {
  if (isDone) terminal.write(`${oneLine(message)}\n`);
  else terminal.writeError(`${oneLine(message)}\n`);
  return isDone ? EXIT_FINE : EXIT_FAILED;
}

function noSuchProvider(name: string, { providers }: Config, terminal: Terminal): number {
  terminal.writeError(`${unknownProvider(name, providers)}\n`);
  return EXIT_FAILED;
}

function unknownProvider(name: string, providers: readonly { name: string }[]): string {
  return `There is no provider ${name}: there is ${providers.map(({ name }) => name).join(", ")}.`;
}
