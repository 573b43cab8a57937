/**
 * How long somebody who guesses passwords must wait. Pure: `now` is given.
 *
 * Whoever guesses is told to wait (429), nobody is held. Two bounds: each network for itself, doubling to a minute;
 * and all networks together, for guesses that come from everywhere. The second does not hold for this machine and
 * for networks from which the right password came before, so strangers cannot keep the operator out; and one
 * network alone, or a few, never get so far as to use it up.
 */
import { HOUR_MS } from "../core/clock.ts";
import { isLoopback } from "../http/client-auth.ts";

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
    dropFirst(this.#failures, MOST_NETWORKS);
    if (network !== THIS_MACHINE && !this.#known.has(network)) {
      this.#fullAt = Math.max(this.#fullAt, now) + ONE_EVERY_MS;
    }
  }

  succeeded(peer: string | null): void {
    const network = networkOf(peer);
    this.#failures.delete(network);
    this.#known.delete(network);
    this.#known.add(network);
    dropFirst(this.#known, MOST_KNOWN);
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

function dropFirst(from: Map<string, unknown> | Set<string>, most: number): void {
  for (const key of from.keys()) {
    if (from.size <= most) return;
    from.delete(key);
  }
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
