import { describe, expect, test } from "bun:test";
import { RetryBudget } from "./retry-budget.ts";

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
