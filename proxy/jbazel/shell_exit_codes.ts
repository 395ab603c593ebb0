/** A shell's exit code for a program that a broken pipe ended (128 + SIGPIPE). */
export const BROKEN_PIPE_EXIT = 141;
/** A shell's exit code for a program that the loss of its terminal ended (128 + SIGHUP). */
export const HANGUP_EXIT = 129;
