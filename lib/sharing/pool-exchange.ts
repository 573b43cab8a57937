/**
 * What the pool of one provider and those of other instances tell each other: which fields of which keys have changed,
 * what was sent, what is under way, and whether the provider is left alone.
 *
 * Only what differs from what was told or heard last goes out, field by field, so that nobody overwrites what another
 * has found out meanwhile. What was heard is noted as told, and never comes back.
 */
import type { Clock } from "../core/clock.ts";
import { isObject } from "../core/json.ts";
import type { Cooldown, Disabled, Key, Lease } from "../pool/key.ts";
import type { SharedProvider } from "../pool/sharing.ts";
import type { Meter, Patience } from "../pool/exact-limits.ts";
import type { PoolLink, PoolParts, PoolSide, SharedKeyState } from "../pool/sharing.ts";
import { LeasePlaces } from "./lease-places.ts";
import type { SharedMeter } from "./meters.ts";
import { poolSideOf } from "./pool-side.ts";
import { KEPT_MS } from "./scripts.ts";
import type { HashChange } from "./usage-side.ts";
import type { PoolNews, SentNews } from "./wire.ts";
import { numberOf, parsed, readDay, readProvider } from "./wire.ts";

/** What an exchange needs of the one who sends. */
export interface ExchangeHost {
  readonly clock: Clock;
  /** Full name of a key. */
  nameOf(secret: Key["secret"]): string;
  meterOfKey(provider: string, name: string): SharedMeter;
  /** Something is to be sent; at once where it is urgent. */
  sendSoon(isUrgent?: boolean): void;
  /** Reads what the server has of these keys. */
  load(exchange: PoolExchange, keys: readonly Key[]): void;
  busy(): void;
  /** This instance. */
  readonly id: string;
  /** Where the running day of a meter is. */
  dayName(meter: SharedMeter): string;
}

/** Who takes what is in a hash, by its name. */
export type Loads = Map<string, (stored: ReadonlyMap<string, string>) => void>;

/** What was last told or heard of a key. */
interface Told {
  fields: Map<string, string>;
  requests: number;
  rateLimited: number;
  errors: number;
  inFlight: number;
  /** As they were when something was last to be sent. */
  cooldown: Cooldown | null;
  disabled: Disabled | null;
}

const NOT_PAUSED: SharedProvider = { breaker: 0, refusesAll: 0, models: {}, said: "" };
/** A breaker that nobody has heard of for so long is over. */
const PROVIDER_KEPT_MS = 10 * 60_000;
/** Models that are told of a key at most. */
const MOST_MODELS = 64;

export class PoolExchange implements PoolLink {
  readonly side: PoolSide;
  readonly #host: ExchangeHost;
  readonly #places: LeasePlaces;
  readonly #told = new Map<Key, Told>();
  readonly #names = new Map<string, Key>();
  readonly #byId = new Map<string, Key>();
  readonly #changed = new Set<Key>();
  /** Those of which the server has counted less than was told. */
  readonly #lost = new Set<Key>();
  readonly #sent = new Map<string, SentNews>();
  /** By instance, then by key. */
  readonly #elsewhere = new Map<string, Map<Key, number>>();
  #provider: SharedProvider = NOT_PAUSED;

  constructor(parts: PoolParts, host: ExchangeHost) {
    this.side = poolSideOf(parts);
    this.#host = host;
    this.#places = new LeasePlaces(this, parts);
    this.keysChanged();
  }

  // ---- from the pool

  confirm(lease: Lease, perMinute: number | null, patience: Patience): Promise<boolean> | null {
    return this.#places.confirm(lease, perMinute, patience);
  }

  meterOf(key: Key): Meter {
    return this.#meterOf(key);
  }

  #meterOf({ secret }: Key): SharedMeter {
    const meter = this.#host.meterOfKey(this.side.provider, this.#host.nameOf(secret));
    meter.turnDay(this.side.dayEndsOn());
    return meter;
  }

  sent(key: Key, model: string | null, isUncounted: boolean): void {
    const name = this.#host.nameOf(key.secret);
    const place = model === null ? name : `${name} ${model}`;
    const [, , counted, uncounted, refused] = this.#sent.get(place) ?? [name, model, 0, 0, 0];
    this.#sent.set(place, [
      name,
      model,
      counted + (isUncounted ? 0 : 1),
      uncounted + (isUncounted ? 1 : 0),
      refused,
    ]);
    this.#host.busy();
    this.#host.sendSoon();
  }

  unsent(key: Key, model: string | null): void {
    const name = this.#host.nameOf(key.secret);
    const place = model === null ? name : `${name} ${model}`;
    const [, , counted, uncounted, refused] = this.#sent.get(place) ?? [name, model, 0, 0, 0];
    this.#sent.set(place, [name, model, counted, uncounted, refused + 1]);
  }

  /** Something about a key, or the provider, has changed. */
  changed(keyId: string): void {
    const key = this.#byId.get(keyId);
    if (key === undefined) return;
    this.#changed.add(key);
    this.#host.sendSoon(this.#isUrgent(key));
  }

  /** It was refused, or taken out of use: the sooner others know, the fewer of them are refused. */
  #isUrgent(key: Key): boolean {
    const told = this.#told.get(key);
    if (told === undefined) return false;
    const { cooldown } = key.account;
    const isNew =
      key.rateLimited !== told.rateLimited || key.disabled !== told.disabled || cooldown !== told.cooldown;
    Object.assign(told, { cooldown, disabled: key.disabled });
    return isNew;
  }

  keysChanged(): void {
    const { keys } = this.side;
    for (const key of this.#told.keys()) if (!keys.includes(key)) this.#told.delete(key);
    this.#names.clear();
    this.#byId.clear();
    const added: Key[] = [];
    for (const key of keys) {
      this.#names.set(this.#host.nameOf(key.secret), key);
      this.#byId.set(key.secret.id, key);
      if (this.#told.has(key)) continue;
      this.#told.set(key, {
        ...countsOf(key),
        fields: this.#fieldsOf(key),
        inFlight: 0,
        cooldown: null,
        disabled: null,
      });
      added.push(key);
    }
    if (added.length > 0) this.#host.load(this, added);
  }

  dayTurned(): void {
    for (const key of this.side.keys) this.#meterOf(key);
  }

  // ---- to the server

  /** What has changed since the last time, for the server and for the others. */
  collect(prefix: string): { hashes: HashChange[]; news: PoolNews | null } {
    const hashes: HashChange[] = [];
    const fields: Record<string, Record<string, string>> = {};
    const counts: Record<string, number[]> = {};
    const inFlight: Record<string, number> = {};
    for (const key of this.#changed) {
      const told = this.#told.get(key);
      if (told === undefined) continue;
      const name = this.#host.nameOf(key.secret);
      const { set, unset, news } = this.#changesOf(key, told);
      const grown = [
        key.requests - told.requests,
        key.rateLimited - told.rateLimited,
        key.errors - told.errors,
      ];
      const lastUsed =
        key.lastUsedAt === 0 ? 0 : this.#host.clock.wall() - (this.#host.clock.now() - key.lastUsedAt);
      if (Object.keys(news).length > 0) fields[name] = news;
      if (grown.some((by) => by !== 0)) counts[name] = [...grown, lastUsed];
      if (key.inFlight !== told.inFlight) inFlight[name] = told.inFlight = key.inFlight;
      if (fields[name] !== undefined || counts[name] !== undefined) {
        const [requests = 0, rate_limited = 0, errors = 0] = grown;
        const add = { requests, rate_limited, errors };
        hashes.push({
          name: this.#hashOf(prefix, name),
          set,
          unset,
          add,
          raise: { last_used: lastUsed },
          keepMs: KEPT_MS,
        });
      }
      Object.assign(told, countsOf(key));
    }
    this.#changed.clear();
    const sent = [...this.#sent.values()];
    this.#sent.clear();
    const now = this.side.providerState();
    const isSame = JSON.stringify(now) === JSON.stringify(this.#provider);
    if (!isSame) {
      this.#provider = now;
      hashes.push({
        name: this.#providerHash(prefix),
        set: { state: JSON.stringify(now) },
        keepMs: PROVIDER_KEPT_MS,
      });
    }
    const hasNews =
      !isSame || [fields, counts, inFlight].some((each) => Object.keys(each).length > 0) || sent.length > 0;
    if (!hasNews) return { hashes, news: null };
    return {
      hashes,
      news: { provider: this.side.provider, fields, counts, inFlight, sent, state: isSame ? null : now },
    };
  }

  #hashOf(prefix: string, name: string): string {
    return `${prefix}:key:${this.side.provider}:${name}`;
  }

  #providerHash(prefix: string): string {
    return `${prefix}:provider:${this.side.provider}`;
  }

  #changesOf(
    key: Key,
    told: Told,
  ): { set: Record<string, string>; unset: string[]; news: Record<string, string> } {
    const fields = this.#fieldsOf(key);
    const set: Record<string, string> = {};
    const unset: string[] = [];
    const news: Record<string, string> = {};
    for (const [field, value] of fields) {
      const before = told.fields.get(field) ?? "null";
      if (value === before) continue;
      news[field] = value === "null" ? clearedOf(before) : value;
      if (value === "null") unset.push(field);
      else set[field] = value;
    }
    for (const [field, before] of told.fields) {
      if (fields.has(field) || before === "null") continue;
      news[field] = clearedOf(before);
      unset.push(field);
    }
    told.fields = fields;
    return { set, unset, news };
  }

  /** The shared fields of a key, each in JSON. */
  #fieldsOf(key: Key): Map<string, string> {
    const { cooldown, disabled, isPaused, limiter, announced, models }: SharedKeyState =
      this.side.stateOf(key);
    const fields = new Map<string, string>();
    const add = (name: string, value: unknown) => fields.set(name, JSON.stringify(value));
    add("cooldown", cooldown);
    add("disabled", disabled);
    add("isPaused", isPaused ? true : null);
    add("limiter", limiter?.rate || limiter?.concurrency || limiter?.intervalMs ? limiter : null);
    add("announced", announced);
    for (const [model, limits] of Object.entries(models).slice(0, MOST_MODELS)) add(`model:${model}`, limits);
    return fields;
  }

  /** The server was emptied: everything goes there again. Counts are raised to what is known, and not added. */
  fillAgain(prefix: string): HashChange[] {
    this.#provider = NOT_PAUSED;
    const hashes: HashChange[] = [];
    for (const [key, told] of this.#told) {
      const set: Record<string, string> = {};
      for (const [field, value] of told.fields) if (value !== "null") set[field] = value;
      hashes.push({ name: this.hashName(prefix, key), set, raise: raiseOf(told), keepMs: KEPT_MS });
      this.#changed.add(key);
      this.#meterOf(key);
    }
    return hashes;
  }

  /** Counts that the server once had: it came back with what it had saved before. */
  lost(prefix: string): HashChange[] {
    const hashes = [...this.#lost].flatMap((key): HashChange[] => {
      const told = this.#told.get(key);
      if (told === undefined) return [];
      return [{ name: this.hashName(prefix, key), raise: raiseOf(told), keepMs: KEPT_MS }];
    });
    this.#lost.clear();
    return hashes;
  }

  /** What was sent while nobody heard is no news any more. */
  forgetSent(): void {
    this.#sent.clear();
  }

  // ---- from the server and the others

  /** What is to be read of keys and their provider, and who takes it. */
  loads(prefix: string, keys: readonly Key[]): Loads {
    const loads: Loads = new Map([[this.#providerHash(prefix), (stored) => this.#loadedProvider(stored)]]);
    for (const key of keys) {
      const meter = this.#meterOf(key);
      loads.set(this.hashName(prefix, key), (stored) => this.#loaded(key, stored));
      loads.set(this.#host.dayName(meter), (day) => meter.hearAll(readDay(day, this.#host.id)));
    }
    return loads;
  }

  /** What the server has of a key. */
  #loaded(key: Key, stored: ReadonlyMap<string, string>): void {
    const fields: Record<string, string> = {};
    for (const [field, value] of stored) if (!COUNTS.includes(field)) fields[field] = value;
    // What is not there any more has ended while this instance did not hear.
    for (const field of ["disabled", "isPaused"]) fields[field] ??= "null";
    const told = this.#told.get(key);
    if (told === undefined) return;
    const numberIn = (name: string) => numberOf(Number(stored.get(name) ?? "0"));
    const own = { requests: key.requests - told.requests, rateLimited: key.rateLimited - told.rateLimited };
    const ownErrors = key.errors - told.errors;
    if (COUNTS.some((name) => numberIn(name) < countIn(told, name))) this.#lost.add(key);
    told.requests = Math.max(told.requests, numberIn("requests"));
    told.rateLimited = Math.max(told.rateLimited, numberIn("rate_limited"));
    told.errors = Math.max(told.errors, numberIn("errors"));
    key.requests = told.requests + own.requests;
    key.rateLimited = told.rateLimited + own.rateLimited;
    key.errors = told.errors + ownErrors;
    this.#noteUsed(key, numberIn("last_used"));
    this.#apply(key, told, fields);
    for (const [field, value] of told.fields)
      if (value !== "null" && !stored.has(field)) {
        told.fields.set(field, "null"); // the server does not have it, and is told again
        this.#changed.add(key);
      }
  }

  #loadedProvider(stored: ReadonlyMap<string, string>): void {
    const state = readProvider(parsed(stored.get("state") ?? ""));
    if (state !== null) this.#hearProvider(state);
  }

  get providerName(): string {
    return this.side.provider;
  }

  hashName(prefix: string, key: Key): string {
    return this.#hashOf(prefix, this.#host.nameOf(key.secret));
  }

  /** Another instance has told something. `isRead`: its counts are known from the server. */
  hear(from: string, news: PoolNews, isRead: boolean): void {
    const counts = isRead ? {} : news.counts;
    for (const [name, [requests = 0, rateLimited = 0, errors = 0, lastUsed = 0]] of Object.entries(counts)) {
      this.#with(name, (key, told) => {
        key.requests += requests;
        key.rateLimited += rateLimited;
        key.errors += errors;
        told.requests += requests;
        told.rateLimited += rateLimited;
        told.errors += errors;
        this.#noteUsed(key, lastUsed);
      });
    }
    for (const [name, model, counted, uncounted, refused] of news.sent) {
      this.#with(name, (key) => {
        if (this.side.sentElsewhere(key, model, counted, uncounted, refused)) {
          this.#changed.add(key);
          this.#host.sendSoon();
        }
        this.#meterOf(key).sentElsewhere(counted);
      });
    }
    // What an answer announced is of after it was sent.
    for (const [name, fields] of Object.entries(news.fields))
      this.#with(name, (key, told) => this.#apply(key, told, fields));
    if (news.state !== null) this.#hearProvider(news.state);
    for (const [name, count] of Object.entries(news.inFlight))
      this.#with(name, (key) => this.#noteInFlight(from, key, count));
    this.side.wake();
  }

  /** All that an instance has under way; null: it is gone. */
  hearInFlight(from: string, counts: Record<string, number> | null): void {
    const held = this.#elsewhere.get(from);
    if (held !== undefined)
      for (const key of held.keys())
        if (!counts?.[this.#host.nameOf(key.secret)]) this.#noteInFlight(from, key, 0);
    if (counts === null) this.#elsewhere.delete(from);
    else
      for (const [name, count] of Object.entries(counts))
        this.#with(name, (key) => this.#noteInFlight(from, key, count));
  }

  /** Own requests under way, by key. */
  inFlight(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const [name, key] of this.#names) if (key.inFlight > 0) counts[name] = key.inFlight;
    return counts;
  }

  #noteInFlight(from: string, key: Key, count: number): void {
    let held = this.#elsewhere.get(from);
    if (held === undefined) this.#elsewhere.set(from, (held = new Map()));
    const by = count - (held.get(key) ?? 0);
    if (count === 0) held.delete(key);
    else held.set(key, count);
    key.inFlightElsewhere += by;
    key.account.limiter.inFlightElsewhere += by;
  }

  #noteUsed(key: Key, date: number): void {
    const { clock } = this.#host;
    const at = date - (clock.wall() - clock.now());
    if (date > 0) key.lastUsedAt = Math.max(key.lastUsedAt, Math.min(at, clock.now()));
  }

  #hearProvider(state: SharedProvider): void {
    this.side.applyProvider(state, this.#provider);
    this.#provider = this.side.providerState();
  }

  #apply(key: Key, told: Told, fields: Record<string, string>): void {
    const known: Record<string, unknown> = {};
    const models: Record<string, unknown> = {};
    for (const [field, value] of Object.entries(fields)) {
      if (field.startsWith("model:")) models[field.slice("model:".length)] = parsed(value) ?? {};
      else known[field] = parsed(value);
    }
    this.side.apply(key, { ...known, models });
    const now = this.#fieldsOf(key);
    for (const field of Object.keys(fields)) told.fields.set(field, now.get(field) ?? "null");
  }

  #with(name: string, act: (key: Key, told: Told) => void): void {
    const key = this.#names.get(name);
    const told = key === undefined ? undefined : this.#told.get(key);
    if (key !== undefined && told !== undefined) act(key, told);
  }

  /** Puts what all instances have counted of the day into the keys. */
  showDay(): void {
    for (const key of this.side.keys) {
      const { requests, othersRequests } = this.#meterOf(key);
      key.today = requests + othersRequests;
    }
  }
}

const COUNTS = ["requests", "rate_limited", "errors", "last_used"];

function raiseOf({ requests, rateLimited, errors }: Told): Record<string, number> {
  return { requests, rate_limited: rateLimited, errors };
}

function countIn(told: Told, name: string): number {
  return raiseOf(told)[name] ?? 0;
}

function countsOf({ requests, rateLimited, errors }: Key): Pick<Told, "requests" | "rateLimited" | "errors"> {
  return { requests, rateLimited, errors };
}

/** What is told where something has ended: for a cooldown also which, by when it began. */
function clearedOf(before: string): string {
  const ended = parsed(before);
  if (!isObject(ended)) return "null";
  const ofModel = ended["cooldown"];
  if (typeof ended["beganAt"] === "number") return JSON.stringify({ cleared: ended["beganAt"] });
  if (!isObject(ofModel) || typeof ofModel["beganAt"] !== "number") return "null";
  return JSON.stringify({ cooldown: { cleared: ofModel["beganAt"] } });
}
