/**
 * The output base on this machine, where outputs are made and removed. No symlink below it is followed, since the agent
 * made them. A link or file in the place of a directory is removed.
 */
import { isRaw, parent } from "../../proto/tree/names.ts";
import type { RawInfo } from "../../proto/tree/files.ts";
import { chmodSync, lstatSync, mkdirSync, readdirSync, removeSync } from "../../proto/tree/file_calls.ts";

/** The mode bits that the owner needs to change a directory's entries. */
const WRITABLE = 0o700;

/** The outputs' directories. Paths are relative to the output base. */
export class LocalTree {
  readonly #root: string;
  /** Whether a path is a directory that is not a symlink and not behind one. */
  readonly #folders = new Map<string, boolean>([["", true]]);
  /** The final modes of directories. */
  readonly #modes = new Map<string, number>();

  /** @param root The output base. Absolute; must exist. */
  constructor(root: string) {
    this.#root = root;
  }

  /** The absolute path for a path in the output base. */
  join(path: string): string {
    return `${this.#root}/${path}`;
  }

  /** The stat of a path; undefined if it does not exist or a parent is not a directory. */
  look(path: string): RawInfo | undefined {
    return this.isFolder(parent(path)) ? lookAt(this.join(path)) : undefined;
  }

  /** The target of a symlink; undefined if it is not a symlink. Cheaper than {@link look}. */
  readLink(path: string): string | undefined {
    return this.isFolder(parent(path)) ? readLink(this.join(path)) : undefined;
  }

  /** The names in a directory. */
  list(path: string): string[] {
    return this.isFolder(path) ? readdirSync(this.join(path)) : [];
  }

  /** Whether a path is a directory, without a symlink on the way. */
  isFolder(path: string): boolean {
    let known = this.#folders.get(path);
    if (known === undefined) {
      known = this.look(path)?.kind === "directory";
      this.#folders.set(path, known);
    }
    return known;
  }

  /** Makes a path a directory in which entries can be made. */
  makeFolder(path: string): void {
    if (path === "" || this.#modes.has(path)) return;
    const above = parent(path);
    this.makeFolder(above);
    const info = this.look(path);
    if (info?.kind === "directory") {
      const mode = info.mode & 0o7777;
      this.#modes.set(path, mode);
      if ((mode & WRITABLE) !== WRITABLE) chmodSync(this.join(path), mode | WRITABLE);
    } else {
      if (info) removeSync(this.join(path));
      mkdirSync(this.join(path));
      this.#modes.set(path, lstatSync(this.join(path)).mode & 0o7777);
    }
    this.#folders.set(path, true);
  }

  /** Sets the mode that a directory gets at the end. */
  setMode(path: string, mode: number): void {
    this.#modes.set(path, mode);
  }

  /** Sets the modes of directories. */
  finish(): void {
    // The deepest first: a directory's mode may forbid access to what is below.
    for (const [path, mode] of [...this.#modes].sort(([a], [b]) => b.length - a.length)) {
      const info = this.look(path);
      if (info?.kind === "directory" && (info.mode & 0o7777) !== mode) chmodSync(this.join(path), mode);
    }
    this.#modes.clear();
  }

  /** Removes what is at a path, recursively. */
  async remove(path: string): Promise<void> {
    const info = this.look(path);
    if (!info) return;
    this.makeFolder(parent(path));
    await removeTree(this.join(path));
    if (info.kind !== "directory") return;
    for (const map of [this.#folders, this.#modes]) {
      for (const folder of map.keys()) if (folder === path || folder.startsWith(`${path}/`)) map.delete(folder);
    }
  }
}

/** Removes a file, link or directory recursively, also from write-protected directories. */
export async function removeTree(path: string): Promise<void> {
  const remove = () =>
    isRaw(path) ? Promise.resolve(removeSync(path, { recursive: true })) : Deno.remove(path, { recursive: true });
  try {
    await remove();
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return;
    if (!(e instanceof Deno.errors.PermissionDenied)) throw e;
    unprotect(path);
    await remove();
  }
}

function unprotect(path: string): void {
  if (lookAt(path)?.kind !== "directory") return;
  chmodSync(path, WRITABLE);
  for (const name of readdirSync(path)) unprotect(`${path}/${name}`);
}

/** The stat of an absolute path, without following a symlink; undefined if it does not exist. */
export function lookAt(path: string): RawInfo | undefined {
  try {
    return lstatSync(path);
  } catch (e) {
    if (e instanceof Deno.errors.NotFound || e instanceof Deno.errors.NotADirectory) return undefined;
    throw e;
  }
}

/** The target of a symlink; undefined if it is not a symlink. */
export function readLink(path: string): string | undefined {
  try {
    return Deno.readLinkSync(path);
  } catch {
    return undefined;
  }
}
