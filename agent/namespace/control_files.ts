/**
 * Files by which the agent and its session's programs exchange what they must, in a folder that both can write in. The
 * agent holds the folder open and reaches nothing outside of it, and reads regular files only, up to a limit.
 */
import { Buffer } from "node:buffer";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { readFile } from "../../proto/tree/files.ts";
import type { Beneath } from "../files/beneath.ts";

/** Of a larger file, which is none of what is exchanged here, this much is read. Bytes. */
const MAX_BYTES = 1 << 20;

/** Makes the folder anew: what a former session has left, and where it leads, means nothing. */
export function makeControlFolder(path: string): void {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  }
  Deno.mkdirSync(path, { recursive: true, mode: 0o700 });
}

/** Writes a file for the session alone; in the place of whatever is there. Throws an RbsError. */
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

/** What is in a file, as far as it is regular; empty if it is not there, or is none. */
export function readControlFile(folder: Beneath, name: string, maxBytes = MAX_BYTES): string {
  try {
    return Buffer.from(readFile(folder, name, maxBytes)).toString();
  } catch {
    return "";
  }
}

/** Removes whatever is there. Throws an Error when it cannot be removed. */
export function removeControlFile(folder: Beneath, name: string): void {
  try {
    folder.remove(name, { recursive: true });
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  }
}
