/**
 * The load of the benchmark, as the benchmark sees it: two processes that take orders.
 *
 * An upstream that answers like a provider and a client that asks like an SDK, both on raw sockets: an HTTP
 * library there would cost more than what is measured and take the proxy's core. They understand as much HTTP as
 * framing needs, one message at a time.
 */
import { join } from "node:path";

export const LOOPBACK = "127.0.0.1";
export const EVENTS_PER_SEC = 20;

/** Whom a load goes through. */
export type Name = "none" | "nginx" | "bare" | "before" | "proxy" | "usual";

/** What a request asks for: an answer with a content-length, a chunked one, or a plain one to 100 KB of prompt. */
export type Shape = "plain" | "chunked" | "large";

export type Load =
  | { kind: "json"; port: number; shape: Shape; connections: number }
  | { kind: "streams"; port: number; streams: number; eventsEach: number; rampMs: number };

/** Requests answered, or events delivered, since each load began. */
export type Tallies = Partial<Record<Name, number>>;

export interface Outcome {
  /** Requests answered with 200, or streams that came whole: every event, `[DONE]`, a clean chunked end. */
  served: number;
  /** Everything that did not, and what became of the first few. */
  failed: number;
  failures: string[];
  /** To the end of an answer, or to the first event of a stream. */
  p50Us: number;
  p99Us: number;
}

/** Loads go on side by side; `turn` says whose requests and events flow, and all others pause. */
export type Order =
  | { do: "begin"; name: Name; load: Load }
  | { do: "turn"; name: Name | "all" }
  | { do: "tally" }
  | { do: "finish"; name: Name };
export type Reply = { port: number } | { tallies: Tallies } | Outcome | { understood: true };

/** A process of `client.ts` or `upstream.ts`; it ends itself when this one is gone, however it went. */
export class LoadProcess {
  readonly #child: Bun.Subprocess;
  #waiting: ((reply: Reply) => void) | null = null;
  #early: Reply | null = null;

  constructor(role: "upstream" | "client") {
    this.#child = Bun.spawn([process.execPath, "--no-env-file", join(import.meta.dir, `${role}.ts`)], {
      stdio: ["ignore", "ignore", "inherit"],
      env: {},
      ipc: (message: unknown) => {
        const reply = message as Reply; // both ends are ours
        if (this.#waiting === null) this.#early = reply;
        else this.#waiting(reply);
        this.#waiting = null;
      },
    });
  }

  /** The port of an upstream. */
  async port(): Promise<number> {
    const reply = await this.#reply();
    if (!("port" in reply)) throw new Error("the upstream did not say its port");
    return reply.port;
  }

  async begin(name: Name, load: Load): Promise<void> {
    await this.#ask({ do: "begin", name, load });
  }

  async turn(name: Name | "all"): Promise<void> {
    await this.#ask({ do: "turn", name });
  }

  async tallies(): Promise<Tallies> {
    const reply = await this.#ask({ do: "tally" });
    if (!("tallies" in reply)) throw new Error("the client did not say its tallies");
    return reply.tallies;
  }

  /** Waits for requests under way and for streams to end, within bounds. */
  async finish(name: Name): Promise<Outcome> {
    const reply = await this.#ask({ do: "finish", name });
    if (!("served" in reply)) throw new Error("the client did not say its outcome");
    return reply;
  }

  async stop(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.exited;
  }

  async #ask(order: Order): Promise<Reply> {
    this.#child.send(order);
    return this.#reply();
  }

  async #reply(): Promise<Reply> {
    const early = this.#early;
    this.#early = null;
    if (early !== null) return early;
    const answered = new Promise<Reply>((resolve) => (this.#waiting = resolve));
    const died = this.#child.exited.then((code): never => {
      throw new Error(`a load process exited with ${code}`);
    });
    return Promise.race([answered, died]);
  }
}

/** The other end of a `LoadProcess`. */
export function takeOrders(obey: (order: Order) => Reply | Promise<Reply>): void {
  process.on("disconnect", () => process.exit(0));
  process.on("message", async (message: unknown) => {
    process.send!(await obey(message as Order)); // both ends are ours
  });
}

const OPENING_BYTES = 4096;

/** One HTTP/1.1 message as it arrives, read no further than its framing. */
export class Message {
  opening = "";
  bodyAt = -1;
  #received = 0;
  #contentLength: number | null = null;
  #tail = "";

  /** Takes the next bytes; true when the message is whole. */
  push(bytes: Buffer): boolean {
    this.opening += bytes.toString("latin1", 0, Math.max(0, OPENING_BYTES - this.opening.length));
    this.#received += bytes.length;
    if (this.bodyAt < 0) {
      const headEnd = this.opening.indexOf("\r\n\r\n");
      if (headEnd < 0) return false;
      this.bodyAt = headEnd + 4;
      const length = /\r\ncontent-length: *(\d+)/i.exec(this.opening);
      if (length !== null) this.#contentLength = Number(length[1]);
    }
    if (this.#contentLength !== null) return this.#received >= this.bodyAt + this.#contentLength;
    this.#tail = (this.#tail + bytes.toString("latin1", Math.max(0, bytes.length - 5))).slice(-5);
    return this.#tail === "0\r\n\r\n";
  }

  get begun(): boolean {
    return this.#received > 0;
  }
}

/** What a socket would not take at once (100 KB seldom fits); sent on when it drains. */
export class Outbox {
  #backlog: Buffer[] = [];

  send(socket: { write(bytes: Buffer): number }, bytes: Buffer): void {
    if (this.#backlog.length > 0) this.#backlog.push(bytes);
    else this.#write(socket, bytes);
  }

  drain(socket: { write(bytes: Buffer): number }): void {
    const backlog = this.#backlog;
    this.#backlog = [];
    for (const bytes of backlog) this.send(socket, bytes);
  }

  #write(socket: { write(bytes: Buffer): number }, bytes: Buffer): void {
    const written = Math.max(0, socket.write(bytes));
    if (written < bytes.length) this.#backlog.push(bytes.subarray(written));
  }
}

/** A request as the OpenAI SDK for JavaScript sends it; what the upstream looks for comes first in the body. */
export function sdkRequest(name: Name, port: number, shape: Shape | "stream", maxTokens: number): Buffer {
  const body = JSON.stringify({
    model: shape === "chunked" ? "chunked" : "gpt-4o-mini",
    user: name,
    max_tokens: maxTokens,
    ...(shape === "stream" ? { stream: true, stream_options: { include_usage: true } } : {}),
    temperature: 0.2,
    messages: [
      { role: "system", content: "You are a careful assistant. Answer in one sentence." },
      { role: "user", content: "Not all those who wander are lost. ".repeat(shape === "large" ? 2900 : 23) },
    ],
  });
  return Buffer.from(
    `POST /v1/chat/completions HTTP/1.1\r
host: ${LOOPBACK}:${port}\r
connection: keep-alive\r
content-type: application/json\r
accept: application/json\r
user-agent: OpenAI/JS 5.23.0\r
x-stainless-lang: js\r
x-stainless-package-version: 5.23.0\r
x-stainless-os: Linux\r
x-stainless-arch: x64\r
x-stainless-runtime: node\r
x-stainless-runtime-version: v24.11.0\r
x-stainless-retry-count: 0\r
x-stainless-timeout: 600\r
authorization: Bearer sk-client\r
accept-encoding: gzip, deflate, br\r
content-length: ${body.length}\r
\r
${body}`,
  );
}
