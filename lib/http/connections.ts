/**
 * The connections to a provider: kept for the next request as long as they are likely to live, dropped together when
 * one proves dead, and asked for beside an attempt that hears nothing.
 */
import type {
  UpstreamConnections,
  UpstreamQuestion,
  UpstreamRequest,
  UpstreamResponse,
} from "../core/runtime.ts";
import { deferred } from "../core/language.ts";
import type { Clock } from "../core/clock.ts";
import type { Secret } from "../core/secret.ts";

/**
 * How long an idle connection is kept. One that died without a word (a router was restarted, a load balancer forgot it)
 * shows that only by its silence, so it must not get old.
 */
const IDLE_SEC = 12;
/** How long the connect probe may take. */
const PROBE_MS = 2000;

/**
 * Methods with which the runtime never sends a request again by itself. All others it repeats, once for every idle
 * connection that proves dead, whether the provider has done the work or not (P3): they get a connection of their own.
 */
const SENT_ONCE: ReadonlySet<string> = new Set(["POST", "PATCH"]);

/** The connections to one provider, by Bun's `fetch`. */
export class Connections implements UpstreamConnections {
  readonly #session = new Bun.FetchSession({ proxy: false, keepAlive: { idleTimeout: IDLE_SEC } });

  send(url: string, request: UpstreamRequest, isReplay: boolean): Promise<UpstreamResponse> {
    const keepalive = !isReplay && SENT_ONCE.has(request.method);
    return this.#session.fetch(url, keepalive ? request : { ...request, keepalive });
  }

  /** Requests under way go on. */
  dropIdle(): void {
    this.#session.close();
  }
}

/** So long after stale connections were forgiven all breaks are upstream's again. */
const FORGIVEN_EVERY_MS = 10_000;

/**
 * Which attempts broke because their connection had died while nobody used it: no fault of upstream's, so their one
 * replay is none of the budget's business (P3, P7). At most as many as connections may have been idle when nothing was
 * under way, and only those that were sent before the first of them broke, as then the idle ones are dropped.
 */
export class IdleConnections {
  #underWay = 0;
  #endedAt = 0;
  /** Connections that may be idle; and of those, the ones that nobody has used since nothing was under way. */
  #idle = 0;
  #rested = 0;
  /** How often the idle ones were dropped, and which of these drops was forgiven. */
  #drops = 0;
  #forgiven = -1;
  #forgivenAt = -Infinity;

  /** An attempt goes out. Returns the number of the next drop; -1: its connection has surely not rested. */
  onSent(now: number): number {
    if (this.#underWay === 0) {
      if (now > this.#endedAt + IDLE_SEC * 1000) this.#idle = 0; // the runtime has closed them
      this.#rested = this.#idle;
    }
    this.#underWay += 1;
    this.#idle = Math.max(0, this.#idle - 1);
    if (this.#rested === 0) return -1;
    this.#rested -= 1;
    return this.#drops;
  }

  /** An attempt is over. `isKept`: its connection may be used again. */
  onEnded(isKept: boolean, now: number): void {
    this.#underWay -= 1;
    this.#endedAt = now;
    if (isKept) this.#idle += 1;
  }

  drop(): void {
    this.#idle = this.#rested = 0;
    this.#drops += 1;
  }

  /** An attempt broke before it was answered, for which `onSent` gave this number. Returns whether that is forgiven. */
  forgive(drop: number, now: number): boolean {
    if (drop < 0 || drop === this.#forgiven) return drop >= 0;
    if (drop !== this.#drops || now < this.#forgivenAt + FORGIVEN_EVERY_MS) return false;
    this.#forgiven = drop;
    this.#forgivenAt = now;
    return true;
  }
}

/** The ways to providers by Bun's own `fetch`. */
export function accessByBun() {
  const { fetch } = new Bun.FetchSession({ proxy: false });
  const ask: (url: string, question: UpstreamQuestion) => Promise<UpstreamResponse> = fetch;
  return { openConnections: () => new Connections(), fetch: ask, canConnect, reusesSignals: true };
}

/** An HTTP proxy on the way. */
export interface ProxyAddress {
  /** As `fetch` takes it; it may hold a user name and a password. */
  readonly address: Secret;
}

/**
 * Whether a connection to the host of `url` can be opened in time, TLS included: its handshake may stall where the
 * connection itself does not. Nothing is sent. Through a proxy this asks the proxy for the way; its refusal is an
 * answer too, which the attempt itself is about to get.
 */
export async function canConnect(
  url: URL,
  clock: Clock,
  proxy: ProxyAddress | null = null,
): Promise<boolean> {
  // Not `Bun.connect`: it cannot give up a connection that is being made. Loaded when the first probe is needed.
  const [net, tls] = await Promise.all([import("node:net"), import("node:tls")]);
  const { promise, resolve } = deferred<boolean>();
  const proxyUrl = proxy === null ? null : new URL(proxy.address.reveal());
  const cancel = clock.after(PROBE_MS, () => resolve(false));
  const isSecure = url.protocol === "https:";
  const socket = net.connect(endOf(proxyUrl ?? url));
  socket.once("error", () => resolve(false));
  socket.once("connect", () => {
    if (proxyUrl === null) return isSecure ? shakeHands() : resolve(true);
    // What is spoken inside TLS to the proxy, or behind it, is not worth a second implementation: the way is there.
    if (proxyUrl.protocol !== "http:" || !isSecure) return resolve(true);
    socket.once("data", () => resolve(true));
    socket.once("close", () => resolve(false));
    socket.write(tunnelRequest(url, proxyUrl));
  });
  /** Whoever is at the other end: what is wrong with the certificate the attempt finds out. */
  function shakeHands(): void {
    const { hostname } = url;
    const name = IS_ADDRESS.test(hostname) ? {} : { servername: hostname };
    const secured = tls.connect({ socket, rejectUnauthorized: false, ...name }, () => resolve(true));
    // It answered, if only to refuse: the attempt gets to know it, too.
    secured.once("error", () => resolve(true));
  }
  const isConnected = await promise;
  cancel();
  socket.destroy();
  return isConnected;
}

const IS_ADDRESS = /^\[|^[\d.]+$/;

function endOf({ protocol, hostname, port }: URL): { host: string; port: number } {
  return {
    host: hostname.replace(/^\[|\]$/g, ""),
    port: Number(port) || (protocol === "https:" ? 443 : 80),
  };
}

/** RFC 9110, section 9.3.6. */
function tunnelRequest(url: URL, { username, password }: URL): string {
  const authority = `${url.hostname}:${endOf(url).port}`;
  const credential = Buffer.from(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`);
  const field = username === "" ? "" : `Proxy-Authorization: Basic ${credential.toString("base64")}\r\n`;
  return `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${field}\r\n`;
}
