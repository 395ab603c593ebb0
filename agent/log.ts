import { log as write } from "../proto/base/log.ts";

/** The log file, where the agent's standard error is one: in the folder that it works in, where no session can write. */
const FILE = "agent.log";
/** What the log file, and the one before it, may hold. Bytes. */
const MAX_FILE_BYTES = 8 << 20;
/** What was written since the file was looked at. Bytes. */
let written = MAX_FILE_BYTES;

/** Writes one line to the session's log file, which does not grow without end. */
export function log(message: string): void {
  written += write(message);
  if (written > MAX_FILE_BYTES) written = turnOver();
}

/** Makes the log file, once it is full, the former one. @returns the bytes in the file */
function turnOver(): number {
  try {
    const { isFile, size } = Deno.lstatSync(FILE);
    if (!isFile || size <= MAX_FILE_BYTES) return size;
    // Whoever writes there goes on in the same file, at its new end.
    const former = `${FILE}.old`;
    try {
      Deno.removeSync(former);
    } catch {
      // There is none.
    }
    Deno.copyFileSync(FILE, former);
    Deno.truncateSync(FILE);
  } catch {
    // The log is no file.
  }
  return 0;
}
