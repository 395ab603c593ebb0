import { setImmediate } from "node:timers";

/** Maximum time without a break for other work. Milliseconds. */
const SLICE_MS = 8;

/**
 * Cuts long synchronous work into slices, so that a Ping or a Ctrl-C is answered in between:
 * `if (pace.due) await pace.rest();`. Synchronous calls for small files are ten times cheaper than promises.
 */
export class Pace {
  #until = performance.now() + SLICE_MS;
  #calls = 0;

  /** @param signal Aborts the work: {@link rest} throws its reason. */
  constructor(readonly signal?: AbortSignal) {}

  /** Whether other work should run now. */
  get due(): boolean {
    // Reading the clock costs more than most work between two calls.
    return (++this.#calls & 7) === 0 && performance.now() >= this.#until;
  }

  /** Lets other work run. */
  async rest(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.signal?.throwIfAborted();
    this.#until = performance.now() + SLICE_MS;
  }
}
