import { describe, expect, test } from "bun:test";
import { createBrotliCompress, createGzip, createZstdCompress, gzipSync } from "node:zlib";
import {
  answerHead,
  ask,
  chunk,
  httpAnswer,
  LAST_CHUNK,
  seeded,
  settled,
  stage,
  startRawProvider,
  until,
} from "../testing/fixture.ts";
import type { RawConnection, Stage, WireAnswer } from "../testing/fixture.ts";
import { followerOf, framingOf } from "./sse.ts";
import { streamDialectOf } from "./stream-dialect.ts";
import type { StreamFollower } from "./stream-follower.ts";

// ── What the dialects' streams look like ────────────────────────────────────────────────────────────────────────

/** An event of a stream that names its events. */
const named = (name: string, fields: object = {}) =>
  `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;
const unnamed = (fields: object) => `data: ${JSON.stringify(fields)}\n\n`;
const line = (fields: object) => `${JSON.stringify(fields)}\n`;

const delta = (content: string, finish_reason: string | null = null) =>
  unnamed({ id: "chatcmpl-1", choices: [{ index: 0, delta: { content }, finish_reason }] });
const candidate = (text: string, more: object = {}) =>
  unnamed({ candidates: [{ content: { parts: [{ text }], role: "model" }, index: 0, ...more }] });
const written = (content: string) =>
  line({ model: "m", message: { role: "assistant", content }, done: false });

/** Text of a model that speaks of the marks with which streams end. */
const TREACHEROUS =
  'Grüße 👋 data: [DONE]\nevent: message_stop\n"finish_reason":"stop" "type":"message_stop" "finishReason":"STOP" "done":true data: {"error":1}';

interface Sample {
  path: string;
  contentType: string;
  /** Everything before the event that ends the stream. */
  begun: string;
  ending: string;
}

const EVENTS = "text/event-stream; charset=utf-8";
const USAGE = { usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 } };
const CHAT = delta("") + delta(TREACHEROUS) + delta("…and more");
const MESSAGES =
  named("message_start", { message: { id: "msg_1", content: [] } }) +
  named("ping") +
  named("content_block_delta", { index: 0, delta: { type: "text_delta", text: TREACHEROUS } });
const RESPONSES =
  named("response.created", { response: { id: "resp_1", status: "in_progress" } }) +
  named("response.output_text.delta", { delta: TREACHEROUS });
const GEMINI = candidate("") + candidate(TREACHEROUS);
const OLLAMA = written("") + written(TREACHEROUS);
const GEMINI_PATH = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse";
/** A final event that repeats the whole answer, as the Responses API sends it. */
const repeating = (bytes: number) => ({ response: { id: "resp_1", output: "é".repeat(bytes / 2) } });

const chatSample = (ending: string): Sample => ({
  path: "/v1/chat/completions",
  contentType: EVENTS,
  begun: CHAT,
  ending,
});
const responsesSample = (ending: string): Sample => ({
  path: "/v1/responses",
  contentType: EVENTS,
  begun: RESPONSES,
  ending,
});
const messagesSample = (ending: string): Sample => ({
  path: "/v1/messages",
  contentType: EVENTS,
  begun: MESSAGES,
  ending,
});
const geminiSample = (ending: string): Sample => ({
  path: GEMINI_PATH,
  contentType: "text/event-stream",
  begun: GEMINI,
  ending,
});
const ollamaSample = (path: string): Sample => ({
  path,
  contentType: "application/x-ndjson",
  begun: OLLAMA,
  ending: line({ model: "m", message: { content: "" }, done: true, done_reason: "stop", total_duration: 5 }),
});

/** Every way in which a stream says that it is complete. */
const COMPLETE: [sentence: string, sample: Sample][] = [
  ["chat, with a finish_reason and [DONE]", chatSample(delta("", "stop") + "data: [DONE]\n\n")],
  ["chat, with usage between finish_reason and [DONE]", chatSample(delta("", "length") + unnamed(USAGE) + "data: [DONE]\n\n")],
  ["chat, with [DONE] and no finish_reason", chatSample("data: [DONE]\n\n")],
  ["chat, with [DONE] without a space", chatSample("data:[DONE]\n\n")],
  ["chat, with [DONE] and one line break", chatSample("data: [DONE]\n")],
  ["chat, with a finish_reason only", chatSample(delta("", "tool_calls"))],
  ["chat, with a finish_reason and usage", chatSample(delta("", "stop") + unnamed(USAGE))],
  ["chat, with a finish_reason in JSON with spaces", chatSample('data: {"choices": [{"finish_reason": "stop", "delta": {}}]}\n\n')],
  ["chat, with comments after [DONE]", chatSample("data: [DONE]\n\n: bye\n\n")],
  ["a legacy completion", { ...chatSample(unnamed({ choices: [{ text: "", finish_reason: "stop" }] })), path: "/v1/completions" }],
  ["Anthropic", messagesSample(named("message_delta", { delta: { stop_reason: "end_turn" } }) + named("message_stop"))],
  ["Anthropic, without event names", messagesSample(unnamed({ type: "message_stop" }))],
  ["Responses", responsesSample(named("response.completed", { response: { id: "resp_1" } }))],
  ["Responses, incomplete", responsesSample(named("response.incomplete", { response: { id: "resp_1" } }))],
  ["Responses, failed", responsesSample(named("response.failed", { response: { id: "resp_1", error: { code: "server_error" } } }))],
  ["Responses, with a long last event", responsesSample(named("response.completed", repeating(9000)))],
  ["Responses, with a long last event without a name", responsesSample(unnamed({ type: "response.completed", ...repeating(9000) }))],
  ["Gemini", geminiSample(candidate("", { finishReason: "STOP" }))],
  ["Gemini, with usage last", geminiSample(candidate("", { finishReason: "STOP" }) + unnamed({ usageMetadata: { totalTokenCount: 9 } }))],
  ["Ollama's chat", ollamaSample("/api/chat")],
  ["Ollama's generate", ollamaSample("/api/generate")],
]; // prettier-ignore

/** One of each dialect. */
const DIALECT_NAMES = ["chat", "anthropic", "responses", "gemini", "ollama"] as const;
type DialectName = (typeof DIALECT_NAMES)[number];
const SAMPLES: Record<DialectName, Sample> = {
  chat: chatSample(delta("", "stop") + "data: [DONE]\n\n"),
  anthropic: messagesSample(named("message_stop")),
  responses: responsesSample(named("response.completed", repeating(300_000))),
  gemini: geminiSample(candidate("", { finishReason: "STOP" })),
  ollama: ollamaSample("/api/chat"),
};

/** The same stream with the line ends of some gateways. */
const withCrLf = (text: string) => text.replaceAll("\n", "\r\n");

function following(dialect: ReturnType<typeof streamDialectOf>, contentType: string): StreamFollower | null {
  const headers = new Headers({ "content-type": contentType });
  const clean = (text: string) => text;
  return followerOf({ dialect, framing: framingOf(headers), headers, clean, countsTokens: false });
}

function endOf({ path, contentType }: Sample, chunks: readonly Uint8Array[]) {
  const dialect = streamDialectOf(path.split("?")[0] ?? "");
  const follower = following(dialect, contentType);
  for (const bytes of chunks) follower?.push(new Uint8Array(bytes));
  return follower?.end();
}

/** Places at which to cut bytes in two: all of them, or where there are many, every so-manieth and the ends. */
function splitPoints({ length }: Uint8Array): number[] {
  const points = Array.from({ length: Math.max(0, length - 1) }, (_, index) => index + 1);
  return points.filter((point) => point < 1200 || point > length - 300 || point % 101 === 0);
}

/** Where a stream was cut in two, by what the follower then said that is not `expected`. */
function misjudgedSplits(sample: Sample, text: string, expected: "complete" | "cut"): string[] {
  const bytes = Buffer.from(text);
  return splitPoints(bytes)
    .filter((point) => endOf(sample, [bytes.subarray(0, point), bytes.subarray(point)]) !== expected)
    .map(
      (point) =>
        `…${bytes.toString("latin1", point - 20, point)}|${bytes.toString("latin1", point, point + 20)}…`,
    );
}

describe("a follower", () => {
  describe.each(COMPLETE)("of %s", (_, sample) => {
    const whole = sample.begun + sample.ending;

    test("P17 knows the stream as complete wherever it was cut in two on its way", () => {
      expect(misjudgedSplits(sample, whole, "complete")).toEqual([]);
    });

    test("P17 knows the stream as complete wherever it was cut in two, with CRLF", () => {
      expect(misjudgedSplits(sample, withCrLf(whole), "complete")).toEqual([]);
    });

    test("P17 knows the stream as complete when it comes byte by byte", () => {
      const bytes = [...Buffer.from(whole)].map((byte) => Uint8Array.of(byte));
      expect(endOf(sample, bytes)).toBe("complete");
    });

    test("P17 knows the stream as cut where it ends before its last event, wherever it was cut in two", () => {
      // 5 KB of text behind the marks that the model wrote, so that they leave the follower's sight one by one.
      const text = sample.begun + sample.begun.replaceAll("Grüße", "é".repeat(3000));
      expect(misjudgedSplits(sample, text, "cut")).toEqual([]);
    });
  });

  test.each(DIALECT_NAMES)("P17 of %s knows a last event that broke off in its middle as cut", (name) => {
    const sample = SAMPLES[name];
    const { begun, ending } = sample;
    const lastEvent = ending.slice(ending.trimEnd().lastIndexOf("\n\n") + 1);
    const mark = lastEvent.indexOf("[DONE]") >= 0 ? delta("", "stop") : lastEvent;
    // Every prefix of the event that ends the stream, before its JSON is whole.
    const prefixes = splitPoints(Buffer.from(mark.trimEnd())).map((length) => mark.slice(0, length));
    const believed = prefixes.filter((prefix) => {
      return (
        prefix.trimEnd().length < mark.trimEnd().length &&
        endOf(sample, [Buffer.from(begun + prefix)]) !== "cut"
      );
    });
    expect(believed.map((prefix) => `…${prefix.slice(-30)}|`)).toEqual([]);
  });

  test.each([
    ["chat whose finish_reason is empty in every chunk", chatSample(""), delta("a", "") + delta("b", "")],
    ["chat that failed with finish_reason error", chatSample(""), unnamed({ error: { code: 502, message: "x" }, choices: [{ delta: {}, finish_reason: "error" }] })],
    ["Gemini that calls a function with an argument named finishReason", geminiSample(""), unnamed({ candidates: [{ content: { parts: [{ functionCall: { name: "log", args: { finishReason: "later" } } }] } }] })],
    ["Ollama that calls a function with an argument named done", ollamaSample("/api/chat"), line({ model: "m", message: { tool_calls: [{ function: { name: "tick", arguments: { id: 7, done: true } } }] }, done: false })],
    ["Anthropic that calls a tool with an input of that type", messagesSample(""), named("content_block_start", { content_block: { type: "server_tool_use", input: { type: "message_stop" } } })],
    ["Responses whose tool is described with those words", responsesSample(""), named("response.created", { response: { tools: [{ parameters: { type: "response.completed" } }] } })],
  ])("P17 does not take for complete %s", (_, sample, text) => {
    expect(endOf(sample, [Buffer.from(sample.begun + text)])).not.toBe("complete");
  }); // prettier-ignore

  test.each([
    ["chat", chatSample(""), unnamed({ error: { message: "boom", type: "server_error" } })],
    ["Anthropic", messagesSample(""), named("error", { error: { type: "overloaded_error", message: "Overloaded" } })],
    ["Responses", responsesSample(""), named("error", { code: "server_error", message: "boom" })],
    ["Gemini", geminiSample(""), unnamed({ error: { code: 503, message: "boom", status: "UNAVAILABLE" } })],
    ["Ollama", ollamaSample("/api/chat"), line({ error: "boom" })],
  ])("P17 sees that %s failed by its own word", (_, sample, text) => {
    expect(endOf(sample, [Buffer.from(sample.begun), Buffer.from(text)])).toBe("failed");
  }); // prettier-ignore

  test("P23 keeps no more of a long stream than it needs", async () => {
    const sample = SAMPLES.responses;
    const follower = following("responses", sample.contentType);
    const pushed = Array.from({ length: 1000 }, () => {
      const bytes = new Uint8Array(4096);
      follower?.push(bytes);
      return new WeakRef(bytes);
    });
    await settled(); // within one turn of the event loop nothing is collected
    Bun.gc(true);
    expect(pushed.filter((chunk) => chunk.deref() !== undefined).length).toBeLessThan(50);
    expect(follower?.end()).toBe("cut");
  });

  test("P23 keeps no large chunk alive for the few bytes that it needs of it", async () => {
    const sample = SAMPLES.responses;
    const follower = following("responses", sample.contentType);
    const event = Buffer.from(named("response.output_text.delta", { delta: "x".repeat(60_000) }));
    const pushed = Array.from({ length: 40 }, () => {
      const bytes = new Uint8Array(Buffer.concat(Array.from({ length: 8 }, () => event)));
      follower?.push(bytes);
      return new WeakRef(bytes);
    });
    await settled();
    Bun.gc(true);
    expect(pushed.filter((chunk) => chunk.deref() !== undefined).length).toBeLessThan(5);
    expect(follower?.end()).toBe("cut");
  });

  test("P18 lets through what it gets, and knows its end, in pieces of every size", () => {
    const random = seeded(7);
    const upTo = (most: number) => 1 + Math.floor(random() * most);
    for (let run = 0; run < 400; run++) {
      const text =
        RESPONSES +
        named("response.output_text.delta", { delta: `${"a".repeat(upTo(9000))} error "error":` }) +
        named("response.completed", repeating(upTo(run % 4 === 0 ? 300_000 : 3000)));
      const bytes = Buffer.from(run % 3 === 0 ? withCrLf(text) : text);
      const most = [5, 50, 5000, 70_000, 600_000][bytes.length > 30_000 ? 2 + (run % 3) : run % 5] ?? 1;
      const end = run % 7 === 0 ? bytes.length - 5 - upTo(300) : bytes.length;
      const follower = following("responses", EVENTS);
      const passed: Uint8Array[] = [];
      for (let at = 0; at < end;) {
        const size = Math.min(upTo(most), end - at);
        const sent = follower?.push(new Uint8Array(bytes.subarray(at, at + size)));
        if (sent instanceof Promise) throw new Error("it is not packed");
        passed.push(sent ?? new Uint8Array());
        at += size;
      }
      passed.push(follower?.rest() ?? new Uint8Array());
      expect(Buffer.concat(passed).equals(bytes.subarray(0, end))).toBe(true);
      expect(follower?.end()).toBe(end < bytes.length ? "cut" : "complete");
    }
  });
});

// ── On the wire ─────────────────────────────────────────────────────────────────────────────────────────────────

const SETTINGS = { API_KEYS: "key-one", PROVIDER: "generic", MAX_ATTEMPTS: "1" };

interface Scene {
  staged: Stage;
  answer: WireAnswer;
  connection: RawConnection;
}

/** Asks for a stream whose provider has written `opening` and then waits for what the test does next. */
async function streaming(
  path: string,
  opening: Uint8Array | string,
  then: (scene: Scene) => Promise<void>,
): Promise<void> {
  const asked = Promise.withResolvers<RawConnection>();
  await using provider = startRawProvider((_, connection) => {
    connection.write(opening);
    asked.resolve(connection);
  });
  await using staged = stage({ settings: { ...SETTINGS, TARGET_BASE_URL: provider.url } });
  const answer = await ask(staged.url, path);
  await then({ staged, answer, connection: await asked.promise });
}

const requestLine = (staged: Stage) => staged.logged().find(({ event }) => event === "request");

async function expectNoCredit(staged: Stage): Promise<void> {
  await until("the attempt is over", () => staged.engine.inFlight === 0);
  const [key] = (await staged.health()).providers[0]?.keys ?? [];
  expect(key).toMatchObject({ in_flight: 0, errors: 1 });
  expect(requestLine(staged)?.["outcome"]).not.toBe("served");
}

async function expectCredit(staged: Stage): Promise<void> {
  await until("the attempt is over", () => staged.engine.inFlight === 0);
  const [key] = (await staged.health()).providers[0]?.keys ?? [];
  expect(key).toMatchObject({ in_flight: 0, errors: 0 });
  expect(requestLine(staged)).toMatchObject({ outcome: "served", status: 200 });
}

/** The data of the last event in a stream, as a client's parser would come to it, and its name. */
function lastEvent(dialect: DialectName, text: string): { name: string; json: unknown } {
  if (dialect === "ollama") {
    // Clients parse every line: an empty one is an error of its own in ollama-python.
    const lines = text.split("\n");
    expect(lines.pop()).toBe("");
    return { name: "", json: JSON.parse(lines.at(-1) ?? "") };
  }
  expect(text).toMatch(/\r?\n\r?\n$/);
  const event = text.trimEnd().split(/\r?\n\r?\n/).at(-1) ?? ""; // prettier-ignore
  const field = (name: string) => new RegExp(`^${name}: ?(.*)$`, "m").exec(event)?.[1] ?? "";
  return { name: field("event"), json: JSON.parse(field("data")) };
}

const sentence = expect.stringMatching(/\w+ .*\.$/);
const errorType = expect.stringMatching(/^upstream_(?:unreachable|protocol_error)$/);
const NATIVE_ERRORS: Record<DialectName, { name: string; json: unknown }> = {
  chat: { name: "", json: { error: { type: errorType, code: errorType, message: sentence, param: null } } },
  anthropic: { name: "error", json: { type: "error", error: { type: errorType, message: sentence } } },
  responses: { name: "error", json: { type: "error", code: errorType, message: sentence, param: null } },
  gemini: { name: "", json: { error: { code: 502, message: sentence, status: "UNAVAILABLE" } } },
  ollama: { name: "", json: { error: sentence } },
};

/** Ways in which a stream is cut: how its body is framed, and what happens after what was sent of it. */
const CUTS: [sentence: string, framing: Framing, cut: (connection: RawConnection) => void][] = [
  ["its content-length is not reached, then FIN", "length", (connection) => connection.end()],
  ["its content-length is not reached, then RST", "length", (connection) => connection.reset()],
  ["its last chunk is missing, then FIN", "chunked", (connection) => connection.end()],
  ["its last chunk is missing, then RST", "chunked", (connection) => connection.reset()],
  ["a chunk is announced and not sent, then FIN", "chunked", (connection) => (connection.write("fff\r\n"), connection.end())],
  ["the chunks are no chunks", "chunked", (connection) => connection.write("zzz\r\n")],
  ["it has no framing, then FIN", "close", (connection) => connection.end()],
  ["it has no framing, then RST", "close", (connection) => connection.reset()],
  ["it ends cleanly without its last event", "chunked", (connection) => connection.write(LAST_CHUNK)],
]; // prettier-ignore

type Framing = "chunked" | "length" | "close";

const PACKERS = { gzip: createGzip, br: createBrotliCompress, zstd: createZstdCompress };

/** A text in two packed pieces, flushed in between as servers do after each event. */
async function packed(
  encoding: keyof typeof PACKERS,
  first: string,
  rest: string,
): Promise<[first: Buffer, rest: Buffer]> {
  const packer = PACKERS[encoding]();
  const chunks: Buffer[] = [];
  packer.on("data", (bytes: Buffer) => void chunks.push(bytes));
  packer.write(first);
  await new Promise<void>((resolve) => packer.flush(resolve));
  const flushed = Buffer.concat(chunks.splice(0));
  await new Promise<void>((resolve) => void packer.on("end", resolve).end(rest));
  return [flushed, Buffer.concat(chunks)];
}

/** The beginning of an answer: its head, and some of its body in the framing. */
function opening(framing: Framing, fields: Record<string, string>, body: string | Uint8Array): Uint8Array {
  const framed = { chunked: { "transfer-encoding": "chunked" }, length: { "content-length": "9000000" }, close: { connection: "close" } }; // prettier-ignore
  const head = answerHead(200, { ...fields, ...framed[framing] });
  return Buffer.concat([Buffer.from(head), framing === "chunked" ? chunk(body) : Buffer.from(body)]);
}

describe("a stream that reaches the client", () => {
  describe.each(DIALECT_NAMES)("(%s)", (dialect) => {
    const { path, contentType, begun, ending } = SAMPLES[dialect];

    test.each(CUTS)("P17 ends with an error event and a broken connection when %s", (_, framing, cut) =>
      streaming(path, opening(framing, { "content-type": contentType }, begun), async (scene) => {
        const { answer, connection, staged } = scene;
        await until("what was sent has come", () => answer.body.toString() === begun);
        cut(connection);
        await until("the answer ended", () => answer.end !== null);
        expect(answer.end).toBe("cut");
        const text = answer.body.toString();
        expect(text).toStartWith(begun);
        // At an edge between events nothing but the error event is added.
        expect(text.slice(begun.length).trimStart()).toBe(text.slice(begun.length));
        expect(lastEvent(dialect, text)).toEqual(NATIVE_ERRORS[dialect]);
        await expectNoCredit(staged);
      }),
    );

    test.each([
      ["cleanly", "chunked", (connection: RawConnection) => connection.write(LAST_CHUNK)],
      ["with RST", "chunked", (connection: RawConnection) => connection.reset()],
      ["with FIN, unframed", "close", (connection: RawConnection) => connection.end()],
    ] as const)(
      "P17 keeps the error event apart from an event that was cut %s in its middle",
      (_, framing, cut) => {
        const half = begun + ending.slice(0, ending.indexOf("{") + 12);
        return streaming(path, opening(framing, { "content-type": contentType }, half), async (scene) => {
          const { answer, connection, staged } = scene;
          await until("what was sent has come", () => answer.body.toString() === half);
          cut(connection);
          await until("the answer ended", () => answer.end !== null);
          expect(answer.end).toBe("cut");
          expect(answer.body.toString()).toStartWith(half);
          expect(lastEvent(dialect, answer.body.toString())).toEqual(NATIVE_ERRORS[dialect]);
          await expectNoCredit(staged);
        });
      },
    );

    test("P17 breaks off, credits no key and adds nothing when upstream itself said that it failed", () => {
      const own = {
        chat: unnamed({ error: { message: "boom", type: "server_error", code: null } }),
        anthropic: named("error", { error: { type: "overloaded_error", message: "Overloaded" } }),
        responses: named("error", { code: "server_error", message: "boom", param: null }),
        gemini: unnamed({ error: { code: 503, message: "boom", status: "UNAVAILABLE" } }),
        ollama: line({ error: "boom" }),
      }[dialect];
      return streaming(path, opening("chunked", { "content-type": contentType }, begun), async (scene) => {
        const { answer, connection, staged } = scene;
        await until("what was sent has come", () => answer.body.toString() === begun);
        connection.write(Buffer.concat([chunk(own), Buffer.from(LAST_CHUNK)]));
        await until("the answer ended", () => answer.end !== null);
        expect(answer.body.toString()).toBe(begun + own);
        await expectNoCredit(staged);
        expect(answer.end).toBe("cut");
      });
    });

    test.each([
      ["in one piece", Infinity],
      ["in many pieces", 7001],
    ])("P17 ends cleanly when its last event comes %s", (_, pieceBytes) =>
      streaming(path, opening("chunked", { "content-type": contentType }, begun), async (scene) => {
        const { answer, connection, staged } = scene;
        const last = Buffer.from(ending);
        let sent = begun.length;
        for (let at = 0; at < last.length; at += pieceBytes) {
          const piece = last.subarray(at, Math.min(last.length, at + pieceBytes));
          connection.write(chunk(piece));
          if (at === 0) sent = Buffer.byteLength(begun);
          sent += piece.length;
          await until("the piece has come", () => answer.body.length === sent);
        }
        expect(answer.end).toBeNull();
        connection.write(LAST_CHUNK);
        await until("the answer ended", () => answer.end !== null);
        expect(answer.end).toBe("clean");
        expect(answer.body.toString() === begun + ending).toBe(true);
        await expectCredit(staged);
      }),
    );

    test.each([
      ["with LF", (text: string) => text],
      ["with CRLF", withCrLf],
    ])("P17 ends cleanly when only the end of the connection frames it, %s", (_, lineEnds) => {
      const first = lineEnds(begun);
      return streaming(path, opening("close", { "content-type": contentType }, first), async (scene) => {
        const { answer, connection, staged } = scene;
        await until("what was sent has come", () => answer.body.toString() === first);
        connection.write(lineEnds(ending));
        connection.end();
        await until("the answer ended", () => answer.end !== null);
        expect(answer.end).toBe("clean");
        expect(answer.body.toString() === lineEnds(begun + ending)).toBe(true);
        await expectCredit(staged);
      });
    });

    describe.each(["gzip", "br", "zstd"] as const)("packed with %s", (encoding) => {
      const fields = { "content-type": contentType, "content-encoding": encoding };

      test("P17 P18 passes unchanged and ends cleanly when it is complete", async () => {
        const [first, rest] = await packed(encoding, begun, ending);
        await streaming(path, opening("chunked", fields, first), async ({ answer, connection, staged }) => {
          await until("the first bytes have come", () => answer.body.equals(first));
          connection.write(Buffer.concat([chunk(rest), Buffer.from(LAST_CHUNK)]));
          await until("the answer ended", () => answer.end !== null);
          expect(answer.end).toBe("clean");
          expect(answer.head.toLowerCase()).toContain(`content-encoding: ${encoding}`);
          expect(answer.body.equals(Buffer.concat([first, rest]))).toBe(true);
          await expectCredit(staged);
        });
      });

      test.each([
        ["its packing breaks off between events", () => packed(encoding, begun, "").then(([first]) => first)],
        ["it is packed whole, without its last event", () => packed(encoding, begun, "").then(Buffer.concat)],
      ])("P17 is cut without garbage when %s", async (_, pack) => {
        const sent = await pack();
        await streaming(path, opening("chunked", fields, sent), async ({ answer, connection, staged }) => {
          await until("what was sent has come", () => answer.body.equals(sent));
          connection.write(LAST_CHUNK);
          await until("the answer ended", () => answer.end !== null);
          expect(answer.end).toBe("cut");
          expect(answer.body.equals(sent)).toBe(true);
          await expectNoCredit(staged);
        });
      });
    });
  });

  test("P17 is complete once it said [DONE], though the connection then breaks", () =>
    // Some gateways reset right after the last event; a client got an error event behind a complete answer.
    streaming("/v1/chat/completions", opening("chunked", { "content-type": EVENTS }, CHAT), async (scene) => {
      const { answer, connection, staged } = scene;
      const ending = "data: [DONE]\n\n";
      connection.write(chunk(ending));
      await until("all has come", () => answer.body.toString() === CHAT + ending);
      connection.reset();
      await until("the answer ended", () => answer.end !== null);
      expect(answer.body.toString()).toBe(CHAT + ending);
      await expectCredit(staged);
    }));

  test("P17 does not clear its key's streak of refusals when it is cut", async () => {
    // 429, a stream that breaks off, 429: the second refusal is the second in a row.
    await using provider = startRawProvider((_, connection, nth) => {
      if (nth !== 2) return connection.write(httpAnswer(429, '{"error":{"message":"Rate limit reached"}}'));
      connection.write(opening("chunked", { "content-type": EVENTS }, CHAT));
      connection.write(LAST_CHUNK);
    });
    let now = Date.UTC(2026, 10, 20, 12);
    const clock = { now: () => now, wall: () => now, after: () => () => {} };
    const settings = { ...SETTINGS, TARGET_BASE_URL: provider.url, MAX_WAIT_SEC: "1", COOLDOWN_SEC: "60" };
    await using staged = stage({ settings, clock });
    const restOf = async () => (await staged.health()).providers[0]?.keys[0]?.cooldown_sec;
    const askAndWait = async () => {
      const answer = await ask(staged.url, "/v1/chat/completions");
      await until("it is answered", () => answer.end !== null);
    };
    await askAndWait();
    expect(await restOf()).toBe(60);
    now += 61_000;
    await askAndWait();
    now += 1000;
    await askAndWait();
    expect(await restOf()).toBeGreaterThan(60);
  });
});

// ── An error in a stream's place ────────────────────────────────────────────────────────────────────────────────

const LIMIT = {
  message: "Rate limit reached, try again later",
  type: "requests",
  code: "rate_limit_exceeded",
};
const GOOGLE_LIMIT = {
  error: { code: 429, message: "Resource has been exhausted", status: "RESOURCE_EXHAUSTED" },
};
const OVERSIZE = "x".repeat(3000);

interface Misplaced {
  path: string;
  provider: string;
  type: string;
  body: string;
}

const misplaced = (body: string, more: Partial<Misplaced> = {}): Misplaced => ({
  path: "/v1/chat/completions",
  provider: "openai",
  type: EVENTS,
  body,
  ...more,
});
const JSON_TYPE = "application/json; charset=utf-8";
const GEMINI_SIDE = { path: GEMINI_PATH, provider: "gemini" };
const OLLAMA_SIDE = { path: "/api/chat", provider: "ollama" };

const FIRST_ERRORS: [sentence: string, error: Misplaced][] = [
  ["OpenAI's error as an event", misplaced(unnamed({ error: LIMIT }))],
  ["an error event with CRLF", misplaced(withCrLf(unnamed({ error: LIMIT })))],
  ["an error event behind comments", misplaced(`: OPENROUTER PROCESSING\n\n: again\n\n${unnamed({ error: LIMIT })}`)],
  ["an error event behind a retry field", misplaced(`retry: 3000\n\n${unnamed({ error: LIMIT })}`)],
  ["an error event that is long", misplaced(unnamed({ error: { ...LIMIT, detail: OVERSIZE } }))],
  ["OpenRouter's, which begins with an id", misplaced(unnamed({ id: "gen-1", object: "chat.completion.chunk", error: { code: 429, message: "Rate limit exceeded" }, choices: [{ index: 0, delta: { content: "" }, finish_reason: "error" }] }), { provider: "openrouter" })],
  ["DashScope's, which begins with an id field", misplaced('id:1\nevent:error\n:HTTP_STATUS/429\ndata:{"code":"Throttling.RateQuota","message":"Requests rate limit exceeded, please try again later.","request_id":"r"}\n\n', { provider: "dashscope" })],
  ["Anthropic's error event", misplaced(named("error", { error: { type: "rate_limit_error", message: "This request would exceed your rate limit." } }), { path: "/v1/messages", provider: "anthropic" })],
  ["the Responses API's error event", misplaced(named("error", { code: "rate_limit_exceeded", message: LIMIT.message, param: null }), { path: "/v1/responses" })],
  ["the Responses API's response.failed", misplaced(named("response.failed", { response: { id: "r", status: "failed", error: { code: "rate_limit_exceeded", message: LIMIT.message } } }), { path: "/v1/responses" })],
  ["Gemini's error as an event", misplaced(unnamed(GOOGLE_LIMIT), GEMINI_SIDE)],
  ["bare JSON under the type of a stream", misplaced(JSON.stringify({ error: LIMIT }))],
  ["pretty-printed JSON under the type of a stream", misplaced(JSON.stringify({ error: LIMIT }, null, 2))],
  ["bare JSON in place of a stream", misplaced(JSON.stringify({ error: LIMIT }), { type: JSON_TYPE })],
  ["bare JSON that is pretty-printed and long", misplaced(JSON.stringify({ error: { ...LIMIT, detail: OVERSIZE } }, null, 2), { type: JSON_TYPE })],
  ["Gemini's bare JSON", misplaced(JSON.stringify(GOOGLE_LIMIT, null, 2), { ...GEMINI_SIDE, type: JSON_TYPE })],
  ["Gemini's JSON in an array", misplaced(JSON.stringify([GOOGLE_LIMIT], null, 2), { ...GEMINI_SIDE, type: JSON_TYPE })],
  ["Ollama's error as a line", misplaced(line({ error: "too many requests" }), { ...OLLAMA_SIDE, type: "application/x-ndjson" })],
  ["Ollama's error as JSON", misplaced(line({ error: "you have reached your session usage limit" }), { ...OLLAMA_SIDE, type: JSON_TYPE })],
]; // prettier-ignore

const GOOD_BODY = '{"id":"good"}';

/** What a client gets whose first key meets an error in a stream's place, and what becomes of that key. */
async function meeting(
  { path, provider, type }: Misplaced,
  writeError: (connection: RawConnection) => void | Promise<void>,
) {
  await using raw = startRawProvider(({ key }, connection) => {
    if (key === "key-one") return writeError(connection);
    connection.write(httpAnswer(200, GOOD_BODY));
  });
  const settings = { API_KEYS: "key-one key-two", PROVIDER: provider, TARGET_BASE_URL: raw.url };
  await using staged = stage({ settings });
  const answer = await ask(staged.url, path);
  await until(`an answer to ${type}`, () => answer.end !== null);
  const [first] = (await staged.health()).providers[0]?.keys ?? [];
  return {
    body: answer.body.toString(),
    end: answer.end,
    asked: raw.requests.length,
    firstKey:
      first?.state === "ready" && Object.keys(Object(first["models"])).length === 0 ? "ready" : "rests",
  };
}

const GOOD_ANSWER = { body: GOOD_BODY, end: "clean", asked: 2, firstKey: "rests" };

describe("an error in the place of a stream", () => {
  describe.each(FIRST_ERRORS)("(%s)", (_, error) => {
    const fields = { "content-type": error.type };

    test("P20 is answered with another key when it is framed in chunks", async () => {
      const write = (connection: RawConnection) => {
        connection.write(opening("chunked", fields, error.body));
        connection.write(LAST_CHUNK);
      };
      expect(await meeting(error, write)).toMatchObject(GOOD_ANSWER);
    });

    test("P20 is answered with another key when it has a content-length", async () => {
      const write = (connection: RawConnection) => connection.write(httpAnswer(200, error.body, fields));
      expect(await meeting(error, write)).toMatchObject(GOOD_ANSWER);
    });

    test("P20 is answered with another key when the connection's end frames it", async () => {
      const write = (connection: RawConnection) => {
        connection.write(opening("close", fields, error.body));
        connection.end();
      };
      expect(await meeting(error, write)).toMatchObject(GOOD_ANSWER);
    });
  });

  test.each([
    ["OpenAI's error as an event", 0],
    ["Anthropic's error event", 7],
    ["an error event behind comments", 2],
  ])("P20 is answered with another key wherever it is cut in two (%s)", async (_, row) => {
    const error = FIRST_ERRORS[row]?.[1] ?? misplaced("");
    const bytes = Buffer.from(error.body);
    const passedOn = await Promise.all(
      Array.from({ length: bytes.length - 1 }, async (_, index) => {
        const point = index + 1;
        const { body } = await meeting(error, async (connection) => {
          connection.write(opening("chunked", { "content-type": error.type }, bytes.subarray(0, point)));
          await settled();
          connection.write(Buffer.concat([chunk(bytes.subarray(point)), Buffer.from(LAST_CHUNK)]));
        });
        return body === GOOD_BODY ? [] : [`…${error.body.slice(0, point).slice(-20)}|`];
      }),
    );
    expect(passedOn.flat()).toEqual([]);
  });

  test("P20 is answered with another key when it is packed", async () => {
    const error = misplaced(unnamed({ error: LIMIT }));
    const fields = { "content-type": EVENTS, "content-encoding": "gzip" };
    const write = (connection: RawConnection) => {
      connection.write(opening("chunked", fields, gzipSync(error.body)));
      connection.write(LAST_CHUNK);
    };
    expect(await meeting(error, write)).toMatchObject(GOOD_ANSWER);
  });

  test("P20 reaches the client unchanged when it is the request's own fault", async () => {
    const fault = unnamed({ error: { message: "'messages' is too long", type: "invalid_request_error", code: "context_length_exceeded" } }); // prettier-ignore
    const write = (connection: RawConnection) => {
      connection.write(opening("chunked", { "content-type": EVENTS }, fault));
      connection.write(LAST_CHUNK);
    };
    expect(await meeting(misplaced(fault), write)).toMatchObject({
      body: fault,
      asked: 1,
      firstKey: "ready",
    });
  });

  test("P20 is not seen in an answer that only speaks of errors", async () => {
    const speech = unnamed({ id: "c", error: null, choices: [{ delta: { content: '{"error":{"code":429}}' } }] }) + SAMPLES.chat.ending; // prettier-ignore
    const write = (connection: RawConnection) => {
      connection.write(opening("chunked", { "content-type": EVENTS }, speech));
      connection.write(LAST_CHUNK);
    };
    expect(await meeting(misplaced(speech), write)).toMatchObject({
      body: speech,
      end: "clean",
      asked: 1,
      firstKey: "ready",
    });
  });
});
