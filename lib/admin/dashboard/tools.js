/** How a tool is made to ask this proxy: the snippets, filled with the address that this browser reached. */
import { byId, h, patch } from "./dom.js";
import { known, ui, page, redraw } from "./state.js";
import { answer, answerView } from "./server.js";
import { fieldView } from "./forms.js";
import { snippetsOf } from "./snippets.js";

export const ACCESS = {
  protected: "Only programs on its own machine are answered until PROXY_API_KEY is set, and any key will do.",
  keys: "Clients need one of the keys in PROXY_API_KEY.",
  open: "It is open to everyone who can connect, and any key will do.",
};

/** @param {import("./state.js").Overview} overview */
export function drawTools({ access, providers }) {
  const names = providers.map(({ name }) => name);
  const isDefault = !names.slice(1).includes(ui.toolProvider);
  const root = location.origin + (isDefault ? "" : `/${ui.toolProvider}`);
  const lastModel = lastModelOf(known.requests) ?? "MODEL";
  const key = access === "keys" ? "YOUR_KEY" : "any";
  const model = isPlain(ui.model) ? ui.model : lastModel;
  const snippets = snippetsOf({ root, base: `${root}/v1`, key, model });
  const choose = (field) => (event) => {
    ui[field] = event.target.value.trim();
    redraw();
  };
  const options = names.map((name) => h("option", { value: name }, name));
  const { where, text, note, known: source } = snippets[ui.tool];
  patch(byId("tools"), [
    h("h1", "Connect a tool"),
    h("p.soft", `Every tool needs three things: this address, a key and a model. ${ACCESS[access]}`),
    h(
      "dl.facts",
      factView("Address", `${root}/v1`),
      factView("Address of Anthropic's tools", root),
      factView("Key", access === "keys" ? "one of PROXY_API_KEY" : "any text"),
    ),
    isLoopback() &&
      h(
        "p.answer",
        "This browser reached the proxy as this machine only. Open this page under the address that other machines use, and the snippets are right for those.",
      ),
    h(
      "div.fields",
      names.length > 1 &&
        fieldView("Provider", "", h("select", { onchange: choose("toolProvider") }, ...options)),
      fieldView(
        "Model",
        "As the provider calls it, or a name of ROUTES",
        h("input", {
          placeholder: lastModel,
          autocomplete: "off",
          spellcheck: "false",
          oninput: choose("model"),
        }),
      ),
    ),
    h(
      "div.workbench",
      h("nav", { "aria-label": "Tools" }, ...groupViews(snippets)),
      h(
        "section.card",
        { "aria-labelledby": "tool-name" },
        h("header", h("h2", { id: "tool-name" }, ui.tool, h("small", where)), copyView()),
        h("pre", { tabindex: 0, role: "region", "aria-label": `Snippet for ${ui.tool}` }, text),
        answerView("copy"),
        h("p", note),
        h("p.soft", source),
      ),
    ),
  ]);
}

/** A name comes from a client and goes into a shell: none that could do anything there. */
function isPlain(model) {
  return /^[\w./:@-]{1,200}$/.test(model);
}

function lastModelOf(requests) {
  return requests.find(({ model, status }) => model !== null && status < 400 && isPlain(model))?.model;
}

function isLoopback() {
  return /^(?:localhost|127\.|\[::1\])/.test(location.hostname);
}

function factView(term, value) {
  return h("div", h("dt", term), h("dd", h("code", value)));
}

function groupViews(snippets) {
  const groups = [...new Set(Object.values(snippets).map(({ group }) => group))];
  return groups.map((group) => {
    const names = Object.keys(snippets).filter((name) => snippets[name].group === group);
    const buttons = names.map((name) => {
      const choose = () => {
        ui.tool = name;
        ui.answers.delete("copy");
        page.draw();
      };
      const current = name === ui.tool ? "true" : null;
      return h("li", { key: name }, h("button.tool", { "aria-current": current, onclick: choose }, name));
    });
    return h("div", { key: group }, h("h2", group), h("ul", ...buttons));
  });
}

function copyView() {
  return h("button.button.primary", { onclick: copySnippet }, "Copy");
}

async function copySnippet() {
  const shown = byId("tools").querySelector("pre");
  try {
    await navigator.clipboard.writeText(shown.textContent);
  } catch {
    // A page without https has no clipboard. The old way works everywhere.
    getSelection().selectAllChildren(shown);
    document.execCommand("copy");
  }
  answer("copy", "good", "Copied.");
}
