/**
 * What the admin API asks for, done with the running engine and the files that it is configured by. A change of keys
 * or settings is written to its file first and then read back from there, so the file stays the one truth.
 */
import { checkKeys, type Finding } from "../pool/key-health.ts";
import type { ConfiguredKey, Places } from "../config/config.ts";
import type {
  KeyTrial,
  KeyView,
  LiveEvent,
  ChangeOutcome,
  AdminOverview,
  ProviderView,
  ChangeRefused,
  ReloadOutcome,
  SettingChanges,
} from "./views.ts";
import type { Key, KeyPool } from "../pool/key.ts";
import type { Engine, Upstream } from "../routing/engine.ts";
import { reportOfProvider } from "../observability/health.ts";
import type { TrafficPoint, Usage, UsageRow } from "../observability/usage.ts";
import {
  SettingsFiles,
  keyPlaces,
  planAddKey,
  planOrder,
  planRemoveKey,
  planSettings,
  settingsOf,
} from "./settings-editor.ts";
import type { Plan, Sources } from "./settings-editor.ts";
import type { KeyEvent, Observer, RequestRecord } from "../core/events.ts";
import { foreignIssuer } from "../config/provider-settings.ts";
import type { Reloader } from "../config/reload.ts";

export interface AdminServiceOptions {
  engine: Engine;
  reloader: Reloader;
  places: Places;
  usage: Usage;
  version: string;
  /** `http://127.0.0.1:3000` */
  url: string;
}

/** Does what the admin API asks for. Nothing here throws for what the operator got wrong. */
export class AdminService implements Observer {
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

  /** Tells of everything from now on; the answer ends that. `listener` is quick and does not throw. */
  subscribe(listener: (event: LiveEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Looks where settings and keys stand now; after whatever may have changed that. */
  async look(): Promise<void> {
    const sources = await this.#files.read();
    this.#standing = new Map();
    if ("kind" in sources) return;
    for (const { config } of this.#options.engine.upstreams) {
      const { name } = config;
      this.#standing.set(name, { settings: settingsOf(sources, name), keys: keyPlaces(sources, name) });
    }
  }

  overview(): AdminOverview {
    const { engine, reloader, version, url } = this.#options;
    const { config, clock, startedAt, inFlight, bufferedBytes, draining } = engine;
    const now = clock.now();
    const [first, ...others] = engine.upstreams.map((upstream) => this.#provider(upstream, now));
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

  #provider({ config, pool }: Upstream, now: number): ProviderView {
    const standing = this.#standing.get(config.name);
    const state = pool.breaker.state(now);
    const report = reportOfProvider(config, pool, now);
    return {
      ...report,
      isDisabled: config.disabled,
      breaker: state === "trial" ? "half_open" : state,
      inFlight: report.keys.reduce((sum, key) => sum + key.inFlight, 0),
      settings: standing?.settings ?? {},
      keys: report.keys.map((key): KeyView => {
        const place = standing?.keys.get(key.id);
        return { ...key, source: place?.source ?? null, locked: place?.locked ?? null };
      }),
    };
  }

  /** The last finished requests, newest first, at most `limit`. */
  recent(limit: number): readonly RequestRecord[] {
    return this.#options.usage.recent(limit);
  }

  /** The last `days` days with the running one, newest first. */
  usage(days: number): readonly UsageRow[] {
    return this.#options.usage.usage(days, this.#options.engine.clock.wall());
  }

  /** The last 60 minutes, oldest first, those without traffic included. */
  traffic(): readonly TrafficPoint[] {
    return this.#options.usage.traffic(this.#options.engine.clock.wall());
  }

  /** Takes the key out until it is resumed. Takes effect at once, and survives a restart. */
  pause(provider: string, keyId: string): ChangeOutcome {
    return this.#withKey(provider, keyId, (pool, key, now) => {
      pool.setPaused(key, true, now);
      return `The key ${keyId} is paused until it is resumed.`;
    });
  }

  resume(provider: string, keyId: string): ChangeOutcome {
    return this.#withKey(provider, keyId, (pool, key, now) => {
      pool.setPaused(key, false, now);
      return `The key ${keyId} is in use again.`;
    });
  }

  /** Forgets the key's cooldowns, and why it is out of use. */
  reset(provider: string, keyId: string): ChangeOutcome {
    return this.#withKey(provider, keyId, (pool, key, now) => {
      pool.revive(key, now);
      return `What the key ${keyId} rested for, or was out of use for, is forgotten.`;
    });
  }

  #withKey(
    provider: string,
    keyId: string,
    action: (pool: KeyPool, key: Key, now: number) => string,
  ): ChangeOutcome {
    const { upstreams, clock } = this.#options.engine;
    const pool = upstreams.find(({ config }) => config.name === provider)?.pool;
    const key = pool?.keys.find(({ secret }) => secret.id === keyId);
    if (pool === undefined || key === undefined) return noKey(provider, keyId);
    return { kind: "done", message: action(pool, key, clock.now()) };
  }

  /** Asks the provider whether a key works that is not in use yet. */
  async validate(provider: string, key: ConfiguredKey): Promise<KeyTrial | ChangeRefused> {
    const config = this.#options.engine.upstreams.find(({ config }) => config.name === provider)?.config;
    if (config === undefined) return { kind: "unclear", said: "there is no such provider yet" };
    const issuer = foreignIssuer(key, config.baseUrl);
    if (issuer !== null) return ofOtherCompany(issuer, config.baseUrl); // not even to be tried there
    const { fetch, clock } = this.#options.engine;
    const [checked] = await checkKeys([{ ...config, keys: [key] }], { fetch, clock, onProgress() {} });
    return checked === undefined ? { kind: "unclear", said: "" } : trialOf(checked);
  }

  /** Asks the provider whether a key of the pool works. */
  async check(provider: string, keyId: string): Promise<KeyTrial | ChangeRefused> {
    const config = this.#options.engine.upstreams.find(({ config }) => config.name === provider)?.config;
    const key = config?.keys.find(({ secret }) => secret.id === keyId);
    return key === undefined ? noKey(provider, keyId) : this.validate(provider, key);
  }

  /** Writes the key into the file where the provider's keys are, and uses it. */
  addKey(provider: string, key: ConfiguredKey): Promise<ChangeOutcome> {
    return this.#change((sources) => planAddKey(sources, provider, key));
  }

  removeKey(provider: string, keyId: string): Promise<ChangeOutcome> {
    return this.#change((sources) => planRemoveKey(sources, provider, keyId));
  }

  /** `keyIds`: every key of the provider, in the order in which they shall stand. */
  reorderKeys(provider: string, keyIds: readonly string[]): Promise<ChangeOutcome> {
    return this.#change((sources) => planOrder(sources, provider, keyIds));
  }

  editProvider(provider: string, changes: SettingChanges): Promise<ChangeOutcome> {
    return this.#change((sources) => planSettings(sources, provider, changes));
  }

  async #change(plan: (sources: Sources) => Plan): Promise<ChangeOutcome> {
    const outcome = await this.#files.change(plan);
    if (outcome.kind === "refused") return outcome;
    const reloaded = await this.reload();
    if (reloaded.kind === "done") return outcome;
    const problems = reloaded.problems.join("\n");
    const message = `${outcome.message} But it is not in use, because of this:\n${problems}`;
    return { kind: "refused", why: "conflict", message };
  }

  /** Reads the configuration anew. */
  async reload(): Promise<ReloadOutcome> {
    const reloaded = await this.#options.reloader.reload();
    await this.look();
    if (!reloaded.ok) return { kind: "refused", problems: reloaded.problems };
    const restart = reloaded.needRestart.map((setting) => `${setting} changed: restart keywheel for that`);
    return { kind: "done", changes: [...reloaded.changes, ...restart] };
  }
}

function ofOtherCompany(issuer: string, baseUrl: URL): ChangeRefused {
  const message = `The key begins like one of ${issuer}, and ${baseUrl.host} is not theirs. It was neither sent there nor saved: add it to ${issuer}.`;
  return { kind: "refused", why: "invalid_value", message };
}

function trialOf({ result, detail }: Finding): KeyTrial {
  switch (result) {
    case "alive":
    case "limited":
      return { kind: "works" };
    case "dead":
      return { kind: "denied", said: detail };
    case "unreachable":
    case "unknown":
      return { kind: "unclear", said: detail };
  }
}

function noKey(provider: string, keyId: string): ChangeRefused {
  const message = `${provider.slice(0, 60)} has no key ${keyId.slice(0, 60)}.`;
  return { kind: "refused", why: "not_found", message };
}
