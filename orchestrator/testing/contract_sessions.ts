/** Sessions of the stores' contract suites. */
import assert from "node:assert/strict";
import type { AgentLimits } from "../store/agent_limits.ts";
import type { Session, SessionKey } from "../store/session.ts";
import type { SessionEvent, SessionState } from "../store/state_machine.ts";
import type { Store } from "../store/store.ts";
import { fields } from "./session_fields.ts";

/** The session of most tests. */
export const KEY: SessionKey = { userId: "ann", repoHash: "0123456789abcdef0123456789abcdef", serverId: "" };

/** The events that lead from NONE to each state. */
export const WAY_TO: Record<SessionState, SessionEvent[]> = {
  NONE: [],
  PENDING: ["start"],
  READY: ["start", "ready"],
  STOPPING: ["start", "stop"],
  FAILED: ["start", "fail"],
};

/** Leads a session that is not there yet to a state. @returns its epoch */
export async function lead(store: Store, state: SessionState, key = KEY): Promise<number> {
  let [at, epoch]: [SessionState, number] = ["NONE", 0];
  for (const event of WAY_TO[state]) {
    const session = await store.sessions.transition(
      { ...key, state: at, epoch },
      event,
      event === "start" ? fields() : {},
    );
    assert(session);
    [at, epoch] = [session.status, session.epoch];
  }
  return epoch;
}

/** Starts a session that is not there yet; undefined: there is no room. */
export function start(
  store: Store,
  userId: string,
  repoHash: string,
  limits?: AgentLimits,
): Promise<Session | undefined> {
  return store.sessions.transition(
    { userId, repoHash, serverId: "", state: "NONE", epoch: 0, limits },
    "start",
    fields(),
  );
}
