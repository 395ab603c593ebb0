/**
 * Files that came in one piece, and are too large to be written by the way: other threads digest and write one while the
 * next ones come.
 */
import { PIECE_BYTES } from "../../proto/tree/read.ts";
import type { Part } from "./fetch.ts";

/** So many are on their way to the disk at most. */
const MAX_PLACING = 3;

/** See the file's head. `F` is what a file is known by. */
export class WholeFiles<F> {
  readonly #place: (file: F, content: Uint8Array<ArrayBuffer>) => Promise<void>;
  readonly #placing = new Set<Promise<void>>();
  #failure?: { error: unknown };

  /** @param place Puts a file in its place. Its content is lent until the promise is settled. */
  constructor(place: (file: F, content: Uint8Array<ArrayBuffer>) => Promise<void>) {
    this.#place = place;
  }

  /** Whether a part is a file for here. */
  wants({ content, first, more, offset = 0 }: Part): boolean {
    return first && !more && offset === 0 && content.length > PIECE_BYTES;
  }

  /**
   * Takes a file. Throws, or rejects, with what went wrong with this file or one before.
   *
   * @param release Called when the content is not needed any more.
   */
  add(file: F, content: Uint8Array<ArrayBuffer>, release: () => void): Promise<void> | undefined {
    if (this.#failure) throw this.#failure.error;
    const placing = this.#place(file, content)
      .catch((error) => void (this.#failure ??= { error }))
      .finally(() => {
        this.#placing.delete(placing);
        release();
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
