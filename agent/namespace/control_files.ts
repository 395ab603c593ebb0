/**
 * Files by which the agent and its session's programs exchange data, in a directory that both can write. The agent
 * holds the directory open, reaches nothing outside of it, and reads only regular files up to a limit.
 */
import { Buffer } from "node:buffer";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { readFile } from "../../proto/tree/files.ts";
import type { Beneath } from "../files/beneath.ts";

/** Only this much of a file is read; legitimate files are smaller. Bytes. */
const MAX_BYTES = 1 << 20;

/** Recreates the directory, so that leftovers and symlinks of a former session have no effect. */
export function makeControlFolder(path: string): void {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  }
  Deno.mkdirSync(path, { recursive: true, mode: 0o700 });
}

/** Writes a file that only the session can read, replacing anything at its path. Throws an RbsError. */
export function writeControlFile(folder: Beneath, name: string, text: string): void {
  try {
    removeControlFile(folder, name);
    using file = folder.create(name, 0o600);
    file.write(new Uint8Array(Buffer.from(text)));
  } catch (cause) {
    throw new RbsError(
      `The session's storage cannot be written (${sentence(cause)}): make room or fix its permissions.`,
      { cause, culprit: "caller" },
    );
  }
}

/** The content of a regular file; empty if there is none. */
export function readControlFile(folder: Beneath, name: string, maxBytes = MAX_BYTES): string {
  try {
    return Buffer.from(readFile(folder, name, maxBytes)).toString();
  } catch {
    return "";
  }
}

/** Removes whatever is at a path. Throws an Error if that fails. */
export function removeControlFile(folder: Beneath, name: string): void {
  try {
    folder.remove(name, { recursive: true });
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  }
}
