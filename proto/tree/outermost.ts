/** A set of directories that are wanted completely; some may lie in others. */
export class OutermostFolders {
  readonly #folders: ReadonlySet<string>;
  readonly #known = new Map<string, string | undefined>();

  /** @param folders Paths without "." or "..". Must not change later. */
  constructor(folders: ReadonlySet<string>) {
    this.#folders = folders;
  }

  /** The outermost directory of the set that is the path or contains it; undefined if there is none. */
  of(path: string): string | undefined {
    if (this.#folders.size === 0) return undefined;
    const end = path.lastIndexOf("/");
    return (end > 0 ? this.#holding(path.slice(0, end)) : undefined) ?? (this.#folders.has(path) ? path : undefined);
  }

  /** {@link of} for a directory, remembered for all its entries. */
  #holding(folder: string): string | undefined {
    if (!this.#known.has(folder)) this.#known.set(folder, this.of(folder));
    return this.#known.get(folder);
  }
}
