import { setImmediate } from "node:timers";

/** How long the event loop may be kept from other work. Milliseconds. */
const SLICE_MS = 8;

/**
 * Cuts long synchronous work into slices, so that a Ping or a Ctrl-C is answered meanwhile:
 * `if (pace.due) await pace.rest();`. Synchronous calls for small files are ten times cheaper than promises.
 */
export class Pace {
  #until = performance.now() + SLICE_MS;
  #calls = 0;

  /** @param signal Ends the work: {@link rest} throws its reason. */
  constructor(readonly signal?: AbortSignal) {}

  /** True when others should have their turn. */
  get due(): boolean {
    // The clock costs more than most of what stands between two looks at it.
    return (++this.#calls & 7) === 0 && performance.now() >= this.#until;
  }

  /** Lets others have their turn. */
  async rest(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.signal?.throwIfAborted();
    this.#until = performance.now() + SLICE_MS;
  }
}
