import { describe, expect, test } from "bun:test";
import { type ClientLimit, parseClientLimits } from "./client-limits.ts";

const CLIENTS = new Set(["laptop", "phone", "ci.runner"]);

const limit = (client: string, fields: Partial<ClientLimit> = {}): ClientLimit => ({
  client,
  perMinute: null,
  perDay: null,
  tokensPerDay: null,
  models: null,
  ...fields,
});

describe("CLIENT_LIMITS", () => {
  const understood: [says: string, text: string, limits: ClientLimit[]][] = [
    [
      "all that there is",
      "laptop = 20/min, 1000/day, 2M tokens/day, models llama-*|qwen-*; * = 200/day",
      [
        limit("laptop", {
          perMinute: 20,
          perDay: 1000,
          tokensPerDay: 2_000_000,
          models: ["llama-*", "qwen-*"],
        }),
        limit("*", { perDay: 200 }),
      ],
    ],
    ["one limit without any white space", "phone=5/min", [limit("phone", { perMinute: 5 })]],
    [
      "lines over several lines, the last one ended",
      "\n laptop =\n 1/min ,\n 2/day ;\n phone = 3/day;\n",
      [limit("laptop", { perMinute: 1, perDay: 2 }), limit("phone", { perDay: 3 })],
    ],
    ["a name with a dot", "ci.runner = 1/day", [limit("ci.runner", { perDay: 1 })]],
    [
      "other words for a minute and a day",
      "laptop = 1 / minute, 2 per days",
      [limit("laptop", { perMinute: 1, perDay: 2 })],
    ],
    ["requests by name", "laptop = 7 requests/day", [limit("laptop", { perDay: 7 })]],
    [
      "thousands",
      "laptop = 2k/day, 1.5k tokens/day",
      [limit("laptop", { perDay: 2000, tokensPerDay: 1500 })],
    ],
    [
      "tokens in letters of any case",
      "laptop = 2m Tokens / Day",
      [limit("laptop", { tokensPerDay: 2_000_000 })],
    ],
    ["one token", "laptop = 1 token/day", [limit("laptop", { tokensPerDay: 1 })]],
    [
      "a fraction of millions that is whole",
      "laptop = 0.000001M tokens/day",
      [limit("laptop", { tokensPerDay: 1 })],
    ],
    ["models alone", "laptop = models gpt-4o", [limit("laptop", { models: ["gpt-4o"] })]],
    [
      "models with white space around the sign, and one twice",
      "laptop = models  a | b/c:free |a",
      [limit("laptop", { models: ["a", "b/c:free"] })],
    ],
    ["commas too many", "laptop = ,1/day,,", [limit("laptop", { perDay: 1 })]],
  ];
  test.each(understood)("understands %s", (_, text, limits) => {
    expect(parseClientLimits(text, CLIENTS)).toEqual({ limits, problems: [] });
  });

  const mistakes: [says: string, text: string, problems: (string | RegExp)[]][] = [
    ["nothing", " ; ", ["CLIENT_LIMITS holds no line. Write one, or remove the setting."]],
    ["a line without a name", "20/min", [/line 1 names no client\. Write name = 20\/min/]],
    ["a name that is empty", "laptop = 1/day; = 20/min", [/line 2 names no client/]],
    [
      "a client that is not there",
      "tablet = 1/day",
      [
        "CLIENT_LIMITS names the client tablet, of which there is no key. Use laptop, phone, ci.runner or *, or write name=key in PROXY_API_KEY.",
      ],
    ],
    [
      "a client that is misspelt",
      "laptpo = 1/day",
      ["CLIENT_LIMITS names the client laptpo, of which there is no key. Did you mean laptop?"],
    ],
    ["a client in capitals", "Laptop = 1/day", [/Did you mean laptop\?/]],
    [
      "a key in a name's place",
      "sk-canary1234567890abcdef = 1/day",
      [/names the client \[hidden: it looks like a key\]/],
    ],
    [
      "two lines of one client",
      "laptop = 1/day; laptop = 2/day",
      ["CLIENT_LIMITS has two lines of laptop. Write one of both."],
    ],
    ["two lines of all others", "* = 1/day; * = 2/day", [/two lines of \*/]],
    ["a line that limits nothing", "laptop = ", [/the line of laptop limits nothing/]],
    [
      "a limit twice",
      "laptop = 1/day, 2/day",
      ["CLIENT_LIMITS: the line of laptop has a limit of requests a day twice. Write one of both."],
    ],
    ["models twice", "laptop = models a, models b", [/has models twice/]],
    [
      "an unknown unit",
      "laptop = 5/hour",
      [/has 5\/hour, but requests are counted by the minute and the day/],
    ],
    ["tokens by the minute", "laptop = 5k tokens/min", [/but tokens are counted by the day/]],
    ["tokens by the month", "laptop = 5k tokens/month", [/but tokens are counted by the day/]],
    ["none at all", "laptop = 0/day", [/has 0\/day, but it has to be a whole number from 1 up/]],
    ["a fraction", "laptop = 1.5/day", [/whole number from 1 up/]],
    ["less than none", "laptop = -1/day", [/which is no limit/]],
    ["more a minute than is remembered", "laptop = 1M/min", [/whole number from 1 to 100000/]],
    ["more than can be counted", "laptop = 99999999999G tokens/day", [/whole number from 1 up/]],
    ["a number in groups", "laptop = 2,000/day", [/has 2, which is no limit/]],
    [
      "models with a comma between",
      "laptop = models a, b",
      [/has b, which is no limit\..* with \| between two models/],
    ],
    ["models with a blank between", "laptop = models a b", [/holds white space/]],
    ["models with nothing between", "laptop = models a||b", [/nothing before or after a \|/]],
    ["no models", "laptop = models", [/names no model/]],
    ["a model that is too long", `laptop = models ${"a".repeat(201)}`, [/more than 200 characters/]],
    [
      "several mistakes, all of them",
      "tablet = 0/day, what; laptop = 1/day, 1/day; 5/min",
      [/client tablet/, /0\/day/, /what/, /twice/, /line 3 names no client/],
    ],
  ];
  test.each(mistakes)("refuses %s", (_, text, expected) => {
    const { problems } = parseClientLimits(text, CLIENTS);
    const lines = expected.map((line) => (typeof line === "string" ? line : expect.stringMatching(line)));
    expect(problems.slice(0, lines.length)).toEqual(lines);
    for (const problem of problems) expect(problem).toMatch(/^CLIENT_LIMITS.*[.?]$/s);
  });

  test("says that no client has a name, where none has", () => {
    const { problems } = parseClientLimits("laptop = 1/day; * = 1/day", new Set());
    expect(problems).toEqual([
      "CLIENT_LIMITS names the client laptop, of which there is no key: no key in PROXY_API_KEY has a name. Write name=key there, or use * for every client.",
    ]);
  });
});
