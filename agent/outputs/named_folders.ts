import { sentence } from "../../proto/base/errors.ts";
import { type Files, lookFor } from "../../proto/tree/files.ts";
import { TreeWriter } from "../../proto/tree/writer.ts";

/**
 * Makes directories that a command's flags name, or in which its flags name files, where the session lacks them: they
 * exist on the developer's machine. Uses the tree writer, since the session's programs may have put a symlink on the
 * way.
 *
 * @param files, folders The developer's absolute paths.
 * @param storage The session's own directory.
 * @param root The directory in it that the session sees as `/`.
 * @param isKept Whether a path belongs to the session, and not to the machine.
 */
export function makeNamedFolders(
  { files, folders }: { files: readonly string[]; folders: readonly string[] },
  { storage, root, staging, isKept, log }: {
    storage: Files;
    root: string;
    staging: string;
    isKept(path: string): boolean;
    log(line: string): void;
  },
): void {
  const missing = new Set<string>();
  for (const folder of [...files.map((file) => file.slice(0, file.lastIndexOf("/"))), ...folders]) {
    if (folder !== "" && isKept(folder) && !isThere(storage, root + folder)) missing.add(folder);
  }
  if (missing.size === 0) return;
  const writer = new TreeWriter({ files: storage, root, staging });
  for (const folder of missing) {
    try {
      writer.apply({ entry: { path: folder.slice(1), kind: "directory", mode: 0o755, size: 0, mtimeMs: 0 } });
    } catch (e) {
      // Bazel will report that it cannot write there.
      log(`the folder ${folder} cannot be made: ${sentence(e)}`);
    }
  }
  writer.close();
}

function isThere(storage: Files, path: string): boolean {
  try {
    return lookFor(storage, path) !== undefined;
  } catch {
    return false;
  }
}
