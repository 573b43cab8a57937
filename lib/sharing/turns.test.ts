import { describe, expect, test } from "bun:test";
import { turnBeginsAt } from "./turns.ts";

const IDS = ["b", "a", "c"];
const START = Date.UTC(2026, 10, 20, 12);
const hasTurn = (id: string, seed: number, date: number, ids = IDS) =>
  turnBeginsAt(ids, id, seed, date) <= date;

describe("P48 turns near a limit that nobody knows exactly", () => {
  test("are never of two instances at once, and of each for the same time", () => {
    const held = new Map<string, number>();
    for (let date = START; date < START + 30_000; date += 10) {
      const now = IDS.filter((id) => hasTurn(id, 7, date));
      expect(now.length).toBeLessThanOrEqual(1);
      for (const id of now) held.set(id, (held.get(id) ?? 0) + 10);
    }
    expect([...held.values()]).toEqual([8500, 8500, 8500]);
  });

  test("leave time for the news of the turn before", () => {
    for (let date = START; date < START + 6000; date += 1000)
      expect(IDS.filter((id) => hasTurn(id, 0, date + 149))).toEqual([]);
  });

  test("begin when they say", () => {
    for (const id of IDS) {
      const at = turnBeginsAt(IDS, id, 3, START);
      expect(hasTurn(id, 3, Math.max(at, START + 150))).toBe(true);
      expect(at).toBeLessThan(START + 3000);
    }
  });

  test("differ from key to key, so that nobody waits for all of them", () => {
    const firsts = [0, 1, 2].map((seed) => IDS.find((id) => hasTurn(id, seed, START + 500)));
    expect(new Set(firsts).size).toBe(3);
  });

  test("do not depend on the order in which instances were heard of", () => {
    for (const id of IDS)
      expect(turnBeginsAt(["c", "b", "a"], id, 5, START)).toBe(turnBeginsAt(IDS, id, 5, START));
  });

  test.each([
    ["alone", ["a"], "a"],
    ["not among them", ["b", "c"], "a"],
  ])("are always of one that is %s", (_, ids, own) => {
    expect(turnBeginsAt(ids, own, 1, START)).toBe(0);
  });
});
