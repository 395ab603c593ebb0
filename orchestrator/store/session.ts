/** What names a session: one user's Bazel server for one workspace. */
export interface SessionKey {
  readonly userId: string;
  /** MD5 of the workspace's absolute path, 32 lowercase hex digits. */
  readonly repoHash: string;
  /**
   * Which of the user's servers for a workspace of that path it is: 16 lowercase hex digits, see {@link machineOf}. Empty:
   * that of proxies which know no such ids.
   */
  readonly serverId: string;
}

/** Where a session is in its life; see state_machine.ts for what leads where. */
export type SessionStatus = "PENDING" | "READY" | "STOPPING" | "FAILED";

/** What is known of a session beside its key and its place in the state machine. */
export interface SessionFields {
  /** The proxy's life that owns the session: 32 lowercase hex digits. */
  sessionId: string;
  /** The workspace's absolute path on the developer's machine. */
  sourcePath: string;
  region: string;
  /** The Bazel server's arguments as the client composed them; empty when none was asked for yet. */
  startupOptions: string[];
  /** See startup_options_hash.ts. */
  startupOptionsHash: string;
  /** The name of the ComputeService that runs the agent. */
  computeService: string;
  /** By this the ComputeService finds the agent again, whichever orchestrator asks. Empty until it is started. */
  handle: string;
  /** Host of the agent; empty until it listens. */
  host: string;
  /** Port of rbs.v1.Agent; 0 until it listens. */
  agentPort: number;
  /** Port of command_server.CommandServer; 0 until it listens. */
  commandPort: number;
  /** Secret that the session's owner shows to the agent. */
  accessToken: string;
  /** Names the agent in its certificate, and is different for each: 32 lowercase hex digits. */
  agentId: string;
  /** Sentences of the agent that the developer should read. */
  warnings: string[];
  /** Whether the agent's Bazel server sees the developer's own paths. */
  samePaths: boolean;
  /** Whether the agent shares no files with the developer. */
  synced: boolean;
  /** The install base that the developer's proxy has to send before the Bazel server can start; empty: none. */
  missingInstallBase: string;
  /** Why the session FAILED or is STOPPING: one sentence. */
  failure: string;
  /** Whether trying again may help. */
  failureTransient: boolean;
  /** Milliseconds since 1970. */
  createdAt: number;
  /** The orchestrator that holds the session, see OrchestratorLease; empty: none. */
  holder: string;
  /** When the owner or a command was last heard of. Milliseconds since 1970. */
  lastHeartbeat: number;
  /** The ServerId of whom a session without one serves; empty: of nobody, or the session has an id of its own. */
  adoptedBy: string;
}

/** A session as the store holds it. */
export interface Session extends SessionKey, Readonly<SessionFields> {
  readonly status: SessionStatus;
  /** Raised by each start and each takeover, and never lowered for a key; agents refuse calls with an older one. */
  readonly epoch: number;
  /**
   * Of the holder: 1 at each start, and raised whenever the session passes to another orchestrator. Agents refuse
   * supervisors with an older one.
   */
  readonly term: number;
}

/** A key as one string, for maps and people. No part can hold a slash. */
export function keyText({ userId, repoHash, serverId }: SessionKey): string {
  return `${userId}/${repoHash}${serverId && `/${serverId}`}`;
}

/** What of a ServerId stands for the developer's machine: 8 hex digits; empty where no machine is known. */
export function machineOf(serverId: string): string {
  return serverId.slice(0, 8);
}
