/**
 * What one request has to do with things of an account (P35): to which account it has to go, where to ask when nobody
 * knows, and what its answer tells of whose things are. Only where a provider has several accounts.
 */
import { textOf } from "../http/body.ts";
import type { ResourceOwners } from "./resource-owners.ts";
import { idsIn, idsProvenBy, saysNotHere } from "./references.ts";
import {
  asksToKeep,
  belongsHome,
  collectionOf,
  idEndedBy,
  idsAddressed,
  isStateful,
  learnIds,
  StreamIds,
} from "./resources.ts";

/** A request, as far as it may refer to things. */
export interface Referring {
  readonly path: string;
  /** Empty, or begins with `?`. */
  readonly query: string;
  readonly method: string;
  readonly body: Uint8Array | null;
}

/** Whether a request refers to something that an account of this provider is known to have. */
export function refersTo(
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
  const mayRefer = owners.count(provider) > 0 || collectionOf(path) !== null;
  if (!mayRefer && !asksToKeep(path, body)) return null;
  const names = accounts();
  return names.length < least ? null : new ResourceBinding(request, provider, names, owners);
}

export class ResourceBinding {
  /** The account that it has to go to; null: any. */
  readonly boundTo: string | null;
  /** Where it is better sent, if that can be had now; null: anywhere. */
  readonly home: string | null;
  /** Its answer tells of things: it has to be readable. */
  readonly teaches: boolean;
  readonly #request: Omit<Referring, "body">;
  readonly #provider: string;
  readonly #owners: ResourceOwners;
  readonly #ids: readonly string[];

  constructor(request: Referring, provider: string, accounts: readonly string[], owners: ResourceOwners) {
    const { path, query, method, body } = request;
    this.#request = { path, query, method }; // the body is let go as soon as it is sent
    this.#provider = provider;
    this.#owners = owners;
    this.#ids = idsIn(path, query, method, body);
    this.boundTo = owners.accountOf(provider, this.#ids, (account) => accounts.includes(account));
    const isHomely = this.boundTo === null && belongsHome(path, method, body);
    this.home = isHomely ? owners.home(provider, accounts) : null;
    this.teaches = isStateful(path, method) || asksToKeep(path, body);
  }

  /** Whether an answer says that what is referred to is not with this account, and it is worth asking the others. */
  isNotHere(status: number, body: Uint8Array | null, now: number): boolean {
    if (status !== 400 && status !== 403 && status !== 404) return false;
    const { path, query } = this.#request;
    const unknown = this.#owners.unknown(this.#provider, this.#ids, now);
    return saysNotHere({ status, body: body === null ? "" : textOf(body) }, path, query, unknown);
  }

  /** All accounts were asked, and none had it: for a while that is not repeated. */
  isNowhere(now: number): void {
    const unknown = this.#owners.unknown(this.#provider, this.#ids, now);
    this.#owners.nobodyHas(this.#provider, unknown, now);
  }

  /** An answer of `account` goes out. `body`: all of it, or what has come so far; null: nothing that can be read. */
  learn(account: string, status: number, body: Uint8Array | null, now: number): void {
    const { path, query, method } = this.#request;
    if (status === 404 && account === this.boundTo) {
      for (const id of idsAddressed(path, query)) this.#owners.forget(this.#provider, id);
    }
    if (status < 200 || status >= 300) return;
    const told = this.teaches && body !== null ? learnIds(path, method, body) : [];
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
