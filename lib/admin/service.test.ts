import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { reconfigure, startProxy } from "../../proxy.ts";
import type { Proxy } from "../../proxy.ts";
import { loadConfig } from "../config/config.ts";
import type { ConfiguredKey } from "../config/config.ts";
import type { KeyTrial, KeyView, LiveEvent, Outcome } from "./views.ts";
import { AdminService } from "./service.ts";
import { chat, FalseClock, httpAnswer, startRawProvider } from "../testing/fixture.ts";
import type { RawProvider } from "../testing/fixture.ts";
import { Usage } from "../observability/usage.ts";
import { createLog } from "../observability/log.ts";
import { Reloader } from "../config/reload.ts";
import { fingerprint, Secret } from "../core/secret.ts";

const TOP = mkdtempSync(join(tmpdir(), "keywheel-desk-"));
afterAll(() => rmSync(TOP, { recursive: true }));

const SERVED = httpAnswer(200, '{"id":"1","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}');
const DEAD = httpAnswer(401, '{"error":{"code":"invalid_api_key","message":"Incorrect API key provided"}}');
const LIMITED = httpAnswer(429, "{}", { "retry-after": "500" });

interface Office {
  desk: AdminService;
  clock: FalseClock;
  proxy: Proxy;
  provider: RawProvider;
  ledger: Usage;
  /** The env file as it is now, without what all of these tests have in it. */
  written(): Promise<string>;
  write(lines: string): void;
  /** Keys of the first provider: of each what `show` tells. */
  keys<T>(show: (key: KeyView) => T): T[];
}

/** A proxy with its settings in a file, and a desk. `key-dead` is refused, `key-cold` is limited, others are served. */
async function office(
  lines: string,
  body: (office: Office) => Promise<void>,
  { environment = {}, reloadEnvironment = environment }: Record<string, Record<string, string>> = {},
): Promise<void> {
  const folder = mkdtempSync(join(TOP, "case-"));
  const path = join(folder, ".env");
  const clock = new FalseClock();
  await using provider = startRawProvider(({ key }, connection) =>
    connection.write(key === "key-dead" ? DEAD : key === "key-cold" ? LIMITED : SERVED),
  );
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
  const ledger = new Usage();
  proxy.engine.observe(ledger);
  try {
    const options = { works: proxy.engine, reloader, places, ledger, version: "1.2.3", url: proxy.url };
    const desk = new AdminService(options);
    await desk.look();
    proxy.engine.observe(desk);
    await body({
      desk,
      clock,
      proxy,
      provider,
      ledger,
      write,
      written: async () => (await Bun.file(path).text()).slice(common.length),
      keys: (show) => desk.overview().providers[0].keys.map(show),
    });
  } finally {
    reloader.close();
    await proxy.stop();
  }
}

const idOf = fingerprint;

function keyOf(text: string, fields: Partial<ConfiguredKey> = {}): ConfiguredKey {
  return { secret: new Secret(text), account: null, dailyLimit: null, ...fields };
}

describe("the overview of the desk", () => {
  test("tells of the program and of each provider, the default one first", async () => {
    const lines = "API_KEYS=key-a,key-b\nRPM=30\nGROQ_API_KEYS=key-x\nGROQ_RPM=5";
    await office(lines, async ({ desk, clock, proxy }) => {
      await clock.jump(5000);
      const overview = desk.overview();
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
    await office(
      "API_KEYS=key-a",
      async ({ desk }) => {
        const [first, groq] = desk.overview().providers;
        expect(first.keys.map(show)).toEqual([[idOf("key-a"), "API_KEYS", true]]);
        expect(groq?.keys.map(show)).toEqual([[idOf("key-x"), "GROQ_API_KEYS", false]]);
        expect(groq?.keys[0]?.locked).toContain("environment");
      },
      { environment },
    );
  });

  test("tells how long the provider is left alone, and shows a probe under way as half open", async () => {
    await office("API_KEYS=key-a", async ({ desk, proxy, clock }) => {
      const { breaker } = proxy.engine.upstreams[0]!.pool;
      for (let failure = 0; failure < 5; failure++) breaker.failed(clock.now(), false);
      const standing = () => desk.overview().providers.map(({ breaker, pausedMs }) => [breaker, pausedMs]);
      expect(standing()).toEqual([["open", 2000]]);
      await clock.jump(2000);
      expect(standing()).toEqual([["half_open", 0]]);
      breaker.probe(clock.now());
      expect([breaker.state(clock.now()), ...standing()]).toEqual(["probing", ["half_open", 0]]);
    });
  });

  test("still tells of keys when their file has gone, but not where they stand", async () => {
    await office("API_KEYS=key-a", async ({ desk, keys }) => {
      const { envFile } = desk.overview();
      rmSync(envFile ?? "");
      await desk.look();
      expect(keys(({ id, source }) => [id, source])).toEqual([[idOf("key-a"), null]]);
    });
  });

  test("P29 holds no key", async () => {
    await office("API_KEYS=me@key-canary-1:5\nGROQ_API_KEYS=key-canary-2", async ({ desk }) => {
      const text = JSON.stringify(desk.overview());
      expect(text).toContain(idOf("key-canary-1"));
      expect(text).not.toContain("canary");
    });
  });
});

describe("a key at the desk", () => {
  test("is paused, resumed and reset at once", async () => {
    await office("API_KEYS=key-a,key-cold", async ({ desk, proxy, keys }) => {
      const states = () => keys(({ state }) => state);
      expect(desk.pause("default", idOf("key-a"))).toMatchObject({ kind: "done" });
      expect(states()).toEqual(["paused", "ready"]);
      expect((await fetch(`${proxy.url}/v1/x`)).status).toBe(503); // no model is named: the key itself rests
      expect(states()).toEqual(["paused", "cooling"]);
      expect(desk.reset("default", idOf("key-cold"))).toMatchObject({ kind: "done" });
      expect(states()).toEqual(["paused", "ready"]);
      expect(desk.resume("default", idOf("key-a"))).toMatchObject({ kind: "done" });
      expect(states()).toEqual(["ready", "ready"]);
    });
  });

  test("is named where there is none such, and nothing is done", async () => {
    await office("API_KEYS=key-a", async ({ desk, keys }) => {
      const message = "default has no key nobody.";
      const refused = { kind: "refused", why: "not_found", message } as const;
      expect([desk.pause("default", "nobody"), await desk.check("default", "nobody")]).toEqual([
        refused,
        refused,
      ]);
      expect(desk.reset("groq", idOf("key-a"))).toMatchObject({ kind: "refused", why: "not_found" });
      const long = desk.resume("p".repeat(5000), "k".repeat(5000));
      expect(long.message.length).toBeLessThan(200);
      expect(keys(({ state }) => state)).toEqual(["ready"]);
    });
  });

  test.each<[sentence: string, key: string, kind: KeyTrial["kind"]]>([
    ["works where the provider says so", "key-new", "works"],
    ["works where it is only limited", "key-cold", "works"],
    ["is denied where the provider says that it is dead", "key-dead", "denied"],
  ])("%s", async (_, key, kind) => {
    await office("API_KEYS=key-a,key-cold,key-dead", async ({ desk, provider }) => {
      expect((await desk.validate("default", keyOf(key))).kind).toBe(kind);
      expect(provider.requests.map((request) => request.key)).toEqual([key]);
      if (key !== "key-new") expect((await desk.check("default", idOf(key))).kind).toBe(kind);
    });
  });

  test("is unclear where its provider is not there yet, and nobody is asked", async () => {
    await office("API_KEYS=key-a", async ({ desk, provider }) => {
      expect((await desk.validate("groq", keyOf("key-x"))).kind).toBe("unclear");
      expect(provider.requests.length).toBe(0);
    });
  });
});

describe("a change at the desk", () => {
  type Change = (desk: AdminService) => Promise<Outcome>;
  test.each<[sentence: string, change: Change, written: string, ids: string[]]>([
    [
      "adds a key, with its account and its limit",
      (desk) => desk.addKey("default", keyOf("key-n", { account: "me", dailyLimit: 9 })),
      "API_KEYS=key-a,key-b,me@key-n:9\n",
      ["key-a", "key-b", "key-n"],
    ],
    ["removes a key", (desk) => desk.removeKey("default", idOf("key-a")), "API_KEYS=key-b\n", ["key-b"]],
    [
      "puts keys into another order",
      (desk) => desk.reorderKeys("default", [idOf("key-b"), idOf("key-a")]),
      "API_KEYS=key-b,key-a\n",
      ["key-b", "key-a"],
    ],
    [
      "edits a setting",
      (desk) => desk.editProvider("default", new Map([["strategy", "lru"]])),
      "API_KEYS=key-a,key-b\nSTRATEGY=lru\n",
      ["key-a", "key-b"],
    ],
  ])("%s, in the file and in the proxy", async (_, change, text, ids) => {
    await office("API_KEYS=key-a,key-b", async ({ desk, written, keys, proxy }) => {
      const outcome = await change(desk);
      expect([outcome.kind, await written()]).toEqual(["done", text]);
      expect(keys(({ id }) => id)).toEqual(ids.map(idOf));
      expect(keys(({ source }) => source)).toEqual(ids.map(() => "API_KEYS"));
      expect(proxy.engine.config.providers[0].strategy).toBe(text.includes("lru") ? "lru" : "round-robin");
      expect(outcome.message).not.toContain("key-n");
    });
  });

  test.each<[sentence: string, change: Change, why: string]>([
    ["would remove the only key", (desk) => desk.removeKey("default", idOf("key-a")), "conflict"],
    ["names a key that is there already", (desk) => desk.addKey("default", keyOf("key-a")), "conflict"],
    ["names a key that is not there", (desk) => desk.removeKey("default", "nobody"), "not_found"],
    ["leaves a key out", (desk) => desk.reorderKeys("default", []), "invalid_value"],
    [
      "gives a value that is none",
      (desk) => desk.editProvider("default", new Map([["rpm", "fast"]])),
      "invalid_value",
    ],
    ["is of what the environment says", (desk) => desk.addKey("groq", keyOf("key-n")), "not_writable"],
  ])("is refused where it %s, and nothing is written", async (_, change, why) => {
    const environment = { GROQ_API_KEYS: "key-x" };
    await office(
      "API_KEYS=key-a",
      async ({ desk, written, keys }) => {
        expect(await change(desk)).toMatchObject({ kind: "refused", why });
        expect([await written(), keys(({ id }) => id)]).toEqual(["API_KEYS=key-a\n", [idOf("key-a")]]);
      },
      { environment },
    );
  });

  test("is said not to be in use where the files are not taken over, and why", async () => {
    const reloadEnvironment = { MAX_ATTEMPTS: "none" };
    await office(
      "API_KEYS=key-a",
      async ({ desk, written, keys }) => {
        const outcome = await desk.addKey("default", keyOf("key-n"));
        expect(outcome).toMatchObject({ kind: "refused", why: "conflict" });
        expect(outcome.message).toMatch(/was added[\s\S]*But it is not in use[\s\S]*MAX_ATTEMPTS/);
        expect([await written(), keys(({ id }) => id)]).toEqual(["API_KEYS=key-a,key-n\n", [idOf("key-a")]]);
        expect((await desk.addKey("default", keyOf("key-n"))).message).not.toContain("But"); // nothing was written
      },
      { environment: {}, reloadEnvironment },
    );
  });

  test("is carried out with others of the same moment, and none is lost", async () => {
    await office("API_KEYS=key-a", async ({ desk, keys }) => {
      const names = ["key-b", "key-c", "key-d"];
      const outcomes = await Promise.all(names.map((name) => desk.addKey("default", keyOf(name))));
      expect(outcomes.map(({ kind }) => kind)).toEqual(["done", "done", "done"]);
      expect(keys(({ id }) => id)).toEqual(["key-a", ...names].map(idOf));
    });
  });

  test("P32 of a file by other hands is taken over on demand, with what needs a restart", async () => {
    await office("API_KEYS=key-a", async ({ desk, write, keys }) => {
      write("API_KEYS=key-a,key-n\nLOG_FORMAT=json");
      const restart = "LOG_FORMAT changed: restart keywheel for that";
      expect(await desk.reload()).toEqual({ kind: "done", changes: ["default: keys added: [1]", restart] });
      expect(keys(({ id, source }) => [id, source])).toEqual([
        [idOf("key-a"), "API_KEYS"],
        [idOf("key-n"), "API_KEYS"],
      ]);
      write("API_KEYS=key-a\nRPM=fast");
      expect(await desk.reload()).toEqual({ kind: "refused", problems: [expect.stringContaining("RPM")] });
      expect([keys(({ id }) => id).length, desk.overview().problems.length]).toEqual([2, 1]);
    });
  });
});

describe("who watches the desk", () => {
  test("hears of requests and keys as it happens, until it goes", async () => {
    await office("API_KEYS=key-a", async ({ desk, proxy }) => {
      const heard: string[] = [];
      const hear = (event: LiveEvent) =>
        heard.push(event.kind === "request" ? `request ${event.record.status}` : `key ${event.event.kind}`);
      const leave = desk.subscribe(hear);
      await (await chat(proxy.url)).text();
      desk.pause("default", idOf("key-a"));
      expect(heard).toEqual(["request 200", "key paused_by_hand"]);
      leave();
      desk.resume("default", idOf("key-a"));
      expect(heard.length).toBe(2);
    });
  });

  test("sees the last requests, the use of the day and the traffic of the hour", async () => {
    await office("API_KEYS=key-a", async ({ desk, proxy, clock }) => {
      await (await chat(proxy.url)).text();
      await clock.jump(3_600_000 - 1);
      expect(desk.recent(5).map(({ status }) => status)).toEqual([200]);
      expect(desk.recent(0)).toEqual([]);
      expect(desk.usage(1).map(({ keyId, requests }) => [keyId, requests])).toEqual([[idOf("key-a"), 1]]);
      expect(desk.traffic()[0]?.requests).toBe(1);
      await clock.jump(24 * 3_600_000);
      expect([desk.usage(1), desk.traffic()[0]?.requests]).toEqual([[], 0]);
    });
  });
});
