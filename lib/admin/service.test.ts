import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { reconfigure, startProxy } from "../../proxy.ts";
import type { Proxy } from "../../proxy.ts";
import { loadConfig } from "../config/config.ts";
import type { ConfiguredKey } from "../config/config.ts";
import type { KeyTrial, KeyView, LiveEvent, ChangeOutcome } from "./views.ts";
import { AdminService } from "./service.ts";
import { chat, FalseClock, httpAnswer, startRawProvider, until } from "../testing/fixture.ts";
import type { RawProvider } from "../testing/fixture.ts";
import { Usage } from "../observability/usage.ts";
import { createLog } from "../observability/log.ts";
import { Reloader } from "../config/reload.ts";
import { fingerprint, Secret } from "../core/secret.ts";

const TOP = mkdtempSync(join(tmpdir(), "keywheel-service-"));
afterAll(() => rmSync(TOP, { recursive: true }));

const SERVED = httpAnswer(200, '{"id":"1","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}');
const DEAD = httpAnswer(401, '{"error":{"code":"invalid_api_key","message":"Incorrect API key provided"}}');
const ILL = httpAnswer(503, '{"error":{"message":"Down for maintenance"}}');
const LIMITED = httpAnswer(429, "{}", { "retry-after": "500" });

/** By key; all others are served. */
const ANSWERS: Record<string, Buffer> = { "key-dead": DEAD, "key-cold": LIMITED, "key-ill": ILL };

interface ServiceStage {
  service: AdminService;
  /** One that was made only now, and has been told of nothing. */
  lateService(): AdminService;
  clock: FalseClock;
  proxy: Proxy;
  provider: RawProvider;
  usage: Usage;
  /** The env file as it is now, without what all of these tests have in it. */
  written(): Promise<string>;
  write(lines: string): void;
  /** Keys of the first provider: of each what `show` tells. */
  keys<T>(show: (key: KeyView) => T): T[];
}

/**
 * A proxy with its settings in a file, and its admin service. `key-dead` is refused, `key-cold` is limited, others are
 * served.
 */
async function withService(
  lines: string,
  body: (withService: ServiceStage) => Promise<void>,
  { environment = {}, reloadEnvironment = environment }: Record<string, Record<string, string>> = {},
): Promise<void> {
  const folder = mkdtempSync(join(TOP, "case-"));
  const path = join(folder, ".env");
  const clock = new FalseClock();
  await using provider = startRawProvider(({ key }, connection) => {
    if (key !== "key-silent") connection.write(ANSWERS[key ?? ""] ?? SERVED);
  });
  const common = `TARGET_BASE_URL=${provider.url}\nPROVIDER=openai\nHOST=127.0.0.1\nPORT=0\nSTATE=off\nMAX_WAIT_SEC=0\n`;
  const write = (lines: string) => writeFileSync(path, `${common}${lines}\n`);
  write(lines);
  const places = { environment, envFile: null, workingDirectory: folder, programDirectory: folder };
  const loaded = await loadConfig(places);
  if (!loaded.ok) throw new Error(loaded.problems.join("\n"));
  const log = createLog({ level: "error", format: "json", clock, write: () => {} });
  const proxy = startProxy(loaded.config, { clock, random: () => 0.5, log });
  const apply = (config: typeof loaded.config) => reconfigure(proxy.engine, config);
  const reloader = new Reloader({
    places: { ...places, environment: reloadEnvironment },
    loaded,
    clock,
    log,
    apply,
  });
  const usage = new Usage();
  proxy.engine.observe(usage);
  try {
    const options = { engine: proxy.engine, reloader, places, usage, version: "1.2.3", url: proxy.url };
    const service = new AdminService(options);
    await service.look();
    proxy.engine.observe(service);
    await body({
      service,
      clock,
      proxy,
      provider,
      usage,
      write,
      lateService: () => new AdminService(options),
      written: async () => (await Bun.file(path).text()).slice(common.length),
      keys: (show) => service.overview().providers[0].keys.map(show),
    });
  } finally {
    reloader.close();
    await proxy.stop();
  }
}

const idOf = fingerprint;

function keyOf(text: string, fields: Partial<ConfiguredKey> = {}): ConfiguredKey {
  return { secret: new Secret(text), account: null, dailyLimit: null, origin: null, ...fields };
}

describe("the overview of the service", () => {
  test("tells of the program and of each provider, the default one first", async () => {
    const lines = "API_KEYS=key-a,key-b\nRPM=30\nGROQ_API_KEYS=key-x\nGROQ_RPM=5";
    await withService(lines, async ({ service, clock, proxy }) => {
      await clock.jump(5000);
      const overview = service.overview();
      expect(overview).toMatchObject({
        version: "1.2.3",
        uptimeMs: 5000,
        isDraining: false,
        inFlight: 0,
        listen: proxy.url,
        access: "protected",
        problems: [],
      });
      expect(overview.envFile).toEndWith("/.env");
      const standing = overview.providers.map(({ name, dialect, pausedMs }) => [name, dialect, pausedMs]);
      expect(standing).toEqual([
        ["default", "openai", 0],
        ["groq", "groq", 0],
      ]);
      const rates = overview.providers.map(({ settings }) => settings.rpm);
      expect(rates).toEqual([
        { value: "30", origin: "own", locked: null },
        { value: "5", origin: "own", locked: null },
      ]);
      expect(overview.providers.map(({ settings }) => settings.strategy?.origin)).toEqual([
        "default",
        "default",
      ]);
    });
  });

  test("tells where each key stands, and which cannot be moved from here", async () => {
    const environment = { GROQ_API_KEYS: "key-x" };
    const show = ({ id, source, locked }: KeyView) => [id, source, locked === null];
    await withService(
      "API_KEYS=key-a",
      async ({ service }) => {
        const [first, groq] = service.overview().providers;
        expect(first.keys.map(show)).toEqual([[idOf("key-a"), "API_KEYS", true]]);
        expect(groq?.keys.map(show)).toEqual([[idOf("key-x"), "GROQ_API_KEYS", false]]);
        expect(groq?.keys[0]?.locked).toContain("environment");
      },
      { environment },
    );
  });

  test("tells how long the provider is left alone, and shows a probe under way as half open", async () => {
    await withService("API_KEYS=key-a", async ({ service, proxy, clock }) => {
      const { breaker } = proxy.engine.upstreams[0]!.pool;
      for (let failure = 0; failure < 5; failure++) breaker.onFailed(clock.now(), false);
      const standing = () => service.overview().providers.map(({ breaker, pausedMs }) => [breaker, pausedMs]);
      expect(standing()).toEqual([["open", 2000]]);
      await clock.jump(2000);
      expect(standing()).toEqual([["half_open", 0]]);
      breaker.startTrial(clock.now());
      expect([breaker.state(clock.now()), ...standing()]).toEqual(["trial", ["half_open", 0]]);
    });
  });

  // The admin API is loaded at the first request for it, which may well be because something is wrong.
  test("tells why a provider is left alone that was so before anybody looked", async () => {
    await withService("API_KEYS=key-ill", async ({ lateService, proxy, clock }) => {
      for (let request = 0; request < 5; request++) await chat(proxy.url);
      const service = lateService();
      const provider = () => service.overview().providers[0];
      expect([provider().pauseReason, provider().pauseSaid]).toEqual([
        "upstream_faults",
        "Down for maintenance",
      ]);
      await clock.jump(120_000);
      expect([provider().pauseReason, provider().pauseSaid]).toEqual([null, ""]);
    });
  });

  test("tells of a request under way which model and client it is for", async () => {
    const lines = "API_KEYS=key-silent\nPROXY_API_KEY=laptop=key-of-laptop";
    await withService(lines, async ({ service, proxy }) => {
      const leave = new AbortController();
      const headers = { authorization: "Bearer key-of-laptop" };
      const left = chat(proxy.url, {}, { headers, signal: leave.signal }).catch(() => null);
      const underWay = () =>
        service.overview().underWay.map(({ phase, model, client }) => `${phase} ${model} ${client}`);
      await until("it is at the provider", () => underWay()[0]?.startsWith("provider") === true);
      expect(underWay()).toEqual(["provider gpt-4o-mini laptop"]);
      leave.abort();
      await left;
    });
  });

  test("still tells of keys when their file has gone, but not where they stand", async () => {
    await withService("API_KEYS=key-a", async ({ service, keys }) => {
      const { envFile } = service.overview();
      rmSync(envFile ?? "");
      await service.look();
      expect(keys(({ id, source }) => [id, source])).toEqual([[idOf("key-a"), null]]);
    });
  });

  test("P29 holds no key", async () => {
    await withService("API_KEYS=me@key-canary-1:5\nGROQ_API_KEYS=key-canary-2", async ({ service }) => {
      const text = JSON.stringify(service.overview());
      expect(text).toContain(idOf("key-canary-1"));
      expect(text).not.toContain("canary");
    });
  });
});

describe("a key at the service", () => {
  test("is paused, resumed and reset at once", async () => {
    await withService("API_KEYS=key-a,key-cold", async ({ service, proxy, keys }) => {
      const states = () => keys(({ state }) => state);
      expect(service.pause("default", idOf("key-a"))).toMatchObject({ kind: "done" });
      expect(states()).toEqual(["paused", "ready"]);
      expect((await fetch(`${proxy.url}/v1/x`)).status).toBe(503); // no model is named: the key itself rests
      expect(states()).toEqual(["paused", "cooling"]);
      expect(service.reset("default", idOf("key-cold"))).toMatchObject({ kind: "done" });
      expect(states()).toEqual(["paused", "ready"]);
      expect(service.resume("default", idOf("key-a"))).toMatchObject({ kind: "done" });
      expect(states()).toEqual(["ready", "ready"]);
    });
  });

  test("is named where there is none such, and nothing is done", async () => {
    await withService("API_KEYS=key-a", async ({ service, keys }) => {
      const message = "default has no key nobody.";
      const refused = { kind: "refused", why: "not_found", message } as const;
      expect([service.pause("default", "nobody"), await service.check("default", "nobody")]).toEqual([
        refused,
        refused,
      ]);
      expect(service.reset("groq", idOf("key-a"))).toMatchObject({ kind: "refused", why: "not_found" });
      const long = service.resume("p".repeat(5000), "k".repeat(5000));
      expect(long.message.length).toBeLessThan(200);
      expect(keys(({ state }) => state)).toEqual(["ready"]);
    });
  });

  test.each<[sentence: string, key: string, kind: KeyTrial["kind"]]>([
    ["works where the provider says so", "key-new", "works"],
    ["works where it is only limited", "key-cold", "works"],
    ["is denied where the provider says that it is dead", "key-dead", "denied"],
  ])("%s", async (_, key, kind) => {
    await withService("API_KEYS=key-a,key-cold,key-dead", async ({ service, provider }) => {
      expect((await service.validate("default", [keyOf(key)]))[0]?.kind).toBe(kind);
      expect(provider.requests.map((request) => request.key)).toEqual([key]);
      if (key !== "key-new") expect((await service.check("default", idOf(key))).kind).toBe(kind);
    });
  });

  test("is unclear where its provider is not there yet, and nobody is asked", async () => {
    await withService("API_KEYS=key-a", async ({ service, provider }) => {
      expect((await service.validate("groq", [keyOf("key-x")]))[0]?.kind).toBe("unclear");
      expect(provider.requests.length).toBe(0);
    });
  });
});

test("P39 a key of another company is not even tried, and not saved", async () => {
  await withService("API_KEYS=key-a\nGROQ_API_KEYS=gsk_1", async ({ service, written }) => {
    const key = keyOf("sk-ant-canary", { origin: { prefix: "sk-ant-", issuers: ["anthropic"] } });
    const before = await written();
    for (const refused of [
      (await service.validate("groq", [key]))[0],
      await service.addKeys("groq", [key]),
    ]) {
      expect(refused).toMatchObject({ kind: "refused", why: "invalid_value" });
      expect(JSON.stringify(refused)).toContain("anthropic");
      expect(JSON.stringify(refused)).not.toContain("canary");
    }
    expect(await written()).toBe(before);
  });
});

describe("a change at the service", () => {
  type Change = (service: AdminService) => Promise<ChangeOutcome>;
  test.each<[sentence: string, change: Change, written: string, ids: string[]]>([
    [
      "adds a key, with its account and its limit",
      (service) => service.addKeys("default", [keyOf("key-n", { account: "me", dailyLimit: 9 })]),
      "API_KEYS=key-a,key-b,me@key-n:9\n",
      ["key-a", "key-b", "key-n"],
    ],
    [
      "adds several at once",
      (service) => service.addKeys("default", [keyOf("key-n"), keyOf("key-o", { account: "me" })]),
      "API_KEYS=key-a,key-b,key-n,me@key-o\n",
      ["key-a", "key-b", "key-n", "key-o"],
    ],
    [
      "makes a provider",
      (service) =>
        service.addProvider({
          name: "mine",
          baseUrl: "https://llm.example/v1",
          dialect: "openai",
          keys: [keyOf("key-m")],
        }),
      "API_KEYS=key-a,key-b\nMINE_API_KEYS=key-m\nMINE_BASE_URL=https://llm.example/v1\nMINE_PROVIDER=openai\n",
      ["key-a", "key-b"],
    ],
    [
      "removes a key",
      (service) => service.removeKey("default", idOf("key-a")),
      "API_KEYS=key-b\n",
      ["key-b"],
    ],
    [
      "puts keys into another order",
      (service) => service.reorderKeys("default", [idOf("key-b"), idOf("key-a")]),
      "API_KEYS=key-b,key-a\n",
      ["key-b", "key-a"],
    ],
    [
      "edits a setting",
      (service) => service.editProvider("default", new Map([["strategy", "lru"]])),
      "API_KEYS=key-a,key-b\nSTRATEGY=lru\n",
      ["key-a", "key-b"],
    ],
  ])("%s, in the file and in the proxy", async (_, change, text, ids) => {
    await withService("API_KEYS=key-a,key-b", async ({ service, written, keys, proxy }) => {
      const outcome = await change(service);
      expect([outcome.kind, await written()]).toEqual(["done", text]);
      expect(keys(({ id }) => id)).toEqual(ids.map(idOf));
      expect(keys(({ source }) => source)).toEqual(ids.map(() => "API_KEYS"));
      expect(proxy.engine.config.providers[0].strategy).toBe(text.includes("lru") ? "lru" : "round-robin");
      expect(outcome.message).not.toContain("key-n");
    });
  });

  test.each<[sentence: string, change: Change, why: string]>([
    ["would remove the only key", (service) => service.removeKey("default", idOf("key-a")), "conflict"],
    [
      "names a key that is there already",
      (service) => service.addKeys("default", [keyOf("key-a")]),
      "conflict",
    ],
    ["names a key that is not there", (service) => service.removeKey("default", "nobody"), "not_found"],
    ["leaves a key out", (service) => service.reorderKeys("default", []), "invalid_value"],
    [
      "gives a value that is none",
      (service) => service.editProvider("default", new Map([["rpm", "fast"]])),
      "invalid_value",
    ],
    [
      "is of what the environment says",
      (service) => service.addKeys("groq", [keyOf("key-n")]),
      "not_writable",
    ],
  ])("is refused where it %s, and nothing is written", async (_, change, why) => {
    const environment = { GROQ_API_KEYS: "key-x" };
    await withService(
      "API_KEYS=key-a",
      async ({ service, written, keys }) => {
        expect(await change(service)).toMatchObject({ kind: "refused", why });
        expect([await written(), keys(({ id }) => id)]).toEqual(["API_KEYS=key-a\n", [idOf("key-a")]]);
      },
      { environment },
    );
  });

  test("is said not to be in use where the files are not taken over, and why", async () => {
    const reloadEnvironment = { MAX_ATTEMPTS: "none" };
    await withService(
      "API_KEYS=key-a",
      async ({ service, written, keys }) => {
        const outcome = await service.addKeys("default", [keyOf("key-n")]);
        expect(outcome).toMatchObject({ kind: "refused", why: "conflict" });
        expect(outcome.message).toMatch(/was added[\s\S]*But it is not in use[\s\S]*MAX_ATTEMPTS/);
        expect([await written(), keys(({ id }) => id)]).toEqual(["API_KEYS=key-a,key-n\n", [idOf("key-a")]]);
        expect((await service.addKeys("default", [keyOf("key-n")])).message).not.toContain("But"); // nothing was written
      },
      { environment: {}, reloadEnvironment },
    );
  });

  test("is carried out with others of the same moment, and none is lost", async () => {
    await withService("API_KEYS=key-a", async ({ service, keys }) => {
      const names = ["key-b", "key-c", "key-d"];
      const outcomes = await Promise.all(names.map((name) => service.addKeys("default", [keyOf(name)])));
      expect(outcomes.map(({ kind }) => kind)).toEqual(["done", "done", "done"]);
      expect(keys(({ id }) => id)).toEqual(["key-a", ...names].map(idOf));
    });
  });

  test("P32 of a file by other hands is taken over on demand, with what needs a restart", async () => {
    await withService("API_KEYS=key-a", async ({ service, write, keys }) => {
      write("API_KEYS=key-a,key-n\nLOG_FORMAT=json");
      const restart = "LOG_FORMAT changed: restart keywheel for that";
      expect(await service.reload()).toEqual({
        kind: "done",
        changes: ["default: keys added: [1]", restart],
      });
      expect(keys(({ id, source }) => [id, source])).toEqual([
        [idOf("key-a"), "API_KEYS"],
        [idOf("key-n"), "API_KEYS"],
      ]);
      write("API_KEYS=key-a\nRPM=fast");
      expect(await service.reload()).toEqual({ kind: "refused", problems: [expect.stringContaining("RPM")] });
      expect([keys(({ id }) => id).length, service.overview().problems.length]).toEqual([2, 1]);
    });
  });
});

describe("who watches the service", () => {
  test("hears of requests and keys as it happens, until it goes", async () => {
    await withService("API_KEYS=key-a", async ({ service, proxy }) => {
      const heard: string[] = [];
      const hear = (event: LiveEvent) =>
        heard.push(event.kind === "request" ? `request ${event.record.status}` : `key ${event.event.kind}`);
      const leave = service.subscribe(hear);
      await (await chat(proxy.url)).text();
      service.pause("default", idOf("key-a"));
      expect(heard).toEqual(["request 200", "key paused_by_hand"]);
      leave();
      service.resume("default", idOf("key-a"));
      expect(heard.length).toBe(2);
    });
  });

  test("sees the last requests, the use of the day and the traffic of the hour", async () => {
    await withService("API_KEYS=key-a", async ({ service, proxy, clock }) => {
      await (await chat(proxy.url)).text();
      await clock.jump(3_600_000 - 1);
      expect(service.recent(5, () => true).map(({ status }) => status)).toEqual([200]);
      expect(service.recent(0, () => true)).toEqual([]);
      expect(service.usage(1).map(({ keyId, requests }) => [keyId, requests])).toEqual([[idOf("key-a"), 1]]);
      expect(service.traffic("1h").points[0]?.requests).toBe(1);
      await clock.jump(24 * 3_600_000);
      expect([service.usage(1), service.traffic("1h").points[0]?.requests]).toEqual([[], 0]);
    });
  });
});
