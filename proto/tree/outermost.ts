/** Folders of which all is wanted, some of them perhaps in others. */
export class OutermostFolders {
  readonly #folders: ReadonlySet<string>;
  readonly #known = new Map<string, string | undefined>();

  /** @param folders Paths without "." or ".."; not changed meanwhile. */
  constructor(folders: ReadonlySet<string>) {
    this.#folders = folders;
  }

  /** The outermost folder that is the path or holds it; undefined if there is none. */
  of(path: string): string | undefined {
    if (this.#folders.size === 0) return undefined;
    const end = path.lastIndexOf("/");
    return (end > 0 ? this.#holding(path.slice(0, end)) : undefined) ?? (this.#folders.has(path) ? path : undefined);
  }

  /** The same of a folder, for all that is in it. */
  #holding(folder: string): string | undefined {
    if (!this.#known.has(folder)) this.#known.set(folder, this.of(folder));
    return this.#known.get(folder);
  }
}
