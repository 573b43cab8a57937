import { describe, expect, test } from "bun:test";
import { getEventListeners } from "node:events";
import { parseConfig } from "../config/config.ts";
import { nextTurn } from "../core/clock.ts";
import type { NoKey } from "../providers/verdict.ts";
import { FalseClock, seeded } from "../testing/fixture.ts";
import { Account, newKey } from "./key.ts";
import type { Key, Lease, Need } from "./key.ts";
import { Line, Place, Queue } from "./queue.ts";

const NOW = Date.UTC(2026, 10, 20, 12);
const SEC = 1000;
const MINUTE = 60 * SEC;

/** Keys that are free now, and those that come free later: at an instant (epoch ms), so many. */
class Supply {
  free = 0;
  later: [at: number, count: number][] = [];

  readyAt(now: number): number {
    for (const [at, count] of this.later) if (at <= now) this.free += count;
    this.later = this.later.filter(([at]) => at > now);
    return this.free > 0 ? now : Math.min(...this.later.map(([at]) => at));
  }
}

/** Gives out what it has, to any request that nothing of its own stands in the way of. */
class Stock {
  readonly supply = new Supply();
  /** Of models that have limits of their own. */
  readonly models = new Map<string, { line: object; supply: Supply }>();
  /** Until when (epoch ms) its own history keeps a request from every key, by arrival. */
  readonly hinderedUntil = new Map<number, number>();
  /** Arrivals in the order in which they got a key, or went without. */
  readonly given: number[] = [];
  readonly without: NoKey[] = [];
  asked = 0;
  why: NoKey["why"] = "cooling";

  lease(need: Need, now: number): Lease | NoKey {
    this.asked += 1;
    const supply = this.models.get(need.model ?? "")?.supply ?? this.supply;
    const suppliedAt = supply.readyAt(now);
    const hinderedUntil = this.hinderedUntil.get(need.arrival) ?? 0;
    // Where no time is known the end of an attempt under way decides: waiting is not in vain.
    const maybeSooner = suppliedAt === Infinity;
    const readyAt = Math.max(suppliedAt, hinderedUntil);
    const isOwn = this.why === "cooling" && suppliedAt < readyAt;
    if (readyAt > now) return { kind: "no_key", readyAt, maybeSooner, isOwn, why: this.why };
    supply.free -= 1;
    this.given.push(need.arrival);
    return leaseFor(need, now);
  }

  lineOf({ model }: Need): object | null {
    return this.models.get(model ?? "")?.line ?? null;
  }

  /** From now on this model has limits of its own. */
  limit(model: string): Supply {
    const supply = new Supply();
    this.models.set(model, { line: {}, supply });
    return supply;
  }
}

const KEY = anyKey();

function anyKey(): Key {
  const parsed = parseConfig({ API_KEYS: "key-a", PROVIDER: "openai" });
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  const [config] = parsed.config.providers;
  return newKey(config.keys[0]!, 0, config, new Account(null, { kind: "none" }));
}

function leaseFor(need: Need, at: number): Lease {
  return {
    kind: "lease",
    key: KEY,
    need,
    at,
    limits: null,
    dayEndsOn: Infinity,
    isTrial: false,
    startedAt: 0,
    answeredBefore: 0,
    isNotFound: false,
    place: null,
    settled: false,
  };
}

function needOf(arrival: number, fields: Partial<Need> = {}): Need {
  return {
    arrival,
    model: null,
    conversation: null,
    tried: new Set(),
    reuseAt: 0,
    deferredAt: 0,
    unsuited: new Set(),
    isUncounted: false,
    boundTo: null,
    waitUntil: NOW + MINUTE,
    signal: new AbortController().signal,
    ...fields,
  };
}

interface Hall {
  clock: FalseClock;
  stock: Stock;
  queue: Queue;
  /** What became of those who waited, by arrival: "key", or why there is none. */
  ends: Map<number, string>;
  joins(arrival: number, fields?: Partial<Need>): void;
  serve(): void;
}

function hall(): Hall {
  const clock = new FalseClock(NOW);
  const stock = new Stock();
  const queue = new Queue(clock, {
    lease: (need, now) => stock.lease(need, now),
    lineOf: (need) => stock.lineOf(need),
    onGivenUp: (reason) => stock.without.push(reason),
  });
  const ends = new Map<number, string>();
  return {
    clock,
    stock,
    queue,
    ends,
    joins(arrival, fields) {
      const need = needOf(arrival, fields);
      const supply = stock.models.get(need.model ?? "")?.supply ?? stock.supply;
      const readyAt = Math.max(supply.readyAt(clock.now()), stock.hinderedUntil.get(arrival) ?? 0);
      void queue
        .join(need, readyAt, clock.now())
        .then((result) => ends.set(arrival, result.kind === "lease" ? "key" : result.why));
    },
    serve: () => queue.serve(clock.now()),
  };
}

interface Told {
  /** Who joins, in this order. */
  joining: [arrival: number, model?: string][];
  hindered?: number[];
  free: number;
  freeOfModel?: number;
  given: number[];
}

describe("the queue", () => {
  test.each<[sentence: string, told: Told]>([
    ["P25 serves in order of arrival", { joining: [[1], [2], [3]], free: 3, given: [1, 2, 3] }],
    ["P25 serves no more than there are keys", { joining: [[1], [2], [3]], free: 2, given: [1, 2] }],
    ["P25 gives one that comes back its old place", { joining: [[2], [3], [1]], free: 2, given: [1, 2] }],
    ["P25 gives it a place between two", { joining: [[1], [4], [3], [2]], free: 3, given: [1, 2, 3] }],
    [
      "P25 lets one whose own history hinders it stand in nobody's way",
      { joining: [[1], [2], [3]], hindered: [1], free: 2, given: [2, 3] },
    ],
    [
      "P25 lets several of those stand aside, wherever they are",
      { joining: [[1], [2], [3], [4], [5]], hindered: [1, 3, 4], free: 3, given: [2, 5] },
    ],
    [
      "P16 lets requests for a model that rests stand in nobody's way",
      { joining: [[1, "big"], [2], [3, "big"], [4]], free: 2, freeOfModel: 0, given: [2, 4] },
    ],
    [
      "P16 lets nobody stand in the way of a model with keys of its own",
      { joining: [[1], [2, "big"], [3], [4, "big"]], free: 0, freeOfModel: 2, given: [2, 4] },
    ],
    [
      "P16 serves in order of arrival across models",
      { joining: [[1, "big"], [2], [3, "big"], [4]], free: 2, freeOfModel: 2, given: [1, 2, 3, 4] },
    ],
    [
      "P16 serves a model without limits of its own with all others",
      { joining: [[1, "other"], [2], [3, "other"]], free: 2, freeOfModel: 5, given: [1, 2] },
    ],
    [
      "P16 lets one that is hindered stand aside in the line of its model too",
      {
        joining: [
          [1, "big"],
          [2, "big"],
        ],
        hindered: [1],
        free: 0,
        freeOfModel: 2,
        given: [2],
      },
    ],
  ])("%s", (_, { joining, hindered = [], free, freeOfModel = 0, given }) => {
    const { stock, queue, joins, serve } = hall();
    const ofModel = stock.limit("big");
    for (const arrival of hindered) stock.hinderedUntil.set(arrival, NOW + 10 * SEC);
    for (const [arrival, model = null] of joining) joins(arrival, { model });
    expect(queue.size).toBe(joining.length);
    stock.supply.free = free;
    ofModel.free = freeOfModel;
    serve();
    expect(stock.given).toEqual(given);
    expect(queue.size).toBe(joining.length - given.length);
  });

  test("P25 resolves with the key, and says why there is none", async () => {
    const { stock, ends, joins, serve, clock } = hall();
    joins(1);
    joins(2, { waitUntil: NOW + SEC });
    stock.supply.free = 1;
    serve();
    await clock.jump(SEC);
    expect([...ends]).toEqual([
      [1, "key"],
      [2, "cooling"],
    ]);
    expect(stock.without.length).toBe(1);
  });

  test("P25 lets one go at once for whom no key can come free in time, and keeps those who can wait", async () => {
    const { stock, queue, ends, joins, serve } = hall();
    joins(1, { waitUntil: NOW + 5 * SEC });
    joins(2, { waitUntil: NOW + MINUTE });
    stock.supply.later.push([NOW + 30 * SEC, 1]);
    serve();
    await nextTurn(0);
    expect([...ends]).toEqual([[1, "cooling"]]);
    expect(stock.without).toMatchObject([{ kind: "no_key", readyAt: NOW + 30 * SEC, why: "cooling" }]);
    expect([queue.size, queue.wakeAt - NOW]).toEqual([1, 30 * SEC]);
  });

  test("P25 wakes when a key does, not before, and serves whoever is first", async () => {
    const { stock, queue, ends, joins, clock } = hall();
    stock.supply.later.push([NOW + 7 * SEC, 1]);
    joins(1);
    joins(2);
    await clock.jump(7 * SEC - 1);
    expect([stock.asked, ends.size]).toEqual([0, 0]);
    await clock.jump(1);
    expect([...ends]).toEqual([[1, "key"]]);
    expect([queue.size, stock.asked]).toEqual([1, 2]);
  });

  test("P25 has one timer, for the earliest of all that is waited for", () => {
    const { stock, queue, joins, serve, clock } = hall();
    const ofModel = stock.limit("big");
    const wakesIn = () => [clock.timers, clock.nextAt - NOW, queue.wakeAt - NOW];
    stock.supply.later.push([NOW + 20 * SEC, 1]);
    joins(1);
    expect(wakesIn()).toEqual([1, 20 * SEC, 20 * SEC]);
    ofModel.later.push([NOW + 9 * SEC, 1]);
    joins(2, { model: "big" });
    expect(wakesIn()).toEqual([1, 9 * SEC, 9 * SEC]);
    joins(3, { model: "big", waitUntil: NOW + 4 * SEC });
    expect(wakesIn()).toEqual([1, 4 * SEC, 4 * SEC]);
    joins(4, { waitUntil: NOW + 50 * SEC });
    expect(wakesIn()).toEqual([1, 4 * SEC, 4 * SEC]);
    stock.hinderedUntil.set(5, NOW + 2 * SEC);
    joins(5);
    serve();
    clock.drift(4 * SEC);
    serve();
    expect(wakesIn()).toEqual([1, 9 * SEC, 9 * SEC]);
    clock.drift(5 * SEC);
    serve();
    expect(wakesIn()).toEqual([1, 20 * SEC, 20 * SEC]);
    clock.drift(11 * SEC);
    serve();
    expect([stock.given, wakesIn()]).toEqual([
      [2, 1],
      [1, 50 * SEC, 50 * SEC],
    ]);
  });

  test("P25 sets no timer where nobody waits any more", () => {
    const { stock, queue, joins, serve, clock } = hall();
    joins(1);
    stock.supply.free = 1;
    serve();
    expect([clock.timers, queue.wakeAt, queue.size]).toEqual([0, Infinity, 0]);
  });

  test("P25 goes round in no busy loop where what is ready goes to nobody", async () => {
    const { stock, joins, clock, queue } = hall();
    stock.hinderedUntil.set(1, NOW + MINUTE);
    stock.supply.free = 1;
    joins(1, { waitUntil: NOW + MINUTE });
    await clock.jump(30 * SEC);
    expect(stock.asked).toBe(0);
    await clock.jump(30 * SEC);
    expect([stock.given, stock.asked, queue.size]).toEqual([[1], 1, 0]);
  });

  test("P22 forgets one that leaves, with its listener, and serves those behind it", async () => {
    const { stock, queue, ends, joins, serve } = hall();
    const leaver = new AbortController();
    joins(1, { signal: leaver.signal });
    joins(2);
    expect(getEventListeners(leaver.signal, "abort").length).toBe(1);
    leaver.abort();
    expect([queue.size, getEventListeners(leaver.signal, "abort").length]).toEqual([1, 0]);
    stock.supply.free = 2;
    serve();
    await nextTurn(0);
    expect(Object.fromEntries(ends)).toEqual({ 1: "cooling", 2: "key" });
    expect([stock.given, stock.supply.free, stock.without]).toEqual([[2], 1, []]);
  });

  test("P22 forgets one that leaves from aside, or from the line of a model", () => {
    const { stock, queue, joins, serve } = hall();
    stock.limit("big");
    stock.hinderedUntil.set(1, NOW + 10 * SEC);
    const [aside, ofModel] = [new AbortController(), new AbortController()];
    joins(1, { signal: aside.signal });
    joins(2, { signal: ofModel.signal, model: "big" });
    stock.supply.free = 1;
    serve();
    aside.abort();
    ofModel.abort();
    expect(queue.size).toBe(0);
    const { asked } = stock;
    serve();
    expect(stock.asked).toBe(asked);
  });

  test("P22 does not keep one that had left before it joined", async () => {
    const { queue, ends, joins, clock } = hall();
    joins(1, { signal: AbortSignal.abort() });
    await nextTurn(0);
    expect([queue.size, clock.timers, ends.size]).toEqual([0, 0, 1]);
  });

  test("P22 leaves no listener behind one that is served, or that has waited in vain", () => {
    const { stock, joins, serve, clock } = hall();
    const signals = [new AbortController().signal, new AbortController().signal];
    signals.forEach((signal, index) => joins(index, { signal, waitUntil: NOW + (index + 1) * SEC }));
    stock.supply.free = 1;
    serve();
    clock.drift(2 * SEC);
    serve();
    expect(signals.map((signal) => getEventListeners(signal, "abort").length)).toEqual([0, 0]);
    expect([stock.given, stock.without.length]).toEqual([[0], 1]);
  });

  test("P16 moves those who wait into the line of their model when it gets limits of its own", () => {
    const { stock, queue, joins, serve } = hall();
    joins(1, { model: "big" });
    joins(2, { model: "big" });
    joins(3);
    const ofModel = stock.limit("big");
    stock.supply.free = 1;
    serve();
    expect(stock.given).toEqual([3]);
    ofModel.free = 2;
    serve();
    expect([stock.given, queue.size]).toEqual([[3, 1, 2], 0]);
  });

  test("P16 moves them back when the model has none any more", () => {
    const { stock, queue, joins, serve } = hall();
    stock.limit("big");
    joins(1, { model: "big" });
    joins(2);
    stock.models.clear();
    stock.supply.free = 1;
    serve();
    expect([stock.given, queue.size]).toEqual([[1], 1]);
  });

  test("P25 keeps everybody in line while the provider is paused, whatever is ready", () => {
    const { stock, joins, serve, queue } = hall();
    stock.why = "paused";
    stock.hinderedUntil.set(1, NOW + 10 * SEC);
    joins(1);
    joins(2);
    stock.supply.free = 5;
    serve();
    expect([stock.given, stock.asked, queue.wakeAt - NOW]).toEqual([[], 1, 10 * SEC]);
  });

  // What is counted is how often keys are asked for, which on no machine depends on how fast it is.
  test("P25 asks for a key twice a turn, however many wait", () => {
    const { stock, queue, joins, serve } = hall();
    const WAITERS = 10_000;
    for (let arrival = 0; arrival < WAITERS; arrival++) joins(arrival);
    expect(stock.asked).toBe(0);
    for (let turn = 0; turn < WAITERS; turn++) {
      stock.supply.free = 1;
      serve();
    }
    expect([queue.size, stock.given.length]).toEqual([0, WAITERS]);
    expect(stock.asked).toBeLessThanOrEqual(2 * WAITERS);
    expect(stock.given).toEqual([...stock.given].sort((a, b) => a - b));
  });

  test("P25 asks once a line where nothing is ready, however many wait in each", () => {
    const { stock, joins, serve } = hall();
    const models = ["a", "b", "c"];
    for (const model of models) stock.limit(model);
    for (let arrival = 0; arrival < 4000; arrival++) joins(arrival, { model: models[arrival % 4] ?? null });
    for (let turn = 0; turn < 100; turn++) serve();
    expect(stock.asked).toBe(4 * 100);
  });

  test("P25 serves whoever a list of all, walked in order of arrival, would serve", () => {
    const random = seeded(20261120);
    const below = (bound: number) => Math.floor(random() * bound);
    for (let run = 0; run < 40; run++) {
      const { stock, queue, joins, serve, clock } = hall();
      const models = ["big", "small"];
      for (const model of models) stock.limit(model);
      const waiting = new Map<number, { model: string | null; leaver: AbortController }>();
      const expected: number[] = [];
      const sizes: [size: number, expected: number][] = [];
      const arrivals = Array.from({ length: 40 }, (_, arrival) => arrival);
      for (let step = 0; step < 60; step++) {
        const [arrival] = arrivals.splice(below(Math.min(3, arrivals.length)), 1);
        if (arrival !== undefined) {
          const leaver = new AbortController();
          const model = models[below(3)] ?? null;
          if (random() < 0.3) stock.hinderedUntil.set(arrival, clock.now() + below(5 * SEC));
          joins(arrival, { model, signal: leaver.signal, waitUntil: NOW + 60 * MINUTE });
          waiting.set(arrival, { model, leaver });
        }
        const left = below(200);
        waiting.get(left)?.leaver.abort();
        waiting.delete(left);
        const supplies = [stock.supply, ...[...stock.models.values()].map(({ supply }) => supply)];
        for (const supply of supplies) supply.free += random() < 0.3 ? below(3) : 0;
        clock.drift(below(SEC));
        expected.push(...servedBy(stock, waiting, clock.now()));
        serve();
        sizes.push([queue.size, waiting.size]);
      }
      expect(stock.given).toEqual(expected);
      expect(sizes.filter(([size, expectedSize]) => size !== expectedSize)).toEqual([]);
    }
  });

  // A client whose conversation is bound to a resting account was first; somebody's answer began; and those behind
  // slept on beside a key that had woken, until the first one's turn.
  test("P25 wakes those behind one that waits for longer by its own history", async () => {
    const { stock, joins, serve, clock } = hall();
    stock.hinderedUntil.set(1, NOW + 50 * SEC);
    stock.supply.later.push([NOW + 2 * SEC, 1]);
    joins(1);
    joins(2);
    await clock.jump(SEC);
    serve();
    await clock.jump(2 * SEC);
    expect(stock.given).toEqual([2]);
  });

  // MAX_WAIT_SEC was made shorter while requests waited: those that came after waited as long as those before.
  test("P25 lets one go in time that may wait less long than one before it", async () => {
    const { joins, serve, clock, ends } = hall();
    joins(1, { waitUntil: NOW + MINUTE });
    joins(2, { waitUntil: NOW + 5 * SEC });
    serve();
    await clock.jump(6 * SEC);
    expect([...ends]).toEqual([[2, "cooling"]]);
  });
});

/** By a walk over all who wait; takes those out that are served, but nothing from the supplies. */
function servedBy(stock: Stock, waiting: Map<number, { model: string | null }>, now: number): number[] {
  const left = new Map([...stock.models].map(([model, { supply }]) => [model, supply.free]));
  let free = stock.supply.free;
  const served: number[] = [];
  for (const [arrival, { model }] of [...waiting].sort(([one], [other]) => one - other)) {
    const available = model === null ? free : (left.get(model) ?? 0);
    if (available === 0 || (stock.hinderedUntil.get(arrival) ?? 0) > now) continue;
    if (model === null) free -= 1;
    else left.set(model, available - 1);
    served.push(arrival);
    waiting.delete(arrival);
  }
  return served;
}

class Person extends Place {
  constructor(readonly arrival: number) {
    super();
  }
}

/** Forwards, and backwards the same again: both chains have to be whole. */
function arrivalsIn(line: Line<Person>): number[] {
  const people: Person[] = [];
  for (let person = line.first; person !== null; person = person.behind) people.push(person);
  if (people.some((person, index) => person.before !== (people[index - 1] ?? null))) return [NaN];
  return people.map(({ arrival }) => arrival);
}

describe("a line", () => {
  test("P25 stands in order of arrival, whoever comes and leaves", () => {
    const random = seeded(7);
    for (let run = 0; run < 30; run++) {
      const line = new Line<Person>();
      const wrong: number[][] = [];
      const standing = new Map<number, Person>();
      for (let step = 0; step < 100; step++) {
        const arrival = Math.floor(random() * 25);
        const known = standing.get(arrival);
        const person = known ?? new Person(arrival);
        if (known === undefined) line.insert(person);
        else line.remove(known);
        if (known === undefined) standing.set(arrival, person);
        else standing.delete(arrival);
        const inOrder = [...standing.keys()].sort((a, b) => a - b);
        const found = arrivalsIn(line);
        if (found.join() !== inOrder.join() || line.size !== standing.size) wrong.push(found);
      }
      expect(wrong).toEqual([]);
    }
  });

  test("holds on to nobody who has left", () => {
    const line = new Line<Person>();
    const [first, second, third] = [new Person(1), new Person(2), new Person(3)];
    for (const person of [first, second, third]) line.insert(person);
    line.remove(second);
    expect([second.before, second.behind, line.size]).toEqual([null, null, 2]);
    line.remove(third);
    line.remove(first);
    expect([line.first, line.size]).toEqual([null, 0]);
    line.insert(second);
    expect(arrivalsIn(line)).toEqual([2]);
  });
});
