import { describe, expect, test } from "bun:test";
import { parseConfig } from "./config.ts";
import { STATE_PREFIX, isServerAddress, parseStateServer } from "./state-server.ts";

describe("the address of a server of STATE", () => {
  const readable: [says: string, text: string, url: string, shown: string][] = [
    ["a host", "redis://h", "redis://h", "redis://h/0"],
    ["a port and a database", "redis://h:7000/3", "redis://h:7000", "redis://h:7000/3"],
    ["a database as a parameter", "redis://h?db=3", "redis://h", "redis://h/3"],
    ["a slash behind the database", "redis://h/3/", "redis://h", "redis://h/3"],
    ["a password alone", "redis://:pw@h", "redis://:pw@h", "redis://h/0"],
    ["a user and a password", "redis://u:p%40w@h/1", "redis://u:p%40w@h", "redis://h/1"],
    ["TLS", "rediss://:pw@h:6380", "rediss://:pw@h:6380", "rediss://h:6380/0"],
    ["Valkey's own word", "valkey://h", "redis://h", "redis://h/0"],
    ["capital letters", "REDIS://h", "redis://h", "redis://h/0"],
    ["an IPv6 address", "redis://[::1]:6379/2", "redis://[::1]:6379", "redis://[::1]:6379/2"],
    ["a socket", "unix:///run/r.sock", "redis+unix:///run/r.sock", "unix:///run/r.sock"],
    ["a database of a socket", "unix:///r.sock?db=4", "redis+unix:///r.sock", "unix:///r.sock?db=4"],
    [
      "a password of a socket",
      "unix://:p%2Fw@/r.sock",
      "redis+unix://:p%2Fw@localhost/r.sock",
      "unix:///r.sock",
    ],
  ];
  test.each(readable)("may have %s", (_, text, url, shown) => {
    const server = parseStateServer(text, "keywheel");
    if (typeof server === "string") throw new Error(server);
    expect([server.url.reveal(), server.shown]).toEqual([url, shown]);
    expect(isServerAddress(text)).toBe(true);
  });

  const faults: [says: string, text: string, problem: string][] = [
    ["Sentinel", "redis+sentinel://h:26379/canary", "names Sentinel, a cluster or several servers"],
    ["Sentinel, spelt with a dash", "redis-sentinel://h", "names Sentinel, a cluster or several servers"],
    ["a cluster", "redis+cluster://h", "names Sentinel, a cluster or several servers"],
    ["several hosts", "redis://canary1,canary2:6379", "names Sentinel, a cluster or several servers"],
    ["no host", "redis://", "is not an address"],
    ["one slash", "redis:/h", "is not an address"],
    ["a database that is no number", "redis://h/canary", "has no number of a database"],
    ["an unknown parameter", "redis://h?canary=1", "has no number of a database"],
    ["a negative database", "redis://h?db=-1", "has no number of a database"],
    ["an @ in the password", "redis://u:can@ary@h", "cannot be read"],
    ["a # in the password", "redis://u:can#ary@h", "cannot be read"],
    ["a % that is no escape", "redis://u:canary%zz@h", "cannot be read"],
    ["a placeholder", "redis://<canary>:6379", "has a placeholder or a space in it"],
    ["a port that is none", "redis://h:canary", "cannot be read"],
    ["a socket that is a directory", "unix:///run/canary/", "cannot be read"],
    ["a relative socket", "unix://canary.sock", "cannot be read"],
  ];
  test.each(faults)("may not have %s", (_, text, problem) => {
    const said = parseStateServer(text, "keywheel");
    expect(said).toContain(problem);
    expect(said).not.toContain("canary");
    const parsed = parseConfig({ API_KEYS: "k1", STATE: text });
    expect(parsed).toMatchObject({ ok: false, problems: [expect.stringContaining(`STATE ${problem}`)] });
  });

  test("is no path", () => {
    for (const path of ["keywheel.db", "./redis.db", "/var/lib/redis", "redis", "off"])
      expect(isServerAddress(path)).toBe(false);
  });

  test("is never shown with its password", () => {
    const server = parseStateServer("redis://u:canary@h", "keywheel");
    expect(Bun.inspect(server) + JSON.stringify(server)).not.toContain("canary");
  });

  test("takes the place of the file", () => {
    const parsed = parseConfig({ API_KEYS: "k1", STATE: "redis://h", STATE_PREFIX: "team" });
    expect(parsed).toMatchObject({
      ok: true,
      config: { statePath: null, stateServer: { prefix: "team", database: 0 } },
    });
  });
});

describe("STATE_PREFIX", () => {
  test.each(["keywheel", "team-1.blue_2", "K"])("may be %s", (text) => {
    expect(STATE_PREFIX.read(text)).toBe(text);
  });

  test.each([
    ["a colon, so that no two pools meet", "a:b"],
    ["a pattern", "a*"],
    ["a blank", "a b"],
    ["more than 64 letters", "a".repeat(65)],
  ])("may not have %s", (_, text) => {
    expect(STATE_PREFIX.read(text)).toBeNull();
  });
});
