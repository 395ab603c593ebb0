const encoder = new TextEncoder();

/**
 * Writes one line to standard error: the session's log file. Whatever is written comes on one line, and a log that
 * cannot be written (its disk is full, its reader is gone) stops nothing.
 */
export function log(message: string): void {
  try {
    Deno.stderr.writeSync(encoder.encode(`${new Date().toISOString()} ${message.trimEnd().replaceAll("\n", "\\n")}\n`));
  } catch {
    // Nobody is left to tell.
  }
}
