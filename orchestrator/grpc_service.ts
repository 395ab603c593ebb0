import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { RbsError } from "../proto/errors.ts";
import {
  type GetServerResponseSchema,
  type GetServerStreamResponseSchema,
  Orchestrator,
  type SessionSchema,
  SessionStatus,
} from "../proto/gen/rbs/v1/orchestrator_pb.ts";
import { type CallContext, Code, RpcError, type RpcImplementation } from "../proto/rpc.ts";
import type { Identity } from "./identity/local_identity.ts";
import { checkKey, checkServerRequest, checkSessionId, checkUserId } from "./request_checks.ts";
import type { Session } from "./sessions/session.ts";
import type { SessionService } from "./sessions/session_service.ts";

/** The service rbs.v1.Orchestrator over a SessionService. */
export function orchestratorService(
  sessions: SessionService,
  identity: Identity,
): RpcImplementation<typeof Orchestrator> {
  const actFor = (userId: string, context: CallContext) =>
    identity.authenticate(context.metadata("authorization")).actFor(checkUserId(userId));
  return {
    getServer(request, context) {
      return answer(async () => {
        actFor(request.userId, context);
        return serverResponse(await sessions.getServer(checkServerRequest(request), context.signal));
      });
    },

    async *getServerStream(request, context) {
      actFor(request.userId, context);
      const checked = checkServerRequest(request);
      const events: MessageInitShape<typeof GetServerStreamResponseSchema>[] = [];
      let arrived = Promise.withResolvers<void>();
      let over = false;
      const server = answer(() =>
        sessions.getServer(checked, context.signal, (description) => {
          events.push({ event: { case: "step", value: { description } } });
          arrived.resolve();
        })
      ).finally(() => {
        over = true;
        arrived.resolve();
      });
      // Its failure is thrown below, after the steps that came before it.
      server.catch(() => {});
      while (!over) {
        await arrived.promise;
        arrived = Promise.withResolvers();
        yield* events.splice(0);
      }
      yield { event: { case: "server", value: serverResponse(await server) } };
    },

    heartbeat(request, context) {
      return answer(async () => {
        actFor(request.userId, context);
        const interval = await sessions.heartbeat(checkKey(request), checkSessionId(request.sessionId));
        return { intervalSeconds: Math.ceil(interval / 1000) };
      });
    },

    releaseServer(request, context) {
      return answer(async () => {
        actFor(request.userId, context);
        const sessionId = request.sessionId && checkSessionId(request.sessionId);
        return { released: await sessions.release(checkKey(request), sessionId) };
      });
    },

    listSessions(request, context) {
      return answer(async () => {
        actFor(request.userId, context);
        return { sessions: (await sessions.list(request.userId)).map(sessionMessage), synced: sessions.synced };
      });
    },
  };
}

/** Refuses callers that are nobody before anything of their request is looked at. */
export function authorizer(identity: Identity): (path: string, context: CallContext) => void {
  return (_path, context) => void identity.authenticate(context.metadata("authorization"));
}

/** Turns our own errors into gRPC's. */
async function answer<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (e) {
    if (!(e instanceof RbsError)) throw e;
    throw new RpcError(e.culprit === "caller" ? Code.FAILED_PRECONDITION : Code.UNAVAILABLE, e.message, e);
  }
}

function serverResponse(session: Session): MessageInitShape<typeof GetServerResponseSchema> {
  return {
    session: sessionMessage(session),
    accessToken: session.accessToken,
    warnings: session.warnings,
    samePaths: session.samePaths,
    synced: session.synced,
    missingInstallBase: session.missingInstallBase,
  };
}

function sessionMessage(session: Session): MessageInitShape<typeof SessionSchema> {
  return {
    userId: session.userId,
    repoHash: session.repoHash,
    sessionId: session.sessionId,
    sourcePath: session.sourcePath,
    status: SessionStatus[session.status],
    epoch: session.epoch,
    agent: session.status === "READY"
      ? { host: session.podIp, port: session.agentPort, commandPort: session.commandPort }
      : undefined,
    region: session.region,
    createdAt: timestampFromMs(session.createdAt),
    lastHeartbeat: timestampFromMs(session.lastHeartbeat),
    failure: session.status === "FAILED" ? session.failure : "",
    startupOptionsHash: session.startupOptionsHash,
  };
}
