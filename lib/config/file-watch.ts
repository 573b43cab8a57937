/**
 * Tells when one of some files has changed, appeared or gone.
 *
 * By looking every two seconds: that finds an editor's replace-by-rename, a mounted secret that is swapped and a file
 * on a network alike, costs a few system calls, and no memory for a watcher of the kernel's.
 */
import type { CancelTimer, Clock } from "../core/clock.ts";

const LOOK_EVERY_MS = 2000;

export class FileWatch {
  readonly #clock: Clock;
  readonly #changed: () => void;
  #seen = new Map<string, string>();
  #cancel: CancelTimer = () => {};
  #isClosed = false;

  /** `changed` is called after a look that found something else than the one before. */
  constructor(clock: Clock, changed: () => void) {
    this.#clock = clock;
    this.#changed = changed;
  }

  /** Looks at these files from now on; what they are like now is not a change. */
  async watch(paths: readonly string[]): Promise<void> {
    this.#seen = await look(paths);
    this.#cancel();
    this.#lookLater();
  }

  #lookLater(): void {
    if (this.#isClosed) return;
    this.#cancel = this.#clock.after(LOOK_EVERY_MS, () => void this.#look());
  }

  async #look(): Promise<void> {
    const before = this.#seen;
    const now = await look([...before.keys()]);
    if (this.#isClosed || before !== this.#seen) return; // others are watched meanwhile
    this.#seen = now;
    this.#lookLater();
    if ([...now].some(([path, mark]) => before.get(path) !== mark)) this.#changed();
  }

  close(): void {
    this.#isClosed = true;
    this.#cancel();
  }
}

/** What tells one state of a file from another. */
async function look(paths: readonly string[]): Promise<Map<string, string>> {
  const marks = await Promise.all(
    paths.map(async (path): Promise<[string, string]> => {
      try {
        const { mtimeMs, size, ino } = await Bun.file(path).stat();
        return [path, `${mtimeMs} ${size} ${ino}`];
      } catch {
        return [path, "absent"]; // or unreadable: that too is a state
      }
    }),
  );
  return new Map(marks);
}
