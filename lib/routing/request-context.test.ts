import { describe, expect, test } from "bun:test";
import { stage } from "../testing/fixture.ts";
import type { ClientEnd } from "./engine.ts";
import { RequestContext } from "./request-context.ts";
import { planRoute } from "./route.ts";

/** A request, and every time that was set for its connection, in seconds. */
async function timeoutsOf(method: string, play: (context: RequestContext) => void): Promise<number[]> {
  await using proxy = stage({
    settings: { API_KEYS: "k-canary", PROVIDER: "generic", TARGET_BASE_URL: "http://h" },
  });
  const request = new Request("http://127.0.0.1/v1/x", { method });
  const route = planRoute(request, { path: "/v1/x", query: "" }, proxy.engine);
  if (route.kind === "refused") throw new Error(route.message);
  const timeouts: number[] = [];
  const clientEnd: ClientEnd = {
    timeout: (_, seconds) => void timeouts.push(seconds),
    receive: () => Promise.resolve({ kind: "received", body: null, readable: null }),
    startsToWait() {},
    copiesPieces: true,
    openBody: () => new ReadableStream(),
  };
  play(
    new RequestContext(
      request,
      clientEnd,
      proxy.engine,
      route,
      null,
      null,
      proxy.engine.load.shareOf("somebody"),
    ),
  );
  return timeouts;
}

describe("the connection of a request", () => {
  const rows: [says: string, method: string, play: (context: RequestContext) => void, seconds: number[]][] = [
    ["B7 is kept for longer than clients keep theirs", "GET", (it) => it.end(200, "served", 0), [95]],
    ["is given up where its body is silent", "POST", (it) => it.expectBody(), [30]],
    ["is not cut short where no body comes", "GET", (it) => it.expectBody(), []],
    ["is held by our own clocks once", "POST", (it) => (it.hold(), it.hold()), [0]],
    ["is kept for long after that, too", "POST", (it) => (it.hold(), it.end(200, "served", 0)), [0, 95]],
    ["is ended once", "POST", (it) => (it.end(200, "served", 0), it.end(200, "served", 0), it.hold()), [95]],
  ];
  test.each(rows)("%s", async (_, method, play, seconds) => {
    expect(await timeoutsOf(method, play)).toEqual(seconds);
  });
});
