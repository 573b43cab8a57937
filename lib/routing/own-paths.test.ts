import { describe, expect, test } from "bun:test";
import { stage } from "../testing/fixture.ts";

describe("/admin without a password", () => {
  const rows: [asks: string, settings: Record<string, string>, init: BunFetchRequestInit, type: string][] = [
    [
      "shows a browser a page",
      {},
      { headers: { accept: "text/html,*/*;q=0.8" } },
      "text/html; charset=utf-8",
    ],
    ["tells a program in JSON", {}, { headers: { accept: "*/*" } }, "application/json"],
    [
      "asks for no client key",
      { PROXY_API_KEY: "client-key-1" },
      { headers: { accept: "text/html" } },
      "text/html; charset=utf-8",
    ],
    [
      "does so where everybody may connect",
      { PROXY_API_KEY: "off" },
      { headers: { accept: "text/html" } },
      "text/html; charset=utf-8",
    ],
    [
      "answers a change alike",
      {},
      { method: "POST", headers: { accept: "application/json" } },
      "application/json",
    ],
  ];
  for (const path of ["/admin", "/admin/", "/admin/api/overview"]) {
    test.each(rows)(`%s that says what to set: ${path}`, async (_, settings, init, type) => {
      await using proxy = stage({
        settings: { API_KEYS: "key-one", TARGET_BASE_URL: "http://127.0.0.1:9", ...settings },
      });
      const response = await fetch(proxy.url + path, init);
      expect(response.status).toBe(404);
      expect(response.headers.get("content-type")?.toLowerCase()).toStartWith(type);
      expect(await response.text()).toContain("ADMIN_PASSWORD");
    });
  }

  test("sends no body to a HEAD request", async () => {
    await using proxy = stage({ settings: { API_KEYS: "key-one", TARGET_BASE_URL: "http://127.0.0.1:9" } });
    const response = await fetch(`${proxy.url}/admin`, { method: "HEAD", headers: { accept: "text/html" } });
    expect([response.status, await response.text()]).toEqual([404, ""]);
  });

  test("refuses a web page that reached this machine by a name of its own", async () => {
    await using proxy = stage({ settings: { API_KEYS: "key-one", TARGET_BASE_URL: "http://127.0.0.1:9" } });
    const response = await fetch(`${proxy.url}/admin`, {
      headers: { host: "rebound.example", accept: "text/html" },
    });
    expect(response.status).toBe(403);
  });
});
