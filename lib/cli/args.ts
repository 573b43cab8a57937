/**
 * The command line: what was typed to a `Command`, and the page of help. Pure.
 *
 * A key may be typed here, on purpose (`keywheel keys add sk-…`) or by mistake, so messages show no more of a word
 * than `shown` allows, and a key that is meant is a `Secret` from here on.
 */
import { Secret } from "../core/secret.ts";
import { SETTINGS, folded, nearest, vocabularyOf } from "../config/settings.ts";
import { looksLikeKey, shown } from "../config/key-shapes.ts";

/** What the person asks for. `envFile`: the PATH of `--env-file`, as it was typed; null: look in the usual places. */
type Command =
  | { kind: "serve"; envFile: string | null }
  /** The proxy in front of a fake provider. */
  | { kind: "demo"; envFile: string | null }
  | InitCommand
  | OperatorCommand
  | { kind: "help" }
  | { kind: "version" }
  /** Nothing that can be done: print `message` to stderr and exit with `EXIT_USAGE`. */
  | { kind: "usage"; message: string };

/** Asks for the settings and writes them. `yes`: also where a file is there already. */
export interface InitCommand {
  kind: "init";
  /** For the installed service: /etc/keywheel/.env. */
  system: boolean;
  yes: boolean;
  envFile: string | null;
}

/** What looks at a proxy or changes its keys, and ends. `provider` null: not named. `json`: for scripts. */
export type OperatorCommand =
  /** `model`: asked for one token where no free question tells; null: it is not. */
  | { kind: "check"; provider: string | null; model: string | null; json: boolean; envFile: string | null }
  | { kind: "status"; json: boolean; watch: boolean; envFile: string | null }
  | { kind: "keys"; action: "list"; provider: string | null; json: boolean; envFile: string | null }
  /** `keys` empty: they have yet to be asked for. */
  | { kind: "keys"; action: "add"; provider: string | null; keys: readonly Secret[]; envFile: string | null }
  /** `names`: words that name keys, perhaps a provider before them. `yes`: without a question. */
  | { kind: "keys"; action: KeyAction; names: readonly string[]; yes: boolean; envFile: string | null };

/** What is done to a key that is there. */
export type KeyAction = "remove" | "pause" | "resume" | "reset";

/** Done, or stopped in good order. */
export const EXIT_FINE = 0;
/** It did not work out: the port is taken, a key is dead. */
export const EXIT_FAILED = 1;
/** Wrong usage or configuration. */
export const EXIT_USAGE = 2;

/** At most 24 lines of 80 columns: one screen. */
export const USAGE = `keywheel: one address in front of your LLM provider, which pools your API keys
and hides their rate limits.

  keywheel --demo      try it without a key, in front of a fake provider
  keywheel init        ask for your keys and write the settings; --system: those
                       of the service, in /etc/keywheel/.env
  keywheel [serve]     run the proxy
  keywheel check       ask each provider whether each key works; --model M asks
                       for one token of M where no free question tells
  keywheel status      what the running proxy is doing; --watch goes on
  keywheel keys list   also add, remove, pause, resume, reset [PROVIDER] KEY...
                       KEY: its number, id, account or last four characters;
                       add asks for keys, or takes them from a pipe, one a line
  --env-file PATH, --json (check, status, keys list), --yes (init, keys remove)
  help, version        or -h, --help, -V, --version

Settings come from the environment, else from --env-file PATH, ./.env, .env
beside the executable, or /etc/keywheel/.env. API_KEYS=key1,key2 is enough.
Changed settings apply at once. Give your client http://127.0.0.1:3000/v1 as its
base URL. Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.
`;

const COMMANDS = ["serve", "init", "check", "status", "keys", "help", "version"];
const KEY_ACTIONS = ["remove", "pause", "resume", "reset"] as const satisfies KeyAction[];
const ACTIONS = ["list", "add", ...KEY_ACTIONS];
const OPTIONS = [
  "--demo",
  "--env-file",
  "--json",
  "--help",
  "--model",
  "--system",
  "--version",
  "--watch",
  "--yes",
  "-h",
  "-V",
];

/** What the words after the program's name ask for. */
export function parseCommand(words: readonly string[]): Command {
  // Help is given whatever else is wrong with the line.
  if (words[0] === "help" || words.some((word) => word === "--help" || word === "-h"))
    return { kind: "help" };
  if (words.some((word) => word === "--version" || word === "-V")) return { kind: "version" };
  const line = splitLine(words);
  if (typeof line === "string") return usageError(line);
  const [name = "serve", ...rest] = line.words;
  const command = line.flags.has("--demo") ? demoCommand(line) : commandOf(name, rest, line);
  if (typeof command === "string") return usageError(command);
  const fault = misplacedFlag(command, line);
  return fault === null ? command : usageError(fault);
}

/** The options, and the words that are none, in their order. */
interface ParsedLine {
  words: string[];
  envFile: string | null;
  model: string | null;
  flags: Set<string>;
}

/** Options that stand alone, and where each goes. */
const FLAGS: Readonly<Record<string, string>> = {
  "--demo": "",
  "--json": "--json goes with check, status and keys list.",
  "--watch": "--watch goes with status.",
  "--system": "--system goes with init.",
  "--yes": "--yes goes with init and keys remove.",
};

/** Options with a word of their own, and what it is called. */
const VALUED = { "--env-file": "PATH", "--model": "MODEL" } as const;

/** The parts of the line, or what is wrong with it. */
function splitLine(words: readonly string[]): ParsedLine | string {
  const line: ParsedLine = { words: [], envFile: null, model: null, flags: new Set() };
  const rest = [...words];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    const option = valuedOption(word);
    if (option !== null) {
      const value = word.includes("=") ? word.slice(word.indexOf("=") + 1) : (rest.shift() ?? "");
      if (value === "" || value.startsWith("--")) return `${option} needs a ${VALUED[option]} after it.`;
      const field = option === "--env-file" ? "envFile" : "model";
      if (line[field] !== null) return `${option} is given twice. Give it once.`;
      line[field] = value;
    } else if (Object.hasOwn(FLAGS, word)) {
      line.flags.add(word);
    } else if (word.startsWith("-") && word !== "-") {
      return unknownOption(word);
    } else {
      line.words.push(word);
    }
  }
  return line;
}

function valuedOption(word: string): keyof typeof VALUED | null {
  const [name] = word.split("=", 1);
  return name === "--env-file" || name === "--model" ? name : null;
}

/** Why an option does not go with the command; null: all do. */
function misplacedFlag(command: Command, { flags, model }: ParsedLine): string | null {
  const isInit = command.kind === "init";
  const allowed: Record<string, boolean> = {
    "--demo": command.kind === "demo",
    "--json": "json" in command,
    "--watch": "watch" in command,
    "--system": isInit,
    "--yes": isInit || (command.kind === "keys" && command.action === "remove"),
  };
  for (const flag of flags) if (allowed[flag] !== true) return FLAGS[flag] ?? "";
  if (model !== null && command.kind !== "check") return "--model goes with check.";
  if (flags.has("--json") && flags.has("--watch")) return "--json and --watch do not go together.";
  return null;
}

function demoCommand({ envFile, words }: ParsedLine): Command | string {
  const [word] = words.filter((word) => word !== "serve");
  return word === undefined ? { kind: "demo", envFile } : unknownCommand(word);
}

/** The command, or what is wrong with it. */
function commandOf(name: string, rest: readonly string[], line: ParsedLine): Command | string {
  const { envFile, flags, model } = line;
  const [first = null, second] = rest;
  const json = flags.has("--json");
  switch (name) {
    case "serve":
      return first === null ? { kind: "serve", envFile } : unknownCommand(first);
    case "version":
      return first === null ? { kind: "version" } : oneTooMany(first);
    case "init":
      if (first !== null) return oneTooMany(first);
      if (flags.has("--system") && envFile !== null) return "--system and --env-file do not go together.";
      return { kind: "init", system: flags.has("--system"), yes: flags.has("--yes"), envFile };
    case "status":
      return first === null
        ? { kind: "status", json, watch: flags.has("--watch"), envFile }
        : oneTooMany(first);
    case "check":
      if (second !== undefined) return oneTooMany(second);
      if (first !== null && !isProviderName(first)) return notAProvider(first);
      return { kind: "check", provider: first, model, json, envFile };
    case "keys":
      return keysCommand(first ?? "list", rest.slice(1), line);
    default:
      return unknownCommand(name);
  }
}

function keysCommand(
  word: string,
  rest: readonly string[],
  { flags, envFile }: ParsedLine,
): Command | string {
  if (word === "list") {
    const [provider = null, tooMany] = rest;
    if (tooMany !== undefined) return oneTooMany(tooMany);
    if (provider !== null && !isProviderName(provider)) return notAProvider(provider);
    return { kind: "keys", action: "list", provider, json: flags.has("--json"), envFile };
  }
  if (word === "add") return addCommand(rest, envFile);
  const action = KEY_ACTIONS.find((action) => action === word);
  if (action !== undefined) return changeCommand(action, rest, flags.has("--yes"), envFile);
  const meant = nearest(word, vocabularyOf(ACTIONS), slips);
  return `keywheel keys has no ${shown(word)}: there are ${ACTIONS.slice(0, -1).join(", ")} and ${ACTIONS.at(-1)}.${didYouMean(meant)}`;
}

/** `add [PROVIDER] [KEY...]`. The first word is a key if it can be no provider. */
function addCommand(rest: readonly string[], envFile: string | null): Command | string {
  const [first = null, ...others] = rest;
  const isProvider = first !== null && isProviderName(first);
  if (first !== null && !isProvider && first.length < SHORTEST_LONE_KEY && others.length > 0) {
    return notAProvider(first);
  }
  return {
    kind: "keys",
    action: "add",
    provider: isProvider ? first : null,
    keys: (isProvider ? others : rest).map((word) => new Secret(word)),
    envFile,
  };
}

/** A shorter first word is rather a provider's name that was misspelt. */
const SHORTEST_LONE_KEY = 16;

/** `pause [PROVIDER] KEY...`: which word names what is known only where the keys are. */
function changeCommand(
  action: KeyAction,
  names: readonly string[],
  yes: boolean,
  envFile: string | null,
): Command | string {
  const strange = names.find((name) => looksLikeKey(name) || !/^…?[\x21-\x7e]{1,200}$/.test(name));
  if (strange !== undefined) return `${shown(strange)} names no key. ${HOW_TO_NAME}`;
  if (names.length === 0) return `keywheel keys ${action} needs a KEY. ${HOW_TO_NAME}`;
  return { kind: "keys", action, names, yes, envFile };
}

/** How a key is named on the command line. */
export const HOW_TO_NAME =
  "Use its number, id, account or last four characters, as keywheel keys list shows them.";

/** What can be the name of a provider: the lower-case form of a variable's prefix, and nothing that may be a key. */
function isProviderName(word: string): boolean {
  return /^[a-z0-9][a-z0-9_]{0,39}$/.test(word) && !looksLikeKey(word);
}

function notAProvider(word: string): string {
  return `${shown(word)} cannot be the name of a provider, which is one such as groq, or default.`;
}

function usageError(problem: string): Command {
  return { kind: "usage", message: `${problem} keywheel --help shows what there is.` };
}

function oneTooMany(word: string): string {
  return `${shown(word)} is one word too many.`;
}

/** Names the word, and what was probably meant. */
function unknownCommand(word: string): string {
  if (COMMANDS.includes(word)) return `${word} is one command too many.`;
  const meant = nearest(word, vocabularyOf([...COMMANDS, ...OPTIONS]), slips);
  return `There is no command ${shown(word)}.${didYouMean(meant)}`;
}

function unknownOption(word: string): string {
  const [name = word] = word.split("=", 1);
  const setting = Object.keys(SETTINGS).find((setting) => folded(setting) === folded(name));
  if (setting !== undefined) {
    return `There is no option ${shown(name)}. Set ${setting} in the environment or in .env.`;
  }
  return `There is no option ${shown(name)}.${didYouMean(nearest(name, vocabularyOf(OPTIONS), slips))}`;
}

/** -x is no slip for -h. */
function slips(word: string): number {
  return word.length < 4 ? 0 : 2;
}

function didYouMean(meant: string | null): string {
  return meant === null ? "" : ` Did you mean ${meant}?`;
}
