/**
 * A client's request on its way to upstream: which URL its path means, which of its header fields go on, and its body,
 * which is taken in whole before anything is sent.
 *
 * Bun hands us `request.url` already resolved by the URL standard (`/v1/../admin` arrives as `/admin`), but only
 * where the `Host` header was readable; and an escape that is percent-encoded is left as it is. What an upstream
 * would make of such a path is its own affair, so it is not sent at all.
 */
import { takesKeyInQuery } from "../providers/catalog.ts";
import type { Dialect } from "../providers/verdict.ts";
import { BodyBuffer, bytesOf, Gathering, encodingsOf, textOf, unpackWhile } from "./body.ts";
import type { Bytes } from "./body.ts";
import type { Access } from "../config/config.ts";
import { CREDENTIAL_FIELDS, isClientKey } from "./client-auth.ts";
import { nextTurn } from "../core/clock.ts";
import { BODY_BROKE_OFF, bodyTooLarge, NO_ROOM, NO_TRAILERS } from "./error-responses.ts";
import type { ProxyError } from "./error-responses.ts";
import type { ClientShare, LoadLimits } from "./load.ts";

/** The client's path and query, as they go on. `query` is empty or begins with `?`. */
export interface RequestTarget {
  path: string;
  query: string;
}

/** Whose API a client speaks, where that decides how its path joins the base; anybody else is as OpenAI's are. */
export type ClientApi = "openai" | "anthropic" | "google";

/**
 * Reads `request.url` and the `Host` it was made with. Null: they cannot be read safely. With a `Host` that the URL
 * standard cannot read, nothing of the path was resolved. Several slashes at the beginning of the path count as one.
 */
export function targetOf(requestUrl: string, host: string | null = null): RequestTarget | null {
  if (!requestUrl.startsWith("http") || (host !== null && !readableHost(host))) return null;
  const pathStart = requestUrl.indexOf("/", 8);
  if (pathStart < 0) return null;
  const fragmentStart = requestUrl.indexOf("#", pathStart);
  const end = fragmentStart < 0 ? requestUrl.length : fragmentStart;
  const queryStart = requestUrl.indexOf("?", pathStart);
  const pathEnd = queryStart < 0 || queryStart > end ? end : queryStart;
  const path = requestUrl.slice(lastOfSlashes(requestUrl, pathStart), pathEnd);
  return escapesBase(path) ? null : { path, query: requestUrl.slice(pathEnd, end) };
}

/** The index of the last of the slashes that begin at `at`. */
function lastOfSlashes(text: string, at: number): number {
  let last = at;
  while (text.charCodeAt(last + 1) === SLASH) last += 1;
  return last;
}

const SLASH = 0x2f;

/** A version as a segment of a path: `v1`, `v1beta`, `v4`. */
const VERSION_SEGMENT = "v\\d+(?:\\.\\d+)?(?:(?:alpha|beta)\\d*)?";
const LEADING_VERSION = new RegExp(`/+(${VERSION_SEGMENT})(?=/|$)`, "iy");
const ENDING_VERSION = new RegExp(`/${VERSION_SEGMENT}$`, "i");

/**
 * The path with one slash at its beginning and behind its version, and with one version: bases that were joined
 * carelessly give `/v1//models` and `/v1/v1/models`. Of several versions the last is the client's own.
 */
export function tidyPath(path: string): string {
  const isUsual =
    path.startsWith("/v1/") && path.charCodeAt(4) !== SLASH && path.charCodeAt(4) !== 0x76; /* v */
  if (isUsual) return path;
  let version = "";
  let end = 0;
  for (;;) {
    LEADING_VERSION.lastIndex = end;
    const found = LEADING_VERSION.exec(path);
    if (found === null) break;
    version = `/${found[1]}`;
    end = LEADING_VERSION.lastIndex;
  }
  return version === "" ? path.slice(lastOfSlashes(path, 0)) : version + path.slice(end);
}

/** The version that a tidy path begins with: `/v1`; empty: none. */
function versionOf(path: string): string {
  if (path.startsWith("/v1/")) return "/v1";
  LEADING_VERSION.lastIndex = 0;
  return LEADING_VERSION.exec(path)?.[0] ?? "";
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

/** A segment of a path without its percent-encoding; as it is where that cannot be read. */
export function unescaped(segment: string): string {
  if (!segment.includes("%")) return segment;
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment; // no escape: then it stands for itself
  }
}

/** Where an upstream's paths begin. Paths are without their last slash. */
export interface Base {
  readonly origin: string;
  /** Path of the API root; empty where the base is only an origin. */
  readonly root: string;
  /** `root` without the version that it ends in. */
  readonly withoutVersion: string;
  /** Set where it is Google's: native paths and those of OpenAI clients have roots of their own. */
  readonly google: { readonly nativeRoot: string; readonly version: string } | null;
  /** The provider takes its key in the query too: then no key of the client's may stay there. */
  readonly takesKeyInQuery: boolean;
}

const GOOGLE_ROOT = new RegExp(`^(.*?)(/${VERSION_SEGMENT})?(?:/openai)?$`, "i");

export function baseOf(url: URL, dialect: Dialect): Base {
  const root = url.pathname.replace(/\/+$/, "");
  const withoutVersion = root.replace(ENDING_VERSION, "");
  const isGoogle = dialect === "gemini" || /\/v1(?:alpha|beta)\/openai$/.test(root);
  const [, nativeRoot = "", version = "/v1beta"] = GOOGLE_ROOT.exec(root) ?? [];
  return {
    origin: url.origin,
    root,
    withoutVersion,
    google: isGoogle ? { nativeRoot, version } : null,
    takesKeyInQuery: takesKeyInQuery(dialect),
  };
}

/** Whose API a request is for. `path` is tidy, `headers` are those that the client sent. */
export function clientApiOf(path: string, headers: Headers): ClientApi {
  if (headers.has("anthropic-version") || ANTHROPIC_PATH.test(path)) return "anthropic";
  return headers.has("x-goog-api-key") || headers.has("x-goog-api-client") ? "google" : "openai";
}

const ANTHROPIC_PATH = /^\/v1\/(?:messages|complete)(?=\/|$)/;

/**
 * The path at the upstream of a client's tidy path. People paste the base that their provider documents for the client
 * that they use, and one provider has to serve clients of every kind.
 */
export function joinBase(base: Base, path: string, api: ClientApi): string {
  const { root, withoutVersion, google } = base;
  if (google !== null) return joinGoogle(google, path, api);
  if (root === "" || withoutPrefix(path, root) !== null) return path; // the client may repeat the base's own path
  const version = versionOf(path);
  if (version === "") return repeatsRoot(base, path) ? path : root + path;
  // Anthropic's clients bring their version; so does whoever asks for another one than everybody's.
  if (api === "anthropic" || version !== "/v1") return withoutVersion + path;
  const rest = path.slice(version.length);
  return rest === "" ? root : root + rest.slice(lastOfSlashes(rest, 0));
}

/** Whether a path is the base's own, with another version: `/api/v2/models` on `…/api/v1`. */
function repeatsRoot({ withoutVersion }: Base, path: string): boolean {
  const rest = withoutVersion === "" ? null : withoutPrefix(path, withoutVersion);
  return rest !== null && versionOf(rest) !== "";
}

/** Paths of Google's own API that have no version at their beginning, or the one that OpenAI's clients have too. */
const NATIVE_PATH = /^\/(?:upload|download)\/|^(?:\/v1)?\/(?:models|tunedModels)\/[^/]+:\w/;

function joinGoogle(
  { nativeRoot, version }: NonNullable<Base["google"]>,
  path: string,
  api: ClientApi,
): string {
  const asked = nativeRoot === "" ? path : tidyPath(withoutPrefix(path, nativeRoot) ?? path);
  const own = versionOf(asked);
  const rest = asked.slice(own.length);
  const compatible = withoutPrefix(rest, "/openai");
  const hasNativeVersion = own !== "" && own !== "/v1";
  const isNative = NATIVE_PATH.test(asked) || hasNativeVersion || api === "google";
  if (compatible !== null || !isNative) return `${nativeRoot}${version}/openai${compatible ?? rest}`;
  const isWhole = own !== "" || /^\/(?:upload|download)\//.test(asked);
  return nativeRoot + (isWhole ? asked : version + asked);
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

const KEY_PARAMETER = ["key"];
/** Where a provider takes its key in the query, any of these of a client would be taken in the place of ours. */
export const KEY_PARAMETERS = ["key", "api_key", "access_token"];

/** The query without these parameters, under whatever percent-encoding; every other byte stays as it was. */
export function withoutParameters(query: string, names: readonly string[] = KEY_PARAMETER): string {
  const isNamed = (pair: string) => {
    const [name = ""] = new URLSearchParams(pair).keys();
    return names.includes(name);
  };
  const pairs = query.slice(1).split("&");
  const rest = pairs.filter((pair) => !isNamed(pair));
  return rest.length === 0 || (rest.length === 1 && rest[0] === "") ? "" : `?${rest.join("&")}`;
}

/** The query as it goes to this upstream. */
export function queryFor({ takesKeyInQuery }: Base, query: string): string {
  const mayHoldKey = takesKeyInQuery && /key|token|%/i.test(query);
  return mayHoldKey ? withoutParameters(query, KEY_PARAMETERS) : query;
}

// ── Which header fields go on ───────────────────────────────────────────────────────────────────────────────────

/** RFC 9110 7.6.1, with the fields that older HTTP used the same way. `Connection` may name more. */
const HOP_BY_HOP = [
  "connection",
  "http2-settings",
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

/**
 * Of a request none of these goes on: ours to set, the client's secrets, settled between it and us, or telling of its
 * page and its network. A provider may blame the key for the latter: a browser's origin, another country's address.
 */
const NOT_FORWARDED: ReadonlySet<string> = new Set([
  ...HOP_BY_HOP,
  ...CREDENTIAL_FIELDS,
  RETRY_STATUS_FIELD,
  "cdn-loop",
  "client-ip",
  "content-length",
  "cookie",
  "expect",
  "fastly-client-ip",
  "fly-client-ip",
  "forwarded",
  "host",
  "origin",
  "referer",
  "true-client-ip",
  "via",
  "x-client-ip",
  "x-cluster-client-ip",
  "x-envoy-external-address",
  "x-forwarded",
  "x-original-forwarded-for",
  "x-real-ip",
]);
/** What nearly every client sends, and no one puts a key into. */
const PLAIN_FIELDS: ReadonlySet<string> = new Set([
  "accept",
  "accept-encoding",
  "content-type",
  "user-agent",
]);

/** Leaves of a request's fields those that go upstream, without any key of the client's. */
export function keepForwarded(headers: Headers, userAgent: string, access: Access): void {
  dropNamedByConnection(headers);
  const dropped: string[] = [];
  let hasUserAgent = false;
  for (const name of headers.keys()) {
    if (name === "user-agent") hasUserAgent = true;
    if (PLAIN_FIELDS.has(name)) continue;
    if (!isForwarded(name) || holdsClientKey(headers, name, access)) dropped.push(name);
  }
  for (const name of dropped) headers.delete(name);
  if (!hasUserAgent) headers.set("user-agent", userAgent);
}

function isForwarded(name: string): boolean {
  if (NOT_FORWARDED.has(name)) return false;
  return !(
    name.startsWith("x-forwarded-") ||
    name.startsWith("sec-fetch-") ||
    name.startsWith("sec-websocket-") || // a browser's WebSocket carries the client's key in its protocol
    name.startsWith("cf-")
  );
}

/** Whether a field's value is one of the proxy's own client keys, alone or behind a word as in `Bearer`. */
function holdsClientKey(headers: Headers, name: string, access: Access): boolean {
  if (access.mode !== "keys") return false;
  const value = headers.get(name) ?? "";
  return isClientKey(value, access) || isClientKey(value.slice(value.lastIndexOf(" ") + 1), access);
}

/** Leaves only the end-to-end fields of an answer. Repeated fields stay repeated. */
export function keepEndToEnd(headers: Headers): void {
  dropNamedByConnection(headers);
  for (const name of HOP_BY_HOP) headers.delete(name);
}

/**
 * The dashboard lives at the same origin: what a browser could take for a page must not run there, and no script of
 * upstream's may watch over other paths than its own.
 */
export function keepFromRunning(headers: Headers): void {
  headers.delete("service-worker-allowed");
  const type = headers.get("content-type");
  if (type !== null && (type.startsWith("application/json") || !/html|xml|svg|multipart/i.test(type))) return;
  headers.append("content-security-policy", "sandbox");
  headers.set("x-content-type-options", "nosniff");
}

function dropNamedByConnection(headers: Headers): void {
  const connection = headers.get("connection");
  if (connection === null || connection === "keep-alive" || connection === "close") return;
  for (const name of connection.split(",")) {
    if (/^[\w!#$%&'*+.^`|~-]+$/.test(name.trim())) headers.delete(name.trim());
  }
}

// ── The body, taken in before anything is sent ──────────────────────────────────────────────────────────────────

/** A request whose body was taken in. */
export interface Received {
  readonly kind: "received";
  /** All of it; null: there is none. It belongs to the request: its memory is given back when that needs it no more. */
  readonly body: Bytes | null;
  /** What stands in it, where it is packed or begins with a byte order mark; null: it can be read as it is, or not. */
  readonly readable: Bytes | null;
}

const WITHOUT_BODY: Received = { kind: "received", body: null, readable: null };
const WITH_EMPTY_BODY: Received = { kind: "received", body: new Uint8Array(), readable: null };
/** Bodies up to this length are always read in one go: less than a connection costs. */
const SMALL_BYTES = 64 * 1024;
/** Up to this one they are where not too many are on their way: it costs half as much as to read them in pieces. */
const MEDIUM_BYTES = 512 * 1024;

/**
 * Takes the whole body in, or says why the request is refused. So a broken upload never reaches an upstream, and every
 * attempt sends the same bytes (P6). What has come is counted, all requests together and of each client, and refused
 * where it is too much (P26, P27, P43): by the length it announces before a byte of it is read, and as soon as it has
 * grown too long.
 *
 * From this call on the request counts as in flight, refused or not, and from its return on as many bytes as `body` and
 * `readable` have count as buffered: whoever ends the request takes both off again, once.
 */
export async function receive(
  request: Request,
  headers: Headers,
  share: ClientShare,
  limits: LoadLimits,
): Promise<Received | ProxyError> {
  const length = headers.get("content-length");
  const announced = length === null ? 0 : Number(length);
  const hasRoom = share.enter(limits);
  if (announced > limits.maxBodyBytes) return bodyTooLarge(limits.maxBodyBytes);
  if (!hasRoom) return NO_ROOM;
  const isChunked = length === null && headers.has("transfer-encoding");
  if (announced === 0 && !isChunked) return length === null ? WITHOUT_BODY : WITH_EMPTY_BODY;
  if (Math.max(announced, 1) > share.room(limits)) return NO_ROOM;
  let body: Bytes | ProxyError;
  try {
    const isSmall = announced > 0 && announced <= SMALL_BYTES;
    const isExpected =
      !isSmall && announced > 0 && announced <= MEDIUM_BYTES && share.mayExpect(announced, limits);
    body =
      isSmall || isExpected
        ? await receiveAtOnce(request, isExpected ? announced : 0, share, limits)
        : await receiveInPieces(request, announced, share, limits);
  } catch {
    return BODY_BROKE_OFF; // or silent for too long: nobody reads this answer
  }
  if (!(body instanceof Uint8Array)) return body;
  if (isChunked) {
    await nextTurn(); // the runtime gives up a request with trailers just after the end of its body
    if (request.signal.aborted) {
      share.release(body.length);
      return NO_TRAILERS;
    }
  }
  if (body.length === 0 && !isChunked) return WITHOUT_BODY; // Bun drops the body of GET and HEAD
  if (!needsCopy(body, headers)) return { kind: "received", body, readable: null };
  const readable = await readableCopy(body, headers, share, limits);
  if (readable !== "no_room") return { kind: "received", body, readable };
  share.release(body.length);
  return NO_ROOM;
}

/**
 * The same for a request that comes over no connection: its fields do not say how its body comes, and what comes is
 * the caller's own, so a copy is kept. `onFault`: told what the body broke off with.
 */
export async function receiveCall(
  { body: pieces, headers, signal }: Request,
  share: ClientShare,
  limits: LoadLimits,
  onFault: (fault: unknown) => void,
): Promise<Received | ProxyError> {
  if (!share.enter(limits)) return NO_ROOM;
  if (pieces === null) return WITHOUT_BODY;
  const gathered = new Gathering();
  let refusal: ProxyError | null = null;
  const reader = pieces.getReader();
  // A body that stalls ends with its call: the read that is under way ends, too.
  const leave = () => void reader.cancel(signal.reason).catch(() => {});
  signal.addEventListener("abort", leave);
  try {
    while (refusal === null) {
      signal.throwIfAborted();
      const { done, value } = await reader.read();
      if (done) break;
      const piece = pieceOf(value); // whatever the caller put there
      const room = share.room(limits);
      gathered.push(gathered.length === 0 ? piece.slice() : piece);
      share.hold(piece.length);
      if (gathered.length > limits.maxBodyBytes) refusal = bodyTooLarge(limits.maxBodyBytes);
      else if (piece.length > room) refusal = NO_ROOM;
    }
    signal.throwIfAborted();
    if (refusal !== null) leave();
  } catch (fault) {
    refusal = BODY_BROKE_OFF;
    onFault(fault);
    leave();
  } finally {
    signal.removeEventListener("abort", leave);
  }
  const body = gathered.bytes;
  const isCopied = refusal === null && needsCopy(body, headers);
  const readable = isCopied ? await readableCopy(body, headers, share, limits) : null;
  if (refusal === null && readable !== "no_room") return { kind: "received", body, readable };
  share.release(body.length);
  return refusal ?? NO_ROOM;
}

/** A piece of a caller's body, as the runtimes take it. */
function pieceOf(value: unknown): Bytes {
  if (value instanceof Uint8Array) return value as Bytes;
  if (typeof value === "string") return new TextEncoder().encode(value);
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  throw new TypeError("a piece of the request's body is neither bytes nor text");
}

/** `expected`: bytes that are to be taken off what is expected when all is there. */
async function receiveAtOnce(
  request: Request,
  expected: number,
  share: ClientShare,
  limits: LoadLimits,
): Promise<Bytes | ProxyError> {
  let body: Bytes;
  try {
    body = await bytesOf(request);
  } finally {
    share.arrived(expected);
  }
  if (body.length > share.room(limits)) return NO_ROOM;
  share.hold(body.length);
  return body;
}

/** A long body, or one of unknown length (`announced` 0), counted as it comes. Throws where it breaks off. */
async function receiveInPieces(
  { body }: Request,
  announced: number,
  share: ClientShare,
  limits: LoadLimits,
): Promise<Bytes | ProxyError> {
  const whole = new BodyBuffer(announced, limits.maxBodyBytes);
  let isTaken = false;
  try {
    for await (const piece of body ?? []) {
      const { length } = piece;
      const room = share.room(limits);
      share.hold(length);
      if (whole.length + length > limits.maxBodyBytes) {
        share.release(length);
        return bodyTooLarge(limits.maxBodyBytes);
      }
      whole.push(piece);
      if (length > room) return NO_ROOM;
    }
    isTaken = true; // it stays counted until the request ends
    return whole.bytes;
  } finally {
    if (!isTaken) {
      share.release(whole.length);
      whole.free();
    }
  }
}

/** Whether a body has to be unpacked, or freed from its byte order mark, before it can be looked into. */
function needsCopy([first, second, third]: Bytes, headers: Headers): boolean {
  const hasMark = first === 0xef && second === 0xbb && third === 0xbf;
  const isUtf16 = (first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff);
  return hasMark || isUtf16 || headers.has("content-encoding");
}

/**
 * A copy in plain UTF-8 of a body. Null: nobody can read it, or it is longer than a body may be; `no_room`: it would be
 * looked into if there were room for the copy.
 */
async function readableCopy(
  body: Bytes,
  headers: Headers,
  share: ClientShare,
  limits: LoadLimits,
): Promise<Bytes | "no_room" | null> {
  let held = 0;
  const hold = (bytes: number) => {
    share.hold(bytes);
    held += bytes;
  };
  const mayTake = (bytes: number) => {
    hold(bytes);
    return held <= limits.maxBodyBytes && share.room(limits) >= 0;
  };
  const unpacked = await unpackWhile(body, encodingsOf(headers), limits.maxBodyBytes, mayTake);
  const isTooMuch = held <= limits.maxBodyBytes && share.room(limits) < 0;
  const copy = unpacked === null ? null : withoutByteOrderMark(unpacked);
  hold((copy?.length ?? 0) - held);
  return copy === null && isTooMuch ? "no_room" : copy;
}

function withoutByteOrderMark(bytes: Bytes): Bytes {
  const [first, second, third] = bytes;
  if (first === 0xef && second === 0xbb && third === 0xbf) return bytes.subarray(3);
  if (first === 0xff && second === 0xfe) return new TextEncoder().encode(textOf(bytes, "utf-16le"));
  if (first === 0xfe && second === 0xff) return new TextEncoder().encode(textOf(bytes, "utf-16be"));
  return bytes;
}
