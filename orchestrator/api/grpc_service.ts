import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type GetServerResponseSchema,
  type GetServerStreamResponseSchema,
  Orchestrator,
} from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { type CallContext, Code, RpcError, type RpcImplementation } from "../../proto/transport/rpc/client.ts";
import { actingUser } from "../../proto/identity/access_rules.ts";
import { answer, sessionMessage } from "./answers.ts";
import { checkKey, checkNotHidden, checkServerRequest, checkSessionId } from "./request_checks.ts";
import type { Session } from "../store/session.ts";
import type { SessionService } from "../sessions/session_service.ts";

/**
 * The service rbs.v1.Orchestrator over a SessionService. Whose sessions are meant the caller's certificate says.
 *
 * @param options.hidden Real paths that no session on this disk may see. @default none
 * @param options.localUser Whose rights sessions on this disk have: they are for nobody else. @default for everybody
 */
export function orchestratorService(
  sessions: SessionService,
  { hidden = [], localUser }: { hidden?: readonly string[]; localUser?: string } = {},
): RpcImplementation<typeof Orchestrator> {
  const own = <R extends { userId: string }>(request: R, context: CallContext): R => ({
    ...request,
    userId: actingUser(context, request.userId),
  });
  const check = (request: Parameters<typeof checkServerRequest>[0], context: CallContext) => {
    const checked = checkServerRequest(own(request, context));
    // The paths of a synced session are names on another machine.
    if (!sessions.synced) {
      checkNotHidden(checked, hidden);
      checkSharesDisk(checked.userId, localUser);
    }
    return checked;
  };
  return {
    getServer(request, context) {
      return answer(async () => {
        return serverResponse(await sessions.getServer(check(request, context), context.signal));
      });
    },

    async *getServerStream(request, context) {
      const checked = check(request, context);
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
        const key = checkKey(own(request, context));
        const interval = await sessions.heartbeat(key, checkSessionId(request.sessionId));
        return { intervalSeconds: Math.ceil(interval / 1000) };
      });
    },

    releaseServer(request, context) {
      return answer(async () => {
        const key = checkKey(own(request, context));
        const sessionId = request.sessionId && checkSessionId(request.sessionId);
        return { released: await sessions.release(key, sessionId) };
      });
    },

    listSessions(request, context) {
      return answer(async () => {
        const { userId } = own(request, context);
        return { sessions: (await sessions.list(userId)).map(sessionMessage), synced: sessions.synced };
      });
    },
  };
}

/** Refuses who would get the rights of the orchestrator's own user on this disk. Throws an {@link RpcError}. */
function checkSharesDisk(userId: string, localUser = userId): void {
  if (userId === localUser) return;
  throw new RpcError(
    Code.FAILED_PRECONDITION,
    `Sessions of this orchestrator share its disk and have the rights of its own user, ${localUser}: for ${userId} it has ` +
      "to be started with --workspace=synced (--allow-shared-users does without).",
  );
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
