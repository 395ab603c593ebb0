/** Notifies listeners of a key. */
export class ChangeFeed {
  readonly #listeners = new Map<string, Set<() => void>>();

  /** Calls `listener` at each {@link changed} of the key, in the order of registration. @returns stops that */
  watch(key: string, listener: () => void): () => void {
    const entry = () => listener();
    const listeners = this.#listeners.get(key) ?? new Set();
    this.#listeners.set(key, listeners.add(entry));
    return () => {
      listeners.delete(entry);
      if (listeners.size === 0 && this.#listeners.get(key) === listeners) this.#listeners.delete(key);
    };
  }

  changed(key: string): void {
    for (const listener of [...this.#listeners.get(key) ?? []]) listener();
  }
}
