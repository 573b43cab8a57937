/**
 * A Redis server for tests, in this process: as much of RESP 3 as Bun's client speaks, the few commands that are sent,
 * and the scripts of `sharing/scripts.ts` once more in TypeScript. `bench/many.ts` runs the scripts themselves.
 */
import { BATCH, BEAT, LEASE, READ } from "../sharing/scripts.ts";

type Reply = string | number | null | Error | readonly Reply[] | ReadonlyMap<string, string>;
type Socket = Bun.Socket<Connection>;

interface Connection {
  buffer: string;
  channels: Set<string>;
  isIn: boolean;
}

/** A change as `BATCH` takes it. */
interface Changes {
  hashes: {
    name: string;
    set?: Record<string, string>;
    unset?: string[];
    add?: Record<string, number>;
    raise?: Record<string, number>;
  }[];
  days: { name: string; who: string; number: number; requests: number; tokens: number }[];
  minutes: { name: string; windowMs: number; add: { at: number; name: string }[]; remove: string[] }[];
}

const SCRIPTS = new Map([
  [LEASE.sha, "LEASE"],
  [BEAT.sha, "BEAT"],
  [BATCH.sha, "BATCH"],
  [READ.sha, "READ"],
]);

export class FakeRedis {
  /** Asked for on every connection; null: none. */
  password: string | null = null;
  /** What `HELLO` says that it is. */
  mode = "standalone";
  /** Ahead of this machine's clock by so much, in ms. */
  aheadMs = 0;
  /** With what it refuses a script (`LEASE`, `BEAT`, `BATCH`); null: it does not. */
  refuses: (script: string) => string | null = () => null;
  /** Takes everything and answers nothing. */
  isStopped = false;
  readonly texts = new Map<string, string>();
  readonly hashes = new Map<string, Map<string, string>>();
  readonly sets = new Map<string, Map<string, number>>();
  /** Commands that came, by name. */
  readonly asked = new Map<string, number>();
  readonly #sockets = new Set<Socket>();
  #held: [socket: Socket, words: string[]][] = [];
  #listener: Bun.TCPSocketListener<Connection>;

  constructor() {
    this.#listener = this.#listen(0);
  }

  get port(): number {
    return this.#listener.port;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  #listen(port: number): Bun.TCPSocketListener<Connection> {
    return Bun.listen<Connection>({
      hostname: "127.0.0.1",
      port,
      socket: {
        open: (socket) => {
          socket.data = { buffer: "", channels: new Set(), isIn: this.password === null };
          this.#sockets.add(socket);
        },
        close: (socket) => void this.#sockets.delete(socket),
        data: (socket, bytes) => {
          socket.data.buffer += bytes.toString("latin1");
          for (let words = takeCommand(socket.data); words !== null; words = takeCommand(socket.data)) {
            if (this.isStopped) this.#held.push([socket, words]);
            else this.#carryOut(socket, words);
          }
        },
      },
    });
  }

  /** Goes on after `isStopped`, with all that came meanwhile. */
  goOn(): void {
    this.isStopped = false;
    for (const [socket, words] of this.#held.splice(0)) this.#carryOut(socket, words);
  }

  /** All connections are cut, and nobody is let in. */
  stop(): void {
    this.#listener.stop(true);
    for (const socket of this.#sockets) socket.terminate();
    this.#held = [];
  }

  /** Listens again, where it did before. */
  start(): void {
    this.#listener = this.#listen(this.port);
  }

  /** `FLUSHALL`. */
  empty(): void {
    for (const each of [this.texts, this.hashes, this.sets]) each.clear();
  }

  /** All names and values, as one text. */
  get dump(): string {
    const plain = (map: ReadonlyMap<string, ReadonlyMap<string, unknown>>) =>
      [...map].map(([name, values]) => `${name} ${JSON.stringify([...values])}`);
    return [JSON.stringify([...this.texts]), ...plain(this.hashes), ...plain(this.sets)].join("\n");
  }

  #carryOut(socket: Socket, words: readonly string[]): void {
    const [name = "", ...given] = words;
    const command = name.toUpperCase();
    this.asked.set(command, (this.asked.get(command) ?? 0) + 1);
    if (command === "SUBSCRIBE") {
      for (const channel of given) socket.data.channels.add(channel);
      socket.write(`>3\r\n${encoded("subscribe")}${encoded(given[0] ?? "")}:1\r\n`);
      return;
    }
    socket.write(encoded(this.#answer(socket, command, given)));
  }

  #answer(socket: Socket, command: string, given: readonly string[]): Reply {
    const [first = "", second = ""] = given;
    if (command === "HELLO") {
      const at = given.indexOf("AUTH");
      if (at >= 0 && given[at + 2] === this.password) socket.data.isIn = true;
      else if (at >= 0 && this.password !== null)
        return new Error("WRONGPASS invalid username-password pair or user is disabled.");
      if (!socket.data.isIn)
        return new Error("NOAUTH HELLO must be called with the client already authenticated");
      return new Map([
        ["server", "redis"],
        ["mode", this.mode],
      ]);
    }
    if (!socket.data.isIn) return new Error("NOAUTH Authentication required.");
    switch (command) {
      case "SELECT":
        return Number(first) < 16 ? "OK" : new Error("ERR DB index is out of range");
      case "PUBLISH":
        this.#publish(first, second);
        return 1;
      case "SET":
        this.texts.set(first, second);
        return "OK";
      case "DEL":
        return this.texts.delete(first) ? 1 : 0;
      case "MGET":
        return given.map((name) => this.texts.get(name) ?? null);
      case "HGETALL":
        return this.hashes.get(first) ?? new Map();
      case "HDEL":
        return this.hashes.get(first)?.delete(second) ? 1 : 0;
      case "EVAL":
      case "EVALSHA":
        return this.#run(first, given.slice(2, 2 + Number(second)), given.slice(2 + Number(second)));
      default:
        return new Error(`ERR unknown command '${command}'`);
    }
  }

  #publish(channel: string, message: string): void {
    for (const socket of this.#sockets)
      if (socket.data.channels.has(channel))
        socket.write(`>3\r\n${encoded("message")}${encoded(channel)}${encoded(message)}`);
  }

  #run(sha: string, names: readonly string[], given: readonly string[]): Reply {
    const now = Date.now() + this.aheadMs;
    const name = SCRIPTS.get(sha);
    if (name === undefined) return new Error("NOSCRIPT No matching script.");
    const refusal = this.refuses(name);
    if (refusal !== null) return new Error(refusal);
    if (name === "LEASE") return this.#lease(names, given, now);
    if (name === "READ") return this.#read(names, Number(given[0]));
    return name === "BEAT" ? this.#beat(names, given, now) : this.#batch(names, given, now);
  }

  #hash(name: string): Map<string, string> {
    let hash = this.hashes.get(name);
    if (hash === undefined) this.hashes.set(name, (hash = new Map()));
    return hash;
  }

  #set(name: string): Map<string, number> {
    let set = this.sets.get(name);
    if (set === undefined) this.sets.set(name, (set = new Map()));
    return set;
  }

  #lease(names: readonly string[], given: readonly string[], now: number): Reply {
    const [epochName = "", dayName = "", ...minutes] = names;
    const [epoch = "", me = ""] = given;
    const [
      number = 0,
      perMinute = 0,
      windowMs = 0,
      perDay = 0,
      requests = 0,
      tokensPerDay = 0,
      tokens = 0,
      endsAt = 0,
    ] = given.slice(2).map(Number);
    if (this.texts.get(epochName) !== epoch) return [-1, 0, 0, 0, 0, 0, now];
    const sumOf = (kind: string) =>
      [...this.#hash(dayName)].reduce(
        (sum, [field, count]) => sum + (field.startsWith(kind) && field !== kind + me ? Number(count) : 0),
        0,
      );
    const [othersRequests, othersTokens] = endsAt > 0 ? [sumOf("r:"), sumOf("t:")] : [0, 0];
    const times: number[] = [];
    for (const name of perMinute > 0 ? minutes : []) {
      for (const [place, at] of this.#set(name)) {
        if (at <= now - windowMs) this.#set(name).delete(place);
        else times.push(at);
      }
    }
    times.sort((one, other) => one - other);
    const refused = (waitMs: number, what: number) =>
      [0, times.length, othersRequests, othersTokens, waitMs, what, now] as const;
    if (perDay > 0 && othersRequests + requests > perDay) return refused(endsAt - now, 2);
    if (tokensPerDay > 0 && othersTokens + tokens >= tokensPerDay) return refused(endsAt - now, 3);
    if (perMinute > 0 && times.length >= perMinute)
      return refused(Math.max(1, times[times.length - perMinute]! + windowMs - now), 1);
    if (perMinute > 0) this.#set(minutes[0] ?? "").set(`${me}:${number}`, now);
    const day = this.#hash(dayName);
    if (endsAt > 0 && number > Number(day.get(`s:${me}`) ?? 0))
      day.set(`r:${me}`, String(requests)).set(`s:${me}`, String(number));
    return [1, times.length + 1, othersRequests, othersTokens, 0, 0, now];
  }

  #beat(names: readonly string[], given: readonly string[], now: number): Reply {
    const [epochName = "", instancesName = ""] = names;
    const [me = "", data = "", newEpoch = "", goneAfter = "", channel = "", news = ""] = given;
    const epoch = this.texts.get(epochName) ?? newEpoch;
    this.texts.set(epochName, epoch);
    const known = this.#hash(instancesName).set(me, `${now} ${data}`);
    for (const [id, text] of known) if (Number.parseInt(text, 10) < now - Number(goneAfter)) known.delete(id);
    this.#publish(channel, news);
    return [now, epoch, ...[...known].flat()];
  }

  #read(names: readonly string[], batches: number): Reply {
    const numbers = names.slice(0, batches).map((name) => Number(this.texts.get(name) ?? 0));
    return [numbers, ...names.slice(batches).map((name) => [...(this.hashes.get(name) ?? [])].flat())];
  }

  #batch(names: readonly string[], given: readonly string[], now: number): Reply {
    const [epochName = "", batchName = ""] = names;
    const [epoch = "", number = "", channel = "", news = "", text = ""] = given;
    if (this.texts.get(epochName) !== epoch) return -1;
    if (Number(this.texts.get(batchName) ?? 0) >= Number(number)) return 1;
    this.texts.set(batchName, number);
    const changes = JSON.parse(text) as Changes; // ours
    for (const { name, set = {}, unset = [], add = {}, raise = {} } of changes.hashes) {
      const hash = this.#hash(name);
      for (const [field, value] of Object.entries(set)) hash.set(field, value);
      for (const field of unset) hash.delete(field);
      for (const [field, by] of Object.entries(add))
        hash.set(field, String(Number(hash.get(field) ?? 0) + by));
      for (const [field, least] of Object.entries(raise))
        hash.set(field, String(Math.max(Number(hash.get(field) ?? 0), least)));
    }
    for (const day of changes.days) {
      const hash = this.#hash(day.name);
      if (day.number <= Number(hash.get(`s:${day.who}`) ?? 0)) continue;
      hash.set(`r:${day.who}`, String(day.requests)).set(`t:${day.who}`, String(day.tokens));
      hash.set(`s:${day.who}`, String(day.number));
    }
    for (const minute of changes.minutes) {
      const set = this.#set(minute.name);
      for (const { at, name } of minute.add) if (at > now - minute.windowMs) set.set(name, at);
      for (const name of minute.remove) set.delete(name);
    }
    this.#publish(channel, news);
    return 1;
  }
}

/** Takes a whole command out of what has come; null: it is not whole. */
function takeCommand(connection: Connection): string[] | null {
  const { buffer } = connection;
  let at = buffer.indexOf("\r\n");
  if (at < 0 || !buffer.startsWith("*")) return null;
  const words: string[] = [];
  const count = Number(buffer.slice(1, at));
  at += 2;
  for (let word = 0; word < count; word++) {
    const end = buffer.indexOf("\r\n", at);
    if (end < 0) return null;
    const length = Number(buffer.slice(at + 1, end));
    if (buffer.length < end + 2 + length + 2) return null;
    words.push(Buffer.from(buffer.slice(end + 2, end + 2 + length), "latin1").toString());
    at = end + 2 + length + 2;
  }
  connection.buffer = buffer.slice(at);
  return words;
}

/** A reply in RESP 3. */
function encoded(reply: Reply): string {
  if (reply === null) return "_\r\n";
  if (reply instanceof Error) return `-${reply.message}\r\n`;
  if (typeof reply === "number") return `:${reply}\r\n`;
  if (typeof reply === "string") return `$${Buffer.byteLength(reply)}\r\n${reply}\r\n`;
  if (reply instanceof Map)
    return `%${reply.size}\r\n${[...reply].map(([name, value]) => encoded(name) + encoded(value)).join("")}`;
  const list = reply as readonly Reply[];
  return `*${list.length}\r\n${list.map(encoded).join("")}`;
}
