/**
 * What is known of one key, and what follows from it at an instant: whether it may be asked, what `/health` shows.
 */
import type { ConfiguredKey, ProviderConfig } from "./config.ts";
import type { Cooldown, KeyReason } from "./cooldowns.ts";
import type { KeyReport } from "./health.ts";

/** Everything that is known of one key. Instants are epoch milliseconds; 0 means never. */
export interface Key extends ConfiguredKey {
  readonly index: number;
  cooldown: Cooldown | null;
  readonly modelCooldowns: Map<string, Cooldown>;
  disabled: { reason: KeyReason; at: number; said: string } | null;
  /**
   * How many attempts may be undecided at once since the last rate refusal; 0: any number. A key that wakes is
   * asked once, then twice, then four times: else all who waited for it would get it refused again.
   */
  probation: number;
  /** Answers that have begun since the key last woke, and how many did between its last two rests; 0: not known. */
  admittedSinceRest: number;
  admittedPerRest: number;
  /** Attempts whose answer has not begun. */
  undecided: number;
  inFlight: number;
  requests: number;
  rateLimited: number;
  errors: number;
  /** Requests of the running day, which the pool ends. */
  today: number;
  /** When an answer last began. */
  admittedAt: number;
  lastUsedAt: number;
  /** When the last `RPM` requests were sent, a ring whose oldest is at `sentNext`; null where no number is set. */
  readonly sentAt: Float64Array | null;
  sentNext: number;
}

/** What of a request decides which keys may serve it. */
export interface KeyNeed {
  readonly model: string | null;
  /** Keys that were asked already: again only when no other is ready, and not before `reuseAt`. */
  readonly tried: ReadonlySet<Key>;
  readonly reuseAt: number;
  /** Keys that cannot serve this request at all. */
  readonly unsuited: ReadonlySet<Key>;
}

const RATE_WINDOW_MS = 60_000;
/** A provider that refuses does so at once; one that serves may take its time. */
const REFUSAL_COMES_WITHIN_MS = 3000;
/** A key that was asked this many times at once without a refusal has proven itself. */
const PROBATION_ENDS_AT = 64;

export function newKey(configured: ConfiguredKey, index: number, config: ProviderConfig): Key {
  return {
    ...configured,
    dailyLimit: configured.dailyLimit ?? config.dailyLimit,
    index,
    cooldown: null,
    modelCooldowns: new Map(),
    disabled: null,
    probation: 0,
    admittedSinceRest: 0,
    admittedPerRest: 0,
    undecided: 0,
    inFlight: 0,
    requests: 0,
    rateLimited: 0,
    errors: 0,
    today: 0,
    admittedAt: 0,
    lastUsedAt: 0,
    sentAt: typeof config.rpm === "number" ? new Float64Array(config.rpm).fill(-RATE_WINDOW_MS) : null,
    sentNext: 0,
  };
}

/** Epoch ms from which the key may be asked for this need. `dayEndsAt`: when its daily count starts again. */
export function readyAt(key: Key, need: KeyNeed, dayEndsAt: number): number {
  let at = key.cooldown?.until ?? 0;
  if (key.modelCooldowns.size > 0 && need.model !== null) {
    at = Math.max(at, key.modelCooldowns.get(need.model)?.until ?? 0);
  }
  if (need.tried.has(key)) at = Math.max(at, need.reuseAt);
  if (isSpent(key)) at = Math.max(at, dayEndsAt);
  // Full while the oldest of the last `RPM` requests is within the window.
  if (key.sentAt !== null) at = Math.max(at, (key.sentAt[key.sentNext] ?? 0) + RATE_WINDOW_MS);
  return at;
}

/** Whether the key has had its day's requests. */
function isSpent(key: Key): boolean {
  return key.dailyLimit !== null && key.today >= key.dailyLimit;
}

/**
 * Epoch ms from which a key that has just woken may be asked once more: it has as many undecided attempts as it is
 * trusted with. 0 where it may at once. A refusal comes quickly, so an attempt that is long in deciding is no news.
 */
export function busyUntil(key: Key): number {
  if (key.probation === 0) return 0;
  // As much as it bore the last time is sure; beyond that one attempt at a time finds out whether it bears more.
  const isAtLimit = key.admittedPerRest > 0 && key.admittedSinceRest + key.undecided >= key.admittedPerRest;
  const trusted = isAtLimit ? 1 : key.probation;
  return key.undecided >= trusted ? key.lastUsedAt + REFUSAL_COMES_WITHIN_MS : 0;
}

/** The key was refused: what it bore until then is remembered, and it has to prove itself again. */
export function distrustKey(key: Key): void {
  if (key.admittedSinceRest > 0) key.admittedPerRest = key.admittedSinceRest;
  key.admittedSinceRest = 0;
  key.probation = 1;
}

/** An attempt with this key begins. */
export function takeKey(key: Key, now: number): void {
  key.today += 1;
  key.requests += 1;
  key.inFlight += 1;
  key.undecided += 1;
  key.lastUsedAt = now;
  if (key.sentAt === null) return;
  key.sentAt[key.sentNext] = now;
  key.sentNext = (key.sentNext + 1) % key.sentAt.length;
}

/** An answer has begun: the key is trusted with one attempt more, which from round to round is twice as many. */
export function trustKey(key: Key, model: () => string | null, now: number): void {
  key.admittedAt = now;
  key.admittedSinceRest += 1;
  if (key.modelCooldowns.size > 0) {
    const cooldown = key.modelCooldowns.get(model() ?? "");
    if (cooldown !== undefined) cooldown.answeredAt = now;
  }
  if (key.probation > 0) key.probation = key.probation + 1 < PROBATION_ENDS_AT ? key.probation + 1 : 0;
}

/** The key as `/health` shows it. */
export function reportOf(key: Key, dayEndsAt: number, now: number): KeyReport {
  const spentMs = isSpent(key) ? dayEndsAt - now : 0;
  const restMs = Math.max(0, (key.cooldown?.until ?? 0) - now);
  const coolingMs = key.disabled === null ? Math.max(spentMs, restMs) : 0;
  const resting = spentMs > restMs ? "quota_day" : (key.cooldown?.reason ?? null);
  const models = [...key.modelCooldowns].filter(([, { until }]) => until > now);
  return {
    index: key.index,
    id: key.secret.id,
    account: key.account,
    state: key.disabled !== null ? "disabled" : coolingMs > 0 ? "cooling" : "ready",
    reason: key.disabled?.reason ?? (coolingMs > 0 ? resting : null),
    coolingMs,
    models: Object.fromEntries(
      models.map(([model, { until, reason }]) => [model, { coolingMs: until - now, reason }]),
    ),
    requests: key.requests,
    rateLimited: key.rateLimited,
    errors: key.errors,
    today: key.today,
    dailyLimit: key.dailyLimit,
    rpmLimit: key.sentAt?.length ?? null,
    inFlight: key.inFlight,
    lastUsedAt: key.lastUsedAt,
  };
}

/** Names come from clients: so many are kept for one key at most. */
const MODELS_PER_KEY = 256;

/** Rests one model on a key. What is over is forgotten, and beyond the bound the oldest. */
export function rememberModel(key: Key, model: string, cooldown: Cooldown, now: number): void {
  const { modelCooldowns } = key;
  if (modelCooldowns.size >= MODELS_PER_KEY && !modelCooldowns.has(model)) {
    for (const [name, { until }] of modelCooldowns) if (until <= now) modelCooldowns.delete(name);
    const [oldest] = modelCooldowns.keys();
    if (modelCooldowns.size >= MODELS_PER_KEY && oldest !== undefined) modelCooldowns.delete(oldest);
  }
  modelCooldowns.set(model, cooldown);
}
