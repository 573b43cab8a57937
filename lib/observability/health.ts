/**
 * How the pool is doing, as `/health` and the admin API show it. Pure; there is no key and no part of one in it.
 */
import type { ProviderConfig } from "../config/config.ts";
import { instantText, retryAfterSec } from "../core/clock.ts";
import type { ClientReport, LimitReport } from "../pool/client-limits.ts";
import type { KeyPool, KeyReport, ProviderReport } from "../pool/key.ts";
import type { Instance } from "../pool/sharing.ts";

/** A provider as it is now. */
export function reportOfProvider(config: ProviderConfig, pool: KeyPool, now: number): ProviderReport {
  return {
    name: config.name,
    dialect: config.dialect,
    baseUrl: config.baseUrl.href.replace(/\/$/, ""),
    pausedMs: Math.max(0, pool.pausedUntil - now),
    waiting: pool.waiting,
    keys: pool.report(now),
  };
}

interface HealthReport {
  version: string;
  uptimeMs: number;
  /** The default one first. */
  providers: readonly [ProviderReport, ...ProviderReport[]];
  /** Whether the peer may see more than the default provider's summary. */
  isKnownClient: boolean;
  /** What the client that asks has left; null: it is not limited, or not known. */
  client: ClientReport | null;
  /** The instances that share the pool; null: this one is by itself. */
  sharing?: SharingReport | null;
}

/** The instances that share a pool, and whether they can. */
export interface SharingReport {
  readonly state: "ok" | "alone";
  readonly instances: readonly Instance[];
  /** The date that all of them have in common. */
  readonly date: number;
}

/** 200 while a key of the default provider can serve now or after a cooldown, else 503. */
export function healthResponse(report: HealthReport): Response {
  const { isKnownClient, client, sharing = null } = report;
  const { providers, ...summary } = healthJson(report);
  const { status } = summary;
  const body = {
    ...summary,
    ...(sharing === null ? {} : sharingJson(sharing)),
    ...(client === null ? {} : { client: clientJson(client) }),
    ...(isKnownClient ? { providers } : {}),
  };
  const headers = { "cache-control": "no-store" };
  return Response.json(body, { status: status === "down" ? 503 : 200, headers });
}

/** How the pool is doing, with all that is known of it. */
export function healthJson({
  version,
  uptimeMs,
  providers,
}: Pick<HealthReport, "version" | "uptimeMs" | "providers">) {
  const { keys } = providers[0];
  return {
    status: poolStatus(keys),
    version,
    uptime_sec: Math.floor(uptimeMs / 1000),
    keys: keys.length,
    pool: keys.map(poolWord).join(" "),
    providers: providers.map(providerJson),
  };
}

/** `ok`: every key is ready. `degraded`: some key is, or will be. `down`: none is, now or later. */
export function poolStatus(keys: readonly KeyReport[]): "ok" | "degraded" | "down" {
  const isReady = (key: KeyReport) => key.state === "ready";
  const isAlive = (key: KeyReport) => key.state === "ready" || key.state === "cooling";
  if (keys.length > 0 && keys.every(isReady)) return "ok";
  return keys.some(isAlive) ? "degraded" : "down";
}

function poolWord({ index, state, coolingMs }: KeyReport): string {
  return `[${index}]:${state === "cooling" ? `cooling(${retryAfterSec(coolingMs)}s)` : state}`;
}

/** The instances of a pool in JSON: the one shape for `/health` and the admin API. */
export function sharingJson({ state, instances, date }: SharingReport) {
  return {
    state_store: state,
    instances: instances.map(({ id, since, seenAt }) => ({
      id,
      since: `${instantText(since).slice(0, 19)}Z`,
      seen_sec: Math.max(0, Math.floor((date - seenAt) / 1000)),
    })),
  };
}

/** A provider in JSON, with its keys: the one shape for `/health` and, with more in it, for the admin API. */
export function providerJson(provider: ProviderReport) {
  return {
    name: provider.name,
    dialect: provider.dialect,
    base_url: provider.baseUrl,
    state: provider.pausedMs > 0 ? ("paused" as const) : ("up" as const),
    paused_sec: secondsLeft(provider.pausedMs),
    waiting: provider.waiting,
    keys: provider.keys.map(keyJson),
  };
}

/** A key in JSON: the one shape for `/health`, the admin API and `--json`. */
export function keyJson(key: KeyReport) {
  const models = Object.entries(key.models).map(([model, { coolingMs, reason }]) => [
    model,
    { cooldown_sec: secondsLeft(coolingMs), reason },
  ]);
  return {
    index: key.index,
    id: key.id,
    account: key.account,
    state: key.state,
    reason: key.reason,
    cooldown_sec: secondsLeft(key.coolingMs),
    models: Object.fromEntries(models),
    requests: key.requests,
    rate_limited: key.rateLimited,
    errors: key.errors,
    today: key.today,
    daily_limit: key.dailyLimit,
    rpm_limit: key.rpmLimit,
    in_flight: key.inFlight,
    last_used: key.lastUsedAt === 0 ? null : `${instantText(key.lastUsedAt).slice(0, 19)}Z`,
  };
}

/** What a client may use and has left, in JSON: the one shape for `/health` and the admin API. */
export function clientJson({ client, clientKeyId, perMinute, perDay, tokensPerDay, models }: ClientReport) {
  return {
    name: client,
    key_id: clientKeyId,
    requests_per_minute: perMinute && limitJson(perMinute),
    requests_per_day: perDay && limitJson(perDay),
    tokens_per_day: tokensPerDay && limitJson(tokensPerDay),
    models,
  };
}

function limitJson({ limit, used, left, resetMs }: LimitReport) {
  return { limit, used, left, reset_sec: secondsLeft(resetMs) };
}

/** Whole seconds, rounded up: what is still on is never shown as over. */
export function secondsLeft(ms: number): number {
  return ms <= 0 ? 0 : retryAfterSec(ms);
}
