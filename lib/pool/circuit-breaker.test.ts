import { describe, expect, test } from "bun:test";
import { CircuitBreaker } from "./circuit-breaker.ts";

const NOW = Date.UTC(2026, 10, 20, 12);

/** A breaker that has seen so many failures in a row at `NOW`. */
function failedTimes(count: number): CircuitBreaker {
  const breaker = new CircuitBreaker();
  for (let failure = 0; failure < count; failure++) breaker.failed(NOW, false);
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
    breaker.answered();
    for (let failure = 0; failure < 4; failure++) expect(breaker.failed(NOW, false)).toBe(0);
    expect(breaker.state(NOW)).toBe("closed");
    expect(breaker.failed(NOW, false)).toBe(2000);
  });

  test("P10 doubles from 2 s to 15 s while its probes fail", () => {
    const breaker = failedTimes(5);
    const openings = [breaker.openUntil - NOW];
    for (let probe = 0; probe < 5; probe++) {
      const now = breaker.openUntil;
      expect(breaker.state(now)).toBe("half_open");
      breaker.probe();
      breaker.failed(now, true);
      openings.push(breaker.openUntil - now);
    }
    expect(openings).toEqual([2000, 4000, 8000, 15_000, 15_000, 15_000]);
  });

  test("P10 lets one probe through at a time", () => {
    const breaker = failedTimes(5);
    breaker.probe();
    expect(breaker.state(NOW + 2000)).toBe("probing");
    expect(breaker.state(NOW + 60_000)).toBe("probing");
  });

  test("P10 gets the slot of an abandoned probe back", () => {
    const breaker = failedTimes(5);
    breaker.probe();
    breaker.probeAbandoned();
    expect(breaker.state(NOW + 2000)).toBe("half_open");
  });

  test("P10 closes when the probe is answered, and begins at 2 s again", () => {
    const breaker = failedTimes(5);
    breaker.probe();
    breaker.failed(NOW + 2000, true);
    breaker.probe();
    breaker.answered();
    expect(breaker.state(NOW + 6000)).toBe("closed");
    const openMs = Array.from({ length: 5 }, () => breaker.failed(NOW + 6000, false));
    expect(openMs).toEqual([0, 0, 0, 0, 2000]);
  });

  test("P10 is not opened again by a straggler while the probe is under way", () => {
    const breaker = failedTimes(5);
    breaker.probe();
    expect(breaker.failed(NOW + 2500, false)).toBe(0);
    expect(breaker.state(NOW + 2500)).toBe("probing");
  });
});
