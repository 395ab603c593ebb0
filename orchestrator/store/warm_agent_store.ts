/** How the agents of the warm pool stand in the store: in a table WarmAgents, until a session's start takes one. */
import type { Row } from "./rows.ts";
import type { AgentLimits } from "./store.ts";

/** An agent that was started ahead, or is about to be. Its row is its room under {@link AgentLimits}. */
export interface WarmAgent {
  /** 32 lowercase hex digits. */
  readonly id: string;
  /** The orchestrator that holds it, and whose sessions may take it. */
  readonly owner: string;
  /** The name of the ComputeService that runs it. */
  readonly computeService: string;
  /** What the ComputeService knows it by. Empty until it waits for a session, as is the rest. */
  readonly processId: string;
  readonly podIp: string;
  /** 0 until it waits for a session. */
  readonly agentPort: number;
  readonly commandPort: number;
  /** Secret that the orchestrator shows to it. Different for each agent, and the session's when one takes it. */
  readonly agentId: string;
  /** Its own folder until a session takes it. Absolute. */
  readonly storageDirectory: string;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
}

/** Whose warm agent a start may take. */
export type WarmClaim = Pick<WarmAgent, "owner" | "computeService">;

/** What changes of a warm agent. */
export type WarmChange = Partial<Pick<WarmAgent, "owner" | "processId" | "podIp" | "agentPort" | "commandPort">>;

/** The warm agents of a SessionStore. Every method throws an RbsError when the storage fails. */
export interface WarmAgentStore {
  /**
   * Makes room for a warm agent.
   *
   * @returns false when there is none, beside all sessions and warm agents
   */
  addWarm(agent: WarmAgent, limits?: AgentLimits): Promise<boolean>;
  /**
   * @param owner Only if this orchestrator holds it. @default whoever does
   * @returns whether it is still there: it may have been taken
   */
  changeWarm(id: string, change: WarmChange, owner?: string): Promise<boolean>;
  /**
   * @param owner Only if this orchestrator holds it. @default whoever does
   * @returns whether it was still there
   */
  removeWarm(id: string, owner?: string): Promise<boolean>;
  /** All, oldest first. */
  listWarm(): Promise<WarmAgent[]>;
}

const COLUMNS: Readonly<Record<keyof WarmAgent, string>> = {
  id: "Id",
  owner: "Owner",
  computeService: "ComputeService",
  processId: "ProcessId",
  podIp: "PodIP",
  agentPort: "AgentPort",
  commandPort: "CommandPort",
  agentId: "ControlToken",
  storageDirectory: "StorageDirectory",
  createdAt: "CreatedAt",
};

/** All columns of WarmAgents; the first is its key. */
export const WARM_COLUMNS: readonly string[] = Object.values(COLUMNS);

/** The columns of a warm agent, or of a change, with their values. */
export function warmColumns(agent: WarmAgent | WarmChange): Row {
  return Object.fromEntries(Object.entries(agent).map(([field, value]) => [COLUMNS[field as keyof WarmAgent], value]));
}

/** The warm agent of a whole row. */
export function toWarmAgent(row: Row): WarmAgent {
  return Object.fromEntries(
    Object.entries(COLUMNS).map(([field, column]) => [field, row[column]]),
  ) as unknown as WarmAgent;
}

/** What a session has from the warm agent that it takes, by column: both tables name it alike. */
export function claimedColumns(row: Row): Row {
  const { ProcessId, PodIP, AgentPort, CommandPort, ControlToken } = row;
  return { ProcessId, PodIP, AgentPort, CommandPort, ControlToken };
}
