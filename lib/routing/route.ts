/**
 * Where a request goes: to the provider that its path names, or by routes and fallbacks to one after another. Pure.
 */
import type { Access, Config } from "../config/config.ts";
import { parseStatusList } from "../config/config.ts";
import { hasCredentialField, isClientKey } from "../http/client-auth.ts";
import { RETRY_STATUS_FIELD } from "../http/fields.ts";
import { keyParameters, withoutKeyParameter, withoutPrefix } from "../http/request.ts";
import type { Target } from "../http/request.ts";
import {
  DRAINING,
  NO_TUNNELS,
  NO_WEBSOCKETS,
  notFound,
  providerDisabled,
  unreadableRetryStatus,
} from "../http/error-responses.ts";
import type { ProxyError } from "../http/error-responses.ts";

/** A provider, as far as a path can name it. */
export interface Destination {
  readonly config: { readonly name: string; readonly disabled: boolean };
  /** The path it is served under: `/groq`; null for the default provider where it has no name. */
  readonly prefix: string | null;
}

/** A request that is let in. */
export interface Route<D extends Destination> {
  readonly kind: "route";
  readonly upstream: D;
  /** The path names no provider: routes and fallbacks may lead elsewhere. */
  readonly isOpen: boolean;
  /** As it goes on: without the name of the provider, and without a key that is for us. */
  readonly target: Target;
  /** Statuses that this request wants retried, beside those of the configuration. */
  readonly retryStatus: ReadonlySet<number>;
}

/** One target of a request: a provider, and the model to ask it for; null: the one the client named. */
export interface Hop<D extends Destination> {
  readonly upstream: D;
  readonly model: string | null;
}

/** The providers, the default one first, and whether new requests are taken. */
interface Destinations<D extends Destination> {
  readonly upstreams: readonly [D, ...D[]];
  readonly draining: boolean;
  readonly config: { readonly access: Access };
}

/** Where a request goes, or why it goes nowhere. */
export function planRoute<D extends Destination>(
  { method, headers }: Request,
  { path, query }: Target,
  { upstreams, draining, config }: Destinations<D>,
): Route<D> | ProxyError {
  if (draining) return DRAINING;
  if (isReserved(path)) return notFound(path);
  if (headers.get("upgrade")?.toLowerCase() === "websocket") return NO_WEBSOCKETS;
  // An answer to TRACE repeats the request, and with it the key.
  if (method === "CONNECT" || method === "TRACE") return NO_TUNNELS;
  const named = upstreams.find(({ prefix }) => prefix !== null && withoutPrefix(path, prefix) !== null);
  const upstream = named ?? upstreams[0];
  if (upstream.config.disabled) return providerDisabled(upstream.config.name);
  const asked = headers.get(RETRY_STATUS_FIELD);
  const retryStatus = asked === null ? NO_STATUSES : parseStatusList(asked);
  if (retryStatus === null) return unreadableRetryStatus(RETRY_STATUS_FIELD);
  const target = {
    path: named === undefined ? path : path.slice(named.prefix?.length) || "/",
    query: queryToForward(query, headers, config.access),
  };
  return { kind: "route", upstream, isOpen: named === undefined, target, retryStatus };
}

/** A `key` in the query is for us where it is the only credential, or one of our own: then it goes no further. */
function queryToForward(query: string, headers: Headers, access: Access): string {
  const keys = keyParameters(query);
  if (keys.length === 0) return query;
  const isForUs = !hasCredentialField(headers) || keys.some((key) => isClientKey(key, access));
  return isForUs ? withoutKeyParameter(query) : query;
}

const NO_STATUSES: ReadonlySet<number> = new Set();

/** Paths that the proxy keeps for itself, served or not. */
function isReserved(path: string): boolean {
  return withoutPrefix(path, "/admin") !== null || withoutPrefix(path, "/metrics") !== null;
}

/** The targets of a request in order: a route's, or its provider and what stands behind that. */
export function hopsOf<D extends Destination>(
  call: { readonly model: string | null },
  { upstream, isOpen }: Route<D>,
  { routes, fallback }: Pick<Config, "routes" | "fallback">,
  upstreams: readonly D[],
): Hop<D>[] {
  const first: Hop<D> = { upstream, model: null };
  if (!isOpen || (routes.length === 0 && fallback.length === 0)) return [first];
  const { model } = call; // looked for in the body only where it is needed
  const route = routes.find(({ name }) => name === model);
  const hops = (route?.targets ?? fallback).flatMap(({ provider, model }): Hop<D>[] => {
    const target = upstreams.find(({ config }) => config.name === provider);
    return target === undefined || target.config.disabled ? [] : [{ upstream: target, model }];
  });
  return route !== undefined && hops.length > 0 ? hops : [first, ...hops];
}
