/** How many commands run in this session, whichever way they came. */
export class Activity {
  #running = 0;
  #begun = 0;
  readonly #listeners = new Set<(running: number) => void>();

  /** The number of commands that run now. */
  get running(): number {
    return this.#running;
  }

  /** The number of commands that have begun so far. */
  get begun(): number {
    return this.#begun;
  }

  /** Counts a command until what it returns is disposed of; disposing twice counts once. */
  begin(): Disposable {
    this.#begun++;
    this.#change(+1);
    let ended = false;
    return {
      [Symbol.dispose]: () => {
        if (ended) return;
        ended = true;
        this.#change(-1);
      },
    };
  }

  /** Calls `listener` with the new number after each change, until what it returns is disposed of. */
  onChange(listener: (running: number) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  #change(by: number): void {
    this.#running += by;
    for (const listener of this.#listeners) listener(this.#running);
  }
}
