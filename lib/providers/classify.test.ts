import { describe, expect, test } from "bun:test";
import { classify, classifyStreamError } from "./classify.ts";
import { DIALECTS, type Dialect, type Pause, type Scope, type Verdict } from "./verdict.ts";
import { authHeader, defaultBaseUrl, dialectFromUrl, checkFor, resetZone } from "./catalog.ts";

/** A Friday, 21:54:07.250 UTC. */
const NOW = Date.UTC(2026, 10, 20, 21, 54, 7, 250);
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

// What is expected of an answer, without what it said.
type Expected = Record<string, unknown> & { kind: Verdict["kind"] };
const UNKNOWN: Pause = { kind: "unknown" };
const forMs = (ms: number): Pause => ({ kind: "for", ms });
const midnight = (zone: string): Pause => ({ kind: "until_midnight", zone });

const served: Expected = { kind: "served" };
const rejected: Expected = { kind: "rejected" };
const dead: Expected = { kind: "revoked", certain: true };
const doubted: Expected = { kind: "revoked", certain: false };
const unsuited = (scope: Scope): Expected => ({ kind: "unsuited", scope });
const tooFast = (scope: Scope, pause: Pause = UNKNOWN): Expected => ({
  kind: "rate_limited",
  reason: "rate_limit",
  scope,
  pause,
});
/** The same, and it says that it is one model's. */
const tooFastModel = (pause: Pause = UNKNOWN): Expected => ({
  ...tooFast("key+model", pause),
  ofModel: true,
});
const tooMany = (pause: Pause = UNKNOWN): Expected => ({
  kind: "rate_limited",
  reason: "concurrency",
  scope: "key",
  pause,
});
const dayOver = (scope: Scope, pause: Pause): Expected => ({
  kind: "exhausted",
  widens: false,
  reason: "quota_day",
  scope,
  pause,
});
const noMoney = (scope: Scope = "key", pause: Pause = UNKNOWN): Expected => ({
  kind: "exhausted",
  widens: false,
  reason: "billing",
  scope,
  pause,
});
const overloaded = (pauseMs: number | null = null, maybeBilled = false): Expected => ({
  kind: "overloaded",
  scope: "provider",
  refusesAll: false,
  pauseMs,
  maybeBilled,
});

/** One model's trouble, and no other's. */
const modelDown = (pauseMs: number | null = null, maybeBilled = false): Expected => ({
  ...overloaded(pauseMs, maybeBilled),
  scope: "model",
});
/** No money, for this model as far as is known. */
const noMoneyYet = (pause: Pause = UNKNOWN): Expected => ({ ...noMoney("key+model", pause), widens: true });

const refusesAll = (pauseMs: number): Expected => ({ ...overloaded(pauseMs), refusesAll: true });

// The envelopes of the providers.
const openai = (message: string, type: string, code: string | number | null = null) => ({
  error: { message, type, param: null, code },
});
const anthropic = (type: string, message: string, details?: object) => ({
  type: "error",
  error: { type, message, ...(details && { details }) },
  request_id: "req_1",
});
const google = (code: number, status: string, message: string, details: object[] = []) => ({
  error: { code, message, status, details },
});
const violation = (quotaId: string) => ({
  "@type": "type.googleapis.com/google.rpc.QuotaFailure",
  violations: [{ quotaMetric: "googleapis.com/requests", quotaId, quotaValue: "20" }],
});
const retryInfo = (retryDelay: string) => ({
  "@type": "type.googleapis.com/google.rpc.RetryInfo",
  retryDelay,
});
const reason = (name: string, metadata = {}) => ({
  "@type": "type.googleapis.com/google.rpc.ErrorInfo",
  reason: name,
  metadata,
});
const cloudflare = (code: number, message: string) => ({
  success: false,
  errors: [{ code, message }],
  result: {},
});
const zhipu = (code: string, message: string) => ({ error: { code, message }, request_id: "1" });
const page = (title: string) =>
  `<!doctype html>\n<html><head><title>${title}</title></head><body></body></html>`;

type Case = [
  sentence: string,
  dialect: Dialect,
  status: number,
  body: unknown,
  expected: Expected,
  headers?: Record<string, string>,
];

/** One case a line, however long. */
// prettier-ignore
const CASES: Case[] = [
  // Every status, where the answer says nothing more.
  ["a success is an answer", "generic", 200, {}, served],
  ["a redirect is an answer, not followed", "generic", 307, "", served],
  ["an unchanged document is an answer", "generic", 304, "", served],
  ["a bad request is the client's", "generic", 400, openai("Bad value", "invalid_request_error"), rejected],
  ["a bare 401 is doubted, not believed", "generic", 401, { error: "Unauthorized" }, doubted],
  ["an empty 401 is doubted", "generic", 401, "", doubted],
  ["402 is money", "generic", 402, "", noMoneyYet()],
  ["a bare 403 is doubted", "generic", 403, { error: { message: "Forbidden" } }, doubted],
  ["404 is the client's", "generic", 404, openai("No such file", "not_found", "file_not_found"), rejected],
  ["a 404 about a model may be this account's", "generic", 404, openai("No such model", "not_found", "model_not_found"), unsuited("key+model")],
  ["a model that is absent or gated", "generic", 404, { error: { message: "The model `m` does not exist or you do not have access to it." } }, unsuited("key+model")],
  ["a model that nobody has", "generic", 404, { error: { message: "The model `m` does not exist." } }, rejected],
  ["408 is nobody's", "generic", 408, "", rejected],
  ["409 is the client's", "generic", 409, "", rejected],
  ["413 is the client's", "generic", 413, "", rejected],
  ["415 is the client's", "generic", 415, "", rejected],
  ["422 is the client's", "generic", 422, { detail: [{ loc: ["body"], msg: "field required" }] }, rejected],
  ["a bare 429 is the key's, for how long is unknown", "generic", 429, "", tooFast("key")],
  ["500 may be billed", "generic", 500, "", overloaded(null, true)],
  ["502 may be billed", "generic", 502, page("502 Bad Gateway"), overloaded(null, true)],
  ["503 is not billed", "generic", 503, "", overloaded()],
  ["503 says when to come back", "generic", 503, "", overloaded(20_000), { "retry-after": "20" }],
  ["504 may be billed", "generic", 504, page("504 Gateway Time-out"), overloaded(null, true)],
  ["520 may be billed", "generic", 520, "error code: 520", overloaded(null, true)],
  ["521 is not billed", "generic", 521, "error code: 521", overloaded()],
  ["522 is not billed", "generic", 522, "error code: 522", overloaded()],
  ["523 is not billed", "generic", 523, "error code: 523", overloaded()],
  ["524 may be billed", "generic", 524, "error code: 524", overloaded(null, true)],
  ["529 is not billed", "generic", 529, "", overloaded()],
  ["a status nobody knows is the upstream's", "generic", 599, "", overloaded()],

  // What holds whoever the provider is.
  ["an edge's limit is about our address", "generic", 429, "error code: 1015\n", refusesAll(30_000)],
  ["an edge's limit says for how long", "generic", 429, "error code: 1015", refusesAll(7000), { "retry-after": "7" }],
  ["an edge's limit as a page", "openai", 429, page("Access denied"), refusesAll(30_000)],
  ["an edge's ban is about our address", "openai", 403, "error code: 1020", rejected],
  ["an edge's challenge is no key's fault", "anthropic", 403, page("Just a moment..."), rejected],
  ["a challenge without a page", "groq", 403, "", rejected, { "cf-mitigated": "challenge" }],
  ["an edge's limit as JSON", "gemini", 429, { type: "https://developers.cloudflare.com/error-1015/", title: "Error 1015", status: 429, error_code: 1015, cloudflare_error: true, retry_after: 30 }, refusesAll(30_000)],
  ["a limit on our address, in words", "generic", 429, { error: "Too many requests from this IP, please try again later." }, refusesAll(30_000)],
  ["a limit on our address says for how long", "openai", 429, openai("Rate limit exceeded for your IP address", "requests"), refusesAll(12_000), { "retry-after": "12" }],
  ["an IP limit by its name", "cohere", 429, { message: "IP rate limit reached" }, refusesAll(30_000)],
  ["VIP customers are no address", "generic", 429, { error: "Rate limit for VIP customers" }, tooFast("key")],
  ["an edge's ban as JSON", "nvidia", 403, { title: "Error 1010: Access denied", status: 403, error_name: "browser_signature_banned", cloudflare_error: true }, rejected],
  ["a page under 401 is doubted", "generic", 401, page("401 Authorization Required"), doubted],
  ["a stated bad key is believed", "generic", 401, openai("No", "x", "invalid_api_key"), dead],
  ["a bad key stated in words", "generic", 403, { message: "Invalid API key" }, dead],
  ["an expired key stated in words", "generic", 401, { error: "Your API key has expired." }, dead],
  ["a key that is no longer valid", "generic", 401, { error: "This API token is no longer valid" }, dead],
  ["a masked key that is invalid", "generic", 401, { error: "Authentication Fails, api key: ****cafe is invalid" }, dead],
  ["a disabled model is no dead key", "generic", 403, { error: "Your API key is fine. Model x is disabled" }, unsuited("key+model")],
  ["no key sent is our fault", "generic", 401, { error: "Missing Authorization header" }, rejected],
  ["moderation is the prompt's fault", "generic", 403, { error: "Flagged by our content policy" }, rejected],
  ["moderation by its code", "generic", 403, openai("No", "x", "content_policy_violation"), rejected],
  ["a region by its code", "generic", 403, openai("No", "x", "unsupported_country_region_territory"), rejected],
  ["a region is nobody's fault", "generic", 403, { error: "Not available in your country" }, rejected],
  ["an address that is not allowed", "openai", 401, openai("Your IP address 192.0.2.1 is not authorized", "x", "ip_not_authorized"), unsuited("key")],
  ["a permission is the key's, not its health's", "generic", 403, { error: "You lack permission for this" }, unsuited("key+model")],
  ["money in a 403", "generic", 403, { error: { message: "Insufficient balance." } }, noMoneyYet()],
  ["money in a 429", "generic", 429, openai("Quota", "insufficient_quota"), noMoneyYet()],
  ["money in Chinese", "generic", 403, { message: "账户余额不足" }, noMoneyYet()],
  ["a short retry-after beside no money is not believed", "generic", 402, "", noMoneyYet(), { "retry-after": "2" }],
  ["a long one is", "generic", 402, "", noMoneyYet(forMs(HOUR)), { "retry-after": "3600" }],
  ["too many at once is a matter of a second", "generic", 429, { error: "Too many concurrent requests" }, tooMany()],
  ["too many at once with a retry-after of 0", "generic", 429, { error: "Concurrency limit" }, tooMany(forMs(SECOND)), { "retry-after": "0" }],
  ["a full service is no key's fault", "generic", 429, { error: "The model is currently overloaded" }, modelDown()],
  ["a daily limit without a time", "generic", 429, { error: "Daily quota reached" }, dayOver("key", midnight("UTC"))],
  ["a daily limit with a time", "generic", 429, { error: "Daily quota reached" }, dayOver("key", forMs(HOUR)), { "retry-after": "3600" }],
  ["a daily bucket in the headers", "sambanova", 429, {}, dayOver("key+model", forMs(4 * HOUR)), { "x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "4h" }],
  ["a plain sentence instead of JSON", "generic", 429, "Slow down, retry in 8 seconds", tooFast("key", forMs(8000))],
  ["a retry-after of 0 means now", "generic", 429, "", tooFast("key", forMs(0)), { "retry-after": "0" }],
  ["a retry-after in garbage is unknown", "generic", 429, "", tooFast("key"), { "retry-after": "a while" }],
  ["a negative retry-after is unknown", "generic", 429, "", tooFast("key"), { "retry-after": "-3" }],
  ["a date in the past is unknown", "generic", 429, "", tooFast("key"), { "retry-after": new Date(NOW - DAY).toUTCString() }],
  ["an error that is a server-sent event", "generic", 429, 'data: {"error":{"message":"retry in 3s"}}\n\n', tooFast("key", forMs(3000))],

  // OpenAI
  ["OpenAI: tokens a minute", "openai", 429, openai("Rate limit reached for m on tokens per min (TPM): Limit 9. Please try again in 1.5s.", "tokens", "rate_limit_exceeded"), tooFast("key+model", forMs(1500))],
  ["OpenAI: a daily limit is a bucket that leaks", "openai", 429, openai("Rate limit reached on requests per day (RPD): Limit 200. Please try again in 7m12s.", "requests", "rate_limit_exceeded"), tooFast("key+model", forMs(7 * MINUTE + 12 * SECOND))],
  ["OpenAI: larger than the window never passes", "openai", 429, openai("Request too large for m on tokens per min (TPM): Limit 9, Requested 10.", "tokens", "rate_limit_exceeded"), rejected],
  ["OpenAI's words elsewhere are about a model, too", "generic", 429, openai("Slow", "tokens", "rate_limit_exceeded"), tooFast("key+model")],
  ["an answer that begins with a byte order mark", "generic", 429, '\uFEFF{"error":"retry in 3s"}', tooFast("key", forMs(3000))],
  ["OpenAI: no money", "openai", 429, openai("You exceeded your current quota, please check your plan.", "insufficient_quota", "insufficient_quota"), noMoney()],
  ["OpenAI: a hard limit of spending", "openai", 429, openai("Billing hard limit has been reached", "insufficient_quota", "billing_hard_limit_reached"), noMoney()],
  ["OpenAI: an account without billing", "openai", 429, openai("Inactive", "billing_not_active", "billing_not_active"), noMoney()],
  ["OpenAI: a header that names another organization", "openai", 401, openai("No such organization", "invalid_request_error", "invalid_organization"), unsuited("key")],
  ["OpenAI: a subscription's window", "openai", 429, { error: { type: "usage_limit_reached", message: "Limit", resets_in_seconds: 7200 } }, dayOver("key", forMs(2 * HOUR))],
  ["OpenAI: a bad key", "openai", 401, openai("Incorrect API key provided: sk-***x.", "invalid_request_error", "invalid_api_key"), dead],
  ["OpenAI: a deactivated account", "openai", 401, openai("Deactivated", "invalid_request_error", "account_deactivated"), dead],
  ["OpenAI: we sent no key", "openai", 401, openai("You didn't provide an API key.", "invalid_request_error"), rejected],
  ["OpenAI: a restricted key", "openai", 401, openai("You have insufficient permissions for this operation. Missing scopes: model.request.", "invalid_request_error"), unsuited("key+model")],
  ["OpenAI: a project without the model", "openai", 403, openai("Project has no access to `m`", "invalid_request_error", "model_not_found"), unsuited("key+model")],
  ["OpenAI: a model that may be gated", "openai", 404, openai("The model does not exist", "invalid_request_error", "model_not_found"), unsuited("key+model")],
  ["OpenAI: a region", "openai", 403, openai("Country, region, or territory not supported", "request_forbidden", "unsupported_country_region_territory"), rejected],
  ["OpenAI: no money, as older answers say it", "openai", 429, openai("You exceeded your current quota, please check your plan.", "insufficient_quota", null), noMoney()],
  ["OpenAI: requests a minute", "openai", 429, openai("Rate limit reached for m in organization o on requests per min (RPM): Limit 3, Used 3. Please try again in 644ms.", "requests", "rate_limit_exceeded"), tooFast("key+model", forMs(644))],
  ["OpenAI: a limit that says nothing", "openai", 429, "", tooFast("key+model")],
  ["OpenAI: its own fault", "openai", 500, openai("The server had an error", "server_error"), overloaded(null, true)],
  ["OpenAI: not ready", "openai", 503, openai("The engine is overloaded or not ready", "server_error"), overloaded()],
  ["OpenAI: too long for the model", "openai", 400, openai("This model's maximum context length is 8 tokens.", "invalid_request_error", "context_length_exceeded"), rejected],

  // Azure
  ["Azure: seconds in the sentence", "azure", 429, { error: { code: "429", message: "exceeded token rate limit. Please retry after 11 seconds." } }, tooFast("key+model", forMs(11_000))],
  ["Azure: milliseconds in the header", "azure", 429, { error: { code: "429", message: "x" } }, tooFast("key+model", forMs(350)), { "retry-after-ms": "350", "retry-after": "1" }],
  ["Azure lies: a day for a limit per minute", "azure", 429, { error: { code: "429", message: "exceeded token rate limit. Please retry after 86400 seconds." } }, tooFast("key+model", forMs(5 * MINUTE))],
  ["Azure: unknown counters are no hint", "azure", 429, { error: { code: "429", message: "x" } }, tooFast("key+model"), { "x-ratelimit-limit-requests": "-1", "x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "0" }],
  ["Azure: peak load", "azure", 429, { error: { code: "429", message: "We are experiencing high demand. Please retry after 20 seconds." } }, overloaded(20_000)],
  ["Azure: a 401 may be the endpoint", "azure", 401, { error: { code: "401", message: "invalid subscription key or wrong API endpoint" } }, doubted],
  ["Azure: a 401 with surer words is doubted as well", "azure", 401, { error: { code: "401", message: "Invalid API key, or wrong endpoint" } }, doubted],
  ["Azure: an identity without the role", "azure", 401, { error: { code: "PermissionDenied", message: "Lacks the data action" } }, unsuited("key")],
  ["Azure: a deployment is a resource's own", "azure", 404, { error: { code: "DeploymentNotFound", message: "No such deployment" } }, unsuited("key+model")],
  ["Azure: content filter", "azure", 400, { error: { code: "content_filter", message: "filtered" } }, rejected],
  ["Azure: a firewall", "azure", 403, { error: { code: "403", message: "Access denied due to Virtual Network/Firewall rules." } }, rejected],
  ["Azure: the newer words, which name model and region", "azure", 429, { error: { code: "RateLimitReached", message: "Your requests to m for m in East US have exceeded the token rate limit. Please retry after 14 seconds." } }, tooFast("key+model", forMs(14_000))],
  ["Azure: whole seconds until there are tokens again", "azure", 429, { error: { code: "429", message: "x" } }, tooFast("key+model", forMs(24_000)), { "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "24" }],
  ["Azure: a 401 by its name", "azure", 401, { error: { code: "Unauthorized", message: "Access token is missing, invalid, audience is incorrect, or has expired." } }, doubted],
  ["Azure: down", "azure", 503, { error: { code: "InternalServerError", message: "Unavailable" } }, overloaded()],

  // Anthropic
  ["Anthropic: retry-after goes before reset", "anthropic", 429, anthropic("rate_limit_error", "would exceed your organization's rate limit of 50 input tokens per minute"), tooFast("key+model", forMs(9000)), { "retry-after": "9", "anthropic-ratelimit-input-tokens-remaining": "0", "anthropic-ratelimit-input-tokens-reset": new Date(NOW + MINUTE).toISOString() }],
  ["Anthropic: reset where there is no retry-after", "anthropic", 429, anthropic("rate_limit_error", "limit"), tooFast("key+model", forMs(MINUTE)), { "anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": new Date(NOW + MINUTE).toISOString() }],
  ["Anthropic: the account's limit", "anthropic", 429, anthropic("rate_limit_error", "This request would exceed your account's rate limit."), tooFast("key")],
  ["Anthropic: a daily limit", "anthropic", 429, anthropic("rate_limit_error", "exceeded your daily rate limit"), dayOver("key+model", midnight("UTC"))],
  ["Anthropic: connections at once", "anthropic", 429, anthropic("rate_limit_error", "Number of concurrent connections has exceeded your rate limit"), tooMany()],
  ["Anthropic: a subscription's window", "anthropic", 429, anthropic("rate_limit_error", "limit"), dayOver("key", forMs(2 * HOUR)), { "anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": String((NOW - 250) / 1000 + 7200 + 0.25) }],
  ["Anthropic: shedding is the server's", "anthropic", 429, anthropic("rate_limit_error", "Rate limited"), overloaded()],
  ["Anthropic: the long context is an entitlement", "anthropic", 429, anthropic("rate_limit_error", "Extra usage is required for long context requests."), unsuited("key+model")],
  ["Anthropic: no credit is a 400", "anthropic", 400, anthropic("invalid_request_error", "Your credit balance is too low to do that."), noMoney()],
  ["Anthropic: a spend limit with its date is a 400", "anthropic", 400, anthropic("invalid_request_error", "You have reached your specified workspace API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."), noMoney("key", forMs(Date.UTC(2026, 11, 1) - NOW))],
  ["Anthropic: a spend limit is a 429, too", "anthropic", 429, anthropic("rate_limit_error", "Limit", { error_code: "enforced_spend_limit_reached" }), noMoney()],
  ["Anthropic: billing_error", "anthropic", 402, anthropic("billing_error", "Payment"), noMoney()],
  ["Anthropic: a disabled organization is a 400", "anthropic", 400, anthropic("invalid_request_error", "This organization has been disabled."), doubted],
  ["Anthropic: a prompt that quotes it is no evidence", "anthropic", 400, anthropic("invalid_request_error", "messages.0: bad value 'x\nYour credit balance is too low'"), rejected],
  ["Anthropic: a bad key", "anthropic", 401, anthropic("authentication_error", "invalid x-api-key"), dead],
  ["Anthropic: an OAuth token past its time", "anthropic", 401, anthropic("authentication_error", "OAuth token has expired."), dead],
  ["Anthropic: a permission", "anthropic", 403, anthropic("permission_error", "Your API key may not use this resource."), unsuited("key+model")],
  ["Anthropic: our address", "anthropic", 403, anthropic("forbidden", "Request not allowed"), rejected],
  ["Anthropic: no such model", "anthropic", 404, anthropic("not_found_error", "model: nope"), rejected],
  ["Anthropic: too large", "anthropic", 413, anthropic("request_too_large", "Too many bytes"), rejected],
  ["Anthropic: too long", "anthropic", 400, anthropic("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), rejected],
  ["Anthropic: overloaded", "anthropic", 529, anthropic("overloaded_error", "Overloaded"), overloaded()],
  ["Anthropic: overloaded as a 500", "anthropic", 500, anthropic("api_error", "Overloaded"), overloaded(null, true)],
  ["Anthropic: output tokens", "anthropic", 429, anthropic("rate_limit_error", "would exceed your organization's rate limit of 8 output tokens per minute"), tooFast("key+model", forMs(31_000)), { "retry-after": "31" }],
  ["Anthropic: its own fault", "anthropic", 500, anthropic("api_error", "Internal server error"), overloaded(null, true)],
  ["Anthropic: too slow", "anthropic", 504, anthropic("timeout_error", "Timed out"), overloaded(null, true)],

  // Gemini
  ["Gemini: a minute, with its delay", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota", [violation("RequestsPerMinutePerProject"), retryInfo("41s")]), tooFast("key+model", forMs(41_000))],
  ["Gemini: wrapped in an array", "gemini", 429, [google(429, "RESOURCE_EXHAUSTED", "Quota. Please retry in 12.5s.")], tooFast("key+model", forMs(12_500))],
  ["Gemini: quoted in a gateway's message", "gemini", 429, { error: { code: 429, message: JSON.stringify(google(429, "RESOURCE_EXHAUSTED", "Quota", [retryInfo("7s")])) } }, tooFast("key+model", forMs(7000))],
  ["Gemini lies: a day with a delay of seconds", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota. Please retry in 33s.", [violation("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), retryInfo("33s")]), dayOver("key+model", midnight("America/Los_Angeles"))],
  ["Gemini: of a minute and a day the day", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota", [violation("RequestsPerMinute"), violation("RequestsPerDay"), retryInfo("9s")]), dayOver("key+model", midnight("America/Los_Angeles"))],
  ["Gemini: no free quota for the model", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded for metric: free_tier_requests, limit: 0\nPlease retry in 4s."), unsuited("key+model")],
  ["Gemini: a limit that begins with 0 is none", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded, limit: 0.5\nPlease retry in 4s."), tooFast("key+model", forMs(4000))],
  ["Gemini: exhausted without details", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."), tooFast("key+model")],
  ["Gemini: prepaid credits used up", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."), noMoney()],
  ["Gemini: a bad key is a 400", "gemini", 400, google(400, "INVALID_ARGUMENT", "Bad.", [reason("API_KEY_INVALID")]), dead],
  ["Gemini: an expired key is a 400", "gemini", 400, google(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key."), dead],
  ["Gemini: a leaked key is a 403", "gemini", 403, google(403, "PERMISSION_DENIED", "Your API key was reported as leaked."), dead],
  ["Gemini: a suspended consumer", "gemini", 403, google(403, "PERMISSION_DENIED", "Permission denied", [reason("CONSUMER_SUSPENDED")]), dead],
  ["Gemini: a key not meant for this service", "gemini", 403, google(403, "PERMISSION_DENIED", "Requests are blocked.", [reason("API_KEY_SERVICE_BLOCKED")]), doubted],
  ["Gemini: a denied project", "gemini", 403, google(403, "PERMISSION_DENIED", "Your project has been denied access."), doubted],
  ["Gemini: a service not switched on", "gemini", 403, google(403, "PERMISSION_DENIED", "Off", [reason("SERVICE_DISABLED")]), unsuited("key")],
  ["Gemini: a project without billing", "gemini", 403, google(403, "PERMISSION_DENIED", "Off", [reason("BILLING_DISABLED")]), noMoney()],
  ["Gemini: another's tuned model", "gemini", 403, google(403, "PERMISSION_DENIED", "You may not read it."), unsuited("key+model")],
  ["Gemini: our address", "gemini", 400, google(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), rejected],
  ["Gemini: only a billed project may from here", "gemini", 400, google(400, "FAILED_PRECONDITION", "Gemini API free tier is not available in your country. Please enable billing."), unsuited("key")],
  ["Gemini: no such model", "gemini", 404, google(404, "NOT_FOUND", "models/nope is not found"), rejected],
  ["Gemini: overloaded", "gemini", 503, google(503, "UNAVAILABLE", "The model is overloaded."), modelDown()],
  ["Gemini: tokens a minute", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota", [violation("GenerateContentInputTokensPerModelPerMinute-FreeTier"), retryInfo("18.75s")]), tooFast("key+model", forMs(18_750))],
  ["Gemini: of two delays the longer", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota", [violation("RequestsPerMinute"), retryInfo("3s"), retryInfo("27s")]), tooFast("key+model", forMs(27_000))],
  ["Gemini: a key nobody knows", "gemini", 400, google(400, "INVALID_ARGUMENT", "API Key not found. Please pass a valid API key."), dead],
  ["Gemini: its own fault", "gemini", 500, google(500, "INTERNAL", "An internal error has occurred."), overloaded(null, true)],
  ["Gemini: too slow", "gemini", 504, google(504, "DEADLINE_EXCEEDED", "Deadline expired"), overloaded(null, true)],

  // Vertex
  ["Vertex: a quota per minute", "vertex", 429, [google(429, "RESOURCE_EXHAUSTED", "Quota exceeded for aiplatform.googleapis.com/x_per_minute_per_base_model with base model: m.")], tooFast("key+model")],
  ["Vertex: shared capacity", "vertex", 429, [google(429, "RESOURCE_EXHAUSTED", "Resource exhausted. See https://cloud.google.com/docs/error-code-429 for more.")], overloaded()],
  ["Vertex: a model of another project", "vertex", 400, [google(400, "FAILED_PRECONDITION", "Project `1` is not allowed to use Publisher Model `m`")], unsuited("key+model")],
  ["Vertex: a gated model", "vertex", 404, google(404, "NOT_FOUND", "Publisher Model `m` was not found or your project does not have access to it."), unsuited("key+model")],
  ["Vertex: a token past its hour", "vertex", 401, google(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."), doubted],
  ["Vertex: an expired token in surer words", "vertex", 401, google(401, "UNAUTHENTICATED", "Invalid access token."), doubted],
  ["Code Assist: hours, as a Go duration", "vertex", 429, google(429, "RESOURCE_EXHAUSTED", "Exhausted", [reason("QUOTA_EXHAUSTED", { quotaResetDelay: "26h30m1s" })]), dayOver("key+model", forMs(26 * HOUR + 30 * MINUTE + SECOND))],
  ["Code Assist: no capacity", "vertex", 429, google(429, "RESOURCE_EXHAUSTED", "No capacity", [reason("MODEL_CAPACITY_EXHAUSTED"), retryInfo("9s")]), modelDown(9000)],
  ["Code Assist: a limit of seconds", "vertex", 429, google(429, "RESOURCE_EXHAUSTED", "Exhausted", [reason("RATE_LIMIT_EXCEEDED", { quotaResetDelay: "5.25s" })]), tooFast("key+model", forMs(5250))],
  ["Code Assist: an instant", "vertex", 429, google(429, "RESOURCE_EXHAUSTED", "Exhausted", [reason("QUOTA_EXHAUSTED", { quotaResetTimeStamp: new Date(NOW + 3 * HOUR).toISOString() })]), dayOver("key+model", forMs(3 * HOUR))],

  // OpenRouter
  ["OpenRouter: free models a minute, epoch ms in the body", "openrouter", 429, { error: { code: 429, message: "Rate limit exceeded: free-models-per-min", metadata: { headers: { "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": String(NOW + 38_000) }, provider_name: null } } }, tooFast("key", forMs(38_000))],
  ["OpenRouter: free models a day, with its reset", "openrouter", 429, { error: { code: 429, message: "Rate limit exceeded: free-models-per-day", metadata: { headers: { "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": String(NOW + 2 * HOUR) } } } }, dayOver("key", forMs(2 * HOUR))],
  ["OpenRouter: free models a day, without it", "openrouter", 429, openai("Rate limit exceeded: free-models-per-day-high-balance.", "rate_limit_error", "429"), dayOver("key", midnight("UTC"))],
  ["OpenRouter: a day by the distance of its reset", "openrouter", 429, { error: { code: 429, message: "Rate limit exceeded", metadata: { error_type: "rate_limit_exceeded" } } }, dayOver("key", forMs(2 * HOUR)), { "x-ratelimit-limit": "50", "x-ratelimit-remaining": "0", "x-ratelimit-reset": String(NOW + 2 * HOUR) }],
  ["OpenRouter: the provider behind it", "openrouter", 429, { error: { code: 429, message: "Provider returned error", metadata: { provider_name: "X", raw: "busy" } } }, overloaded()],
  ["OpenRouter: the provider behind it, by limit_source", "openrouter", 429, { error: { code: 429, message: "x", metadata: { limit_source: "upstream_provider_shared_pool" } } }, overloaded(4000), { "retry-after": "4" }],
  ["OpenRouter: every provider is full", "openrouter", 429, { error: { message: "Full", availability: { code: "capacity_exhausted", retry_after: 12 } } }, overloaded(12_000)],
  ["OpenRouter: one's own provider key", "openrouter", 429, { error: { code: 429, message: "Provider returned error", metadata: { provider_name: "X", is_byok: true } } }, tooFast("key+model")],
  ["OpenRouter: no credits", "openrouter", 402, { error: { code: 402, message: "Insufficient credits." } }, noMoneyYet()],
  ["OpenRouter: no credits, by limit_source", "openrouter", 429, { error: { code: 429, message: "x", metadata: { limit_source: "openrouter_credits" } } }, noMoney()],
  ["OpenRouter: a budget in flight passes", "openrouter", 402, { error: { code: 402, message: "x", metadata: { limit_source: "openrouter_in_flight_budget" } } }, tooMany(forMs(3000)), { "retry-after": "3" }],
  ["OpenRouter: too big for what is left", "openrouter", 402, { error: { code: 402, message: "You requested up to 9 tokens, but can only afford 5." } }, unsuited("key")],
  ["OpenRouter: a key's daily cap", "openrouter", 403, { error: { code: 403, message: "Key limit exceeded (daily limit)." } }, dayOver("key", midnight("UTC"))],
  ["OpenRouter: a key's weekly cap ends on Monday", "openrouter", 403, { error: { code: 403, message: "Key limit exceeded (weekly limit)." } }, dayOver("key", forMs(Date.UTC(2026, 10, 23) - NOW))],
  ["OpenRouter: a key's monthly cap ends on the first", "openrouter", 403, { error: { code: 403, message: "Key limit exceeded (monthly limit)." } }, dayOver("key", forMs(Date.UTC(2026, 11, 1) - NOW))],
  ["OpenRouter: a key's total cap", "openrouter", 403, { error: { code: 403, message: "Key limit exceeded (total limit)." } }, noMoney()],
  ["OpenRouter: moderation", "openrouter", 403, { error: { code: 403, message: "Your input was flagged", metadata: { reasons: ["x"], flagged_input: "secret" } } }, rejected],
  ["OpenRouter: a management key", "openrouter", 403, { error: { code: 403, message: "Only management keys can do this" } }, rejected],
  ["OpenRouter: a bad key", "openrouter", 401, { error: { code: 401, message: "User not found." } }, dead],
  ["OpenRouter: we sent no key", "openrouter", 401, { error: { code: 401, message: "No auth credentials found" } }, rejected],
  ["OpenRouter: an account's data policy", "openrouter", 404, { error: { code: 404, message: "No endpoints found matching your data policy." } }, unsuited("key+model")],
  ["OpenRouter: an account's data policy, by its code", "openrouter", 404, { error: { message: "None left", availability: { code: "privacy_restricted" } } }, unsuited("key+model")],
  ["OpenRouter: no such model", "openrouter", 404, { error: { code: 404, message: "No endpoints found for x/y." } }, rejected],
  ["OpenRouter: 400 quoted from behind", "openrouter", 400, { error: { code: 400, message: "Provider returned error", metadata: { raw: '{"message":"Too long."}', provider_name: "X" } } }, rejected],
  ["OpenRouter: 503 with a time", "openrouter", 503, { error: { code: 503, message: "Down" } }, overloaded(60_000), { "retry-after": "60" }],
  ["OpenRouter: free models a minute, in real headers", "openrouter", 429, { error: { code: 429, message: "Rate limit exceeded" } }, tooFast("key", forMs(21_000)), { "x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": String(NOW + 21_000) }],
  ["OpenRouter: a reset in seconds", "openrouter", 429, { error: { code: 429, message: "Rate limit exceeded: free-models-per-min" } }, tooFast("key", forMs(25_000 - 250)), { "x-ratelimit-remaining": "0", "x-ratelimit-reset": String((NOW - 250) / 1000 + 25) }],
  ["OpenRouter: a prompt too long for what is left", "openrouter", 402, { error: { code: 402, message: "Prompt tokens limit exceeded: 9 > 4" } }, unsuited("key")],
  ["OpenRouter: a guardrail", "openrouter", 403, { error: { code: 403, message: "Blocked", metadata: { patterns: ["x"] } } }, rejected],
  ["OpenRouter: a region", "openrouter", 403, { error: { code: 403, message: "This model is not available in your region." } }, rejected],
  ["OpenRouter: a header that is missing", "openrouter", 401, { error: { code: 401, message: "Missing Authentication header" } }, rejected],
  ["OpenRouter: an unknown model", "openrouter", 400, { error: { code: 400, message: "x/y is not a valid model ID" } }, rejected],
  ["OpenRouter: none of the providers the request allows", "openrouter", 404, { error: { code: 404, message: "No allowed providers are available for the selected model." } }, rejected],
  ["OpenRouter: what is behind it failed", "openrouter", 502, { error: { code: 502, message: "Provider returned error", metadata: { provider_name: "X", raw: "bad gateway" } } }, overloaded(null, true)],

  // NVIDIA
  ["NVIDIA: a limit says nothing", "nvidia", 429, { status: 429, title: "Too Many Requests" }, tooFast("key")],
  ["NVIDIA: an account without the model is a 404", "nvidia", 404, { status: 404, title: "Not Found", detail: "Function 'f': Not found for account 'a'" }, unsuited("key+model")],
  ["NVIDIA: a path that does not exist", "nvidia", 404, "404 page not found\n", rejected],
  ["NVIDIA: 403 also came to good keys", "nvidia", 403, { status: 403, title: "Forbidden", detail: "Authorization failed" }, doubted],
  ["NVIDIA: 401", "nvidia", 401, { status: 401, title: "Unauthorized", detail: "Authentication failed" }, doubted],
  ["NVIDIA: a withdrawn model", "nvidia", 410, { status: 410, title: "Gone" }, rejected],
  ["NVIDIA: a worker's queue", "nvidia", 429, openai("ResourceExhausted: Worker local total request limit reached (1/1)", "x"), overloaded()],
  ["NVIDIA: no free credits", "nvidia", 402, { status: 402, title: "Payment Required", detail: "Account has no credits" }, noMoney()],
  ["NVIDIA: its own fault", "nvidia", 500, { status: 500, title: "Internal Server Error", detail: "x" }, overloaded(null, true)],

  // Groq
  ["Groq: retry-after, not the daily bucket's reset", "groq", 429, openai("Rate limit reached on requests per minute (RPM). Please try again in 2s.", "requests", "rate_limit_exceeded"), tooFast("key+model", forMs(2000)), { "retry-after": "2", "x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "3m6s" }],
  ["Groq: a day that comes back bit by bit", "groq", 429, openai("Rate limit reached on tokens per day (TPD). Please try again in 9m38s. Upgrade today.", "tokens", "rate_limit_exceeded"), tooFast("key+model", forMs(9 * MINUTE + 38 * SECOND))],
  ["Groq lies: no wait helps a 413", "groq", 413, openai("Request too large", "tokens", "rate_limit_exceeded"), rejected, { "retry-after": "9" }],
  ["Groq: flex capacity", "groq", 498, openai("Flex tier capacity exceeded", "capacity_exceeded"), overloaded()],
  ["Groq: over capacity", "groq", 503, openai("m is currently over capacity", "internal_server_error"), overloaded()],
  ["Groq: a model blocked for the organization", "groq", 403, openai("Blocked", "permissions_error", "model_permission_blocked_org"), unsuited("key+model")],
  ["Groq: a restricted organization is a 400", "groq", 400, openai("Restricted", "invalid_request_error", "organization_restricted"), dead],
  ["Groq: a gated model", "groq", 404, openai("The model `m` does not exist or you do not have access to it.", "invalid_request_error", "model_not_found"), unsuited("key+model")],
  ["Groq: a bad key", "groq", 401, openai("Invalid API Key", "invalid_request_error", "invalid_api_key"), dead],
  ["Groq: tokens a minute", "groq", 429, openai("Rate limit reached on tokens per minute (TPM): Limit 6, Used 5. Please try again in 7.66s.", "tokens", "rate_limit_exceeded"), tooFast("key+model", forMs(8000)), { "retry-after": "8" }],
  ["Groq: a model blocked for the project", "groq", 403, openai("Blocked", "permissions_error", "model_permission_blocked_project"), unsuited("key+model")],

  // Together
  ["Together: credit_limit under 429 is a rate limit", "together", 429, openai("You have been rate limited. Your rate limit is 60 queries per minute.", "credit_limit"), tooFast("key")],
  ["Together: credit_limit under 402 is money", "together", 402, openai("Credit limit exceeded.", "credit_limit"), noMoney()],
  ["Together: seconds in the header", "together", 429, openai("Limited", "x"), tooFast("key", forMs(4000)), { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "4" }],
  ["Together: overloaded", "together", 503, openai("The server is overloaded or not ready yet.", "server_error"), overloaded()],
  ["Together: a bad key", "together", 401, openai("Invalid API key provided.", "invalid_request_error", "invalid_api_key"), dead],

  // Mistral
  ["Mistral: to the end of the wall-clock minute", "mistral", 429, { object: "error", message: "Rate limit exceeded", type: "rate_limited", code: "1300" }, tooFast("key+model", forMs(52_750))],
  ["Mistral: the gateway's words", "mistral", 429, { message: "Requests rate limit exceeded" }, tooFast("key+model", forMs(52_750))],
  ["Mistral: capacity", "mistral", 429, { object: "error", message: "Service tier capacity exceeded for this model.", code: "3505" }, modelDown()],
  ["Mistral: a bare 401", "mistral", 401, { detail: "Unauthorized" }, doubted],
  ["Mistral: no such model", "mistral", 400, { object: "error", message: "Invalid model: nope", code: "1500" }, rejected],
  ["Mistral: capacity as a 503", "mistral", 503, { object: "error", message: "Service tier capacity exceeded for this model.", code: "3505" }, modelDown()],
  ["Mistral: a named wait goes before the clock", "mistral", 429, { message: "Requests rate limit exceeded" }, tooFast("key+model", forMs(2000)), { "retry-after": "2" }],

  // Cerebras
  ["Cerebras: requests a minute", "cerebras", 429, { message: "Requests per minute limit exceeded", param: "quota", code: "request_quota_exceeded" }, tooFast("key+model", forMs(58_000)), { "retry-after": "58" }],
  ["Cerebras: tokens a day", "cerebras", 429, { message: "Tokens per day limit exceeded", param: "quota", code: "token_quota_exceeded" }, dayOver("key+model", forMs(HOUR)), { "retry-after": "3600" }],
  ["Cerebras: a queue is no quota", "cerebras", 429, { message: "Soon", param: "queue", code: "queue_exceeded" }, overloaded(), { "x-should-retry": "false" }],
  ["Cerebras: a gated model", "cerebras", 404, { message: "Model m does not exist or you do not have access to it.", code: "model_not_found" }, unsuited("key+model")],
  ["Cerebras: a bad key", "cerebras", 401, { message: "Wrong API Key", code: "wrong_api_key" }, dead],
  ["Cerebras: tokens a minute", "cerebras", 429, { message: "Tokens per minute limit exceeded - too many tokens processed.", type: "too_many_tokens_error", param: "quota", code: "token_quota_exceeded" }, tooFast("key+model", forMs(60_000)), { "retry-after": "60" }],

  // DeepSeek, Fireworks
  ["DeepSeek: no money, whatever its code says", "deepseek", 402, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), noMoney()],
  ["DeepSeek: load, no account's limit", "deepseek", 429, openai("Too many", "x"), overloaded()],
  ["DeepSeek: an account's requests at once", "deepseek", 429, openai("Your concurrency limit is reached", "x"), tooMany()],
  ["DeepSeek: a bad key", "deepseek", 401, openai("Authentication Fails, Your api key: ****abcd is invalid", "authentication_error"), dead],
  ["DeepSeek: moderation", "deepseek", 400, openai("Content Exists Risk", "invalid_request_error"), rejected],
  ["DeepSeek: load as a 503", "deepseek", 503, openai("Service is too busy", "service_unavailable_error"), overloaded()],
  ["Fireworks: no money is a 412", "fireworks", 412, openai("Account a is suspended, possibly due to reaching the monthly spending limit", "error", "PRECONDITION_FAILED"), noMoney()],
  ["Fireworks: another 412 is the client's", "fireworks", 412, openai("Deployment is scaling", "error", "PRECONDITION_FAILED"), rejected],
  ["Fireworks: adaptive limits", "fireworks", 429, openai("Rate limit exceeded", "error", "RATE_LIMIT_EXCEEDED"), tooFast("key+model")],
  ["Fireworks: absent or gated", "fireworks", 404, openai("Model not found, inaccessible, and/or not deployed", "error", "NOT_FOUND"), unsuited("key+model")],
  ["Fireworks: overloaded", "fireworks", 503, openai("Service overloaded", "error", "OVERLOADED"), overloaded()],
  ["Fireworks: a bad key", "fireworks", 403, openai("The API key you provided is invalid.", "error", "UNAUTHORIZED"), dead],

  // Cohere, SambaNova
  ["Cohere: a trial's minute is per model", "cohere", 429, { message: "You are using a Trial key, which is limited to 10 API calls / minute." }, tooFast("key+model")],
  ["Cohere: a trial's month", "cohere", 429, { message: "You are using a Trial key, which is limited to 1000 API calls / month." }, dayOver("key", midnight("UTC"))],
  ["Cohere: please wait", "cohere", 429, { message: "Please wait and try again later" }, tooFast("key")],
  ["Cohere: a gated model", "cohere", 404, { message: "model 'm' not found, make sure that you have access to the model." }, unsuited("key+model")],
  ["Cohere: a bad key", "cohere", 401, { message: "invalid api token" }, dead],
  ["Cohere: we sent no key", "cohere", 401, { message: "no api key supplied" }, rejected],
  ["Cohere: money", "cohere", 402, { message: "Maximum billing reached" }, noMoney()],
  ["Cohere: too many tokens are not too many requests", "cohere", 400, { message: "too many tokens" }, rejected],
  ["Cohere: a key past its time", "cohere", 401, { message: "Your API key has expired. Please create a production key." }, dead],
  ["Cohere: a trial's tokens", "cohere", 429, { message: "trial token rate limit exceeded, limit is 9 tokens per minute" }, tooFast("key")],
  ["Cohere: a request that was cancelled", "cohere", 499, { message: "request cancelled" }, rejected],
  ["SambaNova: no such model", "sambanova", 404, openai("Model m not found", "invalid_request_error", "model_not_found"), rejected],
  ["SambaNova: the empty bucket's reset", "sambanova", 429, openai("Rate limit exceeded", "rate_limit_exceeded"), tooFast("key+model", forMs(30_000)), { "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30", "x-ratelimit-remaining-requests-day": "9", "x-ratelimit-reset-requests-day": "4h17m" }],
  ["SambaNova: tokens a day", "sambanova", 429, openai("Rate limit exceeded: tokens per day", "rate_limit_exceeded"), dayOver("key+model", midnight("UTC"))],

  // GitHub Models, Hugging Face
  ["GitHub: five at once", "github", 429, { error: { code: "RateLimitReached", message: "Rate limit of 5 per 0s exceeded for UserConcurrentRequests. Please wait 0 seconds." } }, tooMany(forMs(SECOND)), { "retry-after": "0" }],
  ["GitHub: the kind only in the header", "github", 429, "", tooMany(), { "x-ratelimit-type": "UserConcurrentRequests" }],
  ["GitHub: a model's day, with its wait", "github", 429, { error: { code: "RateLimitReached", message: "Rate limit of 50 per 86400s exceeded for UserByModelByDay. Please wait 600 seconds." } }, dayOver("key+model", forMs(600_000))],
  ["GitHub: a model's minute", "github", 429, { error: { code: "RateLimitReached", message: "Rate limit of 10 per 60s exceeded for UserByModelByMinute. Please wait 6 seconds." } }, tooFast("key+model", forMs(6000))],
  ["GitHub: a user's minute", "github", 429, { error: { code: "RateLimitReached", message: "Rate limit of 10 per 60s exceeded for UserByMinute. Please wait 6 seconds." } }, tooFast("key", forMs(6000))],
  ["GitHub: a user's day", "github", 429, { error: { code: "RateLimitReached", message: "Rate limit of 50 exceeded for UserByDay." } }, dayOver("key", midnight("UTC"))],
  ["GitHub: a model not for this user", "github", 403, { error: { code: "no_access", message: "No." } }, unsuited("key+model")],
  ["GitHub: a bad token", "github", 401, { message: "Bad credentials" }, dead],
  ["GitHub: a token without the scope", "github", 401, openai("The `models` permission is required to access this endpoint", "x", "unauthorized"), unsuited("key")],
  ["Hugging Face: a month's credits", "huggingface", 402, { error: "You have depleted your monthly included credits." }, noMoney()],
  ["Hugging Face: the IETF field", "huggingface", 429, { error: "Rate limit exceeded" }, tooFast("key", forMs(112_000)), { ratelimit: '"api";r=0;t=112' }],
  ["Hugging Face: a token not for inference", "huggingface", 403, { error: "This authentication method does not have sufficient permissions to call Inference Providers on behalf of user u" }, unsuited("key")],
  ["Hugging Face: 401", "huggingface", 401, { error: "Invalid username or password." }, doubted],
  ["Hugging Face: what is behind it is busy", "huggingface", 429, { error: { message: "Model is overloaded", type: "overloaded_error" } }, overloaded()],
  ["Hugging Face: the reason only in a header", "huggingface", 402, "", noMoney(), { "x-error-message": "You have depleted your monthly included credits." }],

  // xAI, Perplexity
  ["xAI: a bad key is a 400", "xai", 400, { code: "invalid-argument", error: "Incorrect API key provided: xa***z." }, dead],
  ["xAI: a prompt that speaks of it is no evidence", "xai", 400, { code: "invalid-argument", error: "Bad input: 'Incorrect API key provided'" }, rejected],
  ["xAI: no money is a 429", "xai", 429, { code: "resource-exhausted", error: "Your team t has either used all available credits or reached its monthly limit." }, noMoney()],
  ["xAI: no money is a 403", "xai", 403, { code: "permission-denied", error: "Your team t has either used all available credits or reached its monthly limit." }, noMoney()],
  ["xAI: the free allowance", "xai", 429, { code: "resource-exhausted", error: "Free usage quota reached." }, dayOver("key", midnight("UTC"))],
  ["xAI: a team's limit for a model", "xai", 429, { code: "resource-exhausted", error: "Too many requests for team t and model grok. Requests per Minute (actual/limit): 2/2." }, tooFast("key+model")],
  ["xAI: a model the team may not use", "xai", 429, { code: "resource-exhausted", error: "Too many requests for team t and model grok. Requests per Minute (actual/limit): 0/0." }, unsuited("key+model")],
  ["xAI: we sent no key", "xai", 401, { code: "unauthenticated:no-credentials", error: "No credentials provided" }, rejected],
  ["xAI: a gated model", "xai", 404, { code: "not-found", error: "The model g does not exist or your team t does not have access to it." }, unsuited("key+model")],
  ["xAI: moderation", "xai", 403, { code: "permission-denied", error: "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_X" }, rejected],
  ["xAI: a model that does not exist at all", "xai", 404, { code: "not-found", error: "The requested resource was not found." }, rejected],
  ["xAI: full", "xai", 503, { code: "unavailable", error: "The service is temporarily at capacity." }, overloaded()],
  ["Perplexity: its 401 is a page", "perplexity", 401, page("401 Authorization Required"), doubted],
  ["Perplexity: its 429 may be one, too", "perplexity", 429, page("429"), tooFast("key")],
  ["Perplexity: no money is a 401", "perplexity", 401, openai("You exceeded your current quota", "insufficient_quota", 401), noMoney()],
  ["Perplexity: a limit", "perplexity", 429, openai("Request rate limit exceeded, please try again later.", "rate_limit_exceeded", 429), tooFast("key")],

  // Cloudflare Workers AI
  ["Cloudflare: the day's neurons, as documented", "cloudflare", 429, cloudflare(3036, "Used up"), dayOver("key", midnight("UTC"))],
  ["Cloudflare: the day's neurons, as seen", "cloudflare", 429, cloudflare(4006, "you have used up your daily free allocation"), dayOver("key", midnight("UTC"))],
  ["Cloudflare: the same 429, but capacity", "cloudflare", 429, cloudflare(3040, "Try again"), overloaded()],
  ["Cloudflare: a blocked account", "cloudflare", 403, cloudflare(3023, "Service unavailable for account"), doubted],
  ["Cloudflare: a model not for this account", "cloudflare", 403, cloudflare(5018, "Not allowed"), unsuited("key+model")],
  ["Cloudflare: no such model", "cloudflare", 400, cloudflare(5007, "No such model"), rejected],
  ["Cloudflare: authentication, whatever the status", "cloudflare", 400, cloudflare(10000, "Authentication error"), doubted],
  ["Cloudflare: a model with terms to agree to", "cloudflare", 403, cloudflare(5016, "Model agreement required"), unsuited("key+model")],
  ["Cloudflare: a model for other plans", "cloudflare", 403, cloudflare(3041, "Not on this plan"), unsuited("key+model")],
  ["Cloudflare: a model that went", "cloudflare", 404, cloudflare(3042, "Gone"), rejected],
  ["Cloudflare: too large", "cloudflare", 413, cloudflare(3006, "Request is too large"), rejected],

  // Moonshot, Zhipu
  ["Kimi: requests a minute", "moonshot", 429, openai("Your account o request reached organization max RPM: 3, please try again after 1 seconds", "rate_limit_reached_error"), tooFast("key", forMs(1000))],
  ["Kimi: at once", "moonshot", 429, openai("Your account o request reached max organization concurrency: 1, please try again after 1 seconds", "rate_limit_reached_error"), tooMany(forMs(SECOND))],
  ["Kimi: a day's tokens", "moonshot", 429, openai("Your account o request reached organization TPD rate limit, current: 2, limit: 1", "rate_limit_reached_error"), dayOver("key", midnight("Asia/Shanghai"))],
  ["Kimi: the service is busy, in the same type", "moonshot", 429, openai("We're receiving too many requests at the moment.", "rate_limit_reached_error"), overloaded()],
  ["Kimi: the engine is overloaded", "moonshot", 429, openai("Overloaded", "engine_overloaded_error"), overloaded()],
  ["Kimi: the engine is overloaded, in Anthropic's skin", "moonshot", 429, anthropic("rate_limit_error", "The engine is currently overloaded"), overloaded()],
  ["Kimi: no money is a 429", "moonshot", 429, openai("Your account is suspended", "exceeded_current_quota_error"), noMoney()],
  ["Kimi: no money is a 403", "moonshot", 403, openai("Quota", "exceeded_current_quota_error"), noMoney()],
  ["Kimi: a 401 may be the other world's address", "moonshot", 401, openai("Incorrect API key provided", "incorrect_api_key_error"), doubted],
  ["Kimi: a permission", "moonshot", 403, openai("No.", "permission_denied_error"), unsuited("key+model")],
  ["Kimi: a gated model", "moonshot", 404, openai("Not found the model m or Permission denied", "resource_not_found_error"), unsuited("key+model")],
  ["Kimi: tokens a minute", "moonshot", 429, openai("Your account o request reached organization TPM rate limit, current: 2, limit: 1, please try again after 5 seconds", "rate_limit_reached_error"), tooFast("key", forMs(5000))],
  ["Zhipu: 1302 is about how many at once", "zhipu", 429, zhipu("1302", "Rate limit reached"), tooMany()],
  ["Zhipu: 1304 is a model's day", "zhipu", 429, zhipu("1304", "今日"), dayOver("key+model", midnight("Asia/Shanghai"))],
  ["Zhipu: 1305 is a busy model", "zhipu", 429, zhipu("1305", "访问量过大"), overloaded()],
  ["Zhipu: 1308 names Beijing time without a zone", "zhipu", 429, zhipu("1308", "Usage limit reached for 5 hour. Your limit will reset at 2026-11-21 07:54:07"), dayOver("key", forMs(2 * HOUR - 250))],
  ["Zhipu: 1310 in Chinese", "zhipu", 429, zhipu("1310", "已达到每周的使用上限。您的限额将在 2026-11-23 05:54:07 重置。"), dayOver("key", forMs(2 * DAY - 250))],
  ["Zhipu: 1309 is an expired plan", "zhipu", 429, zhipu("1309", "套餐已到期"), noMoney()],
  ["Zhipu: 1311 is a plan without the model", "zhipu", 429, zhipu("1311", "x"), unsuited("key+model")],
  ["Zhipu: 1113 is arrears", "zhipu", 429, zhipu("1113", "x"), noMoney()],
  ["Zhipu: 1112 is a locked account", "zhipu", 429, zhipu("1112", "x"), doubted],
  ["Zhipu: 1001 is no token at all", "zhipu", 401, zhipu("1001", "x"), rejected],
  ["Zhipu: 1002 is a bad token", "zhipu", 401, zhipu("1002", "x"), dead],
  ["Zhipu: 1301 is moderation", "zhipu", 400, zhipu("1301", "x"), rejected],
  ["Zhipu: 1211 is no such model", "zhipu", 400, zhipu("1211", "x"), rejected],
  ["Zhipu: 1303 is like 1302", "zhipu", 429, zhipu("1303", "x"), tooMany()],
  ["Zhipu: 1312 is a busy model", "zhipu", 429, zhipu("1312", "x"), overloaded()],
  ["Zhipu: 1261 is too long", "zhipu", 400, zhipu("1261", "x"), rejected],
  ["Zhipu: 1220 is a permission", "zhipu", 403, zhipu("1220", "x"), unsuited("key+model")],
  ["Zhipu: 1000 is a refusal that says nothing", "zhipu", 401, zhipu("1000", "x"), doubted],
  ["Zhipu: 1003 is a token past its time", "zhipu", 401, zhipu("1003", "x"), dead],
  ["Zhipu: 1121 is a blocked account", "zhipu", 403, zhipu("1121", "x"), doubted],

  // DashScope, SiliconFlow, ModelScope, Ollama
  ["Qwen: requests", "dashscope", 429, { code: "Throttling.RateQuota", message: "Requests rate limit exceeded", request_id: "1" }, tooFast("key+model")],
  ["Qwen: insufficient_quota is tokens a minute", "dashscope", 429, openai("You exceeded your current quota, see error-code#token-limit", "insufficient_quota", "insufficient_quota"), tooFast("key+model")],
  ["Qwen: insufficient_quota is money if it says free", "dashscope", 429, openai("Free allocated quota exceeded.", "insufficient_quota", "insufficient_quota"), noMoney("key+model")],
  ["Qwen: the free tier of a model", "dashscope", 403, { code: "AllocationQuota.FreeTierOnly", message: "The free tier is exhausted" }, noMoney("key+model")],
  ["Qwen: arrears are a 400", "dashscope", 400, { code: "Arrearage", message: "Access denied" }, noMoney()],
  ["Qwen: arrears as an event under a 400", "dashscope", 400, 'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"Arrearage","message":"Access denied"}\n\n', noMoney()],
  ["Qwen: a coding plan's five hours", "dashscope", 429, openai("hour allocated quota exceeded.", "x", "insufficient_quota"), dayOver("key", forMs(HOUR))],
  ["Qwen: a coding plan's week", "dashscope", 429, openai("week allocated quota exceeded.", "x", "insufficient_quota"), dayOver("key", forMs(6 * HOUR))],
  ["Qwen: too many at once", "dashscope", 429, openai("concurrency allocated quota exceeded", "x", "insufficient_quota"), tooMany()],
  ["Qwen: an overdue bill", "dashscope", 400, { code: "PrepaidBillOverdue", message: "x" }, noMoney()],
  ["Qwen: moderation", "dashscope", 400, openai("x", "data_inspection_failed", "data_inspection_failed"), rejected],
  ["Qwen: a 401 may be the region", "dashscope", 401, { code: "InvalidApiKey", message: "Invalid API-key provided." }, doubted],
  ["Qwen: a model not for this account", "dashscope", 403, { code: "Model.AccessDenied", message: "x" }, unsuited("key+model")],
  ["Qwen: too steep a rise", "dashscope", 429, { code: "Throttling.BurstRate", message: "Request rate increased too quickly." }, tooFast("key+model", forMs(4000))],
  ["Qwen: tokens, in its own envelope", "dashscope", 429, { code: "Throttling.AllocationQuota", message: "Allocated quota exceeded, see error-code#token-limit" }, tooFast("key+model")],
  ["SiliconFlow: tokens", "siliconflow", 429, { message: "Request was rejected due to rate limiting. Details: TPM limit reached.", data: null }, tooFast("key+model")],
  ["SiliconFlow: a day's requests", "siliconflow", 429, { message: "Request was rejected due to rate limiting. Details: RPD limit reached.", data: null }, dayOver("key+model", midnight("Asia/Shanghai"))],
  ["SiliconFlow: no money is a 403", "siliconflow", 403, { code: 30001, message: "Balance", data: null }, noMoney()],
  ["SiliconFlow: a model nobody has", "siliconflow", 403, { code: 30003, message: "Model disabled.", data: null }, rejected],
  ["SiliconFlow: its 401 is a bare string", "siliconflow", 401, '"Api key is invalid"', dead],
  ["SiliconFlow: busy", "siliconflow", 503, { code: 50505, message: "Model service overloaded." }, modelDown()],
  ["SiliconFlow: requests", "siliconflow", 429, { message: "Request was rejected due to rate limiting. Details: RPM limit reached.", data: null }, tooFast("key+model")],
  ["ModelScope: a model's day", "modelscope", 429, { error: { message: "You have exceeded today's quota for model m" } }, dayOver("key+model", midnight("Asia/Shanghai"))],
  ["ModelScope: the account's day", "modelscope", 429, { error: { message: "You have exceeded today's quota" } }, dayOver("key", midnight("Asia/Shanghai"))],
  ["ModelScope: the account's day by its counter", "modelscope", 429, {}, dayOver("key", midnight("Asia/Shanghai")), { "modelscope-ratelimit-requests-remaining": "0", "modelscope-ratelimit-model-requests-remaining": "3" }],
  ["ModelScope: a model's day by its counter", "modelscope", 429, {}, dayOver("key+model", midnight("Asia/Shanghai")), { "modelscope-ratelimit-requests-remaining": "7", "modelscope-ratelimit-model-requests-remaining": "0" }],
  ["ModelScope: OpenAI's billing words for a passing limit", "modelscope", 429, openai("You exceeded your current quota", "x", "insufficient_quota"), tooFast("key+model")],
  ["Ollama: a session is hours", "ollama", 429, { error: "you (u) have reached your session usage limit" }, dayOver("key", forMs(HOUR))],
  ["Ollama: a week", "ollama", 429, { error: "you (u) have reached your weekly usage limit" }, dayOver("key", forMs(6 * HOUR))],
  ["Ollama: a model for subscribers", "ollama", 403, { error: "this model requires a subscription" }, unsuited("key+model")],
  ["Ollama: unauthorized", "ollama", 401, { error: "unauthorized" }, doubted],
  ["Ollama: a session, in Anthropic's skin", "ollama", 429, anthropic("rate_limit_error", "you (u) have reached your session usage limit"), dayOver("key", forMs(HOUR))],
  ["Ollama: a model for subscribers, in OpenAI's skin", "ollama", 403, openai("this model requires a subscription", "api_error"), unsuited("key+model")],
  ["Ollama: too many at once", "ollama", 429, { error: "too many concurrent requests" }, tooMany()],
];

describe("what an answer means, and whose fault it was", () => {
  test.each(CASES)("%s", (_sentence, dialect, status, body, expected, headers = {}) => {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    const verdict = classify(dialect, { status, headers: new Headers(headers), body: text }, NOW);
    const { said: _said, ...found } = { said: "", ...verdict };
    expect<object>(found).toEqual(expected);
  });

  test("every dialect has a case of its own", () => {
    const covered = new Set(CASES.map(([, dialect]) => dialect));
    expect(DIALECTS.filter((dialect) => !covered.has(dialect))).toEqual([]);
  });
});

describe("an error in place of a stream (P20)", () => {
  const rateLimited = openai("Rate limit reached. Please try again in 2s.", "tokens", "rate_limit_exceeded");
  const sse = (value: unknown, name?: string) =>
    `${name ? `event: ${name}\n` : ""}data: ${JSON.stringify(value)}\n\n`;
  const chunk = { id: "c", object: "chat.completion.chunk", choices: [{ index: 0, delta: { content: "" } }] };

  // prettier-ignore
  const events: [sentence: string, dialect: Dialect, event: string, expected: Expected | null][] = [
    ["a first chunk is no error", "openai", sse(chunk), null],
    ["a chunk that says it has no error is none", "openai", sse({ ...chunk, error: null }), null],
    ["a new response has an empty error", "openai", sse({ type: "response.created", response: { status: "in_progress", error: null } }, "response.created"), null],
    ["a message that begins is no error", "anthropic", sse({ type: "message_start", message: { id: "m" } }, "message_start"), null],
    ["text that speaks of errors is no error", "openai", sse({ choices: [{ delta: { content: 'data: {"error":{"code":429}}' } }] }), null],
    ["code that a tool call carries is no error", "openai", sse({ choices: [], code: "x", message: "y" }), null],
    ["a comment is no error", "openrouter", ": OPENROUTER PROCESSING\n\n", null],
    ["the end of a stream is no error", "openai", "data: [DONE]\n\n", null],
    ["a whole answer in JSON is no error", "openai", JSON.stringify({ choices: [{ message: { content: "error" } }], error: null }), null],
    ["nothing is no error", "openai", "", null],
    ["a failed response that a client asks about is an answer", "openai", JSON.stringify({ object: "response", status: "failed", error: { code: "server_error" } }), null],
    ["a job without an error is an answer", "openai", JSON.stringify({ object: "fine_tuning.job", status: "running", error: { code: null } }), null],
    ["an envelope of success is no error", "siliconflow", JSON.stringify({ code: 20000, message: "OK", status: true, data: { balance: "1" } }), null],

    ["OpenAI: a chunk with an error", "openai", sse(rateLimited), tooFast("key+model", forMs(2000))],
    ["OpenAI: line ends of both kinds", "openai", sse(rateLimited).replaceAll("\n", "\r\n"), tooFast("key+model", forMs(2000))],
    ["OpenAI: an error event of the Responses API", "openai", sse({ type: "error", code: "rate_limit_exceeded", message: "Slow. Please try again in 1s." }, "error"), tooFast("key+model", forMs(1000))],
    ["OpenAI: a failed response", "openai", sse({ type: "response.failed", response: { status: "failed", error: { code: "server_is_overloaded", message: "Busy" } } }, "response.failed"), overloaded()],
    ["OpenAI: slow_down", "openai", sse({ type: "error", error: { type: "slow_down", message: "x" } }, "error"), overloaded()],
    ["OpenAI: server_error may be billed", "openai", sse(openai("Sorry", "server_error")), overloaded(null, true)],
    ["P20 a status that is a word", "generic", '{"status":"error","message":"rate limit exceeded"}', tooFast("key")],
    ["P20 a failure in so many words", "generic", sse({ status: "fail", msg: "Too many requests" }), tooFast("key")],
    ["P20 what is not ok", "generic", '{"ok":false,"description":"Too Many Requests: retry after 5"}', tooFast("key", forMs(5000))],
    ["P20 a code under another name", "generic", '{"errcode":429,"errmsg":"slow down"}', tooFast("key")],
    ["P20 a number under another name", "generic", sse({ errno: 503, errmsg: "busy" }), overloaded()],
    ["P20 an error under a short name", "generic", sse({ err: { message: "insufficient balance" } }), noMoneyYet()],
    ["P20 a fault", "generic", '{"fault":{"faultstring":"Rate limit quota violation","detail":{"errorcode":"policies.ratelimit.QuotaViolation"}}}', tooFast("key")],
    ["P20 a good code that is a word", "generic", '{"code":"SUCCESS","message":"done"}', null],
    ["P20 another good code", "generic", sse({ code: "ok", msg: "fine" }), null],
    ["P20 no error under a short name", "generic", sse({ err: null, fault: "", choices: [] }), null],
    ["P20 a job that failed", "generic", '{"id":"job_1","status":"error","message":"no such file"}', null],
    ["P20 a good status", "generic", '{"status":"success","message":"done"}', null],
    ["OpenAI: no money", "openai", sse(openai("Quota", "insufficient_quota", "insufficient_quota")), noMoney()],
    ["OpenAI: a bad prompt is the client's", "openai", sse(openai("Bad", "invalid_request_error", "context_length_exceeded")), rejected],
    ["Anthropic: overloaded", "anthropic", sse(anthropic("overloaded_error", "Overloaded"), "error"), overloaded()],
    ["Anthropic: a rate limit", "anthropic", sse(anthropic("rate_limit_error", "This request would exceed your account's rate limit."), "error"), tooFast("key")],
    ["Anthropic: a bad key", "anthropic", sse(anthropic("authentication_error", "invalid x-api-key"), "error"), dead],
    ["Gemini: bare JSON, printed over lines", "gemini", JSON.stringify(google(429, "RESOURCE_EXHAUSTED", "Please retry in 8s."), null, 2), tooFast("key+model", forMs(8000))],
    ["Gemini: bare JSON in an array", "gemini", `${JSON.stringify([google(503, "UNAVAILABLE", "Overloaded")], null, 2)}\n`, overloaded()],
    ["Gemini: RESOURCE_EXHAUSTED without a number", "gemini", sse({ error: { status: "RESOURCE_EXHAUSTED", message: "x" } }), tooFast("key+model")],
    ["OpenRouter: a chunk names the provider that refused", "openrouter", `: OPENROUTER PROCESSING\n\n${sse({ ...chunk, provider: "X", error: { code: 429, message: "Rate limit exceeded" } })}`, overloaded()],
    ["OpenRouter: a provider that went away", "openrouter", sse({ ...chunk, error: { code: "server_error", message: "Provider disconnected" } }), overloaded(null, true)],
    ["Qwen: the status is a comment", "dashscope", 'id:1\nevent:error\n:HTTP_STATUS/429\ndata:{"code":"Throttling","message":"x"}\n\n', tooFast("key+model")],
    ["Ollama: a line of NDJSON", "ollama", '{"error":"an error was encountered"}\n{"done":true}\n', overloaded(null, true)],
    ["Ollama: a line of a good answer", "ollama", '{"model":"m","response":"\\"error\\": 1","done":false}\n', null],
    ["Mistral: an error without `error`", "mistral", sse({ object: "error", message: "Service tier capacity exceeded for this model.", code: "3505" }), modelDown()],
    ["NVIDIA: a problem document", "nvidia", JSON.stringify({ status: 429, title: "Too Many Requests" }), tooFast("key")],
    ["Cloudflare: a list of errors", "cloudflare", JSON.stringify(cloudflare(4006, "daily")), dayOver("key", midnight("UTC"))],
    ["Cloudflare: no such model", "cloudflare", JSON.stringify(cloudflare(5007, "No such model")), rejected],
    ["Zhipu: moderation", "zhipu", sse(zhipu("1301", "x")), rejected],
    ["an error event that is not JSON", "generic", "event: error\ndata: rate limit, retry in 4 seconds\n\n", tooFast("key", forMs(4000))],
    ["OpenAI: a limit of the Responses API", "openai", sse({ type: "response.failed", response: { status: "failed", error: { code: "rate_limit_exceeded", message: "Please try again in 3s." } } }, "response.failed"), tooFast("key+model", forMs(3000))],
    ["OpenRouter: overloaded, in Anthropic's skin", "openrouter", sse({ type: "error", error: { type: "overloaded_error", message: "Provider is busy", error_type: "provider_overloaded" } }, "error"), overloaded()],
    ["Ollama: its usage limit in a stream", "ollama", '{"error":"you (u) have reached your weekly usage limit"}\n', dayOver("key", forMs(6 * HOUR))],
    ["Kimi: no money in a stream", "moonshot", sse(openai("Your account is suspended", "exceeded_current_quota_error")), noMoney()],
    ["xAI: a code and a sentence", "xai", JSON.stringify({ code: "resource-exhausted", error: "Your team t has used all available credits" }), noMoney()],
    ["a limit on our address in a stream", "generic", sse({ error: { code: 429, message: "Too many requests from this IP" } }), refusesAll(30_000)],
    ["P20 a sentence under detail", "generic", sse({ detail: "Rate limit exceeded" }), tooFast("key")],
    ["P20 a list under detail", "generic", sse({ detail: [{ loc: ["body"], msg: "field required" }] }), overloaded(null, true)],
    ["P20 MiniMax's number for a rate", "generic", sse({ id: "x", choices: null, base_resp: { status_code: 1002, status_msg: "rate limit" } }), tooFast("key")],
    ["P20 MiniMax's number for money", "generic", JSON.stringify({ base_resp: { status_code: 1008, status_msg: "insufficient balance" }, choices: null }), noMoneyYet()],
    ["P20 MiniMax's number for a key", "generic", sse({ base_resp: { status_code: 1004, status_msg: "login fail" } }), doubted],
    ["P20 MiniMax's number for all is well", "generic", sse({ id: "x", choices: [{ delta: { content: "a" } }], base_resp: { status_code: 0, status_msg: "" } }), null],
    ["P20 a number and a sentence under msg", "generic", JSON.stringify({ code: 1302, msg: "您的账户已达到速率限制" }), tooFast("key")],
    ["P20 Baidu's names", "generic", sse({ error_code: 18, error_msg: "Open api qps request limit reached" }), tooFast("key")],
    ["P20 no success", "generic", sse({ success: false, message: "Too many requests" }), tooFast("key")],
    ["P20 success is none", "generic", sse({ success: true, message: "Too many requests were a joke" }), null],
    ["P20 an end that is an error", "generic", sse({ ...chunk, choices: [{ index: 0, delta: {}, finish_reason: "error" }] }), overloaded(null, true)],
    ["P20 an end that is an error, with words before it", "generic", sse({ ...chunk, choices: [{ index: 0, delta: { content: "a" }, finish_reason: "error" }] }), null],
    ["P20 a line that is no JSON", "generic", "data: [ERROR] rate limit exceeded\n\n", tooFast("key")],
    ["P20 a warning is no error", "generic", sse({ warning: "usage was not reported" }), null],
    ["P20 a message of code 0 is no error", "generic", sse({ code: 0, msg: "success", data: { id: 1 } }), null],
    ["an error event that says nothing", "generic", "event: error\ndata: {}\n\n", overloaded(null, true)],
  ];
  test.each(events)("%s", (_sentence, dialect, event, expected) => {
    const verdict = classifyStreamError(dialect, event, NOW);
    if (expected === null) return expect(verdict).toBeNull();
    const { said: _said, ...found } = { said: "", ...verdict };
    expect<object>(found).toEqual(expected);
  });
});

/** One case a line. Wordings of public issues and of providers' pages up to Nov 2026, shortened; numbers are ours. */
// prettier-ignore
const MONEY: Case[] = [
  ["P41 a server's fault that says money", "generic", 500, { error: { type: "api_error", message: "insufficient balance (1008)" } }, noMoneyYet()],
  ["P41 a 503 by its code", "generic", 503, openai("x", "new_api_error", "insufficient_balance"), noMoneyYet()],
  ["P41 a bad request by its code", "openai", 400, openai("Billing hard limit has been reached", "invalid_request_error", "billing_hard_limit_reached"), noMoney()],
  ["P41 a bad request by a sentence", "generic", 400, anthropic("invalid_request_error", "Your credit balance is too low to use this API."), noMoneyYet()],
  ["P41 a budget of a gateway", "generic", 400, { error: { message: "Budget has been exceeded! Current cost: 3.1, Max budget: 3.0", type: "budget_exceeded", code: "400" } }, noMoneyYet()],
  ["P41 a budget of a gateway as a 429", "generic", 429, { error: { message: "ExceededBudget: over budget", type: "budget_exceeded" } }, noMoneyYet()],
  ["P41 a user's quota", "generic", 403, openai("用户额度不足", "new_api_error", "insufficient_user_quota"), noMoneyYet()],
  ["P41 a token's quota", "generic", 403, openai("token quota is not enough, token remain quota: 0.01", "new_api_error", "pre_consume_token_quota_failed"), noMoneyYet()],
  ["P41 a code in capitals", "generic", 403, { code: "NOT_ENOUGH_BALANCE", message: "x" }, noMoneyYet()],
  ["P41 a 401 that is about money", "generic", 401, openai("该令牌额度已用尽", "one_api_error"), noMoneyYet()],
  ["P41 no payment method", "generic", 401, { error: { type: "CreditsError", message: "No payment method." } }, noMoneyYet()],
  ["P41 a negative balance", "generic", 403, { message: "Your account balance is negative" }, noMoneyYet()],
  ["P41 a request to recharge, in Chinese", "generic", 403, { message: "账户已停用，请充值" }, noMoneyYet()],
  ["P41 a request to recharge", "generic", 429, { message: "Quota used. Please top up to go on." }, noMoneyYet()],
  ["P41 an inactive subscription", "mistral", 401, { detail: "Inactive subscription or usage limit reached" }, noMoney()],
  ["P41 a payment method to enter", "generic", 403, { detail: { error: "inference prohibited, please enter a payment method" } }, noMoneyYet()],
  ["P41 not enough, in more words", "generic", 403, { message: "Your organization does not have enough balance" }, noMoneyYet()],
  ["P41 a trial that is used up", "generic", 401, { message: "You have exhausted your free trial." }, noMoneyYet()],
  ["P41 Moonshot's code behind a gateway", "generic", 429, openai("Check your plan", "exceeded_current_quota_error"), noMoneyYet()],
  ["P41 a package in Chinese", "generic", 400, { message: "资源包余量已用尽" }, noMoneyYet()],
  ["P41 billing that is off", "generic", 403, { message: "Billing is not enabled for this account" }, noMoneyYet()],
  ["P41 a quota of characters is no money", "generic", 401, { detail: { status: "quota_exceeded", message: "This request exceeds your quota of 9." } }, dayOver("key", forMs(6 * HOUR))],
  ["P41 Japanese", "generic", 402, { message: "残高が不足しています" }, noMoneyYet()],
  ["P41 Spanish", "generic", 403, { message: "Saldo insuficiente" }, noMoneyYet()],
  ["P41 Spanish: credits that are used up", "generic", 403, { message: "Se han agotado los créditos de su cuenta." }, noMoneyYet()],
  ["P41 Spanish: a balance that is used up", "generic", 403, { message: "Su saldo se agotó." }, noMoneyYet()],
  ["P41 Spanish: none left", "generic", 403, { message: "La cuenta se quedó sin saldo" }, noMoneyYet()],
  ["P41 Portuguese: credits that are used up", "generic", 403, { message: "Seus créditos acabaram." }, noMoneyYet()],
  ["P41 Portuguese: no balance", "generic", 403, { message: "Conta sem saldo disponível" }, noMoneyYet()],
  ["P41 Portuguese: not enough", "generic", 403, { message: "Você não tem créditos para esta chamada" }, noMoneyYet()],
  ["P41 German: not enough", "generic", 403, { message: "Nicht genügend Guthaben vorhanden." }, noMoneyYet()],
  ["P41 German: none", "generic", 403, { message: "Kein Guthaben mehr auf dem Konto" }, noMoneyYet()],
  ["P41 German: used up", "generic", 403, { message: "Ihr Guthaben ist leider erschöpft." }, noMoneyYet()],
  ["P41 French: used up", "generic", 403, { message: "Vos crédits sont épuisés." }, noMoneyYet()],
  ["P41 French: not enough", "generic", 403, { message: "Vous n'avez pas assez de crédits" }, noMoneyYet()],
  ["P41 French: balance", "generic", 403, { message: "Le solde de votre compte est insuffisant" }, noMoneyYet()],
  ["P41 Italian", "generic", 403, { message: "Credito insufficiente" }, noMoneyYet()],
  ["P41 Japanese: a balance", "generic", 403, { message: "残高が足りません。" }, noMoneyYet()],
  ["P41 Japanese: credits", "generic", 403, { message: "クレジットを使い切りました" }, noMoneyYet()],
  ["P41 Korean: a balance", "generic", 403, { message: "계정 잔액이 부족합니다" }, noMoneyYet()],
  ["P41 Korean: credits", "generic", 403, { message: "크레딧이 모두 소진되었습니다" }, noMoneyYet()],
  ["P41 Russian: money that has run out", "generic", 403, { message: "Закончились средства на счёте" }, noMoneyYet()],
  ["P41 Russian: not enough", "generic", 403, { message: "На балансе недостаточно средств" }, noMoneyYet()],
  ["P41 Russian: a request to pay in", "generic", 403, { message: "Пополните счёт, чтобы продолжить" }, noMoneyYet()],
  ["P41 Turkish: not enough", "generic", 403, { message: "Yetersiz bakiye" }, noMoneyYet()],
  ["P41 Turkish: used up", "generic", 403, { message: "Krediniz tükendi" }, noMoneyYet()],
  ...[
    "Has agotado tu límite de crédito", "Fondi insufficienti", "Kein Guthaben", "Na koncie brak: niewystarczające środki", "Onvoldoende saldo",
    "Saldo Anda tidak mencukupi", "Số dư của bạn không đủ", "На счёте нет средств", "クレジット残高が0です", "支払い方法を登録してください",
    "무료 크레딧을 모두 사용했습니다", "결제가 필요합니다", "账户余额为0", "您的余额不够", "套餐额度已用完", "令牌已无额度",
    "You have no remaining balance", "Your trial has expired", "Payment overdue", "This key reached its cap of $5.00", "Your wallet is empty",
    "Please purchase more credits", "You used up your free credits", "Your credits have run out", "We ran out of money here", "Your plan has expired",
  ].map((sentence): Case => [`P41 ${sentence}`, "generic", 403, { message: sentence }, noMoneyYet()]),
  ...["Günlük istek sınırı", "Limite diário atingido", "Limite giornaliero raggiunto", "Limite journalière", "Превышен суточный лимит", "本日の上限", "Tageslimit erreicht"]
    .map((sentence): Case => [`P41 ${sentence}`, "generic", 429, { error: sentence }, dayOver("key", midnight("UTC"))]),
  ...["Haftalık sınır", "Limite settimanale", "Limite mensile", "Limite mensal", "недельный лимит", "今月の上限", "Monatslimit erreicht"]
    .map((sentence): Case => [`P41 ${sentence}`, "generic", 429, { error: sentence }, dayOver("key", forMs(6 * HOUR))]),
  ...["El modelo está sobrecargado", "Le service est surchargé", "Modell überlastet", "サーバーが混み合っています"]
    .map((sentence): Case => [`P40 ${sentence}`, "generic", 429, { error: sentence }, tooFast("key+model", forMs(15 * SECOND))]),
  ...["Rate limit reached, upgrade for $20 a month to go faster", "Too fast. Pro is $9.99/month", "Too fast: €5 per day for more", "Zu viele Anfragen", "Нет доступа: слишком много запросов", "Limite de requêtes dépassée", "リクエスト制限", "Plan limit: 20 requests"]
    .map((sentence): Case => [`P41 is no money: ${sentence}`, "generic", 429, { error: sentence }, tooFast("key")]),
  ["P41 German under a 400", "generic", 400, { error: { message: "Ihr Guthaben reicht nicht aus." } }, noMoneyYet()],
  ["P41 Korean under a 429", "generic", 429, { error: "크레딧 부족" }, noMoneyYet()],
  ["P41 a limit in Spanish is no money", "generic", 429, { error: "Límite de solicitudes agotado" }, tooFast("key")],
  ["P41 a limit in German is no money", "generic", 429, { error: "Anfragelimit erschöpft" }, tooFast("key")],
  ["P41 a limit in Russian is no money", "generic", 429, { error: "Лимит запросов исчерпан" }, tooFast("key")],
  ["P41 a limit in Turkish is no money", "generic", 429, { error: "İstek sınırı tükendi" }, tooFast("key")],
  ["P41 a bad request that quotes money in Spanish", "generic", 400, { error: { message: 'Valor no válido: "saldo insuficiente"' } }, rejected],
  ["P41 a billing period as a conflict", "generic", 409, { error: "You have reached your usage limit for this billing period." }, dayOver("key", forMs(6 * HOUR))],
  ["P41 the same the other way round", "generic", 409, { error: "Billing period quota reached" }, dayOver("key", forMs(6 * HOUR))],
  ["P41 a billing cycle as a 403", "generic", 403, { error: "All requests of the current billing cycle are used" }, dayOver("key", forMs(6 * HOUR))],
  ["P41 a billing period with its end", "generic", 409, { error: "Quota of this billing period used, resets in 20 hours" }, dayOver("key", forMs(20 * HOUR))],
  ["a conflict that is none of that", "generic", 409, { error: "Another request changes this thread" }, rejected],
  ["a conflict that quotes it", "generic", 409, { error: { message: 'Title exists: "quota of the billing period"' } }, rejected],
  ["P41 a spending cap of Google", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Your project has exceeded its monthly spending cap."), noMoney()],
  ["P41 a trial that has ended", "generic", 402, { message: "Your free trial has ended" }, noMoneyYet()],
  ["P41 MiniMax's number under a 500", "generic", 500, { base_resp: { status_code: 1008, status_msg: "x" } }, noMoneyYet()],
  ["P40 where one account pays for all, it is the account", "deepseek", 402, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), noMoney()],
  ["P40 OpenAI's words mean the account", "openai", 429, openai("Quota", "insufficient_quota"), noMoney()],
  ["P40 OpenRouter's free models go on", "openrouter", 402, { error: { code: 402, message: "Insufficient credits" } }, noMoneyYet()],
  ["budget_tokens are no money", "anthropic", 400, anthropic("invalid_request_error", "`max_tokens` must be greater than `thinking.budget_tokens`."), rejected],
  ["a bad request that quotes money is no money", "generic", 400, openai('Invalid value: "your balance is insufficient"', "invalid_request_error"), rejected],
  ["plan and billing details are no money at Google", "gemini", 429, google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing details."), tooFast("key+model")],

  ["a sentence that says busy beats a code of money", "generic", 429, openai("当前分组上游负载已饱和，请稍后再试", "one_api_error", "insufficient_quota"), tooFast("key+model", forMs(15 * SECOND))],
  ["the same in English", "generic", 429, openai("The upstream is saturated, try again later", "x", "insufficient_quota"), tooFast("key+model", forMs(15 * SECOND))],
  ["the same in other words", "generic", 429, openai("当前分组上游负载已达到上限，请稍后再试", "x", "insufficient_quota"), tooFast("key+model", forMs(15 * SECOND))],
  ["a request to try later beats it, too", "generic", 429, openai("No resources now, please try again later", "x", "insufficient_quota"), tooFast("key+model", forMs(15 * SECOND))],
  ["a time that it names is believed", "generic", 429, openai("Engine busy, retry after 3 seconds", "x", "insufficient_quota"), tooFast("key+model", forMs(3 * SECOND))],
  ["P40 busy in Japanese, without a code", "generic", 429, { error: "サーバーが混雑しています" }, tooFast("key+model", forMs(15 * SECOND))],
  ["P40 busy in Russian, without a code", "generic", 429, { error: "Сервер перегружен" }, tooFast("key+model", forMs(15 * SECOND))],
  ["P40 an overloaded engine beside a code of money", "openai", 429, openai("The engine is overloaded", "x", "insufficient_balance"), tooFast("key+model", forMs(15 * SECOND))],
  ["the same as a server's fault", "generic", 503, openai("Service is busy", "x", "insufficient_quota"), overloaded()],

  ["P40 busy beats a code of money under a 400", "openai", 400, openai("The model is overloaded, please try again later", "x", "insufficient_quota"), tooFast("key+model", forMs(15 * SECOND))],
  ["P40 under a 402", "siliconflow", 402, openai("Our servers are at capacity, retry later", "x", "insufficient_balance"), tooFast("key+model", forMs(15 * SECOND))],
  ["P40 under a 403", "deepseek", 403, openai("Service is busy", "x", "insufficient_user_quota"), tooFast("key+model", forMs(15 * SECOND))],
  ["P40 under a 401", "groq", 401, openai("Upstream saturated", "x", "no_credits"), tooFast("key+model", forMs(15 * SECOND))],
  ["P40 under a 412, with its time", "mistral", 412, openai("High demand, try again in 3 seconds", "x", "billing_error"), tooFast("key+model", forMs(3 * SECOND))],
  ["P40 beside a code of the provider's own", "openai", 429, openai("The server is busy", "x", "billing_hard_limit_reached"), tooFast("key+model", forMs(15 * SECOND))],
  ["P40 in Chinese under a 402", "zhipu", 402, zhipu("1113", "当前服务繁忙，请稍后重试"), tooFast("key+model", forMs(15 * SECOND))],
  ["P40 beside a status of money, without a code", "together", 402, { error: { message: "The engine is overloaded" } }, tooFast("key+model", forMs(15 * SECOND))],
  ["P40 as a server's fault, beside a code of the provider's own", "anthropic", 529, anthropic("overloaded_error", "Overloaded", { error_code: "enforced_spend_limit_reached" }), overloaded()],
  ["a sentence that says money is money, whatever it asks for", "openai", 402, openai("Your credit balance is too low. Add funds and try again later", "x", "insufficient_quota"), noMoney()],
  ["the same as a 429", "generic", 429, openai("Insufficient balance, please recharge and retry later", "x", "insufficient_quota"), noMoneyYet()],
  ["a code of money whose sentence says nothing", "generic", 403, openai("No.", "x", "insufficient_balance"), noMoneyYet()],

  ...(["siliconflow", "zhipu", "modelscope", "groq", "github", "nvidia", "mistral", "together", "deepseek", "openrouter"] as const)
    .map((dialect): Case => [`P40 a model for paid accounts costs no other model: ${dialect}`, dialect, 402, { error: { message: "Insufficient credits. This model requires a paid account" } }, noMoney("key+model")]),
  ...["The requested model is only available on paid plans.", "Model x is limited to Pro subscribers", "Upgrade to use this model", "This model needs an active subscription", "x is a paid model", "Model x is not available on the free tier", "该模型需要付费使用", "This model is reserved for premium users"]
    .map((sentence): Case => [`P40 a model that costs money: ${sentence}`, "groq", 402, { error: { message: sentence } }, noMoney("key+model")]),
  ["P40 the same as a 403", "mistral", 403, { message: "Insufficient credits. This model requires a paid account" }, unsuited("key+model")],

  ...["رصيد غير كاف", "الرصيد لا يكفي", "نفد رصيدك", "Недостатньо коштів на рахунку", "Баланс вичерпано", "Поповніть рахунок", "Недостатъчна наличност", "Ανεπαρκές υπόλοιπο", "موجودی حساب کافی نیست", "اعتبار شما تمام شد", "ناکافی بیلنس", "אין מספיק קרדיט", "היתרה אינה מספיקה", "अपर्याप्त शेष राशि", "क्रेडिट समाप्त हो गया", "অপর্যাপ্ত ব্যালেন্স", "ยอดเงินไม่เพียงพอ", "เครดิตหมดแล้ว", "Nedostatečný zůstatek na účtu", "Nedostatok prostriedkov", "Nedovoljno sredstava", "Fonduri insuficiente", "Elégtelen egyenleg", "Nincs elegendő egyenleg", "Otillräckligt saldo", "Utilstrekkelig saldo", "Saldo ei riitä", "Baki tidak mencukupi", "Hindi sapat ang balanse", "Brak środków na koncie", "Onvoldoende tegoed", "Tài khoản hết tiền"]
    .map((sentence): Case => [`P41 money abroad: ${sentence}`, "generic", 400, { error: { message: sentence } }, noMoneyYet()]),
  ...["تم تجاوز حد الطلبات", "Забагато запитів, перевищено ліміт", "Υπέρβαση ορίου αιτημάτων", "คำขอมากเกินไป", "Příliš mnoho požadavků", "Túl sok kérés", "Баланс запросов временно недоступен"]
    .map((sentence): Case => [`P41 is no money abroad: ${sentence}`, "generic", 429, { error: sentence }, tooFast("key")]),

  ["P41 a month", "generic", 429, { error: "You have exceeded your monthly quota." }, dayOver("key", forMs(6 * HOUR))],
  ["P41 a week", "generic", 429, { error: "Weekly limit reached" }, dayOver("key", forMs(6 * HOUR))],
  ["P41 a week in Chinese", "generic", 429, { error: "已达到每周使用上限" }, dayOver("key", forMs(6 * HOUR))],
  ["P41 a week in a code", "generic", 429, openai("No", "weekly_limit_exceeded"), dayOver("key", forMs(6 * HOUR))],
  ["P41 a week with its end", "generic", 429, { error: "Weekly limit reached, resets in 20 hours" }, dayOver("key", forMs(20 * HOUR))],
  ["P41 a day in a code", "generic", 429, openai("No", "x", "requests_per_day_exceeded"), dayOver("key", midnight("UTC"))],
  ["P41 a day with hyphens", "generic", 429, { error: "Rate limit exceeded: images-per-day" }, dayOver("key", midnight("UTC"))],
  ["P41 a day behind a slash", "generic", 429, { error: "Limit of 100 requests/day reached" }, dayOver("key", midnight("UTC"))],
  ["P41 today", "generic", 429, { error: "You have used all free requests today" }, dayOver("key", midnight("UTC"))],
  ["P41 a month behind a slash", "generic", 429, { error: "Limit of 100 requests / month reached" }, dayOver("key", forMs(6 * HOUR))],
  ["P41 twenty-four hours", "generic", 429, { error: "You made 50 requests in the last 24 hours" }, dayOver("key", midnight("UTC"))],
  ["P41 a day in Chinese", "generic", 429, { error: "每日请求次数已达上限" }, dayOver("key", midnight("UTC"))],
  ["P41 today in Chinese", "generic", 429, { error: "今日额度已达上限" }, dayOver("key", midnight("UTC"))],
  ["P41 a day in Spanish", "generic", 429, { error: "Límite diario alcanzado" }, dayOver("key", midnight("UTC"))],
  ["P41 come back tomorrow", "generic", 429, { error: "Free limit reached, come back tomorrow." }, dayOver("key", midnight("UTC"))],
  ["P41 a subscription's hours", "generic", 429, { error: "5-hour usage limit reached" }, dayOver("key", forMs(HOUR))],
  ["P41 a subscription's hours as a server's fault", "generic", 500, anthropic("api_error", "usage limit exceeded, 5-hour usage limit reached (2056)"), dayOver("key", forMs(HOUR))],
  ["P41 a quota that is used up until a time it names", "generic", 429, { error: "额度已用尽，请2小时后重试" }, dayOver("key", forMs(2 * HOUR))],
  ["a minute is no day", "generic", 429, { error: "Limit of 20 requests per minute reached" }, tooFast("key")],
  ["seconds are no month", "generic", 429, { error: "Monthly plan: 5 requests per second. Slow down, retry in 1s" }, dayOver("key", forMs(SECOND))],
];

// prettier-ignore
const MODELS: Case[] = [
  ["P40 a gateway without a channel for the model", "generic", 503, openai("No available channel for model x under group default", "new_api_error", "model_not_found"), modelDown()],
  ["P40 the same in Chinese", "generic", 503, openai("当前分组 default 下对于模型 x 无可用渠道", "new_api_error"), modelDown()],
  ["P40 an overloaded model", "generic", 503, { error: { message: "The model is currently overloaded." } }, modelDown()],
  ["P40 a model of a cluster that is not loaded", "generic", 503, { error: { message: "Model x is currently loading" } }, modelDown()],
  ["P40 a model without capacity", "generic", 429, { error: { message: "Capacity exceeded", code: "model_capacity_exhausted" } }, modelDown()],
  ["P40 high demand for one model", "anthropic", 529, anthropic("overloaded_error", "This model is experiencing high demand"), modelDown()],
  ["P40 a busy model in Chinese", "generic", 500, openai("当前模型负载较高，请稍候重试", "x", "model_overloaded"), modelDown(null, true)],
  ["P40 a gateway whose deployments all rest", "generic", 429, openai("No deployments available for selected model, Try again in 60 seconds", "None", "429"), modelDown(60_000)],
  ["P40 a model that is full, as a 429", "generic", 429, { error: "Model x is at capacity" }, modelDown()],
  ["P40 a model that a token may not use, in Chinese", "generic", 403, openai("该令牌无权访问模型 x", "new_api_error"), unsuited("key+model")],
  ["P40 an overloaded service is everybody's", "anthropic", 529, anthropic("overloaded_error", "Overloaded"), overloaded()],
  ["P16 a rate that is one model's", "together", 429, openai("You have reached the rate limit specific to this model m.", "model_rate_limit"), tooFastModel()],
  ["P16 the same elsewhere", "generic", 429, { error: "Rate limit reached for this model" }, tooFastModel()],
];

// prettier-ignore
const OWN_FIELDS: Case[] = [
  ["P38 a page's origin", "anthropic", 401, anthropic("authentication_error", "CORS requests are not allowed for this Organization"), rejected],
  ["P38 a header that a page has to set", "anthropic", 401, anthropic("authentication_error", "CORS requests must set 'anthropic-dangerous-direct-browser-access' header"), rejected],
  ["P38 an origin", "generic", 403, { error: "Origin https://a.example is not allowed" }, rejected],
  ["P38 a referrer, by its code", "gemini", 403, google(403, "PERMISSION_DENIED", "Blocked.", [reason("API_KEY_HTTP_REFERRER_BLOCKED")]), rejected],
  ["P38 a referrer, by its sentence", "gemini", 403, google(403, "PERMISSION_DENIED", "Requests from referer https://a.example/ are blocked."), rejected],
  ["P38 an agent that is not one of theirs", "moonshot", 403, openai("Kimi For Coding is currently only available for Coding Agents such as Kimi CLI.", "access_terminated_error"), rejected],
  ["P38 a User-Agent", "generic", 403, { message: "User-Agent is not permitted" }, rejected],
  ["P38 a header that is missing", "generic", 401, { message: "Missing required header: x-project" }, rejected],
  ["P38 a header that is required", "generic", 401, { message: "The x-project header is required" }, rejected],
  ["P38 a path for owners", "generic", 403, { message: "This action is only available to organization owners" }, rejected],
  ["P38 a page in a browser", "generic", 403, { message: "Browser requests are not served" }, rejected],
  ["P38 a path for admin keys", "generic", 403, { message: "This endpoint requires an admin API key" }, rejected],
  ["P38 an app's signature", "gemini", 403, google(403, "PERMISSION_DENIED", "Requests from this Android client application x are blocked.", [reason("API_KEY_ANDROID_APP_BLOCKED")]), rejected],
  ["another key may be open to our address", "gemini", 403, google(403, "PERMISSION_DENIED", "Blocked", [reason("API_KEY_IP_ADDRESS_BLOCKED")]), unsuited("key")],
  ["another account may have no list of addresses", "openai", 401, openai("Your IP is not on the organization's IP allowlist.", "invalid_request_error"), unsuited("key")],
  ...["Error while downloading https://a.example/y.png: 403 Forbidden", "Failed to fetch image", "Unable to access the URL: 401 Unauthorized", "Could not load the video: invalid api key", "Cannot retrieve https://a.example/"]
    .map((sentence): Case => [`P38 what a request refers to: ${sentence}`, "generic", 403, { message: sentence }, rejected]),
  ...["CachedContent not found (or permission denied)", "You do not have permission to access the File abc or it may not exist.", "The vector store does not exist", "This thread belongs to another project", "No access to batch b-1", "Permission denied for dataset x"]
    .flatMap((sentence): Case[] => [
      [`P36 a thing of another account costs no model: ${sentence}`, "openai", 403, { message: sentence }, unsuited("key")],
      [`P36 the same at Google: ${sentence}`, "vertex", 403, google(403, "PERMISSION_DENIED", sentence), unsuited("key")],
    ]),
  ["P36 a feature for verified accounts costs no model", "openai", 403, { error: { message: "Your organization must be verified to stream this model" } }, unsuited("key")],
  ["a model for verified accounts is a model", "openai", 403, { error: { message: "Your organization must be verified to use the model m" } }, unsuited("key+model")],
  ["a key is still a key", "generic", 403, { message: "Invalid API key" }, dead],
  ["a key in Chinese", "generic", 401, openai("无效的令牌", "new_api_error"), dead],
  ["P37 moderation goes before a key's death", "generic", 403, { message: 'Your input was flagged: "the api key was revoked"' }, rejected],
  ["P37 moderation goes before money", "generic", 402, openai("Out of credits is what the prompt says", "x", "content_policy_violation"), rejected],
  ["P37 moderation in Chinese", "generic", 403, { message: "内容违规：余额不足" }, rejected],
];

describe("P41, P40, P38 the words of refusals", () => {
  test.each([...MONEY, ...MODELS, ...OWN_FIELDS])(
    "%s",
    (_sentence, dialect, status, body, expected, headers = {}) => {
      const text = typeof body === "string" ? body : JSON.stringify(body);
      const evidence = { status, headers: new Headers(headers), body: text };
      const { said: _said, ...found } = { said: "", ...classify(dialect, evidence, NOW) };
      expect<object>(found).toEqual(expected);
    },
  );
});

describe("P16, P40 a limit that names the model that was asked for", () => {
  // prettier-ignore
  test.each<[sentence: string, dialect: Dialect, model: string, status: number, message: string, expected: Expected]>([
    ["is that model's", "generic", "m1", 429, "Rate limit reached for model m1", tooFastModel()],
    ["in marks", "nvidia", "m1", 429, "Too many requests for `m1`", tooFastModel()],
    ["in other case", "together", "Gpt-X", 429, "Rate limit exceeded for gpt-x", tooFastModel()],
    ["at the beginning", "zhipu", "gpt-x", 429, "gpt-x: slow down", tooFastModel()],
    ["behind the name of a limit", "siliconflow", "gpt-x", 429, "Limit exceeded: limit_rpm/gpt-x", tooFastModel()],
    ["with a date behind it", "openai", "gpt-x", 429, "Rate limit reached for gpt-x-2026-01-01 in organization o", tooFastModel()],
    ["with its time", "perplexity", "gpt-x", 429, "Limit of model gpt-x reached, retry in 3s", tooFastModel(forMs(3 * SECOND))],
    ["of requests at once", "deepseek", "gpt-x", 429, "Too many concurrent requests for gpt-x", { ...tooMany(), scope: "key+model", ofModel: true }],
    ["of a day", "generic", "gpt-x", 429, "Daily limit for model gpt-x reached", dayOver("key+model", midnight("UTC"))],
    ["in Chinese", "moonshot", "gpt-x", 429, "该模型请求过于频繁", tooFastModel()],
    ["save money of a provider whose accounts pay for all", "siliconflow", "gpt-x", 402, "Insufficient balance for gpt-x", noMoney()],
    ["save where a gateway only repeats it", "generic", "gpt-x", 429, "Too fast. Received Model Group=gpt-x", tooFast("key")],
    ["save where it is a part of a word", "generic", "gpt-x", 429, "Too fast for gpt-xl", tooFast("key")],
    ["save where another one is named", "generic", "gpt-x", 429, "Too fast for model m2", tooFast("key")],
  ])("%s", (_, dialect, model, status, message, expected) => {
    const evidence = { status, headers: new Headers(), body: JSON.stringify({ error: { message } }) };
    const verdict = classify(dialect, evidence, NOW, { model, body: null });
    const { said: _said, ...found } = { said: "", ...verdict };
    expect<object>(found).toEqual(expected);
  });
});

/** What a client asked for. */
const asking = (prompt: string, model = "gpt-x") => ({
  model,
  body: new TextEncoder().encode(JSON.stringify({ model, messages: [{ role: "user", content: prompt }] })),
});

describe("P37 words that are quoted from the request judge nobody", () => {
  // prettier-ignore
  test.each<[sentence: string, request: ReturnType<typeof asking>, status: number, body: unknown, expected: Expected]>([
    ["a prompt in quotation marks", asking("They said that the api key was revoked."), 403, { message: 'Refused: "the api key was revoked"' }, doubted],
    ["a prompt without quotation marks", asking("Tell me: your api key has been revoked, now what?"), 403, { message: "Refused: Your API key has been revoked" }, doubted],
    ["a prompt of two words in quotation marks", asking("invalid token, incorrect api key"), 401, { message: "Cannot process 'incorrect api key'" }, doubted],
    ["a prompt with line breaks", asking("first\nyour account\nbalance is negative"), 403, { message: "Bad input: your account balance is negative" }, doubted],
    ["a prompt in Chinese", asking("请问余额不足怎么办"), 403, { message: "拒绝：请问余额不足怎么办" }, doubted],
    ["a prompt in Chinese that was sent in escapes", { model: "m", body: new TextEncoder().encode('{"content":"\\u4f59\\u989d\\u4e0d\\u8db3\\u4e86"}') }, 403, { message: "拒绝：余额不足了" }, doubted],
    ["a model's name in brackets", asking("hi", "m (insufficient funds)"), 429, { message: "Too fast for m (insufficient funds)" }, tooFastModel()],
    ["a model's name that is a code", asking("hi", "insufficient_quota"), 429, openai("Too fast", "rate_limit_error", "insufficient_quota"), tooFast("key")],
    ["a wait in the prompt", asking("remind me to try again in 9 hours please"), 429, { message: "Too fast: remind me to try again in 9 hours please" }, tooFast("key")],
    ["a day in the prompt", asking("write my daily limit reached report"), 429, { message: "Too fast: write my daily limit reached report" }, tooFast("key")],
    ["the provider's own words beside the prompt's", asking("the sky is blue"), 403, { message: "Insufficient balance, so no answer to: the sky is blue" }, noMoneyYet()],
    ["a prompt about something else", asking("how do I pay"), 401, { message: "Invalid API key" }, dead],
    ["a code of the provider, whatever the prompt", asking("the account has no money left"), 429, openai("the account has no money left", "insufficient_quota"), noMoneyYet()],
    ["P41 a sentence of the provider that the prompt asks about", asking("What does 'Your credit balance is too low' mean?"), 400, { message: "Your credit balance is too low to answer." }, noMoneyYet()],
    ["P41 an error that an agent passes on", asking("Error: 403 Your account balance is negative. Please recharge."), 403, { message: "Your account balance is negative. Please recharge." }, noMoneyYet()],
    ["P41 the same in Chinese", asking("报错：用户账户余额不足怎么办"), 403, { message: "用户账户余额不足" }, noMoneyYet()],
    ["P41 a key that is dead, and a prompt about it", asking("incorrect API key provided is what I get"), 401, { message: "Incorrect API key provided." }, dead],
    ["P41 a day that is over, and a prompt about it", asking("Daily limit reached for free users: why?"), 429, { message: "Daily limit reached for free users" }, dayOver("key", midnight("UTC"))],
    ["P41 a second sentence of the provider", asking("your account balance is insufficient"), 403, { message: "Denied. Your account balance is insufficient" }, noMoneyYet()],
    ["a field of the error that repeats the prompt", asking("your account balance is insufficient"), 403, { message: "Denied", details: "your account balance is insufficient" }, doubted],
    ["a name of a parameter", asking("hi", "insufficient_quota"), 400, { error: { message: "Unknown parameter", type: "invalid_request_error", param: "insufficient_balance", code: "unknown_parameter" } }, rejected],
    ["a status that says all", asking("payment"), 402, { message: "payment" }, noMoneyYet()],
  ])("%s", (_, request, status, body, expected) => {
    const evidence = { status, headers: new Headers(), body: JSON.stringify(body) };
    const { said: _said, ...found } = { said: "", ...classify("generic", evidence, NOW, request) };
    expect<object>(found).toEqual(expected);
  });

  test("nor in an error in place of a stream", () => {
    const event = `data: ${JSON.stringify({ error: { code: 403, message: 'No: "the api key was revoked"' } })}\n\n`;
    expect(classifyStreamError("generic", event, NOW, asking("the api key was revoked"))).toMatchObject(
      doubted,
    );
    expect(classifyStreamError("generic", event, NOW)).toMatchObject(dead);
  });
});

describe("what upstream said", () => {
  const told: [sentence: string, body: string, said: string][] = [
    ["the message", JSON.stringify(openai("Too fast", "requests")), "Too fast"],
    ["an error that is a string", '{"error":"too fast"}', "too fast"],
    ["a detail rather than a title", '{"status":429,"title":"Too Many Requests","detail":"Slow"}', "Slow"],
    [
      "a title where there is nothing else",
      '{"status":429,"title":"Too Many Requests"}',
      "Too Many Requests",
    ],
    [
      "what a wrapper wraps",
      '{"error":{"message":"Provider returned error","metadata":{"raw":"busy"}}}',
      "busy",
    ],
    [
      "the wrapper where it wraps nothing",
      '{"error":{"message":"Provider returned error"}}',
      "Provider returned error",
    ],
    ["a code where there is no sentence", '{"error":{"code":"rate_limited"}}', "rate_limited"],
    ["one line without control characters", '{"error":"a\\n\\tb\\u001b[31mc\\ud800d"}', "a b [31mc d"],
    ["a page's title", page("502 Bad Gateway"), "502 Bad Gateway"],
    ["a plain line", "  upstream\r\nconnect error ", "upstream connect error"],
    ["nothing where nothing was said", "", ""],
  ];
  test.each(told)("is %s", (_sentence, body, said) => {
    expect(classify("generic", { status: 429, headers: new Headers(), body }, NOW)).toMatchObject({ said });
  });

  test("is at most 300 characters, and no half of one", () => {
    const body = JSON.stringify({ error: `${"x".repeat(298)}😀${"y".repeat(99)}` });
    const verdict = classify("generic", { status: 400, headers: new Headers(), body }, NOW);
    expect(verdict).toEqual({ kind: "rejected", said: `${"x".repeat(298)}…` });
  });

  test("never quotes the prompt that OpenRouter flagged", () => {
    const body = JSON.stringify({ error: { message: "Flagged", metadata: { flagged_input: "my secret" } } });
    const verdict = classify("openrouter", { status: 403, headers: new Headers(), body }, NOW);
    expect(verdict).toEqual({ kind: "rejected", said: "Flagged" });
  });
});

describe("hostile bodies", () => {
  const nest = (open: string, close: string, depth: number) => `${open.repeat(depth)}1${close.repeat(depth)}`;
  let quoted = '{"error":"deep"}';
  for (let depth = 0; depth < 9; depth += 1) quoted = JSON.stringify({ error: { message: quoted } });

  const ODD = [
    "",
    " ",
    "null",
    "0",
    "true",
    '"x"',
    "[]",
    "[null]",
    "[[[[]]]]",
    "{}",
    '{"error":null}',
    '{"error":[]}',
    '{"error":{"message":null,"code":{},"type":[]}}',
    '{"error":{"message":[1,2],"code":1e999,"type":-0}}',
    '{"errors":[null,1,"x",[{}]]}',
    '{"__proto__":{"error":"x"},"constructor":{"message":1}}',
    '{"error":{"__proto__":{"code":"invalid_api_key"},"toString":1,"hasOwnProperty":1}}',
    '{"error":{"metadata":{"headers":{"X-RateLimit-Reset":{"a":1},"bad name\\n":"x","__proto__":"y"}}}}',
    '{"error":{"retry_after":-1,"retryDelay":"-5s","resets_at":1e308}}',
    '{"error":"\\ud800\\udfff\\u0000"}',
    '{"error":"trunca',
    "\u0000\u0001\uFFFD\uD800",
    "\uFEFF{}",
    "<",
    "<title>",
    "data:",
    "data: {\n\n",
    "event: error",
    ":HTTP_STATUS/x\ndata:{}",
    "error code: ",
    quoted,
  ];
  const LARGE = [
    `<title ${" ".repeat(60_000)}`,
    nest("[", "]", 20_000),
    `${"[".repeat(20_000)}{"error":1}${"]".repeat(20_000)}`,
    nest('{"error":', "}", 6000),
    nest('{"details":[', "]}", 4000),
    JSON.stringify({ error: { details: Array.from({ length: 5000 }, () => ({ message: "x", code: 1 })) } }),
    JSON.stringify({ error: "retry in ".repeat(7000) }),
    JSON.stringify({ error: `retry in ${"1s ".repeat(20_000)}x` }),
    JSON.stringify({ error: `try again in ${"9".repeat(60_000)}` }),
    JSON.stringify({ error: "invalid api key is model access ".repeat(2000) }),
  ];
  const HEADERS = [
    {},
    {
      "retry-after": "9".repeat(400),
      "x-ratelimit-reset": "-1",
      ratelimit: "r=0;t=",
      "retry-after-ms": "NaN",
    },
    {
      "x-ratelimit-remaining": "0",
      "x-ratelimit-reset": "9".repeat(30),
      remaining: "0",
      "-status": "rejected",
    },
  ];

  test("never make it throw, and every verdict is usable", () => {
    for (const dialect of DIALECTS) {
      for (const body of ODD) expectUsableVerdicts(dialect, body);
    }
    for (const body of LARGE) expectUsableVerdicts("openrouter", body);
  });

  test("never make it slow", () => {
    for (const body of LARGE) {
      const began = performance.now();
      classify("xai", { status: 403, headers: new Headers(), body }, NOW);
      classifyStreamError("xai", body, NOW);
      expect(performance.now() - began).toBeLessThan(1000); // A pattern that backtracks takes minutes.
    }
  });

  function expectUsableVerdicts(dialect: Dialect, body: string): void {
    for (const fields of HEADERS) {
      const headers = new Headers(fields);
      for (const status of [400, 401, 403, 412, 429, 503]) {
        expectUsable(classify(dialect, { status, headers, body }, NOW));
      }
    }
    const streamed = classifyStreamError(dialect, body, NOW);
    if (streamed !== null) expectUsable(streamed);
  }

  function expectUsable(verdict: Verdict): void {
    if (
      "said" in verdict &&
      (verdict.said.length > 300 || /[\r\n]/.test(verdict.said) || !verdict.said.isWellFormed())
    ) {
      throw new Error(`said is not one short line: ${JSON.stringify(verdict.said)}`);
    }
    const waitMs = waitOf(verdict);
    if (!(Number.isFinite(waitMs) && waitMs >= 0)) throw new Error(`not a wait: ${JSON.stringify(verdict)}`);
  }

  function waitOf(verdict: Verdict): number {
    if (verdict.kind === "overloaded") return verdict.pauseMs ?? 0;
    return "pause" in verdict && verdict.pause.kind === "for" ? verdict.pause.ms : 0;
  }
});

describe("the catalogue", () => {
  const addresses: [url: string, dialect: Dialect][] = [
    ["https://api.openai.com/v1", "openai"],
    ["https://eu.api.openai.com/v1", "openai"],
    ["https://mine.openai.azure.com/openai/v1", "azure"],
    ["https://mine.cognitiveservices.azure.com", "azure"],
    ["https://api.anthropic.com/v1", "anthropic"],
    ["https://generativelanguage.googleapis.com/v1beta/openai", "gemini"],
    ["https://us-east5-aiplatform.googleapis.com/v1", "vertex"],
    ["https://aiplatform.googleapis.com/v1", "vertex"],
    ["https://models.inference.ai.azure.com", "github"],
    ["https://coding-intl.dashscope.aliyuncs.com/v1", "dashscope"],
    ["https://workspace.eu-central-1.maas.aliyuncs.com/v1", "dashscope"],
    ["https://api.z.ai/api/anthropic", "zhipu"],
    ["https://api.kimi.com/coding/v1", "moonshot"],
    ["https://us-east-1.api.x.ai/v1", "xai"],
    ["https://API.GROQ.COM./openai/v1", "groq"],
    ["http://127.0.0.1:8080/v1", "generic"],
    ["https://notapi.openai.com.example/v1", "generic"],
    ["https://myapi.groq.com/v1", "generic"],
  ];
  test.each(addresses)("%s speaks %s", (url, dialect) => {
    expect(dialectFromUrl(new URL(url))).toBe(dialect);
  });

  test("every usual address is recognised as its own", () => {
    for (const dialect of DIALECTS) {
      const url = defaultBaseUrl(dialect);
      if (url !== null) expect(dialectFromUrl(new URL(url))).toBe(dialect);
    }
  });

  test("only addresses that depend on the account are missing", () => {
    const missing = DIALECTS.filter((dialect) => defaultBaseUrl(dialect) === null);
    expect(missing).toEqual(["azure", "vertex", "cloudflare", "generic"]);
  });

  test("every reset zone exists", () => {
    for (const dialect of DIALECTS) new Intl.DateTimeFormat("en", { timeZone: resetZone(dialect) });
    expect(resetZone("gemini")).toBe("America/Los_Angeles");
    expect(resetZone("modelscope")).toBe("Asia/Shanghai");
    expect(resetZone("openrouter")).toBe("UTC");
  });

  // prettier-ignore
  const keys: [
    sentence: string,
    dialect: Dialect,
    base: string,
    path: string,
    key: string,
    header: [string, string],
  ][] = [
    ["most keys go as Bearer", "groq", "https://h/v1", "/v1/chat/completions", "k", ["authorization", "Bearer k"]],
    ["Anthropic has a header of its own", "anthropic", "https://h/v1", "/v1/messages", "sk-ant-api03-k", ["x-api-key", "sk-ant-api03-k"]],
    ["Anthropic's OAuth tokens go as Bearer", "anthropic", "https://h/v1", "/v1/messages", "sk-ant-oat01-k", ["authorization", "Bearer sk-ant-oat01-k"]],
    ["Anthropic's OpenAI path takes Bearer", "anthropic", "https://h/v1", "/v1/chat/completions", "sk-ant-api03-k", ["authorization", "Bearer sk-ant-api03-k"]],
    ["Gemini has a header of its own", "gemini", "https://h/v1beta", "/v1beta/models", "AIzak", ["x-goog-api-key", "AIzak"]],
    ["Gemini's OpenAI path takes Bearer", "gemini", "https://h/v1beta", "/v1beta/openai/chat/completions", "AIzak", ["authorization", "Bearer AIzak"]],
    ["Gemini's OpenAI base takes Bearer", "gemini", "https://h/v1beta/openai", "/chat/completions", "AIzak", ["authorization", "Bearer AIzak"]],
    ["Azure has a header of its own", "azure", "https://h/openai/v1", "/openai/v1/responses", "k", ["api-key", "k"]],
    ["Azure's Entra tokens go as Bearer", "azure", "https://h/openai/v1", "/openai/v1/responses", "eyJk", ["authorization", "Bearer eyJk"]],
    ["Vertex takes OAuth tokens as Bearer", "vertex", "https://h/v1", "/v1/x", "ya29.k", ["authorization", "Bearer ya29.k"]],
    ["Vertex takes express keys in Google's header", "vertex", "https://h/v1", "/v1/x", "AQ.k", ["x-goog-api-key", "AQ.k"]],
  ];
  test.each(keys)("%s", (_sentence, dialect, base, path, key, header) => {
    expect(authHeader(dialect, new URL(base).pathname + path, key)).toEqual(header);
  });

  const probes: [sentence: string, dialect: Dialect, base: string, url: string | null][] = [
    ["from the base", "groq", "https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1/models"],
    ["from a base that ends in a slash", "openai", "https://h/v1/", "https://h/v1/models"],
    ["from a base that is only an origin", "openai", "https://h", "https://h/v1/models"],
    ["from an unknown server's origin", "generic", "http://127.0.0.1:9", "http://127.0.0.1:9/v1/models"],
    [
      "from a base that needs no path",
      "deepseek",
      "https://api.deepseek.com",
      "https://api.deepseek.com/user/balance",
    ],
    ["with a query", "gemini", "https://h/v1beta", "https://h/v1beta/models?pageSize=1"],
    [
      "in the catalog beside the base",
      "github",
      "https://models.github.ai/inference",
      "https://models.github.ai/catalog/models",
    ],
    [
      "from the origin",
      "azure",
      "https://h/openai/deployments/d",
      "https://h/openai/models?api-version=2024-10-21",
    ],
    [
      "nowhere, where every answer would prove nothing",
      "nvidia",
      "https://integrate.api.nvidia.com/v1",
      null,
    ],
  ];
  test.each(probes)("a key is proven %s", (_sentence, dialect, base, url) => {
    expect(checkFor(dialect, new URL(base))?.url.href ?? null).toBe(url);
  });

  // A gateway's key went to the public provider (found in Nov 2026 with cohere, github, huggingface, cloudflare).
  test("P39 a key is proven at the host of its base URL and nowhere else", () => {
    for (const dialect of DIALECTS) {
      for (const base of [
        "https://gateway.example:8443",
        "http://gateway.example/some/path/v1/",
        "https://h//other.example/v1",
      ]) {
        const check = checkFor(dialect, new URL(base));
        if (check !== null) expect(check.url.origin).toBe(new URL(base).origin);
      }
    }
  });
});
