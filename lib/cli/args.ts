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
export type Command =
  | { kind: "serve"; envFile: string | null }
  /** The proxy in front of a fake provider. */
  | { kind: "demo"; envFile: string | null }
  | OperatorCommand
  | { kind: "help" }
  | { kind: "version" }
  /** Nothing that can be done: print `message` to stderr and exit with `EXIT_USAGE`. */
  | { kind: "usage"; message: string };

/** What looks at a proxy or changes its keys, and ends. `provider` null: not named. `json`: for scripts. */
export type OperatorCommand =
  | { kind: "check"; provider: string | null; json: boolean; envFile: string | null }
  | { kind: "status"; json: boolean; envFile: string | null }
  | { kind: "keys"; action: "list"; provider: string | null; json: boolean; envFile: string | null }
  /** `key` null: it has yet to be asked for. */
  | { kind: "keys"; action: "add"; provider: string | null; key: Secret | null; envFile: string | null }
  /** `key` null: all keys of the provider. */
  | { kind: "keys"; action: KeyAction; provider: string | null; key: KeyName | null; envFile: string | null };

/** What is done to a key that is there. */
export type KeyAction = "remove" | "pause" | "resume" | "reset";

/** A key as a person names it: its place in the configuration from 0 up, or its id. */
export type KeyName = { kind: "index"; index: number } | { kind: "id"; id: string };

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
  keywheel [serve]     run the proxy
  keywheel check       ask each provider whether each key works
  keywheel status      what the running proxy and its keys are doing
  keywheel keys list   also add, remove, pause, resume and reset, followed by
                       [PROVIDER] [KEY], its number or id; add asks for the key
  --env-file PATH      read the settings from PATH
  --json               with check, status and keys list: for scripts
  -h, --help, -V, --version

Settings come from the environment, else from an env file: --env-file PATH, else
./.env, else .env beside the executable, else /etc/keywheel/.env. To begin with:

  API_KEYS=first-key,second-key

Give your client http://127.0.0.1:3000/v1 as its base URL, and any text as its
API key. .env.example explains every setting: provider, port, who gets in, ...

Changed settings apply at once. SIGTERM stops when running answers are done.
Exit codes: 0 fine, 1 failed, 2 wrong usageError or configuration.
`;

const COMMANDS = ["serve", "check", "status", "keys"];
const KEY_ACTIONS = ["remove", "pause", "resume", "reset"] as const satisfies KeyAction[];
const ACTIONS = ["list", "add", ...KEY_ACTIONS];
const OPTIONS = ["--demo", "--env-file", "--json", "--help", "--version", "-h", "-V"];

/** What the words after the program's name ask for. */
export function parseCommand(words: readonly string[]): Command {
  // Help is given whatever else is wrong with the line.
  if (words.some((word) => word === "--help" || word === "-h")) return { kind: "help" };
  if (words.some((word) => word === "--version" || word === "-V")) return { kind: "version" };
  const line = splitLine(words);
  if (typeof line === "string") return usageError(line);
  const [name = "serve", ...rest] = line.words;
  const command = line.isDemo ? demoCommand(line, line.words) : commandOf(name, rest, line);
  if (typeof command === "string") return usageError(command);
  const takesJson = "json" in command;
  if (line.json && !takesJson) return usageError("--json goes with check, status and keys list.");
  return command;
}

/** The options, and the words that are none, in their order. */
interface ParsedLine {
  words: string[];
  envFile: string | null;
  isDemo: boolean;
  json: boolean;
}

/** The parts of the line, or what is wrong with it. */
function splitLine(words: readonly string[]): ParsedLine | string {
  const line: ParsedLine = { words: [], envFile: null, isDemo: false, json: false };
  const rest = [...words];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    const [option, value = null] = word.startsWith("--env-file=") ? splitOption(word) : [word];
    if (option === "--env-file") {
      const path: string | null = value ?? rest.shift() ?? null;
      if (path === null || path === "" || path.startsWith("--")) return "--env-file needs a PATH after it.";
      if (line.envFile !== null) return "--env-file is given twice. Give it once.";
      line.envFile = path;
    } else if (word === "--demo") {
      line.isDemo = true;
    } else if (word === "--json") {
      line.json = true;
    } else if (word.startsWith("-")) {
      return unknownOption(word);
    } else {
      line.words.push(word);
    }
  }
  return line;
}

function splitOption(word: string): [option: string, value: string] {
  const equals = word.indexOf("=");
  return [word.slice(0, equals), word.slice(equals + 1)];
}

function demoCommand({ envFile }: ParsedLine, words: readonly string[]): Command | string {
  const [word] = words.filter((word) => word !== "serve");
  return word === undefined ? { kind: "demo", envFile } : unknownCommand(word);
}

/** The command, or what is wrong with it. */
function commandOf(name: string, rest: readonly string[], { json, envFile }: ParsedLine): Command | string {
  const [first = null, second] = rest;
  switch (name) {
    case "serve":
      return first === null ? { kind: "serve", envFile } : unknownCommand(first);
    case "status":
      return first === null ? { kind: "status", json, envFile } : oneTooMany(first);
    case "check":
      if (second !== undefined) return oneTooMany(second);
      if (first !== null && !isProviderName(first)) return notAProvider(first);
      return { kind: "check", provider: first, json, envFile };
    case "keys":
      return keysCommand(first ?? "list", rest.slice(1), json, envFile);
    default:
      return unknownCommand(name);
  }
}

function keysCommand(
  word: string,
  rest: readonly string[],
  json: boolean,
  envFile: string | null,
): Command | string {
  if (word === "list") {
    const [provider = null, tooMany] = rest;
    if (tooMany !== undefined) return oneTooMany(tooMany);
    if (provider !== null && !isProviderName(provider)) return notAProvider(provider);
    return { kind: "keys", action: "list", provider, json, envFile };
  }
  if (word === "add") return addCommand(rest, envFile);
  const action = KEY_ACTIONS.find((action) => action === word);
  if (action !== undefined) return changeCommand(action, rest, envFile);
  const meant = nearest(word, vocabularyOf(ACTIONS), slips);
  return `keywheel keys has no ${shown(word)}: there are ${ACTIONS.slice(0, -1).join(", ")} and ${ACTIONS.at(-1)}.${didYouMean(meant)}`;
}

/** `add [PROVIDER] [KEY]`. A single word is the key if it can be no provider. */
function addCommand(rest: readonly string[], envFile: string | null): Command | string {
  const [first, second, tooMany] = rest;
  if (tooMany !== undefined) return oneTooMany(tooMany);
  const [provider = null, key] =
    second === undefined && first !== undefined && !isProviderName(first) ? [null, first] : [first, second];
  if (provider !== null && !isProviderName(provider)) return notAProvider(provider);
  return {
    kind: "keys",
    action: "add",
    provider,
    key: key === undefined ? null : new Secret(key),
    envFile,
  };
}

/** `pause [PROVIDER] [KEY]`, or a key as answers name it: `groq/1`. */
function changeCommand(action: KeyAction, rest: readonly string[], envFile: string | null): Command | string {
  const words = rest.flatMap((word) => (/^\w+\/\w+$/.test(word) ? word.split("/") : [word]));
  const [first, second, tooMany] = words;
  if (tooMany !== undefined) return oneTooMany(tooMany);
  const [provider = null, key] =
    second === undefined && first !== undefined && keyNameOf(first) !== null
      ? [null, first]
      : [first, second];
  if (provider !== null && !isProviderName(provider)) return notAProvider(provider);
  const name = key === undefined ? null : keyNameOf(key);
  if (key !== undefined && name === null) {
    return `${shown(key)} names no key. Use its number or its id, as keywheel keys list shows them.`;
  }
  // What is removed is gone: that has to be said of each key.
  if (name === null && (action === "remove" || provider === null)) {
    return `keywheel keys ${action} needs a KEY: its number or its id, as keywheel keys list shows them.`;
  }
  return { kind: "keys", action, provider, key: name, envFile };
}

function keyNameOf(word: string): KeyName | null {
  if (/^\d{1,4}$/.test(word)) return { kind: "index", index: Number(word) };
  return /^[0-9a-f]{8}$/i.test(word) ? { kind: "id", id: word.toLowerCase() } : null;
}

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
