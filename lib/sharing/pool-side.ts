/**
 * What a pool tells of itself to other instances that share it, and takes over from them.
 */
import { wallOffset } from "../core/clock.ts";
import type { Clock } from "../core/clock.ts";
import { isObject } from "../core/json.ts";
import { fromDates, inDates, readKeyState, stateOf } from "../pool/key.ts";
import type { Cooldown, Key } from "../pool/key.ts";
import type { SharedProvider } from "../pool/provider-state.ts";
import type { PoolParts, PoolSide } from "../pool/sharing.ts";

export function poolSideOf(parts: PoolParts): PoolSide {
  const { provider, selector, state, penalties, day, clock, turnDay, wake } = parts;
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
    sentElsewhere(key, model, counted, uncounted) {
      const now = clock.now();
      const { account } = key;
      const limits = selector.limitsFor({ model }, account);
      for (let each = 0; each < counted + uncounted; each++) {
        account.limiter.onSentElsewhere(now, each >= counted);
        limits?.limiter?.onSentElsewhere(now, false);
        state.sharedLimit.onSentElsewhere(now);
      }
    },
    providerState: () => moved(state.shared(), wallOffset(clock)),
    applyProvider(told, before) {
      const offset = -wallOffset(clock);
      state.hear(moved(told, offset), moved(before, offset));
    },
    dayEndsOn() {
      turnDay();
      return day.endDate;
    },
    shareTurns(turns) {
      selector.turns = turns;
      state.turnAt = turns.turnAt;
    },
    maxCooldownMs: () => penalties.rules.maxCooldownMs,
    wake,
  };
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
  if (has("limiter") && state.limiter !== null) account.limiter.restore(state.limiter, now);
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
    if (known.limiter !== null) penalties.limiterOf(limits, account)?.restore(known.limiter, now);
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
  limits.cooldown = cooldown;
  if (cooldown.until > now) limits.slowStart.restart();
}

/** Instants that went through the dates of two instances differ by so much. */
const SAME_MS = 250;

/** When the cooldown began that was told to have ended; Infinity: whichever it is. */
function clearedIn(told: unknown, clock: Clock): number {
  const date = isObject(told) ? told["cleared"] : undefined;
  return typeof date === "number" ? date - wallOffset(clock) : Infinity;
}
