import { describe, expect, test } from "bun:test";
import { seeded } from "../testing/fixture.ts";
import { AdaptiveLimit, Trial } from "./limit-learning.ts";
import { RateLimiter } from "./rate-limiter.ts";
import { LONGEST_HISTORY, SlidingLog, TokenBucket } from "./counters.ts";

const NOW = Date.UTC(2026, 10, 20, 12);
const MINUTE = 60_000;

/** What went out at these times (ms after `NOW`), all of which is to be remembered. */
function historyOf(times: readonly number[], longest?: number): SlidingLog {
  const history = new SlidingLog(longest);
  for (const time of times) history.add(NOW + time, 0);
  return history;
}

/** All that is remembered, oldest first, in ms after `NOW`. */
function remembered(history: SlidingLog): number[] {
  return Array.from({ length: history.size }, (_, index) => history.last(history.size - index) - NOW);
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);

describe("a history", () => {
  test.each<[sentence: string, times: number[], longest: number | undefined, kept: number[]]>([
    ["holds nothing at first", [], undefined, []],
    ["holds what went out, in order", [1, 2, 3], undefined, [1, 2, 3]],
    ["holds those of one instant each", [5, 5, 5], undefined, [5, 5, 5]],
    ["grows with what goes out", upTo(100), undefined, upTo(100)],
    ["holds no more than it has to at most", upTo(10), 3, [7, 8, 9]],
    ["may have to hold a single one", [1, 2, 3], 1, [3]],
    ["holds no more than its longest, whatever is to be kept", upTo(50), 20, upTo(50).slice(30)],
    ["may be made to hold nothing", [1, 2], 0, []],
  ])("%s", (_, times, longest, kept) => {
    expect(remembered(historyOf(times, longest))).toEqual(kept);
  });

  test("holds the last 2048 unless told otherwise", () => {
    const history = historyOf(upTo(LONGEST_HISTORY + 5));
    expect([history.size, history.last(LONGEST_HISTORY) - NOW]).toEqual([2048, 5]);
  });

  test("does not grow for what need not be remembered", () => {
    const history = new SlidingLog();
    for (const index of upTo(1000)) history.add(NOW + index * 10_000, NOW + index * 10_000 - MINUTE);
    expect(history.size).toBe(16);
  });

  test("remembers what is exactly as old as has to be remembered", () => {
    const history = historyOf(upTo(16));
    history.add(NOW + 16, NOW);
    expect(remembered(history)).toEqual(upTo(17));
  });

  test("knows of none that were before the first", () => {
    const history = historyOf([1, 2]);
    expect([0, -1, 3, 99].map((nth) => history.last(nth))).toEqual(Array(4).fill(-Infinity));
    expect(new SlidingLog().last(1)).toBe(-Infinity);
  });

  test.each<[sentence: string, at: number, count: number]>([
    ["counts all that went out later", 0, 4],
    ["counts what went out at that very instant", 20, 3],
    ["does not count what went out a millisecond before", 21, 1],
    ["counts none where all went out before", 41, 0],
    ["counts the last", 40, 1],
    ["counts all, however long ago is asked", -1e12, 4],
  ])("%s", (_, at, count) => {
    expect(historyOf([10, 20, 20, 40]).countSince(NOW + at)).toBe(count);
  });

  test.each<[sentence: string, removed: number, left: number[]]>([
    ["takes out the first", 10, [20, 20, 40]],
    ["takes out the last", 40, [10, 20, 20]],
    ["takes out one of those of an instant", 20, [10, 20, 40]],
    ["takes out none that never went out", 30, [10, 20, 20, 40]],
    ["takes out none that is later than all", 50, [10, 20, 20, 40]],
  ])("%s", (_, removed, left) => {
    const history = historyOf([10, 20, 20, 40]);
    history.remove(NOW + removed);
    expect(remembered(history)).toEqual(left);
    history.add(NOW + 60, 0);
    expect(remembered(history)).toEqual([...left, 60]);
  });

  test("goes on by itself after it was copied", () => {
    const original = historyOf(upTo(20));
    const copy = new SlidingLog();
    copy.copyFrom(original);
    copy.add(NOW + 30, 0);
    original.remove(NOW);
    expect(remembered(copy)).toEqual([...upTo(20), 30]);
    expect(remembered(original)).toEqual(upTo(20).slice(1));
  });

  // RPM=3000 was changed to auto by a reload: what had been sent was copied into a history that holds less, and from
  // the next growth on what was sent was not remembered.
  test("goes on after it was copied from one that holds more than it may", () => {
    const copy = new SlidingLog(8);
    copy.copyFrom(historyOf(upTo(20)));
    for (const time of upTo(20)) copy.add(NOW + 100 + time, 0);
    expect(remembered(copy)).toEqual([112, 113, 114, 115, 116, 117, 118, 119]);
  });

  test.each([1, 3, 16, 17, 40, LONGEST_HISTORY])("of at most %d tells what a plain list tells", (longest) => {
    const random = seeded(longest);
    const below = (bound: number) => Math.floor(random() * bound);
    for (let run = 0; run < 9; run++) {
      const history = new SlidingLog(longest);
      const list: number[] = [];
      const wrong: object[] = [];
      let [now, keptFromAt] = [NOW, 0];
      const keepsMs = [50, 1000, MINUTE][run % 3]!;
      for (let step = 0; step < 250; step++) {
        now += random() < 0.4 ? 0 : below(20);
        if (list.length > 0 && random() < 0.3) {
          const at = random() < 0.8 ? list[below(list.length)]! : now - below(50);
          // One that is older than has to be remembered may be forgotten already.
          if (at < keptFromAt) continue;
          history.remove(at);
          const place = list.indexOf(at);
          if (place >= 0) list.splice(place, 1);
        } else {
          keptFromAt = now - keepsMs;
          history.add(now, keptFromAt);
          list.push(now);
          if (list.length > longest) list.shift();
        }
        const kept = list.filter((at) => at >= keptFromAt);
        const told = kept.map((_, index) => history.last(kept.length - index));
        const since = keptFromAt + below(now - keptFromAt + 2);
        const counted = list.filter((at) => at >= since).length;
        if (
          told.join() !== kept.join() ||
          history.countSince(since) !== counted ||
          history.size > list.length
        )
          wrong.push({ step, told, kept });
      }
      expect(wrong).toEqual([]);
    }
  });
});

describe("a token bucket", () => {
  test("lets a burst go out after a pause, then one at a time", () => {
    const bucket = new TokenBucket();
    bucket.follow(1500, 3);
    const sent: number[] = [];
    for (let now = NOW; now < NOW + 6000; now += 100) {
      for (; bucket.readyAt <= now; bucket.onSent(now)) sent.push(now - NOW);
    }
    expect(sent).toEqual([0, 0, 0, 1500, 3000, 4500]);
  });

  test("goes on from what is known to fit, and at another pace from the same instant", () => {
    const bucket = new TokenBucket();
    bucket.follow(1000, 5);
    bucket.fitsAt(NOW + 700);
    expect(bucket.readyAt).toBe(NOW + 700);
    bucket.follow(2000, 2);
    expect(bucket.readyAt).toBe(NOW + 700);
    bucket.onSent(NOW + 700);
    expect(bucket.readyAt).toBe(NOW + 2700);
  });
});

describe("a limit found out by refusals", () => {
  const held = (limit: AdaptiveLimit, now: number) => limit.onBlocked(now + 3 * MINUTE);

  test("is what was let through, corrected by the later refusals of one burst, and not by those from before", () => {
    const limit = new AdaptiveLimit();
    limit.onRefused(19, NOW - 50, MINUTE, NOW);
    limit.onRefused(18, NOW - 50, MINUTE, NOW + 1);
    limit.onRefused(4, NOW - 40, MINUTE, NOW + 2);
    expect(limit.value).toBe(4);
  });

  test("is raised by growing steps where nothing is known above it, and only after it has held", () => {
    const limit = new AdaptiveLimit();
    limit.onRefused(12, NOW - 50, MINUTE, NOW);
    expect(limit.onBlocked(NOW + MINUTE)).toBe(false);
    const levels = [0, 3, 6, 9].map((minutes) => {
      expect(held(limit, NOW + minutes * MINUTE)).toBe(true);
      return limit.value;
    });
    expect(levels).toEqual([13, 16, 25, 52]);
    expect(limit.proven).toBe(25);
  });

  test("goes back to what held when a trial is refused, and halves the way from there", () => {
    const limit = new AdaptiveLimit();
    limit.onRefused(12, NOW - 50, MINUTE, NOW);
    for (const minutes of [0, 3, 6, 9]) held(limit, NOW + minutes * MINUTE);
    const refusedAt = NOW + 15 * MINUTE;
    limit.onRefused(40, refusedAt - 50, MINUTE, refusedAt);
    expect(limit.value).toBe(25);
    expect(held(limit, refusedAt)).toBe(true);
    expect(limit.value).toBe(38);
  });
});

describe("a trial", () => {
  const DUE = [2 * MINUTE, 8 * MINUTE] as const;

  test("is due at once until something has to hold first, and from then on when it has", () => {
    const trial = new Trial(...DUE);
    expect(trial.isDue(NOW)).toBe(true);
    trial.scheduleAt(NOW + MINUTE);
    expect([NOW, NOW + MINUTE - 1, NOW + MINUTE].map((at) => trial.isDue(at))).toEqual([false, false, true]);
  });

  test("is waited for twice as long each time it failed, up to the longest, and as at first once more has held", () => {
    const trial = new Trial(...DUE);
    const patience = [0, 1, 2].map(() => {
      trial.doublePatience();
      return trial.patienceMs / MINUTE;
    });
    trial.resetPatience();
    expect([...patience, trial.patienceMs / MINUTE]).toEqual([4, 8, 8, 2]);
  });
});

describe("a question", () => {
  // Asking when a key is ready raised its limit: /health and each event did so without anybody waiting.
  test.each<[sentence: string, learn: (limiter: RateLimiter) => void]>([
    ["about a rate that was learnt", (limiter) => refuse(limiter, 12, null)],
    ["about a window that was measured", (limiter) => refuse(limiter, 12, 40_000)],
    ["about a pace that was measured", (limiter) => refuse(limiter, 12, 2000)],
    ["about how many may be under way", (limiter) => refuse(limiter, 3, 0)],
    ["about a budget that was announced", announce],
  ])("%s changes nothing, however often and late it is asked", (_, learn) => {
    const [asked, silent] = [new RateLimiter({ kind: "learnt" }), new RateLimiter({ kind: "learnt" })];
    learn(asked);
    learn(silent);
    for (let at = NOW; at < NOW + 60 * MINUTE; at += 20_000) {
      void [asked.readyAt(at), asked.readyAtIfNotLearnt, asked.perMinute, asked.isNearLimit(at, 10)];
    }
    const later = NOW + 61 * MINUTE;
    expect([asked.state(), sentAtOnce(asked, later)]).toEqual([silent.state(), sentAtOnce(silent, later)]);
  });
});

/** So many go out in a minute, and one more is refused. */
function refuse(limiter: RateLimiter, count: number, namedMs: number | null): void {
  for (let nth = 0; nth <= count; nth++) limiter.onSent(NOW - 20_000 + nth * 100);
  const sentAt = NOW - 20_000 + count * 100;
  limiter.onEnded({ hasStarted: false }, NOW);
  limiter.refund(sentAt);
  limiter.onRefused({ sentAt, namedMs, restMs: namedMs ?? MINUTE, reason: "rate_limit" }, NOW);
}

function announce(limiter: RateLimiter): void {
  const budget = { limit: 10, remaining: 0, resetAt: NOW + MINUTE } as const;
  limiter.onAnnounced({ ...budget, kind: "window", span: "minute", scope: "key" }, 0, NOW);
}

function sentAtOnce(limiter: RateLimiter, now: number): number {
  let sent = 0;
  for (; limiter.readyAt(now) <= now && sent < 100; sent++) limiter.onSent(now);
  return sent;
}
