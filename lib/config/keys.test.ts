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

/** Without the one about keys that begin like nobody's, as those of most tests do. */
function warningsOf(environment: Variables, file: Variables = {}): string[] {
  const { warnings } = parseConfig(environment, new Map(Object.entries(file)));
  return warnings.filter((warning) => !warning.includes("begin like those of no provider"));
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

// Each is what people paste where a key belongs. `canary` stands for the key, and is never shown.
describe("what is plainly no key", () => {
  const table: [says: string, text: string, problem: string][] = [
    ["a header", "Authorization: Bearer sk-canary-0001", "key 1 has a name and : before the key"],
    ["the word Bearer and a key", "Bearer sk-canary-0001", "key 1 is a word of the Authorization header"],
    ["Bearer with its space encoded", "Bearer%20sk-canary-0001", "key 1 begins with Bearer"],
    [
      "a key and its name",
      "OPENAI_API_KEY=sk-canary-0001",
      "key 1 has a name and = before the key (NAME=key)",
    ],
    ["a name with spaces around =", "sk-good GROQ_KEY = gsk_canary01", "key 3 is a sign of a list"],
    ["a command of the shell", "export API_KEY=sk-canary-0001", "key 1 is a command of the shell"],
    ["YAML", "api_key: sk-canary-0001", "key 1 has a name and : before the key"],
    ["a name and : without a space", "token:sk-canary-0001", "key 1 has a name and : before the key"],
    ["a list of YAML", "- sk-canary-0001", "key 1 is a sign of a list"],
    ["a numbered list", "1. sk-canary-0001", "key 1 is a sign of a list"],
    ["a list of JSON", '["sk-canary-0001","sk-good"]', "key 1 holds a bracket"],
    ["an object of JSON", '{"key":"sk-canary-0001"}', "key 1 holds a bracket"],
    ["an expression of a pipeline", "${{ secrets.CANARY_1 }}", "key 1 holds a bracket"],
    ["the end of a list", "sk-canary-0001]", "key 1 holds a bracket"],
    ["keys in brackets", "(sk-canary-0001)", "key 1 holds a bracket"],
    ["a quotation mark within", 'sk-good"sk-canary-0001', "key 1 holds a quotation mark"],
    ["curly quotation marks", "“sk-canary-0001”", "a typographic quotation mark"],
    ["French quotation marks", "«sk-canary-0001»", "a typographic quotation mark"],
    ["; between keys", "sk-canary-0001;sk-good", "key 1 holds a semicolon"],
    [
      "a full-width comma between keys",
      "sk-canary-0001，sk-good",
      "a comma or semicolon that is no plain one",
    ],
    ["a Chinese enumeration comma", "sk-canary-0001、sk-good", "a comma or semicolon that is no plain one"],
    ["an Arabic comma", "sk-canary-0001،sk-good", "a comma or semicolon that is no plain one"],
    ["| between keys", "sk-canary-0001|sk-good0002", "key 1 seems to be two keys"],
    ["/ between keys", "gsk_canary0001/gsk_good0002", "key 1 seems to be two keys"],
    ["\\n between keys", "sk-canary-0001\\nsk-good", "key 1 holds \\n or \\t as text"],
    ["a zero-width space", "\u200bsk-canary-0001", "a character that cannot be seen"],
    ["a mark of direction", "sk-canary-0001\u200e", "a character that cannot be seen"],
    ["a soft hyphen", "sk-can\u00adary-0001", "a character that cannot be seen"],
    ["a long dash for a hyphen", "sk–canary–0001", "a dash where keys have a hyphen"],
    ["full-width letters", "ｓｋ-canary-0001", "a full-width letter"],
    ["dots that hide a key", "nvapi-••••••••", "what stands for hidden characters"],
    ["stars that hide a key", "sk-proj-****canary", "key 1 is masked"],
    ["an ellipsis", "sk-canary…", "what stands for hidden characters"],
    ["an address", "https://api.canary.example/v1", "key 1 is an address, not a key"],
    ["an address without a scheme", "api.canary.example/v1", "key 1 is an address, not a key"],
    ["the path of a file", "/run/secrets/canary_keys", "key 1 is the path of a file"],
    ["the name of a file", "./canary.txt", "key 1 is the path of a file"],
    ["a variable", "$CANARY_KEY", "key 1 is the name of a variable"],
    ["a variable in braces", "${CANARY_KEY}", "key 1 is the name of a variable"],
    ["a variable of Windows", "%CANARY_KEY%", "key 1 is the name of a variable"],
    ["null", "null", "key 1 is what a program writes for nothing"],
    ["undefined", "undefined", "key 1 is what a program writes for nothing"],
    ["a PEM file", "-----BEGIN PRIVATE KEY-----", "key 1 is the beginning of a PEM"],
    ["a comment", "#canary", "key 1 begins a comment"],
    ["a mail address", "canary@mail.example.com", "key 1 is a mail address without a key"],
    ["a name and : for the account", "canary:sk-good-0001", "key 1 has a name and : before it"],
    ["a name behind the key", "sk-good-0001:canary", "key 1 has a : behind it"],
    ["a placeholder: insert-key", "insert-canary-here", "key 1 is a placeholder"],
    ["a placeholder: API_KEY", "API_KEY", "key 1 is a placeholder"],
    ["a placeholder: sk-proj-XXXX-XXXX", "sk-proj-XXXX-XXXX", "key 1 is a placeholder"],
    ["the head of a table", "api_key,account\nsk-canary-0001,bob", "line 1 names the columns of a table"],
    [
      "the head of a table with ;",
      "Name;Key;Limit\nbob;sk-canary-0001;5",
      "line 1 names the columns of a table",
    ],
    ["a column of keys with its name", '"Key"\n"sk-canary-0001"', "line 1 names the columns of a table"],
    ["a key as long as a file", `sk-canary${"a".repeat(9000)}`, "key 1 is longer than 8192"],
  ];
  test.each(table)("is refused with its place: %s", (_, text, problem) => {
    for (const problems of [
      problemsOf({ API_KEYS: text }),
      problemsOf({ API_KEYS_FILE: "/k" }, () => ({ ok: true, text: text.replace(/^#/, "x #") })),
    ]) {
      expect(problems.join("\n")).not.toContain("canary");
      expect(problems.join("\n")).not.toContain("CANARY");
    }
    const [first = ""] = problemsOf({ API_KEYS: text });
    expect(first).toStartWith("API_KEYS: ");
    expect(first).toContain(problem);
    // What to do is said too.
    expect(first.split(/\. |: /).length).toBeGreaterThan(2);
  });

  test("names the line in a file, and in a value of several lines", () => {
    const fileOf: FileOf = () => ({ ok: true, text: "# mine\nsk-good-0001\nBearer sk-good-0002\n" });
    expect(problemsOf({ API_KEYS_FILE: "/k" }, fileOf)).toEqual([
      expect.stringContaining("API_KEYS_FILE: key 1 in line 3 is a word of the Authorization header."),
    ]);
    expect(problemsOf({ API_KEYS: "sk-good-0001\nsk-good;0002" })).toEqual([
      expect.stringContaining("API_KEYS: key 2 (in line 2) holds a semicolon."),
    ]);
  });

  test("is named three times at most, and counted", () => {
    const list = Array.from({ length: 50 }, (_, index) => `"sk-good-${index}"`).join("\n");
    const problems = problemsOf({ API_KEYS: list });
    expect(problems).toHaveLength(4);
    expect(problems[3]).toStartWith("47 more like that: each begins or ends with a quotation mark.");
  });

  test("is told from keys that only look odd", () => {
    const odd = [
      "sk-proj-aB3_-hf_xx",
      "c2VjcmV0LWtleQ==",
      "id:s3cret",
      "0123456789abcdef0123456789abcdef.aBcDeF12",
      "eyJhbGciOi.eyJzdWIi.c2ln",
      "12|laravel+token/with~signs",
      "none",
      "EMPTY",
      "sk-ab$cd",
      "key-$HOME#1${X}",
      "a[1]b(2)",
      "key-1",
      "me@example.com@sk-abcd-1",
      "1234567",
    ];
    expect(problemsOf({ API_KEYS: odd.join(","), TARGET_BASE_URL: "http://127.0.0.1:9" })).toEqual([]);
  });

  test("is looked for in a time that grows with the text", () => {
    const texts = [
      "a-".repeat(4000),
      "x_".repeat(4000),
      "a.".repeat(4000),
      `${"a".repeat(8000)}=`,
      "key-".repeat(2000),
    ];
    const startedAt = performance.now();
    for (const text of texts) problemsOf({ API_KEYS: `${text} ${text}@${text}`.slice(0, 24_000) });
    expect(performance.now() - startedAt).toBeLessThan(500);
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
    expect(parsed.warnings).toContain(
      "API_KEYS_FILE: the key in line 5 is the same as API_KEYS: key 1. It is used once, as the first one says.",
    );
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
