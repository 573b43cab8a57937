/**
 * Whether a provider announces limits in its answers at all: looking for what never comes would cost every request.
 */
import { readBudgets } from "./budget.ts";
import type { Budgets } from "./budget.ts";
import type { Clock } from "./clock.ts";
import type { Dialect } from "./verdict.ts";

/** A provider that announced nothing so many times in a row is only asked now and then. */
const SILENT_AFTER = 8;
const LOOK_EVERY = 32;

/** The announcements of one provider. */
export class Bulletin {
  #silent = 0;

  /** What an answer announces; null: nothing, or nobody looked. Refusals are always looked at. */
  read(dialect: Dialect, { status, headers }: Response, clock: Clock): Budgets | null {
    const isWorthIt = this.#silent < SILENT_AFTER || this.#silent % LOOK_EVERY === 0 || status >= 400;
    const budgets = isWorthIt ? readBudgets(dialect, headers, clock.now()) : null;
    this.#silent = budgets === null ? this.#silent + 1 : 0;
    return budgets;
  }
}
