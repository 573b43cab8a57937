/**
 * What was lately done, for the operator: the last requests, the last hour by minutes, and how often each key was used
 * for which model on which day. In memory, and bounded; what of it outlives a restart is the store's business.
 */
import { DAY_MS, MINUTE_MS, utcDay } from "../core/clock.ts";
import type { Observer, RequestRecord } from "../core/events.ts";

/** Requests that are kept. */
export const KEPT_REQUESTS = 500;
const HOUR_MINUTES = 60;
/** Rows of usage that are kept: models are named by clients. */
const MOST_ROWS = 20_000;

/** Upstream requests of one day (UTC) with one key for one model. */
export interface UsageRow {
  /** `2026-11-20` */
  day: string;
  provider: string;
  keyId: string;
  model: string | null;
  requests: number;
  rateLimited: number;
  errors: number;
}

/** One minute of the last hour. */
export interface TrafficPoint {
  /** Epoch ms at which the minute begins. */
  at: number;
  /** Finished requests of clients. */
  requests: number;
  /** Refusals and faults of upstream that no client saw. */
  absorbed: number;
  /** Requests of clients that ended with a status of 500 or more, or cut short. */
  errors: number;
}

export class Usage implements Observer {
  readonly #requests: RequestRecord[] = [];
  /** Where the next one goes once the ring is full. */
  #next = 0;
  readonly #traffic = new Map<number, TrafficPoint>();
  /** By day, provider, key and model. */
  readonly #usage = new Map<string, UsageRow>();
  #day = { name: "", endsAt: 0 };
  /** Rows of that day that were found already, by provider, key and model: no name is made for them. */
  #found = new Map<string, Map<string, Map<string | null, UsageRow>>>();

  finished(record: RequestRecord): void {
    this.keep(record);
    const failed = record.attempts.filter(
      ({ verdict }) => !isAnswer(verdict) && verdict !== "abandoned",
    ).length;
    const isError = record.status >= 500 || record.isTruncated;
    const minute = this.minuteAt(record.at + record.totalMs);
    minute.requests += 1;
    minute.absorbed += isError ? Math.max(0, failed - 1) : failed;
    if (isError) minute.errors += 1;
    for (const { provider, keyId, verdict } of record.attempts) {
      const row = this.usedRow(record.at, provider, keyId, record.model);
      if (row === null) continue;
      row.requests += 1;
      if (verdict === "rate_limited" || verdict === "exhausted") row.rateLimited += 1;
      else if (!isAnswer(verdict) && verdict !== "abandoned") row.errors += 1;
    }
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

  /** The last 60 minutes, oldest first, those without traffic included. */
  traffic(now: number): TrafficPoint[] {
    const running = Math.floor(now / MINUTE_MS) * MINUTE_MS;
    return Array.from({ length: HOUR_MINUTES }, (_, index) => {
      const at = running - (HOUR_MINUTES - 1 - index) * MINUTE_MS;
      return this.#traffic.get(at) ?? { at, requests: 0, absorbed: 0, errors: 0 };
    });
  }

  /** The counts of the minute in which `at` (epoch ms) lies. */
  minuteAt(at: number): TrafficPoint {
    const begin = Math.floor(at / MINUTE_MS) * MINUTE_MS;
    const known = this.#traffic.get(begin);
    if (known !== undefined) return known;
    for (const old of this.#traffic.keys()) {
      if (old <= begin - HOUR_MINUTES * MINUTE_MS) this.#traffic.delete(old);
    }
    const point = { at: begin, requests: 0, absorbed: 0, errors: 0 };
    this.#traffic.set(begin, point);
    return point;
  }

  /** The last `days` days with the running one, newest first. */
  usage(days: number, now: number): UsageRow[] {
    const first = utcDay(now - (days - 1) * DAY_MS);
    const rows = [...this.#usage.values()].filter(({ day }) => day >= first);
    return rows.sort((a, b) => (a.day === b.day ? b.requests - a.requests : a.day < b.day ? 1 : -1));
  }

  /** The row to count in; null: there are too many. */
  rowOf(day: string, provider: string, keyId: string, model: string | null): UsageRow | null {
    const name = `${day} ${provider} ${keyId} ${model ?? ""}`;
    const known = this.#usage.get(name);
    if (known !== undefined) return known;
    if (this.#usage.size >= MOST_ROWS && !this.#forgetsBefore(day)) return null;
    const row = { day, provider, keyId, model, requests: 0, rateLimited: 0, errors: 0 };
    this.#usage.set(name, row);
    return row;
  }

  /** Makes room for a day by forgetting the oldest one before it. Says whether there was one. */
  #forgetsBefore(day: string): boolean {
    let oldest = day;
    for (const row of this.#usage.values()) if (row.day < oldest) oldest = row.day;
    if (oldest === day) return false;
    for (const [name, row] of this.#usage) if (row.day === oldest) this.#usage.delete(name);
    return true;
  }

  /** The row in which a request of that time was counted; null: there was no room for one. */
  usedRow(at: number, provider: string, keyId: string, model: string | null): UsageRow | null {
    const day = this.#dayOf(at);
    const known = this.#found.get(provider)?.get(keyId)?.get(model);
    if (known !== undefined) return known;
    const row = this.rowOf(day, provider, keyId, model);
    if (row === null) return null;
    const ofProvider = this.#found.get(provider) ?? new Map<string, Map<string | null, UsageRow>>();
    const ofKey = ofProvider.get(keyId) ?? new Map<string | null, UsageRow>();
    this.#found.set(provider, ofProvider.set(keyId, ofKey.set(model, row)));
    return row;
  }

  #dayOf(at: number): string {
    if (at >= this.#day.endsAt || at < this.#day.endsAt - DAY_MS) {
      this.#found.clear();
      this.#day = { name: utcDay(at), endsAt: (Math.floor(at / DAY_MS) + 1) * DAY_MS };
    }
    return this.#day.name;
  }
}

/** Whether the verdict is of an answer, not of a failed attempt. */
function isAnswer(verdict: string): boolean {
  return verdict === "served" || verdict === "rejected";
}
