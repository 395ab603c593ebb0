import { RbsError } from "../../proto/base/errors.ts";
import { isRepositoryName } from "../../proto/bazel/repository_name.ts";

/** Bazel's exit code for a command line that it does not understand. */
const USAGE = 2;
/** The longest list that makes sense. Characters. */
const MAX_LENGTH = 10_000;

/**
 * The external repositories whose sources an editor wants here, as RBS_EXTERNAL_SOURCES in the client's environment says:
 * names with commas between them, `*` for all that the agent has. A name counts with what Bazel adds to that of a module.
 *
 * @throws RbsError with exit code 2 if it says anything else.
 */
export function externalSources(value = ""): string[] {
  const names = value.slice(0, MAX_LENGTH + 1).split(/[\s,]+/).filter((name) => name !== "").map((name) =>
    name.replace(/^@{1,2}/, "")
  );
  const wrong = value.length > MAX_LENGTH ? "the list" : names.find((name) => name !== "*" && !isRepositoryName(name));
  if (wrong === undefined) return [...new Set(names)];
  throw new RbsError(
    `RBS_EXTERNAL_SOURCES names no external repository with ${JSON.stringify(wrong.slice(0, 40))}: ` +
      "set it to names as they stand in `external`, with commas between them, or to *.",
    { culprit: "caller", exitCode: USAGE },
  );
}
