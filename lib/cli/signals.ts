/**
 * The signals that end the proxy, and the one that has it read its settings again (P31, P32).
 */
import { EXIT_FINE } from "./args.ts";
import { formatDuration } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import type { Log } from "../core/events.ts";

/** What runs until a signal comes. */
export interface Run {
  readonly proxy: {
    readonly engine: {
      readonly clock: Clock;
      readonly log: Log;
      /** As they are now: a reload may put others here. */
      readonly config: { readonly drainMs: number };
      readonly inFlight: number;
    };
    /** Takes no new requests, and ends when those in flight are over, or their time is. */
    drain(): Promise<void>;
  };
  /** What its work is written to: closed last, so that the last request is in it. */
  readonly books: { close(): Promise<void> };
  /** null: there are no settings to be read again. */
  readonly reloader: { reload(): Promise<unknown>; close(): void } | null;
}

/** Two SIGINTs within this time are one Ctrl-C. */
const SAME_CTRL_C_MS = 100;

/**
 * Serves until SIGTERM or SIGINT, then drains, and resolves with the exit code; a second signal ends the process at
 * once. SIGHUP reads the settings again.
 */
export function untilSignalled({ proxy, books, reloader }: Run): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  let drainingSince = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    const { inFlight, config, log, clock } = proxy.engine;
    // Ctrl-C under `bun run` comes twice: from the terminal, and passed on by the parent a moment later.
    if (signal === "SIGINT" && clock.now() < drainingSince + SAME_CTRL_C_MS) return;
    if (drainingSince > 0) process.exit(EXIT_FINE);
    drainingSince = clock.now();
    reloader?.close();
    log.line("info", "draining", { in_flight: inFlight, at_most: formatDuration(config.drainMs) });
    log.flush();
    void proxy
      .drain()
      .then(() => books.close())
      .then(() => resolve(EXIT_FINE));
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  process.on("SIGHUP", () => void reloader?.reload());
  return promise;
}
