import { afterEach, describe, expect, test } from "bun:test";
import { startProxy } from "../../proxy.ts";
import type { Proxy } from "../cli/serve.ts";
import { parseConfig } from "../config/config.ts";
import { systemClock } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import { createLog } from "../observability/log.ts";
import { SharedUsage } from "../observability/shared-usage.ts";
import { Usage } from "../observability/usage.ts";
import { ServerRefusal, openSharedPool } from "../sharing/shared-pool.ts";
import type { SharedPool } from "../sharing/shared-pool.ts";
import { FakeRedis } from "./fake-redis.ts";
import { until } from "./fixture.ts";

const KEYS = ["sk-many-test-key-one-0001", "sk-many-test-key-two-0002"];

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

function startRedis(): FakeRedis {
  const redis = new FakeRedis();
  cleanups.push(() => redis.stop());
  return redis;
}

/** A provider that notes which key came, and answers by script; null: it serves. */
function startUpstream(answer: (request: Request, key: string) => Response | null = () => null) {
  const keys: string[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const key = request.headers.get("authorization")?.replace("Bearer ", "") ?? "";
      await request.arrayBuffer();
      keys.push(key);
      return answer(request, key) ?? Response.json({ id: "chatcmpl-1", choices: [] });
    },
  });
  cleanups.push(() => server.stop(true));
  return { url: `http://127.0.0.1:${server.port}/v1`, keys };
}

interface Instance {
  readonly proxy: Proxy;
  readonly sharing: SharedPool;
  readonly usage: Usage;
  readonly said: () => string;
  ask(headers?: Record<string, string>): Promise<number>;
  health(): Promise<Health>;
}

interface Health {
  state_store: string;
  instances: { id: string; since: string; seen_sec: number }[];
  providers: { state: string; keys: (Record<string, unknown> & { models: Record<string, unknown> })[] }[];
}

async function startInstance(
  redis: FakeRedis,
  upstream: { url: string },
  settings: Record<string, string> = {},
  clock: Clock = systemClock,
): Promise<Instance> {
  const parsed = parseConfig({
    HOST: "127.0.0.1",
    PORT: "0",
    PROVIDER: "openai",
    API_KEYS: KEYS.join(","),
    TARGET_BASE_URL: upstream.url,
    STATE: redis.url,
    MAX_WAIT_SEC: "0",
    LOG_FORMAT: "json",
    ...settings,
  });
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  const { config } = parsed;
  const { stateServer, logLevel } = config;
  if (stateServer === null) throw new Error("no server");
  let text = "";
  const log = createLog({ level: logLevel, format: "json", clock, write: (line) => (text += line) });
  const newToken = () => Buffer.from(crypto.getRandomValues(new Uint8Array(9))).toString("hex");
  const usage = new Usage();
  const shared = new SharedUsage(usage);
  const options = { server: stateServer, clock, log, newToken, usage: shared };
  const sharing = await openSharedPool(options, config.providers);
  const proxy = startProxy(config, {
    clock: sharing.clock,
    random: () => 0.5,
    log,
    keeper: sharing,
    resources: sharing,
    sharing,
    observers: [usage, shared],
  });
  cleanups.push(async () => {
    await sharing.close();
    await proxy.stop();
  });
  const body = JSON.stringify({ model: "m", messages: [{ role: "user", content: "hello" }] });
  return {
    proxy,
    sharing,
    usage,
    said: () => {
      log.flush();
      return text;
    },
    async ask(headers = {}) {
      const response = await fetch(`${proxy.url}/v1/chat/completions`, { method: "POST", headers, body });
      await response.arrayBuffer();
      return response.status;
    },
    health: async () => JSON.parse(await (await fetch(`${proxy.url}/health`)).text()),
  };
}

/** So many instances that know of each other. */
async function startInstances(
  count: number,
  redis: FakeRedis,
  upstream: { url: string },
  settings: Record<string, string> = {},
): Promise<Instance[]> {
  const instances = await Promise.all(
    Array.from({ length: count }, () => startInstance(redis, upstream, settings)),
  );
  await until("all know of each other", () =>
    instances.every(({ sharing }) => sharing.instances.length === count),
  );
  return instances;
}

/** Asks the instances in turn, all at once. Returns how many were served. */
async function askAll(instances: readonly Instance[], times: number): Promise<number> {
  const statuses = await Promise.all(
    Array.from({ length: times }, (_, nth) => instances[nth % instances.length]!.ask()),
  );
  return statuses.filter((status) => status === 200).length;
}

const stateOf = async (instance: Instance, nth: number) => (await instance.health()).providers[0]?.keys[nth];

describe("P48 several proxies with one server", () => {
  test("let no key over its requests a minute, and let out all that there are", async () => {
    const upstream = startUpstream();
    const instances = await startInstances(3, startRedis(), upstream, { RPM: "10" });
    expect(await askAll(instances, 60)).toBe(20);
    for (const key of KEYS) expect(upstream.keys.filter((each) => each === key)).toHaveLength(10);
  });

  test("let no key over its day", async () => {
    const upstream = startUpstream();
    const keys = KEYS.map((key) => `${key}:7`).join(",");
    const instances = await startInstances(3, startRedis(), upstream, { API_KEYS: keys });
    expect(await askAll(instances, 30)).toBe(14);
    await until("all show it", () => instances.every(({ proxy }) => shownToday(proxy) === "7,7"));
    expect(await stateOf(instances[0]!, 0)).toMatchObject({ state: "cooling", reason: "quota_day" });
  });

  test("give a day's request back that the provider refused", async () => {
    let refusals = 2;
    const upstream = startUpstream(() => {
      refusals -= 1;
      return refusals < 0 ? null : Response.json({ error: { message: "Overloaded" } }, { status: 503 });
    });
    const settings = { API_KEYS: `${KEYS[0]}:3`, MAX_ATTEMPTS: "1" };
    const [first, second] = await startInstances(2, startRedis(), upstream, settings);
    await first!.ask();
    await second!.ask();
    await until("both know", () => [first, second].every((each) => shownToday(each!.proxy) === "0"));
    expect(await askAll([first!, second!], 8)).toBe(3);
  });

  test("count keys of one account together", async () => {
    const upstream = startUpstream();
    const keys = KEYS.map((key) => `team@${key}`).join(",");
    const instances = await startInstances(2, startRedis(), upstream, { API_KEYS: keys, RPM: "5" });
    expect(await askAll(instances, 24)).toBe(5);
  });

  test("hold a client to its limits", async () => {
    const upstream = startUpstream();
    const settings = { PROXY_API_KEY: "laptop=client-key-0001", CLIENT_LIMITS: "laptop = 9/day" };
    const instances = await startInstances(3, startRedis(), upstream, settings);
    const headers = { authorization: "Bearer client-key-0001" };
    const statuses = await Promise.all(
      Array.from({ length: 30 }, (_, nth) => instances[nth % 3]!.ask(headers)),
    );
    expect(statuses.filter((status) => status === 200)).toHaveLength(9);
    expect(statuses.filter((status) => status === 429)).toHaveLength(21);
  });

  test("know of cooldowns, of pauses by hand and of breakers, and of their end", async () => {
    let next: (() => Response) | null = null;
    const upstream = startUpstream(() => next?.() ?? null);
    const [first, second] = await startInstances(2, startRedis(), upstream);
    const { pool } = first!.proxy.engine.upstreams[0];
    const other = second!.proxy.engine.upstreams[0].pool;
    const now = () => systemClock.now();

    next = () => Response.json({ error: { message: "You have run out of credits" } }, { status: 402 });
    await first!.ask();
    next = null;
    const isCooling = () => other.keys.some(({ account }) => (account.cooldown?.until ?? 0) > now());
    await until("it cools there too", isCooling);
    for (const key of pool.keys) pool.revive(key, now());
    await until("it is back there too", () => !isCooling());

    pool.setPaused(pool.keys[1]!, true, now());
    await until("it is paused there too", () => other.keys[1]!.isPaused);
    pool.setPaused(pool.keys[1]!, false, now());
    await until("it is not paused there either", () => !other.keys[1]!.isPaused);

    pool.disable(pool.keys[0]!, "no such key", now());
    await until("it is dead there too", () => other.keys[0]!.disabled?.said === "no such key");
    pool.revive(pool.keys[0]!, now());
    await until("it lives there too", () => other.keys[0]!.disabled === null);

    for (let fault = 0; fault < 6; fault++) {
      const lease = pool.lease(needOf(), now());
      if (lease.kind === "lease")
        pool.settle(
          lease,
          {
            kind: "overloaded",
            scope: "provider",
            said: "down",
            refusesAll: false,
            pauseMs: null,
            maybeBilled: false,
          },
          now(),
        );
    }
    await until("the provider is left alone there too", () => other.pausedUntil > now());
  });

  test("go by keys: lists and accounts may differ", async () => {
    const upstream = startUpstream();
    const redis = startRedis();
    const first = await startInstance(redis, upstream);
    const second = await startInstance(redis, upstream, {
      API_KEYS: `sk-many-test-key-new-0003,team@${KEYS[1]}`,
    });
    const { pool } = first.proxy.engine.upstreams[0];
    pool.setPaused(pool.keys[1]!, true, systemClock.now());
    const other = second.proxy.engine.upstreams[0].pool;
    await until("the same key is paused", () => other.keys[1]!.isPaused);
    expect(other.keys[0]!.isPaused).toBe(false);
  });

  test("take a cooldown that they hear of for the answer to what they sent before", async () => {
    const upstream = startUpstream(() =>
      Response.json({ error: { message: "no credits" } }, { status: 402 }),
    );
    const [first, second] = await startInstances(2, startRedis(), upstream, { API_KEYS: KEYS[0]! });
    await first!.ask();
    const cooldownOf = ({ proxy }: Instance) => proxy.engine.upstreams[0].pool.keys[0]!.account.cooldown;
    await until("it is known", () => cooldownOf(second!) !== null);
    expect(cooldownOf(second!)!.beganAt).toBeGreaterThan(cooldownOf(first!)!.beganAt);
    expect(cooldownOf(second!)!.until).toBeCloseTo(cooldownOf(first!)!.until, -2);
  });

  test("are refused by a limit that nobody told no more often than one, and know it all", async () => {
    let passed = 0;
    const upstream = startUpstream(() => {
      passed += 1;
      if (passed <= 12) return null;
      return Response.json({ error: { message: "Rate limit reached" } }, { status: 429 });
    });
    const instances = await startInstances(3, startRedis(), upstream, { API_KEYS: KEYS[0]! });
    for (let nth = 0; nth < 15; nth++) {
      await instances[nth % 3]!.ask();
      await Bun.sleep(40); // the news of it
    }
    expect(upstream.keys).toHaveLength(13);
    const values = instances.map(({ proxy }) => {
      const { account } = proxy.engine.upstreams[0].pool.keys[0]!;
      const sent = account.limiter.state().rate?.value;
      return sent ?? "nothing";
    });
    expect(new Set(values).size).toBe(1);
  });

  test("take turns where they have requests, and no turn is of two or of one that is idle", async () => {
    const upstream = startUpstream();
    const instances = await startInstances(3, startRedis(), upstream);
    const [first, second, third] = instances.map(({ sharing }) => sharing);
    const now = systemClock.now();
    expect(first!.turnAt(0, now)).toBeLessThanOrEqual(now); // nobody else has requests
    await instances[0]!.ask();
    await instances[1]!.ask();
    await until("each knows of the other", () =>
      [first, second].every((each) => each!.turnAt(0, now) > now || each!.turnAt(0, now + 1000) > now + 1000),
    );
    let turns = 0;
    for (let at = now; at < now + 4000; at += 50) {
      const held = [first, second].filter((each) => each!.turnAt(0, at) <= at).length;
      expect(held).toBeLessThanOrEqual(1);
      turns += held;
    }
    expect(turns).toBeGreaterThan(60); // the third has none, so the two have all
    expect(third!.turnAt(0, now + 60_000)).toBeLessThanOrEqual(now + 60_000); // all are idle by then
  });

  test("go on with their share while the server is silent, and count nothing twice when it is back", async () => {
    const upstream = startUpstream();
    const redis = startRedis();
    const instances = await startInstances(2, redis, upstream, { RPM: "10", API_KEYS: KEYS[0]! });
    expect(await askAll(instances, 4)).toBe(4);
    await Bun.sleep(100); // the news of these
    redis.isStopped = true;
    const since = performance.now();
    expect(await askAll(instances, 16)).toBe(6); // half of what was left, each
    expect(performance.now() - since).toBeLessThan(1000); // 50 ms in truth: bench/many.ts measures that
    expect(instances.map(({ sharing }) => sharing.state)).toEqual(["alone", "alone"]);
    expect((await instances[0]!.health()).state_store).toBe("alone");
    expect(instances[0]!.said().match(/state_server_lost/g)).toHaveLength(1);
    redis.goOn();
    await until("both are back", () => instances.every(({ sharing }) => sharing.aloneEpoch === 0), 8000);
    expect(await askAll(instances, 6)).toBe(0);
    await until("both show it", () => instances.every(({ proxy }) => shownToday(proxy) === "10"));
    expect(upstream.keys).toHaveLength(10);
  });

  test.each([
    [
      "was silent",
      async (redis: FakeRedis, load: () => Promise<unknown>) => {
        redis.isStopped = true;
        await load();
        redis.goOn();
      },
    ],
    [
      "was emptied",
      async (redis: FakeRedis, load: () => Promise<unknown>) => {
        await load();
        redis.empty();
        await load();
      },
    ],
    [
      "came back with what it had before",
      async (redis: FakeRedis, load: () => Promise<unknown>) => {
        const before = structuredClone([redis.texts, redis.hashes] as const);
        await load();
        redis.stop();
        for (const [name, text] of before[0]) redis.texts.set(name, text);
        for (const [name, hash] of before[1]) redis.hashes.set(name, hash);
        await load();
        redis.start();
      },
    ],
  ])("count each request once, and all of them, after the server %s", async (_, fault) => {
    const redis = startRedis();
    const instances = await startInstances(2, redis, startUpstream(), { DAILY_LIMIT: "100000" });
    expect(await askAll(instances, 20)).toBe(20);
    await Bun.sleep(100);
    let sent = 20;
    await fault(redis, async () => (sent += await askAll(instances, 250))); // more than are told one by one
    const counted = () =>
      instances.flatMap(({ proxy, usage }) => {
        const { keys } = proxy.engine.upstreams[0].pool;
        const rows = usage.usage(2, Date.now());
        return [
          keys.reduce((sum, { requests }) => sum + requests, 0),
          keys.reduce((sum, { today }) => sum + today, 0),
          rows.reduce((sum, { requests }) => sum + requests, 0),
        ];
      });
    const all = Array(6).fill(sent);
    await until("all is counted everywhere", () => Bun.deepEquals(counted(), all), 4000);
    await Bun.sleep(300);
    expect(counted()).toEqual(all);
    const later = await startInstance(redis, startUpstream(), { DAILY_LIMIT: "100000" });
    expect(later.usage.usage(2, Date.now()).reduce((sum, { requests }) => sum + requests, 0)).toBe(sent);
  });

  test("fill a server that was emptied, and stay within their limits", async () => {
    const upstream = startUpstream();
    const redis = startRedis();
    const instances = await startInstances(2, redis, upstream, {
      RPM: "10",
      DAILY_LIMIT: "8",
      API_KEYS: KEYS[0]!,
    });
    expect(await askAll(instances, 4)).toBe(4);
    const { pool } = instances[0]!.proxy.engine.upstreams[0];
    pool.keys[0]!.account.cooldown = null;
    await Bun.sleep(100);
    redis.empty();
    expect(await askAll(instances, 8)).toBeLessThanOrEqual(4);
    await until("both are back", () => instances.every(({ sharing }) => sharing.aloneEpoch === 0), 8000);
    await askAll(instances, 8);
    await Bun.sleep(100);
    await askAll(instances, 8);
    expect(upstream.keys).toHaveLength(8);
    expect(instances.map(({ proxy }) => shownToday(proxy))).toEqual(["8", "8"]);
  });

  test("serve while the server is away, at the start too, and join it when it is there", async () => {
    const upstream = startUpstream();
    const redis = startRedis();
    redis.stop();
    const instance = await startInstance(redis, upstream, { API_KEYS: KEYS[0]! });
    expect([await instance.ask(), instance.sharing.state]).toEqual([200, "alone"]);
    redis.start();
    await until("it has joined", () => instance.sharing.state === "ok", 5000);
    await until("what it did is there", () => redis.dump.includes('["requests","1"]'));
    redis.stop();
    expect([await instance.ask(), await instance.ask()]).toEqual([200, 200]);
    redis.start();
    await until("it has joined again", () => instance.sharing.state === "ok", 5000);
    await until("all is there, once", () => redis.dump.includes('["requests","3"]'));
  });

  test("find what was known before, when they start anew", async () => {
    const upstream = startUpstream();
    const redis = startRedis();
    const first = await startInstance(redis, upstream, { DAILY_LIMIT: "5" });
    const { pool } = first.proxy.engine.upstreams[0];
    expect(await askAll([first], 4)).toBe(4);
    pool.setPaused(pool.keys[0]!, true, systemClock.now());
    await Bun.sleep(100);
    await first.sharing.close();
    const second = await startInstance(redis, upstream, { DAILY_LIMIT: "5" });
    expect(await stateOf(second, 0)).toMatchObject({ state: "paused" });
    await until("the day is known", () => shownToday(second.proxy) === "2,2");
    expect(await askAll([second], 9)).toBe(3);
  });

  test("reach what an account made from every instance (P35)", async () => {
    const upstream = startUpstream((request) =>
      request.method === "POST" && request.url.endsWith("/files")
        ? Response.json({ id: "file-abc123", object: "file" })
        : Response.json({ id: "file-abc123", object: "file", status: "processed" }),
    );
    const redis = startRedis();
    const instances = await startInstances(2, redis, upstream);
    for (let round = 0; round < 5; round++) {
      upstream.keys.length = 0;
      await fetch(`${instances[0]!.proxy.url}/v1/files`, { method: "POST", body: "x" });
      const [maker] = upstream.keys;
      await fetch(`${instances[1]!.proxy.url}/v1/files/file-abc123`);
      expect(upstream.keys).toEqual([maker!, maker!]);
      await fetch(`${instances[0]!.proxy.url}/v1/files/file-abc123`, { method: "DELETE" });
    }
    expect(redis.dump).not.toContain("file-abc123");
  });

  test("show who is there; one that ends is gone at once", async () => {
    const upstream = startUpstream();
    const [first, second] = await startInstances(2, startRedis(), upstream);
    const { instances, state_store: store } = await first!.health();
    expect([store, instances.map(({ id }) => id).toSorted()]).toEqual([
      "ok",
      [first!.sharing.id, second!.sharing.id].toSorted(),
    ]);
    const metrics = await (await fetch(`${first!.proxy.url}/metrics`)).text();
    expect(metrics).toContain("keywheel_state_store_up 1");
    expect(metrics).toContain("keywheel_instances 2");
    await second!.sharing.close();
    await until("it is gone", () => first!.sharing.instances.length === 1, 500);
  });

  test("show what all of them did, also one that starts later", async () => {
    const upstream = startUpstream();
    const redis = startRedis();
    const instances = await startInstances(2, redis, upstream, { API_KEYS: KEYS[0]! });
    expect(await askAll(instances, 7)).toBe(7);
    const shown = ({ usage }: Instance) => {
      const now = Date.now();
      const rows = usage.usage(2, now).map(({ model, requests }) => `${model} ${requests}`);
      const hour = usage.traffic("1h", now).points.reduce((sum, { requests }) => sum + requests, 0);
      const day = usage.traffic("24h", now).points.reduce((sum, { requests }) => sum + requests, 0);
      return `${rows.join()}; ${hour}; ${day}`;
    };
    await until("both show all", () => instances.every((each) => shown(each) === "m 7; 7; 7"));
    expect(instances.map(({ usage }) => usage.recent(20).length)).toEqual([7, 7]);
    await until("the server has it", () => redis.dump.includes("keywheel:usage:"));
    await Bun.sleep(100);
    const late = await startInstance(redis, upstream, { API_KEYS: KEYS[0]! });
    expect(shown(late)).toBe("m 7; 7; 7");
  });

  test("have the date in common, whatever their own clocks say", async () => {
    const upstream = startUpstream();
    const redis = startRedis();
    const settings = { DAILY_LIMIT: "6", API_KEYS: KEYS[0]! };
    const late: Clock = { ...systemClock, wall: () => systemClock.wall() + 30 * 3_600_000 };
    const early: Clock = { ...systemClock, wall: () => systemClock.wall() - 9 * 3_600_000 };
    const instances = [
      await startInstance(redis, upstream, settings, late),
      await startInstance(redis, upstream, settings, early),
    ];
    expect(await askAll(instances, 20)).toBe(6);
    const dates = instances.map(({ sharing }) => Math.round((sharing.clock.wall() - Date.now()) / 1000));
    expect(dates).toEqual([0, 0]);
    const shown = instances.map(({ sharing }) => sharing);
    await until("all show since when each is there by the same clock", () =>
      shown.flatMap((each) => each.instances).every(({ since }) => Math.abs(since - Date.now()) < 60_000),
    );
  });

  test("with other prefixes or databases do not meet", async () => {
    const upstream = startUpstream();
    const redis = startRedis();
    const settings = { RPM: "2", API_KEYS: KEYS[0]! };
    const one = await startInstance(redis, upstream, settings);
    const other = await startInstance(redis, upstream, { ...settings, STATE_PREFIX: "other" });
    expect(await askAll([one, other], 20)).toBe(4);
    expect([one.sharing.instances.length, other.sharing.instances.length]).toEqual([1, 1]);
  });

  test("leave no key in the server, nor a part of one", async () => {
    const upstream = startUpstream((_, key) =>
      Math.random() < 0.5
        ? Response.json({ error: { message: `Incorrect API key provided: ${key}` } }, { status: 401 })
        : null,
    );
    const redis = startRedis();
    const [instance] = await startInstances(1, redis, upstream, {
      DAILY_LIMIT: "50",
      PROXY_API_KEY: "client-key-0002",
      CLIENT_LIMITS: "* = 99/day",
    });
    for (let round = 0; round < 12; round++) await instance!.ask({ authorization: "Bearer client-key-0002" });
    await Bun.sleep(100);
    const dump = redis.dump.toLowerCase();
    expect(dump).toContain("keywheel:key:default:");
    for (const secret of [...KEYS, "client-key-0002"])
      for (const form of [
        secret,
        secret.slice(-8),
        btoa(secret).slice(0, 16).toLowerCase(),
        Buffer.from(secret).toString("hex").slice(0, 16),
      ])
        expect(dump).not.toContain(form);
  });

  test("are not confused by what others write there", async () => {
    const upstream = startUpstream();
    const redis = startRedis();
    const [first] = await startInstances(1, redis, upstream);
    const stranger = new Bun.RedisClient(redis.url);
    const strange = [
      "",
      "null",
      "[]",
      '{"instance":5}',
      '{"instance":"x","pools":[{"provider":"default","fields":{"a":7},"sent":[[1,2]],"counts":{"h":["a"]}}],"days":[null]}',
      `{"instance":"x","pools":"${"9".repeat(5000)}"}`,
    ];
    for (const message of strange) await stranger.send("PUBLISH", ["keywheel:news:0", message]);
    redis.hashes.set(
      "keywheel:instances",
      new Map([
        ["x", "no date"],
        ["y", "5 {]"],
      ]),
    );
    for (const [name, hash] of redis.hashes)
      if (name.includes(":key:")) hash.set("cooldown", "{]").set("model:m", "7").set("requests", "many");
    stranger.close();
    expect(await first!.ask()).toBe(200);
    expect(first!.sharing.state).toBe("ok");
  });

  test.each([
    [
      "a wrong password",
      (redis: FakeRedis) => (redis.password = "sesame"),
      "redis://:wrong@",
      "it refuses the user name",
    ],
    [
      "a password that is missing",
      (redis: FakeRedis) => (redis.password = "sesame"),
      "redis://",
      "it asks for a password",
    ],
    ["a cluster", (redis: FakeRedis) => (redis.mode = "cluster"), "redis://", "it is part of a cluster"],
    ["a Sentinel", (redis: FakeRedis) => (redis.mode = "sentinel"), "redis://", "it is a Sentinel"],
    ["a database that is not there", () => {}, "redis://", "no database of this number"],
  ])("do not start with %s", async (what, prepare, scheme, said) => {
    const redis = startRedis();
    prepare(redis);
    const database = what.startsWith("a database") ? "/77" : "";
    const STATE = `${scheme}127.0.0.1:${redis.port}${database}`;
    const starting = startInstance(redis, startUpstream(), { STATE });
    await expect(starting).rejects.toThrow(said);
    await expect(starting).rejects.toBeInstanceOf(ServerRefusal);
  });

  test.each([
    ["all", ["BEAT", "LEASE", "BATCH"], "OOM command not allowed", "its memory is full"],
    ["leases", ["LEASE"], "WRONGTYPE Operation against a key", "STATE_PREFIX"],
    ["what is written", ["BATCH"], "READONLY You can't write", "it is a replica"],
    ["signs of life", ["BEAT"], "LOADING Redis is loading", "it is still loading"],
    ["leases and what is written", ["LEASE", "BATCH"], "NOPERM no permissions", "its access list"],
  ])("say once what is wrong where the server refuses %s, and go on alone", async (_, scripts, said, why) => {
    const redis = startRedis();
    const upstream = startUpstream();
    const instance = await startInstance(redis, upstream, { RPM: "1000" });
    await until("it has joined", () => instance.sharing.aloneEpoch === 0);
    const before = instance.said().length;
    redis.refuses = (script) => (scripts.includes(script) ? said : null);
    for (let nth = 0; nth < 20 || instance.sharing.aloneEpoch === 0; nth++) {
      expect(await instance.ask()).toBe(200);
      await Bun.sleep(40);
    }
    const told = instance.said().slice(before);
    expect(told.match(/state_server_lost/g)).toHaveLength(1);
    expect(told).toContain(why);
    redis.refuses = () => null;
    await until("it is back", () => instance.sharing.aloneEpoch === 0, 4000);
  });

  test("start with the right password", async () => {
    const redis = startRedis();
    redis.password = "p@ss word";
    const STATE = `redis://:${encodeURIComponent(redis.password)}@127.0.0.1:${redis.port}`;
    const instance = await startInstance(redis, startUpstream(), { STATE });
    expect(instance.sharing.state).toBe("ok");
  });
});

/** Today's requests of the keys, as the proxy has them. */
function shownToday({ engine }: Proxy): string {
  return engine.upstreams[0].pool.keys.map(({ today }) => today).join();
}

/** A request that takes any key. */
function needOf() {
  return {
    model: null,
    conversation: null,
    tried: new Set<never>(),
    reuseAt: 0,
    unsuited: new Set<never>(),
    boundTo: null,
    isUncounted: false,
    arrival: 1,
    waitUntil: 0,
    deferredAt: 0,
    signal: new AbortController().signal,
  };
}
