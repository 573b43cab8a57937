import { describe, expect, test } from "bun:test";
import { FalseClock } from "../testing/fixture.ts";
import { tidyWhenQuiet } from "./tidy.ts";

const SECOND = 1000;

describe("memory is given back", () => {
  /** What happens a second: how many requests come, and how many are under way at its end. */
  type Seconds = readonly (readonly [come: number, inFlight: number])[];
  const quiet = (seconds: number): Seconds => Array.from({ length: seconds }, () => [0, 0] as const);
  const rows: [says: string, seconds: Seconds, collections: number][] = [
    ["once after the start", quiet(20), 1],
    ["in two rounds more when many requests have come and gone", [...quiet(3), [1000, 0], ...quiet(8)], 3],
    ["after the start under load in these two rounds", [[1000, 0], ...quiet(8)], 2],
    ["not after a few requests", [...quiet(3), [20, 0], ...quiet(20)], 1],
    [
      "after a few requests again and again",
      [...Array.from({ length: 12 }, () => [20, 0] as const), ...quiet(8)],
      2,
    ],
    ["not while a stream runs", [[1000, 1], ...Array.from({ length: 20 }, () => [0, 1] as const)], 0],
    ["when the last stream is over", [[1000, 1], [0, 1], [0, 1], [0, 1], ...quiet(8)], 2],
    ["not while requests come", Array.from({ length: 20 }, () => [100, 0] as const), 0],
    ["once more after another load", [[1000, 0], ...quiet(10), [1000, 0], ...quiet(10)], 4],
  ];
  test.each(rows)("%s", async (_, seconds, collections) => {
    const clock = new FalseClock();
    const engine = { inFlight: 0, arrivals: 0, clock };
    let collected = 0;
    const end = tidyWhenQuiet(engine, () => (collected += 1));
    for (const [come, inFlight] of seconds) {
      engine.arrivals += come;
      engine.inFlight = inFlight;
      await clock.advance(SECOND);
    }
    end();
    expect(collected).toBe(collections);
    await clock.advance(60 * SECOND);
    expect(collected).toBe(collections);
  });
});
