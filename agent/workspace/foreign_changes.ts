/**
 * Finds changes in the developer's trees that the agent did not make: those of the session's programs, which stock
 * Bazel lets write into the workspace. Unnoticed, the copy would differ from the laptop's files, and later builds would
 * use files that the developer does not have.
 *
 *     inotify of each directory ──paths──┬──> a look at each ──differs from what is known──> the generation is over
 *     a sweep after each command ────────┘
 *
 * The agent's own changes cause the same events, but match what is known. A directory's watch does not report changes
 * through another hard link, through a memory map, or from before the watch: a sweep over all files finds those.
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

/** Watches directories for changes; agent/files/folder_watch.ts describes each method. */
export interface Watch extends Disposable {
  watches(path: string): boolean;
  add(path: string): boolean;
  addFile(path: string): boolean;
  addAbove(path: string): boolean;
  take(changed: Set<string>): boolean;
}

/** Number of files written by the latest commands that are remembered. */
const MAX_EXPECTED = 1_000;

/** Changes that the agent did not make. */
export interface Found {
  /** The developer's absolute paths. */
  changed: string[];
  /** Changes that only have to be copied back. The developer's absolute paths. */
  expected: string[];
}

/** Options of {@link ForeignChanges}. */
export interface ForeignChangesOptions {
  storage: Files;
  /** The directory of the storage that is the session's `/`. */
  top: string;
  /** The developer's path. Symlinks that lead below it are Bazel's own. */
  outputBase: string;
  /** Makes a watch for directories of the storage. */
  watch(): Watch;
  log(line: string): void;
}

/** Finds foreign changes by a watch and by sweeps. */
export class ForeignChanges implements Disposable {
  readonly #options: ForeignChangesOptions;
  #watch?: Watch;
  /** Paths in the storage that have to be looked at. */
  #changed = new Set<string>();
  /** Every change is reported since the last full look. */
  #complete = true;
  /** Watching is impossible. */
  #blind = false;
  /** Files that Bazel writes and that are copied back. The developer's absolute paths. */
  readonly #expected = new Set<string>();
  /**
   * What running commands may write, with the number of commands: files, and directories with all below. The
   * developer's absolute paths.
   */
  readonly #written = new Map<string, number>();
  readonly #writtenFolders = new Map<string, number>();

  constructor(options: ForeignChangesOptions) {
    this.#options = options;
  }

  /**
   * Announces a command that may write the developer's files, which are then copied back. They are not foreign changes;
   * while the command runs they are not looked at.
   *
   * @param paths Files that do not count as foreign changes afterwards either.
   * @param brought Other places. After the command, what was told becomes known; later changes there are foreign.
   * @returns call it when the command has ended
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

  /** Whether a running command may write a path. */
  #isWritten(path: string): boolean {
    if (this.#written.has(path)) return true;
    for (const folder of this.#writtenFolders.keys()) {
      if (path === folder || path.startsWith(`${folder}/`)) return true;
    }
    return false;
  }

  /** Watches the directories of a root that are not watched yet, and its files with several hard links. */
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

  /** If this fails, a sweep finds the changes. */
  #addFile(watch: Watch, path: string): void {
    if (!watch.watches(path)) watch.addFile(path);
  }

  /** The watch. Undefined if the system has no further inotify queue: then everything is looked at each time. */
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

  /** Reads the kernel's events, of which its queue holds only a limited number. */
  note(): void {
    if (this.#watch && !this.#watch.take(this.#changed)) this.#complete = false;
  }

  /** Finds foreign changes in known roots. Very cheap if nothing has happened. */
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

  /**
   * Looks at everything in known roots. {@link find} looks again at what differs. Programs may change files meanwhile.
   */
  async sweep(roots: readonly Root[], signal: AbortSignal): Promise<void> {
    // Then everything is looked at before each command anyway.
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

  /** The directory of the storage to which a root's paths are relative. */
  #base({ path, single }: Root): string {
    const folder = single ? dirname(path) : path;
    return folder === "/" ? this.#options.top : this.#options.top + folder;
  }

  /** The paths from events and sweeps by root, with everything below directories that were replaced. */
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
    // If a root or a parent of it was moved or removed, none of the root's directories is watched.
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

  /** Watches the given paths again that are directories, and adds what differs below them. */
  async #lookBelow(root: Root, paths: Set<string>, inner: InnerRoots): Promise<void> {
    const others = inner.get(root);
    const { storage } = this.#options, watch = this.#watch!, base = this.#base(root);
    const isNew = (path: string) => {
      const full = `${base}/${path}`, before = root.entries.get(path);
      // If it was not a directory before, that is a change in itself.
      if (path === "" || (before && before.kind !== "directory") || watch.watches(full)) return false;
      // Adding fails for anything but a directory.
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
        // Watched before it is listed, so that no change in between is missed.
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

  /** After lost events, or if a directory cannot be watched: sets all watches again, then looks at everything. */
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

  /** Everything that differs from what is known. */
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
    // A new directory that is watched is still empty, or its entries are looked at separately.
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
    // Another name, or its times were set back.
    if (!before.digest) return false;
    const read = await readQuietly(storage, base, path, now.size);
    if (!read?.digest || !sameDigest(read.digest, before.digest)) return false;
    // Otherwise it would be read each time.
    if (entries.get(path) === before) entries.set(path, read);
    return true;
  }

  /** Whether a path is the output base's mount point, or below it. */
  #isInOutputBase(root: Root, path: string): boolean {
    const { outputBase } = this.#options, full = `${root.path}/${path}`;
    return full === outputBase || full.startsWith(`${outputBase}/`);
  }

  /** Whether it is one of Bazel's own symlinks. */
  #isBazels({ kind, target }: ScannedEntry): boolean {
    return kind === "symlink" && target!.startsWith(`${this.#options.outputBase}/`);
  }
}

/** Adds `change` to the count of each path. */
function count(counts: Map<string, number>, paths: Iterable<string>, change: 1 | -1): void {
  for (const path of paths) {
    const number = (counts.get(path) ?? 0) + change;
    if (number > 0) counts.set(path, number);
    else counts.delete(path);
  }
}

/** Adds paths as the newest. With an IDE, each build has its own file names. */
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

/** The root that contains a path, and the path in it. @param path The developer's absolute path. */
function rootOf(path: string, roots: ReadonlyMap<string, Root>): { root: Root; path: string } | undefined {
  const own = roots.get(path);
  if (own) return own.single ? { root: own, path: nameOf(path) } : undefined;
  for (let slash = path.lastIndexOf("/"); slash > 0; slash = path.lastIndexOf("/", slash - 1)) {
    const root = roots.get(path.slice(0, slash));
    if (root) return root.single ? undefined : { root, path: path.slice(slash + 1) };
  }
  return undefined;
}

/** For each root, the paths of other roots in it. What is there belongs to the inner root only. */
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
