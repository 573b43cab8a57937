/**
 * What to do about a setback: the whole retry policy, as one pure function; and how many retries an upstream's own
 * faults may have.
 */
import { SECOND_MS } from "../core/clock.ts";
import type { Setback } from "../providers/verdict.ts";

/** What was spent on a request so far. */
export interface Progress {
  attempts: number;
  /** Attempts repeated although the provider may have done, and billed, the work. */
  maybeBilledReplays: number;
  /** Failures of this upstream so far: the exponent of the backoff. */
  upstreamFaults: number;
}

export interface Policy {
  maxAttempts: number;
  /** Epoch ms: no wait goes beyond it. */
  waitUntil: number;
  /** Another target stands behind this one. */
  hasFallback: boolean;
  /** The retry budget has room for a retry of this upstream's faults (P7). */
  mayRetry: boolean;
}

export type Decision =
  /** Another key at once; one that was tried already not before `reuseAt` (epoch ms). */
  | { do: "rotate"; reuseAt: number }
  /** The same upstream again, after this long. */
  | { do: "back_off"; pauseMs: number; replaysMaybeBilled: boolean }
  /** As for an open breaker, until there is room for a retry or the upstream is back. */
  | { do: "wait" }
  /** The next target at once. */
  | { do: "fall_back"; replaysMaybeBilled: boolean }
  | { do: "give_up" };

const BACKOFF_FIRST_MS = 250;
const BACKOFF_LONGEST_MS = 4000;
/** A failure that may have been billed is repeated this often for one request. */
const MAYBE_BILLED_REPLAYS = 1;
/** Where another target stands behind, an upstream that failed this often is taken to be down. */
const FAULTS_BEFORE_FALLBACK = 2;

/** What to do about a setback. `jitter` is a random number from 0 up to 1, `now` epoch ms. */
export function decide(
  setback: Setback,
  progress: Progress,
  policy: Policy,
  now: number,
  jitter: number,
): Decision {
  const { hasFallback } = policy;
  const isSpent = progress.attempts >= policy.maxAttempts;
  switch (setback.kind) {
    case "abandoned": // nobody is left to answer
      return { do: "give_up" };
    case "no_key": // the pool has waited already, or knows that waiting is in vain
      return hasFallback && !isSpent ? { do: "fall_back", replaysMaybeBilled: false } : { do: "give_up" };
    case "rate_limited":
    case "exhausted":
    case "revoked":
    case "unsuited":
      if (isSpent) return { do: "give_up" };
      return { do: "rotate", reuseAt: now + backoffMs(progress.attempts, jitter) };
    case "overloaded":
    case "unreachable": {
      const replaysMaybeBilled = setback.maybeBilled;
      if (isSpent) return { do: "give_up" };
      if (replaysMaybeBilled && progress.maybeBilledReplays >= MAYBE_BILLED_REPLAYS) return { do: "give_up" };
      // The one replay that may be billed twice goes where it is likelier to be answered: where only the connection
      // was dead, that is here, and at once.
      const isStale = setback.kind === "unreachable" && setback.isStale === true;
      const isDown =
        (replaysMaybeBilled && !isStale) || progress.upstreamFaults + 1 >= FAULTS_BEFORE_FALLBACK;
      if (hasFallback && (isDown || !policy.mayRetry)) return { do: "fall_back", replaysMaybeBilled };
      // What was never sent is not given up: it waits for its turn (P7).
      if (!policy.mayRetry && setback.kind === "unreachable" && !replaysMaybeBilled) return { do: "wait" };
      if (!policy.mayRetry) return { do: "give_up" };
      const hintMs = setback.kind === "overloaded" ? (setback.pauseMs ?? 0) : 0;
      const pauseMs = isStale ? 0 : Math.max(hintMs, backoffMs(progress.upstreamFaults + 1, jitter));
      if (now + pauseMs <= policy.waitUntil) return { do: "back_off", pauseMs, replaysMaybeBilled };
      return hasFallback ? { do: "fall_back", replaysMaybeBilled } : { do: "give_up" };
    }
  }
}

/** Exponential, between half and the whole of its step, so that retries of many requests do not fall together. */
function backoffMs(step: number, jitter: number): number {
  return Math.min(BACKOFF_FIRST_MS * 2 ** (step - 1), BACKOFF_LONGEST_MS) * (0.5 + jitter / 2);
}

// ---- the retry budget

/** Retries that are allowed at once after a time without any. */
const BURST = 3;
/** Requests that pay for one retry: retries are a fifth of them. */
const REQUESTS_PER_RETRY = 5;
/** Retries that requests can have paid for in advance. */
const MOST_SAVED = 10;
/** Without a retry for so long there is room for a burst again. */
const QUIET_MS = 10 * SECOND_MS;

/**
 * How many failures of one upstream may be answered by another attempt (P7): when it is in trouble, retries must not
 * multiply its load. A token bucket, as gRPC's retry throttling (gRFC A6): each request adds a part of a token, each
 * retry takes one.
 */
export class RetryBudget {
  /** In parts of which a retry takes `REQUESTS_PER_RETRY`. */
  #saved = BURST * REQUESTS_PER_RETRY;
  #lastRetryAt = -Infinity;

  /** A request is about to be sent upstream for the first time. */
  countRequest(): void {
    this.#saved = Math.min(this.#saved + 1, MOST_SAVED * REQUESTS_PER_RETRY);
  }

  /** When another retry is allowed; in the past where it is now. Requests may bring it nearer. */
  get readyAt(): number {
    return this.#saved >= REQUESTS_PER_RETRY ? 0 : this.#lastRetryAt + QUIET_MS;
  }

  /** A retry is about to be made. */
  spend(now: number): void {
    if (now >= this.#lastRetryAt + QUIET_MS) this.#saved = Math.max(this.#saved, BURST * REQUESTS_PER_RETRY);
    this.#saved = Math.max(0, this.#saved - REQUESTS_PER_RETRY);
    this.#lastRetryAt = now;
  }
}
