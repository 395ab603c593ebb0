/**
 * The file operations by which trees are read and changed. There are two implementations. {@link localFiles} works by
 * path, for a program on its user's own files. The agent's works beneath a directory that it holds open, and follows no
 * symlink.
 */

/** The stat of a file. */
export interface RawInfo {
  kind: "file" | "directory" | "symlink" | "other";
  /** All of st_mode. */
  mode: number;
  /** Bytes. */
  size: number;
  /** Whole milliseconds. */
  mtimeMs: number;
  /** Milliseconds; Deno has only whole seconds. */
  ctimeMs: number;
  ino: number;
  /** Device of the file system. */
  dev: number;
  /** Target of a symlink. */
  target?: string;
  /** Whether a file has several hard links; undefined if unknown. */
  shared?: boolean;
}

/** The part of a stat that is compared with a later one. */
export type LookedLike = Pick<RawInfo, "kind" | "size" | "mtimeMs" | "ctimeMs" | "ino" | "shared"> & {
  /** Only the permission bits. */
  mode: number;
};

/**
 * File operations. Paths consist of names as in names.ts, joined by "/". No operation follows a symlink in the last
 * name of a path. All throw Deno's errors: NotFound, NotADirectory, AlreadyExists, PermissionDenied and others.
 */
export interface Files {
  /** Stats a path, with a symlink's target. */
  lstat(path: string): RawInfo;
  /** Stats a path, without a symlink's target. */
  look(path: string): RawInfo;
  /** The names in a directory, in no order. */
  names(folder: string): string[];
  /** Opens a directory to read its entries. */
  folder(path: string): Folder;
  /** Opens a file for reading. Throws an Error for anything but a regular file. */
  open(path: string): OpenFile;
  /**
   * Creates a file with exactly this mode, and opens it for reading and writing. Throws AlreadyExists if the path
   * exists.
   */
  create(path: string, mode: number): OpenFile;
  /** Creates a file with exactly this mode, time and content, completely or not at all. */
  writeNew(path: string, content: Uint8Array<ArrayBuffer>, mode: number, mtimeMs: number): void;
  /** Opens an existing file for reading and writing. */
  update(path: string): OpenFile;
  /** Makes a directory with mode 0755 less the umask. */
  mkdir(path: string): void;
  /** Makes a directory and its missing parents. */
  makeWay(path: string, mode?: number): void;
  /** Makes a symlink. The target is not checked. */
  symlink(target: string, path: string): void;
  /** Renames within a file system, replacing what is at `to`. */
  rename(from: string, to: string): void;
  /** Sets the permission bits of a file or directory. */
  chmod(path: string, mode: number): void;
  /** Sets access and modification time of a file, in milliseconds. */
  utime(path: string, mtimeMs: number): void;
  /** Copies a file's content to a new name, with the source's mode. */
  copy(from: string, to: string): void;
  /** Like {@link copy}, without blocking this thread. */
  copyLarge(from: string, to: string): Promise<void>;
  /** Removes a file, a symlink or, with `recursive`, a directory and its contents. */
  remove(path: string, options?: { recursive?: boolean }): void;
  /**
   * The same files, for many operations in a row: directories may be held open between operations, until
   * {@link KeptFiles.doubt}.
   */
  keeping(): KeptFiles;
}

/** Files that may hold directories open, see {@link Files.keeping}. */
export interface KeptFiles extends Files, Disposable {
  /** Releases held directories, since another program may have moved one. */
  doubt(): void;
}

/** A directory that is being read. */
export interface Folder extends Disposable {
  readonly names: readonly string[];
  /** {@link Files.lstat} of a name in the directory. */
  lstat(name: string): RawInfo;
  /** Whether a file or directory in it has the same stat as before: an lstat without an object. */
  looksLike(name: string, before: LookedLike): boolean;
}

/** An open file. */
export interface OpenFile extends Disposable {
  /** The present stat. */
  stat(): RawInfo;
  /**
   * Reads at the position.
   * @returns the number of bytes; 0 at the end
   */
  read(into: Uint8Array<ArrayBuffer>): number;
  /** Writes all bytes at the position. */
  write(bytes: Uint8Array<ArrayBuffer>): void;
  /** Like {@link write}, without blocking this thread. Do not change `bytes` until it resolves. */
  writeLarge(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Sets the position, in bytes from the start. */
  seek(offset: number): void;
  truncate(size: number): void;
  /** Sets access and modification time, in milliseconds. */
  utime(mtimeMs: number): void;
  close(): void;
}

/** Whether an error means that the path does not exist, or that a parent is not a directory. */
export function isGone(e: unknown): boolean {
  return e instanceof Deno.errors.NotFound || e instanceof Deno.errors.NotADirectory;
}

/** The stat of a path; undefined if it does not exist. */
export function lookFor(files: Files, path: string): RawInfo | undefined {
  try {
    return files.lstat(path);
  } catch (e) {
    if (isGone(e)) return undefined;
    throw e;
  }
}

/** Reads a file, at most its first `limit` bytes. */
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

/** Whether two stats are equal. */
export function looksLike(now: RawInfo, before: LookedLike): boolean {
  if (now.kind !== before.kind || now.ino !== before.ino || (now.mode & 0o7777) !== before.mode) return false;
  if (now.ctimeMs !== before.ctimeMs) return false;
  return now.kind !== "file" || (now.size === before.size && now.mtimeMs === before.mtimeMs);
}
