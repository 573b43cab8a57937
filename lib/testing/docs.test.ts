import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

const ROOT = join(import.meta.dir, "..", "..");
const read = (path: string) => readFileSync(join(ROOT, path), "utf8");
const PAGES = ["*.md", "docs/*.md", ".github/*.md", "lib/*.md"]
  .flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: ROOT, dot: true })])
  .sort();
const withoutSpace = (text: string) => text.replace(/\s+/g, "");

/** The text of a page without its code blocks. */
const proseOf = (page: string) => read(page).replace(/^ *```[\s\S]*?^ *```$/gm, "");

/** `503 \`all_keys_cooling\`` as the end of a link: `503-all_keys_cooling`. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .trim()
    .replace(/\s/g, "-");
}

const anchorsOf = (page: string) =>
  new Set([...proseOf(page).matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) => anchorOf(heading)));

/** What is wrong with a link of a page; null: nothing. */
function faultOfLink(page: string, link: string): string | null {
  const [path = "", anchor] = link.split("#");
  const target = path === "" ? page : normalize(join(dirname(page), path));
  if (!existsSync(join(ROOT, target))) return `${page}: ${link} is not there`;
  return anchor === undefined || anchorsOf(target).has(anchor)
    ? null
    : `${page}: ${link} has no such heading`;
}

describe("the pages", () => {
  test("are found", () => {
    expect(PAGES).toContain("README.md");
    expect(PAGES).toContain("docs/settings.md");
  });

  test("lead only to files and headings that are there", () => {
    const faults = PAGES.flatMap((page) =>
      [...proseOf(page).matchAll(/\]\(([^)\s]+)\)/g)]
        .map(([, link = ""]) => link)
        .filter((link) => !/^[a-z]+:/.test(link))
        .map((link) => faultOfLink(page, link)),
    ).filter((fault) => fault !== null);
    expect(faults).toEqual([]);
  });

  test("are all reached from the README", () => {
    const reached = new Set(["README.md"]);
    for (const page of reached) {
      for (const [, link = ""] of proseOf(page).matchAll(/\]\(([^)\s#]+\.md)[^)]*\)/g)) {
        if (!/^[a-z]+:/.test(link)) reached.add(normalize(join(dirname(page), link)));
      }
    }
    expect(PAGES.filter((page) => !reached.has(page))).toEqual([]);
  });

  test("name only files of this repository that there are", () => {
    const faults = PAGES.filter((page) => page !== "lib/README.md").flatMap((page) =>
      [...proseOf(page).matchAll(/`((?:lib|bench|deploy|docs|\.github|\.ci)\/[\w./-]+)`/g)]
        .map(([, path = ""]) => path)
        .filter((path) => !existsSync(join(ROOT, path)))
        .map((path) => `${page}: ${path}`),
    );
    expect(faults).toEqual([]);
  });

  test("name only settings that there are", async () => {
    const { PROVIDER_SETTINGS, SETTINGS } = await import("../config/settings.ts");
    const known = new Set([...Object.keys(SETTINGS), ...OTHER_VARIABLES]);
    const ofProviders = PROVIDER_SETTINGS.map((setting) => `_${setting}`);
    const unknown = PAGES.filter((page) => page.startsWith("docs/") || page === "README.md").flatMap((page) =>
      [...read(page).matchAll(/(?<![\w/$-])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?![\w/])/g)]
        .map(([, name = ""]) => name)
        .filter((name) => !known.has(name) && !ofProviders.some((end) => name.endsWith(end)))
        .map((name) => `${page}: ${name}`),
    );
    expect(unknown).toEqual([]);
  });
});

/** Variables of other programs, and of our scripts. */
const OTHER_VARIABLES = [
  ...["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "STATE_DIRECTORY", "NO_COLOR"],
  ...["RELEASE_URL", "KEYWHEEL_URL", "KEYWHEEL_IMAGE", "KEYWHEEL_KEY", "BASE_URL"],
  ...["OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_API_BASE_URL", "OPENAI_HOST"],
  ...["OPENAI_BASE_PATH", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"],
  ...["GOOSE_PROVIDER", "GOOSE_MODEL", "KEYWHEEL_API_KEY"],
];

describe("README.md", () => {
  const text = read("README.md");

  test("is short", () => {
    expect(text.split(/\s+/).length).toBeLessThanOrEqual(1200);
  });

  test("shows on its first screen a picture, and how to try, test and install it", () => {
    const screen = text.split("\n").slice(0, 30).join("\n");
    for (const part of [
      "docs/dashboard.png",
      "npx -y bun@1.4.5 run demo",
      "npx -y bun@1.4.5 run test",
      "install.sh",
    ]) {
      expect(screen).toContain(part);
    }
  });

  test("has settings that start", async () => {
    const { parseConfig } = await import("../config/config.ts");
    const { parseEnvFile } = await import("../config/env-file.ts");
    const [, settings = ""] = /```sh\n(API_KEYS=[\s\S]*?)```/.exec(text) ?? [];
    expect(parseConfig({}, parseEnvFile(settings).values)).toMatchObject({ ok: true, warnings: [] });
  });
});

describe("docs/recipes.md", () => {
  /** Blocks of settings, by their first line. Placeholders become something that could be a key. */
  const blocks = [...read("docs/recipes.md").matchAll(/```sh\n([A-Z_]+=[\s\S]*?)```/g)].map(
    ([, block = ""]): [string, string] => [
      block.split("\n")[0] ?? "",
      block.replaceAll("...", "a1b2c3d4e5f6"),
    ],
  );

  test("has some blocks of settings", () => {
    expect(blocks.length).toBeGreaterThan(3);
  });

  test.each(blocks)("has settings that start: %s", async (_first, block) => {
    const { parseConfig } = await import("../config/config.ts");
    const { parseEnvFile } = await import("../config/env-file.ts");
    const { values } = parseEnvFile(block);
    const keys = values.has("API_KEYS") ? {} : { API_KEYS: "nvapi-first" };
    expect(parseConfig(keys, values)).toMatchObject({ ok: true, warnings: [] });
  });
});

describe("docs/troubleshooting.md", () => {
  const text = read("docs/troubleshooting.md");
  const headings = [...text.matchAll(/^## (.+)$/gm)].map(([, heading = ""]) => heading);
  const source = read("lib/http/error-responses.ts");
  const types = [...(/type ProxyErrorType =([\s\S]*?);/.exec(source)?.[1] ?? "").matchAll(/"(\w+)"/g)].map(
    ([, type = ""]) => type,
  );
  /** Only the dashboard and scripts of the operator meet them, at /admin. */
  const OF_THE_ADMIN = [
    ...["conflict", "invalid_configuration", "invalid_value", "key_refused", "method_not_allowed"],
    ...["not_writable", "sign_in_required", "too_many_attempts", "unsupported_media_type", "wrong_password"],
  ];

  test("finds the errors in the source", () => {
    expect(types).toContain("all_keys_cooling");
    expect(OF_THE_ADMIN.filter((type) => !types.includes(type))).toEqual([]);
  });

  test("has a heading for every error that a client may get, and for no other", () => {
    const named = headings.flatMap((heading) =>
      [...heading.matchAll(/`(\w+)`/g)].map(([, type = ""]) => type),
    );
    expect(named.sort()).toEqual(types.filter((type) => !OF_THE_ADMIN.includes(type)).sort());
  });
});

interface Snippet {
  where: string;
  text: string;
  note?: string;
  known: string;
}

interface ToolsModule {
  snippetsOf(values: { base: string; root: string; key: string; model: string }): Record<string, Snippet>;
}

describe("docs/clients.md", async () => {
  /** The text below each heading of a tool. */
  const chapters = new Map(
    read("docs/clients.md")
      .split(/^### /m)
      .slice(1)
      .map((chapter): [string, string] => [chapter.split("\n")[0] ?? "", withoutSpace(chapter)]),
  );
  const tools: ToolsModule = await import(join(ROOT, "lib", "admin", "dashboard", "snippets.js"));
  const root = "http://127.0.0.1:3000";
  const snippets = tools.snippetsOf({ root, base: `${root}/v1`, key: "KEY", model: "MODEL" });

  test.each(Object.entries(snippets))(
    "says for %s what the dashboard says",
    (name, { text, note = "", known }) => {
      for (const part of [text, note, known]) expect(chapters.get(name)).toContain(withoutSpace(part));
    },
  );
});

describe("the man page and the completions", () => {
  const usage = read("lib/cli/args.ts");
  const [, page = ""] = /USAGE = `([\s\S]*?)`/.exec(usage) ?? [];
  const options = [...new Set([...page.matchAll(/--[a-z-]+/g)].map(([option]) => option))].sort();
  const commands = ["serve", "init", "check", "status", "keys", "help", "version"];
  const actions = ["list", "add", "remove", "pause", "resume", "reset"];

  test("find the options in the page of help", () => {
    expect(options).toEqual(
      [
        "--demo",
        "--env-file",
        "--help",
        "--json",
        "--model",
        "--system",
        "--version",
        "--watch",
        "--yes",
      ].sort(),
    );
  });

  test.each([
    "man/keywheel.1",
    "completions/keywheel.bash",
    "completions/_keywheel",
    "completions/keywheel.fish",
  ])("%s names every command and option, and no other option", (path) => {
    const text = read(`deploy/${path}`).replaceAll("\\-", "-");
    const isFish = path.endsWith(".fish");
    const named = isFish
      ? [...text.matchAll(/^complete .* -l ([a-z-]+)/gm)].map(([, name = ""]) => `--${name}`)
      : [...text.matchAll(/(?<![\w-])--[a-z][a-z-]*/g)].map(([option]) => option);
    expect([...new Set(named)].sort()).toEqual(options);
    const words = new Set(text.match(/[a-z]+/g));
    expect([...commands, ...actions].filter((word) => !words.has(word))).toEqual([]);
  });
});

describe("the alert rules and the dashboard of Grafana", () => {
  const source = read("lib/observability/metrics.ts");
  const metrics = new Set(
    [...source.matchAll(/"((?:keywheel|process)_[a-z_0-9]+)"/g)].map(([, name = ""]) => name),
  );
  const labels = new Set(
    [
      "provider",
      "model",
      "client",
      "status",
      "outcome",
      "kind",
      "account",
      "key_id",
      "verdict",
      "state",
    ].filter((label) => new RegExp(`"${label}"|[{ ]${label}[ ,:}]`).test(source)),
  );
  /** `le` is of a histogram, the others are Prometheus's own. */
  const ofPrometheus = ["le", "job", "instance", "alertname", "severity"];
  const dashboard: { panels: { title: string; targets?: { expr: string }[] }[] } = JSON.parse(
    read("deploy/grafana-dashboard.json"),
  );
  const ofDashboard = dashboard.panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr }): [string, string] => [title, expr]),
  );
  const ofAlerts = read("deploy/alerts.yml")
    .split(/^ *- alert: /m)
    .slice(1)
    .map((rule): [string, string] => {
      const [, expression = ""] = /expr: ([\s\S]*?)\n {8}(?:for|labels):/.exec(rule) ?? [];
      return [rule.split("\n")[0] ?? "", expression];
    });

  test("find the metrics and labels in the source", () => {
    expect(metrics.size).toBeGreaterThan(20);
    expect(labels.size).toBe(10);
    expect(ofAlerts.length).toBeGreaterThan(5);
    expect(ofDashboard.length).toBeGreaterThan(20);
  });

  test.each([...ofAlerts, ...ofDashboard])(
    "%s asks for metrics and labels that there are: %s",
    (_title, expression) => {
      const names = expression.match(/\b(?:keywheel|process)_[a-z_0-9]+/g) ?? [];
      const unknown = names
        .map((name) => name.replace(/_(?:bucket|sum|count)$/, ""))
        .filter((name) => !metrics.has(name));
      expect(unknown).toEqual([]);
      expect(names.length + (expression.includes("up{") ? 1 : 0)).toBeGreaterThan(0);
      const matched = [...expression.matchAll(/([a-z_]+)(?:=~|!=|!~|=)"/g)].map(([, label = ""]) => label);
      const grouped = [...expression.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list = ""]) =>
        list.split(/,\s*/),
      );
      expect(
        [...matched, ...grouped].filter((label) => !labels.has(label) && !ofPrometheus.includes(label)),
      ).toEqual([]);
    },
  );

  test("every panel says for which time, instance and provider it is", () => {
    const without = ofDashboard.filter(([, expression]) => !expression.includes('instance=~"$instance"'));
    expect(without).toEqual([]);
  });
});
