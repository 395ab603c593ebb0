/** The symlinks that Bazel leaves in the workspace: `bazel-bin` and its like. */
import { Buffer } from "node:buffer";
import { basename, dirname, normalize, resolve } from "node:path";
import type { Files, RawInfo } from "../../proto/tree/files.ts";
import type { Looks } from "../../proto/tree/looks.ts";
import { decodeName } from "../../proto/tree/names.ts";
import { optionValues } from "./command_arguments.ts";

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
  /** What the names begin with: `bazel-`, or `out/`. */
  prefix: string;
  /** The session's own folder. */
  storage: Files;
  /** Where in it a path of the developer's is kept. */
  storagePath(path: string): string | undefined;
  /** Remembers what was looked at. */
  looks: Looks;
}

/** The `--symlink_prefix` of a command. An rc file's may be meant for other commands; then no links are found. */
export function symlinkPrefix(args: readonly string[]): string {
  const given = optionValues(args, ["--symlink_prefix"]);
  const last = given.findLast((option) => !option.fromRcFile) ?? given.at(-1);
  return decodeName(Buffer.from(last?.value || "bazel-", "latin1"));
}

/** The links that stand in the workspace and lead to outputs. None for a prefix that is not below the workspace. */
export function findConvenienceSymlinks(search: ConvenienceSymlinkSearch): ConvenienceSymlink[] {
  const { workspace, outputBase, prefix, storage, storagePath, looks } = search;
  // With a name, since the prefix may end in "/".
  const example = resolve(workspace, `${prefix}bin`);
  const folder = dirname(example), beginning = basename(example).slice(0, -"bin".length);
  if (folder !== workspace && !folder.startsWith(`${workspace}/`)) return [];
  const isFolder = (path: string) => looks.look(storagePath(path) ?? "-")?.kind === "directory";
  for (let at = folder; at !== workspace; at = dirname(at)) if (!isFolder(at)) return [];
  if (!isFolder(workspace)) return [];
  const here = storagePath(folder)!;
  looks.list(here);
  const found: ConvenienceSymlink[] = [];
  for (const name of storage.names(here)) {
    const info = name.startsWith(beginning) ? looks.look(`${here}/${name}`) : undefined;
    if (info?.kind !== "symlink") continue;
    const target = info.target!;
    if (target.startsWith(`${outputBase}/execroot/`) && normalize(target) === target) {
      found.push({ path: `${folder}/${name}`, target, info });
    }
  }
  return found;
}
