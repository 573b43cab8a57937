import { describe, expect, test } from "bun:test";
import { mayBePublic, readProbe } from "./probing.ts";
import { DIALECTS, type Dialect, type Evidence } from "../providers/verdict.ts";

const NOW = Date.UTC(2026, 10, 20, 12, 15, 7, 250);

const answer = (status: number, body: unknown, fields: Record<string, string> = {}): Evidence => ({
  status,
  headers: new Headers(fields),
  body: typeof body === "string" ? body : JSON.stringify(body),
});
const LIST = { object: "list", data: [{ id: "m" }] };
const REFUSED = answer(401, { error: "Unauthorized" });
const ANSWERED = answer(200, LIST);

describe("what the answer says of a doubted or dead key", () => {
  const answers: [
    sentence: string,
    dialect: Dialect,
    evidence: Evidence,
    says: "alive" | "dead" | "unknown",
    withoutKey?: Evidence,
  ][] = [
    ["a list of models is for keys", "openai", answer(200, LIST), "alive"],
    ["a list that may be for everybody", "generic", answer(200, LIST), "unknown"],
    ["a list that everybody got", "generic", answer(200, LIST), "unknown", ANSWERED],
    ["a list that nobody gets without a key", "generic", answer(200, LIST), "alive", REFUSED],
    ["a question that nobody knows", "nvidia", answer(200, LIST), "unknown"],
    ["a bad key by its code", "openai", answer(401, { error: { code: "invalid_api_key", message: "No" } }), "dead"],
    ["a bad key as a 400", "gemini", answer(400, { error: { message: "API key not valid. Please pass one." } }), "dead"],
    ["a bare 401", "generic", answer(401, ""), "dead"],
    ["a bare 401 of one who doubts them otherwise", "moonshot", answer(401, { error: { message: "No" } }), "dead"],
    ["a 401 that is a page", "openai", answer(401, "<html><title>Log in</title></html>"), "unknown"],
    ["a bare 403", "openai", answer(403, {}), "unknown"],
    ["a 403 that lacks a right", "openai", answer(403, { error: "You lack permission" }), "unknown"],
    ["a 403 with a reason", "gemini", answer(403, { error: { message: "Your API key was reported as leaked." } }), "dead"],
    ["a region", "openai", answer(403, { error: { code: "unsupported_country_region_territory" } }), "unknown"],
    ["an edge that refuses", "openai", answer(403, "error code: 1020"), "unknown"],
    ["a limit", "openai", answer(429, {}), "unknown"],
    ["a failure", "openai", answer(500, ""), "unknown"],
    ["a page that says it is busy", "openai", answer(503, "<html>"), "unknown"],
    ["a question it does not know", "openai", answer(404, ""), "unknown"],
    ["a way elsewhere", "openai", answer(302, "", { location: "/login" }), "unknown"],
    ["no money is the account's trouble, not the key's", "siliconflow", answer(402, {}), "alive"],
    ["an empty balance is not the key's either", "deepseek", answer(200, { is_available: false }), "alive"],
    ["a key of xAI that may go on", "xai", answer(200, { api_key_blocked: false, team_blocked: false }), "alive"],
    ["a key of xAI that is blocked", "xai", answer(200, { api_key_blocked: true }), "dead"],
    ["a key of xAI that is switched off", "xai", answer(200, { api_key_disabled: true }), "dead"],
    ["a team of xAI that is blocked", "xai", answer(200, { team_blocked: true }), "dead"],
    ["a token of Cloudflare", "cloudflare", answer(200, { success: true, result: { status: "active" } }), "alive"],
    ["a token of Cloudflare past its time", "cloudflare", answer(200, { result: { status: "expired" } }), "dead"],
    ["an answer that is no JSON", "xai", answer(200, "fine"), "alive"],
  ]; // prettier-ignore
  const rows = answers.map(
    ([sentence, dialect, evidence, says, withoutKey = null]) =>
      [`${sentence}: ${says}`, dialect, evidence, says, withoutKey] as const,
  );
  test.each(rows)("%s", (_, dialect, evidence, says, withoutKey) => {
    for (const ailment of ["doubted", "dead"] as const) {
      expect(readProbe(dialect, ailment, evidence, withoutKey, NOW)).toBe(says);
    }
  });

  test("is asked without a key, too, where the list may be public", () => {
    expect(DIALECTS.filter(mayBePublic)).toEqual(["sambanova", "modelscope", "generic"]);
  });
});

describe("what the answer says of an account without money", () => {
  const answers: [
    sentence: string,
    dialect: Dialect,
    evidence: Evidence,
    says: "alive" | "dead" | "unknown",
  ][] = [
    ["DeepSeek says that it can pay", "deepseek", answer(200, { is_available: true, balance_infos: [] }), "alive"],
    ["DeepSeek says that it cannot", "deepseek", answer(200, { is_available: false }), "unknown"],
    ["OpenRouter's key has something left of its cap", "openrouter", answer(200, { data: { limit: 5, limit_remaining: 0.25 } }), "alive"],
    ["OpenRouter's key has nothing left", "openrouter", answer(200, { data: { limit: 5, limit_remaining: 0 } }), "unknown"],
    ["OpenRouter's key has no cap, which says nothing of the account", "openrouter", answer(200, { data: { limit: null, limit_remaining: null } }), "unknown"],
    ["Moonshot's balance", "moonshot", answer(200, { code: 0, data: { available_balance: 12.5 } }), "alive"],
    ["Moonshot's debt", "moonshot", answer(200, { code: 0, data: { available_balance: -0.5 } }), "unknown"],
    ["SiliconFlow's balance, which is a text", "siliconflow", answer(200, { code: 20000, data: { totalBalance: "3.10" } }), "alive"],
    ["SiliconFlow's empty balance", "siliconflow", answer(200, { code: 20000, data: { totalBalance: "0.00" } }), "unknown"],
    ["a list of models says nothing", "openai", answer(200, LIST), "unknown"],
    ["an answer without the amount says nothing", "deepseek", answer(200, "{}"), "unknown"],
    ["an answer that is no JSON says nothing", "moonshot", answer(200, "<html>"), "unknown"],
    ["no money is no news", "deepseek", answer(402, {}), "unknown"],
    ["a dead key is", "deepseek", answer(401, { error: { message: "Authentication Fails, Your api key: ****cafe is invalid" } }), "dead"],
  ]; // prettier-ignore
  test.each(answers)("%s", (_, dialect, evidence, says) => {
    expect(readProbe(dialect, "billing", evidence, null, NOW)).toBe(says);
  });
});
