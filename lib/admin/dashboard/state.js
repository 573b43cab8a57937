/**
 * What the page knows, and what the operator is doing with it.
 *
 * @typedef {{ value: string | null, origin: "own" | "shared" | "default", locked: string | null }} Setting
 * @typedef {{ cooldown_sec: number, reason: string | null }} Cooling
 * @typedef {Cooling & { id: string, index: number, account: string | null, said: string | null,
 *   last_four: string | null, beats: string, state: "ready" | "cooling" | "disabled" | "paused",
 *   models: Record<string, Cooling>, requests: number, rate_limited: number, errors: number, today: number,
 *   daily_limit: number | null, rpm_limit: number | null, in_flight: number, last_used: string | null,
 *   source: string | null, locked: string | null }} Key
 * @typedef {{ name: string, dialect: string, base_url: string, state: "up" | "paused" | "disabled", breaker: string,
 *   paused_sec: number, pause_reason: string | null, pause_said: string | null, next_key_sec: number | null,
 *   queue_sec: number | null, waiting: number, in_flight: number, settings: Record<string, Setting>,
 *   keys: Key[] }} Provider
 * @typedef {{ outcome: "served" | "waits" | "refused", why: string, text: string, wait_sec: number | null }} Headline
 * @typedef {{ id: number, method: string, path: string, provider: string | null, model: string | null,
 *   client: string | null, key_id: string | null, account: string | null, phase: string, attempts: number,
 *   waited_ms: number, first_byte_ms: number | null, total_ms: number }} UnderWay
 * @typedef {{ version: string, now: string, uptime_sec: number, headline: Headline, draining: boolean,
 *   hidden_429: Record<string, number>, in_flight: number, under_way: UnderWay[], listen: string, access: string,
 *   env_file: string | null, warnings: string[], problems: string[], clients: LimitedClient[],
 *   providers: Provider[], instances?: { id: string, since: string, seen_sec: number }[],
 *   state_store?: "ok" | "alone" }} Overview
 * @typedef {{ provider: string, key: number, key_id: string, account: string | null, verdict: string,
 *   status: number, ms: number, said: string }} Attempt
 * @typedef {{ id: number, at: string, method: string, path: string, provider: string | null, model: string | null,
 *   status: number, outcome: string, key: string | null, key_id: string | null, account: string | null,
 *   client: string | null, waited_ms: number, first_byte_ms: number | null, total_ms: number, wait_ms: number,
 *   provider_ms: number, stream_ms: number, reason: string | null, bytes: number, truncated: boolean,
 *   maybe_billed_replays: number, attempts: Attempt[] }} RequestRecord
 * @typedef {{ day: string, provider: string, key: string, model: string | null, client: string | null,
 *   requests: number, errors: number, input_tokens: number, output_tokens: number, cached_tokens: number,
 *   reasoning_tokens: number }} UsedRow
 * @typedef {{ limit: number, used: number, left: number, reset_sec: number }} Limit
 * @typedef {{ name: string | null, key_id: string | null, requests_per_minute: Limit | null,
 *   requests_per_day: Limit | null, tokens_per_day: Limit | null, models: string[] | null }} LimitedClient
 * @typedef {{ at: string, requests: number, absorbed: number, hidden_429: number, errors: number }} Point
 * @typedef {{ untilMs: number, totalMs: number }} Rest When a rest ends, and how long it is in all.
 */

/** As many finished requests as the proxy itself remembers. */
export const MOST_REQUESTS = 500;

/** All that the page knows. Instants are epoch ms of this browser's clock. */
export const known = {
  overview: /** @type {Overview | null} */ (null),
  /** When the overview came. */
  overviewAt: 0,
  /** By what rests: `headline`, `groq`, `groq queue`, `groq/3e23e816`, `groq/3e23e816/gpt-4o`. */
  rests: /** @type {Map<string, Rest>} */ (new Map()),
  /** The proxy's clock minus ours. */
  aheadMs: 0,
  requests: /** @type {RequestRecord[]} */ ([]),
  traffic: { range: "1h", stepMs: 60_000, points: /** @type {Point[]} */ ([]) },
  /** `rows`: null, they have not come yet. */
  usage: { days: 7, rows: /** @type {UsedRow[] | null} */ (null), loadedAt: 0 },
  isLive: false,
  /** Why not, where the proxy had words for it. */
  lostWords: "",
  heardAt: Date.now(),
};

/** What the operator is doing. */
export const ui = {
  page: "live",
  /** What is open, by its place. */
  open: new Set(),
  /** What was answered, by the place where it is shown. */
  answers: new Map(),
  range: "1h",
  days: "7",
  usedBy: "model",
  /** By provider: which keys are shown. */
  keyFilters: new Map(),
  requestKind: "all",
  requestSearch: "",
  /** How many requests are shown. */
  mostShown: 15,
  /** The requests on the page. They stand still while somebody reads them. */
  shown: /** @type {RequestRecord[]} */ ([]),
  /** Epoch ms. Whoever has gone away from the page does not read any more. */
  readsUntil: 0,
  tool: "Claude Code",
  toolProvider: "",
  model: "",
};

/** Draws the page: set by main.js, which knows all of it. */
export const page = { draw() {} };

const DRAW_AFTER_MS = 200;
let drawTimer = 0;

/** Draws soon, once for all that changes until then; never while nobody looks. */
export function redraw() {
  if (document.hidden || drawTimer !== 0) return;
  drawTimer = setTimeout(() => {
    drawTimer = 0;
    page.draw();
  }, DRAW_AFTER_MS);
}

export function restLeft(name, now) {
  return Math.max(0, (known.rests.get(name)?.untilMs ?? 0) - now);
}

/** How much of a rest is over, from 0 to 1. */
export function shareDone(name, now) {
  const rest = known.rests.get(name);
  return rest === undefined ? 1 : Math.min(1, Math.max(0, 1 - (rest.untilMs - now) / rest.totalMs));
}

/** Keeps what is running in the overview as instants, so that the page can count down by itself. */
export function receiveOverview(/** @type {Overview} */ overview) {
  const now = Date.now();
  known.overview = overview;
  known.overviewAt = now;
  known.aheadMs = Date.parse(overview.now) - now;
  const rests = new Map();
  const keep = (name, seconds) => {
    if (seconds > 0) rests.set(name, restOf(known.rests.get(name), now + seconds * 1000, seconds * 1000));
  };
  keep("headline", overview.headline.wait_sec);
  for (const { name, paused_sec, next_key_sec, queue_sec, keys } of overview.providers) {
    keep(name, paused_sec);
    keep(`${name} next`, next_key_sec);
    keep(`${name} queue`, queue_sec);
    for (const { id, cooldown_sec, models } of keys) {
      keep(`${name}/${id}`, cooldown_sec);
      for (const [model, rest] of Object.entries(models)) keep(`${name}/${id}/${model}`, rest.cooldown_sec);
    }
  }
  known.rests = rests;
}

/** Seconds are rounded up, so the same end looks a little different each time: the first is kept. */
function restOf(before, untilMs, totalMs) {
  return before && Math.abs(before.untilMs - untilMs) < 1500 ? before : { untilMs, totalMs };
}

export function receiveRequest(/** @type {RequestRecord} */ record) {
  known.requests = [record, ...known.requests].slice(0, MOST_REQUESTS);
  const { overview } = known;
  if (overview !== null) overview.under_way = overview.under_way.filter(({ id }) => id !== record.id);
  const point = runningPoint();
  if (point === undefined) return; // it comes with the whole range
  // As the proxy counts: of a request that failed, the last setback is the one that was seen.
  const setbacks = record.attempts.filter(
    ({ verdict }) => !["served", "rejected", "abandoned"].includes(verdict),
  );
  const isError = record.status >= 500 || record.truncated;
  const hidden = isError || record.status === 429 ? [] : setbacks.filter(({ status }) => status === 429);
  point.requests += 1;
  point.absorbed += isError ? Math.max(0, setbacks.length - 1) : setbacks.length;
  point.hidden_429 += hidden.length;
  point.errors += isError ? 1 : 0;
}

/** Moves the range on; its running point. Undefined: it has not come yet. */
export function runningPoint() {
  const { points, stepMs } = known.traffic;
  const running = Math.floor((Date.now() + known.aheadMs) / stepMs) * stepMs;
  while (points.length > 0 && Date.parse(points.at(-1).at) < running) {
    const begin = Math.max(Date.parse(points.at(-1).at) + stepMs, running - (points.length - 1) * stepMs);
    points.push({ at: new Date(begin).toISOString(), requests: 0, absorbed: 0, hidden_429: 0, errors: 0 });
    points.shift();
  }
  return points.at(-1);
}

/** An id counts anew in each run of the proxy. */
export function nameOf({ id, at }) {
  return `${at} ${id}`;
}

export function endOf({ at, total_ms }) {
  return Date.parse(at) + total_ms;
}

export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
