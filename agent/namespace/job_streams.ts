/**
 * A job's standard input, output and error: three fifos in the control directory, and a process that carries their
 * bytes.
 *
 *     agent ── pipes ── carrier ══ fifos ══ job
 *
 * The agent makes and opens the fifos beneath the directory that it holds open, so that no other file is opened instead
 * and no open blocks. The carrier inherits them. In Deno itself, each would block a thread of the pool.
 */
import type { Beneath } from "../files/beneath.ts";
import { close, makeInheritable, O } from "../files/libc.ts";

const SUFFIXES = ["in", "out", "err"] as const;

/** The fifos of one job. */
export class JobStreams implements Disposable {
  /** A reader of the job's input: without a reader a fifo cannot be opened for writing. */
  #reader: number;
  readonly #ends: number[] = [];

  /** Makes the fifos of a job. Throws an Error. */
  constructor(folder: Beneath, id: number) {
    this.#reader = -1;
    try {
      for (const suffix of SUFFIXES) folder.mkfifo(`${id}.${suffix}`);
      this.#reader = folder.openFifo(`${id}.in`, O.RDWR);
      this.#ends.push(folder.openFifo(`${id}.in`, O.WRONLY));
      for (const suffix of ["out", "err"]) this.#ends.push(folder.openFifo(`${id}.${suffix}`, O.RDONLY));
    } catch (e) {
      this[Symbol.dispose]();
      throw e;
    }
  }

  /**
   * Starts the carrier, whose standard streams are the job's, and disposes of this object. Call it after the job has
   * opened its ends: a fifo that is not yet opened looks like one that was closed.
   */
  carry(): Deno.ChildProcess {
    const [input, output, error] = this.#ends;
    close(this.#reader);
    this.#reader = -1;
    for (const end of this.#ends) makeInheritable(end);
    try {
      return new Deno.Command("bash", {
        args: ["-c", carrier(input, output, error)],
        stdin: "piped",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
    } finally {
      this[Symbol.dispose]();
    }
  }

  [Symbol.dispose](): void {
    for (const fd of [this.#reader, ...this.#ends]) if (fd >= 0) close(fd);
    this.#reader = -1;
    this.#ends.length = 0;
  }
}

/** Each part holds only its own descriptors, so that each end of file is passed on. */
const carrier = (input: number, output: number, error: number) =>
  `trap 'kill $(jobs -p) 2>/dev/null' TERM
exec 3<&0 </dev/null
exec cat <&3 >&${input} 3<&- ${input}>&- ${output}<&- ${error}<&- 2>/dev/null &
exec 3<&- ${input}>&-
exec cat <&${output} ${output}<&- ${error}<&- 2>/dev/null &
exec ${output}<&-
exec cat <&${error} >&2 ${error}<&- &
exec >&- 2>&- ${error}<&-
wait
`;
