/** Waits between attempts: 100 ms at first, each twice as long as the one before up to 5 s, of random length around that. */

/** See the file's head. */
export class Backoff {
  readonly #least: number;
  readonly #most: number;
  #next: number;

  /** In milliseconds. */
  constructor(options: { least?: number; most?: number } = {}) {
    this.#least = this.#next = options.least ?? 100;
    this.#most = options.most ?? 5_000;
  }

  /** Begins with the shortest wait again: an attempt went well. */
  reset(): void {
    this.#next = this.#least;
  }

  /**
   * Waits for the next attempt's time. Ends early when the signal is aborted, and when this machine wakes from sleep: what
   * was unreachable then may be reachable now.
   */
  async wait(signal?: AbortSignal): Promise<void> {
    // Half to once the length, so that many who lost the same peer don't come back at once.
    const milliseconds = this.#next * (0.5 + Math.random() / 2);
    this.#next = Math.min(this.#next * 2, this.#most);
    if (signal?.aborted) return;
    const lead = () => Date.now() - performance.now();
    const before = lead();
    const until = performance.now() + milliseconds;
    const { promise, resolve } = Promise.withResolvers<void>();
    const look = () => {
      if (performance.now() >= until || lead() - before > 2_000 || signal?.aborted) return resolve();
      timer = setTimeout(look, Math.min(250, Math.max(1, until - performance.now())));
    };
    let timer: ReturnType<typeof setTimeout> | undefined;
    look();
    signal?.addEventListener("abort", look);
    await promise;
    signal?.removeEventListener("abort", look);
    clearTimeout(timer);
  }
}
