/** Where a {@link Progress} writes. */
export interface ProgressOutput {
  write(text: string): void;
  /**
   * A terminal's width: the line is redrawn in place. Undefined for what is no terminal: each step is written once, as a
   * line of its own.
   */
  columns(): number | undefined;
}

/**
 * Tells a waiting person why, and says nothing while there is nothing to wait for:
 *
 *     rbs: agent starting (Bazel server) 2.1s
 */
export class Progress implements Disposable {
  readonly #out: ProgressOutput;
  readonly #started = Date.now();
  readonly #delay: ReturnType<typeof setTimeout>;
  #redraw: ReturnType<typeof setInterval> | undefined;
  #step: string;
  #shown = "";
  #state: "quiet" | "showing" | "ended" = "quiet";

  /**
   * @param step What is waited for at first.
   * @param delayMs Nothing is shown before.
   */
  constructor(out: ProgressOutput, step: string, delayMs = 1000) {
    this.#out = out;
    this.#step = step;
    this.#delay = setTimeout(() => {
      this.#state = "showing";
      this.#show();
      if (out.columns() !== undefined) this.#redraw = setInterval(() => this.#show(), 100);
    }, delayMs);
  }

  /** What is waited for from now on. */
  step(description: string): void {
    this.#step = oneLine(description);
    if (this.#state === "showing") this.#show();
  }

  /** Erases the line. */
  [Symbol.dispose](): void {
    clearTimeout(this.#delay);
    clearInterval(this.#redraw);
    if (this.#state === "showing" && this.#out.columns() !== undefined) this.#out.write("\r\x1b[K");
    this.#state = "ended";
  }

  #show(): void {
    const columns = this.#out.columns();
    if (columns === undefined && this.#shown === this.#step) return;
    this.#shown = this.#step;
    const line = `rbs: ${this.#step} ${((Date.now() - this.#started) / 1000).toFixed(1)}s`;
    // A line that wraps could not be erased.
    this.#out.write(columns === undefined ? `${line}\n` : `\r\x1b[K${line.slice(0, Math.max(columns - 1, 1))}`);
  }
}

/** What could steer a terminal, or turn the direction of its text. */
// deno-lint-ignore no-control-regex
export const UNSEEN = /[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+/g;

/** Text from elsewhere, made harmless for one line of a terminal. */
export const oneLine = (text: string): string => text.replaceAll(UNSEEN, " ");
