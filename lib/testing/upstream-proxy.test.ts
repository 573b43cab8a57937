import { describe, expect, test } from "bun:test";
import { systemClock } from "../core/clock.ts";
import { Secret } from "../core/secret.ts";
import { canConnect } from "../http/connections.ts";
import { checkKeys } from "../pool/key-health.ts";
import { parseConfig } from "../config/config.ts";
import { reconfigure } from "../../proxy.ts";
import { type HttpProxy, startHttpProxy } from "./http-proxy.ts";
import { chat, httpAnswer, stage, startRawProvider } from "./fixture.ts";

const SERVED = httpAnswer(200, '{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}');

const AT = {
  API_KEYS: "key-a,key-b",
  PROVIDER: "openai",
  TARGET_BASE_URL: "http://provider.test/v1",
  MAX_WAIT_SEC: "1",
};

/** The configuration of these settings. */
function configOf(settings: Record<string, string>) {
  const parsed = parseConfig({ ...AT, HOST: "127.0.0.1", PORT: "0", STATE: "off", ...settings });
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  return parsed.config;
}

describe("through an HTTP proxy", () => {
  test("requests go to a provider that only the proxy can find, with its password and without showing it", async () => {
    await using provider = startRawProvider((_, connection) => connection.write(SERVED));
    await using proxy = await startHttpProxy(Number(new URL(provider.url).port));
    const address = `http://me:pa%40ss@127.0.0.1:${proxy.port}`;
    await using scene = stage({ settings: { ...AT, UPSTREAM_PROXY: address } });
    expect((await chat(scene.url)).status).toBe(200);
    expect(proxy.heads[0]).toStartWith("POST http://provider.test/v1/chat/completions HTTP/1.1");
    expect(proxy.heads[0]).toContain(`Basic ${Buffer.from("me:pa@ss").toString("base64")}`);
    expect(provider.requests[0]?.key).toBe("key-a");
    const shown = JSON.stringify([scene.logged(), await scene.health()]);
    expect(shown).not.toContain("pa%40ss");
    expect(shown).not.toContain("pa@ss");
  });

  test("checks of keys go too", async () => {
    await using provider = startRawProvider((_, connection) =>
      connection.write(httpAnswer(200, '{"data":[]}')),
    );
    await using proxy = await startHttpProxy(Number(new URL(provider.url).port));
    const { providers } = configOf({ HTTP_PROXY: `127.0.0.1:${proxy.port}` });
    const { fetch } = new Bun.FetchSession({ proxy: false });
    const checked = await checkKeys(providers, { fetch, clock: systemClock, onProgress() {} });
    expect(checked.map(({ result }) => result)).toEqual(["alive", "alive"]);
    expect(proxy.heads[0]).toStartWith("GET http://provider.test/v1/models HTTP/1.1");
  });

  test("nothing goes that is for this machine, whatever the environment says", async () => {
    await using provider = startRawProvider((_, connection) => connection.write(SERVED));
    await using proxy = await startHttpProxy(1);
    const address = `http://127.0.0.1:${proxy.port}`;
    const environment = { UPSTREAM_PROXY: address, HTTP_PROXY: address, ALL_PROXY: address };
    await using scene = stage({ settings: { ...AT, ...environment, TARGET_BASE_URL: provider.url } });
    expect((await chat(scene.url)).status).toBe(200);
    expect(proxy.heads).toEqual([]);
  });

  test("nothing goes for a host of NO_PROXY", async () => {
    await using proxy = await startHttpProxy(1);
    const environment = { HTTP_PROXY: `http://127.0.0.1:${proxy.port}`, NO_PROXY: ".test" };
    await using scene = stage({ settings: { ...AT, ...environment, MAX_ATTEMPTS: "1" } });
    const answer = await chat(scene.url);
    expect(answer.status).toBe(502); // no such name here
    expect(proxy.heads).toEqual([]);
  });

  const refusals: [says: string, base: string, answer: string, words: string][] = [
    [
      "wants a password, over TLS",
      "https://provider.test",
      'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n',
      "asks for a user name and a password (407)",
    ],
    [
      "wants a password, over plain HTTP",
      "http://provider.test",
      'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n',
      "asks for a user name and a password (407)",
    ],
    [
      "forbids the way",
      "https://provider.test",
      "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnope!",
      "does not allow the way there (403)",
    ],
    [
      "finds no provider",
      "https://provider.test",
      "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
      "could not open the way there (502)",
    ],
  ];
  test.each(refusals)(
    "a proxy that %s is named to the client, and no key is blamed",
    async (_, base, answer, words) => {
      await using proxy = await startHttpProxy(1, answer);
      const settings = {
        ...AT,
        TARGET_BASE_URL: base,
        UPSTREAM_PROXY: `http://127.0.0.1:${proxy.port}`,
        MAX_ATTEMPTS: "2",
      };
      await using scene = stage({ settings });
      const response = await chat(scene.url);
      const body = await response.text();
      expect(response.status).toBe(502);
      expect(body).toContain(`the proxy 127.0.0.1:${proxy.port} (UPSTREAM_PROXY) ${words}`);
      const { providers } = await scene.health();
      expect(providers[0]?.keys.map(({ state }) => state)).not.toContain("disabled");

      const { fetch } = new Bun.FetchSession({ proxy: false });
      const [checked] = await checkKeys(configOf(settings).providers, {
        fetch,
        clock: systemClock,
        onProgress() {},
      });
      expect(checked).toMatchObject({ result: "unreachable", detail: expect.stringContaining(words) });
    },
  );

  test("a changed one counts from the next request on", async () => {
    await using provider = startRawProvider((_, connection) => connection.write(SERVED));
    const { port } = new URL(provider.url);
    await using before = await startHttpProxy(Number(port));
    await using after = await startHttpProxy(Number(port));
    const through = (proxy: HttpProxy) => ({ UPSTREAM_PROXY: `http://127.0.0.1:${proxy.port}` });
    await using scene = stage({ settings: { ...AT, ...through(before) } });
    await chat(scene.url);
    reconfigure(scene.engine, configOf(through(after)));
    await chat(scene.url);
    expect([before.heads.length, after.heads.length]).toEqual([1, 1]);
  });
});

describe("the connect test through a proxy", () => {
  const far = new URL("https://provider.test/v1");

  test("asks the proxy for the way, with its password, and sends the provider nothing", async () => {
    await using provider = startRawProvider(() => {});
    await using proxy = await startHttpProxy(Number(new URL(provider.url).port));
    const address = new Secret(`http://me:p%3Aw@127.0.0.1:${proxy.port}`);
    expect(await canConnect(far, systemClock, { address })).toBe(true);
    expect(proxy.heads[0]).toStartWith("CONNECT provider.test:443 HTTP/1.1\r\nHost: provider.test:443");
    expect(proxy.heads[0]).toEndWith(`Basic ${Buffer.from("me:p:w").toString("base64")}`);
    expect(provider.requests).toEqual([]);
  });

  test("is passed where the proxy refuses, as the attempt is told so itself", async () => {
    await using proxy = await startHttpProxy(1, "HTTP/1.1 403 Forbidden\r\n\r\n");
    expect(
      await canConnect(far, systemClock, { address: new Secret(`http://127.0.0.1:${proxy.port}`) }),
    ).toBe(true);
  });

  test("is failed where the proxy is not there, or hangs up", async () => {
    await using proxy = await startHttpProxy(1, "");
    const { port } = proxy;
    expect(await canConnect(far, systemClock, { address: new Secret(`http://127.0.0.1:${port}`) })).toBe(
      false,
    );
    await proxy[Symbol.asyncDispose]();
    expect(await canConnect(far, systemClock, { address: new Secret(`http://127.0.0.1:${port}`) })).toBe(
      false,
    );
  });
});
