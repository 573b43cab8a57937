/**
 * The three clocks of an attempt (connect, first byte, idle) and the client's leaving: what may end it from outside.
 *
 * One timer serves every attempt under way. It ticks a few times a second while there is any, so starting and
 * stopping a clock costs an assignment, not a timer; and what only a slow answer needs (listening for the client's
 * leaving, holding its connection, asking whether the upstream can be connected to at all) is set up on the first
 * tick, so a quick answer never pays for it.
 */
import type { Clock, CancelTimer } from "../core/clock.ts";
import { explainError, type Way } from "./connection-errors.ts";
import type { IdleConnections } from "./connections.ts";
import type { Abandoned, Unreachable } from "../providers/verdict.ts";

export interface ClockLimits {
  /** Milliseconds; 0 turns a clock off. */
  connectTimeoutMs: number;
  firstByteTimeoutMs: number;
  streamIdleTimeoutMs: number;
}

/** Whom an attempt is made for. */
export interface Client {
  /** Fires when the client leaves. */
  readonly signal: AbortSignal;
  /** The answer takes its time: the server's own idle timer must not end the connection. */
  hold(): void;
}

/** What an attempt is sent to, for the connect clock, and for words about a failure. */
export interface Reachable extends Way {
  /** Epoch ms of the last sign of life; the clocks keep it up to date. */
  heardAt: number;
  /** Whether a connection can be opened at all: asked beside an attempt that hears nothing. */
  canConnect(): Promise<boolean>;
  /** A connection broke or went silent: the idle ones of its like are mostly as dead. */
  connectionBroke(): void;
  readonly idle: IdleConnections;
}

/** A connection that died while it was idle breaks at once when it is used; what breaks later was at work. */
const STALE_BREAKS_WITHIN_MS = 3000;
/** Coarse on purpose: a client's leaving must close the upstream within 100 ms. */
const TICK_MS = 50;
/** Controllers that are kept for later attempts. */
const MOST_SPARE = 64;

/** All attempts under way. */
export class TimeoutTicker {
  #limits: ClockLimits;
  readonly #clock: Clock;
  readonly #watches = new Set<AttemptTimeouts>();
  /** Never fired, and of attempts that are over: to make one costs more than all the rest of a watch. */
  readonly #spare: AbortController[] = [];
  readonly #mostSpare: number;
  #ticking = false;
  #cancelTick: CancelTimer = () => {};
  /** The time of the last tick: exact enough for limits of seconds, and free. */
  now = 0;

  /** `mostSpare`: how many signals are kept to be used again. */
  constructor(limits: ClockLimits, clock: Clock, mostSpare = MOST_SPARE) {
    this.#limits = limits;
    this.#clock = clock;
    this.#mostSpare = mostSpare;
  }

  /** Attempts that begin from now on go by these; those under way by theirs. */
  follow(limits: ClockLimits): void {
    this.#limits = limits;
  }

  /** Attempts whose clocks run. */
  get running(): number {
    return this.#watches.size;
  }

  start(client: Client, upstream: Reachable): AttemptTimeouts {
    this.now = this.#clock.now();
    const controller = this.#spare.pop() ?? new AbortController();
    const watch = new AttemptTimeouts(this, this.#limits, client, upstream, controller);
    this.#watches.add(watch);
    if (!this.#ticking) this.#scheduleTick();
    return watch;
  }

  /** Ends every attempt under way. */
  abortAll(reason: Unreachable): void {
    for (const watch of [...this.#watches]) watch.abort(reason);
  }

  /** The attempt is over. `controller`: what it may leave to another one. */
  forget(watch: AttemptTimeouts, controller: AbortController): void {
    this.#watches.delete(watch);
    if (!controller.signal.aborted && this.#spare.length < this.#mostSpare) this.#spare.push(controller);
  }

  #scheduleTick(): void {
    this.#ticking = true;
    this.#cancelTick = this.#clock.after(TICK_MS, () => this.#tick());
  }

  #tick(): void {
    this.#ticking = false;
    if (this.#watches.size === 0) return;
    this.now = this.#clock.now();
    for (const watch of this.#watches) watch.check(this.now);
    this.#scheduleTick();
  }

  /** Ends the timer; for tests and the end of the program. */
  stop(): void {
    this.#cancelTick();
  }
}

type Phase = "first_byte" | "streaming" | "resting";

/** The clocks of one attempt. Its signal ends the fetch; `explain` says why. */
export class AttemptTimeouts {
  readonly #clocks: TimeoutTicker;
  readonly #limits: ClockLimits;
  readonly #client: Client;
  readonly #upstream: Reachable;
  readonly #controller: AbortController;
  readonly #startedAt: number;
  /** See `IdleConnections`. */
  readonly #drop: number;
  #isHeard = false;
  #phase: Phase = "first_byte";
  #phaseBeganAt: number;
  #begun = false;
  #listening = false;
  #probing = false;
  #ended = false;
  #reason: Unreachable | Abandoned | null = null;
  /** Whoever holds the answer: told when the client leaves, also where it has not begun to read. */
  onLeave: (() => void) | null = null;

  constructor(
    clocks: TimeoutTicker,
    limits: ClockLimits,
    client: Client,
    upstream: Reachable,
    controller: AbortController,
  ) {
    this.#clocks = clocks;
    this.#limits = limits;
    this.#client = client;
    this.#upstream = upstream;
    this.#controller = controller;
    this.#startedAt = clocks.now;
    this.#drop = upstream.idle.onSent(clocks.now);
    this.#phaseBeganAt = clocks.now;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The head of the answer is here: upstream can be connected to. */
  heard(): void {
    this.#isHeard = true;
    this.#upstream.heardAt = this.#clocks.now;
    this.#phaseBeganAt = this.#clocks.now;
  }

  /** The first byte (of a stream: event) is here: from now on only silence counts. */
  streams(): void {
    this.#begun = true;
    this.#phase = "streaming";
    this.#phaseBeganAt = this.#clocks.now;
  }

  /** The client is taking its time over what it was given: upstream is not silent, it is not being read. */
  rests(): void {
    if (this.#begun) this.#phase = "resting";
  }

  /** The next chunk is awaited. */
  resumes(): void {
    if (!this.#begun) return;
    this.#phase = "streaming";
    this.#phaseBeganAt = this.#clocks.now;
  }

  /** Ends the attempt for a reason of ours. */
  abort(reason: Unreachable | Abandoned): void {
    if (this.#ended) return;
    this.#reason ??= reason;
    this.#controller.abort(this.#reason);
  }

  /** The attempt is over, whichever way. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#upstream.idle.onEnded(this.#isHeard && !this.#controller.signal.aborted, this.#clocks.now);
    this.#clocks.forget(this, this.#controller);
    if (this.#listening) this.#client.signal.removeEventListener("abort", this.#leave);
  }

  /**
   * Why a fetch or a read failed. The client's leaving is known by its own signal, never by an error's text; of an
   * error only its code is used, its text may hold the whole URL.
   */
  explain(error: unknown): Unreachable | Abandoned {
    if (this.#reason !== null) return this.#reason;
    if (this.#client.signal.aborted) return { kind: "abandoned" };
    const why = explainError(error, this.#upstream);
    const { now } = this.#clocks;
    const mayBeStale =
      why.type === "upstream_unreachable" &&
      why.maybeBilled &&
      now - this.#startedAt < STALE_BREAKS_WITHIN_MS;
    const isStale = mayBeStale && !this.#isHeard && this.#upstream.idle.forgive(this.#drop, now);
    return isStale ? { ...why, isStale } : why;
  }

  readonly #leave = () => {
    this.abort({ kind: "abandoned" });
    this.onLeave?.();
  };

  check(now: number): void {
    if (!this.#listening) {
      this.#listening = true;
      this.#client.hold();
      if (this.#client.signal.aborted) this.#leave();
      else this.#client.signal.addEventListener("abort", this.#leave, { once: true });
    }
    const { connectTimeoutMs, firstByteTimeoutMs, streamIdleTimeoutMs } = this.#limits;
    const elapsedMs = now - this.#phaseBeganAt;
    switch (this.#phase) {
      case "first_byte":
        if (firstByteTimeoutMs > 0 && elapsedMs >= firstByteTimeoutMs) {
          this.abort(timeout("first_byte_timeout", "FIRST_BYTE_TIMEOUT_SEC", firstByteTimeoutMs, true));
        } else if (connectTimeoutMs > 0 && elapsedMs >= connectTimeoutMs && !this.#probing) {
          this.#probe();
        }
        break;
      case "streaming":
        if (streamIdleTimeoutMs > 0 && elapsedMs >= streamIdleTimeoutMs) {
          this.abort(timeout("stream_idle_timeout", "STREAM_IDLE_TIMEOUT_SEC", streamIdleTimeoutMs, true));
        }
        break;
      case "resting":
        break;
    }
  }

  /**
   * `fetch` does not tell a connection that is not made from an answer that is long in coming. So when nothing at
   * all was heard from the upstream since this attempt began, a bare connection is opened beside it.
   */
  #probe(): void {
    this.#probing = true;
    if (this.#upstream.heardAt >= this.#startedAt) return;
    void this.#upstream.canConnect().then((isReachable) => {
      if (isReachable || this.#upstream.heardAt >= this.#startedAt) return;
      this.abort(timeout("connect_timeout", "CONNECT_TIMEOUT_SEC", this.#limits.connectTimeoutMs, false));
    });
  }
}

const WAITED_FOR = {
  connect_timeout: "No connection to the provider could be made",
  first_byte_timeout: "The provider sent no first byte",
  stream_idle_timeout: "The provider's stream was silent",
};

function timeout(
  type: keyof typeof WAITED_FOR,
  setting: string,
  limitMs: number,
  maybeBilled: boolean,
): Unreachable {
  const message = `${WAITED_FOR[type]} for ${limitMs / 1000} s (${setting}).`;
  return { kind: "unreachable", type, message, maybeBilled };
}

/** Why an answer is cut when the proxy ends, and the time that running answers have for that is over. */
export function cutByDrain(drainMs: number): Unreachable {
  const message = `This proxy is shutting down, and the ${drainMs / 1000} s for running answers (DRAIN_SEC) are over.`;
  return { kind: "unreachable", type: "draining", message, maybeBilled: true };
}
