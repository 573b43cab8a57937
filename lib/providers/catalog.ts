/**
 * What we know of each provider, one entry each: address, how the key goes, when its day ends, what proves a key,
 * and what its refusals mean. `lib/providers/classify.ts` applies the rules; what is asked of an entry otherwise stands
 * at the end of this file.
 *
 * Why so much: a status decides nothing alone (no money is 429, 402, 403, 400 or 412), a sentence decides nothing
 * alone ("You exceeded your current quota" is an empty account at OpenAI and a busy minute at Gemini), and neither
 * does `type` (`credit_limit` at Together is a rate limit under 429 and money under 402).
 *
 * Where the knowledge comes from: the providers' pages and answers published in public issues, dated up to Oct 2026.
 */
import { HOUR_MS, MINUTE_MS, SECOND_MS } from "../core/clock.ts";
import {
  asNamed,
  untilDayEnds,
  namedOr,
  namedUpTo,
  namedOrEndOfMinute,
  untilMonday,
  untilNextMonth,
  REJECTED,
  CAPACITY,
  TOO_FAST,
  TOO_FAST_KEY,
  TOO_FAST_MODEL,
  TOO_MANY_AT_ONCE,
  DAY,
  DAY_KEY,
  DAY_MODEL,
  NO_MONEY_KEY,
  NO_MONEY_MODEL,
  DEAD,
  DOUBTED,
  UNSUITED_MODEL,
  UNSUITED_KEY,
  GATED_MODEL,
  NO_THING,
} from "./refusal-rules.ts";
import type { RefusalRule, Wait } from "./refusal-rules.ts";
import type { ClockOffset } from "./wait-text.ts";
import { DIALECTS } from "./verdict.ts";
import type { Dialect, Scope } from "./verdict.ts";

/** How a key goes on a request; `authHeader` says which header that is. */
export type KeyHeader = "bearer" | "anthropic" | "azure" | "google";

/**
 * The cheapest request that fails for a dead key and uses up no quota; `lib/pool/probing.ts` reads what it comes to.
 */
export interface Proof {
  readonly method: "GET";
  /** From the base URL (`/models`), or from its origin (`origin:/openai/models`): a key goes to no other host (P39). */
  readonly target: `/${string}` | `origin:/${string}`;
  /** `balance`: the answer also tells whether the account can pay. A proven key may still lack a model. */
  readonly proves: "key" | "balance";
  readonly headers?: Readonly<Record<string, string>>;
  /** It may be answered without any key as well: then a good answer proves nothing, and only a refusal tells. */
  readonly mayBePublic?: true;
  /** Where the answer says what is left to spend: an amount, or whether there is any. */
  readonly left?: readonly string[];
  /** Where a good answer says that the key is dead all the same. */
  readonly deadWhere?: readonly (readonly [path: readonly string[], value: RegExp])[];
}

export interface Provider {
  /** Null where the address depends on the account. */
  readonly baseUrl: string | null;
  /** Host names; subdomains count too, and a leading hyphen stands for any region before it. */
  readonly hosts: readonly string[];
  /** How its keys begin, where that tells them from keys of others: a bare `sk-` is in use at a dozen companies. */
  readonly keyPrefixes?: readonly string[];
  readonly keyHeader: KeyHeader;
  /** Where the day of a daily quota ends. */
  readonly resetZone: string;
  /** Written times without a zone are in this one; null: it is not known. */
  readonly clockOffset: ClockOffset;
  readonly proof: Proof | null;
  /** What a rate limit holds for where the answer does not say. */
  readonly limitScope: Scope;
  /**
   * What a refusal for money holds for where its words do not say. `key`: here an account without money is refused for
   * every model. `key+model`: other models may cost nothing, or somebody else pays for them.
   */
  readonly moneyScope: Scope;
  /** What to make of the time a rate limit names, where that is not simply believed. */
  readonly limitWait?: Wait;
  /** A function: patterns cost memory, and most processes never meet most providers' refusals. */
  readonly rules: () => readonly RefusalRule[];
}

// ------------------------------------------------------------ Google's rules

/** Google's error model, the same at AI Studio, Vertex and Code Assist. */
const googleRules = (): readonly RefusalRule[] => [
  // A bad key is 400 INVALID_ARGUMENT (zeroclaw#194); the words are for the variants without details.
  { status: 400, code: /^api_key_invalid$/, then: DEAD },
  { status: 400, text: /^API key (?:not valid|not found|expired)\b/im, then: DEAD },
  { status: 403, text: /^Your API key was reported as leaked\b/m, then: DEAD },
  // "Consumer 'api_key:…' has been suspended".
  { status: 403, code: /^consumer_suspended$/, then: DEAD },
  // API_KEY_SERVICE_BLOCKED and its kin: the key's restrictions; the same text when Google blocked a leaked key.
  { status: 403, code: /^api_key_(?:http_referrer|android_app|ios_app)_blocked$/, then: REJECTED }, // The request's fields.
  { status: 403, code: /^api_key_ip_address_blocked$/, then: UNSUITED_KEY }, // Our address, but another key may be open.
  { status: 403, code: /^api_key_\w+_blocked$/, then: DOUBTED },
  { status: 403, text: /^Your project has been denied access\b/m, then: DOUBTED },
  // The key is fine, its project has not switched the service on.
  { status: 403, code: /^service_disabled$/, then: UNSUITED_KEY },
  { status: 403, code: /^billing_disabled$/, then: NO_MONEY_KEY },
  // Free tier only outside some countries; a project with billing may. "User location is not supported" is not here:
  // that is our own address, the same for every key.
  { status: 400, text: /^Gemini API free tier is not available in your country\b/m, then: UNSUITED_KEY },
  { status: 403, text: /^Requests from (?:referer|this|the) .{0,200}\bare blocked\b/im, then: REJECTED }, // Nov 2026
  NO_THING,
  { status: 403, code: /^(?:permission_denied|iam_permission_denied)$/, then: UNSUITED_MODEL },
  // No free quota for this model at all: a permission, and no wait helps.
  { status: 429, text: /\blimit: 0\b(?![.,]\d)/, then: UNSUITED_MODEL },
  // Liar: PerDay violations carry a `retryDelay` of 30 to 50 s (gemini-cli calls them terminal all the same).
  {
    status: 429,
    code: /per_?day|daily/,
    then: { kind: "exhausted", reason: "quota_day", scope: "key+model", wait: untilDayEnds },
  },
];

// -------------------------------------------------------------- the catalogue

const UTC = "UTC";
const LOS_ANGELES = "America/Los_Angeles";
const SHANGHAI = "Asia/Shanghai";

const BEARER = { keyHeader: "bearer", resetZone: UTC, clockOffset: null, moneyScope: "key" } as const;
const CHINESE = {
  keyHeader: "bearer",
  resetZone: SHANGHAI,
  clockOffset: "+08:00",
  moneyScope: "key",
} as const;
const MODELS: Proof = { method: "GET", target: "/models", proves: "key" };
const MODELS_OF_ALL: Proof = { ...MODELS, mayBePublic: true };

export const PROVIDERS: Readonly<Record<Dialect, Provider>> = {
  /**
   * Limits per organization and model. Daily limits are leaky buckets (200 a day: one per 432 s), so no midnight;
   * `/v1/responses` sends its 429 without any header (openai-node#1477), the sentence is the hint.
   */
  openai: {
    ...BEARER,
    baseUrl: "https://api.openai.com/v1",
    hosts: ["api.openai.com"],
    keyPrefixes: ["sk-proj-", "sk-svcacct-", "sk-admin-", "sk-None-"],
    proof: MODELS, // A restricted key may get 403 here while chat works.
    limitScope: "key+model",
    rules: () => [
      { status: [403, 404], code: /^model_not_found$/, then: UNSUITED_MODEL },
      { status: [401, 403], text: /\b(?:missing scopes|insufficient permissions)\b/i, then: UNSUITED_MODEL },
      // The client's own OpenAI-Organization or OpenAI-Project header names something of another account.
      {
        status: 401,
        code: /^(?:invalid_organization|mismatched_organization|mismatched_project)$/,
        then: UNSUITED_KEY,
      },
      // An organization's list of addresses; other accounts need not have one.
      { status: [401, 403], code: /^ip_not_authorized$/, then: UNSUITED_KEY },
      { status: [401, 403], text: /\bIP\b.{0,60}\b(?:not authorized|allow ?list)\b/i, then: UNSUITED_KEY },
      {
        status: [400, 403, 429],
        code: /^(?:billing_hard_limit_reached|billing_not_active)$/,
        then: NO_MONEY_KEY,
      },
      // Subscription accounts: hours or days, with `resets_in_seconds`.
      { status: 429, code: /^usage_limit_reached$/, then: DAY_KEY },
    ],
  },

  /**
   * Limits per deployment and region; both keys of a resource share them. `code` is the string "429".
   * Liar: "Please retry after 86400 seconds" on a limit per minute (climb#1, TinyLLM#17). No Azure limit is a day
   * long, so no wait is believed beyond some minutes.
   */
  azure: {
    ...BEARER,
    keyHeader: "azure",
    baseUrl: null,
    hosts: ["openai.azure.com", "openai.azure.us", "cognitiveservices.azure.com", "services.ai.azure.com"],
    proof: { method: "GET", target: "origin:/openai/models?api-version=2024-10-21", proves: "key" },
    limitScope: "key+model",
    limitWait: namedUpTo(5 * MINUTE_MS),
    rules: () => [
      { status: 404, code: /^deploymentnotfound$/, then: UNSUITED_MODEL }, // Another resource may have it.
      { status: 403, text: /\b(?:virtual network|firewall|public access is disabled)\b/i, then: REJECTED },
      { status: 401, code: /^permissiondenied$/, then: UNSUITED_KEY },
      // "…invalid subscription key or wrong API endpoint": the endpoint is as likely.
      { status: 401, then: DOUBTED },
    ],
  },

  /**
   * Limits per organization and model class. Three facts about the key hide in 400 `invalid_request_error`.
   * `retry-after` on every 429 since mid-2024 except the spend limit.
   */
  anthropic: {
    ...BEARER,
    keyHeader: "anthropic",
    baseUrl: "https://api.anthropic.com/v1",
    hosts: ["api.anthropic.com"],
    keyPrefixes: ["sk-ant-"],
    proof: { ...MODELS, headers: { "anthropic-version": "2023-06-01" } },
    limitScope: "key+model",
    rules: () => [
      // Seen with money in the account, too (claude-code#54839): asked again later, not disabled.
      { status: 400, text: /^Your credit balance is too low\b/m, then: NO_MONEY_KEY },
      // "You have reached your specified (workspace) API usage limits. You will regain access on DATE at 00:00 UTC."
      {
        status: [400, 429],
        text: /^You have reached your (?:\w+ ){0,3}API usage limits\b/m,
        then: NO_MONEY_KEY,
      },
      { status: 429, code: /^enforced_spend_limit_reached$/, then: NO_MONEY_KEY },
      { status: 400, text: /^This organization has been disabled\b/m, then: DOUBTED },
      { status: 401, text: /\bOAuth token has expired\b/i, then: DEAD },
      // Their edge refuses our address (often Cloudflare's); every key gets it.
      { status: 403, text: /^Request not allowed$/m, then: REJECTED },
      { status: 403, code: /^permission_error$/, then: UNSUITED_MODEL },
      // Server-side shedding; only the short sentence differs (claude-code#71669).
      { status: 429, text: /^Rate limited\.?$/m, then: CAPACITY },
      // The 1M-token context is an entitlement of its own.
      { status: 429, text: /\brequired for long context requests\b/, then: UNSUITED_MODEL },
      // Subscription keys: the 5-hour or 7-day window, with its reset as epoch seconds.
      {
        status: 429,
        header: ["anthropic-ratelimit-unified-status", /^rejected$/],
        then: { ...DAY_KEY, wait: asNamed },
      },
      { status: 429, text: /\byour account's rate limit\b/, then: TOO_FAST_KEY },
    ],
  },

  /**
   * Limits per Google project and model; several keys of a project share everything. No headers, all in `details`,
   * unless the error comes bare ("check quota"); an array around it on the /openai path and in non-SSE streams.
   * Used-up prepaid credits are a 429, seen in Aug 2026 also on projects that had used nothing.
   */
  gemini: {
    ...BEARER,
    keyHeader: "google",
    resetZone: LOS_ANGELES,
    baseUrl: "https://generativelanguage.googleapis.com/v1beta",
    hosts: ["generativelanguage.googleapis.com"],
    keyPrefixes: ["AIza", "AQ."],
    proof: { method: "GET", target: "/models?pageSize=1", proves: "key" },
    limitScope: "key+model",
    rules: googleRules,
  },

  /** Limits per project, region and model. A 401 is mostly a token past its hour, which only its owner can renew. */
  vertex: {
    ...BEARER,
    keyHeader: "google",
    resetZone: LOS_ANGELES,
    baseUrl: null,
    hosts: ["aiplatform.googleapis.com", "-aiplatform.googleapis.com", "cloudcode-pa.googleapis.com"],
    keyPrefixes: ["AIza", "AQ.", "ya29."],
    proof: null, // A token refresh is the proof, and that is not ours to do.
    limitScope: "key+model",
    rules: () => [
      // Dynamic shared quota: the region is full, no project's number (gemini-cli#14831).
      { status: 429, text: /\/error-code-429\b/, then: CAPACITY },
      { status: 401, then: DOUBTED },
      { status: 400, text: /\bis not allowed to use Publisher Model\b/, then: UNSUITED_MODEL },
      { ...GATED_MODEL, text: /\bPublisher Model\b.{0,300}\baccess\b/ },
      // Code Assist: QUOTA_EXHAUSTED with a reset that may be 161 hours away (gemini-cli#13004).
      { status: 429, code: /^quota_exhausted$/, then: DAY_MODEL },
      ...googleRules(),
    ],
  },

  /**
   * `:free` models: 20 a minute and 50 (1,000) a day per account, day in UTC; failed attempts count, so blind
   * rotation drains every key's day. The discriminator is `limit_source`; without it `provider_name` says that the
   * provider behind refused. The reset is epoch milliseconds (also seconds: everruns#2280).
   */
  openrouter: {
    ...BEARER,
    baseUrl: "https://openrouter.ai/api/v1",
    hosts: ["openrouter.ai"],
    keyPrefixes: ["sk-or-"],
    // `/models` is public and proves nothing. What is left is null for a key without a cap of its own.
    proof: { method: "GET", target: "/key", proves: "balance", left: ["data", "limit_remaining"] },
    limitScope: "key",
    moneyScope: "key+model", // `:free` models go on.
    rules: () => [
      { code: /^openrouter_in_flight_budget$/, then: TOO_MANY_AT_ONCE }, // A 402 that passes.
      { code: /^openrouter_credits$/, then: NO_MONEY_KEY },
      { code: /^upstream_provider_shared_pool$/, then: CAPACITY },
      // The provider behind refused: its account with OpenRouter, or the one that this account brought along.
      { status: [401, 402], field: ["is_byok", /^true$/], then: UNSUITED_MODEL },
      { status: [401, 402], field: ["provider_name", /./], then: CAPACITY },
      // The request is too big for what is left; a smaller one passes.
      { status: 402, text: /\bcan only afford\b|\bprompt tokens limit exceeded\b/i, then: UNSUITED_KEY },
      { status: 403, text: /\bkey limit exceeded \(daily\b/i, then: DAY },
      { status: 403, text: /\bkey limit exceeded \(weekly\b/i, then: { ...DAY, wait: untilMonday } },
      { status: 403, text: /\bkey limit exceeded \(monthly\b/i, then: { ...DAY, wait: untilNextMonth } },
      { status: 403, text: /\bkey limit exceeded\b/i, then: NO_MONEY_KEY },
      // Moderation (`reasons`), guardrails (`patterns`), management keys, regions. A bad key is 401.
      { status: 403, then: REJECTED },
      { status: 401, text: /^User not found\b/m, then: DEAD },
      // Data policy is a setting of the account; "No endpoints found" alone is the request's.
      { status: 404, code: /^privacy_restricted$/, then: UNSUITED_MODEL },
      { status: 404, text: /\bdata policy\b|\/settings\/privacy\b/i, then: UNSUITED_MODEL },
      { status: 429, text: /\bfree-models-per-day\b/, then: DAY },
      // Bring your own key: the limit is that of this account's key at the provider.
      { status: 429, field: ["is_byok", /^true$/], then: TOO_FAST_MODEL },
      { status: 429, field: ["provider_name", /./], then: CAPACITY },
      // A chunk of a stream names its provider at the top: the request had been routed.
      { status: 429, field: ["provider", /./], then: CAPACITY },
      // The wording of 2026 no longer names OpenRouter's own window; only the distance of its reset does.
      { status: 429, namedAtLeastMs: 10 * MINUTE_MS, then: DAY },
    ],
  },

  /**
   * No headers and no hint; about 40 a minute, measured clear after 62 s, some models on an hour's scale. Bodies are
   * RFC 7807 (`status`, `title`, `detail`). 401 and 403 ("Authorization failed") are not believed: the same came to
   * good keys with an odd User-Agent (OpenHarness#233).
   */
  nvidia: {
    ...BEARER,
    baseUrl: "https://integrate.api.nvidia.com/v1",
    hosts: ["api.nvidia.com"],
    keyPrefixes: ["nvapi-"],
    proof: null, // `/models` is reported to answer without any key.
    limitScope: "key",
    rules: () => [
      // `/v1/models` lists all, accounts have some: another account's key may serve it (houston#1243).
      { status: 404, text: /\bNot found for account\b/i, then: UNSUITED_MODEL },
      // "ResourceExhausted: Worker local total request limit reached (16/16)": their worker's queue.
      { status: 429, text: /\bworker local\b/i, then: CAPACITY },
    ],
  },

  /**
   * Limits per organization and model. The `-requests` headers are per day, `-tokens` per minute; the requests per
   * minute stand only in the sentence. Daily limits are rolling ("try again in 9m38s"). Liar: a 413 with
   * `rate_limit_exceeded` and a `retry-after`, for a request larger than the whole window; a 413 is the client's.
   */
  groq: {
    ...BEARER,
    baseUrl: "https://api.groq.com/openai/v1",
    hosts: ["api.groq.com"],
    keyPrefixes: ["gsk_"],
    proof: MODELS, // 200 also for a project whose models are all blocked.
    limitScope: "key+model",
    rules: () => [
      { status: 498, then: CAPACITY }, // Flex tier.
      { status: 403, code: /^model_permission_blocked_/, then: UNSUITED_MODEL },
      { status: [400, 403], code: /^organization_restricted$/, then: DEAD }, // Seen 2026: an account shut by Groq.
      GATED_MODEL,
    ],
  },

  /** `type: credit_limit` is a rate limit under 429 and money under 402: the status first. */
  together: {
    ...BEARER,
    baseUrl: "https://api.together.xyz/v1",
    hosts: ["api.together.xyz", "api.together.ai"],
    keyPrefixes: ["tgp_v1_"],
    proof: MODELS,
    limitScope: "key",
    rules: () => [],
  },

  /**
   * No `retry-after` on any of 163 measured refusals; the window is the wall-clock minute. The ceiling is per model
   * (23 to 750 a minute on one key). "Service tier capacity exceeded for this model" is theirs, under 429 and 503.
   */
  mistral: {
    ...BEARER,
    baseUrl: "https://api.mistral.ai/v1",
    hosts: ["api.mistral.ai", "codestral.mistral.ai"],
    proof: MODELS,
    limitScope: "key+model",
    limitWait: namedOrEndOfMinute,
    rules: () => [],
  },

  /** `retry-after` about 60 is an upper bound (clears were measured at 11 s and 32 s). Tokens are reserved up front. */
  cerebras: {
    ...BEARER,
    baseUrl: "https://api.cerebras.ai/v1",
    hosts: ["api.cerebras.ai"],
    keyPrefixes: ["csk-"],
    proof: MODELS,
    limitScope: "key+model",
    rules: () => [
      // Busy, clears in seconds; its `x-should-retry: false` is not to be obeyed.
      { code: /^queue_exceeded$/, then: CAPACITY },
      GATED_MODEL,
    ],
  },

  /** No limit per account but load: slow answers with keep-alives, then 429 and 503. */
  deepseek: {
    ...BEARER,
    baseUrl: "https://api.deepseek.com",
    hosts: ["api.deepseek.com"],
    // From the origin: the base may be the skin of Anthropic, `/anthropic`.
    proof: { method: "GET", target: "origin:/user/balance", proves: "balance", left: ["is_available"] },
    limitScope: "key",
    rules: () => [
      { status: 429, text: /\bconcurren/i, then: TOO_MANY_AT_ONCE },
      { status: 429, then: CAPACITY },
    ],
  },

  /** Adaptive limits; the `x-ratelimit-limit-tokens-*` headers are per second. */
  fireworks: {
    ...BEARER,
    baseUrl: "https://api.fireworks.ai/inference/v1",
    hosts: ["api.fireworks.ai"],
    keyPrefixes: ["fw_"],
    proof: MODELS,
    limitScope: "key+model",
    rules: () => [
      // "Account … is suspended, possibly due to reaching the monthly spending limit" (pollinations#12136).
      { status: 412, text: /\b(?:suspended|spending limit|invoices?|billing)\b/i, then: NO_MONEY_KEY },
      GATED_MODEL,
    ],
  },

  /** Trial keys: 20 a minute per chat model (rolling), 1,000 calls a month. Bodies are `{"message": …}` only. */
  cohere: {
    ...BEARER,
    baseUrl: "https://api.cohere.com/v2",
    hosts: ["api.cohere.com", "api.cohere.ai"],
    proof: { method: "GET", target: "origin:/v1/models?page_size=1", proves: "key" },
    limitScope: "key",
    rules: () => [
      // The month is a rolling one, no date is given: ask again each day.
      { status: 429, text: /\/ ?month\b|\bper month\b/i, then: { ...DAY, wait: untilDayEnds } },
      { status: 429, text: /\bAPI calls ?\/ ?minute\b/i, then: TOO_FAST_MODEL },
      GATED_MODEL,
    ],
  },

  /** The unit of its reset headers is not documented: seen as 30, 86400 and 4h17m. Magnitude and suffix decide. */
  sambanova: {
    ...BEARER,
    baseUrl: "https://api.sambanova.ai/v1",
    hosts: ["api.sambanova.ai"],
    proof: MODELS_OF_ALL,
    limitScope: "key+model",
    rules: () => [],
  },

  /**
   * A key is a GitHub user: all tokens of one user share it. The limit's kind stands in `x-ratelimit-type` and in
   * the sentence; the advertised 20,000 requests are not what binds.
   */
  github: {
    ...BEARER,
    baseUrl: "https://models.github.ai/inference",
    hosts: ["models.github.ai", "models.inference.ai.azure.com"],
    keyPrefixes: ["ghp_", "gho_", "ghu_", "ghs_", "github_pat_"],
    // `/user` is on another host, and a key goes to its own host only (P39). The catalog may be open to everybody.
    proof: { method: "GET", target: "origin:/catalog/models", proves: "key", mayBePublic: true },
    limitScope: "key",
    rules: () => [
      { status: 401, text: /^Bad credentials\b/m, then: DEAD },
      { status: [401, 403], text: /\bpermission is required\b/i, then: UNSUITED_KEY }, // A token without models:read.
      { status: 403, code: /^no_access$/, then: UNSUITED_MODEL },
      { status: 429, text: /\bUserConcurrentRequests\b/i, then: TOO_MANY_AT_ONCE },
      { status: 429, text: /\bUserByModelByDay\b/i, then: DAY_MODEL }, // With the exact wait, up to 19 h.
      { status: 429, text: /\bUserByDay\b/i, then: DAY },
      { status: 429, text: /\bUserByModel/i, then: TOO_FAST_MODEL },
    ],
  },

  /** Monthly credits are 402, `error` is a string, the reason also in `x-error-message`. */
  huggingface: {
    ...BEARER,
    baseUrl: "https://router.huggingface.co/v1",
    hosts: ["router.huggingface.co", "api-inference.huggingface.co"],
    keyPrefixes: ["hf_", "api_org_"],
    proof: MODELS_OF_ALL, // `whoami` is on another host, and a key goes to its own host only (P39).
    limitScope: "key",
    rules: () => [
      // A fine-grained token without "Make calls to Inference Providers": refused for every model.
      { status: 403, text: /\bsufficient permissions to call Inference Providers\b/, then: UNSUITED_KEY },
    ],
  },

  /**
   * `{code, error}`, where `error` is a sentence. A bad key is 400. Limits per team and model. "Used all available
   * credits or reached its monthly spending limit" was a 429 in Feb 2026 and a 403 in Jul 2026 (continue#10373).
   */
  xai: {
    ...BEARER,
    baseUrl: "https://api.x.ai/v1",
    hosts: ["api.x.ai"],
    keyPrefixes: ["xai-"],
    proof: {
      method: "GET",
      target: "/api-key",
      proves: "key",
      deadWhere: [
        [["api_key_blocked"], /^true$/],
        [["api_key_disabled"], /^true$/],
        [["team_blocked"], /^true$/],
      ],
    },
    limitScope: "key",
    rules: () => [
      { status: 400, text: /^Incorrect API key provided\b/m, then: DEAD },
      { status: 429, text: /\bfree usage\b/i, then: DAY },
      // "Requests per Minute (actual/limit): 0/0": this team may not use this model.
      { status: 429, text: /\(actual\/limit\): \d+\/0\b/, then: UNSUITED_MODEL },
      { status: 429, text: /\bToo many requests for team \S+ and model\b/, then: TOO_FAST_MODEL },
      GATED_MODEL,
    ],
  },

  /** Thin evidence. Its 401 is a page of its web server, reported for used-up credits as well: doubted. */
  perplexity: {
    ...BEARER,
    baseUrl: "https://api.perplexity.ai",
    hosts: ["api.perplexity.ai"],
    keyPrefixes: ["pplx-"],
    proof: null,
    limitScope: "key",
    rules: () => [{ status: 429, page: true, then: TOO_FAST }],
  },

  /** Numbers in `errors[0].code`. The daily neurons are the account's, until midnight UTC. */
  cloudflare: {
    ...BEARER,
    baseUrl: null,
    hosts: ["api.cloudflare.com"],
    proof: {
      method: "GET",
      target: "origin:/client/v4/user/tokens/verify",
      proves: "key",
      deadWhere: [[["result", "status"], /^(?:disabled|expired)$/]],
    },
    limitScope: "key",
    rules: () => [
      { code: /^(?:3036|4006)$/, then: DAY }, // 3036 in the documentation, 4006 as seen.
      { code: /^3040$/, then: CAPACITY }, // The same 429, but out of capacity.
      { code: /^(?:3023|10000)$/, then: DOUBTED }, // Account blocked; a bad token, or one without Workers AI.
      { code: /^(?:3041|5016|5018)$/, then: UNSUITED_MODEL },
      { code: /^(?:3006|3042|5007)$/, then: REJECTED }, // Too large, no such model.
    ],
  },

  /**
   * Limits per organization. One `type` for the account's limit and for a busy service: the sentence tells, also on
   * the Anthropic path (pi#3494). Keys of .ai and of .com/.cn are worlds apart: the wrong address looks like a dead
   * key.
   */
  moonshot: {
    ...CHINESE,
    baseUrl: "https://api.moonshot.ai/v1",
    hosts: ["api.moonshot.ai", "api.moonshot.cn", "api.kimi.com"],
    keyPrefixes: ["sk-kimi-"],
    proof: {
      method: "GET",
      target: "/users/me/balance",
      proves: "balance",
      left: ["data", "available_balance"],
    },
    limitScope: "key",
    rules: () => [
      { status: 401, then: DOUBTED },
      { status: [403, 429], code: /^exceeded_current_quota_error$/, then: NO_MONEY_KEY },
      { status: 429, text: /\bWe're receiving too many requests\b/i, then: CAPACITY },
      { status: 403, code: /^permission_denied_error$/, then: UNSUITED_MODEL },
      GATED_MODEL,
    ],
  },

  /** `code` is a string of four digits; a 429 may be a limit, arrears or a violation. Times are Beijing's, unzoned. */
  zhipu: {
    ...CHINESE,
    baseUrl: "https://open.bigmodel.cn/api/paas/v4",
    hosts: ["open.bigmodel.cn", "api.z.ai"],
    proof: MODELS,
    limitScope: "key",
    rules: () => [
      { code: /^1001$/, then: REJECTED }, // No Authorization header came with the request.
      { code: /^100[23]$/, then: DEAD }, // Token invalid, token expired.
      { code: /^1113$/, then: NO_MONEY_KEY }, // Arrears.
      { code: /^1309$/, then: NO_MONEY_KEY }, // The plan has expired.
      { code: /^(?:1000|1004|111[0-2]|112[01])$/, then: DOUBTED }, // Refused; the account is locked or unknown.
      { code: /^(?:1220|1311)$/, then: UNSUITED_MODEL }, // No permission for the API; the plan lacks the model.
      { code: /^130[23]$/, then: TOO_MANY_AT_ONCE }, // Cleared in under 5 s: a cap on requests at once.
      { code: /^1304$/, then: { ...DAY_MODEL, wait: untilDayEnds } },
      { code: /^(?:1305|1312)$/, then: CAPACITY },
      { code: /^(?:1308|1310)$/, then: DAY }, // 5 hours, a week or a month, with its end in the sentence.
      { code: /^(?:1211|1261|1301)$/, then: REJECTED }, // No such model, too long, moderation.
    ],
  },

  /**
   * Limits per account and model, enforced per second too. `insufficient_quota` is tokens per minute here, not
   * money, unless the sentence says "Free".
   */
  dashscope: {
    ...CHINESE,
    baseUrl: "https://dashscope.aliyuncs.com/compatible-mode/v1",
    hosts: [
      "dashscope.aliyuncs.com",
      "dashscope-intl.aliyuncs.com",
      "dashscope-us.aliyuncs.com",
      "maas.aliyuncs.com",
    ],
    keyPrefixes: ["sk-sp-"],
    proof: MODELS,
    limitScope: "key+model",
    rules: () => [
      {
        status: [400, 403],
        code: /^(?:arrearage|(?:pre|post)paidbilloverdue|commoditynotpurchased)$/,
        then: NO_MONEY_KEY,
      },
      { status: [403, 429], code: /freetieronly$/, then: NO_MONEY_MODEL },
      { status: 429, text: /\bFree allocated quota exceeded\b/i, then: NO_MONEY_MODEL },
      // Coding plans: windows of 5 hours, a week and a month, without a time.
      { status: 429, text: /\bhour allocated quota\b/i, then: { ...DAY_KEY, wait: namedOr(HOUR_MS) } },
      {
        status: 429,
        text: /\b(?:week|month) allocated quota\b/i,
        then: { ...DAY_KEY, wait: namedOr(6 * HOUR_MS) },
      },
      { status: 429, text: /\bconcurrency allocated quota\b/i, then: TOO_MANY_AT_ONCE },
      // A slope, not a window: a few seconds are enough.
      {
        status: 429,
        text: /\brate increased too quickly\b/i,
        then: { ...TOO_FAST_MODEL, wait: namedOr(4 * SECOND_MS) },
      },
      { status: 403, code: /^(?:model\.)?accessdenied(?:\.\w+)?$|^access_denied$/, then: UNSUITED_MODEL },
      // Also what a key of another region gets.
      { status: 401, then: DOUBTED },
      { status: 429, code: /^throttling|^insufficient_quota$|^limit_requests$/, then: TOO_FAST_MODEL },
    ],
  },

  /** Limits per account and model, named after "Details:" (RPM, TPM, RPD). `/models` is 200 with an empty balance. */
  siliconflow: {
    ...CHINESE,
    baseUrl: "https://api.siliconflow.cn/v1",
    hosts: ["api.siliconflow.cn", "api.siliconflow.com"],
    proof: { method: "GET", target: "/user/info", proves: "balance", left: ["data", "totalBalance"] },
    limitScope: "key+model",
    rules: () => [
      { status: 403, code: /^30001$/, then: NO_MONEY_KEY }, // Also for models that cost nothing.
      { status: 403, code: /^30003$/, then: REJECTED }, // Model disabled, for everyone.
    ],
  },

  /** Per day, for the account and for each model. `insufficient_quota` is a passing limit of the DashScope behind. */
  modelscope: {
    ...CHINESE,
    baseUrl: "https://api-inference.modelscope.cn/v1",
    hosts: ["api-inference.modelscope.cn"],
    keyPrefixes: ["ms-"],
    proof: MODELS_OF_ALL,
    limitScope: "key+model",
    rules: () => [
      { status: 429, text: /\btoday's quota for model\b/, then: DAY_MODEL },
      { status: 429, text: /\btoday's quota\b/, then: DAY_KEY },
      { status: 429, header: ["modelscope-ratelimit-requests-remaining", /^0$/], then: DAY_KEY },
      { status: 429, header: ["modelscope-ratelimit-model-requests-remaining", /^0$/], then: DAY_MODEL },
      { status: 429, code: /^insufficient_quota$/, then: TOO_FAST_MODEL },
    ],
  },

  /**
   * `error` is a string, in the skins of OpenAI and Anthropic too. Windows of hours, without a time; models for
   * subscribers only (403).
   */
  ollama: {
    ...BEARER,
    baseUrl: "https://ollama.com/v1",
    hosts: ["ollama.com"],
    proof: null, // `/api/tags` is public.
    limitScope: "key",
    rules: () => [
      { status: 429, text: /\bsession usage limit\b/, then: { ...DAY, wait: namedOr(HOUR_MS) } },
      { status: 429, text: /\bweekly usage limit\b/, then: { ...DAY, wait: namedOr(6 * HOUR_MS) } },
    ],
  },

  /**
   * Anything that speaks one of these languages: a gateway, a self-hosted server, a provider not listed. Its list of
   * models may be public, so a refusal there says more than a success.
   */
  generic: {
    ...BEARER,
    baseUrl: null,
    hosts: [],
    proof: MODELS_OF_ALL,
    limitScope: "key",
    moneyScope: "key+model",
    // In OpenAI's words: the keys may belong to accounts that have different models.
    rules: () => [{ status: [403, 404], code: /^model_not_found$/, then: UNSUITED_MODEL }, GATED_MODEL],
  },
};

// -------------------------------------------------------------- look-ups

/** The provider's address; null where it depends on the account (azure, vertex, cloudflare) or is unknown. */
export function defaultBaseUrl(dialect: Dialect): string | null {
  return PROVIDERS[dialect].baseUrl;
}

/** The IANA zone in which the provider's daily quotas start anew. */
export function resetZone(dialect: Dialect): string {
  return PROVIDERS[dialect].resetZone;
}

/** Whose address this is, by its host; `generic` where nobody's we know. */
export function dialectFromUrl(url: URL): Dialect {
  const host = url.hostname.replace(/\.$/, "");
  const knows = (pattern: string) =>
    host === pattern || host.endsWith(pattern.startsWith("-") ? pattern : `.${pattern}`);
  return DIALECTS.find((dialect) => PROVIDERS[dialect].hosts.some(knows)) ?? "generic";
}

/** How a key begins, and whose keys begin so. */
export interface KeyOrigin {
  readonly prefix: string;
  /** At least one; Google's begin alike at Gemini and Vertex. */
  readonly issuers: readonly [Dialect, ...Dialect[]];
}

/** Whose key this is by how it begins; null: it begins like nobody's we know. */
export function originOf(key: string): KeyOrigin | null {
  const prefixAt = (dialect: Dialect) =>
    PROVIDERS[dialect].keyPrefixes?.find((prefix) => key.startsWith(prefix)) ?? null;
  const [first, ...others] = DIALECTS.filter((dialect) => prefixAt(dialect) !== null);
  const prefix = first === undefined ? null : prefixAt(first);
  return first === undefined || prefix === null ? null : { prefix, issuers: [first, ...others] };
}

/** The header that carries the key. Runs for every attempt: no pattern matching, nothing kept. */
export function authHeader(
  dialect: Dialect,
  upstreamPath: string,
  key: string,
): [name: string, value: string] {
  switch (PROVIDERS[dialect].keyHeader) {
    case "bearer":
      return bearer(key);
    case "anthropic":
      // OAuth tokens, and the OpenAI-compatible path, go as everywhere else.
      if (key.startsWith("sk-ant-oat") || upstreamPath.includes("/chat/completions")) return bearer(key);
      return ["x-api-key", key];
    case "azure":
      // An Entra token is a JWT.
      return key.startsWith("eyJ") ? bearer(key) : ["api-key", key];
    case "google":
      // So do OAuth tokens and the OpenAI-compatible path here.
      if (key.startsWith("ya29.")) return bearer(key);
      if (isCompatPath(upstreamPath)) return bearer(key);
      return ["x-goog-api-key", key];
  }
}

/** Whether the provider takes its key in the query too, as `key=`. */
export function takesKeyInQuery(dialect: Dialect): boolean {
  return PROVIDERS[dialect].keyHeader === "google";
}

function bearer(key: string): [name: string, value: string] {
  return ["authorization", `Bearer ${key}`];
}

/** Gemini's OpenAI-compatible path, `/v1beta/openai/…`. */
function isCompatPath(path: string): boolean {
  return path.includes("/openai/") || path.endsWith("/openai");
}

/** A request that tells a live key from a dead one, as `Proof`, with its address made whole. */
export interface CheckRequest {
  method: Proof["method"];
  url: URL;
  headers: Readonly<Record<string, string>>;
  proves: Proof["proves"];
}

/** The cheapest proof of a key, or null where none is known that is free and certain. The key goes on as always. */
export function checkFor(dialect: Dialect, baseUrl: URL): CheckRequest | null {
  const { proof, baseUrl: usual } = PROVIDERS[dialect];
  if (proof === null) return null;
  const { method, target, proves, headers = {} } = proof;
  // A base that is only an origin gets whole paths from its clients: the API's root is the usual one.
  const root = baseUrl.pathname === "/" ? new URL(usual ?? "https://host/v1").pathname : baseUrl.pathname;
  const path = target.startsWith("origin:")
    ? target.slice("origin:".length)
    : root.replace(/\/+$/, "") + target;
  const [pathname = "", search = ""] = path.split("?");
  // The parts of the base are set, not resolved: `//host` in a path must not lead elsewhere.
  const url = new URL(baseUrl);
  url.pathname = pathname;
  url.search = search;
  return { method, url, headers, proves };
}
