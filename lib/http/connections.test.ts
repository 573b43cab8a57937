import { describe, expect, test } from "bun:test";
import { canConnect, IdleConnections } from "./connections.ts";
import {
  exchange,
  FalseClock,
  httpAnswer,
  settled,
  stage,
  startRawProvider,
  until,
} from "../testing/fixture.ts";
import type { RawConnection, RawProvider, Stage } from "../testing/fixture.ts";

const SETTINGS = { API_KEYS: "key-one", PROVIDER: "generic", MAX_WAIT_SEC: "5", COOLDOWN_SEC: "1" };
const IDLE = 12;

/** The proxy with twelve idle connections to its provider, each of which resets when it is used again. */
async function withDeadConnections(
  play: (staged: Stage, provider: RawProvider) => Promise<void>,
): Promise<void> {
  const first: RawConnection[] = [];
  let areDead = false;
  await using provider = startRawProvider((_, connection) => {
    if (areDead)
      return first.includes(connection) ? connection.reset() : connection.write(httpAnswer(200, "{}"));
    // The first twelve are answered together, so that each has a connection of its own.
    if (first.push(connection) < IDLE) return;
    areDead = true;
    for (const waiting of first) waiting.write(httpAnswer(200, "{}"));
  });
  await using staged = stage({ settings: { ...SETTINGS, TARGET_BASE_URL: provider.url } });
  const answers = await Promise.all(Array.from({ length: IDLE }, () => send(staged, "POST")));
  expect(answers).toEqual(Array.from({ length: IDLE }, () => 200));
  expect(provider.openConnections).toBe(IDLE);
  await play(staged, provider);
}

async function send(staged: Stage, method: string): Promise<number> {
  const body = method === "GET" || method === "HEAD" ? "" : "{}";
  const head = `${method} /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n`;
  return (await exchange(staged.url, head + body)).status;
}

describe("idle connections that are dead", () => {
  test.each(["PUT", "DELETE", "GET", "HEAD", "OPTIONS"])(
    "P3 cost a request with %s at most one replay",
    async (method) => {
      await withDeadConnections(async (staged, provider) => {
        const before = provider.requests.length;
        expect(await send(staged, method)).toBe(200);
        expect(provider.requests.length - before).toBeLessThanOrEqual(2);
      });
    },
  );

  test("P3 cost nobody an answer, and only the first request a replay", async () => {
    await withDeadConnections(async (staged, provider) => {
      const before = provider.requests.length;
      const statuses: number[] = [];
      for (let nth = 0; nth < 9; nth++) statuses.push(await send(staged, "POST"));
      expect(statuses).toEqual(Array.from({ length: 9 }, () => 200));
      expect(provider.requests.length - before).toBe(10); // only the one that met a dead connection was sent twice
      await until("the dead ones are closed", () => provider.openConnections <= 1);
    });
  });
});

describe("requests at once over idle connections that are dead", () => {
  const atOnce = (staged: Stage, count: number) =>
    Promise.all(Array.from({ length: count }, () => send(staged, "POST")));
  const all = (count: number, status: number) => Array.from({ length: count }, () => status);

  test.each([9, 12])("P3, P7 are all answered, with one replay each: %d", async (count) => {
    await withDeadConnections(async (staged, provider) => {
      const before = provider.requests.length;
      expect(await atOnce(staged, count)).toEqual(all(count, 200));
      expect(provider.requests.length - before).toBeLessThanOrEqual(2 * count);
      expect((await staged.health()).providers[0]?.keys[0]?.errors).toBe(0);
    });
  });

  test("P3 are all answered where more come than there were connections", async () => {
    await withDeadConnections(async (staged, provider) => {
      const before = provider.requests.length;
      expect(await atOnce(staged, 20)).toEqual(all(20, 200));
      expect(provider.requests.length - before).toBeLessThanOrEqual(20 + IDLE);
    });
  });

  /** A provider that answers while it is up, and resets every connection at the first request while it is down. */
  async function withOutage(
    play: (staged: Stage, provider: RawProvider, setDown: (isDown: boolean) => void) => Promise<void>,
  ): Promise<void> {
    let isDown = false;
    await using provider = startRawProvider((_, connection) =>
      isDown ? connection.reset() : void connection.write(httpAnswer(200, "{}")),
    );
    await using staged = stage({
      settings: { ...SETTINGS, MAX_WAIT_SEC: "0", TARGET_BASE_URL: provider.url },
    });
    await play(staged, provider, (value) => (isDown = value));
  }

  test("P7 leave the retries of an outage as few as before, where it resets from the start", async () => {
    await withOutage(async (staged, provider, setDown) => {
      setDown(true);
      await atOnce(staged, 30);
      expect(provider.requests.length).toBeLessThanOrEqual(30 + 9);
    });
  });

  test("P7 leave the retries of an outage as few as before, where one request after another meets it", async () => {
    await withOutage(async (staged, provider, setDown) => {
      let resets = 0;
      for (let nth = 0; nth < 60; nth++) {
        setDown(nth % 2 === 1);
        const before = provider.requests.length;
        await send(staged, "POST");
        if (nth % 2 === 1) resets += provider.requests.length - before - 1;
      }
      expect(resets).toBeLessThanOrEqual(3 + 60 / 5 + 1);
    });
  });

  test("P7 leave the retries of an outage as few as before, where it comes in the middle of a load", async () => {
    await withOutage(async (staged, provider, setDown) => {
      let asked = 0;
      const client = async () => {
        for (let nth = 0; nth < 20; nth++) {
          asked += 1;
          if (asked === 100) setDown(true);
          await send(staged, "POST");
        }
      };
      await Promise.all(Array.from({ length: 10 }, client));
      expect(asked).toBe(200);
      expect(provider.requests.length).toBeLessThanOrEqual(200 + 3 + 200 / 5);
    });
  });
});

describe("P7 which broken attempts are the fault of a connection that was idle", () => {
  /**
   * What becomes of attempts: `>` one goes out, `<` one is answered, `!` one breaks, `d` the idle ones are dropped, `_`
   * 15 s go by.
   */
  const play = (steps: string, everyMs: number) => {
    const idle = new IdleConnections();
    const sent: number[] = [];
    let told = "";
    let now = 1e12;
    for (const step of steps) {
      now += everyMs;
      if (step === ">") sent.push(idle.onSent(now));
      else if (step === "<") idle.onEnded(sent.shift() !== undefined, now);
      else if (step === "d") idle.drop();
      else if (step === "_") now += 15_000;
      else {
        told += idle.forgive(sent.shift() ?? -1, now) ? "y" : "n";
        idle.drop();
        idle.onEnded(false, now);
      }
    }
    return told;
  };
  test.each<[sentence: string, steps: string, forgiven: string, everyMs: number]>([
    ["none of the first ones", ">>>!!!", "nnn", 1],
    ["all that go out over rested ones", ">>><<<>>>!!!", "yyy", 1],
    ["no more than there were", ">><<>>>>!!!!", "yynn", 1],
    ["none that went out after the first of them broke", "><><>!>!", "yn", 1],
    ["none where something else had the idle ones dropped", ">>><<<>>d!!", "nn", 1],
    ["none while others are under way", ">>><<>!", "n", 1],
    ["not the next time within ten seconds", "><>!><>!", "yn", 1],
    ["the next time after that", "><>!><>!", "yy", 4000],
    ["none that have been idle for longer than they are kept", "><>!", "n", 13_000],
    ["no more than there are once those of before were closed", ">>>>>><<<<<<_><>>>!!!", "ynn", 3000],
    ["none once they were dropped", "><d>!", "n", 1],
  ])("%s", (_, steps, forgiven, everyMs) => {
    expect(play(steps, everyMs)).toBe(forgiven);
  });
});

test("P3 a connection that went silent takes its idle ones with it", async () => {
  let isSilent = false;
  await using provider = startRawProvider((_, connection) => {
    if (!isSilent) setTimeout(() => connection.write(httpAnswer(200, "{}")), 30);
  });
  const clock = new FalseClock();
  const settings = {
    ...SETTINGS,
    TARGET_BASE_URL: provider.url,
    FIRST_BYTE_TIMEOUT_SEC: "5",
    MAX_ATTEMPTS: "1",
  };
  await using staged = stage({ settings, clock });
  await Promise.all(Array.from({ length: 4 }, () => send(staged, "POST")));
  expect(provider.openConnections).toBe(4);
  isSilent = true;
  const answer = send(staged, "POST");
  await until("it is sent", () => provider.requests.length === 5);
  await clock.advance(6000);
  expect(await answer).toBe(504);
  await until("they are closed", () => provider.openConnections === 0);
});

describe("P21 the probe of a connection", () => {
  const silent = (answer: string) =>
    Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: { data: (socket) => void (answer && socket.write(answer)) },
    });

  test("is not content with a TLS handshake that is never answered", async () => {
    const listener = silent("");
    const clock = new FalseClock();
    const probe = canConnect(new URL(`https://127.0.0.1:${listener.port}`), clock);
    await until("it waits", () => clock.timers === 1);
    for (let turn = 0; turn < 5; turn++) await settled();
    await clock.advance(3000);
    expect(await probe).toBe(false);
    listener.stop(true);
  });

  test.each([
    ["https", "HTTP/1.1 400 Bad Request\r\n\r\n"], // whatever is wrong, the attempt itself gets to know it
    ["http", ""],
  ])("takes any answer for a connection: %s", async (scheme, answer) => {
    const listener = silent(answer);
    expect(await canConnect(new URL(`${scheme}://127.0.0.1:${listener.port}`), new FalseClock())).toBe(true);
    listener.stop(true);
  });

  test.each(["http", "https"])("knows that nobody listens: %s", async (scheme) => {
    const listener = silent("");
    const { port } = listener;
    listener.stop(true);
    expect(await canConnect(new URL(`${scheme}://127.0.0.1:${port}`), new FalseClock())).toBe(false);
  });
});
