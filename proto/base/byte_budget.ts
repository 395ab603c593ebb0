/** What several holders may hold together, counted before they hold it. */

/** Counts bytes. */
export interface Meter {
  /** Counts more bytes. False: there is no room, and nothing was counted. */
  take(bytes: number): boolean;
  /** Says that bytes are not held any more. */
  give(bytes: number): void;
}

/** See the file's head. */
export class ByteBudget implements Meter {
  readonly #limit: number;
  #held = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** The bytes that are held. */
  get held(): number {
    return this.#held;
  }

  take(bytes: number): boolean {
    if (bytes > this.#limit - this.#held) return false;
    this.#held += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#held -= bytes;
  }
}

/** The part of one holder, which can give back all of it. */
export class Holding implements Meter {
  readonly #meter: Meter;
  #held = 0;
  #released = false;

  constructor(meter: Meter) {
    this.#meter = meter;
  }

  take(bytes: number): boolean {
    if (this.#released || !this.#meter.take(bytes)) return false;
    this.#held += bytes;
    return true;
  }

  give(bytes: number): void {
    if (this.#released) return;
    this.#held -= bytes;
    this.#meter.give(bytes);
  }

  /** Nothing is held any more, nor can be. */
  release(): void {
    this.give(this.#held);
    this.#released = true;
  }
}
