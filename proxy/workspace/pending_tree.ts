/**
 * What is known of one folder (or single file) of this machine, and what of it the agent does not know yet.
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

/** Paths that are looked at one by one; if more may have changed, a look at everything is cheaper. */
const MAX_SINGLE_LOOKS = 200;

/** What of an agent's modes comes home. */
const KEPT_MODE = 0o755;

/** Memory for digests that is taken at once, in bytes. */
const DIGESTS_BYTES = 32 << 10;

/** Who waits for a look at a tree, and is told about it. */
export interface LookOptions {
  signal?: AbortSignal;
  /** Told now and then how many entries were found. */
  onProgress?(entries: number): void;
  /** Told about what cannot be read: an absolute path. */
  onUnreadable?(path: string): void;
  /** Told what a look at everything finds. */
  finder?: Finder;
  /** Whether changes of a file by another name than this are hinted at. @default they are not */
  isWatched?(path: string): boolean;
}

/** Who takes what a look at everything finds; promises are waited for. */
export interface Finder {
  /** What is in one folder. */
  found(entries: ScannedEntry[]): Promise<void> | undefined;
  /** That was all. What was given to {@link LocalTree.sent} until this ends is not pending afterwards. */
  foundAll(): Promise<void>;
}

/** See the file's head. Paths are relative to the root, if not said otherwise. */
export class LocalTree {
  /** Absolute. Of a root that is a single file: the folder that it is in. */
  readonly root: string;
  /** The name of a root that is a single file. */
  readonly #only?: string;
  #entries = new Map<string, ScannedEntry>();
  readonly #pending = new Map<string, Entry | undefined>();
  /** Paths that may have changed since they were looked at, and those of them that may be others than before. */
  readonly #dirty = new Set<string>();
  readonly #replaced = new Set<string>();
  readonly #undigested = new Set<ScannedEntry>();
  /** Files with more names than the one here. */
  readonly #shared = new Set<string>();
  /** Of files with more names than one that were found changed, or for the first time. */
  #changedInodes = new Set<number>();
  #stale = true;
  static #versions = 0;
  #linksVersion = 0;
  /** Folders that were looked at since {@link takeFolders}. */
  #looked = new Set<string>();
  /** What stays home. @default nothing */
  rules?: IgnoreRules;
  /** What is none of the tree though it lies in it, with all below: another root, the output base. */
  leaveOut: readonly string[] = [];
  /** Files that a command is writing, here and at the agent: they are left as the agent had them. Absolute paths. */
  held: { keys(): Iterable<string>; has(path: string): boolean } = new Set();

  /** @param path Absolute. A root that is a single file is a tree of this one entry. */
  constructor(readonly path: string, readonly single = false) {
    const slash = path.lastIndexOf("/");
    this.root = single ? path.slice(0, slash) || "/" : path;
    this.#only = single ? path.slice(slash + 1) : undefined;
  }

  /** What there is, as it was looked at last. */
  get entries(): ReadonlyMap<string, ScannedEntry> {
    return this.#entries;
  }

  /** Paths at which the agent has something else, and what it has there, where that is known. */
  get pending(): ReadonlyMap<string, Entry | undefined> {
    return this.#pending;
  }

  /** Whether only a look at everything can tell what there is. */
  get stale(): boolean {
    return this.#stale;
  }

  /**
   * Another number, which no other tree has, whenever a symlink has come, gone or got another target, however it was found:
   * a pass over all entries finds them.
   */
  get linksVersion(): number {
    return this.#linksVersion;
  }

  /** The folders of the tree, absolute, itself first. */
  *folders(): Generator<string> {
    if (this.single) return;
    yield this.root;
    for (const { path, kind } of this.#entries.values()) if (kind === "directory") yield `${this.root}/${path}`;
  }

  /** Files that have another name as well, by which they may be changed: absolute. */
  *shared(): Generator<string> {
    for (const path of this.#shared) yield `${this.root}/${path}`;
  }

  /** The folders of the tree that were looked at since the last call, absolute. */
  takeFolders(): Set<string> {
    const looked = this.#looked;
    this.#looked = new Set();
    return looked;
  }

  /**
   * The inodes of files with several names that were found to be others since the last call: what watches a file names one
   * of them only.
   */
  takeChangedInodes(): Set<number> {
    const inodes = this.#changedInodes;
    this.#changedInodes = new Set();
    return inodes;
  }

  /** Notes that files of these inodes may have changed, whatever device they are on. @returns whether there are any */
  hintInodes(inodes: ReadonlySet<number>): boolean {
    let any = false;
    for (const { path, kind, ino } of this.#entries.values()) {
      if (kind !== "file" || !inodes.has(ino) || this.#looksAsBefore(path)) continue;
      this.#dirty.add(path);
      any = true;
    }
    return any;
  }

  /** The hints until now are worth nothing. */
  distrust(): void {
    this.#stale = true;
  }

  /**
   * Notes that something may have changed.
   * @param path Absolute; may be of another tree.
   * @param replaced It may be another than before, with all below it.
   */
  hint(path: string, replaced: boolean): void {
    if (path !== this.root && !path.startsWith(`${this.root}/`)) return;
    const relative = path.slice(this.root.length + 1);
    this.#dirty.add(relative);
    if (replaced) this.#replaced.add(relative);
  }

  /** Begins with what an earlier process knew, and its agent had. */
  restore(entries: Map<string, ScannedEntry>): void {
    this.#entries = entries;
    for (const entry of entries.values()) {
      if (entry.kind === "file" && !entry.digest) this.#undigested.add(entry);
      if (entry.shared) this.#shared.add(entry.path);
    }
    this.#stale = true;
    this.#linksVersion = ++LocalTree.#versions;
  }

  /** Looks at what {@link hint} named, or at everything if need be. */
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

  /** A file may be changed by another of its names, of which a watched folder does not tell. */
  async #lookAtShared({ signal, isWatched }: LookOptions): Promise<void> {
    const pace = new Pace(signal);
    for (const path of this.#shared) {
      if (isWatched?.(`${this.root}/${path}`)) continue;
      if (!this.#looksAsBefore(path)) this.#dirty.add(path);
      if (pace.due) await pace.rest();
    }
  }

  /** Whether what is at a path now, or that nothing is, is what the agent was sent. */
  isAsSent(path: string): boolean {
    return !this.#pending.has(path) && (this.#looksAsBefore(path) || this.#hasContentAsBefore(path));
  }

  /** Whether a file is what it was but for its times: of one that was saved just before it was sent, only that can tell. */
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
      // It is gone, or nobody can read it: not what was sent.
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
   * Looks at each entry, a step at a time, and notes as {@link hint} does what is another than it was: what no watcher
   * tells. It changes nothing else, and may be left off anywhere. It ends early when everything was looked at meanwhile.
   *
   * A step gives whether a folder is another than before: then what watches its path watches something else.
   */
  *sweep(): Generator<boolean, void> {
    const entries = this.#entries;
    for (const { path, kind } of entries.values()) {
      if (entries !== this.#entries) return;
      // Deno cannot look at these by itself, and each look takes milliseconds.
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
    // Until it is done: what was dirty meanwhile is looked at again.
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
    // What is below a symlink or a folder that stays home is none of ours; if the parent has changed, it was named itself.
    if (parent && this.#entries.get(parent)?.kind !== "directory") return;
    const before = this.#entries.get(path);
    if (before?.kind === "directory" && !this.#replaced.has(path)) {
      // Only its own attributes can have changed.
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
      // Sockets and the like are nobody's business.
      onSkipped: (path, what) => what.startsWith("is ") || options.onUnreadable?.(`${this.root}/${path}`),
    });
    for (const { path, kind } of found.values()) if (kind === "directory") this.#looked.add(`${this.root}/${path}`);
    return found;
  }

  /** Whether a command is writing a file, see {@link held}. */
  isHeld(path: string): boolean {
    return this.held.has(`${this.root}/${path}`);
  }

  /** Adds what was known of held files to what was found. @param under It was looked for only there. */
  #keepHeld(next: Map<string, ScannedEntry>, under?: string): void {
    for (const held of this.held.keys()) {
      if (!held.startsWith(`${this.root}/`)) continue;
      const path = held.slice(this.root.length + 1);
      if (under !== undefined && path !== under && !path.startsWith(`${under}/`)) continue;
      const before = this.#entries.get(path);
      const folder = path.slice(0, Math.max(0, path.lastIndexOf("/")));
      // Of a folder that is gone the agent shall have nothing.
      if (before && (folder === "" || path === under || next.has(folder))) next.set(path, before);
    }
  }

  /**
   * A file is held no more.
   *
   * @param path Relative to the root.
   * @param came The agent has it just so, and it came here; undefined: nobody knows what the agent has.
   */
  release(path: string, came?: Entry): void {
    if (this.single ? path !== this.#only : this.leaveOut.some((p) => path === p || path.startsWith(`${p}/`))) return;
    const folder = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    // A folder that stays home, or that is new as well.
    if (folder && this.#entries.get(folder)?.kind !== "directory") return this.hint(`${this.root}/${path}`, true);
    const now = lookAt(localFiles, this.root, path);
    // Something else stands there now, or nothing can be said.
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

  /** Notes what the agent does not know of `next`, which takes the place of `previous`. */
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
        // A large file that was sent while all was looked at has got its digest since.
        if (isUnchanged(before, now)) now.digest = before.digest;
        // What nobody knows the content of is sent once more.
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

  /** Reads files for their digests, which are noted in `entries`. Undefined for one that is gone or cannot be read. */
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
   * Compares with the agent's manifest: give it each entry, then {@link ManifestComparison.finish}. What is pending then
   * is what the agent lacks.
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

  /** What was sent, as it was when it was read; undefined: it was gone. */
  sent(path: string, entry: ScannedEntry | undefined): void {
    const before = this.#entries.get(path);
    // What was sent is not noted as changed afterwards.
    if ((isLead(before) || isLead(entry)) && before !== entry) this.#linksVersion = ++LocalTree.#versions;
    this.#shared.delete(path);
    if (!entry) return void this.#entries.delete(path);
    if (entry.shared) this.#shared.add(path);
    if (entry.digest) entry.digest = this.#keep(entry.digest);
    else if (entry.kind === "file") this.#undigested.add(entry);
    if (before !== entry) this.#entries.set(path, entry);
  }

  /**
   * Makes the digests of small files that were sent without: it is a sixth of a first sync's work, and can wait until nobody
   * waits for it. Rejects with the signal's reason when it is aborted.
   */
  async digestAll(signal: AbortSignal): Promise<void> {
    const pace = new Pace(signal);
    for (const entry of this.#undigested) {
      if (pace.due) await pace.rest();
      this.#undigested.delete(entry);
      if (entry.digest || this.#entries.get(entry.path) !== entry) continue;
      try {
        const read = readSmall(localFiles, this.root, entry.path);
        // What was changed since is found by the next look.
        if (read && isUnchanged(entry, read.entry)) entry.digest = this.#keep(read.entry.digest!);
      } catch (e) {
        if (!(e instanceof RbsError)) throw e;
      }
    }
  }

  /** Files that were sent without a digest. */
  get undigested(): number {
    return this.#undigested.size;
  }

  /** A copy that shares its memory with many others: a buffer for each digest is larger than all else of an entry. */
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

  /** The agent has it all. */
  settled(): void {
    this.#pending.clear();
  }
}

/** Whether it leads to somewhere else: a symlink, or the `.git` of a worktree or submodule, which is a file. */
export function isLead(entry: Entry | undefined): boolean {
  return entry?.kind === "symlink" || (entry?.kind === "file" && /(^|\/)\.git$/.test(entry.path));
}

/** Whether the very same entries were found again, in the same order: the rule, and quickly seen. */
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
