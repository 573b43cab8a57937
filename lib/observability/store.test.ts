import { describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FalseClock } from "../testing/fixture.ts";
import { Usage } from "./usage.ts";
import { createLog } from "./log.ts";
import type { RequestRecord } from "../core/events.ts";
import { openStore, type Store } from "./store.ts";

interface Shelf {
  readonly clock: FalseClock;
  readonly path: string;
  readonly folder: string;
  readonly usage: Usage;
  readonly store: Store | null;
  /** Opens the file once more, as the next start of the program does. */
  again(): Promise<{ store: Store | null; usage: Usage }>;
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
  const opened: (Store | null)[] = [];
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
    await body({ clock, path, folder, ...first, again: open, said });
  } finally {
    for (const store of opened) store?.close();
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

describe("the state file", () => {
  test("P33 keeps states of keys, resources, requests and counts over a restart", async () => {
    await shelf(async ({ clock, usage, store, again }) => {
      store?.saveKey("default", "aaaaaaaa", () => ({ today: 7 }));
      store?.saveResource({ provider: "default", id: "file-1", account: "alice", at: clock.now() });
      for (let id = 0; id < 3; id++) {
        const request = record(id, clock.now());
        usage.finished(request);
        store?.finished(request);
      }
      await clock.advance(1000);
      const next = await (store?.close(), again());
      expect(next.store?.keyStates("default")).toEqual(new Map([["aaaaaaaa", { today: 7 }]]));
      expect(next.store?.keyStates("other").size).toBe(0);
      expect(next.store?.resources()).toMatchObject([{ id: "file-1", account: "alice" }]);
      expect(next.usage.recent(9).map(({ id }) => id)).toEqual([2, 1, 0]);
      expect(next.usage.usage(1, clock.now())).toMatchObject([
        { keyId: "bbbbbbbb", requests: 3, rateLimited: 3 },
        { keyId: "aaaaaaaa", requests: 3, rateLimited: 0 },
      ]);
      expect(next.usage.traffic(clock.now()).at(-1)).toMatchObject({ requests: 3, absorbed: 3, errors: 0 });
    });
  });

  test("writes together what changes within a second, and wakes nobody while nothing does", async () => {
    await shelf(async ({ clock, store }) => {
      expect(clock.timers).toBe(0);
      let taken = 0;
      for (let change = 0; change < 100; change++) store?.saveKey("default", "aaaaaaaa", () => ++taken);
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
        store?.finished(request);
        if (id % 90 === 0) store?.flush();
      }
      const next = await (store?.close(), again());
      const ids = next.usage.recent(1000).map(({ id }) => id);
      expect([ids.length, ids[0], ids.at(-1)]).toEqual([500, 729, 230]);
    });
  });

  test("P29 can be read by its owner only", async () => {
    await shelf(async ({ path, store }) => {
      store?.saveKey("default", "aaaaaaaa", () => ({}));
      store?.flush();
      for (const name of readdirSync(join(path, "..")))
        expect(statSync(join(path, "..", name)).mode & 0o77).toBe(0);
    });
  });

  test.each<[sentence: string, prepare: (path: string) => void]>([
    [
      "is garbage",
      (path) => writeFileSync(path, "not a database, and longer than a header would be ".repeat(40)),
    ],
    ["is of a later version", (path) => void later(path)],
    ["has lost its tables", (path) => void emptied(path)],
  ])("P33 is set aside and begun anew where it %s, and that is said", async (_, prepare) => {
    await shelf(async ({ folder, store, said }) => {
      expect(store).not.toBeNull();
      expect(readdirSync(folder).filter((name) => name.includes(".corrupt-")).length).toBeGreaterThan(0);
      expect(said()).toContain("state_set_aside");
      store?.saveKey("default", "aaaaaaaa", () => ({}));
      store?.flush();
      expect(store?.keyStates("default").size).toBe(1);
    }, prepare);
  });

  test("is not taken by two at once: the second goes on without, and says so", async () => {
    await shelf(async ({ store, again, said }) => {
      store?.saveKey("default", "aaaaaaaa", () => ({}));
      store?.flush();
      expect((await again()).store).toBeNull();
      expect(said()).toContain("another keywheel uses it");
      expect(store?.keyStates("default").size).toBe(1);
    });
  });

  test("that cannot be made where it should be costs nothing but memory, and that is said", async () => {
    const clock = new FalseClock();
    let text = "";
    const log = createLog({ level: "info", format: "json", clock, write: (line) => (text += line) });
    const path = join(tmpdir(), "there-is-no-such-folder", "keywheel.db");
    expect(await openStore({ path, clock, log, usage: new Usage() })).toBeNull();
    log.flush();
    expect(text).toContain("state_not_kept");
  });

  test("P33 that fails to be written is tried again, and that is said once", async () => {
    await shelf(async ({ clock, store, said }) => {
      let isBroken = true;
      const snapshot = () => {
        if (isBroken) throw new Error("disk is full"); // stands for whatever fails inside of the transaction
        return { today: 3 };
      };
      store?.saveKey("default", "aaaaaaaa", snapshot);
      await clock.advance(1000);
      await clock.advance(30_000);
      expect(said().match(/state_not_saved/g)).toHaveLength(1);
      isBroken = false;
      await clock.advance(30_000);
      expect(store?.keyStates("default")).toEqual(new Map([["aaaaaaaa", { today: 3 }]]));
      expect(said()).toContain("state_kept_again");
    });
  });

  // Runs a program that counts up and says what it has counted two seconds before; it is killed at a bad moment.
  test("P33 survives kill -9: what is older than two seconds is there", async () => {
    await shelf(async ({ folder, store, path, again }) => {
      store?.close();
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
      const state = next.store?.keyStates("default").get("aaaaaaaa");
      expect(Number(/^{"count":(\d+)}$/.exec(JSON.stringify(state))?.[1])).toBeGreaterThanOrEqual(written);
    });
  });
});

function later(path: string): void {
  const { Database } = require("bun:sqlite");
  const database = new Database(path);
  database.run("PRAGMA user_version = 99");
  database.close();
}

function emptied(path: string): void {
  const { Database } = require("bun:sqlite");
  const database = new Database(path);
  database.run("PRAGMA user_version = 1");
  database.close();
  expect(readFileSync(path).length).toBeGreaterThan(0);
}
