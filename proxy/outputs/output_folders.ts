/**
 * The output base on this machine, as far as outputs are made and removed there. No symlink below it is followed: the
 * agent made them. A link or file that stands where a folder must be gives way.
 */
import { isRaw, parent } from "../../proto/tree/names.ts";
import type { RawInfo } from "../../proto/tree/files.ts";
import { chmodSync, lstatSync, mkdirSync, readdirSync, removeSync } from "../../proto/tree/file_calls.ts";

/** What the owner needs to make and remove something in a folder. */
const WRITABLE = 0o700;

/** See the file's head. Paths are relative to the output base. */
export class LocalTree {
  readonly #root: string;
  /** Whether a path is a folder: not a link to one, and not reached through one. */
  readonly #folders = new Map<string, boolean>([["", true]]);
  /** The modes that folders shall have in the end. */
  readonly #modes = new Map<string, number>();

  /** @param root The output base. Absolute; it must be there. */
  constructor(root: string) {
    this.#root = root;
  }

  /** The absolute path of something in it. */
  join(path: string): string {
    return `${this.#root}/${path}`;
  }

  /** What stands at a path; undefined if there is nothing, or if a folder on the way is none. */
  look(path: string): RawInfo | undefined {
    return this.isFolder(parent(path)) ? lookAt(this.join(path)) : undefined;
  }

  /** Where a symlink leads; undefined if there is none. Cheaper than a look. */
  readLink(path: string): string | undefined {
    return this.isFolder(parent(path)) ? readLink(this.join(path)) : undefined;
  }

  /** The names in a folder. */
  list(path: string): string[] {
    return this.isFolder(path) ? readdirSync(this.join(path)) : [];
  }

  /** Whether a path is a folder, without any link on the way. */
  isFolder(path: string): boolean {
    let known = this.#folders.get(path);
    if (known === undefined) {
      known = this.look(path)?.kind === "directory";
      this.#folders.set(path, known);
    }
    return known;
  }

  /** Makes a path a folder in which something can be made. */
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

  /** Notes the mode that a folder shall have when all is written. */
  setMode(path: string, mode: number): void {
    this.#modes.set(path, mode);
  }

  /** Gives folders their modes. */
  finish(): void {
    // The deepest first: a folder's mode may forbid to go into it.
    for (const [path, mode] of [...this.#modes].sort(([a], [b]) => b.length - a.length)) {
      const info = this.look(path);
      if (info?.kind === "directory" && (info.mode & 0o7777) !== mode) chmodSync(this.join(path), mode);
    }
    this.#modes.clear();
  }

  /** Removes what stands at a path, with all that is in it. */
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

/** Removes a file, link or folder with all that is in it, write-protected folders among them. */
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

/** What stands at an absolute path, itself if it is a symlink; undefined if there is nothing. */
export function lookAt(path: string): RawInfo | undefined {
  try {
    return lstatSync(path);
  } catch (e) {
    if (e instanceof Deno.errors.NotFound || e instanceof Deno.errors.NotADirectory) return undefined;
    throw e;
  }
}

/** Where a symlink leads; undefined if there is none. */
export function readLink(path: string): string | undefined {
  try {
    return Deno.readLinkSync(path);
  } catch {
    return undefined;
  }
}
