/** How times, numbers and reasons are said. Pure. */

/** Between a number and its unit: they stay on one line. */
const GAP = "\u00a0";

/** `41 s`, `3 min 20 s`, `4 h 15 min`, `3 d 2 h`. */
export function duration(ms) {
  const seconds = Math.ceil(ms / 1000);
  if (seconds < 100) return `${seconds}${GAP}s`;
  const parts = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([many]) => Number(many) > 0);
  const two = parts.slice(first, first + 2).filter(([many]) => Number(many) > 0);
  return two.map((part) => part.join(GAP)).join(" ");
}

/** `85 ms`, `1.8 s`, `2 min 5 s`. */
export function spent(ms) {
  if (ms < 1000) return `${Math.round(ms)}${GAP}ms`;
  return ms < 100_000 ? `${(ms / 1000).toFixed(1)}${GAP}s` : duration(ms);
}

/** `21:54:07`, here. */
export function clock(atMs) {
  return new Date(atMs).toLocaleTimeString("en-GB");
}

export function grouped(many) {
  return many.toLocaleString("en").replaceAll(",", "\u2009");
}

/** `1 key`, `12 keys`. */
export function count(many, what) {
  return `${grouped(many)} ${what}${many === 1 ? "" : "s"}`;
}

/** `a`, `a and b`, `a, b and c`. */
export function listed(parts) {
  return parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

const REASONS = {
  rate_limit: "too many requests",
  pacing: "its requests of this minute are used up",
  concurrency: "too many requests at once",
  quota_day: "its day is used up",
  billing: "no money left",
  unconfirmed: "refused, and it is not clear why",
  invalid_key: "the provider refuses it",
  no_access: "it may not use this model",
  manual: "paused by hand",
};

/** Why a key or a model is not used. */
export function wordsOf(reason) {
  return REASONS[reason] ?? (reason ?? "no reason given").replaceAll("_", " ");
}

const VERDICTS = {
  served: "answered",
  rejected: "answered with an error about the request",
  rate_limited: "refused: too many requests",
  exhausted: "refused: no quota or money left",
  revoked: "refused: the key is not accepted",
  denied: "refused: the key may not do this",
  unsuited: "refused: the key may not do this",
  overloaded: "the provider had a fault",
  unreachable: "no answer",
  abandoned: "the client left",
};

/** What became of one attempt. */
export function verdictWords(verdict) {
  return VERDICTS[verdict] ?? verdict.replaceAll("_", " ");
}
