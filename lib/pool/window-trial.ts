/**
 * Whether a window that was measured is shorter in truth: rests are named in whole seconds, and limits change. Pure.
 *
 * A refusal with a named rest costs little, so it is tried more often than a rate that is only guessed.
 */

const HOLDS_AFTER_MS = 60_000;
const FIRST_PATIENCE_MS = 2 * 60_000;
const LONGEST_PATIENCE_MS = 600_000;
const FIRST_SQUEEZE = 0.1;
const LEAST_SQUEEZE = 0.02;
const MOST_SQUEEZE = 0.4;

/** A measured window on trial. */
export class WindowTrial {
  /** The window that held; 0: none was measured. */
  provenMs = 0;
  /** Epoch ms of the last change that a refusal made. */
  changedAt = 0;
  #share = FIRST_SQUEEZE;
  #isOnTrial = false;
  #triedAt = 0;
  #trialAt = 0;
  #patienceMs = FIRST_PATIENCE_MS;

  get isMeasured(): boolean {
    return this.provenMs > 0;
  }

  /** A window was measured. One that is much longer than the last may be too long. */
  begins(windowMs: number, now: number): void {
    const isSurprise = this.provenMs === 0 || windowMs > this.provenMs * 1.1;
    this.#trialAt = now + (isSurprise ? HOLDS_AFTER_MS : this.#patienceMs);
    this.changedAt = now;
    this.provenMs = windowMs;
    this.#isOnTrial = false;
  }

  ends(): void {
    this.provenMs = 0;
    this.#isOnTrial = false;
  }

  /** The window to go by now. */
  presses(windowMs: number, now: number): number {
    if (now < this.#trialAt) return windowMs;
    if (this.#isOnTrial) {
      this.#patienceMs = FIRST_PATIENCE_MS;
      this.#share = Math.min(this.#share * 2, MOST_SQUEEZE);
    }
    this.provenMs = windowMs;
    this.#isOnTrial = true;
    this.#triedAt = now;
    this.#trialAt = now + Math.max(HOLDS_AFTER_MS, 2 * windowMs);
    return windowMs * (1 - this.#share);
  }

  /** A refusal: whether it answers the trial. Then the window is `provenMs` again. */
  fails(sentAt: number, now: number): boolean {
    if (!this.#isOnTrial || sentAt < this.#triedAt) return false;
    this.#isOnTrial = false;
    this.changedAt = now;
    this.#share = Math.max(this.#share / 2, LEAST_SQUEEZE);
    this.#patienceMs = Math.min(this.#patienceMs * 2, LONGEST_PATIENCE_MS);
    this.#trialAt = now + this.#patienceMs;
    return true;
  }
}
