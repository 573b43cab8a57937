import { describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FalseClock, settled } from "../testing/fixture.ts";
import { fileStorage, KeptState } from "./state.ts";
import type { KeepingStorage } from "./state.ts";

const RESOURCE = { provider: "default", id: "file-1", account: "alice", at: 5 };

function keep(storage: KeepingStorage) {
  const clock = new FalseClock();
  const told: string[] = [];
  return { clock, told, state: new KeptState(storage, clock, (message) => told.push(message)) };
}

describe("a state", () => {
  test("is saved at most once a second, and only where something has changed", async () => {
    const saved: string[] = [];
    const { clock, state, told } = keep({ load: () => null, save: (json) => saved.push(json) });
    expect(state.load()).toBeNull();
    await clock.advance(5000);
    expect([saved.length, clock.timers]).toEqual([0, 0]);
    for (let count = 0; count < 10; count++) {
      state.saveKey("default", "k1", () => ({ today: count }));
      await clock.advance(100);
    }
    await clock.advance(1000);
    expect(saved.length).toBe(1);
    state.saveResource(RESOURCE);
    await state.close();
    expect(JSON.parse(saved.at(-1) ?? "")).toEqual({
      keywheel: 1,
      keys: { default: { k1: { today: 9 } } },
      resources: [RESOURCE],
    });
    state.dropResource("default", "file-1");
    await settled();
    expect(saved.length).toBe(3); // after close at once
    expect(told).toEqual([]);
  });

  test("that cannot be saved in time holds up nobody who closes it", async () => {
    const { clock, state, told } = keep({ load: () => null, save: () => new Promise(() => {}) });
    state.load();
    state.saveKey("default", "k1", () => ({}));
    const closing = state.close();
    await clock.advance(5000);
    await closing;
    expect(told).toEqual(["The state was not saved within 5 s."]);
  });

  test("comes back as it was saved, what has not changed since included", async () => {
    let text = "";
    const storage = { load: () => text, save: (json: string) => void (text = json) };
    const first = keep(storage).state;
    first.load();
    first.saveKey("default", "k1", () => ({ today: 1 }));
    first.saveKey("groq", "k2", () => ({ today: 2 }));
    first.saveResource(RESOURCE);
    await first.close();
    const second = keep(storage).state;
    second.load();
    expect([...second.keyStates("groq")]).toEqual([["k2", { today: 2 }]]);
    expect(second.resources()).toEqual([RESOURCE]);
    second.saveKey("default", "k1", () => ({ today: 5 }));
    await second.close();
    expect(JSON.parse(text).keys).toEqual({ default: { k1: { today: 5 } }, groq: { k2: { today: 2 } } });
  });

  const BAD: [sentence: string, storage: KeepingStorage, says: string][] = [
    [
      "load() throws",
      {
        load: () => {
          throw new Error("no disk");
        },
        save() {},
      },
      "could not be read: no disk",
    ],
    [
      "load() rejects",
      { load: () => Promise.reject(new Error("no net")), save() {} },
      "could not be read: no net",
    ],
    ["load() never ends", { load: () => new Promise(() => {}), save() {} }, "not there within 5 s"],
    ["what was stored is no JSON", { load: () => "{", save() {} }, "cannot be read"],
    ["what was stored is somebody else's", { load: () => '{"version":3}', save() {} }, "cannot be read"],
    [
      "what was stored is of a later version",
      { load: () => '{"keywheel":2,"keys":{}}', save() {} },
      "cannot be read",
    ],
    [
      "save() throws",
      {
        load: () => null,
        save: () => {
          throw new Error("full");
        },
      },
      "could not be saved: full",
    ],
    [
      "save() rejects",
      { load: () => null, save: () => Promise.reject(new Error("gone")) },
      "could not be saved: gone",
    ],
  ];
  test.each(BAD)("%s: it is told once, and goes on", async (_, storage, says) => {
    const { clock, state, told } = keep(storage);
    const loading = state.load();
    await clock.advance(6000);
    await loading;
    state.saveKey("default", "k1", () => ({}));
    await clock.advance(1500);
    await settled();
    expect(told).toEqual([expect.stringContaining(says)]);
    expect(state.keyStates("default").size).toBe(1);
  });

  test("rows that are none are left out", () => {
    const { state } = keep({
      load: () =>
        JSON.stringify({ keywheel: 1, keys: { default: 7, groq: { k: 1 } }, resources: [1, {}, RESOURCE] }),
      save() {},
    });
    state.load();
    expect(state.resources()).toEqual([RESOURCE]);
    expect([...state.keyStates("default"), ...state.keyStates("groq")]).toEqual([["k", 1]]);
  });
});

describe("a state in a file", () => {
  async function inFolder(run: (path: string, folder: string) => Promise<void>) {
    const folder = mkdtempSync(join(tmpdir(), "keywheel-state-"));
    try {
      await run(join(folder, "keys.json"), folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }

  test("is made for its owner alone, whole or not at all", async () => {
    await inFolder(async (path, folder) => {
      const { state, told } = keep(fileStorage(path, () => {}));
      state.load();
      state.saveKey("default", "k1", () => ({}));
      await state.close();
      expect(statSync(path).mode & 0o777).toBe(0o600);
      expect(readdirSync(folder)).toEqual(["keys.json"]);
      expect(told).toEqual([]);
    });
  });

  test("P33 that is broken is set aside, and one is begun anew", async () => {
    await inFolder(async (path, folder) => {
      writeFileSync(path, '{"keywheel":1,"ke');
      const { state, told } = keep(fileStorage(path, () => {}));
      state.load();
      state.saveKey("default", "k1", () => ({}));
      await state.close();
      expect(readdirSync(folder).sort()).toEqual(["keys.json", "keys.json.corrupt-2026-11-20T12-00-00-000Z"]);
      expect(told).toEqual([expect.stringContaining("was renamed to")]);
    });
  });

  test("that another pool writes, too, is told of once", async () => {
    await inFolder(async (path) => {
      const told: string[] = [];
      const one = fileStorage(path, (message) => told.push(message));
      one.load();
      await one.save("1");
      await one.save("2");
      expect(told).toEqual([]);
      await fileStorage(path, () => {}).save("3");
      await one.save("4");
      await fileStorage(path, () => {}).save("5");
      await one.save("6");
      expect(told).toEqual([expect.stringContaining("another pool")]);
      expect(readFileSync(path, "utf8")).toBe("6");
    });
  });

  test("that is a database of the proxy's stays as it is", async () => {
    await inFolder(async (path, folder) => {
      writeFileSync(path, "SQLite format 3\0…");
      const { state, told } = keep(fileStorage(path, () => {}));
      state.load();
      state.saveKey("default", "k1", () => ({}));
      await state.close();
      expect(readdirSync(folder)).toEqual(["keys.json"]);
      expect(readFileSync(path, "utf8")).toStartWith("SQLite");
      expect(told).toEqual([expect.stringContaining("database of the proxy")]);
    });
  });
});
