import { describe, expect, test } from "bun:test";
import { usableMemoryBytes } from "./memory.ts";

const MB = 1024 * 1024;
const MACHINE = { "/proc/meminfo": "MemTotal:        4194304 kB\nMemFree:          100 kB\n" };
const V2 = "0::/system.slice/keywheel.service\n";
const V1 = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n";

describe("the memory that may be used", () => {
  const table: [says: string, files: Record<string, string>, megabytes: number | null][] = [
    ["is the machine's where nothing limits it", MACHINE, 4096],
    ["is unknown where nothing tells", {}, null],
    [
      "is what the unit allows",
      {
        ...MACHINE,
        "/proc/self/cgroup": V2,
        "/sys/fs/cgroup/system.slice/keywheel.service/memory.max": `${512 * MB}\n`,
      },
      512,
    ],
    [
      "is what the unit allows before it is slowed down",
      {
        ...MACHINE,
        "/proc/self/cgroup": V2,
        "/sys/fs/cgroup/system.slice/keywheel.service/memory.max": `${512 * MB}\n`,
        "/sys/fs/cgroup/system.slice/keywheel.service/memory.high": `${400 * MB}\n`,
      },
      400,
    ],
    [
      "is what a group above allows, where that is less",
      {
        ...MACHINE,
        "/proc/self/cgroup": V2,
        "/sys/fs/cgroup/system.slice/keywheel.service/memory.max": "max\n",
        "/sys/fs/cgroup/system.slice/memory.max": `${300 * MB}\n`,
      },
      300,
    ],
    [
      "is a container's",
      { ...MACHINE, "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": `${256 * MB}\n` },
      256,
    ],
    [
      "is what version 1 allows",
      {
        ...MACHINE,
        "/proc/self/cgroup": V1,
        "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": `${128 * MB}\n`,
      },
      128,
    ],
    [
      "is a container's under version 1, whose path is the host's",
      { ...MACHINE, "/proc/self/cgroup": V1, "/sys/fs/cgroup/memory/memory.limit_in_bytes": `${96 * MB}\n` },
      96,
    ],
    [
      "is the machine's where version 1 writes a number for no limit",
      {
        ...MACHINE,
        "/proc/self/cgroup": V1,
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
      },
      4096,
    ],
    [
      "is not read from a group that limits something else",
      {
        ...MACHINE,
        "/proc/self/cgroup": "3:cpu:/x\n",
        "/sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1\n",
      },
      4096,
    ],
    [
      "is not what cannot be read as a number",
      { ...MACHINE, "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "soon\n" },
      4096,
    ],
  ];
  test.each(table)("%s", async (_, files, megabytes) => {
    const bytes = await usableMemoryBytes(async (path) => files[path] ?? null);
    expect(bytes === null ? null : bytes / MB).toBe(megabytes);
  });
});
