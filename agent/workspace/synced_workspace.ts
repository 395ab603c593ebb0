/**
 * The developer's files in a synced session: trees below the directory that the session sees as `/`, what is known of
 * them, and a generation that changes with them.
 *
 *     open ──looks at all of a root, reads what it does not know──> manifest
 *     apply ──records──> TreeWriter ──> files in place, and known by their digests ──> workspace.index, for the next agent
 *
 * What is known only saves reading: the session's own programs can write here too, so each manifest is based on a new
 * look.
 */
import { dirname } from "node:path";
import { unref } from "../../proto/base/timers.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import type { TreeRecord } from "../../proto/tree/batch.ts";
import { type Entry, type EntryKind, sameEntry } from "../../proto/tree/entry.ts";
import { type Files, isGone } from "../../proto/tree/files.ts";
import { readIndex, writeIndex } from "../../proto/tree/index_file.ts";
import { TreeError } from "../../proto/tree/names.ts";
import { digestLarge, PIECE_BYTES, readSmall } from "../../proto/tree/read.ts";
import { lookAt, type ScannedEntry, scanTree } from "../../proto/tree/scan.ts";
import { type PartialContent, TreeWriter } from "../../proto/tree/writer.ts";
import type { DeveloperPaths } from "./developer_paths.ts";
import { ForeignChanges, type Watch } from "./foreign_changes.ts";
import { type Root, UNSEEN } from "./root.ts";
import { Sweeper } from "./sweeper.ts";
import { type Caller, Turns } from "./preemptible_lock.ts";
import { knownIn, type SourcePlaces, type WrittenSources, writtenSources } from "./written_sources.ts";
import { isAtOrIn, isIn } from "../../proto/base/absolute_path.ts";

/** The staging directory in the storage. */
export const STAGING = "staging";
/** The index in the storage, for the next agent. */
const INDEX = "workspace.index";
/** Number of records between two reads of the kernel's events, so that its queue does not overflow. */
const RECORDS_BETWEEN_NOTES = 256;
/** Number of files that a sentence names. */
const NAMED_FILES = 3;
/** Delay between a change and saving the index, in milliseconds. */
const SAVE_MS = 2_000;
/** The delay while changes arrive: after a short transfer, reading again is as fast as saving. Milliseconds. */
const SAVE_MEANWHILE_MS = 10_000;
/** While a large tree arrives, saving takes at most this fraction of the time, as a divisor. */
const SAVE_SHARE = 20;
/** Maximum number of entries of a root. */
const MAX_ENTRIES = 5_000_000;

/** Options of {@link SyncedWorkspace}. */
export interface SyncedWorkspaceOptions {
  /** The session's own directory. */
  storage: Files;
  paths: DeveloperPaths;
  /** The developer's path. Symlinks that lead below it are Bazel's own, and not part of a tree. */
  outputBase: string;
  log(line: string): void;
  /** Makes a watch for directories of the storage. */
  watch(): Watch;
  /** @default 5,000,000 entries in a root */
  limit?: number;
  /** For tests. */
  turns?: Turns;
  saveMs?: number;
}

/** The content of a root. */
export interface OpenedRoot {
  path: string;
  /** Why the session cannot have the root: a sentence. */
  refusal?: string;
  /** Undefined if it does not exist. */
  kind?: "file" | "directory";
  /** Sorted by path. Files have digests, except unreadable ones. */
  entries: Entry[];
}

/** Names the root of the records that follow. */
export interface RootStart {
  /** The generation on which the changes are based. */
  generation: string;
  /** The developer's absolute path. */
  path: string;
  /** The root is a single file: a tree with one entry, relative to the directory that contains it. */
  single: boolean;
  /** What is written there is not copied back to the developer. */
  readOnly: boolean;
  /** The root must be empty. */
  fresh: boolean;
}

/** A part of a change. */
export type ApplyStep = { start: RootStart } | { records: readonly TreeRecord[] };

/** The result of a change. */
export interface Applied {
  generation: string;
  /** Number of files, directories and symlinks that were put in place. */
  files: number;
  /** Number of bytes of their content. */
  bytes: number;
}

/** A file that a command has written, with its stat when the digest was computed. */
export type WrittenFile = Pick<ScannedEntry, "path" | "size" | "mtimeMs" | "ino" | "ctimeMs" | "digest">;

/** Files that a command may write. */
export interface ExpectedFiles extends Disposable {
  /**
   * Compares the named places of a root with their state at the command's start. Throws an RbsError if that state is
   * unknown.
   */
  written(): Promise<WrittenSources>;
  /** The proxy was told these files: they are known now, and so is what {@link written} found. Absolute paths. */
  told(files: Iterable<WrittenFile>): void;
}

/** Where in a root a command may write. */
export interface RootPlaces extends SourcePlaces {
  /** The root's absolute path. */
  root: string;
}

/** The developer's files in one session. Methods throw {@link StatusError}s, and what each of them says. */
export class SyncedWorkspace {
  readonly #options: SyncedWorkspaceOptions;
  readonly #top: string;
  readonly #storage: Files;
  readonly #turns: Turns;
  readonly #life = randomToken().slice(0, 12);
  #changes = 0;
  #roots?: Map<string, Root>;
  readonly #foreign: ForeignChanges;
  readonly #sweeper: Sweeper;
  /** Sources written by commands, and told to the proxy, by root. They become known on the next call. */
  readonly #toldSources: { root: string; written: WrittenSources }[] = [];
  #saveTimer?: ReturnType<typeof setTimeout>;
  #saveTookMs = 0;
  #applying = false;
  /** Incremented when a save begins; an earlier save in slices then stops. */
  #saves = 0;

  constructor(options: SyncedWorkspaceOptions) {
    this.#options = options;
    this.#top = options.paths.root;
    this.#storage = options.storage;
    this.#turns = options.turns ?? new Turns();
    this.#foreign = new ForeignChanges({ ...options, top: this.#top });
    this.#sweeper = new Sweeper((signal) => this.#foreign.sweep(this.#watched(), signal));
  }

  /**
   * Announces a command that may write these files, which are then copied back. Dispose of the result when the command
   * has ended.
   *
   * @param paths Absolute paths.
   * @param brought Other places whose changes are copied back at the end.
   */
  expect(paths: Iterable<string>, brought?: RootPlaces): ExpectedFiles {
    const ended = this.#foreign.expect(paths, brought);
    const root = brought && this.#known().get(brought.root);
    const before = root?.known ? knownIn(root, brought!) : undefined;
    let written: WrittenSources | undefined;
    return {
      written: async () => {
        if (!brought) return { entries: [], gone: [] };
        if (!before) throw new RbsError("What was there before the command is not known.");
        return written = await writtenSources(this.#storage, this.#top + before.path, before, brought);
      },
      told: (files) => {
        this.#told(files);
        if (written && written.entries.length + written.gone.length > 0) {
          this.#toldSources.push({ root: before!.path, written });
        }
        written = undefined;
      },
      [Symbol.dispose]: ended,
    };
  }

  /**
   * Makes known what commands have written into the sources, unless it has changed since. The caller must have the
   * turn, so that no look is in progress.
   */
  async #takeTold(): Promise<void> {
    const pace = new Pace();
    for (let told = this.#toldSources.shift(); told; told = this.#toldSources.shift()) {
      const root = this.#known().get(told.root);
      // Whether or not it is copied back, the proxy's view of the workspace is outdated.
      this.#touch();
      if (!root?.known) continue;
      const base = this.#top + root.path, start = root.path.length + 1;
      for (const entry of told.written.entries) {
        if (pace.due) await pace.rest();
        const path = entry.path.slice(start), now = lookAt(this.#storage, base, path);
        if (typeof now !== "object" || !isTheSame({ ...entry, path }, now)) continue;
        // Bazel's own symlinks.
        if (now.kind === "symlink" && isIn(now.target!, this.#options.outputBase)) continue;
        root.entries.set(path, { ...now, digest: entry.digest });
        root.unseen.delete(path);
      }
      for (const gone of told.written.gone) {
        if (lookAt(this.#storage, base, gone.slice(start)) === undefined) root.entries.delete(gone.slice(start));
      }
      this.#saveSoon();
    }
  }

  /** Makes files known as they were told, unless they have changed since. */
  #told(files: Iterable<WrittenFile>): void {
    for (const { path, digest, ...told } of files) {
      const root = [...this.#known().values()]
        .filter((root) => root.known && (root.single ? path === root.path : isIn(path, root.path)))
        .sort((a, b) => b.path.length - a.path.length)[0];
      if (!root) continue;
      const folder = root.single ? dirname(root.path) : root.path;
      const below = path.slice(folder === "/" ? 1 : folder.length + 1);
      const now = lookAt(this.#storage, folder === "/" ? this.#top : this.#top + folder, below);
      if (typeof now !== "object" || now.kind !== "file") continue;
      const isSame = now.ino === told.ino && now.size === told.size && now.mtimeMs === told.mtimeMs &&
        now.ctimeMs === told.ctimeMs;
      if (!isSame) continue;
      root.entries.set(below, { ...now, digest });
      root.unseen.delete(below);
      this.#saveSoon();
    }
  }

  /**
   * Checks whether the session's programs have changed files. If so, the generation is over; the next {@link open}
   * tells what is there.
   *
   * @returns a sentence for the developer if a change is unexpected
   */
  async check(caller: Caller): Promise<string | undefined> {
    if (!this.#roots) return undefined;
    await this.#sweeper.settled();
    using _turn = await this.#turns.take(caller);
    await this.#takeTold();
    const roots = this.#watched();
    const { changed, expected } = await this.#foreign.find(roots);
    if (changed.length + expected.length === 0) return undefined;
    // Only {@link open} leads to the next generation.
    for (const root of roots) root.known = false;
    this.#touch();
    if (changed.length === 0) return undefined;
    const named = changed.slice(0, NAMED_FILES).join(", "), more = changed.length - NAMED_FILES;
    const what = `Programs of the session have changed ${named}${
      more > 0 ? ` and ${more.toLocaleString("en-US")} more` : ""
    }`;
    this.#options.log(what);
    return `${what} on the build server's machine.`;
  }

  /**
   * The session's programs have run: a background pass looks for changes that no watch reports. The next check waits
   * for it if it is quick. Resolves when the pass is done.
   */
  ran(): Promise<void> {
    return this.#sweeper.soon();
  }

  #watched(): Root[] {
    return [...this.#roots?.values() ?? []].filter(({ known }) => known);
  }

  /** Names the present state of all roots. It changes from the first record of a change on, and with each agent. */
  get generation(): string {
    return `${this.#life}.${this.#changes}`;
  }

  /** The roots from which nothing is copied back. The developer's absolute paths. */
  get readOnlyRoots(): string[] {
    return [...this.#known().values()].filter(({ readOnly }) => readOnly).map(({ path }) => path);
  }

  /** Looks at roots. Returns the generation of what was seen. @param paths Absolute. */
  async open(
    paths: readonly string[],
    caller: Caller,
  ): Promise<{ generation: string; roots: OpenedRoot[]; partials: PartialContent[] }> {
    using _turn = await this.#turns.take(caller);
    await this.#takeTold();
    const roots: OpenedRoot[] = [];
    for (const path of paths) roots.push(await this.#open(path, caller.gone));
    for (const path of paths) await this.#follow(this.#known().get(path));
    return { generation: this.generation, roots, partials: this.#partials() };
  }

  /**
   * Changes roots. If it throws, what was applied stays applied, under a new generation. Throws a {@link TreeError} for
   * what no honest proxy sends, and an RbsError if the disk refuses a write.
   */
  async apply(steps: AsyncIterable<ApplyStep>, caller: Caller): Promise<Applied> {
    const iterator = steps[Symbol.asyncIterator]();
    // A caller that has sent nothing yet takes no turn.
    let step = await iterator.next();
    using turn = await this.#turns.take(caller);
    const change = new Change(this.#top, this.#options, caller.gone);
    const { generation } = this;
    let root: Root | undefined;
    const pace = new Pace();
    const changedRoots = new Set<Root>();
    let records = 0;
    this.#applying = true;
    try {
      for (; !step.done; step = await turn.listen(iterator.next())) {
        change.doubt();
        if ("start" in step.value) {
          root = this.#begin(step.value.start, generation, change);
          changedRoots.add(root);
          continue;
        }
        if (!root) throw new TreeError("files came before their root was named");
        for (const record of step.value.records) {
          this.#touch();
          const long = change.apply(root, record);
          if (long) await long;
          if (++records % RECORDS_BETWEEN_NOTES === 0) this.#foreign.note();
          if (pace.due) await pace.rest();
        }
      }
      change.close();
      // The transfer is complete, so no partial file is resumed.
      this.#clear(STAGING, () => true);
      for (const root of changedRoots) await this.#follow(root);
      return { generation: this.generation, files: change.files, bytes: change.bytes };
    } finally {
      change.close();
      this.#applying = false;
      if (this.#saveTimer !== undefined) this.#saveSoon();
    }
  }

  /** Saves the index and stops watching. */
  close(): void {
    this.save();
    this.#sweeper[Symbol.dispose]();
    this.#foreign[Symbol.dispose]();
  }

  /** Saves the index, so that the next agent need not read every file. */
  save(): void {
    clearTimeout(this.#saveTimer);
    this.#saveTimer = undefined;
    this.#saves++;
    if (!this.#roots) return;
    try {
      for (const _ of this.#writing());
    } catch (e) {
      this.#notSaved(e);
    }
  }

  // --- roots

  #known(): Map<string, Root> {
    if (this.#roots) return this.#roots;
    this.#roots = new Map();
    for (const root of readIndex(this.#storage, INDEX)?.roots ?? []) {
      this.#roots.set(root.path, { ...root, unseen: new Set(), known: false });
    }
    // Leftovers of an agent that was killed. Large files are resumed.
    this.#clear(STAGING, (name) => !name.startsWith("partial-"));
    this.#clear("", (name) => name.startsWith(`${INDEX}.`));
    return this.#roots;
  }

  #root(path: string): Root {
    const roots = this.#known();
    let root = roots.get(path);
    if (!root) {
      root = { path, single: false, readOnly: false, entries: new Map(), unseen: new Set(), known: false };
      roots.set(path, root);
    }
    return root;
  }

  #begin({ generation, path, single, readOnly, fresh }: RootStart, expected: string, change: Change): Root {
    if (generation !== expected) {
      throw new StatusError(
        Status.FAILED_PRECONDITION,
        "The agent's workspace is another one than the caller thinks.",
        { "rbs-reason": "generation" },
      );
    }
    const refusal = this.#options.paths.refusal(path);
    if (refusal !== undefined) throw new StatusError(Status.FAILED_PRECONDITION, refusal);
    const root = this.#root(path);
    if (root.single !== single) root.entries = new Map();
    root.single = single;
    root.readOnly = readOnly;
    const before = change.changes;
    change.begin(root);
    if (change.changes > before) this.#touch();
    if (fresh && !change.isUnused(root)) {
      throw new StatusError(Status.FAILED_PRECONDITION, `There is something in ${path} already.`, {
        "rbs-reason": "not-empty",
      });
    }
    // It was empty, so it contains exactly what arrives.
    if (fresh) root.known = true;
    return root;
  }

  /** Watches a root. The events so far are read first, so that removed directories are no longer watched. */
  async #follow(root: Root | undefined): Promise<void> {
    if (!root?.known) return;
    this.#foreign.note();
    await this.#foreign.follow(root);
  }

  /** Ends the present generation. */
  #touch(): void {
    this.#changes++;
    this.#saveSoon();
  }

  // --- manifests

  async #open(path: string, signal: AbortSignal): Promise<OpenedRoot> {
    const refusal = this.#options.paths.refusal(path);
    if (refusal !== undefined) return { path, refusal, entries: [] };
    const root = this.#root(path);
    const kind = kindOf(this.#storage, `${this.#top}${path}`);
    const found = await this.#look(root, kind, signal);
    // A foreign change: what a proxy knows by the generation is no longer true.
    if (root.known && !sameTree(root.entries, found)) this.#changes++;
    root.single = kind === "file";
    root.entries = found;
    root.known = true;
    return { path, kind, entries: [...found.values()].sort((a, b) => a.path < b.path ? -1 : 1) };
  }

  /** Everything in a root. A file with an unchanged stat is not read again. */
  async #look(root: Root, kind: OpenedRoot["kind"], signal: AbortSignal): Promise<Map<string, ScannedEntry>> {
    if (kind === undefined) return new Map();
    const single = kind === "file";
    const folder = single ? dirname(root.path) : root.path;
    const base = folder === "/" ? this.#top : this.#top + folder;
    const { outputBase, limit = MAX_ENTRIES } = this.#options;
    const mounted = isIn(outputBase, root.path) ? outputBase.slice(root.path.length + 1) : undefined;
    const pace = new Pace(signal);
    for (const _ of this.#settle(root, { digests: false })) if (pace.due) await pace.rest();
    const found = await scanTree(this.#storage, base, {
      under: single ? nameOf(root.path) : undefined,
      previous: root.single === single ? root.entries : undefined,
      // Bazel's own symlinks, and the mount point of the output base.
      skip: (path, kind, target) => kind === "symlink" ? isIn(target!, outputBase) : path === mounted,
      signal,
      onProgress: (entries) => {
        if (entries > limit) throw tooMany(root.path, limit);
      },
    });
    if (found.size > limit) throw tooMany(root.path, limit);
    let read = 0;
    for (const [path, entry] of found) {
      if (entry.kind !== "file" || entry.digest) continue;
      read++;
      try {
        const now = entry.size > PIECE_BYTES
          ? await digestLarge(this.#storage, base, path, { signal })
          : readSmall(this.#storage, base, path)?.entry;
        if (now) found.set(path, now);
        else found.delete(path);
      } catch (e) {
        // The proxy sends it again if its file differs.
        if (!(e instanceof RbsError)) throw e;
      }
      if (pace.due) await pace.rest();
    }
    if (read > 0) {
      this.#options.log(`${root.path}: ${found.size} entries, ${read} files were read`);
      this.#saveSoon();
    }
    return found;
  }

  // --- storage

  /** The large files that are kept for resumption. */
  #partials(): PartialContent[] {
    const writer = new TreeWriter({ files: this.#storage, root: this.#top, staging: STAGING });
    try {
      return writer.partials();
    } finally {
      writer.close();
    }
  }

  /** Removes entries of a directory. */
  #clear(folder: string, wants: (name: string) => boolean): void {
    try {
      for (const name of this.#storage.names(folder)) {
        if (wants(name)) this.#storage.remove(folder === "" ? name : `${folder}/${name}`);
      }
    } catch (e) {
      if (!isGone(e)) this.#options.log(`the session's storage cannot be cleared: ${sentence(e)}`);
    }
  }

  #saveSoon(): void {
    if (this.#saveTimer !== undefined && this.#applying) return;
    clearTimeout(this.#saveTimer);
    const least = this.#applying ? SAVE_MEANWHILE_MS : SAVE_MS;
    this.#saveTimer = setTimeout(async () => {
      this.#saveTimer = undefined;
      const save = ++this.#saves, began = performance.now();
      const pace = new Pace();
      try {
        for (const _ of this.#writing({ digests: true })) {
          if (pace.due) await pace.rest();
          if (save !== this.#saves) return;
        }
      } catch (e) {
        this.#notSaved(e);
      }
      this.#saveTookMs = performance.now() - began;
    }, Math.max(this.#options.saveMs ?? least, SAVE_SHARE * this.#saveTookMs));
    unref(this.#saveTimer);
  }

  /** Entries are never changed, only replaced, so they can be written while others work. */
  *#writing(options: { digests: boolean } = { digests: false }): Generator<void> {
    for (const root of this.#roots!.values()) yield* this.#settle(root, options);
    // What arrives meanwhile is saved next time.
    const seen = ({ entries }: Root) => [...entries.values()].filter(({ ino }) => ino !== UNSEEN);
    const roots = [...this.#roots!.values()].map((root) => ({ ...root, entries: seen(root) }));
    yield* writeIndex(this.#storage, INDEX, { generation: "", roots });
  }

  /**
   * Looks at the files that were written since the last time, in slices.
   *
   * @param options.digests Also compute missing digests, which requires reading. That can wait until no caller does.
   */
  *#settle({ path, single, entries, unseen }: Root, options: { digests: boolean }): Generator<void> {
    const folder = single ? dirname(path) : path;
    const base = folder === "/" ? this.#top : this.#top + folder;
    for (const path of unseen) {
      unseen.delete(path);
      const entry = entries.get(path);
      if (entry?.ino !== UNSEEN) continue;
      const now = options.digests && !entry.digest
        ? readQuietly(this.#storage, base, path)
        : lookAt(this.#storage, base, path);
      // A file that has changed since has to be read.
      const same = typeof now === "object" && sameEntry({ ...now, digest: entry.digest }, entry) &&
        now.ctimeMs <= entry.ctimeMs;
      if (same) entries.set(path, { ...now, digest: entry.digest ?? now.digest });
      else entries.delete(path);
      yield;
    }
  }

  #notSaved(e: unknown): void {
    this.#options.log(`what is known of the workspace cannot be written down: ${sentence(e)}`);
  }
}

/** Applies records to the storage. */
class Change {
  readonly #storage: Files;
  readonly #top: string;
  readonly #writer: TreeWriter;
  readonly #limit: number;
  /** The output base, relative to the session's `/`. */
  readonly #outputBase: string;
  /** The file whose parts are arriving. */
  #receiving?: Entry;
  /** Roots that were empty at the start: no program uses them. */
  readonly #unused = new Set<Root>();
  /** Directories that were removed, by root. What is known below them has to be forgotten. */
  readonly #gone = new Map<Root, Set<string>>();
  changes = 0;
  files = 0;
  bytes = 0;

  /** @param signal Aborts a record that takes long. */
  constructor(
    top: string,
    { storage, outputBase, limit = MAX_ENTRIES }: SyncedWorkspaceOptions,
    signal: AbortSignal,
  ) {
    this.#storage = storage;
    this.#top = top;
    // The tree is the proxy's, so its files need no digests.
    this.#writer = new TreeWriter({ files: storage, root: top, staging: STAGING, signal, digests: "optional" });
    this.#outputBase = outputBase.slice(1);
    this.#limit = limit;
  }

  /** Forgets checked directories: the session's programs may have replaced one by a symlink since the last message. */
  doubt(): void {
    this.#writer.doubt();
  }

  /** Starts with a root. */
  begin(root: Root): void {
    const folder = root.single ? dirname(root.path) : root.path;
    this.#makeWay(folder);
    if (!root.single && isEmpty(this.#storage, this.#top + folder)) this.#unused.add(root);
  }

  /** Whether a root was empty. */
  isUnused(root: Root): boolean {
    return this.#unused.has(root);
  }

  /** Ensures that a directory and all its parents exist and are directories. @param path Absolute. */
  #makeWay(path: string): void {
    const relative = path.slice(1);
    if (relative === "" || kindOf(this.#storage, `${this.#top}/${relative}`) === "directory") return;
    for (let slash = 0; slash >= 0;) {
      slash = relative.indexOf("/", slash + 1);
      const folder = slash < 0 ? relative : relative.slice(0, slash);
      const info = lookAt(this.#storage, this.#top, folder);
      if (info === undefined) break;
      // A file or symlink, perhaps of another root, that is outdated.
      if (typeof info === "string" || info.kind !== "directory") this.#writer.apply({ remove: folder });
    }
    this.#writer.apply({ entry: { path: relative, kind: "directory", mode: 0o755, size: 0, mtimeMs: 0 } });
    this.changes++;
  }

  /**
   * Applies one record. Throws TreeErrors and RbsErrors; nothing of this record is then in place.
   *
   * @returns undefined when it is in place; a promise for the few large files that take long, like
   * {@link TreeWriter.apply}
   */
  apply(root: Root, record: TreeRecord): Promise<void> | undefined {
    const { entry, remove, copyFrom } = record;
    const own = (path: string) => this.#own(root, path);
    if (remove !== undefined) {
      // A directory became a single file; its contents are gone already.
      if (root.single && remove !== nameOf(root.path)) return;
      this.#remove(own(remove));
      this.changes++;
      return void this.#forget(root, remove);
    }
    const full = entry && own(entry.path);
    if (entry) {
      this.#protect(full!, entry.kind);
      const { entries } = root;
      if (entries.size >= this.#limit && !entries.has(entry.path)) throw tooMany(root.path, this.#limit);
    }
    const long = this.#writer.apply({
      ...record,
      entry: entry && { ...entry, path: full! },
      copyFrom: copyFrom === undefined ? undefined : own(copyFrom),
    }, { unused: this.#unused.has(root) });
    if (long) return long.then(() => this.#applied(root, record));
    this.#applied(root, record);
  }

  /** Records what the writer has applied. */
  #applied(root: Root, record: TreeRecord): void {
    const { entry } = record;
    this.changes++;
    this.bytes += record.content?.length ?? 0;
    const done = this.#receiving = entry ?? this.#receiving!;
    if (record.more) return;
    this.#receiving = undefined;
    this.files++;
    this.#know(root, done, record.digest);
  }

  /** Ends the change. Call it also when {@link apply} has thrown. */
  close(): void {
    this.#writer.close();
    for (const [root, gone] of this.#gone) forgetBelow(root.entries, gone);
    this.#gone.clear();
  }

  /** The path of a root's entry, relative to the session's `/`. */
  #own({ path, single }: Root, name: string): string {
    if (!single) return `${path.slice(1)}/${name}`;
    if (name !== nameOf(path)) {
      throw new TreeError(`${JSON.stringify(name.slice(0, 200))} is none of a root that is the single file ${path}`);
    }
    return path.slice(1);
  }

  /** Throws if an entry would replace the output base's mount point or a parent of it. */
  #protect(full: string, kind: EntryKind): void {
    const base = this.#outputBase;
    if (isAtOrIn(full, base) || (kind !== "directory" && isIn(base, full))) {
      throw new TreeError(`${JSON.stringify(`/${full}`)} is where the session's output base stands`);
    }
  }

  /** Removes what is at a path, except the output base's mount point and its parents. */
  #remove(full: string): void {
    const base = this.#outputBase;
    if (!isAtOrIn(base, full)) return void this.#writer.apply({ remove: full });
    if (full === base || kindOf(this.#storage, `${this.#top}/${full}`) !== "directory") return;
    for (const name of this.#storage.names(`${this.#top}/${full}`)) this.#remove(`${full}/${name}`);
  }

  /** Records an entry that is in place. */
  #know(root: Root, entry: Entry, digest: Uint8Array | undefined): void {
    const { entries } = root, { path } = entry;
    if (entry.kind !== "directory" && entries.get(path)?.kind === "directory") this.#forget(root, path);
    if (entry.kind === "symlink" && isIn(entry.target!, `/${this.#outputBase}`)) return void entries.delete(path);
    if (entry.kind !== "file") return void entries.set(path, { ...entry, digest: undefined, ...NO_STAT });
    const known = { ...entry, digest: digest ?? entry.digest, ino: UNSEEN, ctimeMs: Date.now(), racy: false };
    entries.set(path, known);
    root.unseen.add(path);
  }

  #forget(root: Root, path: string): void {
    const before = root.entries.get(path);
    root.entries.delete(path);
    if (before?.kind !== "directory") return;
    let gone = this.#gone.get(root);
    if (!gone) this.#gone.set(root, gone = new Set());
    gone.add(path);
  }
}

/** Only files are recognized by their stat. */
const NO_STAT = { ino: 0, ctimeMs: 0, racy: false };

/** The kind of a path. Undefined if it does not exist, is something else, or is behind a symlink. */
function kindOf(files: Files, path: string): "file" | "directory" | undefined {
  try {
    const { kind } = files.lstat(path);
    return kind === "file" || kind === "directory" ? kind : undefined;
  } catch (e) {
    if (isGone(e)) return undefined;
    throw e;
  }
}

function isEmpty(files: Files, folder: string): boolean {
  return files.names(folder).length === 0;
}

/** The present state of a small file with its digest; undefined if it cannot be read. */
function readQuietly(files: Files, root: string, path: string): ScannedEntry | undefined {
  try {
    return readSmall(files, root, path)?.entry;
  } catch (e) {
    if (e instanceof RbsError) return undefined;
    throw e;
  }
}

/** Forgets what is below removed directories. New entries there are only looked at once more. */
function forgetBelow(entries: Map<string, ScannedEntry>, gone: ReadonlySet<string>): void {
  for (const path of entries.keys()) {
    for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
      if (!gone.has(path.slice(0, slash))) continue;
      entries.delete(path);
      break;
    }
  }
}

/** Whether a file is unchanged, also by inode and ctime. */
function isTheSame(before: ScannedEntry, now: ScannedEntry): boolean {
  if (before.kind !== "file" || now.kind !== "file") return sameEntry(before, now);
  return before.mode === now.mode && before.size === now.size && before.mtimeMs === now.mtimeMs &&
    before.ino === now.ino && before.ctimeMs === now.ctimeMs;
}

function sameTree(a: ReadonlyMap<string, Entry>, b: ReadonlyMap<string, Entry>): boolean {
  if (a.size !== b.size) return false;
  for (const [path, entry] of a) {
    const other = b.get(path);
    if (!other || !sameEntry(entry, other)) return false;
  }
  return true;
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

function tooMany(root: string, limit: number): StatusError {
  return new StatusError(
    Status.RESOURCE_EXHAUSTED,
    `${root} has more than ${limit.toLocaleString("en-US")} files: name what the build does not need in .rbsignore.`,
  );
}
