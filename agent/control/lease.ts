import type { Activity } from "./activity.ts";

/** Parts of a {@link Lease}. */
export interface LeaseOptions {
  /** How long the agent lives without a supervisor and without a running command. Milliseconds. */
  durationMs: number;
  activity: Activity;
  /** Called once, when that time is over. */
  onExpired(): void;
}

/**
 * The agent's right to live: it runs on while somebody supervises it or a command runs, and for `durationMs` after
 * that. So an agent whose orchestrator was killed is adopted by the next one, or ends itself.
 */
export class Lease implements Disposable {
  readonly #options: LeaseOptions;
  readonly #subscription: Disposable;
  #holders = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #over = false;

  constructor(options: LeaseOptions) {
    this.#options = options;
    this.#subscription = options.activity.onChange(() => this.#review());
    this.#review();
  }

  /** Holds the lease until what it returns is disposed of. */
  hold(): Disposable {
    this.#holders++;
    this.#review();
    let released = false;
    return {
      [Symbol.dispose]: () => {
        if (released) return;
        released = true;
        this.#holders--;
        this.#review();
      },
    };
  }

  #review(): void {
    clearTimeout(this.#timer);
    if (this.#over || this.#holders > 0 || this.#options.activity.running > 0) return;
    this.#timer = setTimeout(() => {
      this[Symbol.dispose]();
      this.#options.onExpired();
    }, this.#options.durationMs);
  }

  [Symbol.dispose](): void {
    this.#over = true;
    clearTimeout(this.#timer);
    this.#subscription[Symbol.dispose]();
  }
}
