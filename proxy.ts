#!/usr/bin/env bun
/**
 * keywheel: stands between LLM agents and their provider, holds a pool of API keys, and hides rate limits.
 *
 * A request's road, top to bottom: `handle` lets it in, `relay` leases keys and tries until there is an answer,
 * `attempt` asks upstream once, `passThrough` hands the answer on. Facts (verdicts), decisions (`decide`) and
 * effects (everything that awaits) are kept apart: a status code is judged in lib/providers.ts and nowhere else,
 * what to do about it is decided by one pure function, and only the loop and the attempt do anything.
 */
import { banner, demoBanner, whyNotListening } from "./lib/banner.ts";
import { findTopLevelString } from "./lib/body.ts";
import { Breaker } from "./lib/breaker.ts";
import { EXIT_FAILED, EXIT_FINE, EXIT_USAGE, parseCommand, USAGE } from "./lib/cli.ts";
import { formatDuration, nextMidnight, nextTurn, systemClock } from "./lib/clock.ts";
import type { CancelTimer, Clock } from "./lib/clock.ts";
import { loadConfig, parseConfig, parseStatusList } from "./lib/config.ts";
import type { Config, ProviderConfig } from "./lib/config.ts";
import { cooldownAfter } from "./lib/cooldowns.ts";
import type { CooldownRules, KeyRefusal } from "./lib/cooldowns.ts";
import { decide } from "./lib/decision.ts";
import type { Abandoned, Failure, NoKey, Outcome, Progress, Setback, Unreachable } from "./lib/decision.ts";
import { authorize, authorizeLocal, hasCredentialField, isClientKey } from "./lib/door.ts";
import { discard, joined } from "./lib/evidence.ts";
import type { Bytes, ReadResult } from "./lib/evidence.ts";
import {
  addCors,
  keepForwarded,
  isPreflight,
  keepEndToEnd,
  preflight,
  RETRY_STATUS_FIELD,
} from "./lib/fields.ts";
import { healthResponse } from "./lib/health.ts";
import type { KeyReport, ProviderReport } from "./lib/health.ts";
import {
  busyUntil,
  distrustKey,
  newKey,
  rememberModel,
  readyAt,
  reportOf,
  takeKey,
  trustKey,
} from "./lib/keystate.ts";
import type { Key, KeyNeed } from "./lib/keystate.ts";
import { createLog } from "./lib/log.ts";
import type { Log, LogFields } from "./lib/log.ts";
import {
  baseOf,
  joinBase,
  keyParameter,
  keyParameters,
  targetOf,
  withoutKeyParameter,
  withoutPrefix,
} from "./lib/paths.ts";
import type { Base, Target } from "./lib/paths.ts";
import { failed, isShort, judgeShort, protocolError, readOpening } from "./lib/opening.ts";
import type { Asked, Attempted, OpenAnswer, WholeAnswer } from "./lib/opening.ts";
import { authHeader, resetZone } from "./lib/providers.ts";
import type { Verdict } from "./lib/providers.ts";
import {
  BODY_BROKE_OFF,
  bodyTooLarge,
  DRAINING,
  NO_ROOM,
  NO_TUNNELS,
  NO_WEBSOCKETS,
  notFound,
  providerDisabled,
  refusalOf,
  refusalResponse,
  refuse,
  refuseForKeys,
  UNREADABLE_TARGET,
  unreadableRetryStatus,
} from "./lib/refusals.ts";
import type { KeyTrouble, Refusal } from "./lib/refusals.ts";
import { errorEvent, firstEventStart, followerOf, streamDialectOf } from "./lib/stream.ts";
import type { StreamDialect, StreamFollower } from "./lib/stream.ts";
import { canConnect, Clocks } from "./lib/watch.ts";
import type { Client, Reachable, Watch } from "./lib/watch.ts";
import packageFile from "./package.json";

// ── 1 · The key pool ────────────────────────────────────────────────────────────────────────────────────────────

/** The right to use a key for one attempt. It ends once, by `Pool.settle`. */
export interface Lease {
  readonly kind: "lease";
  readonly key: Key;
  readonly need: Need;
  readonly at: number;
  /** End of the day on which it counts. */
  readonly dayEndsAt: number;
  /** This attempt tries whether the upstream is back. */
  readonly isProbe: boolean;
  /** When its answer began; 0: it has not. */
  admittedAt: number;
  /** What `admittedAt` of the key was before: it counts again if this answer breaks off. */
  admittedBefore: number;
  settled: boolean;
}

/** What the pool must know of a request to choose a key for it, and when. */
export interface Need extends KeyNeed {
  /** Place in the queue: the number of the request. */
  readonly arrival: number;
  /** It does not wait for a key beyond this. */
  readonly waitUntil: number;
  readonly signal: AbortSignal;
}

interface Waiter {
  readonly need: Need;
  resolve(result: Lease | NoKey): void;
}

/** The keys of one provider: which may be asked, who waits for them, and whether the provider itself is up. */
export class Pool {
  readonly keys: readonly Key[];
  readonly breaker = new Breaker();
  readonly #config: ProviderConfig;
  readonly #rules: CooldownRules;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #log: Log;
  #cursor = 0;
  #dayEndsAt = 0;
  /** In order of arrival. */
  #waiters: Waiter[] = [];
  #wakeAt = Infinity;
  #cancelWake: CancelTimer = () => {};

  constructor(config: ProviderConfig, maxCooldownMs: number, { clock, random, log }: Dependencies) {
    const { cooldownMs, timezone } = config;
    this.#config = config;
    this.#rules = { cooldownMs, maxCooldownMs, timezone, resetZone: resetZone(config.dialect) };
    this.#clock = clock;
    this.#random = random;
    this.#log = log;
    this.keys = config.keys.map((key, index) => newKey(key, index, config));
  }

  get waiting(): number {
    return this.#waiters.length;
  }

  /** A key now, or in this request's turn, or why there will be none in time. Resolves when the client leaves. */
  acquire(need: Need): Lease | NoKey | Promise<Lease | NoKey> {
    const now = this.#clock.now();
    if (now >= this.#wakeAt) this.#serveWaiters(now); // nobody overtakes: a key may have woken this instant
    const result = this.lease(need, now);
    return result.kind === "lease" || isHopeless(result, need, now) ? result : this.#enqueue(need, now);
  }

  /** The next ready key in turn; one that was not tried for this request before one that was. */
  lease(need: Need, now: number): Lease | NoKey {
    const state = this.breaker.state(now);
    if (state === "open") return { kind: "no_key", readyAt: this.breaker.openUntil, why: "paused" };
    if (state === "probing") return { kind: "no_key", readyAt: this.breaker.probeUntil, why: "paused" };

    this.#turnDay(now);
    const count = this.keys.length;
    let again: Key | null = null;
    let earliest = Infinity;
    let usable = 0;
    for (let step = 0; step < count; step++) {
      const key = this.keys[(this.#cursor + step) % count]!;
      if (key.disabled !== null) continue;
      usable += 1;
      if (need.unsuited.has(key)) continue;
      const keyAt = Math.max(readyAt(key, need, this.#dayEndsAt), busyUntil(key));
      if (keyAt > now) earliest = Math.min(earliest, keyAt);
      else if (!need.tried.has(key)) return this.#take(key, need, now, state === "half_open");
      else again ??= key;
    }
    if (again !== null) return this.#take(again, need, now, state === "half_open");
    const why = usable === 0 ? "none_usable" : earliest === Infinity ? "unsuited" : "cooling";
    return { kind: "no_key", readyAt: earliest, why };
  }

  #turnDay(now: number): void {
    if (now < this.#dayEndsAt) return;
    this.#dayEndsAt = nextMidnight(this.#rules.timezone ?? this.#rules.resetZone, now);
    for (const key of this.keys) key.today = 0;
  }

  #take(key: Key, need: Need, now: number, isProbe: boolean): Lease {
    this.#cursor = (key.index + 1) % this.keys.length;
    takeKey(key, now);
    if (isProbe) this.breaker.probe(now);
    return {
      kind: "lease",
      key,
      need,
      at: now,
      dayEndsAt: this.#dayEndsAt,
      isProbe,
      admittedAt: 0,
      admittedBefore: key.admittedAt,
      settled: false,
    };
  }

  /** The answer has begun: the key's limit does not stand in its way. */
  admit(lease: Lease, outcome: Verdict, now: number): void {
    if (lease.admittedAt > 0 || lease.settled) return;
    const { key } = lease;
    lease.admittedAt = now;
    lease.admittedBefore = key.admittedAt;
    key.undecided -= 1;
    trustKey(key, () => lease.need.model, now);
    if (outcome.kind !== "overloaded") this.breaker.answered();
    if (this.#waiters.length > 0) this.#serveWaiters(now);
  }

  /** Ends a lease with what came of it. A second call for the same lease does nothing. */
  settle(lease: Lease, outcome: Outcome, now: number): void {
    if (lease.settled) return;
    lease.settled = true;
    const { key } = lease;
    key.inFlight -= 1;
    if (lease.admittedAt === 0) key.undecided -= 1;
    this.#tellBreaker(lease, outcome, now);
    if (!isCounted(lease, outcome) && lease.dayEndsAt === this.#dayEndsAt)
      key.today = Math.max(0, key.today - 1);
    switch (outcome.kind) {
      case "served":
        this.#forgive(key, lease);
        break;
      case "rate_limited":
        key.rateLimited += 1;
        this.#cool(key, outcome, lease, now);
        break;
      case "exhausted":
        this.#cool(key, outcome, lease, now);
        break;
      case "revoked":
        key.errors += 1;
        this.#retire(key, outcome, now);
        break;
      case "overloaded":
      case "unreachable":
        key.errors += 1; // shown, but never held against the key
        // An answer that broke off is no proof that the key is well again.
        if (key.admittedAt === lease.admittedAt) key.admittedAt = lease.admittedBefore;
        break;
      case "rejected":
      case "unsuited":
      case "abandoned":
        break;
    }
    if (this.#waiters.length > 0) this.#serveWaiters(now);
  }

  #tellBreaker(lease: Lease, outcome: Outcome, now: number): void {
    switch (outcome.kind) {
      case "overloaded":
      case "unreachable": {
        const openMs = this.breaker.failed(now, lease.isProbe && lease.admittedAt === 0);
        if (openMs > 0) this.#tell("warn", "provider_paused", { for: formatDuration(openMs) });
        return;
      }
      case "abandoned":
        if (lease.isProbe && lease.admittedAt === 0) this.breaker.probeAbandoned();
        return;
      case "served":
      case "rejected":
      case "rate_limited":
      case "exhausted":
      case "revoked":
      case "unsuited":
        this.breaker.answered();
    }
  }

  /** A success ends the streak of refusals of this key (and model), save one that began after it was sent. */
  #forgive(key: Key, lease: Lease): void {
    if (key.cooldown !== null && key.cooldown.beganAt < lease.at) key.cooldown = null;
    if (key.modelCooldowns.size === 0 || lease.need.model === null) return;
    const cooldown = key.modelCooldowns.get(lease.need.model);
    if (cooldown !== undefined && cooldown.beganAt < lease.at) key.modelCooldowns.delete(lease.need.model);
  }

  /** Rests the key, or the model on it, and with it every key of the same account: they share the limit. */
  #cool(refused: Key, refusal: KeyRefusal, lease: Lease, now: number): void {
    const model = refusal.scope === "key+model" ? lease.need.model : null;
    const sharing = (key: Key) =>
      key === refused || (key.account !== null && key.account === refused.account);
    for (const key of this.keys.filter(sharing)) {
      const previous = model === null ? key.cooldown : (key.modelCooldowns.get(model) ?? null);
      const admittedAt = model === null ? key.admittedAt : (previous?.answeredAt ?? 0);
      const facts = { previous, sentAt: lease.at, admittedAt };
      const cooldown = cooldownAfter(refusal, facts, this.#rules, now, this.#random());
      if (model === null) key.cooldown = cooldown;
      else rememberModel(key, model, cooldown, now);
      distrustKey(key);
      const { reason, said } = refusal;
      this.#tell("info", "key_cooled", {
        key: key.index,
        model,
        reason,
        for: formatDuration(cooldown.until - now),
        said,
      });
    }
  }

  /** A key that is said to be dead goes out of use; one that is only doubted rests, unless it is the last. */
  #retire(key: Key, { certain, said }: Extract<Verdict, { kind: "revoked" }>, now: number): void {
    if (certain) {
      key.disabled = { reason: "invalid_key", at: now, said };
    } else {
      const isReady = (other: Key) => other.disabled === null && (other.cooldown?.until ?? 0) <= now;
      if (!this.keys.some((other) => other !== key && isReady(other))) return;
      const restMs = Math.min(this.#rules.cooldownMs, this.#rules.maxCooldownMs);
      const until = Math.max(key.cooldown?.until ?? 0, now + restMs);
      const strikes = key.cooldown?.strikes ?? 0;
      key.cooldown = { until, beganAt: now, reason: "unconfirmed", strikes, answeredAt: 0 };
    }
    this.#tell("warn", certain ? "key_disabled" : "key_doubted", { key: key.index, said });
  }

  #tell(level: "info" | "warn", event: string, fields: LogFields): void {
    this.#log.line(level, event, { provider: this.#config.name, ...fields });
  }

  #enqueue(need: Need, now: number): Promise<Lease | NoKey> {
    const { promise, resolve } = Promise.withResolvers<Lease | NoKey>();
    const leave = () => {
      this.#waiters = this.#waiters.filter((other) => other !== waiter);
      waiter.resolve({ kind: "no_key", readyAt: Infinity, why: "cooling" });
    };
    const waiter: Waiter = {
      need,
      resolve(result) {
        need.signal.removeEventListener("abort", leave);
        resolve(result);
      },
    };
    // A request that comes back after a refusal takes its old place, not the last one.
    const place = this.#waiters.findLastIndex((other) => other.need.arrival < need.arrival) + 1;
    this.#waiters.splice(place, 0, waiter);
    need.signal.addEventListener("abort", leave);
    if (need.signal.aborted) leave();
    this.#serveWaiters(now);
    return promise;
  }

  /** Gives ready keys to those who wait, sends away those for whom none can come in time, sets the one timer. */
  #serveWaiters(now: number): void {
    const waiters = this.#waiters;
    const staying: Waiter[] = [];
    let wakeAt = Infinity;
    for (const waiter of waiters) {
      const result = this.lease(waiter.need, now);
      if (result.kind === "lease" || isHopeless(result, waiter.need, now)) {
        waiter.resolve(result);
        continue;
      }
      staying.push(waiter);
      // Not in the future: an attempt under way decides, and its end brings us here again.
      wakeAt = Math.min(wakeAt, result.readyAt > now ? result.readyAt : Infinity, waiter.need.waitUntil);
    }
    this.#waiters = staying;
    if (wakeAt === this.#wakeAt) return;
    this.#cancelWake();
    this.#wakeAt = wakeAt;
    if (wakeAt === Infinity) return;
    this.#cancelWake = this.#clock.after(wakeAt - now, () => {
      this.#wakeAt = Infinity;
      this.#serveWaiters(this.#clock.now());
    });
  }

  /** Why this need gets no key any more: when the first is free again, or that none ever is. */
  forecast(need: Need, now: number): NoKey {
    const usable = this.keys.filter((key) => key.disabled === null);
    const suited = usable.filter((key) => !need.unsuited.has(key));
    if (usable.length === 0) return { kind: "no_key", readyAt: Infinity, why: "none_usable" };
    if (suited.length === 0) return { kind: "no_key", readyAt: Infinity, why: "unsuited" };
    const keyAt = suited.reduce(
      (first, key) => Math.min(first, readyAt(key, need, this.#dayEndsAt)),
      Infinity,
    );
    if (this.breaker.openUntil > keyAt)
      return { kind: "no_key", readyAt: this.breaker.openUntil, why: "paused" };
    return { kind: "no_key", readyAt: Math.max(now, keyAt), why: "cooling" };
  }

  /** The keys as `/health` shows them. */
  report(now: number): KeyReport[] {
    this.#turnDay(now);
    return this.keys.map((key) => reportOf(key, this.#dayEndsAt, now));
  }
}

/** Whether waiting cannot help: no key comes free before this request has to be answered. */
function isHopeless(result: NoKey, need: Need, now: number): boolean {
  return now >= need.waitUntil || result.readyAt > need.waitUntil;
}

/** Whether the provider counts an attempt against the key's day: not one that it refused, or that never began. */
function isCounted(lease: Lease, outcome: Outcome): boolean {
  switch (outcome.kind) {
    case "served":
    case "rejected":
      return true;
    case "overloaded":
    case "unreachable":
      return lease.admittedAt > 0 || outcome.maybeBilled;
    case "abandoned":
      return lease.admittedAt > 0;
    case "rate_limited":
    case "exhausted":
    case "revoked":
    case "unsuited":
      return false;
  }
}

// ── 2 · The retry loop ──────────────────────────────────────────────────────────────────────────────────────────

const DEFAULT_ATTEMPTS = 10;
const ABANDONED: Abandoned = { kind: "abandoned" };

/** The client's answer, whatever happens: a bug of ours is one too, and leaves nothing counted as in flight. */
async function relay(call: Call, upstream: Upstream, engine: Engine): Promise<Response> {
  const refusal = await receive(call, engine);
  if (refusal !== null) return readable(refusalResponse(refusal), call.request, engine);
  try {
    return await tryKeys(call, upstream, engine);
  } catch (error) {
    return call.finish(500, "bug", bugResponse(error, engine));
  }
}

/** Tries until there is an answer or a reason to stop. */
async function tryKeys(call: Call, upstream: Upstream, engine: Engine): Promise<Response> {
  const { clock, random } = engine;
  const { pool } = upstream;
  const { progress, waitUntil } = call;
  const maxAttempts = engine.config.maxAttempts ?? Math.max(DEFAULT_ATTEMPTS, pool.keys.length + 2);
  let kept: KeptAnswer | null = null;
  for (;;) {
    if (progress.attempts > 0 && call.signal.aborted) return giveUp(ABANDONED, null, call, upstream, engine);
    const acquired = pool.acquire(call);
    if (acquired instanceof Promise) call.hold();
    const lease = acquired instanceof Promise ? await acquired : acquired;
    let setback: Setback;
    if (lease.kind === "no_key") {
      setback = call.signal.aborted ? ABANDONED : lease;
    } else {
      progress.attempts += 1;
      const result = await attempt(call, upstream, lease, engine);
      if (result.kind !== "failed") return passThrough(result, call, upstream, lease, engine);
      setback = result.setback;
      pool.settle(lease, result.verdict ?? result.setback, clock.now());
      call.note(result.setback, upstream, lease.key);
      if (result.answer !== null) {
        const { keyLabel, lastSaid: said } = call;
        kept = moreInformative(kept, { answer: result.answer, keyLabel, said });
      }
    }

    const decision = decide(setback, progress, { maxAttempts, waitUntil }, clock.now(), random());
    switch (decision.do) {
      case "rotate":
        call.reuseAt = decision.reuseAt;
        break;
      case "back_off":
        progress.upstreamFaults += 1;
        if (decision.replaysMaybeBilled) progress.maybeBilledReplays += 1;
        call.hold();
        await pause(decision.pauseMs, call.signal, clock);
        break;
      case "give_up":
        return giveUp(setback, kept, call, upstream, engine);
    }
  }
}

/** Resolves after `durationMs`, or at once when the signal fires. */
function pause(durationMs: number, signal: AbortSignal, clock: Clock): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const cancel = clock.after(durationMs, end);
  signal.addEventListener("abort", end);
  if (signal.aborted) end();
  return promise;
  function end() {
    cancel();
    signal.removeEventListener("abort", end);
    resolve();
  }
}

/** An answer of upstream that was not passed on, in case nothing better comes. */
interface KeptAnswer {
  readonly answer: WholeAnswer;
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

/** The client's answer when none of upstream's may be passed on as an answer. */
function giveUp(
  setback: Setback,
  kept: KeptAnswer | null,
  call: Call,
  upstream: Upstream,
  engine: Engine,
): Response {
  if (setback.kind === "abandoned") return call.finish(499, "abandoned", new Response(null, { status: 499 }));
  if (kept !== null && call.lastBlame !== "key" && !REFUSES_KEYS.has(kept.answer.status)) {
    call.keyLabel = kept.keyLabel;
    return relayWhole(kept.answer, call, engine);
  }
  const refusal =
    setback.kind === "unreachable"
      ? refuse(STATUS_OF_UNREACHABLE[setback.type], setback.type, setback.message)
      : refuseForKeys(troubleOf(setback, call, upstream, engine));
  const response = readable(refusalResponse(refusal), call.request, engine);
  response.headers.set("x-keywheel-attempts", String(call.progress.attempts));
  return call.finish(refusal.status, refusal.type, response);
}

const STATUS_OF_UNREACHABLE: Record<Unreachable["type"], number> = {
  upstream_unreachable: 502,
  upstream_protocol_error: 502,
  draining: 503,
  connect_timeout: 504,
  first_byte_timeout: 504,
  stream_idle_timeout: 504,
};

function troubleOf(setback: Setback, call: Call, { config, pool }: Upstream, engine: Engine): KeyTrouble {
  const now = engine.clock.now();
  return {
    none: setback.kind === "no_key" ? setback : pool.forecast(call, now),
    attempts: call.progress.attempts,
    provider: config.name === "default" ? "the provider" : config.name,
    keys: pool.report(now),
    said: call.lastSaid,
    maxWaitMs: engine.config.maxWaitMs,
    exhaustedStatus: engine.config.exhaustedStatus,
    now,
  };
}

/** Statuses with which a provider refuses a key: passed on, they would look like a refusal of the client's own. */
const REFUSES_KEYS: ReadonlySet<number> = new Set([401, 402, 403, 429]);

// ── 3 · Passthrough ─────────────────────────────────────────────────────────────────────────────────────────────

/** Asks upstream once, with one key. Never throws: whatever happens is an answer or a setback. */
async function attempt(call: Call, upstream: Upstream, lease: Lease, engine: Engine): Promise<Attempted> {
  const { dialect, baseUrl } = upstream.config;
  const watch = engine.clocks.start(call, upstream);
  call.watch = watch;
  const [field, credential] = authHeader(dialect, baseUrl, call.target.path, lease.key.secret.reveal());
  call.headers.set(field, credential);
  let result: Attempted;
  try {
    const response = await engine.fetch(joinBase(upstream.base, call.target), {
      method: call.method,
      headers: call.headers,
      body: call.body,
      redirect: "manual", // a followed redirect would carry the key elsewhere
      decompress: false, // the bytes, and content-encoding, stay as they were sent
      signal: watch.signal,
    });
    watch.heard();
    const asked = askedOf(call, upstream, lease, engine);
    result = isShort(response, call.method)
      ? judgeShort(response, new Uint8Array(await response.arrayBuffer()), asked)
      : await readOpening(response, asked);
  } catch (error) {
    result = failed(watch.explain(error));
  }
  call.headers.delete(field);
  if (result.kind === "failed") watch.abort(ABANDONED); // whatever of it is unread need not come
  if (result.kind !== "open") watch.end();
  return result;
}

/** What the judges of an answer need to know of its request. */
function askedOf(call: Call, { config }: Upstream, lease: Lease, { clock }: Engine): Asked {
  return {
    method: call.method,
    streamDialect: call.streamDialect,
    dialect: config.dialect,
    secret: lease.key.secret,
    retryStatus: call.retryStatus,
    usualRetryStatus: config.retryStatus,
    clock,
  };
}

/** Hands an answer on to the client. From here on nothing is retried. */
function passThrough(
  answer: WholeAnswer | OpenAnswer,
  call: Call,
  upstream: Upstream,
  lease: Lease,
  engine: Engine,
): Response {
  const now = engine.clock.now();
  const { status, headers } = answer;
  upstream.pool.admit(lease, answer.outcome, now);
  call.begins(upstream, lease.key, now);
  if (answer.kind === "whole") {
    upstream.pool.settle(lease, answer.outcome, now);
    return relayWhole(answer, call, engine);
  }
  addOurs(headers, call, engine);
  headers.delete("content-length"); // the stream goes out chunked
  const passage = new Passage(answer, call, upstream, lease, engine);
  return new Response(passage.stream(), { status, headers });
}

/** The end-to-end fields of an answer, and what the proxy adds to them. */
function addOurs(headers: Headers, call: Call, engine: Engine): void {
  keepEndToEnd(headers);
  if (call.keyLabel !== null) headers.set("x-keywheel-key", call.keyLabel);
  headers.set("x-keywheel-attempts", String(call.progress.attempts));
  addCors(headers, call.request.headers, engine.config.corsOrigins);
}

/** Passes on an answer that is whole. */
function relayWhole({ status, headers, body, outcome }: WholeAnswer, call: Call, engine: Engine): Response {
  addOurs(headers, call, engine);
  // Bun would name a type for bytes that have none; it does not for a stream.
  const sent = body !== null && !headers.has("content-type") ? streamOf(body) : body;
  return call.finish(status, outcome.kind, new Response(sent, { status, headers }), body?.length);
}

function streamOf(bytes: Bytes): ReadableStream<Bytes> {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(bytes);
      controller.close();
    },
  });
}

type PassageController = ReadableStreamDirectController;

/** The rest of one answer on its way to the client: every chunk as it came, and an end that does not lie. */
class Passage {
  readonly #answer: OpenAnswer;
  readonly #call: Call;
  readonly #upstream: Upstream;
  readonly #lease: Lease;
  readonly #engine: Engine;
  readonly #watch: Watch;
  /** Follows a stream to its last event; null where the framing alone tells whether the body is whole. */
  readonly #follower: StreamFollower | null;
  #pending: Promise<ReadResult> | null;
  #begun: boolean;
  #comments = NO_BYTES;
  #bytes = 0;
  #ended = false;

  constructor(answer: OpenAnswer, call: Call, upstream: Upstream, lease: Lease, engine: Engine) {
    this.#answer = answer;
    this.#call = call;
    this.#upstream = upstream;
    this.#lease = lease;
    this.#engine = engine;
    this.#watch = call.watch!;
    this.#pending = answer.pending;
    this.#begun = answer.begun;
    this.#follower = followerOf(call.streamDialect, answer.headers);
    this.#watch.onLeave = () => this.#leave();
    if (this.#begun) this.#watch.streams();
  }

  /** The body as Bun takes it at the least cost: written to, not pulled from chunk by chunk. */
  stream(): ReadableStream<Bytes> {
    return new ReadableStream<Bytes>({
      type: "direct",
      pull: (controller) => this.#run(controller),
      cancel: () => this.#leave(),
    });
  }

  async #run(controller: PassageController): Promise<void> {
    const { first, reader } = this.#answer;
    try {
      if (first !== null) await this.#pass(first, controller);
      while (!this.#ended) {
        this.#watch.resumes();
        const { done, value } = await (this.#pending ?? reader.read());
        this.#pending = null;
        if (done) break;
        const written = this.#pass(value, controller);
        if (written instanceof Promise) await written; // the client has not taken it yet: nothing more is read
      }
    } catch (error) {
      return this.#break(this.#watch.explain(error), controller);
    }
    if (!this.#ended) await this.#close(controller);
  }

  /** The client left, or its connection broke. */
  #leave(): void {
    this.#finish(499, ABANDONED);
    discard(this.#answer.reader);
  }

  /** A promise where the client has not taken it all. */
  #pass(chunk: Bytes, controller: PassageController): number | Promise<number> {
    this.#bytes += chunk.length;
    this.#follower?.push(chunk);
    if (!this.#begun) this.#lookForEvent(chunk);
    this.#watch.rests();
    return controller.write(chunk);
  }

  /** Only comments have come so far, perhaps the beginning of one. */
  #lookForEvent(chunk: Bytes): void {
    this.#comments = joined([this.#comments, chunk]);
    if (firstEventStart(this.#comments) < 0) return;
    this.#comments = NO_BYTES;
    this.#begun = true;
    this.#watch.streams();
  }

  /** Upstream ended the body: but did the stream say that it was done? */
  async #close(controller: PassageController): Promise<void> {
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
  async #break(setback: Unreachable | Abandoned, controller: PassageController): Promise<void> {
    this.#watch.abort(setback);
    if (setback.kind === "abandoned") {
      this.#finish(499, setback);
      return this.#cutOff();
    }
    if (await this.#follower?.isOver()) return this.#close(controller); // all of it had come
    return this.#tellBroken(setback, controller);
  }

  /** The answer cannot go on: the client is told in the stream's own words, then the connection is cut. */
  async #tellBroken(setback: Unreachable, controller: PassageController): Promise<void> {
    this.#finish(this.#answer.status, setback);
    if (!this.#follower?.isPlain) return this.#cutOff();
    const edge = this.#follower.atEdge ? "" : "\n\n";
    await controller.write(edge + errorEvent(this.#call.streamDialect, setback.type, setback.message));
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
    this.#watch.end();
    this.#upstream.pool.settle(this.#lease, outcome, this.#engine.clock.now());
    this.#call.end(status, outcome.kind, this.#bytes);
  }
}

const CUT_SHORT = new Error("the answer was cut short");

/** Upstream itself said in the stream that it failed: the client knows, and the key is not credited. */
const STREAM_FAILED: Verdict = { kind: "overloaded", pauseMs: null, maybeBilled: true, said: "" };

// ── 4 · The server ──────────────────────────────────────────────────────────────────────────────────────────────

/** A provider at work: its settings, its keys, and when it was last heard of. */
export interface Upstream extends Reachable {
  readonly config: ProviderConfig;
  readonly isDefault: boolean;
  /** The path it is served under: `/groq`; null for the default provider where it has no name. */
  readonly prefix: string | null;
  readonly base: Base;
  readonly pool: Pool;
}

/** What the engine needs from outside, so that a test can hold it. */
export interface Dependencies {
  readonly clock: Clock;
  /** From 0 up to 1. */
  readonly random: () => number;
  readonly log: Log;
}

/** Everything that runs, and nothing of it global. */
export interface Engine extends Dependencies {
  readonly config: Config;
  /** The default one first. */
  readonly upstreams: readonly [Upstream, ...Upstream[]];
  readonly clocks: Clocks;
  readonly fetch: Bun.FetchSession["fetch"];
  readonly startedAt: number;
  arrivals: number;
  inFlight: number;
  bufferedBytes: number;
  draining: boolean;
}

/** How long an idle upstream connection is kept: less than common load balancers do, so that we close first. */
const UPSTREAM_IDLE_SEC = 50;
/** Without a byte for this long a request body is given up, and a connection without a request is closed. */
const IDLE_SEC = 30;

export function createEngine(config: Config, dependencies: Dependencies): Engine {
  const { clock } = dependencies;
  const start = (provider: ProviderConfig, index: number): Upstream => {
    const { protocol, hostname, port } = provider.baseUrl;
    const portNumber = Number(port) || (protocol === "https:" ? 443 : 80);
    return {
      config: provider,
      isDefault: index === 0,
      prefix: provider.name === "default" ? null : `/${provider.name}`,
      base: baseOf(provider.baseUrl),
      pool: new Pool(provider, config.maxCooldownMs, dependencies),
      heardAt: 0,
      canConnect: () => canConnect(hostname, portNumber, clock),
    };
  };
  const [first, ...others] = config.providers;
  const session = new Bun.FetchSession({ proxy: false, keepAlive: { idleTimeout: UPSTREAM_IDLE_SEC } });
  return {
    ...dependencies,
    config,
    upstreams: [start(first, 0), ...others.map((provider, index) => start(provider, index + 1))],
    clocks: new Clocks(config, clock),
    fetch: session.fetch,
    startedAt: clock.now(),
    arrivals: 0,
    inFlight: 0,
    bufferedBytes: 0,
    draining: false,
  };
}

type Server = Bun.Server<undefined>;

const NO_KEYS: ReadonlySet<Key> = new Set();

/** One request of a client on its way through. */
class Call implements Need, Client {
  /** The fields of the request: from `receive` on only those that go upstream, without any key. */
  readonly headers: Headers;
  readonly method: string;
  /** The whole body; null where there is none. */
  body: Bytes | null = null;
  readonly arrival: number;
  readonly waitUntil: number;
  readonly progress: Progress = { attempts: 0, maybeBilledReplays: 0, upstreamFaults: 0 };
  readonly streamDialect: StreamDialect;
  reuseAt = 0;
  /** The clocks of the attempt under way. */
  watch: Watch | null = null;
  /** What upstream said last, for the message when nothing helps. */
  lastSaid = "";
  /** Whose fault the last setback was. */
  lastBlame: "nobody" | "key" | "upstream" = "nobody";
  /** `x-keywheel-key`: the key of the last attempt. */
  keyLabel: string | null = null;
  #tried: Set<Key> | null = null;
  #unsuited: Set<Key> | null = null;
  #model: string | null | undefined;
  #providerName: string | null = null;
  #begunAt: number | null = null;
  #isHeld = false;
  #isOver = false;
  readonly #arrivedAt: number;

  constructor(
    readonly request: Request,
    readonly server: Server,
    readonly engine: Engine,
    readonly target: Target,
    /** The client's name, where its key has one. */
    readonly client: string | null,
    /** Statuses that this request wants retried, beside those of the configuration. */
    readonly retryStatus: ReadonlySet<number>,
  ) {
    this.headers = request.headers;
    this.method = request.method;
    this.#arrivedAt = engine.clock.now();
    this.arrival = engine.arrivals++;
    this.waitUntil = this.#arrivedAt + engine.config.maxWaitMs;
    this.streamDialect = streamDialectOf(target.path);
  }

  get signal(): AbortSignal {
    return this.request.signal;
  }

  get tried(): ReadonlySet<Key> {
    return this.#tried ?? NO_KEYS;
  }

  get unsuited(): ReadonlySet<Key> {
    return this.#unsuited ?? NO_KEYS;
  }

  /** The model that is asked for: looked up only where a limit or a log line needs it. */
  get model(): string | null {
    if (this.#model === undefined) this.#model = modelOf(this.target.path, this.body);
    return this.#model;
  }

  /** From here on only our own clocks end the connection, not the server's idle timer. */
  hold(): void {
    if (this.#isHeld || this.#isOver) return;
    this.#isHeld = true;
    this.server.timeout(this.request, 0);
  }

  /** Remembers how an attempt failed. */
  note(setback: Failure, upstream: Upstream, key: Key): void {
    (this.#tried ??= new Set()).add(key);
    // A key that was refused as dead is not asked again for this request, even where it is the last.
    const isHopeless = setback.kind === "unsuited" || setback.kind === "revoked";
    if (isHopeless) (this.#unsuited ??= new Set()).add(key);
    if (setback.kind === "unreachable") this.lastSaid = setback.message;
    else if (setback.kind !== "abandoned") this.lastSaid = setback.said;
    this.lastBlame = blameOf(setback);
    this.#used(upstream, key);
  }

  /** The answer is here. The body is not needed any more, and a stream may go on for long. */
  begins(upstream: Upstream, key: Key, now: number): void {
    this.#begunAt = now;
    this.#used(upstream, key);
    if (this.engine.log.enabled("info") || key.modelCooldowns.size > 0) void this.model;
    this.#dropBody();
  }

  #dropBody(): void {
    this.engine.bufferedBytes -= this.body?.length ?? 0;
    this.body = null;
  }

  #used(upstream: Upstream, key: Key): void {
    this.#providerName = upstream.config.name;
    this.keyLabel = upstream.prefix === null ? String(key.index) : `${upstream.config.name}/${key.index}`;
  }

  /** Ends the call and hands its response through. */
  finish(status: number, outcome: string, response: Response, bytes = 0): Response {
    this.end(status, outcome, bytes);
    return response;
  }

  /** Ends the call, whichever way; a second time does nothing. */
  end(status: number, outcome: string, bytes: number): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const { engine } = this;
    engine.inFlight -= 1;
    const model = engine.log.enabled("info") ? this.model : null;
    this.#dropBody();
    if (this.#isHeld) this.server.timeout(this.request, IDLE_SEC);
    if (!engine.log.enabled("info")) return;
    engine.log.line("info", "request", {
      method: this.method,
      path: this.target.path,
      status,
      outcome,
      provider: this.#providerName,
      model,
      key: this.keyLabel,
      attempts: this.progress.attempts,
      first_byte_ms: this.#begunAt === null ? null : this.#begunAt - this.#arrivedAt,
      total_ms: engine.clock.now() - this.#arrivedAt,
      bytes,
      client: this.client,
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

/** No provider has a longer name; a client's text is not kept, nor logged, at any length. */
const LONGEST_MODEL = 200;

/** The model a request asks for: Gemini names it in the path, everybody else in the body. */
function modelOf(path: string, body: Bytes | null): string | null {
  const inPath = /\/models\/([^/]+):\w+$/.exec(path)?.[1];
  const model = inPath ?? (body === null ? null : (findTopLevelString(body, "model")?.value ?? null));
  return model === null || model.length > LONGEST_MODEL ? null : model;
}

/** Answers one request: the proxy's own paths and refusals here, everything else by `relay`. */
function handle(request: Request, server: Server, engine: Engine): Response | Promise<Response> {
  const { config } = engine;
  const { headers } = request;
  const target = targetOf(request.url, headers.get("host"));
  if (target === null) return refusalResponse(UNREADABLE_TARGET);
  if (config.corsOrigins.length > 0 && isPreflight(request)) return preflight(headers, config.corsOrigins);

  const visitor = {
    peer: peerOf(request, server, config),
    headers,
    keyParameter: keyParameter(target.query),
  };
  const admission = authorize(visitor, config.access, config.listen, config.corsOrigins);
  if (target.path === "/health") {
    const hasKey = config.access.mode === "keys" && admission.kind === "admitted";
    const isLocal = authorizeLocal(visitor, config.listen, config.corsOrigins).kind === "admitted";
    return readable(health(engine, hasKey || isLocal), request, engine);
  }
  const route = admission.kind === "admitted" ? planRoute(request, target, engine) : refusalOf(admission);
  if (route.kind === "refused") return readable(refusalResponse(route), request, engine);
  const keys = keyParameters(target.query);
  if (
    keys.length > 0 &&
    (!hasCredentialField(headers) || keys.some((key) => isClientKey(key, config.access)))
  ) {
    route.target.query = withoutKeyParameter(target.query);
  }
  const client = admission.kind === "admitted" ? admission.client : null;
  return relay(
    new Call(request, server, engine, route.target, client, route.retryStatus),
    route.upstream,
    engine,
  );
}

/** The other end of the socket; null: surely this machine, because nothing else is listened on. */
function peerOf(request: Request, server: Server, { listen }: Config): string | null {
  if (listen.kind === "unix" || listen.hostname === "127.0.0.1") return null;
  return server.requestIP(request)?.address ?? "unknown";
}

/** Lets the page of an allowed origin read one of our own answers. */
function readable(response: Response, request: Request, { config }: Engine): Response {
  addCors(response.headers, request.headers, config.corsOrigins);
  return response;
}

interface Route {
  readonly kind: "route";
  readonly upstream: Upstream;
  readonly target: Target;
  readonly retryStatus: ReadonlySet<number>;
}

/** Where a request goes, or why it goes nowhere. Pure. */
function planRoute(request: Request, target: Target, engine: Engine): Route | Refusal {
  const { headers } = request;
  if (engine.draining) return DRAINING;
  if (isReserved(target.path)) return notFound(target.path);
  if (headers.get("upgrade")?.toLowerCase() === "websocket") return NO_WEBSOCKETS;
  // An answer to TRACE repeats the request, and with it the key.
  if (request.method === "CONNECT" || request.method === "TRACE") return NO_TUNNELS;
  const { upstreams } = engine;
  const named = upstreams.find(
    ({ prefix }) => prefix !== null && withoutPrefix(target.path, prefix) !== null,
  );
  const upstream = named ?? upstreams[0];
  if (upstream.config.disabled) return providerDisabled(upstream.config.name);
  const asked = headers.get(RETRY_STATUS_FIELD);
  const retryStatus = asked === null ? NO_STATUSES : parseStatusList(asked);
  if (retryStatus === null) return unreadableRetryStatus(RETRY_STATUS_FIELD);
  const path = named === undefined ? target.path : target.path.slice(named.prefix?.length) || "/";
  return { kind: "route", upstream, target: { path, query: target.query }, retryStatus };
}

/** Paths that the proxy keeps for itself, served or not. */
function isReserved(path: string): boolean {
  return withoutPrefix(path, "/admin") !== null || withoutPrefix(path, "/metrics") !== null;
}

const NO_STATUSES: ReadonlySet<number> = new Set();

/**
 * Takes the whole body in before anything is sent, so that a broken upload never reaches an upstream and every
 * attempt sends the same bytes. From here on the call is in flight. Returns why it is refused instead, or null.
 */
async function receive(call: Call, engine: Engine): Promise<Refusal | null> {
  const { headers } = call;
  const { maxBodyBytes, maxInFlight, maxBufferedBytes } = engine.config;
  const length = headers.get("content-length");
  const announced = length === null ? 0 : Number(length);
  if (announced > maxBodyBytes) return bodyTooLarge(maxBodyBytes);
  if (engine.inFlight >= maxInFlight || engine.bufferedBytes + announced > maxBufferedBytes) return NO_ROOM;
  engine.inFlight += 1;
  try {
    if (announced > 0) {
      engine.bufferedBytes += announced; // before it comes: many at once must not all be let in
      call.body = new Uint8Array(await call.request.arrayBuffer());
      engine.bufferedBytes += call.body.length - announced; // Bun drops the body of GET and HEAD
      if (call.body.length === 0) call.body = null;
    } else if (headers.has("transfer-encoding")) {
      const body = await receiveChunked(call, engine);
      if (!(body instanceof Uint8Array)) {
        engine.inFlight -= 1;
        return body;
      }
      call.body = body;
    } else if (length !== null) {
      call.body = NO_BYTES;
    }
  } catch {
    // Broken off, or silent for too long: nobody reads this answer.
    engine.inFlight -= 1;
    engine.bufferedBytes -= announced;
    return BODY_BROKE_OFF;
  }
  keepForwarded(headers, USER_AGENT);
  return null;
}

const NO_BYTES: Bytes = new Uint8Array();

/** A body of unknown length, counted as it comes. */
async function receiveChunked({ request }: Call, engine: Engine): Promise<Bytes | Refusal> {
  const { maxBodyBytes, maxBufferedBytes } = engine.config;
  const chunks: Bytes[] = [];
  let uncounted = 0;
  try {
    for await (const chunk of request.body ?? []) {
      chunks.push(chunk);
      uncounted += chunk.length;
      engine.bufferedBytes += chunk.length;
      if (uncounted > maxBodyBytes) return bodyTooLarge(maxBodyBytes);
      if (engine.bufferedBytes > maxBufferedBytes) return NO_ROOM;
    }
    uncounted = 0; // it stays counted until the call ends
    return joined(chunks);
  } finally {
    engine.bufferedBytes -= uncounted;
  }
}

/** `GET /health`, and what a monitor or a person sees in it. */
function health(engine: Engine, isKnownVisitor: boolean): Response {
  const now = engine.clock.now();
  const report = ({ config, pool }: Upstream): ProviderReport => ({
    name: config.name,
    dialect: config.dialect,
    baseUrl: config.baseUrl.href.replace(/\/$/, ""),
    pausedMs: Math.max(0, pool.breaker.openUntil - now),
    waiting: pool.waiting,
    keys: pool.report(now),
  });
  const [first, ...others] = engine.upstreams;
  const providers: [ProviderReport, ...ProviderReport[]] = [report(first), ...others.map(report)];
  return healthResponse({ version: VERSION, uptimeMs: now - engine.startedAt, providers, isKnownVisitor });
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

function cutByDrain(drainMs: number): Unreachable {
  const message = `This proxy is shutting down, and the ${drainMs / 1000} s for running answers (DRAIN_SEC) are over.`;
  return { kind: "unreachable", type: "draining", message, maybeBilled: true };
}

function bugResponse(error: unknown, engine: Engine): Response {
  const what = error instanceof Error ? `${error.name}: ${error.message}` : "not an Error";
  engine.log.line("error", "bug", { error: what });
  return refusalResponse(refuse(500, "internal_error", "keywheel failed on this request; its log says why."));
}

/** Starts to listen. Throws where the address cannot be listened on. */
export function startProxy(config: Config, dependencies: Dependencies): Proxy {
  const engine = createEngine(config, dependencies);
  const { listen } = config;
  const options = {
    development: false, // else an error page would show our source and the error's text
    maxRequestBodySize: Number.MAX_SAFE_INTEGER, // counted by ourselves, so that 413 can say why
    fetch: (request: Request, bunServer: Server) => handle(request, bunServer, engine),
    error: (error: Error) => bugResponse(error, engine),
  } as const;
  const server: Server =
    listen.kind === "unix"
      ? Bun.serve({ ...options, unix: listen.path, idleTimeout: IDLE_SEC } as Bun.Serve.Options<undefined>)
      : Bun.serve({
          ...options,
          hostname: listen.hostname,
          port: listen.port,
          reusePort: false,
          idleTimeout: IDLE_SEC,
        });
  const stop = async () => {
    engine.clocks.stop();
    await server.stop(true);
    engine.log.flush();
  };
  return {
    engine,
    url: listen.kind === "tcp" ? `http://${urlHost(listen.hostname)}:${server.port}` : `unix:${listen.path}`,
    async drain() {
      engine.draining = true;
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

/** The host to write into a URL for an address that is listened on: all addresses include this machine's own. */
function urlHost(hostname: string): string {
  if (hostname === "0.0.0.0" || hostname === "::") return "127.0.0.1";
  return hostname.includes(":") ? `[${hostname}]` : hostname;
}

// ── 5 · Main ────────────────────────────────────────────────────────────────────────────────────────────────────

/** Set by build.sh. */
declare const KEYWHEEL_VERSION: string | undefined;
export const VERSION = typeof KEYWHEEL_VERSION === "string" ? KEYWHEEL_VERSION : `${packageFile.version}-dev`;
const USER_AGENT = `keywheel/${VERSION}`;

/**
 * Bun's fetch keeps at most 256 requests under way unless this is in the environment when the process starts (1.4.5):
 * the 257th stream would hang. So the process replaces itself once, with it set. The environment it passes on is the
 * one it was given: from source, Bun has mixed the working directory's `.env` into its own copy.
 */
function liftFetchLimit(environment: Record<string, string>): void {
  const isRight = environment[FETCH_LIMIT] !== undefined && environment[FETCH_TRACE] === undefined;
  if (isRight || process.execve === undefined) return;
  const own = Bun.isStandaloneExecutable
    ? process.argv.slice(2)
    : ["--no-env-file", ...process.argv.slice(1)];
  const { [FETCH_TRACE]: _, ...others } = environment;
  try {
    process.execve(process.execPath, [process.argv0, ...own], { [FETCH_LIMIT]: "65535", ...others });
  } catch {
    console.error(
      `warning: at most 256 requests at a time go through. Set ${FETCH_LIMIT}=65535 in the environment.`,
    );
  }
}

const FETCH_LIMIT = "BUN_CONFIG_MAX_HTTP_REQUESTS";
/** Has Bun print every request with its fields to stderr: keys among them. */
const FETCH_TRACE = "BUN_CONFIG_VERBOSE_FETCH";

/** The environment as the process was given it. */
async function givenEnvironment(): Promise<Record<string, string>> {
  try {
    const text = await Bun.file("/proc/self/environ").text();
    const variables = text.split("\0").map((variable): [string, string] => {
      const equals = variable.indexOf("=");
      return [variable.slice(0, equals), variable.slice(equals + 1)];
    });
    return Object.fromEntries(variables.filter(([name]) => name !== ""));
  } catch {
    return Object.fromEntries(Object.entries(process.env).map(([name, value]) => [name, value ?? ""])); // no /proc
  }
}

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
    case "demo":
    case "serve":
      liftFetchLimit(environment);
      return command.kind === "demo" ? demo(environment) : serve(environment, command.envFile);
  }
}

async function serve(environment: Record<string, string>, envFile: string | null): Promise<number> {
  const loaded = await loadConfig({
    environment,
    envFile,
    workingDirectory: process.cwd(),
    programDirectory: Bun.isStandaloneExecutable
      ? process.execPath.slice(0, process.execPath.lastIndexOf("/"))
      : import.meta.dir,
  });
  for (const warning of loaded.warnings) console.error(`warning: ${warning}`);
  if (!loaded.ok) {
    for (const problem of loaded.problems) console.error(problem);
    return EXIT_USAGE;
  }
  const { config } = loaded;
  const proxy = await listenOrExplain(config);
  if (proxy === null) return EXIT_FAILED;
  const signalled = untilSignalled(proxy); // before it says that it is there: somebody may answer with a signal
  console.log(banner(config, { version: VERSION, url: proxy.url, envFile: loaded.envFile }));
  return signalled;
}

/** The proxy in front of the built-in fake provider: everything can be tried without a key. */
async function demo(environment: Record<string, string>): Promise<number> {
  const { startDemoProvider } = await import("./lib/demo.ts");
  const provider = startDemoProvider();
  const settings = {
    PORT: environment["PORT"] ?? "3000",
    HOST: environment["HOST"] ?? "127.0.0.1",
    LOG_LEVEL: environment["LOG_LEVEL"] ?? "info",
    API_KEYS: provider.keys.join(","),
    TARGET_BASE_URL: `${provider.url}/v1`,
    PROVIDER: "openai",
  };
  const parsed = parseConfig(settings);
  if (!parsed.ok) {
    for (const problem of parsed.problems) console.error(problem);
    return EXIT_USAGE;
  }
  const proxy = await listenOrExplain(parsed.config);
  if (proxy === null) return EXIT_FAILED;
  const signalled = untilSignalled(proxy);
  console.log(demoBanner(parsed.config, { version: VERSION, url: proxy.url }));
  const code = await signalled;
  await provider.stop();
  return code;
}

/** Starts the proxy, or says on stderr why it cannot listen. */
async function listenOrExplain(config: Config): Promise<Proxy | null> {
  const format = config.logFormat ?? ((await writesToTerminal()) ? "text" : "json");
  const write = (text: string) => console.log(text.trimEnd()); // `process.stdout` would cost 2 MB of memory
  const log = createLog({ level: config.logLevel, format, clock: systemClock, write });
  try {
    return startProxy(config, { clock: systemClock, random: Math.random, log });
  } catch (error) {
    console.error(whyNotListening(config.listen, error));
    return null;
  }
}

/**
 * Whether stdout is a terminal: its device is one of the kernel's majors for consoles (4, 5) and pseudo-terminals
 * (136 to 143; Documentation/admin-guide/devices.txt). `process.stdout` would tell too, for 2 MB of memory.
 */
async function writesToTerminal(): Promise<boolean> {
  try {
    const { rdev } = await Bun.file(1).stat();
    const major = (rdev >> 8) & 0xfff;
    return major === 4 || major === 5 || (major >= 136 && major <= 143);
  } catch {
    return false;
  }
}

/** Two SIGINTs within this time are one Ctrl-C. */
const SAME_CTRL_C_MS = 100;

/** Serves until SIGTERM or SIGINT, then drains; a second signal ends at once. */
function untilSignalled(proxy: Proxy): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  let drainingSince = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    const { inFlight, config, log, clock } = proxy.engine;
    // Ctrl-C under `bun run` comes twice: from the terminal, and passed on by the parent a moment later.
    if (signal === "SIGINT" && clock.now() < drainingSince + SAME_CTRL_C_MS) return;
    if (drainingSince > 0) process.exit(EXIT_FINE);
    drainingSince = clock.now();
    log.line("info", "draining", { in_flight: inFlight, at_most: formatDuration(config.drainMs) });
    log.flush();
    void proxy.drain().then(() => resolve(EXIT_FINE));
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  process.on("SIGHUP", () => {
    proxy.engine.log.line("warn", "reload_not_supported", {
      hint: "this version reads its settings at start: restart it",
    });
  });
  return promise;
}

if (import.meta.main) {
  process.on("unhandledRejection", (reason) => {
    const what = reason instanceof Error ? `${reason.name}: ${reason.message}` : "not an Error";
    console.error(`keywheel: a bug, and it goes on: ${what}`);
  });
  process.exit(await main());
}
