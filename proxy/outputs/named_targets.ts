/** Resolves the files that a command's options name to real paths on this machine, before the command runs. */
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { systemFolderOf } from "../../proto/base/system_folders.ts";
import type { NamedOutput } from "../arguments/named_outputs.ts";
import { AllowedPaths, unwritable } from "./allowed_paths.ts";

/** A file that a command is to write. */
export interface NamedTarget extends NamedOutput {
  /** `stream`: a pipe or device, which is written to and cannot be replaced. */
  kind: "file" | "stream";
  /**
   * Absolute path after the developer's own symlinks. Undefined if it is in the output base, where it comes with the
   * outputs.
   */
  real?: string;
}

/** What {@link namedTargets} finds. */
export interface NamedTargets {
  targets: NamedTarget[];
  /** Sentences about files that cannot be written, but without which the command succeeds. */
  warnings: string[];
}

/** Resolves all named files. Throws an RbsError with exit code 36 if one that the command needs cannot be written. */
export function namedTargets(
  outputs: readonly NamedOutput[],
  place: { outputBase: string; workspace: string },
): NamedTargets {
  const allowed = new AllowedPaths({ ...place, namedFiles: outputs.map(({ path }) => path) });
  const targets: NamedTarget[] = [], warnings: string[] = [];
  for (const output of outputs) {
    try {
      targets.push(target(output, allowed));
    } catch (e) {
      if (!(e instanceof RbsError) || !output.secondary) throw e;
      warnings.push(sentence(e));
    }
  }
  return { targets, warnings };
}

function target(output: NamedOutput, allowed: AllowedPaths): NamedTarget {
  const { path } = output;
  const system = systemFolderOf(path);
  if (system) throw unwritable(path, `${system} is the build server machine's own where the command runs`);
  let info: Deno.FileInfo | undefined;
  try {
    info = Deno.statSync(path);
  } catch (e) {
    if (e instanceof Deno.errors.NotADirectory) throw unwritable(path, "what it is to be in is no folder");
    if (!(e instanceof Deno.errors.NotFound)) throw unwritable(path, sentence(e));
  }
  if (info?.isFifo || info?.isCharDevice) return { ...output, kind: "stream", real: path };
  const { where, path: real } = allowed.resolveNamed(path);
  if (info) {
    try {
      // Opened without a change: the command may not write it after all.
      Deno.openSync(path, { append: true }).close();
    } catch (e) {
      throw unwritable(path, sentence(e));
    }
  }
  return { ...output, kind: "file", real: where === "output base" ? undefined : real };
}
