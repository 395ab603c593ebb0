/** {@link Files} by absolute path, through Deno: for a program on the files of its own user. */
import type { Folder, KeptFiles, LookedLike, OpenFile, RawInfo } from "./files.ts";
import { Pace } from "../base/time_slice.ts";
import { isRaw } from "./names.ts";
import {
  chmodSync,
  copyFileSync,
  infoOf,
  lstatMany,
  lstatSync,
  mkdirSync,
  readdirSync,
  readPartByBash,
  removeSync,
  renameSync,
  symlinkSync,
} from "./file_calls.ts";
import { copySparse, dataRanges, writeSparse } from "./sparse.ts";

/** Bytes that one call of bash reads, since bash takes milliseconds to start. */
const RAW_PART_BYTES = 16 << 20;

/** {@link Files} by absolute path. */
export const localFiles: KeptFiles = {
  lstat: lstatSync,
  look: (path) => isRaw(path) ? lstatSync(path) : infoOf(Deno.lstatSync(path)),
  names: readdirSync,
  folder: (path) => new LocalFolder(path),
  open: (path) => isRaw(path) ? new RawFile(path) : new LocalFile(Deno.openSync(path)),
  create(path, mode) {
    const file = new LocalFile(Deno.openSync(path, { read: true, write: true, createNew: true, mode }));
    // The umask may have removed bits.
    Deno.chmodSync(path, mode);
    return file;
  },
  writeNew(path, content, mode, mtimeMs) {
    try {
      if (dataRanges(content)) {
        using file = localFiles.create(path, mode);
        writeSparse(file, content, 0);
      } else Deno.writeFileSync(path, content, { createNew: true, mode });
      setTime(path, mtimeMs);
    } catch (e) {
      // The file may be incomplete.
      if (!(e instanceof Deno.errors.AlreadyExists)) discard(path);
      throw e;
    }
  },
  update: (path) => new LocalFile(Deno.openSync(path, { read: true, write: true })),
  mkdir: mkdirSync,
  makeWay: (path, mode) => Deno.mkdirSync(path, { recursive: true, mode }),
  symlink: symlinkSync,
  rename: renameSync,
  chmod: chmodSync,
  utime: setTime,
  copy(from, to) {
    if (hasHoles(from)) Array.from(copyHoles(from, to));
    else copyFileSync(from, to);
  },
  // The kernel copies, may share blocks, and does not block this thread. For names that Deno cannot use, bash copies.
  async copyLarge(from, to) {
    if (hasHoles(from)) {
      const pace = new Pace();
      for (const _ of copyHoles(from, to)) if (pace.due) await pace.rest();
    } else if (isRaw(from) || isRaw(to)) copyFileSync(from, to);
    else await Deno.copyFile(from, to);
  },
  remove: removeSync,
  keeping: () => localFiles,
  doubt() {},
  [Symbol.dispose]() {},
};

/** Whether a file uses fewer blocks than its size. The kernel would copy the zeros of its holes. */
function hasHoles(path: string): boolean {
  if (isRaw(path)) return false; // Bash copies it, with its holes.
  const { size, blocks } = Deno.lstatSync(path);
  return blocks !== null && blocks * 512 < size;
}

function* copyHoles(from: string, to: string): Generator<void> {
  using source = localFiles.open(from);
  using target = localFiles.create(to, source.stat().mode & 0o777);
  yield* copySparse(source, target);
}

function setTime(path: string, mtimeMs: number): void {
  // With fractional seconds, Deno sometimes loses a millisecond.
  const time = new Date(mtimeMs);
  Deno.utimeSync(path, time, time);
}

function discard(path: string): void {
  try {
    Deno.removeSync(path);
  } catch { /* it was not even made */ }
}

class LocalFolder implements Folder {
  readonly names: readonly string[];
  readonly #path: string;
  /** Stats of the names that Deno cannot use. */
  readonly #raw?: Map<string, RawInfo>;

  constructor(path: string) {
    this.#path = path;
    this.names = readdirSync(path);
    const raw = this.names.filter(isRaw).map((name) => `${path}/${name}`);
    if (raw.length > 0) this.#raw = lstatMany(raw);
  }

  lstat(name: string): RawInfo {
    const path = `${this.#path}/${name}`;
    return this.#raw?.get(path) ?? lstatSync(path);
  }

  looksLike(name: string, before: LookedLike): boolean {
    if (this.#raw || isRaw(this.#path)) return false;
    const now = Deno.lstatSync(`${this.#path}/${name}`);
    if (before.kind === "file") {
      return now.isFile && now.size === before.size && now.mtime?.getTime() === before.mtimeMs &&
        now.ino === before.ino && now.ctime?.getTime() === before.ctimeMs && (now.mode! & 0o7777) === before.mode &&
        (now.nlink! > 1) === (before.shared ?? false);
    }
    return before.kind === "directory" && now.isDirectory && now.ino === before.ino &&
      now.ctime?.getTime() === before.ctimeMs && (now.mode! & 0o7777) === before.mode;
  }

  [Symbol.dispose](): void {}
}

class LocalFile implements OpenFile {
  readonly #file: Deno.FsFile;

  constructor(file: Deno.FsFile) {
    this.#file = file;
  }

  stat(): RawInfo {
    return infoOf(this.#file.statSync());
  }

  read(into: Uint8Array<ArrayBuffer>): number {
    return into.length === 0 ? 0 : this.#file.readSync(into) ?? 0;
  }

  write(bytes: Uint8Array<ArrayBuffer>): void {
    for (let at = 0; at < bytes.length;) at += this.#file.writeSync(bytes.subarray(at));
  }

  async writeLarge(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.#file.write(bytes.subarray(at));
  }

  seek(offset: number): void {
    this.#file.seekSync(offset, Deno.SeekMode.Start);
  }

  truncate(size: number): void {
    this.#file.truncateSync(size);
  }

  utime(mtimeMs: number): void {
    const time = new Date(mtimeMs);
    this.#file.utimeSync(time, time);
  }

  close(): void {
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** A file that bash has to read. */
class RawFile implements OpenFile {
  readonly #path: string;
  #at = 0;
  #part: Uint8Array = new Uint8Array();

  constructor(path: string) {
    this.#path = path;
    lstatSync(path);
  }

  stat(): RawInfo {
    return lstatSync(this.#path);
  }

  read(into: Uint8Array<ArrayBuffer>): number {
    if (this.#part.length === 0) this.#part = readPartByBash(this.#path, this.#at, RAW_PART_BYTES);
    const part = this.#part.subarray(0, into.length);
    into.set(part);
    this.#part = this.#part.subarray(part.length);
    this.#at += part.length;
    return part.length;
  }

  seek(offset: number): void {
    this.#at = offset;
    this.#part = new Uint8Array();
  }

  write(): void {
    throw new TypeError("such a file is not written in place");
  }

  writeLarge(): Promise<void> {
    return Promise.reject(new TypeError("such a file is not written in place"));
  }

  truncate(): void {
    throw new TypeError("such a file is not written in place");
  }

  utime(): void {
    throw new TypeError("such a file is not written in place");
  }

  close(): void {}

  [Symbol.dispose](): void {}
}
