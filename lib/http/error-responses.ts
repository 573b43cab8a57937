/**
 * The proxy's own answers: JSON that OpenAI and Anthropic SDKs both read, and sentences that say what happened and
 * what to do about it.
 */
import { formatDuration, retryAfterSec } from "../core/clock.ts";
import type { NoKey, Unreachable } from "../providers/verdict.ts";

/** `type` and `code` of the proxy's own errors, those of the operator's door included. */
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
  | "connect_timeout"
  | "draining"
  | "expectation_failed"
  | "first_byte_timeout"
  | "forbidden_origin"
  | "internal_error"
  | "invalid_proxy_key"
  | "no_usable_keys"
  | "not_found"
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

/** What the door refused. */
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
  connect_timeout: 504,
  first_byte_timeout: 504,
  stream_idle_timeout: 504,
};

/** What a message about keys needs to know. */
export interface KeyTrouble {
  /** Why there is no key, or from when on there is one again. */
  none: NoKey;
  /** Upstream requests that were spent. */
  attempts: number;
  provider: string;
  keys: readonly { readonly index: number; readonly state: string; readonly reason: string | null }[];
  /** What upstream said last; empty where nothing. */
  said: string;
  settings: { readonly maxWaitMs: number; readonly exhaustedStatus: number };
  now: number;
}

/** Our answer when keys are the problem, or the breaker: why, for how long, and what upstream said. */
export function noKeyError(trouble: KeyTrouble): ProxyError {
  const { none, keys, said, now } = trouble;
  const { maxWaitMs, exhaustedStatus } = trouble.settings;
  const provider = trouble.provider === "default" ? "the provider" : trouble.provider;
  const quote = said === "" ? "" : ` Upstream said: "${said}".`;
  const waitMs = Math.max(0, none.readyAt - now);
  const inTime = formatDuration(retryAfterSec(waitMs) * 1000);
  switch (none.why) {
    case "unsuited":
      return proxyError(
        503,
        "no_usable_keys",
        `No key of ${provider} may serve this request.${quote} Check the keys and what they are allowed to do; GET /health shows each.`,
      );
    case "none_usable": {
      const list = keys.map(({ index, reason }) => `[${index}] ${reason}`).join(", ");
      return proxyError(
        503,
        "no_usable_keys",
        `${allKeys(keys.length, provider)} out of use: ${list}.${quote} Replace them in API_KEYS and restart; GET /health shows each.`,
      );
    }
    case "paused":
      return proxyError(
        503,
        "provider_paused",
        `${provider} failed several times in a row and is left alone for ${inTime}.${quote} Try again then.`,
        waitMs,
      );
    case "cooling":
      if (waitMs === 0) {
        return proxyError(
          exhaustedStatus,
          "all_keys_cooling",
          `Upstream refused all ${trouble.attempts} attempts that one request may take (MAX_ATTEMPTS), each with the key it was made with.${quote} Try again in ${inTime}.`,
          waitMs,
        );
      }
      return proxyError(
        exhaustedStatus,
        "all_keys_cooling",
        `${coolingKeys(keys, provider)}; the first may be used in ${inTime}, and a request waits at most ${maxWaitMs / 1000}s (MAX_WAIT_SEC).${quote} Try again then, or add keys.`,
        waitMs,
      );
  }
}

function allKeys(count: number, provider: string): string {
  return count === 1 ? `The only key of ${provider} is` : `All ${count} keys of ${provider} are`;
}

function coolingKeys(keys: KeyTrouble["keys"], provider: string): string {
  const outOfUse = keys.filter(({ state }) => state === "disabled").length;
  if (outOfUse === 0) return `${allKeys(keys.length, provider)} cooling down`;
  return `No key of ${provider} is free: ${keys.length - outOfUse} cooling down, ${outOfUse} out of use`;
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
