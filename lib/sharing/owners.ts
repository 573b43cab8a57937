/**
 * Whose a resource is, known to all instances by the next request (P35): it is with the server before the answer that
 * told of it ends, and looked up there where an instance does not know it.
 *
 * An owner is stored by the full names of its keys, because what an account is called may differ between instances. The
 * id of a resource is stored as a hash: it may be long, and holds what others chose.
 */
import { nextTurn } from "../core/clock.ts";
import type { Secret } from "../core/secret.ts";
import type { OwnerShelf } from "../pool/sharing.ts";
import { GONE, LATE } from "./connection.ts";
import type { RedisConnection } from "./connection.ts";
import { KEPT_MS } from "./scripts.ts";
import { hashed } from "./wire.ts";

/** Owners of turns of conversations, of which there are many, are kept so long. */
const TURN_KEPT_MS = 24 * 3_600_000;
/** Ids of one request that are looked up at most. */
const MOST_ASKED = 50;
/** What a writing may take: nobody waits for it so long. */
const WRITE_MS = 2000;

export class SharedOwners {
  readonly #shelf: OwnerShelf;
  readonly #prefix: string;
  readonly #connection: RedisConnection;
  readonly #nameOf: (secret: Secret) => string;
  readonly #onTheWay = new Set<Promise<unknown>>();

  constructor(
    shelf: OwnerShelf,
    prefix: string,
    connection: RedisConnection,
    nameOf: (secret: Secret) => string,
  ) {
    this.#shelf = shelf;
    this.#prefix = prefix;
    this.#connection = connection;
    this.#nameOf = nameOf;
  }

  save({ provider, id, account }: { provider: string; id: string; account: string }): void {
    const names = this.#shelf.keysOf(provider, account).map(this.#nameOf);
    if (names.length === 0) return;
    const keptMs = this.#shelf.isOfTurn(id) ? TURN_KEPT_MS : KEPT_MS;
    this.#tell("SET", [this.#placeOf(provider, id), names.join(" "), "PX", String(keptMs)]);
  }

  drop(provider: string, id: string): void {
    this.#tell("DEL", [this.#placeOf(provider, id)]);
  }

  #placeOf(provider: string, id: string): string {
    return `${this.#prefix}:owner:${provider}:${hashed(id)}`;
  }

  #tell(command: string, given: string[]): void {
    const told = this.#connection.ask(command, given, WRITE_MS).catch(() => GONE);
    this.#onTheWay.add(told);
    void told.then(() => this.#onTheWay.delete(told));
  }

  /** Something is on its way to the server. */
  get isSaving(): boolean {
    return this.#onTheWay.size > 0;
  }

  /** Waits until it is there, no longer than this. */
  async saved(patienceMs: number): Promise<void> {
    await Promise.race([Promise.all(this.#onTheWay), nextTurn(patienceMs)]);
  }

  /** Tells the shelf which of these the server knows. Returns false where it did not answer in time. */
  async lookUp(provider: string, ids: readonly string[], patienceMs: number): Promise<boolean> {
    const asked = ids.slice(0, MOST_ASKED);
    const places = asked.map((id) => this.#placeOf(provider, id));
    const answer = await this.#connection.ask("MGET", places, patienceMs).catch(() => GONE);
    if (!Array.isArray(answer)) return answer !== LATE;
    for (const [at, id] of asked.entries()) {
      const told: unknown = answer[at];
      if (typeof told === "string") this.#shelf.found(provider, id, told.split(" "));
    }
    return true;
  }
}
