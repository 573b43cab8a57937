/**
 * What the engine promises, seen from both ends of the wire: a scripted provider that speaks in bytes behind it,
 * clients in front of it, and a clock that only the test moves.
 */
import { describe, expect, test } from "bun:test";
import {
  answerHead,
  chat,
  chunk,
  connectRaw,
  EVENT_STREAM_HEAD,
  FalseClock,
  httpAnswer,
  settled,
  stage,
  stageDemo,
  startRawProvider,
  until,
} from "./lib/fixture.ts";
import type { RawConnection, RawProvider, RawRequest, Stage } from "./lib/fixture.ts";

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
    keysAsked: () => provider.requests.map(indexOf),
    async [Symbol.asyncDispose]() {
      await staged[Symbol.asyncDispose]();
      await provider[Symbol.asyncDispose]();
    },
  };
}

/** Moves the time on until `answer` is there; only while nothing is under way, so that no socket is outrun. */
async function inTime<T>({ clock, engine }: Scene, answer: Promise<T>, stepMs = 250): Promise<T> {
  let isThere = false;
  const arrive = () => void (isThere = true);
  answer.then(arrive, arrive);
  while (!isThere) {
    const isIdle = () => engine.inFlight > 0 && engine.clocks.running === 0;
    await until("an answer, or nothing left to do but wait", () => isThere || isIdle());
    if (!isThere) await clock.advance(stepMs);
  }
  return answer;
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

/** One of the proxy's own errors, held against section 5 of the contract. */
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
      connection.write(
        answerHead(200, { "content-type": "audio/mpeg", "content-length": String(length) }),
      );
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
    expect(scene.keysAsked()).toEqual([0, 1]);
    expect(attemptsOf(response)).toBe("2");
    expect(keyOf(response)).toBe("1");
  });

  test.each<[sentence: string, status: number]>([
    ["P2 replays a 503", 503],
    ["P2 replays a 529", 529],
  ])("%s freely", async (_, status) => {
    await using scene = open((_key, nth) => (nth < 5 ? httpAnswer(status, errorBody("Busy.")) : OK));
    const response = await inTime(scene, chat(scene.url));
    expect(await response.text()).toBe(SERVED);
    expect(attemptsOf(response)).toBe("5");
  });

  test("P2 replays a refused connection freely, and counts it", async () => {
    await using scene = open(() => OK, {
      settings: { TARGET_BASE_URL: "http://127.0.0.1:1", MAX_ATTEMPTS: "4" },
    });
    const response = await inTime(scene, chat(scene.url));
    expect(attemptsOf(response)).toBe("4");
    expect(await ownError(response)).toMatchObject({ status: 502, type: "upstream_unreachable" });
  });

  test("P2 replays a failed TLS handshake freely: nothing was sent", async () => {
    await using scene = open(() => OK);
    const port = new URL(scene.provider.url).port;
    await using behindTls = open(() => OK, {
      settings: { TARGET_BASE_URL: `https://127.0.0.1:${port}`, MAX_ATTEMPTS: "4" },
    });
    const response = await inTime(behindTls, chat(behindTls.url));
    expect(attemptsOf(response)).toBe("4");
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
    expect(await ownError(response)).toMatchObject({ status: 503, type: "all_keys_cooling", retryAfter: 300 });
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
    const response = await inTime(scene, chat(scene.url), 50);
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
    ["P3 replays an answer that is no HTTP once", (connection) => connection.write("SSH-2.0-OpenSSH\r\n\r\n")],
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

  test("P4 keeps its compressed bytes and its content-encoding", async () => {
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
      await inTime(scene, chat(scene.url), 25);
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
      expect(await scene.health()).toMatchObject({ providers: [{ keys: [{ requests: 0 }, { requests: 0 }] }] });
    });
  }

  test("P6 is the same, and whole, in every attempt", async () => {
    const body = Buffer.alloc(300_000, "0123456789abcdef\u00e4");
    const answers = [limited(), BUSY, FAILED, OK];
    await using scene = open((_key, nth) => answers[nth - 1], { keys: 4 });
    const response = await inTime(
      scene,
      fetch(`${scene.url}/v1/files`, { method: "POST", body }),
    );
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
    ["P8 gets the answer with a reason, not the later empty one", [explained, silent, silent], 503, "loading"],
    ["P8 gets the last of several with a reason", [explained, FAILED, FAILED], 500, "had an error"],
    ["P8 gets what upstream said, not the reset after it", [explained, reset, reset], 503, "Model is loading"],
    // It got "All 2 keys are cooling down; the first may be used in 1s", of a key that was ready.
    ["P8 gets the upstream's failure, not the refusal of a key before it", [limited(), silent, silent], 502, ""],
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
      Array.from({ length: count }, async (_, index) => (await chat(scene.url, { user: `u${index}` })).text()),
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

  test("P10 is asked again by those who wait, one probe first", async () => {
    const held = new Held();
    await using scene = open((_key, nth, connection) => {
      if (nth <= 5) return BUSY;
      held.keep(connection);
    });
    for (let failure = 0; failure < 5; failure++) {
      const headers = { "x-keywheel-retry-status": "" };
      void headers;
    }
    const first = chat(scene.url);
    void first;
    await inTimeUntil(scene, () => scene.engine.upstreams[0].pool.waiting === 1);
    const others = Array.from({ length: 3 }, () => chat(scene.url));
    await untilWaiting(scene, 4);
    await scene.clock.advance(1900);
    expect(scene.provider.requests).toHaveLength(5);
    await scene.clock.advance(200);
    const probe = await held.take();
    await settled();
    expect(scene.provider.requests).toHaveLength(6);
    expect(scene.engine.upstreams[0].pool.waiting).toBe(3);
    probe.write(OK);
    for (let other = 0; other < 3; other++) (await held.take()).write(OK);
    for (const response of await Promise.all([first, ...others])) expect(response.status).toBe(200);
  });

  test("P10 gets another probe when the client of the first one leaves", async () => {
    const held = new Held();
    await using scene = open((_key, nth, connection) => {
      if (nth <= 5) return BUSY;
      held.keep(connection);
    });
    for (let request = 0; request < 5; request++) {
      // Each has one attempt: the others of the default ten would be probes.
      scene.engine.upstreams[0].pool.breaker.failed(scene.clock.now(), false);
    }
    const leaving = new AbortController();
    const gone = chat(scene.url, {}, { signal: leaving.signal }).catch(() => null);
    await untilWaiting(scene, 1);
    const stays = chat(scene.url);
    await untilWaiting(scene, 2);
    await scene.clock.advance(2000);
    expect(scene.provider.requests.length).toBeGreaterThan(0);
    leaving.abort();
    await gone;
    void stays;
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
