/**
 * Options with paths that are neither sent nor copied back: directories that must exist, files that stay, and unknown
 * options.
 */
import type { Buffer } from "node:buffer";
import { systemFolderOf } from "../../proto/base/system_folders.ts";
import { optionsFor, PATH_OPTIONS, pathOption } from "./path_options.ts";
import { clientVariable, fileName, type Option, parseRunArguments, resolvePath } from "./run_arguments.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** The result of {@link otherPaths}. */
export interface OtherPaths {
  /** Directories that must exist at the agent. Absolute paths. */
  folders: string[];
  /** Sentences that the developer should see once. */
  warnings: string[];
}

const OUTPUT_OF_THE_SERVER = /^\/(dev\/(stdout|stderr)|(dev|proc\/self)\/fd\/[12])$/;

/** Finds these paths in a command's options. Never throws. */
export function otherPaths({ args, workspace, outputBase }: {
  args: readonly Buffer[];
  workspace: string;
  outputBase: string;
}): OtherPaths {
  const home = clientVariable(args, "HOME");
  const resolve = (value: string) => resolvePath(fileName(value), workspace, workspace, home && fileName(home));
  const folders = new Set<string>(), warnings = new Set<string>();
  const known = [...optionsFor("folder"), ...optionsFor("stays"), ...optionsFor("out")];
  const { options, others } = parseRunArguments(args, known);
  for (const { name, value, text } of options) {
    if (pathOption(name, "folder")) {
      if (value !== "") folders.add(resolve(value));
      continue;
    }
    if (pathOption(name, "out")) {
      if (OUTPUT_OF_THE_SERVER.test(value)) {
        warnings.add(
          `${
            fileName(text)
          } is the output of the Bazel server itself, which is on another machine: name a file or a pipe.`,
        );
      }
      continue;
    }
    const { warning, outside } = pathOption(name, "stays") ?? {};
    if (outside ? warning && !isAtOrIn(resolve(value), workspace) : warning && /^(unix:|\/)/.test(value)) {
      warnings.add(`${fileName(text)} ${warning}`);
    }
  }
  const isHere = ({ value }: Option) => {
    const path = resolve(value);
    return isAtOrIn(path, workspace) || isAtOrIn(path, outputBase) || systemFolderOf(path) !== undefined;
  };
  for (const other of others) {
    if (Object.hasOwn(PATH_OPTIONS, other.name) || !/^\/(?!\/)/.test(other.value) || isHere(other)) continue;
    warnings.add(
      `${fileName(other.text)} is an option that RBS does not know: if the value is a path, it is one of the build ` +
        "server's machine, and nothing is sent there or brought home.",
    );
  }
  return { folders: [...folders], warnings: [...warnings] };
}
