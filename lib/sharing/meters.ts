/**
 * Exact limits over all instances: who took how many places, as far as this instance has heard, and how many it may
 * take while it cannot ask.
 *
 * Each instance keeps its own count of the day, and writes it to the server as a whole number, not as a change: sent
 * twice, or after hours alone, it counts nothing twice. A minute is a list of single places with names, for the same
 * reason.
 */
import type { ExactLimits, Full, Meter, Patience, Place } from "../pool/exact-limits.ts";
import { SlidingLog } from "../pool/counters.ts";

/** A place that this instance took. `at`: local instant. */
interface OwnPlace {
  readonly number: number;
  readonly at: number;
  /**
   * `asked`: nobody has decided yet. Else when it was decided alone, the number of that time alone; 0: by the server.
   */
  decidedIn: number | "asked";
}

/** What the server said to a request for a place; null: nothing in time, or it does not know us. */
export interface LeaseAnswer {
  readonly isGranted: boolean;
  readonly usedOfMinute: number;
  readonly othersRequests: number;
  readonly othersTokens: number;
  readonly waitMs: number;
  readonly what: Full["what"];
}

/** What meters need of the one who holds them. */
export interface MeterHost {
  now(): number;
  /** How many instances share the pool. */
  readonly instanceCount: number;
  /** Raised each time that this instance begins to be alone; 0: it is not. */
  readonly aloneEpoch: number;
  /** It is alone no more, and others may still be: the server is asked, and the share holds as well. */
  readonly isSettling: boolean;
  nextNumber(): number;
  askServer(
    meter: SharedMeter,
    number: number,
    limits: ExactLimits,
    others: readonly SharedMeter[],
    patience: Patience,
  ): Promise<LeaseAnswer | null>;
  /** Something has to be written. */
  changed(meter: SharedMeter): void;
}

/** Own places of the last minute that are kept at most. */
const MOST_OWN = 20_000;
/** Refused although there seems to be room: others may have given something back by then. */
const LOOK_AGAIN_MS = 1000;
/** Days end at whole minutes; dates of the same end may differ by the clock's corrections. */
const SAME_END_MS = 60_000;

export class SharedMeter implements Meter {
  /** Where it is in the server, behind the prefix. */
  readonly name: string;
  readonly #host: MeterHost;
  /** End of the day that is counted: a date, rounded to minutes; 0: none has begun. */
  dayEndsOn = 0;
  requests = 0;
  tokens = 0;
  /** By instance, as they told; kept so that an emptied server can be filled again. */
  readonly others = new Map<string, { requests: number; tokens: number }>();
  #othersRequests = 0;
  #othersTokens = 0;
  #own: OwnPlace[] = [];
  readonly #elsewhere = new SlidingLog(MOST_OWN);
  /** So many of these the server has told of, and news of them are still to come. */
  #aheadOfNews = 0;
  /** Places to be taken out of the minute in the server. */
  removed: number[] = [];
  windowMs = 60_000;
  /** What was so when this instance began to be alone. */
  #alone = { epoch: 0, requestsLeft: 0, tokensLeft: 0, tokens: 0 };
  /** Asked for, and not decided. */
  #pending = 0;
  /** Requests of the day that were let out in the running time alone. */
  #takenAlone = 0;

  constructor(name: string, host: MeterHost) {
    this.name = name;
    this.#host = host;
  }

  get othersRequests(): number {
    return this.#othersRequests;
  }

  get othersTokens(): number {
    return this.#othersTokens;
  }

  usedOfMinute(windowMs: number): number {
    const from = this.#host.now() - windowMs;
    return this.#ownSince(from) + this.#elsewhere.countSince(from + 1);
  }

  oldestOfMinute(windowMs: number): number {
    const from = this.#host.now() - windowMs;
    const own = this.#own.find(({ at }) => at > from)?.at ?? Infinity;
    const count = this.#elsewhere.countSince(from + 1);
    return Math.min(own, count === 0 ? Infinity : this.#elsewhere.last(count));
  }

  turnDay(dayEndsOn: number): void {
    const rounded = Math.round(dayEndsOn / SAME_END_MS) * SAME_END_MS;
    if (rounded === this.dayEndsOn) return;
    this.dayEndsOn = rounded;
    this.requests = 0;
    this.tokens = 0;
    this.others.clear();
    this.#othersRequests = 0;
    this.#othersTokens = 0;
    this.#alone.epoch = -1;
  }

  count(requests: number, tokens: number): void {
    if (requests === 0 && tokens === 0) return;
    this.requests = Math.max(0, this.requests + requests);
    this.tokens += tokens;
    this.#host.changed(this);
  }

  async ask(limits: ExactLimits, others: readonly Meter[], patience: Patience): Promise<Place | Full> {
    const host = this.#host;
    this.turnDay(limits.dayEndsOn);
    this.windowMs = limits.windowMs;
    const own: OwnPlace = { number: host.nextNumber(), at: host.now(), decidedIn: "asked" };
    const { dayEndsOn } = this;
    this.requests += 1;
    this.#pending += 1;
    if (limits.perMinute !== null) this.#keep(own);
    const siblings = others.filter((other) => other instanceof SharedMeter);
    const isAsked = host.aloneEpoch === 0 || host.isSettling;
    const answer = isAsked ? await host.askServer(this, own.number, limits, siblings, patience) : null;
    if (answer !== null) this.#hear(answer, siblings, limits.windowMs);
    const isAlone = answer === null || host.aloneEpoch !== 0;
    let full = answer === null ? null : fullOf(answer, host.now());
    const isInServer = full === null; // or may be, where it did not answer
    if (isAlone) full ??= this.#fullAlone(limits, siblings);
    this.#pending -= 1;
    if (full === null) {
      own.decidedIn = isAlone ? host.aloneEpoch : 0;
      if (isAlone) this.#takenAlone += 1;
      host.changed(this);
      return { kind: "place", uncountMinute: () => this.#takeOut(own) };
    }
    if (dayEndsOn === this.dayEndsOn) this.requests = Math.max(0, this.requests - 1);
    this.#takeOut(own, isInServer);
    host.changed(this);
    return full;
  }

  /** The server knows what all others used: more than was heard of so far may be among it. */
  #hear(answer: LeaseAnswer, siblings: readonly SharedMeter[], windowMs: number): void {
    this.#othersRequests = answer.othersRequests;
    this.#othersTokens = answer.othersTokens;
    const now = this.#host.now();
    const known = [this, ...siblings].reduce((sum, meter) => sum + meter.usedOfMinute(windowMs), 0);
    const unheard = Math.min(answer.usedOfMinute - known, MOST_OWN);
    for (let each = 0; each < unheard; each++) this.#elsewhere.add(now, now - windowMs);
    if (unheard > 0) this.#aheadOfNews += unheard;
  }

  /** Others sent so many with it just now. */
  sentElsewhere(count: number): void {
    const now = this.#host.now();
    const isKnown = Math.min(count, this.#aheadOfNews);
    this.#aheadOfNews -= isKnown;
    for (let each = isKnown; each < count; each++) this.#elsewhere.add(now, now - this.windowMs);
  }

  /** What another instance has counted of the day. */
  hearOther(instance: string, dayEndsOn: number, requests: number, tokens: number): void {
    if (dayEndsOn !== this.dayEndsOn) return;
    this.others.set(instance, { requests, tokens });
    this.#sumOthers();
  }

  /** What the server has of the day, by instance. */
  hearAll(counted: ReadonlyMap<string, { requests: number; tokens: number }>): void {
    for (const [instance, counts] of counted) this.others.set(instance, counts);
    this.#sumOthers();
  }

  #sumOthers(): void {
    this.#othersRequests = sumOf(this.others, "requests");
    this.#othersTokens = sumOf(this.others, "tokens");
  }

  /** Own places of the last minute, to be written again. */
  ownPlaces(): readonly OwnPlace[] {
    this.#prune();
    return this.#own;
  }

  /** Those that the server may not know. */
  takenAlone(): readonly OwnPlace[] {
    return this.ownPlaces().filter(({ decidedIn }) => decidedIn !== 0 && decidedIn !== "asked");
  }

  #keep(own: OwnPlace): void {
    this.#prune();
    this.#own.push(own);
    if (this.#own.length > MOST_OWN) this.#own.shift();
  }

  #prune(): void {
    const from = this.#host.now() - this.windowMs;
    let old = 0;
    while (old < this.#own.length && this.#own[old]!.at <= from) old += 1;
    if (old > 0 && (old >= this.#own.length / 2 || old > 64)) this.#own.splice(0, old);
  }

  /** Own places since then. `decidedIn`: only those of this time alone; 0: those of before. */
  #ownSince(from: number, decidedIn: number | null = null): number {
    const { aloneEpoch } = this.#host;
    let count = 0;
    for (let at = this.#own.length - 1; at >= 0; at--) {
      const place = this.#own[at]!;
      if (place.at <= from) break;
      const isOfNow = place.decidedIn === aloneEpoch;
      const isBefore = place.decidedIn !== "asked" && !isOfNow;
      if (decidedIn === null || (decidedIn === 0 ? isBefore : isOfNow)) count += 1;
    }
    return count;
  }

  #takeOut(own: OwnPlace, mayBeThere = true): void {
    const at = this.#own.lastIndexOf(own);
    if (at >= 0) this.#own.splice(at, 1);
    if (!mayBeThere || at < 0) return;
    this.removed.push(own.number);
    if (this.removed.length > MOST_OWN) this.removed.shift();
    this.#host.changed(this);
  }

  /** Whether this instance may go on with what it has just taken: its share of what was left when it last heard. */
  #fullAlone(limits: ExactLimits, siblings: readonly SharedMeter[]): Full | null {
    const host = this.#host;
    const now = host.now();
    this.#noteAlone(limits);
    const { perMinute, windowMs, perDay, tokensPerDay } = limits;
    const alone = this.#alone;
    const share = (left: number) => Math.floor(Math.max(0, left) / host.instanceCount);
    if (perDay !== null && this.#takenAlone >= share(alone.requestsLeft))
      return { kind: "full", what: "day", readyAt: now + LOOK_AGAIN_MS };
    if (tokensPerDay !== null && this.tokens - alone.tokens >= share(alone.tokensLeft))
      return { kind: "full", what: "tokens", readyAt: now + LOOK_AGAIN_MS };
    if (perMinute === null) return null;
    const meters = [this, ...siblings];
    const from = now - windowMs;
    const before = meters.reduce((sum, meter) => sum + meter.#takenBefore(from), 0);
    const taken = meters.reduce((sum, meter) => sum + meter.#ownSince(from, host.aloneEpoch), 0);
    if (taken < share(perMinute - before)) return null;
    const oldest = Math.min(...meters.map((meter) => meter.oldestOfMinute(windowMs)));
    const frees = Number.isFinite(oldest) && oldest < now ? oldest + windowMs : now + LOOK_AGAIN_MS;
    return { kind: "full", what: "minute", readyAt: Math.max(now + 1, frees) };
  }

  /** Remembers what was left when this instance became alone. */
  #noteAlone({ perDay, tokensPerDay }: ExactLimits): void {
    const { aloneEpoch } = this.#host;
    if (this.#alone.epoch === aloneEpoch) return;
    this.#takenAlone = 0;
    this.#alone = {
      epoch: aloneEpoch,
      requestsLeft: (perDay ?? 0) - this.#othersRequests - (this.requests - this.#pending),
      tokensLeft: (tokensPerDay ?? 0) - this.#othersTokens - this.tokens,
      tokens: this.tokens,
    };
  }

  /** Places of the minute that were taken before this instance became alone, by anybody. */
  #takenBefore(from: number): number {
    return this.#ownSince(from, 0) + this.#elsewhere.countSince(from + 1);
  }
}

function sumOf<Counts extends Record<Name, number>, Name extends string>(
  counted: ReadonlyMap<string, Counts>,
  name: Name,
): number {
  let sum = 0;
  for (const counts of counted.values()) sum += counts[name];
  return sum;
}

function fullOf({ isGranted, waitMs, what }: LeaseAnswer, now: number): Full | null {
  return isGranted ? null : { kind: "full", what, readyAt: now + Math.max(1, waitMs) };
}
