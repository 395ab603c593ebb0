/** Maximum length of a line, in bytes. Startup options are a few kilobytes. */
const MAX_LINE_BYTES = 8 << 20;

/** Reads the lines of a program's standard input. */
export class InputLines {
  readonly #reader: ReadableStreamDefaultReader<string>;
  #text = "";

  constructor(input: ReadableStream<Uint8Array>) {
    this.#reader = input.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  }

  /** The next line, or the rest; empty at the end. A line that is too long is cut off. */
  async next(): Promise<string> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return line;
      }
      const { value, done } = this.#text.length > MAX_LINE_BYTES
        ? { value: "", done: true }
        : await this.#reader.read();
      if (done) {
        const rest = this.#text;
        this.#text = "";
        return rest;
      }
      this.#text += value;
    }
  }
}
