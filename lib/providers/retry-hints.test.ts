import { describe, expect, test } from "bun:test";
import { namedWaitMs, waitUntilMs } from "./retry-hints.ts";
import { type ClockOffset, waitFromProse } from "./wait-text.ts";

/** A quarter past noon, with milliseconds, so that nothing is round by accident. */
const NOW = Date.UTC(2026, 10, 20, 12, 15, 7, 250);
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const epochSec = (fromNowSec: number) => String(Math.floor(NOW / 1000) + fromNowSec);
const httpDate = (fromNowSec: number) => new Date(NOW + fromNowSec * SECOND).toUTCString();
const rfc3339 = (fromNowSec: number) => new Date(NOW + fromNowSec * SECOND).toISOString();

/** Instants of whole seconds, seen from 250 ms after one, are that much nearer. */
const NEARER = 250;

describe("one value, its unit by its shape and magnitude (P13)", () => {
  const values: [sentence: string, value: string, waitMs: number | null][] = [
    ["a plain number is seconds", "17", 17 * SECOND],
    ["zero is valid and means now", "0", 0],
    ["fractions of a second count", "7.66", 7660],
    ["blanks around it do not matter", " 30 ", 30 * SECOND],
    ["from 1e9 on it is an instant in seconds", epochSec(25), 25 * SECOND - NEARER],
    ["from 1e12 on it is an instant in milliseconds", String(NOW + 38_000), 38 * SECOND],
    ["an instant in seconds that has passed is no hint", epochSec(-25), null],
    ["an instant in milliseconds that has passed is no hint", String(NOW - 1), null],
    ["a Go duration is not its first number", "6m0s", 6 * MINUTE],
    ["a Go duration chains hours, minutes and fractions", "1h2m3.4s", HOUR + 2 * MINUTE + 3400],
    ["a Go duration of milliseconds", "370ms", 370],
    ["a Go duration of many hours", "161h39m41.300432511s", 161 * HOUR + 39 * MINUTE + 41_300.432511],
    ["a protobuf duration", "34.074824224s", 34_074.824224],
    ["an HTTP date", httpDate(90), 90 * SECOND - NEARER],
    ["an HTTP date that has passed is no hint", httpDate(-90), null],
    ["an HTTP date in the form of RFC 850", "Friday, 20-Nov-26 12:16:37 GMT", 90 * SECOND - NEARER],
    ["an HTTP date in the form of asctime is in UTC", "Fri Nov 20 12:16:37 2026", 90 * SECOND - NEARER],
    ["in the form of asctime with a day of one digit", "Tue Dec  1 12:15:07 2026", 11 * DAY - NEARER],
    ["an HTTP date without its zone is in UTC", "Fri, 20 Nov 2026 12:16:37", 90 * SECOND - NEARER],
    ["an asctime date that has passed is no hint", "Fri Nov 20 12:13:37 2026", null],
    ["an RFC 3339 time in UTC", rfc3339(63), 63 * SECOND],
    ["an RFC 3339 time without its zone is in UTC", "2026-11-20T12:16:10", 63 * SECOND - NEARER],
    ["an RFC 3339 time with an offset", "2026-11-20T22:15:07.250+08:00", 2 * HOUR],
    ["an RFC 3339 time that has passed is no hint", rfc3339(-63), null],
    [
      "a huge number is an instant far off, for the caller to clamp",
      "9".repeat(15),
      Number("9".repeat(15)) - NOW,
    ],
    ["a number beyond all numbers is no hint", "9".repeat(400), null],
    ["a negative number is no hint", "-5", null],
    ["an exponent is no hint", "1e3", null],
    ["hexadecimal is no hint", "0x10", null],
    ["infinity is no hint", "Infinity", null],
    ["a word is no hint", "soon", null],
    ["a word that Date.parse would take is no hint", "May", null],
    ["a date that does not exist is no hint", "2026-13-45T99:99:99Z", null],
    ["an empty value is no hint", "", null],
  ];
  test.each(values)("%s: %s", (_sentence, value, waitMs) => {
    const found = waitUntilMs(value, NOW);
    if (waitMs === null) expect(found).toBeNull();
    else expect(found).toBeCloseTo(waitMs, 3);
  });
});

describe("a wait told in a sentence", () => {
  const sentences: [told: string, waitMs: number | null, clockOffset?: ClockOffset][] = [
    ["Please try again in 18.642s. Visit the docs.", 18_642],
    ["Please try again in 644ms.", 644],
    ["Please try again in 7m12s.", 7 * MINUTE + 12 * SECOND],
    ["Please try again in 1h2m3.4s.", HOUR + 2 * MINUTE + 3400],
    ["please try again after 1 seconds", SECOND],
    ["Please retry after 60 seconds.", MINUTE],
    ["Please wait 5631 seconds before retrying.", 5631 * SECOND],
    ["Please wait 0 seconds before retrying.", 0],
    ["Please retry in 56.185908122s.", 56_185.908122],
    ["Please retry in 900.2ms.", 900.2],
    ["Your quota will reset after 161h39m41s.", 161 * HOUR + 39 * MINUTE + 41 * SECOND],
    ["Limit resets in 4h 37m.", 4 * HOUR + 37 * MINUTE],
    ["Try again in about 1 hour and 5 minutes", HOUR + 5 * MINUTE],
    ["Retry in 2 days", 2 * DAY],
    ["Retry after 250 milliseconds", 250],
    ["You will regain access on 2026-11-22 at 00:00 UTC.", DAY + 11 * HOUR + 44 * MINUTE + 52_750],
    ["Your limit will reset at 2026-11-20 22:15:07", 2 * HOUR - NEARER, "+08:00"],
    ["您的限额将在 2026-11-20 22:15:07 重置。", 2 * HOUR - NEARER, "+08:00"],
    ["Your limit will reset at 2026-11-20 14:15:07", 2 * HOUR - NEARER, "Z"],
    ["Your limit will reset at 2026-11-20T22:15:07+08:00", 2 * HOUR - NEARER, "Z"],
    ["Your limit will reset at 2026-11-19 00:00:00", null],
    ["Your limit will reset at 2026-99-99 00:00:00", null],
    ["Limited to 20 requests per minute, try again later.", null],
    ["Please try again later. 20 seconds is the usual answer time.", null],
    ["Retry with fewer than 5 messages", null],
    ["Try again in 30 marvellous ways", null],
    ["The model gpt-4-2026-12-01 is busy", null],
    [`Try again in ${"9".repeat(400)} seconds`, null],
    ["", null],
  ];
  test.each(sentences)("%s", (told, waitMs, clockOffset = "Z") => {
    const found = waitFromProse(told, clockOffset, NOW);
    if (waitMs === null) expect(found).toBeNull();
    else expect(found).toBeCloseTo(waitMs, 3);
  });
});

describe("which of several hints counts", () => {
  type Layers = Record<string, unknown>[];
  const answers: [
    sentence: string,
    headers: Record<string, string>,
    layers: Layers,
    text: string,
    waitMs: number | null,
  ][] = [
    ["nothing said is no hint", {}, [], "Too many requests", null],
    ["milliseconds go before seconds", { "retry-after-ms": "1250", "retry-after": "2" }, [], "", 1250],
    [
      "a retry-after in garbage does not hide the sentence",
      { "retry-after": "soon" },
      [],
      "try again in 5s",
      5000,
    ],
    [
      "a retry-after in the past does not hide the sentence",
      { "retry-after": httpDate(-9) },
      [],
      "retry in 5s",
      5000,
    ],
    ["of a list of retry-afters the longest", { "retry-after": "5, 10" }, [], "", 10_000],
    [
      "of a list with garbage and the past in it what can be read",
      { "retry-after": `soon, ${httpDate(-9)}, 4` },
      [],
      "",
      4000,
    ],
    ["a date's own comma makes no list", { "retry-after": `7, ${httpDate(20)}` }, [], "", 20_000 - NEARER],
    ["a retry-after of 0 is not nothing", { "retry-after": "0" }, [], "try again in 5s", 0],
    [
      "retry goes before reset: one request fits long before the bucket is full",
      {
        "retry-after": "16",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": rfc3339(63),
      },
      [],
      "",
      16_000,
    ],
    [
      "a sentence goes before the reset of an empty bucket",
      { "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "3m6s" },
      [],
      "try again in 2s",
      2000,
    ],
    [
      "only the empty bucket's reset matters",
      {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "30",
        "x-ratelimit-remaining-requests-day": "300",
        "x-ratelimit-reset-requests-day": "4h17m",
      },
      [],
      "",
      30_000,
    ],
    [
      "of two empty buckets the later counts",
      {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6m0s",
      },
      [],
      "",
      6 * MINUTE,
    ],
    [
      "Azure's -1 and 0 mean unknown, not empty",
      { "x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "0" },
      [],
      "",
      null,
    ],
    [
      "an empty bucket that resets in 0 s contradicts itself",
      { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "0" },
      [],
      "",
      null,
    ],
    [
      "a bucket with something left is no reason to wait",
      { "x-ratelimit-remaining": "3", "x-ratelimit-reset": "9" },
      [],
      "",
      null,
    ],
    ["a lone reset is believed", { "x-ratelimit-reset": epochSec(25) }, [], "", 25 * SECOND - NEARER],
    ["the IETF field of draft 9", { ratelimit: '"api";r=0;t=112' }, [], "", 112_000],
    ["the IETF field of draft 9 with something left", { ratelimit: '"api";r=5;t=112' }, [], "", null],
    ["the IETF field of draft 6", { ratelimit: "limit=100, remaining=0, reset=50" }, [], "", 50_000],
    [
      "Anthropic's subscription windows",
      {
        "anthropic-ratelimit-unified-status": "rejected",
        "anthropic-ratelimit-unified-reset": epochSec(3600),
      },
      [],
      "",
      HOUR - NEARER,
    ],
    ["GitHub's seconds left", { "x-ratelimit-timeremaining": "61" }, [], "", 61_000],
    ["Google's RetryInfo", {}, [{ retryDelay: "34s" }], "", 34_000],
    ["its parts", {}, [{ retryDelay: { seconds: 10, nanos: 0 } }], "", 10_000],
    [
      "its parts as words, as protobuf writes large numbers",
      {},
      [{ retryDelay: { seconds: "12" } }],
      "",
      12_000,
    ],
    ["a part of a second alone", {}, [{ retryDelay: { nanos: 250_000_000 } }], "", 250],
    ["parts in another field", {}, [{ retry_after: { seconds: 5, nanos: 500_000_000 } }], "", 5500],
    ["a value and its unit", {}, [{ retry_after: { value: 30, unit: "seconds" } }], "", 30_000],
    ["a value and a unit that is none", {}, [{ retry_after: { value: 30, unit: "requests" } }], "", null],
    ["a delay of nothing", {}, [{ retryDelay: { seconds: 0, nanos: 0 } }], "", null],
    ["ISO 8601 in a field", {}, [{ retryDelay: "PT10M" }], "", 600_000],
    ["ISO 8601 in a header", { "retry-after": "PT1M30S" }, [], "", 90_000],
    ["a day and hours in ISO 8601", {}, [{ reset_in: "P1DT2H" }], "", 26 * HOUR],
    ["weeks in ISO 8601", {}, [{ reset_in: "P2W" }], "", 14 * 24 * HOUR],
    ["a fraction in ISO 8601", {}, [{ retry_in: "PT0.5S" }], "", 500],
    ["ISO 8601 that names no unit", {}, [{ retry_in: "PT5" }], "", null],
    ["an empty duration of ISO 8601", {}, [{ retry_in: "PT" }], "", null],
    [
      "the sentence has the fraction that RetryInfo cut off",
      {},
      [{ retryDelay: "34s" }],
      "Please retry in 34.07s.",
      34_070,
    ],
    ["of several delays the longest", {}, [{ retryDelay: "3s" }, { retryDelay: "40s" }], "", 40_000],
    ["seconds as a number in the body", {}, [{}, { retry_after: 40 }], "", 40_000],
    ["milliseconds by their name", {}, [{ retry_after_ms: 1500 }], "", 1500],
    ["seconds until a reset by their name", {}, [{ resets_in_seconds: 3600 }], "", HOUR],
    ["an instant in the body", {}, [{ resets_at: Number(epochSec(3600)) }], "", HOUR - NEARER],
    [
      "headers copied into the body, whatever their case",
      {},
      [{ headers: { "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": String(NOW + 38_000) } }],
      "",
      38_000,
    ],
    [
      "a field that is no text, no number and no duration is no hint",
      {},
      [
        { retry_after: { at_least: 5 } },
        { reset_at: [5] },
        { retryDelay: { seconds: -5 } },
        { headers: [1] },
      ],
      "",
      null,
    ],
    [
      "a field of the prototype is no hint",
      {},
      [Object.create({ retry_after: 5 }) as Record<string, unknown>],
      "",
      null,
    ],
    ["the same under an extra x", { "x-retry-after": "31" }, [], "", 31_000],
    ["the same with a unit in its value", { "retry-after": "31 seconds" }, [], "", 31_000],
    ["the same with a unit in its name", { "x-ms-retry-after-ms": "310" }, [], "", 310],
    ["a longer name that ends in it", { "x-ratelimit-retry-after": "31" }, [], "", 31_000],
    ["seconds until a reset", { "x-ratelimit-reset-after": "31" }, [], "", 31_000],
    ["a reset with a hyphen more", { "x-rate-limit-reset": epochSec(31) }, [], "", 31_000 - NEARER],
    [
      "of resets of unknown buckets the nearest",
      { "x-ratelimit-reset-requests": "31s", "x-ratelimit-reset-tokens": "3s" },
      [],
      "",
      3000,
    ],
    [
      "a reset with an offset without a colon",
      { "x-ratelimit-reset": "2026-11-20T12:15:38+0000" },
      [],
      "",
      30_750,
    ],
    [
      "the window of a subscription that is used up",
      {
        "x-codex-primary-used-percent": "100",
        "x-codex-primary-reset-after-seconds": "310",
        "x-codex-secondary-used-percent": "40",
        "x-codex-secondary-reset-after-seconds": "9000",
      },
      [],
      "",
      310_000,
    ],
    [
      "windows of a subscription with something left",
      { "x-codex-primary-used-percent": "99", "x-codex-primary-reset-after-seconds": "310" },
      [],
      "",
      null,
    ],
    [
      "windows that say that all is well tell of no wait",
      {
        "anthropic-ratelimit-unified-5h-status": "allowed",
        "anthropic-ratelimit-unified-5h-reset": epochSec(9),
      },
      [],
      "",
      null,
    ],
    ["a field in camel case", {}, [{ retryAfterSeconds: 31 }], "", 31_000],
    ["a field of minutes", {}, [{ retryAfterMinutes: 3 }], "", 3 * MINUTE],
    ["a field with a short unit", {}, [{ retry_after_sec: 31 }], "", 31_000],
    ["a field with a unit in its value", {}, [{ retry_after: "31 seconds" }], "", 31_000],
    ["a wait in seconds", {}, [{ wait_seconds: 31 }], "", 31_000],
    ["an instant in seconds", {}, [{ reset_at: Number(epochSec(31)) }], "", 31_000 - NEARER],
    ["an instant in text", {}, [{ resetTime: rfc3339(31) }], "", 31_000],
    ["an instant in milliseconds by its name", {}, [{ resetAtMs: NOW + 31_000 }], "", 31_000],
    ["a duration in a field of that name", {}, [{ reset_time: "10m0s" }], "", 10 * MINUTE],
    ["seconds until a reset, in another order", {}, [{ seconds_until_reset: 31 }], "", 31_000],
    ["an instant until which it is blocked", {}, [{ blocked_until: rfc3339(31) }], "", 31_000],
    ["milliseconds in full", {}, [{ retryAfterMillis: 310 }], "", 310],
    ["a reset of a quota", { "x-quota-reset": "31" }, [], "", 31_000],
    ["a count of retries is no wait", {}, [{ retry: 3, retries: 5, retry_count: 7, remaining: 9 }], "", null],
    ["a count of what waits is no wait", {}, [{ waiting: 3, resetting: true, wait_list: 5 }], "", null],
    ["part of a millisecond is rounded up: never too early", { "retry-after": "0.0001" }, [], "", 1],
  ];
  test.each(answers)("%s", (_sentence, headers, layers, text, waitMs) => {
    expect(namedWaitMs({ headers: new Headers(headers), layers, text }, "Z", NOW)).toBe(waitMs);
  });
});

describe("P46 an answer's instants are meant by its own clock", () => {
  const HOURS_2 = 7200;
  type Fields = Record<string, string>;
  test.each<
    [
      sentence: string,
      headers: Fields,
      layers: Record<string, unknown>[],
      text: string,
      waitMs: number | null,
    ]
  >([
    [
      "an HTTP date of a clock that is ahead",
      { date: httpDate(HOURS_2), "retry-after": httpDate(HOURS_2 + 31) },
      [],
      "",
      31_000,
    ],
    [
      "an HTTP date of a clock that is behind",
      { date: httpDate(-HOURS_2), "retry-after": httpDate(31 - HOURS_2) },
      [],
      "",
      31_000,
    ],
    [
      "the reset of an empty bucket",
      { date: httpDate(HOURS_2), "x-ratelimit-remaining": "0", "x-ratelimit-reset": epochSec(HOURS_2 + 31) },
      [],
      "",
      31_000,
    ],
    ["a field", { date: httpDate(HOURS_2) }, [{ resets_at: Number(epochSec(HOURS_2 + 31)) }], "", 31_000],
    ["a sentence", { date: httpDate(HOURS_2) }, [], "resets at 2026-11-20 14:15:38 UTC", 31_000],
    [
      "a year that is off",
      { date: httpDate(-300 * 86_400) },
      [{ resets_at: Number(epochSec(31 - 300 * 86_400)) }],
      "",
      31_000,
    ],
    ["seconds are seconds by any clock", { date: httpDate(HOURS_2), "retry-after": "31" }, [], "", 31_000],
    [
      "an answer from a cache is older than it says",
      { date: httpDate(-50), age: "50", "retry-after": httpDate(31) },
      [],
      "",
      31_000 - NEARER,
    ],
    [
      "a clock that was never set is not believed",
      { date: "Thu, 01 Jan 1970 00:00:09 GMT", "retry-after": httpDate(31) },
      [],
      "",
      31_000 - NEARER,
    ],
    [
      "a date that is none is not believed",
      { date: "soon", "retry-after": httpDate(31) },
      [],
      "",
      31_000 - NEARER,
    ],
    [
      "clocks that agree within seconds are the same",
      { date: httpDate(-2), "retry-after": httpDate(31) },
      [],
      "",
      31_000 - NEARER,
    ],
  ])("%s", (_, headers, layers, text, waitMs) => {
    expect(namedWaitMs({ headers: new Headers(headers), layers, text }, null, NOW)).toBe(waitMs);
  });
});
