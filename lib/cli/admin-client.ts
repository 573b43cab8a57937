/**
 * The running proxy as a command sees it: who answers at its address, what it shows, what it can be asked to do.
 *
 * Looking needs no password from this machine (`/health`); changing goes over the admin API and needs
 * ADMIN_PASSWORD. The password is sent only to what has answered as a keywheel, and to nobody else.
 */
import type { Clock } from "../core/clock.ts";
import type { Config, Listen, Places } from "../config/config.ts";
import type { Secret } from "../core/secret.ts";
import { oneLine, say, type Terminal } from "./terminal.ts";
import { field, fieldText, isObject, type JsonObject, parseJson } from "../core/json.ts";

/** A provider as the running proxy shows it. */
export interface ShownProvider {
  name: string;
  dialect: string;
  baseUrl: string;
  /** `up`, `paused`, `disabled`. */
  state: string;
  pausedSec: number;
  /** `upstream_faults`, `common_cause`; null: it is not paused, or it is not told. */
  pauseReason: string | null;
  pauseSaid: string;
  waiting: number;
  keys: ShownKey[];
}

/** A key as the running proxy shows it: it has no part of the key itself. */
export interface ShownKey {
  index: number;
  id: string;
  account: string | null;
  /** null: not told, or too short to show any of it. */
  lastFour: string | null;
  /** `ready`, `cooling`, `disabled`, `paused`. */
  state: string;
  reason: string | null;
  cooldownSec: number;
  /** How many models rest on it although the key itself does not. */
  restingModels: number;
  requests: number;
  rateLimited: number;
  errors: number;
  today: number;
  dailyLimit: number | null;
  rpmLimit: number | null;
  /** Epoch ms; null: never. */
  lastUsedAt: number | null;
  /** What upstream said of a key that is out of use; null: nothing, or it is not shown here. */
  said: string | null;
}

/** What one client used of one key today (UTC). */
export interface UsedToday {
  provider: string;
  /** By account and id, as in the log. */
  key: string;
  /** null: its key has no name. */
  client: string | null;
  requests: number;
  inputTokens: number;
  outputTokens: number;
  cachedTokens: number;
}

/** What the proxy says of itself. */
export interface Overview {
  status: string;
  version: string;
  uptimeSec: number;
  /**
   * How many proxies share the keys, this one included, and whether it hears from their server; null: it is by itself.
   */
  sharing: { instances: number; isAlone: boolean } | null;
  /** Null: it does not show them to this peer. */
  providers: ShownProvider[] | null;
  /** As it was sent, for scripts. */
  json: JsonObject;
}

/** Who answers where the proxy should be. */
type FoundProxy =
  | { kind: "running"; overview: Overview }
  | { kind: "not_running" }
  /** Something answers, and it is no keywheel. */
  | { kind: "stranger" };

/** What came of a change. `message` is a sentence for people; `json` is the answer as it came. */
export type Change = { isDone: boolean; message: string; json?: unknown };

export type CommandFetch = (url: string, init?: BunFetchRequestInit) => Promise<Response>;

interface AdminClientOptions {
  listen: Listen;
  /** `ADMIN_PASSWORD`; null: there is no admin API. */
  password: Secret | null;
  fetch: CommandFetch;
  clock: Clock;
}

/** A busy proxy still answers at once; a change may ask upstream first. */
const LOOK_TIMEOUT_MS = 5000;
const CHANGE_TIMEOUT_MS = 300_000;

export class AdminClient {
  /** Where the proxy should be: `http://127.0.0.1:3000`, or `unix:/path`. */
  readonly address: string;
  readonly #base: string;
  readonly #options: AdminClientOptions;

  constructor(options: AdminClientOptions) {
    const { listen } = options;
    this.#options = options;
    this.address =
      listen.kind === "unix" ? `unix:${listen.path}` : `http://${ownHost(listen.hostname)}:${listen.port}`;
    this.#base = listen.kind === "unix" ? "http://localhost" : this.address;
  }

  /** Whether changes can be asked for. */
  get hasPassword(): boolean {
    return this.#options.password !== null;
  }

  /** Looks who is there, and what the proxy shows of itself. */
  async find(): Promise<FoundProxy> {
    const { listen } = this.#options;
    if (listen.kind === "tcp" && listen.port === 0) return { kind: "not_running" }; // nobody knows which one it took
    const answer = await this.#ask("GET", "/health", LOOK_TIMEOUT_MS);
    if (answer === null) return { kind: "not_running" };
    const overview = readOverview(answer.json);
    return overview === null ? { kind: "stranger" } : { kind: "running", overview };
  }

  /** All that the admin API shows, or why it does not. Ask `find` first. */
  async overview(): Promise<Overview | Change> {
    const answer = await this.#ask("GET", "/admin/api/overview", LOOK_TIMEOUT_MS);
    if (answer === null) return { isDone: false, message: `${this.address} does not answer any more.` };
    const overview = answer.status === 200 ? readOverview(answer.json) : null;
    return overview ?? { isDone: false, message: messageOf(answer) };
  }

  /** What was used today, by key and client; null: it does not show that. Ask `find` first. */
  async usedToday(): Promise<UsedToday[] | null> {
    if (this.#options.password === null) return null;
    const answer = await this.#ask("GET", "/admin/api/usage?days=1", LOOK_TIMEOUT_MS);
    const json = answer?.status === 200 && isObject(answer.json) ? field(answer.json, "usage") : null;
    return Array.isArray(json) ? addedUp(json.filter(isObject)) : null;
  }

  /** Asks for a change. `path` begins behind `/admin/api`. Ask `find` first. */
  async change(method: "POST" | "DELETE", path: string, body: object = {}): Promise<Change> {
    const answer = await this.#ask(method, `/admin/api${path}`, CHANGE_TIMEOUT_MS, body);
    if (answer === null) {
      const message = `${this.address} did not answer within ${CHANGE_TIMEOUT_MS / 1000} s. Whether it was done, keywheel keys list tells.`;
      return { isDone: false, message };
    }
    return { isDone: answer.status < 300, message: messageOf(answer), json: answer.json };
  }

  /** One request; null where nobody answers in time. */
  async #ask(
    method: string,
    path: string,
    timeoutMs: number,
    body: object | null = null,
  ): Promise<{ status: number; json: unknown } | null> {
    const { listen, password, fetch, clock } = this.#options;
    const headers = new Headers({ accept: "application/json" });
    if (body !== null) headers.set("content-type", "application/json");
    if (password !== null && path !== "/health") headers.set("authorization", bearerField(password));
    const aborter = new AbortController();
    const cancel = clock.after(timeoutMs, () => aborter.abort());
    try {
      const response = await fetch(this.#base + path, {
        method,
        headers,
        body: body === null ? null : JSON.stringify(body),
        redirect: "manual", // a redirect would carry the password elsewhere
        signal: aborter.signal,
        ...(listen.kind === "unix" ? { unix: listen.path } : {}),
      });
      return { status: response.status, json: parseJson(await response.text()) };
    } catch {
      return null; // refused, cut, or too late: nobody who can be asked is there
    } finally {
      cancel();
    }
  }
}

/** A field holds bytes: letters beyond ASCII go as curl sends them, in UTF-8. */
function bearerField(password: Secret): string {
  return `Bearer ${Buffer.from(password.reveal(), "utf8").toString("latin1")}`;
}

/** This machine's own address, where the proxy listens on all of them. */
function ownHost(hostname: string): string {
  if (hostname === "0.0.0.0") return "127.0.0.1";
  if (hostname === "::") return "[::1]";
  return hostname.includes(":") ? `[${hostname}]` : hostname;
}

/** The sentence in an answer of the admin API, be it an error or not. */
function messageOf({ status, json }: { status: number; json: unknown }): string {
  const object = isObject(json) ? json : {};
  const error = field(object, "error");
  const message = fieldText(isObject(error) ? error : object, "message");
  if (message !== "") return message;
  return status < 300 ? "Done." : `It answered with status ${status} and no reason.`;
}

/** `/health` and `/admin/api/overview` show the same, one more than the other. Null: neither of them. */
function readOverview(json: unknown): Overview | null {
  if (!isObject(json)) return null;
  const [status, version] = [fieldText(json, "status"), fieldText(json, "version")];
  if (!["ok", "degraded", "down"].includes(status) || version === "") return null;
  if (field(json, "uptime_sec") === undefined) return null;
  const providers = field(json, "providers");
  const instances = field(json, "instances");
  return {
    sharing: Array.isArray(instances)
      ? { instances: instances.length, isAlone: field(json, "state_store") === "alone" }
      : null,
    status,
    version,
    uptimeSec: numberOf(json, "uptime_sec"),
    providers: Array.isArray(providers) ? providers.filter(isObject).map(readShownProvider) : null,
    json,
  };
}

function readShownProvider(json: JsonObject): ShownProvider {
  const keys = field(json, "keys");
  return {
    name: fieldText(json, "name"),
    dialect: fieldText(json, "dialect"),
    baseUrl: fieldText(json, "base_url"),
    state: fieldText(json, "state"),
    pausedSec: numberOf(json, "paused_sec"),
    pauseReason: fieldText(json, "pause_reason") || null,
    pauseSaid: fieldText(json, "pause_said"),
    waiting: numberOf(json, "waiting"),
    keys: Array.isArray(keys) ? keys.filter(isObject).map(readKey) : [],
  };
}

function readKey(json: JsonObject): ShownKey {
  const models = field(json, "models");
  const lastUsedAt = Date.parse(fieldText(json, "last_used"));
  return {
    index: numberOf(json, "index"),
    id: fieldText(json, "id"),
    account: fieldText(json, "account") || null,
    lastFour: fieldText(json, "last_four") || null,
    state: fieldText(json, "state"),
    reason: fieldText(json, "reason") || null,
    cooldownSec: numberOf(json, "cooldown_sec"),
    restingModels: isObject(models) ? Object.keys(models).length : 0,
    requests: numberOf(json, "requests"),
    rateLimited: numberOf(json, "rate_limited"),
    errors: numberOf(json, "errors"),
    today: numberOf(json, "today"),
    dailyLimit: numberOf(json, "daily_limit") || null,
    rpmLimit: numberOf(json, "rpm_limit") || null,
    lastUsedAt: Number.isNaN(lastUsedAt) ? null : lastUsedAt,
    said: fieldText(json, "said") || null,
  };
}

/** Rows of usage with their models added up, the most used first. */
function addedUp(rows: readonly JsonObject[]): UsedToday[] {
  const used = new Map<string, UsedToday>();
  for (const row of rows) {
    const [provider, key] = [fieldText(row, "provider"), fieldText(row, "key") || fieldText(row, "key_id")];
    const client = fieldText(row, "client") || null;
    const name = JSON.stringify([provider, key, client]);
    const sum = used.get(name) ?? {
      provider,
      key,
      client,
      requests: 0,
      inputTokens: 0,
      outputTokens: 0,
      cachedTokens: 0,
    };
    sum.requests += numberOf(row, "requests");
    sum.inputTokens += numberOf(row, "input_tokens");
    sum.outputTokens += numberOf(row, "output_tokens");
    sum.cachedTokens += numberOf(row, "cached_tokens");
    used.set(name, sum);
  }
  return [...used.values()].sort((one, other) => other.requests - one.requests);
}

/** 0 where there is none. */
function numberOf(json: JsonObject, name: string): number {
  const value = field(json, name);
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}

// ── What a command goes by ────────────────────────────────────────────────────────────────────────────────────────

/** What a command needs from outside. */
export interface CommandContext {
  readonly terminal: Terminal;
  readonly clock: Clock;
  /** Must obey no proxy of the environment: it carries keys, and the operator's password. */
  readonly fetch: CommandFetch;
  /** Text from 32 random bytes: for a client key or a password that is made up. */
  newToken(): string;
  /** Where the configuration is looked for; `envFile`: the PATH of `--env-file`. */
  placesOf(envFile: string | null): Places;
  /** Ends `status --watch`; without it only the process's end does. */
  readonly signal?: AbortSignal;
}

export function adminClientOf(
  { listen, adminPassword }: Config,
  { fetch, clock }: CommandContext,
): AdminClient {
  return new AdminClient({ listen, password: adminPassword, fetch, clock });
}

/** What the running proxy shows; null, and the reason is said, where there is none. */
export async function overviewOrSay(client: AdminClient, terminal: Terminal): Promise<Overview | null> {
  const found = await client.find();
  switch (found.kind) {
    case "not_running":
      say(`No keywheel answers at ${client.address}. Start it, or correct HOST and PORT.`, terminal);
      return null;
    case "stranger":
      say(`What answers at ${client.address} is no keywheel. Check HOST and PORT.`, terminal);
      return null;
    case "running": {
      if (!client.hasPassword) return found.overview;
      const overview = await client.overview();
      if (!("isDone" in overview)) return overview;
      say(`warning: ${oneLine(overview.message)}`, terminal);
      return found.overview;
    }
  }
}
