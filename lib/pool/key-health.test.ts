import { describe, expect, test } from "bun:test";
import { judge, type CheckResult } from "./key-health.ts";
import { Secret } from "../core/secret.ts";
import { PROVIDERS } from "../providers/catalog.ts";
import { DIALECTS, type Dialect, type Evidence } from "../providers/verdict.ts";
import { MINUTE_MS } from "../core/clock.ts";
import { startProxy } from "../../proxy.ts";
import { parseConfig } from "../config/config.ts";
import { chat, FalseClock, httpAnswer, stage, startRawProvider, until } from "../testing/fixture.ts";
import type { RawRequest, Stage } from "../testing/fixture.ts";
import { createLog } from "../observability/log.ts";

const SECRET = new Secret("sk-canary0123456789");

describe("the answer to a check", () => {
  const answers: [says: string, dialect: Dialect, status: number, body: object, result: CheckResult][] = [
    ["a list of models proves the key", "openai", 200, { object: "list", data: [] }, "alive"],
    [
      "a stated reason is the end of a key",
      "openai",
      401,
      { error: { code: "invalid_api_key", message: "Incorrect API key provided" } },
      "dead",
    ],
    ["a bare 401 to this question is one too", "generic", 401, { message: "Unauthorized" }, "dead"],
    ["a bare 403 may be about the question", "openai", 403, { error: { message: "Forbidden" } }, "unknown"],
    [
      "a rate limit is of a key that lives",
      "openai",
      429,
      { error: { type: "rate_limit_error", message: "Rate limit reached" } },
      "limited",
    ],
    [
      "money that is used up is of a key that lives",
      "openai",
      429,
      {
        error: {
          type: "insufficient_quota",
          code: "insufficient_quota",
          message: "You exceeded your current quota",
        },
      },
      "limited",
    ],
    [
      "a provider that fails tells nothing of the key",
      "openai",
      500,
      { error: { message: "oops" } },
      "unreachable",
    ],
    [
      "a path that is not there tells nothing",
      "generic",
      404,
      { error: { message: "no such path" } },
      "unknown",
    ],
    ["an answer that points elsewhere tells nothing", "openai", 302, {}, "unknown"],
  ];
  test.each(answers)("%s", (_, dialect, status, body, result) => {
    const evidence = { status, headers: new Headers(), body: JSON.stringify(body) };
    expect(judge(dialect, evidence, SECRET, 0).result).toBe(result);
  });

  test("is quoted without the key that it repeats", () => {
    const error = { code: "invalid_api_key", message: `Incorrect key ${SECRET.reveal()}` };
    const body = JSON.stringify({ error });
    const { detail } = judge("openai", { status: 401, headers: new Headers(), body }, SECRET, 0);
    expect(detail).toBe("Incorrect key [redacted]");
  });

  test.each<[says: string, withoutKey: number | null, result: CheckResult]>([
    ["a list that is open to everybody proves no key", 200, "unknown"],
    ["a list that is refused without a key proves one", 401, "alive"],
    ["a list of which nobody knows proves no key", null, "unknown"],
  ])("%s", (_, status, result) => {
    const headers = new Headers();
    const body = JSON.stringify({ object: "list", data: [] });
    const withoutKey = status === null ? null : { status, headers, body };
    expect(judge("generic", { status: 200, headers, body }, SECRET, 0, withoutKey).result).toBe(result);
  });
});

const NOW = Date.UTC(2026, 10, 20, 12, 15, 7, 250);

const answer = (status: number, body: unknown, fields: Record<string, string> = {}): Evidence => ({
  status,
  headers: new Headers(fields),
  body: typeof body === "string" ? body : JSON.stringify(body),
});
const LIST = { object: "list", data: [{ id: "m" }] };
const REFUSED = answer(401, { error: "Unauthorized" });
const ANSWERED = answer(200, LIST);

describe("what the answer says of a doubted or dead key", () => {
  const answers: [
    sentence: string,
    dialect: Dialect,
    evidence: Evidence,
    says: CheckResult,
    withoutKey?: Evidence,
  ][] = [
    ["a list of models is for keys", "openai", answer(200, LIST), "alive"],
    ["a list that may be for everybody", "generic", answer(200, LIST), "unknown"],
    ["a list that everybody got", "generic", answer(200, LIST), "unknown", ANSWERED],
    ["a list that nobody gets without a key", "generic", answer(200, LIST), "alive", REFUSED],
    ["a question that nobody knows", "nvidia", answer(200, LIST), "unknown"],
    ["a bad key by its code", "openai", answer(401, { error: { code: "invalid_api_key", message: "No" } }), "dead"],
    ["a bad key as a 400", "gemini", answer(400, { error: { message: "API key not valid. Please pass one." } }), "dead"],
    ["a bare 401", "generic", answer(401, ""), "dead"],
    ["a bare 401 of one who doubts them otherwise", "moonshot", answer(401, { error: { message: "No" } }), "dead"],
    ["a 401 that is a page", "openai", answer(401, "<html><title>Log in</title></html>"), "unknown"],
    ["a bare 403", "openai", answer(403, {}), "unknown"],
    ["a 403 that lacks a right", "openai", answer(403, { error: "You lack permission" }), "unknown"],
    ["a 403 with a reason", "gemini", answer(403, { error: { message: "Your API key was reported as leaked." } }), "dead"],
    ["a region", "openai", answer(403, { error: { code: "unsupported_country_region_territory" } }), "unknown"],
    ["an edge that refuses", "openai", answer(403, "error code: 1020"), "unknown"],
    ["a limit", "openai", answer(429, {}), "limited"],
    ["a failure", "openai", answer(500, ""), "unreachable"],
    ["a page that says it is busy", "openai", answer(503, "<html>"), "unreachable"],
    ["a question it does not know", "openai", answer(404, ""), "unknown"],
    ["a way elsewhere", "openai", answer(302, "", { location: "/login" }), "unknown"],
    ["no money is the account's trouble, not the key's", "siliconflow", answer(402, {}), "limited"],
    ["an empty balance is not the key's either", "deepseek", answer(200, { is_available: false }), "limited"],
    ["a key of xAI that may go on", "xai", answer(200, { api_key_blocked: false, team_blocked: false }), "alive"],
    ["a key of xAI that is blocked", "xai", answer(200, { api_key_blocked: true }), "dead"],
    ["a key of xAI that is switched off", "xai", answer(200, { api_key_disabled: true }), "dead"],
    ["a team of xAI that is blocked", "xai", answer(200, { team_blocked: true }), "dead"],
    ["a token of Cloudflare", "cloudflare", answer(200, { success: true, result: { status: "active" } }), "alive"],
    ["a token of Cloudflare past its time", "cloudflare", answer(200, { result: { status: "expired" } }), "dead"],
    ["an answer that is no JSON", "xai", answer(200, "fine"), "alive"],
  ]; // prettier-ignore
  const rows = answers.map(
    ([sentence, dialect, evidence, says, withoutKey = null]) =>
      [`${sentence}: ${says}`, dialect, evidence, says, withoutKey] as const,
  );
  test.each(rows)("%s", (_, dialect, evidence, says, withoutKey) => {
    expect(judge(dialect, evidence, SECRET, NOW, withoutKey).result).toBe(says);
  });

  test("is asked without a key, too, where the list may be public", () => {
    expect(DIALECTS.filter((dialect) => PROVIDERS[dialect].proof?.mayBePublic)).toEqual([
      "sambanova",
      "github",
      "huggingface",
      "modelscope",
      "generic",
    ]);
  });
});

describe("what the answer says of an account without money", () => {
  const answers: [
    sentence: string,
    dialect: Dialect,
    evidence: Evidence,
    says: CheckResult,
  ][] = [
    ["DeepSeek says that it can pay", "deepseek", answer(200, { is_available: true, balance_infos: [] }), "alive"],
    ["DeepSeek says that it cannot", "deepseek", answer(200, { is_available: false }), "limited"],
    ["OpenRouter's key has something left of its cap", "openrouter", answer(200, { data: { limit: 5, limit_remaining: 0.25 } }), "alive"],
    ["OpenRouter's key has nothing left", "openrouter", answer(200, { data: { limit: 5, limit_remaining: 0 } }), "limited"],
    ["OpenRouter's key has no cap, which says nothing of the account", "openrouter", answer(200, { data: { limit: null, limit_remaining: null } }), "limited"],
    ["Moonshot's balance", "moonshot", answer(200, { code: 0, data: { available_balance: 12.5 } }), "alive"],
    ["Moonshot's debt", "moonshot", answer(200, { code: 0, data: { available_balance: -0.5 } }), "limited"],
    ["SiliconFlow's balance, which is a text", "siliconflow", answer(200, { code: 20000, data: { totalBalance: "3.10" } }), "alive"],
    ["SiliconFlow's empty balance", "siliconflow", answer(200, { code: 20000, data: { totalBalance: "0.00" } }), "limited"],
    ["an answer without the amount says nothing", "deepseek", answer(200, "{}"), "limited"],
    ["an answer that is no JSON says nothing", "moonshot", answer(200, "<html>"), "limited"],
    ["no money is no news", "deepseek", answer(402, {}), "limited"],
    ["a dead key is", "deepseek", answer(401, { error: { message: "Authentication Fails, Your api key: ****cafe is invalid" } }), "dead"],
  ]; // prettier-ignore
  test.each(answers)("%s", (_, dialect, evidence, says) => {
    expect(judge(dialect, evidence, SECRET, NOW).result).toBe(says);
  });
});

const SERVED = httpAnswer(
  200,
  '{"id":"1","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}',
);
const MODELS = httpAnswer(200, '{"object":"list","data":[]}');
const BARE = httpAnswer(403, "{}");
const DEAD = httpAnswer(401, '{"error":{"message":"Incorrect API key provided.","code":"invalid_api_key"}}');

interface CheckStage extends Stage {
  readonly clock: FalseClock;
  /** How often each key was asked after with `GET /v1/models`, by its name. */
  asked(name: string): number;
  states(): Promise<string[]>;
}

/** A proxy with three keys: `answer` is what a chat with key 0 gets, `proof` what a question about it gets. */
async function withKeys(
  { answer, proof }: { answer: Buffer; proof: () => Buffer },
  body: (stage: CheckStage) => Promise<void>,
): Promise<void> {
  const clock = new FalseClock();
  const isFirst = ({ key }: RawRequest) => key === "key-0-canary";
  await using provider = startRawProvider((request, connection) => {
    if (request.target === "/v1/models") connection.write(isFirst(request) ? proof() : MODELS);
    else connection.write(isFirst(request) ? answer : SERVED);
  });
  const settings = {
    API_KEYS: "key-0-canary,key-1-canary,key-2-canary",
    TARGET_BASE_URL: provider.url,
    PROVIDER: "openai",
  };
  await using staged = stage({ settings, clock });
  await body({
    ...staged,
    clock,
    asked: (name) =>
      provider.requests.filter(({ target, key }) => target === "/v1/models" && key === name).length,
    states: async () => ((await staged.health()).providers[0]?.keys ?? []).map(({ state }) => state),
  });
}

describe("a key that was refused without a reason (P12)", () => {
  test("is asked after at once, and is dead when the provider then says so", async () => {
    await withKeys({ answer: BARE, proof: () => DEAD }, async ({ url, engine, asked, states, health }) => {
      expect((await chat(url)).status).toBe(200);
      await until("it is out of use", () => engine.upstreams[0].pool.keys[0]?.disabled !== null);
      expect(await states()).toEqual(["disabled", "ready", "ready"]);
      expect((await health()).providers[0]?.keys[0]?.reason).toBe("invalid_key");
      expect(asked("key-0-canary")).toBe(1);
    });
  });

  test("is back at once where it proves to be alive", async () => {
    await withKeys({ answer: BARE, proof: () => MODELS }, async ({ url, engine, states, logged }) => {
      expect((await chat(url)).status).toBe(200);
      await until("it is back", () => engine.upstreams[0].pool.keys[0]?.account.cooldown === null);
      expect(await states()).toEqual(["ready", "ready", "ready"]);
      engine.log.flush();
      expect(logged().map(({ event }) => event)).toEqual(expect.arrayContaining(["key_doubted", "key_back"]));
    });
  });

  test("rests, and no more, where the question cannot be answered either", async () => {
    const busy = httpAnswer(503, "{}");
    await withKeys({ answer: BARE, proof: () => busy }, async ({ url, asked, states, clock }) => {
      expect((await chat(url)).status).toBe(200);
      await until("it was asked after", () => asked("key-0-canary") === 1);
      expect(await states()).toEqual(["cooling", "ready", "ready"]);
      await clock.advance(MINUTE_MS + 1);
      expect(await states()).toEqual(["ready", "ready", "ready"]);
    });
  });
});

describe("a dead key (P12)", () => {
  test("is asked after again after 10 minutes, then after 20, and comes back when it lives", async () => {
    let isAlive = false;
    const proof = () => (isAlive ? MODELS : DEAD);
    await withKeys({ answer: DEAD, proof }, async ({ url, asked, states, clock, engine }) => {
      expect((await chat(url)).status).toBe(200);
      expect(await states()).toEqual(["disabled", "ready", "ready"]);
      expect(asked("key-0-canary")).toBe(0);
      await clock.advance(10 * MINUTE_MS);
      await until("it was asked after", () => asked("key-0-canary") === 1);
      await clock.advance(10 * MINUTE_MS);
      expect(asked("key-0-canary")).toBe(1);
      isAlive = true;
      await clock.advance(10 * MINUTE_MS);
      await until("it is back", () => engine.upstreams[0].pool.keys[0]?.disabled === null);
      expect(asked("key-0-canary")).toBe(2);
      expect(await states()).toEqual(["ready", "ready", "ready"]);
    });
  });

  test("P33 is asked after also where it was found dead in an earlier run", async () => {
    const clock = new FalseClock();
    await using provider = startRawProvider((_request, connection) => connection.write(MODELS));
    const parsed = parseConfig({
      API_KEYS: "key-0-canary",
      TARGET_BASE_URL: provider.url,
      PROVIDER: "openai",
      HOST: "127.0.0.1",
      PORT: "0",
    });
    if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
    const { id } = parsed.config.providers[0].keys[0]!.secret;
    const stored = { disabled: { reason: "invalid_key", at: 1, said: "no" } };
    const keeper = { keyStates: () => new Map([[id, stored]]), saveKey() {} };
    const log = createLog({ level: "error", format: "json", clock, write() {} });
    const proxy = startProxy(parsed.config, { clock, random: () => 0.5, log, keeper });
    try {
      const [key] = proxy.engine.upstreams[0].pool.keys;
      expect(key?.disabled).not.toBeNull();
      await clock.advance(10 * MINUTE_MS);
      await until("it is back", () => key?.disabled === null);
    } finally {
      await proxy.stop();
    }
  });
});
