import { describe, expect, test } from "bun:test";
import type { Clock } from "../core/clock.ts";
import { Outbox } from "./outbox.ts";
import type { Batch } from "./outbox.ts";

/** An outbox whose server is played by hand. */
class Post {
  /** What has changed and was not taken. */
  changes: string[] = [];
  /** Batches on their way, and what decides about them. */
  readonly underWay: { batch: Batch; decide: (isThere: boolean) => void }[] = [];
  readonly sent: string[] = [];
  failures = 0;
  isMuted = false;
  #timers: (() => void)[] = [];
  readonly outbox: Outbox;

  constructor() {
    const clock: Clock = {
      now: () => 0,
      wall: () => 0,
      after: (_, action) => {
        this.#timers.push(action);
        return () => void this.#timers.splice(this.#timers.indexOf(action), 1);
      },
    };
    this.outbox = new Outbox({
      clock,
      isMuted: () => this.isMuted,
      gather: ({ first }, number) => {
        const changes = [...first.map(({ name }) => name), ...this.changes.splice(0)].join(" ");
        return changes === "" ? null : { news: `${number}`, changes };
      },
      deliver: (batch) => {
        this.sent.push(`${batch.number}: ${batch.changes}`);
        return new Promise((decide) => this.underWay.push({ batch, decide }));
      },
      onFailed: () => (this.failures += 1),
    });
  }

  change(what: string, isUrgent = false): void {
    this.changes.push(what);
    this.outbox.sendSoon(isUrgent);
  }

  /** The time to gather is over. */
  async wait(): Promise<void> {
    for (const action of this.#timers.splice(0)) action();
    await this.settle();
  }

  /** The server has the batch that is on its way, or nobody knows. */
  async answer(isThere: boolean): Promise<void> {
    this.underWay.shift()?.decide(isThere);
    await this.settle();
  }

  async settle(): Promise<void> {
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  }
}

describe("P48 what goes to the server", () => {
  test("is gathered, and one batch", async () => {
    const post = new Post();
    post.change("a");
    post.change("b");
    expect(post.sent).toEqual([]);
    await post.wait();
    expect(post.sent).toEqual(["1: a b"]);
  });

  test("does not wait where it is urgent, and takes with it what was gathered", async () => {
    const post = new Post();
    post.change("a");
    post.change("b", true);
    await post.settle();
    expect(post.sent).toEqual(["1: a b"]);
  });

  test("is one batch at a time: what changes meanwhile is the next", async () => {
    const post = new Post();
    post.change("a", true);
    await post.settle();
    post.change("b", true);
    await post.settle();
    expect(post.sent).toEqual(["1: a"]);
    await post.answer(true);
    await post.wait();
    expect(post.sent).toEqual(["1: a", "2: b"]);
  });

  test("goes again under its number where nobody knows whether it arrived, before anything else", async () => {
    const post = new Post();
    post.change("a", true);
    await post.settle();
    await post.answer(false);
    expect(post.failures).toBe(1);
    post.change("b", true);
    await post.settle();
    expect(post.sent).toEqual(["1: a", "1: a"]);
    expect(post.outbox.confirmed).toBe(0);
    await post.answer(true);
    expect(post.sent.at(-1)).toBe("2: b");
    expect(post.outbox.confirmed).toBe(1);
  });

  test("is written anew where the server has lost it, unless the news of it came back", async () => {
    for (const isHeard of [false, true]) {
      const post = new Post();
      post.change("a", true);
      await post.settle();
      if (isHeard) post.outbox.onHeard(1);
      await post.answer(false);
      expect(post.outbox.forget()?.changes ?? null).toBe(isHeard ? null : "a");
      expect(post.outbox.forget()).toBeNull();
    }
  });

  test("waits while something is read, which begins when all that was taken is there", async () => {
    const post = new Post();
    post.change("a", true);
    await post.settle();
    let read: ((isRead: boolean) => void) | null = null;
    const reading = post.outbox.whileIdle(() => new Promise((done) => (read = done)));
    await post.settle();
    expect(read).toBeNull();
    await post.answer(true);
    expect(read).not.toBeNull();
    post.change("b", true);
    await post.settle();
    expect(post.sent).toEqual(["1: a"]);
    (read as unknown as (isRead: boolean) => void)(true);
    expect(await reading).toBe(true);
    await post.wait();
    expect(post.sent).toEqual(["1: a", "2: b"]);
  });

  test("is not left out where it has to go first, whatever is on its way", async () => {
    const post = new Post();
    post.change("a", true);
    await post.settle();
    const first = [{ name: "all", keepMs: 1 }];
    const sending = post.outbox.send({ first, isAll: true, isFilling: true });
    await post.settle();
    await post.answer(true);
    await post.answer(true);
    expect(await sending).toBe(true);
    expect(post.sent).toEqual(["1: a", "2: all"]);
  });

  test("stays where nothing may be sent", async () => {
    const post = new Post();
    post.isMuted = true;
    post.change("a", true);
    post.change("b");
    await post.wait();
    expect(post.sent).toEqual([]);
    post.isMuted = false;
    post.change("c");
    await post.wait();
    expect(post.sent).toEqual(["1: a b c"]);
  });
});
