/**
 * `GET /health`: what a person or a monitor sees. Pure; there is no key and no part of one in it.
 */
import { retryAfterSec } from "../core/clock.ts";
import type { KeyReport } from "../pool/key.ts";

/** A provider as it is shown. */
export interface ProviderReport {
  name: string;
  dialect: string;
  baseUrl: string;
  pausedMs: number;
  waiting: number;
  keys: readonly KeyReport[];
}

export interface HealthReport {
  version: string;
  uptimeMs: number;
  /** The default one first. */
  providers: readonly [ProviderReport, ...ProviderReport[]];
  /** Whether the visitor may see more than the default provider's summary. */
  isKnownClient: boolean;
}

/** 200 while a key of the default provider can serve now or after a cooldown, else 503. */
export function healthResponse({ version, uptimeMs, providers, isKnownClient }: HealthReport): Response {
  const { keys } = providers[0];
  const isReady = (key: KeyReport) => key.state === "ready";
  const isAlive = (key: KeyReport) => key.state === "ready" || key.state === "cooling";
  const status = keys.every(isReady) && keys.length > 0 ? "ok" : keys.some(isAlive) ? "degraded" : "down";
  const body = {
    status,
    version,
    uptime_sec: Math.floor(uptimeMs / 1000),
    keys: keys.length,
    pool: keys.map(poolWord).join(" "),
    ...(isKnownClient ? { providers: providers.map(shownProvider) } : {}),
  };
  const headers = { "cache-control": "no-store" };
  return Response.json(body, { status: status === "down" ? 503 : 200, headers });
}

function poolWord({ index, state, coolingMs }: KeyReport): string {
  return `[${index}]:${state === "cooling" ? `cooling(${retryAfterSec(coolingMs)}s)` : state}`;
}

function shownProvider(provider: ProviderReport): object {
  return {
    name: provider.name,
    dialect: provider.dialect,
    base_url: provider.baseUrl,
    state: provider.pausedMs > 0 ? "paused" : "up",
    paused_sec: shownSec(provider.pausedMs),
    waiting: provider.waiting,
    keys: provider.keys.map(shownKey),
  };
}

function shownKey(key: KeyReport): object {
  const models = Object.entries(key.models).map(([model, { coolingMs, reason }]) => [
    model,
    { cooldown_sec: shownSec(coolingMs), reason },
  ]);
  return {
    index: key.index,
    id: key.id,
    account: key.account,
    state: key.state,
    reason: key.reason,
    cooldown_sec: shownSec(key.coolingMs),
    models: Object.fromEntries(models),
    requests: key.requests,
    rate_limited: key.rateLimited,
    errors: key.errors,
    today: key.today,
    daily_limit: key.dailyLimit,
    rpm_limit: key.rpmLimit,
    in_flight: key.inFlight,
    last_used: key.lastUsedAt === 0 ? null : `${new Date(key.lastUsedAt).toISOString().slice(0, 19)}Z`,
  };
}

function shownSec(ms: number): number {
  return ms <= 0 ? 0 : retryAfterSec(ms);
}
