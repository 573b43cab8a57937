/**
 * Whether keys work: each is put on the cheapest request that proves one, and the answer is judged like any other.
 *
 * No quota is spent, and nothing is guessed: where no free request tells a live key from a dead one, the answer is
 * that nobody knows.
 */
import type { Clock } from "../core/clock.ts";
import type { ConfiguredKey, ProviderConfig } from "../config/config.ts";
import { PROVIDERS, authHeader, probeFor } from "../providers/catalog.ts";
import { evidenceOf, readerOf, readUpTo } from "../http/body.ts";
import { classify } from "../providers/classify.ts";
import { mayBePublic, readProbe } from "./probing.ts";
import { redact, type Secret, unmask } from "../core/secret.ts";
import { type Dialect, type Evidence } from "../providers/verdict.ts";
import type { Probe } from "../providers/catalog.ts";

/** What was found of a key. */
export type Standing =
  /** It is alive, and may be used now. */
  | "works"
  /** It is alive, but rests: too many requests, a quota or money that is used up. */
  | "limited"
  /** The provider says that it is no key (any more). */
  | "dead"
  /** It was refused, but not as a key: it may lack a right that this question needs. */
  | "doubtful"
  /** The provider was not reached, or failed. */
  | "unreachable"
  /** There is no free question that would tell. */
  | "unknown";

export interface CheckedKey {
  provider: string;
  index: number;
  /** `Secret.id`. */
  id: string;
  account: string | null;
  standing: Standing;
  /** Why, in one line; empty: there is nothing to add. */
  detail: string;
}

export interface CheckOptions {
  fetch: (url: string, init: BunFetchRequestInit) => Promise<Response>;
  clock: Clock;
  /** Called whenever a key has been checked. */
  onProgress(done: number, total: number): void;
}

/** Polite to a provider, and quick enough for a hundred keys. */
const AT_ONCE = 4;
const TIMEOUT_MS = 20_000;
const MOST_EVIDENCE_BYTES = 64 * 1024;

/** Checks all keys of the providers, some at a time; the result is in their order. */
export async function checkKeys(
  providers: readonly ProviderConfig[],
  options: CheckOptions,
): Promise<CheckedKey[]> {
  const questions = providers.flatMap((provider) =>
    provider.keys.map((key, index) => ({ provider, key, index })),
  );
  const checked: CheckedKey[] = [];
  const openAnswers: OpenAnswers = new Map();
  let begun = 0;
  let done = 0;
  const worker = async () => {
    for (let place = begun++; place < questions.length; place = begun++) {
      const { provider, key, index } = questions[place]!;
      const { standing, detail } = await checkKey(provider, key, options, openAnswers);
      const { secret, account } = key;
      checked[place] = { provider: provider.name, index, id: secret.id, account, standing, detail };
      options.onProgress(++done, questions.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return checked;
}

type Finding = Pick<CheckedKey, "standing" | "detail">;

/** What the question of a provider came to without a key: the same for all of its keys. */
type OpenAnswers = Map<ProviderConfig, Promise<Evidence>>;

async function checkKey(
  provider: ProviderConfig,
  { secret }: ConfiguredKey,
  { fetch, clock }: CheckOptions,
  openAnswers: OpenAnswers,
): Promise<Finding> {
  const { dialect, baseUrl } = provider;
  const probe = probeFor(dialect, baseUrl);
  if (probe === null) {
    return { standing: "unknown", detail: `no free request tells a live key of ${dialect} from a dead one` };
  }
  const aborter = new AbortController();
  const cancel = clock.after(TIMEOUT_MS, () => aborter.abort());
  try {
    const credential = authHeader(dialect, probe.url.pathname, secret.reveal());
    const evidence = await put(probe, credential, fetch, aborter.signal);
    // A list that anybody gets proves no key: where it may be such a one, it is asked for without a key, too.
    if (evidence.status >= 300 || !mayBePublic(dialect))
      return judge(dialect, evidence, secret, clock.wall());
    const withoutKey = openAnswers.get(provider) ?? put(probe, null, fetch, aborter.signal);
    openAnswers.set(provider, withoutKey);
    return judge(dialect, evidence, secret, clock.wall(), await withoutKey);
  } catch (error) {
    const isLate = aborter.signal.aborted;
    return {
      standing: "unreachable",
      detail: isLate ? `no answer within ${TIMEOUT_MS / 1000} s` : faultOf(error),
    };
  } finally {
    cancel();
  }
}

/** Puts the question, with a key's field or without. */
async function put(
  { url, method, headers: fields }: Probe,
  credential: readonly [field: string, value: string] | null,
  fetch: CheckOptions["fetch"],
  signal: AbortSignal,
): Promise<Evidence> {
  const asked = new Headers({ ...fields, accept: "application/json" });
  if (credential !== null) asked.set(...credential);
  // A redirect that is followed would carry the key elsewhere.
  const response = await fetch(url.href, { method, headers: asked, redirect: "manual", signal });
  const { status, headers } = response;
  const reader = readerOf(response);
  const read = reader === null ? null : await readUpTo(reader, MOST_EVIDENCE_BYTES);
  await reader?.cancel().catch(() => {}); // what is beyond does not matter, and may never end
  return { status, headers, body: read === null ? "" : evidenceOf(read.bytes) };
}

/** What an answer to the probe says of the key. `withoutKey`: what the same came to without one. Pure. */
export function judge(
  dialect: Dialect,
  evidence: Evidence,
  secret: Secret,
  now: number,
  withoutKey: Evidence | null = null,
): Finding {
  const { status } = evidence;
  if (status >= 300 && status < 400) {
    return { standing: "doubtful", detail: `status ${status}: it points elsewhere; check the base URL` };
  }
  const verdict = classify(dialect, evidence, now);
  const words = "said" in verdict ? unmask(redact(verdict.said, [secret])) : "";
  const said = words === "" ? `status ${status}` : words;
  switch (verdict.kind) {
    case "served":
      return proven(dialect, evidence, withoutKey, now);
    case "rate_limited":
    case "exhausted":
      return { standing: "limited", detail: `${verdict.reason}: ${said}` };
    case "revoked":
      // To the question whether it is a key, a bare 401 is an answer; a 403 may be about the question.
      return { standing: verdict.certain || status === 401 ? "dead" : "doubtful", detail: said };
    case "unsuited":
      return { standing: "doubtful", detail: said };
    case "rejected":
      return status === 404
        ? { standing: "unknown", detail: "the provider has no such list of models: check the base URL" }
        : { standing: "doubtful", detail: said };
    case "overloaded":
      return { standing: "unreachable", detail: said };
  }
}

/** What a good answer proves: some list their models for everybody, some tell what the account has left. */
function proven(dialect: Dialect, evidence: Evidence, withoutKey: Evidence | null, now: number): Finding {
  const { proof } = PROVIDERS[dialect];
  switch (readProbe(dialect, "doubted", evidence, withoutKey, now)) {
    case "dead":
      return { standing: "dead", detail: "the provider says that it is blocked" };
    case "unknown":
      return {
        standing: "unknown",
        detail: "its list of models is open to everybody, so it proves no key",
      };
    case "alive": {
      const canPay =
        proof?.proves !== "balance" || readProbe(dialect, "billing", evidence, null, now) === "alive";
      return canPay
        ? { standing: "works", detail: "" }
        : { standing: "limited", detail: "billing: as far as is told, its account has nothing left" };
    }
  }
}

/** Not the error's own text: it holds the URL. */
function faultOf(error: unknown): string {
  if (!(error instanceof Error)) return "not reached";
  return "code" in error && typeof error.code === "string" ? `not reached (${error.code})` : "not reached";
}
