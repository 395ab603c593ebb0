/** What a command does with the convenience symlinks: `bazel-bin` and the like. */
import type { Buffer } from "node:buffer";
import { allValues, fileName, parseRunArguments } from "./run_arguments.ts";

/** A command's options for convenience symlinks. */
export interface ConvenienceSymlinks {
  /** The prefix of their names, relative to the workspace or absolute; undefined if the command leaves them alone. */
  prefix?: string;
  /** The command only removes them. */
  clean: boolean;
}

/** Reads `--symlink_prefix` and `--experimental_convenience_symlinks`. */
export function convenienceSymlinks(args: readonly Buffer[]): ConvenienceSymlinks {
  const { options } = parseRunArguments(args, ["symlink_prefix", "experimental_convenience_symlinks"]);
  const mode = allValues(options, "experimental_convenience_symlinks").at(-1)?.toLowerCase() ?? "normal";
  const prefix = fileName(allValues(options, "symlink_prefix").at(-1) || "bazel-");
  // "/" means no links.
  if (prefix === "/" || mode === "ignore" || mode === "log_only") return { clean: false };
  return { prefix, clean: mode === "clean" };
}
