/**
 * Conversations of the Responses API whose reasoning is encrypted, over accounts that may or may not read each other's.
 */
import { describe, expect, test } from "bun:test";
import { ResourceOwners, bindingOf } from "./resource-owners.ts";
import type { EncryptionScope } from "./resource-owners.ts";
import { FalseClock, httpAnswer, stage, startRawProvider, until } from "../testing/fixture.ts";
import type { RawProvider, RawRequest } from "../testing/fixture.ts";

const WINDOW_MS = 3000;

/** One request a key in 3 s; `readers`: who can read what a key has encrypted. */
function limitedProvider(readers: "any" | "account", clock: FalseClock): (request: RawRequest) => Buffer {
  const nextAt = new Map<string, number>();
  let made = 0;
  return ({ key, body }) => {
    const name = key ?? "";
    const readyAt = nextAt.get(name) ?? 0;
    if (clock.now() < readyAt) {
      const seconds = String(Math.ceil((readyAt - clock.now()) / 1000));
      return httpAnswer(429, '{"error":{"message":"Slow down."}}', { "retry-after": seconds });
    }
    const owners = [...body.toString().matchAll(/"encrypted_content":"gAAAAAB(\d)/g)].map(
      ([, owner]) => owner,
    );
    const own = name.slice(-1);
    if (readers === "account" && owners.some((owner) => owner !== own)) {
      const error = {
        message: "The encrypted content could not be verified.",
        code: "invalid_encrypted_content",
      };
      return httpAnswer(400, JSON.stringify({ error }));
    }
    nextAt.set(name, clock.now() + WINDOW_MS);
    made += 1;
    const mark = `gAAAAAB${own}${String(made).padStart(4, "0")}${"x".repeat(120)}`;
    const output = [{ id: `rs_${made}a`, type: "reasoning", summary: [], encrypted_content: mark }];
    return httpAnswer(
      200,
      JSON.stringify({ id: `resp_${made}a`, object: "response", status: "completed", output }),
    );
  };
}

interface Turn {
  readonly status: number;
  readonly key: string;
}

/**
 * So many sessions of so many turns, each turn with the reasoning of all before, as codex sends it (`store: false`).
 */
async function session(readers: "any" | "account", turns: number, sessions = 1) {
  const clock = new FalseClock();
  const answer = limitedProvider(readers, clock);
  await using provider = startRawProvider((request, connection) => connection.write(answer(request)));
  await using staged = stage({
    settings: { API_KEYS: "key-1,key-2,key-3", TARGET_BASE_URL: provider.url, PROVIDER: "openai" },
    clock,
  });
  const seen: Turn[] = [];
  const began = clock.now();
  for (let run = 0; run < sessions; run += 1) {
    const input: unknown[] = [{ role: "user", content: `hello ${run}` }];
    for (let turn = 0; turn < turns; turn += 1) {
      const asking = fetch(`${staged.url}/v1/responses`, {
        method: "POST",
        body: JSON.stringify({ model: "m", store: false, include: ["reasoning.encrypted_content"], input }),
      });
      let isThere = false;
      asking.finally(() => (isThere = true)).catch(() => {});
      while (!isThere) {
        await until("an answer, or a wait", () => isThere || staged.engine.upstreams[0].pool.waiting > 0);
        if (!isThere && clock.nextAt < Infinity) await clock.advance(Math.max(1, clock.nextAt - clock.now()));
      }
      const response = await asking;
      seen.push({ status: response.status, key: response.headers.get("x-keywheel-key") ?? "" });
      const { output = [] }: { output?: unknown[] } = JSON.parse(await response.text());
      input.push(...output, { role: "user", content: "go on" });
    }
  }
  return { turns: seen, tookMs: clock.now() - began, provider };
}

/** Those that were sent with another key than the one that encrypted their reasoning. */
function foreignRequests({ requests }: RawProvider): RawRequest[] {
  return requests.filter(({ key, body }) => {
    const owner = /gAAAAAB(\d)/.exec(body.toString())?.[1];
    return owner !== undefined && key?.endsWith(owner) !== true;
  });
}

describe("P35 reasoning that is encrypted", () => {
  test("goes to any account where the provider lets all of them read it", async () => {
    const { turns, tookMs } = await session("any", 4);
    expect(turns.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect(new Set(turns.map(({ key }) => key)).size).toBeGreaterThan(1);
    expect(tookMs).toBeLessThan(6000);
  });

  test("stays with its account where only that one can read it, and another is asked once", async () => {
    const { turns, provider } = await session("account", 4);
    expect(turns.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect(new Set(turns.map(({ key }) => key)).size).toBe(1);
    expect(foreignRequests(provider)).toHaveLength(1);
  });

  test("is asked of another account once for all conversations", async () => {
    const { turns, provider } = await session("account", 3, 3);
    expect(turns.every(({ status }) => status === 200)).toBe(true);
    expect(foreignRequests(provider)).toHaveLength(1);
  });
});

describe("P35 whom a request with encrypted texts has to ask", () => {
  const mark = `gAAAAAB1${"x".repeat(120)}`;
  const reasoning = { id: "rs_1a", type: "reasoning", summary: [], encrypted_content: mark };
  const bindingFor = (input: unknown, scope: EncryptionScope, more: object = {}) => {
    const owners = new ResourceOwners();
    owners.learn("p", "one", ["rs_1a", "rs_2a", "resp_1a", mark.slice(0, 48)], 0);
    if (scope !== "unknown") owners.setEncryptionScope("p", scope);
    const body = new TextEncoder().encode(JSON.stringify({ model: "m", input, ...more }));
    const request = { path: "/v1/responses", query: "", method: "POST", body };
    return { owners, binding: bindingOf(request, "p", () => ["one", "two"], owners) };
  };
  type Row = [
    sentence: string,
    input: unknown,
    EncryptionScope,
    bound: string | null,
    preferred: string | null,
    more?: object,
  ];
  test.each<Row>([
    ["its own account is better, where nothing is known", [reasoning], "unknown", null, "one"],
    ["its own account, while another request finds out", [reasoning], "trying", "one", "one"],
    ["its own account, where no other can read them", [reasoning], "account", "one", "one"],
    ["its own account is better, where all can read them", [reasoning], "any", null, "one"],
    [
      "the same where the reasoning has no id",
      [{ type: "reasoning", encrypted_content: mark }],
      "any",
      null,
      "one",
    ],
    [
      "its own account, where reasoning is named and not there",
      [{ id: "rs_2a", type: "reasoning" }],
      "any",
      "one",
      "one",
    ],
    [
      "its own account, where some of it is not there",
      [reasoning, { id: "rs_2a", type: "reasoning" }],
      "any",
      "one",
      "one",
    ],
    [
      "its own account, where it goes on from a stored response",
      [reasoning],
      "any",
      "one",
      "one",
      { previous_response_id: "resp_1a" },
    ],
    ["anybody, where nothing is encrypted", [{ role: "user", content: "hi" }], "account", null, null],
  ])("%s", (_, input, scope, bound, preferred, more = {}) => {
    const { binding } = bindingFor(input, scope, more);
    expect([binding?.boundTo ?? null, binding?.preferredAccount ?? null]).toEqual([bound, preferred]);
  });

  type Trial = [sentence: string, account: string, status: number, body: string, EncryptionScope];
  test.each<Trial>([
    ["an answer of another account shows that all can read it", "two", 200, "{}", "any"],
    [
      "a refusal for what is encrypted shows that only its own can",
      "two",
      400,
      '{"error":{"code":"invalid_encrypted_content"}}',
      "account",
    ],
    [
      "so does the sentence",
      "two",
      400,
      '{"error":{"message":"Encrypted content organization_id did not match the target organization."}}',
      "account",
    ],
    ["another bad request shows nothing", "two", 400, '{"error":{"message":"Bad value"}}', "unknown"],
    ["a rate limit shows nothing", "two", 429, "{}", "unknown"],
    ["no answer shows nothing", "two", 0, "", "unknown"],
    ["an answer of its own account shows nothing", "one", 200, "{}", "unknown"],
  ])("%s", (_, account, status, body, scope) => {
    const { owners, binding } = bindingFor([reasoning], "unknown");
    binding?.attemptStarted(account);
    expect(owners.encryptionScope("p")).toBe(account === "one" ? "unknown" : "trying");
    const end = binding?.attemptEnded(account, status, new TextEncoder().encode(body));
    expect(end ?? null).toBe(scope === "account" ? "cannot_read" : null);
    expect(owners.encryptionScope("p")).toBe(scope);
  });
});
