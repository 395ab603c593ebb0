/**
 * `bazel clean --expunge` in a session. Bazel would delete the output base itself, which is a mount point here: that
 * fails (EBUSY) after everything in it is gone, and leaves a server without its files. So the server gets a plain
 * `clean`, which prints the same. The agent does the rest: it ends the server and empties the output base.
 */

/** The arguments for Bazel. */
export interface WithoutExpunge {
  /** As many as before. */
  args: string[];
  /** Whether the output base has to be emptied afterwards. */
  expunge: boolean;
}

const OFF = /^--noexpunge$|^--expunge=(0|false|no|n)$/;

/**
 * Replaces `--expunge` and `--expunge_async` in a command's arguments, including those from rc files.
 *
 * @param args The command, its name first, in any encoding that keeps ASCII.
 */
export function withoutExpunge(args: readonly string[]): WithoutExpunge {
  if (args[0] !== "clean") return { args: [...args], expunge: false };
  let expunge = false;
  const kept = args.map((arg) => {
    // From an rc file: --default_override=<number of the file>:<command>=<option>.
    const [, prefix, option] = /^(--default_override=\d+:clean=)?(.*)$/s.exec(arg)!;
    if (OFF.test(option)) expunge = false;
    else if (/^--expunge(_async)?(=.*)?$/s.test(option)) expunge = true;
    else return arg;
    return (prefix ?? "") + (option.startsWith("--expunge_async") ? "--async" : "--noexpunge");
  });
  return { args: kept, expunge };
}
