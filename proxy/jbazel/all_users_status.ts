import { RbsError } from "../../proto/base/errors.ts";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { Operator } from "../../proto/contract/gen/rbs/v1/operator_pb.ts";
import type { Session } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { renewIfDue } from "../../proto/enrolment/renewal.ts";
import { type HeldCredentials, operatorOf, readValidCredentials } from "../../proto/identity/key_directory.ts";
import { Code, createRpcClient, RpcError, withClocks } from "../../proto/transport/rpc/client.ts";
import { ANSWER_TIMEOUT_MS, orchestratorError } from "./orchestrator_session.ts";
import { describeSession, renderSessions } from "./session_table.ts";
import type { Settings } from "./settings.ts";

/** Where it happens. */
export interface AllUsersContext {
  settings: Settings;
  json: boolean;
  say(line: string): void;
}

/** Shows the sessions of all users to an operator. @returns the exit code. Throws an RbsError. */
export async function showAllUsers({ settings, json, say }: AllUsersContext): Promise<number> {
  const credentials = operatorCredentials(settings.stateDirectory);
  const operator = operatorOf(credentials);
  const addresses = new OrchestratorAddresses(settings.orchestrator);
  const sessions = (await listAllSessions(credentials, addresses)).map(describeSession);
  if (json) say(JSON.stringify({ operator, orchestrator: settings.orchestrator, sessions }, null, 2));
  else if (sessions.length === 0) say(`No sessions at ${settings.orchestrator}.`);
  else for (const line of renderSessions(sessions, { users: true })) say(line);
  // What fails is tried again by the next one.
  await renewIfDue(settings.stateDirectory, addresses.current, "operator").catch(() => {});
  return 0;
}

function operatorCredentials(stateDirectory: string): HeldCredentials {
  try {
    return readValidCredentials(stateDirectory, "operator");
  } catch (e) {
    if (!(e instanceof RbsError && e.cause instanceof Deno.errors.NotFound)) throw e;
    throw new RbsError(
      `status: --all-users is for operators, and there is no operator's key in ${stateDirectory}/keys: ask for a token of ` +
        "`orchestrator enrol --operator NAME`, and give it to `jbazel login`.",
      { cause: e, culprit: "caller", exitCode: 1 },
    );
  }
}

/** Asks the orchestrators in turn. Throws an RbsError. */
async function listAllSessions(credentials: HeldCredentials, addresses: OrchestratorAddresses): Promise<Session[]> {
  for (;;) {
    using client = createRpcClient(Operator, addresses.current, {
      tls: { credentials, expected: { kind: "orchestrator" } },
    });
    try {
      const { sessions } = await client.listSessions({}, { timeoutMs: ANSWER_TIMEOUT_MS });
      addresses.answered();
      return sessions;
    } catch (e) {
      const { code } = RpcError.from(e);
      if ((code === Code.UNAVAILABLE || code === Code.DEADLINE_EXCEEDED) && addresses.next()) continue;
      if (code === Code.UNIMPLEMENTED) {
        throw new RbsError(
          `status: the orchestrator at ${addresses.current} is older than this jbazel and knows no operators: update it, or ` +
            "leave out --all-users.",
          { cause: e, culprit: "caller", exitCode: 1 },
        );
      }
      throw orchestratorError(await withClocks(e, addresses.current), String(addresses));
    }
  }
}
