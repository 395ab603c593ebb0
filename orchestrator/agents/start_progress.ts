import { keyText, type SessionKey } from "../store/session.ts";

/** Shows those who wait for a session how far its start has come. Nothing of it is kept. */
export class StepBoard {
  readonly #latest = new Map<string, string>();
  readonly #readers = new Map<string, Set<(step: string) => void>>();

  /** Tells all readers of the key; the same step twice in a row counts once. */
  publish(key: SessionKey, step: string): void {
    const text = keyText(key);
    if (this.#latest.get(text) === step) return;
    this.#latest.set(text, step);
    for (const read of [...this.#readers.get(text) ?? []]) read(step);
  }

  /** Forgets the key's latest step: its start is over. */
  clear(key: SessionKey): void {
    this.#latest.delete(keyText(key));
  }

  /** Calls `read` with the latest step, if any, and with each that follows. @returns the end of it */
  read(key: SessionKey, read: (step: string) => void): () => void {
    const text = keyText(key);
    const entry = (step: string) => read(step);
    const readers = this.#readers.get(text) ?? new Set();
    this.#readers.set(text, readers.add(entry));
    const latest = this.#latest.get(text);
    if (latest !== undefined) entry(latest);
    return () => {
      readers.delete(entry);
      if (readers.size === 0 && this.#readers.get(text) === readers) this.#readers.delete(text);
    };
  }
}
