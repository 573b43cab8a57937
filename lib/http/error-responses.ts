/**
 * The proxy's own answers: JSON that OpenAI and Anthropic SDKs both read, and sentences that say what happened and
 * what to do about it.
 */
import { grouped } from "../core/language.ts";
import { formatDuration, retryAfterSec } from "../core/clock.ts";
import type { KeyReason, Log } from "../core/events.ts";
import type { NoKey, Unreachable } from "../providers/verdict.ts";

/** `type` and `code` of the proxy's own errors, those of the admin API included. */
export type ProxyErrorType =
  | "all_keys_cooling"
  | "bad_request"
  | "conflict"
  | "invalid_configuration"
  | "invalid_value"
  | "key_refused"
  | "method_not_allowed"
  | "not_writable"
  | "sign_in_required"
  | "too_many_attempts"
  | "unsupported_media_type"
  | "wrong_password"
  | "body_too_large"
  | "client_limit"
  | "connect_timeout"
  | "draining"
  | "expectation_failed"
  | "first_byte_timeout"
  | "forbidden_origin"
  | "internal_error"
  | "invalid_proxy_key"
  | "no_usable_keys"
  | "not_found"
  | "model_not_allowed"
  | "overloaded"
  | "protected_mode"
  | "provider_disabled"
  | "provider_paused"
  | "stream_idle_timeout"
  | "upgrade_required"
  | "upstream_protocol_error"
  | "upstream_unreachable";

export interface ProxyError {
  kind: "refused";
  status: number;
  type: ProxyErrorType;
  message: string;
  /** When asking again can help; null: not known, or never. */
  retryAfterMs: number | null;
}

export function proxyError(
  status: number,
  type: ProxyErrorType,
  message: string,
  retryAfterMs: number | null = null,
): ProxyError {
  return { kind: "refused", status, type, message, retryAfterMs };
}

/** Why a client was not let in, as an error. */
export function admissionError({
  status,
  type,
  message,
}: Pick<ProxyError, "status" | "type" | "message">): ProxyError {
  return proxyError(status, type, message);
}

export function errorResponse({ status, type, message, retryAfterMs }: ProxyError): Response {
  const error: Record<string, unknown> = { type, code: type, message, param: null };
  const response = Response.json({ type: "error", error }, { status });
  if (retryAfterMs === null) return response;
  const retryAfter = retryAfterSec(retryAfterMs);
  const headers = { "retry-after": String(retryAfter) };
  return Response.json({ type: "error", error: { ...error, retry_after: retryAfter } }, { status, headers });
}

/** Our answer when upstream gave none. */
export function unreachableError({ type, message }: Unreachable): ProxyError {
  return proxyError(STATUS_OF_UNREACHABLE[type], type, message);
}

const STATUS_OF_UNREACHABLE: Record<Unreachable["type"], number> = {
  upstream_unreachable: 502,
  upstream_protocol_error: 502,
  draining: 503,
  overloaded: 503,
  connect_timeout: 504,
  first_byte_timeout: 504,
  stream_idle_timeout: 504,
};

/** A key, as far as a message tells of it. */
interface ReportedKey {
  readonly index: number;
  readonly state: "ready" | "cooling" | "disabled" | "paused";
  readonly reason: KeyReason | null;
  /** By model: why it cools for that one alone. */
  readonly models: Readonly<Record<string, { readonly reason: KeyReason }>>;
}

/** What a message about keys needs to know. */
export interface KeyTrouble {
  /** Why there is no key, or from when on there is one again. */
  readonly none: NoKey;
  /** Upstream requests that were spent. */
  readonly attempts: number;
  /** How long the request has waited for a key or for its upstream, in ms. */
  readonly waitedMs: number;
  /** The model it asks for; null: it names none. */
  readonly model: string | null;
  readonly provider: string;
  readonly keys: readonly ReportedKey[];
  /** What upstream said last; empty where nothing. */
  readonly said: string;
  readonly settings: { readonly maxWaitMs: number; readonly exhaustedStatus: number };
  readonly now: number;
}

/** Where only the end of a request under way frees a key, nobody knows when: asking again this soon is fair. */
const UNTIL_AN_END_MS = 5000;

/** Our answer when keys are the problem, or the breaker: how long it waited, why, until when, and what can be done. */
export function noKeyError(trouble: KeyTrouble): ProxyError {
  const { none, keys, attempts, model, said, now } = trouble;
  const { exhaustedStatus } = trouble.settings;
  const provider = trouble.provider === "default" ? "the provider" : trouble.provider;
  const quote = said === "" ? "" : ` Upstream said: "${said}".`;
  const isKnown = Number.isFinite(none.readyAt);
  const waitMs = isKnown ? Math.max(0, none.readyAt - now) : UNTIL_AN_END_MS;
  const inTime = isKnown
    ? `in ${formatDuration(retryAfterSec(waitMs) * 1000)}`
    : "when a request under way ends";
  switch (none.why) {
    case "unsuited":
      return proxyError(
        503,
        "no_usable_keys",
        `No key of ${provider} may serve this request${whyNoKey(keys, model)}.${quote} Check the keys and what they are allowed to do: keywheel check, or GET /health.`,
      );
    case "none_usable":
      return proxyError(
        503,
        "no_usable_keys",
        `${allKeys(keys.length, provider)} out of use: ${keys.map(({ index, reason }) => `[${index}] ${reason}`).join(", ")}.${quote} ${remedy(keys, model)}`,
      );
    case "paused":
      return proxyError(
        503,
        "provider_paused",
        `${sentence(provider)} failed or refused everybody several times in a row, and is asked again ${inTime}. ${waited(trouble, waitMs)}${quote} Try again then. To be served meanwhile, name another provider in FALLBACK.`,
        waitMs,
      );
    case "cooling":
      return proxyError(
        exhaustedStatus,
        "all_keys_cooling",
        waitMs === 0
          ? `Upstream refused all ${attempts} attempts that one request may take (MAX_ATTEMPTS), each with the key it was made with. ${waited(trouble, waitMs)}${quote} Try again ${inTime}.`
          : `${whichKeys(keys, model, provider)}${whyNoKey(keys, model)}: the first is free ${inTime}. ${waited(trouble, waitMs)}${quote} Try again then. ${remedy(keys, model)}`,
        waitMs,
      );
  }
}

/** How long this request has waited, of the time that one may. */
function waited({ waitedMs, settings }: KeyTrouble, waitMs: number): string {
  const longest = `${settings.maxWaitMs / 1000}s (MAX_WAIT_SEC)`;
  if (waitedMs >= 1000) return `This request has waited ${formatDuration(waitedMs)}, of at most ${longest}.`;
  return waitMs > settings.maxWaitMs
    ? `This request did not wait, because that is longer than the ${longest} that it may.`
    : `This request may wait at most ${longest}.`;
}

interface Explained {
  /** What the key is; of several a number stands before it. */
  readonly is: string;
  /** What the operator can do. */
  readonly remedy: string;
}

const MORE_KEYS = "To serve more, add keys, or name another provider in FALLBACK.";
const TOP_UP = "Top up the account, or name another provider in FALLBACK.";
const REPLACE = "Replace the keys that keywheel check finds dead (API_KEYS).";

const EXPLAINED: Record<KeyReason, Explained> = {
  rate_limit: { is: "after a rate limit", remedy: MORE_KEYS },
  pacing: { is: "at the rate that it is allowed", remedy: MORE_KEYS },
  concurrency: { is: "busy with as many requests as it may have at once", remedy: MORE_KEYS },
  quota_day: { is: "out of requests for the day", remedy: MORE_KEYS },
  billing: { is: "out of money or paid quota", remedy: TOP_UP },
  unconfirmed: { is: "in doubt since upstream refused it", remedy: REPLACE },
  invalid_key: { is: "refused by upstream for good", remedy: REPLACE },
  no_access: { is: "not allowed to use this model", remedy: "Ask for a model that the keys may use." },
  manual: { is: "paused by hand", remedy: "Resume the paused: keywheel keys resume." },
};

function allKeys(count: number, provider: string): string {
  return count === 1 ? `The only key of ${provider} is` : `All ${count} keys of ${provider} are`;
}

/** Whether all keys will come back by themselves, or some only by somebody's hand. */
function whichKeys(keys: readonly ReportedKey[], model: string | null, provider: string): string {
  const areCooling = keys.every((key) => key.state !== "disabled" && reasonOf(key, model) !== "manual");
  return areCooling ? `${allKeys(keys.length, provider)} cooling down` : `No key of ${provider} is free`;
}

/** Why a key cannot serve a request for this model now; null: by itself it could. */
function reasonOf({ state, reason, models }: ReportedKey, model: string | null): KeyReason | null {
  if (state !== "ready") return reason;
  return model === null ? null : (models[model]?.reason ?? null);
}

/** ` (2 after a rate limit, 1 paused by hand)`; empty where nothing is known against any. */
function whyNoKey(keys: readonly ReportedKey[], model: string | null): string {
  const byReason = grouped(keys, (key) => reasonOf(key, model));
  const parts = [...byReason].flatMap(([reason, alike]) =>
    reason === null
      ? []
      : [keys.length === 1 ? EXPLAINED[reason].is : `${alike.length} ${EXPLAINED[reason].is}`],
  );
  if (parts.length === 0) return "";
  return ` (${parts.join(", ")})`;
}

/** What the operator can do, for each kind of trouble once. */
function remedy(keys: readonly ReportedKey[], model: string | null): string {
  const reasons = keys.flatMap((key) => reasonOf(key, model) ?? []);
  const remedies = new Set(reasons.map((reason) => EXPLAINED[reason].remedy));
  return remedies.size === 0 ? MORE_KEYS : [...remedies].join(" ");
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export const UNREADABLE_TARGET = proxyError(
  400,
  "bad_request",
  "The path or the Host header cannot be read safely. Send a plain path, without '..' behind percent signs.",
);

export const BODY_BROKE_OFF = proxyError(400, "bad_request", "The request body broke off.");

export const NO_TRAILERS = proxyError(
  400,
  "bad_request",
  "Trailers, which are fields behind the body, are not served. Send them as header fields.",
);

export const UNMET_EXPECTATION = proxyError(
  417,
  "expectation_failed",
  "The only expectation that can be met here is 'Expect: 100-continue', in lower case. Send the request without Expect.",
);

export const NO_TUNNELS = proxyError(
  400,
  "bad_request",
  "CONNECT and TRACE are not served: this is no proxy for other hosts, and an answer to TRACE would repeat the key.",
);

export const NO_PAGE_LOADS = proxyError(
  403,
  "forbidden_origin",
  "A browser asked for this as a page, a picture or a script, and it is an API. Ask from a program, or with fetch() from a page whose origin is in CORS_ORIGINS.",
);

export const NO_WEBSOCKETS = proxyError(
  426,
  "upgrade_required",
  "WebSocket connections are not served. Send the request over plain HTTP.",
);

export const DRAINING = proxyError(
  503,
  "draining",
  "This proxy is shutting down. Try again in a moment.",
  1000,
);

export const INTERNAL_ERROR = proxyError(
  500,
  "internal_error",
  "keywheel failed on this request; its log says why.",
);

export const NO_ROOM = proxyError(
  503,
  "overloaded",
  "Too many requests, or too many bytes of their bodies, are in flight (MAX_IN_FLIGHT, MAX_BUFFERED_MB). Try again in a moment.",
  1000,
);

export const NO_DESCRIPTORS = proxyError(
  503,
  "overloaded",
  "This machine has no file descriptor left for a connection to the provider: too many clients are connected. Try again in a moment; if it lasts, raise the limit (LimitNOFILE=, ulimit -n).",
  1000,
);

export function bodyTooLarge(maxBodyBytes: number): ProxyError {
  return proxyError(
    413,
    "body_too_large",
    `The request body is larger than ${maxBodyBytes / 2 ** 20} MB (MAX_BODY_MB).`,
  );
}

export function notFound(path: string): ProxyError {
  return proxyError(404, "not_found", `${path} is not served by this version of keywheel.`);
}

export function providerDisabled(name: string): ProxyError {
  return proxyError(
    503,
    "provider_disabled",
    `Provider ${name} is switched off. Remove ${name.toUpperCase().replaceAll("-", "_")}_DISABLED to use it.`,
  );
}

export function unreadableRetryStatus(field: string): ProxyError {
  return proxyError(
    400,
    "bad_request",
    `The header ${field} cannot be read. Write statuses and ranges, like 404-409,418.`,
  );
}

/** A bug of ours: the log says which, the client only that there is one. */
export function bugResponse(error: unknown, log: Log): Response {
  log.line("error", "bug", {
    error: error instanceof Error ? `${error.name}: ${error.message}` : "not an Error",
  });
  return errorResponse(INTERNAL_ERROR);
}
