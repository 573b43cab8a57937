import { describe, expect, test } from "bun:test";
import { Load } from "./load.ts";
import type { LoadLimits } from "./load.ts";

const LIMITS: LoadLimits = { maxBodyBytes: 32, maxInFlight: 16, maxBufferedBytes: 256 };

describe("the room for more bytes of a client's", () => {
  const rows: [says: string, own: number, others: number, limits: Partial<LoadLimits>, room: number][] = [
    ["leaves an eighth to newcomers where the client is alone", 0, 0, {}, 224],
    ["is less by what it has", 200, 0, {}, 24],
    ["is a half where somebody else has a byte", 0, 1, {}, 128],
    ["is none where it has more than half when somebody else comes", 200, 1, {}, -72],
    ["is what the others leave", 0, 240, {}, 16],
    ["is none where the others have it all", 0, 256, {}, 0],
    ["leaves a whole body to newcomers", 0, 0, { maxBufferedBytes: 128 }, 96],
    ["is half at least", 0, 0, { maxBufferedBytes: 64, maxBodyBytes: 40 }, 40],
    ["is one whole body for who has none, beside others", 0, 10, { maxBufferedBytes: 48 }, 32],
    ["is one whole body where no more than one fits", 0, 0, { maxBufferedBytes: 32 }, 32],
    ["is all there is where that is less than a body", 0, 0, { maxBufferedBytes: 20 }, 20],
  ];
  test.each(rows)("P43 %s", (_, own, others, limits, room) => {
    const load = new Load();
    const share = load.shareOf("one");
    share.hold(own);
    load.shareOf("another").hold(others);
    expect(share.room({ ...LIMITS, ...limits })).toBe(room);
  });
});

describe("requests in flight of a client", () => {
  /** How many of so many requests are let in. */
  const letIn = (load: Load, client: string, count: number, limits = LIMITS) =>
    Array.from({ length: count }, () => load.shareOf(client).enter(limits)).filter((isLetIn) => isLetIn)
      .length;

  const rows: [says: string, max: number, before: number, letIn: number][] = [
    ["are all but an eighth where it is alone", 16, 0, 14],
    ["are half where somebody else has one", 16, 1, 8],
    ["are what the others leave", 16, 14, 2],
    ["are all where few are allowed", 2, 0, 2],
    ["are one where only one is allowed", 1, 0, 1],
    ["are none where the others are as many as are allowed", 2, 2, 0],
  ];
  test.each(rows)("P43 %s", (_, maxInFlight, before, expected) => {
    const load = new Load();
    const limits = { ...LIMITS, maxInFlight };
    letIn(load, "another", before, limits);
    expect(letIn(load, "one", maxInFlight, limits)).toBe(expected);
  });

  test("count until they are over, let in or not", () => {
    const load = new Load();
    const share = load.shareOf("one");
    letIn(load, "one", 20);
    expect([load.inFlight, share.inFlight]).toEqual([20, 20]);
    for (let count = 0; count < 20; count++) share.leave();
    expect([load.inFlight, share.inFlight]).toEqual([0, 0]);
    expect(letIn(load, "one", 1)).toBe(1);
  });
});

describe("what is known of clients", () => {
  test("is the same for all requests of one, and forgotten where there are many and it has none", () => {
    const load = new Load();
    const busy = load.shareOf("busy");
    busy.enter(LIMITS);
    const idle = load.shareOf("idle");
    expect([load.shareOf("busy"), load.shareOf("idle")]).toEqual([busy, idle]);
    for (let count = 0; count < 3000; count++) load.shareOf(`passer-by ${count}`);
    expect(load.shareOf("busy")).toBe(busy);
    expect(load.shareOf("idle")).not.toBe(idle);
  });
});
