import { RbsError } from "../../proto/base/errors.ts";
import type { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { Code, type NoAnswer, RpcError, TrustError } from "../../proto/transport/rpc/error.ts";

/** An orchestrator that has not answered a simple call by then counts as down. Milliseconds. */
export const ANSWER_TIMEOUT_MS = 10_000;

/**
 * Why an orchestrator was of no use.
 *
 * - Nobody has answered: the kinds of {@link NoAnswer}, and "silent".
 * - There was no key to come with: "no key", "unusable key".
 * - It, or what listens there, is not believed, or does not let the user in: "clocks differ", "not trusted", "certificate
 *   refused", "refused", "another program".
 * - It has answered that there is no server: "unavailable" (another attempt may help), "cannot start", "failed".
 * - The caller wants no answer any more: "interrupted".
 */
export type OrchestratorFailure =
  | NoAnswer["kind"]
  | "silent"
  | "no key"
  | "unusable key"
  | "clocks differ"
  | "not trusted"
  | "certificate refused"
  | "refused"
  | "another program"
  | "unavailable"
  | "cannot start"
  | "failed"
  | "interrupted";

/** After these another orchestrator may have a server, or the same one later. */
const PASSING: ReadonlySet<OrchestratorFailure> = new Set([
  "unknown name",
  "not connected",
  "broken off",
  "silent",
  "unavailable",
]);

/** A failed call of the orchestrator, with the sentence for the user. */
export class OrchestratorError extends RbsError {
  /** @param cause What was thrown. */
  constructor(readonly reason: OrchestratorFailure, message: string, cause: unknown, culprit?: "caller") {
    const exitCode = reason === "interrupted" ? ExitCode.INTERRUPTED : ExitCode.LOCAL_ENVIRONMENTAL_ERROR;
    super(message, { cause, culprit, exitCode });
  }

  /** Whether another orchestrator, or the same one a little later, may have a server. */
  get isPassing(): boolean {
    return PASSING.has(this.reason);
  }
}

/**
 * The error for a failed call.
 *
 * @param addresses Where the orchestrators are.
 * @param timeoutMs How long the answer was awaited, for the sentence about silence.
 */
export function orchestratorError(
  thrown: unknown,
  addresses: OrchestratorAddresses,
  timeoutMs: number = ANSWER_TIMEOUT_MS,
): OrchestratorError {
  if (thrown instanceof OrchestratorError) return thrown;
  if (thrown instanceof RbsError) {
    const reason = thrown.cause instanceof Deno.errors.NotFound ? "no key" : "unusable key";
    return new OrchestratorError(reason, thrown.message, thrown, "caller");
  }
  const error = RpcError.from(thrown);
  const reason = reasonOf(error);
  return new OrchestratorError(reason, describe(reason, error, addresses, timeoutMs), error, culpritOf(reason));
}

function reasonOf(error: RpcError): OrchestratorFailure {
  if (error instanceof TrustError) return error.clocks ? "clocks differ" : "not trusted";
  switch (error.code) {
    case Code.UNAVAILABLE:
      return error.noAnswer?.kind ?? "unavailable";
    case Code.DEADLINE_EXCEEDED:
      return "silent";
    case Code.UNAUTHENTICATED:
      return "certificate refused";
    case Code.PERMISSION_DENIED:
    case Code.INVALID_ARGUMENT:
    case Code.RESOURCE_EXHAUSTED:
      return "refused";
    case Code.UNIMPLEMENTED:
      return "another program";
    case Code.FAILED_PRECONDITION:
      return "cannot start";
    case Code.CANCELLED:
      return "interrupted";
    default:
      return "failed";
  }
}

function culpritOf(reason: OrchestratorFailure): "caller" | undefined {
  switch (reason) {
    case "clocks differ":
    case "not trusted":
    case "certificate refused":
    case "refused":
    case "cannot start":
    case "interrupted":
      return "caller";
    default:
      return undefined;
  }
}

function describe(
  reason: OrchestratorFailure,
  error: RpcError,
  addresses: OrchestratorAddresses,
  timeoutMs: number,
): string {
  const why = error instanceof TrustError ? error.why : "";
  switch (reason) {
    case "unknown name":
      return `The orchestrator's host name in ${addresses} is not known: correct RBS_ORCHESTRATOR_ADDR.`;
    case "not connected": {
      const { systemCode } = error.noAnswer!;
      const what = systemCode === "ECONNREFUSED" ? "nothing listens there" : systemCode ?? "no connection";
      // It can only be started on its own machine.
      const remedy = addresses.areLocal ? 'start it with "orchestrator install"' : "ask its operator whether it runs";
      return `The orchestrator at ${addresses} cannot be reached (${what}): ${remedy}, or correct RBS_ORCHESTRATOR_ADDR; with ` +
        "RBS_FALLBACK=local Bazel runs on this machine instead.";
    }
    case "broken off":
      return `The connection to the orchestrator at ${addresses} broke off: run the command again, or see whether the ` +
        "orchestrator runs there.";
    case "silent":
      return `The orchestrator at ${addresses} has not answered within ${
        timeoutMs / 1000
      } s: see whether it hangs, or whether ` +
        "RBS_ORCHESTRATOR_ADDR names something else.";
    case "clocks differ":
      return `The orchestrator at ${addresses} is not trusted because the clocks differ: ${why}; correct the clock that is wrong.`;
    case "not trusted":
      return `The orchestrator at ${addresses} is not to be trusted: ${why}. Correct RBS_ORCHESTRATOR_ADDR, or use the keys that belong to it ` +
        "(RBS_STATE_DIR, or `jbazel login`).";
    case "certificate refused":
      return `The orchestrator at ${addresses} refuses this user's certificate: ${error.message}`;
    case "refused":
      return `The orchestrator at ${addresses} refuses: ${error.message}`;
    case "another program":
      return `What listens at ${addresses} is not an orchestrator of this version: correct RBS_ORCHESTRATOR_ADDR.`;
    case "interrupted":
      return "Interrupted while waiting for the build server.";
    case "failed":
      return `The orchestrator at ${addresses} failed: ${error.message}`;
    // The orchestrator's own sentences; and the keys', which come with theirs.
    case "unavailable":
    case "cannot start":
    case "no key":
    case "unusable key":
      return error.message;
  }
}
