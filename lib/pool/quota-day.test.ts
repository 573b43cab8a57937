import { expect, test } from "bun:test";
import { QuotaDay } from "./quota-day.ts";
import type { DayChange } from "./quota-day.ts";
import { FalseClock } from "../testing/fixture.ts";

const SEC = 1000;
const HOUR = 3600 * SEC;
const DAY = 24 * HOUR;
/** The clock begins at noon. */
const NOON_TO_MIDNIGHT = 12 * HOUR;

interface Step {
  /** How far the time goes on, and how far the date is set besides. */
  readonly passes?: number;
  readonly dateSetBy?: number;
}

test.each<[sentence: string, Step, change: DayChange, endsIn: number]>([
  ["goes on within a day", { passes: HOUR }, "same", NOON_TO_MIDNIGHT - HOUR],
  ["ends at midnight", { passes: NOON_TO_MIDNIGHT }, "new", DAY],
  ["ends once where days went by", { passes: 3 * DAY }, "new", NOON_TO_MIDNIGHT],
  [
    "P46 ends later where the date is set back an hour",
    { passes: SEC, dateSetBy: -HOUR },
    "set",
    13 * HOUR - SEC,
  ],
  [
    "P46 ends sooner where the date is set ahead an hour",
    { passes: SEC, dateSetBy: HOUR },
    "set",
    11 * HOUR - SEC,
  ],
  [
    "P47 does not begin again where the date is set back over midnight",
    { passes: SEC, dateSetBy: -13 * HOUR },
    "set",
    HOUR - SEC,
  ],
  [
    "P47 does not begin again where the date falls back to 1970",
    { passes: SEC, dateSetBy: -56 * 365 * DAY },
    "set",
    NOON_TO_MIDNIGHT - SEC,
  ],
  [
    "is another one where the date is set ahead over midnight",
    { passes: SEC, dateSetBy: DAY },
    "new",
    NOON_TO_MIDNIGHT - SEC,
  ],
  [
    "goes on where the date drifts by a fraction of a second",
    { passes: SEC, dateSetBy: 400 },
    "same",
    NOON_TO_MIDNIGHT - SEC,
  ],
])("a day of counts %s", (_, { passes = 0, dateSetBy = 0 }, change, endsIn) => {
  const clock = new FalseClock();
  const day = new QuotaDay(clock);
  expect(day.look("UTC", clock.now())).toBe("new");
  clock.setWall(dateSetBy);
  clock.drift(passes);
  expect(day.look("UTC", clock.now())).toBe(change);
  expect(day.endsAt - clock.now()).toBe(endsIn);
});

test("P47 a day ends when its length is over, also where the date stays behind", () => {
  const clock = new FalseClock();
  const day = new QuotaDay(clock);
  day.look("UTC", clock.now());
  clock.setWall(-400 * DAY);
  clock.drift(SEC);
  expect(day.look("UTC", clock.now())).toBe("set");
  clock.drift(day.endsAt - clock.now());
  expect(day.look("UTC", clock.now())).toBe("new");
});

test.each<[sentence: string, startsAt: number, isSetTo: number, passes: number, change: DayChange]>([
  ["goes on where it gets its date", 0, Date.UTC(2026, 10, 20, 12), HOUR, "set"],
  ["goes on where it gets a date of another day, too", 5 * HOUR, Date.UTC(2031, 0, 1), HOUR, "set"],
  [
    "goes on where its date was that of its making",
    Date.UTC(2020, 4, 1),
    Date.UTC(2026, 10, 20, 1),
    2 * SEC,
    "set",
  ],
  ["is over where that takes longer than a day", 0, Date.UTC(2026, 10, 20, 12), DAY, "new"],
  ["goes on where another date without a year comes", 0, 3 * HOUR, 2 * SEC, "set"],
  ["is over where a true date is set ahead", Date.UTC(2026, 10, 20), Date.UTC(2026, 10, 21, 3), HOUR, "new"],
])("P47 a day that began on a machine without a date %s", (_, startsAt, isSetTo, passes, change) => {
  const clock = new FalseClock();
  clock.setWall(startsAt - clock.wall());
  const day = new QuotaDay(clock);
  expect(day.look("UTC", clock.now())).toBe("new");
  clock.drift(passes);
  clock.setWall(isSetTo - clock.wall());
  expect(day.look("UTC", clock.now())).toBe(change);
  expect(day.endDate).toBeGreaterThan(change === "set" && isSetTo < DAY ? 0 : Date.UTC(2026, 0));
});

test.each<[sentence: string, endDate: (today: number) => number, goesOn: boolean]>([
  ["P47 count on where they are of today", (today) => today, true],
  ["P47 count on where they are of tomorrow: the date is behind", (today) => today + DAY, true],
  [
    "P47 count on where they are of another decade: the machine has no date yet",
    (today) => today + 3650 * DAY,
    true,
  ],
  ["are over where they are of yesterday", (today) => today - DAY, false],
  ["are over where there are none", () => 0, false],
])("counts that were stored %s", (_, endDate, goesOn) => {
  const clock = new FalseClock();
  const day = new QuotaDay(clock);
  day.look("UTC", clock.now());
  expect(day.goesOn(endDate(day.endDate))).toBe(goesOn);
});
