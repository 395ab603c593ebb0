import type { SessionStore } from "../store/session_store.ts";
import type { WarmAgentStore } from "../store/warm_agent_store.ts";

/** Where agents are known. */
export interface AgentStores {
  readonly sessions: Pick<SessionStore, "list">;
  readonly warmAgents: Pick<WarmAgentStore, "list">;
}

/** Whether a session has this agent, or a warm pool. Throws an RbsError when the store fails. */
export async function isKnownAgent({ sessions, warmAgents }: AgentStores, agentId: string): Promise<boolean> {
  return (await sessions.list()).some((session) => session.agentId === agentId && session.status !== "FAILED") ||
    (await warmAgents.list()).some((agent) => agent.agentId === agentId);
}
