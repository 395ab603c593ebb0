/**
 * Collects what a finished command has made, for the developer's machine: the manifest of command.proto.
 *
 *     prepare(arguments) ──> Bazel runs ──> collect()
 *      │ has Bazel write       build events      │ outputs of the named targets, their runfiles, test logs
 *      │ its build events      ExecRequest       │ what `bazel run` executes
 *      │ remembers files       convenience       │ bazel-bin and its like
 *      │ as they are           symlinks          │ files that were written
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { dirname } from "node:path";
import type { AgentRepositories } from "./agent_repositories.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { builds, changesOutputs } from "../../proto/bazel/changing_commands.ts";
import { sentence } from "../../proto/base/errors.ts";
import { OUTPUTS_FIELDS as Outputs } from "../../proto/contract/outputs_fields.ts";
import {
  type HomeOutputs as HomeList,
  OutputsPolicy,
  type OutputsRequest,
} from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { encodeFields, lengthPrefix } from "../../proto/base/protobuf_fields.ts";
import { isRepositoryName } from "../../proto/bazel/repository_name.ts";
import { isServerLog } from "../../proto/bazel/server_logs.ts";
import { encodeEntry } from "../../proto/tree/entry.ts";
import { type Files, readFile } from "../../proto/tree/files.ts";
import { Looks } from "../../proto/tree/stat_snapshot.ts";
import { decodeName, encodeName } from "../../proto/tree/names.ts";
import { type BuildEvents, readBuildEvents } from "./bep.ts";
import { BuildEventsNotice } from "./build_events_notice.ts";
import { injectBuildEvents } from "./command_arguments.ts";
import { findConvenienceSymlinks } from "./convenience_symlinks.ts";
import { DigestCache } from "./digest_cache.ts";
import { executedFiles, filesOfScript } from "./executed_files.ts";
import { recentTests } from "./recent_tests.ts";
import { FolderOutputs } from "./folder_outputs.ts";
import { FollowedFiles } from "./followed_files.ts";
import { HomeOutputs } from "./home_outputs.ts";
import { findNamedFile, type NamedFile } from "./named_files.ts";
import { type Found, found, OutputTree } from "./output_tree.ts";
import { PrintedPaths } from "./printed_paths.ts";
import type { ServerLogs } from "./server_logs.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { isIn } from "../../proto/base/absolute_path.ts";

/** Options of {@link OutputsCollector}. */
export interface OutputsCollectorOptions {
  /** The developer's absolute path. */
  outputBase: string;
  /** The developer's absolute path. */
  workspace: string;
  /** The session's own directory. */
  storage: Files;
  /** Where a developer's path is stored; undefined if it is not. */
  storagePath(path: string): string | undefined;
  /** Repositories outside the output base. @default none */
  repositories?: AgentRepositories;
  /** The server's own logs. @default none */
  logs?: ServerLogs;
  /** Digests that were computed before. @default none */
  digests?: DigestCache;
  /** Maximum number of entries of a manifest. @default 500000 */
  limit?: number;
}

/** How a command ended. */
export interface CommandEnd {
  exitCode: number;
  /** RunResponse.exec_request, encoded. */
  execRequest?: Uint8Array;
}

/** A command between its start and its end. */
export interface PreparedOutputs extends Disposable {
  /** The arguments for the server. */
  args: readonly string[];
  /**
   * Inspects an encoded RunResponse on its way to the client.
   * @returns the response to send instead; undefined if unchanged
   */
  filter?(response: Uint8Array): Uint8Array | undefined;
  /** Follows the files that options name, while the command writes them. */
  followed?: FollowedFiles;
  /** Those that the command has written and {@link collect} has told, with their stats at that time. */
  named?: readonly Found[];
  /** The manifest as encoded Outputs messages; none if there is nothing to tell. Call it once. */
  collect(end: CommandEnd): Promise<Uint8Array[]>;
}

/** Bytes of entries in one message. */
const PART_BYTES = 512 << 10;
/** Build event files up to the first size are read, in pieces of the second. Bytes. */
const MAX_EVENTS_BYTES = 512 << 20, EVENTS_PIECE_BYTES = 256 << 10;
/** After Ctrl-C, time limit for computing digests. Milliseconds. */
const INTERRUPTED_MS = 1_000;
/** After Ctrl-C, larger files are not digested. Bytes. */
const INTERRUPTED_BYTES = 64 << 20;
/** A larger file is not a script. Bytes. */
const MAX_SCRIPT_BYTES = 1 << 20;
/** With more looks, the next command collects all its outputs again. */
const MAX_LOOKS = 10_000;
/** Entries of an output base that no flag can mean: RBS's and Bazel's own. */
const NO_NAMED_FILES = ["server", "install", "lock", "rbs", "action_cache"];

/** A command that has ended, and what is known of it. */
interface EndedCommand {
  args: readonly string[];
  end: CommandEnd;
  request: OutputsRequest;
  written: WrittenFiles;
  events: BuildEvents | undefined;
  /** Build events were expected. */
  wantsEvents: boolean;
  /** Receives the named files that are told. */
  named: Found[];
  /** Start of the command, by Date.now(). */
  began: number;
}

/** A command that has not ended. It may wait for others at the server. */
interface PendingCommand {
  readonly names: ReadonlySet<string>;
  readonly written: WrittenFiles;
}

/** The result of a collection. */
interface Collected {
  /** Encoded Outputs messages. */
  parts: Uint8Array[];
  /** The manifest's id, if it covers everything. */
  manifest?: Buffer;
  /** Tells whether the result would be the same again. */
  looks: Looks;
  policy: OutputsPolicy;
  /** Its own outputs, by the keys of {@link HomeOutputs}. */
  own?: ReadonlySet<string>;
  /** The paths that were told. */
  paths?: ReadonlySet<string>;
}

/** Collects the outputs of one session's commands, which may overlap. */
export class OutputsCollector {
  readonly #options: OutputsCollectorOptions;
  readonly #files: Files;
  /** The output base's path in the storage. */
  readonly #storage: string;
  readonly #digests: DigestCache;
  readonly #home: HomeOutputs;
  readonly #folders = new FolderOutputs();
  /** In the order in which the server gets them. */
  readonly #pending = new Set<PendingCommand>();
  #commands = 0;
  #prepared = 0;
  /**
   * The last command, if it was a build that succeeded. The same build of the same files makes the same outputs, so
   * their places need not be told again; Bazel's events cost more than all the rest of a build with nothing to do. The
   * outputs themselves are looked at each time.
   */
  #lastBuild?: { key: string; events: BuildEvents; collected: Collected };

  /** For repositories outside the output base: their places in the storage by their paths, as of the last command. */
  readonly #moved = new Map<string, string>();

  constructor(options: OutputsCollectorOptions) {
    this.#options = options;
    this.#files = options.storage;
    this.#digests = options.digests ?? new DigestCache(options.storage);
    this.#storage = options.storagePath(options.outputBase)!;
    this.#home = new HomeOutputs(options.outputBase, options.storage, (path) => this.#here(path));
  }

  /**
   * Call it before a command is sent to the server.
   *
   * @param args One character per byte.
   * @param start.workspaceGeneration Identifies the files that the command sees.
   * @param sources What the command has written into the developer's sources, by absolute paths. @default nothing
   */
  prepare(
    args: readonly string[],
    { outputs, workspaceGeneration }: { outputs?: OutputsRequest; workspaceGeneration?: string },
    sources?: () => Promise<{ entries: Found[]; gone: string[] }>,
  ): Promise<PreparedOutputs> {
    const { outputBase, workspace } = this.#options;
    const began = Date.now();
    const before = this.#lastBuild, number = ++this.#prepared;
    this.#lastBuild = undefined;
    if (!outputs) {
      return Promise.resolve({ args, collect: () => Promise.resolve([]), [Symbol.dispose]() {} });
    }
    if (outputs.home) this.#home.reset(absolute(outputs.home, outputBase));
    // Leftovers of an agent that was killed. Not removed earlier: a former agent may still be working until this one
    // gets commands.
    if (this.#commands === 0) this.#remove(`${this.#storage}/rbs`);
    const eventsFile = `rbs/build_events.${++this.#commands}`;
    const key = workspaceGeneration && args[0] === "build" ? buildKey(args, workspaceGeneration) : undefined;
    const repeated = key !== undefined && before?.key === key ? before : undefined;
    const wantsEvents = builds(args[0]) && outputs.policy !== OutputsPolicy.MINIMAL && !repeated;
    const injected = wantsEvents ? injectBuildEvents(args, `${outputBase}/${eventsFile}`, workspace) : undefined;
    if (injected) this.#makeFolder();
    const names = outputs.namedFiles.map(decodeName);
    const written = new WrittenFiles(
      [...names, `${workspace}/MODULE.bazel.lock`, ...injected?.files ?? []],
      (path) => this.#find(path),
    );
    const pending = { names: new Set(names), written };
    this.#pending.add(pending);
    const named: Found[] = [];
    const notice = injected?.speaksOfIt ? new BuildEventsNotice() : undefined;
    const printed = new PrintedPaths(outputBase);
    return Promise.resolve({
      args: injected?.args ?? args,
      filter: (response) => {
        printed.read(response);
        this.#folders.read(response);
        return notice?.filter(response);
      },
      followed: new FollowedFiles(this.#files, {
        paths: names,
        pipes: outputs.pipes.map(decodeName),
        find: (path) => this.#isAnothers(path, pending) ? undefined : written.find(path),
      }),
      named,
      [Symbol.dispose]: () => this.#over(pending),
      collect: async (end) => {
        // The command did not run: what was written belongs to the command for which it waited.
        if (end.exitCode === ExitCode.LOCK_HELD || end.exitCode === ExitCode.INTERRUPTED) {
          for (const path of names) if (this.#isAnothers(path, pending)) written.leaveOut(path);
        }
        this.#over(pending);
        try {
          const events = repeated?.events ?? await this.#events(injected?.files ?? [], written);
          const command = { args, end, request: outputs, written, events, wantsEvents, named, began };
          const collected = (repeated && this.#again(command, repeated.collected)) ?? await this.#collect(command);
          // Not if another command waits for it, or runs beside it.
          const isLast = number === this.#prepared;
          if (isLast && key !== undefined && events?.whole && end.exitCode === 0) {
            this.#lastBuild = { key, events, collected: { ...collected, parts: [], paths: undefined } };
          }
          return [
            ...collected.parts,
            ...await besides(
              "The files whose paths this command printed",
              () => this.#askedFor(command, printed.finish(), collected),
            ),
            ...await besides("The sources that this command wrote", () => this.#writtenSources(sources)),
          ];
        } catch (e) {
          // The command has ended; its result must not be lost.
          const warning = `The outputs of this command were not copied (${sentence(e)}): run it again.`;
          return [encodeFields([[Outputs.warnings, warning]])];
        } finally {
          this.#remove(`${this.#storage}/${eventsFile}`);
        }
      },
    });
  }

  /** Whether an earlier command, for which this one waits, writes the file. */
  #isAnothers(path: string, pending: PendingCommand): boolean {
    if (!this.#pending.has(pending)) return false;
    for (const other of this.#pending) {
      if (other === pending) return false;
      if (other.names.has(path)) return true;
    }
    return false;
  }

  /** A command has ended: what it has written does not count for the others. */
  #over(pending: PendingCommand): void {
    let isLater = false;
    for (const other of this.#pending) {
      if (isLater) { for (const path of other.names) if (pending.names.has(path)) other.written.again(path); }
      isLater ||= other === pending;
    }
    this.#pending.delete(pending);
  }

  /** The same command's last result, if the caller has it and nothing has changed since. */
  #again({ end, request, written }: EndedCommand, { manifest, looks, policy, own }: Collected): Collected | undefined {
    if (!manifest || !manifest.equals(request.knownManifest) || policy !== request.policy) return undefined;
    if (end.exitCode !== 0 || end.execRequest || !looks.same) return undefined;
    if (!this.#home.same((path) => own?.has(path) ?? false)) return undefined;
    if (this.#promisedFiles(request).some((path) => written.find(path))) return undefined;
    return { manifest, looks, policy, own, parts: [unchanged(manifest)] };
  }

  /** Files that belong to no target. */
  #promisedFiles({ namedFiles }: OutputsRequest): string[] {
    return [...new Set([...namedFiles.map(decodeName), `${this.#options.workspace}/MODULE.bazel.lock`])];
  }

  async #collect(command: EndedCommand): Promise<Collected> {
    const { args, end, request, written, events, wantsEvents, began } = command;
    const until = end.exitCode === ExitCode.INTERRUPTED ? Date.now() + INTERRUPTED_MS : undefined;
    const { outputBase, limit = 500_000 } = this.#options;
    const looks = new Looks(this.#files, MAX_LOOKS);
    this.#findRepositories();
    const tree = new OutputTree({
      outputBase,
      files: this.#files,
      storage: this.#storage,
      limit,
      looks,
      repositories: this.#options.repositories,
    });
    const entries: Found[] = [];
    const warnings: string[] = [];

    const scripts: NamedFile[] = [];
    const outside = new Set<string>();
    for (const path of this.#promisedFiles(request)) {
      const file = written.find(path);
      if (!file) continue;
      const [below] = isIn(file.path, outputBase) ? file.path.slice(outputBase.length + 1).split("/") : [];
      if (below && NO_NAMED_FILES.includes(below)) continue;
      // A file behind bazel-bin is told by its real path: an output may not be behind a symlink.
      entries.push(found(below ? file.path : path, "file", file.info));
      scripts.push(file);
      if (!below) outside.add(path);
    }

    const cleaned = args[0] === "clean" && end.exitCode === 0;
    const { symlinkPrefix } = request;
    if (symlinkPrefix && (cleaned || builds(args[0]))) {
      const prefix = decodeName(symlinkPrefix);
      for (const { path, target, info } of findConvenienceSymlinks({ ...this.#options, prefix, looks })) {
        entries.push(found(path, "symlink", info, target));
        tree.addFolder(target);
      }
    }
    if (builds(args[0])) {
      if (end.execRequest) { for (const path of executedFiles(end.execRequest)) await tree.addExecutable(path); }
      if (args[0] === "run") {
        for (const path of scripts.flatMap((script) => readScript(this.#files, script))) await tree.addExecutable(path);
      }
      if (events) {
        await addOutputs(tree, events, args[0], request.policy);
        for (const path of this.#folderOutputs(events)) await tree.add(path);
      }
      if (events?.execRoot !== undefined && end.exitCode === ExitCode.INTERRUPTED) {
        const bazelOut = `${events.execRoot}/bazel-out`;
        if (isIn(bazelOut, outputBase)) {
          const folders = await recentTests(this.#files, this.#here(bazelOut), began);
          for (const folder of folders) await tree.add(`${bazelOut}/${folder}`);
        }
      }
      if (!events && wantsEvents && end.exitCode === 0) {
        warnings.push(
          "The outputs of this command are not known, since it wrote no build events: they were not copied.",
        );
      }
    } else if (entries.length === 0 && !cleaned && !changesOutputs(args[0])) {
      return { parts: [], looks, policy: request.policy };
    }
    const known = new Set(entries.map(({ path }) => path));
    for (const entry of tree.entries) if (!known.has(entry.path)) entries.push(entry);
    const home = changesOutputs(args[0]) ? await this.#homeOutputs(tree, known) : undefined;
    warnings.push(...new Set([...tree.warnings, ...home?.tree.warnings ?? []]));
    const encoded = await this.#encode(entries, { cleaned, warnings, known: request.knownManifest, until });
    const { untold } = encoded;
    command.named.push(...entries.filter(({ path }) => outside.has(path) && !untold.has(path)));
    const homeParts = new Parts(Outputs.home);
    if (home) {
      for await (const { encoded } of this.#encodeEach(home.entries, untold, until)) homeParts.add(encoded);
    }
    // Nothing fails from here on: what is recorded as told is told.
    if (cleaned) this.#home.cleaned(`${outputBase}/execroot`);
    if (home) {
      for (const path of home.gone) this.#home.forget(path);
      encoded.parts.push(
        ...homeParts.finish([...home.gone, ...untold].map((path) => [Outputs.gone, encodeName(path)])),
      );
      this.#home.told(home.tree, home.entries, untold);
    }
    const own = this.#home.told(tree, entries.filter(({ path }) => isIn(path, outputBase)), untold);
    const paths = new Set([...entries, ...home?.entries ?? []].map(({ path }) => path));
    for (const path of home?.gone ?? []) paths.add(path);
    // The manifest does not cover these files, which were compared with their state before the command.
    const manifest = scripts.length === 0 ? encoded.manifest : undefined;
    return { parts: encoded.parts, manifest, looks, policy: request.policy, own, paths };
  }

  /**
   * What the developer asks for beside the outputs: files whose paths the command has printed, the server's logs when
   * the output base was printed, and the sources of external repositories.
   */
  async #askedFor(
    { args, request }: EndedCommand,
    printed: ReadonlySet<string>,
    { own, paths = own }: Collected,
  ): Promise<Uint8Array[]> {
    const { externalSources, policy } = request;
    if (args[0] === "clean" || printed.size + externalSources.length === 0) return [];
    const { outputBase, limit = 500_000, logs, repositories } = this.#options;
    const storage = this.#storage;
    const looks = new Looks(this.#files, 0);
    this.#findRepositories();
    const tree = new OutputTree({ outputBase, files: this.#files, storage, limit, looks, repositories });
    const pace = new Pace();
    const execRoots = this.#namesIn(`${outputBase}/execroot`).map((name) => `${outputBase}/execroot/${name}`);
    for (const path of printed) {
      if (pace.due) await pace.rest();
      const isOutput = isIn(path, `${outputBase}/execroot`);
      if (isOutput ? policy !== OutputsPolicy.MINIMAL : isInRepository(path, outputBase)) await tree.addFile(path);
    }
    for (const name of this.#wantedSources(externalSources)) {
      const path = `${outputBase}/external/${name}`;
      const kind = tree.kindAt(path);
      if (kind !== "directory" && kind !== "symlink") continue;
      if (!this.#home.isSame(path)) await tree.add(path);
      for (const root of execRoots) tree.addLinks(`${root}/external/${name}`);
    }
    const entries = [...tree.entries].filter(({ path }) => !paths?.has(path));
    const logNames = [...printed].map((path) => path.slice(outputBase.length + 1));
    const wantsLogs = logNames.some((name) => name === "" || isServerLog(name));
    const logFiles = wantsLogs ? logs?.copy(logNames.filter(isServerLog)) ?? [] : [];
    const parts = new Parts(Outputs.home);
    const untold = new Set<string>();
    for await (const { encoded } of this.#encodeEach([...entries, ...logFiles], untold)) parts.add(encoded);
    this.#home.told(tree, entries, untold);
    return parts.finish(tree.warnings.map((warning) => [Outputs.warnings, warning]));
  }

  /** What the command has written into the sources where it may. */
  async #writtenSources(sources?: () => Promise<{ entries: Found[]; gone: string[] }>): Promise<Uint8Array[]> {
    const written = await sources?.();
    if (!written) return [];
    const parts = new Parts(Outputs.sources);
    const untold = new Set<string>();
    for await (const { encoded } of this.#encodeEach(written.entries, untold)) parts.add(encoded);
    return parts.finish(written.gone.map((path) => [Outputs.sourcesGone, encodeName(path)]));
  }

  /** The names of the requested external repositories that are here. */
  *#wantedSources(wanted: readonly string[]): Generator<string> {
    if (wanted.length === 0) return;
    const { outputBase } = this.#options;
    const isWanted = (name: string) =>
      isRepositoryName(name) &&
      wanted.some((word) => word === "*" || name === word || /^[~+]/.test(afterName(name, word)));
    for (const name of this.#namesIn(`${outputBase}/external`)) if (isWanted(name)) yield name;
  }

  #namesIn(folder: string): string[] {
    try {
      return this.#files.names(this.#here(folder));
    } catch {
      return [];
    }
  }

  #findRepositories(): void {
    this.#moved.clear();
    for (const { repository, here } of this.#options.repositories?.all() ?? []) this.#moved.set(repository, here);
  }

  /** Where directory outputs of named targets may be that the events do not list. */
  #folderOutputs({ execRoot, labels }: BuildEvents): string[] {
    const paths = execRoot === undefined ? [] : this.#folders.of(labels);
    if (paths.length === 0) return [];
    const bazelOut = `${execRoot}/bazel-out`;
    return this.#namesIn(bazelOut).flatMap((configuration) =>
      paths.map((path) => `${bazelOut}/${configuration}/bin/${path}`)
    );
  }

  /** Makes the directory for Bazel's events, replacing anything else there. */
  #makeFolder(): void {
    const folder = `${this.#storage}/rbs`;
    try {
      this.#files.makeWay(folder, 0o700);
    } catch (e) {
      if (!(e instanceof Deno.errors.NotADirectory)) throw e;
      this.#remove(folder);
      this.#files.makeWay(folder, 0o700);
    }
  }

  #remove(path: string): void {
    try {
      this.#files.remove(path, { recursive: true });
    } catch {
      // The path does not exist; or it stays, and does no harm.
    }
  }

  async #events(files: readonly string[], written: WrittenFiles): Promise<BuildEvents | undefined> {
    for (const path of files) {
      const file = written.find(path);
      if (!file || file.info.size > MAX_EVENTS_BYTES) continue;
      return await readBuildEvents(this.#pieces(file.here, file.info.size));
    }
  }

  /** A file's bytes, up to its size at the last look. A piece is valid until the next is requested. */
  *#pieces(path: string, size: number): Generator<Uint8Array> {
    using file = this.#files.open(path);
    const buffer = new Uint8Array(EVENTS_PIECE_BYTES);
    for (let left = size; left > 0;) {
      const n = file.read(buffer.subarray(0, Math.min(left, buffer.length)));
      if (n === 0) return;
      left -= n;
      yield buffer.subarray(0, n);
    }
  }

  #find(path: string): NamedFile | undefined {
    const { storage, storagePath, outputBase, workspace } = this.#options;
    return findNamedFile(path, { storage, storagePath, mounts: [outputBase, workspace] });
  }

  /**
   * Outputs of earlier commands on the developer's machine that have changed. @param tree, known This command's own.
   */
  async #homeOutputs(
    tree: OutputTree,
    known: ReadonlySet<string>,
  ): Promise<{ tree: OutputTree; entries: Found[]; gone: string[] }> {
    const { outputBase, limit = 500_000 } = this.#options;
    const looks = new Looks(this.#files, 0);
    const home = new OutputTree({
      outputBase,
      files: this.#files,
      storage: this.#storage,
      limit,
      looks,
      repositories: this.#options.repositories,
    });
    const gone: string[] = [];
    const pace = new Pace();
    const isOne = (path: string) => known.has(path) || tree.has(path);
    for (const change of this.#home.changed(isOne)) {
      if (pace.due) await pace.rest();
      if (!change || home.full) continue;
      const { path, isTree } = change;
      const kind = home.kindAt(path);
      // A directory in the place of a file is not an output.
      if (kind !== undefined && kind !== "other" && (kind !== "directory" || isTree)) await home.add(path);
      if (home.has(path) || home.full) continue;
      gone.push(path);
    }
    return { tree: home, entries: [...home.entries].filter(({ path }) => !isOne(path)), gone };
  }

  /** Where a path of the output base is in the storage. */
  #here(path: string): string {
    const external = `${this.#options.outputBase}/external/`;
    if (this.#moved.size > 0 && path.startsWith(external)) {
      const end = path.indexOf("/", external.length);
      const repository = end < 0 ? path : path.slice(0, end);
      const here = this.#moved.get(repository);
      if (here !== undefined) return here + path.slice(repository.length);
    }
    return this.#storage + path.slice(this.#options.outputBase.length);
  }

  async #encode(
    entries: Found[],
    about: { cleaned: boolean; warnings: readonly string[]; known: Uint8Array; until?: number },
  ): Promise<{ parts: Uint8Array[]; manifest: Buffer; untold: Set<string> }> {
    const id = createHash("sha256");
    const parts = new Parts(Outputs.entries);
    const untold = new Set<string>();
    for await (const { encoded } of this.#encodeEach(entries, untold, about.until)) {
      id.update(encoded);
      parts.add(encoded);
    }
    const manifest = id.digest();
    if (!about.cleaned && manifest.equals(about.known)) return { manifest, parts: [unchanged(manifest)], untold };
    const rest = parts.finish([
      [Outputs.manifest, manifest],
      [Outputs.cleaned, about.cleaned],
      ...about.warnings.map((warning) => [Outputs.warnings, warning] as [number, string]),
    ]);
    return { manifest, parts: rest, untold };
  }

  /**
   * Encodes entries with their digests.
   *
   * @param untold Receives the paths of files that keep changing: the developer's copies of them are outdated.
   * @param until When to stop computing digests, by Date.now().
   */
  async *#encodeEach(
    entries: Found[],
    untold: Set<string>,
    until = Infinity,
  ): AsyncGenerator<{ encoded: Uint8Array }> {
    entries.sort((a, b) => a.path < b.path ? -1 : 1);
    const { outputBase, storagePath } = this.#options;
    const pace = new Pace();
    for (const entry of entries) {
      if (pace.due) await pace.rest();
      if (entry.kind === "file") {
        const here = isIn(entry.path, outputBase)
          ? entry.here ?? this.#here(entry.path)
          : this.#find(entry.path)?.here ?? storagePath(entry.path)!;
        const isLong = until < Infinity && (Date.now() > until || entry.size > INTERRUPTED_BYTES);
        entry.digest = isLong ? this.#digests.known(here, entry) : await this.#digests.digest(here, entry);
        // The file is gone or keeps changing: Bazel's outputs do not.
        if (!entry.digest) {
          untold.add(entry.path);
          continue;
        }
      }
      yield { encoded: encodeEntry(entry) };
    }
  }
}

/** Packs encoded entries into Outputs messages of limited size. */
class Parts {
  readonly #field: number;
  readonly #parts: Uint8Array[] = [];
  #part: Uint8Array[] = [];
  #bytes = 0;

  /** @param field The entries' field number. */
  constructor(field: number) {
    this.#field = field;
  }

  add(encoded: Uint8Array): void {
    const prefix = lengthPrefix(this.#field, encoded.length);
    this.#part.push(prefix, encoded);
    this.#bytes += prefix.length + encoded.length;
    if (this.#bytes < PART_BYTES) return;
    this.#parts.push(Buffer.concat(this.#part));
    this.#part = [];
    this.#bytes = 0;
  }

  /** All messages; the last one also has these fields. None is empty. */
  finish(fields: [number, string | Uint8Array | boolean][]): Uint8Array[] {
    const last = Buffer.concat([...this.#part, encodeFields(fields)]);
    return last.length > 0 ? [...this.#parts, last] : this.#parts;
  }
}

/** Runs a collection beside the outputs; its failure becomes a warning. @param what The start of a sentence. */
async function besides(what: string, collect: () => Promise<Uint8Array[]>): Promise<Uint8Array[]> {
  try {
    return await collect();
  } catch (e) {
    return [encodeFields([[Outputs.warnings, `${what} were not copied (${sentence(e)}): run the command again.`]])];
  }
}

/** Converts what the developer's machine says that it has to absolute paths. */
function absolute({ leaves, trees }: HomeList, outputBase: string): { leaves: string[]; trees: string[] } {
  const paths = (names: readonly Uint8Array[]) => names.map((name) => `${outputBase}/${decodeName(name)}`);
  return { leaves: paths(leaves), trees: paths(trees) };
}

/** The message for a manifest that the caller has. */
function unchanged(manifest: Uint8Array): Uint8Array {
  return encodeFields([[Outputs.manifest, manifest], [Outputs.unchanged, true]]);
}

/** What the client says of itself with each command: how long it took to start, and why it started a server. */
const OF_THE_CLIENT = /^--(startup_time|command_wait_time|extract_data_time|restart_reason)=/;

/** The same for the same build of the same files. */
function buildKey(args: readonly string[], generation: string): string {
  return JSON.stringify([generation, ...args.filter((arg) => !OF_THE_CLIENT.test(arg))]);
}

/** Adds the outputs that the build events name. */
async function addOutputs(
  tree: OutputTree,
  events: BuildEvents,
  command: string,
  policy: OutputsPolicy,
): Promise<void> {
  for (const path of events.files) await tree.addExecutable(path);
  for (const path of events.folders) await tree.add(path);
  // Beside a test's log are its other files, in directories for shards, runs and attempts.
  for (const folder of new Set(events.testOutputs.map(dirname))) await tree.add(folder);
  if (events.execRoot === undefined) return;
  if (command === "coverage") await tree.addAllIn(`${events.execRoot}/bazel-out/_coverage`);
  if (policy === OutputsPolicy.ALL) await tree.addAllIn(`${events.execRoot}/bazel-out`);
}

/**
 * The state of files before a command, to tell which of them it has written. The others are the developer's to change.
 */
class WrittenFiles {
  readonly #before = new Map<string, string | undefined>();
  readonly #leftOut = new Set<string>();
  readonly #find: (path: string) => NamedFile | undefined;

  constructor(paths: readonly string[], find: (path: string) => NamedFile | undefined) {
    this.#find = find;
    for (const path of paths) this.#before.set(path, version(find(path)));
  }

  /** Records a file's state again, since the command begins only now. */
  again(path: string): void {
    this.#before.set(path, version(this.#find(path)));
  }

  /** The command does not write the file after all. */
  leaveOut(path: string): void {
    this.#leftOut.add(path);
  }

  /** The file, if the command has written it. */
  find(path: string): NamedFile | undefined {
    if (this.#leftOut.has(path)) return undefined;
    const file = this.#find(path);
    return version(file) === this.#before.get(path) ? undefined : file;
  }
}

function version(file: NamedFile | undefined): string | undefined {
  return file && [file.info.ino, file.info.size, file.info.mtimeMs, file.info.ctimeMs].join();
}

/** The files that a script uses; empty if the file is not a script. */
function readScript(storage: Files, { here, info }: NamedFile): string[] {
  if (info.size > MAX_SCRIPT_BYTES || (info.mode & 0o100) === 0) return [];
  const text = decodeName(readFile(storage, here, MAX_SCRIPT_BYTES));
  return text.startsWith("#!") ? [...filesOfScript(text)] : [];
}

/** Whether a path is in an external repository. */
function isInRepository(path: string, outputBase: string): boolean {
  const [first, second, third] = path.slice(outputBase.length + 1).split("/", 3);
  return first === "external" && third !== undefined && isRepositoryName(second);
}

/** The rest of a name after a word; empty if the name does not start with it. */
function afterName(name: string, word: string): string {
  return name.startsWith(word) ? name.slice(word.length) : "";
}
