/**
 * How the process is told to end, and to read its settings again.
 */
import { EXIT_FINE } from "./cli.ts";
import { formatDuration } from "./clock.ts";
import type { Clock } from "./clock.ts";
import type { Log } from "./log.ts";

/** What a signal acts on. */
export interface Service {
  readonly clock: Clock;
  readonly log: Log;
  /** Requests under way, and how long they may take to finish, for the log. */
  readonly inFlight: number;
  readonly drainMs: number;
  /** Takes no new requests, and resolves when those under way have ended and all is written. */
  drain(): Promise<void>;
  /** Reads the settings again; null: they are not in a file. */
  readonly reload: (() => void) | null;
}

/** Two SIGINTs within this time are one Ctrl-C. */
const SAME_CTRL_C_MS = 100;

/**
 * Resolves with the exit code after SIGTERM or SIGINT, once the service has drained; a second signal ends at once.
 * SIGHUP reads the settings again.
 */
export function untilSignalled(service: Service): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  let drainingSince = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    const { clock, log, inFlight, drainMs } = service;
    // Ctrl-C under `bun run` comes twice: from the terminal, and passed on by the parent a moment later.
    if (signal === "SIGINT" && clock.now() < drainingSince + SAME_CTRL_C_MS) return;
    if (drainingSince > 0) process.exit(EXIT_FINE);
    drainingSince = clock.now();
    log.line("info", "draining", { in_flight: inFlight, at_most: formatDuration(drainMs) });
    log.flush();
    void service.drain().then(() => resolve(EXIT_FINE));
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  process.on("SIGHUP", () => service.reload?.());
  return promise;
}
