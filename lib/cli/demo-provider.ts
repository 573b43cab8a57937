/**
 * A make-believe provider: what `keywheel --demo` runs behind the proxy, and what the proxy's tests talk to.
 *
 * It speaks OpenAI and Anthropic, knows a few made-up keys, and refuses a key that asks too often. Its one
 * sentence says which key answered and how much that key has left, so that the wheel can be seen turning.
 * Nothing runs until it is started.
 */
import type { Observer } from "../core/events.ts";
import { field, isObject } from "../core/json.ts";
import type { Bytes } from "../http/body.ts";
import { type CancelTimer, type Clock, formatDuration, retryAfterSec, systemClock } from "../core/clock.ts";

/** One request as it came in. */
interface DemoRequest {
  readonly at: number;
  readonly method: string;
  readonly target: string; // path and query, as received
  readonly key: string | null; // known or not
  readonly headers: Headers;
  readonly body: Bytes;
  readonly json: unknown; // undefined where the body is none
  status: number; // what it was answered, 0 until then
}

/** What a test's script is given. The signal fires when the caller leaves. */
export type DemoCall = DemoRequest & { readonly signal: AbortSignal };

export interface DemoOptions {
  keys?: string[];
  /** Requests one key may make per window, which begins with the first request after the last one ended. */
  limit?: number;
  windowMs?: number;
  clock?: Clock;
  /** How a refusal tells when to come back; `headers`: by `x-ratelimit-*-requests` on every answer. */
  announce?: "retry-after" | "headers" | "nothing";
  /** Pause before each event of a stream. 0 sets no timer at all, so a false clock need not be moved. */
  tokenDelayMs?: number;
  /** A test's script. Asked before key and limit are looked at; undefined means: go on as usual. */
  answer?: (call: DemoCall) => Response | undefined | Promise<Response | undefined>;
}

export interface DemoProvider {
  readonly url: string; // http://127.0.0.1:PORT, the origin only
  readonly keys: readonly string[];
  /** One row per request received whole, newest last: at most 1000, and 8 MiB of bodies. */
  readonly seen: DemoRequest[];
  /** Closes the port and cuts what still streams. */
  stop(): Promise<void>;
}

const MAX_ROWS = 1000;
const MAX_HELD_BYTES = 8 * 2 ** 20;
const MAX_EMBEDDED_NUMBERS = 2 ** 20;
const DEMO_MODELS = ["demo-model", "demo-embedding"];
const KEY_NAMES = ["one", "two", "three"];
type Json = Record<string, unknown>;
type StoredFile = { readonly card: Json; readonly body: Bytes };
/** What belongs to one key. */
type DemoAccount = {
  readonly name: string;
  windowBeganAt: number;
  used: number;
  readonly files: StoredFile[];
};
/** An admitted request: `path` is without query and `/v1`, `id` unique, `left` says what the key has left. */
type Turn = DemoCall & { path: string; account: DemoAccount; id: string; left: string };
/** One answer, whole and as the events of a stream. */
type Speech = { whole: Json; events: (Json | "[DONE]")[] };

/** What the proxy in front of it is set to; of the environment only where it listens and how much it says. */
export function demoSettings(
  { url, keys }: DemoProvider,
  environment: Readonly<Record<string, string | undefined>>,
  password: string,
): Record<string, string> {
  return {
    PORT: environment["PORT"] ?? "3000",
    HOST: environment["HOST"] ?? "127.0.0.1",
    LOG_LEVEL: environment["LOG_LEVEL"] ?? "error", // `narrator` tells what happens
    ADMIN_PASSWORD: password,
    API_KEYS: keys.join(","),
    TARGET_BASE_URL: `${url}/v1`,
    PROVIDER: "openai",
    STATE: "off",
  };
}

/** Limits that show within seconds how keys take turns, and how a request waits. */
export const DEMO_LIMITS = { limit: 3, windowMs: 10_000 };

/** Tells somebody who tries the demo what happens, a line each. */
export function narrator(say: (line: string) => void): Observer {
  return {
    finished({ status, attempts, waitedMs, path, key }) {
      if (status >= 400 || key === null) return say(`  ${path} was answered with ${status}`);
      const refused = attempts.filter((attempt) => attempt.status === 429).length;
      const after =
        refused === 0 ? "" : `, after ${refused === 1 ? "another one" : `${refused} others`} had refused`;
      const waited = waitedMs < LEAST_TOLD_MS ? "" : `, and waited ${(waitedMs / 1000).toFixed(1)} s for it`;
      say(`  answered with key ${Number(key) + 1}${after}${waited}: the client saw no error`);
    },
    keyChanged({ kind, key, at, until }) {
      if (kind !== "cooled" || key === null || until === null) return;
      say(`  key ${key + 1} is full for ${formatDuration(until - at)}`);
    },
  };
}

/** A shorter wait is not worth a word. */
const LEAST_TOLD_MS = 50;

export function startDemoProvider(options: DemoOptions = {}): DemoProvider {
  const { keys = KEY_NAMES.map((name) => `demo-key-${name}`), limit = 5, windowMs = 60_000 } = options;
  const { clock = systemClock, announce = "retry-after", tokenDelayMs = 20, answer } = options;
  const accounts = new Map(keys.map((key, index) => [key, openAccount(index)]));
  const seen: DemoRequest[] = [];
  let turns = 0;

  async function handle(call: DemoCall): Promise<Response> {
    const scripted = await answer?.(call);
    if (scripted) return scripted;
    const path = new URL(call.target, "http://demo").pathname.replace(/^\/v1(?=\/)/, "");
    const account = accounts.get(call.key ?? "");
    if (!account) return failure(path, 401, "Incorrect API key provided.");
    const granted = spend(account, limit, windowMs, call.at);
    const resetMs = account.windowBeganAt + windowMs - call.at;
    const left = `${limit - account.used} of its ${limit} requests left for the next ${formatDuration(resetMs)}`;
    const turn = { ...call, path, account, id: `demo-${call.at.toString(36)}-${++turns}`, left };
    const response = granted
      ? await answerTurn(turn, (events) => stream(events, clock, tokenDelayMs))
      : failure(path, 429, `Rate limit reached for demo key ${account.name}.`);
    if (announce === "retry-after" && !granted) {
      response.headers.set("retry-after", String(retryAfterSec(resetMs)));
    } else if (announce === "headers") {
      response.headers.set("x-ratelimit-limit-requests", String(limit));
      response.headers.set("x-ratelimit-remaining-requests", String(limit - account.used));
      response.headers.set("x-ratelimit-reset-requests", formatDuration(resetMs));
    }
    return response;
  }

  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    development: false, // else an error is a page of HTML, whatever NODE_ENV was at build time (Bun 1.4.5)
    idleTimeout: 0, // a script may keep silent for as long as it likes
    async fetch(request) {
      const call = await receive(request, clock.now());
      keep<DemoRequest>(seen, call);
      const response = await handle(call);
      call.status = response.status;
      return response;
    },
    error: (error) => failure("", 500, `The demo provider failed: ${error.message}`),
  });
  return { url: server.url.origin, keys, seen, stop: () => server.stop(true) };
}

function openAccount(index: number): DemoAccount {
  return { name: KEY_NAMES[index] ?? String(index + 1), windowBeganAt: -Infinity, used: 0, files: [] };
}

/** Takes a request out of the key's window; false where none is left. A refused one costs nothing. */
function spend(account: DemoAccount, limit: number, windowMs: number, now: number): boolean {
  if (now >= account.windowBeganAt + windowMs) Object.assign(account, { windowBeganAt: now, used: 0 });
  if (account.used >= limit) return false;
  account.used += 1;
  return true;
}

async function receive(request: Request, at: number): Promise<DemoCall> {
  const { method, headers, signal } = request;
  const { pathname, search } = new URL(request.url);
  const body = new Uint8Array(await request.arrayBuffer());
  const json: unknown = await new Response(body).json().catch(() => undefined);
  const bearer = /^Bearer\s+(\S+)$/i.exec(headers.get("authorization") ?? "")?.[1];
  const key = bearer ?? headers.get("x-api-key") ?? headers.get("x-goog-api-key") ?? headers.get("api-key");
  return { at, method, target: pathname + search, key, headers, body, json, signal, status: 0 };
}

/** The routes. */
function answerTurn(turn: Turn, send: (events: Speech["events"]) => Response): Response | Promise<Response> {
  const { method, path, json } = turn;
  const [, collection, id = ""] = path.split("/");
  const speak = SPEECHES[path];
  if (collection === "files") return serveFile(turn);
  if (method === "GET" && path === "/models") return list(DEMO_MODELS.map(modelCard));
  if (method === "GET" && collection === "models" && DEMO_MODELS.includes(id))
    return Response.json(modelCard(id));
  if (method !== "POST" || (!speak && path !== "/embeddings")) return failure(path, 404, "Unknown endpoint.");
  if (!isObject(json)) return failure(path, 400, "The body is not a JSON object.");
  if (!speak) return embed(json);
  const { whole, events } = speak(turn, json);
  return json.stream === true ? send(events) : Response.json(whole);
}

const SPEECHES: Record<string, (turn: Turn, json: Json) => Speech> = {
  "/chat/completions": chat,
  "/completions": complete,
  "/responses": respond,
  "/messages": message,
};

/** What every dialect says, before it says it in its own words. */
function compose({ account, left, body, at }: Turn, json: Json) {
  const text = `Demo key ${account.name} answered; it has ${left}. Ask again: the next key takes its turn.`;
  const [input, output] = [Math.ceil(body.length / 4), tokens(text).length];
  const usage = { prompt_tokens: input, completion_tokens: output, total_tokens: input + output };
  const model = typeof json.model === "string" ? json.model : "demo-model";
  return { text, model, created: Math.floor(at / 1000), input, output, usage };
}

function chat(turn: Turn, json: Json): Speech {
  const { text, model, created, usage } = compose(turn, json);
  const tool = chooseTool(json);
  const finish = tool ? "tool_calls" : "stop";
  const call = { id: `call-${turn.id}`, type: "function", function: tool };
  const said = tool ? { content: null, tool_calls: [call] } : { content: text };
  const card = { id: `chatcmpl-${turn.id}`, object: "chat.completion", created, model };
  const chunk = (fields: Json) => ({ ...card, object: "chat.completion.chunk", choices: [], ...fields });
  const saying = (delta: Json, finish_reason: string | null = null) =>
    chunk({ choices: [{ index: 0, delta, finish_reason }] });
  const calling = (part: Json) => saying({ tool_calls: [{ index: 0, ...part }] });
  const pieces = tool
    ? tokens(tool.arguments).map((piece) => calling({ function: { arguments: piece } }))
    : tokens(text).map((piece) => saying({ content: piece }));
  if (tool) pieces.unshift(calling({ ...call, function: { ...tool, arguments: "" } }));
  const accounting = formFieldOf(json.stream_options, "include_usage") === true ? [chunk({ usage })] : [];
  const choice = { index: 0, message: { role: "assistant", ...said }, finish_reason: finish };
  return {
    whole: { ...card, choices: [choice], usage },
    events: [saying({ role: "assistant" }), ...pieces, saying({}, finish), ...accounting, "[DONE]"],
  };
}

/** The tool asked for by name, else the first; none after a result, or an agent would call for ever. */
function chooseTool({ messages, tools, tool_choice: choice }: Json) {
  if (choice === "none" || formFieldOf(arrayOf(messages).at(-1), "role") === "tool") return null;
  const functions = arrayOf(tools).map((tool) => formFieldOf(tool, "function"));
  const wanted = formFieldOf(formFieldOf(choice, "function"), "name");
  const chosen = functions.find((candidate) => formFieldOf(candidate, "name") === wanted) ?? functions[0];
  const name = formFieldOf(chosen, "name");
  const parameters = formFieldOf(chosen, "parameters") ?? { type: "object" };
  return typeof name === "string" ? { name, arguments: JSON.stringify(sample(parameters)) } : null;
}

/** The least that fits a JSON schema, as far as tools go. */
function sample(schema: unknown): unknown {
  const [choice] = arrayOf(formFieldOf(schema, "enum"));
  const [type] = [formFieldOf(schema, "type")].flat();
  if (choice !== undefined) return choice;
  if (type === "number" || type === "integer") return formFieldOf(schema, "minimum") ?? 1;
  if (type === "boolean") return true;
  if (type === "array") return [];
  if (type !== "object") return "demo";
  const required = arrayOf(formFieldOf(schema, "required")).map(String);
  return Object.fromEntries(
    required.map((name) => [name, sample(formFieldOf(formFieldOf(schema, "properties"), name))]),
  );
}

/** The legacy dialect, kept simple: its stream is a single event. */
function complete(turn: Turn, json: Json): Speech {
  const { text, model, created, usage } = compose(turn, json);
  const choices = [{ index: 0, text, logprobs: null, finish_reason: "stop" }];
  const whole = { id: `cmpl-${turn.id}`, object: "text_completion", created, model, choices, usage };
  return { whole, events: [whole, "[DONE]"] };
}

function respond(turn: Turn, json: Json): Speech {
  const { text, model, created: created_at, input, output } = compose(turn, json);
  const id = `msg-${turn.id}`;
  const place = { item_id: id, output_index: 0, content_index: 0 };
  const part = { type: "output_text", text, annotations: [] };
  const item = { id, type: "message", role: "assistant", status: "completed", content: [part] };
  const card = { id: `resp-${turn.id}`, object: "response", created_at, model, error: null, tools: [] };
  const usage = { input_tokens: input, output_tokens: output, total_tokens: input + output };
  const whole = { ...card, status: "completed", output: [item], usage };
  const begun = { ...item, status: "in_progress", content: [] };
  const events: Json[] = [
    { type: "response.created", response: { ...card, status: "in_progress", output: [] } },
    { type: "response.output_item.added", output_index: 0, item: begun },
    { type: "response.content_part.added", ...place, part: { ...part, text: "" } },
    ...tokens(text).map((delta) => ({ type: "response.output_text.delta", ...place, delta, logprobs: [] })),
    { type: "response.output_text.done", ...place, text, logprobs: [] },
    { type: "response.content_part.done", ...place, part },
    { type: "response.output_item.done", output_index: 0, item },
    { type: "response.completed", response: whole },
  ];
  return { whole, events: events.map((event, sequence_number) => ({ ...event, sequence_number })) };
}

function message(turn: Turn, json: Json): Speech {
  const { text, model, input, output } = compose(turn, json);
  const usage = { input_tokens: input, output_tokens: output };
  const end = { stop_reason: "end_turn", stop_sequence: null };
  const card = { id: `msg-${turn.id}`, type: "message", role: "assistant", model };
  const begun = { ...card, content: [], stop_reason: null, stop_sequence: null, usage };
  const spoken = { type: "content_block_delta", index: 0 };
  const events = [
    { type: "message_start", message: begun },
    { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
    ...tokens(text).map((text) => ({ ...spoken, delta: { type: "text_delta", text } })),
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: end, usage },
    { type: "message_stop" },
  ];
  return { whole: { ...card, content: [{ type: "text", text }], ...end, usage }, events };
}

/** Vectors that mean nothing, but are the same for the same text. A list of numbers is one text in tokens. */
function embed({ input, model, dimensions: size = 8, encoding_format: format }: Json): Response {
  const texts = typeof arrayOf(input)[0] === "number" ? [input] : [input].flat();
  if (typeof size !== "number" || !(size >= 1 && size * texts.length <= MAX_EMBEDDED_NUMBERS)) {
    return failure("", 400, `Inputs times dimensions must be from 1 to ${MAX_EMBEDDED_NUMBERS}.`);
  }
  const data = texts.map((text, index) => {
    const axes = Array.from({ length: size }, (_, axis) => Number(Bun.hash(`${text}`, axis) % 2000n));
    const vector = Float32Array.from(axes, (hash) => hash / 1000 - 1);
    const base64 = Buffer.from(vector.buffer).toString("base64"); // little endian on all we build for
    return { object: "embedding", index, embedding: format === "base64" ? base64 : [...vector] };
  });
  return Response.json({ object: "list", data, model, usage: { prompt_tokens: 1, total_tokens: 1 } });
}

/** A file exists for the key that stored it, and for no other. */
function serveFile(turn: Turn): Response | Promise<Response> {
  const { method, path, account } = turn;
  const [, , id, part] = path.split("/");
  if (method === "POST" && id === undefined) return storeFile(turn);
  if (method === "GET" && id === undefined) return list(account.files.map((file) => file.card));
  const file = account.files.find((file) => file.card.id === id);
  if (file && method === "GET" && !part) return Response.json(file.card);
  if (file && method === "GET" && part === "content") return new Response(file.body);
  if (!file || method !== "DELETE" || part) return failure(path, 404, `No such File object: ${id}`);
  account.files.splice(account.files.indexOf(file), 1);
  return Response.json({ id, object: "file", deleted: true });
}

async function storeFile({ headers, path, body, at, account, id }: Turn): Promise<Response> {
  const form = await new Response(body, { headers }).formData().catch(() => null);
  const file = form?.get("file");
  if (!(file instanceof File)) return failure(path, 400, "Send multipart/form-data with a file.");
  const about = { bytes: file.size, filename: file.name, purpose: form?.get("purpose"), status: "processed" };
  const card = { id: `file-${id}`, object: "file", created_at: Math.floor(at / 1000), ...about };
  keep(account.files, { card, body: new Uint8Array(await file.arrayBuffer()) });
  return Response.json(card);
}

/** One event a pull, so that a slow client slows it. A client that leaves ends the timer, and all with it. */
function stream(events: Speech["events"], clock: Clock, delayMs: number): Response {
  let sent = 0;
  let cancelTimer: CancelTimer = () => {};
  async function pull(controller: ReadableStreamDefaultController<Uint8Array>) {
    if (delayMs > 0) await new Promise<void>((wake) => (cancelTimer = clock.after(delayMs, wake)));
    const event = events[sent++];
    if (event !== undefined) controller.enqueue(encode(event));
    if (sent >= events.length) controller.close();
  }
  const body = new ReadableStream({ pull, cancel: () => cancelTimer() }, { highWaterMark: 0 });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
}

/** An event that has a type is named by it too, as Anthropic and the Responses API do. */
function encode(event: Json | "[DONE]"): Uint8Array {
  const name = formFieldOf(event, "type");
  const line = `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`;
  return new TextEncoder().encode(name === undefined ? line : `event: ${name}\n${line}`);
}

/** Per status: OpenAI's type and code, Anthropic's type. */
const FAILURES = {
  400: ["invalid_request_error", null, "invalid_request_error"],
  401: ["invalid_request_error", "invalid_api_key", "authentication_error"],
  404: ["invalid_request_error", "not_found", "not_found_error"],
  429: ["requests", "rate_limit_exceeded", "rate_limit_error"],
  500: ["server_error", null, "api_error"],
} as const;

function failure(path: string, status: keyof typeof FAILURES, message: string): Response {
  const [type, code, anthropicType] = FAILURES[status];
  return path.startsWith("/messages")
    ? Response.json({ type: "error", error: { type: anthropicType, message } }, { status })
    : Response.json({ error: { message, type, param: null, code } }, { status });
}

/** Adds a row and drops the oldest until the rest are few and small enough. The new one always stays. */
function keep<Row extends { readonly body: Bytes }>(rows: Row[], newest: Row): void {
  rows.push(newest);
  let heldBytes = rows.reduce((sum, row) => sum + row.body.length, 0);
  while (rows.length > 1 && (rows.length > MAX_ROWS || heldBytes > MAX_HELD_BYTES)) {
    heldBytes -= rows.shift()?.body.length ?? 0;
  }
}

/** Cuts before words and inside long ones. No text here ends in white space, so nothing is lost. */
const tokens = (text: string): string[] => text.match(/\s*\S{1,8}/gu) ?? [];
const list = (rows: Json[]) => Response.json({ object: "list", data: rows, has_more: false });
const modelCard = (id: string) => ({ id, object: "model", created: 0, owned_by: "keywheel" });
const formFieldOf = (value: unknown, name: string): unknown =>
  isObject(value) ? field(value, name) : undefined;
const arrayOf = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
