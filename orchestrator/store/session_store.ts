import type { AgentLimits } from "./agent_limits.ts";
import type { Session, SessionFields, SessionKey } from "./session.ts";
import type { SessionEvent, SessionState } from "./state_machine.ts";
import type { WarmClaim } from "./warm_agent_store.ts";

/** What a transition expects to find; if the store holds anything else, nothing is changed. */
export interface Expected extends SessionKey {
  readonly state: SessionState;
  /** Ignored for NONE. */
  readonly epoch: number;
  /** Only if this orchestrator holds it. Ignored for NONE. @default whoever does */
  readonly holder?: string;
  /**
   * For "start" only: that there is room for one more agent. Looked at in the same transaction as the rest, so that any
   * number of starts at once, also of several orchestrators, never exceed it. @default no limits
   */
  readonly limits?: AgentLimits;
  /**
   * For "start" only: a warm agent of these is taken in the same transaction, if there is one, rather one that waits than
   * one that is being started. Its endpoint and id are the session's then, whatever the change says.
   */
  readonly claim?: WarmClaim;
}

/** The values that a transition sets. */
export type SessionChange = Partial<SessionFields>;

/**
 * The sessions, and the only truth about them. Each change is a compare-and-swap on (key, epoch, status) that follows
 * the state machine, so that any number of callers may race for it.
 *
 * Every method throws an RbsError when the storage fails.
 */
export interface SessionStore {
  /** The session of a key, or undefined. */
  get(key: SessionKey): Promise<Session | undefined>;
  /** All sessions, or those of a user, oldest first. */
  list(userId?: string): Promise<Session[]>;
  /**
   * Lets `event` happen to the session, if it still is what is expected, and durably so.
   *
   * @param change Must be complete for the event "start". A `holder` raises the term unless it is the same as before. One
   *   that is not empty must have a lease, or nothing happens.
   * @returns The session after it (for an event that leads to NONE: as it last was); undefined if another was faster, or
   *   there is no room, or a holder is not what it must be.
   */
  transition(expected: Expected, event: SessionEvent, change?: SessionChange): Promise<Session | undefined>;
  /**
   * Notes that a PENDING or READY session is in use.
   *
   * @param sessionId Only if the session has this id; undefined: whatever id it has.
   * @param at Milliseconds since 1970; an older time than the noted one changes nothing.
   * @returns Whether there is such a session.
   */
  touch(key: SessionKey, sessionId: string | undefined, at: number): Promise<boolean>;
  /**
   * Calls `listener` after each transition of the key's session (not for touches), whichever store on the same database
   * made it. Transitions that other stores make are noticed within a second, compared with what {@link get} said last:
   * whoever watches first and then looks misses nothing. Several of them may be one call, and those that change neither
   * status nor epoch none.
   *
   * @returns the end of it
   */
  watch(key: SessionKey, listener: () => void): () => void;
}
