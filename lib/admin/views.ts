/**
 * What the operator sees and may do: the shape that `/admin` needs the engine to have, and how what it tells is
 * written in JSON. Pure.
 *
 * A key's text goes in here and never comes out: everything that is shown names a key by its id.
 */
import { retryAfterSec } from "../core/clock.ts";
import type { ConfiguredKey } from "../config/keys.ts";
import type { KeyEvent, RequestRecord } from "../core/events.ts";
import type { KeyReport } from "../pool/key.ts";

/** The engine, as the operator's door needs it. Nothing here throws for what the operator got wrong. */
export interface Operator {
  overview(): Overview;
  /** The last finished requests, newest first, at most `limit`. */
  recent(limit: number): readonly RequestRecord[];
  /** The last `days` days with the running one, newest first. */
  usage(days: number): readonly UsageRow[];
  /** The last 60 minutes, oldest first, those without traffic included. */
  traffic(): readonly TrafficPoint[];
  /** Takes the key out until it is resumed. Takes effect at once, and survives a restart. */
  pause(provider: string, keyId: string): Outcome;
  resume(provider: string, keyId: string): Outcome;
  /** Forgets the key's cooldowns, and why it is out of use. */
  reset(provider: string, keyId: string): Outcome;
  /** Asks the provider whether a key works that is not in use yet. */
  validate(provider: string, key: ConfiguredKey): Promise<KeyTrial>;
  /** Asks the provider whether a key of the pool works. */
  check(provider: string, keyId: string): Promise<KeyTrial | Refused>;
  /** Writes the key into the file where the provider's keys are, and uses it. */
  addKey(provider: string, key: ConfiguredKey): Promise<Outcome>;
  removeKey(provider: string, keyId: string): Promise<Outcome>;
  /** `keyIds`: every key of the provider, in the order in which they shall stand. */
  reorderKeys(provider: string, keyIds: readonly string[]): Promise<Outcome>;
  editProvider(provider: string, changes: SettingChanges): Promise<Outcome>;
  /** Reads the configuration anew. */
  reload(): Promise<Reloaded>;
  /** Tells of everything from now on; the answer ends that. `listener` is quick and does not throw. */
  subscribe(listener: (event: LiveEvent) => void): () => void;
}

/** What became of a change. `message`: what was done, or why not and what to do; for people, without a key. */
export type Outcome = { kind: "done"; message: string } | Refused;

export interface Refused {
  kind: "refused";
  why: Why;
  message: string;
}

/** `not_writable`: the setting is not in a file that can be changed from here. */
export type Why = "not_found" | "conflict" | "invalid_value" | "not_writable";

export type Reloaded =
  { kind: "done"; changes: readonly string[] } | { kind: "refused"; problems: readonly string[] };

/** What a provider says of a key. `unclear`: it could not be asked, or its answer tells nothing about the key. */
export type KeyTrial = { kind: "works" } | { kind: "unclear" | "denied"; said: string };

export type LiveEvent = { kind: "request"; record: RequestRecord } | { kind: "key"; event: KeyEvent };

/** Upstream requests of one day (UTC) with one key for one model. */
export interface UsageRow {
  /** `2026-11-20` */
  day: string;
  provider: string;
  keyId: string;
  model: string | null;
  requests: number;
  rateLimited: number;
  errors: number;
}

export interface TrafficPoint {
  /** Epoch ms at which the minute begins. */
  at: number;
  /** Finished requests of clients. */
  requests: number;
  /** Refusals and faults of upstream that no client saw. */
  absorbed: number;
  /** Requests of clients that ended with a status of 500 or more, or cut short. */
  errors: number;
}

/** What of a provider can be changed from here: not its address, or whoever takes the page takes the keys. */
export const EDITABLE = [
  "rpm",
  "daily_limit",
  "strategy",
  "cooldown_sec",
  "timezone",
  "retry_status",
  "disabled",
] as const;

export type Editable = (typeof EDITABLE)[number];

/** New values as they would stand in the env file; null: not set any more. */
export type SettingChanges = ReadonlyMap<Editable, string | null>;

/** A setting as it is in force for one provider. */
export interface SettingView {
  /** null: not set, and there is no default. */
  value: string | null;
  /** `shared`: by the setting without a prefix, which holds for all. */
  origin: "own" | "shared" | "default";
  /** Why it cannot be changed from here; null: it can. */
  locked: string | null;
}

export interface KeyView extends KeyReport {
  /** The setting in which it stands: `GROQ_API_KEYS_FILE`; null: not known. */
  source: string | null;
  /** Why it cannot be moved or removed from here; null: it can. */
  locked: string | null;
}

export interface ProviderView {
  name: string;
  dialect: string;
  baseUrl: string;
  isDisabled: boolean;
  /** 0: it is not left alone. */
  pausedMs: number;
  breaker: "closed" | "open" | "half_open";
  /** Requests that wait for a key. */
  waiting: number;
  inFlight: number;
  settings: Readonly<Partial<Record<Editable, SettingView>>>;
  keys: readonly KeyView[];
}

/** Everything the page shows at once. */
export interface Overview {
  version: string;
  uptimeMs: number;
  isDraining: boolean;
  /** Requests of clients. */
  inFlight: number;
  bufferedBytes: number;
  /** `http://0.0.0.0:3000` or `unix:/path` */
  listen: string;
  access: "protected" | "keys" | "open";
  /** null: there is none. */
  envFile: string | null;
  /** Of the last load. */
  warnings: readonly string[];
  /** Why the files as they are now are not in use; empty: they are. */
  problems: readonly string[];
  /** The default one first. */
  providers: readonly [ProviderView, ...ProviderView[]];
}

/** The overview in JSON. Its names are those of `/health`. */
export function shownOverview(overview: Overview, now: number): object {
  const { keys } = overview.providers[0];
  const isReady = (key: KeyView) => key.state === "ready";
  const isAlive = (key: KeyView) => key.state === "ready" || key.state === "cooling";
  return {
    version: overview.version,
    now: instant(now),
    uptime_sec: Math.floor(overview.uptimeMs / 1000),
    status: keys.every(isReady) && keys.length > 0 ? "ok" : keys.some(isAlive) ? "degraded" : "down",
    draining: overview.isDraining,
    in_flight: overview.inFlight,
    buffered_bytes: overview.bufferedBytes,
    listen: overview.listen,
    access: overview.access,
    env_file: overview.envFile,
    warnings: overview.warnings,
    problems: overview.problems,
    providers: overview.providers.map(shownProvider),
  };
}

function shownProvider(provider: ProviderView): object {
  return {
    name: provider.name,
    dialect: provider.dialect,
    base_url: provider.baseUrl,
    state: provider.isDisabled ? "disabled" : provider.pausedMs > 0 ? "paused" : "up",
    paused_sec: seconds(provider.pausedMs),
    waiting: provider.waiting,
    in_flight: provider.inFlight,
    breaker: provider.breaker,
    settings: provider.settings,
    keys: provider.keys.map(shownKey),
  };
}

function shownKey(key: KeyView): object {
  const models = Object.entries(key.models).map(([model, { coolingMs, reason }]) => [
    model,
    { cooldown_sec: seconds(coolingMs), reason },
  ]);
  return {
    index: key.index,
    id: key.id,
    account: key.account,
    state: key.state,
    reason: key.reason,
    said: key.said === "" ? null : key.said,
    cooldown_sec: seconds(key.coolingMs),
    models: Object.fromEntries(models),
    requests: key.requests,
    rate_limited: key.rateLimited,
    errors: key.errors,
    today: key.today,
    daily_limit: key.dailyLimit,
    rpm_limit: key.rpmLimit,
    in_flight: key.inFlight,
    last_used: key.lastUsedAt === 0 ? null : `${instant(key.lastUsedAt).slice(0, 19)}Z`,
    source: key.source,
    locked: key.locked,
  };
}

export function shownRequest(record: RequestRecord): object {
  return {
    id: record.id,
    at: instant(record.at),
    method: record.method,
    path: record.path,
    provider: record.provider,
    model: record.model,
    status: record.status,
    outcome: record.outcome,
    key: record.key,
    key_id: record.keyId,
    client: record.client,
    waited_ms: record.waitedMs,
    first_byte_ms: record.firstByteMs,
    total_ms: record.totalMs,
    bytes: record.bytes,
    truncated: record.isTruncated,
    maybe_billed_replays: record.maybeBilledReplays,
    attempts: record.attempts.map(({ provider, key, keyId, verdict, status, ms, said }) => ({
      provider,
      key,
      key_id: keyId,
      verdict,
      status,
      ms,
      said,
    })),
  };
}

export function shownKeyEvent(event: KeyEvent): object {
  const { at, provider, key, keyId, kind, model, reason, until, said } = event;
  return {
    at: instant(at),
    provider,
    key,
    key_id: keyId,
    kind,
    model,
    reason,
    until: until === null ? null : instant(until),
    said,
  };
}

export function shownUsage({ day, provider, keyId, model, requests, rateLimited, errors }: UsageRow): object {
  return { day, provider, key_id: keyId, model, requests, rate_limited: rateLimited, errors };
}

export function shownTraffic({ at, requests, absorbed, errors }: TrafficPoint): object {
  return { at: instant(at), requests, absorbed, errors };
}

/** The latest instant that a date can hold (ECMA-262 21.4.1.1). */
const LAST_INSTANT = 8.64e15;

/** RFC 3339 in UTC. */
function instant(epochMs: number): string {
  return new Date(Math.min(Math.max(0, epochMs), LAST_INSTANT)).toISOString();
}

/** Rounded up: what is still on is never shown as over. */
function seconds(ms: number): number {
  return ms <= 0 ? 0 : retryAfterSec(ms);
}
