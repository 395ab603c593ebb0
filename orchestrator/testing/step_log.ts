/** The steps that one caller is told, and what a test does with them: wait for one. */
export class StepLog {
  readonly steps: string[] = [];
  #told = Promise.withResolvers<void>();

  readonly read = (step: string): void => {
    this.steps.push(step);
    this.#told.resolve();
    this.#told = Promise.withResolvers();
  };

  /** Resolves when the latest step is `step`. */
  async until(step: string): Promise<void> {
    while (this.steps.at(-1) !== step) await this.#told.promise;
  }
}
