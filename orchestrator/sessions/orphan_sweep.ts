import { unref } from "../../proto/base/timers.ts";
import { sentence } from "../../proto/base/errors.ts";
import type { Log } from "../../proto/base/log.ts";
import type { Session } from "../store/session.ts";
import type { SessionStore } from "../store/session_store.ts";

/** Options of {@link OrphanSweep}. */
export interface OrphanSweepOptions {
  readonly store: SessionStore;
  /** Milliseconds from the end of a sweep to the next. */
  readonly intervalMs: number;
  readonly log: Log;
  /** Moves a session on that nobody serves; any other one is left alone. */
  mend(session: Session): Promise<void>;
}

/**
 * Looks again and again for sessions whose agent nobody serves, so that they need not wait for their next caller: an
 * agent's end that could not be written (a full disk) would keep its room for ever, and be listed as a server.
 */
export class OrphanSweep {
  readonly #options: OrphanSweepOptions;
  #timer?: ReturnType<typeof setTimeout>;
  #stopped = false;

  constructor(options: OrphanSweepOptions) {
    this.#options = options;
  }

  /** The first sweep is one interval from now. */
  start(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => this.#sweep(), this.#options.intervalMs);
    // The timer alone is no reason for the program to go on.
    unref(this.#timer);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  async #sweep(): Promise<void> {
    const { store, log, mend } = this.#options;
    try {
      await Promise.all((await store.list()).map(mend));
    } catch (e) {
      log(`sessions without an agent could not be looked for: ${sentence(e)}`);
    }
    this.start();
  }
}
