/** Puts the page together and keeps it up to date: soon after news, once a second for what runs. */
import { byId, h, patch } from "./dom.js";
import { known, ui, page } from "./state.js";
import { answerView, change, enter, giveUpIfSilent, loadUsage, stayConnected, stream } from "./server.js";
import { drawHero, drawQueue } from "./hero.js";
import { drawTraffic, prepareTraffic } from "./traffic.js";
import { drawProviders } from "./keys.js";
import { drawRequests, prepareRequests } from "./requests.js";
import { ACCESS, drawTools } from "./tools.js";
import { drawUsage } from "./usage.js";
import { count, duration } from "./words.js";

page.draw = () => {
  const { overview } = known;
  const now = Date.now();
  if (overview !== null || known.lostWords !== "") drawHero(overview, now);
  if (overview === null) return;
  if (ui.page === "tools") drawTools(overview);
  else if (ui.page === "usage") drawUsage(overview);
  else drawLive(overview, now);
  patch(byId("about"), aboutViews(overview));
};

function drawLive(overview, now) {
  drawQueue(overview, now);
  patch(byId("notices"), noticeViews(overview));
  drawProviders(overview, now);
  drawTraffic();
  drawRequests(overview, now);
}

function noticeViews({ problems, warnings }) {
  const title = "The settings on disk are not in use; the running ones are older";
  const list = (lines) => h("ul", ...lines.map((line) => h("li", line)));
  const remarks = `${count(warnings.length, "remark")} on the settings`;
  return [
    problems.length > 0 && h("section.card", { "data-kind": "problem" }, h("h2", title), list(problems)),
    warnings.length > 0 && h("details.card", h("summary", remarks), list(warnings)),
  ];
}

const ALONE =
  "This proxy does not hear from the server in STATE, and goes on with its share of the limits. It joins the others by itself.";

function aboutViews({ version, uptime_sec, listen, access, env_file, instances, state_store }) {
  const upMs = uptime_sec * 1000 + (Date.now() - known.overviewAt);
  const where = env_file === null ? "come from the environment" : `are in ${env_file}`;
  const words = `keywheel ${version}, up ${duration(upMs)}, at ${listen}. The settings ${where}. ${ACCESS[access]}`;
  const others = (instances?.length ?? 1) - 1;
  const shared = state_store === "alone" ? ALONE : others > 0 && `${others + 1} proxies share these keys.`;
  const reload = () => change("reload", "POST", "reload");
  return [
    h("p", words),
    shared && h("p", shared),
    h("button.button", { onclick: reload }, "Read the settings again"),
    answerView("reload"),
  ];
}

// Which page

const PAGES = ["live", "usage", "tools"];

function showPage() {
  const name = location.hash.slice(1);
  if (name === "main") return; // the skip link
  ui.page = PAGES.includes(name) ? name : "live";
  for (const other of PAGES) byId(other).hidden = other !== ui.page;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${ui.page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (ui.page === "usage") loadUsage();
  scrollTo(0, 0);
  page.draw();
}
window.onhashchange = showPage;

// Colours

const THEMES = ["auto", "light", "dark"];
let theme = "auto";

/** The storage of a browser may be switched off, which it says by throwing. */
try {
  theme = localStorage.getItem("keywheel-theme") ?? theme;
} catch {}

function showTheme() {
  const words = `Colours: ${theme === "auto" ? "as the system" : theme}`;
  document.documentElement.dataset.theme = theme;
  byId("theme").title = words;
  byId("theme").setAttribute("aria-label", words);
}

byId("theme").onclick = () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  showTheme();
  try {
    localStorage.setItem("keywheel-theme", theme);
  } catch {}
};

// The clock of the page

let ticking = 0;
/** A month of a large pool is some megabytes. */
const USAGE_EVERY_MS = 60_000;

function tick() {
  giveUpIfSilent();
  if (ui.page === "usage" && Date.now() - known.usage.loadedAt > USAGE_EVERY_MS) loadUsage();
  page.draw();
}

/** Nothing is drawn while nobody looks. */
function lookOrNot() {
  clearInterval(ticking);
  if (document.hidden) return;
  ticking = setInterval(tick, 1000);
  stream.retryNow(null);
  tick();
}
document.onvisibilitychange = lookOrNot;
window.ononline = () => stream.retryNow(null);

showTheme();
prepareTraffic();
prepareRequests();
await enter();
showPage();
lookOrNot();
stayConnected();
