/**
 * Writes files that a command's options name, while the command runs. The content goes into the existing file, so that
 * a reader sees it grow, and into pipes.
 */
import { dirname } from "node:path";
import type { RbsError } from "../../proto/base/errors.ts";
import { bytesValue, scanFields, varintValue } from "../../proto/base/protobuf_fields.ts";
import { decodeName } from "../../proto/tree/names.ts";
import { refusal, unwritable } from "./allowed_paths.ts";
import type { NamedTarget } from "./named_targets.ts";

/** Bytes waiting for the readers of pipes at which the command is held back. */
const MAX_WAITING = 32 << 20;

/** A file or pipe that is being written. */
interface Open {
  target: NamedTarget;
  at: number;
  file?: Deno.FsFile;
  /** Writing failed, and nothing more is written. */
  failed?: boolean;
  /** No more content comes. */
  ended?: boolean;
  /** Pipe only: opening it waits for a reader. */
  opening?: boolean;
  /** Pipe only: settles when everything taken so far is written. */
  written: Promise<void>;
}

/** Writes the parts of named files as they arrive. */
export class NamedStreams implements Disposable {
  readonly #open = new Map<string, Open>();
  readonly #signal: AbortSignal;
  #waiting = 0;
  #room?: PromiseWithResolvers<void>;

  /** @param signal Aborted by Ctrl-C: then a pipe without a reader is no longer waited for. */
  constructor(targets: readonly NamedTarget[], signal: AbortSignal) {
    this.#signal = signal;
    for (const target of targets) {
      if (target.real !== undefined) this.#open.set(target.path, { target, at: 0, written: Promise.resolve() });
    }
  }

  /**
   * Takes an encoded NamedPart. Throws an RbsError for a part that no honest agent sends. A file that cannot be written
   * is not an error here: it comes again at the end, with its error.
   */
  take(part: Uint8Array): Promise<void> | undefined {
    let path = "", offset = 0, content: Uint8Array = new Uint8Array();
    scanFields(part, (field) => {
      if (field.number === 1 && field.wireType === 2) path = decodeName(bytesValue(part, field));
      else if (field.number === 2 && field.wireType === 0) offset = varintValue(part, field);
      else if (field.number === 3 && field.wireType === 2) content = bytesValue(part, field);
    });
    const open = this.#open.get(path);
    if (!open) return;
    const { target } = open;
    // Offset 0 starts a file again. What was written to a pipe cannot be taken back.
    if (offset === 0 && target.kind === "file") this.#close(open);
    else if (offset !== open.at) throw refusal(path, `goes on at ${offset} and not at ${open.at}`);
    open.at = offset + content.length;
    if (open.failed) return;
    if (target.kind === "stream") return this.#pipe(open, content.slice());
    try {
      if (!open.file) {
        Deno.mkdirSync(dirname(target.real!), { recursive: true });
        open.file = Deno.openSync(target.real!, { write: true, create: true, truncate: true });
      }
      for (let at = 0; at < content.length;) at += open.file.writeSync(content.subarray(at));
    } catch {
      open.failed = true;
      this.#close(open);
    }
  }

  /**
   * Waits until everything is written.
   * @returns the errors of pipes whose readers have closed them
   */
  async finish(): Promise<RbsError[]> {
    const errors: RbsError[] = [];
    for (const open of this.#open.values()) {
      const isWritten = await this.#unlessAborted(open.written);
      if (isWritten && open.failed && open.target.kind === "stream") {
        errors.push(unwritable(open.target.path, "who reads it does not want more"));
      }
      this.#end(open);
    }
    return errors;
  }

  /**
   * Ends without waiting for what is unfinished: after a failed command nothing more is written, and readers of pipes
   * see the end.
   */
  [Symbol.dispose](): void {
    for (const open of this.#open.values()) this.#end(open);
    this.#room?.resolve();
  }

  #end(open: Open): void {
    if (open.ended) return;
    open.ended = true;
    if (open.opening) release(open);
    this.#close(open);
  }

  #pipe(open: Open, content: Uint8Array<ArrayBuffer>): Promise<void> | undefined {
    this.#waiting += content.length;
    open.written = open.written.then(async () => {
      try {
        if (!open.failed && !open.ended && !open.file) {
          // Waits for a reader, as a Bazel server does.
          open.opening = true;
          open.file = await Deno.open(open.target.real!, { write: true }).finally(() => open.opening = false);
        }
        if (open.ended) this.#close(open);
        for (let at = 0; !open.failed && !open.ended && at < content.length;) {
          at += await open.file!.write(content.subarray(at));
        }
      } catch {
        open.failed = true;
      }
      this.#waiting -= content.length;
      if (this.#waiting <= MAX_WAITING) this.#room?.resolve();
    });
    if (this.#waiting <= MAX_WAITING) return undefined;
    this.#room = Promise.withResolvers();
    return this.#unlessAborted(this.#room.promise).then(() => {});
  }

  /** @returns whether the work has ended */
  async #unlessAborted(work: Promise<void>): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<false>();
    const abort = () => resolve(false);
    this.#signal.addEventListener("abort", abort);
    if (this.#signal.aborted) abort();
    try {
      return await Promise.race([work.then(() => true), promise]);
    } finally {
      this.#signal.removeEventListener("abort", abort);
    }
  }

  #close(open: Open): void {
    const { file } = open;
    open.file = undefined;
    try {
      file?.close();
    } catch { /* it is being written to, and ends with this process */ }
  }
}

/** Unblocks the opening of a pipe by opening it for reading until then. The opening may not have begun yet. */
function release({ target, written }: Open): void {
  try {
    const reader = Deno.openSync(target.real!, { read: true, write: true });
    void written.finally(() => reader.close());
  } catch { /* it is gone */ }
}
