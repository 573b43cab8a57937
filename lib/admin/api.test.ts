import type { ClientReport } from "../pool/client-limits.ts";
import { describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { type Admin, createAdmin, type Operator } from "./api.ts";
import type { Access, Listen } from "../config/config.ts";
import type { ConfiguredKey } from "../config/keys.ts";
import type {
  ChangeRefused,
  KeyTrial,
  KeyView,
  LiveEvent,
  ChangeOutcome,
  AdminOverview,
  ReloadOutcome,
} from "./views.ts";
import type { TrafficRange } from "../observability/usage.ts";
import type { NewProvider } from "./settings-editor.ts";
import { FalseClock, settled, until } from "../testing/fixture.ts";
import { createLog } from "../observability/log.ts";
import { contentPolicy, document } from "./dashboard.ts";
import type { KeyEvent, RequestRecord } from "../core/events.ts";
import { fingerprint, Secret } from "../core/secret.ts";

const PASSWORD = "canary-password-Z8";
const KEYS = ["sk-canary-one-1111", "sk-canary-two-2222"];
const IDS = KEYS.map(fingerprint);
const BEARER = { authorization: `Bearer ${PASSWORD}` };
const JSON_TYPE = { "content-type": "application/json" };

/** An engine that does nothing but remember what it was asked to do. */
const LIMITED: ClientReport = {
  client: "ann",
  clientKeyId: null,
  perMinute: null,
  perDay: { limit: 20, used: 5, left: 15, resetMs: 59_001 },
  tokensPerDay: null,
  models: ["llama-*"],
};

class RememberingOperator implements Operator {
  /** One line a change. */
  readonly asked: string[] = [];
  listener: ((event: LiveEvent) => void) | null = null;
  overviews = 0;
  inFlight = 0;
  trial: KeyTrial = { kind: "works" };
  /** By the ids of keys. */
  readonly trials = new Map<string, KeyTrial | ChangeRefused>();
  /** What is different from the usual overview. */
  changes: Partial<AdminOverview> = {};
  outcome: ChangeOutcome = { kind: "done", message: "It was done." };
  reloaded: ReloadOutcome = { kind: "done", changes: ["groq was added"] };

  overview(): AdminOverview {
    this.overviews += 1;
    const settings = { rpm: { value: "auto", origin: "default" as const, locked: null } };
    const provider = {
      dialect: "nvidia",
      isDisabled: false,
      pausedMs: 0,
      pauseReason: null,
      pauseSaid: "",
      breaker: "closed" as const,
      settings,
    };
    const address = { baseUrl: "https://api.example/v1", waiting: 0, inFlight: this.inFlight };
    return {
      version: "1.2.3",
      uptimeMs: 12_345,
      isDraining: false,
      inFlight: this.inFlight,
      underWay: [],
      hidden429: { "1h": 1, "24h": 2, "7d": 3, "30d": 4 },
      maxWaitMs: 100_000,
      bufferedBytes: 0,
      listen: "http://127.0.0.1:3000",
      access: "protected",
      envFile: "/etc/keywheel.env",
      warnings: [],
      problems: [],
      clients: [LIMITED],
      providers: [
        { name: "default", ...provider, ...address, keys: IDS.map(keyView) },
        { name: "groq", ...provider, ...address, keys: [] },
      ],
      ...this.changes,
    };
  }
  /** Of its only row of usage. */
  model: string | null = null;
  recent(limit: number, isWanted: (record: RequestRecord) => boolean): RequestRecord[] {
    return [2, 1].map(record).filter(isWanted).slice(0, limit);
  }
  usage(days: number) {
    const counts = { requests: days, rateLimited: 2, errors: 1, inputTokens: 100, outputTokens: 20 };
    const details = { cachedTokens: 60, cacheWriteTokens: 5, reasoningTokens: 10 };
    const key = { day: "2026-11-20", provider: "default", keyId: IDS[0] ?? "" };
    return [{ ...key, model: this.model, client: "ann", ...counts, ...details }];
  }
  traffic(range: TrafficRange) {
    const counts = { requests: 5, absorbed: 2, hidden429: 1, errors: 1 };
    return { range, stepMs: 60_000, points: [{ at: Date.UTC(2026, 10, 20, 12), ...counts }] };
  }
  pause = (provider: string, id: string) => this.#change(`pause ${provider} ${id}`);
  resume = (provider: string, id: string) => this.#change(`resume ${provider} ${id}`);
  reset = (provider: string, id: string) => this.#change(`reset ${provider} ${id}`);
  validate = async (provider: string, keys: readonly ConfiguredKey[]) => {
    this.asked.push(`validate ${provider} ${keys.map(({ secret }) => secret.id)}`);
    return keys.map(({ secret }) => this.trials.get(secret.id) ?? this.trial);
  };
  check = async (provider: string, id: string) => {
    this.asked.push(`check ${provider} ${id}`);
    return this.trial;
  };
  addKeys = async (provider: string, keys: readonly ConfiguredKey[]) =>
    this.#change(
      `add ${provider} ${keys.map(({ secret, account, dailyLimit }) => `${secret.id} ${account} ${dailyLimit}`)}`,
    );
  addProvider = async ({ name, baseUrl, dialect, keys }: NewProvider) =>
    this.#change(`make ${name} ${baseUrl} ${dialect} ${keys.map(({ secret }) => secret.id)}`);
  removeProvider = async (provider: string) => this.#change(`unmake ${provider}`);
  removeKey = async (provider: string, id: string) => this.#change(`remove ${provider} ${id}`);
  reorderKeys = async (provider: string, ids: readonly string[]) => this.#change(`order ${provider} ${ids}`);
  editProvider = async (provider: string, changes: ReadonlyMap<string, string | null>) =>
    this.#change(`edit ${provider} ${JSON.stringify([...changes])}`);
  reload = async () => {
    this.asked.push("reload");
    return this.reloaded;
  };
  subscribe = (listener: (event: LiveEvent) => void) => {
    this.listener = listener;
    return () => (this.listener = null);
  };

  #change(what: string): ChangeOutcome {
    this.asked.push(what);
    return this.outcome;
  }
}

function keyView(id: string, index: number): KeyView {
  const counts = { requests: 3, rateLimited: 1, errors: 0, today: 3, inFlight: 0, lastUsedAt: 0 };
  const limits = { dailyLimit: null, rpmLimit: 40, coolingMs: 0, models: {}, said: "" };
  const place = { index, id, account: null, source: "API_KEYS", locked: null };
  const marks = { lastFour: "4xyz", beats: "o".repeat(30) };
  return { ...place, ...marks, state: "ready", reason: null, ...counts, ...limits };
}

function record(id: number): RequestRecord {
  return {
    id,
    at: Date.UTC(2026, 10, 20, 12),
    method: "POST",
    path: "/v1/chat/completions",
    provider: "default",
    model: "gpt-4o",
    status: 200,
    outcome: "served",
    key: "0",
    keyId: IDS[0] ?? "",
    account: null,
    attempts: [
      {
        provider: "default",
        key: 1,
        keyId: IDS[1] ?? "",
        account: null,
        verdict: "rate_limited",
        status: 429,
        ms: 9,
        said: "",
      },
    ],
    waitedMs: 0,
    firstByteMs: 210,
    totalMs: 1830,
    bytes: 5120,
    client: null,
    isTruncated: false,
    reason: "",
    maybeBilledReplays: 0,
  };
}

const COOLED: KeyEvent = {
  at: Date.UTC(2026, 10, 20, 12),
  provider: "default",
  key: 0,
  keyId: IDS[0] ?? "",
  account: null,
  kind: "cooled",
  model: null,
  reason: "rate_limit",
  until: Date.UTC(2026, 10, 20, 12, 1),
  said: "slow down",
};

interface AdminStage {
  url: string;
  operator: RememberingOperator;
  admin: Admin;
  clock: FalseClock;
  /** What is logged so far. */
  logged(): string;
  /** Where the next requests come from, whatever the socket says. */
  peer: string | null;
  /** From how many requests the idle timer was lifted. */
  kept: number;
  /** ADMIN_PASSWORD as it is now. */
  password: Secret | null;
  access: Access;
  ask(path: string, init?: BunFetchRequestInit): Promise<Response>;
  /** Signs in, and answers with the headers that a browser then sends. */
  signIn(): Promise<Record<string, string>>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** The API on a real socket, before an engine that only remembers. */
function open(access: Access = { mode: "protected" }): AdminStage {
  const operator = new RememberingOperator();
  const clock = new FalseClock();
  let text = "";
  let tokens = 0;
  const log = createLog({ level: "debug", format: "json", clock, write: (line) => (text += line) });
  const listen: Listen = { kind: "tcp", hostname: "127.0.0.1", port: 3000 };
  const admin = createAdmin({
    operator,
    clock,
    log,
    password: () => stage.password,
    newToken: () => `canary-token-${(tokens += 1)}`,
    config: () => ({ access: stage.access, listen }),
  });
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    development: false,
    fetch(request) {
      const { pathname: path, search: query } = new URL(request.url);
      return admin.handle({ request, path, query, peer: stage.peer, keepOpen: () => (stage.kept += 1) });
    },
  });
  const stage: AdminStage = {
    url: `http://127.0.0.1:${server.port}`,
    operator,
    admin,
    clock,
    peer: "127.0.0.1",
    kept: 0,
    password: new Secret(PASSWORD),
    access,
    logged() {
      log.flush();
      return text;
    },
    ask: (path, init) => fetch(stage.url + path, init),
    async signIn() {
      const response = await stage.ask("/admin/api/login", changeOf("POST", {}, { password: PASSWORD }));
      expect(response.status).toBe(200);
      const cookie = response.headers
        .getSetCookie()
        .map((each) => each.split(";")[0])
        .join("; ");
      const { page_key } = (await response.json()) as { page_key: string };
      return { cookie, "x-keywheel-page": page_key };
    },
    async [Symbol.asyncDispose]() {
      admin.close();
      await server.stop(true);
    },
  };
  return stage;
}

function changeOf(method: string, headers: Record<string, string>, body: unknown = {}): BunFetchRequestInit {
  return { method, headers: { ...JSON_TYPE, ...headers }, body: JSON.stringify(body) };
}

/** Status and type of an error in the form of the proxy's own errors; of anything else status and "fine". */
async function outcomeOf(response: Response): Promise<string> {
  const body: unknown = await response.json();
  if (response.status < 400) return `${response.status} fine`;
  expect(body).toMatchObject({ type: "error", error: { message: expect.stringMatching(/^\S.*[.?!]/s) } });
  expect(body).not.toHaveProperty("error.message", expect.stringContaining("canary"));
  const { error } = body as { error: { type: string; code: string } };
  expect(error.code).toBe(error.type);
  return `${response.status} ${error.type}`;
}

const PAUSE = `/admin/api/providers/default/keys/${IDS[0]}/pause`;
const ADD = "/admin/api/providers/default/keys";

describe("the admin API", () => {
  const strangers: [says: string, path: string, init: BunFetchRequestInit, outcome: string][] = [
    ["nothing at all", "/admin/api/overview", {}, "401 sign_in_required"],
    ["no password, to change something", PAUSE, changeOf("POST", {}), "401 sign_in_required"],
    ["a wrong password", PAUSE, changeOf("POST", { authorization: "Bearer nonsense" }), "401 wrong_password"],
    ["an empty password", PAUSE, changeOf("POST", { authorization: "Bearer " }), "401 sign_in_required"],
    [
      "the beginning of the password",
      PAUSE,
      changeOf("POST", { authorization: "Bearer canary" }),
      "401 wrong_password",
    ],
    [
      "the password and more",
      PAUSE,
      changeOf("POST", { authorization: `Bearer ${PASSWORD}x` }),
      "401 wrong_password",
    ],
    [
      "the password as Basic",
      PAUSE,
      changeOf("POST", { authorization: `Basic ${btoa(`x:${PASSWORD}`)}` }),
      "401 sign_in_required",
    ],
    [
      "the password in the query",
      `${PAUSE}?password=${PASSWORD}`,
      changeOf("POST", {}),
      "401 sign_in_required",
    ],
    ["the password as x-api-key", PAUSE, changeOf("POST", { "x-api-key": PASSWORD }), "401 sign_in_required"],
    [
      "the password as a cookie",
      PAUSE,
      changeOf("POST", { cookie: `keywheel=${PASSWORD}` }),
      "401 sign_in_required",
    ],
    [
      "a made-up session",
      PAUSE,
      changeOf("POST", { cookie: "keywheel=canary-token-1" }),
      "401 sign_in_required",
    ],
    ["X-Forwarded-For", PAUSE, changeOf("POST", { "x-forwarded-for": "127.0.0.1" }), "401 sign_in_required"],
    [
      "a wrong password at the login",
      "/admin/api/login",
      changeOf("POST", {}, { password: "nonsense" }),
      "401 wrong_password",
    ],
    [
      "a password that is no text",
      "/admin/api/login",
      changeOf("POST", {}, { password: [PASSWORD] }),
      "400 bad_request",
    ],
    ["no password at the login", "/admin/api/login", changeOf("POST", {}), "400 bad_request"],
    ["a path that is not there", "/admin/api/nothing", {}, "404 not_found"],
    ["a path that begins like the API", "/admin/apifoo", {}, "404 not_found"],
    ["another page", "/admin/index.html", {}, "404 not_found"],
    [
      "a key without its name",
      "/admin/api/providers/default/keys//pause",
      changeOf("POST", {}),
      "404 not_found",
    ],
    ["the wrong method", "/admin/api/login", {}, "405 method_not_allowed"],
    ["the wrong method for the page", "/admin", changeOf("POST", {}), "405 method_not_allowed"],
    [
      "a preflight",
      PAUSE,
      { method: "OPTIONS", headers: { origin: "https://evil.example" } },
      "403 forbidden_origin",
    ],
  ];
  test.each(strangers)("P30 lets nobody in who sends %s", async (_, path, init, expected) => {
    await using stage = open();
    const response = await stage.ask(path, init);
    expect(await outcomeOf(response)).toBe(expected);
    expect(response.headers.get("cache-control")).toBe("no-store");
    expect(response.headers.get("x-content-type-options")).toBe("nosniff");
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
    expect(response.headers.get("set-cookie")).toBeNull();
    expect(stage.operator.asked).toEqual([]);
  });

  test("names the methods that there are", async () => {
    await using stage = open();
    expect((await stage.ask("/admin/api/login")).headers.get("allow")).toBe("POST");
    expect((await stage.ask(PAUSE, changeOf("DELETE", {}))).headers.get("allow")).toBe("POST");
  });

  test("is not there without a password, and goes when it is taken away", async () => {
    await using stage = open();
    const browser = await stage.signIn();
    stage.password = null;
    for (const path of [
      "/admin",
      "/admin/",
      "/admin/api/session",
      "/admin/api/overview",
      "/admin/api/login",
    ]) {
      expect(await outcomeOf(await stage.ask(path, { headers: { ...browser, ...BEARER } }))).toBe(
        "404 not_found",
      );
    }
    expect(await outcomeOf(await stage.ask(PAUSE, changeOf("POST", { authorization: "Bearer null" })))).toBe(
      "404 not_found",
    );
  });
});

describe("a page of another origin", () => {
  const EVIL = { origin: "https://evil.example" };
  const attacks: [says: string, headers: Record<string, string>, body: string][] = [
    ["posts a form", { ...EVIL, "content-type": "application/x-www-form-urlencoded" }, "force=true"],
    ["posts a form from a privacy-minded browser", { "content-type": "text/plain" }, '{"force":true}'],
    ["posts a form with files", { "content-type": "multipart/form-data; boundary=x" }, "--x--"],
    ["posts an empty form in an old browser", { "content-type": "application/x-www-form-urlencoded" }, ""],
    ["posts nothing in an old browser", {}, ""],
    ["posts JSON called text", { ...EVIL, "content-type": "text/plain" }, "{}"],
    ["posts JSON", { ...EVIL, ...JSON_TYPE }, "{}"],
    ["posts from a frame without origin", { origin: "null", ...JSON_TYPE }, "{}"],
    ["is another site", { "sec-fetch-site": "cross-site", ...JSON_TYPE }, "{}"],
    ["is another port of this machine", { "sec-fetch-site": "same-site", ...JSON_TYPE }, "{}"],
    ["is another port, in an old browser", { origin: "http://127.0.0.1:8080", ...JSON_TYPE }, "{}"],
    ["is the same name with more", { origin: "http://127.0.0.1.evil.example", ...JSON_TYPE }, "{}"],
  ];
  test.each(attacks)("P30 changes nothing when it %s, even with a session", async (_, headers, body) => {
    await using stage = open();
    const browser = await stage.signIn();
    const response = await stage.ask(PAUSE, { method: "POST", headers: { ...browser, ...headers }, body });
    expect(["403 forbidden_origin", "415 unsupported_media_type"]).toContain(await outcomeOf(response));
    expect(stage.operator.asked).toEqual([]);
  });

  test("P30 cannot read either, and cannot sign anybody in", async () => {
    await using stage = open();
    const browser = await stage.signIn();
    for (const path of ["/admin/api/overview", "/admin/api/live", "/admin/api/requests"]) {
      expect(await outcomeOf(await stage.ask(path, { headers: { ...browser, ...EVIL } }))).toBe(
        "403 forbidden_origin",
      );
    }
    const login = changeOf("POST", EVIL, { password: PASSWORD });
    expect(await outcomeOf(await stage.ask("/admin/api/login", login))).toBe("403 forbidden_origin");
  });

  test("may hold a link to the page, which shows nothing by itself", async () => {
    await using stage = open();
    expect((await stage.ask("/admin", { headers: { "sec-fetch-site": "cross-site" } })).status).toBe(200);
  });

  test("P30 is refused under a name that it made lead here, in protected mode", async () => {
    await using stage = open();
    for (const path of ["/admin", "/admin/api/session"]) {
      const headers = { ...BEARER, host: "evil.example:3000" };
      expect(await outcomeOf(await stage.ask(path, { headers }))).toBe("403 forbidden_origin");
    }
  });

  test("P30 has no session under such a name where other names are let in", async () => {
    await using stage = open({ mode: "open" });
    const rebound = {
      host: "evil.example:3000",
      origin: "http://evil.example:3000",
      "sec-fetch-site": "same-origin",
    };
    const response = await stage.ask(PAUSE, changeOf("POST", rebound));
    expect(await outcomeOf(response)).toBe("401 sign_in_required");
    expect((await stage.ask("/admin", { headers: rebound })).status).toBe(200);
  });
});

describe("another machine", () => {
  test("P30 is refused in protected mode, by its socket and not by a header", async () => {
    await using stage = open();
    stage.peer = "192.0.2.8";
    const headers = { ...BEARER, "x-forwarded-for": "127.0.0.1", forwarded: "for=127.0.0.1" };
    expect(await outcomeOf(await stage.ask("/admin/api/overview", { headers }))).toBe("403 protected_mode");
    expect(await outcomeOf(await stage.ask("/admin"))).toBe("403 protected_mode");
  });

  test("gets in with the password where clients have keys", async () => {
    await using stage = open({ mode: "keys", clients: [{ name: null, secret: new Secret("client-key-1") }] });
    stage.peer = "192.0.2.8";
    const host = { host: "pi.local:3000" };
    expect((await stage.ask("/admin", { headers: host })).status).toBe(200);
    expect((await stage.ask("/admin/api/overview", { headers: { ...BEARER, ...host } })).status).toBe(200);
    const asClient = { authorization: "Bearer client-key-1", ...host };
    expect(await outcomeOf(await stage.ask("/admin/api/overview", { headers: asClient }))).toBe(
      "401 wrong_password",
    );
  });
});

describe("a session", () => {
  test("begins with the password, in a cookie that no script and no other site gets", async () => {
    await using stage = open();
    const response = await stage.ask("/admin/api/login", changeOf("POST", {}, { password: PASSWORD }));
    expect(await response.json()).toEqual({ signed_in: true, page_key: "canary-token-2" });
    const port = new URL(stage.url).port;
    expect(response.headers.getSetCookie()).toEqual([
      `keywheel_${port}=canary-token-1; HttpOnly; SameSite=Strict; Path=/admin`,
      `keywheel_browser_${port}=canary-token-3; HttpOnly; SameSite=Strict; Path=/admin; Max-Age=31536000`,
    ]);
  });

  test("lets its browser see and change everything", async () => {
    await using stage = open();
    const browser = { ...(await stage.signIn()), origin: stage.url, "sec-fetch-site": "same-origin" };
    const session = await stage.ask("/admin/api/session", { headers: browser });
    expect(await session.json()).toEqual({ signed_in: true, version: "1.2.3" });
    expect((await stage.ask("/admin/api/overview", { headers: browser })).status).toBe(200);
    expect((await stage.ask(PAUSE, changeOf("POST", browser))).status).toBe(200);
    expect(stage.operator.asked).toEqual([`pause default ${IDS[0]}`]);
  });

  const planted: [says: string, plant: (name: string, cookie: string) => string][] = [
    ["one before it", (name, cookie) => `${name}=planted; other=1; ${cookie}; keywheel=x`],
    ["one behind it", (name, cookie) => `${cookie}; ${name}=planted`],
    // A page of another port may set one for each beginning of the path: browsers send the longest first.
    ["one for each part of the path", (name, cookie) => `${`${name}=planted; `.repeat(6)}${cookie}`],
    ["fifty before it", (name, cookie) => `${`${name}=planted; `.repeat(50)}${cookie}`],
    ["empty ones", (name, cookie) => `${name}=; ${name}; ;;${cookie}`],
  ];
  test.each(planted)("is found among the cookies that others have planted: %s", async (_, plant) => {
    await using stage = open();
    const { cookie = "", ...browser } = await stage.signIn();
    const headers = { ...browser, cookie: plant(cookie.split("=")[0] ?? "", cookie) };
    expect((await stage.ask("/admin/api/overview", { headers })).status).toBe(200);
  });

  const halves: [says: string, headers: (browser: Record<string, string>) => Record<string, string>][] = [
    ["the cookie alone, which other ports of the host get too", ({ cookie = "" }) => ({ cookie })],
    ["the page's key alone", (browser) => ({ "x-keywheel-page": browser["x-keywheel-page"] ?? "" })],
    [
      "the page's key of another session",
      ({ cookie = "" }) => ({ cookie, "x-keywheel-page": "canary-token-5" }),
    ],
    [
      "the cookie's own text as the page's key",
      ({ cookie = "" }) => ({ cookie, "x-keywheel-page": "canary-token-1" }),
    ],
    ["an empty page's key", ({ cookie = "" }) => ({ cookie, "x-keywheel-page": "" })],
    [
      "the cookie that only tells a known browser",
      (browser) => ({ ...browser, cookie: (browser["cookie"] ?? "").split("; ")[1] ?? "" }),
    ],
  ];
  test.each(halves)("P30 is not had by %s", async (_, headers) => {
    await using stage = open();
    const browser = await stage.signIn();
    await stage.signIn();
    const response = await stage.ask("/admin/api/overview", { headers: headers(browser) });
    expect(await outcomeOf(response)).toBe("401 sign_in_required");
    const session = await stage.ask("/admin/api/session", { headers: headers(browser) });
    expect(await session.json()).toEqual({ signed_in: false, version: null });
    expect((await stage.ask("/admin/api/overview", { headers: browser })).status).toBe(200);
  });

  test("P30 can be begun by a browser that was in before, while its network is held off", async () => {
    await using stage = open();
    const { cookie = "" } = await stage.signIn();
    for (let guess = 0; guess < 6; guess += 1) {
      await stage.ask("/admin/api/login", changeOf("POST", {}, { password: `wrong-${guess}` }));
    }
    const signIn = (headers: Record<string, string>) =>
      stage.ask("/admin/api/login", changeOf("POST", headers, { password: PASSWORD }));
    expect((await signIn({})).status).toBe(429);
    expect((await signIn({ cookie })).status).toBe(200);
  });

  const endings: [
    says: string,
    end: (stage: AdminStage, browser: Record<string, string>) => Promise<unknown>,
  ][] = [
    ["is signed out", (stage, browser) => stage.ask("/admin/api/logout", changeOf("POST", browser))],
    ["was not used for twelve hours", (stage) => stage.clock.advance(12 * 3_600_000 + 1)],
    ["was begun with another password", async (stage) => (stage.password = new Secret("another-password"))],
    [
      "is the oldest of too many",
      async (stage) => {
        for (let other = 0; other < 64; other += 1) await stage.signIn();
      },
    ],
  ];
  test.each(endings)("ends when it %s", async (_, end) => {
    await using stage = open();
    const browser = await stage.signIn();
    await end(stage, browser);
    expect(await outcomeOf(await stage.ask("/admin/api/overview", { headers: browser }))).toBe(
      "401 sign_in_required",
    );
    const session = await stage.ask("/admin/api/session", { headers: browser });
    expect(await session.json()).toEqual({ signed_in: false, version: null });
  });

  test("goes on while it is used", async () => {
    await using stage = open();
    const browser = await stage.signIn();
    for (let hour = 0; hour < 40; hour += 10) {
      await stage.clock.advance(10 * 3_600_000);
      expect((await stage.ask("/admin/api/overview", { headers: browser })).status).toBe(200);
    }
  });

  test("takes its cookie back at the end", async () => {
    await using stage = open();
    const browser = await stage.signIn();
    const response = await stage.ask("/admin/api/logout", changeOf("POST", browser));
    expect(await response.json()).toEqual({ signed_in: false });
    expect(response.headers.get("set-cookie")).toMatch(/^keywheel_\d+=; .*Max-Age=0$/);
  });
});

describe("a password", () => {
  test.each(["pässwörd-à", "пароль-пароль", "with spaces inside", "=:;,\"'%41"])(
    "may be %s",
    async (password) => {
      await using stage = open();
      stage.password = new Secret(password);
      // As curl sends it: the bytes of UTF-8.
      const authorization = `Bearer ${Buffer.from(password).toString("latin1")}`;
      expect((await stage.ask("/admin/api/overview", { headers: { authorization } })).status).toBe(200);
      expect((await stage.ask("/admin/api/login", changeOf("POST", {}, { password }))).status).toBe(200);
    },
  );
});

describe("wrong passwords in a loop", () => {
  test("P30 are told to wait, and then not even the right one is looked at", async () => {
    await using stage = open();
    const outcomes: string[] = [];
    for (let attempt = 0; attempt < 5; attempt += 1) {
      outcomes.push(
        await outcomeOf(
          await stage.ask("/admin/api/login", changeOf("POST", {}, { password: `no ${attempt}` })),
        ),
      );
    }
    const wrong = "401 wrong_password";
    const late = "429 too_many_attempts";
    expect(outcomes).toEqual([wrong, wrong, wrong, late, late]);
    const right = await stage.ask("/admin/api/overview", { headers: BEARER });
    expect(right.headers.get("retry-after")).toBe("1");
    expect(await right.json()).toMatchObject({ error: { type: "too_many_attempts", retry_after: 1 } });
    await stage.clock.advance(1000);
    expect((await stage.ask("/admin/api/overview", { headers: BEARER })).status).toBe(200);
    expect(stage.logged().match(/admin_wrong_password/g)).toHaveLength(3);
  });

  test("P30 keep out neither a session nor the right password from elsewhere", async () => {
    await using stage = open({ mode: "open" });
    stage.peer = "192.0.2.8";
    const browser = await stage.signIn();
    stage.peer = "198.51.100.1";
    for (let attempt = 0; attempt < 100; attempt += 1) {
      await stage.ask("/admin/api/overview", { headers: { authorization: "Bearer guess" } });
    }
    expect(await outcomeOf(await stage.ask("/admin/api/overview", { headers: BEARER }))).toBe(
      "429 too_many_attempts",
    );
    expect((await stage.ask("/admin/api/overview", { headers: browser })).status).toBe(200);
    stage.peer = "203.0.113.5";
    expect((await stage.ask("/admin/api/overview", { headers: BEARER })).status).toBe(200);
  });

  test("P30 are counted on other paths too, and do not keep the operator out there", async () => {
    await using stage = open();
    const elsewhere = (password: string) =>
      stage.admin.isOperator(new Headers({ authorization: `Bearer ${password}` }), "127.0.0.1");
    expect(elsewhere(PASSWORD)).toBe(true);
    expect([1, 2, 3, 4].map((guess) => elsewhere(`guess ${guess}`))).toEqual([false, false, false, false]);
    expect(elsewhere(PASSWORD)).toBe(false);
    expect(stage.admin.isOperator(new Headers(), "127.0.0.1")).toBe(false);
    expect((await stage.ask("/admin/api/overview", { headers: BEARER })).status).toBe(200);
  });
});

describe("what the operator sees", () => {
  async function see(path: string): Promise<unknown> {
    await using stage = open();
    const response = await stage.ask(`/admin/api/${path}`, { headers: BEARER });
    expect(response.status).toBe(200);
    return response.json();
  }

  test("is everything at a glance", async () => {
    const seen = await see("overview");
    expect(seen).toMatchObject({
      status: "ok",
      version: "1.2.3",
      now: "2026-11-20T12:00:00.000Z",
      uptime_sec: 12,
    });
    const key = {
      index: 0,
      id: IDS[0],
      state: "ready",
      rate_limited: 1,
      rpm_limit: 40,
      last_used: null,
      said: null,
    };
    const settings = { rpm: { value: "auto", origin: "default", locked: null } };
    expect(seen).toMatchObject({
      providers: [{ name: "default", state: "up", settings, keys: [key, {}] }, {}],
      clients: [
        {
          name: "ann",
          key_id: null,
          requests_per_minute: null,
          requests_per_day: { limit: 20, used: 5, left: 15, reset_sec: 60 },
          tokens_per_day: null,
          models: ["llama-*"],
        },
      ],
    });
  });

  test("is what was requested, newest first", async () => {
    const attempt = { key: 1, key_id: IDS[1], verdict: "rate_limited", status: 429, ms: 9 };
    const newest = { id: 2, at: "2026-11-20T12:00:00.000Z", key: "0", first_byte_ms: 210, truncated: false };
    expect(await see("requests")).toMatchObject({
      requests: [{ ...newest, attempts: [attempt] }, { id: 1 }],
    });
    expect(await see("requests?limit=1")).toMatchObject({ requests: [newest] });
  });

  test("is the use of days and the traffic of the hour", async () => {
    expect(await see("usage?days=7")).toEqual({
      usage: [
        {
          day: "2026-11-20",
          provider: "default",
          key: IDS[0],
          key_id: IDS[0],
          model: null,
          client: "ann",
          requests: 7,
          rate_limited: 2,
          errors: 1,
          input_tokens: 100,
          output_tokens: 20,
          cached_tokens: 60,
          cache_write_tokens: 5,
          reasoning_tokens: 10,
        },
      ],
    });
    const minute = { at: "2026-11-20T12:00:00.000Z", requests: 5, absorbed: 2, hidden_429: 1, errors: 1 };
    expect(await see("traffic")).toEqual({ range: "1h", step_sec: 60, traffic: [minute] });
    expect(await see("traffic?range=7d")).toMatchObject({ range: "7d" });
  });

  const HEADER =
    "day,provider,key,key_id,model,client,requests,rate_limited,errors,input_tokens,output_tokens,cached_tokens,cache_write_tokens,reasoning_tokens";
  test.each([
    ["no model", null, ""],
    ["a model as they mostly are called", "gpt-4o:free", "gpt-4o:free"],
    ["a model with a comma", "a,b", '"a,b"'],
    ["a model with quotation marks", 'a"b', '"a""b"'],
    ["a model with a line break", "a\nb", '"a\nb"'],
    ["a model that a spreadsheet would take for a formula", "=1+1", "'=1+1"],
    ["a model that a spreadsheet would run, too", '@SUM("a")', `"'@SUM(""a"")"`],
  ])("is the use of days as CSV: %s", async (_, model, written) => {
    await using stage = open();
    stage.operator.model = model;
    const response = await stage.ask("/admin/api/usage?days=7&format=csv", { headers: await stage.signIn() });
    expect(response.headers.get("content-type")).toBe("text/csv; charset=utf-8; header=present");
    const row = `2026-11-20,default,${IDS[0]},${IDS[0]},${written},ann,7,2,1,100,20,60,5,10`;
    expect(await response.text()).toBe(`${HEADER}\r\n${row}\r\n`);
  });

  test.each([
    "requests?limit=0",
    "requests?limit=1001",
    "requests?limit=1e2",
    "requests?limit=",
    "usage?days=-1",
    "usage?days=7&format=xml",
    "traffic?range=2h",
    "traffic?range=",
    "requests?status=broken",
    "requests?status=2000",
    "requests?status=toString",
  ])("is not counted by %s", async (path) => {
    await using stage = open();
    expect(await outcomeOf(await stage.ask(`/admin/api/${path}`, { headers: BEARER }))).toBe(
      "400 bad_request",
    );
  });
});

describe("the requests that are asked for", () => {
  const rows: [query: string, ids: number[]][] = [
    ["", [2, 1]],
    ["status=ok", [2, 1]],
    ["status=failed", []],
    ["status=200", [2, 1]],
    ["status=2xx", [2, 1]],
    ["status=5xx", []],
    ["status=rotated", []],
    ["status=waited", []],
    ["provider=default", [2, 1]],
    ["provider=groq", []],
    ["model=gpt-4o", [2, 1]],
    ["model=gpt", []],
    ["client=ann", []],
    [`key=${IDS[1]}`, [2, 1]],
    ["key=00000000", []],
    ["q=GPT-4O", [2, 1]],
    ["q=rate_limited", [2, 1]],
    ["q=chat/completions", [2, 1]],
    ["q=nothing like it", []],
    ["q=gpt&status=failed", []],
    ["q=.*", []],
    ["limit=1&q=gpt", [2]],
  ];
  test.each(rows)("by %p", async (query, ids) => {
    await using stage = open();
    const response = await stage.ask(`/admin/api/requests?${query}`, { headers: BEARER });
    const { requests } = (await response.json()) as { requests: { id: number }[] };
    expect(requests.map(({ id }) => id)).toEqual(ids);
  });

  test("tell where their time went: it adds up", async () => {
    await using stage = open();
    const response = await stage.ask("/admin/api/requests?limit=1", { headers: BEARER });
    expect(await response.json()).toMatchObject({
      requests: [
        { wait_ms: 0, provider_ms: 210, stream_ms: 1620, total_ms: 1830, reason: null, account: null },
      ],
    });
  });
});

describe("many keys that are added at once", () => {
  const ids = ["sk-canary-aaaa-000000001", "sk-canary-bbbb-000000002", "sk-canary-cccc-000000003"].map(
    fingerprint,
  );
  const TEXT = `sk-canary-aaaa-000000001
# mine
me@sk-canary-bbbb-000000002:5, sk-canary-cccc-000000003
${KEYS[0]}
sk-canary-aaaa-000000001
NAME=sk-canary-dddd`;
  const add = async (stage: AdminStage, body: object) => {
    const response = await stage.ask("/admin/api/providers/default/keys", changeOf("POST", BEARER, body));
    const text = await response.text();
    expect(text).not.toContain("canary");
    const { message, keys = [], error } = JSON.parse(text);
    return {
      status: response.status,
      message,
      error,
      outcomes: keys.map((key: { outcome: string }) => key.outcome),
      keys,
    };
  };

  test("are each told what became of them", async () => {
    await using stage = open();
    stage.operator.trials.set(ids[1] ?? "", {
      kind: "denied",
      said: "No such key: sk-canary-bbbb-000000002",
    });
    const { status, message, outcomes, keys } = await add(stage, { keys: TEXT });
    expect([status, message]).toEqual([201, "2 of 6 keys were added to default."]);
    expect(outcomes).toEqual(["added", "refused", "added", "already_there", "no_key", "no_key"]);
    expect(keys[0]).toMatchObject({ place: "line 1", id: ids[0], last_four: "0001" });
    expect(keys[1]).toMatchObject({ place: "key 1 in line 3", account: "me" });
    expect(keys[1].message).toContain("No such key: [redacted]");
    expect(keys[4].message).toContain("twice");
    expect(keys[5].message).toContain("NAME=key");
    expect(stage.operator.asked).toEqual([
      `validate default ${ids}`,
      `add default ${ids[0]} null null,${ids[2]} null null`,
    ]);
    expect(stage.logged()).not.toContain("canary");
  });

  test("may come as a list, and unasked for", async () => {
    await using stage = open();
    const { status, outcomes } = await add(stage, { keys: ["sk-canary-aaaa-000000001"], force: true });
    expect([status, outcomes]).toEqual([201, ["added"]]);
    expect(stage.operator.asked).toEqual([`add default ${ids[0]} null null`]);
  });

  test("are a failure where none could be added", async () => {
    await using stage = open();
    stage.operator.outcome = {
      kind: "refused",
      why: "not_writable",
      message: "The file may not be changed.",
    };
    const { status, outcomes, keys } = await add(stage, { keys: TEXT });
    expect([status, outcomes]).toEqual([
      422,
      ["not_saved", "not_saved", "not_saved", "already_there", "no_key", "no_key"],
    ]);
    expect(keys[0].message).toBe("The file may not be changed.");
  });

  test("are a thousand in a moment", async () => {
    await using stage = open();
    const keys = Array.from({ length: 1000 }, (_, index) => `sk-canary-${"x".repeat(80)}${index}`);
    const { status, outcomes } = await add(stage, { keys: keys.join("\n") });
    expect([status, outcomes.length, new Set(outcomes)]).toEqual([201, 1000, new Set(["added"])]);
  });

  const wrong: [says: string, body: object][] = [
    ["nothing", { keys: "" }],
    ["no text", { keys: 5 }],
    ["an empty list", { keys: [] }],
    ["a list of other things", { keys: [1] }],
  ];
  test.each(wrong)("must be there: %s", async (_, body) => {
    await using stage = open();
    expect((await add(stage, body)).status).toBe(400);
    expect(stage.operator.asked).toEqual([]);
  });
});

test("P44 a login is not read beyond 16 KB", async () => {
  await using stage = open();
  const body = JSON.stringify({ password: "x".repeat(17_000) });
  const response = await stage.ask("/admin/api/login", { method: "POST", headers: JSON_TYPE, body });
  expect(await outcomeOf(response)).toBe("413 body_too_large");
});

describe("a provider", () => {
  const rows: [says: string, body: object, asked: string][] = [
    ["is made by its name", { name: "groq", keys: "key-a" }, `make groq null null ${fingerprint("key-a")}`],
    ["is recognised by its keys", { keys: "gsk_canary" }, `make groq null null ${fingerprint("gsk_canary")}`],
    [
      "may be anybody's",
      { name: "mine", base_url: "https://llm.example/v1", dialect: "openai", keys: "a\nb" },
      `make mine https://llm.example/v1 openai ${fingerprint("a")},${fingerprint("b")}`,
    ],
  ];
  test.each(rows)("%s", async (_, body, asked) => {
    await using stage = open();
    const response = await stage.ask("/admin/api/providers", changeOf("POST", BEARER, body));
    expect([response.status, stage.operator.asked]).toEqual([201, [asked]]);
  });

  test("is taken out", async () => {
    await using stage = open();
    await stage.ask("/admin/api/providers/groq", changeOf("DELETE", BEARER));
    expect(stage.operator.asked).toEqual(["unmake groq"]);
  });

  test("is one of those that are known, or needs an address", async () => {
    await using stage = open();
    const response = await stage.ask("/admin/api/providers/known", { headers: BEARER });
    const { providers } = (await response.json()) as { providers: { name: string }[] };
    expect(providers.find(({ name }) => name === "groq")).toEqual({
      name: "groq",
      base_url: "https://api.groq.com/openai/v1",
      key_prefixes: ["gsk_"],
    } as object as (typeof providers)[number]);
  });

  const wrong: [says: string, body: object, outcome: string][] = [
    ["without keys", { name: "groq" }, "400 bad_request"],
    ["with a key that is none", { name: "groq", keys: "NAME=x" }, "422 invalid_value"],
    ["with keys like nobody's and no name", { keys: "abc" }, "422 invalid_value"],
    ["with a name that is a number", { name: 5, keys: "abc" }, "422 invalid_value"],
    [
      "with a line break in its address",
      { name: "x", base_url: "https://a\nB=1", keys: "abc" },
      "422 invalid_value",
    ],
  ];
  test.each(wrong)("is refused %s", async (_, body, outcome) => {
    await using stage = open();
    expect(await outcomeOf(await stage.ask("/admin/api/providers", changeOf("POST", BEARER, body)))).toBe(
      outcome,
    );
    expect(stage.operator.asked).toEqual([]);
  });
});

describe("the headline", () => {
  const key = (changes: Partial<KeyView>) => ({ ...keyView(IDS[0] ?? "", 0), ...changes });
  const cooling = (
    coolingMs: number,
    reason: KeyView["reason"] = "rate_limit",
    rpmLimit: number | null = null,
  ) => key({ state: "cooling", coolingMs, reason, rpmLimit });
  type Rows = [says: string, provider: object, overview: object, expected: object];
  const rows: Rows[] = [
    ["all is well", { keys: [key({})] }, {}, { outcome: "served", why: "ready", wait_sec: 0 }],
    [
      "one key of two is ready",
      { keys: [key({}), cooling(9000)] },
      {},
      { outcome: "served", text: "The next request is sent at once: 1 of 2 keys is ready." },
    ],
    [
      "keys are full",
      { keys: [cooling(3000, "pacing", 60)] },
      {},
      { outcome: "waits", why: "cooling", wait_sec: 3 },
    ],
    [
      "others wait already",
      { keys: [cooling(3000, "pacing", 60)], waiting: 4 },
      {},
      { outcome: "waits", wait_sec: 7 },
    ],
    [
      "many wait for two keys",
      { keys: [cooling(0, "pacing", 60), cooling(10_000, "pacing", 60)], waiting: 20 },
      {},
      { outcome: "waits", wait_sec: 15 },
    ],
    [
      "a ready key has a line before it",
      { keys: [key({ rpmLimit: 30 })], waiting: 10 },
      {},
      { outcome: "waits", why: "queue", wait_sec: 20 },
    ],
    [
      "it would take too long",
      { keys: [cooling(3_600_000, "quota_day")] },
      {},
      { outcome: "refused", why: "cooling", wait_sec: 3600 },
    ],
    [
      "the wait is longer than is allowed",
      { keys: [cooling(5000)] },
      { maxWaitMs: 4000 },
      { outcome: "refused", why: "cooling" },
    ],
    [
      "the provider is left alone",
      { keys: [key({})], pausedMs: 4000, pauseReason: "upstream_faults", pauseSaid: "boom" },
      {},
      { outcome: "waits", why: "provider_paused", wait_sec: 4 },
    ],
    [
      "no key is in use",
      { keys: [key({ state: "disabled", reason: "invalid_key" })] },
      {},
      { outcome: "refused", why: "out_of_use", wait_sec: null },
    ],
    [
      "all are paused by hand",
      { keys: [key({ state: "paused", reason: "manual" })] },
      {},
      { outcome: "refused", why: "out_of_use" },
    ],
    ["it shuts down", { keys: [key({})] }, { isDraining: true }, { outcome: "refused", why: "draining" }],
  ];
  test.each(rows)("says what the next request meets where %s", async (_, changes, overview, expected) => {
    await using stage = open();
    const [first, second] = stage.operator.overview().providers;
    if (second === undefined) throw new Error("there are two");
    stage.operator.changes = { ...overview, providers: [{ ...first, ...changes }, second] };
    const response = await stage.ask("/admin/api/overview", { headers: BEARER });
    expect(await response.json()).toMatchObject({ headline: expected });
  });
});

describe("what the operator does", () => {
  const KEY = `providers/default/keys/${IDS[0]}`;
  const rows: [says: string, method: string, path: string, body: unknown, asked: string[]][] = [
    ["pauses a key", "POST", `${KEY}/pause`, {}, [`pause default ${IDS[0]}`]],
    ["resumes a key", "POST", `${KEY}/resume`, {}, [`resume default ${IDS[0]}`]],
    ["resets a key", "POST", `${KEY}/reset`, {}, [`reset default ${IDS[0]}`]],
    ["checks a key", "POST", `${KEY}/check`, {}, [`check default ${IDS[0]}`]],
    ["removes a key", "DELETE", KEY, {}, [`remove default ${IDS[0]}`]],
    [
      "orders keys",
      "POST",
      "providers/default/order",
      { ids: IDS.toReversed() },
      [`order default ${IDS.toReversed()}`],
    ],
    [
      "edits a provider",
      "PATCH",
      "providers/groq",
      { rpm: 40, daily_limit: null, disabled: true },
      ['edit groq [["rpm","40"],["daily_limit",null],["disabled","true"]]'],
    ],
    ["reloads", "POST", "reload", {}, ["reload"]],
    [
      "adds a key that works",
      "POST",
      "providers/groq/keys",
      { key: "gsk-new" },
      [`validate groq ${fingerprint("gsk-new")}`, `add groq ${fingerprint("gsk-new")} null null`],
    ],
    [
      "adds a key unseen",
      "POST",
      "providers/groq/keys",
      { key: "gsk-new", force: true },
      [`add groq ${fingerprint("gsk-new")} null null`],
    ],
    [
      "adds a key of an account",
      "POST",
      "providers/groq/keys",
      { key: "gsk-new", account: "a@b.c", daily_limit: 50, force: true },
      [`add groq ${fingerprint("gsk-new")} a@b.c 50`],
    ],
    [
      "adds a key as the setting has it",
      "POST",
      "providers/groq/keys",
      { key: "al@gsk-new:9", force: true },
      [`add groq ${fingerprint("gsk-new")} al 9`],
    ],
    [
      "adds a key in base64",
      "POST",
      "providers/groq/keys",
      { key: "A$x+/y==", force: true },
      [`add groq ${fingerprint("A$x+/y==")} null null`],
    ],
  ];
  test.each(rows)("%s", async (_, method, path, body, asked) => {
    await using stage = open();
    const response = await stage.ask(`/admin/api/${path}`, changeOf(method, BEARER, body));
    expect(response.status).toBe(method === "POST" && path.endsWith("/keys") ? 201 : 200);
    expect(await response.json()).toMatchObject({ message: expect.stringMatching(/\w/) });
    expect(stage.operator.asked).toEqual(asked);
  });

  test("needs neither a body nor its type from a script", async () => {
    await using stage = open();
    expect((await stage.ask(PAUSE, { method: "POST", headers: BEARER })).status).toBe(200);
    expect((await stage.ask(`/admin/api/${KEY}`, { method: "DELETE", headers: BEARER })).status).toBe(200);
  });

  test("is logged with the key's id", async () => {
    await using stage = open();
    await stage.ask(PAUSE, changeOf("POST", BEARER));
    expect(JSON.parse(stage.logged())).toMatchObject({
      event: "admin_change",
      action: "pause",
      provider: "default",
      key_id: IDS[0],
      outcome: "done",
    });
  });

  const refusals: [why: Extract<ChangeOutcome, { kind: "refused" }>["why"], outcome: string][] = [
    ["not_found", "404 not_found"],
    ["conflict", "409 conflict"],
    ["invalid_value", "422 invalid_value"],
    ["not_writable", "409 not_writable"],
  ];
  test.each(refusals)("is answered by the engine's own words where it is %s", async (why, expected) => {
    await using stage = open();
    stage.operator.outcome = { kind: "refused", why, message: "Do this instead." };
    const response = await stage.ask(PAUSE, changeOf("POST", BEARER));
    expect(await response.clone().json()).toMatchObject({ error: { message: "Do this instead." } });
    expect(await outcomeOf(response)).toBe(expected);
  });

  test("P32 says why files were not loaded", async () => {
    await using stage = open();
    stage.operator.reloaded = { kind: "refused", problems: ["RPM is many.", "HOST is nowhere."] };
    const response = await stage.ask("/admin/api/reload", changeOf("POST", BEARER));
    const message = "Nothing was changed; first correct this:\nRPM is many.\nHOST is nowhere.";
    expect(await response.clone().json()).toMatchObject({ error: { message } });
    expect(await outcomeOf(response)).toBe("422 invalid_configuration");
  });
});

describe("a key that is added", () => {
  test("is not saved where the provider refuses it, and its words are shown without the key", async () => {
    await using stage = open();
    const key = "sk-canary-new-3333";
    stage.operator.trial = { kind: "denied", said: `Incorrect API key provided: ${key}` };
    const response = await stage.ask(ADD, changeOf("POST", BEARER, { key }));
    expect(await response.clone().text()).toContain("Incorrect API key provided: [redacted]");
    expect(await outcomeOf(response)).toBe("422 key_refused");
    expect(stage.operator.asked).toEqual([`validate default ${fingerprint(key)}`]);
  });

  test("is saved where the provider cannot be asked, and that is said", async () => {
    await using stage = open();
    stage.operator.trial = { kind: "unclear", said: "No connection" };
    const response = await stage.ask(ADD, changeOf("POST", BEARER, { key: "sk-new" }));
    expect(await response.json()).toEqual({
      message: 'It was done. Whether it works could not be told: "No connection".',
    });
    expect(stage.operator.asked).toHaveLength(2);
  });

  test("is refused where it is there already, before anybody is asked", async () => {
    await using stage = open();
    expect(await outcomeOf(await stage.ask(ADD, changeOf("POST", BEARER, { key: `x@${KEYS[0]}:5` })))).toBe(
      "409 conflict",
    );
    expect(
      await outcomeOf(
        await stage.ask("/admin/api/providers/nobody/keys", changeOf("POST", BEARER, { key: "k" })),
      ),
    ).toBe("404 not_found");
    expect(stage.operator.asked).toEqual([]);
  });

  const wrong: [says: string, body: unknown, outcome: string][] = [
    ["has a line break and a setting behind it", { key: "canary\nPROXY_API_KEY=off" }, "422 invalid_value"],
    ["ends in a line break", { key: "canary\n" }, "422 invalid_value"],
    ["has a carriage return", { key: "canary\rX=1" }, "422 invalid_value"],
    ["has a line separator", { key: "canary\u2028X=1" }, "422 invalid_value"],
    ["has a NUL", { key: "canary\0" }, "422 invalid_value"],
    ["has an escape", { key: "canary\u001b[2J" }, "422 invalid_value"],
    ["has a C1 control", { key: "canary\u0085X" }, "422 invalid_value"],
    ["is two keys", { key: "canary-a,canary-b" }, "422 invalid_value"],
    ["is two words", { key: "canary a" }, "422 invalid_value"],
    ["is white space", { key: " " }, "422 invalid_value"],
    ["is longer than 4096 characters", { key: "canary".repeat(700) }, "422 invalid_value"],
    ["holds a letter outside ASCII", { key: "canary-ключ" }, "422 invalid_value"],
    ["is in quotation marks", { key: '"canary"' }, "422 invalid_value"],
    ["is a placeholder", { key: "your-canary-key-here" }, "422 invalid_value"],
    ["has an account of two lines", { key: "canary", account: "a\nX=1" }, "422 invalid_value"],
    ["has an account that is no text", { key: "canary", account: {} }, "422 invalid_value"],
    ["has half a request a day", { key: "canary", daily_limit: 0.5 }, "422 invalid_value"],
    ["has a limit that is a setting", { key: "canary", daily_limit: "5\nX=1" }, "422 invalid_value"],
    ["is no text", { key: ["canary"] }, "400 bad_request"],
    ["is empty", { key: "" }, "400 bad_request"],
    ["is missing", { force: true }, "400 bad_request"],
  ];
  test.each(wrong)("P29 is refused and not repeated when it %s", async (_, body, expected) => {
    await using stage = open();
    expect(await outcomeOf(await stage.ask(ADD, changeOf("POST", BEARER, body)))).toBe(expected);
    expect(stage.operator.asked).toEqual([]);
    expect(stage.logged()).not.toContain("canary");
  });
});

/** A body without a length. */
function endless(): ReadableStream<Uint8Array> {
  return new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(16_384).fill(32)) });
}

describe("a body", () => {
  const big = JSON.stringify({ key: "x".repeat(1_100_000) });
  const rows: [says: string, body: string | Uint8Array | ReadableStream, type: string, outcome: string][] = [
    ["is not JSON", "{key", "application/json", "400 bad_request"],
    ["is a list", "[]", "application/json", "400 bad_request"],
    ["is a text", '"sk"', "application/json", "400 bad_request"],
    ["is a number", "1", "application/json", "400 bad_request"],
    ["is nested deeper than a parser goes", "[".repeat(60_000), "application/json", "400 bad_request"],
    ["is not UTF-8", new Uint8Array([123, 255, 254]), "application/json", "400 bad_request"],
    ["is larger than 1 MB", big, "application/json", "413 body_too_large"],
    ["does not say how large it is, and never ends", endless(), "application/json", "413 body_too_large"],
    ["is a form", "key=sk", "application/x-www-form-urlencoded", "415 unsupported_media_type"],
    ["is JSON of another name", "{}", "application/jsonx", "415 unsupported_media_type"],
    ["is called text", "{}", "text/plain", "415 unsupported_media_type"],
  ];
  test.each(rows)("is refused when it %s", async (_, body, type, expected) => {
    await using stage = open();
    const headers = { ...BEARER, "content-type": type };
    expect(await outcomeOf(await stage.ask(ADD, { method: "POST", headers, body }))).toBe(expected);
    expect(stage.operator.asked).toEqual([]);
  });

  const edits: [says: string, body: unknown, outcome: string][] = [
    ["names another setting", { base_url: "https://evil.example" }, "422 invalid_value"],
    ["names what every object has", { constructor: "x" }, "422 invalid_value"],
    ["has a list for a value", { rpm: [40] }, "422 invalid_value"],
    ["has a value of two lines", { timezone: "UTC\nPROXY_API_KEY=off" }, "422 invalid_value"],
    ["has a value without end", { retry_status: "5".repeat(2000) }, "422 invalid_value"],
    ["is empty", {}, "400 bad_request"],
  ];
  test.each(edits)("edits nothing when it %s", async (_, body, expected) => {
    await using stage = open();
    const response = await stage.ask("/admin/api/providers/default", changeOf("PATCH", BEARER, body));
    expect(await outcomeOf(response)).toBe(expected);
    expect(stage.operator.asked).toEqual([]);
  });

  test.each([{}, { ids: "x" }, { ids: [1] }])("orders nothing when it is %j", async (body) => {
    await using stage = open();
    const response = await stage.ask("/admin/api/providers/default/order", changeOf("POST", BEARER, body));
    expect(await outcomeOf(response)).toBe("400 bad_request");
  });
});

describe("the live view", () => {
  /** The text of a stream as it comes. */
  async function watch(stage: AdminStage, headers: Record<string, string> = BEARER) {
    const response = await stage.ask("/admin/api/live", { headers });
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    const reader = (response.body ?? new Blob().stream()).getReader();
    const seen = { text: "", hasEnded: false, leave: () => reader.cancel() };
    const read = async () => {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        seen.text += new TextDecoder().decode(value);
      }
      seen.hasEnded = true;
    };
    read().catch(() => {}); // cut when the server stops
    await until("the first overview", () => seen.text.includes("event: overview"));
    return seen;
  }
  const overviews = (text: string) => text.match(/event: overview/g)?.length ?? 0;

  test("begins with the overview, and repeats it only when it has changed", async () => {
    await using stage = open();
    const seen = await watch(stage);
    const [, json = ""] = /event: overview\ndata: (.*)\n\n/.exec(seen.text) ?? [];
    expect(JSON.parse(json)).toMatchObject({ version: "1.2.3", providers: [{ name: "default" }, {}] });
    await stage.clock.advance(5000);
    expect(overviews(seen.text)).toBe(1);
    stage.operator.inFlight = 7;
    await stage.clock.advance(1000);
    await until("the second overview", () => overviews(seen.text) === 2);
    expect(seen.text).toContain('"in_flight":7');
  });

  test("shows requests and keys as it happens", async () => {
    await using stage = open();
    const seen = await watch(stage);
    stage.operator.listener?.({ kind: "request", record: record(7) });
    stage.operator.listener?.({ kind: "key", event: COOLED });
    await until("both events", () => seen.text.includes("event: key"));
    expect(seen.text).toMatch(/event: request\ndata: \{"id":7,.*\n\nevent: key\n/);
    expect(seen.text).toContain(
      `"kind":"cooled","model":null,"reason":"rate_limit","until":"2026-11-20T12:01:00.000Z","said":"slow down"`,
    );
  });

  test("says something every 15 s, so that nothing on the way closes it", async () => {
    await using stage = open();
    const seen = await watch(stage);
    await stage.clock.advance(16_000);
    await until("a comment", () => seen.text.endsWith("\n\n:\n\n"));
  });

  test("costs nothing when nobody watches", async () => {
    await using stage = open();
    const seen = await watch(stage);
    expect(stage.clock.timers).toBe(1);
    await seen.leave();
    await until("the end of it", () => stage.operator.listener === null);
    expect(stage.clock.timers).toBe(0);
    const { overviews: before } = stage.operator;
    await stage.clock.advance(5000);
    expect(stage.operator.overviews).toBe(before);
  });

  test("is for 16 at once, and a place that is left is free again", async () => {
    await using stage = open();
    const all = await Promise.all(Array.from({ length: 16 }, () => watch(stage)));
    const refused = await stage.ask("/admin/api/live", { headers: BEARER });
    expect(await outcomeOf(refused)).toBe("503 overloaded");
    await all[0]?.leave();
    await settled();
    expect((await watch(stage)).text).toContain("event: overview");
  });

  const endings: [says: string, end: (stage: AdminStage, browser: Record<string, string>) => unknown][] = [
    ["is signed out", (stage, browser) => stage.ask("/admin/api/logout", changeOf("POST", browser))],
    ["has a password that holds no more", (stage) => (stage.password = new Secret("another-password"))],
  ];
  test.each(endings)("P30 ends for whoever %s", async (_, end) => {
    await using stage = open();
    const browser = await stage.signIn();
    const seen = await watch(stage, browser);
    await end(stage, browser);
    await stage.clock.advance(1000);
    await until("the end of the stream", () => seen.hasEnded);
  });

  test("ends at once when the proxy drains", async () => {
    await using stage = open();
    const seen = await watch(stage);
    stage.admin.close();
    await until("the end of the stream", () => seen.hasEnded);
    expect(stage.clock.timers).toBe(0);
  });

  test("keeps the session in use", async () => {
    await using stage = open();
    const browser = await stage.signIn();
    await watch(stage, browser);
    await stage.clock.jump(11 * 3_600_000);
    await stage.clock.jump(11 * 3_600_000);
    expect((await stage.ask("/admin/api/overview", { headers: browser })).status).toBe(200);
  });

  test("drops a reader that does not keep up, and goes on for the others", async () => {
    await using stage = open();
    const seen = await watch(stage);
    const slow = connect(Number(new URL(stage.url).port), "127.0.0.1").pause();
    slow.write(
      `GET /admin/api/live HTTP/1.1\r\nHost: localhost\r\nAuthorization: ${BEARER.authorization}\r\n\r\n`,
    );
    const { overviews } = stage.operator;
    await until("the second reader", () => stage.operator.overviews > overviews);
    // The sockets' own buffers take a few megabytes.
    const big = { ...record(1), path: `/${"x".repeat(200_000)}` };
    for (let event = 0; event < 60; event += 1) {
      seen.text = "";
      stage.operator.listener?.({ kind: "request", record: big });
      await until("the reader that keeps up", () => seen.text.length > 200_000);
    }
    await seen.leave();
    await until("that nobody is left", () => stage.operator.listener === null);
    slow.destroy();
  });
});

describe("the page", () => {
  test("comes with the rules that keep it to itself", async () => {
    await using stage = open();
    const response = await stage.ask("/admin");
    expect(response.status).toBe(200);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "content-type": "text/html; charset=utf-8",
      "cache-control": "no-store",
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "x-frame-options": "DENY",
      "content-security-policy": expect.stringContaining("frame-ancestors 'none'"),
    });
    expect(await response.text()).toMatch(/^<!doctype html>/i);
    expect((await stage.ask("/admin/", { method: "HEAD" })).status).toBe(200);
  });

  test.each([
    ["gzip, deflate, br, zstd", "gzip"],
    ["br;q=1, gzip;q=0.5", "gzip"],
    ["gzip;q=0", null],
    ["x-gzip", null],
    ["identity", null],
  ])("is compressed for %s as %s", async (accepted, encoding) => {
    await using stage = open();
    const response = await stage.ask("/admin", {
      headers: { "accept-encoding": accepted },
      decompress: false,
    });
    expect(response.headers.get("content-encoding")).toBe(encoding);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const text = new TextDecoder().decode(encoding === null ? bytes : Bun.gunzipSync(bytes));
    expect(text).toEndWith("</html>\n");
  });

  test("may run its own scripts and nothing else", () => {
    const html = '<style>b{}</style><script type="module">\r\nlet a = 1;\r\n</script><script>go()</script>';
    const hash = (text: string) => `'sha256-${new Bun.CryptoHasher("sha256").update(text).digest("base64")}'`;
    const policy = contentPolicy(html);
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain(`script-src ${hash("\nlet a = 1;\n")} ${hash("go()")};`);
    expect(policy).toContain(`style-src ${hash("b{}")};`);
    expect(policy).not.toContain("unsafe");
    expect(contentPolicy("<p>")).toContain("script-src 'none'; style-src 'none'");
  });

  test("uses nothing that its own rules forbid", () => {
    const html = document();
    const markup = html.replace(/<(script|style)\b[^>]*>.*?<\/\1\s*>/gis, "");
    expect(markup).not.toMatch(/\s(?:on[a-z]+|style)\s*=/i);
    expect(html).not.toMatch(/<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=\s*["']?(?!data:)/i);
    expect(html).not.toMatch(/\beval\(|new Function\(|javascript:/);
    expect(html).not.toContain("\r");
  });
});

describe("the idle timer of a request", () => {
  const rows: [who: string, headers: Record<string, string>, status: number, lifted: number][] = [
    ["stays for a stranger", {}, 401, 0],
    ["stays for a wrong password", { authorization: "Bearer wrong-password" }, 401, 0],
    ["stays for a cookie that is no session", { cookie: "keywheel=nothing" }, 401, 0],
    ["stays for a page of another site", { ...BEARER, "sec-fetch-site": "cross-site" }, 403, 0],
    ["stays for a path below it", BEARER, 404, 0],
    ["is lifted for the operator's live view", BEARER, 200, 1],
  ];
  test.each(rows)("P44 %s", async (who, headers, status, lifted) => {
    await using stage = open();
    const path = who.includes("below") ? "/admin/api/x/live" : "/admin/api/live";
    const response = await stage.ask(path, { headers });
    expect([response.status, stage.kept]).toEqual([status, lifted]);
    await response.body?.cancel();
  });

  test("P44 stays for a peer that protected mode keeps out", async () => {
    await using stage = open();
    stage.peer = "203.0.113.9";
    expect((await stage.ask("/admin/api/live", { headers: BEARER })).status).toBe(403);
    expect(stage.kept).toBe(0);
  });
});

describe("what the admin API sends", () => {
  test("P29 never holds a key, the password or a session", async () => {
    await using stage = open();
    const browser = await stage.signIn();
    const texts: string[] = [];
    const paths = ["session", "overview", "requests", "usage", "traffic", "nothing"];
    for (const path of paths)
      texts.push(await (await stage.ask(`/admin/api/${path}`, { headers: browser })).text());
    for (const key of [...KEYS, "sk-canary-new-4444", "canary\nX=1"]) {
      texts.push(await (await stage.ask(ADD, changeOf("POST", browser, { key }))).text());
      texts.push(await (await stage.ask(ADD, changeOf("POST", browser, { key, force: true }))).text());
    }
    stage.operator.trial = { kind: "denied", said: "sk-canary-new-4444 is unknown" };
    texts.push(await (await stage.ask(ADD, changeOf("POST", browser, { key: "sk-canary-new-4444" }))).text());
    texts.push(
      await (await stage.ask("/admin/api/login", changeOf("POST", {}, { password: `${PASSWORD}x` }))).text(),
    );
    expect(stage.operator.asked.length).toBeGreaterThan(3);
    expect(texts.filter((text) => text.includes("canary"))).toEqual([]);
    expect(stage.logged()).toContain("admin_change");
    expect(stage.logged()).not.toContain("canary");
  });
});
