import { describe, expect, test } from "bun:test";
import { decide } from "./retry-policy.ts";
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
