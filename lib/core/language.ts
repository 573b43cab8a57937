/** What the oldest runtime that is served (Node 20) lacks of the language. */

/** A promise with the two functions that settle it. (`Promise.withResolvers` is of Node 22.) */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T | PromiseLike<T>) => void;
  readonly reject: (reason: unknown) => void;
}

export function deferred<T>(): Deferred<T> {
  let resolve!: Deferred<T>["resolve"];
  let reject!: Deferred<T>["reject"];
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

/** The URL that a text is, or null. (`URL.parse` is of Node 22.) */
export function urlOrNull(text: string): URL | null {
  return URL.canParse(text) ? new URL(text) : null;
}

/** Items by what `nameOf` says of each, in the order in which the names came. (`Map.groupBy` is of Node 21.) */
export function grouped<Item, Name>(items: readonly Item[], nameOf: (item: Item) => Name): Map<Name, Item[]> {
  const groups = new Map<Name, Item[]>();
  for (const item of items) {
    const name = nameOf(item);
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [item]);
    else group.push(item);
  }
  return groups;
}
