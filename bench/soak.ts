/**
 * Whether the proxy gives everything back: streams by the thousand, each left by its client at a bad moment.
 *
 *     bun bench/soak.ts [--proxy "COMMAND"] [--streams 20000]
 *
 * Users stop their agents in mid-sentence. What a proxy forgets then (a socket to the provider, a place in flight,
 * a buffer) is too little to see once and kills it after a week. So a hundred clients at a time ask for streams
 * that never end by themselves and leave, with a FIN or a reset, and in the end nothing may be left of them.
 *
 * Exit code 0: all goals met, 1: one missed, 2: it could not run. It takes at most two minutes.
 */
import type { Socket } from "bun";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { ProcessTree, startProxy, trial } from "./contenders.ts";
import type { Contender } from "./contenders.ts";
import { LOOPBACK, Message, Outbox, sdkRequest } from "./load.ts";

const STREAMS = 20_000;
const LANES = 100;
/** Streams that have not been opened by then are missing from the result. */
const LOAD_MS = 95_000;
const PATIENCE_MS = 118_000;
const SAMPLE_MS = 200;
/** What is still on its way when the last client has left may take so long to be given back. */
const SETTLE_MS = 3000;
/** Where the second half of a run may drift to: the collector is not as regular as a clock. */
const DRIFT = { factor: 1.15, extraMb: 2 };
const SPARE_DESCRIPTORS = 4;

/** When a client leaves, how many of a hundred do, and how long they stay at most once the moment has come. */
const MOMENTS = {
  "in the request": { share: 5, withinMs: 20 },
  "before the head": { share: 20, withinMs: 30 },
  "after the first event": { share: 20, withinMs: 0 },
  "in mid-stream": { share: 35, withinMs: 900 },
  "with unread bytes": { share: 15, withinMs: 600 },
  "with a full pipe": { share: 5, withinMs: 600 }, // unread, and more than the kernel would hold
} as const;
type Moment = keyof typeof MOMENTS;
type Way = "FIN" | "reset";

/** What the upstream is asked for, in the request's `max_tokens`. */
const STEADY = 1;
const FLOOD = 2;
const EVENT_EVERY_MS = 30;
/** Longer than a client stays that leaves before it. */
const HEAD_AFTER_MS = 35;
const FLOOD_EVENTS = 64; // of 64 KB each
/** A half-closed client closes for good after this. */
const LINGER_MS = 200;
const LANE_PATIENCE_MS = 10_000;

interface Departures {
  left: Partial<Record<`${Moment}, ${Way}`, number>>;
  failed: number;
  failures: string[];
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
  const { values } = parseArgs({ options: { proxy: { type: "string" }, streams: { type: "string" } } });
  const streams = Number(values.streams ?? STREAMS);
  if (!Number.isInteger(streams) || streams < 100) {
    throw new Error(`--streams is ${values.streams}; use a whole number from 100 up`);
  }
  const command = values.proxy ?? defaultCommand();
  const patience = setTimeout(() => giveUp(`not done after ${PATIENCE_MS / 1000} s`), PATIENCE_MS);
  const upstream = new Role("upstream");
  const client = new Role("client");
  const proxy = await startProxy(command, (await upstream.ask({ do: "count" })).port);
  const problem = await trial(proxy);
  if (problem !== null) throw new Error(`the proxy cannot be tested: ${problem}`);

  const processId = listenerOn(proxy.port);
  const before = sample(proxy, processId);
  const samples: Sample[] = [];
  const sampling = setInterval(() => samples.push(sample(proxy, processId)), SAMPLE_MS);
  const beganAt = performance.now();
  const departures = await client.ask({ do: "leave", port: proxy.port, streams });
  const tookSec = (performance.now() - beganAt) / 1000;
  clearInterval(sampling);

  const held = await settled(upstream, proxy);
  const after = sample(proxy, processId);
  const goals = [
    everyoneLeft(departures, streams),
    memoryFlat(samples),
    { sentence: `sockets left open upstream: ${held.sockets}`, isMet: held.sockets === 0 },
    { sentence: `/health afterwards: ${held.health}`, isMet: held.isIdle },
    {
      sentence: `file descriptors: ${before.descriptors} before, ${after.descriptors} after`,
      isMet: after.descriptors <= before.descriptors + SPARE_DESCRIPTORS,
    },
    stillServes(await trial(proxy)),
  ];
  clearTimeout(patience);
  console.log(`keywheel soak: ${streams} streams, ${LANES} at once, ${tookSec.toFixed(0)} s, ${command}`);
  console.log(rendered(departures, [before, ...samples], after, goals));
  if (proxy.process?.lastWords) console.log(`the proxy said: ${proxy.process.lastWords}`);
  return goals.every(({ isMet }) => isMet) ? 0 : 1;
}

/** The executable where one has been built, else the source. */
function defaultCommand(): string {
  const root = join(import.meta.dir, "..");
  const executable = join(root, "dist", `keywheel-linux-${process.arch}`);
  return existsSync(executable)
    ? `'${executable}'`
    : `'${process.execPath}' --no-env-file '${join(root, "proxy.ts")}'`;
}

/** What upstream and `/health` still count as under way, as soon as that is nothing or patience ends. */
async function settled(upstream: Role, { port }: Contender) {
  for (let waitedMs = 0; ; waitedMs += SAMPLE_MS) {
    const { sockets } = await upstream.ask({ do: "count" });
    const answer = await fetch(`http://${LOOPBACK}:${port}/health`);
    const report = (await answer.json()) as Health;
    const inFlight = report.providers.flatMap(({ keys }) => keys.map((key) => key.in_flight));
    const waiting = report.providers.reduce((sum, provider) => sum + provider.waiting, 0);
    const isIdle = inFlight.every((count) => count === 0) && waiting === 0 && report.status === "ok";
    const health = `${report.status}, in flight ${inFlight.join("/")}, waiting ${waiting}`;
    if ((isIdle && sockets === 0) || waitedMs >= SETTLE_MS) return { sockets, isIdle, health };
    await Bun.sleep(SAMPLE_MS);
  }
}

interface Health {
  status: string;
  providers: { waiting: number; keys: { in_flight: number }[] }[];
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

function everyoneLeft({ left, failed, failures }: Departures, streams: number): Goal {
  const done = Object.values(left).reduce((sum, count) => sum + count, 0);
  const why = failures.length > 0 ? ` (${failures.join("; ")})` : "";
  const sentence = `streams opened and left: ${done} of ${streams}, ${failed} went wrong${why}`;
  return { sentence, isMet: done === streams && failed === 0 };
}

function memoryFlat(samples: Sample[]): Goal {
  const at = (share: number) => Math.floor(samples.length * share);
  const third = quantiles(samples.slice(at(0.5), at(0.75))).median;
  const last = quantiles(samples.slice(at(0.75))).median;
  const limit = third * DRIFT.factor + DRIFT.extraMb;
  const sentence = `memory: median ${last.toFixed(1)} MB in the last quarter after ${third.toFixed(1)} MB in the third, at most ${limit.toFixed(1)} MB`;
  return { sentence, isMet: last <= limit };
}

function stillServes(problem: string | null): Goal {
  return { sentence: `a normal request afterwards: ${problem ?? "served"}`, isMet: problem === null };
}

function quantiles(samples: Sample[], figure: keyof Sample = "anonymousMb") {
  const sorted = samples.map((sample) => sample[figure]).sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
  return { min: at(0), median: at(0.5), max: at(1) };
}

function rendered({ left }: Departures, samples: Sample[], after: Sample, goals: Goal[]): string {
  const half = Math.floor(samples.length / 2);
  const row = (label: string, figure: keyof Sample, part: Sample[]) => {
    const { min, median, max } = quantiles(part, figure);
    return cells(
      label,
      ...[min, median, max].map((value) => value.toFixed(figure === "descriptors" ? 0 : 1)),
    );
  };
  const lines = [
    "",
    cells("clients that left", "FIN", "reset"),
    ...Object.keys(MOMENTS).map((moment) =>
      cells(
        `  ${moment}`,
        ...(["FIN", "reset"] as const).map((way) => String(left[`${moment as Moment}, ${way}`] ?? 0)),
      ),
    ),
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

interface Orders {
  count: { order: { do: "count" }; reply: { port: number; sockets: number } };
  leave: { order: { do: "leave"; port: number; streams: number }; reply: Departures };
}
type Order = Orders[keyof Orders]["order"];
type Reply<Asked extends Order> = Orders[Asked["do"]]["reply"];

/** This file again, as the upstream or the clients; it ends itself when this one is gone, however it went. */
class Role {
  static readonly running = new Set<Role>();
  readonly #child: Bun.Subprocess;
  #answer: (reply: unknown) => void = () => {};

  constructor(name: "upstream" | "client") {
    const argv = [process.execPath, "--no-env-file", import.meta.path];
    this.#child = Bun.spawn(argv, {
      stdio: ["ignore", "ignore", "inherit"],
      env: { SOAK_ROLE: name },
      ipc: (reply: unknown) => this.#answer(reply),
    });
    Role.running.add(this);
  }

  async ask<Asked extends Order>(order: Asked): Promise<Reply<Asked>> {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    this.#answer = resolve;
    this.#child.send(order);
    const died = this.#child.exited.then((code): never => {
      throw new Error(`a load process exited with ${code}`);
    });
    return (await Promise.race([promise, died])) as Reply<Asked>; // both ends are ours
  }

  killNow(): void {
    this.#child.kill("SIGKILL");
  }
}

/** The other end of a `Role`. */
function takeOrders<Asked extends Order>(obey: (order: Asked) => Reply<Asked> | Promise<Reply<Asked>>): void {
  process.on("disconnect", () => process.exit(0));
  process.on("message", async (order: unknown) => {
    process.send!(await obey(order as Asked)); // both ends are ours
  });
}

// ---- the upstream

interface Exchange {
  request: Message;
  outbox: Outbox;
  timer: Timer | null;
}

const STREAM_HEAD =
  "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const PLAIN_BODY = JSON.stringify({
  id: "chatcmpl-soak",
  object: "chat.completion",
  choices: [{ index: 0, message: { role: "assistant", content: "still here" }, finish_reason: "stop" }],
});
/** Closed at once: whatever is open afterwards is what a stream left behind. */
const PLAIN_ANSWER = Buffer.from(
  `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ${PLAIN_BODY.length}\r\n\r\n${PLAIN_BODY}`,
);

function event(content: string): Buffer {
  const card = { id: "chatcmpl-soak", object: "chat.completion.chunk", model: "soak" };
  const choices = [{ index: 0, delta: { content }, finish_reason: null }];
  const line = `data: ${JSON.stringify({ ...card, choices })}\n\n`;
  return Buffer.from(`${line.length.toString(16)}\r\n${line}\r\n`);
}

/** Streams that begin after a moment and have no end. */
function serveUpstream(): void {
  const token = event(" token");
  const opening = Buffer.concat([Buffer.from(STREAM_HEAD), token]);
  const page = event("x".repeat(65_000));
  let sockets = 0;

  function begin(socket: Socket<Exchange>, asked: number): void {
    const { outbox } = socket.data;
    outbox.send(socket, opening);
    if (asked === FLOOD) for (let sent = 0; sent < FLOOD_EVENTS; sent += 1) outbox.send(socket, page);
    else socket.data.timer = setInterval(() => outbox.send(socket, token), EVENT_EVERY_MS);
  }

  const { port } = Bun.listen<Exchange>({
    hostname: LOOPBACK,
    port: 0,
    socket: {
      open(socket) {
        sockets += 1;
        socket.data = { request: new Message(), outbox: new Outbox(), timer: null };
      },
      data(socket, bytes) {
        const { request, outbox } = socket.data;
        if (!request.push(bytes)) return;
        socket.data.request = new Message();
        const asked = /"max_tokens":(\d+),"stream":true/.exec(request.opening)?.[1];
        if (asked !== undefined) {
          const headAfterMs = HEAD_AFTER_MS + Math.random() * HEAD_AFTER_MS;
          socket.data.timer = setTimeout(() => begin(socket, Number(asked)), headAfterMs);
        } else {
          outbox.send(socket, PLAIN_ANSWER);
          socket.end();
        }
      },
      drain: (socket) => socket.data.outbox.drain(socket),
      close(socket) {
        sockets -= 1;
        clearTimeout(socket.data.timer ?? undefined); // an interval too
      },
      error() {}, // a reset is a proxy that let go: `close` follows
    },
  });
  takeOrders<Orders["count"]["order"]>(() => ({ port, sockets }));
}

// ---- the clients

interface Visit {
  moment: Moment;
  way: Way;
  opening: string;
  hasEvent: boolean;
  hasLeft: boolean;
  timer: Timer | null;
}

/** A hundred lanes: in each, the next client comes when the last one's socket is closed. */
function leaveStreams({ port, streams }: Orders["leave"]["order"]): Promise<Departures> {
  const { promise, resolve } = Promise.withResolvers<Departures>();
  const departures: Departures = { left: {}, failed: 0, failures: [] };
  const steady = sdkRequest("proxy", port, "stream", STEADY);
  const flood = sdkRequest("proxy", port, "stream", FLOOD);
  const until = performance.now() + LOAD_MS;
  let opened = 0;
  let lanes = LANES;

  function next(): void {
    if (opened === streams || performance.now() > until) {
      lanes -= 1;
      if (lanes === 0) resolve(departures);
      return;
    }
    const way = opened % 2 === 0 ? "FIN" : "reset";
    opened += 1;
    const visit: Visit = {
      moment: anyMoment(opened <= streams / 2 ? "first" : "second"),
      way,
      opening: "",
      hasEvent: false,
      hasLeft: false,
      timer: null,
    };
    void Bun.connect<Visit>({ hostname: LOOPBACK, port, data: visit, socket: handlers });
  }

  function fail(what: string): void {
    departures.failed += 1;
    if (departures.failures.length < 3) departures.failures.push(what.replace(/\s+/g, " ").slice(0, 200));
  }

  function leaveWithin(socket: Socket<Visit>, withinMs: number): void {
    clearTimeout(socket.data.timer ?? undefined);
    if (withinMs === 0) leave(socket);
    else socket.data.timer = setTimeout(() => leave(socket), Math.random() * withinMs);
  }

  function leave(socket: Socket<Visit>): void {
    const { moment, way } = socket.data;
    socket.data.hasLeft = true;
    departures.left[`${moment}, ${way}`] = (departures.left[`${moment}, ${way}`] ?? 0) + 1;
    if (way === "reset") socket.terminate();
    else if (!isUnread(moment)) socket.end();
    else {
      socket.shutdown(); // a close would be a reset here: the kernel has bytes that nobody read
      setTimeout(() => socket.end(), LINGER_MS);
    }
  }

  const handlers: Bun.SocketHandler<Visit> = {
    open(socket) {
      const { moment } = socket.data;
      const request = moment === "with a full pipe" ? flood : steady;
      const cut = moment === "in the request" ? Math.floor(Math.random() * request.length) : request.length;
      socket.write(request.subarray(0, cut));
      if (moment === "in the request" || moment === "before the head") {
        leaveWithin(socket, MOMENTS[moment].withinMs);
      } else {
        socket.data.timer = setTimeout(() => {
          fail(`no event in ${LANE_PATIENCE_MS / 1000} s`);
          socket.data.hasLeft = true;
          socket.terminate();
        }, LANE_PATIENCE_MS);
      }
    },
    data(socket, bytes) {
      const visit = socket.data;
      if (visit.hasEvent || visit.hasLeft) return;
      visit.opening += bytes.toString("latin1", 0, 1000);
      if (!visit.opening.includes("\n\n")) return;
      visit.hasEvent = true;
      if (isUnread(visit.moment)) socket.pause();
      leaveWithin(socket, MOMENTS[visit.moment].withinMs);
    },
    close(socket) {
      const { hasLeft, opening, timer, moment } = socket.data;
      clearTimeout(timer ?? undefined);
      if (!hasLeft)
        fail(`the proxy closed a stream to be left ${moment}: ${opening.slice(0, 160) || "no answer"}`);
      next();
    },
    error() {}, // `close` follows
    connectError(_socket, error) {
      fail(`not connected: ${error.message}`);
      setTimeout(next, 50); // not at once: what refuses would be asked in a busy loop
    },
  };
  for (let lane = 0; lane < LANES; lane += 1) next();
  return promise;
}

const isUnread = (moment: Moment): boolean => moment === "with unread bytes" || moment === "with a full pipe";

/**
 * Full pipes are for the first half of a run: megabytes come and go with each, and would hide a leak of a kilobyte
 * in the second, which is judged. What they leave behind themselves is as large as they are.
 */
function anyMoment(half: "first" | "second"): Moment {
  let ticket = Math.random() * 100;
  for (const [moment, { share }] of Object.entries(MOMENTS)) {
    ticket -= share;
    if (ticket < 0 && (half === "first" || moment !== "with a full pipe")) return moment as Moment;
  }
  return "in mid-stream";
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
if (role === "upstream") serveUpstream();
else if (role === "client") takeOrders<Orders["leave"]["order"]>(leaveStreams);
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
