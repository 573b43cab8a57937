/**
 * Settings that change while the proxy runs: read again when their files change or somebody asks, taken over when
 * they are in order, and refused with their problems when they are not (P32).
 */
import { changesOf } from "./changes.ts";
import type { Clock } from "../core/clock.ts";
import { loadConfig } from "./config.ts";
import type { Config, LoadedConfig, Places } from "./config.ts";
import { FileWatch } from "./file-watch.ts";
import type { Log } from "../core/events.ts";

/** An editor may write a file in several steps: it is read when it has been quiet for so long. */
const QUIET_MS = 200;

export type Reloaded =
  | { ok: true; changes: string[]; needRestart: string[]; warnings: string[] }
  | { ok: false; problems: string[] };

export interface ReloaderOptions {
  places: Places;
  /** What the program started with. */
  loaded: LoadedConfig & { ok: true };
  clock: Clock;
  log: Log;
  /** Goes by the configuration from now on. */
  apply(config: Config): void;
}

export class Reloader {
  readonly #options: ReloaderOptions;
  readonly #watch: FileWatch;
  #config: Config;
  #envFile: string | null;
  #warnings: string[];
  /** Why the files as they are now are not in use; empty: they are. */
  #problems: string[] = [];
  #running: Promise<Reloaded> = Promise.resolve({ ok: true, changes: [], needRestart: [], warnings: [] });

  constructor(options: ReloaderOptions) {
    const { loaded, clock } = options;
    this.#options = options;
    this.#config = loaded.config;
    this.#envFile = loaded.envFile;
    this.#warnings = loaded.warnings;
    this.#watch = new FileWatch(clock, () => clock.after(QUIET_MS, () => void this.reload()));
    void this.#watch.watch(loaded.watched);
  }

  get envFile(): string | null {
    return this.#envFile;
  }

  get warnings(): readonly string[] {
    return this.#warnings;
  }

  get problems(): readonly string[] {
    return this.#problems;
  }

  /** Reads the files again. One at a time: the last one asked for sees the files as they are after all others. */
  reload(): Promise<Reloaded> {
    this.#running = this.#running.then(() => this.#reload());
    return this.#running;
  }

  async #reload(): Promise<Reloaded> {
    const { places, log, apply } = this.#options;
    const loaded = await loadConfig(places);
    await this.#watch.watch(loaded.watched);
    if (!loaded.ok) {
      this.#problems = loaded.problems;
      for (const problem of loaded.problems) log.line("error", "reload_refused", { problem });
      return { ok: false, problems: loaded.problems };
    }
    const { lines, needRestart } = changesOf(this.#config, loaded.config);
    const isNews = (warning: string) => !this.#warnings.includes(warning);
    for (const warning of loaded.warnings.filter(isNews)) log.line("warn", "reload_warning", { warning });
    this.#problems = [];
    this.#warnings = loaded.warnings;
    this.#envFile = loaded.envFile;
    apply(loaded.config);
    this.#config = loaded.config;
    if (lines.length > 0) log.line("info", "reloaded", { changes: lines.join("; ") });
    for (const setting of needRestart) log.line("warn", "restart_needed", { setting });
    return { ok: true, changes: lines, needRestart, warnings: loaded.warnings };
  }

  close(): void {
    this.#watch.close();
  }
}
