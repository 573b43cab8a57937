export class RetryBudget {
  countRequest(_now: number): void {}
  hasRoom(_now: number): boolean {
    return true;
  }
  spend(_now: number): void {}
}
