import { RbsError } from "../../proto/base/errors.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { keyDirectory } from "../../proto/identity/key_directory.ts";
import type { Settings } from "./settings.ts";
import { findStanding, type Standing } from "./standing.ts";

/**
 * Rewords the error of a call that found no orchestrator or no key: there is none here yet, it does not run, or it does
 * not know the user. Returns other errors unchanged.
 *
 * @param install The command line that starts an orchestrator on this machine.
 */
export async function explainUnreachable(e: unknown, settings: Settings, install: string): Promise<unknown> {
  if (!(e instanceof RbsError) || e.exitCode !== ExitCode.LOCAL_ENVIRONMENTAL_ERROR) return e;
  const message = describe(await findStanding(settings), settings, install);
  return message === undefined
    ? e
    : new RbsError(message, { cause: e, culprit: "caller", exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR });
}

function describe(standing: Standing, settings: Settings, install: string): string | undefined {
  const { orchestrator, stateDirectory } = settings;
  const { keyMissing, nothingListens, local } = standing;
  if (nothingListens && keyMissing) {
    return `No build server is available, because the program that starts them, the orchestrator, does not run on this ` +
      `machine yet (nothing listens at ${orchestrator}): start it with \`${install}\`, or run \`jbazel login\` if your ` +
      `team has one.`;
  }
  if (nothingListens) {
    return `No build server is available, because this machine's orchestrator does not run (nothing listens at ` +
      `${orchestrator}): start it with \`${install}\`; with RBS_FALLBACK=local Bazel runs on this machine instead.`;
  }
  if (!keyMissing) return undefined;
  const keys = keyDirectory(stateDirectory);
  return local
    ? `Something listens at ${orchestrator}, but there is no key for it in ${keys}: set RBS_STATE_DIR to the state ` +
      `directory of that orchestrator, or run \`jbazel login\` with a token of it.`
    : `The orchestrator at ${orchestrator} does not know you yet (there is no key in ${keys}): ask its operator for a ` +
      `token, which \`orchestrator enrol\` prints, and run \`jbazel login\`.`;
}
