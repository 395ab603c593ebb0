/**
 * Everything that a command's arguments mean for two machines. A developer repeats the same command, with a thousand
 * arguments that are mostly the environment. So the result is kept while the arguments, and the files that were read
 * for them, are the same.
 */
import type { Buffer } from "node:buffer";
import { withoutExpunge } from "../../proto/bazel/clean_expunge.ts";
import type { OutputsPolicy } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { externalSources } from "./external_sources.ts";
import { filterClientEnv } from "./client_env.ts";
import { type ConvenienceSymlinks, convenienceSymlinks } from "./convenience_symlinks.ts";
import { type NamedOutput, namedOutputFiles } from "./named_outputs.ts";
import { otherPaths } from "./other_paths.ts";
import { outputsPolicy } from "./outputs_policy.ts";
import { type Files, findOutsideRoots, type OutsideRoots, type Place } from "./outside_roots.ts";
import { RecordedFiles } from "./recorded_files.ts";
import { fallsBack } from "./fallback_policy.ts";
import { clientVariable, latin1, parseRunArguments, startsWith } from "./run_arguments.ts";
import { type WrittenSources, writtenSources } from "./written_sources.ts";

/**
 * What the client says of itself, different in each command: how long it took to start, and why it started a server.
 */
const OF_THE_CLIENT = ["--startup_time=", "--command_wait_time=", "--extract_data_time=", "--restart_reason="];

/** A command, parsed. */
export interface CommandArguments {
  /** For example "build". */
  command: string;
  /** The arguments for the server, without the variables that are not sent. */
  sent: Buffer[];
  policy: OutputsPolicy;
  /** External repositories whose sources are to be copied here. */
  externalSources: string[];
  /** Sources that it may write. */
  writes: WrittenSources;
  /** Files that its options make the server write. */
  namedFiles: NamedOutput[];
  /** Directories that must exist at the agent. Absolute paths. */
  folders: string[];
  /** What it uses outside of the workspace. */
  outside: OutsideRoots;
  /** The user's home directory, in latin1. */
  home?: string;
  /** The user's PATH, in latin1. */
  searchPath: string;
  /** What to do with the convenience symlinks. */
  symlinks: ConvenienceSymlinks;
  /** `clean --expunge`. */
  expunge: boolean;
  /** Whether the user prefers this machine to waiting: RBS_FALLBACK=local. */
  fallsBack: boolean;
}

/** Parses the arguments of one workspace's commands. */
export class ArgumentReader {
  readonly #place: Place;
  readonly #files: Files;
  #last?: { args: readonly Buffer[]; kept: number[]; understood: CommandArguments; files: RecordedFiles };

  constructor(place: Place, files: Files) {
    this.#place = place;
    this.#files = files;
  }

  /** Whether the files that the last result depends on are unchanged. */
  look(): boolean {
    return this.#last?.files.same ?? false;
  }

  /**
   * Parses the arguments of a RunRequest.
   *
   * @param looked {@link look} has returned true since the caller wants the command. @default false
   * @throws RbsError with exit code 2 for an invalid RBS_OUTPUTS, RBS_EXTERNAL_SOURCES or RBS_FALLBACK.
   */
  read(args: readonly Buffer[], looked = false): CommandArguments {
    const last = this.#last;
    if (last && sameCommand(args, last.args) && (looked || last.files.same)) {
      return { ...last.understood, sent: last.kept.map((index) => args[index]) };
    }
    this.#last = undefined;
    const files = new RecordedFiles(this.#files);
    const understood = understand([...args], this.#place, files);
    const sent = new Set(understood.sent);
    const kept = [...args.keys()].filter((index) => sent.has(args[index]));
    this.#last = { args, kept, understood, files };
    return understood;
  }
}

function understand(args: Buffer[], { workspace, outputBase }: Place, files: Files): CommandArguments {
  const policy = outputsPolicy(clientVariable(args, "RBS_OUTPUTS"));
  const { command, cwd } = parseRunArguments(args, []);
  const place = { args, cwd: cwd || workspace, workspace, outputBase };
  const { folders, warnings } = otherPaths(place);
  const outside = findOutsideRoots({ ...place, ...recording(files) });
  return {
    command,
    sent: filterClientEnv(args),
    policy,
    externalSources: externalSources(clientVariable(args, "RBS_EXTERNAL_SOURCES")),
    writes: writtenSources({ ...place, ...recording(files) }),
    namedFiles: namedOutputFiles(place),
    folders,
    outside: { ...outside, warnings: [...outside.warnings, ...warnings] },
    home: clientVariable(args, "HOME"),
    searchPath: clientVariable(args, "PATH") ?? "",
    symlinks: convenienceSymlinks(args),
    expunge: withoutExpunge(args.map((arg) => latin1(arg))).expunge,
    fallsBack: fallsBack(clientVariable(args, "RBS_FALLBACK")),
  };
}

/** As an object whose methods can be used without it. */
function recording(files: Files): Files {
  return {
    readFile: (path) => files.readFile(path),
    exists: (path) => files.exists(path),
    realPath: (path) => files.realPath(path),
  };
}

/** Whether two commands are equal, apart from what the client says of itself. */
function sameCommand(a: readonly Buffer[], b: readonly Buffer[]): boolean {
  return a.length === b.length && a.every((arg, index) => {
    const other = b[index];
    return arg.equals(other) || OF_THE_CLIENT.some((prefix) => startsWith(arg, prefix) && startsWith(other, prefix));
  });
}
