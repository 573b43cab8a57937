/**
 * Changes one setting in an env file and nothing else, so that the file stays the one truth.
 *
 * Text in, text out: comments, order, spelling, line ends and every other line stay as somebody wrote them. Each
 * edit is read again by the parser of `lib/config/env-file.ts` before it counts; one that would not read back as meant
 * is refused. The file is replaced whole or not at all. No reason shows a value.
 */
import { codeOf } from "../core/json.ts";
import { type Assignment, LINE_END, parseEnvFile, type Quote, statementsOf } from "../config/env-file.ts";
import { type ConfiguredKey, readPoolKeys } from "../config/keys.ts";

/** The new text, or why there is none: a sentence with what to do. */
export type Edited = { ok: true; text: string } | { ok: false; reason: string };

/**
 * The env file with `name` set to `value`; null removes it. A name that is there twice is changed where it counts,
 * and removed everywhere. A new one comes after the comment that shows it (`# NAME=`), else at the end.
 */
export function setVariable(text: string, name: string, value: string | null): Edited {
  if (!/^[A-Za-z_]\w*$/.test(name)) throw new Error("the name of a variable has letters, digits and _ only");
  const before = parseEnvFile(text);
  const [problem] = before.problems;
  if (problem !== undefined) return notEdited(`${problem} Until then the file cannot be changed from here.`);
  const lines = new EnvLines(text);
  const places = lines.placesOf(name);
  const last = places.at(-1);
  if (value === null) {
    for (const place of places.toReversed()) lines.replace(place, []);
  } else {
    const fault = faultOfValue(value, last?.assignment ?? null);
    if (fault !== null) return notEdited(`${name} ${fault}`);
    if (last === undefined) lines.add(name, `${name}=${quotedValue(value, "", "=")}`);
    else lines.replace(last, rewritten(last.assignment, value));
  }
  const edited = lines.text();
  return readsBack(before.values, edited, name, value)
    ? { ok: true, text: edited }
    : notEdited(`${name} cannot be written so that it reads back the same. Write it into the file yourself.`);
}

function notEdited(reason: string): { ok: false; reason: string } {
  return { ok: false, reason };
}

/** A line break is kept where the value was written over several lines, and nowhere begun. */
function faultOfValue(value: string, previous: Assignment | null): string | null {
  const breaks = previous?.value.includes("\n") ? /[\x00-\x08\x0b-\x1f\x7f]/ : /[\x00-\x08\x0a-\x1f\x7f]/;
  if (breaks.test(value)) return "holds a line break or a control character. Leave it out.";
  // What is no pair of surrogates cannot be written in UTF-8.
  return value.isWellFormed() ? null : "holds half a character. Copy it again.";
}

/** Whether the edit did what it should: this one variable, and no other. */
function readsBack(
  before: ReadonlyMap<string, string>,
  edited: string,
  name: string,
  value: string | null,
): boolean {
  const after = parseEnvFile(edited);
  const expected = new Map(before);
  if (value === null) expected.delete(name);
  else expected.set(name, value);
  if (after.problems.length > 0 || after.values.size !== expected.size) return false;
  return [...expected].every(([known, text]) => after.values.get(known) === text);
}

/** The lines of an assignment with another value, in the quotation marks it has, if it can keep them. */
function rewritten({ before, quote, after }: Assignment, value: string): string[] {
  return `${before}${quotedValue(value, quote, before)}${after}`.split("\n");
}

/** `before` is what stands to the left of it on its line. */
function quotedValue(value: string, quote: Quote | "", before: string): string {
  if (quote === "" && isPlain(value, before)) return value;
  if (quote !== '"' && !value.includes("'")) return `'${value}'`;
  return `"${value.replace(/["\\]/g, "\\$&")}"`;
}

/** Whether a value reads the same without quotation marks. */
function isPlain(value: string, before: string): boolean {
  if (value !== value.trim() || /^["']|\s#|\n/.test(value)) return false;
  // Behind a space a # begins a comment.
  return !(value.startsWith("#") && !before.endsWith("="));
}

/** Where an assignment stands: its lines from `start` up to, but without, `end`. */
interface AssignmentLines {
  start: number;
  end: number;
  assignment: Assignment;
}

/** A line and what ends it: nothing, for the last one. */
interface Row {
  text: string;
  end: string;
}

/** The lines of a text. */
class EnvLines {
  readonly #mark: string;
  readonly #rows: Row[];
  readonly #usualEnd: string;

  constructor(text: string) {
    this.#mark = text.startsWith("\uFEFF") ? "\uFEFF" : "";
    const body = text.slice(this.#mark.length);
    const ends = body.match(new RegExp(LINE_END, "g")) ?? [];
    this.#rows = body.split(LINE_END).map((line, index) => ({ text: line, end: ends[index] ?? "" }));
    this.#usualEnd = ends[0] ?? "\n";
  }

  text(): string {
    return this.#mark + this.#rows.map(({ text, end }) => text + end).join("");
  }

  /** Where this name is set, in order. */
  placesOf(name: string): AssignmentLines[] {
    const places: AssignmentLines[] = [];
    let start = 0;
    for (const statement of statementsOf(this.#rows.map(({ text }) => text))) {
      const end = start + statement.lines;
      if (statement.kind === "assignment" && statement.name === name) {
        places.push({ start, end, assignment: statement });
      }
      start = end;
    }
    return places;
  }

  /** A new line: after the last comment that shows the name, else at the end. */
  add(name: string, line: string): void {
    const at = this.#afterExampleOf(name) ?? this.#rows.length - (this.#rows.at(-1)?.text === "" ? 1 : 0);
    const last = this.#rows.at(-1);
    const isLast = at === this.#rows.length;
    if (isLast && last !== undefined) last.end = this.#usualEnd;
    this.#rows.splice(at, 0, { text: line, end: isLast ? "" : this.#usualEnd });
  }

  #afterExampleOf(name: string): number | null {
    const example = new RegExp(`^\\s*#\\s*(?:export\\s+)?${name}\\s*=`);
    let after: number | null = null;
    let line = 0;
    for (const { kind, lines } of statementsOf(this.#rows.map(({ text }) => text))) {
      if (kind === "blank" && example.test(this.#rows[line]?.text ?? "")) after = line + 1;
      line += lines;
    }
    return after;
  }

  /** Other lines in this place; none takes it out. */
  replace({ start, end }: AssignmentLines, lines: readonly string[]): void {
    const lastEnd = this.#rows[end - 1]?.end ?? "";
    const rows = lines.map((text, index) => ({
      text,
      end: index === lines.length - 1 ? lastEnd : this.#usualEnd,
    }));
    this.#rows.splice(start, end - start, ...rows);
  }
}

// ------------------------------------------------------------------------------- a list of keys

/** A key in the text of `API_KEYS`: where it stands there, and the id under which the pool knows it. */
interface Entry {
  start: number;
  end: number;
  /** null: it is no key. */
  id: string | null;
}

/** `list` with more `[account@]key[:daily]` at its end, separated as the others are. */
export function addToList(list: string, added: readonly string[]): Edited {
  const entries = entriesOf(list);
  const ids = new Set(entries.map(({ id }) => id));
  for (const entry of added) {
    const [problem] = readPoolKeys([{ text: entry, place: "The key" }]).problems;
    if (problem !== undefined) return notEdited(problem);
    if (entry.includes(",")) return notEdited("The key holds a comma: it may be two. Add one at a time.");
    const id = idOfEntry(entry);
    if (ids.has(id)) return notEdited("The key is there already.");
    ids.add(id);
  }
  const last = entries.at(-1);
  if (last === undefined) return { ok: true, text: added.join(",") };
  const beforeLast = entries.at(-2);
  const separator = beforeLast === undefined ? "," : list.slice(beforeLast.end, last.start);
  const text = added.map((entry) => separator + entry).join("");
  return { ok: true, text: list.slice(0, last.end) + text + list.slice(last.end) };
}

/** `list` without the key of this id, however often it is there; an empty text where it was the only one. */
export function removeFromList(list: string, id: string): Edited {
  const entries = entriesOf(list);
  const index = entries.findIndex((entry) => entry.id === id);
  const entry = entries[index];
  if (entry === undefined) return notEdited(notThere(id));
  if (entries.length === 1) return { ok: true, text: "" };
  // With the separator behind it; the last one with that before it.
  const next = entries[index + 1];
  const start = next === undefined ? (entries[index - 1]?.end ?? 0) : entry.start;
  const text = list.slice(0, start) + list.slice(next?.start ?? entry.end);
  return entriesOf(text).some((entry) => entry.id === id) ? removeFromList(text, id) : { ok: true, text };
}

/** `list` with the keys of these ids in front, in this order; the others stay behind them in theirs. */
export function reorderList(list: string, ids: readonly string[]): Edited {
  const entries = entriesOf(list);
  const missing = ids.find((id) => !entries.some((entry) => entry.id === id));
  if (missing !== undefined) return notEdited(notThere(missing));
  const rank = ({ id }: Entry) => (id === null || !ids.includes(id) ? ids.length : ids.indexOf(id));
  const ordered = entries.toSorted((a, b) => rank(a) - rank(b));
  let text = list.slice(0, entries[0]?.start);
  for (const [index, entry] of ordered.entries()) {
    const separatorEnd = entries[index + 1]?.start ?? list.length;
    text += list.slice(entry.start, entry.end) + list.slice(entries[index]?.end, separatorEnd);
  }
  return { ok: true, text };
}

/** Keys as they stand in a setting. */
export function keyListText(keys: readonly ConfiguredKey[]): string {
  return keys.map(writtenForm).join(",");
}

/** A key as it stands in a setting. */
export function writtenForm({ secret, account, dailyLimit }: ConfiguredKey): string {
  const [before, behind] = [
    account === null ? "" : `${account}@`,
    dailyLimit === null ? "" : `:${dailyLimit}`,
  ];
  return before + secret.reveal() + behind;
}

function notThere(id: string): string {
  return `There is no key ${id} in this list. Keys of an API_KEYS_FILE, or of the environment, are changed there.`;
}

function entriesOf(list: string): Entry[] {
  return [...list.matchAll(/[^\s,]+/g)].map(({ 0: text, index }) => ({
    start: index,
    end: index + text.length,
    id: idOfEntry(text),
  }));
}

function idOfEntry(entry: string): string | null {
  return readPoolKeys([{ text: entry, place: "" }]).keys[0]?.secret.id ?? null;
}

// ------------------------------------------------------------------------------------ the file

/** (Loaded late: most runs never change a file, and it takes 0.6 MB.) */
const files = () => import("node:fs/promises");

/** The text of a file that is going to be changed, to the byte; `expected` of `writeAtomically`. */
export async function readWhole(path: string): Promise<Edited> {
  try {
    const { readFile } = await files();
    // Bytes that are no UTF-8 would be lost on the way back, and a byte order mark belongs to the file.
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return { ok: true, text: decoder.decode(await readFile(path)) };
  } catch (error) {
    return notEdited(`${path} ${whyNot(error)}`);
  }
}

/** The text of a file, to the byte; null: there is none. */
export async function readIfThere(
  path: string,
): Promise<{ ok: true; text: string | null } | { ok: false; reason: string }> {
  const { stat } = await files();
  const problem = await stat(path).then(
    () => "",
    (error: unknown) => failureCode(error),
  );
  return problem === "ENOENT" || problem === "ENOTDIR" ? { ok: true, text: null } : readWhole(path);
}

/** Whether a file was written; `reason` is a sentence with what to do. */
export type Written = { ok: true } | { ok: false; reason: string };

/**
 * Replaces the file at `path`, whole or not at all, also when the power fails. A link stays, and what it leads to is
 * replaced. `expected`: what the file held when it was read, null where there was none; what somebody else has
 * written since is not overwritten. Mode and owner stay; a new file is for its owner only, because it holds keys.
 */
export async function writeAtomically(
  path: string,
  text: string,
  expected: string | null,
  { makesDirectory = false } = {},
): Promise<Written> {
  try {
    if (makesDirectory) {
      const { mkdir } = await files();
      await mkdir(path.replace(/[^/]*$/, ""), { recursive: true, mode: 0o750 });
    }
    const target = await resolveLinks(path);
    return (await replaceFile(target, text, expected)) ? { ok: true } : notEdited(`${path} ${CHANGED}`);
  } catch (error) {
    return notEdited(`${path} ${whyNot(error)}`);
  }
}

const CHANGED = "was changed by somebody else in the meantime, and is left as it is. Try again.";

/** False: it does not hold what was expected. */
async function replaceFile(target: string, text: string, expected: string | null): Promise<boolean> {
  const { rename, unlink } = await files();
  const owner = await ownerIf(target, expected);
  if (owner === "changed") return false;
  const temporary = temporaryName(target);
  try {
    await writeNew(temporary, text, owner);
    // Once more: the disk may have taken its time.
    if ((await ownerIf(target, expected)) === "changed") return false;
    await rename(temporary, target);
  } finally {
    await unlink(temporary).catch(ignoreAbsence);
  }
  await syncDirectory(target);
  return true;
}

/** Gives a file, and the directory it is in, to a user of this machine. Answers with what went wrong, or null. */
export async function giveTo(user: string, path: string): Promise<string | null> {
  const { chown, readFile } = await files();
  const directory = path.replace(/\/[^/]*$/, "");
  const accounts = await readFile("/etc/passwd", "utf8").catch(() => "");
  const [, , uid, gid] =
    accounts
      .split("\n")
      .find((line) => line.startsWith(`${user}:`))
      ?.split(":") ?? [];
  if (uid === undefined || gid === undefined) {
    return `${path} was written, but there is no user ${user} to own it. Install the service first, or: chown -R ${user}: ${directory}.`;
  }
  try {
    for (const each of [path, directory]) await chown(each, Number(uid), Number(gid));
    return null;
  } catch (error) {
    return `${path} was written, but could not be given to the user ${user} (${failureCode(error)}).`;
  }
}

/** The file itself, behind all links. */
async function resolveLinks(path: string): Promise<string> {
  const { lstat, realpath } = await files();
  try {
    return await realpath(path);
  } catch (error) {
    // A link to nowhere is an error; a file that is not there yet is none.
    const isLink = await lstat(path).then(
      () => true,
      () => false,
    );
    if (failureCode(error) === "ENOENT" && !isLink) return path;
    throw error;
  }
}

interface Owner {
  mode: number;
  uid: number;
  gid: number;
}

/** Whose the file is, null where there is none, or `changed` where it does not hold what was expected. */
async function ownerIf(target: string, expected: string | null): Promise<Owner | null | "changed"> {
  const { readFile, stat } = await files();
  try {
    const found = await stat(target);
    if (!found.isFile()) throw new Error("not a file", { cause: NOT_A_FILE });
    if (expected === null || !Buffer.from(expected).equals(await readFile(target))) return "changed";
    return found;
  } catch (error) {
    if (failureCode(error) !== "ENOENT") throw error;
    return expected === null ? null : "changed";
  }
}

/** Writes of this process: two at a time have two names. */
let writes = 0;

/** In the same directory: only there is a rename a single step. */
function temporaryName(target: string): string {
  writes += 1;
  return `${target}.new-${process.pid}-${writes}`;
}

async function writeNew(path: string, text: string, owner: Owner | null): Promise<void> {
  const { chmod, chown, open, unlink } = await files();
  // It can only be there if a process of this number was killed in the middle of a write.
  await unlink(path).catch(ignoreAbsence);
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  if (owner === null) return;
  // Only root may give a file away. Left with us it is as private as before.
  await chown(path, owner.uid, owner.gid).catch(ignoreRefusal);
  await chmod(path, owner.mode & 0o7777);
}

/** A rename outlives a power failure once its directory is on the disk; where that cannot be asked for, it waits. */
async function syncDirectory(target: string): Promise<void> {
  const { open } = await files();
  const directory = await open(target.replace(/[^/]*$/, "") || ".", "r").catch(ignoreRefusal);
  await directory?.sync().catch(ignoreRefusal);
  await directory?.close();
}

function ignoreAbsence(error: unknown): void {
  if (failureCode(error) !== "ENOENT") throw error;
}

function ignoreRefusal(error: unknown): void {
  if (!["EPERM", "EACCES", "EINVAL", "ENOTSUP", "EROFS"].includes(failureCode(error))) throw error;
}

const NOT_A_FILE = "NOT_A_FILE";

/** The code of a failure; `NOT_A_FILE` where the path leads to something else. */
function failureCode(error: unknown): string {
  if (!(error instanceof Error)) return "";
  return error.cause === NOT_A_FILE ? NOT_A_FILE : codeOf(error) || error.name;
}

/** The end of a sentence that begins with the path. */
function whyNot(error: unknown): string {
  const code = failureCode(error);
  switch (code) {
    case "ENOENT":
    case "ENOTDIR":
      return "is not there. Correct the path, or put an empty file there.";
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return `may not be changed (${code}). Let keywheel write to it and to its directory, or change it yourself.`;
    case "EBUSY":
      return "is mounted by itself, as containers do with single files, and cannot be replaced. Mount its directory, or change it yourself.";
    case "ENOSPC":
    case "EDQUOT":
      return `cannot be written: the disk is full (${code}). Make room.`;
    case "ERR_ENCODING_INVALID_ENCODED_DATA":
      return "is not text in UTF-8. Save it as UTF-8.";
    case NOT_A_FILE:
    case "EISDIR":
      return "is no ordinary file. Change it where it comes from.";
    default:
      return `cannot be changed (${code}). Change it yourself.`;
  }
}

// ── Key files ─────────────────────────────────────────────────────────────────────────────────────────────────────
//
// A key a line; comments and all else stay as they are. What is a key is decided by the rules of `splitKeyFile`; here
// only where the keys stand is known.

/** One line: its keys as they are written, and the comment behind them with the space before it. */
interface KeyLine {
  keys: string[];
  /** What goes before the first key: nothing, or a byte order mark. */
  before: string;
  text: string;
  comment: string;
}

function keyLinesOf(text: string): KeyLine[] {
  return text.split(/\r\n|\n|\r/).map((line) => {
    const before = line.startsWith("\uFEFF") ? "\uFEFF" : "";
    const body = line.slice(before.length);
    const commentAt = body.search(/(?:^|\s)#/);
    const head = commentAt === -1 ? body : body.slice(0, commentAt);
    const keys = head.split(/[\s,]+/).filter((key) => key !== "");
    return { keys, before, text: body, comment: body.slice(head.length) };
  });
}

function joinLines(lines: readonly KeyLine[], like: string): string {
  const lineEnd = like.includes("\r\n") ? "\r\n" : "\n";
  return lines.map(({ before, text }) => before + text).join(lineEnd);
}

/** Puts a key (`[account@]key[:daily]`) at the end. */
export function withKey(text: string, written: string): string {
  const lineEnd = text.includes("\r\n") ? "\r\n" : "\n";
  const isLineOpen = text !== "" && !/[\r\n]$/.test(text);
  return `${text}${isLineOpen ? lineEnd : ""}${written}${lineEnd}`;
}

/** Takes out the keys that are `gone`; a line that has no other goes with its comment. */
export function withoutGoneKeys(text: string, gone: (written: string) => boolean): string {
  const lines = keyLinesOf(text).flatMap((line): KeyLine[] => {
    const kept = line.keys.filter((key) => !gone(key));
    if (kept.length === line.keys.length) return [line];
    if (kept.length === 0) return line.before === "" ? [] : [{ ...line, text: "" }];
    return [{ ...line, text: kept.join(",") + line.comment }];
  });
  return joinLines(lines, text);
}

/**
 * Puts the keys into another order. `rankOf`: the lower, the earlier. A key takes the comment behind it along; where
 * a line holds several, comments stay where they are.
 */
export function withKeysInOrder(text: string, rankOf: (written: string) => number): string {
  const lines = keyLinesOf(text);
  const filled = lines.filter(({ keys }) => keys.length > 0);
  if (filled.every(({ keys }) => keys.length === 1)) {
    const rank = ({ keys: [key = ""] }: KeyLine) => rankOf(key);
    const sorted = filled.toSorted((a, b) => rank(a) - rank(b));
    return joinLines(
      lines.map((line) => (line.keys.length === 0 ? line : { ...line, text: sorted.shift()?.text ?? "" })),
      text,
    );
  }
  const sorted = filled.flatMap(({ keys }) => keys).toSorted((a, b) => rankOf(a) - rankOf(b));
  return joinLines(
    lines.map((line) => {
      if (line.keys.length === 0) return line;
      return { ...line, text: sorted.splice(0, line.keys.length).join(",") + line.comment };
    }),
    text,
  );
}
