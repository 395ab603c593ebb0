import { join } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";

/** Options of {@link lockStorage}. */
export interface StorageLockOptions {
  /** How long to wait for the present holder. Milliseconds. */
  timeoutMs: number;
  /** Called once if the lock is held. */
  onWait(): void;
}

/**
 * Locks a session's storage for this process, until it is disposed of or the process ends in any way.
 *
 * An agent that its orchestrator lost sight of (killed while the agent started) continues until its lease ends, and the
 * session may have another agent by then: without the lock both would run a Bazel server in the same output base.
 * Rejects with an RbsError on timeout.
 *
 * @param directory The session's storage; created if missing.
 */
export async function lockStorage(directory: string, { timeoutMs, onWait }: StorageLockOptions): Promise<Disposable> {
  let file: Deno.FsFile;
  try {
    await Deno.mkdir(directory, { recursive: true, mode: 0o700 });
    const path = join(directory, "agent.lock");
    // Opening a fifo would block forever.
    if (!await isFileOrNothing(path)) await Deno.remove(path, { recursive: true });
    file = await Deno.open(path, { write: true, create: true, mode: 0o600 });
  } catch (cause) {
    throw new RbsError(
      `The session's storage ${directory} cannot be written (${sentence(cause)}): make room or fix its permissions.`,
      { cause },
    );
  }
  if (await file.tryLock(true)) return file;
  onWait();
  const timeout = Promise.withResolvers<false>();
  const timer = setTimeout(() => timeout.resolve(false), timeoutMs);
  // The system call cannot be cancelled, but its thread ends with the process.
  const locked = await Promise.race([file.lock(true).then(() => true), timeout.promise]);
  clearTimeout(timer);
  if (locked) return file;
  throw new RbsError(
    `The session's storage ${directory} is still used by another agent after ${timeoutMs / 1000} s: try again later.`,
  );
}

async function isFileOrNothing(path: string): Promise<boolean> {
  try {
    return (await Deno.lstat(path)).isFile;
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return true;
    throw e;
  }
}
