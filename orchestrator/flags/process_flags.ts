import { Option } from "commander";
import { dirname, join, resolve } from "node:path";
import type { FlagPart } from "./flag_part.ts";

/** Agents that are processes of this machine. All paths are absolute. */
export interface ProcessFlags {
  readonly storageRoot: string;
  readonly agent: string;
  /** Whom agents run as: a name, or uid:gid. Undefined: the orchestrator's own user. */
  readonly agentUser?: string;
  /** Whether sessions may have all rights of root, where it cannot be helped. */
  readonly allowRootSessions: boolean;
  /** Where its agents run. Empty: unknown. */
  readonly region: string;
}

/** The flags of the compute service that starts processes. */
export const PROCESS_FLAGS: FlagPart<ProcessFlags> = {
  options: () => [
    new Option(
      "--storage-root <directory>",
      "directory of Bazel's output bases, one per user, workspace and server (default: <state dir>/storage)",
    )
      .env("RBS_STORAGE_ROOT"),
    new Option("--agent <path>", "the agent program (default: `agent` beside this program)").env("RBS_AGENT"),
    new Option(
      "--agent-user <user>",
      "as root, with --workspace=synced: run agents and all builds as this user of the machine, who cannot read keys or " +
        "store (a name, or uid:gid)",
    )
      .env("RBS_AGENT_USER"),
    new Option(
      "--allow-root-sessions",
      "as root, where sessions cannot be confined: serve them anyway; each build can then do whatever root can",
    )
      .env("RBS_ALLOW_ROOT_SESSIONS").default(false),
    new Option(
      "--region <name>",
      "where this orchestrator's agents run; a client that asks for another region is told",
    )
      .env("RBS_REGION").default("", "unknown"),
  ],
  read: ({ storageRoot, agent, agentUser, allowRootSessions, region }, { stateDir, program }) => ({
    storageRoot: storageRoot ? resolve(storageRoot) : join(stateDir, "storage"),
    agent: agent ? resolve(agent) : join(dirname(program), "agent"),
    agentUser: agentUser || undefined,
    allowRootSessions,
    region,
  }),
};
