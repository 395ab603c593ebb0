import { keyText, type SessionKey } from "./session.ts";

/** Tells those who wait for a key that something happened to it. */
export class ChangeFeed {
  readonly #listeners = new Map<string, Set<() => void>>();

  /** Calls `listener` at each {@link changed} of the key, in the order of watching. @returns the end of it */
  watch(key: SessionKey, listener: () => void): () => void {
    const text = keyText(key);
    const entry = () => listener();
    const listeners = this.#listeners.get(text) ?? new Set();
    this.#listeners.set(text, listeners.add(entry));
    return () => {
      listeners.delete(entry);
      if (listeners.size === 0 && this.#listeners.get(text) === listeners) this.#listeners.delete(text);
    };
  }

  changed(key: SessionKey): void {
    for (const listener of [...this.#listeners.get(keyText(key)) ?? []]) listener();
  }
}
