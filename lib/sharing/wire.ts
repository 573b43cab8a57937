/**
 * What instances tell each other, and what stands in the server. Both may be anything at all: an instance of another
 * version may have written it, or somebody by hand. Everything is checked as it is read.
 */
import { isObject } from "../core/json.ts";
import type { SharedProvider } from "../pool/sharing.ts";
import type { LeaseAnswer } from "./meters.ts";

/** What has changed at an instance. */
export interface News {
  /** The instance, and the number of its batch; 0: it is none. */
  readonly instance: string;
  readonly number: number;
  readonly pools: readonly PoolNews[];
  readonly days: readonly DayNews[];
  /** Finished requests; their reader checks them. */
  readonly records: readonly unknown[];
  /** With a sign of life: all that it has under way, by provider and key; null: this is none. */
  readonly inFlight: Record<string, Record<string, number>> | null;
  /** It ends. */
  readonly isBye: boolean;
}

/** Of one provider. Keys by their full names. */
export interface PoolNews {
  readonly provider: string;
  /** Fields of keys, in JSON. */
  readonly fields: Record<string, Record<string, string>>;
  /** By how much counts have grown: requests, rate refusals, errors. And when a key was last used: a date. */
  readonly counts: Record<string, readonly number[]>;
  readonly inFlight: Record<string, number>;
  /** What was sent: key, model, requests that count and that do not, and refused ones. */
  readonly sent: readonly SentNews[];
  readonly state: SharedProvider | null;
}

export type SentNews = readonly [
  key: string,
  model: string | null,
  counted: number,
  uncounted: number,
  refused: number,
];

/** What an instance has counted of a day. */
export interface DayNews {
  readonly name: string;
  readonly endsOn: number;
  readonly requests: number;
  readonly tokens: number;
}

/** Reads news; null: it is none. */
export function readNews(message: string): News | null {
  const told = parsed(message);
  if (!isObject(told) || typeof told["instance"] !== "string") return null;
  return {
    instance: told["instance"],
    number: numberOf(told["number"]),
    pools: listOf(told["pools"]).flatMap(readPoolNews),
    days: listOf(told["days"]).flatMap((day) => {
      if (!isObject(day) || typeof day["name"] !== "string") return [];
      const { name } = { name: day["name"] };
      return [
        {
          name,
          endsOn: numberOf(day["endsOn"]),
          requests: numberOf(day["requests"]),
          tokens: numberOf(day["tokens"]),
        },
      ];
    }),
    records: listOf(told["records"]),
    inFlight: isObject(told["inFlight"]) ? inFlightIn(told["inFlight"]) : null,
    isBye: told["isBye"] === true,
  };
}

function readPoolNews(told: unknown): PoolNews[] {
  if (!isObject(told) || typeof told["provider"] !== "string") return [];
  const fields = entriesOf(told["fields"]).map(([key, given]) => [key, textsOf(given)] as const);
  const counts = entriesOf(told["counts"]).map(([key, given]) => [key, listOf(given).map(changeOf)] as const);
  const sent = listOf(told["sent"]).flatMap((each): SentNews[] => {
    const [key, model, counted, uncounted, refused] = listOf(each);
    if (typeof key !== "string") return [];
    const many = (count: unknown) => Math.min(numberOf(count), MOST_SENT);
    return [[key, typeof model === "string" ? model : null, many(counted), many(uncounted), many(refused)]];
  });
  return [
    {
      provider: told["provider"],
      fields: Object.fromEntries(fields),
      counts: Object.fromEntries(counts),
      inFlight: numbersOf(told["inFlight"]),
      sent,
      state: readProvider(told["state"]),
    },
  ];
}

/** No instance sends more with a key between two pieces of news. */
const MOST_SENT = 10_000;
const MOST_MODELS = 64;

export function readProvider(told: unknown): SharedProvider | null {
  if (!isObject(told)) return null;
  const models = Object.entries(numbersOf(told["models"])).slice(0, MOST_MODELS);
  return {
    breaker: numberOf(told["breaker"]),
    refusesAll: numberOf(told["refusesAll"]),
    models: Object.fromEntries(models),
    said: typeof told["said"] === "string" ? told["said"].slice(0, 300) : "",
  };
}

/** An instance, as it stands in the server. */
export interface StoredInstance {
  readonly id: string;
  readonly seenAt: number;
  readonly since: number;
  readonly epoch: string;
  /** It has written all that it knows since it last was alone. */
  readonly isSynced: boolean;
  /** When it last had a request: a date; 0: never. */
  readonly busyAt: number;
  /** By provider and key. */
  readonly inFlight: Record<string, Record<string, number>>;
}

/** The instances in an answer to a sign of life: id, then `date JSON`, and so on. */
export function readInstances(told: readonly unknown[]): StoredInstance[] {
  const instances: StoredInstance[] = [];
  for (let at = 0; at + 1 < told.length; at += 2) {
    const [id, text] = [told[at], told[at + 1]];
    if (typeof id !== "string" || typeof text !== "string") continue;
    const blank = text.indexOf(" ");
    const data = parsed(text.slice(blank + 1));
    if (!isObject(data)) continue;
    instances.push({
      id,
      seenAt: numberOf(Number(text.slice(0, blank))),
      since: numberOf(data["since"]),
      epoch: typeof data["epoch"] === "string" ? data["epoch"] : "",
      isSynced: data["isSynced"] === true,
      busyAt: numberOf(data["busyAt"]),
      inFlight: inFlightIn(data["inFlight"]),
    });
  }
  return instances;
}

function inFlightIn(told: unknown): Record<string, Record<string, number>> {
  return Object.fromEntries(entriesOf(told).map(([provider, keys]) => [provider, numbersOf(keys)]));
}

/** A hash as the server gives it: an object (RESP 3) or a list of names and values (from a script). */
export function readHash(answer: unknown): Map<string, string> {
  const pairs: [string, string][] = [];
  if (Array.isArray(answer)) {
    for (let at = 0; at + 1 < answer.length; at += 2)
      pairs.push([String(answer[at]), String(answer[at + 1])]);
  } else if (isObject(answer)) {
    for (const [name, value] of Object.entries(answer)) pairs.push([name, String(value)]);
  }
  return new Map(pairs);
}

/** The answer to a question for a place; null: the server does not know us. */
export function readLease(answer: readonly unknown[]): LeaseAnswer | null {
  const [granted, usedOfMinute = 0, othersRequests = 0, othersTokens = 0, waitMs = 0, full] =
    answer.map(Number);
  if (granted === -1) return null;
  const what = full === 2 ? "day" : full === 3 ? "tokens" : "minute";
  return { isGranted: granted === 1, usedOfMinute, othersRequests, othersTokens, waitMs, what };
}

/** What others have counted, of a day as it stands in the server. */
export function readDay(
  day: ReadonlyMap<string, string>,
  own: string,
): Map<string, { requests: number; tokens: number }> {
  const counted = new Map<string, { requests: number; tokens: number }>();
  for (const [field, value] of day) {
    const who = field.slice(2);
    if (who === own || !/^[rt]:/.test(field)) continue;
    const counts = counted.get(who) ?? { requests: 0, tokens: 0 };
    counted.set(who, counts);
    counts[field.startsWith("r:") ? "requests" : "tokens"] = numberOf(Number(value));
  }
  return counted;
}

/** A stored key as the pool reads it. */
export function readKey(hash: ReadonlyMap<string, string>): unknown {
  const models: Record<string, unknown> = {};
  const state: Record<string, unknown> = { models };
  for (const [field, value] of hash) {
    if (field.startsWith("model:")) models[field.slice("model:".length)] = parsed(value);
    else state[field] = parsed(value);
  }
  const { rate_limited: rateLimited, last_used: lastUsedAt } = state;
  return { ...state, rateLimited, lastUsedAt };
}

/** What stands for a text in the server: nothing of the text is in it. */
export function hashed(text: string): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex");
}

export function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export function numberOf(told: unknown): number {
  return typeof told === "number" && Number.isFinite(told) && told >= 0 ? told : 0;
}

/** A number that may be negative. */
function changeOf(told: unknown): number {
  return typeof told === "number" && Number.isSafeInteger(Math.round(told)) ? told : 0;
}

function listOf(told: unknown): readonly unknown[] {
  return Array.isArray(told) ? told : [];
}

function entriesOf(told: unknown): [string, unknown][] {
  return isObject(told) ? Object.entries(told) : [];
}

function numbersOf(told: unknown): Record<string, number> {
  return Object.fromEntries(entriesOf(told).map(([name, value]) => [name, numberOf(value)]));
}

function textsOf(told: unknown): Record<string, string> {
  return Object.fromEntries(
    entriesOf(told).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}
