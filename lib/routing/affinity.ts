/**
 * Which conversation a request belongs to, so that it can stay with one key. Pure.
 *
 * Providers keep the beginning of a prompt in a cache of the account: the next turn of the same conversation is
 * cheaper and quicker there. A client that names its conversation is believed. Any other is known by how it begins:
 * model, system text and the user's first message are in every later turn again, at the front of the body. Nothing
 * is parsed: the bytes of those texts are hashed as they stand, and what stands behind them is not looked at, save
 * for an id. Two conversations with the same hash share a key, and nothing worse.
 */
import { hash32 } from "#runtime";
import { asBuffer, JsonCursor, QUOTE, stringEnd } from "../core/json.ts";

/**
 * A number of 32 bits, the same for each turn of a conversation; null: there is nothing to tell by.
 * `path` is the client's, without a query.
 */
export function conversationOf(path: string, headers: Headers, body: Uint8Array | null): number | null {
  if (body === null || !TALKS.test(path)) return null;
  const bytes = asBuffer(body);
  return idInHeaders(headers) ?? idInBody(path, bytes) ?? beginningOf(path, bytes);
}

/** Elsewhere (embeddings, images, files) one request has nothing to do with the next. */
const TALKS =
  /\/(?:chat|completions|responses|messages|generate)(?:\/|$)|:(?:stream)?generateContent$|:(?:stream)?rawPredict$/i;

// ------------------------------------------------------------------ the client's own name for it

/** The narrowest first: one session may hold several threads. Seen in clients of 2026. */
const ID_FIELDS = [
  "thread-id", // codex
  "session-id", // codex
  "session_id", // codex, earlier
  "x-claude-code-session-id",
  "x-qwen-code-session-id",
  "x-session-id", // opencode, OpenRouter
  "x-session-affinity", // opencode, Fireworks
  "x-opencode-session",
  "x-conversation-id",
  "x-grok-conv-id", // xAI
];

function idInHeaders(headers: Headers): number | null {
  for (const name of ID_FIELDS) {
    const id = headers.get(name);
    if (id !== null && id !== "") return hash32(id);
  }
  return null;
}

/** Both fields mostly stand behind the messages. */
function idInBody(path: string, bytes: Buffer): number | null {
  // Anthropic's names the user, and the session with it where the client is an agent.
  const id = path.includes("/messages")
    ? lastStringOf(bytes, 'user_id"', SESSION)
    : lastStringOf(bytes, 'prompt_cache_key"', WHOLE);
  return id === null ? null : hash32(id);
}

/** `user_…_account_…_session_<uuid>`, or JSON in a string: `{\"session_id\":\"<uuid>\"}`. */
const SESSION = /session(?:_id)?[\\":_ ]+[\w-]{8,}/;
const WHOLE = /^.+$/s;

/** Longer ones are no ids. */
const LONGEST_ID_BYTES = 1024;
/** A body may be full of fields of that name, none of which is meant. */
const MOST_LOOKED_AT = 64;

/**
 * What `wanted` finds in the string of the last field of this name, at any depth, without a look at the rest: native
 * code finds the name. It is given without its first quotation mark, of which a body has too many. The name in a text
 * has a backslash before its marks, and no colon behind them.
 */
function lastStringOf(bytes: Buffer, nameAndQuote: string, wanted: RegExp): string | null {
  let at = bytes.length;
  for (let looked = 0; looked < MOST_LOOKED_AT && at > 0; looked += 1) {
    at = bytes.lastIndexOf(nameAndQuote, at - 1);
    if (at < 1) return null;
    if (bytes[at - 1] !== QUOTE) continue;
    const valueAt = at + nameAndQuote.length;
    const behind = bytes.toString("latin1", valueAt, valueAt + LONGEST_ID_BYTES);
    const [, value = ""] = /^\s*:\s*"((?:[^"\\]|\\.)*)"/s.exec(behind) ?? [];
    const [found = null] = wanted.exec(value) ?? [];
    if (found !== null) return found;
  }
  return null;
}

// ----------------------------------------------------------------------------------- its beginning

/** Where the beginning is looked for. The window is the same in every turn. */
const FRONT_BYTES = 1024 * 1024;
/** So much of one text is hashed. */
const TEXT_BYTES = 4096;
/** A completion's prompt grows from turn to turn: only what the first one mostly has is hashed. */
const PROMPT_BYTES = 512;

function beginningOf(path: string, body: Buffer): number | null {
  const bytes = body.subarray(0, FRONT_BYTES);
  const fields = JsonCursor.ofObject(bytes, 0);
  const modelInPath = /\/(?:models|deployments)\/([^/:]+)/.exec(path)?.[1] ?? "";
  let hash = hash32(modelInPath);
  while (fields?.next()) {
    const start = fields.valueStart;
    switch (fields.name()) {
      case "model":
      case "system":
      case "instructions":
      case "systemInstruction":
      case "system_instruction":
        hash = withTexts(hash, bytes, start, TEXT_BYTES);
        break;
      case "prompt":
        return firstText(bytes, start) < 0 ? null : withTexts(hash, bytes, start, PROMPT_BYTES);
      case "messages":
      case "contents":
      case "input":
        // What stands behind them is not looked at: it would cost more with every turn.
        return withMessages(hash, bytes, start);
    }
  }
  return null;
}

/** Messages in front of the user's own, at most. */
const MOST_MESSAGES = 16;

/** The hash with the system's messages and the user's first one in it; null: the user says nothing in words. */
function withMessages(before: number, bytes: Buffer, start: number): number | null {
  const messages = JsonCursor.ofArray(bytes, start);
  if (messages === null)
    return firstText(bytes, start) < 0 ? null : withTexts(before, bytes, start, TEXT_BYTES);
  let hash = before;
  let beginning: number | null = null;
  for (let count = 0; count < MOST_MESSAGES && messages.next(); count += 1) {
    const { speaker, contentStart } = readMessage(bytes, messages.valueStart);
    const text = contentStart < 0 ? -1 : firstText(bytes, contentStart);
    if (speaker === "model") {
      if (beginning !== null && openingOf(bytes, text) === SETTING_ACCEPTED) continue;
      return beginning;
    }
    if (text < 0) continue;
    hash = withTexts(hash, bytes, contentStart, TEXT_BYTES);
    if (speaker === "system") continue;
    beginning = hash;
    if (!SETTING.test(openingOf(bytes, text))) return beginning;
  }
  return beginning;
}

/**
 * How a first message begins that the agent has written: where it works, which day it is. It is the same in all
 * conversations of a directory, so what the user says is in the next one.
 */
const SETTING =
  /^(?:<(?:environment|session)_context>|<user_instructions>|# AGENTS\.md instructions|This is the (?:Gemini CLI|Qwen Code)\b)/;
/** What Gemini CLI and Qwen Code let the model answer to that, without asking it. */
const SETTING_ACCEPTED = "Got it. Thanks for the context!";

interface MessagePlace {
  speaker: "system" | "user" | "model";
  /** Offset of the content; -1: there is none. */
  contentStart: number;
}

function readMessage(bytes: Buffer, start: number): MessagePlace {
  const fields = JsonCursor.ofObject(bytes, start);
  if (fields === null) return { speaker: "user", contentStart: start };
  let role: string | null = null;
  let type: string | null = null;
  let contentStart = -1;
  while ((role === null || contentStart < 0) && fields.next()) {
    switch (fields.name()) {
      case "role":
        role = fields.text();
        break;
      case "type":
        type = fields.text();
        break;
      case "content":
      case "parts":
        contentStart = fields.valueStart;
        break;
    }
  }
  return { speaker: speakerOf(role, type), contentStart };
}

/** Gemini's first message may have no role; in OpenAI's Responses a tool's call and its result have none either. */
function speakerOf(role: string | null, type: string | null): MessagePlace["speaker"] {
  if (role === "system" || role === "developer") return "system";
  return role === "user" || (role === null && (type === null || type === "message")) ? "user" : "model";
}

// --------------------------------------------------------------------------------------- its texts

/** Claude Code puts a line before its system text that is another in each request (2.1). */
const CHANGING_LINE = "x-anthropic-billing-header";

/** The hash with all texts of the content at `start` in it, however they are wrapped: clients wrap the last one. */
function withTexts(hash: number, bytes: Buffer, start: number, mostBytes: number): number {
  let mixed = hash;
  forEachText(bytes, start, 0, (quote) => {
    if (openingOf(bytes, quote).startsWith(CHANGING_LINE)) return;
    mixed = hash32(insideOf(bytes, quote, mostBytes), mixed);
  });
  return mixed;
}

/** Offset of the first text's opening quote, or -1 where there is no text. */
function firstText(bytes: Buffer, start: number): number {
  let first = -1;
  forEachText(bytes, start, 0, (quote) => {
    if (first < 0) first = quote;
  });
  return first;
}

/** The bytes of the string whose opening quote is at `quote`, as they are written: `mostBytes` of them. */
function insideOf(bytes: Buffer, quote: number, mostBytes: number): Buffer {
  const window = bytes.subarray(0, quote + 1 + mostBytes);
  const end = stringEnd(window, quote);
  return window.subarray(quote + 1, end < 0 ? window.length : end - 1);
}

const OPENING_BYTES = 64;

function openingOf(bytes: Buffer, quote: number): string {
  return insideOf(bytes, quote, OPENING_BYTES).toString("latin1");
}

/** A text is wrapped in a part, the part in a list, the list in a content. */
const DEEPEST = 4;

/** Calls `visit` with the opening quote of each text: a string, a list of parts, or an object that holds either. */
function forEachText(bytes: Buffer, start: number, depth: number, visit: (quote: number) => void): void {
  if (bytes[start] === QUOTE) return visit(start);
  if (depth === DEEPEST) return;
  const parts = JsonCursor.ofArray(bytes, start);
  while (parts?.next()) forEachText(bytes, parts.valueStart, depth + 1, visit);
  const fields = parts === null ? JsonCursor.ofObject(bytes, start) : null;
  while (fields?.next()) {
    const name = fields.name();
    if (name === "text" || name === "parts" || name === "content") {
      forEachText(bytes, fields.valueStart, depth + 1, visit);
    }
  }
}
