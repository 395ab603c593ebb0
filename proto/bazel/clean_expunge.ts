/**
 * `bazel clean --expunge` in a session. Bazel would delete the output base itself, which is a mount point here: that
 * fails (EBUSY) after everything in it is gone, and leaves a server without its files. So the server is asked for a
 * plain `clean`, which says the same, and the agent does the rest: it ends the server and empties the output base.
 */

/** The arguments that Bazel gets. */
export interface WithoutExpunge {
  /** As many as there were. */
  args: string[];
  /** Whether the output base is to be emptied afterwards. */
  expunge: boolean;
}

const OFF = /^--noexpunge$|^--expunge=(0|false|no|n)$/;

/**
 * Takes `--expunge` and `--expunge_async` out of a command's arguments, rc files' among them.
 *
 * @param args The command, its name first; texts of any encoding that keeps ASCII.
 */
export function withoutExpunge(args: readonly string[]): WithoutExpunge {
  if (args[0] !== "clean") return { args: [...args], expunge: false };
  let expunge = false;
  const kept = args.map((arg) => {
    // What an rc file says: --default_override=<number of the file>:<command>=<option>.
    const [, prefix, option] = /^(--default_override=\d+:clean=)?(.*)$/s.exec(arg)!;
    if (OFF.test(option)) expunge = false;
    else if (/^--expunge(_async)?(=.*)?$/s.test(option)) expunge = true;
    else return arg;
    return (prefix ?? "") + (option.startsWith("--expunge_async") ? "--async" : "--noexpunge");
  });
  return { args: kept, expunge };
}
