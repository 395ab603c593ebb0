/** Where agents run: on this machine, or elsewhere. The contract of all kinds is in compute_contract.ts. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { AgentSpecSchema, ResourceLimitsSchema } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { AgentEndpoint } from "../store/agent_endpoint.ts";
import type { SessionKey } from "../store/session.ts";

/** What an agent is started with: it knows no session yet. See rbs.v1.BlankAgent. */
export interface BlankAgent {
  /** Names the agent in its certificate. */
  readonly agentId: string;
  readonly leaseSeconds: number;
  /** What it gets its certificate by. Undefined: there are none, for tests. */
  readonly trust?: AgentBootstrap;
}

/** What an agent gets its first certificate by, and trusts others by. */
export interface AgentBootstrap {
  /** "host:port" of the orchestrator. */
  readonly orchestratorAddress: string;
  /** A secret; good for one certificate. */
  readonly bootstrapToken: string;
  /** PEM. */
  readonly authorities: string;
  readonly trustDomain: string;
}

/** What an agent must know to serve a session, but for what only its ComputeService knows; see rbs.v1.AgentSpec. */
export type AgentSpec =
  & Required<Omit<WholeSpec, "$typeName" | "$unknown" | OfCompute | "limits" | "unshareNet">>
  & Pick<WholeSpec, "limits" | "unshareNet">;

/** What only an agent's ComputeService knows. */
type OfCompute = "defaultOutputBase" | "storageDirectory" | "classArchiveDirectory" | "maxClassArchives";

/** What each session may use of its machine; see rbs.v1.ResourceLimits. */
export type SessionLimits = Omit<MessageInitShape<typeof ResourceLimitsSchema>, "$typeName" | "$unknown">;

/** All that an agent must know. */
export type WholeSpec = MessageInitShape<typeof AgentSpecSchema>;

/** The session that an agent is started for. */
export interface StartFor extends SessionKey {
  readonly sourcePath: string;
}

/** How an agent is started. */
export interface StartOptions {
  /** Gives the start up. */
  readonly signal: AbortSignal;
  /** Called with progress for the person who waits. */
  onStep(step: string): void;
  /** The session that the agent is meant for. @default it is started ahead, for any */
  readonly session?: StartFor;
}

/** An agent that was started, here or by another orchestrator. */
export interface RunningAgent {
  /** By this any orchestrator finds it again. Opaque: only its ComputeService reads it. */
  readonly handle: string;
  readonly endpoint: AgentEndpoint;
  /** Resolves when the agent is gone, with how it ended. Never rejects. */
  readonly ended: Promise<AgentFailure>;
  /** Where its log is, for messages: "in /path" or the like. */
  readonly log: string;
  /**
   * Prepares what the session needs where the agent runs, its storage for example, and completes the spec. To be called
   * before the agent is told of the session. What cannot be prepared the agent says itself.
   */
  assign(spec: AgentSpec): WholeSpec;
  /** Asks it to end by itself, for when it cannot be reached otherwise. Does nothing for an agent that is gone. */
  terminate(): void;
  /** Ends it at once. Does nothing for an agent that is gone, or that is not certain to be ours. */
  kill(): void;
  /** Nobody here is interested in it any more: another orchestrator has it. It goes on; `ended` may never resolve. */
  letGo(): void;
}

/** Why there is no agent (any more), for the person who waits. */
export interface AgentFailure {
  /** One sentence. */
  readonly reason: string;
  /** Whether trying again may help. */
  readonly transient: boolean;
}

/** Thrown when an agent cannot be started. */
export class AgentStartError extends Error implements AgentFailure {
  override readonly name = "AgentStartError";

  constructor(readonly reason: string, readonly transient: boolean, cause?: unknown) {
    super(reason, { cause });
  }
}

/** Runs agents somewhere. */
export interface ComputeService {
  readonly name: string;
  /** Where its agents run, as a cloud names its regions; empty: it does not know. */
  readonly region: string;
  /**
   * Starts an agent and resolves when it listens. Throws an AgentStartError when it does not, and leaves nothing
   * running behind; when it is given up, it throws the signal's reason.
   */
  start(agent: BlankAgent, options: StartOptions): Promise<RunningAgent>;
  /**
   * Takes over an agent that another orchestrator started. One that is gone by now tells so by {@link RunningAgent.ended}.
   *
   * @param handle What {@link RunningAgent.handle} was.
   * @param session The session that it serves; undefined: none yet.
   */
  adopt(handle: string, endpoint: AgentEndpoint, session?: StartFor): RunningAgent;
  /**
   * Lets a session go on with the storage of another one that is not there any more, if that has left any and the session
   * has none of its own.
   *
   * @returns Why it cannot, for the operator: it begins anew then. Undefined: there was nothing to do, or it is done.
   */
  inherit(from: SessionKey, to: SessionKey): string | undefined;
  /** Removes what agents that are gone have left behind, but for the storage of sessions. Throws what the disk throws. */
  sweep(): Promise<void>;
}
