import { describe, expect, test } from "bun:test";
import { ResourceOwners } from "./resource-owners.ts";
import type { OwnedId } from "./resource-owners.ts";

const NOW = Date.UTC(2026, 10, 20);
const anywhere = () => true;

/** A store as far as owners need one. */
function shelf() {
  const rows = new Map<string, OwnedId>();
  return {
    rows,
    saveResource: (owned: OwnedId) => void rows.set(`${owned.provider}/${owned.id}`, owned),
    dropResource: (provider: string, id: string) => void rows.delete(`${provider}/${id}`),
  };
}

describe("the owner of a thing", () => {
  test("P35 is the account whose answer told of it", () => {
    const owners = new ResourceOwners();
    owners.learn("openai", "a", ["file-1", "resp_1"], NOW);
    owners.learn("openai", "b", ["file-2"], NOW);
    expect(["file-1", "resp_1", "file-2", "file-3"].map((id) => owners.owner("openai", id))).toEqual([
      "a",
      "a",
      "b",
      null,
    ]);
    expect(owners.count("openai")).toBe(3);
  });

  test("P35 is each provider's own", () => {
    const owners = new ResourceOwners();
    owners.learn("openai", "a", ["file-1"], NOW);
    expect(owners.owner("groq", "file-1")).toBeNull();
    expect(owners.count("groq")).toBe(0);
  });

  test("P35 is the last one that told of it", () => {
    const owners = new ResourceOwners();
    owners.learn("openai", "a", ["file-1"], NOW);
    owners.learn("openai", "b", ["file-1"], NOW);
    expect(owners.owner("openai", "file-1")).toBe("b");
    expect(owners.count("openai")).toBe(1);
  });

  test("P35 is nobody once the thing is no more", () => {
    const owners = new ResourceOwners();
    owners.learn("openai", "a", ["file-1"], NOW);
    owners.forget("openai", "file-1");
    expect(owners.owner("openai", "file-1")).toBeNull();
  });

  const rows: [says: string, ids: string[], there: string, account: string | null][] = [
    ["is any where no id is known", ["file-9"], "abc", null],
    ["is any where there is none", [], "abc", null],
    ["is that of the only id that is known", ["file-9", "file-b"], "abc", "b"],
    ["is that of the first of several", ["resp_1a", "file-b", "vs_1b"], "abc", "a"],
    ["is not one that has left the pool", ["resp_1a", "file-b"], "bc", "b"],
    ["is any where all of them have left", ["resp_1a"], "c", null],
  ];
  test.each(rows)("P35 that a request goes to %s", (_, ids, there, account) => {
    const owners = new ResourceOwners();
    owners.learn("openai", "a", ["resp_1a", "file-a"], NOW);
    owners.learn("openai", "b", ["file-b", "vs_1b"], NOW);
    expect(owners.accountOf("openai", ids, (name) => there.includes(name))).toBe(account);
  });
});

describe("what is remembered of owners", () => {
  test("is bounded: the longest unused is forgotten, and turns do not crowd out what lasts", () => {
    const store = shelf();
    const owners = new ResourceOwners(store, 6);
    owners.learn("openai", "a", ["file-1", "file-2", "file-3"], NOW);
    owners.owner("openai", "file-1");
    owners.learn("openai", "a", ["file-4"], NOW);
    for (let turn = 0; turn < 100; turn++) owners.learn("openai", "b", [`resp_${turn}`], NOW + turn);
    const expected = ["file-3", "file-1", "file-4", "resp_97", "resp_98", "resp_99"];
    expect([...owners.entries()].map(({ id }) => id)).toEqual(expected);
    expect([...store.rows.values()].map(({ id }) => id).toSorted()).toEqual(expected.toSorted());
  });

  test("P35 survives a restart", () => {
    const store = shelf();
    const first = new ResourceOwners(store, 4);
    first.learn("openai", "a", ["file-1", "file-2"], NOW);
    first.learn("groq", "b", ["batch_1"], NOW + 1);
    first.learn("openai", "b", ["file-1"], NOW + 2);
    first.forget("openai", "file-2");
    const second = new ResourceOwners(store, 4);
    second.restore([...store.rows.values()].toReversed());
    const sorted = (owners: ResourceOwners) =>
      [...owners.entries()].toSorted((one, other) => one.at - other.at);
    expect(sorted(second)).toEqual(sorted(first));
    expect(sorted(second).map(({ id }) => id)).toEqual(["batch_1", "file-1"]);
    second.learn("openai", "a", ["file-3", "file-4"], NOW + 3);
    expect(second.owner("openai", "file-1")).toBeNull();
    expect(store.rows.has("openai/file-1")).toBeFalse();
  });

  test("is told to the store once, not with every look", () => {
    const told: OwnedId[] = [];
    const owners = new ResourceOwners({
      saveResource: (owned) => void told.push(owned),
      dropResource: () => {},
    });
    owners.learn("openai", "a", ["file-1"], NOW);
    owners.learn("openai", "a", ["file-1"], NOW + 1);
    expect(told).toEqual([{ provider: "openai", id: "file-1", account: "a", at: NOW }]);
  });
});

describe("an unknown id", () => {
  test("P35 is one that nobody has told of", () => {
    const owners = new ResourceOwners();
    owners.learn("openai", "a", ["file-1"], NOW);
    expect(owners.unknown("openai", ["file-1", "file-2"], NOW)).toEqual(["file-2"]);
  });

  test("P35 is not asked around for again for a minute after nobody had it", () => {
    const owners = new ResourceOwners();
    owners.rememberMissing("openai", ["file-1"], NOW);
    expect(owners.unknown("openai", ["file-1", "file-2"], NOW + 59_999)).toEqual(["file-2"]);
    expect(owners.unknown("groq", ["file-1"], NOW)).toEqual(["file-1"]);
    expect(owners.unknown("openai", ["file-1"], NOW + 60_000)).toEqual(["file-1"]);
  });

  test("P35 is known as soon as somebody has it, and asked around for when it is forgotten", () => {
    const owners = new ResourceOwners();
    owners.rememberMissing("openai", ["file-1"], NOW);
    owners.learn("openai", "a", ["file-1"], NOW);
    expect(owners.accountOf("openai", ["file-1"], anywhere)).toBe("a");
    owners.forget("openai", "file-1");
    expect(owners.unknown("openai", ["file-1"], NOW)).toEqual(["file-1"]);
  });

  test("is one of at most a thousand that nobody has", () => {
    const owners = new ResourceOwners();
    const ids = Array.from({ length: 1500 }, (_, index) => `file-${index}`);
    owners.rememberMissing("openai", ids, NOW);
    expect(owners.unknown("openai", ids, NOW)).toEqual(ids.slice(0, 500));
  });
});

describe("the home of a provider", () => {
  test("is its first account as long as none has anything, and the same one each time", () => {
    const owners = new ResourceOwners();
    expect(owners.mainAccount("openai", ["a", "b"])).toBe("a");
    expect(owners.mainAccount("openai", [])).toBeNull();
  });

  test("is the account that has most of what lasts; turns do not count", () => {
    const owners = new ResourceOwners();
    owners.learn("openai", "b", ["file-1", "vs_1"], NOW);
    owners.learn("openai", "a", ["file-2", "resp_1", "resp_2", "resp_3"], NOW);
    expect(owners.mainAccount("openai", ["a", "b", "c"])).toBe("b");
    expect(owners.mainAccount("openai", ["a", "c"])).toBe("a");
    expect(owners.mainAccount("groq", ["c", "b"])).toBe("c");
  });

  test("moves with what is forgotten, and with what turns out to be another's", () => {
    const owners = new ResourceOwners();
    owners.learn("openai", "b", ["file-1", "file-2"], NOW);
    owners.learn("openai", "a", ["file-3"], NOW);
    owners.forget("openai", "file-1");
    owners.learn("openai", "a", ["file-2"], NOW);
    expect(owners.mainAccount("openai", ["b", "a"])).toBe("a");
  });
});
