import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";

/** A caller that says nothing for so long, while somebody else waits, may be gone without our knowing. Milliseconds. */
const QUIET_MS = 2_000;

/** Who wants a turn. */
export interface Caller {
  /** Of its takeover of the session. */
  epoch: number;
  /** Aborted when its call is cut off. */
  gone: AbortSignal;
}

/**
 * One call at a time. The next one waits until the present one is over, its connection is lost, or it falls silent; a
 * call of a newer epoch does not wait for an older one to say more.
 */
export class Turns {
  readonly #quietMs: number;
  #present?: Turn;

  /** @param quietMs For tests. */
  constructor(quietMs = QUIET_MS) {
    this.#quietMs = quietMs;
  }

  /** Waits for its turn; dispose of it. Throws the reason of `caller.gone`. */
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
        // It may fall silent later.
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

/** See {@link Turns}. */
export class Turn implements Disposable {
  readonly #end = Promise.withResolvers<void>();
  readonly #cut = Promise.withResolvers<never>();
  readonly #onEnd: () => void;
  #listeningSince?: number;
  /** It was asked to end. */
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

  /** How long it has been waiting for its caller, in milliseconds. */
  get quietMs(): number {
    return this.#listeningSince === undefined ? 0 : performance.now() - this.#listeningSince;
  }

  /** Waits for the caller's next message. Throws a {@link StatusError} (UNAVAILABLE) when another call has the turn. */
  async listen<T>(message: Promise<T>): Promise<T> {
    this.#listeningSince = performance.now();
    message.catch(() => {});
    try {
      return await Promise.race([this.#cut.promise, message]);
    } finally {
      this.#listeningSince = undefined;
    }
  }

  /** Ends it as soon as it listens. */
  giveWay(): void {
    this.givesWay = true;
    this.#cut.reject(new StatusError(Status.UNAVAILABLE, "Another call took the place of this one, which was silent."));
  }

  [Symbol.dispose](): void {
    this.#onEnd();
    this.#end.resolve();
  }
}
