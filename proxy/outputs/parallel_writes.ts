/**
 * Writes files that arrive in one piece and are large: other threads digest and write one while the next ones arrive.
 */
import { PIECE_BYTES } from "../../proto/tree/read.ts";
import type { Part } from "./fetch.ts";

/** Maximum number of concurrent writes. */
const MAX_PLACING = 3;

/** Writes large files in parallel. `F` identifies a file. */
export class WholeFiles<F> {
  readonly #place: (file: F, content: Uint8Array<ArrayBuffer>) => Promise<void>;
  readonly #placing = new Set<Promise<void>>();
  #failure?: { error: unknown };

  /** @param place Puts a file in place. The content is valid until its promise is settled. */
  constructor(place: (file: F, content: Uint8Array<ArrayBuffer>) => Promise<void>) {
    this.#place = place;
  }

  /** Whether a part is a complete large file. */
  wants({ content, first, more, offset = 0 }: Part): boolean {
    return first && !more && offset === 0 && content.length > PIECE_BYTES;
  }

  /**
   * Starts to write a file. Throws or rejects with the error of this file or an earlier one.
   *
   * @param release Called when the content is no longer used.
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

  /** Resolves when no write is in progress, whether or not they succeeded. */
  async settled(): Promise<void> {
    await Promise.all(this.#placing);
  }

  /** Waits until all files are in place. Rejects with the first error. */
  async finish(): Promise<void> {
    await this.settled();
    if (this.#failure) throw this.#failure.error;
  }
}
