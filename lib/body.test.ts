import { describe, expect, test } from "bun:test";
import { findTopLevelString } from "./body.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

describe("the model of a body", () => {
  const rows: [says: string, body: string, model: string | null][] = [
    ["stands first", '{"model":"gpt-4o","messages":[]}', "gpt-4o"],
    ["stands last", '{"messages":[{"role":"user","content":"hi"}],"model":"gpt-4o"}', "gpt-4o"],
    ["has blanks around it", ' \r\n\t{ "model" : "a b" }', "a b"],
    ["is not taken out of a message", '{"messages":[{"model":"no"}],"model":"yes"}', "yes"],
    ["is not taken out of a text", '{"prompt":"\\"model\\":\\"no\\"","model":"yes"}', "yes"],
    ["is not taken out of a text that ends in a backslash", '{"prompt":"\\\\","model":"yes"}', "yes"],
    ["is only nested", '{"a":{"model":"no"}}', null],
    ["is a number", '{"model":4}', null],
    ["is null", '{"model":null,"x":"y"}', null],
    ["is an object", '{"model":{"a":"b"}}', null],
    ["holds escapes", '{"model":"a\\u002Fb\\n\\"c\\""}', 'a/b\n"c"'],
    ["holds letters of several bytes", '{"näme":"ö","model":"模型😀"}', "模型😀"],
    ["is the empty string", '{"model":""}', ""],
    ["stands behind numbers and words", '{"a":-1.5e3,"b":true,"c":null,"model":"x"}', "x"],
    ["stands behind brackets inside texts", '{"a":["]}",{"b":"[{"}],"model":"x"}', "x"],
    ["is missing", '{"a":1}', null],
    ["belongs to no object", '["model","x"]', null],
    ["is in an empty object", "{}", null],
    ["is in an empty body", "", null],
    ["is in something that is no JSON", "model=gpt-4o", null],
    ["is cut off", '{"model":"gpt', null],
    ["is cut off behind a backslash", '{"model":"gpt\\', null],
    ["is cut off before its value", '{"model":', null],
    ["comes after an object that never ends", '{"a":{"b":1,"model":"x"', null],
    ["holds an escape that is none", '{"model":"\\x"}', null],
  ];
  test.each(rows)("%s", (_, body, model) => {
    expect(findTopLevelString(bytes(body), "model")?.value ?? null).toBe(model);
  });

  test("is found with its place, so that it can be replaced and nothing else", () => {
    const body = bytes('{"näme":"ö", "model" : "gpt-4o" ,"x":1}');
    const found = findTopLevelString(body, "model");
    expect(new TextDecoder().decode(body.subarray(found?.start, found?.end))).toBe('"gpt-4o"');
  });

  test("is found in a part of a larger buffer", () => {
    const whole = bytes('{"model":"no"}{"model":"yes"}');
    expect(findTopLevelString(whole.subarray(14), "model")?.value).toBe("yes");
  });

  test("agrees with JSON.parse on bodies made at random", () => {
    let seed = 1;
    const next = (below: number) => (seed = (seed * 48_271) % 2_147_483_647) % below;
    const TEXTS = ["model", "", "\\", '"', "}{][,:", '\\"', "ö😀", "a b", "\n"];
    const value = (depth: number): unknown => {
      const kind = next(depth > 3 ? 4 : 6);
      if (kind === 0) return next(1000) - 500;
      if (kind === 1) return [true, false, null][next(3)];
      if (kind < 4) return TEXTS[next(TEXTS.length)];
      const items = Array.from({ length: next(4) }, () => value(depth + 1));
      return kind === 4 ? items : Object.fromEntries(items.map((item) => [TEXTS[next(TEXTS.length)], item]));
    };
    for (let round = 0; round < 3000; round++) {
      const object = {
        a: value(0),
        [`${TEXTS[next(TEXTS.length)]}`]: value(0),
        model: value(2),
        z: value(0),
      };
      const text = JSON.stringify(object, null, next(3));
      const expected = typeof object.model === "string" ? object.model : null;
      const found = findTopLevelString(bytes(text), "model")?.value ?? null;
      if (found !== expected) throw new Error(`round ${round}: ${found} in ${text}`);
    }
  });

  test("never fails, wherever a body is cut", () => {
    const whole = bytes('{"a":[{"b":"\\u00e9\\\\"}, -1],"model":"x\\"y"}');
    for (let end = 0; end < whole.length; end++) {
      expect(findTopLevelString(whole.subarray(0, end), "model")?.value ?? 'x"y').toBe('x"y');
    }
  });
});
