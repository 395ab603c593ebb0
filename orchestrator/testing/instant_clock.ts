import type { BackoffClock } from "../../proto/base/backoff.ts";

/** A clock on which every wait is over at once, and as long as can be. */
export class InstantClock implements BackoffClock {
  #now = 0;

  /** What has been waited for, in milliseconds. */
  get waited(): number {
    return this.#now;
  }

  now = (): number => this.#now;
  wall = (): number => this.#now;
  random = (): number => 1 - 2 ** -40;

  timer = (wake: () => void, milliseconds: number): () => void => {
    const timer = setTimeout(() => {
      this.#now += milliseconds;
      wake();
    }, 0);
    return () => clearTimeout(timer);
  };
}
