/** Bazel's exit codes that RBS uses or understands (Bazel 4.2.3 `ExitCode.java`). */
export const ExitCode = {
  /** A mistake on the command line. */
  COMMAND_LINE_ERROR: 2,
  /** The user pressed Ctrl-C. */
  INTERRUPTED: 8,
  /** Another command is running, and the caller did not want to wait. */
  LOCK_HELD: 9,
  /** A problem in the environment of the build; nothing was run. */
  LOCAL_ENVIRONMENTAL_ERROR: 36,
  /** The server died or was lost during the command. */
  INTERNAL_ERROR: 37,
} as const;
