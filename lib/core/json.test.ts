import { describe, expect, test } from "bun:test";
import { findTopLevelString, replaceTopLevelString } from "./json.ts";

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
    ["has a name that is written with an escape", '{"mod\\u0065l":"x"}', "x"],
    ["is there twice: the first one is taken", '{"model":"x","model":"y"}', "x"],
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
    for (const { object, text } of randomBodies(3000)) {
      const expected = typeof object.model === "string" ? object.model : null;
      const found = findTopLevelString(bytes(text), "model")?.value ?? null;
      if (found !== expected) throw new Error(`${found} in ${text}`);
    }
  });

  test("never fails, wherever a body is cut", () => {
    const whole = bytes('{"a":[{"b":"\\u00e9\\\\"}, -1],"model":"x\\"y"}');
    for (let end = 0; end < whole.length; end++) {
      expect(findTopLevelString(whole.subarray(0, end), "model")?.value ?? 'x"y').toBe('x"y');
    }
  });
});

/** Objects with a `model` somewhere among fields of all kinds, and their JSON. The same ones in every run. */
function* randomBodies(count: number): Generator<{ object: Record<string, unknown>; text: string }> {
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
  for (let round = 0; round < count; round++) {
    const name = `${TEXTS[next(TEXTS.length)]}`;
    const object = { a: value(0), [name]: value(0), model: value(2), z: value(0) };
    yield { object, text: JSON.stringify(object, null, next(3)) };
  }
}

const textOfParts = (parts: Uint8Array[]) => Buffer.concat(parts).toString();

/** What becomes of a body whose `model` is replaced. */
function withModel(text: string, model: string): string {
  const body = bytes(text);
  const found = findTopLevelString(body, "model");
  if (found === null) throw new Error(`no model in ${text}`);
  return textOfParts(replaceTopLevelString(body, found, model) ?? []);
}

describe("a model that is replaced", () => {
  const rows: [says: string, body: string, model: string, replaced: string][] = [
    ["may be longer", '{"model":"a","x":1}', "abc", '{"model":"abc","x":1}'],
    ["may be shorter", ' {"x": [1], "model" : "abc" } ', "a", ' {"x": [1], "model" : "a" } '],
    ["is written as JSON", '{"model":"a"}', 'a"\\\n模', '{"model":"a\\"\\\\\\n模"}'],
    [
      "leaves texts alone",
      '{"model":"a","p":"\\"model\\":\\"a\\""}',
      "b",
      '{"model":"b","p":"\\"model\\":\\"a\\""}',
    ],
    [
      "leaves what is nested alone",
      '{"model":"a","p":{"model":"a"}}',
      "b",
      '{"model":"b","p":{"model":"a"}}',
    ],
    [
      "is replaced wherever a parser may look",
      '{"model":"a","x":1,"model":"c"}',
      "b",
      '{"model":"b","x":1,"model":"b"}',
    ],
    [
      "is replaced where it is no text too",
      '{"model":"a","model":{"x":[1]}, "model":null}',
      "b",
      '{"model":"b","model":"b", "model":"b"}',
    ],
    [
      "is replaced under a name with escapes",
      '{"model":"a","\\u006dodel":"c"}',
      "b",
      '{"model":"b","\\u006dodel":"b"}',
    ],
    ["is replaced in a body that is cut off", '{"model":"a","x":{"y":', "b", '{"model":"b","x":{"y":'],
    [
      "does not reach into a second document",
      '{"model":"a"}{"model":"a"}',
      "b",
      '{"model":"b"}{"model":"a"}',
    ],
  ];
  test.each(rows)("%s", (_, body, model, replaced) => {
    expect(withModel(body, model)).toBe(replaced);
  });

  test("P42 is not looked for behind more fields than anybody sends", () => {
    const before = `"a":0,`.repeat(9_990);
    expect(withModel(`{${before}"model":"a","model":"c"}`, "b")).toBe(`{${before}"model":"b","model":"b"}`);
    const tooMany = `"a":0,`.repeat(10_000);
    expect(findTopLevelString(bytes(`{${tooMany}"model":"a"}`), "model")).toBeNull();
    const body = bytes(`{"model":"a",${tooMany}"model":"c"}`);
    const found = findTopLevelString(body, "model");
    expect(found && replaceTopLevelString(body, found, "b")).toBeNull();
  });

  test.each([
    ["fields", '"a":0,', ""],
    ["fields of the same name", '"model":0,', ""],
    ["elements of a list", "0,", '"x":['],
    ["commas", ",", ""],
    ["texts", '"model",', '"x":['],
  ])("P42 is replaced in time that grows with the body: %s", (_, piece, before) => {
    const timeFor = (count: number) => {
      const body = bytes(`{"model":"a",${before}${piece.repeat(count)}`);
      let best = Infinity;
      for (let round = 0; round < 5; round++) {
        const startedAt = performance.now();
        const found = findTopLevelString(body, "model");
        if (found !== null) replaceTopLevelString(body, found, "b");
        best = Math.min(best, performance.now() - startedAt);
      }
      return best;
    };
    timeFor(50_000);
    const [once, fourTimes] = [timeFor(100_000), timeFor(400_000)];
    expect(fourTimes).toBeLessThan(12 * once + 5);
  });

  test("is found in a part of a larger buffer, which stays as it was", () => {
    const whole = bytes('{"model":"no"}{"model":"yes"}');
    const part = whole.subarray(14);
    const found = findTopLevelString(part, "model");
    const replaced = found && replaceTopLevelString(part, found, "b");
    expect(textOfParts(replaced ?? [])).toBe('{"model":"b"}');
    expect(new TextDecoder().decode(whole)).toBe('{"model":"no"}{"model":"yes"}');
  });

  test("is all that changes in bodies made at random", () => {
    let round = 0;
    for (const { object, text } of randomBodies(3000)) {
      if (typeof object.model !== "string") continue;
      round += 1;
      const doubled = round % 2 === 0;
      const before = doubled ? text.replace(/\}$/, ', "model" :[{"model":"}"}]}') : text;
      const model = ["", "x", 'a"b\\', "x".repeat(100)][round % 4] ?? "";
      const after = withModel(before, model);
      expect(JSON.parse(after)).toEqual({ ...object, model });
      const found = findTopLevelString(bytes(before), "model");
      const [start, end] = [found?.start ?? 0, found?.end ?? 0];
      const head = Buffer.from(before).subarray(0, start).toString();
      const tail = Buffer.from(before).subarray(end).toString();
      const written = JSON.stringify(model);
      const expected = doubled ? tail.replace(/\[\{"model":"\}"\}\]\}$/, () => `${written}}`) : tail;
      expect(after).toBe(head + written + expected);
    }
    expect(round).toBeGreaterThan(500);
  });
});
