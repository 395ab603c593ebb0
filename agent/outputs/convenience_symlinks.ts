/**
 * Finds the symlinks that Bazel makes in the workspace, or where `--symlink_prefix` says: `bazel-bin` and the like.
 */
import { basename, dirname, normalize, resolve } from "node:path";
import type { Files, RawInfo } from "../../proto/tree/files.ts";
import type { Looks } from "../../proto/tree/stat_snapshot.ts";

/** Both paths are the developer's and absolute. */
export interface ConvenienceSymlink {
  path: string;
  target: string;
  info: RawInfo;
}

/** Options of {@link findConvenienceSymlinks}. */
export interface ConvenienceSymlinkSearch {
  /** The developer's absolute path. */
  workspace: string;
  /** The developer's absolute path. */
  outputBase: string;
  /** Prefix of the names: `bazel-`, `out/`, `/home/ann/out-`. */
  prefix: string;
  /** The session's own directory. */
  storage: Files;
  /** Where a developer's path is stored. */
  storagePath(path: string): string | undefined;
  /** Records what was looked at. */
  looks: Looks;
}

/**
 * The existing links that lead to outputs: those with the prefix, and `bazel-out`, which older Bazels make with any
 * prefix (4.2.3; not 7.7.1).
 */
export function findConvenienceSymlinks(search: ConvenienceSymlinkSearch): ConvenienceSymlink[] {
  const { workspace, prefix } = search;
  // With a name appended, since the prefix may end in "/".
  const example = resolve(workspace, `${prefix}bin`);
  const found = linksIn(dirname(example), (name) => name.startsWith(basename(example).slice(0, -"bin".length)), search);
  const known = new Set(found.map(({ path }) => path));
  const more = linksIn(workspace, (name) => name === "bazel-out", search);
  return [...found, ...more.filter(({ path }) => !known.has(path))];
}

function linksIn(
  folder: string,
  isOne: (name: string) => boolean,
  { outputBase, storage, storagePath, looks }: ConvenienceSymlinkSearch,
): ConvenienceSymlink[] {
  for (let at = folder; at !== "/"; at = dirname(at)) {
    const here = storagePath(at);
    if (here === undefined || looks.look(here)?.kind !== "directory") return [];
  }
  const here = storagePath(folder);
  if (here === undefined) return [];
  looks.list(here);
  const found: ConvenienceSymlink[] = [];
  for (const name of storage.names(here)) {
    const info = isOne(name) ? looks.look(`${here}/${name}`) : undefined;
    if (info?.kind !== "symlink") continue;
    const target = info.target!;
    if (target.startsWith(`${outputBase}/execroot/`) && normalize(target) === target) {
      found.push({ path: `${folder}/${name}`, target, info });
    }
  }
  return found;
}
