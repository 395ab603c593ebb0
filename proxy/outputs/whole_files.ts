/**
 * Files that are too large to be written by the way and small enough to be kept in memory: other threads digest and write
 * one while the next ones come.
 */
import type { Entry } from "../../proto/tree/entry.ts";
import { PIECE_BYTES } from "../../proto/tree/read.ts";

/** Larger ones are written piece by piece. Bytes. */
const MAX_BYTES = 8 << 20;
/** So many are on their way to the disk at most. */
const MAX_PLACING = 3;

/** See the file's head. `F` is what a file is known by. */
export class WholeFiles<F extends { readonly entry: Entry }> {
  readonly #place: (file: F, content: Uint8Array<ArrayBuffer>) => Promise<void>;
  readonly #placing = new Set<Promise<void>>();
  /** Memory that nobody uses. */
  readonly #spare: Uint8Array<ArrayBuffer>[] = [];
  #gathered?: { memory: Uint8Array<ArrayBuffer>; filled: number };
  #failure?: { error: unknown };

  /** @param place Puts a file in its place. Its content is lent until the promise is settled. */
  constructor(place: (file: F, content: Uint8Array<ArrayBuffer>) => Promise<void>) {
    this.#place = place;
  }

  /** Whether a file is one for here. */
  wants({ size }: Entry): boolean {
    return size > PIECE_BYTES && size <= MAX_BYTES;
  }

  /**
   * Takes a part of a file: its first, or what follows on the part before. Throws, or rejects, with what went wrong with
   * this file or one before.
   */
  add(
    file: F,
    { content, more, first }: { content: Uint8Array; more: boolean; first: boolean },
  ): Promise<void> | undefined {
    if (this.#failure) throw this.#failure.error;
    // Of a file that was cut off, too.
    const gathered = this.#gathered ??= { memory: this.#spare.pop() ?? new Uint8Array(MAX_BYTES), filled: 0 };
    if (first) gathered.filled = 0;
    gathered.memory.set(content, gathered.filled);
    gathered.filled += content.length;
    if (more) return;
    this.#gathered = undefined;
    const placing = this.#place(file, gathered.memory.subarray(0, gathered.filled))
      .catch((error) => void (this.#failure ??= { error }))
      .finally(() => {
        this.#placing.delete(placing);
        this.#spare.push(gathered.memory);
      });
    this.#placing.add(placing);
    if (this.#placing.size >= MAX_PLACING) return Promise.race(this.#placing);
  }

  /** Resolves when nothing is on its way any more, be it in place or not: whoever comes next finds nobody at work. */
  async settled(): Promise<void> {
    await Promise.all(this.#placing);
  }

  /** Waits until all is in place. */
  async finish(): Promise<void> {
    await this.settled();
    if (this.#failure) throw this.#failure.error;
  }
}
