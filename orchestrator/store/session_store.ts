import type { AgentLimits } from "./agent_limits.ts";
import type { Session, SessionFields, SessionKey } from "./session.ts";
import type { SessionEvent, SessionState } from "./state_machine.ts";
import type { WarmClaim } from "./warm_agent_store.ts";

/** The state that a transition requires; otherwise nothing is changed. */
export interface Expected extends SessionKey {
  readonly state: SessionState;
  /** Ignored for NONE. */
  readonly epoch: number;
  /** Requires this orchestrator as the holder. Ignored for NONE. @default any holder */
  readonly holder?: string;
  /**
   * For "start" only: requires room for one more agent. Checked in the same transaction, so that concurrent starts,
   * also of several orchestrators, never exceed the limits. @default no limits
   */
  readonly limits?: AgentLimits;
  /**
   * For "start" only: takes a matching warm agent in the same transaction, if there is one; a waiting one is preferred
   * to one that is being started. The session gets the agent's endpoint and id, whatever the change says.
   */
  readonly claim?: WarmClaim;
}

/** The fields that a transition sets. */
export type SessionChange = Partial<SessionFields>;

/**
 * The sessions, and the only truth about them. Each change is a compare-and-swap on (key, epoch, status) along the
 * state machine, so any number of callers may race.
 *
 * Every method throws an RbsError when the storage fails.
 */
export interface SessionStore {
  /** The session of a key, or undefined. */
  get(key: SessionKey): Promise<Session | undefined>;
  /** All sessions, or those of a user, oldest first. */
  list(userId?: string): Promise<Session[]>;
  /**
   * Applies `event` to the session durably, if it is in the expected state.
   *
   * @param change Must be complete for the event "start". A `holder` raises the term unless it stays the same. A holder
   * that is not empty must have a lease, or nothing happens.
   * @returns the session afterwards (for an event that leads to NONE: before it). Undefined if another caller was
   * faster, there is no room, or a holder is not as required.
   */
  transition(expected: Expected, event: SessionEvent, change?: SessionChange): Promise<Session | undefined>;
  /**
   * Records that a PENDING or READY session is in use.
   *
   * @param sessionId Requires this id; undefined for any.
   * @param at Milliseconds since 1970; an older time has no effect.
   * @returns whether there is such a session
   */
  touch(key: SessionKey, sessionId: string | undefined, at: number): Promise<boolean>;
  /**
   * Calls `listener` after each transition of the key's session (not after touches), made by any store on the same
   * database. Transitions of other stores are noticed within a second, compared with the last {@link get}: watch first
   * and then look, and nothing is missed. Several transitions may cause one call, and those that change neither status
   * nor epoch cause none.
   *
   * @returns stops watching
   */
  watch(key: SessionKey, listener: () => void): () => void;
}
