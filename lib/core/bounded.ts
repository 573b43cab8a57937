/** Takes the longest-standing entries out of a map or set that has more than `most`. */
export function keepNewest<Item>(collection: Map<Item, unknown> | Set<Item>, most: number): void {
  for (const item of collection.keys()) {
    if (collection.size <= most) return;
    collection.delete(item);
  }
}
