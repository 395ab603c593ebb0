/** Commands that make outputs. */
const BUILDING = new Set(["build", "test", "run", "coverage", "mobile-install"]);
/** Commands that fetch external repositories again. */
const FETCHING = new Set(["fetch", "sync"]);

/** Whether there may be new outputs after a command. */
export function builds(command: string | undefined): boolean {
  return command !== undefined && BUILDING.has(command);
}

/** Whether a command may change outputs, or the files of external repositories that outputs lead to. */
export function changesOutputs(command: string | undefined): boolean {
  return builds(command) || command !== undefined && FETCHING.has(command);
}
