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
    ["that names one in another case goes there too", "/GroQ/v1/models", "groq", false, "/v1/models"],
    ["that names one under an escape goes there too", "/%67roq/v1/models", "groq", false, "/v1/models"],
    ["that names one and comes with a slash too many", "/groq//v1/models", "groq", false, "/v1/models"],
    ["whose version is doubled behind the name", "/groq/v1/v1/models", "groq", false, "/v1/models"],
    ["whose version is doubled", "/v1/v1/models", "default", true, "/v1/models"],
    ["that names one behind the version is the default one's", "/v1/groq/x", "default", true, "/v1/groq/x"],
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
    [
      "of a browser that loads a page",
      "/v1/files/x/content",
      { headers: { "sec-fetch-dest": "document" } },
      403,
    ],
    ["of a page that shows it in a frame", "/groq/v1/x", { headers: { "sec-fetch-dest": "iframe" } }, 403],
    ["of a page that takes it for a picture", "/v1/x", { headers: { "sec-fetch-dest": "image" } }, 403],
    ["of a page that takes it for a script", "/v1/x.js", { headers: { "sec-fetch-dest": "script" } }, 403],
    ["of a service worker to be", "/sw.js", { headers: { "sec-fetch-dest": "serviceworker" } }, 403],
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
    ["our own key under another name", "?api_key=own-client-canary&a=1", { "x-api-key": "y" }, KEYED, "?a=1"],
    [
      "our own key in an access token",
      "?a=1&access_token=own-client-canary",
      { "x-api-key": "y" },
      KEYED,
      "?a=1",
    ],
    ["our own key with its encoding", "?token=own%2Dclient-canary", { "x-api-key": "y" }, KEYED, ""],
    ["our own key behind a word", "?auth=Bearer%20own-client-canary&a", { "x-api-key": "y" }, KEYED, "?a"],
    ["what is no key of ours", "?api_key=x&a=1", { "x-api-key": "y" }, KEYED, "?api_key=x&a=1"],
  ];
  test.each(queries)("P29 takes or leaves on its way: %s", (_, query, headers, access, on) => {
    expect(planned("/v1/models", query, { headers }, access)).toMatchObject({ target: { query: on } });
  });
});

describe("the targets of a request", () => {
  const ROUTES: Config["routes"] = [
    {
      name: "smart",
      isPattern: false,
      targets: [
        { provider: "groq", model: "big" },
        { provider: "off", model: "bigger" },
      ],
    },
    { name: "lost", isPattern: false, targets: [{ provider: "off", model: "big" }] },
  ];
  const PATTERNS: Config["routes"] = [
    { name: "claude-haiku", isPattern: false, targets: [{ provider: "groq", model: "small" }] },
    { name: "claude-*-mini", isPattern: true, targets: [{ provider: "groq", model: "mini" }] },
    { name: "claude-*", isPattern: true, targets: [{ provider: "groq", model: null }] },
  ];
  const FALLBACK: Config["fallback"] = [{ provider: "groq", model: null }];

  /** As `provider/model` each. */
  function targets(model: string | null, config: Pick<Config, "routes" | "fallback">, path: string): string {
    const route = planned(path, "");
    if (route.kind === "refused") throw new Error(route.message);
    const hops = hopsOf({ model }, route, config, [DEFAULT, GROQ, OFF]);
    return hops.map((hop) => `${hop.upstream.config.name}/${hop.model ?? "as asked"}`).join(" > ");
  }

  const both = { routes: ROUTES, fallback: FALLBACK };
  const none = { routes: [], fallback: [] };
  const patterns = { routes: PATTERNS, fallback: [] };
  const chains: [what: string, path: string, model: string | null, config: typeof both, targets: string][] = [
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
    ["are those of a pattern, with the client's model", "/v1/x", "claude-x", patterns, "groq/as asked"],
    ["are those of the first pattern that fits", "/v1/x", "claude-4-mini", patterns, "groq/mini"],
    ["are those of a name that is no pattern first", "/v1/x", "claude-haiku", patterns, "groq/small"],
    ["are its provider where no pattern fits", "/v1/x", "Claude-x", patterns, "default/as asked"],
    ["are its provider where it names no model", "/v1/x", null, patterns, "default/as asked"],
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
