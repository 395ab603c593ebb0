/**
 * Keeps the agent's copy of the developer's files in step, with a barrier before each command: what the command sees is
 * never older than the moment in which the barrier began.
 *
 *     watcher ──hints, or doubt──> local trees ──pending──> Open (what has the agent?) ──> Apply ──> generation
 *
 * With a healthy watcher and no change, nothing is looked at and nothing is sent.
 */
import { basename, dirname } from "node:path";
import { isFolder } from "../../proto/base/files.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import type { Entry } from "../../proto/tree/entry.ts";
import { readIndex, writeIndex } from "../../proto/tree/index_file.ts";
import { localFiles } from "../../proto/tree/local_files.ts";
import { lookAt } from "../../proto/tree/scan.ts";
import { FileChanged } from "../../proto/tree/read.ts";
import { ApplyCall, interrupted, openRoots, type WorkspaceLink } from "./agent_calls.ts";
import { AgentPatience } from "../session/agent_patience.ts";
import { FirstSync } from "./first_sync.ts";
import { IgnoreRules } from "./ignore_rules.ts";
import { type Finder, isLead, LocalTree, type LookOptions, type ManifestComparison } from "./pending_tree.ts";
import type { MountWatch } from "./mount_watch.ts";
import { Progress } from "./progress.ts";
import { makePlan, sendPlan } from "./upload.ts";
import { FolderWatcher, type WatcherOptions } from "./watcher.ts";
import { log } from "../log.ts";

/** How long changes may rest before they are kept for the next proxy, in milliseconds. */
const SAVE_AFTER_MS = 5_000;
/** How long after a doubt, or after folders were found, they are looked at in the background. Milliseconds. */
const LOOK_AFTER_MS = 1_000;
/** How often that is done without a barrier in between. */
const MAX_LOOKS = 3;
/** How often a barrier begins again because a generation is not the agent's, or a large file was changed meanwhile. */
const MAX_ROUNDS = 5;
/**
 * How long after a look at everything in the background has begun the next one begins, at least: a live memory map, a name
 * that is given to a file elsewhere, a file system that is mounted are told by no watcher. It works for a moment, and rests
 * so many times as long: commands do not wait for it, and none of them puts it off. Milliseconds.
 */
const SWEEP_MS = 2_000, SWEEP_SLICE_MS = 3, SWEEP_REST = 20;
/** How long after a barrier one begins, at the latest: while the command runs, which may use what it finds. */
const FIRST_SWEEP_MS = 250;
/** So long after the last command nobody looks any more, and the next one trusts no watcher. Milliseconds. */
const SWEEP_FOR_MS = 10 * 60_000;
/**
 * Files with several names that are watched one by one, which takes 20 µs or more for each. Of more than that, each
 * barrier looks at the others, which takes 5 µs.
 */
const MAX_WATCHED_FILES = 4_000;
/** Unreadable files that a warning names. */
const NAMED_FILES = 3;

/** What a {@link WorkspaceSync} is for. */
export interface WorkspaceSyncOptions {
  /** Absolute. */
  workspace: string;
  /** Absolute. What is remembered is in its folder `rbs`. */
  outputBase: string;
  /** Makes what tells of mount points, see {@link MountWatch}. @default a sweep finds them */
  watchMounts?(onChange: (path: string) => void): Pick<MountWatch, "start" | "close">;
  /** For tests. */
  watcher?: WatcherOptions;
  /** For tests: see {@link FIRST_SWEEP_MS}, {@link SWEEP_MS} and {@link SWEEP_FOR_MS}. */
  sweep?: { firstMs: number; everyMs: number; forMs: number };
}

/** One command's barrier. */
export interface BarrierOptions {
  link: WorkspaceLink;
  /** Shows a line, with its newline, to the person who waits. */
  say(line: string): void;
  /** Aborted when that person does not want to wait any more. */
  signal: AbortSignal;
  /** What the command uses outside of the workspace: folders or files, absolute. */
  outside?: readonly { path: string; readOnly: boolean }[];
  /**
   * How long an agent that cannot be reached is tried, in milliseconds, since it was last heard of. One whose port refuses
   * connections is given up at once if there was none before in this barrier, and else when it refuses a second time.
   *
   * @default 0: once
   */
  patienceMs?: number;
  /** Whether the agent is, as far as anybody knows, still the session's: another is not waited for. @default it is */
  isCurrent?(): boolean;
  /** {@link WorkspaceSync.look} has said yes since the person waits. @default false */
  looked?: boolean;
}

/** A tree that the agent shall have. */
interface SyncedRoot {
  readonly tree: LocalTree;
  readOnly: boolean;
  /** The agent has told what it has, or was sent all. */
  known: boolean;
  /** The agent cannot have it: a sentence that says why. */
  refusal?: string;
  /** What was at its path: another text if a symlink on the way led elsewhere, or a folder above it was replaced. */
  place?: string;
}

/** Files that a command is about to write, here and at the agent. Dispose of it when the command has ended. */
export interface HeldFiles extends Disposable {
  /**
   * All that the command has made is here.
   *
   * @param written Those of the files that it has written, as the agent has them, with absolute paths.
   */
  arrived(written: Iterable<Entry>): void;
}

/** What is known of a file that commands are writing. */
interface Held {
  commands: number;
  /** As the last of them that had it come home left it at the agent. */
  came?: Entry;
  /** Nobody knows what one of them left there. */
  unknown: boolean;
}

/** See the file's head. */
export class WorkspaceSync implements Disposable {
  readonly #workspace: string;
  readonly #outputBase: string;
  readonly #indexFile: string;
  readonly #watcher: FolderWatcher;
  readonly #mounts?: Pick<MountWatch, "start" | "close">;
  readonly #roots = new Map<string, SyncedRoot>();
  /** Files that commands are writing, absolute. */
  readonly #held = new Map<string, Held>();
  #rules?: IgnoreRules;
  #generation?: string;
  /** Folders that were not watched when they were looked at, absolute. */
  #unproven = new Set<string>();
  /** All was looked at, and is to be watched from now on. */
  #unwatched = false;
  readonly #warned = new Set<string>();
  /** Those of the last barrier that came to its end. */
  #lastRoots: readonly SyncedRoot[] = [];
  /** Looks in the background since the last barrier. */
  #looks = 0;
  /** The last of those who wait for their turn. */
  #turn: Promise<void> = Promise.resolve();
  #restored = false;
  #changed = false;
  #saving?: ReturnType<typeof setTimeout>;
  /** Aborted to end what {@link #digestSoon} has begun. */
  #digesting?: AbortController;
  #looking?: ReturnType<typeof setTimeout>;
  /** What is left of the sweep that has begun, and when that was. */
  #sweeping?: { steps: Generator<boolean, void>; began: number };
  #nextSweep?: { timer: ReturnType<typeof setTimeout>; at: number };
  /** Somebody has the turn. */
  #busy = false;
  /** When the last barrier was over, by performance.now(). */
  #lastBarrier = 0;
  /** Of files with several names, of which one was found changed. */
  readonly #changedInodes = new Set<number>();
  /** Files that were not watched when they were looked at, absolute. */
  readonly #unprovenFiles = new Set<string>();
  readonly #sweep: { firstMs: number; everyMs: number; forMs: number };
  #closed = false;

  constructor(options: WorkspaceSyncOptions) {
    this.#workspace = options.workspace;
    this.#sweep = options.sweep ?? { firstMs: FIRST_SWEEP_MS, everyMs: SWEEP_MS, forMs: SWEEP_FOR_MS };
    this.#outputBase = options.outputBase;
    this.#indexFile = `${options.outputBase}/rbs/workspace.index`;
    this.#watcher = new FolderWatcher(`${options.outputBase}/rbs/watch`, {
      ...options.watcher,
      onLoss: () => this.#lookSoon(LOOK_AFTER_MS),
    });
    this.#mounts = options.watchMounts?.((path) => this.#mounted(path));
    this.#root(options.workspace, false);
  }

  /** One line for the log. */
  describe(): string {
    const files = this.#roots.get(this.#workspace)!.tree.entries.size.toLocaleString("en-US");
    const trust = this.#watcher.doubt ? `not watched (${this.#watcher.doubt})` : "watched";
    return `workspace ${this.#workspace}: ${files} files, ${trust}, generation ${this.#generation ?? "unknown"}`;
  }

  /**
   * Brings the agent up to date. Resolves with the generation that a command has to name.
   *
   * Throws an {@link RbsError} with a sentence for the person who waits: interrupted, a bad .rbsignore, a workspace that
   * the agent cannot have, a full disk there. Throws a {@link StatusError} that says whether another agent may do better:
   * UNAVAILABLE once patience has ended, FAILED_PRECONDITION (another epoch), UNAUTHENTICATED, UNIMPLEMENTED. The next
   * barrier goes on where this one was.
   */
  async barrier(options: BarrierOptions): Promise<{ generation: string }> {
    this.#digesting?.abort();
    const done = await this.#myTurn(options.signal);
    const progress = new Progress(options.say);
    const timer = setInterval(() => progress.tick(), 200);
    try {
      const result = await this.#barrier(options, progress);
      progress.finish();
      return result;
    } catch (e) {
      throw options.signal.aborted ? interrupted() : e;
    } finally {
      clearInterval(timer);
      done();
      this.#looks = 0;
      this.#digestSoon();
      this.#lastBarrier = performance.now();
      if (!this.#closed) this.#mounts?.start();
      this.#sweepAfter(this.#sweep.firstMs);
      if (this.#unwatched || (this.#unproven.size > 0 && this.#watcher.doubt === undefined)) this.#lookSoon(0);
    }
  }

  /**
   * Looks at what the last barrier looked at, if that is quickly done. Never rejects.
   *
   * @param signal Nobody waits for it any more.
   * @returns whether the next barrier need not look again
   */
  async look(signal: AbortSignal = new AbortController().signal): Promise<boolean> {
    const isQuick = () => this.#generation !== undefined && this.#watcher.doubt === undefined && !this.#unwatched;
    if (!isQuick() || this.#closed) return false;
    const done = await this.#myTurn(signal).catch(() => undefined);
    if (!done) return false;
    try {
      if (!isQuick()) return false;
      await this.#refresh(this.#lastRoots, { signal }, "unless events were lost");
      return true;
    } catch {
      return false; // the barrier says what is wrong
    } finally {
      done();
    }
  }

  /** Another number whenever a symlink in this tree was found changed: then {@link links} are to be looked at again. */
  linksVersion(root: string): number | undefined {
    return this.#roots.get(root)?.tree.linksVersion;
  }

  /**
   * A tree's symlinks as they were found last, and the files of git that lead to its folder, but for those that stay home.
   * It is a pass over all its files.
   */
  *links(root: string): Generator<{ path: string; target: string }> {
    const tree = this.#roots.get(root)?.tree;
    if (!tree) return;
    const prefix = tree.root === "/" ? "" : tree.root;
    for (const entry of tree.entries.values()) {
      if (!isLead(entry)) continue;
      const path = `${prefix}/${entry.path}`, target = entry.target ?? gitFolder(path);
      if (target !== undefined) yield { path, target };
    }
  }

  /** Whether rules keep at home what is at a path, relative to the workspace; false if there is nothing. */
  staysHome(path: string): boolean {
    const info = lookAt(localFiles, this.#workspace, path);
    if (typeof info !== "object" || !this.#rules) return false;
    for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
      if (this.#rules.skips(path.slice(0, slash), "directory")) return true;
    }
    return this.#rules.skips(path, info.kind, info.target);
  }

  /** Whether what is at a path in the workspace is, as far as it can be seen, what the agent was sent. Absolute. */
  isAsSent(path: string): boolean {
    const { tree } = this.#roots.get(this.#workspace)!;
    return path.startsWith(`${tree.root}/`) && tree.isAsSent(path.slice(tree.root.length + 1));
  }

  /**
   * Leaves files out of the sync that a command is about to write: what another command's barrier put in their place, the
   * server would not write to any more.
   *
   * @param paths Absolute.
   */
  hold(paths: Iterable<string>): HeldFiles {
    const names = new Map([...paths].map((path) => [path, this.#namesOf(path)]));
    // A file may have been named twice.
    const all = new Set([...names.values()].flat());
    for (const name of all) {
      const held = this.#held.get(name);
      if (held) held.commands++;
      else this.#held.set(name, { commands: 1, unknown: false });
    }
    let haveArrived = false;
    return {
      arrived: (written) => {
        haveArrived = true;
        for (const entry of written) {
          for (const name of names.get(entry.path) ?? []) this.#held.get(name)!.came = entry;
        }
      },
      [Symbol.dispose]: () => {
        for (const name of all) {
          const held = this.#held.get(name)!;
          held.unknown ||= !haveArrived;
          held.commands--;
        }
        all.clear();
        // What comes home after all is looked at as what the developer has.
        names.clear();
        // Who looks or sends now goes by what is held.
        if (!this.#busy) this.#releaseAll();
      },
    };
  }

  /** The names by which trees have a file: roots may lie behind symlinks. */
  #namesOf(path: string): string[] {
    const folder = realPath(dirname(path));
    const real = folder === undefined ? path : `${folder === "/" ? "" : folder}/${basename(path)}`;
    const names = new Set([path, real]);
    for (const root of this.#roots.keys()) {
      const realRoot = realPath(root);
      if (realRoot !== undefined && real.startsWith(`${realRoot}/`)) names.add(root + real.slice(realRoot.length));
    }
    return [...names];
  }

  /** Lets go of what no command writes any more. */
  #releaseAll(): void {
    for (const [name, held] of this.#held) {
      if (held.commands > 0) continue;
      this.#held.delete(name);
      this.#release(name, held);
    }
  }

  #release(path: string, { came, unknown }: Held): void {
    for (const { tree } of this.#roots.values()) {
      if (!path.startsWith(`${tree.root}/`)) continue;
      const below = path.slice(tree.root.length + 1);
      // What no command has written is the developer's as ever.
      if (!came && !unknown) tree.hint(path, true);
      else tree.release(below, unknown ? undefined : came);
    }
    if (!came && !unknown) return;
    this.#changed = true;
    this.#saveSoon();
  }

  /** The agent refused the generation, or its files have changed: the next barrier asks what it has. */
  forget(): void {
    this.#generation = undefined;
  }

  /** Keeps what is known for the next proxy, and stops watching. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#looking);
    this.#digesting?.abort();
    clearTimeout(this.#nextSweep?.timer);
    this.#watcher.close();
    this.#mounts?.close();
    this.#save();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Waits until no other barrier runs. @returns what ends the turn */
  async #myTurn(signal: AbortSignal): Promise<() => void> {
    const before = this.#turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#turn = before.then(() => promise);
    const aborted = Promise.withResolvers<never>();
    const abort = () => aborted.reject(interrupted());
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    try {
      await Promise.race([before, aborted.promise]);
      if (this.#closed) throw new RbsError("The proxy is ending: repeat the command.");
      this.#busy = true;
      return () => {
        this.#busy = false;
        this.#releaseAll();
        resolve();
      };
    } catch (e) {
      resolve();
      throw e;
    } finally {
      signal.removeEventListener("abort", abort);
      aborted.promise.catch(() => {});
    }
  }

  async #barrier(options: BarrierOptions, progress: Progress): Promise<{ generation: string }> {
    const { signal } = options;
    this.#restore();
    const roots = this.#choose(options.outside ?? []);
    const unreadable = new Map<string, string>();
    progress.look("looking at the workspace");
    // Who watches folders is told of each file that is read there: all files are read before anything is watched, and a
    // look in the background proves afterwards that nothing was missed.
    const first = this.#generation === undefined && this.#roots.get(this.#workspace)!.tree.entries.size === 0;
    const look: LookOptions = {
      signal,
      onProgress: (entries) => progress.looked(entries),
      onUnreadable: (path) => unreadable.set(path, "cannot be read"),
    };
    const patience = new AgentPatience({ isCurrent: options.isCurrent, patienceMs: options.patienceMs ?? 0 });
    const ahead = options.looked === true && roots.every((root) => this.#lastRoots.includes(root));
    this.#lastRoots = [];
    for (let round = 1, looked = ahead, untried = first;;) {
      try {
        if (untried) {
          untried = false;
          looked = await this.#syncFirst(roots, look, options, progress, patience);
        }
        if (!looked) await this.#refresh(roots, look, first ? "later" : "unless events were lost");
        looked = true;
        const generation = await this.#push(roots, options, progress, unreadable, patience);
        this.#warn(unreadable, options.say);
        this.#lastRoots = roots;
        for (const { tree, refusal } of roots) {
          if (refusal && !this.#warned.has(tree.path)) options.say(`rbs: warning: ${refusal}\n`);
          if (refusal) this.#warned.add(tree.path);
        }
        return { generation };
      } catch (e) {
        if (signal.aborted) throw interrupted();
        const knew = this.#generation !== undefined;
        // Whatever was applied of it stays applied; only the agent can tell.
        if (looked) this.#generation = undefined;
        if (e instanceof FileChanged && ++round <= MAX_ROUNDS) continue;
        if (!(e instanceof StatusError)) throw e;
        if (e.code === Status.FAILED_PRECONDITION && knew && ++round <= MAX_ROUNDS) continue;
        if (e.code === Status.UNAVAILABLE && patience.failed(e) === "again") {
          progress.look(`syncing again after the connection was lost (${sentence(e)})`);
          await patience.wait(signal);
          if (signal.aborted) throw interrupted();
          continue;
        }
        if (PASSED_ON.has(e.code)) throw e;
        throw new RbsError(`The workspace cannot be synced: ${sentence(e)}`, { cause: e });
      }
    }
  }

  /**
   * Sends the workspace while it is looked at, to an agent that has nothing of it. What could not be sent as it was found
   * is pending afterwards. @returns false if the agent has something
   */
  async #syncFirst(
    roots: SyncedRoot[],
    look: LookOptions,
    { link, signal }: BarrierOptions,
    progress: Progress,
    patience: AgentPatience,
  ): Promise<boolean> {
    const workspace = this.#roots.get(this.#workspace)!;
    let sync: FirstSync | undefined;
    try {
      sync = await FirstSync.begin(link, this.#checkWorkspace(), {
        signal,
        progress,
        onAnswer: () => patience.answered({ resetWaits: false }),
        onUnreadable: (path) => look.onUnreadable?.(path),
      });
      await this.#refresh(roots, look, "later", sync);
      this.#generation = await sync.finish();
      workspace.known = true;
      this.#changed = true;
      this.#saveSoon();
      return true;
    } catch (e) {
      sync?.cancel();
      if (e instanceof StatusError && e.code === Status.FAILED_PRECONDITION) return false;
      throw e;
    }
  }

  // --- this machine's side

  #root(path: string, readOnly: boolean): SyncedRoot {
    let root = this.#roots.get(path);
    let single = root?.tree.single ?? false;
    try {
      single = Deno.statSync(path).isFile;
    } catch { /* it is gone: an empty tree of the kind that it was */ }
    if (!root || root.tree.single !== single) {
      root = { tree: new LocalTree(path, single), readOnly, known: false };
      root.tree.held = this.#held;
      root.tree.leaveOut = [this.#workspace, this.#outputBase]
        .filter((inner) => inner.startsWith(`${path}/`))
        .map((inner) => inner.slice(path.length + 1));
      this.#roots.set(path, root);
    }
    root.readOnly = readOnly;
    return root;
  }

  /** The roots of a command: those within another one, or within the output base, need nothing of their own. */
  #choose(outside: readonly { path: string; readOnly: boolean }[]): SyncedRoot[] {
    const within = (path: string, root: string) => path === root || path.startsWith(`${root}/`);
    const chosen = [this.#root(this.#workspace, false)];
    for (const { path, readOnly } of [...outside].sort((a, b) => a.path.length - b.path.length)) {
      if (within(path, this.#outputBase)) continue;
      if (!chosen.some(({ tree }) => within(path, tree.path))) chosen.push(this.#root(path, readOnly));
    }
    return chosen;
  }

  /** Sees whether the workspace can be looked at, and by which rules. */
  #checkWorkspace(): LocalTree {
    const { tree } = this.#roots.get(this.#workspace)!;
    if (tree.single || !isFolder(this.#workspace)) {
      throw new RbsError(`The workspace ${this.#workspace} is not there any more.`, { culprit: "caller" });
    }
    const rules = IgnoreRules.load(this.#workspace, this.#outputBase, this.#rules);
    if (!this.#rules || !rules.same(this.#rules)) tree.distrust();
    this.#rules = tree.rules = rules;
    return tree;
  }

  /**
   * Looks at what may have changed since the last time.
   *
   * @param watching When what is looked at is watched anew, if that has to be: until then the next look is at everything.
   * @param finder Told what is found in the workspace.
   */
  async #refresh(
    roots: readonly SyncedRoot[],
    options: LookOptions,
    watching: "first" | "unless events were lost" | "later" = "first",
    finder?: Finder,
  ): Promise<void> {
    const workspace = this.#checkWorkspace();
    for (const root of roots) {
      const place = placeOf(root.tree.path);
      if (root.place !== undefined && place !== root.place) this.#watcher.doubtAll(`${root.tree.path} is another one`);
      root.place = place;
    }
    const hints = await this.#watcher.collect();
    // Nobody waits until the last of many thousand events has come: a look at everything is the proof of this moment.
    const watch = watching === "first" || (watching !== "later" && !this.#watcher.isLossy);
    if (hints) {
      for (const { tree } of this.#roots.values()) {
        for (const path of hints.changed) tree.hint(path, hints.replaced.has(path));
        for (const folder of this.#unproven) tree.hint(folder, true);
      }
    } else {
      for (const { tree } of this.#roots.values()) tree.distrust();
      // First, so that what changes behind the scan's back is noticed the next time.
      if (watch) {
        const trees = [...this.#roots.values()].map(({ tree }) => tree);
        await this.#watcher.restart([
          ...trees.flatMap((tree) => [...tree.folders()]),
          ...trees.flatMap((tree) => [...tree.shared()]).slice(0, MAX_WATCHED_FILES),
        ]);
      }
    }
    // The trees know it now.
    this.#unproven = new Set();
    this.#unwatched = !watch;
    options.signal?.throwIfAborted();
    const isWatched = (path: string) => this.#watcher.watches(path) && !this.#unprovenFiles.has(path);
    const look = async (tree: LocalTree) => {
      const before = tree.pending.size;
      try {
        await tree.refresh({ ...options, finder: tree === workspace ? finder : undefined, isWatched });
      } finally {
        // Of a look that is broken off as well: the next one finds nothing new in what this one found.
        for (const folder of tree.takeFolders()) if (!this.#watcher.watches(folder)) this.#unproven.add(folder);
        for (const inode of tree.takeChangedInodes()) this.#changedInodes.add(inode);
        if (tree.pending.size > before) this.#changed = true;
      }
    };
    for (const { tree } of roots) await look(tree);
    // What a file is changed by is one of its names: the others have changed with it.
    if (this.#changedInodes.size > 0) {
      const all = [...this.#roots.values()].filter(({ tree }) => tree.hintInodes(this.#changedInodes));
      this.#changedInodes.clear();
      for (const root of all) if (roots.includes(root)) await look(root.tree);
    }
    if (this.#unprovenFiles.size > 0) {
      for (const { tree } of roots) for (const path of tree.shared()) this.#unprovenFiles.delete(path);
    }
    if (!watch) return;
    let left = MAX_WATCHED_FILES;
    for (const { tree } of roots) {
      for (const path of tree.shared()) {
        if (left-- <= 0) break;
        if (!this.#watcher.watches(path)) this.#unprovenFiles.add(path);
      }
    }
    this.#watcher.add([...this.#unproven, ...this.#unprovenFiles]);
  }

  /** Looks in the background for what no watcher tells, again and again as long as there are commands. */
  #sweepAfter(ms: number): void {
    const at = performance.now() + ms;
    if (this.#closed || (this.#nextSweep && this.#nextSweep.at <= at)) return;
    clearTimeout(this.#nextSweep?.timer);
    const timer = setTimeout(() => {
      this.#nextSweep = undefined;
      this.#sweepOn();
    }, ms);
    timer.unref();
    this.#nextSweep = { timer, at };
  }

  /** Sweeps for a moment, of all trees: one that no command has used for a while may be used by the next. */
  #sweepOn(): void {
    const began = performance.now();
    if (began - this.#lastBarrier > this.#sweep.forMs) {
      this.#sweeping = undefined;
      this.#mounts?.close();
      return this.#watcher.doubtAll("nobody has looked for long");
    }
    if (this.#busy) return this.#sweepAfter(SWEEP_SLICE_MS * SWEEP_REST);
    const sweeping = this.#sweeping ??= { steps: this.#sweepSteps(), began };
    for (let n = 0;; n++) {
      if (sweeping.steps.next().done) {
        this.#sweeping = undefined;
        return this.#sweepAfter(Math.max(SWEEP_SLICE_MS, this.#sweep.everyMs - (began - sweeping.began)));
      }
      if ((n & 15) === 0 && performance.now() - began > SWEEP_SLICE_MS) break;
    }
    this.#sweepAfter(SWEEP_REST * (performance.now() - began));
  }

  /** A file system was mounted at a path, or is not any more. */
  #mounted(point: string): void {
    const within = (path: string, folder: string) => folder === "/" || path === folder || path.startsWith(`${folder}/`);
    for (const root of this.#roots.keys()) {
      const real = realPath(root) ?? root;
      if (!within(point, root) && !within(point, real) && !within(root, point) && !within(real, point)) continue;
      this.#watcher.doubtAll(`what is mounted at ${point} is something else`);
      return this.#lookSoon(0);
    }
  }

  *#sweepSteps(): Generator<boolean, void> {
    for (const { tree } of [...this.#roots.values()]) {
      for (const other of tree.sweep()) {
        if (other) this.#watcher.doubtAll(`a folder in ${tree.path} is another one`);
        yield other;
      }
    }
  }

  /** A quiet look in the background, so that the next barrier need not wait for it. */
  #lookSoon(afterMs: number): void {
    // Somebody who writes all the time shall not have us look all the time.
    if (this.#closed || this.#generation === undefined || ++this.#looks > MAX_LOOKS) return;
    clearTimeout(this.#looking);
    this.#looking = setTimeout(async () => {
      const done = await this.#myTurn(new AbortController().signal).catch(() => undefined);
      if (!done) return;
      try {
        await this.#refresh([...this.#roots.values()], {});
      } catch {
        /* the next barrier says what is wrong */
      } finally {
        done();
      }
    }, afterMs);
    this.#looking.unref();
  }

  /** Makes digests that were left out, in the background: whoever compares with an agent needs them. */
  #digestSoon(): void {
    const trees = [...this.#roots.values()].map(({ tree }) => tree).filter(({ undigested }) => undigested > 0);
    if (trees.length === 0 || this.#closed) return;
    const digesting = this.#digesting = new AbortController();
    const timer = setTimeout(async () => {
      try {
        for (const tree of trees) await tree.digestAll(digesting.signal);
        this.#changed = true;
        this.#saveSoon();
      } catch { /* there is a barrier, which begins it again */ }
    }, LOOK_AFTER_MS);
    timer.unref();
    digesting.signal.addEventListener("abort", () => clearTimeout(timer));
  }

  // --- the agent's side

  /** Sends what is pending. @returns the generation after it */
  async #push(
    roots: SyncedRoot[],
    { link, signal }: BarrierOptions,
    progress: Progress,
    unreadable: Map<string, string>,
    patience: AgentPatience,
  ): Promise<string> {
    let partials: ReadonlyMap<string, number> = new Map();
    const fresh = roots.filter((root) => !root.known && !root.refusal);
    if (this.#generation !== undefined && fresh.length > 0) {
      const opened = await this.#open(fresh, link, signal, progress, patience);
      partials = opened.partials;
      // Somebody else was there meanwhile: what is known of the others may be wrong.
      if (opened.generation !== this.#generation) this.#generation = undefined;
    }
    if (this.#generation === undefined) {
      const all = [...new Set([...roots, ...this.#roots.values()])];
      const opened = await this.#open(all, link, signal, progress, patience);
      partials = opened.partials;
      this.#generation = opened.generation;
    }
    const refusal = this.#roots.get(this.#workspace)!.refusal;
    if (refusal) throw new RbsError(refusal, { culprit: "caller" });
    const plans = roots.filter(({ tree, refusal }) => !refusal && tree.pending.size > 0)
      .map((root) => ({ root, plan: makePlan(root.tree) }));
    if (plans.length === 0) return this.#generation;

    progress.begin(plans.reduce((n, { plan }) => n + plan.files, 0), plans.reduce((n, { plan }) => n + plan.bytes, 0));
    const call = await ApplyCall.begin(link, signal);
    try {
      for (const { root, plan } of plans) {
        const { readOnly, tree: { path, single } } = root;
        await call.start({ generation: this.#generation, root: path, readOnly, single });
        await sendPlan(call, plan, {
          signal,
          progress,
          partials,
          onUnreadable: (path, error) => unreadable.set(path, sentence(error)),
        });
      }
      this.#generation = await call.finish();
    } catch (e) {
      call.cancel();
      throw e;
    }
    for (const { root } of plans) root.tree.settled();
    this.#changed = true;
    this.#saveSoon();
    return this.#generation;
  }

  /** Asks the agent what it has of some roots. What is pending of them is what it lacks. */
  async #open(
    roots: SyncedRoot[],
    link: WorkspaceLink,
    signal: AbortSignal,
    progress: Progress,
    patience: AgentPatience,
  ) {
    const compare = () => progress.look("comparing with the agent's files");
    // Who waits for a link that broke reads that until it is back.
    if (patience.lostMs === undefined) compare();
    const partials = new Map<string, number>();
    const comparisons: ManifestComparison[] = [];
    let entries = 0;
    const generation = await openRoots(link, roots.map(({ tree }) => tree.path), {
      root: (index, refusal) => {
        if (patience.lostMs !== undefined) compare();
        patience.answered({ resetWaits: false });
        roots[index].refusal = refusal || undefined;
        comparisons[index] = roots[index].tree.compare();
      },
      entry: (entry) => {
        comparisons.at(-1)?.entry(entry);
        if (++entries % 1000 === 0) progress.looked(entries);
      },
      partial: (digest, received) => partials.set(digest.toHex(), received),
    }, signal);
    for (const [index, root] of roots.entries()) {
      await comparisons[index].finish({ signal, onProgress: (n) => progress.looked(n) });
      root.known = !root.refusal;
    }
    this.#changed = true;
    this.#saveSoon();
    return { generation, partials };
  }

  /** Says once which files are missing at the agent. */
  #warn(unreadable: Map<string, string>, say: (line: string) => void): void {
    const fresh = [...unreadable.keys()].filter((path) => !this.#warned.has(path));
    if (fresh.length === 0) return;
    for (const path of fresh) this.#warned.add(path);
    const named = fresh.slice(0, NAMED_FILES).join(", ") + (fresh.length > NAMED_FILES ? ", …" : "");
    const what = fresh.length === 1 ? "1 file or folder" : `${fresh.length.toLocaleString("en-US")} files or folders`;
    say(`rbs: warning: ${what} cannot be read, and the agent does not have them: ${named}\n`);
  }

  // --- what is remembered

  #restore(): void {
    if (this.#restored) return;
    this.#restored = true;
    this.#removeLeftovers();
    const index = readIndex(localFiles, this.#indexFile);
    for (const { path, single, readOnly, entries } of index?.roots ?? []) {
      const root = this.#root(path, readOnly);
      if (root.tree.single !== single) continue;
      root.tree.restore(entries);
      root.known = index!.generation !== "";
    }
    this.#generation = index?.generation || undefined;
  }

  /** Indexes that somebody who was killed did not write to their end. */
  #removeLeftovers(): void {
    const folder = dirname(this.#indexFile), name = `${basename(this.#indexFile)}.`;
    try {
      for (const file of Deno.readDirSync(folder)) {
        if (file.name.startsWith(name)) Deno.removeSync(`${folder}/${file.name}`);
      }
    } catch { /* there is no folder yet */ }
  }

  #saveSoon(): void {
    clearTimeout(this.#saving);
    if (this.#closed) return;
    this.#saving = setTimeout(async () => {
      const pace = new Pace();
      try {
        for (const _ of this.#writing()) if (pace.due) await pace.rest();
      } catch (e) {
        this.#notSaved(e);
      }
    }, SAVE_AFTER_MS);
    this.#saving.unref();
  }

  #save(): void {
    clearTimeout(this.#saving);
    if (!this.#changed) return;
    try {
      for (const _ of this.#writing());
    } catch (e) {
      this.#notSaved(e);
    }
  }

  /** Entries are never changed, only replaced: they can be written while others work. */
  #writing(): Generator<void> {
    this.#changed = false;
    const roots = [...this.#roots.values()].filter(({ refusal, known }) => !refusal && known);
    const settled = roots.every(({ tree }) => tree.pending.size === 0);
    return writeIndex(localFiles, this.#indexFile, {
      generation: settled && this.#generation || "",
      roots: roots.map(({ tree, readOnly }) => ({
        path: tree.path,
        single: tree.single,
        readOnly,
        entries: [...tree.entries.values()],
      })),
    });
  }

  #notSaved(e: unknown): void {
    log(`${this.#indexFile} cannot be written: ${sentence(e)}`);
  }
}

/** Where a `.git` leads that is a file, as it stands there (gitrepository-layout(5)). */
function gitFolder(file: string): string | undefined {
  try {
    return /^gitdir: (.+)/.exec(Deno.readTextFileSync(file))?.[1];
  } catch {
    return undefined;
  }
}

/** What is at a path, or "" if nothing is. */
function placeOf(path: string): string {
  try {
    const { dev, ino } = Deno.statSync(path);
    return `${dev} ${ino}`;
  } catch {
    return "";
  }
}

function realPath(path: string): string | undefined {
  try {
    return Deno.realPathSync(path);
  } catch {
    return undefined;
  }
}

/** What tells the caller to look for the agent anew. */
const PASSED_ON = new Set<number>([
  Status.UNAVAILABLE,
  Status.FAILED_PRECONDITION,
  Status.UNAUTHENTICATED,
  Status.UNIMPLEMENTED,
]);
