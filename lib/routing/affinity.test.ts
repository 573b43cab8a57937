import { describe, expect, test } from "bun:test";
import { conversationOf } from "./affinity.ts";
import { seedOf } from "../pool/key.ts";
import { rendezvous } from "../pool/selection.ts";

interface Asked {
  path?: string;
  headers?: Record<string, string>;
  body: unknown;
}

function conversation({ path = "/v1/chat/completions", headers = {}, body }: Asked): number | null {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return conversationOf(path, new Headers(headers), new TextEncoder().encode(text));
}

const user = (content: unknown) => ({ role: "user", content });
const assistant = (content: unknown) => ({ role: "assistant", content });
const system = (content: unknown) => ({ role: "system", content });
const chat = (...messages: unknown[]): Asked => ({ body: { model: "m", messages } });
const anthropic = (...messages: unknown[]): Asked => ({
  path: "/v1/messages",
  body: { model: "m", system: "Be brief.", messages },
});
const responses = (input: unknown, more: object = {}): Asked => ({
  path: "/v1/responses",
  body: { model: "m", instructions: "Be brief.", input, ...more },
});
const gemini = (contents: unknown, method = "generateContent"): Asked => ({
  path: `/v1beta/models/m:${method}`,
  body: { systemInstruction: { parts: [{ text: "Be brief." }] }, contents },
});

const part = (text: string) => ({ type: "text", text });
const cached = (text: string) => ({ type: "text", text, cache_control: { type: "ephemeral" } });
const said = (text: string) => ({ type: "message", role: "user", content: [{ type: "input_text", text }] });
const SETTING = "This is the Qwen Code. We are setting up the context for our chat.";
const ACCEPTED = "Got it. Thanks for the context!";
const CODEX_SETTING = said("<environment_context><cwd>/src</cwd></environment_context>");
const UUID = "0b7c6d5e-1111-4222-8333-444455556666";
const fromClaude = (userId: string, text: string): Asked => ({
  path: "/v1/messages",
  body: { model: "m", messages: [user(text)], metadata: { user_id: userId } },
});

describe("a conversation", () => {
  const same: [says: string, first: Asked, later: Asked][] = [
    [
      "is the same in its next turn",
      chat(system("Be brief."), user("hi")),
      chat(system("Be brief."), user("hi"), assistant("Hello."), user("more")),
    ],
    [
      "is the same when its text is put into a part",
      chat(user("hi")),
      chat(user([part("hi")]), assistant("Hello."), user("more")),
    ],
    [
      "is the same when the mark of the cache moves on",
      anthropic(user([part("look"), cached("hi")])),
      anthropic(user([part("look"), part("hi")]), assistant([part("Hello.")]), user([cached("more")])),
    ],
    [
      "is the same with other tools, and other settings behind it",
      { body: { model: "m", tools: [{ name: "a" }, { name: "b" }], messages: [user("hi")] } },
      { body: { model: "m", tools: [{ name: "b" }, { name: "a" }], messages: [user("hi")], seed: 1 } },
    ],
    [
      "is the same when the role stands behind the text",
      chat({ content: "hi", role: "user" }),
      chat(
        { content: "hi", role: "user" },
        { content: "Hello.", role: "assistant" },
        { content: "x", role: "user" },
      ),
    ],
    [
      "is the same when a text becomes a list, in Responses",
      responses("hi"),
      responses([user("hi"), assistant("Hello."), { type: "function_call", name: "f" }, user("more")]),
    ],
    [
      "is the same in Gemini, streamed or not",
      gemini([{ role: "user", parts: [{ text: "hi" }] }]),
      gemini(
        [{ parts: [{ text: "hi" }] }, { role: "model", parts: [{ text: "Hello." }] }],
        "streamGenerateContent",
      ),
    ],
    [
      "is the same in Ollama",
      { ...chat(user("hi")), path: "/api/chat" },
      { ...chat(user("hi"), assistant("Hello."), user("more")), path: "/api/chat" },
    ],
    [
      "is the same with a growing prompt",
      { path: "/v1/completions", body: { prompt: `${"x".repeat(600)}` } },
      { path: "/v1/completions", body: { prompt: `${"x".repeat(600)} and more` } },
    ],
    [
      "is the same in spite of Claude Code's line that changes",
      {
        path: "/v1/messages",
        body: { system: [part("x-anthropic-billing-header: cch=1;"), part("s")], messages: [user("hi")] },
      },
      {
        path: "/v1/messages",
        body: { system: [part("x-anthropic-billing-header: cch=2;"), part("s")], messages: [user("hi")] },
      },
    ],
    [
      "is the same after an agent's own first messages",
      chat(user(SETTING), assistant(ACCEPTED), user("hi")),
      chat(user(SETTING), assistant(ACCEPTED), user("hi"), assistant("Hello."), user("more")),
    ],
    [
      "is the same when the user's words stand in the agent's own message",
      chat(user(`${SETTING} hi`)),
      chat(user(`${SETTING} hi`), assistant("Hello."), user("more")),
    ],
    [
      "is the same by the client's id, whatever is said",
      { headers: { "x-session-id": "s1" }, ...chat(user("hi")) },
      { headers: { "x-session-id": "s1" }, ...chat(user("the summary of what was said")) },
    ],
    [
      "is the same by the id in its body",
      responses("hi", { prompt_cache_key: "k1" }),
      responses([user("a summary")], { prompt_cache_key: "k1" }),
    ],
    [
      "is the same by the session in Claude's user id",
      fromClaude(`user_ab12_account_${UUID}_session_${UUID}`, "hi"),
      fromClaude(`user_ab12_account_${UUID}_session_${UUID}`, "a summary"),
    ],
    [
      "is the same by the session in Claude's user id, as JSON",
      fromClaude(JSON.stringify({ device_id: "d", session_id: UUID }), "hi"),
      fromClaude(JSON.stringify({ device_id: "d", session_id: UUID }), "a summary"),
    ],
  ];
  test.each(same)("%s", (_, first, later) => {
    expect(conversation(first)).toBeNumber();
    expect(conversation(later)).toBe(conversation(first));
  });

  const different: [says: string, one: Asked, other: Asked][] = [
    ["is told by the user's first words", chat(user("hi")), chat(user("ho"))],
    ["is told by its system text", chat(system("a"), user("hi")), chat(system("b"), user("hi"))],
    ["is told by its model", { body: { model: "a", messages: [user("hi")] } }, chat(user("hi"))],
    [
      "is told by the model in its path",
      gemini("hi"),
      { ...gemini("hi"), path: "/v1beta/models/n:generateContent" },
    ],
    [
      "is told by any of the parts",
      anthropic(user([part("a"), part("b")])),
      anthropic(user([part("a"), part("c")])),
    ],
    [
      "is told by its instructions",
      responses("hi"),
      { path: "/v1/responses", body: { instructions: "x", input: "hi" } },
    ],
    [
      "is told by its prompt",
      { path: "/v1/completions", body: { prompt: "a" } },
      { path: "/v1/completions", body: { prompt: "b" } },
    ],
    [
      "is told by what follows an agent's own first message",
      responses([CODEX_SETTING, said("a")]),
      responses([CODEX_SETTING, said("b")]),
    ],
    [
      "is told by what follows an answer that the agent has made up",
      chat(user(SETTING), assistant(ACCEPTED), user("a")),
      chat(user(SETTING), assistant(ACCEPTED), user("b")),
    ],
    [
      "is told by the client's id",
      { headers: { "session-id": "s1" }, ...chat(user("hi")) },
      { headers: { "session-id": "s2" }, ...chat(user("hi")) },
    ],
    [
      "is told by the id in its body",
      responses("hi", { prompt_cache_key: "a" }),
      responses("hi", { prompt_cache_key: "b" }),
    ],
    ["is not told by a user without a session", fromClaude("user_ab12", "a"), fromClaude("user_ab12", "b")],
    [
      "is not told by an id that somebody writes about",
      chat(user('{"prompt_cache_key":"k1"} a')),
      chat(user('{"prompt_cache_key":"k1"} b')),
    ],
    [
      "is not told by a field of that name that is no text",
      { body: { messages: [user("a")], tools: [{ prompt_cache_key: { type: "string" } }] } },
      { body: { messages: [user("b")], tools: [{ prompt_cache_key: { type: "string" } }] } },
    ],
  ];
  test.each(different)("%s", (_, one, other) => {
    expect(conversation(one)).toBeNumber();
    expect(conversation(other)).toBeNumber();
    expect(conversation(other)).not.toBe(conversation(one));
  });

  const unknown: [says: string, asked: Asked][] = [
    ["without messages", { body: { model: "m" } }],
    ["with no message yet", chat()],
    ["with a system text only", chat(system("Be brief."))],
    ["with a picture only", chat(user([{ type: "image_url", image_url: { url: "data:," } }]))],
    ["that is no JSON", { body: "messages=hi" }],
    ["that is cut off", { body: '{"model":"m","messages":[{"role":"us' }],
    ["that is a list of bad brackets", { body: '{"messages":[}' }],
    ["with tokens for a prompt", { path: "/v1/completions", body: { prompt: [1, 2, 3] } }],
    ["of embeddings", { path: "/v1/embeddings", body: { model: "m", input: "hi" } }],
    ["of a picture", { path: "/v1/images/generations", body: { prompt: "a cat" } }],
    [
      "of a batch",
      { path: "/v1/messages/batches", body: { requests: [{ params: { messages: [user("hi")] } }] } },
    ],
  ];
  test.each(unknown)("is unknown in a body %s", (_, asked) => {
    expect(conversation(asked)).toBeNull();
  });

  test("is unknown without a body", () => {
    expect(conversationOf("/v1/chat/completions", new Headers({ "x-session-id": "s" }), null)).toBeNull();
  });

  test("never fails, wherever its body is cut, and is not known before its first words", () => {
    const whole = new TextEncoder().encode(
      JSON.stringify({
        model: "m",
        system: [part("s")],
        messages: [user([part('a "quoted" one\\')]), assistant("b")],
      }),
    );
    const full = conversationOf("/v1/messages", new Headers(), whole);
    const found = whole.map((_, end) =>
      conversationOf("/v1/messages", new Headers(), whole.subarray(0, end)) === full ? 1 : 0,
    );
    expect(found[0]).toBe(0);
    expect(found.at(-1)).toBe(1);
  });

  test("is told apart among ten thousand that differ in a number", () => {
    const seen = new Set<number | null>();
    for (let index = 0; index < 10_000; index += 1) seen.add(conversation(chat(user(`ticket ${index}`))));
    expect(seen.size).toBeGreaterThan(9_990);
  });
});

describe("the key of a conversation", () => {
  const KEYS = ["3e23e816", "39fa9ec1", "53a0acfa", "ff5a1ae0", "0f4c33aa"];
  const best = (conversation: number, keys: readonly string[]) =>
    keys.reduce((a, b) =>
      rendezvous(conversation, seedOf(b)) > rendezvous(conversation, seedOf(a)) ? b : a,
    );
  const conversations = Array.from({ length: 5000 }, (_, index) => seedOf(`conversation ${index}`));

  test("is any key as often as any other", () => {
    const counts = new Map<string, number>();
    for (const conversation of conversations) {
      const key = best(conversation, KEYS);
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    for (const key of KEYS) expect(counts.get(key) ?? 0).toBeWithin(850, 1150);
  });

  test("changes for those alone whose key has gone", () => {
    const fewer = KEYS.slice(1);
    const moved = conversations.filter(
      (conversation) => best(conversation, KEYS) !== best(conversation, fewer),
    );
    expect(moved.length).toBeGreaterThan(0);
    expect(moved.filter((conversation) => best(conversation, KEYS) !== KEYS[0])).toEqual([]);
  });

  test("is a whole number of 32 bits in every case", () => {
    for (const [a, b] of [
      [0, 0],
      [-1, 0xffffffff],
      [2 ** 32 - 1, 1],
    ] as const) {
      const weight = rendezvous(a, b);
      expect(Number.isInteger(weight) && weight >= 0 && weight < 2 ** 32).toBe(true);
    }
    expect(seedOf("")).toBeNumber();
  });
});
