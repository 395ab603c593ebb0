/**
 * Tells where file systems are mounted, moved and unmounted on this machine: what is watched below such a place is
 * something else then, and no watcher of folders says so. By findmnt(8) of util-linux, since Deno lets no sandboxed
 * program into /proc; where there is none, only a sweep finds such changes.
 */
import { Buffer } from "node:buffer";
import { decodeName } from "../../proto/tree/names.ts";

/** Ends with its standard input, however the proxy ends; and says by the end of its output that it cannot. */
const SCRIPT =
  `findmnt --poll=mount,umount,move --raw --noheadings --output ACTION,OLD-TARGET,TARGET & exec >/dev/null; read -r _; kill $(jobs -pr)`;

/** See the file's head. */
export class MountWatch implements Disposable {
  readonly #onChange: (path: string) => void;
  #process?: Deno.ChildProcess;
  /** It cannot be watched here. */
  #isVain = false;

  /** @param onChange Told of a mount point, absolute: what was at and below it is another. */
  constructor(onChange: (path: string) => void) {
    this.#onChange = onChange;
  }

  /** Begins to watch, unless it does already. What happens in the first moments may be missed. Never throws. */
  start(): void {
    if (this.#process || this.#isVain) return;
    try {
      this.#process = new Deno.Command("bash", {
        args: ["-p", "-c", SCRIPT],
        env: { LC_ALL: "C" },
        stdin: "piped",
        stdout: "piped",
        stderr: "null",
      }).spawn();
    } catch {
      this.#isVain = true;
      return;
    }
    this.#process.unref();
    void this.#read(this.#process);
  }

  /** Stops watching, until it is started again. */
  close(): void {
    this.#process?.stdin.close().catch(() => {});
    this.#process = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #read(process: Deno.ChildProcess): Promise<void> {
    let rest = "";
    try {
      for await (const chunk of process.stdout) {
        const lines = (rest + Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length).toString("latin1")).split("\n");
        rest = lines.pop()!;
        for (const line of lines) {
          // The action, where it was mounted before, and where it is now: one of the two may be empty.
          for (const point of new Set(line.split(" ").slice(1))) if (point !== "") this.#onChange(unescaped(point));
        }
      }
    } catch { /* it was closed */ }
    // No findmnt, or one that cannot do it: it would end the same way again.
    if (this.#process !== process) return;
    this.#isVain = true;
    this.close();
  }
}

/** @param text Of Latin-1; bytes that could be taken for something else are written as `\xHH`. */
function unescaped(text: string): string {
  const bytes = text.replace(/\\x([0-9a-fA-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  return decodeName(Buffer.from(bytes, "latin1"));
}
