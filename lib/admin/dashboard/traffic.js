/** What went through, over an hour, a day, a week or a month: upwards what agents got, downwards what they did not see. */
import { byId, choiceView, h, patch } from "./dom.js";
import { known, ui, runningPoint } from "./state.js";
import { loadTraffic } from "./server.js";
import { clock, count } from "./words.js";

const RANGES = { "1h": "1 h", "24h": "24 h", "7d": "7 d", "30d": "30 d" };
const BAR_SHARE = 0.7;

export function prepareTraffic() {
  const slider = byId("plot").querySelector("input");
  slider.onpointermove = ({ clientX }) => {
    const { left, width } = byId("plot").getBoundingClientRect();
    slider.value = String(Math.floor(((clientX - left) / width) * known.traffic.points.length));
    drawTraffic();
  };
  slider.oninput = slider.onfocus = slider.onblur = slider.onpointerleave = drawTraffic;
}

export function drawTraffic() {
  const choose = (range) => {
    ui.range = range;
    loadTraffic();
  };
  patch(byId("ranges"), [choiceView("range", "How far back", RANGES, ui.range, choose)]);
  runningPoint();
  const { points, stepMs } = known.traffic;
  if (points.length === 0) return;
  const slider = byId("plot").querySelector("input");
  if (slider.max !== String(points.length - 1)) {
    slider.max = String(points.length - 1);
    slider.value = slider.max;
  }
  const isPointed = byId("plot").matches(":hover, :focus-within");
  const point = points[slider.valueAsNumber] ?? points.at(-1);
  const words = `${timeOf(point, stepMs)}: ${trafficWords([point])}`;
  slider.setAttribute("aria-valuetext", words);
  patch(byId("readout"), [isPointed ? words : trafficWords(points)]);
  patch(byId("chart"), chartView(points, isPointed ? slider.valueAsNumber : null));
  const ticks = [points[0], points[Math.floor(points.length / 2)]].map((tick) => timeOf(tick, stepMs));
  patch(
    byId("times"),
    [...ticks, "now"].map((time) => h("span", time)),
  );
}

/** `21:54` in an hour, `Tue 21:00` in a day or week, `20 Nov` in a month. */
function timeOf({ at }, stepMs) {
  const begin = new Date(at);
  if (stepMs >= 86_400_000)
    return begin.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
  const time = clock(begin.getTime()).slice(0, 5);
  return stepMs < 3_600_000 ? time : `${begin.toLocaleDateString("en-GB", { weekday: "short" })} ${time}`;
}

function chartView(points, pointedAt) {
  const up = topOf(points.map(({ requests }) => requests));
  const down = topOf(points.map(({ absorbed }) => absorbed));
  const isQuiet = points.every(({ absorbed }) => absorbed === 0);
  // One scale for both halves, so that they can be compared; the lower half takes what it needs.
  const top = Math.max(up, down);
  const base = isQuiet ? 100 : Math.round((100 * up) / (up + down));
  const unit = isQuiet ? 100 / up : 100 / (up + down);
  const width = 600 / points.length;
  const bar = (at, from, many) => {
    if (many === 0) return "";
    const x = (at + (1 - BAR_SHARE) / 2) * width;
    return `M${x.toFixed(2)} ${from.toFixed(2)}v${(-many * unit).toFixed(2)}h${(width * BAR_SHARE).toFixed(2)}v${(many * unit).toFixed(2)}z`;
  };
  const each = (make) => points.map(make).join("");
  const lines = {
    base: `M0 ${base}H600`,
    answered: each(({ requests, errors }, at) => bar(at, base, requests - errors)),
    errors: each(({ requests, errors }, at) => bar(at, base - (requests - errors) * unit, errors)),
    hidden: each(({ hidden_429 }, at) => bar(at, base, -hidden_429)),
    absorbed: each(({ absorbed, hidden_429 }, at) =>
      bar(at, base + hidden_429 * unit, hidden_429 - absorbed),
    ),
    cursor: pointedAt === null ? "" : `M${(pointedAt + 0.5) * width} 0V100`,
  };
  const title = h("title", "Requests upwards; downwards refusals and faults that your agents did not see");
  const words = h("desc", trafficWords(points));
  const paths = Object.entries(lines).map(([name, d]) => h(`path.${name}`, { d }));
  const frame = { viewBox: "0 0 600 100", preserveAspectRatio: "none", role: "img" };
  return [h("svg", frame, title, words, ...paths), h("small", { "aria-hidden": "true" }, `${top}`)];
}

/** The next round number, at least 5: a single request does not fill the chart. */
function topOf(numbers) {
  const most = Math.max(5, ...numbers);
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 3, 5, 10].map((step) => step * size).find((round) => round >= most);
}

function trafficWords(points) {
  const sum = (name) => points.reduce((total, point) => total + point[name], 0);
  const [hidden, others, errors] = [sum("hidden_429"), sum("absorbed") - sum("hidden_429"), sum("errors")];
  return [
    count(sum("requests"), "request"),
    `${count(hidden, "429")} not seen`,
    others > 0 && `${count(others, "other failure")} not seen`,
    errors > 0 && `${count(errors, "error")} seen`,
  ]
    .filter(Boolean)
    .join(", ");
}
