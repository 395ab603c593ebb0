/** Waits between attempts: 100 ms at first, each twice as long as the one before up to 5 s, of random length around that. */

/** How often a wait looks whether this machine has slept. Milliseconds. */
const LOOK_MS = 250;
/** The wall clock is so far ahead only after a sleep. Milliseconds. */
const SLEPT_MS = 2_000;

/** Where a {@link Backoff} finds time and chance. Times are in milliseconds. */
export interface BackoffClock {
  /** Goes on while this machine is awake, and only then. */
  now(): number;
  /** The wall clock, which goes on in sleep. */
  wall(): number;
  /** From 0 to below 1. */
  random(): number;
  /** Calls `wake` once after so long. @returns what prevents that */
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

/** See the file's head. */
export class Backoff {
  readonly #least: number;
  readonly #most: number;
  readonly #factor: number;
  readonly #clock: BackoffClock;
  #next: number;

  /**
   * @param options.least The first wait's greatest length, in milliseconds. @default 100
   * @param options.most The same for the longest. @default 5_000
   * @param options.factor How many times as long as the one before each wait is. @default 2
   * @param options.clock For tests.
   */
  constructor(options: { least?: number; most?: number; factor?: number; clock?: BackoffClock } = {}) {
    this.#least = this.#next = options.least ?? 100;
    this.#most = options.most ?? 5_000;
    this.#factor = options.factor ?? 2;
    this.#clock = options.clock ?? CLOCK;
  }

  /** Begins with the shortest wait again: an attempt went well. */
  reset(): void {
    this.#next = this.#least;
  }

  /**
   * Waits for the next attempt's time. Ends early when the signal is aborted, and when this machine wakes from sleep: what
   * was unreachable then may be reachable now. Never rejects.
   */
  async wait(signal?: AbortSignal): Promise<void> {
    const clock = this.#clock;
    // Half to once the length, so that many who lost the same peer don't come back at once.
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
