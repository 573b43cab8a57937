import { describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FalseClock } from "../testing/fixture.ts";
import { Usage } from "./usage.ts";
import { createLog } from "./log.ts";
import type { Log, RequestRecord } from "../core/events.ts";
import { openStore, type Store } from "./store.ts";

interface Shelf {
  readonly clock: FalseClock;
  readonly path: string;
  readonly folder: string;
  readonly usage: Usage;
  readonly store: Store;
  readonly log: Log;
  /** Opens the file once more, as the next start of the program does. */
  again(): Promise<{ store: Store; usage: Usage }>;
  said(): string;
}

async function shelf(
  body: (shelf: Shelf) => Promise<void>,
  prepare: (path: string) => void = () => {},
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "keywheel-store-"));
  const path = join(folder, "keywheel.db");
  const clock = new FalseClock();
  let text = "";
  const log = createLog({ level: "info", format: "json", clock, write: (line) => (text += line) });
  const opened: Store[] = [];
  const open = async () => {
    const usage = new Usage();
    const store = await openStore({ path, clock, log, usage });
    opened.push(store);
    return { store, usage };
  };
  prepare(path);
  try {
    const first = await open();
    const said = () => {
      log.flush();
      return text;
    };
    await body({ clock, path, folder, log, ...first, again: open, said });
  } finally {
    for (const store of opened) store.close();
    chmodSync(folder, 0o700);
    rmSync(folder, { recursive: true });
  }
}

const record = (id: number, at: number, fields: Partial<RequestRecord> = {}): RequestRecord => ({
  id,
  at,
  method: "POST",
  path: "/v1/chat/completions",
  provider: "default",
  model: "gpt-4o",
  status: 200,
  outcome: "served",
  key: "0",
  keyId: "aaaaaaaa",
  account: null,
  attempts: [
    {
      provider: "default",
      key: 1,
      keyId: "bbbbbbbb",
      account: null,
      verdict: "rate_limited",
      status: 429,
      ms: 5,
      said: "",
    },
    {
      provider: "default",
      key: 0,
      keyId: "aaaaaaaa",
      account: null,
      verdict: "served",
      status: 200,
      ms: 9,
      said: "",
    },
  ],
  waitedMs: 0,
  firstByteMs: 10,
  totalMs: 20,
  bytes: 30,
  client: null,
  isTruncated: false,
  reason: "",
  maybeBilledReplays: 0,
  ...fields,
});

/** When a file that could not be used was tried again. */
async function later(clock: FalseClock): Promise<void> {
  await clock.advance(30_000);
  await Bun.sleep(20); // modules are loaded, files opened
  await clock.advance(1000);
}

/** A file as the first version made it. */
function firstLayout(path: string): void {
  const database = new Database(path, { create: true });
  database.run(`
    CREATE TABLE keys (provider TEXT, id TEXT, state TEXT NOT NULL, PRIMARY KEY (provider, id)) WITHOUT ROWID;
    CREATE TABLE resources (provider TEXT, id TEXT, account TEXT NOT NULL, at INTEGER NOT NULL,
      PRIMARY KEY (provider, id)) WITHOUT ROWID;
    CREATE TABLE requests (slot INTEGER PRIMARY KEY, at INTEGER NOT NULL, record TEXT NOT NULL);
    CREATE TABLE usage (day TEXT, provider TEXT, key_id TEXT, model TEXT, requests INTEGER NOT NULL,
      rate_limited INTEGER NOT NULL, errors INTEGER NOT NULL,
      PRIMARY KEY (day, provider, key_id, model)) WITHOUT ROWID;
    CREATE TABLE traffic (at INTEGER PRIMARY KEY, requests INTEGER NOT NULL, absorbed INTEGER NOT NULL,
      errors INTEGER NOT NULL);
    PRAGMA user_version = 1;
  `);
  const noon = new FalseClock().now();
  const { account: _, reason: __, ...old } = record(3, noon);
  const attempts = old.attempts.map(({ account: ___, ...attempt }) => attempt);
  database.query("INSERT INTO keys VALUES ('default', 'aaaaaaaa', ?)").run(JSON.stringify({ today: 9 }));
  database.query("INSERT INTO usage VALUES ('2026-11-20', 'default', 'aaaaaaaa', 'gpt-4o', 5, 1, 0)").run();
  database.query("INSERT INTO traffic VALUES (?, 4, 1, 0)").run(noon);
  database.query("INSERT INTO requests VALUES (0, ?, ?)").run(noon, JSON.stringify({ ...old, attempts }));
  database.close();
}

/** A file as the second version made it. */
function secondLayout(path: string): void {
  const database = new Database(path, { create: true });
  database.run(`
    CREATE TABLE keys (provider TEXT, id TEXT, state TEXT NOT NULL, PRIMARY KEY (provider, id)) WITHOUT ROWID;
    CREATE TABLE resources (provider TEXT, id TEXT, account TEXT NOT NULL, at INTEGER NOT NULL,
      PRIMARY KEY (provider, id)) WITHOUT ROWID;
    CREATE TABLE requests (slot INTEGER PRIMARY KEY, at INTEGER NOT NULL, record TEXT NOT NULL);
    CREATE TABLE usage (day TEXT, provider TEXT, key_id TEXT, model TEXT, client TEXT, requests INTEGER NOT NULL,
      rate_limited INTEGER NOT NULL, errors INTEGER NOT NULL,
      PRIMARY KEY (day, provider, key_id, model, client)) WITHOUT ROWID;
    CREATE TABLE traffic (step TEXT, at INTEGER, requests INTEGER NOT NULL, absorbed INTEGER NOT NULL,
      hidden_429 INTEGER NOT NULL, errors INTEGER NOT NULL, PRIMARY KEY (step, at)) WITHOUT ROWID;
    INSERT INTO usage VALUES ('2026-11-20', 'default', 'aaaaaaaa', 'gpt-4o', 'ann', 5, 1, 0);
    PRAGMA user_version = 2;
  `);
  database.close();
}

describe("the state file", () => {
  test("P33 keeps states of keys, resources, requests and counts over a restart", async () => {
    await shelf(async ({ clock, usage, store, again }) => {
      store.saveKey("default", "aaaaaaaa", () => ({ today: 7 }));
      store.saveResource({ provider: "default", id: "file-1", account: "alice", at: clock.now() });
      for (let id = 0; id < 3; id++) {
        const request = record(id, clock.now());
        usage.finished(request);
        store.finished(request);
      }
      await clock.advance(1000);
      const next = await (store.close(), again());
      expect(next.store.keyStates("default")).toEqual(new Map([["aaaaaaaa", { today: 7 }]]));
      expect(next.store.keyStates("other").size).toBe(0);
      expect(next.store.resources()).toMatchObject([{ id: "file-1", account: "alice" }]);
      expect(next.usage.recent(9).map(({ id }) => id)).toEqual([2, 1, 0]);
      expect(next.usage.usage(1, clock.now())).toMatchObject([
        { keyId: "bbbbbbbb", requests: 3, rateLimited: 3 },
        { keyId: "aaaaaaaa", requests: 3, rateLimited: 0 },
      ]);
      for (const range of ["1h", "24h", "7d", "30d"] as const) {
        const last = next.usage.traffic(range, clock.now()).points.at(-1);
        expect(last).toMatchObject({ requests: 3, absorbed: 3, hidden429: 3, errors: 0 });
      }
    });
  });

  test("writes together what changes within a second, and wakes nobody while nothing does", async () => {
    await shelf(async ({ clock, store }) => {
      expect(clock.timers).toBe(0);
      let taken = 0;
      for (let change = 0; change < 100; change++) store.saveKey("default", "aaaaaaaa", () => ++taken);
      expect(clock.timers).toBe(1);
      await clock.advance(1000);
      expect([taken, clock.timers]).toEqual([1, 0]);
    });
  });

  test("keeps the last 500 requests, in order, whenever it is opened again", async () => {
    await shelf(async ({ clock, store, usage, again }) => {
      for (let id = 0; id < 730; id++) {
        const request = record(id, clock.now() + id);
        usage.finished(request);
        store.finished(request);
        if (id % 90 === 0) store.flush();
      }
      const next = await (store.close(), again());
      const ids = next.usage.recent(1000).map(({ id }) => id);
      expect([ids.length, ids[0], ids.at(-1)]).toEqual([500, 729, 230]);
    });
  });

  test("P29 can be read by its owner only", async () => {
    await shelf(async ({ path, store }) => {
      store.saveKey("default", "aaaaaaaa", () => ({}));
      store.flush();
      for (const name of readdirSync(join(path, "..")))
        expect(statSync(join(path, "..", name)).mode & 0o77).toBe(0);
    });
  });

  test.each<[sentence: string, prepare: (path: string) => void]>([
    [
      "is garbage",
      (path) => writeFileSync(path, "not a database, and longer than a header would be ".repeat(40)),
    ],
    ["is of a later version", (path) => void ofLaterVersion(path)],
    ["has lost its tables", (path) => void emptied(path, 2)],
    ["has lost the tables of an earlier version", (path) => void emptied(path, 1)],
  ])("P33 is set aside and begun anew where it %s, and that is said", async (_, prepare) => {
    await shelf(async ({ folder, store, said }) => {
      expect(store).not.toBeNull();
      expect(readdirSync(folder).filter((name) => name.includes(".corrupt-")).length).toBeGreaterThan(0);
      expect(said()).toContain("state_set_aside");
      store.saveKey("default", "aaaaaaaa", () => ({}));
      store.flush();
      expect(store.keyStates("default").size).toBe(1);
    }, prepare);
  });

  test("is not taken by two at once: the second says so, and takes it when the first lets it go", async () => {
    await shelf(async ({ clock, store, again, said }) => {
      store.saveKey("default", "aaaaaaaa", () => ({ today: 7 }));
      store.flush();
      const second = await again();
      expect(said()).toContain("another keywheel uses it");
      second.store.saveKey("default", "bbbbbbbb", () => ({ today: 1 }));
      await clock.advance(30_000);
      expect(said().match(/state_not_kept/g)).toHaveLength(1);
      store.close();
      await later(clock);
      expect(said()).toContain("state_kept_again");
      expect([...second.store.keyStates("default").keys()].sort()).toEqual(["aaaaaaaa", "bbbbbbbb"]);
    });
  });

  test("that cannot be opened to write is read all the same", async () => {
    await shelf(async ({ clock, store, usage, again }) => {
      store.saveKey("default", "aaaaaaaa", () => ({ today: 7 }));
      store.saveResource({ provider: "default", id: "file-1", account: "alice", at: clock.now() });
      const request = record(0, clock.now());
      usage.finished(request);
      store.finished(request);
      store.close(); // all of it is in the file now
      const holder = await again();
      const reader = await again();
      expect(reader.store.keyStates("default")).toEqual(new Map([["aaaaaaaa", { today: 7 }]]));
      expect(reader.store.resources()).toMatchObject([{ id: "file-1" }]);
      expect(reader.usage.usage(1, clock.now()).length).toBe(2);
      reader.usage.finished(request);
      reader.store.finished(request);
      holder.store.close();
      await later(clock);
      reader.store.close();
      const next = await again();
      expect(next.usage.usage(1, clock.now())[0]?.requests).toBe(2); // nothing is counted twice, nothing is lost
    });
  });

  test("that cannot be made where it should be is made once it can, with all that happened meanwhile", async () => {
    await shelf(async ({ clock, folder, log }) => {
      const path = join(folder, "not-there-yet", "keywheel.db");
      const usage = new Usage();
      const store = await openStore({ path, clock, log, usage });
      try {
        expect([store.keyStates("default").size, store.resources().length]).toEqual([0, 0]);
        store.saveKey("default", "aaaaaaaa", () => ({ today: 3 }));
        for (let id = 0; id < 2000; id++) {
          const request = record(id, clock.now());
          usage.finished(request);
          store.finished(request);
        }
        await clock.advance(60_000);
        mkdirSync(join(folder, "not-there-yet"));
        await later(clock);
        store.close();
        const nextUsage = new Usage();
        const next = await openStore({ path, clock, log, usage: nextUsage });
        expect(next.keyStates("default")).toEqual(new Map([["aaaaaaaa", { today: 3 }]]));
        expect(nextUsage.usage(1, clock.now())[0]?.requests).toBe(2000);
        next.close();
      } finally {
        store.close();
      }
    });
  });

  test("P47 loses no counts to a clock that was set", async () => {
    await shelf(async ({ clock, path, usage, store, log }) => {
      for (const at of [clock.now(), clock.now() - 40 * 86_400_000]) {
        const request = record(0, at);
        usage.finished(request);
        store.finished(request);
      }
      store.close();
      for (const wrong of [0, clock.now() + 3650 * 86_400_000]) {
        const store = await openStore({ path, clock: new FalseClock(wrong), log, usage: new Usage() });
        store.close();
      }
      const usageLater = new Usage();
      const next = await openStore({ path, clock, log, usage: usageLater });
      expect(usageLater.usage(60, clock.now()).map(({ requests }) => requests)).toEqual([1, 1, 1, 1]);
      next.close();
    });
  });

  test("of the first layout is brought to this one, and loses nothing", async () => {
    await shelf(
      async ({ clock, store, usage }) => {
        expect(store.keyStates("default")).toEqual(new Map([["aaaaaaaa", { today: 9 }]]));
        expect(usage.usage(1, clock.now())).toMatchObject([{ model: "gpt-4o", client: null, requests: 5 }]);
        expect(usage.traffic("1h", clock.now()).points.at(-1)).toMatchObject({ requests: 4, hidden429: 0 });
        const [request] = usage.recent(1);
        expect(request).toMatchObject({ id: 3, account: null, reason: "" });
        expect(request?.attempts[0]).toMatchObject({ keyId: "bbbbbbbb", account: null });
      },
      (path) => void firstLayout(path),
    );
  });

  test("of the second layout goes on, with tokens counted from now on", async () => {
    await shelf(
      async ({ clock, usage, store, again }) => {
        const tokens = { input: 100, output: 20, cached: 60, cacheWrite: 5, reasoning: 10 };
        const request = record(0, clock.now(), { model: "gpt-4o", client: "ann", tokens });
        usage.finished(request);
        store.finished(request);
        const next = await (store.close(), again());
        const [row] = next.usage.usage(1, clock.now()).filter(({ keyId }) => keyId === "aaaaaaaa");
        const counts = {
          inputTokens: 100,
          outputTokens: 20,
          cachedTokens: 60,
          cacheWriteTokens: 5,
          reasoningTokens: 10,
        };
        expect(row).toMatchObject({ client: "ann", requests: 6, ...counts });
        expect(next.usage.recent(1)[0]?.tokens).toEqual(tokens);
      },
      (path) => void secondLayout(path),
    );
  });

  test("P33 that fails to be written is tried again, and that is said once", async () => {
    await shelf(async ({ clock, store, said }) => {
      let isBroken = true;
      const snapshot = () => {
        if (isBroken) throw new Error("disk is full"); // stands for whatever fails inside of the transaction
        return { today: 3 };
      };
      store.saveKey("default", "aaaaaaaa", snapshot);
      await clock.advance(1000);
      await clock.advance(30_000);
      expect(said().match(/state_not_saved/g)).toHaveLength(1);
      isBroken = false;
      await clock.advance(30_000);
      expect(store.keyStates("default")).toEqual(new Map([["aaaaaaaa", { today: 3 }]]));
      expect(said()).toContain("state_kept_again");
    });
  });

  // Runs a program that counts up and says what it has counted two seconds before; it is killed at a bad moment.
  test("P33 survives kill -9: what is older than two seconds is there", async () => {
    await shelf(async ({ folder, store, path, again }) => {
      store.close();
      const script = `
        import { openStore } from ${JSON.stringify(join(import.meta.dir, "store.ts"))};
        import { Usage } from ${JSON.stringify(join(import.meta.dir, "usage.ts"))};
        import { systemClock } from ${JSON.stringify(join(import.meta.dir, "../core/clock.ts"))};
        const log = { enabled: () => false, line() {}, request() {}, flush() {}, setLevel() {} };
        const store = await openStore({ path: ${JSON.stringify(path)}, clock: systemClock, log, usage: new Usage() });
        let count = 0;
        const tick = () => {
          count += 1;
          store.saveKey("default", "aaaaaaaa", () => ({ count }));
          if (count % 10 === 0) store.flush();
          console.log(count - (count % 10));
          setTimeout(tick, 1);
        };
        tick();`;
      writeFileSync(join(folder, "writer.ts"), script);
      const child = Bun.spawn([process.execPath, join(folder, "writer.ts")], {
        stdout: "pipe",
        stderr: "inherit",
      });
      let seen = "";
      for await (const bytes of child.stdout) {
        seen += Buffer.from(bytes).toString();
        if (seen.split("\n").length > 60) break;
      }
      child.kill("SIGKILL");
      await child.exited;
      const written = Number(seen.trimEnd().split("\n").at(-2));
      const next = await again();
      expect(next.store).not.toBeNull();
      const state = next.store.keyStates("default").get("aaaaaaaa");
      expect(Number(/^{"count":(\d+)}$/.exec(JSON.stringify(state))?.[1])).toBeGreaterThanOrEqual(written);
    });
  });
});

function ofLaterVersion(path: string): void {
  const database = new Database(path);
  database.run("PRAGMA user_version = 99");
  database.close();
}

function emptied(path: string, version: number): void {
  const database = new Database(path);
  database.run(`PRAGMA user_version = ${version}`);
  database.close();
  expect(readFileSync(path).length).toBeGreaterThan(0);
}
