/** Where a {@link Progress} writes. */
export interface ProgressOutput {
  write(text: string): void;
  /**
   * The width of a terminal, where the line is redrawn in place. Undefined otherwise: each step is written once, as its
   * own line.
   */
  columns(): number | undefined;
}

/**
 * Shows a waiting user what is going on, and nothing during a short wait:
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
   * @param step The first step.
   * @param delayMs Nothing is shown before this time.
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

  /** Sets the present step. */
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

/** Control characters, and those that change the direction of text. */
// deno-lint-ignore no-control-regex
export const UNSEEN = /[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+/g;

/** Makes foreign text safe for one line of a terminal. */
export const oneLine = (text: string): string => text.replaceAll(UNSEEN, " ");
