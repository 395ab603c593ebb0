import type { MessageInitShape } from "@bufbuild/protobuf";
import type { AgentSpecSchema, ResourceLimitsSchema } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { AgentEndpoint } from "../store/agent_endpoint.ts";

/** What an agent must know, but for what only its ComputeService knows; see rbs.v1.AgentSpec. */
export type AgentSpec =
  & Required<Omit<WholeSpec, "$typeName" | "$unknown" | OfCompute | "warm" | "limits" | "unshareNet" | Trust>>
  & Pick<WholeSpec, "warm" | "limits" | "unshareNet" | Trust>;

/** What only an agent's ComputeService knows. */
type OfCompute = "defaultOutputBase" | "enrolsByPipe" | "classArchiveDirectory" | "maxClassArchives";

/** What an agent gets its certificate by; it is only told at its start. */
type Trust = "orchestratorAddress" | "bootstrapToken" | "authorities" | "trustDomain";

/** What each session may use of its machine; see rbs.v1.ResourceLimits. */
export type SessionLimits = Omit<MessageInitShape<typeof ResourceLimitsSchema>, "$typeName" | "$unknown">;

/** All that an agent must know. */
export type WholeSpec = MessageInitShape<typeof AgentSpecSchema>;

/** An agent that was started, or adopted from an orchestrator before this one. */
export interface RunningAgent {
  /** What the ComputeService knows it by. */
  readonly handle: string;
  readonly endpoint: AgentEndpoint;
  /**
   * Resolves when the agent is gone, with how it ended. Undefined for an adopted agent whose end only its broken
   * connection shows.
   */
  readonly ended?: Promise<AgentFailure>;
  /** It was started ahead and is about to serve this session: its log goes along. */
  assigned(spec: AgentSpec): void;
  /** Asks it to end by itself, for when it cannot be reached otherwise. Does nothing for an agent that is gone. */
  terminate(): void;
  /** Ends it at once. Does nothing for an agent that is gone, or that is not certain to be ours. */
  kill(): void;
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
   * running behind.
   *
   * @param signal Gives the start up.
   * @param onStep Called with progress for the person who waits.
   */
  start(spec: AgentSpec, signal: AbortSignal, onStep: (step: string) => void): Promise<RunningAgent>;
  /**
   * Takes over an agent that a former orchestrator started. Whether it still lives is for the caller to find out.
   *
   * @param handle What {@link RunningAgent.handle} was.
   * @param storageDirectory The agent's.
   */
  adopt(handle: string, endpoint: AgentEndpoint, storageDirectory: string): RunningAgent;
  /**
   * Lets a session go on with the storage of another one that is not there any more, if that has left any and the session
   * has none of its own.
   *
   * @param from The other one's storage directory, which is gone afterwards.
   * @returns Why it cannot, for the operator: it begins anew then. Undefined: there was nothing to do, or it is done.
   */
  inherit(from: string, to: string): string | undefined;
  /** The spec of a session for an agent that was started ahead, with what only this service knows. */
  complete(spec: AgentSpec): WholeSpec;
  /**
   * Removes what agents of the warm pool have left, but for the folders of those that there are. Throws what the disk
   * throws.
   *
   * @param keep The folders of all agents, whichever orchestrator has them; asked for after the folders were looked up, so
   *   that one which begins meanwhile is left alone.
   */
  sweep(warmFolder: string, keep: () => Promise<ReadonlySet<string>>): Promise<void>;
}
