import { describe, expect, test } from "bun:test";
import { HeaderSampler } from "./bulletin.ts";
import type { Clock } from "../core/clock.ts";
import type { Dialect } from "./verdict.ts";

const NOW = Date.UTC(2026, 10, 20, 12);

/** Answers as they come, and whether each was looked at: only for that the time is asked. */
class Listener {
  readonly #headerSampler = new HeaderSampler();
  looks = 0;
  readonly #clock: Clock = {
    now: () => {
      this.looks += 1;
      return NOW;
    },
    after: () => () => {},
  };

  hears(
    headers: Record<string, string>,
    status = 200,
    dialect: Dialect = "openai",
    rpm: "auto" | "off" = "auto",
  ) {
    return this.#headerSampler.read({ dialect, rpm }, new Response(null, { status, headers }), this.#clock);
  }

  /** How many of so many such answers were looked at. */
  looksAt(count: number, headers: Record<string, string>, status = 200): number {
    const before = this.looks;
    for (let answer = 0; answer < count; answer++) this.hears(headers, status);
    return this.looks - before;
  }
}

function left(requests: number | string, tokens?: number): Record<string, string> {
  return {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-requests": String(requests),
    "x-ratelimit-reset-requests": "30s",
    ...(tokens === undefined ? {} : { "x-ratelimit-remaining-tokens": String(tokens) }),
  };
}

const SILENCE = {};

describe("the announcements of a provider", () => {
  test.each<[sentence: string, headers: Record<string, string>, status: number, looked: number]>([
    ["are read from each answer while a limit is near", left(999), 200, 100],
    ["are given up as if there were none where they make no sense", left("many"), 200, 8 + 3],
    ["are read from each answer while no tokens are left", left(4000, 0), 200, 100],
    ["are read now and then while all limits are far away", left(1000), 200, 3],
    ["are read now and then while tokens are left too", left(4000, 7), 200, 3],
    ["are looked for eight times, then now and then, where there are none", SILENCE, 200, 8 + 3],
    ["are read from each refusal, near or far", left(4000), 429, 100],
    ["are looked for in each refusal, where there are none", SILENCE, 500, 100],
    ["are looked for in all that are no refusals as in good answers", SILENCE, 302, 8 + 3],
  ])("%s", (_, headers, status, looked) => {
    expect(new Listener().looksAt(100, headers, status)).toBe(looked);
  });

  test("are told as they were read", () => {
    const listener = new Listener();
    expect(listener.hears(left(12))).toMatchObject({ minute: { limit: 5000, remaining: 12 } });
    expect(listener.hears(SILENCE)).toBeNull();
    expect(listener.hears(left(4000))).toBeNull(); // nobody looked
    expect(listener.hears(left(4000), 429)).toMatchObject({ minute: { remaining: 4000 } });
  });

  test("are told on every 32nd answer, however far away", () => {
    const listener = new Listener();
    const told = Array.from({ length: 64 }, () => listener.hears(left(4000)) !== null);
    expect(told.flatMap((isTold, index) => (isTold ? [index + 1] : []))).toEqual([32, 64]);
  });

  test("are read again from each answer once a silent provider was heard", () => {
    const listener = new Listener();
    listener.looksAt(31, SILENCE);
    expect(listener.looksAt(1, left(5))).toBe(1); // the 32nd
    expect(listener.looksAt(10, left(5))).toBe(10);
  });

  test("are not given up while some answer in eight has one", () => {
    const listener = new Listener();
    listener.looksAt(7, SILENCE);
    listener.hears(left(5));
    expect(listener.looksAt(7, SILENCE)).toBe(7);
    listener.hears(left(5));
    expect([listener.looksAt(8, SILENCE), listener.looksAt(1, left(5))]).toEqual([8, 0]);
  });

  test("are looked for by the headers of the provider's own dialect", () => {
    const headers = { "anthropic-ratelimit-requests-remaining": "4000" };
    const [anthropic, openai] = [new Listener(), new Listener()];
    anthropic.hears(headers, 200, "anthropic");
    openai.hears(headers, 200, "openai");
    expect([anthropic.looks, openai.looks]).toEqual([0, 1]);
  });

  // Cerebras announces on good answers only: after a burst of refusals, when it matters most, the next good answers
  // were not looked at.
  test("are not given up for refusals, which have none at some providers", () => {
    const listener = new Listener();
    listener.hears(left(5));
    listener.looksAt(8, SILENCE, 429);
    expect(listener.hears(left(5))).not.toBeNull();
  });

  test("are looked for on refusals alone where RPM is off", () => {
    const listener = new Listener();
    expect([listener.hears(left(5), 200, "openai", "off"), listener.looks]).toEqual([null, 0]);
    expect(listener.hears(left(5), 429, "openai", "off")).not.toBeNull();
  });
});
