/** A client that asks like an SDK: JSON in a closed loop, streams in an open one. */
import type { Socket } from "bun";

import { EVENTS_PER_SEC, LOOPBACK, Message, Outbox, sdkRequest, takeOrders } from "./load.ts";
import type { Load, Name, Order, Outcome, Reply } from "./load.ts";

/** The events that an upstream adds to those asked for: the finish reason and `[DONE]`. */
const TAIL_EVENTS = 2;

interface Running {
  /** Requests answered, or events delivered. */
  done(): number;
  turn(name: Name | "all"): void;
  finish(): Promise<Outcome>;
}

/** What went well, what did not, and how long it took. */
class Usage {
  done = 0;
  served = 0;
  failed = 0;
  readonly #failures: string[] = [];
  readonly #timesUs: number[] = [];

  time(sinceMs: number): void {
    this.#timesUs.push((performance.now() - sinceMs) * 1000);
  }

  fail(what: string): void {
    this.failed += 1;
    if (this.#failures.length < 3) this.#failures.push(what.replace(/\s+/g, " ").slice(0, 200));
  }

  outcome(): Outcome {
    const sorted = this.#timesUs.sort((a, b) => a - b);
    const at = (share: number) =>
      sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
    const { served, failed } = this;
    return { served, failed, failures: this.#failures, p50Us: at(0.5), p99Us: at(0.99) };
  }
}

interface Lane {
  answer: Message;
  outbox: Outbox;
  askedAt: number;
}

/** A closed loop: each connection asks again as soon as it has its answer. */
function askInLanes(name: Name, { port, shape, connections }: Extract<Load, { kind: "json" }>): Running {
  const request = sdkRequest(name, port, shape, 128);
  const ledger = new Usage();
  const ended = Promise.withResolvers<void>();
  const paused = new Set<Socket<Lane>>();
  let flowing = false;
  let stopping = false;
  let open = connections;

  function goOn(socket: Socket<Lane>): void {
    socket.data.askedAt = 0;
    if (stopping) {
      socket.end();
      leave();
    } else if (flowing) ask(socket);
    else paused.add(socket);
  }

  function ask(socket: Socket<Lane>): void {
    socket.data.answer = new Message();
    socket.data.askedAt = performance.now();
    socket.data.outbox.send(socket, request);
  }

  function again(what: string): void {
    ledger.fail(what);
    if (!stopping)
      setTimeout(connect, 50); // not at once: what refuses would be asked in a busy loop
    else leave();
  }

  function leave(): void {
    open -= 1;
    if (open === 0) ended.resolve();
  }

  function connect(): void {
    const data: Lane = { answer: new Message(), outbox: new Outbox(), askedAt: 0 };
    void Bun.connect<Lane>({ hostname: LOOPBACK, port, data, socket: handlers });
  }

  const handlers: Bun.SocketHandler<Lane> = {
    open: goOn,
    data(socket, bytes) {
      const lane = socket.data;
      if (!lane.answer.push(bytes)) return;
      ledger.time(lane.askedAt);
      ledger.done += 1;
      if (lane.answer.opening.startsWith("HTTP/1.1 200 ")) ledger.served += 1;
      else ledger.fail(`answered ${lane.answer.opening.slice(9, 160)}`);
      goOn(socket);
    },
    drain: (socket) => socket.data.outbox.drain(socket),
    close(socket) {
      if (paused.delete(socket)) connect();
      else if (socket.data.askedAt > 0)
        again(`closed ${socket.data.answer.begun ? "in" : "before"} an answer`);
    },
    error() {}, // `close` follows
    connectError: (_socket, error) => again(`not connected: ${error.message}`),
  };
  for (let i = 0; i < connections; i += 1) connect();

  return {
    done: () => ledger.done,
    turn(whose) {
      flowing = whose === name || whose === "all";
      if (flowing) release();
    },
    async finish() {
      stopping = true;
      release();
      await Promise.race([ended.promise, Bun.sleep(3000)]);
      return ledger.outcome();
    },
  };

  function release(): void {
    const waiting = [...paused];
    paused.clear();
    for (const socket of waiting) goOn(socket);
  }
}

interface Listening {
  askedAt: number;
  events: number;
  status: string;
  /** The last characters, as many as the end of a stream has. */
  tail: string;
}

const CLEAN_END = "data: [DONE]\n\n\r\n0\r\n\r\n";

/** An open loop: streams begin evenly over the ramp, whatever becomes of those before. */
function listenToStreams(name: Name, load: Extract<Load, { kind: "streams" }>): Running {
  const { port, streams, eventsEach, rampMs } = load;
  const request = sdkRequest(name, port, "stream", eventsEach);
  const ledger = new Usage();
  const ended = Promise.withResolvers<void>();
  const listening = new Set<Socket<Listening>>();
  const expectedEvents = eventsEach + TAIL_EVENTS;

  function end(failure: string | null): void {
    if (failure === null) ledger.served += 1;
    else ledger.fail(failure);
    if (ledger.served + ledger.failed === streams) ended.resolve();
  }

  function judge({ status, events, tail }: Listening): string | null {
    if (!status.startsWith("HTTP/1.1 200 ")) return `answered ${status.slice(9) || "nothing"}`;
    const clean = tail === CLEAN_END;
    if (clean && events === expectedEvents) return null;
    return `${events} of ${expectedEvents} events and ${clean ? "a clean end" : "no clean chunked end"}`;
  }

  const handlers: Bun.SocketHandler<Listening> = {
    open(socket) {
      listening.add(socket);
      socket.data.askedAt = performance.now();
      socket.write(request);
    },
    data(socket, bytes) {
      const stream = socket.data;
      if (stream.status === "") stream.status = bytes.toString("latin1", 0, 160);
      const events = countEvents(bytes, stream.tail.endsWith("\n"));
      if (stream.events === 0 && events > 0) ledger.time(stream.askedAt);
      stream.events += events;
      ledger.done += events;
      const from = Math.max(0, bytes.length - CLEAN_END.length);
      stream.tail = (stream.tail + bytes.toString("latin1", from)).slice(-CLEAN_END.length);
      if (!stream.tail.endsWith("\r\n0\r\n\r\n")) return;
      listening.delete(socket);
      end(judge(stream));
      socket.end();
    },
    close(socket) {
      if (listening.delete(socket)) end(judge(socket.data));
    },
    error() {}, // `close` follows
    connectError: (_socket, error) => end(`not connected: ${error.message}`),
  };
  for (let i = 0; i < streams; i += 1) {
    const data: Listening = { askedAt: 0, events: 0, status: "", tail: "" };
    const connect = () => void Bun.connect<Listening>({ hostname: LOOPBACK, port, data, socket: handlers });
    setTimeout(connect, (i * rampMs) / streams);
  }

  return {
    done: () => ledger.done,
    turn() {}, // the upstream sees to it
    async finish() {
      const patienceMs = (eventsEach * 1000) / EVENTS_PER_SEC + 3000; // all of a stream may still be to come
      await Promise.race([ended.promise, Bun.sleep(patienceMs)]);
      for (const socket of listening) socket.terminate();
      while (ledger.served + ledger.failed < streams) ledger.fail("never ended");
      return ledger.outcome();
    },
  };
}

/** An event ends in a blank line; the framing around it has none without a carriage return. */
function countEvents(bytes: Buffer, afterNewline: boolean): number {
  let count = afterNewline && bytes[0] === 0x0a ? 1 : 0;
  for (let at = bytes.indexOf("\n\n"); at >= 0; at = bytes.indexOf("\n\n", at + 2)) count += 1;
  return count;
}

const running = new Map<Name, Running>();

async function obey(order: Order): Promise<Reply> {
  switch (order.do) {
    case "begin": {
      const { name, load } = order;
      running.set(name, load.kind === "json" ? askInLanes(name, load) : listenToStreams(name, load));
      return { understood: true };
    }
    case "turn":
      for (const load of running.values()) load.turn(order.name);
      return { understood: true };
    case "tally":
      return { tallies: Object.fromEntries([...running].map(([name, load]) => [name, load.done()])) };
    case "finish": {
      const load = running.get(order.name);
      running.delete(order.name);
      if (load === undefined) throw new Error(`${order.name} has no load to finish`);
      return load.finish();
    }
  }
}

takeOrders(obey);
