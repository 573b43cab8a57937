/**
 * The paths that the proxy answers itself: `/health`, `/metrics`, and `/admin` where there is no dashboard.
 *
 * How the pool is doing may be seen by who has a client key, who sits at this machine, or who knows the operator's
 * password; a summary of the default provider by everybody.
 */
import type { Config } from "../config/config.ts";
import { wallOffset } from "../core/clock.ts";
import { addCors, authorizeLocal } from "../http/client-auth.ts";
import type { Admission, ClientIdentity } from "../http/client-auth.ts";
import { admissionError, errorResponse, proxyError } from "../http/error-responses.ts";
import type { RequestTarget } from "../http/request.ts";
import { healthResponse, reportOfProvider } from "../observability/health.ts";
import { METRICS_TYPE, readVitals } from "../observability/metrics.ts";
import type { ProviderReport } from "../pool/key.ts";
import type { Engine } from "./engine.ts";

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
  const refusal = await whyNotShown(identity, admission, engine);
  if (refusal !== null) return errorResponse(admissionError(refusal));
  const vitals = await readVitals();
  const { version, clock, startedAt, inFlight, upstreams } = engine;
  const providers = reportsOf(upstreams, clock.now());
  const startedOn = startedAt + wallOffset(clock);
  const text = engine.metrics.render({ version, startedAt: startedOn, inFlight, providers, vitals });
  return new Response(text, { headers: { "content-type": METRICS_TYPE, "cache-control": "no-store" } });
}

/** Why this peer may not see how the pool is doing; null: it may. */
async function whyNotShown(
  identity: ClientIdentity,
  admission: Admission,
  engine: Engine,
): Promise<Extract<Admission, { kind: "refused" }> | null> {
  const { access, listen, corsOrigins } = engine.config;
  if (access.mode === "keys" && admission.kind === "admitted") return null;
  const locally = authorizeLocal(identity, listen, corsOrigins);
  if (locally.kind === "admitted") return null;
  if (await isOperator(identity, engine)) return null;
  return admission.kind === "refused" ? admission : locally;
}

/** Whether the request carries the operator's password. */
async function isOperator(
  { headers, peer }: ClientIdentity,
  { openAdmin, config }: Engine,
): Promise<boolean> {
  if (openAdmin === null || config.adminPassword === null || !headers.has("authorization")) return false;
  return (await openAdmin()).isOperator(headers, peer);
}

/** The providers as they are now, the default one first. */
function reportsOf(
  [first, ...others]: Engine["upstreams"],
  now: number,
): [ProviderReport, ...ProviderReport[]] {
  return [
    reportOfProvider(first.config, first.pool, now),
    ...others.map(({ config, pool }) => reportOfProvider(config, pool, now)),
  ];
}

/** The answer under `/admin` where no password is set: what to set, as a page for a browser, as JSON for a program. */
export function adminOff(request: Request, peer: string | null, config: Config): Response {
  const { headers } = request;
  const response = adminOffAnswer(request, peer, config);
  addCors(response.headers, headers, config.corsOrigins);
  return response;
}

function adminOffAnswer({ method, headers }: Request, peer: string | null, config: Config): Response {
  const { access, listen, corsOrigins } = config;
  if (access.mode === "protected") {
    const admission = authorizeLocal({ peer, headers, keyParameter: null }, listen, corsOrigins);
    if (admission.kind === "refused") return errorResponse(admissionError(admission));
  }
  const wantsPage = headers.get("accept")?.includes("text/html") === true;
  if (!wantsPage) return errorResponse(ADMIN_OFF);
  return new Response(method === "HEAD" ? null : ADMIN_OFF_PAGE, {
    status: ADMIN_OFF.status,
    headers: {
      "cache-control": "no-store",
      "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
      "content-type": "text/html; charset=utf-8",
      "x-content-type-options": "nosniff",
    },
  });
}

const ADMIN_OFF = proxyError(
  404,
  "not_found",
  "The dashboard is off, because it has no password. Set ADMIN_PASSWORD (8 characters or more) in keywheel's settings: it takes effect at once, or at the next start where it is set in the environment.",
);

const ADMIN_OFF_PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>keywheel: the dashboard is off</title>
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:38rem;margin:3rem auto;padding:0 1rem}code{font-size:1rem}</style>
<main>
<h1>The dashboard is off</h1>
<p>It has no password yet. Add this line to keywheel's settings, with a password of your own (8 characters or more):</p>
<p><code>ADMIN_PASSWORD=</code></p>
<p>In an <code>.env</code> file it takes effect at once. Then load this page again.
Where settings come from the environment, restart keywheel.</p>
</main>
</html>
`;
