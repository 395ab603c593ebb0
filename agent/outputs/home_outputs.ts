/**
 * What the developer's machine has of earlier commands: outputs that no command names any more, and that another one may
 * have made anew on its way.
 *
 *     build //:gen       gen.h goes home
 *     build //:app       makes gen.h anew, and names app alone: gen.h has to go home as well
 *
 * The last look at each is kept. A command may have changed what looks otherwise afterwards.
 */
import { type Files, type LookedLike, looksLike } from "../../proto/tree/files.ts";
import { OutermostFolders } from "../../proto/tree/outermost.ts";
import type { Found, OutputTree } from "./output_tree.ts";

/** As many looks in a row. */
const TURN_LOOKS = 1_000;
/** More are not made while others wait. */
const MAX_LOOKS = 10_000;

/** How something looked when it was told; of a folder that is an output, all that is in it. Undefined: it never was. */
type Seen = ReadonlyMap<string, LookedLike> | undefined;

/** See the file's head. Paths are the developer's, absolute. */
export class HomeOutputs {
  readonly #files: Files;
  readonly #here: (path: string) => string;
  /** The folder of external repositories, with a slash at its end. */
  readonly #external: string;
  readonly #seen = new Map<string, Seen>();
  readonly #trees = new Set<string>();

  /**
   * @param files The session's, and
   * @param here where in them something of the output base is.
   */
  constructor(outputBase: string, files: Files, here: (path: string) => string) {
    this.#external = `${outputBase}/external/`;
    this.#files = files;
    this.#here = here;
  }

  /** Whether what is at a path is at home as it is here. */
  isSame(path: string): boolean {
    return this.#isSame(this.#files, this.#seen.get(path));
  }

  /** Takes over what the developer's machine says that it has. All of that counts as changed. */
  reset({ leaves, trees }: { leaves: Iterable<string>; trees: Iterable<string> }): void {
    this.#seen.clear();
    this.#trees.clear();
    for (const path of leaves) this.#seen.set(path, undefined);
    for (const path of trees) {
      this.#seen.set(path, undefined);
      this.#trees.add(path);
    }
  }

  /** The outputs are gone there, as they are here. @param folder What is elsewhere stays. Absolute */
  cleaned(folder: string): void {
    for (const path of this.#seen.keys()) if (path.startsWith(`${folder}/`)) this.forget(path);
  }

  /**
   * What is at home and looks otherwise than when it was told; undefined now and then, for others to have their turn.
   *
   * @param isOwn What is not looked at, since the command itself has made it.
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

  /** Whether nothing is {@link changed}; false where that would take long to say. */
  same(isOwn: (path: string) => boolean): boolean {
    let turns = 0;
    for (const change of this.changed(isOwn)) if (change || ++turns > MAX_LOOKS / TURN_LOOKS) return false;
    return true;
  }

  /** It is not at home any more. */
  forget(path: string): void {
    this.#seen.delete(path);
    this.#trees.delete(path);
  }

  /**
   * Entries were told, as they look now.
   *
   * @param untold Paths of those among them that were not, after all.
   * @returns what of {@link changed} they are
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
      // A folder alone says nothing of what is in it.
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
   * What of a whole repository is looked at: Bazel makes all of it anew, and the file by which it knows it. Its sources
   * may be as many as all outputs.
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
