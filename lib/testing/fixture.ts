/**
 * What the tests stand on: a false clock, a provider that answers by script down to the last byte, and a proxy in
 * front of it. Only tests import this.
 */
import { ENGINE_PARTS, startProxy } from "../../proxy.ts";
import { openPooledFetch } from "../library/pooled-fetch.ts";
import type { Proxy } from "../../proxy.ts";
import type { Engine } from "../routing/engine.ts";
import { systemClock } from "../core/clock.ts";
import type { CancelTimer, Clock } from "../core/clock.ts";
import { parseConfig } from "../config/config.ts";
import type { Config } from "../config/config.ts";
import { startDemoProvider } from "../cli/demo-provider.ts";
import type { DemoOptions, DemoProvider } from "../cli/demo-provider.ts";
import { createLog, logObserver } from "../observability/log.ts";

/** A clock that stands still until a test moves it. */
export class FalseClock implements Clock {
  #now: number;
  #wallOffset = 0;
  #timers = new Set<{ at: number; action: () => void }>();

  /** Begins at noon UTC, so that a test of minutes meets no midnight. */
  constructor(now = Date.UTC(2026, 10, 20, 12)) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  wall(): number {
    return this.#now + this.#wallOffset;
  }

  /** Sets the machine's date so much ahead (or back). */
  setWall(byMs: number): void {
    this.#wallOffset += byMs;
  }

  after(delayMs: number, action: () => void): CancelTimer {
    const timer = { at: this.#now + Math.max(0, delayMs), action };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** How many timers are set. */
  get timers(): number {
    return this.#timers.size;
  }

  /** When the next timer falls due; Infinity: none is set. */
  get nextAt(): number {
    return Math.min(...[...this.#timers].map((timer) => timer.at));
  }

  /** Moves the time on, firing what falls due in order, and lets sockets and promises catch up after each. */
  async advance(durationMs: number): Promise<void> {
    const end = this.#now + durationMs;
    await settled();
    for (;;) {
      const due = [...this.#timers].filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#timers.delete(due);
      this.#now = Math.max(this.#now, due.at);
      due.action();
      await settled();
    }
    this.#now = end;
    await settled();
  }

  /** Moves the time on and fires nothing: on a busy machine timers are late. The next move fires what fell due. */
  drift(durationMs: number): void {
    this.#now += durationMs;
  }

  /** Moves the time on at a stroke: what fell due on the way fires once and late, as after a machine's sleep. */
  async jump(durationMs: number): Promise<void> {
    await settled();
    this.#now += durationMs;
    const due = [...this.#timers].filter((timer) => timer.at <= this.#now).sort((a, b) => a.at - b.at);
    for (const timer of due) {
      if (this.#timers.delete(timer)) timer.action();
    }
    await settled();
  }
}

/** Gives the event loop a few turns, so that what is on loopback sockets arrives. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** Waits until something is so, in real time; fails with `what` after `withinMs`. */
export async function until(what: string, isSo: () => boolean, withinMs = 3000): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (!isSo()) {
    if (Date.now() > deadline) throw new Error(`not within ${withinMs} ms: ${what}`);
    await Bun.sleep(2);
  }
}

/** The lines that a proxy logged, parsed. */
export type LogLine = Record<string, unknown> & { event: string; level: string };

export interface Stage {
  /** `http://127.0.0.1:PORT`, no path. */
  readonly url: string;
  readonly proxy: Proxy;
  readonly engine: Engine;
  readonly config: Config;
  logged(): LogLine[];
  /** The first key's (or another's) state as `/health` shows it. */
  health(): Promise<{ status: string; pool: string; providers: HealthProvider[] }>;
  [Symbol.asyncDispose](): Promise<void>;
}

interface HealthProvider {
  state: string;
  paused_sec: number;
  waiting: number;
  keys: {
    state: string;
    reason: string | null;
    cooldown_sec: number;
    in_flight: number;
    [name: string]: unknown;
  }[];
}

export interface StageOptions {
  /** Variables as in the environment; PORT, HOST and LOG_LEVEL have defaults for tests. */
  settings: Record<string, string>;
  clock?: Clock;
  /** What jitter is made of; 0.5 unless told. */
  random?: () => number;
}

/** What a stage stands on: the proxy, or a pool of the library (P49). */
export type StageKind = "proxy" | "library";

let stageKind: StageKind = "proxy";

/** From now on stages stand on this. Returns what they stood on before. */
export function stageOn(kind: StageKind): StageKind {
  const before = stageKind;
  stageKind = kind;
  return before;
}

/** Whether stages stand on the proxy: for what it alone promises (bytes that stay packed, the keys of clients). */
export function isOnProxy(): boolean {
  return stageKind === "proxy";
}

/** A proxy (or a pool of the library) on a free port of loopback. Throws with the problems of unusable settings. */
export function stage(options: StageOptions): Stage {
  return stageKind === "library" ? stageLibrary(options) : stageProxy(options);
}

/**
 * A pool of the library behind a server that hands on what it gets: a client on the wire sees what a program sees that
 * calls the pool. Settings that are no options of the library are left out.
 */
function stageLibrary({ settings, clock = systemClock, random = () => 0.5 }: StageOptions): Stage {
  let text = "";
  const level = settings["LOG_LEVEL"] === "error" ? "error" : "debug";
  const log = createLog({ level, format: "json", clock, write: (line) => (text += line) });
  const { fetch: pooled, engine } = openPooledFetch(
    optionsOf(settings),
    { ...ENGINE_PARTS, random },
    { clock, log, observers: [logObserver(log)] },
  );
  const answer = async (request: Request): Promise<Response> => {
    if (new URL(request.url).pathname === "/health") {
      const health = pooled.health();
      return Response.json(health, { status: health.status === "down" ? 503 : 200 });
    }
    const { method, headers, body, signal } = request;
    try {
      const response = await pooled(request.url, { method, headers, body, signal });
      return new Response(response.body, response);
    } catch {
      return new Response(null, { status: 499 }); // the client left
    }
  };
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    idleTimeout: 0,
    development: false,
    fetch: answer,
  });
  const url = `http://127.0.0.1:${server.port}`;
  const stop = async () => {
    await pooled.close();
    engine.clocks.stop();
    await server.stop(true);
  };
  return {
    url,
    proxy: { engine, url, drain: stop, stop },
    engine,
    config: engine.config,
    logged() {
      log.flush();
      return linesIn(text);
    },
    health: async () => JSON.parse(await (await fetch(`${url}/health`)).text()),
    [Symbol.asyncDispose]: stop,
  };
}

/** The options of the library that say the same as these settings. */
function optionsOf(settings: Record<string, string>): Record<string, unknown> {
  const optionOf = (setting: string) =>
    setting.toLowerCase().replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
  const names = Object.keys(settings).flatMap((name) => /^(.+)_API_KEYS$/.exec(name)?.[1] ?? []);
  const options: Record<string, unknown> = {};
  const providers: Record<string, Record<string, unknown>> = {};
  for (const [setting, value] of Object.entries(settings)) {
    const prefix = names.find((name) => setting.startsWith(`${name}_`));
    if (prefix !== undefined) {
      const own = (providers[prefix.toLowerCase()] ??= {});
      const option = optionOf(setting.slice(prefix.length + 1));
      own[option] = option === "disabled" ? value === "true" : value;
    } else if (!OF_THE_SERVER.test(setting)) options[optionOf(setting)] = value;
  }
  return names.length === 0 ? options : { ...options, providers };
}

const OF_THE_SERVER = /^(?:PROXY_API_KEY|CORS_ORIGINS|ADMIN_PASSWORD|DRAIN_SEC|STATE|HOST|PORT|LOG_\w+)$/;

function stageProxy({ settings, clock = systemClock, random = () => 0.5 }: StageOptions): Stage {
  const parsed = parseConfig({ HOST: "127.0.0.1", PORT: "0", LOG_LEVEL: "debug", ...settings });
  if (!parsed.ok) throw new Error(parsed.problems.join("\n"));
  let text = "";
  const log = createLog({
    level: parsed.config.logLevel,
    format: "json",
    clock,
    write: (line) => (text += line),
  });
  const proxy = startProxy(parsed.config, { clock, random, log });
  return {
    url: proxy.url,
    proxy,
    engine: proxy.engine,
    config: parsed.config,
    logged() {
      log.flush();
      return linesIn(text);
    },
    health: async () => JSON.parse(await (await fetch(`${proxy.url}/health`)).text()),
    [Symbol.asyncDispose]: () => proxy.stop(),
  };
}

function linesIn(text: string): LogLine[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line): LogLine => JSON.parse(line));
}

/** A proxy in front of the demo provider, whose keys it has. */
export async function stageDemo(
  options: DemoOptions = {},
  staging: Partial<StageOptions> = {},
): Promise<Stage & { provider: DemoProvider }> {
  const clock = options.clock ?? staging.clock;
  const provider = startDemoProvider({ tokenDelayMs: 0, ...options, ...(clock ? { clock } : {}) });
  const settings = {
    API_KEYS: provider.keys.join(","),
    TARGET_BASE_URL: `${provider.url}/v1`,
    PROVIDER: "openai",
    ...staging.settings,
  };
  const staged = stage({ ...staging, settings });
  return {
    ...staged,
    provider,
    async [Symbol.asyncDispose]() {
      await staged[Symbol.asyncDispose]();
      await provider.stop();
    },
  };
}

/** One request as a raw provider read it off the wire. */
export interface RawRequest {
  /** Request line and fields as they were sent. */
  head: string;
  method: string;
  target: string;
  /** Lower-case names; a repeated field's values in order. */
  fields: Map<string, string[]>;
  /** Decoded where it was chunked. */
  body: Buffer;
  /** The pool key it came with, or null. */
  key: string | null;
}

/** The provider's end of one connection. */
export interface RawConnection {
  /** Never blocks: what the socket does not take yet goes out when it does. */
  write(bytes: string | Uint8Array): void;
  /** Ends with FIN, after all that was written. */
  end(): void;
  /** Ends with RST, at once. */
  reset(): void;
  /** Bytes written that the socket has not taken yet: not zero while the proxy does not read. */
  readonly unsentBytes: number;
  readonly isClosed: boolean;
  /** Epoch ms of the real clock; null while open. */
  readonly closedAt: number | null;
}

export interface RawProvider {
  readonly url: string;
  readonly requests: RawRequest[];
  readonly connections: RawConnection[];
  /** Connections that are open now. */
  readonly openConnections: number;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * A provider that speaks in bytes: `answer` is called for each whole request and writes what it likes. It need not
 * end; nothing is added.
 */
export function startRawProvider(
  answer: (request: RawRequest, connection: RawConnection, nth: number) => void | Promise<void>,
): RawProvider {
  const requests: RawRequest[] = [];
  const connections: RawConnection[] = [];
  interface State {
    buffered: Buffer;
    connection: RawConnection & { closedAt: number | null };
    flush(): void;
  }
  const listener = Bun.listen<State>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        // Bun's socket takes what fits and forgets the rest (1.4.5), so the rest waits here.
        const unsent: Uint8Array[] = [];
        let isEnding = false;
        const flush = () => {
          for (let first = unsent[0]; first !== undefined; first = unsent[0]) {
            const taken = Math.max(0, socket.write(first));
            if (taken < first.length) {
              unsent[0] = first.subarray(taken);
              return;
            }
            unsent.shift();
          }
          if (isEnding) socket.end();
        };
        const connection = {
          write(bytes: string | Uint8Array) {
            if (bytes.length > 0) unsent.push(typeof bytes === "string" ? Buffer.from(bytes) : bytes);
            if (unsent.length === 1) flush();
          },
          end() {
            isEnding = true;
            if (unsent.length === 0) socket.end();
          },
          reset: () => void socket.terminate(),
          get unsentBytes() {
            return unsent.reduce((sum, bytes) => sum + bytes.length, 0);
          },
          closedAt: null as number | null,
          get isClosed() {
            return this.closedAt !== null;
          },
        };
        socket.data = { buffered: Buffer.alloc(0), connection, flush };
        connections.push(connection);
      },
      data(socket, chunk) {
        const state = socket.data;
        state.buffered = Buffer.concat([state.buffered, chunk]);
        for (;;) {
          const parsed = parseRequest(state.buffered);
          if (parsed === null) return;
          state.buffered = state.buffered.subarray(parsed.length);
          requests.push(parsed.request);
          void answer(parsed.request, state.connection, requests.length);
        }
      },
      drain: (socket) => socket.data.flush(),
      close(socket) {
        socket.data.connection.closedAt = Date.now();
      },
      error() {},
    },
  });
  return {
    url: `http://127.0.0.1:${listener.port}`,
    requests,
    connections,
    get openConnections() {
      return connections.filter((connection) => !connection.isClosed).length;
    },
    async [Symbol.asyncDispose]() {
      listener.stop(true);
    },
  };
}

/** The first whole request in some bytes and how long it is, or null while more must come. */
function parseRequest(bytes: Buffer): { request: RawRequest; length: number } | null {
  const headEnd = bytes.indexOf("\r\n\r\n");
  if (headEnd < 0) return null;
  const head = bytes.toString("latin1", 0, headEnd);
  const [requestLine = "", ...lines] = head.split("\r\n");
  const [method = "", target = ""] = requestLine.split(" ");
  const fields = new Map<string, string[]>();
  for (const line of lines) {
    const name = line.slice(0, line.indexOf(":")).toLowerCase();
    fields.set(name, [...(fields.get(name) ?? []), line.slice(line.indexOf(":") + 1).trim()]);
  }
  const bodyStart = headEnd + 4;
  const key =
    fields.get("authorization")?.[0]?.replace(/^Bearer /, "") ??
    fields.get("x-api-key")?.[0] ??
    fields.get("x-goog-api-key")?.[0] ??
    fields.get("api-key")?.[0] ??
    null;
  const request = { head, method, target, fields, key };
  if (fields.has("transfer-encoding")) {
    const chunked = parseChunked(bytes.subarray(bodyStart));
    return chunked && { request: { ...request, body: chunked.body }, length: bodyStart + chunked.length };
  }
  const length = Number(fields.get("content-length")?.[0] ?? 0);
  if (bytes.length < bodyStart + length) return null;
  const body = Buffer.from(bytes.subarray(bodyStart, bodyStart + length));
  return { request: { ...request, body }, length: bodyStart + length };
}

function parseChunked(bytes: Buffer): { body: Buffer; length: number } | null {
  const chunks: Buffer[] = [];
  let at = 0;
  for (;;) {
    const lineEnd = bytes.indexOf("\r\n", at);
    if (lineEnd < 0) return null;
    const size = parseInt(bytes.toString("latin1", at, lineEnd), 16);
    const next = lineEnd + 2 + size + 2;
    if (bytes.length < next) return null;
    if (size === 0) return { body: Buffer.concat(chunks), length: next };
    chunks.push(Buffer.from(bytes.subarray(lineEnd + 2, lineEnd + 2 + size)));
    at = next;
  }
}

/** An HTTP/1.1 answer with a content-length, as bytes. */
export function httpAnswer(
  status: number,
  body: string | Uint8Array,
  fields: Record<string, string> = {},
): Buffer {
  const bytes = Buffer.from(typeof body === "string" ? Buffer.from(body) : body);
  const all = { "content-type": "application/json", ...fields, "content-length": String(bytes.length) };
  return Buffer.concat([Buffer.from(answerHead(status, all)), bytes]);
}

/** The head of an answer; the caller writes what follows. */
export function answerHead(status: number, fields: Record<string, string>): string {
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} Status\r\n${lines.join("")}\r\n`;
}

/** One chunk of a chunked body; `LAST_CHUNK` ends it. */
export function chunk(bytes: string | Uint8Array): Buffer {
  const body = Buffer.from(typeof bytes === "string" ? Buffer.from(bytes) : bytes);
  return Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from("\r\n")]);
}

export const LAST_CHUNK = "0\r\n\r\n";
export const EVENT_STREAM_HEAD = answerHead(200, {
  "content-type": "text/event-stream",
  "transfer-encoding": "chunked",
});

/** A client that speaks in bytes, for what `fetch` cannot send or would hide. */
export interface RawClient {
  write(bytes: string | Uint8Array): void;
  /** All that has come back. */
  received(): Buffer;
  /** True once the proxy has closed the connection; `wasReset`: with RST, or an error. */
  readonly isClosed: boolean;
  end(): void;
  reset(): void;
  pause(): void;
  resume(): void;
}

export async function connectRaw(url: string): Promise<RawClient> {
  const { hostname, port } = new URL(url);
  const chunks: Buffer[] = [];
  let isClosed = false;
  const socket = await Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      data: (_, bytes) => void chunks.push(Buffer.from(bytes)),
      close: () => void (isClosed = true),
      error: () => void (isClosed = true),
    },
  });
  return {
    write: (bytes) => void socket.write(bytes),
    received: () => Buffer.concat(chunks),
    get isClosed() {
      return isClosed;
    },
    end: () => void socket.end(),
    reset: () => void socket.terminate(),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
  };
}

/** An answer as it comes off the wire, as far as it has come. */
export interface WireAnswer {
  readonly client: RawClient;
  /** Status line and fields; empty until all of them are there. */
  readonly head: string;
  /** 0 until the head is there. */
  readonly status: number;
  /** The body so far, without its framing. */
  readonly body: Buffer;
  /** `cut`: the connection closed before the framing said that the body was over. Null while it is neither. */
  readonly end: "clean" | "cut" | null;
}

/** Sends a request in bytes and watches what comes back; nothing is hidden, repeated or repaired. */
export async function ask(
  url: string,
  target: string,
  body = JSON.stringify({ model: "gpt-4o-mini", stream: true }),
): Promise<WireAnswer> {
  const client = await connectRaw(url);
  const fields = `host: ${new URL(url).host}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}`;
  client.write(`POST ${target} HTTP/1.1\r\n${fields}\r\n\r\n${body}`);
  const parse = () => parseAnswer(client.received());
  return {
    client,
    get head() {
      return parse().head;
    },
    get status() {
      return Number(parse().head.split(" ")[1] ?? 0);
    },
    get body() {
      return parse().body;
    },
    get end() {
      return parse().isWhole ? "clean" : client.isClosed ? "cut" : null;
    },
  };
}

/** As much of an answer as some bytes hold. A body without framing of its own is never known to be whole. */
function parseAnswer(bytes: Buffer): { head: string; body: Buffer; isWhole: boolean } {
  const headEnd = bytes.indexOf("\r\n\r\n");
  if (headEnd < 0) return { head: "", body: Buffer.alloc(0), isWhole: false };
  const head = bytes.toString("latin1", 0, headEnd);
  const rest = bytes.subarray(headEnd + 4);
  const length = /^content-length: *(\d+)/im.exec(head)?.[1];
  if (length !== undefined) return { head, body: rest, isWhole: rest.length >= Number(length) };
  if (!/^transfer-encoding: *chunked/im.test(head)) return { head, body: rest, isWhole: false };
  const pieces: Buffer[] = [];
  for (let at = 0; ;) {
    const lineEnd = rest.indexOf("\r\n", at);
    const size = lineEnd < 0 ? NaN : parseInt(rest.toString("latin1", at, lineEnd), 16);
    if (size === 0) return { head, body: Buffer.concat(pieces), isWhole: true };
    if (Number.isNaN(size)) return { head, body: Buffer.concat(pieces), isWhole: false };
    pieces.push(rest.subarray(lineEnd + 2, lineEnd + 2 + size));
    at = lineEnd + 2 + size + 2;
  }
}

/** A chat request as SDKs send it. */
export function chat(
  url: string,
  extra: Record<string, unknown> = {},
  init: RequestInit = {},
): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }], ...extra }),
    ...init,
    headers: { "content-type": "application/json", ...init.headers },
  });
}

/** An answer as a raw client read it off the wire. */
export interface RawAnswer {
  status: number;
  /** Status line and fields as they were sent. */
  head: string;
  /** Lower-case names; a repeated field's values in order. */
  fields: Map<string, string[]>;
  /** Decoded where it was chunked. */
  body: Buffer;
}

/** Sends bytes, and reads one whole answer: for requests that `fetch` cannot send, or would make tidy. */
export async function exchange(url: string, bytes: string | Uint8Array): Promise<RawAnswer> {
  const client = await connectRaw(url);
  client.write(bytes);
  const isHead = Buffer.from(bytes).subarray(0, 5).toString() === "HEAD ";
  let answer: RawAnswer | null = null;
  await until("an answer, or the end of the connection", () => {
    answer = wholeAnswer(client.received(), isHead);
    return answer !== null || client.isClosed;
  });
  client.end();
  answer ??= wholeAnswer(client.received(), isHead);
  if (answer === null) throw new Error("the connection was closed without a whole answer");
  return answer;
}

/** The first whole answer in some bytes, 1xx left aside, or null while more must come. */
function wholeAnswer(bytes: Buffer, isHead = false): RawAnswer | null {
  const headEnd = bytes.indexOf("\r\n\r\n");
  if (headEnd < 0) return null;
  const head = bytes.toString("latin1", 0, headEnd);
  const [statusLine = "", ...lines] = head.split("\r\n");
  const status = Number(statusLine.split(" ")[1]);
  const rest = bytes.subarray(headEnd + 4);
  if (status < 200) return wholeAnswer(rest, isHead);
  const fields = new Map<string, string[]>();
  for (const line of lines) {
    const name = line.slice(0, line.indexOf(":")).toLowerCase();
    fields.set(name, [...(fields.get(name) ?? []), line.slice(line.indexOf(":") + 1).trim()]);
  }
  if (isHead || status === 204 || status === 304) return { status, head, fields, body: Buffer.alloc(0) };
  if (fields.has("transfer-encoding")) {
    const chunked = parseChunked(rest);
    return chunked && { status, head, fields, body: chunked.body };
  }
  const length = Number(fields.get("content-length")?.[0] ?? 0);
  return rest.length < length ? null : { status, head, fields, body: Buffer.from(rest.subarray(0, length)) };
}

/** Numbers from 0 up to 1 that are the same in each run (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
