import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseEnvFile } from "../config/env-file.ts";
import type { ConfiguredKey } from "../config/keys.ts";
import { Secret, fingerprint, fingerprint as id } from "../core/secret.ts";
import {
  SettingsFiles,
  keyPlaces,
  planAddKeys,
  planAddProvider,
  planRemoveProvider,
  type NewProvider,
  planOrder,
  planRemoveKey,
  planSettings,
  settingsOf,
} from "./settings-editor.ts";
import type { Plan, Sources } from "./settings-editor.ts";
import type { Editable } from "./views.ts";
import { withKey, withKeysInOrder, withoutGoneKeys } from "./env-edit.ts";

const ENV = "/etc/keywheel.env";
const LIST = "/etc/keys";

interface Given {
  /** The env file; null: there is none. */
  env?: string | null;
  environment?: Record<string, string>;
  /** What `/etc/keys` holds. */
  file?: string;
}

function sources({ env = null, environment = {}, file }: Given): Sources {
  return {
    environment,
    envFile: env === null ? null : { path: ENV, text: env },
    keyFiles: new Map(file === undefined ? [] : [[LIST, { path: LIST, text: file }]]),
  };
}

function key(text: string, account: string | null = null, dailyLimit: number | null = null): ConfiguredKey {
  return { secret: new Secret(text), account, dailyLimit, origin: null };
}

/** What is written, file by file; or why nothing is. */
function result(plan: Plan): Record<string, string> | string {
  if (plan.kind === "refused") return `${plan.why}: ${plan.message}`;
  return Object.fromEntries(plan.edits.map(({ path, after }) => [path, after]));
}

describe("a key that is added", () => {
  const rows: [
    says: string,
    given: Given,
    provider: string,
    added: ConfiguredKey,
    result: Record<string, string>,
  ][] = [
    [
      "comes last in API_KEYS",
      { env: "# mine\nAPI_KEYS=a,b # two\nRPM=9\n" },
      "default",
      key("c"),
      { [ENV]: "# mine\nAPI_KEYS=a,b,c # two\nRPM=9\n" },
    ],
    [
      "keeps its account and its limit",
      { env: "API_KEYS=a\n" },
      "default",
      key("c", "me@x.y", 50),
      { [ENV]: "API_KEYS=a,me@x.y@c:50\n" },
    ],
    [
      "goes to its provider",
      { env: "API_KEYS=a\nGROQ_API_KEYS='g1 g2'\n" },
      "groq",
      key("g3"),
      { [ENV]: "API_KEYS=a\nGROQ_API_KEYS='g1 g2 g3'\n" },
    ],
    [
      "goes to the key file where the others are",
      { env: `API_KEYS_FILE=${LIST}\n`, file: "a # one\n" },
      "default",
      key("b"),
      { [LIST]: "a # one\nb\n" },
    ],
    [
      "goes to the key file where the environment has the list",
      { environment: { API_KEYS: "a", API_KEYS_FILE: LIST }, file: "b" },
      "default",
      key("c"),
      { [LIST]: "b\nc\n" },
    ],
    [
      "goes to API_KEYS where there is a key file too",
      { env: `API_KEYS=a\nAPI_KEYS_FILE=${LIST}\n`, file: "b\n" },
      "default",
      key("c"),
      { [ENV]: `API_KEYS=a,c\nAPI_KEYS_FILE=${LIST}\n` },
    ],
    ["is the first of an empty file", { env: "" }, "default", key("a"), { [ENV]: "API_KEYS=a\n" }],
    [
      "makes a provider of the catalogue",
      { env: "API_KEYS=a\n" },
      "groq",
      key("g"),
      { [ENV]: "API_KEYS=a\nGROQ_API_KEYS=g\n" },
    ],
    [
      "goes where an empty variable of the environment does not win",
      { env: "API_KEYS=a\n", environment: { API_KEYS: " " } },
      "default",
      key("b"),
      { [ENV]: "API_KEYS=a,b\n" },
    ],
  ];
  test.each(rows)("%s", (_, given, provider, added, expected) => {
    expect(result(planAddKeys(sources(given), provider, [added]))).toEqual(expected);
  });

  const refusals: [says: string, given: Given, provider: string, added: ConfiguredKey, says: RegExp][] = [
    ["is there already", { env: "API_KEYS=x@a:9\n" }, "default", key("a"), /^conflict: .*already/],
    [
      "is there already, in the file",
      { env: `API_KEYS_FILE=${LIST}\n`, file: "a" },
      "default",
      key("a"),
      /^conflict: .*already/,
    ],
    [
      "belongs to a list of the environment",
      { env: "RPM=9\n", environment: { API_KEYS: "a" } },
      "default",
      key("b"),
      /^not_writable: API_KEYS is set in the environment, .*restart/,
    ],
    [
      "has no env file to go to",
      { environment: { GROQ_API_KEYS: "a" } },
      "default",
      key("b"),
      /^not_writable: There is no env file .*--env-file/,
    ],
    [
      "is of a provider without an address",
      { env: "API_KEYS=a\n" },
      "myown",
      key("b"),
      /^invalid_value: MYOWN_BASE_URL is not set/,
    ],
    [
      "is of a provider that cannot be",
      { env: "API_KEYS=a\n" },
      "proxy",
      key("b"),
      /^(?:not_found|invalid_value): /,
    ],
    ["is of a provider with no name", { env: "API_KEYS=a\n" }, "../x", key("b"), /^not_found: /],
    ["is of a provider in capitals", { env: "GROQ_API_KEYS=a\n" }, "GROQ", key("b"), /^not_found: /],
    [
      "would be a comment in the key file",
      { env: `API_KEYS_FILE=${LIST}\n`, file: "a\n" },
      "default",
      key("#b"),
      /^invalid_value: This cannot be written/,
    ],
    [
      "comes to a file with mistakes",
      { env: "API_KEYS=a\nRPM=many\n" },
      "default",
      key("b"),
      /^conflict: .*First correct them:\nRPM is many/,
    ],
    [
      "comes to a file that cannot be read",
      { env: "API_KEYS=a\nthat was no setting\n" },
      "default",
      key("b"),
      /^conflict: .*Line 2/,
    ],
  ];
  test.each(refusals)("is refused when it %s", (_, given, provider, added, says) => {
    expect(result(planAddKeys(sources(given), provider, [added]))).toMatch(says);
  });

  const AWKWARD = [
    "AQ==",
    "=",
    "a=b",
    "$HOME",
    "a`id`b",
    "a'b",
    'a"b',
    "a'b\"c",
    "\\n",
    "a\\",
    "a#b",
    "#a",
    "a;b",
    "%41",
    "a:b",
    "a=",
    "x$a",
    "a/$b+c==",
    "a%b~c!",
    "{a}",
    "~",
    "!",
  ];
  /** Refused before anything is written: quotation marks, brackets, `;`, NAME=key, a variable, a comment. */
  const NO_KEYS = ["=", "a=b", "$HOME", "a`id`b", "a'b", 'a"b', "a'b\"c", "\\n", "#a", "a;b", "{a}"];
  const FILES = [
    "API_KEYS=k\nRPM=9\n",
    "API_KEYS='k'\nRPM=9",
    'export API_KEYS="k" # mine\r\nRPM=9\r\n',
    "\uFEFFAPI_KEYS=k\nRPM=9\n",
  ];
  test.each(AWKWARD)("P29 never breaks a file or becomes another one: %s", (text) => {
    for (const env of FILES) {
      const plan = planAddKeys(sources({ env }), "default", [key(text)]);
      if (plan.kind === "refused") continue;
      const { values, problems } = parseEnvFile(plan.edits[0]?.after ?? "");
      expect(problems).toEqual([]);
      expect([...values]).toEqual([
        ["API_KEYS", `k,${text}`],
        ["RPM", "9"],
      ]);
    }
  });

  test("may hold nearly anything but what is plainly no key", () => {
    const taken = AWKWARD.filter(
      (text) => planAddKeys(sources({ env: FILES[0] ?? "" }), "default", [key(text)]).kind === "write",
    );
    expect(AWKWARD.filter((text) => !taken.includes(text))).toEqual(NO_KEYS);
  });

  test.each(["a\nPROXY_API_KEY=off", "a\rX=1", "a b", "a,b", "a\0", "ключ"])(
    "P29 changes nothing where it is none: %j",
    (text) => {
      for (const given of [{ env: "API_KEYS=k\n" }, { env: `API_KEYS_FILE=${LIST}\n`, file: "k\n" }]) {
        expect(planAddKeys(sources(given), "default", [key(text)]).kind).toBe("refused");
        expect(planAddKeys(sources(given), "default", [key("b", text)]).kind).toBe("refused");
      }
    },
  );

  test("P29 is not told by what is said of it", () => {
    const given = [
      { env: "API_KEYS=k\n" },
      { env: "API_KEYS=canary-1\n" },
      { environment: { API_KEYS: "k" } },
      { env: "API_KEYS=k\nRPM=x" },
    ];
    for (const one of given) {
      const { message } = planAddKeys(sources(one), "default", [key("canary-1")]);
      expect(message).not.toContain("canary");
    }
  });
});

describe("a key that is removed", () => {
  const rows: [says: string, given: Given, removed: string, result: Record<string, string>][] = [
    [
      "leaves the others as they are",
      { env: "API_KEYS='a, x@b:5, c' # all\n" },
      "b",
      { [ENV]: "API_KEYS='a, c' # all\n" },
    ],
    [
      "goes from all places where it is written",
      { env: `API_KEYS=a,b,a\nAPI_KEYS_FILE=${LIST}\n`, file: "c\na # again\n" },
      "a",
      { [ENV]: `API_KEYS=b\nAPI_KEYS_FILE=${LIST}\n`, [LIST]: "c\n" },
    ],
    [
      "takes its setting along when it is its last",
      { env: `API_KEYS=a\nAPI_KEYS_FILE=${LIST}\n`, file: "b\n" },
      "a",
      { [ENV]: `API_KEYS_FILE=${LIST}\n` },
    ],
  ];
  test.each(rows)("%s", (_, given, removed, expected) => {
    expect(result(planRemoveKey(sources(given), "default", id(removed)))).toEqual(expected);
  });

  const refusals: [says: string, given: Given, removed: string, says: RegExp][] = [
    ["is not there", { env: "API_KEYS=a,b\n" }, "c", /^not_found: /],
    ["is the only one", { env: "API_KEYS=a a\n" }, "a", /^conflict: .*only one.*Add another/],
    [
      "is in the environment",
      { env: "", environment: { API_KEYS: "a,b" } },
      "a",
      /^not_writable: API_KEYS is set in the environment/,
    ],
    [
      "is in the environment too",
      { environment: { API_KEYS: "a,b", API_KEYS_FILE: LIST }, file: "b\nc\n" },
      "b",
      /^not_writable: /,
    ],
    [
      "is the last of a key file, which must have one",
      { env: `API_KEYS=a\nAPI_KEYS_FILE=${LIST}\n`, file: "\n" },
      "a",
      /^conflict: /,
    ],
  ];
  test.each(refusals)("is refused when it %s", (_, given, removed, says) => {
    expect(result(planRemoveKey(sources(given), "default", id(removed)))).toMatch(says);
  });
});

describe("keys that are put into another order", () => {
  const both = { env: `API_KEYS=a,b\nAPI_KEYS_FILE=${LIST}\n`, file: "c\nd # of d\n" };
  const rows: [says: string, given: Given, order: string, result: Record<string, string>][] = [
    [
      "stand as they were separated",
      { env: "API_KEYS='a, x@b:5 c'\n" },
      "cba",
      { [ENV]: "API_KEYS='c, x@b:5 a'\n" },
    ],
    [
      "change places in both lists",
      both,
      "badc",
      { [ENV]: `API_KEYS=b,a\nAPI_KEYS_FILE=${LIST}\n`, [LIST]: "d # of d\nc\n" },
    ],
    ["leave the list alone whose order stays", both, "abdc", { [LIST]: "d # of d\nc\n" }],
    ["write nothing when nothing changes", both, "abcd", {}],
  ];
  test.each(rows)("%s", (_, given, order, expected) => {
    expect(result(planOrder(sources(given), "default", [...order].map(id)))).toEqual(expected);
  });

  const refusals: [says: string, given: Given, order: string, says: RegExp][] = [
    ["one is missing", both, "abc", /^invalid_value: Name each key/],
    ["one is named twice", both, "abcc", /^invalid_value: /],
    ["one is unknown", both, "abcx", /^invalid_value: /],
    [
      "the lists would be mixed",
      both,
      "acbd",
      /^conflict: The keys of API_KEYS come before those of API_KEYS_FILE/,
    ],
    ["they are in the environment", { env: "", environment: { API_KEYS: "a,b" } }, "ba", /^not_writable: /],
    ["there are none", { env: "GROQ_API_KEYS=a" }, "a", /^not_found: /],
  ];
  test.each(refusals)("are refused when %s", (_, given, order, says) => {
    expect(result(planOrder(sources(given), "default", [...order].map(id)))).toMatch(says);
  });
});

describe("a setting that is changed", () => {
  const TWO = "API_KEYS=a\nRPM=9\nGROQ_API_KEYS=g\nGROQ_RPM=7\n";
  const rows: [
    says: string,
    given: Given,
    provider: string,
    changes: [Editable, string | null][],
    result: Record<string, string>,
  ][] = [
    ["is the provider's own", { env: TWO }, "groq", [["rpm", "30"]], { [ENV]: TWO.replace("=7", "=30") }],
    [
      "is that of all for the default provider",
      { env: TWO },
      "default",
      [["rpm", "off"]],
      { [ENV]: TWO.replace("=9", "=off") },
    ],
    [
      "is gone when it is null",
      { env: TWO },
      "groq",
      [["rpm", null]],
      { [ENV]: TWO.replace("GROQ_RPM=7\n", "") },
    ],
    [
      "comes with others",
      { env: TWO },
      "groq",
      [
        ["disabled", "true"],
        ["rpm", null],
      ],
      { [ENV]: TWO.replace("GROQ_RPM=7", "GROQ_DISABLED=true") },
    ],
    ["writes nothing when it is so already", { env: TWO }, "groq", [["rpm", "7"]], {}],
    [
      "is of the file where the environment has only that of all",
      { env: TWO, environment: { RPM: "5" } },
      "groq",
      [["rpm", "30"]],
      { [ENV]: TWO.replace("=7", "=30") },
    ],
  ];
  test.each(rows)("%s", (_, given, provider, changes, expected) => {
    expect(result(planSettings(sources(given), provider, new Map(changes)))).toEqual(expected);
  });

  const refusals: [
    says: string,
    given: Given,
    provider: string,
    changes: [Editable, string | null][],
    says: RegExp,
  ][] = [
    [
      "cannot be so",
      { env: TWO },
      "groq",
      [["rpm", "-1"]],
      /^invalid_value: GROQ_RPM is -1\. Use a whole number/,
    ],
    [
      "is no strategy",
      { env: TWO },
      "groq",
      [["strategy", "random"]],
      /^invalid_value: GROQ_STRATEGY is random/,
    ],
    [
      "is in the environment",
      { env: TWO, environment: { GROQ_RPM: "5" } },
      "groq",
      [["rpm", "6"]],
      /^not_writable: GROQ_RPM is set in the environment/,
    ],
    [
      "has no file to go to",
      { environment: { API_KEYS: "a" } },
      "default",
      [["rpm", "6"]],
      /^not_writable: There is no env file/,
    ],
    [
      "would switch the default provider off",
      { env: TWO },
      "default",
      [["disabled", "true"]],
      /^invalid_value: .*default provider/,
    ],
    ["is of nobody", { env: TWO }, "mistral", [["rpm", "6"]], /^not_found: /],
    ["has two lines", { env: TWO }, "groq", [["timezone", "UTC\nPROXY_API_KEY=off"]], /^invalid_value: /],
  ];
  test.each(refusals)("is refused when it %s", (_, given, provider, changes, says) => {
    expect(result(planSettings(sources(given), provider, new Map(changes)))).toMatch(says);
  });
});

describe("what is in force", () => {
  const given = {
    env: `API_KEYS=a\nRPM=9\nGROQ_API_KEYS=g\nGROQ_API_KEYS_FILE=${LIST}\nGROQ_RPM=7\nGROQ_DISABLED=true\n`,
    environment: { STRATEGY: "lru", GROQ_COOLDOWN_SEC: "5" },
    file: "h\ng\n",
  };

  test("is told with where it comes from, and whether it can be changed", () => {
    const locked = expect.stringContaining("is set in the environment");
    expect(settingsOf(sources(given), "groq")).toEqual({
      rpm: { value: "7", origin: "own", locked: null },
      daily_limit: { value: null, origin: "default", locked: null },
      strategy: { value: "lru", origin: "shared", locked: null },
      cooldown_sec: { value: "5", origin: "own", locked },
      timezone: { value: null, origin: "default", locked: null },
      retry_status: { value: "429,500,502-504,520-524,529", origin: "default", locked: null },
      disabled: { value: "true", origin: "own", locked: null },
    });
    expect(settingsOf(sources(given), "default")).toMatchObject({
      rpm: { value: "9", origin: "own", locked: null },
      strategy: { value: "lru", origin: "own", locked },
      cooldown_sec: { value: "60", origin: "default", locked: null },
    });
    expect(settingsOf(sources(given), "default")).not.toHaveProperty("disabled");
  });

  test("is told of each key", () => {
    expect([...keyPlaces(sources(given), "groq")]).toEqual([
      [id("g"), { source: "GROQ_API_KEYS", locked: null }],
      [id("h"), { source: "GROQ_API_KEYS_FILE", locked: null }],
    ]);
    const fixed = keyPlaces(sources({ environment: { API_KEYS: "a" } }), "default");
    expect(fixed.get(id("a"))?.locked).toContain("API_KEYS is set in the environment");
  });
});

describe("a key file", () => {
  const rows: [says: string, before: string, edit: (text: string) => string, after: string][] = [
    ["gets a key on a line of its own", "a", (text) => withKey(text, "b"), "a\nb\n"],
    ["gets its first key", "", (text) => withKey(text, "a"), "a\n"],
    ["keeps its line ends", "a\r\nb\r\n", (text) => withKey(text, "c"), "a\r\nb\r\nc\r\n"],
    [
      "loses a line with its comment",
      "# all\na # first\n\nb\n",
      (text) => withoutGoneKeys(text, (one) => one === "a"),
      "# all\n\nb\n",
    ],
    [
      "keeps what else is on the line",
      "a, b  c # three",
      (text) => withoutGoneKeys(text, (one) => one === "b"),
      "a,c # three",
    ],
    [
      "keeps its byte order mark",
      "\uFEFFa\nb\n",
      (text) => withoutGoneKeys(text, (one) => one === "a"),
      "\uFEFF\nb\n",
    ],
    [
      "does not lose a comment that names a key",
      "# a\nb #a\n",
      (text) => withoutGoneKeys(text, (one) => one === "a"),
      "# a\nb #a\n",
    ],
    [
      "moves keys with their comments",
      "# all\na # of a\n\n  b\n",
      (text) => withKeysInOrder(text, (one) => (one === "b" ? 0 : 1)),
      "# all\n  b\n\na # of a\n",
    ],
    [
      "moves keys between lines of several",
      "a b # two\nc\n",
      (text) => withKeysInOrder(text, (one) => -one.charCodeAt(0)),
      "c,b # two\na\n",
    ],
  ];
  test.each(rows)("%s", (_, before, edit, after) => {
    expect(edit(before)).toBe(after);
  });
});

const TOP = mkdtempSync(join(tmpdir(), "keywheel-sources-"));
afterAll(() => rmSync(TOP, { recursive: true }));

/** A directory of its own with these files in it. */
async function directory(files: Record<string, string>): Promise<string> {
  const path = mkdtempSync(join(TOP, "case-"));
  for (const [name, text] of Object.entries(files)) await Bun.write(join(path, name), text);
  return path;
}

const textOf = (...path: string[]) => Bun.file(join(...path)).text();

describe("a provider that is made or removed", () => {
  const made = (name: string, changes: Partial<NewProvider> = {}): NewProvider => ({
    name,
    baseUrl: null,
    dialect: null,
    keys: [key("k1"), key("k2", "me", 5)],
    ...changes,
  });
  const rows: [
    says: string,
    given: Given,
    plan: (sources: Sources) => Plan,
    expected: Record<string, string> | RegExp,
  ][] = [
    [
      "one that is known needs only its keys",
      { env: "API_KEYS=a\n" },
      (sources) => planAddProvider(sources, made("groq")),
      { [ENV]: "API_KEYS=a\nGROQ_API_KEYS=k1,me@k2:5\n" },
    ],
    [
      "another one needs its address",
      { env: "API_KEYS=a\n" },
      (sources) => planAddProvider(sources, made("mine")),
      /^invalid_value: .*MINE_BASE_URL/,
    ],
    [
      "is not made twice",
      { env: "API_KEYS=a\nGROQ_API_KEYS=b\n" },
      (sources) => planAddProvider(sources, made("groq")),
      /^conflict: /,
    ],
    [
      "is not made with a name that is none",
      { env: "API_KEYS=a\n" },
      (sources) => planAddProvider(sources, made("v1")),
      /^invalid_value: /,
    ],
    [
      "is not made as the default one",
      { env: "GROQ_API_KEYS=a\n" },
      (sources) => planAddProvider(sources, made("default")),
      /^invalid_value: /,
    ],
    [
      "an address that is none is refused",
      { env: "API_KEYS=a\n" },
      (sources) => planAddProvider(sources, made("mine", { baseUrl: "nowhere" })),
      /^invalid_value: /,
    ],
    [
      "is not made where there is no file",
      {},
      (sources) => planAddProvider(sources, made("groq")),
      /^not_writable: /,
    ],
    [
      "goes with all that is said of it, and leaves the others",
      { env: "API_KEYS=a\n# the fast one\nGROQ_API_KEYS=b\nGROQ_RPM=5\nGROQS_RPM=1\nRPM=3\n" },
      (sources) => planRemoveProvider(sources, "groq"),
      { [ENV]: "API_KEYS=a\n# the fast one\nGROQS_RPM=1\nRPM=3\n" },
    ],
    [
      "the default one may go where there is another",
      { env: "API_KEYS=a\nTARGET_BASE_URL=https://llm.example/v1\nGROQ_API_KEYS=b\nRPM=3\n" },
      (sources) => planRemoveProvider(sources, "default"),
      { [ENV]: "GROQ_API_KEYS=b\nRPM=3\n" },
    ],
    [
      "the only one stays",
      { env: "API_KEYS=a\n" },
      (sources) => planRemoveProvider(sources, "default"),
      /^invalid_value: There are no API keys/,
    ],
    [
      "one that others fall back to stays",
      { env: "API_KEYS=a\nGROQ_API_KEYS=b\nFALLBACK=groq\n" },
      (sources) => planRemoveProvider(sources, "groq"),
      /^invalid_value: .*FALLBACK/,
    ],
    [
      "one of the environment stays",
      { env: "API_KEYS=a\n", environment: { GROQ_API_KEYS: "b" } },
      (sources) => planRemoveProvider(sources, "groq"),
      /^not_writable: /,
    ],
    [
      "one that is not there is told",
      { env: "API_KEYS=a\n" },
      (sources) => planRemoveProvider(sources, "groq"),
      /^not_found: /,
    ],
  ];
  test.each(rows)("%s", (_, given, plan, expected) => {
    const became = result(plan(sources(given)));
    if (expected instanceof RegExp) expect(became).toMatch(expected);
    else expect(became).toEqual(expected);
  });
});

describe("the files that settings are kept in", () => {
  test("are changed one after the other, and none of the changes is lost (P29)", async () => {
    const workingDirectory = await directory({ ".env": "# mine\nAPI_KEYS=a\n" });
    const path = join(workingDirectory, ".env");
    const files = new SettingsFiles({
      environment: {},
      workingDirectory,
      envFile: () => path,
      newEnvFile: null,
    });
    const names = ["b", "c", "d", "e"];
    const outcomes = await Promise.all(
      names.map((name) => files.change((sources) => planAddKeys(sources, "default", [key(name)]))),
    );
    expect(outcomes.map(({ kind }) => kind)).toEqual(["done", "done", "done", "done"]);
    expect(await textOf(path)).toBe("# mine\nAPI_KEYS=a,b,c,d,e\n");
    expect(readdirSync(workingDirectory)).toEqual([".env"]);
  });

  test("are key files too, named from the working directory", async () => {
    const workingDirectory = await directory({ "keys.txt": "a # one\nb\n" });
    const environment = { API_KEYS_FILE: "./keys.txt" };
    const files = new SettingsFiles({ environment, workingDirectory, envFile: () => null, newEnvFile: null });
    const outcome = await files.change((sources) => planRemoveKey(sources, "default", fingerprint("a")));
    expect(outcome.kind).toBe("done");
    expect(await textOf(workingDirectory, "keys.txt")).toBe("b\n");
  });

  test("are made where there is none and one may be, for nobody else to read", async () => {
    const workingDirectory = await directory({});
    const path = join(workingDirectory, ".env");
    const options = { environment: {}, workingDirectory, envFile: () => null };
    const add = new SettingsFiles({ ...options, newEnvFile: path });
    const forbidden = new SettingsFiles({ ...options, newEnvFile: null });
    expect(await forbidden.change((sources) => planAddKeys(sources, "default", [key("a")]))).toMatchObject({
      kind: "refused",
      why: "not_writable",
    });
    expect((await add.change((sources) => planAddKeys(sources, "default", [key("a")]))).kind).toBe("done");
    expect(await textOf(path)).toBe("API_KEYS=a\n");
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test("stay as they are when they change meanwhile, or are not there any more", async () => {
    const workingDirectory = await directory({ ".env": "API_KEYS=a\n" });
    const path = join(workingDirectory, ".env");
    const files = new SettingsFiles({
      environment: {},
      workingDirectory,
      envFile: () => path,
      newEnvFile: null,
    });

    const outcome = await files.change((sources) => {
      writeFileSync(path, "API_KEYS=z\n");
      return planAddKeys(sources, "default", [key("b")]);
    });
    expect(outcome).toMatchObject({ kind: "refused", why: "not_writable" });
    expect(await textOf(path)).toBe("API_KEYS=z\n");
    unlinkSync(path);
    const late = await files.change((sources) => planAddKeys(sources, "default", [key("b")]));
    expect(late).toMatchObject({
      kind: "refused",
      why: "not_writable",
      message: expect.stringContaining(path),
    });
  });
});
