import { describe, expect, test } from "bun:test";
import { cooldownAfter, scopeOf } from "./penalties.ts";
import type { CooldownRules, KeyRefusal, Refused } from "./penalties.ts";
import type { Cooldown } from "./key.ts";

const NOW = Date.UTC(2026, 10, 20, 12);
const SEC = 1000;
const HOUR = 3_600_000;
const RULES: CooldownRules = {
  cooldownMs: 60 * SEC,
  maxCooldownMs: 24 * HOUR,
  timezone: null,
  resetZone: "UTC",
};

function limited(
  pause: KeyRefusal["pause"],
  reason: "rate_limit" | "concurrency" = "rate_limit",
): KeyRefusal {
  return { kind: "rate_limited", scope: "key", pause, reason, said: "" };
}

function exhausted(
  pause: KeyRefusal["pause"],
  reason: "quota_day" | "billing",
): Extract<KeyRefusal, { kind: "exhausted" }> {
  return { kind: "exhausted", scope: "key", widens: false, pause, reason, said: "" };
}

const UNKNOWN = { kind: "unknown" } as const;
const pauseOf = (ms: number) => ({ kind: "for", ms }) as const;

/** A cooldown that ran out just now, unless told otherwise. */
function past(fields: Partial<Cooldown> = {}): Cooldown {
  return { until: NOW, beganAt: NOW - 60 * SEC, reason: "rate_limit", strikes: 0, answeredAt: 0, ...fields };
}

interface Circumstances extends Partial<Refused> {
  rules?: Partial<CooldownRules>;
  jitter?: number;
}

function cooled(refusal: KeyRefusal, { rules, jitter = 0.5, ...refused }: Circumstances = {}): Cooldown {
  const facts = { previous: null, sentAt: NOW, answeredAt: 0, wall: NOW, ...refused };
  return cooldownAfter(refusal, facts, { ...RULES, ...rules }, NOW, jitter);
}

describe("a cooldown", () => {
  const plain = limited(UNKNOWN);
  const running = (untilMs: number, strikes = 0) =>
    past({ until: NOW + untilMs, beganAt: NOW - SEC, strikes });
  test.each<[sentence: string, KeyRefusal, Circumstances, restMs: number]>([
    ["P13 lasts as long as upstream said", limited(pauseOf(7 * SEC)), {}, 7 * SEC],
    ["P13 may be no time at all, where upstream said so", limited(pauseOf(0)), {}, 0],
    ["P13 never ends before it began", limited(pauseOf(-5 * SEC)), {}, 0],
    ["P13 is no longer than MAX_COOLDOWN_SEC", limited(pauseOf(99 * HOUR)), {}, 24 * HOUR],
    [
      "P13 is no longer than a MAX_COOLDOWN_SEC below COOLDOWN_SEC",
      plain,
      { rules: { maxCooldownMs: 5 * SEC } },
      5 * SEC,
    ],
    [
      "P13 is not ended earlier by a later hint",
      limited(pauseOf(SEC)),
      { previous: running(30 * SEC) },
      30 * SEC,
    ],
    [
      "P13 is extended by a longer hint",
      limited(pauseOf(60 * SEC)),
      { previous: running(30 * SEC) },
      60 * SEC,
    ],
    ["P12 lasts COOLDOWN_SEC after a first bare 429", plain, {}, 60 * SEC],
    ["P12 is exactly COOLDOWN_SEC the first time, without jitter", plain, { jitter: 0 }, 60 * SEC],
    ["P12 is five times as long the second time", plain, { previous: past() }, 300 * SEC],
    ["P12 is 25 times as long the third time", plain, { previous: past({ strikes: 1 }) }, 1500 * SEC],
    ["P12 is an hour at most, however often", plain, { previous: past({ strikes: 50 }) }, HOUR],
    ["P12 is an hour at most after thousands", plain, { previous: past({ strikes: 5000 }) }, HOUR],
    [
      "P12 is at least a COOLDOWN_SEC of more than an hour",
      plain,
      { previous: past({ strikes: 2 }), rules: { cooldownMs: 2 * HOUR } },
      2 * HOUR,
    ],
    ["P12 spreads by a tenth downwards", plain, { previous: past(), jitter: 0 }, 270 * SEC],
    [
      "P14 begins anew after a success",
      plain,
      { previous: past({ strikes: 3 }), answeredAt: NOW - SEC },
      60 * SEC,
    ],
    [
      "P14 does not begin anew after a success before the last refusal",
      plain,
      { previous: past(), answeredAt: NOW - 61 * SEC },
      300 * SEC,
    ],
    // Twenty refusals of one burst, sent in the millisecond of the first: the key rested for an hour.
    [
      "P12 counts a burst within one millisecond as one refusal",
      plain,
      { previous: running(60 * SEC), sentAt: NOW - SEC },
      60 * SEC,
    ],
    [
      "P12 counts a burst as one refusal",
      plain,
      { previous: running(60 * SEC), sentAt: NOW - 2 * SEC },
      60 * SEC,
    ],
    ["is short where too many came at once", limited(UNKNOWN, "concurrency"), {}, SEC],
    ["lasts for the rest of the provider's day", exhausted(UNKNOWN, "quota_day"), {}, 12 * HOUR],
    [
      "lasts for the rest of the day in TIMEZONE",
      exhausted(UNKNOWN, "quota_day"),
      { rules: { timezone: "America/Los_Angeles" } },
      20 * HOUR,
    ],
    [
      "lasts until the midnight that the verdict names",
      exhausted({ kind: "until_midnight", zone: "Asia/Shanghai" }, "quota_day"),
      {},
      4 * HOUR,
    ],
    [
      "lasts until midnight in TIMEZONE, whatever the verdict names",
      exhausted({ kind: "until_midnight", zone: "Asia/Shanghai" }, "quota_day"),
      { rules: { timezone: "UTC" } },
      12 * HOUR,
    ],
    ["lasts five hours when the money is used up", exhausted(UNKNOWN, "billing"), {}, 5 * HOUR],
    [
      "lasts a day at most when the money stays used up",
      exhausted(UNKNOWN, "billing"),
      { previous: past({ strikes: 40, reason: "billing" }) },
      24 * HOUR,
    ],
  ])("%s", (_, refusal, circumstances, restMs) => {
    expect(cooled(refusal, circumstances).until - NOW).toBe(restMs);
  });

  test("keeps the reason of the longer of two", () => {
    const previous = past({ until: NOW + 12 * HOUR, beganAt: NOW - SEC, reason: "quota_day" });
    expect(cooled(limited(pauseOf(SEC)), { previous }).reason).toBe("quota_day");
    expect(cooled(exhausted(UNKNOWN, "billing"), { previous: past() }).reason).toBe("billing");
  });

  test("P13 only ever moves outwards, within its bounds, whatever comes", () => {
    const pauses = [-1e12, -1, 0, 1, 999, 5e4, 1e9, 1e15, Number.MAX_VALUE];
    for (const first of pauses) {
      for (const second of pauses) {
        const before = cooled(limited(pauseOf(first)));
        const after = cooled(limited(pauseOf(second)), { previous: before });
        expect(after.until).toBeGreaterThanOrEqual(before.until);
        expect(after.until - NOW).toBeWithin(0, RULES.maxCooldownMs + 1);
      }
    }
  });

  test("P12 climbs its ladder one rung a refusal, and never to for ever", () => {
    let previous: Cooldown | null = null;
    let now = NOW;
    const rests: number[] = [];
    for (let refusal = 0; refusal < 6; refusal++) {
      const facts = { previous, sentAt: now, answeredAt: 0, wall: now };
      const next: Cooldown = cooldownAfter(limited(UNKNOWN), facts, RULES, now, 0.5);
      rests.push((next.until - now) / SEC);
      previous = next;
      now = next.until;
    }
    expect(rests).toEqual([60, 300, 1500, 3600, 3600, 3600]);
  });
});

describe("P40 a refusal that may hold for one model or for all", () => {
  const money = { ...exhausted(UNKNOWN, "billing"), scope: "key+model", widens: true } as const;
  const day = { ...exhausted(UNKNOWN, "quota_day"), scope: "key+model", widens: true } as const;
  const resting = (model: string, fields: Partial<Cooldown> = {}) =>
    [model, { cooldown: past({ reason: "billing", until: NOW + HOUR, ...fields }) }] as const;
  test.each<[sentence: string, KeyRefusal, models: ReturnType<typeof resting>[], KeyRefusal["scope"]]>([
    ["rests the model when it is the first", money, [], "key+model"],
    ["rests the model when that was refused before", money, [resting("asked")], "key+model"],
    ["rests the key when another model rests for the same reason", money, [resting("other")], "key"],
    ["rests the model when the other's rest is over", money, [resting("other", { until: NOW })], "key+model"],
    [
      "rests the model when the other met a rate",
      money,
      [resting("x", { reason: "rate_limit" })],
      "key+model",
    ],
    [
      "rests the key when another model has used up its day",
      day,
      [resting("x", { reason: "quota_day" })],
      "key",
    ],
    ["rests the model when its day is over and another has no money", day, [resting("x")], "key+model"],
    ["rests the model when the answer says so", { ...money, widens: false }, [resting("x")], "key+model"],
    ["rests the key when the answer says so", { ...money, scope: "key", widens: false }, [], "key"],
    ["rests the model for a rate", { ...limited(UNKNOWN), scope: "key+model" }, [resting("x")], "key+model"],
  ])("%s", (_, refusal, models, expected) => {
    expect(scopeOf(refusal, "asked", models, NOW)).toBe(expected);
  });
});
