/**
 * What is known of one directory or single file of this machine, and what of it the agent does not have yet.
 *
 *     hint ──> dirty ──refresh──> entries ──what changed──> pending ──sent──> settled
 *                                                              ^
 *                        the agent's manifest, compared ───────┘
 */
import { RbsError } from "../../proto/base/errors.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { type Entry, type EntryKind, sameDigest, sameEntry } from "../../proto/tree/entry.ts";
import { localFiles } from "../../proto/tree/local_files.ts";
import { isRaw } from "../../proto/tree/names.ts";
import { digestFile, digestLarge, PIECE_BYTES, readSmall } from "../../proto/tree/read.ts";
import { isUnchanged, lookAt, type ScannedEntry, scanTree } from "../../proto/tree/scan.ts";
import type { IgnoreRules } from "./ignore_rules.ts";

/** Up to this many dirty paths are looked at one by one. Beyond, a full scan is cheaper. */
const MAX_SINGLE_LOOKS = 200;

/** The mode bits that are copied back from the agent. */
const KEPT_MODE = 0o755;

/** Allocation unit for digests, in bytes. */
const DIGESTS_BYTES = 32 << 10;

/** Options for looking at a tree. */
export interface LookOptions {
  signal?: AbortSignal;
  /** Called from time to time with the number of entries found. */
  onProgress?(entries: number): void;
  /** Called with the absolute path of what cannot be read. */
  onUnreadable?(path: string): void;
  /** Receives what a full scan finds. */
  finder?: Finder;
  /** Whether a change of this file under another of its names is reported by a hint. @default never */
  isWatched?(path: string): boolean;
}

/** Receives what a full scan finds. The scan awaits the returned promises. */
export interface Finder {
  /** The entries of one directory. */
  found(entries: ScannedEntry[]): Promise<void> | undefined;
  /**
   * The scan is complete. What was passed to {@link LocalTree.sent} before this resolves is not pending afterwards.
   */
  foundAll(): Promise<void>;
}

/** One root of this machine, with the changes that the agent lacks. Paths are relative to the root unless noted. */
export class LocalTree {
  /** Absolute path. For a single file: the directory that contains it. */
  readonly root: string;
  /** For a single file: its name. */
  readonly #only?: string;
  #entries = new Map<string, ScannedEntry>();
  readonly #pending = new Map<string, Entry | undefined>();
  /**
   * Paths that may have changed since the last look; `#replaced` has those that may be different files or directories.
   */
  readonly #dirty = new Set<string>();
  readonly #replaced = new Set<string>();
  readonly #undigested = new Set<ScannedEntry>();
  /** Files with several hard links. */
  readonly #shared = new Set<string>();
  /** Inodes of files with several hard links that were found changed or new. */
  #changedInodes = new Set<number>();
  #stale = true;
  static #versions = 0;
  #linksVersion = 0;
  /** Directories scanned since the last {@link takeFolders}. */
  #looked = new Set<string>();
  /** What is not synced. @default everything is synced */
  rules?: IgnoreRules;
  /** Paths in the directory that do not belong to this tree, with everything below: another root, the output base. */
  leaveOut: readonly string[] = [];
  /** Files that a running command may write, here and at the agent. They are not synced. Absolute paths. */
  held: { keys(): Iterable<string>; has(path: string): boolean } = new Set();

  /** @param path Absolute. For a single file, the tree has this one entry. */
  constructor(readonly path: string, readonly single = false) {
    const slash = path.lastIndexOf("/");
    this.root = single ? path.slice(0, slash) || "/" : path;
    this.#only = single ? path.slice(slash + 1) : undefined;
  }

  /** The entries as of the last look. */
  get entries(): ReadonlyMap<string, ScannedEntry> {
    return this.#entries;
  }

  /** Paths at which the agent has something else. The value is the agent's entry, if known. */
  get pending(): ReadonlyMap<string, Entry | undefined> {
    return this.#pending;
  }

  /** Whether the next refresh must be a full scan. */
  get stale(): boolean {
    return this.#stale;
  }

  /**
   * Changes whenever a symlink was added, removed or retargeted, however that was found. No two trees share a value. To
   * find the links, iterate over all entries.
   */
  get linksVersion(): number {
    return this.#linksVersion;
  }

  /** The directories of the tree, absolute, the root first. */
  *folders(): Generator<string> {
    if (this.single) return;
    yield this.root;
    for (const { path, kind } of this.#entries.values()) if (kind === "directory") yield `${this.root}/${path}`;
  }

  /** Files with several hard links, through any of which they may change. Absolute paths. */
  *shared(): Generator<string> {
    for (const path of this.#shared) yield `${this.root}/${path}`;
  }

  /** Returns and clears the directories that were scanned since the last call. Absolute paths. */
  takeFolders(): Set<string> {
    const looked = this.#looked;
    this.#looked = new Set();
    return looked;
  }

  /**
   * Returns and clears the inodes of files with several hard links that were found changed. A watch reports only one of
   * a file's names.
   */
  takeChangedInodes(): Set<number> {
    const inodes = this.#changedInodes;
    this.#changedInodes = new Set();
    return inodes;
  }

  /**
   * Marks files with these inodes as dirty, on whatever device.
   * @returns whether there are any
   */
  hintInodes(inodes: ReadonlySet<number>): boolean {
    let any = false;
    for (const { path, kind, ino } of this.#entries.values()) {
      if (kind !== "file" || !inodes.has(ino) || this.#looksAsBefore(path)) continue;
      this.#dirty.add(path);
      any = true;
    }
    return any;
  }

  /** Discards the hints so far: the next refresh is a full scan. */
  distrust(): void {
    this.#stale = true;
  }

  /**
   * Marks a path as dirty.
   * @param path Absolute; may belong to another tree.
   * @param replaced The path may be a different file or directory, with everything below it.
   */
  hint(path: string, replaced: boolean): void {
    if (path !== this.root && !path.startsWith(`${this.root}/`)) return;
    const relative = path.slice(this.root.length + 1);
    this.#dirty.add(relative);
    if (replaced) this.#replaced.add(relative);
  }

  /** Starts from the entries of an earlier process, all of which its agent had. */
  restore(entries: Map<string, ScannedEntry>): void {
    this.#entries = entries;
    for (const entry of entries.values()) {
      if (entry.kind === "file" && !entry.digest) this.#undigested.add(entry);
      if (entry.shared) this.#shared.add(entry.path);
    }
    this.#stale = true;
    this.#linksVersion = ++LocalTree.#versions;
  }

  /** Looks at the dirty paths, or at everything if necessary. */
  async refresh(options: LookOptions): Promise<void> {
    if (this.#stale || this.single || this.#dirty.has("") || this.#dirty.size > MAX_SINGLE_LOOKS) {
      return await this.#lookAtAll(options);
    }
    await this.#lookAtShared(options);
    if (this.#dirty.size > MAX_SINGLE_LOOKS) return await this.#lookAtAll(options);
    for (const path of [...this.#dirty].sort()) {
      if (this.#dirty.has(path)) await this.#look(path, options);
      this.#dirty.delete(path);
      this.#replaced.delete(path);
    }
  }

  /** A file may change through another hard link, in a directory that is not watched. */
  async #lookAtShared({ signal, isWatched }: LookOptions): Promise<void> {
    const pace = new Pace(signal);
    for (const path of this.#shared) {
      if (isWatched?.(`${this.root}/${path}`)) continue;
      if (!this.#looksAsBefore(path)) this.#dirty.add(path);
      if (pace.due) await pace.rest();
    }
  }

  /** Whether a path is in the state that was sent to the agent, including its absence. */
  isAsSent(path: string): boolean {
    return !this.#pending.has(path) && (this.#looksAsBefore(path) || this.#hasContentAsBefore(path));
  }

  /**
   * Whether a file is unchanged apart from its times. For a file saved shortly before it was sent, only its content can
   * tell.
   */
  #hasContentAsBefore(path: string): boolean {
    const before = this.#entries.get(path);
    if (before?.kind !== "file" || !before.digest) return false;
    const isLike = () => {
      const now = lookAt(localFiles, this.root, path);
      return typeof now === "object" && now.kind === "file" && now.size === before.size && now.mode === before.mode;
    };
    try {
      return isLike() && sameDigest(digestFile(localFiles, `${this.root}/${path}`), before.digest) && isLike();
    } catch {
      // The file is gone or unreadable, so it is not what was sent.
      return false;
    }
  }

  #looksAsBefore(path: string): boolean {
    const before = this.#entries.get(path);
    const now = lookAt(localFiles, this.root, path);
    if (!before || typeof now !== "object") return before === now;
    if (now.kind !== "file") return sameEntry(before, now) && before.ino === now.ino;
    const isShared = before.shared ?? false;
    return isUnchanged(before, now) && before.mode === now.mode && isShared === (now.shared ?? false);
  }

  /**
   * Looks at one entry per step, and marks those that differ as {@link hint} does. Finds what no watcher reports.
   * Changes nothing else and may be abandoned at any step. Ends early when a full scan has replaced the entries.
   *
   * A step yields whether a directory was replaced: a watch on its path then watches the old directory.
   */
  *sweep(): Generator<boolean, void> {
    const entries = this.#entries;
    for (const { path, kind } of entries.values()) {
      if (entries !== this.#entries) return;
      // Deno cannot stat names that are not UTF-8; the helper takes milliseconds for each.
      if (isRaw(path)) continue;
      let other = false;
      if (!this.#looksAsBefore(path)) {
        this.#dirty.add(path);
        this.#replaced.add(path);
        other = kind === "directory";
      }
      yield other;
    }
  }

  async #lookAtAll(options: LookOptions): Promise<void> {
    // Stays true if the scan fails.
    this.#stale = true;
    this.rules?.begin();
    const next = await this.#scan(this.#only, options);
    await options.finder?.foundAll();
    this.rules?.begin();
    if (!this.single) this.#looked.add(this.root);
    this.#keepHeld(next);
    await this.#replace(this.#entries, next, options);
    this.#entries = next;
    this.#shared.clear();
    for (const { path, shared } of next.values()) if (shared) this.#shared.add(path);
    this.#dirty.clear();
    this.#replaced.clear();
    this.#stale = false;
  }

  async #look(path: string, options: LookOptions): Promise<void> {
    const parent = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    // Nothing below a symlink or an ignored directory is part of the tree. If the parent has changed, there is a hint
    // for the parent.
    if (parent && this.#entries.get(parent)?.kind !== "directory") return;
    const before = this.#entries.get(path);
    if (before?.kind === "directory" && !this.#replaced.has(path)) {
      // Only the directory's own attributes can have changed.
      const now = lookAt(localFiles, this.root, path);
      if (typeof now === "object" && sameEntry(now, before) && now.ino === before.ino) return;
    }
    const next = await this.#scan(path, options);
    const previous = new Map<string, ScannedEntry>();
    if (before) previous.set(path, before);
    if (before?.kind === "directory") {
      for (const [p, e] of this.#entries) if (p.startsWith(`${path}/`)) previous.set(p, e);
    }
    this.#keepHeld(next, path);
    await this.#replace(previous, next, options);
    for (const p of previous.keys()) {
      this.#shared.delete(p);
      if (!next.has(p)) this.#entries.delete(p);
    }
    for (const [p, e] of next) {
      this.#entries.set(p, e);
      if (e.shared) this.#shared.add(p);
    }
    for (const p of this.#dirty) if (p.startsWith(`${path}/`)) this.#dirty.delete(p);
  }

  async #scan(under: string | undefined, options: LookOptions): Promise<Map<string, ScannedEntry>> {
    const { finder } = options;
    const found = await scanTree(localFiles, this.root, {
      under,
      previous: this.#entries,
      skip: (path, kind, target) =>
        this.leaveOut.includes(path) || this.isHeld(path) || this.#staysHome(path, kind, target),
      signal: options.signal,
      onProgress: options.onProgress,
      onFound: finder && ((entries) => finder.found(entries)),
      // Sockets and other special files are skipped silently.
      onSkipped: (path, what) => what.startsWith("is ") || options.onUnreadable?.(`${this.root}/${path}`),
    });
    for (const { path, kind } of found.values()) if (kind === "directory") this.#looked.add(`${this.root}/${path}`);
    return found;
  }

  /** Whether a running command may write the file, see {@link held}. */
  isHeld(path: string): boolean {
    return this.held.has(`${this.root}/${path}`);
  }

  /**
   * Adds the known state of held files to the result of a scan. @param under The path that was scanned, if not all.
   */
  #keepHeld(next: Map<string, ScannedEntry>, under?: string): void {
    for (const held of this.held.keys()) {
      if (!held.startsWith(`${this.root}/`)) continue;
      const path = held.slice(this.root.length + 1);
      if (under !== undefined && path !== under && !path.startsWith(`${under}/`)) continue;
      const before = this.#entries.get(path);
      const folder = path.slice(0, Math.max(0, path.lastIndexOf("/")));
      // If the directory is gone, the agent must not keep the file.
      if (before && (folder === "" || path === under || next.has(folder))) next.set(path, before);
    }
  }

  /**
   * Ends the hold on a file.
   *
   * @param path Relative to the root.
   * @param came The file's entry at the agent, if it was copied here; undefined if the agent's state is unknown.
   */
  release(path: string, came?: Entry): void {
    if (this.single ? path !== this.#only : this.leaveOut.some((p) => path === p || path.startsWith(`${p}/`))) return;
    const folder = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    // The directory is ignored, or new as well.
    if (folder && this.#entries.get(folder)?.kind !== "directory") return this.hint(`${this.root}/${path}`, true);
    const now = lookAt(localFiles, this.root, path);
    // It is no longer a file, or its state is unknown.
    if (now !== undefined && (typeof now === "string" || now.kind !== "file")) {
      return this.hint(`${this.root}/${path}`, true);
    }
    if (now && this.#staysHome(path, now.kind)) return;
    const isSame = came && now && now.size === came.size && now.mtimeMs === came.mtimeMs &&
      (now.mode & KEPT_MODE) === (came.mode & KEPT_MODE);
    this.sent(path, now && { ...now, digest: isSame ? came.digest : undefined });
    if (isSame) this.#pending.delete(path);
    else this.#pending.set(path, undefined);
  }

  #staysHome(path: string, kind: EntryKind, target?: string): boolean {
    return this.rules?.skips(path, kind, target) ?? false;
  }

  /** Adds to `pending` how `next` differs from `previous`. */
  async #replace(
    previous: ReadonlyMap<string, ScannedEntry>,
    next: Map<string, ScannedEntry>,
    options: LookOptions,
  ): Promise<void> {
    if (isSame(previous, next)) return;
    const unsure: string[] = [];
    for (const [path, now] of next) {
      const before = previous.get(path);
      if (before === now) continue;
      if (now.shared) this.#changedInodes.add(now.ino);
      if (!before || !sameEntry(before, now)) this.#note(path, before, now);
      else if (now.kind === "file" && !now.digest) {
        // A large file that was sent during the scan has its digest by now.
        if (isUnchanged(before, now)) now.digest = before.digest;
        // A file whose content is unknown is sent again.
        else if (before.digest) unsure.push(path);
        else this.#note(path, before, now);
      }
    }
    for (const [path, before] of previous) if (!next.has(path)) this.#note(path, before);
    if (unsure.length === 0) return;
    for await (const [path, now] of this.#digests(unsure, next, options)) {
      const before = previous.get(path)!;
      if (!now || !sameEntry(now, before)) this.#note(path, before);
    }
  }

  #note(path: string, before: Entry | undefined, now?: Entry): void {
    if (isLead(before) || isLead(now)) this.#linksVersion = ++LocalTree.#versions;
    if (!this.#pending.has(path)) this.#pending.set(path, before);
  }

  /** Reads files and stores their digests in `entries`. Yields undefined for a file that is gone or unreadable. */
  async *#digests(
    paths: string[],
    entries: Map<string, ScannedEntry>,
    { signal, onProgress }: LookOptions,
  ): AsyncGenerator<[string, ScannedEntry | undefined]> {
    const pace = new Pace(signal);
    let count = 0;
    for (const path of paths) {
      let now: ScannedEntry | undefined;
      try {
        now = entries.get(path)!.size > PIECE_BYTES
          ? await digestLarge(localFiles, this.root, path, { signal })
          : readSmall(localFiles, this.root, path)?.entry;
      } catch (e) {
        if (!(e instanceof RbsError)) throw e;
      }
      if (now) entries.set(path, now);
      yield [path, now];
      count++;
      if (pace.due) {
        onProgress?.(count);
        await pace.rest();
      }
    }
  }

  /**
   * Compares with the agent's manifest: pass each entry, then call {@link ManifestComparison.finish}. Then `pending` is
   * what the agent lacks.
   */
  compare(): ManifestComparison {
    const missing = new Set(this.#entries.keys());
    const unsure = new Map<string, Entry>();
    this.#pending.clear();
    return {
      entry: (theirs) => {
        const { path } = theirs;
        missing.delete(path);
        if (this.isHeld(path)) return;
        const ours = this.#entries.get(path);
        if (!ours) {
          // Bazel made its own links there.
          if (this.rules?.isConvenience(path, theirs.kind, theirs.target)) return;
          if (!this.leaveOut.some((p) => path === p || path.startsWith(`${p}/`))) this.#pending.set(path, theirs);
        } else if (ours.kind === "file" && theirs.kind === "file" && !ours.digest && ours.size === theirs.size) {
          unsure.set(path, theirs);
        } else if (!sameEntry(ours, theirs)) this.#pending.set(path, theirs);
      },
      finish: async (options) => {
        for (const path of missing) if (!this.isHeld(path)) this.#pending.set(path, undefined);
        for await (const [path, ours] of this.#digests([...unsure.keys()], this.#entries, options)) {
          const theirs = unsure.get(path)!;
          if (!ours || !sameEntry(ours, theirs)) this.#pending.set(path, theirs);
        }
      },
    };
  }

  /** Records what was sent, in the state in which it was read; undefined if it was gone. */
  sent(path: string, entry: ScannedEntry | undefined): void {
    const before = this.#entries.get(path);
    // What was sent does not count as changed afterwards.
    if ((isLead(before) || isLead(entry)) && before !== entry) this.#linksVersion = ++LocalTree.#versions;
    this.#shared.delete(path);
    if (!entry) return void this.#entries.delete(path);
    if (entry.shared) this.#shared.add(path);
    if (entry.digest) entry.digest = this.#keep(entry.digest);
    else if (entry.kind === "file") this.#undigested.add(entry);
    if (before !== entry) this.#entries.set(path, entry);
  }

  /**
   * Computes the digests of small files that were sent without one. That is a sixth of a first sync's work, and can
   * wait until no command does. Rejects with the signal's reason when aborted.
   */
  async digestAll(signal: AbortSignal): Promise<void> {
    const pace = new Pace(signal);
    for (const entry of this.#undigested) {
      if (pace.due) await pace.rest();
      this.#undigested.delete(entry);
      if (entry.digest || this.#entries.get(entry.path) !== entry) continue;
      try {
        const read = readSmall(localFiles, this.root, entry.path);
        // If the file has changed since, the next look finds that.
        if (read && isUnchanged(entry, read.entry)) entry.digest = this.#keep(read.entry.digest!);
      } catch (e) {
        if (!(e instanceof RbsError)) throw e;
      }
    }
  }

  /** How many files were sent without a digest. */
  get undigested(): number {
    return this.#undigested.size;
  }

  /** Copies a digest into a shared buffer: a buffer of its own takes more memory than the rest of an entry. */
  #keep(digest: Uint8Array): Uint8Array {
    if (this.#slabUsed + digest.length > this.#slab.length) {
      this.#slab = new Uint8Array(DIGESTS_BYTES);
      this.#slabUsed = 0;
    }
    const kept = this.#slab.subarray(this.#slabUsed, this.#slabUsed += digest.length);
    kept.set(digest);
    return kept;
  }
  #slab = new Uint8Array();
  #slabUsed = 0;

  /** The agent has everything that was pending. */
  settled(): void {
    this.#pending.clear();
  }
}

/** Whether an entry refers to another place: a symlink, or the `.git` file of a worktree or submodule. */
export function isLead(entry: Entry | undefined): boolean {
  return entry?.kind === "symlink" || (entry?.kind === "file" && /(^|\/)\.git$/.test(entry.path));
}

/** Whether the same entry objects were found in the same order. That is the usual case and quick to see. */
function isSame(previous: ReadonlyMap<string, ScannedEntry>, next: ReadonlyMap<string, ScannedEntry>): boolean {
  if (previous.size !== next.size) return false;
  const before = previous.values();
  for (const now of next.values()) if (before.next().value !== now) return false;
  return true;
}

/** See {@link LocalTree.compare}. */
export interface ManifestComparison {
  entry(theirs: Entry): void;
  finish(options: LookOptions): Promise<void>;
}
