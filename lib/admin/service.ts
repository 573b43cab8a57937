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
import { sharingReportOf } from "../routing/own-paths.ts";
import type { Engine, Upstream } from "../routing/engine.ts";
import { reportOfProvider } from "../observability/health.ts";
import { KEPT_REQUESTS } from "../observability/usage.ts";
import type { Traffic, TrafficRange, Usage, UsageRow } from "../observability/usage.ts";
import {
  SettingsFiles,
  keyPlaces,
  planAddKeys,
  planAddProvider,
  planOrder,
  planRemoveKey,
  planRemoveProvider,
  planSettings,
  settingsOf,
} from "./settings-editor.ts";
import type { NewProvider, Plan, Sources } from "./settings-editor.ts";
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
    const { config, clock, startedAt, inFlight, bufferedBytes, draining, underWay } = engine;
    const now = clock.now();
    const [first, ...others] = engine.upstreams.map((upstream) => this.#provider(upstream, now));
    if (first === undefined) throw new Error("there is always a provider");
    return {
      version,
      uptimeMs: now - startedAt,
      isDraining: draining,
      inFlight,
      underWay: [...takeFirst(underWay, MOST_UNDER_WAY)].map((request) => request.progressAt(now)),
      hidden429: this.#hidden429(clock.wall()),
      maxWaitMs: config.maxWaitMs,
      bufferedBytes,
      sharing: sharingReportOf(engine),
      listen: url,
      access: config.access.mode,
      envFile: reloader.envFile,
      warnings: reloader.warnings,
      problems: reloader.problems,
      clients: engine.clientLimiter.report(),
      providers: [first, ...others],
    };
  }

  #provider({ config, pool }: Upstream, now: number): ProviderView {
    const standing = this.#standing.get(config.name);
    const state = pool.breaker.state(now);
    const report = reportOfProvider(config, pool, now);
    const secrets = new Map(pool.keys.map(({ secret }) => [secret.id, secret]));
    const { clock } = this.#options.engine;
    return {
      ...report,
      isDisabled: config.disabled,
      pauseReason:
        report.pausedMs === 0 ? null : pool.isRefusedByAll(now) ? "common_cause" : "upstream_faults",
      pauseSaid: report.pausedMs > 0 ? pool.pauseSaid : "",
      breaker: state === "trial" ? "half_open" : state,
      inFlight: report.keys.reduce((sum, key) => sum + key.inFlight, 0),
      settings: standing?.settings ?? {},
      keys: report.keys.map((key): KeyView => {
        const place = standing?.keys.get(key.id);
        return {
          ...key,
          lastFour: secrets.get(key.id)?.lastFour ?? null,
          beats: this.#options.usage.heartbeats(key.id, clock.wall()),
          source: place?.source ?? null,
          locked: place?.locked ?? null,
        };
      }),
    };
  }

  #hidden429(wall: number): AdminOverview["hidden429"] {
    const sumOf = (range: TrafficRange) =>
      this.#options.usage.traffic(range, wall).points.reduce((sum, { hidden429 }) => sum + hidden429, 0);
    return { "1h": sumOf("1h"), "24h": sumOf("24h"), "7d": sumOf("7d"), "30d": sumOf("30d") };
  }

  /** The last finished requests, newest first, at most `limit` of those that `isWanted`. */
  recent(limit: number, isWanted: (record: RequestRecord) => boolean): readonly RequestRecord[] {
    return this.#options.usage.recent(KEPT_REQUESTS).filter(isWanted).slice(0, limit);
  }

  /** The last `days` days with the running one, newest first. */
  usage(days: number): readonly UsageRow[] {
    return this.#options.usage.usage(days, this.#options.engine.clock.wall());
  }

  traffic(range: TrafficRange): Traffic {
    return this.#options.usage.traffic(range, this.#options.engine.clock.wall());
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

  /** Asks the provider whether keys work that are not in use yet; the answers are in their order. */
  async validate(provider: string, keys: readonly ConfiguredKey[]): Promise<(KeyTrial | ChangeRefused)[]> {
    const config = this.#options.engine.upstreams.find(({ config }) => config.name === provider)?.config;
    if (config === undefined)
      return keys.map(() => ({ kind: "unclear", said: "there is no such provider yet" }));
    const issuers = keys.map((key) => foreignIssuer(key, config.baseUrl));
    const own = keys.filter((_, index) => issuers[index] === null); // the others are not even to be tried there
    const { access, clock } = this.#options.engine;
    const checked = await checkKeys([{ ...config, keys: own }], {
      fetch: access.fetch,
      clock,
      onProgress() {},
    });
    const trials = checked.map(trialOf);
    return issuers.map((issuer) =>
      issuer === null
        ? (trials.shift() ?? { kind: "unclear", said: "" })
        : ofOtherCompany(issuer, config.baseUrl),
    );
  }

  /** Asks the provider whether a key of the pool works. */
  async check(provider: string, keyId: string): Promise<KeyTrial | ChangeRefused> {
    const config = this.#options.engine.upstreams.find(({ config }) => config.name === provider)?.config;
    const key = config?.keys.find(({ secret }) => secret.id === keyId);
    if (key === undefined) return noKey(provider, keyId);
    const [trial] = await this.validate(provider, [key]);
    return trial ?? { kind: "unclear", said: "" };
  }

  /** Writes the keys into the file where the provider's keys are, and uses them. */
  addKeys(provider: string, keys: readonly ConfiguredKey[]): Promise<ChangeOutcome> {
    return this.#change((sources) => planAddKeys(sources, provider, keys));
  }

  addProvider(provider: NewProvider): Promise<ChangeOutcome> {
    return this.#change((sources) => planAddProvider(sources, provider));
  }

  removeProvider(provider: string): Promise<ChangeOutcome> {
    return this.#change((sources) => planRemoveProvider(sources, provider));
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

/** Requests under way that are shown: more than a person looks at. */
const MOST_UNDER_WAY = 100;

function* takeFirst<Item>(items: Iterable<Item>, most: number): Generator<Item> {
  let count = 0;
  for (const item of items) {
    if (count++ >= most) return;
    yield item;
  }
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
