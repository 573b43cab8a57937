import { describe, expect, test } from "bun:test";
import {
  baseOf,
  escapesBase,
  joinBase,
  keyParameter,
  readableHost,
  targetOf,
  withoutKeyParameter,
  withoutPrefix,
} from "./request.ts";

describe("a path joins the base URL", () => {
  const rows: [says: string, base: string, path: string, joined: string][] = [
    ["an origin gets the path unchanged", "https://a.example", "/v1/models", "https://a.example/v1/models"],
    ["an origin with a slash too", "https://a.example/", "/v1/models", "https://a.example/v1/models"],
    ["an origin keeps its port", "http://a.example:8080", "/x", "http://a.example:8080/x"],
    ["an origin gets a path without /v1", "https://a.example", "/v2/x", "https://a.example/v2/x"],
    ["a root replaces /v1", "https://a.example/api/v1", "/v1/models", "https://a.example/api/v1/models"],
    [
      "a root with a slash at its end",
      "https://a.example/api/v1/",
      "/v1/models",
      "https://a.example/api/v1/models",
    ],
    ["a root that is /v1 itself", "https://a.example/v1", "/v1/models", "https://a.example/v1/models"],
    [
      "a root of another kind",
      "https://a.example/v1beta/openai",
      "/v1/chat/completions",
      "https://a.example/v1beta/openai/chat/completions",
    ],
    [
      "a path without /v1 is put behind the root",
      "https://a.example/api/v1",
      "/models",
      "https://a.example/api/v1/models",
    ],
    ["/v1 alone is the root", "https://a.example/api/v1", "/v1", "https://a.example/api/v1"],
    ["/v1/ is the root with its slash", "https://a.example/api/v1", "/v1/", "https://a.example/api/v1/"],
    ["/v10 is not /v1", "https://a.example/api", "/v10/models", "https://a.example/api/v10/models"],
    ["/v1beta is not /v1", "https://a.example/api", "/v1beta/models", "https://a.example/api/v1beta/models"],
    [
      "only the leading /v1 is replaced",
      "https://a.example/api",
      "/v1/x/v1/y",
      "https://a.example/api/x/v1/y",
    ],
    [
      "a client that repeats the root is understood",
      "https://a.example/api/v1",
      "/api/v1/models",
      "https://a.example/api/v1/models",
    ],
    [
      "an encoded slash stays",
      "https://a.example/api",
      "/v1/models/org%2Fname",
      "https://a.example/api/models/org%2Fname",
    ],
    ["an apostrophe stays", "https://a.example/api", "/v1/it's", "https://a.example/api/it's"],
  ];
  test.each(rows)("%s", (_, base, path, joined) => {
    expect(joinBase(baseOf(new URL(base)), { path, query: "" })).toBe(joined);
    expect(joinBase(baseOf(new URL(base)), { path, query: "?a=b&a='" })).toBe(`${joined}?a=b&a='`);
  });
});

describe("a path that could leave the base", () => {
  const refused = [
    "/v1/..%2fadmin",
    "/v1/..%2Fadmin",
    "/v1/..%5cadmin",
    "/v1/%2e%2e%2fadmin",
    "/v1/%2E.%2Fadmin",
    "/v1/x%2f..",
    "/v1/x%2f%2e%2e",
    "/v1/x%5c..%5cy",
    "/v1/a%2f..%2fb",
    "/v1%2f..%2fadmin",
    "/..%2f..%2f",
    "/v1/%252e%252e%252fadmin",
    "/v1/..%252fadmin",
    "/v1/..%25252fadmin",
    "/v1/..%2525252525252fadmin",
    "/v1/..%255cadmin",
    "/v1/x%00",
    "/v1/..%00%2fadmin",
    "/v1/x%2500",
  ];
  test.each(refused)("%s is refused", (path) => {
    expect(escapesBase(path)).toBe(true);
  });

  const allowed = [
    "/v1/models/org%2Fname",
    "/v1/models/org%2Fname%2Fversion-1.5",
    "/v1/models/a%2f...%2fb",
    "/v1/models/..a%2fb..",
    "/v1/models/a%2fb..c",
    "/v1/models/a%2f.b",
    "/v1/files/100%25",
    "/v1/files/a%20b%3Fc%23d",
    "/v1/%E4%BD%A0%E5%A5%BD",
    "/v1/%zz",
    "/v1/a..b",
    "/v1/publishers/google/models/gemini:streamGenerateContent",
  ];
  test.each(allowed)("%s is passed on", (path) => {
    expect(escapesBase(path)).toBe(false);
  });
});

describe("the path and query of a request", () => {
  const rows: [url: string, target: ReturnType<typeof targetOf>][] = [
    ["http://localhost:3000/v1/x?a=b", { path: "/v1/x", query: "?a=b" }],
    ["https://localhost/", { path: "/", query: "" }],
    ["http://localhost/x?", { path: "/x", query: "?" }],
    ["http://localhost/x?a?b", { path: "/x", query: "?a?b" }],
    ["http://localhost/x#y?z", { path: "/x", query: "" }],
    ["http://localhost/x?a#y?z", { path: "/x", query: "?a" }],
    ["http://[::1]:3000/x", { path: "/x", query: "" }],
    ["/v1/../admin", null],
    ["http://localhost", null],
    ["", null],
  ];
  test.each(rows)("%s", (url, target) => {
    expect(targetOf(url)).toEqual(target);
  });
});

describe("a Host header", () => {
  const rows: [host: string, isReadable: boolean][] = [
    ["localhost", true],
    ["localhost:3000", true],
    ["127.0.0.1:3000", true],
    ["[::1]:3000", true],
    ["my_host.internal", true],
    ["", false],
    ["a b", false],
    ["x/y", false],
    ["x\\y", false],
    ["h:99999", false],
    ["h:port", false],
    ["[::1", false],
    ["1.2.3.4.5", false],
    ["user@host", false],
    ["host?x", false],
    ["host#x", false],
    ["a,b", false],
    ["%6cocalhost", false],
    ["hôst", false],
  ];
  test.each(rows)("%p can be read: %p", (host, isReadable) => {
    expect(readableHost(host)).toBe(isReadable);
    expect(readableHost(host)).toBe(isReadable); // nor does it depend on having been asked before
  });
});

describe("a prefix", () => {
  const rows: [path: string, prefix: string, rest: string | null][] = [
    ["/groq/v1/x", "/groq", "/v1/x"],
    ["/groq", "/groq", ""],
    ["/groq/", "/groq", "/"],
    ["/groqs/v1", "/groq", null],
    ["/GROQ/v1", "/groq", null],
    ["/v1/groq", "/groq", null],
  ];
  test.each(rows)("of %s: %s leaves %p", (path, prefix, rest) => {
    expect(withoutPrefix(path, prefix)).toBe(rest);
  });
});

describe("a key in the query", () => {
  const rows: [says: string, query: string, key: string | null, rest: string][] = [
    ["alone", "?key=abc", "abc", ""],
    ["first", "?key=abc&alt=sse", "abc", "?alt=sse"],
    ["last", "?alt=sse&key=abc", "abc", "?alt=sse"],
    ["twice", "?key=abc&alt=sse&key=def", "abc", "?alt=sse"],
    ["empty", "?key=&alt=sse", "", "?alt=sse"],
    ["without a value", "?key&alt=sse", "", "?alt=sse"],
    ["encoded", "?key=a%2Bb", "a+b", ""],
    [
      "under an encoded name, of which there is a plain one too",
      "?alt=sse&k%65y=abc&key=def",
      "abc",
      "?alt=sse",
    ],
    ["under an encoded name, behind a name that ends like it", "?monkey=1&%6Bey=abc", "abc", "?monkey=1"],
    ["in other names only", "?monkey=abc&keys=d&Key=e", null, "?monkey=abc&keys=d&Key=e"],
    ["among bytes that stay as they are", "?a=%zz&key=abc&b=c+d%20e&&f='", "abc", "?a=%zz&b=c+d%20e&&f='"],
    ["not at all", "", null, ""],
    ["not at all, behind a question mark", "?", null, ""],
  ];
  test.each(rows)("%s", (_, query, key, rest) => {
    expect(keyParameter(query)).toBe(key);
    expect(withoutKeyParameter(query)).toBe(rest);
  });

  test("is found under every spelling, or under none that goes on", () => {
    // Found where it is written `key=`, but left in place where it is written otherwise: then it would go upstream.
    for (const query of ["?%6Bey=abc", "?k%65y=abc&x=key=1", "?ke%79=abc"]) {
      const found = keyParameter(query);
      if (found !== null) expect(withoutKeyParameter(query)).not.toContain("abc");
    }
  });
});
