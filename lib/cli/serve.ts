/**
 * Serving, as the command line asks for it: with the settings that are there, or as the demo. The proxy itself is
 * handed in, because nothing imports `proxy.ts`.
 */
import type { OpenAdminOptions } from "../admin/api.ts";
import { loadConfig, parseConfig } from "../config/config.ts";
import type { Config } from "../config/config.ts";
import { NO_KEYS } from "../config/provider-settings.ts";
import { Reloader } from "../config/reload.ts";
import type { Clock } from "../core/clock.ts";
import type { AdminApi, Dependencies, Engine } from "../routing/engine.ts";
import { EXIT_FAILED, EXIT_USAGE } from "./args.ts";
import type { RequestOnPort } from "./descriptors.ts";
import { tidyWhenQuiet } from "./tidy.ts";
import {
  NO_SETTINGS,
  banner,
  demoBanner,
  localAddresses,
  openOutputs,
  placesOf,
  untilSignalled,
  whyNotListening,
} from "./startup.ts";
import type { Outputs } from "./startup.ts";

/** A proxy that listens. */
export interface Proxy {
  readonly engine: Engine;
  /** Where it listens: `http://127.0.0.1:3000`, or `unix:/path`. */
  readonly url: string;
  /** Takes no new requests, lets those in flight finish for at most `DRAIN_SEC`, then cuts them. */
  drain(): Promise<void>;
  /** Ends everything at once. */
  stop(): Promise<void>;
}

/** A proxy whose clients have connections. */
export interface ListeningProxy extends Proxy {
  /** The requests in flight, by the ports of their clients. */
  requestsByPort(): RequestOnPort[];
}

/** What is served, and with what. */
export interface Served {
  readonly version: string;
  readonly clock: Clock;
  /** From 0 up to 1. */
  readonly random: () => number;
  /** A text that nobody guesses. */
  readonly newToken: () => string;
  /** Starts to listen. Throws where the address cannot be listened on. */
  start(config: Config, dependencies: Dependencies): ListeningProxy;
  /** Has a running proxy go by other settings. */
  reconfigure(engine: Engine, config: Config): void;
}

/** Serves what the settings say. Resolves with the exit code when it has ended. */
export async function serve(
  environment: Record<string, string>,
  envFile: string | null,
  served: Served,
): Promise<number> {
  const { version, reconfigure } = served;
  const places = placesOf(environment, envFile);
  const loaded = await loadConfig(places);
  for (const warning of loaded.warnings) console.error(`warning: ${warning}`);
  if (!loaded.ok) {
    const isUnconfigured = loaded.envFile === null && loaded.problems.join() === NO_KEYS;
    return refuseSettings(isUnconfigured ? [NO_SETTINGS.trimEnd()] : loaded.problems);
  }
  const { config } = loaded;
  const outputs = await openOutputs(config, environment, served);
  if (outputs.problem !== null) return refuseSettings([outputs.problem]);
  const proxy = startOrExplain(config, outputs, served);
  if (proxy === null) return EXIT_FAILED;
  const { engine, url } = proxy;
  const { clock, log } = engine;
  const reloader = new Reloader({ places, loaded, clock, log, apply: (next) => reconfigure(engine, next) });
  serveAdmin(engine, { reloader, places, usage: outputs.usage, version, url }, served);
  if (config.listen.kind === "tcp") await guard(proxy);
  tidyWhenQuiet(engine, { collect: () => Bun.gc(true), dropCode: () => Bun.shrink() });
  const signalled = untilSignalled({ proxy, outputs, reloader }); // before it says that it is there: somebody may answer with a signal
  const addresses = await localAddresses();
  console.log(banner(config, { version, url, envFile: loaded.envFile, addresses }));
  return signalled;
}

/** Until the program ends. */
async function guard({
  url,
  engine: { clock, log },
  requestsByPort: requests,
}: ListeningProxy): Promise<void> {
  const { guardDescriptors } = await import("./descriptors.ts");
  await guardDescriptors({ port: Number(new URL(url).port), requests, clock, log });
}

/** The dashboard and its API, loaded when they are first asked for. */
function serveAdmin(
  engine: Engine,
  options: Omit<OpenAdminOptions, "engine" | "newToken">,
  { newToken }: Served,
): void {
  let opening: Promise<AdminApi> | null = null;
  engine.openAdmin = () =>
    (opening ??= import("../admin/api.ts").then(({ openAdmin }) =>
      openAdmin({ ...options, engine, newToken }),
    ));
}

/** Where no settings are: those of the demo are its own. */
const NO_FILES = { workingDirectory: "/dev/null", programDirectory: "/dev/null" };

/** The proxy in front of the built-in fake provider: everything can be tried without a key. */
export async function demo(environment: Record<string, string>, served: Served): Promise<number> {
  const { DEMO_LIMITS, demoSettings, narrator, startDemoProvider } = await import("./demo-provider.ts");
  const provider = startDemoProvider(DEMO_LIMITS);
  const password = served.newToken().slice(0, 12);
  const settings = demoSettings(provider, environment, password);
  const parsed = parseConfig(settings);
  if (!parsed.ok) return refuseSettings(parsed.problems);
  const outputs = await openOutputs(parsed.config, environment, served);
  const observers = [...outputs.observers, narrator((line) => console.log(line))];
  const proxy = startOrExplain(parsed.config, { ...outputs, observers }, served);
  if (proxy === null) return EXIT_FAILED;
  const { engine, url } = proxy;
  const places = { environment: settings, envFile: null, ...NO_FILES };
  const loaded = { ...parsed, envFile: null, watched: [] };
  const reloader = new Reloader({ places, loaded, clock: engine.clock, log: engine.log, apply: () => {} });
  const { version } = served;
  serveAdmin(engine, { reloader, places, usage: outputs.usage, version, url }, served);
  const signalled = untilSignalled({ proxy, outputs, reloader: null });
  console.log(demoBanner(parsed.config, { version, url, password, ...DEMO_LIMITS }));
  const code = await signalled;
  await provider.stop();
  return code;
}

function refuseSettings(problems: readonly string[]): number {
  for (const problem of problems) console.error(problem);
  return EXIT_USAGE;
}

/** Starts the proxy; null: it cannot listen, and stderr says why. */
function startOrExplain(
  config: Config,
  { log, observers, store, sharing }: Outputs,
  served: Served,
): ListeningProxy | null {
  const { random, start } = served;
  const clock = sharing?.clock ?? served.clock; // instances have one date in common
  const kept = sharing ?? store;
  try {
    return start(config, { clock, random, log, observers, keeper: kept, resources: kept, sharing });
  } catch (error) {
    console.error(whyNotListening(config.listen, error));
    return null;
  }
}
