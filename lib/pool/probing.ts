/**
 * What an answer to the question after a key says of it, where the key is in doubt or out of use. Pure.
 *
 * A key is not believed dead for a refusal that gives no reason, nor alive for an answer that anybody gets: some lists
 * of models are public. So a good answer counts only for what it proves, and where it may be public the same
 * question is put without a key, too: only where that is refused was it the key that opened the door.
 */
import { PROVIDERS } from "../providers/catalog.ts";
import type { Proof } from "../providers/catalog.ts";
import { classify, readAnswer } from "../providers/classify.ts";
import type { Dialect, Evidence } from "../providers/verdict.ts";
import { parseJson, field, isObject } from "../core/json.ts";

/** Why a key is asked after. */
export type Ailment =
  /** It was refused without a reason. */
  | "doubted"
  /** The provider said that it is dead. */
  | "dead"
  /** Its account cannot pay. */
  | "billing";

/** Whether the question may be answered without a key as well, so that it has to be put without one, too. */
export function mayBePublic(dialect: Dialect): boolean {
  return PROVIDERS[dialect].proof?.mayBePublic === true;
}

/**
 * What the answer to the provider's proof says of a key with this ailment. `alive`: what was doubted is proven.
 * `dead`: the provider says that it is no key any more. `withoutKey`: what the same question came to without a key;
 * null: it was not put, as there is no need where the answer cannot be public.
 */
export function readProbe(
  dialect: Dialect,
  ailment: Ailment,
  evidence: Evidence,
  withoutKey: Evidence | null,
  now: number,
): "alive" | "dead" | "unknown" {
  const { proof } = PROVIDERS[dialect];
  if (proof === null || (evidence.status >= 300 && evidence.status < 400)) return "unknown";
  const verdict = classify(dialect, evidence, now);
  switch (verdict.kind) {
    case "served":
      return readProof(proof, ailment, evidence, withoutKey);
    case "revoked":
      return verdict.certain || isPlainRefusal(evidence) ? "dead" : "unknown";
    case "exhausted": // alive, as it is told what its account lacks
      return verdict.reason === "billing" && ailment !== "billing" ? "alive" : "unknown";
    case "rejected":
    case "rate_limited":
    case "unsuited":
    case "overloaded":
      return "unknown";
  }
}

/** To the question whether this is a key a 401 is an answer, if the API gives it; a 403 may be about the question. */
function isPlainRefusal({ status, headers, body }: Evidence): boolean {
  return status === 401 && !readAnswer(status, headers, body).isPage;
}

function readProof(
  proof: Proof,
  ailment: Ailment,
  { body }: Evidence,
  withoutKey: Evidence | null,
): "alive" | "dead" | "unknown" {
  const answer = parseJson(body);
  const says = ([path, value]: NonNullable<Proof["deadWhere"]>[number]) =>
    value.test(String(valueAt(answer, path)));
  if (proof.deadWhere?.some(says)) return "dead";
  if (ailment === "billing") return proof.left && isSome(valueAt(answer, proof.left)) ? "alive" : "unknown";
  return proof.mayBePublic && !isRefused(withoutKey) ? "unknown" : "alive";
}

function isRefused(evidence: Evidence | null): boolean {
  return evidence !== null && (evidence.status === 401 || evidence.status === 403);
}

function valueAt(root: unknown, path: readonly string[]): unknown {
  let value = root;
  for (const name of path) value = isObject(value) ? field(value, name) : undefined;
  return value;
}

/** `true`, or an amount above nothing; some write it as text. Null is no amount: no cap, which says nothing. */
function isSome(left: unknown): boolean {
  return typeof left === "string" || typeof left === "number" ? Number(left) > 0 : left === true;
}
