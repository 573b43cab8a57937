/** An upstream that answers like a provider: JSON with its length, JSON in chunks, or a stream of events. */
import type { Socket } from "bun";

import { EVENTS_PER_SEC, LOOPBACK, Message, Outbox, takeOrders } from "./load.ts";
import type { Name, Reply } from "./load.ts";

const COMMON_FIELDS = `date: Fri, 20 Nov 2026 21:54:07 GMT\r
x-request-id: req_7d1f0c0a5b8e4c2f9a6d3e1b4c7f8a90\r
openai-processing-ms: 412\r
openai-version: 2020-10-01\r
x-ratelimit-limit-requests: 10000\r
x-ratelimit-remaining-requests: 9999\r
x-ratelimit-reset-requests: 6ms\r
strict-transport-security: max-age=31536000; includeSubDomains; preload\r
server: cloudflare\r
cf-ray: 9a1b2c3d4e5f6789-FRA\r
`;

const ANSWER = JSON.stringify({
  id: "chatcmpl-CeT5rKq0mZ8vX2yB4nW7hJ9pL1sD3",
  object: "chat.completion",
  created: 1795211647,
  model: "gpt-4o-mini-2024-07-18",
  choices: [
    {
      index: 0,
      message: {
        role: "assistant",
        content: "All that is gold does not glitter. ".repeat(12).trim(),
        refusal: null,
      },
      logprobs: null,
      finish_reason: "stop",
    },
  ],
  usage: { prompt_tokens: 213, completion_tokens: 97, total_tokens: 310 },
  service_tier: "default",
  system_fingerprint: "fp_44added55e",
});

const PLAIN_ANSWER = Buffer.from(
  `HTTP/1.1 200 OK\r\n${COMMON_FIELDS}content-type: application/json\r\ncontent-length: ${ANSWER.length}\r\n\r\n${ANSWER}`,
);
const CHUNKED_ANSWER = Buffer.from(
  `HTTP/1.1 200 OK\r\n${COMMON_FIELDS}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n${chunk(ANSWER)}`,
);
const LAST_CHUNK = Buffer.from("0\r\n\r\n");
const STREAM_HEAD = Buffer.from(
  `HTTP/1.1 200 OK\r\n${COMMON_FIELDS}content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n`,
);
const TOKEN_EVENT = Buffer.from(event({ content: " token" }, null));
const STREAM_TAIL = Buffer.from(`${event({}, "stop")}${chunk("data: [DONE]\n\n")}0\r\n\r\n`);
function event(delta: { content?: string }, finishReason: string | null): string {
  const answer = {
    id: "chatcmpl-CeT5rKq0mZ8vX2yB4nW7hJ9pL1sD3",
    object: "chat.completion.chunk",
    created: 1795211647,
    model: "gpt-4o-mini-2024-07-18",
    choices: [{ index: 0, delta, finish_reason: finishReason }],
  };
  return chunk(`data: ${JSON.stringify(answer)}\n\n`);
}

function chunk(text: string): string {
  return `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;
}

interface Exchange {
  request: Message;
  outbox: Outbox;
  stream: Stream | null;
}

interface Stream {
  name: string;
  slot: Set<Stream>;
  remaining: number;
  socket: Socket<Exchange>;
}

/**
 * One timer for all streams. Each stream has one of the milliseconds between two events for its own, as far from
 * its neighbours' as can be: real streams do not tick together, and a burst would be cheaper to relay than what
 * users have.
 */
class Ticker {
  readonly #slots = Array.from({ length: 1000 / EVENTS_PER_SEC }, () => new Set<Stream>());
  #timer: Timer | null = null;
  #dueMs = 0;
  #opened = 0;
  #open = 0;
  /** Whose streams flow; the others keep still, and all their events. */
  turn: Name | "all" = "all";

  start(socket: Socket<Exchange>, name: string, events: number): Stream {
    this.#opened += 1;
    this.#open += 1;
    const slot = this.#slots[Math.floor(((this.#opened * 0.618034) % 1) * this.#slots.length)]!;
    const stream = { name, slot, remaining: events, socket };
    slot.add(stream);
    if (this.#timer === null) {
      this.#dueMs = Math.floor(performance.now());
      this.#timer = setInterval(() => this.#tick(), 1);
    }
    return stream;
  }

  end(stream: Stream): void {
    if (!stream.slot.delete(stream)) return;
    this.#open -= 1;
    if (this.#open > 0 || this.#timer === null) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }

  next(stream: Stream): void {
    const last = stream.remaining === 0;
    stream.remaining -= 1;
    stream.socket.data.outbox.send(stream.socket, last ? STREAM_TAIL : TOKEN_EVENT);
    if (last) this.end(stream);
  }

  /** Serves every slot that has come due, however late the timer is: the rate holds on a busy machine. */
  #tick(): void {
    for (const nowMs = performance.now(); this.#dueMs <= nowMs; this.#dueMs += 1) {
      for (const stream of this.#slots[this.#dueMs % this.#slots.length]!) {
        if (this.turn === "all" || this.turn === stream.name) this.next(stream);
      }
    }
  }
}

function serveUpstream(): void {
  const ticker = new Ticker();
  const listener = Bun.listen<Exchange>({
    hostname: LOOPBACK,
    port: 0,
    socket: {
      open(socket) {
        socket.data = { request: new Message(), outbox: new Outbox(), stream: null };
      },
      data(socket, bytes) {
        const { request } = socket.data;
        if (!request.push(bytes)) return;
        socket.data.request = new Message();
        answer(socket, request, ticker);
      },
      drain: (socket) => socket.data.outbox.drain(socket),
      close(socket) {
        if (socket.data.stream !== null) ticker.end(socket.data.stream);
      },
      error() {}, // a reset is a proxy that let go: `close` follows
    },
  });
  takeOrders((order) => {
    if (order.do === "turn") ticker.turn = order.name;
    return { understood: true };
  });
  process.send!({ port: listener.port } satisfies Reply);
}

function answer(socket: Socket<Exchange>, request: Message, ticker: Ticker): void {
  const { outbox } = socket.data;
  const asked = request.opening.slice(request.bodyAt, request.bodyAt + 300);
  if (asked.includes('"stream":true')) {
    outbox.send(socket, STREAM_HEAD);
    const [, name = "", events = "1"] = /"user":"(\w+)","max_tokens":(\d+)/.exec(asked) ?? [];
    socket.data.stream = ticker.start(socket, name, Number(events));
    ticker.next(socket.data.stream);
  } else if (asked.includes('"model":"chunked"')) {
    outbox.send(socket, CHUNKED_ANSWER);
    outbox.send(socket, LAST_CHUNK); // apart from the text, as application servers write it
  } else {
    outbox.send(socket, PLAIN_ANSWER);
  }
}

serveUpstream();
