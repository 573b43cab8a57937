/**
 * The command line: what was typed to a `Command`, and the page of help. Pure.
 *
 * A key may be typed here by mistake (`keywheel keys add sk-…`), so messages show no more of it than `shown` allows.
 */
import { SETTINGS } from "./settings.ts";
import { folded, nearest, shown, vocabularyOf } from "./wording.ts";

/** What the person asks for. */
export type Command =
  /** `envFile`: the PATH of `--env-file`, as it was typed; null: look in the usual places. */
  | { kind: "serve"; envFile: string | null }
  /** The proxy in front of a fake provider. */
  | { kind: "demo"; envFile: string | null }
  | { kind: "help" }
  | { kind: "version" }
  /** Nothing that can be done: print `message` to stderr and exit with `EXIT_USAGE`. */
  | { kind: "usage"; message: string };

/** Done, or stopped in good order. */
export const EXIT_FINE = 0;
/** It did not work out: the port is taken, a key is dead. */
export const EXIT_FAILED = 1;
/** Wrong usage or configuration. */
export const EXIT_USAGE = 2;

/** At most 24 lines of 80 columns: one screen. */
export const USAGE = `keywheel: one address in front of your LLM provider, which pools your API keys
and hides their rate limits.

  keywheel --demo            try it without a key, in front of a fake provider
  keywheel                   run the proxy (the same as keywheel serve)
  keywheel --env-file PATH   run it with the settings in PATH

  -h, --help                 this page
  -V, --version              the version

Settings come from the environment, else from an env file: --env-file PATH, else
./.env, else .env beside the executable. One line is enough to begin with:

  API_KEYS=first-key,second-key

Give your client http://127.0.0.1:3000/v1 as its base URL, and any text as its
API key. .env.example explains every setting: provider, port, who gets in, ...

Restart it to change settings. SIGTERM stops when running answers are done.

Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.
`;

/** Commands of the contract that are still to come. */
const NOT_YET = ["check", "status", "keys"];

const COMMANDS = ["serve", ...NOT_YET];
const OPTIONS = ["--demo", "--env-file", "--help", "--version", "-h", "-V"];

/** What the words after the program's name ask for. */
export function parseCommand(words: readonly string[]): Command {
  let kind: "serve" | "demo" = "serve";
  let envFile: string | null = null;
  let served = false;
  // Help is given whatever else is wrong with the line.
  if (words.some((word) => word === "--help" || word === "-h")) return { kind: "help" };
  if (words.some((word) => word === "--version" || word === "-V")) return { kind: "version" };

  const rest = [...words];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    const [option, value = null] = word.startsWith("--env-file=") ? splitOption(word) : [word];
    if (option === "--env-file") {
      const path: string | null = value ?? rest.shift() ?? null;
      if (path === null || path === "" || path.startsWith("--"))
        return usage("--env-file needs a PATH after it.");
      if (envFile !== null) return usage("--env-file is given twice. Give it once.");
      envFile = path;
    } else if (word === "--demo") {
      kind = "demo";
    } else if (NOT_YET.includes(word) && !served) {
      // What follows belongs to a command that is not there, and may be a key.
      return usage(`keywheel ${word} is not in this version yet.`);
    } else if (word === "serve" && !served) {
      served = true;
    } else {
      return usage(unknown(word));
    }
  }
  return { kind, envFile };
}

function splitOption(word: string): [option: string, value: string] {
  const equals = word.indexOf("=");
  return [word.slice(0, equals), word.slice(equals + 1)];
}

function usage(problem: string): Command {
  return { kind: "usage", message: `${problem} keywheel --help shows what there is.` };
}

/** Names the word, and what was probably meant. */
function unknown(word: string): string {
  if (COMMANDS.includes(word)) return `${word} is one command too many.`;
  if (!word.startsWith("-")) {
    const meant = nearest(word, vocabularyOf([...COMMANDS, ...OPTIONS]), slips);
    return `There is no command ${shown(word)}.${didYouMean(meant)}`;
  }
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
