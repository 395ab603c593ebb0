/**
 * Commands at an agent that shares no disk with this machine: the developer's files are sent before a command runs, and
 * its outputs are copied back before the client learns that it has ended.
 */
import { create } from "@bufbuild/protobuf";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { builds, changesOutputs } from "../../proto/bazel/changing_commands.ts";
import { sentence } from "../../proto/base/errors.ts";
import {
  OutputsPolicy,
  type OutputsRequest,
  OutputsRequestSchema,
} from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { Pace } from "../../proto/base/time_slice.ts";
import { encodeName } from "../../proto/tree/names.ts";
import { ArgumentReader } from "../arguments/command_arguments.ts";
import { type FolderLimit, type LinkedRoots, linkedRoots, type OutsideRoot } from "../arguments/outside_roots.ts";
import { fileName } from "../arguments/run_arguments.ts";
import { CommandLog } from "./command_log.ts";
import { MissingInputs } from "./missing_inputs.ts";
import { MissingTools } from "./missing_tools.ts";
import { ManifestParts } from "../outputs/manifest.ts";
import { NamedStreams } from "../outputs/named_streams.ts";
import { namedTargets } from "../outputs/named_targets.ts";
import { OutputsHome } from "../outputs/outputs_sync.ts";
import { makeOurs } from "../outputs/server_state.ts";
import type { ServerArgs } from "../../proto/bazel/server_args.ts";
import type { AgentLink } from "../session/session.ts";
import { interrupted } from "../workspace/agent_calls.ts";
import { MountWatch } from "../workspace/mount_watch.ts";
import { PATIENCE_MS } from "../session/agent_patience.ts";
import { WorkspaceSync } from "../workspace/workspace_sync.ts";

/** How long outputs are copied after Ctrl-C. Milliseconds. */
const INTERRUPTED_MS = 2_000;

/** After this time a connection is no longer expected to bring a command. Milliseconds. */
const AHEAD_MS = 100;
/** A look that takes longer is not waited for; the barrier repeats it and shows progress. Milliseconds. */
const QUICK_MS = 20;

/** Number of missing symlink targets that are checked again before each command. */
const MISSING_LOOKS = 100;

/** The client that waits for a command. */
export interface Waiting {
  link: AgentLink;
  /** The client's connection: the user waits at least since it was made. */
  by: object;
  /** Whether the agent still belongs to the session, as far as is known. */
  isCurrent(): boolean;
  /** Aborted by Ctrl-C. */
  signal: AbortSignal;
  /** Shows a line (with its newline). */
  say(line: string): void;
}

/** A command for which the agent has everything. Dispose of it when the command has ended, however it did. */
export interface ReadyCommand extends Disposable {
  /** The RunRequest's arguments to send. */
  args: readonly Uint8Array[];
  generation: string;
  outputs: OutputsRequest;
  /** Takes the command's output. */
  onPrinted(text: Uint8Array, where: "stdout" | "stderr"): void;
  /** Takes an encoded Outputs message before the last response. Throws an RbsError if there are too many. */
  onOutputs(part: Uint8Array): void;
  /** Takes an encoded NamedPart while the command runs. Throws an RbsError for one that no honest agent sends. */
  onNamed(part: Uint8Array): Promise<void> | undefined;
  /** Resolves when all outputs are here. Throws an RbsError. */
  bringHome(exitCode: number): Promise<void>;
  /** After {@link bringHome}: whether a path is an output that was copied here, or contains one. */
  isHome(path: string): boolean;
}

/** Syncs one workspace's files and outputs around its commands. */
export class TwoMachines implements Disposable {
  readonly #server: Pick<ServerArgs, "outputBase" | "workspace" | "argv">;
  readonly #sync: WorkspaceSync;
  readonly #home: OutputsHome;
  readonly #arguments: ArgumentReader;
  /** The targets of symlinks at the last look, with the trees that were looked at and the versions of their links. */
  #linked?: LinkedRoots & { trees: string[]; versions: (number | undefined)[]; home?: string };
  /** A look at this machine's files ahead of a connection's command: resolves whether nothing has changed. */
  #ahead?: { by: object; began: number; nothingNew: Promise<boolean>; stop: AbortController };
  /** Warnings that were already shown. */
  readonly #warned = new Set<string>();

  constructor(server: Pick<ServerArgs, "outputBase" | "workspace" | "argv">) {
    this.#server = server;
    makeOurs(server.outputBase);
    this.#sync = new WorkspaceSync({ ...server, watchMounts: (onChange) => new MountWatch(onChange) });
    this.#home = new OutputsHome(server);
    this.#arguments = new ArgumentReader(server, FILES);
  }

  /** Writes the index for the next proxy, and stops watching. */
  [Symbol.dispose](): void {
    this.#sync.close();
  }

  /** One line for the log. */
  describe(): string {
    return this.#sync.describe();
  }

  /**
   * Looks at this machine's files while the client is still connecting; the developer saved them before starting the
   * client. A command that comes soon need not look again.
   *
   * @param by The command's connection. Other commands must not rely on this look, which may be older than their
   * clients.
   */
  expect(by: object): void {
    const now = performance.now();
    // At most one look per AHEAD_MS, however often clients connect.
    if (this.#ahead && now - this.#ahead.began < AHEAD_MS) return;
    const stop = new AbortController();
    const nothingNew = this.#sync.look(stop.signal).then((same) => same && this.#arguments.look());
    this.#ahead = { by, began: now, nothingNew, stop };
  }

  /** Whether what a command uses is unchanged since the last one, as found out since its client connected. */
  async #nothingNew(by: object): Promise<boolean> {
    const ahead = this.#ahead;
    if (ahead?.by !== by) return false;
    this.#ahead = undefined;
    const late = Promise.withResolvers<false>();
    const timer = setTimeout(late.resolve, QUICK_MS, false);
    const nothingNew = performance.now() - ahead.began < AHEAD_MS &&
      await Promise.race([ahead.nothingNew, late.promise]);
    clearTimeout(timer);
    ahead.stop.abort();
    return nothingNew;
  }

  /**
   * Ensures that the agent has everything that the command uses. Throws an RbsError, or a StatusError (UNAVAILABLE)
   * when the agent cannot be reached.
   *
   * @param args The RunRequest's arguments, as the client sent them.
   */
  async prepare(args: Buffer[], waiting: Waiting): Promise<ReadyCommand> {
    const looked = await this.#nothingNew(waiting.by);
    const command = this.#arguments.read(args, looked);
    const { home, outside: { roots, warnings }, symlinks } = command;
    const { targets, warnings: unwritable } = namedTargets(command.namedFiles, this.#server);
    for (const warning of unwritable) waiting.say(`rbs: warning: ${warning}\n`);
    for (const warning of warnings) this.#warn(warning, waiting);
    const { missingInstallBase } = waiting.link;
    const installBase: OutsideRoot[] =
      missingInstallBase && this.#server.argv.includes(`--install_base=${missingInstallBase}`)
        ? [{ path: missingInstallBase, why: "this Bazel's own files", leaveOut: [] }]
        : [];
    const patienceMs = command.fallsBack ? 0 : PATIENCE_MS;
    const barrier = (linked: OutsideRoot[]) => {
      const outside = [...installBase, ...roots, ...linked].map(({ path }) => ({ path, readOnly: true }));
      return this.#sync.barrier({ ...waiting, outside, patienceMs, looked });
    };
    const named = roots.map(({ path }) => path);
    // `shutdown` uses no files, and must not wait for them.
    const needsFiles = command.command !== "shutdown";
    let linked = needsFiles ? await this.#followLinks(named, home, waiting) : [];
    let generation = needsFiles ? (await barrier(linked)).generation : "";
    // The targets of links are known after a look at the links, and may contain further links.
    while (needsFiles) {
      const before = new Set(linked.map(({ path }) => path));
      linked = await this.#followLinks(named, home, waiting);
      if (linked.every(({ path }) => before.has(path))) break;
      ({ generation } = await barrier(linked));
    }
    const asksForOutputs = changesOutputs(command.command) || command.externalSources.length > 0;
    const told = asksForOutputs ? await this.#home.tell(waiting.link) : undefined;
    const written = targets.filter(({ real }) => real !== undefined).flatMap(({ path, real }) => [path, real!]);
    // `mod tidy` writes these: another command's barrier would restore the old file.
    const tidied = command.command === "mod" ? command.writes.files : [];
    const held = this.#sync.hold(
      needsFiles ? [...written, `${this.#server.workspace}/MODULE.bazel.lock`, ...tidied] : [],
    );
    this.#home.expect();
    const { known } = this.#home;
    const all = command.policy === OutputsPolicy.ALL;
    const parts = new ManifestParts();
    const streams = new NamedStreams(targets, waiting.signal);
    const missingTools = new MissingTools(), missingInputs = new MissingInputs();
    // OutputsHome.take knows whether what the agent counts as told has arrived.
    let cameHome = false;
    // Like Bazel's CleanCommand, which would remove the file that it writes to.
    const log = command.command === "clean" ? undefined : new CommandLog(this.#server.outputBase);
    return {
      onPrinted(text, where) {
        log?.write(text);
        // A query's standard output says nothing about missing files, and may be long.
        if (where === "stdout" && !changesOutputs(command.command)) return;
        missingTools.read(text);
        missingInputs.read(text);
      },
      args: command.sent,
      generation,
      outputs: create(OutputsRequestSchema, {
        policy: command.policy,
        knownManifest: known?.id,
        namedFiles: targets.map(({ path }) => encodeName(path)),
        pipes: targets.filter(({ kind }) => kind === "stream").map(({ path }) => encodeName(path)),
        symlinkPrefix: symlinks.prefix === undefined ? undefined : encodeName(symlinks.prefix),
        home: told?.home,
        folders: command.folders.map(encodeName),
        externalSources: command.externalSources,
        sourceFiles: command.writes.files.map(encodeName),
        sourceFolders: command.writes.folders.map(encodeName),
      }),
      onOutputs: (part) => parts.add(part),
      onNamed: (part) => streams.take(part),
      bringHome: async (exitCode) => {
        const atHome = exitCode === 0 ? undefined : missingInputs.warning((path) => this.#sync.staysHome(path));
        if (atHome) this.#warn(atHome, waiting);
        if (exitCode !== 0 && home) {
          const synced = [this.#server.workspace, ...[...roots, ...linked].map(({ path }) => path)];
          const place = { home: fileName(home), searchPath: fileName(command.searchPath), synced, ...FILES };
          const warning = missingTools.warning(place);
          if (warning) this.#warn(warning, waiting);
        }
        for (const error of await streams.finish()) waiting.say(`rbs: warning: ${sentence(error)}\n`);
        const options = {
          ...waiting,
          namedFiles: targets.map(({ path }) => path),
          secondaryFiles: new Set(targets.filter(({ secondary }) => secondary).map(({ path }) => path)),
          streams: new Set(targets.filter(({ kind }) => kind === "stream").map(({ path }) => path)),
          symlinkPrefix: symlinks.prefix,
          cleans: command.command === "clean",
          cleansSymlinks: symlinks.clean,
          leavesSymlinks: symlinks.prefix === undefined || !(builds(command.command) || command.command === "clean"),
          told,
          known,
          all,
          sources: {
            ...command.writes,
            asSent: (path: string) => this.#sync.isAsSent(path),
            onWritten: () => this.#sync.forget(),
          },
          onArrived: held.arrived,
        };
        cameHome = parts.length > 0 || told === undefined;
        if (parts.length === 0) held.arrived([]);
        if (exitCode === 0 && command.expunge) return await this.#home.expunge(options);
        // Tools look into the output base after their first command, which may be a query.
        if (parts.length === 0) return needsFiles ? await this.#home.own() : undefined;
        if (exitCode !== ExitCode.INTERRUPTED) {
          return void await this.#home.take(parts, options).catch((e) => {
            // After a query the developer has seen everything and left: `bazel info | head`.
            if (!waiting.signal.aborted || changesOutputs(command.command)) throw e;
          });
        }
        const signal = AbortSignal.timeout(INTERRUPTED_MS);
        try {
          await this.#home.take(parts, { ...options, signal, interrupted: true });
        } catch (e) {
          // The outputs come with the next command, and the exit code is that of Ctrl-C.
          if (!signal.aborted) waiting.say(`rbs: ${sentence(e)}\n`);
        }
      },
      isHome: (path) => this.#home.isHome(path),
      [Symbol.dispose]: () => {
        streams[Symbol.dispose]();
        log?.[Symbol.dispose]();
        held[Symbol.dispose]();
        if (!cameHome) this.#home.forgetTold();
      },
    };
  }

  /** The agent's workspace differs from what is known: the next {@link prepare} asks what it has. */
  forget(): void {
    this.#sync.forget();
  }

  /**
   * The targets of symlinks outside the workspace. Costs almost nothing while the links are unchanged and missing
   * targets are still missing.
   *
   * @param named What the command names outside of the workspace. Absolute paths.
   */
  async #followLinks(named: readonly string[], home: string | undefined, waiting: Waiting): Promise<OutsideRoot[]> {
    const { workspace, outputBase } = this.#server;
    const before = this.#linked;
    const from = [workspace, ...named];
    const isSame = before && home === before.home && from.every((tree) => before.trees.includes(tree)) &&
      before.trees.every((tree, i) => this.#sync.linksVersion(tree) === before.versions[i]) &&
      !before.missing.slice(0, MISSING_LOOKS).some(FILES.exists);
    if (isSame) return before.roots;
    // The versions at the time of each look: other commands may look and find new links meanwhile.
    const versions = new Map<string, number | undefined>();
    const found = await linkedRoots(from, {
      workspace,
      outputBase,
      home: home && fileName(home),
      ...FILES,
      readLink,
      links: (root) => {
        versions.set(root, this.#sync.linksVersion(root));
        return this.#sync.links(root);
      },
      // A target that was sent once is kept, however large it grows.
      holdsMore: async (path, limit) =>
        !before?.roots.some((root) => root.path === path) &&
        await holdsMore(path, limit, [workspace, outputBase], waiting.signal),
    });
    const trees = [...from, ...found.roots.map(({ path }) => path)];
    this.#linked = { ...found, trees, versions: trees.map((tree) => versions.get(tree)), home };
    for (const warning of found.warnings) this.#warn(warning, waiting);
    return found.roots;
  }

  #warn(warning: string, { say }: Waiting): void {
    if (this.#warned.has(warning)) return;
    this.#warned.add(warning);
    say(`rbs: warning: ${warning}\n`);
  }
}

/** This machine's file system, as the arguments' readers use it. */
const FILES = {
  readFile(path: string): string | undefined {
    try {
      return Deno.readTextFileSync(path);
    } catch {
      return undefined;
    }
  },
  exists(path: string): boolean {
    try {
      Deno.statSync(path);
      return true;
    } catch {
      return false;
    }
  },
  realPath(path: string): string | undefined {
    try {
      return Deno.realPathSync(path);
    } catch {
      return undefined;
    }
  },
};

/** The target of a link that does not lead to a directory; undefined if there is no such link. */
function readLink(path: string): string | undefined {
  try {
    if (!Deno.lstatSync(path).isSymlink || Deno.statSync(path).isDirectory) return undefined;
    return Deno.readLinkSync(path);
  } catch {
    return undefined;
  }
}

/** Whether a path holds more than a limit, not counting `leaveOut`. Symlinks in it are not followed. */
async function holdsMore(
  path: string,
  limit: FolderLimit,
  leaveOut: readonly string[],
  signal: AbortSignal,
): Promise<boolean> {
  let { entries, bytes } = limit;
  const pace = new Pace();
  const waiting = [path];
  for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
    if (leaveOut.includes(at)) continue;
    try {
      const { isDirectory, size } = at === path ? Deno.statSync(at) : Deno.lstatSync(at);
      if (!isDirectory) bytes -= size;
      else for (const { name } of Deno.readDirSync(at)) waiting.push(`${at}/${name}`);
    } catch {
      // It is gone; or it is unreadable, which the sync reports.
    }
    if (--entries < 0 || bytes < 0 || entries < waiting.length) return true;
    if (pace.due) await pace.rest();
    if (signal.aborted) throw interrupted();
  }
  return false;
}
