/**
 * One list of every provider's models (`MODELS=all`), and where the names in it lead.
 *
 * Providers are asked side by side, each with a key that is in use but without a lease: a list spends nobody's day. One
 * that does not answer in time is shown as it was last, or left out; it may still answer for the next time.
 */
import { isObject, field, parseJson, type JsonObject } from "../core/json.ts";
import type { Config, ProviderConfig } from "../config/config.ts";
import type { Clock } from "../core/clock.ts";
import { deferred } from "../core/language.ts";
import type { UpstreamConnections, UpstreamResponse } from "../core/runtime.ts";
import { LONGEST_NAME } from "../config/routes.ts";
import { readerOf, readUpTo, textOf } from "../http/body.ts";
import { joinBase, unescaped } from "../http/request.ts";
import type { Base, ClientApi } from "../http/request.ts";
import { isInUse } from "../pool/key.ts";
import type { Key, KeyPool } from "../pool/key.ts";
import { authHeader } from "../providers/catalog.ts";
import type { Dialect } from "../providers/verdict.ts";
import { LONGEST_LIST_BYTES, modelEntry, modelList } from "./model-list.ts";
import type { ListedModel } from "./model-list.ts";

/** How long a client waits for a list. */
const WAIT_MS = 5000;
/** How long a provider may take to answer for the next time. */
const LONGEST_MS = 30_000;
/** A list is good for so long. */
const FRESH_MS = 5 * 60_000;
/** A provider that did not answer is left alone for so long. */
const AGAIN_MS = 30_000;
const MOST_LISTED_MODELS = 5000;
/** So many keys are tried: one may be dead without that being known. */
const MOST_KEYS = 3;

/** Where lists are that do not stand at `/v1/models`, from the origin. */
const LISTS: Partial<Record<Dialect, string>> = {
  cohere: "/v1/models?page_size=1000",
  github: "/catalog/models",
};
/** Their list names models, but a request has to name a deployment. */
const UNNAMED: ReadonlySet<Dialect> = new Set(["azure"]);

/** What of an upstream is needed to ask it for its models. */
export interface ListingUpstream {
  readonly config: ProviderConfig;
  /** `/groq`; null for the default provider where it has no name. */
  readonly prefix: string | null;
  readonly base: Base;
  readonly pool: Pick<KeyPool, "keys">;
  readonly connections: UpstreamConnections;
}

/** What is known of a provider's list. */
interface KnownList {
  /** By name. */
  models: ReadonlyMap<string, JsonObject>;
  /** By `clock.now()`. */
  goodUntil: number;
  asking: Promise<void> | null;
}

export class ModelLists {
  readonly #clock: Clock;
  /** By the provider's name and address. */
  readonly #lists = new Map<string, KnownList>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Forgets the lists of providers that are not there any more. */
  follow(upstreams: readonly ListingUpstream[]): void {
    const ids = new Set(upstreams.map(idOf));
    for (const id of this.#lists.keys()) if (!ids.has(id)) this.#lists.delete(id);
  }

  /** Every provider's models, those of the default provider first; named providers' as `groq/…`. */
  async all(upstreams: readonly ListingUpstream[]): Promise<ListedModel[]> {
    const asked = upstreams.filter(({ config }) => !config.disabled && !UNNAMED.has(config.dialect));
    const lists = await Promise.all(asked.map((upstream) => this.#listOf(upstream)));
    const all = new Map<string, JsonObject>();
    for (const [index, models] of lists.entries()) {
      const prefix = asked[index]?.prefix ?? null;
      for (const [name, entry] of models) {
        const full = prefix === null ? name : `${prefix.slice(1)}/${name}`;
        if (!all.has(full)) all.set(full, entry);
      }
    }
    return [...all].map(([name, entry]) => ({ name, entry }));
  }

  /**
   * The provider that such a name begins with, and its model; null: none. A name that only the default provider is
   * known to have is its own, even if it begins so.
   */
  targetOf<Upstream extends ListingUpstream>(
    model: string,
    upstreams: readonly Upstream[],
  ): { upstream: Upstream; model: string } | null {
    const name = unescaped(model);
    const slash = name.indexOf("/");
    if (slash <= 0 || slash === name.length - 1) return null;
    const prefix = `/${name.slice(0, slash).toLowerCase()}`;
    const upstream = upstreams.find((each) => each.prefix === prefix);
    if (upstream === undefined || upstream.config.disabled) return null;
    const own = name.slice(slash + 1);
    const [first] = upstreams;
    const isOthers =
      first !== undefined && first !== upstream && this.#knows(first, name) && !this.#knows(upstream, own);
    return isOthers ? null : { upstream, model: own };
  }

  /**
   * The answer to a request for the list of models, in the words of the client's API: names of `ROUTES` first, then
   * what `mayUse` leaves of all others. Also to a request for one model, where the default provider does not know it.
   * Null: it asks for something else.
   */
  async answer(
    { method, target, api }: ListRequest,
    named: Config["routes"],
    upstreams: readonly ListingUpstream[],
    mayUse: (model: string) => boolean,
  ): Promise<Response | null> {
    const [, isCompatible, wanted] = ASKS.exec(target.path) ?? [];
    if (method !== "GET" || !ASKS.test(target.path)) return null;
    const isGoogle = api === "google" || /^\/v1(?:alpha|beta)\//.test(target.path);
    const words = isCompatible === undefined && isGoogle ? "google" : api === "google" ? "openai" : api;
    const routes = named.flatMap(({ name, isPattern }) => (isPattern ? [] : [name])).filter(mayUse);
    const one = wanted === undefined ? null : unescaped(wanted);
    if (one !== null && !routes.includes(one) && this.targetOf(one, upstreams) === null) return null;
    const listed = (await this.all(upstreams.filter((upstream) => speaks(words, upstream)))).filter(
      ({ name }) => mayUse(name) && !routes.includes(name),
    );
    const all = [...routes.map((name) => ({ name, entry: null })), ...listed];
    if (one === null) return Response.json(modelList(all, words), { headers: NOT_KEPT });
    const found = all.find(({ name }) => name === one);
    return found === undefined ? null : Response.json(modelEntry(found, words), { headers: NOT_KEPT });
  }

  #knows(upstream: ListingUpstream, name: string): boolean {
    return this.#lists.get(idOf(upstream))?.models.has(name) ?? false;
  }

  async #listOf(upstream: ListingUpstream): Promise<ReadonlyMap<string, JsonObject>> {
    const list = this.#lists.get(idOf(upstream)) ?? { models: new Map(), goodUntil: -Infinity, asking: null };
    this.#lists.set(idOf(upstream), list);
    if (list.goodUntil > this.#clock.now()) return list.models;
    list.asking ??= this.#ask(upstream, list).finally(() => (list.asking = null));
    await this.#within(WAIT_MS, list.asking);
    return list.models;
  }

  async #ask(upstream: ListingUpstream, list: KnownList): Promise<void> {
    const models = await this.#askForList(upstream);
    if (models !== null) list.models = models;
    list.goodUntil = this.#clock.now() + (models === null ? AGAIN_MS : FRESH_MS);
  }

  /** Null: the provider did not answer with a list. */
  async #askForList(upstream: ListingUpstream): Promise<Map<string, JsonObject> | null> {
    const aborter = new AbortController();
    const cancel = this.#clock.after(LONGEST_MS, () => aborter.abort());
    try {
      for (const key of upstream.pool.keys.filter(isInUse).slice(0, MOST_KEYS)) {
        const response = await ask(upstream, key, aborter.signal);
        const reader = readerOf(response);
        const read = reader === null ? null : await readUpTo(reader, LONGEST_LIST_BYTES);
        void reader?.cancel().catch(() => {}); // closed already, mostly
        const mayBeTheKey = [401, 402, 403, 429].includes(response.status);
        if (mayBeTheKey) continue;
        return response.status === 200 && read?.isWhole === true ? modelsOf(textOf(read.bytes)) : null;
      }
      return null;
    } catch {
      return null; // not reached, cut short, or too late
    } finally {
      cancel();
    }
  }

  async #within(waitMs: number, done: Promise<void>): Promise<void> {
    const { promise, resolve } = deferred<void>();
    const cancel = this.#clock.after(waitMs, resolve);
    await Promise.race([done, promise]);
    cancel();
  }
}

function idOf({ config }: ListingUpstream): string {
  return `${config.name} ${config.baseUrl.href}`;
}

function ask(upstream: ListingUpstream, key: Key, signal: AbortSignal): Promise<UpstreamResponse> {
  const { config, base, connections } = upstream;
  const isAnthropic = config.dialect === "anthropic";
  const own = LISTS[config.dialect];
  const path = own ?? joinBase(base, "/v1/models", isAnthropic ? "anthropic" : "openai");
  const headers = new Headers({ accept: "application/json" });
  if (isAnthropic) headers.set("anthropic-version", "2023-06-01");
  headers.set(...authHeader(config.dialect, path, key.secret.reveal()));
  const query = isAnthropic ? "?limit=1000" : "";
  const request = {
    method: "GET",
    headers,
    redirect: "manual", // a followed redirect would carry the key elsewhere
    proxy: config.upstreamProxy?.address.reveal(),
    signal,
  } as const;
  return connections.send(base.origin + path + query, request, false);
}

/** The models that a list names, in its order; null: it is none. */
export function modelsOf(text: string): Map<string, JsonObject> | null {
  const page = parseJson(text);
  const listed = Array.isArray(page)
    ? page
    : isObject(page)
      ? (field(page, "data") ?? field(page, "models"))
      : null;
  if (!Array.isArray(listed)) return null;
  const models = new Map<string, JsonObject>();
  for (const entry of listed.slice(0, MOST_LISTED_MODELS)) {
    if (!isObject(entry)) continue;
    const written = field(entry, "id") ?? field(entry, "name");
    if (typeof written !== "string") continue;
    const name = written.replace(/^models\//, ""); // Gemini's
    if (name !== "" && name.length <= LONGEST_NAME && !/\p{Cc}/u.test(name)) models.set(name, entry);
  }
  return models;
}

// ── The answer ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** A request for the list, or for one model. */
const ASKS = /^(?:\/v1(?:alpha|beta)?)?(\/openai)?\/models(?:\/([^/:]+))?$/;

/** What the answer depends on. */
export interface ListRequest {
  readonly method: string;
  readonly target: { readonly path: string };
  readonly api: ClientApi;
}

const NOT_KEPT = { "cache-control": "no-store" };

/** Which providers a client of this API can use at all: requests in Gemini's own words go nowhere else. */
function speaks(api: ClientApi, { config, base }: ListingUpstream): boolean {
  return api !== "google" || base.google !== null || GOOGLES.has(config.dialect);
}

const GOOGLES: ReadonlySet<Dialect> = new Set(["gemini", "vertex", "generic"]);
