import { afterAll, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FileWatch } from "./reload.ts";
import { FalseClock, until } from "../testing/fixture.ts";

const TOP = mkdtempSync(join(tmpdir(), "keywheel-filewatch-"));
afterAll(() => rmSync(TOP, { recursive: true }));

/** When `one` was last written, as its file system knows. */
const WRITTEN_AT = new Date(Date.UTC(2026, 0));
let folders = 0;

interface Watched {
  clock: FalseClock;
  watch: FileWatch;
  /** How often a change was told. */
  told(): number;
  /** Lets the time of a look come, and waits until it is over: then the next one is due. */
  look(): Promise<void>;
  path(name: string): string;
}

/** A directory of its own with `one` and `two` in it, of which `one` and `three` are watched. */
async function watched(): Promise<Watched> {
  const folder = join(TOP, String(folders++));
  const path = (name: string) => join(folder, name);
  mkdirSync(folder);
  writeFileSync(path("one"), "1");
  writeFileSync(path("two"), "2");
  utimesSync(path("one"), WRITTEN_AT, WRITTEN_AT);
  const clock = new FalseClock();
  let changes = 0;
  const watch = new FileWatch(clock, () => changes++);
  await watch.watch([path("one"), path("three")]);
  const look = async () => {
    await clock.jump(2000);
    await until("the next look is set", () => clock.timers === 1);
  };
  return { clock, watch, told: () => changes, look, path };
}

describe("the watch over files", () => {
  const inTheFuture = new Date(Date.UTC(2030, 1));
  test.each<[sentence: string, change: (path: Watched["path"]) => void, told: number]>([
    ["tells nothing where nothing has changed", () => {}, 0],
    ["tells of a file that is longer", (path) => appendFileSync(path("one"), "x"), 1],
    [
      "tells of a file that is longer, though as old",
      (path) => {
        appendFileSync(path("one"), "x");
        utimesSync(path("one"), WRITTEN_AT, WRITTEN_AT);
      },
      1,
    ],
    [
      "tells of a file that was written anew, just as long",
      (path) => utimesSync(path("one"), 1, inTheFuture),
      1,
    ],
    ["tells of a file that has gone", (path) => unlinkSync(path("one")), 1],
    ["tells of a file that has appeared", (path) => writeFileSync(path("three"), ""), 1],
    [
      "tells of several changes once",
      (path) => ["one", "three"].forEach((name) => writeFileSync(path(name), "more")),
      1,
    ],
    ["tells of a directory in the place of a file", (path) => mkdirSync(path("three")), 1],
    ["tells nothing of another file", (path) => writeFileSync(path("two"), "more"), 0],
    [
      "tells nothing of a file that was only read by another right",
      (path) => chmodSync(path("one"), 0o600),
      0,
    ],
    [
      "tells of a file that was replaced by a rename, as editors do",
      (path) => {
        utimesSync(path("one"), inTheFuture, inTheFuture);
        writeFileSync(path("new"), "9");
        renameSync(path("new"), path("one"));
      },
      1,
    ],
  ])("%s", async (_, change, told) => {
    const { watch, look, told: times, path } = await watched();
    change(path);
    await look();
    expect(times()).toBe(told);
    watch.close();
  });

  test("tells of a replacement that is as long and as old as what it replaced", async () => {
    const { watch, look, told, path } = await watched();
    for (const name of ["one", "two"]) utimesSync(path(name), inTheFuture, inTheFuture);
    await look();
    renameSync(path("two"), path("one"));
    await look();
    expect(told()).toBe(2);
    watch.close();
  });

  test("tells of a mounted secret that is swapped, which is a link to another file", async () => {
    const { watch, look, told, path } = await watched();
    for (const name of ["one", "two"]) utimesSync(path(name), inTheFuture, inTheFuture);
    symlinkSync(path("one"), path("three"));
    await look();
    symlinkSync(path("two"), path("new"));
    renameSync(path("new"), path("three"));
    await look();
    expect(told()).toBe(2);
    watch.close();
  });

  test("looks every two seconds, with one timer, and tells of each change once", async () => {
    const { watch, clock, look, told, path } = await watched();
    expect([clock.timers, clock.nextAt - clock.now()]).toEqual([1, 2000]);
    writeFileSync(path("one"), "more");
    await clock.jump(1999);
    expect(told()).toBe(0);
    await clock.jump(1);
    await until("it is told", () => told() === 1);
    await until("the next look is set", () => clock.timers === 1);
    await look();
    expect(told()).toBe(1);
    watch.close();
    expect(clock.timers).toBe(0);
  });

  test("looks at other files when it is told to, and takes them as they are", async () => {
    const { watch, clock, look, told, path } = await watched();
    writeFileSync(path("one"), "changed before");
    await watch.watch([path("two")]);
    expect(clock.timers).toBe(1);
    await look();
    writeFileSync(path("one"), "not watched any more");
    await look();
    expect(told()).toBe(0);
    writeFileSync(path("two"), "watched");
    await look();
    expect(told()).toBe(1);
    watch.close();
  });

  test("goes by the later files where others are named while it looks", async () => {
    const { watch, clock, look, told, path } = await watched();
    let naming = Promise.resolve();
    clock.after(2000, () => (naming = watch.watch([path("two")])));
    await look();
    await naming;
    expect(clock.timers).toBe(1);
    writeFileSync(path("one"), "not watched any more");
    await look();
    expect(told()).toBe(0);
    writeFileSync(path("two"), "watched");
    await look();
    expect(told()).toBe(1);
    watch.close();
  });

  test("looks no more after it was closed, however it was going on", async () => {
    const { watch, clock, told, path } = await watched();
    watch.close();
    writeFileSync(path("one"), "more");
    await watch.watch([path("one")]);
    await clock.jump(10_000);
    expect([told(), clock.timers]).toEqual([0, 0]);
  });

  // The proxy was being stopped: it read its settings again after that, and took them over.
  test("tells nothing more when it is closed while it looks", async () => {
    const { watch, clock, told, path } = await watched();
    writeFileSync(path("one"), "more");
    clock.after(2000, () => watch.close());
    await clock.jump(2000);
    await Bun.file(path("one")).stat(); // the look, which began before, is over
    await clock.advance(0);
    expect(told()).toBe(0);
  });
});
