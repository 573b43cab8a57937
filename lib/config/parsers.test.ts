import { describe, expect, test } from "bun:test";
import { parseStatusList } from "./parsers.ts";

describe("a list of statuses", () => {
  const table: [says: string, text: string, statuses: number[] | null][] = [
    ["is statuses and ranges", "429,500,502-504", [429, 500, 502, 503, 504]],
    ["may have spaces and empty elements", " 404 - 405,, 409 ,", [404, 405, 409]],
    ["names nothing below 100", "099", null],
    ["names nothing above 599", "598-600", null],
    ["has no range backwards", "504-502", null],
    ["has no words", "429,5xx", null],
    ["is not empty", " , ", null],
    ["is not endless", "429,".repeat(500), null],
  ];
  test.each(table)("%s", (_, text, statuses) => {
    const parsed = parseStatusList(text);
    expect(parsed === null ? null : [...parsed]).toEqual(statuses);
  });
});
