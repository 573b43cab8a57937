/**
 * Whose a thing is: which account of a provider made it (P35).
 *
 * A provider has two shelves, each bounded, the longest unused forgotten first: things that last (files, batches,
 * threads), and turns of conversations, of which a busy pool makes so many that they would crowd out the others. What
 * is forgotten is asked around for again, so nothing breaks; that nobody had an id is remembered for a minute, so that
 * asking for it again and again does not ask everybody each time.
 */
import { textOf } from "../http/body.ts";
import {
  StreamIds,
  uploadIdIn,
  asksToKeep,
  prefersMainAccount,
  collectionOf,
  encryptedIdsIn,
  idEndedBy,
  idsAddressed,
  idsIn,
  mayNameThing,
  idsProvenBy,
  isStateful,
  learnIds,
  saysCannotRead,
  saysMissing,
} from "./resources.ts";

/** What is remembered of one id, as it is stored. */
export interface OwnedId {
  readonly provider: string;
  readonly id: string;
  /** What the account is called: its label, or the id of its only key. */
  readonly account: string;
  /** When it was learnt: a date, because it is stored. */
  readonly at: number;
}

/** What has to outlive the program is told here. The store fits. */
export interface OwnerKeeper {
  saveResource(owned: OwnedId): void;
  dropResource(provider: string, id: string): void;
}

/** Ids of a provider that are remembered at most, half of them turns. Full, they take about 5 MB. */
const MOST_IDS = 20_000;
/** How long nobody is asked for an id that nobody had, and how many such ids are remembered. */
const MISSING_MS = 60_000;
const MOST_MISSING = 1000;

/**
 * Who can read an encrypted text: the account that made it, or any. `trying`: a request is under way with another
 * account, to find out.
 */
export type EncryptionScope = "unknown" | "trying" | "account" | "any";

type Owned = Pick<OwnedId, "account" | "at">;
/** By id. The order is that of use, the longest unused first. */
type Shelf = Map<string, Owned>;

interface Shelves {
  readonly lasting: Shelf;
  readonly turns: Shelf;
  /** By account: how many lasting things it has. */
  readonly holdings: Map<string, number>;
}

export class ResourceOwners {
  readonly #keeper: OwnerKeeper | null;
  readonly #shelfSize: number;
  readonly #providers = new Map<string, Shelves>();
  /** By `provider/id`: until when nobody is asked (epoch ms). */
  readonly #missingUntil = new Map<string, number>();
  /** By provider: whether another account than the one that made an encrypted text can read it. */
  readonly #encryption = new Map<string, EncryptionScope>();

  /** `keeper` null: nothing outlives the program. */
  constructor(keeper: OwnerKeeper | null = null, mostIds = MOST_IDS) {
    this.#keeper = keeper;
    this.#shelfSize = Math.ceil(mostIds / 2);
  }

  /** How many ids of a provider are known. Where none is, a request need not be searched for any. */
  count(provider: string): number {
    const shelves = this.#providers.get(provider);
    return shelves === undefined ? 0 : shelves.lasting.size + shelves.turns.size;
  }

  /** Who can read the encrypted texts of this provider, as far as is known. */
  encryptionScope(provider: string): EncryptionScope {
    return this.#encryption.get(provider) ?? "unknown";
  }

  setEncryptionScope(provider: string, scope: EncryptionScope): void {
    this.#encryption.set(provider, scope);
  }

  /** The account that has it; null: not known. Counts as a use. */
  owner(provider: string, id: string): string | null {
    const shelf = this.#shelfOf(provider, id);
    const owned = shelf?.get(id);
    if (shelf === undefined || owned === undefined) return null;
    shelf.delete(id);
    shelf.set(id, owned);
    return owned.account;
  }

  /**
   * The account that a request with these ids has to go to; null: any. Where they are of several accounts no account
   * can serve it, and the first decides: it stands in the path, or is what the others are only used with. An account
   * that is not in the pool any more (`isThere`) decides nothing.
   */
  accountOf(provider: string, ids: readonly string[], isThere: (account: string) => boolean): string | null {
    for (const id of ids) {
      const account = this.owner(provider, id);
      if (account !== null && isThere(account)) return account;
    }
    return null;
  }

  /** Those of these ids for which it is worth asking around: nobody is known to have them, nor that nobody has. */
  unknown(provider: string, ids: readonly string[], now: number): string[] {
    return ids.filter((id) => {
      if (this.#shelfOf(provider, id)?.has(id)) return false;
      return (this.#missingUntil.get(`${provider}/${id}`) ?? 0) <= now;
    });
  }

  /** An answer of this account told of these ids. */
  learn(provider: string, account: string, ids: readonly string[], date: number): void {
    for (const id of ids) {
      this.#missingUntil.delete(`${provider}/${id}`);
      if (this.owner(provider, id) === account) continue;
      this.#put(provider, id, { account, at: date });
      this.#keeper?.saveResource({ provider, id, account, at: date });
    }
  }

  /** It is no more, or the account that was thought to have it says that it has not. */
  forget(provider: string, id: string): void {
    if (this.#take(provider, id)) this.#keeper?.dropResource(provider, id);
  }

  /** All accounts were asked for these, and none had them. */
  rememberMissing(provider: string, ids: readonly string[], now: number): void {
    for (const id of ids) {
      const [oldest] = this.#missingUntil.keys();
      if (this.#missingUntil.size >= MOST_MISSING && oldest !== undefined) this.#missingUntil.delete(oldest);
      this.#missingUntil.set(`${provider}/${id}`, now + MISSING_MS);
    }
  }

  /**
   * Where things are made that will be used together, and where lists come from: of these accounts the one that has
   * most of what lasts, and the first where none has more. Null: there are none.
   */
  mainAccount(provider: string, accounts: readonly string[]): string | null {
    const holdings = this.#providers.get(provider)?.holdings;
    const holds = (account: string) => holdings?.get(account) ?? 0;
    const [first = null, ...others] = accounts;
    return others.reduce((best, next) => (best !== null && holds(next) > holds(best) ? next : best), first);
  }

  /** All that is remembered; of each provider the longest unused first. */
  *entries(): Generator<OwnedId> {
    for (const [provider, { lasting, turns }] of this.#providers) {
      for (const [id, owned] of lasting) yield { provider, id, ...owned };
      for (const [id, owned] of turns) yield { provider, id, ...owned };
    }
  }

  /** Takes over what was stored in an earlier run, in any order. */
  restore(stored: readonly OwnedId[]): void {
    for (const { provider, id, account, at } of stored.toSorted((one, other) => one.at - other.at)) {
      this.#put(provider, id, { account, at });
    }
  }

  #put(provider: string, id: string, owned: Owned): void {
    this.#take(provider, id);
    const shelves = this.#providers.get(provider) ?? {
      lasting: new Map(),
      turns: new Map(),
      holdings: new Map(),
    };
    this.#providers.set(provider, shelves);
    const shelf = isOfTurn(id) ? shelves.turns : shelves.lasting;
    shelf.set(id, owned);
    if (shelf === shelves.lasting) count(shelves, owned, 1);
    const [oldest] = shelf.keys();
    if (shelf.size > this.#shelfSize && oldest !== undefined) this.forget(provider, oldest);
  }

  #take(provider: string, id: string): boolean {
    const shelves = this.#providers.get(provider);
    const owned = shelves?.lasting.get(id);
    if (shelves !== undefined && owned !== undefined) count(shelves, owned, -1);
    return this.#shelfOf(provider, id)?.delete(id) ?? false;
  }

  #shelfOf(provider: string, id: string): Shelf | undefined {
    const shelves = this.#providers.get(provider);
    return isOfTurn(id) ? shelves?.turns : shelves?.lasting;
  }
}

function count({ holdings }: Shelves, { account }: Owned, change: 1 | -1): void {
  holdings.set(account, (holdings.get(account) ?? 0) + change);
}

/** Made by the hundred with every conversation: responses and their items, marks of pages and of encrypted texts. */
export function isOfTurn(id: string): boolean {
  return id.length >= 80 || OF_TURN.test(id);
}

const OF_TURN =
  /^(?:(?:chatcmpl|ci|cmp|ctc|cu|fc|fs|gen|ig|lsh|mcp|mcpl|mcpr|msg|resp|rs|run|step|v1|ws)[_-]|gAAAA)/;

// ── What one request has to do with them ────────────────────────────────────────────────────────────────────────

/** A request, as far as it may refer to things. */
export interface Referring {
  readonly path: string;
  /** Empty, or begins with `?`. */
  readonly query: string;
  readonly method: string;
  readonly body: Uint8Array | null;
}

/** Whether a request refers to something that an account of this provider is known to have. */
export function refersToKnownResource(
  { path, query, method, body }: Referring,
  provider: string,
  accounts: () => readonly string[],
  owners: ResourceOwners,
): boolean {
  if (owners.count(provider) === 0) return false;
  const names = accounts();
  return (
    owners.accountOf(provider, idsIn(path, query, method, body), (name) => names.includes(name)) !== null
  );
}

/**
 * What a request has to do with things of the accounts of a provider; null: nothing. Runs for every request. `least`:
 * how many accounts there must be for it to matter, or, where other providers stand beside this one, 1.
 */
export function bindingOf(
  request: Referring,
  provider: string,
  accounts: () => readonly string[],
  owners: ResourceOwners,
  least: 1 | 2 = 2,
): ResourceBinding | null {
  const { path, body } = request;
  const mayRefer = owners.count(provider) > 0 || collectionOf(path) !== null || mayNameThing(path, body);
  if (!mayRefer && !asksToKeep(path, body)) return null;
  const names = accounts();
  return names.length < least ? null : new ResourceBinding(request, provider, names, owners);
}

const NO_IDS: ReadonlySet<string> = new Set();

export class ResourceBinding {
  /** The account that made what it refers to; null: not known, or nothing. */
  readonly owner: string | null;
  /** The account that it has to go to; null: any. */
  readonly boundTo: string | null;
  /** Where it is better sent, if that can be had now; null: anywhere. */
  readonly preferredAccount: string | null;
  /** All that binds it are encrypted texts, which another account may be able to read. */
  readonly #isOnlyEncrypted: boolean;
  /** Its answer tells of things: it has to be readable. */
  readonly teaches: boolean;
  readonly #request: Omit<Referring, "body">;
  readonly #provider: string;
  readonly #owners: ResourceOwners;
  readonly #ids: readonly string[];
  #isTrial = false;

  constructor(request: Referring, provider: string, accounts: readonly string[], owners: ResourceOwners) {
    const { path, query, method, body } = request;
    this.#request = { path, query, method }; // the body is let go as soon as it is sent
    this.#provider = provider;
    this.#owners = owners;
    this.#ids = idsIn(path, query, method, body);
    const isThere = (account: string) => accounts.includes(account);
    this.owner = owners.accountOf(provider, this.#ids, isThere);
    const encrypted = this.owner === null ? NO_IDS : encryptedIdsIn(body);
    const others = encrypted.size === 0 ? this.#ids : this.#ids.filter((id) => !encrypted.has(id));
    const bound = encrypted.size === 0 ? this.owner : owners.accountOf(provider, others, isThere);
    this.#isOnlyEncrypted = this.owner !== null && bound === null;
    const scope = this.#isOnlyEncrypted ? owners.encryptionScope(provider) : "any";
    this.boundTo = scope === "account" || scope === "trying" ? this.owner : bound;
    const prefersOne = this.owner === null && prefersMainAccount(path, method, body);
    this.preferredAccount = prefersOne ? owners.mainAccount(provider, accounts) : this.owner;
    this.teaches = isStateful(path, method) || asksToKeep(path, body);
  }

  /**
   * It is sent to this account. Where that did not make the encrypted texts of the request, and nobody knows whether it
   * can read them, this one finds out: until its answer is here, other requests wait for the account that made theirs.
   */
  attemptStarted(account: string): void {
    if (!this.#isForeign(account) || this.#owners.encryptionScope(this.#provider) !== "unknown") return;
    this.#isTrial = true;
    this.#owners.setEncryptionScope(this.#provider, "trying");
  }

  /** What the attempt came to: `cannot_read` where this account cannot read them, so that only their own one can. */
  attemptEnded(account: string, status: number, body: Uint8Array | null): "cannot_read" | null {
    const wasTrial = this.#isTrial;
    this.#isTrial = false;
    if (!this.#isForeign(account)) return null;
    const isServed = status >= 200 && status < 300;
    const cannotRead = body !== null && !isServed && saysCannotRead(status, textOf(body));
    if (cannotRead) this.#owners.setEncryptionScope(this.#provider, "account");
    else if (wasTrial) this.#owners.setEncryptionScope(this.#provider, isServed ? "any" : "unknown");
    return cannotRead ? "cannot_read" : null;
  }

  #isForeign(account: string): boolean {
    return this.#isOnlyEncrypted && account !== this.owner;
  }

  /** Whether an answer says that what is referred to is not with this account, and it is worth asking the others. */
  saysMissing(status: number, body: Uint8Array | null, now: number): boolean {
    if (status !== 400 && status !== 403 && status !== 404) return false;
    const { path, query } = this.#request;
    const unknown = this.#owners.unknown(this.#provider, this.#ids, now);
    return saysMissing({ status, body: body === null ? "" : textOf(body) }, path, query, unknown);
  }

  /** All accounts were asked, and none had it: for a while that is not repeated. */
  rememberMissing(now: number): void {
    const unknown = this.#owners.unknown(this.#provider, this.#ids, now);
    this.#owners.rememberMissing(this.#provider, unknown, now);
  }

  /** An answer of `account` goes out. `body`: all of it, or what has come so far; null: nothing that can be read. */
  learn(
    account: string,
    { status, headers }: Pick<Response, "status" | "headers">,
    body: Uint8Array | null,
    now: number,
  ): void {
    const { path, query, method } = this.#request;
    if (status === 404 && account === this.boundTo) {
      for (const id of idsAddressed(path, query)) this.#owners.forget(this.#provider, id);
    }
    if (status < 200 || status >= 300) return;
    const told = this.teaches && body !== null ? learnIds(path, method, body) : [];
    const opened = this.teaches ? uploadIdIn(headers) : null;
    if (opened !== null) told.push(opened);
    this.#owners.learn(this.#provider, account, [...idsProvenBy(path, this.#ids), ...told], now);
    const ended = idEndedBy(path, method);
    if (ended !== null) this.#owners.forget(this.#provider, ended);
  }

  /** Looks into the chunks of a stream of `account` as they pass; null: there is nothing to look for. */
  listener(account: string): ((chunk: Uint8Array, now: number) => void) | null {
    if (!this.teaches) return null;
    const ids = new StreamIds(this.#request.path);
    return (chunk, now) => {
      if (!ids.isDone) this.#owners.learn(this.#provider, account, ids.push(chunk), now);
    };
  }
}
