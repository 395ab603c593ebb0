/** A source of signals; a test can send them without a process. */
export interface SignalSource {
  /** Calls `listener` for each signal instead of the default action. @returns removes the listener */
  on(signal: Deno.Signal, listener: () => void): () => void;
}

/** The signals of this process. */
export const processSignals: SignalSource = {
  on(signal, listener) {
    Deno.addSignalListener(signal, listener);
    return () => Deno.removeSignalListener(signal, listener);
  },
};

/** Detects an impatient user: three interrupts within three seconds. */
export class InterruptCounter {
  #times: number[] = [];

  /** @param windowMs The period for the three interrupts, in milliseconds. */
  constructor(readonly windowMs = 3000) {}

  /** Counts an interrupt. @returns true for the third within the period */
  interrupt(now: number = Date.now()): boolean {
    this.#times = [...this.#times.filter((t) => now - t < this.windowMs), now];
    return this.#times.length >= 3;
  }

  /** Time of the oldest interrupt in the period; undefined if there is none. */
  get since(): number | undefined {
    return this.#times[0];
  }
}
