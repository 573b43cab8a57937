/**
 * What the proxy tells of its work: one record a finished request, one event a change of a key or a provider.
 *
 * Log line, stored row, metrics and dashboard are readers of these and of nothing else. There is no key, no prompt
 * and no part of either in them.
 */
/** Why a key cools, or why it is out of use. Shown in `/health`. */
export type KeyReason =
  | "rate_limit"
  /** A limit that is known, set, announced or learnt, is used up: nobody refused anything. */
  | "pacing"
  | "concurrency"
  | "quota_day"
  | "billing"
  | "unconfirmed"
  | "invalid_key"
  | "no_access"
  | "manual";

/** One upstream request that was made for a client's request. */
export interface AttemptRecord {
  readonly provider: string;
  /** Index of the key in the configuration, and its `Secret.id`. */
  readonly key: number;
  readonly keyId: string;
  /** The name of the key's account; null: it has none. */
  readonly account: string | null;
  /** The kind of its outcome: `served`, `rate_limited`, `unreachable`, `abandoned`, … */
  readonly verdict: string;
  /** The HTTP status; 0: none came. */
  readonly status: number;
  /** From sending to the beginning of the answer, or to the failure. */
  readonly ms: number;
  /** What upstream said, redacted, at most 300 characters; empty: nothing. */
  readonly said: string;
}

/** The tokens that an answer names, or those of several added up. */
export interface TokenUsage {
  /** Of the request, with what was read from a cache and what was written to one. */
  readonly input: number;
  /** Of the answer, with what the model thought. */
  readonly output: number;
  /** Of the input: read from a cache. */
  readonly cached: number;
  /** Of the input: written to a cache. */
  readonly cacheWrite: number;
  /** Of the output: what the model thought. */
  readonly reasoning: number;
}

/** One finished request of a client. */
export interface RequestRecord {
  /** Counts up from 0 within one run of the program. */
  readonly id: number;
  /** When it arrived: a date (epoch ms by the wall clock), to be shown and stored. */
  readonly at: number;
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  /** The provider that was asked last; null: none was. */
  readonly provider: string | null;
  /** As the client named it, at most 200 characters; null: none. */
  readonly model: string | null;
  /** What the client got; 499: it left. */
  readonly status: number;
  /** The kind of the last outcome, or the `type` of our own refusal. */
  readonly outcome: string;
  /** `x-keywheel-key` of the answer: `0`, `groq/0`; null: no key was used. */
  readonly key: string | null;
  readonly keyId: string | null;
  /** The name of that key's account; null: it has none. */
  readonly account: string | null;
  readonly attempts: readonly AttemptRecord[];
  /** Ms spent waiting for a key or backing off. */
  readonly waitedMs: number;
  /** Ms from arrival to the first byte of the answer; null: there was none. */
  readonly firstByteMs: number | null;
  readonly totalMs: number;
  /** Bytes of the answer's body. */
  readonly bytes: number;
  /** The client's name, where its key has one. */
  readonly client: string | null;
  /** The answer ended before its end. */
  readonly isTruncated: boolean;
  /** Why the client got no good answer, in words without any key; empty: it got one, or upstream's answer says it. */
  readonly reason: string;
  readonly maybeBilledReplays: number;
  /** Those that the answer named; null or absent: it named none. */
  readonly tokens?: TokenUsage | null;
}

/** How many of upstream's 429 the client did not see: it got an answer all the same. */
export function hidden429Of({ attempts, status }: RequestRecord): number {
  if (status >= 500 || status === 429) return 0;
  let hidden = 0;
  for (const attempt of attempts) if (attempt.status === 429) hidden += 1;
  return hidden;
}

/** What a request of a client is waiting for: its body, a key, the provider's answer, or the rest of it. */
export type RequestPhase = "receiving" | "waiting" | "provider" | "streaming";

/** A request that is not over, as far as it has come. */
export interface RequestProgress extends Pick<
  RequestRecord,
  "id" | "method" | "path" | "provider" | "model" | "client" | "keyId" | "account"
> {
  readonly phase: RequestPhase;
  /** Upstream requests that were made for it so far. */
  readonly attempts: number;
  /** Ms spent waiting for a key or backing off, the running wait included. */
  readonly waitedMs: number;
  /** Ms from arrival to the first byte of the answer; null: it has not come. */
  readonly firstByteMs: number | null;
  /** Ms since it arrived. */
  readonly totalMs: number;
}

/** A request that is not over. */
export interface RequestUnderWay {
  progressAt(now: number): RequestProgress;
}

/** Something happened to a key, or to a provider as a whole. */
export interface KeyEvent {
  /** A date (epoch ms by the wall clock), to be shown and stored. */
  readonly at: number;
  readonly provider: string;
  /** Index in the configuration; null: the provider as a whole. */
  readonly key: number | null;
  readonly keyId: string | null;
  /** The name of the key's account; null: it has none. */
  readonly account: string | null;
  readonly kind:
    | "cooled"
    | "disabled"
    | "doubted"
    /** Usable again before its time, or after it was disabled: by a probe, the operator or a reload. */
    | "back"
    | "paused_by_hand"
    | "resumed_by_hand"
    | "provider_paused"
    | "provider_up"
    /** No key of the provider can serve now; and again one can. */
    | "pool_dry"
    | "pool_recovered";
  /** Only this model on the key; null: all. */
  readonly model: string | null;
  readonly reason: KeyReason | "upstream_faults" | "common_cause" | null;
  /** Date when it is over, as `at`; null: not known, or not a matter of time. */
  readonly until: number | null;
  readonly said: string;
}

/** How a key is named to people: `alice@3e23e816`, and by its id alone where its account has no name. */
export function keyName(account: string | null, keyId: string): string {
  return account === null ? keyId : `${account}@${keyId}`;
}

/** Who is told. Called in the path of requests: it must be quick and must not throw. */
export interface Observer {
  finished?(record: RequestRecord): void;
  keyChanged?(event: KeyEvent): void;
}

/** One observer that tells all of them; the list may grow. */
export function toAll(observers: readonly Observer[]): Required<Observer> {
  return {
    finished(record) {
      for (const observer of observers) observer.finished?.(record);
    },
    keyChanged(event) {
      for (const observer of observers) observer.keyChanged?.(event);
    },
  };
}

export type LogLevel = "debug" | "info" | "warn" | "error";

export type LogFields = Record<string, string | number | boolean | null | undefined>;

export interface Log {
  /** Whether a line of this level is written: ask before gathering costly fields. */
  enabled(level: LogLevel): boolean;
  /** `event` is a short stable word for machines; the fields say the rest. */
  line(level: LogLevel, event: string, fields?: LogFields): void;
  /** A line for a finished request: `warn` where it failed, else `info`. */
  request(record: RequestRecord): void;
  /** Writes what is gathered. */
  flush(): void;
  /** From now on lines of this level and above are written: `LOG_LEVEL` may change while the proxy runs. */
  setLevel(level: LogLevel): void;
}
