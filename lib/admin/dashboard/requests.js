/** The requests: those under way first, each as a bar of its wait, its provider's time and its stream. */
import { byId, choiceView, h, patch, remembered, sign } from "./dom.js";
import { known, ui, page, redraw, nameOf, endOf } from "./state.js";
import { keyTitle, toggle } from "./keys.js";
import { clock, count, grouped, spent, verdictWords } from "./words.js";

const FIRST_SHOWN = 15;
/** Of those under way, where all kinds are shown. */
const MOST_RUNNING = 8;
const READING_MS = 60_000;

const KINDS = {
  all: "All",
  running: "Under way",
  waited: "Waited",
  hidden: "429 not seen",
  failed: "Failed",
};

/** A list stands still while somebody reads it. */
export function prepareRequests() {
  const list = byId("requests");
  list.onpointermove = list.onkeyup = ({ pointerType }) => {
    if (pointerType !== "touch") ui.readsUntil = Date.now() + READING_MS; // a finger that is gone does not point
  };
  list.onpointerleave = () => (ui.readsUntil = 0);
  list.addEventListener("focusout", list.onpointerleave);
}

/** @param {import("./state.js").Overview} overview */
export function drawRequests(overview, now) {
  patch(byId("request-filter"), filterViews());
  const isHeld = now < ui.readsUntil && ui.shown.length > 0;
  const fresh = known.requests.slice(0, ui.mostShown).filter((record) => !ui.shown.includes(record)).length;
  if (!isHeld) ui.shown = known.requests;
  patch(byId("held"), [isHeld && fresh > 0 && `${count(fresh, "new one")} held back while you read`]);
  const running = overview.under_way
    .map((request) => runningOf(request, now))
    .filter(isWantedRequest)
    .reverse();
  const ended = ui.shown.filter(isWantedRequest);
  patch(byId("requests"), listViews(running, ended));
}

function filterViews() {
  const choose = (kind) => {
    ui.requestKind = kind;
    page.draw();
  };
  const search = {
    type: "search",
    placeholder: "Model, client, key or path",
    "aria-label": "Search the requests",
    oninput: ({ target }) => {
      ui.requestSearch = target.value.trim().toLowerCase();
      redraw();
    },
  };
  return [h("input", search), choiceView("request-kind", "Which requests", KINDS, ui.requestKind, choose)];
}

/** A request under way, with the fields of an ended one as far as they are known. */
function runningOf(request, now) {
  const sinceMs = now - known.overviewAt;
  const total_ms = request.total_ms + sinceMs;
  const wait_ms = Math.min(total_ms, request.waited_ms + (request.phase === "waiting" ? sinceMs : 0));
  const answered = request.first_byte_ms ?? total_ms;
  return {
    ...request,
    isRunning: true,
    total_ms,
    wait_ms,
    provider_ms: Math.max(0, answered - wait_ms),
    stream_ms: total_ms - answered,
  };
}

function isWantedRequest(record) {
  return isOfKind(record) && isFound(record);
}

function isOfKind(record) {
  const { isRunning = false, wait_ms, status, truncated } = record;
  switch (ui.requestKind) {
    case "running":
      return isRunning;
    case "waited":
      return wait_ms >= 100;
    case "hidden":
      return !isRunning && hiddenOf(record) > 0;
    case "failed":
      return !isRunning && (status >= 400 || truncated);
    default:
      return true;
  }
}

function isFound({ model, client, path, account, key_id, provider, status, reason }) {
  if (ui.requestSearch === "") return true;
  const texts = [model, client, path, account, key_id, provider, status, reason, keyOf(key_id)];
  return texts.some((text) => text && String(text).toLowerCase().includes(ui.requestSearch));
}

/** The key's name on this page; null: it is not in the pool any more. */
function keyOf(id) {
  for (const { keys } of known.overview?.providers ?? []) {
    const key = keys.find((other) => other.id === id);
    if (key !== undefined) return keyTitle(key);
  }
  return null;
}

function listViews(running, ended) {
  const shown = ended.slice(0, ui.mostShown);
  if (running.length + shown.length === 0) {
    const isEmpty = known.requests.length === 0 && ui.requestKind === "all" && ui.requestSearch === "";
    return [
      isEmpty
        ? h("p.soft", "None yet. ", h("a", { href: "#tools" }, "Point a tool at this address."))
        : h("p.soft", "No request is so."),
    ];
  }
  const scale = scaleOf([...running, ...shown]);
  const most = ui.requestKind === "running" ? Infinity : MOST_RUNNING;
  const hidden = Math.max(0, running.length - most);
  const showRunning = () => {
    ui.requestKind = "running";
    page.draw();
  };
  const rows = [
    ...running.slice(0, most).map((record) => requestView(record, scale)),
    hidden > 0 &&
      h(
        "li.hidden-rows",
        { key: "hidden" },
        h("button.button", { onclick: showRunning }, `${hidden} more under way`),
      ),
    ...shown.map((record) => endedView(record, scale)),
  ];
  const showMore = () => {
    ui.mostShown = ui.mostShown === FIRST_SHOWN ? 100 : ui.mostShown + 200;
    page.draw();
  };
  const showFewer = () => {
    ui.mostShown = FIRST_SHOWN;
    page.draw();
  };
  return [
    h("ol", { "aria-label": "Requests, newest first" }, ...rows),
    h(
      "div.actions",
      ended.length > shown.length && h("button.button", { key: "more", onclick: showMore }, "Show more"),
      ui.mostShown > FIRST_SHOWN && h("button.button", { key: "fewer", onclick: showFewer }, "Show fewer"),
      h("p.soft", { key: "scale" }, `A full bar is ${spent(scale)}.`),
    ),
  ];
}

const STEPS = [500, 1000, 2000, 5000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000];

/** What a full bar stands for: nine of ten requests fit. Longer ones end in a notch. */
function scaleOf(records) {
  const totals = records.map(({ total_ms }) => total_ms).sort((a, b) => a - b);
  const most = totals[Math.floor((totals.length - 1) * 0.9)] ?? 0;
  return STEPS.find((step) => step >= most) ?? 3_600_000;
}

function endedView(record, scale) {
  const name = nameOf(record);
  if (ui.open.has(`request ${name}`)) return requestView(record, scale);
  return remembered(`request ${name}`, [scale, keyOf(record.key_id)], () => requestView(record, scale));
}

const PHASES = {
  receiving: "is coming in",
  waiting: "waits for a key",
  provider: "at the provider",
  streaming: "streams",
};

function requestView(record, scale) {
  const { isRunning = false, model, path, client, total_ms, phase } = record;
  const hidden = isRunning ? 0 : hiddenOf(record);
  const when = isRunning ? "now" : clock(endOf(record));
  const place = `request ${isRunning ? `running ${record.id}` : nameOf(record)}`;
  const { kind, words } = isRunning ? { kind: phase, words: PHASES[phase] ?? phase } : resultOf(record);
  const open = {
    "aria-expanded": String(ui.open.has(place)),
    "aria-label": `${model ?? path}${client ? ` of ${client}` : ""}: ${words}, ${spent(total_ms)}`,
    onclick: () => toggle(place),
  };
  return h(
    isRunning ? "li.request.running" : "li.request",
    { key: place },
    h("i.mark", { "data-kind": kind, "aria-hidden": "true" }),
    h(
      "div.what",
      h("p", { title: model ?? path }, model ?? path),
      h("p.soft", client ?? keyOf(record.key_id) ?? ""),
    ),
    barView(record, scale),
    h("p.result", words, h("small", hidden > 0 ? `${hidden} × 429 · ${when}` : when)),
    h("p.total", spent(total_ms)),
    h("button.icon.open", open, sign("M6 8l4 4 4-4")),
    ui.open.has(place) && detailsView(record),
  );
}

function barView({ wait_ms, provider_ms, stream_ms, total_ms }, scale) {
  const share = (ms) => Math.min(100, (ms / Math.max(scale, total_ms)) * 100);
  const phases = { wait: wait_ms, provider: provider_ms, stream: stream_ms };
  const parts = Object.entries(phases)
    .filter(([, ms]) => ms > 0)
    .map(([name, ms]) =>
      h("i", { key: name, "data-phase": name, style: { width: `${share(ms).toFixed(2)}%` } }),
    );
  const title = `${spent(wait_ms)} wait, ${spent(provider_ms)} provider, ${spent(stream_ms)} stream`;
  return h("div.phases", { title, "aria-hidden": "true", "data-long": total_ms > scale }, ...parts);
}

/** How many 429 of the provider the agent did not see. */
function hiddenOf({ status, attempts }) {
  if (status >= 500 || status === 429) return 0;
  return attempts.filter((attempt) => attempt.status === 429).length;
}

function resultOf({ status, truncated }) {
  if (truncated) return { kind: "fault", words: "cut short" };
  if (status === 499) return { kind: "left", words: "client left" };
  if (status >= 500) return { kind: "fault", words: `failed, ${status}` };
  if (status >= 400) return { kind: "refused", words: `refused, ${status}` };
  return { kind: "served", words: "answered" };
}

function detailsView(record) {
  const { isRunning = false, attempts, method, path, client, provider, account, key_id, reason } = record;
  const facts = [
    `${method} ${path}`,
    client && `client ${client}`,
    provider && `provider ${provider}`,
    (keyOf(key_id) ?? account ?? key_id) && `key ${keyOf(key_id) ?? account ?? key_id}`,
    `${spent(record.wait_ms)} wait, ${spent(record.provider_ms)} provider, ${spent(record.stream_ms)} stream`,
    isRunning && count(attempts, "attempt"),
    record.bytes > 0 && `${grouped(Math.ceil(record.bytes / 1024))} KB`,
    record.maybe_billed_replays > 0 &&
      `${count(record.maybe_billed_replays, "replay")} that may have been billed`,
  ];
  const lines = isRunning ? [] : attempts.map(attemptView);
  return h(
    "div.details",
    reason && h("p", reason),
    lines.length > 0 && h("ol", { "aria-label": "Attempts" }, ...lines),
    h("p.soft", facts.filter(Boolean).join(" · ")),
  );
}

function attemptView({ provider, key_id, account, verdict, status, ms, said }) {
  const key = keyOf(key_id) ?? account ?? key_id;
  const mark = h("i.mark", { "data-kind": kindOf(verdict), "aria-hidden": "true" });
  const words = `${provider}, key ${key}: ${verdictWords(verdict)}${status ? ` (${status})` : ""} after ${spent(ms)}`;
  return h("li", mark, words, said && h("span.soft", ` “${said}”`));
}

/** Whose fault it was: nobody's, the client's who left, the provider's, the key's. */
function kindOf(verdict) {
  const kinds = {
    served: "served",
    rejected: "served",
    abandoned: "left",
    overloaded: "fault",
    unreachable: "fault",
  };
  return kinds[verdict] ?? "refused";
}
