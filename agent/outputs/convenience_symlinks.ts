/** The symlinks that Bazel leaves in the workspace, or where `--symlink_prefix` says: `bazel-bin` and its like. */
import { basename, dirname, normalize, resolve } from "node:path";
import type { Files, RawInfo } from "../../proto/tree/files.ts";
import type { Looks } from "../../proto/tree/stat_snapshot.ts";

/** Absolute paths, the developer's. */
export interface ConvenienceSymlink {
  path: string;
  target: string;
  info: RawInfo;
}

/** Where to look. */
export interface ConvenienceSymlinkSearch {
  /** The workspace by the developer's name, absolute. */
  workspace: string;
  /** The developer's output base, absolute. */
  outputBase: string;
  /** What the names begin with: `bazel-`, `out/`, `/home/ann/out-`. */
  prefix: string;
  /** The session's own folder. */
  storage: Files;
  /** Where in it a path of the developer's is kept. */
  storagePath(path: string): string | undefined;
  /** Remembers what was looked at. */
  looks: Looks;
}

/**
 * The links that stand there and lead to outputs: those with the prefix, and `bazel-out`, which older Bazels make beside
 * any (4.2.3; not 7.7.1).
 */
export function findConvenienceSymlinks(search: ConvenienceSymlinkSearch): ConvenienceSymlink[] {
  const { workspace, prefix } = search;
  // With a name, since the prefix may end in "/".
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
