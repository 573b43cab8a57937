import { describe, expect, test } from "bun:test";
import {
  answerHead,
  chunk,
  FalseClock,
  httpAnswer,
  LAST_CHUNK,
  settled,
  stage,
  startRawProvider,
  until,
} from "./fixture.ts";
import type { RawProvider, Stage } from "./fixture.ts";

const answerOf = (text: string) =>
  httpAnswer(200, `{"id":"1","choices":[{"message":{"content":"${text}"}}]}`);
const LIMITED = httpAnswer(429, '{"error":{"message":"Slow down."}}', { "retry-after": "500" });
const BUSY = httpAnswer(503, '{"error":{"message":"Busy."}}');
const FAILED = httpAnswer(500, '{"error":{"message":"Oops."}}');

interface Pair extends Stage {
  readonly clock: FalseClock;
  readonly first: RawProvider;
  readonly second: RawProvider;
  ask(
    body: string,
    path?: string,
  ): Promise<{ status: number; text: string; key: string | null; attempts: string | null }>;
}

/** Answers with one after the other, and with the last of them from then on. */
function inTurn(answers: Buffer | Buffer[]): Parameters<typeof startRawProvider>[0] {
  const script = Array.isArray(answers) ? answers : [answers];
  return (_request, connection, nth) => connection.write(script[Math.min(nth, script.length) - 1] ?? "");
}

/** A proxy with two providers, `default` and `other`, that answer by script. */
async function pair(
  {
    first,
    second = answerOf("second"),
    settings,
  }: { first: Buffer | Buffer[]; second?: Buffer | Buffer[]; settings: Record<string, string> },
  body: (pair: Pair) => Promise<void>,
): Promise<void> {
  const clock = new FalseClock();
  await using one = startRawProvider(inTurn(first));
  await using two = startRawProvider(inTurn(second));
  const named = {
    OTHER_API_KEYS: "other-key-canary",
    OTHER_BASE_URL: `${two.url}/api/v1`,
    OTHER_PROVIDER: "generic",
  };
  const own = { API_KEYS: "own-key-canary", TARGET_BASE_URL: one.url, PROVIDER: "generic" };
  await using staged = stage({ settings: { ...own, ...named, ...settings }, clock });
  const ask = async (text: string, path = "/v1/chat/completions") => {
    const answer = fetch(staged.url + path, { method: "POST", body: text });
    let isThere = false;
    answer.finally(() => (isThere = true)).catch(() => {});
    while (!isThere) {
      await until(
        "an answer, or a wait",
        () => isThere || (clock.nextAt < Infinity && staged.engine.clocks.running === 0),
      );
      if (!isThere && clock.nextAt < Infinity) await clock.advance(clock.nextAt - clock.now());
    }
    const { status, headers } = await answer;
    const key = headers.get("x-keywheel-key");
    return { status, text: await (await answer).text(), key, attempts: headers.get("x-keywheel-attempts") };
  };
  await body({ ...staged, clock, first: one, second: two, ask });
}

const bodyOf = (provider: RawProvider) => provider.requests.map(({ body }) => body.toString());

describe("FALLBACK", () => {
  const settings = { FALLBACK: "other/big/model:free" };

  test("takes a request where its provider has no key in time, and rewrites nothing but the model", async () => {
    const sent = '{ "model" : "small",\n "x": {"model": "small"}, "messages": [] }';
    await pair({ first: LIMITED, settings }, async ({ ask, first, second }) => {
      expect(await ask(sent)).toMatchObject({ status: 200, key: "other/0", attempts: "2" });
      expect(bodyOf(first)).toEqual([sent]);
      expect(bodyOf(second)).toEqual([sent.replace('"small"', '"big/model:free"')]);
      expect(second.requests[0]).toMatchObject({
        target: "/api/v1/chat/completions",
        key: "other-key-canary",
      });
    });
  });

  const waits: [
    says: string,
    limitedSec: { first: number; second?: number },
    settings: Record<string, string>,
    key: string,
    waitedSec: number,
  ][] = [
    ["waits for a key that is free soon", { first: 1 }, {}, "0", 1],
    ["goes on at once where none is free by then", { first: 3 }, {}, "other/0", 0],
    ["waits for as long as it is told", { first: 10 }, { FALLBACK_AFTER_SEC: "15" }, "0", 10],
    ["does not wait where it is told not to", { first: 1 }, { FALLBACK_AFTER_SEC: "0" }, "other/0", 0],
    [
      "never waits beyond what a request waits in all",
      { first: 10 },
      { FALLBACK_AFTER_SEC: "15", MAX_WAIT_SEC: "5" },
      "other/0",
      0,
    ],
    ["lets the last target wait as long as there is", { first: 300, second: 50 }, {}, "other/0", 50],
    [
      "lets the last target wait what is left",
      { first: 1, second: 50 },
      { FALLBACK_AFTER_SEC: "0" },
      "other/0",
      50,
    ],
  ];
  test.each(waits)("B6 %s", async (_, { first, second }, settings, key, waitedSec) => {
    const limited = (seconds: number) =>
      httpAnswer(429, '{"error":{"message":"Slow down."}}', { "retry-after": String(seconds) });
    const script = {
      first: [limited(first), answerOf("first")],
      second: second === undefined ? answerOf("second") : [limited(second), answerOf("second")],
      settings: { FALLBACK: "other", ...settings },
    };
    await pair(script, async ({ ask, clock }) => {
      const began = clock.now();
      expect(await ask('{"model":"small"}')).toMatchObject({ status: 200, key });
      expect(Math.round((clock.now() - began) / 1000)).toBe(waitedSec);
    });
  });

  test("takes a request at once while the provider is down, and after two failures of it", async () => {
    await pair({ first: BUSY, settings }, async ({ ask, first, engine }) => {
      for (let request = 0; request < 3; request++)
        expect(await ask('{"model":"small"}')).toMatchObject({ status: 200, key: "other/0" });
      expect(engine.upstreams[0].pool.pausedUntil).toBeGreaterThan(engine.clock.now());
      const before = first.requests.length;
      expect(await ask('{"model":"small"}')).toMatchObject({ status: 200, key: "other/0", attempts: "1" });
      expect(first.requests.length - before).toBeLessThanOrEqual(1);
    });
  });

  test("P3 counts as the one replay of what may have been billed", async () => {
    await pair({ first: FAILED, second: FAILED, settings }, async ({ ask, first, second }) => {
      expect(await ask('{"model":"small"}')).toMatchObject({ status: 500 });
      expect([first.requests.length, second.requests.length]).toEqual([1, 1]);
    });
  });

  // What the second provider made was remembered as a thing of the first one's, whose accounts were then not asked.
  test("P35 remembers nothing of what it made as if the first provider had", async () => {
    const file = httpAnswer(200, '{"id":"file-abc123","object":"file"}');
    const twoKeys = { API_KEYS: "one-key-canary,two-key-canary", FALLBACK: "other" };
    await pair({ first: LIMITED, second: file, settings: twoKeys }, async ({ ask, engine }) => {
      expect(await ask("{}", "/v1/files")).toMatchObject({ status: 200, key: "other/0" });
      expect(engine.owners.count("default")).toBe(0);
    });
  });

  test("is not for what names its provider in the path", async () => {
    await pair(
      { first: answerOf("first"), second: LIMITED, settings: { FALLBACK: "default/small" } },
      async ({ ask, first }) => {
        expect(await ask("{}", "/other/v1/chat/completions")).toMatchObject({ status: 503 });
        expect(first.requests).toHaveLength(0);
      },
    );
  });

  test("P8 answers with the last provider's trouble where none can serve", async () => {
    await pair({ first: LIMITED, second: LIMITED, settings }, async ({ ask }) => {
      const { status, text } = await ask('{"model":"small"}');
      expect(status).toBe(503);
      expect(JSON.parse(text).error).toMatchObject({ type: "all_keys_cooling", retry_after: 500 });
    });
  });
});

describe("a packed body", () => {
  const TEXT = '{"model":"smart","messages":[]}';
  const settings = { ROUTES: "smart = other/two" };
  const mark = Buffer.from("\ufeff");
  const ways: [says: string, encoding: string | null, bytes: Uint8Array<ArrayBuffer>][] = [
    ["gzip", "gzip", Bun.gzipSync(TEXT)],
    ["deflate", "deflate", Bun.deflateSync(TEXT)],
    ["zstd", "zstd", new Uint8Array(Bun.zstdCompressSync(TEXT))],
    ["a byte order mark", null, new Uint8Array(Buffer.concat([mark, Buffer.from(TEXT)]))],
    ["both", "gzip", Bun.gzipSync(new Uint8Array(Buffer.concat([mark, Buffer.from(TEXT)])))],
  ];
  const send = (url: string, body: Uint8Array<ArrayBuffer>, encoding: string | null) =>
    fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      body,
      headers: {
        "content-type": "application/json",
        ...(encoding === null ? {} : { "content-encoding": encoding }),
      },
    });

  test.each(ways)(
    "P45 is routed by its model, and goes out in plain with another one: %s",
    async (_, encoding, bytes) => {
      await pair({ first: answerOf("first"), settings }, async ({ url, engine, first, second }) => {
        expect((await send(url, bytes, encoding)).headers.get("x-keywheel-key")).toBe("other/0");
        expect(first.requests).toHaveLength(0);
        expect(bodyOf(second)).toEqual(['{"model":"two","messages":[]}']);
        expect(second.requests[0]?.fields.has("content-encoding")).toBe(false);
        expect(engine.bufferedBytes).toBe(0);
      });
    },
  );

  test.each(ways)("P45 goes out as it came where its model stays: %s", async (_, encoding, bytes) => {
    await pair(
      { first: answerOf("first"), settings: { ROUTES: "quick = other/two" } },
      async ({ url, first, engine, logged }) => {
        expect((await send(url, bytes, encoding)).status).toBe(200);
        const [request] = first.requests;
        expect(request?.body).toEqual(Buffer.from(bytes));
        expect(request?.fields.get("content-encoding") ?? null).toEqual(
          encoding === null ? null : [encoding],
        );
        engine.log.flush();
        expect(logged().find(({ event }) => event === "request")).toMatchObject({ model: "smart" });
      },
    );
  });

  test("P45 goes out as it came to a target that keeps the model, behind one that does not", async () => {
    const chain = { ROUTES: "smart = default/one > other/*" };
    const bytes = Bun.gzipSync(TEXT);
    await pair({ first: LIMITED, settings: chain }, async ({ url, first, second, engine }) => {
      expect((await send(url, bytes, "gzip")).headers.get("x-keywheel-key")).toBe("other/0");
      expect(bodyOf(first)).toEqual(['{"model":"one","messages":[]}']);
      expect(second.requests[0]?.body).toEqual(Buffer.from(bytes));
      expect(second.requests[0]?.fields.get("content-encoding")).toEqual(["gzip"]);
      expect(engine.bufferedBytes).toBe(0);
    });
  });

  test("P45 rests only the model whose limit it met", async () => {
    const limited = httpAnswer(429, '{"error":{"message":"Rate limit reached for model smart"}}', {
      "retry-after": "500",
    });
    await using provider = startRawProvider((_request, connection, nth) =>
      connection.write(nth === 1 ? limited : answerOf("ok")),
    );
    const own = {
      API_KEYS: "own-key-canary",
      TARGET_BASE_URL: provider.url,
      PROVIDER: "groq",
      MAX_WAIT_SEC: "0",
    };
    await using staged = stage({ settings: own, clock: new FalseClock() });
    expect((await send(staged.url, Bun.gzipSync(TEXT), "gzip")).status).toBe(503);
    expect((await send(staged.url, Bun.gzipSync(TEXT.replace("smart", "other")), "gzip")).status).toBe(200);
  });

  test("P45 goes to the account that has what it refers to", async () => {
    await using provider = startRawProvider(({ key }, connection) =>
      connection.write(
        httpAnswer(200, `{"id":"resp_${key === "a-canary" ? 1 : 2}abc","object":"response","by":"${key}"}`),
      ),
    );
    const own = { API_KEYS: "a-canary,b-canary", TARGET_BASE_URL: provider.url, PROVIDER: "openai" };
    await using staged = stage({ settings: own });
    const ask = (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) =>
      fetch(`${staged.url}/v1/responses`, {
        method: "POST",
        body,
        headers: { "content-type": "application/json", ...headers },
      });
    const made = (await (await ask('{"model":"m","input":"x"}')).json()) as { id: string; by: string };
    for (let turn = 0; turn < 4; turn++) {
      const next = Bun.gzipSync(JSON.stringify({ model: "m", previous_response_id: made.id }));
      const answer = await ask(next, { "content-encoding": "gzip" });
      expect(await answer.json()).toMatchObject({ by: made.by });
    }
  });
});

describe("ROUTES", () => {
  const patterns = { ROUTES: "claude-* = other/*; claude-*-mini = other/tiny; claude-own = default/own" };
  const asked: [says: string, model: string, goesTo: "first" | "second", as: string][] = [
    ["keeps the client's model where the target is *", "claude-sonnet-4", "second", "claude-sonnet-4"],
    ["takes the longest pattern", "claude-4-mini", "second", "tiny"],
    ["takes a name before any pattern", "claude-own", "first", "own"],
    ["leaves what fits none where it was", "gpt-4o", "first", "gpt-4o"],
    ["tells names apart by their case", "Claude-sonnet-4", "first", "Claude-sonnet-4"],
    ["takes a pattern for a name with slashes too", "claude-/a/b:c", "second", "claude-/a/b:c"],
  ];
  test.each(asked)("with a pattern %s: %s", async (_, model, goesTo, as) => {
    await pair({ first: answerOf("first"), settings: patterns }, async ({ ask, first, second }) => {
      expect((await ask(JSON.stringify({ model }))).text).toContain(goesTo);
      const provider = goesTo === "first" ? first : second;
      expect(bodyOf(provider)).toEqual([JSON.stringify({ model: as })]);
    });
  });

  test("do not list a pattern among the models: nobody can ask for it", async () => {
    const list = httpAnswer(200, '{"object":"list","data":[{"id":"one","object":"model"}]}');
    await pair({ first: list, settings: patterns }, async ({ url }) => {
      const { data }: { data: { id: string }[] } = JSON.parse(await (await fetch(`${url}/v1/models`)).text());
      expect(data.map(({ id }) => id)).toEqual(["claude-own", "one"]);
    });
  });

  const settings = { ROUTES: "smart = default/one > other/two; quick = other/three" };

  test("lead a model name of one's own along its targets", async () => {
    await pair({ first: LIMITED, settings }, async ({ ask, first, second }) => {
      expect(await ask('{"model":"smart"}')).toMatchObject({ status: 200, key: "other/0" });
      expect([bodyOf(first), bodyOf(second)]).toEqual([['{"model":"one"}'], ['{"model":"two"}']]);
    });
  });

  test("lead straight to another provider, and leave other names alone", async () => {
    await pair({ first: answerOf("first"), settings }, async ({ ask, first, second }) => {
      expect((await ask('{"model":"quick"}')).text).toContain("second");
      expect((await ask('{"model":"small"}')).text).toContain("first");
      expect([bodyOf(first), bodyOf(second)]).toEqual([['{"model":"small"}'], ['{"model":"three"}']]);
    });
  });

  test("are listed among the models", async () => {
    const list = httpAnswer(200, '{"object":"list","data":[{"id":"one","object":"model"}]}');
    await pair({ first: list, settings }, async ({ url }) => {
      const response = await fetch(`${url}/v1/models`);
      const { data }: { data: { id: string }[] } = JSON.parse(await response.text());
      expect(data.map(({ id }) => id)).toEqual(["smart", "quick", "one"]);
    });
  });

  // Such a list was read to its end with the clocks of its attempt left running for good; and where it broke off, the
  // client was told of a bug of ours, and the key counted as busy ever after.
  const long = Buffer.concat([
    Buffer.from(answerHead(200, { "content-type": "application/json", "transfer-encoding": "chunked" })),
    chunk(`{"object":"list","data":[{"id":"one","object":"model","about":"${"x".repeat(1_000_000)}"}]}`),
    Buffer.from(LAST_CHUNK),
  ]);

  test("are listed in a list that is long and says not how long, and then its attempt is over", async () => {
    await pair({ first: long, settings }, async ({ url, engine }) => {
      const response = await fetch(`${url}/v1/models`);
      const { data }: { data: { id: string }[] } = JSON.parse(await response.text());
      expect(data.map(({ id }) => id)).toEqual(["smart", "quick", "one"]);
      expect(engine.clocks.running).toBe(0);
    });
  });

  test("are listed also where the list breaks off: it is asked for again", async () => {
    const clock = new FalseClock();
    await using provider = startRawProvider((_request, connection, nth) =>
      connection.write(nth === 1 ? long.subarray(0, -1000) : long),
    );
    const own = { API_KEYS: "own-key-canary", TARGET_BASE_URL: provider.url, PROVIDER: "generic" };
    await using staged = stage({ settings: { ...own, ROUTES: "smart = default/one" }, clock });
    const answer = fetch(`${staged.url}/v1/models`);
    await until("most of it is sent", () => provider.connections[0]?.unsentBytes === 0);
    await settled(); // and read
    provider.connections[0]?.end();
    await until("its attempt is over", () => staged.engine.clocks.running === 0);
    await clock.advance(1000);
    expect((await answer).status).toBe(200);
    expect(provider.requests).toHaveLength(2);
    expect(staged.engine.upstreams[0].pool.keys[0]?.inFlight).toBe(0);
  });

  test("show in the log which provider was asked for which model", async () => {
    await pair({ first: LIMITED, settings }, async ({ ask, engine, logged }) => {
      await ask('{"model":"smart"}');
      engine.log.flush();
      const line = logged().find(({ event }) => event === "request");
      expect(line).toMatchObject({ provider: "other", model: "smart", status: 200, attempts: 2 });
    });
  });
});
