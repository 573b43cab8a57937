import { describe, expect, test } from "bun:test";
import { MINUTE_MS } from "../core/clock.ts";
import { startProxy } from "../../proxy.ts";
import { parseConfig } from "../config/config.ts";
import { chat, FalseClock, httpAnswer, stage, startRawProvider, until } from "../testing/fixture.ts";
import type { RawRequest, Stage } from "../testing/fixture.ts";
import { createLog } from "../observability/log.ts";

const SERVED = httpAnswer(
  200,
  '{"id":"1","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}',
);
const MODELS = httpAnswer(200, '{"object":"list","data":[]}');
const BARE = httpAnswer(403, "{}");
const DEAD = httpAnswer(401, '{"error":{"message":"Incorrect API key provided.","code":"invalid_api_key"}}');

interface Ward extends Stage {
  readonly clock: FalseClock;
  /** How often each key was asked after with `GET /v1/models`, by its name. */
  asked(name: string): number;
  states(): Promise<string[]>;
}

/** A proxy with three keys: `answer` is what a chat with key 0 gets, `proof` what a question about it gets. */
async function ward(
  { answer, proof }: { answer: Buffer; proof: () => Buffer },
  body: (ward: Ward) => Promise<void>,
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
    await ward({ answer: BARE, proof: () => DEAD }, async ({ url, engine, asked, states, health }) => {
      expect((await chat(url)).status).toBe(200);
      await until("it is out of use", () => engine.upstreams[0].pool.keys[0]?.disabled !== null);
      expect(await states()).toEqual(["disabled", "ready", "ready"]);
      expect((await health()).providers[0]?.keys[0]?.reason).toBe("invalid_key");
      expect(asked("key-0-canary")).toBe(1);
    });
  });

  test("is back at once where it proves to be alive", async () => {
    await ward({ answer: BARE, proof: () => MODELS }, async ({ url, engine, states, logged }) => {
      expect((await chat(url)).status).toBe(200);
      await until("it is back", () => engine.upstreams[0].pool.keys[0]?.owner.cooldown === null);
      expect(await states()).toEqual(["ready", "ready", "ready"]);
      engine.log.flush();
      expect(logged().map(({ event }) => event)).toEqual(expect.arrayContaining(["key_doubted", "key_back"]));
    });
  });

  test("rests, and no more, where the question cannot be answered either", async () => {
    const busy = httpAnswer(503, "{}");
    await ward({ answer: BARE, proof: () => busy }, async ({ url, asked, states, clock }) => {
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
    await ward({ answer: DEAD, proof }, async ({ url, asked, states, clock, engine }) => {
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
