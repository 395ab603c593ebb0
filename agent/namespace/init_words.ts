/**
 * What comes out of the first process of a session's namespace. Programs of the session can open its pipes and write
 * there too, as much and as fast as they like: it is read in small pieces, and counted.
 */
import { LineReader } from "../../proto/base/line_reader.ts";

/** No line of ours is longer. Bytes. */
const MAX_LINE_BYTES = 4096;
/** Of what is no word of ours, so much is taken within a {@link WINDOW_MS}. Bytes. */
const MAX_GARBAGE_BYTES = 64 << 10, MAX_NOISE_BYTES = 1 << 20;
const WINDOW_MS = 60_000;
/** What of the noise is passed on within a window: lines, and characters of each. */
const MAX_LINES = 100, MAX_SHOWN = 500;

/** What is taken within a window. */
class Budget {
  #left: number;
  #since = performance.now();

  constructor(readonly limit: number) {
    this.#left = limit;
  }

  /** @returns whether it is within the limit */
  take(amount: number): boolean {
    this.renews();
    this.#left -= amount;
    return this.#left >= 0;
  }

  /** Whether a new window has begun. */
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
   * @param hear Says whether the line is a word of ours.
   * @param onFlood There is too much that is none; nothing more is heard.
   */
  constructor(
    stream: ReadableStream<Uint8Array>,
    readonly hear: (line: string) => boolean,
    readonly onFlood: () => void,
  ) {
    this.#lines = new LineReader(stream, MAX_LINE_BYTES);
  }

  /** Reads to the end, or until it is closed. */
  async read(): Promise<void> {
    // Of each word, the newline before it.
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
  /** Takes a line. */
  log(line: string): void;
  /** There is too much of it; nothing more is read. */
  onFlood(): void;
}

/** What the session says on the error output of its first process: for the log, in small doses. */
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
