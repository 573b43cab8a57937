/**
 * Who is the operator: a password, and sessions in place of it for browsers.
 *
 * A session has two halves of 32 random bytes: a cookie that scripts cannot read and other sites cannot send, and a key
 * that the page keeps and sends along. A cookie also goes to other ports of the same host, so whoever listens there
 * gets one half only. Hashes of both are kept, in memory, so a restart ends a session. No header is trusted to say
 * where a request came from.
 */
import { keepNewest } from "../core/bounded.ts";
import { HOUR_MS } from "../core/clock.ts";
import type { Access, Listen } from "../config/config.ts";
import type { Clock } from "../core/clock.ts";
import { equalInConstantTime } from "../core/secret.ts";
import type { Secret } from "../core/secret.ts";
import { THIS_MACHINE, authorizeLocal, isLoopback } from "../http/client-auth.ts";
import { admissionError, proxyError } from "../http/error-responses.ts";
import type { ProxyError } from "../http/error-responses.ts";

/** A session ends when nothing was asked with it for so long. */
const SESSION_IDLE_MS = 12 * HOUR_MS;
/** One a browser; beyond, the one that was used the longest ago ends. */
const MOST_SESSIONS = 64;

interface AdminAuthOptions {
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
  /** Hash of the half that the page keeps. */
  pageHash: string;
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

/** What a browser is given when it has shown the password. */
interface NewSession {
  kind: "session";
  /** Values of `Set-Cookie`. */
  cookies: readonly string[];
  /** The half that the page keeps: it sends it as `x-keywheel-page`. */
  pageKey: string;
}

/** Carries the half of a session that the page keeps. */
const PAGE_KEY_FIELD = "x-keywheel-page";

/** Browsers that are remembered so that nobody else's guesses can keep them out. */
const MOST_BROWSERS = 64;
const KNOWN_BROWSER = "_browser";
const KNOWN_BROWSER_SEC = 365 * 86_400;

/**
 * What reverse proxies add. They are not believed: they only keep apart who came through one from who came directly.
 */
const FORWARDED_FIELDS = ["x-forwarded-for", "forwarded", "via", "x-real-ip"];

export class AdminAuth {
  readonly #options: AdminAuthOptions;
  readonly #attempts = new LoginThrottle();
  /** For credentials on paths outside `/admin`: a monitor with an old key must not keep the operator out. */
  readonly #attemptsElsewhere = new LoginThrottle();
  /** By the hash of the token; the longest unused first. */
  readonly #sessions = new Map<string, Session>();
  /** Hashes of what browsers keep from which the right password came; the oldest first. */
  readonly #browsers = new Set<string>();

  constructor(options: AdminAuthOptions) {
    this.#options = options;
  }

  /** A new session, or why there is none. */
  signIn(password: string, from: Presented): NewSession | ProxyError {
    const refusal = this.#judge(password, from, this.#attempts);
    if (refusal !== null) return refusal;
    const { newToken, clock } = this.#options;
    const [token, pageKey, browserToken] = [newToken(), newToken(), newToken()];
    const passwordId = this.#options.password()?.id ?? "";
    this.#sessions.set(hashOf(token), { pageHash: hashOf(pageKey), passwordId, usedAt: clock.now() });
    keepNewest(this.#sessions, MOST_SESSIONS);
    this.#browsers.add(hashOf(browserToken));
    keepNewest(this.#browsers, MOST_BROWSERS);
    const { headers } = from;
    const cookies = [
      `${cookieName(headers)}=${token}; ${COOKIE_RULES}`,
      `${cookieName(headers, KNOWN_BROWSER)}=${browserToken}; ${COOKIE_RULES}; Max-Age=${KNOWN_BROWSER_SEC}`,
    ];
    return { kind: "session", cookies, pageKey };
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
      const refusal = this.#judge(password, from, this.#attempts);
      if (refusal !== null) return refusal;
      const passwordId = this.#options.password()?.id;
      return {
        kind: "operator",
        by: "password",
        isStillIn: () => this.#options.password()?.id === passwordId,
      };
    }
    const pageKey = from.headers.get(PAGE_KEY_FIELD);
    if (pageKey === null) return SIGN_IN_REQUIRED;
    const pageHash = hashOf(pageKey);
    const hash = tokensOf(from.headers)
      .map(hashOf)
      .find((hash) => this.#sessions.get(hash)?.pageHash === pageHash && this.#isAlive(hash));
    if (hash === undefined) return SIGN_IN_REQUIRED;
    return { kind: "operator", by: "session", isStillIn: () => this.#isAlive(hash) };
  }

  /** Whether the request carries the password, on a path outside `/admin`. Wrong ones are slowed down all the same. */
  isOperator(from: Presented): boolean {
    const password = bearerOf(from.headers);
    return password !== null && this.#judge(password, from, this.#attemptsElsewhere) === null;
  }

  /** Null: it is the password. */
  #judge(presented: string, from: Presented, attempts: LoginThrottle): ProxyError | null {
    const now = this.#options.clock.now();
    const guesser = this.#guesserOf(from);
    const waitMs = attempts.waitMs(guesser, now);
    // Not even the right one is looked at: else the wait would only slow down those who keep to it.
    if (waitMs > 0) return tooManyAttempts(waitMs);
    const password = this.#options.password();
    if (password !== null && equalInConstantTime(presented, password.reveal())) {
      attempts.succeeded(guesser);
      return null;
    }
    attempts.failed(guesser, now);
    return WRONG_PASSWORD;
  }

  #guesserOf({ headers, peer }: Presented): Guesser {
    const browser = tokensOf(headers, KNOWN_BROWSER)
      .map(hashOf)
      .find((hash) => this.#browsers.has(hash));
    return {
      peer,
      browser: browser ?? null,
      isForwarded: FORWARDED_FIELDS.some((name) => headers.has(name)),
    };
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
function cookieName(headers: Headers, purpose = ""): string {
  const port = /:(\d{1,5})$/.exec(headers.get("host") ?? "")?.[1];
  return `keywheel${purpose}${port === undefined ? "" : `_${port}`}`;
}

/**
 * A browser sends one; pages of other ports may plant others before it, one for each path and each part of the host's
 * name. They must not hide it, nor make us hash thousands.
 */
const MOST_SESSION_TOKENS = 64;

function tokensOf(headers: Headers, purpose = ""): string[] {
  const name = cookieName(headers, purpose);
  const pairs = (headers.get("cookie") ?? "").split(";").map((pair) => pair.trim());
  return pairs
    .filter((pair) => pair.startsWith(`${name}=`))
    .slice(0, MOST_SESSION_TOKENS)
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
// Whoever guesses is told to wait (429), nobody is held. Two bounds: each network for itself, doubling to a minute; and
// all networks together, for guesses that come from everywhere. So that nobody can keep the operator out:
// - a browser from which the right password came before has a place of its own, whatever its network does;
// - who comes to this machine through a reverse proxy is not taken for who comes from it directly;
// - the second bound does not hold for this machine and for networks from which the right password came before;
// - networks that have not guessed lately have a budget of their own, which those that have cannot use up.

/** Who sends a password. */
export interface Guesser {
  /** Address of the socket's other end; null: a unix socket. */
  peer: string | null;
  /** Names a browser from which the right password came before; null: it is none. */
  browser: string | null;
  /** It says that it came through a reverse proxy. */
  isForwarded: boolean;
}

/** Wrong passwords that cost nothing yet: people mistype. */
const FREE_FAILURES = 2;
const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 60_000;
/** A network that has not failed for so long begins anew. */
const FORGET_AFTER_MS = HOUR_MS;

/** Guesses of strangers together: so many at once, and then one each time. */
const GUESS_BURST = 60;
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
  /** Guesses of strangers, the first ones of a network and all later ones. */
  readonly #firstGuesses = new GuessBudget();
  readonly #laterGuesses = new GuessBudget();

  /** How long to wait before the next attempt; 0: it may try. */
  waitMs(guesser: Guesser, now: number): number {
    const place = placeOf(guesser);
    const failures = this.#failuresAt(place, now);
    const ownMs = failures === null ? 0 : failures.at + delayMs(failures.count) - now;
    const budget = this.#budgetOf(place, now);
    return Math.max(0, ownMs, budget === null ? 0 : budget.waitMs(now));
  }

  failed(guesser: Guesser, now: number): void {
    const place = placeOf(guesser);
    const count = this.#failuresAt(place, now)?.count ?? 0;
    this.#budgetOf(place, now)?.spend(now);
    this.#failures.delete(place); // so that it comes last
    this.#failures.set(place, { count: count + 1, at: now });
    keepNewest(this.#failures, MOST_NETWORKS);
  }

  succeeded(guesser: Guesser): void {
    const place = placeOf(guesser);
    this.#failures.delete(place);
    this.#known.delete(place);
    this.#known.add(place);
    keepNewest(this.#known, MOST_KNOWN);
  }

  /** How many networks are remembered. */
  get size(): number {
    return this.#failures.size + this.#known.size;
  }

  #failuresAt(place: string, now: number): Failures | null {
    const failures = this.#failures.get(place);
    return failures === undefined || now - failures.at > FORGET_AFTER_MS ? null : failures;
  }

  /** What a guess of a stranger is taken from; null: it is none. */
  #budgetOf(place: string, now: number): GuessBudget | null {
    if (place === THIS_MACHINE || place.startsWith(BROWSER) || this.#known.has(place)) return null;
    return this.#failuresAt(place, now) === null ? this.#firstGuesses : this.#laterGuesses;
  }
}

/** So many guesses at once, and then one each time. */
class GuessBudget {
  /** When it will be full again: each guess moves it on. */
  #fullAt = 0;

  waitMs(now: number): number {
    return Math.max(0, this.#fullAt - now - (GUESS_BURST - 1) * ONE_EVERY_MS);
  }

  spend(now: number): void {
    this.#fullAt = Math.max(this.#fullAt, now) + ONE_EVERY_MS;
  }
}

function delayMs(failures: number): number {
  if (failures <= FREE_FAILURES) return 0;
  return Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** (failures - FREE_FAILURES - 1));
}

const BROWSER = "browser ";

/** Who is taken for one. */
function placeOf({ peer, browser, isForwarded }: Guesser): string {
  if (browser !== null) return BROWSER + browser;
  const network = networkOf(peer);
  return isForwarded ? `${network}, through a proxy` : network;
}

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
