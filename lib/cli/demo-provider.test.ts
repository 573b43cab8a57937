import { describe, expect, test } from "bun:test";
import type { CancelTimer, Clock } from "../core/clock.ts";
import type { RequestRecord } from "../core/events.ts";
import {
  type DemoCall,
  type DemoOptions,
  type DemoProvider,
  startDemoProvider,
  narrator,
} from "./demo-provider.ts";

/** Time that stands still until it is moved. */
class FalseClock implements Clock {
  #now = Date.UTC(2026, 10, 20, 12);
  readonly #timers = new Set<{ at: number; action: () => void }>();
  #changed = Promise.withResolvers<void>();

  now(): number {
    return this.#now;
  }

  wall(): number {
    return this.#now;
  }

  after(delayMs: number, action: () => void): CancelTimer {
    const timer = { at: this.#now + delayMs, action };
    this.#timers.add(timer);
    this.#announceChange();
    return () => {
      if (this.#timers.delete(timer)) this.#announceChange();
    };
  }

  advance(ms: number): void {
    this.#now += ms;
    for (const timer of [...this.#timers].filter((timer) => timer.at <= this.#now)) {
      this.#timers.delete(timer);
      timer.action();
    }
  }

  /** Resolves as soon as so many timers are set. */
  async untilPending(count: number): Promise<void> {
    while (this.#timers.size !== count) await this.#changed.promise;
  }

  #announceChange(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}

interface Scene extends DemoProvider, AsyncDisposable {
  readonly clock: FalseClock;
  /** POSTs `json`, or GETs where there is none; with the first key unless `init` brings headers of its own. */
  call(path: string, json?: unknown, init?: RequestInit): Promise<Response>;
}

/** A provider on a free port with a false clock, which closes itself. Its streams set no timers unless asked to. */
function open(options: DemoOptions = {}): Scene {
  const clock = new FalseClock();
  const provider = startDemoProvider({ clock, tokenDelayMs: 0, limit: 100, ...options });
  const call = (path: string, json?: unknown, init: RequestInit = {}) => {
    const post = json === undefined ? {} : { method: "POST", body: JSON.stringify(json) };
    return fetch(provider.url + path, { ...withKey(provider.keys[0]), ...post, ...init });
  };
  return { ...provider, clock, call, [Symbol.asyncDispose]: () => provider.stop() };
}

const withKey = (key: string | undefined) => ({ headers: { authorization: `Bearer ${key}` } });

/** The events of a stream, as they were named and read as JSON (`[DONE]` stays text). */
async function eventsOf(response: Response): Promise<{ name: string | undefined; data: unknown }[]> {
  expect(response.headers.get("content-type")).toBe("text/event-stream");
  const text = await response.text();
  expect(text).toEndWith("\n\n");
  return text
    .slice(0, -2)
    .split("\n\n")
    .map((event) => {
      const [, name, line = ""] = /^(?:event: (.*)\n)?data: (.*)$/.exec(event) ?? [];
      return { name, data: line === "[DONE]" ? line : JSON.parse(line) };
    });
}

/** The values found under a path such as `choices.0.delta.content` in each of the events. */
function pick(events: { data: unknown }[], path: string): unknown[] {
  const step = (value: unknown, name: string): unknown => new Map(Object.entries(Object(value))).get(name);
  return events
    .map(({ data }) => path.split(".").reduce(step, data))
    .filter((value) => value !== undefined && value !== null);
}

const CHAT = { model: "gpt-x", messages: [{ role: "user", content: "hello" }] };
const SENTENCE =
  "Demo key one answered; it has 99 of its 100 requests left for the next 60s. Ask again: the next key takes its turn.";

/** Every endpoint that needs no file to exist. */
const ENDPOINTS: [path: string, json: unknown][] = [
  ["/chat/completions", CHAT],
  ["/completions", { model: "gpt-x", prompt: "hello" }],
  ["/responses", { model: "gpt-x", input: "hello" }],
  ["/messages", { ...CHAT, max_tokens: 9 }],
  ["/embeddings", { model: "demo-embedding", input: "hello" }],
  ["/models", undefined],
  ["/models/demo-model", undefined],
  ["/files", undefined],
];

describe("a demo provider", () => {
  test("listens on loopback, with three keys of five requests a minute unless told otherwise", async () => {
    const provider = startDemoProvider({ clock: new FalseClock() });
    expect(provider.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    expect(provider.keys).toEqual(["demo-key-one", "demo-key-two", "demo-key-three"]);
    const statuses: number[] = [];
    for (const key of provider.keys) {
      for (let turn = 0; turn < 6; turn++) {
        statuses.push((await fetch(`${provider.url}/v1/models`, withKey(key))).status);
      }
    }
    const each = [200, 200, 200, 200, 200, 429];
    expect(statuses).toEqual([...each, ...each, ...each]);
    await provider.stop();
  });

  test.each(ENDPOINTS)("answers %s with and without /v1", async (path, json) => {
    await using demo = open();
    for (const prefix of ["", "/v1"]) {
      const response = await demo.call(prefix + path, json);
      expect(response.status).toBe(200);
      expect(response.headers.get("content-type")).toStartWith("application/json");
    }
  });

  test("has a 404 for what it does not know, in the form of the dialect", async () => {
    await using demo = open();
    const openai = await demo.call("/v1/realtime");
    expect([openai.status, await openai.json()]).toEqual([
      404,
      {
        error: {
          message: "Unknown endpoint.",
          type: "invalid_request_error",
          param: null,
          code: "not_found",
        },
      },
    ]);
    const anthropic = await demo.call("/v1/messages/count_tokens", {});
    expect([anthropic.status, await anthropic.json()]).toEqual([
      404,
      { type: "error", error: { type: "not_found_error", message: "Unknown endpoint." } },
    ]);
    for (const path of ["/", "/v1", "/v1/models/none", "/v1/chat/completions", "/v1x/models"]) {
      expect((await demo.call(path)).status).toBe(404);
    }
  });

  test.each(["{", "", "[", '"text"', "null"])("refuses the body %p with 400", async (body) => {
    await using demo = open();
    const response = await demo.call("/v1/chat/completions", {}, { body });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { type: "invalid_request_error" } });
  });

  test("reports a script that throws as a 500, and goes on", async () => {
    await using demo = open({
      answer: (call) => {
        if (call.target === "/bug") throw new Error("a bug in the test");
        return undefined;
      },
    });
    const response = await demo.call("/bug");
    expect([response.status, await response.json()]).toMatchObject([
      500,
      { error: { message: "The demo provider failed: a bug in the test" } },
    ]);
    expect((await demo.call("/models")).status).toBe(200);
  });
});

describe("a key", () => {
  test.each([
    ["authorization", "Bearer demo-key-two"],
    ["authorization", "bearer demo-key-two"],
    ["x-api-key", "demo-key-two"],
    ["x-goog-api-key", "demo-key-two"],
    ["api-key", "demo-key-two"],
  ])("is read from %s: %s", async (name, value) => {
    await using demo = open();
    const response = await demo.call("/v1/chat/completions", CHAT, { headers: { [name]: value } });
    expect(await response.text()).toContain("Demo key two answered");
  });

  const refusals: [what: string, headers: Record<string, string>, limit: number, status: number][] = [
    ["unknown", { authorization: "Bearer demo-key-nine" }, 1, 401],
    ["missing", {}, 1, 401],
    ["not a bearer", { authorization: "Basic demo-key-one" }, 1, 401],
    ["over its limit", { authorization: "Bearer demo-key-one" }, 0, 429],
  ];
  const openaiErrors: Record<number, unknown> = {
    401: { type: "invalid_request_error", code: "invalid_api_key", param: null },
    429: { type: "requests", code: "rate_limit_exceeded", param: null },
  };
  const anthropicErrors: Record<number, unknown> = {
    401: { type: "authentication_error" },
    429: { type: "rate_limit_error" },
  };
  describe.each(refusals)("that is %s", (_, headers, limit, status) => {
    test.each([
      ...ENDPOINTS,
      ["/files/file-1/content", undefined],
      ["/nowhere", undefined],
    ] as typeof ENDPOINTS)("is refused at %s in its dialect", async (path, json) => {
      await using demo = open({ limit });
      const response = await demo.call(`/v1${path}`, json, { headers });
      const error = (path === "/messages" ? anthropicErrors : openaiErrors)[status];
      expect(response.status).toBe(status);
      expect(response.headers.get("retry-after")).toBe(status === 429 ? "60" : null);
      expect(await response.json()).toMatchObject(
        path === "/messages" ? { type: "error", error } : { error },
      );
    });
  });

  test("has a window that begins with its first request, and pays nothing for a refusal", async () => {
    await using demo = open({ limit: 2, windowMs: 10_000 });
    const ask = async () => {
      const response = await demo.call("/v1/models");
      return [response.status, response.headers.get("retry-after")];
    };
    demo.clock.advance(7_000);
    expect(await ask()).toEqual([200, null]);
    demo.clock.advance(9_000);
    expect(await ask()).toEqual([200, null]);
    expect(await ask()).toEqual([429, "1"]);
    demo.clock.advance(999);
    expect(await ask()).toEqual([429, "1"]);
    demo.clock.advance(1);
    expect(await ask()).toEqual([200, null]);
    demo.clock.advance(1_500);
    expect(await ask()).toEqual([200, null]);
    expect(await ask()).toEqual([429, "9"]); // 8.5 s, rounded up: a hint must never be too early
  });

  test("has a window of its own", async () => {
    await using demo = open({ limit: 1, keys: ["a", "b"] });
    const ask = async (key: string) => (await demo.call("/models", undefined, withKey(key))).status;
    expect([await ask("a"), await ask("a"), await ask("b"), await ask("b")]).toEqual([200, 429, 200, 429]);
  });

  test.each([
    ["retry-after", [null, null, null, null], ["42", null, null, null]],
    ["headers", [null, "1", "0", "42s"], [null, "1", "0", "42s"]],
    ["nothing", [null, null, null, null], [null, null, null, null]],
  ] as const)("announces by %s when to come back", async (announce, whenServed, whenRefused) => {
    await using demo = open({ announce, limit: 1, windowMs: 42_000 });
    const ask = async () => {
      const { headers } = await demo.call("/v1/chat/completions", CHAT);
      const limits = ["limit", "remaining", "reset"].map((name) =>
        headers.get(`x-ratelimit-${name}-requests`),
      );
      return [headers.get("retry-after"), ...limits];
    };
    expect(await ask()).toEqual([...whenServed]);
    expect(await ask()).toEqual([...whenRefused]);
  });

  test("is told by its number and by what it has left, so that a newcomer sees the wheel turn", async () => {
    await using demo = open({ limit: 5, keys: ["k1", "k2", "k3", "k4"] });
    const ask = async (key: string) => (await demo.call("/v1/chat/completions", CHAT, withKey(key))).text();
    expect(await ask("k2")).toContain(
      "Demo key two answered; it has 4 of its 5 requests left for the next 60s.",
    );
    demo.clock.advance(18_000);
    expect(await ask("k2")).toContain(
      "Demo key two answered; it has 3 of its 5 requests left for the next 42s.",
    );
    expect(await ask("k4")).toContain(
      "Demo key 4 answered; it has 4 of its 5 requests left for the next 60s.",
    );
  });
});

describe("a chat", () => {
  const tools = ["list_files", "get_weather"].map((name) => ({
    type: "function",
    function: {
      name,
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  }));

  test("is answered whole", async () => {
    await using demo = open();
    expect(await (await demo.call("/v1/chat/completions", CHAT)).json()).toEqual({
      id: `chatcmpl-demo-${demo.clock.now().toString(36)}-1`,
      object: "chat.completion",
      created: demo.clock.now() / 1000,
      model: "gpt-x",
      choices: [{ index: 0, message: { role: "assistant", content: SENTENCE }, finish_reason: "stop" }],
      usage: { prompt_tokens: 16, completion_tokens: 25, total_tokens: 41 },
    });
  });

  test.each([true, false])("is streamed token by token, include_usage: %p", async (include_usage) => {
    await using demo = open();
    const request = { ...CHAT, stream: true, stream_options: { include_usage } };
    const events = await eventsOf(await demo.call("/v1/chat/completions", request));
    expect(pick(events, "choices.0.delta.content").join("")).toBe(SENTENCE);
    expect(pick(events, "choices.0.delta.content").length).toBe(25);
    expect(pick(events, "choices.0.delta.role")).toEqual(["assistant"]);
    expect(pick(events, "choices.0.finish_reason")).toEqual(["stop"]);
    expect(pick(events, "usage.completion_tokens")).toEqual(include_usage ? [25] : []);
    expect(new Set(pick(events, "id")).size).toBe(1);
    expect(events.at(-1)).toEqual({ name: undefined, data: "[DONE]" });
  });

  test("calls a tool when it has tools", async () => {
    await using demo = open();
    expect(await (await demo.call("/v1/chat/completions", { ...CHAT, tools })).json()).toMatchObject({
      choices: [
        {
          finish_reason: "tool_calls",
          message: {
            content: null,
            tool_calls: [
              { type: "function", function: { name: "list_files", arguments: '{"city":"demo"}' } },
            ],
          },
        },
      ],
    });
  });

  test("streams a tool call: first its name, then its arguments in pieces", async () => {
    await using demo = open();
    const events = await eventsOf(await demo.call("/v1/chat/completions", { ...CHAT, tools, stream: true }));
    expect(pick(events, "choices.0.delta.tool_calls.0.function.name")).toEqual(["list_files"]);
    expect(pick(events, "choices.0.delta.tool_calls.0.id").length).toBe(1);
    expect(pick(events, "choices.0.delta.tool_calls.0.function.arguments")).toEqual([
      "",
      '{"city":',
      '"demo"}',
    ]);
    expect(pick(events, "choices.0.finish_reason")).toEqual(["tool_calls"]);
  });

  const named = { type: "function", function: { name: "get_weather" } };
  const result = { role: "tool", tool_call_id: "call-1", content: "sunny" };
  test.each([
    ["calls the tool that was asked for", { tool_choice: named }, '"name":"get_weather"'],
    ["calls none where none is wanted", { tool_choice: "none" }, SENTENCE],
    ["calls none when a result is there", { messages: [...CHAT.messages, result] }, SENTENCE],
    ["speaks where the list of tools is empty", { tools: [] }, SENTENCE],
    ["speaks where the tools are unreadable", { tools: "hammer", messages: null }, SENTENCE],
  ])("%s", async (_, extra, expected) => {
    await using demo = open();
    const response = await demo.call("/v1/chat/completions", { ...CHAT, tools, ...extra });
    expect(await response.text()).toContain(expected);
  });

  const nested = { type: "object", properties: { a: { type: "string" } }, required: ["a"] };
  test.each([
    ["a string", { type: "string" }, "demo"],
    ["a number", { type: "number" }, 1],
    ["an integer with a minimum", { type: "integer", minimum: 7 }, 7],
    ["a boolean", { type: "boolean" }, true],
    ["a choice", { type: "string", enum: ["celsius", "kelvin"] }, "celsius"],
    ["one of two types", { type: ["integer", "null"] }, 1],
    ["a list", { type: "array", items: { type: "string" } }, []],
    ["an object", nested, { a: "demo" }],
    ["anything", {}, "demo"],
  ])("makes arguments from the schema: %s", async (_, schema, expected) => {
    await using demo = open();
    const parameters = {
      type: "object",
      properties: { wanted: schema, spare: schema },
      required: ["wanted"],
    };
    const tool = { type: "function", function: { name: "use", parameters } };
    const response = await demo.call("/v1/chat/completions", { ...CHAT, tools: [tool] });
    const [text] = pick(
      [{ data: await response.json() }],
      "choices.0.message.tool_calls.0.function.arguments",
    );
    expect(JSON.parse(String(text))).toEqual({ wanted: expected });
  });

  test("needs no parameters to call a tool", async () => {
    await using demo = open();
    const tool = { type: "function", function: { name: "now" } };
    const response = await demo.call("/v1/chat/completions", { ...CHAT, tools: [tool] });
    expect(await response.text()).toContain('{"name":"now","arguments":"{}"}');
  });
});

describe("another dialect", () => {
  test("is the legacy completion, whole and as a stream", async () => {
    await using demo = open();
    const whole = await (await demo.call("/v1/completions", { prompt: "hi" })).json();
    expect(whole).toMatchObject({
      object: "text_completion",
      model: "demo-model",
      choices: [{ text: SENTENCE }],
    });
    const events = await eventsOf(await demo.call("/v1/completions", { prompt: "hi", stream: true }));
    expect(String(pick(events, "choices.0.text"))).toStartWith("Demo key one");
    expect(events.at(-1)?.data).toBe("[DONE]");
  });

  test("is a response, whole", async () => {
    await using demo = open();
    expect(await (await demo.call("/v1/responses", { model: "m", input: "hi" })).json()).toMatchObject({
      object: "response",
      status: "completed",
      model: "m",
      output: [{ type: "message", role: "assistant", content: [{ type: "output_text", text: SENTENCE }] }],
      usage: { input_tokens: 7, output_tokens: 25, total_tokens: 32 },
    });
  });

  test("is a response as a stream, its events named and numbered", async () => {
    await using demo = open();
    const events = await eventsOf(
      await demo.call("/v1/responses", { model: "m", input: "hi", stream: true }),
    );
    expect(pick(events, "type")).toEqual(events.map((event) => event.name));
    expect(pick(events, "sequence_number")).toEqual(events.map((_, index) => index));
    expect([...new Set(pick(events, "type"))]).toEqual([
      "response.created",
      "response.output_item.added",
      "response.content_part.added",
      "response.output_text.delta",
      "response.output_text.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.completed",
    ]);
    expect(pick(events, "delta").join("")).toBe(SENTENCE);
    expect(pick(events, "response.output.0.content.0.text")).toEqual([SENTENCE]);
  });

  test("is a message, whole", async () => {
    await using demo = open();
    expect(await (await demo.call("/v1/messages", { ...CHAT, max_tokens: 9 })).json()).toMatchObject({
      type: "message",
      role: "assistant",
      content: [{ type: "text", text: SENTENCE }],
      stop_reason: "end_turn",
      usage: { input_tokens: 20, output_tokens: 25 },
    });
  });

  test("is a message as a stream, its events named", async () => {
    await using demo = open();
    const events = await eventsOf(await demo.call("/v1/messages", { ...CHAT, stream: true }));
    expect(pick(events, "type")).toEqual(events.map((event) => event.name));
    expect([...new Set(pick(events, "type"))]).toEqual([
      "message_start",
      "content_block_start",
      "content_block_delta",
      "content_block_stop",
      "message_delta",
      "message_stop",
    ]);
    expect(pick(events, "delta.text").join("")).toBe(SENTENCE);
    expect(pick(events, "delta.stop_reason")).toEqual(["end_turn"]);
  });
});

describe("an embedding", () => {
  const embed = async (demo: Scene, request: Record<string, unknown>) => {
    const response = await demo.call("/v1/embeddings", { model: "demo-embedding", ...request });
    return pick([{ data: await response.json() }], "data")
      .flat()
      .flatMap((row) => pick([{ data: row }], "embedding"));
  };

  test("is the same for the same text and different for another", async () => {
    await using demo = open();
    const [first, second, again] = await embed(demo, { input: ["apple", "pear", "apple"] });
    expect(first).toHaveLength(8);
    expect(again).toEqual(first);
    expect(second).not.toEqual(first);
    expect(await embed(demo, { input: "apple" })).toEqual([first]);
    expect(await embed(demo, { input: [1, 2, 3] })).toHaveLength(1);
    expect(await embed(demo, { input: [[1, 2, 3], [4]] })).toHaveLength(2);
  });

  test("has as many dimensions as asked for, and is little endian floats in base64", async () => {
    await using demo = open();
    const [floats] = await embed(demo, { input: "apple", dimensions: 3 });
    const [base64] = await embed(demo, { input: "apple", dimensions: 3, encoding_format: "base64" });
    const bytes = Buffer.from(String(base64), "base64");
    expect(bytes).toHaveLength(12);
    expect([0, 4, 8].map((offset) => bytes.readFloatLE(offset))).toEqual(floats as number[]);
  });

  test.each([0, -1, "8", null, 2 ** 30, 1e300])("refuses dimensions: %p", async (dimensions) => {
    await using demo = open();
    expect((await demo.call("/v1/embeddings", { input: "apple", dimensions })).status).toBe(400);
  });
});

test("the models are listed, and each can be asked for", async () => {
  await using demo = open();
  const models = ["demo-model", "demo-embedding"].map((id) => ({
    id,
    object: "model",
    created: 0,
    owned_by: "keywheel",
  }));
  expect(await (await demo.call("/v1/models")).json()).toEqual({
    object: "list",
    data: models,
    has_more: false,
  });
  expect(await (await demo.call("/v1/models/demo-embedding")).json()).toEqual(models[1]);
});

describe("a file", () => {
  const CONTENT = Uint8Array.of(0, 255, 13, 10, 45, 45, 1);

  const store = async (demo: Scene, content = CONTENT) => {
    const body = new FormData();
    body.set("purpose", "assistants");
    body.set("file", new File([content], "notes.bin"));
    const response = await demo.call("/v1/files", undefined, { method: "POST", body });
    expect(response.status).toBe(200);
    const card: unknown = await response.json();
    return { card, id: String(pick([{ data: card }], "id")) };
  };

  test("is stored, listed, described, read and deleted", async () => {
    await using demo = open();
    const { card, id } = await store(demo);
    expect(card).toMatchObject({ object: "file", bytes: 7, filename: "notes.bin", purpose: "assistants" });
    expect(await (await demo.call("/v1/files")).json()).toEqual({
      object: "list",
      data: [card],
      has_more: false,
    });
    expect(await (await demo.call(`/v1/files/${id}`)).json()).toEqual(card);
    expect(await (await demo.call(`/v1/files/${id}/content`)).bytes()).toEqual(CONTENT);
    const gone = await demo.call(`/v1/files/${id}`, undefined, { method: "DELETE" });
    expect(await gone.json()).toEqual({ id, object: "file", deleted: true });
    for (const path of [`/v1/files/${id}`, `/v1/files/${id}/content`]) {
      expect((await demo.call(path)).status).toBe(404);
    }
    expect(await (await demo.call("/v1/files")).json()).toMatchObject({ data: [] });
  });

  test("exists for no key but its own", async () => {
    await using demo = open();
    const { id } = await store(demo);
    const stranger = withKey(demo.keys[1]);
    for (const [path, method] of [
      [`/v1/files/${id}`, "GET"],
      [`/v1/files/${id}/content`, "GET"],
      [`/v1/files/${id}`, "DELETE"],
    ] as const) {
      const response = await demo.call(path, undefined, { ...stranger, method });
      expect([response.status, await response.json()]).toMatchObject([
        404,
        { error: { message: `No such File object: ${id}`, code: "not_found" } },
      ]);
    }
    expect(await (await demo.call("/v1/files", undefined, stranger)).json()).toMatchObject({ data: [] });
    expect((await demo.call(`/v1/files/${id}`)).status).toBe(200);
  });

  test("must come as a form with a file", async () => {
    await using demo = open();
    const form = new FormData();
    form.set("file", "only text");
    for (const body of ["not a form", form]) {
      expect((await demo.call("/v1/files", undefined, { method: "POST", body })).status).toBe(400);
    }
  });

  test("makes room for newer ones", async () => {
    await using demo = open();
    const ids: string[] = [];
    for (let index = 0; index < 3; index++) ids.push((await store(demo, new Uint8Array(3 * 2 ** 20))).id);
    const files = await (await demo.call("/v1/files")).json();
    expect(pick([{ data: files }], "data").flat()).toMatchObject(ids.slice(1).map((id) => ({ id })));
  });
});

describe("a stream", () => {
  const streamed = { ...CHAT, stream: true };

  test("comes at the pace of the clock", async () => {
    await using demo = open({ tokenDelayMs: 20 });
    let events = 0;
    const reading = (async () => {
      const { body } = await demo.call("/v1/chat/completions", streamed);
      for await (const chunk of body ?? [])
        events += new TextDecoder().decode(chunk).split("\n\n").length - 1;
    })();
    for (let step = 0; step < 28; step++) {
      await demo.clock.untilPending(1);
      expect(events).toBeLessThanOrEqual(step);
      demo.clock.advance(20);
    }
    await reading;
    expect(events).toBe(28);
    await demo.clock.untilPending(0);
  });

  test("ends, timer and all, when the client leaves", async () => {
    await using demo = open({ tokenDelayMs: 20 });
    const leaving = new AbortController();
    const answer = demo.call("/v1/chat/completions", streamed, { signal: leaving.signal });
    await demo.clock.untilPending(1);
    demo.clock.advance(20);
    const reader = (await answer).body?.getReader();
    await reader?.read();
    await demo.clock.untilPending(1);
    leaving.abort();
    await demo.clock.untilPending(0);
    expect((await demo.call("/v1/models")).status).toBe(200);
  });

  test("ends when the client leaves before the first event", async () => {
    await using demo = open({ tokenDelayMs: 20 });
    const leaving = new AbortController();
    const answer = demo
      .call("/v1/chat/completions", streamed, { signal: leaving.signal })
      .catch(() => "left");
    await demo.clock.untilPending(1);
    leaving.abort();
    expect(await answer).toBe("left");
    await demo.clock.untilPending(0);
  });

  test("is cut by stop", async () => {
    const demo = open({ tokenDelayMs: 20 });
    const answer = demo.call("/v1/chat/completions", streamed).catch(() => "cut");
    await demo.clock.untilPending(1);
    await demo.stop();
    expect(await answer).toBe("cut");
    await demo.clock.untilPending(0);
    expect(await fetch(demo.url).catch(() => "closed")).toBe("closed");
  });
});

describe("a test's script", () => {
  test("answers in place of the provider, before key and limit, or leaves it to the provider", async () => {
    const statuses = [500, undefined, 429];
    await using demo = open({
      limit: 1,
      answer: () => {
        const status = statuses.shift();
        return status === undefined ? undefined : new Response("scripted", { status });
      },
    });
    const asked: number[] = [];
    for (let turn = 0; turn < 4; turn++) asked.push((await demo.call("/v1/models")).status);
    expect(asked).toEqual([500, 200, 429, 429]);
    expect(demo.seen.map((request) => request.status)).toEqual(asked);
    expect((await demo.call("/v1/models", undefined, withKey("wrong"))).status).toBe(401);
  });

  test("is given the request and learns when the caller leaves", async () => {
    const asked = Promise.withResolvers<DemoCall>();
    const left = Promise.withResolvers<void>();
    await using demo = open({
      answer(call) {
        asked.resolve(call);
        call.signal.addEventListener("abort", () => left.resolve());
        return new Promise(() => {});
      },
    });
    const leaving = new AbortController();
    const answer = demo.call("/v1/x?y=1", { z: 2 }, { signal: leaving.signal }).catch(() => "left");
    expect(await asked.promise).toMatchObject({ method: "POST", target: "/v1/x?y=1", json: { z: 2 } });
    leaving.abort();
    expect(await answer).toBe("left");
    await left.promise;
  });

  test("may hang for good without holding up stop", async () => {
    const asked = Promise.withResolvers<void>();
    const demo = open({
      answer() {
        asked.resolve();
        return new Promise(() => {});
      },
    });
    const answer = demo.call("/v1/models").catch(() => "cut");
    await asked.promise;
    await demo.stop();
    expect(await answer).toBe("cut");
  });
});

describe("what was seen", () => {
  test("is a row per request, newest last, whole", async () => {
    await using demo = open();
    const body = Uint8Array.of(1, 0, 255);
    await demo.call("/v1/models?limit=2", undefined, {
      headers: { "x-api-key": "stranger", "x-trace": "t1" },
    });
    demo.clock.advance(5);
    await demo.call("/v1/chat/completions", CHAT);
    await demo.call("/v1/upload", undefined, { method: "PUT", body });
    const [first, second, third] = demo.seen;
    expect(first).toMatchObject({
      method: "GET",
      target: "/v1/models?limit=2",
      key: "stranger",
      status: 401,
    });
    expect([first?.headers.get("x-trace"), first?.json]).toEqual(["t1", undefined]);
    expect(second).toMatchObject({ at: demo.clock.now(), key: demo.keys[0], json: CHAT, status: 200 });
    expect(third).toMatchObject({ method: "PUT", body, json: undefined, status: 404 });
  });

  test("is bounded in rows", async () => {
    await using demo = open();
    for (let turn = 0; turn < 1010; turn++) await demo.call(`/${turn}`);
    expect(demo.seen).toHaveLength(1000);
    expect([demo.seen[0]?.target, demo.seen.at(-1)?.target]).toEqual(["/10", "/1009"]);
  });

  test("is bounded in bytes, but holds the newest whatever its size", async () => {
    await using demo = open();
    for (const mib of [3, 3, 3, 9]) {
      await demo.call("/v1/x", undefined, { method: "POST", body: new Uint8Array(mib * 2 ** 20) });
      expect(demo.seen.at(-1)?.body).toHaveLength(mib * 2 ** 20);
      expect(demo.seen.length).toBeLessThanOrEqual(2);
    }
    expect(demo.seen).toHaveLength(1);
  });
});

describe("what the demo tells", () => {
  const attempt = (key: number, status: number) => ({
    provider: "default",
    key,
    keyId: "3e23e816",
    account: null,
    verdict: status === 429 ? "rate_limited" : "served",
    status,
    ms: 1,
    said: "",
  });
  const FINISHED: RequestRecord = {
    id: 0,
    at: 0,
    method: "POST",
    path: "/v1/chat/completions",
    provider: "default",
    model: "demo",
    status: 200,
    outcome: "served",
    key: "1",
    keyId: "3e23e816",
    account: null,
    attempts: [attempt(1, 200)],
    waitedMs: 0,
    firstByteMs: 1,
    totalMs: 1,
    bytes: 1,
    client: null,
    isTruncated: false,
    reason: "",
    maybeBilledReplays: 0,
  };
  const rows: [says: string, changes: Partial<RequestRecord>, line: string][] = [
    ["an answer", {}, "  answered with key 2: the client saw no error"],
    [
      "a rotation",
      { attempts: [attempt(0, 429), attempt(1, 200)] },
      "  answered with key 2, after another one had refused: the client saw no error",
    ],
    [
      "a wait",
      { attempts: [attempt(0, 429), attempt(2, 429), attempt(1, 200)], waitedMs: 9870 },
      "  answered with key 2, after 2 others had refused, and waited 9.9 s for it: the client saw no error",
    ],
    ["an error", { status: 404 }, "  /v1/chat/completions was answered with 404"],
    ["a refusal without a key", { key: null, status: 503 }, "  /v1/chat/completions was answered with 503"],
  ];
  test.each(rows)("is %s", (_, changes, line) => {
    const lines: string[] = [];
    narrator((each) => lines.push(each)).finished?.({ ...FINISHED, ...changes });
    expect(lines).toEqual([line]);
  });

  test("is a key that is full, and nothing of what else becomes of keys", () => {
    const lines: string[] = [];
    const { keyChanged } = narrator((line) => lines.push(line));
    const event = { at: 0, provider: "default", key: 0, keyId: "x", account: null, model: null, said: "" };
    keyChanged?.({ ...event, kind: "cooled", reason: "rate_limit", until: 9500 });
    keyChanged?.({ ...event, kind: "pool_dry", reason: null, until: null });
    expect(lines).toEqual(["  key 1 is full for 10s"]);
  });
});
