import { describe, expect, test } from "bun:test";
import { SecretLine } from "./terminal.ts";

describe("a line that is not shown", () => {
  const typed: [says: string, pieces: string[], outcome: string, text: string][] = [
    ["ends with return", ["sk-1", "23\r"], "entered", "sk-123"],
    ["ends with a line feed, and nothing behind it counts", ["sk-123\nmore"], "entered", "sk-123"],
    ["waits for more", ["sk-1"], "more", "sk-1"],
    ["takes a letter back", ["sk-12x\u007f3\r"], "entered", "sk-123"],
    ["takes no more back than there is", ["\u007f\u007fsk\r"], "entered", "sk"],
    ["is begun anew by Ctrl-U", ["wrong\u0015sk-123\r"], "entered", "sk-123"],
    ["is given up by Ctrl-C", ["sk-1\u0003"], "given_up", "sk-1"],
    ["is given up by Ctrl-D where it is empty", ["\u0004"], "given_up", ""],
    ["is entered by Ctrl-D else", ["sk-123\u0004"], "entered", "sk-123"],
    [
      "leaves out the marks around a paste, and arrow keys",
      ["\u001b[200~sk-123\u001b[201~\u001b[D\r"],
      "entered",
      "sk-123",
    ],
  ];
  test.each(typed)("%s", (_, pieces, outcome, text) => {
    const line = new SecretLine();
    const outcomes = pieces.map((piece) => line.type(piece));
    expect(outcomes.at(-1)).toBe(outcome as "more");
    expect(line.text).toBe(text);
  });
});
