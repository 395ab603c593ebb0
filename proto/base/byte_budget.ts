/** A limit on bytes that several holders share. Bytes are counted before they are held. */

/** Counts bytes. */
export interface Meter {
  /** Counts more bytes. Returns false, and counts nothing, if there is no room. */
  take(bytes: number): boolean;
  /** Returns bytes that are no longer held. */
  give(bytes: number): void;
}

/** A budget that all holders share. */
export class ByteBudget implements Meter {
  readonly #limit: number;
  #held = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Number of bytes held. */
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

/** One holder's share, which can be returned as a whole. */
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

  /** Returns everything; nothing more can be taken. */
  release(): void {
    this.give(this.#held);
    this.#released = true;
  }
}
