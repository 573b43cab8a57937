/**
 * What all requests share: the upstreams, and the engine with everything that runs.
 */
import type { Config } from "../config/config.ts";
import type { ProviderConfig } from "../config/provider-settings.ts";
import type { Clock } from "../core/clock.ts";
import { toAll } from "../core/events.ts";
import type { Log, Observer, RequestUnderWay } from "../core/events.ts";
import { Redactor, Secret } from "../core/secret.ts";
import type { UpstreamConnections } from "../core/runtime.ts";
import type { Bytes } from "../http/body.ts";
import { IdleConnections } from "../http/connections.ts";
import type { ProxyAddress } from "../http/connections.ts";
import type { ProxyError } from "../http/error-responses.ts";
import { baseOf, receive } from "../http/request.ts";
import { Load } from "../http/load.ts";
import type { ClientShare, LoadLimits } from "../http/load.ts";
import type { Base, Received } from "../http/request.ts";
import { TimeoutTicker } from "../http/timeouts.ts";
import type { Reachable } from "../http/timeouts.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { ClientLimiter, ModelReader } from "../pool/client-limits.ts";
import { KeyChecker } from "../pool/key-health.ts";
import type { CheckOptions } from "../pool/key-health.ts";
import { accountName } from "../pool/key.ts";
import type { Keeper, KeyPool } from "../pool/key.ts";
import type { OwnerShelf, SharedPoolDependencies, Sharing } from "../pool/sharing.ts";
import { HeaderSampler } from "../providers/rate-limit-headers.ts";
import type { ModelLists } from "./all-models.ts";
import { ResourceOwners, isOfTurn } from "./resource-owners.ts";
import type { OwnedId, OwnerKeeper } from "./resource-owners.ts";

/** A provider at work: its settings, its keys, and when it was last heard of. */
export interface Upstream extends Reachable {
  readonly config: ProviderConfig;
  /** The path it is served under: `/groq`; null for the default provider where it has no name. */
  readonly prefix: string | null;
  readonly base: Base;
  readonly pool: KeyPool;
  readonly connections: UpstreamConnections;
  /** What its answers announce of limits. */
  readonly headerSampler: HeaderSampler;
}

/** The ways to providers. */
export interface UpstreamAccess {
  openConnections(): UpstreamConnections;
  /** For questions about keys; requests go over the connections of their upstream. */
  readonly fetch: CheckOptions["fetch"];
  /** Whether a connection to the host of `url` can be opened in time, TLS included. Nothing is sent. */
  canConnect(url: URL, clock: Clock, proxy: ProxyAddress | null): Promise<boolean>;
  /** Whether one signal may serve one request after the other. */
  readonly reusesSignals: boolean;
}

/** Where a body is written to, piece by piece. */
export interface BodySink {
  /** A promise where the client has not taken it all: it settles when there is room again. */
  write(piece: Bytes | string): number | Promise<number>;
  /** The body is whole. */
  close(): void;
}

/** The client's end of its requests: connections of the server, or calls of the library. */
export interface ClientEnd {
  /** After how many seconds of silence the request's connection is closed; 0: never. */
  timeout(request: Request, seconds: number): void;
  /** Takes the body in, as `receive` in lib/http/request.ts says. */
  receive(request: Request, share: ClientShare, limits: LoadLimits): Promise<Received | ProxyError>;
  /** A request begins to wait for a key, or to pause before it is sent again. */
  startsToWait(request: Request): void;
  /** Whether a piece of a body is copied when it is written, so that its memory may be used again. */
  readonly copiesPieces: boolean;
  /**
   * The body of its answer, which `pass` writes when somebody reads it. Where `pass` throws, the body breaks off: it
   * has no end. `leave` is called where nobody wants to read it any more.
   */
  openBody(
    request: Request,
    pass: (sink: BodySink) => Promise<void>,
    leave: () => void,
  ): ReadableStream<Bytes>;
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

/** Makes the pool of a provider. */
export type PoolMaker = (
  config: ProviderConfig,
  maxCooldownMs: number,
  dependencies: SharedPoolDependencies,
) => KeyPool;

/** What counts requests and keys, and tells of it. */
export type EngineMetrics = Observer & Pick<Metrics, "render">;
/** What limits clients. */
export type EngineLimiter = Pick<
  ClientLimiter,
  "admit" | "admitShared" | "mayUse" | "follow" | "report" | "reportOf"
>;

/** What only an engine with clients of its own needs, which the library has none of. */
export interface ServerParts {
  readonly metrics: EngineMetrics;
  readonly clientLimiter: EngineLimiter;
  readonly modelLists: ModelLists | null;
  readonly namedModelsOf: ModelReader;
}

/** Everything that runs, and nothing of it global. */
export interface Engine {
  readonly version: string;
  readonly clock: Clock;
  /** From 0 up to 1. */
  readonly random: () => number;
  readonly log: Log;
  /** A reload puts another one here: whoever needs two values of one takes it once. */
  config: Config;
  /** The default one first. */
  upstreams: readonly [Upstream, ...Upstream[]];
  readonly newPool: PoolMaker;
  /** Keeps what is known of keys over a restart; null: nobody does. */
  readonly keeper: Keeper | null;
  /** Other instances that share the pool; null: there is none. */
  readonly sharing: Sharing | null;
  readonly clocks: TimeoutTicker;
  readonly access: UpstreamAccess;
  readonly startedAt: number;
  /** Tells everybody who wants to know of finished requests and changes of keys. */
  readonly observer: Required<Observer>;
  readonly metrics: EngineMetrics;
  /** The models of all providers; null: nobody asks for them. */
  readonly modelLists: ModelLists | null;
  /** Which account owns which files, threads and stored answers (P35). */
  readonly owners: ResourceOwners;
  readonly keyChecker: KeyChecker;
  /** What clients may use, and what they have left. */
  readonly clientLimiter: EngineLimiter;
  /** Which models a request may be understood to name. */
  readonly namedModelsOf: ModelReader;
  /** Loads the admin API when it is first asked for; null: there is none. */
  openAdmin: (() => Promise<AdminApi>) | null;
  /** Adds an observer while the proxy runs. */
  observe(observer: Observer): void;
  /** Called when the proxy begins to end. */
  onDrain: () => void;
  /** Requests that have come and are not over. */
  readonly underWay: Set<RequestUnderWay & { readonly request: Request }>;
  /** What the requests in flight take up, all together and of each client. */
  readonly load: Load;
  readonly inFlight: number;
  readonly bufferedBytes: number;
  /** How many requests have come. */
  arrivals: number;
  draining: boolean;
  /** Takes the keys of all providers out of what upstream says, also those of the configuration before. */
  redactor: Redactor;
}

/** What the engine needs from outside, so that a test can hold it. */
export interface Dependencies {
  readonly clock: Clock;
  /** From 0 up to 1. */
  readonly random: () => number;
  readonly log: Log;
  /** Told of every finished request and every change of a key. */
  readonly observers?: readonly Observer[];
  readonly keeper?: Keeper | null;
  /** Other instances that share the pool. */
  readonly sharing?: Sharing | null;
  /** Where it outlives the program which account owns which resources. */
  readonly resources?: (OwnerKeeper & { resources(): readonly OwnedId[] }) | null;
}

/** An engine of this configuration. `newPool`: makes the pool of a provider. */
export function createEngine(
  config: Config,
  version: string,
  newPool: PoolMaker,
  access: UpstreamAccess,
  dependencies: Dependencies & ServerParts,
): Engine {
  const {
    clock,
    random,
    log,
    metrics,
    clientLimiter,
    namedModelsOf,
    modelLists,
    observers = [],
    keeper = null,
    sharing = null,
  } = dependencies;
  const load = new Load();
  const owners = new ResourceOwners(dependencies.resources ?? null);
  owners.restore(dependencies.resources?.resources() ?? []);
  const keyChecker = new KeyChecker({ providers: () => engine.upstreams, fetch: access.fetch, clock });
  const all = [metrics, keyChecker, ...observers];
  const observer = toAll(all);
  const engine: Engine = {
    version,
    clock,
    random,
    log,
    config,
    upstreams: upstreamsOf(config, [], { clock, random, observer, keeper, sharing, newPool, access }),
    keeper,
    sharing,
    newPool,
    clocks: new TimeoutTicker(config, clock, access.reusesSignals ? undefined : 0),
    access,
    startedAt: clock.now(),
    observer,
    metrics,
    owners,
    keyChecker,
    clientLimiter,
    namedModelsOf,
    modelLists,
    openAdmin: null,
    underWay: new Set(),
    observe: (another) => all.push(another),
    onDrain: () => {},
    arrivals: 0,
    load,
    get inFlight() {
      return load.inFlight;
    },
    get bufferedBytes() {
      return load.bufferedBytes;
    },
    draining: false,
    redactor: new Redactor(secretsOf(config)),
  };
  sharing?.keepOwners(ownerShelfOf(engine));
  keyChecker.start();
  engine.clientLimiter.follow(config.clientLimits, config.clientZone);
  return engine;
}

/** Goes by another configuration from now on. Requests under way end as they began; keys that stay keep their state. */
export function reconfigure(engine: Engine, config: Config): void {
  engine.upstreams = upstreamsOf(config, engine.upstreams, engine);
  engine.modelLists?.follow(engine.upstreams);
  engine.clocks.follow(config);
  engine.clientLimiter.follow(config.clientLimits, config.clientZone);
  engine.log.setLevel(config.logLevel);
  engine.redactor = new Redactor([...secretsOf(config), ...secretsOf(engine.config)]);
  engine.config = config;
}

/** What other instances may know of owners, by keys: what an account is called may differ between them. */
function ownerShelfOf(engine: Engine): OwnerShelf {
  const keysOfProvider = (provider: string) =>
    engine.upstreams.find(({ config }) => config.name === provider)?.pool.keys ?? [];
  return {
    isOfTurn,
    keysOf: (provider, account) =>
      keysOfProvider(provider)
        .filter((key) => accountName(key) === account)
        .map(({ secret }) => secret),
    found(provider, id, names) {
      const owner = keysOfProvider(provider).find(({ secret }) =>
        names.includes(engine.sharing?.nameOf(secret) ?? ""),
      );
      if (owner !== undefined)
        engine.owners.restore([{ provider, id, account: accountName(owner), at: engine.clock.wall() }]);
    },
  };
}

function secretsOf({ providers }: Config): Secret[] {
  return providers.flatMap(({ keys }) => keys.map(({ secret }) => secret));
}

/** The providers of a configuration; those that were there before go on with their pools. */
function upstreamsOf(
  config: Config,
  before: readonly Upstream[],
  {
    newPool,
    access,
    clock,
    random,
    observer,
    keeper,
    sharing = null,
  }: SharedPoolDependencies & Pick<Engine, "newPool" | "access">,
): readonly [Upstream, ...Upstream[]] {
  const upstreamOf = (provider: ProviderConfig): Upstream => {
    const old = before.find(({ config }) => config.name === provider.name);
    const dependencies = { clock, random, observer, keeper, sharing };
    const pool = old?.pool ?? newPool(provider, config.maxCooldownMs, dependencies);
    if (old !== undefined) pool.reconfigure(provider, config.maxCooldownMs);
    const connections = old?.connections ?? access.openConnections();
    const idle = old?.idle ?? new IdleConnections();
    return {
      config: provider,
      connections,
      prefix: provider.name === "default" ? null : `/${provider.name}`,
      base: baseOf(provider.baseUrl, provider.dialect),
      pool,
      headerSampler: old?.headerSampler ?? new HeaderSampler(),
      host: provider.baseUrl.host,
      proxy: provider.upstreamProxy,
      heardAt: 0,
      canConnect: () => access.canConnect(provider.baseUrl, clock, provider.upstreamProxy),
      idle,
      connectionBroke() {
        idle.drop();
        connections.dropIdle();
      },
    };
  };
  const [first, ...others] = config.providers;
  return [upstreamOf(first), ...others.map(upstreamOf)];
}

/** The clients of a server. */
export function clientsOf(server: { timeout(request: Request, seconds: number): void }): ClientEnd {
  return {
    timeout: (request, seconds) => server.timeout(request, seconds),
    receive: (request, share, limits) => receive(request, request.headers, share, limits),
    startsToWait() {},
    copiesPieces: true,
    // As Bun takes it at the least cost: written to, not pulled from piece by piece.
    openBody: (_, pass, leave) => new ReadableStream<Bytes>({ type: "direct", pull: pass, cancel: leave }),
  };
}
