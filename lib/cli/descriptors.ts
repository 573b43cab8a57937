/**
 * Keeps file descriptors free (P44). Whoever opens connections and says nothing costs a descriptor each, for as long as
 * the runtime's own idle time; where they run out, its loop that accepts connections spins, and nothing goes out.
 *
 * So it is looked twice a second whether some can still be had, and more often as long as there are none. If not, the
 * newest connections of clients without a request are closed, and then those whose request has not come to its end. The
 * runtime has no call for that: they are found by their numbers, and shut down by the C library. Where that cannot be
 * called (a system without writable and executable memory), they end by the idle time, and requests meanwhile get our
 * 503.
 */
import type { CancelTimer, Clock } from "../core/clock.ts";
import type { Log } from "../core/events.ts";

/** A request in flight, by the port of its client. */
export interface RequestOnPort {
  readonly port: number;
  /** Its body has not come whole. */
  readonly isReceiving: boolean;
}

/** A socket of this process that a client has connected to. */
export interface ClientSocket {
  readonly descriptor: number;
  /** Of the client. */
  readonly port: number;
  /** A number that grows with each socket of the machine. */
  readonly inode: number;
}

/** Which connections are closed to have `wanted` descriptors back, in this order. Pure. */
export function connectionsToClose(
  sockets: readonly ClientSocket[],
  requests: readonly RequestOnPort[],
  wanted: number,
): readonly ClientSocket[] {
  const receiving = new Set(requests.filter((it) => it.isReceiving).map(({ port }) => port));
  const busy = new Set(requests.filter((it) => !it.isReceiving).map(({ port }) => port));
  const newestFirst = sockets.filter(({ port }) => !busy.has(port)).sort((a, b) => b.inode - a.inode);
  const idle = newestFirst.filter(({ port }) => !receiving.has(port));
  const coming = newestFirst.filter(({ port }) => receiving.has(port));
  return [...idle, ...coming].slice(0, wanted);
}

const CHECK_MS = 500;
/** The next ones may wait already to be accepted. */
const CHECK_AGAIN_MS = 50;
/** So often it is told at most. */
const TELL_EVERY_MS = 1000;
/** At least so many must be left. */
const SPARE = 32;
/** Of the connections so many are closed at once: a sixteenth, so that this need not be done for each new one. */
const CLOSED_SHARE = 1 / 16;
/** More than any process has. */
const MOST_DESCRIPTORS = 1024 * 1024;

export interface Guarded {
  /** Where clients connect to. */
  readonly port: number;
  requests(): readonly RequestOnPort[];
  readonly clock: Clock;
  readonly log: Log;
}

/** Begins to look. Returns what ends it. */
export async function guardDescriptors({ port, requests, clock, log }: Guarded): Promise<CancelTimer> {
  const { closeSync, fstatSync, openSync, readFileSync } = await import("node:fs");
  const limits = readFileSync("/proc/self/limits", "latin1");
  const limit = Math.min(Number(/^Max open files\s+(\d+)/m.exec(limits)?.[1] ?? Infinity), MOST_DESCRIPTORS);
  let library: Promise<Sockets> | null = null;
  let cancel: CancelTimer = () => {};
  let closedUntold = 0;
  let toldAt = -Infinity;

  function hasSpare(): boolean {
    const opened: number[] = [];
    try {
      while (opened.length < SPARE) opened.push(openSync("/dev/null", "r"));
      return true;
    } catch {
      return false;
    } finally {
      for (const descriptor of opened) closeSync(descriptor);
    }
  }

  async function look(): Promise<void> {
    const closed = hasSpare() ? 0 : closeSome(await (library ??= socketsByLibrary()));
    cancel = clock.after(closed > 0 ? CHECK_AGAIN_MS : CHECK_MS, () => void look());
  }

  /** Without a new descriptor: perhaps there is none. Returns how many it closed. */
  function closeSome(sockets: Sockets): number {
    const clients: ClientSocket[] = [];
    for (let descriptor = 0; descriptor < limit; descriptor += 1) {
      const ports = sockets.portsOf(descriptor);
      if (ports?.own === port)
        clients.push({ descriptor, port: ports.other, inode: fstatSync(descriptor).ino });
    }
    const wanted = Math.max(2 * SPARE, Math.ceil(clients.length * CLOSED_SHARE));
    const closed = connectionsToClose(clients, requests(), wanted);
    for (const { descriptor } of closed) sockets.shutDown(descriptor);
    closedUntold += closed.length;
    if (clock.now() < toldAt + TELL_EVERY_MS) return closed.length;
    toldAt = clock.now();
    log.line("warn", "descriptors_ran_out", {
      closed: closedUntold,
      connections: clients.length,
      hint: "more clients are connected than this process may have open files: raise the limit (LimitNOFILE=, ulimit -n)",
    });
    closedUntold = 0;
    return closed.length;
  }

  cancel = clock.after(CHECK_MS, () => void look());
  return () => cancel();
}

/** What is asked of the C library. */
interface Sockets {
  /** The ports of a connection; null: the descriptor is none of a connection over IP. */
  portsOf(descriptor: number): { own: number; other: number } | null;
  /** Ends a connection both ways. The runtime closes it then. */
  shutDown(descriptor: number): void;
}

/** Names of the C library, glibc's and musl's. */
const LIBRARIES = ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1"];
const SHUT_BOTH = 2;
/** Long enough for the address of any family. */
const ADDRESS_BYTES = 128;
/** The numbers of `AF_INET` and `AF_INET6` on Linux. */
const IP_FAMILIES: readonly number[] = [2, 10];

async function socketsByLibrary(): Promise<Sockets> {
  const { dlopen } = await import("bun:ffi");
  const address = new Uint8Array(ADDRESS_BYTES);
  const length = new Uint32Array(1);
  for (const name of LIBRARIES) {
    try {
      const { symbols } = dlopen(name, {
        getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
        getpeername: { args: ["i32", "ptr", "ptr"], returns: "i32" },
        shutdown: { args: ["i32", "i32"], returns: "i32" },
      });
      const portBy = (ask: typeof symbols.getsockname, descriptor: number): number | null => {
        length[0] = ADDRESS_BYTES;
        if (ask(descriptor, address, length) !== 0) return null;
        const family = address[0]! | (address[1]! << 8);
        return IP_FAMILIES.includes(family) ? (address[2]! << 8) | address[3]! : null;
      };
      return {
        portsOf(descriptor) {
          const own = portBy(symbols.getsockname, descriptor);
          const other = own === null ? null : portBy(symbols.getpeername, descriptor);
          return own === null || other === null ? null : { own, other };
        },
        shutDown: (descriptor) => void symbols.shutdown(descriptor, SHUT_BOTH),
      };
    } catch {
      continue; // another C library, or none may be called
    }
  }
  return { portsOf: () => null, shutDown: () => {} };
}
