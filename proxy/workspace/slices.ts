/** How long other work waits, in milliseconds. */
const SLICE_MS = 8;

/** Divides long synchronous work, so that Ping and Cancel are answered meanwhile: `if (slices.over) await slices.pause()`. */
export class Slices {
  #ends = performance.now() + SLICE_MS;

  /** @param signal Ends the work: {@link pause} throws its reason. */
  constructor(readonly signal?: AbortSignal) {}

  /** Whether others have waited long enough. */
  get over(): boolean {
    return performance.now() >= this.#ends;
  }

  /** Lets others work. */
  async pause(): Promise<void> {
    await new Promise<void>((resolve) => setTimeout(resolve));
    this.signal?.throwIfAborted();
    this.#ends = performance.now() + SLICE_MS;
  }
}
