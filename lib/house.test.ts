import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { Secret } from "./secret.ts";

const ROOT = join(import.meta.dir, "..");
const ENTRY = "proxy.ts";
const FIXTURE = "lib/fixture.ts";
const isTest = (path: string) => path.endsWith(".test.ts");

/** Every source file of the program and its tests, by its path from the top. */
const SOURCES = new Map(
  [...readdirSync(ROOT), ...readdirSync(join(ROOT, "lib")).map((name) => `lib/${name}`)]
    .filter((path) => path.endsWith(".ts"))
    .map((path) => [path, readFileSync(join(ROOT, path), "utf8")]),
);
const ROOMS = [...SOURCES.keys()].filter(
  (path) => path.startsWith("lib/") && !isTest(path) && path !== FIXTURE,
);

/** What a file imports of ours, types included: a type that points upwards is an arrow that points upwards. */
function importsOf(path: string): string[] {
  const source = SOURCES.get(path) ?? "";
  const specifiers = [...source.matchAll(/\b(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map(
    ([, specifier]) => specifier,
  );
  return specifiers.map((specifier) => normalize(join(dirname(path), specifier ?? "")));
}

/** The lines of a file that say `pattern`, comments left aside, as `path: line`. */
function linesWith(pattern: RegExp, path: string): string[] {
  return withoutComments(SOURCES.get(path) ?? "")
    .split("\n")
    .filter((line) => pattern.test(line))
    .map((line) => `${path}: ${line.trim()}`);
}

function withoutComments(source: string): string {
  return source.replace(/\/\*[\s\S]*?\*\//g, "").replace(/(^|\s)\/\/.*$/gm, "$1");
}

/** Where in the program (not in tests) a thing is done. */
function places(pattern: RegExp): string[] {
  return [ENTRY, ...ROOMS].flatMap((path) => linesWith(pattern, path));
}

describe("the house", () => {
  test("has its entry and its rooms, or the rules below would watch over nothing", () => {
    expect(SOURCES.has(ENTRY)).toBe(true);
    expect(ROOMS).toContain("lib/door.ts");
    expect(importsOf(ENTRY)).toContain("lib/door.ts");
    expect(importsOf("lib/door.ts")).toContain("lib/secret.ts");
    expect(places(/reveal\(/).length).toBeGreaterThan(0);
  });

  test("imports only files that are there, and nothing from outside but Bun and Node", () => {
    const missing = [...SOURCES.keys()].flatMap((path) =>
      importsOf(path)
        .filter((imported) => imported.endsWith(".ts") && !SOURCES.has(imported))
        .map((imported) => `${path} imports ${imported}`),
    );
    expect(missing).toEqual([]);
    const outside = [ENTRY, ...ROOMS].flatMap((path) =>
      [...withoutComments(SOURCES.get(path) ?? "").matchAll(/\b(?:from|import)\s*\(?\s*"([^."][^"]*)"/g)]
        .map(([, specifier = ""]) => specifier)
        .filter((specifier) => !/^(?:node|bun):/.test(specifier))
        .map((specifier) => `${path} imports ${specifier}`),
    );
    expect(outside).toEqual([]);
  });

  // In the executable all is one module, and what any part of it imports from the runtime is loaded at the start.
  test("loads what the runtime brings along only where it is needed", () => {
    expect(places(/^import (?!type\b).*"(?:node|bun):|^\} from "(?:node|bun):/)).toEqual([]);
  });

  test("is entered from below: nothing imports proxy.ts but tests and their fixture", () => {
    const importers = [...SOURCES.keys()].filter((path) => importsOf(path).includes(ENTRY));
    expect(importers.filter((path) => path !== FIXTURE && !isTest(path))).toEqual([]);
    expect(importers).toContain(FIXTURE);
  });

  test("keeps its tests to themselves: no room imports a test or the fixture", () => {
    const wrong = [ENTRY, ...ROOMS].filter((path) =>
      importsOf(path).some((to) => isTest(to) || to === FIXTURE),
    );
    expect(wrong).toEqual([]);
  });

  test("has one direction: a room imports only rooms below it", () => {
    const below = new Map<string, "open" | "done">();
    const cycles: string[] = [];
    const visit = (path: string, road: string[]) => {
      if (below.get(path) === "open") cycles.push([...road.slice(road.indexOf(path)), path].join(" > "));
      if (below.has(path)) return;
      below.set(path, "open");
      for (const next of importsOf(path)) visit(next, [...road, path]);
      below.set(path, "done");
    };
    for (const room of ROOMS) visit(room, []);
    expect(cycles).toEqual([]);
  });

  test("has no room that nobody enters", () => {
    const entered = new Set([ENTRY, ...ROOMS].flatMap(importsOf));
    expect(ROOMS.filter((room) => !entered.has(room))).toEqual([]);
  });

  const shell: [what: string, pattern: RegExp, allowed: RegExp[]][] = [
    [
      "the time",
      /Date\.now|new Date\(\)|performance\.now|Bun\.nanoseconds/,
      [/^lib\/clock\.ts: now: \(\) => Date\.now\(\),$/],
    ],
    [
      "chance",
      /Math\.random|crypto\.random|getRandomValues|randomUUID|randomBytes/,
      [/^proxy\.ts: .*\brandom: Math\.random\b/, /^proxy\.ts: const newToken = .*crypto\.getRandomValues/],
    ],
    [
      "a timer",
      /\bset(?:Timeout|Interval|Immediate)\b|Bun\.sleep|AbortSignal\.timeout/,
      [/^lib\/clock\.ts: (?:const timer = setTimeout|return new Promise\(\(resolve\) => setTimeout)\(/],
    ],
    [
      "the environment",
      /process\.env|Bun\.env|import\.meta\.env|\/proc\/self\/environ/,
      [/^lib\/process\.ts: /],
    ],
    [
      "the command line and the exit",
      /process\.(?:argv|exit|on\b|execve)/,
      [/^proxy\.ts: /, /^lib\/(?:process|signals|terminal)\.ts: /],
    ],
    [
      "the terminal",
      /console\.|process\.std(?:out|err|in)/,
      [/^proxy\.ts: /, /^lib\/(?:process|terminal|output)\.ts: /],
    ],
    [
      "a file's text",
      /readFileSync|Bun\.file\(|node:fs/,
      [/^lib\/(?:process|config|filewatch|output|logfiles|vitals|envedit|store)\.ts: /],
    ],
  ];
  test.each(shell)("asks for %s only where the shell lives", (_, pattern, allowed) => {
    const found = places(pattern);
    expect(found.length).toBeGreaterThan(0);
    expect(found.filter((place) => !allowed.some((rule) => rule.test(place)))).toEqual([]);
  });

  test("asks for the environment in one function", () => {
    const source = withoutComments(SOURCES.get("lib/process.ts") ?? "");
    const body = /\n(?:export )?(?:async )?function givenEnvironment\([\s\S]*?\n}\n/.exec(source)?.[0] ?? "";
    const rest = source.replace(body, "");
    expect(body).toContain("process.env");
    expect(rest).not.toMatch(/process\.env|\/proc\/self\/environ/);
  });

  // A key is revealed to be put on an upstream request, to compare a login, and to be found and cut out. Whoever
  // adds a line here has read where it goes.
  test("reveals a secret only to send it upstream, to compare a login and to redact it", () => {
    const revealed = places(/\breveal\b/).filter(
      (place) => !place.startsWith("lib/secret.ts: reveal(): string"),
    );
    const uses = [
      /^proxy\.ts: .*authHeader\(/,
      /^lib\/door\.ts: .*equalInConstantTime\(/,
      /^lib\/secret\.ts: .*formsOf\(/,
      /^lib\/checking\.ts: .*authHeader\(/,
      /^lib\/login\.ts: .*equalInConstantTime\(/,
      /^lib\/notify\.ts: .*webhookRequest\(new URL\(/,
      /^lib\/operator\.ts: .*Bearer/,
      // A key that is new, on its way into the file where keys stand.
      /^lib\/commands\.ts: return \[\{ text: key\.reveal\(\)/,
      /^lib\/operate\.ts: return before \+ secret\.reveal\(\) \+ behind;/,
    ];
    expect(revealed.filter((place) => !uses.some((use) => use.test(place)))).toEqual([]);
    for (const use of uses) expect(revealed.filter((place) => use.test(place)).length).toBeGreaterThan(0);
  });

  test("never shows a secret in a template, in JSON or in Bun.inspect", () => {
    const key = ["sk", "canary", "0123456789"].join("-"); // an error shows the lines around it: not so
    const secret = new Secret(key);
    const holder = {
      key: secret,
      keys: [secret],
      named: new Map([["x", secret]]),
      error: new Error("x", { cause: secret }),
    };
    const shown = [
      `${secret}`,
      `${holder.keys}`,
      JSON.stringify(holder),
      Bun.inspect(holder, { depth: 9 }),
      Bun.inspect(secret),
    ];
    expect(shown.filter((text) => text.includes(key))).toEqual([]);
    expect(shown.filter((text) => !text.includes("[secret "))).toEqual([]);
  });

  test("has no test that is skipped, alone, or left for later", () => {
    const tests = [...SOURCES.keys()].filter((path) => isTest(path) && path !== "lib/house.test.ts");
    expect(
      tests.flatMap((path) => linesWith(/\b(?:test|describe|it)\.(?:skip|only|todo|failing)\b/, path)),
    ).toEqual([]);
  });
});
