/**
 * What a pool tells of itself to other instances that share it, and takes over from them.
 */
import { wallOffset } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import { isObject } from "../core/json.ts";
import type { CircuitBreaker } from "../pool/circuit-breaker.ts";
import { fromDates, inDates, readKeyState, stateOf } from "../pool/key.ts";
import type { Cooldown, Key } from "../pool/key.ts";
import type { ProviderState } from "../pool/provider-state.ts";
import type { PoolParts, PoolSide, SharedProvider } from "../pool/sharing.ts";

export function poolSideOf(parts: PoolParts): PoolSide {
  const { provider, selector, state, penalties, day, clock, turnDay, wake, hasWaiting } = parts;
  return {
    provider,
    get keys() {
      return selector.keys;
    },
    stateOf(key) {
      const now = clock.now();
      const { account } = key;
      const known = stateOf(key, selector.limitsOf(account), day.endDate, now);
      const announced = account.limiter.announcedLeft(now);
      const offset = wallOffset(clock);
      const dated = announced && { left: announced.left, resetAt: announced.resetAt + offset };
      return { ...inDates(known, offset), announced: dated };
    },
    apply: (key, told) => applyTold(key, told, parts),
    sentElsewhere(key, model, counted, uncounted, refused) {
      const now = clock.now();
      const { account } = key;
      const limits = selector.limitsFor({ model }, account);
      for (let each = 0; each < counted + uncounted; each++) {
        account.limiter.onSentElsewhere(now, each >= counted);
        limits?.limiter?.onSentElsewhere(now, false);
        state.sharedLimit.onSentElsewhere(now);
      }
      for (let each = 0; each < refused; each++) {
        account.limiter.refundElsewhere(now);
        limits?.limiter?.refundElsewhere(now);
      }
      return account.limiter.isRecounting(now) || (limits?.limiter?.isRecounting(now) ?? false);
    },
    providerState: () => moved(pauseOf(state), wallOffset(clock)),
    applyProvider(told, before) {
      const offset = -wallOffset(clock);
      hearPause(state, moved(told, offset), moved(before, offset));
    },
    dayEndsOn() {
      turnDay();
      return day.endDate;
    },
    shareTurns(turns) {
      selector.turns = turns;
      selector.isOnTrial = (need) => state.isOnTrial(need);
      state.turnAt = turns.turnAt;
    },
    maxCooldownMs: () => penalties.rules.maxCooldownMs,
    wake,
    hasWaiting,
  };
}

/** Until when a provider, and its models, are left alone. */
function pauseOf({ breaker, refusesAll, modelBreakers, pauseSaid: said }: ProviderState): SharedProvider {
  const untilOf = (each: CircuitBreaker) => (each.isQuiet ? 0 : each.openUntil);
  const models = Object.fromEntries(modelBreakers.open());
  return { breaker: untilOf(breaker), refusesAll: untilOf(refusesAll), models, said };
}

/** Takes over what has changed at another instance. `before`: what was so until then. */
function hearPause(state: ProviderState, told: SharedProvider, before: SharedProvider): void {
  hearBreaker(state.breaker, told.breaker, before.breaker);
  hearBreaker(state.refusesAll, told.refusesAll, before.refusesAll);
  const { modelBreakers } = state;
  for (const [model, until] of Object.entries(told.models))
    if (until > 0) modelBreakers.opened(model).openElsewhere(until);
  for (const model of Object.keys(before.models)) if (!(told.models[model] ?? 0)) modelBreakers.forget(model);
  state.pauseSaid = told.said;
  state.isDown = told.breaker > 0 || told.refusesAll > 0;
}

function hearBreaker(breaker: CircuitBreaker, until: number, before: number): void {
  if (until === before) return;
  if (until === 0) breaker.onAnswered();
  else breaker.openElsewhere(until);
}

/** With each of its instants moved. */
function moved({ breaker, refusesAll, models, said }: SharedProvider, by: number): SharedProvider {
  const move = (at: number) => (at === 0 ? 0 : at + by);
  return {
    breaker: move(breaker),
    refusesAll: move(refusesAll),
    models: Object.fromEntries(Object.entries(models).map(([model, until]) => [model, move(until)])),
    said,
  };
}

/** Takes over those parts of a state that were told; whatever they are, each is checked. */
function applyTold(key: Key, told: Record<string, unknown>, { selector, penalties, clock }: PoolParts): void {
  const read = readKeyState(told);
  if (read === null) return;
  const now = clock.now();
  const { account } = key;
  const state = fromDates(read, wallOffset(clock), now, penalties.rules.maxCooldownMs);
  const has = (name: string) => Object.hasOwn(told, name);
  if (has("disabled")) {
    key.disabled = state.disabled;
    if (state.disabled !== null) key.isOnTrial = false;
  }
  if (has("isPaused")) key.isPaused = state.isPaused;
  if (has("cooldown")) cool(account, state.cooldown, clearedIn(told["cooldown"], clock), now);
  if (has("limiter") && state.limiter !== null) account.limiter.hear(state.limiter, now);
  const announced = told["announced"];
  if (isObject(announced)) {
    const { left, resetAt } = {
      left: Number(announced["left"]),
      resetAt: Number(announced["resetAt"]) - wallOffset(clock),
    };
    if (left >= 0 && resetAt > now && resetAt <= now + penalties.rules.maxCooldownMs)
      account.limiter.hearAnnounced(left, resetAt);
  }
  const models = isObject(told["models"]) ? told["models"] : {};
  for (const [model, known] of Object.entries(state.models)) {
    const limits = selector.openLimits(model, account, now);
    const given = models[model];
    cool(limits, known.cooldown, isObject(given) ? clearedIn(given["cooldown"], clock) : Infinity, now);
    limits.deniedUntil = known.deniedUntil;
    if (known.limiter !== null) penalties.limiterOf(limits, account)?.hear(known.limiter, now);
  }
}

/**
 * Cools as another instance does. A cooldown only grows (P13), and ends only where the one that ended is this one, and
 * not a later one. `clearedAt`: when the one began that has ended.
 */
function cool(
  limits: { cooldown: Cooldown | null; readonly slowStart: { restart(): void } },
  cooldown: Cooldown | null,
  clearedAt: number,
  now: number,
): void {
  const held = limits.cooldown;
  if (cooldown === null) {
    if (held !== null && held.beganAt <= clearedAt + SAME_MS) limits.cooldown = null;
    return;
  }
  if (held !== null && held.until >= cooldown.until) return;
  // What was sent until now was sent without knowing of it: if that is refused, it is no second refusal in a row.
  const beganAt = cooldown.beganAt > now - NEWS_MS ? now : cooldown.beganAt;
  limits.cooldown = { ...cooldown, beganAt };
  if (cooldown.until > now) limits.slowStart.restart();
}

/** What began no longer ago is news. */
const NEWS_MS = 1000;
/** Instants that went through the dates of two instances differ by so much. */
const SAME_MS = 250;

/** When the cooldown began that was told to have ended; Infinity: whichever it is. */
function clearedIn(told: unknown, clock: Clock): number {
  const date = isObject(told) ? told["cleared"] : undefined;
  return typeof date === "number" ? date - wallOffset(clock) : Infinity;
}
