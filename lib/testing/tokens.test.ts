import { describe, expect, test } from "bun:test";
import { brotliCompressSync, gzipSync, zstdCompressSync } from "node:zlib";
import type { RequestRecord, TokenUsage } from "../core/events.ts";
import { Usage } from "../observability/usage.ts";
import {
  answerHead,
  chat,
  chunk,
  EVENT_STREAM_HEAD,
  httpAnswer,
  LAST_CHUNK,
  seeded,
  stage,
  startRawProvider,
  until,
} from "./fixture.ts";
import type { RawConnection, Stage } from "./fixture.ts";

const KEYS = { API_KEYS: "key-one", PROVIDER: "generic" };
const SOME: TokenUsage = { input: 100, output: 20, cached: 60, cacheWrite: 0, reasoning: 10 };
const SOME_USAGE = {
  prompt_tokens: 100,
  completion_tokens: 20,
  total_tokens: 120,
  prompt_tokens_details: { cached_tokens: 60 },
  completion_tokens_details: { reasoning_tokens: 10 },
};
const ANSWER = { id: "chatcmpl-1", choices: [{ message: { content: "Hi" }, finish_reason: "stop" }] };
const JSON_ANSWER = JSON.stringify({ ...ANSWER, usage: SOME_USAGE });
const LONG_ANSWER = JSON.stringify({
  object: "list",
  data: Array.from({ length: 60 }, (_, index) => ({ index, embedding: noise(1536, index + 1) })),
  usage: { prompt_tokens: 77, total_tokens: 77 },
});
const LONG: TokenUsage = { input: 77, output: 0, cached: 0, cacheWrite: 0, reasoning: 0 };
const EVENTS = [
  { choices: [{ delta: { content: "Hi" } }], usage: null },
  { choices: [{ delta: {}, finish_reason: "stop" }], usage: null },
  { choices: [], usage: SOME_USAGE },
];
const STREAM = `${EVENTS.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("")}data: [DONE]\n\n`;
const MESSAGE_EVENTS = [
  {
    type: "message_start",
    message: {
      usage: {
        input_tokens: 30,
        cache_read_input_tokens: 60,
        cache_creation_input_tokens: 10,
        output_tokens: 1,
      },
    },
  },
  { type: "ping" },
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
  ...Array.from({ length: 300 }, () => ({
    type: "content_block_delta",
    index: 0,
    delta: { type: "text_delta", text: "word " },
  })),
  { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 20 } },
  { type: "message_stop" },
];
const MESSAGE_STREAM = MESSAGE_EVENTS.map(
  (event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`,
).join("");
const MESSAGE: TokenUsage = { input: 100, output: 20, cached: 60, cacheWrite: 10, reasoning: 0 };

function noise(length: number, seed: number): number[] {
  const random = seeded(seed);
  return Array.from({ length }, () => Math.round((random() - 0.5) * 1e8) / 1e8);
}

/** Sends a body in chunks of this length. */
function send(
  connection: RawConnection,
  fields: Record<string, string>,
  body: Uint8Array,
  length: number,
): void {
  connection.write(answerHead(200, { ...fields, "transfer-encoding": "chunked" }));
  for (let at = 0; at < body.length; at += length) connection.write(chunk(body.subarray(at, at + length)));
  connection.write(LAST_CHUNK);
}

/** What is told of one request, answered so. */
async function recordOf(
  answer: (connection: RawConnection) => void,
  ask: (staged: Stage) => Promise<Response>,
): Promise<RequestRecord> {
  await using provider = startRawProvider((_, connection) => answer(connection));
  await using staged = stage({ settings: { ...KEYS, TARGET_BASE_URL: provider.url } });
  const records: RequestRecord[] = [];
  staged.engine.observe({ finished: (record) => void records.push(record) });
  await (await ask(staged)).text().catch(() => "");
  await until("the request is told of", () => records.length > 0);
  expect(records).toHaveLength(1);
  return records[0]!;
}

const asChat = (staged: Stage) => chat(staged.url);
const asMessage = (staged: Stage) =>
  fetch(`${staged.url}/v1/messages`, { method: "POST", body: '{"model":"claude"}' });
const EVENT_STREAM = { "content-type": "text/event-stream" };
const JSON_TYPE = { "content-type": "application/json" };
const bytes = (text: string) => Buffer.from(text);

describe("the tokens of an answer", () => {
  const passed: [
    says: string,
    answer: (connection: RawConnection) => void,
    ask: typeof asChat,
    TokenUsage | null,
  ][] = [
    ["that is short", (to) => to.write(httpAnswer(200, JSON_ANSWER)), asChat, SOME],
    [
      "that is short and packed by gzip",
      (to) => to.write(httpAnswer(200, gzipSync(JSON_ANSWER), { "content-encoding": "gzip" })),
      asChat,
      SOME,
    ],
    [
      "that is short and packed by brotli",
      (to) => to.write(httpAnswer(200, brotliCompressSync(JSON_ANSWER), { "content-encoding": "br" })),
      asChat,
      SOME,
    ],
    [
      "that is short and not packed as it says",
      (to) => to.write(httpAnswer(200, "junk", { "content-encoding": "gzip" })),
      asChat,
      null,
    ],
    ["in chunks", (to) => send(to, JSON_TYPE, bytes(JSON_ANSWER), 7), asChat, SOME],
    ["that is long", (to) => to.write(httpAnswer(200, LONG_ANSWER)), asChat, LONG],
    ["that is long and in chunks", (to) => send(to, JSON_TYPE, bytes(LONG_ANSWER), 20_000), asChat, LONG],
    [
      "that is long and packed by zstd",
      (to) => to.write(httpAnswer(200, zstdCompressSync(LONG_ANSWER), { "content-encoding": "zstd" })),
      asChat,
      LONG,
    ],
    [
      "that is long, packed and in chunks",
      (to) => send(to, { ...JSON_TYPE, "content-encoding": "gzip" }, gzipSync(LONG_ANSWER), 9000),
      asChat,
      LONG,
    ],
    ["that is a stream", (to) => send(to, EVENT_STREAM, bytes(STREAM), 100_000), asChat, SOME],
    ["that is a stream in small pieces", (to) => send(to, EVENT_STREAM, bytes(STREAM), 3), asChat, SOME],
    [
      "that is a packed stream",
      (to) => send(to, { ...EVENT_STREAM, "content-encoding": "gzip" }, gzipSync(STREAM), 50),
      asChat,
      SOME,
    ],
    [
      "that is a stream of Anthropic",
      (to) => send(to, EVENT_STREAM, bytes(MESSAGE_STREAM), 777),
      asMessage,
      MESSAGE,
    ],
    [
      "that is a stream of Anthropic in small pieces",
      (to) => send(to, EVENT_STREAM, bytes(MESSAGE_STREAM), 11),
      asMessage,
      MESSAGE,
    ],
    [
      "that is a packed stream of Anthropic",
      (to) => send(to, { ...EVENT_STREAM, "content-encoding": "br" }, brotliCompressSync(MESSAGE_STREAM), 50),
      asMessage,
      MESSAGE,
    ],
    [
      "that was changed where it is stored",
      (to) => to.write(httpAnswer(200, JSON_ANSWER)),
      ({ url }) => fetch(`${url}/v1/chat/completions/chatcmpl-1`, { method: "POST", body: "{}" }),
      null,
    ],
    [
      "that is fetched",
      (to) => to.write(httpAnswer(200, JSON_ANSWER)),
      ({ url }) => fetch(`${url}/v1/responses/resp_1`),
      null,
    ],
    [
      "that is refused",
      (to) => to.write(httpAnswer(400, JSON.stringify({ error: { message: "no" }, usage: SOME_USAGE }))),
      asChat,
      null,
    ],
    ["that names none", (to) => to.write(httpAnswer(200, JSON.stringify(ANSWER))), asChat, null],
  ];
  test.each(passed)("are told of one %s", async (_, answer, ask, tokens) => {
    const record = await recordOf(answer, ask);
    expect(record.tokens ?? null).toEqual(tokens);
  });

  test("are told as far as they were named where a stream breaks off", async () => {
    const record = await recordOf((to) => {
      to.write(EVENT_STREAM_HEAD);
      to.write(chunk(MESSAGE_STREAM.slice(0, 2000)));
      setTimeout(() => to.reset(), 20);
    }, asMessage);
    expect(record.isTruncated).toBe(true);
    expect(record.tokens).toEqual({ ...MESSAGE, output: 1 });
  });

  test("of a packed answer keep nobody waiting, not even who waited for a key", async () => {
    let asked = 0;
    const answer = (to: RawConnection) => {
      asked += 1;
      if (asked === 1) to.write(httpAnswer(429, "{}", { "retry-after": "1" }));
      else to.write(httpAnswer(200, gzipSync(JSON_ANSWER), { "content-encoding": "gzip" }));
    };
    const record = await recordOf(answer, asChat);
    expect([record.status, record.waitedMs > 500, record.tokens]).toEqual([200, true, SOME]);
  });

  test("add up exactly over a thousand streams", async () => {
    const random = seeded(7);
    const sum = { input: 0, output: 0 };
    await using provider = startRawProvider((_, connection) => {
      const usage = {
        prompt_tokens: Math.floor(random() * 5000),
        completion_tokens: Math.floor(random() * 900),
      };
      sum.input += usage.prompt_tokens;
      sum.output += usage.completion_tokens;
      const last = { choices: [], usage: { ...usage, total_tokens: 0 } };
      const events = [...EVENTS.slice(0, 2), last].map((event) => `data: ${JSON.stringify(event)}\n\n`);
      send(
        connection,
        EVENT_STREAM,
        bytes(`${events.join("")}data: [DONE]\n\n`),
        40 + Math.floor(random() * 400),
      );
    });
    const settings = { ...KEYS, TARGET_BASE_URL: provider.url, RPM: "off", LOG_LEVEL: "error" };
    await using staged = stage({ settings });
    const usage = new Usage();
    staged.engine.observe(usage);
    const worker = async () => {
      for (let turn = 0; turn < 50; turn += 1) await (await chat(staged.url, { stream: true })).text();
    };
    await Promise.all(Array.from({ length: 20 }, worker));
    await until("all are over", () => staged.engine.underWay.size === 0);
    const [row] = usage.usage(1, Date.now());
    expect([row?.requests, row?.inputTokens, row?.outputTokens]).toEqual([1000, sum.input, sum.output]);
    const metrics = await (await fetch(`${staged.url}/metrics`)).text();
    expect(metrics).toContain(`kind="input"} ${sum.input}\n`);
  }, 20_000);
});
