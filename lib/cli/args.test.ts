import { describe, expect, test } from "bun:test";
import { parseCommand, USAGE } from "./args.ts";
import { Secret } from "../core/secret.ts";

describe("the command line", () => {
  const understood: [says: string, words: string[], command: ReturnType<typeof parseCommand>][] = [
    ["nothing at all serves", [], { kind: "serve", envFile: null }],
    ["serve serves", ["serve"], { kind: "serve", envFile: null }],
    ["--env-file takes the next word", ["--env-file", "a.env"], { kind: "serve", envFile: "a.env" }],
    ["--env-file= takes what follows", ["serve", "--env-file=a=b"], { kind: "serve", envFile: "a=b" }],
    [
      "--env-file may stand before the command",
      ["--env-file", "a", "serve"],
      { kind: "serve", envFile: "a" },
    ],
    ["--demo is the demo", ["--demo"], { kind: "demo", envFile: null }],
    ["the demo takes an env file too", ["--demo", "--env-file", "x"], { kind: "demo", envFile: "x" }],
    ["--help is help", ["--help"], { kind: "help" }],
    ["-h is help", ["-h"], { kind: "help" }],
    ["help comes before every mistake", ["keys", "bogus", "--help"], { kind: "help" }],
    [
      "check asks about all providers",
      ["check"],
      { kind: "check", provider: null, model: null, json: false, envFile: null },
    ],
    [
      "check may name one",
      ["check", "groq", "--json"],
      { kind: "check", provider: "groq", model: null, json: true, envFile: null },
    ],
    ["status is status", ["status", "--json"], { kind: "status", json: true, watch: false, envFile: null }],
    [
      "an env file goes with any command",
      ["--env-file", "a", "status"],
      { kind: "status", json: false, watch: false, envFile: "a" },
    ],
    [
      "keys alone lists them",
      ["keys"],
      { kind: "keys", action: "list", provider: null, json: false, envFile: null },
    ],
    [
      "keys list may name a provider",
      ["keys", "list", "groq"],
      { kind: "keys", action: "list", provider: "groq", json: false, envFile: null },
    ],
    [
      "keys add will ask",
      ["keys", "add"],
      { kind: "keys", action: "add", provider: null, keys: [], envFile: null },
    ],
    [
      "keys add takes a provider",
      ["keys", "add", "groq"],
      { kind: "keys", action: "add", provider: "groq", keys: [], envFile: null },
    ],
    [
      "keys add takes a key",
      ["keys", "add", "sk-0123456789abcdef01234"],
      {
        kind: "keys",
        action: "add",
        provider: null,
        keys: [new Secret("sk-0123456789abcdef01234")],
        envFile: null,
      },
    ],
    [
      "keys add takes both",
      ["keys", "add", "groq", "alice@gsk_0123:50"],
      {
        kind: "keys",
        action: "add",
        provider: "groq",
        keys: [new Secret("alice@gsk_0123:50")],
        envFile: null,
      },
    ],
    [
      "keys add takes any number",
      ["keys", "add", "groq", "k1", "me@k2"],
      {
        kind: "keys",
        action: "add",
        provider: "groq",
        keys: [new Secret("k1"), new Secret("me@k2")],
        envFile: null,
      },
    ],
    [
      "a key is named by whatever names it",
      ["keys", "pause", "2"],
      { kind: "keys", action: "pause", names: ["2"], yes: false, envFile: null },
    ],
    [
      "several keys are",
      ["keys", "remove", "groq", "3E23e816", "alice", "wxyz", "--yes"],
      {
        kind: "keys",
        action: "remove",
        names: ["groq", "3E23e816", "alice", "wxyz"],
        yes: true,
        envFile: null,
      },
    ],
    [
      "a key as answers name it",
      ["keys", "reset", "groq/1"],
      { kind: "keys", action: "reset", names: ["groq/1"], yes: false, envFile: null },
    ],
    [
      "a provider alone means all of its keys",
      ["keys", "pause", "groq"],
      { kind: "keys", action: "pause", names: ["groq"], yes: false, envFile: null },
    ],
    [
      "an account may be a mail address",
      ["keys", "resume", "me+x@example.com"],
      { kind: "keys", action: "resume", names: ["me+x@example.com"], yes: false, envFile: null },
    ],
    ["init asks", ["init"], { kind: "init", system: false, yes: false, envFile: null }],
    [
      "init writes for the service",
      ["init", "--system"],
      { kind: "init", system: true, yes: false, envFile: null },
    ],
    [
      "init may replace",
      ["--yes", "init", "--env-file=x"],
      { kind: "init", system: false, yes: true, envFile: "x" },
    ],
    ["status goes on", ["status", "--watch"], { kind: "status", json: false, watch: true, envFile: null }],
    [
      "check asks a model",
      ["check", "--model", "llama-3.1-8b"],
      { kind: "check", provider: null, model: "llama-3.1-8b", json: false, envFile: null },
    ],
    ["help is a word too", ["help"], { kind: "help" }],
    ["help of a command is the help", ["help", "keys"], { kind: "help" }],
    ["version is a word too", ["version"], { kind: "version" }],
    ["--version is the version", ["--version"], { kind: "version" }],
    ["-V is the version", ["-V"], { kind: "version" }],
  ];
  test.each(understood)("%s", (_, words, command) => {
    expect(parseCommand(words)).toEqual(command);
  });

  const refused: [says: string, words: string[], message: string][] = [
    ["a word behind status", ["status", "now"], "now is one word too many."],
    ["two providers to check", ["check", "groq", "nvidia"], "nvidia is one word too many."],
    [
      "a provider that cannot be",
      ["check", "Groq!"],
      "Groq! cannot be the name of a provider, which is one such as groq, or default.",
    ],
    [
      "an unknown thing to do with keys",
      ["keys", "rest"],
      "keywheel keys has no rest: there are list, add, remove, pause, resume and reset. Did you mean reset?",
    ],
    [
      "a key to pause that is not named",
      ["keys", "pause"],
      "keywheel keys pause needs a KEY. Use its number, id, account or last four characters, as keywheel keys list shows them.",
    ],
    [
      "a key that is named by itself",
      ["keys", "remove", "groq", "gsk_canary0123"],
      "[hidden: it looks like a key] names no key. Use its number, id, account or last four characters, as keywheel keys list shows them.",
    ],
    ["--watch where it does not go", ["check", "--watch"], "--watch goes with status."],
    ["--watch with --json", ["status", "--watch", "--json"], "--json and --watch do not go together."],
    ["--model where it does not go", ["status", "--model", "x"], "--model goes with check."],
    ["--model without one", ["check", "--model"], "--model needs a MODEL after it."],
    ["--system where it does not go", ["serve", "--system"], "--system goes with init."],
    ["--yes where it does not go", ["keys", "pause", "1", "--yes"], "--yes goes with init and keys remove."],
    [
      "--system with a file",
      ["init", "--system", "--env-file", "x"],
      "--system and --env-file do not go together.",
    ],
    ["a word behind init", ["init", "now"], "now is one word too many."],
    ["a word behind version", ["version", "now"], "now is one word too many."],
    ["--json where it does not go", ["serve", "--json"], "--json goes with check, status and keys list."],
    [
      "--json with a change",
      ["keys", "pause", "1", "--json"],
      "--json goes with check, status and keys list.",
    ],
    ["a slip names the command", ["srve"], "There is no command srve. Did you mean serve?"],
    ["an option without its dashes", ["demo"], "There is no command demo. Did you mean --demo?"],
    ["an unknown word stands alone", ["launch"], "There is no command launch."],
    ["a slip in an option", ["--verison"], "There is no option --verison. Did you mean --version?"],
    ["-v is nearly -V", ["-v"], "There is no option -v. Did you mean -V?"],
    ["-x is nothing", ["-x"], "There is no option -x."],
    [
      "a setting is not an option",
      ["--port=80"],
      "There is no option --port. Set PORT in the environment or in .env.",
    ],
    ["two commands", ["serve", "serve"], "serve is one command too many."],
    ["--env-file at the end", ["--env-file"], "--env-file needs a PATH after it."],
    ["--env-file= without a path", ["--env-file="], "--env-file needs a PATH after it."],
    ["an option where the path belongs", ["--env-file", "--demo"], "--env-file needs a PATH after it."],
    ["--env-file twice", ["--env-file", "a", "--env-file", "b"], "--env-file is given twice. Give it once."],
  ];
  test.each(refused)("%s: exit code 2", (_, words, message) => {
    expect(parseCommand(words)).toEqual({
      kind: "usage",
      message: `${message} keywheel --help shows what there is.`,
    });
  });

  test("never shows a key that was typed where it does not belong", () => {
    const key = "sk-canary0123456789abcdef";
    const lines = [
      [key],
      ["keys", "add", key],
      ["keys", "add", "groq", key],
      ["keys", "add", key, "groq"],
      ["keys", "remove", key],
      ["keys", key],
      ["check", key],
      ["status", key],
      [`--key=${key}`],
      [`--${key}`],
    ];
    for (const words of lines) {
      expect(JSON.stringify(parseCommand(words))).not.toContain("canary");
    }
  });
});

describe("the page of help", () => {
  test("fits a terminal of 80 by 24", () => {
    const lines = USAGE.trimEnd().split("\n");
    expect(lines.length).toBeLessThanOrEqual(23); // The prompt comes after it.
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(80);
  });

  test.each([
    "--demo",
    "--env-file",
    "check",
    "init",
    "--watch",
    "--model",
    "--system",
    "--yes",
    "help",
    "status",
    "keys list",
    "--json",
    "--help",
    "--version",
    "API_KEYS",
  ])("mentions %s", (word) => {
    expect(USAGE).toContain(word);
  });
});
