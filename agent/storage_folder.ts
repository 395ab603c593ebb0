import { createHash } from "node:crypto";
import { join } from "node:path";
import { Beneath } from "./files/beneath.ts";

/**
 * The folder of a session's storage in which an output base lives. The first output base of a workspace gets `out`. A
 * developer who uses another one for the same workspace (`--output_base`) gets another folder for it, for good: what is
 * in an output base holds its absolute path (runfiles, external repositories) and is wrong under any other.
 *
 * @param storageDirectory The session's own folder, absolute; is made if it is not there.
 * @param outputBase By the developer's own name, absolute; undefined if there is none.
 */
export function storageFolder(storageDirectory: string, outputBase: string | undefined): string {
  const first = join(storageDirectory, "out");
  if (outputBase === undefined) return first;
  Deno.mkdirSync(storageDirectory, { recursive: true, mode: 0o700 });
  const owner = join(storageDirectory, "out.belongs-to");
  try {
    Deno.writeTextFileSync(owner, outputBase, { createNew: true, mode: 0o600 });
  } catch (e) {
    if (!(e instanceof Deno.errors.AlreadyExists)) throw e;
    if (Deno.readTextFileSync(owner) !== outputBase) {
      return `${first}-${createHash("md5").update(outputBase).digest("hex").slice(0, 12)}`;
    }
  }
  return first;
}

/**
 * Opens the session's own folder: the agent reaches all that the session's programs can write through it. Makes it if it
 * is not there. Throws Deno's errors.
 *
 * @param storageDirectory Absolute, below a folder in which no session can write.
 */
export function openStorage(storageDirectory: string): Beneath {
  Deno.mkdirSync(storageDirectory, { recursive: true, mode: 0o700 });
  return Beneath.open(storageDirectory);
}

/** The folder of a session's storage that a synced session sees as `/`. */
export const SYNCED_ROOT = "root";

/** The same as an absolute path. */
export function syncedRoot(storageDirectory: string): string {
  return join(storageDirectory, SYNCED_ROOT);
}
