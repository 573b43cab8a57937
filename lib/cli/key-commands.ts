/**
 * `keys`: lists, adds, removes, pauses, resumes and resets keys.
 *
 * Where a proxy runs and has a password, it is asked, and the change holds at once; else the file is changed in which
 * the keys stand, which a running proxy watches. Pausing, resuming and resetting need a running proxy.
 */
import { readKeyLines } from "../admin/api-input.ts";
import { planAddKeys, planRemoveKey, SettingsFiles } from "../admin/settings-editor.ts";
import type { ChangeOutcome } from "../admin/views.ts";
import { absolutePath, type Config, type LoadedConfig, type Places } from "../config/config.ts";
import { type Clock, formatDuration, instantText } from "../core/clock.ts";
import { field, fieldText, isObject } from "../core/json.ts";
import {
  type AdminClient,
  type Change,
  adminClientOf,
  type CommandContext,
  overviewOrSay,
  type ShownKey,
  type ShownProvider,
} from "./admin-client.ts";
import {
  EXIT_FAILED,
  EXIT_FINE,
  EXIT_USAGE,
  HOW_TO_NAME,
  type KeyAction,
  type OperatorCommand,
} from "./args.ts";
import { type Colour, type Column, oneLine, table, say, type Terminal, wrap } from "./terminal.ts";

// ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export async function listKeys(
  { provider, json }: Extract<OperatorCommand, { action: "list" }>,
  config: Config,
  context: CommandContext,
): Promise<number> {
  const { terminal, clock } = context;
  const client = adminClientOf(config, context);
  const found = await client.find();
  const live = found.kind === "running" ? (await overviewOrSay(client, terminal))?.providers : null;
  const all = live ?? config.providers.map(asConfigured);
  const providers = all.filter(({ name }) => provider === null || name === provider);
  if (providers.length === 0) return noSuchProvider(provider ?? "", config.providers, terminal);
  if (json) {
    const keys = providers.flatMap(({ name, keys }) =>
      keys.map((key) => ({ provider: name, ...jsonOf(key, lastFourOf(key, name, config)) })),
    );
    terminal.write(`${JSON.stringify({ keys }, null, 2)}\n`);
    return EXIT_FINE;
  }
  if (live === null || live === undefined) {
    say(`No running proxy at ${client.address} shows its keys: these are the configured ones.`, terminal);
  }
  terminal.write(keyTable(providers, config, terminal, clock));
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
    pauseReason: null,
    pauseSaid: "",
    waiting: 0,
    keys: keys.map(({ secret, account, dailyLimit }, index) => ({
      index,
      id: secret.id,
      account,
      lastFour: secret.lastFour,
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

/** The last four characters of a key: the settings tell them where the proxy does not. */
function lastFourOf(
  { id, lastFour }: ShownKey,
  provider: string,
  { providers }: Pick<Config, "providers">,
): string | null {
  const keys = providers.find(({ name }) => name === provider)?.keys ?? [];
  return lastFour ?? keys.find(({ secret }) => secret.id === id)?.secret.lastFour ?? null;
}

/** With the names of `/health`. */
function jsonOf(key: ShownKey, lastFour: string | null): object {
  return {
    index: key.index,
    id: key.id,
    account: key.account,
    last_four: lastFour,
    state: key.state === "" ? null : key.state,
    reason: key.reason,
    cooldown_sec: key.cooldownSec,
    requests: key.requests,
    rate_limited: key.rateLimited,
    errors: key.errors,
    today: key.today,
    daily_limit: key.dailyLimit,
    rpm_limit: key.rpmLimit,
    last_used: key.lastUsedAt === null ? null : `${instantText(key.lastUsedAt).slice(0, 19)}Z`,
    said: key.said,
  };
}

export function keyTable(
  providers: readonly ShownProvider[],
  config: Config,
  { columns: width, hasColours }: Terminal,
  clock: Clock,
): string {
  const rows = providers.flatMap(({ name, keys }) => keys.map((key) => ({ provider: name, ...key })));
  const severalProviders = providers.length > 1;
  const counted = (count: number) => (rows.some(({ state }) => state !== "") ? String(count) : "");
  const columns: Column<(typeof rows)[number]>[] = [
    { title: "PROVIDER", of: (key) => (severalProviders ? key.provider : "") },
    { title: "KEY", of: (key) => String(key.index), align: "right" },
    { title: "ID", of: (key) => key.id },
    { title: "ENDS", of: (key) => lastFourOf(key, key.provider, config) ?? "", expendable: 1 },
    { title: "ACCOUNT", of: (key) => key.account ?? "", expendable: 3 },
    { title: "STATE", of: stateText, colour: stateColour },
    { title: "TODAY", of: (key) => counted(key.today), align: "right", expendable: 2 },
    { title: "A DAY", of: (key) => String(key.dailyLimit ?? ""), align: "right", expendable: 4 },
    { title: "A MINUTE", of: (key) => String(key.rpmLimit ?? ""), align: "right", expendable: 7 },
    { title: "REQUESTS", of: (key) => counted(key.requests), align: "right", expendable: 6 },
    { title: "REFUSED", of: (key) => counted(key.rateLimited), align: "right", expendable: 6 },
    { title: "ERRORS", of: (key) => counted(key.errors), align: "right", expendable: 6 },
    { title: "LAST USED", of: (key) => lastUsed(key.lastUsedAt, clock.wall()), expendable: 5 },
  ];
  const said = rows.flatMap(({ provider, index, said }) => {
    if (said === null) return [];
    const name = severalProviders ? `${provider}/${index}` : String(index);
    return wrap(`upstream said of key ${name}: ${oneLine(said)}`, width);
  });
  return [table(columns, rows, { width, hasColours }), ...said].map((line) => `${line}\n`).join("");
}

/** The state in words: what it means for the next request. */
function stateText({ state, reason, cooldownSec, restingModels }: ShownKey): string {
  const time = formatDuration(cooldownSec * 1000);
  const because = reason === null ? "" : ` (${reason})`;
  switch (state) {
    case "cooling":
      if (reason === "pacing") return `full, back in ${time}`;
      if (reason === "billing") return `out of money, asked again in ${time}`;
      return `cooling ${time}${because}`;
    case "disabled":
      return `out of use${because}`;
    case "paused":
      return "paused by hand";
    case "ready":
      if (restingModels === 0) return state;
      return `ready, but for ${restingModels === 1 ? "1 model" : `${restingModels} models`}`;
    default:
      return `${state}${because}`;
  }
}

function stateColour({ state, reason }: ShownKey): Colour | null {
  if (state === "ready") return "green";
  if (state === "cooling") return reason === "billing" ? "red" : "yellow";
  return state === "disabled" ? "red" : state === "paused" ? "grey" : null;
}

function lastUsed(at: number | null, now: number): string {
  return at === null ? "" : `${formatDuration(Math.max(0, Math.floor((now - at) / 1000)) * 1000)} ago`;
}

// ── add ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What became of a key that was to be added. */
interface Added {
  place: string;
  name: string;
  isAdded: boolean;
  message: string;
}

/** `keys add`: works before there is a configuration, too: a first key makes one. */
export async function addKeys(
  command: Extract<OperatorCommand, { action: "add" }>,
  loaded: LoadedConfig,
  files: SettingsFiles,
  context: CommandContext,
): Promise<number> {
  const { terminal } = context;
  const provider = command.provider ?? (loaded.ok ? loaded.config.providers[0].name : "default");
  const text = await keyTextOf(command, provider, terminal);
  if (text.trim() === "") {
    say("No key was given. Type or paste it, or pipe it in: one or more a line.", terminal);
    return EXIT_USAGE;
  }
  const client = loaded.ok ? await runningClient(loaded.config, context) : null;
  const results =
    client === null
      ? await addToFile(text, provider, loaded, files)
      : await addByProxy(text, provider, client);
  if (!Array.isArray(results)) return tell(results, terminal);
  return tellAdded(results, provider, terminal);
}

/** The keys as they are given: on the command line, typed, or piped in. */
async function keyTextOf(
  { keys }: Extract<OperatorCommand, { action: "add" }>,
  provider: string,
  terminal: Terminal,
): Promise<string> {
  if (keys.length > 0) {
    say(
      "warning: a key on the command line stays in the shell's history. Without it, keywheel keys add asks for it.",
      terminal,
    );
    return keys.map((key) => key.reveal()).join("\n");
  }
  const whose = provider === "default" ? "the default provider" : provider;
  return askForKeys(
    `Keys for ${whose}, one or more a line (they are not shown); an empty line ends: `,
    terminal,
  );
}

/** Lines of keys: what is typed until an empty line, or of a pipe all of it. */
export async function askForKeys(
  question: string,
  terminal: Terminal,
  { endsAtBlank = terminal.canAsk } = {},
): Promise<string> {
  const lines: string[] = [];
  for (
    let asked = question;
    ;
    asked = `${lines.length === 1 ? "1 line" : `${lines.length} lines`} so far: `
  ) {
    const line = await terminal.readLine(asked, { hidden: true });
    if (line === null || (endsAtBlank && line.trim() === "")) break;
    lines.push(line);
  }
  return lines.join("\n");
}

async function addByProxy(text: string, provider: string, client: AdminClient): Promise<Added[] | Change> {
  const change = await client.change("POST", `/providers/${provider}/keys`, { keys: text });
  const keys = isObject(change.json) ? field(change.json, "keys") : undefined;
  if (!Array.isArray(keys)) return change;
  return keys.filter(isObject).map((key) => ({
    place: fieldText(key, "place"),
    name: shownKeyName(fieldText(key, "id"), fieldText(key, "account"), fieldText(key, "last_four")),
    isAdded: fieldText(key, "outcome") === "added",
    message: fieldText(key, "message"),
  }));
}

async function addToFile(
  text: string,
  provider: string,
  loaded: LoadedConfig,
  files: SettingsFiles,
): Promise<Added[] | Change> {
  const lines = readKeyLines(text);
  const known = loaded.ok ? (loaded.config.providers.find(({ name }) => name === provider)?.keys ?? []) : [];
  const isThere = (id: string) => known.some(({ secret }) => secret.id === id);
  const fresh = lines.flatMap(({ key }) => (key === null || isThere(key.secret.id) ? [] : [key]));
  const outcome =
    fresh.length === 0 ? null : await files.change((sources) => planAddKeys(sources, provider, fresh));
  return lines.map(({ place, key, problem }): Added => {
    if (key === null) return { place, name: "", isAdded: false, message: problem };
    const { secret, account } = key;
    const name = shownKeyName(secret.id, account ?? "", secret.lastFour ?? "");
    if (isThere(secret.id)) return { place, name, isAdded: false, message: "It is in use already." };
    return { place, name, isAdded: outcome?.kind === "done", message: outcome?.message ?? "" };
  });
}

/** `alice@3e23e816 …wxyz` */
function shownKeyName(id: string, account: string, lastFour: string): string {
  const name = account === "" ? id : `${account}@${id}`;
  return lastFour === "" ? name : `${name} …${lastFour}`;
}

/** Says of each key what became of it, and makes it an exit code. */
function tellAdded(results: readonly Added[], provider: string, terminal: Terminal): number {
  const [only] = results;
  const added = results.filter(({ isAdded }) => isAdded);
  for (const { place, name, isAdded, message } of results) {
    const what =
      results.length === 1 && name === "" ? "The key" : `${place}: ${name === "" ? "no key" : name}`;
    const line = oneLine(`${what}: ${isAdded && results.length > 1 ? "added" : message}`);
    for (const part of wrap(line, terminal.columns)) {
      if (isAdded) terminal.write(`${part}\n`);
      else terminal.writeError(`${part}\n`);
    }
  }
  if (results.length > 1 || only === undefined) {
    terminal.write(`${added.length} of ${results.length} keys were added to ${provider}.\n`);
  }
  if (added.length === results.length && added.length > 0) return EXIT_FINE;
  return results.every(({ name }) => name === "") ? EXIT_USAGE : EXIT_FAILED;
}

// ── remove, pause, resume, reset ──────────────────────────────────────────────────────────────────────────────────

export async function changeKeys(
  command: Extract<OperatorCommand, { action: KeyAction }>,
  config: Config,
  files: SettingsFiles,
  context: CommandContext,
): Promise<number> {
  const { terminal } = context;
  const { action, names } = command;
  const client = await runningClient(config, context);
  if (client === null && action !== "remove") {
    const { address, hasPassword } = adminClientOf(config, context);
    say(
      hasPassword
        ? `No keywheel answers at ${address}, and keys ${action} needs a running one. Start it, or correct HOST and PORT.`
        : `keys ${action} is asked of the running proxy, as its operator. Set ADMIN_PASSWORD in its settings, and try again.`,
      terminal,
    );
    return EXIT_FAILED;
  }
  const overview = client === null ? null : await client.overview();
  if (overview !== null && "isDone" in overview) return tell(overview, terminal);
  const providers = overview?.providers ?? config.providers.map(asConfigured);
  const named = keysNamed(names, action, providers, config);
  if (typeof named === "string") {
    say(`${named}`, terminal);
    return EXIT_FAILED;
  }
  if (action === "remove" && !command.yes && !(await mayRemove(named, terminal))) {
    say("Nothing was removed.", terminal);
    return EXIT_FAILED;
  }
  let code = EXIT_FINE;
  for (const { provider, id } of named) {
    const path = `/providers/${provider}/keys/${id}`;
    const change =
      client === null
        ? changeOf(await files.change((sources) => planRemoveKey(sources, provider, id)))
        : action === "remove"
          ? await client.change("DELETE", path)
          : await client.change("POST", `${path}/${action}`);
    code = Math.max(code, tell(change, terminal));
  }
  return code;
}

/** A key that is meant. */
interface NamedKey {
  provider: string;
  id: string;
  /** For people: account, id, last four characters. */
  shown: string;
}

/** Shows which keys are meant, and asks. Who cannot be asked has to say --yes. */
async function mayRemove(named: readonly NamedKey[], terminal: Terminal): Promise<boolean> {
  for (const { provider, shown } of named) terminal.writeError(`  ${shown} of ${provider}\n`);
  const these = named.length === 1 ? "this key" : `these ${named.length} keys`;
  if (!terminal.canAsk) {
    say(`Add --yes to remove ${these} without a question.`, terminal);
    return false;
  }
  const answer = await terminal.readLine(`Remove ${these}? [y/N] `);
  return /^y(?:es)?$/i.test(answer?.trim() ?? "");
}

/**
 * The keys that the words name, or why they name none. A provider may stand before them, alone it means all of its keys
 * (but not to remove them). Pure.
 */
function keysNamed(
  words: readonly string[],
  action: KeyAction,
  providers: readonly ShownProvider[],
  config: Config,
): NamedKey[] | string {
  const [head = "", ...rest] = words;
  const own = providers.find(({ name }) => name === head) ?? null;
  const names = own === null ? words : rest;
  const asNamed = (provider: ShownProvider, key: ShownKey): NamedKey => ({
    provider: provider.name,
    id: key.id,
    shown: `key ${key.index}, ${shownKeyName(key.id, key.account ?? "", lastFourOf(key, provider.name, config) ?? "")}`,
  });
  if (own !== null && names.length === 0) {
    if (action !== "remove") return own.keys.map((key) => asNamed(own, key));
    return `Say which key of ${own.name} to remove. ${HOW_TO_NAME}`;
  }
  const named = new Map<string, NamedKey>();
  for (const name of names) {
    const slash = name.indexOf("/");
    const before = providers.find((provider) => provider.name === name.slice(0, Math.max(0, slash)));
    const word = before === undefined ? name : name.slice(slash + 1);
    const among = before ?? own;
    const found = keysOfWord(word, among === null ? providers : [among], providers[0], config);
    const [only] = found;
    if (only === undefined) {
      const mayBeProvider = own === null && name === head && /^[a-z][a-z0-9_]*$/.test(name);
      if (mayBeProvider && words.length > 1) return unknownProvider(name, providers);
      const hint = mayBeProvider ? ` Nor is there such a provider: there is ${namesOf(providers)}.` : "";
      return `There is no key ${oneLine(name)}.${hint} keywheel keys list shows those that are there.`;
    }
    if (found.length > 1) {
      const several = found.map(({ provider, key }) => `${asNamed(provider, key).shown} of ${provider.name}`);
      return `${oneLine(name)} names ${found.length} keys: ${several.join("; ")}. Use the id.`;
    }
    named.set(`${only.provider.name} ${only.key.id}`, asNamed(only.provider, only.key));
  }
  return [...named.values()];
}

interface FoundKey {
  provider: ShownProvider;
  key: ShownKey;
}

/** The keys that a word names: by number (of the default provider where none is named), id, account or last four. */
function keysOfWord(
  word: string,
  among: readonly ShownProvider[],
  first: ShownProvider | undefined,
  config: Config,
): FoundKey[] {
  const all = among.flatMap((provider) => provider.keys.map((key) => ({ provider, key })));
  const numbered = among.length > 1 ? all.filter(({ provider }) => provider === first) : all;
  const ways: ((found: FoundKey) => boolean)[] = [
    ({ key }) => /^\d{1,4}$/.test(word) && key.index === Number(word),
    ({ key }) => key.id === word.toLowerCase(),
    ({ key }) => key.account === word,
    ({ provider, key }) => lastFourOf(key, provider.name, config) === word.replace(/^…/, ""),
  ];
  for (const [index, isNamed] of ways.entries()) {
    const found = (index === 0 ? numbered : all).filter(isNamed);
    if (found.length > 0) return found;
  }
  return [];
}

// ── tools ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Where keys are written. A first key makes the file that was named, else `.env` in the working directory. */
export function settingsFiles(
  { environment, workingDirectory, envFile }: Places,
  loaded: LoadedConfig,
): SettingsFiles {
  return new SettingsFiles({
    environment,
    workingDirectory,
    envFile: () => loaded.envFile,
    newEnvFile: absolutePath(workingDirectory, envFile ?? ".env"),
  });
}

function changeOf({ kind, message }: ChangeOutcome): Change {
  return { isDone: kind === "done", message };
}

/** The running proxy where it can be asked for changes; null: it does not run, or has no password. */
async function runningClient(config: Config, context: CommandContext): Promise<AdminClient | null> {
  const client = adminClientOf(config, context);
  if (!client.hasPassword) return null;
  const found = await client.find();
  return found.kind === "running" ? client : null;
}

/** Says what came of a change, and makes it an exit code. */
function tell({ isDone, message }: Change, terminal: Terminal): number {
  for (const line of wrap(oneLine(message), terminal.columns)) {
    if (isDone) terminal.write(`${line}\n`);
    else terminal.writeError(`${line}\n`);
  }
  return isDone ? EXIT_FINE : EXIT_FAILED;
}

export function noSuchProvider(
  name: string,
  providers: readonly { name: string }[],
  terminal: Terminal,
): number {
  say(`${unknownProvider(name, providers)}`, terminal);
  return EXIT_FAILED;
}

function unknownProvider(name: string, providers: readonly { name: string }[]): string {
  return `There is no provider ${name}: there is ${namesOf(providers)}.`;
}

function namesOf(providers: readonly { name: string }[]): string {
  return providers.map(({ name }) => name).join(", ");
}
