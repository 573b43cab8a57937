#!/usr/bin/env bun
/**
 * keywheel: stands between LLM agents and their provider, holds a pool of API keys, and hides rate limits.
 *
 * A request's road, top to bottom: `handle` lets it in, `relay` leases keys and tries until there is an answer,
 * `attempt` asks upstream once, `passThrough` hands the answer on. Facts (verdicts), decisions (`decide`) and
 * effects (everything that awaits) are kept apart: a status code is judged in lib/providers/classify.ts and nowhere else,
 * what to do about it is decided by one pure function, and only the loop and the attempt do anything.
 */
import { EXIT_FAILED, EXIT_FINE, EXIT_USAGE, USAGE, parseCommand } from "./lib/cli/args.ts";
import {
  banner,
  demoBanner,
  givenEnvironment,
  liftFetchLimit,
  openOutputs,
  placesOf,
  untilSignalled,
  urlOf,
  whyNotListening,
} from "./lib/cli/startup.ts";
import type { Outputs } from "./lib/cli/startup.ts";
import { loadConfig, parseConfig } from "./lib/config/config.ts";
import type { Config } from "./lib/config/config.ts";
import type { ConfiguredKey } from "./lib/config/keys.ts";
import type { ProviderConfig } from "./lib/config/provider-settings.ts";
import { Reloader } from "./lib/config/reload.ts";
import { HOUR_MS, nextTurn, pause, systemClock, wallOffset } from "./lib/core/clock.ts";
import type { Clock } from "./lib/core/clock.ts";
import { toAll } from "./lib/core/events.ts";
import type { KeyEvent, Log, Observer } from "./lib/core/events.ts";
import { bytesOf, discard, streamOf } from "./lib/http/body.ts";
import type { Bytes, ReadResult } from "./lib/http/body.ts";
import { addCors, authorize, isPreflight, preflight } from "./lib/http/client-auth.ts";
import {
  INTERNAL_ERROR,
  UNREADABLE_TARGET,
  admissionError,
  errorResponse,
  noKeyError,
  unreachableError,
} from "./lib/http/error-responses.ts";
import type { ProxyError } from "./lib/http/error-responses.ts";
import { FirstEvent } from "./lib/http/first-event.ts";
import {
  baseOf,
  joinBase,
  keepEndToEnd,
  keepForwarded,
  keepFromRunning,
  keyParameter,
  queryFor,
  receive,
  targetOf,
  withoutPrefix,
} from "./lib/http/request.ts";
import { STREAM_FAILED, errorEvent, followerOf } from "./lib/http/sse.ts";
import type { StreamFollower } from "./lib/http/sse.ts";
import { AttemptTimeouts, TimeoutTicker, canConnect, cutByDrain } from "./lib/http/timeouts.ts";
import { failed, isShort, judgeShort, protocolError, readOpening } from "./lib/http/upstream-response.ts";
import type { Attempted, BufferedResponse, StreamedResponse } from "./lib/http/upstream-response.ts";
import { logObserver } from "./lib/observability/log.ts";
import { Metrics } from "./lib/observability/metrics.ts";
import { CircuitBreaker, FAULTS, REFUSES_ALL } from "./lib/pool/circuit-breaker.ts";
import {
  AFTER_AN_EVENT,
  Account,
  ModelLimits,
  fromDates,
  inDates,
  keyReadyAt,
  newKey,
  readKeyState,
  reportOf,
  stateOf,
} from "./lib/pool/key.ts";
import type { Keeper, Key, KeyReport, KeyState } from "./lib/pool/key.ts";
import { isCounted, isHopeless, saidBy } from "./lib/pool/lease.ts";
import type { KeyPool, Lease, Need } from "./lib/pool/lease.ts";
import { deathsOf, patientsOf } from "./lib/pool/patients.ts";
import { cooldownAfter, scopeOf } from "./lib/pool/penalties.ts";
import type { CooldownRules, KeyRefusal } from "./lib/pool/penalties.ts";
import { Prober } from "./lib/pool/prober.ts";
import { Queue } from "./lib/pool/queue.ts";
import { QuotaDay } from "./lib/pool/quota-day.ts";
import { RateLimiter } from "./lib/pool/rate-limiter.ts";
import type { RateRule } from "./lib/pool/rate-limiter.ts";
import { RetryBudget } from "./lib/pool/retry-budget.ts";
import { decide } from "./lib/pool/retry-policy.ts";
import { KeySelector, ModelState, accountName, isBoundTo } from "./lib/pool/selection.ts";
import { DISTINCT_KEYS, SharedLimit } from "./lib/pool/shared-limit.ts";
import { authHeader, resetZone } from "./lib/providers/catalog.ts";
import { HeaderSampler } from "./lib/providers/rate-limit-headers.ts";
import type { Budgets } from "./lib/providers/rate-limit-headers.ts";
import type { Abandoned, NoKey, Outcome, Setback, Unreachable, Verdict } from "./lib/providers/verdict.ts";
import type { AdminApi, Engine, Upstream } from "./lib/routing/engine.ts";
import { asksForModels, listingRoutes } from "./lib/routing/model-list.ts";
import { adminOff, ownAnswer } from "./lib/routing/own-paths.ts";
import { IDLE_SEC, REFUSES_KEYS, RequestContext } from "./lib/routing/request-context.ts";
import { ResourceOwners } from "./lib/routing/resource-owners.ts";
import type { OwnedId, OwnerKeeper } from "./lib/routing/resource-owners.ts";
import { hopsOf, planRoute } from "./lib/routing/route.ts";
import type { Hop, Route } from "./lib/routing/route.ts";
import packageFile from "./package.json";

// ── 1 · The key pool ────────────────────────────────────────────────────────────────────────────────────────────

export interface PoolDependencies {
  readonly clock: Clock;
  /** From 0 up to 1. */
  readonly random: () => number;
  readonly observer: Observer;
  /** null: nothing outlives the program. */
  readonly keeper: Keeper | null;
}

/** A provider whose model one account may not use is asked again after this long. */
const DENIED_FOR_MS = 6 * HOUR_MS;
/** A request that several keys refused waits so long for others to find out whether everybody is refused. */
const OTHERS_FIRST_MS = 3000;
/** A key that was asked this often in a minute may be at a limit of its own, where none is known yet. */
const NEAR_WHERE_UNKNOWN = 10;

/** The keys of one provider: which may be asked, who waits for them, and whether the provider itself is up. */
export class Pool implements KeyPool {
  /** Opened by failures of the upstream. */
  readonly breaker = new CircuitBreaker(FAULTS);
  /** Opened where the upstream refuses everybody. */
  readonly refusesAll = new CircuitBreaker(REFUSES_ALL);
  #config: ProviderConfig;
  #rules: CooldownRules;
  readonly #choice: KeySelector;
  readonly #dependencies: PoolDependencies;
  readonly #sharedLimit = new SharedLimit();
  readonly #snapshots = new Map<Key, () => KeyState>();
  readonly #day: QuotaDay;
  readonly #queue: Queue;
  #isDry = false;

  constructor(config: ProviderConfig, maxCooldownMs: number, dependencies: PoolDependencies) {
    this.#config = config;
    this.#rules = rulesOf(config, maxCooldownMs);
    this.#dependencies = dependencies;
    this.#day = new QuotaDay(dependencies.clock);
    this.#choice = new KeySelector(config.strategy);
    this.#queue = new Queue(dependencies.clock, {
      lease: (need, now) => this.lease(need, now),
      modelStateOf: (need) => this.#choice.modelStateOf(need),
      othersReadyAt: () => this.#choice.othersReadyAt,
      goesWithout: (result, now) => this.#goesWithout(result, now),
    });
    this.#arrange([], config.keys, dependencies.clock.now());
    if (dependencies.keeper !== null) this.#restore(dependencies.keeper);
  }

  get keys(): readonly Key[] {
    return this.#choice.keys;
  }

  get waiting(): number {
    return this.#queue.size;
  }

  /** Epoch ms until which the provider is left alone; in the past where it is not. */
  get pausedUntil(): number {
    return Math.max(this.breaker.openUntil, this.refusesAll.openUntil);
  }

  /** Other settings from now on. Keys that stay keep all that is known of them; requests under way go on. */
  reconfigure(config: ProviderConfig, maxCooldownMs: number): void {
    const now = this.#dependencies.clock.now();
    const known = this.keys;
    const ratesChanged = config.rpm !== this.#config.rpm;
    this.#config = config;
    this.#rules = rulesOf(config, maxCooldownMs);
    this.#choice.strategy = config.strategy;
    if (ratesChanged) for (const { owner } of known) owner.limiter.follow(rateRule(config));
    this.#arrange(known, config.keys, now);
    if (this.#queue.size > 0) this.#queue.serve(now);
  }

  #arrange(known: readonly Key[], configured: readonly ConfiguredKey[], now: number): void {
    const byId = new Map(known.map((key) => [key.secret.id, key]));
    const byLabel = new Map<string, Account>();
    for (const key of known) if (key.account !== null) byLabel.set(key.account, key.owner);
    const keys = configured.map((entry, index) => {
      const old = byId.get(entry.secret.id);
      const isSame = old !== undefined && old.account === entry.account;
      const owner = isSame
        ? old.owner
        : ((entry.account === null ? undefined : byLabel.get(entry.account)) ??
          new Account(rateRule(this.#config)));
      if (entry.account !== null) byLabel.set(entry.account, owner);
      const dailyLimit = entry.dailyLimit ?? this.#config.dailyLimit;
      if (old === undefined) return newKey(entry, index, this.#config, owner);
      return Object.assign(old, { ...entry, dailyLimit, owner });
    });
    for (const key of known) if (!keys.includes(key)) this.#snapshots.delete(key);
    this.#choice.arrange(keys, this.#day.endsAt, now);
  }

  /** Takes over what was stored of keys in an earlier run. */
  #restore(keeper: Keeper): void {
    const now = this.#dependencies.clock.now();
    this.#turnDay(now);
    const stored = keeper.keyStates(this.#config.name);
    for (const key of this.keys) {
      const dated = readKeyState(stored.get(key.secret.id));
      if (dated === null) continue;
      const state = fromDates(dated, wallOffset(this.#dependencies.clock), now, this.#rules.maxCooldownMs);
      const { cooldown, limiter, models, dayEndsAt, today, ...counted } = state;
      Object.assign(key, counted);
      if (this.#day.goesOn(dayEndsAt)) key.today = today;
      if ((cooldown?.until ?? 0) > (key.owner.cooldown?.until ?? 0)) key.owner.cooldown = cooldown;
      if (limiter !== null) key.owner.limiter.restore(limiter, now);
      for (const [model, known] of Object.entries(models)) {
        const limits = this.#openLimits(key.owner, model, now);
        limits.cooldown = known.cooldown;
        limits.deniedUntil = known.deniedUntil;
        if (known.limiter !== null) this.#pacerOf(limits, key.owner)?.restore(known.limiter, now);
      }
    }
    this.#choice.arrange(this.keys, this.#day.endsAt, now);
  }

  /** A key now, or in this request's turn, or why there will be none in time. Resolves when the client leaves. */
  acquire(need: Need): Lease | NoKey | Promise<Lease | NoKey> {
    const now = this.#dependencies.clock.now();
    // Nobody overtakes: a key may have woken this instant, or what all keys share may bear one more.
    if (now >= this.#queue.wakeAt || (this.#sharedLimit.isKnown && this.#queue.size > 0))
      this.#queue.serve(now);
    const result = this.lease(need, now);
    if (result.kind === "lease") return result;
    if (!isHopeless(result, need, now)) return this.#queue.join(need, result.readyAt, now);
    this.#goesWithout(result, now);
    return result;
  }

  /** The key whose turn it is; one that was not tried for this request before one that was. */
  lease(need: Need, now: number, account: string | null = need.boundTo): Lease | NoKey {
    const { breaker, refusesAll } = this;
    const isQuiet = breaker.isQuiet && refusesAll.isQuiet;
    const pausedUntil = isQuiet ? 0 : Math.max(passableAt(breaker, now), passableAt(refusesAll, now));
    if (pausedUntil > now) return { kind: "no_key", readyAt: pausedUntil, why: "paused" };
    if (!refusesAll.isQuiet && need.tried.size >= DISTINCT_KEYS) {
      // It may be refused for what it asks for: whether everybody still is, others find out before it does.
      const readyAt = refusesAll.openUntil + OTHERS_FIRST_MS;
      if (readyAt > now) return this.#choice.standsAside(readyAt);
    }
    if (this.#sharedLimit.isKnown) {
      const readyAt = this.#sharedLimit.readyAt(now);
      if (readyAt > now)
        return { kind: "no_key", readyAt: this.#futureOf(readyAt, need, now), why: "paused" };
    }
    this.#turnDay(now);
    const modelState = this.#choice.modelStateOf(need);
    const key = this.#choice.next(need, modelState, now, account);
    return key === null ? this.#none(need, now) : this.#take(key, need, modelState, now, !isQuiet);
  }

  /** Why the choice found no key. */
  #none(need: Need, now: number): NoKey {
    const { hasSuited, dependsOnOthers, readyAt: byTime } = this.#choice;
    const readyAt = dependsOnOthers ? Math.min(byTime, this.#futureOf(AFTER_AN_EVENT, need, now)) : byTime;
    if (hasSuited) return { kind: "no_key", readyAt, why: "cooling" };
    const isUsable = (key: Key) => key.disabled === null && !key.isPaused;
    return { kind: "no_key", readyAt: Infinity, why: this.keys.some(isUsable) ? "unsuited" : "none_usable" };
  }

  /** Where an attempt under way may make a key ready, waiting is not in vain, whatever time alone would bring. */
  #futureOf(readyAt: number, { waitUntil }: Need, now: number): number {
    return readyAt < AFTER_AN_EVENT ? readyAt : Math.max(waitUntil, now);
  }

  #turnDay(now: number): void {
    const change = this.#day.look(this.#rules.timezone ?? this.#rules.resetZone, now);
    if (change === "same") return;
    for (const key of this.keys) {
      if (change === "new") key.today = 0;
      this.#choice.refreshKey(key, this.#day.endsAt);
    }
  }

  #take(key: Key, need: Need, modelState: ModelState | null, now: number, isProbe: boolean): Lease {
    const { owner } = key;
    const limits = modelState?.limits.get(owner) ?? null;
    key.today += 1;
    key.requests += 1;
    key.inFlight += 1;
    key.lastUsedAt = now;
    if (key.dailyLimit !== null) this.#choice.refreshKey(key, this.#day.endsAt);
    else this.#choice.ranked(key);
    owner.limiter.sends(now);
    owner.slowStart.sends(now);
    limits?.limiter?.sends(now);
    limits?.slowStart.sends(now);
    this.#sharedLimit.sends(now);
    if (isProbe) {
      this.breaker.probe(now);
      this.refusesAll.probe(now);
    }
    this.#changed(key, modelState, now);
    if (this.#isDry) this.#recovers(now);
    const { admittedAt: admittedBefore } = owner;
    const dayEndsOn = this.#day.endDate;
    return {
      kind: "lease",
      key,
      need,
      at: now,
      limits,
      dayEndsOn,
      isProbe,
      admittedAt: 0,
      admittedBefore,
      settled: false,
    };
  }

  /** The answer has begun: the key's limit does not stand in its way. `budgets`: what it announced of limits. */
  responseStarted(lease: Lease, outcome: Verdict, now: number, budgets: Budgets | null): void {
    if (lease.admittedAt > 0 || lease.settled) return;
    const { key, limits } = lease;
    const { owner } = key;
    lease.admittedAt = now;
    lease.admittedBefore = owner.admittedAt;
    owner.admittedAt = now;
    owner.slowStart.decided();
    owner.slowStart.grows();
    owner.limiter.bears(now);
    limits?.limiter?.bears(now);
    limits?.slowStart.decided();
    limits?.slowStart.grows();
    this.#sharedLimit.bears(lease.at, now);
    if (limits?.cooldown) limits.cooldown.answeredAt = now;
    if (outcome.kind !== "overloaded") {
      this.breaker.answered();
      if (this.#isNews(lease)) this.refusesAll.answered();
    }
    if (budgets !== null) this.#hear(budgets, lease, now);
    this.#choice.refresh(owner, this.#choice.modelStateOf(lease.need), now);
    if (this.#queue.size > 0) this.#queue.serve(now);
  }

  /** Ends a lease with what came of it. A second call for the same lease does nothing. */
  settle(lease: Lease, outcome: Outcome, now: number, budgets: Budgets | null = null): void {
    if (lease.settled) return;
    lease.settled = true;
    const { key, limits } = lease;
    const { owner } = key;
    key.inFlight -= 1;
    const hadBegun = lease.admittedAt > 0;
    owner.limiter.ends({ hadBegun }, now);
    this.#modelPacer(lease)?.ends({ hadBegun }, now);
    if (lease.admittedAt === 0) {
      owner.slowStart.decided();
      limits?.slowStart.decided();
    }
    this.#tellBreakers(lease, outcome, now);
    const isCharged = isCounted(lease, outcome);
    this.#sharedLimit.ends(lease.at, { hadBegun, isCounted: isCharged }, now);
    if (!isCharged) this.#uncount(lease, outcome);
    if (budgets !== null) this.#hear(budgets, lease, now);
    switch (outcome.kind) {
      case "served":
        this.#forgive(lease);
        break;
      case "rate_limited":
        key.rateLimited += 1;
        this.#limit(outcome, lease, now);
        break;
      case "exhausted":
        this.#cool(outcome, lease, now);
        break;
      case "revoked":
        key.errors += 1;
        this.#retire(key, outcome, now);
        break;
      case "overloaded":
      case "unreachable":
        key.errors += 1; // shown, but never held against the key
        // An answer that broke off is no proof that the key is well again.
        if (owner.admittedAt === lease.admittedAt) owner.admittedAt = lease.admittedBefore;
        break;
      case "unsuited":
        this.#deny(outcome, lease, now);
        break;
      case "rejected":
      case "abandoned":
        break;
    }
    this.#changed(key, this.#choice.modelStateOf(lease.need), now);
    if (this.#queue.size > 0) this.#queue.serve(now);
  }

  /** Of the model that was asked for: also one that began while this lease was out, with what was used until then. */
  #modelPacer({ key, need, limits }: Lease): RateLimiter | null {
    return (limits ?? this.#choice.modelStateOf(need)?.limits.get(key.owner))?.limiter ?? null;
  }

  /** The provider did not count it: nor do we. */
  #uncount(lease: Lease, { kind }: Outcome): void {
    const { key, at, dayEndsOn } = lease;
    // What a client left was sent all the same: the day's reservation comes back, the minute's may have been used.
    if (kind !== "abandoned") {
      key.owner.limiter.uncounts(at);
      this.#modelPacer(lease)?.uncounts(at);
    }
    if (dayEndsOn !== this.#day.endDate || key.today === 0) return;
    key.today -= 1;
    if (key.dailyLimit !== null) this.#choice.refreshKey(key, this.#day.endsAt);
  }

  #tellBreakers(lease: Lease, outcome: Outcome, now: number): void {
    const isProbe = lease.isProbe && lease.admittedAt === 0;
    switch (outcome.kind) {
      case "overloaded":
      case "unreachable": {
        const refusesAll = outcome.kind === "overloaded" && outcome.refusesAll;
        const leastMs = refusesAll ? Math.min(outcome.pauseMs ?? 0, this.#rules.maxCooldownMs) : 0;
        const openMs = refusesAll
          ? this.refusesAll.failed(now, isProbe, leastMs)
          : this.breaker.failed(now, isProbe && !this.breaker.isQuiet);
        if (refusesAll || isProbe) this.refusesAll.probeAbandoned();
        if (openMs > 0)
          this.#pauses(refusesAll ? "common_cause" : "upstream_faults", openMs, now, saidBy(outcome));
        return;
      }
      case "abandoned":
        if (!isProbe) return;
        this.breaker.probeAbandoned();
        this.refusesAll.probeAbandoned();
        return;
      case "rate_limited": // may be everybody's: `#limit` finds out
        this.breaker.answered();
        if (isProbe) this.refusesAll.probeAbandoned();
        return;
      case "served":
      case "rejected":
      case "exhausted":
      case "revoked":
      case "unsuited":
        this.breaker.answered();
        if (this.#isNews(lease)) this.refusesAll.answered();
    }
  }

  /** Whether it was sent after everybody had been refused: what was sent before says nothing about now. */
  #isNews({ isProbe, at }: Lease): boolean {
    return isProbe || at >= this.refusesAll.openUntil;
  }

  #pauses(reason: "upstream_faults" | "common_cause", forMs: number, now: number, said: string): void {
    this.#tell({ kind: "provider_paused", reason, until: now + forMs, said }, null, now);
  }

  /** A success ends the streak of refusals of this key (and model), save one that began after it was sent. */
  #forgive({ key, limits, at }: Lease): void {
    const { owner } = key;
    if (owner.cooldown !== null && owner.cooldown.beganAt < at) owner.cooldown = null;
    if (limits === null) return;
    if (limits.cooldown !== null && limits.cooldown.beganAt < at) limits.cooldown = null;
    limits.deniedUntil = 0;
  }

  /** A rate refusal: the key's own, or everybody's. */
  #limit(refusal: RateLimited, lease: Lease, now: number): void {
    const { key } = lease;
    const isHinted = refusal.pause.kind !== "unknown" || refusal.reason !== "rate_limit";
    const limiter = this.#modelPacer(lease) ?? key.owner.limiter;
    // Sent before the key was refused already: of the same burst, and nothing new.
    const rests =
      lease.need.model === null ? null : this.#choice.modelStateOf(lease.need)?.limits.get(key.owner);
    const lately = Math.max(key.owner.cooldown?.beganAt ?? 0, rests?.cooldown?.beganAt ?? 0);
    const isNear = limiter.isNearLimit(now, NEAR_WHERE_UNKNOWN);
    const { need } = lease;
    // Three keys refused this very request, while others are served: it is about what it asks for.
    const isAboutModel = need.tried.size >= DISTINCT_KEYS && this.refusesAll.isQuiet;
    if (isHinted || lease.at < lately || isAboutModel) {
      this.#cool(isAboutModel && !isNear ? { ...refusal, scope: "key+model" } : refusal, lease, now);
      return;
    }
    // Sent before everybody was refused, or to find out whether they still are: nothing new about this key.
    const isKnown = !this.refusesAll.isQuiet && (lease.isProbe || lease.at < this.refusesAll.openUntil);
    const undo = isKnown ? () => {} : this.#cool(refusal, lease, now);
    if (isKnown && isNear) this.#learn(refusal, lease, lease.limits, this.#rules.cooldownMs, now);
    const usable = new Set(this.keys.filter((other) => other.disabled === null).map((other) => other.owner))
      .size;
    const suspicion = { account: key.owner, request: need, isNear, undo, at: now };
    if (!isKnown && !this.#sharedLimit.suspects(suspicion, usable)) return;
    if (!isNear) this.#sharedLimit.refused(lease.at, now);
    const openMs = this.refusesAll.failed(now, lease.isProbe);
    for (const account of this.#choice.accounts) this.#choice.refresh(account, null, now);
    if (openMs > 0) this.#pauses("common_cause", openMs, now, refusal.said);
  }

  /** Rests the account, or the model with it. Returns what takes that back. */
  #cool(refusal: KeyRefusal, lease: Lease, now: number): () => void {
    const { key } = lease;
    const { owner } = key;
    const { model } = lease.need;
    const isModels =
      model !== null && scopeOf(refusal, model, this.#choice.limitsOf(owner), now) === "key+model";
    const limits = isModels ? this.#openLimits(owner, model, now) : null;
    const rests = limits ?? owner;
    const previous = rests.cooldown;
    const admittedAt = limits === null ? owner.admittedAt : (previous?.answeredAt ?? 0);
    const facts = { previous, sentAt: lease.at, admittedAt, wall: this.#dependencies.clock.wall() };
    const cooldown = cooldownAfter(refusal, facts, this.#rules, now, this.#dependencies.random());
    rests.cooldown = cooldown;
    rests.slowStart.isLost();
    if (refusal.kind === "rate_limited") this.#learn(refusal, lease, limits, cooldown.until - now, now);
    const { reason, said } = refusal;
    const event = {
      kind: "cooled",
      model: limits === null ? null : model,
      reason,
      until: cooldown.until,
      said,
    } as const;
    this.#tell(event, key, now);
    return () => {
      if (rests.cooldown !== cooldown) return;
      rests.cooldown = previous;
      this.#changed(key, this.#choice.modelStateOf(lease.need), now);
    };
  }

  /** What a rate refusal tells of the limit that it met. `restMs`: how long the key rests for it. */
  #learn(refusal: RateLimited, lease: Lease, limits: ModelLimits | null, restMs: number, now: number): void {
    const { owner } = lease.key;
    const limiter = limits === null ? owner.limiter : this.#pacerOf(limits, owner);
    if (limiter === null) return;
    const namedMs = refusal.pause.kind === "for" ? Math.min(refusal.pause.ms, restMs) : null;
    limiter.refused({ sentAt: lease.at, namedMs, restMs, reason: refusal.reason }, now);
  }

  #openLimits(owner: Account, model: string, now: number): ModelLimits {
    const modelState = this.#choice.openModelState(model, now);
    const known = modelState.limits.get(owner);
    if (known !== undefined) return known;
    const limits = new ModelLimits();
    modelState.limits.set(owner, limits);
    return limits;
  }

  /** The model's own pacer, made where limits are to be learnt; null: they are not. */
  #pacerOf(limits: ModelLimits, owner: Account): RateLimiter | null {
    if (limits.limiter === null && this.#config.rpm === "auto") {
      limits.limiter = new RateLimiter({ kind: "learnt" });
      limits.limiter.copyUsage(owner.limiter);
    }
    return limits.limiter;
  }

  /** What an answer announced of limits. */
  #hear({ minute, day }: Budgets, lease: Lease, now: number): void {
    const { key, need } = lease;
    const { owner } = key;
    if (minute !== null && this.#config.rpm === "auto") {
      const isModels = minute.scope === "key+model" && need.model !== null;
      const limits = isModels ? this.#openLimits(owner, need.model, now) : null;
      const limiter = limits === null ? owner.limiter : this.#pacerOf(limits, owner);
      limiter?.announced(minute, Math.max(0, (limits ?? owner).slowStart.undecided - 1), now);
    }
    if (day === null || day.remaining > 0) return;
    const limits =
      day.scope === "key+model" && need.model !== null ? this.#openLimits(owner, need.model, now) : null;
    const rests = limits ?? owner;
    const restMs = Math.min(
      (day.resetAt - now) / (day.kind === "leaky" ? (day.limit ?? 1) : 1),
      this.#rules.maxCooldownMs,
    );
    if ((rests.cooldown?.until ?? 0) >= now + restMs) return;
    const strikes = rests.cooldown?.strikes ?? 0;
    rests.cooldown = { until: now + restMs, beganAt: now, reason: "quota_day", strikes, answeredAt: 0 };
    const model = limits === null ? null : need.model;
    this.#tell({ kind: "cooled", model, reason: "quota_day", until: now + restMs, said: "" }, key, now);
  }

  /** This key may not use the model: for some hours others are asked first. */
  #deny({ scope }: Extract<Verdict, { kind: "unsuited" }>, { key, need }: Lease, now: number): void {
    if (scope !== "key+model" || need.model === null) return;
    this.#openLimits(key.owner, need.model, now).deniedUntil = now + DENIED_FOR_MS;
  }

  /** A key that is said to be dead goes out of use; one that is only doubted rests, unless it is the last. */
  #retire(key: Key, { certain, said }: Extract<Verdict, { kind: "revoked" }>, now: number): void {
    if (certain) return this.disable(key, said, now);
    const isReady = (other: Key) =>
      other.disabled === null && !other.isPaused && (other.owner.cooldown?.until ?? 0) <= now;
    if (!this.keys.some((other) => other !== key && isReady(other))) return;
    const restMs = Math.min(this.#rules.cooldownMs, this.#rules.maxCooldownMs);
    const { cooldown } = key.owner;
    const until = Math.max(cooldown?.until ?? 0, now + restMs);
    key.owner.cooldown = {
      until,
      beganAt: now,
      reason: "unconfirmed",
      strikes: cooldown?.strikes ?? 0,
      answeredAt: 0,
    };
    this.#tell({ kind: "doubted", model: null, reason: "unconfirmed", until, said }, key, now);
  }

  /** Takes a key out of use: upstream said that it is dead, or a probe found it so. */
  disable(key: Key, said: string, now: number): void {
    if (key.disabled !== null) return;
    key.disabled = { reason: "invalid_key", at: now, said };
    this.#keyChanged(key, now);
    this.#tell({ kind: "disabled", model: null, reason: "invalid_key", until: null, said }, key, now);
  }

  /** Brings a key back at once, whatever it rests or was taken out for: a probe proved it, or the operator knows. */
  revive(key: Key, now: number): void {
    const { owner } = key;
    key.disabled = null;
    owner.cooldown = null;
    for (const [, limits] of this.#choice.limitsOf(owner)) {
      limits.cooldown = null;
      limits.deniedUntil = 0;
    }
    for (const account of this.#choice.accounts) {
      for (const [, modelState] of this.#choice.modelStates) this.#choice.refresh(account, modelState, now);
    }
    this.#keyChanged(key, now);
    this.#tell({ kind: "back", model: null, reason: null, until: null, said: "" }, key, now);
  }

  /** Takes a key out by hand, or puts it back in. */
  setPaused(key: Key, isPaused: boolean, now: number): void {
    if (key.isPaused === isPaused) return;
    key.isPaused = isPaused;
    this.#keyChanged(key, now);
    const kind = isPaused ? "paused_by_hand" : "resumed_by_hand";
    this.#tell({ kind, model: null, reason: "manual", until: null, said: "" }, key, now);
  }

  #keyChanged(key: Key, now: number): void {
    this.#choice.refreshKey(key, this.#day.endsAt);
    this.#changed(key, null, now);
    if (this.#queue.size > 0) this.#queue.serve(now);
  }

  /** Brings up to date what the choice goes by, and what is kept. */
  #changed(key: Key, modelState: ModelState | null, now: number): void {
    this.#choice.refresh(key.owner, modelState, now);
    const { keeper } = this.#dependencies;
    if (keeper === null || key.index < 0) return;
    let snapshot = this.#snapshots.get(key);
    if (snapshot === undefined) {
      const { clock } = this.#dependencies;
      snapshot = () => {
        const state = stateOf(key, this.#choice.limitsOf(key.owner), this.#day.endDate, clock.now());
        return inDates(state, wallOffset(clock));
      };
      this.#snapshots.set(key, snapshot);
    }
    keeper.saveKey(this.#config.name, key.secret.id, snapshot);
  }

  #tell(
    event: Pick<KeyEvent, "kind" | "reason" | "until" | "said"> & { model?: string | null },
    key: Key | null,
    at: number,
  ): void {
    const { observer, clock } = this.#dependencies;
    const keyId = key?.secret.id ?? null;
    const offset = wallOffset(clock);
    observer.keyChanged?.({
      at: at + offset,
      provider: this.#config.name,
      key: key?.index ?? null,
      keyId,
      account: key?.account ?? null,
      model: null,
      ...event,
      until: event.until === null ? null : event.until + offset,
    });
  }

  /** Nobody can be served any more, as far as a request can wait: said once, until one is served again. */
  #goesWithout(result: NoKey, now: number): void {
    if (this.#isDry || result.why === "unsuited" || result.why === "paused") return;
    this.#isDry = true;
    const until = Number.isFinite(result.readyAt) ? result.readyAt : null;
    this.#tell({ kind: "pool_dry", reason: null, until, said: "" }, null, now);
  }

  #recovers(now: number): void {
    this.#isDry = false;
    this.#tell({ kind: "pool_recovered", reason: null, until: null, said: "" }, null, now);
  }

  /** Why this need gets no key any more: when the first is free again, or that none ever is. */
  forecast(need: Need, now: number): NoKey {
    const usable = this.keys.filter((key) => key.disabled === null && !key.isPaused);
    const suited = usable.filter((key) => !need.unsuited.has(key) && isBoundTo(key, need));
    if (usable.length === 0) return { kind: "no_key", readyAt: Infinity, why: "none_usable" };
    if (suited.length === 0) return { kind: "no_key", readyAt: Infinity, why: "unsuited" };
    const modelState = this.#choice.modelStateOf(need);
    const keyAt = Math.min(
      ...suited.map((key) =>
        Math.max(
          keyReadyAt(key, this.#day.endsAt),
          key.owner.cooldown?.until ?? 0,
          modelState?.limits.get(key.owner)?.cooldown?.until ?? 0,
          need.tried.has(key) ? need.reuseAt : 0,
        ),
      ),
    );
    if (this.pausedUntil > keyAt) return { kind: "no_key", readyAt: this.pausedUntil, why: "paused" };
    return { kind: "no_key", readyAt: Math.max(now, keyAt), why: "cooling" };
  }

  /** The keys as `/health` shows them. */
  report(now: number): KeyReport[] {
    this.#turnDay(now);
    const offset = wallOffset(this.#dependencies.clock);
    return this.keys.map((key) => {
      const report = reportOf(key, this.#choice.limitsOf(key.owner), this.#day.endsAt, now);
      return { ...report, lastUsedAt: key.lastUsedAt === 0 ? 0 : key.lastUsedAt + offset };
    });
  }
}

type RateLimited = Extract<Verdict, { kind: "rate_limited" }>;

function rulesOf({ cooldownMs, timezone, dialect }: ProviderConfig, maxCooldownMs: number): CooldownRules {
  return { cooldownMs, maxCooldownMs, timezone, resetZone: resetZone(dialect) };
}

function rateRule({ rpm }: ProviderConfig): RateRule {
  if (rpm === "auto") return { kind: "learnt" };
  return rpm === "off" ? { kind: "none" } : { kind: "fixed", perMinute: rpm };
}

/** Epoch ms from which a breaker lets an attempt through; in the past where it does now. */
function passableAt(breaker: CircuitBreaker, now: number): number {
  const state = breaker.state(now);
  if (state === "open") return breaker.openUntil;
  return state === "probing" ? breaker.probeUntil : 0;
}

// ── 2 · The retry loop ──────────────────────────────────────────────────────────────────────────────────────────

const DEFAULT_ATTEMPTS = 10;
const ABANDONED: Abandoned = { kind: "abandoned" };
/** What the pool is told of an account that has not what a request refers to: nobody is to blame. */
const RESOURCE_MISSING: Verdict = { kind: "rejected", said: "" };

/** The client's answer, whatever happens: a bug of ours is one too, and leaves nothing counted as in flight. */
async function relay(context: RequestContext, route: Route, engine: Engine): Promise<Response> {
  const received = await receive(context.request, context.headers, engine, engine.config);
  keepForwarded(context.headers, USER_AGENT, engine.config.access);
  if (received.kind === "refused") {
    context.reason = received.message;
    return context.finish(received.status, received.type, refused(received, context.origin, engine));
  }
  context.body = received.body;
  try {
    const hops = hopsOf(context, route, engine.config, engine.upstreams);
    const hopsLeft = hops.length < 2 ? hops : hopsToOwner(hops, context);
    context.listsModels =
      route.mayLeadElsewhere &&
      engine.config.routes.length > 0 &&
      asksForModels(context.method, context.target.path);
    for (const [index, { upstream, model }] of hopsLeft.entries()) {
      context.setTargetModel(model);
      const response = await tryKeys(context, upstream, hopsLeft[index + 1]?.upstream ?? null, engine);
      if (response !== null) return response;
    }
    throw new Error("the last target fell back to none");
  } catch (error) {
    context.reason = "a bug of keywheel's own: the line before says which";
    return context.finish(500, "internal_error", bugResponse(error, engine));
  }
}

/** Of several targets the one whose account alone has what the request refers to (P35), where one is known to. */
function hopsToOwner(hops: readonly Hop[], context: RequestContext): readonly Hop[] {
  const owner = hops.find(({ upstream }) => context.refersTo(upstream));
  return owner === undefined ? hops : [owner];
}

/** Tries one provider until there is an answer or a reason to stop; null: `next` is to be tried. */
async function tryKeys(
  context: RequestContext,
  upstream: Upstream,
  next: Upstream | null,
  engine: Engine,
): Promise<Response | null> {
  const { clock, random } = engine;
  const { pool, retries } = upstream;
  const { progress, waitUntil } = context;
  const maxAttempts =
    engine.config.maxAttempts ?? progress.attempts + Math.max(DEFAULT_ATTEMPTS, pool.keys.length + 2);
  retries.countRequest(clock.now());
  context.bind(upstream);
  const isChained = next !== null && context.boundTo === null; // no other provider has what this one made
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
      progress.attempts += 1;
      const attempted = await attempt(context, upstream, lease, engine);
      const { result, limits } = attempted;
      const missing = context.missingResourceIn(result);
      if (missing !== null) {
        pool.settle(lease, RESOURCE_MISSING, clock.now(), limits);
        context.noteMissingResource(missing, upstream, lease);
        continue; // another account may have it
      }
      if (result.kind !== "failed") return passThrough(result, attempted, context, upstream, lease, engine);
      setback = result.setback;
      const outcome = result.verdict ?? setback;
      isFault = outcome.kind === "overloaded" || outcome.kind === "unreachable";
      pool.settle(lease, outcome, clock.now(), limits);
      context.noteFailure(result, upstream, lease);
    }

    const now = clock.now();
    const mayRetry = !isFault || retries.hasRoom(now); // what a client wants repeated is no fault
    const hasFallback = isChained && (next !== upstream || mayRetry); // the same once more is a retry, too
    const policy = { maxAttempts, waitUntil, hasFallback, mayRetry };
    const decision = decide(setback, progress, policy, now, random());
    switch (decision.do) {
      case "rotate":
        context.reuseAt = decision.reuseAt;
        break;
      case "back_off":
        if (isFault) retries.spend(now);
        progress.upstreamFaults += 1;
        if (decision.replaysMaybeBilled) progress.maybeBilledReplays += 1;
        context.hold();
        context.enterPhase("waiting", now);
        await pause(decision.pauseMs, context.signal, clock);
        context.waitedMs += clock.now() - now;
        break;
      case "fall_back":
        if (isFault && next === upstream) retries.spend(now);
        if (decision.replaysMaybeBilled) progress.maybeBilledReplays += 1;
        return null;
      case "give_up":
        return giveUp(setback, context, upstream, engine);
    }
  }
}

/** A key, at once or in turn. Where another target stands behind, nobody waits for an upstream that is down. */
function leaseFor(
  context: RequestContext,
  pool: KeyPool,
  hasFallback: boolean,
  clock: Clock,
): Lease | NoKey | Promise<Lease | NoKey> {
  if (hasFallback && pool.pausedUntil > clock.now()) {
    const now = pool.lease(context, clock.now()); // the one that may find out whether it is back
    if (now.kind === "lease" || now.why === "paused") return now;
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
  if (setback.kind === "abandoned")
    return context.finish(499, "abandoned", new Response(null, { status: 499 }));
  if (kept !== null && context.lastBlame !== "key" && !REFUSES_KEYS.has(kept.answer.status)) {
    context.keyLabel = kept.keyLabel;
    context.reason = kept.said;
    return relayWhole(kept.answer, context, engine);
  }
  const now = engine.clock.now();
  const refusal =
    setback.kind === "unreachable"
      ? unreachableError(setback)
      : noKeyError({
          none: setback.kind === "no_key" ? setback : pool.forecast(context, now),
          attempts: progress.attempts,
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

// ── 3 · Streaming passthrough ───────────────────────────────────────────────────────────────────────────────────

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
    const response = await send(context, upstream, lease, timeouts.signal, engine);
    timeouts.heard();
    limits = upstream.headerSampler.read(upstream.config, response, engine.clock);
    const asked = {
      call: context,
      provider: upstream.config,
      secret: lease.key.secret,
      clock: engine.clock,
    };
    const judged = isShort(response, context.method)
      ? judgeShort(response, await bytesOf(response), asked)
      : readOpening(response, asked);
    result = judged instanceof Promise ? await judged : judged; // waiting for what is there costs a turn
    if (context.listsModels && result.kind !== "failed")
      result = await listingRoutes(result, engine.config.routes);
  } catch (error) {
    result = failed(timeouts.explain(error));
  }
  if (result.kind === "failed") timeouts.abort(ABANDONED); // whatever of it is unread need not come
  if (result.kind !== "open") timeouts.end();
  return { result, limits, timeouts };
}

/** Sends the request with this key, which is among its fields only until `fetch` has read them. */
function send(
  context: RequestContext,
  { config, base }: Upstream,
  { key }: Lease,
  signal: AbortSignal,
  { fetch }: Engine,
): Promise<Response> {
  const { method, headers, body, target, api } = context;
  const path = joinBase(base, target.path, api);
  if (context.readsAnswer) headers.set("accept-encoding", "identity");
  const [field, credential] = authHeader(config.dialect, path, key.secret.reveal());
  headers.set(field, credential);
  try {
    return fetch(base.origin + path + queryFor(base, target.query), {
      method,
      headers,
      body,
      redirect: "manual", // a followed redirect would carry the key elsewhere
      decompress: false, // the bytes, and content-encoding, stay as they were sent
      signal,
    });
  } finally {
    headers.delete(field);
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
  const readable = answer.kind === "whole" ? answer.body : answer.first;
  context.binding?.learn(accountName(lease.key), answer.status, readable, engine.clock.wall());
  if (answer.kind === "whole") {
    upstream.pool.settle(lease, answer.outcome, now);
    return relayWhole(answer, context, engine);
  }
  // Before the framing's fields are taken out.
  const passthrough = new StreamPassthrough(answer, timeouts, context, upstream.pool, lease, engine);
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
  // Bun would name a type for bytes that have none; it does not for a stream.
  const sent = body !== null && !headers.has("content-type") ? streamOf(body) : body;
  return context.finish(status, outcome.kind, new Response(sent, { status, headers }), body?.length);
}

/** Leaves the end-to-end fields of an answer, and adds ours. */
function addOurFields(headers: Headers, context: RequestContext, engine: Engine): void {
  keepEndToEnd(headers);
  keepFromRunning(headers);
  if (context.keyLabel !== null) headers.set("x-keywheel-key", context.keyLabel);
  headers.set("x-keywheel-attempts", String(context.progress.attempts));
  addCors(headers, context.origin, engine.config.corsOrigins);
}

type DirectController = ReadableStreamDirectController;

/** The rest of one answer on its way to the client: every chunk as it came, and an end that does not lie. */
class StreamPassthrough {
  readonly #answer: StreamedResponse;
  readonly #timeouts: AttemptTimeouts;
  readonly #context: RequestContext;
  readonly #pool: KeyPool;
  readonly #lease: Lease;
  readonly #clock: Clock;
  /** Follows a stream to its last event; null where the framing alone tells whether the body is whole. */
  readonly #follower: StreamFollower | null;
  /** Learns from what passes which account owns which resources; null: there is nothing to learn. */
  readonly #listen: ((chunk: Uint8Array, now: number) => void) | null;
  #pending: Promise<ReadResult> | null;
  /** Only comments have come so far, perhaps the beginning of one; null: the first event has begun. */
  #beginning: FirstEvent | null;
  #bytes = 0;
  #ended = false;

  constructor(
    answer: StreamedResponse,
    timeouts: AttemptTimeouts,
    context: RequestContext,
    pool: KeyPool,
    lease: Lease,
    { clock }: Engine,
  ) {
    this.#answer = answer;
    this.#timeouts = timeouts;
    this.#context = context;
    this.#pool = pool;
    this.#lease = lease;
    this.#clock = clock;
    this.#pending = answer.pending;
    this.#beginning = answer.begun ? null : new FirstEvent();
    this.#follower = followerOf(context.streamDialect, answer.headers);
    this.#listen = context.binding?.listener(accountName(lease.key)) ?? null;
    timeouts.onLeave = () => this.#leave();
    if (answer.begun) timeouts.streams();
  }

  /** The body as Bun takes it at the least cost: written to, not pulled from chunk by chunk. */
  stream(): ReadableStream<Bytes> {
    return new ReadableStream<Bytes>({
      type: "direct",
      pull: (controller) => this.#run(controller),
      cancel: () => this.#leave(),
    });
  }

  async #run(controller: DirectController): Promise<void> {
    const { first, reader } = this.#answer;
    try {
      if (first !== null) await this.#pass(first, controller);
      while (!this.#ended) {
        this.#timeouts.resumes();
        const { done, value } = await (this.#pending ?? reader.read());
        this.#pending = null;
        if (done) break;
        const written = this.#pass(value, controller);
        if (written instanceof Promise) await written; // the client has not taken it yet: nothing more is read
      }
    } catch (error) {
      return this.#break(this.#timeouts.explain(error), controller);
    }
    if (!this.#ended) await this.#close(controller);
  }

  /** The client left, or its connection broke. */
  #leave(): void {
    this.#finish(499, ABANDONED);
    discard(this.#answer.reader);
  }

  /** A promise where the client has not taken it all. */
  #pass(chunk: Bytes, controller: DirectController): number | Promise<number> {
    this.#bytes += chunk.length;
    this.#follower?.push(chunk);
    this.#listen?.(chunk, this.#clock.wall());
    if (this.#beginning !== null) this.#lookForEvent(chunk, this.#beginning);
    this.#timeouts.rests();
    return controller.write(chunk);
  }

  /** From the first event on upstream may not be silent for long. */
  #lookForEvent(chunk: Bytes, beginning: FirstEvent): void {
    beginning.push(chunk);
    if (!beginning.hasBegun) return;
    this.#beginning = null;
    this.#timeouts.streams();
  }

  /** Upstream ended the body: but did the stream say that it was done? */
  async #close(controller: DirectController): Promise<void> {
    const end = this.#follower === null ? "complete" : await this.#follower.end();
    switch (end) {
      case "complete":
        this.#finish(this.#answer.status, this.#answer.outcome);
        controller.close();
        return;
      case "failed":
        this.#finish(this.#answer.status, STREAM_FAILED);
        return this.#cutOff();
      case "cut":
        return this.#tellBroken(protocolError("the stream ended before its last event"), controller);
    }
  }

  /** The connection broke, was cut for silence, or the client left. */
  async #break(setback: Unreachable | Abandoned, controller: DirectController): Promise<void> {
    this.#timeouts.abort(setback);
    if (setback.kind === "abandoned") {
      this.#finish(499, setback);
      return this.#cutOff();
    }
    if (await this.#follower?.isOver()) return this.#close(controller); // all of it had come
    return this.#tellBroken(setback, controller);
  }

  /** The answer cannot go on: the client is told in the stream's own words, then the connection is cut. */
  async #tellBroken(setback: Unreachable, controller: DirectController): Promise<void> {
    this.#context.isTruncated = true;
    this.#finish(this.#answer.status, setback);
    if (!this.#follower?.isPlain) return this.#cutOff();
    const edge = this.#follower.atEdge ? "" : "\n\n";
    await controller.write(edge + errorEvent(this.#context.streamDialect, setback.type, setback.message));
    return this.#cutOff();
  }

  /** Ends the connection without the end of the body, once what was passed is on its way: Bun drops it otherwise. */
  async #cutOff(): Promise<void> {
    await nextTurn();
    throw CUT_SHORT;
  }

  #finish(status: number, outcome: Outcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#timeouts.end();
    this.#pool.settle(this.#lease, outcome, this.#clock.now());
    if (outcome.kind !== "rejected") this.#context.reason = saidBy(outcome);
    this.#context.end(status, outcome.kind, this.#bytes);
  }
}

const CUT_SHORT = new Error("the answer was cut short");

// ── 4 · The server ──────────────────────────────────────────────────────────────────────────────────────────────

/** What the engine needs from outside, so that a test can hold it. */
export interface Dependencies {
  readonly clock: Clock;
  /** From 0 up to 1. */
  readonly random: () => number;
  readonly log: Log;
  /** Told of every finished request and every change of a key. */
  readonly observers?: readonly Observer[];
  readonly keeper?: Keeper | null;
  /** Where it outlives the program which account owns which resources. */
  readonly resources?: (OwnerKeeper & { resources(): readonly OwnedId[] }) | null;
}

/** How long an idle upstream connection is kept: less than common load balancers do, so that we close first. */
const UPSTREAM_IDLE_SEC = 50;

export function createEngine(config: Config, dependencies: Dependencies): Engine {
  const { clock, random, log, observers = [], keeper = null } = dependencies;
  const metrics = new Metrics();
  const owners = new ResourceOwners(dependencies.resources ?? null);
  owners.restore(dependencies.resources?.resources() ?? []);
  const session = new Bun.FetchSession({ proxy: false, keepAlive: { idleTimeout: UPSTREAM_IDLE_SEC } });
  const prober = new Prober(
    clock,
    patientsOf(() => engine.upstreams, { fetch: session.fetch, clock }),
  );
  const own = [logObserver(log), metrics, prober];
  const all = [...own, ...observers];
  const observer = toAll(all);
  const engine: Engine = {
    version: VERSION,
    clock,
    random,
    log,
    config,
    upstreams: upstreamsOf(config, [], { clock, random, observer, keeper }),
    keeper,
    clocks: new TimeoutTicker(config, clock),
    fetch: session.fetch,
    startedAt: clock.now(),
    observer,
    metrics,
    owners,
    prober,
    openAdmin: null,
    underWay: new Set(),
    observe: (another) => all.push(another),
    onDrain: () => {},
    arrivals: 0,
    inFlight: 0,
    bufferedBytes: 0,
    draining: false,
  };
  for (const death of deathsOf(engine.upstreams, clock.wall())) prober.keyChanged(death);
  return engine;
}

/** Goes by another configuration from now on. Requests under way end as they began; keys that stay keep their state. */
export function reconfigure(engine: Engine, config: Config): void {
  engine.upstreams = upstreamsOf(config, engine.upstreams, engine);
  engine.clocks.follow(config);
  engine.log.setLevel(config.logLevel);
  engine.config = config;
}

/** The providers of a configuration; those that were there before go on with their pools. */
function upstreamsOf(
  config: Config,
  before: readonly Upstream[],
  { clock, random, observer, keeper }: PoolDependencies,
): readonly [Upstream, ...Upstream[]] {
  const upstreamOf = (provider: ProviderConfig): Upstream => {
    const old = before.find(({ config }) => config.name === provider.name);
    const pool = old?.pool ?? new Pool(provider, config.maxCooldownMs, { clock, random, observer, keeper });
    if (old !== undefined) pool.reconfigure(provider, config.maxCooldownMs);
    return {
      config: provider,
      prefix: provider.name === "default" ? null : `/${provider.name}`,
      base: baseOf(provider.baseUrl, provider.dialect),
      pool,
      headerSampler: old?.headerSampler ?? new HeaderSampler(),
      retries: old?.retries ?? new RetryBudget(),
      heardAt: 0,
      canConnect: () => canConnect(provider.baseUrl, clock),
    };
  };
  const [first, ...others] = config.providers;
  return [upstreamOf(first), ...others.map(upstreamOf)];
}

type Server = Bun.Server<undefined>;

/** Answers one request: the proxy's own paths and refusals here, everything else by `relay`. */
function handle(request: Request, server: Server, engine: Engine): Response | Promise<Response> {
  const { config, openAdmin } = engine;
  const { headers } = request;
  const target = targetOf(request.url, headers.get("host"));
  if (target === null) return errorResponse(UNREADABLE_TARGET);
  const { path, query } = target;
  const peer = peerOf(request, server, config);
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
  const context = new RequestContext(request, server, engine, route, admission.client);
  return relay(context, route, engine);
}

/** The other end of the socket; null: surely this machine, because nothing else is listened on. */
function peerOf(request: Request, server: Server, { listen }: Config): string | null {
  if (listen.kind === "unix" || listen.hostname === "127.0.0.1") return null;
  return server.requestIP(request)?.address ?? "unknown";
}

/** A refusal of our own, which the page of an allowed origin may read. */
function refused(refusal: ProxyError, origin: string | null, { config }: Engine): Response {
  const response = errorResponse(refusal);
  addCors(response.headers, origin, config.corsOrigins);
  return response;
}

/** A bug of ours: the log says which, the client only that there is one. */
function bugResponse(error: unknown, { log }: Engine): Response {
  log.line("error", "bug", {
    error: error instanceof Error ? `${error.name}: ${error.message}` : "not an Error",
  });
  return errorResponse(INTERNAL_ERROR);
}

/** A proxy that listens. */
export interface Proxy {
  readonly engine: Engine;
  /** Where it listens: `http://127.0.0.1:3000`, or `unix:/path`. */
  readonly url: string;
  /** Takes no new requests, lets those in flight finish for at most `DRAIN_SEC`, then cuts them. */
  drain(): Promise<void>;
  /** Ends everything at once. */
  stop(): Promise<void>;
}

/** How long the last words of cut streams may take to go out. */
const CUT_GRACE_MS = 100;

/** Starts to listen. Throws where the address cannot be listened on. */
export function startProxy(config: Config, dependencies: Dependencies): Proxy {
  const engine = createEngine(config, dependencies);
  const { listen } = config;
  const options = {
    idleTimeout: IDLE_SEC,
    development: false, // else an error page would show our source and the error's text
    maxRequestBodySize: Number.MAX_SAFE_INTEGER, // counted by ourselves, so that 413 can say why
    fetch: (request: Request, bunServer: Server) => handle(request, bunServer, engine),
    error: (error: Error) => bugResponse(error, engine),
  } as const;
  const where =
    listen.kind === "unix"
      ? { unix: listen.path }
      : { hostname: listen.hostname, port: listen.port, reusePort: false };
  const server: Server = Bun.serve({ ...options, ...where } as Bun.Serve.Options<undefined>);
  const stop = async () => {
    engine.clocks.stop();
    engine.prober.close();
    await server.stop(true);
    engine.log.flush();
  };
  return {
    engine,
    url: urlOf(listen, server.port),
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

// ── 5 · Main ────────────────────────────────────────────────────────────────────────────────────────────────────

/** Set by build.sh. */
declare const KEYWHEEL_VERSION: string | undefined;
export const VERSION = typeof KEYWHEEL_VERSION === "string" ? KEYWHEEL_VERSION : `${packageFile.version}-dev`;
const USER_AGENT = `keywheel/${VERSION}`;
/** Time and chance as they are; a test brings its own. */
const WORLD = { clock: systemClock, random: Math.random };

/** Runs the command line. Resolves with the exit code, or never while the proxy serves. */
async function main(): Promise<number> {
  const environment = await givenEnvironment();
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
    case "check":
    case "status":
    case "keys":
      return import("./lib/cli/commands.ts").then(({ operate }) => operate(command, environment));
    case "demo":
    case "serve":
      liftFetchLimit(environment);
      return command.kind === "demo" ? demo(environment) : serve(environment, command.envFile);
  }
}

/** Serves what the settings say. */
async function serve(environment: Record<string, string>, envFile: string | null): Promise<number> {
  const places = placesOf(environment, envFile);
  const loaded = await loadConfig(places);
  for (const warning of loaded.warnings) console.error(`warning: ${warning}`);
  if (!loaded.ok) return refuseSettings(loaded.problems);
  const { config } = loaded;
  const outputs = await openOutputs(config, WORLD);
  const proxy = startOrExplain(config, outputs);
  if (proxy === null) return EXIT_FAILED;
  const { engine, url } = proxy;
  const { clock, log } = engine;
  const reloader = new Reloader({ places, loaded, clock, log, apply: (next) => reconfigure(engine, next) });
  const newToken = () => Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url");
  const adminOptions = { engine, reloader, places, usage: outputs.usage, version: VERSION, url, newToken };
  let opening: Promise<AdminApi> | null = null;
  engine.openAdmin = () =>
    (opening ??= import("./lib/admin/api.ts").then(({ openAdmin }) => openAdmin(adminOptions)));
  const signalled = untilSignalled({ proxy, outputs, reloader }); // before it says that it is there: somebody may answer with a signal
  console.log(banner(config, { version: VERSION, url, envFile: loaded.envFile }));
  return signalled;
}

/** The proxy in front of the built-in fake provider: everything can be tried without a key. */
async function demo(environment: Record<string, string>): Promise<number> {
  const { demoSettings, startDemoProvider } = await import("./lib/cli/demo-provider.ts");
  const provider = startDemoProvider();
  const parsed = parseConfig(demoSettings(provider, environment));
  if (!parsed.ok) return refuseSettings(parsed.problems);
  const outputs = await openOutputs(parsed.config, WORLD);
  const proxy = startOrExplain(parsed.config, outputs);
  if (proxy === null) return EXIT_FAILED;
  const signalled = untilSignalled({ proxy, outputs, reloader: null });
  console.log(demoBanner(parsed.config, { version: VERSION, url: proxy.url }));
  const code = await signalled;
  await provider.stop();
  return code;
}

function refuseSettings(problems: readonly string[]): number {
  for (const problem of problems) console.error(problem);
  return EXIT_USAGE;
}

/** Starts the proxy; null: it cannot listen, and stderr says why. */
function startOrExplain(config: Config, { log, observers, store }: Outputs): Proxy | null {
  try {
    return startProxy(config, { ...WORLD, log, observers, keeper: store, resources: store });
  } catch (error) {
    console.error(whyNotListening(config.listen, error));
    return null;
  }
}

if (import.meta.main) {
  process.on("unhandledRejection", (reason) => {
    const what = reason instanceof Error ? `${reason.name}: ${reason.message}` : "not an Error";
    console.error(`keywheel: a bug, and it goes on: ${what}`);
  });
  process.exit(await main());
}
