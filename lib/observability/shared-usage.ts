/**
 * Usage of several instances that share a pool: each tells the others of its finished requests, and adds what they used
 * to the counts in the server, from which one that starts reads.
 */
import { DAY_MS, utcDay } from "../core/clock.ts";
import type { Observer, RequestRecord } from "../core/events.ts";
import type { HashChange, UsageSide } from "../sharing/usage-side.ts";
import { readRecord } from "./store.ts";
import { Usage } from "./usage.ts";
import type { TrafficPoint, UsageRow } from "./usage.ts";

/** Finished requests that are told of between two pieces of news; of more only the newest, but all are counted. */
const MOST_TOLD = 100;
/** Days that are kept, and that are read at the start. */
const KEPT_DAYS = 366;
const READ_DAYS = 31;
const MINUTES_KEPT_DAYS = 2;

/** What is counted of a row, and of a point of traffic. */
const ROW_COUNTS = [
  "requests",
  "rateLimited",
  "errors",
  "inputTokens",
  "outputTokens",
  "cachedTokens",
  "cacheWriteTokens",
  "reasoningTokens",
] as const;
const POINT_COUNTS = ["requests", "absorbed", "hidden429", "errors"] as const;

export class SharedUsage implements Observer, UsageSide {
  readonly #usage: Usage;
  /** What this instance counted since it was last taken. */
  #own = new Usage();
  #told: RequestRecord[] = [];
  #hasNew = false;
  onChange: () => void = () => {};

  /** `usage`: of all instances, as far as this one has heard. */
  constructor(usage: Usage) {
    this.#usage = usage;
  }

  finished(record: RequestRecord): void {
    this.#own.finished(record);
    this.#told.push(record);
    if (this.#told.length > 2 * MOST_TOLD) this.#told = this.#told.slice(-MOST_TOLD);
    this.#hasNew = true;
    this.onChange();
  }

  take(prefix: string, now: number): { changes: HashChange[]; records: readonly unknown[] } {
    if (!this.#hasNew) return { changes: [], records: [] };
    const changes = new Map<string, { add: Record<string, number>; keepMs: number }>();
    const add = (name: string, days: number, field: unknown, count: number) => {
      const change = changes.get(name) ?? { add: {}, keepMs: days * DAY_MS };
      if (count > 0) change.add[JSON.stringify(field)] = count;
      changes.set(name, change);
    };
    for (const row of this.#own.usage(KEPT_DAYS, now)) {
      const { day, provider, keyId, model, client } = row;
      for (const kind of ROW_COUNTS)
        add(usageName(prefix, day), KEPT_DAYS, [provider, keyId, model, client, kind], row[kind]);
    }
    for (const step of ["minute", "hour"] as const) {
      const days = step === "minute" ? MINUTES_KEPT_DAYS : READ_DAYS;
      for (const point of this.#own.traffic(step === "minute" ? "1h" : "7d", now).points)
        for (const kind of POINT_COUNTS)
          if (point.requests > 0)
            add(trafficName(prefix, step, utcDay(point.at)), days, [point.at, kind], point[kind]);
    }
    const records = this.#told.slice(-MOST_TOLD);
    this.#own = new Usage();
    this.#told = [];
    this.#hasNew = false;
    return { changes: [...changes].map(([name, change]) => ({ name, ...change })), records };
  }

  hear(told: unknown): void {
    const record = readRecord(told);
    if (record !== null) this.#usage.finished(record);
  }

  names(prefix: string, now: number): string[] {
    const days = Array.from({ length: READ_DAYS }, (_, ago) => utcDay(now - ago * DAY_MS));
    return [
      ...days.map((day) => usageName(prefix, day)),
      ...days.map((day) => trafficName(prefix, "hour", day)),
      ...days.slice(0, MINUTES_KEPT_DAYS).map((day) => trafficName(prefix, "minute", day)),
    ];
  }

  load(name: string, stored: ReadonlyMap<string, string>): void {
    const [, kind = "", day = ""] = /:(usage|traffic:hour|traffic:minute):([\d-]+)$/.exec(name) ?? [];
    for (const [text, value] of stored) {
      const field = fieldsOf(text);
      const count = Math.floor(Number(value));
      if (field === null || !(count > 0)) continue;
      if (kind === "usage") this.#loadRow(day, field, count);
      else this.#loadPoint(kind === "traffic:hour" ? "hour" : "minute", field, count);
    }
  }

  #loadRow(day: string, [provider, keyId, model, client, kind]: readonly unknown[], count: number): void {
    const counted = ROW_COUNTS.find((each) => each === kind);
    if (counted === undefined || typeof provider !== "string" || typeof keyId !== "string") return;
    const row: UsageRow | null = this.#usage.rowOf({
      day,
      provider,
      keyId,
      model: textOrNull(model),
      client: textOrNull(client),
    });
    if (row !== null) row[counted] += count;
  }

  #loadPoint(step: "minute" | "hour", [at, kind]: readonly unknown[], count: number): void {
    const counted = POINT_COUNTS.find((each) => each === kind);
    if (counted === undefined || typeof at !== "number" || !Number.isSafeInteger(at)) return;
    const point: TrafficPoint = this.#usage.pointAt(step, at);
    point[counted] += count;
  }
}

function usageName(prefix: string, day: string): string {
  return `${prefix}:usage:${day}`;
}

function trafficName(prefix: string, step: "minute" | "hour", day: string): string {
  return `${prefix}:traffic:${step}:${day}`;
}

function textOrNull(told: unknown): string | null {
  return typeof told === "string" ? told : null;
}

/** The parts of a field's name; null: it is none of ours. */
function fieldsOf(text: string): readonly unknown[] | null {
  try {
    const told: unknown = JSON.parse(text);
    return Array.isArray(told) ? told : null;
  } catch {
    return null;
  }
}
