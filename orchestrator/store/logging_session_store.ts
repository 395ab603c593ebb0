import type { Log } from "../../proto/base/log.ts";
import { keyText, type Session, type SessionKey } from "./session.ts";
import { type SessionEvent, transition } from "./state_machine.ts";
import type { Expected, SessionChange, SessionStore } from "./session_store.ts";

/** A SessionStore that logs each transition. */
export class LoggingSessionStore implements SessionStore {
  constructor(readonly store: SessionStore, readonly log: Log) {}

  get(key: SessionKey): Promise<Session | undefined> {
    return this.store.get(key);
  }

  list(userId?: string): Promise<Session[]> {
    return this.store.list(userId);
  }

  async transition(expected: Expected, event: SessionEvent, change?: SessionChange): Promise<Session | undefined> {
    const session = await this.store.transition(expected, event, change);
    if (session) {
      const { to } = transition(expected.state, event);
      const why = to === "FAILED" || to === "STOPPING" ? `: ${session.failure}` : "";
      this.log(
        `session ${keyText(session)} epoch ${session.epoch}: ${expected.state} -> ${event} -> ${to}` +
          (event === "listening" ? ` (process ${session.handle}, port ${session.agentPort})` : why),
      );
    }
    return session;
  }

  touch(key: SessionKey, sessionId: string | undefined, at: number): Promise<boolean> {
    return this.store.touch(key, sessionId, at);
  }

  watch(key: SessionKey, listener: () => void): () => void {
    return this.store.watch(key, listener);
  }
}
