/**
 * When an answer is looked at for what it announces of limits: looking for what never comes, or for what is far away,
 * would cost every request.
 */
import { announcesPlenty, readBudgets } from "./rate-limit-headers.ts";
import type { Budgets } from "./rate-limit-headers.ts";
import type { Clock } from "../core/clock.ts";
import type { Dialect } from "./verdict.ts";

/** A provider that announced nothing so many times in a row is only asked now and then. */
const SILENT_AFTER = 8;
const LOOK_EVERY = 32;

/** What of a provider's settings tells how its answers are read. */
interface Listener {
  readonly dialect: Dialect;
  readonly rpm: number | "auto" | "off";
}

/** The announcements of one provider. */
export class HeaderSampler {
  #silent = 0;
  #seen = 0;

  /**
   * What an answer announces; null: nothing, nothing that is near, or nobody looked. Refusals are always looked at;
   * good answers where limits are learnt or kept at all.
   */
  read({ dialect, rpm }: Listener, { status, headers }: Response, clock: Clock): Budgets | null {
    if (status < 400) {
      if (rpm === "off") return null;
      this.#seen += 1;
      const isTurn = this.#seen % LOOK_EVERY === 0;
      if (!isTurn && (this.#silent >= SILENT_AFTER || announcesPlenty(dialect, headers))) return null;
    }
    const budgets = readBudgets(dialect, headers, clock.now());
    // Some announce on good answers only: that a refusal tells of none is no silence.
    if (budgets !== null) this.#silent = 0;
    else if (status < 400) this.#silent += 1;
    return budgets;
  }
}
