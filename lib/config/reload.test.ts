import { describe, expect, test } from "bun:test";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { reconfigure, startProxy } from "../../proxy.ts";
import type { Proxy } from "../../proxy.ts";
import { loadConfig } from "./config.ts";
import { chat, FalseClock, httpAnswer, startRawProvider, until } from "../testing/fixture.ts";
import type { RawConnection, RawProvider } from "../testing/fixture.ts";
import { createLog } from "../observability/log.ts";
import { Reloader } from "./reload.ts";

const SERVED = httpAnswer(
  200,
  '{"id":"1","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}',
);
const LIMITED = httpAnswer(429, "{}", { "retry-after": "500" });

interface ReloadSetup {
  readonly clock: FalseClock;
  readonly provider: RawProvider;
  readonly proxy: Proxy;
  readonly reloader: Reloader;
  /** Connections whose request has come and is not answered: those of key-slow. */
  readonly held: RawConnection[];
  readonly path: string;
  write(lines: string): void;
  /** Writes beside, and renames over it, as editors do. */
  replace(lines: string): void;
  pool(): Promise<string>;
  said(): string;
}

/** A proxy with its settings in a file. Key key-cold is always refused, key-slow answers when the test does. */
async function withReloader(
  body: (setup: ReloadSetup) => Promise<void>,
  keys = "key-cold,key-good",
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "keywheel-reload-"));
  const path = join(folder, "kw.env");
  const clock = new FalseClock();
  const held: RawConnection[] = [];
  await using provider = startRawProvider(({ key }, connection) => {
    if (key === "key-slow") held.push(connection);
    else connection.write(key === "key-cold" ? LIMITED : SERVED);
  });
  const common = `TARGET_BASE_URL=${provider.url}\nPROVIDER=openai\nHOST=127.0.0.1\nPORT=0\nSTATE=off\nMAX_WAIT_SEC=0\n`;
  const write = (lines: string) => writeFileSync(path, `${common}${lines}\n`);
  write(`API_KEYS=${keys}`);
  const places = { environment: {}, envFile: path, workingDirectory: folder, programDirectory: folder };
  const loaded = await loadConfig(places);
  if (!loaded.ok) throw new Error(loaded.problems.join("\n"));
  let text = "";
  const log = createLog({ level: "info", format: "json", clock, write: (line) => (text += line) });
  const proxy = startProxy(loaded.config, { clock, random: () => 0.5, log });
  const apply = (config: typeof loaded.config) => reconfigure(proxy.engine, config);
  const reloader = new Reloader({ places, loaded, clock, log, apply });
  try {
    await body({
      clock,
      provider,
      proxy,
      reloader,
      held,
      path,
      write,
      replace(lines) {
        writeFileSync(`${path}.new`, `${common}${lines}\n`);
        renameSync(`${path}.new`, path);
      },
      async pool() {
        const health: { pool: string } = JSON.parse(await (await fetch(`${proxy.url}/health`)).text());
        return health.pool;
      },
      said() {
        log.flush();
        return text;
      },
    });
  } finally {
    reloader.close();
    await proxy.stop();
    rmSync(folder, { recursive: true });
  }
}

describe("settings that change while the proxy runs (P32)", () => {
  test("P32 keep the cooldowns of keys that stay, wherever they stand then", async () => {
    await withReloader(async ({ proxy, reloader, write, pool, said }) => {
      expect((await fetch(`${proxy.url}/v1/x`)).status).toBe(200); // no model is named: the key itself rests
      expect(await pool()).toBe("[0]:cooling(500s) [1]:ready");
      write("API_KEYS=key-new,key-good,key-cold");
      expect(await reloader.reload()).toMatchObject({ ok: true });
      expect(await pool()).toBe("[0]:ready [1]:ready [2]:cooling(500s)");
      expect(said()).toContain("keys added: [0]");
      expect(said()).not.toMatch(/key-(?:new|cold|good)/);
    });
  });

  test("P32 that are wrong change nothing, and it is said why", async () => {
    await withReloader(async ({ proxy, reloader, write, pool, said }) => {
      write("API_KEYS=key-other\nMAX_ATTEMPTS=none\nRPM=fast");
      const outcome = await reloader.reload();
      expect(outcome.ok).toBeFalse();
      expect(reloader.problems.join("\n")).toMatch(/MAX_ATTEMPTS[\s\S]*RPM|RPM[\s\S]*MAX_ATTEMPTS/);
      expect(said()).toContain("reload_refused");
      expect(await pool()).toBe("[0]:ready [1]:ready");
      expect((await chat(proxy.url)).status).toBe(200);
      write("API_KEYS=key-good");
      expect(await reloader.reload()).toMatchObject({ ok: true });
      expect([reloader.problems, await pool()]).toEqual([[], "[0]:ready"]);
    });
  });

  test.each([
    ["of no known shape", "key-cold,key-good", "mistral", "api.mistral.ai"],
    ["that begin like somebody's", "gsk_0123456789abcdefghij0123456789,key-good", "groq", "api.groq.com"],
  ])(
    "P32 P39 of which only half is there do not send keys to a host that no setting names: keys %s",
    async (_, keys, provider, host) => {
      await withReloader(async ({ reloader, proxy, path, write, said }) => {
        const before = proxy.engine.upstreams[0].config.baseUrl.href;
        writeFileSync(path, `HOST=127.0.0.1\nAPI_KEYS=${keys}\n`);
        expect(await reloader.reload()).toMatchObject({ ok: false });
        expect(proxy.engine.upstreams[0].config.baseUrl.href).toBe(before);
        expect(said()).toContain("No setting says any more where the keys in API_KEYS belong");
        write(`API_KEYS=${keys}`);
        expect(await reloader.reload()).toMatchObject({ ok: true });
        writeFileSync(path, `HOST=127.0.0.1\nAPI_KEYS=${keys}\nPROVIDER=${provider}\n`);
        expect(await reloader.reload()).toMatchObject({ ok: true });
        expect(proxy.engine.upstreams[0].config.baseUrl.host).toBe(host);
      }, keys);
    },
  );

  test("P32 cancel nothing: a request whose key was removed is answered", async () => {
    await withReloader(async ({ proxy, reloader, write, pool, held }) => {
      const asking = chat(proxy.url);
      await until("it is under way", () => held.length === 1);
      write("API_KEYS=key-good");
      await reloader.reload();
      held[0]?.write(SERVED);
      expect((await asking).status).toBe(200);
      expect(await pool()).toBe("[0]:ready");
      expect(proxy.engine.inFlight).toBe(0);
    }, "key-slow,key-good");
  });

  test("P32 are noticed when an editor replaces the file", async () => {
    await withReloader(async ({ clock, replace, pool }) => {
      await clock.advance(2000);
      replace("API_KEYS=key-good,key-new,key-more");
      for (let look = 0; look < 40 && !(await pool()).includes("[2]"); look++) await clock.advance(500);
      expect(await pool()).toBe("[0]:ready [1]:ready [2]:ready");
    });
  });

  test("add and remove providers, and say what needs a restart", async () => {
    await withReloader(async ({ proxy, reloader, write, provider }) => {
      write(`API_KEYS=key-good\nOTHER_API_KEYS=key-good\nOTHER_BASE_URL=${provider.url}\nPORT=4567`);
      expect(await reloader.reload()).toMatchObject({ ok: true, needRestart: ["HOST and PORT"] });
      expect((await fetch(`${proxy.url}/other/v1/models`)).headers.get("x-keywheel-key")).toBe("other/0");
      write("API_KEYS=key-good");
      await reloader.reload();
      expect(proxy.engine.upstreams).toHaveLength(1);
    });
  });
});
