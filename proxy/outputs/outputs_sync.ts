/**
 * Copies back what a command has made: compares the manifest with what is here, fetches what is missing, and puts it in
 * place.
 *
 *     manifest ──checked──> compared ──missing──> fetched ──> <output base>/rbs/staging ──renamed──> in place
 *                              └─ a stat per entry, if nothing was touched
 */
import { Buffer } from "node:buffer";
import { basename, dirname, join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { unref } from "../../proto/base/timers.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { isDiskFull, RbsError, sentence } from "../../proto/base/errors.ts";
import { type HomeOutputs, HomeOutputsSchema } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { WireError } from "../../proto/base/protobuf_fields.ts";
import { Looks } from "../../proto/tree/stat_snapshot.ts";
import type { TreeRecord } from "../../proto/tree/batch.ts";
import { type Entry, sameDigest } from "../../proto/tree/entry.ts";
import { encodeName, isRaw, parent, TreeError } from "../../proto/tree/names.ts";
import type { RawInfo } from "../../proto/tree/files.ts";
import { localFiles } from "../../proto/tree/local_files.ts";
import { lstatMany, readdirSync } from "../../proto/tree/file_calls.ts";
import { digestFile, digestLarge, PIECE_BYTES } from "../../proto/tree/read.ts";
import { TreeWriter } from "../../proto/tree/writer.ts";
import { isWholeOutput } from "../../proto/bazel/whole_output.ts";
import type { AgentLink } from "../session/session.ts";
import { Progress } from "../workspace/progress.ts";
import { AllowedPaths, KEPT_NAMES, refusal, shown, unwritable } from "./allowed_paths.ts";
import { fetchFiles } from "./fetch.ts";
import { HomeIndex } from "./outputs_index.ts";
import { LocalTree, lookAt, readLink, removeTree } from "./output_folders.ts";
import { findOutputs } from "./found_outputs.ts";
import { makeExpectedNames } from "./expected_names.ts";
import { agentOutputs, OURS, takeOver } from "./server_state.ts";
import { replaceFile } from "./replace_file.ts";
import { type SourcePlaces, SourcesHome } from "./sources_home.ts";
import { WholeFiles } from "./parallel_writes.ts";
import { type Manifest, type Output, readManifest } from "./manifest.ts";

/** How long checked directories stay trusted while files arrive, in milliseconds. */
const DOUBT_MS = 50;
/** With more outputs, no snapshot is kept, and each command compares them all. */
const MAX_LOOKS = 10_000;
/** Delay before outputs are checked for the next command, which is then on its way to the agent. Milliseconds. */
const EXPECT_AFTER_MS = 5;
/** Maximum number of earlier outputs that are kept. */
const MAX_HOME = 300_000;
/** Larger files are digested in pieces, with other work between them. Bytes. */
const LARGE_BYTES = 16 << 20;

/** Options of {@link OutputsHome.take}. */
export interface TakeOptions {
  /** Connection to the agent. */
  link: Pick<AgentLink, "connection" | "headers">;
  /** Absolute paths of files that the command's flags name. */
  namedFiles?: Iterable<string>;
  /** Those of the named files without which the command succeeds. */
  secondaryFiles?: ReadonlySet<string>;
  /** Those of the named files that are pipes or devices; they were written while the command ran. */
  streams?: ReadonlySet<string>;
  /** The command's `--symlink_prefix`. @default "bazel-" */
  symlinkPrefix?: string;
  /** The command is `clean`. No other command may claim to have removed the outputs. @default false */
  cleans?: boolean;
  /** The command removes the convenience symlinks (`cleansSymlinks`). @default false */
  cleansSymlinks?: boolean;
  /** The command leaves the convenience symlinks alone. @default false */
  leavesSymlinks?: boolean;
  /** Where the command may write sources. @default nowhere */
  sources?: SourcePlaces & {
    /** Whether an absolute path is in the state that the agent had before the command. */
    asSent(path: string): boolean;
    /** Called when the command has written or removed sources: the agent's copy differs from what it was sent. */
    onWritten(): void;
  };
  /** Shows a line (with its newline) to the user. */
  say(line: string): void;
  /** Aborts the transfer. What has arrived stays; no incomplete file does. */
  signal: AbortSignal;
  /** Whether the agent still belongs to the session, as far as is known. If not, it is not retried. */
  isCurrent?(): boolean;
  /** The result of {@link OutputsHome.tell} for this command. */
  told?: Told;
  /** {@link OutputsHome.known} when this command was sent. The agent may refer to it. */
  known?: KnownManifest;
  /** The user pressed Ctrl-C: content may not arrive, so what it replaces is removed first. */
  interrupted?: boolean;
  /** The command wants all outputs: then a directory in the manifest is not by itself an output. */
  all?: boolean;
  /** Called when everything is here, with the named files that the command has written. Absolute paths. */
  onArrived?(named: readonly Entry[]): void;
}

/** What the agent is told with a command about the outputs here. */
export interface Told {
  /** Outputs of earlier commands that are here; undefined if the agent knows them. */
  home?: HomeOutputs;
}

/** A manifest that the agent may refer to by its id. */
export type KnownManifest = Readonly<Manifest>;

/** Files and bytes received from the agent. */
export interface Transferred {
  files: number;
  bytes: number;
}

/** A file that is missing here. */
interface Missing {
  readonly entry: Entry;
  /** Where it is written first, relative to the output base. */
  readonly path: string;
  /** The developer named it: it is moved on to its own path. */
  readonly named: boolean;
  /** It is one of the developer's sources, and is moved on to its own path. */
  readonly source?: boolean;
}

/** The difference between the manifest and what is here. Paths are relative to the output base. */
interface Difference {
  files: Missing[];
  /** Missing directories and symlinks, and directories with a wrong mode. */
  others: Entry[];
  /** Files that match. */
  here: { path: string; entry: Entry }[];
  /** Whether there is anything to do. */
  changed: boolean;
}

/** The outputs of one workspace on this machine. */
export class OutputsHome {
  readonly #outputBase: string;
  readonly #workspace: string;
  /** The output base no longer holds a local server's outputs. */
  #isOurs = false;
  #index?: HomeIndex;
  #manifest?: Manifest;
  /** A manifest all of whose outputs were here, with the command's symlink prefix and a snapshot of their stats. */
  #settled?: { manifest: Manifest; symlinkPrefix?: string; looks: Looks };
  /** Whether that snapshot still matched, as {@link expect} has found. */
  #expected?: { settled: object; same: boolean };
  #expecting?: ReturnType<typeof setTimeout>;
  /** The agent that knows what is here, and those of its commands whose outputs have not arrived yet. */
  #informed?: { link: TakeOptions["link"]; open: Set<Told> };
  #turn: Promise<unknown> = Promise.resolve();

  /** @param options Absolute paths without "." or "..". The output base must exist. */
  constructor(options: { outputBase: string; workspace: string }) {
    this.#outputBase = options.outputBase;
    this.#workspace = options.workspace;
  }

  /** The last manifest. The agent may say by its id that nothing has changed. */
  get known(): KnownManifest | undefined {
    return this.#manifest;
  }

  /**
   * Whether an absolute path is an output of the last manifest, contains one, or leads through a symlink that is one.
   */
  isHome(path: string): boolean {
    if (this.#manifest?.has(path)) return true;
    for (let folder = dirname(path); folder.length > this.#outputBase.length; folder = dirname(folder)) {
      if (this.#manifest?.has(folder)) return readLink(folder) !== undefined;
    }
    return false;
  }

  /**
   * What the agent must be told about the outputs here, with a command that may change outputs. The agent knows what it
   * has sent; {@link take} finds out whether all of it has arrived.
   */
  tell(link: TakeOptions["link"]): Promise<Told> {
    return this.#inTurn(async () => {
      const told: Told = {};
      if (this.#informed?.link !== link || this.#informed.open.size > 0) {
        told.home = await this.#list();
        // The outputs of other running commands may not arrive.
        const open = this.#informed?.link === link ? this.#informed.open : new Set<Told>();
        this.#informed = { link, open };
      }
      this.#informed.open.add(told);
      return told;
    });
  }

  /**
   * Makes the next command tell the agent everything that is here. Call it after a command that was sent and whose
   * outputs {@link take} did not get. Not needed after a failed take.
   */
  forgetTold(): void {
    this.#informed = undefined;
  }

  /**
   * The outputs of earlier commands that are here. Removes what exceeds the limit, since it would become stale
   * unnoticed.
   */
  async #list(): Promise<HomeOutputs> {
    const folder = agentOutputs(this.#outputBase);
    const index = await this.#knownIndex();
    const trees = [...index.trees], leaves = [...index.leaves()];
    for (const path of leaves.splice(Math.max(0, MAX_HOME - trees.length))) {
      if (folder !== undefined) await new LocalTree(folder).remove(path);
      index.delete(path);
    }
    index.save();
    return create(HomeOutputsSchema, { leaves: leaves.map(encodeName), trees: trees.map(encodeName) });
  }

  /**
   * Call it when a command was sent. While the command runs, checks whether the outputs of the last one are still here.
   * What is removed later is noticed at the next command, as with a Bazel server and its files.
   */
  expect(): void {
    this.#expected = undefined;
    clearTimeout(this.#expecting);
    this.#expecting = setTimeout(() => {
      const settled = this.#settled;
      if (settled) this.#expected = { settled, same: settled.looks.same };
    }, EXPECT_AFTER_MS);
    unref(this.#expecting);
  }

  /**
   * Brings this machine up to date with what a command has made. Resolves with what was transferred. Throws an RbsError
   * with an exit code: 37 if the agent is lost or sends what it must not, 36 for this machine (a full disk), 8 when the
   * signal was aborted. What was fetched until then stays.
   *
   * @param parts Encoded Outputs messages.
   */
  take(
    parts: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    options: TakeOptions,
  ): Promise<Transferred> {
    return this.#inTurn(async () => {
      try {
        const named: Entry[] = [];
        const transferred = await this.#take(parts, options, named);
        options.onArrived?.(named);
        // The agent was told less than is here now, or another agent was told.
        if (options.told && !this.#informed?.open.delete(options.told)) this.forgetTold();
        return transferred;
      } catch (e) {
        this.forgetTold();
        throw this.#explain(e, options.signal);
      } finally {
        this.#index?.save();
      }
    });
  }

  /** Makes the output base look like one that a server has started in. Throws an RbsError. */
  own(): Promise<void> {
    return this.#inTurn(() => this.#own(false).catch((e) => Promise.reject(this.#explain(e))));
  }

  async #own(cleaned: boolean): Promise<void> {
    if (!this.#isOurs) await takeOver(this.#outputBase);
    if (!this.#isOurs || cleaned) makeExpectedNames(this.#outputBase, this.#workspace);
    this.#isOurs = true;
  }

  /** Empties the output base like `clean --expunge`, except for what the client and its server need. */
  expunge(options: Pick<TakeOptions, "symlinkPrefix" | "leavesSymlinks" | "say">): Promise<void> {
    return this.#inTurn(async () => {
      this.#manifest = undefined;
      this.forgetTold();
      const allowed = new AllowedPaths({ ...options, outputBase: this.#outputBase, workspace: this.#workspace });
      for (const path of allowed.convenienceSymlinks) {
        this.#removeSymlink(path, allowed, options.say);
      }
      this.#index = undefined;
      this.#isOurs = false;
      const kept = KEPT_NAMES.filter((name) => name !== OURS && name !== "action_cache");
      try {
        for (const name of readdirSync(this.#outputBase)) {
          if (!kept.includes(name)) await removeTree(`${this.#outputBase}/${name}`);
        }
      } catch (e) {
        throw this.#explain(e);
      }
    });
  }

  /** Runs work in order: each starts from what the previous has left. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  /** @param named Receives the named files that the command has written. */
  async #take(
    parts: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    options: TakeOptions,
    named: Entry[],
  ): Promise<Transferred> {
    const { signal, say } = options;
    signal.throwIfAborted();
    const began = Date.now();
    const allowed = new AllowedPaths({ ...options, outputBase: this.#outputBase, workspace: this.#workspace });
    const sources = new SourcesHome(
      { outputBase: this.#outputBase, workspace: this.#workspace },
      options.sources ?? { files: [], folders: [] },
      (path) => options.sources?.asSent(path) ?? false,
    );
    const isSource = (path: string) => sources.allows(path);
    let manifest = await readManifest(parts, allowed, signal, { isSource });
    const { cleaned, home, gone, has, sources: written, sourcesGone } = manifest;
    Object.assign(manifest, { home: [], gone: [], sources: [], sourcesGone: [] });
    if (cleaned && !options.cleans) throw refusal("a list of outputs", "is said to be that of a `clean`");
    const writesSources = written.length + sourcesGone.length > 0;
    for (const warning of manifest.warnings) say(`rbs: warning: ${warning}\n`);
    if (manifest.unchanged) {
      // `known` may differ from this.#manifest: another command may have ended in between.
      const { known } = options;
      if (!known || !sameDigest(manifest.id, known.id)) {
        throw refusal("a list of outputs", "is said to be one that was not sent");
      }
      const isSettled = this.#isSettled(known, options);
      if (isSettled && home.length + gone.length === 0 && !writesSources) {
        this.#manifest = known;
        return { files: 0, bytes: 0 };
      }
      // This command may name other files.
      const outputs = known.outputs.map(({ entry }) => ({ entry, place: allowed.place(entry) }));
      manifest = { ...known, outputs };
    }
    for (const { entry, place } of manifest.outputs) if (place.where === "named file") named.push(entry);
    const isNamed = (path: string) => manifest.has(path) || has(path);
    // A command without any outputs sends no manifest.
    if (manifest.id.length > 0) this.#manifest = manifest;
    await this.#own(cleaned);
    const index = await this.#knownIndex();
    if (cleaned) await this.#clean(index);

    // Symlinks come first: a named file may lead through one.
    this.#makeSymlinks(manifest, allowed, options, cleaned);
    const tree = new LocalTree(this.#outputBase);
    try {
      await this.#removeGone(gone, tree, index);
      const outputs = [...manifest.outputs, ...home].filter(({ entry: { path } }) => !options.streams?.has(path));
      const difference = await this.#compare({ outputs, has: isNamed }, allowed, tree, index, signal);
      this.#note(outputs, index, options);
      if (writesSources) {
        options.sources!.onWritten();
        sources.remove(sourcesGone);
        await this.#compareSources(written, sources, difference);
      }
      if (!difference.changed) {
        setTimeout(() => this.#settle(manifest, options, began), 0);
        return { files: 0, bytes: 0 };
      }
      return await this.#bring(difference, allowed, tree, index, options, sources);
    } finally {
      for (const warning of sources.warnings) say(`rbs: warning: ${warning}\n`);
      tree.finish();
    }
  }

  /** Removes outputs of earlier commands that no longer exist at the agent. */
  async #removeGone(gone: readonly string[], tree: LocalTree, index: HomeIndex): Promise<void> {
    for (const path of gone) {
      const below = path.slice(this.#outputBase.length + 1);
      // The agent may remove nothing else.
      if (!path.startsWith(`${this.#outputBase}/`) || !index.has(below)) continue;
      index.begin();
      await tree.remove(below);
      index.delete(below);
    }
  }

  /** Adds directories and symlinks to the index. Files are added when they arrive. */
  #note(outputs: readonly Output[], index: HomeIndex, { all }: TakeOptions): void {
    for (const { entry: { kind }, place } of outputs) {
      if (place.where !== "output base" || kind === "file") continue;
      if (kind === "symlink") index.add(place.path, "leaf");
      else if (isWholeOutput(place.path) && !(all && isInPackage(place.path))) index.add(place.path, "tree");
    }
  }

  /** Whether all outputs of a manifest were here, and none has changed since. */
  #isSettled(manifest: Manifest, { namedFiles, symlinkPrefix, cleansSymlinks }: TakeOptions): boolean {
    if (cleansSymlinks) return false;
    const settled = this.#settled, expected = this.#expected;
    this.#expected = undefined;
    // A manifest whose outputs got new places is another object.
    return settled !== undefined && settled.manifest === manifest && settled.symlinkPrefix === symlinkPrefix &&
      isEmpty(namedFiles) && (expected?.settled === settled ? expected.same : settled.looks.same);
  }

  /**
   * Takes a snapshot of a manifest all of whose outputs were here, for the next command. The comparison began at
   * `began`.
   */
  #settle(manifest: Manifest, { namedFiles, symlinkPrefix }: TakeOptions, began: number): void {
    this.#settled = undefined;
    if (manifest !== this.#manifest || manifest.outputs.length > MAX_LOOKS || !isEmpty(namedFiles)) return;
    const looks = new Looks(localFiles, 2 * MAX_LOOKS, began);
    const folders = new Set<string>();
    for (const { place, entry } of manifest.outputs) {
      if (place.where === "named file" || isRaw(entry.path)) return;
      const path = place.where === "output base" ? join(this.#outputBase, place.path) : place.path;
      // The symlink could not be made, or an output has already changed.
      if (looks.look(path)?.kind !== entry.kind) return;
      if (place.where === "convenience symlink" && readLink(path) !== entry.target) return;
      if (entry.kind === "directory" && place.where === "output base" && isWholeOutput(place.path)) looks.list(path);
      for (let folder = dirname(path); !folders.has(folder) && folder !== this.#outputBase; folder = dirname(folder)) {
        if (folder.length <= 1) break;
        folders.add(folder);
        looks.look(folder);
      }
    }
    if (looks.steady) this.#settled = { manifest, symlinkPrefix, looks };
  }

  #openIndex(): HomeIndex {
    return this.#index ??= new HomeIndex(join(this.#outputBase, OURS, "outputs.index"));
  }

  /** The index, after a search if it was lost. */
  async #knownIndex(): Promise<HomeIndex> {
    const index = this.#openIndex();
    if (!index.lost) return index;
    const folder = agentOutputs(this.#outputBase);
    const found = folder === undefined ? { leaves: [], trees: [] } : await findOutputs(folder);
    for (const path of found.leaves) index.add(path, "leaf");
    for (const path of found.trees) index.add(path, "tree");
    index.found();
    return index;
  }

  /**
   * Looks at each output once. Removes what is in the way of an output, and what does not belong into a whole
   * directory.
   */
  async #compare(
    manifest: Pick<Manifest, "outputs" | "has">,
    allowed: AllowedPaths,
    tree: LocalTree,
    index: HomeIndex,
    signal: AbortSignal,
  ): Promise<Difference> {
    const difference: Difference = { files: [], others: [], here: [], changed: false };
    const folders: string[] = [];
    const pace = new Pace(signal);
    const rawNames = this.#lookAtRawNames(manifest.outputs, tree);
    for (const { entry, place } of manifest.outputs) {
      if (pace.due) await pace.rest();
      if (place.where === "convenience symlink") continue;
      if (place.where === "named file") {
        const path = this.#resolved(allowed, entry.path);
        const info = path === undefined ? undefined : lookAt(path);
        const mode = info && info.mode & 0o777 | entry.mode;
        if (info && await isHome(index, entry.path, { ...entry, mode: mode! }, path!, info)) continue;
        difference.files.push({ entry, path: `${OURS}/named-${difference.files.length}`, named: true });
        continue;
      }
      const { path } = place;
      if (entry.kind === "symlink" && !isRaw(path) && tree.readLink(path) === entry.target) continue;
      const info = isRaw(path) ? rawNames.get(tree.join(path)) : tree.look(path);
      if (entry.kind === "file") {
        const home = info &&
          (isKnown(index, path, entry, info) || await isHome(index, path, entry, tree.join(path), info));
        if (home) difference.here.push({ path, entry });
        else difference.files.push({ entry, path, named: false });
        if (home) continue;
      } else if (entry.kind === "symlink") {
        if (info?.target === entry.target) continue; // The name may not be UTF-8.
        difference.others.push({ ...entry, path });
      } else {
        const isFolder = info?.kind === "directory";
        if (isFolder && isWholeOutput(path)) folders.push(path);
        if (isFolder && (info.mode & 0o7777) === entry.mode) continue;
        difference.others.push({ ...entry, path });
        continue;
      }
      if (info?.kind === "directory") await tree.remove(path);
    }
    for (const folder of folders) {
      for (const name of tree.list(folder)) {
        if (pace.due) await pace.rest();
        if (manifest.has(`${this.#outputBase}/${folder}/${name}`)) continue;
        await tree.remove(`${folder}/${name}`);
        index.delete(`${folder}/${name}`);
        difference.changed = true;
      }
    }
    difference.changed ||= difference.files.length + difference.others.length > 0;
    return difference;
  }

  /** Compares the sources that the command has written. Directories and symlinks are put in place at once. */
  async #compareSources(written: readonly Entry[], sources: SourcesHome, difference: Difference): Promise<void> {
    for (const entry of written) {
      const info = entry.kind === "file" ? lookAt(entry.path) : undefined;
      if (info && await hasContent(entry.path, info, entry)) continue;
      if (!sources.wants(entry)) continue;
      if (entry.kind !== "file") sources.place(entry);
      else {
        const path = `${OURS}/named-${difference.files.length}`;
        difference.files.push({ entry, path, named: true, source: true });
        difference.changed = true;
      }
    }
  }

  /** Stats all names that are not UTF-8 in one call, since starting a program takes milliseconds. */
  #lookAtRawNames(outputs: readonly Output[], tree: LocalTree): Map<string, RawInfo> {
    const paths = outputs.filter(({ place, entry }) => place.where === "output base" && isRaw(entry.path))
      .map(({ place }) => place.path);
    return lstatMany(paths.filter((path) => tree.isFolder(parent(path))).map((path) => tree.join(path)));
  }

  /** Makes, fetches and copies what is missing. */
  async #bring(
    { files, others, here }: Difference,
    allowed: AllowedPaths,
    tree: LocalTree,
    index: HomeIndex,
    { link, signal, say, isCurrent, interrupted, secondaryFiles, sources: places }: TakeOptions,
    sources: SourcesHome,
  ): Promise<Transferred> {
    const transferred: Transferred = { files: 0, bytes: 0 };
    index.begin();
    if (interrupted) {
      for (const { path, named } of files) {
        if (named) continue;
        await tree.remove(path);
        index.delete(path);
      }
    }
    const progress = new Progress(say, performance, { doing: "bringing home", done: "brought home" });
    const pace = new Pace(signal);
    const staging = tree.join(`${OURS}/staging`);
    using writer = disposable(new TreeWriter({ files: localFiles, root: this.#outputBase, staging, signal }));
    const note = ({ path, entry, named }: Missing) => {
      if (!named) index.set(path, entry.digest!, lookAt(tree.join(path))!);
    };
    const whole = new WholeFiles<Missing>(async (file, content) => {
      tree.makeFolder(parent(file.path));
      await writer.place({ ...file.entry, path: file.path }, content);
      note(file);
    });
    const write = (
      { path, entry, named }: Missing,
      record: TreeRecord,
      first = true,
    ): Promise<void> | undefined => {
      if (first) tree.makeFolder(parent(path));
      const long = writer.apply({ ...record, entry: first ? { ...entry, path } : undefined });
      const done = () => record.more || note({ path, entry, named });
      if (long) return long.then(() => void done());
      done();
    };
    let doubted = performance.now();
    const rest = async () => {
      await pace.rest();
      // Other work ran in the meantime.
      writer.doubt();
    };

    for (const entry of others) {
      if (pace.due) await rest();
      tree.makeFolder(entry.kind === "directory" ? entry.path : parent(entry.path));
      if (entry.kind === "directory") tree.setMode(entry.path, entry.mode);
      else void writer.apply({ entry });
    }
    const contents = groupByDigest(files, here);
    const fetched = mixed(
      contents.filter(({ source, wanted: [{ entry }] }) => source === undefined && entry.size > 0)
        .map(({ wanted }) => wanted[0]),
    );
    progress.begin(fetched.length, fetched.reduce((sum, { entry }) => sum + entry.size, 0));
    await fetchFiles(fetched, {
      link,
      signal,
      isCurrent,
      note: (text) => progress.note(text),
      received() {
        // Stores what was cut off, so that it is listed below.
        writer.close();
        const partial = new Map(writer.partials().map((p) => [hex(p.digest), p.received]));
        return (file) => partial.get(hex(file.entry.digest!)) ?? 0;
      },
      onMessage() {
        // In that time only this user's own programs could put a symlink there.
        if (performance.now() - doubted < DOUBT_MS) return;
        writer.doubt();
        doubted = performance.now();
      },
      take(file, part, keep) {
        const { content, more } = part;
        const long = whole.wants(part) ? whole.add(file, content, keep()) : write(file, part, part.first);
        const count = () => {
          const isLast = more ? 0 : 1;
          transferred.files += isLast;
          transferred.bytes += content.length;
          progress.sent(isLast, content.length);
        };
        if (long) return long.then(count);
        count();
      },
    }).finally(() => whole.settled());
    await whole.finish();
    for (const { source, wanted: [first, ...more] } of contents) {
      if (source !== undefined) more.unshift(first);
      else if (first.entry.size === 0) void write(first, {});
      for (const file of more) {
        if (pace.due) await rest();
        const long = write(file, { copyFrom: source ?? first.path });
        if (long) await long;
      }
    }
    let failure: unknown;
    for (const { entry, path, named, source } of files) {
      if (!named) continue;
      if (source) {
        sources.place(entry, tree.join(path));
        continue;
      }
      // The command began before the developer changed the file.
      if (entry.path === join(this.#workspace, "MODULE.bazel.lock") && places?.asSent(entry.path) === false) {
        say(
          `rbs: warning: The command has written ${entry.path}, which you have changed meanwhile: your version stays.\n`,
        );
        continue;
      }
      try {
        index.set(entry.path, entry.digest!, lookAt(this.#moveNamed(path, entry, allowed, tree))!);
      } catch (e) {
        const { path } = entry;
        const isSecondary = secondaryFiles?.has(path) || path === join(this.#workspace, "MODULE.bazel.lock");
        if (isSecondary) say(`rbs: warning: ${sentence(e)}\n`);
        else failure ??= e;
      }
    }
    if (failure) throw failure;
    // Leftovers of earlier commands are no longer needed.
    await removeTree(staging);
    progress.finish();
    return transferred;
  }

  /** The real path of a file that the developer named; undefined if it cannot be written there. */
  #resolved(allowed: AllowedPaths, named: string): string | undefined {
    try {
      const { where, path } = allowed.resolveNamed(named);
      return where === "output base" ? join(this.#outputBase, path) : path;
    } catch {
      return undefined;
    }
  }

  /**
   * Moves a file that has arrived to the path that the developer named.
   * @returns the path after all symlinks
   */
  #moveNamed(from: string, entry: Entry, allowed: AllowedPaths, tree: LocalTree): string {
    const target = allowed.resolveNamed(entry.path);
    const to = target.where === "output base" ? tree.join(target.path) : target.path;
    try {
      if (target.where === "output base") tree.makeFolder(parent(target.path));
      else Deno.mkdirSync(dirname(to), { recursive: true });
      const before = lookAt(to);
      Deno.chmodSync(tree.join(from), entry.mode | (before?.kind === "file" ? before.mode & 0o777 : 0));
      replaceFile(tree.join(from), to);
    } catch (e) {
      if (isDiskFull(e) || e instanceof RbsError) throw e;
      throw unwritable(entry.path, sentence(e), e);
    }
    return to;
  }

  /**
   * Makes the convenience symlinks, and removes those that the command would no longer make. As in Bazel, one that
   * cannot be made is not an error.
   */
  #makeSymlinks(
    manifest: Manifest,
    allowed: AllowedPaths,
    { say, cleansSymlinks }: TakeOptions,
    cleaned: boolean,
  ): void {
    const wanted = new Set<string>();
    for (const { place, entry } of manifest.outputs) {
      if (place.where !== "convenience symlink") continue;
      const { path } = place;
      wanted.add(path);
      if (readLink(path) === entry.target) continue;
      const obstacle = allowed.obstacle(path) ?? attempt(() => {
        Deno.mkdirSync(dirname(path), { recursive: true });
        if (lookAt(path)) Deno.removeSync(path);
        Deno.symlinkSync(entry.target!, path);
      });
      if (obstacle !== undefined) say(`rbs: warning: the symlink ${shown(path)} was not made: ${obstacle}.\n`);
    }
    const sweeps = cleaned || cleansSymlinks;
    // Commands that build nothing name none.
    if (wanted.size === 0 && !sweeps) return;
    for (const path of allowed.convenienceSymlinks) {
      if (!wanted.has(path)) this.#removeSymlink(path, allowed, say);
    }
  }

  #removeSymlink(path: string, allowed: AllowedPaths, say: (line: string) => void): void {
    if (allowed.removes(path)) {
      const obstacle = attempt(() => Deno.removeSync(path));
      if (obstacle !== undefined) say(`rbs: warning: the symlink ${shown(path)} was not removed: ${obstacle}.\n`);
    }
  }

  /** Empties the execroot, as `bazel clean` does. */
  async #clean(index: HomeIndex): Promise<void> {
    const execroot = join(this.#outputBase, "execroot");
    if (lookAt(execroot)?.kind !== "directory") return;
    for (const name of readdirSync(execroot)) await removeTree(`${execroot}/${name}`);
    index.clear("execroot");
  }

  /** Converts any error to one for the user. */
  #explain(e: unknown, signal?: AbortSignal): unknown {
    if (signal?.aborted) {
      return new RbsError("Interrupted before all outputs were here: what has come stays.", {
        cause: e,
        exitCode: ExitCode.INTERRUPTED,
      });
    }
    if (e instanceof RbsError) {
      // The writer's error: this machine refuses a write.
      return e.exitCode !== 1
        ? e
        : new RbsError(e.message, { cause: e, culprit: e.culprit, exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR });
    }
    if (e instanceof TreeError || e instanceof WireError) {
      return refusal("what is no output", `was noticed: ${sentence(e)}`);
    }
    const why = isDiskFull(e) ? "its disk is full: make room" : `${sentence(e)}: fix its permissions`;
    return new RbsError(`The outputs cannot be written to ${shown(this.#outputBase)} (${why}); what has come stays.`, {
      cause: e,
      culprit: "caller",
      exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR,
    });
  }
}

/** Whether a file is, by its stat, the one that the agent has. */
function isKnown(index: HomeIndex, key: string, entry: Entry, info: RawInfo): boolean {
  if (info.kind !== "file" || info.mtimeMs !== entry.mtimeMs || (info.mode & 0o7777) !== entry.mode) return false;
  const known = index.get(key, info);
  return known !== undefined && sameDigest(known.digest, entry.digest!);
}

/** Whether a file has the agent's content, and at least its mode bits. */
async function hasContent(path: string, info: RawInfo, { size, mode, digest }: Entry): Promise<boolean> {
  if (info.kind !== "file" || info.size !== size || (info.mode & mode) !== mode) return false;
  try {
    const own = info.size < LARGE_BYTES
      ? digestFile(localFiles, path)
      : (await digestLarge(localFiles, dirname(path), basename(path)))?.digest;
    return own !== undefined && sameDigest(own, digest!);
  } catch {
    return false;
  }
}

/** Whether a file has the agent's content. If so, its mode and mtime are set to the agent's. */
async function isHome(
  index: HomeIndex,
  key: string,
  entry: Entry,
  path: string,
  info: RawInfo,
): Promise<boolean> {
  if (info.kind !== "file" || info.size !== entry.size) return false;
  try {
    const digest = index.get(key, info)?.digest ??
      (info.size < LARGE_BYTES
        ? digestFile(localFiles, path)
        : (await digestLarge(localFiles, dirname(path), basename(path)))?.digest);
    if (!digest || !sameDigest(digest, entry.digest!)) return false;
    // A name that is not UTF-8: mode and time come with a new file.
    if (isRaw(path) && ((info.mode & 0o7777) !== entry.mode || info.mtimeMs !== entry.mtimeMs)) return false;
    if ((info.mode & 0o7777) !== entry.mode) Deno.chmodSync(path, entry.mode);
    if (info.mtimeMs !== entry.mtimeMs) {
      // With fractional seconds, Deno sometimes loses a millisecond.
      const time = new Date(entry.mtimeMs);
      Deno.utimeSync(path, time, time);
    }
    index.set(key, digest, lookAt(path)!);
    return true;
  } catch (e) {
    // The file belongs to another user or is unreadable: the agent's file replaces it.
    if (e instanceof Deno.errors.PermissionDenied || e instanceof RbsError) return false;
    throw e;
  }
}

/** For a command that wants all outputs: whether a directory may belong to a package, and so contain many outputs. */
function isInPackage(path: string): boolean {
  return path.split("/", 3)[2] === "bazel-out" && !path.endsWith(".runfiles");
}

/** A content, the files that need it, and a path that already has it, if any. */
interface Content {
  source?: string;
  wanted: [Missing, ...Missing[]];
}

function groupByDigest(files: readonly Missing[], here: Difference["here"]): Content[] {
  const byDigest = new Map<string, Content>();
  for (const file of files) {
    const key = hex(file.entry.digest!);
    const known = byDigest.get(key);
    if (known) known.wanted.push(file);
    else byDigest.set(key, { wanted: [file] });
  }
  if (byDigest.size > 0) {
    for (const { path, entry } of here) {
      const known = byDigest.get(hex(entry.digest!));
      if (known) known.source ??= path;
    }
  }
  return [...byDigest.values()];
}

/**
 * Spreads large files among small ones. A large file takes longer to read, many small ones longer to write, so reader
 * and writer do not wait for each other.
 */
function mixed(files: readonly Missing[]): Missing[] {
  const small = files.filter(({ entry }) => entry.size <= PIECE_BYTES);
  const large = files.filter(({ entry }) => entry.size > PIECE_BYTES);
  const between = Math.floor(small.length / (large.length + 1));
  return [...large.flatMap((file, i) => [...small.slice(i * between, (i + 1) * between), file])]
    .concat(small.slice(large.length * between));
}

function hex(digest: Uint8Array): string {
  return Buffer.from(digest.buffer, digest.byteOffset, digest.length).toString("hex");
}

function isEmpty(items: Iterable<unknown> = []): boolean {
  for (const _ of items) return false;
  return true;
}

/**
 * Performs an action on the developer's own directories.
 * @returns why it failed, without a full stop
 */
function attempt(act: () => void): string | undefined {
  try {
    act();
  } catch (e) {
    return sentence(e).replace(/\.$/, "");
  }
}

function disposable(writer: TreeWriter): TreeWriter & Disposable {
  return Object.assign(writer, { [Symbol.dispose]: () => writer.close() });
}
