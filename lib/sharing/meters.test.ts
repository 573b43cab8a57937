import { describe, expect, test } from "bun:test";
import type { ExactLimits, Full, Place } from "../pool/exact-limits.ts";
import { SharedMeter } from "./meters.ts";
import type { LeaseAnswer, MeterHost } from "./meters.ts";

const DAY_END = Date.UTC(2026, 10, 21);
const MINUTE: ExactLimits = {
  perMinute: 10,
  windowMs: 60_000,
  perDay: null,
  tokensPerDay: null,
  dayEndsOn: DAY_END,
};
const DAY: ExactLimits = { ...MINUTE, perMinute: null, perDay: 30 };

/** One instance whose server answers by script; null: it is silent. */
class Host implements MeterHost {
  time = 1_000_000;
  instanceCount = 3;
  aloneEpoch = 0;
  isSettling = false;
  answer: ((number: number) => Partial<LeaseAnswer> | null) | null = null;
  asked = 0;
  #number = 0;

  now(): number {
    return this.time;
  }

  nextNumber(): number {
    this.#number += 1;
    return this.#number;
  }

  async askServer(_meter: SharedMeter, number: number): Promise<LeaseAnswer | null> {
    this.asked += 1;
    await Promise.resolve();
    const told = this.answer?.(number) ?? null;
    if (told === null) this.aloneEpoch = 1;
    const nothing = {
      usedOfMinute: 0,
      othersRequests: 0,
      othersTokens: 0,
      waitMs: 0,
      what: "minute",
    } as const;
    return told && { isGranted: true, ...nothing, ...told };
  }

  changed(): void {}
}

async function askTimes(meter: SharedMeter, limits: ExactLimits, times: number): Promise<(Place | Full)[]> {
  const patience = { serverMs: 50 };
  return Promise.all(Array.from({ length: times }, () => meter.ask(limits, [], patience)));
}

const granted = (answers: readonly (Place | Full)[]) => answers.filter(({ kind }) => kind === "place").length;

describe("P48 an exact limit over several instances", () => {
  test("is the server's to say while it answers", async () => {
    const host = new Host();
    host.answer = (number) => ({ isGranted: number <= 4, waitMs: 700, usedOfMinute: number });
    const meter = new SharedMeter("k", host);
    const answers = await askTimes(meter, MINUTE, 6);
    expect(granted(answers)).toBe(4);
    expect(answers[5]).toEqual({ kind: "full", what: "minute", readyAt: host.time + 700 });
    expect(meter.requests).toBe(4);
  });

  test("leaves an instance that is alone its share of what was left of the minute", async () => {
    const host = new Host();
    host.answer = () => ({ usedOfMinute: 4 }); // three of others, and this one
    const meter = new SharedMeter("k", host);
    await askTimes(meter, MINUTE, 1);
    host.answer = null;
    expect(granted(await askTimes(meter, MINUTE, 8))).toBe(2); // a third of the six that were left
    expect(host.asked).toBe(9); // all were under way when the server fell silent
    expect(granted(await askTimes(meter, MINUTE, 8))).toBe(0);
    expect(host.asked).toBe(9); // nobody waits for a server that is known to be silent
  });

  test("gives back to an instance that is alone what leaves the minute, by its share", async () => {
    const host = new Host();
    host.aloneEpoch = 1;
    const meter = new SharedMeter("k", host);
    meter.sentElsewhere(4);
    expect(granted(await askTimes(meter, MINUTE, 9))).toBe(2); // a third of six
    host.time += 59_999;
    expect(granted(await askTimes(meter, MINUTE, 9))).toBe(0);
    host.time += 2;
    expect(granted(await askTimes(meter, MINUTE, 9))).toBe(3); // a third of ten
  });

  test("never lets all instances together over it while each is alone", async () => {
    for (const used of [0, 1, 5, 9, 10]) {
      const letOut = await Promise.all(
        [0, 1, 2].map(async () => {
          const host = new Host();
          host.aloneEpoch = 1;
          const meter = new SharedMeter("k", host);
          meter.sentElsewhere(used);
          return granted(await askTimes(meter, MINUTE, 20));
        }),
      );
      expect(used + letOut.reduce((sum, each) => sum + each, 0)).toBeLessThanOrEqual(10);
    }
  });

  test.each([
    ["the server has room, and the share is used up", 3, 100, 3],
    ["the share has room, and the server is full", 30, 2, 2],
    ["both have room", 30, 100, 5],
  ])(
    "holds by both the server and the share while others may still be alone: %s",
    async (_, perMinute, left, most) => {
      const host = new Host();
      host.aloneEpoch = 1;
      host.isSettling = true;
      let inServer = 0;
      host.answer = () => {
        if (inServer >= left) return { isGranted: false, waitMs: 1000 };
        inServer += 1;
        return {};
      };
      const meter = new SharedMeter("key", host);
      const answers = await askTimes(meter, { ...MINUTE, perMinute: 3 * perMinute }, 5);
      expect(granted(answers)).toBe(Math.min(most, 5));
      // What the share refuses is taken out of the server again.
      expect(inServer - meter.removed.length).toBe(granted(answers));
    },
  );

  test("is shared by the day, too", async () => {
    const host = new Host();
    host.answer = () => ({ othersRequests: 11 });
    const meter = new SharedMeter("k", host);
    await askTimes(meter, DAY, 1);
    host.answer = null;
    expect(granted(await askTimes(meter, DAY, 20))).toBe(6); // a third of the 18 that were left
    expect(meter.requests).toBe(7);
  });

  test("is shared by tokens, which are known only later", async () => {
    const host = new Host();
    host.aloneEpoch = 1;
    const meter = new SharedMeter("k", host);
    const limits = { ...DAY, perDay: null, tokensPerDay: 900 };
    expect(granted(await askTimes(meter, limits, 3))).toBe(3);
    meter.count(0, 299);
    expect(granted(await askTimes(meter, limits, 1))).toBe(1);
    meter.count(0, 1);
    expect(await askTimes(meter, limits, 1)).toMatchObject([{ kind: "full", what: "tokens" }]);
  });

  test("begins a new share each time that an instance is alone", async () => {
    const host = new Host();
    host.aloneEpoch = 1;
    const meter = new SharedMeter("k", host);
    expect(granted(await askTimes(meter, DAY, 20))).toBe(10);
    host.aloneEpoch = 0;
    host.answer = () => ({ othersRequests: 14 }); // others used theirs, too
    await askTimes(meter, DAY, 1);
    host.aloneEpoch = 2;
    expect(granted(await askTimes(meter, DAY, 20))).toBe(1); // a third of five
  });

  test("is whole for an instance that shares with nobody", async () => {
    const host = new Host();
    host.aloneEpoch = 1;
    host.instanceCount = 1;
    expect(granted(await askTimes(new SharedMeter("k", host), MINUTE, 20))).toBe(10);
  });

  test("begins anew with a day, and is not confused by a date that is a little off", async () => {
    const host = new Host();
    host.answer = () => ({ othersRequests: 5 });
    const meter = new SharedMeter("k", host);
    await askTimes(meter, DAY, 2);
    meter.turnDay(DAY_END + 40);
    expect([meter.requests, meter.othersRequests]).toEqual([2, 5]);
    meter.turnDay(DAY_END + 24 * 3_600_000);
    expect([meter.requests, meter.othersRequests]).toEqual([0, 0]);
  });

  test("hears of others by whole counts, so that news that come twice count once", () => {
    const meter = new SharedMeter("k", new Host());
    meter.turnDay(DAY_END);
    for (const requests of [3, 5, 5, 4]) meter.hearOther("b", DAY_END, requests, 7);
    meter.hearOther("c", DAY_END, 2, 0);
    meter.hearOther("c", DAY_END - 24 * 3_600_000, 50, 0); // of yesterday
    expect([meter.othersRequests, meter.othersTokens]).toEqual([6, 7]);
  });

  test("takes a place back out where the request counts against no rate", async () => {
    const host = new Host();
    host.aloneEpoch = 1;
    host.instanceCount = 1;
    const meter = new SharedMeter("k", host);
    const [first] = await askTimes(meter, { ...MINUTE, perMinute: 1 }, 1);
    expect(granted(await askTimes(meter, { ...MINUTE, perMinute: 1 }, 1))).toBe(0);
    if (first?.kind === "place") first.uncountMinute();
    expect(granted(await askTimes(meter, { ...MINUTE, perMinute: 1 }, 1))).toBe(1);
  });

  test("adds up the keys of an account by the minute", async () => {
    const host = new Host();
    host.aloneEpoch = 1;
    host.instanceCount = 1;
    const [one, other] = [new SharedMeter("k1", host), new SharedMeter("k2", host)];
    expect(granted(await askTimes(one, MINUTE, 7))).toBe(7);
    const patience = { serverMs: 50 };
    const answers = await Promise.all(Array.from({ length: 7 }, () => other.ask(MINUTE, [one], patience)));
    expect(granted(answers)).toBe(3);
  });
});
