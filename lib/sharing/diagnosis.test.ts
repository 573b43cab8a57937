import { afterEach, describe, expect, test } from "bun:test";
import { parseStateServer } from "../config/state-server.ts";
import type { StateServer } from "../config/state-server.ts";
import { TEST_TLS } from "../testing/certificate.ts";
import { diagnose, explain } from "./diagnosis.ts";

describe("P48 what a server says", () => {
  test.each([
    ["a wrong password", "WRONGPASS invalid username-password pair or user is disabled.", "password", true],
    ["a wrong password, Redis 6", "ERR invalid password", "password", true],
    ["no password", "NOAUTH HELLO must be called with the client already authenticated", "asks for a", true],
    [
      "a password where there is none",
      "ERR AUTH <password> called without any password configured for the default user",
      "Take it out",
      true,
    ],
    ["protected mode", "DENIED Redis is running in protected mode", "protected mode", true],
    ["a database that is not there", "ERR DB index is out of range", "number in STATE", true],
    ["a cluster, by its mode", "cluster", "single server", true],
    ["Sentinel, by its mode", "sentinel", "primary", true],
    ["an old server", "ERR unknown command `HELLO`, with args beginning with: `3`", "Redis 6", true],
    ["a server that speaks RESP 2 alone", "NOPROTO unsupported protocol version", "Redis 6", true],
    ["an imitation without scripts", "ERR unknown command 'EVALSHA'", "a command that is needed", false],
    ["a cluster, by where it leads", "MOVED 1234 10.0.0.1:6379", "single server", false],
    ["a cluster that is down", "CLUSTERDOWN Hash slot not served", "single server", false],
    [
      "an access list, and what it forbids",
      "NOPERM this user has no permissions to run the 'evalsha' command",
      "the 'evalsha' command",
      false,
    ],
    [
      "an access list, inside of a script",
      "ERR The user executing the script can't run this command or subcommand script: NOPERM",
      "access list",
      false,
    ],
    [
      "a replica",
      "READONLY You can't write against a read only replica. script: 84, on @u:6.",
      "primary",
      false,
    ],
    ["a replica that is cut off", "MASTERDOWN Link with MASTER is down", "primary", false],
    ["too few replicas", "NOREPLICAS Not enough good replicas to write.", "min-replicas", false],
    ["a full memory", "OOM command not allowed when used memory > 'maxmemory'.", "maxmemory", false],
    ["a full disk", "MISCONF Redis is configured to save RDB snapshots", "disk", false],
    ["a start", "LOADING Redis is loading the dataset in memory", "loading", false],
    ["somebody's script", "BUSY Redis is busy running a script.", "SCRIPT KILL", false],
    ["too many clients", "ERR max number of clients reached", "maxclients", false],
    [
      "names that others use",
      "WRONGTYPE Operation against a key holding the wrong kind of value script: 84, on @user_script:4.",
      "STATE_PREFIX",
      false,
    ],
    [
      "values that others wrote",
      "ERR user_script:12: attempt to compare nil with number",
      "STATE_PREFIX",
      false,
    ],
    ["something else", "ERR \u001b[31mred\u0007 alert", "it says: ERR  [31mred  alert", false],
  ])("is explained: %s", (_, said, why, isOfSettings) => {
    const found = explain(said);
    expect(found.why).toContain(why);
    expect(found.isOfSettings).toBe(isOfSettings);
  });

  test("is cut where it is long, and of control characters nothing is shown", () => {
    const { why } = explain(`ERR ${"\u0000\u001b".repeat(50)}${"z".repeat(100_000)}`);
    expect(why.length).toBeLessThan(250);
    expect(why).toMatch(/^[\x20-\x7e]*$/);
  });
});

const cleanups: (() => unknown)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

function serverAt(text: string): StateServer {
  const server = parseStateServer(text, "keywheel");
  if (typeof server === "string") throw new Error(server);
  return server;
}

/** Something that answers this to whatever comes; null: nothing. */
function listen(answer: string | null, tls?: Bun.TLSOptions): { port: number; heard: () => string } {
  let heard = "";
  const listener = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    ...(tls && { tls }),
    socket: {
      data(socket, bytes) {
        heard += bytes.toString("latin1");
        if (answer !== null) socket.write(Buffer.from(answer, "latin1"));
      },
    },
  });
  cleanups.push(() => listener.stop(true));
  return { port: listener.port, heard: () => heard };
}

describe("P48 why no connection can be made", () => {
  test.each([
    ["nothing listens there", () => "redis://127.0.0.1:1", "nothing listens"],
    ["there is no socket", () => "unix:///run/keywheel-no-such.sock", "no such socket"],
    [
      "a web server answers",
      () => `redis://127.0.0.1:${listen("HTTP/1.1 400 Bad\r\n\r\n").port}`,
      "web server",
    ],
    ["something else answers", () => `redis://127.0.0.1:${listen("SSH-2.0-x\r\n").port}`, "neither"],
    ["bytes answer", () => `redis://127.0.0.1:${listen("\x00\xff\xfe\x01").port}`, "neither"],
    ["the server refuses", () => `redis://:a@127.0.0.1:${listen("-WRONGPASS no\r\n").port}`, "password"],
    [
      "it speaks TLS",
      () => `redis://127.0.0.1:${listen(null, TEST_TLS).port}`,
      "Write rediss:// instead of redis://",
    ],
    [
      "it does not speak TLS",
      () => `rediss://127.0.0.1:${listen("-NOAUTH no\r\n").port}`,
      "Write redis:// instead of rediss://",
    ],
    [
      "its certificate is not trusted",
      () => `rediss://127.0.0.1:${listen("+OK\r\n", TEST_TLS).port}`,
      "NODE_EXTRA_CA_CERTS",
    ],
  ])("is found out: %s", async (_, address, why) => {
    expect((await diagnose(serverAt(address()))).why).toContain(why);
  });

  test("a password goes to nobody whose certificate is not trusted, nor to one without TLS", async () => {
    const untrusted = listen("+OK\r\n", TEST_TLS);
    const plain = listen("-NOAUTH no\r\n");
    for (const { port } of [untrusted, plain])
      await diagnose(serverAt(`rediss://user:sesame-open@127.0.0.1:${port}`));
    expect(untrusted.heard() + plain.heard()).not.toContain("sesame");
  });
});
