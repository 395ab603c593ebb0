/**
 * A job's standard input, output and error: three fifos in the control directory, and the process that carries them.
 *
 *     agent ── pipes ── carrier ══ fifos ══ job
 *
 * The agent makes and opens the fifos beneath the folder that it holds, so that nothing else is opened in their place,
 * and nobody is waited for; the carrier inherits them. Deno itself would block a thread of its pool for each.
 */
import type { Beneath } from "../files/beneath.ts";
import { close, makeInheritable, O } from "../files/libc.ts";

const SUFFIXES = ["in", "out", "err"] as const;

/** See the file's head. */
export class JobStreams implements Disposable {
  /** Of the job's input: a reader too, since a fifo without one cannot be opened for writing. */
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
   * Starts the carrier; its standard streams are the job's. Call it when the job has opened its ends: what nobody has
   * opened yet looks like what everybody has closed. Disposes of this.
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

/** Each part holds its own descriptors only, so that an end is the end. */
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
