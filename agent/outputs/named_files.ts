import { dirname } from "node:path";
import { type Files, lookFor, type RawInfo } from "../../proto/tree/files.ts";

/** The most symlinks that a path may lead through, as in Linux. */
const MAX_LINKS = 40;

/** Where the developer's files are here. */
export interface NamedFileSearch {
  /** The session's own folder. */
  storage: Files;
  /** Where in it a path of the developer's is kept; undefined: nowhere. */
  storagePath(path: string): string | undefined;
  /** Folders that are there whatever stands above them: they are mounted. Absolute. */
  mounts: readonly string[];
}

/** A file by its path after all symlinks. */
export interface NamedFile {
  /** The developer's. */
  path: string;
  /** In the storage. */
  here: string;
  info: RawInfo;
}

/**
 * Finds a file of the session by the developer's path: `bazel-bin/report.json` is one in the output base. The symlinks
 * on the way lead to the developer's paths, so the operating system must not follow them here.
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
