/** What a command does with the convenience symlinks: `bazel-bin` and its like. */
import type { Buffer } from "node:buffer";
import { allValues, fileName, parseRunArguments } from "./run_arguments.ts";

/** See the file's head. */
export interface ConvenienceSymlinks {
  /** What their names begin with, relative to the workspace or absolute; undefined: it leaves them alone. */
  prefix?: string;
  /** It only removes them. */
  clean: boolean;
}

/** Reads `--symlink_prefix` and `--experimental_convenience_symlinks`. */
export function convenienceSymlinks(args: readonly Buffer[]): ConvenienceSymlinks {
  const { options } = parseRunArguments(args, ["symlink_prefix", "experimental_convenience_symlinks"]);
  const mode = allValues(options, "experimental_convenience_symlinks").at(-1)?.toLowerCase() ?? "normal";
  const prefix = fileName(allValues(options, "symlink_prefix").at(-1) || "bazel-");
  // "/" stands for no links at all.
  if (prefix === "/" || mode === "ignore" || mode === "log_only") return { clean: false };
  return { prefix, clean: mode === "clean" };
}
