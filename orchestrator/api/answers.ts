import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { RbsError } from "../../proto/base/errors.ts";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import { type SessionSchema, SessionStatus } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import type { Session } from "../store/session.ts";

/** Turns our own errors into gRPC's. */
export async function answer<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (e) {
    if (!(e instanceof RbsError)) throw e;
    throw new RpcError(e.culprit === "caller" ? Code.FAILED_PRECONDITION : Code.UNAVAILABLE, e.message, e);
  }
}

/** A session as callers see it: without its secrets. */
export function sessionMessage(session: Session): MessageInitShape<typeof SessionSchema> {
  return {
    userId: session.userId,
    repoHash: session.repoHash,
    serverId: session.serverId || session.adoptedBy,
    sessionId: session.sessionId,
    sourcePath: session.sourcePath,
    status: SessionStatus[session.status],
    epoch: session.epoch,
    agent: session.status === "READY"
      ? { host: session.host, port: session.agentPort, commandPort: session.commandPort, agentId: session.agentId }
      : undefined,
    region: session.region,
    createdAt: timestampFromMs(session.createdAt),
    lastHeartbeat: timestampFromMs(session.lastHeartbeat),
    failure: session.status === "FAILED" ? session.failure : "",
    startupOptionsHash: session.startupOptionsHash,
    outputBase: startupOption(session.startupOptions, "output_base") ?? "",
  };
}
