/**
 * Follows a compressed answer by unpacking a copy of it. Hardly a provider compresses its streams.
 */
import { Unpacker } from "./body.ts";
import type { Bytes } from "./body.ts";
import type { TokenUsage } from "../core/events.ts";
import type { StreamEnd, StreamFollower } from "./stream-follower.ts";
import type { StreamDialect } from "./stream-dialect.ts";

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

  /** `plain` follows what was unpacked. Null for an encoding that cannot be unpacked here. */
  static of(encoding: string, plain: StreamFollower, isFramed: boolean): PackedFollower | null {
    const unpacker = Unpacker.of([encoding.trim().toLowerCase()]);
    return unpacker && new PackedFollower(unpacker, plain, isFramed);
  }

  private constructor(unpacker: Unpacker, plain: StreamFollower, isFramed: boolean) {
    this.#unpacker = unpacker;
    this.#plain = plain;
    this.#isFramed = isFramed;
  }

  get dialect(): StreamDialect {
    return this.#plain.dialect;
  }

  get failure(): string {
    return this.#plain.failure;
  }

  push(chunk: Bytes): Bytes {
    this.#pushed = this.#pushed.then(() => this.#follow(chunk));
    return chunk;
  }

  rest(): null {
    return null;
  }

  async #follow(chunk: Bytes | null): Promise<void> {
    if (this.#state !== "fine") return;
    const take = (part: Bytes) => void this.#plain.push(part);
    const state = chunk === null ? await this.#unpacker.finish(take) : await this.#unpacker.feed(chunk, take);
    this.#state = state;
    if (state !== "fine") this.#unpacker.close();
  }

  async end(): Promise<StreamEnd> {
    await this.#pushed;
    await this.#follow(null);
    this.#unpacker.close();
    this.#plain.rest();
    if (this.#state === "broken") return this.#isFramed ? "complete" : "cut";
    return this.#state === "too_much" ? "complete" : this.#plain.end();
  }

  async isOver(): Promise<boolean> {
    await this.#pushed;
    this.#unpacker.close();
    this.#plain.rest();
    return this.#plain.isOver();
  }

  tokens(): TokenUsage | null {
    return this.#plain.tokens();
  }
}
