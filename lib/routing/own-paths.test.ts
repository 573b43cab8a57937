import { describe, expect, test } from "bun:test";
import { exchange, httpAnswer, stage, startRawProvider } from "../testing/fixture.ts";

const KEYS = { API_KEYS: "pool-key-canary", PROVIDER: "generic" };

/** What a proxy with these settings answers to a request in bytes, and what its provider saw of it. */
async function answered(head: string, settings: Record<string, string> = {}) {
  await using provider = startRawProvider((_, connection) => connection.write(httpAnswer(200, "{}")));
  await using proxy = stage({ settings: { ...KEYS, TARGET_BASE_URL: `${provider.url}/v1`, ...settings } });
  const answer = await exchange(
    proxy.url,
    `${head}\r\n\r\n`.replace("Host: here", `Host: ${new URL(proxy.url).host}`),
  );
  const [key] = (await proxy.health()).providers[0]?.keys ?? [];
  return {
    ...answer,
    url: proxy.url,
    text: answer.body.toString(),
    seen: provider.requests,
    today: key?.["today"],
  };
}

describe("a path of the proxy's own", () => {
  const rows: [says: string, line: string, status: number, holds: RegExp][] = [
    ["says what this is", "GET / HTTP/1.1", 200, /"name":"keywheel"/],
    ["is asked for its head", "HEAD / HTTP/1.1", 200, /^$/],
    ["has a query", "GET /?utm=1 HTTP/1.1", 200, /"base_url":"http:/],
    ["has slashes too many", "GET // HTTP/1.1", 200, /"base_url":"http:/],
    ["has no picture to show", "GET /favicon.ico HTTP/1.1", 204, /^$/],
    ["keeps search engines out", "GET /robots.txt HTTP/1.1", 200, /Disallow: \/\n/],
    ["keeps search engines out, without a body for HEAD", "HEAD /robots.txt HTTP/1.1", 200, /^$/],
  ];
  test.each(rows)("A11 %s and asks no provider: %s", async (_, line, status, holds) => {
    const { text, seen, today, ...answer } = await answered(`${line}\r\nHost: here`, {
      PROXY_API_KEY: "c-1",
    });
    expect([answer.status, seen.length]).toEqual([status, 0]);
    expect(text).toMatch(holds);
    expect(today ?? 0).toBe(0);
  });

  test("is one line of JSON for a program, with the base URL as it was asked", async () => {
    const { url, text, fields } = await answered("GET / HTTP/1.1\r\nHost: here");
    expect(fields.get("content-type")).toEqual(["application/json"]);
    expect(text.trim().split("\n")).toHaveLength(1);
    expect(JSON.parse(text)).toMatchObject({
      base_url: `${url}/v1`,
      health: `${url}/health`,
      dashboard: null,
    });
  });

  const pages: [says: string, settings: Record<string, string>, holds: string][] = [
    ["where the dashboard is off says what to set", {}, "ADMIN_PASSWORD"],
    ["says which key to use", { PROXY_API_KEY: "client-canary" }, "PROXY_API_KEY"],
  ];
  test.each(pages)("is a page for a browser, which %s", async (_, settings, holds) => {
    const { url, text, fields } = await answered(
      "GET / HTTP/1.1\r\nHost: here\r\nAccept: text/html",
      settings,
    );
    expect(fields.get("content-type")).toEqual(["text/html; charset=utf-8"]);
    expect(fields.get("content-security-policy")?.join()).toContain("default-src 'none'");
    expect(text).toContain(`<code>${url}/v1</code>`);
    expect(text).toContain(holds);
    expect(text).not.toContain("canary");
  });

  test("is the client's own where it is no GET: POST / goes upstream", async () => {
    const { status, seen } = await answered("POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 0");
    expect([status, seen.length]).toEqual([200, 1]);
  });
});
