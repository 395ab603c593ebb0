/** The progress of a sync as the user sees it: nothing for a second, then a line per second, and a last line. */

/** Interval between lines, and time before the first, in milliseconds. */
const STEP_MS = 1_000;
/** The interval after this long when nothing can be counted, for example while a connection is lost. Milliseconds. */
const LONG_MS = 10_000;

/** The clock of {@link Progress}; tests replace it. */
export interface ProgressClock {
  now(): number;
}

/** The progress of one sync. It counts, and {@link Progress.tick} prints a line when one is due. */
export class Progress {
  readonly #say: (line: string) => void;
  readonly #clock: ProgressClock;
  readonly #verbs: { doing: string; done: string };
  readonly #began: number;
  #shown: number;
  #loud = false;
  /** What is done while the total is unknown, and how many entries were looked at. */
  #looking = "looking at the workspace";
  #looked = 0;
  #total?: { files: number; bytes: number; began: number; complete: boolean };
  #files = 0;
  #bytes = 0;
  /** The sums of earlier steps. */
  #before = { files: 0, bytes: 0 };

  /** @param say Receives lines with their newline. */
  constructor(
    say: (line: string) => void,
    clock: ProgressClock = performance,
    verbs = { doing: "syncing", done: "synced" },
  ) {
    this.#say = say;
    this.#clock = clock;
    this.#verbs = verbs;
    this.#began = clock.now();
    this.#shown = this.#began;
  }

  /** Begins a step of unknown length. @param what For example "looking at the workspace". */
  look(what: string): void {
    this.#looking = what;
    this.#looked = 0;
    this.#total = undefined;
  }

  /** Sets how many entries were looked at so far. */
  looked(entries: number): void {
    this.#looked = entries;
    this.tick();
  }

  /** Begins to send. The numbers are totals, or lower bounds if not `complete`. Bytes are uncompressed. */
  begin(files: number, bytes: number, { complete = true } = {}): void {
    this.#total = { files, bytes, began: this.#clock.now(), complete };
    this.#before = { files: this.#before.files + this.#files, bytes: this.#before.bytes + this.#bytes };
    this.#files = this.#bytes = 0;
  }

  /** Adds to the totals. */
  more(files: number, bytes: number): void {
    if (!this.#total) return;
    this.#total.files += files;
    this.#total.bytes += bytes;
  }

  /** The totals are final. */
  complete(): void {
    if (this.#total) this.#total.complete = true;
  }

  /** Adds to what was sent. */
  sent(files: number, bytes: number): void {
    this.#files += files;
    this.#bytes += bytes;
    this.tick();
  }

  /** Prints a line if one is due. Cheap enough to call often. */
  tick(): void {
    const now = this.#clock.now();
    const step = this.#total || this.#looked > 0 || now - this.#began < LONG_MS ? STEP_MS : LONG_MS;
    if (now - this.#shown < step) return;
    this.#shown = now;
    this.#loud = true;
    this.#say(`rbs: ${this.#line(now)}\n`);
  }

  /** Prints at once why it takes longer. */
  note(text: string): void {
    this.#say(`rbs: ${text}\n`);
    this.#loud = true;
  }

  /** Ends the sync. Prints a last line if a line was printed before. */
  finish(): void {
    if (!this.#loud) return;
    const seconds = ((this.#clock.now() - this.#began) / 1000).toFixed(1);
    // The sum of all steps: the last step may have sent only what changed in the meantime.
    const all = { files: this.#before.files + this.#files, bytes: this.#before.bytes + this.#bytes };
    const what = this.#total || all.files > 0
      ? `${this.#verbs.done} ${files(all.files)}, ${megabytes(all.bytes)} MB,`
      : this.#verbs.done;
    this.#say(`rbs: ${what} in ${seconds} s\n`);
  }

  #line(now: number): string {
    const total = this.#total;
    if (!total) {
      const counted = this.#looked > 0 ? `, ${files(this.#looked)}` : "";
      return `${this.#looking}${counted} ${((now - this.#began) / 1000).toFixed(1)}s`;
    }
    const least = total.complete ? "" : "at least ";
    const line = `${this.#verbs.doing} ${count(this.#files)} of ${least}${files(total.files)}, ` +
      `${megabytes(this.#bytes)} of ${megabytes(total.bytes)} MB`;
    // A small file costs about as much as 10 kB of a large one.
    const done = this.#bytes + this.#files * 10_000, all = total.bytes + total.files * 10_000;
    const elapsed = now - total.began;
    if (!total.complete || elapsed < 500 || done === 0 || done >= all) return line;
    return `${line}, ${Math.ceil(elapsed * (all - done) / done / 1000)} s left`;
  }
}

function files(n: number): string {
  return n === 1 ? "1 file" : `${count(n)} files`;
}

function count(n: number): string {
  return n.toLocaleString("en-US");
}

function megabytes(bytes: number): string {
  return count(Math.round(bytes / 1e6));
}
