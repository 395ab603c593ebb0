import { posix } from "node:path";

/**
 * Top-level directories of the agent's machine that a synced session sees. Nothing of the developer's can be there.
 */
export const SYSTEM_FOLDERS: readonly string[] = [
  ..."usr bin sbin lib lib32 lib64 libx32 etc opt nix boot var dev proc sys run".split(" "),
];

/** The system directory that a path is or is in: "/usr" for "/usr/share". @param path Absolute. */
export function systemFolderOf(path: string): string | undefined {
  const [, name] = posix.normalize(path).split("/");
  return SYSTEM_FOLDERS.includes(name) ? `/${name}` : undefined;
}
