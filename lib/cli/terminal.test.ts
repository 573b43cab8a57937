import { describe, expect, test } from "bun:test";
import { SecretLine, cutTo, oneLine, table } from "./terminal.ts";
import type { Column } from "./terminal.ts";

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

  test("keeps what was pasted behind it for the next lines", () => {
    const lines = ["sk-1\r\nsk-2\nsk-3\r"];
    const typed: string[] = [];
    for (let rest = lines.join(""); rest !== "";) {
      const line = new SecretLine();
      expect(line.type(rest)).toBe("entered");
      typed.push(line.text);
      rest = line.rest;
    }
    expect(typed).toEqual(["sk-1", "sk-2", "sk-3"]);
  });
});

interface Fruit {
  name: string;
  count: number;
  remark: string;
}

const COLUMNS: Column<Fruit>[] = [
  { title: "NAME", of: ({ name }) => name },
  { title: "COUNT", of: ({ count }) => String(count), align: "right", expendable: 1 },
  { title: "REMARK", of: ({ remark }) => remark, expendable: 2 },
];

const ROWS: Fruit[] = [
  { name: "apple", count: 5, remark: "sour" },
  { name: "pear", count: 12, remark: "" },
];

describe("a table", () => {
  test("stands in columns, numbers to the right, without blanks at the end", () => {
    expect(table(COLUMNS, ROWS)).toBe("NAME   COUNT  REMARK\napple      5  sour\npear      12");
  });

  test("leaves out a column in which nothing is known", () => {
    expect(table(COLUMNS, [{ name: "fig", count: 1, remark: "" }])).toBe("NAME  COUNT\nfig       1");
  });

  test("leaves out what it can do without where the terminal is narrow", () => {
    expect(table(COLUMNS, ROWS, { width: 19 })).toBe("NAME   COUNT\napple      5\npear      12");
    expect(table(COLUMNS, ROWS, { width: 10 })).toBe("NAME\napple\npear");
  });

  test("cuts what is still too long", () => {
    expect(table(COLUMNS, ROWS, { width: 4 })).toBe("NAME\napp…\npear");
  });

  const WRAPPED: Column<Fruit>[] = [
    { title: "NAME", of: ({ name }) => name, colour: ({ count }) => (count > 9 ? "red" : null) },
    { title: "WHY", of: ({ remark }) => remark, wraps: true },
  ];

  test("goes on in further lines with what is long", () => {
    const rows = [
      { name: "apple", count: 1, remark: "sour, and it lay in the grass for long" },
      { name: "fig", count: 1, remark: "averyverylongwordthatfitsnowhere" },
    ];
    const lines = table(WRAPPED, rows, { width: 24 }).split("\n");
    expect(lines).toEqual([
      "NAME   WHY",
      "apple  sour, and it lay",
      "       in the grass for",
      "       long",
      "fig    averyverylongword",
      "       thatfitsnowhere",
    ]);
  });

  test("is coloured where there are colours, and as wide as without", () => {
    const rows = [{ name: "pear", count: 12, remark: "ripe" }];
    expect(table(WRAPPED, rows)).toBe("NAME  WHY\npear  ripe");
    expect(table(WRAPPED, rows, { hasColours: true })).toBe("NAME  WHY\n\u001b[31mpear\u001b[0m  ripe");
  });

  test("counts the columns that a character takes up", () => {
    const rows = [{ name: "梨", count: 1, remark: "" }];
    expect(table(COLUMNS, rows)).toBe("NAME  COUNT\n梨        1");
    expect(cutTo("梨梨梨", 4)).toBe("梨…");
  });

  test("stays one line a row, whatever a cell holds", () => {
    expect(oneLine(" a\r\nb\u001b[2J\u009b ")).toBe("a b [2J");
    expect(oneLine("x\u202ey\u2028z\u2066")).toBe("x y z");
  });
});
