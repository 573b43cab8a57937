import { expect, test } from "bun:test";
import { visible } from "./text.ts";

test.each<[sentence: string, text: string, shown: string]>([
  ["a mark that turns the line around", "gpt-\u202e4", "gpt-\\u202e4"],
  ["a mark that isolates what follows", "a\u2066b\u2069", "a\\u2066b\\u2069"],
  ["a separator of lines", "a\u2028b", "a\\u2028b"],
  ["a separator of paragraphs", "a\u2029b", "a\\u2029b"],
  ["a blank without width", "a\u200bb", "a\\u200bb"],
  ["a byte order mark", "\ufeffa", "\\ufeffa"],
  ["an Arabic mark", "a\u061cb", "a\\u061cb"],
  ["a control that some terminals obey", "a\u009b2Jb", "a\\u009b2Jb"],
  ["no letter of a language", "模型 é ع ✓ 👋", "模型 é ع ✓ 👋"],
  ["nothing of what is plain", "m-1.5\n", "m-1.5\n"],
])("what people see shows %s", (_, text, shown) => {
  expect(visible(text)).toBe(shown);
});

test("JSON says the same when it is made visible", () => {
  const value = { model: "a\u202eb\u2028", said: "\ufeff" };
  expect(JSON.parse(visible(JSON.stringify(value)))).toEqual(value);
});
