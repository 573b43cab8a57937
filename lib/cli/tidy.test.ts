import { describe, expect, test } from "bun:test";
import { FalseClock } from "../testing/fixture.ts";
import { tidyWhenQuiet } from "./tidy.ts";

const SECOND = 1000;

describe("memory is given back", () => {
  /** What happens a second: how many requests come, and how many are under way at its end. */
  type Seconds = readonly (readonly [come: number, inFlight: number])[];
  const quiet = (seconds: number): Seconds => Array.from({ length: seconds }, () => [0, 0] as const);
  const steadily = (seconds: number, come: number, inFlight: number): Seconds =>
    Array.from({ length: seconds }, () => [come, inFlight] as const);
  const rows: [says: string, seconds: Seconds, given: string][] = [
    ["once after the start", quiet(20), "code"],
    [
      "in two rounds when many requests have come and gone, and compiled code after them",
      [[1000, 0], ...quiet(9)],
      "collect collect code",
    ],
    ["after the start and after a load", [...quiet(9), [1000, 0], ...quiet(9)], "code collect collect code"],
    ["not in a short pause", [[1000, 0], ...quiet(4), [1000, 0], ...quiet(4)], ""],
    [
      "but not the code where the next requests come soon",
      [[1000, 0], ...quiet(6), [9, 0]],
      "collect collect",
    ],
    [
      "and the code when these have gone, too",
      [[1000, 0], ...quiet(6), [9, 0], ...quiet(9)],
      "collect collect collect collect code",
    ],
    ["not after a few requests", [...quiet(9), [20, 0], ...quiet(20)], "code"],
    ["after a few requests again and again", [...steadily(12, 20, 0), ...quiet(9)], "collect collect code"],
    ["not while a stream runs", [[1000, 1], ...steadily(20, 0, 1)], ""],
    ["when the last stream is over", [[1000, 1], ...steadily(3, 0, 1), ...quiet(9)], "collect collect code"],
    ["not while requests come", steadily(20, 100, 0), ""],
    [
      "once more after another load",
      [[1000, 0], ...quiet(10), [1000, 0], ...quiet(10)],
      "collect collect code collect collect code",
    ],
  ];
  test.each(rows)("%s", async (_, seconds, expected) => {
    const clock = new FalseClock();
    const engine = { inFlight: 0, arrivals: 0, clock };
    const given: string[] = [];
    const end = tidyWhenQuiet(engine, {
      collect: () => given.push("collect"),
      dropCode: () => given.push("code"),
    });
    for (const [come, inFlight] of seconds) {
      engine.arrivals += come;
      engine.inFlight = inFlight;
      await clock.advance(SECOND);
    }
    end();
    expect(given.join(" ")).toBe(expected);
    await clock.advance(60 * SECOND);
    expect(given.join(" ")).toBe(expected);
  });
});
