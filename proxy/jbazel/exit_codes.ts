/** Bazel's own exit codes, where jbazel speaks for Bazel (Bazel 4.2.3 `ExitCode.java`). */
export const BazelExit = {
  /** A mistake on the command line. */
  COMMAND_LINE: 2,
  /** The user pressed Ctrl-C. */
  INTERRUPTED: 8,
  /** Something around the build server is not as it should be; nothing was run. */
  ENVIRONMENT: 36,
  /** The build server was lost in mid-command. */
  SERVER_LOST: 37,
} as const;

/** What a shell reports for a program that a broken pipe ended (128 + SIGPIPE). */
export const BROKEN_PIPE_EXIT = 141;
/** What a shell reports for a program that the loss of its terminal ended (128 + SIGHUP). */
export const HANGUP_EXIT = 129;
