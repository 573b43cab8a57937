/**
 * What the proxy costs, in one run beside others that pass the same traffic: nginx, a bare `Bun.serve` with `fetch`
 * (which is what the runtime itself costs), and nothing at all.
 *
 *     bun bench/overhead.ts [--quick] [--json] [--proxy "COMMAND"] [--before "COMMAND"]
 *
 * The proxy stands in it twice: `keywheel` with state and log off, `usual` as most people run it, with `STATE` on and
 * a log line for each request. `--before` names an earlier build of the proxy: then a ratio to it is shown too, and
 * judged (at most 1.02).
 *
 * The machine is taken to be shared and noisy (a neighbour can double the price of a request for seconds), so
 * nothing is judged by a single figure: all contenders stand under the same load, but it flows through one at a
 * time, in turns of half a second. Each round of turns gives one ratio; the median of the ratios counts.
 *
 * Exit code 0: all goals met, 1: one missed, 2: it could not run.
 */
import { existsSync, readFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import {
  NGINX,
  ProcessTree,
  passthroughNothing,
  startBare,
  startNginx,
  startProxy,
  trial,
} from "./contenders.ts";
import type { Contender, Memory } from "./contenders.ts";
import { EVENTS_PER_SEC, LoadProcess } from "./load.ts";
import type { Load, Name, Outcome, Shape } from "./load.ts";

const GOALS = {
  /** Of `usual`, to the bare passthrough. */
  jsonCpuToBare: 1.1,
  eventCpuToBare: 1.2,
  /** Of `keywheel`, to the build that `--before` names. */
  cpuToBefore: 1.02,
  /** Of `usual`, before the first request and ten seconds after the load. */
  idleAnonymousMb: 5,
  afterAnonymousMb: 15,
  streamsAtOnce: 1000,
};

/** Turns much shorter than half a second would mostly measure how a runtime wakes up. */
interface Turns {
  rounds: number;
  turnMs: number;
}

/** A full run takes about 150 s on a quiet machine, a quick one 45 s. */
const FULL = {
  idleMs: 9000,
  rampMs: 1000,
  warmUp: { rounds: 2, turnMs: 2500 },
  json: { rounds: 16, turnMs: 500 },
  chunked: { rounds: 9, turnMs: 500 },
  large: { rounds: 9, turnMs: 500 },
  latency: { rounds: 10, turnMs: 150 },
  streams: { rounds: 16, turnMs: 500 },
  manyStreams: { rounds: 4, turnMs: 500 },
  afterLoadMs: 10_000,
  patienceMs: 300_000,
};
const QUICK: typeof FULL = {
  idleMs: 9000,
  rampMs: 700,
  warmUp: { rounds: 1, turnMs: 700 },
  json: { rounds: 5, turnMs: 450 },
  chunked: { rounds: 2, turnMs: 400 },
  large: { rounds: 2, turnMs: 400 },
  latency: { rounds: 4, turnMs: 150 },
  streams: { rounds: 6, turnMs: 300 },
  manyStreams: { rounds: 2, turnMs: 400 },
  afterLoadMs: 10_000,
  patienceMs: 120_000,
};

const NAMES: Name[] = ["none", "nginx", "bare", "before", "proxy", "usual"];
/** What stands in the head of the table. */
const TITLES: Record<Name, string> = {
  none: "no proxy",
  nginx: "nginx",
  bare: "bare Bun",
  before: "before",
  proxy: "keywheel",
  usual: "usual",
};
const CONNECTIONS = 16;
const STREAMS = 200;
/** Between the begin of the last stream and the first turn. */
const SETTLE_MS = 250;

interface Bench {
  upstream: LoadProcess;
  client: LoadProcess;
  contenders: Contender[];
}

/** One contender in one round: what it did and used, its own turn and its rest together. */
interface Round {
  cpuUsEach: number;
  perSec: number;
}

interface Result {
  rounds: Round[];
  /** At the end of the last round, all streams open. */
  memory: Memory | null;
  outcome: Outcome;
}

/** The results of one load: `proxy.rounds[2]` ran beside `nginx.rounds[2]`. */
type Results = Partial<Record<Name, Result>>;

interface Row {
  label: string;
  unit: string;
  values: Partial<Record<Name, number>>;
  /** Of `proxy` and of `usual`, to what is named; null: that does not stand in the run. */
  toNginx: number | null;
  toBare: number | null;
  usualToBare: number | null;
  toBefore: number | null;
}

interface Section {
  title: string;
  rows: Row[];
}

interface Goal {
  sentence: string;
  verdict: "pass" | "MISS";
}

// ---- the story

async function main(): Promise<number> {
  const options = parseArgs({
    options: {
      quick: { type: "boolean" },
      json: { type: "boolean" },
      proxy: { type: "string" },
      before: { type: "string" },
    },
  }).values;
  const command = options.proxy ?? defaultCommand();
  const plan = options.quick === true ? QUICK : FULL;
  const startedAt = performance.now();
  const patience = setTimeout(() => giveUp(`not done after ${plan.patienceMs / 1000} s`), plan.patienceMs);

  const upstream = new LoadProcess("upstream");
  const client = new LoadProcess("client");
  const upstreamPort = await upstream.port();
  const contenders = [passthroughNothing(upstreamPort)];
  if (NGINX !== null) contenders.push(await startNginx(NGINX, upstreamPort));
  contenders.push(await startBare(upstreamPort));
  if (options.before !== undefined) contenders.push(await startProxy(options.before, upstreamPort, "before"));
  contenders.push(await startProxy(command, upstreamPort));
  contenders.push(await startProxy(command, upstreamPort, "usual"));

  const measured = await measure({ upstream, client, contenders }, plan);
  const goals = judge(measured);
  const report = {
    ...machine(),
    proxy: command,
    tookSec: Math.round((performance.now() - startedAt) / 1000),
    sections: sectionsOf(measured, plan),
    goals,
    failures: outcomesOf(measured).flatMap(({ failures }) => failures),
    stderr: contenders.find(({ name }) => name === "proxy")?.process?.lastWords ?? "",
  };
  clearTimeout(patience);
  await Promise.all([upstream.stop(), client.stop(), ...[...ProcessTree.running].map((tree) => tree.stop())]);
  console.log(options.json === true ? JSON.stringify(report, null, 2) : rendered(report));
  return goals.some(({ verdict }) => verdict === "MISS") ? 1 : 0;
}

/** The executable where one has been built, else the source. */
function defaultCommand(): string {
  const root = join(import.meta.dir, "..");
  const executable = join(root, "dist", `keywheel-linux-${process.arch}`);
  return existsSync(executable)
    ? `'${executable}'`
    : `'${process.execPath}' --no-env-file '${join(root, "proxy.ts")}'`;
}

async function measure(bench: Bench, plan: typeof FULL) {
  const { contenders } = bench;
  progress("idle");
  await Bun.sleep(plan.idleMs);
  const idle = memories(contenders);
  progress("warming up");
  for (const contender of contenders) {
    const problem = await trial(contender);
    if (problem !== null) throw new Error(`${contender.name} cannot be measured: ${problem}`);
  }
  const proxies = NAMES.filter((name) => name !== "none");
  await play(bench, proxies, jsonLoad("plain", CONNECTIONS), plan.warmUp);
  await play(bench, proxies, jsonLoad("chunked", CONNECTIONS), plan.warmUp);
  await play(bench, proxies, streamLoad(STREAMS, plan.rampMs, plan.warmUp), plan.warmUp);

  progress("JSON");
  const json = await play(bench, NAMES, jsonLoad("plain", CONNECTIONS), plan.json);
  const chunked = await play(bench, proxies, jsonLoad("chunked", CONNECTIONS), plan.chunked);
  const large = await play(bench, proxies, jsonLoad("large", CONNECTIONS), plan.large);
  const latency = await play(bench, NAMES, jsonLoad("plain", 1), plan.latency);
  progress(`${STREAMS} streams`);
  const streams = await play(bench, NAMES, streamLoad(STREAMS, plan.rampMs, plan.streams), plan.streams);
  progress(`${GOALS.streamsAtOnce} streams`);
  const many = streamLoad(GOALS.streamsAtOnce, plan.rampMs, plan.manyStreams);
  const manyStreams = {
    ...(await play(bench, ["nginx"], many, plan.manyStreams)), // one after the other: it is a matter of room
    ...(await play(bench, ["bare"], many, plan.manyStreams)),
    ...(await play(bench, ["usual"], many, plan.manyStreams)),
  };
  await Bun.sleep(plan.afterLoadMs);
  const after = memories(contenders);
  return { json, chunked, large, latency, streams, manyStreams, idle, after };
}

// ---- taking turns

type LoadFor = (port: number) => Load;

function jsonLoad(shape: Shape, connections: number): LoadFor {
  return (port) => ({ kind: "json", port, shape, connections });
}

/** Every stream flows in the ramp and in its contender's turns, has a little left, and then ends by itself. */
function streamLoad(streams: number, rampMs: number, { rounds, turnMs }: Turns): LoadFor {
  const flowsMs = rampMs + SETTLE_MS + rounds * (turnMs + 10) + 300;
  const eventsEach = Math.ceil((flowsMs * EVENTS_PER_SEC) / 1000);
  return (port) => ({ kind: "streams", port, streams, eventsEach, rampMs });
}

/**
 * Opens the load on all players, lets it flow through one after the other, and reads everybody's account at the
 * end of each round: what a runtime puts off to when it is idle belongs to the price.
 */
async function play(
  bench: Bench,
  names: Name[],
  loadFor: LoadFor,
  { rounds, turnMs }: Turns,
): Promise<Results> {
  const { upstream, client, contenders } = bench;
  const players = contenders.filter(({ name }) => names.includes(name));
  let rampMs = 0;
  for (const { name, port } of players) {
    const load = loadFor(port);
    await client.begin(name, load);
    if (load.kind === "streams") rampMs = load.rampMs;
  }
  await Bun.sleep(rampMs + SETTLE_MS);

  const taken: Partial<Record<Name, Round[]>> = {};
  let before = await accounts(bench, players);
  for (let round = 0; round < rounds; round += 1) {
    const flowedMs: Partial<Record<Name, number>> = {};
    // Turned round from round to round, so that nobody always runs in another's wake.
    for (const { name } of round % 2 === 0 ? players : players.toReversed()) {
      await Promise.all([upstream.turn(name), client.turn(name)]);
      const sinceMs = performance.now();
      await Bun.sleep(turnMs);
      flowedMs[name] = performance.now() - sinceMs;
    }
    const after = await accounts(bench, players);
    for (const { name } of players) {
      const done = after[name]!.done - before[name]!.done;
      const cpuUsEach = (after[name]!.cpuUs - before[name]!.cpuUs) / done;
      (taken[name] ??= []).push({ cpuUsEach, perSec: (done * 1000) / flowedMs[name]! });
    }
    before = after;
  }

  const readings = memories(players);
  await upstream.turn("all");
  const results: Results = {};
  for (const { name } of players) {
    const outcome = await client.finish(name);
    results[name] = { rounds: taken[name] ?? [], memory: readings[name] ?? null, outcome };
  }
  return results;
}

type Accounts = Partial<Record<Name, { done: number; cpuUs: number }>>;

async function accounts({ client }: Bench, players: Contender[]): Promise<Accounts> {
  const tallies = await client.tallies();
  const reading: Accounts = {};
  for (const { name, process } of players) {
    reading[name] = { done: tallies[name] ?? 0, cpuUs: process?.cpuUs() ?? NaN };
  }
  return reading;
}

// ---- from results to rows and goals

type Measured = Awaited<ReturnType<typeof measure>>;

function sectionsOf(measured: Measured, plan: typeof FULL): Section[] {
  const { json, chunked, large, latency, streams, manyStreams, idle, after } = measured;
  return [
    {
      title: `JSON, ${CONNECTIONS} connections, 1 KB asked, 0.9 KB answered`,
      rows: loadRows(json, "request"),
    },
    { title: "the same, chunked answer (as most providers send)", rows: loadRows(chunked, "request") },
    { title: "the same, 100 KB asked", rows: loadRows(large, "request") },
    {
      title: "JSON, one connection, one request after another",
      rows: latencyRows(latency, "time to the answer"),
    },
    {
      title: `${STREAMS} streams of ${EVENTS_PER_SEC} events/s`,
      rows: [...loadRows(streams, "event"), ...latencyRows(streams, "time to the first event")],
    },
    {
      title: `${GOALS.streamsAtOnce} streams of ${EVENTS_PER_SEC} events/s`,
      rows: [...loadRows(manyStreams, "event"), servedRow(manyStreams)],
    },
    { title: "memory, idle before the first request", rows: memoryRows(idle) },
    { title: `memory, ${STREAMS} streams`, rows: memoryRows(memoriesUnder(streams)) },
    { title: `memory, ${GOALS.streamsAtOnce} streams`, rows: memoryRows(memoriesUnder(manyStreams)) },
    { title: `memory, ${plan.afterLoadMs / 1000} s after the load`, rows: memoryRows(after) },
  ];
}

type Memories = Partial<Record<Name, Memory>>;

function memories(contenders: Contender[]): Memories {
  const readings: Memories = {};
  for (const { name, process } of contenders) if (process !== null) readings[name] = process.memory();
  return readings;
}

function memoriesUnder(results: Results): Memories {
  const readings: Memories = {};
  for (const name of NAMES) {
    const memory = results[name]?.memory ?? null;
    if (memory !== null) readings[name] = memory;
  }
  return readings;
}

function loadRows(results: Results, each: "request" | "event"): Row[] {
  return [
    row(`CPU per ${each}`, "µs", results, ({ cpuUsEach }) => cpuUsEach),
    row(`${each}s/s`, "", results, ({ perSec }) => perSec),
  ];
}

/** The time as it is; a ratio is of what each adds to the time without a proxy. */
function latencyRows(results: Results, label: string): Row[] {
  return (["p50Us", "p99Us"] as const).map((rank) => {
    const values: Row["values"] = {};
    for (const name of NAMES) {
      const outcome = results[name]?.outcome;
      if (outcome !== undefined && Number.isFinite(outcome[rank])) values[name] = outcome[rank];
    }
    const { none = NaN } = values;
    const added = (of: Name, to: Name) => {
      const [own, other] = [values[of] ?? NaN, values[to] ?? NaN];
      return other > none ? numberOrNull((own - none) / (other - none)) : null;
    };
    return { label: `${label}, ${rank.slice(0, 3)}`, unit: "µs", values, ...ratios(added) };
  });
}

function servedRow(results: Results): Row {
  const values: Row["values"] = {};
  for (const name of NAMES) {
    const outcome = results[name]?.outcome;
    if (outcome !== undefined) values[name] = outcome.served;
  }
  return { label: "streams served whole", unit: "", values, ...ratios(() => null) };
}

function memoryRows(readings: Memories): Row[] {
  const kinds = { anonymousKb: "anonymous", proportionalKb: "proportional", rssKb: "RSS" } as const;
  return (["anonymousKb", "proportionalKb", "rssKb"] as const).map((kind) => {
    const values: Row["values"] = {};
    for (const name of NAMES) {
      const reading = readings[name];
      if (reading !== undefined) values[name] = megabytes(reading[kind]);
    }
    const ratioOf = (of: Name, to: Name) => numberOrNull((values[of] ?? NaN) / (values[to] ?? NaN));
    return { label: kinds[kind], unit: "MB", values, ...ratios(ratioOf) };
  });
}

function row(label: string, unit: string, results: Results, figure: (round: Round) => number): Row {
  const values: Row["values"] = {};
  for (const name of NAMES) {
    const value = median((results[name]?.rounds ?? []).map(figure));
    if (value !== null) values[name] = value;
  }
  return { label, unit, values, ...ratios((of, to) => ratio(results, of, to, figure)) };
}

/** The ratios that a row shows. */
function ratios(
  of: (own: Name, other: Name) => number | null,
): Pick<Row, "toNginx" | "toBare" | "usualToBare" | "toBefore"> {
  return {
    toNginx: of("proxy", "nginx"),
    toBare: of("proxy", "bare"),
    usualToBare: of("usual", "bare"),
    toBefore: of("proxy", "before"),
  };
}

/** The median of what one has, round by round, for one that the other has. */
function ratio(results: Results, of: Name, to: Name, figure: (round: Round) => number): number | null {
  const other = results[to]?.rounds ?? [];
  const own = (results[of]?.rounds ?? []).slice(0, other.length);
  return median(own.map((round, index) => figure(round) / figure(other[index]!)));
}

/** Of the figures that are numbers (without a proxy there is no CPU time); null where there are none. */
function median(figures: number[]): number | null {
  const sorted = figures.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length === 0) return null;
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function numberOrNull(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}

function judge(measured: Measured): Goal[] {
  const { json, streams, manyStreams, idle, after } = measured;
  const anonymousMb = ({ usual }: Memories) => (usual === undefined ? null : megabytes(usual.anonymousKb));
  const served = manyStreams.usual?.outcome.served ?? 0;
  const cpu = ({ cpuUsEach }: Round) => cpuUsEach;
  const sinceBefore: Goal[] =
    json.before === undefined
      ? []
      : [
          atMost(
            "JSON: CPU per request, to before",
            ratio(json, "proxy", "before", cpu),
            GOALS.cpuToBefore,
            "×",
          ),
          atMost(
            "streams: CPU per event, to before",
            ratio(streams, "proxy", "before", cpu),
            GOALS.cpuToBefore,
            "×",
          ),
        ];
  return [
    atMost(
      "JSON: CPU per request, usual to bare",
      ratio(json, "usual", "bare", cpu),
      GOALS.jsonCpuToBare,
      "×",
    ),
    atMost(
      "streams: CPU per event, usual to bare",
      ratio(streams, "usual", "bare", cpu),
      GOALS.eventCpuToBare,
      "×",
    ),
    ...sinceBefore,
    atMost("idle anonymous memory, usual", anonymousMb(idle), GOALS.idleAnonymousMb, " MB"),
    atMost("anonymous memory after the load, usual", anonymousMb(after), GOALS.afterAnonymousMb, " MB"),
    {
      sentence: `${GOALS.streamsAtOnce} streams at once, all served whole: ${served}`,
      verdict: served === GOALS.streamsAtOnce ? "pass" : "MISS",
    },
    nothingFailed(outcomesOf(measured)),
  ];
}

function atMost(what: string, value: number | null, limit: number, unit: string): Goal {
  const sentence = `${what}: ${value === null ? "nothing" : value.toFixed(2) + unit}, at most ${limit}${unit}`;
  return { sentence, verdict: value !== null && value <= limit ? "pass" : "MISS" };
}

/** A cheap answer that is wrong is no answer. */
function nothingFailed(outcomes: Outcome[]): Goal {
  const failed = outcomes.reduce((sum, outcome) => sum + outcome.failed, 0);
  const served = outcomes.reduce((sum, outcome) => sum + outcome.served, 0);
  const sentence = `every request and stream served: ${served} served, ${failed} failed`;
  return { sentence, verdict: failed === 0 ? "pass" : "MISS" };
}

/** Those of the proxy, of all loads. */
function outcomesOf({ json, chunked, large, latency, streams, manyStreams }: Measured): Outcome[] {
  const all: Results[] = [json, chunked, large, latency, streams, manyStreams];
  return all.flatMap(({ proxy, usual }) => [proxy, usual].flatMap((result) => result?.outcome ?? []));
}

function megabytes(kb: number): number {
  return (kb * 1024) / 1e6;
}

// ---- the report

function machine() {
  const [first] = cpus();
  const limits = /^Max open files +(\S+) +(\S+)/m.exec(readFileSync("/proc/self/limits", "latin1"));
  const version = NGINX === null ? null : Bun.spawnSync([NGINX, "-v"]).stderr.toString().trim();
  return {
    date: new Date().toISOString().slice(0, 16).replace("T", " "),
    cpu: `${first?.model ?? "unknown CPU"} × ${cpus().length}`,
    kernel: release(),
    bun: Bun.version,
    nginx: version?.replace("nginx version: nginx/", "") ?? null,
    openFiles: { soft: limits?.[1] ?? "?", hard: limits?.[2] ?? "?" },
  };
}

type Report = ReturnType<typeof machine> & {
  proxy: string;
  tookSec: number;
  sections: Section[];
  goals: Goal[];
  failures: string[];
  stderr: string;
};

function rendered(report: Report): string {
  const { openFiles, nginx } = report;
  const lines = [
    `keywheel overhead, ${report.date} UTC, ${report.tookSec} s`,
    `${report.cpu}, Linux ${report.kernel}, Bun ${report.bun}, ${nginx === null ? "no nginx" : `nginx ${nginx}`}`,
    `under test: ${report.proxy}`,
    `open files: ${openFiles.soft} soft, ${openFiles.hard} hard; ${GOALS.streamsAtOnce} streams need ${2 * GOALS.streamsAtOnce} and some`,
  ];
  if (nginx === null) lines.push("nginx is not installed (Debian: nginx-light): its column is skipped");
  const shownNames = NAMES.filter((name) =>
    report.sections.some(({ rows }) => rows.some(({ values }) => values[name] !== undefined)),
  );
  const heads = ["to nginx", "to bare", "usual to bare", "to before"];
  lines.push("", cells("", ...shownNames.map((name) => TITLES[name]), ...heads));
  for (const { title, rows } of report.sections) {
    lines.push("", title);
    for (const { label, unit, values, toNginx, toBare, usualToBare, toBefore } of rows) {
      const figures = shownNames.map((name) => shown(values[name], unit));
      lines.push(
        cells(
          `  ${label}`,
          ...figures,
          ...[toNginx, toBare, usualToBare, toBefore].map((value) => times(value)),
        ),
      );
    }
  }
  lines.push("", ...report.goals.map(({ sentence, verdict }) => `${verdict.padEnd(8)}${sentence}`));
  lines.push(...report.failures.slice(0, 5).map((failure) => `failure: ${failure}`));
  if (report.stderr !== "") lines.push(`the proxy said: ${report.stderr}`);
  return lines.join("\n");
}

function cells(label: string, ...columns: (string | undefined)[]): string {
  return label.padEnd(36) + columns.map((column) => (column ?? "").padStart(14)).join("");
}

function shown(value: number | undefined, unit: string): string {
  if (value === undefined) return "–";
  const digits = Math.abs(value) < 100 && unit !== "" ? 1 : 0;
  return `${value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} ${unit}`.trim();
}

function times(value: number | null): string {
  return value === null ? "" : `${value.toFixed(2)}×`;
}

/** For who waits at a terminal. */
function progress(what: string): void {
  if (process.stderr.isTTY) console.error(`bench: ${what} …`);
}

// ---- ending

/** Load processes end when this one does; contenders are ended here, whatever happened. */
function endAll(): void {
  for (const tree of ProcessTree.running) tree.killNow();
}

function giveUp(why: string): never {
  endAll();
  console.error(`bench: ${why}`);
  process.exit(2);
}

process.on("exit", endAll);
process.on("SIGINT", () => giveUp("interrupted"));
process.on("SIGTERM", () => giveUp("terminated"));
try {
  process.exit(await main());
} catch (error) {
  giveUp(error instanceof Error ? error.message : String(error));
}
