/**
 * `check` and `status`, and the way to every other command: what a person at a terminal, or a script, asks of a proxy
 * that may run or not.
 *
 * Whatever can be is asked of the running proxy, which knows the truth; keys are added and removed where they are
 * written down, so that both work without one. No command ever shows a key, save its last four characters.
 */
import { headlineOf } from "../admin/views.ts";
import { type Config, loadConfig } from "../config/config.ts";
import { formatDuration, pause, systemClock } from "../core/clock.ts";
import { type CheckedKey, checkByModel, checkKeys, type CheckResult } from "../pool/key-health.ts";
import {
  type CommandContext,
  adminClientOf,
  type Overview,
  overviewOrSay,
  type ShownProvider,
  type UsedToday,
} from "./admin-client.ts";
import type { AdminClient } from "./admin-client.ts";
import { EXIT_FAILED, EXIT_FINE, EXIT_USAGE, type InitCommand, type OperatorCommand } from "./args.ts";
import { init } from "./init.ts";
import { addKeys, changeKeys, keyTable, listKeys, noSuchProvider, settingsFiles } from "./key-commands.ts";
import { placesOf } from "./startup.ts";
import {
  type Colour,
  type Column,
  oneLine,
  openTerminal,
  painted,
  table,
  say,
  type Terminal,
  wrap,
} from "./terminal.ts";

/** Runs a command at this process's own terminal. Resolves with the exit code. */
export function operate(
  command: OperatorCommand | InitCommand,
  environment: Record<string, string>,
  newToken: () => string,
): Promise<number> {
  const { fetch } = new Bun.FetchSession({ proxy: false });
  return runCommand(command, {
    terminal: openTerminal(environment),
    clock: systemClock,
    fetch,
    newToken,
    placesOf: (envFile) => placesOf(environment, envFile),
  });
}

/** Runs a command to its end. Resolves with the exit code. */
export async function runCommand(
  command: OperatorCommand | InitCommand,
  context: CommandContext,
): Promise<number> {
  if (command.kind === "init") return init(command, context);
  const places = context.placesOf(command.envFile);
  const loaded = await loadConfig(places);
  const files = () => settingsFiles(places, loaded);
  if (command.kind === "keys" && command.action === "add") {
    return addKeys(command, loaded, files(), context);
  }
  if (!loaded.ok) {
    for (const problem of loaded.problems) say(`${problem}`, context.terminal);
    return EXIT_USAGE;
  }
  const { config } = loaded;
  switch (command.kind) {
    case "check":
      return check(command, config, context);
    case "status":
      return command.watch ? watchStatus(config, context) : status(command.json, config, context);
    case "keys":
      if (command.action === "list") return listKeys(command, config, context);
      return changeKeys(command, config, files(), context);
  }
}

// ── check ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const RESULT_WORDS: Record<CheckResult, string> = {
  alive: "works",
  limited: "works, at its limit",
  dead: "dead",
  unreachable: "not reached",
  unknown: "not known",
};

const COLOUR_OF_RESULT: Record<CheckResult, Colour> = {
  alive: "green",
  limited: "yellow",
  dead: "red",
  unreachable: "red",
  unknown: "grey",
};

/** Exit code 1 where a key is dead, or its provider could not be asked. */
async function check(
  { provider, model, json }: Extract<OperatorCommand, { kind: "check" }>,
  config: Config,
  { terminal, clock, fetch }: CommandContext,
): Promise<number> {
  const providers = config.providers.filter(({ name }) => provider === null || name === provider);
  if (providers.length === 0) return noSuchProvider(provider ?? "", config.providers, terminal);
  const onProgress = (done: number, total: number) => {
    if (terminal.showsProgress) terminal.writeError(`\r\u001b[Kasked about ${done} of ${total} keys`);
  };
  const checked = await checkKeys(providers, { fetch, clock, onProgress });
  if (model !== null) {
    for (const [at, key] of checked.entries()) {
      const config = providers.find(({ name }) => name === key.provider);
      const asked = config?.keys[key.index];
      if (key.result !== "unknown" || config === undefined || asked === undefined) continue;
      checked[at] = { ...key, ...(await checkByModel(config, asked, model, { fetch, clock })) };
      onProgress(at + 1, checked.length);
    }
  }
  if (terminal.showsProgress) terminal.writeError("\r\u001b[K");
  if (json) {
    const keys = checked.map(({ result, ...key }) => ({
      ...key,
      result: result === "alive" ? "works" : result,
    }));
    terminal.write(`${JSON.stringify({ keys }, null, 2)}\n`);
  } else {
    const severalProviders = config.providers.length > 1;
    const secretOf = (key: CheckedKey) =>
      providers.find(({ name }) => name === key.provider)?.keys[key.index]?.secret;
    const columns: Column<CheckedKey>[] = [
      { title: "PROVIDER", of: (key) => (severalProviders ? key.provider : "") },
      { title: "KEY", of: (key) => String(key.index), align: "right" },
      { title: "ID", of: (key) => key.id, expendable: 1 },
      { title: "ENDS", of: (key) => secretOf(key)?.lastFour ?? "", expendable: 2 },
      { title: "ACCOUNT", of: (key) => key.account ?? "", expendable: 3 },
      {
        title: "RESULT",
        of: (key) => RESULT_WORDS[key.result],
        colour: (key) => COLOUR_OF_RESULT[key.result],
      },
      { title: "WHY", of: (key) => key.detail, wraps: true },
    ];
    const { columns: width, hasColours } = terminal;
    terminal.write(`${table(columns, checked, { width, hasColours })}\n`);
    const isUnknown = checked.some((key) => key.result === "unknown");
    if (isUnknown && model === null) {
      say("Where no free question tells, --model MODEL asks that model for one token.", terminal);
    }
  }
  return checked.some(({ result }) => result === "dead" || result === "unreachable")
    ? EXIT_FAILED
    : EXIT_FINE;
}

// ── status ────────────────────────────────────────────────────────────────────────────────────────────────────────

async function status(json: boolean, config: Config, context: CommandContext): Promise<number> {
  const { terminal } = context;
  const client = adminClientOf(config, context);
  const overview = await overviewOrSay(client, terminal);
  if (overview === null) {
    if (json) terminal.write(`${JSON.stringify({ status: "not_running", url: client.address }, null, 2)}\n`);
    return EXIT_FAILED;
  }
  const used = await client.usedToday();
  if (json) {
    const today = used?.map(usedJson) ?? null;
    terminal.write(`${JSON.stringify({ url: client.address, ...overview.json, today }, null, 2)}\n`);
    return overview.status === "down" ? EXIT_FAILED : EXIT_FINE;
  }
  showStatus(overview, client, config, context);
  if (used !== null && used.length > 0) terminal.write(`\nToday (UTC):\n${usedTable(used, terminal)}\n`);
  return overview.status === "down" ? EXIT_FAILED : EXIT_FINE;
}

const WATCH_EVERY_MS = 2000;

/** Shows the status again and again: on a terminal in the same place. */
async function watchStatus(config: Config, context: CommandContext): Promise<number> {
  const { terminal, clock, signal = new AbortController().signal } = context;
  let code = EXIT_FINE;
  while (!signal.aborted) {
    if (terminal.isTerminal) terminal.write("\u001b[H\u001b[J");
    code = await status(false, config, context);
    await pause(WATCH_EVERY_MS, signal, clock);
  }
  return code;
}

const COLOUR_OF_STATUS: Readonly<Record<string, Colour>> = { ok: "green", degraded: "yellow", down: "red" };

/** Who shares the keys, in a line. */
function sharingText({ instances, isAlone }: NonNullable<Overview["sharing"]>): string {
  if (isAlone) return "It does not hear from the server in STATE, and goes on with its share of the limits.";
  return instances === 1 ? "No other proxy shares its keys now." : `${instances} proxies share these keys.`;
}

function showStatus(
  overview: Overview,
  { address, hasPassword }: AdminClient,
  config: Config,
  { terminal, clock }: CommandContext,
): void {
  const { status, version, uptimeSec, sharing, providers } = overview;
  const up = formatDuration(uptimeSec * 1000);
  const word = painted(status, COLOUR_OF_STATUS[status] ?? null, terminal);
  terminal.write(`keywheel ${version} at ${address}: ${word}, up ${up}\n`);
  if (sharing !== null) terminal.write(`${sharingText(sharing)}\n`);
  if (providers === null) return say(`${HIDDEN}`, terminal);
  const [first] = providers;
  if (first !== undefined) {
    const lines = wrap(oneLine(headlineText(first, config)), terminal.columns);
    terminal.write(`${lines.map((line) => painted(line, "bold", terminal)).join("\n")}\n`);
  }
  for (const provider of providers) terminal.write(`${statusLines(provider, terminal).join("\n")}\n`);
  terminal.write(`\n${keyTable(providers, config, terminal, clock)}`);
  if (!hasPassword) say(`${MORE_WITH_PASSWORD}`, terminal);
}

function usedJson({ provider, key, client, requests, ...tokens }: UsedToday): object {
  const { inputTokens, outputTokens, cachedTokens } = tokens;
  return {
    ...{ provider, key, client, requests },
    ...{ input_tokens: inputTokens, output_tokens: outputTokens, cached_tokens: cachedTokens },
  };
}

/** Requests and tokens of today, by key and client. */
function usedTable(used: readonly UsedToday[], terminal: Terminal): string {
  const hasSeveral = new Set(used.map(({ provider }) => provider)).size > 1;
  const hasClients = used.some(({ client }) => client !== null);
  const columns: Column<UsedToday>[] = [
    { title: "PROVIDER", of: ({ provider }) => (hasSeveral ? provider : ""), expendable: 2 },
    { title: "KEY", of: ({ key }) => key },
    { title: "CLIENT", of: ({ client }) => (hasClients ? (client ?? "-") : "") },
    { title: "REQUESTS", of: ({ requests }) => String(requests), align: "right" },
    { title: "TOKENS IN", of: ({ inputTokens }) => String(inputTokens), align: "right" },
    { title: "TOKENS OUT", of: ({ outputTokens }) => String(outputTokens), align: "right" },
    { title: "CACHED", of: ({ cachedTokens }) => String(cachedTokens), align: "right", expendable: 1 },
  ];
  return table(columns, used, { width: terminal.columns, hasColours: terminal.hasColours });
}

const HIDDEN =
  "It shows its keys only to this machine's own address (127.0.0.1) and to the operator. Set ADMIN_PASSWORD, or HOST=0.0.0.0.";

const MORE_WITH_PASSWORD =
  "With ADMIN_PASSWORD set, it also shows why a provider is paused and what upstream said of a key.";

/** What the next request meets. */
function headlineText(
  { keys, waiting, pausedSec, pauseReason, pauseSaid }: ShownProvider,
  config: Config,
): string {
  const provider = {
    keys: keys.map(({ state, reason, cooldownSec, rpmLimit }) => ({
      state: SHOWN_STATES.find((known) => known === state) ?? "disabled",
      reason,
      coolingMs: cooldownSec * 1000,
      rpmLimit,
    })),
    waiting,
    pausedMs: pausedSec * 1000,
    pauseReason: PAUSE_REASONS.find((known) => known === pauseReason) ?? null,
    pauseSaid,
  };
  return headlineOf({ provider, isDraining: false, maxWaitMs: config.maxWaitMs }).text;
}

const PAUSE_REASONS = ["common_cause", "upstream_faults"] as const;
const SHOWN_STATES = ["ready", "cooling", "disabled", "paused"] as const;

function statusLines(provider: ShownProvider, terminal: Terminal): string[] {
  const { name, dialect, baseUrl, state, pausedSec, pauseSaid, waiting } = provider;
  const paused = state === "paused" ? ` for ${formatDuration(pausedSec * 1000)}` : "";
  const said = pauseSaid === "" ? "" : `: ${pauseSaid}`;
  const queue = waiting === 0 ? "" : `, ${waiting} waiting`;
  const text = oneLine(`${name} (${dialect}) ${baseUrl}: ${state}${paused}${said}${queue}`);
  return wrap(text, terminal.columns - 4).map((line, part) =>
    `${part === 0 ? "  " : "    "}${line}`.trimEnd(),
  );
}
