/**
 * The pool of all instances: this one's part in it.
 *
 * Nothing here is in the path of a request but the question for a place of an exact limit, and for the owner of an
 * unknown id, each of which has its patience. Everything else is gathered for some milliseconds and sent in one step,
 * with the news of it for the others. Where the server is silent, this instance goes on alone, and asks again until it
 * answers.
 */
import type { ProviderConfig } from "../config/provider-settings.ts";
import type { StateServer } from "../config/state-server.ts";
import { MINUTE_MS } from "../core/clock.ts";
import type { CancelTimer, Clock } from "../core/clock.ts";
import type { Log } from "../core/events.ts";
import type { Secret } from "../core/secret.ts";
import type { Keeper, Key } from "../pool/key.ts";
import type { ExactLimits, Meter, Patience } from "../pool/exact-limits.ts";
import type { Instance, OwnerShelf, PoolLink, PoolParts, Sharing } from "../pool/sharing.ts";
import { gather, withUndone } from "./batch.ts";
import { GONE, LATE, RedisConnection, ServerRefusal } from "./connection.ts";
import { SharedMeter } from "./meters.ts";
import type { LeaseAnswer, MeterHost } from "./meters.ts";
import { explain } from "./diagnosis.ts";
import { Outage } from "./outage.ts";
import { Outbox } from "./outbox.ts";
import type { Batch, BatchOptions } from "./outbox.ts";
import { PoolExchange } from "./pool-exchange.ts";
import type { ExchangeHost, Loads } from "./pool-exchange.ts";
import { SharedOwners } from "./owners.ts";
import { BATCH, BEAT, LEASE, READ } from "./scripts.ts";
import type { Script } from "./scripts.ts";
import type { UsageSide } from "./usage-side.ts";
import { idsWithTurns, turnBeginsAt } from "./turns.ts";
import { hashed, numberOf, readHash, readInstances, readKey, readLease, readNews } from "./wire.ts";
import type { StoredInstance } from "./wire.ts";

export { ServerRefusal } from "./connection.ts";

/** A sign of life is given so often; more often while the server does not answer. */
const BEAT_EVERY_MS = 1000;
const BEAT_ALONE_MS = 200;
/** An instance that gave no sign for so long is gone. */
const GONE_AFTER_MS = 15_000;
/** The server is fast enough while it answers a sign of life within this time. */
const SLOW_MS = 50;
/** What a sign of life, a batch or what is read at the start may take: nobody waits for it. */
const BEHIND_MS = 2000;
/** How long an instance that is back waits for the others to come back too, before it trusts the server's counts. */
const SETTLE_MS = 4000;
/** What the last words of an instance that ends may take. */
const LAST_WORDS_MS = 300;
/** Clocks that drift apart by less go on as they are. */
const DRIFT_MS = 20;
/** News of what nobody heard for so long: the connection that listens is dead. */
const DEAF_AFTER_MS = 5000;
/** Days of usage that are read at the start, and when the server is back. */
const USAGE_READ_DAYS = 31;
const USAGE_DAYS = 2;

export interface SharedPoolOptions {
  readonly server: StateServer;
  readonly clock: Clock;
  readonly log: Log;
  /** Names what is new: this instance, an epoch of the server. */
  readonly newToken: () => string;
  /** null: nobody asks for it. */
  readonly usage?: UsageSide | null;
}

/** The keys of a provider, of which is read what is known of them. */
type PreparedProvider = Pick<ProviderConfig, "name" | "keys">;

/**
 * Connects. Throws `ServerRefusal` where the server will not have us; where it is not reached, this instance is alone.
 */
export async function openSharedPool(
  options: SharedPoolOptions,
  providers: readonly PreparedProvider[],
): Promise<SharedPool> {
  const pool = new SharedPool(options);
  await pool.open(providers);
  return pool;
}

/** Where this instance stands. `settling`: the server is back, and others may not have said yet what they used. */
type Mode = "alone" | "settling" | "joined";

export class SharedPool implements Sharing, MeterHost, ExchangeHost, Keeper {
  readonly id: string;
  readonly #prefix: string;
  /** Channels are the same for all databases of a server. */
  readonly #channel: string;
  readonly #own: Clock;
  readonly #log: Log;
  readonly #outage: Outage;
  readonly #newToken: () => string;
  readonly #usage: UsageSide | null;
  readonly #connection: RedisConnection;
  readonly #outbox: Outbox;
  readonly #startedAt: number;
  readonly #names = new WeakMap<Secret, string>();
  readonly #meters = new Map<string, SharedMeter>();
  readonly #changedMeters = new Set<SharedMeter>();
  /** By instance the last of its batches that was read from the server. */
  readonly #readUpTo = new Map<string, number>();
  readonly #exchanges: PoolExchange[] = [];
  #mode: Mode = "alone";
  #timesAlone = 1;
  #stored: readonly StoredInstance[] = [];
  /** Names what the server holds; another one where it was emptied. Empty: not known. */
  #epoch = "";
  /** What has to be added to `now()` to get the server's date; null: not known. */
  #serverOffset: number | null = null;
  #number = 0;
  #isBeating = false;
  #isToReload = false;
  #cancelBeat: CancelTimer = () => {};
  /** Who was there when the server came back, and has not been heard of since; and until when that is waited for. */
  #awaited = new Set<string>();
  #awaitedUntil = 0;
  #backAt = 0;
  #isSynced = false;
  /** When own news last came back; and when a request last went out. */
  #heardAt = 0;
  #busyAt = 0;
  #isClosed = false;
  #owners: SharedOwners | null = null;

  constructor({ server, clock, log, newToken, usage = null }: SharedPoolOptions) {
    this.#usage = usage;
    if (usage !== null) usage.onChange = () => this.sendSoon();
    this.#newToken = newToken;
    this.id = newToken().slice(0, 10);
    this.#prefix = server.prefix;
    this.#channel = `${server.prefix}:news:${server.database}`;
    this.#own = clock;
    this.#log = log;
    this.#outage = new Outage(log, server.shown);
    this.#startedAt = clock.now();
    this.#connection = new RedisConnection(server, {
      channel: this.#channel,
      onNews: (message) => this.#hear(message),
      onLost: () => this.#becomeAlone("the connection was lost"),
    });
    this.#outbox = new Outbox({
      clock,
      isMuted: () => this.#isClosed || this.#mode === "alone",
      gather: (batch, number) => this.#gather(batch, number),
      deliver: (batch) => this.#deliver(batch),
      onFailed: () => this.#becomeAlone("it does not answer"),
    });
  }

  /** Measures by this machine; its date is the server's, as far as that is known. */
  get clock(): Clock {
    const own = this.#own;
    return {
      now: () => own.now(),
      wall: () => (this.#serverOffset === null ? own.wall() : own.now() + this.#serverOffset),
      after: (delayMs, action) => own.after(delayMs, action),
    };
  }

  now(): number {
    return this.#own.now();
  }

  /** The server's date of a local instant. */
  readonly #dateOf = (at: number): number => at + this.clock.wall() - this.now();

  nextNumber(): number {
    this.#number += 1;
    return this.#number;
  }

  nameOf(secret: Secret): string {
    let name = this.#names.get(secret);
    if (name === undefined) this.#names.set(secret, (name = hashed(`${this.#prefix}\0${secret.reveal()}`)));
    return name;
  }

  // ---- who is there

  get state(): "ok" | "alone" {
    return this.#mode === "alone" ? "alone" : "ok";
  }

  get aloneEpoch(): number {
    return this.#mode === "joined" ? 0 : this.#timesAlone;
  }

  get isSettling(): boolean {
    return this.#mode === "settling";
  }

  get instances(): readonly Instance[] {
    const me = { id: this.id, since: this.#dateOf(this.#startedAt), seenAt: this.clock.wall() };
    return [me, ...this.#stored.filter(({ id }) => id !== this.id)];
  }

  get instanceCount(): number {
    return this.instances.length;
  }

  /** When it is this instance's turn, of those that have requests; in the past: now. */
  turnAt(seed: number, now: number): number {
    if (this.#mode !== "joined" || this.#serverOffset === null) return 0;
    const date = now + this.#serverOffset;
    const ids = idsWithTurns(this.#stored, this.id, date);
    return turnBeginsAt(ids, this.id, seed, date) - this.#serverOffset;
  }

  // ---- to come and to go

  /** Throws `ServerRefusal` where the server will not have us. */
  async open(providers: readonly PreparedProvider[]): Promise<void> {
    await this.#connect(true);
    // The second tells our dates by the server's clock. What is done for the first time takes longer than it ever will.
    for (let nth = 2; nth <= 3 && !this.#outage.isTold; nth++)
      if (nth === 2 || this.#mode === "alone") await this.#beat();
    await this.#prepare(providers).catch(() => {});
    if (this.#mode === "alone")
      this.#becomeAlone(this.#connection.isOpen ? "it is too slow" : "it is not reached");
    this.#beatAfter(BEAT_ALONE_MS);
  }

  async #connect(isFirst: boolean): Promise<void> {
    try {
      const why = await this.#connection.open();
      if (why !== null) return this.#becomeAlone(why);
      this.#heardAt = this.now();
      await this.#beat();
    } catch (error) {
      if (isFirst || !(error instanceof ServerRefusal)) throw error;
      this.#becomeAlone(error.message);
    }
  }

  #beatAfter(delayMs: number): void {
    if (this.#isClosed) return;
    this.#cancelBeat();
    this.#cancelBeat = this.#own.after(delayMs, () => void this.#live());
  }

  async #live(): Promise<void> {
    if (this.#isBeating) return; // it goes on by itself
    this.#isBeating = true;
    try {
      if (this.#connection.isOpen && this.now() <= this.#heardAt + DEAF_AFTER_MS) await this.#beat();
      else await this.#connect(false);
    } catch (error) {
      this.#log.line("warn", "state_server_fault", { fault: String(error) });
    }
    this.#isBeating = false;
    this.#beatAfter(this.#mode === "joined" ? BEAT_EVERY_MS : BEAT_ALONE_MS);
  }

  /** Gives a sign of life, and finds out who else is there. */
  async #beat(): Promise<void> {
    const prefix = this.#prefix;
    const sentAt = this.now();
    const inFlight = Object.fromEntries(this.#exchanges.map((each) => [each.providerName, each.inFlight()]));
    if (this.#exchanges.some(({ side }) => side.hasWaiting())) this.#busyAt = sentAt;
    const busyAt = this.#busyAt === 0 ? 0 : this.#dateOf(this.#busyAt);
    const data = {
      since: this.#dateOf(this.#startedAt),
      epoch: this.#epoch,
      isSynced: this.#isSynced,
      busyAt,
      inFlight,
    };
    const news = JSON.stringify({ instance: this.id, inFlight });
    const answer = await this.#run(
      BEAT,
      [`${prefix}:epoch`, `${prefix}:instances`],
      [this.id, JSON.stringify(data), this.#newToken(), String(GONE_AFTER_MS), this.#channel, news],
      BEHIND_MS,
    );
    if (!Array.isArray(answer)) return this.#becomeAlone("it does not answer");
    const [date, epoch, ...there] = answer as unknown[];
    const tookMs = this.now() - sentAt;
    if (typeof date !== "number" || typeof epoch !== "string") return;
    this.#setDate(date - (sentAt + tookMs / 2), tookMs);
    const before = this.#stored;
    this.#stored = readInstances(there);
    for (const { id } of before) if (!this.#stored.some((each) => each.id === id)) this.#gone(id);
    for (const { id, inFlight: others } of this.#stored)
      if (!before.some((each) => each.id === id)) this.#hearInFlight(id, others); // else its news are newer
    if (tookMs > SLOW_MS && this.#mode !== "joined") return; // it answers, but too late for requests
    if (this.#mode === "alone" && this.#outage.isResting(this.now())) return;
    if (epoch !== this.#epoch) await this.#comeBack(epoch, before, date);
    else if (this.#mode === "alone") await this.#comeBack(epoch, before, date);
    else if (this.#mode === "settling") this.#settle();
    else await this.#confirmJoined();
  }

  /** Dates go by the answer that came fastest; one that was slow says little. */
  #setDate(offset: number, tookMs: number): void {
    const known = this.#serverOffset;
    if (known === null || Math.abs(offset - known) > tookMs / 2 + DRIFT_MS)
      this.#serverOffset = Math.round(offset);
  }

  #hearInFlight(id: string, counts: Record<string, Record<string, number>>): void {
    if (id === this.id) return;
    for (const exchange of this.#exchanges) exchange.hearInFlight(id, counts[exchange.providerName] ?? {});
  }

  #gone(id: string): void {
    for (const exchange of this.#exchanges) exchange.hearInFlight(id, null);
    this.#awaited.delete(id);
    this.#readUpTo.delete(id);
  }

  /** The server is there (again): writes what it may not know, reads what this instance has not heard. */
  async #comeBack(epoch: string, before: readonly StoredInstance[], date: number): Promise<void> {
    // It may have been restarted with older data: then what was on its way is added to what is known.
    const stored = await this.#connection.number(`${this.#prefix}:batch:${this.id}`, BEHIND_MS);
    const isBehind = this.#epoch !== epoch || stored < this.#outbox.confirmed;
    const undone = isBehind ? this.#outbox.forget() : null;
    if (this.#mode === "joined") this.#timesAlone += 1;
    this.#mode = "settling";
    this.#isSynced = false;
    const hadEpoch = this.#epoch !== "";
    const isNew = hadEpoch && this.#epoch !== epoch;
    this.#epoch = epoch;
    const raises = isNew ? this.#exchanges.flatMap((each) => each.fillAgain(this.#prefix)) : [];
    for (const exchange of this.#exchanges) exchange.forgetSent();
    for (const meter of this.#meters.values()) this.#changedMeters.add(meter);
    if (!(await this.#outbox.whileIdle(() => this.#loadAll())))
      return this.#becomeAlone("it does not answer");
    const days = isNew ? USAGE_READ_DAYS : USAGE_DAYS;
    raises.push(...(this.#usage?.fill(this.#prefix, days, this.clock.wall()) ?? []));
    for (const exchange of this.#exchanges) raises.push(...exchange.lost(this.#prefix));
    const first = undone === null ? raises : withUndone(raises, undone.changes);
    if (!(await this.#outbox.send({ first, isAll: true, isFilling: isNew })))
      return this.#becomeAlone("it does not answer");
    this.#isSynced = true;
    this.#backAt = date;
    const others = hadEpoch ? [...before, ...this.#stored] : [];
    this.#awaited = new Set(others.map(({ id }) => id).filter((id) => id !== this.id));
    this.#awaitedUntil = this.now() + SETTLE_MS;
    this.#settle();
  }

  /** A second after it joined: others have added what they used, and no request has been refused until now. */
  async #confirmJoined(): Promise<void> {
    this.#outage.tellBack();
    if (this.#isToReload) this.#isToReload = !(await this.#outbox.whileIdle(() => this.#loadAll()));
  }

  /** Whether all others have said, too, what they used meanwhile. */
  #settle(): void {
    for (const { id, seenAt, isSynced, epoch } of this.#stored)
      if (seenAt >= this.#backAt && isSynced && epoch === this.#epoch) this.#awaited.delete(id);
    if (this.#awaited.size > 0 && this.now() < this.#awaitedUntil) return;
    this.#mode = "joined";
    this.#isToReload = this.#timesAlone > 1;
    for (const exchange of this.#exchanges) {
      for (const key of exchange.side.keys) key.fullUntil = 0;
      exchange.showDay();
      exchange.side.wake();
    }
  }

  #becomeAlone(why: string): void {
    if (this.#mode !== "alone") this.#timesAlone += 1;
    const wasAlone = this.#mode === "alone";
    this.#mode = "alone";
    this.#isSynced = false;
    if (!this.#isClosed) this.#outage.tellLost(why, this.instanceCount);
    if (!wasAlone) this.#beatAfter(0);
  }

  /** Tells the others that this instance ends, writes what is left, and lets go. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#cancelBeat();
    this.#outbox.close();
    if (this.#mode !== "alone") {
      await this.#outbox.send();
      await this.#connection
        .ask("HDEL", [`${this.#prefix}:instances`, this.id], LAST_WORDS_MS)
        .catch(() => {});
      const news = JSON.stringify({ instance: this.id, isBye: true });
      await this.#connection.ask("PUBLISH", [this.#channel, news], LAST_WORDS_MS).catch(() => {});
    }
    this.#isClosed = true;
    this.#connection.close();
  }

  // ---- exact limits

  meterOfKey(provider: string, name: string): SharedMeter {
    return this.#meter(`${provider}:${name}`);
  }

  meterOfClient(client: string): Meter {
    return this.#meter(`*client:${hashed(`${this.#prefix}\0${client}`)}`);
  }

  #meter(name: string): SharedMeter {
    let meter = this.#meters.get(name);
    if (meter === undefined) this.#meters.set(name, (meter = new SharedMeter(name, this)));
    return meter;
  }

  async askServer(
    meter: SharedMeter,
    number: number,
    { perMinute, windowMs, perDay, tokensPerDay }: ExactLimits,
    others: readonly SharedMeter[],
    patience: Patience,
  ): Promise<LeaseAnswer | null> {
    const { name, requests, tokens, dayEndsOn } = meter;
    const keys = [
      `${this.#prefix}:epoch`,
      this.dayName(meter),
      ...[name, ...others.map((other) => other.name)].map((each) => `${this.#prefix}:minute:${each}`),
    ];
    const limits = [perMinute ?? 0, windowMs, perDay ?? 0, requests, tokensPerDay ?? 0, tokens, dayEndsOn];
    const given = [this.#epoch, this.id, String(number), ...limits.map(String)];
    const answer = await this.#patiently(patience, this.#run(LEASE, keys, given, patience.serverMs));
    if (!Array.isArray(answer)) {
      this.#becomeAlone(answer === LATE ? "it is too slow" : "it is not reached");
      return null;
    }
    const lease = readLease(answer);
    if (lease === null) this.#becomeAlone("it was emptied");
    return lease;
  }

  dayName({ name, dayEndsOn }: SharedMeter): string {
    return `${this.#prefix}:day:${name}:${dayEndsOn / MINUTE_MS}`;
  }

  // ---- everything else, behind the path

  share(parts: PoolParts): PoolLink {
    const exchange = new PoolExchange(parts, this);
    this.#exchanges.push(exchange);
    const host = this;
    exchange.side.shareTurns({
      get instances() {
        return host.#stored.length;
      },
      turnAt: (seed, now) => host.turnAt(seed, now),
    });
    return exchange;
  }

  busy(): void {
    this.#busyAt = this.now();
  }

  changed(meter: SharedMeter): void {
    this.#changedMeters.add(meter);
    this.sendSoon();
  }

  sendSoon(isUrgent = false): void {
    this.#outbox.sendSoon(isUrgent);
  }

  #gather(
    { first, isAll, isFilling }: BatchOptions,
    number: number,
  ): { news: string; changes: string } | null {
    const used = this.#usage?.take(this.#prefix, this.clock.wall());
    const gathered = gather({
      instance: this.id,
      number,
      prefix: this.#prefix,
      exchanges: this.#exchanges,
      meters: this.#changedMeters,
      first: used === undefined ? first : [...first, ...used.changes],
      records: used?.records ?? [],
      isAll,
      isFilling,
      dayName: (meter) => this.dayName(meter),
      dateOf: this.#dateOf,
      nextNumber: () => this.nextNumber(),
    });
    this.#changedMeters.clear();
    return gathered;
  }

  async #deliver({ number, news, changes }: Batch): Promise<boolean> {
    const keys = [`${this.#prefix}:epoch`, `${this.#prefix}:batch:${this.id}`];
    const given = [this.#epoch, String(number), this.#channel, news, changes];
    return (await this.#run(BATCH, keys, given, BEHIND_MS)) === 1;
  }

  // ---- what others tell

  #hear(message: string): void {
    const news = readNews(message);
    if (news === null) return;
    if (news.instance === this.id) {
      this.#heardAt = this.now();
      this.#outbox.onHeard(news.number);
      return;
    }
    if (news.isBye) {
      this.#stored = this.#stored.filter(({ id }) => id !== news.instance);
      this.#gone(news.instance);
    }
    if (news.inFlight !== null) {
      this.#hearInFlight(news.instance, news.inFlight);
      for (const { side } of this.#exchanges) side.wake();
    }
    for (const { name, endsOn, requests, tokens } of news.days) {
      const [, , meterName] = /^(.*):day:(.*):\d+$/.exec(name) ?? [];
      this.#meters.get(meterName ?? "")?.hearOther(news.instance, endsOn, requests, tokens);
    }
    const isRead = news.number > 0 && news.number <= (this.#readUpTo.get(news.instance) ?? 0);
    if (!isRead) for (const record of news.records) this.#usage?.hear(record);
    if (news.pools.some(({ sent }) => sent.length > 0)) {
      const busyAt = this.clock.wall();
      this.#stored = this.#stored.map((other) => (other.id === news.instance ? { ...other, busyAt } : other));
    }
    for (const pool of news.pools)
      for (const exchange of this.#exchanges)
        if (exchange.providerName === pool.provider) exchange.hear(news.instance, pool, isRead);
    if (news.days.length > 0) for (const exchange of this.#exchanges) exchange.showDay();
  }

  // ---- what is read

  load(exchange: PoolExchange, keys: readonly Key[]): void {
    if (this.#mode === "alone") return; // all is read when the server is back
    void this.#load(exchange, keys);
  }

  /** Reads all that is shared. Returns whether the server answered. */
  async #loadAll(): Promise<boolean> {
    const loads = this.#exchanges.map((exchange) => exchange.loads(this.#prefix, exchange.side.keys));
    const usage = this.#usageLoads(USAGE_DAYS);
    const isRead = await this.#read(new Map([...loads, usage].flatMap((each) => [...each])), true);
    for (const exchange of this.#exchanges) {
      exchange.showDay();
      exchange.side.wake();
    }
    return isRead;
  }

  async #load(exchange: PoolExchange, keys: readonly Key[]): Promise<void> {
    await this.#read(exchange.loads(this.#prefix, keys), false);
    exchange.showDay();
    exchange.side.wake();
  }

  #usageLoads(days: number): Loads {
    const usage = this.#usage;
    if (usage === null) return new Map();
    const names = usage.names(this.#prefix, days, this.clock.wall());
    return new Map(names.map((name) => [name, (stored) => usage.load(name, stored, this.clock.wall())]));
  }

  /**
   * Reads in one step, and notes which batches of others are in it. `isAll`: what these told need not be heard again.
   */
  async #read(loads: Loads, isAll: boolean): Promise<boolean> {
    const ids = this.#stored.map(({ id }) => id).filter((id) => id !== this.id);
    const batches = ids.map((id) => `${this.#prefix}:batch:${id}`);
    const answer = await this.#run(READ, [...batches, ...loads.keys()], [String(ids.length)], BEHIND_MS);
    if (!Array.isArray(answer)) return false;
    const [numbers, ...hashes] = answer as unknown[];
    if (isAll && Array.isArray(numbers))
      for (const [at, id] of ids.entries()) this.#readUpTo.set(id, numberOf(numbers[at]));
    for (const [at, take] of [...loads.values()].entries()) take(readHash(hashes[at]));
    return true;
  }

  // ---- what was known of keys before

  readonly #before = new Map<string, Map<string, unknown>>();

  keyStates(provider: string): ReadonlyMap<string, unknown> {
    return this.#before.get(provider) ?? new Map();
  }

  saveKey(provider: string, keyId: string): void {
    this.#exchanges.find((each) => each.providerName === provider)?.changed(keyId);
  }

  /** Reads what is known of the keys, so that the first request finds them as they are. */
  async #prepare(providers: readonly PreparedProvider[]): Promise<void> {
    if (this.#mode === "alone") return;
    const loads = this.#usageLoads(USAGE_READ_DAYS);
    for (const { name, keys } of providers) {
      const known = new Map<string, unknown>();
      this.#before.set(name, known);
      for (const { secret } of keys)
        loads.set(`${this.#prefix}:key:${name}:${this.nameOf(secret)}`, (stored) =>
          known.set(secret.id, readKey(stored)),
        );
    }
    await this.#read(loads, true);
  }

  // ---- owners of resources

  /** What was stored is looked up when it is asked for. */
  resources(): [] {
    return [];
  }

  keepOwners(shelf: OwnerShelf): void {
    this.#owners = new SharedOwners(shelf, this.#prefix, this.#connection, (secret) => this.nameOf(secret));
  }

  saveResource(owned: { provider: string; id: string; account: string }): void {
    if (this.#mode !== "alone") this.#owners?.save(owned);
  }

  dropResource(provider: string, id: string): void {
    if (this.#mode !== "alone") this.#owners?.drop(provider, id);
  }

  async ownersSaved(patience: Patience): Promise<void> {
    if (this.#owners === null || !this.#owners.isSaving || this.#mode === "alone") return;
    await this.#patiently(patience, this.#owners.saved(patience.serverMs));
  }

  async lookUpOwners(provider: string, ids: readonly string[], patience: Patience): Promise<void> {
    if (this.#owners === null || this.#mode === "alone") return;
    const isInTime = await this.#patiently(patience, this.#owners.lookUp(provider, ids, patience.serverMs));
    if (!isInTime) this.#becomeAlone("it is too slow");
  }

  /** Takes what this took off the time that a request may wait. */
  async #patiently<Result>(patience: Patience, work: Promise<Result>): Promise<Result> {
    const since = this.now();
    const result = await work;
    patience.serverMs = Math.max(0, patience.serverMs - (this.now() - since));
    return result;
  }

  /** Full, read-only, or busy: it is as if it were away. */
  async #run(
    script: Script,
    keys: readonly string[],
    given: readonly string[],
    patienceMs: number,
  ): Promise<unknown> {
    try {
      return await this.#connection.run(script, keys, given, patienceMs);
    } catch (error) {
      if (!(error instanceof ServerRefusal)) throw error;
      if (script !== BEAT && this.#mode !== "alone") this.#outage.onRefused(this.now());
      this.#becomeAlone(explain(error.message).why);
      return GONE;
    }
  }
}
