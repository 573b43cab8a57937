import { describe, expect, test } from "bun:test";
import { readOptions } from "./options.ts";

const KEY = "key-canary-0001";

/** The lines of the one error that these options throw. */
function problemsOf(options: unknown): string[] {
  try {
    readOptions(options);
  } catch (error) {
    expect(error).toBeInstanceOf(TypeError);
    const [, ...lines] = String(error).split("\n");
    return lines.map((line) => line.replace(/^- /, ""));
  }
  return [];
}

const fine = { apiKeys: [KEY], provider: "generic", targetBaseUrl: "http://127.0.0.1:3000/v1" };

describe("options are settings", () => {
  test("numbers, texts and lists say the same as in the environment", () => {
    const { config } = readOptions({
      apiKeys: [KEY, "alice@key-canary-0002:50"],
      targetBaseUrl: "http://127.0.0.1:3000/v1", // a port that a proxy would listen on
      provider: "generic",
      rpm: 40,
      dailyLimit: "7",
      maxWaitSec: 1.5,
      strategy: "lru",
      retryStatus: [429, "500-504"],
      maxAttempts: undefined,
      providers: { Groq: { apiKeys: "gsk_canary-0003", rpm: "off", disabled: true } },
      fallback: "groq/llama",
    });
    const [first, groq] = config.providers;
    expect(first.keys.map(({ account, dailyLimit }) => [account, dailyLimit])).toEqual([
      [null, null],
      ["alice", 50],
    ]);
    expect([first.rpm, first.dailyLimit, first.strategy, first.retryStatus.has(503)]).toEqual([
      40,
      7,
      "lru",
      true,
    ]);
    expect([config.maxWaitMs, config.maxAttempts]).toEqual([1500, null]);
    expect([groq?.name, groq?.rpm, groq?.disabled, groq?.dialect]).toEqual(["groq", "off", true, "groq"]);
    expect(config.fallback).toEqual([{ provider: "groq", model: "llama" }]);
    expect(config.statePath).toBeNull();
  });

  test("no variable of the environment is read", () => {
    process.env["API_KEYS"] = KEY;
    process.env["MAX_WAIT_SEC"] = "3";
    try {
      expect(problemsOf({})).toEqual([expect.stringContaining("There are no API keys. Give apiKeys")]);
      expect(readOptions(fine).config.maxWaitMs).toBe(100_000);
    } finally {
      delete process.env["API_KEYS"];
      delete process.env["MAX_WAIT_SEC"];
    }
  });

  const MISTAKES: [sentence: string, options: unknown, says: string[]][] = [
    ["no object at all", 7, ["The options are no object", "There are no API keys"]],
    ["no keys", {}, ["There are no API keys. Give apiKeys"]],
    [
      "a list that holds something else",
      { ...fine, apiKeys: [KEY, 7] },
      ["apiKeys is a list that holds something else", "There are no"],
    ],
    ["a slip in a name", { ...fine, apikeys: [KEY] }, ["apikeys is not an option. Did you mean apiKeys?"]],
    ["a name of nothing", { ...fine, colour: 1 }, ["colour is not an option. Remove it."]],
    ["a setting of the server", { ...fine, port: 3000 }, ["port is a setting of the proxy's server"]],
    [
      "a setting of the log",
      { ...fine, logLevel: "info" },
      ["logLevel is a setting of the proxy. Use onEvent"],
    ],
    ["a proxy on the way", { ...fine, upstreamProxy: "http://p:1" }, ["give a fetch that goes that way"]],
    [
      "a value by the setting's own rule",
      { ...fine, maxWaitSec: "soon" },
      ["maxWaitSec is soon. Use seconds"],
    ],
    ["a number that is none", { ...fine, rpm: NaN }, ["rpm is NaN"]],
    ["a function for a number", { ...fine, maxAttempts: () => 3 }, ["maxAttempts is a function"]],
    ["null for a number", { ...fine, maxAttempts: null }, ["maxAttempts is null"]],
    ["what no strategy is called", { ...fine, strategy: "best" }, ["strategy is best"]],
    ["a fallback to nobody", { ...fine, fallback: "groq/x" }, ["fallback"]],
    [
      "a provider without keys, and what else is wrong with it",
      { ...fine, providers: { groq: { rpm: -1 } } },
      ["providers.groq.apiKeys holds no key", "providers.groq.rpm is -1"],
    ],
    [
      "a slip within a provider",
      { ...fine, providers: { groq: { apiKeys: KEY, baseURL: "x" } } },
      ["providers.groq.baseURL is not an option. Did you mean providers.groq.baseUrl?"],
    ],
    [
      "a provider of no known address",
      { ...fine, providers: { mine: { apiKeys: KEY } } },
      ["providers.mine.baseUrl is not set"],
    ],
    [
      "a provider's name with a sign",
      { ...fine, providers: { "a-b": { apiKeys: KEY } } },
      ["providers.a-b cannot be a name"],
    ],
    [
      "a provider twice",
      { ...fine, providers: { a: { apiKeys: KEY, baseUrl: "http://h" }, A: { apiKeys: KEY } } },
      ["providers.A is the same name as providers.a"],
    ],
    ["providers that are a list", { ...fine, providers: [1] }, ["providers is a list"]],
    ["a state that cannot be saved", { ...fine, state: { load() {} } }, ["state is none of"]],
    ["a state in a database", { ...fine, state: "redis://h" }, ["state is none of"]],
    ["onEvent that cannot be called", { ...fine, onEvent: "log" }, ["onEvent is a string. Use a function."]],
    ["fetch that cannot be called", { ...fine, fetch: {} }, ["fetch is an object. Use a function."]],
    [
      "several mistakes at once",
      { ...fine, rpm: "x", strategy: "y", port: 1, colour: 2 },
      ["port is", "colour is", "rpm is", "strategy is"],
    ],
  ];
  test.each(MISTAKES)("%s is told", (_, options, says) => {
    const problems = problemsOf(options);
    for (const words of says) expect(problems.filter((line) => line.includes(words)).length).toBe(1);
    expect(problems.length).toBe(says.length);
  });

  test("no message holds a key or a part of one", () => {
    const problems = problemsOf({ apiKeys: [`Bearer ${KEY}`, `"${KEY}"`], provider: "generic", rpm: "x" });
    expect(problems.length).toBeGreaterThan(1);
    expect(problems.join("\n")).not.toContain("canary");
  });

  test("an option that may not be meant is a warning", () => {
    const { warnings } = readOptions({ ...fine, targetBaseUrl: "http://gateway.example/v1" });
    expect(warnings).toEqual([expect.stringContaining("targetBaseUrl begins with http://")]);
  });
});
