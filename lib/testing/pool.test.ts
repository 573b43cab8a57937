import { describe, expect, test } from "bun:test";
import { Pool } from "../../proxy.ts";
import { parseConfig } from "../config/config.ts";
import type { ProviderConfig } from "../config/config.ts";
import type { Key, Lease, Need } from "../pool/key.ts";
import type { Budgets } from "../providers/rate-limit-headers.ts";
import type { NoKey, Outcome, Verdict } from "../providers/verdict.ts";
import { FalseClock } from "./fixture.ts";

const SEC = 1000;
const MINUTE = 60 * SEC;
const SERVED: Verdict = { kind: "served" };
const TOO_FAST: Verdict = {
  kind: "rate_limited",
  scope: "key",
  pause: { kind: "unknown" },
  reason: "rate_limit",
  said: "",
};

/** `settings` as in the environment. */
function configOf(keys: string, settings: Record<string, string> = {}): ProviderConfig {
  const parsed = parseConfig({ API_KEYS: keys, PROVIDER: "openai", ...settings });
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  return parsed.config.providers[0];
}

class Stand {
  readonly clock = new FalseClock();
  readonly pool: Pool;
  #arrival = 0;

  constructor(keys: string, settings: Record<string, string> = {}) {
    const dependencies = { clock: this.clock, random: () => 0.5, observer: {}, keeper: null };
    this.pool = new Pool(configOf(keys, settings), 24 * 60 * MINUTE, dependencies);
  }

  need(fields: Partial<Need> = {}): Need {
    return {
      arrival: this.#arrival++,
      waitUntil: this.clock.now(),
      deferredAt: 0,
      signal: new AbortController().signal,
      model: null,
      conversation: null,
      tried: new Set(),
      reuseAt: 0,
      unsuited: new Set(),
      boundTo: null,
      isUncounted: false,
      ...fields,
    };
  }

  lease(fields: Partial<Need> = {}): Lease | NoKey {
    return this.pool.lease(this.need(fields), this.clock.now());
  }

  /** As many keys as there are now, by the key's index; they stay out. */
  takeAll(fields: Partial<Need> = {}): number[] {
    const taken: number[] = [];
    for (
      let lease = this.lease(fields);
      lease.kind === "lease" && taken.length < 500;
      lease = this.lease(fields)
    )
      taken.push(lease.key.index);
    return taken;
  }

  /** Attempts that end at once, all alike. */
  attempts(
    count: number,
    outcome: Outcome,
    { budgets = null, ...fields }: { budgets?: Budgets | null } & Partial<Need> = {},
  ): void {
    for (let nth = 0; nth < count; nth++) {
      const lease = this.lease(fields);
      if (lease.kind === "no_key") throw new Error(`no key for attempt ${nth}`);
      if (outcome.kind === "served") this.pool.responseStarted(lease, outcome, this.clock.now(), budgets);
      this.pool.settle(lease, outcome, this.clock.now(), budgets);
    }
  }

  get first(): Key {
    return this.pool.keys[0]!;
  }

  reportOf(index = 0) {
    return this.pool.report(this.clock.now())[index]!;
  }
}

const budget = (remaining: number): Budgets => ({
  minute: { limit: 10, remaining, resetAt: 0, kind: "window", span: "minute", scope: "key" },
  day: null,
});

/** A key's limits as they may be used up, the key being the only one. */
const USED_UP: [sentence: string, settings: Record<string, string>, use: (stand: Stand) => void][] = [
  ["a number that is set", { RPM: "5" }, (stand) => stand.attempts(5, SERVED)],
  [
    "a number that is announced",
    {},
    (stand) => {
      const { minute } = budget(0);
      const announced = { minute: { ...minute!, resetAt: stand.clock.now() + 20 * SEC }, day: null };
      stand.attempts(1, SERVED, { budgets: announced });
    },
  ],
  ["a rate that was learnt", {}, (stand) => void (stand.first.account.limiter.restore(learnt({ rate: 8 }), stand.clock.now()), stand.attempts(8, SERVED))],
  ["a pace that was learnt", {}, (stand) => void (stand.first.account.limiter.restore(learnt({ intervalMs: 4000 }), stand.clock.now()), stand.attempts(1, SERVED))],
  ["a slow start", {}, (stand) => void (stand.first.account.slowStart.restart(), stand.lease())],
]; // prettier-ignore

function learnt({
  rate,
  concurrency,
  intervalMs = 0,
}: {
  rate?: number;
  concurrency?: number;
  intervalMs?: number;
}) {
  const limit = (value?: number) =>
    value === undefined
      ? null
      : { value, ceiling: value + 1, retryAt: Number.MAX_SAFE_INTEGER, patienceMs: MINUTE };
  return { rate: limit(rate), windowMs: MINUTE, concurrency: limit(concurrency), intervalMs, burst: 1 };
}

describe("a key whose limit is used up", () => {
  test.each(USED_UP)(
    "%s: is shown as pacing until the moment in which it is ready",
    async (_, settings, use) => {
      const stand = new Stand("key-a", settings);
      use(stand);
      const { state, reason, coolingMs } = stand.reportOf();
      expect([state, reason, coolingMs > 0]).toEqual(["cooling", "pacing", true]);
      await stand.clock.advance(coolingMs - 1);
      expect([stand.reportOf().state, stand.lease().kind]).toEqual(["cooling", "no_key"]);
      await stand.clock.advance(1);
      expect([stand.reportOf().state, stand.lease().kind]).toEqual(["ready", "lease"]);
    },
  );

  // It was told when the cooldowns end, which where nobody was refused is now.
  test.each(USED_UP)("P25 %s: a request is told truly when to come back", async (_, settings, use) => {
    const stand = new Stand("key-a", settings);
    use(stand);
    const none = stand.pool.acquire(stand.need());
    if (none instanceof Promise || none.kind === "lease") throw new Error("it was not refused at once");
    expect(none).toEqual({ ...stand.pool.noKeyFor(stand.need(), stand.clock.now()) });
    expect([none.why, none.readyAt > stand.clock.now()]).toEqual(["cooling", true]);
    await stand.clock.advance(none.readyAt - stand.clock.now() - 1);
    expect(stand.lease().kind).toBe("no_key");
    await stand.clock.advance(1);
    expect(stand.lease().kind).toBe("lease");
  });

  test.each(USED_UP)("%s: is not changed by being asked about", (_, settings, use) => {
    const [asked, silent] = [new Stand("key-a", settings), new Stand("key-a", settings)];
    for (const stand of [asked, silent]) use(stand);
    for (let nth = 0; nth < 100; nth++) {
      asked.clock.drift(100);
      silent.clock.drift(100);
      void [asked.reportOf(), asked.pool.noKeyFor(asked.need(), asked.clock.now())];
    }
    expect(asked.first.account.limiter.state()).toEqual(silent.first.account.limiter.state());
    expect([asked.reportOf(), asked.takeAll()]).toEqual([silent.reportOf(), silent.takeAll()]);
  });

  test("how many may be under way: is shown as pacing, for as long as nobody knows", () => {
    const stand = new Stand("key-a");
    stand.first.account.limiter.restore(learnt({ concurrency: 2 }), stand.clock.now());
    expect(stand.takeAll().length).toBe(2);
    expect(stand.reportOf()).toMatchObject({ state: "cooling", reason: "pacing", coolingMs: 0 });
    expect(stand.lease()).toMatchObject({ kind: "no_key", readyAt: Infinity, maybeSooner: true });
  });

  test("P16 of one model: is shown with the model, and the key is ready", () => {
    const stand = new Stand("key-a");
    const limited: Verdict = { ...TOO_FAST, scope: "key+model", pause: { kind: "for", ms: 0 } };
    stand.attempts(8, SERVED, { model: "big" });
    stand.attempts(1, limited, { model: "big" });
    const { state, models } = stand.reportOf();
    expect([state, stand.lease({ model: "small" }).kind]).toEqual(["ready", "lease"]);
    expect(Object.keys(models)).toEqual(stand.lease({ model: "big" }).kind === "lease" ? [] : ["big"]);
  });
});

describe("a key that is added while the proxy runs", () => {
  test.each<[sentence: string, limits: Parameters<typeof learnt>[0], most: number]>([
    ["a rate", { rate: 10 }, 10],
    ["a pace", { intervalMs: 6000 }, 1],
    ["how many may be under way", { concurrency: 3 }, 3],
    ["a rate and how many may be under way", { rate: 10, concurrency: 4 }, 4],
  ])("begins with what another one was taught: %s", (_, limits, most) => {
    const stand = new Stand("key-a");
    stand.first.account.limiter.restore(learnt(limits), stand.clock.now());
    expect(stand.takeAll().length).toBe(most);
    stand.pool.reconfigure(configOf("key-a,key-b"), MINUTE);
    expect(stand.takeAll()).toEqual(Array(most).fill(1));
  });

  test("begins with what another one was taught of a model", () => {
    const stand = new Stand("key-a");
    stand.attempts(6, SERVED, { model: "big" });
    stand.attempts(1, { ...TOO_FAST, scope: "key+model" }, { model: "big" });
    stand.pool.reconfigure(configOf("key-a,key-b"), MINUTE);
    expect(stand.takeAll({ model: "big" }).length).toBeWithin(1, 8);
    expect(stand.takeAll({ model: "small" }).length).toBe(500);
  });

  test.each<
    [sentence: string, before: string, after: string, settings: Record<string, string>, taken: number]
  >([
    ["shares the limits of its account", "me@key-a", "me@key-a,me@key-b", {}, 0],
    ["has a number of its own where one is set", "key-a", "key-a,key-b", { RPM: "4" }, 4],
    ["is as the first where nothing was learnt", "key-a", "key-a,key-b", { RPM: "off" }, 500],
    ["keeps what it knew where only its place is another", "key-a,key-b", "key-b,key-a", {}, 10],
  ])("%s", (_, before, after, settings, taken) => {
    const stand = new Stand(before, settings);
    stand.first.account.limiter.restore(learnt({ rate: 10 }), stand.clock.now());
    if (before === "key-a" || before === "me@key-a") stand.takeAll();
    stand.pool.reconfigure(configOf(after, settings), MINUTE);
    const counts = stand.takeAll();
    expect(before === "key-a,key-b" ? counts.filter((index) => index === 1).length : counts.length).toBe(
      taken,
    );
  });
});

describe("a provider whose keys are all held back", () => {
  // Whoever came next raised the limit that others waited for, and had the key before them.
  test("P25 lets those who wait have what a raised limit lets through", async () => {
    const stand = new Stand("key-a");
    const { clock, pool } = stand;
    stand.first.account.limiter.restore({ ...learnt({ rate: 3 }), rate: { value: 3, ceiling: null, retryAt: 0, patienceMs: MINUTE } }, clock.now());
    stand.attempts(3, SERVED);
    await clock.advance(55 * SEC);
    const order: string[] = [];
    const waits = (name: string) => {
      const result = pool.acquire(stand.need({ waitUntil: clock.now() + 10 * MINUTE }));
      if (result instanceof Promise) void result.then(({ kind }) => kind === "lease" && order.push(name));
      else order.push(name);
    };
    for (const name of ["first", "second", "third", "fourth", "fifth"]) {
      waits(name);
      await clock.advance(3 * SEC);
    }
    await clock.advance(5 * MINUTE);
    expect(order).toEqual(["first", "second", "third", "fourth", "fifth"]);
  }); // prettier-ignore
});
