/**
 * What comes out of the first process of a session's namespace. Programs of the session can open its pipes and write
 * there too, as much and as fast as they like: it is read in small pieces, and counted.
 */
import { Buffer } from "node:buffer";

/** No line of ours is longer. Bytes. */
const MAX_LINE_BYTES = 4096;
/** Of what is no word of ours, so much is taken within a {@link WINDOW_MS}. Bytes. */
const MAX_GARBAGE_BYTES = 64 << 10, MAX_NOISE_BYTES = 1 << 20;
const WINDOW_MS = 60_000;
/** What of the noise is passed on within a window: lines, and characters of each. */
const MAX_LINES = 100, MAX_SHOWN = 500;

const NEWLINE = 0x0a;

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

/** Lines of a stream, none longer than `MAX_LINE_BYTES`: of a longer one the rest is dropped. */
class Lines {
  readonly #rest: Buffer = Buffer.alloc(MAX_LINE_BYTES);
  #filled = 0;
  #reader?: ReadableStreamDefaultReader<Uint8Array>;

  /** Reads to the end, or until it is closed. @param onLine Gets the line, and all its bytes. */
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
          // A line without an end is told of in pieces.
          if (end < 0 && dropped < MAX_LINE_BYTES) continue;
          const bytes = this.#filled + dropped + 1;
          const line = this.#rest.toString("utf8", 0, this.#filled);
          this.#filled = dropped = 0;
          if (!onLine(line, bytes)) return;
        }
      }
    } catch {
      // It was closed.
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
   * @param hear Says whether the line is a word of ours.
   * @param onFlood There is too much that is none; nothing more is heard.
   */
  constructor(readonly hear: (line: string) => boolean, readonly onFlood: () => void) {}

  async read(stream: ReadableStream<Uint8Array>): Promise<void> {
    // Of each word, the newline before it.
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
  /** Takes a line. */
  log(line: string): void;
  /** There is too much of it; nothing more is read. */
  onFlood(): void;
}

/** What the session says on the error output of its first process: for the log, in small doses. */
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
