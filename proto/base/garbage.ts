/**
 * Collects what strangers have left behind: their connections, and the buffers in which their bytes came. V8 does so by
 * itself when buffers outside of its heap have grown by 64 MB, and not at all when nothing more comes.
 */
import { unref } from "./timers.ts";

/** A collection stops the program for 20 to 40 ms, so that there is one in this time at most. Milliseconds. */
const PAUSE_MS = 400;
/** Fewer connections are not worth it. */
const WORTH = 20;
/**
 * After so many bytes what is young is collected: one to two milliseconds, and some 20 where a full collection is under way,
 * which it completes. Not more often than each so many milliseconds, so that nobody has this program collect all the time.
 */
const WORTH_BYTES = 4 << 20, YOUNG_PAUSE_MS = 50;

/** The engine's collector: of all, or of what is young. */
type Collect = (options?: { type: "minor" }) => void;

/** Counts connections that have ended and bytes that have come, and collects when it is worth it. */
export class Garbage {
  #ended = 0;
  #due = false;
  #bytes = 0;
  #collectedAt = -Infinity;
  readonly #collect: Collect | undefined;

  readonly #now: () => number;

  /**
   * @param collect For tests. @default the engine's own, which is there if it was started with --expose-gc
   * @param now For tests: milliseconds.
   */
  constructor(collect = (globalThis as { gc?: Collect }).gc, now = () => performance.now()) {
    this.#collect = collect;
    this.#now = now;
  }

  /** So many bytes have come. */
  received(bytes: number): void {
    this.#bytes += bytes;
    if (!this.#collect || this.#bytes < WORTH_BYTES) return;
    const now = this.#now();
    if (now - this.#collectedAt < YOUNG_PAUSE_MS) return;
    this.#collectedAt = now;
    this.#bytes = 0;
    this.#collect({ type: "minor" });
  }

  /** A connection has ended. */
  add(): void {
    this.#ended++;
    if (!this.#collect || this.#due || this.#ended < WORTH) return;
    this.#due = true;
    const timer = setTimeout(() => {
      this.#due = false;
      this.#ended = 0;
      this.#collect!();
    }, PAUSE_MS);
    unref(timer);
  }
}
