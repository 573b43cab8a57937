import { describe, expect, test } from "bun:test";
import { deferred, grouped, urlOrNull } from "./language.ts";
import * as onBun from "./runtime-bun.ts";
import * as onNode from "./runtime-node.ts";
import type { CompressionName, Runtime } from "./runtime.ts";

const bun: Runtime = onBun;
const node: Runtime = onNode;

const TEXTS: [says: string, text: string][] = [
  ["nothing", ""],
  ["one letter", "a"],
  ["less than four bytes", "abc"],
  ["four bytes", "abcd"],
  ["less than a stripe", "fifteen letters"],
  ["a stripe", "sixteen letters!"],
  ["a stripe and some", "seventeen letters"],
  ["a stripe, a word and some", "sixteen letters! and 7"],
  ["letters of several bytes", "Grüße, 世界 🌍"],
  ["a long text", "The quick brown fox jumps over the lazy dog. ".repeat(50)],
];

describe("the two runtimes agree on", () => {
  test.each(TEXTS)("hashes of %s", (_, text) => {
    const bytes = new TextEncoder().encode(text);
    expect(Buffer.from(node.sha256(text)).toString("hex")).toBe(
      Buffer.from(bun.sha256(text)).toString("hex"),
    );
    for (const seed of [undefined, 0, 1, 0x7fffffff, 0xffffffff]) {
      expect(node.hash32(text, seed)).toBe(bun.hash32(text, seed));
      expect(node.hash32(bytes, seed)).toBe(bun.hash32(bytes, seed));
    }
  });

  test.each(TEXTS)("the text that is %s, within other bytes", (_, text) => {
    const inner = new TextEncoder().encode(text);
    const bytes = new Uint8Array(inner.length + 8);
    bytes.set(inner, 5);
    const view = bytes.subarray(2);
    expect(node.textBetween(view, 3, 3 + inner.length)).toBe(text);
    expect(bun.textBetween(view, 3, 3 + inner.length)).toBe(text);
  });

  test.each(TEXTS)("a gzip of %s, also with something behind it", (_, text) => {
    const packed = Bun.gzipSync(text);
    const withMore = new Uint8Array(Buffer.concat([packed, Buffer.from("\n\n")]));
    const withName = new Uint8Array(
      Buffer.concat([
        packed.subarray(0, 3),
        Buffer.from([8]),
        packed.subarray(4, 10),
        Buffer.from("a.txt\0"),
        packed.subarray(10),
      ]),
    );
    for (const { gunzip } of [bun, node]) {
      expect(new TextDecoder().decode(gunzip(packed))).toBe(text);
      expect(new TextDecoder().decode(gunzip(withMore))).toBe(text);
      expect(new TextDecoder().decode(gunzip(withName))).toBe(text);
      expect(() => gunzip(new TextEncoder().encode("no gzip at all"))).toThrow();
    }
  });

  const FORMATS: CompressionName[] = ["gzip", "deflate", "deflate-raw", "brotli", "zstd"];
  test.each(FORMATS)("what a stream packed by %s says, and that half of it is none", async (format) => {
    const said = "what the provider said, ".repeat(400);
    const packed = await bytesThrough(new Blob([said]), new CompressionStream(format));
    for (const { decompressor } of [bun, node]) {
      const whole = decompressor(format);
      expect(whole).not.toBeNull();
      if (whole === null) continue;
      expect(new TextDecoder().decode(await bytesThrough(new Blob([packed]), whole))).toBe(said);
      const cut = decompressor(format);
      if (cut === null) continue;
      const half = await bytesThrough(new Blob([packed.slice(0, 12)]), cut).catch(() => new Uint8Array());
      expect(half.length).toBeLessThan(said.length);
    }
  });
});

function bytesThrough(
  blob: Blob,
  through: { readable: ReadableStream; writable: WritableStream },
): Promise<Uint8Array<ArrayBuffer>> {
  return new Response(blob.stream().pipeThrough(through)).bytes() as Promise<Uint8Array<ArrayBuffer>>;
}

describe("what Node 20 lacks", () => {
  test("a promise is settled from outside, once", async () => {
    const kept = deferred<number>();
    kept.resolve(1);
    kept.reject(new Error("too late"));
    expect(await kept.promise).toBe(1);
    const broken = deferred<number>();
    broken.reject(new Error("so it is"));
    expect(broken.promise).rejects.toThrow("so it is");
  });

  test("items are grouped in the order in which their names came", () => {
    const groups = grouped(["pear", "apple", "plum", "fig", "avocado"], (word) => word[0]);
    expect([...groups]).toEqual([
      ["p", ["pear", "plum"]],
      ["a", ["apple", "avocado"]],
      ["f", ["fig"]],
    ]);
    expect(grouped([], () => 1).size).toBe(0);
  });

  test("a text is a URL or null", () => {
    expect(urlOrNull("https://api.example.com/v1")?.host).toBe("api.example.com");
    for (const text of ["", "api.example.com", "http://", "http://h:99999/"])
      expect(urlOrNull(text)).toBeNull();
  });
});
