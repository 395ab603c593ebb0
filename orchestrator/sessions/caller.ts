import type { Backoff } from "../../proto/base/backoff.ts";
import type { ServerRequest } from "./server_request.ts";
import type { Place } from "./start_queue.ts";

/** A caller that waits for its server. */
export interface Caller {
  readonly request: ServerRequest;
  /** Lower numbers came first. */
  readonly arrival: number;
  /** Aborted when the caller is gone, or the orchestrator is ending. */
  readonly signal: AbortSignal;
  /** The epoch of the start that the caller waits for, if any. */
  joined?: number;
  /**
   * The session's former agent was ended for this caller. Only once: two callers that replace each other would never
   * stop.
   */
  hasReplaced?: true;
  /** How often a start was retried for this caller. */
  retries: number;
  /** The backoff between retries. */
  readonly backoff: Backoff;
  /** Aborted when the caller has its answer. */
  readonly over: AbortController;
  /** Reports progress to this caller only. */
  say?(step: string): void;
  /** The caller's place in the queue for agents. */
  place?: Place;
}
