import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { RbsError, sentence } from "../proto/base/errors.ts";
import { foreignHand, learnOwnUid } from "../proto/base/owners.ts";
import { isBusy } from "./store/sqlite_error.ts";

/**
 * Makes a directory if need be (0700), and checks that it can be written, and by nobody else, and that nobody else owns it
 * or could put another in its place: whoever can is trusted as this orchestrator is. Throws an RbsError.
 *
 * @param what What it is, for the message: "state directory".
 * @param remedy What to do about it: "name another with --state-dir".
 */
export function prepareDirectory(directory: string, what: string, remedy: string): void {
  try {
    Deno.mkdirSync(directory, { recursive: true, mode: 0o700 });
    const { mode, isDirectory } = Deno.statSync(directory);
    if (!isDirectory) throw new Error("not a directory");
    if (((mode ?? 0) & 0o022) !== 0) {
      throw new RbsError(
        `The ${what} ${directory} can be written by other users (mode ${
          (mode! & 0o7777).toString(8)
        }), who could take ` +
          `over builds: run \`chmod go-w\` on it, or ${remedy}.`,
        { culprit: "caller" },
      );
    }
    // Permission bits do not tell of read-only disks, quotas and root; a file does.
    const file = Deno.makeTempFileSync({ dir: directory, prefix: ".rbs-check-" });
    learnOwnUid(file);
    Deno.removeSync(file);
    const hand = foreignHand(directory);
    if (hand) {
      throw new RbsError(
        `The ${what} ${directory} ${hand}, who could take over builds: run the orchestrator as that user, or ${remedy}.`,
        { culprit: "caller" },
      );
    }
  } catch (cause) {
    if (cause instanceof RbsError) throw cause;
    throw new RbsError(
      `The ${what} ${directory} cannot be written (${sentence(cause)}): make it writable, or ${remedy}.`,
      {
        cause,
        culprit: "caller",
      },
    );
  }
}

/** How long another orchestrator may take to set a state directory up. Milliseconds. */
const SET_UP_MS = 5_000;

/**
 * Takes a state directory for this process while it is set up (its keys), since several orchestrators may share it; waits
 * for one that does so already. The lock is an open transaction of SQLite, which ends with what is returned, or with the
 * process in whatever way. Throws an RbsError when it cannot be had.
 */
export function lockStateDirectory(directory: string): Disposable {
  const file = join(directory, "orchestrator.lock");
  let database: DatabaseSync | undefined;
  try {
    Deno.openSync(file, { read: true, write: true, create: true, mode: 0o600 }).close();
    database = new DatabaseSync(file);
    database.exec(`PRAGMA busy_timeout = ${SET_UP_MS}`);
    database.prepare("BEGIN EXCLUSIVE").run();
  } catch (cause) {
    database?.close();
    throw new RbsError(
      isBusy(cause)
        ? `Another orchestrator has been setting up the state directory ${directory} for too long: stop it, or give this ` +
          `one another --state-dir.`
        : `The state directory ${directory} cannot be locked (${sentence(cause)}): move ${file} away and start again.`,
      { cause, culprit: "caller" },
    );
  }
  const held = database;
  return { [Symbol.dispose]: () => held.close() };
}

/** Checks that there is an agent program. Throws an RbsError that says how to get one. */
export function checkAgentProgram(program: string): void {
  try {
    const { isFile, mode } = Deno.statSync(program);
    if (isFile && ((mode ?? 0) & 0o111) !== 0) return;
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) {
      throw new RbsError(
        `The agent program ${program} cannot be looked at (${sentence(cause)}): name it with --agent.`,
        {
          cause,
          culprit: "caller",
        },
      );
    }
  }
  throw new RbsError(
    `There is no agent program at ${program}: make it with \`deno task compile\`, or name another with --agent.`,
    { culprit: "caller" },
  );
}
