import { describe, expect, test } from "bun:test";
import { withRoutes } from "./model-list.ts";

const NAMES = ["fast", "team/smart"];

/** The text of the list with the names in it, or null. */
function listed(text: string, names: readonly string[] = NAMES): string | null {
  const body = withRoutes(new TextEncoder().encode(text), names);
  return body && new TextDecoder().decode(body);
}

function idsOf(text: string | null): unknown {
  return JSON.parse(text ?? "null");
}

describe("the names of routes", () => {
  test("are put in front of OpenAI's list, which keeps every byte of its own", () => {
    const own = '{ "id" : "gpt-4o","created":1.0e9, "näme":"ö\\u00e9" }';
    expect(listed(`{"object":"list",\n "data" : [${own}] ,"x":[1]}`)).toBe(
      `{"object":"list",\n "data" : [{"id":"fast","object":"model","created":0,"owned_by":"keywheel"},` +
        `{"id":"team/smart","object":"model","created":0,"owned_by":"keywheel"},${own}] ,"x":[1]}`,
    );
  });

  test("make up a list that was empty", () => {
    expect(idsOf(listed('{"object":"list","data":[ ]}', ["fast"]))).toEqual({
      object: "list",
      data: [{ id: "fast", object: "model", created: 0, owned_by: "keywheel" }],
    });
  });

  test("are models of OpenRouter's list, which does not say that it is one", () => {
    expect(idsOf(listed('{"data":[{"id":"a/b:free","name":"A"}]}', ["fast"]))).toMatchObject({
      data: [{ id: "fast" }, { id: "a/b:free" }],
    });
  });

  test("are models as Anthropic writes them, and its cursors stay", () => {
    const text = '{"data":[{"type":"model","id":"c1"}],"has_more":false,"first_id":"c1","last_id":"c1"}';
    expect(idsOf(listed(text, ["fast"]))).toEqual({
      data: [
        { type: "model", id: "fast", display_name: "fast", created_at: "1970-01-01T00:00:00Z" },
        { type: "model", id: "c1" },
      ],
      has_more: false,
      first_id: "c1",
      last_id: "c1",
    });
  });

  test("make up an empty list of Anthropic", () => {
    expect(
      idsOf(listed('{"data":[],"has_more":false,"first_id":null,"last_id":null}', ["fast"])),
    ).toMatchObject({
      data: [{ type: "model", id: "fast" }],
    });
  });

  test("are models as Gemini writes them", () => {
    expect(idsOf(listed('{"models":[{"name":"models/gemini-x","version":"1"}]}', ["fast"]))).toEqual({
      models: [
        {
          name: "models/fast",
          displayName: "fast",
          supportedGenerationMethods: ["generateContent", "streamGenerateContent", "countTokens"],
        },
        { name: "models/gemini-x", version: "1" },
      ],
    });
  });

  test("are models of a bare list, as Together sends it", () => {
    expect(idsOf(listed(' [{"id":"x","type":"chat"}]', ["fast"]))).toEqual([
      { id: "fast", object: "model", created: 0, owned_by: "keywheel", type: "chat", display_name: "fast" },
      { id: "x", type: "chat" },
    ]);
  });

  test("are not doubled where they are there already, or given twice", () => {
    expect(idsOf(listed('{"data":[{"id":"fast"}]}', ["fast", "slow", "slow"]))).toMatchObject({
      data: [{ id: "slow" }, { id: "fast" }],
    });
    expect(listed('{"models":[{"name":"models/fast"}]}', ["fast"])).toBeNull();
  });

  test("go where a parser looks when the list is there twice", () => {
    const text = listed('{"object":"list","data":[{"id":"old"}],"data":[{"id":"x"}]}', ["fast"]);
    expect(idsOf(text)).toMatchObject({ data: [{ id: "fast" }, { id: "x" }] });
  });

  test("are written as JSON, whatever they are", () => {
    expect(idsOf(listed('{"data":[{"id":"x"}]}', ['a"b\\']))).toMatchObject({ data: [{ id: 'a"b\\' }, {}] });
  });

  const unchanged: [says: string, text: string][] = [
    ["that is no JSON", "<html></html>"],
    ["that is cut off", '{"object":"list","data":[{"id":"x"}'],
    ["that is a single model", '{"id":"x","object":"model"}'],
    ["that is an error", '{"error":{"message":"no"}}'],
    ["whose list is none", '{"object":"list","data":{"id":"x"}}'],
    ["whose entries are no models", '{"object":"list","data":["x"]}'],
    ["of Ollama's tags", '{"models":[{"name":"llama3:8b","model":"llama3:8b"}]}'],
    ["of which more pages follow", '{"data":[{"type":"model","id":"c1"}],"has_more":true}'],
    ["of which more pages follow, in Gemini", '{"models":[{"name":"models/x"}],"nextPageToken":"abc"}'],
    ["that is empty and says nothing", '{"data":[]}'],
    ["that is an empty array", "[]"],
    ["of nothing", ""],
  ];
  test.each(unchanged)("leave an answer alone %s", (_, text) => {
    expect(listed(text)).toBeNull();
  });

  test("leave an answer alone where there are none", () => {
    expect(listed('{"data":[{"id":"x"}]}', [])).toBeNull();
  });
});
