/**
 * What all requests share, as types: the upstreams, and the engine with everything that runs. `proxy.ts` makes them.
 */
import type { Config, ProviderConfig } from "../config/config.ts";
import type { Clock } from "../core/clock.ts";
import type { Redactor } from "../core/secret.ts";
import type { Log, Observer, RequestUnderWay } from "../core/events.ts";
import type { Connections } from "../http/connections.ts";
import type { Base, Load } from "../http/request.ts";
import type { Reachable, TimeoutTicker } from "../http/timeouts.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { Keeper, KeyPool } from "../pool/key.ts";
import type { KeyChecker } from "../pool/key-health.ts";
import type { HeaderSampler } from "../providers/rate-limit-headers.ts";
import type { ResourceOwners } from "./resource-owners.ts";

/** A provider at work: its settings, its keys, and when it was last heard of. */
export interface Upstream extends Reachable {
  readonly config: ProviderConfig;
  /** The path it is served under: `/groq`; null for the default provider where it has no name. */
  readonly prefix: string | null;
  readonly base: Base;
  readonly pool: KeyPool;
  readonly connections: Connections;
  /** What its answers announce of limits. */
  readonly headerSampler: HeaderSampler;
}

/** A request for `/admin` or something below it, as the server knows it. */
export interface AdminRequest {
  readonly request: Request;
  /** As resolved: `/admin/api/overview`. */
  readonly path: string;
  /** Empty, or begins with `?`. */
  readonly query: string;
  /** Address of the socket's other end; null: surely this machine. */
  readonly peer: string | null;
  /** Lifts the server's idle timer from this request: only for who has shown to be the operator (P44). */
  keepOpen(): void;
}

/** The admin API, as the server needs it. */
export interface AdminApi {
  /** Answers whatever is asked under `/admin`. */
  handle(asked: AdminRequest): Promise<Response>;
  /** Whether a request for another path (`/metrics`, `/health`) carries the password. Ask after client keys. */
  isOperator(headers: Headers, peer: string | null): boolean;
}

/** Everything that runs, and nothing of it global. */
export interface Engine extends Load {
  readonly version: string;
  readonly clock: Clock;
  /** From 0 up to 1. */
  readonly random: () => number;
  readonly log: Log;
  /** A reload puts another one here: whoever needs two values of one takes it once. */
  config: Config;
  /** The default one first. */
  upstreams: readonly [Upstream, ...Upstream[]];
  /** Keeps what is known of keys over a restart; null: nobody does. */
  readonly keeper: Keeper | null;
  readonly clocks: TimeoutTicker;
  /** For questions about keys; requests go over the connections of their upstream. */
  readonly fetch: Bun.FetchSession["fetch"];
  readonly startedAt: number;
  /** Tells everybody who wants to know of finished requests and changes of keys. */
  readonly observer: Required<Observer>;
  readonly metrics: Metrics;
  /** Which account owns which files, threads and stored answers (P35). */
  readonly owners: ResourceOwners;
  readonly keyChecker: KeyChecker;
  /** Loads the admin API when it is first asked for; null: there is none. */
  openAdmin: (() => Promise<AdminApi>) | null;
  /** Adds an observer while the proxy runs. */
  observe(observer: Observer): void;
  /** Called when the proxy begins to end. */
  onDrain: () => void;
  /** Requests that have come and are not over. */
  readonly underWay: Set<RequestUnderWay>;
  /** How many requests have come. */
  arrivals: number;
  draining: boolean;
  /** Takes the keys of all providers out of what upstream says, also those of the configuration before. */
  redactor: Redactor;
}
