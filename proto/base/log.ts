/** Writes one line for whoever operates a program. */
export type Log = (message: string) => void;

const encoder = new TextEncoder();
/** No chain of honest causes is longer. */
const MAX_CAUSES = 10;

/**
 * Writes a line to standard error, which is the log of each program: the time, and the message. Whatever the message holds
 * comes on one line, and a log that cannot be written (its disk is full, its reader is gone) stops nothing.
 *
 * @returns the bytes that were written
 */
export function log(message: string): number {
  try {
    const line = `${new Date().toISOString()} ${message.trimEnd().replaceAll("\n", "\\n")}\n`;
    return Deno.stderr.writeSync(encoder.encode(line));
  } catch {
    return 0; // Nobody is left to tell.
  }
}

/** What nobody expected, for a log: where it was thrown, and its causes. */
export function trace(thrown: unknown): string {
  const said: string[] = [];
  for (let e = thrown; e !== undefined && said.length < MAX_CAUSES; e = e instanceof Error ? e.cause : undefined) {
    said.push(e instanceof Error ? e.stack ?? e.message : String(e));
  }
  return said.join("\ncaused by ");
}
