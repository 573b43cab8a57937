import { describe, expect, test } from "bun:test";
import { utcDay } from "../core/clock.ts";
import { KEPT_REQUESTS, Usage } from "./usage.ts";
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
function ledgerOf(...records: RequestRecord[]): Usage {
  const usage = new Usage();
  for (const finished of records) usage.finished(finished);
  return usage;
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);

describe("the last requests", () => {
  const after = (count: number) => ledgerOf(...upTo(count).map((id) => record({ id })));
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
    expect([usage.traffic(NOW).at(-1)?.requests, usage.usage(1, NOW)[0]?.requests]).toEqual([1, 1]);
  });
});

describe("the traffic of the last hour", () => {
  test("has sixty minutes, the running one last, those without requests too", () => {
    const traffic = ledgerOf(record({ at: NOW - 59 * MINUTE })).traffic(NOW + 59_999);
    expect(traffic.map(({ at }) => at)).toEqual(upTo(60).map((index) => NOW - (59 - index) * MINUTE));
    expect(traffic.map(({ requests }) => requests)).toEqual([1, ...Array<number>(59).fill(0)]);
  });

  test.each<[sentence: string, atMs: number, totalMs: number, minute: number]>([
    ["counts a request in the minute in which it ended", 59_000, 2000, 1],
    ["counts one that ended as the minute began", 59_000, 1000, 1],
    ["counts one that ended just before", 59_000, 999, 0],
    ["counts a long one only where it ended", 0, 5 * MINUTE, 5],
  ])("%s", (_, atMs, totalMs, minute) => {
    const traffic = ledgerOf(record({ at: NOW + atMs, totalMs })).traffic(NOW + 9 * MINUTE);
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
    expect(ledgerOf(record(fields)).traffic(NOW).at(-1)).toEqual({ at: NOW, requests: 1, absorbed, errors });
  });

  // A client that had left within the attempt was shown among the failures that no client saw.
  test("tells of nothing absorbed where the client left", () => {
    const usage = ledgerOf(record({ status: 499, outcome: "abandoned", attempts: many("abandoned") }));
    expect(usage.traffic(NOW).at(-1)).toEqual({ at: NOW, requests: 1, absorbed: 0, errors: 0 });
  });

  test("adds up", () => {
    const refused = record({ attempts: many("rate_limited", "served") });
    const usage = ledgerOf(refused, refused, record({ status: 500 }));
    expect(usage.traffic(NOW).at(-1)).toEqual({ at: NOW, requests: 3, absorbed: 2, errors: 1 });
  });

  test("forgets what is older than an hour, and keeps what is not", () => {
    const usage = ledgerOf(record({ at: NOW, totalMs: 0 }), record({ at: NOW + MINUTE, totalMs: 0 }));
    usage.finished(record({ at: NOW + 60 * MINUTE, totalMs: 0 }));
    expect(usage.minuteAt(NOW + MINUTE).requests).toBe(1);
    expect(usage.minuteAt(NOW).requests).toBe(0);
  });
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
    const [row] = ledgerOf(record({ attempts: [attempt(verdict)] })).usage(1, NOW);
    const where = { day: "2026-11-20", provider: "default", keyId: "aaaa", model: "big" };
    expect(row).toEqual({ ...where, requests: 1, rateLimited, errors });
  });

  test("has a row for each key, model and provider, the most used first", () => {
    const usage = ledgerOf(
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
    const usage = ledgerOf(...[NOW - 19 * DAY, NOW, NOW - DAY].map((at) => record({ at })));
    expect(usage.usage(days, NOW).map(({ day }) => day)).toEqual(shown);
  });

  test.each<[sentence: string, at: number, day: string]>([
    ["counts the last millisecond of a day on it", Date.UTC(2026, 10, 21) - 1, "2026-11-20"],
    ["counts midnight (UTC) on the day that begins", Date.UTC(2026, 10, 21), "2026-11-21"],
    ["counts a request of the day before on that day", Date.UTC(2026, 10, 20) - 1, "2026-11-19"],
  ])("%s", (_, at, day) => {
    const usage = ledgerOf(record(), record({ at, model: "other" }));
    expect(usage.usage(9, NOW + DAY).find(({ model }) => model === "other")?.day).toBe(day);
    expect(usage.usedRow(at, "default", "aaaa", "other")).toMatchObject({ day, requests: 1 });
    expect(utcDay(at)).toBe(day);
  });

  test("has 20,000 rows at most, as models are named by clients, and goes on counting in those", () => {
    const usage = new Usage();
    for (const index of upTo(20_000)) usage.rowOf("2026-11-20", "default", "aaaa", `model-${index}`);
    expect(usage.rowOf("2026-11-20", "default", "aaaa", "one-more")).toBeNull();
    usage.finished(record({ model: "one-more" }));
    usage.finished(record({ model: "model-5" }));
    const rows = usage.usage(1, NOW);
    expect([rows.length, rows[0]?.model, rows[0]?.requests]).toEqual([20_000, "model-5", 1]);
  });

  // What 20,000 names of models had filled on one day was never emptied: from then on nothing new was counted, on no
  // later day either.
  test("is counted on a new day, although an earlier one has filled it", () => {
    const usage = new Usage();
    for (const index of upTo(20_000)) usage.rowOf("2026-11-20", "default", "aaaa", `model-${index}`);
    usage.finished(record({ at: NOW + DAY }));
    expect(usage.usage(1, NOW + DAY).length).toBe(1);
  });
});
