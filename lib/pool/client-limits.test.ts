import { describe, expect, test } from "bun:test";
import { parseClientLimits } from "../config/client-limits.ts";
import { FalseClock } from "../testing/fixture.ts";
import { type ClientKeeper, ClientLimiter, type LimitedRequest, type Reservation } from "./client-limits.ts";

const MINUTE = 60_000;
const DAY = 86_400_000;
const CLIENTS = new Set(["laptop", "phone", "ci"]);

function limiterOf(
  text: string,
  { clock = new FalseClock(), keeper = null as ClientKeeper | null, zone = "UTC" } = {},
) {
  const limiter = new ClientLimiter(clock, keeper);
  const follow = (next: string) => {
    const { limits, problems } = parseClientLimits(next, CLIENTS);
    expect(problems).toEqual([]);
    limiter.follow(limits, zone);
  };
  follow(text);
  return { clock, limiter, follow };
}

const request = (client: string | null, fields: Partial<LimitedRequest> = {}): LimitedRequest => ({
  client,
  clientKeyId: null,
  isUncounted: false,
  namedModels: () => ["llama-3"],
  ...fields,
});

/** `out`; else the status, the type and the seconds to wait. */
function said(outcome: ReturnType<ClientLimiter["admit"]>): string {
  if (!("kind" in outcome)) return "out";
  return `${outcome.status} ${outcome.type} ${(outcome.retryAfterMs ?? 0) / 1000}`;
}

function taken(outcome: ReturnType<ClientLimiter["admit"]>): Reservation {
  if ("kind" in outcome) throw new Error(outcome.message);
  return outcome;
}

const SERVED = { wentOut: true, status: 200, tokens: 0 };

/** Keeps in memory what a store would write. */
class MemoryKeeper implements ClientKeeper {
  readonly rows = new Map<string, () => unknown>();
  keyStates(): Map<string, unknown> {
    return new Map([...this.rows].map(([id, snapshot]) => [id, JSON.parse(JSON.stringify(snapshot()))]));
  }
  saveKey(_provider: string, id: string, snapshot: () => unknown): void {
    this.rows.set(id, snapshot);
  }
}

describe("a client's limits", () => {
  test("are none where there are no lines, and for who has none", () => {
    const { limiter, follow } = limiterOf("laptop = 1/day");
    taken(limiter.admit(request("phone")));
    taken(limiter.admit(request("phone")));
    taken(limiter.admit(request(null)));
    expect(limiter.reportOf(request("phone"))).toBeNull();
    follow("* = 9/day");
    taken(limiter.admit(request("laptop")));
  });

  test("hold in any 60 s, with the wait until the oldest of them is over", async () => {
    const { clock, limiter } = limiterOf("laptop = 3/min");
    for (const waitMs of [0, 20_000, 20_000]) {
      await clock.advance(waitMs);
      expect(said(limiter.admit(request("laptop")))).toBe("out");
    }
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 20");
    await clock.advance(19_999);
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 0.001");
    await clock.advance(1);
    expect(said(limiter.admit(request("laptop")))).toBe("out");
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 20");
  });

  test.each([
    ["UTC", "12:00", 43_200],
    ["Asia/Tokyo", "12:00", 10_800],
    ["America/Los_Angeles", "12:00", 72_000],
  ])("hold for a day, until midnight in %s", async (zone, _, waitSec) => {
    const { clock, limiter } = limiterOf("laptop = 2/day", { zone });
    taken(limiter.admit(request("laptop"))).end(SERVED);
    taken(limiter.admit(request("laptop"))).end(SERVED);
    expect(said(limiter.admit(request("laptop")))).toBe(`429 client_limit ${waitSec}`);
    await clock.advance(waitSec * 1000 - 1);
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 0.001");
    await clock.advance(1);
    expect(said(limiter.admit(request("laptop")))).toBe("out");
  });

  test("let requests out while tokens of the day are left", async () => {
    const { clock, limiter } = limiterOf("laptop = 1k tokens/day");
    taken(limiter.admit(request("laptop"))).end({ ...SERVED, tokens: 999 });
    taken(limiter.admit(request("laptop"))).end({ ...SERVED, tokens: 500 });
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 43200");
    expect(limiter.reportOf(request("laptop"))?.tokensPerDay).toEqual({
      limit: 1000,
      used: 1499,
      left: 0,
      resetMs: DAY / 2,
    });
    await clock.advance(DAY / 2);
    expect(said(limiter.admit(request("laptop")))).toBe("out");
  });

  test("wait for the later of two", async () => {
    const { clock, limiter } = limiterOf("laptop = 1/min, 1/day");
    await clock.advance(DAY / 2 - 30_000);
    taken(limiter.admit(request("laptop"))).end(SERVED);
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 60");
    await clock.advance(30_000);
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 30");
  });

  const ends: [
    says: string,
    end: Parameters<Reservation["end"]>[0],
    fields: Partial<LimitedRequest>,
    minute: number,
    day: number,
  ][] = [
    ["was served", SERVED, {}, 1, 1],
    ["was refused by upstream", { ...SERVED, status: 503 }, {}, 1, 1],
    ["found nothing", { ...SERVED, status: 404 }, {}, 1, 0],
    ["only asked", SERVED, { isUncounted: true }, 1, 0],
    ["only asked and found nothing", { ...SERVED, status: 404 }, { isUncounted: true }, 1, 0],
    ["never went out", { ...SERVED, wentOut: false, status: 503 }, {}, 0, 0],
    [
      "only asked and never went out",
      { ...SERVED, wentOut: false, status: 503 },
      { isUncounted: true },
      0,
      0,
    ],
  ];
  test.each(ends)("count of a request that %s", (_, end, fields, minute, day) => {
    const { limiter } = limiterOf("laptop = 9/min, 9/day");
    const reservation = taken(limiter.admit(request("laptop", fields)));
    reservation.end(end);
    reservation.end(end); // a second time does nothing
    const report = limiter.reportOf(request("laptop"));
    expect([report?.perMinute?.used, report?.perDay?.used]).toEqual([minute, day]);
  });

  test("count before a request is sent, so that no two together go over", () => {
    const { limiter } = limiterOf("laptop = 5/min, 3/day");
    const outcomes = Array.from({ length: 9 }, () => limiter.admit(request("laptop")));
    expect(outcomes.map(said).filter((each) => each === "out")).toHaveLength(3);
    taken(outcomes[1]!).end({ ...SERVED, wentOut: false });
    expect([1, 2].map(() => said(limiter.admit(request("laptop"))))).toEqual([
      "out",
      "429 client_limit 43200",
    ]);
  });

  test("give nothing back to a day that is over", async () => {
    const { clock, limiter } = limiterOf("laptop = 2/day");
    const late = taken(limiter.admit(request("laptop")));
    await clock.advance(DAY);
    taken(limiter.admit(request("laptop"))).end(SERVED);
    late.end({ ...SERVED, wentOut: false });
    expect(limiter.reportOf(request("laptop"))?.perDay?.used).toBe(1);
  });

  test("are each client's own, those of * too", () => {
    const { limiter } = limiterOf("laptop = 2/day; * = 1/day");
    const names = [
      request("phone"),
      request("ci"),
      request(null, { clientKeyId: "3e23e816" }),
      request(null, { clientKeyId: "ffffffff" }),
      request(null),
    ];
    for (const name of names)
      expect([limiter.admit(name), limiter.admit(name)].map(said)).toEqual(["out", "429 client_limit 43200"]);
    expect([1, 2, 3].map(() => said(limiter.admit(request("laptop"))))).toEqual([
      "out",
      "out",
      "429 client_limit 43200",
    ]);
    expect(
      limiter
        .report()
        .map(({ client, clientKeyId, perDay }) => [client, clientKeyId, perDay?.limit, perDay?.used]),
    ).toEqual([
      ["laptop", null, 2, 2],
      ["phone", null, 1, 1],
      ["ci", null, 1, 1],
      [null, "3e23e816", 1, 1],
      [null, "ffffffff", 1, 1],
      [null, null, 1, 1],
    ]);
  });

  const models: [says: string, patterns: string, named: string[] | null, allowed: boolean][] = [
    ["the very name", "gpt-4o", ["gpt-4o"], true],
    ["a pattern", "llama-*|qwen-*", ["qwen-3"], true],
    ["another name", "llama-*", ["gpt-4o"], false],
    ["another case", "llama-*", ["Llama-3"], false],
    ["a name behind a pattern", "llama-*", ["my-llama-3"], false],
    ["no model at all", "llama-*", [], true],
    ["what nobody can read", "llama-*", null, false],
    ["two names of which one is not allowed", "llama-*", ["llama-3", "gpt-4o"], false],
    ["anything", "*", ["gpt-4o"], true],
  ];
  test.each(models)("hold for models: %s", (_, patterns, named, allowed) => {
    const { limiter } = limiterOf(`laptop = models ${patterns}, 1/day`);
    const outcome = limiter.admit(request("laptop", { namedModels: () => named }));
    expect(said(outcome)).toBe(allowed ? "out" : "403 model_not_allowed 0");
    expect(limiter.reportOf(request("laptop"))?.perDay?.used).toBe(allowed ? 1 : 0);
  });

  test("say what is spent, how long to wait, and what may be used", () => {
    const { limiter } = limiterOf("laptop = 1/day, models llama-*|qwen-*");
    const messages = ["llama-3", "llama-3", 'x"\n'].map((model) => {
      const outcome = limiter.admit(request("laptop", { namedModels: () => [model] }));
      return "kind" in outcome ? outcome.message : "";
    });
    expect(messages[1]).toBe(
      "The client laptop has used up its 1 requests of the day (CLIENT_LIMITS of this proxy; the provider was not asked). Try again in 12h00m, or ask its operator for more.",
    );
    expect(messages[2]).toBe(
      'The client laptop may not use the model "x\\"\\n" here (CLIENT_LIMITS of this proxy): it may use llama-*, qwen-*. Choose one of these, or ask its operator.',
    );
  });

  test("are kept over a restart: the day and the minute", async () => {
    const keeper = new MemoryKeeper();
    const { clock, limiter } = limiterOf("laptop = 3/min, 9/day, 1k tokens/day", { keeper });
    await clock.advance(1000);
    for (const tokens of [0, 100, 200]) taken(limiter.admit(request("laptop"))).end({ ...SERVED, tokens });
    await clock.advance(10_000);
    const again = limiterOf("laptop = 3/min, 9/day, 1k tokens/day; * = 1/day", {
      clock,
      keeper: { ...keeper, keyStates: () => keeper.keyStates(), saveKey: () => {} },
    });
    expect(said(again.limiter.admit(request("laptop")))).toBe("429 client_limit 50");
    expect(again.limiter.report()).toMatchObject([
      { client: "laptop", perDay: { used: 3 }, tokensPerDay: { used: 300 } },
    ]);
    await clock.advance(DAY);
    expect(again.limiter.reportOf(request("laptop"))).toMatchObject({
      perDay: { used: 0 },
      tokensPerDay: { used: 0 },
    });
  });

  test.each<[says: string, stored: unknown]>([
    ["nothing", null],
    ["text", "text"],
    ["other types", { requests: "9", tokens: [], dayEndsAt: {}, sent: 5 }],
    ["numbers that count nothing", { requests: -5, tokens: 1e300, dayEndsAt: 0.5, sent: [NaN, 1e300, null] }],
  ])("begin anew where what was kept is %s", (_, stored) => {
    const keeper = { keyStates: () => new Map([["laptop", stored]]), saveKey: () => {} };
    const { limiter } = limiterOf("laptop = 3/min, 9/day, 1k tokens/day", { keeper });
    expect(limiter.reportOf(request("laptop"))).toMatchObject({
      perMinute: { used: 0 },
      perDay: { used: 0 },
      tokensPerDay: { used: 0 },
    });
  });

  test("are changed by a reload, and what was used stays used", async () => {
    const { clock, limiter, follow } = limiterOf("laptop = 5/min, 5/day");
    for (let turn = 0; turn < 4; turn += 1) taken(limiter.admit(request("laptop"))).end(SERVED);
    follow("laptop = 5/min, 3/day");
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 43200");
    follow("laptop = 2/min, 9/day");
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 60");
    follow("* = 9/day");
    expect(said(limiter.admit(request("laptop")))).toBe("out");
    expect(limiter.report()).toMatchObject([
      { client: "laptop", perMinute: null, perDay: { limit: 9, used: 5, left: 4 } },
    ]);
    await clock.advance(MINUTE);
    expect(limiter.reportOf(request("phone"))).toMatchObject({ perDay: { used: 0, left: 9, resetMs: 0 } });
  });

  test("P46 go by the clock that cannot be set, and lose no count to one that is", async () => {
    const { clock, limiter } = limiterOf("laptop = 1/min, 2/day");
    taken(limiter.admit(request("laptop"))).end(SERVED);
    clock.setWall(-5 * 3_600_000);
    expect(said(limiter.admit(request("laptop")))).toBe("429 client_limit 60");
    await clock.advance(MINUTE);
    taken(limiter.admit(request("laptop"))).end(SERVED);
    expect(said(limiter.admit(request("laptop")))).toMatch(/^429 client_limit \d+$/);
  });
});
