/**
 * What is told and remembered of a server that does not answer, or says no: one line in the log when it is lost, one
 * when it is back, however often that changes in between.
 */
import type { Log } from "../core/events.ts";

/** After it refused something, it is not joined again for so long, at first and at most. */
const FIRST_REST_MS = 500;
const MOST_REST_MS = 30_000;

const HINT = "each proxy goes on with its share of what was left, and joins the others again by itself";

export class Outage {
  readonly #log: Log;
  /** As people may see it. */
  readonly #server: string;
  /** It was told that the server is lost, and not yet that it is back. */
  isTold = false;
  #restMs = 0;
  #restsUntil = -Infinity;

  constructor(log: Log, server: string) {
    this.#log = log;
    this.#server = server;
  }

  tellLost(why: string, instances: number): void {
    if (this.isTold) return;
    this.isTold = true;
    this.#log.line("warn", "state_server_lost", { server: this.#server, why, instances, hint: HINT });
  }

  tellBack(): void {
    if (this.isTold) this.#log.line("info", "state_server_back", { server: this.#server });
    this.isTold = false;
  }

  /** A server that says no to this and yes to signs of life is left alone for a while, and longer each time. */
  onRefused(now: number): void {
    const isAgain = now < this.#restsUntil + MOST_REST_MS;
    this.#restMs = isAgain ? Math.min(this.#restMs * 2, MOST_REST_MS) : FIRST_REST_MS;
    this.#restsUntil = now + this.#restMs;
  }

  isResting(now: number): boolean {
    return now < this.#restsUntil;
  }
}
