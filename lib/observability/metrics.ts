/**
 * Finished requests to numbers, and numbers to the text that Prometheus reads at `/metrics`.
 *
 * Counters are kept as requests finish, and found again by the label values themselves: nothing is put into a string
 * until somebody asks. What a key or a provider is like now is not kept here but taken from a snapshot. A key is named
 * by its account and id, never by its place in the list, which changes. Every label is bounded: by the configuration,
 * by words of our own, and models (those that upstream has answered for) and clients by a number.
 */
import { hidden429Of } from "../core/events.ts";
import type { KeyEvent, Observer, RequestRecord, TokenUsage } from "../core/events.ts";
import type { ProviderReport } from "../pool/key.ts";
import type { SharingReport } from "./health.ts";

export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** What is read off the running proxy when somebody asks. */
export interface Snapshot {
  version: string;
  /** Epoch ms when the process began to serve. */
  startedAt: number;
  inFlight: number;
  providers: readonly ProviderReport[];
  /** Null: not asked for. */
  vitals: Vitals | null;
  /** The instances that share the pool; null: this one is by itself. */
  sharing?: SharingReport | null;
}

/** Upper bounds in seconds: a refusal takes milliseconds, an answer of a thinking model minutes. */
const BUCKETS_SEC = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300] as const;

/** Models and clients that have a label of their own; the others count as `other`. */
const MOST_LABELLED = 200;

/** Counts what happens, for as long as the process runs. */
export class Metrics implements Observer {
  /** By provider, model, client, status and outcome. */
  readonly #requests = new Tally();
  /** By provider, account, key and verdict. */
  readonly #attempts = new Tally();
  /** By provider and kind. */
  readonly #keyEvents = new Tally();
  /** By provider. */
  readonly #hidden429 = new Tally();
  readonly #models = new BoundedNames();
  readonly #clients = new BoundedNames();
  readonly #waits = new Histogram();
  /** By provider; "" where none was asked. */
  readonly #firstBytes = new Map<string, Histogram>();
  readonly #durations = new Map<string, Histogram>();
  #truncated = 0;
  #maybeBilledReplays = 0;
  #responseBytes = 0;

  finished(record: RequestRecord): void {
    const provider = record.provider ?? "";
    // A model is a word of the client's: it is believed to be one once upstream has answered for it.
    const model = this.#models.labelOf(record.model, record.outcome === "served");
    const client = this.#clients.labelOf(record.client, true);
    const status = statusLabel(record.status);
    const ofClient = this.#requests.at(provider).at(model).at(client);
    ofClient.at(status).at(record.outcome).count += 1;
    const { tokens = null } = record;
    if (tokens !== null) ofClient.countTokens(tokens);
    for (const attempt of record.attempts) {
      const { account, keyId, verdict } = attempt;
      this.#attempts
        .at(attempt.provider)
        .at(account ?? "")
        .at(keyId)
        .at(verdict).count += 1;
    }
    const hidden = hidden429Of(record);
    if (hidden > 0) this.#hidden429.at(provider).count += hidden;
    this.#waits.observe(record.waitedMs);
    if (record.firstByteMs !== null) histogramOf(this.#firstBytes, provider).observe(record.firstByteMs);
    histogramOf(this.#durations, provider).observe(record.totalMs);
    if (record.isTruncated) this.#truncated += 1;
    this.#maybeBilledReplays += record.maybeBilledReplays;
    this.#responseBytes += record.bytes;
  }

  keyChanged(event: KeyEvent): void {
    this.#keyEvents.at(event.provider).at(event.kind).count += 1;
  }

  /** All of it, in the text format of Prometheus (0.0.4). */
  render(snapshot: Snapshot): string {
    const text = new MetricsText();
    this.#renderCounts(text);
    renderTimes(text, this.#waits, this.#firstBytes, this.#durations);
    renderKeys(text, snapshot.providers);
    renderProviders(text, snapshot);
    renderSharing(text, snapshot.sharing ?? null);
    renderProcess(text, snapshot);
    return text.text;
  }

  #renderCounts(text: MetricsText): void {
    text.family("keywheel_requests_total", "counter", "Finished requests of clients.");
    text.counts(this.#requests, ["provider", "model", "client", "status", "outcome"]);
    text.family(
      "keywheel_tokens_total",
      "counter",
      "Tokens that answers named. Cached and written ones are part of the input, reasoning of the output.",
    );
    for (const [[provider = "", model = "", client = ""], tokens] of this.#requests.tokenRows()) {
      const kinds = Object.entries({
        input: tokens.input,
        output: tokens.output,
        cached: tokens.cached,
        cache_write: tokens.cacheWrite,
        reasoning: tokens.reasoning,
      });
      for (const [kind, many] of kinds) if (many > 0) text.sample(many, { provider, model, client, kind });
    }
    text.family("keywheel_attempts_total", "counter", "Requests sent upstream, by what came of them.");
    text.counts(this.#attempts, ["provider", "account", "key_id", "verdict"]);
    text.family("keywheel_key_events_total", "counter", "Changes of keys and providers.");
    text.counts(this.#keyEvents, ["provider", "kind"]);
    text.family(
      "keywheel_hidden_429_total",
      "counter",
      "Upstream's 429 that no client saw: it got an answer.",
    );
    text.counts(this.#hidden429, ["provider"]);
    text.family("keywheel_truncated_streams_total", "counter", "Answers that ended before their end.");
    text.sample(this.#truncated);
    text.family(
      "keywheel_maybe_billed_replays_total",
      "counter",
      "Attempts repeated although the provider may have done the work.",
    );
    text.sample(this.#maybeBilledReplays);
    text.family("keywheel_response_bytes_total", "counter", "Bytes of answers' bodies passed to clients.");
    text.sample(this.#responseBytes);
  }
}

function renderTimes(
  text: MetricsText,
  waits: Histogram,
  firstBytes: ReadonlyMap<string, Histogram>,
  durations: ReadonlyMap<string, Histogram>,
): void {
  text.family("keywheel_wait_seconds", "histogram", "Time a request waited for a key or backed off.");
  text.histogram(waits);
  text.family("keywheel_first_byte_seconds", "histogram", "Time from arrival to the answer's first byte.");
  for (const [provider, histogram] of firstBytes) text.histogram(histogram, { provider });
  text.family("keywheel_request_duration_seconds", "histogram", "Time from arrival to the answer's end.");
  for (const [provider, histogram] of durations) text.histogram(histogram, { provider });
}

const KEY_STATES = ["ready", "cooling", "disabled", "paused"] as const;

function renderKeys(text: MetricsText, providers: readonly ProviderReport[]): void {
  const keys = providers.flatMap(({ name, keys }) =>
    keys.map((report) => ({
      report,
      labels: { provider: name, account: report.account ?? "", key_id: report.id },
    })),
  );
  text.family("keywheel_key_state", "gauge", "1 for the state a key is in, 0 for the others.");
  for (const { report, labels } of keys) {
    for (const state of KEY_STATES) text.sample(report.state === state ? 1 : 0, { ...labels, state });
  }
  text.family("keywheel_key_cooldown_seconds", "gauge", "Time until a key may be used again; 0 if it may.");
  for (const { report, labels } of keys) text.sample(report.coolingMs / 1000, labels);
  text.family("keywheel_key_requests_today", "gauge", "Requests of a key since its daily reset.");
  for (const { report, labels } of keys) text.sample(report.today, labels);
  text.family("keywheel_key_daily_limit", "gauge", "Requests a day that a key may make, where that is set.");
  for (const { report, labels } of keys) {
    if (report.dailyLimit !== null) text.sample(report.dailyLimit, labels);
  }
}

function renderProviders(text: MetricsText, { providers, inFlight }: Snapshot): void {
  text.family("keywheel_in_flight_requests", "gauge", "Requests being answered now.");
  text.sample(inFlight);
  text.family("keywheel_waiting_requests", "gauge", "Requests that wait for a key now.");
  for (const { name, waiting } of providers) text.sample(waiting, { provider: name });
  text.family("keywheel_provider_paused", "gauge", "1 while a provider as a whole is left alone.");
  for (const { name, pausedMs } of providers) text.sample(pausedMs > 0 ? 1 : 0, { provider: name });
}

function renderSharing(text: MetricsText, sharing: SharingReport | null): void {
  if (sharing === null) return;
  text.family(
    "keywheel_state_store_up",
    "gauge",
    "1 while the server of STATE answers in time, 0 while alone.",
  );
  text.sample(sharing.state === "ok" ? 1 : 0);
  text.family("keywheel_instances", "gauge", "Proxies that share the pool, this one included.");
  text.sample(sharing.instances.length);
}

function renderProcess(text: MetricsText, { version, startedAt, vitals }: Snapshot): void {
  text.family("keywheel_build_info", "gauge", "1, with the version as a label.");
  text.sample(1, { version });
  text.family("process_start_time_seconds", "gauge", "When the process started, in seconds since the epoch.");
  text.sample(startedAt / 1000);
  if (vitals === null) return;
  text.family("process_cpu_seconds_total", "counter", "User and system CPU time spent.");
  text.sample(vitals.cpuSec);
  const gauges: [name: string, help: string, value: number | null][] = [
    ["process_resident_memory_bytes", "Resident memory.", vitals.residentBytes],
    ["process_open_fds", "Open file descriptors.", vitals.openDescriptors],
    ["process_max_fds", "Most file descriptors that may be open.", vitals.maxDescriptors],
  ];
  for (const [name, help, value] of gauges) {
    if (value === null) continue;
    text.family(name, "gauge", help);
    text.sample(value);
  }
}

type Label = string | number;

/** Names that have a label of their own, as far as there are few. */
class BoundedNames {
  readonly #names = new Set<string>();

  /** The label for a name; empty: there is no name. `mayAdd`: it may become one of those that have a label. */
  labelOf(name: string | null, mayAdd: boolean): string {
    if (name === null) return "";
    if (this.#names.has(name)) return name;
    if (!mayAdd || this.#names.size >= MOST_LABELLED) return "other";
    this.#names.add(name);
    return name;
  }
}

/** Only what a stranger may choose has more values than this: were it ever made a label, memory stays bounded. */
const MOST_LABEL_VALUES = 10_000;

type TokenSums = { -readonly [Kind in keyof TokenUsage]: TokenUsage[Kind] };

/** A counter, and the counters below it by the next label's value. */
class Tally {
  count = 0;
  /** Of what is counted below it; null: none were. */
  #tokens: TokenSums | null = null;
  readonly #below = new Map<Label, Tally>();

  /** The counter for a label's value. */
  at(value: Label): Tally {
    return this.#below.get(value) ?? this.#grow(value);
  }

  #grow(value: Label): Tally {
    if (this.#below.size >= MOST_LABEL_VALUES && value !== "other") return this.at("other");
    const tally = new Tally();
    this.#below.set(value, tally);
    return tally;
  }

  countTokens(tokens: TokenUsage): void {
    const sums = (this.#tokens ??= { input: 0, output: 0, cached: 0, cacheWrite: 0, reasoning: 0 });
    sums.input += tokens.input;
    sums.output += tokens.output;
    sums.cached += tokens.cached;
    sums.cacheWrite += tokens.cacheWrite;
    sums.reasoning += tokens.reasoning;
  }

  /** Its tokens with the values that lead to them. */
  *tokenRows(values: readonly Label[] = []): Generator<[values: readonly Label[], tokens: TokenUsage]> {
    if (this.#tokens !== null) yield [values, this.#tokens];
    for (const [value, tally] of this.#below) yield* tally.tokenRows([...values, value]);
  }

  /** Its counts with the values that lead to them. */
  *rows(values: readonly Label[] = []): Generator<[values: readonly Label[], count: number]> {
    if (this.count > 0) yield [values, this.count];
    for (const [value, tally] of this.#below) yield* tally.rows([...values, value]);
  }
}

/** How often a duration fell between two bounds, and their sum. */
class Histogram {
  /** Not cumulative; the last is for what is above all bounds. */
  readonly counts = new Float64Array(BUCKETS_SEC.length + 1);
  /** In milliseconds, which are mostly whole: seconds would add up rounding errors. */
  sumMs = 0;

  observe(durationMs: number): void {
    const sec = durationMs / 1000;
    let bucket = 0;
    while (bucket < BUCKETS_SEC.length && sec > BUCKETS_SEC[bucket]!) bucket += 1;
    this.counts[bucket]! += 1;
    this.sumMs += durationMs;
  }
}

function histogramOf(histograms: Map<string, Histogram>, provider: string): Histogram {
  let histogram = histograms.get(provider);
  if (histogram === undefined) histograms.set(provider, (histogram = new Histogram()));
  return histogram;
}

/** Statuses that have a name, of HTTP or of the proxies in front of providers (nginx, Cloudflare). */
const KNOWN_STATUSES: ReadonlySet<number> = new Set([
  ...[200, 201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 307, 308],
  ...[
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422,
  ],
  ...[423, 424, 425, 426, 428, 429, 431, 444, 451, 498, 499, 500, 501, 502, 503, 504, 505, 507, 508, 511],
  ...[520, 521, 522, 523, 524, 525, 526, 527, 529, 530],
]);

const STATUS_CLASSES = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"] as const;

/** A status comes from upstream, who might send any number: strange ones count with their class. */
function statusLabel(status: number): Label {
  return KNOWN_STATUSES.has(status) ? status : (STATUS_CLASSES[Math.floor(status / 100)] ?? "other");
}

/** The text as it grows: a family's heading, then its samples. */
class MetricsText {
  text = "";
  #name = "";

  family(name: string, type: "counter" | "gauge" | "histogram", help: string): void {
    this.#name = name;
    this.text += `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  }

  sample(value: number, labels: Readonly<Record<string, Label>> = {}, suffix = ""): void {
    const written = Object.entries(labels).map(([name, value]) => `${name}="${escaped(String(value))}"`);
    const set = written.length === 0 ? "" : `{${written.join(",")}}`;
    this.text += `${this.#name}${suffix}${set} ${value}\n`;
  }

  /** A counter's samples, each with these labels. */
  counts(tally: Tally, names: readonly string[]): void {
    for (const [values, count] of tally.rows()) {
      this.sample(count, Object.fromEntries(names.map((name, index) => [name, values[index] ?? ""])));
    }
  }

  histogram({ counts, sumMs }: Histogram, labels: Readonly<Record<string, Label>> = {}): void {
    let count = 0;
    for (const [index, within] of counts.entries()) {
      count += within;
      this.sample(count, { ...labels, le: BUCKETS_SEC[index] ?? "+Inf" }, "_bucket");
    }
    this.sample(sumMs / 1000, labels, "_sum");
    this.sample(count, labels, "_count");
  }
}

/** (Prometheus exposition format 0.0.4: these three, in a label's value.) */
function escaped(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

// ── What the kernel knows of this process ─────────────────────────────────────────────────────────────────────────
//
// Memory, time, descriptors. Read from /proc when asked; null where there is none.

/** One reading. Null: not to be had here. */
interface Vitals {
  /** Resident memory, shared pages of the executable included. */
  residentBytes: number | null;
  /** In user and kernel mode together, since the process started. */
  cpuSec: number;
  openDescriptors: number | null;
  /** The soft limit of open descriptors. */
  maxDescriptors: number | null;
}

export async function readVitals(directory = "/proc/self"): Promise<Vitals> {
  const [status, limits, openDescriptors] = await Promise.all([
    readOrEmpty(`${directory}/status`),
    readOrEmpty(`${directory}/limits`),
    countDescriptors(`${directory}/fd`),
  ]);
  const { user, system } = process.cpuUsage();
  const residentKb = numberIn(/^VmRSS:\s*(\d+) kB$/m, status);
  return {
    residentBytes: residentKb === null ? null : residentKb * 1024,
    cpuSec: (user + system) / 1e6,
    openDescriptors,
    maxDescriptors: numberIn(/^Max open files\s+(\d+)/m, limits),
  };
}

async function readOrEmpty(path: string): Promise<string> {
  try {
    return await Bun.file(path).text();
  } catch {
    return ""; // not Linux, or /proc is not mounted
  }
}

function numberIn(pattern: RegExp, text: string): number | null {
  const digits = pattern.exec(text)?.[1];
  return digits === undefined ? null : Number(digits);
}

/** (By `Bun.Glob`: `node:fs` would cost 0.6 MB.) */
async function countDescriptors(directory: string): Promise<number | null> {
  try {
    let count = 0;
    for await (const _ of new Bun.Glob("*").scan({ cwd: directory, onlyFiles: false })) count += 1;
    return Math.max(0, count - 1); // one of them is the directory being read
  } catch {
    return null;
  }
}
