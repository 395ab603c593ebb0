import type { KeyedMutex } from "../../proto/base/keyed_mutex.ts";
import type { StepBoard } from "../agents/start_progress.ts";
import type { OwnLease } from "../peers/orchestrator_lease.ts";
import type { Caller } from "./caller.ts";
import type { IdleReaper } from "./idle_reaper.ts";
import type { SessionServiceOptions } from "./session_service_options.ts";
import type { StartQueue } from "./start_queue.ts";

/** What the parts of one SessionService share. */
export interface SessionContext {
  readonly options: SessionServiceOptions;
  /** This machine's clock: milliseconds since 1970. */
  readonly now: () => number;
  readonly lease: OwnLease;
  readonly steps: StepBoard;
  /** By the texts of sessions' keys: nothing is decided about a session without it. */
  readonly mutex: KeyedMutex;
  readonly reaper: IdleReaper;
  /** Undefined if there are no limits. */
  readonly queue?: StartQueue<Caller>;
  /** Aborted, with an RpcError for callers, when the orchestrator is ending. */
  readonly ending: AbortSignal;
}
