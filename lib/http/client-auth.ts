/**
 * Who may come in. Pure: what the socket and the headers said goes in, a name or a refusal comes out.
 *
 * "Local" is read from the socket, never from a header. A web page that the user has open can reach a local port
 * too, so protected mode also looks at `Host` (DNS rebinding) and at `Origin` and `Sec-Fetch-Site`.
 */
import type { Access, Listen } from "../config/config.ts";
import { equalInConstantTime } from "../core/secret.ts";

/** What is known of a visitor. */
export interface ClientIdentity {
  /** Address of the socket's other end; null for a unix socket, whose file mode is the guard. */
  peer: string | null;
  headers: Headers;
  /** The `key` parameter of the query, or null. */
  keyParameter: string | null;
}

export type Admission =
  /** `client`: the name of its key, null where keys are unnamed or not asked for. `keyId`: `Secret.id` of its key. */
  | { kind: "admitted"; client: string | null; keyId?: string }
  | {
      kind: "refused";
      status: 401 | 403;
      type: "invalid_proxy_key" | "protected_mode" | "forbidden_origin";
      message: string;
    };

/** The rules of who gets in, for one request. */
export function authorize(
  identity: ClientIdentity,
  access: Access,
  listen: Listen,
  corsOrigins: readonly string[],
): Admission {
  switch (access.mode) {
    case "open":
      return { kind: "admitted", client: null };
    case "keys":
      return authorizeByKey(identity, access.clients);
    case "protected":
      return authorizeLocal(identity, listen, corsOrigins);
  }
}

function authorizeByKey(
  identity: ClientIdentity,
  clients: Extract<Access, { mode: "keys" }>["clients"],
): Admission {
  const presented = presentedKeys(identity);
  let found: (typeof clients)[number] | null = null;
  // No early exit: how long this takes says nothing about which key came close.
  for (const credential of presented) {
    for (const client of clients) {
      if (equalInConstantTime(credential, client.secret.reveal())) found = client;
    }
  }
  if (found) return { kind: "admitted", client: found.name, keyId: found.secret.id };
  const problem = presented.length === 0 ? "This proxy needs a key" : "This key is not one of this proxy's";
  return {
    kind: "refused",
    status: 401,
    type: "invalid_proxy_key",
    message: `${problem}. Use a key from its PROXY_API_KEY setting as your client's API key.`,
  };
}

/** The fields in which SDKs send a key. None of them is ever forwarded. */
export const CREDENTIAL_FIELDS = ["authorization", "x-api-key", "api-key", "x-goog-api-key"] as const;

/** Everything the visitor presented as a key, at most one per way of sending it. */
function presentedKeys(identity: ClientIdentity): string[] {
  const keys: string[] = [];
  for (const name of CREDENTIAL_FIELDS) {
    const value = identity.headers.get(name);
    if (value !== null && value !== "") keys.push(value.replace(/^bearer +/i, "").trim());
  }
  if (identity.keyParameter) keys.push(identity.keyParameter);
  return keys;
}

/** Whether the request carries a credential in a header, so that a `key=` in its query is something else. */
export function hasCredentialField(headers: Headers): boolean {
  return CREDENTIAL_FIELDS.some((name) => headers.has(name));
}

/**
 * Whether one of the proxy's own client keys is `value`: then what holds it must not go on. Asked of what an admitted
 * client sent, field by field, so a text of another length is not hashed.
 */
export function isClientKey(value: string, access: Access): boolean {
  if (access.mode !== "keys") return false;
  const sameLength = access.clients.filter(({ secret }) => secret.length === value.length);
  return sameLength.filter(({ secret }) => equalInConstantTime(value, secret.reveal())).length > 0;
}

/** The rules of protected mode: a program on this machine, not a web page of another site. */
export function authorizeLocal(
  identity: ClientIdentity,
  listen: Listen,
  corsOrigins: readonly string[],
): Admission {
  if (!isLoopback(identity.peer)) {
    return {
      kind: "refused",
      status: 403,
      type: "protected_mode",
      message:
        "This proxy answers only its own machine until PROXY_API_KEY is set: set it to a key of your choice (or to 'off' to let everyone in who can connect) and restart.",
    };
  }
  if (listen.kind === "tcp" && !isOwnName(identity.headers.get("host"), listen.hostname)) {
    return {
      kind: "refused",
      status: 403,
      type: "forbidden_origin",
      message:
        "The Host header is not a loopback name. Use http://127.0.0.1 or http://localhost, or set PROXY_API_KEY so that other names are safe.",
    };
  }
  if (isCrossSite(identity.headers) && !allowsOrigin(corsOrigins, identity.headers.get("origin"))) {
    return {
      kind: "refused",
      status: 403,
      type: "forbidden_origin",
      message:
        "A web page of another site asked. If it is yours, add its origin to CORS_ORIGINS (for example CORS_ORIGINS=https://app.example).",
    };
  }
  return { kind: "admitted", client: null };
}

/** Whether a socket address is this machine's loopback (RFC 1122 3.2.1.3, RFC 4291 2.5.3), or a unix socket. */
export function isLoopback(peer: string | null): boolean {
  if (peer === null || peer === "::1") return true;
  const ipv4 = peer.startsWith("::ffff:") ? peer.slice(7) : peer;
  return /^127(?:\.\d{1,3}){3}$/.test(ipv4);
}

/** Whether `Host` names loopback or the very address that was configured to listen on. */
function isOwnName(host: string | null, listenHostname: string): boolean {
  if (host === null) return false;
  const portStart = host.lastIndexOf(":");
  const name = portStart > host.lastIndexOf("]") ? host.slice(0, portStart) : host;
  if (name === "127.0.0.1" || name === "localhost") return true;
  const bare = name.replace(/^\[|\]$/g, "").toLowerCase();
  const isListened = bare === listenHostname.toLowerCase() && bare !== "0.0.0.0" && bare !== "::";
  return isListened || bare === "localhost" || bare.endsWith(".localhost") || isLoopback(bare);
}

/**
 * Whether a browser says that another site's page sent this. Browsers set `Sec-Fetch-Site` themselves; older ones
 * send only `Origin`. Programs send neither.
 */
function isCrossSite(headers: Headers): boolean {
  const site = headers.get("sec-fetch-site");
  if (site !== null && site !== "same-origin" && site !== "none") return true;
  const origin = headers.get("origin");
  if (origin === null) return false;
  const host = headers.get("host");
  return origin !== `http://${host}` && origin !== `https://${host}`;
}

/** Whether `CORS_ORIGINS` lets this origin call the API. */
export function allowsOrigin(corsOrigins: readonly string[], origin: string | null): boolean {
  return origin !== null && (corsOrigins.includes("*") || corsOrigins.includes(origin));
}

/** Whether a browser asks before it asks (Fetch standard, CORS preflight): such a request carries no key. */
export function isPreflight(request: Request): boolean {
  return request.method === "OPTIONS" && request.headers.has("access-control-request-method");
}

/** The answer to a preflight; 403 for an origin that is not in `CORS_ORIGINS`. */
export function preflight(asked: Headers, corsOrigins: readonly string[]): Response {
  if (!allowsOrigin(corsOrigins, asked.get("origin"))) return new Response(null, { status: 403 });
  const headers = new Headers({
    "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "access-control-allow-headers": asked.get("access-control-request-headers") ?? "*",
    "access-control-max-age": "600",
  });
  addCors(headers, asked.get("origin"), corsOrigins);
  return new Response(null, { status: 204, headers });
}

/** Lets the page of an allowed origin read an answer. Does nothing where `CORS_ORIGINS` is not set. */
export function addCors(headers: Headers, origin: string | null, corsOrigins: readonly string[]): void {
  if (corsOrigins.length === 0 || headers.has("access-control-allow-origin")) return;
  headers.append("vary", "origin");
  if (origin === null || !allowsOrigin(corsOrigins, origin)) return;
  headers.set("access-control-allow-origin", origin);
  headers.set("access-control-expose-headers", "*");
}

/** Names who asks where there is no address, as with a Unix socket. */
export const THIS_MACHINE = "this machine";

/** The other end of the socket; null: surely this machine, because nothing else is listened on. */
export function peerOf(
  request: Request,
  server: { requestIP(request: Request): { readonly address: string } | null },
  listen: Listen,
): string | null {
  if (listen.kind === "unix" || listen.hostname === "127.0.0.1") return null;
  return server.requestIP(request)?.address ?? "unknown";
}
