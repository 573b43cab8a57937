/**
 * A client's request on its way to upstream: which URL its path means, which of its header fields go on, and its body,
 * which is taken in whole before anything is sent.
 *
 * Bun hands us `request.url` already resolved by the URL standard (`/v1/../admin` arrives as `/admin`), but only
 * where the `Host` header was readable; and an escape that is percent-encoded is left as it is. What an upstream
 * would make of such a path is its own affair, so it is not sent at all.
 */
import { bytesOf, joined } from "./body.ts";
import type { Bytes } from "./body.ts";
import { CREDENTIAL_FIELDS } from "./client-auth.ts";
import { BODY_BROKE_OFF, bodyTooLarge, NO_ROOM } from "./error-responses.ts";
import type { ProxyError } from "./error-responses.ts";

/** The client's path and query, as they go on. `query` is empty or begins with `?`. */
export interface RequestTarget {
  path: string;
  query: string;
}

/**
 * Reads `request.url` and the `Host` it was made with. Null: they cannot be read safely. With a `Host` that the URL
 * standard cannot read, nothing of the path was resolved.
 */
export function targetOf(requestUrl: string, host: string | null = null): RequestTarget | null {
  if (!requestUrl.startsWith("http") || (host !== null && !readableHost(host))) return null;
  const pathStart = requestUrl.indexOf("/", 8);
  if (pathStart < 0) return null;
  const fragmentStart = requestUrl.indexOf("#", pathStart);
  const end = fragmentStart < 0 ? requestUrl.length : fragmentStart;
  const queryStart = requestUrl.indexOf("?", pathStart);
  const pathEnd = queryStart < 0 || queryStart > end ? end : queryStart;
  const path = requestUrl.slice(pathStart, pathEnd);
  return escapesBase(path) ? null : { path, query: requestUrl.slice(pathEnd, end) };
}

/** Hosts that were found readable: parsing one costs more than all the rest that is done with a path. */
const readableHosts = new Set<string>();
/** Clients use one or two names; more are somebody trying. */
const REMEMBERED_HOSTS = 64;

export function readableHost(host: string): boolean {
  if (readableHosts.has(host)) return true;
  if (!/^[\w.:[\]-]+$/.test(host) || !URL.canParse(`http://${host}/`)) return false;
  if (readableHosts.size < REMEMBERED_HOSTS) readableHosts.add(host);
  return true;
}

/** How often a path is decoded at most while looking for `..`: deeper nesting is refused as it stands. */
const DECODE_DEPTH = 4;

/** Whether the path still holds a `..` behind percent-encoding, at any depth, or a NUL. */
export function escapesBase(path: string): boolean {
  if (!path.includes("%")) return false; // plain dots have been resolved already
  let text = path;
  for (let depth = 0; depth < DECODE_DEPTH; depth++) {
    const decoded = text.replace(/%(?:2[ef5]|5c|00)/gi, (escape) =>
      String.fromCharCode(parseInt(escape.slice(1), 16)),
    );
    if (decoded === text) break;
    text = decoded;
  }
  return /(?:^|[/\\])\.\.(?:[/\\]|$)/.test(text) || text.includes("\0") || /%25(?:2[ef5]|5c)/i.test(text);
}

/** Where an upstream's paths begin. */
export interface Base {
  origin: string;
  /** Path of the API root without its last slash; empty where the base is only an origin. */
  root: string;
}

export function baseOf(url: URL): Base {
  return { origin: url.origin, root: url.pathname.replace(/\/+$/, "") };
}

/**
 * The upstream URL of a client's path. A base with a path is the API root: a leading `/v1` of the client (or the
 * base's own path, where the client repeats it) is replaced by it. A base that is only an origin gets the path
 * unchanged.
 */
export function joinBase({ origin, root }: Base, { path, query }: RequestTarget): string {
  if (root === "") return origin + path + query;
  const rest = withoutPrefix(path, root) ?? withoutPrefix(path, "/v1") ?? path;
  return origin + root + rest + query;
}

/** `path` after a prefix of whole segments, or null where it does not begin with it. */
export function withoutPrefix(path: string, prefix: string): string | null {
  if (!path.startsWith(prefix)) return null;
  const rest = path.slice(prefix.length);
  return rest === "" || rest.startsWith("/") ? rest : null;
}

/** Every value of the `key` parameter of a query, under whatever percent-encoding of its name. */
export function keyParameters(query: string): string[] {
  return /key|%/i.test(query) ? new URLSearchParams(query).getAll("key") : [];
}

/** The first value of the `key` parameter of a query; null where it has none. */
export function keyParameter(query: string): string | null {
  return keyParameters(query)[0] ?? null;
}

/** The query without its `key` parameters; every other byte stays as it was. */
export function withoutKeyParameter(query: string): string {
  const rest = query
    .slice(1)
    .split("&")
    .filter((pair) => !new URLSearchParams(pair).has("key"));
  return rest.length === 0 || (rest.length === 1 && rest[0] === "") ? "" : `?${rest.join("&")}`;
}

// ── Which header fields go on ───────────────────────────────────────────────────────────────────────────────────

/** RFC 9110 7.6.1, with the fields that older HTTP used the same way. `Connection` may name more. */
const HOP_BY_HOP = [
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];

/** A client's own list of statuses to retry, for this request. */
export const RETRY_STATUS_FIELD = "x-keywheel-retry-status";

/** Of a request none of these goes on: ours to set, the client's secrets, or settled between it and us. */
const NOT_FORWARDED = [
  ...HOP_BY_HOP,
  ...CREDENTIAL_FIELDS,
  "content-length",
  "cookie",
  "expect",
  "host",
  RETRY_STATUS_FIELD,
];

/** Leaves of a request's fields those that go upstream, without any key. */
export function keepForwarded(headers: Headers, userAgent: string): void {
  dropNamedByConnection(headers);
  for (const name of NOT_FORWARDED) headers.delete(name);
  if (!headers.has("user-agent")) headers.set("user-agent", userAgent);
}

/** Leaves only the end-to-end fields of an answer. Repeated fields stay repeated. */
export function keepEndToEnd(headers: Headers): void {
  dropNamedByConnection(headers);
  for (const name of HOP_BY_HOP) headers.delete(name);
}

function dropNamedByConnection(headers: Headers): void {
  const connection = headers.get("connection");
  if (connection === null || connection === "keep-alive" || connection === "close") return;
  for (const name of connection.split(",")) {
    if (/^[\w!#$%&'*+.^`|~-]+$/.test(name.trim())) headers.delete(name.trim());
  }
}

// ── The body, taken in before anything is sent ──────────────────────────────────────────────────────────────────

/** What all requests together take up at this moment. */
export interface Load {
  /** Requests that were let in and have no end yet. */
  inFlight: number;
  /** Bytes of their bodies that are in memory, or were announced and are coming. */
  bufferedBytes: number;
}

export interface IntakeLimits {
  /** Of one request. */
  readonly maxBodyBytes: number;
  /** Of all together. */
  readonly maxInFlight: number;
  readonly maxBufferedBytes: number;
}

/** A request whose body was taken in: all of it, or null where it has none. */
export interface Received {
  readonly kind: "received";
  readonly body: Bytes | null;
}

const WITHOUT_BODY: Received = { kind: "received", body: null };
const WITH_EMPTY_BODY: Received = { kind: "received", body: new Uint8Array() };

/**
 * Takes the whole body in, or says why the request is refused. So a broken upload never reaches an upstream, and every
 * attempt sends the same bytes (P6). What is taken in is counted, all requests together, and refused where it would be
 * too much (P26, P27): a body that says how long it is before a byte of it is read, one that does not as soon as it has
 * grown too long.
 *
 * From this call on the request counts as in flight, refused or not, and from its return on as many bytes as its body
 * has count as buffered: whoever ends the request takes both off again, once.
 */
export async function receive(
  request: Request,
  headers: Headers,
  load: Load,
  limits: IntakeLimits,
): Promise<Received | ProxyError> {
  const length = headers.get("content-length");
  const announced = length === null ? 0 : Number(length);
  load.inFlight += 1;
  if (announced > limits.maxBodyBytes) return bodyTooLarge(limits.maxBodyBytes);
  const isFull = load.inFlight > limits.maxInFlight;
  if (isFull || load.bufferedBytes + announced > limits.maxBufferedBytes) return NO_ROOM;
  try {
    if (announced > 0) {
      load.bufferedBytes += announced; // before it comes: many at once must not all be let in
      const body = await bytesOf(request);
      load.bufferedBytes += body.length - announced; // Bun drops the body of GET and HEAD
      return body.length === 0 ? WITHOUT_BODY : { kind: "received", body };
    }
    if (headers.has("transfer-encoding")) return await receiveChunked(request, load, limits);
    return length === null ? WITHOUT_BODY : WITH_EMPTY_BODY;
  } catch {
    // Broken off, or silent for too long: nobody reads this answer.
    load.bufferedBytes -= announced;
    return BODY_BROKE_OFF;
  }
}

/** A body of unknown length, counted as it comes. Throws where it breaks off. */
async function receiveChunked(
  { body }: Request,
  load: Load,
  { maxBodyBytes, maxBufferedBytes }: IntakeLimits,
): Promise<Received | ProxyError> {
  const chunks: Bytes[] = [];
  let length = 0;
  let isTaken = false;
  try {
    for await (const chunk of body ?? []) {
      chunks.push(chunk);
      length += chunk.length;
      load.bufferedBytes += chunk.length;
      if (length > maxBodyBytes) return bodyTooLarge(maxBodyBytes);
      if (load.bufferedBytes > maxBufferedBytes) return NO_ROOM;
    }
    isTaken = true; // it stays counted until the request ends
    return { kind: "received", body: joined(chunks) };
  } finally {
    if (!isTaken) load.bufferedBytes -= length;
  }
}
