import { describe, expect, test } from "bun:test";
import { EventScanner } from "./sse.ts";

const bytesOf = (text: string) => Uint8Array.from(Buffer.from(text));

/** What is found when a stream comes in pieces of so many bytes. */
function found(stream: string, size: number): { event: string; hasBegun: boolean; isWhole: boolean } {
  const bytes = bytesOf(stream);
  const first = new EventScanner();
  for (let at = 0; at < bytes.length; at += size) first.push(bytes.slice(at, at + size));
  expect(Buffer.from(first.bytes).toString()).toBe(stream);
  const { hasBegun, isWhole } = first;
  return { event: Buffer.from(first.event).toString(), hasBegun, isWhole };
}

describe("the first event of a stream", () => {
  const streams: [sentence: string, event: string, rest: string][] = [
    ["ends with an empty line", 'data: {"id":1}\n\n', 'data: {"id":2}\n\n'],
    ["may end its lines with CR", 'data: {"id":1}\r\r', "data: 2\r\r"],
    ["may have several lines", "id: 1\nevent: error\ndata: a\ndata: b\n\n", "data: 2\n\n"],
    ["stands behind comments", ": waiting\n\n: waiting\n\ndata: 1\n\n", ": waiting\n\n"],
    ["may have comments in it", "event: error\n:HTTP_STATUS/429\ndata: {}\n\n", ""],
    ["stands behind empty lines", "\n\r\n\ndata: 1\n\n", "\n"],
    ["stands behind a field that is no event", "retry: 3000\n\nid: 7\n\ndata: 1\n\n", "data: 2\n\n"],
    ["may begin with letters of two bytes", "data: é\n\n", "data: ü\n\n"],
    ["may be JSON in its place", '{"error":{"message":"a}\\"]{","list":[1,{}]}}', "\n\n"],
    ["may be JSON printed over lines", '{\n  "error": {\n\n    "code": 429\n  }\n}', "\n"],
    ["may be a list in its place", '[{"error":{"code":503}}]', " "],
    ["may be a line of JSON", '{"response":"a","done":false}', '\n{"done":true}\n'],
    ["may be JSON that ends in a backslash", '{"path":"C:\\\\"}', '{"a":1}'],
  ];
  test.each(streams)("%s", (_, event, rest) => {
    for (let size = 1; size <= event.length + rest.length; size++) {
      expect(found(event + rest, size)).toEqual({ event, hasBegun: true, isWhole: true });
    }
  });

  // Whether the LF belongs to the end of the event or to what follows, nobody can tell and nobody needs to.
  test("ends with CR LF, twice", () => {
    for (let size = 1; size <= 20; size++) {
      const { event, isWhole } = found("data: 1\r\n\r\ndata: 2\r\n\r\n", size);
      expect([event.trimEnd(), isWhole]).toEqual(["data: 1", true]);
    }
  });

  const unfinished: [sentence: string, stream: string, hasBegun: boolean][] = [
    ["nothing has come", "", false],
    ["a comment has", ": waiting\n\n: wai", false],
    ["a line has", "data: 1\n", true],
    ["a field without data has", "event: ping\n\n", true],
    ["JSON is open", '{"error":"a"', true],
    ["a bracket closes in a text", '{"error":"}', true],
  ];
  test.each(unfinished)("is not there yet where %s", (_, stream, hasBegun) => {
    expect(found(stream, 2)).toEqual({ event: stream, hasBegun, isWhole: false });
  });

  // It was parsed and searched anew for each piece: 60 KB in pieces of 3 bytes took 12 s.
  test("takes no longer to find in small pieces", () => {
    const stream = bytesOf(`data: ${"x".repeat(300_000)}`);
    const json = bytesOf(`{"error":"${"}".repeat(300_000)}`);
    const began = performance.now();
    for (const bytes of [stream, json]) {
      const first = new EventScanner();
      for (let at = 0; at < bytes.length; at += 3) first.push(bytes.subarray(at, at + 3));
      expect(first.isWhole).toBe(false);
    }
    expect(performance.now() - began).toBeLessThan(2000);
  });
});
