/**
 * Whose fault a failure is: a model's and not the provider's (P10, P40), the request's and not the keys' (P36). Each
 * test says what other clients get meanwhile.
 */
import { describe, expect, test } from "bun:test";

import { FalseClock, httpAnswer, stage, startRawProvider, until } from "./fixture.ts";
import type { RawRequest, Stage } from "./fixture.ts";

const SERVED = httpAnswer(
  200,
  '{"id":"1","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}',
);
const error = (status: number, message: string, code: string | null = null) =>
  httpAnswer(status, JSON.stringify({ error: { message, type: "error", code } }));
const BUSY = error(503, "The engine is warming up.");
const INVALID = error(401, "Incorrect API key provided.", "invalid_api_key");
const LIMITED = httpAnswer(429, '{"error":{"message":"Rate limit reached for model full"}}', {
  "retry-after": "60",
});
const MINUTE_MS = 60_000;

interface Scene extends Stage {
  readonly clock: FalseClock;
  readonly requests: readonly RawRequest[];
  /** Asks for a model; resolves with the status. */
  ask(model: string, path?: string): Promise<number>;
  states(): Promise<string>;
}

async function scene(
  answer: (request: RawRequest, model: string) => Buffer | string | null,
  settings: Record<string, string>,
  body: (scene: Scene) => Promise<void>,
): Promise<void> {
  const clock = new FalseClock();
  await using provider = startRawProvider((request, connection) => {
    const model = /"model":"([^"]+)"/.exec(request.body.toString())?.[1] ?? "";
    const bytes = answer(request, model);
    if (bytes === null) connection.reset();
    else connection.write(bytes);
  });
  const own = {
    API_KEYS: "key-0-canary,key-1-canary,key-2-canary",
    TARGET_BASE_URL: provider.url,
    PROVIDER: "openai",
    MAX_WAIT_SEC: "0",
  };
  await using staged = stage({ settings: { ...own, ...settings }, clock });
  const ask = async (model: string, path = "/v1/chat/completions") => {
    const asking = fetch(`${staged.url}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, messages: [{ role: "user", content: "hello" }] }),
    }).then(async (response) => {
      await response.text();
      return response.status;
    });
    let isOver = false;
    void asking.then(() => (isOver = true));
    while (!isOver) {
      await Bun.sleep(2); // real sockets
      await clock.advance(100); // backoffs
    }
    return asking;
  };
  const states = async () =>
    ((await staged.health()).providers[0]?.keys ?? []).map(({ state }) => state).join(" ");
  await body({ ...staged, clock, requests: provider.requests, ask, states });
}

const pausedMs = ({ engine, clock }: Scene) => engine.upstreams[0].pool.pausedUntil - clock.now();

describe("a model that fails", () => {
  const failures: [how: string, answer: () => Buffer | null][] = [
    ["503", () => BUSY],
    ["500", () => error(500, "Internal error.")],
    ["529", () => error(529, "Overloaded.")],
    [
      "a gateway that has no channel for it",
      () => error(503, "No available channel for model bad.", "model_not_found"),
    ],
    ["Gemini's words", () => error(503, "The model is overloaded. Please try again later.")],
  ];
  test.each(failures)("P10 P40 keeps nobody from another one: %s", async (_, answer) => {
    await scene(
      (_request, model) => (model === "bad" ? answer() : SERVED),
      {},
      async (stand) => {
        for (let nth = 0; nth < 6; nth++) expect(await stand.ask("bad")).not.toBe(200);
        expect(await stand.ask("good")).toBe(200);
        expect(pausedMs(stand)).toBeLessThanOrEqual(0);
        expect(await stand.states()).toBe("ready ready ready");
      },
    );
  });

  test("P10 is left alone for a while, and then asked by one request", async () => {
    let isWell = false;
    await scene(
      (_request, model) => (model === "bad" && !isWell ? BUSY : SERVED),
      {},
      async (stand) => {
        expect(await stand.ask("good")).toBe(200);
        for (let nth = 0; nth < 6; nth++) await stand.ask("bad");
        const before = stand.requests.length;
        expect(await stand.ask("bad")).toBe(503);
        expect(stand.requests.length).toBe(before);
        isWell = true;
        await stand.clock.advance(15_000);
        expect(await stand.ask("bad")).toBe(200);
        expect(await stand.ask("bad")).toBe(200);
      },
    );
  });

  test("P10 pauses the provider where a second model fails as well", async () => {
    await scene(
      (_request, model) => (model === "good" ? SERVED : BUSY),
      {},
      async (stand) => {
        for (let nth = 0; nth < 6; nth++) for (const model of ["one", "two"]) await stand.ask(model);
        expect(pausedMs(stand)).toBeGreaterThan(0);
        expect(await stand.ask("good")).toBe(503);
      },
    );
  });

  test("P10 pauses the provider where no other model is asked for", async () => {
    await scene(
      () => BUSY,
      {},
      async (stand) => {
        for (let nth = 0; nth < 6; nth++) await stand.ask("only");
        expect(pausedMs(stand)).toBeGreaterThan(0);
      },
    );
  });

  test("P10 is not to blame for a connection that breaks: the provider is", async () => {
    await scene(
      (_request, model) => (model === "good" ? SERVED : null),
      {},
      async (stand) => {
        for (let nth = 0; nth < 8; nth++) await stand.ask("one");
        expect(pausedMs(stand)).toBeGreaterThan(0);
      },
    );
  });
});

describe("the last key that can serve a model", () => {
  test("P36 P12 stays in use when one request is refused as if it were invalid, and the client gets that", async () => {
    let isPoison = false;
    await scene(
      ({ method, key }, model) => {
        if (method === "GET") return httpAnswer(200, '{"data":[]}'); // what a check gets
        if (model === "full" && key !== "key-0-canary") return LIMITED;
        return isPoison ? INVALID : SERVED;
      },
      { STRATEGY: "lru" },
      async (stand) => {
        for (let nth = 0; nth < 4; nth++) expect(await stand.ask("full")).toBe(200);
        isPoison = true;
        expect(await stand.ask("full")).toBe(401);
        isPoison = false;
        expect(await stand.ask("full")).toBe(200);
        expect(await stand.states()).toBe("ready ready ready");
      },
    );
  });
});

describe("a request that is refused with 401 or 403", () => {
  const isCheck = ({ target, method }: RawRequest) => method === "GET" && target === "/v1/models";
  const refusals: [what: string, answer: Buffer][] = [
    ["says that the key is invalid", INVALID],
    ["gives no reason", error(401, "Unauthorized")],
    ["is a bare 403", httpAnswer(403, "{}")],
    ["speaks of a missing permission", error(403, "You have insufficient permissions for this operation.")],
    ["says that the key was revoked", error(401, "This API key has been revoked.")],
  ];
  // A path for administrators said invalid_api_key to 20 ordinary keys: all 20 were out of use, for good.
  test.each(refusals)("P36 costs no key where a check proves them: it %s", async (_, answer) => {
    await scene(
      (request) => (isCheck(request) ? httpAnswer(200, '{"data":[]}') : answer),
      {},
      async ({ ask, states }) => {
        for (let nth = 0; nth < 5; nth++)
          expect([401, 403]).toContain(await ask("m", `/v1/organization/${nth}`));
        expect(await states()).toBe("ready ready ready");
      },
    );
  });

  test("P36 costs the last key nothing either, where a check proves it", async () => {
    await scene(
      (request) => (isCheck(request) ? httpAnswer(200, '{"data":[]}') : INVALID),
      { API_KEYS: "key-0-canary" },
      async ({ ask, states }) => {
        expect(await ask("m", "/v1/organization/keys")).toBe(401);
        expect(await states()).toBe("ready");
      },
    );
  });

  test("P36 takes keys out of use where a check says so", async () => {
    await scene(
      () => INVALID,
      {},
      async ({ ask, states }) => {
        expect(await ask("m")).toBe(503);
        expect(await states()).toBe("disabled disabled disabled");
      },
    );
  });

  test("P36 takes a key out of use where another one serves the same request", async () => {
    await scene(
      ({ key }) => (key === "key-0-canary" ? INVALID : SERVED),
      { PROVIDER: "nvidia" },
      async ({ ask, states }) => {
        expect(await ask("m")).toBe(200);
        expect(await states()).toBe("disabled ready ready");
      },
    );
  });

  test("P36 takes a key out of use, without a check, once a request of another kind confirms it", async () => {
    await scene(
      () => INVALID,
      { PROVIDER: "nvidia", API_KEYS: "key-0-canary" },
      async ({ ask, states, clock }) => {
        for (let nth = 0; nth < 3; nth++) {
          expect(await ask("m")).toBe(401);
          expect(await states()).toBe("ready");
          await clock.advance(5000);
        }
        await ask("m", "/v1/embeddings");
        expect(await states()).toBe("disabled");
      },
    );
  });

  const evil = (request: RawRequest, model: string) =>
    model === "evil" || request.target.includes("/organization");
  const alive = (request: RawRequest, model: string) =>
    isCheck(request) ? httpAnswer(200, '{"data":[]}') : evil(request, model) ? INVALID : SERVED;
  const kinds: [sentence: string, settings: Record<string, string>, models: (string | null)[]][] = [
    [
      "of two keys that a check proves",
      { API_KEYS: "key-0-canary,key-1-canary" },
      ["evil", null, "evil", null],
    ],
    [
      "of one key that a check proves",
      { API_KEYS: "key-0-canary" },
      ["evil", null, "evil", null, null, "evil"],
    ],
    [
      "of one key that was checked a moment ago",
      { API_KEYS: "key-0-canary" },
      ["evil", "evil", "evil", null],
    ],
    ["of three keys that a check proves", {}, ["evil", null, null, "evil", "evil", null, "evil", null]],
    [
      "of a key without a check that serves others in between",
      { PROVIDER: "nvidia", API_KEYS: "key-0-canary" },
      ["evil", "good", null, "good", "evil", "good", null],
    ],
    [
      "of two keys without a check that serve others in between",
      { PROVIDER: "nvidia", API_KEYS: "key-0-canary,key-1-canary" },
      ["evil", "good", "good", null, "good", "good", "evil", "good", "good", null],
    ],
  ];
  // Two requests of different kinds, seconds apart, put out both keys of a pool though each check found them well.
  test.each(kinds)("P36 is confirmed by none of another kind: %s", async (_, settings, models) => {
    await scene(alive, settings, async ({ ask, states, clock }) => {
      for (const model of models) {
        if (model === null) await ask("m", "/v1/organization/keys");
        else await ask(model);
        await clock.advance(3000);
      }
      expect(await states()).not.toContain("disabled");
      expect(await ask("good")).toBe(200);
    });
  });

  test("P36 has a key without a check tried again by a real request, more and more rarely", async () => {
    let isWell = false;
    await scene(
      ({ key }) => (key === "key-0-canary" && !isWell ? INVALID : SERVED),
      { PROVIDER: "nvidia" },
      async ({ ask, states, clock, engine }) => {
        const [first] = engine.upstreams[0].pool.keys;
        expect(await ask("m")).toBe(200);
        for (const minutes of [10, 20]) {
          expect(await states()).toBe("disabled ready ready");
          await clock.advance((minutes - 1) * MINUTE_MS);
          expect(await states()).toBe("disabled ready ready");
          await clock.advance(2 * MINUTE_MS);
          await until("it is tried again", () => first?.disabled === null);
          for (let nth = 0; nth < 3; nth++) expect(await ask("m")).toBe(200);
        }
        expect(await states()).toBe("disabled ready ready");
        isWell = true;
        await clock.advance(41 * MINUTE_MS);
        for (let nth = 0; nth < 3; nth++) expect(await ask("m")).toBe(200);
        expect(await states()).toBe("ready ready ready");
      },
    );
  });
});
