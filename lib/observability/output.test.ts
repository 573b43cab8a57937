import { describe, expect, test } from "bun:test";
import { until } from "../testing/fixture.ts";
import { createBoundedWriter, type Send } from "./output.ts";

/** A reader who takes each text when a test says so. */
function slowReader() {
  const taken: string[] = [];
  const waiting: PromiseWithResolvers<void>[] = [];
  const send: Send = (text) => {
    taken.push(text);
    const wait = Promise.withResolvers<void>();
    waiting.push(wait);
    return wait.promise;
  };
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  return {
    taken,
    send,
    async takes() {
      waiting.shift()?.resolve();
      await turn();
    },
    async fails(code: string) {
      waiting.shift()?.reject(Object.assign(new Error("no"), { code }));
      await turn();
    },
  };
}

const sayDropped = (lines: number) => `dropped ${lines}\n`;

describe("output that waits for nobody", () => {
  test("writes at once what is taken at once", () => {
    const taken: string[] = [];
    const writer = createBoundedWriter((text) => void taken.push(text), sayDropped);
    writer.write("a\n");
    writer.write("b\n");
    expect(taken).toEqual(["a\n", "b\n"]);
  });

  test("keeps the order behind a slow reader, and writes together what came meanwhile", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped);
    for (const text of ["a\n", "b\n", "c\n"]) writer.write(text);
    expect(reader.taken).toEqual(["a\n"]);
    await reader.takes();
    expect(reader.taken).toEqual(["a\n", "b\nc\n"]);
    await reader.takes();
    writer.write("d\n");
    expect(reader.taken).toEqual(["a\n", "b\nc\n", "d\n"]);
  });

  test("drops what is beyond its bound, and says how many lines that were once they are read again", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped, 10);
    for (const text of ["aaaa\n", "bbbb\n", "c\nd\n", "e\n"]) writer.write(text);
    await reader.takes();
    expect(reader.taken).toEqual(["aaaa\n", "bbbb\ndropped 3\n"]);
    await reader.takes();
    writer.write("f\n");
    expect(reader.taken.at(-1)).toBe("f\n");
  });

  test("says that lines were dropped even when none comes after them", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped, 10);
    writer.write("aaaaaaaaa\n");
    writer.write("b\n");
    await reader.takes();
    expect(reader.taken).toEqual(["aaaaaaaaa\n", "dropped 1\n"]);
  });

  test("takes a single text that is longer than the bound", () => {
    const reader = slowReader();
    createBoundedWriter(reader.send, sayDropped, 10).write("a long line that stands alone\n");
    expect(reader.taken.length).toBe(1);
  });

  test("is silent for good when its reader is gone", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped);
    writer.write("a\n");
    writer.write("b\n");
    await reader.fails("EPIPE");
    writer.write("c\n");
    await writer.flushed();
    expect(reader.taken).toEqual(["a\n"]);
  });

  test("goes on after a full disk, and says how many lines that cost", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped);
    writer.write("a\nb\n");
    await reader.fails("ENOSPC");
    expect(reader.taken.length).toBe(1); // not tried again in a circle
    writer.write("c\n");
    expect(reader.taken.at(-1)).toBe("c\ndropped 2\n");
  });

  test("survives a send that throws at once", () => {
    let isFull = true;
    const taken: string[] = [];
    const writer = createBoundedWriter((text) => {
      if (isFull) throw Object.assign(new Error("no"), { code: "ENOSPC" });
      taken.push(text);
    }, sayDropped);
    writer.write("a\n");
    isFull = false;
    writer.write("b\n");
    expect(taken).toEqual(["b\ndropped 1\n"]);
  });

  test("is flushed when the last text was taken", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped);
    writer.write("a\n");
    let isFlushed = false;
    const flushed = writer.flushed().then(() => (isFlushed = true));
    expect(isFlushed).toBe(false);
    await reader.takes();
    await flushed;
    expect(isFlushed).toBe(true);
  });
});

describe("standard output", () => {
  /** Writes 3 MB into its standard output, and says on stderr that it still goes on. */
  const PROGRAM = `
    const { createBoundedWriter, sendToStdout } = await import("${import.meta.dir}/output.ts");
    const writer = createBoundedWriter(sendToStdout(false), (lines) => "dropped " + lines + "\\n");
    let line = 0;
    for (let batch = 0; batch < 60; batch++) {
      let text = "";
      while (text.length < 50_000) text += "line " + line++ + "\\n";
      writer.write(text);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    console.error("goes on after " + line);
    await writer.flushed();
    writer.write("the end\\n");
    console.error("and ends");
  `;

  test("is not waited for while nobody reads; what is read then is in order, and what is missing is said", async () => {
    // The reader begins when it is told to, on a descriptor of its own.
    const pipeline = 'exec 3<&0; "$0" -e "$1" </dev/null | { read go <&3; cat; }';
    const child = Bun.spawn(["sh", "-c", pipeline, process.execPath, PROGRAM], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    let said = "";
    void (async () => {
      for await (const bytes of child.stderr) said += Buffer.from(bytes).toString();
    })();
    await until("the program goes on although its output is stuck", () => said.includes("goes on"));
    expect(said).not.toContain("and ends");
    child.stdin.write("go\n");
    child.stdin.end();
    const lines = (await child.stdout.text()).trimEnd().split("\n");
    expect(await child.exited).toBe(0);
    const written = Number(/goes on after (\d+)/.exec(said)?.[1]);
    const kept = lines.filter((line) => line.startsWith("line ")).map((line) => Number(line.slice(5)));
    expect(kept).toEqual(kept.map((_, index) => index));
    expect(lines.at(-2)).toBe(`dropped ${written - kept.length}`);
    expect(lines.at(-1)).toBe("the end");
  });

  test("may be closed without harm", async () => {
    const pipeline = '"$0" -e "$1" | head -c 100 >/dev/null';
    const child = Bun.spawn(["sh", "-c", pipeline, process.execPath, PROGRAM], { stderr: "pipe" });
    expect(await child.stderr.text()).toMatch(/^goes on after \d+\nand ends\n$/);
  });
});
