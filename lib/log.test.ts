import { describe, expect, test } from "bun:test";
import { FalseClock } from "./fixture.ts";
import { createLog, type LogFields, type LogLevel } from "./log.ts";

const NOON = Date.UTC(2026, 10, 20, 12, 0, 7, 250);

function open(level: LogLevel, format: "text" | "json") {
  const clock = new FalseClock(NOON);
  const written: string[] = [];
  const log = createLog({ level, format, clock, write: (text) => written.push(text) });
  return { clock, written, log };
}

describe("the log", () => {
  const LEVELS = ["debug", "info", "warn", "error"] as const;
  const levels = LEVELS.flatMap((level, least) =>
    LEVELS.map((asked, rank) => [level, asked, rank >= least] as const),
  );
  test.each(levels)("at LOG_LEVEL=%s a line of level %s is written: %p", (level, asked, isWritten) => {
    const { log, written } = open(level, "json");
    log.line(asked, "happened");
    log.flush();
    expect(log.enabled(asked)).toBe(isWritten);
    expect(written.length).toBe(isWritten ? 1 : 0);
  });

  const lines: [says: string, fields: LogFields, text: string][] = [
    ["a bare event", {}, "12:00:07 request\n"],
    [
      "words and numbers",
      { status: 200, key: "groq/0", ok: true },
      "12:00:07 request status=200 key=groq/0 ok=true\n",
    ],
    ["what is not known is left out", { model: null, client: undefined, n: 0 }, "12:00:07 request n=0\n"],
    ["a value with a blank is quoted", { said: "slow down" }, '12:00:07 request said="slow down"\n'],
    ["an empty value is quoted", { said: "" }, '12:00:07 request said=""\n'],
    ["an equals sign cannot forge a field", { path: "/a=b" }, '12:00:07 request path="/a=b"\n'],
    [
      "a line break cannot forge a line",
      { said: "a\n12:00:08 error x" },
      '12:00:07 request said="a\\n12:00:08 error x"\n',
    ],
    [
      "an escape sequence cannot reach the terminal",
      { said: "\u001b[2J" },
      '12:00:07 request said="\\u001b[2J"\n',
    ],
  ];
  test.each(lines)("as text: %s", (_, fields, text) => {
    const { log, written } = open("info", "text");
    log.line("info", "request", fields);
    log.flush();
    expect(written.join("")).toBe(text);
  });

  test("as text: a C1 control, which some terminals obey, does not get through", () => {
    const { log, written } = open("info", "text");
    log.line("info", "request", { said: "\u009b2J\u007f" });
    log.flush();
    expect(written.join("")).not.toMatch(/[\u007f-\u009f]/);
  });

  test("as text: a level other than info is named", () => {
    const { log, written } = open("info", "text");
    log.line("warn", "key_disabled", { key: 1 });
    log.flush();
    expect(written.join("")).toBe("12:00:07 warn key_disabled key=1\n");
  });

  test("as JSON: one object a line, time first", () => {
    const { log, written } = open("info", "json");
    log.line("error", "bug", { said: 'a "quote"\n', none: null, absent: undefined });
    log.line("info", "request", { status: 200 });
    log.flush();
    const [first, second, rest] = written.join("").split("\n");
    expect(first).toBe(
      '{"time":"2026-11-20T12:00:07.250Z","level":"error","event":"bug","said":"a \\"quote\\"\\n","none":null}',
    );
    expect(JSON.parse(second ?? "")).toEqual({
      time: "2026-11-20T12:00:07.250Z",
      level: "info",
      event: "request",
      status: 200,
    });
    expect(rest).toBe("");
  });

  test("gathers lines and writes them together, at most 200 ms later, each once", async () => {
    const { clock, log, written } = open("info", "json");
    log.line("info", "one");
    log.line("info", "two");
    expect(written).toEqual([]);
    await clock.advance(200);
    expect(written.length).toBe(1);
    expect(written[0]?.split("\n").length).toBe(3);
    await clock.advance(1000);
    expect(written.length).toBe(1);
    expect(clock.timers).toBe(0);
    log.line("info", "three");
    await clock.advance(200);
    expect(written.length).toBe(2);
  });

  test("writes nothing when there is nothing to write", async () => {
    const { clock, log, written } = open("info", "json");
    log.line("debug", "unheard");
    log.flush();
    await clock.advance(1000);
    expect(written).toEqual([]);
  });
});
