/**
 * System calls on descriptors that Deno does not offer: openat2 and the …at calls of the C library. The agent needs
 * `--allow-ffi` for them; only this file and processes.ts call foreign code.
 */
import { Buffer } from "node:buffer";
import { encodeName } from "../../proto/tree/names.ts";

/** From fcntl.h; equal on x86_64 and aarch64 except for the two that depend on isArm. */
const isArm = Deno.build.arch === "aarch64";
export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  CREAT: 0o100,
  EXCL: 0o200,
  NONBLOCK: 0o4000,
  DIRECTORY: isArm ? 0o40000 : 0o200000,
  NOFOLLOW: isArm ? 0o100000 : 0o400000,
  CLOEXEC: 0o2000000,
  PATH: 0o10000000,
} as const;
/** From linux/openat2.h. */
const RESOLVE_NO_MAGICLINKS = 0x02, RESOLVE_NO_SYMLINKS = 0x04, RESOLVE_BENEATH = 0x08;
const SYS_OPENAT2 = 437n;
const AT_SYMLINK_NOFOLLOW = 0x100, AT_REMOVEDIR = 0x200, AT_EMPTY_PATH = 0x1000;
const STATX_BASIC_STATS = 0x7ff;
const F_SETFD = 2, F_SETFL = 4;
const FICLONE = 0x40049409n;

/** Errors of errno.h by their numbers. */
export const E = {
  PERM: 1,
  NOENT: 2,
  INTR: 4,
  NXIO: 6,
  AGAIN: 11,
  ACCES: 13,
  EXIST: 17,
  XDEV: 18,
  NOTDIR: 20,
  ISDIR: 21,
  NOTEMPTY: 39,
  LOOP: 40,
} as const;

const { symbols: c } = Deno.dlopen("libc.so.6", {
  syscall: { parameters: ["i64", "i32", "buffer", "buffer", "usize"], result: "i32" },
  open: { parameters: ["buffer", "i32"], result: "i32" },
  openat: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
  getdents64: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  readlinkat: { parameters: ["i32", "buffer", "buffer", "usize"], result: "isize" },
  pread64: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
  pwrite64: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
  ftruncate64: { parameters: ["i32", "i64"], result: "i32" },
  futimens: { parameters: ["i32", "buffer"], result: "i32" },
  utimensat: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
  fchmod: { parameters: ["i32", "u32"], result: "i32" },
  fchmodat: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  mkdirat: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  mkfifoat: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  symlinkat: { parameters: ["buffer", "i32", "buffer"], result: "i32" },
  renameat: { parameters: ["i32", "buffer", "i32", "buffer"], result: "i32" },
  unlinkat: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  ioctl: { parameters: ["i32", "u64", "i32"], result: "i32" },
  copyFileRange: {
    name: "copy_file_range",
    parameters: ["i32", "pointer", "i32", "pointer", "usize", "u32"],
    result: "isize",
    nonblocking: true,
  },
  lseek64: { parameters: ["i32", "i64", "i32"], result: "i64" },
  inotify_init1: { parameters: ["i32"], result: "i32" },
  inotify_add_watch: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  inotify_rm_watch: { parameters: ["i32", "i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  __errno_location: { parameters: [], result: "pointer" },
});

let errnoView: Deno.UnsafePointerView | undefined;

/** The error of the last call. It belongs to this thread and must be read at once. */
function errno(): number {
  errnoView ??= new Deno.UnsafePointerView(c.__errno_location()!);
  return errnoView.getInt32();
}

/** The error for a failed call. */
export function failure(what: string, path: string, code = errno()): Error {
  const message = `${MEANINGS[code] ?? "the system refused it"} (os error ${code}): ${what} ${
    JSON.stringify(path.slice(0, 200))
  }`;
  const error = new (CLASSES[code] ?? Error)(message);
  return code in NAMES ? Object.assign(error, { code: NAMES[code] }) : error;
}

/** As Deno names them in its own errors' `code`: those that somebody asks for. */
const NAMES: Record<number, string> = { 28: "ENOSPC", 122: "EDQUOT" };

const MEANINGS: Record<number, string> = {
  1: "Operation not permitted",
  2: "No such file or directory",
  13: "Permission denied",
  17: "File exists",
  18: "It leads out of the folder",
  20: "Not a directory",
  21: "Is a directory",
  24: "Too many open files",
  28: "No space left on device",
  30: "Read-only file system",
  36: "File name too long",
  39: "Directory not empty",
  40: "A symbolic link stands there",
  122: "Disk quota exceeded",
};

/** The error classes that Deno uses. A symlink on the way, or a path that leads out, is NotADirectory. */
const CLASSES: Record<number, new (message: string) => Error> = {
  [E.PERM]: Deno.errors.PermissionDenied,
  [E.NOENT]: Deno.errors.NotFound,
  [E.ACCES]: Deno.errors.PermissionDenied,
  [E.EXIST]: Deno.errors.AlreadyExists,
  [E.XDEV]: Deno.errors.NotADirectory,
  [E.NOTDIR]: Deno.errors.NotADirectory,
  [E.ISDIR]: Deno.errors.IsADirectory,
  [E.LOOP]: Deno.errors.NotADirectory,
};

// --- arguments

const encoder = new TextEncoder();
const MAX_PATH = 4096;
const firstPath = new Uint8Array(MAX_PATH + 1), secondPath = new Uint8Array(MAX_PATH + 1);

/**
 * Encodes a path as a C string, in a buffer that the next call reuses. Throws NotFound for a path that cannot exist.
 */
function cPath(path: string, buffer = firstPath): Uint8Array<ArrayBuffer> {
  let length: number;
  if (path.isWellFormed()) {
    const { read, written } = encoder.encodeInto(path, buffer.subarray(0, MAX_PATH));
    if (read < path.length) throw failure("name", path, 36);
    length = written;
  } else {
    const bytes = encodeName(path);
    if (bytes.length > MAX_PATH) throw failure("name", path, 36);
    buffer.set(bytes);
    length = bytes.length;
  }
  if (path.includes("\0")) throw failure("name", path, E.NOENT);
  buffer[length] = 0;
  return buffer;
}

const how = new Uint8Array(24), howWords = new BigUint64Array(how.buffer);
const HOW_BYTES = BigInt(how.length);
howWords[2] = BigInt(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
const statxBuffer = new Uint8Array(256), statxWords = new Uint32Array(statxBuffer.buffer);
const times = new BigInt64Array(4), timesBytes = new Uint8Array(times.buffer);
/** Maximum number of attempts of openat2 while directories are renamed concurrently. */
const MAX_TRIES = 1_000;

// --- calls

/** Opens a trusted directory by its absolute path, following symlinks. @returns a descriptor */
export function openTrusted(path: string): number {
  const fd = c.open(cPath(path), O.PATH | O.DIRECTORY | O.CLOEXEC);
  if (fd < 0) throw failure("open", path);
  return fd;
}

/**
 * Opens a path beneath a directory: follows no symlink and reaches nothing outside, whatever is renamed meanwhile.
 * Never blocks.
 *
 * @returns a descriptor, or the negated errno
 */
export function openBeneath(folder: number, path: string, flags: number, mode = 0): number {
  howWords[0] = BigInt(flags | O.CLOEXEC | ((flags & O.PATH) === 0 ? O.NONBLOCK : 0));
  howWords[1] = BigInt(mode);
  const name = cPath(path === "" ? "." : path);
  for (let tries = 0;; tries++) {
    const fd = c.syscall(SYS_OPENAT2, folder, name, how, HOW_BYTES);
    if (fd >= 0) return fd;
    const code = errno();
    if ((code !== E.AGAIN && code !== E.INTR) || tries >= MAX_TRIES) return -code;
  }
}

/** Opens the parent of a directory. @returns a descriptor */
export function openAbove(folder: number): number {
  const fd = c.openat(folder, cPath(".."), O.PATH | O.DIRECTORY | O.CLOEXEC);
  if (fd < 0) throw failure("open", "..");
  return fd;
}

export function close(fd: number): void {
  c.close(fd);
}

/** Offsets in struct statx, in 32-bit words. */
const W = { links: 4, mode: 7, ino: 8, size: 10, ctime: 24, mtime: 28, devMajor: 34, devMinor: 35 };
const HIGH = 2 ** 32;

/** The result of the last {@link look}. Numbers as in RawInfo; the mode contains the kind. */
export const seen = {
  get links(): number {
    return statxWords[W.links];
  },
  get mode(): number {
    return statxWords[W.mode] & 0xffff;
  },
  get ino(): number {
    return statxWords[W.ino + 1] * HIGH + statxWords[W.ino];
  },
  get size(): number {
    return statxWords[W.size + 1] * HIGH + statxWords[W.size];
  },
  get mtimeMs(): number {
    return milliseconds(W.mtime);
  },
  get ctimeMs(): number {
    return milliseconds(W.ctime);
  },
  get dev(): number {
    return statxWords[W.devMajor] * 2 ** 20 + statxWords[W.devMinor];
  },
};

/** Converts a struct statx_timestamp: signed seconds, nanoseconds. */
function milliseconds(at: number): number {
  const seconds = (statxWords[at + 1] | 0) * HIGH + statxWords[at];
  return seconds * 1000 + Math.floor(statxWords[at + 2] / 1e6);
}

/**
 * Stats a name in a directory, without following a symlink; an empty name means the descriptor's own file.
 * @returns 0, or the negated errno
 */
export function look(folder: number, name: string): number {
  const flags = name === "" ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW;
  return c.statx(folder, cPath(name), flags, STATX_BASIC_STATS, statxBuffer) === 0 ? 0 : -errno();
}

const entries = new Uint8Array(64 << 10);
const ENTRIES_BYTES = BigInt(entries.length);
const entriesView = new DataView(entries.buffer);

/** The names in an open directory (not opened by O_PATH), without "." and "..". The next name overwrites the bytes. */
export function* namesIn(folder: number, path: string): Generator<Buffer> {
  for (;;) {
    const filled = Number(c.getdents64(folder, entries, ENTRIES_BYTES));
    if (filled < 0) throw failure("list", path);
    if (filled === 0) return;
    // struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name.
    for (let at = 0; at < filled; at += entriesView.getUint16(at + 16, true)) {
      const start = at + 19, end = entries.indexOf(0, start);
      const isDot = entries[start] === 0x2e &&
        (end === start + 1 || (end === start + 2 && entries[start + 1] === 0x2e));
      if (!isDot) yield Buffer.from(entries.buffer, start, end - start);
    }
  }
}

const target = new Uint8Array(MAX_PATH);
const TARGET_BYTES = BigInt(target.length);

/** The target of a symlink. The next call overwrites the bytes. */
export function readLink(folder: number, name: string, path: string): Uint8Array {
  const length = Number(c.readlinkat(folder, cPath(name), target, TARGET_BYTES));
  if (length < 0) throw failure("read the link", path);
  return target.subarray(0, length);
}

/** @returns the bytes read; 0 at the end */
export function read(fd: number, into: Uint8Array<ArrayBuffer>, offset: number, path: string): number {
  const n = Number(c.pread64(fd, into, BigInt(into.length), BigInt(offset)));
  if (n < 0) throw failure("read", path);
  return n;
}

/** Writes all bytes. */
export function write(fd: number, bytes: Uint8Array<ArrayBuffer>, offset: number, path: string): void {
  for (let at = 0; at < bytes.length;) {
    const n = Number(c.pwrite64(fd, bytes.subarray(at), BigInt(bytes.length - at), BigInt(offset + at)));
    if (n < 0) throw failure("write", path);
    at += n;
  }
}

export function truncate(fd: number, size: number, path: string): void {
  if (c.ftruncate64(fd, BigInt(size)) !== 0) throw failure("cut", path);
}

function setTimes(mtimeMs: number): Uint8Array<ArrayBuffer> {
  const seconds = Math.floor(mtimeMs / 1000);
  times[0] = times[2] = BigInt(seconds);
  times[1] = times[3] = BigInt(Math.round(mtimeMs - seconds * 1000) * 1_000_000);
  return timesBytes;
}

export function setFileTimes(fd: number, mtimeMs: number, path: string): void {
  if (c.futimens(fd, setTimes(mtimeMs)) !== 0) throw failure("set the time of", path);
}

export function setTimesAt(folder: number, name: string, mtimeMs: number, path: string): void {
  if (c.utimensat(folder, cPath(name), setTimes(mtimeMs), AT_SYMLINK_NOFOLLOW) !== 0) {
    throw failure("set the time of", path);
  }
}

export function setFileMode(fd: number, mode: number, path: string): void {
  if (c.fchmod(fd, mode) !== 0) throw failure("set the mode of", path);
}

/** The C library opens the name by O_PATH and sets the mode through that, so no symlink is followed. */
export function setModeAt(folder: number, name: string, mode: number, path: string): void {
  if (c.fchmodat(folder, cPath(name), mode, AT_SYMLINK_NOFOLLOW) !== 0) throw failure("set the mode of", path);
}

export function makeFolder(folder: number, name: string, mode: number, path: string): void {
  if (c.mkdirat(folder, cPath(name), mode) !== 0) throw failure("make the folder", path);
}

export function makeFifo(folder: number, name: string, mode: number, path: string): void {
  if (c.mkfifoat(folder, cPath(name), mode) !== 0) throw failure("make the fifo", path);
}

/** Makes a descriptor blocking, and inheritable by programs started from now on. */
export function makeInheritable(fd: number): void {
  c.fcntl(fd, F_SETFL, 0);
  c.fcntl(fd, F_SETFD, 0);
}

export function makeSymlink(to: string, folder: number, name: string, path: string): void {
  if (c.symlinkat(cPath(to), folder, cPath(name, secondPath)) !== 0) throw failure("make the symlink", path);
}

export function rename(folder: number, name: string, toFolder: number, toName: string, path: string): void {
  if (c.renameat(folder, cPath(name), toFolder, cPath(toName, secondPath)) !== 0) throw failure("move to", path);
}

/** @returns 0, or the negated errno */
export function unlink(folder: number, name: string, isFolder: boolean): number {
  return c.unlinkat(folder, cPath(name), isFolder ? AT_REMOVEDIR : 0) === 0 ? 0 : -errno();
}

/** Makes a non-blocking inotify(7) queue. @returns a descriptor */
export function watchQueue(): number {
  const fd = c.inotify_init1(O.NONBLOCK | O.CLOEXEC);
  if (fd < 0) throw failure("watch", "folders");
  return fd;
}

/** @returns a watch descriptor, or the negated errno */
export function watch(queue: number, path: string, mask: number): number {
  const descriptor = c.inotify_add_watch(queue, cPath(path), mask);
  return descriptor < 0 ? -errno() : descriptor;
}

/** Removes a watch, if it still exists. */
export function unwatch(queue: number, descriptor: number): void {
  c.inotify_rm_watch(queue, descriptor);
}

/**
 * Reads complete events.
 * @returns the number of bytes; 0 or less if there are none
 */
export function readQueue(queue: number, into: Uint8Array<ArrayBuffer>): number {
  return Number(c.read(queue, into, BigInt(into.length)));
}

/** Makes a new file share another's blocks. @returns false where the file system cannot */
export function clone(from: number, to: number): boolean {
  return c.ioctl(to, FICLONE, from) === 0;
}

const SEEK = { set: 0, data: 3, hole: 4 };

/** Sets the position of {@link copyRangeElsewhere}. */
export function seek(fd: number, offset: number): void {
  c.lseek64(fd, BigInt(offset), SEEK.set);
}

/** The next range of a file from `offset` on that is not a hole; undefined if there is none. Moves its position. */
export function dataFrom(fd: number, offset: number, path: string): { start: number; end: number } | undefined {
  const start = Number(c.lseek64(fd, BigInt(offset), SEEK.data));
  if (start < 0) {
    const code = errno();
    if (code === E.NXIO) return undefined;
    throw failure("copy", path, code);
  }
  const end = Number(c.lseek64(fd, BigInt(start), SEEK.hole));
  // The file may have been truncated meanwhile.
  return end > start ? { start, end } : undefined;
}

/**
 * Copies up to `length` bytes between the positions of two files, in another thread.
 * @returns the number of bytes; 0 at the end; -1 on failure, whose errno belongs to that thread
 */
export async function copyRangeElsewhere(from: number, to: number, length: number): Promise<number> {
  return Number(await c.copyFileRange(from, null, to, null, BigInt(length), 0));
}
