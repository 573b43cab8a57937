/**
 * What the process was given, and what it stands on: environment, terminal, and Bun's own limits.
 */
import type { Places } from "../config/config.ts";

/**
 * Bun's fetch keeps at most 256 requests under way unless this is in the environment when the process starts (1.4.5):
 * the 257th stream would hang. So the process replaces itself once, with it set. The environment it passes on is the
 * one it was given: from source, Bun has mixed the working directory's `.env` into its own copy.
 */
export function liftFetchLimit(environment: Record<string, string>): void {
  const isRight = environment[FETCH_LIMIT] !== undefined && environment[FETCH_TRACE] === undefined;
  if (isRight || process.execve === undefined) return;
  const own = Bun.isStandaloneExecutable
    ? process.argv.slice(2)
    : ["--no-env-file", ...process.argv.slice(1)];
  const { [FETCH_TRACE]: _, ...others } = environment;
  try {
    process.execve(process.execPath, [process.argv0, ...own], { [FETCH_LIMIT]: "65535", ...others });
  } catch {
    console.error(
      `warning: at most 256 requests at a time go through. Set ${FETCH_LIMIT}=65535 in the environment.`,
    );
  }
}

const FETCH_LIMIT = "BUN_CONFIG_MAX_HTTP_REQUESTS";
/** Has Bun print every request with its fields to stderr: keys among them. */
const FETCH_TRACE = "BUN_CONFIG_VERBOSE_FETCH";

/** The environment as the process was given it. */
export async function givenEnvironment(): Promise<Record<string, string>> {
  try {
    const text = await Bun.file("/proc/self/environ").text();
    const variables = text.split("\0").map((variable): [string, string] => {
      const equals = variable.indexOf("=");
      return [variable.slice(0, equals), variable.slice(equals + 1)];
    });
    return Object.fromEntries(variables.filter(([name]) => name !== ""));
  } catch {
    return Object.fromEntries(Object.entries(process.env).map(([name, value]) => [name, value ?? ""])); // no /proc
  }
}

/** Where settings are looked for. `envFile`: the PATH of `--env-file PATH`, or null. */
export function placesOf(environment: Record<string, string>, envFile: string | null): Places {
  const program = Bun.isStandaloneExecutable ? process.execPath : Bun.main;
  const programDirectory = program.slice(0, program.lastIndexOf("/"));
  return { environment, envFile, workingDirectory: process.cwd(), programDirectory };
}

/**
 * Whether stdout is a terminal: its device is one of the kernel's majors for consoles (4, 5) and pseudo-terminals
 * (136 to 143; Documentation/admin-guide/devices.txt). `process.stdout` would tell too, for 2 MB of memory.
 */
export async function writesToTerminal(): Promise<boolean> {
  try {
    const { rdev } = await Bun.file(1).stat();
    const major = (rdev >> 8) & 0xfff;
    return major === 4 || major === 5 || (major >= 136 && major <= 143);
  } catch {
    return false;
  }
}
