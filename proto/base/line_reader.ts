import { Buffer } from "node:buffer";

/** No honest line is longer: the longest, an agent's spec, is a few kilobytes. Bytes. */
const MAX_LINE_BYTES = 8 << 20;
/** A buffer that has grown beyond this is not kept for the next line. Bytes. */
const KEPT_BYTES = 64 << 10;

const NEWLINE = 0x0a;

/**
 * Reads a stream line by line, and no further than it is asked to. It holds no more than one line and one chunk, whatever
 * comes: of a line that is too long the rest is dropped, and one without an end is told in pieces.
 */
export class LineReader implements AsyncIterable<string> {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #chunk: Uint8Array = new Uint8Array();
  /** Where in the chunk the next byte is. */
  #at = 0;
  /** The line's beginning, from the chunks before. */
  #held: Buffer = Buffer.alloc(0);
  #filled = 0;
  #dropped = 0;
  #lineBytes = 0;

  /** @param maxBytes Of a line, without its end. */
  constructor(stream: ReadableStream<Uint8Array>, readonly maxBytes: number = MAX_LINE_BYTES) {
    this.#reader = stream.getReader();
  }

  /** All bytes of the line that came last: what was dropped of it and its end are counted, too. */
  get lineBytes(): number {
    return this.#lineBytes;
  }

  /**
   * The next line, without its end; what follows the last end is a line as well. Undefined when the stream has ended, has
   * failed or was closed.
   */
  async next(): Promise<string | undefined> {
    for (;;) {
      while (this.#at < this.#chunk.length) {
        if (this.#take()) return this.#line();
      }
      const { value, done } = await this.#reader.read().catch(() => ({ value: undefined, done: true }));
      if (done) return this.#filled > 0 ? this.#line() : undefined;
      this.#chunk = value!;
      this.#at = 0;
    }
  }

  /** Ends the stream. Who waits for a line gets undefined. */
  close(): void {
    this.#reader.cancel().catch(() => {});
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<string, void> {
    for (let line; (line = await this.next()) !== undefined;) yield line;
  }

  /** Takes bytes from the chunk. @returns whether a line is complete */
  #take(): boolean {
    const end = this.#chunk.indexOf(NEWLINE, this.#at);
    const stop = end < 0 ? this.#chunk.length : end;
    const taken = Math.min(stop - this.#at, this.maxBytes - this.#filled);
    this.#hold(this.#chunk.subarray(this.#at, this.#at + taken));
    this.#dropped += stop - this.#at - taken;
    this.#at = stop + 1;
    return end >= 0 || this.#dropped >= this.maxBytes;
  }

  #hold(bytes: Uint8Array): void {
    const needed = this.#filled + bytes.length;
    if (needed > this.#held.length) {
      const larger = Buffer.alloc(Math.min(Math.max(needed, 2 * this.#held.length), this.maxBytes));
      this.#held.copy(larger, 0, 0, this.#filled);
      this.#held = larger;
    }
    this.#held.set(bytes, this.#filled);
    this.#filled = needed;
  }

  #line(): string {
    const line = this.#held.toString("utf8", 0, this.#filled);
    this.#lineBytes = this.#filled + this.#dropped + 1;
    this.#filled = this.#dropped = 0;
    if (this.#held.length > KEPT_BYTES) this.#held = Buffer.alloc(0);
    return line;
  }
}
