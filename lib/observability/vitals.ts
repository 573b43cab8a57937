/**
 * What the kernel knows of this process: memory, time, descriptors. Read from /proc when asked; null where there is
 * none.
 */

/** One reading. Null: not to be had here. */
export interface Vitals {
  /** Resident memory, shared pages of the executable included. */
  residentBytes: number | null;
  /** In user and kernel mode together, since the process started. */
  cpuSec: number;
  openDescriptors: number | null;
  /** The soft limit of open descriptors. */
  maxDescriptors: number | null;
}

export async function readVitals(directory = "/proc/self"): Promise<Vitals> {
  const [status, limits, openDescriptors] = await Promise.all([
    textOf(`${directory}/status`),
    textOf(`${directory}/limits`),
    countDescriptors(`${directory}/fd`),
  ]);
  const { user, system } = process.cpuUsage();
  const residentKb = numberIn(/^VmRSS:\s*(\d+) kB$/m, status);
  return {
    residentBytes: residentKb === null ? null : residentKb * 1024,
    cpuSec: (user + system) / 1e6,
    openDescriptors,
    maxDescriptors: numberIn(/^Max open files\s+(\d+)/m, limits),
  };
}

async function textOf(path: string): Promise<string> {
  try {
    return await Bun.file(path).text();
  } catch {
    return ""; // not Linux, or /proc is not mounted
  }
}

function numberIn(pattern: RegExp, text: string): number | null {
  const digits = pattern.exec(text)?.[1];
  return digits === undefined ? null : Number(digits);
}

/** (By `Bun.Glob`: `node:fs` would cost 0.6 MB.) */
async function countDescriptors(directory: string): Promise<number | null> {
  try {
    let count = 0;
    for await (const _ of new Bun.Glob("*").scan({ cwd: directory, onlyFiles: false })) count += 1;
    return Math.max(0, count - 1); // one of them is the directory being read
  } catch {
    return null;
  }
}
