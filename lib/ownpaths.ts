/**
 * What the proxy answers itself: `/health`, `/metrics`, and `/admin` where there is an operator.
 *
 * How the pool is doing may be seen by who has a client key, who sits at this machine, or who knows the operator's
 * password; a summary of the default provider by everybody.
 */
import type { Admin } from "./admin.ts";
import type { Clock } from "./clock.ts";
import type { Config, ProviderConfig } from "./config.ts";
import { authorizeLocal } from "./door.ts";
import type { Admission, Visitor } from "./door.ts";
import { healthResponse } from "./health.ts";
import type { KeyReport, ProviderReport } from "./health.ts";
import { METRICS_TYPE } from "./metrics.ts";
import type { Metrics } from "./metrics.ts";
import { withoutPrefix } from "./paths.ts";
import type { Target } from "./paths.ts";
import { refusalOf, refusalResponse } from "./refusals.ts";

/** A provider whose state can be shown. */
export interface Reporting {
  readonly config: ProviderConfig;
  readonly pool: {
    readonly pausedUntil: number;
    readonly waiting: number;
    report(now: number): readonly KeyReport[];
  };
}

/** What there is to tell of. */
export interface House {
  readonly version: string;
  readonly clock: Clock;
  readonly startedAt: number;
  readonly inFlight: number;
  readonly config: Config;
  /** The default one first. */
  readonly upstreams: readonly [Reporting, ...Reporting[]];
  readonly metrics: Metrics;
  /** Opens the operator's door; null: there is none. */
  readonly openAdmin: (() => Promise<Admin>) | null;
}

/** Whether a path leads to the operator's door, and there is one. */
export function leadsToAdmin(path: string, { openAdmin, config }: House): boolean {
  return openAdmin !== null && config.adminPassword !== null && withoutPrefix(path, "/admin") !== null;
}

/** The answer to `/health` or `/metrics`; null: the path is another. */
export function ownAnswer(
  { path }: Target,
  visitor: Visitor,
  admission: Admission,
  house: House,
): Response | Promise<Response> | null {
  if (path !== "/health" && path !== "/metrics") return null;
  const { config, openAdmin } = house;
  const hasKey = config.access.mode === "keys" && admission.kind === "admitted";
  const locally = authorizeLocal(visitor, config.listen, config.corsOrigins);
  const isKnown = hasKey || locally.kind === "admitted";
  const show = (mayKnow: boolean) => {
    if (path === "/health") return health(house, mayKnow);
    const refused = admission.kind === "admitted" ? locally : admission;
    return mayKnow || refused.kind === "admitted" ? metricsOf(house) : refusalResponse(refusalOf(refused));
  };
  const mayBeOperator = !isKnown && config.adminPassword !== null && visitor.headers.has("authorization");
  if (!mayBeOperator || openAdmin === null) return show(isKnown);
  return openAdmin().then((admin) => show(admin.isOperator(visitor.headers, visitor.peer)));
}

function health(house: House, isKnownVisitor: boolean): Response {
  const { version, clock, startedAt, upstreams } = house;
  const now = clock.now();
  return healthResponse({
    version,
    uptimeMs: now - startedAt,
    providers: reportsOf(upstreams, now),
    isKnownVisitor,
  });
}

async function metricsOf({
  version,
  clock,
  startedAt,
  inFlight,
  upstreams,
  metrics,
}: House): Promise<Response> {
  const { readVitals } = await import("./vitals.ts");
  const vitals = await readVitals();
  const providers = reportsOf(upstreams, clock.now());
  const text = metrics.render({ version, startedAt, inFlight, providers, vitals });
  return new Response(text, { headers: { "content-type": METRICS_TYPE, "cache-control": "no-store" } });
}

/** The providers as they are now, the default one first. */
function reportsOf(
  [first, ...others]: readonly [Reporting, ...Reporting[]],
  now: number,
): [ProviderReport, ...ProviderReport[]] {
  const report = ({ config, pool }: Reporting): ProviderReport => ({
    name: config.name,
    dialect: config.dialect,
    baseUrl: config.baseUrl.href.replace(/\/$/, ""),
    pausedMs: Math.max(0, pool.pausedUntil - now),
    waiting: pool.waiting,
    keys: pool.report(now),
  });
  return [report(first), ...others.map(report)];
}
