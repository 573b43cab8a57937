import { describe, expect, test } from "bun:test";
import { parseFallback, parseRoutes, type RouteTarget } from "./routes.ts";

const PROVIDERS = [
  { name: "default", disabled: false },
  { name: "groq", disabled: false },
  { name: "openrouter", disabled: false },
  { name: "old", disabled: true },
];

/** As they would be written again. */
function written(targets: readonly RouteTarget[]): string {
  return targets
    .map(({ provider, model }) => (model === null ? provider : `${provider}/${model}`))
    .join(" > ");
}

describe("a route", () => {
  const table: [says: string, text: string, routes: [name: string, chain: string][]][] = [
    ["is a name and a target", "fast = groq/llama-3", [["fast", "groq/llama-3"]]],
    ["is a name and a chain", "a=groq/x>default/y", [["a", "groq/x > default/y"]]],
    [
      "may be one of several",
      "a = groq/x; b = default/y;",
      [
        ["a", "groq/x"],
        ["b", "default/y"],
      ],
    ],
    [
      "may lead to a model with slashes and colons",
      "a = openrouter/meta-llama/llama-3:free > default/@cf/x",
      [["a", "openrouter/meta-llama/llama-3:free > default/@cf/x"]],
    ],
    [
      "may be spread over lines",
      "\n\ta\n=\r\n groq / x\n  >\n default/y\n;\n",
      [["a", "groq/x > default/y"]],
    ],
    ["may have a name with slashes", "openai/gpt-4o = groq/x", [["openai/gpt-4o", "groq/x"]]],
    ["may lead to a model with an equals sign", "a = groq/x=y", [["a", "groq/x=y"]]],
    ["may name a provider in capitals, and never a model in others", "A = GROQ/Xy", [["A", "groq/Xy"]]],
    ["may be a pattern", "claude-* = groq/x", [["claude-*", "groq/x"]]],
    [
      "may keep the model of the client",
      "claude-* = groq/* > openrouter/y",
      [["claude-*", "groq > openrouter/y"]],
    ],
    [
      "stands before all patterns, and a longer pattern before a shorter one",
      "* = groq/a; gpt-* = groq/b; gpt-4*-mini = groq/c; gpt-4 = groq/d",
      [
        ["gpt-4", "groq/d"],
        ["gpt-4*-mini", "groq/c"],
        ["gpt-*", "groq/b"],
        ["*", "groq/a"],
      ],
    ],
    [
      "stands where it was written among patterns of the same length",
      "b-* = groq/x; a-* = groq/y",
      [
        ["b-*", "groq/x"],
        ["a-*", "groq/y"],
      ],
    ],
    [
      "is told apart by its case",
      "A = groq/x; a = groq/y",
      [
        ["A", "groq/x"],
        ["a", "groq/y"],
      ],
    ],
  ];
  test.each(table)("%s", (_, text, routes) => {
    const list = parseRoutes(text, PROVIDERS);
    expect(list.routes.map(({ name, targets }) => [name, written(targets)])).toEqual(routes);
    expect([list.problems, list.warnings]).toEqual([[], []]);
  });

  const faults: [says: string, text: string, problem: string][] = [
    [
      "no name",
      "groq/x",
      "ROUTES: route 1 has no name. Write name = provider/model, and ; between two routes.",
    ],
    ["an empty name", "a = groq/x; = groq/y", "ROUTES: route 2 has no name."],
    ["the same pattern twice", "a-* = groq/x; a-* = groq/y", "ROUTES: the route a-* stands there twice."],
    [
      "a pattern for a target's model",
      "a-* = groq/llama-*",
      "ROUTES: the route a-* has the target groq/llama-*, whose model is a pattern.",
    ],
    [
      "a name of two words",
      "a b = groq/x",
      "ROUTES: route 1 has a name that holds white space, a comma or a >.",
    ],
    ["a name that no request can have", `${"x".repeat(201)} = groq/x`, "route 1 has a name of more than 200"],
    ["no target", "a = ", "ROUTES: the route a leads nowhere. Write provider/model after it, or remove it."],
    ["the same name", "a = groq/x; a = groq/y", "ROUTES: the route a stands there twice."],
    ["a hole in its chain", "a = groq/x > > groq/y", "ROUTES: the route a has nothing before or after a >."],
    ["an open end", "a = groq/x >", "ROUTES: the route a has nothing before or after a >."],
    [
      "a provider that is none",
      "a = opnrouter/x",
      "ROUTES: the route a names the provider opnrouter, of which there are no keys. Use default, groq, openrouter or old, or set X_API_KEYS for a provider x.",
    ],
    ["no provider", "a = /x", "ROUTES: the route a has the target /x without a provider."],
    ["no model behind a slash", "a = groq/", "ROUTES: the route a has the target groq/ without a model."],
    [
      "no model at all",
      "a = groq",
      "ROUTES: the route a leads to groq without a model. Write groq/model, or groq/* for",
    ],
    [
      "a comma for a >",
      "a = groq/x,groq/y",
      "ROUTES: the route a has the target groq/x,groq/y, in which there is",
    ],
    [
      "a line for a ;",
      "a = groq/x\nb = groq/y",
      'ROUTES: the route a has the target "groq/x\\nb = groq/y", in',
    ],
    ["nothing at all", " ; ", "ROUTES holds no route. Write one, or remove the setting."],
    [
      "a key for a provider, which is not shown",
      "a = nvapi-canary0123456789/x",
      "names the provider [hidden: it looks like a key]",
    ],
  ];
  test.each(faults)("is refused for %s", (_, text, problem) => {
    const { problems } = parseRoutes(text, PROVIDERS);
    expect(problems).toEqual([expect.stringContaining(problem)]);
    expect(problems.join()).not.toContain("canary");
  });

  test("has all its mistakes told at once", () => {
    const { problems } = parseRoutes("a = x/y > ; b c = groq/x; groq/x; d = groq", PROVIDERS);
    expect(problems.map((line) => line.slice(0, 24))).toEqual([
      "ROUTES: the route a name",
      "ROUTES: the route a has ",
      "ROUTES: route 2 has a na",
      "ROUTES: route 3 has no n",
      "ROUTES: the route d lead",
    ]);
  });

  test("that leads to a provider which is switched off gets a warning", () => {
    const { routes, warnings } = parseRoutes("a = old/x > groq/y", PROVIDERS);
    expect(routes[0]?.targets).toHaveLength(2);
    expect(warnings).toEqual([
      "ROUTES: the route a leads to old, which is switched off: that target is skipped.",
    ]);
  });
});

describe("a fallback", () => {
  const table: [says: string, text: string, chain: string][] = [
    ["is a target", "groq/llama", "groq/llama"],
    ["is a chain", "groq/llama > openrouter/a/b:c", "groq/llama > openrouter/a/b:c"],
    ["may keep the client's model", "groq > openrouter", "groq > openrouter"],
    ["may be another model of the default provider", "default/small", "default/small"],
  ];
  test.each(table)("%s", (_, text, chain) => {
    const list = parseFallback(text, PROVIDERS);
    expect([written(list.targets), list.problems, list.warnings]).toEqual([chain, [], []]);
  });

  const faults: [says: string, text: string, problem: string][] = [
    ["a provider that is none", "groq > x/y", "FALLBACK names the provider x, of which there are no keys."],
    ["an open end", "groq >", "FALLBACK has nothing before or after a >."],
    ["a space for a >", "groq openrouter", 'FALLBACK has the target "groq openrouter", in which there is'],
  ];
  test.each(faults)("is refused for %s", (_, text, problem) => {
    expect(parseFallback(text, PROVIDERS).problems).toEqual([expect.stringContaining(problem)]);
  });

  test("that leads to where the request was gets a warning", () => {
    expect(parseFallback("groq > default", PROVIDERS).warnings).toEqual([
      expect.stringContaining("FALLBACK leads back to the default provider with the same model"),
    ]);
  });

  test("finds a default provider that has a name of its own under both", () => {
    const { targets } = parseFallback("default/x > groq/y", [{ name: "groq", disabled: false }]);
    expect(written(targets)).toBe("groq/x > groq/y");
  });
});
