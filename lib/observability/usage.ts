/**
 * What was done, for the operator: the last requests, how many there were in each minute and hour, how often each key
 * was used on which day for which model and client, and how each key did lately. In memory, and bounded; what of it
 * outlives a restart is the store's business.
 */
import { DAY_MS, HOUR_MS, MINUTE_MS, utcDay } from "../core/clock.ts";
import { hidden429Of } from "../core/events.ts";
import type { AttemptRecord, Observer, RequestRecord, TokenUsage } from "../core/events.ts";

/** Requests that are kept. */
export const KEPT_REQUESTS = 500;
/** Rows of usage that are kept: models are named by clients. */
const MOST_ROWS = 20_000;

/** Upstream requests of one day (UTC) with one key, for one model and one client. */
export interface UsageRow {
  /** `2026-11-20` */
  day: string;
  provider: string;
  keyId: string;
  /** null: the request named none. */
  model: string | null;
  /** null: its key has no name. */
  client: string | null;
  requests: number;
  rateLimited: number;
  errors: number;
  /** Those that answers named, as `TokenUsage` has them. */
  inputTokens: number;
  outputTokens: number;
  cachedTokens: number;
  cacheWriteTokens: number;
  reasoningTokens: number;
}

/** What happened in a stretch of time. */
export interface TrafficPoint {
  /** Epoch ms at which it begins. */
  at: number;
  /** Finished requests of clients. */
  requests: number;
  /** Refusals and faults of upstream that no client saw. */
  absorbed: number;
  /** Of these, 429. */
  hidden429: number;
  /** Requests of clients that ended with a status of 500 or more, or cut short. */
  errors: number;
}

/** The stretches in which requests are counted, and how many of each are kept. */
export const TRAFFIC_STEPS = { minute: MINUTE_MS, hour: HOUR_MS } as const;
const KEPT_POINTS = { minute: 61, hour: 30 * 24 + 1 } as const;

export type TrafficStep = keyof typeof TRAFFIC_STEPS;

/** What can be asked for: how many points, and how long each is. */
const RANGES = {
  "1h": { step: "minute", stepMs: MINUTE_MS, count: 60 },
  "24h": { step: "hour", stepMs: HOUR_MS, count: 24 },
  "7d": { step: "hour", stepMs: HOUR_MS, count: 7 * 24 },
  "30d": { step: "hour", stepMs: DAY_MS, count: 30 },
} as const satisfies Record<string, { step: TrafficStep; stepMs: number; count: number }>;

export type TrafficRange = keyof typeof RANGES;

export const TRAFFIC_RANGES: readonly TrafficRange[] = ["1h", "24h", "7d", "30d"];

/** The traffic of a range: points of `stepMs` each, oldest first, those without traffic included. */
export interface Traffic {
  range: TrafficRange;
  stepMs: number;
  points: readonly TrafficPoint[];
}

export class Usage implements Observer {
  readonly #requests: RequestRecord[] = [];
  /** Where the next one goes once the ring is full. */
  #next = 0;
  readonly #traffic = { minute: new Map<number, TrafficPoint>(), hour: new Map<number, TrafficPoint>() };
  /** By day, provider, key, model and client. */
  readonly #rows = new Map<string, UsageRow>();
  #day = { name: "", endsAt: 0 };
  /** Rows of that day that were found already: no name is made for them. */
  #found = new RowFinder();
  readonly #heartbeats = new Map<string, Heartbeat>();

  finished(record: RequestRecord): void {
    this.keep(record);
    const failures = record.attempts.filter(isFailure).length;
    const isError = record.status >= 500 || record.isTruncated;
    const absorbed = isError ? Math.max(0, failures - 1) : failures;
    const hidden429 = hidden429Of(record);
    const at = record.at + record.totalMs;
    for (const point of [this.pointAt("minute", at), this.pointAt("hour", at)]) {
      point.requests += 1;
      point.absorbed += absorbed;
      point.hidden429 += hidden429;
      if (isError) point.errors += 1;
    }
    let last: UsageRow | null = null;
    for (const attempt of record.attempts) {
      this.#heartbeatOf(attempt.keyId)?.count(resultOf(attempt), at);
      const row = this.rowFor(record.at, attempt, record);
      last = row;
      if (row === null) continue;
      row.requests += 1;
      if (isKeyRefusal(attempt)) row.rateLimited += 1;
      else if (isFailure(attempt)) row.errors += 1;
    }
    // The answer came with the last attempt.
    if (last !== null && record.tokens) countTokens(record.tokens, last);
  }

  /** Among the last requests, without being counted again. */
  keep(record: RequestRecord): void {
    if (this.#requests.length < KEPT_REQUESTS) this.#requests.push(record);
    else this.#requests[this.#next] = record;
    this.#next = (this.#next + 1) % KEPT_REQUESTS;
  }

  /** The last finished requests, newest first. */
  recent(limit: number): RequestRecord[] {
    const from = this.#requests.length < KEPT_REQUESTS ? 0 : this.#next;
    const inOrder = [...this.#requests.slice(from), ...this.#requests.slice(0, from)];
    return inOrder.reverse().slice(0, limit);
  }

  /** `now`: epoch ms. */
  traffic(range: TrafficRange, now: number): Traffic {
    const { step, stepMs, count } = RANGES[range];
    const lastAt = startOf(now, stepMs);
    const points = Array.from({ length: count }, (_, index) =>
      pointFrom(lastAt - (count - 1 - index) * stepMs),
    );
    for (const { at, requests, absorbed, hidden429, errors } of this.#traffic[step].values()) {
      const point = points[count - 1 - (lastAt - startOf(at, stepMs)) / stepMs];
      if (point === undefined) continue;
      point.requests += requests;
      point.absorbed += absorbed;
      point.hidden429 += hidden429;
      point.errors += errors;
    }
    return { range, stepMs, points };
  }

  /** The counts of the minute or hour in which `at` (epoch ms) lies. */
  pointAt(step: TrafficStep, at: number): TrafficPoint {
    const points = this.#traffic[step];
    const start = startOf(at, TRAFFIC_STEPS[step]);
    const known = points.get(start);
    if (known !== undefined) return known;
    const point = pointFrom(start);
    points.set(start, point);
    // The oldest goes, wherever the clock stands: it may have been set.
    if (points.size > KEPT_POINTS[step]) points.delete(Math.min(...points.keys()));
    return point;
  }

  /** The last `days` days with the running one, newest first. */
  usage(days: number, now: number): UsageRow[] {
    const first = utcDay(now - (days - 1) * DAY_MS);
    const rows = [...this.#rows.values()].filter(({ day }) => day >= first);
    return rows.sort((a, b) => (a.day === b.day ? b.requests - a.requests : a.day < b.day ? 1 : -1));
  }

  /** How a key did lately, slot by slot, oldest first; each slot in a letter of `BEATS`. */
  heartbeats(keyId: string, now: number): string {
    return this.#heartbeats.get(keyId)?.text(now) ?? NO_BEATS;
  }

  /** The row to count in; null: there are too many. */
  rowOf({ day, provider, keyId, model, client }: Omit<UsageRow, Counts>): UsageRow | null {
    const name = JSON.stringify([day, provider, keyId, model, client]);
    const known = this.#rows.get(name);
    if (known !== undefined) return known;
    if (this.#rows.size >= MOST_ROWS && !this.#forgetsBefore(day)) return null;
    const row = { day, provider, keyId, model, client, ...NO_COUNTS };
    this.#rows.set(name, row);
    return row;
  }

  /** The row in which an attempt at that time was counted; null: there are too many. */
  rowFor(
    at: number,
    { provider, keyId }: Pick<AttemptRecord, "provider" | "keyId">,
    { model, client }: Pick<RequestRecord, "model" | "client">,
  ): UsageRow | null {
    const day = this.#dayOf(at);
    const known = this.#found.get(provider, keyId, model, client);
    if (known !== undefined) return known;
    const row = this.rowOf({ day, provider, keyId, model, client });
    if (row !== null) this.#found.add(row);
    return row;
  }

  /** Makes room for a day by forgetting the oldest one before it. Says whether there was one. */
  #forgetsBefore(day: string): boolean {
    let oldest = day;
    for (const row of this.#rows.values()) if (row.day < oldest) oldest = row.day;
    if (oldest === day) return false;
    for (const [name, row] of this.#rows) if (row.day === oldest) this.#rows.delete(name);
    return true;
  }

  #dayOf(at: number): string {
    if (at >= this.#day.endsAt || at < this.#day.endsAt - DAY_MS) {
      this.#found = new RowFinder();
      this.#day = { name: utcDay(at), endsAt: startOf(at, DAY_MS) + DAY_MS };
    }
    return this.#day.name;
  }

  #heartbeatOf(keyId: string): Heartbeat | null {
    const known = this.#heartbeats.get(keyId);
    if (known !== undefined) return known;
    if (this.#heartbeats.size >= MOST_HEARTBEATS) return null;
    const heartbeat = new Heartbeat();
    this.#heartbeats.set(keyId, heartbeat);
    return heartbeat;
  }
}

const NO_COUNTS = {
  requests: 0,
  rateLimited: 0,
  errors: 0,
  inputTokens: 0,
  outputTokens: 0,
  cachedTokens: 0,
  cacheWriteTokens: 0,
  reasoningTokens: 0,
};

type Counts = keyof typeof NO_COUNTS;

function countTokens(tokens: TokenUsage, row: UsageRow): void {
  row.inputTokens += tokens.input;
  row.outputTokens += tokens.output;
  row.cachedTokens += tokens.cached;
  row.cacheWriteTokens += tokens.cacheWrite;
  row.reasoningTokens += tokens.reasoning;
}

function startOf(at: number, stepMs: number): number {
  return Math.floor(at / stepMs) * stepMs;
}

function pointFrom(at: number): TrafficPoint {
  return { at, requests: 0, absorbed: 0, hidden429: 0, errors: 0 };
}

/** Rows by provider, key, model and client, found without making a name. */
class RowFinder {
  readonly #rows = new Map<string, Map<string, Map<string | null, Map<string | null, UsageRow>>>>();

  get(provider: string, keyId: string, model: string | null, client: string | null): UsageRow | undefined {
    return this.#rows.get(provider)?.get(keyId)?.get(model)?.get(client);
  }

  add(row: UsageRow): void {
    const ofProvider =
      this.#rows.get(row.provider) ?? new Map<string, Map<string | null, Map<string | null, UsageRow>>>();
    const ofKey = ofProvider.get(row.keyId) ?? new Map<string | null, Map<string | null, UsageRow>>();
    const ofModel = ofKey.get(row.model) ?? new Map<string | null, UsageRow>();
    this.#rows.set(
      row.provider,
      ofProvider.set(row.keyId, ofKey.set(row.model, ofModel.set(row.client, row))),
    );
  }
}

/** A key was refused for what it used. */
function isKeyRefusal({ verdict }: AttemptRecord): boolean {
  return verdict === "rate_limited" || verdict === "exhausted";
}

/** The attempt brought no answer for the client, and not because the client had left. */
function isFailure({ verdict }: AttemptRecord): boolean {
  return verdict !== "served" && verdict !== "rejected" && verdict !== "abandoned";
}

// ── How a key did lately ──────────────────────────────────────────────────────────────────────────────────────────

/** One slot, and how many of them are kept: the last hour. */
export const BEAT_MS = 2 * MINUTE_MS;
const BEAT_SLOTS = 30;
const MOST_HEARTBEATS = 5000;
/** What a slot says: nothing was asked, answers only, answers and refusals, refusals only, faults and no answer. */
const BEATS = { quiet: ".", answered: "o", mixed: "m", refused: "r", failed: "f" } as const;
const NO_BEATS = BEATS.quiet.repeat(BEAT_SLOTS);

type BeatResult = "answered" | "refused" | "failed";

function resultOf(attempt: AttemptRecord): BeatResult | null {
  if (attempt.verdict === "abandoned") return null;
  if (!isFailure(attempt)) return "answered";
  const isFault = attempt.verdict === "overloaded" || attempt.verdict === "unreachable";
  return isFault ? "failed" : "refused";
}

/** Which results there were in each of the last slots, as bits. */
class Heartbeat {
  readonly #slots = new Uint8Array(BEAT_SLOTS);
  /** The number of the newest slot since the epoch. */
  #newest = 0;

  count(result: BeatResult | null, at: number): void {
    if (result === null) return;
    const slot = this.#advance(at);
    this.#slots[slot % BEAT_SLOTS]! |= result === "answered" ? 1 : result === "refused" ? 2 : 4;
  }

  text(now: number): string {
    const newest = this.#advance(now);
    let text = "";
    for (let slot = newest - BEAT_SLOTS + 1; slot <= newest; slot++)
      text += letterOf(this.#slots[slot % BEAT_SLOTS]!);
    return text;
  }

  /** The slot of an instant. Slots that were passed over are emptied; all are where the clock was set back. */
  #advance(at: number): number {
    const slot = Math.max(BEAT_SLOTS, Math.floor(at / BEAT_MS));
    const passed = slot - this.#newest;
    if (passed < -BEAT_SLOTS || passed >= BEAT_SLOTS) this.#slots.fill(0);
    else for (let number = this.#newest + 1; number <= slot; number++) this.#slots[number % BEAT_SLOTS] = 0;
    if (passed > 0 || passed < -BEAT_SLOTS) this.#newest = slot;
    return Math.min(slot, this.#newest);
  }
}

function letterOf(bits: number): string {
  const [hasAnswers, hasRefusals, hasFaults] = [(bits & 1) > 0, (bits & 2) > 0, (bits & 4) > 0];
  if (hasAnswers) return hasRefusals || hasFaults ? BEATS.mixed : BEATS.answered;
  if (hasRefusals) return BEATS.refused;
  return hasFaults ? BEATS.failed : BEATS.quiet;
}
