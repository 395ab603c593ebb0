/** The commands that make outputs. */
const BUILDING = new Set(["build", "test", "run", "coverage", "mobile-install"]);
/** Those that fetch external repositories anew. */
const FETCHING = new Set(["fetch", "sync"]);

/** True for a command of Bazel's after which there may be new outputs. */
export function builds(command: string | undefined): boolean {
  return command !== undefined && BUILDING.has(command);
}

/** True for a command of Bazel's that may change outputs, or the files of external repositories that outputs lead to. */
export function changesOutputs(command: string | undefined): boolean {
  return builds(command) || command !== undefined && FETCHING.has(command);
}
