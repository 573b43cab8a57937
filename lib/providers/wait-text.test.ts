import { describe, expect, test } from "bun:test";
import { type ClockOffset, amountsOf, instantOf, waitFromProse } from "./wait-text.ts";

/** A Friday, 12:15:07.250 UTC: 20:15 in Beijing, 07:15 in New York, 04:15 in Los Angeles. */
const NOW = Date.UTC(2026, 10, 20, 12, 15, 7, 250);
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** From now to 12:25:00 UTC. */
const NEAR = 9 * MINUTE + 52_750;

type Row = [sentence: string, told: string, waitMs: number | null, clockOffset?: ClockOffset];

function check(_: string, told: string, waitMs: number | null, clockOffset: ClockOffset = null): void {
  const found = waitFromProse(told, clockOffset, NOW);
  if (waitMs === null) expect(found).toBeNull();
  else expect(found).toBeCloseTo(waitMs, 3);
}

// Wordings of public issues and of providers' pages, seen up to Nov 2026; times are ours.
describe("P13 a wait that a sentence tells", () => {
  test.each<Row>([
    ["an hour in words", "Too fast. Try again in an hour.", HOUR],
    ["half an hour", "You may retry in half an hour", HOUR / 2],
    ["a number in words", "please wait two minutes", 2 * MINUTE],
    ["weeks", "The limit resets in 2 weeks", 14 * DAY],
    ["days and hours without a comma", "Try again in 2 days 3 hours", 2 * DAY + 3 * HOUR],
    ["three units with commas", "wait 1 hour, 3 minutes and 5 seconds", HOUR + 3 * MINUTE + 5 * SECOND],
    ["a tilde", "Try again in ~25 min.", 25 * MINUTE],
    ["a comma in the number", "try again in 1,200 seconds", 1200 * SECOND],
    ["a long fraction", "please try again after 12.25000000001 seconds", 12_250],
    ["hours, minutes and seconds with colons", "Quota resets in 01:02:03", HOUR + 2 * MINUTE + 3 * SECOND],
    ["minutes and seconds with a colon: the shorter reading", "Limit resets in 10:30", 10.5 * MINUTE],
    ["seconds without a unit, as in the header", "Slow down. Retry-After: 30.", 30 * SECOND],
    ["the same with an equals sign", "429: retry_after=45", 45 * SECOND],
    ["Turkish", "Çok fazla istek. 20 saniye sonra tekrar deneyin", 20 * SECOND],
    ["Italian", "Troppe richieste. Riprova tra 20 secondi", 20 * SECOND],
    ["Spanish", "Demasiadas solicitudes, inténtelo de nuevo en 2 minutos", 2 * MINUTE],
    ["German, before the word", "Bitte in 20 Sekunden erneut versuchen", 20 * SECOND],
    ["Turkish minutes", "5 dakika sonra tekrar deneyin", 5 * MINUTE],
    ["what remains", "Rate limited. 42 seconds remaining.", 42 * SECOND],
    ["what is left", "Slow down, 2 minutes left", 2 * MINUTE],
    ["the next seconds", "You are blocked for the next 42 seconds", 42 * SECOND],
    ["a time to wait", "wait time: 42 seconds", 42 * SECOND],
    ["a wide colon", "剩余时间：1小时20分", 80 * MINUTE],
    ["Japanese minutes and seconds", "1分30秒後に再試行してください", 90 * SECOND],
    ["French minutes and seconds", "Réessayez dans 1 minute et 30 secondes", 90 * SECOND],
    ["Spanish minutes and seconds", "Inténtelo de nuevo en 1 minuto y 30 segundos", 90 * SECOND],
    ["Portuguese minutes and seconds", "Tente novamente em 1 minuto e 30 segundos", 90 * SECOND],
    ["German minutes and seconds", "Bitte versuchen Sie es in 1 Minute und 30 Sekunden erneut", 90 * SECOND],
    ["Italian minutes and seconds", "Riprova tra 1 minuto e 30 secondi", 90 * SECOND],
    ["an access that returns", "Access returns in 3 hours", 3 * HOUR],
    ["a number of what is left that is no time", "You have 42 requests remaining", null],
    ["a duration of ISO 8601", "Limit reached. Retry after PT2H30M.", 2.5 * HOUR],
    ["a word that only looks like one", "Try again in PT10MX", null],
    ["a noun before the colon", "Time until reset: 45s", 45 * SECOND],
    ["Chinese seconds", "请求太快，请 20 秒后再试", 20 * SECOND],
    ["Chinese minutes", "请求被限制，请于5分钟后重试。", 5 * MINUTE],
    ["Chinese hours and minutes", "请 1 小时 30 分钟后重试", 90 * MINUTE],
    ["Chinese days", "额度将在 3 天后重置", 3 * DAY],
    ["traditional characters", "請在 2 小時後重試", 2 * HOUR],
    ["waiting in Chinese", "触发限流，需等待 15 秒", 15 * SECOND],
    ["Japanese", "30秒後に再試行してください", 30 * SECOND],
    ["Korean", "15분 후 다시 시도하세요", 15 * MINUTE],
    ["French", "Veuillez réessayer dans 30 secondes", 30 * SECOND],
    ["German", "Bitte versuchen Sie es in 5 Minuten erneut", 5 * MINUTE],
    ["Spanish", "Inténtalo de nuevo en 2 horas", 2 * HOUR],
    ["Russian", "Повторите через 40 секунд", 40 * SECOND],
    ["a window is no wait", "Limit: 5 requests per 60 seconds. Try again later.", null],
    ["a count is no wait", "Retry after 5 attempts", null],
    ["letters that look like units are none", "Please retry as soon as possible", null],
    ["a few minutes are not told", "Try again in a few minutes", null],
    ["a Chinese window is no wait", "每 60 秒最多 5 次请求", null],
  ])("%s: %s", check);
});

describe("P13 an instant with its zone in a sentence", () => {
  test.each<Row>([
    ["an offset without a colon", "Resets at 2026-11-20 20:25:00 +0800", NEAR],
    ["an offset and an abbreviation", "It will reset at 2026-11-20 20:25:00 +0800 CST. Upgrade.", NEAR],
    ["an offset of hours", "resets at 2026-11-20 20:25:00+08", NEAR],
    ["a negative offset", "resets at 2026-11-20 07:25:00 -0500", NEAR],
    ["half an hour's offset", "resets at 2026-11-20 17:55:00 +05:30", NEAR],
    ["UTC and an offset", "will reset at 2026-11-20 20:25:00 UTC+8, or upgrade", NEAR],
    ["GMT and an offset in brackets", "resets at 2026-11-20 09:25:00 (GMT-03:00)", NEAR],
    ["UTC", "resets at 2026-11-20 12:25:00 UTC", NEAR],
    ["Z behind a fraction", "until 2026-11-20T12:25:00.000000Z", NEAR],
    ["an offset of nought", "Limit resets at: 2026-11-20T12:25:00+0000", NEAR],
    ["a zone's name in words", "resets at 2026-11-20 20:25:00 (Beijing Time)", NEAR],
    ["a zone's name before the date", "将于北京时间 2026-11-20 20:25:00 重置", NEAR],
    ["a zone's abbreviation", "resets at 2026-11-20 21:25:00 JST", NEAR],
    ["an abbreviation with summer time", "resets at 2026-11-20 04:25:00 PST", NEAR],
    ["an abbreviation that several share: the nearest ahead", "resets 2026-11-20 20:25:00 CST", NEAR],
    ["a place", "resets 2026-11-20 07:25:00 America/New_York", NEAR],
    [
      "an hour of the day in a place",
      "Your limit will reset at 8am (America/New_York).",
      44 * MINUTE + 52_750,
    ],
    ["an hour that is tomorrow's", "resets 12:10 PM UTC", DAY - 5 * MINUTE - 7250],
    ["a time of day after a word that may introduce a wait", "Try again after 12:25 UTC", NEAR],
    ["slashes", "resets at 2026/11/20 12:25 UTC", NEAR],
    ["Chinese date signs", "请于 2026年11月20日 20:25:00 (UTC+8) 后重试", NEAR],
    ["the month's name", "try again at Nov 20th, 2026 12:25 PM UTC.", NEAR],
    ["the day before the month's name", "resets on 20 Nov 2026 12:25 GMT", NEAR],
    ["a date without its year", "resets Nov 22, 3pm (UTC)", 2 * DAY + 2 * HOUR + 44 * MINUTE + 52_750],
    [
      "a date alone is its midnight",
      "Access is restored on 2026-11-21 UTC",
      11 * HOUR + 44 * MINUTE + 52_750,
    ],
    ["one that has passed", "resets at 2026-11-20 20:10:00 +0800", null],
    ["an offset that no place has", "resets at 2026-11-20 12:25:00 +9900", null],
    ["a place that is nowhere", "resets at 2026-11-20 12:25:00 Mars/Olympus", null],
    ["a day that is none", "resets at 2026-02-30 12:25:00 UTC", null],
    ["seconds since 1970", `Rate limit exceeded, resets at ${(NOW - 250) / 1000 + 600}`, 10 * MINUTE - 250],
    ["the same behind a bar", `usage limit reached|${(NOW - 250) / 1000 + 600}`, 10 * MINUTE - 250],
    ["milliseconds since 1970", `retry at ${NOW + 5000}`, 5000],
    ["a number of that length that is long past is none", "request 1000000007 failed, try again", null],
    ["a number of that length that is far ahead is none", "request 4000000007 failed, try again", null],
  ])("%s: %s", check);
});

describe("an instant whose zone nobody tells", () => {
  test.each<Row>([
    ["in the zone of the provider where that is known", "resets at 2026-11-20 20:25:00", NEAR, "+08:00"],
    ["is not read in another zone then", "resets at 2026-11-20 12:25:00", null, "+08:00"],
    ["is read by UTC where that is the nearest ahead", "resets at 2026-11-20 12:25:00", NEAR],
    ["is read by Beijing's clock where that is the nearest", "resets at 2026-11-20 20:25:00", NEAR],
    ["is read by Tokyo's clock where that is the nearest", "resets at 2026-11-20 21:25:00", NEAR],
    ["is read by New York's clock where that is the nearest", "resets at 2026-11-20 07:25:00", NEAR],
    ["is read so with a word that is no zone, too", "resets at 2026-11-20 20:25:00 XYZT", NEAR],
    ["is read so without a date", "try again at 8:25 PM", NEAR],
    ["is nothing where all readings have passed", "resets at 2026-11-20 03:25:00", null],
  ])("%s: %s", check);
});

describe("a value", () => {
  test.each<[sentence: string, value: string, waitMs: number | null]>([
    ["is one amount", "30 seconds", 30 * SECOND],
    ["is several amounts", "1 hour 5 minutes", HOUR + 5 * MINUTE],
    ["is amounts and nothing else", "30 seconds or so", null],
    ["is no amount without a unit", "30", null],
  ])("%s: %s", (_, value, waitMs) => {
    expect(amountsOf(value)).toBe(waitMs);
  });

  test("is a date and time with an offset in any form", () => {
    for (const value of ["2026-11-20T12:25:00+0000", "2026-11-20 20:25:00 +08", "2026/11/20 12:25 UTC"])
      expect(instantOf(value, NOW)).toBe(NEAR);
  });
});

describe("P42 the time it takes", () => {
  const HOSTILE: [sentence: string, piece: string][] = [
    ["words that introduce a time", "retry "],
    ["digits", "9"],
    ["dates", "until 2026-11-20 "],
    ["amounts", "1h "],
    ["Chinese amounts", "5秒后"],
    ["blanks", " "],
    ["fillers", "wait for "],
  ];
  test.each(HOSTILE)("stays short for 8,192 characters of %s", (_, piece) => {
    const text = piece.repeat(Math.ceil(8192 / piece.length));
    waitFromProse(text, null, NOW);
    const before = performance.now();
    waitFromProse(text, null, NOW);
    expect(performance.now() - before).toBeLessThan(50);
  });
});
