/**
 * Reports file systems that are mounted, moved and unmounted on this machine. Such a change replaces what is below the
 * mount point, and no watcher of directories reports it. Uses findmnt(8) of util-linux, since Deno gives no sandboxed
 * program access to /proc. Without findmnt, only the sweep finds such changes.
 */
import { Buffer } from "node:buffer";
import { decodeName } from "../../proto/tree/names.ts";

/** The script exits when its standard input is closed, however the proxy ends. When findmnt fails, the output ends. */
const SCRIPT =
  `findmnt --poll=mount,umount,move --raw --noheadings --output ACTION,OLD-TARGET,TARGET & exec >/dev/null; read -r _; kill $(jobs -pr)`;

/** Reports mount points by `findmnt --poll`. */
export class MountWatch implements Disposable {
  readonly #onChange: (path: string) => void;
  #process?: Deno.ChildProcess;
  /** findmnt does not work here. */
  #isVain = false;

  /** @param onChange Called with an absolute mount point at which, and below which, everything may differ. */
  constructor(onChange: (path: string) => void) {
    this.#onChange = onChange;
  }

  /** Starts watching if it is not running. Mounts in the first moments may be missed. Never throws. */
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
          // The fields are the action, the old mount point and the new one. One of the two may be empty.
          for (const point of new Set(line.split(" ").slice(1))) if (point !== "") this.#onChange(unescaped(point));
        }
      }
    } catch { /* it was closed */ }
    // findmnt is missing or cannot poll; another attempt would end the same way.
    if (this.#process !== process) return;
    this.#isVain = true;
    this.close();
  }
}

/** Decodes findmnt's escapes: it writes ambiguous bytes as `\xHH`. @param text Latin-1, one character per byte. */
function unescaped(text: string): string {
  const bytes = text.replace(/\\x([0-9a-fA-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  return decodeName(Buffer.from(bytes, "latin1"));
}
