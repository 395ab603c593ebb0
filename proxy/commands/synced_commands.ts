/**
 * A command whose agent shares no disk with this machine: what the developer has is sent there before it runs, and what it
 * made is brought home before the client hears that it has ended.
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

/** Who pressed it waits no longer for what was made until then. Milliseconds. */
const INTERRUPTED_MS = 2_000;

/** After this time a connection is none whose command is about to come. Milliseconds. */
const AHEAD_MS = 100;
/** A look that takes longer than this is no quick one: who waits for the command sees why. Milliseconds. */
const QUICK_MS = 20;

/** Of the paths that symlinks lead to and where nothing is: how many are looked at again before each command. */
const MISSING_LOOKS = 100;

/** Who waits for a command. */
export interface Waiting {
  link: AgentLink;
  /** The client's connection: the person waits at least since it was made. */
  by: object;
  /** Whether the agent is, as far as anybody knows, still the session's. */
  isCurrent(): boolean;
  /** Ctrl-C. */
  signal: AbortSignal;
  /** Shows a line (with its newline). */
  say(line: string): void;
}

/** A command that may be sent: the agent has what it needs. Dispose of it when it has ended, however it did. */
export interface ReadyCommand extends Disposable {
  /** The RunRequest's arguments that go there. */
  args: readonly Uint8Array[];
  generation: string;
  outputs: OutputsRequest;
  /** Takes what the command prints. */
  onPrinted(text: Uint8Array, where: "stdout" | "stderr"): void;
  /** Takes an encoded Outputs message, of those that come before the last response. Throws an RbsError for too many. */
  onOutputs(part: Uint8Array): void;
  /** Takes an encoded NamedPart while the command runs. Throws an RbsError for one that no honest agent sends. */
  onNamed(part: Uint8Array): Promise<void> | undefined;
  /** Has all of it here when it resolves. Throws an RbsError. */
  bringHome(exitCode: number): Promise<void>;
  /** Whether a path is, since {@link bringHome}, that of an output that came home, or of a folder in which one did. */
  isHome(path: string): boolean;
}

/** Both ways, for one workspace. */
export class TwoMachines implements Disposable {
  readonly #server: Pick<ServerArgs, "outputBase" | "workspace" | "argv">;
  readonly #sync: WorkspaceSync;
  readonly #home: OutputsHome;
  readonly #arguments: ArgumentReader;
  /** What symlinks lead to, as they were when they were last looked at: in these trees, in these versions. */
  #linked?: LinkedRoots & { trees: string[]; versions: (number | undefined)[]; home?: string };
  /** A look at this machine's files for the command that a connection will bring: whether nothing was found changed. */
  #ahead?: { by: object; began: number; nothingNew: Promise<boolean>; stop: AbortController };
  /** Said once. */
  readonly #warned = new Set<string>();

  constructor(server: Pick<ServerArgs, "outputBase" | "workspace" | "argv">) {
    this.#server = server;
    makeOurs(server.outputBase);
    this.#sync = new WorkspaceSync({ ...server, watchMounts: (onChange) => new MountWatch(onChange) });
    this.#home = new OutputsHome(server);
    this.#arguments = new ArgumentReader(server, FILES);
  }

  /** Keeps what is known for the next proxy, and stops watching. */
  [Symbol.dispose](): void {
    this.#sync.close();
  }

  /** One line for the log. */
  describe(): string {
    return this.#sync.describe();
  }

  /**
   * Looks at this machine's files before a command comes, while its client is busy with connecting: the developer started
   * it after he had saved them. If it comes soon, it need not look again.
   *
   * @param by The connection that it will come by: no other command may rely on the look, which others began before.
   */
  expect(by: object): void {
    const now = performance.now();
    // Who connects again and again does not have us look all the time.
    if (this.#ahead && now - this.#ahead.began < AHEAD_MS) return;
    const stop = new AbortController();
    const nothingNew = this.#sync.look(stop.signal).then((same) => same && this.#arguments.look());
    this.#ahead = { by, began: now, nothingNew, stop };
  }

  /** Whether what a command uses is as the last one saw it, found out since its client connected. */
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
   * Makes the agent have everything that the command uses. Throws an RbsError, or a StatusError (UNAVAILABLE) when the
   * agent cannot be reached.
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
    // What only ends the server uses none of them, and shall not wait for them.
    const needsFiles = command.command !== "shutdown";
    let linked = needsFiles ? await this.#followLinks(named, home, waiting) : [];
    let generation = needsFiles ? (await barrier(linked)).generation : "";
    // Where links lead is known when they were looked at, and what is there may have links again.
    while (needsFiles) {
      const before = new Set(linked.map(({ path }) => path));
      linked = await this.#followLinks(named, home, waiting);
      if (linked.every(({ path }) => before.has(path))) break;
      ({ generation } = await barrier(linked));
    }
    const asksForOutputs = changesOutputs(command.command) || command.externalSources.length > 0;
    const told = asksForOutputs ? await this.#home.tell(waiting.link) : undefined;
    const written = targets.filter(({ real }) => real !== undefined).flatMap(({ path, real }) => [path, real!]);
    // What `mod tidy` writes: another command's barrier would put the former file back.
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
    // What the agent takes for told is with OutputsHome.take, which knows whether it came.
    let cameHome = false;
    // As Bazel's CleanCommand, which would remove the file that it writes to.
    const log = command.command === "clean" ? undefined : new CommandLog(this.#server.outputBase);
    return {
      onPrinted(text, where) {
        log?.write(text);
        // The answer of a query says nothing of what is missing, and may be long.
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
        // Tools look into it after their first command, which may be a query.
        if (parts.length === 0) return needsFiles ? await this.#home.own() : undefined;
        if (exitCode !== ExitCode.INTERRUPTED) {
          return void await this.#home.take(parts, options).catch((e) => {
            // Of a query the developer has seen all, and went: `bazel info | head`.
            if (!waiting.signal.aborted || changesOutputs(command.command)) throw e;
          });
        }
        const signal = AbortSignal.timeout(INTERRUPTED_MS);
        try {
          await this.#home.take(parts, { ...options, signal, interrupted: true });
        } catch (e) {
          // It comes with the next command, and the exit code is that of Ctrl-C.
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

  /** The agent has another workspace than we thought: the next {@link prepare} asks what it has. */
  forget(): void {
    this.#sync.forget();
  }

  /**
   * What symlinks lead to. As long as they are the same, and what was missing still is, it costs nothing.
   *
   * @param named What the command names outside of the workspace. Absolute.
   */
  async #followLinks(named: readonly string[], home: string | undefined, waiting: Waiting): Promise<OutsideRoot[]> {
    const { workspace, outputBase } = this.#server;
    const before = this.#linked;
    const from = [workspace, ...named];
    const isSame = before && home === before.home && from.every((tree) => before.trees.includes(tree)) &&
      before.trees.every((tree, i) => this.#sync.linksVersion(tree) === before.versions[i]) &&
      !before.missing.slice(0, MISSING_LOOKS).some(FILES.exists);
    if (isSame) return before.roots;
    // As they were when their links were asked for: others may look, and find new ones, while this one waits.
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
      // What went once goes on, however large it grows.
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

/** This machine's file system, as far as arguments are concerned. */
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

/** The target of a link that does not lead to a folder; undefined if there is no such link. */
function readLink(path: string): string | undefined {
  try {
    if (!Deno.lstatSync(path).isSymlink || Deno.statSync(path).isDirectory) return undefined;
    return Deno.readLinkSync(path);
  } catch {
    return undefined;
  }
}

/** Whether what is at a path holds more than a limit, without the folders of `leaveOut`. Symlinks in it are not followed. */
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
      // It is gone, or cannot be read, and then the sync says so.
    }
    if (--entries < 0 || bytes < 0 || entries < waiting.length) return true;
    if (pace.due) await pace.rest();
    if (signal.aborted) throw interrupted();
  }
  return false;
}
