/**
 * Reports changes in directories since the last call, by inotify(7): the kernel records a change before it returns to
 * the program that made it. So an answer is complete, costs one system call, and waits for nothing.
 */
import { Buffer } from "node:buffer";
import { decodeName } from "../../proto/tree/names.ts";
import * as libc from "./libc.ts";
import { E, O } from "./libc.ts";
import { isInAny } from "../../proto/base/absolute_path.ts";

/** From linux/inotify.h. */
const IN = {
  MODIFY: 0x2,
  ATTRIB: 0x4,
  CLOSE_WRITE: 0x8,
  MOVED_FROM: 0x40,
  MOVED_TO: 0x80,
  CREATE: 0x100,
  DELETE: 0x200,
  MOVE_SELF: 0x800,
  Q_OVERFLOW: 0x4000,
  IGNORED: 0x8000,
  MASK_ADD: 0x20000000,
  ISDIR: 0x40000000,
} as const;
const CHANGES = IN.MODIFY | IN.ATTRIB | IN.CLOSE_WRITE | IN.MOVED_FROM | IN.MOVED_TO | IN.CREATE | IN.DELETE |
  IN.MOVE_SELF;
/** Errors that mean there is no such directory; a symlink in its place does not count. */
const NOT_THERE = new Set<number>([E.NOENT, E.NOTDIR, E.LOOP, E.XDEV]);
/** Size of a struct inotify_event without its name. */
const HEADER_BYTES = 16;

/** A watch of directories and files. Paths are relative to the directory that it was made for. Dispose of it. */
export class FolderWatch implements Disposable {
  readonly #root: number;
  readonly #queue = libc.watchQueue();
  /** Watched paths by watch descriptor: a file may have several. */
  readonly #paths = new Map<number, Set<string>>();
  readonly #watched = new Map<string, number>();
  /** Directories watched only for being moved, by watch descriptor. */
  readonly #above = new Map<number, string>();
  readonly #watchedAbove = new Set<string>();
  readonly #buffer = new Uint8Array(64 << 10);

  /** @param root An open directory, which must stay open while the watch is used. */
  constructor(root: number) {
    this.#root = root;
  }

  /**
   * Whether the directory or file at this path is watched: since the last {@link take}, nothing else can have replaced
   * it without an event.
   */
  watches(path: string): boolean {
    return this.#watched.has(path);
  }

  /**
   * Watches a directory, but not what is below.
   * @returns false if it exists but cannot be watched: there is a limit
   */
  add(path: string): boolean {
    return this.#add(path, O.DIRECTORY, CHANGES);
  }

  /**
   * Watches a file, through all its hard links.
   * @returns as {@link add}
   */
  addFile(path: string): boolean {
    return this.#add(path, 0, CHANGES);
  }

  /**
   * Watches for a directory being moved, which moves everything below.
   * @returns as {@link add}
   */
  addAbove(path: string): boolean {
    return this.#watchedAbove.has(path) || this.#add(path, O.DIRECTORY, IN.MOVE_SELF);
  }

  #add(path: string, flags: number, mask: number): boolean {
    const fd = libc.openBeneath(this.#root, path, O.PATH | flags);
    if (fd < 0) return NOT_THERE.has(-fd);
    try {
      // Watches what was opened, whatever its path means by now. The same file always gets the same watch descriptor.
      const watch = libc.watch(this.#queue, `/proc/self/fd/${fd}`, mask | IN.MASK_ADD);
      if (watch < 0) return false;
      if (mask === IN.MOVE_SELF) {
        this.#watchedAbove.add(path);
        this.#above.set(watch, path);
      } else this.#know(path, watch, flags === O.DIRECTORY);
      return true;
    } finally {
      libc.close(fd);
    }
  }

  #know(path: string, watch: number, single: boolean): void {
    if (this.#watched.get(path) === watch) return;
    this.#unknow(path);
    const paths = this.#paths.get(watch);
    if (!paths) this.#paths.set(watch, new Set([path]));
    else {
      // A directory has only one path.
      if (single) { for (const before of paths) this.#watched.delete(before); }
      if (single) paths.clear();
      paths.add(path);
    }
    this.#watched.set(path, watch);
  }

  #unknow(path: string): void {
    const watch = this.#watched.get(path);
    if (watch === undefined) return;
    this.#watched.delete(path);
    const paths = this.#paths.get(watch)!;
    paths.delete(path);
    if (paths.size > 0) return;
    this.#paths.delete(watch);
    if (!this.#above.has(watch)) libc.unwatch(this.#queue, watch);
  }

  /**
   * Adds the paths that changed, appeared or vanished since the last call. What was moved away or removed is no longer
   * watched, nor is anything that was below it; all these paths are added.
   *
   * @returns false if the kernel's queue overflowed
   */
  take(changed: Set<string>): boolean {
    let complete = true;
    // What was removed was empty by then; what was moved takes along what is below.
    const gone = new Set<string>(), moved = new Set<string>();
    for (;;) {
      const filled = libc.readQueue(this.#queue, this.#buffer);
      if (filled <= 0) break;
      const bytes = Buffer.from(this.#buffer.buffer, 0, filled);
      for (let at = 0; at + HEADER_BYTES <= filled;) {
        const watch = bytes.readInt32LE(at), mask = bytes.readUInt32LE(at + 4), length = bytes.readUInt32LE(at + 12);
        const name = bytes.subarray(at + HEADER_BYTES, at += HEADER_BYTES + length);
        if (mask & IN.Q_OVERFLOW) complete = false;
        const above = this.#above.get(watch), paths = this.#paths.get(watch);
        if (mask & (IN.IGNORED | IN.MOVE_SELF)) {
          const which = mask & IN.MOVE_SELF ? moved : gone;
          if (above !== undefined) which.add(above);
          for (const path of paths ?? []) which.add(path);
        } else if (length === 0 || name[0] === 0) {
          for (const path of paths ?? []) changed.add(path);
        } else {
          const end = name.indexOf(0);
          const own = decodeName(Uint8Array.from(name.subarray(0, end < 0 ? length : end)));
          for (const folder of paths ?? []) {
            const path = folder === "" ? own : `${folder}/${own}`;
            changed.add(path);
            if ((mask & IN.ISDIR) === 0) continue;
            // A removed directory that a process holds open does not report its own removal.
            if (mask & (IN.DELETE | IN.MOVED_TO)) gone.add(path);
            if (mask & IN.MOVED_FROM) moved.add(path);
          }
        }
      }
    }
    const lost = [...gone].filter((path) => this.#watched.has(path));
    if (moved.size > 0) { for (const path of this.#watched.keys()) if (isAtOrInAny(path, moved)) lost.push(path); }
    for (const path of lost) {
      this.#unknow(path);
      changed.add(path);
    }
    for (const [watch, path] of gone.size + moved.size > 0 ? this.#above : []) {
      if (!gone.has(path) && !isAtOrInAny(path, moved)) continue;
      this.#above.delete(watch);
      this.#watchedAbove.delete(path);
      if (!this.#paths.has(watch)) libc.unwatch(this.#queue, watch);
    }
    return complete;
  }

  [Symbol.dispose](): void {
    libc.close(this.#queue);
  }
}

function isAtOrInAny(path: string, folders: ReadonlySet<string>): boolean {
  return folders.has(path) || isInAny(path, folders);
}
