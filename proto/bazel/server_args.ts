/** The proxy's view of the arguments that the Bazel client composed for the server's JVM. */
export interface ServerArgs {
  /** All arguments after argv[0], unchanged: the real server is started with them. */
  argv: string[];
  /** What the real server inherits, see {@link clientShellOptions}. @default unknown */
  clientShell?: string[];
  /** Absolute path. */
  outputBase: string;
  /** Absolute path; empty outside of a workspace. */
  workspace: string;
  /** Seconds without a command after which the server ends; 0 means never. */
  maxIdleSeconds: number;
}

/**
 * Reads a server's arguments. The server's own options follow the jar or the main class, which depends on the build
 * (Debian's Bazel 7 has no `-jar`). No JVM option has such a name, so they are found by name. The last value of a
 * repeated option counts, as in Bazel.
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
