import { join } from "node:path";
import { RbsError } from "../proto/errors.ts";

/** Options of {@link lockStorage}. */
export interface StorageLockOptions {
  /** How long to wait for whoever has it. Milliseconds. */
  timeoutMs: number;
  /** Called once if there is somebody to wait for. */
  onWait(): void;
}

/**
 * Takes a session's storage for this process, until it is disposed of or the process ends in whatever way.
 *
 * An agent that an orchestrator lost sight of (killed while the agent started) runs on for its lease, and the session may
 * have another one by then: without the lock both would run a Bazel server in the same output base. Rejects with an
 * RbsError when it takes too long.
 *
 * @param directory The session's storage. It exists.
 */
export async function lockStorage(directory: string, { timeoutMs, onWait }: StorageLockOptions): Promise<Disposable> {
  const file = await Deno.open(join(directory, "agent.lock"), { write: true, create: true, mode: 0o600 });
  if (await file.tryLock(true)) return file;
  onWait();
  const timeout = Promise.withResolvers<false>();
  const timer = setTimeout(() => timeout.resolve(false), timeoutMs);
  // The system call cannot be taken back, but its thread ends with the process.
  const locked = await Promise.race([file.lock(true).then(() => true), timeout.promise]);
  clearTimeout(timer);
  if (locked) return file;
  throw new RbsError(
    `The session's storage ${directory} is still used by another agent after ${timeoutMs / 1000} s: try again later.`,
  );
}
