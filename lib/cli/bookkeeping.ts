/**
 * What the work of the proxy is written to: log, log files, state file, webhook. Each is opened only where a setting
 * asks for it, and its room is loaded only then.
 */
import { nextTurn } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import type { Config } from "../config/config.ts";
import { Usage } from "../observability/usage.ts";
import { createLog, logLine } from "../observability/log.ts";
import type { LogFiles } from "../observability/log-files.ts";
import { createBoundedWriter, sendToStdout } from "../observability/output.ts";
import { writesToTerminal } from "./process.ts";
import type { Log, Observer } from "../core/events.ts";
import type { Secret } from "../core/secret.ts";
import type { Store } from "../observability/store.ts";

/** Everything that is told of the work. */
export interface Books {
  readonly log: Log;
  /** null: nobody asks for it. */
  readonly ledger: Usage | null;
  /** null: nothing outlives the program. */
  readonly store: Store | null;
  readonly observers: readonly Observer[];
  /** Writes what is still to be written; takes a second at most. */
  close(): Promise<void>;
}

/** How long the last lines may take to be written. */
const LAST_WORDS_MS = 1000;

/** What everything that runs goes by. `random`: from 0 up to 1. */
interface Shell {
  readonly clock: Clock;
  readonly random: () => number;
}

/** Opens what the settings ask for. */
export async function openBooks(config: Config, shell: Shell): Promise<Books> {
  const { clock } = shell;
  const isTerminal = await writesToTerminal();
  const format = config.logFormat ?? (isTerminal ? "text" : "json");
  const sayDropped = (lines: number) =>
    logLine(format, clock.wall(), "warn", "log_lines_dropped", { lines, hint: "nobody reads fast enough" });
  const output = createBoundedWriter(sendToStdout(isTerminal), sayDropped);
  const log = createLog({ level: config.logLevel, format, clock, write: (text) => output.write(text) });
  const { statePath, logDir, webhookUrl, adminPassword } = config;
  const ledger = statePath === null && adminPassword === null ? null : new Usage();
  const files = logDir === null ? null : await openLogFiles(logDir, config, log, shell);
  const notifier = webhookUrl === null ? null : await openNotifier(webhookUrl, log, shell);
  const store = statePath === null || ledger === null ? null : await openState(statePath, ledger, log, shell);
  return {
    log,
    ledger,
    store,
    observers: [ledger, store, files, notifier].filter((observer) => observer !== null),
    async close() {
      store?.close();
      log.flush();
      await Promise.race([Promise.all([output.flushed(), files?.close()]), nextTurn(LAST_WORDS_MS)]);
    },
  };
}

async function openState(path: string, ledger: Usage, log: Log, { clock }: Shell): Promise<Store | null> {
  const { openStore } = await import("../observability/store.ts");
  return openStore({ path, clock, log, ledger });
}

async function openLogFiles(
  directory: string,
  { logRetentionDays }: Config,
  log: Log,
  { clock }: Shell,
): Promise<LogFiles> {
  const { LogFiles } = await import("../observability/log-files.ts");
  return new LogFiles({ directory, retentionDays: logRetentionDays, clock, log });
}

async function openNotifier(url: Secret, log: Log, { clock, random }: Shell): Promise<Observer> {
  const { Webhook } = await import("../observability/webhook.ts");
  return new Webhook({ url, clock, random, fetch, log });
}
