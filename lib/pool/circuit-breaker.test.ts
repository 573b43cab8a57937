import { describe, expect, test } from "bun:test";
import { CircuitBreaker, SharedLimit } from "./circuit-breaker.ts";

const NOW = Date.UTC(2026, 10, 20, 12);

/** A breaker that has seen so many failures in a row at `NOW`. */
function failedTimes(count: number): CircuitBreaker {
  const breaker = new CircuitBreaker();
  for (let failure = 0; failure < count; failure++) breaker.onFailed(NOW, false);
  return breaker;
}

describe("a breaker", () => {
  test.each<[sentence: string, failures: number, sinceMs: number, ReturnType<CircuitBreaker["state"]>]>([
    ["P10 is closed at first", 0, 0, "closed"],
    ["P10 stays closed after four failures", 4, 0, "closed"],
    ["P10 opens after the fifth in a row", 5, 0, "open"],
    ["P10 is open for 2 s", 5, 1999, "open"],
    ["P10 lets one try after 2 s", 5, 2000, "half_open"],
    ["P10 is not kept open by attempts that were under way", 12, 2000, "half_open"],
    ["P10 does not close by itself", 5, 3_600_000, "half_open"],
  ])("%s", (_, failures, sinceMs, state) => {
    expect(failedTimes(failures).state(NOW + sinceMs)).toBe(state);
  });

  test("P10 counts failures in a row only", () => {
    const breaker = failedTimes(4);
    breaker.onAnswered();
    for (let failure = 0; failure < 4; failure++) expect(breaker.onFailed(NOW, false)).toBe(0);
    expect(breaker.state(NOW)).toBe("closed");
    expect(breaker.onFailed(NOW, false)).toBe(2000);
  });

  test("P10 doubles from 2 s to 15 s while its probes fail", () => {
    const breaker = failedTimes(5);
    const openings = [breaker.openUntil - NOW];
    for (let probe = 0; probe < 5; probe++) {
      const now = breaker.openUntil;
      expect(breaker.state(now)).toBe("half_open");
      breaker.startTrial();
      breaker.onFailed(now, true);
      openings.push(breaker.openUntil - now);
    }
    expect(openings).toEqual([2000, 4000, 8000, 15_000, 15_000, 15_000]);
  });

  test("P10 lets one probe through at a time", () => {
    const breaker = failedTimes(5);
    breaker.startTrial();
    expect(breaker.state(NOW + 2000)).toBe("trial");
    expect(breaker.state(NOW + 60_000)).toBe("trial");
  });

  test("P10 gets the slot of an abandoned probe back", () => {
    const breaker = failedTimes(5);
    breaker.startTrial();
    breaker.abandonTrial();
    expect(breaker.state(NOW + 2000)).toBe("half_open");
  });

  test("P10 closes when the probe is answered, and begins at 2 s again", () => {
    const breaker = failedTimes(5);
    breaker.startTrial();
    breaker.onFailed(NOW + 2000, true);
    breaker.startTrial();
    breaker.onAnswered();
    expect(breaker.state(NOW + 6000)).toBe("closed");
    const openMs = Array.from({ length: 5 }, () => breaker.onFailed(NOW + 6000, false));
    expect(openMs).toEqual([0, 0, 0, 0, 2000]);
  });

  test("P10 is not opened again by a straggler while the probe is under way", () => {
    const breaker = failedTimes(5);
    breaker.startTrial();
    expect(breaker.onFailed(NOW + 2500, false)).toBe(0);
    expect(breaker.state(NOW + 2500)).toBe("trial");
  });
});

const SEC = 1000;
const HOUR = 3_600_000;

interface OneRefusal {
  account: string;
  /** Ms after `NOW`. */
  atMs: number;
}

/** Refusals as `account@seconds`, in order. */
function refusalsOf(text: string): OneRefusal[] {
  return text.split(" ").map((item) => {
    const [account = "", sec = "0"] = item.split("@");
    return { account, atMs: Number(sec) * SEC };
  });
}

const ACCOUNTS = new Map([..."abcde"].map((name) => [name, { name }]));
const accountOf = (name: string) => ACCOUNTS.get(name) ?? {};

/** What was taken back by the end, and whether the last refusal was for a common cause. */
function suspected(refusals: string, accounts: number): { isCommon: boolean; undone: string[] } {
  const cause = new SharedLimit();
  const undone: string[] = [];
  let isCommon = false;
  for (const { account, atMs } of refusalsOf(refusals)) {
    const undo = () => undone.push(`${account}@${atMs / SEC}`);
    const before = undone.length;
    isCommon = cause.onRefusedOne(
      { account: accountOf(account), request: {}, isNear: false, undo, at: NOW + atMs },
      accounts,
    );
    undone.push(...undone.splice(before).toReversed()); // the last first
  }
  return { isCommon, undone };
}

/** A limit that all keys share, known since `NOW`. */
function knownCause(): SharedLimit {
  const cause = new SharedLimit();
  cause.onRefusedAll(NOW - SEC, NOW);
  return cause;
}

/** How many may be sent at once, as they come. */
function sendsAtOnce(cause: SharedLimit, now: number): number {
  let count = 0;
  while (count < 100 && cause.readyAt(now) <= now) {
    cause.onSent(now);
    count += 1;
  }
  return count;
}

describe("a common cause", () => {
  test.each<[sentence: string, refusals: string, accounts: number, isCommon: boolean, undone: string]>([
    ["P11 is not seen in one refusal", "a", 5, false, ""],
    ["P11 is not seen in two keys of five", "a b", 5, false, ""],
    ["P11 is seen in three keys, and all is taken back", "a b@1 c@2", 5, true, "a@0 b@1 c@2"],
    ["P11 is seen in two keys where there are only two", "a b@1", 2, true, "a@0 b@1"],
    ["P11 is never seen where there is only one key", "a a@1 a@2", 1, false, ""],
    ["P11 is not seen in one key that is refused three times", "a a@1 a@2", 5, false, ""],
    ["P11 is not seen in two keys that take turns", "a b@1 a@2 b@3", 5, false, ""],
    ["P11 is seen within ten seconds", "a b@5 c@9.999", 5, true, "a@0 b@5 c@9.999"],
    ["P11 is not seen where it takes longer", "a b@5 c@10", 5, false, ""],
    [
      "P11 is seen in the last three, and only theirs is taken back",
      "a b@9 c@10 d@11",
      5,
      true,
      "b@9 c@10 d@11",
    ],
    ["P11 begins anew when it was found", "a b c d", 5, false, "a@0 b@0 c@0"],
    ["P11 is found again in three others", "a b c d e a", 5, true, "a@0 b@0 c@0 d@0 e@0 a@0"],
    ["P11 counts a key that was refused again from then on", "a b@8 a@9 c@12", 5, true, "b@8 a@9 c@12"],
  ])("%s", (_, refusals, accounts, isCommon, undone) => {
    const found = suspected(refusals, accounts);
    expect(found).toEqual({ isCommon, undone: undone === "" ? [] : undone.split(" ") });
  });

  // An account was refused for two models of limits of their own before two others were: it went on resting for
  // the first of them.
  test("P11 takes back all that a key was charged with, if it was several times", () => {
    expect(suspected("a a@1 b@2 c@3", 5).undone.toSorted()).toEqual(["a@0", "a@1", "b@2", "c@3"]);
  });

  test("P11 is seen in a single refusal once a limit is known and used up, with that one taken back", () => {
    const cause = new SharedLimit();
    cause.onRefusedAll(NOW - 2000, NOW - 1000);
    let undone = 0;
    const suspicion = { account: {}, request: {}, isNear: false, undo: () => undone++, at: NOW };
    expect([cause.isKnown(NOW), cause.onRefusedOne(suspicion, 5), undone]).toEqual([true, false, 0]);
    for (let at = NOW; at < NOW + 12 * SEC; at += SEC) {
      cause.onSent(at);
      cause.onResponseStarted(at, at + 100);
      cause.onEnded(at, { hasStarted: true, isCounted: true }, at + 200);
    }
    cause.onRefusedAll(NOW + 11 * SEC, NOW + 12 * SEC);
    const later = { ...suspicion, account: {}, at: NOW + 13 * SEC };
    expect([cause.onRefusedOne(later, 5), undone]).toEqual([true, 1]);
    expect(cause.onRefusedOne({ ...later, account: {} }, 1)).toBe(false);
  });

  test("P11 is seen where one request is refused by three keys, however near their limits they were", () => {
    const cause = new SharedLimit();
    const request = {};
    const refuse = (account: object, of: object) =>
      cause.onRefusedOne({ account, request: of, isNear: true, undo() {}, at: NOW }, 5);
    expect([refuse({ a: 1 }, request), refuse({ b: 1 }, {}), refuse({ c: 1 }, request)]).toEqual([
      false,
      false,
      false,
    ]);
    expect(refuse({ d: 1 }, request)).toBe(true);
  });

  test("stands in nobody's way while there is none", () => {
    const cause = new SharedLimit();
    cause.onResponseStarted(NOW, NOW);
    cause.onEnded(NOW, { hasStarted: true, isCounted: false }, NOW);
    expect([cause.isKnown(NOW), sendsAtOnce(cause, NOW), cause.readyAt(NOW)]).toEqual([false, 100, 0]);
  });

  test("P11 lets one through at first, and the next when its answer has begun or no refusal came", () => {
    const cause = knownCause();
    expect(sendsAtOnce(cause, NOW)).toBe(1);
    expect([cause.readyAt(NOW), cause.readyAt(NOW + 2999)]).toEqual([NOW + 3 * SEC, NOW + 3 * SEC]);
    expect(cause.readyAt(NOW + 3 * SEC)).toBeLessThanOrEqual(NOW + 3 * SEC);
    cause.onResponseStarted(NOW, NOW + SEC);
    expect(cause.readyAt(NOW + SEC)).toBeLessThanOrEqual(NOW + SEC);
  });

  test("P11 lets twice as many through with each round that is answered", () => {
    const cause = knownCause();
    const rounds: number[] = [];
    let now = NOW;
    for (let round = 0; round < 4; round++) {
      const sent = sendsAtOnce(cause, now);
      rounds.push(sent);
      for (let answer = 0; answer < sent; answer++) cause.onResponseStarted(now, now + 500);
      now += 20 * SEC;
    }
    expect(rounds).toEqual([1, 2, 4, 8]);
  });

  test("P11 lets one through again after another refusal", () => {
    const cause = knownCause();
    for (let round = 0; round < 2; round++) {
      const sent = sendsAtOnce(cause, NOW + round * SEC);
      for (let answer = 0; answer < sent; answer++)
        cause.onResponseStarted(NOW + round * SEC, NOW + round * SEC);
    }
    cause.onRefusedAll(NOW - SEC, NOW + 2 * SEC);
    expect(sendsAtOnce(cause, NOW + 30 * SEC)).toBe(1);
  });

  test("P11 gives the place of one back that ended without an answer", () => {
    const cause = knownCause();
    cause.onSent(NOW);
    cause.onEnded(NOW, { hasStarted: false, isCounted: false }, NOW + SEC);
    expect(sendsAtOnce(cause, NOW + SEC)).toBe(1);
  });

  test("P11 counts nothing that was sent before it was known", () => {
    const cause = knownCause();
    for (let answer = 0; answer < 5; answer++) {
      cause.onResponseStarted(NOW - 1, NOW);
      cause.onEnded(NOW - 1, { hasStarted: false, isCounted: true }, NOW);
    }
    expect(sendsAtOnce(cause, NOW)).toBe(1);
  });

  test("P11 is forgotten when nobody met it for an hour", () => {
    const cause = knownCause();
    expect(cause.isKnown(NOW + HOUR)).toBe(true);
    expect(cause.readyAt(NOW + HOUR + 1)).toBe(0);
    expect([cause.isKnown(NOW + HOUR + 1), sendsAtOnce(cause, NOW + HOUR + 1)]).toEqual([false, 100]);
  });

  test("P11 is remembered for an hour more when somebody had to wait for it, or was refused", () => {
    const cause = knownCause();
    cause.onBlocked(NOW + HOUR / 2);
    expect(cause.isKnown(NOW + 1.5 * HOUR)).toBe(true);
    cause.onRefusedAll(NOW - SEC, NOW + 1.5 * HOUR);
    expect([cause.isKnown(NOW + 2.5 * HOUR), cause.isKnown(NOW + 2.5 * HOUR + 1)]).toEqual([true, false]);
  });

  test("P11 is not forgotten by being asked about", () => {
    const cause = knownCause();
    cause.onSent(NOW);
    const asked = [NOW, NOW + 2 * HOUR, NOW].map((at) => cause.readyAt(at));
    expect(asked).toEqual([NOW + 3 * SEC, 0, NOW + 3 * SEC]);
  });

  test("P11 begins anew with the next refusal of everybody once it was forgotten", () => {
    const cause = knownCause();
    cause.onRefusedAll(NOW + 2 * HOUR - SEC, NOW + 2 * HOUR);
    expect(sendsAtOnce(cause, NOW + 2 * HOUR)).toBe(1);
  });
});
