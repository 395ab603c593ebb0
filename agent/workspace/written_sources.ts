/** Finds what a command has written into the developer's sources, where it may. That is copied back. */
import type { Files } from "../../proto/tree/files.ts";
import { sameEntry } from "../../proto/tree/entry.ts";
import { isUnchanged, lookAt, type ScannedEntry, scanTree } from "../../proto/tree/scan.ts";
import { type Root, UNSEEN } from "./root.ts";

/** Where a command may write. The developer's absolute paths. */
export interface SourcePlaces {
  files: readonly string[];
  /** Directories with everything below them. */
  folders: readonly string[];
}

/** What differs from the developer's files. The developer's absolute paths. */
export interface WrittenSources {
  entries: ScannedEntry[];
  gone: string[];
}

/**
 * A copy of what is known of places in a root at the command's start. The result of the command is compared with it,
 * whatever other looks find in the meantime.
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
 * Compares places of a root with what was known of them. The result includes Bazel's own symlinks, since no proxy has
 * sent them.
 *
 * @param base The root's directory in the storage.
 * @param root The result of {@link knownIn} for these places.
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
    // Special files are not sources.
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

/** A path relative to a directory; undefined if it is not below it. */
function below(folder: string, path: string): string | undefined {
  return path.startsWith(`${folder}/`) ? path.slice(folder.length + 1) : undefined;
}

/**
 * Whether a file matches what is known. A file not looked at since it was written is compared by the time of the write.
 */
function looksAsKnown(before: ScannedEntry, now: ScannedEntry): boolean {
  if (before.mode !== now.mode) return false;
  if (before.ino !== UNSEEN) return isUnchanged(before, now);
  return before.size === now.size && before.mtimeMs === now.mtimeMs && now.ctimeMs <= before.ctimeMs;
}
