import type { AgentLimits } from "./agent_limits.ts";

/** An agent that was, or is about to be, started ahead. Its row reserves room under {@link AgentLimits}. */
export interface WarmAgent {
  /** 32 lowercase hex digits. */
  readonly id: string;
  /** The orchestrator that holds it, and whose sessions may take it. */
  readonly owner: string;
  /** The name of the ComputeService that runs it. */
  readonly computeService: string;
  /** The ComputeService's handle. Empty until it waits for a session. */
  readonly handle: string;
  /** Where it listens, see {@link endpointOf}. Empty until it waits for a session. */
  readonly host: string;
  /** Port of rbs.v1.Agent; 0 until it waits for a session. */
  readonly agentPort: number;
  /** Port of command_server.CommandServer; 0 until it waits for a session. */
  readonly commandPort: number;
  /** Its id in its certificate, different for each agent. A session that takes the agent gets this id. */
  readonly agentId: string;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
}

/** Whose warm agent a start may take. */
export type WarmClaim = Pick<WarmAgent, "owner" | "computeService">;

/** The fields of a warm agent that can change. */
export type WarmChange = Partial<Pick<WarmAgent, "owner" | "handle" | "host" | "agentPort" | "commandPort">>;

/**
 * The agents of all warm pools, each until a session's start takes it: see Expected.claim. Every method throws an
 * RbsError when the storage fails.
 */
export interface WarmAgentStore {
  /**
   * Adds a warm agent, if there is room.
   *
   * @returns false if there is none, beside all sessions and warm agents
   */
  add(agent: WarmAgent, limits?: AgentLimits): Promise<boolean>;
  /**
   * Changes a warm agent.
   *
   * @param owner Requires this orchestrator as the holder. @default any holder
   * @returns whether it still exists: it may have been taken
   */
  change(id: string, change: WarmChange, owner?: string): Promise<boolean>;
  /**
   * Removes a warm agent.
   *
   * @param owner Requires this orchestrator as the holder. @default any holder
   * @returns whether it still existed
   */
  remove(id: string, owner?: string): Promise<boolean>;
  /** All warm agents, oldest first. */
  list(): Promise<WarmAgent[]>;
}
