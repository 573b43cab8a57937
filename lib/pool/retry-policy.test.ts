import { describe, expect, test } from "bun:test";
import { decide, RetryBudget } from "./retry-policy.ts";
import type { Decision, Policy, Progress } from "./retry-policy.ts";
import type { Setback } from "../providers/verdict.ts";

const NOW = Date.UTC(2026, 10, 20, 12);
const said = "";

const LIMITED: Setback = {
  kind: "rate_limited",
  scope: "key",
  pause: { kind: "unknown" },
  reason: "rate_limit",
  said,
};
const EXHAUSTED: Setback = { ...LIMITED, kind: "exhausted", widens: false, reason: "billing" };
const REVOKED: Setback = { kind: "revoked", certain: true, said };
const UNSUITED: Setback = { kind: "unsuited", scope: "key+model", said };
const BUSY: Setback = {
  kind: "overloaded",
  scope: "provider",
  pauseMs: null,
  maybeBilled: false,
  refusesAll: false,
  said,
};
const FAILED: Setback = { ...BUSY, maybeBilled: true };
const REFUSED: Setback = {
  kind: "unreachable",
  type: "upstream_unreachable",
  message: "",
  maybeBilled: false,
};
const RESET: Setback = { ...REFUSED, maybeBilled: true };
const ABANDONED: Setback = { kind: "abandoned" };
const NO_KEY: Setback = { kind: "no_key", readyAt: NOW + 1000, why: "cooling" };

const ROTATE = "rotate";
const BACK_OFF = "back_off";
const GIVE_UP = "give_up";

/** What is decided after one attempt of ten, with 100 s to go, unless told otherwise. */
function decideAfter(
  setback: Setback,
  spent: Partial<Progress> = {},
  bounds: Partial<Policy> = {},
  jitter = 0,
): Decision {
  const progress = { attempts: 1, maybeBilledReplays: 0, upstreamFaults: 0, ...spent };
  const policy = { maxAttempts: 10, waitUntil: NOW + 100_000, hasFallback: false, mayRetry: true, ...bounds };
  return decide(setback, progress, policy, NOW, jitter);
}

describe("decide", () => {
  const last = { attempts: 10 };
  const replayed = { attempts: 2, maybeBilledReplays: 1, upstreamFaults: 1 };
  test.each<[sentence: string, Setback, Partial<Progress>, Decision["do"]]>([
    ["P2 takes another key after a 429", LIMITED, {}, ROTATE],
    ["P2 takes another key when one has no money left", EXHAUSTED, {}, ROTATE],
    ["P2 takes another key when one is dead", REVOKED, {}, ROTATE],
    ["P2 takes another key when one lacks the model", UNSUITED, {}, ROTATE],
    ["P2 takes another key after a maybe-billed replay, too", LIMITED, replayed, ROTATE],
    ["P2 tries a busy upstream again", BUSY, {}, BACK_OFF],
    ["P2 tries an unreachable upstream again", REFUSED, {}, BACK_OFF],
    ["P2 replays free failures after a maybe-billed one", BUSY, replayed, BACK_OFF],
    ["P2 replays a refused connection after a maybe-billed failure", REFUSED, replayed, BACK_OFF],
    ["P2 ends with the attempts, on a 429", LIMITED, last, GIVE_UP],
    ["P2 ends with the attempts, on an empty account", EXHAUSTED, last, GIVE_UP],
    ["P2 ends with the attempts, on a dead key", REVOKED, last, GIVE_UP],
    ["P2 ends with the attempts, on a model that is missing", UNSUITED, last, GIVE_UP],
    ["P2 ends with the attempts, on a busy upstream", BUSY, last, GIVE_UP],
    ["P2 ends with the attempts, on a refused connection", REFUSED, last, GIVE_UP],
    ["P3 replays a 500 once", FAILED, {}, BACK_OFF],
    ["P3 replays a reset once", RESET, {}, BACK_OFF],
    ["P3 does not replay a second 500", FAILED, replayed, GIVE_UP],
    ["P3 does not replay a second reset", RESET, replayed, GIVE_UP],
    ["P15 does nothing for a client that left", ABANDONED, {}, GIVE_UP],
    ["P25 gives up where the pool says that waiting is in vain", NO_KEY, {}, GIVE_UP],
  ])("%s", (_, setback, spent, expected) => {
    expect(decideAfter(setback, spent).do).toBe(expected);
  });

  test.each<[sentence: string, Setback, Partial<Progress>, jitter: number, pauseMs: number]>([
    ["P9 waits at least half of 250 ms first", BUSY, {}, 0, 125],
    ["P9 waits at most 250 ms first", BUSY, {}, 1, 250],
    ["P9 doubles with each failure of the upstream", BUSY, { upstreamFaults: 2 }, 1, 1000],
    ["P9 does not double with keys that were refused before", BUSY, { attempts: 6 }, 1, 250],
    ["P9 stops doubling at 4 s", BUSY, { upstreamFaults: 9 }, 1, 4000],
    ["P9 waits no shorter than Retry-After", { ...BUSY, pauseMs: 7000 }, {}, 0, 7000],
    ["P9 waits longer than a short Retry-After", { ...BUSY, pauseMs: 10 }, {}, 0, 125],
  ])("%s", (_, setback, spent, jitter, pauseMs) => {
    expect(decideAfter(setback, spent, {}, jitter)).toMatchObject({ do: "back_off", pauseMs });
  });

  test("P9 tells whether the replay may be billed twice", () => {
    expect(decideAfter(BUSY)).toMatchObject({ replaysMaybeBilled: false });
    expect(decideAfter(FAILED)).toMatchObject({ replaysMaybeBilled: true });
  });

  test("P9 switches keys at once, and rests only the one that was asked", () => {
    const decision = decideAfter(LIMITED, {}, {}, 0);
    expect(decision).toEqual({ do: "rotate", reuseAt: NOW + 125 });
  });

  test("P2 waits for no upstream beyond the deadline", () => {
    const slow: Setback = { ...BUSY, pauseMs: 5000 };
    expect(decideAfter(slow, {}, { waitUntil: NOW + 5000 }).do).toBe("back_off");
    expect(decideAfter(slow, {}, { waitUntil: NOW + 4999 }).do).toBe("give_up");
  });

  test("MAX_ATTEMPTS=1 means one attempt, whatever the setback", () => {
    for (const setback of [LIMITED, EXHAUSTED, REVOKED, UNSUITED, BUSY, FAILED, REFUSED, RESET]) {
      expect(decideAfter(setback, {}, { maxAttempts: 1 })).toEqual({ do: "give_up" });
    }
  });
});

/** What happens at which ms: a request comes, or one fails and asks for a retry. */
type Happening = ["request" | "failure", atMs: number];

const START = Date.UTC(2026, 10, 20);
const many = (count: number, happening: Happening): Happening[] => Array(count).fill(happening);

/** When retries were allowed. */
function retriesOf(happenings: readonly Happening[]): number[] {
  const budget = new RetryBudget();
  return happenings.flatMap(([what, atMs]) => {
    if (what === "failure") return budget.tryRetry(START + atMs) ? [atMs] : [];
    budget.countRequest(START + atMs);
    return [];
  });
}

/** How many of these lie in the 10 s from `start` on, both ends included. */
const within = (times: readonly number[], start: number) =>
  times.filter((at) => at >= start && at <= start + 10_000).length;

/** The first 10 s with too many retries, in words; null: there are none. */
function brokenWindow(happenings: readonly Happening[], retries: readonly number[]): string | null {
  const requests = happenings.flatMap(([what, at]) => (what === "request" ? [at] : []));
  // Where the counts are at their worst, a window begins with a retry, ends with one, or just misses a request.
  const starts = new Set(
    [...retries, ...requests].flatMap((at) => [at, at + 0.5, at - 10_000, at - 10_000.5]),
  );
  for (const start of starts) {
    const [made, asked] = [within(retries, start), within(requests, start)];
    if (made > Math.max(3, asked / 5)) return `${made} retries for ${asked} requests from ${start} ms on`;
  }
  return null;
}

describe("the retry budget", () => {
  const rows: [says: string, happenings: Happening[], allowed: number][] = [
    ["allows three retries without any request", many(9, ["failure", 0]), 3],
    [
      "allows three in 10 s, and three more",
      [...many(5, ["failure", 0]), ...many(5, ["failure", 11_001])],
      6,
    ],
    ["allows none within 10 s of three", [...many(3, ["failure", 0]), ...many(3, ["failure", 10_000])], 3],
    ["allows a fifth of what comes at once", [...many(100, ["request", 0]), ...many(50, ["failure", 0])], 20],
    ["rounds down", [...many(24, ["request", 0]), ...many(50, ["failure", 0])], 4],
    [
      "does not count requests that some 10 s around the retries leave out",
      [...many(100, ["request", 0]), ...many(50, ["failure", 9000])],
      3,
    ],
    [
      "allows more when requests have come since",
      [...many(3, ["failure", 0]), ...many(20, ["request", 5]), ...many(9, ["failure", 6])],
      4,
    ],
    [
      "is not deceived by a clock that is set back a little",
      [...many(3, ["failure", 20_000]), ...many(3, ["failure", 15_000]), ...many(3, ["failure", 25_000])],
      3,
    ],
    [
      "is not deceived by a clock that is set back by hours, nor stopped by it",
      [
        ...many(5, ["failure", 9_000_000]),
        ...many(5, ["failure", 0]),
        ...many(5, ["failure", 10_000]),
        ...many(5, ["failure", 11_000]),
      ],
      6,
    ],
  ];
  test.each(rows)("P7 %s", (_, happenings, allowed) => {
    expect(retriesOf(happenings).length).toBe(allowed);
  });

  test("P7 is kept over every 10 s of traffic made at random", () => {
    let seed = 7;
    const next = (below: number) => (seed = (seed * 48_271) % 2_147_483_647) % below;
    let retried = 0;
    let refused = 0;
    for (let round = 0; round < 80; round++) {
      const stepMs = [1, 20, 200, 2000][round % 4]!;
      const failing = 1 + next(99);
      let at = next(1_000_000);
      const happenings = Array.from({ length: 300 }, (): Happening => {
        if (next(4) > 0) at += next(stepMs + 1);
        if (next(50) === 0) at += next(12_000);
        return [next(100) < failing ? "failure" : "request", at];
      });
      const retries = retriesOf(happenings);
      retried += retries.length;
      refused += happenings.filter(([what]) => what === "failure").length - retries.length;
      expect(brokenWindow(happenings, retries)).toBeNull();
    }
    expect(retried).toBeGreaterThan(1000);
    expect(refused).toBeGreaterThan(1000);
  });

  test("P7 gives away nothing that it could allow", () => {
    let seed = 11;
    const next = (below: number) => (seed = (seed * 48_271) % 2_147_483_647) % below;
    // Within one second nothing is rounded: a retry is refused only where it would break the promise.
    for (let round = 0; round < 200; round++) {
      const budget = new RetryBudget();
      const seen: Happening[] = [];
      const retries: number[] = [];
      for (let at = 0; at < 999; at += next(20)) {
        const what = next(5) === 0 ? "failure" : "request";
        if (what === "request") budget.countRequest(START + at);
        else if (budget.tryRetry(START + at)) retries.push(at);
        else expect(brokenWindow(seen, [...retries, at])).not.toBeNull();
        seen.push([what, at]);
      }
    }
  });

  test("P7 lets nearly every retry through where failures are rare, for hours", () => {
    const budget = new RetryBudget();
    let [failures, retries] = [0, 0];
    for (let request = 0; request < 100_000; request++) {
      const now = START + request * 100;
      budget.countRequest(now);
      if (request % 10 !== 0) continue;
      failures += 1;
      if (budget.tryRetry(now + 50)) retries += 1;
    }
    expect(retries).toBe(failures);
  });
});
