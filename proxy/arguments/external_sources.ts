import { RbsError } from "../../proto/base/errors.ts";
import { isRepositoryName } from "../../proto/bazel/repository_name.ts";

/** Bazel's exit code for an invalid command line. */
const USAGE = 2;
/** Maximum length of the list, in characters. */
const MAX_LENGTH = 10_000;

/**
 * The external repositories whose sources an editor needs here, from RBS_EXTERNAL_SOURCES in the client's environment:
 * names separated by commas, or `*` for all that the agent has. A name also matches with the suffix that Bazel adds to
 * a module's name.
 *
 * @throws RbsError with exit code 2 for anything else.
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
