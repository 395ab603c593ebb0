import { unref } from "../../proto/base/timers.ts";
import { sentence } from "../../proto/base/errors.ts";
import type { ComputeService } from "../compute/compute_service.ts";
import type { Log } from "../log.ts";
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
  /** Has what agents left behind. */
  readonly compute: Pick<ComputeService, "sweep">;
}

/**
 * Looks again and again for sessions whose agent nobody serves, so that they need not wait for their next caller: an
 * agent's end that could not be written (a full disk) would keep its room for ever, and be listed as a server. What agents
 * that are gone have left is removed, too.
 */
export class OrphanSweep {
  readonly #options: OrphanSweepOptions;
  #timer?: ReturnType<typeof setTimeout>;
  #stopped = false;

  constructor(options: OrphanSweepOptions) {
    this.#options = options;
  }

  /** What agents have left is removed now; sessions are looked for one interval from now. */
  start(): void {
    void this.#clearUp();
    this.#schedule();
  }

  #schedule(): void {
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
    await this.#clearUp();
    this.#schedule();
  }

  /** Never rejects. */
  async #clearUp(): Promise<void> {
    const { compute, log } = this.#options;
    await compute.sweep().catch((e) => log(`what former agents have left could not be removed: ${sentence(e)}`));
  }
}
