import { describe, expect, test } from "bun:test";
import {
  brotliCompressSync,
  constants,
  createBrotliCompress,
  createDeflate,
  createGzip,
  createZstdCompress,
  deflateRawSync,
  deflateSync,
  gzipSync,
  zstdCompressSync,
} from "node:zlib";
import { encodingsOf, unpack, Unpacker, unpackWhile } from "./body.ts";

const TEXT = JSON.stringify({
  error: { message: Array.from({ length: 300 }, (_, nth) => `no ${nth * 7919} `).join("") },
});

const bytesOf = (text: string | Uint8Array) =>
  Uint8Array.from(typeof text === "string" ? Buffer.from(text) : text);
const textOf = (bytes: Uint8Array) => Buffer.from(bytes).toString();

describe("what a body says", () => {
  const bodies: [
    sentence: string,
    sent: string | Uint8Array,
    encodings: string[],
    extent: "whole" | "part" | "none",
    text?: string,
  ][] = [
    ["is there at once where it is not packed", TEXT, [], "whole"],
    ["is unpacked from gzip", gzipSync(TEXT), ["gzip"], "whole"],
    ["is unpacked from gzip by its old name", gzipSync(TEXT), ["x-gzip"], "whole"],
    [
      "is unpacked from gzip in two parts",
      Buffer.concat([gzipSync(TEXT.slice(0, 99)), gzipSync(TEXT.slice(99))]),
      ["gzip"],
      "whole",
    ],
    ["is unpacked from deflate", deflateSync(TEXT), ["deflate"], "whole"],
    ["is unpacked from deflate without its frame", deflateRawSync(TEXT), ["deflate"], "whole"],
    ["is unpacked from brotli", brotliCompressSync(TEXT), ["br"], "whole"],
    ["is unpacked from zstd", zstdCompressSync(TEXT), ["zstd"], "whole"],
    ["is unpacked in the order of the field", brotliCompressSync(gzipSync(TEXT)), ["gzip", "br"], "whole"],
    ["is unpacked twice where it says so once", gzipSync(gzipSync(TEXT)), ["gzip"], "whole"],
    ["is unpacked where it does not say so", gzipSync(TEXT), [], "whole"],
    ["is unpacked where it says something unheard of", zstdCompressSync(TEXT), ["unheard-of"], "whole"],
    ["is a text in spite of its claim", TEXT, ["gzip"], "whole"],
    ["is a text in spite of a claim unheard of", TEXT, ["utf-8"], "whole"],
    ["is known as far as it came", gzipSync(TEXT).subarray(0, -5), ["gzip"], "part"],
    [
      "is known up to the junk behind it",
      Buffer.concat([gzipSync(TEXT), Buffer.from("junk")]),
      ["gzip"],
      "part",
    ],
    ["is nothing where there is nothing", "", ["gzip"], "whole", ""],
    ["is bytes where it claims nothing", new Uint8Array([0, 255, 1]), [], "whole", "\0\ufffd\u0001"],
    [
      "cannot be known of bytes that claim something unheard of",
      new Uint8Array([0, 255, 1]),
      ["x"],
      "none",
      "",
    ],
    ["cannot be known of bytes that are no gzip", new Uint8Array([0, 255, 1]), ["gzip"], "none", ""],
    [
      "cannot be known where junk follows on brotli",
      Buffer.concat([brotliCompressSync(TEXT), Buffer.from("junk")]),
      ["br"],
      "none",
      "",
    ],
    ["cannot be known of a bomb of brotli", brotliCompressSync(Buffer.alloc(40_000_000)), ["br"], "none", ""],
    ["cannot be known of a bomb of gzip", gzipSync(Buffer.alloc(40_000_000)), ["gzip"], "none", ""],
    ["cannot be known of a small bomb of gzip", gzipSync(Buffer.alloc(1_200_000)), ["gzip"], "none", ""],
    ["cannot be known of a bomb that nobody announced", gzipSync(Buffer.alloc(9_000_000)), [], "none", ""],
    [
      "cannot be known where it is packed again and again",
      Array.from({ length: 7 }).reduce<Uint8Array>((inner) => gzipSync(inner), Buffer.from(TEXT)),
      ["gzip"],
      "none",
      "",
    ],
  ];
  test.each(bodies)("%s", async (_, sent, encodings, extent, text = TEXT) => {
    const unpacked = await unpack(bytesOf(sent), encodings);
    expect(unpacked.extent).toBe(extent);
    expect(textOf(unpacked.plain)).toBe(text);
  });

  const fields: [field: string | null, encodings: string[]][] = [
    [null, []],
    ["", []],
    ["identity", []],
    ["GZip", ["gzip"]],
    ["gzip, identity , br", ["gzip", "br"]],
  ];
  test.each(fields)("is packed as its field says: %s", (field, encodings) => {
    const headers = new Headers(field === null ? {} : { "content-encoding": field });
    expect(encodingsOf(headers)).toEqual(encodings);
  });
});

describe("unpacking a stream", () => {
  const packers = [
    ["gzip", gzipSync, createGzip, constants.Z_SYNC_FLUSH],
    ["deflate", deflateSync, createDeflate, constants.Z_SYNC_FLUSH],
    ["br", brotliCompressSync, createBrotliCompress, constants.BROTLI_OPERATION_FLUSH],
    ["zstd", zstdCompressSync, createZstdCompress, constants.ZSTD_e_flush],
  ] as const;

  test.each(packers)("gives all of it, in pieces of whatever size: %s", async (encoding, pack) => {
    const packed = bytesOf(pack(TEXT));
    for (const size of [1, 2, 3, 7, 64, 1000, packed.length]) {
      const unpacker = Unpacker.of([encoding])!;
      let text = "";
      for (let at = 0; at < packed.length; at += size) {
        text += textOf((await unpacker.push(packed.subarray(at, at + size)))!);
      }
      unpacker.close();
      expect(text).toBe(TEXT);
    }
  });

  test.each(packers)("keeps nothing back of what was flushed: %s", async (encoding, _, create, kind) => {
    const packer = create();
    const parts: Buffer[] = [];
    packer.on("data", (part: Buffer) => parts.push(part));
    const unpacker = Unpacker.of([encoding])!;
    for (let nth = 0; nth < 20; nth++) {
      const event = `data: {"nth":${nth * 7919}}\n\n`;
      packer.write(event);
      await new Promise<void>((resolve) => packer.flush(kind, resolve));
      expect(textOf((await unpacker.push(bytesOf(Buffer.concat(parts.splice(0)))))!)).toBe(event);
    }
    unpacker.close();
  });

  test("ends where it is not what it says", async () => {
    expect(await Unpacker.of(["gzip"])!.push(bytesOf("data: {}\n\n"))).toBeNull();
  });

  test("ends where it unpacks to far too much", async () => {
    expect(await Unpacker.of(["br"])!.push(bytesOf(brotliCompressSync(Buffer.alloc(9_000_000))))).toBeNull();
  });

  test("is not tried where nobody knows how", () => {
    for (const encodings of [[], ["unheard-of"], ["gzip", "br"]]) expect(Unpacker.of(encodings)).toBeNull();
  });
});

test("P42 others have their turn while something long is unpacked", async () => {
  const packed = Bun.gzipSync(new Uint8Array(8 * 1024 * 1024));
  let turns = 0;
  const timer = setInterval(() => (turns += 1), 1);
  const plain = await unpackWhile(packed, ["gzip"], 16 * 1024 * 1024, () => true);
  clearInterval(timer);
  expect(plain).toHaveLength(8 * 1024 * 1024);
  expect(turns).toBeGreaterThan(4);
});
