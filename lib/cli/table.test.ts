import { describe, expect, test } from "bun:test";
import { type Column, cutTo, oneLine, table } from "./table.ts";

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
    expect(table(COLUMNS, ROWS, 19)).toBe("NAME   COUNT\napple      5\npear      12");
    expect(table(COLUMNS, ROWS, 10)).toBe("NAME\napple\npear");
  });

  test("cuts what is still too long", () => {
    expect(table(COLUMNS, ROWS, 4)).toBe("NAME\napp…\npear");
  });

  test("counts the columns that a character takes up", () => {
    const rows = [{ name: "梨", count: 1, remark: "" }];
    expect(table(COLUMNS, rows)).toBe("NAME  COUNT\n梨        1");
    expect(cutTo("梨梨梨", 4)).toBe("梨…");
  });

  test("stays one line a row, whatever a cell holds", () => {
    expect(oneLine(" a\r\nb\u001b[2J\u009b ")).toBe("a b [2J");
  });
});
