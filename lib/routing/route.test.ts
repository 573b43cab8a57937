import { describe, expect, test } from "bun:test";
import type { Access, Config } from "../config/config.ts";
import { hopsOf, planRoute } from "./route.ts";
import { Secret } from "../core/secret.ts";
import type { Upstream } from "./engine.ts";

/** An upstream, as far as a route looks at it. */
const upstream = (name: string, disabled = false) =>
  ({ config: { name, disabled }, prefix: name === "default" ? null : `/${name}` }) as unknown as Upstream;
const DEFAULT = upstream("default");
const GROQ = upstream("groq");
const OFF = upstream("off", true);

const OPEN: Access = { mode: "open" };
const KEYED: Access = { mode: "keys", clients: [{ name: null, secret: new Secret("own-client-canary") }] };

function planned(path: string, query: string, init: RequestInit = {}, access = OPEN, draining = false) {
  const request = new Request("http://127.0.0.1/", init);
  return planRoute(
    request,
    { path, query },
    { upstreams: [DEFAULT, GROQ, OFF], draining, config: { access } as Config },
  );
}

describe("a request", () => {
  const ways: [what: string, path: string, provider: string, mayLeadElsewhere: boolean, onPath: string][] = [
    ["that names no provider goes to the default one", "/v1/models", "default", true, "/v1/models"],
    ["that names one goes there, without the name", "/groq/v1/models", "groq", false, "/v1/models"],
    ["that names one and no more asks for its root", "/groq", "groq", false, "/"],
    [
      "whose path only begins like a name is the default one's",
      "/groqish/v1",
      "default",
      true,
      "/groqish/v1",
    ],
  ];
  test.each(ways)("%s", (_, path, provider, mayLeadElsewhere, onPath) => {
    const route = planned(path, "?a=1");
    expect(route).toMatchObject({ kind: "route", mayLeadElsewhere, target: { path: onPath, query: "?a=1" } });
    expect(route.kind === "route" && route.upstream.config.name).toBe(provider);
  });

  const refusals: [what: string, path: string, init: RequestInit, status: number][] = [
    ["for a provider that is switched off", "/off/v1/models", {}, 503],
    ["for the operator's paths where there is no operator", "/admin/api/overview", {}, 404],
    ["for what lies below the metrics", "/metrics/x", {}, 404],
    ["for a WebSocket", "/v1/realtime", { headers: { upgrade: "WebSocket" } }, 426],
    ["with statuses that nobody can read", "/v1/x", { headers: { "x-keywheel-retry-status": "often" } }, 400],
  ];
  test.each(refusals)("%s goes nowhere", (_, path, init, status) => {
    expect(planned(path, "", init)).toMatchObject({ kind: "refused", status });
  });

  test("P31 goes nowhere any more while the proxy ends", () => {
    expect(planned("/v1/models", "", {}, OPEN, true)).toMatchObject({ kind: "refused", type: "draining" });
  });

  const queries: [
    what: string,
    query: string,
    headers: Record<string, string>,
    access: Access,
    on: string,
  ][] = [
    ["a key that is the only credential", "?key=x&a=1", {}, OPEN, "?a=1"],
    ["what is called so beside a credential", "?key=x&a=1", { "x-api-key": "y" }, OPEN, "?key=x&a=1"],
    ["our own key beside another", "?key=own-client-canary", { "x-api-key": "y" }, KEYED, ""],
  ];
  test.each(queries)("P29 takes or leaves on its way: %s", (_, query, headers, access, on) => {
    expect(planned("/v1/models", query, { headers }, access)).toMatchObject({ target: { query: on } });
  });
});

describe("the targets of a request", () => {
  const ROUTES: Config["routes"] = [
    {
      name: "smart",
      targets: [
        { provider: "groq", model: "big" },
        { provider: "off", model: "bigger" },
      ],
    },
    { name: "lost", targets: [{ provider: "off", model: "big" }] },
  ];
  const FALLBACK: Config["fallback"] = [{ provider: "groq", model: null }];

  /** As `provider/model` each. */
  function targets(model: string, config: Pick<Config, "routes" | "fallback">, path: string): string {
    const route = planned(path, "");
    if (route.kind === "refused") throw new Error(route.message);
    const hops = hopsOf({ model }, route, config, [DEFAULT, GROQ, OFF]);
    return hops.map((hop) => `${hop.upstream.config.name}/${hop.model ?? "as asked"}`).join(" > ");
  }

  const both = { routes: ROUTES, fallback: FALLBACK };
  const none = { routes: [], fallback: [] };
  const chains: [what: string, path: string, model: string, config: typeof both, targets: string][] = [
    ["are its provider alone where nothing is set", "/v1/x", "smart", none, "default/as asked"],
    [
      "are its provider, and what stands behind it",
      "/v1/x",
      "small",
      both,
      "default/as asked > groq/as asked",
    ],
    ["are a route's, save what is switched off", "/v1/x", "smart", both, "groq/big"],
    ["are its provider first where a route leads nowhere", "/v1/x", "lost", both, "default/as asked"],
    ["are the provider that the path names, and no other", "/groq/v1/x", "smart", both, "groq/as asked"],
  ];
  test.each(chains)("%s", (_, path, model, config, expected) => {
    expect(targets(model, config, path)).toBe(expected);
  });

  test("are found without looking for the model where nothing depends on it", () => {
    const route = planned("/v1/x", "");
    if (route.kind === "refused") throw new Error(route.message);
    const request = {
      get model(): string {
        throw new Error("the body was searched");
      },
    };
    expect(hopsOf(request, route, none, [DEFAULT])).toHaveLength(1);
  });
});
