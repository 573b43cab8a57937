#!/usr/bin/env bun
/**
 * keywheel: stands between LLM agents and their provider, holds a pool of API keys, and hides rate limits.
 *
 * The path of a request: `handle` (section 4) lets it in, `relay` (section 2) reads its body and finds its targets,
 * `tryKeys` leases keys and tries until there is an answer, `attempt` (section 3) asks upstream once, `passThrough`
 * hands the answer on. Facts (verdicts), decisions (`decide`) and effects are kept apart. lib/README.md has the map.
 */
import { free } from "#runtime";
import { EXIT_FINE, EXIT_USAGE, USAGE, parseCommand } from "./lib/cli/args.ts";
import { demo, serve } from "./lib/cli/serve.ts";
import type { ListeningProxy, Proxy } from "./lib/cli/serve.ts";
import { givenEnvironment, placesOf, renewProcess, urlOf } from "./lib/cli/startup.ts";
import { certificateFiles } from "./lib/config/config.ts";
import type { Config } from "./lib/config/config.ts";
import type { ConfiguredKey } from "./lib/config/keys.ts";
import type { ProviderConfig } from "./lib/config/provider-settings.ts";
import { nextTurn, pause, systemClock, wallOffset } from "./lib/core/clock.ts";
import type { Clock } from "./lib/core/clock.ts";
import type { KeyEvent } from "./lib/core/events.ts";
import type { UpstreamResponse } from "./lib/core/runtime.ts";
import { bytesOf, discard, streamOf } from "./lib/http/body.ts";
import type { Bytes, ReadResult } from "./lib/http/body.ts";
import { THIS_MACHINE, addCors, authorize, isPreflight, peerOf, preflight } from "./lib/http/client-auth.ts";
import { proxyWantsPassword } from "./lib/http/connection-errors.ts";
import {
  DRAINING,
  NO_DESCRIPTORS,
  UNREADABLE_TARGET,
  admissionError,
  bugResponse,
  errorResponse,
  noKeyError,
  unreachableError,
} from "./lib/http/error-responses.ts";
import type { ProxyError } from "./lib/http/error-responses.ts";
import {
  joinBase,
  keepEndToEnd,
  keepForwarded,
  keepFromRunning,
  keyParameter,
  queryFor,
  targetOf,
  withoutPrefix,
} from "./lib/http/request.ts";
import { EventScanner, followerOf, tokensOfAnswer } from "./lib/http/sse.ts";
import { accessByBun } from "./lib/http/connections.ts";
import { errorEvent } from "./lib/http/stream-dialect.ts";
import { AttemptTimeouts, cutByDrain } from "./lib/http/timeouts.ts";
import {
  cleanFields,
  failed,
  isShort,
  judgeLate,
  judgeShort,
  lateVerdict,
  mayHaveArrived,
  protocolError,
  readOpening,
} from "./lib/http/upstream-response.ts";
import type { Attempted, BufferedResponse, Failed, StreamedResponse } from "./lib/http/upstream-response.ts";
import { logObserver } from "./lib/observability/log.ts";
import { Metrics } from "./lib/observability/metrics.ts";
import { openPooledFetch } from "./lib/library/pooled-fetch.ts";
import type { EngineParts } from "./lib/library/pooled-fetch.ts";
import type { createPooledFetch as createPooledFetchType } from "./lib/library/public.ts";
import { CircuitBreaker } from "./lib/pool/circuit-breaker.ts";
import { ClientLimiter } from "./lib/pool/client-limits.ts";
import { CredentialRefusals, NONE_REFUSED } from "./lib/pool/credential-refusals.ts";
import type { Patience } from "./lib/pool/exact-limits.ts";
import { Account, accountName, accountsOf, newKey, reportOf } from "./lib/pool/key.ts";
import type { Keeper, Key, KeyPool, KeyReport, Lease, Need } from "./lib/pool/key.ts";
import { KeyRecords } from "./lib/pool/key-records.ts";
import { Penalties, rulesOf, saidBy } from "./lib/pool/penalties.ts";
import { PoolEvents } from "./lib/pool/pool-events.ts";
import { ProviderState } from "./lib/pool/provider-state.ts";
import { Queue, isHopeless } from "./lib/pool/queue.ts";
import { QuotaDay } from "./lib/pool/quota-day.ts";
import { rateRule } from "./lib/pool/rate-limiter.ts";
import { RetryBudget, decide } from "./lib/pool/retry-policy.ts";
import { KeySelector } from "./lib/pool/selection.ts";
import type { PoolLink, PoolParts, SharedPoolDependencies } from "./lib/pool/sharing.ts";
import { authHeader } from "./lib/providers/catalog.ts";
import type { Budgets } from "./lib/providers/rate-limit-headers.ts";
import type { Abandoned, NoKey, Outcome, Setback, Unreachable, Verdict } from "./lib/providers/verdict.ts";
import { ModelLists } from "./lib/routing/all-models.ts";
import { clientsOf, createEngine, reconfigure } from "./lib/routing/engine.ts";
import type { BodySink, ClientEnd, Dependencies, Engine, PoolMaker, Upstream } from "./lib/routing/engine.ts";
import { asksForModels, listingRoutes } from "./lib/routing/model-list.ts";
import { adminOff, ownAnswer } from "./lib/routing/own-paths.ts";
import { namedModelsOf } from "./lib/routing/named-models.ts";
import { IDLE_SEC, REFUSES_KEYS, RequestContext } from "./lib/routing/request-context.ts";
import { hopsOf, planRoute } from "./lib/routing/route.ts";
import type { Route } from "./lib/routing/route.ts";
import packageFile from "./package.json";
import type { StreamFollower } from "./lib/http/stream-follower.ts";

export { reconfigure };
export type { Proxy };

// ── 1 · The key pool ────────────────────────────────────────────────────────────────────────────────────────────

/** The keys of one provider: which may be asked, who waits for them, and whether the provider itself is up. */
export class Pool implements KeyPool {
  #config: ProviderConfig;
  readonly #clock: Clock;
  readonly #selector: KeySelector;
  readonly #events: PoolEvents;
  readonly #state: ProviderState;
  readonly #penalties: Penalties;
  readonly #credentials: CredentialRefusals;
  readonly #queue: Queue;
  readonly #day: QuotaDay;
  /** null: nothing is kept over a restart. */
  readonly #records: KeyRecords | null;
  /** The way to other instances that share the pool; null: there is none. */
  readonly #link: PoolLink | null;

  constructor(config: ProviderConfig, maxCooldownMs: number, dependencies: SharedPoolDependencies) {
    const { clock, random, keeper, observer } = dependencies;
    this.#config = config;
    this.#clock = clock;
    this.#events = new PoolEvents(config.name, clock, observer);
    this.#state = new ProviderState(this.#events);
    this.#selector = new KeySelector(config.strategy);
    this.#day = new QuotaDay(clock);
    this.#records = keeper && new KeyRecords(config.name, keeper, clock, this.#selector, this.#day);
    this.#penalties = new Penalties(rulesOf(config, maxCooldownMs), {
      selector: this.#selector,
      refusesAll: this.#state.refusesAll,
      sharedLimit: this.#state.sharedLimit,
      clock,
      random,
      tell: (event, key, now) => this.#events.tell(event, key, now),
      onRefunded: ({ key, need }) => this.#link?.unsent(key, need.model),
      save: (key) => this.#records?.save(key),
    });
    this.#credentials = new CredentialRefusals(this.#penalties, (key, said, now) =>
      this.disable(key, said, now),
    );
    this.#queue = new Queue(clock, {
      lease: (need, now) => this.lease(need, now),
      lineOf: (need) => this.#selector.modelStateOf(need),
      onGivenUp: (reason, now) => this.#events.onGivenUp(reason, now),
    });
    this.#arrange(config.keys, clock.now());
    if (keeper !== null) this.restore(keeper);
    this.#link = dependencies.sharing?.share(this.#sharedParts()) ?? null;
  }

  /** What of it other instances hear of, and change. */
  #sharedParts(): PoolParts {
    return {
      provider: this.#config.name,
      selector: this.#selector,
      state: this.#state,
      penalties: this.#penalties,
      day: this.#day,
      clock: this.#clock,
      turnDay: () => this.#turnDay(this.#clock.now()),
      wake: () => this.#serveQueue(this.#clock.now()),
      takeBack: (lease, now) => {
        this.#penalties.takeBack(lease, now);
        this.#state.onEnded(lease, ABANDONED, 0, now);
        this.#records?.save(lease.key);
      },
      hasWaiting: () => this.#queue.size > 0,
    };
  }

  get keys(): readonly Key[] {
    return this.#selector.keys;
  }

  get waiting(): number {
    return this.#queue.size;
  }

  get breaker(): CircuitBreaker {
    return this.#state.breaker;
  }

  get retryBudget(): RetryBudget {
    return this.#state.retryBudget;
  }

  get pauseSaid(): string {
    return this.#state.pauseSaid;
  }

  get pausedUntil(): number {
    return this.#state.pausedUntil(this.#clock.now());
  }

  isRefusedByAll(now: number): boolean {
    return this.#state.refusesAll.openUntil > now;
  }

  isPausedFor(need: Need, now: number): boolean {
    return this.#state.isPausedFor(need, now);
  }

  /** A key now, or in this request's turn, or why there will be none in time. Resolves when the client leaves. */
  acquire(need: Need): Lease | NoKey | Promise<Lease | NoKey> {
    const now = this.#clock.now();
    // Serve waiters first, so that a new request cannot jump the queue.
    this.#serveQueue(now);
    const isNext = this.#queue.size === 0; // only then may it raise a learnt limit: the room is for those who wait
    const result = isNext ? this.lease(need, now) : this.#leaseIfReady(need, now, need.boundTo);
    if (result.kind === "lease") return result;
    if (!isHopeless(result, need, now)) return this.#queue.join(need, result.readyAt, now);
    this.#events.onGivenUp(result, now);
    return result;
  }

  /** The key whose turn it is; one that was not tried for this request before one that was. */
  lease(need: Need, now: number, account: string | null = need.boundTo): Lease | NoKey {
    const result = this.#leaseIfReady(need, now, account);
    if (result.kind === "lease" || !this.#onBlocked(need, result, now)) return result;
    return this.#leaseIfReady(need, now, account);
  }

  #leaseIfReady(need: Need, now: number, account: string | null): Lease | NoKey {
    this.#turnDay(now);
    const chosen = this.#choose(need, now, account);
    return "kind" in chosen ? chosen : this.#take(chosen, need, now);
  }

  /** Why this request gets no key now, and until when: for its answer when its attempts are spent. */
  noKeyFor(need: Need, now: number): NoKey {
    const chosen = this.#choose(need, now, need.boundTo);
    return "kind" in chosen ? chosen : { kind: "no_key", readyAt: now, why: "cooling" };
  }

  /** The key for this request; or why there is none, and until when. Changes nothing. */
  #choose(need: Need, now: number, account: string | null): Key | NoKey {
    const pause = this.#state.pauseFor(need, now);
    if (pause === null) return this.#selector.choose(need, now, account);
    const chosen = this.#selector.choose(need, Math.min(pause.readyAt, need.waitUntil), account);
    return "kind" in chosen && chosen.readyAt > pause.readyAt ? chosen : pause;
  }

  /** The request has to wait: a learnt limit in its way may be tried higher. Returns whether one was. */
  #onBlocked(need: Need, { isPaced }: NoKey, now: number): boolean {
    const { sharedLimit } = this.#state;
    if (sharedLimit.readyAt(now) > now) return sharedLimit.onBlocked(now);
    return isPaced === true && this.#selector.onBlocked(need, now);
  }

  #take(key: Key, need: Need, now: number): Lease {
    const { account } = key;
    const limits = this.#selector.limitsFor(need, account);
    const isTrial = this.#state.onSent(need, now);
    if (!need.isUncounted) key.today += 1;
    key.requests += 1;
    key.inFlight += 1;
    key.lastUsedAt = now;
    this.#selector.onTaken(key);
    account.limiter.onSent(now, need.isUncounted);
    account.slowStart.onSent(now);
    limits?.limiter?.onSent(now);
    limits?.slowStart.onSent(now);
    this.#records?.save(key);
    this.#events.onLeased(now);
    return {
      kind: "lease",
      key,
      need,
      at: now,
      limits,
      dayEndsOn: this.#day.endDate,
      isTrial,
      startedAt: 0,
      answeredBefore: account.answeredAt,
      isNotFound: false,
      place: null,
      settled: false,
    };
  }

  confirm(lease: Lease, patience: Patience): Promise<boolean> | null {
    const { rpm } = this.#config;
    return this.#link?.confirm(lease, typeof rpm === "number" ? rpm : null, patience) ?? null;
  }

  /** The response has started: the key's limits let the request through. */
  responseStarted(lease: Lease, outcome: Verdict, now: number, budgets: Budgets | null): void {
    if (lease.startedAt > 0 || lease.settled) return;
    const { limits } = lease;
    const { account } = lease.key;
    lease.startedAt = now;
    lease.answeredBefore = account.answeredAt;
    account.answeredAt = now;
    account.slowStart.onResponseStarted();
    account.limiter.onResponseStarted(now);
    limits?.limiter?.onResponseStarted(now);
    limits?.slowStart.onResponseStarted();
    if (limits?.cooldown) limits.cooldown.answeredAt = now;
    this.#state.onResponseStarted(lease, outcome, now);
    if (budgets !== null) this.#penalties.announce(budgets, lease, now);
    this.#serveQueue(now);
  }

  /** Ends a lease with what came of it. A second call for the same lease does nothing. */
  settle(lease: Lease, outcome: Outcome, now: number, budgets: Budgets | null = null): readonly Key[] {
    if (lease.settled) return NONE_REFUSED;
    lease.settled = true;
    let refusedAlike = NONE_REFUSED;
    const { key } = lease;
    const { today } = key;
    this.#penalties.giveBack(lease, outcome, this.#day.endDate, now);
    if (this.#link !== null && key.today < today) this.#link.meterOf(key).count(-1, 0);
    if (lease.place !== null && lease.isNotFound) lease.place.uncountMinute();
    this.#state.onEnded(lease, outcome, this.#penalties.rules.maxCooldownMs, now);
    if (budgets !== null) this.#penalties.announce(budgets, lease, now);
    switch (outcome.kind) {
      case "served":
        this.#penalties.forgive(lease);
        this.#credentials.proveInvalid(lease, now);
        this.#credentials.proveUnsuited(lease, now);
        this.#onServed(lease, now);
        break;
      case "rate_limited": {
        key.rateLimited += 1;
        this.#credentials.proveInvalid(lease, now);
        const pausedMs = this.#penalties.limit(outcome, lease, now);
        if (pausedMs > 0) this.#state.onPaused("common_cause", pausedMs, outcome.said, now);
        break;
      }
      case "exhausted":
        this.#credentials.proveInvalid(lease, now);
        this.#penalties.cool(outcome, lease, now);
        break;
      case "revoked":
        key.errors += 1;
        refusedAlike = this.#credentials.onRefused(outcome, lease, now);
        break;
      case "overloaded":
      case "unreachable":
        key.errors += 1; // shown, but never held against the key
        // A response that broke off is no proof that the key is well again.
        if (key.account.answeredAt === lease.startedAt) key.account.answeredAt = lease.answeredBefore;
        break;
      case "unsuited":
        this.#credentials.onUnsuited(outcome, lease, now);
        break;
      case "rejected":
      case "abandoned":
        break;
    }
    this.#records?.save(key);
    this.#serveQueue(now);
    return refusedAlike;
  }

  /** The request was served: a key that was out of use and on trial is back. */
  #onServed({ key }: Lease, now: number): void {
    if (!key.isOnTrial) return;
    key.isOnTrial = false;
    this.#onKeyChanged(key, { kind: "back", reason: null, said: "" }, now);
  }

  /** Other settings from now on. Keys that stay keep all that is known of them; requests under way go on. */
  reconfigure(config: ProviderConfig, maxCooldownMs: number): void {
    const now = this.#clock.now();
    if (config.rpm !== this.#config.rpm)
      for (const account of accountsOf(this.keys)) account.limiter.follow(rateRule(config));
    this.#config = config;
    this.#penalties.rules = rulesOf(config, maxCooldownMs);
    this.#selector.strategy = config.strategy;
    this.#arrange(config.keys, now);
    this.#link?.keysChanged();
    this.#serveQueue(now);
  }

  #arrange(configured: readonly ConfiguredKey[], now: number): void {
    const known = this.keys;
    const byId = new Map(known.map((key) => [key.secret.id, key]));
    const byName = new Map(known.map(({ account }) => [account.name, account]));
    const teacher = accountsOf(known).find((account) => this.#penalties.hasTaught(account));
    const keys = configured.map((entry, index) => {
      const old = byId.get(entry.secret.id);
      let account = old?.account.name === entry.account ? old?.account : undefined;
      if (account === undefined && entry.account !== null) account = byName.get(entry.account);
      if (account === undefined) {
        account = new Account(entry.account, rateRule(this.#config));
        if (teacher !== undefined) this.#penalties.inherit(account, teacher, now);
      }
      byName.set(entry.account, account);
      const key = newKey(entry, index, this.#config, account);
      return old === undefined ? key : Object.assign(old, { dailyLimit: key.dailyLimit, account });
    });
    this.#records?.forget(known.filter((key) => !keys.includes(key)));
    this.#selector.arrange(keys);
  }

  restore(keeper: Keeper): void {
    this.#turnDay(this.#clock.now());
    this.#records?.restore(keeper, this.keys, this.#penalties);
  }

  #turnDay(now: number): void {
    const { timezone, resetZone } = this.#penalties.rules;
    const change = this.#day.look(timezone ?? resetZone, now);
    if (change === "same") return;
    this.#selector.dayEndsAt = this.#day.endsAt;
    if (change !== "new") return;
    for (const key of this.keys) key.today = 0;
    this.#link?.dayTurned();
  }

  disable(key: Key, said: string, now: number): void {
    if (key.disabled !== null) return;
    key.isOnTrial = false;
    key.disabled = { reason: "invalid_key", at: now, said };
    this.#onKeyChanged(key, { kind: "disabled", reason: "invalid_key", said }, now);
  }

  tryAgain(key: Key, now: number): void {
    if (key.disabled === null) return;
    key.disabled = null;
    key.isOnTrial = true;
    this.#records?.save(key);
    this.#serveQueue(now);
  }

  vouchFor(key: Key): void {
    this.#credentials.vouchFor(key);
  }

  revive(key: Key, now: number): void {
    key.disabled = null;
    key.isOnTrial = false;
    this.#penalties.pardon(key.account);
    this.#onKeyChanged(key, { kind: "back", reason: null, said: "" }, now);
  }

  setPaused(key: Key, isPaused: boolean, now: number): void {
    if (key.isPaused === isPaused) return;
    key.isPaused = isPaused;
    const kind = isPaused ? "paused_by_hand" : "resumed_by_hand";
    this.#onKeyChanged(key, { kind, reason: "manual", said: "" }, now);
  }

  report(now: number): KeyReport[] {
    this.#turnDay(now);
    const offset = wallOffset(this.#clock);
    return this.keys.map((key) => {
      const report = reportOf(key, this.#selector.limitsOf(key.account), this.#day.endsAt, now);
      return { ...report, lastUsedAt: key.lastUsedAt === 0 ? 0 : key.lastUsedAt + offset };
    });
  }

  /** Something about a key has changed that is not the end of a lease. */
  #onKeyChanged(key: Key, event: Pick<KeyEvent, "kind" | "reason" | "said">, now: number): void {
    this.#records?.save(key);
    this.#serveQueue(now);
    this.#events.tell({ ...event, until: null }, key, now);
  }

  #serveQueue(now: number): void {
    if (this.#queue.size > 0) this.#queue.serve(now);
  }
}

// ── 2 · The retry loop ──────────────────────────────────────────────────────────────────────────────────────────

const DEFAULT_ATTEMPTS = 10;
const ABANDONED: Abandoned = { kind: "abandoned" };
/** What the pool is told of an account that has not what a request refers to: nobody is to blame. */
const RESOURCE_MISSING: Verdict = { kind: "rejected", said: "" };

/** Always gives the client an answer, also after a bug of ours, and then nothing stays counted as in flight. */
async function relay(context: RequestContext, route: Route, engine: Engine): Promise<Response> {
  context.expectBody();
  try {
    const received = await context.clientEnd.receive(context.request, context.share, engine.config);
    keepForwarded(context.headers, USER_AGENT, engine.config.access);
    if (received.kind === "refused") return refuse(received, context, engine);
    context.setBody(received);
    const { clientLimiter, config, sharing, upstreams } = engine;
    const lists = config.models === "all" && route.mayLeadElsewhere ? engine.modelLists : null;
    const listed =
      lists && (await lists.answer(context, config.routes, upstreams, clientLimiter.mayUse(context)));
    if (listed !== null) {
      addCors(listed.headers, context.origin, config.corsOrigins);
      return context.finish(200, "served", listed);
    }
    const reserved =
      sharing === null ? clientLimiter.admit(context) : await clientLimiter.admitShared(context, sharing);
    if ("kind" in reserved) return refuse(reserved, context, engine);
    context.reservation = reserved;
    const hops = hopsOf(
      context,
      route,
      config,
      upstreams,
      lists && ((model) => lists.targetOf(model, upstreams)),
    );
    if (sharing !== null && hops.length > 1)
      for (const { upstream } of hops) await context.lookUpOwners(upstream, sharing);
    const hopsLeft = context.hopsToOwner(hops);
    context.listsModels =
      route.mayLeadElsewhere &&
      config.routes.length > 0 &&
      asksForModels(context.method, context.target.path);
    for (const [index, { upstream, model }] of hopsLeft.entries()) {
      context.setTargetModel(model);
      const response = await tryKeys(context, upstream, hopsLeft[index + 1]?.upstream ?? null, engine);
      if (response !== null) return response;
    }
    throw new Error("the last target fell back to none");
  } catch (error) {
    context.reason = "a bug of keywheel's own: the line before says which";
    return context.finish(500, "internal_error", bugResponse(error, engine.log));
  }
}

/** The client's answer where no upstream is asked. */
function refuse(refusal: ProxyError, context: RequestContext, engine: Engine): Response {
  context.reason = refusal.message;
  return context.finish(refusal.status, refusal.type, refused(refusal, context.origin, engine));
}

/** Tries one provider until there is an answer or a reason to stop; null: `next` is to be tried. */
async function tryKeys(
  context: RequestContext,
  upstream: Upstream,
  next: Upstream | null,
  engine: Engine,
): Promise<Response | null> {
  const { clock, random } = engine;
  const { pool } = upstream;
  const { progress } = context;
  const maxAttempts =
    engine.config.maxAttempts ?? progress.attempts + Math.max(DEFAULT_ATTEMPTS, pool.keys.length + 2);
  pool.retryBudget.countRequest();
  context.deferredAt = 0;
  if (engine.sharing !== null) await context.lookUpOwners(upstream, engine.sharing);
  context.bind(upstream);
  const isOwned = context.boundTo !== null || (context.binding?.owner ?? null) !== null;
  const isChained = next !== null && !isOwned; // no other provider has what this one made
  context.limitWait(isChained);
  for (;;) {
    if (progress.attempts > 0 && context.signal.aborted) return giveUp(ABANDONED, context, upstream, engine);
    const leased = leaseFor(context, pool, isChained && next !== upstream, clock);
    const lease = leased instanceof Promise ? await leased : leased;
    let setback: Setback;
    let isFault = false;
    if (lease.kind === "no_key") {
      if (lease.why === "unsuited" && context.missingAnswer !== null) {
        context.binding?.rememberMissing(clock.now());
        return relayWhole(context.missingAnswer, context, engine); // no account has it: what the first one said
      }
      setback = context.signal.aborted ? ABANDONED : lease;
    } else {
      const confirmed = pool.confirm(lease, context);
      if (confirmed !== null && !(await confirmed)) continue; // other instances have taken the last place
      progress.attempts += 1;
      context.deferredAt = 0;
      const attempted = await attempt(context, upstream, lease, engine);
      const { result, limits } = attempted;
      context.wentOut ||= mayHaveArrived(result);
      const missing = context.missingResourceIn(result, lease);
      if (missing !== null) {
        pool.settle(lease, RESOURCE_MISSING, clock.now(), limits);
        context.noteMissingResource(missing, upstream, lease);
        continue; // another account may have it
      }
      if (result.kind !== "failed") {
        const response = passThrough(result, attempted, context, upstream, lease, engine);
        if (engine.sharing !== null) await engine.sharing.ownersSaved(context); // the next request may go elsewhere
        return response;
      }
      if (isOfOurs(result)) {
        pool.settle(lease, ABANDONED, clock.now()); // it was not even tried, and that is nobody's fault
        return refuse(NO_DESCRIPTORS, context, engine);
      }
      setback = result.setback;
      const isStale = setback.kind === "unreachable" && setback.isStale === true;
      const outcome = isStale ? ABANDONED : (result.verdict ?? setback);
      isFault = outcome.kind === "overloaded" || outcome.kind === "unreachable";
      const refusedAlike = pool.settle(lease, outcome, clock.now(), limits);
      context.noteFailure(result, upstream, lease);
      if (refusedAlike.length > 0 && outcome.kind === "revoked" && result.answer !== null) {
        context.hold();
        // Not about the keys, as far as a check can tell: the client gets what upstream said (P36).
        if (!(await engine.keyChecker.blames(upstream.config.name, refusedAlike, outcome)))
          return relayWhole(result.answer, context, engine);
      }
    }

    const now = clock.now();
    const mayRetry = !isFault || pool.retryBudget.readyAt <= now; // what a client wants repeated is no fault
    const hasFallback = isChained && (next !== upstream || mayRetry); // the same once more is a retry, too
    const policy = { maxAttempts, waitUntil: context.waitUntil, hasFallback, mayRetry };
    const decision = decide(setback, progress, policy, now, random());
    switch (decision.do) {
      case "rotate":
        context.reuseAt = decision.reuseAt;
        break;
      case "back_off":
        if (isFault) pool.retryBudget.spend(now);
        progress.upstreamFaults += 1;
        if (decision.replaysMaybeBilled) progress.maybeBilledReplays += 1;
        context.hold();
        context.enterPhase("waiting", now);
        await pause(decision.pauseMs, context.signal, clock);
        context.waitedMs += clock.now() - now;
        break;
      case "wait":
        progress.upstreamFaults += 1;
        context.deferredAt = now;
        break;
      case "fall_back":
        if (isFault && next === upstream) pool.retryBudget.spend(now);
        if (decision.replaysMaybeBilled) progress.maybeBilledReplays += 1;
        return null;
      case "give_up":
        return giveUp(setback, context, upstream, engine);
    }
  }
}

/** Whether this machine could not send it, whatever the provider is like (P44). */
function isOfOurs({ setback }: Failed): boolean {
  return setback.kind === "unreachable" && setback.type === "overloaded";
}

/** A key, at once or in turn. Where there is another target, the request does not wait for an upstream that is down. */
function leaseFor(
  context: RequestContext,
  pool: KeyPool,
  hasFallback: boolean,
  clock: Clock,
): Lease | NoKey | Promise<Lease | NoKey> {
  if (hasFallback && pool.isPausedFor(context, clock.now())) {
    const trial = pool.lease(context, clock.now()); // a lease if this request may try whether it is up again
    if (trial.kind === "lease" || trial.why === "paused") return trial;
  }
  const preferred = context.progress.attempts === 0 ? (context.binding?.preferredAccount ?? null) : null;
  if (preferred !== null) {
    const lease = pool.lease(context, clock.now(), preferred);
    if (lease.kind === "lease") return lease;
  }
  const acquired = pool.acquire(context);
  if (!(acquired instanceof Promise)) return acquired;
  context.hold();
  const since = clock.now();
  context.enterPhase("waiting", since);
  return acquired.then((result) => {
    context.waitedMs += clock.now() - since;
    return result;
  });
}

/** The client's answer when none of upstream's may be passed on as an answer. */
function giveUp(
  setback: Setback,
  context: RequestContext,
  { config, pool }: Upstream,
  engine: Engine,
): Response {
  const { kept, progress } = context;
  if (setback.kind === "abandoned" && context.signal.reason === DRAINING)
    return context.finish(DRAINING.status, DRAINING.type, refused(DRAINING, context.origin, engine));
  if (setback.kind === "abandoned")
    return context.finish(499, "abandoned", new Response(null, { status: 499 }));
  // If no account may serve this request, the refusal is about the request, whatever its status (P36). A 429 is not.
  const mayNobody = setback.kind === "no_key" && setback.why === "unsuited" && kept?.answer.status !== 429;
  const isOfKeys = kept !== null && REFUSES_KEYS.has(kept.answer.status) && !mayNobody;
  if (kept !== null && context.lastBlame !== "key" && !isOfKeys) {
    context.keyLabel = kept.keyLabel;
    context.reason = kept.said;
    return relayWhole(kept.answer, context, engine);
  }
  const now = engine.clock.now();
  const refusal =
    setback.kind === "unreachable"
      ? unreachableError(setback)
      : noKeyError({
          none: setback.kind === "no_key" ? setback : pool.noKeyFor(context, now),
          attempts: progress.attempts,
          waitedMs: context.waitedMs,
          model: context.model,
          provider: config.name,
          keys: pool.report(now),
          said: context.lastSaid,
          settings: engine.config,
          now,
        });
  context.reason = refusal.message;
  const response = refused(refusal, context.origin, engine);
  response.headers.set("x-keywheel-attempts", String(progress.attempts));
  return context.finish(refusal.status, refusal.type, response);
}

// ── 3 · One attempt, and the streaming passthrough ──────────────────────────────────────────────────────────────

/** What one request to upstream came to. */
interface Attempt {
  readonly result: Attempted;
  /** What the answer announced of limits; null: nothing, or there was none. */
  readonly limits: Budgets | null;
  readonly timeouts: AttemptTimeouts;
}

/** Asks upstream once, with one key. Never throws: whatever happens is an answer or a setback. */
async function attempt(
  context: RequestContext,
  upstream: Upstream,
  lease: Lease,
  engine: Engine,
): Promise<Attempt> {
  context.attemptStarted(upstream, lease);
  const timeouts = engine.clocks.start(context, upstream);
  let limits: Budgets | null = null;
  let result: Attempted;
  try {
    const response = await send(context, upstream, lease, timeouts.signal);
    timeouts.heard();
    lease.isNotFound = response.status === 404;
    limits = upstream.headerSampler.read(upstream.config, response, engine.clock);
    const { redactor, clock } = engine;
    const asked = { call: context, provider: upstream.config, redactor, clock, timeouts };
    const judged =
      response.status === 407 && upstream.proxy !== null
        ? failed(proxyWantsPassword(upstream))
        : isShort(response, context.method)
          ? judgeShort(response, await bytesOf(response), asked)
          : readOpening(response, asked);
    result = judged instanceof Promise ? await judged : judged; // `await` on a value that is there costs a turn of the event loop
    if (context.listsModels && result.kind !== "failed")
      result = await listingRoutes(result, engine.config.routes);
  } catch (error) {
    const why = timeouts.explain(error);
    if (why.kind === "unreachable" && why.maybeBilled) upstream.connectionBroke();
    result = failed(why);
  }
  if (result.kind === "failed") timeouts.abort(ABANDONED); // the rest of its answer is not needed
  if (result.kind !== "streamed") timeouts.end();
  return { result, limits, timeouts };
}

/** Sends the request with this key. The key is taken out of `context.headers` again once `fetch` has read them. */
function send(
  context: RequestContext,
  { config, base, connections }: Upstream,
  { key }: Lease,
  signal: AbortSignal,
): Promise<UpstreamResponse> {
  const { method, headers, target, api, progress } = context;
  const path = joinBase(base, target.path, api);
  if (context.readsAnswer) headers.set("accept-encoding", "identity");
  const [field, credential] = authHeader(config.dialect, path, key.secret.reveal());
  headers.set(field, credential);
  const { body, length } = context.bodyToSend();
  if (length !== null) headers.set("content-length", String(length)); // a stream would go out in chunks
  try {
    const request = {
      method,
      headers,
      body,
      redirect: "manual", // a followed redirect would carry the key elsewhere
      decompress: false, // the bytes, and content-encoding, stay as they were sent
      proxy: config.upstreamProxy?.address.reveal(),
      signal,
    } as const;
    return connections.send(
      base.origin + path + queryFor(base, target.query),
      request,
      progress.maybeBilledReplays > 0,
    );
  } finally {
    headers.delete(field);
    if (length !== null) headers.delete("content-length");
  }
}

/** Hands an answer on to the client. From here on nothing is retried. */
function passThrough(
  answer: BufferedResponse | StreamedResponse,
  { limits, timeouts }: Attempt,
  context: RequestContext,
  upstream: Upstream,
  lease: Lease,
  engine: Engine,
): Response {
  const now = engine.clock.now();
  const { status, headers } = answer;
  upstream.pool.responseStarted(lease, answer.outcome, now, limits);
  context.responseStarted(answer, upstream, lease, now);
  const readable = answer.kind === "buffered" ? answer.body : answer.first;
  context.binding?.learn(accountName(lease.key), answer, readable, engine.clock.wall());
  if (answer.kind === "buffered") {
    upstream.pool.settle(lease, answer.outcome, now);
    return relayWhole(answer, context, engine);
  }
  // Made first, as it reads fields of the framing that the next lines take out.
  const passthrough = new StreamPassthrough(answer, timeouts, context, upstream, lease, engine);
  addOurFields(headers, context, engine);
  headers.delete("content-length"); // the stream goes out chunked
  return new Response(passthrough.stream(), { status, headers });
}

/** Passes on an answer that is whole. */
function relayWhole(
  { status, headers, body, outcome }: BufferedResponse,
  context: RequestContext,
  engine: Engine,
): Response {
  addOurFields(headers, context, engine);
  // Bun adds a content-type to bytes without one; to a stream it adds none.
  const sent = body !== null && !headers.has("content-type") ? streamOf(body) : body;
  const response = new Response(sent, { status, headers });
  const tokens = context.countsTokens && status < 300 && body !== null ? tokensOfAnswer(headers, body) : null;
  if (tokens instanceof Promise) {
    void context.endWith(tokens, status, outcome.kind, body?.length ?? 0);
    return response; // the client need not wait until the body is unpacked and its tokens are read
  }
  context.tokens = tokens;
  return context.finish(status, outcome.kind, response, body?.length);
}

/** Keeps only the end-to-end fields of an answer, and adds ours. */
function addOurFields(headers: Headers, context: RequestContext, engine: Engine): void {
  keepEndToEnd(headers);
  cleanFields(headers, engine.redactor);
  keepFromRunning(headers);
  if (context.keyLabel !== null) headers.set("x-keywheel-key", context.keyLabel);
  headers.set("x-keywheel-attempts", String(context.progress.attempts));
  addCors(headers, context.origin, engine.config.corsOrigins);
}

/**
 * One answer on its way to the client: every chunk as it came; a stream that was cut never ends as if it were whole.
 */
class StreamPassthrough {
  readonly #answer: StreamedResponse;
  readonly #timeouts: AttemptTimeouts;
  readonly #context: RequestContext;
  readonly #upstream: Upstream;
  readonly #lease: Lease;
  readonly #clock: Clock;
  /** Follows a stream to its last event; null where the framing alone tells whether the body is whole. */
  readonly #follower: StreamFollower | null;
  /** Reads in the passing chunks which resources the account owns from now on; null: there is nothing to learn. */
  readonly #listen: ((chunk: Uint8Array, now: number) => void) | null;
  #pending: Promise<ReadResult> | null;
  /** Looks for the first event while only comments have come; null: the first event has begun. */
  #beginning: EventScanner | null;
  #bytes = 0;
  /** When so much was searched for errors, the others have their turn. */
  #turnAt = SEARCHED_IN_A_TURN;
  /** Length of the chunk that the client has not taken yet; 0: it has taken all. */
  #waitingBytes = 0;
  #ended = false;

  constructor(
    answer: StreamedResponse,
    timeouts: AttemptTimeouts,
    context: RequestContext,
    upstream: Upstream,
    lease: Lease,
    engine: Engine,
  ) {
    this.#answer = answer;
    this.#timeouts = timeouts;
    this.#context = context;
    this.#upstream = upstream;
    this.#lease = lease;
    this.#clock = engine.clock;
    this.#pending = answer.pending;
    this.#beginning = answer.begun ? null : new EventScanner();
    const { framing, headers } = answer;
    const clean = (text: string) => engine.redactor.redact(text);
    const { streamDialect: dialect, countsTokens } = context;
    this.#follower = followerOf({ dialect, framing, headers, clean, countsTokens });
    this.#listen = context.binding?.listener(accountName(lease.key)) ?? null;
    timeouts.onLeave = () => this.#leave();
    if (answer.begun) timeouts.streams();
  }

  stream(): ReadableStream<Bytes> {
    const { clientEnd, request } = this.#context;
    return clientEnd.openBody(
      request,
      (sink) => this.#run(sink),
      () => this.#leave(),
    );
  }

  async #run(sink: BodySink): Promise<void> {
    const { reader } = this.#answer;
    try {
      await this.#passFirst(sink);
      while (!this.#ended) {
        this.#timeouts.resumes();
        const { done, value } = await (this.#pending ?? reader.read());
        this.#pending = null;
        if (done) break;
        const { length } = value;
        const written = this.#pass(value, sink);
        if (written instanceof Promise) await this.#taken(written, length); // until then nothing more is read
        if (this.#follower !== null && this.#follower.searchedBytes >= this.#turnAt) await this.#giveTurn();
      }
    } catch (error) {
      return this.#break(this.#timeouts.explain(error), sink);
    }
    if (!this.#ended) await this.#close(sink);
  }

  /** To search is slow, and what is here already is read without a turn of the event loop. */
  #giveTurn(): Promise<void> {
    this.#turnAt += SEARCHED_IN_A_TURN;
    return nextTurn();
  }

  /** Passes on what was read already. Drops it first: it would stay in memory as long as the stream. */
  async #passFirst(sink: BodySink): Promise<void> {
    const { first } = this.#answer;
    this.#answer.first = null;
    if (first === null) return;
    const { length } = first;
    const written = this.#pass(first, sink);
    if (written instanceof Promise) await this.#taken(written, length);
  }

  /** The client left, or its connection broke. */
  #leave(): void {
    this.#finish(499, ABANDONED);
    discard(this.#answer.reader);
  }

  /** Passes one chunk on. Returns a promise where the client has not taken it all. */
  #pass(chunk: Bytes, sink: BodySink): number | Promise<number> {
    this.#bytes += chunk.length;
    const sent = this.#follower === null ? chunk : this.#follower.push(chunk);
    this.#listen?.(chunk, this.#clock.wall());
    if (this.#beginning !== null) this.#lookForEvent(chunk, this.#beginning);
    return sent instanceof Promise
      ? sent.then((unpacked) => this.#send(unpacked, chunk, sink))
      : this.#send(sent, chunk, sink);
  }

  #send(sent: Bytes | null, chunk: Bytes, sink: BodySink): number | Promise<number> {
    if (sent === null) return 0; // it may be an error, and is held back until its end is here
    this.#timeouts.rests();
    const written = sink.write(sent);
    if (sent === chunk && chunk.length >= LARGE_CHUNK_BYTES) this.#free(chunk);
    return written;
  }

  /**
   * Frees a large chunk at once. It is copied by now (`copiesPieces`), and nothing else refers to it. Left to the
   * collector, the chunks of many slow readers would add up.
   */
  #free(chunk: Bytes): void {
    const isOurs =
      chunk.length === chunk.buffer.byteLength && this.#listen === null && this.#beginning === null;
    if (!isOurs || !this.#context.clientEnd.copiesPieces) return;
    if (this.#follower === null || this.#follower.isPlain) free(chunk);
  }

  /** Waits until the client has taken a chunk. Until then it is in memory, and counts as buffered (P23). */
  async #taken(written: Promise<number>, length: number): Promise<void> {
    this.#waitingBytes = length;
    this.#context.share.hold(length);
    await written;
    this.#letGo();
  }

  #letGo(): void {
    this.#context.share.release(this.#waitingBytes);
    this.#waitingBytes = 0;
  }

  /** From the first event on the idle timeout holds. */
  #lookForEvent(chunk: Bytes, beginning: EventScanner): void {
    beginning.push(chunk);
    if (!beginning.hasBegun) return;
    this.#beginning = null;
    this.#timeouts.streams();
  }

  /** Upstream ended the body. Whether the stream was complete depends on its last event (P17). */
  async #close(sink: BodySink): Promise<void> {
    await this.#passRest(sink);
    const end = this.#follower === null ? "complete" : await this.#follower.end();
    const failure = this.#follower?.failure ?? "";
    const asked = { call: this.#context, provider: this.#upstream.config, clock: this.#clock };
    const { status, outcome } = this.#answer;
    switch (end) {
      case "complete": // it ended as its dialect wants; its last event may still say that it failed
        const { sharing } = this.#context.engine;
        if (sharing !== null) await sharing.ownersSaved(this.#context);
        this.#finish(status, failure === "" ? outcome : lateVerdict(failure, asked));
        sink.close();
        return;
      case "failed":
        this.#finish(status, lateVerdict(failure, asked));
        return this.#cutOff();
      case "cut": {
        const verdict = judgeLate(failure, asked);
        if (verdict === null)
          return this.#tellBroken(protocolError("the stream ended before its last event"), sink);
        this.#finish(status, verdict); // upstream sent its own error, in a form of no dialect: the client has it already
        return this.#cutOff();
      }
    }
  }

  /** Passes on what was held back because it might have been an error. */
  async #passRest(sink: BodySink): Promise<void> {
    const rest = this.#follower?.rest() ?? null;
    if (rest !== null) await sink.write(rest);
  }

  /** The connection broke, was silent for too long, or the client left. */
  async #break(setback: Unreachable | Abandoned, sink: BodySink): Promise<void> {
    this.#timeouts.abort(setback);
    if (setback.kind === "unreachable") this.#upstream.connectionBroke();
    if (setback.kind === "abandoned") {
      this.#finish(499, setback);
      return this.#cutOff();
    }
    if (await this.#follower?.isOver()) return this.#close(sink); // its last event had come before
    return this.#tellBroken(setback, sink);
  }

  /** The answer cannot go on: the client is told in the stream's own words, then the connection is cut. */
  async #tellBroken(setback: Unreachable, sink: BodySink): Promise<void> {
    this.#context.isTruncated = true;
    this.#finish(this.#answer.status, setback);
    if (!this.#follower?.isPlain) return this.#cutOff();
    await this.#passRest(sink);
    const edge = this.#follower.atEdge ? "" : "\n\n";
    await sink.write(edge + errorEvent(this.#follower.dialect, setback.type, setback.message));
    return this.#cutOff();
  }

  /** Ends the connection without the end of the body. Waits one turn before: else Bun drops what was just written. */
  async #cutOff(): Promise<void> {
    await nextTurn();
    throw CUT_SHORT;
  }

  #finish(status: number, outcome: Outcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#letGo();
    this.#timeouts.end();
    this.#upstream.pool.settle(this.#lease, outcome, this.#clock.now());
    if (outcome.kind !== "rejected") this.#context.reason = saidBy(outcome);
    if (this.#context.countsTokens) this.#context.tokens = this.#follower?.tokens() ?? null;
    this.#context.end(status, outcome.kind, this.#bytes);
  }
}

/** After so much that was searched for errors the others have their turn. */
const SEARCHED_IN_A_TURN = 256 * 1024;
/** Chunks from this length on are freed as soon as they are written: one may have half a megabyte. */
const LARGE_CHUNK_BYTES = 32 * 1024;
const CUT_SHORT = new Error("the answer was cut short");

// ── 4 · The server ──────────────────────────────────────────────────────────────────────────────────────────────

type Server = Bun.Server<undefined>;

/** Answers one request: the proxy's own paths and refusals here, everything else by `relay`. */
function handle(
  request: Request,
  server: Server,
  clients: ClientEnd,
  engine: Engine,
): Response | Promise<Response> {
  const { config, openAdmin } = engine;
  const { headers } = request;
  const target = targetOf(request.url, headers.get("host"));
  if (target === null) return errorResponse(UNREADABLE_TARGET);
  const { path, query } = target;
  const peer = peerOf(request, server, config.listen);
  if (withoutPrefix(path, "/admin") !== null) {
    if (openAdmin === null || config.adminPassword === null) return adminOff(request, peer, config);
    const keepOpen = () => server.timeout(request, 0);
    return openAdmin().then((admin) => admin.handle({ request, path, query, peer, keepOpen }));
  }
  if (config.corsOrigins.length > 0 && isPreflight(request)) return preflight(headers, config.corsOrigins);
  const identity = { peer, headers, keyParameter: keyParameter(query) };
  const admission = authorize(identity, config.access, config.listen, config.corsOrigins);
  const own = ownAnswer(request, target, identity, admission, engine);
  if (own !== null) return own;
  if (admission.kind === "refused") return refused(admissionError(admission), headers.get("origin"), engine);
  const route = planRoute(request, target, engine);
  if (route.kind === "refused") return refused(route, headers.get("origin"), engine);
  const { client, keyId = null } = admission;
  const share = engine.load.shareOf(client ?? peer ?? THIS_MACHINE);
  const context = new RequestContext(request, clients, engine, route, client, keyId, share);
  return relay(context, route, engine);
}

/** A refusal of our own, which the page of an allowed origin may read. */
function refused(refusal: ProxyError, origin: string | null, { config }: Engine): Response {
  const response = errorResponse(refusal);
  addCors(response.headers, origin, config.corsOrigins);
  return response;
}

/** How long the error events of streams that are cut at the end of a drain may take to go out. */
const CUT_GRACE_MS = 100;

const newPool: PoolMaker = (...given) => new Pool(...given);

/** Starts to listen. Throws where the address cannot be listened on. */
export function startProxy(config: Config, dependencies: Dependencies): ListeningProxy {
  const { clock, log, keeper = null, sharing = null, observers = [] } = dependencies;
  const parts = {
    metrics: new Metrics(),
    clientLimiter: new ClientLimiter(clock, sharing === null ? keeper : null, sharing),
    namedModelsOf,
    modelLists: new ModelLists(clock),
  };
  const engine = createEngine(config, VERSION, newPool, accessByBun(), {
    ...dependencies,
    ...parts,
    observers: [logObserver(log), ...observers],
  });
  const { listen } = config;
  let clients: ClientEnd | null = null;
  const options = {
    idleTimeout: IDLE_SEC,
    development: false, // else an error page would show our source and the error's text
    maxRequestBodySize: Number.MAX_SAFE_INTEGER, // counted by ourselves, so that 413 can say why
    fetch: (request: Request, bunServer: Server) =>
      handle(request, bunServer, (clients ??= clientsOf(bunServer)), engine),
    error: (error: Error) => bugResponse(error, engine.log),
  } as const;
  const where =
    listen.kind === "unix"
      ? { unix: listen.path }
      : { hostname: listen.hostname, port: listen.port, reusePort: false };
  const server: Server = Bun.serve({ ...options, ...where } as Bun.Serve.Options<undefined>);
  const stop = async () => {
    engine.clocks.stop();
    engine.keyChecker.close();
    await server.stop(true);
    engine.log.flush();
  };
  return {
    engine,
    url: urlOf(listen, server.port),
    requestsByPort: () =>
      [...engine.underWay].map((context) => ({
        port: server.requestIP(context.request)?.port ?? 0,
        isReceiving: context.progressAt(0).phase === "receiving",
      })),
    async drain() {
      engine.draining = true;
      engine.onDrain();
      const { promise: isLate, resolve } = Promise.withResolvers<"late">();
      const cancel = engine.clock.after(config.drainMs, () => resolve("late"));
      const ending = await Promise.race([server.stop(), isLate]);
      cancel();
      if (ending === "late") {
        engine.clocks.abortAll(cutByDrain(config.drainMs)); // streams are told in their own words
        await Promise.race([server.stop(), nextTurn(CUT_GRACE_MS)]);
      }
      await stop();
    },
    stop,
  };
}

// ── The library ─────────────────────────────────────────────────────────────────────────────────────────────────

/** Set by build.sh: nothing of the library is in the executable. */
declare const KEYWHEEL_EXECUTABLE: boolean | undefined;

/** A `fetch` with a pool of keys behind it, for programs that have it in their own process (lib/library/public.ts). */
export const createPooledFetch: typeof createPooledFetchType =
  typeof KEYWHEEL_EXECUTABLE === "undefined"
    ? (options = {}) => openPooledFetch(options, ENGINE_PARTS).fetch
    : () => {
        throw new Error("the executable is no library: use the npm package keywheel");
      };

// ── 5 · Main ────────────────────────────────────────────────────────────────────────────────────────────────────

/** Set by build.sh. */
declare const KEYWHEEL_VERSION: string | undefined;
export const VERSION = typeof KEYWHEEL_VERSION === "string" ? KEYWHEEL_VERSION : `${packageFile.version}-dev`;
const USER_AGENT = `keywheel/${VERSION}`;
/** What the library is made of. */
export const ENGINE_PARTS: EngineParts = { version: VERSION, newPool, relay, random: Math.random };
const newToken = () => Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url");

/** What `serve` and `demo` run with. Tests pass a clock and a `random` of their own. */
const MAIN_PARTS = {
  version: VERSION,
  clock: systemClock,
  random: Math.random,
  newToken,
  start: startProxy,
  reconfigure,
};

/** Runs the command line. Resolves with the exit code, or never while the proxy serves. */
async function main(): Promise<number> {
  const started = await givenEnvironment();
  const environment = started.given;
  const command = parseCommand(process.argv.slice(2));
  switch (command.kind) {
    case "help":
      console.log(USAGE);
      return EXIT_FINE;
    case "version":
      console.log(`keywheel ${VERSION}`);
      return EXIT_FINE;
    case "usage":
      console.error(command.message);
      return EXIT_USAGE;
    case "init":
    case "status":
    case "keys":
      return import("./lib/cli/commands.ts").then(({ operate }) => operate(command, environment, newToken));
    case "check":
    case "demo":
    case "serve": {
      const certificates = await certificateFiles(placesOf(environment, command.envFile));
      const refusal = renewProcess(started, certificates, { isServer: command.kind !== "check" });
      if (refusal !== null) return refusal;
      if (command.kind === "check")
        return import("./lib/cli/commands.ts").then(({ operate }) => operate(command, environment, newToken));
      return command.kind === "demo"
        ? demo(environment, MAIN_PARTS)
        : serve(environment, command.envFile, MAIN_PARTS);
    }
  }
}

if (import.meta.main) {
  process.on("unhandledRejection", (reason) => {
    const what = reason instanceof Error ? `${reason.name}: ${reason.message}` : "not an Error";
    console.error(`keywheel: a bug, and it goes on: ${what}`);
  });
  process.exit(await main());
}
