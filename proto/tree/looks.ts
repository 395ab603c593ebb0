/**
 * What paths looked like, to see later and cheaply that nothing has happened there: an lstat each, and no more. It is for
 * work that is repeated on the same files again and again.
 */

/** The kernel's clock for files is behind ours by a tick of its own, more on a busy machine. Milliseconds. */
const TICK_MS = 100;
/** Times of a change, as Deno tells them, are in whole seconds. Milliseconds. */
const CTIME_MS = 1000;

/** How a path looked. */
interface Seen {
  /** Undefined if nothing was there. */
  info: Deno.FileInfo | undefined;
  /** A folder of which the names count as well. */
  listed: boolean;
}

/** See the file's head. Symlinks are not followed. */
export class Looks {
  readonly #seen = new Map<string, Seen>();
  readonly #limit: number;
  readonly #since: number;
  #steady = true;

  /**
   * @param limit With more paths nothing is remembered: the looks would take longer than they save.
   * @param since When the work began, by Date.now(). What was changed later or shortly before may have been changed
   * after it was looked at, or may change once more without looking changed.
   */
  constructor(limit: number, since: number = Date.now()) {
    this.#limit = limit;
    this.#since = since;
  }

  /** Looks at a path: a file's content counts, and where a symlink leads, but of a folder only that it is one. */
  look(path: string): Deno.FileInfo | undefined {
    const info = lstat(path);
    this.#note(path, info, this.#seen.get(path)?.listed ?? false);
    return info;
  }

  /** Notes that the names in a folder count. Call it before they are read. */
  list(path: string): void {
    this.#note(path, lstat(path), true);
  }

  #note(path: string, info: Deno.FileInfo | undefined, listed: boolean): void {
    const counts = info && (listed || !info.isDirectory);
    if (counts && info.ctime!.getTime() + CTIME_MS > this.#since - TICK_MS) this.#steady = false;
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
    for (const [path, before] of this.#seen) if (!isSame(before, lstat(path))) return false;
    return true;
  }
}

function isSame({ info: a, listed }: Seen, b: Deno.FileInfo | undefined): boolean {
  if (!a || !b) return a === b;
  if (a.ino !== b.ino || a.dev !== b.dev || a.mode !== b.mode) return false;
  if (a.isDirectory && !listed) return true;
  return a.size === b.size && a.mtime!.getTime() === b.mtime!.getTime() && a.ctime!.getTime() === b.ctime!.getTime();
}

/** Without following a symlink; undefined if there is nothing that can be looked at. */
export function lstat(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.lstatSync(path);
  } catch {
    return undefined;
  }
}
