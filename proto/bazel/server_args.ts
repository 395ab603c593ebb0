/** What the proxy needs of the argument vector that the Bazel client composed for the server's JVM. */
export interface ServerArgs {
  /** All of it, after argv[0], unchanged: what the real server is started with. */
  argv: string[];
  /** What the real server is to inherit, see {@link clientShellOptions}. @default nothing is known of it */
  clientShell?: string[];
  /** Absolute. */
  outputBase: string;
  /** Absolute; empty outside of a workspace. */
  workspace: string;
  /** Seconds without a command after which the server ends; 0: never. */
  maxIdleSeconds: number;
}

/**
 * Reads a server's arguments. The server's own options follow the jar or the main class, where JVMs of different builds
 * differ (Debian's Bazel 7 has no `-jar`); their names are unlike any JVM option's, so they are looked up by name.
 * A repeated option's last value counts, as in Bazel.
 */
export function parseServerArgs(argv: string[]): ServerArgs {
  const option = (name: string) => argv.findLast((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3) ?? "";
  const idle = Number(option("max_idle_secs"));
  return {
    argv,
    outputBase: option("output_base"),
    workspace: option("workspace_directory"),
    maxIdleSeconds: Number.isFinite(idle) && idle > 0 ? idle : 0,
  };
}
