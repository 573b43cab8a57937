/**
 * What one hostile neighbour can do to everybody else: large bodies, bodies made to be slow to read, answers that
 * unpack to a hundred times their size, clients that do not read, sockets that say nothing.
 *
 *     bun bench/hostile.ts [--proxy "COMMAND"] [--only WORD] [--tries 3] [--json]
 *
 * Each scenario runs against a proxy of its own, while a witness in another process reads a stream of 50 events a
 * second. Judged are the longest time that the witness waited longer than it should, the peak of anonymous memory over
 * the idle figure, and what became of a plain request in the middle of it. All runs are bounded in time. The machine is
 * taken to be shared: a scenario that does not hold is played again, at most `--tries` times in all, and the last try
 * counts.
 *
 * Exit code 0: everything holds, 1: something does not, 2: it could not run.
 */
import type { Socket } from "bun";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";

import { ProcessTree, startProxy } from "./contenders.ts";
import { LOOPBACK, Message, Outbox } from "./load.ts";

const MB = 1e6;
const EVENT_EVERY_MS = 20;
/** A stall that every machine with two busy cores shows now and then. */
const NOISE_MS = 20;
const SCENARIO_MS = 45_000;
const SAMPLE_MS = 20;

/** What a scenario must not exceed. null: not judged. */
interface Limits {
  stallMs: number;
  peakMb: number;
}

interface Scenario {
  name: string;
  /** Settings beside those of the bench. */
  settings?: Record<string, string>;
  /** Descriptors that the proxy may have open; none: as many as the machine allows. */
  descriptors?: number;
  limits: Limits;
  /** Does the harm. Returns what went wrong for others; empty: nothing. */
  run(attack: Attack): Promise<string[]>;
}

interface Attack {
  port: number;
  /** A socket that sends this and reads nothing, until the scenario ends. */
  hold(bytes: string | Uint8Array): Promise<Socket>;
  /** Sends a whole request; resolves with the status, or 0 where the connection ended without one. */
  send(request: Request | RawRequest, withinMs?: number): Promise<number>;
  /** A plain request of somebody else; a sentence where it is not served within 2 s. */
  neighbour(): Promise<string[]>;
}

interface RawRequest {
  path: string;
  body: Uint8Array;
  /** Sent in chunks of this size instead of with its length. */
  chunkBytes?: number;
  headers?: Record<string, string>;
}

const chat = (content: string, more = ""): string =>
  `{"model":"plain"${more},"messages":[{"role":"user","content":${JSON.stringify(content)}}]}`;
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const post = (path: string, length: number): string =>
  `POST ${path} HTTP/1.1\r\nhost: ${LOOPBACK}\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n\r\n`;
const CHAT = "/v1/chat/completions";
/** The upstream does as the query says. */
const asking = (what: string, path = CHAT): string => `${path}?case=${what}`;

const everybodyElse = async (attack: Attack, harm: Promise<unknown>): Promise<string[]> => {
  const [complaints] = await Promise.all([attack.neighbour(), harm]);
  return complaints;
};

/** Work on one body or answer of up to 32 MB may stop the others for 150 ms, anything smaller for 50 (P42). */
const SCENARIOS: readonly Scenario[] = [
  {
    name: "one chunked body of 30 MB",
    limits: { stallMs: 150, peakMb: 250 },
    run: (attack) =>
      everybodyElse(
        attack,
        attack.send({ path: CHAT, body: bytesOf(chat("x".repeat(30 * MB))), chunkBytes: 65_536 }),
      ),
  },
  {
    name: "a chunked body of 30 MB in chunks of 1 KB",
    limits: { stallMs: 150, peakMb: 250 },
    run: (attack) =>
      everybodyElse(
        attack,
        attack.send({ path: CHAT, body: bytesOf(chat("x".repeat(30 * MB))), chunkBytes: 1024 }),
      ),
  },
  {
    name: "eight bodies of 31 MB at once",
    limits: { stallMs: 250, peakMb: 480 },
    run: (attack) => {
      const body = bytesOf(chat("x".repeat(31 * MB)));
      return everybodyElse(
        attack,
        Promise.all(Array.from({ length: 8 }, () => attack.send({ path: CHAT, body }))),
      );
    },
  },
  {
    name: "eight bodies of 32 MB announced, one byte sent",
    limits: { stallMs: 50, peakMb: 40 },
    run: async (attack) => {
      for (let index = 0; index < 8; index += 1) await attack.hold(`${post(CHAT, 32 * 2 ** 20)}{`);
      await Bun.sleep(200);
      return attack.neighbour();
    },
  },
  {
    name: "50 clients that do not read 10 MB of large events",
    limits: { stallMs: 150, peakMb: 150 },
    run: async (attack) => {
      const body = chat("x", `,"stream":true`);
      for (let index = 0; index < 50; index += 1)
        await attack.hold(post(asking("flood"), body.length) + body);
      await Bun.sleep(6000);
      return attack.neighbour();
    },
  },
  {
    name: "a refusal that quotes 200,000 backslashes",
    limits: { stallMs: 50, peakMb: 100 },
    run: (attack) =>
      everybodyElse(attack, attack.send({ path: asking("backslashes"), body: bytesOf(chat("x")) })),
  },
  {
    name: "a refusal of 30 MB",
    limits: { stallMs: 150, peakMb: 150 },
    run: (attack) =>
      everybodyElse(attack, attack.send({ path: asking("long-refusal"), body: bytesOf(chat("x")) })),
  },
  {
    name: "a refusal of 1 MB of words about waiting",
    limits: { stallMs: 50, peakMb: 100 },
    // Nobody else is asked for: the keys have to wait then, as the refusal says.
    run: (attack) => attack.send({ path: asking("hints"), body: bytesOf(chat("x")) }).then(() => []),
  },
  {
    name: "20 refusals that unpack to 100 MB each",
    limits: { stallMs: 150, peakMb: 250 },
    run: (attack) =>
      everybodyElse(
        attack,
        Promise.all(
          Array.from({ length: 20 }, () => attack.send({ path: asking("bomb"), body: bytesOf(chat("x")) })),
        ),
      ),
  },
  {
    name: "a request body that unpacks to 500 MB",
    limits: { stallMs: 150, peakMb: 200 },
    run: (attack) => {
      const body = gzipSync(Buffer.alloc(500 * MB, 0x20));
      const headers = { "content-encoding": "gzip" };
      return everybodyElse(attack, attack.send({ path: CHAT, body, headers }));
    },
  },
  ...(
    [
      ["4 MB of nested arrays", `{"model":"plain","input":${"[".repeat(2 * MB)}${"]".repeat(2 * MB)}}`],
      [
        "4 MB of lists of file ids in each other",
        `{"model":"plain","input":${'{"file_id":['.repeat(330_000)}`,
      ],
      [
        "1,000 fields with 4 MB of blanks before each value",
        `{"model":"plain",${`"item_reference"${" ".repeat(4000)}:`.repeat(1000)}1}`,
      ],
      [
        "4 MB of arrays beside each other",
        `{"model":"plain","input":[${"[[[[[[[]]]]]]],".repeat(280_000)}"item_reference"]}`,
      ],
      ["30 MB of zero bytes", `{"model":"plain","input":"${"\0".repeat(30 * MB)}"}`],
      [
        "4 MB of blanks before item_reference",
        `{"model":"plain","input":[${" ".repeat(4 * MB)}"item_reference"]}`,
      ],
      [
        "4 MB of blanks and item_reference in turn",
        `{"model":"plain","input":[${`"type" :   "item_reference",`.repeat(150_000)}1]}`,
      ],
      ['"store"{ 400,000 times', `{"model":"plain",${`"store"{`.repeat(400_000)}}`],
      ["4 MB of quotation marks", `{"model":"plain","input":${'"'.repeat(4 * MB)}}`],
      ["4 MB of backslashes", `{"model":"plain","input":"${"\\".repeat(4 * MB)}"}`],
      [
        "200,000 ids of responses",
        `{"model":"plain","input":[${`{"type":"item_reference","id":"msg_0123456789abcdef"},`.repeat(100_000)}1]}`,
      ],
    ] as const
  ).map(([what, text]): Scenario => ({
    name: `a body for Responses: ${what}`,
    limits: { stallMs: text.length > 8 * MB ? 150 : 50, peakMb: 250 },
    run: (attack) => everybodyElse(attack, attack.send({ path: "/v1/responses", body: bytesOf(text) })),
  })),
  {
    name: "a body for a route with a million models",
    settings: { ROUTES: "smart = default/plain" },
    limits: { stallMs: 150, peakMb: 250 },
    run: (attack) => {
      const body = bytesOf(`{"model":"smart"${',"model":0'.repeat(MB)}}`);
      return everybodyElse(attack, attack.send({ path: CHAT, body }));
    },
  },
  {
    name: "a body of 31 MB with five million fields",
    settings: { ROUTES: "smart = default/plain" },
    limits: { stallMs: 150, peakMb: 250 },
    run: (attack) => {
      const body = bytesOf(`{"model":"smart",${'"a":0,'.repeat(5 * MB)}"b":0}`);
      return everybodyElse(attack, attack.send({ path: CHAT, body }));
    },
  },
  {
    name: "eight packed bodies that unpack to 30 MB each",
    settings: { ROUTES: "smart = default/plain" },
    limits: { stallMs: 250, peakMb: 480 },
    run: (attack) => {
      const body = gzipSync(chat("x".repeat(30 * MB)).replace("plain", "smart"));
      const headers = { "content-encoding": "gzip" };
      return everybodyElse(
        attack,
        Promise.all(Array.from({ length: 8 }, () => attack.send({ path: CHAT, body, headers }))),
      );
    },
  },
  {
    name: "eight bodies of 30 MB for a route",
    settings: { ROUTES: "smart = default/plain" },
    limits: { stallMs: 250, peakMb: 480 },
    run: (attack) => {
      const body = bytesOf(
        `{"messages":[{"role":"user","content":"${"x".repeat(30 * MB)}"}],"model":"smart"}`,
      );
      return everybodyElse(
        attack,
        Promise.all(Array.from({ length: 8 }, () => attack.send({ path: CHAT, body }))),
      );
    },
  },
  {
    name: "eight streams of 10 MB that speak of errors all the time",
    limits: { stallMs: 150, peakMb: 150 },
    run: (attack) => {
      const body = bytesOf(chat("x", `,"stream":true`));
      const harm = Array.from({ length: 8 }, () => attack.send({ path: asking("errors"), body }));
      return everybodyElse(attack, Promise.all(harm));
    },
  },
  {
    name: "a refusal of 30 MB that nobody repeats",
    limits: { stallMs: 150, peakMb: 150 },
    run: (attack) =>
      everybodyElse(attack, attack.send({ path: asking("bad-request"), body: bytesOf(chat("x")) })),
  },
  {
    name: "a stream of 3 million comments",
    limits: { stallMs: 100, peakMb: 100 },
    run: (attack) =>
      everybodyElse(
        attack,
        attack.send({ path: asking("comments"), body: bytesOf(chat("x", `,"stream":true`)) }, 20_000),
      ),
  },
  {
    name: "a stream with one event of 30 MB",
    limits: { stallMs: 150, peakMb: 150 },
    run: (attack) =>
      everybodyElse(
        attack,
        attack.send({ path: asking("one-event"), body: bytesOf(chat("x", `,"stream":true`)) }),
      ),
  },
  {
    name: "300 silent sockets on the dashboard's events",
    settings: { ADMIN_PASSWORD: "correct horse battery" },
    limits: { stallMs: 50, peakMb: 40 },
    run: async (attack) => {
      const request = `GET /admin/api/live HTTP/1.1\r\nhost: ${LOOPBACK}\r\n\r\n`;
      for (let index = 0; index < 300; index += 1) await attack.hold(request);
      return attack.neighbour();
    },
  },
  ...(
    [
      ["say nothing", ""],
      ["send half of a head", "GET / HTTP/1.1\r\n"],
      ["send half of a body", `${post(CHAT, 1000)}{`],
    ] as const
  ).map(([what, sent]): Scenario => ({
    name: `more sockets than there are descriptors, which ${what}`,
    descriptors: 256,
    limits: { stallMs: 1000, peakMb: 40 },
    run: async (attack) => {
      for (let index = 0; index < 400; index += 1) await attack.hold(sent).catch(() => null);
      await Bun.sleep(1000);
      const before = await attack.send({ path: CHAT, body: bytesOf(chat("x")) }, 1500);
      return before === 200 ? [] : [`a request beside them got ${before || "nothing"}`];
    },
  })),
];

// ---- the story

interface Verdict {
  name: string;
  stallMs: number;
  peakMb: number;
  complaints: string[];
  holds: boolean;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      proxy: { type: "string" },
      only: { type: "string" },
      tries: { type: "string", default: "3" },
      json: { type: "boolean" },
    },
  });
  const command = values.proxy ?? defaultCommand();
  const chosen = SCENARIOS.filter(({ name }) => name.includes(values.only ?? ""));
  const verdicts: Verdict[] = [];
  for (const scenario of chosen) {
    let verdict = await play(scenario, command);
    for (let tries = 1; !verdict.holds && tries < Number(values.tries); tries += 1)
      verdict = await play(scenario, command);
    verdicts.push(verdict);
    if (values.json !== true) console.log(shown(verdict, scenario.limits));
  }
  if (values.json === true) console.log(JSON.stringify(verdicts, null, 2));
  const failed = verdicts.filter(({ holds }) => !holds).length;
  if (values.json !== true) console.log(`${verdicts.length - failed} of ${verdicts.length} hold`);
  return failed === 0 ? 0 : 1;
}

/** The executable where one has been built, else the source. */
function defaultCommand(): string {
  const root = join(import.meta.dir, "..");
  const executable = join(root, "dist", `keywheel-linux-${process.arch}`);
  return existsSync(executable)
    ? `'${executable}'`
    : `'${process.execPath}' --no-env-file '${join(root, "proxy.ts")}'`;
}

async function play(scenario: Scenario, command: string): Promise<Verdict> {
  const { name, settings = {}, descriptors, limits } = scenario;
  const upstream = new Role("upstream");
  const steady = new Role("upstream"); // the witness has one of its own, so that nobody but the proxy holds it up
  const upstreamPort = Number(await upstream.ask("port"));
  const limited = descriptors === undefined ? command : `prlimit --nofile=${descriptors} ${command}`;
  const proxy = await startProxy(limited, upstreamPort, "proxy", {
    API_KEYS: "key-a,key-b,key-c",
    STEADY_API_KEYS: "key-d",
    STEADY_BASE_URL: `http://${LOOPBACK}:${await steady.ask("port")}/v1`,
    STEADY_PROVIDER: "openai",
    ...settings,
  });
  const tree = proxy.process!;
  const held: Socket[] = [];
  const complaints: string[] = [];
  let peakMb = 0;
  let stallMs = NaN;
  const witness = new Role("witness");
  const sampling = setInterval(() => {
    try {
      peakMb = Math.max(peakMb, anonymousMb(tree));
    } catch {
      complaints.push("the proxy has ended");
      clearInterval(sampling);
    }
  }, SAMPLE_MS);
  let idleMb = 0;
  try {
    await witness.ask(`watch ${proxy.port} ${tree.id}`);
    idleMb = anonymousMb(tree);
    const late = Bun.sleep(SCENARIO_MS).then(() => [`not over after ${SCENARIO_MS / 1000} s`]);
    complaints.push(...(await Promise.race([scenario.run(attackOn(proxy.port, held)), late])));
    stallMs = Number(await witness.ask("stall"));
    if (Number.isNaN(stallMs)) complaints.push("the witness lost its stream");
  } catch (error) {
    complaints.push(error instanceof Error ? error.message : String(error));
  }
  clearInterval(sampling);
  for (const socket of held) socket.terminate();
  witness.killNow();
  upstream.killNow();
  steady.killNow();
  await tree.stop();
  const grownMb = peakMb - idleMb;
  const holds = complaints.length === 0 && stallMs <= limits.stallMs + NOISE_MS && grownMb <= limits.peakMb;
  return { name, stallMs, peakMb: grownMb, complaints: [...new Set(complaints)], holds };
}

function anonymousMb(tree: ProcessTree): number {
  return (tree.memory().anonymousKb * 1024) / MB;
}

function shown({ name, stallMs, peakMb, complaints, holds }: Verdict, limits: Limits): string {
  const figures = `stall ${stallMs.toFixed(0)} of ${limits.stallMs} ms, peak ${peakMb.toFixed(0)} of ${limits.peakMb} MB`;
  const rest = complaints.length === 0 ? "" : `; ${complaints.slice(0, 3).join("; ")}`;
  return `${holds ? "holds " : "FAILS "} ${name.padEnd(58)} ${figures}${rest}`;
}

// ---- the attacker

function attackOn(port: number, held: Socket[]): Attack {
  const attack: Attack = {
    port,
    async hold(bytes) {
      const outbox = new Outbox();
      const socket = await Bun.connect({
        hostname: LOOPBACK,
        port,
        socket: {
          open(opened) {
            opened.pause();
          },
          data() {},
          drain: (opened) => outbox.drain(opened),
          error() {},
        },
      });
      held.push(socket);
      const encoded = Buffer.from(typeof bytes === "string" ? bytesOf(bytes) : bytes);
      if (encoded.length > 0) outbox.send(socket, encoded);
      return socket;
    },
    async send(request, withinMs = 15_000) {
      const { path, body, chunkBytes, headers } = request as RawRequest;
      const init = {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        keepalive: false, // each as a client that comes anew
        signal: AbortSignal.timeout(withinMs),
        body: chunkBytes === undefined ? body : chunksOf(body, chunkBytes),
      };
      try {
        const answer = await fetch(`http://${LOOPBACK}:${port}${path}`, init);
        for await (const _ of answer.body ?? []);
        return answer.status;
      } catch {
        return 0;
      }
    },
    async neighbour() {
      await Bun.sleep(50);
      const status = await attack.send({ path: CHAT, body: bytesOf(chat("hello")) }, 2000);
      return status === 200
        ? []
        : [`a plain request beside it got ${status === 0 ? "no answer in 2 s" : status}`];
    },
  };
  return attack;
}

function chunksOf(body: Uint8Array, size: number): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= body.length) return controller.close();
      controller.enqueue(body.slice(at, at + size));
      at += size;
    },
  });
}

// ---- the roles, each a process of its own

/** This file again, as upstream or witness; it ends itself when this one is gone, however it went. */
class Role {
  static readonly running = new Set<Role>();
  readonly #child: Bun.Subprocess;
  #answer: (reply: unknown) => void = () => {};

  constructor(name: "upstream" | "witness") {
    this.#child = Bun.spawn([process.execPath, "--no-env-file", import.meta.path], {
      stdio: ["ignore", "ignore", "inherit"],
      env: { HOSTILE_ROLE: name },
      ipc: (reply: unknown) => this.#answer(reply),
    });
    Role.running.add(this);
  }

  async ask(order: string): Promise<string> {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    this.#answer = resolve;
    this.#child.send(order);
    const died = this.#child.exited.then((code): never => {
      throw new Error(`a process of the bench exited with ${code}`);
    });
    return String(await Promise.race([promise, died]));
  }

  killNow(): void {
    Role.running.delete(this);
    this.#child.kill("SIGKILL");
  }
}

function takeOrders(obey: (order: string) => string | number | Promise<string | number>): void {
  process.on("disconnect", () => process.exit(0));
  process.on("message", async (order: unknown) => {
    process.send!(String(await obey(String(order))));
  });
}

/** For how long a process's main thread had to wait because other processes had the processor, since it began. */
function heldUpMs(id: string): number {
  return Number(readFileSync(`/proc/${id}/task/${id}/schedstat`, "latin1").split(" ")[1]) / 1e6;
}

/**
 * Reads one endless stream, and says by how much its longest gap was longer than the events are apart, the time left
 * out in which other processes held up the proxy.
 */
function beWitness(): void {
  let last = { at: 0, heldUpMs: 0 };
  let longestMs = 0;
  let isOpen = false;
  takeOrders(async (order) => {
    if (order === "stall") {
      look();
      return isOpen ? longestMs : NaN;
    }
    const [, port = "", id = ""] = order.split(" ");
    watched = id;
    const { promise, resolve } = Promise.withResolvers<number>();
    const body = chat("hello", `,"stream":true`);
    await Bun.connect({
      hostname: LOOPBACK,
      port: Number(port),
      socket: {
        open: (socket) => void socket.write(post(`/steady${asking("steady")}`, body.length) + body),
        data() {
          if (last.at === 0) {
            isOpen = true;
            setTimeout(() => {
              longestMs = 0; // what comes before is the start of everything
              resolve(0);
            }, 300);
          }
          look();
        },
        close() {
          isOpen = false;
        },
        error() {},
      },
    });
    return promise;
  });
  let watched = "";
  function look(): void {
    const now = { at: performance.now(), heldUpMs: heldUpMs(watched) };
    const gapMs = now.at - last.at - EVENT_EVERY_MS - (now.heldUpMs - last.heldUpMs);
    if (last.at > 0) longestMs = Math.max(longestMs, gapMs);
    last = now;
  }
}

const STREAM_HEAD =
  "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const chunk = (text: string): string => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;
const event = (content: string): string =>
  `data: {"id":"c1","object":"chat.completion.chunk","model":"plain","choices":[{"index":0,"delta":{"content":"${content}"},"finish_reason":null}]}\n\n`;
const END = `data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n`;
const answer = (status: number, body: string | Uint8Array, fields = ""): Buffer =>
  Buffer.concat([
    Buffer.from(
      `HTTP/1.1 ${status} X\r\ncontent-type: application/json\r\n${fields}content-length: ${body.length}\r\n\r\n`,
    ),
    Buffer.from(body as Uint8Array),
  ]);
const refusal = (message: string): string =>
  JSON.stringify({ error: { message, type: "invalid_request_error", code: null, param: null } });

/** What is sent for each `case` of a query; without one, a short good answer. */
const ANSWERS: Record<string, () => Buffer> = {
  flood: () => Buffer.from(STREAM_HEAD + chunk(event("x".repeat(65_000))).repeat(160)),
  backslashes: () => answer(422, refusal("\\".repeat(200_000))),
  "long-refusal": () => answer(429, refusal("x".repeat(30 * MB))),
  hints: () =>
    answer(429, refusal("please try again in 1h2m3 retry after will reset at 2026- ".repeat(17_000))),
  bomb: () => answer(429, gzipSync(Buffer.alloc(100 * MB, 0x20)), "content-encoding: gzip\r\n"),
  comments: () =>
    Buffer.from(
      STREAM_HEAD + chunk(":\n\n".repeat(300)).repeat(10_000) + chunk(event("x") + END) + "0\r\n\r\n",
    ),
  errors: () =>
    Buffer.from(STREAM_HEAD + chunk(event("no error ".repeat(30))).repeat(25_000) + chunk(END) + "0\r\n\r\n"),
  "bad-request": () => answer(400, refusal("x %41 ".repeat(5 * MB))),
  "one-event": () => Buffer.from(STREAM_HEAD + chunk(event("x".repeat(30 * MB)) + END) + "0\r\n\r\n"),
};
const GOOD = `{"id":"c1","object":"chat.completion","model":"plain","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}`;

interface Exchange {
  request: Message;
  outbox: Outbox;
  timer: Timer | null;
}

function beUpstream(): void {
  const made = new Map<string, Buffer>();
  const steady = Buffer.from(chunk(event("tick")));
  const { port } = Bun.listen<Exchange>({
    hostname: LOOPBACK,
    port: 0,
    socket: {
      open(socket) {
        socket.data = { request: new Message(), outbox: new Outbox(), timer: null };
      },
      data(socket, bytes) {
        const { request, outbox } = socket.data;
        if (!request.push(bytes)) return;
        socket.data.request = new Message();
        const what = /\?case=([\w-]+)/.exec(request.opening)?.[1] ?? "";
        if (what === "steady") {
          outbox.send(socket, Buffer.from(STREAM_HEAD));
          socket.data.timer = setInterval(() => outbox.send(socket, steady), EVENT_EVERY_MS);
          return;
        }
        const make = ANSWERS[what] ?? (() => answer(200, GOOD));
        if (!made.has(what)) made.set(what, make());
        outbox.send(socket, made.get(what)!);
      },
      drain: (socket) => socket.data.outbox.drain(socket),
      close: (socket) => clearInterval(socket.data.timer ?? undefined),
      error() {},
    },
  });
  takeOrders(() => port);
}

// ---- ending

function endAll(): void {
  for (const role of Role.running) role.killNow();
  for (const tree of ProcessTree.running) tree.killNow();
}

function giveUp(why: string): never {
  endAll();
  console.error(`hostile: ${why}`);
  process.exit(2);
}

const role = process.env["HOSTILE_ROLE"];
if (role === "upstream") beUpstream();
else if (role === "witness") beWitness();
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
