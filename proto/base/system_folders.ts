import { posix } from "node:path";

/** Top-level folders that stay the agent machine's own in a synced session: nothing of the developer's can be there. */
export const SYSTEM_FOLDERS: readonly string[] = [
  ..."usr bin sbin lib lib32 lib64 libx32 etc opt nix boot var dev proc sys run".split(" "),
];

/** The system folder that a path lies in or is: "/usr" of "/usr/share". @param path Absolute. */
export function systemFolderOf(path: string): string | undefined {
  const [, name] = posix.normalize(path).split("/");
  return SYSTEM_FOLDERS.includes(name) ? `/${name}` : undefined;
}
