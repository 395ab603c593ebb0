import { RbsError } from "../../proto/base/errors.ts";

/** Bazel's exit code for an invalid command line. */
const USAGE = 2;

/**
 * Whether the user wants commands to run on this machine when there is no agent.
 *
 * @param value RBS_FALLBACK in the client's environment.
 * @throws RbsError with exit code 2 for anything but "local" and "error".
 */
export function fallsBack(value = "error"): boolean {
  if (value === "local") return true;
  if (value === "error" || value === "") return false;
  throw new RbsError(`RBS_FALLBACK must be "local" or "error", but it is ${JSON.stringify(value.slice(0, 40))}.`, {
    culprit: "caller",
    exitCode: USAGE,
  });
}
