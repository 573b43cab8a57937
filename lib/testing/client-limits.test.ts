import { describe, expect, test } from "bun:test";
import { gzipSync } from "node:zlib";
import { parseConfig } from "../config/config.ts";
import { reconfigure } from "../../proxy.ts";
import { chat, httpAnswer, stage, startRawProvider, until } from "./fixture.ts";
import type { RawProvider, Stage } from "./fixture.ts";

const ANSWER = JSON.stringify({ id: "1", choices: [], usage: { prompt_tokens: 30, completion_tokens: 20 } });
const CLIENTS = "laptop=client-key-one,phone=client-key-two,client-key-three";

async function limited(
  limits: string,
  body: (staged: Stage, provider: RawProvider) => Promise<void>,
  settings: Record<string, string> = {},
): Promise<void> {
  await using provider = startRawProvider((request, connection) =>
    connection.write(httpAnswer(request.target.includes("missing") ? 404 : 200, ANSWER)),
  );
  const own = { API_KEYS: "key-one,key-two", PROVIDER: "generic", TARGET_BASE_URL: provider.url, RPM: "off" };
  await using staged = stage({
    settings: { ...own, PROXY_API_KEY: CLIENTS, CLIENT_LIMITS: limits, ...settings },
  });
  await body(staged, provider);
}

const as = (key: string): RequestInit => ({ headers: { authorization: `Bearer client-key-${key}` } });
const ask = async (staged: Stage, key: string, extra: Record<string, unknown> = {}) => {
  const response = await chat(staged.url, extra, as(key));
  return {
    status: response.status,
    retryAfter: response.headers.get("retry-after"),
    body: await response.json(),
  };
};

describe("a client beyond its limits", () => {
  test("gets a 429 that SDKs read, with a true Retry-After, and upstream is not asked", async () => {
    await limited("laptop = 2/min", async (staged, provider) => {
      const answers = [await ask(staged, "one"), await ask(staged, "one"), await ask(staged, "one")];
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 429]);
      const { retryAfter, body } = answers[2]!;
      expect(Number(retryAfter)).toBeWithin(58, 61);
      const error = {
        type: "client_limit",
        code: "client_limit",
        param: null,
        retry_after: Number(retryAfter),
      };
      expect(body).toMatchObject({ type: "error", error });
      expect(provider.requests).toHaveLength(2);
      expect((await ask(staged, "two")).status).toBe(200);
      const [line] = staged.logged().filter(({ event, status }) => event === "request" && status === 429);
      expect(line).toMatchObject({ outcome: "client_limit", client: "laptop", attempts: 0 });
    });
  });

  test("is let out exactly as often as it may be, however many ask at once", async () => {
    await limited("* = 25/day", async (staged, provider) => {
      const keys = ["one", "two", "three"];
      const answers = await Promise.all(
        keys.flatMap((key) => Array.from({ length: 40 }, () => ask(staged, key))),
      );
      expect(answers.filter(({ status }) => status === 200)).toHaveLength(75);
      expect(provider.requests).toHaveLength(75);
    });
  });

  test("gets back what never went out", async () => {
    const settings = { TARGET_BASE_URL: "http://127.0.0.1:1", MAX_ATTEMPTS: "1" };
    await limited(
      "laptop = 2/day",
      async (staged) => {
        for (let turn = 0; turn < 4; turn += 1) expect((await ask(staged, "one")).status).toBe(502);
        expect(staged.engine.clientLimiter.report()).toMatchObject([
          { client: "laptop", perDay: { used: 0 } },
        ]);
      },
      settings,
    );
  });

  test("may ask for lists, and for what is not there, without end", async () => {
    await limited("laptop = 1/day", async (staged, provider) => {
      for (let turn = 0; turn < 3; turn += 1) {
        expect((await fetch(`${staged.url}/v1/models`, as("one"))).status).toBe(200);
        expect(
          (await fetch(`${staged.url}/v1/missing`, { ...as("one"), method: "POST", body: "{}" })).status,
        ).toBe(404);
      }
      expect([(await ask(staged, "one")).status, (await ask(staged, "one")).status]).toEqual([200, 429]);
      expect(provider.requests).toHaveLength(7);
    });
  });

  test("has used the tokens that its answers named", async () => {
    await limited("laptop = 100 tokens/day", async (staged) => {
      const statuses = [];
      for (let turn = 0; turn < 3; turn += 1) statuses.push((await ask(staged, "one")).status);
      expect(statuses).toEqual([200, 200, 429]);
    });
  });

  const models: [says: string, init: RequestInit, path: string, status: number][] = [
    ["of its list", { body: '{"model":"llama-3"}' }, "/v1/chat/completions", 200],
    ["of no list", { body: '{"model":"gpt-4o"}' }, "/v1/chat/completions", 403],
    [
      "of its list before one of no list",
      { body: '{"model":"llama-3","model":"gpt-4o"}' },
      "/v1/chat/completions",
      403,
    ],
    [
      "of no list before one of its list",
      { body: '{"model":"gpt-4o","model":"llama-3"}' },
      "/v1/chat/completions",
      200,
    ],
    [
      "of no list in a packed body",
      { body: gzipSync('{"model":"gpt-4o"}'), headers: { "content-encoding": "gzip" } },
      "/v1/chat/completions",
      403,
    ],
    [
      "of its list in a packed body",
      { body: gzipSync('{"model":"llama-3"}'), headers: { "content-encoding": "gzip" } },
      "/v1/chat/completions",
      200,
    ],
    [
      "in a body that nobody can read",
      { body: "junk", headers: { "content-encoding": "gzip" } },
      "/v1/chat/completions",
      403,
    ],
    [
      "of no list to turn to beside one of its list",
      { body: '{"model":"llama-3","models":["llama-3","gpt-4o"]}' },
      "/v1/chat/completions",
      403,
    ],
    [
      "in a body that is packed and does not say so",
      { body: gzipSync('{"model":"gpt-4o"}') },
      "/v1/chat/completions",
      403,
    ],
    ["of no list in the query", { body: "{}" }, "/v1/listen?model=gpt-4o", 403],
    ["of its list in the query", { body: "{}" }, "/v1/listen?model=llama-3", 200],
    ["of no list as an engine", { body: "{}" }, "/v1/engines/gpt-4o/completions", 403],
    ["of no list in a path of Bedrock", { body: "{}" }, "/model/gpt-4o/invoke", 403],
    [
      "of no list in a plain form",
      { body: "model=gpt-4o", headers: { "content-type": "application/x-www-form-urlencoded" } },
      "/v1/x",
      403,
    ],
    ["of no list in a path", { body: "{}" }, "/v1beta/models/gemini-pro:generateContent", 403],
    [
      "of no list, longer than any name",
      { body: `{"model":"${"m".repeat(300)}"}` },
      "/v1/chat/completions",
      403,
    ],
    ["none", { body: "{}" }, "/v1/files", 200],
  ];
  test.each(models)("may use a model %s, or may not", async (_, init, path, status) => {
    await limited("laptop = models llama-*", async (staged, provider) => {
      const headers = { ...as("one").headers, "content-type": "application/json", ...init.headers };
      const response = await fetch(staged.url + path, { ...init, method: "POST", headers } as RequestInit);
      expect(response.status).toBe(status);
      expect(provider.requests).toHaveLength(status === 200 ? 1 : 0);
      if (status === 403)
        expect(await response.json()).toMatchObject({ error: { type: "model_not_allowed" } });
    });
  });

  test("goes by the last of two models on its way, too: no route is taken by the first", async () => {
    await limited(
      "laptop = models llama-*",
      async (staged, provider) => {
        await fetch(`${staged.url}/v1/chat/completions`, {
          ...as("one"),
          method: "POST",
          body: '{"model":"secret","model":"llama-3"}',
        });
        expect(provider.requests[0]?.body.toString()).toBe('{"model":"secret","model":"llama-3"}');
      },
      { ROUTES: "secret = default/gpt-4o" },
    );
  });

  test("sees in /health what it has left, and nobody else's", async () => {
    await limited("laptop = 20/min, 10/day, 1k tokens/day, models *; phone = 5/day", async (staged) => {
      await ask(staged, "one");
      await until("it is over", () => staged.engine.underWay.size === 0);
      const seen = async (key: string) => {
        const health: { client?: unknown } = JSON.parse(
          await (await fetch(`${staged.url}/health`, as(key))).text(),
        );
        return health.client;
      };
      expect(await seen("one")).toMatchObject({
        name: "laptop",
        requests_per_minute: { limit: 20, used: 1, left: 19 },
        requests_per_day: { limit: 10, used: 1, left: 9 },
        tokens_per_day: { limit: 1000, used: 50, left: 950 },
        models: ["*"],
      });
      expect(await seen("two")).toMatchObject({
        name: "phone",
        requests_per_day: { used: 0, left: 5, reset_sec: 0 },
      });
      expect(await seen("three")).toBeUndefined();
      expect(await seen("none")).toBeUndefined();
    });
  });

  test("is held to other limits after a reload, and what it used stays used", async () => {
    await limited("laptop = 9/day", async (staged) => {
      for (let turn = 0; turn < 3; turn += 1) await ask(staged, "one");
      const settings = { API_KEYS: "key-one", PROVIDER: "generic", TARGET_BASE_URL: "http://127.0.0.1:1" };
      const parsed = parseConfig({ ...settings, PROXY_API_KEY: CLIENTS, CLIENT_LIMITS: "laptop = 3/day" });
      if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
      reconfigure(staged.engine, parsed.config);
      expect((await ask(staged, "one")).status).toBe(429);
    });
  });
});
