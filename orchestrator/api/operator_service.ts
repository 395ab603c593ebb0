import type { Operator } from "../../proto/contract/gen/rbs/v1/operator_pb.ts";
import { identityName } from "../../proto/identity/spiffe.ts";
import type { RpcImplementation } from "../../proto/transport/rpc/client.ts";
import type { Log } from "../../proto/base/log.ts";
import type { SessionService } from "../sessions/session_service.ts";
import { answer, sessionMessage } from "./answers.ts";
import { checkKey, checkSessionId } from "./request_checks.ts";

/** The service rbs.v1.Operator over a SessionService. That the caller is an operator the access rules have seen to. */
export function operatorService(
  sessions: Pick<SessionService, "listAll" | "release">,
  log: Log,
): RpcImplementation<typeof Operator> {
  return {
    listSessions() {
      return answer(async () => ({ sessions: (await sessions.listAll()).map(sessionMessage) }));
    },

    endSession(request, { identity }) {
      return answer(async () => {
        const key = checkKey(request);
        const sessionId = checkSessionId(request.sessionId);
        const by = identity ? identityName(identity) : "nobody";
        log(`${by} ends the session ${key.userId}/${key.repoHash}/${key.serverId}`);
        return { ended: await sessions.release(key, sessionId, `The session was ended by ${by}.`) };
      });
    },
  };
}
