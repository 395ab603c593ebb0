/**
 * What others than the agent have changed in the developer's trees: the session's programs, which stock Bazel lets write
 * into the workspace. Unnoticed, the copy would not be one any more, and later builds would use what nobody has at home.
 *
 *     inotify of each folder ──paths──┬──> a look at each ──not as it is known──> the generation is over
 *     a sweep after each command ─────┘
 *
 * Our own changes cause the same events; what they made is known, and looks so. A folder's watch hears nothing of what is
 * done by another name of a file, by a memory map, or before the folder was watched: a sweep over all files finds that.
 */
import { dirname } from "node:path";
import { isInAny } from "../../proto/base/absolute_path.ts";
import { sentence } from "../../proto/base/errors.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { sameDigest, sameEntry } from "../../proto/tree/entry.ts";
import type { Files } from "../../proto/tree/files.ts";
import { digestLarge, PIECE_BYTES, readSmall } from "../../proto/tree/read.ts";
import { lookAt, type ScannedEntry, scanTree } from "../../proto/tree/scan.ts";
import { type Root, UNSEEN } from "./root.ts";
import type { SourcePlaces } from "./written_sources.ts";

/** Tells of changes in folders, as agent/files/folder_watch.ts does, which says what each of these is. */
export interface Watch extends Disposable {
  watches(path: string): boolean;
  add(path: string): boolean;
  addFile(path: string): boolean;
  addAbove(path: string): boolean;
  take(changed: Set<string>): boolean;
}

/** Files that commands write and bring home: so many of the last ones are remembered. */
const MAX_EXPECTED = 1_000;

/** What others have changed. */
export interface Found {
  /** Absolute paths, the developer's. */
  changed: string[];
  /** The same, of what is only to be brought home. */
  expected: string[];
}

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
  /** Paths in the storage that are to be looked at. */
  #changed = new Set<string>();
  /** All that happens is noted. */
  #complete = true;
  /** Nothing can be watched. */
  #blind = false;
  /** Files that Bazel writes and that are brought home: the developer's, absolute. */
  readonly #expected = new Set<string>();
  /** What commands are writing, and how many: files, and folders with all that is in them. The developer's, absolute. */
  readonly #written = new Map<string, number>();
  readonly #writtenFolders = new Map<string, number>();

  constructor(options: ForeignChangesOptions) {
    this.#options = options;
  }

  /**
   * A command is about to write files of the developer's, which are brought home: they are no news, and those that it writes
   * while it runs nothing at all until it has ended.
   *
   * @param paths Those that are no news afterwards either.
   * @param brought Others, which are made known when it has ended: what is written there later is news.
   * @returns what says that it has
   */
  expect(paths: Iterable<string>, brought: SourcePlaces = { files: [], folders: [] }): () => void {
    const own = [...paths];
    const files = new Set([...own, ...brought.files]), folders = new Set(brought.folders);
    count(this.#written, files, 1);
    count(this.#writtenFolders, folders, 1);
    remember(this.#expected, own);
    return () => {
      count(this.#written, files, -1);
      count(this.#writtenFolders, folders, -1);
      files.clear();
      folders.clear();
    };
  }

  /** Whether a command is writing what is at a path. */
  #isWritten(path: string): boolean {
    if (this.#written.has(path)) return true;
    for (const folder of this.#writtenFolders.keys()) {
      if (path === folder || path.startsWith(`${folder}/`)) return true;
    }
    return false;
  }

  /** Watches the folders of a root that are not watched yet, and its files that have several names. */
  async follow(root: Root): Promise<void> {
    const watch = this.#watching();
    if (!watch) return;
    const base = this.#base(root);
    const pace = new Pace();
    for (let above = dirname(base); above !== this.#options.top && above !== "."; above = dirname(above)) {
      if (!watch.watches(above)) watch.addAbove(above);
    }
    this.#add(watch, base);
    for (const { path, kind, shared } of root.entries.values()) {
      if (kind === "directory" && !root.single) this.#add(watch, `${base}/${path}`);
      else if (shared) this.#addFile(watch, `${base}/${path}`);
      if (pace.due) await pace.rest();
    }
  }

  #add(watch: Watch, folder: string): void {
    if (watch.watches(folder) || watch.add(folder) || !this.#complete) return;
    this.#complete = false;
    this.#options.log(`${folder} cannot be watched: all is looked at before each command`);
  }

  /** A sweep finds what is missed of it. */
  #addFile(watch: Watch, path: string): void {
    if (!watch.watches(path)) watch.addFile(path);
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
  async find(roots: readonly Root[]): Promise<Found> {
    const found: Found = { changed: [], expected: [] };
    if (!this.#watch && !this.#blind) return found;
    this.note();
    if (this.#complete && this.#changed.size === 0) return found;
    const paths = this.#complete ? await this.#suspects(roots) : await this.#all(roots);
    const later: string[] = [];
    const pace = new Pace();
    for (const [root, suspects] of paths) {
      for (const path of suspects) {
        const full = root.single || path === "" ? root.path : `${root.path}/${path}`;
        if (this.#isWritten(full)) later.push(this.#options.top + full);
        else if (!await this.#isKnown(root, path)) {
          (this.#expected.has(full) ? found.expected : found.changed).push(full);
        }
        if (pace.due) await pace.rest();
      }
    }
    for (const path of later) this.#changed.add(path);
    return found;
  }

  /** Looks at all of known roots: what is not as it is known, {@link find} looks at again. Others may change it meanwhile. */
  async sweep(roots: readonly Root[], signal: AbortSignal): Promise<void> {
    // All is looked at before each command then.
    if (!this.#watch || !this.#complete) return;
    const pace = new Pace(signal);
    const inner = innerRoots(roots);
    for (const root of roots) {
      const base = this.#base(root);
      for (const path of await this.#differences(root, inner, signal)) {
        if (!await this.#isKnown(root, path)) this.#changed.add(`${base}/${path}`);
        if (pace.due) await pace.rest();
      }
    }
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

  /** Paths that events or a sweep have named, by their roots, and what is below those that are other folders now. */
  async #suspects(roots: readonly Root[]): Promise<Map<Root, Set<string>>> {
    const watch = this.#watch!, changed = this.#changed;
    this.#changed = new Set();
    const byPath = new Map(roots.map((root) => [root.path, root]));
    const suspects = new Map<Root, Set<string>>();
    const suspect = (root: Root, path: string) => {
      const paths = suspects.get(root);
      if (paths) paths.add(path);
      else suspects.set(root, new Set([path]));
    };
    // Of a root that was moved away or removed, or that was with a folder above it, no folder is watched.
    for (const root of roots) {
      const base = this.#base(root);
      if (changed.has(base) && !watch.watches(base)) suspect(root, root.single ? nameOf(root.path) : "");
    }
    const pace = new Pace();
    for (const path of changed) {
      const at = rootOf(path.slice(this.#options.top.length), byPath);
      if (at && !this.#isInOutputBase(at.root, at.path)) suspect(at.root, at.path);
      if (pace.due) await pace.rest();
    }
    const inner = innerRoots(roots);
    for (const [root, paths] of suspects) if (!root.single) await this.#lookBelow(root, paths, inner);
    return suspects;
  }

  /** Watches those of a root's paths that are folders anew, and adds what below them does not look as it is known. */
  async #lookBelow(root: Root, paths: Set<string>, inner: InnerRoots): Promise<void> {
    const others = inner.get(root);
    const { storage } = this.#options, watch = this.#watch!, base = this.#base(root);
    const isNew = (path: string) => {
      const full = `${base}/${path}`, before = root.entries.get(path);
      // Of what was none, it is news enough that it is a folder now.
      if (path === "" || (before && before.kind !== "directory") || watch.watches(full)) return false;
      // What is no folder is not watched.
      this.#add(watch, full);
      return watch.watches(full);
    };
    const anew = new Set<string>(), found = new Map<string, ScannedEntry>();
    const pace = new Pace();
    for (const path of [...paths]) {
      if (pace.due) await pace.rest();
      if (!isNew(path)) continue;
      anew.add(path);
      const within = await scanTree(storage, base, {
        under: path,
        previous: root.entries,
        skip: (path) => this.#isInOutputBase(root, path) || (others?.has(path) ?? false),
        // Each folder before it is listed, so that nothing comes unnoticed in between.
        onFound: (entries) => {
          for (const entry of entries) if (entry.kind === "directory") this.#add(watch, `${base}/${entry.path}`);
          return undefined;
        },
      }).catch(() => new Map<string, ScannedEntry>());
      for (const [path, entry] of within) {
        found.set(path, entry);
        if (root.entries.get(path) !== entry) paths.add(path);
      }
    }
    if (anew.size === 0) return;
    for (const path of root.entries.keys()) {
      if (!found.has(path) && isInAny(path, anew) && !isOf(others, path)) paths.add(path);
      if (pace.due) await pace.rest();
    }
  }

  /** Events were lost, or folders cannot be watched: all are watched anew, and then looked at. */
  async #all(roots: readonly Root[]): Promise<Map<Root, Set<string>>> {
    this[Symbol.dispose]();
    this.#complete = true;
    this.#changed = new Set();
    for (const root of roots) await this.follow(root);
    const differences = new Map<Root, Set<string>>();
    const inner = innerRoots(roots);
    for (const root of roots) differences.set(root, await this.#differences(root, inner));
    return differences;
  }

  /** All that does not look as it is known, and all that is not known. */
  async #differences(root: Root, inner: InnerRoots, signal?: AbortSignal): Promise<Set<string>> {
    const { storage } = this.#options, others = inner.get(root);
    const found = await scanTree(storage, this.#base(root), {
      under: root.single ? nameOf(root.path) : undefined,
      previous: root.entries,
      skip: (path) => this.#isInOutputBase(root, path) || (others?.has(path) ?? false),
      signal,
    }).catch(() => new Map<string, ScannedEntry>());
    signal?.throwIfAborted();
    const paths = new Set<string>();
    for (const [path, entry] of found) if (root.entries.get(path) !== entry) paths.add(path);
    for (const path of root.entries.keys()) if (!found.has(path) && !isOf(others, path)) paths.add(path);
    return paths;
  }

  async #isKnown(root: Root, path: string): Promise<boolean> {
    if (path === "") return false;
    const { storage } = this.#options, base = this.#base(root), { entries } = root;
    const before = entries.get(path), now = lookAt(storage, base, path);
    if (typeof now === "string") return before === undefined;
    if (now === undefined) return before === undefined;
    // In a new folder that is watched there is nothing yet, or what there is is looked at by itself.
    if (before === undefined) return now.kind === "directory" || this.#isBazels(now);
    if (now.kind !== "file" || before.kind !== "file") {
      if (!sameEntry(before, now)) return false;
      entries.set(path, now);
      return true;
    }
    const looksSame = before.size === now.size && before.mtimeMs === now.mtimeMs && before.mode === now.mode;
    if (!looksSame) return false;
    if (now.shared && this.#watch) this.#addFile(this.#watch, `${base}/${path}`);
    if (
      before.ino === UNSEEN ? now.ctimeMs <= before.ctimeMs : before.ino === now.ino && before.ctimeMs === now.ctimeMs
    ) {
      return true;
    }
    // A new name, or times that were set back.
    if (!before.digest) return false;
    const read = await readQuietly(storage, base, path, now.size);
    if (!read?.digest || !sameDigest(read.digest, before.digest)) return false;
    // Else it would be read each time.
    if (entries.get(path) === before) entries.set(path, read);
    return true;
  }

  /** Whether it is, or lies in, the output base, or what that is mounted on. */
  #isInOutputBase(root: Root, path: string): boolean {
    const { outputBase } = this.#options, full = `${root.path}/${path}`;
    return full === outputBase || full.startsWith(`${outputBase}/`);
  }

  /** Bazel's own links. */
  #isBazels({ kind, target }: ScannedEntry): boolean {
    return kind === "symlink" && target!.startsWith(`${this.#options.outputBase}/`);
  }
}

/** Notes one more of each path, or one less. */
function count(counts: Map<string, number>, paths: Iterable<string>, change: 1 | -1): void {
  for (const path of paths) {
    const number = (counts.get(path) ?? 0) + change;
    if (number > 0) counts.set(path, number);
    else counts.delete(path);
  }
}

/** Adds paths, the newest last: of an IDE each build has names of its own. */
function remember(known: Set<string>, paths: Iterable<string>): void {
  for (const path of paths) {
    known.delete(path);
    known.add(path);
  }
  for (const path of known) {
    if (known.size <= MAX_EXPECTED) break;
    known.delete(path);
  }
}

/** The root whose path this is, and its path there. @param path The developer's, absolute. */
function rootOf(path: string, roots: ReadonlyMap<string, Root>): { root: Root; path: string } | undefined {
  const own = roots.get(path);
  if (own) return own.single ? { root: own, path: nameOf(path) } : undefined;
  for (let slash = path.lastIndexOf("/"); slash > 0; slash = path.lastIndexOf("/", slash - 1)) {
    const root = roots.get(path.slice(0, slash));
    if (root) return root.single ? undefined : { root, path: path.slice(slash + 1) };
  }
  return undefined;
}

/** The roots that lie in another one, by that one: their paths in it. What is there is theirs alone. */
type InnerRoots = ReadonlyMap<Root, ReadonlySet<string>>;

function innerRoots(roots: readonly Root[]): InnerRoots {
  const byPath = new Map(roots.map((root) => [root.path, root]));
  const inner = new Map<Root, Set<string>>();
  for (const { path } of roots) {
    for (let slash = path.lastIndexOf("/"); slash > 0; slash = path.lastIndexOf("/", slash - 1)) {
      const outer = byPath.get(path.slice(0, slash));
      if (!outer || outer.single) continue;
      const within = inner.get(outer);
      if (within) within.add(path.slice(slash + 1));
      else inner.set(outer, new Set([path.slice(slash + 1)]));
    }
  }
  return inner;
}

function isOf(others: ReadonlySet<string> | undefined, path: string): boolean {
  return others !== undefined && (others.has(path) || isInAny(path, others));
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

async function readQuietly(
  files: Files,
  base: string,
  path: string,
  size: number,
): Promise<ScannedEntry | undefined> {
  try {
    return size > PIECE_BYTES ? await digestLarge(files, base, path) : readSmall(files, base, path)?.entry;
  } catch {
    return undefined;
  }
}
