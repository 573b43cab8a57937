import { describe, expect, test } from "bun:test";
import type { AttemptRecord, KeyEvent, LogFields, LogLevel, RequestRecord } from "../core/events.ts";
import { FalseClock, until } from "../testing/fixture.ts";
import { createBoundedWriter, createLog, keyEventFields, logObserver, requestFields } from "./log.ts";
import type { Send } from "./log.ts";

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

  test.each([
    ["debug", "<7>"],
    ["info", "<6>"],
    ["warn", "<4>"],
    ["error", "<3>"],
  ] as const)("begins a line of level %s with %s for the journal, in text and in JSON", (level, severity) => {
    for (const format of ["text", "json"] as const) {
      const written: string[] = [];
      const clock = new FalseClock(NOON);
      const log = createLog({
        level: "debug",
        format,
        clock,
        toJournal: true,
        write: (text) => written.push(text),
      });
      log.line(level, "one");
      log.line(level, "two");
      log.flush();
      const lines = written.join("").trimEnd().split("\n");
      expect(lines.map((line) => line.slice(0, 4))).toEqual([
        `${severity}${format === "json" ? "{" : "1"}`,
        `${severity}${format === "json" ? "{" : "1"}`,
      ]);
    }
  });

  const lines: [says: string, fields: LogFields, text: string][] = [
    ["a bare event", {}, "12:00:07 happened\n"],
    [
      "words and numbers",
      { status: 200, key: "groq/0", ok: true },
      "12:00:07 happened status=200 key=groq/0 ok=true\n",
    ],
    ["what is not known is left out", { model: null, client: undefined, n: 0 }, "12:00:07 happened n=0\n"],
    ["a value with a blank is quoted", { said: "slow down" }, '12:00:07 happened said="slow down"\n'],
    ["an empty value is quoted", { said: "" }, '12:00:07 happened said=""\n'],
    ["an equals sign cannot forge a field", { path: "/a=b" }, '12:00:07 happened path="/a=b"\n'],
    [
      "a line break cannot forge a line",
      { said: "a\n12:00:08 error x" },
      '12:00:07 happened said="a\\n12:00:08 error x"\n',
    ],
    [
      "an escape sequence cannot reach the terminal",
      { said: "\u001b[2J" },
      '12:00:07 happened said="\\u001b[2J"\n',
    ],
  ];
  test.each(lines)("as text: %s", (_, fields, text) => {
    const { log, written } = open("info", "text");
    log.line("info", "happened", fields);
    log.flush();
    expect(written.join("")).toBe(text);
  });

  test("as text: a C1 control, which some terminals obey, does not get through", () => {
    const { log, written } = open("info", "text");
    log.line("info", "happened", { said: "\u009b2J\u007f" });
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

  test("takes another level while it runs", () => {
    const { log, written } = open("warn", "json");
    log.line("info", "unheard");
    log.setLevel("info");
    log.line("info", "heard");
    log.flush();
    expect(written.join("")).toMatch(/^[^\n]*"event":"heard"[^\n]*\n$/);
  });
});

const attempt = (key: number, verdict: string, provider = "default"): AttemptRecord => ({
  provider,
  key,
  keyId: "3e23e816",
  account: null,
  verdict,
  status: verdict === "served" ? 200 : 429,
  ms: 120,
  said: "",
});

const record = (changes: Partial<RequestRecord> = {}): RequestRecord => ({
  id: 7,
  at: NOON,
  method: "POST",
  path: "/v1/chat/completions",
  provider: "default",
  model: "gpt-4o-mini",
  status: 200,
  outcome: "served",
  key: "0",
  keyId: "3e23e816",
  account: null,
  attempts: [attempt(0, "served")],
  waitedMs: 0,
  firstByteMs: 412,
  totalMs: 1234,
  bytes: 12_345,
  client: null,
  isTruncated: false,
  reason: "",
  maybeBilledReplays: 0,
  ...changes,
});

describe("the line of a request", () => {
  test("has the fields that scripts read", () => {
    expect(JSON.parse(JSON.stringify(requestFields(record())))).toEqual({
      method: "POST",
      path: "/v1/chat/completions",
      status: 200,
      outcome: "served",
      provider: "default",
      model: "gpt-4o-mini",
      key_id: "3e23e816",
      attempts: 1,
      first_byte_ms: 412,
      total_ms: 1234,
      bytes: 12_345,
      client: null,
    });
  });

  test("tells the tokens where the answer named any", () => {
    const tokens = { input: 100, output: 20, cached: 60, cacheWrite: 0, reasoning: 10 };
    expect(requestFields(record({ tokens }))).toMatchObject({
      input_tokens: 100,
      output_tokens: 20,
      cached_tokens: 60,
      cache_write_tokens: 0,
      reasoning_tokens: 10,
    });
    expect(requestFields(record({ tokens: null }))).not.toHaveProperty("input_tokens");
    const { log, written } = open("info", "text");
    log.request(record({ tokens }));
    log.flush();
    expect(written.join("")).toContain(", 100 tokens in and 20 out");
  });

  test("tells what was out of the ordinary", () => {
    const attempts = [attempt(0, "rate_limited"), attempt(1, "served", "groq")];
    const changes = { attempts, waitedMs: 900, isTruncated: true, maybeBilledReplays: 1, client: "ann" };
    expect(requestFields(record(changes))).toMatchObject({
      attempts: 2,
      trail: "3e23e816:rate_limited groq/3e23e816:served",
      waited_ms: 900,
      truncated: true,
      maybe_billed_replays: 1,
      client: "ann",
    });
  });

  const texts: [says: string, changes: Partial<RequestRecord>, text: string][] = [
    [
      "the usual one",
      {},
      "200   1.2s [3e23e816] POST /v1/chat/completions gpt-4o-mini, first byte 412ms, 12.3 kB",
    ],
    [
      "two attempts and a wait",
      {
        attempts: [attempt(0, "rate_limited"), attempt(1, "served")],
        key: "1",
        waitedMs: 20_000,
        totalMs: 21_000,
      },
      "200  21.0s [3e23e816] POST /v1/chat/completions gpt-4o-mini, tried 3e23e816:rate_limited 3e23e816:served, waited 20.0s, first byte 412ms, 12.3 kB",
    ],
    [
      "a refusal of our own",
      {
        status: 503,
        outcome: "all_keys_cooling",
        key: null,
        keyId: null,
        model: null,
        attempts: [],
        firstByteMs: null,
        totalMs: 3,
        bytes: 0,
      },
      "warn 503    3ms [-] POST /v1/chat/completions, all_keys_cooling",
    ],
    [
      "a key of an account at a named provider",
      { provider: "groq", account: "alice" },
      "200   1.2s [groq/alice@3e23e816] POST /v1/chat/completions gpt-4o-mini, first byte 412ms, 12.3 kB",
    ],
    [
      "why an answer failed",
      { status: 502, outcome: "upstream_unreachable", reason: "The provider's name is not known.", bytes: 0 },
      'warn 502   1.2s [3e23e816] POST /v1/chat/completions gpt-4o-mini, upstream_unreachable: "The provider\'s name is not known.", first byte 412ms',
    ],
    [
      "a text that turns the line around",
      { path: "/v1/\u202eabc", model: "m\u2028n" },
      '200   1.2s [3e23e816] POST "/v1/\\u202eabc" "m\\u2028n", first byte 412ms, 12.3 kB',
    ],
    [
      "a client that left a long stream, cut short",
      {
        status: 499,
        outcome: "abandoned",
        totalMs: 200_000,
        bytes: 2_345_678,
        isTruncated: true,
        client: "ann",
      },
      "warn 499  3m20s [3e23e816] POST /v1/chat/completions gpt-4o-mini, abandoned, first byte 412ms, 2.3 MB, cut short, for ann",
    ],
    [
      "a path and a model that would forge a line",
      { path: "/v1/\n12:00:08 200", model: "a\u001b[2J b" },
      '200   1.2s [3e23e816] POST "/v1/\\n12:00:08 200" "a\\u001b[2J b", first byte 412ms, 12.3 kB',
    ],
  ];
  test.each(texts)("as text: %s", (_, changes, text) => {
    const { log, written } = open("info", "text");
    logObserver(log).finished?.(record(changes));
    log.flush();
    expect(written.join("")).toBe(`12:00:07 ${text}\n`);
  });

  const levels: [says: string, changes: Partial<RequestRecord>, level: string][] = [
    ["an answer is info", {}, "info"],
    ["what upstream does not take is the client's own doing", { status: 400, outcome: "rejected" }, "info"],
    ["a client that left did so itself", { status: 499, outcome: "abandoned" }, "info"],
    ["a failure of upstream is a warning", { status: 502, outcome: "upstream_unreachable" }, "warn"],
    ["upstream's own 500 is one", { status: 500, outcome: "overloaded" }, "warn"],
    ["no key in time is one", { status: 503, outcome: "all_keys_cooling" }, "warn"],
    ["so it is as a 429", { status: 429, outcome: "all_keys_cooling" }, "warn"],
    ["a clock that ran out is one", { status: 504, outcome: "first_byte_timeout" }, "warn"],
    ["a body that is too large is one", { status: 413, outcome: "body_too_large" }, "warn"],
    [
      "an answer that was cut is one, whatever its status",
      { isTruncated: true, outcome: "unreachable" },
      "warn",
    ],
  ];
  test.each(levels)("%s", (says, changes, level) => {
    const { log, written } = open("warn", "json");
    logObserver(log).finished?.(record({ ...changes, reason: "because" }));
    log.flush();
    const [line] = written.join("").split("\n");
    if (level === "info") return expect([says, line]).toEqual([says, ""]);
    expect(JSON.parse(line ?? "")).toMatchObject({ level: "warn", event: "request", reason: "because" });
  });

  test("is not even gathered at LOG_LEVEL=warn", async () => {
    const { clock, log, written } = open("warn", "json");
    logObserver(log).finished?.(record());
    expect(clock.timers).toBe(0);
    await clock.advance(1000);
    expect(written).toEqual([]);
  });
});

describe("the line of a key's change", () => {
  const change = (changes: Partial<KeyEvent>): KeyEvent => ({
    at: NOON,
    provider: "groq",
    key: 1,
    keyId: "3e23e816",
    account: null,
    kind: "cooled",
    model: null,
    reason: "rate_limit",
    until: NOON + 42_000,
    said: "",
    ...changes,
  });
  const lines: [says: string, changes: Partial<KeyEvent>, text: string][] = [
    ["a key that rests", {}, "key_cooled provider=groq key=3e23e816 reason=rate_limit for=42s"],
    [
      "a model that rests on a key",
      { model: "llama 3", said: "slow down" },
      'key_cooled provider=groq key=3e23e816 model="llama 3" reason=rate_limit for=42s said="slow down"',
    ],
    [
      "a dead key is a warning",
      { kind: "disabled", reason: "invalid_key", until: null },
      "warn key_disabled provider=groq key=3e23e816 reason=invalid_key",
    ],
    [
      "a provider as a whole",
      { kind: "provider_paused", key: null, keyId: null, reason: "upstream_faults" },
      "warn provider_paused provider=groq reason=upstream_faults for=42s",
    ],
    [
      "a cooldown that is over already",
      { until: NOON - 5 },
      "key_cooled provider=groq key=3e23e816 reason=rate_limit for=0ms",
    ],
  ];
  test.each(lines)("as text: %s", (_, changes, text) => {
    const { log, written } = open("info", "text");
    logObserver(log).keyChanged?.(change(changes));
    log.flush();
    expect(written.join("")).toBe(`12:00:07 ${text}\n`);
  });

  test("as JSON: has the key's id and the instant", () => {
    expect(keyEventFields(change({})).fields).toMatchObject({
      key_id: "3e23e816",
      until: "2026-11-20T12:00:49.250Z",
    });
  });

  test("at LOG_LEVEL=warn only what somebody may have to act on is written", () => {
    const { log, written } = open("warn", "text");
    const kinds: KeyEvent["kind"][] = ["cooled", "disabled", "back", "pool_dry", "pool_recovered"];
    for (const kind of kinds) logObserver(log).keyChanged?.(change({ kind }));
    log.flush();
    expect(written.join("").match(/key_\w+|pool_\w+/g)).toEqual(["key_disabled", "pool_dry"]);
  });
});

/** A reader who takes each text when a test says so. */
function slowReader() {
  const taken: string[] = [];
  const waiting: PromiseWithResolvers<void>[] = [];
  const send: Send = (text) => {
    taken.push(text);
    const wait = Promise.withResolvers<void>();
    waiting.push(wait);
    return wait.promise;
  };
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  return {
    taken,
    send,
    async takes() {
      waiting.shift()?.resolve();
      await turn();
    },
    async fails(code: string) {
      waiting.shift()?.reject(Object.assign(new Error("no"), { code }));
      await turn();
    },
  };
}

const sayDropped = (lines: number) => `dropped ${lines}\n`;

describe("output that waits for nobody", () => {
  test("writes at once what is taken at once", () => {
    const taken: string[] = [];
    const writer = createBoundedWriter((text) => void taken.push(text), sayDropped);
    writer.write("a\n");
    writer.write("b\n");
    expect(taken).toEqual(["a\n", "b\n"]);
  });

  test("keeps the order behind a slow reader, and writes together what came meanwhile", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped);
    for (const text of ["a\n", "b\n", "c\n"]) writer.write(text);
    expect(reader.taken).toEqual(["a\n"]);
    await reader.takes();
    expect(reader.taken).toEqual(["a\n", "b\nc\n"]);
    await reader.takes();
    writer.write("d\n");
    expect(reader.taken).toEqual(["a\n", "b\nc\n", "d\n"]);
  });

  test("drops what is beyond its bound, and says how many lines that were once they are read again", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped, 10);
    for (const text of ["aaaa\n", "bbbb\n", "c\nd\n", "e\n"]) writer.write(text);
    await reader.takes();
    expect(reader.taken).toEqual(["aaaa\n", "bbbb\ndropped 3\n"]);
    await reader.takes();
    writer.write("f\n");
    expect(reader.taken.at(-1)).toBe("f\n");
  });

  test("says that lines were dropped even when none comes after them", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped, 10);
    writer.write("aaaaaaaaa\n");
    writer.write("b\n");
    await reader.takes();
    expect(reader.taken).toEqual(["aaaaaaaaa\n", "dropped 1\n"]);
  });

  test("takes a single text that is longer than the bound", () => {
    const reader = slowReader();
    createBoundedWriter(reader.send, sayDropped, 10).write("a long line that stands alone\n");
    expect(reader.taken.length).toBe(1);
  });

  test("is silent for good when its reader is gone", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped);
    writer.write("a\n");
    writer.write("b\n");
    await reader.fails("EPIPE");
    writer.write("c\n");
    await writer.flushed();
    expect(reader.taken).toEqual(["a\n"]);
  });

  test("goes on after a full disk, and says how many lines that cost", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped);
    writer.write("a\nb\n");
    await reader.fails("ENOSPC");
    expect(reader.taken.length).toBe(1); // not tried again in a circle
    writer.write("c\n");
    expect(reader.taken.at(-1)).toBe("c\ndropped 2\n");
  });

  test("survives a send that throws at once", () => {
    let isFull = true;
    const taken: string[] = [];
    const writer = createBoundedWriter((text) => {
      if (isFull) throw Object.assign(new Error("no"), { code: "ENOSPC" });
      taken.push(text);
    }, sayDropped);
    writer.write("a\n");
    isFull = false;
    writer.write("b\n");
    expect(taken).toEqual(["b\ndropped 1\n"]);
  });

  test("is flushed when the last text was taken", async () => {
    const reader = slowReader();
    const writer = createBoundedWriter(reader.send, sayDropped);
    writer.write("a\n");
    let isFlushed = false;
    const flushed = writer.flushed().then(() => (isFlushed = true));
    expect(isFlushed).toBe(false);
    await reader.takes();
    await flushed;
    expect(isFlushed).toBe(true);
  });
});

describe("standard output", () => {
  /** Writes 3 MB into its standard output, and says on stderr that it still goes on. */
  const PROGRAM = `
    const { createBoundedWriter, sendToStdout } = await import("${import.meta.dir}/log.ts");
    const writer = createBoundedWriter(sendToStdout(false), (lines) => "dropped " + lines + "\\n");
    let line = 0;
    for (let batch = 0; batch < 60; batch++) {
      let text = "";
      while (text.length < 50_000) text += "line " + line++ + "\\n";
      writer.write(text);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    console.error("goes on after " + line);
    await writer.flushed();
    writer.write("the end\\n");
    console.error("and ends");
  `;

  test("is not waited for while nobody reads; what is read then is in order, and what is missing is said", async () => {
    // The reader begins when it is told to, on a descriptor of its own.
    const pipeline = 'exec 3<&0; "$0" -e "$1" </dev/null | { read go <&3; cat; }';
    const child = Bun.spawn(["sh", "-c", pipeline, process.execPath, PROGRAM], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    let said = "";
    void (async () => {
      for await (const bytes of child.stderr) said += Buffer.from(bytes).toString();
    })();
    await until("the program goes on although its output is stuck", () => said.includes("goes on"));
    expect(said).not.toContain("and ends");
    child.stdin.write("go\n");
    child.stdin.end();
    const lines = (await child.stdout.text()).trimEnd().split("\n");
    expect(await child.exited).toBe(0);
    const written = Number(/goes on after (\d+)/.exec(said)?.[1]);
    const kept = lines.filter((line) => line.startsWith("line ")).map((line) => Number(line.slice(5)));
    expect(kept).toEqual(kept.map((_, index) => index));
    expect(lines.at(-2)).toBe(`dropped ${written - kept.length}`);
    expect(lines.at(-1)).toBe("the end");
  });

  test("may be closed without harm", async () => {
    const pipeline = '"$0" -e "$1" | head -c 100 >/dev/null';
    const child = Bun.spawn(["sh", "-c", pipeline, process.execPath, PROGRAM], { stderr: "pipe" });
    expect(await child.stderr.text()).toMatch(/^goes on after \d+\nand ends\n$/);
  });
});
