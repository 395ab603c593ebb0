/** How long a command waits for a pass that can be done so quickly. Milliseconds. */
import { unref } from "../../proto/base/timers.ts";
const QUICK_MS = 100;
/** After a longer pass there is none for so many times what it took: that is 5 % of a processor. */
const PAUSE = 20;
/** How long after a command the pass begins: what the command has made comes home first. Milliseconds. */
const AFTER_MS = 20;

/** Does something in the background after each command, and so that the next one finds it done if it is quick. */
export class Sweeper implements Disposable {
  readonly #pass: (signal: AbortSignal) => Promise<void>;
  #due = false;
  #running?: Promise<void>;
  /** Resolves when no pass is due or under way. */
  #over?: PromiseWithResolvers<void>;
  #timer?: ReturnType<typeof setTimeout>;
  #tookMs = 0;
  #endedAt = -Infinity;
  readonly #closed = new AbortController();

  /** @param pass What is done. An error of it is as good as its end. */
  constructor(pass: (signal: AbortSignal) => Promise<void>) {
    this.#pass = pass;
  }

  /** A command has ended: a pass that begins from now on is due. Resolves when none is any more. */
  soon(): Promise<void> {
    if (this.#closed.signal.aborted) return Promise.resolve();
    this.#due = true;
    const { promise } = this.#over ??= Promise.withResolvers<void>();
    if (!this.#running && this.#timer === undefined) this.#schedule();
    return promise;
  }

  #schedule(): void {
    const pause = this.#tookMs <= QUICK_MS ? 0 : this.#endedAt + PAUSE * this.#tookMs - performance.now();
    this.#timer = setTimeout(() => this.#begin(), Math.max(AFTER_MS, pause));
    unref(this.#timer);
  }

  /** Resolves when no pass is due or under way; soon in any case. */
  async settled(): Promise<void> {
    const until = performance.now() + QUICK_MS;
    while (this.#tookMs <= QUICK_MS && (this.#due || this.#running)) {
      const left = until - performance.now();
      if (left <= 0) return;
      let timer: ReturnType<typeof setTimeout> | undefined;
      const enough = new Promise<void>((resolve) => timer = setTimeout(resolve, left));
      await Promise.race([this.#running ?? this.#begin(), enough]);
      clearTimeout(timer);
    }
  }

  #begin(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#due = false;
    const began = performance.now();
    const run = async () => {
      try {
        await this.#pass(this.#closed.signal);
      } catch { /* there is another one after the next command */ }
      this.#endedAt = performance.now();
      this.#tookMs = this.#endedAt - began;
      this.#running = undefined;
      if (this.#due && !this.#closed.signal.aborted) return this.#schedule();
      this.#over?.resolve();
      this.#over = undefined;
    };
    return this.#running = run();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#due = false;
    this.#over?.resolve();
    this.#closed.abort();
  }
}
