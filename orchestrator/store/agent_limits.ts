/** How many sessions may have an agent (be PENDING, READY or STOPPING) at the same time. 0: no limit. */
export interface AgentLimits {
  readonly agents: number;
  /** Per user. The second server of a workspace on a machine is not counted: see agent_count.ts. */
  readonly agentsPerUser: number;
}
