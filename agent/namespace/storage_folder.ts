import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { readFile } from "../../proto/tree/files.ts";
import { Beneath } from "../files/beneath.ts";

/** The file that says which output base has `out`. */
const OWNER = "out.belongs-to";
/** Maximum bytes read of it; a larger file is not ours. */
const MAX_OWNER_BYTES = 64 << 10;

/**
 * The directory in a session's storage for an output base. The first output base of a workspace gets `out`. Another one
 * for the same workspace (`--output_base`) permanently gets another directory: an output base contains its own absolute
 * path (runfiles, external repositories), and is invalid under any other.
 *
 * @param storageDirectory The session's own directory, absolute; created if missing.
 * @param outputBase The developer's absolute path; undefined if there is none.
 */
export function storageFolder(storageDirectory: string, outputBase: string | undefined): string {
  const first = join(storageDirectory, "out");
  if (outputBase === undefined) return first;
  using storage = openStorage(storageDirectory);
  try {
    storage.writeNew(OWNER, new Uint8Array(Buffer.from(outputBase)), 0o600, Date.now());
  } catch (e) {
    if (!(e instanceof Deno.errors.AlreadyExists)) throw e;
    if (Buffer.from(readFile(storage, OWNER, MAX_OWNER_BYTES)).toString() !== outputBase) {
      return `${first}-${createHash("md5").update(outputBase).digest("hex").slice(0, 12)}`;
    }
  }
  return first;
}

/**
 * Whether an output base cannot be a mount: Bazel before 5 makes its sandbox bind a workspace below /tmp onto itself.
 * The kernel refuses that if something is mounted inside (a non-recursive bind would show what is beneath).
 *
 * @param workspace, outputBase Absolute paths.
 */
export function mustNotBeMounted(workspace: string, outputBase: string | undefined): outputBase is string {
  return outputBase !== undefined && workspace.startsWith("/tmp/") && outputBase.startsWith(`${workspace}/`);
}

/**
 * Opens the session's own directory, through which the agent reaches all that the session's programs can write. Creates
 * it if missing. Throws Deno's errors.
 *
 * @param storageDirectory Absolute, below a directory in which no session can write.
 */
export function openStorage(storageDirectory: string): Beneath {
  Deno.mkdirSync(storageDirectory, { recursive: true, mode: 0o700 });
  return Beneath.open(storageDirectory);
}

/** The directory in a session's storage that a synced session sees as `/`. */
export const SYNCED_ROOT = "root";

/** The same as an absolute path. */
export function syncedRoot(storageDirectory: string): string {
  return join(storageDirectory, SYNCED_ROOT);
}
