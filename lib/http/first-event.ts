/**
 * Where the first event of a stream begins and ends, found out as its bytes come in. Every byte is looked at once,
 * in however many pieces they come.
 *
 * Comments and fields without data (`retry: 3000`) are no event. In the place of an event may stand JSON, as an error
 * or as the first line of NDJSON: it is whole when its brackets are closed.
 */
import { Gathering } from "./body.ts";
import type { Bytes } from "./body.ts";

const LF = 0x0a;
const CR = 0x0d;

export class FirstEvent {
  readonly #seen = new Gathering();
  #within: "no_line" | "comment" | "event" | "json" = "no_line";
  #previous = 0;
  /** Whether the line has nothing in it so far, and whether one before it had data. */
  #isLineEmpty = true;
  #hasData = false;
  #depth = 0;
  #isInString = false;
  #isEscaped = false;
  #end = 0;
  /** Something else than comments has come. */
  hasBegun = false;
  isWhole = false;

  push(piece: Bytes): void {
    const before = this.#seen.length;
    this.#seen.push(piece);
    for (let at = 0; at < piece.length && !this.isWhole; at += 1) {
      const byte = piece[at]!;
      this.#step(byte);
      this.#previous = byte;
      if (this.isWhole) this.#end = before + at + 1;
    }
  }

  /** All that has come. */
  get bytes(): Bytes {
    return this.#seen.bytes;
  }

  /** Up to the end of the event; all, as long as it is not whole. */
  get event(): Bytes {
    return this.isWhole ? this.bytes.subarray(0, this.#end) : this.bytes;
  }

  #step(byte: number): void {
    switch (this.#within) {
      case "no_line":
        if (byte !== LF && byte !== CR) this.#begin(byte);
        return;
      case "comment":
        if (byte === LF) this.#within = "no_line";
        return;
      case "event":
        return this.#stepInEvent(byte);
      case "json":
        return this.#stepInJson(byte);
    }
  }

  #begin(byte: number): void {
    if (byte === 0x3a /* : */) {
      this.#within = "comment";
      return;
    }
    this.hasBegun = true;
    this.#within = byte === 0x7b /* { */ || byte === 0x5b /* [ */ ? "json" : "event";
    this.#isLineEmpty = true;
    this.#step(byte);
  }

  /** An event ends with an empty line; its lines end with CR, LF or both. */
  #stepInEvent(byte: number): void {
    if (byte === LF && this.#previous === CR) return;
    if (byte !== LF && byte !== CR) {
      if (this.#isLineEmpty && byte === 0x64 /* d, of data */) this.#hasData = true;
      this.#isLineEmpty = false;
      return;
    }
    if (!this.#isLineEmpty) this.#isLineEmpty = true;
    else if (this.#hasData) this.isWhole = true;
    else this.#within = "no_line";
  }

  #stepInJson(byte: number): void {
    if (this.#isInString) {
      if (this.#isEscaped) this.#isEscaped = false;
      else if (byte === 0x5c /* \ */) this.#isEscaped = true;
      else if (byte === 0x22 /* " */) this.#isInString = false;
      return;
    }
    if (byte === 0x22) this.#isInString = true;
    else if (byte === 0x7b || byte === 0x5b) this.#depth += 1;
    else if (byte === 0x7d || byte === 0x5d) this.#depth -= 1;
    if (this.#depth === 0) this.isWhole = true;
  }
}
