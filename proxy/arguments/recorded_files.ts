import type { Files } from "./outside_roots.ts";

/** Records what was found in a file system, to see later whether the same would be found again. */
export class RecordedFiles implements Files {
  readonly #files: Files;
  readonly #found = new Map<string, () => boolean>();

  constructor(files: Files) {
    this.#files = files;
  }

  readFile(path: string): string | undefined {
    return this.#note("readFile", path);
  }

  exists(path: string): boolean {
    return this.#note("exists", path);
  }

  realPath(path: string): string | undefined {
    return this.#note("realPath", path);
  }

  /** Looks again: whether everything is unchanged. */
  get same(): boolean {
    for (const isSame of this.#found.values()) if (!isSame()) return false;
    return true;
  }

  #note<K extends keyof Files>(method: K, path: string): ReturnType<Files[K]> {
    const look = () => this.#files[method](path) as ReturnType<Files[K]>;
    const found = look();
    const key = `${method} ${path}`;
    // The first result counts: if a later one differs, `same` becomes false.
    if (!this.#found.has(key)) this.#found.set(key, () => look() === found);
    return found;
  }
}
