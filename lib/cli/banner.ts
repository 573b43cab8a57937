/**
 * What is printed at the start: where the proxy is, what stands behind it, who may use it. Never a key.
 */
import { codeOf } from "../core/json.ts";
import { formatDuration } from "../core/clock.ts";
import type { Config, Listen, ProviderConfig, RouteTarget } from "../config/config.ts";

export interface Running {
  version: string;
  /** Where it listens. */
  url: string;
}

/** The first lines of a run. `envFile`: the file the settings came from, null where there was none. */
export function banner(
  config: Config,
  { version, url, envFile }: Running & { envFile: string | null },
): string {
  return [
    `keywheel ${version}`,
    ...config.providers.map((provider, index) => providerLine(provider, index === 0)),
    ...chainLines(config),
    `  settings   ${envFile ?? "from the environment"}`,
    `  open to    ${whoMayConnect(config)}`,
    `  give this base URL to your agent:  ${baseUrl(url)}${agentKey(config)}`,
  ].join("\n");
}

/** The first lines of `--demo`: what it is, and a command that works when pasted. */
export function demoBanner(config: Config, { version, url }: Running): string {
  const [{ keys }] = config.providers;
  return `keywheel ${version} demo: ${keys.length} keys of a built-in fake provider, 5 requests a minute each.
Nothing leaves this machine, and no real key is needed.

  base URL   ${baseUrl(url)}   (any API key, any model name)

Paste this into another terminal, a few times in a row. Each answer says which key it came from; after
15 requests in a minute the next one waits for a key instead of failing:

  curl -s ${baseUrl(url)}/chat/completions -H 'content-type: application/json' -d '{"model":"demo","messages":[{"role":"user","content":"hello"}]}'

Add "stream": true to see it stream, and look at ${url}/health. Ctrl-C ends it.
`;
}

function providerLine(
  { name, dialect, baseUrl: target, keys, cooldownMs, disabled }: ProviderConfig,
  isDefault: boolean,
): string {
  const label = isDefault ? "target" : `/${name}`;
  const count = keys.length === 1 ? "1 key" : `${keys.length} keys`;
  const state = disabled ? ", switched off" : "";
  return `  ${label.padEnd(10)} ${target.href.replace(/\/$/, "")} (${dialect}), ${count}, cooldown ${formatDuration(cooldownMs)} after a 429 without a hint${state}`;
}

/** Where requests may go besides: model names to ask for, and what stands in when the default provider is out. */
function chainLines({ routes, fallback }: Config): string[] {
  const lines: string[] = [];
  if (routes.length > 0) lines.push(`  routes     ${routes.map(({ name }) => name).join(", ")}`);
  if (fallback.length > 0) lines.push(`  fallback   ${fallback.map(targetText).join(" > ")}`);
  return lines;
}

function targetText({ provider, model }: RouteTarget): string {
  return model === null ? provider : `${provider}/${model}`;
}

function whoMayConnect({ access, listen }: Config): string {
  const where = listen.kind === "unix" ? "whoever may open the socket" : `whoever reaches ${listen.hostname}`;
  switch (access.mode) {
    case "protected":
      return listen.kind === "unix"
        ? where
        : "this machine only (protected mode; set PROXY_API_KEY to let others in)";
    case "keys":
      return `${where} with ${access.clients.length === 1 ? "the client key" : `one of ${access.clients.length} client keys`}`;
    case "open":
      return `${where}, without a key (PROXY_API_KEY=off)`;
  }
}

function agentKey({ access }: Config): string {
  return access.mode === "keys" ? "   API key: one of PROXY_API_KEY" : "   API key: anything";
}

function baseUrl(url: string): string {
  return url.startsWith("unix:") ? url : `${url}/v1`;
}

/** Where it is reached: `http://127.0.0.1:3000`, or `unix:/path`. `port`: the one that was taken. */
export function urlOf(listen: Listen, port: number | undefined): string {
  return listen.kind === "unix" ? `unix:${listen.path}` : `http://${hostOf(listen.hostname)}:${port}`;
}

/** The host to write into a URL for an address that is listened on: all addresses include this machine's own. */
function hostOf(hostname: string): string {
  if (hostname === "0.0.0.0" || hostname === "::") return "127.0.0.1";
  return hostname.includes(":") ? `[${hostname}]` : hostname;
}

/** Why the address cannot be listened on, and what to do. */
export function whyNotListening(listen: Listen, error: unknown): string {
  const code = codeOf(error) || "unknown failure";
  if (listen.kind === "unix") {
    return `Cannot listen on ${listen.path} (${code}). If no other keywheel uses it, remove the file; else choose another HOST=unix:/path.`;
  }
  const { hostname, port } = listen;
  switch (code) {
    case "EADDRINUSE":
      return `Port ${port} is taken by another program. Stop it, or choose another port: PORT=${port + 1} (PORT=0 picks a free one).`;
    case "EACCES":
      return `Port ${port} may not be used without special rights. Choose one from 1024 up: PORT=3000.`;
    case "EADDRNOTAVAIL":
      return `HOST is ${hostname}, which is no address of this machine. Use 0.0.0.0 for all of its addresses, or 127.0.0.1.`;
    default:
      return `Cannot listen on ${hostname} port ${port} (${code}). Check HOST and PORT.`;
  }
}
