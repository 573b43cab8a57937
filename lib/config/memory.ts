/**
 * How much memory this process may use: what its control group allows (systemd, Docker, Kubernetes), and at most what
 * the machine has. The files are read by `read`, so this is as good as pure.
 */

/** The text of a file of the kernel's; null: there is none, or it may not be read. */
export type ReadFile = (path: string) => Promise<string | null>;

/** In bytes; null: nothing tells (no Linux). */
export async function usableMemoryBytes(read: ReadFile): Promise<number | null> {
  const [groups, machine] = await Promise.all([read("/proc/self/cgroup"), read("/proc/meminfo")]);
  const texts = await Promise.all(limitFiles(groups ?? "").map(read));
  const kilobytes = /^MemTotal:\s+(\d+) kB$/m.exec(machine ?? "")?.[1];
  const limits = [...texts.map(bytesIn), kilobytes === undefined ? null : Number(kilobytes) * 1024];
  const known = limits.filter((limit) => limit !== null);
  return known.length === 0 ? null : Math.min(...known);
}

/**
 * The files that may hold a limit, for a group and all above it: of version 2 (cgroup-v2.rst, "memory.high" slows
 * down where "memory.max" kills), and of version 1 (memory.txt). In a container the path may be the host's, and
 * only the top is there.
 */
function limitFiles(groups: string): string[] {
  return groups.split("\n").flatMap((line) => {
    const [, controllers = "", path = ""] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (path === "") return [];
    if (controllers === "") {
      return upwards(path).flatMap((group) => [
        `/sys/fs/cgroup${group}/memory.max`,
        `/sys/fs/cgroup${group}/memory.high`,
      ]);
    }
    if (!controllers.split(",").includes("memory")) return [];
    return upwards(path).map((group) => `/sys/fs/cgroup/memory${group}/memory.limit_in_bytes`);
  });
}

/** `/a/b` to `/a/b`, `/a` and nothing. */
function upwards(path: string): string[] {
  const parts = path.split("/").filter((part) => part !== "");
  return [...parts.map((_, index) => `/${parts.slice(0, parts.length - index).join("/")}`), ""];
}

/** Null: no limit (`max`), or not a number. */
function bytesIn(text: string | null): number | null {
  const digits = /^(\d{1,19})\s*$/.exec(text ?? "")?.[1];
  const bytes = Number(digits ?? 0);
  return bytes > 0 ? bytes : null;
}
