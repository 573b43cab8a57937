/**
 * What the engine promises, seen from both ends of the wire: a scripted provider that speaks in bytes behind it,
 * clients in front of it, and a clock that only the test moves.
 */
import { describe, expect, test } from "bun:test";
import {
  answerHead,
  chat as sendChat,
  chunk,
  connectRaw,
  EVENT_STREAM_HEAD,
  FalseClock,
  httpAnswer,
  isOnProxy,
  settled,
  stage,
  stageDemo,
  startRawProvider,
  until,
} from "./lib/testing/fixture.ts";
import type { RawConnection, RawProvider, RawRequest, Stage } from "./lib/testing/fixture.ts";

// ── The scene ───────────────────────────────────────────────────────────────────────────────────────────────────

interface Scene extends Stage {
  readonly clock: FalseClock;
  readonly provider: RawProvider;
  /** When each request reached the provider, in ms since the scene was opened. */
  readonly arrivals: number[];
  /** The index of the key of each request that reached the provider. */
  keysAsked(): number[];
}

/** What one request is answered: bytes, or nothing where the script keeps its connection. */
type Script = (
  key: number,
  nth: number,
  connection: RawConnection,
  request: RawRequest,
) => Buffer | string | void;

interface SceneOptions {
  keys?: number;
  settings?: Record<string, string>;
  clock?: FalseClock;
  random?: () => number;
}

const keyNamed = (index: number) => `pool-key-${index}-canary`;
const keyNames = (count: number) => Array.from({ length: count }, (_, index) => keyNamed(index)).join(",");
const indexOf = (request: RawRequest) => Number(/^pool-key-(\d+)-canary$/.exec(request.key ?? "")?.[1]);

/** A proxy with a false clock and some keys in front of a provider that answers by script. */
function open(script: Script, { keys = 2, settings = {}, clock, random }: SceneOptions = {}): Scene {
  const time = clock ?? new FalseClock();
  const openedAt = time.now();
  const arrivals: number[] = [];
  const provider = startRawProvider((request, connection, nth) => {
    arrivals.push(time.now() - openedAt);
    const bytes = script(indexOf(request), nth, connection, request);
    if (bytes !== undefined) connection.write(bytes);
  });
  const staged = stage({
    settings: {
      API_KEYS: keyNames(keys),
      TARGET_BASE_URL: provider.url,
      PROVIDER: "generic",
      ...settings,
    },
    clock: time,
    ...(random ? { random } : {}),
  });
  return {
    ...staged,
    clock: time,
    provider,
    arrivals,
    keysAsked: () => provider.requests.filter(({ target }) => target !== "/v1/models").map(indexOf), // not by checks
    async [Symbol.asyncDispose]() {
      await staged[Symbol.asyncDispose]();
      await provider[Symbol.asyncDispose]();
    },
  };
}

/** Moves the time on, timer by timer, until `answer` is there; never while an attempt is under way. */
async function inTime<T>({ clock, engine }: Pick<Scene, "clock" | "engine">, answer: Promise<T>): Promise<T> {
  let isThere = false;
  const arrive = () => void (isThere = true);
  answer.then(arrive, arrive);
  const waitsForTime = () => engine.inFlight > 0 && engine.clocks.running === 0 && clock.nextAt < Infinity;
  while (!isThere) {
    await until("an answer, or nothing left to do but wait", () => isThere || waitsForTime());
    if (!isThere) await clock.advance(clock.nextAt - clock.now());
  }
  return answer;
}

/** A chat request. Where a test fails before it awaits the answer, that does not fail the next one. */
function chat(...[url, extra, init]: Parameters<typeof sendChat>): Promise<Response> {
  const asking = sendChat(url, extra, init);
  asking.catch(() => {});
  return asking;
}

/** Resolves once so many requests of clients wait for a key. */
function untilWaiting({ engine }: Stage, count: number): Promise<void> {
  return until(`${count} requests wait`, () => engine.upstreams[0].pool.waiting === count);
}

const SERVED = '{"id":"1","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}';
const OK = httpAnswer(200, SERVED);
const errorBody = (message: string, code: string | null = null) =>
  JSON.stringify({ error: { message, type: "test_error", code } });
const LIMITED_SAID = "Slow down, please.";

function limited(fields: Record<string, string> = {}): Buffer {
  return httpAnswer(429, errorBody(LIMITED_SAID), fields);
}

const DEAD = httpAnswer(401, errorBody("Incorrect API key provided.", "invalid_api_key"));
const DOUBTED = httpAnswer(403, errorBody("Forbidden."));
const BUSY = httpAnswer(503, errorBody("The engine is warming up."));
const FAILED = httpAnswer(500, errorBody("The server had an error."));

interface OwnError {
  status: number;
  type: string;
  message: string;
  retryAfter: number | null;
}

/** Checks the form that all of the proxy's own errors have. */
async function ownError(response: Response): Promise<OwnError> {
  const body: { type: string; error: Record<string, unknown> } = JSON.parse(await response.text());
  const { type, code, message, param, retry_after: inBody } = body.error;
  expect(response.headers.get("content-type")).toStartWith("application/json");
  expect(body.type).toBe("error");
  expect(type).toBeString();
  expect(code).toBe(type);
  expect(param).toBeNull();
  expect(message).toBeString();
  const header = response.headers.get("retry-after");
  expect(inBody ?? null).toBe(header === null ? null : Number(header));
  if (header !== null) expect(header).toMatch(/^[1-9]\d*$/);
  return {
    status: response.status,
    type: String(type),
    message: String(message),
    retryAfter: header === null ? null : Number(header),
  };
}

const attemptsOf = (response: Response) => response.headers.get("x-keywheel-attempts");
const keyOf = (response: Response) => response.headers.get("x-keywheel-key");

/** The body as far as it came, and whether it was cut. */
async function readAll(response: Response): Promise<{ text: string; wasCut: boolean }> {
  let text = "";
  const decoder = new TextDecoder();
  try {
    for await (const part of response.body ?? []) text += decoder.decode(part, { stream: true });
    return { text, wasCut: false };
  } catch {
    return { text, wasCut: true };
  }
}

const event = (content: string) => `data: {"choices":[{"delta":{"content":"${content}"}}]}\n\n`;
const STREAM_END = `${chunk('data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n')}${chunk("data: [DONE]\n\n")}0\r\n\r\n`;

/** The provider's end of an answer that is begun and then held. */
class Held {
  #connections: RawConnection[] = [];

  keep(connection: RawConnection): void {
    this.#connections.push(connection);
  }

  get count(): number {
    return this.#connections.length;
  }

  /** The next one, oldest first. */
  async take(): Promise<RawConnection> {
    await until("the provider holds a request", () => this.#connections.length > 0);
    const connection = this.#connections.shift();
    if (connection === undefined) throw new Error("nothing is held");
    return connection;
  }
}

// ── Retry ───────────────────────────────────────────────────────────────────────────────────────────────────────

describe("once an answer has begun, keywheel", () => {
  test("P1 retries no stream that breaks off after its first event", async () => {
    await using scene = open((_key, _nth, connection) => {
      connection.write(EVENT_STREAM_HEAD + chunk(event("hel")).toString());
      setTimeout(() => connection.reset(), 20);
    });
    const answer = await readAll(await chat(scene.url, { stream: true }));
    expect(answer.wasCut).toBeTrue();
    expect(answer.text).toStartWith(event("hel"));
    await until("the request is over", () => scene.engine.inFlight === 0);
    expect(scene.keysAsked()).toEqual([0]);
  });

  test("P1 retries no stream of which only comments went out", async () => {
    const held = new Held();
    await using scene = open((_key, _nth, connection) => {
      connection.write(EVENT_STREAM_HEAD + chunk(": thinking\n\n").toString());
      held.keep(connection);
    });
    const asking = chat(scene.url, { stream: true });
    const connection = await held.take();
    await until("the head of the answer is being held back", () => scene.clock.timers > 1);
    await scene.clock.jump(15_000);
    const response = await asking;
    connection.reset();
    const answer = await readAll(response);
    expect(answer.text).toStartWith(": thinking\n\n");
    expect(answer.wasCut).toBeTrue();
    expect(scene.keysAsked()).toEqual([0]);
  });

  test("P1 retries no long answer that is cut", async () => {
    const length = 600_000;
    await using scene = open((_key, _nth, connection) => {
      connection.write(answerHead(200, { "content-type": "audio/mpeg", "content-length": String(length) }));
      connection.write("x".repeat(1000));
      setTimeout(() => connection.reset(), 20);
    });
    const answer = await readAll(await fetch(`${scene.url}/v1/audio/speech`, { method: "POST", body: "{}" }));
    expect(answer.wasCut).toBeTrue();
    expect(answer.text.length).toBeLessThan(length);
    expect(scene.keysAsked()).toEqual([0]);
  });
});

describe("after a failed attempt, keywheel", () => {
  test.each<[sentence: string, first: Buffer]>([
    ["P2 rotates on a 429", limited()],
    ["P2 rotates on a 429 with Retry-After", limited({ "retry-after": "60" })],
    ["P2 rotates on a key that is stated to be dead", DEAD],
    ["P2 rotates on an ambiguous 403", DOUBTED],
    ["P2 rotates on an ambiguous 401", httpAnswer(401, errorBody("Unauthorized."))],
    ["P2 rotates on a 402", httpAnswer(402, errorBody("Payment required."))],
  ])("%s, at once and with another key", async (_, first) => {
    await using scene = open((_key, nth) => (nth === 1 ? first : OK));
    const response = await chat(scene.url); // the clock is not moved
    expect(await response.text()).toBe(SERVED);
    expect(scene.keysAsked().slice(0, 2)).toEqual([0, 1]); // a doubted one is asked after besides
    expect(attemptsOf(response)).toBe("2");
    expect(keyOf(response)).toBe("1");
  });

  test.each<[sentence: string, status: number]>([
    ["P2 replays a 503", 503],
    ["P2 replays a 529", 529],
  ])("%s freely", async (_, status) => {
    await using scene = open((_key, nth) => (nth < 4 ? httpAnswer(status, errorBody("Busy.")) : OK));
    const response = await inTime(scene, chat(scene.url));
    expect(await response.text()).toBe(SERVED);
    expect(attemptsOf(response)).toBe("4");
  });

  // A provider in trouble had every request of every client repeated up to ten times.
  test("P7 retries an upstream's faults three times in 10 s, and more only for a fifth of the requests", async () => {
    await using scene = open(() => httpAnswer(503, errorBody("Busy.")), { keys: 1 });
    const first = await inTime(scene, chat(scene.url));
    expect([first.status, attemptsOf(first)]).toEqual([503, "4"]);
    const second = await inTime(scene, chat(scene.url));
    expect([second.status, attemptsOf(second)]).toEqual([503, "1"]);
    await scene.clock.advance(20_000);
    const third = await inTime(scene, chat(scene.url));
    expect(Number(attemptsOf(third))).toBeGreaterThanOrEqual(4);
  });

  // In the first half second of an outage some requests got 502, the others waited.
  test("P7 gives up no request that was never sent while there is no room for retries", async () => {
    const closed = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() });
    const { port } = closed;
    await closed.stop(true);
    const settings = { TARGET_BASE_URL: `http://127.0.0.1:${port}`, LOG_LEVEL: "error" };
    await using scene = open(() => OK, { keys: 3, settings });
    const { engine } = scene;
    const answers = Promise.all(Array.from({ length: 12 }, () => chat(scene.url)));
    await until("all have failed", () => engine.inFlight === 12 && engine.clocks.running === 0);
    await until("most wait", () => engine.upstreams[0].pool.waiting >= 7); // there was room for five retries
    using _server = Bun.serve({ port: port ?? 0, hostname: "127.0.0.1", fetch: () => new Response(SERVED) });
    const statuses = (await inTime(scene, answers)).map(({ status }) => status);
    expect(statuses).toEqual(Array(12).fill(200));
    expect([engine.upstreams[0].pool.waiting, engine.inFlight]).toEqual([0, 0]);
  });

  test("P7 counts no rotation on refusals of keys", async () => {
    await using scene = open((key) => (key < 7 ? limited({ "retry-after": "60" }) : OK), { keys: 8 });
    const response = await chat(scene.url);
    expect([response.status, attemptsOf(response)]).toEqual([200, "8"]);
  });

  test("P2 replays a refused connection freely, and counts it", async () => {
    await using scene = open(() => OK, {
      settings: { TARGET_BASE_URL: "http://127.0.0.1:1", MAX_ATTEMPTS: "4" },
    });
    const response = await inTime(scene, chat(scene.url));
    expect(attemptsOf(response)).toBe("4");
    expect(await ownError(response)).toMatchObject({ status: 502, type: "upstream_unreachable" });
  });

  test.each<[sentence: string, greeting: string, attempts: number]>([
    ["P2 replays a TLS handshake with a plain server freely: nothing was sent", "HTTP/1.1 400 No\r\n\r\n", 4],
    // Bun 1.4.5 says ECONNRESET, before the handshake as after the request: so the careful reading.
    ["P3 replays a TLS handshake that is broken off once", "", 2],
  ])("%s", async (_, greeting, attempts) => {
    const plain = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        data(socket) {
          socket.write(greeting);
          socket.end();
        },
      },
    });
    await using scene = open(() => OK, {
      settings: { TARGET_BASE_URL: `https://127.0.0.1:${plain.port}`, MAX_ATTEMPTS: "4" },
    });
    const response = await inTime(scene, chat(scene.url));
    plain.stop(true);
    expect(attemptsOf(response)).toBe(String(attempts));
    expect(await ownError(response)).toMatchObject({ status: 502, type: "upstream_unreachable" });
  });

  test("P2 spends no more than MAX_ATTEMPTS, whatever the pool could give", async () => {
    await using scene = open(() => limited(), { keys: 5, settings: { MAX_ATTEMPTS: "2" } });
    const response = await chat(scene.url);
    expect(scene.keysAsked()).toEqual([0, 1]);
    expect(attemptsOf(response)).toBe("2");
    // The client read "All 5 keys of the provider are cooling down" while three of them had not been asked.
    const { message } = await ownError(response);
    expect(message).toContain(LIMITED_SAID);
    expect(message).toContain("MAX_ATTEMPTS");
    expect(message).not.toContain("All 5 keys");
  });

  test("P2 asks no key of a refused pool twice while it cools", async () => {
    await using scene = open(() => limited({ "retry-after": "300" }), { keys: 3 });
    const response = await chat(scene.url);
    expect(await ownError(response)).toMatchObject({
      status: 503,
      type: "all_keys_cooling",
      retryAfter: 300,
    });
    expect(scene.keysAsked()).toEqual([0, 1, 2]);
  });

  // Ten times the same refusal over 18 s, and then "is cooling down; the first may be used in 1s", of a key that
  // /health called ready.
  test("P2 replays a key's own refusal only with a different key", async () => {
    await using scene = open(() => DOUBTED, { keys: 1 });
    const response = await inTime(scene, chat(scene.url));
    const error = await ownError(response);
    expect(error.status).toBe(503);
    expect(error.message).toContain("Forbidden.");
    expect(scene.keysAsked()).toEqual([0]);
  });

  test("P2 ends with its one deadline, however many attempts are left", async () => {
    await using scene = open(() => BUSY, { settings: { MAX_WAIT_SEC: "3", MAX_ATTEMPTS: "1000" } });
    const response = await inTime(scene, chat(scene.url));
    expect(response.status).toBe(503);
    expect(await response.text()).toContain("warming up");
    expect(scene.arrivals.at(-1)).toBeWithin(500, 3051);
  });

  test.each<[sentence: string, answer: (connection: RawConnection) => Buffer | void]>([
    ["P3 replays a 500 once", () => FAILED],
    ["P3 replays a 502 once", () => httpAnswer(502, errorBody("Bad gateway."))],
    ["P3 replays a 504 once", () => httpAnswer(504, errorBody("Gateway timeout."))],
    ["P3 replays a 520 once", () => httpAnswer(520, errorBody("Unknown error."))],
    ["P3 replays a reset connection once", (connection) => connection.reset()],
    ["P3 replays a connection that ends without an answer once", (connection) => connection.end()],
    [
      "P3 replays an answer that is cut before the client saw any of it once",
      (connection) => {
        connection.write(answerHead(200, { "content-type": "application/json", "content-length": "500" }));
        connection.write('{"id":');
        connection.end();
      },
    ],
    [
      "P3 replays an answer that is no HTTP once",
      (connection) => connection.write("SSH-2.0-OpenSSH\r\n\r\n"),
    ],
  ])("%s, and never again", async (_, answer) => {
    await using scene = open((_key, _nth, connection) => answer(connection), { keys: 4 });
    const response = await inTime(scene, chat(scene.url));
    expect(response.status).toBeWithin(500, 600);
    await response.text();
    expect(scene.provider.requests).toHaveLength(2);
    expect(attemptsOf(response)).toBe("2");
  });

  // Bun's fetch sends a request again by itself when a kept connection turns out to be closed.
  test("P3 replays once on a kept connection, too, and no one else does", async () => {
    await using scene = open(
      (_key, nth, connection) => {
        if (nth === 1) return OK;
        connection.reset();
      },
      { keys: 4 },
    );
    await (await chat(scene.url)).text();
    const response = await inTime(scene, chat(scene.url));
    expect(response.status).toBe(502);
    await settled();
    expect(scene.provider.requests).toHaveLength(3);
  });

  test("P3 replays a first-byte timeout once, and names the clock and its value", async () => {
    await using scene = open(() => {}, { keys: 4, settings: { FIRST_BYTE_TIMEOUT_SEC: "30" } });
    const asking = chat(scene.url);
    for (const attempt of [1, 2]) {
      await until(`attempt ${attempt} is under way`, () => scene.provider.requests.length === attempt);
      await until("its clocks run", () => scene.engine.clocks.running === 1);
      await scene.clock.jump(30_000);
      await scene.clock.advance(250);
    }
    const response = await inTime(scene, asking);
    const error = await ownError(response);
    expect(error).toMatchObject({ status: 504, type: "first_byte_timeout" });
    expect(error.message).toContain("FIRST_BYTE_TIMEOUT_SEC");
    expect(error.message).toContain("30 s");
    expect(scene.provider.requests).toHaveLength(2);
  });

  test("P3 counts maybe-billed replays over the whole request, not in a row", async () => {
    const answers = [FAILED, limited(), BUSY, FAILED, OK];
    await using scene = open((_key, nth) => answers[nth - 1], { keys: 5 });
    const response = await inTime(scene, chat(scene.url));
    expect(response.status).toBe(500);
    expect(scene.provider.requests).toHaveLength(4);
  });
});

describe("a refusal that is the request's own fault", () => {
  test.each([400, 404, 405, 409, 413, 415, 422])(
    "P4 goes to the client byte by byte and is not replayed: %d",
    async (status) => {
      const body = '{ "error" :\r\n{"message":"Not like this: \\u00e4 ä.", "code":null}}\n\n';
      await using scene = open(() =>
        httpAnswer(status, body, { "content-type": "application/problem+json", "x-request-id": "r-1" }),
      );
      const response = await chat(scene.url);
      expect(response.status).toBe(status);
      expect(await response.text()).toBe(body);
      expect(response.headers.get("content-type")).toBe("application/problem+json");
      expect(response.headers.get("x-request-id")).toBe("r-1");
      expect(attemptsOf(response)).toBe("1");
      expect(keyOf(response)).toBe("0");
      expect(scene.provider.requests).toHaveLength(1);
      const { status: health, providers } = await scene.health();
      expect(health).toBe("ok");
      expect(providers[0]).toMatchObject({ state: "up", keys: [{ errors: 0, rate_limited: 0 }, {}] });
    },
  );

  test("P4 touches no key and opens no breaker, however often it comes", async () => {
    await using scene = open(() => httpAnswer(404, errorBody("No such thing.")));
    for (let request = 0; request < 12; request++) expect((await chat(scene.url)).status).toBe(404);
    expect(await scene.health()).toMatchObject({ status: "ok", providers: [{ state: "up" }] });
  });

  // The library's caller gets them unpacked, as from every `fetch`.
  const ofBytes = isOnProxy() ? test : () => {};
  ofBytes("P4 keeps its compressed bytes and its content-encoding", async () => {
    const packed = Bun.gzipSync(errorBody("Not like this."));
    await using scene = open(() => httpAnswer(422, packed, { "content-encoding": "gzip" }));
    const client = await connectRaw(scene.url);
    client.write("POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}");
    await until("the answer is whole", () => client.received().includes(packed));
    expect(client.received().toString("latin1").toLowerCase()).toContain("content-encoding: gzip");
    client.end();
  });

  test("is replayed where x-keywheel-retry-status asks for it by name", async () => {
    await using scene = open((_key, nth) => (nth < 3 ? httpAnswer(404, errorBody("Not yet.")) : OK));
    const headers = { "x-keywheel-retry-status": "404-409,418" };
    const response = await inTime(scene, chat(scene.url, {}, { headers }));
    expect(await response.text()).toBe(SERVED);
    expect(attemptsOf(response)).toBe("3");
    expect(scene.provider.requests[0]?.fields.has("x-keywheel-retry-status")).toBeFalse();
    expect((await chat(scene.url)).status).toBe(200);
  });

  // One client that polled with `x-keywheel-retry-status: 404` had the provider paused for everybody.
  test("P4 opens no breaker and counts against no key when a client asks for its replay", async () => {
    const notYet = errorBody("Not yet.");
    await using scene = open(() => httpAnswer(404, notYet), { settings: { MAX_ATTEMPTS: "5" } });
    const headers = { "x-keywheel-retry-status": "404" };
    const response = await inTime(scene, chat(scene.url, {}, { headers }));
    expect(response.status).toBe(404);
    expect(await response.text()).toBe(notYet);
    expect(attemptsOf(response)).toBe("5");
    expect(await scene.health()).toMatchObject({
      status: "ok",
      providers: [{ state: "up", keys: [{ errors: 0 }, { errors: 0 }] }],
    });
  });

  test("is not asked for by an x-keywheel-retry-status that cannot be read", async () => {
    await using scene = open(() => OK);
    const headers = { "x-keywheel-retry-status": "4o4" };
    const error = await ownError(await chat(scene.url, {}, { headers }));
    expect(error).toMatchObject({ status: 400, type: "bad_request" });
    expect(error.message).toContain("404-409");
    expect(scene.provider.requests).toHaveLength(0);
  });
});

describe("the next attempt", () => {
  test("P5 walks the whole pool before any key comes twice", async () => {
    await using scene = open((_key, nth) => (nth <= 5 ? limited({ "retry-after": "1" }) : OK), { keys: 5 });
    const response = await inTime(scene, chat(scene.url));
    expect(response.status).toBe(200);
    expect(scene.keysAsked().slice(0, 5)).toEqual([0, 1, 2, 3, 4]);
  });

  test("P5 finds the one healthy key among many dead ones", async () => {
    await using scene = open((key) => (key === 13 ? OK : DEAD), { keys: 14 });
    const response = await chat(scene.url);
    expect(await response.text()).toBe(SERVED);
    expect(scene.keysAsked()).toEqual(Array.from({ length: 14 }, (_, index) => index));
    expect(await scene.health()).toMatchObject({ status: "degraded" });
  });

  test("P5 uses another key after a failure of the upstream as well", async () => {
    await using scene = open((_key, nth) => (nth < 4 ? BUSY : OK), { keys: 4 });
    await inTime(scene, chat(scene.url));
    expect(scene.keysAsked()).toEqual([0, 1, 2, 3]);
  });

  test("P5 goes to the key that is ready, whatever was tried before", async () => {
    // Key 0 rests for long; the request is refused by 1, and only then may 2 and 3 be asked.
    await using scene = open((key, nth) => (nth === 1 || key === 1 ? limited({ "retry-after": "90" }) : OK), {
      keys: 4,
    });
    await chat(scene.url);
    const response = await chat(scene.url);
    expect(response.status).toBe(200);
    expect(scene.keysAsked()).toEqual([0, 1, 2, 3]);
  });

  test("P9 waits no time for another key and a jittered time for the same upstream", async () => {
    const gaps: number[] = [];
    for (const jitter of [0, 0.999]) {
      await using scene = open((_key, nth) => (nth === 1 ? BUSY : OK), { random: () => jitter });
      await inTime(scene, chat(scene.url));
      gaps.push(scene.arrivals[1] ?? 0);
    }
    expect(gaps[0]).toBeWithin(125, 176);
    expect(gaps[1]).toBeWithin(225, 301);
  });

  test("P9 is not made before the Retry-After of a busy upstream is over", async () => {
    await using scene = open((_key, nth) =>
      nth === 1 ? httpAnswer(503, errorBody("Busy."), { "retry-after": "7" }) : OK,
    );
    const response = await inTime(scene, chat(scene.url));
    expect(response.status).toBe(200);
    expect(scene.arrivals[1]).toBeWithin(7000, 7501);
  });

  test("P9 is not made at all where Retry-After is longer than the client may wait", async () => {
    const body = errorBody("Back in an hour.");
    await using scene = open(() => httpAnswer(503, body, { "retry-after": "3600" }));
    const response = await chat(scene.url); // the clock is not moved
    expect(response.status).toBe(503);
    expect(await response.text()).toBe(body);
    expect(response.headers.get("retry-after")).toBe("3600");
    expect(scene.provider.requests).toHaveLength(1);
  });
});

describe("a request body", () => {
  const begun = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n";
  const broken: [sentence: string, sent: string][] = [
    ["of known length", `${begun}Content-Length: 1000\r\n\r\n{"model":"gpt-4o",`],
    [
      "in chunks, after a whole chunk",
      `${begun}Transfer-Encoding: chunked\r\n\r\n${chunk('{"model":"gpt-4o"}').toString()}`,
    ],
    ["in chunks, within a chunk", `${begun}Transfer-Encoding: chunked\r\n\r\n100\r\n{"model":"gpt-4o"}`],
  ];
  for (const ending of ["end", "reset"] as const) {
    test.each(broken)(`P6 that breaks off (${ending}) reaches no upstream: %s`, async (_, sent) => {
      await using scene = open(() => OK);
      const client = await connectRaw(scene.url);
      client.write(sent);
      await until("the upload has begun", () => scene.engine.inFlight === 1);
      await settled();
      client[ending]();
      await until("the upload is given up", () => scene.engine.inFlight === 0);
      await settled();
      expect(scene.provider.requests).toHaveLength(0);
      expect(scene.provider.connections).toHaveLength(0);
      expect(scene.engine.bufferedBytes).toBe(0);
      expect(await scene.health()).toMatchObject({
        providers: [{ keys: [{ requests: 0 }, { requests: 0 }] }],
      });
    });
  }

  test("P6 is the same, and whole, in every attempt", async () => {
    const body = Buffer.alloc(300_000, "0123456789abcdef\u00e4");
    const answers = [limited(), BUSY, FAILED, OK];
    await using scene = open((_key, nth) => answers[nth - 1], { keys: 4 });
    const response = await inTime(scene, fetch(`${scene.url}/v1/files`, { method: "POST", body }));
    expect(response.status).toBe(200);
    expect(scene.provider.requests).toHaveLength(4);
    for (const request of scene.provider.requests) expect(request.body.equals(body)).toBeTrue();
    expect(scene.engine.bufferedBytes).toBe(0);
  });

  test("P6 that came in chunks is whole in every attempt, too", async () => {
    const parts = ["one,", "two,".repeat(20_000), "three"];
    await using scene = open((_key, nth) => (nth === 1 ? limited() : OK));
    const client = await connectRaw(scene.url);
    client.write(`${begun}Transfer-Encoding: chunked\r\n\r\n`);
    for (const part of parts) client.write(chunk(part));
    client.write("0\r\n\r\n");
    await until("an answer came", () => client.received().includes("choices"));
    expect(scene.provider.requests.map(({ body }) => body.toString())).toEqual(
      Array.from({ length: 2 }, () => parts.join("")),
    );
    client.end();
  });
});

describe("when all attempts failed, the client", () => {
  const explained = httpAnswer(503, errorBody("Model is loading: 40 s left."), { "x-request-id": "r-503" });
  const silent = httpAnswer(502, "", { "content-type": "text/plain" });
  const reset = (connection: RawConnection) => connection.reset();
  type Step = Buffer | ((connection: RawConnection) => void);
  test.each<[sentence: string, steps: Step[], status: number, says: string]>([
    ["P8 gets the upstream's 503 and its body", [explained, explained, explained], 503, "Model is loading"],
    ["P8 gets the 500 that was not replayed again", [FAILED, FAILED], 500, "The server had an error"],
    [
      "P8 gets the answer with a reason, not the later empty one",
      [explained, silent, silent],
      503,
      "loading",
    ],
    ["P8 gets the last of several with a reason", [explained, FAILED, FAILED], 500, "had an error"],
    [
      "P8 gets what upstream said, not the reset after it",
      [explained, reset, reset],
      503,
      "Model is loading",
    ],
    // It got "All 2 keys are cooling down; the first may be used in 1s", of a key that was ready.
    [
      "P8 gets the upstream's failure, not the refusal of a key before it",
      [limited(), silent, silent],
      502,
      "",
    ],
    ["P8 gets a 5xx that came after a refused key", [limited(), explained, explained], 503, "loading"],
  ])("%s", async (_, steps, status, says) => {
    await using scene = open(
      (_key, nth, connection) => {
        const step = steps[nth - 1] ?? steps.at(-1);
        if (typeof step !== "function") return step;
        step(connection);
      },
      { settings: { MAX_ATTEMPTS: "3" } },
    );
    const response = await inTime(scene, chat(scene.url));
    const text = await response.text();
    expect(response.status).toBe(status);
    expect(text).toContain(says);
    expect(text).not.toContain("all_keys_cooling");
    expect(attemptsOf(response)).toBe(String(scene.provider.requests.length));
  });

  // The answer came from key 0, and x-keywheel-key said 1.
  test("P8 is told the key of the answer that it gets", async () => {
    await using scene = open((key) => (key === 0 ? explained : silent), { settings: { MAX_ATTEMPTS: "2" } });
    const response = await inTime(scene, chat(scene.url));
    expect(response.headers.get("x-request-id")).toBe("r-503");
    expect(keyOf(response)).toBe("0");
  });

  // It got "The only key of the provider is cooling down; the first may be used in 1s", of a key that was ready.
  test("P8 reads what a stream said in place of its first event", async () => {
    const failure = `data: ${JSON.stringify({ error: { message: "Engine overloaded.", code: 503 } })}\n\n`;
    await using scene = open(() => EVENT_STREAM_HEAD + chunk(failure).toString() + "0\r\n\r\n", {
      keys: 1,
      settings: { MAX_ATTEMPTS: "2" },
    });
    const text = await (await inTime(scene, chat(scene.url, { stream: true }))).text();
    expect(scene.provider.requests).toHaveLength(2);
    expect(text).toContain("Engine overloaded.");
    expect(text).not.toContain("all_keys_cooling");
  });

  test("P8 gets its own error, never another request's", async () => {
    const count = 20;
    await using scene = open(
      (_key, _nth, _connection, request) =>
        httpAnswer(422, errorBody(`about ${/"user":"(\w+)"/.exec(request.body.toString())?.[1]}`)),
      { keys: 3 },
    );
    const texts = await Promise.all(
      Array.from({ length: count }, async (_, index) =>
        (await chat(scene.url, { user: `u${index}` })).text(),
      ),
    );
    expect(texts).toEqual(Array.from({ length: count }, (_, index) => errorBody(`about u${index}`)));
  });

  test("P8 never gets an upstream's 429, and reads what it said in ours", async () => {
    await using scene = open(() => limited({ "retry-after": "200" }), { settings: { RETRY_STATUS: "500" } });
    const error = await ownError(await chat(scene.url));
    expect(error).toMatchObject({ status: 503, type: "all_keys_cooling", retryAfter: 200 });
    expect(error.message).toContain(LIMITED_SAID);
  });
});

// ── Keys and providers ──────────────────────────────────────────────────────────────────────────────────────────

describe("a failing upstream", () => {
  /** One attempt a request, and no client waits. */
  const impatient = { MAX_ATTEMPTS: "1", MAX_WAIT_SEC: "0" };

  test("P10 changes no key, and is left alone for 2 s after five failures in a row", async () => {
    await using scene = open(() => BUSY, { settings: impatient });
    for (let request = 0; request < 5; request++) {
      expect((await scene.health()).providers[0]?.state).toBe("up");
      expect((await chat(scene.url)).status).toBe(503);
    }
    expect(await scene.health()).toMatchObject({
      status: "ok",
      pool: "[0]:ready [1]:ready",
      providers: [{ state: "paused", paused_sec: 2, keys: [{ state: "ready", cooldown_sec: 0 }, {}] }],
    });
    const response = await chat(scene.url);
    const error = await ownError(response);
    expect(error).toMatchObject({ status: 503, type: "provider_paused", retryAfter: 2 });
    expect(error.message).toContain("Try again");
    expect(scene.provider.requests).toHaveLength(5);
  });

  // With RETRY_STATUS=429 a provider that answered nothing but 500 was never left alone.
  test.each<[sentence: string, answer: Buffer, settings: Record<string, string>]>([
    ["P10 is left alone when its 500 are passed on at once", FAILED, { RETRY_STATUS: "429" }],
    ["P10 is left alone when its 501 are passed on at once", httpAnswer(501, errorBody("No.")), {}],
  ])("%s", async (_, answer, settings) => {
    await using scene = open(() => answer, { settings: { ...impatient, ...settings } });
    for (let request = 0; request < 5; request++) await (await chat(scene.url)).text();
    expect((await scene.health()).providers[0]?.state).toBe("paused");
  });

  test("P10 is not left alone when an answer comes between its failures", async () => {
    await using scene = open((_key, nth) => (nth % 5 === 0 ? OK : BUSY), { settings: impatient });
    for (let request = 0; request < 14; request++) await (await chat(scene.url)).text();
    expect((await scene.health()).providers[0]?.state).toBe("up");
  });

  /** A provider that failed five times and then holds what it is asked; those who come now wait. */
  async function openPaused(held: Held): Promise<Scene> {
    const scene = open(
      (_key, nth, connection) => {
        if (nth <= 5) return BUSY;
        held.keep(connection);
      },
      { settings: { MAX_ATTEMPTS: "1" } },
    );
    for (let request = 0; request < 5; request++) await (await chat(scene.url)).text();
    return scene;
  }

  test("P10 is asked again by those who wait, one probe first", async () => {
    const held = new Held();
    await using scene = await openPaused(held);
    const asking = Array.from({ length: 4 }, () => chat(scene.url));
    await untilWaiting(scene, 4);
    await scene.clock.advance(1999);
    expect(scene.provider.requests).toHaveLength(5);
    await scene.clock.advance(1);
    const probe = await held.take();
    await settled();
    expect(scene.provider.requests).toHaveLength(6);
    await untilWaiting(scene, 3);
    probe.write(OK);
    for (let other = 0; other < 3; other++) (await held.take()).write(OK);
    for (const response of await Promise.all(asking)) expect(response.status).toBe(200);
    expect((await scene.health()).providers[0]?.state).toBe("up");
  });

  test("P10 gets another probe when the client of the first one leaves", async () => {
    const held = new Held();
    await using scene = await openPaused(held);
    const leaving = new AbortController();
    const gone = chat(scene.url, {}, { signal: leaving.signal }).catch(() => null);
    await untilWaiting(scene, 1);
    const staying = chat(scene.url);
    await untilWaiting(scene, 2);
    await scene.clock.advance(2000);
    await held.take();
    leaving.abort();
    expect(await gone).toBeNull();
    await settled();
    await scene.clock.advance(50);
    (await held.take()).write(OK);
    expect((await staying).status).toBe(200);
    expect(scene.provider.requests).toHaveLength(7);
  });

  // One stream that broke off after minutes paused the provider for everybody, because it had been the probe.
  test("P10 is not paused by the first failure after its probe was answered", async () => {
    const held = new Held();
    await using scene = await openPaused(held);
    const asking = chat(scene.url, { stream: true });
    await untilWaiting(scene, 1);
    await scene.clock.advance(2000);
    const connection = await held.take();
    connection.write(EVENT_STREAM_HEAD + chunk(event("hel")).toString());
    const response = await asking;
    expect((await scene.health()).providers[0]?.state).toBe("up");
    connection.reset();
    expect((await readAll(response)).wasCut).toBeTrue();
    await until("the stream is over", () => scene.engine.inFlight === 0);
    expect((await scene.health()).providers[0]?.state).toBe("up");
  });

  test("P10 tells how long it is paused where that is longer than a client may wait", async () => {
    await using scene = open(() => BUSY, { settings: { MAX_ATTEMPTS: "1", MAX_WAIT_SEC: "1" } });
    for (let request = 0; request < 5; request++) await (await chat(scene.url)).text();
    await scene.clock.advance(300);
    const error = await ownError(await chat(scene.url));
    expect(error).toMatchObject({ status: 503, type: "provider_paused", retryAfter: 2 }); // 1.7 s, rounded up
    expect(scene.provider.requests).toHaveLength(5);
  });

  test("P10 is paused for longer each time its probe fails", async () => {
    await using scene = open(() => BUSY, { settings: impatient });
    const pauses: (number | undefined)[] = [];
    for (let request = 0; request < 9; request++) {
      await (await chat(scene.url)).text();
      const pausedSec = (await scene.health()).providers[0]?.paused_sec ?? 0;
      if (pausedSec > 0) pauses.push(pausedSec);
      await scene.clock.advance(pausedSec * 1000);
    }
    expect(pauses).toEqual([2, 4, 8, 15, 15]);
  });
});

describe("a key", () => {
  test("P12 is never disabled by 429 alone, however many there are", async () => {
    await using scene = open(() => limited(), { keys: 1, settings: { MAX_WAIT_SEC: "0" } });
    for (let round = 0; round < 12; round++) {
      await (await chat(scene.url)).text();
      const [key] = (await scene.health()).providers[0]?.keys ?? [];
      expect(key).toMatchObject({ state: "cooling", reason: "rate_limit" });
      expect(key?.cooldown_sec).toBeWithin(60, 3961); // an hour and a tenth
      await scene.clock.advance((key?.cooldown_sec ?? 0) * 1000);
    }
    expect(scene.provider.requests).toHaveLength(12);
  });

  test("P12 is disabled for a stated reason, which is shown with its time", async () => {
    await using scene = open((key) => (key === 0 ? DEAD : OK));
    expect((await chat(scene.url)).status).toBe(200);
    const { status, pool, providers } = await scene.health();
    expect(status).toBe("degraded");
    expect(pool).toBe("[0]:disabled [1]:ready");
    expect(providers[0]?.keys[0]).toMatchObject({
      state: "disabled",
      reason: "invalid_key",
      cooldown_sec: 0,
    });
    expect(scene.logged()).toContainEqual(
      expect.objectContaining({
        event: "key_disabled",
        time: new Date(scene.clock.now()).toISOString(),
        key_id: providers[0]?.keys[0]?.["id"],
        said: "Incorrect API key provided.",
      }),
    );
  });

  test("P12 is disabled for a stated reason even if it is the last one, and the message names the reason", async () => {
    await using scene = open(() => DEAD);
    const error = await ownError(await chat(scene.url));
    expect(error).toMatchObject({ status: 503, type: "no_usable_keys", retryAfter: null });
    expect(error.message).toContain("[0] invalid_key, [1] invalid_key");
    expect(error.message).toContain("Incorrect API key provided.");
    expect(error.message).toContain("API_KEYS");
    const health = await fetch(`${scene.url}/health`);
    expect(health.status).toBe(503);
    expect(JSON.parse(await health.text())).toMatchObject({
      status: "down",
      pool: "[0]:disabled [1]:disabled",
    });
    await (await chat(scene.url)).text();
    expect(scene.keysAsked()).toEqual([0, 1]);
  });

  test("P12 is not taken from the pool by an ambiguous answer where it is the last", async () => {
    await using scene = open((key) => (key === 2 ? OK : DOUBTED), { keys: 3 });
    for (const key of scene.engine.upstreams[0].pool.keys.slice(2)) key.isPaused = true;
    await (await chat(scene.url)).text();
    expect((await scene.health()).pool).toBe("[0]:ready [1]:ready [2]:paused");
  });

  test("P36 is not blamed for what a second account is refused as well: the client gets that answer", async () => {
    await using scene = open(() => DOUBTED, { keys: 3 });
    const response = await chat(scene.url);
    expect([response.status, await response.text()]).toEqual([403, errorBody("Forbidden.")]);
    expect(scene.keysAsked()).toEqual([0, 1]);
    expect((await scene.health()).pool).toBe("[0]:ready [1]:ready [2]:ready");
  });

  test.each<[sentence: string, fields: Record<string, string>, body: string | null, cooldownSec: number]>([
    ["P13 rests for seconds", { "retry-after": "7" }, null, 7],
    ["P13 rests for a fraction of a second, shown rounded up", { "retry-after": "0.5" }, null, 1],
    ["P13 rests for milliseconds", { "retry-after-ms": "2500" }, null, 3],
    [
      "P13 rests until an epoch second",
      { "retry-after": String(Date.UTC(2026, 10, 20, 12, 2) / 1000) },
      null,
      120,
    ],
    [
      "P13 rests until an epoch millisecond",
      { "retry-after": String(Date.UTC(2026, 10, 20, 12, 3)) },
      null,
      180,
    ],
    ["P13 rests until an HTTP date", { "retry-after": "Fri, 20 Nov 2026 12:00:42 GMT" }, null, 42],
    ["P13 rests until an RFC 3339 date", { "retry-after": "2026-11-20T12:05:00Z" }, null, 300],
    ["P13 rests for 1h2m3.4s", { "retry-after": "1h2m3.4s" }, null, 3724],
    [
      "P13 rests for Google's RetryInfo",
      {},
      '{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"Quota.","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.07s"}]}}',
      35,
    ],
    [
      "P13 rests for COOLDOWN_SEC after a date in the past",
      { "retry-after": "Fri, 20 Nov 2020 12:00:42 GMT" },
      null,
      60,
    ],
    ["P13 rests for COOLDOWN_SEC after an epoch in the past", { "retry-after": "1700000000" }, null, 60],
    ["P13 rests for COOLDOWN_SEC after a negative number", { "retry-after": "-5" }, null, 60],
    ["P13 rests for COOLDOWN_SEC after garbage", { "retry-after": "soon" }, null, 60],
    ["P13 rests for COOLDOWN_SEC after an empty hint", { "retry-after": "" }, null, 60],
    ["P13 rests for COOLDOWN_SEC where nothing is said", {}, null, 60],
    ["P13 rests for MAX_COOLDOWN_SEC at most", { "retry-after": "100000000" }, null, 7200],
  ])("%s", async (_, fields, body, cooldownSec) => {
    const refusal = httpAnswer(429, body ?? errorBody("No."), fields);
    await using scene = open(() => refusal, {
      keys: 1,
      settings: { MAX_WAIT_SEC: "0", MAX_COOLDOWN_SEC: "7200" },
    });
    const error = await ownError(await chat(scene.url));
    const [key] = (await scene.health()).providers[0]?.keys ?? [];
    expect(key).toMatchObject({ state: "cooling", reason: "rate_limit", cooldown_sec: cooldownSec });
    expect(error.retryAfter).toBe(cooldownSec);
  });

  test("P13 keeps the later end when two refusals come, whatever their order", async () => {
    for (const hints of [
      ["90", "5"],
      ["5", "90"],
    ]) {
      const held = new Held();
      await using scene = open((_key, _nth, connection) => held.keep(connection), {
        keys: 1,
        settings: { MAX_WAIT_SEC: "0" },
      });
      const asking = [chat(scene.url), chat(scene.url)];
      await until("both are under way", () => held.count === 2);
      for (const hint of hints) {
        (await held.take()).write(limited({ "retry-after": hint }));
        await settled();
      }
      for (const response of await Promise.all(asking)) expect(response.status).toBe(503);
      expect((await scene.health()).providers[0]?.keys[0]?.cooldown_sec).toBe(90);
    }
  });

  // COOLDOWN_SEC=60 beside MAX_COOLDOWN_SEC=10 rested a doubted key for 60 s.
  test("P13 that is only doubted rests for no longer than MAX_COOLDOWN_SEC", async () => {
    await using scene = open((key) => (key === 0 ? DOUBTED : OK), { settings: { MAX_COOLDOWN_SEC: "10" } });
    await (await chat(scene.url)).text();
    expect((await scene.health()).providers[0]?.keys[0]?.cooldown_sec).toBe(10);
  });

  /** A stream begun at noon, and a refusal of the same key `afterMs` later; then the stream ends well. */
  async function lateSuccess(afterMs: number): Promise<unknown> {
    const held = new Held();
    await using scene = open(
      (_key, nth, connection) => {
        if (nth > 1) return limited({ "retry-after": "60" });
        connection.write(EVENT_STREAM_HEAD + chunk(event("hel")).toString());
        held.keep(connection);
      },
      { keys: 1, settings: { MAX_WAIT_SEC: "0" } },
    );
    const stream = await chat(scene.url, { stream: true });
    await scene.clock.jump(afterMs);
    await (await chat(scene.url)).text();
    (await held.take()).write(STREAM_END);
    expect((await readAll(stream)).wasCut).toBeFalse();
    await until("the stream is over", () => scene.engine.inFlight === 0);
    return (await scene.health()).providers[0]?.keys[0];
  }

  test("P14 keeps a cooldown that began after the request was sent that succeeds now", async () => {
    expect(await lateSuccess(1000)).toMatchObject({ state: "cooling", cooldown_sec: 60 });
  });

  // Two requests in one millisecond: the one that went well threw away the Retry-After of the other.
  test("P14 keeps a cooldown that began in the very millisecond in which that request was sent", async () => {
    expect(await lateSuccess(0)).toMatchObject({ state: "cooling", cooldown_sec: 60 });
  });

  test("P14 begins its ladder anew after a success", async () => {
    await using scene = open((_key, nth) => (nth === 2 ? OK : limited()), {
      keys: 1,
      settings: { MAX_WAIT_SEC: "0" },
    });
    const rests: (number | undefined)[] = [];
    for (let request = 0; request < 4; request++) {
      await (await chat(scene.url)).text();
      const rest = (await scene.health()).providers[0]?.keys[0]?.cooldown_sec ?? 0;
      rests.push(rest);
      await scene.clock.advance(rest * 1000 + 1);
    }
    expect(rests).toEqual([60, 0, 60, 300]);
  });

  // A busy model's limit of hours was asked again every minute, because another model of the key was served.
  test("P14 climbs the ladder of one model whatever another model does", async () => {
    await using scene = open(
      (_key, _nth, _connection, { body }) =>
        body.includes("popular") ? httpAnswer(429, errorBody(LIMITED_SAID, "requests")) : OK,
      { keys: 1, settings: { MAX_WAIT_SEC: "0", PROVIDER: "openai" } },
    );
    const restSec = async () => {
      const key = (await scene.health()).providers[0]?.keys[0];
      return /"popular":\{"cooldown_sec":(\d+)/.exec(JSON.stringify(key?.["models"]))?.[1];
    };
    await (await chat(scene.url, { model: "popular" })).text();
    expect(await restSec()).toBe("60");
    await scene.clock.advance(10_000);
    expect((await chat(scene.url, { model: "other" })).status).toBe(200);
    await scene.clock.advance(50_000);
    await (await chat(scene.url, { model: "popular" })).text();
    expect(await restSec()).toBe("300");
  });

  test("of one account rests with the others of that account, and with no one else", async () => {
    await using scene = open((key) => (key === 0 ? limited({ "retry-after": "30" }) : OK), {
      settings: { API_KEYS: `team@${keyNamed(0)},team@${keyNamed(1)},${keyNamed(2)},other@${keyNamed(3)}` },
    });
    expect((await chat(scene.url)).status).toBe(200);
    expect(scene.keysAsked()).toEqual([0, 2]);
    expect(await scene.health()).toMatchObject({
      pool: "[0]:cooling(30s) [1]:cooling(30s) [2]:ready [3]:ready",
      providers: [
        { keys: [{ account: "team" }, { account: "team" }, { account: null }, { account: "other" }] },
      ],
    });
  });
});

describe("a client that leaves", () => {
  /** What a key has been through, as `/health` shows it. */
  const keysOf = async (scene: Scene) =>
    ((await scene.health()).providers[0]?.keys ?? []).map(
      ({ state, reason, cooldown_sec, errors, rate_limited, in_flight, today }) => ({
        state,
        reason,
        cooldown_sec,
        errors,
        rate_limited,
        in_flight,
        today,
      }),
    );
  const UNTOUCHED = {
    state: "ready",
    reason: null,
    cooldown_sec: 0,
    errors: 0,
    rate_limited: 0,
    in_flight: 0,
    today: 0,
  };

  test("P15 before the answer changes nothing, is logged as 499 and closes the upstream", async () => {
    await using scene = open(() => {});
    const leaving = new AbortController();
    const gone = chat(scene.url, {}, { signal: leaving.signal }).catch(() => null);
    await until("it is under way", () => scene.provider.requests.length === 1);
    await scene.clock.advance(50);
    leaving.abort();
    expect(await gone).toBeNull();
    await until("the upstream is closed", () => scene.provider.openConnections === 0);
    await until("the request is over", () => scene.engine.inFlight === 0);
    expect(await keysOf(scene)).toEqual([UNTOUCHED, UNTOUCHED]);
    expect(scene.logged()).toContainEqual(
      expect.objectContaining({ event: "request", status: 499, outcome: "abandoned", attempts: 1 }),
    );
    expect(scene.provider.requests).toHaveLength(1);
  });

  test("P15 in the middle of a stream changes nothing, is logged as 499 and closes the upstream", async () => {
    await using scene = open((_key, _nth, connection) => {
      connection.write(EVENT_STREAM_HEAD + chunk(event("hel")).toString());
    });
    const leaving = new AbortController();
    const response = await chat(scene.url, { stream: true }, { signal: leaving.signal });
    leaving.abort();
    expect((await readAll(response)).wasCut).toBeTrue();
    await until("the upstream is closed", () => scene.provider.openConnections === 0);
    await until("the request is over", () => scene.engine.inFlight === 0);
    expect(await keysOf(scene)).toEqual([{ ...UNTOUCHED, today: 1 }, UNTOUCHED]);
    expect(scene.logged()).toContainEqual(
      expect.objectContaining({ event: "request", status: 499, outcome: "abandoned" }),
    );
  });

  // Upstream got, and may have billed, one more request for somebody who was gone already.
  test("P15 during a pause sends nothing any more", async () => {
    await using scene = open(() => BUSY, { settings: { MAX_ATTEMPTS: "2" } });
    const leaving = new AbortController();
    const gone = chat(scene.url, {}, { signal: leaving.signal }).catch(() => null);
    await until(
      "it is pausing",
      () => scene.provider.requests.length === 1 && scene.engine.clocks.running === 0,
    );
    await settled();
    leaving.abort();
    expect(await gone).toBeNull();
    await until("the request is over", () => scene.engine.inFlight === 0);
    await settled();
    expect(scene.provider.requests).toHaveLength(1);
    expect(scene.logged()).toContainEqual(
      expect.objectContaining({ event: "request", status: 499, attempts: 1 }),
    );
  });

  test("P15 while it waits for a key leaves the queue, and nobody behind it notices", async () => {
    await using scene = open((_key, nth) => (nth === 1 ? limited({ "retry-after": "10" }) : OK), { keys: 1 });
    const first = chat(scene.url);
    await untilWaiting(scene, 1);
    const leaving = new AbortController();
    const gone = chat(scene.url, {}, { signal: leaving.signal }).catch(() => null);
    await untilWaiting(scene, 2);
    const last = chat(scene.url);
    await untilWaiting(scene, 3);
    leaving.abort();
    expect(await gone).toBeNull();
    await untilWaiting(scene, 2);
    expect((await inTime(scene, first)).status).toBe(200);
    expect((await inTime(scene, last)).status).toBe(200);
    expect(scene.provider.requests).toHaveLength(3);
    expect(scene.logged()).toContainEqual(
      expect.objectContaining({ event: "request", status: 499, attempts: 0, outcome: "abandoned" }),
    );
  });

  test("P15 is not made out of an upstream that speaks of aborts or resets the connection", async () => {
    const said = "The operation was aborted: AbortError, client closed request (499).";
    for (const answer of [httpAnswer(500, errorBody(said)), null]) {
      await using scene = open((_key, _nth, connection) => answer ?? connection.reset());
      const response = await inTime(scene, chat(scene.url));
      expect(response.status).toBe(answer === null ? 502 : 500);
      await response.text();
      expect(scene.logged().find(({ event }) => event === "request")?.["status"]).toBe(response.status);
    }
  });

  test("P15 gives its place in the day back to the key", async () => {
    await using scene = open((_key, nth) => (nth === 1 ? undefined : OK), {
      settings: { API_KEYS: `${keyNamed(0)}:1` },
    });
    const leaving = new AbortController();
    const gone = chat(scene.url, {}, { signal: leaving.signal }).catch(() => null);
    await until("it is under way", () => scene.provider.requests.length === 1);
    await scene.clock.advance(50);
    leaving.abort();
    await gone;
    await until("the request is over", () => scene.engine.inFlight === 0);
    expect((await chat(scene.url)).status).toBe(200);
  });
});

// ── Waiting ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** Counts how often somebody sets a timer. */
class CountingClock extends FalseClock {
  timersSet = 0;

  override after(delayMs: number, action: () => void) {
    this.timersSet += 1;
    return super.after(delayMs, action);
  }
}

describe("when all keys cool, a request", () => {
  const nameOf = (request: RawRequest) => /"user":"(\w+)"/.exec(request.body.toString())?.[1];

  test("P25 waits for the first key that comes free, and the client sees no error", async () => {
    await using scene = open((key, nth) =>
      nth <= 2 ? limited({ "retry-after": key === 0 ? "20" : "10" }) : OK,
    );
    const response = await inTime(scene, chat(scene.url));
    expect(response.status).toBe(200);
    expect(scene.keysAsked()).toEqual([0, 1, 1]);
    expect(scene.arrivals).toEqual([0, 0, 10_000]);
  });

  /** With one request a minute those who wait are served one by one, so that no two race to the provider. */
  const oneAMinute = { RPM: "1", MAX_WAIT_SEC: "1000" };

  test("P25 waits in order of arrival, and so does one that comes back after a refusal", async () => {
    const order: (string | undefined)[] = [];
    await using scene = open(
      (_key, nth, _connection, request) => {
        order.push(nameOf(request));
        return nth <= 3 ? limited({ "retry-after": "70" }) : OK;
      },
      { keys: 1, settings: oneAMinute },
    );
    const asking: Promise<Response>[] = [];
    for (let index = 0; index < 5; index++) {
      asking.push(chat(scene.url, { user: `u${index}` }));
      await untilWaiting(scene, index + 1);
    }
    for (const response of await inTime(scene, Promise.all(asking))) expect(response.status).toBe(200);
    expect(order).toEqual(["u0", "u0", "u0", "u0", "u1", "u2", "u3", "u4"]);
  });

  test("P25 is not overtaken by one that comes when a key has just woken", async () => {
    const order: (string | undefined)[] = [];
    await using scene = open(
      (_key, _nth, _connection, request) => {
        order.push(nameOf(request));
        return OK;
      },
      { keys: 1, settings: oneAMinute },
    );
    await (await chat(scene.url, { user: "first" })).text();
    const second = chat(scene.url, { user: "second" });
    await untilWaiting(scene, 1);
    scene.clock.drift(60_500);
    const third = chat(scene.url, { user: "third" });
    expect((await second).status).toBe(200);
    await untilWaiting(scene, 1);
    expect((await inTime(scene, third)).status).toBe(200);
    expect(order).toEqual(["first", "second", "third"]);
  });

  test("P25 is answered at once where no key can come free in time, with a true Retry-After", async () => {
    await using scene = open((key) => limited({ "retry-after": key === 0 ? "300.2" : "150.2" }));
    const error = await ownError(await chat(scene.url)); // the clock is not moved
    expect(error).toMatchObject({ status: 503, type: "all_keys_cooling", retryAfter: 151 });
    expect(error.message).toContain("All 2 keys");
    expect(error.message).toContain("MAX_WAIT_SEC");
    expect(error.message).toContain(LIMITED_SAID);
    await scene.clock.advance(40_000);
    expect(await ownError(await chat(scene.url))).toMatchObject({ retryAfter: 111 });
    await scene.clock.advance(20_000);
    void chat(scene.url); // 90.2 s to go: it waits
    await untilWaiting(scene, 1);
    await scene.clock.advance(1);
    expect(scene.provider.requests).toHaveLength(2);
    expect(scene.engine.inFlight).toBe(1);
  });

  test("P25 waits no longer than MAX_WAIT_SEC, also when the key that woke is refused again", async () => {
    await using scene = open(() => limited({ "retry-after": "4" }), {
      keys: 1,
      settings: { MAX_WAIT_SEC: "10" },
    });
    const error = await ownError(await inTime(scene, chat(scene.url)));
    expect(error).toMatchObject({ status: 503, type: "all_keys_cooling", retryAfter: 4 });
    expect(scene.arrivals).toEqual([0, 4000, 8000]);
  });

  test("P25 wakes one at a time with the key, not all who wait", async () => {
    await using scene = open(() => limited({ "retry-after": "10" }), { keys: 1 });
    for (let request = 0; request < 30; request++) void chat(scene.url);
    await untilWaiting(scene, 30);
    const before = scene.provider.requests.length;
    await scene.clock.advance(10_000);
    await untilWaiting(scene, 30);
    expect(scene.provider.requests.length - before).toBe(1);
  });

  test("P25 costs one timer a pool, and no time while nothing happens", async () => {
    const clock = new CountingClock();
    await using scene = open((_key, nth) => (nth === 1 ? limited({ "retry-after": "90" }) : OK), {
      keys: 1,
      clock,
      settings: { LOG_LEVEL: "error" },
    });
    const first = chat(scene.url);
    await untilWaiting(scene, 1);
    await clock.advance(50); // the last tick of the attempt's own clocks
    expect(clock.timers).toBe(1);
    const set = clock.timersSet;
    const others = Array.from({ length: 50 }, () => chat(scene.url));
    await untilWaiting(scene, 51);
    await clock.advance(80_000);
    expect(clock.timers).toBe(1);
    expect(clock.timersSet).toBe(set);
    for (const response of await inTime(scene, Promise.all([first, ...others])))
      expect(response.status).toBe(200);
  });

  // A key that woke answered slowly and well; everybody else got "The only key of the provider is cooling down; the
  // first may be used in 1s" after 100 s, while /health said that the key was ready.
  test("P25 does not wait for a slow answer of a key that woke: a refusal would have come by then", async () => {
    const held = new Held();
    await using scene = open(
      (_key, nth, connection) => {
        if (nth === 1) return limited({ "retry-after": "1" });
        held.keep(connection);
      },
      { keys: 1 },
    );
    const asking = [chat(scene.url)];
    await untilWaiting(scene, 1);
    asking.push(chat(scene.url));
    await untilWaiting(scene, 2);
    await scene.clock.advance(1000);
    const slow = await held.take();
    for (let step = 0; step < 9; step++) {
      await scene.clock.jump(10_000);
      await scene.clock.advance(50);
    }
    expect(scene.provider.requests).toHaveLength(3);
    slow.write(OK);
    (await held.take()).write(OK);
    for (const response of await Promise.all(asking)) expect(response.status).toBe(200);
  });

  test("P25 is told which keys cool and which are out of use", async () => {
    await using scene = open((key) => (key === 0 ? DEAD : limited({ "retry-after": "500" })), { keys: 3 });
    const error = await ownError(await chat(scene.url));
    expect(error).toMatchObject({ type: "all_keys_cooling", retryAfter: 500 });
    // "All 3 keys are cooling down" sent its reader to wait for a key that never comes back.
    expect(error.message).not.toContain("All 3 keys");
  });

  test("is refused with EXHAUSTED_STATUS where that is set", async () => {
    await using scene = open(() => limited({ "retry-after": "3600" }), {
      settings: { EXHAUSTED_STATUS: "429" },
    });
    const response = await chat(scene.url);
    expect(attemptsOf(response)).toBe("2");
    expect(await ownError(response)).toMatchObject({
      status: 429,
      type: "all_keys_cooling",
      retryAfter: 3600,
    });
  });
});

describe("whatever happens, keywheel", () => {
  /** Numbers from 0 up to 1 that are the same in every run (mulberry32). */
  function seeded(seed: number): () => number {
    let state = seed;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  test("answers every request once and gives everything back that it took", async () => {
    const random = seeded(20_261_120);
    const attempts = new Map<string, number>();
    await using scene = open(
      (_key, _nth, connection, { body }) => {
        const name = /"user":"(\w+)"/.exec(body.toString())?.[1] ?? "";
        attempts.set(name, (attempts.get(name) ?? 0) + 1);
        const dice = random();
        if (dice < 0.35) return OK;
        if (dice < 0.5) return limited({ "retry-after": "1" });
        if (dice < 0.6) return limited();
        if (dice < 0.65) return DOUBTED;
        if (dice < 0.75) return BUSY;
        if (dice < 0.8) return FAILED;
        if (dice < 0.85) return httpAnswer(404, errorBody("No such thing."));
        if (dice < 0.9) return connection.reset();
        connection.write(EVENT_STREAM_HEAD + chunk(event("hel")).toString());
        if (dice < 0.95) connection.write(STREAM_END);
        else connection.end();
      },
      { keys: 5, settings: { COOLDOWN_SEC: "2", MAX_ATTEMPTS: "6", LOG_LEVEL: "info" } },
    );
    const asked = 100;
    const endings = Array.from({ length: asked }, async (_, index) => {
      const leaving = new AbortController();
      const asking = chat(scene.url, { user: `u${index}` }, { signal: leaving.signal });
      if (random() < 0.15) setTimeout(() => leaving.abort(), Math.floor(random() * 40));
      try {
        const response = await asking;
        await readAll(response);
        return response.status;
      } catch {
        return 499;
      }
    });
    await until("all have come in", () => scene.engine.arrivals > asked / 2);
    const statuses = await inTime(scene, Promise.all(endings));
    await until("all are over", () => scene.engine.inFlight === 0);
    for (const status of statuses) expect([200, 403, 404, 499, 500, 502, 503]).toContain(status);
    expect(Math.max(...attempts.values())).toBeLessThanOrEqual(6);
    expect(scene.engine.bufferedBytes).toBe(0);
    expect(scene.engine.clocks.running).toBe(0);
    const { pool } = scene.engine.upstreams[0];
    expect(pool.waiting).toBe(0);
    for (const key of pool.keys) {
      expect(key).toMatchObject({ inFlight: 0, disabled: null });
      expect(key.account.slowStart.undecided).toBe(0);
      expect(key.account.limiter.inFlight).toBe(0);
    }
    const lines = scene.logged().filter(({ event }) => event === "request");
    expect(lines).toHaveLength(scene.engine.arrivals);
  });
});

// ── Limits that are set ─────────────────────────────────────────────────────────────────────────────────────────

describe("a limit of our own", () => {
  test("RPM=3 lets a key be asked three times in any 60 s, and the fourth waits", async () => {
    await using scene = open(() => OK, { keys: 1, settings: { RPM: "3" } });
    await (await chat(scene.url)).text();
    await scene.clock.advance(30_000);
    for (let request = 0; request < 2; request++) await (await chat(scene.url)).text();
    for (let request = 0; request < 2; request++)
      expect((await inTime(scene, chat(scene.url))).status).toBe(200);
    // Counted in quarters of a second: never too early, and little too late.
    const [first, second, third, fourth = 0, fifth = 0] = scene.arrivals;
    expect([first, second, third]).toEqual([0, 30_000, 30_000]);
    expect(fourth).toBeWithin(60_000, 60_501);
    expect(fifth).toBeWithin(90_000, 90_501);
    expect((await scene.health()).providers[0]?.keys[0]?.["rpm_limit"]).toBe(3);
  });

  test("RPM tells truly when the next request fits", async () => {
    await using scene = open(() => OK, { keys: 2, settings: { RPM: "1", MAX_WAIT_SEC: "5" } });
    await (await chat(scene.url)).text();
    await scene.clock.advance(20_500);
    await (await chat(scene.url)).text();
    expect(await ownError(await chat(scene.url))).toMatchObject({ type: "all_keys_cooling", retryAfter: 40 });
    expect(scene.keysAsked()).toEqual([0, 1]);
  });

  test("RPM holds for a burst of many at once", async () => {
    await using scene = open(() => OK, { keys: 2, settings: { RPM: "5", MAX_WAIT_SEC: "1" } });
    const responses = await Promise.all(Array.from({ length: 25 }, () => chat(scene.url)));
    expect(responses.filter(({ status }) => status === 200)).toHaveLength(10);
    expect(scene.provider.requests).toHaveLength(10);
  });

  const aDay = { API_KEYS: `${keyNamed(0)}:1,${keyNamed(1)}`, DAILY_LIMIT: "2", TIMEZONE: "UTC" };

  test("of a day rests the key until midnight, and is its own before it is everyone's", async () => {
    await using scene = open(() => OK, { settings: aDay });
    for (let request = 0; request < 3; request++) expect((await chat(scene.url)).status).toBe(200);
    expect(scene.keysAsked().sort()).toEqual([0, 1, 1]);
    expect(await scene.health()).toMatchObject({
      status: "degraded",
      pool: "[0]:cooling(43200s) [1]:cooling(43200s)",
      providers: [
        {
          keys: [
            { reason: "quota_day", daily_limit: 1, today: 1 },
            { reason: "quota_day", daily_limit: 2, today: 2 },
          ],
        },
      ],
    });
    expect((await fetch(`${scene.url}/health`)).status).toBe(200);
    expect(await ownError(await chat(scene.url))).toMatchObject({
      status: 503,
      type: "all_keys_cooling",
      retryAfter: 43_200,
    });
    await scene.clock.advance(12 * 3_600_000);
    expect((await chat(scene.url)).status).toBe(200);
    expect(scene.provider.requests).toHaveLength(4);
  });

  test("of a day is not used up by what the provider refused", async () => {
    await using scene = open((_key, nth) => (nth === 1 ? limited({ "retry-after": "1" }) : OK), {
      settings: { API_KEYS: `${keyNamed(0)}:1`, TIMEZONE: "UTC" },
    });
    expect((await inTime(scene, chat(scene.url))).status).toBe(200);
    expect((await scene.health()).providers[0]?.keys[0]).toMatchObject({ today: 1, state: "cooling" });
  });

  test("of a day holds for a burst of many at once", async () => {
    await using scene = open(() => OK, { keys: 2, settings: { DAILY_LIMIT: "4" } });
    const responses = await Promise.all(Array.from({ length: 20 }, () => chat(scene.url)));
    expect(responses.filter(({ status }) => status === 200)).toHaveLength(8);
    expect(scene.provider.requests).toHaveLength(8);
  });

  // A client that left after midnight gave back a request of yesterday, and the key made one too many today.
  test("of a day counts for its own day only", async () => {
    await using scene = open((_key, nth) => (nth === 1 ? undefined : OK), {
      settings: { API_KEYS: `${keyNamed(0)}:1`, TIMEZONE: "UTC" },
      clock: new FalseClock(Date.UTC(2026, 10, 20, 23, 59, 59)),
    });
    const leaving = new AbortController();
    const gone = chat(scene.url, {}, { signal: leaving.signal }).catch(() => null);
    await until("yesterday's is under way", () => scene.provider.requests.length === 1);
    await scene.clock.jump(2000);
    expect((await chat(scene.url)).status).toBe(200);
    leaving.abort();
    await gone;
    await until("yesterday's is over", () => scene.engine.inFlight === 0);
    expect((await scene.health()).providers[0]?.keys[0]).toMatchObject({ today: 1, state: "cooling" });
  });
});

// ── What clients and monitors read ──────────────────────────────────────────────────────────────────────────────

describe("an error of the proxy's own", () => {
  const refusedBy = (settings: Record<string, string>) => open(() => OK, { settings });
  /** Nobody else than its own program calls the library. */
  const ofClients = new Set(["invalid_proxy_key", "forbidden_origin"]);

  const rows: [
    sentence: string,
    settings: Record<string, string>,
    ask: (url: string) => Promise<Response>,
    status: number,
    type: string,
    does: string,
  ][] = [
    [
      "says that a key is needed",
      { PROXY_API_KEY: "client-key-0001" },
      (url) => chat(url),
      401,
      "invalid_proxy_key",
      "PROXY_API_KEY",
    ],
    [
      "says that a key is wrong",
      { PROXY_API_KEY: "client-key-0001" },
      (url) => chat(url, {}, { headers: { authorization: "Bearer nonsense-key" } }),
      401,
      "invalid_proxy_key",
      "PROXY_API_KEY",
    ],
    [
      "says that a page of another site asked",
      {},
      (url) => chat(url, {}, { headers: { origin: "https://evil.example" } }),
      403,
      "forbidden_origin",
      "CORS_ORIGINS",
    ],
    [
      "says that a body is too large",
      { MAX_BODY_MB: "1" },
      (url) => fetch(`${url}/v1/files`, { method: "POST", body: "x".repeat(2 ** 20 + 1) }),
      413,
      "body_too_large",
      "MAX_BODY_MB",
    ],
    [
      "says that a path leaves the base",
      {},
      (url) => fetch(`${url}/v1/..%2f..%2fadmin`),
      400,
      "bad_request",
      "plain path",
    ],
    [
      "says that a provider is switched off",
      { GROQ_API_KEYS: "gsk-canary-0", GROQ_DISABLED: "true" },
      (url) => fetch(`${url}/groq/v1/models`),
      503,
      "provider_disabled",
      "GROQ_DISABLED",
    ],
  ];
  test.each(rows.filter(([, , , , type]) => isOnProxy() || !ofClients.has(type)))(
    "%s, and what to do",
    async (_, settings, ask, status, type, does) => {
      await using scene = refusedBy(settings);
      const error = await ownError(await ask(scene.url));
      expect(error).toMatchObject({ status, type, retryAfter: null });
      expect(error.message).toContain(does);
      expect(scene.provider.requests).toHaveLength(0);
    },
  );

  test("says that a WebSocket is not served", async () => {
    await using scene = refusedBy({});
    const client = await connectRaw(scene.url);
    client.write(
      "GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    await until("it is answered", () => client.received().includes("upgrade_required"));
    expect(client.received().toString()).toStartWith("HTTP/1.1 426 ");
    client.end();
  });

  test("says that there are too many requests, and leaves the upstream alone", async () => {
    const held = new Held();
    await using scene = open((_key, _nth, connection) => held.keep(connection), {
      settings: { MAX_IN_FLIGHT: "1" },
    });
    const first = chat(scene.url);
    await until("the first is under way", () => held.count === 1);
    const error = await ownError(await chat(scene.url));
    expect(error).toMatchObject({ status: 503, type: "overloaded", retryAfter: 1 });
    expect(error.message).toContain("MAX_IN_FLIGHT");
    (await held.take()).write(OK);
    expect((await first).status).toBe(200);
    expect(scene.provider.requests).toHaveLength(1);
  });

  test("says that the connection to the provider could not be made in time", async () => {
    await using scene = open(() => OK, {
      settings: {
        TARGET_BASE_URL: "http://127.0.0.1:1",
        MAX_ATTEMPTS: "1",
      },
    });
    const error = await ownError(await chat(scene.url));
    expect(error).toMatchObject({ status: 502, type: "upstream_unreachable", retryAfter: null });
    expect(error.message).toContain("cannot be reached");
  });

  test("never holds a key, nor do the answers of any other path", async () => {
    await using scene = open(
      () => httpAnswer(401, errorBody(`Incorrect API key provided: ${keyNamed(0)}.`, "invalid_api_key")),
      { keys: 1 },
    );
    const texts = [await (await chat(scene.url)).text(), await (await chat(scene.url)).text()];
    for (const path of ["/health", "/metrics", "/admin", "/v1/models", "/nothing"]) {
      texts.push(await (await fetch(`${scene.url}${path}`)).text());
    }
    for (const text of texts) expect(text).not.toContain("canary");
    expect(JSON.stringify(scene.logged())).not.toContain("canary");
  });
});

describe("/health", () => {
  test("shows what each key has been through", async () => {
    const answers = [limited({ "retry-after": "18" }), OK, DEAD, OK];
    await using scene = open((_key, nth) => answers[nth - 1], { keys: 4, settings: { RPM: "40" } });
    await (await chat(scene.url)).text();
    await scene.clock.advance(2500);
    await (await chat(scene.url)).text();
    const response = await fetch(`${scene.url}/health`);
    expect(response.status).toBe(200);
    const body: Record<string, unknown> = JSON.parse(await response.text());
    expect(body).toMatchObject({
      status: "degraded",
      uptime_sec: 2,
      keys: 4,
      pool: "[0]:cooling(16s) [1]:ready [2]:disabled [3]:ready",
    });
    expect(body["version"]).toMatch(/^\d+\.\d+\.\d+/);
    const idle = { account: null, models: {}, daily_limit: null, rpm_limit: 40, in_flight: 0 };
    expect(body["providers"]).toEqual([
      {
        name: "default",
        dialect: "generic",
        base_url: scene.provider.url,
        state: "up",
        paused_sec: 0,
        waiting: 0,
        keys: [
          {
            ...idle,
            index: 0,
            id: expect.stringMatching(/^[0-9a-f]{8}$/),
            state: "cooling",
            reason: "rate_limit",
            cooldown_sec: 16,
            requests: 1,
            rate_limited: 1,
            errors: 0,
            today: 0,
            last_used: "2026-11-20T12:00:00Z",
          },
          {
            ...idle,
            index: 1,
            id: expect.stringMatching(/^[0-9a-f]{8}$/),
            state: "ready",
            reason: null,
            cooldown_sec: 0,
            requests: 1,
            rate_limited: 0,
            errors: 0,
            today: 1,
            last_used: "2026-11-20T12:00:00Z",
          },
          {
            ...idle,
            index: 2,
            id: expect.stringMatching(/^[0-9a-f]{8}$/),
            state: "disabled",
            reason: "invalid_key",
            cooldown_sec: 0,
            requests: 1,
            rate_limited: 0,
            errors: 1,
            today: 0,
            last_used: "2026-11-20T12:00:02Z",
          },
          {
            ...idle,
            index: 3,
            id: expect.stringMatching(/^[0-9a-f]{8}$/),
            state: "ready",
            reason: null,
            cooldown_sec: 0,
            requests: 1,
            rate_limited: 0,
            errors: 0,
            today: 1,
            last_used: "2026-11-20T12:00:02Z",
          },
        ],
      },
    ]);
  });

  test("is 200 while keys only cool, and shows who waits and what is under way", async () => {
    const held = new Held();
    await using scene = open(
      (key, _nth, connection) => {
        if (key === 0) return limited({ "retry-after": "50" });
        held.keep(connection);
      },
      { settings: { RPM: "1" } },
    );
    const first = chat(scene.url);
    await until("it is under way", () => held.count === 1);
    void chat(scene.url);
    await untilWaiting(scene, 1);
    const response = await fetch(`${scene.url}/health`);
    expect(response.status).toBe(200);
    expect(JSON.parse(await response.text())).toMatchObject({
      status: "degraded",
      providers: [{ waiting: 1, keys: [{ in_flight: 0 }, { in_flight: 1 }] }],
    });
    (await held.take()).write(OK);
    expect((await first).status).toBe(200);
  });

  test("shows a model that rests on a key that does not", async () => {
    await using scene = open(
      (_key, nth) =>
        nth === 1 ? httpAnswer(429, errorBody("No.", "requests"), { "retry-after": "18" }) : OK,
      {
        settings: { PROVIDER: "openai" },
      },
    );
    expect((await chat(scene.url, { model: "gpt-4o" })).status).toBe(200);
    expect(await scene.health()).toMatchObject({
      status: "ok",
      providers: [
        {
          keys: [
            {
              state: "ready",
              reason: null,
              models: { "gpt-4o": { cooldown_sec: 18, reason: "rate_limit" } },
            },
            { models: {} },
          ],
        },
      ],
    });
  });
});

describe("a named provider", () => {
  test("is served under its name, with its own keys, path and label", async () => {
    await using scene = open(() => OK);
    await using named = open(() => OK, {
      settings: {
        GROQ_API_KEYS: "pool-key-7-canary",
        GROQ_BASE_URL: `${scene.provider.url}/openai/v1`,
      },
    });
    const response = await fetch(`${named.url}/groq/v1/models?limit=2`, {
      headers: { "x-api-key": "anything" },
    });
    expect(response.status).toBe(200);
    expect(keyOf(response)).toBe("groq/0");
    expect(scene.provider.requests[0]).toMatchObject({
      target: "/openai/v1/models?limit=2",
      key: "pool-key-7-canary",
    });
    expect(keyOf(await chat(named.url))).toBe("0");
    expect(named.keysAsked()).toEqual([0]);
    expect((await named.health()).providers).toHaveLength(2);
  });

  test("cools its own keys by its own settings, and is not /groqqy", async () => {
    await using scene = open(() => limited(), { keys: 1 });
    await using named = open(() => OK, {
      settings: {
        GROQ_API_KEYS: "pool-key-7-canary",
        GROQ_BASE_URL: scene.provider.url,
        GROQ_COOLDOWN_SEC: "33",
        MAX_WAIT_SEC: "0",
      },
    });
    const error = await ownError(await fetch(`${named.url}/groq/v1/models`));
    expect(error).toMatchObject({ type: "all_keys_cooling", retryAfter: 33 });
    expect(error.message).toContain("groq");
    expect((await fetch(`${named.url}/groqqy/v1/models`)).status).toBe(200);
    expect(named.provider.requests[0]?.target).toBe("/groqqy/v1/models");
    expect(await named.health()).toMatchObject({ status: "ok", pool: "[0]:ready [1]:ready" });
  });

  test("is the default one where there are no API_KEYS", async () => {
    await using scene = open(() => OK);
    await using named = stageNamed(scene);
    expect((await chat(named.url)).status).toBe(200);
    expect((await fetch(`${named.url}/groq/v1/models`)).headers.get("x-keywheel-key")).toBe("groq/0");
    expect(scene.provider.requests.map(({ target }) => target)).toEqual([
      "/v1/chat/completions",
      "/v1/models",
    ]);
  });

  function stageNamed({ provider }: Scene): Stage {
    return stage({
      settings: { GROQ_API_KEYS: "pool-key-7-canary", GROQ_BASE_URL: provider.url, LOG_LEVEL: "error" },
    });
  }
});

describe("a proxy with MAX_ATTEMPTS", () => {
  test.each<[sentence: string, keys: number, settings: Record<string, string>, attempts: number]>([
    ["not set asks ten times", 2, {}, 10],
    ["not set asks every key of a large pool, and two more times", 12, {}, 14],
    ["set to 3 asks three times, however large the pool is", 12, { MAX_ATTEMPTS: "3" }, 3],
  ])("%s", async (_, keys, settings, attempts) => {
    await using scene = open(() => limited({ "retry-after": "0" }), { keys, settings });
    const response = await inTime(scene, chat(scene.url));
    expect(response.status).toBe(503);
    expect(scene.provider.requests).toHaveLength(attempts);
    expect(attemptsOf(response)).toBe(String(attempts));
  });
});

describe("three keys of 4 requests per 2 s each, and 60 requests at once", () => {
  test.each<[sentence: string, announce: "retry-after" | "headers" | "nothing"]>([
    ["end without an error at the client where Retry-After is announced", "retry-after"],
    ["end without an error at the client where headers announce the reset", "headers"],
    ["end without an error at the client where nothing is announced", "nothing"],
  ])("%s", async (_, announce) => {
    const clock = new FalseClock();
    const settings = { COOLDOWN_SEC: "2", PROVIDER: "generic" };
    await using staged = await stageDemo({ clock, limit: 4, windowMs: 2000, announce }, { clock, settings });
    const beganAt = clock.now();
    const all = Promise.all(Array.from({ length: 60 }, () => chat(staged.url)));
    await until("all have come in", () => staged.engine.arrivals === 60);
    const responses = await inTime({ clock, engine: staged.engine }, all);
    expect(responses.filter(({ status }) => status !== 200)).toEqual([]);
    // 12 fit into each 2 s, so the least is 8 s; a wheel that turns well needs not much more. Where nothing is
    // announced, three refusals at once may be everybody's (P11): that costs 5 s once.
    expect(clock.now() - beganAt).toBeWithin(8000, announce === "nothing" ? 22_001 : 16_001);
    // The first burst cannot know better. After it, one refusal in a window tells each key's limit.
    const refused = staged.provider.seen.filter(({ at, status }) => status === 429 && at > beganAt);
    expect(refused.length).toBeLessThanOrEqual(48);
  });
});
