import type { Dialect, Scope } from "./verdict.ts";
export interface Budget {
  readonly limit: number | null;
  readonly remaining: number;
  readonly resetAt: number;
  readonly kind: "window" | "leaky";
  readonly span: "minute" | "day";
  readonly scope: Scope;
}
export interface Budgets {
  readonly minute: Budget | null;
  readonly day: Budget | null;
}
export function readBudgets(_dialect: Dialect, _headers: Headers, _now: number): Budgets | null {
  return null;
}
