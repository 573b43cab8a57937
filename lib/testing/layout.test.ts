import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { Secret } from "../core/secret.ts";

const ROOT = join(import.meta.dir, "..", "..");
const ENTRY = "proxy.ts";
/** The folders of `lib/`, from the lowest to the highest. A folder on one line may import only those before it. */
const LAYERS = [
  ["core"],
  ["providers"],
  ["config"],
  ["http"],
  ["pool"],
  ["sharing"],
  ["observability"],
  ["routing"],
  ["admin"],
  ["cli"],
  ["library"],
];
const FOLDERS = LAYERS.flat();
const TESTING = "lib/testing/";
const isTest = (path: string) => path.endsWith(".test.ts");

/** Every source file of the program and its tests, by its path from the top. */
const SOURCES = new Map(
  ["*.ts", "lib/**/*.ts"]
    .flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: ROOT })])
    .sort()
    .map((path) => [path, readFileSync(join(ROOT, path), "utf8")]),
);
/** The sources of the program itself in `lib/`. */
const MODULES = [...SOURCES.keys()].filter(
  (path) => path.startsWith("lib/") && !isTest(path) && !path.startsWith(TESTING),
);
/** `core` of `lib/core/clock.ts`. */
const folderOf = (path: string) => path.split("/")[1] ?? "";

/** What `#runtime` stands for, here and in the npm package. */
const RUNTIMES = ["lib/core/runtime-bun.ts", "lib/core/runtime-node.ts"];
/** Sources that only the npm package is built of: the executable has no byte of them. */
const isOfPackage = (path: string) => path === RUNTIMES[1] || path.startsWith("lib/library/");

/** What a file imports of ours, types included: a type that points upwards is an arrow that points upwards. */
function importsOf(path: string): string[] {
  const source = SOURCES.get(path) ?? "";
  const specifiers = [...source.matchAll(/\b(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map(
    ([, specifier]) => specifier,
  );
  const relative = specifiers.map((specifier) => normalize(join(dirname(path), specifier ?? "")));
  return source.includes('from "#runtime"') ? [...relative, ...RUNTIMES] : relative;
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
  return [ENTRY, ...MODULES].flatMap((path) => linesWith(pattern, path));
}

describe("the layout", () => {
  test("is where the rules below look for it", () => {
    expect(SOURCES.has(ENTRY)).toBe(true);
    expect(MODULES).toContain("lib/http/client-auth.ts");
    expect(importsOf(ENTRY)).toContain("lib/http/client-auth.ts");
    expect(importsOf("lib/http/client-auth.ts")).toContain("lib/core/secret.ts");
    expect([...new Set(MODULES.map(folderOf))].sort()).toEqual([...FOLDERS].sort());
    expect(places(/reveal\(/).length).toBeGreaterThan(0);
  });

  test("imports only files that are there, and nothing from outside but Bun and Node", () => {
    const missing = [...SOURCES.keys()].flatMap((path) =>
      importsOf(path)
        .filter((imported) => imported.endsWith(".ts") && !SOURCES.has(imported))
        .map((imported) => `${path} imports ${imported}`),
    );
    expect(missing).toEqual([]);
    const outside = [ENTRY, ...MODULES].flatMap((path) =>
      [...withoutComments(SOURCES.get(path) ?? "").matchAll(/\b(?:from|import)\s*\(?\s*"([^."][^"]*)"/g)]
        .map(([, specifier = ""]) => specifier)
        .filter((specifier) => !/^(?:node|bun):|^#runtime$/.test(specifier))
        .map((specifier) => `${path} imports ${specifier}`),
    );
    expect(outside).toEqual([]);
  });

  // In the executable all is one module, and what any part of it imports from the runtime is loaded at the start.
  test("loads what the runtime brings along only where it is needed", () => {
    const program = [ENTRY, ...MODULES].filter((path) => !isOfPackage(path));
    const atStart = /^import (?!type\b).*"(?:node|bun):|^\} from "(?:node|bun):/;
    expect(program.flatMap((path) => linesWith(atStart, path))).toEqual([]);
  });

  // The npm package runs on Node 20: lib/core/language.ts has what it lacks.
  test("uses nothing newer than Node 20 in what the npm package is built of", () => {
    const newer =
      /Promise\.(?:withResolvers|try)|(?:Map|Object)\.groupBy|URL\.parse|fromAsync|RegExp\.escape|Error\.isError|\.(?:toBase64|toHex)\(/;
    const ofPackage = MODULES.filter((path) => !/^lib\/(?:admin|cli|observability|sharing)\//.test(path));
    expect(ofPackage.flatMap((path) => linesWith(newer, path))).toEqual([]);
    expect(places(/\bdeferred</).length).toBeGreaterThan(3);
  });

  test("knows which runtime it runs on only where that is to be known", () => {
    const inner = /^lib\/(?:core|providers|config|http|pool|routing)\//;
    const found = MODULES.filter((path) => inner.test(path)).flatMap((path) => linesWith(/\bBun\./, path));
    const allowed = [
      /^lib\/core\/runtime-bun\.ts: /,
      /^lib\/http\/connections\.ts: .*Bun\.FetchSession/,
      /^lib\/http\/body\.ts: .* as Bun\.Encoding/, // a type
      /^lib\/config\/(?:config|reload)\.ts: .*Bun\.file/, // the files of the settings, which the package has none of
    ];
    // Of these only the searches work on bytes that are no Buffer, wherever it runs.
    const native = MODULES.flatMap((path) => linesWith(/Buffer\.prototype\.(?!(?:lastI|i)ndexOf)/, path));
    expect(native.filter((place) => !place.startsWith("lib/core/runtime-bun.ts: "))).toEqual([]);
    expect(found.filter((place) => !allowed.some((rule) => rule.test(place)))).toEqual([]);
    for (const rule of allowed) expect(found.filter((place) => rule.test(place)).length).toBeGreaterThan(0);
  });

  test("is entered through proxy.ts, which nothing imports but tests and what only tests use", () => {
    const importers = [...SOURCES.keys()].filter((path) => importsOf(path).includes(ENTRY));
    expect(importers.filter((path) => !path.startsWith(TESTING) && !isTest(path))).toEqual([]);
    expect(importers).toContain("lib/testing/fixture.ts");
  });

  test("keeps tests apart: the program imports no test and nothing of lib/testing", () => {
    const wrong = [ENTRY, ...MODULES].filter((path) =>
      importsOf(path).some((to) => isTest(to) || to.startsWith(TESTING)),
    );
    expect(wrong).toEqual([]);
  });

  test("has one direction: a file imports its own folder or folders below it", () => {
    const levelOf = (path: string) => LAYERS.findIndex((layer) => layer.includes(folderOf(path)));
    const wrong = MODULES.flatMap((path) =>
      importsOf(path)
        .filter((to) => to.startsWith("lib/") && folderOf(to) !== folderOf(path))
        .filter((to) => levelOf(to) >= levelOf(path))
        .map((to) => `${path} imports ${to}`),
    );
    expect(wrong).toEqual([]);
  });

  test("is described: lib/README.md names every file", () => {
    const map = readFileSync(join(ROOT, "lib", "README.md"), "utf8");
    const sections = new Map(
      [...map.matchAll(/\*\*`(\w+)\/`\*\*([\s\S]*?)(?=\n\*\*`|\n## )/g)].map(([, folder, text]) => [
        folder,
        text,
      ]),
    );
    const missing = MODULES.filter(
      (path) => !sections.get(folderOf(path))?.includes(`\`${path.split("/").at(-1)}\``),
    );
    expect(missing.filter((path) => !path.endsWith(".d.ts"))).toEqual([]);
    const names = [...map.matchAll(/`((?:[\w-]+\/)?[\w-]+\.ts)`/g)].map(([, name]) => name ?? "");
    const known = [...SOURCES.keys()];
    expect(
      names.filter(
        (name) =>
          !known.some((path) => path === name || path.endsWith(`/${name}`)) && !name.startsWith("bench/"),
      ),
    ).toEqual([]);
  });

  test("has no circle of imports", () => {
    const below = new Map<string, "open" | "done">();
    const circles: string[] = [];
    const visit = (path: string, way: string[]) => {
      if (below.get(path) === "open") circles.push([...way.slice(way.indexOf(path)), path].join(" > "));
      if (below.has(path)) return;
      below.set(path, "open");
      for (const next of importsOf(path)) visit(next, [...way, path]);
      below.set(path, "done");
    };
    for (const path of MODULES) visit(path, []);
    expect(circles).toEqual([]);
  });

  test("has no file that nothing imports", () => {
    const imported = new Set([ENTRY, ...MODULES].flatMap(importsOf));
    const code = MODULES.filter((path) => !path.endsWith(".d.ts")); // those are for the compiler alone
    expect(code.filter((path) => !imported.has(path))).toEqual([]);
  });

  const shell: [what: string, pattern: RegExp, allowed: RegExp[]][] = [
    [
      "the time",
      /Date\.now|new Date\(\)|performance\.now|Bun\.nanoseconds/,
      [
        /^lib\/core\/clock\.ts: now: \(\) => Math\.floor\(startedAt \+ performance\.now\(\)\),$/,
        /^lib\/core\/clock\.ts: wall: \(\) => Date\.now\(\),$/,
      ],
    ],
    [
      "chance",
      /Math\.random|crypto\.random|getRandomValues|randomUUID|randomBytes/,
      [/^proxy\.ts: .*\brandom: Math\.random\b/, /^proxy\.ts: const newToken = .*crypto\.getRandomValues/],
    ],
    [
      "a timer",
      /\bset(?:Timeout|Interval|Immediate)\b|Bun\.sleep|AbortSignal\.timeout/,
      [/^lib\/core\/clock\.ts: (?:const timer = setTimeout|return new Promise\(\(resolve\) => setTimeout)\(/],
    ],
    [
      "the environment",
      /process\.env|Bun\.env|import\.meta\.env|\/proc\/self\/environ/,
      [/^lib\/cli\/startup\.ts: /],
    ],
    [
      "the command line and the exit",
      /process\.(?:argv|exit|on\b|execve)/,
      [/^proxy\.ts: /, /^lib\/cli\/(?:startup|terminal)\.ts: /],
    ],
    [
      "the terminal",
      /console\.|process\.std(?:out|err|in)/,
      [/^proxy\.ts: /, /^lib\/(?:cli\/serve|cli\/startup|cli\/terminal|observability\/log)\.ts: /],
    ],
    [
      "a file's text",
      /readFileSync|Bun\.file\(|node:fs/,
      [
        /^lib\/(?:cli\/descriptors|cli\/startup|config\/config|config\/reload|admin\/env-edit)\.ts: /,
        /^lib\/observability\/(?:log|log-files|metrics|store)\.ts: /,
        /^lib\/library\/state\.ts: /,
      ],
    ],
  ];
  test.each(shell)("asks for %s only where the shell lives", (_, pattern, allowed) => {
    const found = places(pattern);
    expect(found.length).toBeGreaterThan(0);
    expect(found.filter((place) => !allowed.some((rule) => rule.test(place)))).toEqual([]);
  });

  test("asks for the environment in one function", () => {
    const source = withoutComments(SOURCES.get("lib/cli/startup.ts") ?? "");
    const body = /\n(?:export )?(?:async )?function givenEnvironment\([\s\S]*?\n}\n/.exec(source)?.[0] ?? "";
    const rest = source.replace(body, "");
    expect(body).toContain("process.env");
    expect(rest).not.toMatch(/process\.env|\/proc\/self\/environ/);
  });

  // A key is revealed to be put on an upstream request, to compare a login, and to be found and cut out. Whoever
  // adds a line here has read where it goes.
  test("reveals a secret only to send it upstream, to compare a login and to redact it", () => {
    const revealed = places(/\breveal\b/).filter(
      (place) => !place.startsWith("lib/core/secret.ts: reveal(): string"),
    );
    const uses = [
      /^proxy\.ts: .*authHeader\(/,
      /^lib\/http\/client-auth\.ts: .*equalInConstantTime\(/,
      /^lib\/core\/secret\.ts: .*formsOf\(/,
      /^lib\/pool\/key-health\.ts: .*authHeader\(/,
      /^lib\/routing\/all-models\.ts: .*authHeader\(/,
      /^lib\/admin\/auth\.ts: .*equalInConstantTime\(/,
      // The address of a proxy, which may hold a password, on its way into a connection.
      /^(?:proxy|lib\/http\/connections|lib\/pool\/key-health|lib\/routing\/all-models)\.ts: .*address\.reveal\(\)/,
      /^lib\/observability\/webhook\.ts: .*webhookRequest\(new URL\(/,
      // The address of the server of STATE, on its way into a connection; and a key on its way into a hash.
      /^lib\/sharing\/connection\.ts: .*new Bun\.RedisClient\(/,
      /^lib\/sharing\/diagnosis\.ts: const address = new URL\(/,
      /^lib\/sharing\/shared-pool\.ts: .*hashed\(/,
      /^lib\/cli\/admin-client\.ts: .*Bearer/,
      // A key that is new, on its way into the file where keys stand.
      /^lib\/cli\/key-commands\.ts: return keys\.map\(\(key\) => key\.reveal\(\)\)/,
      /^lib\/admin\/env-edit\.ts: return before \+ secret\.reveal\(\) \+ behind;/,
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
    const tests = [...SOURCES.keys()].filter((path) => isTest(path) && path !== "lib/testing/layout.test.ts");
    expect(
      tests.flatMap((path) => linesWith(/\b(?:test|describe|it)\.(?:skip|only|todo|failing)\b/, path)),
    ).toEqual([]);
  });
});
