/** The next command waits at most this long, for a pass as quick as this. Milliseconds. */
import { unref } from "../../proto/base/timers.ts";
const QUICK_MS = 100;
/** After a longer pass the pause is this multiple of its duration: 5 % of a processor. */
const PAUSE = 20;
/** Delay of the pass after a command, whose outputs are copied first. Milliseconds. */
const AFTER_MS = 20;

/** Runs a pass in the background after each command. The next command waits for a pass that is quick. */
export class Sweeper implements Disposable {
  readonly #pass: (signal: AbortSignal) => Promise<void>;
  #due = false;
  #running?: Promise<void>;
  /** Resolves when no pass is due or running. */
  #over?: PromiseWithResolvers<void>;
  #timer?: ReturnType<typeof setTimeout>;
  #tookMs = 0;
  #endedAt = -Infinity;
  readonly #closed = new AbortController();

  /** @param pass The work. Its errors are ignored. */
  constructor(pass: (signal: AbortSignal) => Promise<void>) {
    this.#pass = pass;
  }

  /** Makes a pass due, after a command has ended. Resolves when no pass is due or running. */
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

  /** Resolves when no pass is due or running, or after QUICK_MS. */
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
