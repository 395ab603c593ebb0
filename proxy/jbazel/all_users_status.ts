import { RbsError } from "../../proto/base/errors.ts";
import { Operator } from "../../proto/contract/gen/rbs/v1/operator_pb.ts";
import type { Session } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { operatorOf } from "../../proto/identity/key_directory.ts";
import { OrchestratorClient } from "../session/orchestrator_client.ts";
import { ANSWER_TIMEOUT_MS, OrchestratorError } from "../session/orchestrator_error.ts";
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
  using client = new OrchestratorClient(Operator, {
    address: settings.orchestrator,
    stateDirectory: () => settings.stateDirectory,
    holder: "operator",
  });
  const operator = operatorName(client, settings.stateDirectory);
  const sessions = (await listAllSessions(client)).map(describeSession);
  if (json) say(JSON.stringify({ operator, orchestrator: settings.orchestrator, sessions }, null, 2));
  else if (sessions.length === 0) say(`No sessions at ${settings.orchestrator}.`);
  else for (const line of renderSessions(sessions, { users: true })) say(line);
  // What fails is tried again by the next one.
  await client.renewKeys();
  return 0;
}

function operatorName(client: OrchestratorClient<typeof Operator>, stateDirectory: string): string {
  try {
    return operatorOf(client.credentials);
  } catch (e) {
    if (!(e instanceof OrchestratorError)) throw e;
    throw new RbsError(
      e.reason === "no key"
        ? `status: --all-users is for operators, and there is no operator's key in ${stateDirectory}/keys: ask for a token ` +
          "of `orchestrator enrol --operator NAME`, and give it to `jbazel login`."
        : e.message,
      { cause: e, culprit: "caller" },
    );
  }
}

/** Asks the orchestrators in turn. Throws an RbsError. */
async function listAllSessions(client: OrchestratorClient<typeof Operator>): Promise<Session[]> {
  const timeoutMs = ANSWER_TIMEOUT_MS;
  try {
    return (await client.ask((rpc) => rpc.listSessions({}, { timeoutMs }), { timeoutMs })).sessions;
  } catch (e) {
    if (!(e instanceof OrchestratorError) || e.reason !== "another program") throw e;
    throw new RbsError(
      `status: the orchestrator at ${client.addresses.current} is older than this jbazel and knows no operators: update it, ` +
        "or leave out --all-users.",
      { cause: e, culprit: "caller" },
    );
  }
}
