/**
 * Whether keys work: each is put on the cheapest request that proves one, and the answer is judged like any other.
 *
 * No quota is spent, and nothing is guessed: where no free request tells a live key from a dead one, the answer is
 * that nobody knows. `checkKeys` checks keys when somebody asks; `KeyChecker` checks those in doubt or out of use by
 * itself (P12).
 */
import type { UpstreamQuestion, UpstreamResponse } from "../core/runtime.ts";
import type { ConfiguredKey, ProviderConfig } from "../config/config.ts";
import { DAY_MS, MINUTE_MS, nextTurn } from "../core/clock.ts";
import type { CancelTimer, Clock } from "../core/clock.ts";
import type { KeyEvent, Observer } from "../core/events.ts";
import { field, isObject, parseJson } from "../core/json.ts";
import { redact, unmask } from "../core/secret.ts";
import type { Secret } from "../core/secret.ts";
import { evidenceOf, readerOf, readUpTo } from "../http/body.ts";
import { explainError } from "../http/connection-errors.ts";
import { baseOf, joinBase } from "../http/request.ts";
import type { ClientApi } from "../http/request.ts";
import { authHeader, checkFor, PROVIDERS } from "../providers/catalog.ts";
import type { CheckRequest } from "../providers/catalog.ts";
import { classify, readAnswer } from "../providers/classify.ts";
import type { Dialect, Evidence, Verdict } from "../providers/verdict.ts";
import type { Key, KeyPool } from "./key.ts";

/** What was found of a key. */
export type CheckResult =
  /** It may be used now. */
  | "alive"
  /** It is alive, but cools: too many requests, or a quota or money that is used up. */
  | "limited"
  /** The provider says that it is no key (any more). */
  | "dead"
  /** The provider was not reached, or failed. */
  | "unreachable"
  /** There is no free question that would tell, or the answer says nothing of the key. */
  | "unknown";

/** A result, and why, in one line; empty: there is nothing to add. */
export interface Finding {
  result: CheckResult;
  detail: string;
  /** It is what anybody gets, with whatever key: it says nothing against this one. */
  isOpen?: true;
}

export interface CheckedKey extends Finding {
  provider: string;
  index: number;
  /** `Secret.id`. */
  id: string;
  account: string | null;
}

export interface CheckOptions {
  fetch: (url: string, question: UpstreamQuestion) => Promise<UpstreamResponse>;
  clock: Clock;
  /** Called whenever a key has been checked. */
  onProgress(done: number, total: number): void;
}

/** Polite to a provider, and quick enough for a hundred keys. */
const AT_ONCE = 4;
const TIMEOUT_MS = 20_000;
const MOST_EVIDENCE_BYTES = 64 * 1024;

/** Checks all keys of the providers, some at a time; the result is in their order. */
export async function checkKeys(
  providers: readonly ProviderConfig[],
  options: CheckOptions,
): Promise<CheckedKey[]> {
  const questions = providers.flatMap((provider) =>
    provider.keys.map((key, index) => ({ provider, key, index })),
  );
  const checked: CheckedKey[] = [];
  const openAnswers: OpenAnswers = new Map();
  let begun = 0;
  let done = 0;
  const worker = async () => {
    for (let place = begun++; place < questions.length; place = begun++) {
      const { provider, key, index } = questions[place]!;
      const finding = await checkKey(provider, key, options, openAnswers);
      const { secret, account } = key;
      checked[place] = { provider: provider.name, index, id: secret.id, account, ...finding };
      options.onProgress(++done, questions.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return checked;
}

/** What the question of a provider came to without a key: the same for all of its keys. */
type OpenAnswers = Map<ProviderConfig, Promise<Evidence>>;

async function checkKey(
  provider: ProviderConfig,
  { secret }: ConfiguredKey,
  { fetch, clock }: Pick<CheckOptions, "fetch" | "clock">,
  openAnswers: OpenAnswers,
): Promise<Finding> {
  const { dialect, baseUrl } = provider;
  const check = checkFor(dialect, baseUrl);
  if (check === null) {
    return { result: "unknown", detail: `no free request tells a live key of ${dialect} from a dead one` };
  }
  const aborter = new AbortController();
  const cancel = clock.after(TIMEOUT_MS, () => aborter.abort());
  try {
    const credential = authHeader(dialect, check.url.pathname, secret.reveal());
    const via = { fetch, signal: aborter.signal, proxy: provider.upstreamProxy };
    const evidence = await send(check, credential, via);
    // A list that anybody gets proves no key: where it may be such a one, it is asked for without a key, too.
    const mayBePublic = PROVIDERS[dialect].proof?.mayBePublic === true;
    if (evidence.status >= 300 || !mayBePublic) return judge(dialect, evidence, secret, clock.wall());
    const withoutKey = openAnswers.get(provider) ?? send(check, null, via);
    openAnswers.set(provider, withoutKey);
    return judge(dialect, evidence, secret, clock.wall(), await withoutKey);
  } catch (error) {
    const way = { host: check.url.host, proxy: provider.upstreamProxy };
    const isLate = aborter.signal.aborted;
    const detail = isLate ? `no answer within ${TIMEOUT_MS / 1000} s` : explainError(error, way).message;
    return { result: "unreachable", detail };
  } finally {
    cancel();
  }
}

/** Asks for one token of a model: for providers of which no free request tells whether a key works. */
export async function checkByModel(
  provider: ProviderConfig,
  { secret }: Pick<ConfiguredKey, "secret">,
  model: string,
  { fetch, clock }: Pick<CheckOptions, "fetch" | "clock">,
): Promise<Finding> {
  const { dialect, baseUrl } = provider;
  const { path, api, fields, body } = oneTokenOf(dialect, model);
  const url = new URL(joinBase(baseOf(baseUrl, dialect), path, api), baseUrl);
  const aborter = new AbortController();
  const cancel = clock.after(TIMEOUT_MS, () => aborter.abort());
  try {
    const credential = authHeader(dialect, url.pathname, secret.reveal());
    const headers = { ...fields, "content-type": "application/json" };
    const via = { fetch, signal: aborter.signal, proxy: provider.upstreamProxy };
    const evidence = await send(
      { url, method: "POST", headers, body: JSON.stringify(body) },
      credential,
      via,
    );
    const verdict = classify(dialect, evidence, clock.wall());
    if (verdict.kind === "served") return { result: "alive", detail: "" };
    return judge(dialect, evidence, secret, clock.wall());
  } catch (error) {
    const detail = aborter.signal.aborted
      ? `no answer within ${TIMEOUT_MS / 1000} s`
      : explainError(error, { host: url.host, proxy: provider.upstreamProxy }).message;
    return { result: "unreachable", detail };
  } finally {
    cancel();
  }
}

/** The request for one token in a dialect's own form. */
function oneTokenOf(
  dialect: Dialect,
  model: string,
): { path: string; api: ClientApi; fields: Record<string, string>; body: object } {
  const messages = [{ role: "user", content: "Hi" }];
  switch (dialect) {
    case "anthropic": {
      const fields = { "anthropic-version": "2023-06-01" };
      return { path: "/v1/messages", api: "anthropic", fields, body: { model, max_tokens: 1, messages } };
    }
    case "gemini": {
      const path = `/v1beta/models/${encodeURIComponent(model)}:generateContent`;
      const contents = [{ role: "user", parts: [{ text: "Hi" }] }];
      return {
        path,
        api: "google",
        fields: {},
        body: { contents, generationConfig: { maxOutputTokens: 1 } },
      };
    }
    default:
      return {
        path: "/v1/chat/completions",
        api: "openai",
        fields: {},
        body: { model, max_tokens: 1, messages },
      };
  }
}

/** How a check gets to the provider. */
interface Via {
  readonly fetch: CheckOptions["fetch"];
  readonly signal: AbortSignal;
  readonly proxy: ProviderConfig["upstreamProxy"];
}

interface SentCheck extends Pick<CheckRequest, "url" | "headers"> {
  method: string;
  body?: string;
}

/** Sends the check, with a key's field or without. */
async function send(
  { url, method, headers: fields, body }: SentCheck,
  credential: readonly [field: string, value: string] | null,
  { fetch, signal, proxy }: Via,
): Promise<Evidence> {
  const asked = new Headers({ ...fields, accept: "application/json" });
  if (credential !== null) asked.set(...credential);
  // A redirect that is followed would carry the key elsewhere.
  const response = await fetch(url.href, {
    method,
    headers: asked,
    body: body ?? null,
    redirect: "manual",
    proxy: proxy?.address.reveal(),
    signal,
  });
  const { status, headers } = response;
  // In front of plain HTTP a proxy answers in the provider's place.
  if (status === 407 && proxy !== null)
    throw Object.assign(new Error("407 from the proxy"), { code: "ERR_PROXY_TUNNEL" });
  const reader = readerOf(response);
  const read = reader === null ? null : await readUpTo(reader, MOST_EVIDENCE_BYTES);
  await reader?.cancel().catch(() => {}); // what is beyond does not matter, and may never end
  return { status, headers, body: read === null ? "" : evidenceOf(read.bytes) };
}

// ---- what an answer says

/**
 * What an answer to a check says of the key. `withoutKey`: what the same came to without one; null: it was not sent.
 * Pure.
 */
export function judge(
  dialect: Dialect,
  evidence: Evidence,
  secret: Secret,
  now: number,
  withoutKey: Evidence | null = null,
): Finding {
  const { status } = evidence;
  if (status >= 300 && status < 400) {
    return { result: "unknown", detail: `status ${status}: it points elsewhere; check the base URL` };
  }
  const verdict = classify(dialect, evidence, now);
  const words = "said" in verdict ? unmask(redact(verdict.said, [secret])) : "";
  const said = words === "" ? `status ${status}` : words;
  switch (verdict.kind) {
    case "served":
      return readProof(dialect, evidence, withoutKey);
    case "rate_limited":
    case "exhausted":
      return { result: "limited", detail: `${verdict.reason}: ${said}` };
    case "revoked":
      return { result: verdict.certain || isPlainRefusal(evidence) ? "dead" : "unknown", detail: said };
    case "unsuited":
      return { result: "unknown", detail: said };
    case "rejected": {
      const isMissing = status === 404;
      const detail = isMissing ? "the provider has no such list of models: check the base URL" : said;
      return { result: "unknown", detail };
    }
    case "overloaded":
      return { result: "unreachable", detail: said };
  }
}

/** To the question whether this is a key a 401 is an answer, if the API gives it; a 403 may be about the question. */
function isPlainRefusal({ status, headers, body }: Evidence): boolean {
  return status === 401 && !readAnswer(status, headers, body).isPage;
}

/** What a good answer proves: some list their models for everybody, some tell what the account has left. */
function readProof(dialect: Dialect, { body }: Evidence, withoutKey: Evidence | null): Finding {
  const { proof } = PROVIDERS[dialect];
  const answer = parseJson(body);
  const isDead = proof?.deadWhere?.some(([path, value]) => value.test(String(valueAt(answer, path))));
  if (isDead) return { result: "dead", detail: "the provider says that it is blocked" };
  if (proof === null || (proof.mayBePublic && !isRefused(withoutKey)))
    return {
      result: "unknown",
      detail: "its list of models is open to everybody, so it proves no key",
      isOpen: true,
    };
  const canPay = proof.proves !== "balance" || (proof.left && isSome(valueAt(answer, proof.left)));
  return canPay
    ? { result: "alive", detail: "" }
    : { result: "limited", detail: "billing: as far as is told, its account has nothing left" };
}

function isRefused(evidence: Evidence | null): boolean {
  return evidence !== null && (evidence.status === 401 || evidence.status === 403);
}

function valueAt(root: unknown, path: readonly string[]): unknown {
  let value = root;
  for (const name of path) value = isObject(value) ? field(value, name) : undefined;
  return value;
}

/** `true`, or an amount above nothing; some write it as text. Null is no amount: no cap, which says nothing. */
function isSome(left: unknown): boolean {
  return typeof left === "string" || typeof left === "number" ? Number(left) > 0 : left === true;
}

// ---- checks that nobody asks for

const DEAD_FIRST_MS = 10 * MINUTE_MS;
const DEAD_LONGEST_MS = DAY_MS;
const BILLING_EVERY_MS = 15 * MINUTE_MS;
/** A doubted key is not checked more often than this. */
const DOUBT_EVERY_MS = MINUTE_MS;

/** Whether a refusal stated that the key is invalid. */
type Doubt = Pick<Extract<Verdict, { kind: "revoked" }>, "certain">;
const FOUND_WELL: ReadonlySet<CheckResult> = new Set(["alive", "limited"]);

/** A provider whose keys are checked. */
export interface CheckedProvider {
  readonly config: ProviderConfig;
  readonly pool: Pick<KeyPool, "keys" | "revive" | "disable" | "tryAgain" | "vouchFor">;
}

interface CheckerOptions extends Pick<CheckOptions, "fetch" | "clock"> {
  /** Those of this moment: a reload may put others in their place. */
  readonly providers: () => readonly CheckedProvider[];
}

/**
 * Checks keys that are out of use or in doubt: confirms a death, and brings back early what lives (P12).
 *
 * A refusal that does not say why is no proof, so a doubted key is checked at once. A dead one is checked again, more
 * and more rarely: accounts are revived, and providers err. One whose money ran out is checked where the answer tells
 * the balance. A timer runs only while there is such a key.
 */
export class KeyChecker implements Observer {
  readonly #options: CheckerOptions;
  /** By provider and key: the next check. */
  readonly #pending = new Map<string, CancelTimer>();
  /** By provider and key, where there is no check: after how many ms a real request tries it the next time. */
  readonly #trialDelays = new Map<string, number>();
  /** By provider and key: when it was checked last, and what came of it. */
  readonly #checked = new Map<string, { readonly at: number; readonly result: Promise<Finding | null> }>();

  constructor(options: CheckerOptions) {
    this.#options = options;
  }

  /** Takes up the keys that an earlier run found dead. */
  start(): void {
    for (const { config, pool } of this.#options.providers())
      for (const { disabled, secret } of pool.keys)
        if (disabled !== null) this.#onDisabled(config.name, secret.id);
  }

  /** Checks nothing any more. */
  close(): void {
    for (const cancel of this.#pending.values()) cancel();
    this.#pending.clear();
  }

  keyChanged({ at, provider, keyId, kind, reason, until, model }: KeyEvent): void {
    if (keyId === null) return;
    switch (kind) {
      case "doubted":
        void this.#checkAtOnce(provider, keyId);
        return;
      case "disabled":
        this.#onDisabled(provider, keyId);
        return;
      case "cooled":
        if (reason === "billing" && model === null && this.#tellsBalance(provider))
          this.#checkBalance(provider, keyId, this.#options.clock.now() + ((until ?? at) - at));
        return;
      case "back":
        this.#forget(provider, keyId);
        return;
      case "paused_by_hand":
      case "resumed_by_hand":
      case "provider_paused":
      case "provider_up":
      case "pool_dry":
      case "pool_recovered":
        return;
    }
  }

  /**
   * Whether these keys are to blame for a refusal: checks say of all that they are dead, and then they are out of use.
   * The last key alone that was refused without a stated reason is to blame unless a check finds it well, or none can
   * tell.
   */
  async blames(provider: string, keys: readonly Key[], { certain }: Doubt): Promise<boolean> {
    const results = await Promise.all(keys.map(({ secret }) => this.#checkAtOnce(provider, secret.id)));
    const isDoubtful = keys.length === 1 && !certain;
    const speaksAgainst = (found: Finding | null) =>
      isDoubtful
        ? found !== null && found.isOpen !== true && !FOUND_WELL.has(found.result)
        : found?.result === "dead";
    return results.every(speaksAgainst);
  }

  /** Checks a key now; one that was checked a moment ago is not asked about again. null: it has no check. */
  #checkAtOnce(provider: string, keyId: string): Promise<Finding | null> {
    const name = nameOf(provider, keyId);
    const now = this.#options.clock.now();
    const last = this.#checked.get(name);
    const isFresh = last !== undefined && now < last.at + DOUBT_EVERY_MS;
    const result = isFresh ? last.result : nextTurn().then(() => this.#check(provider, keyId)); // the request that was refused goes on first
    if (!isFresh) this.#checked.set(name, { at: now, result });
    return result.then((found) => {
      if (found?.result === "alive") this.#vouchFor(provider, keyId);
      return found;
    });
  }

  #vouchFor(provider: string, keyId: string): void {
    const pool = this.#providerOf(provider)?.pool;
    const key = pool?.keys.find(({ secret }) => secret.id === keyId);
    if (key !== undefined) pool?.vouchFor(key);
  }

  /** A dead key is checked again; where there is no check, a real request tries it, more and more rarely. */
  #onDisabled(provider: string, keyId: string): void {
    const config = this.#providerOf(provider)?.config;
    const hasCheck = config !== undefined && checkFor(config.dialect, config.baseUrl) !== null;
    if (hasCheck) return this.#checkLater(provider, keyId, DEAD_FIRST_MS);
    const name = nameOf(provider, keyId);
    const delayMs = Math.min(this.#trialDelays.get(name) ?? DEAD_FIRST_MS, DEAD_LONGEST_MS);
    this.#trialDelays.set(name, delayMs * 2);
    const { clock } = this.#options;
    this.#pending.get(name)?.();
    this.#pending.set(
      name,
      clock.after(delayMs, () => {
        this.#pending.delete(name);
        const pool = this.#providerOf(provider)?.pool;
        const key = pool?.keys.find(({ secret }) => secret.id === keyId);
        if (pool !== undefined && key !== undefined) pool.tryAgain(key, clock.now());
      }),
    );
  }

  /** A dead key: once more after `delayMs`, and after twice that. */
  #checkLater(provider: string, keyId: string, delayMs: number): void {
    this.#schedule(provider, keyId, delayMs, () =>
      this.#checkLater(provider, keyId, Math.min(delayMs * 2, DEAD_LONGEST_MS)),
    );
  }

  #checkBalance(provider: string, keyId: string, until: number): void {
    if (until < this.#options.clock.now() + BILLING_EVERY_MS) return;
    this.#schedule(provider, keyId, BILLING_EVERY_MS, () => this.#checkBalance(provider, keyId, until));
  }

  /** Checks the key after `delayMs`; `again` is called where it is not alive. */
  #schedule(provider: string, keyId: string, delayMs: number, again: () => void): void {
    const name = nameOf(provider, keyId);
    this.#pending.get(name)?.();
    const check = async () => {
      this.#pending.delete(name);
      const found = await this.#check(provider, keyId);
      if (found !== null && found.result !== "alive") again();
    };
    this.#pending.set(
      name,
      this.#options.clock.after(delayMs, () => void check()),
    );
  }

  /** Checks a key, outside of any request, and does what follows. null: it is there no more, or has no check. */
  async #check(provider: string, keyId: string): Promise<Finding | null> {
    const { fetch, clock } = this.#options;
    const config = this.#providerOf(provider)?.config;
    const configured = config?.keys.find(({ secret }) => secret.id === keyId);
    if (config === undefined || configured === undefined) return null;
    if (checkFor(config.dialect, config.baseUrl) === null) return null;
    const found = await checkKey(config, configured, { fetch, clock }, new Map());
    const { result, detail } = found;
    const pool = this.#providerOf(provider)?.pool; // a reload may have come
    const key = pool?.keys.find(({ secret }: Key) => secret.id === keyId);
    if (pool === undefined || key === undefined) return null;
    if (result === "alive" && isOutOrInDoubt(key)) pool.revive(key, clock.now());
    if (result === "dead") pool.disable(key, detail, clock.now());
    return found;
  }

  #providerOf(name: string): CheckedProvider | undefined {
    return this.#options.providers().find(({ config }) => config.name === name);
  }

  /** Whether a check tells if the account can pay. */
  #tellsBalance(provider: string): boolean {
    const config = this.#providerOf(provider)?.config;
    return config !== undefined && checkFor(config.dialect, config.baseUrl)?.proves === "balance";
  }

  #forget(provider: string, keyId: string): void {
    const name = nameOf(provider, keyId);
    this.#pending.get(name)?.();
    this.#pending.delete(name);
    this.#trialDelays.delete(name);
  }
}

/** A check that a hostile request brought about must not end what a key cools for. */
function isOutOrInDoubt({ disabled, account }: Key): boolean {
  return (
    disabled !== null || account.cooldown?.reason === "unconfirmed" || account.cooldown?.reason === "billing"
  );
}

function nameOf(provider: string, keyId: string): string {
  return `${provider}/${keyId}`;
}
