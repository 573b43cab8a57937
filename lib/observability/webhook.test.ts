import { describe, expect, test } from "bun:test";
import { FalseClock, until } from "../testing/fixture.ts";
import { createLog } from "./log.ts";
import { Webhook, combined, noticeOf, webhookRequest } from "./webhook.ts";
import type { KeyEvent } from "../core/events.ts";
import { Secret } from "../core/secret.ts";

const NOON = Date.UTC(2026, 10, 20, 12);

const change = (changes: Partial<KeyEvent> = {}): KeyEvent => ({
  at: NOON,
  provider: "groq",
  key: 1,
  keyId: "3e23e816",
  account: null,
  kind: "disabled",
  model: null,
  reason: "invalid_key",
  until: null,
  said: "",
  ...changes,
});

const providerWide = (kind: KeyEvent["kind"], changes: Partial<KeyEvent> = {}): KeyEvent =>
  change({ key: null, keyId: null, kind, reason: null, ...changes });

interface Posted {
  text: string;
  events: { kind: string }[];
}

/** A notifier, and a service that answers its posts by script. */
function open(answer: (nth: number) => Response | Promise<Response> = () => new Response("ok")) {
  const clock = new FalseClock(NOON);
  const posted: Posted[] = [];
  const post = (_: string, { body, signal }: RequestInit): Promise<Response> => {
    posted.push(JSON.parse(String(body)));
    const { promise: cut, reject } = Promise.withResolvers<never>();
    signal?.addEventListener("abort", () => reject(signal.reason));
    return Promise.race([answer(posted.length), cut]);
  };
  let said = "";
  const log = createLog({ level: "debug", format: "json", clock, write: (text) => (said += text) });
  const url = new Secret("https://chat.example.com/hook/canary0123456789");
  const notifier = new Webhook({ url, clock, random: () => 0.5, fetch: post, log });
  return {
    clock,
    posted,
    notifier,
    texts: () => posted.map(({ text }) => text),
    kinds: () => posted.map(({ events }) => events.map(({ kind }) => kind).join("+")),
    said() {
      log.flush();
      return said;
    },
  };
}

describe("the notifier", () => {
  test("tells of a dead key, and when it works again", async () => {
    const { notifier, clock, texts } = open();
    notifier.keyChanged(change({ said: "Invalid API Key" }));
    await clock.advance(1000);
    expect(texts()).toEqual([
      'keywheel: Key 3e23e816 of groq is out of use\nKey 3e23e816 of groq is out of use (invalid_key). Upstream said: "Invalid API Key". Replace it; or, once it works again, reset it: keywheel keys reset.',
    ]);
    notifier.keyChanged(change({ kind: "back", reason: null }));
    await clock.advance(10_000);
    expect(texts()[1]).toBe(
      "keywheel: Key 3e23e816 of groq works again\nKey 3e23e816 of groq is in use again.",
    );
  });

  test("says nothing of what is every day's business", async () => {
    const { notifier, clock } = open();
    for (const kind of ["cooled", "doubted", "back", "paused_by_hand", "resumed_by_hand"] as const) {
      notifier.keyChanged(change({ kind, until: NOON + 1000 }));
    }
    notifier.keyChanged(providerWide("pool_recovered"));
    notifier.keyChanged(providerWide("provider_up"));
    expect(clock.timers).toBe(0);
  });

  const shortages: [says: string, events: [afterMs: number, event: KeyEvent][], kinds: string[]][] = [
    ["a pool that is dry for good, at once", [[0, providerWide("pool_dry")]], ["pool_dry"]],
    [
      "a pool that will be dry for long, at once",
      [[0, providerWide("pool_dry", { until: NOON + 300_000 })]],
      ["pool_dry"],
    ],
    [
      "nothing while a pool is dry for a moment",
      [
        [0, providerWide("pool_dry", { until: NOON + 5000 })],
        [5000, providerWide("pool_recovered")],
        [100_000, change({ kind: "cooled" })],
      ],
      [],
    ],
    [
      "a pool that was to be dry for a moment only, once it has lasted",
      [
        [0, providerWide("pool_dry", { until: NOON + 5000 })],
        [61_000, change({ kind: "cooled" })],
      ],
      ["pool_dry"],
    ],
    [
      "a provider that is paused again and again for a minute",
      [
        [0, providerWide("provider_paused", { until: NOON + 2000 })],
        [30_000, providerWide("provider_paused", { at: NOON + 30_000, until: NOON + 45_000 })],
        [31_000, change({ kind: "cooled" })],
      ],
      ["provider_paused"],
    ],
    [
      "nothing of a provider that is up again within a minute",
      [
        [0, providerWide("provider_paused", { until: NOON + 2000 })],
        [2000, providerWide("provider_up")],
        [100_000, change({ kind: "cooled" })],
      ],
      [],
    ],
    [
      "what was told to be wrong when it is well again",
      [
        [0, providerWide("pool_dry")],
        [20_000, providerWide("pool_recovered")],
      ],
      ["pool_dry", "pool_recovered"],
    ],
  ];
  test.each(shortages)("tells of %s", async (_, events, told) => {
    const { notifier, clock, kinds } = open();
    for (const [afterMs, event] of events) {
      await clock.advance(afterMs);
      notifier.keyChanged(event);
    }
    await clock.advance(1000);
    expect(kinds()).toEqual(told);
  });

  test("tells the same thing once in ten minutes, and again if it is wrong after that", async () => {
    const { notifier, clock, kinds } = open();
    for (const minute of [1, 2]) {
      notifier.keyChanged(providerWide("pool_dry"));
      await clock.advance(30_000);
      notifier.keyChanged(providerWide("pool_recovered"));
      await clock.advance(30_000);
      expect(kinds()).toEqual(["pool_dry", "pool_recovered"]);
      expect(clock.now()).toBe(NOON + minute * 60_000);
    }
    notifier.keyChanged(providerWide("pool_dry"));
    await clock.advance(480_000);
    expect(kinds().length).toBe(2);
    await clock.advance(1000);
    expect(kinds()).toEqual(["pool_dry", "pool_recovered", "pool_dry"]);
  });

  test("tells together what happens together", async () => {
    const { notifier, clock, texts, kinds } = open();
    for (const key of [0, 1, 2]) notifier.keyChanged(change({ key, keyId: `3e23e81${key}` }));
    await clock.advance(1000);
    expect(kinds()).toEqual(["disabled+disabled+disabled"]);
    expect(texts()[0]).toStartWith("keywheel: 3 changes\n- Key 3e23e810 of groq is out of use");
  });

  test("sends at most one message in 10 s, with the rest in the next", async () => {
    const { notifier, clock, kinds } = open();
    for (let key = 0; key < 4; key++) {
      notifier.keyChanged(change({ key, keyId: `3e23e81${key}` }));
      await clock.advance(2000);
    }
    expect(kinds()).toEqual(["disabled"]);
    await clock.advance(3000);
    expect(kinds()).toEqual(["disabled", "disabled+disabled+disabled"]);
  });

  test("keeps a bounded number, and counts the rest", async () => {
    const { notifier, clock, texts } = open();
    for (let key = 0; key < 500; key++) notifier.keyChanged(change({ key, keyId: `id ${key}` }));
    await clock.advance(1000);
    expect(texts()[0]).toContain("keywheel: 500 changes");
    expect(texts()[0]).toEndWith("- and 490 more: keywheel status shows all.");
    expect(texts()[0]?.split("\n").length).toBe(12);
  });

  test("tries again after a failure, later each time, then gives up and says so without the URL", async () => {
    const { notifier, clock, posted, said } = open(() => new Response("no", { status: 500 }));
    notifier.keyChanged(change());
    await clock.advance(1000);
    expect(posted.length).toBe(1);
    await clock.advance(1500);
    expect(posted.length).toBe(2);
    await clock.advance(6000);
    expect(posted.length).toBe(3);
    await clock.advance(600_000);
    expect(posted.length).toBe(3);
    expect(JSON.parse(said())).toMatchObject({ event: "webhook_failed", why: "status 500", attempts: 3 });
    expect(said()).not.toContain("canary");
  });

  test("delivers at the second attempt what failed at the first", async () => {
    const { notifier, clock, posted, said } = open(
      (nth) => new Response("", { status: nth === 1 ? 503 : 204 }),
    );
    notifier.keyChanged(change());
    await clock.advance(3000);
    expect(posted.length).toBe(2);
    expect(said()).toBe("");
  });

  test("leaves the service alone for as long as it asks", async () => {
    const headers = { "retry-after": "30" };
    const { notifier, clock, posted } = open(
      (nth) => new Response("", { status: nth === 1 ? 429 : 200, headers }),
    );
    notifier.keyChanged(change());
    await clock.advance(1000);
    await clock.advance(29_000);
    expect(posted.length).toBe(1);
    await clock.advance(1000);
    expect(posted.length).toBe(2);
  });

  test("does not try again what is refused for good, and follows nobody elsewhere", async () => {
    for (const status of [404, 301]) {
      const { notifier, clock, posted, said } = open(
        () => new Response("", { status, headers: { location: "/elsewhere" } }),
      );
      notifier.keyChanged(change());
      await clock.advance(100_000);
      expect(posted.length).toBe(1);
      expect(said()).toContain(`"status ${status}"`);
    }
  });

  test("waits 10 s for an answer, and holds up nothing meanwhile", async () => {
    const { notifier, clock, posted, said } = open(() => new Promise(() => {}));
    notifier.keyChanged(change());
    await clock.advance(1000);
    expect(posted.length).toBe(1);
    for (let key = 10; key < 20; key++) notifier.keyChanged(change({ key, keyId: `id ${key}` }));
    await clock.advance(10_000 + 1500);
    expect(posted.length).toBe(2);
    await clock.advance(10_000 + 6000);
    expect(posted.length).toBe(3);
    await clock.advance(10_000);
    expect(said()).toContain("no answer within 10 s");
    notifier.close();
  });

  test("posts over a real connection, and names no address when there is none", async () => {
    const clock = new FalseClock(NOON);
    let told = "";
    const log = createLog({ level: "debug", format: "json", clock, write: (text) => (told += text) });
    const received: string[] = [];
    const server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      async fetch(request) {
        received.push(`${request.method} ${new URL(request.url).pathname} ${await request.text()}`);
        return new Response("ok");
      },
    });
    const url = new Secret(`http://127.0.0.1:${server.port}/hook/canary0123456789`);
    const notifier = new Webhook({ url, clock, random: () => 0.5, fetch, log });
    notifier.keyChanged(change());
    await clock.advance(1000);
    await until("the message is there", () => received.length === 1);
    expect(received[0]).toStartWith('POST /hook/canary0123456789 {"text":"keywheel: Key 3e23e816');
    await server.stop(true);
    notifier.keyChanged(change({ keyId: "another" }));
    await until("it gives up", () => {
      void clock.advance(1000);
      log.flush();
      return told !== "";
    });
    expect(JSON.parse(told)).toMatchObject({ event: "webhook_failed", attempts: 3 });
    expect(told).not.toMatch(/canary|127\.0\.0\.1/);
  });

  test("is silent and leaves no timer once it is closed", async () => {
    const { notifier, clock, posted } = open();
    notifier.keyChanged(change());
    notifier.keyChanged(providerWide("pool_dry", { until: NOON + 1000 }));
    notifier.close();
    notifier.keyChanged(change({ keyId: "other" }));
    expect(clock.timers).toBe(0);
    await clock.advance(100_000);
    expect(posted).toEqual([]);
  });
});

describe("a webhook's request", () => {
  const notice = noticeOf(change({ said: "<!channel> @everyone" }));
  const requestTo = (url: string) => webhookRequest(new URL(url), notice);

  test("goes to ntfy as plain text, with the title in a header", () => {
    for (const url of ["https://ntfy.sh/topic", "https://ntfy.example.com/topic"]) {
      const { headers, body } = requestTo(url);
      expect(headers).toMatchObject({
        title: "keywheel: Key 3e23e816 of groq is out of use",
        tags: "warning",
      });
      expect(headers["content-type"]).toStartWith("text/plain");
      expect(body).toStartWith("Key 3e23e816 of groq is out of use (invalid_key).");
    }
  });

  const bodies: [says: string, url: string, fields: string[]][] = [
    ["Slack", "https://hooks.slack.com/services/T0/B0/x", ["text"]],
    ["Google Chat, which refuses what it does not know", "https://chat.googleapis.com/v1/spaces/x", ["text"]],
    ["Discord", "https://discord.com/api/webhooks/1/x", ["content", "allowed_mentions"]],
    ["Discord's endpoint for Slack's format", "https://discord.com/api/webhooks/1/x/slack", ["text"]],
    [
      "ntfy's root, which takes JSON, like anybody",
      "https://ntfy.sh/",
      ["text", "content", "allowed_mentions", "title", "message", "level", "events"],
    ],
    [
      "a name that only looks like Slack's",
      "https://notslack.com/x",
      ["text", "content", "allowed_mentions", "title", "message", "level", "events"],
    ],
  ];
  test.each(bodies)("has the fields of %s", (_, url, fields) => {
    expect(Object.keys(JSON.parse(requestTo(url).body))).toEqual(fields);
  });

  test("calls nobody, whatever upstream said", () => {
    expect(requestTo("https://hooks.slack.com/x").body).toContain("&lt;!channel&gt;");
    expect(JSON.parse(requestTo("https://discord.com/api/webhooks/1/x").body)["allowed_mentions"]).toEqual({
      parse: [],
    });
  });

  test("carries a password of the URL as a header", () => {
    const { url, headers } = requestTo("https://me:p%40ss@ntfy.example.com/topic");
    expect(url).toBe("https://ntfy.example.com/topic");
    expect(headers["authorization"]).toBe(`Basic ${btoa("me:p@ss")}`);
  });

  test("stays within what Discord takes", () => {
    const long = noticeOf(change({ said: "x".repeat(300) }));
    const many = combined(
      Array.from({ length: 50 }, () => long),
      0,
    );
    const { body } = webhookRequest(new URL("https://discord.com/api/webhooks/1/x"), many);
    expect(JSON.parse(body)["content"].length).toBeLessThanOrEqual(2000);
  });
});
