import { dirname } from "node:path";
import { type Files, lookFor, type RawInfo } from "../../proto/tree/files.ts";

/** Maximum number of symlinks in the resolution of a path, as in Linux. */
const MAX_LINKS = 40;

/** How the developer's paths are found. */
export interface NamedFileSearch {
  /** The session's own directory. */
  storage: Files;
  /** Where a developer's path is stored; undefined if it is not. */
  storagePath(path: string): string | undefined;
  /** Directories that exist whatever is above them, since they are mounted. Absolute paths. */
  mounts: readonly string[];
}

/** A file by its path after all symlinks. */
export interface NamedFile {
  /** The developer's path. */
  path: string;
  /** The path in the storage. */
  here: string;
  info: RawInfo;
}

/**
 * Finds a file of the session by the developer's path, for example `bazel-bin/report.json` in the output base. Symlinks
 * on the way lead to developer's paths, so the operating system must not follow them here.
 */
export function findNamedFile(path: string, { storage, storagePath, mounts }: NamedFileSearch): NamedFile | undefined {
  let at = "";
  const rest = path.split("/").reverse();
  for (let links = 0; rest.length > 0;) {
    const name = rest.pop()!;
    if (name === "" || name === ".") continue;
    if (name === "..") {
      at = at === "" ? "" : dirname(at).replace(/\/$/, "");
      continue;
    }
    const next = `${at}/${name}`;
    if (mounts.some((mount) => mount === next || mount.startsWith(`${next}/`))) {
      at = next;
      continue;
    }
    const here = storagePath(next);
    const info = here === undefined ? undefined : lookFor(storage, here);
    if (here === undefined || !info) return undefined;
    if (info.kind === "symlink") {
      if (++links > MAX_LINKS) return undefined;
      const target = info.target!;
      if (target.startsWith("/")) at = "";
      rest.push(...target.split("/").reverse());
    } else if (rest.length === 0) return info.kind === "file" ? { path: next, here, info } : undefined;
    else if (info.kind === "directory") at = next;
    else return undefined;
  }
}
