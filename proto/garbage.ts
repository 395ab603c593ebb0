/**
 * Collects what connections have left behind. V8 does so by itself when buffers outside of its heap have grown by 64 MB,
 * and not at all when nothing more comes: strangers' connections are over by then, and their memory is not.
 */

/** A collection stops the program for 20 to 40 ms, so that there is one in this time at most. Milliseconds. */
const PAUSE_MS = 400;
/** Fewer connections are not worth it. */
const WORTH = 20;

/** Counts connections that have ended, and collects when it is worth it. */
export class Garbage {
  #ended = 0;
  #due = false;
  readonly #collect: (() => void) | undefined;

  /** @param collect For tests. @default the engine's own, which is there if it was started with --expose-gc */
  constructor(collect = (globalThis as { gc?: () => void }).gc) {
    this.#collect = collect;
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
    Deno.unrefTimer(timer as unknown as number);
  }
}
