/**
 * What the proxy answers itself: `/health`, `/metrics`, and `/admin` where there is an operator.
 *
 * How the pool is doing may be seen by who has a client key, who sits at this machine, or who knows the operator's
 * password; a summary of the default provider by everybody.
 */
import { wallOffset } from "../core/clock.ts";
import { addCors, authorizeLocal } from "../http/client-auth.ts";
import type { Admission, ClientIdentity } from "../http/client-auth.ts";
import { healthResponse } from "../observability/health.ts";
import type { ProviderReport } from "../observability/health.ts";
import { METRICS_TYPE } from "../observability/metrics.ts";
import { withoutPrefix } from "../http/request.ts";
import type { RequestTarget } from "../http/request.ts";
import type { Engine, Upstream } from "./engine.ts";
import { admissionError, errorResponse } from "../http/error-responses.ts";

/** Whether a path leads to the operator's door, and there is one. */
export function leadsToAdmin(path: string, { openAdmin, config }: Engine): boolean {
  return openAdmin !== null && config.adminPassword !== null && withoutPrefix(path, "/admin") !== null;
}

/** The answer to `/health` or `/metrics`; null: the path is another. */
export function ownAnswer(
  { path }: RequestTarget,
  identity: ClientIdentity,
  admission: Admission,
  engine: Engine,
): Promise<Response> | null {
  switch (path) {
    case "/health":
      return health(identity, admission, engine);
    case "/metrics":
      return metrics(identity, admission, engine);
    default:
      return null;
  }
}

async function health(identity: ClientIdentity, admission: Admission, engine: Engine): Promise<Response> {
  const isKnownClient = (await whyNotShown(identity, admission, engine)) === null;
  const { version, clock, startedAt, upstreams, config } = engine;
  const now = clock.now();
  const providers = reportsOf(upstreams, now);
  const response = healthResponse({ version, uptimeMs: now - startedAt, providers, isKnownClient });
  addCors(response.headers, identity.headers, config.corsOrigins);
  return response;
}

async function metrics(identity: ClientIdentity, admission: Admission, engine: Engine): Promise<Response> {
  const refused = await whyNotShown(identity, admission, engine);
  if (refused !== null) return errorResponse(admissionError(refused));
  const { readVitals } = await import("../observability/vitals.ts");
  const vitals = await readVitals();
  const { version, clock, startedAt, inFlight, upstreams } = engine;
  const providers = reportsOf(upstreams, clock.now());
  const startedOn = startedAt + wallOffset(clock);
  const text = engine.metrics.render({ version, startedAt: startedOn, inFlight, providers, vitals });
  return new Response(text, { headers: { "content-type": METRICS_TYPE, "cache-control": "no-store" } });
}

type Refused = Extract<Admission, { kind: "refused" }>;

/** Why a visitor may not see how the pool is doing; null: it may. */
async function whyNotShown(
  identity: ClientIdentity,
  admission: Admission,
  { config, openAdmin }: Engine,
): Promise<Refused | null> {
  const { access, listen, corsOrigins, adminPassword } = config;
  if (access.mode === "keys" && admission.kind === "admitted") return null;
  const locally = authorizeLocal(identity, listen, corsOrigins);
  if (locally.kind === "admitted") return null;
  const { headers, peer } = identity;
  const mayBeOperator = openAdmin !== null && adminPassword !== null && headers.has("authorization");
  if (mayBeOperator && (await openAdmin()).isOperator(headers, peer)) return null;
  return admission.kind === "refused" ? admission : locally;
}

/** The providers as they are now, the default one first. */
function reportsOf(
  [first, ...others]: Engine["upstreams"],
  now: number,
): [ProviderReport, ...ProviderReport[]] {
  const report = ({ config, pool }: Upstream): ProviderReport => ({
    name: config.name,
    dialect: config.dialect,
    baseUrl: config.baseUrl.href.replace(/\/$/, ""),
    pausedMs: Math.max(0, pool.pausedUntil - now),
    waiting: pool.waiting,
    keys: pool.report(now),
  });
  return [report(first), ...others.map(report)];
}
