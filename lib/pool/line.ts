/**
 * Who waits, in order of arrival. A request that comes back after a refusal takes its old place, not the last one;
 * one that leaves costs nothing to take out.
 */

/** Someone who can stand in a line; in one at a time. */
export abstract class Place {
  /** Number of the request: the lower, the earlier. */
  abstract readonly arrival: number;
  before: this | null = null;
  behind: this | null = null;
}

export class Line<T extends Place> {
  first: T | null = null;
  last: T | null = null;
  size = 0;

  /** Most come last; one that comes back is mostly among the first. */
  insert(item: T): void {
    let before = this.last;
    if (before !== null && before.arrival > item.arrival) {
      let later = this.first;
      while (later !== null && later.arrival < item.arrival) later = later.behind;
      before = later === null ? this.last : later.before;
    }
    const behind = before === null ? this.first : before.behind;
    item.before = before;
    item.behind = behind;
    if (before === null) this.first = item;
    else before.behind = item;
    if (behind === null) this.last = item;
    else behind.before = item;
    this.size += 1;
  }

  /** Takes out one that stands here. */
  remove(item: T): void {
    if (item.before === null) this.first = item.behind;
    else item.before.behind = item.behind;
    if (item.behind === null) this.last = item.before;
    else item.behind.before = item.before;
    item.before = null;
    item.behind = null;
    this.size -= 1;
  }
}
