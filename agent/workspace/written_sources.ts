/** What a command has written into the developer's sources, in places where it may: it goes home. */
import type { Files } from "../../proto/tree/files.ts";
import { sameEntry } from "../../proto/tree/entry.ts";
import { isUnchanged, lookAt, type ScannedEntry, scanTree } from "../../proto/tree/scan.ts";
import { type Root, UNSEEN } from "./root.ts";

/** Where a command may write. Absolute paths, the developer's. */
export interface SourcePlaces {
  files: readonly string[];
  /** Of these, all that is in them. */
  folders: readonly string[];
}

/** What is another than the developer has it. Absolute paths, the developer's. */
export interface WrittenSources {
  entries: ScannedEntry[];
  gone: string[];
}

/**
 * What is known of some places of a root, as it is now: a command that writes there is compared with it, whatever others
 * find there meanwhile.
 */
export function knownIn(root: Root, { files, folders }: SourcePlaces): Pick<Root, "path" | "entries"> {
  const entries = new Map<string, ScannedEntry>();
  const take = (path: string, entry: ScannedEntry | undefined) => entry && entries.set(path, entry);
  for (const file of files) {
    const path = below(root.path, file);
    if (path !== undefined) take(path, root.entries.get(path));
  }
  const tops = folders.map((folder) => below(root.path, folder)).filter((top) => top !== undefined);
  if (tops.length === 0) return { path: root.path, entries };
  for (const [path, entry] of root.entries) {
    if (tops.some((top) => path === top || path.startsWith(`${top}/`))) take(path, entry);
  }
  return { path: root.path, entries };
}

/**
 * Compares what is in some places of a root with what was known of them. Bazel's own links are among what is found, since
 * nobody ever sent them.
 *
 * @param base Where the root is in the storage.
 * @param root What {@link knownIn} gave for these places.
 */
export async function writtenSources(
  storage: Files,
  base: string,
  root: Pick<Root, "path" | "entries">,
  { files, folders }: SourcePlaces,
): Promise<WrittenSources> {
  const written: WrittenSources = { entries: [], gone: [] };
  const noted = new Set<string>();
  const note = (path: string, now: ScannedEntry | undefined) => {
    if (noted.has(path)) return;
    noted.add(path);
    const before = root.entries.get(path);
    if (now === undefined) return void (before && written.gone.push(`${root.path}/${path}`));
    const isSame = before &&
      (before.kind === "file" && now.kind === "file" ? looksAsKnown(before, now) : sameEntry(before, now));
    if (!isSame) written.entries.push({ ...now, path: `${root.path}/${path}` });
  };
  for (const file of files) {
    const path = below(root.path, file);
    if (path === undefined) continue;
    const now = lookAt(storage, base, path);
    // What is neither file nor folder is nobody's source.
    if (typeof now !== "string") note(path, now);
  }
  for (const folder of folders) {
    const under = below(root.path, folder);
    if (under === undefined) continue;
    const found = await scanTree(storage, base, { under, previous: root.entries });
    for (const [path, now] of found) note(path, now);
    for (const path of root.entries.keys()) {
      if ((path === under || path.startsWith(`${under}/`)) && !found.has(path)) note(path, undefined);
    }
  }
  return written;
}

/** A path relative to a folder; undefined if it does not lie in it. */
function below(folder: string, path: string): string | undefined {
  return path.startsWith(`${folder}/`) ? path.slice(folder.length + 1) : undefined;
}

/** Whether a file looks as it is known. What was written and not looked at since is known by when that was. */
function looksAsKnown(before: ScannedEntry, now: ScannedEntry): boolean {
  if (before.mode !== now.mode) return false;
  if (before.ino !== UNSEEN) return isUnchanged(before, now);
  return before.size === now.size && before.mtimeMs === now.mtimeMs && now.ctimeMs <= before.ctimeMs;
}
