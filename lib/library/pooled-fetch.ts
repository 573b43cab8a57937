/**
 * `createPooledFetch`: the pool in the process of whoever uses it. The engine, the pool, the retry loop and the stream
 * passthrough are the proxy's own; here stands what is around them instead of a server.
 */
import { STATUS_CODES } from "node:http";
import { backgroundClock, keepProcessAlive } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import type { Log, Observer } from "../core/events.ts";
import { errorResponse, UNREADABLE_TARGET } from "../http/error-responses.ts";
import { targetOf } from "../http/request.ts";
import type { RequestTarget } from "../http/request.ts";
import { healthJson, reportOfProvider } from "../observability/health.ts";
import { createEngine } from "../routing/engine.ts";
import type { Engine, PoolMaker, ServerParts } from "../routing/engine.ts";
import { RequestContext } from "../routing/request-context.ts";
import { planRoute } from "../routing/route.ts";
import type { Route } from "../routing/route.ts";
import { accessByFetch, globalFetch, pooledFetches } from "./access.ts";
import type { CallExtras } from "./access.ts";
import { Call } from "./call.ts";
import { readOptions } from "./options.ts";
import type { Fetch, NoticeEvent, PooledFetch, PoolEvent, PoolHealth } from "./public.ts";
import { fileStorage, KeptState } from "./state.ts";

/** What the library has of `proxy.ts`. */
export interface EngineParts {
  readonly version: string;
  readonly newPool: PoolMaker;
  /** Tries keys until there is an answer. */
  readonly relay: (context: RequestContext, route: Route, engine: Engine) => Promise<Response>;
  /** From 0 up to 1. */
  readonly random: () => number;
}

/** What a test brings of its own. */
export interface LibraryWorld {
  readonly clock: Clock;
  readonly log: Log;
  readonly observers: readonly Observer[];
}

/** A pool, and the engine behind it, for who has to look inside. */
export interface OpenedPool {
  readonly fetch: PooledFetch;
  readonly engine: Engine;
}

/** Throws one `TypeError` that names all that is wrong with the options. */
export function openPooledFetch(
  given: unknown,
  { version, newPool, relay, random }: EngineParts,
  world: Partial<LibraryWorld> = {},
): OpenedPool {
  const { clock = backgroundClock } = world;
  const options = readOptions(given);
  const tell = teller(options.onEvent);
  const notice = (kind: NoticeEvent["kind"]) => (message: string) =>
    tell({ kind, at: clock.wall(), message });
  const log = world.log ?? logOfBugs(notice("bug"));
  const { state } = options;
  const storage =
    state === "off" ? null : "file" in state ? fileStorage(state.file, notice("state_failed")) : state;
  const kept = storage === null ? null : new KeptState(storage, clock, notice("state_failed"));
  const loading = kept?.load() ?? null;
  const extras: CallExtras = new WeakMap();
  const access = accessByFetch(options.fetch, extras);
  const observers: Observer[] = [
    { finished: (record) => tell({ ...record, kind: "request" }), keyChanged: tell },
  ];
  const engine = createEngine(options.config, version, newPool, access, {
    clock,
    random,
    log,
    ...NO_CLIENTS,
    observers:
      options.onEvent === null ? [...(world.observers ?? [])] : [...(world.observers ?? []), ...observers],
    keeper: kept,
    resources: kept,
  });
  options.warnings.forEach(notice("warning"));
  const calls = new Set<Call>();
  let ready =
    loading?.then(() => {
      if (kept !== null) restore(engine, kept);
      ready = null;
    }) ?? null;

  const below: Fetch = options.fetch ?? ((input, init) => globalFetch()(input, init));
  const pooled = async (input: string | URL | Request, given?: RequestInit | null): Promise<Response> => {
    const init = given ?? {};
    if (!isWebAddress(input)) return below(input, init);
    const { signal = input instanceof Request ? input.signal : null } = init;
    if (signal !== null && !(signal instanceof AbortSignal)) throw new TypeError("signal is no AbortSignal");
    signal?.throwIfAborted();
    const call = new Call(signal, engine);
    const request = requestOf(input, { ...init, signal: call.signal });
    const target = targetIn(request, engine);
    if (target === null) return errorResponse(UNREADABLE_TARGET);
    rememberExtras(init, request.headers, extras);
    const letSleep = keepProcessAlive();
    calls.add(call);
    try {
      const response = await call.answer(async () => {
        if (ready !== null) await ready;
        const route = planRoute(request, target, engine);
        if (route.kind === "refused") return errorResponse(route);
        const context = new RequestContext(request, call, engine, route, null, null, call.share);
        call.context = context;
        return relay(context, route, engine);
      });
      // The answer to a request says where it is from; SDKs put it into their logs.
      const { url } = request;
      const statusText = STATUS_CODES[response.status] ?? "";
      for (const [name, value] of Object.entries({ url, statusText }))
        Object.defineProperty(response, name, { value, configurable: true });
      return response;
    } finally {
      letSleep();
      calls.delete(call);
    }
  };

  pooledFetches.add(pooled);
  const fetch: PooledFetch = Object.assign(pooled, {
    health: () => healthOf(engine),
    async close() {
      engine.draining = true;
      engine.keyChecker.close();
      for (const call of calls) call.drain();
      await kept?.close();
    },
  });
  return { fetch, engine };
}

/** Calls `onEvent`, whatever it does. */
function teller(onEvent: ((event: PoolEvent) => unknown) | null): (event: PoolEvent) => void {
  if (onEvent === null) return () => {};
  return (event) => {
    try {
      const result = onEvent(event);
      if (result instanceof Promise) result.catch(() => {});
    } catch {
      // what is wrong there must not fail a call
    }
  };
}

function restore({ upstreams, owners }: Engine, kept: KeptState): void {
  for (const { pool } of upstreams) pool.restore(kept);
  owners.restore(kept.resources());
}

function isWebAddress(input: string | URL | Request): boolean {
  const url = typeof input === "string" ? input : input instanceof URL ? input.href : input.url;
  return /^\s*https?:/i.test(url);
}

/**
 * Where a request is meant to go. One that has the host of a named provider goes to that one, as its SDK says; any
 * other to the default one.
 */
function targetIn(request: Request, { upstreams }: Engine): RequestTarget | null {
  const target = targetOf(request.url);
  const [first, ...named] = upstreams;
  if (target === null || named.length === 0) return target;
  const { origin } = new URL(request.url);
  const meant = origin === first.base.origin ? undefined : named.find(({ base }) => base.origin === origin);
  return meant?.prefix == null ? target : { ...target, path: meant.prefix + target.path };
}

/** A body that is a stream needs `duplex`. */
function requestOf(input: string | URL | Request, init: RequestInit): Request {
  const whole = { duplex: "half" as const, ...init };
  const request = input instanceof Request ? new Request(input, whole) : new Request(String(input), whole);
  // Bun makes such a request, and refuses to send it.
  if (request.body !== null && (request.method === "GET" || request.method === "HEAD"))
    throw new TypeError(`a request with the method ${request.method} cannot have a body`);
  return request;
}

const OF_STANDARD = new Set([
  "method",
  "headers",
  "body",
  "signal",
  "redirect",
  "duplex",
  "cache",
  "credentials",
  "integrity",
  "keepalive",
  "mode",
  "referrer",
  "referrerPolicy",
  "priority",
  "window",
]);

/**
 * What a call says beside the standard goes to the `fetch` below: Node's `dispatcher`, Deno's `client`, Bun's `tls`.
 */
function rememberExtras(init: RequestInit, headers: Headers, extras: CallExtras): void {
  const others = Object.entries(init).filter(([name]) => !OF_STANDARD.has(name));
  if (others.length > 0) extras.set(headers, Object.fromEntries(others));
}

function healthOf({ version, clock, startedAt, upstreams }: Engine): PoolHealth {
  const now = clock.now();
  const [first, ...others] = upstreams;
  const report = (upstream: typeof first) => reportOfProvider(upstream.config, upstream.pool, now);
  return healthJson({
    version,
    uptimeMs: now - startedAt,
    providers: [report(first), ...others.map(report)],
  });
}

const UNLIMITED = { end() {} };

/** The library has no clients but its own program, and nobody who reads its metrics. */
const NO_CLIENTS: ServerParts = {
  metrics: { render: () => "" },
  clientLimiter: {
    admit: () => UNLIMITED,
    admitShared: () => Promise.resolve(UNLIMITED),
    mayUse: () => () => true,
    follow() {},
    report: () => [],
    reportOf: () => null,
  },
  namedModelsOf: () => null,
  modelLists: null,
};

/** Who uses the library has `onEvent`: of what the proxy logs only bugs are told. */
function logOfBugs(tell: (message: string) => void): Log {
  return {
    enabled: () => false,
    line: (level, event, fields) => {
      if (level === "error") tell(`${event}: ${String(fields?.["error"] ?? "")}`);
    },
    request() {},
    flush() {},
    setLevel() {},
  };
}
