import { describe, expect, test } from "bun:test";
import type { Clock } from "../core/clock.ts";
import { type Budget, type Budgets, HeaderSampler, readBudgets } from "./rate-limit-headers.ts";
import { DIALECTS, type Dialect } from "./verdict.ts";

/** A Friday, 12:15:07.250 UTC: 52.75 s before the minute ends, and 3 h 44 min 52.75 s before Beijing's day does. */
const NOW = Date.UTC(2026, 10, 20, 12, 15, 7, 250);
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const epochSec = (fromNowSec: number) => String(Math.floor(NOW / 1000) + fromNowSec);
const rfc3339 = (fromNowSec: number) => new Date(NOW + fromNowSec * SECOND).toISOString();

type Fields = Record<string, string>;

/** What is expected of one span: how many are left, and for how long. */
type Left = Partial<Omit<Budget, "resetAt" | "span">> & { remaining: number; inMs: number };

/** `x-ratelimit-limit-UNIT` and its kin. */
const named = (unit: string, limit: string, remaining: string, reset: string | null): Fields => ({
  [`x-ratelimit-limit-${unit}`]: limit,
  [`x-ratelimit-remaining-${unit}`]: remaining,
  ...(reset !== null && { [`x-ratelimit-reset-${unit}`]: reset }),
});
const unnamed = (limit: string, remaining: string, reset: string): Fields => ({
  "x-ratelimit-limit": limit,
  "x-ratelimit-remaining": remaining,
  "x-ratelimit-reset": reset,
});
const anthropic = (unit: string, limit: string, remaining: string, reset: string): Fields => ({
  [`anthropic-ratelimit-${unit}-limit`]: limit,
  [`anthropic-ratelimit-${unit}-remaining`]: remaining,
  [`anthropic-ratelimit-${unit}-reset`]: reset,
});

function expectBudget(found: Budget | null | undefined, expected: Left | null, span: Budget["span"]): void {
  if (expected === null) return expect(found ?? null).toBeNull();
  const { inMs, ...rest } = expected;
  expect(found).toMatchObject({ ...rest, span, resetAt: NOW + inMs });
}

function expectBudgets(found: Budgets | null, minute: Left | null, day: Left | null): void {
  if (minute === null && day === null) expect(found).toBeNull();
  expectBudget(found?.minute, minute, "minute");
  expectBudget(found?.day, day, "day");
}

describe("what an answer announces of its limits", () => {
  const answers: [
    sentence: string,
    dialect: Dialect,
    fields: Fields,
    minute: Left | null,
    day: Left | null,
  ][] = [
    [
      "OpenAI: a bucket, with the time until it is full",
      "openai",
      { ...named("requests", "500", "470", "3.6s"), ...named("tokens", "30000", "29000", "2s") },
      { limit: 500, remaining: 470, kind: "leaky", scope: "key+model", inMs: 3600 },
      null,
    ],
    [
      "OpenAI: a day that leaks, which only the numbers together tell",
      "openai",
      named("requests", "200", "198", "14m24s"),
      null,
      { limit: 200, remaining: 198, kind: "leaky", scope: "key+model", inMs: 864 * SECOND },
    ],
    [
      "OpenAI: no tokens left, whatever requests there are; a quarter of the bucket serves again",
      "openai",
      { ...named("requests", "500", "499", "120ms"), ...named("tokens", "30000", "0", "1m0s") },
      { limit: null, remaining: 0, kind: "window", scope: "key+model", inMs: 15 * SECOND },
      null,
    ],
    [
      "P46 a reset by an upstream's clock that is two hours ahead",
      "generic",
      { ...unnamed("60", "3", epochSec(7200 + 21)), date: new Date(NOW + 7200 * SECOND).toUTCString() },
      { limit: 60, remaining: 3, inMs: 21 * SECOND },
      null,
    ],
    ["OpenAI: a full bucket needs no time", "openai", named("requests", "500", "500", "0s"), null, null],
    [
      "Groq: requests are a day's, also when their reset is near",
      "groq",
      { ...named("requests", "14400", "14368", "3m12s"), ...named("tokens", "6000", "5000", "10s") },
      null,
      { limit: 14_400, remaining: 14_368, kind: "leaky", scope: "key+model", inMs: 192 * SECOND },
    ],
    [
      "Groq: tokens are a minute's",
      "groq",
      { ...named("requests", "1000", "900", "2h24m"), ...named("tokens", "6000", "0", "60s") },
      { limit: null, remaining: 0, kind: "window", inMs: 15 * SECOND },
      { limit: 1000, remaining: 900, kind: "leaky", inMs: 144 * MINUTE },
    ],
    [
      "Azure: unknown is not announced",
      "azure",
      { ...named("requests", "-1", "-1", "0"), ...named("tokens", "-1", "-1", "0") },
      null,
      null,
    ],
    [
      "Azure: whole seconds",
      "azure",
      { ...named("requests", "40", "31", "9"), "x-ratelimit-renewalperiod-requests": "60" },
      { limit: 40, remaining: 31, kind: "window", scope: "key+model", inMs: 9 * SECOND },
      null,
    ],
    [
      "Azure: the length of the window where its reset says nothing",
      "azure",
      { ...named("requests", "40", "0", "0"), "x-ratelimit-renewalperiod-requests": "60" },
      { limit: 40, remaining: 0, kind: "window", inMs: MINUTE },
      null,
    ],
    [
      "GitHub: the length of the window, and a limit that is not the user's",
      "github",
      { ...named("requests", "20000", "19990", null), "x-ratelimit-renewalperiod-requests": "60" },
      { limit: null, remaining: 19_990, kind: "window", scope: "key", inMs: MINUTE },
      null,
    ],
    [
      "Anthropic: when the bucket is full again, as a date",
      "anthropic",
      {
        ...anthropic("requests", "50", "47", rfc3339(4)),
        ...anthropic("input-tokens", "30000", "28000", rfc3339(4)),
      },
      { limit: 50, remaining: 47, kind: "leaky", scope: "key+model", inMs: 4 * SECOND },
      null,
    ],
    [
      "Anthropic: of two kinds of tokens that are used up, the one that stays so longer",
      "anthropic",
      {
        ...anthropic("requests", "50", "47", rfc3339(4)),
        ...anthropic("input-tokens", "30000", "0", rfc3339(20)),
        ...anthropic("output-tokens", "8000", "0", rfc3339(40)),
      },
      { limit: null, remaining: 0, kind: "window", inMs: 10 * SECOND },
      null,
    ],
    [
      "Anthropic: an instant that has passed is nothing",
      "anthropic",
      anthropic("requests", "50", "50", rfc3339(-1)),
      null,
      null,
    ],
    [
      "Mistral: the minute on the wall",
      "mistral",
      { ...named("req-minute", "60", "58", null), ...named("tokens-minute", "500000", "498000", null) },
      { limit: 60, remaining: 58, kind: "window", scope: "key+model", inMs: 52_750 },
      null,
    ],
    [
      "Mistral: no tokens left in it",
      "mistral",
      { ...named("req-minute", "60", "58", null), ...named("tokens-minute", "500000", "0", null) },
      { limit: null, remaining: 0, kind: "window", inMs: 52_750 },
      null,
    ],
    ["Mistral: a limit of none at all", "mistral", named("req-minute", "0", "0", null), null, null],
    [
      "Cerebras: minute, hour and day, in seconds with a fraction",
      "cerebras",
      {
        ...named("requests-minute", "30", "29", "52.7501"),
        ...named("requests-hour", "900", "899", "2692.75"),
        ...named("requests-day", "14400", "14399", "42292.75"),
        ...named("tokens-minute", "60000", "58000", "52.75"),
      },
      { limit: 30, remaining: 29, kind: "window", scope: "key+model", inMs: 52_751 },
      { limit: 900, remaining: 899, kind: "window", inMs: 2_692_750 },
    ],
    [
      "Cerebras: the day's tokens are used up",
      "cerebras",
      {
        ...named("requests-day", "14400", "14399", "42292.75"),
        ...named("tokens-day", "1000000", "0", "42292.75"),
      },
      null,
      { limit: null, remaining: 0, kind: "window", inMs: 42_292_750 },
    ],
    [
      "SambaNova: seconds for the minute, a duration for the day",
      "sambanova",
      { ...named("requests", "40", "12", "33"), ...named("requests-day", "1500", "1499", "9h30m") },
      { limit: 40, remaining: 12, kind: "window", scope: "key+model", inMs: 33 * SECOND },
      { limit: 1500, remaining: 1499, kind: "window", inMs: 9.5 * HOUR },
    ],
    [
      "SambaNova: an instant where it is one",
      "sambanova",
      named("requests", "40", "12", epochSec(21)),
      { limit: 40, remaining: 12, inMs: 21 * SECOND - 250 },
      null,
    ],
    [
      "Together: per second, and tokens under a name of their own",
      "together",
      { ...unnamed("10", "9", "1"), "x-tokenlimit-remaining": "0", "x-tokenlimit-reset": "2" },
      { limit: null, remaining: 0, kind: "window", scope: "key", inMs: 2 * SECOND },
      null,
    ],
    [
      "OpenRouter: epoch milliseconds, a minute's",
      "openrouter",
      unnamed("20", "0", String(NOW + 31_500)),
      { limit: 20, remaining: 0, kind: "window", scope: "key", inMs: 31_500 },
      null,
    ],
    [
      "OpenRouter: and a day's, by how far off they are",
      "openrouter",
      unnamed("50", "0", String(NOW + 11 * HOUR)),
      null,
      { limit: 50, remaining: 0, kind: "window", scope: "key", inMs: 11 * HOUR },
    ],
    [
      "ModelScope: the account's day, in China",
      "modelscope",
      {
        "modelscope-ratelimit-requests-limit": "2000",
        "modelscope-ratelimit-requests-remaining": "40",
        "modelscope-ratelimit-model-requests-limit": "500",
        "modelscope-ratelimit-model-requests-remaining": "320",
      },
      null,
      { limit: 2000, remaining: 40, kind: "window", scope: "key", inMs: 13_492_750 },
    ],
    [
      "ModelScope: the model's, where less is left of that",
      "modelscope",
      {
        "modelscope-ratelimit-requests-remaining": "1200",
        "modelscope-ratelimit-model-requests-remaining": "0",
      },
      null,
      { limit: null, remaining: 0, scope: "key+model", inMs: 13_492_750 },
    ],
    [
      "Hugging Face: the IETF's field, the limit in its policy",
      "huggingface",
      { ratelimit: '"api";r=930;t=210', "ratelimit-policy": '"fixed window";"api";q=1000;w=300' },
      { limit: 1000, remaining: 930, kind: "window", scope: "key", inMs: 210 * SECOND },
      null,
    ],
    [
      "IETF: of two policies the one of which less is left",
      "generic",
      {
        ratelimit: '"burst";r=4;t=1, "hour";r=80;t=300',
        "ratelimit-policy": '"burst";q=5;w=1,"hour";q=100;w=3600',
      },
      { limit: 5, remaining: 4, inMs: SECOND },
      null,
    ],
    [
      "IETF: a policy that counts bytes tells no limit of requests",
      "generic",
      { ratelimit: '"a";r=4;t=1', "ratelimit-policy": '"a";q=50;qu="content-bytes"' },
      { limit: null, remaining: 4, inMs: SECOND },
      null,
    ],
    [
      "IETF: the older generation",
      "generic",
      { ratelimit: "limit=100, remaining=61, reset=44", "ratelimit-policy": "100;w=60" },
      { limit: 100, remaining: 61, kind: "window", inMs: 44 * SECOND },
      null,
    ],
    ["IETF: without a reset it says nothing", "generic", { ratelimit: '"a";r=4' }, null, null],
    [
      "anybody: with a unit",
      "generic",
      named("requests", "100", "99", "58"),
      { limit: 100, remaining: 99, kind: "window", scope: "key", inMs: 58 * SECOND },
      null,
    ],
    [
      "anybody: without one, in epoch seconds",
      "vertex",
      unnamed("100", "7", epochSec(40)),
      { limit: 100, remaining: 7, kind: "window", scope: "key+model", inMs: 40 * SECOND - 250 },
      null,
    ],
    [
      "anybody: no tokens left until the reset",
      "xai",
      { ...named("requests", "100", "99", "5"), ...named("tokens", "9000", "0", "30") },
      { limit: null, remaining: 0, inMs: 30 * SECOND },
      null,
    ],
    [
      "anybody: the limit as a list of policies",
      "generic",
      unnamed("20, 20;w=60", "19", "32"),
      { limit: 20, remaining: 19, inMs: 32 * SECOND },
      null,
    ],
    ["anybody: without a reset it says nothing", "xai", named("requests", "480", "479", null), null, null],
    ["nothing", "openai", {}, null, null],
    ["nothing under another one's names", "anthropic", named("requests", "60", "59", "1s"), null, null],
  ];
  test.each(answers)("%s", (_sentence, dialect, fields, minute, day) => {
    expectBudgets(readBudgets(dialect, new Headers(fields), NOW), minute, day);
  });
});

describe("headers that lie", () => {
  const lies: [sentence: string, fields: Fields][] = [
    ["a negative rest", unnamed("20", "-1", "30")],
    ["a rest that is a word", unnamed("20", "some", "30")],
    ["a rest with a fraction", unnamed("20", "1.5", "30")],
    ["an empty rest", unnamed("20", "", "30")],
    ["a rest larger than the limit", unnamed("20", "21", "30")],
    ["a rest told twice", unnamed("20", "19, 18x", "30")],
    ["a reset of 0", unnamed("20", "0", "0")],
    ["a negative reset", unnamed("20", "0", "-30")],
    ["a reset that is a word", unnamed("20", "0", "soon")],
    ["a reset that has passed", unnamed("20", "0", epochSec(-5))],
    ["a reset more than a day and an hour away", unnamed("20", "0", String(DAY + HOUR + 1))],
    ["a reset as milliseconds that reads as a month", unnamed("20", "0", "2592000000")],
    ["a reset beyond all numbers", unnamed("20", "0", "9".repeat(400))],
    ["an IETF field of nonsense", { ratelimit: 'r=;t=,;;,"', "ratelimit-policy": ";q" }],
  ];
  test.each(lies)("are not believed: %s", (_sentence, fields) => {
    for (const dialect of DIALECTS) expect(readBudgets(dialect, new Headers(fields), NOW)).toBeNull();
  });

  test("do not hide what another header says", () => {
    const fields = { ...named("requests", "-1", "-1", "0"), ...unnamed("20", "3", "30") };
    expectBudgets(
      readBudgets("generic", new Headers(fields), NOW),
      { remaining: 3, inMs: 30 * SECOND },
      null,
    );
  });

  test("do not take the rest with them when only the limit is nonsense", () => {
    const found = readBudgets("generic", new Headers(unnamed("many", "3", "30")), NOW);
    expectBudgets(found, { limit: null, remaining: 3, inMs: 30 * SECOND }, null);
  });
});

/** Answers as they come, and whether each was looked at: only for that the time is asked. */
class SampledProvider {
  readonly #headerSampler = new HeaderSampler();
  looks = 0;
  readonly #clock: Clock = {
    now: () => NOW,
    wall: () => {
      this.looks += 1;
      return NOW;
    },
    after: () => () => {},
  };

  hears(
    headers: Record<string, string>,
    status = 200,
    dialect: Dialect = "openai",
    rpm: "auto" | "off" = "auto",
  ) {
    return this.#headerSampler.read({ dialect, rpm }, new Response(null, { status, headers }), this.#clock);
  }

  /** How many of so many such answers were looked at. */
  looksAt(count: number, headers: Record<string, string>, status = 200): number {
    const before = this.looks;
    for (let answer = 0; answer < count; answer++) this.hears(headers, status);
    return this.looks - before;
  }
}

function left(requests: number | string, tokens?: number): Record<string, string> {
  return {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-requests": String(requests),
    "x-ratelimit-reset-requests": "30s",
    ...(tokens === undefined ? {} : { "x-ratelimit-remaining-tokens": String(tokens) }),
  };
}

const SILENCE = {};

describe("the announcements of a provider", () => {
  test.each<[sentence: string, headers: Record<string, string>, status: number, looked: number]>([
    ["are read from each answer while a limit is near", left(999), 200, 100],
    ["are given up as if there were none where they make no sense", left("many"), 200, 8 + 3],
    ["are read from each answer while no tokens are left", left(4000, 0), 200, 100],
    ["are read now and then while all limits are far away", left(1000), 200, 3],
    ["are read now and then while tokens are left too", left(4000, 7), 200, 3],
    ["are looked for eight times, then now and then, where there are none", SILENCE, 200, 8 + 3],
    ["are read from each refusal, near or far", left(4000), 429, 100],
    ["are looked for in each refusal, where there are none", SILENCE, 500, 100],
    ["are looked for in all that are no refusals as in good answers", SILENCE, 302, 8 + 3],
  ])("%s", (_, headers, status, looked) => {
    expect(new SampledProvider().looksAt(100, headers, status)).toBe(looked);
  });

  test("are told as they were read", () => {
    const listener = new SampledProvider();
    expect(listener.hears(left(12))).toMatchObject({ minute: { limit: 5000, remaining: 12 } });
    expect(listener.hears(SILENCE)).toBeNull();
    expect(listener.hears(left(4000))).toBeNull(); // nobody looked
    expect(listener.hears(left(4000), 429)).toMatchObject({ minute: { remaining: 4000 } });
  });

  test("are told on every 32nd answer, however far away", () => {
    const listener = new SampledProvider();
    const told = Array.from({ length: 64 }, () => listener.hears(left(4000)) !== null);
    expect(told.flatMap((isTold, index) => (isTold ? [index + 1] : []))).toEqual([32, 64]);
  });

  test("are read again from each answer once a silent provider was heard", () => {
    const listener = new SampledProvider();
    listener.looksAt(31, SILENCE);
    expect(listener.looksAt(1, left(5))).toBe(1); // the 32nd
    expect(listener.looksAt(10, left(5))).toBe(10);
  });

  test("are not given up while some answer in eight has one", () => {
    const listener = new SampledProvider();
    listener.looksAt(7, SILENCE);
    listener.hears(left(5));
    expect(listener.looksAt(7, SILENCE)).toBe(7);
    listener.hears(left(5));
    expect([listener.looksAt(8, SILENCE), listener.looksAt(1, left(5))]).toEqual([8, 0]);
  });

  test("are looked for by the headers of the provider's own dialect", () => {
    const headers = { "anthropic-ratelimit-requests-remaining": "4000" };
    const [anthropic, openai] = [new SampledProvider(), new SampledProvider()];
    anthropic.hears(headers, 200, "anthropic");
    openai.hears(headers, 200, "openai");
    expect([anthropic.looks, openai.looks]).toEqual([0, 1]);
  });

  // Cerebras announces on good answers only: after a burst of refusals, when it matters most, the next good answers
  // were not looked at.
  test("are not given up for refusals, which have none at some providers", () => {
    const listener = new SampledProvider();
    listener.hears(left(5));
    listener.looksAt(8, SILENCE, 429);
    expect(listener.hears(left(5))).not.toBeNull();
  });

  test("are looked for on refusals alone where RPM is off", () => {
    const listener = new SampledProvider();
    expect([listener.hears(left(5), 200, "openai", "off"), listener.looks]).toEqual([null, 0]);
    expect(listener.hears(left(5), 429, "openai", "off")).not.toBeNull();
  });
});
