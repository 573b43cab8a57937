import { describe, expect, test } from "bun:test";
import { HOUR_MS } from "../core/clock.ts";
import { type Guesser, LoginThrottle, networkOf } from "./auth.ts";

const from = (peer: string | null, changes: Partial<Guesser> = {}): Guesser => ({
  peer,
  browser: null,
  isForwarded: false,
  ...changes,
});
const HERE = from("198.51.100.7");

/** The waits after each of `count` wrong passwords in a row, each sent as soon as it may be. */
function waitsOf(attempts: LoginThrottle, guesser: Guesser, count: number, begin = 0): number[] {
  const waits: number[] = [];
  let now = begin;
  for (let attempt = 0; attempt < count; attempt += 1) {
    attempts.failed(guesser, now);
    waits.push(attempts.waitMs(guesser, now));
    now += waits.at(-1) ?? 0;
  }
  return waits;
}

describe("whoever sends wrong passwords", () => {
  test("waits ever longer, up to a minute (P30)", () => {
    const sec = waitsOf(new LoginThrottle(), HERE, 11).map((ms) => ms / 1000);
    expect(sec).toEqual([0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
  });

  test("begins anew after the right one, and after an hour without trying", () => {
    const attempts = new LoginThrottle();
    waitsOf(attempts, HERE, 8);
    attempts.succeeded(HERE);
    expect(waitsOf(attempts, HERE, 4)).toEqual([0, 0, 1000, 2000]);
    expect(waitsOf(attempts, HERE, 3, 2 * HOUR_MS)).toEqual([0, 0, 1000]);
  });

  test("keeps nobody out who comes from elsewhere, however long it goes on (P30)", () => {
    const attempts = new LoginThrottle();
    let now = 0;
    for (let attempt = 0; attempt < 500; attempt += 1) {
      attempts.failed(HERE, now);
      expect(attempts.waitMs(from("203.0.113.9"), now)).toBe(0);
      now += attempts.waitMs(HERE, now);
    }
    expect(now).toBeGreaterThan(8 * HOUR_MS);
  });

  test("from everywhere at once is bounded in all, but not this machine and not who was right before (P30)", () => {
    const attempts = new LoginThrottle();
    attempts.succeeded(from("203.0.113.9"));
    const outcomes = { guessed: 0, held: 0 };
    for (let now = 0; now < HOUR_MS; now += 100) {
      const isHeld = attempts.waitMs(from(`10.${now % 251}.${(now / 100) % 256}.1`), now) > 0;
      outcomes[isHeld ? "held" : "guessed"] += 1;
      if (!isHeld) attempts.failed(from(`10.${now % 251}.${(now / 100) % 256}.1`), now);
      expect(attempts.waitMs(from("203.0.113.9"), now) + attempts.waitMs(from("127.0.0.1"), now)).toBe(0);
    }
    expect(outcomes.guessed).toBeLessThanOrEqual(60 + 600);
    expect(outcomes.held).toBeGreaterThan(30_000);
    expect(attempts.waitMs(from("192.0.2.77"), HOUR_MS + 60_000)).toBe(0);
  });

  const rows: [says: string, attacker: Guesser, operator: Guesser][] = [
    ["a browser that was in before, in the same network", HERE, from(HERE.peer, { browser: "b1" })],
    [
      "a browser that was in before, behind the same reverse proxy",
      from("127.0.0.1", { isForwarded: true }),
      from("127.0.0.1", { isForwarded: true, browser: "b1" }),
    ],
    [
      "a command on this machine, by somebody behind its reverse proxy",
      from("127.0.0.1", { isForwarded: true }),
      from("127.0.0.1"),
    ],
    [
      "a command at its socket, by somebody behind its reverse proxy",
      from("::1", { isForwarded: true }),
      from(null),
    ],
    [
      "a browser, by another one that was in before",
      from(HERE.peer, { browser: "b2" }),
      from(HERE.peer, { browser: "b1" }),
    ],
    [
      "another network, by one whose browser was in before",
      from(HERE.peer, { browser: "b2" }),
      from("203.0.113.9"),
    ],
  ];
  test.each(rows)("P30 cannot keep out %s", (_, attacker, operator) => {
    const attempts = new LoginThrottle();
    for (let now = 0; now < HOUR_MS; now += 500) {
      if (attempts.waitMs(attacker, now) === 0) attempts.failed(attacker, now);
      expect(attempts.waitMs(operator, now)).toBe(0);
    }
    expect(attempts.waitMs(attacker, HOUR_MS)).toBeGreaterThan(0);
  });

  test("P30 from many networks cannot keep out one that has not guessed", () => {
    const attempts = new LoginThrottle();
    const attackers = Array.from({ length: 50 }, (_, index) => from(`10.0.0.${index}`));
    for (let now = 0; now < HOUR_MS; now += 500) {
      for (const attacker of attackers)
        if (attempts.waitMs(attacker, now) === 0) attempts.failed(attacker, now);
      if (now > 600_000) expect(attempts.waitMs(from("203.0.113.9"), now)).toBe(0);
    }
  });

  test("cannot fill the memory", () => {
    const attempts = new LoginThrottle();
    for (let peer = 0; peer < 5000; peer += 1) {
      attempts.failed(from(`10.0.${peer >> 8}.${peer & 255}`), peer);
      attempts.succeeded(from(`10.1.${peer >> 8}.${peer & 255}`));
    }
    expect(attempts.size).toBe(1024 + 64);
  });
});

describe("for one are taken", () => {
  const rows: [says: string, one: string | null, other: string | null, areOne: boolean][] = [
    ["the addresses of this machine", "127.0.0.1", "127.9.9.9", true],
    ["loopback and a unix socket", "::1", null, true],
    ["an IPv4 address and its mapped form", "192.0.2.1", "::ffff:192.0.2.1", true],
    ["not two IPv4 addresses", "192.0.2.1", "192.0.2.2", false],
    ["the addresses of one IPv6 network", "2001:db8::1", "2001:db8:0:0:ffff:1:2:3", true],
    ["one written long and short", "2001:0db8:0000:0001::", "2001:db8:0:1:2::", true],
    ["not neighbouring IPv6 networks", "2001:db8:0:1::1", "2001:db8:0:2::1", false],
    ["a link's address with and without its zone", "fe80::1%eth0", "fe80::1", true],
  ];
  test.each(rows)("%s", (_, one, other, areOne) => {
    expect(networkOf(one) === networkOf(other)).toBe(areOne);
  });
});
