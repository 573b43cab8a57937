/**
 * What clients may use (`CLIENT_LIMITS`): who has what left, and why a request may not go out.
 *
 * A request is counted before it is sent, so that no two together go over a limit; what never went out is given back
 * when it ends. Tokens are known only then: a request goes out while any are left. Counts of the day are kept over a
 * restart and a reload; they go by the client's name, those of a key without a name by the key.
 */
import { ANY_CLIENT, MOST_PER_MINUTE, type ClientLimit } from "../config/client-limits.ts";
import { formatDuration, MINUTE_MS, retryAfterSec, wallOffset } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import { matchesGlob } from "../core/glob.ts";
import { field, isObject } from "../core/json.ts";
import { proxyError } from "../http/error-responses.ts";
import type { Bytes } from "../http/body.ts";
import type { ProxyError } from "../http/error-responses.ts";
import { QuotaDay } from "./quota-day.ts";
import type { Full, Meter, Patience, Place } from "./exact-limits.ts";
import type { Sharing } from "./sharing.ts";
import { SlidingLog } from "./counters.ts";

/** Who asks: the name of the client's key, and what its counts go by where it has none; null: nobody was asked. */
export interface ClientName {
  readonly client: string | null;
  readonly clientKeyId: string | null;
}

/** What the limits have to know of a request. */
export interface LimitedRequest extends ClientName {
  /** It only asks (GET, HEAD, OPTIONS), which counts against no limit of a day. */
  readonly isUncounted: boolean;
  /** The names that it asks for, all of which must be allowed; empty: none. Null: nobody can tell. */
  namedModels(): readonly string[] | null;
}

/** What of a request may name a model. */
export interface Naming {
  readonly path: string;
  /** Its `content-type`; null: it has none. */
  readonly contentType: string | null;
  readonly body: Bytes | null;
}

/** What a client's limits look at. */
export interface NamedModels {
  /** Every name by which upstream may understand the request; none: it names no model. */
  readonly all: readonly string[];
  /** The one that the request goes by on its way; null: none. */
  readonly model: string | null;
}

/** Finds the models in a request; null: nobody can tell. */
export type ModelReader = (naming: Naming, query?: string) => NamedModels | null;

/** What became of a request that was let out. */
export interface LimitedEnd {
  /** Upstream may have got it. */
  readonly wentOut: boolean;
  readonly status: number;
  /** Of its answer, input and output together. */
  readonly tokens: number;
}

/**
 * Where a client's counts are kept: the store fits, whose keys of this provider, which none can be called, they are.
 */
export interface ClientKeeper {
  keyStates(provider: string): ReadonlyMap<string, unknown>;
  saveKey(provider: string, id: string, snapshot: () => unknown): void;
}

const KEPT_UNDER = "*clients";
/** So many requests of the last minute are kept over a restart. */
const MOST_KEPT_TIMES = 1000;

/** One limit, and what of it was used. */
export interface LimitReport {
  readonly limit: number;
  readonly used: number;
  readonly left: number;
  /** Ms until something of it comes free, or all; 0: nothing was used. */
  readonly resetMs: number;
}

/** What a client may use, and what it has left. Null where it is not limited so. */
export interface ClientReport {
  /** null: its key has no name. */
  readonly client: string | null;
  readonly clientKeyId: string | null;
  readonly perMinute: LimitReport | null;
  readonly perDay: LimitReport | null;
  readonly tokensPerDay: LimitReport | null;
  readonly models: readonly string[] | null;
}

/** What a client used. */
class ClientCounts {
  /** Of the last minute, where that is limited. */
  readonly sent = new SlidingLog(MOST_PER_MINUTE);
  /** Of the day. */
  requests = 0;
  tokens = 0;
  /** What is saved of it; made once. */
  snapshot: (() => unknown) | null = null;
}

/** A place that a request has taken. */
export interface Reservation {
  /** Once, when it is over. */
  end(outcome: LimitedEnd): void;
}

const UNLIMITED: Reservation = { end() {} };

export class ClientLimiter {
  readonly #clock: Clock;
  readonly #keeper: ClientKeeper | null;
  readonly #sharing: Sharing | null;
  readonly #day: QuotaDay;
  readonly #counts = new Map<string, ClientCounts>();
  /** What was kept in an earlier run. */
  readonly #kept: ReadonlyMap<string, unknown>;
  #limits = new Map<string, ClientLimit>();
  #zone = "UTC";

  /** `sharing`: other instances that share the pool; null: there is none. */
  constructor(clock: Clock, keeper: ClientKeeper | null, sharing: Sharing | null = null) {
    this.#clock = clock;
    this.#sharing = sharing;
    this.#keeper = keeper;
    this.#day = new QuotaDay(clock);
    this.#kept = keeper?.keyStates(KEPT_UNDER) ?? new Map();
  }

  /** Goes by these limits from now on. `zone`: the IANA zone whose midnight ends the day. */
  follow(limits: readonly ClientLimit[], zone: string): void {
    this.#limits = new Map(limits.map((limit) => [limit.client, limit]));
    this.#zone = zone; // a day that has begun ends as it would have
  }

  /** A place for this request, or why it may not go out. */
  admit(request: LimitedRequest): Reservation | ProxyError {
    if (this.#limits.size === 0) return UNLIMITED;
    const limit = this.#limitOf(request);
    if (limit === null) return UNLIMITED;
    const refusal = modelRefusal(request, limit);
    if (refusal !== null) return refusal;
    const now = this.#clock.now();
    const counts = this.#countsOf(idOf(request), now);
    const { isUncounted } = request;
    const refusalOfLimit = this.#limitRefusal(request, limit, counts, now);
    if (refusalOfLimit !== null) return refusalOfLimit;
    if (limit.perMinute !== null) counts.sent.add(now, now - MINUTE_MS);
    if (!isUncounted) counts.requests += 1;
    return this.#reservation(idOf(request), counts, isUncounted, now);
  }

  /** The same over all instances that share the pool. */
  async admitShared(request: LimitedRequest & Patience, sharing: Sharing): Promise<Reservation | ProxyError> {
    const limit = this.#limits.size === 0 ? null : this.#limitOf(request);
    if (limit === null) return UNLIMITED;
    const refusal = modelRefusal(request, limit);
    if (refusal !== null) return refusal;
    const { isUncounted } = request;
    const { perMinute } = limit;
    const perDay = isUncounted ? null : limit.perDay;
    const tokensPerDay = isUncounted ? null : limit.tokensPerDay;
    if (perMinute === null && perDay === null && tokensPerDay === null) return UNLIMITED;
    this.#countsOf(idOf(request), this.#clock.now()); // it is among those that are reported
    const meter = sharing.meterOfClient(idOf(request));
    const limits = { perMinute, windowMs: MINUTE_MS, perDay, tokensPerDay, dayEndsOn: this.#day.endDate };
    const place = await meter.ask(limits, [], request);
    if (place.kind === "full") {
      const readyAt = place.what === "minute" ? place.readyAt : Math.max(place.readyAt, this.#day.endsAt);
      return clientRefusal(request, limit, place.what, readyAt - this.#clock.now());
    }
    if (isUncounted) meter.count(-1, 0);
    return this.#sharedReservation(meter, place, isUncounted);
  }

  /** A place that all instances have counted. */
  #sharedReservation(meter: Meter, place: Place, isUncounted: boolean): Reservation {
    const { endDate } = this.#day;
    let hasEnded = false;
    return {
      end: ({ wentOut, status, tokens }) => {
        if (hasEnded) return;
        hasEnded = true;
        this.#turnDay(this.#clock.now());
        if (!wentOut) place.uncountMinute();
        meter.turnDay(this.#day.endDate);
        const isGivenBack = !isUncounted && endDate === this.#day.endDate && (!wentOut || status === 404);
        meter.count(isGivenBack ? -1 : 0, tokens);
      },
    };
  }

  #limitRefusal(
    request: LimitedRequest,
    limit: ClientLimit,
    counts: ClientCounts,
    now: number,
  ): ProxyError | null {
    const { isUncounted } = request;
    const { perMinute, perDay, tokensPerDay } = limit;
    const minuteEndsAt = perMinute === null ? 0 : counts.sent.last(perMinute) + MINUTE_MS;
    const isDayOver = !isUncounted && perDay !== null && counts.requests >= perDay;
    const isOutOfTokens = !isUncounted && tokensPerDay !== null && counts.tokens >= tokensPerDay;
    const readyAt = Math.max(minuteEndsAt, isDayOver || isOutOfTokens ? this.#day.endsAt : 0);
    if (readyAt <= now) return null;
    return clientRefusal(
      request,
      limit,
      isDayOver ? "day" : isOutOfTokens ? "tokens" : "minute",
      readyAt - now,
    );
  }

  /** What was counted just now. */
  #reservation(id: string, counts: ClientCounts, isUncounted: boolean, now: number): Reservation {
    const { endDate } = this.#day;
    this.#save(id, counts);
    let hasEnded = false;
    return {
      end: ({ wentOut, status, tokens }) => {
        if (hasEnded) return;
        hasEnded = true;
        this.#turnDay(this.#clock.now());
        if (!wentOut) counts.sent.remove(now);
        const isOfToday = endDate === this.#day.endDate;
        if (!isUncounted && isOfToday && (!wentOut || status === 404)) counts.requests -= 1;
        counts.tokens += tokens;
        this.#save(id, counts);
      },
    };
  }

  /** The clients that have a line, then of all others those that used something. */
  report(): ClientReport[] {
    const now = this.#clock.now();
    const named = [...this.#limits.keys()].filter((client) => client !== ANY_CLIENT);
    const seen = this.#limits.has(ANY_CLIENT) ? [...this.#counts.keys(), ...this.#kept.keys()] : [];
    const others = [...new Set(seen)].filter((id) => !this.#limits.has(id));
    const ofOthers = others.map((id) => this.#reportOf(id, now)).filter((each) => each !== null);
    return [
      ...named.map((id) => this.#reportOf(id, now)).filter((each) => each !== null),
      ...ofOthers.filter(hasUsed),
    ];
  }

  /** What this client may use, and what it has left; null: it is not limited. */
  reportOf(name: ClientName): ClientReport | null {
    return this.#limits.size === 0 ? null : this.#reportOf(idOf(name), this.#clock.now());
  }

  /** Whether this client may use a model, by its name. */
  mayUse(name: ClientName): (model: string) => boolean {
    const models = this.reportOf(name)?.models ?? null;
    return (model) => models === null || models.some((pattern) => matchesGlob(pattern, model));
  }

  #reportOf(id: string, now: number): ClientReport | null {
    const limit = this.#limits.get(id) ?? this.#limits.get(ANY_CLIENT);
    if (limit === undefined) return null;
    const counts = this.#countsOf(id, now);
    const { perMinute, perDay, tokensPerDay, models } = limit;
    const meter = this.#sharing?.meterOfClient(id) ?? null;
    meter?.turnDay(this.#day.endDate);
    const ofMinute = meter?.usedOfMinute(MINUTE_MS) ?? counts.sent.countSince(now - MINUTE_MS + 1);
    const oldest = meter?.oldestOfMinute(MINUTE_MS) ?? counts.sent.last(Math.min(ofMinute, perMinute ?? 0));
    const minuteEndsAt = oldest + MINUTE_MS;
    const { requests, tokens } =
      meter === null
        ? counts
        : { requests: meter.requests + meter.othersRequests, tokens: meter.tokens + meter.othersTokens };
    const dayMs = Math.max(0, this.#day.endsAt - now);
    return {
      ...nameOf(id),
      perMinute: limitReport(perMinute, ofMinute, Math.max(0, minuteEndsAt - now)),
      perDay: limitReport(perDay, requests, dayMs),
      tokensPerDay: limitReport(tokensPerDay, tokens, dayMs),
      models,
    };
  }

  #limitOf({ client }: ClientName): ClientLimit | null {
    const own = client === null ? undefined : this.#limits.get(client);
    return own ?? this.#limits.get(ANY_CLIENT) ?? null;
  }

  #countsOf(id: string, now: number): ClientCounts {
    this.#turnDay(now);
    const known = this.#counts.get(id);
    if (known !== undefined) return known;
    const counts = new ClientCounts();
    this.#restore(counts, this.#kept.get(id), now);
    this.#counts.set(id, counts);
    return counts;
  }

  #turnDay(now: number): void {
    if (this.#day.look(this.#zone, now) !== "new") return;
    for (const counts of this.#counts.values()) {
      counts.requests = 0;
      counts.tokens = 0;
    }
  }

  #save(id: string, counts: ClientCounts): void {
    if (this.#keeper === null) return;
    counts.snapshot ??= () => {
      const offset = wallOffset(this.#clock);
      const count = Math.min(counts.sent.countSince(this.#clock.now() - MINUTE_MS), MOST_KEPT_TIMES);
      const sent = Array.from({ length: count }, (_, index) => counts.sent.last(count - index) + offset);
      return { requests: counts.requests, tokens: counts.tokens, dayEndsAt: this.#day.endDate, sent };
    };
    this.#keeper.saveKey(KEPT_UNDER, id, counts.snapshot);
  }

  #restore(counts: ClientCounts, stored: unknown, now: number): void {
    if (!isObject(stored)) return;
    const numberOf = (name: string) => {
      const value = field(stored, name);
      return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : 0;
    };
    if (this.#day.goesOn(numberOf("dayEndsAt"))) {
      counts.requests = numberOf("requests");
      counts.tokens = numberOf("tokens");
    }
    const sent = field(stored, "sent");
    const offset = wallOffset(this.#clock);
    for (const time of Array.isArray(sent) ? sent : []) {
      const at = Number(time) - offset;
      if (at <= now && at > now - MINUTE_MS) counts.sent.add(at, now - MINUTE_MS);
    }
  }
}

/** `what` is used up, and something comes free in `waitMs`. */
function clientRefusal(
  { client }: LimitedRequest,
  { perMinute, perDay, tokensPerDay }: ClientLimit,
  what: Full["what"],
  waitMs: number,
): ProxyError {
  const spent = {
    day: `its ${perDay} requests of the day`,
    tokens: `its ${tokensPerDay} tokens of the day`,
    minute: `its ${perMinute} requests a minute`,
  }[what];
  const inTime = formatDuration(retryAfterSec(waitMs) * 1000);
  const message = `${named(client)} has used up ${spent} (CLIENT_LIMITS of this proxy; the provider was not asked). Try again in ${inTime}, or ask its operator for more.`;
  return proxyError(429, "client_limit", message, waitMs);
}

function limitReport(limit: number | null, used: number, resetMs: number): LimitReport | null {
  return limit === null
    ? null
    : { limit, used, left: Math.max(0, limit - used), resetMs: used > 0 ? resetMs : 0 };
}

function hasUsed({ perMinute, perDay, tokensPerDay }: ClientReport): boolean {
  return [perMinute, perDay, tokensPerDay].some((limit) => limit !== null && limit.used > 0);
}

/** What a client's counts go by. Names hold no `#`. */
function idOf({ client, clientKeyId }: ClientName): string {
  return client ?? `#${clientKeyId ?? ""}`;
}

function nameOf(id: string): ClientName {
  if (!id.startsWith("#")) return { client: id, clientKeyId: null };
  return { client: null, clientKeyId: id.length > 1 ? id.slice(1) : null };
}

function named(client: string | null): string {
  return client === null ? "This client" : `The client ${client}`;
}

function modelRefusal(request: LimitedRequest, { models }: ClientLimit): ProxyError | null {
  if (models === null) return null;
  const asked = request.namedModels();
  const isAllowed = (model: string) => models.some((pattern) => matchesGlob(pattern, model));
  const refused = asked === null ? null : asked.find((model) => !isAllowed(model));
  if (refused === undefined) return null;
  const what = refused === null ? "a request whose model cannot be read" : `the model ${shortened(refused)}`;
  const message = `${named(request.client)} may not use ${what} here (CLIENT_LIMITS of this proxy): it may use ${models.join(", ")}. Choose one of these, or ask its operator.`;
  return proxyError(403, "model_not_allowed", message);
}

function shortened(model: string): string {
  const text = model.length > 100 ? `${model.slice(0, 100)}…` : model;
  return JSON.stringify(text);
}
