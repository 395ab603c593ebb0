/**
 * What paths looked like, to see later and cheaply that nothing has happened there: an lstat each, and no more. It is for
 * work that is repeated on the same files again and again.
 */
import type { Files, RawInfo } from "./files.ts";

/** The kernel's clock for files is behind ours by a tick of its own, more on a busy machine. Milliseconds. */
const TICK_MS = 100;
/** Times of a change, as Deno tells them, are in whole seconds. Milliseconds. */
const CTIME_MS = 1000;

/** How a path looked. */
interface Seen {
  /** Undefined if nothing was there. */
  info: RawInfo | undefined;
  /** A folder of which the names count as well. */
  listed: boolean;
}

/** See the file's head. Symlinks are not followed. */
export class Looks {
  readonly #files: Files;
  readonly #seen = new Map<string, Seen>();
  readonly #limit: number;
  readonly #since: number;
  #steady = true;

  /**
   * @param limit With more paths nothing is remembered: the looks would take longer than they save.
   * @param since When the work began, by Date.now(). What was changed later or shortly before may have been changed
   * after it was looked at, or may change once more without looking changed.
   */
  constructor(files: Files, limit: number, since: number = Date.now()) {
    this.#files = files;
    this.#limit = limit;
    this.#since = since;
  }

  /** Looks at a path: a file's content counts, and where a symlink leads, but of a folder only that it is one. */
  look(path: string): RawInfo | undefined {
    const info = this.#lstat(path);
    this.#note(path, info, this.#seen.get(path)?.listed ?? false);
    return info;
  }

  /** Notes that the names in a folder count. Call it before they are read. */
  list(path: string): void {
    this.#note(path, this.#lstat(path), true);
  }

  #note(path: string, info: RawInfo | undefined, listed: boolean): void {
    const counts = info && (listed || info.kind !== "directory");
    if (counts && info.ctimeMs + CTIME_MS > this.#since - TICK_MS) this.#steady = false;
    if (this.#seen.size >= this.#limit) this.#steady = false;
    if (this.#steady) this.#seen.set(path, { info, listed });
  }

  /** Whether {@link same} can be relied on. */
  get steady(): boolean {
    return this.#steady;
  }

  /** Looks again: whether all is as it was. False where that cannot be told. */
  get same(): boolean {
    if (!this.#steady) return false;
    for (const [path, before] of this.#seen) if (!isSame(before, this.#look(path))) return false;
    return true;
  }

  #lstat(path: string): RawInfo | undefined {
    try {
      return this.#files.lstat(path);
    } catch {
      return undefined;
    }
  }

  #look(path: string): RawInfo | undefined {
    try {
      return this.#files.look(path);
    } catch {
      return undefined;
    }
  }
}

function isSame({ info: a, listed }: Seen, b: RawInfo | undefined): boolean {
  if (!a || !b) return a === b;
  if (a.ino !== b.ino || a.dev !== b.dev || a.mode !== b.mode) return false;
  if (a.kind === "directory" && !listed) return true;
  return a.size === b.size && a.mtimeMs === b.mtimeMs && a.ctimeMs === b.ctimeMs;
}
