import { describe, expect, test } from "bun:test";
import { Metrics, readVitals, type Snapshot } from "./metrics.ts";
import type { AttemptRecord, RequestRecord } from "../core/events.ts";
import type { KeyReport, ProviderReport } from "../pool/key.ts";

const attempt = (key: number, verdict: string): AttemptRecord => ({
  provider: "groq",
  key,
  keyId: "3e23e816",
  account: null,
  verdict,
  status: 200,
  ms: 120,
  said: "",
});

const record = (changes: Partial<RequestRecord> = {}): RequestRecord => ({
  id: 7,
  at: 0,
  method: "POST",
  path: "/groq/v1/chat/completions",
  provider: "groq",
  model: "canary-model",
  status: 200,
  outcome: "served",
  key: "groq/1",
  keyId: "3e23e816",
  account: null,
  attempts: [attempt(0, "rate_limited"), attempt(1, "served")],
  waitedMs: 0,
  firstByteMs: 400,
  totalMs: 4000,
  bytes: 1000,
  client: "canary-client",
  isTruncated: false,
  reason: "",
  maybeBilledReplays: 0,
  ...changes,
});

const keyReport = (changes: Partial<KeyReport> = {}): KeyReport => ({
  index: 0,
  id: "3e23e816",
  account: "canary-account",
  state: "ready",
  reason: null,
  coolingMs: 0,
  models: {},
  requests: 0,
  rateLimited: 0,
  errors: 0,
  today: 0,
  dailyLimit: null,
  rpmLimit: null,
  inFlight: 0,
  lastUsedAt: 0,
  said: "",
  ...changes,
});

const provider = (changes: Partial<ProviderReport> = {}): ProviderReport => ({
  name: "groq",
  dialect: "groq",
  baseUrl: "https://api.groq.com/openai/v1",
  pausedMs: 0,
  waiting: 0,
  keys: [keyReport()],
  ...changes,
});

const snapshot = (changes: Partial<Snapshot> = {}): Snapshot => ({
  version: "0.1.0",
  startedAt: 1_800_000_000_250,
  inFlight: 0,
  providers: [provider()],
  vitals: null,
  ...changes,
});

/** The samples of a page by name and labels, as they are written. */
function samplesOf(text: string): Map<string, number> {
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ")))]),
  );
}

/** The samples after some requests. */
function samplesAfter(...records: RequestRecord[]): Map<string, number> {
  const metrics = new Metrics();
  for (const each of records) metrics.finished(each);
  return samplesOf(metrics.render(snapshot()));
}

const TOKENS = { input: 100, output: 20, cached: 60, cacheWrite: 5, reasoning: 10 };
const TOKEN_LABELS = 'provider="groq",model="canary-model",client="canary-client"';

describe("the metrics", () => {
  const counted: [says: string, records: RequestRecord[], sample: string, value: number][] = [
    [
      "requests by provider, status and outcome",
      [record(), record(), record({ status: 503, outcome: "overloaded" })],
      'keywheel_requests_total{provider="groq",model="canary-model",client="canary-client",status="200",outcome="served"}',
      2,
    ],
    [
      "a refusal before any provider was asked",
      [record({ provider: null, status: 401, outcome: "invalid_proxy_key", attempts: [] })],
      'keywheel_requests_total{provider="",model="other",client="canary-client",status="401",outcome="invalid_proxy_key"}',
      1,
    ],
    [
      "a strange status with its class",
      [record({ status: 599 }), record({ status: 577 })],
      'keywheel_requests_total{provider="groq",model="canary-model",client="canary-client",status="5xx",outcome="served"}',
      2,
    ],
    [
      "a status that is none",
      [record({ status: 999 })],
      'keywheel_requests_total{provider="groq",model="canary-model",client="canary-client",status="other",outcome="served"}',
      1,
    ],
    [
      "attempts by key and verdict",
      [record(), record()],
      'keywheel_attempts_total{provider="groq",account="",key_id="3e23e816",verdict="rate_limited"}',
      2,
    ],
    [
      "tokens of the input",
      [record({ tokens: TOKENS }), record({ tokens: TOKENS }), record()],
      `keywheel_tokens_total{${TOKEN_LABELS},kind="input"}`,
      200,
    ],
    [
      "tokens of the output",
      [record({ tokens: TOKENS })],
      `keywheel_tokens_total{${TOKEN_LABELS},kind="output"}`,
      20,
    ],
    [
      "tokens from a cache",
      [record({ tokens: TOKENS })],
      `keywheel_tokens_total{${TOKEN_LABELS},kind="cached"}`,
      60,
    ],
    [
      "tokens written to a cache",
      [record({ tokens: TOKENS })],
      `keywheel_tokens_total{${TOKEN_LABELS},kind="cache_write"}`,
      5,
    ],
    [
      "tokens of thought",
      [record({ tokens: TOKENS })],
      `keywheel_tokens_total{${TOKEN_LABELS},kind="reasoning"}`,
      10,
    ],
    [
      "tokens of a model that upstream has not answered for",
      [record({ tokens: TOKENS, outcome: "abandoned" })],
      'keywheel_tokens_total{provider="groq",model="other",client="canary-client",kind="input"}',
      100,
    ],
    ["truncated answers", [record({ isTruncated: true }), record()], "keywheel_truncated_streams_total", 1],
    [
      "P3 replays that may be billed",
      [record({ maybeBilledReplays: 1 }), record()],
      "keywheel_maybe_billed_replays_total",
      1,
    ],
    ["bytes", [record(), record({ bytes: 234 })], "keywheel_response_bytes_total", 1234],
    [
      "a duration on its bucket's bound",
      [record({ totalMs: 5000 })],
      'keywheel_request_duration_seconds_bucket{provider="groq",le="5"}',
      1,
    ],
    [
      "not a duration above the bound",
      [record({ totalMs: 5001 })],
      'keywheel_request_duration_seconds_bucket{provider="groq",le="5"}',
      0,
    ],
    [
      "a duration above all bounds",
      [record({ totalMs: 3_600_000 })],
      'keywheel_request_duration_seconds_bucket{provider="groq",le="+Inf"}',
      1,
    ],
    [
      "buckets cumulatively",
      [record({ totalMs: 40 }), record({ totalMs: 4000 }), record({ totalMs: 400_000 })],
      'keywheel_request_duration_seconds_bucket{provider="groq",le="300"}',
      2,
    ],
    [
      "the sum in seconds, without rounding errors",
      Array.from({ length: 10 }, () => record({ totalMs: 100 })),
      'keywheel_request_duration_seconds_sum{provider="groq"}',
      1,
    ],
    [
      "first bytes only where one came",
      [record(), record({ firstByteMs: null })],
      'keywheel_first_byte_seconds_count{provider="groq"}',
      1,
    ],
    [
      "every request's wait",
      [record(), record({ waitedMs: 20_000 })],
      'keywheel_wait_seconds_bucket{le="10"}',
      1,
    ],
  ];
  test.each(counted)("count %s", (_, records, sample, value) => {
    expect(samplesAfter(...records).get(sample)).toBe(value);
  });

  test("count the changes of keys", () => {
    const metrics = new Metrics();
    const change = {
      at: 0,
      provider: "groq",
      key: 0,
      keyId: null,
      account: null,
      model: null,
      until: null,
      said: "",
    };
    metrics.keyChanged({ ...change, kind: "cooled", reason: "rate_limit" });
    metrics.keyChanged({ ...change, kind: "cooled", reason: "quota_day" });
    const samples = samplesOf(metrics.render(snapshot()));
    expect(samples.get('keywheel_key_events_total{provider="groq",kind="cooled"}')).toBe(2);
  });

  const shown: [says: string, changes: Partial<Snapshot>, sample: string, value: number | undefined][] = [
    ["what is in flight", { inFlight: 3 }, "keywheel_in_flight_requests", 3],
    ["the version", {}, 'keywheel_build_info{version="0.1.0"}', 1],
    ["when it started", {}, "process_start_time_seconds", 1_800_000_000.25],
    [
      "who waits for a key",
      { providers: [provider({ waiting: 4 })] },
      'keywheel_waiting_requests{provider="groq"}',
      4,
    ],
    [
      "a provider that is paused",
      { providers: [provider({ pausedMs: 2000 })] },
      'keywheel_provider_paused{provider="groq"}',
      1,
    ],
    ["a provider that is up", { providers: [provider()] }, 'keywheel_provider_paused{provider="groq"}', 0],
    [
      "1 for the state of a key",
      { providers: [provider({ keys: [keyReport({ index: 2, state: "cooling" })] })] },
      'keywheel_key_state{provider="groq",account="canary-account",key_id="3e23e816",state="cooling"}',
      1,
    ],
    [
      "0 for the states that it is not in",
      { providers: [provider({ keys: [keyReport({ index: 2, state: "cooling" })] })] },
      'keywheel_key_state{provider="groq",account="canary-account",key_id="3e23e816",state="ready"}',
      0,
    ],
    [
      "a cooldown in seconds",
      { providers: [provider({ keys: [keyReport({ coolingMs: 42_500 })] })] },
      'keywheel_key_cooldown_seconds{provider="groq",account="canary-account",key_id="3e23e816"}',
      42.5,
    ],
    [
      "a daily limit where there is one",
      { providers: [provider({ keys: [keyReport({ dailyLimit: 50 })] })] },
      'keywheel_key_daily_limit{provider="groq",account="canary-account",key_id="3e23e816"}',
      50,
    ],
    [
      "no daily limit where there is none",
      {},
      'keywheel_key_daily_limit{provider="groq",account="canary-account",key_id="3e23e816"}',
      undefined,
    ],
    [
      "the memory of the process",
      { vitals: { residentBytes: 4096, cpuSec: 1.5, openDescriptors: 9, maxDescriptors: null } },
      "process_resident_memory_bytes",
      4096,
    ],
    [
      "nothing of what cannot be read",
      { vitals: { residentBytes: null, cpuSec: 1.5, openDescriptors: null, maxDescriptors: null } },
      "process_open_fds",
      undefined,
    ],
  ];
  test.each(shown)("show %s", (_, changes, sample, value) => {
    expect(samplesOf(new Metrics().render(snapshot(changes))).get(sample)).toBe(value as number);
  });

  test("keep to the text format: a heading before its samples, each name once, every line one of three", () => {
    const metrics = new Metrics();
    metrics.finished(record());
    const text = metrics.render(snapshot());
    expect(text.endsWith("\n")).toBe(true);
    const families = new Map<string, string>();
    for (const line of text.trimEnd().split("\n")) {
      const [, name = "", type = ""] = /^# TYPE (\w+) (counter|gauge|histogram)$/.exec(line) ?? [];
      if (name !== "") {
        expect(families.has(name)).toBe(false);
        families.set(name, type);
      } else if (!line.startsWith("# HELP ")) {
        const [, sampled = ""] =
          /^(\w+)(?:\{\w+="(?:[^"\\\n]|\\[\\"n])*"(?:,\w+="(?:[^"\\\n]|\\[\\"n])*")*\})? [\d.e+]+$/.exec(
            line,
          ) ?? [];
        const [family, type] = [...families].at(-1) ?? ["", ""];
        expect(sampled.replace(type === "histogram" ? /_(?:bucket|sum|count)$/ : "", "")).toBe(family);
        if (type === "counter") expect(family).toEndWith("_total");
      }
    }
    expect(families.size).toBeGreaterThan(15);
  });

  test("escape what a label's value may hold", () => {
    const text = new Metrics().render(snapshot({ version: 'a"b\\c\nd' }));
    expect(text).toContain('keywheel_build_info{version="a\\"b\\\\c\\nd"} 1\n');
  });

  test("have no path in them, and no model that upstream has not answered for", () => {
    const metrics = new Metrics();
    metrics.finished(
      record({ path: "/canary-path", model: "canary-guess", status: 404, outcome: "rejected" }),
    );
    const text = metrics.render(snapshot({ providers: [provider({ keys: [] })] }));
    expect(text).not.toMatch(/canary-(?:path|guess)/);
    expect(text).toContain('{provider="groq",model="other",client="canary-client",status="404"');
  });

  test("name a model once upstream has answered for it, whatever comes of it then", () => {
    const samples = samplesAfter(record(), record({ status: 502, outcome: "unreachable" }));
    const labels = 'provider="groq",model="canary-model",client="canary-client"';
    expect(samples.get(`keywheel_requests_total{${labels},status="502",outcome="unreachable"}`)).toBe(1);
  });

  test("name 200 models and 200 clients, and count the others together", () => {
    const metrics = new Metrics();
    for (let i = 0; i < 300; i++) metrics.finished(record({ model: `m${i}`, client: `c${i}`, attempts: [] }));
    const samples = [...samplesOf(metrics.render(snapshot()))].filter(([name]) =>
      name.startsWith("keywheel_requests"),
    );
    expect(samples.length).toBe(201);
    expect(samples.at(-1)).toEqual([
      'keywheel_requests_total{provider="groq",model="other",client="other",status="200",outcome="served"}',
      100,
    ]);
  });

  const hidden: [says: string, changes: Partial<RequestRecord>, count: number | undefined][] = [
    ["is counted where the client got an answer", {}, 1],
    [
      "is counted where the answer is upstream's refusal of the request",
      { status: 400, outcome: "rejected" },
      1,
    ],
    ["is not where the client got our 503", { status: 503, outcome: "all_keys_cooling" }, undefined],
    ["is not where the client got a 429", { status: 429, outcome: "all_keys_cooling" }, undefined],
    ["is not where there was none", { attempts: [attempt(1, "served")] }, undefined],
    [
      "is counted each time",
      { attempts: [attempt(0, "rate_limited"), attempt(0, "rate_limited"), attempt(1, "served")] },
      2,
    ],
  ];
  test.each(hidden)("an upstream's 429 %s", (_, changes, count) => {
    const refused = (changes.attempts ?? record().attempts).map((each) => ({
      ...each,
      status: each.verdict === "served" ? 200 : 429,
    }));
    const samples = samplesAfter(record({ ...changes, attempts: refused }));
    expect(samples.get('keywheel_hidden_429_total{provider="groq"}')).toBe(count as number);
  });

  test("stay bounded, whatever comes for a label", () => {
    const metrics = new Metrics();
    for (let i = 0; i < 10_100; i++)
      metrics.finished(record({ model: null, client: null, outcome: `outcome ${i}`, attempts: [] }));
    const samples = samplesOf(metrics.render(snapshot()));
    expect(
      samples.get('keywheel_requests_total{provider="groq",model="",client="",status="200",outcome="other"}'),
    ).toBe(100);
  });
});

describe("the vitals of the process", () => {
  test("are read where there is a /proc", async () => {
    const { residentBytes, cpuSec, openDescriptors, maxDescriptors } = await readVitals();
    expect(residentBytes).toBeGreaterThan(1_000_000);
    expect(cpuSec).toBeGreaterThan(0);
    expect(openDescriptors).toBeGreaterThan(2);
    expect(maxDescriptors).toBeGreaterThan(openDescriptors ?? 0);
  });

  test("are null where there is none", async () => {
    expect(await readVitals("/nowhere")).toEqual({
      residentBytes: null,
      cpuSec: expect.any(Number),
      openDescriptors: null,
      maxDescriptors: null,
    });
  });
});
