/**
 * Collects the garbage of strangers: their connections, and the buffers of their bytes. By itself V8 does so when
 * buffers outside of its heap have grown by 64 MB, and never if nothing more arrives.
 */
import { unref } from "./timers.ts";

/** Minimum interval of full collections, each of which stops the program for 20 to 40 ms. Milliseconds. */
const PAUSE_MS = 400;
/** Number of ended connections that is worth a collection. */
const WORTH = 20;
/**
 * After this many bytes the young generation is collected. That takes one to two milliseconds, or about 20 if it
 * completes a full collection that is in progress. The interval keeps strangers from causing collections all the time.
 */
const WORTH_BYTES = 4 << 20, YOUNG_PAUSE_MS = 50;

/** The engine's collector, of everything or of the young generation. */
type Collect = (options?: { type: "minor" }) => void;

/** Counts ended connections and received bytes, and collects when it is worth it. */
export class Garbage {
  #ended = 0;
  #due = false;
  #bytes = 0;
  #collectedAt = -Infinity;
  readonly #collect: Collect | undefined;

  readonly #now: () => number;

  /**
   * @param collect For tests. @default the engine's own, which exists if it was started with --expose-gc
   * @param now For tests: milliseconds.
   */
  constructor(collect = (globalThis as { gc?: Collect }).gc, now = () => performance.now()) {
    this.#collect = collect;
    this.#now = now;
  }

  /** Counts received bytes. */
  received(bytes: number): void {
    this.#bytes += bytes;
    if (!this.#collect || this.#bytes < WORTH_BYTES) return;
    const now = this.#now();
    if (now - this.#collectedAt < YOUNG_PAUSE_MS) return;
    this.#collectedAt = now;
    this.#bytes = 0;
    this.#collect({ type: "minor" });
  }

  /** Counts a connection that has ended. */
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
