/**
 * What to write, and where, so that the operator's wish becomes the configuration; or why that cannot be, and what to
 * do instead. Pure: the texts of the files go in, edits of them come out.
 *
 * Nothing is believed to be right because it was built with care: every plan is read back by the rules by which
 * the program reads its files, and refused unless exactly what was asked for would change.
 */
import { absolutePath, keyFilesOf, parseConfig } from "../config/config.ts";
import type { Environment, ParsedConfig, Places } from "../config/config.ts";
import { parseEnvFile } from "../config/env-file.ts";
import { readPoolKeys, splitKeyFile, splitKeys } from "../config/keys.ts";
import type { ConfiguredKey } from "../config/keys.ts";
import { PROVIDER_SETTINGS, SETTINGS, providerPrefix, whyNotPrefix } from "../config/settings.ts";
import { shown } from "../config/key-shapes.ts";
import {
  addToList,
  keyListText,
  readWhole,
  removeFromList,
  reorderList,
  setVariable,
  withKey,
  withKeysInOrder,
  withoutGoneKeys,
  writeAtomically,
  writtenForm,
} from "./env-edit.ts";
import type { Edited } from "./env-edit.ts";
import type { Editable, ChangeOutcome, ChangeRefused, SettingChanges, SettingView, Why } from "./views.ts";

/** Where the configuration comes from. */
export interface Sources {
  environment: Environment;
  /** The env file that settings are kept in; null: there is none. `text` null: it is not there yet, and may be made. */
  envFile: { path: string; text: string | null } | null;
  /** Key files by their path as the setting has it. `path`: the absolute one. */
  keyFiles: ReadonlyMap<string, { path: string; text: string }>;
}

/** A file and what it shall hold. `before` null: it is not there yet. */
interface Edit {
  path: string;
  before: string | null;
  after: string;
}

/** `message`: what will have been done. */
export type Plan = { kind: "write"; edits: readonly Edit[]; message: string } | ChangeRefused;

/** Adds keys behind the others of their list. A provider that has none yet is made by it, where its name is enough. */
export function planAddKeys(sources: Sources, provider: string, keys: readonly ConfiguredKey[]): Plan {
  const pool = poolOf(sources, provider);
  if (pool === null) return providerNotFound(provider);
  const newIds = keys.map(({ secret }) => secret.id);
  const known = newIds.find((id) => pool.ids.includes(id));
  if (known !== undefined) {
    return refusedChange("conflict", `The key ${known} is one of ${provider} already. Nothing was changed.`);
  }
  const place = placeToAdd(pool);
  if ("kind" in place) return place;
  const written = keys.map(writtenForm);
  const inFile = written.reduce((text, key) => withKey(text, key), place.file?.text ?? "");
  const edits = editPlace(sources, place, (list) => addToList(list, written), inFile);
  const ids = pool.places.flatMap((other) => [...idsOf(other.items), ...(other === place ? newIds : [])]);
  const message = `${added(newIds)} added to ${place.name} in ${pathOf(place, sources)}.`;
  return verified(sources, provider, edits, [...new Set(ids)], message);
}

function added(ids: readonly string[]): string {
  return ids.length === 1 ? `The key ${ids[0]} was` : `${ids.length} keys were`;
}

/** A provider that is to be made. */
export interface NewProvider {
  /** As in its path: `groq`. */
  name: string;
  /** null: its name is enough. */
  baseUrl: string | null;
  dialect: string | null;
  keys: readonly ConfiguredKey[];
}

/** Makes a provider: its keys, and where its name is not enough, its address and dialect. */
export function planAddProvider(sources: Sources, { name, baseUrl, dialect, keys }: NewProvider): Plan {
  const pool = poolOf(sources, name);
  if (pool === null || name === "default") {
    return refusedChange(
      "invalid_value",
      `${shown(name)} cannot be the name of a provider. Use small letters, digits and _, such as groq or my_llm.`,
    );
  }
  if (pool.ids.length > 0) {
    return refusedChange("conflict", `There is a provider ${name} already. Add the keys to it.`);
  }
  const ids = keys.map(({ secret }) => secret.id);
  const prefix = prefixOf(name);
  const variables: [name: string, value: string | null][] = [
    [`${prefix}API_KEYS`, keyListText(keys)],
    [`${prefix}BASE_URL`, baseUrl],
    [`${prefix}PROVIDER`, dialect],
  ];
  const edits = setVariables(
    sources,
    variables.filter(([, value]) => value !== null),
  );
  const message = `The provider ${name} was added to ${sources.envFile?.path}, with ${ids.length === 1 ? "1 key" : `${ids.length} keys`}. Its base URL ends in /${name}/v1.`;
  return verified(sources, name, edits, ids, message);
}

/** Takes out everything that the settings say of a provider. A file of keys that they name stays. */
export function planRemoveProvider(sources: Sources, provider: string): Plan {
  const pool = poolOf(sources, provider);
  if (pool === null || pool.ids.length === 0) return providerNotFound(provider);
  const own = provider === "default" ? DEFAULT_PROVIDER_SETTINGS : PROVIDER_SETTINGS;
  const set = valuesOf(sources);
  const names = own.map((setting) => prefixOf(provider) + setting).filter((name) => set.has(name));
  const edits = setVariables(
    sources,
    names.map((name) => [name, null]),
  );
  const message = `The provider ${provider} was removed from ${sources.envFile?.path}: ${names.join(", ")}.`;
  return verified(sources, provider, edits, [], message);
}

/** What makes the default provider; its other settings hold for all. */
const DEFAULT_PROVIDER_SETTINGS = ["API_KEYS", "API_KEYS_FILE", "TARGET_BASE_URL", "PROVIDER"];

/** Sets variables of the env file, or takes them out of it (null). */
function setVariables(
  sources: Sources,
  variables: readonly [name: string, value: string | null][],
): Edit[] | ChangeRefused {
  let text = sources.envFile?.text ?? "";
  for (const [name, value] of variables) {
    const locked = lockOf(sources, name);
    if (locked !== null) return refusedChange("not_writable", locked);
    const edited = setVariable(text, name, value);
    if (!edited.ok) return refusedChange("invalid_value", edited.reason);
    text = edited.text;
  }
  return editEnvFile(sources, text);
}

/** Takes a key out, wherever it is written. */
export function planRemoveKey(sources: Sources, provider: string, id: string): Plan {
  const pool = poolOf(sources, provider);
  if (pool === null || !pool.ids.includes(id)) return keyNotFound(provider, id);
  const left = pool.ids.filter((other) => other !== id);
  if (left.length === 0) {
    const instead = provider === "default" ? "pause it" : "switch the provider off";
    return refusedChange(
      "conflict",
      `The key ${id} is the only one of ${provider}. Add another one first, or ${instead}.`,
    );
  }
  const isGone = (written: string) => idOfWritten(written) === id;
  const holders = pool.places.filter(({ items }) => items.some(isGone));
  const edits = allOf(
    holders.map((place) =>
      editPlace(
        sources,
        place,
        (list) => removeFromList(list, id),
        withoutGoneKeys(place.file?.text ?? "", isGone),
      ),
    ),
  );
  const where = holders.map((place) => `${place.name} in ${pathOf(place, sources)}`).join(" and ");
  return verified(sources, provider, edits, left, `The key ${id} was removed from ${where}.`);
}

/** Puts the keys into the order of `ids`, which must name each of them once. */
export function planOrder(sources: Sources, provider: string, ids: readonly string[]): Plan {
  const pool = poolOf(sources, provider);
  if (pool === null || pool.ids.length === 0) return providerNotFound(provider);
  if (ids.toSorted().join() !== pool.ids.toSorted().join()) {
    return refusedChange("invalid_value", `Name each key of ${provider} once: ${pool.ids.join(", ")}.`);
  }
  const rankOf = (written: string) => ids.indexOf(idOfWritten(written) ?? "");
  const ordersOf = ({ items }: KeySource) => idsOf(items.toSorted((a, b) => rankOf(a) - rankOf(b)));
  if ([...new Set(pool.places.flatMap(ordersOf))].join() !== ids.join()) {
    const names = pool.places.map(({ name }) => name).join(" come before those of ");
    return refusedChange(
      "conflict",
      `The keys of ${names}, always. Move them within each, or all into one of the two.`,
    );
  }
  const moved = pool.places.filter((place) => ordersOf(place).join() !== idsOf(place.items).join());
  const edits = allOf(
    moved.map((place) =>
      editPlace(
        sources,
        place,
        (list) => reorderList(list, ordersOf(place)),
        withKeysInOrder(place.file?.text ?? "", rankOf),
      ),
    ),
  );
  return verified(sources, provider, edits, ids, `The keys of ${provider} stand in the order you gave.`);
}

/** Changes settings of a provider; for the default one those without a prefix, which hold for all. */
export function planSettings(sources: Sources, provider: string, changes: SettingChanges): Plan {
  const pool = poolOf(sources, provider);
  if (pool === null || pool.ids.length === 0) return providerNotFound(provider);
  const variables: [name: string, value: string | null][] = [];
  for (const [setting, value] of changes) {
    const name = variableFor(provider, setting);
    if (name === null) return refusedChange("invalid_value", DEFAULT_IS_NEEDED);
    variables.push([name, value]);
  }
  const edits = setVariables(sources, variables);
  const names = variables.map(([name]) => name);
  const message = `${names.join(", ")} ${names.length === 1 ? "was" : "were"} changed in ${sources.envFile?.path}.`;
  return verified(sources, provider, edits, pool.ids, message);
}

const DEFAULT_IS_NEEDED =
  "The default provider cannot be switched off. Pause its keys one by one, or remove API_KEYS, so that another one is the default.";

/** The settings of a provider that can be changed, as they are in force. */
export function settingsOf(sources: Sources, provider: string): Partial<Record<Editable, SettingView>> {
  const values = valuesOf(sources);
  const views: Partial<Record<Editable, SettingView>> = {};
  for (const [setting, shared] of SHARED_SETTINGS) {
    const own = variableFor(provider, setting);
    if (own === null) continue;
    const isShared = own === shared;
    const ownValue = isShared ? null : (values.get(own) ?? null);
    const sharedValue = shared === null ? null : (values.get(shared) ?? null);
    const fallback = shared === null ? "false" : SETTINGS[shared];
    views[setting] = {
      value: ownValue ?? sharedValue ?? fallback,
      origin: ownValue !== null ? "own" : sharedValue === null ? "default" : isShared ? "own" : "shared",
      locked: lockOf(sources, own),
    };
  }
  return views;
}

/** Where each key of a provider is written, by its id. `locked`: why it cannot be changed there, or null. */
export function keyPlaces(
  sources: Sources,
  provider: string,
): Map<string, { source: string; locked: string | null }> {
  const places = new Map<string, { source: string; locked: string | null }>();
  for (const { name, items, locked } of poolOf(sources, provider)?.places ?? []) {
    for (const id of idsOf(items)) if (!places.has(id)) places.set(id, { source: name, locked });
  }
  return places;
}

// Where keys are written

/** One list of keys: the value of a variable, or the file that a variable names. */
interface KeySource {
  /** `GROQ_API_KEYS`, `API_KEYS_FILE`. */
  name: string;
  /** As they are written: `[account@]key[:daily]`. Never to be shown. */
  items: string[];
  /** null: they stand in the variable itself. */
  file: { path: string; text: string } | null;
  /** Why it cannot be changed; null: it can. */
  locked: string | null;
}

interface ProviderKeys {
  /** Those that hold or could hold keys: the list first, as in the configuration. */
  places: KeySource[];
  /** Of its keys, each once, in their order. */
  ids: string[];
}

/** Null: no provider can have this name. */
function poolOf(sources: Sources, provider: string): ProviderKeys | null {
  if (provider !== provider.toLowerCase()) return null;
  const prefix = prefixOf(provider);
  if (
    prefix !== "" &&
    (providerPrefix(`${prefix}API_KEYS`) === null || whyNotPrefix(prefix.slice(0, -1)) !== null)
  ) {
    return null;
  }
  const values = valuesOf(sources);
  const listName = `${prefix}API_KEYS`;
  const fileName = `${prefix}API_KEYS_FILE`;
  const items = splitKeys(listName, values.get(listName) ?? "").map(({ text }) => text);
  const places: KeySource[] = [{ name: listName, items, file: null, locked: lockOf(sources, listName) }];
  const file = sources.keyFiles.get(values.get(fileName) ?? "");
  if (file !== undefined) {
    const items = splitKeyFile(fileName, file.text).map(({ text }) => text);
    places.push({ name: fileName, items, file, locked: null });
  }
  return { places, ids: idsOf(places.flatMap(({ items }) => items)) };
}

/** Beside the other keys; where those cannot be changed, in the key file. */
function placeToAdd({ places }: ProviderKeys): KeySource | ChangeRefused {
  const [list, file] = places;
  const writable = places.filter(({ locked }) => locked === null);
  const place = list?.items.length === 0 && file !== undefined ? file : writable[0];
  return place ?? refusedChange("not_writable", list?.locked ?? "");
}

function pathOf({ file }: KeySource, { envFile }: Sources): string {
  return file?.path ?? envFile?.path ?? "";
}

/** `GROQ_`, and nothing for the default provider. */
function prefixOf(provider: string): string {
  return provider === "default" ? "" : `${provider.toUpperCase()}_`;
}

function idsOf(items: readonly string[]): string[] {
  return [...new Set(items.map(idOfWritten))].filter((id) => id !== null);
}

/** Null: it is no key. */
function idOfWritten(written: string): string | null {
  return readPoolKeys(splitKeys("", written)).keys[0]?.secret.id ?? null;
}

// Where settings are written

/** The setting without a prefix that holds where the provider has none of its own; null: there is none such. */
const SHARED_SETTINGS = [
  ["rpm", "RPM"],
  ["daily_limit", "DAILY_LIMIT"],
  ["strategy", "STRATEGY"],
  ["cooldown_sec", "COOLDOWN_SEC"],
  ["timezone", "TIMEZONE"],
  ["retry_status", "RETRY_STATUS"],
  ["disabled", null],
] as const satisfies readonly (readonly [Editable, keyof typeof SETTINGS | null])[];

/** Null: this provider has no such setting. */
function variableFor(provider: string, setting: Editable): string | null {
  if (setting === "disabled" && provider === "default") return null;
  return prefixOf(provider) + setting.toUpperCase();
}

/** Why a variable cannot be changed in the env file; null: it can. */
function lockOf({ environment, envFile }: Sources, name: string): string | null {
  if (environment[name]?.trim()) {
    return `${name} is set in the environment, which wins over any file. Change it where it is set (the unit, the container's settings, the shell) and restart; or remove it there and put it into an env file, which can be changed from here.`;
  }
  if (envFile !== null) return null;
  return `There is no env file that ${name} could be written to. Make one (it may be empty) and start with --env-file PATH, or put .env into the working directory and reload.`;
}

/** What is in force, trimmed and without what is empty: the environment wins. */
function valuesOf({ environment, envFile }: Sources): Map<string, string> {
  const written = [...parseEnvFile(envFile?.text ?? "").values, ...Object.entries(environment)];
  const values = new Map<string, string>();
  for (const [name, value = ""] of written) if (value.trim() !== "") values.set(name, value.trim());
  return values;
}

// Edits, and whether they do what they should

/** Changes one list of keys: `inList` that of a variable, `fileText` is the new text where it is a file. */
function editPlace(
  sources: Sources,
  { name, file, locked }: KeySource,
  inList: (list: string) => Edited,
  fileText: string,
): Edit[] | ChangeRefused {
  if (locked !== null) return refusedChange("not_writable", locked);
  if (file !== null) return [{ path: file.path, before: file.text, after: fileText }];
  const text = sources.envFile?.text ?? "";
  const list = inList(parseEnvFile(text).values.get(name) ?? "");
  if (!list.ok) return refusedChange("invalid_value", list.reason);
  const edited = setVariable(text, name, list.text === "" ? null : list.text);
  return edited.ok ? editEnvFile(sources, edited.text) : refusedChange("conflict", edited.reason);
}

function editEnvFile({ envFile }: Sources, after: string): Edit[] {
  return envFile === null ? [] : [{ path: envFile.path, before: envFile.text, after }];
}

/** All of them, or the first reason why not. */
function allOf(each: readonly (Edit[] | ChangeRefused)[]): Edit[] | ChangeRefused {
  const edits: Edit[] = [];
  for (const outcome of each) {
    if ("kind" in outcome) return outcome;
    edits.push(...outcome);
  }
  return edits;
}

/**
 * The plan, if the files as they will be give a configuration without problems, with the provider's keys as `ids`
 * says. (That no other variable changes is seen to by `setVariable`.)
 */
function verified(
  sources: Sources,
  provider: string,
  edits: Edit[] | ChangeRefused,
  ids: readonly string[],
  message: string,
): Plan {
  if ("kind" in edits) return edits;
  const after = sourcesAfter(sources, edits);
  const problems = problemsOf(after);
  if (problems.length === 0 && poolOf(after, provider)?.ids.join() === ids.join()) {
    const changes = edits.filter((edit) => edit.before !== edit.after);
    return { kind: "write", edits: changes, message };
  }
  const earlier = problemsOf(sources);
  const fresh = problems.filter((problem) => !earlier.includes(problem));
  if (fresh.length > 0) return refusedChange("invalid_value", fresh.join("\n"));
  if (problems.length > 0) {
    return refusedChange(
      "conflict",
      `The settings have mistakes. First correct them:\n${problems.join("\n")}`,
    );
  }
  const paths = edits.map(({ path }) => path).join(" and ");
  return refusedChange(
    "invalid_value",
    `This cannot be written into ${paths} so that it is read as it is meant.`,
  );
}

function sourcesAfter({ environment, envFile, keyFiles }: Sources, edits: readonly Edit[]): Sources {
  const textOf = (path: string, text: string) => edits.find((edit) => edit.path === path)?.after ?? text;
  return {
    environment,
    envFile: envFile && { ...envFile, text: textOf(envFile.path, envFile.text ?? "") },
    keyFiles: new Map(
      [...keyFiles].map(([name, { path, text }]) => [name, { path, text: textOf(path, text) }]),
    ),
  };
}

function problemsOf(sources: Sources): string[] {
  const parsed = configOf(sources);
  const inFile = parseEnvFile(sources.envFile?.text ?? "").problems.map(
    (line) => `${sources.envFile?.path}: ${line}`,
  );
  return [...inFile, ...(parsed.ok ? [] : parsed.problems)];
}

function configOf({ environment, envFile, keyFiles }: Sources): ParsedConfig {
  const { values } = parseEnvFile(envFile?.text ?? "");
  return parseConfig(environment, values, (path) => {
    const file = keyFiles.get(path);
    return file === undefined
      ? { ok: false, reason: "there is no such file" }
      : { ok: true, text: file.text };
  });
}

function refusedChange(why: Why, message: string): ChangeRefused {
  return { kind: "refused", why, message };
}

function providerNotFound(provider: string): ChangeRefused {
  return refusedChange("not_found", `There is no provider ${shown(provider)}.`);
}

function keyNotFound(provider: string, id: string): ChangeRefused {
  return refusedChange("not_found", `There is no key ${shown(id)} of ${shown(provider)}.`);
}

// ── The files ─────────────────────────────────────────────────────────────────────────────────────────────────────
//
// Read when somebody wants to change them, and written as planned. One change after the other, each from the files as
// they are then. What somebody else writes meanwhile is never overwritten.

interface SettingsFilesOptions extends Pick<Places, "environment" | "workingDirectory"> {
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
  async read(): Promise<Sources | ChangeRefused> {
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
  change(planFrom: (sources: Sources) => Plan): Promise<ChangeOutcome> {
    const outcome = this.#last.then(() => this.#carryOut(planFrom));
    this.#last = outcome.catch(() => {}); // told to the caller; the next change begins anew
    return outcome;
  }

  async #carryOut(planFrom: (sources: Sources) => Plan): Promise<ChangeOutcome> {
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
