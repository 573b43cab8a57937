/** The npm package as build.sh makes it: small, with types of its own, and without effect until it is used. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startDemoProvider } from "../cli/demo-provider.ts";

const ROOT = join(import.meta.dir, "..", "..");
const folder = mkdtempSync(join(tmpdir(), "keywheel-npm-"));
const text = (name: string) => readFileSync(join(folder, name), "utf8");

beforeAll(() => {
  const build = Bun.spawnSync(["./build.sh", "--library", "--no-checks", "--to", folder], {
    cwd: ROOT,
    env: { ...process.env, BUN: process.execPath },
  });
  if (build.exitCode !== 0) throw new Error(build.stderr.toString());
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Runtimes that are here: this one, and Node where it is installed. */
const RUNTIMES: [name: string, path: string][] = [["Bun", process.execPath]];
const node = Bun.which("node");
if (node !== null) RUNTIMES.push(["Node", node]);

/** Runs a program that may import the package, and returns what it prints. It must end by itself. */
async function output(runtime: string, program: string, ...args: string[]): Promise<string> {
  const file = join(folder, "program.mjs");
  writeFileSync(file, program);
  const run = Bun.spawn([runtime, file, ...args], { timeout: 10_000, stderr: "pipe" });
  const [out, err] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text()]);
  expect(err).toBe("");
  expect(await run.exited).toBe(0);
  return out.trim();
}

describe("the npm package", () => {
  test("holds what it needs and no more, in at most 300 KB", () => {
    const names = ["LICENSE", "README.md", "keywheel.d.ts", "keywheel.js", "package.json"];
    expect(readdirSync(folder).sort()).toEqual(names);
    const bytes = names.reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
    expect(bytes).toBeLessThanOrEqual(300_000);
    const { dependencies, type, types, exports } = JSON.parse(text("package.json"));
    expect([dependencies, type, types]).toEqual([undefined, "module", "./keywheel.d.ts"]);
    expect(Object.values(exports["."])).toEqual(["./keywheel.d.ts", "./keywheel.js"]);
  });

  test("imports nothing but modules of Node, and knows no other runtime", () => {
    const imported = [...text("keywheel.js").matchAll(/(?:from|import)\s*\(?"([^"]+)"/g)].map(
      ([, name]) => name,
    );
    expect(imported.filter((name) => !name?.startsWith("node:"))).toEqual([]);
    expect(text("keywheel.js")).not.toMatch(/\bBun\.|bun:|process\.env/);
  });

  test("has types that stand by themselves", () => {
    const types = text("keywheel.d.ts");
    expect(types.replace(/\/\*[\s\S]*?\*\//g, "")).not.toMatch(/\bimport\b|\bBun\b|\bany\b/);
    expect(types).toContain(
      "export declare function createPooledFetch(options?: PooledFetchOptions): PooledFetch;",
    );
  });

  test.each(RUNTIMES)(
    "has no effect when it is imported, and an idle pool keeps no process alive: %s",
    async (_, runtime) => {
      const program = `
      void new Response(); // Node brings its fetch along when it is first used
      const before = Reflect.ownKeys(globalThis).length;
      const { createPooledFetch } = await import("./keywheel.js");
      createPooledFetch({ apiKeys: ["key-0"], provider: "generic", targetBaseUrl: "http://127.0.0.1:9/v1" });
      console.log(Reflect.ownKeys(globalThis).length - before);
    `;
      expect(await output(runtime, program)).toBe("0");
    },
  );

  test.each(RUNTIMES)("serves, waits and streams: %s", async (_, runtime) => {
    const provider = startDemoProvider({ tokenDelayMs: 0, limit: 2, windowMs: 600 });
    const program = `
      import { createPooledFetch } from "./keywheel.js";
      const [url, keys] = process.argv.slice(2);
      const fetch = createPooledFetch({ apiKeys: keys, targetBaseUrl: url + "/v1", provider: "openai" });
      const ask = async (stream) => {
        const body = JSON.stringify({ model: "m", stream, messages: [{ role: "user", content: "hi" }] });
        const response = await fetch("https://api.openai.com/v1/chat/completions", { method: "POST", body });
        const text = await response.text();
        return response.status === 200 && (stream ? text.includes("[DONE]") : JSON.parse(text).choices.length === 1);
      };
      const fine = await Promise.all(Array.from({ length: 9 }, (_, index) => ask(index % 2 === 1)));
      console.log(fine.filter(Boolean).length, fetch.health().providers[0].keys.map((key) => key.in_flight).join());
    `;
    try {
      expect(await output(runtime, program, provider.url, provider.keys.join(","))).toBe("9 0,0,0");
    } finally {
      await provider.stop();
    }
  });

  test.each(RUNTIMES)(
    "lets the process live while a call waits, with nothing else to be waited for: %s",
    async (_, runtime) => {
      const program = `
      import { createPooledFetch } from "./keywheel.js";
      let asked = 0;
      const below = async () => asked++ === 0 ? new Response("{}", { status: 429, headers: { "retry-after": "1" } }) : new Response("{}");
      const fetch = createPooledFetch({ apiKeys: ["key-0"], provider: "generic", targetBaseUrl: "http://h/v1", fetch: below });
      fetch("http://h/v1/x", { method: "POST", body: "{}" }).then(({ status }) => console.log(status, asked));
    `;
      expect(await output(runtime, program)).toBe("200 2");
    },
  );
});
