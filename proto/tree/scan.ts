/** Scans a tree by synchronous calls in short slices, at a tenth of the cost of asynchronous ones. */
import { RbsError, sentence } from "../base/errors.ts";
import type { Entry, EntryKind } from "./entry.ts";
import { Pace } from "../base/time_slice.ts";
import { type Files, type Folder, isGone, looksLike, type RawInfo } from "./files.ts";

/**
 * A file that changed so recently may change again without a new timestamp: file systems use steps of the kernel's
 * clock (up to 10 ms), and Deno cuts times to milliseconds. Milliseconds.
 */
const RACY_MS = 50;
/**
 * A file server's clock may be ahead of ours by this much. A later time was set by a program, as Bazel does in its
 * install base, and the next change will show. Milliseconds.
 */
const CLOCKS_APART_MS = 60_000;

/** An entry as it was found, with what shows whether it has changed since. */
export interface ScannedEntry extends Entry {
  ino: number;
  /** Milliseconds, rounded to whole seconds if Deno made the stat. */
  ctimeMs: number;
  /** The file changed so shortly before the stat that its times prove nothing later. */
  racy: boolean;
  /** The file has several hard links, by which it may be changed. */
  shared?: boolean;
}

/** Options of {@link scanTree}. */
export interface ScanOptions {
  /** Returns true to leave out an entry with everything below it. The path is relative to the root. */
  skip?(path: string, kind: EntryKind, target?: string): boolean;
  /** The previous scan. An entry with an unchanged stat is taken from it, with its digest. */
  previous?: ReadonlyMap<string, ScannedEntry>;
  /** Scans only this path and what is below. @default the whole tree */
  under?: string;
  signal?: AbortSignal;
  /** Called for what is not a file, directory or symlink, or cannot be read. `what` says which. */
  onSkipped?(path: string, what: string): void;
  /** Called from time to time with the number of entries found. */
  onProgress?(entries: number): void;
  /** Called with the entries of each directory. A returned promise is awaited. */
  onFound?(entries: ScannedEntry[]): Promise<void> | undefined;
}

/**
 * Finds everything below `root`, without the root itself. Entries that vanish during the scan are left out; a missing
 * root is empty. Throws an RbsError if the root cannot be read.
 */
export async function scanTree(
  files: Files,
  root: string,
  options: ScanOptions = {},
): Promise<Map<string, ScannedEntry>> {
  const { under, signal, onProgress, onFound } = options;
  const found = new Map<string, ScannedEntry>();
  const folders: string[] = [];
  const pace = new Pace(signal);
  const guess = new Guess(options.previous ?? new Map());
  if (under !== undefined) {
    if (isBelowFolders(files, root, under) && look(files, root, under, found, options)?.kind === "directory") {
      folders.push(under);
    }
  } else folders.push("");
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    const entries = list(files, root, folder, found, folders, options, guess);
    if (onFound) {
      const wait = onFound(entries);
      if (wait) await wait;
    }
    if (!pace.due) continue;
    onProgress?.(found.size);
    await pace.rest();
  }
  return found;
}

/** Whether all parents of `path` below the root are directories. */
function isBelowFolders(files: Files, root: string, path: string): boolean {
  for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
    const folder = lookAt(files, root, path.slice(0, slash));
    if (typeof folder !== "object" || folder.kind !== "directory") return false;
  }
  return true;
}

function list(
  files: Files,
  root: string,
  folder: string,
  found: Map<string, ScannedEntry>,
  folders: string[],
  options: ScanOptions,
  guess: Guess,
): ScannedEntry[] {
  const listed: ScannedEntry[] = [];
  const prefix = folder === "" ? "" : `${folder}/`;
  let within: Folder;
  try {
    within = files.folder(folder === "" ? root : `${root}/${folder}`);
  } catch (e) {
    if (isGone(e)) return listed;
    // Nothing is known of the tree then; above all, it must not count as empty.
    if (folder === "") {
      throw new RbsError(`The folder ${root} cannot be read (${sentence(e)}): fix its permissions.`, { cause: e });
    }
    options.onSkipped?.(folder, "cannot be read");
    return listed;
  }
  using _ = within;
  const { skip } = options;
  for (const name of within.names) {
    const before = guess.at(prefix, name);
    const path = before ? before.path : prefix + name;
    if (before && stillThere(within, name, before)) {
      if (skip?.(path, before.kind)) continue;
      found.set(path, before);
      listed.push(before);
      if (before.kind === "directory") folders.push(path);
      continue;
    }
    const entry = take(() => within.lstat(name), path, found, options);
    if (!entry) continue;
    listed.push(entry);
    if (entry.kind === "directory") folders.push(path);
  }
  return listed;
}

/** After this many misses in a row a {@link Guess} stops adjusting its position. */
const MAX_MISSES = 1_000;

/**
 * Looks up entries of the previous scan. Directories mostly list the same names in the same order, so the next entry of
 * the previous scan is tried first. That needs no concatenated path and no lookup in a large map.
 */
class Guess {
  readonly #previous: ReadonlyMap<string, ScannedEntry>;
  readonly #entries: Iterator<ScannedEntry>;
  #next?: ScannedEntry;
  #misses = 0;

  constructor(previous: ReadonlyMap<string, ScannedEntry>) {
    this.#previous = previous;
    this.#entries = previous.values();
    this.#advance();
  }

  /** The previous entry of `name` in the directory `prefix`, which ends with "/" or is empty. */
  at(prefix: string, name: string): ScannedEntry | undefined {
    const next = this.#next;
    if (next && isAt(next.path, prefix, name)) {
      this.#misses = 0;
      this.#advance();
      return next;
    }
    const before = this.#previous.get(prefix + name);
    // The entry that was tried may be gone.
    if (before && ++this.#misses < MAX_MISSES) {
      this.#advance();
      if (this.#next === before) this.#advance();
    }
    return before;
  }

  #advance(): void {
    this.#next = this.#entries.next().value;
  }
}

function isAt(path: string, prefix: string, name: string): boolean {
  return path.length === prefix.length + name.length && path.endsWith(name) && path.startsWith(prefix);
}

/** Whether a file or directory has the same stat as before. This is the usual case, so no new entry is made for it. */
function stillThere(folder: Folder, name: string, before: ScannedEntry): boolean {
  if (before.racy || before.kind === "symlink") return false;
  try {
    return folder.looksLike(name, before);
  } catch {
    return false;
  }
}

/** Whether a file has the same stat as before, and had not changed too recently then. */
export function looksSame(before: ScannedEntry, now: RawInfo): boolean {
  return !before.racy && looksLike(now, before);
}

/**
 * Looks at one entry.
 * @returns the entry, unless it is skipped
 */
function look(
  files: Files,
  root: string,
  path: string,
  found: Map<string, ScannedEntry>,
  options: ScanOptions,
): ScannedEntry | undefined {
  return take(() => files.lstat(`${root}/${path}`), path, found, options);
}

function take(
  lstat: () => RawInfo,
  path: string,
  found: Map<string, ScannedEntry>,
  options: ScanOptions,
): ScannedEntry | undefined {
  const entry = entryOf(lstat, path);
  if (entry === undefined) return undefined;
  if (typeof entry === "string") {
    options.onSkipped?.(path, entry);
    return undefined;
  }
  if (options.skip?.(path, entry.kind, entry.target)) return undefined;
  const before = options.previous?.get(path);
  if (before?.digest && isUnchanged(before, entry)) entry.digest = before.digest;
  found.set(path, entry);
  return entry;
}

/**
 * The present entry at a path: undefined if nothing is there, or a text that says why it cannot be sent.
 *
 * @param path Relative to the root.
 */
export function lookAt(files: Files, root: string, path: string): ScannedEntry | string | undefined {
  return entryOf(() => files.lstat(`${root}/${path}`), path);
}

function entryOf(lstat: () => RawInfo, path: string): ScannedEntry | string | undefined {
  const now = Date.now();
  try {
    const { kind, mode, size, mtimeMs, ctimeMs, ino, target, shared } = lstat();
    switch (kind) {
      case "file": {
        const racy = mtimeMs > now - RACY_MS && mtimeMs <= now + CLOCKS_APART_MS;
        return { path, kind, mode: mode & 0o7777, size, mtimeMs, ino, ctimeMs, racy, shared };
      }
      case "directory":
        return { path, kind, mode: mode & 0o7777, size: 0, mtimeMs: 0, ino, ctimeMs, racy: false };
      case "symlink":
        return { path, kind, mode: 0, size: 0, mtimeMs: 0, target, ino, ctimeMs, racy: false };
      default:
        return "is no file, folder or symlink";
    }
  } catch (e) {
    return isGone(e) ? undefined : "cannot be read";
  }
}

/** Whether a file has the same stat as before, and had not changed too recently then. The mode is not compared. */
export function isUnchanged(before: ScannedEntry, now: ScannedEntry): boolean {
  return !before.racy && before.kind === now.kind && before.size === now.size && before.mtimeMs === now.mtimeMs &&
    before.ino === now.ino && before.ctimeMs === now.ctimeMs;
}
