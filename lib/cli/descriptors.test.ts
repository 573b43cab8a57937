import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectRaw, httpAnswer, startRawProvider, until, type RawClient } from "../testing/fixture.ts";
import { connectionsToClose } from "./descriptors.ts";
import type { ClientSocket, RequestOnPort } from "./descriptors.ts";

describe("connections that are closed where descriptors run out", () => {
  const socket = (port: number, inode: number): ClientSocket => ({ descriptor: port + 1000, port, inode });
  const [oldest, older, newer, newest] = [socket(1, 10), socket(2, 20), socket(3, 30), socket(4, 40)];
  const all = [older, newest, oldest, newer];
  const busy = (port: number): RequestOnPort => ({ port, isReceiving: false });
  const receiving = (port: number): RequestOnPort => ({ port, isReceiving: true });

  const rows: [says: string, requests: RequestOnPort[], wanted: number, closed: ClientSocket[]][] = [
    ["are the newest", [], 2, [newest, newer]],
    ["are all where all are wanted", [], 9, [newest, newer, older, oldest]],
    ["are none where none is wanted", [], 0, []],
    ["are none with a request", [busy(4), busy(2)], 9, [newer, oldest]],
    ["are those whose request comes in, last", [receiving(4), busy(3)], 9, [older, oldest, newest]],
    ["are none of those where idle ones suffice", [receiving(4), receiving(3)], 2, [older, oldest]],
    ["are none where all have a request", [busy(1), busy(2), busy(3), busy(4)], 9, []],
    ["are as they would be, whatever else is asked by other ports", [busy(77), receiving(78)], 1, [newest]],
  ];
  test.each(rows)("P44 %s", (_, requests, wanted, closed) => {
    expect(connectionsToClose(all, requests, wanted)).toEqual(closed);
  });
});

describe("a proxy with few descriptors", () => {
  const ROOT = join(import.meta.dir, "../..");
  const POST = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{";

  test.each([
    ["say nothing", ""],
    ["send half of a head", "GET / HTTP/1.1\r\n"],
    ["send half of a body", POST],
  ])("P44 serves again within a second when more clients than it can have %s", async (_, sent) => {
    const folder = mkdtempSync(join(tmpdir(), "keywheel-"));
    await using provider = startRawProvider((_request, connection) =>
      connection.write(httpAnswer(200, '{"ok":true}')),
    );
    await using proxy = await startWith(128, provider.url, folder);
    const held: RawClient[] = [];
    for (let count = 0; count < 200; count++) held.push(await connectRaw(proxy.url));
    for (const client of held) client.write(sent);
    const startedAt = performance.now();
    const answers: number[] = [];
    while (answers.at(-1) !== 200 && performance.now() - startedAt < 4000) {
      const init = { method: "POST", body: "{}", keepalive: false, signal: AbortSignal.timeout(1000) };
      const answer = await fetch(`${proxy.url}/v1/chat/completions`, init).catch(() => null);
      answers.push(answer?.status ?? 0);
    }
    expect(answers.at(-1)).toBe(200);
    expect(performance.now() - startedAt).toBeLessThan(2500); // a second, on a machine that has other things to do
    expect(answers.filter((status) => ![0, 200, 503].includes(status))).toEqual([]);
    await until("connections were closed", () => held.some((client) => client.isClosed));
    const health = await (await fetch(`${proxy.url}/health`, { keepalive: false })).json();
    expect(health).toMatchObject({ status: "ok", providers: [{ state: "up", keys: [{ errors: 0 }] }] });
    for (const client of held) client.reset();
    rmSync(folder, { recursive: true });
  });

  async function startWith(descriptors: number, target: string, folder: string) {
    const environment = {
      PATH: process.env["PATH"] ?? "",
      API_KEYS: "key-one",
      PROVIDER: "generic",
      TARGET_BASE_URL: target,
      HOST: "127.0.0.1",
      PORT: "0",
      STATE: "off",
    };
    const command = `ulimit -n ${descriptors} && exec "$0" --no-env-file "$1"`;
    const child = Bun.spawn(["sh", "-c", command, process.execPath, join(ROOT, "proxy.ts")], {
      cwd: folder,
      env: environment,
      stdio: ["ignore", "pipe", "ignore"],
    });
    let printed = "";
    void (async () => {
      for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) printed += text;
    })();
    const address = /agent: +(http:\/\/127\.0\.0\.1:\d+)\/v1/;
    await until("it listens", () => address.test(printed), 10_000);
    const [, url = ""] = address.exec(printed) ?? [];
    return {
      url,
      async [Symbol.asyncDispose]() {
        child.kill("SIGKILL");
        await child.exited;
      },
    };
  }
});
