import { describe, expect, test } from "bun:test";
import { judge, type Standing } from "./key-health.ts";
import { Secret } from "../core/secret.ts";
import type { Dialect } from "../providers/verdict.ts";

const SECRET = new Secret("sk-canary0123456789");

describe("the answer to a probe", () => {
  const answers: [says: string, dialect: Dialect, status: number, body: object, standing: Standing][] = [
    ["a list of models proves the key", "openai", 200, { object: "list", data: [] }, "works"],
    [
      "a stated reason is the end of a key",
      "openai",
      401,
      { error: { code: "invalid_api_key", message: "Incorrect API key provided" } },
      "dead",
    ],
    ["a bare 401 to this question is one too", "generic", 401, { message: "Unauthorized" }, "dead"],
    ["a bare 403 may be about the question", "openai", 403, { error: { message: "Forbidden" } }, "doubtful"],
    [
      "a rate limit is of a key that lives",
      "openai",
      429,
      { error: { type: "rate_limit_error", message: "Rate limit reached" } },
      "limited",
    ],
    [
      "money that is used up is of a key that lives",
      "openai",
      429,
      {
        error: {
          type: "insufficient_quota",
          code: "insufficient_quota",
          message: "You exceeded your current quota",
        },
      },
      "limited",
    ],
    [
      "a provider that fails tells nothing of the key",
      "openai",
      500,
      { error: { message: "oops" } },
      "unreachable",
    ],
    [
      "a path that is not there tells nothing",
      "generic",
      404,
      { error: { message: "no such path" } },
      "unknown",
    ],
    ["an answer that points elsewhere tells nothing", "openai", 302, {}, "doubtful"],
  ];
  test.each(answers)("%s", (_, dialect, status, body, standing) => {
    const evidence = { status, headers: new Headers(), body: JSON.stringify(body) };
    expect(judge(dialect, evidence, SECRET, 0).standing).toBe(standing);
  });

  test("is quoted without the key that it repeats", () => {
    const error = { code: "invalid_api_key", message: `Incorrect key ${SECRET.reveal()}` };
    const body = JSON.stringify({ error });
    const { detail } = judge("openai", { status: 401, headers: new Headers(), body }, SECRET, 0);
    expect(detail).toBe("Incorrect key [redacted]");
  });

  test.each<[says: string, withoutKey: number | null, standing: Standing]>([
    ["a list that is open to everybody proves no key", 200, "unknown"],
    ["a list that is refused without a key proves one", 401, "works"],
    ["a list of which nobody knows proves no key", null, "unknown"],
  ])("%s", (_, status, standing) => {
    const headers = new Headers();
    const body = JSON.stringify({ object: "list", data: [] });
    const withoutKey = status === null ? null : { status, headers, body };
    expect(judge("generic", { status: 200, headers, body }, SECRET, 0, withoutKey).standing).toBe(standing);
  });
});
