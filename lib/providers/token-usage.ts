/**
 * How many tokens an answer names, in whatever words its dialect has for them. Pure.
 *
 * Nothing is estimated: what an answer does not name is not known. Answers name their tokens near their end
 * (Anthropic's streams the input in their first event), so only the last kilobytes are searched, backwards and once;
 * what is found there counts only where it stands at the top of its JSON, so that no text and no tool's arguments are
 * taken for it.
 */
import { textBetween } from "#runtime";
import { isObject, JsonCursor, OBJECT_END, parseJson, stringEnd } from "../core/json.ts";
import type { JsonObject } from "../core/json.ts";
import { CR, LF } from "../core/text.ts";
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
  const end = body.length > SEARCHED_BYTES ? body.subarray(-SEARCHED_BYTES) : body;
  return totalOf(namedAtTop(end, end.length) ?? namedIn(end));
}

/**
 * The tokens that a stream of events names, by its last word on them: what is named again is the same, or more.
 * `end`: at least the last event that names any. `start`: the first event; empty where it names none.
 */
export function usageOfEvents(end: Uint8Array, start: Uint8Array): TokenUsage | null {
  const atEnd = namedInLines(end);
  return totalOf(start.length === 0 ? atEnd : laterOf(namedInLines(start), atEnd));
}

/** What the last lines name that name anything, until input and output are known. */
function namedInLines(bytes: Uint8Array): Named | null {
  let named = namedAtTop(bytes, lineEnd(bytes, lastPlace(bytes, bytes.length), bytes.length));
  if (named !== null && hasInput(named) && named.output !== null) return named;
  named = null;
  let end = bytes.length;
  for (let place = 0; place < MOST_PLACES && end > 0; place += 1) {
    if (named !== null && hasInput(named) && named.output !== null) break;
    const at = lastPlace(bytes, end);
    if (at < 0) break;
    const start = Math.max(bytes.lastIndexOf(LF, at), bytes.lastIndexOf(CR, at)) + 1;
    named = laterOf(namedIn(bytes.subarray(start, lineEnd(bytes, at, end))), named);
    end = start;
  }
  return named;
}

function lineEnd(bytes: Uint8Array, from: number, to: number): number {
  if (from < 0) return 0;
  const feed = bytes.indexOf(LF, from);
  const end = feed < 0 || feed > to ? to : feed;
  const carriage = bytes.subarray(from, end).indexOf(CR);
  return carriage < 0 ? end : from + carriage;
}

// ── Where it stands ─────────────────────────────────────────────────────────────────────────────────────────────────

/** Beginnings of the fields that name tokens: `usage`, `usageMetadata`; Cohere's; the two of Ollama. */
const [USAGE, META, PROMPT_EVAL, EVAL] = [
  Buffer.from('"usage'),
  Buffer.from('"meta"'),
  Buffer.from('"prompt_eval_count"'),
  Buffer.from('"eval_count"'),
] as const;

/** The search of Buffers: to make one of the bytes would cost more than to search. */
const LAST_INDEX_OF = Buffer.prototype.lastIndexOf;

/** The last place before `end` where tokens may be named; -1: there is none. */
function lastPlace(bytes: Uint8Array, end: number): number {
  for (const name of [USAGE, META, EVAL]) {
    const at = end > 0 ? LAST_INDEX_OF.call(bytes, name, end - 1) : -1;
    if (at >= 0) return at;
  }
  return -1;
}

/** More than this is not parsed to look behind the tokens. */
const SHORT_BYTES = 2048;

/**
 * The usual case, at the least cost: tokens near the end, at the top of their JSON, which ends at `end`. What stands
 * from there on is then an object but for its first bracket. Null: it is another case, or none.
 */
function namedAtTop(bytes: Uint8Array, end: number): Named | null {
  const at = end <= 0 ? -1 : LAST_INDEX_OF.call(bytes, USAGE, end - 1);
  if (at < 0 || end - at > SHORT_BYTES || !beginsField(bytes, at)) return null;
  const rest = parseJson(`{${textBetween(bytes, at, end)}`);
  if (!isObject(rest)) return null;
  const usage = rest["usage"] ?? rest["usageMetadata"];
  return isObject(usage) ? namedBy(usage) : null;
}

/** What one JSON value names, of which `bytes` are the end. */
function namedIn(bytes: Uint8Array): Named | null {
  const named = fieldNear(bytes, USAGE) ?? fieldNear(bytes, META);
  return named ?? laterOf(fieldNear(bytes, PROMPT_EVAL), fieldNear(bytes, EVAL));
}

/**
 * What the field says that begins so and stands the least deep; of several the last. How deep one stands is told by the
 * brackets that close behind it, so the beginning need not be there.
 */
function fieldNear(bytes: Uint8Array, name: Uint8Array): Named | null {
  let best: Named | null = null;
  let least = DEEPEST + 1;
  let known = { at: bytes.length, depth: 0 };
  let at = bytes.length;
  for (let place = 0; place < MOST_PLACES && at > 0 && least > 1; place += 1) {
    at = LAST_INDEX_OF.call(bytes, name, at - 1);
    if (at < 0) break;
    if (!beginsField(bytes, at)) continue;
    const value = new JsonCursor(bytes, at, OBJECT_END);
    const end = value.next() ? value.valueEnd() : -1;
    // What is within the value closes there, too.
    const from = end >= 0 && end <= known.at ? end : at;
    const depth = known.depth + closingsBetween(bytes, from, known.at);
    if (Number.isNaN(depth)) break;
    known = { at, depth };
    const isRead = end >= 0 && end - value.valueStart <= LONGEST_USAGE_BYTES && depth >= 1 && depth < least;
    const named = isRead ? readValue(textBetween(bytes, value.valueStart, end), name) : null;
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

function readValue(text: string, name: Uint8Array): Named | null {
  if (name === PROMPT_EVAL) return namedBy({ prompt_eval_count: Number(text) });
  if (name === EVAL) return namedBy({ eval_count: Number(text) });
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
  if (usage["tokens"] !== undefined || usage["billed_units"] !== undefined) return namedByCohere(usage);
  const prompt = count(usage["prompt_tokens"]) ?? count(usage["prompt_eval_count"]);
  if (prompt !== null) return namedByOpenAi(usage, prompt);
  const google = count(usage["promptTokenCount"]) ?? count(usage["total_input_tokens"]);
  if (google !== null || usage["candidatesTokenCount"] !== undefined) return namedByGoogle(usage, google);
  return namedByOthers(usage);
}

/** Chat, completions and embeddings; here whatever came from a cache is part of the prompt. */
function namedByOpenAi(usage: JsonObject, input: number): Named {
  const inputDetails = partOf(usage["prompt_tokens_details"]);
  const output = count(usage["completion_tokens"]) ?? count(usage["eval_count"]);
  const reasoning =
    count(partOf(usage["completion_tokens_details"])?.["reasoning_tokens"]) ??
    count(usage["reasoning_tokens"]); // Perplexity
  return {
    input,
    isApart: false,
    cached:
      count(inputDetails?.["cached_tokens"]) ??
      count(usage["prompt_cache_hit_tokens"]) ?? // DeepSeek
      count(usage["cached_tokens"]) ?? // Moonshot
      count(usage["cache_read_input_tokens"]), // gateways in front of Anthropic
    cacheWrite: count(inputDetails?.["cache_write_tokens"]) ?? count(usage["cache_creation_input_tokens"]),
    output: withReasoning(output, reasoning, input, count(usage["total_tokens"])),
    reasoning,
  };
}

/** Gemini, and its Interactions. */
function namedByGoogle(usage: JsonObject, input: number | null): Named {
  const reasoning = count(usage["thoughtsTokenCount"]) ?? count(usage["total_thought_tokens"]);
  const toolUse = count(usage["toolUsePromptTokenCount"]) ?? count(usage["total_tool_use_tokens"]);
  const answer = count(usage["candidatesTokenCount"]) ?? count(usage["total_output_tokens"]);
  return {
    input: input === null ? null : input + (toolUse ?? 0),
    isApart: false,
    cached: count(usage["cachedContentTokenCount"]) ?? count(usage["total_cached_tokens"]),
    cacheWrite: null,
    output: answer === null && reasoning === null ? null : (answer ?? 0) + (reasoning ?? 0),
    reasoning,
  };
}

/** Anthropic, Responses, pictures, Bedrock: all call it input. Anthropic alone counts what a cache held beside it. */
function namedByOthers(usage: JsonObject): Named | null {
  const input = count(usage["input_tokens"]) ?? count(usage["inputTokens"]);
  const inputDetails = partOf(usage["input_tokens_details"]);
  const outputDetails = partOf(usage["output_tokens_details"]);
  const read = count(usage["cache_read_input_tokens"]) ?? count(usage["cacheReadInputTokens"]);
  const written =
    count(usage["cache_creation_input_tokens"]) ??
    count(usage["cacheWriteInputTokens"]) ??
    sumOf(usage["cache_creation"]);
  const isApart = read !== null || written !== null;
  const reasoning = count(outputDetails?.["reasoning_tokens"]) ?? count(outputDetails?.["thinking_tokens"]);
  const output =
    count(usage["output_tokens"]) ??
    count(usage["outputTokens"]) ??
    count(usage["completion_tokens"]) ??
    count(usage["eval_count"]);
  const total = count(usage["total_tokens"]);
  const isNamed = input !== null || output !== null || isApart;
  if (!isNamed && total === null) return null;
  return {
    input: isNamed ? input : total, // embeddings and rankings of some name only the sum, which is all input
    isApart,
    cached: read ?? count(inputDetails?.["cached_tokens"]),
    cacheWrite: written ?? count(inputDetails?.["cache_write_tokens"]),
    output: withReasoning(output, reasoning, input ?? 0, total),
    reasoning,
  };
}

/** xAI counts what the model thought beside its answer, as the sum shows. */
function withReasoning(output: number | null, reasoning: number | null, input: number, total: number | null) {
  if (output === null || reasoning === null || reasoning === 0) return output;
  return reasoning > output || total === input + output + reasoning ? output + reasoning : output;
}

/** `billed_units` leave out what Cohere adds itself, so `tokens` comes first. */
function namedByCohere(usage: JsonObject): Named | null {
  const [tokens, billed] = [partOf(usage["tokens"]), partOf(usage["billed_units"])];
  const input = count(tokens?.["input_tokens"]) ?? count(billed?.["input_tokens"]);
  const output = count(tokens?.["output_tokens"]) ?? count(billed?.["output_tokens"]);
  if (input === null && output === null) return null;
  const cached = count(usage["cached_tokens"]);
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

function partOf(value: unknown): JsonObject | null {
  return isObject(value) ? value : null;
}

/** The counts of an object added up; null: it is none, or holds none. */
function sumOf(parts: unknown): number | null {
  if (!isObject(parts)) return null;
  const counts = Object.values(parts)
    .map(count)
    .filter((value) => value !== null);
  return counts.length === 0 ? null : counts.reduce((sum, value) => sum + value, 0);
}

/** A number of tokens; null: there is none, or it can be none. What every object has (`constructor`) is no number. */
function count(value: unknown): number | null {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MOST_TOKENS
    ? value
    : null;
}
