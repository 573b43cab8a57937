/** P46 and P47 end to end: somebody sets the machine's date while the proxy works, or it was wrong from the start. */
import { expect, spyOn, test } from "bun:test";
import { systemClock } from "../core/clock.ts";
import { fromDates, inDates } from "../pool/key.ts";
import type { KeyState } from "../pool/key.ts";
import { ask, FalseClock, httpAnswer, stage, startRawProvider, until } from "./fixture.ts";
import type { WireAnswer } from "./fixture.ts";

const SEC = 1000;
const HOUR = 3600 * SEC;
const DAY = 24 * HOUR;

const SET_BY = [
  ["an hour back", -HOUR],
  ["a day back", -DAY],
  ["an hour ahead", HOUR],
  ["a day ahead", DAY],
  ["ten years ahead", 3650 * DAY],
] as const;

const SETTINGS = { API_KEYS: "one", PROVIDER: "generic", COOLDOWN_SEC: "60", MAX_WAIT_SEC: "1" };

test("P46 the clock that everything is measured with does not follow the date", () => {
  const before = systemClock.now();
  const date = spyOn(Date, "now").mockReturnValue(0);
  try {
    expect(systemClock.now() - before).toBeWithin(0, SEC);
    expect(systemClock.wall()).toBe(0);
  } finally {
    date.mockRestore();
  }
  expect(Math.abs(systemClock.now() - Date.now())).toBeLessThan(10 * SEC);
});

test.each(SET_BY)(
  "P46 a cooldown is neither longer nor shorter where the date is set %s",
  async (_, byMs) => {
    await using provider = startRawProvider((_, connection) =>
      connection.write(httpAnswer(429, '{"error":{"message":"Rate limit reached"}}')),
    );
    const clock = new FalseClock();
    await using staged = stage({ settings: { ...SETTINGS, TARGET_BASE_URL: provider.url }, clock });
    await answered(await ask(staged.url, "/v1/chat/completions"));
    const restOf = async () => (await staged.health()).providers[0]?.keys[0]?.cooldown_sec;
    expect(await restOf()).toBe(60);
    clock.setWall(byMs);
    expect(await restOf()).toBe(60);
    clock.drift(20 * SEC);
    expect(await restOf()).toBe(40);
  },
);

test.each(SET_BY)("P46 a date in a hint means the same where the date was set %s", async (_, byMs) => {
  const clock = new FalseClock();
  clock.setWall(byMs);
  await using provider = startRawProvider((_, connection) =>
    connection.write(
      httpAnswer(429, '{"error":{"message":"Rate limit reached"}}', {
        "retry-after": new Date(clock.wall() + 30 * SEC).toUTCString(),
      }),
    ),
  );
  await using staged = stage({ settings: { ...SETTINGS, TARGET_BASE_URL: provider.url }, clock });
  await answered(await ask(staged.url, "/v1/chat/completions"));
  expect((await staged.health()).providers[0]?.keys[0]?.cooldown_sec).toBe(30);
});

test.each(SET_BY)("P46 a stream is not cut for silence where the date is set %s", async (_, byMs) => {
  let go = () => {};
  await using provider = startRawProvider((_, connection) => {
    connection.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
    connection.write('data: {"choices":[{"delta":{"content":"a"}}]}\n\n');
    go = () => {
      connection.write("data: [DONE]\n\n");
      connection.end();
    };
  });
  const clock = new FalseClock();
  const settings = { ...SETTINGS, TARGET_BASE_URL: provider.url, STREAM_IDLE_TIMEOUT_SEC: "120" };
  await using staged = stage({ settings, clock });
  const answer = await ask(staged.url, "/v1/chat/completions");
  await until("the stream begins", () => String(answer.body).includes('"a"'));
  clock.setWall(byMs);
  await clock.advance(SEC);
  go();
  await answered(answer);
  expect(String(answer.body)).toEndWith("data: [DONE]\n\n");
  expect(staged.logged().find(({ event }) => event === "request")?.["total_ms"]).toBeWithin(0, 2 * SEC);
});

const NOW = Date.UTC(2026, 10, 20, 12);
const REST_LIMIT = DAY;

const RESTING: KeyState = {
  cooldown: { until: NOW + HOUR, beganAt: NOW - HOUR, reason: "billing", strikes: 0, answeredAt: 0 },
  models: {
    m: {
      cooldown: { until: NOW + 60 * SEC, beganAt: NOW, reason: "rate_limit", strikes: 0, answeredAt: 0 },
      deniedUntil: NOW + 6 * HOUR,
      limiter: null,
    },
  },
  disabled: null,
  isPaused: false,
  today: 3,
  dayEndsAt: NOW + 12 * HOUR,
  requests: 3,
  rateLimited: 1,
  errors: 0,
  lastUsedAt: NOW,
  limiter: null,
};

test.each<[sentence: string, date: number, restMs: number, modelRestMs: number]>([
  ["by the same date", 0, HOUR, 60 * SEC],
  ["half an hour later", HOUR / 2, HOUR / 2, 0],
  ["an hour too early", -HOUR, 2 * HOUR, 60 * SEC],
  ["without a date, in 1970", -NOW, 2 * HOUR, 60 * SEC],
  ["by a clock ten years behind", -3650 * DAY, 2 * HOUR, 60 * SEC],
  ["by a clock ten years ahead", 3650 * DAY, 0, 0],
])("P47 a rest that was stored and is read %s is no longer than it was", (_, date, restMs, modelRestMs) => {
  const stored = inDates(RESTING, 0);
  const now = 5 * DAY; // the measuring clock of another run begins anywhere
  const read = fromDates(stored, NOW + date - now, now, REST_LIMIT);
  expect(Math.max(0, (read.cooldown?.until ?? 0) - now)).toBe(restMs);
  expect(Math.max(0, (read.models["m"]?.cooldown?.until ?? 0) - now)).toBe(modelRestMs);
  expect((read.models["m"]?.deniedUntil ?? 0) - now).toBeLessThanOrEqual(REST_LIMIT);
  expect(read.today).toBe(3);
});

test("P47 a rest is never longer than MAX_COOLDOWN_SEC allows now", () => {
  const read = fromDates(RESTING, 0, NOW, 10 * 60 * SEC);
  expect(read.cooldown?.until).toBe(NOW + 10 * 60 * SEC);
});

test("P46 instants that are stored are dates, and come back as they were", () => {
  const offset = 7 * HOUR;
  const stored = inDates(RESTING, offset);
  expect(stored.cooldown?.until).toBe(NOW + HOUR + offset);
  expect(stored.lastUsedAt).toBe(NOW + offset);
  expect(fromDates(stored, offset, NOW, REST_LIMIT)).toEqual(RESTING);
});

async function answered(answer: WireAnswer): Promise<void> {
  await until("it is answered", () => answer.end !== null);
}
