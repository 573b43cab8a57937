/**
 * What the operator sees: the shapes of the admin API, and how they are written in JSON. Pure.
 *
 * A key's text never comes out here: everything that is shown names a key by its id.
 */
import { DAY_MS, formatDuration, instantText, MINUTE_MS } from "../core/clock.ts";
import {
  clientJson,
  keyJson,
  poolStatus,
  providerJson,
  secondsLeft,
  sharingJson,
} from "../observability/health.ts";
import type { SharingReport } from "../observability/health.ts";
import type { Traffic, TrafficRange, UsageRow } from "../observability/usage.ts";
import { keyName } from "../core/events.ts";
import type { KeyEvent, RequestProgress, RequestRecord, TokenUsage } from "../core/events.ts";
import type { ClientReport } from "../pool/client-limits.ts";
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
  /** The last four characters of the key; null: it is too short to show any of them. */
  lastFour: string | null;
  /** How it did lately, slot by slot (`Usage.heartbeats`). */
  beats: string;
  /** The setting in which it stands: `GROQ_API_KEYS_FILE`; null: not known. */
  source: string | null;
  /** Why it cannot be moved or removed from here; null: it can. */
  locked: string | null;
}

export interface ProviderView extends ProviderReport {
  isDisabled: boolean;
  /** Why it is left alone; null: it is not. */
  pauseReason: "upstream_faults" | "common_cause" | null;
  /** What upstream said when it was last left alone; empty: nothing, or it is not. */
  pauseSaid: string;
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
  /** The first of those that are not over, in the order in which they came. */
  underWay: readonly RequestProgress[];
  /** Upstream's 429 that no client saw, by the time in which they came. */
  hidden429: Readonly<Record<TrafficRange, number>>;
  /** How long a request waits for a key at most. */
  maxWaitMs: number;
  bufferedBytes: number;
  /** The instances that share the pool; null: this one is by itself. */
  sharing?: SharingReport | null;
  /** `http://0.0.0.0:3000` or `unix:/path` */
  listen: string;
  access: "protected" | "keys" | "open";
  /** null: there is none. */
  envFile: string | null;
  /** Of the last load. */
  warnings: readonly string[];
  /** Why the files as they are now are not in use; empty: they are. */
  problems: readonly string[];
  /**
   * What clients are limited to and have left: those that have a line, then of the others those that used something.
   */
  clients: readonly ClientReport[];
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
    headline: shownHeadline(headlineOf({ ...overview, provider: overview.providers[0] })),
    hidden_429: overview.hidden429,
    draining: overview.isDraining,
    in_flight: overview.inFlight,
    under_way: overview.underWay.map(shownProgress),
    buffered_bytes: overview.bufferedBytes,
    ...(overview.sharing ? sharingJson(overview.sharing) : {}),
    listen: overview.listen,
    access: overview.access,
    env_file: overview.envFile,
    warnings: overview.warnings,
    problems: overview.problems,
    clients: overview.clients.map(clientJson),
    providers: overview.providers.map(shownProvider),
  };
}

function shownProvider(provider: ProviderView): object {
  return {
    ...providerJson(provider),
    state: provider.isDisabled ? "disabled" : provider.pausedMs > 0 ? "paused" : "up",
    pause_reason: provider.pauseReason,
    pause_said: provider.pauseSaid === "" ? null : provider.pauseSaid,
    next_key_sec: secondsOrNull(nextKeyMs(provider)),
    queue_sec: secondsOrNull(queueMs(provider)),
    in_flight: provider.inFlight,
    breaker: provider.breaker,
    settings: provider.settings,
    keys: provider.keys.map(shownKey),
  };
}

function shownKey(key: KeyView): object {
  return {
    ...keyJson(key),
    last_four: key.lastFour,
    beats: key.beats,
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
    account: record.account,
    client: record.client,
    waited_ms: record.waitedMs,
    first_byte_ms: record.firstByteMs,
    total_ms: record.totalMs,
    ...phasesOf(record),
    reason: record.reason === "" ? null : record.reason,
    bytes: record.bytes,
    truncated: record.isTruncated,
    maybe_billed_replays: record.maybeBilledReplays,
    tokens: record.tokens ? shownTokens(record.tokens) : null,
    attempts: record.attempts.map(({ provider, key, keyId, account, verdict, status, ms, said }) => ({
      provider,
      key,
      key_id: keyId,
      account,
      verdict,
      status,
      ms,
      said,
    })),
  };
}

export function shownKeyEvent(event: KeyEvent): object {
  const { at, provider, key, keyId, account, kind, model, reason, until, said } = event;
  return {
    at: instantText(at),
    provider,
    key,
    key_id: keyId,
    account,
    kind,
    model,
    reason,
    until: until === null ? null : instantText(until),
    said,
  };
}

/** A day's counts of a key, a model and a client. `accounts`: names of the keys' accounts, by the keys' ids. */
export function shownUsage(row: UsageRow, accounts: ReadonlyMap<string, string | null>): UsageJson {
  return {
    day: row.day,
    provider: row.provider,
    key: keyName(accounts.get(row.keyId) ?? null, row.keyId),
    key_id: row.keyId,
    model: row.model,
    client: row.client,
    requests: row.requests,
    rate_limited: row.rateLimited,
    errors: row.errors,
    input_tokens: row.inputTokens,
    output_tokens: row.outputTokens,
    cached_tokens: row.cachedTokens,
    cache_write_tokens: row.cacheWriteTokens,
    reasoning_tokens: row.reasoningTokens,
  };
}

function shownTokens({ input, output, cached, cacheWrite, reasoning }: TokenUsage): object {
  return { input, output, cached, cache_write: cacheWrite, reasoning };
}

/** A row of usage in JSON and, its names as the header, in CSV. */
type UsageJson = Record<(typeof USAGE_COLUMNS)[number], string | number | null>;

const USAGE_COLUMNS = [
  ...["day", "provider", "key", "key_id", "model", "client"],
  ...["requests", "rate_limited", "errors"],
  ...["input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"],
] as const;

/**
 * Rows of usage as CSV (RFC 4180) with a header line. A model is a word of the client's, and a spreadsheet takes what
 * begins like a formula for one: it gets an apostrophe in front.
 */
export function usageCsv(rows: readonly UsageJson[]): string {
  const lines = rows.map((row) => USAGE_COLUMNS.map((name) => csvField(row[name])).join(","));
  return [USAGE_COLUMNS.join(","), ...lines, ""].join("\r\n");
}

function csvField(value: string | number | null): string {
  if (typeof value !== "string") return value === null ? "" : String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function shownTraffic({ range, stepMs, points }: Traffic): object {
  const traffic = points.map(({ at, requests, absorbed, hidden429, errors }) => ({
    at: instantText(at),
    requests,
    absorbed,
    hidden_429: hidden429,
    errors,
  }));
  return { range, step_sec: stepMs / 1000, traffic };
}

/** How long a finished request waited for a key, then for the provider, then for the rest of the answer. */
function phasesOf({ waitedMs, firstByteMs, totalMs }: RequestRecord): object {
  const answeredMs = firstByteMs ?? totalMs;
  return {
    wait_ms: waitedMs,
    provider_ms: Math.max(0, answeredMs - waitedMs),
    stream_ms: totalMs - answeredMs,
  };
}

/** A request that is not over, with the names of `shownRequest`. */
function shownProgress(request: RequestProgress): object {
  return {
    id: request.id,
    method: request.method,
    path: request.path,
    provider: request.provider,
    model: request.model,
    client: request.client,
    key_id: request.keyId,
    account: request.account,
    phase: request.phase,
    attempts: request.attempts,
    waited_ms: request.waitedMs,
    first_byte_ms: request.firstByteMs,
    total_ms: request.totalMs,
  };
}

/** Rounded up; null: it is not known when. */
function secondsOrNull(ms: number): number | null {
  return Number.isFinite(ms) ? secondsLeft(ms) : null;
}

// ── What the next request meets ───────────────────────────────────────────────────────────────────────────────────

/** What the next request to the default provider meets, and why. */
export interface Headline {
  /** `served`: it is sent at once. `waits`: for a key, or for the provider. `refused`: with 503. */
  outcome: "served" | "waits" | "refused";
  why: "ready" | "queue" | "cooling" | "provider_paused" | "out_of_use" | "draining";
  /** One or two sentences for people. */
  text: string;
  /** For how long it waits; Infinity: nobody knows. */
  waitMs: number;
}

/** What the headline is made of. */
interface HeadlineFacts extends Pick<AdminOverview, "isDraining" | "maxWaitMs"> {
  /** The default provider. */
  provider: QueueFacts & Pick<ProviderView, "pauseReason" | "pauseSaid">;
}

interface QueueFacts extends Pick<ProviderReport, "pausedMs" | "waiting"> {
  keys: readonly (Pick<KeyReport, "state" | "coolingMs" | "rpmLimit"> & { readonly reason: string | null })[];
}

export function headlineOf({ provider, isDraining, maxWaitMs }: HeadlineFacts): Headline {
  const { keys, waiting, pausedMs, pauseSaid } = provider;
  if (isDraining) {
    const text = "New requests are refused: the proxy is shutting down, and lets those under way finish.";
    return { outcome: "refused", why: "draining", text, waitMs: Infinity };
  }
  const waitMs = queueMs(provider);
  const outcome = waitMs <= maxWaitMs ? "waits" : "refused";
  if (pausedMs > 0) {
    const said = pauseSaid === "" ? "" : ` It said: "${pauseSaid}"`;
    const cause =
      provider.pauseReason === "common_cause"
        ? "it refuses every key alike"
        : "its last answers were failures";
    const text = `The provider is left alone for ${formatDuration(pausedMs)}: ${cause}.${said}`;
    return { outcome, why: "provider_paused", text, waitMs };
  }
  const ready = keys.filter(({ state }) => state === "ready").length;
  const usable = keys.filter(({ state }) => state === "ready" || state === "cooling");
  if (usable.length === 0) {
    const reasons = [...new Set(keys.map(({ state, reason }) => reason ?? state))].join(", ");
    const text = `Requests are refused: no key is in use (${reasons}).`;
    return { outcome: "refused", why: "out_of_use", text, waitMs: Infinity };
  }
  const inLine = waiting === 1 ? "1 request waits" : `${waiting} requests wait`;
  if (ready > 0 && waiting === 0) {
    const text = `The next request is sent at once: ${ready} of ${keys.length} keys ${ready === 1 ? "is" : "are"} ready.`;
    return { outcome: "served", why: "ready", text, waitMs: 0 };
  }
  const cause = coolingCause(usable);
  const wait = Number.isFinite(waitMs) ? `about ${formatDuration(waitMs)}` : "for an unknown time";
  const queue = waiting === 0 ? "" : ` ${inLine} already.`;
  const text =
    outcome === "waits"
      ? `The next request waits ${wait}: ${cause}.${queue}`
      : `The next request is refused: ${cause}, and it would wait ${wait}, longer than MAX_WAIT_SEC allows.${queue}`;
  return { outcome, why: ready > 0 ? "queue" : "cooling", text, waitMs };
}

/** Why no key is ready, by the one that is back first. */
function coolingCause(usable: QueueFacts["keys"]): string {
  const [first] = usable.toSorted((a, b) => a.coolingMs - b.coolingMs);
  switch (first?.reason) {
    case "pacing":
      return "every key has used up its requests of this minute";
    case "quota_day":
      return "every key has used up its day";
    case "billing":
      return "no key has money left";
    case null:
    case undefined:
      return "others are served first";
    default:
      return "every key rests after a refusal";
  }
}

function shownHeadline({ outcome, why, text, waitMs }: Headline): object {
  return { outcome, why, text, wait_sec: secondsOrNull(waitMs) };
}

/** When the first key may be used; Infinity: none comes back by itself. */
function nextKeyMs({ keys, pausedMs }: QueueFacts): number {
  const usable = keys.filter(({ state }) => state === "ready" || state === "cooling");
  return Math.max(pausedMs, Math.min(...usable.map(({ coolingMs }) => coolingMs)));
}

/**
 * How long a request that comes now waits behind those that wait already: from when on each key may be used, and how
 * often in a minute as far as that is known. Without any limit a key serves all who wait at once.
 */
function queueMs({ keys, pausedMs, waiting }: QueueFacts): number {
  const usable = keys.filter(({ state }) => state === "ready" || state === "cooling");
  if (usable.length === 0) return Infinity;
  const servedWithin = (ms: number) =>
    usable.reduce((sum, { coolingMs, rpmLimit }) => {
      const openMs = ms - Math.max(coolingMs, pausedMs);
      if (openMs < 0) return sum;
      return (
        sum +
        (rpmLimit === null || rpmLimit <= 0 ? Infinity : Math.floor((openMs * rpmLimit) / MINUTE_MS) + 1)
      );
    }, 0);
  let [tooShort, enough] = [-1, 1];
  while (servedWithin(enough) <= waiting) {
    if (enough > LONGEST_QUEUE_MS) return Infinity;
    [tooShort, enough] = [enough, enough * 2];
  }
  while (enough - tooShort > 1) {
    const middle = Math.floor((tooShort + enough) / 2);
    if (servedWithin(middle) > waiting) enough = middle;
    else tooShort = middle;
  }
  return enough;
}

/** Beyond it nobody waits. */
const LONGEST_QUEUE_MS = 31 * DAY_MS;
