import type { Log } from "../log.ts";
import { keyText, type Session, type SessionKey } from "./session.ts";
import { type SessionEvent, transition } from "./state_machine.ts";
import type { AgentLimits } from "./agent_limits.ts";
import type { OrchestratorLease } from "./lease_store.ts";
import type { Expected, SessionChange, SessionStore } from "./store.ts";
import type { WarmAgent, WarmChange } from "./warm_agent_store.ts";

/** A SessionStore that tells the operator of each transition that happened. */
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
          (event === "listening" ? ` (process ${session.processId}, port ${session.agentPort})` : why),
      );
    }
    return session;
  }

  touch(key: SessionKey, sessionId: string | undefined, at: number): Promise<boolean> {
    return this.store.touch(key, sessionId, at);
  }

  addWarm(agent: WarmAgent, limits?: AgentLimits): Promise<boolean> {
    return this.store.addWarm(agent, limits);
  }

  changeWarm(id: string, change: WarmChange, owner?: string): Promise<boolean> {
    return this.store.changeWarm(id, change, owner);
  }

  removeWarm(id: string, owner?: string): Promise<boolean> {
    return this.store.removeWarm(id, owner);
  }

  listWarm(): Promise<WarmAgent[]> {
    return this.store.listWarm();
  }

  beginLease(lease: OrchestratorLease): Promise<void> {
    return this.store.beginLease(lease);
  }

  renewLease(lease: OrchestratorLease): Promise<boolean> {
    return this.store.renewLease(lease);
  }

  leases(): Promise<OrchestratorLease[]> {
    return this.store.leases();
  }

  endLease(lease: OrchestratorLease): Promise<boolean> {
    return this.store.endLease(lease);
  }

  watch(key: SessionKey, listener: () => void): () => void {
    return this.store.watch(key, listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.store[Symbol.asyncDispose]();
  }
}
