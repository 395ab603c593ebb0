/**
 * The file operations that trees are read and changed with. There are two kinds: {@link localFiles} works by path, for a
 * program on its user's own files; the agent's works beneath a folder that it holds open, and follows no symlink.
 */

/** What a look at a file shows. */
export interface RawInfo {
  kind: "file" | "directory" | "symlink" | "other";
  /** All of st_mode. */
  mode: number;
  /** Bytes. */
  size: number;
  /** Whole milliseconds. */
  mtimeMs: number;
  /** Milliseconds; Deno knows whole seconds only. */
  ctimeMs: number;
  ino: number;
  /** Of the file system. */
  dev: number;
  /** Of a symlink. */
  target?: string;
  /** A file with another name beside this one; undefined where nobody looked. */
  shared?: boolean;
}

/** What of a look is compared with a later one. */
export type LookedLike = Pick<RawInfo, "kind" | "size" | "mtimeMs" | "ctimeMs" | "ino" | "shared"> & {
  /** The permission bits alone. */
  mode: number;
};

/**
 * Paths are names as names.ts has them, joined by "/". No operation follows a symlink in its last name. All throw Deno's
 * errors: NotFound, NotADirectory, AlreadyExists, PermissionDenied and the like.
 */
export interface Files {
  /** Looks at what is at a path. */
  lstat(path: string): RawInfo;
  /** The same, without where a symlink leads. */
  look(path: string): RawInfo;
  /** The names in a folder, in no order. */
  names(folder: string): string[];
  /** Opens a folder to look through it. */
  folder(path: string): Folder;
  /** Opens a file for reading. What is no regular file is refused with an Error. */
  open(path: string): OpenFile;
  /** Makes a file of just this mode and opens it for reading and writing; what is there already is AlreadyExists. */
  create(path: string, mode: number): OpenFile;
  /** Makes a file of just this mode and time, with a content, whole or not at all. */
  writeNew(path: string, content: Uint8Array<ArrayBuffer>, mode: number, mtimeMs: number): void;
  /** Opens a file that is there for reading and writing. */
  update(path: string): OpenFile;
  /** Makes a folder, of mode 0755 less the umask. */
  mkdir(path: string): void;
  /** Makes a folder, and those on the way that are missing. */
  makeWay(path: string, mode?: number): void;
  /** Makes a symlink, which may lead anywhere. */
  symlink(target: string, path: string): void;
  /** Moves something within a file system, over what is there. */
  rename(from: string, to: string): void;
  /** Sets the permission bits of a file or folder. */
  chmod(path: string, mode: number): void;
  /** Sets both times of a file. Milliseconds. */
  utime(path: string, mtimeMs: number): void;
  /** Copies a file's content to a name that is not taken, of the source's mode. */
  copy(from: string, to: string): void;
  /** The same without holding up this thread. */
  copyLarge(from: string, to: string): Promise<void>;
  /** Removes a file, symlink or, with `recursive`, a folder and what is in it. */
  remove(path: string, options?: { recursive?: boolean }): void;
  /**
   * The same files for many operations in a row: folders on the way may be held open from one to the next, until
   * {@link KeptFiles.doubt}.
   */
  keeping(): KeptFiles;
}

/** See {@link Files.keeping}. */
export interface KeptFiles extends Files, Disposable {
  /** Forgets what is held: somebody else may have moved a folder. */
  doubt(): void;
}

/** A folder that is being looked through. */
export interface Folder extends Disposable {
  readonly names: readonly string[];
  /** {@link Files.lstat} of a name in it. */
  lstat(name: string): RawInfo;
  /** Whether a file or folder in it looks as it did: an lstat that makes no object. */
  looksLike(name: string, before: LookedLike): boolean;
}

/** An open file. */
export interface OpenFile extends Disposable {
  /** As it is now. */
  stat(): RawInfo;
  /** Reads what comes next. @returns the bytes read; 0 at the end */
  read(into: Uint8Array<ArrayBuffer>): number;
  /** Writes all of it at the position. */
  write(bytes: Uint8Array<ArrayBuffer>): void;
  /** The same without holding up this thread; the bytes are lent until it is done. */
  writeLarge(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Sets the position, in bytes from the beginning. */
  seek(offset: number): void;
  truncate(size: number): void;
  /** Sets both times. Milliseconds. */
  utime(mtimeMs: number): void;
  close(): void;
}

/** Whether something is not there, or stands behind what is no folder. */
export function isGone(e: unknown): boolean {
  return e instanceof Deno.errors.NotFound || e instanceof Deno.errors.NotADirectory;
}

/** What is at a path; undefined if that is nothing. */
export function lookFor(files: Files, path: string): RawInfo | undefined {
  try {
    return files.lstat(path);
  } catch (e) {
    if (isGone(e)) return undefined;
    throw e;
  }
}

/** Reads a file's content, or its first `limit` bytes if it has more. */
export function readFile(files: Files, path: string, limit: number): Uint8Array<ArrayBuffer> {
  using file = files.open(path);
  const buffer = new Uint8Array(Math.min(limit, file.stat().size + 1));
  let filled = 0;
  while (filled < buffer.length) {
    const n = file.read(filled === 0 ? buffer : buffer.subarray(filled));
    if (n === 0) break;
    filled += n;
  }
  return buffer.subarray(0, filled);
}

/** Whether two looks show the same. */
export function looksLike(now: RawInfo, before: LookedLike): boolean {
  if (now.kind !== before.kind || now.ino !== before.ino || (now.mode & 0o7777) !== before.mode) return false;
  if (now.ctimeMs !== before.ctimeMs) return false;
  return now.kind !== "file" || (now.size === before.size && now.mtimeMs === before.mtimeMs);
}
