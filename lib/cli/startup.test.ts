import { describe, expect, test } from "bun:test";
import { parseConfig } from "../config/config.ts";
import { addressesIn, banner, NO_SETTINGS } from "./startup.ts";

const fibTrie = (...addresses: string[]) =>
  `Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n${addresses
    .map((address) => `        |-- ${address}\n           /32 host LOCAL\n`)
    .join("")}        |-- 192.168.1.255\n           /32 link BROADCAST\n`;

const ROUTES = `Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
wlan0\t0001A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0
`;

describe("the addresses of this machine", () => {
  const rows: [says: string, trie: string, routes: string, addresses: string[]][] = [
    ["are those that are its own", fibTrie("127.0.0.1", "192.168.1.5"), ROUTES, ["192.168.1.5"]],
    [
      "that of the way out comes first",
      fibTrie("172.17.0.1", "192.168.1.5"),
      ROUTES,
      ["192.168.1.5", "172.17.0.1"],
    ],
    ["are told once each", fibTrie("192.168.1.5", "192.168.1.5"), ROUTES, ["192.168.1.5"]],
    ["are two at most", fibTrie("10.0.0.1", "10.0.0.2", "192.168.1.5"), ROUTES, ["192.168.1.5", "10.0.0.1"]],
    ["are told without a way out, too", fibTrie("10.0.0.1"), "", ["10.0.0.1"]],
    ["are none where nothing is told", "", "", []],
    ["are none where only loopback is", fibTrie("127.0.0.1", "127.0.1.1"), ROUTES, []],
  ];
  test.each(rows)("%s", (_, trie, routes, addresses) => {
    expect(addressesIn(trie, routes)).toEqual(addresses);
  });
});

describe("the banner", () => {
  const shown = (settings: Record<string, string>, url = "http://127.0.0.1:3000") => {
    const parsed = parseConfig({ API_KEYS: "nvapi-canary-1", ...settings });
    if (!parsed.ok) throw new Error(parsed.problems.join());
    return banner(parsed.config, { version: "1", url, envFile: null, addresses: ["192.168.1.5"] });
  };
  const KEY = { PROXY_API_KEY: "client-key-1" };
  const rows: [says: string, settings: Record<string, string>, has: string[], lacks: string[]][] = [
    ["names this machine alone in protected mode", {}, ["http://127.0.0.1:3000/v1"], ["192.168.1.5"]],
    [
      "names the address for others where they may connect",
      KEY,
      ["http://127.0.0.1:3000/v1", "http://192.168.1.5:3000/v1"],
      [],
    ],
    ["does so where no key is asked for", { PROXY_API_KEY: "off" }, ["http://192.168.1.5:3000/v1"], []],
    ["names no other address where it listens on one", { ...KEY, HOST: "127.0.0.1" }, [], ["192.168.1.5"]],
    ["says that there is no dashboard, and what to set", {}, ["off (set ADMIN_PASSWORD)"], ["/admin"]],
    [
      "says where the dashboard is",
      { ADMIN_PASSWORD: "a good one" },
      ["http://127.0.0.1:3000/admin"],
      ["a good one"],
    ],
    [
      "says where others find it",
      { ...KEY, ADMIN_PASSWORD: "a good one" },
      ["http://192.168.1.5:3000/admin"],
      [],
    ],
    ["says which provider was recognised, and why", {}, ["nvidia", "nvapi-"], ["canary"]],
  ];
  test.each(rows)("%s", (_, settings, has, lacks) => {
    const text = shown(settings);
    for (const words of has) expect(text).toContain(words);
    for (const words of lacks) expect(text).not.toContain(words);
  });

  test("says where a socket is", () => {
    const text = shown({ HOST: "unix:/run/kw.sock", ADMIN_PASSWORD: "a good one" }, "unix:/run/kw.sock");
    expect(text).toContain("/admin at unix:/run/kw.sock");
  });
});

test("without any settings one screen says what to do", () => {
  const lines = NO_SETTINGS.trimEnd().split("\n");
  expect(lines.length).toBeLessThanOrEqual(23);
  for (const line of lines) expect(line.length).toBeLessThanOrEqual(80);
  for (const words of ["keywheel init", "--demo", "API_KEYS=", "/v1"]) expect(NO_SETTINGS).toContain(words);
});
