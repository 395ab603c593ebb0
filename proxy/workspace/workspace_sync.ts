/**
 * Keeps the agent's copy of the developer's files up to date, with a barrier before each command: the command never
 * sees files older than the start of its barrier.
 *
 *     watcher ──hints, or doubt──> local trees ──pending──> Open (what has the agent?) ──> Apply ──> generation
 *
 * If the watcher is trusted and nothing has changed, no file is looked at and nothing is sent.
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

/** How long after a change the index is written for the next proxy, in milliseconds. */
const SAVE_AFTER_MS = 5_000;
/** Delay of a background look after events were lost, and of computing missing digests. Milliseconds. */
const LOOK_AFTER_MS = 1_000;
/** Maximum number of background looks between two barriers. */
const MAX_LOOKS = 3;
/**
 * Maximum number of rounds of a barrier: a round is repeated when the agent has another generation, or a large file
 * changed meanwhile.
 */
const MAX_ROUNDS = 5;
/**
 * Minimum time between the starts of two sweeps: no watcher reports writes through a live memory map, a new hard link
 * elsewhere, or a new mount. A sweep works for a slice, then rests for a multiple of that time. Commands do not wait
 * for it, and do not postpone it. Milliseconds.
 */
const SWEEP_MS = 2_000, SWEEP_SLICE_MS = 3, SWEEP_REST = 20;
/** Delay of the first sweep after a barrier: it runs during the command, which may use what it finds. Milliseconds. */
const FIRST_SWEEP_MS = 250;
/** Sweeps end this long after the last command. The next command then trusts no watcher. Milliseconds. */
const SWEEP_FOR_MS = 10 * 60_000;
/**
 * Maximum number of files with several hard links that are watched one by one; a watch takes 20 µs or more. Each
 * barrier looks at the others, which takes 5 µs each.
 */
const MAX_WATCHED_FILES = 4_000;
/** Number of unreadable files that a warning names. */
const NAMED_FILES = 3;

/** Options of {@link WorkspaceSync}. */
export interface WorkspaceSyncOptions {
  /** Absolute path. */
  workspace: string;
  /** Absolute path. State is kept in its directory `rbs`. */
  outputBase: string;
  /** Makes the watcher of mount points, see {@link MountWatch}. @default none: the sweep finds new mounts */
  watchMounts?(onChange: (path: string) => void): Pick<MountWatch, "start" | "close">;
  /** For tests. */
  watcher?: WatcherOptions;
  /** For tests: see {@link FIRST_SWEEP_MS}, {@link SWEEP_MS} and {@link SWEEP_FOR_MS}. */
  sweep?: { firstMs: number; everyMs: number; forMs: number };
}

/** One command's barrier. */
export interface BarrierOptions {
  link: WorkspaceLink;
  /** Shows a line, with its newline, to the user. */
  say(line: string): void;
  /** Aborted when the user interrupts the command. */
  signal: AbortSignal;
  /** Directories or files outside the workspace that the command uses. Absolute paths. */
  outside?: readonly { path: string; readOnly: boolean }[];
  /**
   * How long an unreachable agent is retried after it was last heard of, in milliseconds. If its port refuses
   * connections, the barrier gives up at once, or on the second refusal if this barrier has already reached the agent.
   *
   * @default 0: one attempt
   */
  patienceMs?: number;
  /**
   * Whether the agent still belongs to the session, as far as is known. Otherwise it is not retried. @default it does
   */
  isCurrent?(): boolean;
  /** {@link WorkspaceSync.look} has returned true since the client connected. @default false */
  looked?: boolean;
}

/** A tree that the agent has to have. */
interface SyncedRoot {
  readonly tree: LocalTree;
  readOnly: boolean;
  /** The agent's state is known: it was asked, or everything was sent. */
  known: boolean;
  /** Why the agent cannot have this root, as a sentence. */
  refusal?: string;
  /**
   * Identity of the directory at the path. It changes when a symlink on the way is retargeted or a parent is replaced.
   */
  place?: string;
}

/** A hold on files that a command may write, here and at the agent. Dispose of it when the command has ended. */
export interface HeldFiles extends Disposable {
  /**
   * Everything that the command has made is here.
   *
   * @param written The held files that it has written, as they are at the agent, with absolute paths.
   */
  arrived(written: Iterable<Entry>): void;
}

/** State of a file that commands may write. */
interface Held {
  commands: number;
  /** The file at the agent, as the last command whose outputs arrived left it. */
  came?: Entry;
  /** A command ended without its outputs arriving, so the file at the agent is unknown. */
  unknown: boolean;
}

/** The sync of one workspace with the session's agent. */
export class WorkspaceSync implements Disposable {
  readonly #workspace: string;
  readonly #outputBase: string;
  readonly #indexFile: string;
  readonly #watcher: FolderWatcher;
  readonly #mounts?: Pick<MountWatch, "start" | "close">;
  readonly #roots = new Map<string, SyncedRoot>();
  /** Files that commands may write, by absolute path. */
  readonly #held = new Map<string, Held>();
  #rules?: IgnoreRules;
  #generation?: string;
  /** Directories that were not watched when they were scanned. Absolute paths. */
  #unproven = new Set<string>();
  /** Everything was scanned, but the watcher has not been restarted since. */
  #unwatched = false;
  readonly #warned = new Set<string>();
  /** The roots of the last barrier that succeeded. */
  #lastRoots: readonly SyncedRoot[] = [];
  /** Number of background looks since the last barrier. */
  #looks = 0;
  /** Settles when the last caller in the queue has had its turn. */
  #turn: Promise<void> = Promise.resolve();
  #restored = false;
  #changed = false;
  #saving?: ReturnType<typeof setTimeout>;
  /** Aborts the background work of {@link #digestSoon}. */
  #digesting?: AbortController;
  #looking?: ReturnType<typeof setTimeout>;
  /** The rest of the current sweep, and its start. */
  #sweeping?: { steps: Generator<boolean, void>; began: number };
  #nextSweep?: { timer: ReturnType<typeof setTimeout>; at: number };
  /** A caller has the turn. */
  #busy = false;
  /** End of the last barrier, by performance.now(). */
  #lastBarrier = 0;
  /** Inodes of files with several hard links that were found changed. */
  readonly #changedInodes = new Set<number>();
  /** Files that were not watched when they were scanned. Absolute paths. */
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
   * Brings the agent up to date. Resolves with the generation that the command has to name.
   *
   * Throws an {@link RbsError} with a sentence for the user: interrupted, a bad .rbsignore, a workspace that the agent
   * cannot have, a full disk at the agent. Throws a {@link StatusError} where another agent may help: UNAVAILABLE once
   * patience has ended, FAILED_PRECONDITION (another epoch), UNAUTHENTICATED, UNIMPLEMENTED. The next barrier continues
   * where this one stopped.
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
   * Looks at what the last barrier looked at, if that is quick. Never rejects.
   *
   * @param signal Aborts the wait for the turn and the look.
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
      return false; // the barrier reports the error
    } finally {
      done();
    }
  }

  /** Changes whenever a symlink in this tree was found changed; then call {@link links} again. */
  linksVersion(root: string): number | undefined {
    return this.#roots.get(root)?.tree.linksVersion;
  }

  /**
   * A tree's symlinks as of the last look, and the `.git` files that lead to git's directory, except ignored ones.
   * Iterates over all files.
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

  /** Whether a path, relative to the workspace, is ignored. False if nothing is there. */
  staysHome(path: string): boolean {
    const info = lookAt(localFiles, this.#workspace, path);
    if (typeof info !== "object" || !this.#rules) return false;
    for (let slash = path.indexOf("/"); slash >= 0; slash = path.indexOf("/", slash + 1)) {
      if (this.#rules.skips(path.slice(0, slash), "directory")) return true;
    }
    return this.#rules.skips(path, info.kind, info.target);
  }

  /** Whether a path in the workspace is, as far as can be seen, what the agent was sent. @param path Absolute. */
  isAsSent(path: string): boolean {
    const { tree } = this.#roots.get(this.#workspace)!;
    return path.startsWith(`${tree.root}/`) && tree.isAsSent(path.slice(tree.root.length + 1));
  }

  /**
   * Leaves files out of the sync while a command may write them: if another command's barrier replaced such a file, the
   * server would write to the old one.
   *
   * @param paths Absolute.
   */
  hold(paths: Iterable<string>): HeldFiles {
    const names = new Map([...paths].map((path) => [path, this.#namesOf(path)]));
    // The same file may be named twice.
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
        // Files that arrive after this count as the developer's own changes.
        names.clear();
        // While a barrier or a look runs, the set of held files must not change.
        if (!this.#busy) this.#releaseAll();
      },
    };
  }

  /** All names by which the trees may know a file: roots may lie behind symlinks. */
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

  /** Ends the hold on files that no command writes any longer. */
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
      // A file that no command has written is still the developer's.
      if (!came && !unknown) tree.hint(path, true);
      else tree.release(below, unknown ? undefined : came);
    }
    if (!came && !unknown) return;
    this.#changed = true;
    this.#saveSoon();
  }

  /**
   * Drops the generation, after the agent refused it or its files changed. The next barrier asks what the agent has.
   */
  forget(): void {
    this.#generation = undefined;
  }

  /** Writes the index for the next proxy, and stops watching. */
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

  /**
   * Waits until no other barrier or look runs.
   * @returns ends the turn
   */
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
    // A watcher gets an event for each file that is read. So all files are read before anything is watched, and a
    // background look proves afterwards that nothing was missed.
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
        // A part of it may have been applied; only the agent knows.
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
   * Sends the workspace while it is scanned, to an agent that has nothing of it. What could not be sent as found is
   * pending afterwards.
   * @returns false if the agent already has something
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
    } catch { /* it is gone: the tree is empty, and of the same kind as before */ }
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

  /** The roots of a command. A path in another root or in the output base needs no root of its own. */
  #choose(outside: readonly { path: string; readOnly: boolean }[]): SyncedRoot[] {
    const within = (path: string, root: string) => path === root || path.startsWith(`${root}/`);
    const chosen = [this.#root(this.#workspace, false)];
    for (const { path, readOnly } of [...outside].sort((a, b) => a.path.length - b.path.length)) {
      if (within(path, this.#outputBase)) continue;
      if (!chosen.some(({ tree }) => within(path, tree.path))) chosen.push(this.#root(path, readOnly));
    }
    return chosen;
  }

  /** Checks that the workspace exists, and loads its ignore rules. */
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
   * @param watching When to restart the watcher, if that is necessary. Until then, each look is a full scan.
   * @param finder Receives what is found in the workspace.
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
    // After lost events the barrier does not wait for thousands of late ones: a full scan proves the present state.
    const watch = watching === "first" || (watching !== "later" && !this.#watcher.isLossy);
    if (hints) {
      for (const { tree } of this.#roots.values()) {
        for (const path of hints.changed) tree.hint(path, hints.replaced.has(path));
        for (const folder of this.#unproven) tree.hint(folder, true);
      }
    } else {
      for (const { tree } of this.#roots.values()) tree.distrust();
      // Watching starts before the scan, so that a change behind the scan is noticed the next time.
      if (watch) {
        const trees = [...this.#roots.values()].map(({ tree }) => tree);
        await this.#watcher.restart([
          ...trees.flatMap((tree) => [...tree.folders()]),
          ...trees.flatMap((tree) => [...tree.shared()]).slice(0, MAX_WATCHED_FILES),
        ]);
      }
    }
    // The trees have these hints now.
    this.#unproven = new Set();
    this.#unwatched = !watch;
    options.signal?.throwIfAborted();
    const isWatched = (path: string) => this.#watcher.watches(path) && !this.#unprovenFiles.has(path);
    const look = async (tree: LocalTree) => {
      const before = tree.pending.size;
      try {
        await tree.refresh({ ...options, finder: tree === workspace ? finder : undefined, isWatched });
      } finally {
        // Also after an interrupted look: the next look does not report these as new.
        for (const folder of tree.takeFolders()) if (!this.#watcher.watches(folder)) this.#unproven.add(folder);
        for (const inode of tree.takeChangedInodes()) this.#changedInodes.add(inode);
        if (tree.pending.size > before) this.#changed = true;
      }
    };
    for (const { tree } of roots) await look(tree);
    // An event names only one of a file's hard links. The others have changed with it.
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

  /** Schedules a background sweep. Sweeps repeat as long as there are commands. */
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

  /** Sweeps for one slice, over all trees: the next command may use any of them. */
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

  /** Handles a mount or unmount at a path. */
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

  /** Schedules a background look, so that the next barrier need not wait for it. */
  #lookSoon(afterMs: number): void {
    // A program that writes all the time must not cause looks all the time.
    if (this.#closed || this.#generation === undefined || ++this.#looks > MAX_LOOKS) return;
    clearTimeout(this.#looking);
    this.#looking = setTimeout(async () => {
      const done = await this.#myTurn(new AbortController().signal).catch(() => undefined);
      if (!done) return;
      try {
        await this.#refresh([...this.#roots.values()], {});
      } catch {
        /* the next barrier reports the error */
      } finally {
        done();
      }
    }, afterMs);
    this.#looking.unref();
  }

  /** Computes missing digests in the background; a comparison with an agent needs them. */
  #digestSoon(): void {
    const trees = [...this.#roots.values()].map(({ tree }) => tree).filter(({ undigested }) => undigested > 0);
    if (trees.length === 0 || this.#closed) return;
    const digesting = this.#digesting = new AbortController();
    const timer = setTimeout(async () => {
      try {
        for (const tree of trees) await tree.digestAll(digesting.signal);
        this.#changed = true;
        this.#saveSoon();
      } catch { /* a barrier began; it schedules this again */ }
    }, LOOK_AFTER_MS);
    timer.unref();
    digesting.signal.addEventListener("abort", () => clearTimeout(timer));
  }

  // --- the agent's side

  /**
   * Sends what is pending.
   * @returns the new generation
   */
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
      // The copy changed in between, so what is known of the other roots may be wrong.
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

  /** Asks the agent what it has of these roots. Then `pending` is what the agent lacks. */
  async #open(
    roots: SyncedRoot[],
    link: WorkspaceLink,
    signal: AbortSignal,
    progress: Progress,
    patience: AgentPatience,
  ) {
    const compare = () => progress.look("comparing with the agent's files");
    // While the connection is lost, the line that says so stays until the agent answers.
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

  /** Warns once about each file that the agent lacks. */
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

  /** Removes unfinished index files of proxies that were killed. */
  #removeLeftovers(): void {
    const folder = dirname(this.#indexFile), name = `${basename(this.#indexFile)}.`;
    try {
      for (const file of Deno.readDirSync(folder)) {
        if (file.name.startsWith(name)) Deno.removeSync(`${folder}/${file.name}`);
      }
    } catch { /* the directory does not exist yet */ }
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

  /** Entries are never changed, only replaced, so they can be written while others work. */
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

/** The target in a `.git` file, as written there (gitrepository-layout(5)). */
function gitFolder(file: string): string | undefined {
  try {
    return /^gitdir: (.+)/.exec(Deno.readTextFileSync(file))?.[1];
  } catch {
    return undefined;
  }
}

/** The identity of what is at a path; "" if nothing is. */
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

/** Errors after which the caller asks for the agent again. */
const PASSED_ON = new Set<number>([
  Status.UNAVAILABLE,
  Status.FAILED_PRECONDITION,
  Status.UNAUTHENTICATED,
  Status.UNIMPLEMENTED,
]);
