/**
 * Files for the server to write. Some options' files are opened by the server's own working directory, which is the
 * workspace; others know the client's.
 */
import type { Buffer } from "node:buffer";
import { type Base, optionsFor, type OutOption, pathOption } from "./path_options.ts";
import { clientVariable, fileName, type Option, parseRunArguments, resolvePath } from "./run_arguments.ts";

/** Names of what each process has of its own, or each machine alike: Bazel's server opens them where it is. */
const OF_THE_SERVER = /^\/(dev\/(null|zero|full|stdin|stdout|stderr|fd(\/.*)?)|proc\/self\/.*)$/s;

/** A file that a command is to write. */
export interface NamedOutput {
  /** Absolute. */
  path: string;
  /** The command's result does not depend on whether it can be written. */
  secondary: boolean;
}

/**
 * The files that a command's options make the server write, from the command line and rc files: absolute paths, each once.
 * Where the server did not write one, it is not there. What the server has itself, such as /dev/stdout, is left out.
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
