/** How many sessions may have an agent, that is, be PENDING, READY or STOPPING, at the same time. 0: any number. */
export interface AgentLimits {
  readonly agents: number;
  /** For each user, whose second server of a workspace on a machine is not counted: see agent_count.ts. */
  readonly agentsPerUser: number;
}
