/**
 * {@link Files} beneath a directory that is held open. The session's programs may write there, and replace directories
 * by symlinks while the agent works. So each path is resolved by openat2(2) with RESOLVE_BENEATH and
 * RESOLVE_NO_SYMLINKS, and each operation works on what was opened. Nothing is checked first and then used by its path.
 *
 *     "root/home/ann/x" ── openat2 from the held directory ──> descriptor of "root/home/ann" ── …at call ──> "x" in it
 *
 * Paths are relative to the directory; "" is the directory itself. A symlink on the way is NotADirectory.
 */
import { decodeName } from "../../proto/tree/names.ts";
import type { Folder, KeptFiles, LookedLike, OpenFile, RawInfo } from "../../proto/tree/files.ts";
import { copySparse, writeSparse } from "../../proto/tree/sparse.ts";
import { FolderWatch } from "./folder_watch.ts";
import * as libc from "./libc.ts";
import { E, O } from "./libc.ts";

const S_IFMT = 0o170000, S_IFREG = 0o100000, S_IFDIR = 0o040000, S_IFLNK = 0o120000, S_IFIFO = 0o010000;
/** Maximum number of directories held open between operations. */
const MAX_KEPT = 64;
/** Bytes of one copy call. */
const COPY_BYTES = 64 << 20;
/** Maximum depth of a recursive removal: each level needs a descriptor. */
const MAX_DEPTH = 200;

/** Files beneath a directory. Dispose of it. */
export class Beneath implements KeptFiles {
  readonly #root: number;
  readonly #ownsRoot: boolean;
  /** Descriptors of held directories by path; undefined if none are held. */
  readonly #kept?: Map<string, number>;
  #closed = false;

  private constructor(root: number, ownsRoot: boolean, keeps: boolean) {
    this.#root = root;
    this.#ownsRoot = ownsRoot;
    if (keeps) this.#kept = new Map();
  }

  /** Opens a trusted directory in a trusted place: symlinks are followed. @param path Absolute. */
  static open(path: string): Beneath {
    return new Beneath(libc.openTrusted(path), true, false);
  }

  /** Opens a directory in this one, from which nothing above is reachable. */
  beneath(path: string): Beneath {
    return new Beneath(this.#open(path, O.PATH | O.DIRECTORY), true, false);
  }

  /** Whether this directory is, or is now below, one of the others, whatever the paths by which they were opened. */
  isIn(others: readonly Beneath[]): boolean {
    const folders = new Set(others.map((other) => identity(other.#root)));
    for (let fd = libc.openBeneath(this.#root, "", O.PATH | O.DIRECTORY), before = "";;) {
      if (fd < 0) throw libc.failure("open", "", -fd);
      const now = identity(fd);
      // The parent of "/" is "/".
      if (folders.has(now) || now === before) {
        libc.close(fd);
        return folders.has(now);
      }
      before = now;
      const below = fd;
      try {
        fd = libc.openAbove(below);
      } finally {
        libc.close(below);
      }
    }
  }

  /** Makes a watch for directories beneath this one, valid while this is open. Dispose of it. */
  watch(): FolderWatch {
    return new FolderWatch(this.#root);
  }

  keeping(): Beneath {
    return new Beneath(this.#root, false, true);
  }

  lstat(path: string): RawInfo {
    return this.#in(path, (folder, name) => lstat(folder, name, path));
  }

  look(path: string): RawInfo {
    return this.#in(path, (folder, name) => look(folder, name, path));
  }

  names(path: string): string[] {
    const fd = this.#open(path, O.RDONLY | O.DIRECTORY);
    try {
      return namesIn(fd, path);
    } finally {
      libc.close(fd);
    }
  }

  folder(path: string): Folder {
    return new OpenFolder(this.#open(path, O.RDONLY | O.DIRECTORY), path);
  }

  open(path: string): OpenFile {
    return this.#file(path, O.RDONLY);
  }

  create(path: string, mode: number): BeneathFile {
    const file = this.#file(path, O.RDWR | O.CREAT | O.EXCL, mode);
    // The umask may have removed bits.
    libc.setFileMode(file.fd, mode, path);
    return file;
  }

  update(path: string): OpenFile {
    return this.#file(path, O.RDWR);
  }

  mkdir(path: string, mode = 0o755): void {
    this.#in(path, (folder, name) => libc.makeFolder(folder, name, mode, path));
  }

  /** Makes a directory and its missing parents. Throws NotADirectory if something else is in the way. */
  makeWay(path: string, mode = 0o755): void {
    this.#makeEach(path, mode, () => {
      throw libc.failure("make the folder", path, E.NOTDIR);
    });
  }

  /** Like {@link makeWay}, but removes what is in the way. */
  clearWay(path: string, mode = 0o755): void {
    this.#makeEach(path, mode, (obstacle) => {
      this.remove(obstacle);
      this.mkdir(obstacle, mode);
    });
  }

  /** @param onObstacle Called with a path that is not a directory. */
  #makeEach(path: string, mode: number, onObstacle: (path: string) => void): void {
    for (let slash = 0; slash >= 0 && path !== "";) {
      slash = path.indexOf("/", slash + 1);
      const folder = slash < 0 ? path : path.slice(0, slash);
      try {
        this.mkdir(folder, mode);
      } catch (e) {
        if (!(e instanceof Deno.errors.AlreadyExists)) throw e;
        if (this.lstat(folder).kind !== "directory") onObstacle(folder);
      }
    }
  }

  symlink(target: string, path: string): void {
    this.#in(path, (folder, name) => libc.makeSymlink(target, folder, name, path));
  }

  mkfifo(path: string, mode = 0o600): void {
    this.#in(path, (folder, name) => libc.makeFifo(folder, name, mode, path));
  }

  /**
   * Opens a fifo without waiting for its other end; a mere writer needs a reader to be there. The caller closes it.
   */
  openFifo(path: string, flags: typeof O.RDONLY | typeof O.WRONLY | typeof O.RDWR): number {
    return this.#in(path, (folder, name) => {
      const fd = libc.openBeneath(folder, name, flags | O.NOFOLLOW);
      if (fd < 0) throw libc.failure("open", path, -fd);
      if (libc.look(fd, "") === 0 && (libc.seen.mode & S_IFMT) === S_IFIFO) return fd;
      libc.close(fd);
      throw new Deno.errors.InvalidData(`${JSON.stringify(path.slice(0, 200))} is no fifo`);
    });
  }

  rename(from: string, to: string): void {
    this.#in(from, (folder, name) => this.#in(to, (other, toName) => libc.rename(folder, name, other, toName, to)));
    if (this.#kept) this.#forget(from, to);
  }

  chmod(path: string, mode: number): void {
    if (path === "") libc.setModeAt(this.#root, ".", mode, path);
    else this.#in(path, (folder, name) => libc.setModeAt(folder, name, mode, path));
  }

  writeNew(path: string, content: Uint8Array<ArrayBuffer>, mode: number, mtimeMs: number): void {
    using file = this.create(path, mode);
    try {
      writeSparse(file, content, 0);
      file.utime(mtimeMs);
    } catch (e) {
      this.#discard(path);
      throw e;
    }
  }

  #discard(path: string): void {
    try {
      this.remove(path);
    } catch { /* it is gone already */ }
  }

  utime(path: string, mtimeMs: number): void {
    this.#in(path, (folder, name) => libc.setTimesAt(folder, name, mtimeMs, path));
  }

  copy(from: string, to: string): void {
    using files = this.#copying(from, to);
    const { source, target } = files;
    if (!libc.clone(source.fd, target.fd)) Array.from(copySparse(source, target));
  }

  async copyLarge(from: string, to: string): Promise<void> {
    using files = this.#copying(from, to);
    const { source, target } = files;
    if (libc.clone(source.fd, target.fd)) return;
    for (let end = 0, data; (data = libc.dataFrom(source.fd, end, from)); end = data.end) {
      libc.seek(source.fd, data.start);
      libc.seek(target.fd, data.start);
      for (let left = data.end - data.start; left > 0;) {
        const n = await libc.copyRangeElsewhere(source.fd, target.fd, Math.min(left, COPY_BYTES));
        if (n === 0) return;
        // These files do not support it, or the disk is full: the plain copy reports which.
        if (n < 0) return void Array.from(copySparse(source, target, target.stat().size));
        left -= n;
      }
    }
    // A hole at the end needs the size to be set.
    const { size } = source.stat();
    if (target.stat().size < size) target.truncate(size);
  }

  #copying(from: string, to: string) {
    const source = this.#file(from, O.RDONLY);
    try {
      const target = this.create(to, source.stat().mode & 0o777);
      return {
        source,
        target,
        [Symbol.dispose]() {
          source.close();
          target.close();
        },
      };
    } catch (e) {
      source.close();
      throw e;
    }
  }

  remove(path: string, { recursive = false }: { recursive?: boolean } = {}): void {
    this.#in(path, (folder, name) => {
      const code = -libc.unlink(folder, name, false);
      if (code === 0) return;
      // Linux returns EISDIR for a directory, other systems EPERM, which may also be missing permission in the
      // directory.
      if (code !== E.ISDIR && code !== E.PERM) throw libc.failure("remove", path, code);
      if (recursive) removeFolder(folder, name, path, 0);
      else {
        const code = -libc.unlink(folder, name, true);
        if (code !== 0) throw libc.failure("remove", path, code);
      }
    });
    if (this.#kept) this.#forget(path);
  }

  doubt(): void {
    for (const fd of this.#kept?.values() ?? []) libc.close(fd);
    this.#kept?.clear();
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.doubt();
    if (this.#ownsRoot) libc.close(this.#root);
  }

  /** Closes held directories that were moved. */
  #forget(...paths: string[]): void {
    for (const [folder, fd] of this.#kept!) {
      if (!paths.some((path) => folder === path || folder.startsWith(`${path}/`))) continue;
      this.#kept!.delete(folder);
      libc.close(fd);
    }
  }

  #file(path: string, flags: number, mode = 0): BeneathFile {
    if (path === "") throw libc.failure("open", path, E.ISDIR);
    return this.#in(path, (folder, name) => {
      const fd = libc.openBeneath(folder, name, flags | O.NOFOLLOW, mode);
      if (fd < 0) throw libc.failure("open", path, -fd === E.NXIO ? E.ACCES : -fd);
      // Reading a fifo or a device may block or have effects.
      if ((flags & O.CREAT) === 0 && (libc.look(fd, "") !== 0 || (libc.seen.mode & S_IFMT) !== S_IFREG)) {
        libc.close(fd);
        throw new Deno.errors.InvalidData(`${JSON.stringify(path.slice(0, 200))} is no regular file`);
      }
      return new BeneathFile(fd, path);
    });
  }

  /** Opens a path; the caller closes it. */
  #open(path: string, flags: number): number {
    if (this.#closed) throw new TypeError("the folder is not open any more");
    const fd = libc.openBeneath(this.#root, path, flags);
    if (fd < 0) throw libc.failure("open", path, -fd);
    return fd;
  }

  /** Acts on the last name of a path, in its parent directory. */
  #in<T>(path: string, act: (folder: number, name: string) => T): T {
    const slash = path.lastIndexOf("/");
    const name = path.slice(slash + 1);
    // Only an empty path may mean the directory itself.
    if (path !== "" && (name === "" || name === "." || name === "..")) {
      throw libc.failure("name", path, E.NOENT);
    }
    if (slash < 0) {
      if (this.#closed) throw new TypeError("the folder is not open any more");
      return act(this.#root, name);
    }
    const parent = path.slice(0, slash);
    const known = this.#kept?.get(parent);
    if (known !== undefined) return act(known, name);
    const folder = this.#open(parent, O.PATH | O.DIRECTORY);
    if (this.#kept) {
      this.#keep(parent, folder);
      return act(folder, name);
    }
    try {
      return act(folder, name);
    } finally {
      libc.close(folder);
    }
  }

  #keep(path: string, fd: number): void {
    if (this.#kept!.size >= MAX_KEPT) {
      const [[oldest, of]] = this.#kept!;
      this.#kept!.delete(oldest);
      libc.close(of);
    }
    this.#kept!.set(path, fd);
  }
}

/** Removes a directory recursively, giving its owner write permission where necessary. */
function removeFolder(parent: number, name: string, path: string, depth: number): void {
  if (depth > MAX_DEPTH) return removeDeep(parent, name, path);
  let fd = libc.openBeneath(parent, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW);
  if (fd === -E.ACCES) {
    libc.setModeAt(parent, name, 0o700, path);
    fd = libc.openBeneath(parent, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW);
  }
  // Another process has removed it.
  if (fd === -E.NOENT) return;
  if (fd < 0) throw libc.failure("remove", path, -fd);
  try {
    let writable = false;
    // What is created meanwhile is removed too, within limits.
    for (let attempt = 0; attempt < 100; attempt++) {
      for (const child of namesIn(fd, path)) {
        let code = -libc.unlink(fd, child, false);
        if ((code === E.ACCES || code === E.PERM) && !writable) {
          writable = true;
          libc.setFileMode(fd, 0o700, path);
          code = -libc.unlink(fd, child, false);
        }
        if (code === 0 || code === E.NOENT) continue;
        if (code !== E.ISDIR && code !== E.PERM) throw libc.failure("remove", `${path}/${child}`, code);
        removeFolder(fd, child, `${path}/${child}`, depth + 1);
      }
      const code = -libc.unlink(parent, name, true);
      if (code === 0 || code === E.NOENT) return;
      if (code !== E.NOTEMPTY && code !== E.EXIST) throw libc.failure("remove", path, code);
      libc.close(fd);
      fd = libc.openBeneath(parent, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW);
      if (fd < 0) {
        const code = -fd;
        fd = -1;
        if (code === E.NOENT) return;
        throw libc.failure("remove", path, code);
      }
    }
    throw libc.failure("remove", path, E.NOTEMPTY);
  } finally {
    if (fd >= 0) libc.close(fd);
  }
}

/** Removes a tree that is too deep to hold every directory on the way: subdirectories are moved up one by one. */
function removeDeep(parent: number, top: string, path: string): void {
  const pending = [top];
  let moved = 0, failures = 0;
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    const fd = libc.openBeneath(parent, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW);
    if (fd === -E.NOENT) continue;
    if (fd < 0) throw libc.failure("remove", path, -fd);
    try {
      libc.setFileMode(fd, 0o700, path);
      for (const child of namesIn(fd, path)) {
        const code = -libc.unlink(fd, child, false);
        if (code === 0 || code === E.NOENT) continue;
        if (code !== E.ISDIR && code !== E.PERM) throw libc.failure("remove", `${path}/${child}`, code);
        const up = `.removed-${++moved}`;
        libc.setModeAt(fd, child, 0o700, path);
        libc.rename(fd, child, parent, up, path);
        pending.push(up);
      }
    } finally {
      libc.close(fd);
    }
    const code = -libc.unlink(parent, name, true);
    if (code === 0 || code === E.NOENT) continue;
    if (++failures > 100) throw libc.failure("remove", path, code);
    pending.push(name);
  }
}

function identity(fd: number): string {
  const code = libc.look(fd, "");
  if (code < 0) throw libc.failure("look at", "", -code);
  return `${libc.seen.dev}:${libc.seen.ino}`;
}

function namesIn(fd: number, path: string): string[] {
  const names: string[] = [];
  for (const name of libc.namesIn(fd, path)) names.push(decodeName(name));
  return names;
}

function kindOf(mode: number): RawInfo["kind"] {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return "file";
    case S_IFDIR:
      return "directory";
    case S_IFLNK:
      return "symlink";
    default:
      return "other";
  }
}

function look(folder: number, name: string, path: string): RawInfo {
  const code = libc.look(folder, name);
  if (code < 0) throw libc.failure("look at", path, -code);
  const { mode, size, mtimeMs, ctimeMs, ino, dev, links } = libc.seen;
  const kind = kindOf(mode);
  return { kind, mode, size, mtimeMs, ctimeMs, ino, dev, shared: kind === "file" && links > 1 };
}

function lstat(folder: number, name: string, path: string): RawInfo {
  const info = look(folder, name, path);
  if (info.kind === "symlink") info.target = decodeName(libc.readLink(folder, name, path));
  return info;
}

class OpenFolder implements Folder {
  readonly names: readonly string[];
  readonly #fd: number;
  readonly #path: string;

  constructor(fd: number, path: string) {
    this.#fd = fd;
    this.#path = path;
    try {
      this.names = namesIn(fd, path);
    } catch (e) {
      libc.close(fd);
      throw e;
    }
  }

  lstat(name: string): RawInfo {
    return lstat(this.#fd, name, `${this.#path}/${name}`);
  }

  looksLike(name: string, before: LookedLike): boolean {
    if (before.kind === "symlink" || libc.look(this.#fd, name) < 0) return false;
    const { seen } = libc;
    if (seen.ctimeMs !== before.ctimeMs || seen.ino !== before.ino || (seen.mode & 0o7777) !== before.mode) {
      return false;
    }
    if (kindOf(seen.mode) !== before.kind) return false;
    return before.kind !== "file" || (seen.size === before.size && seen.mtimeMs === before.mtimeMs);
  }

  [Symbol.dispose](): void {
    libc.close(this.#fd);
  }
}

class BeneathFile implements OpenFile {
  readonly #path: string;
  #at = 0;
  #open = true;

  constructor(readonly fd: number, path: string) {
    this.#path = path;
  }

  stat(): RawInfo {
    return look(this.fd, "", this.#path);
  }

  read(into: Uint8Array<ArrayBuffer>): number {
    const n = libc.read(this.fd, into, this.#at, this.#path);
    this.#at += n;
    return n;
  }

  write(bytes: Uint8Array<ArrayBuffer>): void {
    libc.write(this.fd, bytes, this.#at, this.#path);
    this.#at += bytes.length;
  }

  writeLarge(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    this.write(bytes);
    return Promise.resolve();
  }

  seek(offset: number): void {
    this.#at = offset;
  }

  truncate(size: number): void {
    libc.truncate(this.fd, size, this.#path);
  }

  utime(mtimeMs: number): void {
    libc.setFileTimes(this.fd, mtimeMs, this.#path);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    libc.close(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
