/**
 * Which of the developer's sources a command may write: a local Bazel server would change these, so what is written
 * there is copied back. Other changes that a session's programs make to the sources are undone.
 *
 *     mod tidy       MODULE.bazel, and the files that it includes
 *     vendor         the folder of --vendor_dir
 *     any other      VENDOR.bazel in that folder
 *     any            MODULE.bazel.lock, see allowed_paths.ts
 *
 * A directory outside of the workspace stays on the server's machine. `bazel run` executes its program on the laptop
 * anyway.
 */
import type { Buffer } from "node:buffer";
import { dirname, join } from "node:path";
import { allValues, clientVariable, fileName, parseRunArguments, resolvePath } from "./run_arguments.ts";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";

/** Absolute paths. */
export interface WrittenSources {
  files: string[];
  /** Directories with everything below them. */
  folders: string[];
}

/** What is read beside the command line. Absolute paths. */
export interface WrittenSourcesOptions {
  args: readonly Buffer[];
  workspace: string;
  outputBase: string;
  readFile(path: string): string | undefined;
}

/** The sources that a command may write. */
type Writes = (options: WrittenSourcesOptions, parsed: { residue: string[]; vendorFolder?: string }) => WrittenSources;

const NOTHING: WrittenSources = { files: [], folders: [] };

/** By command; for others see the file's head. */
const COMMANDS: Readonly<Record<string, Writes>> = {
  mod: (options, { residue }) => residue.includes("tidy") ? { files: moduleFiles(options), folders: [] } : NOTHING,
  vendor: (_, { vendorFolder }) => ({ files: [], folders: vendorFolder === undefined ? [] : [vendorFolder] }),
};

/** Maximum number of included files. */
const MAX_FILES = 200;

/** The sources that a command may write. Never throws. */
export function writtenSources(options: WrittenSourcesOptions): WrittenSources {
  const { command, residue, options: given } = parseRunArguments(options.args, ["vendor_dir"]);
  const { workspace, outputBase } = options;
  const home = clientVariable(options.args, "HOME");
  const value = allValues(given, "vendor_dir").at(-1);
  const folder = value && resolvePath(fileName(value), workspace, workspace, home && fileName(home));
  const isOwn = folder && folder !== workspace && isAtOrIn(folder, workspace) && !isAtOrIn(folder, outputBase) &&
    !isAtOrIn(outputBase, folder);
  const vendorFolder = isOwn ? folder : undefined;
  const writes = Object.hasOwn(COMMANDS, command) ? COMMANDS[command] : undefined;
  const { files, folders } = writes?.(options, { residue, vendorFolder }) ?? NOTHING;
  return { files: vendorFolder ? [...files, `${vendorFolder}/VENDOR.bazel`] : files, folders };
}

/** MODULE.bazel, and the files of the workspace that it includes. */
function moduleFiles({ workspace, readFile }: WrittenSourcesOptions): string[] {
  const files = new Set(["MODULE.bazel"]);
  for (const file of files) {
    const text = files.size < MAX_FILES ? readFile(join(workspace, file)) ?? "" : "";
    for (const [, label] of text.matchAll(/^[ \t]*include\(\s*["']([^"'\n]+)["']/gm)) {
      const [, folder, name] = /^(?:@{0,2}\/\/([^:]*))?:?([^:]+)$/.exec(label) ?? [];
      const path = name && join(folder ?? dirname(file), name);
      if (path && !path.startsWith("../") && path.endsWith(".MODULE.bazel")) files.add(path);
    }
  }
  return [...files].map((file) => join(workspace, file));
}
