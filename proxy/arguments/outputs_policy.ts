import { RbsError } from "../../proto/base/errors.ts";
import { OutputsPolicy } from "../../proto/contract/gen/rbs/v1/command_pb.ts";

const POLICIES: Record<string, OutputsPolicy> = {
  toplevel: OutputsPolicy.TOPLEVEL,
  all: OutputsPolicy.ALL,
  minimal: OutputsPolicy.MINIMAL,
  none: OutputsPolicy.MINIMAL,
};

/** Bazel's exit code for a command line that it does not understand. */
const USAGE = 2;

/**
 * Which outputs come home, as RBS_OUTPUTS in the client's environment says: `toplevel` (default), `all`, `minimal`, or
 * `none`, which is the same.
 *
 * @throws RbsError with exit code 2 if it says anything else.
 */
export function outputsPolicy(value: string | undefined): OutputsPolicy {
  if (!value) return OutputsPolicy.TOPLEVEL;
  if (Object.hasOwn(POLICIES, value)) return POLICIES[value];
  throw new RbsError(
    `RBS_OUTPUTS=${printable(value)} names no policy for outputs: set it to toplevel, all, minimal or none.`,
    { culprit: "caller", exitCode: USAGE },
  );
}

/** Short, and without control characters. */
function printable(value: string): string {
  const text = value.replace(/[^\x20-\x7e]/g, "?");
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
