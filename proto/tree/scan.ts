/** What is in a tree: listed and looked at by synchronous calls in short slices, which cost a tenth of asynchronous ones. */
import { RbsError, sentence } from "../base/errors.ts";
import type { Entry, EntryKind } from "./entry.ts";
import { Pace } from "../base/time_slice.ts";
import { type Files, type Folder, isGone, looksLike, type RawInfo } from "./files.ts";

/**
 * A file that was changed so shortly before it was looked at may change again without another time to show for it: file
 * systems give times in steps of the kernel's clock (up to 10 ms), and Deno cuts them to milliseconds.
 */
const RACY_MS = 50;
/**
 * A file server's clock may be ahead of ours by so much. A time further in the future was set by hand, as Bazel does in its
 * install base: the next change shows by another one.
 */
const CLOCKS_APART_MS = 60_000;

/** An entry as it was found, and what tells whether it has changed since. */
export interface ScannedEntry extends Entry {
  ino: number;
  /** In whole seconds where Deno looked. */
  ctimeMs: number;
  /** Changed so shortly before it was looked at that its times prove nothing the next time. */
  racy: boolean;
  /** A file with another name beside this one, by which it may be changed. */
  shared?: boolean;
}

/** How a tree is scanned. */
export interface ScanOptions {
  /** Leaves an entry out, with all below it. The path is relative to the root. */
  skip?(path: string, kind: EntryKind, target?: string): boolean;
  /** What was found before: of what looks the same, the very entry is found again, with its digest. */
  previous?: ReadonlyMap<string, ScannedEntry>;
  /** Only what is at and below this path. @default the whole tree */
  under?: string;
  signal?: AbortSignal;
  /** Told about what is neither file nor folder nor symlink, or cannot be read: a path, and what it is. */
  onSkipped?(path: string, what: string): void;
  /** Told now and then how many entries were found. */
  onProgress?(entries: number): void;
  /** Told of each folder's entries once it was listed. A promise is waited for. */
  onFound?(entries: ScannedEntry[]): Promise<void> | undefined;
}

/**
 * Finds everything below `root`, but not the root itself. What vanishes meanwhile is left out, a root that is
 * not there has nothing; throws an RbsError for one that cannot be read.
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

/** Whether no symlink or file is on the way from the root to `path`. */
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
    // Nothing can be said about the tree then; that it is empty least of all.
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

/** Misses in a row after which a {@link Guess} that is out of step is of no more use. */
const MAX_MISSES = 1_000;

/**
 * Finds what was known of a path. Folders mostly list what they listed before, in the same order: the entry that follows
 * in the previous scan is tried first, which needs neither a path to be put together nor a look into a large map.
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

  /** What was known of `name` in the folder that all of `prefix` names. */
  at(prefix: string, name: string): ScannedEntry | undefined {
    const next = this.#next;
    if (next && isAt(next.path, prefix, name)) {
      this.#misses = 0;
      this.#advance();
      return next;
    }
    const before = this.#previous.get(prefix + name);
    // The one that was tried has gone, perhaps.
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

/**
 * Whether a file or folder looks as it did: what most do in most scans, and so without an entry of its own, that would
 * only be compared and thrown away.
 */
function stillThere(folder: Folder, name: string, before: ScannedEntry): boolean {
  if (before.racy || before.kind === "symlink") return false;
  try {
    return folder.looksLike(name, before);
  } catch {
    return false;
  }
}

/** Whether a file looks as it did when it was found, and did not change too shortly before that. */
export function looksSame(before: ScannedEntry, now: RawInfo): boolean {
  return !before.racy && looksLike(now, before);
}

/** Looks at one entry. @returns it, if it is one that is wanted */
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
 * An entry as it is now: undefined if there is none, a text that says why it cannot travel.
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

/** Whether a file looks as it did before, and did not change too shortly before it was looked at. */
export function isUnchanged(before: ScannedEntry, now: ScannedEntry): boolean {
  return !before.racy && before.kind === now.kind && before.size === now.size && before.mtimeMs === now.mtimeMs &&
    before.ino === now.ino && before.ctimeMs === now.ctimeMs;
}
