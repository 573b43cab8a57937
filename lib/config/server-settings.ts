/**
 * Settings that only the proxy has, because it is a server: the library leaves this file out.
 */
import { Secret } from "../core/secret.ts";
import { type ClientLimit, parseClientLimits } from "./client-limits.ts";
import { type ClientKey, faultOfPassword } from "./keys.ts";
import {
  absolutePath,
  DIRECTORY_PATH,
  oneOf,
  ORIGINS,
  SECONDS,
  STATE,
  TIMEZONE,
  WEB_ADDRESS,
  wholeNumber,
} from "./parsers.ts";
import type { SettingsReader } from "./settings.ts";
import { isServerAddress, parseStateServer, STATE_PREFIX, type StateServer } from "./state-server.ts";

/** Who gets in. `protected`: loopback only. */
export type Access = { mode: "protected" } | { mode: "keys"; clients: ClientKey[] } | { mode: "open" };

/** What is set of the server alone: where it writes, what it keeps, who may use how much, who operates it. */
export interface ServerSettings {
  /** As browsers write them in `Origin`, or a single `*`. */
  corsOrigins: string[];
  drainMs: number;
  logLevel: "debug" | "info" | "warn" | "error";
  /** null: text on a terminal, else JSON. */
  logFormat: "text" | "json" | null;
  /** null: no log files. A relative one begins at the working directory. */
  logDir: string | null;
  /** So many days before today are kept. */
  logRetentionDays: number;
  /** What clients may use; empty: whatever they like. */
  clientLimits: ClientLimit[];
  /** IANA zone whose midnight ends the day of clients' limits. */
  clientZone: string;
  /** The file that outlives a restart; null: off, or a server. A relative one begins at the working directory. */
  statePath: string | null;
  /** The server by which several proxies are one pool; null: there is none. */
  stateServer: StateServer | null;
  /** Files with certificates of CAs that are trusted too, as they are written. */
  certificateFiles: string[];
  /** null: there is no /admin. */
  adminPassword: Secret | null;
  /** An http or https address, which may hold a token; null: nobody is told. */
  webhookUrl: Secret | null;
}

/**
 * What the runtime reads when the process starts: certificates to trust beside its own. They are not read from the
 * env file by themselves, so `lib/cli/startup.ts` puts them into the environment.
 */
export const CERTIFICATE_SETTINGS = ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"] as const;

/** After the providers and the access, whose keys it compares with. `stateDirectory`: as systemd says it. */
export function readServerSettings(
  reader: SettingsReader,
  access: Access,
  stateDirectory: string | undefined,
): ServerSettings {
  const corsOrigins = reader.readOptional("CORS_ORIGINS", ORIGINS) ?? [];
  if (corsOrigins.includes("*") && access.mode !== "keys") {
    reader.warnings.add(
      "CORS_ORIGINS is * and no client key is asked for: every web page you open can use your keys. Name the origins, or set PROXY_API_KEY.",
    );
  }
  return {
    corsOrigins,
    drainMs: reader.read("DRAIN_SEC", SECONDS),
    logLevel: reader.read("LOG_LEVEL", oneOf(["debug", "info", "warn", "error"])),
    logFormat: reader.readOptional("LOG_FORMAT", oneOf(["text", "json"])),
    logDir: reader.readOptional("LOG_DIR", DIRECTORY_PATH),
    logRetentionDays: reader.read("LOG_RETENTION_DAYS", wholeNumber(1, 36_500)),
    clientLimits: readClientLimits(reader, access),
    clientZone: reader.readOptional("TIMEZONE", TIMEZONE) ?? "UTC",
    statePath: readStatePath(reader, stateDirectory),
    stateServer: readStateServer(reader),
    certificateFiles: CERTIFICATE_SETTINGS.flatMap((name) => reader.text(name) ?? []),
    adminPassword: readAdminPassword(reader),
    webhookUrl: readWebhookUrl(reader),
  };
}

function readClientLimits(reader: SettingsReader, access: Access): ClientLimit[] {
  const text = reader.text("CLIENT_LIMITS");
  if (text === null) return [];
  const clients = access.mode === "keys" ? access.clients.map(({ name }) => name) : [];
  const list = parseClientLimits(text, new Set(clients.filter((name) => name !== null)));
  for (const problem of list.problems) reader.problems.add(problem);
  return list.limits;
}

/** `directories`: what systemd says in `STATE_DIRECTORY`, several separated by `:`. */
function readStatePath(reader: SettingsReader, directories: string | undefined): string | null {
  if (isServerAddress(reader.text("STATE") ?? "")) return null;
  const path = reader.read("STATE", STATE);
  if (path === "off") return null;
  const [directory = ""] = directories?.trim().split(":") ?? [];
  return directory === "" ? path : absolutePath(directory, path);
}

/** Its address may hold a password, so it is never shown. */
function readStateServer(reader: SettingsReader): StateServer | null {
  const prefix = reader.read("STATE_PREFIX", STATE_PREFIX);
  const text = reader.text("STATE");
  if (text === null || !isServerAddress(text)) return null;
  const server = parseStateServer(text, prefix);
  if (typeof server !== "string") return server;
  reader.problems.add(`STATE ${server}.`);
  return null;
}

/** After the keys: whoever holds one of them must not hold the password too. Never shown. */
function readAdminPassword(reader: SettingsReader): Secret | null {
  const text = reader.text("ADMIN_PASSWORD");
  if (text === null) return null;
  const fault = faultOfPassword(text, reader);
  if (fault !== null) reader.problems.add(`ADMIN_PASSWORD ${fault}, or remove it for no /admin.`);
  return new Secret(text);
}

/** Its address mostly holds a token, so it is never shown. */
function readWebhookUrl(reader: SettingsReader): Secret | null {
  const text = reader.text("WEBHOOK_URL");
  if (text === null) return null;
  const address = WEB_ADDRESS.read(text);
  if (address !== null) return new Secret(address);
  reader.problems.add(`WEBHOOK_URL is not a web address. ${WEB_ADDRESS.says}, or remove it.`);
  return null;
}
