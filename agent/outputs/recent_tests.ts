/** Finds logs of tests that ran before a command was interrupted; the build events name none of them. */
import type { Files } from "../../proto/tree/files.ts";
import { Pace } from "../../proto/base/time_slice.ts";

/** The kernel's clock for files lags behind ours by a tick, more on a busy machine. Milliseconds. */
const TICK_MS = 100;
/** Maximum number of names looked at: the user has pressed Ctrl-C and waits. */
const MAX_NAMES = 20_000;

/**
 * The directories of tests that were written to since a moment.
 *
 * @param files The files to search.
 * @param bazelOut The path of bazel-out in `files`.
 * @param since By Date.now().
 * @returns paths relative to bazel-out
 */
export async function recentTests(files: Files, bazelOut: string, since: number): Promise<string[]> {
  const found: string[] = [];
  const waiting = names(files, bazelOut).map((configuration) => `${configuration}/testlogs`);
  const pace = new Pace();
  let left = MAX_NAMES;
  for (let at = waiting.pop(); at !== undefined && left > 0; at = waiting.pop()) {
    for (const name of names(files, `${bazelOut}/${at}`)) {
      if (pace.due) await pace.rest();
      if (--left < 0) break;
      const path = `${at}/${name}`;
      const info = look(files, `${bazelOut}/${path}`);
      if (info?.kind === "directory") waiting.push(path);
      else if (name === "test.log" && info && info.ctimeMs >= since - TICK_MS) found.push(at);
    }
  }
  return found;
}

function names(files: Files, folder: string): string[] {
  try {
    return files.names(folder);
  } catch {
    return [];
  }
}

function look(files: Files, path: string) {
  try {
    return files.look(path);
  } catch {
    return undefined;
  }
}
