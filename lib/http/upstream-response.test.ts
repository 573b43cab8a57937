import { describe, expect, test } from "bun:test";
import {
  brotliCompressSync,
  createGzip,
  deflateRawSync,
  deflateSync,
  gzipSync,
  zstdCompressSync,
} from "node:zlib";
import {
  answerHead,
  chat,
  chunk,
  exchange,
  httpAnswer,
  LAST_CHUNK,
  stage,
  startRawProvider,
} from "../testing/fixture.ts";
import type { RawAnswer, RawConnection, Stage } from "../testing/fixture.ts";
import { REDACTED } from "../core/secret.ts";

const KEY = "sk-canary/pool+0123=4567_WXYZ";
const JSON_TYPE = { "content-type": "application/json" };
const EVENTS_TYPE = { "content-type": "text/event-stream" };

/** The proxy with two keys in front of a provider that answers everything, or each key by itself. */
async function facing(
  answer: (connection: RawConnection, key: string | null) => void,
  play: (proxy: Stage) => Promise<void>,
): Promise<void> {
  await using provider = startRawProvider(({ key }, connection) => answer(connection, key));
  const settings = {
    API_KEYS: `${KEY},sk-other-key-4567`,
    TARGET_BASE_URL: provider.url,
    PROVIDER: "openai",
    MAX_WAIT_SEC: "0",
    LOG_LEVEL: "debug",
  };
  await using proxy = stage({ settings });
  await play(proxy);
}

const REQUEST = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";

/** What the client sees of an answer, byte by byte, and all in which a key could be found. */
async function seen(proxy: Stage): Promise<RawAnswer & { text: string; all: string }> {
  const answer = await exchange(proxy.url, REQUEST);
  const { body, head } = answer;
  const unpacked = body[0] === 0x1f ? Bun.gunzipSync(Uint8Array.from(body)) : body;
  proxy.engine.log.flush();
  const all = [head, body.toString(), Buffer.from(unpacked).toString(), JSON.stringify(proxy.logged())];
  return { ...answer, text: body.toString(), all: all.join("\n") };
}

const UTF16_TYPE = { "content-type": "application/json; charset=UTF-16LE" };
const WRAPPED = `x ${(
  Buffer.from(KEY)
    .toString("base64")
    .match(/.{1,8}/g) ?? []
).join("\r\n")}`;

const error = (said: string) =>
  JSON.stringify({ error: { message: `Refused: ${said}.`, type: "invalid_request_error" } });
/** More than is read of an error to judge it. */
const LONG = "x".repeat(1_100_000);
/** Letters that cannot be packed into much less. */
const noise = (length: number) =>
  Array.from({ length: length / 60_000 }, () =>
    Buffer.from(crypto.getRandomValues(new Uint8Array(60_000))).toString("latin1"),
  ).join("");
const escaped = [...KEY].map((letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`).join("");

describe("a key that upstream echoes (P29) reaches neither client nor log", () => {
  const answers: [
    sentence: string,
    status: number,
    body: string | Uint8Array,
    fields: Record<string, string>,
    /** What the client reads instead. */
    reads: string,
  ][] = [
    ["in a text that claims to be gzip", 400, error(KEY), { "content-encoding": "gzip" }, error(REDACTED)],
    ["packed twice", 400, gzipSync(gzipSync(error(KEY))), { "content-encoding": "gzip" }, error(REDACTED)],
    ["packed without saying so", 400, gzipSync(error(KEY)), {}, error(REDACTED)],
    ["packed as deflate without saying so", 400, deflateSync(error(KEY)), {}, error(REDACTED)],
    [
      "packed as deflate without its frame, without saying so",
      400,
      deflateRawSync(error(KEY)),
      {},
      error(REDACTED),
    ],
    ["packed as brotli without saying so", 400, brotliCompressSync(error(KEY)), {}, error(REDACTED)],
    ["that another request goes with", 400, error("sk-other-key-4567"), {}, error(REDACTED)],
    [
      "that another request goes with, packed",
      400,
      gzipSync(error("sk-other-key-4567")),
      {},
      error(REDACTED),
    ],
    ["in UTF-16, as its type says", 400, Buffer.from(error(KEY), "utf16le"), UTF16_TYPE, error(REDACTED)],
    ["in UTF-16 with a mark", 400, Buffer.from(`\uFEFF${error(KEY)}`, "utf16le"), {}, error(REDACTED)],
    ["in UTF-16 that nobody speaks of", 400, Buffer.from(error(KEY), "utf16le"), {}, error(REDACTED)],
    ["in UTF-16 of the other order", 400, Buffer.from(error(KEY), "utf16le").swap16(), {}, error(REDACTED)],
    ["in UTF-16, packed", 400, gzipSync(Buffer.from(error(KEY), "utf16le")), UTF16_TYPE, error(REDACTED)],
    ["in base64 that is broken over lines", 400, error(WRAPPED), {}, `x ${REDACTED}`],
    ["behind more than anybody judges", 422, error(`${LONG} ${KEY}`), { etag: '"1"' }, `xx ${REDACTED}.`],
    ["in a long error, in base64", 404, error(`${LONG} ${btoa(`: ${KEY}`)}`), {}, REDACTED],
    ["in a long error, escaped in JSON", 400, `${error(LONG)}"${escaped}"`, JSON_TYPE, `"${REDACTED}"`],
    ["at the beginning of a long error", 422, error(`${KEY} ${LONG}`), {}, error(`${REDACTED} ${LONG}`)],
    ["in a long page", 400, `<p>${LONG} ${KEY}</p>`, { "content-type": "text/html" }, `xx ${REDACTED}</p>`],
    [
      "in many places of a long error",
      400,
      `${LONG} ${KEY} `.repeat(3),
      {},
      `${LONG} ${REDACTED} `.repeat(3),
    ],
    [
      "in a long error in UTF-16",
      400,
      Buffer.from(error(`${KEY} ${LONG}`), "utf16le"),
      UTF16_TYPE,
      "is too long",
    ],
    [
      "behind a long error that is no text",
      400,
      Buffer.concat([Buffer.alloc(1.1e6, 0xff), Buffer.from(KEY)]),
      {},
      "is too long",
    ],
    [
      "in a long error that is packed",
      400,
      gzipSync(noise(1.2e6) + KEY),
      { "content-encoding": "gzip" },
      "is too long",
    ],
    [
      "with junk behind it",
      400,
      Buffer.concat([gzipSync(error(KEY)), Buffer.from(KEY)]),
      { "content-encoding": "gzip" },
      error(REDACTED),
    ],
    [
      "in what came of an error that was cut short",
      400,
      gzipSync(error(KEY)).subarray(0, -6),
      { "content-encoding": "gzip" },
      error(REDACTED),
    ],
    [
      "in an error that nobody can unpack",
      400,
      Buffer.concat([brotliCompressSync(error(KEY)), Buffer.from("junk")]),
      { "content-encoding": "br", etag: '"1"' },
      "packed in a way that cannot be undone",
    ],
    [
      "escaped in JSON",
      400,
      `{"error":{"message":"Refused: ${escaped}"}}`,
      JSON_TYPE,
      `Refused: ${REDACTED}"`,
    ],
    ["in the address of a redirect", 302, "", { location: `https://example.org/?key=${KEY}` }, ""],
    [
      "in the page of a redirect",
      307,
      `<a href="/?key=${encodeURIComponent(KEY)}">here</a>`,
      { location: `/?key=${encodeURIComponent(KEY)}` },
      `<a href="/?key=${REDACTED}">here</a>`,
    ],
    ["in the fields of an unchanged document", 304, "", { "x-error-message": KEY }, ""],
    [
      "in an error with status 200",
      200,
      error(`${KEY} is too long`),
      JSON_TYPE,
      error(`${REDACTED} is too long`),
    ],
    [
      "in the fields of an error with status 200",
      200,
      error("too long"),
      { ...JSON_TYPE, "x-error-message": KEY },
      error("too long"),
    ],
    [
      "in a packed error with status 200",
      200,
      gzipSync(error(KEY)),
      { ...JSON_TYPE, "content-encoding": "gzip" },
      error(REDACTED),
    ],
    [
      "in a packed stream that begins with an error",
      200,
      gzipSync(`data: ${error(KEY)}\n\n`),
      { ...EVENTS_TYPE, "content-encoding": "gzip" },
      `data: ${error(REDACTED)}\n\n`,
    ],
  ];
  test.each(answers)("%s", async (_, status, body, fields, reads) => {
    await facing(
      (connection) => connection.write(httpAnswer(status, body, fields)),
      async (proxy) => {
        const answer = await seen(proxy);
        expect(answer.status).toBe(status);
        expect(answer.all).not.toContain("canary");
        expect(answer.text).toContain(reads);
        expect(answer.fields.has("content-encoding")).toBe(false);
        expect(answer.fields.has("etag")).toBe(false);
      },
    );
  });

  test("wherever it stands in a long error, and every other byte stays", async () => {
    const letters = "é你😀 ".repeat(30_000); // about 390 KB
    for (const at of [262_100, 262_130, 262_143, 262_144, 524_280]) {
      const [before, behind] = ["y".repeat(at), `${letters}${LONG}`];
      await facing(
        (connection) => {
          const bytes = httpAnswer(400, `${before}${KEY}${behind}`, {});
          connection.write(bytes.subarray(0, at + 150));
          setTimeout(() => connection.write(bytes.subarray(at + 150)), 20);
        },
        async (proxy) => {
          const { status, body } = await exchange(proxy.url, REQUEST);
          expect([status, body.toString() === `${before}${REDACTED}${behind}`]).toEqual([400, true]);
        },
      );
    }
  });

  test("and a long error that breaks off ends without the end of a body", async () => {
    await facing(
      (connection) => {
        connection.write(httpAnswer(400, error(LONG), {}).subarray(0, -40_000));
        setTimeout(() => connection.reset(), 20);
      },
      async (proxy) => {
        const end = exchange(proxy.url, REQUEST);
        expect(end).rejects.toThrow("closed without a whole answer");
        await end.catch(() => {});
      },
    );
  });

  test("and a packed error without it keeps its very bytes", async () => {
    const packed = gzipSync(error("too long"));
    for (const status of [200, 307, 400]) {
      await facing(
        (connection) =>
          connection.write(httpAnswer(status, packed, { ...JSON_TYPE, "content-encoding": "gzip" })),
        async (proxy) => {
          const { fields, body } = await exchange(proxy.url, REQUEST);
          expect(fields.get("content-encoding")).toEqual(["gzip"]);
          expect(body.equals(packed)).toBe(true);
        },
      );
    }
  });
});

describe("an error with a good status that is packed (P20)", () => {
  const limit = JSON.stringify({ error: { message: "Rate limit reached", code: "rate_limit_exceeded" } });
  const good = JSON.stringify({
    id: "1",
    choices: [{ message: { content: "hello" }, finish_reason: "stop" }],
  });
  const framings: [
    sentence: string,
    send: (connection: RawConnection, bytes: Uint8Array, encoding: string) => void,
  ][] = [
    [
      "with its length",
      (connection, bytes, encoding) =>
        connection.write(httpAnswer(200, bytes, { ...JSON_TYPE, "content-encoding": encoding })),
    ],
    [
      "in chunks",
      (connection, bytes, encoding) => {
        const fields = { ...JSON_TYPE, "content-encoding": encoding, "transfer-encoding": "chunked" };
        connection.write(answerHead(200, fields));
        connection.write(chunk(bytes.subarray(0, 12)));
        connection.write(chunk(bytes.subarray(12)));
        connection.write(LAST_CHUNK);
      },
    ],
  ];
  const packers = [
    ["gzip", gzipSync],
    ["br", brotliCompressSync],
    ["zstd", zstdCompressSync],
  ] as const;
  for (const [sentence, send] of framings) {
    test.each(packers)(`is answered with another key: %s, ${sentence}`, async (encoding, pack) => {
      await facing(
        (connection, key) => send(connection, pack(key === KEY ? limit : good), encoding),
        async (proxy) => {
          for (let nth = 0; nth < 2; nth++)
            expect(await (await chat(proxy.url)).json()).toEqual(JSON.parse(good));
          expect((await proxy.health()).providers[0]?.keys[0]).toMatchObject({ rate_limited: 1 });
        },
      );
    });
  }

  test("is answered with another key where it is the first event of a stream, flushed on its own", async () => {
    const stream = (events: string): Promise<Buffer> => {
      const packer = createGzip();
      const { promise, resolve } = Promise.withResolvers<Buffer>();
      const parts: Buffer[] = [];
      packer.on("data", (part: Buffer) => parts.push(part));
      packer.write(events);
      packer.flush(() => resolve(Buffer.concat(parts)));
      return promise;
    };
    const refused = await stream(`: waiting\n\ndata: ${limit}\n\n`);
    const answered = gzipSync(`data: ${good}\n\ndata: [DONE]\n\n`);
    const fields = { ...EVENTS_TYPE, "content-encoding": "gzip", "transfer-encoding": "chunked" };
    await facing(
      (connection, key) => {
        connection.write(answerHead(200, fields));
        if (key === KEY) return connection.write(chunk(refused)); // and then nothing
        connection.write(Buffer.concat([chunk(answered), Buffer.from(LAST_CHUNK)]));
      },
      async (proxy) => {
        for (let nth = 0; nth < 2; nth++) expect(await (await chat(proxy.url)).text()).toContain("[DONE]");
        expect((await proxy.health()).providers[0]?.keys[0]).toMatchObject({ rate_limited: 1 });
      },
    );
  });
});
