import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { isFile } from "../base/files.ts";

/** Files that mark a workspace's root for Bazel's client; one of them is enough. */
export const WORKSPACE_MARKERS = ["MODULE.bazel", "REPO.bazel", "WORKSPACE.bazel", "WORKSPACE"] as const;

/**
 * Finds the workspace of `directory`: the nearest directory upwards, itself included, in which a marker is a file. A
 * directory named WORKSPACE is not a marker.
 *
 * @param directory Absolute.
 * @returns the workspace's absolute path, or undefined
 */
export function findWorkspace(directory: string): string | undefined {
  for (let at = directory;; at = dirname(at)) {
    if (WORKSPACE_MARKERS.some((marker) => isFile(join(at, marker)))) return at;
    if (dirname(at) === at) return undefined;
  }
}

/**
 * The RepoHash of a workspace: MD5 of its absolute path's UTF-8 bytes, as 32 lowercase hex digits. Part of a session's
 * key, with the user. (Bazel names the default output base by the same digest.)
 *
 * @param workspace Absolute, without a trailing slash.
 */
export function repoHash(workspace: string): string {
  return createHash("md5").update(workspace, "utf8").digest("hex");
}
