/**
 * Which header fields go on, in which direction, and what the proxy adds to an answer.
 */
import { allowsOrigin, CREDENTIAL_FIELDS } from "./client-auth.ts";

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
  addCors(headers, asked, corsOrigins);
  return new Response(null, { status: 204, headers });
}

/** Lets the page of an allowed origin read an answer. Does nothing where `CORS_ORIGINS` is not set. */
export function addCors(headers: Headers, asked: Headers, corsOrigins: readonly string[]): void {
  if (corsOrigins.length === 0 || headers.has("access-control-allow-origin")) return;
  headers.append("vary", "origin");
  const origin = asked.get("origin");
  if (origin === null || !allowsOrigin(corsOrigins, origin)) return;
  headers.set("access-control-allow-origin", origin);
  headers.set("access-control-expose-headers", "*");
}
