/** What counts against a day and a minute that were set, and what does not (A11). */
import { describe, expect, test } from "bun:test";
import { chat, FalseClock, httpAnswer, stage, startRawProvider } from "./fixture.ts";

const GOOD = httpAnswer(200, '{"id":"1"}');
const MISSING = httpAnswer(404, '{"error":{"message":"No such thread.","type":"invalid_request_error"}}');

/** What one request after another is answered, by a proxy with one key of three requests a day, or a minute. */
async function asked(settings: Record<string, string>, requests: [method: string, path: string][]) {
  await using provider = startRawProvider(({ method, target }, connection) => {
    const answer = target.includes("missing") ? MISSING : GOOD;
    connection.write(method === "HEAD" ? answer.subarray(0, answer.indexOf("\r\n\r\n") + 4) : answer);
  });
  const own = { API_KEYS: "k-canary", TARGET_BASE_URL: provider.url, PROVIDER: "generic", MAX_WAIT_SEC: "0" };
  await using proxy = stage({ settings: { ...own, ...settings }, clock: new FalseClock() });
  const statuses: number[] = [];
  for (const [method, path] of requests) {
    const body = method === "POST" ? "{}" : null;
    statuses.push((await fetch(proxy.url + path, { method, body })).status);
  }
  const spent = (await chat(proxy.url)).status; // whether one more would go out
  const [key] = (await proxy.health()).providers[0]?.keys ?? [];
  return { statuses, spent, today: key?.["today"] };
}

const times = (count: number, method: string, path: string) =>
  Array.from({ length: count }, (): [string, string] => [method, path]);

describe("a request", () => {
  const rows: [says: string, requests: [string, string][], counts: number][] = [
    ["that lists the models is not counted", times(9, "GET", "/v1/models"), 0],
    ["that asks for a head is not", times(9, "HEAD", "/v1/models"), 0],
    ["that asks what is allowed is not", times(9, "OPTIONS", "/v1/chat/completions"), 0],
    ["for the state of a batch is not", times(9, "GET", "/v1/batches/b"), 0],
    ["that finds nothing is not", times(9, "POST", "/v1/missing"), 0],
    ["that asks for nothing there is not", times(9, "GET", "/v1/missing"), 0],
    ["to be worked on is", times(2, "POST", "/v1/embeddings"), 2],
    ["to delete is", times(1, "DELETE", "/v1/files/f"), 1],
    ["is counted beside others that are not", [...times(2, "POST", "/v1/x"), ...times(5, "GET", "/v1/x")], 2],
  ];
  const limits: [name: string, value: string][] = [
    ["API_KEYS", "k-canary:3"],
    ["DAILY_LIMIT", "3"],
    ["RPM", "3"],
  ];
  const table = limits.flatMap(([name, value]) => rows.map((row) => [`${name}=${value}`, ...row] as const));
  test.each(table)("A11 with %s %s", async (limit, _, requests, counts) => {
    const [name = "", value = ""] = limit.split("=");
    const { statuses, spent, today } = await asked({ [name]: value }, requests);
    expect(statuses.filter((status) => status >= 500)).toEqual([]);
    expect([spent, today]).toEqual([200, counts + 1]);
  });

  test.each(limits)("A11 that only asks goes out although %s=%s is used up", async (name, value) => {
    const { statuses, spent } = await asked({ [name]: value }, [
      ...times(3, "POST", "/v1/x"),
      ["GET", "/v1/models"],
    ]);
    expect([...statuses, spent]).toEqual([200, 200, 200, 200, 503]);
  });
});
