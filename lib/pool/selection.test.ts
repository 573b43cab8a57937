import { describe, expect, test } from "bun:test";
import { parseConfig } from "../config/config.ts";
import type { ProviderConfig, Strategy } from "../config/config.ts";
import type { NoKey } from "../providers/verdict.ts";
import { seeded } from "../testing/fixture.ts";
import { Account, accountName, accountNames, isInUse, keyReadyAt, newKey, seedOf } from "./key.ts";
import type { Cooldown, Key, KeyNeed, ModelLimits } from "./key.ts";
import { AFTER_AN_EVENT } from "./rate-limiter.ts";
import { KeySelector, rendezvous } from "./selection.ts";

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
  const accounts = new Map<string, Account>();
  return config.keys.map((configured, index) => {
    const name = configured.account ?? configured.secret.id;
    const account = accounts.get(name) ?? new Account(configured.account, { kind: "none" });
    accounts.set(name, account);
    return newKey(configured, index, config, account);
  });
}

function needOf(fields: Partial<KeyNeed> = {}): KeyNeed {
  return {
    model: null,
    conversation: null,
    tried: new Set(),
    reuseAt: 0,
    unsuited: new Set(),
    isUncounted: false,
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
  /** Why there was no key the last time; null: there was one. */
  told: NoKey | null = null;

  constructor(strategy: Strategy, list: string) {
    this.strategy = strategy;
    this.keys = keysOf(list);
    this.choice = new KeySelector(strategy);
    this.choice.dayEndsAt = DAY_ENDS_AT;
    this.choice.arrange(this.keys);
  }

  next(need: KeyNeed): Key | null {
    const chosen = this.choice.choose(need, this.now);
    this.told = "kind" in chosen ? chosen : null;
    return "kind" in chosen ? null : chosen;
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
    this.choice.onTaken(key);
  }

  cools(key: Key, until: number): void {
    key.account.cooldown = restUntil(until);
  }

  disables(key: Key): void {
    key.disabled = { reason: "invalid_key", at: NOW, said: "" };
  }

  /** What is known of a model with the key's account, to be changed by `change`. */
  limits(model: string, key: Key, change: (limits: ModelLimits) => void): void {
    change(this.choice.openLimits(model, key.account, this.now));
  }
}

const FOUR = "key-a,key-b,key-c,key-d";

describe("P48 near a limit that instances share", () => {
  /** Keys with a learnt limit that is nearly used up, and whose turn is this one's in a second. */
  function nearTheirLimits(): Stand {
    const stand = new Stand("round-robin", FOUR);
    for (const { account } of stand.keys) {
      account.limiter.follow({ kind: "learnt" });
      account.limiter.rate.restore({ value: 10, ceiling: null, retryAt: 0, patienceMs: 0 }, NOW);
      for (let nth = 0; nth < 9; nth++) account.limiter.onSentElsewhere(NOW, false);
    }
    stand.choice.turns = { instances: 3, turnAt: () => NOW + SEC };
    return stand;
  }

  test("a key waits for the turn of its instance", () => {
    const stand = nearTheirLimits();
    expect(stand.takes()).toBe(".");
    expect(stand.told).toMatchObject({ readyAt: NOW + SEC });
    stand.now = NOW + 2 * SEC;
    expect(stand.takes()).toBe("a");
  });

  test("one that is alone waits for nobody", () => {
    const stand = nearTheirLimits();
    stand.choice.turns = { instances: 1, turnAt: () => NOW + SEC };
    expect(stand.takes()).toBe("a");
  });

  test("a trial goes out whatever the turns of keys are, so that a paused provider is found out", () => {
    const stand = nearTheirLimits();
    stand.choice.isOnTrial = ({ model }) => model === "down";
    expect(stand.takes()).toBe(".");
    expect(stand.takes({ model: "down" })).toBe("a");
  });

  test("only the instance whose turn it is tries more than is known", () => {
    const stand = nearTheirLimits();
    for (const { account } of stand.keys) account.limiter.onSent(NOW);
    const raised = () => stand.choice.onBlocked(needOf(), NOW + 61 * SEC);
    stand.choice.turns = { instances: 3, turnAt: () => NOW + 62 * SEC };
    for (const { account } of stand.keys)
      for (let nth = 0; nth < 10; nth++) account.limiter.onSent(NOW + 61 * SEC);
    expect(raised()).toBe(false);
    stand.choice.turns = { instances: 3, turnAt: () => 0 };
    expect(raised()).toBe(true);
  });
});

test.each(["round-robin", "sticky", "lru", "quota"] as const)(
  "a choice by %s does not look into the body for its conversation",
  (strategy) => {
    const stand = new Stand(strategy, "a, b");
    const need: KeyNeed = {
      ...needOf(),
      get conversation(): number {
        throw new Error("the body was searched");
      },
    };
    expect(stand.next(need)).not.toBeNull();
  },
);

describe("a choice", () => {
  test.each<[sentence: string, Strategy, list: string, prepare: (stand: Stand) => void, taken: string]>([
    ["goes round the keys", "round-robin", FOUR, () => {}, "abcdab"],
    ["goes round those that are ready", "round-robin", FOUR, (s) => s.cools(s.keys[1]!, NOW + SEC), "acdacd"],
    ["goes on where it was, not at the first", "round-robin", FOUR, (s) => s.takes(), "bcdabc"],
    ["stays with one key", "sticky", FOUR, () => {}, "aaaaaa"],
    [
      "stays with the next one where the first rests",
      "sticky",
      FOUR,
      (s) => s.cools(s.keys[0]!, NOW + SEC),
      "bbbbbb",
    ],
    [
      "takes the one that was not used for longest",
      "lru",
      FOUR,
      (s) =>
        s.keys.forEach((key, index) => {
          key.lastUsedAt = NOW - [3, 9, 1, 5][index]! * SEC;
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
      (s) => s.cools(s.keys[0]!, NOW + SEC),
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
    stand.cools(stand.keys[1]!, NOW + SEC);
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
      stand.cools(stand.keys[0]!, NOW + SEC);
      expect(stand.takes({ boundTo: "x" })).toBe(".");
      expect(stand.told).toEqual({
        kind: "no_key",
        why: "cooling",
        readyAt: NOW + SEC,
        maybeSooner: false,
        isPaced: false,
        isOwn: true,
      });
      expect(stand.takes({ boundTo: "nobody" })).toBe(".");
      expect(stand.told).toMatchObject({ why: "unsuited", readyAt: Infinity });
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
      expect([stand.takes({ model: "big" }), stand.told?.readyAt]).toEqual([".", NOW + SEC]);
      expect([stand.takes({ model: "small" }), stand.takes()]).toEqual(["a", "a"]);
      stand.now = NOW + SEC;
      expect(stand.takes({ model: "big" })).toBe("a");
    }
  });

  test("tells when the first will be ready, and whether that is a matter of time", () => {
    const stand = new Stand("round-robin", "key-a,key-b:1,key-c");
    stand.takes({ boundTo: accountName(stand.keys[1]!) });
    stand.cools(stand.keys[0]!, NOW + 5 * SEC);
    stand.cools(stand.keys[2]!, AFTER_AN_EVENT);
    const told = { kind: "no_key", why: "cooling", maybeSooner: true, isPaced: true, isOwn: false } as const;
    expect([stand.takes(), stand.told]).toEqual([".", { ...told, readyAt: NOW + 5 * SEC }]);
    stand.disables(stand.keys[0]!);
    expect([stand.takes(), stand.told]).toEqual([".", { ...told, readyAt: DAY_ENDS_AT }]);
    stand.disables(stand.keys[1]!);
    expect([stand.takes(), stand.told]).toEqual([".", { ...told, readyAt: Infinity, isPaced: false }]);
    stand.disables(stand.keys[2]!);
    const never: NoKey = { kind: "no_key", why: "none_usable", readyAt: Infinity };
    expect([stand.takes(), stand.told]).toEqual([".", never]);
  });

  test("changes nothing by being asked", () => {
    for (const strategy of STRATEGIES) {
      const stand = new Stand(strategy, FOUR);
      const asked = [1, 2, 3].map(() => stand.next(needOf()));
      expect(new Set(asked).size).toBe(1);
    }
  });

  test.each<[sentence: string, prepare: (stand: Stand, tried: Set<Key>) => void, taken: string]>([
    ["goes to a key that a learnt limit holds back where the other one keeps failing", () => {}, "a"],
    [
      "goes to it where the other one failed for this request",
      ({ keys }, tried) => {
        keys[1]!.account.faultsInRow = 1;
        tried.add(keys[1]!);
      },
      "a",
    ],
    [
      "goes to the other one as long as that serves",
      ({ keys }) => void (keys[1]!.account.faultsInRow = 0),
      "b",
    ],
    [
      "goes to the other one after a single failure",
      ({ keys }) => void (keys[1]!.account.faultsInRow = 1),
      "b",
    ],
    [
      "goes to the other one where both keep failing",
      ({ keys }) => void (keys[0]!.account.faultsInRow = 9),
      "b",
    ],
    ["does not go to a key that cools", (stand) => stand.cools(stand.keys[0]!, NOW + SEC), "b"],
    ["does not go to a key that was tried already", ({ keys }, tried) => void tried.add(keys[0]!), "b"],
  ])("P5 a request %s", (_, prepare, taken) => {
    for (const strategy of STRATEGIES) {
      const stand = new Stand(strategy, "key-a,key-b");
      const [held, failing] = stand.keys;
      held!.account.limiter.follow({ kind: "learnt" });
      held!.account.limiter.concurrency.restore({ value: 1, ceiling: null, retryAt: 0, patienceMs: 0 }, NOW);
      held!.account.limiter.onSent(NOW);
      failing!.account.faultsInRow = 2;
      const tried = new Set<Key>();
      prepare(stand, tried);
      expect(stand.takes({ tried })).toBe(taken);
    }
  });

  test.each<[sentence: string, change: (stand: Stand, key: Key) => void]>([
    ["an account that is ready earlier", (stand, key) => stand.cools(key, NOW)],
    ["a key that is back", (_stand, key) => void (key.disabled = null)],
    [
      "a model that is ready earlier",
      (stand, key) => stand.limits("big", key, (limits) => (limits.cooldown = null)),
    ],
    ["other keys", ({ choice, keys }) => choice.arrange([...keysOf("key-z"), ...keys])],
  ])("hears of %s although it knew that none is ready", (_, change) => {
    const stand = new Stand("round-robin", "key-a,key-b,key-c");
    const [resting, disabled, forModel] = stand.keys;
    stand.cools(resting!, NOW + SEC);
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
    stand.cools(stand.keys[0]!, NOW + SEC);
    expect([stand.takes(), stand.told?.readyAt]).toEqual([".", NOW + SEC]);
    stand.cools(stand.keys[0]!, NOW + 60 * SEC);
    expect([stand.takes(), stand.told?.readyAt]).toEqual([".", NOW + 60 * SEC]);
  });

  test("knows keys that are gone no more, nor limits of their accounts", () => {
    const stand = new Stand("lru", FOUR);
    const [gone, ...others] = stand.keys;
    stand.limits("big", gone!, (limits) => (limits.deniedUntil = NOW + SEC));
    stand.choice.arrange(others);
    expect([gone!.index, others.map(({ index }) => index)]).toEqual([-1, [0, 1, 2]]);
    expect(stand.choice.limitsFor({ model: "big" }, gone!.account)).toBeNull();
    const taken = [1, 2, 3].map(() => {
      stand.now += SEC;
      const key = stand.next(needOf());
      stand.uses(key!);
      return key;
    });
    expect(new Set(taken)).toEqual(new Set(others));
  });

  const namesOf = ({ choice, keys }: Stand) => [...choice.limitsOf(keys[0]!.account)].map(([model]) => model);

  test("lists the limits that an account has with models", () => {
    const stand = new Stand("lru", "key-a,key-b");
    for (const model of ["big", "small"]) stand.limits(model, stand.keys[0]!, () => {});
    stand.limits("other", stand.keys[1]!, () => {});
    expect(namesOf(stand)).toEqual(["big", "small"]);
    expect(stand.choice.modelStateOf(needOf({ model: "tiny" }))).toBeNull();
  });

  test("keeps 256 models at most: first those go that are over, then the oldest", () => {
    const stand = new Stand("lru", "key-a");
    const cools = (model: string, until: number) =>
      stand.limits(model, stand.keys[0]!, (limits) => (limits.cooldown = restUntil(until)));
    const names = () => namesOf(stand);
    for (let index = 0; index < 256; index++) cools(`model-${index}`, NOW + (index < 3 ? SEC : 60 * SEC));
    expect(names().length).toBe(256);
    stand.now = NOW + SEC;
    cools("late", NOW + 60 * SEC);
    expect([names().length, names()[0], names().at(-1)]).toEqual([254, "model-3", "late"]);
    for (let index = 0; index < 3; index++) cools(`more-${index}`, NOW + 60 * SEC);
    expect([names().length, names()[0], names().at(-1)]).toEqual([256, "model-4", "more-2"]);
  });

  test("P16 keeps a model that an account may not have, while that is known", () => {
    const stand = new Stand("lru", "key-a");
    stand.limits("denied", stand.keys[0]!, (limits) => (limits.deniedUntil = NOW + SEC));
    for (let index = 0; index < 255; index++) stand.limits(`model-${index}`, stand.keys[0]!, () => {});
    stand.limits("late", stand.keys[0]!, () => {});
    expect(namesOf(stand)).toEqual(["denied", "late"]);
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

/** Looks at every key in turn, from `cursor` on, and goes by the sentences alone. */
function naively(stand: Stand, keys: readonly Key[], cursor: number, need: KeyNeed): Key | NoKey {
  const { now, strategy, choice } = stand;
  const limitsOf = (key: Key) => choice.modelStateOf(need)?.limits.get(key.account);
  const everFrom = (key: Key) =>
    Math.max(keyReadyAt(key, DAY_ENDS_AT), key.account.readyAt(now), limitsOf(key)?.readyAt(now) ?? 0);
  const wasTried = (key: Key) => need.tried.has(key);
  const readyFrom = (key: Key) => Math.max(everFrom(key), wasTried(key) ? need.reuseAt : 0);
  const isDenied = (key: Key) => (limitsOf(key)?.deniedUntil ?? 0) > now;

  const inTurn = [...keys.slice(cursor), ...keys.slice(0, cursor)];
  const usable = inTurn.filter(isInUse);
  const suited = usable.filter(
    (key) => !need.unsuited.has(key) && (need.boundTo === null || accountName(key) === need.boundTo),
  );
  const ready = suited.filter((key) => readyFrom(key) <= now);
  const allowed = ready.filter((key) => !isDenied(key));
  const fresh = allowed.filter((key) => !wasTried(key));
  const chosen = best(fresh, strategy, need) ?? best(allowed, strategy, need) ?? best(ready, strategy, need);
  if (chosen !== undefined) return chosen;
  if (usable.length === 0) return { kind: "no_key", why: "none_usable", readyAt: Infinity };
  if (suited.length === 0) return { kind: "no_key", why: "unsuited", readyAt: Infinity };
  const instants = suited.map(readyFrom);
  return {
    kind: "no_key",
    why: "cooling",
    readyAt: Math.min(...instants.filter((at) => at < AFTER_AN_EVENT)),
    maybeSooner: instants.some((at) => at >= AFTER_AN_EVENT),
    isPaced: suited.some(
      (key) => (key.account.cooldown?.until ?? 0) <= now && (limitsOf(key)?.cooldown?.until ?? 0) <= now,
    ),
    isOwn: Math.min(...usable.map(everFrom)) < Math.min(...instants),
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

/** Something changes. */
function anyChange(dice: Dice, stand: Stand): void {
  const key = stand.keys[dice.below(stand.keys.length)]!;
  const [soon, sooner] = [stand.now + dice.below(4 * SEC), stand.now + dice.below(4 * SEC)];
  const later = dice.oneOf([0, soon, sooner, AFTER_AN_EVENT]);
  switch (dice.below(6)) {
    case 0:
      return stand.cools(key, later);
    case 1:
      return stand.limits(dice.oneOf(["big", "small"]), key, (limits) => {
        limits.cooldown = restUntil(later);
      });
    case 2:
      return stand.limits(dice.oneOf(["big", "small"]), key, (limits) => (limits.deniedUntil = later));
    case 3:
      key.isPaused = dice.happens(0.4);
      return;
    case 4:
      key.disabled = dice.happens(0.4) ? { reason: "invalid_key", at: NOW, said: "" } : null;
      return;
    case 5:
      key.today = dice.below(5);
  }
}

/** A stand whose keys are in any state at all. */
function anyStand(dice: Dice, strategy: Strategy): Stand {
  const stand = new Stand(strategy, MIXED);
  const busy = dice.below(3);
  for (let change = 0; change < 8 * busy; change++) anyChange(dice, stand);
  if (busy === 2)
    for (const key of stand.keys) if (dice.happens(0.8)) stand.cools(key, NOW + dice.below(4 * SEC));
  return stand;
}

/** What became of a choice: the id of the key, or what was told where there is none. */
function foundOf(chosen: Key | NoKey): string | NoKey {
  return "kind" in chosen ? chosen : chosen.secret.id;
}

describe.each(STRATEGIES)("a choice by %s", (strategy) => {
  test("P5 P32 takes the key, or tells why there is none, as one that goes by the sentences alone", () => {
    const dice = new Dice(1 + STRATEGIES.indexOf(strategy));
    let [taken, none] = [0, 0];
    for (let run = 0; run < 160; run++) {
      const stand = anyStand(dice, strategy);
      const found: (string | NoKey)[] = [];
      const expected: (string | NoKey)[] = [];
      let { keys } = stand;
      let cursor = 0;
      for (let step = 0; step < 20; step++) {
        const need = anyNeed(dice, stand);
        expected.push(foundOf(naively(stand, keys, cursor, need)));
        const chosen = stand.choice.choose(need, stand.now);
        found.push(foundOf(chosen));
        if ("kind" in chosen) none += 1;
        else {
          taken += 1;
          cursor = strategy === "sticky" ? chosen.index : (chosen.index + 1) % keys.length;
          stand.uses(chosen);
        }
        if (dice.happens(0.3)) stand.now += dice.below(SEC);
        if (dice.happens(0.5)) anyChange(dice, stand);
        if (!dice.happens(0.03)) continue;
        keys = [...dice.some(stand.keys, 0.7)].sort(() => dice.below(3) - 1);
        stand.choice.arrange(keys);
        cursor = 0;
      }
      expect(found).toEqual(expected);
    }
    expect(Math.min(taken, none)).toBeGreaterThan(250); // both were tested
  });
});
