/** How often the link is measured, in milliseconds. */
const WINDOW_MS = 100;
/** A link busy for no more than this share of the time is not worth compression. */
const SLOW_SHARE = 0.5;
/** Bytes per second that compression produces. A link that carries more is not worth compression. */
const FAST_LINK = 60e6;

/** What is measured of a link. */
export interface ObservedLink {
  /**
   * How long the link has been busy sending, in milliseconds. Time in which the receiver is the bottleneck does not
   * count, since the receiver would have to unpack as well.
   */
  readonly writingMs: number;
  /** Whether the link was slow at the last measurement. The next call starts from this. */
  slow: boolean;
}

/** Decides from a link's throughput whether compression pays. */
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

  /** Whether to compress the next message. A link without measurements counts as fast. */
  get worth(): boolean {
    return this.#link.slow;
  }

  /** Records that a message of `bytes` was sent and the sender may continue. */
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
