/**
 * Waits and instants as people write them: "try again in an hour", "resets at 2026-11-20 20:10:00 +0800 CST",
 * "请在 90 秒后重试", "resets 3pm (America/New_York)".
 *
 * A zone that is named is used, and where it cannot be understood the text tells nothing. Where none is named the
 * writer's clock is not known, and of the readings that lie ahead the nearest counts: a try that is too early costs
 * one refusal, a rest that is too long costs hours (found in public reports, Nov 2026).
 *
 * Every pattern here is bounded: no part of a text is looked at more than a fixed number of times.
 */
import { DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, zoneOffsetMs } from "../core/clock.ts";

/** The zone of a written time without one: `Z`, `+08:00` for providers known to write Beijing time, null: unknown. */
export type ClockOffset = "Z" | "+08:00" | null;

/** The longest sentence is looked at for so many words that may introduce a time. */
const MOST_ANCHORS = 64;

/** A wait or an instant told in a sentence, in ms from `now`; null: none, or none that lies ahead. */
export function waitFromProse(text: string, clockOffset: ClockOffset, now: number): number | null {
  return (
    waitAfterAnchor(text) ??
    waitBeforeLater(text) ??
    instantAfterAnchor(text, clockOffset, now) ??
    epochInProse(text, now)
  );
}

// ----------------------------------------------------------------- amounts

/** Milliseconds of a unit, by all its words. One line a language; where a word begins another, the longer one first. */
const UNITS: readonly (readonly [ms: number, words: string])[] = [
  [1, "milliseconds?|millis|msecs?|ms|毫秒|ミリ秒|밀리초"],
  [
    SECOND_MS,
    "seconds?|secs?|s|秒钟|秒鐘|秒|초|segundos?|secondes?|sekunden?|seconden|secondi|saniye|секунд[аыу]?",
  ],
  [MINUTE_MS, "minutes?|mins?|m|分钟|分鐘|分|분|minutos?|minuten?|minuti|dakika|минут[аыу]?"],
  [HOUR_MS, "hours?|hrs?|h|个小时|小时|個小時|小時|時間|시간|horas?|heures?|stunden?|ore|saat|час(?:а|ов)?"],
  [DAY_MS, "days?|d|天|日|일|días?|dias?|jours?|tage?n?|giorni|gün|день|дня|дней"],
  [7 * DAY_MS, "weeks?|wks?|w|个星期|星期|周|週|주|semanas?|semaines?|wochen?|недел[ьяию]"],
  [30 * DAY_MS, "months?|个月|個月|か月|개월|mes(?:es)?|mois|monate?n?"],
];
// prettier-ignore
const NUMBERS: Readonly<Record<string, number>> = { "half an": 0.5, an: 1, a: 1, one: 1, two: 2, three: 3, four: 4, five: 5, six: 6, ten: 10 };
const ALL_UNITS = UNITS.map(([, words]) => words).join("|");
const AMOUNT = String.raw`(?:(\d{1,15}(?:,\d{3}){0,3}(?:\.\d{1,15})?)[ -]?|(half an|an?|one|two|three|four|five|six|ten)[ -])(${ALL_UNITS})(?![a-z])`;
/** One amount of several: `1h 30m`, `3 days, 4 hours and 12 minutes`. */
const NEXT_AMOUNT = new RegExp(String.raw`(?:,? (?:(?:and|et|und|ve|[eyи]) )?|, ?|(?<=\S))${AMOUNT}`, "iy");
const FIRST_AMOUNT = new RegExp(AMOUNT, "iy");
/** `00:10:00` for ten minutes. */
const CLOCK_DURATION = /(\d{1,3}):([0-5]\d)(?::([0-5]\d))?(?![\d:]| ?[ap]\.?m)/iy;
const MOST_AMOUNTS = 8;

interface Read {
  readonly ms: number;
  /** Offset after what was read. */
  readonly end: number;
}

/** ISO 8601: `PT10M`, `P1DT2H`, `PT0.5S`, `P2W`. */
const ISO_DURATION =
  /P(?=T?\d)(?:(\d{1,9})W)?(?:(\d{1,9})D)?(?:T(?=\d)(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:[.,]\d{1,9})?)S)?)?(?![\p{L}\d])/uy;
const ISO_UNITS_MS = [7 * DAY_MS, DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS];

function readIsoDuration(text: string, from: number): Read | null {
  const match = matchAt(ISO_DURATION, text, from);
  if (match === null) return null;
  const [whole, ...parts] = match;
  const amounts = parts.map((part, index) => Number((part ?? "0").replace(",", ".")) * ISO_UNITS_MS[index]!);
  return { ms: amounts.reduce((sum, ms) => sum + ms), end: from + whole.length };
}

function readAmounts(text: string, from: number): Read | null {
  const duration = readIsoDuration(text, from);
  if (duration !== null) return duration;
  let totalMs = 0;
  let end = from;
  for (let count = 0; count < MOST_AMOUNTS; count += 1) {
    const amount = matchAt(count === 0 ? FIRST_AMOUNT : NEXT_AMOUNT, text, end);
    if (amount === null) break;
    const [whole, digits, word = "", unit = ""] = amount;
    const number = digits === undefined ? NUMBERS[word.toLowerCase()] : Number(digits.replaceAll(",", ""));
    totalMs += (number ?? NaN) * unitMs(unit);
    end += whole.length;
  }
  return end === from || !Number.isFinite(totalMs) ? null : { ms: totalMs, end };
}

const UNIT_PATTERNS = UNITS.map(([ms, words]) => [ms, new RegExp(`^(?:${words})$`, "i")] as const);

function unitMs(unit: string): number {
  return UNIT_PATTERNS.find(([, pattern]) => pattern.test(unit))?.[0] ?? NaN;
}

/** A value that is nothing but amounts (`30 seconds`, `1 hour 5 minutes`), in ms; null: something else. */
export function amountsOf(value: string): number | null {
  const read = readAmounts(value, 0);
  return read?.end === value.length ? read.ms : null;
}

// ----------------------------------------------------------- waits in prose

/** Words after which a time is told, in the languages seen. */
const ANCHORS =
  /\b(?:try(?:ing)? (?:it )?again|try later|retr(?:y|ying|ies)|wait(?:ing)?|resets?|resetting|available|returns|blocked|renews?|refills?|resumes?|replenish(?:es|ed)?|come back|cool ?down|regain access|until|unlock(?:s|ed)?|lifted|restored|expires?|reintent\w{0,4}|int[eé]nt\w{0,6}|r[ée]essaye[rz]?|erneut|versuchen|novamente|tente|riprova\w{0,2})(?![a-z])|повторите|попробуйте|inténtalo|等待|稍等|重试时间|剩余时间|将在|將在|将于|將於|请在|請在|请于|重置时间|恢复时间|重置于|恢复于|解除时间|直到/giu;
/** What may stand between such a word and a wait. */
const FILLER =
  /[\s:：,~≈=("'-]{0,4}(?:again|time|the next|de nuevo|sie es|in|after|for|at least|about|approximately|around|approx\.?|roughly|another|within|is|are|will be|your request|request|the limit|en|em|de|dans|dentro|tra|fra|через|снова|约|大约|还需)(?![a-z])/iy;
const BEFORE_AMOUNT = /[\s:：,~≈=("'-]{0,4}/y;
const MOST_FILLERS = 6;
/** "Retry after 30": without a unit it is seconds, as in the header. */
const BARE_SECONDS =
  /retry[-_ ]after["']?\s?[:=]?\s?["']?(\d{1,9}(?:\.\d{1,9})?)(?!\.?\d|[:/%年-]| ?\p{L})/iu;

function waitAfterAnchor(text: string): number | null {
  for (const end of anchorEnds(text)) {
    const at = pastFillers(text, end);
    const wait = readAmounts(text, at) ?? (isDuration(text, end, at) ? clockDuration(text, at) : null);
    if (wait !== null) return wait.ms;
  }
  const seconds = Number(BARE_SECONDS.exec(text)?.[1] ?? NaN);
  return seconds < 1e9 ? seconds * SECOND_MS : null;
}

function* anchorEnds(text: string): Generator<number> {
  let count = 0;
  for (const match of text.matchAll(ANCHORS)) {
    yield match.index + match[0].length;
    count += 1;
    if (count === MOST_ANCHORS) return;
  }
}

function pastFillers(text: string, from: number): number {
  let at = from;
  for (let count = 0; count < MOST_FILLERS; count += 1) {
    const filler = matchAt(FILLER, text, at);
    if (filler === null) break;
    at += filler[0].length;
  }
  return at + (matchAt(BEFORE_AMOUNT, text, at)?.[0].length ?? 0);
}

/** `resets in 00:10:00` is a duration, `resets at 00:10:00` a time of day. */
function isDuration(text: string, from: number, to: number): boolean {
  return /\b(?:in|after|for|wait(?:ing)?)\b/i.test(text.slice(Math.max(0, from - 8), to));
}

/** Two fields are read as minutes and seconds: the shorter of what they may be. */
function clockDuration(text: string, at: number): Read | null {
  const match = matchAt(CLOCK_DURATION, text, at);
  if (match === null) return null;
  const [whole, first, second, third] = match;
  if (zoneAfter(text, at + whole.length) !== null) return null; // a time of day
  const [hours, minutes, seconds] = third === undefined ? [0, first, second] : [first, second, third];
  const ms = Number(hours) * HOUR_MS + Number(minutes) * MINUTE_MS + Number(seconds) * SECOND_MS;
  return { ms, end: at + whole.length };
}

/** `90 秒后重试`, `30秒後に再試行`, `30초 후`: the word for "later" stands behind the amount. */
const LATER =
  /\d {0,1}(?:毫秒|ミリ秒|秒|分|个?小时|個?小時|時間|天|日|周|週|초|분|시간|일)[钟鐘]? {0,1}(?:之|以)?(?:后|後|후)|\d (?:(?:sekunden?|minuten?|stunden?|saniye|dakika|saat) (?:erneut|wieder|sonra)|(?:seconds?|secs?|minutes?|mins?|hours?) (?:remaining|left))/giu;
const AMOUNTS_BEFORE = 48;

function waitBeforeLater(text: string): number | null {
  let count = 0;
  for (const { index } of text.matchAll(LATER)) {
    count += 1;
    if (count > MOST_ANCHORS) break;
    const start = Math.max(0, index - AMOUNTS_BEFORE);
    // From the first digit of the run of amounts that ends here.
    for (let at = start; at <= index; at += 1) {
      if (!isDigit(text, at) || isDigit(text, at - 1) || text[at - 1] === ".") continue;
      const wait = readAmounts(text, at);
      if (wait !== null && wait.end > index) return wait.ms;
    }
  }
  return null;
}

function isDigit(text: string, at: number): boolean {
  const char = text[at];
  return char !== undefined && char >= "0" && char <= "9";
}

/** "limit reached|1764447000", "resets at 1764447000": a number of that length which lies ahead is an instant. */
const EPOCH = /(?<![\d.])(\d{10}|\d{13})(?!\d)/g;
/** No limit is told further ahead than this in a bare number. */
const LONGEST_EPOCH_MS = 35 * DAY_MS;

function epochInProse(text: string, now: number): number | null {
  for (const [, digits = ""] of text.matchAll(EPOCH)) {
    const ms = Number(digits) * (digits.length === 10 ? SECOND_MS : 1) - now;
    if (ms > 0 && ms <= LONGEST_EPOCH_MS) return ms;
  }
  return null;
}

// ---------------------------------------------------------------- instants

const MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec";
const MONTH = String.raw`(${MONTHS})[a-z]{0,6}\.?`;
const TIME = String.raw`(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?(\.\d{1,9})? ?(?:([ap])\.?m\b\.?)?`;
/** A number alone is no time of day. */
const IS_TIME = String.raw`(?=\d{1,2}(?::\d{2}| ?[ap]\.?m\b))`;
/** The shapes of a date; groups: year, month, day in the order of `order`. */
const DATES: readonly (readonly [pattern: RegExp, order: "ymd" | "mdy" | "dmy" | "md"])[] = [
  [/(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)/y, "ymd"],
  [/(\d{4}) ?年 ?(\d{1,2}) ?月 ?(\d{1,2}) ?日/y, "ymd"],
  [/(\d{1,2}) ?月 ?(\d{1,2}) ?日/y, "md"],
  [new RegExp(String.raw`${MONTH} (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})(?!\d)`, "iy"), "mdy"],
  [new RegExp(String.raw`(\d{1,2})(?:st|nd|rd|th)?[ -]${MONTH}[ -](\d{4})(?!\d)`, "iy"), "dmy"],
  [new RegExp(String.raw`${MONTH} (\d{1,2})(?:st|nd|rd|th)?(?![\d:])`, "iy"), "md"],
];
const TIME_AFTER_DATE = new RegExp(String.raw`(?:T|,? ?at |, ?| )${IS_TIME}${TIME}`, "iy");
const TIME_ALONE = new RegExp(String.raw`${IS_TIME}${TIME}(?![\d%])`, "iy");
/** So much may stand between the word that introduces an instant and the instant. */
const LONGEST_GAP = 24;
const ON_TIME = /(?:\bat|\bon|\bby|\bafter|\buntil|\bresets?|\bagain|[:|])[ (]{0,2}$/i;

function instantAfterAnchor(text: string, clockOffset: ClockOffset, now: number): number | null {
  for (const end of anchorEnds(text)) {
    const last = Math.min(text.length, end + LONGEST_GAP);
    for (let at = end; at <= last; at += 1) {
      const instant = readInstant(text, at, clockOffset, now);
      if (instant !== null) return instant === "unknown" ? null : instant;
      if (isDigit(text, at) || text[at] === "\n") break;
    }
  }
  return null;
}

interface Wall {
  /** null: not told, then it is the nearest. */
  year: number | null;
  /** null: today or tomorrow. */
  month: number | null;
  day: number;
  /** Ms since midnight. */
  timeMs: number;
}

/**
 * Ms until the instant that is written there; null: none is; `unknown`: one that has passed or cannot be understood.
 */
function readInstant(
  text: string,
  at: number,
  clockOffset: ClockOffset,
  now: number,
): number | "unknown" | null {
  const isWordStart = at === 0 || !/[a-z\d]/i.test(text[at - 1] ?? "");
  if (!isWordStart) return null;
  const date = readDate(text, at);
  const timeAt = date?.end ?? at;
  const time =
    date === null
      ? ON_TIME.test(text.slice(Math.max(0, at - 10), at))
        ? matchAt(TIME_ALONE, text, at)
        : null
      : matchAt(TIME_AFTER_DATE, text, timeAt);
  if (date === null && time === null) return null;
  const timeMs = time === null ? 0 : timeOfDayMs(time);
  if (timeMs === null) return "unknown";
  const end = timeAt + (time?.[0].length ?? 0);
  const zone = zoneAfter(text, end) ?? zoneBefore(text, at) ?? clockOffset;
  const wall: Wall = { year: date?.year ?? null, month: date?.month ?? null, day: date?.day ?? 0, timeMs };
  return waitUntilWall(wall, zone, now) ?? "unknown";
}

function readDate(text: string, at: number): (Omit<Wall, "timeMs"> & { end: number }) | null {
  for (const [pattern, order] of DATES) {
    const match = matchAt(pattern, text, at);
    if (match === null) continue;
    const [whole, first = "", second = "", third = ""] = match;
    const end = at + whole.length;
    switch (order) {
      case "ymd":
        return { year: Number(first), month: monthOf(second), day: Number(third), end };
      case "mdy":
        return { year: Number(third), month: monthOf(first), day: Number(second), end };
      case "dmy":
        return { year: Number(third), month: monthOf(second), day: Number(first), end };
      case "md":
        return { year: null, month: monthOf(first), day: Number(second), end };
    }
  }
  return null;
}

/** From 1 to 12; NaN where it is no month. */
function monthOf(word: string): number {
  const number = /^\d/.test(word) ? Number(word) : MONTHS.split("|").indexOf(word.toLowerCase()) + 1;
  return number >= 1 && number <= 12 ? number : NaN;
}

function timeOfDayMs([, hour = "", minute = "0", second = "0", fraction = "", half]: readonly (
  string | undefined
)[]) {
  const hours = half === undefined ? Number(hour) : (Number(hour) % 12) + (/p/i.test(half) ? 12 : 0);
  if (hours > 24 || Number(minute) > 59 || Number(second) > 60) return null;
  return hours * HOUR_MS + Number(minute) * MINUTE_MS + Number(second + fraction) * SECOND_MS;
}

/** Without a year and that far ahead it is a date that has just passed. */
const LONGEST_WITHOUT_YEAR_MS = 62 * DAY_MS;

/** Ms until a clock in that zone shows this; null: it has, or never does. Of several readings the nearest ahead. */
function waitUntilWall(wall: Wall, zone: Zone, now: number): number | null {
  if (zone === "not understood") return null;
  let nearest: number | null = null;
  for (const offsetMs of offsetsOf(zone, now)) {
    for (const at of readingsOf(wall, now + offsetMs)) {
      // The zone's offset at that instant, which may be another than now.
      const offsetThen =
        typeof zone === "string" ? (offsetsOf(zone, at - offsetMs)[0] ?? offsetMs) : offsetMs;
      const waitMs = at - offsetThen - now;
      if (waitMs > 0 && (nearest === null || waitMs < nearest)) nearest = waitMs;
    }
  }
  return nearest;
}

/** What the wall may mean where a clock shows `localNow`, as epoch ms of that clock. */
function readingsOf({ year, month, day, timeMs }: Wall, localNow: number): number[] {
  if (month === null) {
    const today = Math.floor(localNow / DAY_MS) * DAY_MS + timeMs;
    return [today, today + DAY_MS];
  }
  if (year !== null) return dayMs(year, month, day).map((ms) => ms + timeMs);
  const thisYear = new Date(localNow).getUTCFullYear();
  const readings = [thisYear, thisYear + 1].flatMap((guess) => dayMs(guess, month, day));
  return readings.map((ms) => ms + timeMs).filter((ms) => ms - localNow < LONGEST_WITHOUT_YEAR_MS);
}

/** The day in epoch ms; nothing where there is no such day. */
function dayMs(year: number, month: number, day: number): number[] {
  const ms = Date.UTC(year, month - 1, day);
  return Number.isFinite(ms) && new Date(ms).getUTCDate() === day ? [ms] : [];
}

// ------------------------------------------------------------------- zones

/** Offsets in minutes that a zone may have, an IANA name, or a word that is none we know. */
type Zone = readonly number[] | string | null;

/** Where servers stand that write times without a zone: the Americas, Europe, India, China, Japan. Minutes. */
const USUAL_OFFSETS: readonly number[] = [-8, -7, -6, -5, -4, 0, 1, 2, 3, 5.5, 8, 9].map(
  (hours) => hours * 60,
);

/** Zones by their words, in lower case; an abbreviation that several share has all its readings. Minutes. */
// prettier-ignore
const ZONES: Readonly<Record<string, readonly number[] | string>> = {
  z: [0], utc: [0], gmt: [0], wet: [0, 60], bst: [60], ist: [330, 120, 60],
  cet: "Europe/Berlin", cest: [120], met: [60, 120], eet: "Europe/Helsinki", eest: [180], msk: [180],
  cst: [480, -360, -300], hkt: [480], sgt: [480], pht: [480], awst: [480], wib: [420], jst: [540], kst: [540],
  aest: [600, 660], aedt: [660], nzst: [720, 780], nzdt: [780], brt: [-180], art: [-180],
  est: "America/New_York", edt: [-240], et: "America/New_York", mst: "America/Denver", mdt: [-360],
  cdt: [-300], ct: "America/Chicago", mt: "America/Denver", pst: "America/Los_Angeles", pdt: [-420],
  pt: "America/Los_Angeles", akst: [-540, -480], hst: [-600],
  "beijing time": [480], beijing: [480], "china standard time": [480], "china time": [480], "shanghai time": [480],
  北京时间: [480], 北京時間: [480], 日本時間: [540], 한국시간: [540], "singapore time": [480], "tokyo time": [540],
  "pacific time": "America/Los_Angeles", "eastern time": "America/New_York", "central time": "America/Chicago",
  "pacific standard time": "America/Los_Angeles", "eastern standard time": "America/New_York", "japan standard time": [540],
  "india standard time": [330], "coordinated universal time": [0],
};
const ZONE_WORDS = Object.keys(ZONES)
  .sort((a, b) => b.length - a.length)
  .join("|");

/** `+0800`, `+08:00`, `-05`, `UTC+8`, `(GMT-3:30)`; the abbreviation behind it adds nothing. */
const NUMERIC_ZONE =
  /[ (（]{0,2}(?:(?:UTC|GMT) ?([+\-−])(\d{1,2})(?::?(\d{2}))?|([+\-−])(\d{2})(?::?(\d{2}))?)(?![\d:])/iy;
const NAMED_ZONE = new RegExp(String.raw`[ ,(（[]{0,3}(${ZONE_WORDS})(?![a-z\d/_])`, "iy");
const IANA_ZONE =
  /[ ,(（[]{0,3}([A-Z][A-Za-z]{1,14}\/[A-Z][A-Za-z_]{1,20}(?:\/[A-Z][A-Za-z_]{1,20})?)(?![a-z\d+-])/iy;
const ZONE_IN_GAP = new RegExp(
  String.raw`(?:^|[^a-z])(beijing time|北京时间|北京時間|utc|gmt|日本時間)[^a-z]{0,4}$`,
  "i",
);
const LONGEST_OFFSET_MIN = 14 * 60;

/** The zone that is written there; null: none is. */
function zoneAfter(text: string, at: number): Zone {
  const numeric = matchAt(NUMERIC_ZONE, text, at);
  if (numeric !== null) {
    const sign = numeric[1] ?? numeric[4];
    const minutes = Number(numeric[2] ?? numeric[5]) * 60 + Number(numeric[3] ?? numeric[6] ?? 0);
    if (minutes > LONGEST_OFFSET_MIN) return "not understood";
    return [sign === "+" ? minutes : -minutes];
  }
  const iana = matchAt(IANA_ZONE, text, at)?.[1];
  if (iana !== undefined) return isZoneName(iana) ? iana : "not understood";
  const named = matchAt(NAMED_ZONE, text, at)?.[1];
  return named === undefined ? null : (ZONES[named.toLowerCase()] ?? null);
}

/** 北京时间 2026-11-20 20:10:00. */
function zoneBefore(text: string, at: number): Zone {
  const word = ZONE_IN_GAP.exec(text.slice(Math.max(0, at - LONGEST_GAP), at))?.[1];
  return word === undefined ? null : (ZONES[word.toLowerCase()] ?? null);
}

function isZoneName(name: string): boolean {
  try {
    zoneOffsetMs(name, 0);
    return true;
  } catch {
    return false; // a RangeError: the runtime knows no such zone
  }
}

/** How far clocks of that zone are ahead of UTC at an instant, in ms. */
function offsetsOf(zone: Zone, at: number): number[] {
  if (zone === null) return USUAL_OFFSETS.map((minutes) => minutes * MINUTE_MS);
  if (typeof zone !== "string") return zone.map((minutes) => minutes * MINUTE_MS);
  if (zone === "Z") return [0];
  return zone === "+08:00" ? [8 * HOUR_MS] : [zoneOffsetMs(zone, at)];
}

/** A value that begins with a date and a time (`2026-11-20T20:10:00+0000`), in ms from `now`; null: none ahead. */
export function instantOf(value: string, now: number): number | null {
  const wait = /^\d{4}/.test(value) ? readInstant(value, 0, null, now) : null;
  return typeof wait === "number" ? wait : null;
}

/** What a sticky pattern finds exactly there. */
function matchAt(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  return pattern.exec(text);
}
