import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { document } from "./dashboard.ts";

const FOLDER = join(import.meta.dir, "dashboard");
const HTML = document();
const SCRIPT = /<script type="module">\n(.*)<\/script>/s.exec(HTML)?.[1] ?? "";

describe("the page as one document", () => {
  test("holds every script and style of its folder", () => {
    const parts = readdirSync(FOLDER).filter((name) => /\.(?:js|css)$/.test(name));
    expect(parts.length).toBeGreaterThan(10);
    for (const name of parts) {
      const lastLine = readFileSync(join(FOLDER, name), "utf8").trimEnd().split("\n").at(-2) ?? "";
      expect([name, HTML.includes(lastLine)]).toEqual([name, true]);
    }
  });

  test("is one script without imports and exports, in which no name is declared twice", () => {
    expect(SCRIPT.length).toBeGreaterThan(20_000);
    expect(SCRIPT.match(/^import\b.*$|^export (?:async|function|class|const|let)\b.*$/gm)).toBeNull();
    expect(() => new Bun.Transpiler({ loader: "js" }).transformSync(SCRIPT)).not.toThrow();
    const names = [...SCRIPT.matchAll(/^(?:async )?(?:function|const|let|class) (\w+)/gm)].map(
      ([, name]) => name,
    );
    expect(names.filter((name, at) => names.indexOf(name) !== at)).toEqual([]);
  });

  test("keeps the lines of snippets that look like a shell's", () => {
    expect(SCRIPT).toContain("\nexport ANTHROPIC_AUTH_TOKEN=");
  });

  // Words for people: what only somebody who writes scripts needs is not on the page.
  test.each(['"force": true', "Forget its troubles", "stands in", "retry-after", "HTTP 4"])(
    "does not say %s",
    (words) => expect(HTML.includes(words)).toBe(false),
  );
});

// ── What the page says: pure functions of its sources, run as the modules that they are ───────────────────────────

interface Standing {
  kind: string;
  words: string;
}

interface Headline {
  tone: string;
  words: string;
  text: string;
  more: string;
}

interface StatusModule {
  standingOf(provider: object, key: object, leftMs: number): Standing;
  headlineOf(overview: object, waitMs: number | null): Headline;
  otherTroubles(providers: readonly object[]): string[];
  beatWords(beats: string): string;
}

interface WordsModule {
  duration(ms: number): string;
  spent(ms: number): string;
}

interface Snippet {
  group: string;
  where: string;
  text: string;
  note?: string;
}

interface ToolsModule {
  snippetsOf(values: { base: string; root: string; key: string; model: string }): Record<string, Snippet>;
}

const status: StatusModule = await import(join(FOLDER, "status.js"));
const words: WordsModule = await import(join(FOLDER, "words.js"));

interface UsageModule {
  short(many: number): string;
  shareWords(part: number, whole: number, what: string): string;
  usageBy(rows: readonly object[], part: string): { name: string; requests: number; input_tokens: number }[];
  usageOfDays(rows: readonly object[], days: number, nowMs: number): object[];
}

const usage: UsageModule = await import(join(FOLDER, "usage.js"));
const tools: ToolsModule = await import(join(FOLDER, "snippets.js"));

/** A number and its unit stay on one line. */
const plain = (text: string) => text.replaceAll("\u00a0", " ");

const ready = { id: "aaaa", state: "ready", reason: null, in_flight: 0, models: {} };
const cooling = (reason: string) => ({ ...ready, state: "cooling", reason });
const dead = (reason: string) => ({ ...ready, state: "disabled", reason });
const up = {
  name: "default",
  dialect: "openai",
  state: "up",
  pause_reason: null,
  pause_said: null,
  waiting: 0,
};
const away = (pause_reason: string, pause_said: string | null) => ({
  ...up,
  state: "paused",
  pause_reason,
  pause_said,
});

describe("what a key does now", () => {
  const rows: [
    sentence: string,
    provider: object,
    key: object,
    leftMs: number,
    kind: string,
    words: string,
  ][] = [
    ["it is ready", up, ready, 0, "ready", "Ready"],
    ["it is at work", up, { ...ready, in_flight: 2 }, 0, "ready", "Ready, 2 under way"],
    ["its minute is used up", up, cooling("pacing"), 2400, "full", "Full, back in 3 s"],
    ["as many run as may", up, cooling("pacing"), 0, "full", "Full, back when a request ends"],
    ["its day is used up", up, cooling("quota_day"), 3.6e6, "full", "Full for today, back in 1 h"],
    [
      "it was refused",
      up,
      cooling("rate_limit"),
      41_000,
      "cooling",
      "Cooling, back in 41 s: too many requests",
    ],
    [
      "its time is over and nobody has asked yet",
      up,
      cooling("rate_limit"),
      0,
      "cooling",
      "Cooling, back at any moment: too many requests",
    ],
    ["it has no money for a while", up, cooling("billing"), 1.8e7, "money", "Out of money, next try in 5 h"],
    ["it has no money at all", up, dead("billing"), 0, "money", "Out of money"],
    ["it is dead", up, dead("invalid_key"), 0, "out", "Out of use: the provider refuses it"],
    [
      "the operator paused it",
      up,
      { ...ready, state: "paused", reason: "manual" },
      0,
      "paused",
      "Paused by hand",
    ],
    [
      "its provider does not answer",
      away(
        "upstream_faults",
        "The provider cannot be reached at api.example: it refuses connections (X): look.",
      ),
      ready,
      12_000,
      "unreachable",
      "Provider unreachable: it refuses connections, next try in 12 s",
    ],
    [
      "its provider refuses all",
      away("common_cause", null),
      ready,
      30_000,
      "unreachable",
      "Provider refuses every key alike, next try in 30 s",
    ],
    [
      "it is dead, and its provider is down",
      away("upstream_faults", null),
      dead("invalid_key"),
      9,
      "out",
      "Out of use: the provider refuses it",
    ],
    [
      "its provider is switched off",
      { ...up, state: "disabled" },
      ready,
      0,
      "off",
      "Its provider is switched off",
    ],
  ];
  test.each(rows)("where %s", (_, provider, key, leftMs, kind, said) => {
    const standing = status.standingOf(provider, key, leftMs);
    expect([standing.kind, plain(standing.words)]).toEqual([kind, said]);
  });
});

describe("the headline", () => {
  const headline = (outcome: string, why: string) => ({ outcome, why });
  const pool = (...keys: object[]) => [{ ...up, keys }];
  const rows: [
    sentence: string,
    facts: object,
    providers: object[],
    waitMs: number | null,
    tone: string,
    text: string,
  ][] = [
    [
      "a key is ready",
      headline("served", "ready"),
      pool(ready, cooling("pacing")),
      0,
      "fine",
      "The next request goes out at once",
    ],
    [
      "every key is full",
      headline("waits", "cooling"),
      pool(cooling("pacing"), cooling("pacing")),
      2500,
      "waiting",
      "The next request waits about 3 s, because every key is full",
    ],
    [
      "the only key cools",
      headline("waits", "cooling"),
      pool(cooling("rate_limit")),
      41_000,
      "waiting",
      "The next request waits about 41 s, because the only key is cooling",
    ],
    [
      "some are full, some cool",
      headline("waits", "cooling"),
      pool(cooling("pacing"), cooling("rate_limit"), dead("invalid_key")),
      9000,
      "waiting",
      "The next request waits about 9 s, because every key in use is full or cooling",
    ],
    [
      "nobody knows when one ends",
      headline("waits", "cooling"),
      pool(cooling("pacing")),
      null,
      "waiting",
      "The next request waits, because the only key is full",
    ],
    [
      "others wait",
      headline("waits", "queue"),
      [{ ...up, waiting: 7, keys: [ready] }],
      24_000,
      "waiting",
      "The next request waits about 24 s, because 7 wait before it",
    ],
    [
      "the wait is longer than a request may wait",
      headline("refused", "cooling"),
      pool(cooling("quota_day"), cooling("quota_day")),
      17_820_000,
      "down",
      "The next request is refused: every key is full for today, and its turn would come in 4 h 57 min",
    ],
    [
      "the money is gone",
      headline("refused", "cooling"),
      pool(cooling("billing"), cooling("billing")),
      1.8e7,
      "down",
      "The next request is refused: every key is out of money, and its turn would come in 5 h",
    ],
    [
      "the provider is down",
      headline("waits", "provider_paused"),
      [{ ...away("upstream_faults", "connection refused"), keys: [ready] }],
      4000,
      "waiting",
      "The next request waits about 4 s, because the provider cannot be reached",
    ],
    [
      "the provider refuses all",
      headline("waits", "provider_paused"),
      [{ ...away("common_cause", null), keys: [ready] }],
      30_000,
      "waiting",
      "The next request waits about 30 s, because the provider refuses every key alike",
    ],
    [
      "every key is dead",
      headline("refused", "out_of_use"),
      pool(dead("invalid_key"), dead("billing")),
      null,
      "down",
      "The next request is refused, because all 2 keys are out of use (the provider refuses it; no money left)",
    ],
    [
      "there is no key",
      headline("refused", "out_of_use"),
      pool(),
      null,
      "down",
      "There is no key yet: add one below",
    ],
    [
      "the proxy stops",
      headline("refused", "draining"),
      pool(ready),
      null,
      "waiting",
      "Shutting down: new requests are refused, streams may finish",
    ],
  ];
  test.each(rows)("where %s", (_, facts, providers, waitMs, tone, text) => {
    const said = status.headlineOf({ headline: facts, providers }, waitMs);
    expect([said.tone, plain(said.text)]).toEqual([tone, text]);
  });

  test("is spoken without numbers that run", () => {
    const overview = { headline: headline("waits", "cooling"), providers: pool(cooling("pacing")) };
    const [soon, later] = [status.headlineOf(overview, 3000), status.headlineOf(overview, 2000)];
    expect(soon.text).not.toBe(later.text);
    expect(soon.words).toBe(later.words);
  });

  test("says in a few words why the provider is left alone", () => {
    const provider = { ...away("upstream_faults", "Down for maintenance. Come back."), keys: [ready] };
    const said = status.headlineOf(
      { headline: headline("waits", "provider_paused"), providers: [provider] },
      1,
    );
    expect(said.more).toBe("0 of 1 key ready · 1 unreachable: Down for maintenance");
  });

  test("says how the keys are, and what is wrong with other providers", () => {
    const groq = { ...away("upstream_faults", "timed out"), name: "groq", keys: [ready] };
    const paid = { ...up, name: "paid", keys: [cooling("pacing")] };
    const providers = [...pool(ready, cooling("pacing"), dead("billing")), groq, paid];
    expect(status.headlineOf({ headline: headline("served", "ready"), providers }, 0).more).toBe(
      "1 of 5 keys ready · 2 full · 1 out of money · 1 unreachable",
    );
    expect(status.otherTroubles(providers)).toEqual(["groq: unreachable", "paid: no key is ready"]);
  });
});

describe("words for the page", () => {
  test.each([
    [0, "0 s"],
    [1, "1 s"],
    [99_000, "99 s"],
    [100_000, "1 min 40 s"],
    [3_600_000, "1 h"],
    [15_300_000, "4 h 15 min"],
    [266_400_000, "3 d 2 h"],
  ])("%p ms last %s", (ms, said) => expect(plain(words.duration(ms))).toBe(said));

  test.each([
    [85.4, "85 ms"],
    [1800, "1.8 s"],
    [125_000, "2 min 5 s"],
  ])("%p ms were %s", (ms, said) => expect(plain(words.spent(ms))).toBe(said));

  test.each([
    [".".repeat(30), "Not asked in the last hour"],
    [`${".".repeat(26)}oomr`, "Of the last hour: answers in 6 minutes and refusals in 4"],
    [`${".".repeat(29)}f`, "Of the last hour: faults in 2"],
  ])("heartbeats %s are told", (beats, said) => expect(status.beatWords(beats)).toBe(said));
});

describe("the snippets", () => {
  const values = {
    root: "http://pi.lan:3000/groq",
    base: "http://pi.lan:3000/groq/v1",
    key: "KEY",
    model: "M",
  };
  const snippets = tools.snippetsOf(values);
  const textOf = (name: string) => snippets[name]?.text ?? "";

  test.each([
    ...[
      "Claude Code",
      "Codex",
      "opencode",
      "Qwen Code",
      "Continue",
      "Cline",
      "Kilo Code",
      "Aider",
      "Open WebUI",
    ],
    ...[
      "Zed",
      "n8n",
      "LibreChat",
      "Goose",
      "Crush",
      "Home Assistant",
      "PicoClaw",
      "OpenClaw",
      "curl",
      "Python",
      "Node",
    ],
  ])("hold the address that the browser reached for %s", (name) => {
    expect(textOf(name)).toContain(values.root);
  });

  test("give Claude Code and Goose the address without /v1", () => {
    expect(textOf("Claude Code")).toContain(`ANTHROPIC_BASE_URL=${values.root}\n`);
    expect(textOf("Claude Code")).toContain("ANTHROPIC_AUTH_TOKEN=KEY");
    expect(textOf("Goose")).toContain(`OPENAI_HOST=${values.root}\n`);
  });

  test.each(["opencode", "Kilo Code", "Crush", "Zed", "OpenClaw", "PicoClaw"])("are JSON for %s", (name) => {
    expect(() => JSON.parse(textOf(name))).not.toThrow();
  });

  test("name what Continue and PicoClaw ask for", () => {
    expect(textOf("Continue")).toMatch(/^name: .+\nversion: .+\nschema: v1\nmodels:/);
    expect(textOf("PicoClaw")).toContain('"api_keys"');
  });

  test("name Roo Code as ended only", () => {
    expect(textOf("Roo Code")).not.toContain(values.root);
    expect(snippets["Roo Code"]?.where).toContain("ended");
  });
});

describe("what was used", () => {
  const row = (changes: object) => ({
    ...{ day: "2026-11-20", provider: "default", key: "ann@aaaa", model: "a", client: "laptop" },
    ...{ requests: 1, errors: 0, input_tokens: 10, output_tokens: 5, cached_tokens: 0, reasoning_tokens: 0 },
    ...changes,
  });
  const rows = [
    row({}),
    row({ model: "b", input_tokens: 500 }),
    row({ client: null, key: "bbbb", requests: 7, day: "2026-11-18" }),
    row({ provider: "groq", model: null }),
  ];
  test.each<[sentence: string, part: string, names: string[], requests: number[]]>([
    ["by model, the most tokens first", "model", ["b", "a", ""], [1, 8, 1]],
    ["by client", "client", ["laptop", ""], [3, 7]],
    ["by key, those of named providers by theirs", "key", ["ann@aaaa", "bbbb", "groq/ann@aaaa"], [2, 7, 1]],
  ])("is told %s", (_, part, names, requests) => {
    const sums = usage.usageBy(rows, part);
    expect(sums.map(({ name }) => name)).toEqual(names);
    expect(sums.map((sum) => sum.requests)).toEqual(requests);
  });

  test("is told of the first 40, and of all others together", () => {
    const many = Array.from({ length: 100 }, (_, index) =>
      row({ model: `m${index}`, input_tokens: 1000 - index }),
    );
    const sums = usage.usageBy(many, "model");
    expect([sums.length, sums.at(-2)?.name, sums.at(-1)?.name, sums.at(-1)?.requests]).toEqual([
      41,
      "m39",
      "60 others",
      60,
    ]);
    expect(usage.usageBy(many.slice(0, 41), "model").length).toBe(41);
  });

  test("is told of each day, those without use included", () => {
    expect(usage.usageOfDays(rows, 3, Date.UTC(2026, 10, 20, 23, 59))).toEqual([
      { day: "2026-11-18", input: 10, output: 5 },
      { day: "2026-11-19", input: 0, output: 0 },
      { day: "2026-11-20", input: 520, output: 15 },
    ]);
  });

  test.each<[many: number, words: string]>([
    [0, "0"],
    [950, "950"],
    [9994, "9\u2009994"],
    [12_345, "12.3 k"],
    [999_499, "999 k"],
    [999_600, "1 M"],
    [1_234_567, "1.23 M"],
    [45_600_000_000, "45.6 G"],
  ])("is said in three figures: %p", (many, words) => expect(plain(usage.short(many))).toBe(words));

  test.each<[part: number, whole: number, words: string]>([
    [0, 100, ""],
    [0, 0, ""],
    [1, 1000, "less than 1% cached"],
    [62, 100, "62% cached"],
    [100, 100, "100% cached"],
  ])("is said as a share: %p of %p", (part, whole, words) =>
    expect(usage.shareWords(part, whole, "cached")).toBe(words),
  );
});
