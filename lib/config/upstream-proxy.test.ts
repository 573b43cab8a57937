import { describe, expect, test } from "bun:test";
import { parseConfig } from "./config.ts";
import { isExempt } from "./upstream-proxy.ts";

type Variables = Record<string, string>;
const AT = { API_KEYS: "key-1", TARGET_BASE_URL: "https://api.example.com/v1" };

function read(environment: Variables) {
  const parsed = parseConfig({ ...AT, ...environment });
  const said = [...parsed.warnings, ...(parsed.ok ? [] : parsed.problems)];
  const [first, second] = parsed.ok ? parsed.config.providers : [];
  const shown = (provider: typeof first) => provider?.upstreamProxy?.address.reveal() ?? null;
  return { ok: parsed.ok, said, first: shown(first), second: shown(second), provider: first };
}

describe("the way out", () => {
  const PROXY = "http://proxy.corp:3128";
  const table: [says: string, environment: Variables, proxy: string | null][] = [
    ["is direct", {}, null],
    ["is UPSTREAM_PROXY", { UPSTREAM_PROXY: PROXY }, PROXY],
    ["may be written without a scheme", { UPSTREAM_PROXY: "proxy.corp:3128" }, PROXY],
    [
      "may have a password",
      { UPSTREAM_PROXY: "http://me:p%40ss@proxy.corp:3128/" },
      "http://me:p%40ss@proxy.corp:3128",
    ],
    ["may be by TLS", { UPSTREAM_PROXY: "https://proxy.corp" }, "https://proxy.corp"],
    ["is HTTPS_PROXY for https", { HTTPS_PROXY: PROXY, HTTP_PROXY: "http://other:1" }, PROXY],
    ["is https_proxy in small letters too", { https_proxy: PROXY }, PROXY],
    [
      "is HTTP_PROXY for http",
      { HTTP_PROXY: PROXY, HTTPS_PROXY: "http://o:1", TARGET_BASE_URL: "http://api.example.com" },
      PROXY,
    ],
    ["is not HTTP_PROXY for https", { HTTP_PROXY: PROXY }, null],
    ["is else ALL_PROXY", { ALL_PROXY: PROXY }, PROXY],
    ["is UPSTREAM_PROXY before all others", { UPSTREAM_PROXY: PROXY, HTTPS_PROXY: "http://other:1" }, PROXY],
    ["is direct where UPSTREAM_PROXY is off", { UPSTREAM_PROXY: "off", HTTPS_PROXY: PROXY }, null],
    [
      "is direct where NO_PROXY names the host",
      { HTTPS_PROXY: PROXY, NO_PROXY: "localhost,.example.com" },
      null,
    ],
    ["is direct for no_proxy in small letters", { https_proxy: PROXY, no_proxy: "*" }, null],
    [
      "knows exemptions from UPSTREAM_PROXY too",
      { UPSTREAM_PROXY: PROXY, NO_PROXY: "api.example.com" },
      null,
    ],
    ["is direct to this machine", { HTTP_PROXY: PROXY, TARGET_BASE_URL: "http://127.0.0.1:8000" }, null],
    [
      "is direct to it, whatever is set",
      { UPSTREAM_PROXY: PROXY, TARGET_BASE_URL: "http://localhost:8000" },
      null,
    ],
    ["is direct to it by IPv6", { ALL_PROXY: PROXY, TARGET_BASE_URL: "http://[::1]:8000" }, null],
    [
      "is not direct to others of the network",
      { HTTP_PROXY: PROXY, TARGET_BASE_URL: "http://10.0.0.7:80" },
      PROXY,
    ],
  ];
  test.each(table)("%s", (_, environment, proxy) => {
    expect(read(environment)).toMatchObject({ ok: true, first: proxy });
  });

  test("may be another one for each provider, and none", () => {
    const shared = { GROQ_API_KEYS: "gsk_1", UPSTREAM_PROXY: PROXY };
    expect(read(shared)).toMatchObject({ first: PROXY, second: PROXY });
    expect(read({ ...shared, GROQ_UPSTREAM_PROXY: "http://groq.corp:1" })).toMatchObject({
      first: PROXY,
      second: "http://groq.corp:1",
    });
    expect(read({ ...shared, GROQ_UPSTREAM_PROXY: "off" })).toMatchObject({ first: PROXY, second: null });
    // What is written for one provider is meant for it.
    expect(read({ ...shared, GROQ_UPSTREAM_PROXY: PROXY, NO_PROXY: "*" })).toMatchObject({
      first: null,
      second: PROXY,
    });
  });

  const faults: [says: string, value: string, problem: string][] = [
    ["SOCKS", "socks5://canary:1080", "UPSTREAM_PROXY is a SOCKS proxy"],
    ["a path", "http://canary:1/path", "UPSTREAM_PROXY is not the address of a proxy."],
    ["a space", "http://canary :1", "UPSTREAM_PROXY is not the address of a proxy."],
    ["another scheme", "ftp://canary", "UPSTREAM_PROXY is not the address of a proxy."],
    [
      "half an escape in the password",
      "http://me:can%ary@p:1",
      "UPSTREAM_PROXY is not the address of a proxy.",
    ],
    ["a port out of range", "http://canary:99999", "UPSTREAM_PROXY is not the address of a proxy."],
  ];
  test.each(faults)("is refused for %s, and not shown", (_, value, problem) => {
    const { ok, said } = read({ UPSTREAM_PROXY: value });
    expect([ok, said]).toEqual([false, [expect.stringContaining(problem)]]);
    expect(said.join()).not.toContain("canary");
  });

  test("warns of a variable of others that it cannot use", () => {
    const { ok, first, said } = read({ ALL_PROXY: "socks5h://me:canary@proxy:1080" });
    expect([ok, first]).toEqual([true, null]);
    expect(said).toEqual([expect.stringContaining("ALL_PROXY is a SOCKS proxy")]);
    expect(said.join()).not.toContain("canary");
  });

  test("is never printed with its password", () => {
    const { provider } = read({ UPSTREAM_PROXY: "http://me:canary@proxy.corp:3128" });
    expect(`${Bun.inspect(provider)} ${JSON.stringify(provider)}`).not.toContain("canary");
    expect(provider?.upstreamProxy).toMatchObject({ host: "proxy.corp:3128", setBy: "UPSTREAM_PROXY" });
  });
});

describe("NO_PROXY", () => {
  const table: [entry: string, url: string, isExempt: boolean][] = [
    ["*", "https://api.example.com", true],
    ["example.com", "https://example.com", true],
    ["example.com", "https://api.example.com", true],
    ["example.com", "https://badexample.com", false],
    [".example.com", "https://api.example.com", true],
    [".example.com", "https://example.com", true],
    ["*.example.com", "https://a.b.example.com", true],
    ["EXAMPLE.com.", "https://api.example.com", true],
    ["api.example.com", "https://example.com", false],
    ["example.com:8443", "https://example.com:8443", true],
    ["example.com:8443", "https://example.com", false],
    ["example.com:443", "https://example.com", true],
    ["10.0.0.7", "http://10.0.0.7", true],
    ["10.0.0.7", "http://10.0.0.70", false],
    ["0.7", "http://10.0.0.7", false],
    ["10.0.0.7:80", "http://10.0.0.7", true],
    ["10.0.0.0/8", "http://10.200.3.4", true],
    ["10.0.0.0/8", "http://11.0.0.1", false],
    ["192.168.4.0/22", "http://192.168.7.255", true],
    ["192.168.4.0/22", "http://192.168.8.0", false],
    ["0.0.0.0/0", "http://8.8.8.8", true],
    ["10.0.0.0/33", "http://10.0.0.0", false],
    ["10.0.0.0/", "http://10.0.0.0", false],
    ["fd00::/8", "http://[fd12:3456::1]", true],
    ["fd00::/8", "http://[fe80::1]", false],
    ["10.0.0.0/8", "http://[::1]", false],
    ["::1", "http://[::1]:8000", true],
    ["[2001:db8::1]:8080", "http://[2001:db8:0:0::1]:8080", true],
    ["[2001:db8::1]:8080", "http://[2001:db8::1]", false],
    ["2001:DB8::1", "http://[2001:db8::1]", true],
    ["10.0.0.0/8", "http://ten.example.com", false],
    [".", "https://example.com", false],
    [":", "https://example.com", false],
  ];
  test.each(table)("%s: %s is exempt: %p", (entry, url, expected) => {
    expect(isExempt(new URL(url), ["other.example", entry])).toBe(expected);
  });
});
