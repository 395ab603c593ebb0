import { setImmediate } from "node:timers";

/** How long the event loop may be kept from Ping, Cancel and Ctrl-C. Milliseconds. */
const SLICE_MS = 8;

/**
 * Cuts long synchronous work into slices: `if (pace.due) await pace.rest();`. Synchronous calls for small files are ten
 * times cheaper than promises.
 */
export class Pace {
  readonly #signal: AbortSignal;
  #until = performance.now() + SLICE_MS;
  #calls = 0;

  /** @param signal Makes {@link rest} throw its reason. */
  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** True when others should have their turn. */
  get due(): boolean {
    // The clock costs more than most of what stands between two looks at it.
    return (++this.#calls & 7) === 0 && performance.now() >= this.#until;
  }

  /** Lets others have their turn. */
  async rest(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.#signal.throwIfAborted();
    this.#until = performance.now() + SLICE_MS;
  }
}
