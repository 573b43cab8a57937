/**
 * The paths that the proxy answers itself: `/`, `/favicon.ico`, `/robots.txt`, `/health`, `/metrics`, and `/admin`
 * where there is no dashboard. None of them ever goes upstream, and none needs a key of the pool.
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
import type { SharingReport } from "../observability/health.ts";
import { METRICS_TYPE, readVitals } from "../observability/metrics.ts";
import type { ClientReport } from "../pool/client-limits.ts";
import type { ProviderReport } from "../pool/key.ts";
import type { Engine } from "./engine.ts";

/** The answer to such a path; null: the path is another. */
export function ownAnswer(
  { method }: Request,
  { path }: RequestTarget,
  identity: ClientIdentity,
  admission: Admission,
  engine: Engine,
): Response | Promise<Response> | null {
  switch (path) {
    case "/":
      return method === "GET" || method === "HEAD" ? start(method, identity, admission, engine) : null;
    case "/favicon.ico":
      return new Response(null, { status: 204, headers: { "cache-control": "max-age=86400" } });
    case "/robots.txt":
      return new Response(method === "HEAD" ? null : "User-agent: *\nDisallow: /\n", { headers: PLAIN_TEXT });
    case "/health":
      return health(identity, admission, engine);
    case "/metrics":
      return metrics(identity, admission, engine);
    default:
      return null;
  }
}

const PLAIN_TEXT = { "content-type": "text/plain; charset=utf-8", "cache-control": "max-age=86400" };

/** What this is, and which base URL to give to a tool: a page for a browser, one line of JSON for a program. */
function start(
  method: string,
  { headers }: ClientIdentity,
  admission: Admission,
  { version, config, openAdmin }: Engine,
): Response {
  // Another machine gets no answer in protected mode. A page that leads here may: there is nothing to take away.
  if (admission.kind === "refused" && admission.type === "protected_mode")
    return errorResponse(admissionError(admission));
  const scheme = headers.get("x-forwarded-proto") === "https" ? "https" : "http"; // as it is shown, and no more
  const baseUrl = `${scheme}://${headers.get("host") ?? "127.0.0.1"}`;
  const hasDashboard = openAdmin !== null && config.adminPassword !== null;
  if (!wantsPage(headers)) {
    const dashboard = hasDashboard ? `${baseUrl}/admin` : null;
    const facts = {
      name: "keywheel",
      version,
      base_url: `${baseUrl}/v1`,
      health: `${baseUrl}/health`,
      dashboard,
    };
    const body = method === "HEAD" ? null : `${JSON.stringify(facts)}\n`;
    return new Response(body, {
      headers: { "content-type": "application/json", "cache-control": "no-store" },
    });
  }
  return pageResponse(method, 200, startPage(baseUrl, hasDashboard));
}

function wantsPage(headers: Headers): boolean {
  return headers.get("accept")?.includes("text/html") === true;
}

/** `baseUrl`: made of a `Host` that was found readable, so that there is no sign of HTML in it. */
function startPage(baseUrl: string, hasDashboard: boolean): string {
  const dashboard = hasDashboard
    ? `<p><a href="/admin">Open the dashboard</a>: keys, limits, traffic.</p>`
    : `<p>The dashboard is off. Set <code>ADMIN_PASSWORD</code> in keywheel's settings, then open <a href="/admin">/admin</a>.</p>`;
  return page(
    "keywheel",
    `<h1>keywheel is running</h1>
<p>It stands between your tools and their provider, and shares a pool of API keys among them.</p>
<p>Give your tool this base URL, and as its API key a key from <code>PROXY_API_KEY</code> (any text where that is not set):</p>
<p><code>${baseUrl}/v1</code></p>
<p>Tools made for Anthropic (<code>ANTHROPIC_BASE_URL</code>) and for Gemini take it without <code>/v1</code>:</p>
<p><code>${baseUrl}</code></p>
${dashboard}
<p><a href="/health">How the keys are doing</a></p>`,
  );
}

async function health(identity: ClientIdentity, admission: Admission, engine: Engine): Promise<Response> {
  const isKnownClient = (await whyNotShown(identity, admission, engine)) === null;
  const { version, clock, startedAt, upstreams, config } = engine;
  const now = clock.now();
  const providers = reportsOf(upstreams, now);
  const client = clientOf(admission, engine);
  const sharing = sharingReportOf(engine);
  const response = healthResponse({
    version,
    uptimeMs: now - startedAt,
    providers,
    isKnownClient,
    client,
    sharing,
  });
  addCors(response.headers, identity.headers.get("origin"), config.corsOrigins);
  return response;
}

/** The instances that share the pool; null: this one is by itself. */
export function sharingReportOf({ sharing, clock }: Engine): SharingReport | null {
  return sharing === null ? null : { state: sharing.state, instances: sharing.instances, date: clock.wall() };
}

/** What the client that asks has left. Whoever may ask without a key is one client. */
function clientOf(admission: Admission, { clientLimiter }: Engine): ClientReport | null {
  if (admission.kind === "refused") return null;
  const { client, keyId = null } = admission;
  return clientLimiter.reportOf({ client, clientKeyId: keyId });
}

async function metrics(identity: ClientIdentity, admission: Admission, engine: Engine): Promise<Response> {
  const refusal = await whyNotShown(identity, admission, engine);
  if (refusal !== null) return errorResponse(admissionError(refusal));
  const vitals = await readVitals();
  const { version, clock, startedAt, inFlight, upstreams } = engine;
  const providers = reportsOf(upstreams, clock.now());
  const startedOn = startedAt + wallOffset(clock);
  const text = engine.metrics.render({
    version,
    startedAt: startedOn,
    inFlight,
    providers,
    vitals,
    sharing: sharingReportOf(engine),
  });
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
  addCors(response.headers, headers.get("origin"), config.corsOrigins);
  return response;
}

function adminOffAnswer({ method, headers }: Request, peer: string | null, config: Config): Response {
  const { access, listen, corsOrigins } = config;
  if (access.mode === "protected") {
    const admission = authorizeLocal({ peer, headers, keyParameter: null }, listen, corsOrigins);
    if (admission.kind === "refused") return errorResponse(admissionError(admission));
  }
  return wantsPage(headers)
    ? pageResponse(method, ADMIN_OFF.status, ADMIN_OFF_PAGE)
    : errorResponse(ADMIN_OFF);
}

function pageResponse(method: string, status: number, html: string): Response {
  return new Response(method === "HEAD" ? null : html, {
    status,
    headers: {
      "cache-control": "no-store",
      "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
      "content-type": "text/html; charset=utf-8",
      "x-content-type-options": "nosniff",
    },
  });
}

function page(title: string, main: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:38rem;margin:3rem auto;padding:0 1rem}code{font-size:1rem}</style>
<main>
${main}
</main>
</html>
`;
}

const ADMIN_OFF = proxyError(
  404,
  "not_found",
  "The dashboard is off, because it has no password. Set ADMIN_PASSWORD (8 characters or more) in keywheel's settings: it takes effect at once, or at the next start where it is set in the environment.",
);

const ADMIN_OFF_PAGE = page(
  "keywheel: the dashboard is off",
  `<h1>The dashboard is off</h1>
<p>It has no password yet. Add this line to keywheel's settings, with a password of your own (8 characters or more):</p>
<p><code>ADMIN_PASSWORD=</code></p>
<p>In an <code>.env</code> file it takes effect at once. Then load this page again.
Where settings come from the environment, restart keywheel.</p>`,
);
