/**
 * What the next request meets, and what each key does at this moment. Pure.
 *
 * @typedef {{ kind: string, words: string }} Standing
 */
import { count, duration, listed, wordsOf } from "./words.js";

/** The kinds of standing in the order in which they are shown, as words for a filter. */
export const STANDINGS = {
  ready: "ready",
  full: "full",
  cooling: "cooling",
  money: "out of money",
  out: "out of use",
  unreachable: "unreachable",
  paused: "paused",
  off: "switched off",
};

/**
 * What a key does now. `leftMs`: how long it (or its provider) still has to wait.
 * @returns {Standing}
 */
export function standingOf(provider, key, leftMs) {
  const { state, reason, in_flight } = key;
  const back = leftMs > 0 ? `back in ${duration(leftMs)}` : "back at any moment";
  if (provider.state === "disabled") return { kind: "off", words: "Its provider is switched off" };
  if (state === "disabled" && reason === "billing") return { kind: "money", words: "Out of money" };
  if (state === "disabled") return { kind: "out", words: `Out of use: ${wordsOf(reason)}` };
  if (state === "paused") return { kind: "paused", words: "Paused by hand" };
  if (provider.state === "paused") {
    const why = shortened(provider.pause_said);
    const words = `${troubleOf(provider)}${why && `: ${why}`}, next try in ${duration(leftMs)}`;
    return { kind: "unreachable", words };
  }
  if (state === "ready")
    return { kind: "ready", words: in_flight > 0 ? `Ready, ${in_flight} under way` : "Ready" };
  if (reason === "pacing")
    return { kind: "full", words: leftMs > 0 ? `Full, ${back}` : "Full, back when a request ends" };
  if (reason === "billing") return { kind: "money", words: `Out of money, next try in ${duration(leftMs)}` };
  if (reason === "quota_day") return { kind: "full", words: `Full for today, ${back}` };
  return { kind: "cooling", words: `Cooling, ${back}: ${wordsOf(reason)}` };
}

/** What is wrong with a provider that is left alone. */
export function troubleOf({ pause_reason }) {
  return pause_reason === "common_cause" ? "Provider refuses every key alike" : "Provider unreachable";
}

/** The cause in a few words: what was said up to its first bracket, colon or full stop, without who said it. */
export function shortened(said) {
  const [first = ""] = (said ?? "")
    .replace(/^The provider cannot be reached(?: at \S+)?: /, "")
    .split(/ \(|: |\. |\.$/);
  return first.length > 60 ? `${first.slice(0, 59)}…` : first;
}

/**
 * The headline. `tone` colours it; `words` are without running numbers, to be spoken when they change; `text` is
 * what is read; `more` says how the keys are.
 */
export function headlineOf(overview, waitMs) {
  const { headline, providers } = overview;
  const [provider] = providers;
  const about = waitMs === null ? "" : ` about ${duration(waitMs)}`;
  const why = headline.why === "provider_paused" ? shortened(provider.pause_said) : "";
  const more = [summaryOf(providers), why].filter(Boolean).join(": ");
  const say = (tone, words, because = "", wait = "") => ({
    tone,
    words: words + because,
    text: words + wait + because,
    more,
  });
  switch (headline.outcome === "served" ? "ready" : headline.why) {
    case "ready":
      return say("fine", "The next request goes out at once");
    case "draining":
      return say("waiting", "Shutting down: new requests are refused, streams may finish");
    case "out_of_use": {
      if (provider.keys.length === 0) return say("down", "There is no key yet: add one below");
      const reasons = [...new Set(provider.keys.map(({ reason }) => wordsOf(reason)))];
      return say(
        "down",
        "The next request is refused, because ",
        `${noKeyIn(provider)} (${reasons.join("; ")})`,
      );
    }
  }
  const cause = causeOf(headline.why, provider);
  if (headline.outcome === "waits")
    return say("waiting", "The next request waits", `, because ${cause}`, about);
  const words = `The next request is refused: ${cause}`;
  const text = waitMs === null ? words : `${words}, and its turn would come in ${duration(waitMs)}`;
  return { ...say("down", words), text };
}

function noKeyIn({ keys }) {
  return keys.length === 1 ? "the only key is out of use" : `all ${keys.length} keys are out of use`;
}

function causeOf(why, provider) {
  const { keys, waiting } = provider;
  if (why === "provider_paused")
    return provider.pause_reason === "common_cause"
      ? "the provider refuses every key alike"
      : "the provider cannot be reached";
  if (why === "queue") return waiting === 1 ? "one waits before it" : `${waiting} wait before it`;
  const used = keys.filter(({ state }) => state === "cooling");
  const kinds = [...new Set(used.map((key) => standingOf(provider, key, 1).kind))];
  const subject =
    keys.length === 1 ? "the only key" : used.length === keys.length ? "every key" : "every key in use";
  const states = { full: "is full", cooling: "is cooling", money: "is out of money" };
  if (used.every(({ reason }) => reason === "quota_day")) return `${subject} is full for today`;
  if (kinds.length === 1) return `${subject} ${states[kinds[0]] ?? "is busy"}`;
  return `${subject} is full or cooling`;
}

/** `5 of 8 keys ready · 2 cooling · 1 out of money`; and what is wrong with other providers. */
export function summaryOf(providers) {
  const used = providers.filter(({ state, keys }) => state !== "disabled" && keys.length > 0);
  const kinds = used.flatMap((provider) => provider.keys.map((key) => standingOf(provider, key, 1).kind));
  if (kinds.length === 0) return "";
  const many = (kind) => kinds.filter((other) => other === kind).length;
  const ready =
    many("ready") === kinds.length && kinds.length > 1
      ? `All ${kinds.length} keys ready`
      : `${many("ready")} of ${count(kinds.length, "key")} ready`;
  const others = Object.entries(STANDINGS)
    .filter(([kind]) => kind !== "ready" && many(kind) > 0)
    .map(([kind, words]) => `${many(kind)} ${words}`);
  return [ready, ...others].join(" · ");
}

/** What is wrong with the providers behind the first, which the headline is about. */
export function otherTroubles(providers) {
  return providers
    .slice(1)
    .filter(({ state, keys }) => state !== "disabled" && keys.length > 0)
    .map((provider) => {
      if (provider.state === "paused")
        return `${provider.name}: ${troubleOf(provider)
          .toLowerCase()
          .replace(/^provider /, "")}`;
      const isReady = provider.keys.some((key) => standingOf(provider, key, 1).kind === "ready");
      return isReady ? "" : `${provider.name}: no key is ready`;
    })
    .filter(Boolean);
}

/** `gpt-4o 18 s`, and why: models that are not asked for with this key now. */
export function modelWords(key, leftMs) {
  return Object.entries(key.models)
    .map(([model, { reason }]) => [model, leftMs(model), wordsOf(reason)])
    .filter(([, left]) => left > 0)
    .map(([model, left, why]) => [`${model} ${duration(left)}`, why]);
}

/** How a key's last hour was, for those who cannot see the strip. */
export function beatWords(beats) {
  const many = (letters) => [...beats].filter((beat) => letters.includes(beat)).length * 2;
  const parts = [
    many("om") > 0 && `answers in ${many("om")} minutes`,
    many("rm") > 0 && `refusals in ${many("rm")}`,
    many("f") > 0 && `faults in ${many("f")}`,
  ].filter(Boolean);
  return parts.length === 0 ? "Not asked in the last hour" : `Of the last hour: ${listed(parts)}`;
}
