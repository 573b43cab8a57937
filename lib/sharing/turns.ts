/**
 * Turns of instances near a limit that nobody knows exactly: what one of them sends becomes known to the others a
 * moment later, so two at once would be refused for what the other has sent. Pure.
 */

/** How long a turn is, and what of it is left for the news of the one before. */
const TURN_MS = 1000;
const TURN_GUARD_MS = 150;

/** An instance that had no request for so long has no turn. */
const IDLE_AFTER_MS = 5000;

/**
 * The instances that take turns: those that have requests, and this one. All find the same ones, as they go by dates.
 */
export function idsWithTurns(
  instances: readonly { readonly id: string; readonly busyAt: number }[],
  own: string,
  date: number,
): string[] {
  const busyFrom = date - (date % TURN_MS) - IDLE_AFTER_MS;
  return instances.filter(({ id, busyAt }) => busyAt >= busyFrom || id === own).map(({ id }) => id);
}

/**
 * When it is this instance's turn: a date of the clock that all have in common, which is now or past while it has its
 * turn. `ids`: of all that take turns, in any order. `seed`: of what they take turns with, so that each begins
 * elsewhere.
 */
export function turnBeginsAt(ids: readonly string[], own: string, seed: number, date: number): number {
  const place = ids.toSorted().indexOf(own);
  if (place < 0 || ids.length < 2) return 0;
  const turn = Math.floor(date / TURN_MS);
  const ahead = (place - ((turn + seed) % ids.length) + ids.length) % ids.length;
  return (turn + ahead) * TURN_MS + TURN_GUARD_MS;
}
