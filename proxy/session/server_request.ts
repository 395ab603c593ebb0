import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  GetServerRequestSchema,
  GetServerResponse,
  Orchestrator,
} from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { Code, type RpcClient, RpcError } from "../../proto/transport/rpc/client.ts";

/** How long one of several orchestrators may be silent before the next is asked, in milliseconds. */
export const SILENT_MS = 5_000;

/** Options of {@link requestServer}. */
export interface ServerRequestOptions {
  signal?: AbortSignal;
  /** How long the orchestrator may take to its first word, in milliseconds. @default no limit */
  silentMs?: number;
  /** Called after that time, and each time that it has passed again. @returns whether to wait on. @default the call fails with DEADLINE_EXCEEDED */
  onSilence?(): boolean;
  /** Called for each word of the orchestrator, before anything else. */
  onAnswer?(): void;
  /** Called for each step of the agent's start. */
  onStep?(description: string): void;
}

/** Requests a session's server from one orchestrator, and waits until it is ready. Throws an RpcError. */
export async function requestServer(
  rpc: RpcClient<typeof Orchestrator>,
  request: MessageInitShape<typeof GetServerRequestSchema>,
  { signal, silentMs, onSilence, onAnswer, onStep }: ServerRequestOptions,
): Promise<GetServerResponse> {
  const silence = new AbortController();
  const timer = silentMs === undefined ? undefined : setInterval(() => onSilence?.() || silence.abort(), silentMs);
  try {
    const either = signal ? AbortSignal.any([signal, silence.signal]) : silence.signal;
    for await (const { event } of rpc.getServerStream(request, { signal: either })) {
      clearInterval(timer);
      onAnswer?.();
      if (event.case === "step") onStep?.(event.value.description);
      if (event.case === "server") {
        if (!event.value.session?.agent) throw new RpcError(Code.INTERNAL, "its answer names no agent");
        return event.value;
      }
    }
    throw new RpcError(Code.INTERNAL, "it ended its answer without a server");
  } catch (e) {
    if (!silence.signal.aborted || signal?.aborted) throw e;
    throw new RpcError(Code.DEADLINE_EXCEEDED, "the orchestrator is silent", e);
  } finally {
    clearInterval(timer);
  }
}
