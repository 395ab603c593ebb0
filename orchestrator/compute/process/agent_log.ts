import { fstatSync, lstatSync, mkdirSync, readSync, renameSync } from "node:fs";
import { join } from "node:path";

/** The file in a session's storage directory that takes the agent's standard error. */
export function agentLogFile(storageDirectory: string): string {
  return join(storageDirectory, "agent.log");
}

/** Puts the log of the agent before away as `agent.log.old`, so that `agent.log` speaks of one agent only. */
export function rotateAgentLog(storageDirectory: string): void {
  try {
    renameSync(agentLogFile(storageDirectory), agentLogFile(storageDirectory) + ".old");
  } catch (e) {
    if ((e as { code?: string }).code !== "ENOENT") throw e;
  }
}

/**
 * Makes an agent's log, which is in its own folder, the log of its session: whoever writes there goes on. Does nothing when
 * it was moved before. A log that is gone, or a disk that is full, keeps no agent from its session.
 */
export function moveAgentLog(from: string, to: string): void {
  try {
    lstatSync(agentLogFile(from));
    mkdirSync(to, { recursive: true, mode: 0o700 });
    rotateAgentLog(to);
    renameSync(agentLogFile(from), agentLogFile(to));
  } catch {
    // Its lines are lost, and nothing else.
  }
}

/** How much of the log's end is looked at, in bytes. */
const TAIL_BYTES = 8 << 10;
/** What of the last line is shown to a person, in characters. */
const SHOWN = 300;

/**
 * The last line of an agent's log that says something, without control characters; "" if there is none. Of the file that
 * is open, since an agent's user can put anything else in the place of its name.
 */
export function lastWords(log: number): string {
  try {
    const { size } = fstatSync(log);
    const tail = new Uint8Array(TAIL_BYTES);
    const length = readSync(log, tail, 0, TAIL_BYTES, Math.max(0, size - TAIL_BYTES));
    return lastLine(new TextDecoder().decode(tail.subarray(0, length)));
  } catch {
    return "";
  }
}

/** The last line of `text` that holds more than blanks, without control characters and escape sequences, cut short. */
export function lastLine(text: string): string {
  // deno-lint-ignore no-control-regex
  const plain = text.replaceAll(/\x1b\[[0-9;?]*[A-Za-z]/g, "").split(/[\r\n]+/)
    // deno-lint-ignore no-control-regex
    .map((line) => line.replaceAll(/[\x00-\x1f\x7f-\x9f]/g, " ").trim());
  const line = plain.findLast((l) => l !== "") ?? "";
  return line.length > SHOWN ? line.slice(0, SHOWN) + "…" : line;
}
