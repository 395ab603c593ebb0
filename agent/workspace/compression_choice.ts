/** How often the link is judged, in milliseconds. */
const WINDOW_MS = 100;
/** A link that holds us back for more than this share of the time has time for compression, */
const SLOW_SHARE = 0.5;
/** unless it carries more bytes per second than compression makes. */
const FAST_LINK = 60e6;

/** Decides by what a link does whether it pays to compress what goes over it. */
export class CompressionChoice {
  #began = performance.now();
  #waitedMs = 0;
  #bytes = 0;
  #worth = false;

  /** What to do with the next message. At first a link is taken for a fast one. */
  get worth(): boolean {
    return this.#worth;
  }

  /** Waits for a message of `bytes` to get away, as long as `sent` says. */
  async watch(bytes: number, sent: Promise<void> | undefined): Promise<void> {
    this.#bytes += bytes;
    const from = performance.now();
    await sent;
    const now = performance.now(), elapsedMs = now - this.#began;
    this.#waitedMs += now - from;
    if (elapsedMs < WINDOW_MS) return;
    this.#worth = this.#waitedMs / elapsedMs > SLOW_SHARE && this.#bytes * 1000 / elapsedMs < FAST_LINK;
    this.#began = now;
    this.#waitedMs = this.#bytes = 0;
  }
}
