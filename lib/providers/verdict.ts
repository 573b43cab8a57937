/**
 * The words in which the whole program speaks of upstream's answers: types, and the list of dialects.
 */

export const DIALECTS = [
  "openai",
  "azure",
  "anthropic",
  "gemini",
  "vertex",
  "openrouter",
  "nvidia",
  "groq",
  "together",
  "mistral",
  "cerebras",
  "deepseek",
  "fireworks",
  "cohere",
  "sambanova",
  "github",
  "huggingface",
  "xai",
  "perplexity",
  "cloudflare",
  "moonshot",
  "zhipu",
  "dashscope",
  "siliconflow",
  "modelscope",
  "ollama",
  "generic",
] as const;

export type Dialect = (typeof DIALECTS)[number];

/**
 * What a limit or a refusal holds for: the key with all its models, or one model on that key. Keys of one
 * account share either (the pool knows which keys those are).
 */
export type Scope = "key" | "key+model";

/** Whose trouble an upstream's failure is: every model's, or only that of the model that was asked for. */
export type FaultScope = "provider" | "model";

/** When a key may be asked again. */
export type Pause =
  /** The provider named a time: milliseconds from now, not yet clamped to `MAX_COOLDOWN_SEC`. */
  | { kind: "for"; ms: number }
  /** A daily quota without a named time: until the next midnight in this IANA zone. */
  | { kind: "until_midnight"; zone: string }
  /** No hint at all: the pool's ladder for this reason decides. */
  | { kind: "unknown" };

/**
 * What an attempt came to, grouped by whose fault it was.
 * `said` is what upstream gave as its reason, one line, at most 300 characters, for messages and logs; the
 * caller redacts keys from it. Empty where upstream gave none.
 */
export type Verdict =
  /** An answer: relay it, the key is innocent. */
  | { kind: "served" }
  /** An answer too: the request's own fault (or nobody's). Relay it unchanged, the key is innocent. */
  | { kind: "rejected"; said: string }
  /**
   * The key's own: too fast. `concurrency`: too many at once, one in flight fewer rather than a pause. `ofModel`: the
   * answer says that it is about this one model, so that many such refusals are no limit of everybody.
   */
  | {
      kind: "rate_limited";
      scope: Scope;
      pause: Pause;
      reason: "rate_limit" | "concurrency";
      ofModel?: true;
      said: string;
    }
  /**
   * The key's own: its day (or week, or month) is used up, or its money is.
   * `widens`: the answer does not say that only this model is meant. It rests the model first, and the whole key once
   * a second model is refused for the same reason (P40).
   */
  | {
      kind: "exhausted";
      scope: Scope;
      widens: boolean;
      pause: Pause;
      reason: "quota_day" | "billing";
      said: string;
    }
  /**
   * The key's own: dead for good. `certain`: the provider stated that this key is invalid, revoked or disabled.
   * Not `certain`: a bare refusal that was seen on good keys too; ask a probe before believing it.
   */
  | { kind: "revoked"; certain: boolean; said: string }
  /** This key cannot serve this request (model, region, entitlement): next key now, no punishment. */
  | { kind: "unsuited"; scope: Scope; said: string }
  /**
   * The upstream's: overloaded, down, or refusing everyone. Back off or fall back, keys untouched.
   * `scope`: `model` where the answer says that it is about this one model; else `provider`.
   * `refusesAll`: it limits the rate of our address, so no key and no model of ours gets through until that ends;
   * false where it fails or is short of capacity, which the next request need not meet.
   * `maybeBilled`: the provider may have done the work (500, 502, 504, 520, 524).
   */
  | {
      kind: "overloaded";
      scope: FaultScope;
      refusesAll: boolean;
      pauseMs: number | null;
      maybeBilled: boolean;
      said: string;
    };

/** What `classify` may look at. */
export interface Evidence {
  status: number;
  headers: Headers;
  /** The answer's body, decompressed, as text: at most its first 64 KiB. Empty for a 2xx that was not read. */
  body: string;
}

/** An attempt that brought no answer at all. */
export interface Unreachable {
  readonly kind: "unreachable";
  readonly type:
    | "upstream_unreachable"
    | "upstream_protocol_error"
    | "connect_timeout"
    | "first_byte_timeout"
    | "stream_idle_timeout"
    /** Ours: this machine has no file descriptor left for a connection. */
    | "overloaded"
    /** Ours: the time to finish after SIGTERM is over. */
    | "draining";
  /** One or two sentences for the client; never an error's own text, which may hold a URL. */
  readonly message: string;
  /** The provider may have done the work: the request had been sent. */
  readonly maybeBilled: boolean;
  /** The connection had died while it was idle, which is no fault of upstream's. */
  readonly isStale?: boolean;
}

/** The client left. Nobody is blamed. */
export interface Abandoned {
  readonly kind: "abandoned";
}

/** No key, because of `why`, until `readyAt`. */
export interface NoKey {
  readonly kind: "no_key";
  readonly why: "cooling" | "paused" | "none_usable" | "unsuited";
  /** Epoch ms when the first one is free, as far as that is a matter of time; Infinity: it is not. */
  readonly readyAt: number;
  /** The end of an attempt under way may free one at any moment. */
  readonly maybeSooner?: boolean;
  /** Some key only waits for a limit that is used up: nobody refused it. */
  readonly isPaced?: boolean;
  /** Only this request has to wait, for its own history: another one may get a key before. */
  readonly isOwn?: boolean;
}

/** How an attempt ended, as the pool is told. */
export type Outcome = Verdict | Unreachable | Abandoned;

/** An attempt's outcome that is no answer. */
export type Failure = Exclude<Outcome, { kind: "served" | "rejected" }>;

/** Why there is no answer yet. */
export type Setback = Failure | NoKey;
