import { describe, expect, test } from "bun:test";

import { SECOND_MS, MINUTE_MS } from "../core/clock.ts";
import { AFTER_AN_EVENT, RateLimiter } from "./rate-limiter.ts";
import { SlowStart } from "./slow-start.ts";

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

/** One key that is asked as soon as its limiter allows, for some hours; answers take four seconds. */
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
    limiter.onSent(now);
    after(now + WAY_MS, () => {
      const waitMs = limit.asks(now);
      if (waitMs > 0) return after(now + WAY_MS, () => isRefused(sentAt, waitMs));
      after(now + ANSWER_BEGINS_MS, () => limiter.onResponseStarted(now));
      after(now + ANSWER_MS, () => {
        limit.ends();
        served += 1;
        limiter.onEnded({ hasStarted: true }, now);
      });
    });
  };
  const isRefused = (sentAt: number, waitMs: number) => {
    refused += 1;
    limiter.onEnded({ hasStarted: false }, now);
    limiter.refund(sentAt);
    const namedMs = names === "rests" ? Math.ceil(waitMs / SECOND_MS) * SECOND_MS : null;
    const restMs = namedMs ?? MINUTE_MS;
    restsUntil = Math.max(restsUntil, now + restMs);
    limiter.onRefused({ sentAt, namedMs, restMs, reason: "rate_limit" }, now);
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
    if (restsUntil > now || limiter.inFlight >= 30) continue;
    if (limiter.readyAt(now) > now) limiter.onBlocked(now);
    if (limiter.readyAt(now) <= now) ask();
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
      expect(limiter.readyAt(NOW)).toBeLessThanOrEqual(NOW);
      limiter.onSent(NOW);
    }
    expect(limiter.perMinute).toBeNull();
  });

  test("takes all refusals of one instant for one burst", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    for (let nth = 0; nth < 20; nth++) limiter.onSent(NOW);
    for (let nth = 0; nth < 4; nth++) limiter.onResponseStarted(NOW);
    for (let nth = 0; nth < 16; nth++) {
      limiter.onEnded({ hasStarted: false }, NOW);
      limiter.refund(NOW);
      limiter.onRefused({ sentAt: NOW, namedMs: null, restMs: 2000, reason: "rate_limit" }, NOW);
    }
    // Four were let in: that many under way, or in two seconds, and no fewer.
    for (let nth = 0; nth < 4; nth++) limiter.onEnded({ hasStarted: true }, NOW + 2100);
    let sent = 0;
    for (; limiter.readyAt(NOW + 2200) <= NOW + 2200 && sent < 20; sent++) limiter.onSent(NOW + 2200);
    expect(sent).toBe(4);
  });
});

describe("a limiter that is told a concurrency limit", () => {
  test.each<[Sentence, reason: "rate_limit" | "concurrency", namedMs: number | null]>([
    ["in words lets no more be under way than passed", "concurrency", null],
    ["by a rest of no time at all lets no more be under way than passed", "rate_limit", 0],
  ])("%s", (_, reason, namedMs) => {
    const limiter = new RateLimiter({ kind: "learnt" });
    for (let nth = 0; nth < 4; nth++) limiter.onSent(NOW);
    limiter.onEnded({ hasStarted: false }, NOW + 50);
    limiter.refund(NOW);
    limiter.onRefused({ sentAt: NOW, namedMs, restMs: 1000, reason }, NOW + 50);
    expect(limiter.readyAt(NOW + 2000)).toBe(AFTER_AN_EVENT);
    limiter.onEnded({ hasStarted: true }, NOW + 2000);
    expect(limiter.readyAt(NOW + 2000)).toBeLessThanOrEqual(NOW + 2000);
    expect(limiter.perMinute).toBeNull();
  });
});

describe("a limiter with RPM=n", () => {
  test("never lets more than n go out in any 60 s", () => {
    const limiter = new RateLimiter({ kind: "fixed", perMinute: 7 });
    const sent: number[] = [];
    for (let now = NOW; now < NOW + 20 * MINUTE_MS; now += 70) {
      if (limiter.readyAt(now) > now) continue;
      limiter.onSent(now);
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
        limiter.onSent(now);
        limiter.onResponseStarted(now + 1);
      }
      limiter.onSent(now + 2);
      limiter.onEnded({ hasStarted: false }, now + 3);
      limiter.onRefused({ sentAt: now + 2, namedMs: 1000, restMs: 1000, reason: "rate_limit" }, now + 3);
      for (let nth = 0; nth < others; nth++) limiter.onEnded({ hasStarted: true }, now + 4);
    }
    now += 20 * MINUTE_MS;
    let sent = 0;
    for (; sent < 100 && limiter.readyAt(now) <= now; sent++) {
      limiter.onSent(now);
      limiter.onResponseStarted(now);
      limiter.onEnded({ hasStarted: true }, now);
    }
    expect([limiter.concurrency.isKnown, sent]).toEqual([true, 12]);
  });

  test("remembers more than n once the number is taken back", () => {
    const limiter = new RateLimiter({ kind: "fixed", perMinute: 10 });
    limiter.follow({ kind: "learnt" });
    for (let nth = 0; nth < 40; nth++) {
      limiter.onSent(NOW + nth * 100);
      limiter.onResponseStarted(NOW + nth * 100);
      limiter.onEnded({ hasStarted: true }, NOW + nth * 100);
    }
    limiter.onSent(NOW + 4000);
    limiter.onEnded({ hasStarted: false }, NOW + 4050);
    limiter.refund(NOW + 4000);
    const rest = { namedMs: null, restMs: MINUTE_MS, reason: "rate_limit" } as const;
    limiter.onRefused({ sentAt: NOW + 4000, ...rest }, NOW + 4050);
    expect(limiter.perMinute).toBe(40);
  });
});

describe("a limiter that is told what is left", () => {
  const minute = { span: "minute", scope: "key", kind: "window" } as const;

  test("waits for the reset once nothing is left, others under way counted", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    limiter.onAnnounced({ ...minute, limit: 30, remaining: 3, resetAt: NOW + 20_000 }, 1, NOW);
    for (let nth = 0; nth < 2; nth++) {
      expect(limiter.readyAt(NOW)).toBeLessThanOrEqual(NOW);
      limiter.onSent(NOW);
    }
    expect(limiter.readyAt(NOW)).toBeWithin(NOW + 20_000, NOW + 21_000);
    expect(limiter.readyAt(NOW + 20_300)).toBeLessThanOrEqual(NOW + 20_300);
  });

  test("keeps to the pace at which an announced bucket fills", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    // Ten fit, four are left, and the six will be there again in nine seconds: one in 1.5 s.
    limiter.onAnnounced({ ...minute, kind: "leaky", limit: 10, remaining: 4, resetAt: NOW + 9000 }, 0, NOW);
    let sent = 0;
    for (; limiter.readyAt(NOW) <= NOW && sent < 20; sent++) limiter.onSent(NOW);
    expect(sent).toBe(4);
    expect(limiter.readyAt(NOW)).toBe(NOW + 1500);
  });
});

describe("a limiter to which a window of two seconds is announced as if it were a bucket", () => {
  // A client saw 60 requests take 40 s where 10 s were enough: one used of four looked like one request in 2 s.
  test("goes by the pace at which an empty one fills", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    const budget = { span: "minute", scope: "key", kind: "leaky", limit: 4 } as const;
    for (const [nth, remaining] of [3, 2, 1, 0].entries()) {
      limiter.onSent(NOW + nth);
      limiter.onAnnounced({ ...budget, remaining, resetAt: NOW + 2000 }, 0, NOW + nth);
    }
    for (let now = NOW + 2000; now < NOW + 12_000; now += 10) {
      if (limiter.readyAt(now) > now) continue;
      limiter.onSent(now);
      limiter.onAnnounced({ ...budget, remaining: 3, resetAt: now + 2000 }, 0, now);
    }
    expect(limiter.readyAt(NOW + 12_000)).toBeLessThanOrEqual(NOW + 12_500);
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
      for (; one.readyAt(NOW) <= NOW && sent < 100; sent++) one.onSent(NOW);
      return sent;
    };
    expect(mostAtOnce(again)).toBeWithin(1, 42);
  });
});

describe("whether a key is near a limit of its own", () => {
  test("is said of one that was asked a moment before, or often in this minute", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    expect(limiter.isNearLimit(NOW, 10)).toBe(false);
    limiter.onSent(NOW);
    expect(limiter.isNearLimit(NOW + 100, 10)).toBe(true);
    expect(limiter.isNearLimit(NOW + 3000, 10)).toBe(false);
    for (let nth = 1; nth < 10; nth++) limiter.onSent(NOW + 3000 * nth);
    expect(limiter.isNearLimit(NOW + 30_000, 10)).toBe(true);
  });
});

interface Together {
  readonly instances: number;
  readonly limit: number;
  /** Ms between two requests of an instance, and until news of it are heard. */
  readonly everyMs: number;
  readonly newsMs: number;
  /** Only the first sends. */
  readonly isOneSending?: boolean;
}

/** What each instance takes for the limit, when all have sent until they knew of one. */
function learnTogether({ instances, limit, everyMs, newsMs, isOneSending = false }: Together): number[] {
  const limiters = Array.from({ length: instances }, () => new RateLimiter({ kind: "learnt" }));
  const events: { at: number; happens: (now: number) => void }[] = [];
  const after = (at: number, happens: (now: number) => void) => events.push({ at, happens });
  const provider = window(limit, MINUTE_MS);
  const tell = (from: RateLimiter, now: number, hear: (other: RateLimiter, heardAt: number) => void) =>
    after(now + newsMs, (heardAt) => {
      for (const other of limiters) if (other !== from) hear(other, heardAt);
    });
  const tellCounted = (from: RateLimiter, now: number) => {
    if (!from.isRecounting(now)) return;
    tell(from, now, (other, heardAt) => other.hear(from.state(), heardAt));
  };
  const send = (limiter: RateLimiter, sentAt: number) => {
    limiter.onSent(sentAt);
    tell(limiter, sentAt, (other, heardAt) => {
      other.onSentElsewhere(heardAt, false);
      tellCounted(other, heardAt);
    });
    after(sentAt + 10, (arrivesAt) => {
      if (provider.asks(arrivesAt) === 0) return;
      after(arrivesAt + 10, (now) => {
        limiter.onEnded({ hasStarted: false }, now);
        limiter.refund(sentAt);
        limiter.onRefused({ sentAt, namedMs: null, restMs: MINUTE_MS, reason: "rate_limit" }, now);
        tell(limiter, now, (other, heardAt) => {
          other.hear(limiter.state(), heardAt);
          other.refundElsewhere(heardAt);
          tellCounted(other, heardAt);
        });
      });
    });
  };
  for (const [place, limiter] of limiters.entries())
    for (let nth = 0; nth < 60; nth++)
      after(NOW + nth * everyMs + place, (now) => {
        if (!limiter.rate.isKnown && (place === 0 || !isOneSending)) send(limiter, now);
      });
  while (events.length > 0) {
    const next = events.reduce((first, event) => (event.at < first.at ? event : first));
    events.splice(events.indexOf(next), 1);
    next.happens(next.at);
  }
  return limiters.map(({ rate }) => rate.value);
}

describe("P48 a limit that several instances meet", () => {
  test.each<[Sentence, Together]>([
    ["is the same for two", { instances: 2, limit: 30, everyMs: 20, newsMs: 30 }],
    ["is the same for three", { instances: 3, limit: 30, everyMs: 20, newsMs: 30 }],
    ["is the same for eight", { instances: 8, limit: 60, everyMs: 40, newsMs: 30 }],
    ["is the same where the news are slow", { instances: 3, limit: 30, everyMs: 25, newsMs: 100 }],
    ["is the same where all send at once", { instances: 3, limit: 30, everyMs: 1, newsMs: 20 }],
    ["is the same where it is small", { instances: 3, limit: 10, everyMs: 50, newsMs: 30 }],
    [
      "is known to those that sent nothing",
      { instances: 3, limit: 30, everyMs: 15, newsMs: 30, isOneSending: true },
    ],
  ])("%s: what passed, and nothing of what was refused", (_, together) => {
    expect(learnTogether(together)).toEqual(Array(together.instances).fill(together.limit));
  });

  test("is not learnt again from what was sent before it was heard of", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    for (let nth = 0; nth < 20; nth++) limiter.onSentElsewhere(NOW, false);
    limiter.onSent(NOW + 10);
    limiter.hear(
      {
        rate: { value: 20, ceiling: null, retryAt: 0, patienceMs: 0 },
        windowMs: MINUTE_MS,
        concurrency: null,
        intervalMs: 0,
        burst: 1,
      },
      NOW + 15,
    );
    limiter.onEnded({ hasStarted: false }, NOW + 20);
    limiter.refund(NOW + 10);
    limiter.onRefused({ sentAt: NOW + 10, namedMs: null, restMs: MINUTE_MS, reason: "rate_limit" }, NOW + 20);
    expect(limiter.rate.value).toBe(20);
  });

  test("is tight while others may have sent what nobody has heard of", () => {
    const limiter = new RateLimiter({ kind: "learnt" });
    limiter.rate.restore({ value: 40, ceiling: null, retryAt: 0, patienceMs: 0 }, NOW);
    for (let nth = 0; nth < 12; nth++) limiter.onSent(NOW + 1000);
    expect(limiter.isTight(NOW + 1000, 1)).toBe(false);
    expect(limiter.isTight(NOW + 1000, 3)).toBe(true);
    expect(limiter.isTight(NOW + 1500, 3)).toBe(false);
  });
});

/** How many may go out at once, at `now`. */
function goesOut(slowStart: SlowStart, now: number): number {
  let count = 0;
  while (count < 1000 && slowStart.readyAt <= now) {
    slowStart.onSent(now);
    count += 1;
  }
  return count;
}

describe("a slow start", () => {
  test("P25 is whole at first: any number may go out", () => {
    expect(goesOut(new SlowStart(), NOW)).toBe(1000);
  });

  test("P25 doubles from one, and is whole again at 64", () => {
    const slowStart = new SlowStart();
    slowStart.restart();
    const rounds: number[] = [];
    for (let now = NOW; rounds.length < 8; now += 10 * SECOND_MS) {
      const sent = goesOut(slowStart, now);
      rounds.push(sent);
      for (let answer = 0; answer < sent; answer++) {
        slowStart.onResponseStarted();
      }
    }
    expect(rounds).toEqual([1, 2, 4, 8, 16, 32, 1000, 1000]);
  });

  test("P25 does not wait for an answer for more than three seconds: one more may go then", () => {
    const slowStart = new SlowStart();
    slowStart.restart();
    expect([goesOut(slowStart, NOW), slowStart.readyAt]).toEqual([1, NOW + 3 * SECOND_MS]);
    expect([goesOut(slowStart, NOW + 3 * SECOND_MS), slowStart.readyAt]).toEqual([1, NOW + 6 * SECOND_MS]);
  });

  test("P25 gives the place back of one that was refused, and grows by none", () => {
    const slowStart = new SlowStart();
    slowStart.restart();
    slowStart.onSent(NOW);
    slowStart.onFailed();
    expect(goesOut(slowStart, NOW)).toBe(1);
  });
});
