/**
 * Time as an argument: the one clock the shell asks, and durations as people and headers write them.
 *
 * Everything that decides is given `now`. A test hands the engine a clock of its own and moves it by hand, so no test
 * ever sleeps to wait for time.
 *
 * There are two readings. `now()` cannot be set: all that is measured goes by it (waits, cooldowns, timeouts, rates).
 * `wall()` is the machine's date, which somebody may set at any moment: it serves dates in hints, midnight, and what
 * is shown or stored (P46). An instant of the one becomes one of the other by adding or taking off `wallOffset`.
 */
import { deferred } from "./language.ts";

export const SECOND_MS = 1000;
export const MINUTE_MS = 60 * SECOND_MS;
export const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;

/** Ends a timer. Safe to call more than once and after the timer has fired. */
export type CancelTimer = () => void;

/** What the shell needs of time. */
export interface Clock {
  /** Milliseconds, whole ones. Equals epoch time when the program starts, and never jumps. */
  now(): number;
  /** Epoch milliseconds by the machine's date, which may jump. */
  wall(): number;
  /** Calls `action` once after `delayMs`. */
  after(delayMs: number, action: () => void): CancelTimer;
}

/** `setTimeout` fires at once for a longer delay than this one (24.8 days). */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

const startedAt = performance.timeOrigin;

export const systemClock: Clock = {
  now: () => Math.floor(startedAt + performance.now()),
  wall: () => Date.now(),
  after(delayMs, action) {
    const timer = setTimeout(action, Math.min(Math.max(0, delayMs), LONGEST_TIMER_MS));
    return () => clearTimeout(timer);
  },
};

/** The same clock for a library: its timers alone keep no process alive. */
export const backgroundClock: Clock = {
  ...systemClock,
  after(delayMs, action) {
    const timer = setTimeout(action, Math.min(Math.max(0, delayMs), LONGEST_TIMER_MS));
    unref(timer);
    return () => clearTimeout(timer);
  },
};

/** Deno's timers are numbers. */
declare const Deno: { unrefTimer(timer: unknown): void } | undefined;

function unref(timer: { unref?(): unknown }): void {
  if (typeof timer === "object") timer.unref?.();
  else if (typeof Deno !== "undefined") Deno.unrefTimer(timer);
}

/** Keeps the process alive until it is called: for as long as somebody waits with nothing else to be waited for. */
export function keepProcessAlive(): CancelTimer {
  const timer = setTimeout(() => {}, LONGEST_TIMER_MS);
  return () => clearTimeout(timer);
}

/** What has to be added to an instant of `now()` to get the date of it. Ask anew each time: it changes. */
export function wallOffset(clock: Clock): number {
  return clock.wall() - clock.now();
}

/** Resolves once the event loop has gone round: what was written before is on its way. Not a matter of a clock. */
export function nextTurn(afterMs = 1): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, afterMs));
}

/** Resolves after `durationMs`, or at once when the signal fires. */
export function pause(durationMs: number, signal: AbortSignal, clock: Clock): Promise<void> {
  const { promise, resolve } = deferred<void>();
  const cancel = clock.after(durationMs, end);
  signal.addEventListener("abort", end);
  if (signal.aborted) end();
  return promise;
  function end() {
    cancel();
    signal.removeEventListener("abort", end);
    resolve();
  }
}

/** Whole seconds, rounded up, at least 1: a `Retry-After` must never be too early. */
export function retryAfterSec(waitMs: number): number {
  return Math.max(1, Math.ceil(waitMs / 1000));
}

/** The latest instant that a date can hold (ECMA-262 21.4.1.1). */
const LATEST_INSTANT = 8.64e15;

/**
 * An instant (epoch ms) in RFC 3339, UTC: `2026-11-20T21:54:07.000Z`. What no date can hold is shown as the nearest.
 */
export function instantText(at: number): string {
  return new Date(Math.min(Math.max(0, at), LATEST_INSTANT)).toISOString();
}

/** The UTC day of an instant (epoch ms): `2026-11-20`. */
export function utcDay(at: number): string {
  return instantText(at).slice(0, 10);
}

/** A duration for people: `850ms`, `42s`, `3m20s`, `2h05m`. */
export function formatDuration(durationMs: number): string {
  if (durationMs <= 999) return `${Math.round(durationMs)}ms`;
  const sec = Math.ceil(durationMs / 1000);
  if (sec < 120) return `${sec}s`;
  const min = Math.floor(sec / 60);
  if (min < 120) return sec % 60 === 0 ? `${min}m` : `${min}m${String(sec % 60).padStart(2, "0")}s`;
  return `${Math.floor(min / 60)}h${String(min % 60).padStart(2, "0")}m`;
}

const GO_UNIT_MS: Record<string, number> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: SECOND_MS,
  m: MINUTE_MS,
  h: HOUR_MS,
  d: DAY_MS,
};

/**
 * A Go or protobuf duration (`1h2m3.4s`, `6m0s`, `370ms`, `34.07s`) in milliseconds, or null where the text is
 * anything else. A bare number is not a duration: its unit depends on where it stood.
 */
export function parseDuration(text: string): number | null {
  const trimmed = text.trim();
  if (!/^(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h|d))+$/.test(trimmed)) return null;
  let totalMs = 0;
  for (const [, amount, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)/g)) {
    totalMs += Number(amount) * (GO_UNIT_MS[unit ?? ""] ?? 0);
  }
  return totalMs;
}

/** How far the wall clock of an IANA zone is ahead of UTC at an instant, in ms. Throws where there is no such zone. */
export function zoneOffsetMs(zone: string, at: number): number {
  const parts = new Intl.DateTimeFormat("en-US", {
    timeZone: zone,
    hourCycle: "h23",
    year: "numeric",
    month: "numeric",
    day: "numeric",
    hour: "numeric",
    minute: "numeric",
    second: "numeric",
  }).formatToParts(at);
  const part = (type: string) => Number(parts.find((candidate) => candidate.type === type)?.value);
  const wall = Date.UTC(
    part("year"),
    part("month") - 1,
    part("day"),
    part("hour"),
    part("minute"),
    part("second"),
  );
  return wall - Math.floor(at / 1000) * 1000;
}

/** How long it is from a date (`wall`, epoch ms) to the next midnight in an IANA zone. */
export function untilMidnight(zone: string, wall: number): number {
  return nextMidnight(zone, wall) - wall;
}

/** The next midnight in an IANA zone after the date `now`, as epoch milliseconds. Days of 23 and 25 hours are met. */
export function nextMidnight(zone: string, now: number): number {
  if (zone === "UTC") return (Math.floor(now / DAY_MS) + 1) * DAY_MS;
  const wallNow = now + zoneOffsetMs(zone, now);
  const wallMidnight = (Math.floor(wallNow / DAY_MS) + 1) * DAY_MS;
  // The offset that holds at midnight may differ from today's: ask for it at the first guess.
  const guess = wallMidnight - zoneOffsetMs(zone, now);
  const midnight = wallMidnight - zoneOffsetMs(zone, guess);
  // Where the clocks go forward at midnight itself there is none: the day begins when they have.
  return midnight > now && zoneOffsetMs(zone, midnight) === zoneOffsetMs(zone, guess) ? midnight : guess;
}
