/**
 * Which upstream URL a client's path means, and which paths are refused because they could leave the base.
 *
 * Bun hands us `request.url` already resolved by the URL standard (`/v1/../admin` arrives as `/admin`), but only
 * where the `Host` header was readable; and an escape that is percent-encoded is left as it is. What an upstream
 * would make of such a path is its own affair, so it is not sent at all.
 */

/** The client's path and query, as they go on. `query` is empty or begins with `?`. */
export interface Target {
  path: string;
  query: string;
}

/**
 * Reads `request.url` and the `Host` it was made with. Null: they cannot be read safely. With a `Host` that the URL
 * standard cannot read, nothing of the path was resolved.
 */
export function targetOf(requestUrl: string, host: string | null = null): Target | null {
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
export function joinBase({ origin, root }: Base, { path, query }: Target): string {
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
