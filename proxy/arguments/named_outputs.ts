/**
 * Finds files that a command's options make the server write. The server opens some relative to its own working
 * directory, which is the workspace, others relative to the client's.
 */
import type { Buffer } from "node:buffer";
import { type Base, optionsFor, type OutOption, pathOption } from "./path_options.ts";
import { clientVariable, fileName, type Option, parseRunArguments, resolvePath } from "./run_arguments.ts";

/** Names that exist for each process, or on every machine: Bazel's server opens its own. */
const OF_THE_SERVER = /^\/(dev\/(null|zero|full|stdin|stdout|stderr|fd(\/.*)?)|proc\/self\/.*)$/s;

/** A file that a command is to write. */
export interface NamedOutput {
  /** Absolute. */
  path: string;
  /** The command succeeds even if the file cannot be written. */
  secondary: boolean;
}

/**
 * The files that a command's options make the server write, from the command line and rc files: absolute paths, each
 * once. The server may not write all of them. The server's own files, such as /dev/stdout, are left out.
 *
 * @param cwd Where the user called the client.
 * @param workspace, outputBase All absolute.
 */
export function namedOutputFiles({ args, cwd, workspace, outputBase }: {
  args: readonly Buffer[];
  cwd: string;
  workspace: string;
  outputBase: string;
}): NamedOutput[] {
  const home = clientVariable(args, "HOME");
  const bases: Record<Base, string[]> = {
    workspace: [workspace],
    cwd: [cwd],
    either: [cwd, workspace],
    "output base": [outputBase],
  };
  const last = new Map<string, { row: OutOption; option: Option }>();
  for (const option of parseRunArguments(args, optionsFor("out")).options) {
    const row = pathOption(option.name, "out");
    if (row) last.set(row.same ?? option.name, { row, option });
  }
  const files = new Map<string, NamedOutput>();
  for (const { row, option: { value } } of last.values()) {
    if (value === "" || value === "-") continue;
    for (const base of bases[row.base]) {
      const path = resolvePath(fileName(value), base, workspace, home && fileName(home));
      if (OF_THE_SERVER.test(path)) continue;
      files.set(path, { path, secondary: (row.secondary ?? false) && (files.get(path)?.secondary ?? true) });
    }
  }
  return [...files.values()];
}
