import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  addToList,
  type Edited,
  readWhole,
  removeFromList,
  reorderList,
  setVariable,
  writeAtomically,
} from "./env-edit.ts";
import { parseEnvFile } from "../config/env-file.ts";
import { Secret } from "../core/secret.ts";

function textOf(edited: Edited): string {
  if (!edited.ok) throw new Error(edited.reason);
  return edited.text;
}

function reasonOf(edited: Edited): string {
  if (edited.ok) throw new Error(`it was not refused: ${edited.text}`);
  return edited.reason;
}

describe("a variable of an env file", () => {
  const table: [says: string, text: string, value: string | null, edited: string][] = [
    ["is changed in its line", "# one\nA=1\nB=2\n", "x", "# one\nA=x\nB=2\n"],
    ["keeps the spaces, the export and the comment", "  export  A = 1  # one", "x", "  export  A = x  # one"],
    ["keeps its double quotes", 'A="1 2" # one\n', "3", 'A="3" # one\n'],
    ["keeps its single quotes", "A='1'\n", "a\\b", "A='a\\b'\n"],
    ["changes them where they do not fit", "A='1' # one\n", "it's", 'A="it\'s" # one\n'],
    ["has escapes in double ones only", 'A="1"\n', 'a"b\\n$c', 'A="a\\"b\\\\n$c"\n'],
    ["is quoted where it has to be", "A=1\n", " x # y", "A=' x # y'\n"],
    ["is quoted where a # would begin a comment", "A= 1\n", "#x", "A= '#x'\n"],
    ["is not quoted where it need not be", "A=1\n", "#x=$y\"'", "A=#x=$y\"'\n"],
    ["is put into an empty place", "A= # none\n", "x", "A=x # none\n"],
    ["may become empty", "A=1 # one\n", "", "A= # one\n"],
    ["keeps Windows' line ends and the mark", "\uFEFFA=1\r\nB=2\r\n", "x", "\uFEFFA=x\r\nB=2\r\n"],
    ["keeps a last line without an end", "B=2\nA=1", "x", "B=2\nA=x"],
    ["is changed where it counts", "A=1\nA=2\n", "x", "A=1\nA=x\n"],
    ["is one line where it was several", 'A="1\n2"\nB=2\n', "x", 'A="x"\nB=2\n'],
    ["stays several lines", 'A="1\r\n2"\r\nB=2', "1\n2\n3\n", 'A="1\r\n2\r\n3\r\n"\r\nB=2'],
    ["is added at the end", "B=2\n", "x", "B=2\nA=x\n"],
    ["is added behind a last line without an end", "B=2", "x", "B=2\nA=x"],
    ["is added with the line ends of the others", "B=2\r\n", "x", "B=2\r\nA=x\r\n"],
    ["is added to an empty file", "", "x", "A=x\n"],
    ["is added to a file of only a mark", "\uFEFF", "x", "\uFEFFA=x\n"],
    [
      "is added below the comment that shows it",
      "# Why.\n# A=1\n\nB=2\n",
      "x",
      "# Why.\n# A=1\nA=x\n\nB=2\n",
    ],
    ["is not added into another value", 'B="\n# A=1\n"\n', "x", 'B="\n# A=1\n"\nA=x\n'],
    ["is removed with its line", "# one\nA=1 # x\nB=2\n", null, "# one\nB=2\n"],
    ["is removed wherever it is", "A=1\nB=2\nexport A='3\n4'\n", null, "B=2\n"],
    ["is removed from the last line", "B=2\nA=1", null, "B=2\n"],
    ["may be the only one that is removed", "A=1", null, ""],
    ["is left out where it is not there", "B=2\n", null, "B=2\n"],
    ["is not another whose name is longer", "AA=1\nA.B=1\n", "x", "AA=1\nA.B=1\nA=x\n"],
  ];
  test.each(table)("%s", (_, text, value, edited) => {
    expect(textOf(setVariable(text, "A", value))).toBe(edited);
  });

  const faults: [says: string, text: string, value: string, reason: string][] = [
    ["with a line break", "A=1\n", "canary\nB=2", "A holds a line break or a control character."],
    ["with a carriage return", 'A="1\n2"\n', "canary\r", "A holds a line break or a control character."],
    ["with a zero", "A=1\n", "canary\0", "A holds a line break or a control character."],
    ["with half a character", "A=1\n", "canary\ud83d", "A holds half a character."],
    [
      "that would read as another variable",
      'A="1\n2"\n',
      "canary\nB=2",
      "A cannot be written so that it reads",
    ],
    ["in a file that cannot be read", "A=1\ncanary\n", "x", "Line 2 is not NAME=value."],
    ["in a file of UTF-16", "A\0=\x001\0", "x", "Line 1 is not text in UTF-8."],
  ];
  test.each(faults)("is refused %s, and not shown", (_, text, value, reason) => {
    const said = reasonOf(setVariable(text, "A", value));
    expect(said).toStartWith(reason);
    expect(said).not.toContain("canary");
  });

  test("is the only one that an edit changes, in files made at random", () => {
    let seed = 7;
    const next = (below: number) => (seed = (seed * 48_271) % 2_147_483_647) % below;
    const any = (words: readonly string[]) => words[next(words.length)] ?? "";
    const NAMES = ["A", "B", "API_KEYS", "a.b"];
    const LINES = ["# A=1", "", "  # it's", "#", '# "', "\t"];
    const VALUES = [
      "1",
      "",
      "'x y'",
      '"a\\"b"',
      "#x",
      " # c",
      "'l1\nl2'",
      '"l1\n  l2 # x\n"',
      "it's",
      'a"b',
      "x # 'c'",
      "$x\\n",
    ];
    const GIVEN = [
      "x",
      "",
      " x ",
      "it's",
      '"',
      "#",
      "a # b",
      "\\",
      "'\"\\n",
      "ö模😀",
      "=",
      "a,b c",
      "$HOME`x`",
      "'x'",
      "\t",
    ];
    const line = () =>
      next(3) === 0
        ? any(LINES)
        : `${any(["", "export ", "  "])}${any(NAMES)}${any(["=", " = "])}${any(VALUES)}`;
    let edits = 0;
    for (let round = 0; round < 4000; round += 1) {
      const end = any(["\n", "\r\n"]);
      const lines = Array.from({ length: next(7) }, line).join("\n") + any(["", "\n"]);
      const text = any(["", "\uFEFF"]) + lines.replaceAll("\n", end);
      const before = parseEnvFile(text);
      const name = any(["A", "API_KEYS"]);
      const value = next(4) === 0 ? null : any(GIVEN);
      const edited = setVariable(text, name, value);
      if (before.problems.length > 0) {
        expect(edited.ok).toBe(false);
        continue;
      }
      const after = parseEnvFile(textOf(edited));
      const expected = new Map(before.values);
      if (value === null) expected.delete(name);
      else expected.set(name, value);
      expect([[...after.values].sort(), after.problems]).toEqual([[...expected].sort(), []]);
      const comments = (written: string) =>
        written.split(/\uFEFF|\r\n|\n/).filter((line) => /^\s*#/.test(line));
      if (!text.includes("l2 # x")) expect(comments(textOf(edited))).toEqual(comments(text));
      edits += 1;
    }
    expect(edits).toBeGreaterThan(1000);
  });
});

describe("a list of keys", () => {
  const id = (key: string) => new Secret(key).id;

  const additions: [says: string, list: string, entry: string, edited: string][] = [
    ["begins with one", "", "k1", "k1"],
    ["gets a comma before the second", "k1", "bob@k2:50", "k1,bob@k2:50"],
    ["goes on as it is separated", "k1, k2", "k3", "k1, k2, k3"],
    ["goes on over lines", "\n  k1\n  k2\n", "k3", "\n  k1\n  k2\n  k3\n"],
  ];
  test.each(additions)("%s", (_, list, entry, edited) => {
    expect(textOf(addToList(list, [entry]))).toBe(edited);
  });

  const faults: [says: string, list: string, entry: string, reason: string][] = [
    ["it has already", "a@canary:5", "canary", "The key is there already."],
    ["that is two", "k1", "canary1,canary2", "The key holds a comma: it may be two. Add one at a time."],
    ["with a space", "k1", "canary one", "The key holds a space,"],
    ["with a bad limit", "k1", "canary:0", "The key has a daily limit that is not a whole number"],
    ["that is a placeholder", "k1", "<canary>", "The key is a placeholder."],
  ];
  test.each(faults)("refuses a key %s, and does not show it", (_, list, entry, reason) => {
    const said = reasonOf(addToList(list, [entry]));
    expect(said).toStartWith(reason);
    expect(said).not.toContain("canary");
  });

  const removals: [says: string, list: string, key: string, edited: string][] = [
    ["loses the first", "k1, bob@k2:5, k3", "k1", "bob@k2:5, k3"],
    ["loses one in the middle, by its key alone", "k1, bob@k2:5, k3", "k2", "k1, k3"],
    ["loses the last", "k1, bob@k2:5, k3", "k3", "k1, bob@k2:5"],
    ["loses a line", "\n  k1\n  k2\n", "k2", "\n  k1\n"],
    ["loses one wherever it is", "k1,k2,k1:5,x@k1", "k1", "k2"],
    ["is empty without its only one", " k1\n", "k1", ""],
    ["is empty without its only one, written twice", "k1,k1", "k1", ""],
  ];
  test.each(removals)("%s", (_, list, key, edited) => {
    expect(textOf(removeFromList(list, id(key)))).toBe(edited);
  });

  const orders: [says: string, list: string, keys: string[], edited: string][] = [
    ["takes another order", "k1, bob@k2:5\nk3", ["k3", "k1", "k2"], "k3, k1\nbob@k2:5"],
    ["puts some in front", "k1,k2,k3,k4", ["k3"], "k3,k1,k2,k4"],
    ["stays as it is", " k1 ,k2, ", [], " k1 ,k2, "],
  ];
  test.each(orders)("%s", (_, list, keys, edited) => {
    expect(textOf(reorderList(list, keys.map(id)))).toBe(edited);
  });

  test("says so where it has no such key", () => {
    for (const edited of [removeFromList("k1", id("k2")), reorderList("k1", [id("k2")])]) {
      expect(reasonOf(edited)).toStartWith(`There is no key ${id("k2")} in this list.`);
    }
  });
});

describe("the file", () => {
  let root = "";
  const at = (...parts: string[]) => join(root, ...parts);
  beforeAll(() => {
    root = mkdtempSync(join(tmpdir(), "keywheel-envedit-"));
  });
  afterAll(() => rmSync(root, { recursive: true }));

  /** A directory of its own with a file `.env` in it. */
  function folderWith(name: string, text: string): string {
    mkdirSync(at(name));
    writeFileSync(at(name, ".env"), text);
    return at(name, ".env");
  }

  test("is replaced, with its mode and its owner", async () => {
    const path = folderWith("plain", "A=1\n");
    chmodSync(path, 0o640);
    const { ino, uid, gid } = statSync(path);
    expect(await writeAtomically(path, "A=ö\n", "A=1\n")).toEqual({ ok: true });
    expect(readFileSync(path, "utf8")).toBe("A=ö\n");
    const { mode, ...after } = statSync(path);
    expect([mode & 0o7777, after.uid, after.gid]).toEqual([0o640, uid, gid]);
    expect(after.ino).not.toBe(ino); // not written over: a crash in the middle leaves the old one
    expect(readdirSync(at("plain"))).toEqual([".env"]);
  });

  test("is replaced behind a link, which stays", async () => {
    const path = folderWith("target", "A=1\n");
    mkdirSync(at("links"));
    symlinkSync("../target/.env", at("links", ".env"));
    expect(await writeAtomically(at("links", ".env"), "A=2\n", "A=1\n")).toEqual({ ok: true });
    expect(readlinkSync(at("links", ".env"))).toBe("../target/.env");
    expect([readFileSync(path, "utf8"), readdirSync(at("target"))]).toEqual(["A=2\n", [".env"]]);
  });

  test("is left alone when somebody else has changed it", async () => {
    const path = folderWith("changed", "A=theirs\n");
    const { reason } = { reason: "", ...(await writeAtomically(path, "A=ours\n", "A=1\n")) };
    expect(reason).toStartWith(`${path} was changed by somebody else in the meantime`);
    expect(await writeAtomically(path, "A=ours\n", null)).toMatchObject({ ok: false });
    expect([readFileSync(path, "utf8"), readdirSync(at("changed"))]).toEqual(["A=theirs\n", [".env"]]);
  });

  test("is made where there was none, for its owner only, and not where there was one", async () => {
    mkdirSync(at("new"));
    expect(await writeAtomically(at("new", ".env"), "A=1\n", "A=0\n")).toMatchObject({ ok: false });
    expect(await writeAtomically(at("new", ".env"), "A=1\n", null)).toEqual({ ok: true });
    expect(statSync(at("new", ".env")).mode & 0o777).toBe(0o600);
    expect(readdirSync(at("new"))).toEqual([".env"]);
  });

  test("is one of the two whole when two write at once", async () => {
    const path = folderWith("two", "A=0\n");
    const written = await Promise.all(["A=1\n", "A=2\n"].map((text) => writeAtomically(path, text, "A=0\n")));
    expect(written.filter(({ ok }) => ok).length).toBeGreaterThan(0);
    expect(["A=1\n", "A=2\n"]).toContain(readFileSync(path, "utf8"));
    expect(readdirSync(at("two"))).toEqual([".env"]);
  });

  test("is a reason when it cannot be", async () => {
    mkdirSync(at("odd", ".env"), { recursive: true });
    symlinkSync("nowhere", at("odd", "link"));
    const cases: [path: string, reason: string][] = [
      [at("odd", ".env"), "is no ordinary file."],
      [at("odd", "link"), "is not there."],
      [at("none", ".env"), "is not there."],
    ];
    for (const [path, reason] of cases) {
      const { reason: said } = { reason: "", ...(await writeAtomically(path, "A=1\n", null)) };
      expect(said).toStartWith(`${path} ${reason}`);
    }
    expect(readdirSync(at("odd")).sort()).toEqual([".env", "link"]);
  });

  test("is read to the byte, or not at all", async () => {
    const path = folderWith("mark", "\uFEFFA=1\r\n");
    expect(await readWhole(path)).toEqual({ ok: true, text: "\uFEFFA=1\r\n" });
    writeFileSync(path, new Uint8Array([0x41, 0x3d, 0xff]));
    expect(reasonOf(await readWhole(path))).toBe(`${path} is not text in UTF-8. Save it as UTF-8.`);
    expect(reasonOf(await readWhole(at("none")))).toStartWith(`${at("none")} is not there.`);
  });
});
