/** Signals, as something that a test can send without a process. */
export interface SignalSource {
  /** Calls `listener` for each signal, instead of what the signal does by default. @returns how to end that */
  on(signal: Deno.Signal, listener: () => void): () => void;
}

/** The signals that this process gets. */
export const processSignals: SignalSource = {
  on(signal, listener) {
    Deno.addSignalListener(signal, listener);
    return () => Deno.removeSignalListener(signal, listener);
  },
};

/** Notices an impatient user: three interrupts within three seconds. */
export class InterruptCounter {
  #times: number[] = [];

  /** @param windowMs How close together the three must be. */
  constructor(readonly windowMs = 3000) {}

  /** Counts one. @returns true for the third within the window */
  interrupt(now: number = Date.now()): boolean {
    this.#times = [...this.#times.filter((t) => now - t < this.windowMs), now];
    return this.#times.length >= 3;
  }

  /** When the oldest interrupt of the window came; undefined if there is none. */
  get since(): number | undefined {
    return this.#times[0];
  }
}
