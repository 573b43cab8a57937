import { describe, expect, test } from "bun:test";
import { parseCommand, USAGE } from "./cli.ts";

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
    ["--version is the version", ["--version"], { kind: "version" }],
    ["-V is the version", ["-V"], { kind: "version" }],
  ];
  test.each(understood)("%s", (_, words, command) => {
    expect(parseCommand(words)).toEqual(command);
  });

  const refused: [says: string, words: string[], message: string][] = [
    ["check is not there yet", ["check"], "keywheel check is not in this version yet."],
    ["status is not there yet", ["status", "--json"], "keywheel status is not in this version yet."],
    ["keys is not there yet", ["keys", "list"], "keywheel keys is not in this version yet."],
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
    for (const words of [[key], ["keys", "add", key], [`--key=${key}`], [`--${key}`]]) {
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

  test.each(["--demo", "--env-file", "--help", "--version", "API_KEYS", "Exit codes"])(
    "mentions %s",
    (word) => {
      expect(USAGE).toContain(word);
    },
  );
});
