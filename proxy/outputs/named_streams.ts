/**
 * Files that a command's options name, written while the command runs: what the agent sends of them goes to the file that
 * is there already, so that who follows it sees it grow, and into pipes.
 */
import { dirname } from "node:path";
import type { RbsError } from "../../proto/base/errors.ts";
import { bytesValue, scanFields, varintValue } from "../../proto/base/protobuf_fields.ts";
import { decodeName } from "../../proto/tree/names.ts";
import { refusal, unwritable } from "./allowed_paths.ts";
import type { NamedTarget } from "./named_targets.ts";

/** Of what waits for the readers of pipes. More holds the command back. Bytes. */
const MAX_WAITING = 32 << 20;

/** A file that is being written, or a pipe. */
interface Open {
  target: NamedTarget;
  at: number;
  file?: Deno.FsFile;
  /** Nothing more is written: it could not be. */
  failed?: boolean;
  /** Nothing more is to come. */
  ended?: boolean;
  /** Of a pipe: it waits for a reader. */
  opening?: boolean;
  /** Of a pipe: all that was taken is written. */
  written: Promise<void>;
}

/** See the file's head. */
export class NamedStreams implements Disposable {
  readonly #open = new Map<string, Open>();
  readonly #signal: AbortSignal;
  #waiting = 0;
  #room?: PromiseWithResolvers<void>;

  /** @param signal Ctrl-C: a pipe that nobody reads is not waited for any more. */
  constructor(targets: readonly NamedTarget[], signal: AbortSignal) {
    this.#signal = signal;
    for (const target of targets) {
      if (target.real !== undefined) this.#open.set(target.path, { target, at: 0, written: Promise.resolve() });
    }
  }

  /**
   * Takes an encoded NamedPart. Throws an RbsError for one that no honest agent sends; a file that cannot be written is
   * none: it comes at the end, and then its error does.
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
    // The same file from its beginning; in a pipe nothing can be taken back.
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

  /** Waits until all is written. @returns the errors of pipes whose readers do not want more */
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
   * Ends without waiting what was not finished: of a command that broke, nothing more is written, and who reads a pipe of
   * it sees its end.
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
          // It waits for a reader, as a Bazel server does.
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

  /** @returns whether it has come to its end */
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

/** Ends the wait for a pipe's reader, by being one until the wait is over: perhaps it has not even begun. */
function release({ target, written }: Open): void {
  try {
    const reader = Deno.openSync(target.real!, { read: true, write: true });
    void written.finally(() => reader.close());
  } catch { /* it is not there any more */ }
}
