/**
 * JSON on its way to the client, in pieces: whether it is whole, and which tokens it names.
 */
import { joined } from "./body.ts";
import type { Bytes } from "./body.ts";
import type { StreamDialect } from "./stream-dialect.ts";
import type { TokenUsage } from "../core/events.ts";
import { SEARCHED_BYTES, usageOfBody } from "../providers/token-usage.ts";

/**
 * Follows JSON. Where no length tells its end, a cut may look like one: JSON that is whole ends with the bracket that
 * closes its first one.
 */
export class JsonFollower {
  readonly isPlain = false;
  readonly atEdge = true;
  readonly failure = "";
  readonly searchedBytes = 0;
  /** The last chunks, in which tokens are named. */
  readonly #kept: Bytes[] = [];
  #keptBytes = 0;
  #first = 0;
  #last = 0;

  constructor(
    readonly dialect: StreamDialect,
    /** Whether HTTP tells where it ends. */
    readonly isFramed: boolean,
  ) {}

  push(chunk: Bytes): Bytes {
    if (this.#first === 0) this.#first = chunk.find(isInk) ?? 0;
    this.#last = chunk.findLast(isInk) ?? this.#last;
    this.#kept.push(chunk);
    this.#keptBytes += chunk.length;
    while (this.#keptBytes - this.#kept[0]!.length >= SEARCHED_BYTES)
      this.#keptBytes -= this.#kept.shift()!.length;
    return chunk;
  }

  rest(): null {
    return null;
  }

  end(): "complete" | "cut" {
    if (this.isFramed) return "complete";
    if (this.#first === 0x5b /* [ */) return this.#last === 0x5d /* ] */ ? "complete" : "cut";
    if (this.#first === 0x7b /* { */) return this.#last === 0x7d /* } */ ? "complete" : "cut";
    return this.#first === 0 ? "cut" : "complete";
  }

  isOver(): boolean {
    return false;
  }

  tokens(): TokenUsage | null {
    return usageOfBody(joined(this.#kept));
  }
}

function isInk(byte: number): boolean {
  return byte > 0x20;
}
