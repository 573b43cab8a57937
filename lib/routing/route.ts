/**
 * Where a request goes: to the provider that its path names, or by routes and fallbacks to one after another. And the
 * model that a request names, and the same request with another one in that place. Pure.
 */
import type { Access, Config } from "../config/config.ts";
import { parseStatusList } from "../config/config.ts";
import { matchesGlob } from "../core/glob.ts";
import { asBuffer, findTopLevelString, replaceTopLevelString } from "../core/json.ts";
import type { Bytes } from "../http/body.ts";
import { hasCredentialField, isClientKey } from "../http/client-auth.ts";
import {
  DRAINING,
  NO_PAGE_LOADS,
  NO_TRAILERS,
  NO_TUNNELS,
  NO_WEBSOCKETS,
  notFound,
  providerDisabled,
  UNMET_EXPECTATION,
  unreadableRetryStatus,
} from "../http/error-responses.ts";
import type { ProxyError } from "../http/error-responses.ts";
import {
  clientApiOf,
  keyParameters,
  RETRY_STATUS_FIELD,
  tidyPath,
  unescaped,
  withoutParameters,
  withoutPrefix,
} from "../http/request.ts";
import type { ClientApi, RequestTarget } from "../http/request.ts";
import type { Naming } from "../pool/client-limits.ts";
import type { Engine, Upstream } from "./engine.ts";

/** A request that is let in. */
export interface Route {
  readonly kind: "route";
  readonly upstream: Upstream;
  /** The path names no provider: `ROUTES` and `FALLBACK` hold for it. */
  readonly mayLeadElsewhere: boolean;
  /** As it goes on: tidy, without the name of the provider, and without a key that is for us. */
  readonly target: RequestTarget;
  readonly api: ClientApi;
  /** Statuses that this request wants retried, beside those of the configuration. */
  readonly retryStatus: ReadonlySet<number>;
}

/** One hop of a request: a provider, and the model to ask it for; null: the one the client named. */
export interface Hop {
  readonly upstream: Upstream;
  readonly model: string | null;
}

/** Where a request goes, or why it goes nowhere. */
export function planRoute(
  { method, headers }: Request,
  { path, query }: RequestTarget,
  { upstreams, draining, config }: Pick<Engine, "upstreams" | "draining" | "config">,
): Route | ProxyError {
  if (draining) return DRAINING;
  if (isReserved(path)) return notFound(path);
  if (headers.get("upgrade")?.toLowerCase() === "websocket") return NO_WEBSOCKETS;
  // An answer to TRACE repeats the request, and with it the key.
  if (method === "CONNECT" || method === "TRACE") return NO_TUNNELS;
  if (isPageLoad(headers)) return NO_PAGE_LOADS;
  const isChunked = headers.has("transfer-encoding");
  if (!canMeet(headers.get("expect"), isChunked || headers.has("content-length"))) return UNMET_EXPECTATION;
  if (isChunked && headers.has("trailer")) return NO_TRAILERS;
  const named =
    upstreams.length > 1 || upstreams[0].prefix !== null ? providerNamedBy(path, upstreams) : null;
  const upstream = named ?? upstreams[0];
  if (upstream.config.disabled) return providerDisabled(upstream.config.name);
  const asked = headers.get(RETRY_STATUS_FIELD);
  const retryStatus = asked === null ? NO_STATUSES : parseStatusList(asked);
  if (retryStatus === null) return unreadableRetryStatus(RETRY_STATUS_FIELD);
  const ownPath = tidyPath(named === null ? path : path.slice(firstSegmentEnd(path)) || "/");
  const target = { path: ownPath, query: queryToForward(query, headers, config.access) };
  const api = clientApiOf(ownPath, headers);
  return { kind: "route", upstream, mayLeadElsewhere: named === null, target, api, retryStatus };
}

/** The provider that a path names with its first segment, in any case and under any percent-encoding; null: none. */
function providerNamedBy(path: string, upstreams: Engine["upstreams"]): Upstream | null {
  const prefix = unescaped(path.slice(0, firstSegmentEnd(path))).toLowerCase();
  return upstreams.find((upstream) => upstream.prefix === prefix) ?? null;
}

function firstSegmentEnd(path: string): number {
  const end = path.indexOf("/", 1);
  return end < 0 ? path.length : end;
}

/** The runtime answers `100-continue` in this spelling and in no other: who expects anything else waits for ever. */
function canMeet(expectation: string | null, hasBody: boolean): boolean {
  if (expectation === null || expectation === "100-continue") return true;
  return !hasBody && expectation.toLowerCase() === "100-continue"; // there is nothing to wait for
}

/** Whether a browser loads this as a page, a picture or a script, which no client of an API does (Fetch Metadata). */
function isPageLoad(headers: Headers): boolean {
  const destination = headers.get("sec-fetch-dest");
  return destination !== null && destination !== "empty";
}

/**
 * A `key` in the query is for us where it is the only credential: then it goes no further. Neither does a parameter of
 * any name that holds a key of one of our clients.
 */
function queryToForward(query: string, headers: Headers, access: Access): string {
  const isForUs = keyParameters(query).length > 0 && !hasCredentialField(headers);
  const rest = isForUs ? withoutParameters(query) : query;
  if (rest === "" || access.mode !== "keys") return rest;
  const holdsOurs = ([, value]: [string, string]) =>
    isClientKey(value, access) || isClientKey(value.slice(value.lastIndexOf(" ") + 1), access);
  const names = [...new URLSearchParams(rest)].filter(holdsOurs).map(([name]) => name);
  return names.length === 0 ? rest : withoutParameters(rest, names);
}

const NO_STATUSES: ReadonlySet<number> = new Set();

/** Paths that the proxy keeps for itself, served or not. */
function isReserved(path: string): boolean {
  return withoutPrefix(path, "/admin") !== null || withoutPrefix(path, "/metrics") !== null;
}

/**
 * The hops of a request in order: those of a route, or its provider and what stands behind that. `namedTarget`: where a
 * model leads that begins with a provider's name; null: nowhere else.
 */
export function hopsOf(
  context: { readonly model: string | null },
  { upstream, mayLeadElsewhere }: Route,
  { routes, fallback }: Pick<Config, "routes" | "fallback">,
  upstreams: readonly Upstream[],
  namedTarget: ((model: string) => Hop | null) | null = null,
): Hop[] {
  const first: Hop = { upstream, model: null };
  const isAlone = routes.length === 0 && fallback.length === 0 && namedTarget === null;
  if (!mayLeadElsewhere || isAlone) return [first];
  const { model } = context; // looked for in the body only where it is needed
  const route = routes.find(({ name, isPattern }) => isNamed(model, name, isPattern));
  const named = route === undefined && model !== null ? (namedTarget?.(model) ?? null) : null;
  const hops = (route?.targets ?? fallback).flatMap(({ provider, model }): Hop[] => {
    const target = upstreams.find(({ config }) => config.name === provider);
    const asked = model ?? named?.model ?? null;
    return target === undefined || target.config.disabled ? [] : [{ upstream: target, model: asked }];
  });
  return route !== undefined && hops.length > 0 ? hops : [named ?? first, ...hops];
}

/** Whether the model that a request names is that of a route. */
function isNamed(model: string | null, name: string, isPattern: boolean): boolean {
  return isPattern ? model !== null && matchesGlob(name, model) : name === model;
}

// ── The model that a request names ──────────────────────────────────────────────────────────────────────────────

/** No provider has a longer name; a client's text is not kept, nor logged, at any length. */
const LONGEST_MODEL = 200;
/**
 * `/openai/deployments/my-gpt/chat/completions`: Azure's limits are those of a deployment. Old clients of OpenAI have
 * `/v1/engines/my-gpt/completions`, those of Bedrock `/model/my-gpt/converse`.
 */
const DEPLOYMENT = /\/(?:deployments|engines|model)\/([^/]+)\//;

/** The model that a request names; null: none, or a name that can be none. */
export function modelOf({ path, contentType, body }: Naming): string | null {
  return bounded(modelOfPath(path) ?? (body === null ? null : modelOfBody(contentType, body)));
}

/** A name as it is kept and logged; null: it can be none. */
export function bounded(model: string | null): string | null {
  return model === null || model.length > LONGEST_MODEL ? null : model;
}

export function modelOfPath(path: string): string | null {
  const place = placeInPath(path);
  return place === null ? (DEPLOYMENT.exec(path)?.[1] ?? null) : path.slice(place.start, place.end);
}

/** Where the model stands in a path such as `/v1beta/models/gemini-pro:generateContent`; null: it names none so. */
function placeInPath(path: string): { start: number; end: number } | null {
  const start = path.indexOf(MODELS) + MODELS.length;
  const end = path.lastIndexOf(":");
  return start >= MODELS.length && end > start && /^:\w+$/.test(path.slice(end)) ? { start, end } : null;
}

const MODELS = "/models/";

function modelOfBody(contentType: string | null, body: Bytes): string | null {
  const boundary = boundaryOf(contentType);
  if (boundary === null) return findTopLevelString(body, "model")?.value ?? null;
  const field = modelField(boundary, body);
  return field === null ? null : asBuffer(body).toString("utf8", field.start, field.end);
}

/**
 * The body with another model in it, and nothing else changed, in parts that belong one after another. Null: it names
 * none.
 */
export function bodyWithModel(body: Bytes, contentType: string | null, model: string): Bytes[] | null {
  const boundary = boundaryOf(contentType);
  if (boundary === null) {
    const found = findTopLevelString(body, "model");
    return found === null ? null : replaceTopLevelString(body, found, model);
  }
  const field = modelField(boundary, body);
  if (field === null || /[\r\n]/.test(model)) return null;
  return [body.subarray(0, field.start), new TextEncoder().encode(model), body.subarray(field.end)];
}

/** The path with another model in it; as it is where it names none. */
export function pathWithModel(path: string, model: string): string {
  const place = placeInPath(path);
  return place === null
    ? path
    : path.slice(0, place.start) + encodeURIComponent(model) + path.slice(place.end);
}

/** The boundary of a form (RFC 2046, section 5.1.1); null: it is no form. */
export function boundaryOf(contentType: string | null): string | null {
  if (contentType === null || !/^multipart\/form-data\b/i.test(contentType)) return null;
  const found = /;\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))/i.exec(contentType);
  return found?.[1] ?? found?.[2] ?? null;
}

/** More parts no form has that names a model; more bytes no part has before its content (RFC 7578). */
const MOST_PARTS = 64;
export const LONGEST_PART_HEAD = 2048;

/**
 * Where the content of the part called `model` stands, of the first one or of the last; null: there is none. Files are
 * jumped over unread.
 */
export function modelField(
  boundary: string,
  body: Bytes,
  { takesLast } = { takesLast: false },
): { start: number; end: number } | null {
  const bytes = asBuffer(body);
  const delimiter = Buffer.from(`\r\n--${boundary}`);
  let found: { start: number; end: number } | null = null;
  let at = bytes.indexOf(delimiter.subarray(2));
  for (let part = 0; (part < MOST_PARTS || takesLast) && at >= 0; part++) {
    const head = at + delimiter.length - (part === 0 ? 2 : 0);
    const end = bytes.indexOf(delimiter, head);
    if (end < 0) return found;
    const start = bytes.indexOf("\r\n\r\n", head) + 4;
    const isRead = start > 3 && start <= end && start - head <= LONGEST_PART_HEAD;
    if (isRead && NAMED_MODEL.test(bytes.toString("latin1", head, start))) found = { start, end };
    if (found !== null && !takesLast) return found;
    at = end;
  }
  return found;
}

export const NAMED_MODEL = /^content-disposition:[^\r\n]*;\s*name="?model"?\s*(?:;|\r)/im;
