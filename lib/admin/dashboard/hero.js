/** The headline, the wheel, the numbers, the line of those who wait. */
import { byId, h, pairs, patch } from "./dom.js";
import { known, ui, restLeft, shareDone } from "./state.js";
import { headlineOf, otherTroubles, standingOf } from "./status.js";
import { clock, count, duration, grouped } from "./words.js";

/** `overview`: null where there was none yet. */
export function drawHero(overview, now) {
  const { tone, words, text, more } = known.isLive ? liveHeadline(overview, now) : lostHeadline();
  document.body.dataset.tone = tone;
  patch(byId("link"), [known.isLive ? "live" : "not connected"]);
  patch(byId("hero"), [
    overview && wheelView(overview, now),
    h(
      "div.words",
      h("h1", { id: "headline" }, text),
      h("p", more),
      overview && h("ul.troubles", ...otherTroubles(overview.providers).map((line) => h("li", line))),
    ),
    overview && h("dl.numbers", ...pairs(numbersOf(overview))),
  ]);
  patch(byId("spoken"), [words]);
  if (document.title !== `${words} · keywheel`) document.title = `${words} · keywheel`;
  showIcon(tone);
}

function liveHeadline(overview, now) {
  const waitMs = overview.headline.wait_sec === null ? null : Math.max(1, restLeft("headline", now));
  return headlineOf(overview, waitMs);
}

function lostHeadline() {
  const more = `${known.lostWords} The last news is of ${clock(known.heardAt)}. Trying again.`.trim();
  return { tone: "lost", words: "Not connected", text: "Not connected", more };
}

const RANGE_WORDS = { "1h": "the last hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days" };

function numbersOf({ in_flight, hidden_429 }) {
  const { points } = known.traffic;
  const sum = (name) => points.reduce((total, point) => total + point[name], 0);
  const hidden = points.length > 0 ? sum("hidden_429") : (hidden_429?.[ui.range] ?? 0);
  return {
    "429s your agents did not see": grouped(hidden),
    [`requests in ${RANGE_WORDS[ui.range]}`]: grouped(sum("requests")),
    "errors they saw": grouped(sum("errors")),
    "under way now": grouped(in_flight),
  };
}

/** The sign in the tab is the rim, in the colour of the headline. Without one a browser would ask for /favicon.ico. */
const icon = { link: /** @type {HTMLLinkElement | null} */ (null) };

function showIcon(tone) {
  const colour = { fine: "2fb587", waiting: "e0a52f", down: "e5564a" }[tone] ?? "8a919c";
  const look = `fill="none" stroke="#${colour}" stroke-width="4" stroke-dasharray="14 4.85"`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -12 24 24"><circle r="9" ${look}/></svg>`;
  const address = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  icon.link ??= document.head.appendChild(Object.assign(document.createElement("link"), { rel: "icon" }));
  if (icon.link.href !== address) icon.link.href = address;
}

// The wheel: each key is a piece of the rim. Green: ready, and thicker at work. Amber and growing: it comes back.
// Dotted red: it needs somebody. Thin grey: paused.

const RIM = 84;
const MOST_ROUND = 12;
const LOOKS = { full: "cooling", unreachable: "cooling", money: "out", off: "paused" };

/** @param {import("./state.js").Overview} overview */
function wheelView({ providers }, now) {
  const used = providers.filter(({ state, keys }) => state !== "disabled" && keys.length > 0);
  const total = used.reduce((sum, { keys }) => sum + keys.length, 0);
  const gap = used.length > 1 ? 7 : 0; // between providers
  const share = total === 0 ? 360 : (360 - gap * used.length) / total;
  const isRound = total <= MOST_ROUND;
  let ready = 0;
  let from = -90 + gap / 2;
  const spokes = used.flatMap((provider) => {
    const pieces = provider.keys.map((key) => {
      const name = `${provider.name}/${key.id}`;
      const { kind } = standingOf(provider, key, 1);
      if (kind === "ready") ready += 1;
      const look = LOOKS[kind] ?? kind;
      const inset = isRound ? Math.min(7, share / 3) : Math.min(2, share / 5); // round ends reach further
      const line = {
        d: arcPath(from + inset, from + share - inset),
        "stroke-linecap": isRound ? "round" : "butt",
      };
      from += share;
      const done = look === "cooling" ? shareDone(kind === "unreachable" ? provider.name : name, now) : 1;
      const style = { "stroke-dasharray": done < 1 ? `${done} 2` : "none", opacity: done < 0.01 ? "0" : "1" };
      return h(
        "g",
        { key: name, "data-look": look, "data-busy": key.in_flight > 0 },
        h("path.track", line),
        h("path.fill", { ...line, pathLength: 1, style }),
      );
    });
    from += gap;
    return pieces;
  });
  const rim =
    total === 0 && h("g", { key: "none", "data-look": "paused" }, h("path.track", { d: arcPath(-89, 269) }));
  return h(
    "svg",
    { id: "wheel", viewBox: "-100 -100 200 200", "aria-hidden": "true" },
    rim,
    ...spokes,
    h("text", { y: 12 }, `${ready}`),
    h("text.small", { y: 36 }, total === 0 ? "no key" : `of ${total} ready`),
  );
}

function arcPath(from, to) {
  const at = (degrees) =>
    [Math.cos, Math.sin].map((of) => (RIM * of((degrees * Math.PI) / 180)).toFixed(2)).join(" ");
  return `M${at(from)}A${RIM} ${RIM} 0 ${to - from > 180 ? 1 : 0} 1 ${at(to)}`;
}

// Those who wait

const MOST_DOTS = 40;

/** @param {import("./state.js").Overview} overview */
export function drawQueue(overview, now) {
  const lines = overview.providers.filter(({ waiting }) => waiting > 0);
  const place = byId("queue");
  place.hidden = lines.length === 0;
  patch(
    place,
    lines.map((provider) => queueView(provider, overview, lines.length > 1, now)),
  );
}

function queueView({ name, waiting, next_key_sec, queue_sec }, { under_way, providers }, isOneOfMany, now) {
  const line = under_way.filter(
    ({ phase, provider }) => phase === "waiting" && (provider ?? providers[0].name) === name,
  );
  const nextMs = next_key_sec === null ? null : restLeft(`${name} next`, now);
  const lastMs = queue_sec === null ? null : restLeft(`${name} queue`, now);
  const whose = isOneOfMany ? ` for ${name}` : "";
  const first = nextMs === null || nextMs === 0 ? "" : `The first goes out in about ${duration(nextMs)}.`;
  const last =
    lastMs === null
      ? "one that comes now: nobody knows when a key comes back"
      : `one that comes now goes out in about ${duration(Math.max(lastMs, 1000))}`;
  const dots = line.slice(0, MOST_DOTS).map((request) => {
    const waitedMs = request.waited_ms + (now - known.overviewAt);
    const words = `${request.model ?? request.path}${request.client ? ` of ${request.client}` : ""}, waits for ${duration(waitedMs)}`;
    return h("li", { key: request.id, title: words }, h("span.unseen", words));
  });
  const more = waiting - dots.length;
  return h(
    "div",
    { key: name },
    h(
      "h2",
      { id: "queue-title" },
      `${count(waiting, "request")} ${waiting === 1 ? "waits" : "wait"}${whose}`,
    ),
    h("p.soft", first),
    h(
      "ol.line",
      { "aria-label": "In the order in which they are served" },
      ...dots,
      h("li.more", { key: "more" }, more > 0 ? `after ${more} more, ${last}` : last),
    ),
  );
}
