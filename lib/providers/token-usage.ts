/**
 * How many tokens an answer names, in whatever words its dialect has for them. Pure.
 *
 * Nothing is estimated: what an answer does not name is not known. Answers name their tokens near their end (Anthropic's
 * streams the input in their first event), so only the last kilobytes are searched, backwards and once; what is found
 * there counts only where it stands at the top of its JSON, so that no text and no tool's arguments are taken for it.
 */
import { asBuffer, field, isObject, JsonCursor, parseJson, stringEnd } from "../core/json.ts";
import type { JsonObject } from "../core/json.ts";
import type { TokenUsage } from "../core/events.ts";

/** How much of a body's end is searched: what follows the tokens (labels of the request, ratings) is shorter. */
export const SEARCHED_BYTES = 16 * 1024;
/** An object of tokens is no longer, whatever details it has. */
const LONGEST_USAGE_BYTES = 4096;
/** So many places that look like one are tried. */
const MOST_PLACES = 16;
/** How deep it may stand: `usage`, `response.usage`, `choices[0].usage`. Arguments of tools stand deeper. */
const DEEPEST = 3;
/** More tokens no single answer has: a larger number is none. */
const MOST_TOKENS = 1_000_000_000;

/** The tokens that a JSON answer names. `body`: all of it, or at least its last kilobytes. Null: it names none. */
export function usageOfBody(body: Uint8Array): TokenUsage | null {
  const bytes = asBuffer(body.length > SEARCHED_BYTES ? body.subarray(-SEARCHED_BYTES) : body);
  return totalOf(namedIn(bytes));
}

/**
 * The tokens that a stream of events names, by its last word on them: what is named again is the same, or more.
 * `end`: at least the last event that names any. `start`: the first event; empty where it names none.
 */
export function usageOfEvents(end: Uint8Array, start: Uint8Array): TokenUsage | null {
  const atEnd = namedInLines(asBuffer(end));
  return totalOf(start.length === 0 ? atEnd : laterOf(namedInLines(asBuffer(start)), atEnd));
}

/** What the last lines name that name anything, until input and output are known. */
function namedInLines(bytes: Buffer): Named | null {
  let named: Named | null = null;
  let end = bytes.length;
  for (let place = 0; place < MOST_PLACES && end > 0; place += 1) {
    if (named !== null && hasInput(named) && named.output !== null) break;
    const at = lastPlace(bytes, end);
    if (at < 0) break;
    const start = Math.max(bytes.lastIndexOf("\n", at), bytes.lastIndexOf("\r", at)) + 1;
    named = laterOf(namedIn(bytes.subarray(start, lineEnd(bytes, at, end))), named);
    end = start;
  }
  return named;
}

function lineEnd(bytes: Buffer, from: number, to: number): number {
  const feed = bytes.indexOf("\n", from);
  const end = feed < 0 || feed > to ? to : feed;
  const carriage = bytes.subarray(from, end).indexOf("\r");
  return carriage < 0 ? end : from + carriage;
}

// ── Where it stands ─────────────────────────────────────────────────────────────────────────────────────────────────

/** Beginnings of the fields that name tokens: `usage`, `usageMetadata`; Cohere's; the two of Ollama. */
const USAGE = '"usage';
const META = '"meta"';
const PROMPT_EVAL = '"prompt_eval_count"';
const EVAL = '"eval_count"';

/** The last place before `end` where tokens may be named; -1: there is none. */
function lastPlace(bytes: Buffer, end: number): number {
  for (const name of [USAGE, META, EVAL]) {
    const at = end > 0 ? bytes.lastIndexOf(name, end - 1) : -1;
    if (at >= 0) return at;
  }
  return -1;
}

/** What one JSON value names, of which `bytes` are the end. */
function namedIn(bytes: Buffer): Named | null {
  const named = fieldNear(bytes, USAGE) ?? fieldNear(bytes, META);
  return named ?? laterOf(fieldNear(bytes, PROMPT_EVAL), fieldNear(bytes, EVAL));
}

/**
 * What the field says that begins so and stands the least deep; of several the last. How deep one stands is told by the
 * brackets that close behind it, so the beginning need not be there. Every byte is looked at once.
 */
function fieldNear(bytes: Buffer, name: string): Named | null {
  let best: Named | null = null;
  let least = DEEPEST + 1;
  let known = { at: bytes.length, depth: 0 };
  let at = bytes.length;
  for (let place = 0; place < MOST_PLACES && at > 0 && least > 1; place += 1) {
    at = bytes.lastIndexOf(name, at - 1);
    if (at < 0) break;
    if (!beginsField(bytes, at)) continue;
    const depth = known.depth + closingsBetween(bytes, at, known.at);
    if (Number.isNaN(depth)) break;
    known = { at, depth };
    const named = depth >= 1 && depth < least ? readField(bytes, at) : null;
    if (named === null) continue;
    best = named;
    least = depth;
  }
  return best;
}

/** How many brackets close between two places outside of strings, less those that open; NaN: it is no JSON. */
function closingsBetween(bytes: Uint8Array, from: number, to: number): number {
  let closings = 0;
  for (let at = from; at < to; at += 1) {
    switch (bytes[at]) {
      case 0x22 /* " */:
        at = stringEnd(bytes, at) - 1;
        if (at < 0 || at >= to) return NaN;
        break;
      case 0x7b /* { */:
      case 0x5b /* [ */:
        closings -= 1;
        break;
      case 0x7d /* } */:
      case 0x5d /* ] */:
        closings += 1;
        break;
    }
  }
  return closings;
}

/** Whether a field may begin there. Within a string its quotation mark would be escaped. */
function beginsField(bytes: Uint8Array, at: number): boolean {
  let before = at - 1;
  while (before >= 0 && bytes[before]! <= 0x20) before -= 1;
  return bytes[before] === 0x7b /* { */ || bytes[before] === 0x2c; /* , */
}

const OBJECT_END = 0x7d;

function readField(bytes: Buffer, at: number): Named | null {
  const cursor = new JsonCursor(bytes, at, OBJECT_END);
  if (!cursor.next()) return null;
  const name = cursor.name();
  const end = cursor.valueEnd();
  if (end < 0 || end - cursor.valueStart > LONGEST_USAGE_BYTES) return null;
  const text = bytes.toString("utf8", cursor.valueStart, end);
  if (name === "prompt_eval_count" || name === "eval_count") return namedBy({ [name]: Number(text) });
  const value = parseJson(text);
  return isObject(value) ? namedBy(value) : null;
}

// ── What it says ────────────────────────────────────────────────────────────────────────────────────────────────────

/** Counts as one place names them; null: not there. */
interface Named {
  /** With what came from and went to a cache, or `isApart`: without. */
  readonly input: number | null;
  readonly isApart: boolean;
  readonly cached: number | null;
  readonly cacheWrite: number | null;
  readonly output: number | null;
  readonly reasoning: number | null;
}

/** Reads an object of counts. Null: there is no count in it that could be one. */
function namedBy(usage: JsonObject): Named | null {
  if (fieldOf(usage, "tokens") !== null || fieldOf(usage, "billed_units") !== null)
    return namedByCohere(usage);
  const reasoning = firstOf(usage, REASONING);
  const prompt = firstOf(usage, ["prompt_tokens", "prompt_eval_count"]);
  const google = firstOf(usage, ["promptTokenCount", "total_input_tokens"]);
  const ownInput = firstOf(usage, ["input_tokens", "inputTokens"]);
  const read = firstOf(usage, ["cache_read_input_tokens", "cacheReadInputTokens"]);
  const written =
    firstOf(usage, ["cache_creation_input_tokens", "cacheWriteInputTokens"]) ??
    sumOf(usage, "cache_creation");
  const named: Named = {
    input: prompt ?? plus(google, firstOf(usage, TOOL_USE)) ?? ownInput,
    // Anthropic alone counts what a cache held beside the input.
    isApart: prompt === null && google === null && (read !== null || written !== null),
    cached: firstOf(usage, CACHED) ?? read,
    cacheWrite: written ?? firstOf(usage, WRITTEN),
    output: outputOf(usage, reasoning),
    reasoning,
  };
  if (named.input === null && named.output === null && !named.isApart) {
    // Of embeddings and rankings some name only the sum, which is all input.
    const total = count(fieldOf(usage, "total_tokens"));
    return total === null ? null : { ...named, input: total };
  }
  return named;
}

const CACHED = [
  ...["prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens"],
  ...["prompt_cache_hit_tokens", "cached_tokens"], // DeepSeek; Moonshot
  ...["cachedContentTokenCount", "total_cached_tokens"], // Gemini; its Interactions
];
const WRITTEN = ["prompt_tokens_details.cache_write_tokens", "input_tokens_details.cache_write_tokens"];
const REASONING = [
  ...["completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens"],
  ...["output_tokens_details.thinking_tokens", "reasoning_tokens"], // Anthropic; Perplexity
  ...["thoughtsTokenCount", "total_thought_tokens"], // Gemini; its Interactions
];
const TOOL_USE = ["toolUsePromptTokenCount", "total_tool_use_tokens"];

function outputOf(usage: JsonObject, reasoning: number | null): number | null {
  const google = firstOf(usage, ["candidatesTokenCount", "total_output_tokens"]);
  if (google !== null || fieldOf(usage, "thoughtsTokenCount") !== null) return plus(google ?? 0, reasoning);
  const output = firstOf(usage, [
    ...["completion_tokens", "output_tokens", "outputTokens", "eval_count"],
    "response_tokens",
  ]);
  if (output === null || reasoning === null) return output;
  // xAI counts what the model thought beside its answer, as the sum shows.
  const total = count(fieldOf(usage, "total_tokens"));
  const input = firstOf(usage, ["prompt_tokens", "input_tokens"]) ?? 0;
  const isBeside = reasoning > output || (reasoning > 0 && total === input + output + reasoning);
  return isBeside ? output + reasoning : output;
}

/** `billed_units` leave out what Cohere adds itself, so `tokens` comes first. */
function namedByCohere(usage: JsonObject): Named | null {
  const input = firstOf(usage, ["tokens.input_tokens", "billed_units.input_tokens"]);
  const output = firstOf(usage, ["tokens.output_tokens", "billed_units.output_tokens"]);
  if (input === null && output === null) return null;
  const cached = count(fieldOf(usage, "cached_tokens"));
  return { input, isApart: false, cached, cacheWrite: null, output, reasoning: null };
}

/** What two places name together: the later one's word, where it has one that is not zero. */
function laterOf(earlier: Named | null, later: Named | null): Named | null {
  if (earlier === null || later === null) return earlier ?? later;
  const inputs = hasInput(later)
    ? {
        isApart: later.isApart || earlier.isApart,
        input: later.input ?? earlier.input,
        cached: later.cached ?? earlier.cached,
        cacheWrite: later.cacheWrite ?? earlier.cacheWrite,
      }
    : {
        isApart: earlier.isApart,
        input: earlier.input ?? later.input,
        cached: earlier.cached ?? later.cached,
        cacheWrite: earlier.cacheWrite ?? later.cacheWrite,
      };
  const hasOutput = later.output !== null && later.output > 0;
  const { output, reasoning } = hasOutput || earlier.output === null ? later : earlier;
  return { ...inputs, output, reasoning };
}

function hasInput({ input, cached, cacheWrite }: Named): boolean {
  return (input ?? 0) + (cached ?? 0) + (cacheWrite ?? 0) > 0;
}

function totalOf(named: Named | null): TokenUsage | null {
  if (named === null) return null;
  const cached = named.cached ?? 0;
  const cacheWrite = named.cacheWrite ?? 0;
  const reasoning = named.reasoning ?? 0;
  const ofCaches = cached + cacheWrite;
  const input = (named.input ?? 0) + (named.isApart ? ofCaches : 0);
  return {
    input: Math.max(input, ofCaches),
    output: Math.max(named.output ?? 0, reasoning),
    cached,
    cacheWrite,
    reasoning,
  };
}

/** The first of these fields that holds a count. A dot leads into an object. */
function firstOf(usage: JsonObject, names: readonly string[]): number | null {
  for (const name of names) {
    const [first = "", second] = name.split(".");
    const value = fieldOf(usage, first);
    const found = count(second === undefined ? value : isObject(value) ? fieldOf(value, second) : null);
    if (found !== null) return found;
  }
  return null;
}

/** The counts of an object added up; null: it is not there, or holds none. */
function sumOf(usage: JsonObject, name: string): number | null {
  const parts = fieldOf(usage, name);
  if (!isObject(parts)) return null;
  const counts = Object.values(parts)
    .map(count)
    .filter((value) => value !== null);
  return counts.length === 0 ? null : counts.reduce((sum, value) => sum + value, 0);
}

function fieldOf(usage: JsonObject, name: string): unknown {
  return field(usage, name) ?? null;
}

function plus(one: number | null, other: number | null): number | null {
  return one === null ? null : one + (other ?? 0);
}

/** A number of tokens; null: it can be none. */
function count(value: unknown): number | null {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MOST_TOKENS
    ? value
    : null;
}
