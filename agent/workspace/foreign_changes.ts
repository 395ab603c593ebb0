/**
 * What others than the agent have changed in the developer's trees: the session's programs, which stock Bazel lets write
 * into the workspace. Unnoticed, the copy would not be one any more, and later builds would use what nobody has at home.
 *
 *     inotify of each folder ──paths──> a look at each ──not as it is known──> the generation is over
 *
 * Our own changes cause the same events; what they made is known, and looks so.
 */
import { dirname } from "node:path";
import { sentence } from "../../proto/errors.ts";
import { Pace } from "../../proto/pace.ts";
import { sameDigest, sameEntry } from "../../proto/tree/entry.ts";
import type { Files } from "../../proto/tree/files.ts";
import { readSmall } from "../../proto/tree/read.ts";
import { lookAt, type ScannedEntry, scanTree } from "../../proto/tree/scan.ts";
import { type Root, UNSEEN } from "./root.ts";

/** Tells of changes in folders, as agent/files/folder_watch.ts does. */
export interface Watch extends Disposable {
  watches(path: string): boolean;
  add(path: string): boolean;
  take(changed: Set<string>): boolean;
}

/** Files that commands write and bring home: so many of the last ones are remembered. */
const MAX_EXPECTED = 1_000;

/** Parts of {@link ForeignChanges}. */
export interface ForeignChangesOptions {
  storage: Files;
  /** Where in the storage the session's `/` is. */
  top: string;
  /** By the developer's name: symlinks that lead below it are Bazel's own. */
  outputBase: string;
  /** Watches folders of the storage. */
  watch(): Watch;
  log(line: string): void;
}

/** See the file's head. */
export class ForeignChanges implements Disposable {
  readonly #options: ForeignChangesOptions;
  #watch?: Watch;
  /** Paths in the storage. */
  readonly #changed = new Set<string>();
  /** All that happens is noted. */
  #complete = true;
  /** Nothing can be watched. */
  #blind = false;
  /** Files that Bazel writes and that are brought home: the developer's, absolute. */
  readonly #expected = new Set<string>();
  /** Those of them that commands are writing, and how many. */
  readonly #written = new Map<string, number>();

  constructor(options: ForeignChangesOptions) {
    this.#options = options;
  }

  /**
   * A command is about to write these files of the developer's, which are brought home: they are no news, and until it has
   * ended nothing at all. @returns what says that it has
   */
  expect(paths: Iterable<string>): () => void {
    const written = new Set(paths);
    for (const path of written) {
      this.#written.set(path, (this.#written.get(path) ?? 0) + 1);
      // The newest last: of an IDE each build has names of its own.
      this.#expected.delete(path);
      this.#expected.add(path);
    }
    for (const path of this.#expected) {
      if (this.#expected.size <= MAX_EXPECTED) break;
      this.#expected.delete(path);
    }
    return () => {
      for (const path of written) {
        const left = this.#written.get(path)! - 1;
        if (left > 0) this.#written.set(path, left);
        else this.#written.delete(path);
      }
      written.clear();
    };
  }

  /** Watches the folders of a root that are not watched yet. */
  async follow(root: Root): Promise<void> {
    const watch = this.#watching();
    if (!watch) return;
    const base = this.#base(root);
    const pace = new Pace();
    const add = (path: string) => {
      if (watch.watches(path) || watch.add(path) || !this.#complete) return;
      this.#complete = false;
      this.#options.log(`${path} cannot be watched: all is looked at before each command`);
    };
    add(base);
    if (root.single) return;
    for (const { path, kind } of root.entries.values()) {
      if (kind === "directory") add(`${base}/${path}`);
      if (pace.due) await pace.rest();
    }
  }

  /** Undefined where the system has no queue for one more: then all is looked at each time. */
  #watching(): Watch | undefined {
    if (this.#watch) return this.#watch;
    try {
      this.#watch = this.#options.watch();
      this.#blind = false;
    } catch (e) {
      if (!this.#blind) {
        this.#options.log(`folders cannot be watched (${sentence(e)}): all is looked at before each command`);
      }
      this.#blind = true;
      this.#complete = false;
    }
    return this.#watch;
  }

  /** Takes what the kernel has noted, which keeps only so much. */
  note(): void {
    if (this.#watch && !this.#watch.take(this.#changed)) this.#complete = false;
  }

  /**
   * What of known roots is not as it is known: the developer's absolute paths. What is only to be brought home is
   * reported apart. Costs next to nothing where nothing happened.
   */
  async find(roots: readonly Root[]): Promise<{ changed: string[]; expected: string[] }> {
    if (!this.#watch && !this.#blind) return { changed: [], expected: [] };
    this.note();
    const paths = this.#complete
      ? roots.map((root) => this.#pathsIn(root, roots))
      : await Promise.all(roots.map((root) => this.#differences(root)));
    const changed: string[] = [], expected: string[] = [], later: string[] = [];
    const pace = new Pace();
    for (const [i, root] of roots.entries()) {
      for (const path of paths[i]) {
        const full = root.single || path === "" ? root.path : `${root.path}/${path}`;
        if (this.#written.has(full)) later.push(this.#options.top + full);
        else if (!await this.#isKnown(root, path)) {
          (this.#expected.has(full) ? expected : changed).push(full);
        }
        if (pace.due) await pace.rest();
      }
    }
    this.#changed.clear();
    for (const path of later) this.#changed.add(path);
    if (!this.#complete) {
      // Events were lost, or folders cannot be watched: all are watched anew.
      this[Symbol.dispose]();
      this.#complete = true;
      for (const root of roots) await this.follow(root);
    }
    return { changed, expected };
  }

  [Symbol.dispose](): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
  }

  /** The folder in the storage that a root's paths are relative to. */
  #base({ path, single }: Root): string {
    const folder = single ? dirname(path) : path;
    return folder === "/" ? this.#options.top : this.#options.top + folder;
  }

  /** The paths that events named and that are this root's, and no inner one's. */
  #pathsIn(root: Root, roots: readonly Root[]): string[] {
    const base = this.#base(root);
    if (root.single) {
      const own = this.#options.top + root.path;
      return this.#changed.has(own) ? [own.slice(base.length + 1)] : [];
    }
    const paths: string[] = [];
    // It was moved away, or removed.
    if (this.#changed.has(base) && !this.#watch!.watches(base)) paths.push("");
    const inner = roots.filter(({ path }) => path.startsWith(`${root.path}/`)).map(({ path }) =>
      this.#options.top + path
    );
    const isInner = (path: string) => inner.some((folder) => path === folder || path.startsWith(`${folder}/`));
    for (const path of this.#changed) {
      if (path.startsWith(`${base}/`) && !isInner(path)) paths.push(path.slice(base.length + 1));
    }
    return paths;
  }

  /** All that does not look as it is known, and all that is not known. */
  async #differences(root: Root): Promise<Iterable<string>> {
    const { storage } = this.#options;
    const found = await scanTree(storage, this.#base(root), {
      under: root.single ? root.path.slice(root.path.lastIndexOf("/") + 1) : undefined,
      previous: root.entries,
    }).catch(() => new Map<string, ScannedEntry>());
    const paths = new Set<string>();
    for (const [path, entry] of found) if (root.entries.get(path) !== entry) paths.add(path);
    for (const path of root.entries.keys()) if (!found.has(path)) paths.add(path);
    return paths;
  }

  async #isKnown(root: Root, path: string): Promise<boolean> {
    if (path === "") return false;
    const { storage } = this.#options, base = this.#base(root);
    const before = root.entries.get(path), now = lookAt(storage, base, path);
    if (typeof now === "string") return before === undefined;
    if (now === undefined) return before === undefined;
    if (before === undefined) return this.#isBazels(root, now) || await this.#holdsNothing(root, now);
    if (now.kind !== "file" || before.kind !== "file") return sameEntry(before, now);
    const looksSame = before.size === now.size && before.mtimeMs === now.mtimeMs && before.mode === now.mode;
    if (!looksSame) return false;
    if (
      before.ino === UNSEEN ? now.ctimeMs <= before.ctimeMs : before.ino === now.ino && before.ctimeMs === now.ctimeMs
    ) {
      return true;
    }
    // A new name, or times that were set back.
    if (!before.digest) return false;
    const read = readSmallQuietly(storage, base, path);
    return read?.digest !== undefined && sameDigest(read.digest, before.digest);
  }

  /** Its links, and what the output base is mounted on. */
  #isBazels(root: Root, { kind, path, target }: ScannedEntry): boolean {
    const { outputBase } = this.#options;
    return kind === "symlink" ? target!.startsWith(`${outputBase}/`) : `${root.path}/${path}` === outputBase;
  }

  /** A new folder in which there are only folders and Bazel's links. */
  async #holdsNothing(root: Root, { kind, path }: ScannedEntry): Promise<boolean> {
    if (kind !== "directory") return false;
    const within = await scanTree(this.#options.storage, this.#base(root), { under: path }).catch(() => undefined);
    if (!within) return true;
    return [...within.values()].every((entry) =>
      entry.kind === "directory" || this.#isBazels(root, entry) || this.#expected.has(`${root.path}/${entry.path}`)
    );
  }
}

function readSmallQuietly(files: Files, base: string, path: string): ScannedEntry | undefined {
  try {
    return readSmall(files, base, path)?.entry;
  } catch {
    return undefined;
  }
}
