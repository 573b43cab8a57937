import { describe, expect, test } from "bun:test";
import { utcDay } from "../core/clock.ts";
import { BEAT_MS, KEPT_REQUESTS, type TrafficRange, Usage } from "./usage.ts";
import type { AttemptRecord, RequestRecord } from "../core/events.ts";

const NOW = Date.UTC(2026, 10, 20, 12);
const MINUTE = 60_000;
const DAY = 86_400_000;

function attempt(verdict: string, fields: Partial<AttemptRecord> = {}): AttemptRecord {
  return {
    provider: "default",
    key: 0,
    keyId: "aaaa",
    account: null,
    verdict,
    status: 200,
    ms: 5,
    said: "",
    ...fields,
  };
}

function record(fields: Partial<RequestRecord> = {}): RequestRecord {
  return {
    id: 0,
    at: NOW,
    method: "POST",
    path: "/v1/chat/completions",
    provider: "default",
    model: "big",
    status: 200,
    outcome: "served",
    key: "0",
    keyId: "aaaa",
    account: null,
    attempts: [attempt("served")],
    waitedMs: 0,
    firstByteMs: 5,
    totalMs: 10,
    bytes: 100,
    client: null,
    isTruncated: false,
    reason: "",
    maybeBilledReplays: 0,
    ...fields,
  };
}

/** The usage after these requests have finished, in this order. */
function usageAfter(...records: RequestRecord[]): Usage {
  const usage = new Usage();
  for (const finished of records) usage.finished(finished);
  return usage;
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);

describe("the last requests", () => {
  const after = (count: number) => usageAfter(...upTo(count).map((id) => record({ id })));
  const ids = (usage: Usage, limit: number) => usage.recent(limit).map(({ id }) => id);

  test.each<[sentence: string, finished: number, limit: number, first: number, last: number, count: number]>([
    ["are as many as are asked for", 10, 3, 9, 7, 3],
    ["are all where fewer have finished", 4, 50, 3, 0, 4],
    ["are 500 when just so many have finished", KEPT_REQUESTS, 999, 499, 0, 500],
    ["are the last 500 when one more has finished", KEPT_REQUESTS + 1, 999, 500, 1, 500],
    ["are the last 500, however many have finished", 3 * KEPT_REQUESTS + 7, 999, 1506, 1007, 500],
    ["are the newest of those", KEPT_REQUESTS + 7, 2, 506, 505, 2],
  ])("%s", (_, finished, limit, first, last, count) => {
    const shown = ids(after(finished), limit);
    expect([shown[0], shown.at(-1), shown.length]).toEqual([first, last, count]);
    expect(shown).toEqual([...shown].sort((a, b) => b - a));
  });

  test("are none at first, and none where none are asked for", () => {
    expect([ids(new Usage(), 9), ids(after(5), 0)]).toEqual([[], []]);
  });

  test("P33 are those of an earlier run too, which are not counted again", () => {
    const usage = new Usage();
    usage.keep(record({ id: 7 }));
    usage.finished(record({ id: 0 }));
    expect(ids(usage, 9)).toEqual([0, 7]);
    expect([usage.traffic("1h", NOW).points.at(-1)?.requests, usage.usage(1, NOW)[0]?.requests]).toEqual([
      1, 1,
    ]);
  });
});

describe("the traffic of the last hour", () => {
  test("has sixty minutes, the running one last, those without requests too", () => {
    const traffic = usageAfter(record({ at: NOW - 59 * MINUTE })).traffic("1h", NOW + 59_999).points;
    expect(traffic.map(({ at }) => at)).toEqual(upTo(60).map((index) => NOW - (59 - index) * MINUTE));
    expect(traffic.map(({ requests }) => requests)).toEqual([1, ...Array<number>(59).fill(0)]);
  });

  test.each<[sentence: string, atMs: number, totalMs: number, minute: number]>([
    ["counts a request in the minute in which it ended", 59_000, 2000, 1],
    ["counts one that ended as the minute began", 59_000, 1000, 1],
    ["counts one that ended just before", 59_000, 999, 0],
    ["counts a long one only where it ended", 0, 5 * MINUTE, 5],
  ])("%s", (_, atMs, totalMs, minute) => {
    const traffic = usageAfter(record({ at: NOW + atMs, totalMs })).traffic("1h", NOW + 9 * MINUTE).points;
    const counted = traffic.filter(({ requests }) => requests > 0).map(({ at }) => (at - NOW) / MINUTE);
    expect(counted).toEqual([minute]);
  });

  const many = (...verdicts: string[]) => verdicts.map((verdict) => attempt(verdict));
  test.each<[sentence: string, fields: Partial<RequestRecord>, absorbed: number, errors: number]>([
    ["tells of nothing absorbed where nothing failed", {}, 0, 0],
    ["takes an error of the client for an answer", { status: 400, attempts: many("rejected") }, 0, 0],
    ["tells what no client saw", { attempts: many("rate_limited", "unreachable", "served") }, 2, 0],
    ["tells of a failure that a client saw", { status: 503, attempts: many("overloaded") }, 0, 1],
    [
      "tells of those before it that no client saw",
      { status: 502, attempts: many("rate_limited", "unreachable") },
      1,
      1,
    ],
    ["tells of an error without any attempt", { status: 503, attempts: [] }, 0, 1],
    ["tells of an answer that was cut short", { isTruncated: true, attempts: many("unreachable") }, 0, 1],
    ["tells of no error where the client was refused for its own fault", { status: 413, attempts: [] }, 0, 0],
    ["tells of an error from a status of 500 on", { status: 500, attempts: many("rejected") }, 0, 1],
    ["tells of no error where the client left", { status: 499, attempts: [] }, 0, 0],
  ])("%s", (_, fields, absorbed, errors) => {
    expect(usageAfter(record(fields)).traffic("1h", NOW).points.at(-1)).toMatchObject({
      at: NOW,
      requests: 1,
      absorbed,
      errors,
    });
  });

  // A client that had left within the attempt was shown among the failures that no client saw.
  test("tells of nothing absorbed where the client left", () => {
    const usage = usageAfter(record({ status: 499, outcome: "abandoned", attempts: many("abandoned") }));
    expect(usage.traffic("1h", NOW).points.at(-1)).toMatchObject({
      at: NOW,
      requests: 1,
      absorbed: 0,
      errors: 0,
    });
  });

  test("adds up", () => {
    const refused = record({ attempts: many("rate_limited", "served") });
    const usage = usageAfter(refused, refused, record({ status: 500 }));
    expect(usage.traffic("1h", NOW).points.at(-1)).toMatchObject({
      at: NOW,
      requests: 3,
      absorbed: 2,
      errors: 1,
    });
  });

  test("forgets what is older than an hour, and keeps what is not", () => {
    const usage = new Usage();
    for (const minute of upTo(62)) usage.finished(record({ at: NOW + minute * MINUTE, totalMs: 0 }));
    expect(usage.pointAt("minute", NOW + 2 * MINUTE).requests).toBe(1);
    expect(usage.traffic("1h", NOW + 61 * MINUTE).points[0]?.requests).toBe(1);
    expect(usage.pointAt("minute", NOW).requests).toBe(0);
  });

  test.each<[sentence: string, status: number, hidden: number]>([
    ["counts a 429 that no client saw", 200, 2],
    ["counts it where upstream refused the request itself", 400, 2],
    ["counts none where the client got an error", 503, 0],
  ])("%s", (_, status, hidden) => {
    const refused = attempt("rate_limited", { status: 429 });
    const usage = usageAfter(record({ status, attempts: [refused, refused, attempt("served")] }));
    expect(usage.traffic("1h", NOW).points.at(-1)?.hidden429).toBe(hidden);
  });
});

describe("the traffic of a longer time", () => {
  const HOUR = 60 * MINUTE;
  const ranges: [range: TrafficRange, count: number, stepMs: number, agoMs: number, index: number][] = [
    ["1h", 60, MINUTE, 59 * MINUTE, 0],
    ["24h", 24, HOUR, 0, 23],
    ["24h", 24, HOUR, 23 * HOUR, 0],
    ["7d", 168, HOUR, 6 * DAY, 23],
    ["7d", 168, HOUR, 167 * HOUR, 0],
    ["30d", 30, DAY, 0, 29],
    ["30d", 30, DAY, 29 * DAY, 0],
  ];
  test.each(ranges)(
    "of %s has %p points of %p ms: a request %p ms ago is in point %p",
    (range, count, stepMs, agoMs, index) => {
      const usage = usageAfter(record({ at: NOW - agoMs, totalMs: 0 }));
      const traffic = usage.traffic(range, NOW);
      expect([traffic.points.length, traffic.stepMs]).toEqual([count, stepMs]);
      expect(traffic.points.map(({ requests }) => requests)).toEqual(
        upTo(count).map((at) => (at === index ? 1 : 0)),
      );
      const ats = traffic.points.map(({ at }) => at);
      expect(new Set(ats.map((at, order) => at - order * stepMs)).size).toBe(1);
    },
  );

  test("is bounded, and a clock that was set ahead for a moment costs only what it counted", () => {
    const usage = usageAfter(
      record({ at: NOW, totalMs: 0 }),
      record({ at: NOW + 9000 * DAY, totalMs: 0 }),
      record({ at: NOW, totalMs: 0 }),
    );
    expect(usage.traffic("24h", NOW).points.at(-1)?.requests).toBe(2);
    for (const hour of upTo(1000)) usage.finished(record({ at: NOW + hour * HOUR, totalMs: 0 }));
    expect(
      usage.traffic("30d", NOW + 999 * HOUR).points.reduce((sum, { requests }) => sum + requests, 0),
    ).toBeLessThan(722);
  });
});

describe("the heartbeats of a key", () => {
  const SLOT = BEAT_MS;
  const beats = (usage: Usage, now = NOW) => usage.heartbeats("aaaa", now);
  const rows: [sentence: string, verdicts: string[], letter: string][] = [
    ["answers", ["served", "rejected"], "o"],
    ["refusals", ["rate_limited", "exhausted"], "r"],
    ["a dead key", ["revoked"], "r"],
    ["faults", ["overloaded", "unreachable"], "f"],
    ["answers and refusals", ["rate_limited", "served"], "m"],
    ["answers and faults", ["served", "unreachable"], "m"],
    ["refusals and faults", ["unreachable", "rate_limited"], "r"],
    ["clients that left", ["abandoned"], "."],
  ];
  test.each(rows)("show %s of the slot that runs", (_, verdicts, letter) => {
    const usage = usageAfter(record({ totalMs: 0, attempts: verdicts.map((verdict) => attempt(verdict)) }));
    expect(beats(usage)).toBe(".".repeat(29) + letter);
  });

  test("move on with the time, and are gone after an hour", () => {
    const usage = usageAfter(record({ at: NOW, totalMs: 0, attempts: [attempt("served")] }));
    expect(beats(usage, NOW + 3 * SLOT)).toBe(`${".".repeat(26)}o...`);
    usage.finished(record({ at: NOW + 4 * SLOT, totalMs: 0, attempts: [attempt("rate_limited")] }));
    expect(beats(usage, NOW + 4 * SLOT)).toBe(`${".".repeat(25)}o...r`);
    expect(beats(usage, NOW + 33 * SLOT)).toBe(`r${".".repeat(29)}`);
    expect(beats(usage, NOW + 34 * SLOT)).toBe(".".repeat(30));
  });

  test("go on where the clock was set", () => {
    const usage = usageAfter(record({ at: NOW, totalMs: 0, attempts: [attempt("served")] }));
    usage.finished(record({ at: NOW - 5000 * SLOT, totalMs: 0, attempts: [attempt("rate_limited")] }));
    expect(beats(usage, NOW - 5000 * SLOT)).toBe(`${".".repeat(29)}r`);
    expect(beats(usage, NOW)).toBe(".".repeat(30));
  });

  test("of a key that was never asked are quiet", () => {
    expect(new Usage().heartbeats("nobody", NOW)).toBe(".".repeat(30));
  });
});

const rowNamed = (model: string) => ({
  day: "2026-11-20",
  provider: "default",
  keyId: "aaaa",
  model,
  client: null,
});

describe("the usage", () => {
  test.each<[verdict: string, rateLimited: number, errors: number]>([
    ["served", 0, 0],
    ["rejected", 0, 0],
    ["abandoned", 0, 0],
    ["rate_limited", 1, 0],
    ["exhausted", 1, 0],
    ["revoked", 0, 1],
    ["unsuited", 0, 1],
    ["overloaded", 0, 1],
    ["unreachable", 0, 1],
  ])("counts an attempt that was %s", (verdict, rateLimited, errors) => {
    const [row] = usageAfter(record({ attempts: [attempt(verdict)] })).usage(1, NOW);
    const where = { day: "2026-11-20", provider: "default", keyId: "aaaa", model: "big", client: null };
    expect(row).toMatchObject({ ...where, requests: 1, rateLimited, errors });
  });

  test("counts the tokens of an answer once, in the row of the attempt that brought it", () => {
    const tokens = { input: 100, output: 20, cached: 60, cacheWrite: 5, reasoning: 10 };
    const attempts = [attempt("rate_limited", { keyId: "bbbb" }), attempt("served")];
    const usage = usageAfter(
      record({ attempts, tokens }),
      record({ attempts, tokens }),
      record(),
      record({ tokens: null }),
    );
    expect(usage.usage(1, NOW)).toMatchObject([
      {
        keyId: "aaaa",
        requests: 4,
        inputTokens: 200,
        outputTokens: 40,
        cachedTokens: 120,
        cacheWriteTokens: 10,
        reasoningTokens: 20,
      },
      {
        keyId: "bbbb",
        requests: 2,
        inputTokens: 0,
        outputTokens: 0,
        cachedTokens: 0,
        cacheWriteTokens: 0,
        reasoningTokens: 0,
      },
    ]);
  });

  test("has a row for each key, model and provider, the most used first", () => {
    const usage = usageAfter(
      record({ attempts: [attempt("rate_limited", { keyId: "bbbb" }), attempt("served")] }),
      record({ model: null }),
      record(),
      record({ attempts: [attempt("served", { provider: "groq" })] }),
      record(),
    );
    const rows = usage
      .usage(1, NOW)
      .map(({ provider, keyId, model, requests }) => [provider, keyId, model, requests]);
    expect(rows[0]).toEqual(["default", "aaaa", "big", 3]);
    expect(rows.slice(1).toSorted()).toEqual([
      ["default", "aaaa", null, 1],
      ["default", "bbbb", "big", 1],
      ["groq", "aaaa", "big", 1],
    ]);
  });

  test.each<[sentence: string, days: number, shown: string[]]>([
    ["shows the running day alone", 1, ["2026-11-20"]],
    ["shows the day before too", 2, ["2026-11-20", "2026-11-19"]],
    ["shows the newest day first", 30, ["2026-11-20", "2026-11-19", "2026-11-01"]],
  ])("%s", (_, days, shown) => {
    const usage = usageAfter(...[NOW - 19 * DAY, NOW, NOW - DAY].map((at) => record({ at })));
    expect(usage.usage(days, NOW).map(({ day }) => day)).toEqual(shown);
  });

  test.each<[sentence: string, at: number, day: string]>([
    ["counts the last millisecond of a day on it", Date.UTC(2026, 10, 21) - 1, "2026-11-20"],
    ["counts midnight (UTC) on the day that begins", Date.UTC(2026, 10, 21), "2026-11-21"],
    ["counts a request of the day before on that day", Date.UTC(2026, 10, 20) - 1, "2026-11-19"],
  ])("%s", (_, at, day) => {
    const usage = usageAfter(record(), record({ at, model: "other" }));
    expect(usage.usage(9, NOW + DAY).find(({ model }) => model === "other")?.day).toBe(day);
    expect(
      usage.rowFor(at, { provider: "default", keyId: "aaaa" }, { model: "other", client: null }),
    ).toMatchObject({ day, requests: 1 });
    expect(utcDay(at)).toBe(day);
  });

  test("has 20,000 rows at most, as models are named by clients, and goes on counting in those", () => {
    const usage = new Usage();
    for (const index of upTo(20_000)) usage.rowOf(rowNamed(`model-${index}`));
    expect(usage.rowOf(rowNamed("one-more"))).toBeNull();
    usage.finished(record({ model: "one-more" }));
    usage.finished(record({ model: "model-5" }));
    const rows = usage.usage(1, NOW);
    expect([rows.length, rows[0]?.model, rows[0]?.requests]).toEqual([20_000, "model-5", 1]);
  });

  // What 20,000 names of models had filled on one day was never emptied: from then on nothing new was counted, on no
  // later day either.
  test("is counted on a new day, although an earlier one has filled it", () => {
    const usage = new Usage();
    for (const index of upTo(20_000)) usage.rowOf(rowNamed(`model-${index}`));
    usage.finished(record({ at: NOW + DAY }));
    expect(usage.usage(1, NOW + DAY).length).toBe(1);
  });
});
