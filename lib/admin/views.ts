/**
 * What the operator sees: the shapes of the admin API, and how they are written in JSON. Pure.
 *
 * A key's text never comes out here: everything that is shown names a key by its id.
 */
import { instantText } from "../core/clock.ts";
import { keyJson, poolStatus, providerJson } from "../observability/health.ts";
import type { TrafficPoint, UsageRow } from "../observability/usage.ts";
import type { KeyEvent, RequestRecord } from "../core/events.ts";
import type { KeyReport, ProviderReport } from "../pool/key.ts";

/** What became of a change. `message`: what was done, or why not and what to do; for people, without a key. */
export type ChangeOutcome = { kind: "done"; message: string } | ChangeRefused;

export interface ChangeRefused {
  kind: "refused";
  why: Why;
  message: string;
}

/** `not_writable`: the setting is not in a file that can be changed from here. */
export type Why = "not_found" | "conflict" | "invalid_value" | "not_writable";

export type ReloadOutcome =
  { kind: "done"; changes: readonly string[] } | { kind: "refused"; problems: readonly string[] };

/** What a provider says of a key. `unclear`: it could not be asked, or its answer tells nothing about the key. */
export type KeyTrial = { kind: "works" } | { kind: "unclear" | "denied"; said: string };

export type LiveEvent = { kind: "request"; record: RequestRecord } | { kind: "key"; event: KeyEvent };

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

export interface ProviderView extends ProviderReport {
  isDisabled: boolean;
  breaker: "closed" | "open" | "half_open";
  inFlight: number;
  settings: Readonly<Partial<Record<Editable, SettingView>>>;
  keys: readonly KeyView[];
}

/** Everything the page shows at once. */
export interface AdminOverview {
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
export function shownOverview(overview: AdminOverview, now: number): object {
  return {
    version: overview.version,
    now: instantText(now),
    uptime_sec: Math.floor(overview.uptimeMs / 1000),
    status: poolStatus(overview.providers[0].keys),
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
    ...providerJson(provider),
    state: provider.isDisabled ? "disabled" : provider.pausedMs > 0 ? "paused" : "up",
    in_flight: provider.inFlight,
    breaker: provider.breaker,
    settings: provider.settings,
    keys: provider.keys.map(shownKey),
  };
}

function shownKey(key: KeyView): object {
  return {
    ...keyJson(key),
    said: key.said === "" ? null : key.said,
    source: key.source,
    locked: key.locked,
  };
}

export function shownRequest(record: RequestRecord): object {
  return {
    id: record.id,
    at: instantText(record.at),
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
    at: instantText(at),
    provider,
    key,
    key_id: keyId,
    kind,
    model,
    reason,
    until: until === null ? null : instantText(until),
    said,
  };
}

export function shownUsage({ day, provider, keyId, model, requests, rateLimited, errors }: UsageRow): object {
  return { day, provider, key_id: keyId, model, requests, rate_limited: rateLimited, errors };
}

export function shownTraffic({ at, requests, absorbed, errors }: TrafficPoint): object {
  return { at: instantText(at), requests, absorbed, errors };
}
