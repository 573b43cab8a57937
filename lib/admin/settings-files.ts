/**
 * The files that settings are kept in: read when somebody wants to change them, and written as planned.
 *
 * One change after the other, each from the files as they are then. What somebody else writes meanwhile is never
 * overwritten.
 */
import { absolutePath, keyFilesOf, type Places } from "../config/config.ts";
import type { Outcome, Refused } from "./views.ts";
import { readWhole, writeAtomically } from "./env-edit.ts";
import { parseEnvFile } from "../config/env-file.ts";
import type { Plan, Sources } from "./settings-editor.ts";

export interface SettingsFilesOptions extends Pick<Places, "environment" | "workingDirectory"> {
  /** The env file that was read (`LoadedConfig.envFile`), as it is now; null: there is none. */
  envFile(): string | null;
  /** Where one is made when there is none and a change needs it; null: none is made. */
  newEnvFile: string | null;
}

export class SettingsFiles {
  readonly #options: SettingsFilesOptions;
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: SettingsFilesOptions) {
    this.#options = options;
  }

  /** The texts hold keys: look at them, and let them go. */
  async read(): Promise<Sources | Refused> {
    const { environment, workingDirectory, newEnvFile } = this.#options;
    const path = this.#options.envFile();
    const written = path === null ? null : await readWhole(path);
    if (written?.ok === false) return { kind: "refused", why: "not_writable", message: written.reason };
    const envFile =
      path !== null && written !== null
        ? { path, text: written.text }
        : newEnvFile === null
          ? null
          : { path: newEnvFile, text: null };
    const keyFiles = new Map<string, { path: string; text: string }>();
    for (const name of keyFilesOf(environment, parseEnvFile(envFile?.text ?? "").values)) {
      const path = absolutePath(workingDirectory, name);
      const file = await readWhole(path);
      // One that cannot be read is a problem of the configuration, and told as such.
      if (file.ok) keyFiles.set(name, { path, text: file.text });
    }
    return { environment, envFile, keyFiles };
  }

  /** Plans a change from the files as they are, and writes it. Taking it over is the caller's affair. */
  change(planFrom: (sources: Sources) => Plan): Promise<Outcome> {
    const outcome = this.#last.then(() => this.#carryOut(planFrom));
    this.#last = outcome.catch(() => {}); // told to the caller; the next change begins anew
    return outcome;
  }

  async #carryOut(planFrom: (sources: Sources) => Plan): Promise<Outcome> {
    const sources = await this.read();
    if ("kind" in sources) return sources;
    const plan = planFrom(sources);
    if (plan.kind === "refused") return plan;
    for (const { path, before, after } of plan.edits) {
      const written = await writeAtomically(path, after, before);
      if (!written.ok) return { kind: "refused", why: "not_writable", message: written.reason };
    }
    return { kind: "done", message: plan.message };
  }
}
