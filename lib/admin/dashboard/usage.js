/** What was used: requests and tokens of today, a week or a month, by model, client or key; and what clients have left. */
import { byId, choiceView, h, patch, remembered } from "./dom.js";
import { known, ui, redraw } from "./state.js";
import { answerView, loadUsage, saveUsage } from "./server.js";
import { count, duration, grouped } from "./words.js";

const DAYS = { 1: "Today", 7: "7 d", 30: "30 d" };
const PARTS = { model: "Model", client: "Client", key: "Key" };
/** So many rows are shown; the others are added up in the last one. */
const MOST_PARTS = 40;
const USED = ["requests", "errors", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"];
const DAY_LONG = 86_400_000;

export function drawUsage({ clients }) {
  const choose = (field, next) => (value) => {
    ui[field] = value;
    next();
  };
  const { days, rows } = known.usage;
  patch(byId("usage"), [
    h(
      "header.heading",
      h("h1", "Usage"),
      choiceView("days", "How many days", DAYS, ui.days, choose("days", loadUsage)),
      h("button.button", { onclick: () => saveUsage(days) }, "Save as CSV"),
    ),
    answerView("usage"),
    ...(rows === null ? [h("p.soft", "One moment…")] : usageViews(rows, days, choose)),
    clients?.length > 0 && clientLimitsView(clients),
  ]);
}

function usageViews(rows, days, choose) {
  const total = usageSum(rows);
  if (total.requests === 0) return [h("p.soft", "Nothing was used in these days.")];
  const parts = usageBy(rows, ui.usedBy);
  return [
    remembered("usage totals", [total], () => totalsView(total)),
    days > 1 &&
      remembered("usage days", [rows, days], () =>
        daysView(usageOfDays(rows, days, Date.now() + known.aheadMs)),
      ),
    h(
      "section.card",
      { "aria-labelledby": "used-title" },
      h(
        "header",
        h("h2", { id: "used-title" }, "Who and what"),
        choiceView("used-by", "By what", PARTS, ui.usedBy, choose("usedBy", redraw)),
      ),
      remembered("usage parts", [parts, ui.usedBy], () => partsView(parts, total)),
      h(
        "p.soft",
        "Days are those of UTC. Tokens are what answers name; one that names none counts as a request only.",
      ),
    ),
  ];
}

function totalsView(total) {
  return h(
    "dl.facts",
    totalView(
      "Requests",
      total.requests,
      total.errors > 0 ? `${count(total.errors, "failure")} among them` : "",
    ),
    totalView(
      "Tokens in",
      total.input_tokens,
      shareWords(total.cached_tokens, total.input_tokens, "from a cache"),
    ),
    totalView(
      "Tokens out",
      total.output_tokens,
      shareWords(total.reasoning_tokens, total.output_tokens, "thought"),
    ),
  );
}

function totalView(term, many, remark) {
  return h("div", h("dt", term), h("dd", h("strong", short(many)), remark !== "" && h("small", remark)));
}

/** `62% from a cache`; empty: none of it. */
export function shareWords(part, whole, what) {
  if (part === 0 || whole === 0) return "";
  const percent = Math.round((100 * part) / whole);
  return `${percent === 0 ? "less than 1" : percent}% ${what}`;
}

/** `950`, `12.3 k`, `4.56 M`: three figures say enough. */
export function short(many) {
  for (const [size, unit] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (many >= size * 0.9995 && many >= 10_000 * 0.9995)
      return `${Number((many / size).toPrecision(3))}\u00a0${unit}`;
  }
  return grouped(many);
}

/** All rows as one. */
export function usageSum(rows) {
  const sum = Object.fromEntries(USED.map((name) => [name, 0]));
  for (const row of rows) for (const name of USED) sum[name] += row[name];
  return sum;
}

/** Sums by what `part` says, the most tokens first; what is beyond the most that are shown, in one. */
export function usageBy(rows, part) {
  const groups = new Map();
  for (const row of rows) {
    const name = row[part] ?? "";
    const full = part === "key" && row.provider !== "default" ? `${row.provider}/${name}` : name;
    groups.set(full, [...(groups.get(full) ?? []), row]);
  }
  const sums = [...groups].map(([name, of]) => ({ name, ...usageSum(of) }));
  const weight = (sum) => sum.input_tokens + sum.output_tokens;
  sums.sort((a, b) => weight(b) - weight(a) || b.requests - a.requests);
  const others = sums.slice(MOST_PARTS);
  if (others.length < 2) return sums;
  return [...sums.slice(0, MOST_PARTS), { name: `${grouped(others.length)} others`, ...usageSum(others) }];
}

/** Input and output of each day, oldest first, those without use included. */
export function usageOfDays(rows, days, nowMs) {
  const today = Math.floor(nowMs / DAY_LONG) * DAY_LONG;
  const sums = new Map();
  for (const { day, input_tokens, output_tokens } of rows) {
    const sum = sums.get(day) ?? { input: 0, output: 0 };
    sums.set(day, { input: sum.input + input_tokens, output: sum.output + output_tokens });
  }
  return Array.from({ length: days }, (_, index) => {
    const day = new Date(today - (days - 1 - index) * DAY_LONG).toISOString().slice(0, 10);
    return { day, ...(sums.get(day) ?? { input: 0, output: 0 }) };
  });
}

function daysView(list) {
  const most = Math.max(1, ...list.map(({ input, output }) => input + output));
  const height = (many) => ({ "--share": `${(100 * many) / most}%` });
  const bars = list.map(({ day, input, output }) => {
    const words = `${dayWords(day)}: ${grouped(input)} tokens in, ${grouped(output)} out`;
    return h(
      "li",
      { key: day, title: words },
      h("span.unseen", words),
      h("i.output", { style: height(output) }),
      h("i.input", { style: height(input) }),
    );
  });
  const ends = [list[0], list.at(-1)].map(({ day }) => h("span", dayWords(day)));
  return h(
    "section.card",
    { "aria-labelledby": "days-title" },
    h(
      "header",
      h("h2", { id: "days-title" }, "Tokens a day"),
      h(
        "p.legend",
        { "aria-hidden": "true" },
        h("span", { "data-kind": "in" }, "in"),
        h("span", { "data-kind": "out" }, "out"),
      ),
    ),
    h("p.soft", `The most on one day: ${short(most)}`),
    h("ol.days", ...bars),
    h("p.ends", { "aria-hidden": "true" }, ...ends),
  );
}

function dayWords(day) {
  return new Date(`${day}T00:00:00Z`).toLocaleDateString("en-GB", {
    day: "numeric",
    month: "short",
    timeZone: "UTC",
  });
}

const NOBODY = { model: "no model named", client: "no client named", key: "no key" };

function partsView(parts, total) {
  const all = total.input_tokens + total.output_tokens;
  const numbers = (sum) => [
    h("td", grouped(sum.requests)),
    h("td", short(sum.input_tokens), h("small", shareWords(sum.cached_tokens, sum.input_tokens, "cached"))),
    h("td", short(sum.output_tokens)),
    h("td.failed", sum.errors === 0 ? "" : grouped(sum.errors)),
  ];
  const row = (sum) => {
    const share = all === 0 ? sum.requests / total.requests : (sum.input_tokens + sum.output_tokens) / all;
    const name = sum.name === "" ? h("span.soft", NOBODY[ui.usedBy]) : sum.name;
    return h(
      "tr",
      { key: sum.name },
      h("th", { scope: "row" }, name, h("i.share", { style: { "--share": `${100 * share}%` } })),
      ...numbers(sum),
    );
  };
  const titles = [PARTS[ui.usedBy], "Requests", "Tokens in", "Tokens out", "Failed"];
  return h(
    "table.used",
    h("thead", h("tr", ...titles.map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", ...parts.map(row)),
  );
}

/** What `CLIENT_LIMITS` leaves of each client's. */
function clientLimitsView(clients) {
  const titles = ["Client", "Requests a minute", "Requests today", "Tokens today", "Models"];
  const rows = clients.map((client) => {
    const name = client.name ?? (client.key_id === null ? "everybody" : `key ${client.key_id}`);
    const limits = [client.requests_per_minute, client.requests_per_day, client.tokens_per_day];
    return h(
      "tr",
      { key: name },
      h("th", { scope: "row" }, name),
      ...limits.map(limitView),
      h("td", client.models?.join(", ") ?? "all"),
    );
  });
  return h(
    "section.card",
    { "aria-labelledby": "limits-title" },
    h("header", h("h2", { id: "limits-title" }, "Limits of clients")),
    h(
      "table.used.limits",
      h("thead", h("tr", ...titles.map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", ...rows),
    ),
  );
}

function limitView(limit) {
  if (limit === null) return h("td.soft", "no limit");
  const share = Math.min(100, (100 * limit.used) / limit.limit);
  const again =
    limit.left === 0 && limit.reset_sec > 0 && h("small", `again in ${duration(limit.reset_sec * 1000)}`);
  return h(
    "td",
    { "data-full": limit.left === 0 },
    `${short(limit.used)} of ${short(limit.limit)}`,
    h("i.share", { style: { "--share": `${share}%` } }),
    again,
  );
}
