/**
 * JSON on its way to the client, in pieces: whether it is whole, whether it ends with an error, and which tokens it
 * names.
 */
import { joined, NO_BYTES } from "./body.ts";
import type { Bytes } from "./body.ts";
import { holdsError, OVERLAP_BYTES, seam, tail } from "./error-words.ts";
import type { StreamDialect } from "./stream-dialect.ts";
import type { StreamFollower } from "./stream-follower.ts";
import type { TokenUsage } from "../core/events.ts";
import { asBuffer, field, isObject, parseJson } from "../core/json.ts";
import { SEARCHED_BYTES, usageOfBody } from "../providers/token-usage.ts";

/**
 * Follows JSON. Where no length tells its end, a cut may look like one: JSON that is whole ends with the bracket that
 * closes its first one.
 */
export class JsonFollower implements StreamFollower {
  readonly isPlain = false;
  readonly atEdge = true;
  failure = "";
  searchedBytes = 0;
  /** The last chunks, in which tokens are named. */
  readonly #kept: Bytes[] = [];
  #keptBytes = 0;
  /** Ends with the last four bytes that came. */
  #end: Uint8Array = NO_BYTES;
  #first = 0;
  #last = 0;
  /** A word of an error has come: from there on keys are taken out. */
  #mayFail = false;
  /** The word that has not come to its end, a character a byte: it may be a part of a key. */
  #word = "";

  constructor(
    readonly dialect: StreamDialect,
    /** Whether HTTP tells where it ends. */
    readonly isFramed: boolean,
    /** Takes what must not go out, such as keys, out of a text; the same text where there is none. */
    readonly clean: (text: string) => string,
  ) {}

  get isHolding(): boolean {
    return this.#word !== "";
  }

  get #isList(): boolean {
    return this.#first === 0x5b; // [
  }

  push(chunk: Bytes): Bytes | null {
    if (this.#first === 0) this.#first = chunk.find(isInk) ?? 0;
    this.#last = chunk.findLast(isInk) ?? this.#last;
    // Only a list is a stream; what an object says was judged before it was passed on.
    this.#mayFail ||= this.#isList && (holdsError(chunk) || holdsError(seam(this.#end, chunk)));
    this.#end = chunk.length < 4 ? tail(this.#end, chunk) : chunk;
    this.#kept.push(chunk);
    this.#keptBytes += chunk.length;
    while (this.#keptBytes - this.#kept[0]!.length >= SEARCHED_BYTES)
      this.#keptBytes -= this.#kept.shift()!.length;
    return this.#mayFail ? this.#cleaned(chunk) : chunk;
  }

  /** What can go on: all but a word that may go on in the next chunk. */
  #cleaned(chunk: Bytes): Bytes | null {
    const text = this.#word + asBuffer(chunk).toString("latin1"); // a character a byte: nothing else is changed
    this.searchedBytes += text.length;
    const clean = this.clean(text);
    const end = Math.max(BEFORE_LAST_WORD.exec(clean)?.[0].length ?? 0, clean.length - OVERLAP_BYTES);
    if (text.length === chunk.length && clean === text && end === text.length) return chunk;
    this.#word = clean.slice(end);
    return end === 0 ? null : new Uint8Array(Buffer.from(clean.slice(0, end), "latin1"));
  }

  rest(): Bytes | null {
    const word = this.#word;
    this.#word = "";
    return word === "" ? null : new Uint8Array(Buffer.from(this.clean(word), "latin1"));
  }

  end(): "complete" | "cut" | "failed" {
    if (this.#mayFail && this.#endsWithError()) return "failed";
    if (this.isFramed) return "complete";
    if (this.#isList) return this.#last === 0x5d /* ] */ ? "complete" : "cut";
    if (this.#first === 0x7b /* { */) return this.#last === 0x7d /* } */ ? "complete" : "cut";
    return this.#first === 0 ? "cut" : "complete";
  }

  /** Whether the last element of a list, which is a stream in Gemini's API, is an error. */
  #endsWithError(): boolean {
    const from = Math.max(0, this.#keptBytes - SEARCHED_BYTES); // an error is shorter
    const text = asBuffer(joined(this.#kept)).toString("utf8", from).trimEnd();
    const begin = [...text.matchAll(ERROR_ELEMENT)].at(-1);
    if (begin === undefined) return false;
    const end = text.endsWith("]") ? -1 : undefined;
    const element = text.slice(text.indexOf("{", begin.index), end);
    const said = parseJson(element);
    if (!isObject(said) || field(said, "error") == null) return false;
    this.failure = this.clean(element);
    return true;
  }

  isOver(): boolean {
    return false;
  }

  tokens(): TokenUsage | null {
    return usageOfBody(joined(this.#kept));
  }
}

const ERROR_ELEMENT = /[[,]\s*\{\s*"error"\s*:/g;
/** All up to the last character that stands in no key. */
const BEFORE_LAST_WORD = /^[^]*[\s,;"'<>(){}[\]]/;

function isInk(byte: number): boolean {
  return byte > 0x20;
}
