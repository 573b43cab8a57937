/**
 * Answers that once cost keys, or a provider, which were not to blame; each was seen by a client.
 */
import { describe, expect, test } from "bun:test";

import { chat, FalseClock, httpAnswer, stage, startRawProvider, until } from "./fixture.ts";
import type { RawRequest, Stage } from "./fixture.ts";

const SERVED = httpAnswer(
  200,
  '{"id":"1","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}',
);
const json = (value: unknown) => JSON.stringify(value);
const KEYS = (count: number) => Array.from({ length: count }, (_, index) => `key-${index}-canary`).join(",");

interface ScriptedStage extends Stage {
  readonly clock: FalseClock;
  readonly requests: readonly RawRequest[];
  states(): Promise<string>;
}

/** A proxy in front of a provider that answers by script. */
async function withProvider(
  answer: (request: RawRequest) => Buffer,
  settings: Record<string, string>,
  body: (staged: ScriptedStage) => Promise<void>,
): Promise<void> {
  const clock = new FalseClock();
  await using provider = startRawProvider((request, connection) => connection.write(answer(request)));
  const own = { API_KEYS: KEYS(3), TARGET_BASE_URL: provider.url, PROVIDER: "openai", MAX_WAIT_SEC: "30" };
  await using staged = stage({ settings: { ...own, ...settings }, clock });
  const states = async () =>
    ((await staged.health()).providers[0]?.keys ?? []).map(({ state }) => state).join(" ");
  await body({ ...staged, clock, requests: provider.requests, states });
}

describe("what is fetched", () => {
  // A stored file held an error of another provider: all keys were taken for dead, with one download.
  test("P12 costs no key, whatever is in it", async () => {
    const file = httpAnswer(
      200,
      json({ error: { message: "Incorrect API key provided", code: "invalid_api_key" } }),
    );
    await withProvider(
      () => file,
      {},
      async ({ url, states, requests }) => {
        const response = await fetch(`${url}/v1/files/file-abc1/content`);
        expect([
          response.status,
          ((await response.json()) as { error: { code: string } }).error.code,
        ]).toEqual([200, "invalid_api_key"]);
        expect([await states(), requests.length]).toEqual(["ready ready ready", 1]);
      },
    );
  });

  // A video that failed was asked after four times: the fifth client was told that the provider is down.
  test("P10 is no failure of the provider where a piece of work failed", async () => {
    const failed = {
      name: "models/veo/operations/abc1",
      done: true,
      error: { code: 13, message: "Failed." },
    };
    await withProvider(
      () => httpAnswer(200, json(failed)),
      { PROVIDER: "gemini" },
      async ({ url, requests }) => {
        for (let nth = 1; nth <= 7; nth++) {
          expect((await fetch(`${url}/v1beta/models/veo/operations/abc1`)).status).toBe(200);
          expect(requests.length).toBe(nth);
        }
      },
    );
  });
});

describe("the provider behind a gateway", () => {
  const raw = json({ error: { message: "Incorrect API key provided: sk-ab***", code: "invalid_api_key" } });
  test.each<[sentence: string, status: number, metadata: object]>([
    [
      "P12 that refuses the key which an account brought along costs no key of the gateway",
      401,
      { raw, provider_name: "OpenAI", is_byok: true },
    ],
    [
      "P12 that is not paid by the gateway costs no key of it",
      402,
      { raw: "Insufficient Balance", provider_name: "DeepSeek" },
    ],
  ])("%s", async (_, status, metadata) => {
    const refusal = httpAnswer(
      status,
      json({ error: { message: "Provider returned error", code: status, metadata } }),
    );
    const isBad = ({ body }: RawRequest) => body.toString().includes('"bad"');
    await withProvider(
      (request) => (isBad(request) ? refusal : SERVED),
      { PROVIDER: "openrouter" },
      async ({ url, states }) => {
        await chat(url, { body: json({ model: "bad", messages: [] }) });
        expect(await states()).toBe("ready ready ready");
        expect((await chat(url)).status).toBe(200);
      },
    );
  });
});

describe("a gateway whose model is full", () => {
  // Three keys got it within seconds: the provider was left alone for all models.
  test.each<[sentence: string, message: string, code: string]>([
    ["saturated, beside a code of money", "The upstream group is saturated", "insufficient_quota"],
    ["overloaded, beside a code of money", "Model server overloaded, sorry", "insufficient_balance"],
    ["busy, beside a code of money", "engine busy", "insufficient_user_quota"],
    ["a request to try later, beside a code of money", "No channel, try again later", "insufficient_quota"],
    ["full in Chinese", "上游负载已饱和", "x"],
    ["busy in Japanese", "サーバーが混雑しています", "x"],
  ])("P40 touches no other model: %s", async (_, message, code) => {
    const refusal = httpAnswer(429, json({ error: { message, code } }));
    const isFull = ({ body }: RawRequest) => body.toString().includes('"full"');
    await withProvider(
      (request) => (isFull(request) ? refusal : SERVED),
      { PROVIDER: "generic", MAX_WAIT_SEC: "5" },
      async ({ url, states, health }) => {
        for (let nth = 1; nth <= 3; nth++) expect((await chat(url, { model: "full" })).status).toBe(503);
        expect([await states(), (await health()).providers[0]?.state]).toEqual(["ready ready ready", "up"]);
        expect((await chat(url, { model: "other" })).status).toBe(200);
      },
    );
  });
});

describe("a refusal that is about one model", () => {
  // Three keys got the first: the provider was paused. One got the second: the account rested for five hours.
  test.each<[sentence: string, provider: string, status: number, message: string, code: string]>([
    ["a limit that names it", "generic", 429, "Rate limit reached for model bad", ""],
    ["a limit that begins with it", "siliconflow", 429, "bad: too many requests", ""],
    ["too many at once", "together", 429, "Too many concurrent requests for model bad", ""],
    ["a day", "nvidia", 429, "Daily limit reached for this model", ""],
    [
      "an account that has to be paid for",
      "zhipu",
      402,
      "Insufficient credits. This model requires a paid account",
      "",
    ],
    ["a paid model", "github", 402, "Upgrade to use this model", "insufficient_balance"],
    [
      "a model that is full, under a code of money",
      "openai",
      400,
      "It is overloaded, try again later",
      "insufficient_quota",
    ],
    ["the same as a 403", "mistral", 403, "It is overloaded, try again later", "insufficient_balance"],
  ])("P40 P16 touches no other model: %s", async (_, provider, status, message, code) => {
    const refusal = httpAnswer(status, json({ error: { message, code } }));
    const isBad = ({ body }: RawRequest) => body.toString().includes('"bad"');
    await withProvider(
      (request) => (isBad(request) ? refusal : SERVED),
      { PROVIDER: provider, MAX_WAIT_SEC: "0" },
      async ({ url, states, health, requests }) => {
        expect((await chat(url, { model: "bad" })).status).toBe(503);
        expect(requests.length).toBe(3);
        expect([await states(), (await health()).providers[0]?.state]).toEqual(["ready ready ready", "up"]);
        expect((await chat(url, { model: "other" })).status).toBe(200);
      },
    );
  });
});

describe("a refusal that all accounts get alike", () => {
  const CHAT = "/v1/chat/completions";
  const GEMINI = "/v1beta/models/m:generateContent";
  const cached = "CachedContent not found (or permission denied)";
  // Each account was kept from the model for six hours, by one request.
  test.each<[sentence: string, provider: string, path: string, status: number, message: string]>([
    ["a cache of nobody's", "gemini", GEMINI, 403, cached],
    ["a file of nobody's", "gemini", GEMINI, 403, "You may not access the File x or it may not exist."],
    ["a permission at Google", "gemini", GEMINI, 403, "Permission 'x' denied on resource 'y'."],
    [
      "a feature for verified accounts",
      "openai",
      CHAT,
      403,
      "Your organization must be verified to stream this model.",
    ],
    ["a batch of nobody's", "mistral", CHAT, 403, "You have no access to batch b-1"],
    ["a model for nobody", "generic", CHAT, 403, "You do not have access to this model"],
    ["a model for subscribers", "ollama", CHAT, 403, "this model requires a subscription"],
    [
      "a model that may not be there",
      "groq",
      CHAT,
      404,
      "The model does not exist or you do not have access to it",
    ],
  ])(
    "P36 costs none of them the model, and goes to the client: %s",
    async (_, provider, path, status, message) => {
      const code = path === GEMINI ? { status: "PERMISSION_DENIED" } : {};
      const refusal = json({ error: { message, ...code } });
      const isBad = ({ body }: RawRequest) => body.toString().includes("poison");
      await withProvider(
        (request) => (isBad(request) ? httpAnswer(status, refusal) : SERVED),
        { PROVIDER: provider },
        async ({ url, states, health, requests }) => {
          const ask = (content: string) =>
            fetch(`${url}${path}`, { method: "POST", body: json({ model: "m", contents: [{ content }] }) });
          const answer = await ask("poison");
          expect([answer.status, await answer.text()]).toEqual([status, refusal]);
          expect(new Set(requests.map(({ key }) => key)).size).toBe(3);
          const keys = (await health()).providers[0]?.keys ?? [];
          expect([await states(), keys.map(({ models }) => models)]).toEqual([
            "ready ready ready",
            [{}, {}, {}],
          ]);
          for (let nth = 0; nth < 3; nth++) expect((await ask("good")).status).toBe(200);
          expect(new Set(requests.slice(-3).map(({ key }) => key)).size).toBe(3);
        },
      );
    },
  );

  test("P16 save where another account is served the same: then they are asked last", async () => {
    const refusal = httpAnswer(403, json({ error: { message: "You do not have access to this model" } }));
    await withProvider(
      ({ key }) => (key === "key-2-canary" ? SERVED : refusal),
      { PROVIDER: "generic" },
      async ({ url, requests, health }) => {
        for (let nth = 0; nth < 4; nth++) expect((await chat(url)).status).toBe(200);
        expect(requests.map(({ key }) => key?.at(4)).join("")).toBe("012222");
        const keys = (await health()).providers[0]?.keys ?? [];
        expect(keys.map(({ models }) => json(models).includes("no_access"))).toEqual([true, true, false]);
      },
    );
  });

  test("P36 costs none of them the model either where two requests are refused alike", async () => {
    const refusal = httpAnswer(403, json({ error: { message: "No permission for this" } }));
    let nth = 0;
    await withProvider(
      () => (nth++ < 2 ? refusal : httpAnswer(400, "{}")),
      { PROVIDER: "generic", MAX_ATTEMPTS: "1" },
      async ({ url, health }) => {
        await chat(url, { model: "m" });
        await chat(url, { model: "m" });
        const keys = (await health()).providers[0]?.keys ?? [];
        expect(keys.map(({ models }) => models)).toEqual([{}, {}, {}]);
      },
    );
  });
});

describe("a refusal of the only key", () => {
  // The client got our 503, which its program asks again for; the key was well all the time.
  test.each<[sentence: string, provider: string, status: number, message: string]>([
    [
      "a picture that is not there",
      "openai",
      403,
      "Error while downloading https://a.example/y.png: 403 Forbidden",
    ],
    ["a link that cannot be read", "together", 403, "Failed to fetch the image"],
    ["no reason", "openai", 403, "Forbidden"],
    ["no reason, where no key can be checked", "nvidia", 403, "Authorization failed"],
    ["no reason, where a check tells nothing", "generic", 403, "Forbidden"],
    ["no reason, as a 401", "groq", 401, "Unauthorized"],
    ["an odd request, as a 401", "moonshot", 401, "Bad request signature"],
    ["a permission", "generic", 403, "You have no permission for this"],
    ["a feature of other accounts", "openai", 403, "Your organization must be verified to stream"],
  ])("P8 P38 goes to the client as it came where the key works: %s", async (_, provider, status, message) => {
    const refusal = json({ error: { message } });
    const isBad = ({ body }: RawRequest) => body.toString().includes("poison");
    const answer = (request: RawRequest) => {
      if (request.method === "GET" && request.key === undefined) return httpAnswer(401, "{}");
      return isBad(request) ? httpAnswer(status, refusal) : SERVED;
    };
    await withProvider(answer, { PROVIDER: provider, API_KEYS: KEYS(1) }, async ({ url, states }) => {
      for (let nth = 0; nth < 3; nth++) {
        const response = await chat(url, { model: "poison" });
        expect([response.status, await response.text()]).toEqual([status, refusal]);
        expect(await states()).toBe("ready");
      }
      expect((await chat(url)).status).toBe(200);
    });
  });

  test("P12 is still our 503 where a check says that the key is dead", async () => {
    await withProvider(
      () => httpAnswer(401, json({ error: { message: "Unauthorized", code: "invalid_api_key" } })),
      { API_KEYS: KEYS(1) },
      async ({ url, states }) => {
        expect((await chat(url)).status).toBe(503);
        expect(await states()).toBe("disabled");
      },
    );
  });

  test("P5 two keys of one account are both asked before", async () => {
    const refusal = httpAnswer(403, json({ error: { message: "Forbidden" } }));
    await withProvider(
      ({ key }) => (key === "key-1-canary" ? SERVED : refusal),
      { PROVIDER: "nvidia", API_KEYS: "a@key-0-canary,a@key-1-canary" },
      async ({ url, requests }) => {
        expect((await chat(url)).status).toBe(200);
        expect(requests.length).toBe(2);
      },
    );
  });
});

describe("words of the client", () => {
  // A gateway quoted the prompt in its refusal: all keys were disabled as revoked.
  test.each<[sentence: string, prompt: string, model: string]>([
    ["a prompt", "Is it true that the api key was revoked?", "m"],
    ["a model", "hi", "m (api key expired)"],
  ])("P37 judge no key where an error quotes them: %s", async (_, prompt, model) => {
    const quoted = prompt === "hi" ? model : prompt;
    const refusal = httpAnswer(403, json({ error: { message: `Refused "${quoted}" by policy 7` } }));
    const isQuoted = ({ body }: RawRequest) => body.toString().includes(json(quoted));
    await withProvider(
      (request) => (isQuoted(request) ? refusal : SERVED),
      { PROVIDER: "generic" },
      async ({ url, states, requests }) => {
        await chat(url, { model, messages: [{ role: "user", content: prompt }] });
        expect(requests.length).toBeGreaterThan(0);
        expect(await states()).not.toContain("disabled");
        expect((await chat(url)).status).toBe(200);
      },
    );
  });
});

describe("words of the client that stand elsewhere than in a plain body", () => {
  const words = "insufficient balance, please recharge";
  const body = json({ model: "m", messages: [{ role: "user", content: `so: ${words}` }] });
  const escaped = encodeURIComponent(words);
  test.each<[sentence: string, path: string, init: RequestInit]>([
    ["in the path", `/v1/${escaped}`, { body: "{}" }],
    ["in the query", `/v1/chat/completions?user=${escaped.replaceAll("%20", "+")}`, { body: "{}" }],
    ["in a query beside an escape that is none", `/v1/x?a=%zz&user=${escaped}`, { body: "{}" }],
    ["in a form", "/v1/x", { body: `prompt=${escaped.toUpperCase().replaceAll("%2C", "%2c")}` }],
    ["in a form with a plus", "/v1/x", { body: new URLSearchParams({ prompt: words }) }],
    ["in other case", "/v1/x", { body: json({ prompt: words.toUpperCase() }) }],
    [
      "in escapes",
      "/v1/x",
      {
        body: `{"prompt":"${[...words].map((char) => `\\u00${char.charCodeAt(0).toString(16)}`).join("")}"}`,
      },
    ],
    ["in a field", "/v1/chat/completions", { body: "{}", headers: { "x-project": words } }],
    [
      "in a packed body",
      "/v1/chat/completions",
      { body: Bun.gzipSync(body), headers: { "content-encoding": "gzip" } },
    ],
  ])("P37 judge no key: %s", async (_, path, init) => {
    const refusal = httpAnswer(403, json({ error: { message: `Refused: ${words} (policy 7)` } }));
    let isAsked = false;
    await withProvider(
      () => (isAsked ? SERVED : refusal),
      { PROVIDER: "generic" },
      async ({ url, states }) => {
        const response = await fetch(`${url}${path}`, { method: "POST", ...init });
        expect([response.status, await response.json()]).toEqual([
          403,
          { error: { message: `Refused: ${words} (policy 7)` } },
        ]);
        expect(await states()).toBe("ready ready ready");
        isAsked = true;
        expect((await chat(url)).status).toBe(200);
      },
    );
  });
});

describe("a model that costs money", () => {
  const refusal = httpAnswer(402, json({ error: { message: "Insufficient balance for this model" } }));
  const isPaid = ({ body }: RawRequest) => body.toString().includes('"paid');
  const asking = (model: string) => ({ model, messages: [] });

  test("P40 rests no other model, and a second one rests the keys", async () => {
    await withProvider(
      (request) => (isPaid(request) ? refusal : SERVED),
      { PROVIDER: "generic" },
      async ({ url, states }) => {
        await chat(url, asking("paid-1"));
        expect(await states()).toBe("ready ready ready");
        expect((await chat(url, asking("free"))).status).toBe(200);
        await chat(url, asking("paid-2"));
        expect(await states()).toBe("cooling cooling cooling");
      },
    );
  });

  test("P40 rests the keys at once where the provider's own words mean the account", async () => {
    await withProvider(
      (request) => (isPaid(request) ? refusal : SERVED),
      { PROVIDER: "deepseek" },
      async ({ url, states }) => {
        await chat(url, asking("paid-1"));
        expect(await states()).toBe("cooling cooling cooling");
      },
    );
  });
});

describe("a good status with an error behind it", () => {
  // A gateway sent line ends while it waited, then said that the key was at its limit: the client got that.
  test("P20 is seen behind white space, too", async () => {
    const late = json({ error: { message: "Rate limit exceeded", code: 429 } });
    const head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    const chunked = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`;
    const refusal = Buffer.from(`${head}${chunked("\n      \n")}${chunked(late)}0\r\n\r\n`);
    const isFirst = ({ key }: RawRequest) => key === "key-0-canary";
    await withProvider(
      (request) => (isFirst(request) ? refusal : SERVED),
      {},
      async ({ url, requests }) => {
        const response = await chat(url);
        expect([response.status, requests.length]).toEqual([200, 2]);
        expect(await response.text()).toContain("hello");
      },
    );
  });

  // A stream that called itself packed and was not never ended, and its place was never given back.
  test("P1 ends where it is not packed as it says", async () => {
    const body = 'data: {"choices":[]}\n\ndata: [DONE]\n\n';
    const fields = { "content-type": "text/event-stream", "content-encoding": "gzip" };
    await withProvider(
      () => httpAnswer(200, body, fields),
      {},
      async ({ url, engine }) => {
        const response = await fetch(`${url}/v1/chat/completions`, {
          method: "POST",
          body: "{}",
          decompress: false,
        });
        await response.text().catch(() => "");
        await until("nothing is under way", () => engine.inFlight === 0);
        expect(engine.upstreams[0].pool.keys.map(({ inFlight }) => inFlight)).toEqual([0, 0, 0]);
      },
    );
  });
});

describe("a refusal without a hint", () => {
  const bare = httpAnswer(429, "Too Many Requests", { "content-type": "text/plain" });

  // Keys that had been busy were taken to be at limits of their own, one after another, until none was left.
  test("P11 does not walk a busy pool either", async () => {
    let isShut = false;
    await withProvider(
      () => (isShut ? bare : SERVED),
      { API_KEYS: KEYS(10), PROVIDER: "nvidia", MAX_WAIT_SEC: "4" },
      async (staged) => {
        for (let nth = 0; nth < 120; nth++) await (await chat(staged.url)).text();
        isShut = true;
        const before = staged.requests.length;
        const late = chat(staged.url);
        await until(
          "the provider is paused",
          () => staged.engine.upstreams[0].pool.pausedUntil > staged.clock.now(),
        );
        expect(staged.requests.length - before).toBe(3);
        await staged.clock.advance(4001);
        expect((await late).status).toBe(503);
        expect((await staged.states()).split(" ").filter((state) => state === "ready").length).toBe(7);
      },
    );
  });

  // Once an address had been limited, a single key at its own limit shut the pool for everybody.
  test("P5 of one key is its own, also after everybody was refused once", async () => {
    let refuses = (_: RawRequest) => true;
    await withProvider(
      (request) => (refuses(request) ? bare : SERVED),
      { API_KEYS: KEYS(8), PROVIDER: "generic" },
      async (staged) => {
        const first = chat(staged.url);
        await until(
          "the provider is paused",
          () => staged.engine.upstreams[0].pool.pausedUntil > staged.clock.now(),
        );
        refuses = () => false;
        while (staged.engine.inFlight > 0) await staged.clock.advance(1000);
        expect((await first).status).toBe(200);
        await staged.clock.advance(60_000);
        refuses = ({ key }) => key === "key-3-canary";
        for (let nth = 0; nth < 10; nth++) {
          const asked = chat(staged.url);
          while (staged.engine.inFlight > 0) await staged.clock.advance(100);
          expect((await asked).status).toBe(200);
          await staged.clock.advance(2000);
        }
        expect(staged.engine.upstreams[0].pool.pausedUntil).toBeLessThan(staged.clock.now());
      },
    );
  });
});
