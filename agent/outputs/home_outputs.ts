/**
 * Knows which outputs of earlier commands the developer's machine has. A later command may make one again without
 * naming it:
 *
 *     build //:gen       gen.h is copied to the developer
 *     build //:app       makes gen.h again, but names only app: gen.h must be copied too
 *
 * For each output the last stat is kept; if it differs after a command, the output may have changed.
 */
import { type Files, type LookedLike, looksLike } from "../../proto/tree/files.ts";
import { OutermostFolders } from "../../proto/tree/outermost.ts";
import type { Found, OutputTree } from "./output_tree.ts";

/** Number of looks without a break. */
const TURN_LOOKS = 1_000;
/** Maximum number of looks while a command waits. */
const MAX_LOOKS = 10_000;

/** The stats of an output when it was told; for a directory output, of everything in it. Undefined if it never was. */
type Seen = ReadonlyMap<string, LookedLike> | undefined;

/** The outputs on the developer's machine. Paths are the developer's, absolute. */
export class HomeOutputs {
  readonly #files: Files;
  readonly #here: (path: string) => string;
  /** The directory of external repositories, with a trailing slash. */
  readonly #external: string;
  readonly #seen = new Map<string, Seen>();
  readonly #trees = new Set<string>();

  /**
   * @param files The session's files.
   * @param here Where a path of the output base is in them.
   */
  constructor(outputBase: string, files: Files, here: (path: string) => string) {
    this.#external = `${outputBase}/external/`;
    this.#files = files;
    this.#here = here;
  }

  /** Whether the developer's machine has a path as it is here. */
  isSame(path: string): boolean {
    return this.#isSame(this.#files, this.#seen.get(path));
  }

  /** Sets what the developer's machine says that it has. All of it counts as changed. */
  reset({ leaves, trees }: { leaves: Iterable<string>; trees: Iterable<string> }): void {
    this.#seen.clear();
    this.#trees.clear();
    for (const path of leaves) this.#seen.set(path, undefined);
    for (const path of trees) {
      this.#seen.set(path, undefined);
      this.#trees.add(path);
    }
  }

  /** The outputs below a directory are removed there, as here. @param folder Absolute. */
  cleaned(folder: string): void {
    for (const path of this.#seen.keys()) if (path.startsWith(`${folder}/`)) this.forget(path);
  }

  /**
   * Yields outputs whose stat differs from when they were told, and from time to time undefined, so that other work can
   * run.
   *
   * @param isOwn Paths that the command itself has made, which are skipped.
   */
  *changed(isOwn: (path: string) => boolean): Generator<{ path: string; isTree: boolean } | undefined> {
    using files = this.#files.keeping();
    let looked = 0;
    for (const [path, seen] of this.#seen) {
      if (isOwn(path)) continue;
      if (++looked % TURN_LOOKS === 0) {
        yield undefined;
        files.doubt();
      }
      if (this.#isSame(files, seen)) continue;
      yield { path, isTree: this.#trees.has(path) };
      files.doubt();
    }
  }

  /** Whether nothing is {@link changed}; false if the answer would take long. */
  same(isOwn: (path: string) => boolean): boolean {
    let turns = 0;
    for (const change of this.changed(isOwn)) if (change || ++turns > MAX_LOOKS / TURN_LOOKS) return false;
    return true;
  }

  /** The developer's machine no longer has the output. */
  forget(path: string): void {
    this.#seen.delete(path);
    this.#trees.delete(path);
  }

  /**
   * Records that entries were told, with their present stats.
   *
   * @param untold Paths of those that were not told after all.
   * @returns the keys of these entries in {@link changed}
   */
  told(tree: OutputTree, entries: Iterable<Found>, untold: ReadonlySet<string>): ReadonlySet<string> {
    const before = this.#trees.size;
    for (const path of tree.trees) this.#trees.add(path);
    const grown = this.#trees.size > before;
    const outermost = new OutermostFolders(this.#trees);
    const roots = new Map<string, Map<string, LookedLike>>();
    const doubtful = new Set<string>();
    for (const entry of entries) {
      const root = outermost.of(entry.path) ?? entry.path;
      // A directory alone does not say what is in it.
      if (entry.kind === "directory" && !this.#trees.has(root)) continue;
      let seen = roots.get(root);
      if (!seen) roots.set(root, seen = new Map());
      seen.set(entry.path, { ...entry, mode: entry.kind === "symlink" ? 0o777 : entry.mode });
      if (untold.has(entry.path)) doubtful.add(root);
    }
    for (const [root, seen] of roots) {
      this.#seen.set(root, doubtful.has(root) ? undefined : this.#repository(root, seen) ?? seen);
    }
    const told = new Set(roots.keys());
    if (!grown) return told;
    for (const path of this.#seen.keys()) if ((outermost.of(path) ?? path) !== path) this.forget(path);
    return told;
  }

  /**
   * The stats that represent a whole repository: Bazel recreates it as a whole, together with its marker file. Its
   * sources may be as many as all outputs.
   */
  #repository(root: string, seen: ReadonlyMap<string, LookedLike>): Seen {
    const name = root.startsWith(this.#external) ? root.slice(this.#external.length) : "/";
    const folder = seen.get(root);
    if (name.includes("/") || folder?.kind !== "directory") return undefined;
    const marker = `${this.#external}@${name}.marker`;
    try {
      const look = this.#files.look(this.#here(marker));
      return new Map([[root, folder], [marker, { ...look, mode: look.mode & 0o7777 }]]);
    } catch {
      return new Map([[root, folder]]);
    }
  }

  #isSame(files: Files, seen: Seen): boolean {
    if (!seen) return false;
    try {
      for (const [path, before] of seen) if (!looksLike(files.look(this.#here(path)), before)) return false;
      return true;
    } catch {
      return false;
    }
  }
}
