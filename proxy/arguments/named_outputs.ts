import type { Buffer } from "node:buffer";
import { clientVariable, fileName, type Option, parseRunArguments, resolvePath } from "./run_arguments.ts";

/** Where a relative path starts. */
type Base = "workspace" | "cwd" | "either";

/**
 * The options that name a file for the server to write, and where a relative path starts: seen with 2.1.0, 4.2.3 and
 * 7.7.1, each command run in a folder below the workspace; for those marked with *, read in the source of 4.2.3 and 7.7.1.
 * Some are opened by the server's own working directory, which is the workspace; others know the client's.
 */
const OPTIONS: Record<string, Base> = {
  build_event_binary_file: "workspace",
  build_event_json_file: "workspace",
  build_event_text_file: "workspace",
  explain: "workspace",
  profile: "workspace",
  starlark_cpu_profile: "workspace", // since 4.0
  experimental_repository_resolved_file: "workspace",
  skylark_memory: "workspace", // * of `dump`
  execution_log_binary_file: "cwd",
  execution_log_compact_file: "cwd", // since 7.1
  execution_log_json_file: "cwd",
  experimental_execution_log_compact_file: "cwd", // * its older name
  experimental_execution_log_file: "cwd", // until 6
  experimental_remote_grpc_log: "cwd", // *
  remote_grpc_log: "cwd", // * its newer name
  experimental_workspace_rules_log_file: "either", // 2.1: the workspace; later: the client's working directory
  memory_profile: "cwd",
  output_file: "cwd", // of `query`, `cquery` and `aquery`, since 7
  script_path: "cwd", // of `run`
};

/** Older and newer names of one option: the last of them counts. */
const SAME: Record<string, string> = {
  experimental_execution_log_compact_file: "execution_log_compact_file",
  experimental_remote_grpc_log: "remote_grpc_log",
};

/**
 * The files that a command's options make the server write, from the command line and rc files: absolute paths, each once.
 * Where the server did not write one, it is not there. Terminals and the like, such as /dev/stdout, are left out.
 *
 * @param cwd Where the user called the client.
 * @param workspace Both absolute.
 */
export function namedOutputFiles({ args, cwd, workspace }: {
  args: readonly Buffer[];
  cwd: string;
  workspace: string;
}): string[] {
  const home = clientVariable(args, "HOME");
  const last = new Map<string, Option>();
  for (const option of parseRunArguments(args, Object.keys(OPTIONS)).options) {
    if (Object.hasOwn(OPTIONS, option.name)) last.set(SAME[option.name] ?? option.name, option);
  }
  const files = new Set<string>();
  for (const { name, value } of last.values()) {
    if (value === "" || value === "-") continue;
    const bases = { workspace: [workspace], cwd: [cwd], either: [cwd, workspace] }[OPTIONS[name]];
    for (const base of bases) {
      const path = resolvePath(fileName(value), base, workspace, home && fileName(home));
      if (!/^\/(dev|proc|sys)\//.test(path)) files.add(path);
    }
  }
  return [...files];
}
