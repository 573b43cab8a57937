import { describe, expect, test } from "bun:test";
import { formatDuration, nextMidnight, parseDuration, retryAfterSec, systemClock } from "./clock.ts";

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

describe("a Retry-After", () => {
  const rows: [waitMs: number, sec: number][] = [
    [0, 1],
    [-5, 1],
    [1, 1],
    [999, 1],
    [1000, 1],
    [1001, 2],
    [59_001, 60],
    [DAY, 86_400],
  ];
  test.each(rows)("for %p ms is %p s: rounded up, never 0", (waitMs, sec) => {
    expect(retryAfterSec(waitMs)).toBe(sec);
  });
});

describe("a duration for people", () => {
  const rows: [durationMs: number, text: string][] = [
    [0, "0ms"],
    [850, "850ms"],
    [999, "999ms"],
    [1000, "1s"],
    [1001, "2s"],
    [42 * SECOND, "42s"],
    [119 * SECOND, "119s"],
    [119 * SECOND + 1, "2m"],
    [2 * MINUTE, "2m"],
    [3 * MINUTE + 20 * SECOND, "3m20s"],
    [3 * MINUTE + 5 * SECOND, "3m05s"],
    [119 * MINUTE + 59 * SECOND, "119m59s"],
    [119 * MINUTE + 59 * SECOND + 1, "2h00m"],
    [2 * HOUR + 5 * MINUTE, "2h05m"],
    [DAY, "24h00m"],
  ];
  test.each(rows)("%p ms is %s", (durationMs, text) => {
    expect(formatDuration(durationMs)).toBe(text);
  });

  test("just below a second is not a thousand milliseconds", () => {
    expect(formatDuration(999.7)).toBe("1s");
  });
});

describe("a duration as providers write it", () => {
  const rows: [text: string, durationMs: number | null][] = [
    ["1h2m3.4s", HOUR + 2 * MINUTE + 3400],
    ["6m0s", 6 * MINUTE],
    ["370ms", 370],
    ["34.07s", 34_070],
    ["1d", DAY],
    ["250us", 0.25],
    ["250µs", 0.25],
    ["  2s ", 2000],
    ["0s", 0],
    ["2m 3s", null],
    ["17", null],
    ["-2s", null],
    ["1.s", null],
    ["", null],
    ["s", null],
    ["2sec", null],
    ["1h2", null],
  ];
  test.each(rows)("%p is %p ms", (text, durationMs) => {
    const found = parseDuration(text);
    if (durationMs === null) expect(found).toBeNull();
    else expect(found).toBeCloseTo(durationMs, 6);
  });
});

describe("the next midnight", () => {
  const rows: [says: string, zone: string, now: string, midnight: string][] = [
    ["in UTC", "UTC", "2026-11-20T12:00:00.250Z", "2026-11-21T00:00:00Z"],
    ["at midnight is the one after", "UTC", "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"],
    ["a millisecond before", "UTC", "2026-11-20T23:59:59.999Z", "2026-11-21T00:00:00Z"],
    [
      "in the evening of the day before, west",
      "America/Los_Angeles",
      "2026-11-21T05:00:00Z",
      "2026-11-21T08:00:00Z",
    ],
    [
      "in the morning of the day after, east",
      "Asia/Shanghai",
      "2026-11-20T17:00:00Z",
      "2026-11-21T16:00:00Z",
    ],
    ["half an hour off", "Asia/Kolkata", "2026-11-20T12:00:00Z", "2026-11-20T18:30:00Z"],
    ["on a day of 25 hours", "America/Los_Angeles", "2026-11-01T07:30:00Z", "2026-11-02T08:00:00Z"],
    ["on a day of 23 hours", "America/Los_Angeles", "2026-03-08T08:30:00Z", "2026-03-09T07:00:00Z"],
    ["before the change of the same day", "Europe/Berlin", "2026-10-24T23:00:00Z", "2026-10-25T23:00:00Z"],
    [
      "where midnight itself is skipped, is when the day begins",
      "Africa/Cairo",
      "2026-04-23T12:00:00Z",
      "2026-04-23T22:00:00Z",
    ],
    [
      "in the last hour before a skipped midnight",
      "Africa/Cairo",
      "2026-04-23T21:30:00Z",
      "2026-04-23T22:00:00Z",
    ],
  ];
  test.each(rows)("%s", (_, zone, now, midnight) => {
    expect(new Date(nextMidnight(zone, Date.parse(now))).toISOString()).toBe(
      new Date(midnight).toISOString(),
    );
  });

  // Spring, when some zones skip midnight itself: a midnight in the past would begin the day again and again.
  test.each(["UTC", "America/Los_Angeles", "Africa/Cairo"])(
    "is always ahead, and at most 25 hours, in %s",
    (zone) => {
      const begin = Date.UTC(2026, 2, 6);
      for (let now = begin; now < begin + 50 * DAY; now += 3 * HOUR) {
        const waitMs = nextMidnight(zone, now) - now;
        if (waitMs <= 0 || waitMs > 25 * HOUR)
          throw new Error(`${new Date(now).toISOString()}: ${waitMs} ms`);
      }
    },
  );
});

describe("the system's clock", () => {
  test("fires once, and not after it was cancelled", async () => {
    let fired = 0;
    const cancel = systemClock.after(0, () => (fired += 100));
    cancel();
    cancel();
    await new Promise<void>((resolve) => {
      systemClock.after(-5, () => {
        fired += 1;
        resolve();
      });
    });
    expect(fired).toBe(1);
  });

  test("does not fire at once for a delay of more than 24.8 days", async () => {
    let fired = false;
    const cancel = systemClock.after(40 * DAY, () => (fired = true));
    await new Promise<void>((resolve) => systemClock.after(2, resolve));
    cancel();
    expect(fired).toBe(false);
  });
});
