import { describe, expect, test } from "bun:test";
import { joined } from "../http/body.ts";
import { namedModelsOf } from "./named-models.ts";
import { bodyWithModel, modelOf, pathWithModel } from "./route.ts";

type Sentence = string;

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (body: Uint8Array) => new TextDecoder().decode(body);
const FORM = 'multipart/form-data; boundary="--sep 7"';
const NAMES = Array.from({ length: 1001 }, (_, index) => `m${index}`);
const URLENCODED = "application/x-www-form-urlencoded";
const form = (...parts: [head: string, content: string][]) =>
  bytes(
    parts.map(([head, content]) => `----sep 7\r\n${head}\r\n\r\n${content}\r\n`).join("") + "----sep 7--\r\n",
  );
const FILE: [string, string] = [
  'Content-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav',
  'RIFF\r\n\r\nContent-Disposition: form-data; name="model"\r\n\r\nnot-me\r\n--sep',
];
const MODEL: [string, string] = ['Content-Disposition: form-data; name="model"', "whisper"];

describe("the model of a request", () => {
  test.each<
    [Sentence, path: string, contentType: string | null, body: string | Uint8Array | null, string | null]
  >([
    ["is a field of a JSON body", "/v1/chat/completions", "application/json", '{"model":"m"}', "m"],
    ["is found whatever the body calls itself", "/v1/chat/completions", null, '{"model":"m"}', "m"],
    ["is in the path with Gemini", "/v1beta/models/pro:streamGenerateContent", null, '{"model":"x"}', "pro"],
    [
      "is a field of a form, behind a file that looks like one",
      "/v1/audio",
      FORM,
      form(FILE, MODEL),
      "whisper",
    ],
    ["is a field of a form, before a file", "/v1/audio", FORM, form(MODEL, FILE), "whisper"],
    ["is none where a form names none", "/v1/files", FORM, form(FILE), null],
    [
      "is none where a form has no end",
      "/v1/audio",
      FORM,
      bytes(`----sep 7\r\n${MODEL[0]}\r\n\r\nwhisper`),
      null,
    ],
    [
      "is none where it is longer than any name",
      "/v1/chat/completions",
      null,
      `{"model":"${"m".repeat(201)}"}`,
      null,
    ],
    ["is none where there is no body", "/v1/models", null, null, null],
  ])("%s", (_, path, contentType, body, model) => {
    const given = typeof body === "string" ? bytes(body) : body;
    expect(modelOf({ path, contentType, body: given as Uint8Array<ArrayBuffer> | null })).toBe(model);
  });
});

describe("the models that a client's limits look at", () => {
  const JSON_TYPE = "application/json";
  test.each<
    [Sentence, path: string, contentType: string | null, body: string | Uint8Array | null, string[] | null]
  >([
    ["are the one of a JSON body", "/v1/chat/completions", JSON_TYPE, '{"model":"m"}', ["m"]],
    [
      "are the last of two",
      "/v1/chat/completions",
      JSON_TYPE,
      '{"model":"m","x":[1,{"model":"y"}],"model":"n"}',
      ["n"],
    ],
    [
      "are the last of two under an escape",
      "/v1/chat/completions",
      JSON_TYPE,
      '{"model":"m","mod\\u0065l":"n"}',
      ["n"],
    ],
    [
      "are none where the last of two is no name",
      "/v1/chat/completions",
      JSON_TYPE,
      '{"model":"m","model":null}',
      [],
    ],
    [
      "are also those that a careless parser would take",
      "/v1/chat/completions",
      JSON_TYPE,
      '{"Model":"a","model":"m","MODEL":"b"}',
      ["m", "a", "b"],
    ],
    [
      "are what stands behind a long conversation",
      "/v1/chat/completions",
      JSON_TYPE,
      `{"messages":[{"content":"${"x".repeat(9000)}"}],"model":"m"}`,
      ["m"],
    ],
    [
      "are names of any length",
      "/v1/chat/completions",
      JSON_TYPE,
      `{"model":"${"m".repeat(300)}"}`,
      ["m".repeat(300)],
    ],
    [
      "are those to turn to, too",
      "/v1/chat/completions",
      JSON_TYPE,
      '{"models":["a","b"],"model":"m"}',
      ["m", "a", "b"],
    ],
    ["are those to turn to alone", "/v1/chat/completions", null, '{"models": [ "a" , "b" ]}', ["a", "b"]],
    [
      "are those of a batch's requests",
      "/v1/messages/batches",
      JSON_TYPE,
      '{"requests":[{"custom_id":"1","params":{"model":"a","messages":[{"model":"no"}]}},{"params":{"model":"b"}}]}',
      ["a", "b"],
    ],
    [
      "are those of a batch whose requests have a body",
      "/v1/batch/jobs",
      JSON_TYPE,
      '{"model":"m","requests":[{"body":{"model":"a"}}]}',
      ["m", "a"],
    ],
    [
      "are those of a batch whose requests name them at once",
      "/v1/x",
      JSON_TYPE,
      '{"requests":[{"Model":"a"},1,null,{"request":{"model":"b"}}]}',
      ["a", "b"],
    ],
    [
      "are those of Gemini's batch, and the one of its path",
      "/v1beta/models/pro:batchEmbedContents",
      JSON_TYPE,
      '{"requests":[{"model":"models/pro"},{"model":"models/other"}]}',
      ["pro", "pro", "other"],
    ],
    [
      "are that of a session",
      "/v1/realtime/client_secrets",
      JSON_TYPE,
      '{"session":{"type":"realtime","model":"m"}}',
      ["m"],
    ],
    [
      "are that of an eval's run",
      "/v1/evals/e/runs",
      JSON_TYPE,
      '{"name":"a","data_source":{"type":"completions","model":"m"}}',
      ["m"],
    ],
    ["are none of a batch that is none", "/v1/x", JSON_TYPE, '{"requests":{"model":"a"},"model":"m"}', ["m"]],
    ["are none in a list that is none", "/v1/chat/completions", JSON_TYPE, '{"models":"a"}', []],
    [
      "cannot be told in JSON that is packed and does not say so",
      "/v1/chat/completions",
      JSON_TYPE,
      Bun.gzipSync('{"model":"m"}'),
      null,
    ],
    [
      "cannot be told in letters of two bytes",
      "/v1/chat/completions",
      JSON_TYPE,
      Buffer.from('{"model":"m"}', "utf16le"),
      null,
    ],
    ["cannot be told in a list", "/v1/chat/completions", null, '[{"model":"m"}]', null],
    ["are none in a file", "/v1/upload", "application/octet-stream", "%PDF", []],
    ["are none where the body is empty", "/v1/files/f/cancel", JSON_TYPE, "", []],
    ["are none where the body names none", "/v1/chat/completions", JSON_TYPE, '{"messages":[]}', []],
    ["are none where there is no body", "/v1/models", null, null, []],
    ["are the one in a path", "/v1beta/models/pro:generateContent", JSON_TYPE, '{"model":"x"}', ["pro"]],
    [
      "are the one in a path, however it is written",
      "/v1beta/models/pr%6F:generateContent",
      JSON_TYPE,
      "{}",
      ["pro"],
    ],
    [
      "are the deployment",
      "/openai/deployments/my-gpt/chat/completions",
      JSON_TYPE,
      '{"model":"x"}',
      ["my-gpt"],
    ],
    ["are the one of a form", "/v1/audio", FORM, form(FILE, MODEL), ["whisper"]],
    ["are the last of a form", "/v1/audio", FORM, form(MODEL, FILE, [MODEL[0], "other"]), ["other"]],
    [
      "are the one behind many parts of a form",
      "/v1/audio",
      FORM,
      form(...Array.from({ length: 99 }, () => FILE), MODEL),
      ["whisper"],
    ],
    [
      "cannot be told in an object with more fields than anybody sends",
      "/v1/chat/completions",
      JSON_TYPE,
      `{"model":"a",${'"x":0,'.repeat(10_001)}"model":"b"}`,
      null,
    ],
    [
      "are a thousand of a list",
      "/v1/x",
      JSON_TYPE,
      JSON.stringify({ models: NAMES.slice(1) }),
      NAMES.slice(1),
    ],
    ["cannot be told in a longer list", "/v1/x", JSON_TYPE, JSON.stringify({ models: NAMES }), null],
    [
      "cannot be told in a long list of one",
      "/v1/x",
      JSON_TYPE,
      JSON.stringify({ models: NAMES.map(() => "m") }),
      null,
    ],
    [
      "are the engine of an old client",
      "/v1/engines/davinci/completions",
      JSON_TYPE,
      '{"prompt":""}',
      ["davinci"],
    ],
    [
      "are the one in a path of Bedrock",
      "/model/anthropic.x-v2%3A0/converse",
      JSON_TYPE,
      "{}",
      ["anthropic.x-v2:0"],
    ],
    ["are the one in a path with a slash in it", "/v1/engines/a%2Fb/completions", JSON_TYPE, "{}", ["a/b"]],
    ["are the one behind an escaped word", "/v1/%65ngines/davinci/completions", JSON_TYPE, "{}", ["davinci"]],
    ["are the one before an escaped colon", "/v1beta/models/pro%3AgenerateContent", JSON_TYPE, "{}", ["pro"]],
    [
      "are the one of a path of Vertex",
      "/v1/projects/p/locations/l/publishers/google/models/pro:predict",
      null,
      "{}",
      ["pro"],
    ],
    ["are the one before another method", "/v1/models/pro:generate", JSON_TYPE, "{}", ["pro"]],
    ["are those of a plain form", "/v1/x", URLENCODED, "n=1&model=a%2Fb", ["a/b"]],
    ["are all of a plain form", "/v1/x", URLENCODED, "model=a&Model=b&mod%65l=c", ["a", "b", "c"]],
    ["are none in a plain form without one", "/v1/x", URLENCODED, "file_model=a", []],
    ["are the one of JSON that calls itself a form", "/v1/x", URLENCODED, '{"model":"m"}', ["m"]],
    ["are those of a form that begins like JSON", "/v1/x", URLENCODED, '{"model":"m"}&model=b', ["m", "b"]],
    [
      "cannot be told in a plain form of any length",
      "/v1/x",
      URLENCODED,
      `a=${"x".repeat(300_000)}&model=b`,
      null,
    ],
    [
      "cannot be told where a form ends its lines in another way",
      "/v1/audio",
      FORM,
      text(form(MODEL)).replaceAll("\r", ""),
      null,
    ],
    [
      "cannot be told where one part does so",
      "/v1/audio",
      FORM,
      text(form(FILE, MODEL)).replace("\r\n----sep 7\r", "\n----sep 7\r"),
      null,
    ],
    ["cannot be told where a form has no end", "/v1/audio", FORM, text(form(MODEL)).slice(0, -6), null],
    ["cannot be told where something stands before a form", "/v1/audio", FORM, `x${text(form(MODEL))}`, null],
    [
      "cannot be told where a part is packed",
      "/v1/audio",
      FORM,
      form([`${MODEL[0]}\r\nContent-Transfer-Encoding: base64`, "bQ=="]),
      null,
    ],
    [
      "cannot be told where a name is written in another way",
      "/v1/audio",
      FORM,
      form([MODEL[0].replace('name="model"', "name*=utf-8''model"), "m"]),
      null,
    ],
    [
      "cannot be told where a name stands in other marks",
      "/v1/audio",
      FORM,
      form([MODEL[0].replaceAll('"', "'"), "m"]),
      null,
    ],
    [
      "are the one of a form with blanks at its end",
      "/v1/audio",
      FORM,
      `${text(form(FILE, MODEL))}\r\n`,
      ["whisper"],
    ],
    ["are none in a form of files", "/v1/files", FORM, form(FILE, FILE), []],
    ["cannot be told where a form has no boundary", "/v1/audio", "multipart/form-data", form(MODEL), null],
    [
      "cannot be told in another kind of parts",
      "/v1/audio",
      'multipart/mixed; boundary="--sep 7"',
      form(MODEL),
      null,
    ],
  ])("%s", (_, path, contentType, body, models) => {
    const given = typeof body === "string" ? bytes(body) : body;
    const named = namedModelsOf({ path, contentType, body: given as Uint8Array<ArrayBuffer> | null });
    expect(named?.all ?? null).toEqual(models);
  });

  test.each<[Sentence, query: string, body: string, models: string[]]>([
    ["is one in the query", "?a=1&model=m", "{}", ["m"]],
    ["are one in the query and one in the body", "?model=m", '{"model":"n"}', ["n", "m"]],
    ["are two in the query", "?model=m&MODEL=n", "{}", ["m", "n"]],
    ["is one in the query under an escape", "?m%6Fdel=a%2Fb", "{}", ["a/b"]],
    ["are none in a query without one", "?my_model=m&key=%6D", "{}", []],
  ])("%s", (_, query, body, models) => {
    const naming = { path: "/v1/listen", contentType: JSON_TYPE, body: bytes(body) };
    expect(namedModelsOf(naming, query)?.all).toEqual(models);
  });

  test("P42 of a form of more parts than anybody sends cannot be told, and that is found out in time", () => {
    const part: [string, string] = ["Content-Disposition: form-data; name=x", "y".repeat(80)];
    const body = form(...Array.from({ length: 200_000 }, () => part), MODEL);
    const before = performance.now();
    expect(namedModelsOf({ path: "/v1/audio", contentType: FORM, body })).toBeNull();
    expect(performance.now() - before).toBeLessThan(150);
  });

  test.each<[Sentence, body: string, model: string | null]>([
    ["the last of two", '{"model":"m","model":"n"}', "n"],
    ["none where that is no name", '{"Model":"a","model":"m","model":null}', null],
    ["none where only a careless parser would find one", '{"Model":"a"}', null],
    ["none where it is longer than any name", `{"model":"${"m".repeat(201)}"}`, null],
  ])("go with the request by %s", (_, body, model) => {
    const named = namedModelsOf({ path: "/v1/chat/completions", contentType: JSON_TYPE, body: bytes(body) });
    expect(named?.model).toBe(model);
  });
});

describe("another model", () => {
  test("takes the place of the field in a form, and every other byte stays", () => {
    const changed = bodyWithModel(form(FILE, MODEL), FORM, "a-much-longer-name");
    expect(text(joined(changed ?? []))).toBe(text(form(FILE, [MODEL[0], "a-much-longer-name"])));
  });

  test("takes the place of the field in JSON, and every other byte stays", () => {
    const changed = bodyWithModel(bytes('{ "n" : 1.0, "model" :"m"}'), null, 'a"b');
    expect(text(joined(changed ?? []))).toBe('{ "n" : 1.0, "model" :"a\\"b"}');
  });

  test("P43 is written between the parts of the body, which is not copied", () => {
    for (const [body, type] of [
      [bytes('{"n":1,"model":"m","x":[]}'), null],
      [form(FILE, MODEL), FORM],
    ] as const) {
      const [before, , behind] = bodyWithModel(body, type, "another") ?? [];
      expect([before?.buffer === body.buffer, behind?.buffer === body.buffer]).toEqual([true, true]);
    }
  });

  test("is not written into a form that names none, nor with a line end in it", () => {
    expect(bodyWithModel(form(FILE), FORM, "m")).toBeNull();
    expect(bodyWithModel(form(MODEL), FORM, "m\r\nx")).toBeNull();
  });

  test("takes the place of the name in a Gemini path, and no other path changes", () => {
    expect(pathWithModel("/v1beta/models/pro:generateContent", "a/b")).toBe(
      "/v1beta/models/a%2Fb:generateContent",
    );
    expect(pathWithModel("/v1beta/models/pro", "x")).toBe("/v1beta/models/pro");
  });
});
