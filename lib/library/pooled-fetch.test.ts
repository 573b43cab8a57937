/** What a call of the library has beside a request of the proxy. All else: lib/testing/library.test.ts. */
import { describe, expect, test } from "bun:test";
import { createPooledFetch, ENGINE_PARTS } from "../../proxy.ts";
import { createLog } from "../observability/log.ts";
import {
  answerHead,
  chunk,
  EVENT_STREAM_HEAD,
  FalseClock,
  httpAnswer,
  settled,
  startRawProvider,
  until,
} from "../testing/fixture.ts";
import type { RawConnection, RawProvider, RawRequest } from "../testing/fixture.ts";
import { openPooledFetch } from "./pooled-fetch.ts";
import type { PoolEvent, PooledFetchOptions } from "./public.ts";

const OK = httpAnswer(200, '{"id":"1","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}');
const LIMITED = httpAnswer(429, "{}", { "retry-after": "30" });
const URL_OF_SDK = "https://api.openai.com/v1/chat/completions";
const CHAT = { method: "POST", body: '{"model":"m"}' };

type Answering = (request: RawRequest, connection: RawConnection, nth: number) => Buffer | string | void;

async function withPool(
  answer: Answering,
  options: PooledFetchOptions,
  run: (
    pool: ReturnType<typeof openPooledFetch> & { clock: FalseClock; provider: RawProvider },
  ) => Promise<void>,
) {
  await using provider = startRawProvider((request, connection, nth) => {
    const bytes = answer(request, connection, nth);
    if (bytes !== undefined) connection.write(bytes);
  });
  const clock = new FalseClock();
  const log = createLog({ level: "error", format: "json", clock, write() {} });
  const all = {
    apiKeys: ["key-canary-0", "key-canary-1"],
    targetBaseUrl: `${provider.url}/v1`,
    provider: "generic",
    ...options,
  };
  const pool = openPooledFetch(all, { ...ENGINE_PARTS, random: () => 0.5 }, { clock, log });
  try {
    await run({ ...pool, clock, provider });
  } finally {
    pool.engine.clocks.stop();
    await pool.fetch.close();
  }
}

describe("a call", () => {
  const FORMS: [
    sentence: string,
    input: () => string | URL | Request,
    init: RequestInit | undefined,
    body: string,
  ][] = [
    ["a text", () => `${URL_OF_SDK}?a=b`, CHAT, CHAT.body],
    ["a URL", () => new URL(`${URL_OF_SDK}?a=b`), CHAT, CHAT.body],
    ["a Request", () => new Request(`${URL_OF_SDK}?a=b`, CHAT), undefined, CHAT.body],
    ["bytes", () => `${URL_OF_SDK}?a=b`, { ...CHAT, body: new TextEncoder().encode("bytes") }, "bytes"],
    ["a stream", () => `${URL_OF_SDK}?a=b`, { ...CHAT, body: new Blob(["str", "eam"]).stream() }, "stream"],
    ["parameters", () => `${URL_OF_SDK}?a=b`, { ...CHAT, body: new URLSearchParams({ x: "1" }) }, "x=1"],
  ];
  test.each(FORMS)(
    "may be %s: its path joins the base, and its credential is replaced",
    async (_, input, init, body) => {
      await withPool(
        () => OK,
        {},
        async ({ fetch, provider }) => {
          const own = { authorization: "Bearer of-the-sdk", "x-api-key": "of-the-sdk" };
          const form = init === undefined ? new Request(input() as Request, { headers: own }) : input();
          const response = await fetch(form, init && { ...init, headers: own });
          expect([response.status, response.url]).toEqual([200, `${URL_OF_SDK}?a=b`]);
          expect(response.headers.get("x-keywheel-key")).toBe("0");
          const [request] = provider.requests;
          expect([request?.target, request?.key]).toEqual(["/v1/chat/completions?a=b", "key-canary-0"]);
          expect(request?.body.toString()).toBe(body);
          expect(request?.head).not.toContain("of-the-sdk");
        },
      );
    },
  );

  test("leaves the caller's bytes alone, also long ones", async () => {
    await withPool(
      () => OK,
      {},
      async ({ fetch, provider }) => {
        const bytes = new Uint8Array(3 * 2 ** 20).fill(97);
        await (
          await fetch(URL_OF_SDK, {
            method: "POST",
            body: new ReadableStream({ start: (it) => (it.enqueue(bytes), it.close()) }),
          })
        ).text();
        expect([bytes.length, bytes[5]]).toEqual([3 * 2 ** 20, 97]);
        expect(provider.requests[0]?.body.length).toBe(3 * 2 ** 20);
      },
    );
  });

  test("has the words of its status, and takes null for no settings", async () => {
    await withPool(
      () => httpAnswer(404, ""),
      {},
      async ({ fetch }) => {
        const response = await fetch(`${URL_OF_SDK}/x`, null as never);
        expect([response.status, response.statusText]).toEqual([404, "Not Found"]);
      },
    );
  });

  const PIECES: [says: string, piece: unknown, sent: string | null][] = [
    ["text", "text", "text"],
    ["an ArrayBuffer", new TextEncoder().encode("buffer").buffer, "buffer"],
    ["nothing", null, null],
    ["a number", 7, null],
  ];
  test.each(PIECES)(
    "P22 whose body is a stream of %s is sent or rejected, and leaves nothing behind",
    async (_, piece, sent) => {
      await withPool(
        () => OK,
        {},
        async ({ fetch, engine, provider }) => {
          const body = new ReadableStream({ start: (it) => (it.enqueue(piece), it.close()) });
          const outcome = await fetch(URL_OF_SDK, { method: "POST", body }).then(
            ({ status }) => status,
            (error: unknown) => (error instanceof TypeError ? "TypeError" : "another error"),
          );
          expect([outcome, provider.requests[0]?.body.toString() ?? null]).toEqual(
            sent === null ? ["TypeError", null] : [200, sent],
          );
          expect([engine.inFlight, engine.bufferedBytes]).toEqual([0, 0]);
        },
      );
    },
  );

  test("P6 whose body throws rejects with that, and nothing is sent", async () => {
    await withPool(
      () => OK,
      {},
      async ({ fetch, engine, provider }) => {
        const own = new Error("the disk is gone");
        const body = new ReadableStream({ pull: (it) => it.error(own) });
        expect(await fetch(URL_OF_SDK, { method: "POST", body }).catch((error: unknown) => error)).toBe(own);
        expect([engine.inFlight, provider.requests.length]).toEqual([0, 0]);
      },
    );
  });

  test.each(["GET", "HEAD"])(
    "P36 with %s and a body rejects at once, and no provider is blamed",
    async (method) => {
      await withPool(
        () => OK,
        {},
        async ({ fetch, provider }) => {
          for (let nth = 0; nth < 4; nth++)
            expect(fetch(URL_OF_SDK, { method, body: "x" })).rejects.toBeInstanceOf(TypeError);
          expect((await fetch(URL_OF_SDK, CHAT)).status).toBe(200);
          expect([provider.requests.length, fetch.health().providers[0]?.state]).toEqual([1, "up"]);
        },
      );
    },
  );

  test("of a pool that stands as the global fetch goes out by the one before it", async () => {
    await withPool(
      () => OK,
      {},
      async ({ fetch, provider }) => {
        const before = globalThis.fetch;
        globalThis.fetch = Object.assign(fetch, { preconnect() {} });
        try {
          expect((await globalThis.fetch(URL_OF_SDK, CHAT)).status).toBe(200);
        } finally {
          globalThis.fetch = before;
        }
        expect(provider.requests).toHaveLength(1);
      },
    );
  });

  test("for a URL that is no http goes to the fetch below as it is, and costs no key", async () => {
    const below: unknown[][] = [];
    const fetch = async (...given: unknown[]) => (below.push(given), new Response("below"));
    await withPool(
      () => OK,
      { fetch },
      async (pool) => {
        const init = { method: "POST" };
        for (const url of ["data:text/plain,hello", "blob:x", "file:///etc/hosts"])
          expect(await (await pool.fetch(url, init)).text()).toBe("below");
        expect(below.map(([, given]) => given === init)).toEqual([true, true, true]);
        expect(pool.fetch.health().providers[0]?.keys.map(({ requests }) => requests)).toEqual([0, 0]);
      },
    );
  });

  test("goes out by the fetch that is given, with what else it says", async () => {
    const seen: unknown[] = [];
    const fetch = async (url: string | URL | Request, init: RequestInit = {}) => {
      await settled(); // one that takes its time still sends the key
      seen.push([
        url,
        new Headers(init.headers).get("authorization"),
        Object.entries(init).find(([name]) => name === "sideways")?.[1],
        init.redirect,
      ]);
      return new Response("{}");
    };
    await withPool(
      () => OK,
      { fetch },
      async (pool) => {
        await pool.fetch(URL_OF_SDK, Object.assign({ sideways: "by the side" }, CHAT));
        const [[url, key, extra, redirect]] = seen as [unknown[]];
        expect(url).toEndWith("/v1/chat/completions");
        expect([key, extra, redirect]).toEqual(["Bearer key-canary-0", "by the side", "manual"]);
      },
    );
  });

  test("with the host of a named provider goes to that one, any other to the default one", async () => {
    await using groq = startRawProvider((_, connection) => connection.write(OK));
    await withPool(
      () => OK,
      { providers: { groq: { apiKeys: "gsk_canary-2", baseUrl: `${groq.url}/openai/v1` } } },
      async ({ fetch, provider }) => {
        await fetch(`${groq.url}/openai/v1/chat/completions`, CHAT);
        await fetch(`${provider.url}/v1/chat/completions`, CHAT);
        await fetch(URL_OF_SDK, CHAT);
        expect(groq.requests.map(({ target, key }) => [target, key])).toEqual([
          ["/openai/v1/chat/completions", "gsk_canary-2"],
        ]);
        expect(provider.requests.length).toBe(2);
      },
    );
  });

  test("gets compressed answers unpacked, and no field that says otherwise", async () => {
    const packed = httpAnswer(200, Bun.gzipSync('{"said":"hello"}'), { "content-encoding": "gzip" });
    await withPool(
      () => packed,
      {},
      async ({ fetch }) => {
        const response = await fetch(URL_OF_SDK, CHAT);
        expect(await response.json()).toEqual({ said: "hello" });
        expect(response.headers.get("content-encoding")).toBeNull();
      },
    );
  });
});

describe("an aborted signal", () => {
  test("P15 P22 takes a call out of the queue at once, and the reason is thrown", async () => {
    await withPool(
      () => LIMITED,
      {},
      async ({ fetch, engine }) => {
        const aborter = new AbortController();
        const calls = [1, 2, 3].map(() =>
          fetch(URL_OF_SDK, { ...CHAT, signal: aborter.signal }).catch((error: unknown) => error),
        );
        await until("all wait", () => fetch.health().providers[0]?.waiting === 3);
        aborter.abort("enough");
        expect(await Promise.all(calls)).toEqual(["enough", "enough", "enough"]);
        expect([fetch.health().providers[0]?.waiting, engine.inFlight]).toEqual([0, 0]);
      },
    );
  });

  test("before the call sends nothing", async () => {
    await withPool(
      () => OK,
      {},
      async ({ fetch, provider }) => {
        const call = fetch(URL_OF_SDK, { ...CHAT, signal: AbortSignal.abort() });
        expect(await call.catch((error: Error) => error.name)).toBe("AbortError");
        expect(provider.requests.length).toBe(0);
      },
    );
  });

  test("P22 ends a request body that stalls, and gives back what it took", async () => {
    await withPool(
      () => OK,
      {},
      async ({ fetch, engine }) => {
        let cancelledWith: unknown = null;
        const body = new ReadableStream({
          start: (it) => it.enqueue(new Uint8Array(1000)),
          cancel: (reason) => void (cancelledWith = reason),
        });
        const controller = new AbortController();
        const call = fetch(URL_OF_SDK, { method: "POST", body, signal: controller.signal });
        await until("a part is here", () => engine.bufferedBytes === 1000);
        const reason = new Error("mine");
        controller.abort(reason);
        expect(await call.catch((error: unknown) => error)).toBe(reason);
        await until("all is given back", () => engine.inFlight === 0 && engine.bufferedBytes === 0);
        expect(cancelledWith).toBe(reason);
      },
    );
  });

  test.each(["text", "getReader"] as const)(
    "P22 before the body is read ends it for who reads it then: %s",
    async (way) => {
      await withPool(
        (_, connection) => void connection.write(EVENT_STREAM_HEAD + chunk("data: {}\n\n")),
        {},
        async ({ fetch, engine }) => {
          const controller = new AbortController();
          const response = await fetch(URL_OF_SDK, { ...CHAT, signal: controller.signal });
          const reason = new Error("mine");
          controller.abort(reason);
          const read = way === "text" ? response.text() : response.body?.getReader().read();
          expect(await Promise.resolve(read).catch((error: unknown) => error)).toBe(reason);
          await until("all is given back", () => engine.inFlight === 0);
        },
      );
    },
  );

  test("that is null takes the place of that of the Request", async () => {
    await withPool(
      () => OK,
      {},
      async ({ fetch }) => {
        const request = new Request(URL_OF_SDK, { ...CHAT, signal: AbortSignal.abort() });
        expect((await fetch(request, { signal: null })).status).toBe(200);
        expect(fetch(URL_OF_SDK, { signal: {} as never })).rejects.toBeInstanceOf(TypeError);
      },
    );
  });

  test("P22 ends a body that is being read, and the provider's connection", async () => {
    const event = chunk('data: {"choices":[{"delta":{"content":"x"}}]}\n\n');
    await withPool(
      (_, connection) => (connection.write(EVENT_STREAM_HEAD), connection.write(event)),
      {},
      async ({ fetch, engine, provider }) => {
        const aborter = new AbortController();
        const response = await fetch(URL_OF_SDK, { ...CHAT, signal: aborter.signal });
        const reader = response.body?.getReader();
        expect((await reader?.read())?.done).toBe(false);
        const next = reader?.read().then(
          () => "more",
          (error: Error) => error.name,
        );
        aborter.abort();
        expect(await next).toBe("AbortError");
        await until("the connection is closed", () => provider.openConnections === 0);
        expect([engine.inFlight, fetch.health().providers[0]?.keys[0]?.in_flight]).toEqual([0, 0]);
      },
    );
  });
});

describe("the end of a pool", () => {
  test("refuses calls that wait and all later ones, and lets answers go on", async () => {
    let go = () => {};
    const answer: Answering = ({ target }, connection) => {
      if (!target.endsWith("/stream")) return LIMITED;
      connection.write(EVENT_STREAM_HEAD);
      connection.write(chunk('data: {"choices":[{"delta":{"content":"x"}}]}\n\n'));
      go = () => connection.write(Buffer.concat([chunk("data: [DONE]\n\n"), Buffer.from("0\r\n\r\n")]));
    };
    await withPool(answer, {}, async ({ fetch }) => {
      const streaming = await fetch("https://x/v1/stream", CHAT);
      const waiting = fetch(URL_OF_SDK, CHAT);
      await until("one waits", () => fetch.health().providers[0]?.waiting === 1);
      await fetch.close();
      for (const response of [await waiting, await fetch(URL_OF_SDK, CHAT)]) {
        expect(response.status).toBe(503);
        expect(await response.json()).toMatchObject({ type: "error", error: { type: "draining" } });
      }
      go();
      expect(await streaming.text()).toEndWith("data: [DONE]\n\n");
    });
  });
});

describe("what a pool tells", () => {
  test("comes by onEvent: calls and keys, and what that throws fails no call", async () => {
    const events: PoolEvent[] = [];
    const onEvent = (event: PoolEvent) => {
      events.push(event);
      throw new Error("in the program's own hands");
    };
    await withPool(
      (_, __, nth) => (nth === 1 ? LIMITED : OK),
      { onEvent },
      async ({ fetch }) => {
        expect((await fetch(URL_OF_SDK, CHAT)).status).toBe(200);
        expect(events.map(({ kind }) => kind)).toEqual(["cooled", "request"]);
        expect(JSON.stringify(events)).not.toContain("canary");
        const [, call] = events;
        expect(call).toMatchObject({ status: 200, path: "/v1/chat/completions", model: "m", key: "1" });
      },
    );
  });

  test("is in health(), as /health of the proxy shows it", async () => {
    await withPool(
      () => answerHead(200, { "content-length": "0" }),
      {},
      async ({ fetch }) => {
        await fetch(URL_OF_SDK, CHAT);
        const health = fetch.health();
        expect(health).toMatchObject({ status: "ok", keys: 2, pool: "[0]:ready [1]:ready" });
        expect(health.providers[0]).toMatchObject({
          name: "default",
          dialect: "generic",
          state: "up",
          waiting: 0,
        });
        expect(health.providers[0]?.keys[0]).toMatchObject({ index: 0, requests: 1, in_flight: 0 });
        expect(JSON.stringify(health)).not.toContain("canary");
      },
    );
  });

  test("survives in the state: cooldowns are known to the next pool, however slowly it comes", async () => {
    let text: string | null = null;
    const state = { load: () => Bun.sleep(20).then(() => text), save: (json: string) => void (text = json) };
    await withPool(
      (_, __, nth) => (nth === 1 ? LIMITED : OK),
      { state },
      async ({ fetch }) => {
        await fetch(URL_OF_SDK, CHAT);
      },
    );
    expect(text).not.toContain("canary");
    await withPool(
      () => OK,
      { state },
      async ({ fetch, provider }) => {
        await fetch(URL_OF_SDK, CHAT);
        expect(provider.requests.map(({ key }) => key)).toEqual(["key-canary-1"]);
        expect(fetch.health().pool).toStartWith("[0]:cooling");
      },
    );
  });
});

test("createPooledFetch throws one TypeError that names every mistake", () => {
  const wrong = { apiKeys: ["key-canary-0"], rpm: "fast", colour: "red" } as PooledFetchOptions;
  expect(() => createPooledFetch(wrong)).toThrow(TypeError);
  expect(() => createPooledFetch(wrong)).toThrow(/colour[\s\S]*rpm/);
});
