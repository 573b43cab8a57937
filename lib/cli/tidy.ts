/**
 * Gives memory back when the work is done. The runtime's collector comes by when more is wanted, and not when all is
 * quiet: what a thousand streams have left would stay for minutes. A collection takes some 20 ms, so it is done when
 * nobody is there to wait for it.
 */
import type { CancelTimer, Clock } from "../core/clock.ts";

export interface Tidied {
  /** Requests under way. */
  readonly inFlight: number;
  /** How many requests have come. */
  readonly arrivals: number;
  readonly clock: Clock;
}

/** Without a request for at least so long, and for less than twice as long. */
const QUIET_MS = 1500;
/** Fewer requests leave nothing behind that is worth it. */
const MANY_REQUESTS = 200;
/** The first collection lets go of what the second one gives back. */
const ROUNDS = 2;
/**
 * So many looks in a row at which all was quiet, before compiled code is dropped: after a short pause it is wanted
 * again.
 */
const LOOKS_BEFORE_DROP = 4;

/** What gives memory back. */
export interface Tidying {
  collect(): void;
  /** The code that was compiled for requests; what is called again is compiled again. */
  dropCode(): void;
}

/**
 * Has memory given back after the start, and when many requests have come and gone and it is quiet. Returns what ends
 * that.
 */
export function tidyWhenQuiet(engine: Tidied, tidying: Tidying): CancelTimer {
  let seen = 0;
  let tidiedAt = 0;
  let roundsLeft = 0;
  let quietLooks = 0;
  let hasCode = true;
  let cancel: CancelTimer = () => {};
  const look = () => {
    const { arrivals, inFlight, clock } = engine;
    const isQuiet = inFlight === 0 && arrivals === seen;
    seen = arrivals;
    quietLooks = isQuiet ? quietLooks + 1 : 0;
    if (isQuiet && arrivals - tidiedAt >= MANY_REQUESTS) {
      roundsLeft = ROUNDS;
      hasCode = true;
      tidiedAt = arrivals;
    }
    if (isQuiet && roundsLeft > 0) {
      roundsLeft -= 1;
      tidying.collect();
    } else if (hasCode && quietLooks >= LOOKS_BEFORE_DROP) {
      hasCode = false;
      tidying.dropCode();
    }
    cancel = clock.after(QUIET_MS, look);
  };
  cancel = engine.clock.after(QUIET_MS, look);
  return () => cancel();
}
