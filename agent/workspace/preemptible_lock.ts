import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";

/** When others wait, a caller that is silent for this long is assumed to be gone. Milliseconds. */
const QUIET_MS = 2_000;

/** A caller that wants a turn. */
export interface Caller {
  /** Epoch of the caller's takeover of the session. */
  epoch: number;
  /** Aborted when the call is cut off. */
  gone: AbortSignal;
}

/**
 * Serializes calls. The next call waits until the present one is over, loses its connection or falls silent. A call of
 * a newer epoch preempts an older one at once when that waits for its caller.
 */
export class Turns {
  readonly #quietMs: number;
  #present?: Turn;

  /** @param quietMs For tests. */
  constructor(quietMs = QUIET_MS) {
    this.#quietMs = quietMs;
  }

  /** Waits for a turn, which the caller must dispose of. Throws the reason of `caller.gone`. */
  async take(caller: Caller): Promise<Turn> {
    const gone = Promise.withResolvers<void>();
    const leave = () => gone.resolve();
    caller.gone.addEventListener("abort", leave);
    try {
      for (;;) {
        caller.gone.throwIfAborted();
        const present = this.#present;
        if (!present) return this.#present = new Turn(caller, () => this.#present = undefined);
        if (caller.epoch > present.caller.epoch || present.quietMs >= this.#quietMs) present.giveWay();
        // The present caller may fall silent later.
        const { promise, resolve } = Promise.withResolvers<void>();
        const timer = setTimeout(resolve, present.givesWay ? 60_000 : this.#quietMs / 2);
        await Promise.race([present.over, gone.promise, promise]);
        clearTimeout(timer);
      }
    } finally {
      caller.gone.removeEventListener("abort", leave);
    }
  }
}

/** A turn of {@link Turns}. */
export class Turn implements Disposable {
  readonly #end = Promise.withResolvers<void>();
  readonly #cut = Promise.withResolvers<never>();
  readonly #onEnd: () => void;
  #listeningSince?: number;
  /** Another call waits for this turn to end. */
  givesWay = false;

  /** @ignore */
  constructor(readonly caller: Caller, onEnd: () => void) {
    this.#onEnd = onEnd;
    this.#cut.promise.catch(() => {});
  }

  /** Resolves when the turn has ended. */
  get over(): Promise<void> {
    return this.#end.promise;
  }

  /** How long the turn has been waiting for its caller, in milliseconds. */
  get quietMs(): number {
    return this.#listeningSince === undefined ? 0 : performance.now() - this.#listeningSince;
  }

  /** Waits for the caller's next message. Throws a {@link StatusError} (UNAVAILABLE) when another call preempts it. */
  async listen<T>(message: Promise<T>): Promise<T> {
    this.#listeningSince = performance.now();
    message.catch(() => {});
    try {
      return await Promise.race([this.#cut.promise, message]);
    } finally {
      this.#listeningSince = undefined;
    }
  }

  /** Ends the turn as soon as it waits for its caller. */
  giveWay(): void {
    this.givesWay = true;
    this.#cut.reject(new StatusError(Status.UNAVAILABLE, "Another call took the place of this one, which was silent."));
  }

  [Symbol.dispose](): void {
    this.#onEnd();
    this.#end.resolve();
  }
}
