import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { planAddKey, planRemoveKey } from "./settings-editor.ts";
import { fingerprint, Secret } from "../core/secret.ts";
import { SettingsFiles } from "./settings-files.ts";

const TOP = mkdtempSync(join(tmpdir(), "keywheel-sources-"));
afterAll(() => rmSync(TOP, { recursive: true }));

/** A directory of its own with these files in it. */
async function directory(files: Record<string, string>): Promise<string> {
  const path = mkdtempSync(join(TOP, "case-"));
  for (const [name, text] of Object.entries(files)) await Bun.write(join(path, name), text);
  return path;
}

const textOf = (...path: string[]) => Bun.file(join(...path)).text();

function key(text: string) {
  return { secret: new Secret(text), account: null, dailyLimit: null };
}

describe("the files that settings are kept in", () => {
  test("are changed one after the other, and none of the changes is lost (P29)", async () => {
    const workingDirectory = await directory({ ".env": "# mine\nAPI_KEYS=a\n" });
    const path = join(workingDirectory, ".env");
    const files = new SettingsFiles({
      environment: {},
      workingDirectory,
      envFile: () => path,
      newEnvFile: null,
    });
    const names = ["b", "c", "d", "e"];
    const outcomes = await Promise.all(
      names.map((name) => files.change((sources) => planAddKey(sources, "default", key(name)))),
    );
    expect(outcomes.map(({ kind }) => kind)).toEqual(["done", "done", "done", "done"]);
    expect(await textOf(path)).toBe("# mine\nAPI_KEYS=a,b,c,d,e\n");
    expect(readdirSync(workingDirectory)).toEqual([".env"]);
  });

  test("are key files too, named from the working directory", async () => {
    const workingDirectory = await directory({ "keys.txt": "a # one\nb\n" });
    const environment = { API_KEYS_FILE: "./keys.txt" };
    const files = new SettingsFiles({ environment, workingDirectory, envFile: () => null, newEnvFile: null });
    const outcome = await files.change((sources) => planRemoveKey(sources, "default", fingerprint("a")));
    expect(outcome.kind).toBe("done");
    expect(await textOf(workingDirectory, "keys.txt")).toBe("b\n");
  });

  test("are made where there is none and one may be, for nobody else to read", async () => {
    const workingDirectory = await directory({});
    const path = join(workingDirectory, ".env");
    const options = { environment: {}, workingDirectory, envFile: () => null };
    const add = new SettingsFiles({ ...options, newEnvFile: path });
    const forbidden = new SettingsFiles({ ...options, newEnvFile: null });
    expect(await forbidden.change((sources) => planAddKey(sources, "default", key("a")))).toMatchObject({
      kind: "refused",
      why: "not_writable",
    });
    expect((await add.change((sources) => planAddKey(sources, "default", key("a")))).kind).toBe("done");
    expect(await textOf(path)).toBe("API_KEYS=a\n");
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test("stay as they are when they change meanwhile, or are not there any more", async () => {
    const workingDirectory = await directory({ ".env": "API_KEYS=a\n" });
    const path = join(workingDirectory, ".env");
    const files = new SettingsFiles({
      environment: {},
      workingDirectory,
      envFile: () => path,
      newEnvFile: null,
    });

    const outcome = await files.change((sources) => {
      writeFileSync(path, "API_KEYS=z\n");
      return planAddKey(sources, "default", key("b"));
    });
    expect(outcome).toMatchObject({ kind: "refused", why: "not_writable" });
    expect(await textOf(path)).toBe("API_KEYS=z\n");
    unlinkSync(path);
    const late = await files.change((sources) => planAddKey(sources, "default", key("b")));
    expect(late).toMatchObject({
      kind: "refused",
      why: "not_writable",
      message: expect.stringContaining(path),
    });
  });
});
