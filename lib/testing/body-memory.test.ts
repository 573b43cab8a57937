/**
 * What bodies take up while they are here: who may hold how much, that it is given back from every ending, and that
 * long ones, which go out in pieces, arrive as they came.
 */
import { describe, expect, test } from "bun:test";
import {
  answerHead,
  chunk,
  connectRaw,
  EVENT_STREAM_HEAD,
  httpAnswer,
  stage,
  startRawProvider,
  until,
  type RawClient,
  type RawProvider,
  type Stage,
} from "./fixture.ts";

type Answering = Parameters<typeof startRawProvider>[0];
const OK: Answering = (_, connection) => connection.write(httpAnswer(200, '{"ok":true}'));
const LIMITED = httpAnswer(429, '{"error":{"message":"Slow down."}}', { "retry-after": "500" });
const SILENT: Answering = () => {};

async function onWire(
  answer: Answering,
  settings: Record<string, string>,
  play: (proxy: Stage, provider: RawProvider) => Promise<void>,
): Promise<void> {
  await using provider = startRawProvider(answer);
  const target = { API_KEYS: "key-one,key-two", TARGET_BASE_URL: provider.url, PROVIDER: "generic" };
  await using proxy = stage({ settings: { ...target, ...settings } });
  await play(proxy, provider);
}

const PATH = "/v1/chat/completions";
const MB = 2 ** 20;

/** A JSON body of this length that names a model behind its text, whose bytes differ everywhere. */
function longBody(length: number, model: string): string {
  const end = `"}],"model":"${model}"}`;
  const start = '{"messages":[{"role":"user","content":"';
  let text = "";
  for (let count = 0; text.length < length; count++) text += `line ${count * 7919}, `;
  return start + text.slice(0, length - start.length - end.length) + end;
}

function post(fields: Record<string, string>, body = ""): string {
  const all = { Host: "localhost", "Content-Type": "application/json", ...fields };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `POST ${PATH} HTTP/1.1\r\n${lines.join("")}\r\n${body}`;
}

const countsOf = ({ engine }: Stage) => ({
  inFlight: engine.inFlight,
  bufferedBytes: engine.bufferedBytes,
});
const NOTHING = { inFlight: 0, bufferedBytes: 0 };

describe("clients with bodies", () => {
  const SETTINGS = {
    MAX_BODY_MB: "0.25",
    MAX_BUFFERED_MB: "1",
    PROXY_API_KEY: "greedy=key-of-greedy,modest=key-of-modest",
  };
  const as = (name: string) => ({ Authorization: `Bearer key-of-${name}` });
  const LENGTH = 0.25 * MB;
  const modestPost = ({ url }: Stage) =>
    fetch(url + PATH, { method: "POST", headers: as("modest"), body: longBody(LENGTH, "m") });

  test("P43 leave room for others: eight slow bodies of one client", () =>
    onWire(OK, SETTINGS, async (proxy, provider) => {
      const slow: RawClient[] = [];
      for (let count = 0; count < 8; count++) slow.push(await connectRaw(proxy.url));
      const beginning = "x".repeat(LENGTH - 1);
      for (const client of slow)
        client.write(post({ ...as("greedy"), "Content-Length": String(LENGTH) }, beginning));
      await until("what has no room is refused", () => proxy.engine.inFlight < 8);
      const response = await modestPost(proxy);
      expect([response.status, provider.requests.length]).toEqual([200, 1]);
      const refused = slow.map((client) => client.received().toString()).filter((text) => text !== "");
      expect(refused.length).toBeGreaterThan(0);
      for (const text of refused) {
        expect(text).toStartWith("HTTP/1.1 503");
        expect(text.toLowerCase()).toContain("\r\nretry-after: 1\r\n");
        expect(text).toContain('"overloaded"');
      }
      for (const client of slow) client.reset();
      await until("all are forgotten", () => proxy.engine.inFlight === 0);
      expect(countsOf(proxy)).toEqual(NOTHING);
    }));

  test("P43 keep nobody out by announcing eight bodies and sending a byte of each", () =>
    onWire(OK, SETTINGS, async (proxy) => {
      const silent: RawClient[] = [];
      for (let count = 0; count < 8; count++) silent.push(await connectRaw(proxy.url));
      for (const client of silent)
        client.write(post({ ...as("greedy"), "Content-Length": String(LENGTH) }, "{"));
      await until("all are there", () => proxy.engine.inFlight === 8);
      const statuses = await Promise.all([modestPost(proxy), modestPost(proxy)]);
      expect(statuses.map(({ status }) => status)).toEqual([200, 200]);
      for (const client of silent) client.reset();
      await until("all are forgotten", () => proxy.engine.inFlight === 0);
      expect(countsOf(proxy)).toEqual(NOTHING);
    }));

  test("P43 leave room for others: requests that wait for their answers", () =>
    onWire(
      SILENT,
      { PROXY_API_KEY: SETTINGS.PROXY_API_KEY, MAX_IN_FLIGHT: "16" },
      async (proxy, provider) => {
        const leaving = new AbortController();
        const asking = (name: string) =>
          fetch(proxy.url + PATH, { method: "POST", headers: as(name), body: "{}", signal: leaving.signal });
        const greedy = Array.from({ length: 16 }, () => asking("greedy").catch(() => null));
        await until("14 have gone out", () => provider.requests.length === 14);
        const modest = asking("modest").catch(() => null);
        await until("another client's has, too", () => provider.requests.length === 15);
        const refused = await Promise.race([asking("greedy"), ...greedy]);
        expect(refused?.status).toBe(503);
        leaving.abort();
        await Promise.all([modest, ...greedy]);
        await until("all are forgotten", () => proxy.engine.inFlight === 0);
      },
    ));
});

describe("what a body takes up is given back when its client leaves", () => {
  const long = 0.75 * MB;
  const gzipped = Bun.gzipSync(Buffer.from(longBody(long, "m")));
  const streaming: Answering = (_, connection) =>
    connection.write(
      EVENT_STREAM_HEAD + chunk('data: {"choices":[{"delta":{"content":"x"}}]}\n\n').toString(),
    );
  const flood: Answering = (_, connection) => {
    connection.write(EVENT_STREAM_HEAD);
    const event = `data: {"choices":[{"delta":{"content":"${"x".repeat(64_000)}"}}]}\n\n`;
    for (let count = 0; count < 200; count++) connection.write(chunk(event));
  };
  interface Phase {
    answer: Answering;
    /** Sent before it leaves; a number: so many bytes of a long body, by fetch. */
    sent: string | Uint8Array<ArrayBuffer>;
    isReached(proxy: Stage, provider: RawProvider): boolean;
    settings?: Record<string, string>;
    headers?: Record<string, string>;
  }
  const asked = (_: Stage, { requests }: RawProvider) => requests.length === 1;
  const rows: [phase: string, Phase][] = [
    [
      "while it waits for a key",
      {
        answer: SILENT,
        sent: longBody(long, "m"),
        settings: { RPM: "1" },
        isReached: ({ engine }) => engine.upstreams[0].pool.waiting === 1,
      },
    ],
    ["while its answer is awaited", { answer: SILENT, sent: longBody(long, "m"), isReached: asked }],
    [
      "while the answer to a packed one is awaited",
      { answer: SILENT, sent: gzipped, headers: { "content-encoding": "gzip" }, isReached: asked },
    ],
    [
      "while the answer to a rewritten one is awaited",
      {
        answer: SILENT,
        sent: longBody(long, "smart"),
        settings: { ROUTES: "smart = default/m" },
        isReached: asked,
      },
    ],
    [
      "while the answer to one rewritten in two places is awaited",
      {
        answer: SILENT,
        sent: longBody(long, "smart").replace("{", '{"model":"smart",'),
        settings: { ROUTES: "smart = default/m" },
        isReached: asked,
      },
    ],
    [
      "while its answer streams",
      {
        answer: streaming,
        sent: longBody(long, "m"),
        isReached: ({ engine }) => engine.inFlight === 1 && engine.bufferedBytes === 0,
      },
    ],
    [
      "while it does not read the stream",
      {
        answer: flood,
        sent: longBody(long, "m"),
        isReached: ({ engine }, { requests }) =>
          requests.length === 1 && engine.bufferedBytes > 0 && engine.bufferedBytes !== long,
      },
    ],
  ];
  test.each(rows)("P22 P43 %s", async (_, { answer, sent, isReached, settings = {}, headers = {} }) => {
    await onWire(answer, { ...settings }, async (proxy, provider) => {
      if (settings["RPM"] !== undefined) {
        for (let key = 0; key < 2; key++)
          void fetch(proxy.url + PATH, { method: "POST", body: "{}" }).catch(() => {});
        await until("all keys are used", () => provider.requests.length === 2);
      }
      const others = proxy.engine.inFlight;
      const leaving = new AbortController();
      const answered = fetch(proxy.url + PATH, {
        method: "POST",
        body: sent,
        headers,
        signal: leaving.signal,
      });
      answered.catch(() => {});
      await until("it is there", () => isReached(proxy, provider));
      leaving.abort();
      await until("it is forgotten", () => proxy.engine.inFlight === others);
      expect(proxy.engine.bufferedBytes).toBe(others * 2); // theirs are `{}`
    });
  });
});

describe("a long body", () => {
  test.each([
    ["as it came", {}, "m", "m"],
    ["with another model", { ROUTES: "smart = default/m" }, "smart", "m"],
  ])("P6 arrives whole and with its length, at the second key too: %s", (_, settings, model, arrives) =>
    onWire(
      (_request, connection, nth) => connection.write(nth === 1 ? LIMITED : httpAnswer(200, '{"ok":true}')),
      settings,
      async (proxy, provider) => {
        const body = longBody(1.2 * MB, model);
        const response = await fetch(proxy.url + PATH, { method: "POST", body });
        expect(response.status).toBe(200);
        const sent = body.replace(`"model":"${model}"`, `"model":"${arrives}"`);
        expect(provider.requests.map((request) => request.body.toString() === sent)).toEqual([true, true]);
        for (const { fields } of provider.requests) {
          expect(fields.get("content-length")).toEqual([String(sent.length)]);
          expect(fields.has("transfer-encoding")).toBe(false);
        }
        expect(countsOf(proxy)).toEqual(NOTHING);
      },
    ),
  );

  test("is taken in from chunks in any number, and arrives with its length", () =>
    onWire(OK, {}, async (proxy, provider) => {
      const body = longBody(5 * MB, "m");
      let at = 0;
      const pieces = new ReadableStream<Uint8Array<ArrayBuffer>>({
        pull(controller) {
          if (at >= body.length) return controller.close();
          controller.enqueue(new TextEncoder().encode(body.slice(at, at + 300_001)));
          at += 300_001;
        },
      });
      const response = await fetch(proxy.url + PATH, { method: "POST", body: pieces });
      expect(response.status).toBe(200);
      expect(provider.requests[0]?.body.toString() === body).toBe(true);
      expect(countsOf(proxy)).toEqual(NOTHING);
    }));

  /** An upstream that does not read on when a body begins. */
  function impatient(then: (socket: Bun.Socket) => void) {
    return Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        data(socket) {
          socket.pause();
          then(socket);
        },
        error() {},
      },
    });
  }

  test("is answered by an upstream that does not want all of it", async () => {
    using upstream = impatient((socket) => {
      socket.write(answerHead(413, { "content-length": "2", connection: "close" }) + "{}");
    });
    const settings = {
      API_KEYS: "k",
      TARGET_BASE_URL: `http://127.0.0.1:${upstream.port}`,
      PROVIDER: "generic",
    };
    await using proxy = stage({ settings });
    const body = "x".repeat(20 * MB);
    const response = await fetch(proxy.url + PATH, { method: "POST", body });
    expect([response.status, await response.text()]).toEqual([413, "{}"]);
    expect(countsOf(proxy)).toEqual(NOTHING);
  });

  test("P3 is sent twice at most when upstream resets the connection in the middle of it", async () => {
    let asked = 0;
    using upstream = impatient((socket) => {
      asked += 1;
      socket.terminate();
    });
    const settings = {
      API_KEYS: "k",
      TARGET_BASE_URL: `http://127.0.0.1:${upstream.port}`,
      PROVIDER: "generic",
    };
    await using proxy = stage({ settings });
    const response = await fetch(proxy.url + PATH, { method: "POST", body: "x".repeat(20 * MB) });
    expect([response.status, asked]).toEqual([502, 2]);
    expect(countsOf(proxy)).toEqual(NOTHING);
  });

  test("P22 stops being sent when the client leaves while upstream does not read on", async () => {
    const sockets: Bun.Socket[] = [];
    let received = 0;
    let closed = 0;
    using upstream = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        data(socket, bytes) {
          received += bytes.length;
          if (sockets.includes(socket)) return;
          sockets.push(socket);
          socket.pause();
        },
        close: () => void (closed += 1),
        error() {},
      },
    });
    const TARGET_BASE_URL = `http://127.0.0.1:${upstream.port}`;
    await using proxy = stage({ settings: { API_KEYS: "k", TARGET_BASE_URL, PROVIDER: "generic" } });
    const leaving = new AbortController();
    const init = { method: "POST", body: "x".repeat(30 * MB), signal: leaving.signal };
    const answered = fetch(proxy.url + PATH, init);
    answered.catch(() => {});
    await until("it is being sent", () => sockets.length === 1);
    leaving.abort();
    await until("it is forgotten", () => proxy.engine.inFlight === 0);
    expect(countsOf(proxy)).toEqual(NOTHING);
    sockets[0]?.resume();
    await until("its connection is closed", () => closed === 1);
    expect(received).toBeLessThan(30 * MB);
  });

  test("is refused where it is packed and there is no room to look into it", () =>
    onWire(OK, { MAX_BODY_MB: "1", MAX_BUFFERED_MB: "1" }, async (proxy, provider) => {
      const first = await connectRaw(proxy.url);
      first.write(post({ "Content-Length": "200000" }, "x".repeat(190_000)));
      await until("it is there", () => proxy.engine.bufferedBytes > 100_000);
      const body = Bun.gzipSync(Buffer.from(longBody(0.95 * MB, "m").replace(/\d/g, "1")));
      const init = { method: "POST", body, headers: { "content-encoding": "gzip" } };
      const refused = await fetch(proxy.url + PATH, init);
      expect([refused.status, provider.requests.length]).toEqual([503, 0]);
      first.reset();
      await until("there is room", () => proxy.engine.bufferedBytes === 0);
      expect((await fetch(proxy.url + PATH, init)).status).toBe(200);
      expect(countsOf(proxy)).toEqual(NOTHING);
    }));
});

describe("an answer whose client is slow", () => {
  const events = (count: number, length: number) =>
    Array.from(
      { length: count },
      (_, index) =>
        `data: {"id":"c","choices":[{"delta":{"content":"${index} ${"abcdefghij".repeat(length / 10)}"}}]}\n\n`,
    ).join("") + "data: [DONE]\n\n";
  /** Events that hardly get shorter by packing. */
  const noise = (length: number) => {
    const events: string[] = [];
    for (let at = 0; at < length; at += 40_000) {
      const content = Buffer.from(crypto.getRandomValues(new Uint8Array(30_000))).toString("base64");
      events.push(`data: {"choices":[{"delta":{"content":"${content}"}}]}\n\n`);
    }
    return `${events.join("")}data: [DONE]\n\n`;
  };
  const binary = Buffer.from(
    Uint8Array.from({ length: 6 * MB }, (_, index) => (index * 31 + (index >> 9)) % 256),
  );
  const rows: [says: string, type: string, sent: Buffer | Uint8Array, encoding?: string][] = [
    ["events of 65 KB", "text/event-stream", Buffer.from(events(90, 65_000))],
    ["small events", "text/event-stream", Buffer.from(events(9000, 600))],
    ["one event", "text/event-stream", Buffer.from(events(1, 6_000_000))],
    ["packed events", "text/event-stream", Bun.gzipSync(Buffer.from(noise(16 * MB)), { level: 1 }), "gzip"],
    ["a file", "application/octet-stream", binary],
    ["JSON", "application/json", Buffer.from(`{"data":"${"x".repeat(6 * MB)}"}`)],
  ];
  test.each(rows)(
    "P18 P23 arrives to the byte, with what waits counted: %s",
    (_, type, sent, encoding = "") =>
      onWire(
        (_request, connection) => {
          const packed = encoding === "" ? {} : { "content-encoding": encoding };
          const fields = { "content-type": type, "content-length": String(sent.length), ...packed };
          connection.write(answerHead(200, fields));
          connection.write(sent);
        },
        {},
        async (proxy) => {
          const client = await connectRaw(proxy.url);
          client.pause();
          client.write(post({ "Content-Length": "2" }, "{}"));
          await until("a piece waits", () => proxy.engine.bufferedBytes > 2);
          client.resume();
          await until("it is over", () => proxy.engine.inFlight === 0);
          expect(proxy.engine.bufferedBytes).toBe(0);
          const isWhole = () => client.received().subarray(-16).includes("\r\n0\r\n\r\n");
          await until("all has come", isWhole);
          const received = client.received();
          const body = dechunked(received.subarray(received.indexOf("\r\n\r\n") + 4));
          expect(body.equals(sent)).toBe(true);
          client.end();
        },
      ),
  );
});

function dechunked(bytes: Buffer): Buffer {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const lineEnd = bytes.indexOf("\r\n", at);
    const length = parseInt(bytes.toString("latin1", at, lineEnd), 16);
    pieces.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + length));
    at = lineEnd + 2 + length + 2;
  }
  return Buffer.concat(pieces);
}
