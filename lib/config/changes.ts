/**
 * What a new configuration changes, in lines for the log. Pure; keys are named by their place, never shown.
 */
import type { Config, ProviderConfig } from "./config.ts";
import { Secret } from "../core/secret.ts";

/** What takes effect only when the program starts. */
const AT_START = ["listen", "logFormat", "logDir", "logRetentionDays", "statePath", "webhookUrl"] as const;
type AtStart = (typeof AT_START)[number];

const VARIABLES: Record<AtStart, string> = {
  listen: "HOST and PORT",
  logFormat: "LOG_FORMAT",
  logDir: "LOG_DIR",
  logRetentionDays: "LOG_RETENTION_DAYS",
  statePath: "STATE",
  webhookUrl: "WEBHOOK_URL",
};

export interface Changes {
  /** What is other than before, one line each; empty: nothing. */
  lines: string[];
  /** What was changed and has no effect until a restart. */
  needRestart: string[];
}

export function changesOf(before: Config, after: Config): Changes {
  const names = Object.keys(after).filter((name): name is keyof Config => name in before);
  const changed = names.filter((name) => name !== "providers" && !isSame(before[name], after[name]));
  const isAtStart = (name: keyof Config): name is AtStart => AT_START.some((other) => other === name);
  return {
    lines: [
      ...providerLines(before.providers, after.providers),
      ...changed.filter((name) => !isAtStart(name)).map((name) => `${variableOf(name)} changed`),
    ],
    needRestart: changed.filter(isAtStart).map((name) => VARIABLES[name]),
  };
}

function providerLines(before: readonly ProviderConfig[], after: readonly ProviderConfig[]): string[] {
  const lines: string[] = [];
  for (const provider of after) {
    const old = before.find(({ name }) => name === provider.name);
    if (old === undefined) lines.push(`provider ${provider.name} added with ${provider.keys.length} keys`);
    else lines.push(...linesOf(old, provider));
  }
  for (const { name } of before) {
    if (!after.some((provider) => provider.name === name)) lines.push(`provider ${name} removed`);
  }
  if (before[0]?.name !== after[0]?.name) lines.push(`the default provider is ${after[0]?.name}`);
  return lines;
}

function linesOf(before: ProviderConfig, after: ProviderConfig): string[] {
  const { name } = after;
  const ids = (provider: ProviderConfig) => provider.keys.map(({ secret }) => secret.id);
  const [old, now] = [ids(before), ids(after)];
  const added = now.flatMap((id, index) => (old.includes(id) ? [] : [`[${index}]`]));
  const removed = old.flatMap((id, index) => (now.includes(id) ? [] : [`[${index}]`]));
  const stayed = (list: string[], other: string[]) => list.filter((id) => other.includes(id)).join();
  const lines: string[] = [];
  if (added.length > 0) lines.push(`${name}: keys added: ${added.join(" ")}`);
  if (removed.length > 0) lines.push(`${name}: keys removed (as they were numbered): ${removed.join(" ")}`);
  if (stayed(old, now) !== stayed(now, old)) lines.push(`${name}: keys reordered`);
  const settings = Object.keys(after).filter((field): field is keyof ProviderConfig => field !== "keys");
  const others = settings.filter((field) => !isSame(before[field], after[field]));
  if (others.length > 0) lines.push(`${name}: ${others.map(variableOf).join(", ")} changed`);
  const limits = (provider: ProviderConfig) =>
    provider.keys
      .filter(({ secret }) => old.includes(secret.id) && now.includes(secret.id))
      .map(({ secret, account, dailyLimit }) => `${secret.id} ${account} ${dailyLimit}`)
      .sort()
      .join();
  if (limits(before) !== limits(after)) lines.push(`${name}: accounts or daily limits of keys changed`);
  return lines;
}

/** `maxWaitMs` as it is written in the settings, near enough for a person: `max wait`. */
function variableOf(field: string): string {
  return field.replace(/(?:Ms|Bytes)$/, "").replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

function isSame(left: unknown, right: unknown): boolean {
  return JSON.stringify(left, plain) === JSON.stringify(right, plain);
}

/** Secrets become their fingerprints, sets their members. */
function plain(_name: string, value: unknown): unknown {
  if (value instanceof Set) return [...value];
  return value instanceof Secret ? value.id : value;
}
