/** How often the link is judged, in milliseconds. */
const WINDOW_MS = 100;
/** A link that takes more than this share of the time to take what is written has time for compression, */
const SLOW_SHARE = 0.5;
/** unless it carries more bytes per second than compression makes. */
const FAST_LINK = 60e6;

/** What is known of a link. */
export interface ObservedLink {
  /**
   * For how long it has been busy with taking what was written, in milliseconds. A receiver that is slow does not count: it
   * would have to unpack as well.
   */
  readonly writingMs: number;
  /** Whether it was slow when it was judged last: what is sent next need not find that out anew. */
  slow: boolean;
}

/** Decides by what a link does whether it pays to compress what goes over it. */
export class CompressionChoice {
  readonly #link: ObservedLink;
  readonly #now: () => number;
  #began: number;
  #writingMs: number;
  #bytes = 0;

  /** @param now A clock in milliseconds; for tests. */
  constructor(link: ObservedLink, now = () => performance.now()) {
    this.#link = link;
    this.#now = now;
    this.#began = now();
    this.#writingMs = link.writingMs;
  }

  /** What to do with the next message. A link that nothing is known of is taken for a fast one. */
  get worth(): boolean {
    return this.#link.slow;
  }

  /** Notes that a message of `bytes` was sent, and that the sender may send the next. */
  sent(bytes: number): void {
    this.#bytes += bytes;
    const elapsedMs = this.#now() - this.#began;
    if (elapsedMs < WINDOW_MS) return;
    const { writingMs } = this.#link;
    this.#link.slow = (writingMs - this.#writingMs) / elapsedMs > SLOW_SHARE &&
      this.#bytes * 1000 / elapsedMs < FAST_LINK;
    this.#began += elapsedMs;
    this.#writingMs = writingMs;
    this.#bytes = 0;
  }
}
