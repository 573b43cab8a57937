/**
 * One request of a client on its way through: what it asks for, what was tried for it, and what there is to tell of it
 * when it is over.
 */
import { free, inPieces } from "#runtime";
import type {
  AttemptRecord,
  RequestPhase,
  RequestProgress,
  RequestUnderWay,
  TokenUsage,
} from "../core/events.ts";
import { joined, lengthOf, NO_BYTES } from "../http/body.ts";
import type { Bytes } from "../http/body.ts";
import type { ClientShare } from "../http/load.ts";
import { unescaped } from "../http/request.ts";
import type { ClientApi, Received, RequestTarget } from "../http/request.ts";
import { streamDialectOf } from "../http/stream-dialect.ts";
import type { StreamDialect } from "../http/stream-dialect.ts";
import type { Client } from "../http/timeouts.ts";
import type { Attempted, BufferedResponse, Failed, StreamedResponse } from "../http/upstream-response.ts";
import type { Key, Lease, Need } from "../pool/key.ts";
import type { Progress } from "../pool/retry-policy.ts";
import type { RequestWords } from "../providers/quoted-words.ts";
import type { Failure } from "../providers/verdict.ts";
import { conversationOf } from "./affinity.ts";
import type { ClientEnd, Engine, Upstream } from "./engine.ts";
import { bindingOf, refersToKnownResource } from "./resource-owners.ts";
import type { LimitedRequest, Reservation } from "../pool/client-limits.ts";
import type { ResourceBinding } from "./resource-owners.ts";
import { bodyWithModel, modelOf, pathWithModel } from "./route.ts";
import type { Hop, Route } from "./route.ts";
import { saidBy } from "../pool/penalties.ts";
import { accountName, accountNames } from "../pool/key.ts";
import { idsIn } from "./resources.ts";
import type { Patience } from "../pool/exact-limits.ts";
import type { Sharing } from "../pool/sharing.ts";

/** Without a byte for this long a request body is given up, and a connection without a request is closed. */
export const IDLE_SEC = 30;
/**
 * How long a connection is kept after an answer. Clients keep theirs for up to 90 s (Go's and Rust's do); who closes
 * first loses nothing, and a client that sends while we close loses a request.
 */
const KEEP_ALIVE_SEC = 95;

/** Methods that only ask: they count against no daily cap and no `RPM=n`. */
const NOT_COUNTED: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS"]);
const NOTHING: readonly Bytes[] = [];
const NO_BODY = { body: null, length: null };
/** Longer bodies are sent as a stream: of what it gets whole the runtime makes a copy, which lives until it is sent. */
const LONG_BODY_BYTES = 512 * 1024;
/** What changes an answer that is stored is answered with it, and so with the tokens that it named before. */
const CHANGES_STORED =
  /\/(?:chat\/completions|batches|runs)\/[^/]+$|\/(?:responses|batches|runs)\/[^/]+\/cancel$/;

const NO_TRIED_KEYS: ReadonlySet<Key> = new Set();

/** No request waits longer for the server of `STATE`, all in all; a little is left for the turn of the event loop. */
const SERVER_PATIENCE_MS = 45;

/** One request of a client on its way through. */
export class RequestContext implements Need, Patience, Client, LimitedRequest, RequestUnderWay {
  /** The fields of the request: from `receive` on only those that go upstream, without any key. */
  readonly headers: Headers;
  readonly method: string;
  /** Path and query, as the present target gets them. */
  readonly target: RequestTarget;
  readonly api: ClientApi;
  readonly isUncounted: boolean;
  /** The origin of the page that asks, where pages of other origins may; null: there is none. */
  readonly origin: string | null;
  /** Statuses that this request wants retried, beside those of the configuration. */
  readonly retryStatus: ReadonlySet<number>;
  /** The whole body, as the client sent it; null where there is none. */
  body: Bytes | null = null;
  /** The body as the present target gets it, in parts that belong one after another; null where there is none. */
  parts: readonly Bytes[] | null = null;
  readonly arrival: number;
  /** Until when it waits for a key of the present target; epoch ms, as the engine's clock says it. */
  waitUntil: number;
  readonly progress: Progress = { attempts: 0, maybeBilledReplays: 0, upstreamFaults: 0 };
  readonly streamDialect: StreamDialect;
  reuseAt = 0;
  deferredAt = 0;
  boundTo: string | null = null;
  /** What it has to do with resources of single accounts; null: nothing. */
  binding: ResourceBinding | null = null;
  /** The first answer that said that the account has not what the request refers to. */
  missingAnswer: BufferedResponse | null = null;
  /** It asks for the list of models, to which names from `ROUTES` are added. */
  listsModels = false;
  /** The best answer of upstream so far that was not passed on. */
  kept: KeptAnswer | null = null;
  /** What upstream said last, for the message when nothing helps. */
  lastSaid = "";
  /** Whose fault the last setback was. */
  lastBlame: "nobody" | "key" | "upstream" = "nobody";
  /** `x-keywheel-key`: the key of the last attempt. */
  keyLabel: string | null = null;
  waitedMs = 0;
  isTruncated = false;
  /** Those that the answer named; null: none. */
  tokens: TokenUsage | null = null;
  /** Why the client gets no good answer, for the log; empty: it does, or upstream's answer says it. */
  reason = "";
  /** What it was counted as in the limits of its client. */
  reservation: Reservation | null = null;
  /** What is left of the time that it may wait for the server of `STATE`. */
  serverMs = SERVER_PATIENCE_MS;
  /** Upstream may have got it. */
  wentOut = false;
  /** The path as the client sent it. */
  readonly #sentPath: string;
  /** What stands in a body that is packed, as it came; null: it can be read as it is. And how it is packed. */
  #readable: Bytes | null = null;
  #encoding: string | null = null;
  /** Bytes of this request that count as buffered. */
  #heldBytes = 0;
  /** Streams of the body that have not been read to their end. */
  #uploads = 0;
  /** Long bytes that nobody needs any more. */
  #freeable: readonly Bytes[] = NOTHING;
  #tried: Set<Key> | null = null;
  #unsuited: Set<Key> | null = null;
  #model: string | null | undefined;
  #targetModel: string | null | undefined;
  #conversation: number | null | undefined;
  #providerName: string | null = null;
  #keyId: string | null = null;
  #account: string | null = null;
  readonly #attempts: AttemptRecord[] = [];
  #startedAt: number | null = null;
  #phase: RequestPhase = "receiving";
  #phaseSince: number;
  #isHeld = false;
  #isOver = false;
  readonly #arrivedAt: number;
  readonly #waitEndsAt: number;

  constructor(
    readonly request: Request,
    readonly clientEnd: ClientEnd,
    readonly engine: Engine,
    { target, api, retryStatus }: Route,
    /** The client's name, where its key has one. */
    readonly client: string | null,
    readonly clientKeyId: string | null,
    /** What its client takes up of the proxy. */
    readonly share: ClientShare,
  ) {
    this.target = target;
    this.api = api;
    this.isUncounted = NOT_COUNTED.has(request.method);
    this.retryStatus = retryStatus;
    this.headers = request.headers;
    this.method = request.method;
    this.origin = engine.config.corsOrigins.length > 0 ? request.headers.get("origin") : null;
    this.#sentPath = target.path;
    this.#arrivedAt = engine.clock.now();
    this.arrival = engine.arrivals++;
    this.#waitEndsAt = this.#arrivedAt + engine.config.maxWaitMs;
    this.waitUntil = this.#waitEndsAt;
    this.streamDialect = streamDialectOf(target.path);
    this.#phaseSince = this.#arrivedAt;
    engine.underWay.add(this);
  }

  /** From here on it waits for something else. */
  enterPhase(phase: RequestPhase, now: number): void {
    this.#phase = phase;
    this.#phaseSince = now;
    if (phase === "waiting") this.clientEnd.startsToWait(this.request);
  }

  /** How far it has come. The model is told as soon as the body is there, which is looked at once and no sooner. */
  progressAt(now: number): RequestProgress {
    if (this.#phase !== "receiving") void this.model;
    const runningWaitMs = this.#phase === "waiting" ? now - this.#phaseSince : 0;
    return {
      id: this.arrival,
      method: this.method,
      path: this.#sentPath,
      provider: this.#providerName,
      model: this.#model ?? null,
      client: this.client,
      keyId: this.#keyId,
      account: this.#account,
      phase: this.#phase,
      attempts: this.progress.attempts,
      waitedMs: this.waitedMs + runningWaitMs,
      firstByteMs: this.#startedAt === null ? null : this.#startedAt - this.#arrivedAt,
      totalMs: now - this.#arrivedAt,
    };
  }

  get path(): string {
    return this.#sentPath;
  }

  get signal(): AbortSignal {
    return this.request.signal;
  }

  get tried(): ReadonlySet<Key> {
    return this.#tried ?? NO_TRIED_KEYS;
  }

  get unsuited(): ReadonlySet<Key> {
    return this.#unsuited ?? NO_TRIED_KEYS;
  }

  /** The model that the client named: looked up only where a limit, a route or a reader needs it. */
  get model(): string | null {
    if (this.#model === undefined) {
      const contentType = this.headers.get("content-type");
      this.#model = modelOf({ path: this.#sentPath, contentType, body: this.#bodyToRead });
    }
    return this.#targetModel ?? this.#model;
  }

  /**
   * Every model that it may be understood to name, for the limits of its client; null: nobody can tell. Of two `model`
   * members in a body the last counts, here and from here on.
   */
  namedModels(): readonly string[] | null {
    const body = this.#bodyToRead;
    if (this.headers.has("content-encoding") && body !== null && this.#readable === null) return null;
    const contentType = this.headers.get("content-type");
    const named = this.engine.namedModelsOf({ path: this.#sentPath, contentType, body }, this.target.query);
    if (named === null) return null;
    this.#model = named.model;
    return named.all;
  }

  /** What an error may quote of it. Without the body where the answer has begun. */
  get words(): RequestWords {
    const { path, query } = this.target;
    const parts = `${path}${query}`.split(/[/?&=+]/).map(unescaped);
    const body = this.#bodyToRead;
    return {
      model: this.model,
      body,
      isBodyGone: body === null && this.method === "POST",
      head: [...parts, ...this.headers.values()].join(" "),
    };
  }

  get conversation(): number | null {
    if (this.#conversation === undefined)
      this.#conversation = conversationOf(this.target.path, this.headers, this.#bodyToRead);
    return this.#conversation;
  }

  /** The body as it can be looked into: as the client wrote it, before it was packed. */
  get #bodyToRead(): Bytes | null {
    return this.#readable ?? this.body;
  }

  /** Takes over what was received, which counts as buffered already. */
  setBody({ body, readable }: Received): void {
    this.body = body;
    this.parts = body === null ? null : [body];
    this.#readable = readable;
    this.#encoding = readable === null ? null : this.headers.get("content-encoding");
    this.#heldBytes = (body?.length ?? 0) + (readable?.length ?? 0);
  }

  /** From here on the request goes to another target: with this model, or with the client's own where it is null. */
  setTargetModel(model: string | null): void {
    this.progress.upstreamFaults = 0;
    if (model === null && this.#targetModel === undefined) return;
    this.#targetModel = model;
    this.target.path = model === null ? this.#sentPath : pathWithModel(this.#sentPath, model);
    if (this.body !== null) this.#setParts(this.body, model);
  }

  /** As the client sent it where it names no model, or keeps its own: else in plain, with this one. */
  #setParts(body: Bytes, model: string | null): void {
    const read = this.#bodyToRead ?? NO_BYTES;
    const rewritten = model === null ? null : bodyWithModel(read, this.headers.get("content-type"), model);
    this.parts = rewritten ?? [body];
    if (this.#encoding === null) return;
    if (rewritten === null) this.headers.set("content-encoding", this.#encoding);
    else this.headers.delete("content-encoding");
  }

  /** The body as `fetch` takes it. `length`: of one that goes out in pieces; null: `fetch` knows it. */
  bodyToSend(): { body: Bytes | ReadableStream<Bytes> | null; length: number | null } {
    const { parts } = this;
    if (parts === null) return NO_BODY;
    const length = lengthOf(parts);
    if (inPieces === null || length <= LONG_BODY_BYTES) return { body: joined(parts), length: null };
    this.#uploads += 1;
    const onOver = () => {
      this.#uploads -= 1;
      if (this.body === null) this.#freeBody();
    };
    return { body: inPieces(parts, onOver), length };
  }

  /**
   * Waits for a key of this target as long as it may in all, or only for a while where another target stands behind.
   */
  limitWait(hasFallback: boolean): void {
    const { clock, config } = this.engine;
    const shortly = hasFallback ? clock.now() + config.fallbackAfterMs : Infinity;
    this.waitUntil = Math.min(this.#waitEndsAt, shortly);
  }

  /** Asks other instances who has what it refers to, where nobody here knows: before `bind`. */
  async lookUpOwners({ config, pool }: Upstream, sharing: Sharing): Promise<void> {
    const { owners, upstreams } = this.engine;
    if (pool.keys.length < 2 && upstreams.length < 2) return;
    const { path, query } = this.target;
    const ids = idsIn(path, query, this.method, this.#bodyToRead);
    const unknown = ids.filter((id) => owners.owner(config.name, id) === null);
    if (unknown.length > 0) await sharing.lookUpOwners(config.name, unknown, this);
  }

  /** Finds out whether it has to do with resources that one account of this provider alone has (P35). */
  bind({ config, pool }: Upstream): void {
    const { owners, upstreams } = this.engine;
    const isOnlyProvider = upstreams.length === 1;
    this.binding = null; // of the provider before
    if (pool.keys.length > 1 || !isOnlyProvider) {
      const { path, query } = this.target;
      const { method } = this;
      const body = this.#bodyToRead;
      const names = () => accountNames(pool.keys);
      const least = isOnlyProvider ? 2 : 1;
      this.binding = bindingOf({ path, query, method, body }, config.name, names, owners, least);
    }
    this.boundTo = this.binding?.boundTo ?? null;
  }

  /** Of several targets the one whose account alone has what the request refers to (P35), where one is known to. */
  hopsToOwner(hops: readonly Hop[]): readonly Hop[] {
    const owner = hops.length < 2 ? undefined : hops.find(({ upstream }) => this.refersTo(upstream));
    return owner === undefined ? hops : [owner];
  }

  /** Whether it refers to what an account of this provider is known to have. */
  refersTo({ config, pool }: Upstream): boolean {
    const { path, query } = this.target;
    const { method } = this;
    const body = this.#bodyToRead;
    const accounts = () => accountNames(pool.keys);
    return refersToKnownResource({ path, query, method, body }, config.name, accounts, this.engine.owners);
  }

  /** Whether its answer has to be read by us, so that it must not come packed. */
  get readsAnswer(): boolean {
    return this.listsModels || (this.binding?.teaches ?? false);
  }

  /** Whether its answer is made for it, so that the tokens which that names were used: a stored one is only fetched. */
  get countsTokens(): boolean {
    return this.method === "POST" && !CHANGES_STORED.test(this.#sentPath);
  }

  /** A body is to come: the connection may be one that is kept for long, and a body may not be silent for so long. */
  expectBody(): void {
    if (this.method !== "GET" && this.method !== "HEAD") this.clientEnd.timeout(this.request, IDLE_SEC);
  }

  /** From here on only our own clocks end the connection, not the server's idle timer. */
  hold(): void {
    if (this.#isHeld || this.#isOver) return;
    this.#isHeld = true;
    this.clientEnd.timeout(this.request, 0);
  }

  /** It is sent to upstream with this lease's key. */
  attemptStarted(upstream: Upstream, lease: Lease): void {
    this.binding?.attemptStarted(accountName(lease.key));
    this.enterPhase("provider", lease.at);
    this.#setLastKey(upstream, lease.key);
  }

  /** Remembers how an attempt failed. */
  noteFailure({ setback, answer }: Failed, upstream: Upstream, lease: Lease): void {
    const { key } = lease;
    (this.#tried ??= new Set()).add(key);
    // A key that was refused as dead is not asked again for this request, even where it is the last.
    const isHopeless = setback.kind === "unsuited" || setback.kind === "revoked";
    if (isHopeless) (this.#unsuited ??= new Set()).add(key);
    if (setback.kind !== "abandoned") this.lastSaid = saidBy(setback);
    this.lastBlame = blameOf(setback);
    const status = answer?.status ?? 0;
    this.#record(setback.kind, status, saidBy(setback), upstream, lease, this.engine.clock.now());
    if (answer !== null) {
      const { keyLabel, lastSaid: said } = this;
      this.kept = moreInformative(this.kept, { answer, keyLabel, said });
    }
  }

  /**
   * An answer that says that the account has not what the request refers to, or cannot read it; null: it is another
   * one. What only its own account can read goes to that one from here on.
   */
  missingResourceIn(result: Attempted, lease: Lease): BufferedResponse | null {
    const { binding } = this;
    if (binding === null) return null;
    const answer = result.kind === "failed" ? result.answer : result.kind === "buffered" ? result : null;
    const status = result.kind === "streamed" ? result.status : (answer?.status ?? 0);
    if (binding.attemptEnded(accountName(lease.key), status, answer?.body ?? null) === "cannot_read") {
      this.boundTo = binding.owner;
      return answer;
    }
    if (answer === null) return null;
    const isMissing = binding.saysMissing(answer.status, answer.body, this.engine.clock.now());
    return isMissing ? answer : null;
  }

  /** Remembers such an answer: nobody is blamed, and none of the account's keys is asked again. */
  noteMissingResource(answer: BufferedResponse, upstream: Upstream, lease: Lease): void {
    const account = accountName(lease.key);
    const unsuited = (this.#unsuited ??= new Set());
    for (const key of upstream.pool.keys) if (accountName(key) === account) unsuited.add(key);
    this.missingAnswer ??= answer;
    this.#record("resource_missing", answer.status, "", upstream, lease, this.engine.clock.now());
  }

  /** The answer is here. The body is not needed any more, and a stream may go on for long. */
  responseStarted(
    { status, outcome }: BufferedResponse | StreamedResponse,
    upstream: Upstream,
    lease: Lease,
    now: number,
  ): void {
    this.#startedAt = now;
    this.enterPhase("streaming", now);
    this.#record(outcome.kind, status, "", upstream, lease, now);
    void this.model; // while the body is there
    this.#dropBody();
  }

  #record(
    verdict: string,
    status: number,
    said: string,
    upstream: Upstream,
    lease: Lease,
    now: number,
  ): void {
    const { index: key, secret, account } = lease.key;
    const provider = upstream.config.name;
    this.#attempts.push({
      provider,
      key,
      keyId: secret.id,
      account: account.name,
      verdict,
      status,
      ms: now - lease.at,
      said,
    });
  }

  #setLastKey(upstream: Upstream, key: Key): void {
    this.#providerName = upstream.config.name;
    this.#keyId = key.secret.id;
    this.#account = key.account.name;
    this.keyLabel = upstream.prefix === null ? String(key.index) : `${upstream.config.name}/${key.index}`;
  }

  #dropBody(): void {
    this.share.release(this.#heldBytes);
    if (this.#heldBytes > LONG_BODY_BYTES) this.#freeable = this.#ownBytes();
    this.#heldBytes = 0;
    this.body = null;
    this.parts = null;
    this.#readable = null;
    this.#freeBody();
  }

  /** The body and its copies. */
  #ownBytes(): readonly Bytes[] {
    return [this.body, this.#readable].filter((bytes) => bytes !== null);
  }

  /** Frees the memory of a long body, unless it is still being sent: upstream may answer before it has all of it. */
  #freeBody(): void {
    if (this.#uploads > 0) return;
    for (const bytes of this.#freeable) free(bytes);
    this.#freeable = NOTHING;
  }

  /** Ends the request and hands its response through. */
  finish(status: number, outcome: string, response: Response, bytes = 0): Response {
    this.end(status, outcome, bytes);
    return response;
  }

  /** Ends the request when it is known which tokens its answer names. */
  async endWith(
    tokens: Promise<TokenUsage | null>,
    status: number,
    outcome: string,
    bytes: number,
  ): Promise<void> {
    this.tokens = await tokens.catch(() => null);
    this.end(status, outcome, bytes);
  }

  /** Ends the request, whichever way; a second time does nothing. `bytes`: of the answer's body. */
  end(status: number, outcome: string, bytes: number): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const { engine } = this;
    engine.underWay.delete(this);
    this.share.leave();
    void this.model; // its readers want to know it
    this.#dropBody();
    this.clientEnd.timeout(this.request, KEEP_ALIVE_SEC);
    const { tokens, wentOut } = this;
    this.reservation?.end({ wentOut, status, tokens: tokens === null ? 0 : tokens.input + tokens.output });
    const totalMs = engine.clock.now() - this.#arrivedAt;
    engine.observer.finished({
      id: this.arrival,
      at: engine.clock.wall() - totalMs,
      method: this.method,
      path: this.#sentPath,
      provider: this.#providerName,
      model: this.#model ?? null,
      status,
      outcome,
      key: this.keyLabel,
      keyId: this.#keyId,
      account: this.#account,
      attempts: this.#attempts,
      waitedMs: this.waitedMs,
      firstByteMs: this.#startedAt === null ? null : this.#startedAt - this.#arrivedAt,
      totalMs,
      bytes,
      client: this.client,
      isTruncated: this.isTruncated,
      reason: this.reason,
      maybeBilledReplays: this.progress.maybeBilledReplays,
      tokens,
    });
  }
}
function blameOf(setback: Failure): "nobody" | "key" | "upstream" {
  switch (setback.kind) {
    case "abandoned":
      return "nobody";
    case "rate_limited":
    case "exhausted":
    case "revoked":
      return "key";
    case "unsuited": // the key is fine, and what upstream says about the request may help the client
    case "overloaded":
    case "unreachable":
      return "upstream";
  }
}

/** An answer of upstream that was not passed on, in case nothing better comes. */
export interface KeptAnswer {
  readonly answer: BufferedResponse;
  /** Which key it came with. */
  readonly keyLabel: string | null;
  readonly said: string;
}

/** Of two failed answers the one that tells the client more: with a reason before without, later before earlier. */
function moreInformative(kept: KeptAnswer | null, next: KeptAnswer): KeptAnswer {
  const isBetter =
    kept !== null && kept.said !== "" && next.said === "" && !REFUSES_KEYS.has(kept.answer.status);
  return isBetter ? kept : next;
}

/** Statuses with which a provider refuses a key: passed on, they would look like a refusal of the client's own. */
export const REFUSES_KEYS: ReadonlySet<number> = new Set([401, 402, 403, 429]);
