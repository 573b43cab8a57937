import { describe, expect, test } from "bun:test";
import { connectRaw, until } from "../testing/fixture.ts";
import { Load } from "./load.ts";
import { receive } from "./request.ts";

const SMALL = { maxBodyBytes: 1000, maxInFlight: 2, maxBufferedBytes: 1500 };
const LARGE = { maxBodyBytes: 1e6, maxInFlight: 50, maxBufferedBytes: 1e6 };

interface Outcome {
  readonly body: string | null;
  readonly refused: string | null;
}

/** A server that takes bodies in and does nothing else. */
function open(load = new Load(), limits = SMALL) {
  const outcomes: Outcome[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    async fetch(request) {
      const received = await receive(request, request.headers, load.shareOf(nameOf(request)), limits);
      const isRefused = received.kind === "refused";
      const body = isRefused || received.body === null ? null : Buffer.from(received.body).toString();
      outcomes.push({ body, refused: isRefused ? received.type : null });
      return new Response(null, { status: isRefused ? received.status : 204 });
    },
  });
  return {
    url: `http://127.0.0.1:${server.port}`,
    load,
    outcomes,
    async [Symbol.asyncDispose]() {
      await server.stop(true);
    },
  };
}

const chunked = (...parts: string[]) =>
  parts.map((part) => `${part.length.toString(16)}\r\n${part}\r\n`).join("") + "0\r\n\r\n";
const sized = (body: string) => `Content-Length: ${body.length}\r\n\r\n${body}`;
const inChunks = (...parts: string[]) => `Transfer-Encoding: chunked\r\n\r\n${chunked(...parts)}`;
const thousand = "x".repeat(1000);

describe("a request's body", () => {
  const rows: [says: string, sent: string, before: Before, outcome: Outcome, bufferedBytes: number][] = [
    ["is none where none is announced", "\r\n", fresh(), { body: null, refused: null }, 0],
    ["is empty where zero bytes are", sized(""), fresh(), { body: "", refused: null }, 0],
    ["P6 is taken in whole", sized(thousand), fresh(), { body: thousand, refused: null }, 1000],
    [
      "P6 is taken in whole from chunks",
      inChunks("one,", "two"),
      fresh(),
      { body: "one,two", refused: null },
      7,
    ],
    ["may be no chunk at all", inChunks(), fresh(), { body: "", refused: null }, 0],
    [
      "P27 is refused by its announced length",
      `Content-Length: 1001\r\n\r\n`,
      fresh(),
      { body: null, refused: "body_too_large" },
      0,
    ],
    [
      "P27 is refused as soon as its chunks are too many",
      inChunks(thousand, "x"),
      fresh(),
      { body: null, refused: "body_too_large" },
      0,
    ],
    [
      "P26 is refused where too many are in flight",
      sized("x"),
      { inFlight: 2, bufferedBytes: 0 },
      { body: null, refused: "overloaded" },
      0,
    ],
    [
      "P26 is refused where its announced length has no room",
      sized(thousand),
      { inFlight: 0, bufferedBytes: 501 },
      { body: null, refused: "overloaded" },
      501,
    ],
    [
      "P26 is refused where its chunks have no room",
      inChunks("one", "two"),
      { inFlight: 0, bufferedBytes: 1497 },
      { body: null, refused: "overloaded" },
      1497,
    ],
  ];
  test.each(rows)("%s", async (_, sent, before, outcome, bufferedBytes) => {
    await using scene = open(loadOf("somebody else", before));
    const client = await connectRaw(scene.url);
    client.write(`POST / HTTP/1.1\r\nHost: x\r\n${sent}`);
    await until("it was judged", () => scene.outcomes.length === 1);
    client.end();
    expect(scene.outcomes).toEqual([outcome]);
    // Refused or not, it is in flight until somebody ends it.
    expect(countsOf(scene.load)).toEqual({ inFlight: before.inFlight + 1, bufferedBytes });
  });

  // What was announced counted before it came: eight silent sockets kept everybody else out (P43).
  const broken: [says: string, sent: string, bytes: number][] = [
    ["of known length", `Content-Length: 900\r\n\r\n{"model":`, 0],
    ["of a length that is read in one go", `Content-Length: 90000\r\n\r\n{"model":`, 0],
    ["of a great length", `Content-Length: 900000\r\n\r\n{"model":`, 9],
    ["in chunks", `Transfer-Encoding: chunked\r\n\r\n9\r\n{"model":\r\n`, 9],
  ];
  test.each(broken)("P6 that breaks off is refused, and counted no more: %s", async (_, sent, bytes) => {
    await using scene = open(new Load(), LARGE);
    const client = await connectRaw(scene.url);
    client.write(`POST / HTTP/1.1\r\nHost: x\r\n${sent}`);
    await until(
      "what has come counts",
      () => scene.load.inFlight === 1 && scene.load.bufferedBytes === bytes,
    );
    client.reset();
    await until("it was judged", () => scene.outcomes.length === 1);
    expect(scene.outcomes).toEqual([{ body: null, refused: "bad_request" }]);
    expect(countsOf(scene.load)).toEqual({ inFlight: 1, bufferedBytes: 0 });
  });
});

describe("a long body of known length", () => {
  test("P6 is taken in whole, and counts as it comes", async () => {
    const body = `${"a".repeat(100_000)}${"b".repeat(100_000)}`;
    await using scene = open(new Load(), LARGE);
    const client = await connectRaw(scene.url);
    client.write(`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n${body.slice(0, 70_000)}`);
    await until("a part counts", () => scene.load.bufferedBytes === 70_000);
    client.write(body.slice(70_000));
    await until("it was judged", () => scene.outcomes.length === 1);
    expect(scene.outcomes).toEqual([{ body, refused: null }]);
    expect(scene.load.bufferedBytes).toBe(200_000);
    client.end();
  });

  test("P43 keeps nobody out by what it only announces", async () => {
    await using scene = open(new Load(), LARGE);
    const silent = await Promise.all(Array.from({ length: 8 }, () => connectRaw(scene.url)));
    for (const client of silent)
      client.write(`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\nx`);
    await until("all are there", () => scene.load.inFlight === 8 && scene.load.bufferedBytes === 8);
    const response = await fetch(scene.url, { method: "POST", body: "x".repeat(500_000) });
    expect(response.status).toBe(204);
    for (const client of silent) client.reset();
    await until("all were judged", () => scene.outcomes.length === 9);
    expect(scene.load.bufferedBytes).toBe(500_000);
  });

  test("P43 is read in pieces, and counts as it comes, where others of its like are on their way", async () => {
    await using scene = open(new Load(), LARGE);
    const clients = await Promise.all([connectRaw(scene.url), connectRaw(scene.url)]);
    const part = `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n${"x".repeat(70_000)}`;
    for (const client of clients) client.write(part);
    await until("a part of one counts", () => scene.load.bufferedBytes === 70_000);
    expect(scene.load.expectedBytes).toBe(100_000);
    for (const client of clients) client.write("y".repeat(30_000));
    await until("both were judged", () => scene.outcomes.length === 2);
    const body = `${"x".repeat(70_000)}${"y".repeat(30_000)}`;
    expect(scene.outcomes).toEqual([
      { body, refused: null },
      { body, refused: null },
    ]);
    expect([scene.load.bufferedBytes, scene.load.expectedBytes]).toEqual([200_000, 0]);
    for (const client of clients) client.end();
  });

  test("P43 is expected no more where it breaks off", async () => {
    await using scene = open(new Load(), LARGE);
    const client = await connectRaw(scene.url);
    client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx");
    await until("it is expected", () => scene.load.expectedBytes === 100_000);
    client.reset();
    await until("it was judged", () => scene.outcomes.length === 1);
    expect([scene.load.bufferedBytes, scene.load.expectedBytes]).toEqual([0, 0]);
  });

  test("P43 is refused as soon as what has come together is too much", async () => {
    await using scene = open(new Load(), LARGE);
    const clients = await Promise.all([connectRaw(scene.url), connectRaw(scene.url)]);
    for (const client of clients) {
      client.write(`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 800000\r\n\r\n${"x".repeat(300_000)}`);
    }
    await until("a part of both counts", () => scene.load.bufferedBytes === 600_000);
    for (const client of clients) client.write("x".repeat(300_000));
    await until("one was judged", () => scene.outcomes.length >= 1);
    expect(scene.outcomes[0]).toEqual({ body: null, refused: "overloaded" });
    for (const client of clients) client.end();
  });
});

describe("the bodies of one client", () => {
  const START = { inFlight: 0, bufferedBytes: 0 };
  const limits = { maxBodyBytes: 200_000, maxInFlight: 50, maxBufferedBytes: 1_000_000 };
  const slowly = (client: string, announced: number, sent: number) =>
    `POST / HTTP/1.1\r\nHost: x\r\nX-Client: ${client}\r\nContent-Length: ${announced}\r\n\r\n${"x".repeat(sent)}`;
  const chunks = (client: string, sent: number) =>
    `POST / HTTP/1.1\r\nHost: x\r\nX-Client: ${client}\r\nTransfer-Encoding: chunked\r\n\r\n${sent.toString(16)}\r\n${"x".repeat(sent)}\r\n`;

  test.each([
    ["of known length", (client: string) => slowly(client, 200_000, 199_999)],
    ["in chunks", (client: string) => chunks(client, 199_999)],
  ])("P43 leave room for another client's when they are slow and many: %s", async (_, sent) => {
    await using scene = open(new Load(), limits);
    const greedy = await Promise.all(Array.from({ length: 8 }, () => connectRaw(scene.url)));
    for (const client of greedy) client.write(sent("greedy"));
    await until("those without room were refused", () => scene.outcomes.length === 4);
    expect(scene.load.bufferedBytes).toBe(4 * 199_999);
    expect(scene.outcomes.every(({ refused }) => refused === "overloaded")).toBe(true);
    const body = "y".repeat(200_000);
    const response = await fetch(scene.url, { method: "POST", body, headers: { "x-client": "modest" } });
    expect(response.status).toBe(204);
    for (const client of greedy) client.reset();
    await until("all were judged", () => scene.outcomes.length === 9);
    expect(scene.load.bufferedBytes).toBe(200_000); // what was served counts until its request ends
  });

  test("P43 are at most half of all while somebody else's are there", async () => {
    await using scene = open(loadOf("somebody else", { ...START, bufferedBytes: 1 }), limits);
    const clients = await Promise.all(Array.from({ length: 3 }, () => connectRaw(scene.url)));
    for (const client of clients) client.write(slowly("greedy", 200_000, 180_000));
    await until("one was refused", () => scene.outcomes.length === 1);
    expect(scene.outcomes).toEqual([{ body: null, refused: "overloaded" }]);
    expect(scene.load.bufferedBytes).toBe(360_001);
    for (const client of clients) client.reset();
    await until("all were judged", () => scene.outcomes.length === 3);
    expect(scene.load.bufferedBytes).toBe(1);
  });
});

describe("a body that cannot be looked into as it is", () => {
  const TEXT = '{"model":"m","messages":[]}';
  const utf8 = (text: string) => new TextEncoder().encode(text);
  const packed = async (format: Bun.CompressionFormat, bytes: Uint8Array<ArrayBuffer> = utf8(TEXT)) =>
    new Uint8Array(
      await new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream(format))).arrayBuffer(),
    );
  const utf16 = (text: string, isLittle: boolean) => {
    const bytes = Buffer.from(`\ufeff${text}`, "utf16le");
    return new Uint8Array(isLittle ? bytes : bytes.swap16());
  };
  /** What can be read of it, and how many bytes then count; null: it cannot be read. */
  async function read(bytes: Uint8Array<ArrayBuffer>, encoding: string | null, limits = LARGE) {
    const load = new Load();
    const headers = new Headers({ "content-length": String(bytes.length) });
    if (encoding !== null) headers.set("content-encoding", encoding);
    const received = await receive(
      new Request("http://h", { method: "POST", body: bytes }),
      headers,
      load.shareOf("somebody"),
      limits,
    );
    if (received.kind === "refused") {
      expect(load.bufferedBytes).toBe(0);
      return received.type;
    }
    expect(received.body).toEqual(bytes); // it goes on as it came
    expect(load.bufferedBytes).toBe(bytes.length + (received.readable?.length ?? 0));
    return received.readable === null ? null : new TextDecoder().decode(received.readable);
  }

  const rows: [
    says: string,
    bytes: () => Promise<Uint8Array<ArrayBuffer>>,
    encoding: string | null,
    plain: string | null,
  ][] = [
    ["gzip", () => packed("gzip"), "gzip", TEXT],
    ["gzip under its old name", () => packed("gzip"), "X-GZIP", TEXT],
    ["deflate", () => packed("deflate"), "deflate", TEXT],
    ["deflate without its frame", () => packed("deflate-raw"), "deflate", TEXT],
    ["brotli", () => packed("brotli"), "br", TEXT],
    ["zstd", () => packed("zstd"), "zstd", TEXT],
    ["two of them", async () => packed("brotli", await packed("gzip")), "gzip, br", TEXT],
    ["none, by name", async () => utf8(TEXT), "identity", TEXT],
    ["a byte order mark", async () => utf8(`\ufeff${TEXT}`), null, TEXT],
    ["UTF-16, little end first", async () => utf16(TEXT, true), null, TEXT],
    ["UTF-16, big end first", async () => utf16(TEXT, false), null, TEXT],
    ["a byte order mark within gzip", () => packed("gzip", utf8(`\ufeff${TEXT}`)), "gzip", TEXT],
    ["a plain text", async () => utf8(TEXT), null, null],
    ["something else than it says", async () => utf8(TEXT), "gzip", null],
    ["a half of it", async () => (await packed("gzip")).subarray(0, 20), "gzip", null],
    ["a way that nobody knows", async () => utf8(TEXT), "snappy", null],
    [
      "more layers than anybody packs",
      async () => utf8(TEXT),
      "identity, gzip, gzip, gzip, gzip, gzip",
      null,
    ],
  ];
  test.each(rows)("P45 is read where it is %s", async (_, bytes, encoding, plain) => {
    expect(await read(await bytes(), encoding)).toBe(plain);
  });

  test.each(["gzip", "brotli", "zstd"] as const)(
    "P45 is unpacked no further than a body may be long: %s",
    async (format) => {
      const bomb = await packed(format, new Uint8Array(2_000_000));
      expect(await read(bomb, format === "brotli" ? "br" : format)).toBe(null);
      const fits = { ...LARGE, maxBodyBytes: 3_000_000, maxBufferedBytes: 3_000_000 };
      expect((await read(bomb, format === "brotli" ? "br" : format, fits))?.length).toBe(2_000_000);
      const isFull = { ...LARGE, maxBodyBytes: 3_000_000 }; // beside what has come there is no room for a copy
      expect(await read(bomb, format === "brotli" ? "br" : format, isFull)).toBe("overloaded");
    },
  );
});

interface Before {
  readonly inFlight: number;
  readonly bufferedBytes: number;
}

function fresh(): Before {
  return { inFlight: 0, bufferedBytes: 0 };
}

/** A load that one client has put there. */
function loadOf(client: string, { inFlight, bufferedBytes }: Before): Load {
  const load = new Load();
  const share = load.shareOf(client);
  for (let count = 0; count < inFlight; count++) share.enter(SMALL);
  share.hold(bufferedBytes);
  return load;
}

function countsOf({ inFlight, bufferedBytes }: Load): Before {
  return { inFlight, bufferedBytes };
}

/** The client is who a request says it is. */
function nameOf(request: Request): string {
  return request.headers.get("x-client") ?? "somebody";
}
