/**
 * Lets one decision per key happen at a time. The store's compare-and-swap is what makes decisions safe; this only
 * spares a thousand callers of one key a thousand lost races each.
 */
export class KeyedMutex {
  readonly #tails = new Map<string, Promise<unknown>>();

  /** Runs `decide` after those that came before it for the key, whether they threw or not. */
  async run<T>(key: string, decide: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const mine = before.then(decide, decide);
    const tail = mine.catch(() => {});
    this.#tails.set(key, tail);
    try {
      return await mine;
    } finally {
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }
}
