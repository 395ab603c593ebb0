/**
 * Reads the output of a namespace's first process. The session's programs can open its pipes and write there too, in
 * any amount: the output is read in small pieces and counted.
 */
import { Buffer } from "node:buffer";

/** Maximum length of our own lines, in bytes. */
const MAX_LINE_BYTES = 4096;
/**
 * Bytes other than our own words that are tolerated per {@link WINDOW_MS}, on standard output and on standard error.
 */
const MAX_GARBAGE_BYTES = 64 << 10, MAX_NOISE_BYTES = 1 << 20;
const WINDOW_MS = 60_000;
/** What is logged per window: number of lines, and characters of each. */
const MAX_LINES = 100, MAX_SHOWN = 500;

const NEWLINE = 0x0a;

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

/** Reads lines of a stream. What exceeds `MAX_LINE_BYTES` in a line is dropped. */
class Lines {
  readonly #rest: Buffer = Buffer.alloc(MAX_LINE_BYTES);
  #filled = 0;
  #reader?: ReadableStreamDefaultReader<Uint8Array>;

  /**
   * Reads to the end, or until closed. @param onLine Gets the line and its full length in bytes; returns false to stop.
   */
  async read(stream: ReadableStream<Uint8Array>, onLine: (line: string, bytes: number) => boolean): Promise<void> {
    const reader = this.#reader = stream.getReader();
    let dropped = 0;
    try {
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        const chunk = next.value;
        for (let at = 0; at < chunk.length;) {
          const end = chunk.indexOf(NEWLINE, at);
          const stop = end < 0 ? chunk.length : end;
          const room = Math.min(stop - at, MAX_LINE_BYTES - this.#filled);
          this.#rest.set(chunk.subarray(at, at + room), this.#filled);
          this.#filled += room;
          dropped += stop - at - room;
          at = stop + 1;
          // A line without an end is reported in pieces.
          if (end < 0 && dropped < MAX_LINE_BYTES) continue;
          const bytes = this.#filled + dropped + 1;
          const line = this.#rest.toString("utf8", 0, this.#filled);
          this.#filled = dropped = 0;
          if (!onLine(line, bytes)) return;
        }
      }
    } catch {
      // The stream was closed.
    } finally {
      this.close();
    }
  }

  close(): void {
    this.#reader?.cancel().catch(() => {});
  }
}

/** The words of the first process. */
export class InitWords {
  readonly #lines = new Lines();
  readonly #budget = new Budget(MAX_GARBAGE_BYTES);

  /**
   * @param hear Returns whether a line is one of our words.
   * @param onFlood Called when there are too many others; reading then stops.
   */
  constructor(readonly hear: (line: string) => boolean, readonly onFlood: () => void) {}

  async read(stream: ReadableStream<Uint8Array>): Promise<void> {
    // Each word is preceded by a newline.
    let newlines = 0;
    await this.#lines.read(stream, (line, bytes) => {
      if (line === "" && bytes === 1 && newlines === 0) {
        newlines++;
        return true;
      }
      if (this.hear(line)) {
        newlines = 0;
        return true;
      }
      if (this.#budget.take(bytes)) return true;
      this.onFlood();
      return false;
    });
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
  readonly #lines = new Lines();
  readonly #bytes = new Budget(MAX_NOISE_BYTES);
  readonly #shown = new Budget(MAX_LINES);
  #leftOut = 0;

  constructor(readonly options: NoiseOptions) {}

  async read(stream: ReadableStream<Uint8Array>): Promise<void> {
    await this.#lines.read(stream, (line, bytes) => {
      if (!this.#bytes.take(bytes)) {
        this.#tell();
        this.options.onFlood();
        return false;
      }
      if (line.trim() === "") return true;
      if (this.#shown.renews()) this.#tell();
      if (this.#shown.take(1)) this.options.log(line.length > MAX_SHOWN ? `${line.slice(0, MAX_SHOWN)}…` : line);
      else this.#leftOut++;
      return true;
    });
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
