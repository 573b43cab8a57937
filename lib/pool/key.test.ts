import { describe, expect, test } from "bun:test";
import { parseConfig } from "../config/config.ts";
import { cooldownAfter } from "./penalties.ts";
import { healthResponse } from "../observability/health.ts";
import { Account, keyReadyAt, ModelLimits, newKey, readKeyState, reportOf, stateOf } from "./key.ts";
import type { Cooldown, Key, KeyState } from "./key.ts";
import type { KeyReason } from "../core/events.ts";

const NOW = Date.UTC(2026, 10, 20, 12);
const SEC = 1000;
const DAY_ENDS_AT = NOW + 12 * 3_600_000;

function keyOf(written = "me@key-a:50"): Key {
  const parsed = parseConfig({ API_KEYS: written, PROVIDER: "openai", DAILY_LIMIT: "7" });
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  const [config] = parsed.config.providers;
  return newKey(config.keys[0]!, 0, config, new Account(config.keys[0]!.account, { kind: "none" }));
}

function restUntil(until: number, reason: KeyReason = "rate_limit"): Cooldown {
  return { until, beganAt: NOW - SEC, reason, strikes: 2, answeredAt: NOW - 500 };
}

/** A row in which nothing is as it was when a key is new. */
const ROW: KeyState = {
  cooldown: restUntil(NOW + 9 * SEC),
  models: {
    big: { cooldown: restUntil(NOW + 5 * SEC, "quota_day"), deniedUntil: NOW + 8 * SEC, limiter: null },
    small: {
      cooldown: null,
      deniedUntil: 0,
      limiter: {
        rate: { value: 12, ceiling: 20, retryAt: NOW + SEC, patienceMs: 2 * SEC },
        windowMs: 60_000,
        concurrency: { value: 3, ceiling: null, retryAt: 0, patienceMs: SEC },
        intervalMs: 0,
        burst: 0,
      },
    },
  },
  disabled: { reason: "invalid_key", at: NOW - SEC, said: "no such key" },
  isPaused: true,
  today: 4,
  dayEndsAt: DAY_ENDS_AT,
  requests: 10,
  rateLimited: 3,
  errors: 2,
  lastUsedAt: NOW - 2 * SEC,
  limiter: { rate: null, windowMs: 60_000, concurrency: null, intervalMs: 750, burst: 3 },
};

/** What is read where nothing can be believed. */
const NOTHING: KeyState = {
  cooldown: null,
  models: {},
  disabled: null,
  isPaused: false,
  today: 0,
  dayEndsAt: 0,
  requests: 0,
  rateLimited: 0,
  errors: 0,
  lastUsedAt: 0,
  limiter: null,
};

describe("a stored key state", () => {
  test("P33 is read as it was written", () => {
    expect(readKeyState(JSON.parse(JSON.stringify(ROW)))).toEqual(ROW);
  });

  test.each<[sentence: string, stored: unknown]>([
    ["nothing", undefined],
    ["null", null],
    ["a text", "{}"],
    ["a number", 7],
    ["a list", [ROW]],
    ["a yes", true],
  ])("P33 is none where %s is stored", (_, stored) => {
    expect(readKeyState(stored)).toBeNull();
  });

  test.each<[sentence: string, stored: object]>([
    ["an empty row", {}],
    ["a row of other things", { keys: [1], state: "ready", __proto__: null }],
    ["texts for numbers", { today: "4", requests: "10", dayEndsAt: "tomorrow", lastUsedAt: "0" }],
    [
      "numbers below nothing",
      { today: -1, requests: -1e9, errors: -0.5, rateLimited: -Infinity, lastUsedAt: -1 },
    ],
    [
      "numbers that are none",
      { today: NaN, requests: Infinity, lastUsedAt: null, errors: [3], dayEndsAt: {} },
    ],
    ["a cooldown that is a number", { cooldown: NOW }],
    ["a cooldown that is a list", { cooldown: [restUntil(NOW)] }],
    ["a cooldown without a reason", { cooldown: { until: NOW + SEC } }],
    ["a cooldown for a reason that there is not", { cooldown: { ...restUntil(NOW), reason: "boredom" } }],
    [
      "a cooldown for a reason that every object has",
      { cooldown: { ...restUntil(NOW), reason: "toString" } },
    ],
    ["a key out of use for no reason", { disabled: { at: NOW, said: "so" } }],
    ["a key that is simply out of use", { disabled: true }],
    ["a key that is nearly paused", { isPaused: "true" }],
    ["a key that is paused by a number", { isPaused: 1 }],
    ["models as a list", { models: ["big"] }],
    ["models that are texts", { models: { big: "denied", small: null, tiny: [] } }],
    ["a pace that is a number", { limiter: 12 }],
  ])("P33 that is %s says nothing", (_, stored) => {
    expect(readKeyState(stored)).toEqual(NOTHING);
  });

  test.each<[sentence: string, stored: object, read: Partial<KeyState>]>([
    [
      "a cooldown whose numbers are missing",
      { cooldown: { reason: "billing" } },
      { cooldown: { until: 0, beganAt: 0, reason: "billing", strikes: 0, answeredAt: 0 } },
    ],
    [
      "a key that is out of use since nobody knows when",
      { disabled: { reason: "invalid_key", at: "once", said: 5 } },
      { disabled: { reason: "invalid_key", at: 0, said: "" } },
    ],
    [
      "a long text of upstream, of which the beginning is enough",
      { disabled: { reason: "invalid_key", at: NOW, said: "x".repeat(100_000) } },
      { disabled: { reason: "invalid_key", at: NOW, said: "x".repeat(300) } },
    ],
    [
      "a model of which half is broken",
      { models: { big: { cooldown: "soon", deniedUntil: NOW, limiter: [] } } },
      { models: { big: { cooldown: null, deniedUntil: NOW, limiter: null } } },
    ],
    [
      "a rate without a window",
      { limiter: { rate: { value: 12 }, concurrency: { value: 2 } } },
      {
        limiter: {
          rate: null,
          windowMs: 0,
          concurrency: { value: 2, ceiling: null, retryAt: 0, patienceMs: 0 },
          intervalMs: 0,
          burst: 0,
        },
      },
    ],
    [
      "a rate that lets nothing pass, and a ceiling below its floor",
      { limiter: { rate: { value: 0.5 }, windowMs: SEC, concurrency: { value: 4, ceiling: 4 }, burst: 2.9 } },
      {
        limiter: {
          rate: null,
          windowMs: SEC,
          concurrency: { value: 4, ceiling: null, retryAt: 0, patienceMs: 0 },
          intervalMs: 0,
          burst: 2,
        },
      },
    ],
  ])("P33 is read as far as it can be believed: %s", (_, stored, read) => {
    expect(readKeyState(stored)).toEqual({ ...NOTHING, ...read });
  });

  test("P33 changes nothing of other objects, whatever its models are called", () => {
    const row = JSON.parse('{"models":{"__proto__":{"deniedUntil":5,"isPaused":true},"constructor":{}}}');
    const state = readKeyState(row);
    expect([Object.keys(state?.models ?? {}), "deniedUntil" in {}, "isPaused" in {}]).toEqual([
      ["constructor"],
      false,
      false,
    ]);
  });

  // One value of each kind in each place of the row: nothing throws, and what comes out is a row again.
  test("P33 is a whole row again, whatever stands in it", () => {
    const hostile = [
      undefined,
      null,
      true,
      "x",
      "",
      NaN,
      -1,
      -Infinity,
      Infinity,
      1.5,
      2 ** 60,
      [],
      {},
      [[]],
      { a: 1 },
    ];
    const text = JSON.stringify(ROW);
    const wrong: string[] = [];
    for (const path of pathsOf(ROW)) {
      for (const value of hostile) {
        const row: unknown = JSON.parse(text);
        put(row, path, value);
        const state = readKeyState(row);
        const isWhole = Object.keys(state ?? {}).join() === Object.keys(NOTHING).join();
        const isStable = Bun.deepEquals(readKeyState(JSON.parse(JSON.stringify(state))), state);
        if (!isWhole || !isStable) wrong.push(`${path.join(".")} ${Bun.inspect(value)}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  // A disk that had gone bad, or an editor: /health failed from then on, as no date is that late.
  test("P33 holds no instant that a date cannot", () => {
    const state = readKeyState({ lastUsedAt: 1e300 });
    const report = reportOf(Object.assign(keyOf(), state), [], DAY_ENDS_AT, NOW);
    const provider = {
      name: "default",
      dialect: "openai",
      baseUrl: "",
      pausedMs: 0,
      waiting: 0,
      keys: [report],
    };
    const health = { version: "", uptimeMs: 0, isKnownClient: true, client: null };
    expect(healthResponse({ ...health, providers: [provider] }).status).toBe(200);
  });

  // Half a strike: the next cooldown ended at NaN, which never comes.
  test("P33 holds a whole number of strikes", () => {
    const previous = readKeyState({ cooldown: { ...restUntil(NOW), strikes: 0.5 } })?.cooldown ?? null;
    const refusal = {
      kind: "exhausted",
      scope: "key",
      widens: false,
      pause: { kind: "unknown" },
      reason: "billing",
      said: "",
    } as const;
    const rules = { cooldownMs: SEC, maxCooldownMs: 90 * SEC, timezone: null, resetZone: "UTC" };
    const { until } = cooldownAfter(
      refusal,
      { previous, sentAt: NOW, answeredAt: 0, wall: NOW },
      rules,
      NOW,
      0.5,
    );
    expect(until).toBe(NOW + 90 * SEC);
  });
});

/** Where a value stands in a row. */
function pathsOf(value: unknown): string[][] {
  if (typeof value !== "object" || value === null) return [[]];
  const below = Object.entries(value).flatMap(([name, inner]) =>
    pathsOf(inner).map((path) => [name, ...path]),
  );
  return [[], ...below].filter((path) => path.length > 0 || below.length === 0);
}

function put(row: unknown, [name = "", ...rest]: string[], value: unknown): void {
  if (typeof row !== "object" || row === null) return;
  if (rest.length === 0) Reflect.set(row, name, value);
  else put(Reflect.get(row, name), rest, value);
}

describe("what is stored of a key", () => {
  test("P33 is all that is known of it, in a row that is read again", () => {
    const key = keyOf();
    const { disabled, isPaused, today, requests, rateLimited, errors, lastUsedAt, cooldown } = ROW;
    Object.assign(key, { disabled, isPaused, today, requests, rateLimited, errors, lastUsedAt });
    key.account.cooldown = cooldown;
    const row = stateOf(key, [], DAY_ENDS_AT, NOW);
    expect(row).toEqual({ ...ROW, models: {}, limiter: key.account.limiter.state() });
    expect(readKeyState(JSON.parse(JSON.stringify(row)))).toEqual(row);
  });

  test.each<[sentence: string, fields: Partial<ModelLimits>, isKept: boolean]>([
    ["a model that rests", { cooldown: restUntil(NOW + 1) }, true],
    ["a model that the account may not have", { deniedUntil: NOW + 1 }, true],
    ["no model whose rest is over", { cooldown: restUntil(NOW) }, false],
    ["no model that it may have again", { deniedUntil: NOW }, false],
    ["no model of which nothing is known", {}, false],
  ])("P16 holds %s", (_, fields, isKept) => {
    const limits = Object.assign(new ModelLimits(), fields);
    const { models } = stateOf(keyOf(), [["big", limits]], DAY_ENDS_AT, NOW);
    expect(Object.keys(models)).toEqual(isKept ? ["big"] : []);
  });

  test("holds nothing of the key itself", () => {
    const key = keyOf("me@key-canary-0123");
    expect(JSON.stringify(stateOf(key, [], DAY_ENDS_AT, NOW))).not.toMatch(/canary|me@|"me"/);
  });
});

describe("a key", () => {
  test.each<[sentence: string, fields: Partial<Key>, readyAt: number]>([
    ["may be asked at once when it is new", {}, 0],
    ["may be asked while its day is not used up", { today: 49 }, 0],
    ["may be asked from the next day on when it is", { today: 50 }, DAY_ENDS_AT],
    ["may be asked from the next day on when its limit was lowered", { today: 60 }, DAY_ENDS_AT],
    ["may be asked however often where no day has an end", { today: 1e6, dailyLimit: null }, 0],
    ["is not asked while it is paused", { isPaused: true }, Infinity],
    ["is not asked while it is out of use", { disabled: ROW.disabled }, Infinity],
    ["is not asked again with the day when it is paused", { isPaused: true, today: 50 }, Infinity],
  ])("%s", (_, fields, readyAt) => {
    expect(keyReadyAt(Object.assign(keyOf(), fields), DAY_ENDS_AT)).toBe(readyAt);
  });

  test("has a daily limit of its own, or that of all", () => {
    expect([keyOf("key-a:50").dailyLimit, keyOf("key-a").dailyLimit]).toEqual([50, 7]);
  });

  test.each<
    [
      sentence: string,
      fields: Partial<Key>,
      cooldown: Cooldown | null,
      shown: [string, string | null, number],
    ]
  >([
    ["ready", {}, null, ["ready", null, 0]],
    ["ready when its rest is just over", {}, restUntil(NOW), ["ready", null, 0]],
    ["cooling", {}, restUntil(NOW + 1), ["cooling", "rate_limit", 1]],
    ["cooling until the day ends", { today: 50 }, null, ["cooling", "quota_day", DAY_ENDS_AT - NOW]],
    [
      "cooling for the longer of two reasons",
      { today: 50 },
      restUntil(NOW + SEC),
      ["cooling", "quota_day", DAY_ENDS_AT - NOW],
    ],
    [
      "cooling for a rest beyond the day",
      { today: 50 },
      restUntil(DAY_ENDS_AT + 1),
      ["cooling", "rate_limit", DAY_ENDS_AT + 1 - NOW],
    ],
    ["paused, whatever it rests for", { isPaused: true }, restUntil(NOW + SEC), ["paused", "manual", 0]],
    [
      "out of use, even if it is paused",
      { isPaused: true, disabled: ROW.disabled },
      null,
      ["disabled", "invalid_key", 0],
    ],
  ])("is shown as %s", (_, fields, cooldown, [state, reason, coolingMs]) => {
    const key = Object.assign(keyOf(), fields);
    key.account.cooldown = cooldown;
    const report = reportOf(key, [], DAY_ENDS_AT, NOW);
    expect(report).toMatchObject({ state, reason, coolingMs, said: key.disabled?.said ?? "" });
  });

  test("P16 is shown with the models that rest, or that it may not have", () => {
    const limits = (fields: Partial<ModelLimits>) => Object.assign(new ModelLimits(), fields);
    const { models, state } = reportOf(
      keyOf(),
      [
        ["rests", limits({ cooldown: restUntil(NOW + 3), deniedUntil: NOW + 9 })],
        ["denied", limits({ cooldown: restUntil(NOW), deniedUntil: NOW + 4 })],
        ["free", limits({ cooldown: restUntil(NOW), deniedUntil: NOW })],
      ],
      DAY_ENDS_AT,
      NOW,
    );
    expect([state, models]).toEqual([
      "ready",
      { rests: { coolingMs: 3, reason: "rate_limit" }, denied: { coolingMs: 4, reason: "no_access" } },
    ]);
  });

  test("waits for its account, for whatever keeps that longest", () => {
    const account = new Account(null, { kind: "none" });
    expect(account.readyAt(NOW)).toBeLessThanOrEqual(NOW);
    account.cooldown = restUntil(NOW + SEC);
    expect(account.readyAt(NOW)).toBe(NOW + SEC);
    account.slowStart.restart();
    account.slowStart.onSent(NOW);
    expect(account.readyAt(NOW)).toBe(NOW + 3 * SEC);
    const limits = new ModelLimits();
    limits.cooldown = restUntil(NOW + 5 * SEC);
    limits.slowStart.restart();
    limits.slowStart.onSent(NOW);
    expect(limits.readyAt(NOW)).toBe(NOW + 5 * SEC);
    limits.cooldown = null;
    expect(limits.readyAt(NOW)).toBe(NOW + 3 * SEC);
  });
});
