/**
 * keywheel as a library: a `fetch` that stands before a pool of API keys and hides rate limits.
 *
 * ```ts
 * import { createPooledFetch } from "keywheel";
 * import OpenAI from "openai";
 *
 * const fetch = createPooledFetch({ apiKeys: ["sk-1…", "sk-2…"], provider: "openai" });
 * const client = new OpenAI({ apiKey: "unused", fetch });
 * ```
 *
 * Give it to any SDK that takes a `fetch`. Each request goes out with the key whose turn it is; one that is refused
 * goes out again with another key; where all keys have to wait, it waits with them.
 */

/** The standard's `fetch`, as far as SDKs use it. */
export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** How the next key is chosen. */
export type KeyStrategy =
  /** One after the other. */
  | "round-robin"
  /** The same one as long as it can serve. */
  | "sticky"
  /** The one that was used longest ago. */
  | "lru"
  /** The one with the largest share of its day left. */
  | "quota"
  /** The same one for the same conversation: keeps the provider's prompt cache warm. */
  | "affinity";

/** What can be set for each provider. Numbers may be written as text, as they come from an environment. */
export interface ProviderSettings {
  /**
   * The keys, as a list or as a text with commas or white space between them. One is `[account@]key[:daily]`: keys of
   * one `account` share its limits, and `daily` is how many requests a day it may be used for.
   * @example ["sk-1", "alice@sk-2", "alice@sk-3:500"]
   */
  apiKeys?: string | readonly string[] | undefined;
  /**
   * Whose API it is: `openai`, `azure`, `anthropic`, `gemini`, `vertex`, `openrouter`, `nvidia`, `groq`, `together`,
   * `mistral`, `cerebras`, `deepseek`, `fireworks`, `cohere`, `sambanova`, `github`, `huggingface`, `xai`,
   * `perplexity`, `cloudflare`, `moonshot`, `zhipu`, `dashscope`, `siliconflow`, `modelscope`, `ollama`, or `generic`.
   * Left out: by the host of the base URL, else by how the keys begin.
   */
  provider?: string | undefined;
  /**
   * Requests a key may make in any 60 s (GET and HEAD do not count), `"off"` for no limit of our own, or `"auto"`:
   * learnt from what the provider announces and refuses. Default: `"auto"`.
   */
  rpm?: number | string | undefined;
  /** Requests a key may make in a day, where the key itself does not say it. Default: any number. */
  dailyLimit?: number | string | undefined;
  /** IANA zone of the midnight at which a day ends: `"America/Los_Angeles"`. Default: the provider's own. */
  timezone?: string | undefined;
  /** How the next key is chosen. Default: `"round-robin"`. */
  strategy?: KeyStrategy | undefined;
  /** Seconds that a key rests after a 429 that does not say how long. Default: 60. */
  cooldownSec?: number | string | undefined;
  /** Statuses that are answered by another attempt. Default: `"429,500,502-504,520-524,529"`. */
  retryStatus?: string | readonly (number | string)[] | undefined;
}

/** A provider that has a name, for `fallback` and `routes`. */
export interface NamedProvider extends ProviderSettings {
  /** Where it is. Needed only where the name is not one that `provider` may have. */
  baseUrl?: string | undefined;
  /** Switched off: its requests get 503 `provider_disabled`, and no chain leads to it. Default: false. */
  disabled?: boolean | undefined;
}

/** Where cooldowns, daily counts and the owners of files and threads are kept between two runs. */
export interface StateStorage {
  /**
   * Called once, when the pool is made. Null or undefined: there is nothing yet. Where it takes time, calls wait for
   * it, at most 5 s. What it throws stops no call: the pool begins anew, and `onEvent` is told.
   */
  load(): string | null | undefined | Promise<string | null | undefined>;
  /**
   * Called at most once a second while something changes, and by `close()`. There is no key in the text, nor anything
   * that was said. What it throws stops no call: it is called again after the next change, and `onEvent` is told.
   */
  save(json: string): unknown;
}

/**
 * How a pool is set up. Whatever is wrong is thrown at once, as one `TypeError` that names all of it. No environment
 * variable is read.
 */
export interface PooledFetchOptions extends ProviderSettings {
  /**
   * The base URL of the default provider, up to and with its version: `"https://api.openai.com/v1"`. Default: that of
   * `provider`, else that of the provider whose keys begin so, else NVIDIA's.
   */
  targetBaseUrl?: string | undefined;
  /**
   * Other providers by their names, for `fallback` and `routes`. A request whose URL has the host of one of them goes
   * to that one. Without `apiKeys` of its own the pool takes the first as its default.
   * @example { groq: { apiKeys: ["gsk_1"] }, own: { apiKeys: ["k"], baseUrl: "http://gpu.lan:8000/v1" } }
   */
  providers?: Readonly<Record<string, NamedProvider>> | undefined;
  /**
   * Where a request goes when its provider has no key in time, or is down: targets in this order.
   * @example "groq/llama-3.3-70b-versatile > own"
   */
  fallback?: string | undefined;
  /** Seconds a request waits for a key where another target stands behind. Default: 2. */
  fallbackAfterSec?: number | string | undefined;
  /**
   * Model names of your own, each with a chain of targets; `*` stands for any text.
   * @example "fast = groq/llama-3.1-8b-instant > default/gpt-4o-mini; claude-* = default/gpt-4o"
   */
  routes?: string | undefined;
  /** Requests to the provider that one call may cost. Default: 10, or keys + 2 where that is more. */
  maxAttempts?: number | string | undefined;
  /** Seconds a call may wait for a key. Default: 100. */
  maxWaitSec?: number | string | undefined;
  /** Seconds, the longest that a provider's word on when to come back is believed. Default: 86400, a day. */
  maxCooldownSec?: number | string | undefined;
  /** The status when no key comes free in time; 429 for clients that only back off on that. Default: 503. */
  exhaustedStatus?: number | string | undefined;
  /** Seconds in which a connection must be made; 0: any time. Default: 10. */
  connectTimeoutSec?: number | string | undefined;
  /**
   * Seconds in which the first byte of an answer (of a stream: its first event) must come; 0: any time. Default: 300.
   */
  firstByteTimeoutSec?: number | string | undefined;
  /** Seconds that a stream may be silent; 0: any time. Default: 120. */
  streamIdleTimeoutSec?: number | string | undefined;
  /** Megabytes, the longest body of a request; a longer one gets 413. Default: 32. */
  maxBodyMb?: number | string | undefined;
  /** Calls under way at once; more get 503 `overloaded`. Default: 2048. */
  maxInFlight?: number | string | undefined;
  /** Megabytes of all bodies under way together; with more a call gets 503 `overloaded`. Default: 256. */
  maxBufferedMb?: number | string | undefined;
  /**
   * What outlives the program: `"off"`, the path of a file (JSON, made for you, readable by you alone, for one pool at
   * a time), or a storage of your own. Default: `"off"`, and nothing is written.
   */
  state?: string | StateStorage | undefined;
  /**
   * Told of every finished call and every change of a key. Called in the path of calls: be quick. What it throws is
   * ignored.
   */
  onEvent?: ((event: PoolEvent) => unknown) | undefined;
  /**
   * The `fetch` that requests go out by. Default: the global one, as it is at each call; where a pool's own stands
   * there, the one that was there when this module was loaded.
   */
  fetch?: Fetch | undefined;
}

/** A call has ended. */
export interface CallEvent {
  readonly kind: "request";
  /** When it began; epoch ms. */
  readonly at: number;
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  /** The provider that was asked last; null: none was. */
  readonly provider: string | null;
  /** The model it asked for; null: it named none. */
  readonly model: string | null;
  /** What the call got; 499: it was aborted. */
  readonly status: number;
  /** `served`, `rejected`, `abandoned` …, or the `type` of an error of keywheel's own. */
  readonly outcome: string;
  /** Index of the last key: `0`, `groq/0`; null: none was used. */
  readonly key: string | null;
  /** First 8 hex digits of a hash of that key. */
  readonly keyId: string | null;
  /** The requests that were made for it. `verdict`: what came of each. */
  readonly attempts: readonly {
    readonly provider: string;
    readonly key: number;
    readonly keyId: string;
    readonly verdict: string;
    /** 0: no answer came. */
    readonly status: number;
    readonly ms: number;
    readonly said: string;
  }[];
  /** Ms of waiting for a key. */
  readonly waitedMs: number;
  /** Ms to the first byte of the answer; null: there was none. */
  readonly firstByteMs: number | null;
  readonly totalMs: number;
  /** Bytes of the answer's body. */
  readonly bytes: number;
  /** The answer broke off before its end. */
  readonly isTruncated: boolean;
  /** Why there was no good answer; empty: there was, or the answer says it. */
  readonly reason: string;
  /**
   * The tokens that the answer names; null or left out: it names none. `cached` and `cacheWrite` are parts of `input`,
   * `reasoning` of `output`.
   */
  readonly tokens?: {
    readonly input: number;
    readonly output: number;
    readonly cached: number;
    readonly cacheWrite: number;
    readonly reasoning: number;
  } | null;
}

/** Something happened to a key, or to a provider as a whole. */
export interface KeyChangeEvent {
  readonly kind:
    | "cooled"
    | "disabled"
    | "doubted"
    | "back"
    | "paused_by_hand"
    | "resumed_by_hand"
    | "provider_paused"
    | "provider_up"
    | "pool_dry"
    | "pool_recovered";
  /** Epoch ms. */
  readonly at: number;
  readonly provider: string;
  /** Index of the key; null: the provider as a whole. */
  readonly key: number | null;
  readonly keyId: string | null;
  readonly account: string | null;
  /** Only this model with the key; null: all. */
  readonly model: string | null;
  /** `rate_limit`, `quota_day`, `billing`, `invalid_key` … */
  readonly reason: string | null;
  /** When it is over, epoch ms; null: not known, or not a matter of time. */
  readonly until: number | null;
  /** What the provider said, without any key. */
  readonly said: string;
}

/** Something you should know, and that stops nothing. */
export interface NoticeEvent {
  /**
   * `state_failed`: the state could not be read or written. `warning`: an option is understood, and perhaps not meant.
   * `bug`: keywheel failed by its own fault, and a call got 500 for it.
   */
  readonly kind: "state_failed" | "warning" | "bug";
  /** Epoch ms. */
  readonly at: number;
  readonly message: string;
}

export type PoolEvent = CallEvent | KeyChangeEvent | NoticeEvent;

/** A key as it is at this moment. There is no part of the key itself in it. */
export interface KeyHealth {
  readonly index: number;
  /** First 8 hex digits of a hash of the key. */
  readonly id: string;
  readonly account: string | null;
  /** `ready`: a request would go out with it now. */
  readonly state: "ready" | "cooling" | "disabled" | "paused";
  /** `rate_limit`, `pacing`, `quota_day`, `billing`, `invalid_key`, `manual` …, or null. */
  readonly reason: string | null;
  readonly cooldown_sec: number;
  /** What cools for single models only. */
  readonly models: Readonly<Record<string, { readonly cooldown_sec: number; readonly reason: string }>>;
  readonly requests: number;
  readonly rate_limited: number;
  readonly errors: number;
  readonly today: number;
  readonly daily_limit: number | null;
  readonly rpm_limit: number | null;
  readonly in_flight: number;
  /** RFC 3339, UTC; null: never. */
  readonly last_used: string | null;
}

/** A provider as it is at this moment. */
export interface ProviderHealth {
  readonly name: string;
  readonly dialect: string;
  readonly base_url: string;
  readonly state: "up" | "paused";
  readonly paused_sec: number;
  /** Calls that wait for a key. */
  readonly waiting: number;
  readonly keys: readonly KeyHealth[];
}

/** How the pool is doing: the same as the proxy's `GET /health`. */
export interface PoolHealth {
  /** `ok`: every key of the default provider is ready. `degraded`: some are, or will be. `down`: none, now or later. */
  readonly status: "ok" | "degraded" | "down";
  /** Of keywheel. */
  readonly version: string;
  readonly uptime_sec: number;
  /** How many keys the default provider has. */
  readonly keys: number;
  /** `[0]:ready [1]:cooling(42s) [2]:disabled` */
  readonly pool: string;
  /** The default one first. */
  readonly providers: readonly ProviderHealth[];
}

/**
 * A `fetch` with a pool of keys behind it.
 *
 * The URL may be the SDK's own: its path and query join the pool's base, and the credential that it brings is replaced.
 * An aborted `signal` rejects at once, also while the call waits for a key. What keywheel has to say itself
 * (`all_keys_cooling`, `no_usable_keys` …) is a `Response` with a status and the JSON that SDKs read errors from. A URL
 * that is not http or https (`data:`) goes to the `fetch` below, and costs no key.
 */
export interface PooledFetch {
  (input: string | URL | Request, init?: RequestInit): Promise<Response>;
  /** How the pool is doing now. */
  health(): PoolHealth;
  /**
   * Ends the pool: calls that wait, and all later ones, get 503 `draining`; answers that have begun go on. Resolves
   * when the state is saved.
   */
  close(): Promise<void>;
}

/**
 * Makes a pool of keys, and the `fetch` before it. Nothing is sent before the first call; an idle pool keeps no process
 * alive.
 *
 * @throws TypeError for unknown options and mistakes: one line each, all of them at once.
 * @example
 * const fetch = createPooledFetch({
 *   apiKeys: ["free@sk-1:50", "free@sk-2:50"],
 *   providers: { paid: { apiKeys: ["sk-3"], baseUrl: "https://api.openai.com/v1" } },
 *   fallback: "paid",
 *   state: "keys.json",
 * });
 */
export declare function createPooledFetch(options?: PooledFetchOptions): PooledFetch;
