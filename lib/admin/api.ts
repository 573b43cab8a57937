/**
 * The page under `/admin`, and the API behind it.
 *
 * A request is let through in this order: may its peer ask at all, does the path exist, is it a page of ours that
 * asks, is it the operator. Only then its body is read. A key's text comes in here and never goes out, save its last
 * four characters where it has 20 and more; every change is logged, by the id of the key. Loaded only where
 * `ADMIN_PASSWORD` is set, at the first request.
 *
 * All paths begin with `/admin/api/`. Scripts send `Authorization: Bearer <password>`; the page signs in and sends its
 * cookie with the field `x-keywheel-page`. Answers are JSON, errors those of `error-responses`. A change answers with
 * `{"message"}`, a sentence for people. Times are RFC 3339 in UTC, durations seconds (`_sec`) or milliseconds (`_ms`).
 *
 * - `GET session`: `{signed_in, version}`. `POST login {password}`: `{signed_in, page_key}`, which is the value of
 *   `x-keywheel-page` from then on. `POST logout`. These three need no password.
 * - `GET overview`: the truth of this moment. `headline {outcome: served|waits|refused, why, text, wait_sec}` says what
 *   the next request to the default provider meets; `hidden_429 {1h, 24h, 7d, 30d}` counts upstream's 429 that no client
 *   saw; `under_way` lists requests that are not over, `phase` one of receiving, waiting, provider, streaming;
 *   `providers` each has `state: up|paused|disabled`, `pause_reason`, `pause_said`, `next_key_sec`, `queue_sec` (how long
 *   one that comes now waits; null: nobody knows), and `keys` with the fields of `/health` and `last_four`, `said`,
 *   `source`, `locked`, `beats`: 30 slots of two minutes, the newest last, `.` nothing, `o` answers, `m` answers and
 *   failures, `r` refusals, `f` faults.
 * - `GET live`: server-sent events: `overview` (as above, at most once a second), `request` (as below, when it is over)
 *   and `key` (a change of a key or provider).
 * - `GET requests?limit=&status=&provider=&model=&client=&key=&q=`: the last ones, newest first. `status`: ok, failed,
 *   waited, rotated, 404 or 5xx; `key`: an id; `q`: words to search for. Each has `wait_ms`, `provider_ms` and
 *   `stream_ms`, which add up to `total_ms`.
 * - `GET traffic?range=1h|24h|7d|30d`: `{range, step_sec, traffic: [{at, requests, absorbed, hidden_429, errors}]}`.
 * - `GET usage?days=N`: a row a day (UTC), provider, key, model and client; `&format=csv`: as CSV.
 * - `GET providers/known`: the catalogue: `{providers: [{name, base_url, key_prefixes}]}`.
 * - `POST providers {keys, name?, base_url?, dialect?}`: makes one; without `name` it is recognised by its keys.
 *   `PATCH providers/NAME {rpm?, strategy?, …}` (`EDITABLE` of views), `DELETE providers/NAME`,
 *   `POST providers/NAME/order {ids}`.
 * - `POST providers/NAME/keys {keys, force?}`: any number, as a text with one or more a line or as a list. Answers with
 *   `keys: [{place, id, account, last_four, outcome, message}]`, `outcome` one of added, already_there, refused (by the
 *   provider, or as another company's), no_key, not_saved; 201 where one was added, else 422. Or one alone:
 *   `{key, account?, daily_limit?, force?}`. `force`: also what the provider refuses.
 * - `DELETE providers/NAME/keys/ID`, `POST …/ID/check`, `pause`, `resume`, `reset`.
 * - `POST reload`: reads the settings again.
 */
import type { Clock } from "../core/clock.ts";
import type { Access, Listen } from "../config/config.ts";
import {
  type ChangeRefused,
  type KeyTrial,
  type ChangeOutcome,
  shownOverview,
  shownRequest,
  shownTraffic,
  shownUsage,
  usageCsv,
  type Why,
} from "./views.ts";
import type { ConfiguredKey } from "../config/keys.ts";
import { DIALECTS } from "../providers/verdict.ts";
import { defaultBaseUrl, PROVIDERS } from "../providers/catalog.ts";
import {
  badRequest,
  countIn,
  invalid,
  isRefusal,
  NO_BODY,
  rangeIn,
  readChanges,
  readJsonBody,
  readKeyLines,
  readKeyText,
  readNewKey,
  readNewProvider,
  requestFilterIn,
} from "./api-input.ts";
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
import { field, type JsonObject } from "../core/json.ts";
import { shown } from "../config/key-shapes.ts";
import type { Log } from "../core/events.ts";
import { Usage } from "../observability/usage.ts";
import type { AdminApi, AdminRequest, Engine } from "../routing/engine.ts";
import { AdminService, type AdminServiceOptions } from "./service.ts";

/** What the admin API asks for. */
export type Operator = Omit<AdminService, "look" | "finished" | "keyChanged">;

interface AdminOptions {
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
  { method: "GET", path: "providers/known", answer: knownProviders },
  { method: "POST", path: "providers", answer: addProvider },
  { method: "PATCH", path: "providers/:provider", answer: editProvider },
  { method: "DELETE", path: "providers/:provider", answer: removeProvider },
  { method: "POST", path: "providers/:provider/order", answer: reorder },
  { method: "POST", path: "providers/:provider/keys", answer: addKeysEndpoint },
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
  const session = context.login.signIn(password, from);
  if (session.kind === "refused") return refusedEntry(session, from, context);
  context.log.line("info", "admin_signed_in", { peer: from.peer });
  const response = Response.json({ signed_in: true, page_key: session.pageKey });
  for (const cookie of session.cookies) response.headers.append("set-cookie", cookie);
  return response;
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
  const isWanted = requestFilterIn(query);
  if (typeof isWanted !== "function") return isWanted;
  return Response.json({ requests: context.operator.recent(limit, isWanted).map(shownRequest) });
}

function usageEndpoint({ context, query }: EndpointInput): ApiAnswer {
  const days = countIn(query, "days", 30, 366);
  if (typeof days !== "number") return days;
  const format = query.get("format") ?? "json";
  if (format !== "json" && format !== "csv") return badRequest("format must be json or csv.");
  const { operator } = context;
  const keys = operator.overview().providers.flatMap((provider) => provider.keys);
  const accounts = new Map(keys.map(({ id, account }) => [id, account]));
  const rows = operator.usage(days).map((row) => shownUsage(row, accounts));
  return format === "json" ? Response.json({ usage: rows }) : new Response(usageCsv(rows), { headers: CSV });
}

const CSV = {
  "content-type": "text/csv; charset=utf-8; header=present",
  "content-disposition": 'attachment; filename="keywheel-usage.csv"',
};

function traffic({ context, query }: EndpointInput): ApiAnswer {
  const range = rangeIn(query);
  if (typeof range !== "string") return range;
  return Response.json(shownTraffic(context.operator.traffic(range)));
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

// What there is to do

function addKeysEndpoint(input: EndpointInput): Promise<ApiAnswer> {
  return field(input.body, "keys") === undefined ? addOneKey(input) : addManyKeys(input);
}

async function addOneKey({ context, body, provider }: EndpointInput): Promise<ApiAnswer> {
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
    const [trial] = await operator.validate(provider, [key]);
    const verdict = judgeTrial(trial, provider, key.secret);
    if (isRefusal(verdict)) return verdict;
    remark = verdict;
  }
  const outcome = await operator.addKeys(provider, [key]);
  return changed(context, outcome, { action: "add_key", provider, key_id: id }, { status: 201, remark });
}

/** What the provider's word means for a key that is to be added: why it is not, or a remark with a blank before it. */
function judgeTrial(
  trial: KeyTrial | ChangeRefused | undefined,
  provider: string,
  secret: Secret,
): ProxyError | string {
  if (trial?.kind === "refused") return changeError(trial);
  const said = trial === undefined ? "" : saidOf(trial, secret);
  switch (trial?.kind) {
    case "denied":
      return proxyError(422, "key_refused", `${provider} does not accept this key${said}. It was not saved.`);
    case "unclear":
      return ` Whether it works could not be told${said}.`;
    case "works":
    case undefined:
      return "";
  }
}

/** What became of one of many keys. */
interface KeyResult {
  place: string;
  id: string | null;
  account: string | null;
  last_four: string | null;
  outcome: "added" | "already_there" | "refused" | "no_key" | "not_saved";
  message: string;
}

async function addManyKeys({ context, body, provider }: EndpointInput): Promise<ApiAnswer> {
  const { operator } = context;
  const text = readKeyText(body);
  if (typeof text !== "string") return text;
  const known = operator.overview().providers.find(({ name }) => name === provider);
  if (known === undefined) return noProvider(provider);
  const lines = readKeyLines(text);
  const isThere = ({ secret }: ConfiguredKey) => known.keys.some(({ id }) => id === secret.id);
  const fresh = lines.flatMap(({ key }) => (key === null || isThere(key) ? [] : [key]));
  const trials = field(body, "force") === true ? [] : await operator.validate(provider, fresh);
  const verdicts = new Map(
    fresh.map(({ secret }, index) => [secret.id, judgeTrial(trials[index], provider, secret)]),
  );
  const accepted = fresh.filter(({ secret }) => typeof verdicts.get(secret.id) === "string");
  const outcome = accepted.length === 0 ? null : await operator.addKeys(provider, accepted);
  if (outcome !== null) {
    const key_id = accepted.map(({ secret }) => secret.id).join(" ");
    logChange(context, outcome, { action: "add_keys", provider, key_id });
  }
  const results = lines.map(({ place, key, problem }): KeyResult => {
    const shownKey = {
      place,
      id: key?.secret.id ?? null,
      account: key?.account ?? null,
      last_four: key?.secret.lastFour ?? null,
    };
    if (key === null) return { ...shownKey, outcome: "no_key", message: problem };
    if (isThere(key)) return { ...shownKey, outcome: "already_there", message: "It is in use already." };
    const verdict = verdicts.get(key.secret.id) ?? "";
    if (typeof verdict !== "string") return { ...shownKey, outcome: "refused", message: verdict.message };
    if (outcome?.kind === "refused") return { ...shownKey, outcome: "not_saved", message: outcome.message };
    return { ...shownKey, outcome: "added", message: `It was added.${verdict}` };
  });
  const count = results.filter((result) => result.outcome === "added").length;
  const message = `${count} of ${results.length} keys ${count === 1 ? "was" : "were"} added to ${provider}.`;
  return Response.json({ message, keys: results }, { status: count > 0 ? 201 : 422 });
}

async function addProvider({ context, body }: EndpointInput): Promise<ApiAnswer> {
  const asked = readNewProvider(body);
  if (isRefusal(asked)) return asked;
  const text = readKeyText(body);
  if (typeof text !== "string") return text;
  const lines = readKeyLines(text);
  const faulty = lines.filter(({ key }) => key === null);
  if (faulty.length > 0) {
    const problems = faulty.map(({ place, problem }) => `In ${place}: ${problem}`).join("\n");
    return invalid(`Nothing was changed; first correct this:\n${problems}`);
  }
  const keys = lines.flatMap(({ key }) => (key === null ? [] : [key]));
  const name = asked.name ?? keys[0]?.origin?.issuers[0] ?? null;
  if (name === null) {
    return invalid(
      "These keys begin like nobody's we know. Say whose they are: send a name, and where that is no known provider's, its base_url.",
    );
  }
  const outcome = await context.operator.addProvider({ ...asked, name, keys });
  return changed(context, outcome, { action: "add_provider", provider: name }, { status: 201, remark: "" });
}

async function removeProvider({ context, provider }: EndpointInput): Promise<ApiAnswer> {
  const outcome = await context.operator.removeProvider(provider);
  return changed(context, outcome, { action: "remove_provider", provider });
}

function knownProviders(): ApiAnswer {
  const providers = DIALECTS.map((name) => ({
    name,
    base_url: defaultBaseUrl(name),
    key_prefixes: PROVIDERS[name].keyPrefixes ?? [],
  }));
  return Response.json({ providers });
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
  if (trial.kind === "refused") return changeError(trial);
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
  logChange({ log }, outcome, fields);
  if (outcome.kind === "refused") return changeError(outcome);
  return Response.json({ message: outcome.message + remark }, { status });
}

function logChange(
  { log }: Pick<ApiContext, "log">,
  outcome: ChangeOutcome,
  fields: Record<string, string>,
): void {
  log.line("info", "admin_change", { ...fields, outcome: outcome.kind === "done" ? "done" : outcome.why });
}

const STATUS: Record<Why, { status: number; type: ProxyErrorType }> = {
  not_found: { status: 404, type: "not_found" },
  conflict: { status: 409, type: "conflict" },
  invalid_value: { status: 422, type: "invalid_value" },
  not_writable: { status: 409, type: "not_writable" },
};

function changeError({ why, message }: Extract<ChangeOutcome, { kind: "refused" }>): ProxyError {
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
