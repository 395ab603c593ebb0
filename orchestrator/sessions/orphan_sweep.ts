import { unref } from "../../proto/base/timers.ts";
import { sentence } from "../../proto/base/errors.ts";
import type { ComputeService } from "../compute/compute_service.ts";
import type { Log } from "../../proto/base/log.ts";
import type { Session } from "../store/session.ts";
import type { SessionStore } from "../store/session_store.ts";

/** Options of {@link OrphanSweep}. */
export interface OrphanSweepOptions {
  readonly store: SessionStore;
  /** Pause between two sweeps, in milliseconds. */
  readonly intervalMs: number;
  readonly log: Log;
  /** Recovers a session if its agent is not served; leaves others alone. */
  mend(session: Session): Promise<void>;
  /** Has what agents left behind. */
  readonly compute: Pick<ComputeService, "sweep">;
}

/**
 * Looks periodically for sessions whose agent is not served, so that they do not wait for their next caller. Otherwise
 * an agent's end that could not be written (a full disk) would occupy its room forever, and be listed as a server. Also
 * removes what agents that are gone have left.
 */
export class OrphanSweep {
  readonly #options: OrphanSweepOptions;
  #timer?: ReturnType<typeof setTimeout>;
  #stopped = false;
  #clearing = false;

  constructor(options: OrphanSweepOptions) {
    this.#options = options;
  }

  /** Starts: removes what agents have left now, and looks for sessions one interval from now. */
  start(): void {
    void this.#clearUp();
    this.#schedule();
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => this.#sweep(), this.#options.intervalMs);
    // The timer alone must not keep the program running.
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
    void this.#clearUp();
    this.#schedule();
  }

  /** Sessions do not wait for it: an agent's user can make each removal last for a minute. Never rejects. */
  async #clearUp(): Promise<void> {
    const { compute, log } = this.#options;
    if (this.#clearing) return;
    this.#clearing = true;
    await compute.sweep().catch((e) => log(`what former agents have left could not be removed: ${sentence(e)}`));
    this.#clearing = false;
  }
}
