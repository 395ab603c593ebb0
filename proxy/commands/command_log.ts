import { join } from "node:path";
import { makeOurs } from "../outputs/server_state.ts";

/**
 * `command.log` in the output base: what the last command printed. A Bazel server writes it beside itself, which is on
 * another machine here, so the proxy does.
 */
export class CommandLog implements Disposable {
  readonly #outputBase: string;
  #file?: Deno.FsFile;
  #begun = false;

  /** Begins a new one with the first output, when the command is on its way. */
  constructor(outputBase: string) {
    this.#outputBase = outputBase;
  }

  /** A disk that is full is no reason to fail a command: then there is none. */
  #begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    const path = join(this.#outputBase, "command.log");
    try {
      // Not over the old file, which somebody may have open, nor through a link that another mode has left.
      const fresh = join(makeOurs(this.#outputBase), `command.log.${Deno.pid}`);
      this.#file = Deno.openSync(fresh, { write: true, create: true, truncate: true, mode: 0o644 });
      Deno.renameSync(fresh, path);
    } catch {
      this.#close();
    }
  }

  /** Appends what the command printed. */
  write(text: Uint8Array): void {
    this.#begin();
    try {
      for (let at = 0; this.#file && at < text.length;) at += this.#file.writeSync(text.subarray(at));
    } catch {
      this.#close();
    }
  }

  [Symbol.dispose](): void {
    // Of a command that printed nothing, it is empty.
    this.#begin();
    this.#close();
  }

  #close(): void {
    this.#file?.close();
    this.#file = undefined;
  }
}
