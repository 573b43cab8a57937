/**
 * The operator's desk: what the door under `/admin` asks for, done with the running engine and the files that it is
 * configured by. A change of keys or settings is written to its file first and then read back from there, so the
 * file stays the one truth.
 */
import { type Admin, createAdmin } from "./api.ts";
import { type CheckedKey, checkKeys } from "../pool/key-health.ts";
import type { Clock } from "../core/clock.ts";
import type { Config, ConfiguredKey, Places, ProviderConfig } from "../config/config.ts";
import type {
  KeyTrial,
  KeyView,
  LiveEvent,
  Operator,
  Outcome,
  Overview,
  ProviderView,
  Refused,
  Reloaded,
  SettingChanges,
  TrafficPoint,
  UsageRow,
} from "./views.ts";
import type { Key, KeyReport } from "../pool/key.ts";
import { Usage } from "../observability/usage.ts";
import {
  keyPlaces,
  planAddKey,
  planOrder,
  planRemoveKey,
  planSettings,
  settingsOf,
} from "./settings-editor.ts";
import type { Plan, Sources } from "./settings-editor.ts";
import type { KeyEvent, Log, Observer, RequestRecord } from "../core/events.ts";
import type { Reloader } from "../config/reload.ts";
import { SettingsFiles } from "./settings-files.ts";

/** The engine, as the desk needs it. */
export interface Works {
  readonly config: Config;
  readonly upstreams: readonly { readonly config: ProviderConfig; readonly pool: WorksPool }[];
  readonly clock: Clock;
  readonly startedAt: number;
  readonly inFlight: number;
  readonly bufferedBytes: number;
  readonly draining: boolean;
  readonly fetch: (url: string, init: BunFetchRequestInit) => Promise<Response>;
}

interface WorksPool {
  readonly keys: readonly Key[];
  readonly waiting: number;
  /** Epoch ms; in the past where the provider is not left alone. */
  readonly pausedUntil: number;
  readonly breaker: { state(now: number): "closed" | "open" | "half_open" | "probing" };
  report(now: number): KeyReport[];
  setPaused(key: Key, isPaused: boolean, now: number): void;
  revive(key: Key, now: number): void;
}

export interface AdminServiceOptions {
  works: Works;
  reloader: Reloader;
  places: Places;
  ledger: Usage;
  version: string;
  /** `http://127.0.0.1:3000` */
  url: string;
}

/** Opens the desk: reads once where settings stand. */
export async function openAdminService(options: AdminServiceOptions): Promise<AdminService> {
  const desk = new AdminService(options);
  await desk.look();
  return desk;
}

/** The engine, as desk and door need it together: they are told of its work, and end with it. */
export interface WatchedWorks extends Works {
  readonly log: Log;
  observe(observer: Observer): void;
  onDrain: () => void;
}

export interface OpenAdminOptions extends Omit<AdminServiceOptions, "works" | "ledger"> {
  works: WatchedWorks;
  /** null: nobody had asked for one before. */
  ledger: Usage | null;
  /** Text from at least 32 random bytes, of characters that may stand in a cookie. */
  newToken(): string;
}

/** Opens the operator's door, with the desk behind it: when somebody first knocks. */
export async function openAdmin(options: OpenAdminOptions): Promise<Admin> {
  const { works, newToken, ...others } = options;
  const { clock, log } = works;
  const ledger = options.ledger ?? new Usage();
  if (options.ledger === null) works.observe(ledger);
  const desk = await openAdminService({ ...others, works, ledger });
  works.observe(desk);
  const admin = createAdmin({
    operator: desk,
    clock,
    log,
    password: () => works.config.adminPassword,
    newToken,
    config: () => works.config,
  });
  works.onDrain = () => admin.close();
  return admin;
}

export class AdminService implements Operator, Observer {
  readonly #options: AdminServiceOptions;
  readonly #files: SettingsFiles;
  readonly #listeners = new Set<(event: LiveEvent) => void>();
  /** By provider: where its keys and settings stand, as of the last look. No text of a file is kept. */
  #standing = new Map<string, Pick<ProviderView, "settings"> & { keys: ReturnType<typeof keyPlaces> }>();

  constructor(options: AdminServiceOptions) {
    const { places, reloader } = options;
    this.#options = options;
    this.#files = new SettingsFiles({
      environment: places.environment,
      workingDirectory: places.workingDirectory,
      envFile: () => reloader.envFile,
      newEnvFile: places.envFile ?? `${places.workingDirectory.replace(/\/+$/, "")}/.env`,
    });
  }

  finished(record: RequestRecord): void {
    for (const listener of this.#listeners) listener({ kind: "request", record });
  }

  keyChanged(event: KeyEvent): void {
    for (const listener of this.#listeners) listener({ kind: "key", event });
  }

  subscribe(listener: (event: LiveEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Looks where settings and keys stand now; after whatever may have changed that. */
  async look(): Promise<void> {
    const sources = await this.#files.read();
    this.#standing = new Map();
    if ("kind" in sources) return;
    for (const { config } of this.#options.works.upstreams) {
      const { name } = config;
      this.#standing.set(name, { settings: settingsOf(sources, name), keys: keyPlaces(sources, name) });
    }
  }

  overview(): Overview {
    const { works, reloader, version, url } = this.#options;
    const { config, clock, startedAt, inFlight, bufferedBytes, draining } = works;
    const now = clock.now();
    const [first, ...others] = works.upstreams.map((upstream) => this.#provider(upstream, now));
    if (first === undefined) throw new Error("there is always a provider");
    return {
      version,
      uptimeMs: now - startedAt,
      isDraining: draining,
      inFlight,
      bufferedBytes,
      listen: url,
      access: config.access.mode,
      envFile: reloader.envFile,
      warnings: reloader.warnings,
      problems: reloader.problems,
      providers: [first, ...others],
    };
  }

  #provider({ config, pool }: Works["upstreams"][number], now: number): ProviderView {
    const standing = this.#standing.get(config.name);
    const state = pool.breaker.state(now);
    const reports = pool.report(now);
    return {
      name: config.name,
      dialect: config.dialect,
      baseUrl: config.baseUrl.href.replace(/\/$/, ""),
      isDisabled: config.disabled,
      pausedMs: Math.max(0, pool.pausedUntil - now),
      breaker: state === "probing" ? "half_open" : state,
      waiting: pool.waiting,
      inFlight: reports.reduce((sum, report) => sum + report.inFlight, 0),
      settings: standing?.settings ?? {},
      keys: reports.map((report): KeyView => {
        const place = standing?.keys.get(report.id);
        return { ...report, source: place?.source ?? null, locked: place?.locked ?? null };
      }),
    };
  }

  recent(limit: number): readonly RequestRecord[] {
    return this.#options.ledger.recent(limit);
  }

  usage(days: number): readonly UsageRow[] {
    return this.#options.ledger.usage(days, this.#options.works.clock.wall());
  }

  traffic(): readonly TrafficPoint[] {
    return this.#options.ledger.traffic(this.#options.works.clock.wall());
  }

  pause(provider: string, keyId: string): Outcome {
    return this.#withKey(provider, keyId, (pool, key, now) => {
      pool.setPaused(key, true, now);
      return `The key ${keyId} is paused until it is resumed.`;
    });
  }

  resume(provider: string, keyId: string): Outcome {
    return this.#withKey(provider, keyId, (pool, key, now) => {
      pool.setPaused(key, false, now);
      return `The key ${keyId} is in use again.`;
    });
  }

  reset(provider: string, keyId: string): Outcome {
    return this.#withKey(provider, keyId, (pool, key, now) => {
      pool.revive(key, now);
      return `What the key ${keyId} rested for, or was out of use for, is forgotten.`;
    });
  }

  #withKey(
    provider: string,
    keyId: string,
    action: (pool: WorksPool, key: Key, now: number) => string,
  ): Outcome {
    const { upstreams, clock } = this.#options.works;
    const pool = upstreams.find(({ config }) => config.name === provider)?.pool;
    const key = pool?.keys.find(({ secret }) => secret.id === keyId);
    if (pool === undefined || key === undefined) return noKey(provider, keyId);
    return { kind: "done", message: action(pool, key, clock.now()) };
  }

  async validate(provider: string, key: ConfiguredKey): Promise<KeyTrial> {
    const config = this.#options.works.upstreams.find(({ config }) => config.name === provider)?.config;
    if (config === undefined) return { kind: "unclear", said: "there is no such provider yet" };
    const { fetch, clock } = this.#options.works;
    const [checked] = await checkKeys([{ ...config, keys: [key] }], { fetch, clock, onProgress() {} });
    return checked === undefined ? { kind: "unclear", said: "" } : trialOf(checked);
  }

  async check(provider: string, keyId: string): Promise<KeyTrial | Refused> {
    const config = this.#options.works.upstreams.find(({ config }) => config.name === provider)?.config;
    const key = config?.keys.find(({ secret }) => secret.id === keyId);
    return key === undefined ? noKey(provider, keyId) : this.validate(provider, key);
  }

  addKey(provider: string, key: ConfiguredKey): Promise<Outcome> {
    return this.#change((sources) => planAddKey(sources, provider, key));
  }

  removeKey(provider: string, keyId: string): Promise<Outcome> {
    return this.#change((sources) => planRemoveKey(sources, provider, keyId));
  }

  reorderKeys(provider: string, keyIds: readonly string[]): Promise<Outcome> {
    return this.#change((sources) => planOrder(sources, provider, keyIds));
  }

  editProvider(provider: string, changes: SettingChanges): Promise<Outcome> {
    return this.#change((sources) => planSettings(sources, provider, changes));
  }

  async #change(plan: (sources: Sources) => Plan): Promise<Outcome> {
    const outcome = await this.#files.change(plan);
    if (outcome.kind === "refused") return outcome;
    const reloaded = await this.reload();
    if (reloaded.kind === "done") return outcome;
    const problems = reloaded.problems.join("\n");
    const message = `${outcome.message} But it is not in use, because of this:\n${problems}`;
    return { kind: "refused", why: "conflict", message };
  }

  async reload(): Promise<Reloaded> {
    const reloaded = await this.#options.reloader.reload();
    await this.look();
    if (!reloaded.ok) return { kind: "refused", problems: reloaded.problems };
    const restart = reloaded.needRestart.map((setting) => `${setting} changed: restart keywheel for that`);
    return { kind: "done", changes: [...reloaded.changes, ...restart] };
  }
}

function trialOf({ standing, detail }: Pick<CheckedKey, "standing" | "detail">): KeyTrial {
  switch (standing) {
    case "works":
    case "limited":
      return { kind: "works" };
    case "dead":
      return { kind: "denied", said: detail };
    case "doubtful":
    case "unreachable":
    case "unknown":
      return { kind: "unclear", said: detail };
  }
}

function noKey(provider: string, keyId: string): Refused {
  const message = `${provider.slice(0, 60)} has no key ${keyId.slice(0, 60)}.`;
  return { kind: "refused", why: "not_found", message };
}
