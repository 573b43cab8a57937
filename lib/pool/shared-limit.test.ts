import { describe, expect, test } from "bun:test";
import { SharedLimit } from "./shared-limit.ts";

const NOW = Date.UTC(2026, 10, 20, 12);
const SEC = 1000;
const HOUR = 3_600_000;

interface ProxyError {
  account: string;
  /** Ms after `NOW`. */
  atMs: number;
}

/** Refusals as `account@seconds`, in order. */
function refusalsOf(text: string): ProxyError[] {
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
    isCommon = cause.suspects(
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
  cause.refused(NOW - SEC, NOW);
  return cause;
}

/** How many may be sent at once, as they come. */
function sendsAtOnce(cause: SharedLimit, now: number): number {
  let count = 0;
  while (count < 100 && cause.readyAt(now) <= now) {
    cause.sends(now);
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
    cause.refused(NOW - 2000, NOW - 1000);
    let undone = 0;
    const suspicion = { account: {}, request: {}, isNear: false, undo: () => undone++, at: NOW };
    expect([cause.isKnown, cause.suspects(suspicion, 5), undone]).toEqual([true, false, 0]);
    for (let at = NOW; at < NOW + 12 * SEC; at += SEC) {
      cause.sends(at);
      cause.bears(at, at + 100);
      cause.ends(at, { hadBegun: true, isCounted: true }, at + 200);
    }
    cause.refused(NOW + 11 * SEC, NOW + 12 * SEC);
    const later = { ...suspicion, account: {}, at: NOW + 13 * SEC };
    expect([cause.suspects(later, 5), undone]).toEqual([true, 1]);
    expect(cause.suspects({ ...later, account: {} }, 1)).toBe(false);
  });

  test("P11 is seen where one request is refused by three keys, however near their limits they were", () => {
    const cause = new SharedLimit();
    const request = {};
    const refuse = (account: object, of: object) =>
      cause.suspects({ account, request: of, isNear: true, undo() {}, at: NOW }, 5);
    expect([refuse({ a: 1 }, request), refuse({ b: 1 }, {}), refuse({ c: 1 }, request)]).toEqual([
      false,
      false,
      false,
    ]);
    expect(refuse({ d: 1 }, request)).toBe(true);
  });

  test("stands in nobody's way while there is none", () => {
    const cause = new SharedLimit();
    cause.bears(NOW, NOW);
    cause.ends(NOW, { hadBegun: true, isCounted: false }, NOW);
    expect([cause.isKnown, sendsAtOnce(cause, NOW), cause.readyAt(NOW)]).toEqual([false, 100, 0]);
  });

  test("P11 lets one through at first, and the next when its answer has begun or no refusal came", () => {
    const cause = knownCause();
    expect(sendsAtOnce(cause, NOW)).toBe(1);
    expect([cause.readyAt(NOW), cause.readyAt(NOW + 2999)]).toEqual([NOW + 3 * SEC, NOW + 3 * SEC]);
    expect(cause.readyAt(NOW + 3 * SEC)).toBeLessThanOrEqual(NOW + 3 * SEC);
    cause.bears(NOW, NOW + SEC);
    expect(cause.readyAt(NOW + SEC)).toBeLessThanOrEqual(NOW + SEC);
  });

  test("P11 lets twice as many through with each round that is answered", () => {
    const cause = knownCause();
    const rounds: number[] = [];
    let now = NOW;
    for (let round = 0; round < 4; round++) {
      const sent = sendsAtOnce(cause, now);
      rounds.push(sent);
      for (let answer = 0; answer < sent; answer++) cause.bears(now, now + 500);
      now += 20 * SEC;
    }
    expect(rounds).toEqual([1, 2, 4, 8]);
  });

  test("P11 lets one through again after another refusal", () => {
    const cause = knownCause();
    for (let round = 0; round < 2; round++) {
      const sent = sendsAtOnce(cause, NOW + round * SEC);
      for (let answer = 0; answer < sent; answer++) cause.bears(NOW + round * SEC, NOW + round * SEC);
    }
    cause.refused(NOW - SEC, NOW + 2 * SEC);
    expect(sendsAtOnce(cause, NOW + 30 * SEC)).toBe(1);
  });

  test("P11 gives the place of one back that ended without an answer", () => {
    const cause = knownCause();
    cause.sends(NOW);
    cause.ends(NOW, { hadBegun: false, isCounted: false }, NOW + SEC);
    expect(sendsAtOnce(cause, NOW + SEC)).toBe(1);
  });

  test("P11 counts nothing that was sent before it was known", () => {
    const cause = knownCause();
    for (let answer = 0; answer < 5; answer++) {
      cause.bears(NOW - 1, NOW);
      cause.ends(NOW - 1, { hadBegun: false, isCounted: true }, NOW);
    }
    expect(sendsAtOnce(cause, NOW)).toBe(1);
  });

  test("P11 is forgotten when nobody met it for an hour", () => {
    const cause = knownCause();
    cause.readyAt(NOW + HOUR);
    expect(cause.isKnown).toBe(true);
    expect(cause.readyAt(NOW + HOUR + 1)).toBe(0);
    expect([cause.isKnown, sendsAtOnce(cause, NOW + HOUR + 1)]).toEqual([false, 100]);
  });

  test("P11 is remembered for an hour more when somebody had to wait for it, or was refused", () => {
    const cause = knownCause();
    cause.sends(NOW + HOUR / 2);
    cause.readyAt(NOW + HOUR / 2); // has to wait
    cause.readyAt(NOW + 1.5 * HOUR);
    expect(cause.isKnown).toBe(true);
    cause.refused(NOW - SEC, NOW + 1.5 * HOUR);
    cause.readyAt(NOW + 2.5 * HOUR);
    expect(cause.isKnown).toBe(true);
    cause.readyAt(NOW + 2.5 * HOUR + 1);
    expect(cause.isKnown).toBe(false);
  });
});
