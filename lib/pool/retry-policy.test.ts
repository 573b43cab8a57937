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
const STALE: Setback = { ...RESET, isStale: true };
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

describe("a connection that had died while it was idle", () => {
  test.each<[sentence: string, bounds: Partial<Policy>, pauseMs: number]>([
    ["is replaced at once", {}, 0],
    ["is replaced at once where another target stands behind", { hasFallback: true }, 0],
    ["is replaced at once where no time is left to wait", { waitUntil: NOW }, 0],
  ])("P3 %s", (_, bounds, pauseMs) => {
    expect(decideAfter(STALE, {}, bounds)).toEqual({ do: "back_off", pauseMs, replaysMaybeBilled: true });
  });

  test("P2 goes to the other target where the upstream had failed before", () => {
    expect(decideAfter(STALE, { upstreamFaults: 1 }, { hasFallback: true }).do).toBe("fall_back");
  });
});

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
    ["P3 replays once what met a connection that had died while it was idle", STALE, {}, BACK_OFF],
    ["P3 does not replay that after a replay", STALE, replayed, GIVE_UP],
    ["P2 ends with the attempts, on a connection that had died while it was idle", STALE, last, GIVE_UP],
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

  test.each<[sentence: string, Setback, hasFallback: boolean, Decision["do"]]>([
    ["waits with a connection that was refused", REFUSED, false, "wait"],
    [
      "waits with a connection that was not made in time",
      { ...REFUSED, type: "connect_timeout" },
      false,
      "wait",
    ],
    ["passes on what a busy upstream said", BUSY, false, GIVE_UP],
    ["does not send again what may have been billed", RESET, false, GIVE_UP],
    ["does not send again what failed", FAILED, false, GIVE_UP],
    ["goes to another target where there is one", REFUSED, true, "fall_back"],
    ["takes another key after a 429", LIMITED, false, ROTATE],
  ])("P7 without room for a retry %s", (_, setback, hasFallback, expected) => {
    expect(decideAfter(setback, {}, { mayRetry: false, hasFallback }).do).toBe(expected);
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

const many = (count: number, happening: Happening): Happening[] => Array(count).fill(happening);

/** When retries were allowed. */
function retriesOf(happenings: readonly Happening[]): number[] {
  const budget = new RetryBudget();
  return happenings.flatMap(([what, atMs]) => {
    if (what === "request") budget.countRequest();
    if (what === "request" || budget.readyAt > NOW + atMs) return [];
    budget.spend(NOW + atMs);
    return [atMs];
  });
}

describe("the retry budget", () => {
  const rows: [says: string, happenings: Happening[], allowed: number][] = [
    ["allows three retries without any request", many(9, ["failure", 0]), 3],
    ["allows three after a quiet time, and three more", [...many(5, ["failure", 0]), ...many(5, ["failure", 11_001])], 6],
    ["allows none within 10 s of three", [...many(3, ["failure", 0]), ...many(3, ["failure", 9999])], 3],
    ["allows no burst as long as retries go on", [...many(3, ["failure", 0]), ["failure", 10_000], ["failure", 19_999], ["failure", 19_999], ["failure", 19_999]], 6],
    ["allows a fifth of the requests that come while it is used up", [...many(3, ["failure", 0]), ...many(20, ["request", 5]), ...many(9, ["failure", 6])], 7],
    ["counts a part of a retry as none", [...many(3, ["failure", 0]), ...many(4, ["request", 5]), ...many(9, ["failure", 6])], 3],
    ["saves no more than ten, however many requests came before", [...many(5000, ["request", 0]), ...many(50, ["failure", 0])], 10],
    ["is not filled above that by a quiet time", [...many(5000, ["request", 0]), ...many(50, ["failure", 90_000])], 10],
  ]; // prettier-ignore
  test.each(rows)("P7 %s", (_, happenings, allowed) => {
    expect(retriesOf(happenings).length).toBe(allowed);
  });

  test("P7 tells when there is room again, and that requests bring it nearer", () => {
    const budget = new RetryBudget();
    for (let retry = 0; retry < 3; retry++) budget.spend(NOW);
    expect(budget.readyAt).toBe(NOW + 10_000);
    for (let request = 0; request < 5; request++) budget.countRequest();
    expect(budget.readyAt).toBeLessThanOrEqual(NOW);
  });

  // What may be saved, a burst for each quiet time of 10 s, and a fifth of the requests.
  test("P7 is kept over every stretch of traffic made at random", () => {
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
      for (const from of retries) {
        for (const lengthMs of [100, 1000, 10_000, 60_000]) {
          const inside = ([, when]: Happening) => when >= from && when < from + lengthMs;
          const made = retries.filter((when) => inside(["failure", when])).length;
          const asked = happenings.filter((one) => one[0] === "request" && inside(one)).length;
          expect(made).toBeLessThanOrEqual(10 + 3 * Math.ceil(lengthMs / 10_000) + asked / 5);
        }
      }
    }
    expect(retried).toBeGreaterThan(1000);
    expect(refused).toBeGreaterThan(1000);
  });

  test("P7 lets nearly every retry through where failures are rare, for hours", () => {
    const budget = new RetryBudget();
    let [failures, retries] = [0, 0];
    for (let request = 0; request < 100_000; request++) {
      const now = NOW + request * 100;
      budget.countRequest();
      if (request % 10 !== 0) continue;
      failures += 1;
      if (budget.readyAt > now + 50) continue;
      retries += 1;
      budget.spend(now + 50);
    }
    expect(retries).toBe(failures);
  });
});
