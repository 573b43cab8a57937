import { afterAll, describe, expect, test } from "bun:test";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FalseClock, until } from "../testing/fixture.ts";
import { createLog } from "./log.ts";
import { LogFiles } from "./log-files.ts";
import type { KeyEvent, RequestRecord } from "../core/events.ts";

const ROOT = mkdtempSync(join(tmpdir(), "keywheel-logfiles-"));
afterAll(() => rmSync(ROOT, { recursive: true }));
let opened = 0;

/** Log files in a directory of their own, which is not there yet. */
function open(options: { at?: number; retentionDays?: number; directory?: string } = {}) {
  const { at = Date.UTC(2026, 10, 20, 12), retentionDays = 14 } = options;
  const directory = options.directory ?? join(ROOT, `below/${opened++}`);
  const clock = new FalseClock(at);
  let said = "";
  const log = createLog({ level: "debug", format: "json", clock, write: (text) => (said += text) });
  const files = new LogFiles({ directory, retentionDays, clock, log });
  return {
    files,
    directory,
    clock,
    names: () => readdirSync(directory).sort(),
    /** The lines of a file, parsed. */
    lines: (name: string): Record<string, unknown>[] =>
      readFileSync(join(directory, name), "utf8")
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line)),
    /** The events that were said in the log. */
    said() {
      log.flush();
      return said.match(/"event":"(\w+)"/g) ?? [];
    },
  };
}

const record = (changes: Partial<RequestRecord> = {}): RequestRecord => ({
  id: 7,
  at: 0,
  method: "POST",
  path: "/v1/chat/completions",
  provider: "default",
  model: "gpt-4o-mini",
  status: 200,
  outcome: "served",
  key: "0",
  keyId: "3e23e816",
  account: null,
  attempts: [],
  waitedMs: 0,
  firstByteMs: 400,
  totalMs: 4000,
  bytes: 1000,
  client: null,
  isTruncated: false,
  reason: "",
  maybeBilledReplays: 0,
  ...changes,
});

const COOLED: KeyEvent = {
  at: Date.UTC(2026, 10, 20, 12),
  provider: "default",
  key: 0,
  keyId: "3e23e816",
  account: null,
  kind: "cooled",
  model: null,
  reason: "rate_limit",
  until: Date.UTC(2026, 10, 20, 12, 1),
  said: "slow down",
};

describe("the log files", () => {
  test("are begun by what happens, in a directory that is created, and only their owner may read them", async () => {
    const { files, directory, names, lines } = open();
    files.finished(record());
    files.finished(record({ status: 201 }));
    await files.flush();
    expect(names()).toEqual(["requests-2026-11-20.jsonl"]);
    expect(lines("requests-2026-11-20.jsonl")).toMatchObject([
      { time: "2026-11-20T12:00:00.000Z", event: "request", status: 200, model: "gpt-4o-mini" },
      { status: 201 },
    ]);
    expect(statSync(join(directory, "requests-2026-11-20.jsonl")).mode & 0o777).toBe(0o600);
    expect(statSync(directory).mode & 0o777).toBe(0o700);
  });

  const wrong: [says: string, changes: Partial<RequestRecord>, isWrong: boolean][] = [
    ["a served request is none", {}, false],
    ["a status from 400 up is one", { status: 404, outcome: "rejected" }, true],
    ["an answer that upstream refused although its status is good is one", { outcome: "overloaded" }, true],
    ["a client that left is one", { status: 499, outcome: "abandoned" }, true],
  ];
  test.each(wrong)("tell what went wrong in a file of its own: %s", async (_, changes, isWrong) => {
    const { files, names } = open();
    files.finished(record(changes));
    await files.flush();
    expect(names().includes("errors-2026-11-20.jsonl")).toBe(isWrong);
  });

  test("tell of an error every attempt, and what upstream said", async () => {
    const { files, lines } = open();
    const attempt = { provider: "default", key: 2, keyId: "3e23e816", account: null, status: 503, ms: 80 };
    const attempts = [{ ...attempt, verdict: "overloaded", said: "try later" }];
    files.finished(record({ status: 503, outcome: "overloaded", attempts }));
    await files.flush();
    expect(lines("errors-2026-11-20.jsonl")[0]?.["tries"]).toEqual([
      {
        provider: "default",
        key_id: "3e23e816",
        account: null,
        verdict: "overloaded",
        status: 503,
        ms: 80,
        said: "try later",
      },
    ]);
  });

  test("tell what became of keys", async () => {
    const { files, lines } = open();
    files.keyChanged(COOLED);
    await files.flush();
    expect(lines("keys-2026-11-20.jsonl")).toMatchObject([
      {
        event: "key_cooled",
        reason: "rate_limit",
        until: "2026-11-20T12:01:00.000Z",
        said: "slow down",
      },
    ]);
  });

  test("are written about once a second, not for each request", async () => {
    const { files, clock, names, lines, directory } = open();
    mkdirSync(directory, { recursive: true });
    for (let i = 0; i < 100; i++) files.finished(record());
    await clock.advance(999);
    expect(names()).toEqual([]);
    expect(clock.timers).toBe(2); // this one, and midnight
    await clock.advance(1);
    await files.flush();
    expect(lines("requests-2026-11-20.jsonl").length).toBe(100);
  });

  test("begin new ones when the day turns in UTC, each line in the file of its day", async () => {
    const { files, clock, lines } = open({ at: Date.UTC(2026, 10, 20, 23, 59, 59, 900) });
    files.finished(record({ status: 200 }));
    await clock.advance(200);
    files.finished(record({ status: 201 }));
    await files.flush();
    expect(lines("requests-2026-11-20.jsonl")).toMatchObject([{ status: 200 }]);
    expect(lines("requests-2026-11-21.jsonl")).toMatchObject([{ status: 201 }]);
  });

  test("append to what is there, and are begun again where they were moved away", async () => {
    const { files, lines, directory } = open();
    files.finished(record({ status: 200 }));
    await files.flush();
    files.finished(record({ status: 201 }));
    await files.flush();
    expect(lines("requests-2026-11-20.jsonl").length).toBe(2);
    rmSync(directory, { recursive: true });
    files.finished(record({ status: 202 }));
    await files.flush();
    expect(lines("requests-2026-11-20.jsonl")).toMatchObject([{ status: 202 }]);
  });

  test("are deleted when they are too old, at the start and at midnight, and nothing else is", async () => {
    const directory = join(ROOT, "old");
    mkdirSync(directory);
    const kept = ["keys-2026-11-06.jsonl", "requests-2026-11-20.jsonl", "notes-2020-01-01.jsonl"];
    const others = ["requests-2020-01-01.jsonl.gz", "requests.jsonl", "my-errors-2020-01-01.jsonl"];
    const old = ["requests-2026-11-05.jsonl", "errors-2026-11-05.jsonl", "keys-2019-12-31.jsonl"];
    for (const name of [...kept, ...others, ...old]) writeFileSync(join(directory, name), "");
    const { clock, names, files } = open({ directory });
    await until("the old ones are gone", () => names().length === kept.length + others.length);
    expect(names()).toEqual([...kept, ...others].sort());
    await clock.advance(12 * 3_600_000);
    await until("the next day's too", () => !names().includes("keys-2026-11-06.jsonl"));
    expect(names()).toEqual([...kept.slice(1), ...others].sort());
    await files.close();
  });

  test("are written once more at the end, and leave no timer behind", async () => {
    const { files, clock, lines } = open();
    files.finished(record());
    await files.close();
    expect(lines("requests-2026-11-20.jsonl").length).toBe(1);
    expect(clock.timers).toBe(0);
  });
});

describe("a disk that does not take the log files", () => {
  test("is said once, tried again, and loses no line", async () => {
    const { files, clock, directory, lines, said } = open();
    mkdirSync(join(directory, ".."), { recursive: true });
    writeFileSync(directory, "a file where the directory should be");
    files.finished(record({ status: 200 }));
    await files.flush();
    files.finished(record({ status: 201 }));
    await files.flush();
    expect(said()).toEqual(['"event":"log_files_stuck"']);
    rmSync(directory);
    await clock.advance(10_000);
    await files.flush();
    expect(lines("requests-2026-11-20.jsonl")).toMatchObject([{ status: 200 }, { status: 201 }]);
    expect(said().at(-1)).toBe('"event":"log_files_back"');
  });

  test("is not asked again at every line", async () => {
    const { files, clock, directory } = open();
    mkdirSync(join(directory, ".."), { recursive: true });
    writeFileSync(directory, "");
    files.finished(record());
    await files.flush();
    const failedAt = clock.now();
    await clock.advance(200); // the log's own line is written
    files.finished(record());
    expect(clock.nextAt).toBe(failedAt + 10_000);
  });

  test("may be full, and takes no memory without bound", async () => {
    const { files, directory, said } = open();
    mkdirSync(directory, { recursive: true });
    symlinkSync("/dev/full", join(directory, "requests-2026-11-20.jsonl"));
    files.finished(record());
    await files.flush();
    expect(said()).toEqual(['"event":"log_files_stuck"']);
    for (let i = 0; i < 15_000; i++) files.finished(record({ path: "x".repeat(500) }));
    rmSync(join(directory, "requests-2026-11-20.jsonl"));
    await files.flush();
    expect(statSync(join(directory, "requests-2026-11-20.jsonl")).size).toBeLessThanOrEqual(4_000_000);
    expect(said().at(-1)).toBe('"event":"log_files_back"');
  });
});
