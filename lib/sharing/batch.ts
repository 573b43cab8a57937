/**
 * What has changed at this instance, for the server and for the others, in one piece.
 */
import { isObject } from "../core/json.ts";
import type { SharedMeter } from "./meters.ts";
import type { PoolExchange } from "./pool-exchange.ts";
import type { HashChange } from "./usage-side.ts";
import { parsed } from "./wire.ts";
import type { DayNews, PoolNews } from "./wire.ts";

interface Gathered {
  readonly instance: string;
  readonly number: number;
  readonly prefix: string;
  readonly exchanges: readonly PoolExchange[];
  readonly meters: Iterable<SharedMeter>;
  /** What goes before the changes. */
  readonly first: readonly HashChange[];
  /** Finished requests. */
  readonly records: readonly unknown[];
  /** All places of the last minute go out, and not only those that the server may not know. */
  readonly isAll: boolean;
  /** The server was emptied: what others counted of the day goes there again, too. */
  readonly isFilling: boolean;
  readonly dayName: (meter: SharedMeter) => string;
  /** The date of a local instant. */
  readonly dateOf: (at: number) => number;
  readonly nextNumber: () => number;
}

/** A count of the day as the script takes it. */
interface StoredDay extends Omit<DayNews, "endsOn"> {
  readonly who: string;
  readonly number: number;
  readonly endsAt: number;
}

/** Places of a minute as the script takes them. */
interface StoredMinute {
  readonly name: string;
  readonly windowMs: number;
  readonly add: readonly { at: number; name: string }[];
  readonly remove: readonly string[];
}

/** Takes what has changed; null: nothing has. Both texts are JSON. */
export function gather(what: Gathered): { news: string; changes: string } | null {
  const hashes = [...what.first];
  const pools: PoolNews[] = [];
  for (const exchange of what.exchanges) {
    const collected = exchange.collect(what.prefix);
    hashes.push(...collected.hashes);
    if (collected.news !== null) pools.push(collected.news);
  }
  const days: StoredDay[] = [];
  const told: DayNews[] = [];
  const minutes: StoredMinute[] = [];
  for (const meter of what.meters) {
    const { dayEndsOn, requests, tokens } = meter;
    const name = what.dayName(meter);
    if (dayEndsOn > 0) {
      told.push({ name, endsOn: dayEndsOn, requests, tokens });
      const day = { name, endsAt: dayEndsOn };
      days.push({ ...day, who: what.instance, number: what.nextNumber(), requests, tokens });
      if (what.isFilling)
        for (const [who, counts] of meter.others) days.push({ ...day, who, number: 1, ...counts });
    }
    const minute = minuteOf(meter, what);
    if (minute !== null) minutes.push(minute);
  }
  if (hashes.length + pools.length + days.length + minutes.length + what.records.length === 0) return null;
  return {
    news: JSON.stringify({
      instance: what.instance,
      number: what.number,
      pools,
      days: told,
      records: what.records,
    }),
    changes: JSON.stringify({ hashes, days, minutes }),
  };
}

/** The counts of a batch that was not carried out (JSON): they are added to what was known without them. */
export function withUndone(raises: readonly HashChange[], undone: string): HashChange[] {
  const told = parsed(undone);
  const hashes = isObject(told) && Array.isArray(told["hashes"]) ? (told["hashes"] as HashChange[]) : []; // ours
  const adds = hashes.map(({ name, add = {}, keepMs }) => ({ name, add, keepMs }));
  const added = new Map<string, Record<string, number>>();
  for (const { name, add } of adds) added.set(name, { ...added.get(name), ...add });
  const without = raises.map((change) => {
    const add = added.get(change.name) ?? {};
    const raise = Object.entries(change.raise ?? {}).map(([field, value]) => [
      field,
      value - (add[field] ?? 0),
    ]);
    return { ...change, raise: Object.fromEntries(raise) };
  });
  return [...without, ...adds];
}

function minuteOf(meter: SharedMeter, { instance, prefix, isAll, dateOf }: Gathered): StoredMinute | null {
  const remove = meter.removed.map((number) => `${instance}:${number}`);
  meter.removed = [];
  const places = isAll ? meter.ownPlaces() : meter.takenAlone();
  const add = places.map(({ number, at }) => ({ at: dateOf(at), name: `${instance}:${number}` }));
  if (add.length + remove.length === 0) return null;
  return { name: `${prefix}:minute:${meter.name}`, windowMs: meter.windowMs, add, remove };
}
