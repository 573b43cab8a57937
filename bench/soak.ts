/**
 * Whether anything is lost, doubled or left over after hours of bad luck, in a few minutes (P34).
 *
 *     bun bench/soak.ts [--proxy "COMMAND"] [--requests 100000] [--seed 1]
 *
 * A hundred clients at a time ask for answers and streams. One in twenty leaves in one of six moments, by a FIN or a
 * reset. The upstream refuses one in five with 429, cuts one in twenty, and now and then answers 500, sends garbage,
 * says nothing for a while, or restarts: for a moment it takes no connections and resets those it has. Where
 * libfaketime is installed (Debian: faketime), the machine's date jumps by an hour, back and ahead, all the time.
 *
 * Each request carries a number. Its client knows at the end what it got, and the upstream how often it saw it:
 * - lost: no answer and no clear error in time, an end that looks whole and is not, or somebody else's answer;
 * - doubled: the upstream may have done the work of one request more than twice (P3), or after its answer began;
 * - left over: requests in flight, sockets upstream, descriptors, memory that grows in the second half.
 *
 * Exit code 0: nothing of that, 1: something, 2: it could not run.
 */
import type { Socket } from "bun";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { ProcessTree, startProxy } from "./contenders.ts";
import type { Contender } from "./contenders.ts";
import { LOOPBACK, Message, Outbox } from "./load.ts";

const LANES = 100;
const KEYS = 40;
const PATIENCE_MS = 900_000;
const SAMPLE_MS = 250;
const SETTLE_MS = 25_000;
/** The longest that one request may take: its waits for keys and one restart of the upstream included. */
const REQUEST_MS = 60_000;
const RESTART_EVERY_MS = 9000;
const DOWN_MS = 400;
const CLOCK_STEPS = ["-1h", "+0", "+1h", "+0", "-1d", "+1d"];
const STEP_EVERY_MS = 2500;
/** Where the second half of a run may drift to: the collector is not as regular as a clock. */
const DRIFT = { factor: 1.15, extraMb: 3 };
const SPARE_DESCRIPTORS = 8;

/** What the upstream does with a request, in a thousand. The rest gets a good answer. */
const MISHAPS = {
  refused: 200,
  cut: 30,
  reset: 20,
  failed: 15,
  garbage: 5,
  silent: 5,
  overloaded: 10,
} as const;
type Mishap = keyof typeof MISHAPS;

/** When a client that leaves does so. */
const MOMENTS = ["in the request", "before the head", "after the first event", "in mid-stream"] as const;
const LEAVES = 50; // in a thousand

/** What became of a request, as its client saw it. */
const ENDS = ["answered", "clear error", "cut with an error", "cut", "left", "LOST"] as const;
type End = (typeof ENDS)[number];

interface Tally {
  ends: Record<End, number>;
  lost: string[];
  slowestMs: number;
}

interface Ledger {
  port: number;
  sockets: number;
  seen: number;
  mishaps: Partial<Record<Mishap, number>>;
  /** Requests of which the work may have been done more often than P3 allows. */
  doubled: string[];
}

interface Sample {
  anonymousMb: number;
  descriptors: number;
}

interface Goal {
  sentence: string;
  isMet: boolean;
}

// ---- the story

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { proxy: { type: "string" }, requests: { type: "string" }, seed: { type: "string" } },
  });
  const requests = wholeNumber(values.requests ?? "100000", "--requests", 100);
  const seed = wholeNumber(values.seed ?? "1", "--seed", 0);
  const command = values.proxy ?? defaultCommand();
  const patience = setTimeout(() => giveUp(`not done after ${PATIENCE_MS / 1000} s`), PATIENCE_MS);
  const upstream = new Role("upstream");
  const clients = new Role("clients");
  const date = falseDate();
  const { port: upstreamPort } = await upstream.ask<Ledger>({ do: "count", seed });
  const proxy = await startProxy(
    date === null ? command : `env ${date.environment} ${command}`,
    upstreamPort,
    "usual",
    {
      API_KEYS: Array.from({ length: KEYS }, (_, index) => `key-${index}-of-the-soak`).join(","),
      MAX_WAIT_SEC: "30",
      FIRST_BYTE_TIMEOUT_SEC: "20",
      COOLDOWN_SEC: "1",
    },
  );
  await clients.ask({ do: "warm up", port: proxy.port });
  await Bun.sleep(500);

  const processId = listenerOn(proxy.port);
  const before = sample(proxy, processId);
  const samples: Sample[] = [];
  const sampling = setInterval(() => samples.push(sample(proxy, processId)), SAMPLE_MS);
  const stepping = date === null ? null : setInterval(date.step, STEP_EVERY_MS);
  const beganAt = performance.now();
  const tally = await clients.ask<Tally>({ do: "ask", port: proxy.port, requests, seed });
  const tookSec = (performance.now() - beganAt) / 1000;
  clearInterval(sampling);
  clearInterval(stepping ?? undefined);

  const { sockets, isIdle, health } = await settled(upstream, proxy);
  const ledger = await upstream.ask<Ledger>({ do: "count", seed });
  const after = sample(proxy, processId);
  const goals = [
    everyoneAnswered(tally, requests),
    {
      sentence: `doubled: ${ledger.doubled.length}${listed(ledger.doubled)}`,
      isMet: ledger.doubled.length === 0,
    },
    memoryFlat(samples),
    { sentence: `/health afterwards: ${health}`, isMet: isIdle },
    { sentence: `sockets left open upstream: ${sockets}`, isMet: sockets === 0 },
    {
      sentence: `file descriptors: ${before.descriptors} before, ${after.descriptors} after`,
      isMet: after.descriptors <= before.descriptors + SPARE_DESCRIPTORS,
    },
  ];
  clearTimeout(patience);
  date?.remove();
  const clock = date === null ? "the date stands still (no libfaketime)" : "the date jumps";
  console.log(
    `keywheel soak: ${requests} requests, ${LANES} at once, ${tookSec.toFixed(0)} s, ${clock}, ${command}`,
  );
  console.log(rendered(tally, ledger, [before, ...samples], after, goals));
  if (proxy.process?.lastWords) console.log(`the proxy said: ${proxy.process.lastWords}`);
  return goals.every(({ isMet }) => isMet) ? 0 : 1;
}

function wholeNumber(text: string, option: string, least: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least)
    throw new Error(`${option} is ${text}; use a whole number from ${least} up`);
  return value;
}

/** The executable where one has been built, else the source. */
function defaultCommand(): string {
  const root = join(import.meta.dir, "..");
  const executable = join(root, "dist", `keywheel-linux-${process.arch}`);
  return existsSync(executable)
    ? `'${executable}'`
    : `'${process.execPath}' --no-env-file '${join(root, "proxy.ts")}'`;
}

/** A date that can be set while the proxy runs; null: there is no libfaketime. */
function falseDate(): { environment: string; step(): void; remove(): void } | null {
  const found = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
    .map((directory) => join(directory, "faketime", "libfaketime.so.1"))
    .find((path) => existsSync(path));
  if (found === undefined) return null;
  const directory = mkdtempSync(join(tmpdir(), "keywheel-soak-"));
  const file = join(directory, "date");
  writeFileSync(file, "+0\n");
  let steps = 0;
  return {
    environment: `LD_PRELOAD=${found} FAKETIME_TIMESTAMP_FILE=${file} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1`,
    step: () => writeFileSync(file, `${CLOCK_STEPS[steps++ % CLOCK_STEPS.length]}\n`),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

/** What upstream and `/health` still count as under way, as soon as that is nothing or patience ends. */
async function settled(upstream: Role, { port }: Contender) {
  for (let waitedMs = 0; ; waitedMs += SAMPLE_MS) {
    const { sockets } = await upstream.ask<Ledger>({ do: "count", seed: 0 });
    const answer = await fetch(`http://${LOOPBACK}:${port}/health`);
    const report = (await answer.json()) as Health;
    const inFlight = report.providers.flatMap(({ keys }) => keys.map((key) => key.in_flight));
    const waiting = report.providers.reduce((sum, provider) => sum + provider.waiting, 0);
    const disabled = report.providers.flatMap(({ keys }) =>
      keys.filter(({ state }) => state === "disabled"),
    ).length;
    const isIdle = inFlight.every((count) => count === 0) && waiting === 0 && disabled === 0;
    const health = `${report.status}, in flight ${inFlight.reduce((a, b) => a + b, 0)}, waiting ${waiting}, disabled ${disabled}`;
    if ((isIdle && sockets === 0) || waitedMs >= SETTLE_MS) return { sockets, isIdle, health };
    await Bun.sleep(SAMPLE_MS);
  }
}

interface Health {
  status: string;
  providers: { waiting: number; keys: { in_flight: number; state: string }[] }[];
}

function sample({ process }: Contender, processId: number): Sample {
  return {
    anonymousMb: ((process?.memory().anonymousKb ?? NaN) * 1024) / 1e6,
    descriptors: readdirSync(`/proc/${processId}/fd`).length,
  };
}

/** Who listens on a port: a wrapper may stand between us and the proxy. */
function listenerOn(port: number): number {
  const address = new RegExp(
    `:${port.toString(16).toUpperCase().padStart(4, "0")} \\S+ 0A(?: +\\S+){5} +(\\d+)`,
  );
  const inode = address.exec(readFileSync("/proc/net/tcp", "latin1"))?.[1];
  const holdsIt = (path: string) => {
    try {
      return readdirSync(path).some((id) => readlinkSync(join(path, id)) === `socket:[${inode}]`);
    } catch {
      return false; // not ours to look into, or it has ended
    }
  };
  const processId = readdirSync("/proc").find((id) => /^\d+$/.test(id) && holdsIt(`/proc/${id}/fd`));
  if (processId === undefined) throw new Error(`nobody listens on port ${port}`);
  return Number(processId);
}

// ---- what is judged

function listed(examples: readonly string[]): string {
  return examples.length === 0 ? "" : ` (${examples.slice(0, 3).join("; ")})`;
}

function everyoneAnswered({ ends, lost }: Tally, requests: number): Goal {
  const total = ENDS.reduce((sum, end) => sum + ends[end], 0);
  return {
    sentence: `lost: ${ends.LOST}${listed(lost)}; accounted for: ${total} of ${requests}`,
    isMet: ends.LOST === 0 && total === requests,
  };
}

function memoryFlat(samples: Sample[]): Goal {
  const at = (share: number) => Math.floor(samples.length * share);
  const third = quantiles(samples.slice(at(0.5), at(0.75))).median;
  const last = quantiles(samples.slice(at(0.75))).median;
  const limit = third * DRIFT.factor + DRIFT.extraMb;
  const sentence = `memory: median ${last.toFixed(1)} MB in the last quarter after ${third.toFixed(1)} MB in the third, at most ${limit.toFixed(1)} MB`;
  return { sentence, isMet: last <= limit };
}

function quantiles(samples: Sample[], figure: keyof Sample = "anonymousMb") {
  const sorted = samples.map((sample) => sample[figure]).sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
  return { min: at(0), median: at(0.5), max: at(1) };
}

function rendered(tally: Tally, ledger: Ledger, samples: Sample[], after: Sample, goals: Goal[]): string {
  const half = Math.floor(samples.length / 2);
  const row = (label: string, figure: keyof Sample, part: Sample[]) => {
    const { min, median, max } = quantiles(part, figure);
    const digits = figure === "descriptors" ? 0 : 1;
    return cells(label, ...[min, median, max].map((value) => value.toFixed(digits)));
  };
  const lines = [
    "",
    "what clients saw",
    ...ENDS.map((end) => cells(`  ${end}`, String(tally.ends[end]))),
    `  the slowest took ${(tally.slowestMs / 1000).toFixed(1)} s`,
    "",
    `what upstream did with ${ledger.seen} requests`,
    ...Object.entries(ledger.mishaps).map(([mishap, count]) => cells(`  ${mishap}`, String(count))),
    "",
    cells("", "min", "median", "max"),
    row("anonymous MB, first half", "anonymousMb", samples.slice(0, half)),
    row("anonymous MB, second half", "anonymousMb", samples.slice(half)),
    row("file descriptors, first half", "descriptors", samples.slice(0, half)),
    row("file descriptors, second half", "descriptors", samples.slice(half)),
    `afterwards ${after.anonymousMb.toFixed(1)} MB, before ${samples[0]!.anonymousMb.toFixed(1)} MB`,
    "",
    ...goals.map(({ sentence, isMet }) => `${(isMet ? "pass" : "MISS").padEnd(8)}${sentence}`),
  ];
  return lines.join("\n");
}

function cells(label: string, ...columns: string[]): string {
  return label.padEnd(32) + columns.map((column) => column.padStart(10)).join("");
}

// ---- the two roles, each a process of its own

type Order =
  | { do: "count"; seed: number }
  | { do: "warm up"; port: number }
  | { do: "ask"; port: number; requests: number; seed: number };

/** This file again, as the upstream or the clients; it ends itself when this one is gone, however it went. */
class Role {
  static readonly running = new Set<Role>();
  readonly #child: Bun.Subprocess;
  #answer: (reply: unknown) => void = () => {};

  constructor(name: "upstream" | "clients") {
    this.#child = Bun.spawn([process.execPath, "--no-env-file", import.meta.path], {
      stdio: ["ignore", "ignore", "inherit"],
      env: { SOAK_ROLE: name },
      ipc: (reply: unknown) => this.#answer(reply),
    });
    Role.running.add(this);
  }

  async ask<Reply>(order: Order): Promise<Reply> {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    this.#answer = resolve;
    this.#child.send(order);
    const died = this.#child.exited.then((code): never => {
      throw new Error(`a load process exited with ${code}`);
    });
    return (await Promise.race([promise, died])) as Reply; // both ends are ours
  }

  killNow(): void {
    this.#child.kill("SIGKILL");
  }
}

/** The other end of a `Role`. */
function takeOrders(obey: (order: Order) => unknown): void {
  process.on("disconnect", () => process.exit(0));
  process.on("message", async (order: unknown) => {
    process.send!(await obey(order as Order)); // both ends are ours
  });
}

/** Numbers from 0 up to 1, the same for the same seed (mulberry32). */
function chance(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// ---- the upstream

interface Exchange {
  request: Message;
  outbox: Outbox;
  timers: Timer[];
}

const STREAM_HEAD =
  "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENTS = 6;
const EVENT_EVERY_MS = 12;

function framed(text: string): Buffer {
  return Buffer.from(`${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`);
}

function event(id: string, content: string, finish: string | null = null): Buffer {
  const choices = [{ index: 0, delta: { content }, finish_reason: finish }];
  return framed(
    `data: ${JSON.stringify({ id, object: "chat.completion.chunk", model: "soak", choices })}\n\n`,
  );
}

function whole(status: number, body: string, fields = ""): Buffer {
  return Buffer.from(
    `HTTP/1.1 ${status} X\r\ncontent-type: application/json\r\n${fields}content-length: ${body.length}\r\n\r\n${body}`,
  );
}

function refusal(message: string, type: string): string {
  return JSON.stringify({ error: { message, type, code: null, param: null } });
}

function beUpstream(): void {
  let random = chance(0);
  let seen = 0;
  const mishaps: Ledger["mishaps"] = {};
  /** By request: how often its work may have been done, and whether an answer to it ended well. */
  const worked = new Map<string, number>();
  const doubled: string[] = [];
  const sockets = new Set<Socket<Exchange>>();

  function mishapOf(): Mishap | null {
    let ticket = random() * 1000;
    for (const [mishap, share] of Object.entries(MISHAPS)) {
      ticket -= share;
      if (ticket < 0) return mishap as Mishap;
    }
    return null;
  }

  /** The work of a request may have been done once more. */
  function works(id: string): void {
    const times = (worked.get(id) ?? 0) + 1;
    worked.set(id, times);
    if (times > 2) doubled.push(`${id} ${times} times`);
  }

  function answer(socket: Socket<Exchange>, id: string, isStream: boolean): void {
    const { outbox, timers } = socket.data;
    const mishap = mishapOf();
    seen += 1;
    if (mishap !== null) mishaps[mishap] = (mishaps[mishap] ?? 0) + 1;
    const later = (ms: number, act: () => void) => timers.push(setTimeout(act, ms));
    switch (mishap) {
      case "refused":
        return outbox.send(
          socket,
          whole(429, refusal("Rate limit reached.", "rate_limit_error"), "retry-after-ms: 30\r\n"),
        );
      case "overloaded":
        return outbox.send(socket, whole(503, refusal("Overloaded.", "server_error")));
      case "failed":
        works(id);
        return outbox.send(socket, whole(500, refusal("The server had an error.", "server_error")));
      case "garbage":
        works(id);
        outbox.send(socket, Buffer.from("HELLO THERE\r\n\r\n\0\0\xff"));
        return void later(20, () => socket.terminate());
      case "silent":
        works(id);
        return void later(300, () => socket.terminate());
      case "reset":
        works(id);
        if (isStream) outbox.send(socket, Buffer.concat([Buffer.from(STREAM_HEAD), event(id, id)]));
        return void later(10, () => socket.terminate());
      case "cut":
        works(id);
        if (isStream)
          outbox.send(socket, Buffer.concat([Buffer.from(STREAM_HEAD), event(id, id), event(id, "cut")]));
        else outbox.send(socket, whole(200, good(id)).subarray(0, -20));
        return void later(10, () => socket.end());
      case null:
        works(id);
    }
    if (!isStream) return void later(random() * 20, () => outbox.send(socket, whole(200, good(id))));
    const end = Buffer.concat([event(id, "", "stop"), framed("data: [DONE]\n\n"), Buffer.from("0\r\n\r\n")]);
    later(random() * 20, () => outbox.send(socket, Buffer.concat([Buffer.from(STREAM_HEAD), event(id, id)])));
    for (let sent = 1; sent < EVENTS; sent += 1)
      later(25 + sent * EVENT_EVERY_MS, () => outbox.send(socket, event(id, " token")));
    later(30 + EVENTS * EVENT_EVERY_MS, () => outbox.send(socket, end));
  }

  const handlers: Bun.SocketHandler<Exchange> = {
    open(socket) {
      socket.data = { request: new Message(), outbox: new Outbox(), timers: [] };
      sockets.add(socket);
    },
    data(socket, bytes) {
      const { request } = socket.data;
      if (!request.push(bytes)) return;
      socket.data.request = new Message();
      const [, id = "nobody", isStream] = /"user":"([^"]+)"(,"stream":true)?/.exec(request.opening) ?? [];
      answer(socket, id, isStream !== undefined);
    },
    drain: (socket) => socket.data.outbox.drain(socket),
    close(socket) {
      for (const timer of socket.data.timers) clearTimeout(timer);
      sockets.delete(socket);
    },
    error() {}, // a reset is a proxy that let go: `close` follows
  };
  const listen = (port: number) => Bun.listen<Exchange>({ hostname: LOOPBACK, port, socket: handlers });
  let listener = listen(0);
  const { port } = listener;
  let restarting: Timer | null = null;
  takeOrders((order) => {
    if (order.do === "count" && order.seed > 0 && seen === 0) {
      random = chance(order.seed);
      restarting = setInterval(() => {
        listener.stop(false);
        for (const socket of sockets) socket.terminate();
        setTimeout(() => (listener = listen(port)), DOWN_MS);
      }, RESTART_EVERY_MS);
    } else if (order.do === "count" && order.seed === 0) clearInterval(restarting ?? undefined);
    return { port, sockets: sockets.size, seen, mishaps, doubled } satisfies Ledger;
  });
}

function good(id: string): string {
  const message = { role: "assistant", content: `an answer to ${id}` };
  return JSON.stringify({
    id,
    object: "chat.completion",
    choices: [{ index: 0, message, finish_reason: "stop" }],
  });
}

// ---- the clients

interface Asking {
  id: string;
  isStream: boolean;
  moment: (typeof MOMENTS)[number] | null;
  isReset: boolean;
  text: string;
  hasLeft: boolean;
  askedAt: number;
  timer: Timer | null;
}

function requestOf(port: number, id: string, isStream: boolean): Buffer {
  const body = `{"user":"${id}"${isStream ? ',"stream":true' : ""},"model":"soak","messages":[{"role":"user","content":"${"hello ".repeat(20)}"}]}`;
  return Buffer.from(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: ${LOOPBACK}:${port}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
}

/** What an answer that has ended was; a text says why it counts as lost. */
function judged({ id, isStream, text }: Asking): End | string {
  const bodyAt = text.indexOf("\r\n\r\n");
  const status = Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 0);
  if (bodyAt < 0 || status === 0)
    return `${id}: closed without an answer (${JSON.stringify(text.slice(0, 80))})`;
  const body = text.slice(bodyAt + 4);
  const isEnded = /\r\ncontent-length: *(\d+)/i.test(text)
    ? body.length >= Number(/\r\ncontent-length: *(\d+)/i.exec(text)![1])
    : body.endsWith("0\r\n\r\n");
  if (status !== 200) {
    if (status === 429) return `${id}: a 429 reached the client`;
    return isEnded && body.includes('"error"') ? "clear error" : `${id}: ${status} without a clear error`;
  }
  for (const [, other] of body.matchAll(/"id":"(r\d+)"/g))
    if (other !== id) return `${id} got an answer to ${other}`;
  if (isStream && isEnded)
    return body.includes("data: [DONE]") ? "answered" : `${id}: a cut stream ended cleanly`;
  if (isEnded) return body.includes(`an answer to ${id}`) ? "answered" : `${id}: 200 without its answer`;
  if (isStream && body.includes('"error"')) return "cut with an error";
  return "cut"; // the connection was reset: the client's library says so
}

function beClients(): void {
  takeOrders((order) => {
    if (order.do === "ask") return askAll(order.port, order.requests, order.seed);
    if (order.do === "warm up") return askAll(order.port, 500, 0);
    return null;
  });
}

/** A hundred lanes: in each, the next client comes when the last one's socket is closed. */
function askAll(port: number, requests: number, seed: number): Promise<Tally> {
  const { promise, resolve } = Promise.withResolvers<Tally>();
  const random = chance(seed + 7);
  const ends = Object.fromEntries(ENDS.map((end) => [end, 0])) as Tally["ends"];
  const tally: Tally = { ends, lost: [], slowestMs: 0 };
  let asked = 0;
  let open = 0;

  function next(): void {
    if (asked === requests) {
      if (open === 0) resolve(tally);
      return;
    }
    asked += 1;
    open += 1;
    const leaves = random() * 1000 < LEAVES;
    const data: Asking = {
      id: `r${seed}0${asked}`,
      isStream: random() < 0.5 || leaves,
      moment: leaves ? MOMENTS[Math.floor(random() * MOMENTS.length)]! : null,
      isReset: random() < 0.5,
      text: "",
      hasLeft: false,
      askedAt: performance.now(),
      timer: null,
    };
    void Bun.connect<Asking>({ hostname: LOOPBACK, port, data, socket: handlers });
  }

  function end(asking: Asking): void {
    clearTimeout(asking.timer ?? undefined);
    const verdict = asking.hasLeft ? "left" : judged(asking);
    const isKnown = (ENDS as readonly string[]).includes(verdict);
    ends[isKnown ? (verdict as End) : "LOST"] += 1;
    if (!isKnown && tally.lost.length < 20) tally.lost.push(verdict);
    tally.slowestMs = Math.max(tally.slowestMs, performance.now() - asking.askedAt);
    open -= 1;
    next();
  }

  function leave(socket: Socket<Asking>): void {
    socket.data.hasLeft = true;
    if (socket.data.isReset) socket.terminate();
    else socket.end();
  }

  const handlers: Bun.SocketHandler<Asking> = {
    open(socket) {
      const asking = socket.data;
      const { id, isStream, moment } = asking;
      const request = requestOf(port, id, isStream);
      const cut = moment === "in the request" ? Math.floor(random() * request.length) : request.length;
      socket.write(request.subarray(0, cut));
      const isEarly = moment === "in the request" || moment === "before the head";
      asking.timer = isEarly
        ? setTimeout(() => leave(socket), random() * 25)
        : setTimeout(() => {
            asking.text = `${asking.text.slice(0, 60)} (gave up after ${REQUEST_MS / 1000} s)`;
            socket.terminate();
          }, REQUEST_MS);
    },
    data(socket, bytes) {
      const asking = socket.data;
      if (asking.hasLeft) return;
      asking.text += bytes.toString("latin1");
      if (!asking.text.includes("data: {")) return;
      if (asking.moment === "after the first event") leave(socket);
      else if (asking.moment === "in mid-stream") {
        asking.moment = null;
        clearTimeout(asking.timer ?? undefined);
        asking.timer = setTimeout(() => leave(socket), random() * 60);
      }
    },
    close: (socket) => end(socket.data),
    error() {}, // `close` follows
    connectError(socket, error) {
      socket.data.text = `not connected: ${error.message}`;
      end(socket.data);
    },
  };
  for (let lane = 0; lane < LANES; lane += 1) next();
  return promise;
}

// ---- ending

function endAll(): void {
  for (const role of Role.running) role.killNow();
  for (const tree of ProcessTree.running) tree.killNow();
}

function giveUp(why: string): never {
  endAll();
  console.error(`soak: ${why}`);
  process.exit(2);
}

const role = process.env["SOAK_ROLE"];
if (role === "upstream") beUpstream();
else if (role === "clients") beClients();
else {
  process.on("exit", endAll);
  process.on("SIGINT", () => giveUp("interrupted"));
  process.on("SIGTERM", () => giveUp("terminated"));
  try {
    process.exit(await main());
  } catch (error) {
    giveUp(error instanceof Error ? error.message : String(error));
  }
}
