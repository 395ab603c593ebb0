/**
 * Tells what was changed in folders since it was asked last, by inotify(7): the kernel has noted it when the change
 * returns to who made it, so that an answer is complete, costs a system call, and waits for nobody.
 */
import { Buffer } from "node:buffer";
import { decodeName } from "../../proto/tree/names.ts";
import * as libc from "./libc.ts";
import { E, O } from "./libc.ts";

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
  ONLYDIR: 0x1000000,
} as const;
const CHANGES = IN.MODIFY | IN.ATTRIB | IN.CLOSE_WRITE | IN.MOVED_FROM | IN.MOVED_TO | IN.CREATE | IN.DELETE |
  IN.MOVE_SELF | IN.ONLYDIR;
/** No folder of that name: a symlink in its place is none. */
const NOT_THERE = new Set<number>([E.NOENT, E.NOTDIR, E.LOOP, E.XDEV]);
/** Of a struct inotify_event without its name. */
const HEADER_BYTES = 16;

/** See the file's head. Paths are relative to the folder that it was made for. Dispose of it. */
export class FolderWatch implements Disposable {
  readonly #root: number;
  readonly #queue = libc.watchQueue();
  /** Folders by their watch descriptors. */
  readonly #folders = new Map<number, string>();
  readonly #watched = new Set<string>();
  readonly #buffer = new Uint8Array(64 << 10);

  /** @param root An open folder, which stays open for as long. */
  constructor(root: number) {
    this.#root = root;
  }

  /** Whether a folder is watched. */
  watches(path: string): boolean {
    return this.#watched.has(path);
  }

  /** Watches a folder, but not what is below it. @returns false if it is there and cannot be watched: there is a limit */
  add(path: string): boolean {
    const fd = libc.openBeneath(this.#root, path, O.PATH | O.DIRECTORY);
    if (fd < 0) return NOT_THERE.has(-fd);
    try {
      // The folder that was opened, whatever its name stands for by now.
      const watch = libc.watch(this.#queue, `/proc/self/fd/${fd}`, CHANGES);
      if (watch < 0) return false;
      const before = this.#folders.get(watch);
      if (before !== undefined) this.#watched.delete(before);
      this.#folders.set(watch, path);
      this.#watched.add(path);
      return true;
    } finally {
      libc.close(fd);
    }
  }

  /**
   * Adds the paths that were changed, came or went since the last call.
   *
   * @returns false if there were more of them than the kernel keeps
   */
  take(changed: Set<string>): boolean {
    let complete = true;
    for (;;) {
      const filled = libc.readQueue(this.#queue, this.#buffer);
      if (filled <= 0) return complete;
      const bytes = Buffer.from(this.#buffer.buffer, 0, filled);
      for (let at = 0; at + HEADER_BYTES <= filled;) {
        const watch = bytes.readInt32LE(at), mask = bytes.readUInt32LE(at + 4), length = bytes.readUInt32LE(at + 12);
        const name = bytes.subarray(at + HEADER_BYTES, at += HEADER_BYTES + length);
        if (mask & IN.Q_OVERFLOW) complete = false;
        const folder = this.#folders.get(watch);
        if (folder === undefined) continue;
        if (mask & (IN.IGNORED | IN.MOVE_SELF)) {
          this.#folders.delete(watch);
          this.#watched.delete(folder);
          changed.add(folder);
        } else if (name[0] === 0 || length === 0) changed.add(folder);
        else {
          const own = decodeName(Uint8Array.from(name.subarray(0, name.indexOf(0) < 0 ? length : name.indexOf(0))));
          changed.add(folder === "" ? own : `${folder}/${own}`);
        }
      }
    }
  }

  [Symbol.dispose](): void {
    libc.close(this.#queue);
  }
}
