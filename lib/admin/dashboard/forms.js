/** Adding keys and providers, changing settings. */
import { h } from "./dom.js";
import { known, ui, page } from "./state.js";
import { answer, answerView, ask, change, pathOf } from "./server.js";
import { focusIfLost, toggle, toggleView } from "./keys.js";
import { count } from "./words.js";

/** A form that opens at `place`. Nothing is ever posted by the browser itself. */
function formView(place, send, fields, buttons, ...more) {
  const onsubmit = (event) => {
    event.preventDefault();
    if (ui.answers.get(place)?.kind !== "busy") send(event.currentTarget);
  };
  const parts = [h("div.fields", ...fields), ...more, answerView(place), h("div.actions", ...buttons)];
  return h("form.drawer", { key: place, onsubmit }, ...parts);
}

function fieldsOf(form) {
  return [...new FormData(form)].map(([name, text]) => [name, String(text).trim()]);
}

/** Closes a form that has done its work; its last words stay at `shownAt`. */
function closeInto(shownAt, place) {
  const { kind, words } = ui.answers.get(place);
  ui.open.delete(place);
  ui.answers.delete(place);
  answer(shownAt, kind, words);
  page.draw();
  focusIfLost(place);
}

export function fieldView(label, remark, input) {
  return h("label.field", label, input, h("small", remark));
}

// Keys

const KEYS_REMARK =
  "Any number: one a line, or with commas between them. account@key names its account, key:500 limits its day. " +
  "No key is ever shown again.";

function keysField() {
  const secret = {
    name: "keys",
    rows: 4,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    required: true,
    autofocus: true,
  };
  return h("label.field.wide", "Keys", h("textarea.secret", secret), h("small", KEYS_REMARK));
}

/** @param {import("./state.js").Provider} provider */
export function addView({ name }, place) {
  const outcome = ui.answers.get(`${place} keys`);
  const add = async (form, force) => {
    const { keys } = Object.fromEntries(fieldsOf(form));
    await addKeys(name, place, keys, force);
    if (ui.answers.get(`${place} keys`)?.failed === 0) form.reset();
  };
  const again = {
    hidden: !(outcome?.refused > 0),
    onclick: ({ currentTarget }) => add(currentTarget.form, true),
  };
  return formView(
    place,
    (form) => add(form, false),
    [keysField()],
    [
      h("button.button.primary", { type: "submit" }, "Check and save"),
      h("button.button", again, "Save those refused all the same"),
      h("button.button", { onclick: () => toggle(place) }, "Close"),
    ],
    outcome && outcomeView(outcome.rows),
  );
}

async function addKeys(provider, place, keys, force) {
  answer(place, "busy", "Asking the provider…");
  const { body, refusal } = await ask("POST", pathOf(provider, "keys"), { keys, force });
  if (refusal !== undefined) return answer(place, "error", refusal.message);
  const refused = body.keys.filter(({ outcome }) => outcome === "refused").length;
  const failed = body.keys.filter(({ outcome }) => KINDS_OF_OUTCOME[outcome] === "error").length;
  ui.answers.set(`${place} keys`, { rows: body.keys, refused, failed });
  answer(place, failed > 0 ? "unclear" : "good", body.message);
}

const KINDS_OF_OUTCOME = {
  added: "good",
  already_there: "unclear",
  refused: "error",
  no_key: "error",
  not_saved: "error",
};

/** What became of each key that was pasted. */
function outcomeView(rows) {
  const views = rows.map(({ place, account, last_four, id, outcome, message }) => {
    const name = [account, last_four ? `…${last_four}` : (id ?? place)].filter(Boolean).join(" ");
    return h("li", { "data-kind": KINDS_OF_OUTCOME[outcome] }, h("b", name), h("span", message));
  });
  return h("ol.outcome", { "aria-label": "What became of each key" }, ...views);
}

// Providers

/** Names that are enough: the address is known. */
const KNOWN_PROVIDERS =
  "openai anthropic gemini groq openrouter nvidia mistral cerebras deepseek together fireworks xai moonshot zhipu dashscope siliconflow modelscope sambanova github huggingface cohere perplexity ollama".split(
    " ",
  );

/** @param {import("./state.js").Overview} overview */
export function addProviderView({ providers }) {
  const place = "add-provider";
  const names = new Set(providers.map(({ name }) => name));
  const add = async (form) => {
    const { name, base_url, keys } = Object.fromEntries(fieldsOf(form));
    const sent = { keys, name: name.toLowerCase(), base_url };
    if (await change(place, "POST", "providers", sent)) closeInto("providers", place);
  };
  const choices = KNOWN_PROVIDERS.filter((name) => !names.has(name)).map((value) => h("option", { value }));
  const form = () =>
    formView(
      place,
      add,
      [
        keysField(),
        fieldView(
          "Name",
          "As in its path: groq is served under /groq/v1. Left empty, the keys tell whose they are, where they can.",
          h("input", {
            name: "name",
            list: "provider-names",
            pattern: "[A-Za-z][A-Za-z0-9_]*",
            autocomplete: "off",
            autocapitalize: "off",
          }),
        ),
        fieldView(
          "Address",
          "Only of a provider that is not in the list: as it is given to OpenAI clients, https://…/v1",
          h("input", {
            name: "base_url",
            type: "url",
            placeholder: "known by the name",
            autocomplete: "off",
          }),
        ),
      ],
      [
        h("button.button.primary", { type: "submit" }, "Save"),
        h("button.button", { onclick: () => toggle(place) }, "Close"),
      ],
      h("datalist", { id: "provider-names" }, ...choices),
    );
  return h(
    "div.more",
    { key: " more" },
    h("div.actions", toggleView(place, "Add a provider")),
    answerView("providers"),
    ui.open.has(place) && h("section.card", form()),
  );
}

// Settings

/** By the names of the API; with choices where it is not free. */
const SETTINGS = {
  rpm: ["Requests a minute and key", "A number, auto (learnt as it goes) or off."],
  daily_limit: ["Requests a day and key", "A key with a limit of its own keeps it."],
  strategy: ["Which key is next", "", "round-robin", "sticky", "lru", "quota", "affinity"],
  cooldown_sec: ["Seconds of rest after a refusal", "Where the provider names no time."],
  timezone: ["Time zone of the day", "As in Europe/Berlin."],
  retry_status: ["Statuses that get another attempt", "As in 429,500,502-504."],
};

/** @param {import("./state.js").Provider} provider */
export function settingsView({ name, settings }, place) {
  const { providers } = known.overview;
  const isShared = name === providers[0].name && providers.length > 1;
  const save = async (form) => {
    const changes = fieldsOf(form).filter(([field, text]) => text !== ownValue(settings[field]));
    const sent = Object.fromEntries(changes.map(([field, text]) => [field, text || null]));
    if (changes.length === 0) return toggle(place);
    if (await change(place, "PATCH", pathOf(name), sent)) closeInto(name, place);
  };
  const words = isShared
    ? `Save, also for the ${count(providers.length - 1, "provider")} without their own`
    : "Save";
  const views = Object.keys(SETTINGS).map((field) => settings[field] && settingView(field, settings[field]));
  return formView(place, save, views, [
    h("button.button.primary", { type: "submit" }, words),
    h("button.button", { onclick: () => toggle(place) }, "Close"),
    toggleView(`remove ${name}`, "Remove this provider"),
  ]);
}

/** An empty field is a setting that is not set: what holds then is shown in grey. */
function settingView(name, { value, origin, locked }) {
  const [label, remark, ...choices] = SETTINGS[name];
  const own = ownValue({ value, origin });
  const from = origin === "shared" ? "from the default provider" : "the default";
  const inForce = own !== "" || value === null ? "not set" : `${value} (${from})`;
  const common = { name, value: own, disabled: locked !== null };
  const options = ["", ...choices].map((choice) => h("option", { value: choice }, choice || inForce));
  const input =
    choices.length > 0 ? h("select", common, ...options) : h("input", { ...common, placeholder: inForce });
  return fieldView(label, locked ?? remark, input);
}

function ownValue({ origin, value }) {
  return origin === "own" ? (value ?? "") : "";
}
