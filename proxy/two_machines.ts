/**
 * A command whose agent shares no disk with this machine: what the developer has is sent there before it runs, and what it
 * made is brought home before the client hears that it has ended.
 */
import { create } from "@bufbuild/protobuf";
import { Buffer } from "node:buffer";
import { withoutExpunge } from "../proto/expunge.ts";
import { type OutputsRequest, OutputsRequestSchema } from "../proto/gen/rbs/v1/command_pb.ts";
import { runArguments, withRunArguments } from "../proto/relay/run_request.ts";
import { encodeName } from "../proto/tree/names.ts";
import { filterClientEnv } from "./arguments/client_env.ts";
import { namedOutputFiles } from "./arguments/named_outputs.ts";
import { outputsPolicy } from "./arguments/outputs_policy.ts";
import { findOutsideRoots, type OutsideRoot } from "./arguments/outside_roots.ts";
import { allValues, clientVariable, parseRunArguments } from "./arguments/run_arguments.ts";
import { CommandLog } from "./command_log.ts";
import { OutputsHome } from "./outputs/outputs_home.ts";
import type { ServerArgs } from "./server_args.ts";
import type { AgentLink } from "./session.ts";
import { WorkspaceSync } from "./workspace/workspace_sync.ts";

/** Who waits for a command. */
export interface Waiting {
  link: AgentLink;
  /** Whether the agent is, as far as anybody knows, still the session's. */
  isCurrent(): boolean;
  /** Ctrl-C. */
  signal: AbortSignal;
  /** Shows a line (with its newline). */
  say(line: string): void;
}

/** A command that may be sent: the agent has what it needs. */
export interface ReadyCommand {
  /** The RunRequest that goes there. */
  request: Uint8Array;
  generation: string;
  outputs: OutputsRequest;
  /** What the command prints is written down in the local output base, as a server beside it would do. */
  log?: CommandLog;
  /** Takes an encoded Outputs message, of those that come before the last response. */
  onOutputs(part: Uint8Array): void;
  /** Has all of it here when it resolves. Throws an RbsError. */
  bringHome(exitCode: number): Promise<void>;
}

/** Both ways, for one workspace. */
export class TwoMachines {
  readonly #server: Pick<ServerArgs, "outputBase" | "workspace" | "argv">;
  readonly #sync: WorkspaceSync;
  readonly #home: OutputsHome;
  /** Said once. */
  readonly #warned = new Set<string>();

  constructor(server: Pick<ServerArgs, "outputBase" | "workspace" | "argv">) {
    this.#server = server;
    this.#sync = new WorkspaceSync(server);
    this.#home = new OutputsHome(server);
  }

  /** One line for the log. */
  describe(): string {
    return this.#sync.describe();
  }

  /**
   * Makes the agent have everything that the command uses. Throws an RbsError, or a StatusError (UNAVAILABLE) when the
   * agent cannot be reached.
   *
   * @param request The RunRequest as the client sent it.
   */
  async prepare(request: Uint8Array, waiting: Waiting): Promise<ReadyCommand> {
    const { workspace, outputBase } = this.#server;
    const args = runArguments(request);
    const { cwd, options } = parseRunArguments(args, ["symlink_prefix"]);
    const place = { args, cwd: cwd || workspace, workspace };
    const policy = outputsPolicy(clientVariable(args, "RBS_OUTPUTS"));
    const namedFiles = namedOutputFiles(place);
    const { roots, warnings } = findOutsideRoots({ ...place, outputBase, ...FILES });
    for (const warning of warnings) this.#warn(warning, waiting);
    const { missingInstallBase } = waiting.link;
    const installBase: OutsideRoot[] =
      missingInstallBase && this.#server.argv.includes(`--install_base=${missingInstallBase}`)
        ? [{ path: missingInstallBase, why: "this Bazel's own files", leaveOut: [] }]
        : [];
    const outside = [...installBase, ...roots].map(({ path }) => ({ path, readOnly: true }));
    const { generation } = await this.#sync.barrier({ ...waiting, outside });
    const parts: Uint8Array[] = [];
    return {
      // As Bazel's CleanCommand, which would remove the file that it writes to.
      log: latin1(args[0]) === "clean" ? undefined : new CommandLog(outputBase),
      request: withRunArguments(request, filterClientEnv(args)),
      generation,
      outputs: create(OutputsRequestSchema, {
        policy,
        knownManifest: this.#home.known,
        namedFiles: namedFiles.map(encodeName),
      }),
      onOutputs: (part) => void parts.push(part),
      bringHome: async (exitCode) => {
        if (exitCode === 0 && withoutExpunge(args.map(latin1)).expunge) return await this.#home.expunge();
        const symlinkPrefix = allValues(options, "symlink_prefix").at(-1) || undefined;
        if (parts.length > 0) await this.#home.take(parts, { ...waiting, namedFiles, symlinkPrefix });
      },
    };
  }

  /** The agent has another workspace than we thought: the next {@link prepare} asks what it has. */
  forget(): void {
    this.#sync.forget();
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

function latin1(bytes: Uint8Array = new Uint8Array()): string {
  return Buffer.from(bytes).toString("latin1");
}
