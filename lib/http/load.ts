/**
 * What all requests together take up at this moment, and how much of it each client does: one client must not keep all
 * others out (P43). Bytes count when they have come, not when they are announced. Of bodies that are read in one go
 * they count when all have come: `expectedBytes` bounds these.
 */

export interface LoadLimits {
  /** Of one request. */
  readonly maxBodyBytes: number;
  /** Of all together. */
  readonly maxInFlight: number;
  readonly maxBufferedBytes: number;
}

/** So much of each limit a client leaves free that has the proxy for itself: somebody else may come. */
const ROOM_FOR_OTHERS = 1 / 8;
/** So much of what may be buffered may be on its way in bodies that are read in one go. */
const ROOM_TO_EXPECT = 1 / 8;
/** So many clients are remembered before those without a request are forgotten. */
const FEW_CLIENTS = 1000;

/** What all requests take up. */
export class Load {
  /** Requests that were let in and have no end yet. */
  inFlight = 0;
  /** Bytes in memory: of their bodies, of copies of these, and of answers that a client has not taken. */
  bufferedBytes = 0;
  /** Announced by bodies that are being read in one go. */
  expectedBytes = 0;
  readonly #shares = new Map<string, ClientShare>();
  #tidyAt = FEW_CLIENTS;

  /** What this client takes up of it. */
  shareOf(client: string): ClientShare {
    const known = this.#shares.get(client);
    if (known !== undefined) return known;
    if (this.#shares.size >= this.#tidyAt) this.#forgetIdle();
    const share = new ClientShare(this);
    this.#shares.set(client, share);
    return share;
  }

  #forgetIdle(): void {
    for (const [client, share] of this.#shares) if (share.inFlight === 0) this.#shares.delete(client);
    this.#tidyAt = Math.max(FEW_CLIENTS, 2 * this.#shares.size); // else each newcomer would look at all
  }
}

/** What one client takes up: at most half of each limit while others take up some of it. */
export class ClientShare {
  inFlight = 0;
  bufferedBytes = 0;
  readonly #load: Load;

  constructor(load: Load) {
    this.#load = load;
  }

  /** A request has come. It counts until `leave`, let in or not. Returns whether there is room for it. */
  enter({ maxInFlight }: LoadLimits): boolean {
    const load = this.#load;
    load.inFlight += 1;
    this.inFlight += 1;
    if (load.inFlight > maxInFlight) return false;
    const isAlone = load.inFlight === this.inFlight;
    return this.inFlight <= mostOf(maxInFlight, isAlone);
  }

  /** A request is over. */
  leave(): void {
    this.#load.inFlight -= 1;
    this.inFlight -= 1;
  }

  /** How many bytes more it may have buffered. One body as long as one may be is let in while it has nothing else. */
  room({ maxBufferedBytes, maxBodyBytes }: LoadLimits): number {
    const load = this.#load;
    const isAlone = load.bufferedBytes === this.bufferedBytes;
    const most = Math.max(maxBodyBytes, mostOf(maxBufferedBytes, isAlone, maxBodyBytes));
    return Math.min(most - this.bufferedBytes, maxBufferedBytes - load.bufferedBytes);
  }

  /**
   * Whether a body of this length may be read in one go. If so, `arrived` has to be called when it has come, or broke
   * off.
   */
  mayExpect(bytes: number, { maxBufferedBytes }: LoadLimits): boolean {
    const load = this.#load;
    if (load.expectedBytes + bytes > maxBufferedBytes * ROOM_TO_EXPECT) return false;
    load.expectedBytes += bytes;
    return true;
  }

  arrived(bytes: number): void {
    this.#load.expectedBytes -= bytes;
  }

  /** Counts bytes that are there. Whoever lets go of them gives them back, once. */
  hold(bytes: number): void {
    this.#load.bufferedBytes += bytes;
    this.bufferedBytes += bytes;
  }

  release(bytes: number): void {
    this.hold(-bytes);
  }
}

/** How much of a limit one client may take up. `unit`: what somebody else needs at least. */
function mostOf(limit: number, isAlone: boolean, unit = 0): number {
  const half = Math.ceil(limit / 2);
  if (!isAlone) return half;
  return Math.max(half, limit - Math.max(Math.floor(limit * ROOM_FOR_OTHERS), unit));
}
