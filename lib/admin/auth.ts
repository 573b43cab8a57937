/**
 * Who is the operator: a password, and sessions in place of it for browsers.
 *
 * A session is 32 random bytes in a cookie that scripts cannot read and other sites cannot send; only its hash is
 * kept, in memory, so a restart ends it. No header is trusted to say where a request came from.
 */
import { keepNewest } from "../core/bounded.ts";
import { HOUR_MS } from "../core/clock.ts";
import type { Access, Listen } from "../config/config.ts";
import type { Clock } from "../core/clock.ts";
import { equalInConstantTime } from "../core/secret.ts";
import type { Secret } from "../core/secret.ts";
import { authorizeLocal, isLoopback } from "../http/client-auth.ts";
import { admissionError, proxyError } from "../http/error-responses.ts";
import type { ProxyError } from "../http/error-responses.ts";

/** A session ends when nothing was asked with it for so long. */
export const SESSION_IDLE_MS = 12 * HOUR_MS;
/** One a browser; beyond, the one that was used the longest ago ends. */
const MOST_SESSIONS = 64;

export interface AdminAuthOptions {
  clock: Clock;
  /** `ADMIN_PASSWORD` as it is now; null: not set. */
  password(): Secret | null;
  /** Text from at least 32 random bytes, of characters that may stand in a cookie (RFC 6265 4.1.1). */
  newToken(): string;
}

/** What a request presents, and from where. */
export interface Presented {
  headers: Headers;
  /** Address of the socket's other end; null for a unix socket. */
  peer: string | null;
}

interface Session {
  /** `Secret.id` of the password it was begun with: another password ends it. */
  passwordId: string;
  /** Epoch ms. */
  usedAt: number;
}

/** Somebody who may do everything. */
export interface Admitted {
  kind: "operator";
  /** `password`: it came with the request itself, as scripts send it. */
  by: "session" | "password";
  /** Whether it still holds: a session may end while an answer goes on. Counts as use. */
  isStillIn(): boolean;
}

export class AdminAuth {
  readonly #options: AdminAuthOptions;
  readonly #attempts = new LoginThrottle();
  /** For credentials on paths outside `/admin`: a monitor with an old key must not keep the operator out. */
  readonly #attemptsElsewhere = new LoginThrottle();
  /** By the hash of the token; the longest unused first. */
  readonly #sessions = new Map<string, Session>();

  constructor(options: AdminAuthOptions) {
    this.#options = options;
  }

  /** The `Set-Cookie` of a new session, or why there is none. */
  signIn(password: string, from: Presented): string | ProxyError {
    const refusal = this.#judge(password, from.peer, this.#attempts);
    if (refusal !== null) return refusal;
    const token = this.#options.newToken();
    const session = { passwordId: this.#options.password()?.id ?? "", usedAt: this.#options.clock.now() };
    this.#sessions.set(hashOf(token), session);
    for (const hash of this.#sessions.keys()) {
      if (this.#sessions.size <= MOST_SESSIONS) break;
      this.#sessions.delete(hash);
    }
    return `${cookieName(from.headers)}=${token}; ${COOKIE_RULES}`;
  }

  /** Ends the session, if there is one. The `Set-Cookie` that takes the cookie back. */
  signOut({ headers }: Presented): string {
    for (const token of tokensOf(headers)) this.#sessions.delete(hashOf(token));
    return `${cookieName(headers)}=; ${COOKIE_RULES}; Max-Age=0`;
  }

  /** By the password where one is sent, else by the session. */
  recognise(from: Presented): Admitted | ProxyError {
    const password = bearerOf(from.headers);
    if (password !== null) {
      const refusal = this.#judge(password, from.peer, this.#attempts);
      if (refusal !== null) return refusal;
      const passwordId = this.#options.password()?.id;
      return {
        kind: "operator",
        by: "password",
        isStillIn: () => this.#options.password()?.id === passwordId,
      };
    }
    const hash = tokensOf(from.headers)
      .map(hashOf)
      .find((hash) => this.#isAlive(hash));
    if (hash === undefined) return SIGN_IN_REQUIRED;
    return { kind: "operator", by: "session", isStillIn: () => this.#isAlive(hash) };
  }

  /** Whether the request carries the password, on a path outside `/admin`. Wrong ones are slowed down all the same. */
  isOperator({ headers, peer }: Presented): boolean {
    const password = bearerOf(headers);
    return password !== null && this.#judge(password, peer, this.#attemptsElsewhere) === null;
  }

  /** Null: it is the password. */
  #judge(presented: string, peer: string | null, attempts: LoginThrottle): ProxyError | null {
    const now = this.#options.clock.now();
    const waitMs = attempts.waitMs(peer, now);
    // Not even the right one is looked at: else the wait would only slow down those who keep to it.
    if (waitMs > 0) return tooManyAttempts(waitMs);
    const password = this.#options.password();
    if (password !== null && equalInConstantTime(presented, password.reveal())) {
      attempts.succeeded(peer);
      return null;
    }
    attempts.failed(peer, now);
    return WRONG_PASSWORD;
  }

  /** Whether this session holds, which counts as its use. */
  #isAlive(hash: string): boolean {
    const session = this.#sessions.get(hash);
    if (session === undefined) return false;
    this.#sessions.delete(hash);
    const now = this.#options.clock.now();
    const isIdle = now - session.usedAt > SESSION_IDLE_MS;
    if (isIdle || session.passwordId !== this.#options.password()?.id) return false;
    this.#sessions.set(hash, { ...session, usedAt: now }); // so that it comes last
    return true;
  }
}

const COOKIE_RULES = "HttpOnly; SameSite=Strict; Path=/admin";

/**
 * Cookies do not heed the port, so two proxies on one machine would take each other's away: the port is in the name,
 * as the browser says it in `Host`.
 */
function cookieName(headers: Headers): string {
  const port = /:(\d{1,5})$/.exec(headers.get("host") ?? "")?.[1];
  return port === undefined ? "keywheel" : `keywheel_${port}`;
}

/** A browser sends one; somebody who plants others must not make us hash thousands. */
const MOST_TOKENS = 4;

function tokensOf(headers: Headers): string[] {
  const name = cookieName(headers);
  const pairs = (headers.get("cookie") ?? "").split(";").map((pair) => pair.trim());
  return pairs
    .filter((pair) => pair.startsWith(`${name}=`))
    .slice(0, MOST_TOKENS)
    .map((pair) => pair.slice(name.length + 1));
}

/** What is looked up is a hash, so how long that takes tells nothing about the tokens there are. */
function hashOf(token: string): string {
  return new Bun.CryptoHasher("sha256").update(token).digest("hex");
}

/** Null: the request carries none. Bun reads a header as Latin-1; people and programs write UTF-8. */
function bearerOf(headers: Headers): string | null {
  const field = Buffer.from(headers.get("authorization") ?? "", "latin1").toString("utf8");
  return /^bearer +(.*)$/i.exec(field)?.[1]?.trim() ?? null;
}

/**
 * Why this peer may not ask at all, or null. In protected mode the rules are those of the API. Elsewhere any
 * `Host` will do: the operator may have given this machine any name; and a page that made its own name lead here (DNS
 * rebinding) has no session under that name, and can only guess passwords as everybody can.
 */
export function whyNotAdmitted(
  { headers, peer }: Presented,
  access: Access,
  listen: Listen,
): ProxyError | null {
  if (access.mode !== "protected") return null;
  const host = headers.get("host");
  // Only the Host: a link on another site may lead to the page. What it asks for then is looked at by `isForeign`.
  const identity = { peer, headers: new Headers(host === null ? {} : { host }), keyParameter: null };
  const admission = authorizeLocal(identity, listen, []);
  return admission.kind === "refused" ? admissionError(admission) : null;
}

/**
 * Whether a page of another origin sent this. Stricter than the API's rule: no origin is ever allowed, and another
 * port of the same machine is another origin. `Sec-Fetch-Site` is the browser's own word and is believed; older
 * browsers, and all where there is no https, send only `Origin`. Programs send neither.
 */
export function isForeign(headers: Headers): boolean {
  const site = headers.get("sec-fetch-site");
  if (site !== null) return site !== "same-origin" && site !== "none";
  const origin = headers.get("origin");
  const host = headers.get("host");
  return origin !== null && origin !== `http://${host}` && origin !== `https://${host}`;
}

export const FOREIGN = proxyError(
  403,
  "forbidden_origin",
  "A web page of another origin asked, or a proxy in between does not pass the Host header on. Only the page under /admin may ask here.",
);

const SIGN_IN_REQUIRED = proxyError(
  401,
  "sign_in_required",
  "Sign in at /admin, or send the password as Authorization: Bearer.",
);

const WRONG_PASSWORD = proxyError(
  401,
  "wrong_password",
  "This is not the password. It is the value of ADMIN_PASSWORD in keywheel's settings.",
);

function tooManyAttempts(waitMs: number): ProxyError {
  return proxyError(
    429,
    "too_many_attempts",
    "Too many wrong passwords came from your network, or from many at once. Wait, then try again.",
    waitMs,
  );
}

// ── How long somebody who guesses must wait ───────────────────────────────────────────────────────────────────────
//
// Whoever guesses is told to wait (429), nobody is held. Two bounds: each network for itself, doubling to a minute;
// and all networks together, for guesses that come from everywhere. The second does not hold for this machine and
// for networks from which the right password came before, so strangers cannot keep the operator out; and one
// network alone, or a few, never get so far as to use it up.

/** Wrong passwords that cost nothing yet: people mistype. */
const FREE_FAILURES = 2;
const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 60_000;
/** A network that has not failed for so long begins anew. */
const FORGET_AFTER_MS = HOUR_MS;

/** Guesses of all strangers together: so many at once, and then one each time. */
const BURST = 60;
const ONE_EVERY_MS = 6000;

/** More than can fail within the time after which they are forgotten: what is evicted would be forgotten anyway. */
const MOST_NETWORKS = 1024;
const MOST_KNOWN = 64;

interface Failures {
  count: number;
  /** Epoch ms of the last. */
  at: number;
}

/** Wrong passwords, by where they came from. Its memory is bounded. */
export class LoginThrottle {
  /** The longest ago first. */
  readonly #failures = new Map<string, Failures>();
  /** Networks from which the right password came. */
  readonly #known = new Set<string>();
  /** When the strangers' budget will be full again, epoch ms: each failure moves it on. */
  #fullAt = 0;

  /** How long to wait before the next attempt of this peer; 0: it may try. `peer` as of `networkOf`. */
  waitMs(peer: string | null, now: number): number {
    const network = networkOf(peer);
    const failures = this.#failures.get(network);
    const ownMs = failures === undefined ? 0 : failures.at + delayMs(failures.count) - now;
    const isStranger = network !== THIS_MACHINE && !this.#known.has(network);
    const strangersMs = isStranger ? this.#fullAt - now - (BURST - 1) * ONE_EVERY_MS : 0;
    return Math.max(0, ownMs, strangersMs);
  }

  failed(peer: string | null, now: number): void {
    const network = networkOf(peer);
    const before = this.#failures.get(network);
    const count = before === undefined || now - before.at > FORGET_AFTER_MS ? 0 : before.count;
    this.#failures.delete(network); // so that it comes last
    this.#failures.set(network, { count: count + 1, at: now });
    keepNewest(this.#failures, MOST_NETWORKS);
    if (network !== THIS_MACHINE && !this.#known.has(network)) {
      this.#fullAt = Math.max(this.#fullAt, now) + ONE_EVERY_MS;
    }
  }

  succeeded(peer: string | null): void {
    const network = networkOf(peer);
    this.#failures.delete(network);
    this.#known.delete(network);
    this.#known.add(network);
    keepNewest(this.#known, MOST_KNOWN);
  }

  /** How many networks are remembered. */
  get size(): number {
    return this.#failures.size + this.#known.size;
  }
}

function delayMs(failures: number): number {
  if (failures <= FREE_FAILURES) return 0;
  return Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** (failures - FREE_FAILURES - 1));
}

const THIS_MACHINE = "this machine";

/**
 * Who is taken for one: this machine with all its addresses, one IPv4 address, or one IPv6 network of 64 bits,
 * which is what a single household gets (RFC 6177). `peer`: the address of the socket's other end; null: a unix
 * socket.
 */
export function networkOf(peer: string | null): string {
  if (isLoopback(peer)) return THIS_MACHINE;
  const address = (peer ?? "").replace(/^::ffff:(?=\d+\.)/i, "").replace(/%.*$/, "");
  if (!address.includes(":")) return address;
  const [head = "", tail] = address.toLowerCase().split("::");
  const groups = head === "" ? [] : head.split(":");
  const tailGroups = tail === undefined || tail === "" ? [] : tail.split(":");
  while (tail !== undefined && groups.length + tailGroups.length < 8) groups.push("0");
  return [...groups, ...tailGroups]
    .slice(0, 4)
    .map((group) => group.replace(/^0+(?=.)/, ""))
    .join(":");
}
