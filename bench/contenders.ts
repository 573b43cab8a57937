/**
 * What is measured: the proxy under test, nginx and a bare Bun program as the same passthrough, and nothing between
 * client and upstream; started, watched through /proc, and ended.
 */
import { dlopen, ptr } from "bun:ffi";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { chmod, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { LOOPBACK, sdkRequest } from "./load.ts";
import type { Name } from "./load.ts";

export interface Memory {
  rssKb: number;
  anonymousKb: number;
  /** Pages shared with other processes counted in shares: what one more instance costs the machine. */
  proportionalKb: number;
}

/** Something that listens; `none` is the upstream itself and has no process to watch. */
export interface Contender {
  name: Name;
  port: number;
  process: ProcessTree | null;
}

export function passthroughNothing(upstreamPort: number): Contender {
  return { name: "none", port: upstreamPort, process: null };
}

/**
 * Starts the proxy with the settings of the benchmark and no other environment. As `usual` it keeps state and writes a
 * line for each request, like most proxies do. `others`: settings beside, or instead of, those of the bench.
 */
export async function startProxy(
  command: string,
  upstreamPort: number,
  name: Name = "proxy",
  others: Record<string, string> = {},
): Promise<Contender> {
  const port = await freePort();
  const isUsual = name === "usual";
  const directory = isUsual ? await mkdtemp(join(tmpdir(), "keywheel-bench-")) : null;
  const settings = {
    PORT: String(port),
    HOST: LOOPBACK,
    TARGET_BASE_URL: `http://${LOOPBACK}:${upstreamPort}/v1`,
    API_KEYS: ["a", "b", "c"].map((name) => `bench-key-${name.repeat(30)}`).join(","), // as long as real ones
    PROVIDER: "openai",
    LOG_LEVEL: isUsual ? "info" : "warn",
    RPM: "off",
    STATE: directory === null ? "off" : join(directory, "keywheel.db"),
    ...others,
  };
  const env = { PATH: process.env["PATH"] ?? "", ...settings };
  const argv = ["/bin/sh", "-c", `exec ${command} --env-file /dev/null`];
  return { name, port, process: await ProcessTree.start(argv, env, port, directory) };
}

/** Compiles `bench/passthrough.ts` as `build.sh` compiles the proxy, and starts it. */
export async function startBare(upstreamPort: number): Promise<Contender> {
  const port = await freePort();
  const directory = await mkdtemp(join(tmpdir(), "keywheel-bench-"));
  const executable = join(directory, "passthrough");
  const source = join(import.meta.dir, "passthrough.ts");
  const options = ["--compile", "--bytecode", "--format=esm", "--outfile", executable, source];
  const build = Bun.spawnSync([process.execPath, "build", ...options], {
    env: { ...process.env, NODE_ENV: "production" },
    stdio: ["ignore", "ignore", "pipe"],
  });
  if (!build.success) throw new Error(`bench/passthrough.ts cannot be compiled: ${build.stderr.toString()}`);
  const env = {
    PORT: String(port),
    UPSTREAM: `http://${LOOPBACK}:${upstreamPort}`,
    BUN_CONFIG_MAX_HTTP_REQUESTS: "65535",
  };
  return { name: "bare", port, process: await ProcessTree.start([executable], env, port, directory) };
}

export const NGINX = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].find((path) => existsSync(path)) ?? null;

export async function startNginx(nginx: string, upstreamPort: number): Promise<Contender> {
  const port = await freePort();
  const directory = await mkdtemp(join(tmpdir(), "keywheel-bench-"));
  await chmod(directory, 0o755); // the worker gives up root before it opens its files
  const configuration = join(directory, "nginx.conf");
  await Bun.write(configuration, nginxConfiguration(directory, port, upstreamPort));
  const argv = [nginx, "-p", directory, "-e", "stderr", "-c", configuration];
  return { name: "nginx", port, process: await ProcessTree.start(argv, {}, port, directory) };
}

/**
 * The same work: one process for the traffic, connections kept on both sides, the key replaced, the body read
 * before it is sent on, nothing buffered on the way back.
 */
function nginxConfiguration(directory: string, port: number, upstreamPort: number): string {
  return `daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid ${directory}/nginx.pid;
error_log stderr notice;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path ${directory}/body;
  proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/fastcgi;
  uwsgi_temp_path ${directory}/uwsgi;
  scgi_temp_path ${directory}/scgi;
  client_max_body_size 32m;
  client_body_buffer_size 256k;
  keepalive_requests 1000000000;
  upstream provider {
    server ${LOOPBACK}:${upstreamPort};
    keepalive 64;
    keepalive_requests 1000000000;
  }
  server {
    listen ${LOOPBACK}:${port} backlog=4096;
    location / {
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer k1";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }
  }
}
`;
}

/** The whole answer to one request, or a sentence about what came instead: run before anything is measured. */
export async function trial({ name, port }: Contender): Promise<string | null> {
  const request = sdkRequest(name, port, "plain", 16).toString("latin1");
  const headEnd = request.indexOf("\r\n\r\n");
  const init: RequestInit = {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer sk-client" },
    body: request.slice(headEnd + 4),
    signal: AbortSignal.timeout(5000),
  };
  try {
    const answer = await fetch(`http://${LOOPBACK}:${port}/v1/chat/completions`, init);
    const text = await answer.text();
    return answer.status === 200 && text.startsWith('{"id":"chatcmpl-')
      ? null
      : `it answered ${answer.status} ${text.slice(0, 300)}`;
  } catch (error) {
    return `it gave no answer: ${String(error)}`;
  }
}

/** A started command and what it started in turn (nginx has a worker, a wrapper has the program). */
export class ProcessTree {
  static readonly running = new Set<ProcessTree>();
  readonly #child: Bun.Subprocess<"ignore", "ignore", "pipe">;
  readonly #name: string;
  readonly #directory: string | null;
  #stderr = "";
  #ids: number[] = [];

  private constructor(argv: string[], env: Record<string, string>, directory: string | null) {
    this.#child = Bun.spawn(argv, { env, stdio: ["ignore", "ignore", "pipe"] });
    this.#name = argv.at(-1) ?? "";
    this.#directory = directory;
    void this.#keepLastWords();
    ProcessTree.running.add(this);
  }

  /** Resolves when the port is open. No request is sent: the first reading of memory comes before any. */
  static async start(
    argv: string[],
    env: Record<string, string>,
    port: number,
    directory: string | null,
  ): Promise<ProcessTree> {
    const tree = new ProcessTree(argv, env, directory);
    for (let tries = 0; tries < 100; tries += 1) {
      if (tree.#child.exitCode !== null) break;
      if (await accepts(port)) {
        tree.#ids = withDescendants(tree.#child.pid);
        return tree;
      }
      await Bun.sleep(100);
    }
    const what = tree.#child.exitCode === null ? "did not open its port in 10 s" : "exited at once";
    await tree.stop();
    throw new Error(`${tree.#name} ${what}: ${tree.#stderr.trim() || "nothing on stderr"}`);
  }

  /** Of the first process. */
  get id(): number {
    return this.#child.pid;
  }

  /** User and system time of all threads of all processes since they began. */
  cpuUs(): number {
    const how = this.#child.signalCode ?? this.#child.exitCode;
    if (how !== null) throw new Error(`${this.#name} ended under load (${how}): ${this.lastWords}`);
    return this.#ids.reduce((sum, id) => sum + cpuUsOf(id), 0);
  }

  memory(): Memory {
    const total: Memory = { rssKb: 0, anonymousKb: 0, proportionalKb: 0 };
    for (const id of this.#ids) {
      const rollup = readFileSync(`/proc/${id}/smaps_rollup`, "latin1");
      total.rssKb += kbOf(rollup, "Rss");
      total.anonymousKb += kbOf(rollup, "Anonymous");
      total.proportionalKb += kbOf(rollup, "Pss");
    }
    return total;
  }

  /** The end of what it said on stderr. */
  get lastWords(): string {
    return this.#stderr.trim();
  }

  async stop(): Promise<void> {
    this.#child.kill("SIGTERM"); // nginx's master ends its worker, which a kill would leave behind
    await Promise.race([this.#child.exited, Bun.sleep(1500)]);
    this.killNow();
    ProcessTree.running.delete(this);
  }

  /** Without waiting for anything: for a benchmark that is itself being ended. */
  killNow(): void {
    const family = this.#child.exitCode === null ? withDescendants(this.#child.pid) : [];
    for (const id of family) {
      try {
        process.kill(id, "SIGKILL");
      } catch {
        continue; // it ended by itself
      }
    }
    if (this.#directory !== null) rmSync(this.#directory, { recursive: true, force: true });
  }

  async #keepLastWords(): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of this.#child.stderr) {
      this.#stderr = (this.#stderr + decoder.decode(bytes, { stream: true })).slice(-1000);
    }
  }
}

function kbOf(rollup: string, field: string): number {
  return Number(new RegExp(`^${field}: +(\\d+) kB`, "m").exec(rollup)?.[1] ?? NaN);
}

/** `utime` + `stime` of /proc/PID/stat in microseconds; its ticks are 10 ms on every Linux that Bun runs on. */
function ticksUsOf(id: number): number {
  const fields = readFileSync(`/proc/${id}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

/**
 * The kernel's own account behind those ticks, in nanoseconds: a window of a second at a tenth of a core is ten
 * ticks, too few for a ratio. The clock of another process is `(~pid << 3) | 2` (clock_getcpuclockid(3), glibc).
 */
const cpuUsOf = ((): ((id: number) => number) => {
  try {
    const libc = dlopen("libc.so.6", { clock_gettime: { args: ["i32", "ptr"], returns: "i32" } });
    const time = new BigInt64Array(2);
    return (id) => {
      const failed = libc.symbols.clock_gettime((~id << 3) | 2, ptr(time)) !== 0;
      return failed ? ticksUsOf(id) : Number(time[0]) * 1e6 + Number(time[1]) / 1000;
    };
  } catch {
    return ticksUsOf; // no glibc: coarser, and right
  }
})();

function withDescendants(root: number): number[] {
  const parents = new Map<number, number>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "latin1");
      parents.set(Number(entry), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      continue; // it ended since the directory was listed
    }
  }
  const family = [root];
  for (const id of family) for (const [child, parent] of parents) if (parent === id) family.push(child);
  return family;
}

async function freePort(): Promise<number> {
  const listener = Bun.listen({ hostname: LOOPBACK, port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

async function accepts(port: number): Promise<boolean> {
  try {
    const socket = await Bun.connect({ hostname: LOOPBACK, port, socket: { data() {} } });
    socket.terminate();
    return true;
  } catch {
    return false;
  }
}
