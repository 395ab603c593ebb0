/**
 * Files by which the agent and its session's programs exchange what they must. Those programs can write in the folder, and
 * the agent sees more than they do: whatever is done there is done to the very file of that name, never to one that a
 * symlink leads to. The folder itself is a mount point for them, which they can neither move nor remove.
 *
 * Deno resolves symlinks before it opens, whatever flags say, so what was opened is looked at afterwards.
 */
import { Buffer } from "node:buffer";
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { RbsError, sentence } from "../proto/errors.ts";

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
export function writeControlFile(path: string, text: string): void {
  try {
    try {
      Deno.removeSync(path);
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
    }
    Deno.writeTextFileSync(path, text, { mode: 0o600, createNew: true });
  } catch (cause) {
    throw new RbsError(
      `The session's storage cannot be written (${sentence(cause)}): make room or mend its rights.`,
      { cause, culprit: "caller" },
    );
  }
}

/** What is in a file that nobody writes any more; empty if it is not there, or is none. @param path Absolute; its folder is the control directory. */
export function readControlFile(path: string): string {
  try {
    // Of a fifo, nobody would ever be done with the opening.
    if (!Deno.lstatSync(path).isFile) return "";
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      // A file that the session does not see it cannot give a second name, either.
      const opened = fstatSync(fd), there = Deno.lstatSync(path);
      if (!there.isFile || there.ino !== opened.ino || there.dev !== opened.dev) return "";
      const content = Buffer.alloc(Math.min(opened.size, MAX_BYTES));
      return content.subarray(0, readSync(fd, content)).toString();
    } finally {
      closeSync(fd);
    }
  } catch {
    return "";
  }
}
