import { describe, expect, test } from "bun:test";
import { isGlob, matchesGlob } from "./glob.ts";

describe("a name with stars", () => {
  const rows: [says: string, glob: string, text: string, matches: boolean][] = [
    ["without one it is the name itself", "gpt-4o", "gpt-4o", true],
    ["and no other name", "gpt-4o", "gpt-4o-mini", false],
    ["a star at the end stands for any end", "claude-*", "claude-sonnet-4-5", true],
    ["also for none", "claude-*", "claude-", true],
    ["but the beginning is needed", "claude-*", "anthropic/claude-3", false],
    ["case matters", "claude-*", "Claude-3", false],
    ["a star at the beginning", "*-mini", "gpt-4o-mini", true],
    ["what stands behind it is the end", "*-mini", "gpt-4o-mini-2024", false],
    ["a star in the middle", "gpt-*-mini", "gpt-4o-mini", true],
    ["beginning and end may not share characters", "aba*aba", "ababa", false],
    ["a star alone is everything", "*", "anything/at:all", true],
    ["also nothing", "*", "", true],
    ["several stars", "*claude*sonnet*", "us.anthropic.claude-3-7-sonnet-v1", true],
    ["their parts in this order", "*claude*sonnet*", "sonnet-claude", false],
    ["two parts may not share characters", "*ana*ana*", "banana", false],
    ["a part may not reach into the end", "a*bc*c", "abc", false],
    ["stars beside each other are one", "a**b", "ab", true],
    ["a slash is a character like others", "team/*", "team/a/b", true],
    ["signs of regular expressions mean nothing", "gpt.4*", "gpt-4o", false],
  ];
  test.each(rows)("%s", (_, glob, text, matches) => {
    expect(matchesGlob(glob, text)).toBe(matches);
    expect(isGlob(glob)).toBe(glob.includes("*"));
  });

  test("is read in one pass, however many stars and characters there are", () => {
    const started = performance.now();
    expect(matchesGlob("a*".repeat(100) + "b", "a".repeat(100_000))).toBe(false);
    expect(performance.now() - started).toBeLessThan(200);
  });
});
