/**
 * Serializes decisions per key. The store's compare-and-swap makes decisions safe; the mutex only spares a thousand
 * callers of one key a thousand lost races each.
 */
export class KeyedMutex {
  readonly #tails = new Map<string, Promise<unknown>>();

  /** Runs `decide` after earlier calls for the key have settled. */
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
