/**
 * Usage of several instances that share a pool: each tells the others of its finished requests, and adds what they used
 * to the counts in the server, from which one that starts reads.
 */
import { DAY_MS, utcDay } from "../core/clock.ts";
import type { Observer, RequestRecord } from "../core/events.ts";
import { isObject } from "../core/json.ts";
import type { HashChange, UsageSide } from "../sharing/usage-side.ts";
import { readRecord } from "./store.ts";
import { Usage } from "./usage.ts";
import type { TrafficPoint, UsageRow } from "./usage.ts";

/** Finished requests that are told of one by one between two pieces of news; of those before them only the counts. */
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
  /** Of those the ones that will be told, and the counts of the others. */
  #told: RequestRecord[] = [];
  #others = new Usage();
  #hasNew = false;
  onChange: () => void = () => {};

  /** `usage`: of all instances, as far as this one has heard. */
  constructor(usage: Usage) {
    this.#usage = usage;
  }

  finished(record: RequestRecord): void {
    this.#own.finished(record);
    this.#told.push(record);
    if (this.#told.length > 2 * MOST_TOLD) this.#tellTogether();
    this.#hasNew = true;
    this.onChange();
  }

  /** Only the newest are told one by one. */
  #tellTogether(): void {
    for (const record of this.#told.splice(0, this.#told.length - MOST_TOLD)) this.#others.finished(record);
  }

  take(prefix: string, now: number): { changes: HashChange[]; records: readonly unknown[] } {
    if (!this.#hasNew) return { changes: [], records: [] };
    const changes = countsOf(this.#own, KEPT_DAYS, now).map(({ name, keepMs, counts }) => ({
      name: `${prefix}:${name}`,
      add: Object.fromEntries(counts),
      keepMs,
    }));
    if (this.#told.length > MOST_TOLD) this.#tellTogether();
    const others = countsOf(this.#others, KEPT_DAYS, now).map(({ name, counts }) => ({
      name,
      counts: [...counts],
    }));
    const records = others.length === 0 ? this.#told : [...others, ...this.#told];
    this.#own = new Usage();
    this.#others = new Usage();
    this.#told = [];
    this.#hasNew = false;
    return { changes, records };
  }

  fill(prefix: string, days: number, now: number): HashChange[] {
    const own = this.#ownCounts(now);
    return countsOf(this.#usage, days, now).map(({ name, keepMs, counts }) => {
      const taken = [...counts].map(([field, count]) => [field, count - (own.get(name)?.get(field) ?? 0)]);
      return { name: `${prefix}:${name}`, raise: Object.fromEntries(taken), keepMs };
    });
  }

  #ownCounts(now: number): Map<string, Map<string, number>> {
    if (!this.#hasNew) return new Map();
    return new Map(countsOf(this.#own, KEPT_DAYS, now).map(({ name, counts }) => [name, counts]));
  }

  hear(told: unknown): void {
    if (isObject(told) && Array.isArray(told["counts"])) {
      const counts = told["counts"].filter((pair): pair is [string, number] => typeof pair?.[0] === "string");
      return this.#count(String(told["name"]), counts, (known, count) => known + count);
    }
    const record = readRecord(told);
    if (record !== null) this.#usage.finished(record);
  }

  names(prefix: string, days: number, now: number): string[] {
    const read = Array.from({ length: days }, (_, ago) => utcDay(now - ago * DAY_MS));
    const names = [
      ...read.map(usageName),
      ...read.map((day) => trafficName("hour", day)),
      ...read.slice(0, MINUTES_KEPT_DAYS).map((day) => trafficName("minute", day)),
    ];
    return names.map((name) => `${prefix}:${name}`);
  }

  load(name: string, stored: ReadonlyMap<string, string>, now: number): void {
    const short = /:((?:usage|traffic:hour|traffic:minute):[\d-]+)$/.exec(name)?.[1] ?? "";
    const own = this.#ownCounts(now).get(short);
    const whole = [...stored].map(([text, count]) => [text, Number(count) + (own?.get(text) ?? 0)] as const);
    this.#count(short, whole, Math.max);
  }

  #count(name: string, counts: Iterable<readonly [field: string, count: number]>, merge: Merge): void {
    const [, kind = "", day = ""] = /^(usage|traffic:hour|traffic:minute):([\d-]{1,12})$/.exec(name) ?? [];
    for (const [text, told] of counts) {
      const field = fieldsOf(text);
      const count = Math.floor(told);
      if (field === null || !(count > 0)) continue;
      if (kind === "usage") this.#countRow(day, field, count, merge);
      else if (kind !== "")
        this.#countPoint(kind === "traffic:hour" ? "hour" : "minute", field, count, merge);
    }
  }

  #countRow(
    day: string,
    [provider, keyId, model, client, kind]: readonly unknown[],
    count: number,
    merge: Merge,
  ): void {
    const counted = ROW_COUNTS.find((each) => each === kind);
    if (counted === undefined || typeof provider !== "string" || typeof keyId !== "string") return;
    const row: UsageRow | null = this.#usage.rowOf({
      day,
      provider,
      keyId,
      model: textOrNull(model),
      client: textOrNull(client),
    });
    if (row !== null) row[counted] = merge(row[counted], count);
  }

  #countPoint(step: "minute" | "hour", [at, kind]: readonly unknown[], count: number, merge: Merge): void {
    const counted = POINT_COUNTS.find((each) => each === kind);
    if (counted === undefined || typeof at !== "number" || !Number.isSafeInteger(at)) return;
    const point: TrafficPoint = this.#usage.pointAt(step, at);
    point[counted] = merge(point[counted], count);
  }
}

/** A count from what was known and what was told. */
type Merge = (known: number, count: number) => number;

/** The counts of a hash, by its name without the prefix. */
interface HashCounts {
  readonly name: string;
  readonly keepMs: number;
  readonly counts: Map<string, number>;
}

/** What was counted in the last days, as it stands in the server. */
function countsOf(usage: Usage, days: number, now: number): HashCounts[] {
  const hashes = new Map<string, HashCounts>();
  const add = (name: string, keptDays: number, field: unknown, count: number) => {
    if (count === 0) return;
    let hash = hashes.get(name);
    if (hash === undefined) hashes.set(name, (hash = { name, keepMs: keptDays * DAY_MS, counts: new Map() }));
    const text = JSON.stringify(field);
    hash.counts.set(text, (hash.counts.get(text) ?? 0) + count);
  };
  for (const row of usage.usage(days, now)) {
    const { day, provider, keyId, model, client } = row;
    for (const kind of ROW_COUNTS)
      add(usageName(day), KEPT_DAYS, [provider, keyId, model, client, kind], row[kind]);
  }
  for (const step of ["minute", "hour"] as const) {
    const keptDays = step === "minute" ? MINUTES_KEPT_DAYS : READ_DAYS;
    for (const point of usage.traffic(step === "minute" ? "1h" : "7d", now).points)
      for (const kind of POINT_COUNTS)
        add(trafficName(step, utcDay(point.at)), keptDays, [point.at, kind], point[kind]);
  }
  return [...hashes.values()];
}

function usageName(day: string): string {
  return `usage:${day}`;
}

function trafficName(step: "minute" | "hour", day: string): string {
  return `traffic:${step}:${day}`;
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
