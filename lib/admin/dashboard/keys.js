/** Providers and their keys: how each is, and what can be done with it. */
import { byId, h, pairs, patch, remembered, sign } from "./dom.js";
import { known, ui, page, redraw, restLeft, shareDone, pause } from "./state.js";
import { answerView, change, pathOf } from "./server.js";
import { addProviderView, addView, settingsView } from "./forms.js";
import { STANDINGS, beatWords, modelWords, standingOf, troubleOf } from "./status.js";
import { count, duration, grouped } from "./words.js";

const MOST_MODELS = 6;
/** From so many keys on, a list gets a search and chips, and scrolls by itself. */
const MANY_KEYS = 9;

/** @param {import("./state.js").Overview} overview */
export function drawProviders(overview, now) {
  const views = overview.providers.map((provider) => providerView(provider, overview.providers, now));
  patch(byId("providers"), [...views, addProviderView(overview)]);
}

/** `openai` for the default provider, else the name in its path. */
function titleOf({ name, dialect }) {
  return name === "default" ? dialect : name;
}

/** @param {import("./state.js").Provider} provider */
function providerView(provider, providers, now) {
  const { name, state, pause_said, base_url, in_flight, keys } = provider;
  const isOpen = (what) => ui.open.has(`${what} ${name}`);
  const words = {
    disabled: "Switched off: no request goes there.",
    paused: [pause_said ?? `${troubleOf(provider)}.`, `Next try in ${duration(restLeft(name, now))}.`]
      .filter(Boolean)
      .join(" "),
    up: "",
  };
  const path = name === "default" ? "/v1" : `/${name}/v1`;
  return h(
    "section.card.provider",
    { key: name, "data-state": state, "aria-label": `Provider ${titleOf(provider)}` },
    h(
      "header",
      h(
        "h2",
        titleOf(provider),
        h(
          "small",
          `${base_url.replace(/^https?:\/\//, "")} under ${path}${in_flight > 0 ? ` · ${in_flight} under way` : ""}`,
        ),
      ),
      provider.settings.disabled && switchView(provider),
    ),
    h("p", { "data-kind": state === "paused" ? "trouble" : "soft" }, words[state]),
    keys.length === 0 && h("p.soft", "No key yet. Paste some, and requests go out at once."),
    keys.length >= MANY_KEYS && keyFilterView(provider),
    keysView(provider, now),
    h("div.actions", toggleView(`add ${name}`, "Add keys"), toggleView(`edit ${name}`, "Settings")),
    answerView(name),
    isOpen("add") && addView(provider, `add ${name}`),
    isOpen("edit") && settingsView(provider, `edit ${name}`),
    isOpen("edit") && isOpen("remove") && removeProviderView(provider, providers),
  );
}

function switchView({ name, state, settings }) {
  const isOn = state !== "disabled";
  const flip = () => change(name, "PATCH", pathOf(name), { disabled: isOn ? true : null });
  const { locked } = settings.disabled;
  const more = { disabled: locked !== null, title: locked, onclick: flip };
  return h(
    "button.switch",
    { role: "switch", "aria-checked": String(isOn), "aria-label": `${name} in use`, ...more },
    "in use",
  );
}

function removeProviderView({ name, keys }, providers) {
  const path = name === "default" ? "/v1" : `/${name}/v1`;
  const isLast = providers.length === 1;
  const remove = async () => {
    ui.open.delete(`remove ${name}`);
    if (await change("providers", "DELETE", pathOf(name))) byId("main").focus({ preventScroll: true });
  };
  const words = isLast
    ? "It is the only provider: remove its keys one by one, or stop the proxy."
    : `Its settings and ${count(keys.length, "key")} are taken out of the settings for good, and nothing is served under ${path} any more. `;
  return h(
    "p.answer",
    { "data-kind": "error" },
    words,
    !isLast && h("button.button.danger", { onclick: remove }, `Remove ${name}`),
  );
}

/** A button that opens what has its place after it. */
export function toggleView(place, words) {
  return h(
    "button.button",
    {
      key: place,
      "data-place": place,
      "aria-expanded": String(ui.open.has(place)),
      onclick: () => toggle(place),
    },
    words,
  );
}

export function toggle(place) {
  if (!ui.open.delete(place)) ui.open.add(place);
  ui.answers.delete(place);
  page.draw();
  focusIfLost(place);
}

/** Where what had the focus is gone, the button that opens `place` gets it, or else the page's content. */
export function focusIfLost(place) {
  if (document.activeElement !== document.body) return;
  const buttons = [...document.querySelectorAll("[data-place]")];
  const button = buttons.find((other) => other.dataset.place === place) ?? byId("main");
  button.focus({ preventScroll: true });
}

// Many keys

function filterOf(name) {
  const known = ui.keyFilters.get(name) ?? { kind: "all", search: "" };
  ui.keyFilters.set(name, known);
  return known;
}

function keyFilterView(provider) {
  const { name, keys } = provider;
  const filter = filterOf(name);
  const kinds = keys.map((key) => standingOf(provider, key, 1).kind);
  const many = (kind) => kinds.filter((other) => other === kind).length;
  const all = [
    ["all", "all", keys.length],
    ...Object.entries(STANDINGS).map(([kind, words]) => [kind, words, many(kind)]),
  ];
  const chips = all
    .filter(([kind, , number]) => number > 0 || kind === filter.kind)
    .map(([kind, words, number]) => {
      const choose = () => {
        filter.kind = kind;
        page.draw();
      };
      const pressed = {
        key: kind,
        "aria-pressed": String(filter.kind === kind),
        "data-kind": kind,
        onclick: choose,
      };
      return h("button.chip", pressed, h("b", String(number)), ` ${words}`);
    });
  const search = {
    type: "search",
    placeholder: "Account or last four",
    "aria-label": `Search the keys of ${name}`,
    oninput: ({ target }) => {
      filter.search = target.value.trim().toLowerCase();
      redraw();
    },
  };
  return h("div.filter", h("input", search), h("div.chips", ...chips));
}

function isWanted(provider, key) {
  const { kind, search } = filterOf(provider.name);
  if (kind !== "all" && standingOf(provider, key, 1).kind !== kind) return false;
  return [key.account, key.last_four, key.id].some((text) => text?.toLowerCase().includes(search));
}

function keysView(provider, now) {
  const { name, keys } = provider;
  if (keys.length === 0) return null;
  const shown = keys.length < MANY_KEYS ? keys : keys.filter((key) => isWanted(provider, key));
  const isLong = keys.length >= MANY_KEYS;
  const frame = isLong ? { tabindex: 0, role: "region", "aria-label": `Keys of ${name}` } : {};
  return h(
    isLong ? "div.keys.long" : "div.keys",
    frame,
    h("ol", { "aria-label": `Keys of ${name}` }, ...shown.map((key) => rememberedKey(provider, key, now))),
    shown.length === 0 && h("p.soft", "No key is so."),
  );
}

/** A key whose facts and seconds are as they were is the same view, which costs nothing. */
function rememberedKey(provider, key, now) {
  const name = `${provider.name}/${key.id}`;
  const place = `key ${name}`;
  const left = Math.ceil(restLeft(provider.state === "paused" ? provider.name : name, now) / 1000);
  const models = Object.keys(key.models).map((model) => Math.ceil(restLeft(`${name}/${model}`, now) / 1000));
  const isOpen = ui.open.has(place);
  if (isOpen) return keyView(provider, key, now, left * 1000);
  const { paused_sec: _, next_key_sec: __, queue_sec: ___, settings, ...facts } = provider;
  const around = [facts.state, facts.pause_said, settings.rpm, provider.keys.length];
  return remembered(place, [key, { ...key, cooldown_sec: 0 }, left, models, around], () =>
    keyView(provider, key, now, left * 1000),
  );
}

/** How a key is named: by its account and its last four characters, else by its id. */
export function keyTitle({ account, last_four, id }) {
  return [account, last_four ? `…${last_four}` : account === null ? id : ""].filter(Boolean).join(" ");
}

function keyView(provider, key, now, leftMs) {
  const { id, index, account, last_four, said, beats } = key;
  const name = `${provider.name}/${id}`;
  const place = `key ${name}`;
  const { kind, words } = standingOf(provider, key, leftMs);
  const models = modelWords(key, (model) => restLeft(`${name}/${model}`, now));
  const more = models.length > MOST_MODELS ? [[`and ${models.length - MOST_MODELS} more`, ""]] : [];
  const open = {
    "aria-expanded": String(ui.open.has(place)),
    "aria-label": `Key ${keyTitle(key)}: ${words}`,
    onclick: () => toggle(place),
  };
  return h(
    "li.key",
    { key: id, "data-kind": kind },
    glyphView(kind, name, provider, now),
    h("div.who", h("p", h("b", last_four ? `…${last_four}` : id), h("span", account ?? `key ${index + 1}`))),
    h("p.state", words),
    beats && h("span.beats", { title: beatWords(beats), "aria-hidden": "true" }, ...[...beats].map(beatView)),
    gaugeView(key, provider.settings.rpm),
    h("button.icon.open", open, sign("M5 8l5 5 5-5")),
    (said !== null || models.length > 0) &&
      h(
        "div.remarks",
        said !== null && h("p.soft", `“${said}”`),
        models.length > 0 &&
          h(
            "ul",
            { "aria-label": "Models that are not asked for now" },
            ...[...models.slice(0, MOST_MODELS), ...more].map(([line, why]) => h("li", { title: why }, line)),
          ),
      ),
    ui.open.has(place) && panelView(provider, key, place),
  );
}

function beatView(letter) {
  return h("i", { "data-beat": letter });
}

/** The standing as a shape: a tick, a ring that runs out, bars, a coin, a cross in a box. */
function glyphView(kind, name, provider, now) {
  const waits = kind === "unreachable" ? provider.name : name;
  const style = { "stroke-dasharray": `${1 - shareDone(waits, now)} 2` };
  const ring = h("circle.faint", { r: 9 });
  const running = [ring, h("circle.arc", { r: 9, pathLength: 1, style })];
  const shapes = {
    ready: [h("circle.disc", { r: 9 }), h("path", { d: "M-4 .5l3 3 5.5-6" })],
    full: [...running, h("path", { d: "M-3.5 2.5h7M-3.5-.5h7" })],
    cooling: running,
    unreachable: [...running, h("path", { d: "M-3-3 3 3M3-3-3 3" })],
    money: [ring, h("path", { d: "M0-5v10M3-2.2C2-3.6-3-3.6-3-1.3S3 .2 3 2-2 3.7-3 2.2" })],
    out: [
      h("rect", { x: -9, y: -9, width: 18, height: 18, rx: 4 }),
      h("path", { d: "M-3.5-3.5l7 7m0-7-7 7" }),
    ],
    paused: [ring, h("path", { d: "M-2.5-3.5v7m5-7v7" })],
    off: [ring],
  };
  return h(
    "svg.glyph",
    { viewBox: "-11 -11 22 22", "aria-hidden": "true" },
    h("g", { key: kind }, ...shapes[kind]),
  );
}

function gaugeView(key, setting) {
  const { today, daily_limit, rpm_limit } = key;
  const share = daily_limit === null ? 0 : Math.min(1, today / daily_limit);
  const level = share >= 1 ? "full" : share >= 0.8 ? "near" : "low";
  const of = daily_limit === null ? "" : ` of ${grouped(daily_limit)}`;
  const gauge = { hidden: daily_limit === null, "data-level": level, style: { "--share": String(share) } };
  return h(
    "div.today",
    h("p", `${grouped(today)}${of} today`),
    h("div.gauge", gauge),
    h("p.soft", rpmWords(rpm_limit, setting)),
  );
}

function rpmWords(limit, setting) {
  if (limit === null) return "";
  return `${grouped(limit)}/min${setting?.value === "auto" ? " learnt" : ""}`;
}

function panelView(provider, key, place) {
  const { id, state, locked, source, last_used } = key;
  const path = (...more) => pathOf(provider.name, "keys", id, ...more);
  const act = (words, what, name = what) =>
    h("button.button", { key: name, onclick: () => change(place, "POST", path(what)) }, words);
  const isFixed = locked !== null || provider.keys.length < 2;
  const move = (words, to) =>
    h("button.button", { disabled: isFixed, onclick: () => moveTo(provider, id, to, place) }, words);
  const at = provider.keys.indexOf(key);
  const facts = {
    requests: grouped(key.requests),
    refused: grouped(key.rate_limited),
    errors: grouped(key.errors),
    "last used": last_used === null ? "never" : new Date(last_used).toLocaleString("en-GB"),
    "its place": `${at + 1} of ${provider.keys.length}`,
    id,
    "written in": source ?? "not known",
  };
  const removing = `remove ${place}`;
  const remove = async () => {
    if (await change(provider.name, "DELETE", path())) byId("main").focus({ preventScroll: true });
  };
  return h(
    "div.panel",
    h("dl.pairs", ...pairs(facts)),
    locked !== null && h("p.soft", locked),
    h(
      "div.actions",
      act("Check it", "check"),
      state === "paused" ? act("Use it again", "resume", "pause") : act("Pause it", "pause"),
      act("Use it now, whatever it waits for", "reset"),
    ),
    h(
      "div.actions",
      move("To the top", 0),
      move("Up", at - 1),
      move("Down", at + 1),
      locked === null && toggleView(removing, "Remove it"),
    ),
    ui.open.has(removing) &&
      h(
        "p.answer",
        { "data-kind": "error" },
        `The key is taken out of ${source ?? "the settings"} for good. `,
        h("button.button.danger", { onclick: remove }, `Remove ${keyTitle(key)}`),
      ),
    answerView(place),
  );
}

/** Keys that are asked in turn start at the top; with `sticky` the first one that may be asked is. */
async function moveTo(provider, id, to, place) {
  const others = provider.keys.map((key) => key.id).filter((other) => other !== id);
  const ids = others.toSpliced(Math.min(Math.max(0, to), others.length), 0, id);
  if (await change(place, "POST", pathOf(provider.name, "order"), { ids })) {
    patch(byId("spoken"), [`The key is now ${ids.indexOf(id) + 1} of ${ids.length}`]);
    await pause(0);
    known.overview?.providers
      .find(({ name }) => name === provider.name)
      ?.keys.sort((a, b) => ids.indexOf(a.id) - ids.indexOf(b.id));
    page.draw();
  }
}
