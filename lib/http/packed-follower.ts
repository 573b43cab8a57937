/**
 * Follows a compressed answer by unpacking a copy of it. Hardly a provider compresses its streams. A key cannot be cut
 * out of what is packed: where an error holds one, that piece and all behind it do not go out.
 */
import { joined, lengthOf, Unpacker } from "./body.ts";
import type { Bytes } from "./body.ts";
import type { TokenUsage } from "../core/events.ts";
import type { StreamEnd, StreamFollower } from "./stream-follower.ts";
import type { StreamDialect } from "./stream-dialect.ts";

/** Of a longer error the beginning goes out before its end is here. */
const HELD_PACKED_BYTES = 256 * 1024;

export class PackedFollower implements StreamFollower {
  readonly isPlain = false;
  readonly atEdge = true;
  readonly #plain: StreamFollower;
  readonly #unpacker: Unpacker;
  /** Whether HTTP tells where it ends, so that it is whole even where it cannot be unpacked. */
  readonly #isFramed: boolean;
  /** Settles when all that was pushed has been unpacked. */
  #pushed: Promise<void> = Promise.resolve();
  /** `broken`: not what it says it is; `too_much`: more than anybody looks at. */
  #state: "fine" | "broken" | "too_much" = "fine";

  readonly #holdsBack: boolean;
  /** Pieces that may hold a part of an error. */
  #held: Bytes[] = [];
  #heldBytes = 0;
  #hasKey = false;

  /**
   * `follow` makes the follower of what was unpacked. `clean`: takes keys out of an error; null: none is looked for.
   * Null for an encoding that cannot be unpacked here.
   */
  static of(
    encoding: string,
    follow: (clean: (text: string) => string) => StreamFollower,
    clean: ((text: string) => string) | null,
    isFramed: boolean,
  ): PackedFollower | null {
    const unpacker = Unpacker.of([encoding.trim().toLowerCase()]);
    return unpacker && new PackedFollower(unpacker, follow, clean, isFramed);
  }

  private constructor(
    unpacker: Unpacker,
    follow: (clean: (text: string) => string) => StreamFollower,
    clean: ((text: string) => string) | null,
    isFramed: boolean,
  ) {
    this.#unpacker = unpacker;
    this.#holdsBack = clean !== null;
    this.#plain = follow((text) => {
      const cleaned = clean?.(text) ?? text;
      this.#hasKey ||= cleaned !== text;
      return cleaned;
    });
    this.#isFramed = isFramed;
  }

  get dialect(): StreamDialect {
    return this.#plain.dialect;
  }

  get searchedBytes(): number {
    return this.#plain.searchedBytes;
  }

  get failure(): string {
    return this.#plain.failure;
  }

  push(chunk: Bytes): Bytes | Promise<Bytes | null> {
    this.#pushed = this.#pushed.then(() => this.#follow(chunk));
    if (!this.#holdsBack) return chunk;
    this.#held.push(chunk);
    this.#heldBytes += chunk.length;
    return this.#pushed.then(() => this.#release(this.#plain.isHolding === true));
  }

  rest(): Bytes | null {
    this.#plain.rest();
    return this.#release(false);
  }

  /** Lets go what was held. While an error is not at its end: nothing, or of a long one all but the newest piece. */
  #release(isHolding: boolean): Bytes | null {
    const kept = !isHolding ? 0 : this.#heldBytes > HELD_PACKED_BYTES ? 1 : this.#held.length;
    if (kept > 0 && kept === this.#held.length) return null;
    const released = this.#held.splice(0, this.#held.length - kept);
    this.#heldBytes = lengthOf(this.#held);
    return this.#hasKey || released.length === 0 ? null : joined(released);
  }

  async #follow(chunk: Bytes | null): Promise<void> {
    if (this.#state !== "fine") return;
    const take = (part: Bytes) => void this.#plain.push(part);
    const state = chunk === null ? await this.#unpacker.finish(take) : await this.#unpacker.feed(chunk, take);
    this.#state = state;
    if (state === "fine") return;
    this.#unpacker.close();
    this.#hasKey ||= this.#holdsBack && this.#plain.isHolding === true; // for all that anybody can tell
  }

  async end(): Promise<StreamEnd> {
    await this.#pushed;
    await this.#follow(null);
    this.#unpacker.close();
    this.#plain.rest();
    if (this.#hasKey) return "failed";
    if (this.#state === "broken") return this.#isFramed ? "complete" : "cut";
    return this.#state === "too_much" ? "complete" : this.#plain.end();
  }

  async isOver(): Promise<boolean> {
    await this.#pushed;
    this.#unpacker.close();
    this.#plain.rest();
    return !this.#hasKey && this.#plain.isOver();
  }

  tokens(): TokenUsage | null {
    return this.#plain.tokens();
  }
}
