import { describe, expect, test } from "bun:test";
import { parseEnvFile } from "./env-file.ts";

describe("an env file", () => {
  const table: [says: string, text: string, values: [string, string][]][] = [
    [
      "is lines of NAME=value",
      "A=1\nB = 2\n",
      [
        ["A", "1"],
        ["B", "2"],
      ],
    ],
    [
      "may have export before a name",
      "export A=1\n  export  B=2",
      [
        ["A", "1"],
        ["B", "2"],
      ],
    ],
    [
      "may come from Windows",
      "\uFEFFA=1\r\n\r\nB=2\r\n",
      [
        ["A", "1"],
        ["B", "2"],
      ],
    ],
    [
      "has comments",
      "# A=0\n  # B\nA=1 # one\nB=a#b\nC= # none",
      [
        ["A", "1"],
        ["B", "a#b"],
        ["C", ""],
      ],
    ],
    [
      "expands nothing",
      "A=$HOME\nB=\"${HOME}\"\nC='$x'",
      [
        ["A", "$HOME"],
        ["B", "${HOME}"],
        ["C", "$x"],
      ],
    ],
    [
      "keeps # and spaces in quotation marks",
      "A=' a # b ' # c\nB=\"x=y\"#z",
      [
        ["A", " a # b "],
        ["B", "x=y"],
      ],
    ],
    ["has escapes in double ones", 'A="a\\nb\\"c\\\\d\\$e\\x"', [["A", 'a\nb"c\\d$e\\x']]],
    ["has none in single ones", "A='a\\nb\\'", [["A", "a\\nb\\"]]],
    ["keeps quotation marks inside a value", "A=a\"b\"'c'", [["A", "a\"b\"'c'"]]],
    [
      "may spread a quoted value over lines",
      'A="k1\r\n  k2\n"\nB=2',
      [
        ["A", "k1\n  k2\n"],
        ["B", "2"],
      ],
    ],
    ["keeps = in a value", "A=x==", [["A", "x=="]]],
  ];
  test.each(table)("%s", (_, text, values) => {
    const file = parseEnvFile(text);
    expect([[...file.values], file.problems, file.warnings]).toEqual([values, [], []]);
  });

  const unreadable: [says: string, text: string, problem: string, values: [string, string][]][] = [
    [
      "a line without =",
      "A=1\ncanary\nB=2",
      "Line 2 is not NAME=value.",
      [
        ["A", "1"],
        ["B", "2"],
      ],
    ],
    ["a name with a space", "A canary=1", "Line 1 is not NAME=value.", []],
    [
      "an open quotation mark",
      'A="canary\nB=2',
      'Line 1 opens a quotation mark (") that is not closed.',
      [["B", "2"]],
    ],
    [
      "one that the next one would close",
      "A='canary\nB=2\nC='x",
      "Line 1 opens a quotation mark (')",
      [["B", "2"]],
    ],
    ["text after the closing one", "\nA='x'canary", "Line 2 has text after the closing quotation mark", []],
    ["text in UTF-16", "A\0=\x001\0", "Line 1 is not text in UTF-8.", []],
  ];
  test.each(unreadable)("names %s by its line, and never shows it", (_, text, problem, values) => {
    const file = parseEnvFile(text);
    expect(file.problems[0]).toStartWith(problem);
    expect(file.problems.join()).not.toContain("canary");
    expect([...file.values]).toEqual(values);
  });

  test("warns of a variable that is there twice, and takes the last", () => {
    const file = parseEnvFile("A=canary\n\nA=2\n");
    expect(file.values.get("A")).toBe("2");
    expect(file.warnings).toEqual([
      "Line 3 sets A again, after line 1. The last one counts; remove the other.",
    ]);
  });
});
