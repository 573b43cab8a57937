/**
 * What watches an answer go by, however it is framed.
 */
import type { Bytes } from "./body.ts";
import type { TokenUsage } from "../core/events.ts";
import type { StreamDialect } from "./stream-dialect.ts";

/** How a stream whose connection ended cleanly has ended, by its own words. */
export type StreamEnd = "complete" | "failed" | "cut";

/** Watches a stream go by and says at its end whether it was complete. */
export interface StreamFollower {
  /** Whether the bytes are the events themselves, so that an event of our own can be added. */
  readonly isPlain: boolean;
  /** Whether the last chunk ended with a whole event. */
  readonly atEdge: boolean;
  /** As the path told, or the events. Certain once the stream is at its end. */
  readonly dialect: StreamDialect;
  /** The event in which upstream said that it failed, or the last one where none said that all is well; empty: none. */
  readonly failure: string;
  /** How much was searched for errors, and for keys in them: far slower than to look whether there may be one. */
  readonly searchedBytes: number;
  /** Whether an event that may be an error has not come to its end. */
  readonly isHolding?: boolean;
  /**
   * Takes a chunk in. Returns what may be sent on now: the very chunk, or null while an event that may be an error has
   * not come to its end, and then all that was held back, cleaned. A promise where it has to be unpacked for that.
   */
  push(chunk: Bytes): Bytes | null | Promise<Bytes | null>;
  /** What is still held back; null: nothing. For the end, whichever way it came. */
  rest(): Bytes | null;
  /** Asked once, when nothing more comes. `failed`: upstream itself said so in the stream. */
  end(): StreamEnd | Promise<StreamEnd>;
  /** Asked instead when the connection broke: whether the last event had come all the same. */
  isOver(): boolean | Promise<boolean>;
  /** The tokens that were named so far; null: none were. Asked once, behind the end, whichever way it came. */
  tokens(): TokenUsage | null;
}
