/**
 * The ways to providers by a standard `fetch`, of whatever runtime.
 *
 * It undoes the compression of an answer, and leaves the fields that told of it, so they are taken out here: they would
 * not describe the bytes. And its errors are given the codes by which the engine judges them.
 */
import { codeOf } from "../core/json.ts";
import type { UpstreamQuestion, UpstreamRequest, UpstreamResponse } from "../core/runtime.ts";
import { canConnect } from "../http/connections.ts";
import type { UpstreamAccess } from "../routing/engine.ts";
import type { Fetch } from "./public.ts";

/** What a call says beside what the engine knows (`dispatcher` of Node, `tls` of Bun), by the fields of its request. */
export type CallExtras = WeakMap<Headers, Readonly<Record<string, unknown>>>;

/** Every `fetch` that this library has made. */
export const pooledFetches = new WeakSet<Fetch>();
const firstFetch = globalThis.fetch;

/** The global `fetch` as it is now. Where somebody has put one of ours there: the one that was there before. */
export function globalFetch(): Fetch {
  const { fetch } = globalThis;
  return pooledFetches.has(fetch) ? firstFetch : fetch;
}

/** `below`: null: the global `fetch`, as it is at each call. */
export function accessByFetch(below: Fetch | null, extras: CallExtras): UpstreamAccess {
  const fetchBelow: Fetch = below ?? ((input, init) => globalFetch()(input, init));
  const send = (url: string, request: UpstreamRequest) =>
    sendBy(fetchBelow, url, request, extras.get(request.headers));
  return {
    openConnections: () => ({ send, dropIdle() {} }),
    fetch: (url, question) => sendBy(fetchBelow, url, question, undefined),
    // Where somebody's own `fetch` leads to, a connection of ours would not tell.
    canConnect: below === null || below === globalThis.fetch ? canConnect : () => Promise.resolve(true),
    // A standard `fetch` listens to its signal until the garbage collector has come by.
    reusesSignals: false,
  };
}

async function sendBy(
  fetch: Fetch,
  url: string,
  request: UpstreamQuestion | UpstreamRequest,
  extras: Readonly<Record<string, unknown>> = {},
): Promise<UpstreamResponse> {
  const { method, redirect, signal, body: sent = null } = request;
  // The engine takes the key out of its fields again at once, and this `fetch` may read them later.
  const headers = new Headers(request.headers);
  headers.delete("content-length"); // each `fetch` counts for itself
  try {
    // In pieces it would go out without its length from some runtimes.
    const body = sent instanceof ReadableStream ? await new Response(sent).arrayBuffer() : sent;
    return readable(await fetch(url, { ...extras, method, headers, body, redirect, signal }));
  } catch (error) {
    throw withCode(error);
  }
}

/** What every `fetch` undoes by itself; Deno's leaves `deflate` as it is (2.9). */
const UNDONE =
  typeof Deno === "undefined" ? /^(?:(?:x-)?gzip|deflate|br|[\s,])*$/i : /^(?:(?:x-)?gzip|br|[\s,])*$/i;
declare const Deno: unknown;

function readable(response: Response): UpstreamResponse {
  const headers = new Headers(response.headers); // those of an answer cannot be changed
  const encoding = headers.get("content-encoding");
  if (encoding !== null && response.body !== null && UNDONE.test(encoding)) {
    headers.delete("content-encoding");
    headers.delete("content-length");
  }
  const { status, body } = response;
  return { status, headers, body, bytes: async () => new Uint8Array(await response.arrayBuffer()) };
}

/** Codes of Node's own client, by those that mean the same. */
const ALIKE: Readonly<Record<string, string>> = {
  UND_ERR_CONNECT_TIMEOUT: "ETIMEDOUT",
  UND_ERR_SOCKET: "ECONNRESET",
  ERR_SSL_WRONG_VERSION_NUMBER: "EPROTO",
  ERR_SSL_PACKET_LENGTH_TOO_LONG: "EPROTO",
};

/** Deno names no code: it says the system's number, or what it was about. */
const SAID: readonly (readonly [words: RegExp, code: string])[] = [
  [/os error 111\b|os error 61\b|os error 10061\b|connection refused/i, "ECONNREFUSED"],
  [/os error 113\b/, "EHOSTUNREACH"],
  [/os error 101\b/, "ENETUNREACH"],
  [/os error 110\b/, "ETIMEDOUT"],
  [/os error 24\b/, "EMFILE"],
  [/dns error|failed to lookup/i, "ENOTFOUND"],
  [/NotValidForName/, "ERR_TLS_CERT_ALTNAME_INVALID"],
  [/certificate.*expired/i, "CERT_HAS_EXPIRED"],
  [/invalid peer certificate|UnknownIssuer/i, "UNABLE_TO_VERIFY_LEAF_SIGNATURE"],
  [/invalid HTTP|HPE_/i, "Malformed_HTTP_Response"],
  [/os error 104\b|connection (?:reset|closed)/i, "ECONNRESET"],
];

/** The failure of a request, with a code that the engine knows. Its own text may hold the URL, so it is kept apart. */
function withCode(error: unknown): Error {
  const code = codeOf(error);
  const words = code === "" || code.startsWith("HPE_") ? `${code} ${wordsOf(error)}` : "";
  const meant = SAID.find(([pattern]) => pattern.test(words))?.[1];
  return Object.assign(new Error("the request failed"), { code: meant ?? ALIKE[code] ?? code });
}

/** An error's text and that of its cause, as far as they are looked at. */
function wordsOf(error: unknown): string {
  if (!(error instanceof Error)) return "";
  const cause = error.cause instanceof Error ? error.cause.message : "";
  return `${error.message} ${cause}`.slice(0, 2000);
}
