import type { SessionStatus } from "./session.ts";

/** A session's state. NONE: the store has no row for the key. */
export type SessionState = SessionStatus | "NONE";

/** What can happen to a session. */
export type SessionEvent =
  /** A caller requests a server, and an agent is being started for it. */
  | "start"
  /** The agent's process listens; it may not serve yet. */
  | "listening"
  /** The agent reports that it takes commands. */
  | "ready"
  /** Another session id owns the warm agent from now on. */
  | "takeOver"
  /** The session's holder is gone, and another orchestrator holds it from now on. */
  | "adopt"
  /** The agent could not start, or is gone. */
  | "fail"
  /** Release, idle expiry, other startup options, or the orchestrator's end: the agent is being ended. */
  | "stop"
  /** The agent has ended. */
  | "stopped"
  /** A failure is forgotten. */
  | "forget";

/** The result of an event. */
export interface Transition {
  readonly to: SessionState;
  /** Whether calls with the former epoch are refused from now on. */
  readonly raisesEpoch?: true;
  /** Only if the session's holder no longer has a lease. */
  readonly ofOrphans?: true;
}

/**
 * All transitions of a session. An event that is not listed for a state cannot happen in it.
 *
 *     NONE ── start ──> PENDING ── ready ──> READY ── stop ──> STOPPING ── stopped ──> NONE
 *                        │   └──── stop ───────────────────────>┘
 *                        └─ fail ─> FAILED <─ fail ─ READY
 *                                   FAILED ── start ──> PENDING
 */
export const TRANSITIONS: Readonly<Record<SessionState, Readonly<Partial<Record<SessionEvent, Transition>>>>> = {
  NONE: {
    start: { to: "PENDING", raisesEpoch: true },
  },
  PENDING: {
    listening: { to: "PENDING" },
    adopt: { to: "PENDING", ofOrphans: true },
    ready: { to: "READY" },
    fail: { to: "FAILED" },
    stop: { to: "STOPPING" },
  },
  READY: {
    // An agent that has reconnected reports it again.
    ready: { to: "READY" },
    takeOver: { to: "READY", raisesEpoch: true },
    adopt: { to: "READY", ofOrphans: true },
    fail: { to: "FAILED" },
    stop: { to: "STOPPING" },
  },
  STOPPING: {
    adopt: { to: "STOPPING", ofOrphans: true },
    stopped: { to: "NONE" },
  },
  FAILED: {
    start: { to: "PENDING", raisesEpoch: true },
    forget: { to: "NONE" },
  },
};

/** The transition of `event` in `state`. Throws a TypeError, for a bug, if the event cannot happen there. */
export function transition(state: SessionState, event: SessionEvent): Transition {
  const found = TRANSITIONS[state][event];
  if (!found) throw new TypeError(`the event ${event} cannot happen in the state ${state}`);
  return found;
}
