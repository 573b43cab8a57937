import { describe, expect, test } from "bun:test";
import { connectRaw, until } from "../testing/fixture.ts";
import { receive } from "./request.ts";
import type { Load } from "./request.ts";

const LIMITS = { maxBodyBytes: 1000, maxInFlight: 2, maxBufferedBytes: 1500 };

interface Outcome {
  readonly body: string | null;
  readonly refused: string | null;
}

/** A server that takes bodies in and does nothing else. */
function open(load: Load = { inFlight: 0, bufferedBytes: 0 }) {
  const outcomes: Outcome[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    async fetch(request) {
      const received = await receive(request, request.headers, load, LIMITS);
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
  const rows: [says: string, sent: string, before: Load, outcome: Outcome, bufferedBytes: number][] = [
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
    await using scene = open({ ...before });
    const client = await connectRaw(scene.url);
    client.write(`POST / HTTP/1.1\r\nHost: x\r\n${sent}`);
    await until("it was judged", () => scene.outcomes.length === 1);
    client.end();
    expect(scene.outcomes).toEqual([outcome]);
    // Refused or not, it is in flight until somebody ends it.
    expect(scene.load).toEqual({ inFlight: before.inFlight + 1, bufferedBytes });
  });

  const broken: [says: string, sent: string, bytes: number][] = [
    ["of known length", `Content-Length: 900\r\n\r\n{"model":`, 900],
    ["in chunks", `Transfer-Encoding: chunked\r\n\r\n9\r\n{"model":\r\n`, 9],
  ];
  test.each(broken)("P6 that breaks off is refused, and counted no more: %s", async (_, sent, bytes) => {
    await using scene = open();
    const client = await connectRaw(scene.url);
    client.write(`POST / HTTP/1.1\r\nHost: x\r\n${sent}`);
    await until("it counts before it is there", () => scene.load.bufferedBytes === bytes);
    client.reset();
    await until("it was judged", () => scene.outcomes.length === 1);
    expect(scene.outcomes).toEqual([{ body: null, refused: "bad_request" }]);
    expect(scene.load).toEqual({ inFlight: 1, bufferedBytes: 0 });
  });
});

function fresh(): Load {
  return { inFlight: 0, bufferedBytes: 0 };
}
