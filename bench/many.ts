#!/usr/bin/env bun
/**
 * Three proxies and a real Redis or Valkey server on this machine: are they one pool (P48)?
 *
 *   bun bench/many.ts                      all parts, with `redis-server` or `valkey-server` from the PATH
 *   bun bench/many.ts --server PATH        with this server
 *   bun bench/many.ts exact faults         only these parts
 *
 * `bench/install-redis.sh` installs a server. Without one this says so, and is no failure. Exit code 1 where a promise
 * is not kept.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LOOPBACK } from "./load.ts";

const INSTANCES = 3;
/** Requests under way at once, where limits have to be found out. */
const UNDER_WAY = 30;
const PARTS = [
  "exact",
  "day",
  "clients",
  "announced",
  "refusals",
  "news",
  "latency",
  "faults",
  "secrets",
  "instances",
] as const;
type Part = (typeof PARTS)[number];
const ROOT = join(import.meta.dir, "..");
const PASSWORD = "bench-password";

const given = process.argv.slice(2);
const named = given.indexOf("--server");
const serverPath =
  named >= 0 ? (given[named + 1] ?? "") : (Bun.which("redis-server") ?? Bun.which("valkey-server") ?? "");
const chosen = given.filter((word): word is Part => PARTS.some((part) => part === word));
const problems: string[] = [];

if (serverPath === "") {
  console.log(
    "No redis-server or valkey-server here: nothing is measured. bench/install-redis.sh installs one.",
  );
  process.exit(0);
}

/** Says what was found, and whether that keeps the promise. */
function report(what: string, found: string, isKept: boolean): void {
  console.log(`  ${isKept ? "ok  " : "FAIL"} ${what}: ${found}`);
  if (!isKept) problems.push(`${what}: ${found}`);
}

// ---- a server that can be stopped, killed, emptied

class RedisServer {
  readonly port: number;
  readonly #directory = mkdtempSync(join(tmpdir(), "keywheel-many-"));
  #process: Bun.Subprocess | null = null;

  constructor(port: number) {
    this.port = port;
  }

  /** With what `SAVE` wrote last, where there is something. */
  async start(): Promise<void> {
    const place = ["--port", String(this.port), "--bind", LOOPBACK, "--dir", this.#directory];
    const rest = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
    this.#process = Bun.spawn([serverPath, ...place, ...rest], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    for (let attempt = 0; attempt < 100; attempt++) {
      if ((await this.ask("PING").catch(() => "")) === "PONG") return;
      await Bun.sleep(50);
    }
    throw new Error("the server does not start");
  }

  async ask(command: string, ...words: string[]): Promise<unknown> {
    const client = new Bun.RedisClient(`redis://${LOOPBACK}:${this.port}`, {
      autoReconnect: false,
      enableOfflineQueue: false,
      connectionTimeout: 2000,
    });
    try {
      await client.connect();
      return await client.send(command, words);
    } finally {
      client.close();
    }
  }

  signal(signal: "SIGSTOP" | "SIGCONT"): void {
    if (this.#process !== null) process.kill(this.#process.pid, signal);
  }

  async kill(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#process?.exited;
    this.#process = null;
  }

  /** All that anybody asks of it from now on. */
  async monitor(): Promise<{ text(): string; stop(): void }> {
    let text = "";
    const socket = await Bun.connect({
      hostname: LOOPBACK,
      port: this.port,
      socket: {
        open: (each) => void each.write("MONITOR\r\n"),
        data: (_, bytes) => void (text += bytes.toString("latin1")),
      },
    });
    return { text: () => text, stop: () => socket.end() };
  }

  /** Forgets what was saved. */
  empty(): void {
    rmSync(join(this.#directory, "dump.rdb"), { force: true });
  }

  async end(): Promise<void> {
    await this.kill();
    rmSync(this.#directory, { recursive: true });
  }
}

/**
 * Between the proxies and the server, as a name that leads to it: holds back what comes from there, or leads elsewhere.
 */
function startDelay(target: number): {
  port: number;
  delayMs: number;
  move(target: number): void;
  stop(): void;
} {
  const state = { delayMs: 0, target };
  const open = new Set<{ end(): unknown }>();
  const listener = Bun.listen<{ far: Bun.Socket | null; early: Uint8Array[] }>({
    hostname: LOOPBACK,
    port: 0,
    socket: {
      async open(near) {
        near.data = { far: null, early: [] };
        open.add(near);
        const far = await Bun.connect({
          hostname: LOOPBACK,
          port: state.target,
          socket: {
            data(_, bytes) {
              const copy = bytes.slice();
              if (state.delayMs === 0) near.write(copy);
              else setTimeout(() => near.write(copy), state.delayMs);
            },
            close: () => void near.end(),
          },
        }).catch(() => null);
        if (far === null) return void near.end();
        near.data.far = far;
        for (const bytes of near.data.early) far.write(bytes);
      },
      data(near, bytes) {
        if (near.data.far === null) near.data.early.push(bytes.slice());
        else near.data.far.write(bytes);
      },
      close(near) {
        open.delete(near);
        near.data.far?.end();
      },
    },
  });
  return {
    port: listener.port,
    get delayMs() {
      return state.delayMs;
    },
    set delayMs(ms: number) {
      state.delayMs = ms;
    },
    move(next: number) {
      state.target = next;
      for (const socket of open) socket.end();
    },
    stop: () => listener.stop(true),
  };
}

// ---- a provider that counts

interface Limit {
  readonly most: number;
  readonly windowMs: number;
}

/** A limit that every answer tells of: a window that ends for all at once, or a bucket that fills again. */
class Announced {
  readonly #kind: "window" | "bucket";
  readonly #most: number;
  readonly #perMs: number;
  #left: number;
  #at = Date.now();

  constructor(kind: "window" | "bucket", most: number, fullInMs: number) {
    this.#kind = kind;
    this.#most = most;
    this.#perMs = most / fullInMs;
    this.#left = most;
  }

  /** Whether it lets one more in; and what it tells of that. */
  take(): { isIn: boolean; headers: Record<string, string> } {
    const now = Date.now();
    const fullInMs = this.#most / this.#perMs;
    if (this.#kind === "bucket") {
      this.#left = Math.min(this.#most, this.#left + (now - this.#at) * this.#perMs);
    } else if (Math.floor(now / fullInMs) > Math.floor(this.#at / fullInMs)) this.#left = this.#most;
    this.#at = now;
    const isIn = this.#left >= 1;
    if (isIn) this.#left -= 1;
    const resetMs =
      this.#kind === "bucket" ? (this.#most - this.#left) / this.#perMs : fullInMs - (now % fullInMs);
    const waitMs = this.#kind === "bucket" ? (1 - this.#left) / this.#perMs : resetMs;
    const suffix = this.#kind === "bucket" ? "-requests" : "";
    return {
      isIn,
      headers: {
        [`x-ratelimit-limit${suffix}`]: String(this.#most),
        [`x-ratelimit-remaining${suffix}`]: String(Math.floor(this.#left)),
        [`x-ratelimit-reset${suffix}`]: suffix
          ? `${(resetMs / 1000).toFixed(3)}s`
          : String(Math.ceil(resetMs / 1000)),
        ...(!isIn && { "retry-after": String(Math.ceil(waitMs / 1000)) }),
      },
    };
  }
}

class Provider {
  /** What each key may really do; null: anything. */
  limit: Limit | null = null;
  /** Makes what tells of each key's limit; null: nothing does. */
  announces: (() => Announced) | null = null;
  readonly #announced = new Map<string, Announced>();
  /** Refuses beyond the limit, as a provider does; else it only counts. */
  refuses = false;
  /** Answers this instead, once. */
  next: (() => Response) | null = null;
  /** Answers this instead of everything; null: it serves. */
  always: (() => Response) | null = null;
  /** Holds answers back for so long. */
  delayMs = 0;
  served = 0;
  over = 0;
  refused = 0;
  readonly #times = new Map<string, number[]>();
  readonly #server = Bun.serve({ port: 0, hostname: LOOPBACK, fetch: (request) => this.#answer(request) });

  get url(): string {
    return `http://${LOOPBACK}:${this.#server.port}/v1`;
  }

  reset(limit: Limit | null, refuses: boolean): void {
    Object.assign(this, { limit, refuses, served: 0, over: 0, refused: 0, next: null, delayMs: 0 });
    this.announces = null;
    this.#times.clear();
    this.#announced.clear();
  }

  async #answer(request: Request): Promise<Response> {
    await request.arrayBuffer();
    const special = this.next?.() ?? this.always?.();
    this.next = null;
    if (special !== undefined) return special;
    const key = request.headers.get("authorization") ?? "";
    const now = performance.now();
    const times = this.#times.get(key) ?? [];
    this.#times.set(key, times);
    const { limit } = this;
    while (limit !== null && times.length > 0 && times[0]! <= now - limit.windowMs) times.shift();
    if (limit !== null && times.length >= limit.most) {
      this.over += 1;
      if (this.refuses) {
        this.refused += 1;
        return Response.json({ error: { message: "Rate limit reached" } }, { status: 429 });
      }
    }
    const announced = this.announces && (this.#announced.get(key) ?? this.announces());
    if (announced !== null) this.#announced.set(key, announced);
    const { isIn, headers } = announced?.take() ?? { isIn: true, headers: {} };
    if (!isIn) {
      this.refused += 1;
      return Response.json({ error: { message: "Rate limit reached" } }, { status: 429, headers });
    }
    times.push(now);
    this.served += 1;
    if (this.delayMs > 0) await Bun.sleep(this.delayMs);
    return Response.json({ id: "chatcmpl-1", object: "chat.completion", choices: [] }, { headers });
  }

  stop(): void {
    void this.#server.stop(true);
  }
}

// ---- proxies

interface Instance {
  readonly url: string;
  readonly process: Bun.Subprocess<"ignore", "pipe", "inherit">;
  /** How often it lost the server, where its log tells. */
  readonly timesAlone: () => number;
}

async function startInstance(settings: Record<string, string>): Promise<Instance> {
  const child = Bun.spawn([process.execPath, "--no-env-file", join(ROOT, "proxy.ts")], {
    cwd: "/",
    stdio: ["ignore", "pipe", "inherit"],
    env: {
      PATH: process.env["PATH"] ?? "",
      PORT: "0",
      HOST: LOOPBACK,
      PROVIDER: "openai",
      LOG_LEVEL: "error",
      ADMIN_PASSWORD: PASSWORD,
      ...settings,
    },
  });
  const decoder = new TextDecoder();
  let said = "";
  const reader = child.stdout.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error(`a proxy did not start: ${said}`);
    said += decoder.decode(value);
    const url = /agent: +(http:\/\/127\.0\.0\.1:\d+)\/v1/.exec(said)?.[1];
    if (url === undefined) continue;
    let timesAlone = 0;
    void (async () => {
      for (;;) {
        const more = await reader.read();
        if (more.done) break;
        timesAlone += decoder.decode(more.value).match(/state_server_lost/g)?.length ?? 0;
      }
    })();
    return { url, process: child, timesAlone: () => timesAlone };
  }
}

/**
 * Whether one of them lost the server more often than was meant: one that alone got an answer too late goes on with its
 * share, beside what the server has (docs/many.md). Then this machine is too slow to tell anything of limits.
 */
function lateIn(instances: readonly Instance[], meant: number): { isSplit: boolean; note: string } {
  const isSplit = instances.some(({ timesAlone }) => timesAlone() > meant);
  return {
    isSplit,
    note: isSplit ? " (the machine is overloaded: answers of the server came too late)" : "",
  };
}

async function withInstances(
  count: number,
  settings: Record<string, string>,
  work: (instances: Instance[]) => Promise<void>,
): Promise<void> {
  const instances = await Promise.all(Array.from({ length: count }, () => startInstance(settings)));
  try {
    if (settings["STATE"] !== "off")
      await until("all know of each other", 5000, async () => {
        const known = await Promise.all(
          instances.map(async ({ url }) => (await health(url)).instances?.length),
        );
        return known.every((each) => each === count);
      });
    await work(instances);
  } finally {
    for (const { process: child } of instances) child.kill("SIGKILL");
    await Promise.all(instances.map(({ process: child }) => child.exited));
  }
}

interface Health {
  state_store?: string;
  instances?: { id: string; since: string; seen_sec: number }[];
  pool: string;
  providers: {
    state: string;
    keys: {
      id: string;
      models: Record<string, { reason: string }>;
      state: string;
      reason: string | null;
      today: number;
      requests: number;
      in_flight: number;
    }[];
  }[];
}

async function health(url: string): Promise<Health> {
  return (await (await fetch(`${url}/health`)).json()) as Health;
}

/** What an instance shows of all: requests of the keys, those of the day, and those of the usage. */
async function countedBy(url: string): Promise<number[]> {
  const { keys } = (await health(url)).providers[0]!;
  const usage = await fetch(`${url}/admin/api/usage?days=1`, {
    headers: { authorization: `Bearer ${PASSWORD}` },
  });
  const rows = ((await usage.json()) as { usage: { requests: number }[] }).usage;
  return [
    keys.reduce((sum, { requests }) => sum + requests, 0),
    keys.reduce((sum, { today }) => sum + today, 0),
    rows.reduce((sum, { requests }) => sum + requests, 0),
  ];
}

/** Waits until something is so. Returns how long that took, in ms; null: it did not come. */
async function until(
  what: string,
  withinMs: number,
  isSo: () => Promise<boolean> | boolean,
): Promise<number | null> {
  const since = performance.now();
  while (performance.now() - since < withinMs) {
    if (await isSo()) return performance.now() - since;
    await Bun.sleep(1);
  }
  console.log(`  (not within ${withinMs} ms: ${what})`);
  return null;
}

interface Answers {
  readonly statuses: Record<string, number>;
  /** Of answers with 200, in ms, sorted. */
  readonly times: number[];
}

const BODY = JSON.stringify({ model: "m", messages: [{ role: "user", content: "hello" }] });

async function ask(url: string, headers: Record<string, string> = {}): Promise<string> {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: BODY,
  });
  const text = await response.text();
  if (response.status === 200) return "200";
  const type = /"type":"([a-z_]+)","code"/.exec(text)?.[1] ?? "";
  return `${response.status} ${type}`;
}

/** Asks all instances in turn, so many at a time, until `isOver`. */
async function load(
  instances: readonly Instance[],
  workers: number,
  isOver: (sent: number) => boolean,
  { pauseMs = 0, headers = {} }: { pauseMs?: number; headers?: Record<string, string> } = {},
): Promise<Answers> {
  const statuses: Record<string, number> = {};
  const times: number[] = [];
  let sent = 0;
  const work = async () => {
    while (!isOver(sent)) {
      const instance = instances[sent % instances.length]!;
      sent += 1;
      const since = performance.now();
      const status = await ask(instance.url, headers).catch((error: unknown) => `failed ${String(error)}`);
      statuses[status] = (statuses[status] ?? 0) + 1;
      if (status === "200") times.push(performance.now() - since);
      if (pauseMs > 0) await Bun.sleep(pauseMs);
    }
  };
  await Promise.all(Array.from({ length: workers }, work));
  return { statuses, times: times.sort((one, other) => one - other) };
}

function quantile(times: readonly number[], share: number): number {
  return times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? NaN;
}

const ms = (value: number | null) => (value === null ? "never" : `${value.toFixed(1)} ms`);
const keysOf = (count: number, suffix = "") =>
  Array.from({ length: count }, (_, index) => `sk-bench-many-key-${index}-of-the-pool${suffix}`).join(",");
/** Answers that are no failure: a key that is full, and a client that is. */
const isExpected = (status: string) => /^(?:200$|503 all_keys_cooling|429 client_limit)/.test(status);
const unexpected = ({ statuses }: Answers) =>
  Object.entries(statuses).filter(([status]) => !isExpected(status));

// ---- the parts

const redis = new RedisServer(20_000 + Math.floor(Math.random() * 20_000));
const replica = new RedisServer(redis.port + 1);
const provider = new Provider();
const base = () => ({
  TARGET_BASE_URL: provider.url,
  STATE: `redis://${LOOPBACK}:${redis.port}/1`,
  MAX_WAIT_SEC: "0",
});

const parts: Record<Part, () => Promise<void>> = {
  async exact() {
    const keys = 40;
    const rpm = 250;
    provider.reset({ most: rpm, windowMs: 60_000 }, false);
    await withInstances(
      INSTANCES,
      { ...base(), API_KEYS: keysOf(keys), RPM: String(rpm) },
      async (instances) => {
        const since = performance.now();
        const answers = await load(
          instances,
          48,
          (sent) => sent >= 3 * keys * rpm || performance.now() - since > 55_000,
        );
        report(
          "RPM over 3 instances at 300 % load, requests over a limit",
          `${provider.over} of ${provider.served}`,
          provider.over === 0,
        );
        report(
          "all that is allowed is served",
          `${answers.statuses["200"]} of ${keys * rpm}`,
          answers.statuses["200"] === keys * rpm,
        );
        report(
          "other answers than 200 and 503",
          JSON.stringify(unexpected(answers)),
          unexpected(answers).length === 0,
        );
        await Bun.sleep(300);
        const shown = await Promise.all(
          instances.map(async ({ url }) =>
            (await health(url)).providers[0]!.keys.reduce((sum, key) => sum + key.requests, 0),
          ),
        );
        report(
          "each instance shows all requests",
          shown.join(", "),
          shown.every((count) => count === keys * rpm),
        );
      },
    );
  },

  async day() {
    provider.reset({ most: 100, windowMs: 3_600_000 }, false);
    const settings = { ...base(), API_KEYS: keysOf(10, ":100"), LOG_LEVEL: "warn" };
    await withInstances(INSTANCES, settings, async (instances) => {
      const answers = await load(instances, 30, (sent) => sent >= 3000);
      const { isSplit, note } = lateIn(instances, 0);
      report(
        "daily caps, requests over a cap",
        `${provider.over} of ${provider.served}${note}`,
        provider.over === 0 || isSplit,
      );
      report(
        "the whole day is served",
        `${answers.statuses["200"]} of 1000`,
        answers.statuses["200"] === 1000 || isSplit,
      );
    });
  },

  async clients() {
    provider.reset({ most: Infinity, windowMs: 60_000 }, false);
    const settings = {
      API_KEYS: keysOf(3),
      PROXY_API_KEY: "laptop=client-key-of-the-laptop",
      CLIENT_LIMITS: "laptop = 300/min, 200/day",
    };
    await withInstances(INSTANCES, { ...base(), ...settings }, async (instances) => {
      const headers = { authorization: "Bearer client-key-of-the-laptop" };
      const answers = await load(instances, 30, (sent) => sent >= 900, { headers });
      const refused = answers.statuses["429 client_limit"];
      report(
        "CLIENT_LIMITS of 200 a day, served and refused",
        `${answers.statuses["200"]}, ${refused}`,
        answers.statuses["200"] === 200 && refused === 700,
      );
    });
  },

  async announced() {
    const kinds: [what: string, providerName: string, announces: () => Announced][] = [
      ["a window of 15 s", "generic", () => new Announced("window", 30, 15_000)],
      ["a bucket that fills in 20 s", "openai", () => new Announced("bucket", 20, 20_000)],
    ];
    for (const [what, PROVIDER, announces] of kinds) {
      const counts: { refused: number; served: number }[] = [];
      for (const count of [1, INSTANCES]) {
        provider.reset(null, false);
        provider.announces = announces;
        await redis.ask("FLUSHALL");
        const settings = { ...base(), PROVIDER, MAX_WAIT_SEC: "20", API_KEYS: keysOf(4) };
        await withInstances(count, settings, async (instances) => {
          await Bun.sleep(15_000 - (Date.now() % 15_000)); // as a window begins
          const since = performance.now();
          await load(instances, UNDER_WAY, () => performance.now() - since > 29_500, { pauseMs: 100 });
          counts.push({ refused: provider.refused, served: provider.served });
        });
      }
      const [alone, together] = counts as [(typeof counts)[0], (typeof counts)[0]];
      report(
        `headers announce ${what}, refusals of 1 and of 3 instances in 30 s`,
        `${alone.refused}, ${together.refused}`,
        together.refused <= 1.5 * alone.refused + 8,
      );
      report(
        "served meanwhile",
        `${alone.served}, ${together.served}`,
        together.served >= alone.served * 0.8,
      );
    }
  },

  async refusals() {
    const counts: { all: number; later: number; served: number }[] = [];
    for (const count of [1, INSTANCES]) {
      provider.reset({ most: 30, windowMs: 10_000 }, true);
      await redis.ask("FLUSHALL");
      const settings = { ...base(), MAX_WAIT_SEC: "20", COOLDOWN_SEC: "10", API_KEYS: keysOf(4) };
      await withInstances(count, settings, async (instances) => {
        const since = performance.now();
        const asking = load(instances, UNDER_WAY, () => performance.now() - since > 60_000, { pauseMs: 100 });
        await Bun.sleep(9000);
        const first = provider.refused; // until all keys have met a limit that nobody knew
        await asking;
        counts.push({ all: provider.refused, later: provider.refused - first, served: provider.served });
      });
    }
    const [alone, together] = counts as [(typeof counts)[0], (typeof counts)[0]];
    report(
      "limits that nobody tells, refusals of 1 and of 3 instances in a minute",
      `${alone.all}, ${together.all}`,
      together.all <= Math.max(1.5 * alone.all + 8, UNDER_WAY), // those that were under way at the first refusal
    );
    report("once they are known", `${alone.later}, ${together.later}`, together.later <= alone.later + 3);
    report("served meanwhile", `${alone.served}, ${together.served}`, together.served >= alone.served * 0.8);
  },

  async news() {
    provider.reset(null, false);
    await withInstances(INSTANCES, { ...base(), API_KEYS: keysOf(3) }, async (instances) => {
      const [first, ...others] = instances;
      const seen = async (what: string, act: () => Promise<unknown>, isSo: (shown: Health) => boolean) => {
        await act();
        const took = await until(what, 3000, async () =>
          (await Promise.all(others.map(({ url }) => health(url)))).every(isSo),
        );
        report(`${what} is known everywhere`, ms(took), took !== null && took <= 100);
      };
      const keys = (shown: Health) => shown.providers[0]!.keys;
      const refuse = (status: number, headers: Record<string, string>, message: string) => {
        provider.next = () => Response.json({ error: { message } }, { status, headers });
        return ask(first!.url);
      };
      await seen(
        "a cooldown of a model",
        () => refuse(429, { "retry-after": "40" }, "Rate limit reached"),
        (shown) => keys(shown).some(({ models }) => models["m"]?.reason === "rate_limit"),
      );
      await seen(
        "a cooldown of a key",
        () => refuse(402, {}, "You have run out of credits"),
        (shown) => keys(shown).some(({ state, reason }) => state === "cooling" && reason === "billing"),
      );
      const byHand = (change: "pause" | "resume" | "reset", id: string) =>
        fetch(`${first!.url}/admin/api/providers/default/keys/${id}/${change}`, {
          method: "POST",
          headers: { authorization: `Bearer ${PASSWORD}` },
        });
      const cooled = keys(await health(first!.url)).find(({ state }) => state === "cooling")?.id ?? "";
      const isIn = (id: string, wanted: string) => (shown: Health) =>
        keys(shown).some((key) => key.id === id && key.state === wanted);
      await seen("its end by hand", () => byHand("reset", cooled), isIn(cooled, "ready"));
      await seen("a pause by hand", () => byHand("pause", cooled), isIn(cooled, "paused"));
      await seen("its end", () => byHand("resume", cooled), isIn(cooled, "ready"));
      provider.always = () => Response.json({ error: { message: "internal" } }, { status: 500 });
      await seen(
        "an open breaker",
        async () => {
          for (
            let attempt = 0;
            attempt < 12 && (await health(first!.url)).providers[0]!.state === "up";
            attempt++
          )
            await ask(first!.url);
        },
        (shown) => shown.providers[0]!.state === "paused",
      );
      provider.always = null;
      await Bun.sleep(4000);
      await seen(
        "its end",
        () => ask(first!.url),
        (shown) => shown.providers[0]!.state === "up",
      );
    });
  },

  async latency() {
    const medians: number[] = [];
    const slowest: number[] = [];
    for (const STATE of ["off", base().STATE]) {
      provider.reset(null, false);
      await withInstances(1, { ...base(), STATE, API_KEYS: keysOf(3), RPM: "100000" }, async (instances) => {
        await load(instances, 1, (sent) => sent >= 300);
        const { times } = await load(instances, 1, (sent) => sent >= 2000);
        medians.push(quantile(times, 0.5));
        slowest.push(quantile(times, 0.99));
      });
    }
    const added = medians[1]! - medians[0]!;
    report("added latency of an exact limit, median", ms(added), added < 2);
    console.log(`       99 of 100 within ${ms(slowest[0]!)} without, ${ms(slowest[1]!)} with it`);
  },

  async faults() {
    const delay = startDelay(redis.port);
    const keys = 20;
    const replicate = async () => {
      await replica.ask("REPLICAOF", LOOPBACK, String(redis.port));
      await until("the replica has it all", 5000, async () =>
        String(await replica.ask("INFO", "replication")).includes("master_link_status:up"),
      );
    };
    const faults: [what: string, begin: () => Promise<unknown>, end: () => Promise<unknown>][] = [
      ["stopped (SIGSTOP) for 3 s", async () => redis.signal("SIGSTOP"), async () => redis.signal("SIGCONT")],
      ["slow by 200 ms for 3 s", async () => (delay.delayMs = 200), async () => (delay.delayMs = 0)],
      ["emptied (FLUSHALL)", () => redis.ask("FLUSHALL"), async () => {}],
      [
        "killed, and started 3 s later with nothing",
        () => redis.kill(),
        async () => {
          redis.empty();
          await redis.start();
        },
      ],
      [
        "killed, and started 3 s later with its data",
        async () => {
          await redis.ask("SAVE");
          await redis.kill();
        },
        () => redis.start(),
      ],
      [
        "failed over to its replica after 3 s",
        async () => redis.signal("SIGSTOP"),
        async () => {
          await replica.ask("REPLICAOF", "NO", "ONE");
          delay.move(replica.port);
        },
      ],
    ];
    await replica.start();
    const state = `redis://${LOOPBACK}:${delay.port}/1`;
    for (const [what, begin, end] of faults) {
      // Below the limit: what does it cost those who ask?
      provider.reset(null, false);
      await redis.ask("FLUSHALL"); // the instances of before were killed
      await withInstances(
        INSTANCES,
        { ...base(), STATE: state, API_KEYS: keysOf(keys), RPM: "100000" },
        async (instances) => {
          const run = async (forMs: number) => {
            const since = performance.now();
            return load(instances, 6, () => performance.now() - since > forMs, { pauseMs: 4 });
          };
          const before = await run(2000);
          if (what.startsWith("failed over")) await replicate();
          const during = run(3500);
          await Bun.sleep(300);
          await begin();
          await Bun.sleep(3000);
          await end();
          const answers = await during;
          const cost = quantile(answers.times, 1) - quantile(before.times, 1);
          report(
            `${what}: failures`,
            JSON.stringify(unexpected(answers)),
            unexpected(answers).length === 0 && answers.statuses["503 all_keys_cooling"] === undefined,
          );
          report(
            `${what}: the slowest answer takes longer by`,
            `${ms(cost)} (${ms(quantile(before.times, 1))} before)`,
            cost <= 60,
          );
          const back = await until("all are back", 8000, async () =>
            (await Promise.all(instances.map(({ url }) => health(url)))).every(
              ({ state_store }) => state_store === "ok",
            ),
          );
          report(`${what}: all are together again after`, ms(back), back !== null);
          let counted: number[][] = [];
          const isExact = await until("all is counted", 6000, async () => {
            counted = await Promise.all(instances.map(({ url }) => countedBy(url)));
            return counted.flat().every((count) => count === provider.served);
          });
          report(
            `${what}: counted by each, requests, day and usage`,
            `${counted.map((each) => each.join(" ")).join(", ")} of ${provider.served}`,
            isExact !== null,
          );
          redis.signal("SIGCONT");
          delay.move(redis.port);
        },
      );
      // Above the limit: does it let anybody over it, or count twice?
      const rpm = 100;
      provider.reset({ most: rpm, windowMs: 60_000 }, false);
      await redis.ask("FLUSHALL");
      await withInstances(
        INSTANCES,
        { ...base(), STATE: state, API_KEYS: keysOf(keys), RPM: String(rpm), LOG_LEVEL: "warn" },
        async (instances) => {
          const total = keys * rpm;
          let since = performance.now();
          await load(instances, 6, (sent) => sent >= total * 0.4);
          if (what.startsWith("failed over")) await replicate();
          const during = load(instances, 6, () => performance.now() - since > 3500, { pauseMs: 10 });
          since = performance.now();
          await Bun.sleep(200);
          await begin();
          await Bun.sleep(3000);
          await end();
          await during;
          const meanwhile = provider.served;
          await Bun.sleep(5500); // until all trust the server again
          await load(instances, 12, (sent) => sent >= total);
          const { isSplit, note } = lateIn(instances, 1);
          report(
            `${what}: requests over a limit`,
            `${provider.over} of ${provider.served} (${meanwhile} until it was over)${note}`,
            provider.over === 0 || isSplit,
          );
          report(
            `${what}: what was left is served afterwards`,
            `${provider.served} of ${total}`,
            provider.served === total || isSplit,
          );
          redis.signal("SIGCONT");
          delay.move(redis.port);
        },
      );
      await replica.ask("FLUSHALL");
    }
    delay.stop();
    await replica.end();
  },

  async secrets() {
    provider.reset(null, false);
    await redis.ask("FLUSHALL");
    const random = () => Buffer.from(crypto.getRandomValues(new Uint8Array(30))).toString("base64url");
    const keys = [0, 1, 2].map(() => `sk-${random()}`);
    const clientKey = random();
    const traffic = await redis.monitor();
    const settings = {
      ...base(),
      API_KEYS: keys.map((key) => `${key}:50`).join(","),
      RPM: "100",
      PROXY_API_KEY: `laptop=${clientKey}`,
      CLIENT_LIMITS: "laptop = 1000/min",
    };
    await withInstances(2, settings, async (instances) => {
      const headers = { authorization: `Bearer ${clientKey}` };
      const refusals: [status: number, message: string][] = [
        [401, `Incorrect key provided: ${keys[0]}`],
        [429, `Rate limit reached for ${keys[1]} in this organization`],
        [402, `${keys[2]} has run out of credits`],
      ];
      for (const [status, message] of refusals) {
        provider.next = () => Response.json({ error: { message, param: keys[1] } }, { status });
        await load(instances, 1, (sent) => sent >= 4, { headers });
      }
      await load(instances, 4, (sent) => sent >= 40, { headers });
      await Bun.sleep(1500); // signs of life, too
      const dump = await everythingIn(redis);
      const texts = [...dump.texts, traffic.text()];
      const found = [...keys, clientKey, PASSWORD]
        .flatMap(formsOf)
        .filter((form) => texts.some((text) => text.includes(form)));
      report(
        "parts of 8 letters of a key in the server or on the way there, encoded forms too",
        `${JSON.stringify(found.slice(0, 5))} of ${dump.texts.length} texts and ${traffic.text().length} bytes`,
        found.length === 0 && dump.texts.length > 10 && traffic.text().length > 10_000,
      );
      report("names without an expiry", JSON.stringify(dump.eternal), dump.eternal.length === 0);
    });
    traffic.stop();
  },

  async instances() {
    provider.reset(null, false);
    await withInstances(INSTANCES, { ...base(), API_KEYS: keysOf(2) }, async (instances) => {
      const [first, second, third] = instances;
      const countIs = (count: number) => async () => (await health(first!.url)).instances?.length === count;
      second!.process.kill("SIGTERM");
      const ended = await until("one that ended is gone", 5000, countIs(INSTANCES - 1));
      report("one that ends is gone after", ms(ended), ended !== null && ended < 1500);
      provider.delayMs = 60_000;
      const hanging = ask(third!.url).catch(() => "");
      await until("its request is seen", 3000, async () =>
        (await health(first!.url)).providers[0]!.keys.some(({ in_flight }) => in_flight === 1),
      );
      third!.process.kill("SIGKILL");
      await hanging;
      const idle = await until("what it had in flight is gone", 21_000, async () =>
        (await health(first!.url)).providers[0]!.keys.every(({ in_flight }) => in_flight === 0),
      );
      const killed = await until("one that was killed is gone", 31_000, countIs(INSTANCES - 2));
      report("what a killed one had in flight is gone after", ms(idle), idle !== null && idle <= 20_000);
      report(
        "a killed one is gone after",
        ms((idle ?? 0) + (killed ?? Infinity)),
        killed !== null && (idle ?? 0) + killed <= 30_000,
      );
    });
  },
};

/** Parts of a secret as they might stand somewhere: as they are, turned round, in hex, percent signs or base64. */
function formsOf(secret: string): string[] {
  const parts = Array.from({ length: secret.length - 7 }, (_, at) => secret.slice(at, at + 8));
  const hexOf = (part: string) => Buffer.from(part).toString("hex");
  const inBase64 = [0, 1, 2].flatMap((shift) => {
    const text = Buffer.from(secret.slice(shift)).toString("base64url").slice(0, -2);
    return Array.from({ length: Math.max(0, text.length - 10) }, (_, at) => text.slice(at, at + 11));
  });
  return [
    ...parts.flatMap((part) => [
      part,
      part.toUpperCase(),
      part.toLowerCase(),
      [...part].reverse().join(""),
      hexOf(part),
      hexOf(part).toUpperCase(),
      hexOf(part).replace(/../g, "%$&"),
      hexOf(part).replace(/../g, "\\x$&"),
    ]),
    ...inBase64.flatMap((part) => [part, part.replaceAll("-", "+").replaceAll("_", "/")]),
  ];
}

/** All names and values of the server, and the names that never expire. */
async function everythingIn(server: RedisServer): Promise<{ texts: string[]; eternal: string[] }> {
  const client = new Bun.RedisClient(`redis://${LOOPBACK}:${server.port}/1`);
  const names = (await client.send("KEYS", ["*"])) as string[];
  const texts: string[] = [...names];
  const eternal: string[] = [];
  for (const name of names) {
    const type = String(await client.send("TYPE", [name]));
    if (type === "string") texts.push(String(await client.send("GET", [name])));
    if (type === "hash") texts.push(JSON.stringify(await client.send("HGETALL", [name])));
    if (type === "zset") texts.push(JSON.stringify(await client.send("ZRANGE", [name, "0", "-1"])));
    if (Number(await client.send("TTL", [name])) < 0) eternal.push(name);
  }
  client.close();
  return { texts, eternal };
}

await redis.start();
console.log(`${serverPath}, ${INSTANCES} instances`);
try {
  for (const part of chosen.length === 0 ? PARTS : chosen) {
    console.log(part);
    await redis.ask("FLUSHALL");
    await parts[part]();
  }
} finally {
  await redis.end();
  provider.stop();
}
console.log(problems.length === 0 ? "All is as promised." : `${problems.length} promises are not kept.`);
process.exit(problems.length === 0 ? 0 : 1);
