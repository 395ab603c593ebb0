/**
 * Reads the output of a namespace's first process. The session's programs can open its pipes and write there too, in
 * any amount: the output is read in small pieces and counted.
 */
import { LineReader } from "../../proto/base/line_reader.ts";

/** Maximum length of our own lines, in bytes. */
const MAX_LINE_BYTES = 4096;
/**
 * Bytes other than our own words that are tolerated per {@link WINDOW_MS}, on standard output and on standard error.
 */
const MAX_GARBAGE_BYTES = 64 << 10, MAX_NOISE_BYTES = 1 << 20;
const WINDOW_MS = 60_000;
/** What is logged per window: number of lines, and characters of each. */
const MAX_LINES = 100, MAX_SHOWN = 500;

/** A limit per window. */
class Budget {
  #left: number;
  #since = performance.now();

  constructor(readonly limit: number) {
    this.#left = limit;
  }

  /** @returns whether the amount is within the limit */
  take(amount: number): boolean {
    this.renews();
    this.#left -= amount;
    return this.#left >= 0;
  }

  /** Starts a new window if it is time. */
  renews(): boolean {
    if (performance.now() - this.#since < WINDOW_MS) return false;
    this.#since = performance.now();
    this.#left = this.limit;
    return true;
  }
}

/** The words of the first process. */
export class InitWords {
  readonly #lines: LineReader;
  readonly #budget = new Budget(MAX_GARBAGE_BYTES);

  /**
   * @param hear Returns whether a line is one of our words.
   * @param onFlood Called when there are too many others; reading then stops.
   */
  constructor(
    stream: ReadableStream<Uint8Array>,
    readonly hear: (line: string) => boolean,
    readonly onFlood: () => void,
  ) {
    this.#lines = new LineReader(stream, MAX_LINE_BYTES);
  }

  /** Reads to the end, or until closed. */
  async read(): Promise<void> {
    // Each word is preceded by a newline.
    let newlines = 0;
    for await (const line of this.#lines) {
      const bytes = this.#lines.lineBytes;
      if (line === "" && bytes === 1 && newlines === 0) newlines++;
      else if (this.hear(line)) newlines = 0;
      else if (!this.#budget.take(bytes)) {
        this.onFlood();
        break;
      }
    }
    this.close();
  }

  close(): void {
    this.#lines.close();
  }
}

/** Options of {@link Noise}. */
export interface NoiseOptions {
  /** Logs a line. */
  log(line: string): void;
  /** Called when there is too much output; reading then stops. */
  onFlood(): void;
}

/** Passes the error output of the session's first process to the log, within limits. */
export class Noise {
  readonly #lines: LineReader;
  readonly #bytes = new Budget(MAX_NOISE_BYTES);
  readonly #shown = new Budget(MAX_LINES);
  #leftOut = 0;

  constructor(stream: ReadableStream<Uint8Array>, readonly options: NoiseOptions) {
    this.#lines = new LineReader(stream, MAX_LINE_BYTES);
  }

  /** Reads to the end, or until it is closed. */
  async read(): Promise<void> {
    for await (const line of this.#lines) {
      if (!this.#bytes.take(this.#lines.lineBytes)) {
        this.#tell();
        this.options.onFlood();
        break;
      }
      if (line.trim() === "") continue;
      if (this.#shown.renews()) this.#tell();
      if (this.#shown.take(1)) this.options.log(line.length > MAX_SHOWN ? `${line.slice(0, MAX_SHOWN)}…` : line);
      else this.#leftOut++;
    }
    this.close();
    this.#tell();
  }

  #tell(): void {
    if (this.#leftOut > 0) this.options.log(`${this.#leftOut} more lines were left out`);
    this.#leftOut = 0;
  }

  close(): void {
    this.#lines.close();
  }
}
