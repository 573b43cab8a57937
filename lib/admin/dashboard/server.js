/** Talking to the proxy: questions, changes, and the stream of what happens. */
import { byId, h } from "./dom.js";
import {
  known,
  ui,
  redraw,
  receiveOverview,
  receiveRequest,
  nameOf,
  endOf,
  pause,
  MOST_REQUESTS,
} from "./state.js";

/** The stream says something every 15 s: silent for longer than twice that, it is dead. */
const LONGEST_SILENCE_MS = 40_000;

/**
 * Asks the admin API. Never throws: what went wrong is a refusal in words for people.
 * @returns {Promise<{ body?: any, refusal?: { type: string, message: string } }>}
 */
export async function ask(method, path, sent = {}) {
  const isChange = method !== "GET";
  const headers = { ...pageKey(), ...(isChange ? { "content-type": "application/json" } : {}) };
  try {
    const request = { method, headers, ...(isChange ? { body: JSON.stringify(sent) } : {}) };
    const response = await fetch(`/admin/api/${path}`, request);
    const body = await response.json();
    if (body.error === undefined) return { body };
    if (body.error.type === "sign_in_required") location.reload(); // nothing of a session stays
    return { refusal: body.error };
  } catch {
    return { refusal: { type: "unreachable", message: "The proxy does not answer. Is it running?" } };
  }
}

/**
 * The half of a session that only this page has. The cookie alone could be read by whatever else listens on this
 * machine: cookies know no ports. The storage of a browser may be switched off, which it says by throwing.
 */
let keptPageKey = "";
const PAGE_KEY = "keywheel-page-key";

function pageKey() {
  try {
    keptPageKey ||= localStorage.getItem(PAGE_KEY) ?? "";
  } catch {}
  return keptPageKey === "" ? {} : { "x-keywheel-page": keptPageKey };
}

function keepPageKey(key) {
  keptPageKey = key;
  try {
    localStorage.setItem(PAGE_KEY, key);
  } catch {}
}

/** Asks for a change, and says at `place` what became of it. Returns the answer, null where it was refused. */
export async function change(place, method, path, sent) {
  answer(place, "busy", /(?:check|keys|providers)$/.test(path) ? "Asking the provider…" : "One moment…");
  const { body, refusal } = await ask(method, path, sent);
  const kind = refusal || body.works === false ? "error" : body.works === null ? "unclear" : "good";
  answer(place, kind, (refusal ?? body).message, refusal?.type);
  return refusal === undefined ? body : null;
}

export function pathOf(provider, ...more) {
  return ["providers", provider, ...more].map(encodeURIComponent).join("/");
}

/** What is good news goes away by itself. */
export function answer(place, kind, words, type) {
  const said = { kind, words, type };
  ui.answers.set(place, said);
  redraw();
  if (kind === "good") pause(8000).then(() => ui.answers.get(place) === said && ui.answers.delete(place));
}

export function answerView(place) {
  const { kind, words } = ui.answers.get(place) ?? {};
  return h("p.answer", { role: "status", "data-kind": kind }, words);
}

// The stream of events

/** The connection that brings the news. `retryNow` ends the pause before the next try. */
export const stream = { abort: new AbortController(), retryNow: (_) => {} };

export async function stayConnected() {
  for (let waitMs = 2000; ; waitMs = Math.min(waitMs * 1.5, 30_000)) {
    stream.abort = new AbortController();
    const words = await follow(stream.abort.signal);
    if (known.isLive) waitMs = 2000;
    Object.assign(known, { isLive: false, lostWords: words });
    redraw();
    await Promise.race([pause(waitMs), new Promise((done) => (stream.retryNow = done))]);
  }
}

/** Ends a connection that says nothing any more. */
export function giveUpIfSilent() {
  if (known.isLive && Date.now() - known.heardAt > LONGEST_SILENCE_MS) stream.abort.abort();
}

/**
 * Reads one stream to its end; returns why it ended, for people. By hand: an EventSource hides the comments that
 * keep it open, so a proxy that lost its power would look like one with nothing to tell.
 */
async function follow(signal) {
  try {
    const response = await fetch("/admin/api/live", { signal, headers: pageKey() });
    if (response.status === 401) location.reload();
    if (!response.ok) return (await response.json()).error.message;
    catchUp();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let unread = "";
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      Object.assign(known, { isLive: true, heardAt: Date.now() });
      const messages = (unread + read.value).split("\n\n");
      unread = messages.pop();
      messages.forEach(receive);
    }
  } catch {
    // Cut, or given up by us: the same as its end.
  }
  return "";
}

function receive(message) {
  const [, kind, json] = /^event: (\w+)\ndata: (.*)$/m.exec(message) ?? [];
  if (kind === "overview") receiveOverview(JSON.parse(json));
  if (kind === "request") receiveRequest(JSON.parse(json));
  redraw();
}

/** What was missed while nobody listened; some of it may have come as an event already. */
async function catchUp() {
  const [recent] = await Promise.all([ask("GET", `requests?limit=${MOST_REQUESTS}`), loadTraffic()]);
  const records = new Map();
  for (const record of [...known.requests, ...(recent.body?.requests ?? [])])
    records.set(nameOf(record), record);
  known.requests = [...records.values()].sort((a, b) => endOf(b) - endOf(a)).slice(0, MOST_REQUESTS);
  redraw();
}

/** Fetches the range that is looked at. */
export async function loadTraffic() {
  const { range } = ui;
  const { body } = await ask("GET", `traffic?range=${range}`);
  if (body === undefined || range !== ui.range) return;
  known.traffic = { range, stepMs: (body.step_sec ?? 60) * 1000, points: body.traffic };
  redraw();
}

/** Fetches what was used in the days that are looked at. */
export async function loadUsage() {
  const { days } = ui;
  known.usage.loadedAt = Date.now();
  const { body, refusal } = await ask("GET", `usage?days=${days}`);
  if (days !== ui.days) return;
  if (body === undefined) answer("usage", "error", refusal.message);
  else {
    ui.answers.delete("usage");
    known.usage = { days: Number(days), rows: body.usage, loadedAt: Date.now() };
  }
  redraw();
}

/** Saves these days as a file. A link alone would not carry what only this page has. */
export async function saveUsage(days) {
  try {
    const response = await fetch(`/admin/api/usage?days=${days}&format=csv`, { headers: pageKey() });
    if (!response.ok) return answer("usage", "error", (await response.json()).error.message);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = `keywheel-usage-${days}d.csv`;
    link.click();
    pause(1000).then(() => URL.revokeObjectURL(link.href));
  } catch {
    answer("usage", "error", "The proxy does not answer. Is it running?");
  }
}

// Who is it

/** Comes back when somebody is signed in, with the page in place of the form for it. */
export async function enter() {
  byId("sign-out").onclick = async () => {
    await ask("POST", "logout");
    keepPageKey("");
    location.reload();
  };
  const { body: session } = await ask("GET", "session");
  if (session?.signed_in !== true) await signIn();
  byId("login").hidden = true;
  byId("page").hidden = false;
}

function signIn() {
  const form = byId("login").querySelector("form");
  byId("login").hidden = false;
  byId("password").focus();
  return new Promise((signedIn) => {
    form.onsubmit = async (event) => {
      event.preventDefault();
      const { body, refusal } = await ask("POST", "login", { password: byId("password").value });
      byId("password").value = "";
      form.querySelector(".answer").textContent = refusal?.message ?? "";
      if (body === undefined) return;
      keepPageKey(body.page_key ?? "");
      signedIn(null);
    };
  });
}
