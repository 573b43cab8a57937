import { describe, expect, test } from "bun:test";
import { type Config, type FileOf, parseConfig } from "./config.ts";

type Variables = Record<string, string>;

/** The configuration of an environment that has no mistakes. */
function configOf(environment: Variables, file: Variables = {}): Config {
  const parsed = parseConfig({ API_KEYS: "key-one", ...environment }, new Map(Object.entries(file)));
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  return parsed.config;
}

function problemsOf(environment: Variables, fileOf?: FileOf): string[] {
  const parsed = parseConfig(environment, new Map(), fileOf);
  return parsed.ok ? [] : parsed.problems;
}

function warningsOf(environment: Variables, file: Variables = {}): string[] {
  return parseConfig(environment, new Map(Object.entries(file))).warnings;
}

/** Keys as they were written, in order. */
function poolOf(config: Config, index = 0) {
  const keys = config.providers[index]?.keys ?? [];
  return keys.map(({ secret, account, dailyLimit }) => [secret.reveal(), account, dailyLimit]);
}

describe("a list of keys", () => {
  const table: [says: string, text: string, keys: [string, string | null, number | null][]][] = [
    [
      "is separated by commas or white space",
      "a1, b2\tc3\nd4,",
      [
        ["a1", null, null],
        ["b2", null, null],
        ["c3", null, null],
        ["d4", null, null],
      ],
    ],
    [
      "may name accounts and daily limits",
      "bob@a1:50 b2:7",
      [
        ["a1", "bob", 50],
        ["b2", null, 7],
      ],
    ],
    ["may name an account by its mail address", "a@b.example@k1", [["k1", "a@b.example", null]]],
    [
      "leaves a colon alone that begins no number",
      "id:s3cret x:1234abcdef99",
      [
        ["id:s3cret", null, null],
        ["x:1234abcdef99", null, null],
      ],
    ],
    ["keeps a dollar sign", "sk-ab$cd", [["sk-ab$cd", null, null]]],
    [
      "uses the same key once, as it stood first",
      "a1:5,b2,a1:9",
      [
        ["a1", null, 5],
        ["b2", null, null],
      ],
    ],
  ];
  test.each(table)("%s", (_, text, keys) => {
    expect(poolOf(configOf({ API_KEYS: text }))).toEqual(keys);
  });

  test("warns of the same key twice", () => {
    expect(warningsOf({ API_KEYS: "canary1,b2,canary1" })).toEqual([
      "API_KEYS: key 3 is the same as API_KEYS: key 1. It is used once, as the first one says.",
    ]);
  });

  const faults: [says: string, text: string, problem: string][] = [
    ["a limit of 0", "canary:0", "key 1 has a daily limit that is not a whole number from 1 up"],
    ["a limit with a decimal", "canary:1.5", "key 1 has a daily limit"],
    ["a limit with a unit", "canary:50/day", "key 1 has a daily limit"],
    ["a colon without a limit", "a1,canary:", "key 2 has a daily limit"],
    ["no key after the account", "canary@", "key 1 is empty"],
    ["no account before the @", "@canary", "key 1 has nothing before the @"],
    [
      "a letter outside ASCII",
      "canaryé",
      "key 1 holds a space, a control character or a letter outside ASCII",
    ],
    ["a zero-width space", "canary\u200b", "key 1 holds a space, a control character"],
    ["a control character", "canary\x01", "key 1 holds a space, a control character"],
    ["quotation marks that Docker passes on", '"canary', "key 1 begins or ends with a quotation mark"],
    ["a placeholder: your-key-here", "your-key-here", "key 1 is a placeholder"],
    ["a placeholder: sk-...", "good,sk-...", "key 2 is a placeholder"],
    ["a placeholder: changeme", "changeme", "key 1 is a placeholder"],
    ["a placeholder: <your-canary>", "<your-canary>", "key 1 is a placeholder"],
    ["a placeholder: nvapi-xxxxxxxx", "nvapi-xxxxxxxx", "key 1 is a placeholder"],
    ["only separators", " , ,", "API_KEYS holds no key"],
  ];
  test.each(faults)("is refused for %s", (_, text, problem) => {
    const problems = problemsOf({ API_KEYS: text });
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(problem);
    expect(problems[0]).not.toContain("canary");
  });

  test("takes ordinary test keys for keys", () => {
    expect(problemsOf({ API_KEYS: "k1 test-key sk-test key-a demo canary-key-1 xxx1 sk-your1" })).toEqual([]);
  });
});

describe("API_KEYS_FILE", () => {
  const files: Record<string, string> = {
    "/run/keys": "\uFEFF# ours\r\nbob@k2:5 # Bob's\r\n\r\nk3\r\nk1",
    "/run/empty": "# nothing\n",
    "/run/bad": "ok1\ncanaryé\nok2 your-key-here\n",
  };
  const fileOf: FileOf = (path) => {
    const text = files[path];
    return text === undefined ? { ok: false, reason: "there is no such file" } : { ok: true, text };
  };

  test("adds its keys to API_KEYS", () => {
    const parsed = parseConfig({ API_KEYS: "k1", API_KEYS_FILE: "/run/keys" }, new Map(), fileOf);
    expect(parsed.ok && poolOf(parsed.config)).toEqual([
      ["k1", null, null],
      ["k2", "bob", 5],
      ["k3", null, null],
    ]);
    expect(parsed.warnings).toEqual([
      "API_KEYS_FILE: the key in line 5 is the same as API_KEYS: key 1. It is used once, as the first one says.",
    ]);
  });

  test("names the line of a bad key, and not the key", () => {
    expect(problemsOf({ API_KEYS_FILE: "/run/bad" }, fileOf)).toEqual([
      expect.stringContaining("API_KEYS_FILE: the key in line 2 holds a space"),
      expect.stringContaining("API_KEYS_FILE: key 2 in line 3 is a placeholder."),
    ]);
  });

  test("is a problem when it cannot be read, or is empty", () => {
    expect(problemsOf({ API_KEYS_FILE: "/run/none" }, fileOf)).toEqual([
      "API_KEYS_FILE is /run/none: there is no such file. Correct the path or the file's permissions.",
    ]);
    expect(problemsOf({ GROQ_API_KEYS_FILE: "/run/empty" }, fileOf)).toEqual([
      "GROQ_API_KEYS_FILE holds no key. Put at least one there, or remove the setting.",
    ]);
  });
});

describe("PROXY_API_KEY", () => {
  const table: [says: string, text: string, clients: [string | null, string][]][] = [
    ["is one key", "correct-horse", [[null, "correct-horse"]]],
    [
      "may name clients",
      "codex=secret-one,qwen.2=secret-two",
      [
        ["codex", "secret-one"],
        ["qwen.2", "secret-two"],
      ],
    ],
    ["keeps a key that ends in =", "c2VjcmV0LQ==", [[null, "c2VjcmV0LQ=="]]],
    ["may name such a key", "ci=c2VjcmV0LQ==", [["ci", "c2VjcmV0LQ=="]]],
    ["takes what is no plain name for a key", "c2Vj/mV0=LQ+a", [[null, "c2Vj/mV0=LQ+a"]]],
  ];
  test.each(table)("%s", (_, text, clients) => {
    const { access } = configOf({ PROXY_API_KEY: text });
    const found = access.mode === "keys" ? access.clients : [];
    expect(found.map(({ name, secret }) => [name, secret.reveal()])).toEqual(clients);
  });

  const faults: [says: string, text: string, problem: string][] = [
    ["off beside a key", "canary-one,off", "PROXY_API_KEY: key 2 is off, which stands alone."],
    ["a space in a key", "canary one", "PROXY_API_KEY: key 1 holds a space"],
    ["a placeholder", "changeme", "PROXY_API_KEY: key 1 is a placeholder"],
    ["only commas", ",", "PROXY_API_KEY holds no key."],
  ];
  test.each(faults)("is refused for %s", (_, text, problem) => {
    const problems = problemsOf({ API_KEYS: "k1", PROXY_API_KEY: text });
    expect(problems).toEqual([expect.stringContaining(problem)]);
    expect(problems.join()).not.toContain("canary");
  });

  const doubtful: [says: string, text: string, warning: string][] = [
    ["a short key", "abc", "PROXY_API_KEY: key 1 is shorter than 8 characters"],
    ["a pool key", "canary-pool", "PROXY_API_KEY: key 1 is one of the pool's own keys."],
    ["the same key twice", "canary-one,b=canary-one", "PROXY_API_KEY: key 2 stands there twice."],
  ];
  test.each(doubtful)("gets a warning for %s", (_, text, warning) => {
    const warnings = warningsOf({ API_KEYS: "k1,canary-pool", PROXY_API_KEY: text });
    expect(warnings).toEqual([expect.stringContaining(warning)]);
    expect(warnings.join()).not.toContain("canary");
  });
});
