import { describe, expect, test } from "bun:test";
import { changesOf } from "./reload.ts";
import { parseConfig } from "./config.ts";
import type { Config } from "./config.ts";

type Settings = Record<string, string>;

function configOf(settings: Settings): Config {
  const parsed = parseConfig({ PROVIDER: "openai", ...settings });
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  return parsed.config;
}

const KEYS = { API_KEYS: "key-a,key-b,key-c" };
const GROQ = { GROQ_API_KEYS: "key-x,key-y" };

describe("what a new configuration changes", () => {
  test.each<[sentence: string, before: Settings, after: Settings, lines: string[]]>([
    ["is nothing where nothing is other than before", { ...KEYS, ...GROQ }, { ...KEYS, ...GROQ }, []],
    ["is nothing where a default is written out", KEYS, { ...KEYS, STRATEGY: "round-robin" }, []],
    [
      "is a key that was added, by its place",
      KEYS,
      { API_KEYS: "key-a,key-n,key-b,key-c" },
      ["default: keys added: [1]"],
    ],
    [
      "is several that were",
      KEYS,
      { API_KEYS: "key-n,key-a,key-b,key-c,key-m" },
      ["default: keys added: [0] [4]"],
    ],
    [
      "is a key that was removed, by the place it had",
      KEYS,
      { API_KEYS: "key-a,key-c" },
      ["default: keys removed (as they were numbered): [1]"],
    ],
    [
      "is a key in place of another",
      KEYS,
      { API_KEYS: "key-a,key-n,key-c" },
      ["default: keys added: [1]", "default: keys removed (as they were numbered): [1]"],
    ],
    ["is the order of keys", KEYS, { API_KEYS: "key-b,key-a,key-c" }, ["default: keys reordered"]],
    [
      "is the order of those that stayed, besides",
      KEYS,
      { API_KEYS: "key-c,key-n,key-a" },
      [
        "default: keys added: [1]",
        "default: keys removed (as they were numbered): [1]",
        "default: keys reordered",
      ],
    ],
    [
      "is the account of a key",
      KEYS,
      { API_KEYS: "key-a,me@key-b,key-c" },
      ["default: accounts or daily limits of keys changed"],
    ],
    [
      "is the daily limit of a key",
      KEYS,
      { API_KEYS: "key-a,key-b:50,key-c" },
      ["default: accounts or daily limits of keys changed"],
    ],
    [
      "is no account of a key that is new",
      KEYS,
      { API_KEYS: "key-a,key-b,key-c,me@key-n:5" },
      ["default: keys added: [3]"],
    ],
    [
      "is no account where keys only move",
      { API_KEYS: "me@key-a,key-b" },
      { API_KEYS: "key-b,me@key-a" },
      ["default: keys reordered"],
    ],
    ["is a provider that was added", KEYS, { ...KEYS, ...GROQ }, ["provider groq added with 2 keys"]],
    ["is a provider that was removed", { ...KEYS, ...GROQ }, KEYS, ["provider groq removed"]],
    [
      "is another default provider",
      { ...KEYS, ...GROQ },
      GROQ,
      ["provider default removed", "the default provider is groq"],
    ],
    [
      "is a setting of a provider",
      { ...KEYS, ...GROQ },
      { ...KEYS, ...GROQ, GROQ_STRATEGY: "lru" },
      ["groq: strategy changed"],
    ],
    [
      "is all of its settings in one line, in words",
      { ...KEYS, ...GROQ },
      { ...KEYS, ...GROQ, GROQ_RPM: "5", GROQ_COOLDOWN_SEC: "9", GROQ_RETRY_STATUS: "404" },
      ["groq: cooldown, rpm, retry status changed"],
    ],
    [
      "is a provider's address",
      KEYS,
      { ...KEYS, TARGET_BASE_URL: "https://example.org/v1" },
      ["default: base url changed"],
    ],
    ["is who gets in", KEYS, { ...KEYS, PROXY_API_KEY: "client-key-1" }, ["access changed"]],
    [
      "is another key of a client",
      { ...KEYS, PROXY_API_KEY: "client-key-1" },
      { ...KEYS, PROXY_API_KEY: "client-key-2" },
      ["access changed"],
    ],
    [
      "is another password of the operator",
      { ...KEYS, ADMIN_PASSWORD: "correct horse" },
      { ...KEYS, ADMIN_PASSWORD: "battery staple" },
      ["admin password changed"],
    ],
    [
      "is any setting that holds for all, without its unit",
      KEYS,
      { ...KEYS, MAX_WAIT_SEC: "7", MAX_BODY_MB: "3" },
      ["max wait changed", "max body changed"],
    ],
    [
      "is where requests go instead",
      { ...KEYS, ...GROQ },
      { ...KEYS, ...GROQ, FALLBACK: "groq" },
      ["fallback changed"],
    ],
  ])("%s", (_, before, after, lines) => {
    const changes = changesOf(configOf(before), configOf(after));
    expect(changes.lines.toSorted()).toEqual(lines.toSorted());
    expect(changes.needRestart).toEqual([]);
  });

  test.each<[sentence: string, after: Settings, needRestart: string[]]>([
    ["the port", { PORT: "4567" }, ["HOST and PORT"]],
    ["the form of the log", { LOG_FORMAT: "json" }, ["LOG_FORMAT"]],
    ["where log files are", { LOG_DIR: "logs" }, ["LOG_DIR"]],
    ["how long log files are kept", { LOG_RETENTION_DAYS: "3" }, ["LOG_RETENTION_DAYS"]],
    ["the file that outlives a restart", { STATE: "elsewhere.db" }, ["STATE"]],
    ["who is told", { WEBHOOK_URL: "https://example.org/hook?token=s3cret" }, ["WEBHOOK_URL"]],
  ])("needs a restart where it is %s", (_, after, needRestart) => {
    expect(changesOf(configOf(KEYS), configOf({ ...KEYS, ...after }))).toEqual({ lines: [], needRestart });
  });

  test("P29 never shows a key, a password or an address with a token", () => {
    const before = configOf({
      API_KEYS: "canary-1,canary-2:5",
      PROXY_API_KEY: "canary-3",
      ADMIN_PASSWORD: "canary-4-word",
    });
    const after = configOf({
      API_KEYS: "canary-2:6,canary-5",
      PROXY_API_KEY: "name=canary-6",
      ADMIN_PASSWORD: "canary-7-word",
      WEBHOOK_URL: "https://example.org/canary-8",
      GROQ_API_KEYS: "canary-9",
    });
    const { lines, needRestart } = changesOf(before, after);
    expect([lines.length, needRestart]).toEqual([6, ["WEBHOOK_URL"]]);
    expect([...lines, ...needRestart].join("\n")).not.toContain("canary");
  });
});
