import type { Readable } from "node:stream";

/** A longer line is no agent's. Characters. */
const MAX_LINE = 4096;

/** The lines that a program prints, as long as somebody asks for them; what follows is read and dropped. */
export class OutputLines {
  #text = "";
  #isOver = false;
  #changed = () => {};

  constructor(output: Readable) {
    output.setEncoding("utf8");
    output.on("data", (part: string) => {
      if (this.#text.length > MAX_LINE) return;
      this.#text += part;
      this.#changed();
    });
    output.once("close", () => {
      this.#isOver = true;
      this.#changed();
    });
  }

  /** The next line without its end, cut off where it is too long; undefined at the end of the output. */
  async next(): Promise<string | undefined> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return line;
      }
      if (this.#text.length > MAX_LINE) return this.#text;
      if (this.#isOver) return undefined;
      await new Promise<void>((resolve) => this.#changed = resolve);
    }
  }
}
