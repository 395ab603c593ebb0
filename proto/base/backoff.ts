/** Waits between attempts: at first 100 ms, doubling up to 5 s, each randomized. */

/** Interval at which a wait checks whether this machine has slept. Milliseconds. */
const LOOK_MS = 250;
/** A lead of the wall clock that only sleep explains. Milliseconds. */
const SLEPT_MS = 2_000;

/** The clock of a {@link Backoff}, in milliseconds, with its source of randomness. */
export interface BackoffClock {
  /** Steady clock, which stops while this machine sleeps. */
  now(): number;
  /** Wall clock, which continues during sleep. */
  wall(): number;
  /** From 0 to below 1. */
  random(): number;
  /** Calls `wake` once after this time. @returns cancels it */
  timer(wake: () => void, milliseconds: number): () => void;
}

const CLOCK: BackoffClock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  random: () => Math.random(),
  timer(wake, milliseconds) {
    const timer = setTimeout(wake, milliseconds);
    return () => clearTimeout(timer);
  },
};

/** An exponential backoff with jitter. */
export class Backoff {
  readonly #least: number;
  readonly #most: number;
  readonly #factor: number;
  readonly #clock: BackoffClock;
  #next: number;

  /**
   * @param options.least Maximum of the first wait, in milliseconds. @default 100
   * @param options.most Maximum of the longest wait, in milliseconds. @default 5_000
   * @param options.factor Growth from one wait to the next. @default 2
   * @param options.clock For tests.
   */
  constructor(options: { least?: number; most?: number; factor?: number; clock?: BackoffClock } = {}) {
    this.#least = this.#next = options.least ?? 100;
    this.#most = options.most ?? 5_000;
    this.#factor = options.factor ?? 2;
    this.#clock = options.clock ?? CLOCK;
  }

  /** Starts again with the shortest wait, after a success. */
  reset(): void {
    this.#next = this.#least;
  }

  /**
   * Waits until the next attempt. Ends early when the signal is aborted, and when this machine wakes from sleep, since
   * the peer may be reachable now. Never rejects.
   */
  async wait(signal?: AbortSignal): Promise<void> {
    const clock = this.#clock;
    // A random half to full length, so that many callers that lost the same peer do not return at once.
    const milliseconds = this.#next * (0.5 + clock.random() / 2);
    this.#next = Math.min(this.#next * this.#factor, this.#most);
    if (signal?.aborted) return;
    const lead = () => clock.wall() - clock.now();
    const before = lead();
    const until = clock.now() + milliseconds;
    const { promise, resolve } = Promise.withResolvers<void>();
    let stop = () => {};
    const look = () => {
      if (clock.now() >= until || lead() - before > SLEPT_MS || signal?.aborted) return resolve();
      stop = clock.timer(look, Math.min(LOOK_MS, Math.max(1, until - clock.now())));
    };
    look();
    signal?.addEventListener("abort", look);
    await promise;
    signal?.removeEventListener("abort", look);
    stop();
  }
}
