import type { SessionStatus } from "./session.ts";

/** A session's place in its life. NONE: the store has no row for the key. */
export type SessionState = SessionStatus | "NONE";

/** What can happen to a session. */
export type SessionEvent =
  /** A caller wants a server and an agent is being started for it. */
  | "start"
  /** The agent's process listens; it may not be able to serve yet. */
  | "listening"
  /** The agent says that it takes commands. */
  | "ready"
  /** Another session id owns the warm agent from now on. */
  | "takeOver"
  /** The orchestrator that held the session is gone, and another holds it from now on. */
  | "adopt"
  /** The agent could not start, or is gone. */
  | "fail"
  /** Release, idle expiry, other startup options, or the orchestrator's own end: the agent is being ended. */
  | "stop"
  /** The agent has ended. */
  | "stopped"
  /** A failure is forgotten. */
  | "forget";

/** Where an event leads. */
export interface Transition {
  readonly to: SessionState;
  /** Whether calls with the former epoch are to be refused from now on. */
  readonly raisesEpoch?: true;
  /** Only where the orchestrator that holds the session has no lease any more. */
  readonly ofOrphans?: true;
}

/**
 * The whole life of a session. An event that is not listed for a state cannot happen in it.
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
    // Said again by an agent whose connection was made anew.
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

/** Where `event` leads from `state`. Throws a TypeError when it cannot happen there: a fault of our own. */
export function transition(state: SessionState, event: SessionEvent): Transition {
  const found = TRANSITIONS[state][event];
  if (!found) throw new TypeError(`the event ${event} cannot happen in the state ${state}`);
  return found;
}
