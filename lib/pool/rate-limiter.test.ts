import { describe, expect, test } from "bun:test";

import { SECOND_MS, MINUTE_MS } from "../core/clock.ts";
import { AdaptiveLimit } from "./adaptive-limit.ts";
import { TokenBucket } from "./token-bucket.ts";
import { AFTER_AN_EVENT, RateLimiter } from "./rate-limiter.ts";

type Sentence = string;

const NOW = Date.UTC(2026, 10, 21, 12);

/** What a provider lets through, by when a request arrives there. */
interface Limit {
  /** Ms until one more fits; 0: it is let in. */
  asks(at: number): number;
  ends(): void;
}

function window(requests: number, windowMs: number): Limit {
  const times: number[] = [];
  return {
    asks(at) {
      while (times.length > 0 && times[0]! <= at - windowMs) times.shift();
      if (times.length >= requests) return times[0]! + windowMs - at;
      times.push(at);
      return 0;
    },
    ends() {},
  };
}

function bucket(capacity: number, perMinute: number): Limit {
  let tokens = capacity;
  let filledAt = NOW;
  return {
    asks(at) {
      tokens = Math.min(capacity, tokens + ((at - filledAt) * perMinute) / MINUTE_MS);
      filledAt = at;
      if (tokens < 1) return ((1 - tokens) * MINUTE_MS) / perMinute;
      tokens -= 1;
      return 0;
    },
    ends() {},
  };
}

function atOnce(most: number): Limit {
  let underWay = 0;
  return {
    asks() {
      if (underWay >= most) return SECOND_MS;
      underWay += 1;
      return 0;
    },
    ends() {
      underWay -= 1;
    },
  };
}

const WAY_MS = 50;
const ANSWER_BEGINS_MS = 800;
const ANSWER_MS = 4000;

/** One key that is asked as soon as its pacer allows, for some hours; answers take four seconds. */
function drive(limit: Limit, names: "rests" | "nothing", hours: number) {
  const limiter = new RateLimiter({ kind: "learnt" });
  const events: { at: number; happens: () => void }[] = [];
  const after = (at: number, happens: () => void) => {
    let place = events.length;
    while (place > 0 && events[place - 1]!.at > at) place -= 1;
    events.splice(place, 0, { at, happens });
  };
  let now = NOW;
  let restsUntil = 0;
  let served = 0;
  let refused = 0;
  const ask = () => {
    const sentAt = now;
    limiter.sends(now);
    after(now + WAY_MS, () => {
      const waitMs = limit.asks(now);
      if (waitMs > 0) return after(now + WAY_MS, () => isRefused(sentAt, waitMs));
      after(now + ANSWER_BEGINS_MS, () => limiter.bears(now));
      after(now + ANSWER_MS, () => {
        limit.ends();
        served += 1;
        limiter.ends({ hadBegun: true }, now);
      });
    });
  };
  const isRefused = (sentAt: number, waitMs: number) => {
    refused += 1;
    limiter.ends({ hadBegun: false }, now);
    limiter.uncounts(sentAt);
    const namedMs = names === "rests" ? Math.ceil(waitMs / SECOND_MS) * SECOND_MS : null;
    const restMs = namedMs ?? MINUTE_MS;
    restsUntil = Math.max(restsUntil, now + restMs);
    limiter.refused({ sentAt, namedMs, restMs, reason: "rate_limit" }, now);
  };
  // Whoever asks looks ten times a second, and sends one at a time.
  for (now = NOW; now < NOW + hours * 60 * MINUTE_MS; now += 100) {
    const until = now;
    while (events.length > 0 && events[0]!.at <= until) {
      const event = events.shift()!;
      now = event.at;
      event.happens();
    }
    now = until;
    if (Math.max(limiter.nextAt(now), restsUntil) <= now && limiter.inFlight < 30) ask();
  }
  return { limiter, served, refusedShare: refused / (served + refused) };
}

describe("a limiter that knows nothing", () => {
  test.each<
    [Sentence, limit: () => Limit, names: "rests" | "nothing", perHour: number, least: number, most: number]
  >([
    [
      "finds a window of a minute by the rest that is named",
      () => window(40, MINUTE_MS),
      "rests",
      2400,
      0.97,
      0.01,
    ],
    [
      "finds a window of a minute where nothing is named",
      () => window(40, MINUTE_MS),
      "nothing",
      2400,
      0.92,
      0.01,
    ],
    ["finds a window of five requests", () => window(5, MINUTE_MS), "rests", 300, 0.95, 0.03],
    ["finds a window of two seconds by its rests", () => window(4, 2 * SECOND_MS), "rests", 7200, 0.9, 0.01],
    ["finds the pace of a bucket by its rests", () => bucket(10, 40), "rests", 2400, 0.97, 0.015],
    ["finds the pace of a slow bucket by its rests", () => bucket(3, 4), "rests", 240, 0.95, 0.05],
    ["finds the pace of a bucket where nothing is named", () => bucket(10, 40), "nothing", 2400, 0.88, 0.01],
    [
      "finds how many may be under way by refusals that name a second",
      () => atOnce(5),
      "rests",
      4500,
      0.9,
      0.01,
    ],
    ["finds how many may be under way where nothing is named", () => atOnce(5), "nothing", 4500, 0.9, 0.01],
  ])("%s", (_, limit, names, perHour, least, most) => {
    const { served, refusedShare } = drive(limit(), names, 3);
    expect(served / (3 * perHour)).toBeGreaterThanOrEqual(least);
    expect(refusedShare).toBeLessThanOrEqual(most);
  });

  test("allows anything at once", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    for (let nth = 0; nth < 1000; nth++) {
      expect(limiter.nextAt(NOW)).toBeLessThanOrEqual(NOW);
      limiter.sends(NOW);
    }
    expect(limiter.perMinute).toBeNull();
  });

  test("takes all refusals of one instant for one burst", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    for (let nth = 0; nth < 20; nth++) limiter.sends(NOW);
    for (let nth = 0; nth < 4; nth++) limiter.bears(NOW);
    for (let nth = 0; nth < 16; nth++) {
      limiter.ends({ hadBegun: false }, NOW);
      limiter.uncounts(NOW);
      limiter.refused({ sentAt: NOW, namedMs: null, restMs: 2000, reason: "rate_limit" }, NOW);
    }
    // Four were let in: that many under way, or in two seconds, and no fewer.
    for (let nth = 0; nth < 4; nth++) limiter.ends({ hadBegun: true }, NOW + 2100);
    let sent = 0;
    for (; limiter.nextAt(NOW + 2200) <= NOW + 2200 && sent < 20; sent++) limiter.sends(NOW + 2200);
    expect(sent).toBe(4);
  });
});

describe("a limiter that is told a concurrency limit", () => {
  test.each<[Sentence, reason: "rate_limit" | "concurrency", namedMs: number | null]>([
    ["in words lets no more be under way than passed", "concurrency", null],
    ["by a rest of no time at all lets no more be under way than passed", "rate_limit", 0],
  ])("%s", (_, reason, namedMs) => {
    const limiter = new RateLimiter({ kind: "learnt" });
    for (let nth = 0; nth < 4; nth++) limiter.sends(NOW);
    limiter.ends({ hadBegun: false }, NOW + 50);
    limiter.uncounts(NOW);
    limiter.refused({ sentAt: NOW, namedMs, restMs: 1000, reason }, NOW + 50);
    expect(limiter.nextAt(NOW + 2000)).toBe(AFTER_AN_EVENT);
    limiter.ends({ hadBegun: true }, NOW + 2000);
    expect(limiter.nextAt(NOW + 2000)).toBeLessThanOrEqual(NOW + 2000);
    expect(limiter.perMinute).toBeNull();
  });
});

describe("a limiter with RPM=n", () => {
  test("never lets more than n go out in any 60 s", () => {
    const limiter = new RateLimiter({ kind: "fixed", perMinute: 7 });
    const sent: number[] = [];
    for (let now = NOW; now < NOW + 20 * MINUTE_MS; now += 70) {
      if (limiter.nextAt(now) > now) continue;
      limiter.sends(now);
      sent.push(now);
    }
    for (const at of sent)
      expect(sent.filter((other) => other > at - MINUTE_MS && other <= at).length).toBeLessThanOrEqual(7);
    expect(sent.length).toBeGreaterThanOrEqual(7 * 20);
  });
});

describe("a limiter with RPM=n whose provider limits how many are under way", () => {
  // Three refusals with as many under way were taken for that limit, and the number that was set was forgotten.
  test("keeps to n all the same", () => {
    const limiter = new RateLimiter({ kind: "fixed", perMinute: 12 });
    let now = NOW;
    for (const others of [3, 3, 3, 3, 3, 3, 3]) {
      now += 20 * MINUTE_MS;
      for (let nth = 0; nth < others; nth++) {
        limiter.sends(now);
        limiter.bears(now + 1);
      }
      limiter.sends(now + 2);
      limiter.ends({ hadBegun: false }, now + 3);
      limiter.refused({ sentAt: now + 2, namedMs: 1000, restMs: 1000, reason: "rate_limit" }, now + 3);
      for (let nth = 0; nth < others; nth++) limiter.ends({ hadBegun: true }, now + 4);
    }
    now += 20 * MINUTE_MS;
    let sent = 0;
    for (; sent < 100 && limiter.nextAt(now) <= now; sent++) {
      limiter.sends(now);
      limiter.bears(now);
      limiter.ends({ hadBegun: true }, now);
    }
    expect([limiter.concurrency.isKnown, sent]).toEqual([true, 12]);
  });

  test("remembers more than n once the number is taken back", () => {
    const limiter = new RateLimiter({ kind: "fixed", perMinute: 10 });
    limiter.follow({ kind: "learnt" });
    for (let nth = 0; nth < 40; nth++) {
      limiter.sends(NOW + nth * 100);
      limiter.bears(NOW + nth * 100);
      limiter.ends({ hadBegun: true }, NOW + nth * 100);
    }
    limiter.sends(NOW + 4000);
    limiter.ends({ hadBegun: false }, NOW + 4050);
    limiter.uncounts(NOW + 4000);
    const rest = { namedMs: null, restMs: MINUTE_MS, reason: "rate_limit" } as const;
    limiter.refused({ sentAt: NOW + 4000, ...rest }, NOW + 4050);
    expect(limiter.perMinute).toBe(40);
  });
});

describe("a limiter that is told what is left", () => {
  const minute = { span: "minute", scope: "key", kind: "window" } as const;

  test("waits for the reset once nothing is left, others under way counted", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    limiter.announced({ ...minute, limit: 30, remaining: 3, resetAt: NOW + 20_000 }, 1, NOW);
    for (let nth = 0; nth < 2; nth++) {
      expect(limiter.nextAt(NOW)).toBeLessThanOrEqual(NOW);
      limiter.sends(NOW);
    }
    expect(limiter.nextAt(NOW)).toBeWithin(NOW + 20_000, NOW + 21_000);
    expect(limiter.nextAt(NOW + 20_300)).toBeLessThanOrEqual(NOW + 20_300);
  });

  test("keeps to the pace at which an announced bucket fills", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    // Ten fit, four are left, and the six will be there again in nine seconds: one in 1.5 s.
    limiter.announced({ ...minute, kind: "leaky", limit: 10, remaining: 4, resetAt: NOW + 9000 }, 0, NOW);
    let sent = 0;
    for (; limiter.nextAt(NOW) <= NOW && sent < 20; sent++) limiter.sends(NOW);
    expect(sent).toBe(4);
    expect(limiter.nextAt(NOW)).toBe(NOW + 1500);
  });
});

describe("a limiter to which a window of two seconds is announced as if it were a bucket", () => {
  // A client saw 60 requests take 40 s where 10 s were enough: one used of four looked like one request in 2 s.
  test("goes by the pace at which an empty one fills", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    const budget = { span: "minute", scope: "key", kind: "leaky", limit: 4 } as const;
    for (const [nth, remaining] of [3, 2, 1, 0].entries()) {
      limiter.sends(NOW + nth);
      limiter.announced({ ...budget, remaining, resetAt: NOW + 2000 }, 0, NOW + nth);
    }
    for (let now = NOW + 2000; now < NOW + 12_000; now += 10) {
      if (limiter.nextAt(now) > now) continue;
      limiter.sends(now);
      limiter.announced({ ...budget, remaining: 3, resetAt: now + 2000 }, 0, now);
    }
    expect(limiter.nextAt(NOW + 12_000)).toBeLessThanOrEqual(NOW + 12_500);
  });
});

describe("a limiter after a restart", () => {
  test.each<[Sentence, limit: () => Limit, names: "rests" | "nothing"]>([
    ["keeps to a window that it had found", () => window(40, MINUTE_MS), "rests"],
    ["keeps to a pace that it had found", () => bucket(10, 40), "rests"],
    ["keeps to a rate that it had found by trial", () => window(40, MINUTE_MS), "nothing"],
    ["keeps to how many may be under way", () => atOnce(5), "nothing"],
  ])("%s", (_, limit, names) => {
    const { limiter } = drive(limit(), names, 1);
    const again = new RateLimiter({ kind: "learnt" });
    again.restore(limiter.state(), NOW);
    expect(again.perMinute).toBe(limiter.perMinute);
    const mostAtOnce = (one: RateLimiter) => {
      let sent = 0;
      for (; one.nextAt(NOW) <= NOW && sent < 100; sent++) one.sends(NOW);
      return sent;
    };
    expect(mostAtOnce(again)).toBeWithin(1, 42);
  });
});

describe("whether a key is near a limit of its own", () => {
  test("is said of one that was asked a moment before, or often in this minute", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    expect(limiter.isNearLimit(NOW, 10)).toBe(false);
    limiter.sends(NOW);
    expect(limiter.isNearLimit(NOW + 100, 10)).toBe(true);
    expect(limiter.isNearLimit(NOW + 3000, 10)).toBe(false);
    for (let nth = 1; nth < 10; nth++) limiter.sends(NOW + 3000 * nth);
    expect(limiter.isNearLimit(NOW + 30_000, 10)).toBe(true);
  });
});

describe("a drip", () => {
  test("lets a burst go out after a pause, then one at a time", () => {
    const drip = new TokenBucket();
    drip.follow(1500, 3);
    const sent: number[] = [];
    for (let now = NOW; now < NOW + 6000; now += 100) {
      for (; drip.nextAt() <= now; drip.sends(now)) sent.push(now - NOW);
    }
    expect(sent).toEqual([0, 0, 0, 1500, 3000, 4500]);
  });

  test("goes on from what is known to fit, and at another pace from the same instant", () => {
    const drip = new TokenBucket();
    drip.follow(1000, 5);
    drip.knows(NOW + 700);
    expect(drip.nextAt()).toBe(NOW + 700);
    drip.follow(2000, 2);
    expect(drip.nextAt()).toBe(NOW + 700);
    drip.sends(NOW + 700);
    expect(drip.nextAt()).toBe(NOW + 2700);
  });
});

describe("a bound found out by refusals", () => {
  const held = (bound: AdaptiveLimit, now: number) => bound.presses(now + 3 * MINUTE_MS);

  test("is what was let through, corrected by the later refusals of one burst, and not by those from before", () => {
    const bound = new AdaptiveLimit();
    bound.refused(19, NOW - 50, MINUTE_MS, NOW);
    bound.refused(18, NOW - 50, MINUTE_MS, NOW + 1);
    bound.refused(4, NOW - 40, MINUTE_MS, NOW + 2);
    expect(bound.value).toBe(4);
  });

  test("is raised by growing steps where nothing is known above it, and only after it has held", () => {
    const bound = new AdaptiveLimit();
    bound.refused(12, NOW - 50, MINUTE_MS, NOW);
    expect(bound.presses(NOW + MINUTE_MS)).toBe(false);
    const levels = [0, 3, 6, 9].map((minutes) => {
      expect(held(bound, NOW + minutes * MINUTE_MS)).toBe(true);
      return bound.value;
    });
    expect(levels).toEqual([13, 16, 25, 52]);
    expect(bound.proven).toBe(25);
  });

  test("goes back to what held when a trial is refused, and halves the way from there", () => {
    const bound = new AdaptiveLimit();
    bound.refused(12, NOW - 50, MINUTE_MS, NOW);
    for (const minutes of [0, 3, 6, 9]) held(bound, NOW + minutes * MINUTE_MS);
    const refusedAt = NOW + 15 * MINUTE_MS;
    bound.refused(40, refusedAt - 50, MINUTE_MS, refusedAt);
    expect(bound.value).toBe(25);
    expect(held(bound, refusedAt)).toBe(true);
    expect(bound.value).toBe(38);
  });
});
