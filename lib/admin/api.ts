/**
 * The page under `/admin`, and the API behind it.
 *
 * A request is let through in this order: may its peer ask at all, does the path exist, is it a page of ours that
 * asks, is it the operator. Only then its body is read. A key's text comes in here and never goes out; every change
 * is logged, by the id of the key. Loaded only where `ADMIN_PASSWORD` is set, at the first request.
 */
import type { Clock } from "../core/clock.ts";
import type { Access, Listen } from "../config/config.ts";
import {
  EDITABLE,
  type KeyTrial,
  type ChangeOutcome,
  type SettingChanges,
  shownOverview,
  shownRequest,
  shownTraffic,
  shownUsage,
  type Why,
} from "./views.ts";
import { type ConfiguredKey, readPoolKeys, splitKeys } from "../config/keys.ts";
import { type Admitted, FOREIGN, isForeign, AdminAuth, whyNotAdmitted, type Presented } from "./auth.ts";
import { Live, createPage } from "./dashboard.ts";
import {
  notFound,
  proxyError,
  type ProxyError,
  errorResponse,
  type ProxyErrorType,
} from "../http/error-responses.ts";
import { redact, type Secret, unmask } from "../core/secret.ts";

import { field, isObject, type JsonObject, parseJson } from "../core/json.ts";
import { shown } from "../config/key-shapes.ts";
import type { Log } from "../core/events.ts";
import { Usage } from "../observability/usage.ts";
import type { AdminApi, AdminRequest, Engine } from "../routing/engine.ts";
import { AdminService, type AdminServiceOptions } from "./service.ts";

/** What the admin API asks for. */
export type Operator = Omit<AdminService, "look" | "finished" | "keyChanged">;

export interface AdminOptions {
  operator: Operator;
  clock: Clock;
  /** Who signs in and what is changed is logged. */
  log: Log;
  /** `ADMIN_PASSWORD` as it is now; null: not set (any more), and then nothing is here. */
  password(): Secret | null;
  /** Text from at least 32 random bytes, of characters that may stand in a cookie. */
  newToken(): string;
  /** The configuration as it is now. */
  config(): { access: Access; listen: Listen };
}

export interface Admin extends AdminApi {
  /** Ends the live streams: at drain, which would wait for them. */
  close(): void;
}

export interface OpenAdminOptions extends Omit<AdminServiceOptions, "engine" | "usage"> {
  engine: Engine;
  /** null: nobody had asked for one before. */
  usage: Usage | null;
  newToken: AdminOptions["newToken"];
}

/** Puts the API in front of a running engine, and has the engine tell it of its work. */
export async function openAdmin(options: OpenAdminOptions): Promise<Admin> {
  const { engine, newToken, ...others } = options;
  const { clock, log } = engine;
  const usage = options.usage ?? new Usage();
  if (options.usage === null) engine.observe(usage);
  const operator = new AdminService({ ...others, engine, usage });
  await operator.look();
  engine.observe(operator);
  const admin = createAdmin({
    operator,
    clock,
    log,
    password: () => engine.config.adminPassword,
    newToken,
    config: () => engine.config,
  });
  engine.onDrain = () => admin.close();
  return admin;
}

export function createAdmin(options: AdminOptions): Admin {
  const { operator, clock } = options;
  const login = new AdminAuth(options);
  const live = new Live({
    clock,
    overview: () => JSON.stringify(shownOverview(operator.overview(), clock.wall())),
    subscribe: (listener) => operator.subscribe(listener),
  });
  const context: ApiContext = { ...options, login, live, page: createPage() };
  return {
    handle: (call) => answer(call, context),
    isOperator: (headers, peer) => login.isOperator({ headers, peer }),
    close: () => live.close(),
  };
}

interface ApiContext extends AdminOptions {
  login: AdminAuth;
  live: Live;
  page: (acceptEncoding: string) => Response;
}

/** What an endpoint is given. */
interface EndpointInput {
  context: ApiContext;
  keepOpen(): void;
  from: Presented;
  /** null: not signed in, which only open endpoints see. */
  operator: Admitted | null;
  query: URLSearchParams;
  /** Of a change; else empty. */
  body: JsonObject;
  /** From the path; empty where it names none. */
  provider: string;
  keyId: string;
}

type ApiAnswer = Response | ProxyError;

interface Endpoint {
  method: "GET" | "POST" | "PATCH" | "DELETE";
  /** `:provider` and `:id` stand for one segment each. */
  path: string;
  /** Whether it answers without a password. */
  isOpen?: true;
  answer(input: EndpointInput): ApiAnswer | Promise<ApiAnswer>;
}

const KEY = "providers/:provider/keys/:id";

const ENDPOINTS: readonly Endpoint[] = [
  { method: "GET", path: "session", isOpen: true, answer: session },
  { method: "POST", path: "login", isOpen: true, answer: signIn },
  { method: "POST", path: "logout", isOpen: true, answer: signOut },
  { method: "GET", path: "overview", answer: overview },
  { method: "GET", path: "requests", answer: requests },
  { method: "GET", path: "usage", answer: usageEndpoint },
  { method: "GET", path: "traffic", answer: traffic },
  { method: "GET", path: "live", answer: watch },
  { method: "POST", path: "reload", answer: reload },
  { method: "PATCH", path: "providers/:provider", answer: editProvider },
  { method: "POST", path: "providers/:provider/order", answer: reorder },
  { method: "POST", path: "providers/:provider/keys", answer: addKeyEndpoint },
  { method: "DELETE", path: KEY, answer: removeKeyEndpoint },
  { method: "POST", path: `${KEY}/check`, answer: checkEndpoint },
  { method: "POST", path: `${KEY}/pause`, answer: (input) => changeKey(input, "pause") },
  { method: "POST", path: `${KEY}/resume`, answer: (input) => changeKey(input, "resume") },
  { method: "POST", path: `${KEY}/reset`, answer: (input) => changeKey(input, "reset") },
];

async function answer(call: AdminRequest, context: ApiContext): Promise<Response> {
  const { request, path } = call;
  const { headers } = request;
  const from = { headers, peer: call.peer };
  const { access, listen } = context.config();
  const refusal = context.password() === null ? notFound(path) : whyNotAdmitted(from, access, listen);
  if (refusal !== null) return guarded(refusal);
  if (path === "/admin" || path === "/admin/") {
    const isAsked = request.method === "GET" || request.method === "HEAD";
    return isAsked ? context.page(headers.get("accept-encoding") ?? "") : wrongMethod(["GET", "HEAD"]);
  }
  return guarded(await answerApi(call, from, context));
}

async function answerApi(call: AdminRequest, from: Presented, context: ApiContext): Promise<ApiAnswer> {
  const { request } = call;
  if (isForeign(request.headers)) return FOREIGN;
  const found = endpointFor(request.method, call.path);
  if (found.kind === "none") return notFound(call.path);
  if (found.kind === "wrong_method") return wrongMethod(found.allowed);

  const { endpoint, provider, keyId } = found;
  const admitted = endpoint.isOpen ? null : context.login.recognise(from);
  if (admitted?.kind === "refused") return refusedEntry(admitted, from, context);
  const isChange = endpoint.method !== "GET";
  const body = isChange ? await readJsonBody(request, admitted) : NO_BODY;
  if (isRefusal(body)) return body;
  const query = new URLSearchParams(call.query);
  return endpoint.answer({
    context,
    keepOpen: () => call.keepOpen(),
    from,
    operator: admitted,
    query,
    body,
    provider,
    keyId,
  });
}

type FoundEndpoint =
  | { kind: "found"; endpoint: Endpoint; provider: string; keyId: string }
  | { kind: "wrong_method"; allowed: string[] }
  | { kind: "none" };

/** Names of providers and ids of keys hold nothing that a URL would encode, so segments are compared as they are. */
function endpointFor(method: string, path: string): FoundEndpoint {
  const segments = path.split("/").slice(3); // "", "admin", "api"
  if (!path.startsWith("/admin/api/")) return { kind: "none" };
  const matching = ENDPOINTS.filter((endpoint) => {
    const pattern = endpoint.path.split("/");
    return pattern.length === segments.length && pattern.every((part, at) => fits(part, segments[at] ?? ""));
  });
  const endpoint = matching.find((endpoint) => endpoint.method === method);
  if (endpoint !== undefined) {
    return { kind: "found", endpoint, provider: segments[1] ?? "", keyId: segments[3] ?? "" };
  }
  if (matching.length === 0) return { kind: "none" };
  return { kind: "wrong_method", allowed: matching.map(({ method }) => method) };
}

function fits(part: string, segment: string): boolean {
  return part.startsWith(":") ? segment !== "" : part === segment;
}

// Who is it

function session({ context, from }: EndpointInput): ApiAnswer {
  const isIn = context.login.recognise(from).kind === "operator";
  return Response.json({ signed_in: isIn, version: isIn ? context.operator.overview().version : null });
}

function signIn({ context, from, body }: EndpointInput): ApiAnswer {
  const password = field(body, "password");
  if (typeof password !== "string" || password === "") return badRequest('Send {"password": "…"}.');
  const cookie = context.login.signIn(password, from);
  if (typeof cookie !== "string") return refusedEntry(cookie, from, context);
  context.log.line("info", "admin_signed_in", { peer: from.peer });
  return Response.json({ signed_in: true }, { headers: { "set-cookie": cookie } });
}

function signOut({ context, from }: EndpointInput): ApiAnswer {
  return Response.json({ signed_in: false }, { headers: { "set-cookie": context.login.signOut(from) } });
}

/** As many lines as passwords are looked at: the waits bound them. */
function refusedEntry(refusal: ProxyError, { peer }: Presented, { log }: ApiContext): ProxyError {
  if (refusal.type === "wrong_password") log.line("warn", "admin_wrong_password", { peer });
  return refusal;
}

// What there is to see

function overview({ context: { operator, clock } }: EndpointInput): ApiAnswer {
  return Response.json(shownOverview(operator.overview(), clock.wall()));
}

function requests({ context, query }: EndpointInput): ApiAnswer {
  const limit = countIn(query, "limit", 100, 1000);
  if (typeof limit !== "number") return limit;
  return Response.json({ requests: context.operator.recent(limit).map(shownRequest) });
}

function usageEndpoint({ context, query }: EndpointInput): ApiAnswer {
  const days = countIn(query, "days", 30, 366);
  if (typeof days !== "number") return days;
  return Response.json({ usage: context.operator.usage(days).map(shownUsage) });
}

function traffic({ context }: EndpointInput): ApiAnswer {
  return Response.json({ traffic: context.operator.traffic().map(shownTraffic) });
}

function watch({ context, operator, keepOpen }: EndpointInput): ApiAnswer {
  const stream = context.live.open(() => operator?.isStillIn() ?? false);
  if (stream === null) {
    return proxyError(
      503,
      "overloaded",
      "Too many pages watch this proxy. Close one, then reload this one.",
      5000,
    );
  }
  keepOpen(); // its heartbeat finds out who has left
  return new Response(stream, { headers: { "content-type": "text/event-stream" } });
}

/** A whole number of the query, from 1 to `most`. */
function countIn(query: URLSearchParams, name: string, unless: number, most: number): number | ProxyError {
  const text = query.get(name);
  if (text === null) return unless;
  const count = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  return count >= 1 && count <= most
    ? count
    : badRequest(`${name} must be a whole number from 1 to ${most}.`);
}

// What there is to do

async function addKeyEndpoint({ context, body, provider }: EndpointInput): Promise<ApiAnswer> {
  const { operator } = context;
  const key = readNewKey(body);
  if (isRefusal(key)) return key;
  const known = operator.overview().providers.find(({ name }) => name === provider);
  if (known === undefined) return noProvider(provider);
  const { id } = key.secret;
  if (known.keys.some((other) => other.id === id)) {
    return proxyError(409, "conflict", `The key ${id} is one of ${provider} already. Nothing was changed.`);
  }
  let remark = "";
  if (field(body, "force") !== true) {
    const trial = await operator.validate(provider, key);
    if (trial.kind === "refused") return refusedChange(trial);
    const said = saidOf(trial, key.secret);
    if (trial.kind === "denied") {
      const message = `${provider} does not accept this key${said}. It was not saved; send "force": true to save it all the same.`;
      return proxyError(422, "key_refused", message);
    }
    if (trial.kind === "unclear") remark = ` Whether it works could not be told${said}.`;
  }
  const outcome = await operator.addKey(provider, key);
  return changed(context, outcome, { action: "add_key", provider, key_id: id }, { status: 201, remark });
}

async function removeKeyEndpoint({ context, provider, keyId }: EndpointInput): Promise<ApiAnswer> {
  const outcome = await context.operator.removeKey(provider, keyId);
  return changed(context, outcome, { action: "remove_key", provider, key_id: keyId });
}

function changeKey(
  { context, provider, keyId }: EndpointInput,
  action: "pause" | "resume" | "reset",
): ApiAnswer {
  const outcome = context.operator[action](provider, keyId);
  return changed(context, outcome, { action, provider, key_id: keyId });
}

async function checkEndpoint({ context, provider, keyId }: EndpointInput): Promise<ApiAnswer> {
  const trial = await context.operator.check(provider, keyId);
  if (trial.kind === "refused") return refusedChange(trial);
  const said = saidOf(trial);
  switch (trial.kind) {
    case "works":
      return Response.json({ works: true, message: `${provider} accepts the key ${keyId}.` });
    case "denied":
      return Response.json({ works: false, message: `${provider} does not accept the key ${keyId}${said}.` });
    case "unclear":
      return Response.json({
        works: null,
        message: `Whether the key ${keyId} works could not be told${said}.`,
      });
  }
}

async function reorder({ context, body, provider }: EndpointInput): Promise<ApiAnswer> {
  const ids = field(body, "ids");
  if (!Array.isArray(ids) || !ids.every((id) => typeof id === "string")) {
    return badRequest('Send {"ids": ["…", …]}: every key of the provider, in the order you want.');
  }
  const outcome = await context.operator.reorderKeys(provider, ids);
  return changed(context, outcome, { action: "reorder_keys", provider });
}

async function editProvider({ context, body, provider }: EndpointInput): Promise<ApiAnswer> {
  const changes = readChanges(body);
  if (isRefusal(changes)) return changes;
  const outcome = await context.operator.editProvider(provider, changes);
  return changed(context, outcome, {
    action: "edit_provider",
    provider,
    settings: [...changes.keys()].join(" "),
  });
}

async function reload({ context }: EndpointInput): Promise<ApiAnswer> {
  const outcome = await context.operator.reload();
  context.log.line("info", "admin_change", { action: "reload", outcome: outcome.kind });
  if (outcome.kind === "refused") {
    const problems = outcome.problems.join("\n");
    return proxyError(422, "invalid_configuration", `Nothing was changed; first correct this:\n${problems}`);
  }
  const { changes } = outcome;
  const message = changes.length === 0 ? "Nothing has changed." : changes.join("\n");
  return Response.json({ changes, message });
}

/** The answer to a change, and its line in the log. */
function changed(
  { log }: ApiContext,
  outcome: ChangeOutcome,
  fields: Record<string, string>,
  { status, remark } = { status: 200, remark: "" },
): ApiAnswer {
  log.line("info", "admin_change", { ...fields, outcome: outcome.kind === "done" ? "done" : outcome.why });
  if (outcome.kind === "refused") return refusedChange(outcome);
  return Response.json({ message: outcome.message + remark }, { status });
}

const STATUS: Record<Why, { status: number; type: ProxyErrorType }> = {
  not_found: { status: 404, type: "not_found" },
  conflict: { status: 409, type: "conflict" },
  invalid_value: { status: 422, type: "invalid_value" },
  not_writable: { status: 409, type: "not_writable" },
};

function refusedChange({ why, message }: Extract<ChangeOutcome, { kind: "refused" }>): ProxyError {
  const { status, type } = STATUS[why];
  return proxyError(status, type, message);
}

/** What upstream said, as the end of a sentence; never with the key in it. */
function saidOf(trial: KeyTrial, ...secrets: Secret[]): string {
  if (trial.kind === "works" || trial.said === "") return "";
  return `: "${unmask(redact(trial.said, secrets))}"`;
}

function noProvider(provider: string): ProxyError {
  return proxyError(404, "not_found", `There is no provider ${shown(provider)}.`);
}

// What is sent

const LONGEST_KEY = 4096;

/** `{"key", "account", "daily_limit"}`: read by the rules of the setting it will stand in. */
function readNewKey(body: JsonObject): ConfiguredKey | ProxyError {
  const text = field(body, "key");
  const account = field(body, "account") ?? "";
  const dailyLimit = field(body, "daily_limit") ?? "";
  if (typeof text !== "string" || text === "") return badRequest('Send {"key": "…"}.');
  if (typeof account !== "string") return invalid("account must be text, or left out.");
  if (!/^(?:[1-9]\d{0,14})?$/.test(String(dailyLimit))) {
    return invalid("daily_limit must be a whole number from 1 up, or left out.");
  }
  // Every character counts: a line break would begin a setting of its own, a comma a key of its own.
  const written = `${account === "" ? "" : `${account}@`}${text}${dailyLimit === "" ? "" : `:${dailyLimit}`}`;
  if (written.length > LONGEST_KEY) return invalid(`The key is longer than ${LONGEST_KEY} characters.`);
  if (/[\s,\p{Cc}]/u.test(written)) {
    return invalid(
      "The key holds white space, a comma or a control character. Send one key, and nothing around it.",
    );
  }
  const { keys, problems } = readPoolKeys(splitKeys("The new key", written));
  const [key] = keys;
  return key ?? invalid(`${problems.join("\n").replace(/^The new key: key 1/, "The new key")}`);
}

function readChanges(body: JsonObject): SettingChanges | ProxyError {
  const changes = new Map<(typeof EDITABLE)[number], string | null>();
  for (const name of Object.keys(body)) {
    const setting = EDITABLE.find((known) => known === name);
    if (setting === undefined) {
      return invalid(`Only these can be changed from here: ${EDITABLE.join(", ")}.`);
    }
    const value = field(body, name);
    if (value !== null && !["string", "number", "boolean"].includes(typeof value)) {
      return invalid(`${setting} must be text, a number, true, false or null.`);
    }
    const text = value === null ? "" : String(value).trim();
    if (text.length > 1000 || /\p{Cc}/u.test(text))
      return invalid(`${setting} cannot be so. Use one short line.`);
    changes.set(setting, text === "" ? null : text);
  }
  if (changes.size === 0) return badRequest(`Send at least one of ${EDITABLE.join(", ")}.`);
  return changes;
}

const MOST_BODY_BYTES = 64 * 1024;
const NO_BODY: JsonObject = {};

/** The body of a change: a JSON object, or nothing. */
async function readJsonBody(request: Request, operator: Admitted | null): Promise<JsonObject | ProxyError> {
  const { headers } = request;
  const type = headers.get("content-type");
  const isJson = type !== null && /^application\/json\s*(?:;|$)/i.test(type);
  // A form of another site can be sent without asking, JSON cannot. A script has shown the password, which no
  // other site knows, and may leave the type out where there is nothing to send.
  if (!isJson && (type !== null || operator?.by !== "password")) return WRONG_TYPE;
  const text = await readBodyText(request);
  if (typeof text !== "string") return text;
  if (text.trim() === "") return NO_BODY;
  const body = isJson ? parseJson(text) : undefined;
  if (body === undefined && !isJson) return WRONG_TYPE;
  return isObject(body) ? body : badRequest("The body is not a JSON object.");
}

async function readBodyText(request: Request): Promise<string | ProxyError> {
  if (Number(request.headers.get("content-length") ?? 0) > MOST_BODY_BYTES) return TOO_LARGE;
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  let bytes = 0;
  try {
    for await (const chunk of request.body ?? []) {
      bytes += chunk.length;
      if (bytes > MOST_BODY_BYTES) return TOO_LARGE;
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  } catch {
    return badRequest("The body broke off, or is not UTF-8."); // who broke it off does not read this
  }
}

function isRefusal(value: object): value is ProxyError {
  return "kind" in value && value.kind === "refused" && "type" in value;
}

// What goes out

const GUARDS = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
};

/** No answer of the API is kept, framed, or read as something else by a browser. */
function guarded(answer: ApiAnswer): Response {
  const response = isRefusal(answer) ? errorResponse(answer) : answer;
  for (const [name, value] of Object.entries(GUARDS)) response.headers.set(name, value);
  return response;
}

function wrongMethod(allowed: readonly string[]): Response {
  const list = allowed.join(", ");
  const response = errorResponse(proxyError(405, "method_not_allowed", `Use ${list} here.`));
  response.headers.set("allow", list);
  return guarded(response);
}

function badRequest(message: string): ProxyError {
  return proxyError(400, "bad_request", message);
}

function invalid(message: string): ProxyError {
  return proxyError(422, "invalid_value", message);
}

const WRONG_TYPE = proxyError(
  415,
  "unsupported_media_type",
  "Send JSON, with content-type: application/json.",
);

const TOO_LARGE = proxyError(
  413,
  "body_too_large",
  `The request body is larger than ${MOST_BODY_BYTES / 1024} KB, which nothing here needs.`,
);
