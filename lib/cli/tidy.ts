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

/** How often it is looked whether all is quiet. */
const LOOK_MS = 1000;
/** Fewer requests leave nothing behind that is worth it. */
const MANY_REQUESTS = 200;
/**
 * So many looks in a row at which all was quiet, before each collection and before compiled code is dropped. After a short
 * pause all of it is wanted again. The first collection lets go of what the second one gives back.
 */
const COLLECT_AT: readonly number[] = [5, 6];
const DROP_AT = 7;

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
  let quietLooks = 0;
  let hasGarbage = false;
  let hasCode = true;
  let cancel: CancelTimer = () => {};
  const look = () => {
    const { arrivals, inFlight, clock } = engine;
    const isQuiet = inFlight === 0 && arrivals === seen;
    seen = arrivals;
    quietLooks = isQuiet ? quietLooks + 1 : 0;
    if (arrivals - tidiedAt >= MANY_REQUESTS) {
      hasGarbage = true;
      hasCode = true;
      tidiedAt = arrivals;
    }
    if (hasGarbage && COLLECT_AT.includes(quietLooks)) tidying.collect();
    if (hasCode && quietLooks === DROP_AT) {
      tidying.dropCode();
      hasGarbage = false;
      hasCode = false;
    }
    cancel = clock.after(LOOK_MS, look);
  };
  cancel = engine.clock.after(LOOK_MS, look);
  return () => cancel();
}
