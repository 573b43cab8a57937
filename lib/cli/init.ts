/**
 * `keywheel init`: asks for keys, port, who may connect and a password, and writes the settings.
 *
 * It works at a terminal and through a pipe: there each answer is a line (keys first, an empty line ends them), and
 * what is not answered is as usual. What somebody types is read by the same rules by which the program reads its
 * settings, so that what is written starts. Keys are never shown.
 */
import { readKeyLines } from "../admin/api-input.ts";
import { giveTo, keyListText, readIfThere, setVariable, writeAtomically } from "../admin/env-edit.ts";
import { absolutePath, parseConfig } from "../config/config.ts";
import { parseEnvFile } from "../config/env-file.ts";
import type { ConfiguredKey } from "../config/keys.ts";
import { SETTINGS } from "../config/settings.ts";
import { DIALECTS } from "../providers/verdict.ts";
import type { CommandContext } from "./admin-client.ts";
import { EXIT_FAILED, EXIT_FINE, EXIT_USAGE, type InitCommand } from "./args.ts";
import { askForKeys } from "./key-commands.ts";
import { localAddresses, SYSTEM_ENV_FILE } from "./startup.ts";
import { say, type Terminal } from "./terminal.ts";

/** The user of the service (deploy/keywheel.service). */
const SERVICE_USER = "keywheel";

export async function init(command: InitCommand, context: CommandContext): Promise<number> {
  const { terminal } = context;
  const { workingDirectory, systemEnvFile = SYSTEM_ENV_FILE } = context.placesOf(command.envFile);
  const path = command.system ? systemEnvFile : absolutePath(workingDirectory, command.envFile ?? ".env");
  const before = await readIfThere(path);
  if (!before.ok) return sayFailed(`${before.reason}${command.system ? AS_ROOT : ""}`, terminal);
  if (before.text !== null && !command.yes && !(await mayReplace(path, terminal))) return EXIT_FAILED;
  const answers = await askAll(context);
  if (typeof answers === "string") {
    say(answers, terminal);
    return EXIT_USAGE;
  }
  const text = envText(answers);
  const parsed = parseConfig({}, parseEnvFile(text).values);
  if (!parsed.ok) {
    say(`Nothing was written. ${parsed.problems.join("\n")}`, terminal);
    return EXIT_USAGE;
  }
  for (const warning of parsed.warnings) say(`warning: ${warning}`, terminal);
  const problem = await write(path, text, before.text, command.system);
  if (problem !== null) return sayFailed(`${problem}${command.system ? AS_ROOT : ""}`, terminal);
  terminal.write(await howToStart(path, answers, command));
  return EXIT_FINE;
}

const AS_ROOT = " Run it as root: sudo keywheel init --system.";

function sayFailed(message: string, terminal: Terminal): number {
  say(message, terminal);
  return EXIT_FAILED;
}

async function mayReplace(path: string, terminal: Terminal): Promise<boolean> {
  if (!terminal.canAsk) {
    say(
      `${path} is there already. Add --yes to write a new one; the old one is kept as ${path}.old.`,
      terminal,
    );
    return false;
  }
  const answer = await terminal.readLine(
    `${path} is there already. Write a new one? The old one is kept as ${path}.old. [y/N] `,
  );
  if (/^y(?:es)?$/i.test(answer?.trim() ?? "")) return true;
  say("Nothing was written.", terminal);
  return false;
}

// ── The questions ─────────────────────────────────────────────────────────────────────────────────────────────────

/** Keys of one provider. */
interface KeyGroup {
  /** null: it begins like nobody's we know. */
  provider: string | null;
  /** Where the provider is; null: its name tells. */
  baseUrl: string | null;
  keys: ConfiguredKey[];
}

/** What was answered. */
interface InitAnswers {
  /** The first is the default provider. */
  groups: readonly KeyGroup[];
  port: string;
  /** The key that clients present; `off`: none is asked for; null: only this machine may connect. */
  clientKey: string | null;
  /** null: no dashboard. */
  password: string | null;
  /** The password was made up, so that it has to be told. */
  isMadeUp: boolean;
}

/** A value, or what is wrong with the answer. */
type Understood<T> = { value: T } | { problem: string };

/** All answers, or why there are none. */
async function askAll({ terminal, newToken }: CommandContext): Promise<InitAnswers | string> {
  const text = await askForKeys(KEY_QUESTION, terminal, { endsAtBlank: true });
  const lines = readKeyLines(text);
  for (const { place, problem } of lines) if (problem !== "") say(`${place}: ${problem}`, terminal);
  const groups = groupsOf(lines.flatMap(({ key }) => (key === null ? [] : [key])));
  if (groups.length === 0)
    return "No key was given, so nothing was written. Paste one key or more, or pipe them in.";
  for (const group of groups) {
    const count = group.keys.length === 1 ? "1 key" : `${group.keys.length} keys`;
    if (group.provider !== null) {
      say(
        `${count} of ${group.provider}, by how ${group.keys.length === 1 ? "it begins" : "they begin"}`,
        terminal,
      );
      continue;
    }
    const whose = await askUntilClear(
      `Whose ${group.keys.length === 1 ? "is the key" : `are the ${count}`} that begin like nobody's we know? A provider's name, or its base URL [nvidia]: `,
      providerAnswer,
      terminal,
    );
    if ("problem" in whose) return whose.problem;
    Object.assign(group, whose.value);
  }
  const port = await askUntilClear(`Port [${SETTINGS.PORT}]: `, portAnswer, terminal);
  if ("problem" in port) return port.problem;
  const access = await askUntilClear(ACCESS_QUESTION, accessAnswer, terminal);
  if ("problem" in access) return access.problem;
  const password = await askUntilClear(PASSWORD_QUESTION, passwordAnswer, terminal, true);
  if ("problem" in password) return password.problem;
  return {
    groups: mergeGroups(groups),
    port: port.value,
    clientKey: access.value === "key" ? `kw-${newToken()}` : access.value === "open" ? "off" : null,
    password: password.value === "" ? newToken().slice(0, MADE_UP_PASSWORD_LENGTH) : password.value,
    isMadeUp: password.value === "",
  };
}

const KEY_QUESTION = "Your API keys, one or more a line (they are not shown); an empty line ends: ";

const ACCESS_QUESTION = `Who may connect?
  1  programs on this machine only
  2  other machines too, with a key that is made now
  3  everybody who reaches it, without a key
[1]: `;

const PASSWORD_QUESTION =
  "Password of the dashboard, 8 characters or more (it is not shown).\nEnter makes one up, - leaves the dashboard off: ";

/** 120 bits. */
const MADE_UP_PASSWORD_LENGTH = 20;
const MOST_TRIES = 3;

/** Asks until the answer is understood, a few times; in a pipe there is one. No answer is an empty one. */
async function askUntilClear<T>(
  question: string,
  read: (answer: string) => Understood<T>,
  terminal: Terminal,
  hidden = false,
): Promise<Understood<T>> {
  for (let tries = 1; ; tries += 1) {
    const answer = await terminal.readLine(question, { hidden });
    if (answer === null && terminal.canAsk) return { problem: "Nothing was written." };
    const understood = read((answer ?? "").trim());
    if ("value" in understood || !terminal.canAsk || tries >= MOST_TRIES) return understood;
    say(understood.problem, terminal);
  }
}

function providerAnswer(answer: string): Understood<Pick<KeyGroup, "provider" | "baseUrl">> {
  const name = answer === "" ? "nvidia" : answer.toLowerCase();
  if (DIALECTS.some((dialect) => dialect === name)) return { value: { provider: name, baseUrl: null } };
  if (/^https?:\/\/\S+$/i.test(answer)) return { value: { provider: "mine", baseUrl: answer } };
  return { problem: `That is neither a base URL (https://…) nor one of ${DIALECTS.join(", ")}.` };
}

function portAnswer(answer: string): Understood<string> {
  const port = answer === "" ? SETTINGS.PORT : answer;
  if (/^\d{1,5}$/.test(port) && Number(port) <= 65_535) return { value: port };
  return { problem: "A port is a number from 1 to 65535, such as 3000; 0 picks a free one at each start." };
}

function accessAnswer(answer: string): Understood<"local" | "key" | "open"> {
  const meanings = { "": "local", "1": "local", "2": "key", "3": "open" } as const;
  const number = (["", "1", "2", "3"] as const).find((known) => known === answer);
  return number === undefined ? { problem: "Answer 1, 2 or 3." } : { value: meanings[number] };
}

/** "" stands for one that is made up, null for none. */
function passwordAnswer(answer: string): Understood<string | null> {
  if (answer === "") return { value: "" };
  if (answer === "-") return { value: null };
  const checked = parseConfig({ API_KEYS: "k", ADMIN_PASSWORD: answer });
  const problem = checked.ok ? undefined : checked.problems.find((line) => line.startsWith("ADMIN_PASSWORD"));
  return problem === undefined
    ? { value: answer }
    : { problem: `${problem.replace("ADMIN_PASSWORD", "It")}` };
}

/** Keys by whose they are, in the order of their first key. */
function groupsOf(keys: readonly ConfiguredKey[]): KeyGroup[] {
  const groups: KeyGroup[] = [];
  for (const key of keys) {
    const provider = key.origin?.issuers[0] ?? null;
    const known = groups.find((group) => group.provider === provider);
    if (known !== undefined) known.keys.push(key);
    else groups.push({ provider, baseUrl: null, keys: [key] });
  }
  return groups;
}

/** Those that turned out to be of one provider are one. */
function mergeGroups(groups: readonly KeyGroup[]): KeyGroup[] {
  const merged: KeyGroup[] = [];
  for (const group of groups) {
    const known = merged.find(
      ({ provider, baseUrl }) => provider === group.provider && baseUrl === group.baseUrl,
    );
    if (known === undefined) merged.push({ ...group, keys: [...group.keys] });
    else known.keys.push(...group.keys);
  }
  return merged;
}

// ── What is written ───────────────────────────────────────────────────────────────────────────────────────────────

/** The env file that these answers make. Pure. */
export function envText({ groups, port, clientKey, password }: InitAnswers): string {
  const variables: [name: string, value: string | null][] = groups.flatMap(
    ({ provider, baseUrl, keys }, index): [string, string | null][] => {
      const prefix = index === 0 ? "" : `${(provider ?? "").toUpperCase()}_`;
      const isRecognised = keys.every(({ origin }) => origin !== null);
      return [
        [`${prefix}API_KEYS`, keyListText(keys)],
        [index === 0 ? "TARGET_BASE_URL" : `${prefix}BASE_URL`, baseUrl],
        // Keys of a known shape say whose they are.
        [`${prefix}PROVIDER`, index === 0 && !isRecognised && baseUrl === null ? provider : null],
      ];
    },
  );
  variables.push(["PORT", port], ["PROXY_API_KEY", clientKey], ["ADMIN_PASSWORD", password]);
  let text = HEADING;
  for (const [name, value] of variables) {
    if (value === null) continue;
    const edited = setVariable(text, name, value);
    if (!edited.ok) throw new Error(`${name} cannot be written`);
    text = edited.text;
  }
  return text;
}

const HEADING = `# Settings of keywheel, written by keywheel init. A change applies at once; PORT and HOST need a restart.
`;

/** Writes the file, and keeps the one that was there. Answers with what went wrong, or null. */
async function write(
  path: string,
  text: string,
  before: string | null,
  isSystem: boolean,
): Promise<string | null> {
  if (before !== null) {
    const old = `${path}.old`;
    const earlier = await readIfThere(old);
    const kept = earlier.ok ? await writeAtomically(old, before, earlier.text) : earlier;
    if (!kept.ok) return kept.reason;
  }
  const written = await writeAtomically(path, text, before, { makesDirectory: isSystem });
  if (!written.ok) return written.reason;
  return isSystem ? giveTo(SERVICE_USER, path) : null;
}

/** What to do next. */
async function howToStart(
  path: string,
  answers: InitAnswers,
  { system, envFile }: InitCommand,
): Promise<string> {
  const { port, clientKey, password, isMadeUp } = answers;
  const start = system
    ? "sudo systemctl enable --now keywheel"
    : `keywheel${envFile === null ? "" : ` --env-file ${envFile}`}`;
  const hosts = clientKey === null ? ["127.0.0.1"] : ["127.0.0.1", ...(await localAddresses())];
  const [, other] = hosts;
  const key = clientKey === null || clientKey === "off" ? "anything" : clientKey;
  const lines = [
    `Written: ${path} (for its owner only).`,
    "",
    `Start it        ${start}`,
    `Look at it      keywheel status${envFile === null ? "" : ` --env-file ${envFile}`}`,
    "",
    "Give your tools",
    `  base URL      http://127.0.0.1:${port}/v1`,
    ...(other === undefined ? [] : [`  from others   http://${other}:${port}/v1`]),
    `  API key       ${key}`,
  ];
  if (password !== null) {
    const shown = isMadeUp ? `password ${password}` : "with the password you gave";
    lines.push(
      "",
      `Dashboard       http://${other ?? "127.0.0.1"}:${port}/admin`,
      `                ${shown}`,
    );
  }
  return `${lines.join("\n")}\n`;
}
