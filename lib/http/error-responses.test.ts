import { describe, expect, test } from "bun:test";
import type { KeyReason } from "../core/events.ts";
import { noKeyError } from "./error-responses.ts";
import type { KeyTrouble } from "./error-responses.ts";

const NOW = Date.UTC(2026, 10, 20, 12);
type ReportedKey = KeyTrouble["keys"][number];

const key = (state: ReportedKey["state"], reason: KeyReason | null = null): ReportedKey => ({
  index: 0,
  state,
  reason,
  models: {},
});
const cooling = (reason: KeyReason) => key("cooling", reason);

function errorOf(trouble: Partial<KeyTrouble>) {
  return noKeyError({
    none: { kind: "no_key", why: "cooling", readyAt: NOW + 49_000 },
    attempts: 1,
    waitedMs: 0,
    model: null,
    provider: "default",
    keys: [cooling("rate_limit")],
    said: "",
    settings: { maxWaitMs: 100_000, exhaustedStatus: 503 },
    now: NOW,
    ...trouble,
  });
}

describe("an answer that there is no key", () => {
  const keys = [cooling("rate_limit"), cooling("rate_limit"), cooling("quota_day"), key("paused", "manual")];
  const perModel = {
    index: 0,
    state: "ready",
    reason: null,
    models: { big: { reason: "billing" } },
  } as const;
  const none = (why: KeyTrouble["none"]["why"], readyAt: number) =>
    ({ kind: "no_key", why, readyAt }) as const;
  const rows: [says: string, trouble: Partial<KeyTrouble>, parts: (string | RegExp)[]][] = [
    [
      "says how long this request has waited, and how long it may",
      { waitedMs: 65_000 },
      ["has waited 65s, of at most 100s (MAX_WAIT_SEC)"],
    ],
    ["says when there will be one", {}, ["the first is free in 49s"]],
    [
      "says that waiting was in vain from the beginning",
      { none: none("cooling", NOW + 3_600_000) },
      ["did not wait", "60m", "100s (MAX_WAIT_SEC)"],
    ],
    ["says why, of the only key", {}, ["The only key of the provider is cooling down (after a rate limit)"]],
    [
      "says why, of each kind of key",
      { keys },
      [
        "No key of the provider is free (2 after a rate limit, 1 out of requests for the day, 1 paused by hand)",
      ],
    ],
    [
      "says what can be done, for each kind once",
      { keys },
      ["add keys, or name another provider in FALLBACK. Resume the paused: keywheel keys resume."],
    ],
    ["says that a limit of ours holds it", { keys: [cooling("pacing")] }, ["at the rate that it is allowed"]],
    ["says that money is short", { keys: [cooling("billing")] }, ["out of money", "Top up"]],
    [
      "says why for the model that is asked for",
      { keys: [perModel, perModel], model: "big" },
      ["(2 out of money", "Top up"],
    ],
    [
      "says nothing of another model's trouble",
      { keys: [perModel], model: "small" },
      [/^The only key of the provider is cooling down: the first/],
    ],
    [
      "knows no time where only the end of a request frees one",
      { none: none("cooling", Infinity) },
      ["the first is free when a request under way ends"],
    ],
    ["quotes upstream", { said: "Slow down." }, ['Upstream said: "Slow down."']],
    ["names the provider", { provider: "groq" }, ["The only key of groq is"]],
    [
      "counts the attempts where they are what ran out",
      { none: none("cooling", NOW), attempts: 12 },
      ["all 12 attempts", "MAX_ATTEMPTS"],
    ],
    [
      "says that keys are dead, and what to do",
      { none: none("none_usable", Infinity), keys: [key("disabled", "invalid_key")] },
      ["The only key of the provider is out of use: [0] invalid_key.", "keywheel check"],
    ],
    [
      "says that keys are paused, and what to do",
      { none: none("none_usable", Infinity), keys: [key("paused", "manual")] },
      ["[0] manual", "keywheel keys resume"],
    ],
    [
      "says that the provider is down, until when, and how long it waited",
      { none: none("paused", NOW + 2000), waitedMs: 98_000, provider: "groq" },
      ["Groq failed", "in 2s", "has waited 98s", "FALLBACK"],
    ],
    [
      "says that no key may do this",
      { none: none("unsuited", Infinity), said: "No access." },
      ["may serve this request", "No access.", "keywheel check"],
    ],
  ];
  test.each(rows)("F7 %s", (_, trouble, parts) => {
    const { message } = errorOf(trouble);
    for (const part of parts) expect(message).toMatch(part);
  });

  const retries: [says: string, none: KeyTrouble["none"], retryAfterMs: number | null][] = [
    ["is true", none("cooling", NOW + 1234), 1234],
    ["is never in the past", none("cooling", NOW - 5), 0],
    ["is soon where the time is not known", none("cooling", Infinity), 5000],
    ["is that of the pause", none("paused", NOW + 7000), 7000],
    ["is not there where nothing changes by itself", none("none_usable", Infinity), null],
  ];
  test.each(retries)("P25 has a Retry-After that %s", (_, none, retryAfterMs) => {
    expect(errorOf({ none }).retryAfterMs).toBe(retryAfterMs);
  });
});
