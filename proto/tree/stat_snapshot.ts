/**
 * Remembers the stats of paths, to see later by one lstat each that nothing has changed. For work that is repeated on
 * the same files.
 */
import type { Files, RawInfo } from "./files.ts";

/** The kernel's clock for files lags behind ours by a tick, more on a busy machine. Milliseconds. */
const TICK_MS = 100;
/** Resolution of ctime in Deno. Milliseconds. */
const CTIME_MS = 1000;

/** The stat of a path. */
interface Seen {
  /** Undefined if nothing was there. */
  info: RawInfo | undefined;
  /** The names in the directory count as well. */
  listed: boolean;
}

/** A snapshot of stats. Symlinks are not followed. */
export class Looks {
  readonly #files: Files;
  readonly #seen = new Map<string, Seen>();
  readonly #limit: number;
  readonly #since: number;
  #steady = true;

  /**
   * @param limit With more paths nothing is remembered: the stats would take longer than they save.
   * @param since When the work began, by Date.now(). A file with a later or slightly earlier change may have changed
   * after its stat, or may change again with the same stat.
   */
  constructor(files: Files, limit: number, since: number = Date.now()) {
    this.#files = files;
    this.#limit = limit;
    this.#since = since;
  }

  /** Stats and remembers a path: a file's content and a symlink's target count, of a directory only its identity. */
  look(path: string): RawInfo | undefined {
    const info = this.#lstat(path);
    this.#note(path, info, this.#seen.get(path)?.listed ?? false);
    return info;
  }

  /** Remembers that the names in a directory count. Call it before they are read. */
  list(path: string): void {
    this.#note(path, this.#lstat(path), true);
  }

  #note(path: string, info: RawInfo | undefined, listed: boolean): void {
    const counts = info && (listed || info.kind !== "directory");
    if (counts && info.ctimeMs + CTIME_MS > this.#since - TICK_MS) this.#steady = false;
    if (this.#seen.size >= this.#limit) this.#steady = false;
    if (this.#steady) this.#seen.set(path, { info, listed });
  }

  /** Whether {@link same} is reliable. */
  get steady(): boolean {
    return this.#steady;
  }

  /** Stats all paths again: whether nothing has changed. False if that is unknown. */
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
