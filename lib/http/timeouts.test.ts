import { dlopen, ptr } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import {
  answerHead,
  ask,
  chunk,
  EVENT_STREAM_HEAD,
  FalseClock,
  httpAnswer,
  LAST_CHUNK,
  settled,
  stage,
  startRawProvider,
  until,
} from "../testing/fixture.ts";
import type { RawConnection, RawProvider, RawRequest, Stage, WireAnswer } from "../testing/fixture.ts";

const SECOND = 1000;
const PATH = "/v1/chat/completions";
const EVENT = 'data: {"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n';
const JSON_HEAD = answerHead(200, { "content-type": "application/json", "content-length": "20" });
const isLinux = process.platform === "linux";

interface Scene {
  clock: FalseClock;
  provider: RawProvider;
  staged: Stage;
}

/** A proxy under a false clock, in front of a provider that answers by script. */
async function scene(
  script: (request: RawRequest, connection: RawConnection, nth: number) => void,
  then: (scene: Scene) => Promise<void>,
  settings: Record<string, string> = {},
): Promise<void> {
  const clock = new FalseClock();
  await using provider = startRawProvider(script);
  const all = {
    API_KEYS: "key-one:100",
    PROVIDER: "generic",
    TARGET_BASE_URL: provider.url,
    MAX_ATTEMPTS: "1",
  };
  await using staged = stage({ settings: { ...all, ...settings }, clock });
  await then({ clock, provider, staged });
}

const errorOf = (answer: WireAnswer): unknown => JSON.parse(answer.body.toString());

async function untilOver({ engine }: Stage): Promise<void> {
  await until("the attempt is over", () => engine.inFlight === 0 && engine.clocks.running === 0);
}

describe("the clock of the first byte", () => {
  const LIMITS = { CONNECT_TIMEOUT_SEC: "3", FIRST_BYTE_TIMEOUT_SEC: "20", STREAM_IDLE_TIMEOUT_SEC: "7" };
  const MESSAGE = "The provider sent no first byte for 20 s (FIRST_BYTE_TIMEOUT_SEC).";

  const SILENT: [sentence: string, sent: string][] = [
    ["nothing", ""],
    ["half of a head", "HTTP/1.1 200 OK\r\ncontent-type: text/event-"],
    ["the head of a stream", EVENT_STREAM_HEAD],
    ["the head of an answer", JSON_HEAD],
    ["the head of a large answer", answerHead(200, { "content-length": "9000000" })],
    ["the head of an error", answerHead(500, { "content-length": "20" })],
  ];
  test.each(SILENT)("P21 ends an attempt that brought %s, and says its name and value", (_, sent) =>
    scene(
      (_, connection) => connection.write(sent),
      async ({ clock, provider, staged }) => {
        const answer = await ask(staged.url, PATH);
        await until("it is asked for", () => provider.requests.length === 1);
        await clock.jump(19.8 * SECOND);
        expect(answer.end).toBeNull();
        expect(provider.openConnections).toBe(1);
        await clock.jump(0.3 * SECOND);
        await until("it is answered", () => answer.end === "clean");
        expect(answer.status).toBe(504);
        expect(errorOf(answer)).toMatchObject({ error: { type: "first_byte_timeout", message: MESSAGE } });
        await until("the upstream is closed", () => provider.openConnections === 0);
        await untilOver(staged);
      },
      LIMITS,
    ),
  );

  test("P21 ends its own attempt alone: those before it, beside it and after it are answered", () =>
    scene(
      ({ target }, connection) => {
        if (!target.endsWith("/silent")) connection.write(`${JSON_HEAD}{"id":"one of some"}`);
      },
      async ({ clock, provider, staged }) => {
        const statusOf = async (path: string) => {
          const answer = await ask(staged.url, path);
          await until("it is answered", () => answer.end === "clean");
          return answer.status;
        };
        for (let round = 1; round <= 3; round++) {
          expect(await statusOf(PATH)).toBe(200);
          const silent = await ask(staged.url, "/v1/silent");
          await until("it is asked for", () => provider.requests.length === 3 * round - 1);
          expect(await statusOf(PATH)).toBe(200);
          await clock.jump(20.1 * SECOND);
          await until("it is given up", () => silent.end === "clean");
          expect(silent.status).toBe(504);
        }
        await untilOver(staged);
      },
      LIMITS,
    ));

  test("P19 P21 is not stopped by comments, which are let through after 15 s", () =>
    scene(
      (_, connection) => connection.write(EVENT_STREAM_HEAD),
      async ({ clock, provider, staged }) => {
        const answer = await ask(staged.url, PATH);
        await until("it is asked for", () => provider.requests.length === 1);
        const [connection] = provider.connections;
        connection?.write(chunk(": one\n\n"));
        await settled();
        await clock.jump(8 * SECOND);
        connection?.write(chunk(": two\n\n"));
        await clock.jump(6.9 * SECOND);
        expect(answer.body.toString()).toBe("");
        await clock.jump(0.2 * SECOND);
        await until("the comments have come", () => answer.body.toString() === ": one\n\n: two\n\n");
        expect(answer.status).toBe(200);
        connection?.write(chunk(": three\n\n"));
        await until("the third has come", () => answer.body.toString().endsWith(": three\n\n"));
        await clock.jump(5 * SECOND);
        await until("the answer ended", () => answer.end !== null);
        expect(answer.end).toBe("cut");
        const said = answer.body.toString().slice(": one\n\n: two\n\n: three\n\n".length);
        expect(JSON.parse(said.replace(/^data: /, ""))).toMatchObject({
          error: { type: "first_byte_timeout", message: MESSAGE },
        });
        expect(provider.requests.length).toBe(1);
      },
      { ...LIMITS, MAX_ATTEMPTS: "3" },
    ));

  test("P19 P21 is not stopped by a comment that comes in two pieces", () =>
    scene(
      (_, connection) => connection.write(EVENT_STREAM_HEAD + chunk(": one\n\n").toString()),
      async ({ clock, provider, staged }) => {
        const answer = await ask(staged.url, PATH);
        await until("it is asked for", () => provider.requests.length === 1);
        await settled();
        await clock.jump(15.1 * SECOND);
        await until("the comment has come", () => answer.body.toString() === ": one\n\n");
        for (const piece of [": tw", "o\n\n"]) {
          provider.connections[0]?.write(chunk(piece));
          await until("the piece has come", () => answer.body.toString().endsWith(piece));
        }
        await clock.jump(5.1 * SECOND);
        await until("the answer ended", () => answer.end !== null);
        expect(answer.body.toString()).toContain(MESSAGE);
      },
      LIMITS,
    ));

  test("P19 lets an event through at once, with the comments before it", () =>
    scene(
      (_, connection) => connection.write(EVENT_STREAM_HEAD + chunk(": one\n\n").toString()),
      async ({ clock, provider, staged }) => {
        const answer = await ask(staged.url, PATH);
        await until("it is asked for", () => provider.requests.length === 1);
        await clock.jump(5 * SECOND);
        expect(answer.body.toString()).toBe("");
        provider.connections[0]?.write(chunk(EVENT));
        await until("both have come", () => answer.body.toString() === `: one\n\n${EVENT}`);
      },
    ));
});

describe("the clock of silence", () => {
  const LIMITS = { CONNECT_TIMEOUT_SEC: "3", FIRST_BYTE_TIMEOUT_SEC: "20", STREAM_IDLE_TIMEOUT_SEC: "7" };
  const MESSAGE = "The provider's stream was silent for 7 s (STREAM_IDLE_TIMEOUT_SEC).";

  test("P21 ends a stream that fell silent, with an error event that says its name and value", () =>
    scene(
      (_, connection) => connection.write(EVENT_STREAM_HEAD + chunk(EVENT).toString()),
      async ({ clock, provider, staged }) => {
        const answer = await ask(staged.url, PATH);
        await until("the event has come", () => answer.body.toString() === EVENT);
        await clock.jump(6.8 * SECOND);
        expect(answer.end).toBeNull();
        await clock.jump(0.3 * SECOND);
        await until("the answer ended", () => answer.end !== null);
        expect(answer.end).toBe("cut");
        const event = answer.body.toString().slice(EVENT.length);
        expect(JSON.parse(event.replace(/^data: /, ""))).toMatchObject({
          error: { type: "stream_idle_timeout", message: MESSAGE },
        });
        await until("the upstream is closed", () => provider.openConnections === 0);
        await untilOver(staged);
      },
      LIMITS,
    ));

  test("P21 begins anew with each chunk, and there is no clock of the whole", () =>
    scene(
      (_, connection) => connection.write(EVENT_STREAM_HEAD + chunk(EVENT).toString()),
      async ({ clock, provider, staged }) => {
        const answer = await ask(staged.url, PATH);
        for (let sent = 1; sent <= 30; sent++) {
          await until(`event ${sent} has come`, () => answer.body.length === sent * EVENT.length);
          await clock.jump(6.8 * SECOND);
          provider.connections[0]?.write(chunk(sent % 2 === 0 ? EVENT : `:${EVENT.slice(1)}`));
        }
        provider.connections[0]?.write(chunk("data: [DONE]\n\n").toString() + LAST_CHUNK);
        await until("the answer ended", () => answer.end !== null);
        expect(answer.end).toBe("clean");
        expect(provider.requests.length).toBe(1);
      },
      { ...LIMITS, FIRST_BYTE_TIMEOUT_SEC: "20" },
    ));

  test("P21 does not run while it is the client that does not read", () =>
    scene(
      (_, connection) => {
        connection.write(EVENT_STREAM_HEAD);
        for (let part = 0; part < 40; part++) connection.write(chunk(`data: ${"x".repeat(2 ** 20)}\n\n`));
        connection.write(chunk("data: [DONE]\n\n").toString() + LAST_CHUNK);
      },
      async ({ clock, provider, staged }) => {
        const answer = await ask(staged.url, PATH);
        answer.client.pause();
        await untilStalled(provider);
        await clock.jump(60 * SECOND);
        expect(provider.openConnections).toBe(1);
        answer.client.resume();
        await until("the answer ended", () => answer.end !== null, 8000);
        expect(answer.end).toBe("clean");
        expect(answer.body.length).toBe(40 * (2 ** 20 + 8) + 14);
      },
      LIMITS,
    ));

  test.each([
    ["FIRST_BYTE_TIMEOUT_SEC", EVENT_STREAM_HEAD, ""],
    ["STREAM_IDLE_TIMEOUT_SEC", EVENT_STREAM_HEAD + chunk(EVENT).toString(), EVENT],
  ])("P21 and its siblings are turned off by a 0 (%s)", (name, sent, comes) =>
    scene(
      (_, connection) => connection.write(sent),
      async ({ clock, provider, staged }) => {
        const answer = await ask(staged.url, PATH);
        await until("it is asked for", () => provider.requests.length === 1);
        await until("what was sent has come", () => answer.body.toString() === comes);
        await clock.jump(30 * SECOND);
        expect(answer.end).toBeNull();
        provider.connections[0]?.write(chunk("data: [DONE]\n\n").toString() + LAST_CHUNK);
        await until("the answer ended", () => answer.end === "clean");
      },
      { ...LIMITS, [name]: "0" },
    ),
  );
});

/** Waits until the proxy has stopped reading: bytes are left, and forty looks in a row see the same number. */
async function untilStalled(provider: RawProvider): Promise<void> {
  let last = NaN;
  let looks = 0;
  const isStalled = () => {
    const now = provider.connections[0]?.unsentBytes ?? 0;
    looks = now === last && now > 0 ? looks + 1 : 0;
    last = now;
    return looks >= 40;
  };
  await until("the proxy has stopped to read", isStalled, 8000);
}

// ── An address where nobody answers ─────────────────────────────────────────────────────────────────────────────

const SIZE_OF_ADDRESS = 16;

interface BlackHole extends Disposable {
  readonly url: string;
  /** Connections to it that were begun and are not made. */
  attempts(): number;
}

/** A port whose queue of connections is full and never emptied: Linux lets a SYN to it go unanswered. */
function openBlackHole(): BlackHole {
  const { symbols: libc, close: closeLibrary } = dlopen("libc.so.6", {
    socket: { args: ["i32", "i32", "i32"], returns: "i32" },
    bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
    listen: { args: ["i32", "i32"], returns: "i32" },
    getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
    connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
    close: { args: ["i32"], returns: "i32" },
  });
  const [AF_INET, SOCK_STREAM] = [2, 1];
  const address = new DataView(new ArrayBuffer(SIZE_OF_ADDRESS));
  address.setUint16(0, AF_INET, true);
  address.setUint32(4, 0x7f000001); // 127.0.0.1
  const size = new Uint32Array([SIZE_OF_ADDRESS]);
  const must = (what: string, result: number) => {
    if (result < 0) throw new Error(`${what} failed`);
    return result;
  };
  const listener = must("socket", libc.socket(AF_INET, SOCK_STREAM, 0));
  must("bind", libc.bind(listener, ptr(address), SIZE_OF_ADDRESS));
  must("listen", libc.listen(listener, 0));
  must("getsockname", libc.getsockname(listener, ptr(address), ptr(size)));
  const port = address.getUint16(2);
  const filler = must("socket", libc.socket(AF_INET, SOCK_STREAM, 0));
  must("connect", libc.connect(filler, ptr(address), SIZE_OF_ADDRESS)); // the queue of length 0 holds one
  const remote = `0100007F:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  const SYN_SENT = "02";
  return {
    url: `http://127.0.0.1:${port}`,
    attempts: () =>
      readFileSync("/proc/self/net/tcp", "latin1")
        .split("\n")
        .map((line) => line.trim().split(/\s+/))
        .filter((fields) => fields[2] === remote && fields[3] === SYN_SENT).length,
    [Symbol.dispose]() {
      libc.close(filler);
      libc.close(listener);
      closeLibrary();
    },
  };
}

describe.skipIf(!isLinux)("the clock of the connection", () => {
  const CONNECTING = {
    API_KEYS: "key-one:100",
    PROVIDER: "generic",
    MAX_ATTEMPTS: "1",
    CONNECT_TIMEOUT_SEC: "4",
  };

  test("P21 ends an attempt that cannot connect, says its name and value, and leaves nothing open", async () => {
    using hole = openBlackHole();
    const clock = new FalseClock();
    await using staged = stage({ settings: { ...CONNECTING, TARGET_BASE_URL: hole.url }, clock });
    const answer = await ask(staged.url, PATH);
    await until("it tries to connect", () => hole.attempts() === 1);
    await clock.jump(3.9 * SECOND);
    expect(answer.end).toBeNull();
    await clock.jump(0.2 * SECOND);
    await until("a bare connection is tried beside it", () => hole.attempts() === 2);
    await clock.jump(2.1 * SECOND);
    await until("it is answered", () => answer.end === "clean");
    expect(answer.status).toBe(504);
    expect(errorOf(answer)).toMatchObject({
      error: {
        type: "connect_timeout",
        message: "No connection to the provider could be made for 4 s (CONNECT_TIMEOUT_SEC).",
      },
    });
    await untilOver(staged);
    await until("no half-made connection is left", () => hole.attempts() === 0);
    expect((await staged.health()).providers[0]?.keys[0]).toMatchObject({ in_flight: 0, today: 0 });
  });

  test("P21 does not end an attempt that is connected and waits", () =>
    scene(
      () => {},
      async ({ clock, provider, staged }) => {
        const answer = await ask(staged.url, PATH);
        await until("it is asked for", () => provider.requests.length === 1);
        await clock.jump(15 * SECOND);
        expect(answer.end).toBeNull();
        provider.connections[0]?.write(httpAnswer(200, "{}"));
        await until("it is answered", () => answer.end === "clean");
        expect(answer.status).toBe(200);
      },
      CONNECTING,
    ));

  test("P22 is not needed for a client that leaves while it is connected for", async () => {
    using hole = openBlackHole();
    const clock = new FalseClock();
    await using staged = stage({ settings: { ...CONNECTING, TARGET_BASE_URL: hole.url }, clock });
    const answer = await ask(staged.url, PATH);
    await until("it tries to connect", () => hole.attempts() === 1);
    await expectForgotten(answer, staged, clock, 0);
    await until("no half-made connection is left", () => hole.attempts() === 0);
  });
});

// ── A client that leaves ────────────────────────────────────────────────────────────────────────────────────────

/** The client goes, 100 ms pass, and nothing is left of its request but a line in the log. */
async function expectForgotten(
  answer: WireAnswer,
  staged: Stage,
  clock: FalseClock,
  today: number,
  leave: (client: WireAnswer["client"]) => void = (client) => client.reset(),
): Promise<void> {
  leave(answer.client);
  await settled();
  await clock.advance(100);
  await untilOver(staged);
  const { providers } = await staged.health();
  expect(providers[0]).toMatchObject({ waiting: 0 });
  expect(providers[0]?.keys[0]).toMatchObject({ in_flight: 0, today, errors: 0 });
  const lines = staged.logged().filter(({ event }) => event === "request");
  expect(lines.at(-1)).toMatchObject({ status: 499, outcome: "abandoned" });
}

interface Phase {
  script(request: RawRequest, connection: RawConnection, nth: number): void;
  /** Until the request is in the phase. */
  reach(scene: Scene, answer: WireAnswer): Promise<void>;
  /** What stays counted: what the provider did answer. */
  today: number;
}

const askedFor = (requests: number) => async (scene: Scene) => {
  await until("it is asked for", () => scene.provider.requests.length === requests);
  await settled();
};
const writes =
  (...pieces: (string | Buffer)[]) =>
  (_: RawRequest, connection: RawConnection) => {
    for (const piece of pieces) connection.write(piece);
  };
const BIG = chunk(`data: ${"x".repeat(2 ** 20)}\n\n`);

const PHASES: [sentence: string, phase: Phase][] = [
  ["the first byte of the head is awaited", { script: () => {}, reach: askedFor(1), today: 0 }],
  ["the first event is awaited", { script: writes(EVENT_STREAM_HEAD), reach: askedFor(1), today: 0 }],
  ["comments are held back", { script: writes(EVENT_STREAM_HEAD, chunk(": wait\n\n")), reach: askedFor(1), today: 0 }],
  ["half of a short answer is there", { script: writes(JSON_HEAD, '{"half":'), reach: askedFor(1), today: 0 }],
  ["half of an error is there", { script: writes(answerHead(429, { "content-length": "90" }), "{"), reach: askedFor(1), today: 0 }],
  ["half of JSON without framing is there", { script: writes(answerHead(200, { "content-type": "application/json" }), "{"), reach: askedFor(1), today: 0 }],
  ["comments alone were let through", {
    script: writes(EVENT_STREAM_HEAD, chunk(": wait\n\n")),
    async reach({ clock, provider }, answer) {
      await until("it is asked for", () => provider.requests.length === 1);
      await settled();
      await clock.jump(15 * SECOND + 100);
      await until("the comment has come", () => answer.body.length > 0);
    },
    today: 1,
  }],
  ["a stream is silent", {
    script: writes(EVENT_STREAM_HEAD, chunk(EVENT)),
    reach: (_, answer) => until("the event has come", () => answer.body.toString() === EVENT),
    today: 1,
  }],
  ["a stream flows", {
    script(_, connection) {
      connection.write(EVENT_STREAM_HEAD);
      const flow = () => {
        if (connection.isClosed) return;
        connection.write(chunk(EVENT));
        setImmediate(flow);
      };
      flow();
    },
    reach: (_, answer) => until("events come", () => answer.body.length > 20 * EVENT.length),
    today: 1,
  }],
  ["a large answer flows", {
    script: writes(answerHead(200, { "content-type": "audio/mpeg", "content-length": "9000000" }), Buffer.alloc(500_000)),
    reach: (_, answer) => until("bytes come", () => answer.body.length === 500_000),
    today: 1,
  }],
  ["it does not read", {
    script: writes(EVENT_STREAM_HEAD, ...Array.from({ length: 40 }, () => BIG)),
    async reach({ provider }, answer) {
      answer.client.pause();
      await untilStalled(provider);
    },
    today: 1,
  }],
]; // prettier-ignore

describe("a client that leaves", () => {
  describe.each([
    ["with RST", (client: WireAnswer["client"]) => client.reset()],
    ["with FIN", (client: WireAnswer["client"]) => client.end()],
  ] as const)("%s", (_, leave) => {
    test.each(PHASES)("P22 closes the upstream and gives its key back while %s", (_, phase) =>
      scene(phase.script, async (scene) => {
        const { clock, provider, staged } = scene;
        const answer = await ask(staged.url, PATH);
        await phase.reach(scene, answer);
        const asked = provider.requests.length;
        await expectForgotten(answer, staged, clock, phase.today, leave);
        await until("the upstream is closed", () => provider.openConnections === 0);
        expect(provider.requests.length).toBe(asked);
      }),
    );

    test.each([
      ["a failure of the upstream", httpAnswer(503, "{}")],
      [
        "a refusal of the only key",
        httpAnswer(429, '{"error":{"message":"Rate limit"}}', { "retry-after": "1" }),
      ],
    ])("P22 is not asked for again while it is paused after %s", (_, refusal) =>
      scene(
        (_, connection) => connection.write(refusal),
        async ({ clock, provider, staged }) => {
          const answer = await ask(staged.url, PATH);
          await until("it is asked for", () => provider.requests.length === 1);
          await settled();
          leave(answer.client);
          await settled();
          await clock.advance(100);
          await untilOver(staged);
          for (let second = 0; second < 5; second++) await clock.jump(SECOND);
          expect(provider.requests.length).toBe(1);
          expect((await staged.health()).providers[0]).toMatchObject({
            waiting: 0,
            keys: [{ in_flight: 0, today: 0 }],
          });
          const lines = staged.logged().filter(({ event }) => event === "request");
          expect(lines).toMatchObject([{ status: 499, outcome: "abandoned" }]);
        },
        { MAX_ATTEMPTS: "4" },
      ),
    );

    test("P22 leaves the queue while it waits for a key, and the key wakes for others", () =>
      scene(
        (_, connection, nth) =>
          connection.write(
            nth === 1
              ? httpAnswer(429, '{"error":{"message":"Rate limit"}}', { "retry-after": "30" })
              : httpAnswer(200, "{}"),
          ),
        async ({ clock, provider, staged }) => {
          const leaving = await ask(staged.url, PATH);
          await until("it waits", () => staged.engine.upstreams[0].pool.waiting === 1);
          const staying = await ask(staged.url, PATH);
          await until("both wait", () => staged.engine.upstreams[0].pool.waiting === 2);
          leave(leaving.client);
          await until("one waits", () => staged.engine.upstreams[0].pool.waiting === 1);
          expect(staged.engine.inFlight).toBe(1);
          await clock.jump(31 * SECOND);
          await until("the other is answered", () => staying.end === "clean");
          expect(staying.status).toBe(200);
          expect(provider.requests.length).toBe(2);
          expect((await staged.health()).providers[0]?.keys[0]).toMatchObject({ in_flight: 0, today: 1 });
        },
        { MAX_ATTEMPTS: "4" },
      ));

    test("P22 is forgotten though the first event comes just after it left", () =>
      // It left before the first tick of the clocks noticed; the answer then began for nobody.
      scene(
        (_, connection) => connection.write(EVENT_STREAM_HEAD),
        async ({ clock, provider, staged }) => {
          const answer = await ask(staged.url, PATH);
          await until("it is asked for", () => provider.requests.length === 1);
          await settled();
          leave(answer.client);
          await settled();
          provider.connections[0]?.write(chunk(EVENT));
          await settled();
          await clock.advance(100);
          await untilOver(staged);
          await until("the upstream is closed", () => provider.openConnections === 0);
          expect((await staged.health()).providers[0]?.keys[0]).toMatchObject({ in_flight: 0, errors: 0 });
        },
      ));
  });

  test("P22 closes the upstream within 100 ms by a real clock", async () => {
    await using provider = startRawProvider(() => {});
    const settings = { API_KEYS: "key-one", PROVIDER: "generic", TARGET_BASE_URL: provider.url };
    await using staged = stage({ settings });
    const lateness: number[] = [];
    // The best of eight: a busy machine may be late, but not every time.
    for (let round = 1; round <= 8; round++) {
      const answer = await ask(staged.url, PATH);
      await until("it is asked for", () => provider.requests.length === round);
      const leftAt = Date.now();
      answer.client.reset();
      await until("the upstream is closed", () => provider.openConnections === 0);
      lateness.push((provider.connections.at(-1)?.closedAt ?? Infinity) - leftAt);
    }
    expect(Math.min(...lateness)).toBeLessThanOrEqual(100);
    await until("nothing is in flight", () => staged.engine.inFlight === 0); // the socket closes a moment before
  });
});
