import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { isFile } from "../base/files.ts";

/** The files that mark a workspace's root, as Bazel's client looks for them; any one of them will do. */
export const WORKSPACE_MARKERS = ["MODULE.bazel", "REPO.bazel", "WORKSPACE.bazel", "WORKSPACE"] as const;

/**
 * Finds the workspace that holds `directory`: the nearest one upwards, itself included, in which a marker is a file.
 * A folder named WORKSPACE is no marker.
 *
 * @param directory Absolute.
 * @returns The workspace's absolute path, or undefined outside of any.
 */
export function findWorkspace(directory: string): string | undefined {
  for (let at = directory;; at = dirname(at)) {
    if (WORKSPACE_MARKERS.some((marker) => isFile(join(at, marker)))) return at;
    if (dirname(at) === at) return undefined;
  }
}

/**
 * The RepoHash of a workspace: MD5 of its absolute path's UTF-8 bytes, as 32 lowercase hex digits. With the user it is
 * a session's key. (Bazel names the default output base by the same digest.)
 *
 * @param workspace Absolute, without a trailing slash.
 */
export function repoHash(workspace: string): string {
  return createHash("md5").update(workspace, "utf8").digest("hex");
}
