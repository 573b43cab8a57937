/** What the page shall be, and making it so. */

/**
 * An element to be: `h("p.soft", { id: "x" }, "words", …)`. The attributes may be left out; children that are empty,
 * false, null or undefined are none.
 */
export function h(name, ...children) {
  const [tag, ...classes] = name.split(".");
  const hasProps = children[0]?.constructor === Object && children[0].tag === undefined;
  const props = hasProps ? children.shift() : {};
  return { tag, props: { class: classes.join(" ") || null, ...props }, children };
}

/**
 * Makes the children of `parent` those that are `wanted`, and touches only what differs: somebody may be reading, or
 * typing. What has a `key` stays the same element wherever it goes; the very same view twice is not looked at again.
 */
export function patch(parent, wanted) {
  const all = wanted.filter(Boolean);
  const keys = new Set(all.map(({ props }) => props?.key));
  for (const child of [...parent.childNodes]) if (!keys.has(child.keyed)) child.remove();
  let here = parent.firstChild;
  for (const want of all) {
    const found = matching(parent, here, want);
    const node = found ?? create(parent, want);
    if (node === here) here = here.nextSibling;
    else insert(parent, node, here);
    if (node.view === want) continue;
    if (typeof want === "string") {
      const text = inOneDirection(want);
      if (node.data !== text) node.data = text;
      continue;
    }
    patch(node, want.children);
    dress(node, want.props);
    node.view = want;
    if (!found && want.props.autofocus) node.focus();
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

/** Names come from clients: none may turn the direction of what is written after it. */
function inOneDirection(text) {
  return text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

function matching(parent, here, want) {
  const fits = (child) =>
    typeof want === "string"
      ? child.nodeType === 3
      : child.localName === want.tag && child.keyed === want.props.key;
  if (here && fits(here)) return here;
  return want.props?.key === undefined ? null : [...parent.children].find(fits);
}

function create(parent, want) {
  if (typeof want === "string") return document.createTextNode("");
  const space = want.tag === "svg" ? "http://www.w3.org/2000/svg" : parent.namespaceURI;
  const node = document.createElementNS(space, want.tag);
  if (want.tag === "button") node.setAttribute("type", "button");
  return node;
}

/** An element that moves loses the focus. */
function insert(parent, node, before) {
  const focused = /** @type {HTMLElement} */ (document.activeElement);
  parent.insertBefore(node, before);
  if (node.contains(focused)) focused.focus();
}

function dress(node, props) {
  for (const name of Object.keys({ ...node.worn, ...props })) {
    const value = props[name] ?? false;
    if (name === "key")
      node.keyed = value; // a form may have a field named key
    else if (name.startsWith("on")) node[name] = props[name];
    else if (name === "style")
      for (const [rule, set] of Object.entries(value)) node.style.setProperty(rule, set);
    else if (name === "checked") node.checked = value;
    else if (name === "value" && node.localName !== "option") offer(node, value);
    else if (value === false) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
  }
  node.worn = props;
}

/** What somebody has typed is theirs: a new value is only put where the old one still stands. */
function offer(input, value) {
  if (input.value === (input.offered ?? input.value)) input.value = value || "";
  input.offered = value || "";
}

export function byId(id) {
  return /** @type {any} */ (document.getElementById(id));
}

/** A small drawing of lines. */
export function sign(d) {
  return h("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, h("path", { d }));
}

/** A list of terms and values. */
export function pairs(values) {
  return Object.entries(values).map(([term, value]) => h("div", h("dt", term), h("dd", String(value))));
}

/** A choice of one, as buttons in a row. `choices`: what is chosen, and the words for it. */
export function choiceView(name, legend, choices, chosen, choose) {
  const labels = Object.entries(choices).map(([value, words]) => {
    const input = { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) };
    return h("label", { key: value }, h("input", input), words);
  });
  return h("fieldset.choice", h("legend.unseen", legend), ...labels);
}

/** The same view as long as `facts` are the same: what has not changed is not made again. */
const made = new Map();
const MOST_MADE = 2000;

export function remembered(name, facts, make) {
  const text = JSON.stringify(facts);
  const before = made.get(name);
  if (before?.text === text) return before.view;
  const view = make();
  if (made.size >= MOST_MADE) made.clear();
  made.set(name, { text, view });
  return view;
}
