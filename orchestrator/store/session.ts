/** The key of a session: one user's Bazel server for one workspace. */
export interface SessionKey {
  readonly userId: string;
  /** MD5 of the workspace's absolute path, 32 lowercase hex digits. */
  readonly repoHash: string;
  /**
   * Which of the user's servers for a workspace with that path: 16 lowercase hex digits, see {@link machineOf}. Empty
   * for proxies that know no such ids.
   */
  readonly serverId: string;
}

/** The status of a session; state_machine.ts has the transitions. */
export type SessionStatus = "PENDING" | "READY" | "STOPPING" | "FAILED";

/** The fields of a session apart from its key and its place in the state machine. */
export interface SessionFields {
  /** Id of the proxy process that owns the session: 32 lowercase hex digits. */
  sessionId: string;
  /** The workspace's absolute path on the developer's machine. */
  sourcePath: string;
  region: string;
  /** The Bazel server's arguments as the client composed them; empty if no server was requested yet. */
  startupOptions: string[];
  /** See startup_options_hash.ts. */
  startupOptionsHash: string;
  /** The name of the ComputeService that runs the agent. */
  computeService: string;
  /** The ComputeService's handle of the agent: only that service reads it. Empty until the agent is started. */
  handle: string;
  /** Host of the agent; empty until it listens. */
  host: string;
  /** Port of rbs.v1.Agent; 0 until it listens. */
  agentPort: number;
  /** Port of command_server.CommandServer; 0 until it listens. */
  commandPort: number;
  /** Secret that the session's owner sends to the agent. */
  accessToken: string;
  /** The agent's id in its certificate, different for each agent: 32 lowercase hex digits. */
  agentId: string;
  /** Sentences of the agent for the developer. */
  warnings: string[];
  /** Whether the agent's Bazel server sees the developer's own paths. */
  samePaths: boolean;
  /** Whether the agent shares no files with the developer. */
  synced: boolean;
  /** The install base that the developer's proxy must send before the Bazel server can start; empty if none. */
  missingInstallBase: string;
  /** Why the session FAILED or is STOPPING: one sentence. */
  failure: string;
  /** Whether another attempt may succeed. */
  failureTransient: boolean;
  /** Milliseconds since 1970. */
  createdAt: number;
  /** Id of the orchestrator that holds the session, see OrchestratorLease; empty if none. */
  holder: string;
  /** Last sign of the owner or of a command. Milliseconds since 1970. */
  lastHeartbeat: number;
  /**
   * The ServerId of the caller that a session without one serves. Empty if there is none, or the session has its own
   * id.
   */
  adoptedBy: string;
}

/** A session as stored. */
export interface Session extends SessionKey, Readonly<SessionFields> {
  readonly status: SessionStatus;
  /** Raised by each start and each takeover, never lowered for a key. Agents refuse calls with an older epoch. */
  readonly epoch: number;
  /**
   * Term of the holder: 1 at each start, raised whenever the session passes to another orchestrator. Agents refuse
   * supervisors with an older term.
   */
  readonly term: number;
}

/** A key as one string, for maps and messages. No part can contain a slash. */
export function keyText({ userId, repoHash, serverId }: SessionKey): string {
  return `${userId}/${repoHash}${serverId && `/${serverId}`}`;
}

/** The part of a ServerId that identifies the developer's machine: 8 hex digits; empty if unknown. */
export function machineOf(serverId: string): string {
  return serverId.slice(0, 8);
}
