import { describe, expect, test } from "bun:test";
import { seeded } from "../testing/fixture.ts";
import { KeySelector, accountName, accountNames, rendezvous, seedOf } from "./selection.ts";
import type { KeyNeed, ModelState } from "./selection.ts";
import { parseConfig } from "../config/config.ts";
import type { ProviderConfig, Strategy } from "../config/config.ts";
import type { Cooldown } from "./penalties.ts";
import { Account, AFTER_AN_EVENT, keyReadyAt, ModelLimits, newKey } from "./key.ts";
import type { Key } from "./key.ts";

const NOW = Date.UTC(2026, 10, 20, 12);
const SEC = 1000;
const DAY_ENDS_AT = NOW + 12 * 3_600_000;
const STRATEGIES: Strategy[] = ["round-robin", "sticky", "lru", "quota", "affinity"];

const configs = new Map<string, ProviderConfig>();

/** The provider with these keys, as they would be written: `account@key:daily`. Read once: the tests make many. */
function configOf(list: string): ProviderConfig {
  const known = configs.get(list);
  if (known !== undefined) return known;
  const parsed = parseConfig({ API_KEYS: list, PROVIDER: "openai" });
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  const [config] = parsed.config.providers;
  configs.set(list, config);
  return config;
}

/** Those keys, as new. Those of one account share it. */
function keysOf(list: string): Key[] {
  const config = configOf(list);
  const owners = new Map<string, Account>();
  return config.keys.map((configured, index) => {
    const name = configured.account ?? configured.secret.id;
    const owner = owners.get(name) ?? new Account({ kind: "none" });
    owners.set(name, owner);
    return newKey(configured, index, config, owner);
  });
}

function needOf(fields: Partial<KeyNeed> = {}): KeyNeed {
  return {
    model: null,
    conversation: null,
    tried: new Set(),
    reuseAt: 0,
    unsuited: new Set(),
    boundTo: null,
    ...fields,
  };
}

function restUntil(until: number): Cooldown {
  return { until, beganAt: NOW, reason: "rate_limit", strikes: 0, answeredAt: 0 };
}

/** A choice among keys, and what the pool does around it. */
class Stand {
  readonly choice: KeySelector;
  readonly keys: Key[];
  readonly strategy: Strategy;
  now = NOW;

  constructor(strategy: Strategy, list: string) {
    this.strategy = strategy;
    this.keys = keysOf(list);
    this.choice = new KeySelector(strategy);
    this.choice.arrange(this.keys, DAY_ENDS_AT, NOW);
  }

  next(need: KeyNeed): Key | null {
    return this.choice.next(need, this.choice.modelStateOf(need), this.now);
  }

  /** Chooses a key and uses it; its name is its letter, and a dot stands for none. */
  takes(fields: Partial<KeyNeed> = {}): string {
    const key = this.next(needOf(fields));
    if (key === null) return ".";
    this.uses(key);
    return "abcdefgh"[key.index] ?? "?";
  }

  uses(key: Key): void {
    key.today += 1;
    key.lastUsedAt = this.now;
    if (key.dailyLimit !== null) this.choice.refreshKey(key, DAY_ENDS_AT);
    else this.choice.ranked(key);
    this.choice.refresh(key.owner, null, this.now);
  }

  rests(key: Key, until: number): void {
    key.owner.cooldown = restUntil(until);
    this.choice.refresh(key.owner, null, this.now);
  }

  disables(key: Key): void {
    key.disabled = { reason: "invalid_key", at: NOW, said: "" };
    this.choice.refreshKey(key, DAY_ENDS_AT);
  }

  /** What is known of a model with the key's account, to be changed by `change`. */
  limits(model: string, key: Key, change: (limits: ModelLimits) => void): ModelState {
    const modelState = this.choice.openModelState(model, this.now);
    const limits = modelState.limits.get(key.owner) ?? new ModelLimits();
    modelState.limits.set(key.owner, limits);
    change(limits);
    this.choice.refresh(key.owner, modelState, this.now);
    return modelState;
  }

  get told() {
    const { readyAt, dependsOnOthers, hasSuited, othersReadyAt } = this.choice;
    return { readyAt, dependsOnOthers, hasSuited, hasReady: othersReadyAt <= this.now };
  }
}

const FOUR = "key-a,key-b,key-c,key-d";

describe("a choice", () => {
  test.each<[sentence: string, Strategy, list: string, prepare: (stand: Stand) => void, taken: string]>([
    ["goes round the keys", "round-robin", FOUR, () => {}, "abcdab"],
    ["goes round those that are ready", "round-robin", FOUR, (s) => s.rests(s.keys[1]!, NOW + SEC), "acdacd"],
    ["goes on where it was, not at the first", "round-robin", FOUR, (s) => s.takes(), "bcdabc"],
    ["stays with one key", "sticky", FOUR, () => {}, "aaaaaa"],
    [
      "stays with the next one where the first rests",
      "sticky",
      FOUR,
      (s) => s.rests(s.keys[0]!, NOW + SEC),
      "bbbbbb",
    ],
    [
      "takes the one that was not used for longest",
      "lru",
      FOUR,
      (s) =>
        s.keys.forEach((key, index) => {
          key.lastUsedAt = NOW - [3, 9, 1, 5][index]! * SEC;
          s.choice.ranked(key);
        }),
      "bdacbd",
    ],
    ["goes round keys that were never used", "lru", FOUR, () => {}, "abcd"],
    ["takes the key with the most of its day left", "quota", "key-a:4,key-b:8,key-c:2", () => {}, "abcbab"],
    ["takes a key whose day has no end before others", "quota", "key-a:4,key-b,key-c:9", () => {}, "bbbb"],
    ["takes no key whose day is used up", "quota", "key-a:2,key-b:1", () => {}, "aba.."],
    ["goes round for a request that tells no conversation by", "affinity", FOUR, () => {}, "abcdab"],
    ["takes no key that is out of use", "round-robin", FOUR, (s) => s.disables(s.keys[2]!), "abdabd"],
    [
      "takes no key that rests with its account",
      "round-robin",
      "x@key-a,x@key-b,key-c",
      (s) => s.rests(s.keys[0]!, NOW + SEC),
      "ccc",
    ],
  ])("%s (%s)", (_, strategy, list, prepare, taken) => {
    const stand = new Stand(strategy, list);
    prepare(stand);
    stand.now += 1;
    let found = "";
    for (let turn = 0; turn < taken.length; turn++) {
      found += stand.takes();
      if (strategy === "lru") stand.now += 2 * SEC;
    }
    expect(found).toBe(taken);
  });

  test("keeps a conversation with one key, and gives different ones different keys (affinity)", () => {
    const stand = new Stand("affinity", FOUR);
    const homes = Array.from({ length: 40 }, (_, conversation) => stand.takes({ conversation }));
    const again = homes.map((_, conversation) => stand.takes({ conversation }));
    expect(again).toEqual(homes);
    expect(new Set(homes).size).toBe(4);
  });

  test("moves only the conversations of a key that rests, and back when it is over (affinity)", () => {
    const stand = new Stand("affinity", FOUR);
    const homesNow = () => Array.from({ length: 40 }, (_, conversation) => stand.takes({ conversation }));
    const homes = homesNow();
    stand.rests(stand.keys[1]!, NOW + SEC);
    expect(
      homesNow().map((home, index) => (homes[index] === "b" ? home !== "b" : home === homes[index])),
    ).not.toContain(false);
    stand.now = NOW + SEC;
    expect(homesNow()).toEqual(homes);
  });

  const keysAt = (stand: Stand, letters: string) =>
    new Set([...letters].map((letter) => stand.keys["abcd".indexOf(letter)]!));

  test.each<[sentence: string, tried: string, unsuited: string, reuseAt: number, taken: string]>([
    ["P5 takes a key that was not tried", "ab", "", 0, "c"],
    ["P5 takes a tried one where all were", "abcd", "", NOW, "a"],
    ["P9 takes a tried one no earlier than it may be tried again", "abcd", "", NOW + 1, "."],
    ["P16 never takes one that cannot serve the request", "", "abc", 0, "d"],
    ["P16 takes none where none can serve it", "", "abcd", 0, "."],
    ["P5 takes a tried one before one that cannot serve the request", "d", "abc", NOW, "d"],
  ])("%s", (_, tried, unsuited, reuseAt, taken) => {
    for (const strategy of STRATEGIES) {
      const stand = new Stand(strategy, FOUR);
      const fields = { tried: keysAt(stand, tried), unsuited: keysAt(stand, unsuited), reuseAt };
      expect(stand.takes(fields)).toBe(taken);
    }
  });

  test("P35 takes only keys of the account that has what the request refers to", () => {
    for (const strategy of STRATEGIES) {
      const stand = new Stand(strategy, "x@key-a,key-b,x@key-c,key-d");
      expect(stand.takes({ boundTo: accountName(stand.keys[3]!) })).toBe("d");
      expect(["a", "c"]).toContain(stand.takes({ boundTo: "x" }));
      stand.rests(stand.keys[0]!, NOW + SEC);
      expect(stand.takes({ boundTo: "x" })).toBe(".");
      expect(stand.told).toEqual({
        readyAt: NOW + SEC,
        dependsOnOthers: false,
        hasSuited: true,
        hasReady: true,
      });
      expect(stand.takes({ boundTo: "nobody" })).toBe(".");
      expect(stand.told).toMatchObject({ readyAt: Infinity, hasSuited: false, hasReady: true });
    }
  });

  test("P16 asks an account that may not have the model last of all", () => {
    for (const strategy of STRATEGIES) {
      const stand = new Stand(strategy, "key-a,key-b");
      stand.limits("big", stand.keys[0]!, (limits) => (limits.deniedUntil = NOW + SEC));
      expect([stand.takes({ model: "big" }), stand.takes({ model: "big" })]).toEqual(["b", "b"]);
      const tried = new Set([stand.keys[1]!]);
      expect(stand.takes({ model: "big", tried, reuseAt: NOW })).toBe("b");
      expect(stand.takes({ model: "big", tried, reuseAt: NOW + 1 })).toBe("a");
      expect(stand.takes({ model: "big", unsuited: tried })).toBe("a");
      stand.now = NOW + SEC;
      expect(stand.takes({ model: "big", tried })).toBe("a");
    }
  });

  test("P16 rests a key for one model and for no other", () => {
    for (const strategy of STRATEGIES) {
      const stand = new Stand(strategy, "key-a");
      stand.limits("big", stand.keys[0]!, (limits) => (limits.cooldown = restUntil(NOW + SEC)));
      expect([stand.takes({ model: "big" }), stand.choice.readyAt]).toEqual([".", NOW + SEC]);
      expect([stand.takes({ model: "small" }), stand.takes()]).toEqual(["a", "a"]);
      stand.now = NOW + SEC;
      expect(stand.takes({ model: "big" })).toBe("a");
    }
  });

  test("tells when the first will be ready, and whether that is a matter of time", () => {
    const stand = new Stand("round-robin", "key-a,key-b:1,key-c");
    stand.takes({ boundTo: accountName(stand.keys[1]!) });
    stand.rests(stand.keys[0]!, NOW + 5 * SEC);
    stand.rests(stand.keys[2]!, AFTER_AN_EVENT);
    expect(stand.takes()).toBe(".");
    const told = { readyAt: NOW + 5 * SEC, dependsOnOthers: true, hasSuited: true, hasReady: false };
    expect(stand.told).toEqual(told);
    stand.disables(stand.keys[0]!);
    expect([stand.takes(), stand.told]).toEqual([".", { ...told, readyAt: DAY_ENDS_AT }]);
    stand.disables(stand.keys[1]!);
    const afterAnEvent = { ...told, readyAt: Infinity };
    expect([stand.takes(), stand.told]).toEqual([".", afterAnEvent]);
    expect([stand.takes(), stand.told]).toEqual([".", afterAnEvent]); // as it is remembered
    stand.disables(stand.keys[2]!);
    const never = { readyAt: Infinity, dependsOnOthers: false, hasSuited: false, hasReady: false };
    expect([stand.takes(), stand.told]).toEqual([".", never]);
  });

  test("P25 does not walk again while it is known that none is ready", () => {
    const stand = new Stand("round-robin", FOUR);
    for (const [index, key] of stand.keys.entries()) stand.rests(key, NOW + (index + 1) * SEC);
    let looks = 0;
    const need = Object.defineProperty(needOf(), "tried", { get: () => (looks++, new Set()) });
    expect(stand.next(need)).toBeNull();
    const first = looks;
    expect(first).toBeGreaterThanOrEqual(4);
    stand.now = NOW + SEC - 1;
    for (let turn = 0; turn < 100; turn++) expect(stand.next(need)).toBeNull();
    expect([looks - first, stand.choice.readyAt]).toEqual([0, NOW + SEC]);
    stand.now = NOW + SEC;
    expect(stand.next(need)).toBe(stand.keys[0]!);
  });

  test.each<[sentence: string, change: (stand: Stand, key: Key) => void]>([
    ["an account that is ready earlier", (stand, key) => stand.rests(key, NOW)],
    [
      "a key that is back",
      (stand, key) => {
        key.disabled = null;
        stand.choice.refreshKey(key, DAY_ENDS_AT);
      },
    ],
    [
      "a model that is ready earlier",
      (stand, key) => stand.limits("big", key, (limits) => (limits.cooldown = null)),
    ],
    ["other keys", ({ choice, keys }) => choice.arrange([...keysOf("key-z"), ...keys], DAY_ENDS_AT, NOW)],
  ])("hears of %s although it knew that none is ready", (_, change) => {
    const stand = new Stand("round-robin", "key-a,key-b,key-c");
    const [resting, disabled, forModel] = stand.keys;
    stand.rests(resting!, NOW + SEC);
    stand.disables(disabled!);
    stand.limits("big", forModel!, (limits) => (limits.cooldown = restUntil(NOW + 2 * SEC)));
    const need = needOf({ model: "big" });
    expect([stand.next(need), stand.next(need)]).toEqual([null, null]);
    change(stand, sentenceKey(_, stand));
    expect(stand.next(need)).not.toBeNull();
  });

  // Two were under way when the only key was refused for a second, and then for a minute: a client that could wait
  // for five seconds was told so after one, not at once.
  test("P25 tells of the later time when a key that rests is put off", () => {
    const stand = new Stand("round-robin", "key-a");
    stand.rests(stand.keys[0]!, NOW + SEC);
    expect([stand.takes(), stand.choice.readyAt]).toEqual([".", NOW + SEC]);
    stand.rests(stand.keys[0]!, NOW + 60 * SEC);
    expect([stand.takes(), stand.choice.readyAt]).toEqual([".", NOW + 60 * SEC]);
  });

  test("knows keys that are gone no more, nor limits of their accounts", () => {
    const stand = new Stand("lru", FOUR);
    const [gone, ...others] = stand.keys;
    const modelState = stand.limits("big", gone!, (limits) => (limits.deniedUntil = NOW + SEC));
    stand.choice.arrange(others, DAY_ENDS_AT, NOW);
    expect([gone!.index, others.map(({ index }) => index), modelState.limits.size]).toEqual([
      -1,
      [0, 1, 2],
      0,
    ]);
    stand.uses(gone!);
    expect(stand.choice.accounts).not.toContain(gone!.owner);
    expect(new Set([1, 2, 3].map(() => stand.next(needOf())))).toEqual(new Set(others));
  });

  test("lists the limits that an account has with models", () => {
    const stand = new Stand("lru", "key-a,key-b");
    for (const model of ["big", "small"]) stand.limits(model, stand.keys[0]!, () => {});
    stand.limits("other", stand.keys[1]!, () => {});
    const models = [...stand.choice.limitsOf(stand.keys[0]!.owner)].map(([model]) => model);
    expect(models).toEqual(["big", "small"]);
    expect(stand.choice.modelStateOf(needOf({ model: "tiny" }))).toBeNull();
  });

  test("keeps 256 models at most: first those go that are over, then the oldest", () => {
    const stand = new Stand("lru", "key-a");
    const rests = (model: string, until: number) =>
      stand.limits(model, stand.keys[0]!, (limits) => (limits.cooldown = restUntil(until)));
    const names = () => [...stand.choice.modelStates].map(([model]) => model);
    for (let index = 0; index < 256; index++) rests(`model-${index}`, NOW + (index < 3 ? SEC : 60 * SEC));
    expect(names().length).toBe(256);
    stand.now = NOW + SEC;
    rests("late", NOW + 60 * SEC);
    expect([names().length, names()[0], names().at(-1)]).toEqual([254, "model-3", "late"]);
    for (let index = 0; index < 3; index++) rests(`more-${index}`, NOW + 60 * SEC);
    expect([names().length, names()[0], names().at(-1)]).toEqual([256, "model-4", "more-2"]);
  });

  test("P16 keeps a model that an account may not have, while that is known", () => {
    const stand = new Stand("lru", "key-a");
    stand.limits("denied", stand.keys[0]!, (limits) => (limits.deniedUntil = NOW + SEC));
    for (let index = 0; index < 255; index++) stand.choice.openModelState(`model-${index}`, NOW);
    stand.choice.openModelState("late", NOW);
    expect([...stand.choice.modelStates].map(([model]) => model)).toEqual(["denied", "late"]);
  });

  test("names the accounts of keys in use", () => {
    const keys = keysOf("x@key-a,key-b,x@key-c,y@key-d");
    keys[3]!.disabled = { reason: "invalid_key", at: NOW, said: "" };
    expect(accountNames(keys)).toEqual(["x", keys[1]!.secret.id]);
  });
});

/** The key that a sentence of the table is about. */
function sentenceKey(sentence: string, { keys }: Stand): Key {
  if (sentence.startsWith("a key")) return keys[1]!;
  return sentence.startsWith("a model") ? keys[2]! : keys[0]!;
}

// ── Against a choice by the sentence alone ──────────────────────────────────────────────────────────────────────

interface Chosen {
  key: Key | null;
  told: Stand["told"] | null;
}

/** Looks at every key in turn, from `cursor` on, and remembers nothing. */
function naively(stand: Stand, keys: readonly Key[], cursor: number, need: KeyNeed): Chosen {
  const { now, strategy, choice } = stand;
  const limitsOf = (key: Key) => choice.modelStateOf(need)?.limits.get(key.owner);
  const everFrom = (key: Key) =>
    Math.max(keyReadyAt(key, DAY_ENDS_AT), key.owner.readyAt(now), limitsOf(key)?.readyAt(now) ?? 0);
  const wasTried = (key: Key) => need.tried.has(key);
  const readyFrom = (key: Key) =>
    wasTried(key) && everFrom(key) <= now ? Math.max(everFrom(key), need.reuseAt) : everFrom(key);
  const isDenied = (key: Key) => (limitsOf(key)?.deniedUntil ?? 0) > now;

  const inTurn = [...keys.slice(cursor), ...keys.slice(0, cursor)];
  const usable = inTurn.filter((key) => key.disabled === null && !key.isPaused);
  const suited = usable.filter(
    (key) => !need.unsuited.has(key) && (need.boundTo === null || accountName(key) === need.boundTo),
  );
  const ready = suited.filter((key) => readyFrom(key) <= now);
  const fresh = ready.filter((key) => !wasTried(key) && !isDenied(key));
  const key = best(fresh, strategy, need) ?? ready.find((key) => !isDenied(key)) ?? ready[0] ?? null;
  if (key !== null) return { key, told: null };
  const instants = suited.map(readyFrom);
  return {
    key: null,
    told: {
      readyAt: Math.min(...instants.filter((at) => at < AFTER_AN_EVENT)),
      dependsOnOthers: instants.some((at) => at >= AFTER_AN_EVENT),
      hasSuited: suited.length > 0,
      hasReady: usable.some((key) => everFrom(key) <= now),
    },
  };
}

/** The first of those that the strategy likes best. */
function best(keys: readonly Key[], strategy: Strategy, { conversation }: KeyNeed): Key | undefined {
  const liking = (key: Key): number => {
    if (strategy === "lru") return -key.lastUsedAt;
    if (strategy === "quota") return key.dailyLimit === null ? 2 : 1 - key.today / key.dailyLimit;
    if (strategy === "affinity" && conversation !== null)
      return rendezvous(conversation, seedOf(key.secret.id));
    return 0;
  };
  const most = Math.max(...keys.map(liking));
  return keys.find((key) => liking(key) === most);
}

/** Chance, as the tests below need it. */
class Dice {
  readonly #random: () => number;

  constructor(seed: number) {
    this.#random = seeded(seed);
  }

  below(bound: number): number {
    return Math.floor(this.#random() * bound);
  }

  happens(share: number): boolean {
    return this.#random() < share;
  }

  some<T>(items: readonly T[], share: number): Set<T> {
    return new Set(items.filter(() => this.happens(share)));
  }

  oneOf<T>(items: readonly [T, ...T[]]): T {
    return items[this.below(items.length)] ?? items[0];
  }
}

const MIXED = "x@key-a:3,key-b,x@key-c,y@key-d:40,key-e,y@key-f,key-g:9";

function anyNeed(dice: Dice, stand: Stand): KeyNeed {
  const isPlain = dice.happens(0.4);
  return needOf({
    model: dice.oneOf([null, "big", "small", "unknown"]),
    conversation: dice.oneOf([null, dice.below(5)]),
    tried: isPlain ? new Set() : dice.some(stand.keys, dice.oneOf([0, 0.3, 1])),
    reuseAt: stand.now + dice.below(3 * SEC) - SEC,
    unsuited: isPlain ? new Set() : dice.some(stand.keys, dice.oneOf([0, 0, 0.4, 1])),
    boundTo: isPlain ? null : dice.oneOf([null, null, "x", "y", "nobody"]),
  });
}

/** Something changes as the pool would change it. `mayPutOff`: also to a later time than was known. */
function anyChange(dice: Dice, stand: Stand, mayPutOff: boolean): void {
  const { choice, keys } = stand;
  const key = keys[dice.below(keys.length)]!;
  const { owner } = key;
  const later = dice.oneOf([
    0,
    stand.now + dice.below(4 * SEC),
    stand.now + dice.below(4 * SEC),
    AFTER_AN_EVENT,
  ]);
  const isEarlier = (was: number) => mayPutOff || later <= was;
  switch (dice.below(6)) {
    case 0:
      if (isEarlier(owner.cooldown?.until ?? 0)) stand.rests(key, later);
      return;
    case 1:
      stand.limits(dice.oneOf(["big", "small"]), key, (limits) => {
        if (isEarlier(limits.cooldown?.until ?? 0)) limits.cooldown = restUntil(later);
      });
      return;
    case 2:
      stand.limits(dice.oneOf(["big", "small"]), key, (limits) => (limits.deniedUntil = later));
      return;
    case 3:
      key.isPaused = dice.happens(0.4);
      return choice.refreshKey(key, DAY_ENDS_AT);
    case 4:
      key.disabled = dice.happens(0.4) ? { reason: "invalid_key", at: NOW, said: "" } : null;
      return choice.refreshKey(key, DAY_ENDS_AT);
    case 5:
      key.today = dice.below(5);
      return choice.refreshKey(key, DAY_ENDS_AT);
  }
}

/** A stand whose keys are in any state at all. */
function anyStand(dice: Dice, strategy: Strategy): Stand {
  const stand = new Stand(strategy, MIXED);
  const busy = dice.below(3);
  for (let change = 0; change < 8 * busy; change++) anyChange(dice, stand, true);
  if (busy === 2)
    for (const key of stand.keys) if (dice.happens(0.8)) stand.rests(key, NOW + dice.below(4 * SEC));
  stand.choice.arrange(stand.keys, DAY_ENDS_AT, NOW);
  return stand;
}

describe.each(STRATEGIES)("a choice by %s", (strategy) => {
  test("P5 takes the key, or tells why there is none, as one that looks at every key", () => {
    const dice = new Dice(1 + STRATEGIES.indexOf(strategy));
    let [taken, none] = [0, 0];
    for (let run = 0; run < 120; run++) {
      const stand = anyStand(dice, strategy);
      const found: Found[] = [];
      const expected: Found[] = [];
      let cursor = 0;
      for (let step = 0; step < 12; step++) {
        const need = anyNeed(dice, stand);
        const { key: naive, told } = naively(stand, stand.keys, cursor, need);
        const key = stand.next(need);
        expected.push({ key: nameOf(naive), told });
        found.push({ key: nameOf(key), told: key === null ? stand.told : null });
        if (key === null) none += 1;
        else {
          taken += 1;
          cursor = strategy === "sticky" ? key.index : (key.index + 1) % stand.keys.length;
          stand.uses(key);
        }
        if (dice.happens(0.3)) stand.now += dice.below(SEC);
        if (dice.happens(0.5)) anyChange(dice, stand, false);
      }
      expect(found).toEqual(expected);
    }
    expect(Math.min(taken, none)).toBeGreaterThan(250); // both were tested
  });

  // What is put off is told no earlier than it is asked again: until then what was known is told.
  test("P32 does so whatever is put off meanwhile, and when the keys are others", () => {
    const dice = new Dice(100 + STRATEGIES.indexOf(strategy));
    for (let run = 0; run < 40; run++) {
      const stand = anyStand(dice, strategy);
      const found: Found[] = [];
      const expected: Found[] = [];
      const tooLate: number[] = [];
      let { keys } = stand;
      let cursor = 0;
      for (let step = 0; step < 30; step++) {
        const need = anyNeed(dice, stand);
        const { key: naive, told } = naively(stand, keys, cursor, need);
        const key = stand.next(need);
        const { readyAt, dependsOnOthers, hasReady, hasSuited } = stand.told;
        expected.push({
          key: nameOf(naive),
          told: told && { hasReady: told.hasReady, hasSuited: told.hasSuited },
        });
        found.push({ key: nameOf(key), told: key === null ? { hasReady, hasSuited } : null });
        if (told !== null && (readyAt <= stand.now || (!dependsOnOthers && readyAt > told.readyAt)))
          tooLate.push(readyAt - stand.now);
        if (key !== null) {
          cursor = strategy === "sticky" ? key.index : (key.index + 1) % keys.length;
          stand.uses(key);
        }
        stand.now += dice.below(SEC);
        anyChange(dice, stand, true);
        if (!dice.happens(0.05)) continue;
        keys = [...dice.some(stand.keys, 0.7)].sort(() => dice.below(3) - 1);
        stand.choice.arrange(keys, DAY_ENDS_AT, stand.now);
        cursor = 0;
      }
      expect(found).toEqual(expected);
      expect(tooLate).toEqual([]);
    }
  });
});

/** What became of one choice: the id of the key, or what was told where there is none. */
interface Found {
  key: string | null;
  told: Partial<Stand["told"]> | null;
}

function nameOf(key: Key | null): string | null {
  return key === null ? null : key.secret.id;
}
