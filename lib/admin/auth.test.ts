import { describe, expect, test } from "bun:test";
import { HOUR_MS } from "../core/clock.ts";
import { LoginThrottle, networkOf } from "./auth.ts";

const HERE = "198.51.100.7";

/** The waits after each of `count` wrong passwords in a row, each sent as soon as it may be. */
function waitsOf(attempts: LoginThrottle, peer: string | null, count: number, from = 0): number[] {
  const waits: number[] = [];
  let now = from;
  for (let attempt = 0; attempt < count; attempt += 1) {
    attempts.failed(peer, now);
    waits.push(attempts.waitMs(peer, now));
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
      expect(attempts.waitMs("203.0.113.9", now)).toBe(0);
      now += attempts.waitMs(HERE, now);
    }
    expect(now).toBeGreaterThan(8 * HOUR_MS);
  });

  test("from everywhere at once is bounded in all, but not this machine and not who was right before (P30)", () => {
    const attempts = new LoginThrottle();
    attempts.succeeded("203.0.113.9");
    const outcomes = { guessed: 0, held: 0 };
    for (let now = 0; now < HOUR_MS; now += 100) {
      const isHeld = attempts.waitMs(`10.${now % 251}.${(now / 100) % 256}.1`, now) > 0;
      outcomes[isHeld ? "held" : "guessed"] += 1;
      if (!isHeld) attempts.failed(`10.${now % 251}.${(now / 100) % 256}.1`, now);
      expect(attempts.waitMs("203.0.113.9", now) + attempts.waitMs("127.0.0.1", now)).toBe(0);
    }
    expect(outcomes.guessed).toBeLessThanOrEqual(60 + 600);
    expect(outcomes.held).toBeGreaterThan(30_000);
    expect(attempts.waitMs("192.0.2.77", HOUR_MS + 60_000)).toBe(0);
  });

  test("cannot fill the memory", () => {
    const attempts = new LoginThrottle();
    for (let peer = 0; peer < 5000; peer += 1) {
      attempts.failed(`10.0.${peer >> 8}.${peer & 255}`, peer);
      attempts.succeeded(`10.1.${peer >> 8}.${peer & 255}`);
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
