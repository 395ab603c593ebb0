import { RbsError } from "../../proto/base/errors.ts";
import { OutputsPolicy } from "../../proto/contract/gen/rbs/v1/command_pb.ts";

const POLICIES: Record<string, OutputsPolicy> = {
  toplevel: OutputsPolicy.TOPLEVEL,
  all: OutputsPolicy.ALL,
  minimal: OutputsPolicy.MINIMAL,
  none: OutputsPolicy.MINIMAL,
};

/** Bazel's exit code for an invalid command line. */
const USAGE = 2;

/**
 * Which outputs are copied back, from RBS_OUTPUTS in the client's environment: `toplevel` (default), `all`, `minimal`,
 * or `none`, which equals `minimal`.
 *
 * @throws RbsError with exit code 2 for anything else.
 */
export function outputsPolicy(value: string | undefined): OutputsPolicy {
  if (!value) return OutputsPolicy.TOPLEVEL;
  if (Object.hasOwn(POLICIES, value)) return POLICIES[value];
  throw new RbsError(
    `RBS_OUTPUTS=${printable(value)} names no policy for outputs: set it to toplevel, all, minimal or none.`,
    { culprit: "caller", exitCode: USAGE },
  );
}

/** Shortened, and without control characters. */
function printable(value: string): string {
  const text = value.replace(/[^\x20-\x7e]/g, "?");
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
