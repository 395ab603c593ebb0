import type { AgentLimits } from "./agent_limits.ts";

/** An agent that was started ahead, or is about to be. Its row is its room under {@link AgentLimits}. */
export interface WarmAgent {
  /** 32 lowercase hex digits. */
  readonly id: string;
  /** The orchestrator that holds it, and whose sessions may take it. */
  readonly owner: string;
  /** The name of the ComputeService that runs it. */
  readonly computeService: string;
  /** By this the ComputeService finds it again. Empty until it waits for a session. */
  readonly handle: string;
  /** Where it listens, see {@link endpointOf}. Empty until it waits for a session. */
  readonly host: string;
  /** Port of rbs.v1.Agent; 0 until it waits for a session. */
  readonly agentPort: number;
  /** Port of command_server.CommandServer; 0 until it waits for a session. */
  readonly commandPort: number;
  /** Names it in its certificate. Different for each agent, and the session's when one takes it. */
  readonly agentId: string;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
}

/** Whose warm agent a start may take. */
export type WarmClaim = Pick<WarmAgent, "owner" | "computeService">;

/** What changes of a warm agent. */
export type WarmChange = Partial<Pick<WarmAgent, "owner" | "handle" | "host" | "agentPort" | "commandPort">>;

/**
 * The agents of all warm pools, each until a session's start takes it: see Expected.claim. Every method throws an RbsError
 * when the storage fails.
 */
export interface WarmAgentStore {
  /**
   * Makes room for a warm agent.
   *
   * @returns false when there is none, beside all sessions and warm agents
   */
  add(agent: WarmAgent, limits?: AgentLimits): Promise<boolean>;
  /**
   * @param owner Only if this orchestrator holds it. @default whoever does
   * @returns whether it is still there: it may have been taken
   */
  change(id: string, change: WarmChange, owner?: string): Promise<boolean>;
  /**
   * @param owner Only if this orchestrator holds it. @default whoever does
   * @returns whether it was still there
   */
  remove(id: string, owner?: string): Promise<boolean>;
  /** All, oldest first. */
  list(): Promise<WarmAgent[]>;
}
