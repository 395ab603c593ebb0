import { join } from "node:path";
import { makeOurs } from "../outputs/server_state.ts";

/**
 * `command.log` in the output base: the output of the last command. A Bazel server writes it locally; here the server
 * is on another machine, so the proxy writes it.
 */
export class CommandLog implements Disposable {
  readonly #outputBase: string;
  #file?: Deno.FsFile;
  #begun = false;

  /** The file is replaced at the first output, when the command is on its way. */
  constructor(outputBase: string) {
    this.#outputBase = outputBase;
  }

  /** Errors are ignored: a full disk must not fail the command. */
  #begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    const path = join(this.#outputBase, "command.log");
    try {
      // A new file, since a program may have the old one open, and the path may be a link of another mode.
      const fresh = join(makeOurs(this.#outputBase), `command.log.${Deno.pid}`);
      this.#file = Deno.openSync(fresh, { write: true, create: true, truncate: true, mode: 0o644 });
      Deno.renameSync(fresh, path);
    } catch {
      this.#close();
    }
  }

  /** Appends output of the command. */
  write(text: Uint8Array): void {
    this.#begin();
    try {
      for (let at = 0; this.#file && at < text.length;) at += this.#file.writeSync(text.subarray(at));
    } catch {
      this.#close();
    }
  }

  [Symbol.dispose](): void {
    // The log of a command without output is empty.
    this.#begin();
    this.#close();
  }

  #close(): void {
    this.#file?.close();
    this.#file = undefined;
  }
}
