/**
 * The developer's files as a synced session has them: trees below the folder that the session sees as `/`, what is known
 * of them, and a generation that changes with them.
 *
 *     open ──looks at all of a root, reads what it does not know──> manifest
 *     apply ──records──> TreeWriter ──> files in place, and known by their digests ──> workspace.index, for the next agent
 *
 * What is known saves reading, no more: the session's own programs can write here too, so each manifest is made by a look.
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

/** In the storage: where files are received, */
export const STAGING = "staging";
/** and what is known of them between agents. */
const INDEX = "workspace.index";
/** Between two looks at what happens in the trees while they are changed: of so many events the kernel keeps all. */
const RECORDS_BETWEEN_NOTES = 256;
/** Files that a sentence names. */
const NAMED_FILES = 3;
/** How long after a change what is known is written down, in milliseconds. */
const SAVE_MS = 2_000;
/** The same while changes come in: what a short one brings is read again as fast as it is written down. Milliseconds. */
const SAVE_MEANWHILE_MS = 10_000;
/** What of the time may go into that, as a divisor, while a large tree comes in. */
const SAVE_SHARE = 20;
/** The most files, folders and symlinks of a root. */
const MAX_ENTRIES = 5_000_000;

/** Parts of a {@link SyncedWorkspace}. */
export interface SyncedWorkspaceOptions {
  /** The session's own folder. */
  storage: Files;
  paths: DeveloperPaths;
  /** By the developer's name: symlinks that lead below it are Bazel's own, and no part of a tree. */
  outputBase: string;
  log(line: string): void;
  /** Watches folders of the storage. */
  watch(): Watch;
  /** @default 5,000,000 entries in a root */
  limit?: number;
  /** For tests. */
  turns?: Turns;
  saveMs?: number;
}

/** What is here of a root. */
export interface OpenedRoot {
  path: string;
  /** Why it cannot be had: a sentence. */
  refusal?: string;
  /** Undefined: it is not there. */
  kind?: "file" | "directory";
  /** Sorted by path; files with their digests, but for those that nobody can read. */
  entries: Entry[];
}

/** Says of which root the records after it are. */
export interface RootStart {
  /** The generation that the changes were computed against. */
  generation: string;
  /** Absolute, the developer's. */
  path: string;
  /** A root that is a single file is the one entry of a tree, whose root is the folder that it is in. */
  single: boolean;
  /** Nothing that is written there comes back to the developer. */
  readOnly: boolean;
  /** There must be nothing in it. */
  fresh: boolean;
}

/** A part of a change. */
export type ApplyStep = { start: RootStart } | { records: readonly TreeRecord[] };

/** What a change did. */
export interface Applied {
  generation: string;
  /** Files, folders and symlinks that are in place now. */
  files: number;
  /** Of their content. */
  bytes: number;
}

/** A file that a command has written, as it looked when its digest was made. */
export type WrittenFile = Pick<ScannedEntry, "path" | "size" | "mtimeMs" | "ino" | "ctimeMs" | "digest">;

/** Files that a command is writing. */
export interface ExpectedFiles extends Disposable {
  /**
   * What it has written, until now, into the places of a root that were named, compared with what was known of them when it
   * began. Throws an RbsError when that was nothing.
   */
  written(): Promise<WrittenSources>;
  /**
   * Those that it has written were told to who brings them home: they are known now, and so is what {@link written} found.
   * Absolute paths.
   */
  told(files: Iterable<WrittenFile>): void;
}

/** Where in a root a command may write. */
export interface RootPlaces extends SourcePlaces {
  /** The root's path, absolute. */
  root: string;
}

/** See the file's head. Throws {@link StatusError}s, and what is said at each method. */
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
  /** What commands have written into the sources and was told, by root: the next caller finds it known. */
  readonly #toldSources: { root: string; written: WrittenSources }[] = [];
  #saveTimer?: ReturnType<typeof setTimeout>;
  #saveTookMs = 0;
  #applying = false;
  /** Raised when a save begins: one that is under way in slices gives up. */
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
   * A command is about to write these files of the developer's, which are brought home. Dispose of what is returned when it
   * has ended.
   *
   * @param paths Absolute.
   * @param brought Where what it writes comes home besides, when it has ended.
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
   * Makes known what commands have written into the sources, unless it was changed since: who asks next what is here learns
   * of it. Whoever calls it has the turn, since nobody's look may be under way.
   */
  async #takeTold(): Promise<void> {
    const pace = new Pace();
    for (let told = this.#toldSources.shift(); told; told = this.#toldSources.shift()) {
      const root = this.#known().get(told.root);
      // Whether or not it comes home: the caller has another workspace than this now.
      this.#touch();
      if (!root?.known) continue;
      const base = this.#top + root.path, start = root.path.length + 1;
      for (const entry of told.written.entries) {
        if (pace.due) await pace.rest();
        const path = entry.path.slice(start), now = lookAt(this.#storage, base, path);
        if (typeof now !== "object" || !isTheSame({ ...entry, path }, now)) continue;
        // Bazel's own.
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

  /** Makes files known as they were told, unless they were changed since. */
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
   * Finds out whether the session's programs have changed what is here since the last time: then the generation is over,
   * and who asks next what is here learns of it.
   *
   * @returns a sentence for the developer, if there is something that nobody expects
   */
  async check(caller: Caller): Promise<string | undefined> {
    if (!this.#roots) return undefined;
    await this.#sweeper.settled();
    using _turn = await this.#turns.take(caller);
    await this.#takeTold();
    const roots = this.#watched();
    const { changed, expected } = await this.#foreign.find(roots);
    if (changed.length + expected.length === 0) return undefined;
    // Until somebody asks what is there, which is the only way to the next generation.
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
   * Programs of the session have run: what they wrote where no watch hears it is found in the background. The next check
   * waits for it if it is quick. Resolves when it is done.
   */
  ran(): Promise<void> {
    return this.#sweeper.soon();
  }

  #watched(): Root[] {
    return [...this.#roots?.values() ?? []].filter(({ known }) => known);
  }

  /** Stands for all roots as they are now. It is another one from the first record of a change on, and for each agent. */
  get generation(): string {
    return `${this.#life}.${this.#changes}`;
  }

  /** The roots from which nothing comes back. Absolute, the developer's. */
  get readOnlyRoots(): string[] {
    return [...this.#known().values()].filter(({ readOnly }) => readOnly).map(({ path }) => path);
  }

  /** Looks at roots. The generation is the one that what was seen belongs to. @param paths Absolute. */
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
   * Changes roots. What was applied when it throws stays applied, and the generation tells. Throws a {@link TreeError}
   * for what no honest proxy sends, and an RbsError if the disk does not take it.
   */
  async apply(steps: AsyncIterable<ApplyStep>, caller: Caller): Promise<Applied> {
    const iterator = steps[Symbol.asyncIterator]();
    // Nobody waits for one who has nothing to say.
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
      // The caller has it all: nobody will go on with the beginning of a file.
      this.#clear(STAGING, () => true);
      for (const root of changedRoots) await this.#follow(root);
      return { generation: this.generation, files: change.files, bytes: change.bytes };
    } finally {
      change.close();
      this.#applying = false;
      if (this.#saveTimer !== undefined) this.#saveSoon();
    }
  }

  /** Watches no more. */
  close(): void {
    this.save();
    this.#sweeper[Symbol.dispose]();
    this.#foreign[Symbol.dispose]();
  }

  /** Writes down what is known, so that the next agent need not read every file. */
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
    // What a former agent was about when it was killed. Large files are gone on with.
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
    // There was nothing, so that all there is is what came.
    if (fresh) root.known = true;
    return root;
  }

  /** Watches a root, after what happened until now was noted: folders that are gone are watched no more. */
  async #follow(root: Root | undefined): Promise<void> {
    if (!root?.known) return;
    this.#foreign.note();
    await this.#foreign.follow(root);
  }

  /** Says that the present generation is over. */
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
    // Somebody else was here: what a proxy knows by the generation is not so any more.
    if (root.known && !sameTree(root.entries, found)) this.#changes++;
    root.single = kind === "file";
    root.entries = found;
    root.known = true;
    return { path, kind, entries: [...found.values()].sort((a, b) => a.path < b.path ? -1 : 1) };
  }

  /** Everything in a root. Files that look as they did when they were read are not read again. */
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
      // Bazel's own: its links, and what the output base is mounted on.
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
        // The caller sends it again if it has another one, or just does not know.
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

  // --- what stays

  /** What is kept of large files. */
  #partials(): PartialContent[] {
    const writer = new TreeWriter({ files: this.#storage, root: this.#top, staging: STAGING });
    try {
      return writer.partials();
    } finally {
      writer.close();
    }
  }

  /** Removes what is left over in a folder. */
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

  /** Entries are never changed, only replaced: they can be written while others work. */
  *#writing(options: { digests: boolean } = { digests: false }): Generator<void> {
    for (const root of this.#roots!.values()) yield* this.#settle(root, options);
    // What came meanwhile is for the next time.
    const seen = ({ entries }: Root) => [...entries.values()].filter(({ ino }) => ino !== UNSEEN);
    const roots = [...this.#roots!.values()].map((root) => ({ ...root, entries: seen(root) }));
    yield* writeIndex(this.#storage, INDEX, { generation: "", roots });
  }

  /**
   * Looks at the files that were written since the last time, in slices.
   *
   * @param options.digests Those that came without one get theirs, which takes reading. It can wait until nobody waits.
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
      // What was changed since is another file, which has to be read.
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

/** Records on their way into the storage. */
class Change {
  readonly #storage: Files;
  readonly #top: string;
  readonly #writer: TreeWriter;
  readonly #limit: number;
  /** The output base below the session's `/`. */
  readonly #outputBase: string;
  /** The file whose parts are coming. */
  #receiving?: Entry;
  /** Roots in which there was nothing before: no program works in them. */
  readonly #unused = new Set<Root>();
  /** Folders that are gone, by root: what was known below them is to be forgotten. */
  readonly #gone = new Map<Root, Set<string>>();
  changes = 0;
  files = 0;
  bytes = 0;

  /** @param signal Ends a record that takes long. */
  constructor(
    top: string,
    { storage, outputBase, limit = MAX_ENTRIES }: SyncedWorkspaceOptions,
    signal: AbortSignal,
  ) {
    this.#storage = storage;
    this.#top = top;
    // It is the proxy's tree: whatever it sends is what there is.
    this.#writer = new TreeWriter({ files: storage, root: top, staging: STAGING, signal, digests: "optional" });
    this.#outputBase = outputBase.slice(1);
    this.#limit = limit;
  }

  /** The session's own programs may have put a symlink in the place of a folder since the last message. */
  doubt(): void {
    this.#writer.doubt();
  }

  /** Begins with a root. */
  begin(root: Root): void {
    const folder = root.single ? dirname(root.path) : root.path;
    this.#makeWay(folder);
    if (!root.single && isEmpty(this.#storage, this.#top + folder)) this.#unused.add(root);
  }

  /** Whether there was nothing in a root. */
  isUnused(root: Root): boolean {
    return this.#unused.has(root);
  }

  /** Makes sure that a folder is there, and each folder on the way to it is one. @param path Absolute. */
  #makeWay(path: string): void {
    const relative = path.slice(1);
    if (relative === "" || kindOf(this.#storage, `${this.#top}/${relative}`) === "directory") return;
    for (let slash = 0; slash >= 0;) {
      slash = relative.indexOf("/", slash + 1);
      const folder = slash < 0 ? relative : relative.slice(0, slash);
      const info = lookAt(this.#storage, this.#top, folder);
      if (info === undefined) break;
      // Somebody's file or symlink, of another root perhaps, which is not so any more.
      if (typeof info === "string" || info.kind !== "directory") this.#writer.apply({ remove: folder });
    }
    this.#writer.apply({ entry: { path: relative, kind: "directory", mode: 0o755, size: 0, mtimeMs: 0 } });
    this.changes++;
  }

  /**
   * Throws TreeErrors and RbsErrors; nothing of this record is in place then.
   *
   * @returns undefined when it is in place; a promise for the few large files that take long, as {@link TreeWriter.apply}
   */
  apply(root: Root, record: TreeRecord): Promise<void> | undefined {
    const { entry, remove, copyFrom } = record;
    const own = (path: string) => this.#own(root, path);
    if (remove !== undefined) {
      // A folder that has become a single file lost what was in it.
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

  /** Takes into account what the writer has taken. */
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

  /** Ends it; call it also when apply has thrown. */
  close(): void {
    this.#writer.close();
    for (const [root, gone] of this.#gone) forgetBelow(root.entries, gone);
    this.#gone.clear();
  }

  /** A path below the session's `/`. */
  #own({ path, single }: Root, name: string): string {
    if (!single) return `${path.slice(1)}/${name}`;
    if (name !== nameOf(path)) {
      throw new TreeError(`${JSON.stringify(name.slice(0, 200))} is none of a root that is the single file ${path}`);
    }
    return path.slice(1);
  }

  /** Throws when an entry would take the place of the output base, or of a folder on the way to it. */
  #protect(full: string, kind: EntryKind): void {
    const base = this.#outputBase;
    if (isAtOrIn(full, base) || (kind !== "directory" && isIn(base, full))) {
      throw new TreeError(`${JSON.stringify(`/${full}`)} is where the session's output base stands`);
    }
  }

  /** Removes what is at a path, but not the folder that the output base is mounted on. */
  #remove(full: string): void {
    const base = this.#outputBase;
    if (!isAtOrIn(base, full)) return void this.#writer.apply({ remove: full });
    if (full === base || kindOf(this.#storage, `${this.#top}/${full}`) !== "directory") return;
    for (const name of this.#storage.names(`${this.#top}/${full}`)) this.#remove(`${full}/${name}`);
  }

  /** What is in place now. */
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

/** Only files are recognized by it. */
const NO_STAT = { ino: 0, ctimeMs: 0, racy: false };

/** What a path is: undefined if it is nothing, something else, or lies behind a symlink. */
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

/** A small file as it is, with its digest; undefined if that cannot be had. */
function readQuietly(files: Files, root: string, path: string): ScannedEntry | undefined {
  try {
    return readSmall(files, root, path)?.entry;
  } catch (e) {
    if (e instanceof RbsError) return undefined;
    throw e;
  }
}

/** Forgets what is below folders that are gone. What came there anew is but looked at once more. */
function forgetBelow(entries: Map<string, ScannedEntry>, gone: ReadonlySet<string>): void {
  for (const path of entries.keys()) {
    for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
      if (!gone.has(path.slice(0, slash))) continue;
      entries.delete(path);
      break;
    }
  }
}

/** Whether nobody has changed what was seen, not even without a trace in its content. */
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
