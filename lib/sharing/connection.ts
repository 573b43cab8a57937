/**
 * A connection to the Redis or Valkey server that never makes anybody wait: a command is answered within its patience,
 * or it is not.
 *
 * Two connections in truth, one for commands and one that hears the news. Both are made again by themselves. How long
 * the server is silent counts, and not how long we were busy: when a time is over, what has come meanwhile is read
 * before the server is judged.
 */
import type { StateServer } from "../config/state-server.ts";
import { nextTurn } from "../core/clock.ts";
import { codeOf, isObject } from "../core/json.ts";
import { diagnose, explain } from "./diagnosis.ts";
import type { Script } from "./scripts.ts";

/** An answer of the server that says no, such as `OOM`; shown in the log. */
export class ServerRefusal extends Error {}

/** How long the server may take to accept a connection. */
const CONNECT_MS = 2000;

const OPTIONS = { autoReconnect: false, enableOfflineQueue: false, connectionTimeout: CONNECT_MS };

export class RedisConnection {
  readonly #server: StateServer;
  readonly #channel: string;
  readonly #onNews: (message: string) => void;
  /** Told when the connection is lost. */
  readonly #onLost: () => void;
  #commands: Bun.RedisClient | null = null;
  #listener: Bun.RedisClient | null = null;

  constructor(
    server: StateServer,
    options: { channel: string; onNews: (message: string) => void; onLost: () => void },
  ) {
    this.#server = server;
    this.#channel = options.channel;
    this.#onNews = options.onNews;
    this.#onLost = options.onLost;
  }

  get isOpen(): boolean {
    return this.#commands?.connected === true;
  }

  /**
   * Connects, and listens to the news. Returns why it could not; null: it could. Throws `ServerRefusal` where that is a
   * matter of the settings: the server will not have us, or is none of the kind that we need.
   */
  async open(): Promise<string | null> {
    this.close();
    try {
      const commands = await this.#connect();
      const listener = await this.#connect();
      this.#commands = commands;
      this.#listener = listener;
      await listener.subscribe(this.#channel, this.#onNews);
      return null;
    } catch (error) {
      this.close();
      const { why, isOfSettings } =
        error instanceof ServerRefusal || isRefusal(error)
          ? explain(textOf(error))
          : await diagnose(this.#server);
      if (isOfSettings) throw new ServerRefusal(why);
      return why;
    }
  }

  async #connect(): Promise<Bun.RedisClient> {
    const client = new Bun.RedisClient(this.#server.url.reveal(), OPTIONS);
    client.onclose = () => {
      if (client !== this.#commands && client !== this.#listener) return;
      this.close();
      this.#onLost();
    };
    await client.connect();
    try {
      const hello: unknown = await client.send("HELLO", []);
      const mode = isObject(hello) ? hello["mode"] : null;
      if (mode === "cluster" || mode === "sentinel") throw new ServerRefusal(mode);
      // Bun 1.4.5 reads the number of a database only from network addresses.
      await client.send("SELECT", [String(this.#server.database)]);
    } catch (error) {
      client.close();
      if (error instanceof ServerRefusal) throw error;
      throw isRefusal(error) ? new ServerRefusal(textOf(error)) : error;
    }
    return client;
  }

  /** The answer to a command, whatever it is; or why there is none. Throws `ServerRefusal`. */
  async ask(command: string, given: string[], patienceMs: number): Promise<unknown> {
    const client = this.#commands;
    if (client === null) return GONE;
    const answer: { value: unknown } = { value: LATE };
    const asked = client.send(command, given).then(
      (value: unknown) => void (answer.value = value),
      (error: unknown) => void (answer.value = isRefusal(error) ? new ServerRefusal(textOf(error)) : GONE),
    );
    await Promise.race([asked, silence(patienceMs, () => answer.value !== LATE)]);
    if (answer.value instanceof ServerRefusal) throw answer.value;
    return answer.value;
  }

  /** A stored number; 0: there is none, or no answer. */
  async number(name: string, patienceMs: number): Promise<number> {
    const answer = await this.ask("GET", [name], patienceMs).catch(() => GONE);
    return typeof answer === "string" ? Number(answer) || 0 : 0;
  }

  /** The answer of a script, which the server may have forgotten; else as `ask`. */
  async run(
    script: Script,
    keys: readonly string[],
    given: readonly string[],
    patienceMs: number,
  ): Promise<unknown> {
    const rest = [String(keys.length), ...keys, ...given];
    try {
      return await this.ask("EVALSHA", [script.sha, ...rest], patienceMs);
    } catch (error) {
      if (!(error instanceof ServerRefusal) || !error.message.startsWith("NOSCRIPT")) throw error;
      return this.ask("EVAL", [script.text, ...rest], patienceMs);
    }
  }

  close(): void {
    const clients = [this.#commands, this.#listener];
    this.#commands = null;
    this.#listener = null;
    for (const client of clients) client?.close();
  }
}

/** Instead of an answer: there is no connection; or none came in time, and the command may still be carried out. */
export const GONE: unique symbol = Symbol("gone");
export const LATE: unique symbol = Symbol("late");

/**
 * Resolves when the server has been silent for so long. Where this process was busy meanwhile, the answer may have come
 * and not been read: the event loop goes round before that is judged.
 */
async function silence(durationMs: number, hasAnswer: () => boolean): Promise<void> {
  await nextTurn(durationMs);
  for (let turn = 0; turn < TURNS && !hasAnswer(); turn++) await nextTurn();
}

/** Turns of the event loop within which what is in the socket has been read, and its promise resolved. */
const TURNS = 3;

function isRefusal(error: unknown): boolean {
  const code = codeOf(error);
  return code === "ERR_REDIS_SERVER_ERROR" || code === "ERR_REDIS_INVALID_COMMAND";
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : "not an Error";
}
